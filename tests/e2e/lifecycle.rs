//! Exhaustion, deadlines, ends and half-ends of connections (classes O and P).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use crate::cases::{case, check, check_equal, run_concurrently};
use crate::client::{Client, expand};
use crate::harness::{ABOUT_A_SECOND, Proxy, TIMEOUT, poll_within, wait_for};
use crate::peer::{Peer, SWITCHING_PROTOCOLS};

/// How long a client was left alone until the proxy closed, in milliseconds; nothing may come before.
fn closed_after(proxy: &Proxy, first: &[u8], drip: &[u8]) -> Result<u128, String> {
    let mut client = Client::connect_and_send(proxy.addr, first);
    let began = Instant::now();
    client.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    while began.elapsed() < TIMEOUT {
        match client.stream.read(&mut [0; 64]) {
            Ok(0) => return Ok(began.elapsed().as_millis()),
            Ok(_) => return Err("bytes came".to_owned()),
            Err(error) if crate::peer::is_timeout(&error) => client.send(drip),
            Err(_) => return Ok(began.elapsed().as_millis()), // the drip met a closed socket
        }
    }
    Err("it stays open".to_owned())
}

#[test]
fn deadlines() {
    let peer = Peer::start_echo();
    let config = "client_header_timeout 1s; keepalive_timeout 1s;
        server { listen LISTEN; location / { proxy_pass http://PEER; } }";
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    let about_a_second = |first: &[u8], drip: &[u8]| {
        let took = closed_after(&proxy, first, drip)?;
        check(ABOUT_A_SECOND.contains(&took), || format!("it took {took} ms"))
    };
    let cases = vec![
        case("A06", || about_a_second(b"\r\n\r\n", b"")),
        case("O01", || about_a_second(b"", b"")),
        case("O02", || about_a_second(b"GET / HTTP/1.1\r\nHost: a\r\n", b"X: a\r\n")),
        case("in the first line", || about_a_second(b"GET /", b"a")),
        case("between requests", || {
            let mut client = Client::connect(proxy.addr);
            client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200)?;
            let began = Instant::now();
            client.expect_eof()?;
            let took = began.elapsed().as_millis();
            check(ABOUT_A_SECOND.contains(&took), || format!("it took {took} ms"))
        }),
    ];
    run_concurrently(cases);
    let got = String::from_utf8_lossy(&peer.received()).into_owned();
    assert_eq!(got.matches("\r\n\r\n").count(), 1, "what was never whole went to the upstream: {got}");
}

/// More clients than descriptors.
#[test]
fn descriptors_run_out() {
    let peer = Peer::start_echo();
    let config = "server { listen LISTEN; location / { return 204; } location /up { proxy_pass http://PEER; } }";
    let config = config.replace("PEER", &peer.addr.to_string());
    let proxy = Proxy::start_in_shell(&config, "ulimit -n 40; exec \"$0\" \"$@\"");
    let mut clients: Vec<Client> = (0..100).map(|_| Client::connect(proxy.addr)).collect();
    wait_for("it is noted", || proxy.error_lines().iter().any(|line| line.contains("Too many open files")));
    let (ticks, began) = (proxy.cpu_ticks(), Instant::now());
    // Those that were accepted are served all the while.
    let first = &mut clients[0];
    while began.elapsed() < Duration::from_millis(700) {
        first.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 204).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    let ticks = proxy.cpu_ticks() - ticks;
    // On a busy machine one answer may take longer than all of them should.
    let most = u64::try_from(began.elapsed().as_millis()).unwrap() / 10 / 4;
    assert!(ticks < most.max(15), "{ticks} ticks of processor time, and {most} are a quarter of it");
    // No descriptor is left for an upstream.
    let response = first.request(b"GET /up HTTP/1.1\r\nHost: a\r\n\r\n", 502);
    let response = response.unwrap_or_else(|why| panic!("{why}"));
    assert!(!response.closes(), "{}", response.head);
    proxy.wait_for_error_line(&["[error]", "GET /up"]).unwrap();
    first.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 204).unwrap();
    let noted = proxy.error_lines().iter().filter(|line| line.contains("accept4()")).count();
    assert!(noted <= 5, "{noted} lines");
    // Room again, as soon as it is seen that they are gone.
    drop(clients);
    let is_served = || Client::connect(proxy.addr).request(b"GET /up HTTP/1.1\r\nHost: a\r\n\r\n", 200).is_ok();
    wait_for("who comes then is served", is_served);
}

