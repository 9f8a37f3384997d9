//! Upstreams that are absent, broken or hostile (class K).

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::cases::{Case, case, check, check_equal, run_concurrently};
use crate::client::{Client, Response, expand, show};
use crate::harness::{ABOUT_A_SECOND, Proxy};
use crate::peer::{Peer, SWITCHING_PROTOCOLS};

/// The proxy with a location for each peer, and short timeouts.
fn proxy_with_peers(peers: &[(&str, SocketAddr)]) -> Proxy {
    let location = |(id, addr): &(&str, SocketAddr)| format!("location /{id} {{ proxy_pass http://{addr}; }}\n");
    let locations: String = peers.iter().map(location).collect();
    Proxy::start(&format!(
        "proxy_read_timeout 1s; proxy_send_timeout 1s; proxy_connect_timeout 1s;
         server {{ listen LISTEN; location / {{ return 204; }}\n{locations} }}"
    ))
}

/// `GET /id`, and what comes of it.
fn get(proxy: &Proxy, id: &str) -> (Client, Result<Response, String>) {
    let mut client = Client::connect_and_send(proxy.addr, format!("GET /{id} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
    let response = client.read_response();
    (client, response)
}

/// The gateway response, one line in the error log that names the upstream, and a client that can go on.
fn expect_bad(proxy: &Proxy, id: &str, addr: SocketAddr, status: u16) -> Result<(), String> {
    let (mut client, response) = get(proxy, id);
    let response = response?;
    check(response.status == status, || {
        format!("expected {status}, got {:?} {}", response.head, show(&response.body))
    })?;
    client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 204)?;
    let request = format!("\"GET /{id} HTTP/1.1\"");
    proxy.wait_for_error_line(&["[error]", "upstream", &request, &format!("http://{addr}/{id}")])?;
    let told = proxy.error_lines().iter().filter(|line| line.contains(&request)).count();
    check(told == 1, || format!("{told} lines in the error log"))
}

/// What is no answer: 502, and the connection is closed.
#[test]
fn answers_that_are_none() {
    let answers: &[(&'static str, &[u8])] = &[
        ("K09", b"junk junk\r\n\r\n"),
        ("K10", b"junk\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("K12", b"<html>hi</html>"),
        ("K13", b"\x15\x03\x03\x00\x02\x02F"),
        ("K40", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ("K41", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
        ("K42", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
        ("K44", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello"),
        ("K45", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ("K46", b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok"),
        ("K48", b"HTTP/1.1 200 OK\r\nX-A: a\x00b\r\nContent-Length: 2\r\n\r\nok"),
        ("K49", b"HTTP/1.1 200 OK\r\nX-A: a\rSet-Cookie: x=1\r\nContent-Length: 2\r\n\r\nok"),
        ("K50", b"HTTP/1.1 200 OK\r\nbogus line\r\nContent-Length: 2\r\n\r\nok"),
        ("K52", b"HTTP/1.1 000 Zero\r\nContent-Length: 2\r\n\r\nok"),
        ("K53", b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("K54", b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("K56", b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("K58", b"HTTP/1.1 200 OK\r\nX: a{*70000}\r\nContent-Length: 2\r\n\r\nok"),
        // A 101 that nobody asked for.
        ("K30-unasked", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
    ];
    let mut peers: Vec<(&'static str, Peer)> =
        answers.iter().map(|(id, answer)| (*id, Peer::start_responding(expand(answer)))).collect();
    peers.push(("K12-cut", Peer::start_responding_once(b"HTT".to_vec())));
    peers.push((
        "K60",
        Peer::start(|connection| {
            connection.read_request();
            connection.send(b"HTTP/1.1 200 OK\r\n");
            while connection.send(&b"X-A: aaaaaaaa\r\n".repeat(64)) {}
        }),
    ));
    let proxy = proxy_with_peers(&peers.iter().map(|(id, peer)| (*id, peer.addr)).collect::<Vec<_>>());
    let one = |id: &'static str, peer: &Peer| {
        expect_bad(&proxy, id, peer.addr, 502)?;
        peer.expect_all_closed()?;
        check(peer.connections() == 1, || "it was sent more than once".to_owned())
    };
    run_concurrently(peers.iter().map(|(id, peer)| case(id, || one(id, peer))).collect());
}

/// Interim answers without end.
#[test]
fn interim_answers() {
    const INTERIM: &[u8] = b"HTTP/1.1 102 Processing\r\n\r\n";
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let early = Peer::start_responding([b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", OK].concat());
    let continues = Peer::start_responding([b"HTTP/1.1 100 Continue\r\n\r\n", OK].concat());
    let some = Peer::start_responding([&INTERIM.repeat(32), OK].concat());
    let many = Peer::start_responding([&INTERIM.repeat(500), OK].concat());
    let endless = Peer::start(|connection| {
        connection.read_request();
        while connection.send(INTERIM) {}
    });
    let proxy = proxy_with_peers(&[
        ("early", early.addr),
        ("continues", continues.addr),
        ("some", some.addr),
        ("many", many.addr),
        ("endless", endless.addr),
    ]);
    let count = |id: &str, expected: u16| {
        let (mut client, response) = get(&proxy, id);
        let (mut response, mut seen) = (response?, 0);
        while response.status == 102 {
            seen += 1;
            response = client.read_response()?;
        }
        check(seen == 32 && response.status == expected, || {
            format!("{seen} interim answers and then {:?}", response.head)
        })
    };
    let cases = vec![
        case("K24", || {
            let (mut client, response) = get(&proxy, "early");
            check_equal("the client", response?.head.as_bytes(), b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")?;
            client.expect_status(200).map(drop)
        }),
        case("K24 in HTTP/1.0", || {
            let mut client = Client::connect_and_send(proxy.addr, b"GET /early HTTP/1.0\r\n\r\n");
            client.expect_status(200).map(drop)
        }),
        case("K24 for 100", || {
            let (_, response) = get(&proxy, "continues");
            response.and_then(|response| check(response.status == 200, || response.head))
        }),
        case("K25 just not", || count("some", 200)),
        case("K25", || count("many", 502)),
        case("K26", || {
            count("endless", 502)?;
            endless.expect_all_closed()
        }),
    ];
    run_concurrently(cases);
}

/// Bodies that end too early, too late, or in another way than they should.
#[test]
fn bodies_of_answers() {
    let rows: &[(&'static str, &[u8])] = &[
        ("K14", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"),
        ("K17", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nZZ\r\nxx"),
        ("K18", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"),
        ("K20", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n"),
        ("K21", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nT: v\r\n\r\n"),
        ("K22", b"HTTP/1.1 200 OK\r\n\r\nuntil eof"),
        ("K36", b"HTTP/1.1 200 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n"),
        ("K57", b"HTTP/1.1 200 OK\nContent-Length: 2\nX: y\n\nok"),
        ("K62", b"HTTP/1.1 200 OK\r\nX-Accel-Redirect: /secret\r\nContent-Length: 2\r\n\r\nok"),
    ];
    let peers: Vec<(&'static str, Peer)> =
        rows.iter().map(|(id, answer)| (*id, Peer::start_responding_once(answer.to_vec()))).collect();
    let places: Vec<(&str, SocketAddr)> = peers.iter().map(|(id, peer)| (*id, peer.addr)).collect();
    let proxy = proxy_with_peers(&places);
    let abc = |id: &str| {
        let mut client =
            Client::connect_and_send(proxy.addr, format!("GET /{id} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        client.read_to_end()
    };
    // Either 502, if nothing had gone to the client, or an answer without its end.
    let broken_off = |id: &str| {
        let (mut client, response) = get(&proxy, id);
        match response {
            Ok(response) => check(response.status == 502, || format!("a whole response: {:?}", response.head))?,
            Err(why) => {
                check(why.starts_with("the end comes"), || why)?;
                let all = String::from_utf8_lossy(&abc(id)?).into_owned();
                check(all.starts_with("HTTP/1.1 200 ") && !all.ends_with("0\r\n\r\n"), || all)?;
                client.expect_eof()?;
            }
        }
        proxy.wait_for_error_line(&["[error]", "upstream", &format!("\"GET /{id} HTTP/1.1\"")])
    };
    let cases = vec![
        case("K14", || {
            let all = String::from_utf8_lossy(&abc("K14")?).into_owned();
            check(all.starts_with("HTTP/1.1 200 OK\r\n") && all.ends_with("\r\n\r\nabc"), || all)?;
            proxy.wait_for_error_line(&["upstream prematurely closed connection", "\"GET /K14 HTTP/1.1\""])
        }),
        case("K17", || broken_off("K17")),
        case("K18", || broken_off("K18")),
        case("K20", || broken_off("K20")),
        case("K21", || {
            let response = get(&proxy, "K21").1?;
            check_equal("the client", &response.framed, b"5\r\nhello\r\n0\r\n\r\n")
        }),
        case("K22", || {
            let (mut client, response) = get(&proxy, "K22");
            check_equal("the client", &response?.body, b"until eof")?;
            client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 204).map(drop)
        }),
        case("K22 in HTTP/1.0", || {
            let mut client = Client::connect_and_send(proxy.addr, b"GET /K22 HTTP/1.0\r\n\r\n");
            let response = client.expect_status(200)?;
            check(response.closes() && response.header("Transfer-Encoding").is_none(), || response.head)?;
            check_equal("the client", &response.body, b"until eof")
        }),
        case("K21 in HTTP/1.0", || {
            let mut client = Client::connect_and_send(proxy.addr, b"GET /K21 HTTP/1.0\r\n\r\n");
            let response = client.expect_status(200)?;
            check(response.closes() && response.header("Transfer-Encoding").is_none(), || response.head)?;
            check_equal("the client", &response.body, b"hello")
        }),
        case("K36", || {
            let mut client = Client::connect_and_send(proxy.addr, &expand(b"GET /K36 HTTP/1.1\r\nHost: a\r\n{W}\r\n"));
            let response = client.expect_status(200)?;
            check(response.header("Upgrade").is_none(), || response.head)?;
            client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 204).map(drop)
        }),
        case("K57", || {
            let response = get(&proxy, "K57").1?;
            check(!response.head.replace("\r\n", "").contains('\n'), || response.head.clone())?;
            check(response.status == 200 && response.header("X") == Some("y") && response.body == b"ok", || {
                response.head
            })
        }),
        case("K62", || {
            let response = get(&proxy, "K62").1?;
            check(response.status == 204 && !response.head.contains("Accel"), || response.head)
        }),
    ];
    run_concurrently(cases);
}

/// Answers with more behind them, or before all of the request was sent.
#[test]
fn answers_that_do_not_fit() {
    let extra = Peer::start(|connection| {
        while connection.read_request().is_some() {
            let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
            connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{evil}").as_bytes());
        }
    });
    let too_large = Peer::start(|connection| {
        connection.read_head();
        connection.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
        connection.read_to_end();
    });
    let proxy = proxy_with_peers(&[("K16", extra.addr), ("K61", too_large.addr)]);
    let cases = vec![
        case("K16", || {
            for _ in 0..3 {
                let (mut client, response) = get(&proxy, "K16");
                check_equal("the client", &response?.body, b"ok")?;
                client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 204)?;
            }
            extra.expect_all_closed()?;
            check(extra.connections() == 3, || format!("{} connections", extra.connections()))
        }),
        case("K61", || {
            let head = b"POST /K61 HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nhello";
            let mut client = Client::connect(proxy.addr);
            check_equal("the client", &client.request(head, 413)?.body, b"no")?;
            client.expect_eof()?;
            too_large.expect_all_closed()
        }),
    ];
    run_concurrently(cases);
}

/// A 204 has neither a body nor fields that speak of one.
#[test]
fn answers_without_a_body() {
    let counted = Peer::start_responding_once(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello".to_vec());
    let chunked = Peer::start_responding_once(
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec(),
    );
    let proxy = proxy_with_peers(&[("K37", counted.addr), ("K38", chunked.addr)]);
    let bodyless = |id: &str, peer: &Peer| {
        let (mut client, response) = get(&proxy, id);
        let response = response?;
        let speaks = response.header("Content-Length").or(response.header("Transfer-Encoding"));
        check(response.status == 204 && speaks.is_none(), || response.head.clone())?;
        client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 204)?;
        get(&proxy, id).1?;
        check(peer.connections() == 2, || "the connection was used again".to_owned())
    };
    run_concurrently(vec![case("K37", || bodyless("K37", &counted)), case("K38", || bodyless("K38", &chunked))]);
}

/// Answers to an upgrade.
#[test]
fn answers_to_upgrades() {
    let rows: &[(&'static str, &[u8])] = &[
        ("K30", b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        ("K30-token", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n"),
        ("K32", b"HTTP/1.0 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
        (
            "K33",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 5\r\n\
            Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        ),
        ("no-accept", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
        (
            "wrong-accept",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Accept: S3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        ),
    ];
    let echoing = |answer: Vec<u8>| {
        Peer::start(move |connection| {
            if connection.read_head().is_some() && connection.send(&answer) {
                connection.echo();
            }
        })
    };
    let mut peers: Vec<(&'static str, Peer)> =
        rows.iter().map(|(id, answer)| (*id, echoing(answer.to_vec()))).collect();
    peers.push(("K28", echoing([SWITCHING_PROTOCOLS, b"RAW"].concat())));
    peers.push((
        "K29",
        Peer::start(|connection| {
            connection.read_head();
            connection.send(SWITCHING_PROTOCOLS);
            connection.shutdown_write();
            connection.read_to_end();
        }),
    ));
    peers.push(("K34", echoing([SWITCHING_PROTOCOLS, b"\x81\x02hi"].concat())));
    let proxy = proxy_with_peers(&peers.iter().map(|(id, peer)| (*id, peer.addr)).collect::<Vec<_>>());
    let upgrade = |id: &str| {
        let mut client = Client::connect_and_send(
            proxy.addr,
            &expand(format!("GET /{id} HTTP/1.1\r\nHost: a\r\n{{W}}\r\n").as_bytes()),
        );
        let response = client.read_response();
        (client, response)
    };
    let refused = |id: &'static str| {
        let (mut client, response) = upgrade(id);
        let response = response?;
        check(response.status == 502, || response.head)?;
        client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 204)?;
        let (_, peer) = peers.iter().find(|(known, _)| *known == id).unwrap();
        peer.expect_all_closed()?;
        proxy.wait_for_error_line(&["[error]", "upstream", &format!("\"GET /{id} HTTP/1.1\"")])
    };
    let speaks_first = |id: &str, first: &[u8]| {
        let (mut client, response) = upgrade(id);
        let response = response?;
        check(response.status == 101 && response.header("Content-Length").is_none(), || response.head)?;
        check_equal("the client", &client.read_bytes(first.len())?, first)?;
        client.send(b"ping");
        check_equal("the client", &client.read_bytes(4)?, b"ping")
    };
    let mut cases: Vec<Case<'_>> = Vec::new();
    for id in ["K30", "K30-token", "K32", "no-accept", "wrong-accept"] {
        cases.push(case(id, move || refused(id)));
    }
    cases.push(case("K28", || speaks_first("K28", b"RAW")));
    cases.push(case("K33", || speaks_first("K33", b"")));
    cases.push(case("K34", || speaks_first("K34", b"\x81\x02hi")));
    cases.push(case("K29", || {
        let (mut client, response) = upgrade("K29");
        let (response, began) = (response?, Instant::now());
        check(response.status == 101, || response.head)?;
        client.expect_eof()?;
        check(began.elapsed() < Duration::from_secs(10), || "the end comes late".to_owned())?;
        drop(client);
        proxy.wait_for_access_line(&["\"GET /K29 HTTP/1.1\" 101 "])
    }));
    run_concurrently(cases);
}

/// Peers that can't be reached, or do not answer.
#[test]
fn silence() {
    let one_byte_short = |connection: &mut crate::peer::Connection| {
        connection.read_request();
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Len");
        connection.read_to_end();
    };
    let (silent, slow) = (Peer::start(|connection| connection.read_to_end()), Peer::start(one_byte_short));
    let (ending, resetting) =
        (Peer::start_responding_once(Vec::new()), Peer::start(|connection| connection.reset_on_first_byte()));
    let live = Peer::start_echo();
    // A full backlog: the kernel does not answer more connections.
    let full = TcpListener::bind("127.0.0.1:0").unwrap();
    let full_addr = full.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&full_addr, Duration::from_millis(100)) {
        waiting.push(stream);
        assert!(waiting.len() < 6000, "the backlog has no end");
    }
    let config = "proxy_read_timeout 1s; proxy_connect_timeout 1s;
        upstream two { server 127.0.0.1:1; server LIVE; } upstream twice { server ENDING; server ENDING2; }
        server { listen LISTEN;
            location / { return 204; }
            location /K01 { proxy_pass http://127.0.0.1:1; }
            location /K01-next { proxy_pass http://two; }
            location /K02 { proxy_pass http://FULL; }
            location /K04 { proxy_pass http://twice; }
            location /K05 { proxy_pass http://RESET; }
            location /K06 { proxy_pass http://SILENT; }
            location /K08 { proxy_pass http://SLOW; } }";
    let again = Peer::start_responding_once(Vec::new());
    let addrs = [
        ("ENDING2", again.addr),
        ("ENDING", ending.addr),
        ("LIVE", live.addr),
        ("FULL", full_addr),
        ("RESET", resetting.addr),
        ("SILENT", silent.addr),
        ("SLOW", slow.addr),
    ];
    let config = addrs.iter().fold(config.to_owned(), |text, (name, addr)| text.replace(name, &addr.to_string()));
    let proxy = Proxy::start(&config);
    let refused = "127.0.0.1:1".parse().unwrap();
    let timed = |id: &'static str, addr: SocketAddr| {
        let began = Instant::now();
        expect_bad(&proxy, id, addr, 504)?;
        let took = began.elapsed();
        check(ABOUT_A_SECOND.contains(&took.as_millis()), || format!("it took {took:?}"))
    };
    let cases = vec![
        case("K01", || {
            let began = Instant::now();
            expect_bad(&proxy, "K01", refused, 502)?;
            check(began.elapsed() < Duration::from_secs(10), || "it took long".to_owned())
        }),
        case("K01 next", || {
            (0..4).try_for_each(|_| {
                get(&proxy, "K01-next").1.and_then(|response| check(response.status == 200, || response.head))
            })
        }),
        case("K02", || timed("K02", full_addr)),
        case("K04", || {
            let mut client = Client::connect(proxy.addr);
            client.request(b"POST /K04 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 502)?;
            let tried = ending.connections() + again.connections();
            check(tried == 1, || format!("it was sent {tried} times"))
        }),
        case("K05", || expect_bad(&proxy, "K05", resetting.addr, 502)),
        case("K06", || {
            timed("K06", silent.addr)?;
            silent.expect_all_closed()
        }),
        case("K08", || {
            timed("K08", slow.addr)?;
            slow.expect_all_closed()
        }),
    ];
    run_concurrently(cases);
}

/// Connections that lay idle.
#[test]
fn idle_connections() {
    // Closes when the second request comes on a connection, without a word.
    let closing = || {
        Peer::start(|connection| {
            if let Some(request) = connection.read_request() {
                connection.respond(&request, "first");
                connection.read_request();
            }
        })
    };
    let (get_closing, post_closing) = (closing(), closing());
    let (tell, told) = mpsc::channel::<()>();
    let (done, is_done) = mpsc::channel::<()>();
    let (told, done) = (Mutex::new(told), Mutex::new(done));
    let talking = Peer::start(move |connection| {
        while let Some(request) = connection.read_request() {
            connection.respond(&request, &format!("{}", connection.number));
            if connection.number == 0 {
                told.lock().unwrap().recv().unwrap();
                connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
                done.lock().unwrap().send(()).unwrap();
            }
        }
    });
    let proxy = proxy_with_peers(&[("get", get_closing.addr), ("post", post_closing.addr), ("talking", talking.addr)]);
    let mut client = Client::connect(proxy.addr);
    for request in [b"GET /get HTTP/1.1\r\nHost: a\r\n\r\n", b"HEAD /get HTTP/1.1\r\nHost: a\r\n\r\n".as_slice()] {
        client.send(request);
        let method = if request.starts_with(b"HEAD") { "HEAD" } else { "GET" };
        assert_eq!(client.read_response_to(method).unwrap().status, 200, "K64: repeated on a new connection");
    }
    assert_eq!(get_closing.connections(), 2, "K64");
    client.request(b"GET /post HTTP/1.1\r\nHost: a\r\n\r\n", 200).unwrap();
    client.request(b"POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 502).unwrap();
    assert_eq!(post_closing.connections(), 1, "K64: a POST is not repeated");

    assert_eq!(get(&proxy, "talking").1.unwrap().body, b"0");
    tell.send(()).unwrap();
    is_done.recv().unwrap();
    for _ in 0..2 {
        assert_eq!(get(&proxy, "talking").1.unwrap().body, b"1", "K65: bytes that nobody asked for became an answer");
    }
}

/// The proxy that is its own upstream.
#[test]
fn a_loop() {
    let proxy = Proxy::start(
        "events { worker_connections 64; } proxy_read_timeout 2s;
         server { listen LISTEN; location / { proxy_pass http://LISTEN; } location /out { return 204; } }",
    );
    let (_, response) = get(&proxy, "K69");
    let status = response.unwrap().status;
    assert!(matches!(status, 502 | 503 | 508), "K69: {status}");
    assert!(proxy.open_descriptors() < 2 * 64 + 20, "K69: {} descriptors", proxy.open_descriptors());
    Client::connect(proxy.addr).request(b"GET /out HTTP/1.1\r\nHost: a\r\n\r\n", 204).unwrap();
}
