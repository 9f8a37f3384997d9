//! Timeouts, exhaustion of descriptors, and connections that end, half-close, break or stall.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use crate::cases::{case, check, check_equal, run_concurrently};
use crate::client::{Client, expand};
use crate::harness::{ABOUT_A_SECOND, Proxy, TIMEOUT, poll_within, wait_for};
use crate::peer::{Peer, SWITCHING_PROTOCOLS};

/// Returns how long the proxy waited until it closed, in milliseconds; it may send nothing before.
fn closed_after(proxy: &Proxy, first: &[u8], drip: &[u8]) -> Result<u128, String> {
    let mut client = Client::connect_and_send(proxy.addr, first);
    let began = Instant::now();
    client.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    while began.elapsed() < TIMEOUT {
        match client.stream.read(&mut [0; 64]) {
            Ok(0) => return Ok(began.elapsed().as_millis()),
            Ok(_) => return Err("bytes came".to_owned()),
            Err(error) if crate::peer::is_timeout(&error) => client.send(drip),
            Err(_) => return Ok(began.elapsed().as_millis()), // written to a closed socket
        }
    }
    Err("it stays open".to_owned())
}

#[test]
fn timeouts() {
    let peer = Peer::start_echo();
    let config = "client_header_timeout 1s; keepalive_timeout 1s;
        server { listen LISTEN; location / { proxy_pass http://PEER; } }";
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    let about_a_second = |first: &[u8], drip: &[u8]| {
        let took = closed_after(&proxy, first, drip)?;
        check(ABOUT_A_SECOND.contains(&took), || format!("it took {took} ms"))
    };
    let cases = vec![
        case("empty lines", || about_a_second(b"\r\n\r\n", b"")),
        case("no byte", || about_a_second(b"", b"")),
        case("one header after the other", || about_a_second(b"GET / HTTP/1.1\r\nHost: a\r\n", b"X: a\r\n")),
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
    assert_eq!(got.matches("\r\n\r\n").count(), 1, "an incomplete request went to the upstream: {got}");
}

/// More clients than descriptors.
#[test]
fn descriptors_run_out() {
    let peer = Peer::start_echo();
    let config = "server { listen LISTEN; location / { return 204; } location /up { proxy_pass http://PEER; } }";
    let config = config.replace("PEER", &peer.addr.to_string());
    let proxy = Proxy::start_in_shell(&config, "ulimit -n 40; exec \"$0\" \"$@\"");
    let mut clients: Vec<Client> = (0..100).map(|_| Client::connect(proxy.addr)).collect();
    wait_for("a log line", || proxy.error_lines().iter().any(|line| line.contains("Too many open files")));
    let (ticks, began) = (proxy.cpu_ticks(), Instant::now());
    // Accepted clients are served meanwhile.
    let first = &mut clients[0];
    while began.elapsed() < Duration::from_millis(700) {
        first.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 204).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    let ticks = proxy.cpu_ticks() - ticks;
    // On a busy machine one response may take longer than all of them should.
    let most = u64::try_from(began.elapsed().as_millis()).unwrap() / 10 / 4;
    assert!(ticks < most.max(15), "{ticks} ticks of processor time, and {most} are a quarter of it");
    // No descriptor is left for an upstream.
    let response = first.request(b"GET /up HTTP/1.1\r\nHost: a\r\n\r\n", 502);
    let response = response.unwrap_or_else(|why| panic!("{why}"));
    assert!(!response.closes(), "{}", response.head);
    proxy.wait_for_error_line(&["[error]", "GET /up"]).unwrap();
    first.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 204).unwrap();
    let logged = proxy.error_lines().iter().filter(|line| line.contains("accept4()")).count();
    assert!(logged <= 5, "{logged} lines");
    // As soon as the proxy has closed their connections, there is room again.
    drop(clients);
    let is_served = || Client::connect(proxy.addr).request(b"GET /up HTTP/1.1\r\nHost: a\r\n\r\n", 200).is_ok();
    wait_for("a new client is served", is_served);
}

fn open_tunnel(proxy: &Proxy, target: &str) -> Client {
    let mut client = Client::connect(proxy.addr);
    client.request(&expand(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{{W}}\r\n").as_bytes()), 101).unwrap();
    client
}

#[test]
fn tunnels_close_in_each_direction() {
    const MEGABYTES: usize = 8 << 20;
    let responds_after_eof = Peer::start(|connection| {
        connection.read_head();
        connection.send(SWITCHING_PROTOCOLS);
        connection.read_to_end();
        connection.send(b"after EOF");
    });
    let ends_first = Peer::start(|connection| {
        connection.read_head();
        connection.send(SWITCHING_PROTOCOLS);
        connection.send(b"bye");
        connection.shutdown_write();
        connection.read_bytes(5);
    });
    let (allow_read, may_read) = mpsc::channel::<()>();
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
        location /client-first { proxy_pass http://AFTER_EOF; }
        location /upstream-first { proxy_pass http://FIRST; }
        location /both { proxy_pass http://BOTH; } }";
    let peers = [("AFTER_EOF", &responds_after_eof), ("FIRST", &ends_first), ("BOTH", &both_write)];
    let proxy = Proxy::start_with_peers(config, &peers);
    let cases = vec![
        case("the client closes first", || {
            let mut client = open_tunnel(&proxy, "/client-first");
            client.send(b"ping");
            client.shutdown_write();
            check_equal("the client", &client.read_to_end()?, b"after EOF")?;
            check(responds_after_eof.received().ends_with(b"\r\n\r\nping"), || {
                "the last bytes did not arrive".to_owned()
            })?;
            proxy.wait_for_access_line(&["\"GET /client-first HTTP/1.1\" 101 "])
        }),
        case("the upstream closes first", || {
            let mut client = open_tunnel(&proxy, "/upstream-first");
            check_equal("the client", &client.read_to_end()?, b"bye")?;
            client.send(b"still");
            let arrived = poll_within(TIMEOUT, || ends_first.received().ends_with(b"still").then_some(()));
            check(arrived.is_some(), || "bytes of the client did not arrive".to_owned())?;
            client.shutdown_write();
            proxy.wait_for_access_line(&["\"GET /upstream-first HTTP/1.1\" 101 "])
        }),
        case("both write before they read", || {
            let mut client = open_tunnel(&proxy, "/both");
            let mut writer = client.stream.try_clone().unwrap();
            let writing = std::thread::spawn(move || writer.write_all(&vec![b'u'; MEGABYTES]).is_ok());
            // The upstream does not read the client's bytes yet; its own come nevertheless.
            let got = client.read_bytes(MEGABYTES)?;
            check(got.iter().all(|b| *b == b'd'), || "other bytes came".to_owned())?;
            allow_read.send(()).unwrap();
            check(writing.join().unwrap(), || "the client's bytes were not taken".to_owned())?;
            check_equal("the client", &client.read_to_end()?, MEGABYTES.to_string().as_bytes())
        }),
    ];
    run_concurrently(cases);
}

#[test]
fn tunnels_that_break_or_stall() {
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
        location /stalled { proxy_pass http://NEVER; } }";
    let proxy = Proxy::start_with_peers(config, &[("RESETS", &resets), ("NEVER", &never_reads)]);
    let cases = vec![
        case("a reset is forwarded", || {
            let mut client = open_tunnel(&proxy, "/reset");
            client.send(b"x");
            match client.read_to_end() {
                Err(why) if why.contains("reset") => Ok(()),
                other => Err(format!("no reset, but {other:?}")),
            }
        }),
        case("a peer that never reads", || {
            let client = open_tunnel(&proxy, "/stalled");
            client.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
            let mut taken = 0;
            let block = vec![0; 64 << 10];
            while let Ok(count) = (&client.stream).write(&block) {
                taken += count;
                check(taken < 256 << 20, || "the sender is never stopped".to_owned())?;
            }
            let used = proxy.resident_kib();
            check(used < 30_000, || format!("{used} KiB of memory for a stalled tunnel"))
        }),
    ];
    run_concurrently(cases);
}

#[test]
fn clients_that_close_early() {
    // Silent after the request, or after the start of a response, until the proxy closes.
    let silent = Peer::start(|connection| {
        if let Some(request) = connection.read_request() {
            if request.target().starts_with("/events") {
                connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n");
            }
            connection.read_to_end();
        }
    });
    let slow = Peer::start(|connection| {
        if connection.read_request().is_some() {
            // The client's FIN comes before the response.
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
        location /patient { proxy_ignore_client_abort on; proxy_pass http://SLOW; }
        location /silent { proxy_pass http://SILENT; }
        location /events { proxy_pass http://SILENT; }
        location /gone { proxy_pass http://STREAM; }
        location / { proxy_pass http://SLOW; } }";
    let peers = [("SILENT", &silent), ("SLOW", &slow), ("STREAM", &streaming)];
    let proxy = Proxy::start_with_peers(config, &peers);
    let cases = vec![
        case("half-closed with proxy_ignore_client_abort", || {
            let mut client = Client::connect_and_send(proxy.addr, b"GET /patient HTTP/1.1\r\nHost: a\r\n\r\n");
            client.shutdown_write();
            check_equal("the client", &client.expect_status(200)?.body, b"ok")?;
            client.expect_eof()
        }),
        case("a FIN ends what the upstream has not answered, or not to the end", || {
            let post = "POST /silent/post HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
            let pipelined = "GET /silent/first HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
            for request in ["GET /silent/get HTTP/1.1\r\nHost: a\r\n\r\n", post, pipelined] {
                let mut client = Client::connect_and_send(proxy.addr, request.as_bytes());
                client.shutdown_write();
                client.expect_eof()?;
                let line = request.lines().next().unwrap_or_default();
                proxy.wait_for_access_line(&[&format!("\"{line}\" 499 ")])?;
                silent.expect_all_closed()?;
            }
            let mut client = Client::connect_and_send(proxy.addr, b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n");
            client.read_until(b"data: 1\n\n\r\n")?;
            client.shutdown_write();
            client.expect_eof()?;
            proxy.wait_for_access_line(&["\"GET /events HTTP/1.1\" 499 "])?;
            silent.expect_all_closed()
        }),
        case("gone while the body is sent", || {
            let mut client = Client::connect_and_send(proxy.addr, b"GET /gone HTTP/1.1\r\nHost: a\r\n\r\n");
            client.read_bytes(1000)?;
            drop(client);
            streaming.expect_all_closed()?;
            proxy.wait_for_error_line(&["client", "\"GET /gone HTTP/1.1\""])?;
            proxy.wait_for_access_line(&["\"GET /gone HTTP/1.1\" 499 "])
        }),
        case("within the head", || {
            let mut client = Client::connect_and_send(proxy.addr, b"GET /cut HTTP/1.1\r\nHost: a\r\nX: y");
            client.shutdown_write();
            client.expect_eof()?;
            proxy.wait_for_access_line(&["GET /cut", "\" 400 "])
        }),
        case("a rejected client gets its response while it sends", || {
            let mut client = Client::connect_and_send(proxy.addr, b"BAD\r\n");
            for _ in 0..16 {
                client.stream.write_all(&vec![b'x'; 64 << 10]).map_err(|error| format!("while sending: {error}"))?;
            }
            let response = client.expect_status(400)?;
            check(response.closes() && response.body.ends_with(b"</html>\r\n"), || response.head)?;
            client.expect_eof()
        }),
        case("the same with a body", || {
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
    assert!(!got.contains("/cut"), "{got}");
}

/// A connection without a byte leaves no line.
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
    let second_frame = Arc::new(Barrier::new(2));
    let send_second = second_frame.clone();
    let peer = Peer::start(move |connection| {
        connection.read_head();
        connection.send(SWITCHING_PROTOCOLS);
        while connection.read() {
            connection.send(b"a");
            send_second.wait();
            connection.send(b"b");
        }
    });
    let config = "server { listen LISTEN; location / { proxy_pass http://PEER; } }";
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    let mut client = open_tunnel(&proxy, "/ws");
    // Two frames without a response between them: Nagle's algorithm holds the second one back until the client's system
    // acknowledges the first one, 40 ms later.
    let mut send_two_frames = || {
        client.send(b"?");
        client.read_bytes(1).unwrap();
        let began = Instant::now();
        second_frame.wait();
        client.read_bytes(1).unwrap();
        began.elapsed()
    };
    // At first the system acknowledges at once.
    for _ in 0..20 {
        send_two_frames();
    }
    let prompt = (0..200).filter(|_| send_two_frames() < Duration::from_millis(20)).take(10).count();
    assert!(prompt == 10, "{prompt} of 200 came in time");
}
