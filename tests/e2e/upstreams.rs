//! Upstreams that are absent, broken or hostile.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::cases::{Case, case, check, check_equal, run_concurrently};
use crate::client::{Client, Response, expand, show};
use crate::harness::{ABOUT_A_SECOND, Proxy};
use crate::peer::{Peer, SWITCHING_PROTOCOLS};

/// Starts a proxy with a location for each peer, and short timeouts.
fn start_with_locations(peers: &[(&str, SocketAddr)]) -> Proxy {
    let location = |(id, addr): &(&str, SocketAddr)| format!("location /{id} {{ proxy_pass http://{addr}; }}\n");
    let locations: String = peers.iter().map(location).collect();
    Proxy::start(&format!(
        "proxy_read_timeout 1s; proxy_send_timeout 1s; proxy_connect_timeout 1s;
         server {{ listen LISTEN; location / {{ return 204; }}\n{locations} }}"
    ))
}

/// Sends `GET /id`.
fn get(proxy: &Proxy, id: &str) -> (Client, Result<Response, String>) {
    let mut client = Client::connect_and_send(proxy.addr, format!("GET /{id} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
    let response = client.read_response();
    (client, response)
}

/// Checks the error response, a single line in the error log with the upstream, and that the client connection stays open.
fn expect_error(proxy: &Proxy, id: &str, addr: SocketAddr, status: u16) -> Result<(), String> {
    let (mut client, response) = get(proxy, id);
    let response = response?;
    check(response.status == status, || {
        format!("expected {status}, got {:?} {}", response.head, show(&response.body))
    })?;
    client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 204)?;
    let request = format!("\"GET /{id} HTTP/1.1\"");
    proxy.wait_for_error_line(&["[error]", "upstream", &request, &format!("http://{addr}/{id}")])?;
    let logged = proxy.error_lines().iter().filter(|line| line.contains(&request)).count();
    check(logged == 1, || format!("{logged} lines in the error log"))
}

/// Invalid responses: 502, and the connection is closed.
#[test]
fn invalid_responses() {
    let answers: &[(&'static str, &[u8])] = &[
        ("junk", b"junk junk\r\n\r\n"),
        ("junk-before", b"junk\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("html", b"<html>hi</html>"),
        ("tls-alert", b"\x15\x03\x03\x00\x02\x02F"),
        (
            "length-and-chunked",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        ("two-lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
        ("same-length-twice", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
        ("gzip-coding", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello"),
        ("chunked-1.0", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ("folded", b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok"),
        ("nul", b"HTTP/1.1 200 OK\r\nX-A: a\x00b\r\nContent-Length: 2\r\n\r\nok"),
        ("cr", b"HTTP/1.1 200 OK\r\nX-A: a\rSet-Cookie: x=1\r\nContent-Length: 2\r\n\r\nok"),
        ("no-colon", b"HTTP/1.1 200 OK\r\nbogus line\r\nContent-Length: 2\r\n\r\nok"),
        ("status-000", b"HTTP/1.1 000 Zero\r\nContent-Length: 2\r\n\r\nok"),
        ("status-20", b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("status-2000", b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("http-2.0", b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("large-head", b"HTTP/1.1 200 OK\r\nX: a{*70000}\r\nContent-Length: 2\r\n\r\nok"),
        // A 101 without an upgrade.
        ("unasked-101", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
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
    let proxy = start_with_locations(&peers.iter().map(|(id, peer)| (*id, peer.addr)).collect::<Vec<_>>());
    let one = |id: &'static str, peer: &Peer| {
        expect_error(&proxy, id, peer.addr, 502)?;
        peer.expect_all_closed()?;
        check(peer.connections() == 1, || "it was sent more than once".to_owned())
    };
    run_concurrently(peers.iter().map(|(id, peer)| case(id, || one(id, peer))).collect());
}

#[test]
fn interim_responses() {
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
    let proxy = start_with_locations(&[
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
        case("103", || {
            let (mut client, response) = get(&proxy, "early");
            check_equal("the client", response?.head.as_bytes(), b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")?;
            client.expect_status(200).map(drop)
        }),
        case("103 for HTTP/1.0", || {
            let mut client = Client::connect_and_send(proxy.addr, b"GET /early HTTP/1.0\r\n\r\n");
            client.expect_status(200).map(drop)
        }),
        case("100", || {
            let (_, response) = get(&proxy, "continues");
            response.and_then(|response| check(response.status == 200, || response.head))
        }),
        case("as many as allowed", || count("some", 200)),
        case("too many", || count("many", 502)),
        case("endless", || {
            count("endless", 502)?;
            endless.expect_all_closed()
        }),
    ];
    run_concurrently(cases);
}

/// Bodies that end too early, or have invalid or unusual framing.
#[test]
fn response_bodies() {
    let rows: &[(&'static str, &[u8])] = &[
        ("short", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"),
        ("bad-chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nZZ\r\nxx"),
        ("short-chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"),
        ("lf-chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n"),
        (
            "chunk-extension",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nT: v\r\n\r\n",
        ),
        ("until-eof", b"HTTP/1.1 200 OK\r\n\r\nuntil eof"),
        ("upgrade-200", b"HTTP/1.1 200 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n"),
        ("lf", b"HTTP/1.1 200 OK\nContent-Length: 2\nX: y\n\nok"),
        ("accel-redirect", b"HTTP/1.1 200 OK\r\nX-Accel-Redirect: /secret\r\nContent-Length: 2\r\n\r\nok"),
    ];
    let peers: Vec<(&'static str, Peer)> =
        rows.iter().map(|(id, answer)| (*id, Peer::start_responding_once(answer.to_vec()))).collect();
    let places: Vec<(&str, SocketAddr)> = peers.iter().map(|(id, peer)| (*id, peer.addr)).collect();
    let proxy = start_with_locations(&places);
    let abc = |id: &str| {
        let mut client =
            Client::connect_and_send(proxy.addr, format!("GET /{id} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        client.read_to_end()
    };
    // Either 502, if nothing was sent to the client, or a truncated response.
    let is_aborted = |id: &str| {
        let (mut client, response) = get(&proxy, id);
        match response {
            Ok(response) => check(response.status == 502, || format!("a whole response: {:?}", response.head))?,
            Err(why) => {
                check(why.starts_with("EOF after"), || why)?;
                let all = String::from_utf8_lossy(&abc(id)?).into_owned();
                check(all.starts_with("HTTP/1.1 200 ") && !all.ends_with("0\r\n\r\n"), || all)?;
                client.expect_eof()?;
            }
        }
        proxy.wait_for_error_line(&["[error]", "upstream", &format!("\"GET /{id} HTTP/1.1\"")])
    };
    let cases = vec![
        case("short", || {
            let all = String::from_utf8_lossy(&abc("short")?).into_owned();
            check(all.starts_with("HTTP/1.1 200 OK\r\n") && all.ends_with("\r\n\r\nabc"), || all)?;
            proxy.wait_for_error_line(&["upstream prematurely closed connection", "\"GET /short HTTP/1.1\""])
        }),
        case("bad-chunk", || is_aborted("bad-chunk")),
        case("short-chunk", || is_aborted("short-chunk")),
        case("lf-chunk", || is_aborted("lf-chunk")),
        case("chunk-extension", || {
            let response = get(&proxy, "chunk-extension").1?;
            check_equal("the client", &response.framed, b"5\r\nhello\r\n0\r\n\r\n")
        }),
        case("until-eof", || {
            let (mut client, response) = get(&proxy, "until-eof");
            check_equal("the client", &response?.body, b"until eof")?;
            client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 204).map(drop)
        }),
        case("until-eof in HTTP/1.0", || {
            let mut client = Client::connect_and_send(proxy.addr, b"GET /until-eof HTTP/1.0\r\n\r\n");
            let response = client.expect_status(200)?;
            check(response.closes() && response.header("Transfer-Encoding").is_none(), || response.head)?;
            check_equal("the client", &response.body, b"until eof")
        }),
        case("chunk-extension in HTTP/1.0", || {
            let mut client = Client::connect_and_send(proxy.addr, b"GET /chunk-extension HTTP/1.0\r\n\r\n");
            let response = client.expect_status(200)?;
            check(response.closes() && response.header("Transfer-Encoding").is_none(), || response.head)?;
            check_equal("the client", &response.body, b"hello")
        }),
        case("upgrade-200", || {
            let mut client =
                Client::connect_and_send(proxy.addr, &expand(b"GET /upgrade-200 HTTP/1.1\r\nHost: a\r\n{W}\r\n"));
            let response = client.expect_status(200)?;
            check(response.header("Upgrade").is_none(), || response.head)?;
            client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 204).map(drop)
        }),
        case("lf", || {
            let response = get(&proxy, "lf").1?;
            check(!response.head.replace("\r\n", "").contains('\n'), || response.head.clone())?;
            check(response.status == 200 && response.header("X") == Some("y") && response.body == b"ok", || {
                response.head
            })
        }),
        case("accel-redirect", || {
            let response = get(&proxy, "accel-redirect").1?;
            check(response.status == 204 && !response.head.contains("Accel"), || response.head)
        }),
    ];
    run_concurrently(cases);
}

/// Responses with bytes behind them, or before the whole request was sent.
#[test]
fn extra_and_early_responses() {
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
    let proxy = start_with_locations(&[("extra", extra.addr), ("early", too_large.addr)]);
    let cases = vec![
        case("extra", || {
            for _ in 0..3 {
                let (mut client, response) = get(&proxy, "extra");
                check_equal("the client", &response?.body, b"ok")?;
                client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 204)?;
            }
            extra.expect_all_closed()?;
            check(extra.connections() == 3, || format!("{} connections", extra.connections()))
        }),
        case("early", || {
            let head = b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nhello";
            let mut client = Client::connect(proxy.addr);
            check_equal("the client", &client.request(head, 413)?.body, b"no")?;
            client.expect_eof()?;
            too_large.expect_all_closed()
        }),
    ];
    run_concurrently(cases);
}

/// A 204 is forwarded without a body and its headers.
#[test]
fn responses_without_a_body() {
    let counted = Peer::start_responding_once(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello".to_vec());
    let chunked = Peer::start_responding_once(
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec(),
    );
    let proxy = start_with_locations(&[("length-204", counted.addr), ("chunked-204", chunked.addr)]);
    let has_no_body = |id: &str, peer: &Peer| {
        let (mut client, response) = get(&proxy, id);
        let response = response?;
        let framing = response.header("Content-Length").or(response.header("Transfer-Encoding"));
        check(response.status == 204 && framing.is_none(), || response.head.clone())?;
        client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 204)?;
        get(&proxy, id).1?;
        check(peer.connections() == 2, || "the connection was used again".to_owned())
    };
    run_concurrently(vec![
        case("length-204", || has_no_body("length-204", &counted)),
        case("chunked-204", || has_no_body("chunked-204", &chunked)),
    ]);
}

#[test]
fn responses_to_upgrades() {
    let rows: &[(&'static str, &[u8])] = &[
        ("bare-101", b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        ("other-token", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n"),
        ("101-1.0", b"HTTP/1.0 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
        (
            "plain-101",
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
    peers.push(("raw", echoing([SWITCHING_PROTOCOLS, b"RAW"].concat())));
    peers.push((
        "silent-101",
        Peer::start(|connection| {
            connection.read_head();
            connection.send(SWITCHING_PROTOCOLS);
            connection.shutdown_write();
            connection.read_to_end();
        }),
    ));
    peers.push(("frame", echoing([SWITCHING_PROTOCOLS, b"\x81\x02hi"].concat())));
    let proxy = start_with_locations(&peers.iter().map(|(id, peer)| (*id, peer.addr)).collect::<Vec<_>>());
    let upgrade = |id: &str| {
        let mut client = Client::connect_and_send(
            proxy.addr,
            &expand(format!("GET /{id} HTTP/1.1\r\nHost: a\r\n{{W}}\r\n").as_bytes()),
        );
        let response = client.read_response();
        (client, response)
    };
    let is_rejected = |id: &'static str| {
        let (mut client, response) = upgrade(id);
        let response = response?;
        check(response.status == 502, || response.head)?;
        client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 204)?;
        let (_, peer) = peers.iter().find(|(known, _)| *known == id).unwrap();
        peer.expect_all_closed()?;
        proxy.wait_for_error_line(&["[error]", "upstream", &format!("\"GET /{id} HTTP/1.1\"")])
    };
    let sends_first = |id: &str, first: &[u8]| {
        let (mut client, response) = upgrade(id);
        let response = response?;
        check(response.status == 101 && response.header("Content-Length").is_none(), || response.head)?;
        check_equal("the client", &client.read_bytes(first.len())?, first)?;
        client.send(b"ping");
        check_equal("the client", &client.read_bytes(4)?, b"ping")
    };
    let mut cases: Vec<Case<'_>> = Vec::new();
    for id in ["bare-101", "other-token", "101-1.0", "no-accept", "wrong-accept"] {
        cases.push(case(id, move || is_rejected(id)));
    }
    cases.push(case("raw", || sends_first("raw", b"RAW")));
    cases.push(case("plain-101", || sends_first("plain-101", b"")));
    cases.push(case("frame", || sends_first("frame", b"\x81\x02hi")));
    cases.push(case("silent-101", || {
        let (mut client, response) = upgrade("silent-101");
        let (response, began) = (response?, Instant::now());
        check(response.status == 101, || response.head)?;
        client.expect_eof()?;
        check(began.elapsed() < Duration::from_secs(10), || "the end comes late".to_owned())?;
        drop(client);
        proxy.wait_for_access_line(&["\"GET /silent-101 HTTP/1.1\" 101 "])
    }));
    run_concurrently(cases);
}

/// Peers that cannot be reached, or do not respond.
#[test]
fn unreachable_and_silent_peers() {
    let one_byte_short = |connection: &mut crate::peer::Connection| {
        connection.read_request();
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Len");
        connection.read_to_end();
    };
    let (silent, slow) = (Peer::start(|connection| connection.read_to_end()), Peer::start(one_byte_short));
    let (ending, resetting) =
        (Peer::start_responding_once(Vec::new()), Peer::start(|connection| connection.reset_on_first_byte()));
    let live = Peer::start_echo();
    // With a full backlog, the kernel ignores connections.
    let full = TcpListener::bind("127.0.0.1:0").unwrap();
    let full_addr = full.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&full_addr, Duration::from_millis(100)) {
        waiting.push(stream);
        assert!(waiting.len() < 6000, "the backlog is never full");
    }
    let config = "proxy_read_timeout 1s; proxy_connect_timeout 1s;
        upstream two { server 127.0.0.1:1; server LIVE; } upstream twice { server ENDING; server ENDING2; }
        server { listen LISTEN;
            location / { return 204; }
            location /refused { proxy_pass http://127.0.0.1:1; }
            location /refused-next { proxy_pass http://two; }
            location /full { proxy_pass http://FULL; }
            location /twice { proxy_pass http://twice; }
            location /reset { proxy_pass http://RESET; }
            location /silent { proxy_pass http://SILENT; }
            location /slow { proxy_pass http://SLOW; } }";
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
        expect_error(&proxy, id, addr, 504)?;
        let took = began.elapsed();
        check(ABOUT_A_SECOND.contains(&took.as_millis()), || format!("it took {took:?}"))
    };
    let cases = vec![
        case("refused", || {
            let began = Instant::now();
            expect_error(&proxy, "refused", refused, 502)?;
            check(began.elapsed() < Duration::from_secs(10), || "it took long".to_owned())
        }),
        case("refused next", || {
            (0..4).try_for_each(|_| {
                get(&proxy, "refused-next").1.and_then(|response| check(response.status == 200, || response.head))
            })
        }),
        case("full", || timed("full", full_addr)),
        case("twice", || {
            let mut client = Client::connect(proxy.addr);
            client.request(b"POST /twice HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 502)?;
            let tried = ending.connections() + again.connections();
            check(tried == 1, || format!("it was sent {tried} times"))
        }),
        case("reset", || expect_error(&proxy, "reset", resetting.addr, 502)),
        case("silent", || {
            timed("silent", silent.addr)?;
            silent.expect_all_closed()
        }),
        case("slow", || {
            timed("slow", slow.addr)?;
            slow.expect_all_closed()
        }),
    ];
    run_concurrently(cases);
}

/// Connections that were idle.
#[test]
fn idle_connections() {
    // Closes on the second request of a connection.
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
    let proxy =
        start_with_locations(&[("get", get_closing.addr), ("post", post_closing.addr), ("talking", talking.addr)]);
    let mut client = Client::connect(proxy.addr);
    for request in [b"GET /get HTTP/1.1\r\nHost: a\r\n\r\n", b"HEAD /get HTTP/1.1\r\nHost: a\r\n\r\n".as_slice()] {
        client.send(request);
        let method = if request.starts_with(b"HEAD") { "HEAD" } else { "GET" };
        assert_eq!(client.read_response_to(method).unwrap().status, 200, "repeated on a new connection");
    }
    assert_eq!(get_closing.connections(), 2, "K64");
    client.request(b"GET /post HTTP/1.1\r\nHost: a\r\n\r\n", 200).unwrap();
    client.request(b"POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 502).unwrap();
    assert_eq!(post_closing.connections(), 1, "a POST is not repeated");

    assert_eq!(get(&proxy, "talking").1.unwrap().body, b"0");
    tell.send(()).unwrap();
    is_done.recv().unwrap();
    for _ in 0..2 {
        assert_eq!(get(&proxy, "talking").1.unwrap().body, b"1", "unexpected bytes became a response");
    }
}

/// A proxy that is its own upstream.
#[test]
fn a_loop() {
    let proxy = Proxy::start(
        "events { worker_connections 64; } proxy_read_timeout 2s;
         server { listen LISTEN; location / { proxy_pass http://LISTEN; } location /out { return 204; } }",
    );
    let (_, response) = get(&proxy, "loop");
    let status = response.unwrap().status;
    assert!(matches!(status, 502 | 503 | 508), "loop: {status}");
    assert!(proxy.open_descriptors() < 2 * 64 + 20, "loop: {} descriptors", proxy.open_descriptors());
    Client::connect(proxy.addr).request(b"GET /out HTTP/1.1\r\nHost: a\r\n\r\n", 204).unwrap();
}