fn opened(proxy: &Proxy, target: &str) -> Client {
    let mut client = Client::connect(proxy.addr);
    client.request(&expand(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{{W}}\r\n").as_bytes()), 101).unwrap();
    client
}

#[test]
fn ends_of_tunnels() {
    const MEGABYTES: usize = 8 << 20;
    let last_words = Peer::start(|connection| {
        connection.read_head();
        connection.send(SWITCHING_PROTOCOLS);
        connection.read_to_end();
        connection.send(b"answer after the end");
    });
    let ends_first = Peer::start(|connection| {
        connection.read_head();
        connection.send(SWITCHING_PROTOCOLS);
        connection.send(b"bye");
        connection.shutdown_write();
        connection.read_bytes(5);
    });
    let (let_read, may_read) = mpsc::channel::<()>();
    let may_read = Mutex::new(may_read);
    let both_write = Peer::start(move |connection| {
        connection.read_head();
        connection.send(SWITCHING_PROTOCOLS);
        connection.send(&vec![b'd'; MEGABYTES]);
        may_read.lock().unwrap().recv().unwrap();
        let got = connection.read_bytes(MEGABYTES).unwrap_or_default();
        connection.send(format!("{}", got.len()).as_bytes());
        connection.shutdown_write();
        connection.read_to_end();
    });
    let config = "server { listen LISTEN;
        location /P01 { proxy_pass http://WORDS; }
        location /P02 { proxy_pass http://FIRST; }
        location /P13 { proxy_pass http://BOTH; } }";
    let peers = [("WORDS", &last_words), ("FIRST", &ends_first), ("BOTH", &both_write)];
    let proxy = Proxy::start_with_peers(config, &peers);
    let cases = vec![
        case("P01", || {
            let mut client = opened(&proxy, "/P01");
            client.send(b"ping");
            client.shutdown_write();
            check_equal("the client", &client.read_to_end()?, b"answer after the end")?;
            check(last_words.received().ends_with(b"\r\n\r\nping"), || "the last bytes did not arrive".to_owned())?;
            proxy.wait_for_access_line(&["\"GET /P01 HTTP/1.1\" 101 "])
        }),
        case("P02", || {
            let mut client = opened(&proxy, "/P02");
            check_equal("the client", &client.read_to_end()?, b"bye")?;
            client.send(b"still");
            let arrived = poll_within(TIMEOUT, || ends_first.received().ends_with(b"still").then_some(()));
            check(arrived.is_some(), || "what the client still sent did not arrive".to_owned())?;
            client.shutdown_write();
            proxy.wait_for_access_line(&["\"GET /P02 HTTP/1.1\" 101 "])
        }),
        case("P13", || {
            let mut client = opened(&proxy, "/P13");
            let mut writer = client.stream.try_clone().unwrap();
            let writing = std::thread::spawn(move || writer.write_all(&vec![b'u'; MEGABYTES]).is_ok());
            // Our bytes are not read yet; theirs come nevertheless.
            let got = client.read_bytes(MEGABYTES)?;
            check(got.iter().all(|b| *b == b'd'), || "other bytes came".to_owned())?;
            let_read.send(()).unwrap();
            check(writing.join().unwrap(), || "our bytes were not taken".to_owned())?;
            check_equal("the client", &client.read_to_end()?, MEGABYTES.to_string().as_bytes())
        }),
    ];
    run_concurrently(cases);
}

#[test]
fn tunnels_that_break_or_stand_still() {
    let resets = Peer::start(|connection| {
        connection.read_head();
        connection.send(SWITCHING_PROTOCOLS);
        connection.reset_on_first_byte();
    });
    let never_reads = Peer::start(|connection| {
        connection.read_head();
        connection.send(SWITCHING_PROTOCOLS);
        std::thread::sleep(TIMEOUT);
    });
    let config = "server { listen LISTEN;
        location /reset { proxy_pass http://RESETS; }
        location /O05 { proxy_pass http://NEVER; } }";
    let proxy = Proxy::start_with_peers(config, &[("RESETS", &resets), ("NEVER", &never_reads)]);
    let cases = vec![
        case("as a reset", || {
            let mut client = opened(&proxy, "/reset");
            client.send(b"x");
            match client.read_to_end() {
                Err(why) if why.contains("reset") => Ok(()),
                other => Err(format!("no reset, but {other:?}")),
            }
        }),
        case("O05", || {
            let client = opened(&proxy, "/O05");
            client.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
            let mut taken = 0;
            let piece = vec![0; 64 << 10];
            while let Ok(count) = (&client.stream).write(&piece) {
                taken += count;
                check(taken < 256 << 20, || "the sender is never stopped".to_owned())?;
            }
            let used = proxy.resident_kib();
            check(used < 30_000, || format!("{used} KiB of memory for a tunnel that stands still"))
        }),
    ];
    run_concurrently(cases);
}

#[test]
fn ends_of_requests() {
    let slow = Peer::start(|connection| {
        if connection.read_request().is_some() {
            // The client's end comes before our answer.
            connection.is_quiet();
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            connection.read_to_end();
        }
    });
    let streaming = Peer::start(|connection| {
        connection.read_request();
        connection.send(b"HTTP/1.1 200 OK\r\n\r\n");
        while connection.send(&[b'x'; 1000]) {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let config = "server { listen LISTEN;
        location /P05 { proxy_pass http://SLOW; }
        location /P06 { proxy_pass http://STREAM; }
        location / { proxy_pass http://SLOW; } }";
    let peers = [("SLOW", &slow), ("STREAM", &streaming)];
    let proxy = Proxy::start_with_peers(config, &peers);
    let cases = vec![
        case("P05", || {
            let mut client = Client::connect_and_send(proxy.addr, b"GET /P05 HTTP/1.1\r\nHost: a\r\n\r\n");
            client.shutdown_write();
            check_equal("the client", &client.expect_status(200)?.body, b"ok")?;
            client.expect_eof()
        }),
        case("P06", || {
            let mut client = Client::connect_and_send(proxy.addr, b"GET /P06 HTTP/1.1\r\nHost: a\r\n\r\n");
            client.read_bytes(1000)?;
            drop(client);
            streaming.expect_all_closed()?;
            proxy.wait_for_error_line(&["client", "\"GET /P06 HTTP/1.1\""])?;
            proxy.wait_for_access_line(&["\"GET /P06 HTTP/1.1\" 499 "])
        }),
        case("P08", || {
            let mut client = Client::connect_and_send(proxy.addr, b"GET /P08 HTTP/1.1\r\nHost: a\r\nX: y");
            client.shutdown_write();
            client.expect_eof()?;
            proxy.wait_for_access_line(&["GET /P08", "\" 400 "])
        }),
        case("P10", || {
            let mut client = Client::connect_and_send(proxy.addr, b"BAD\r\n");
            for _ in 0..16 {
                client.stream.write_all(&vec![b'x'; 64 << 10]).map_err(|error| format!("while sending: {error}"))?;
            }
            let response = client.expect_status(400)?;
            check(response.closes() && response.body.ends_with(b"</html>\r\n"), || response.head)?;
            client.expect_eof()
        }),
        case("with a body", || {
            let mut client =
                Client::connect_and_send(proxy.addr, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n");
            for _ in 0..64 {
                client.stream.write_all(&vec![b'x'; 64 << 10]).map_err(|error| format!("while sending: {error}"))?;
            }
            let response = client.expect_status(413)?;
            check(response.closes() && response.body.ends_with(b"</html>\r\n"), || response.head)?;
            client.expect_eof()
        }),
    ];
    run_concurrently(cases);
    let got = String::from_utf8_lossy(&slow.received()).into_owned();
    assert!(!got.contains("P08"), "{got}");
}

/// A connection that says nothing leaves no line.
#[test]
fn port_scans() {
    let proxy = Proxy::start("server { listen LISTEN; return 204; }");
    for _ in 0..3 {
        let mut client = Client::connect(proxy.addr);
        client.shutdown_write();
        client.expect_eof().unwrap_or_else(|why| panic!("{why}"));
    }
    drop(TcpStream::connect(proxy.addr).unwrap());
    Client::connect(proxy.addr).request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 204).unwrap();
    proxy.wait_for_access_line(&["\"GET / HTTP/1.1\" 204 "]).unwrap();
    assert_eq!(proxy.access_lines().len(), 1, "{:?}", proxy.access_lines());
}

/// One-byte frames are not held back.
#[test]
fn small_frames_are_not_delayed() {
    let first_came = Arc::new(Barrier::new(2));
    let came = first_came.clone();
    let peer = Peer::start(move |connection| {
        connection.read_head();
        connection.send(SWITCHING_PROTOCOLS);
        while connection.read() {
            connection.send(b"a");
            came.wait();
            connection.send(b"b");
        }
    });
    let config = "server { listen LISTEN; location / { proxy_pass http://PEER; } }";
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    let mut client = opened(&proxy, "/ws");
    // Two frames without an answer between them: Nagle's algorithm holds the second one back until the client's system
    // acknowledges the first one, 40 ms later.
    let mut turn = || {
        client.send(b"?");
        client.read_bytes(1).unwrap();
        let began = Instant::now();
        first_came.wait();
        client.read_bytes(1).unwrap();
        began.elapsed()
    };
    // At first it acknowledges at once.
    for _ in 0..20 {
        turn();
    }
    let prompt = (0..200).filter(|_| turn() < Duration::from_millis(20)).take(10).count();
    assert!(prompt == 10, "{prompt} of 200 came in time");
}
