//! Exhaustion, deadlines, ends and half-ends of connections (classes O and P).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use crate::client::{Client, expand};
use crate::harness::{ABOUT_A_SECOND, Gate, PATIENCE, wait_for, within};
use crate::peer::{Peer, SWITCHING};
use crate::rows::{case, check, same, verify_at_once};

/// How long a client was left alone until the gate closed, in milliseconds; nothing may come before.
fn closed_after(gate: &Gate, first: &[u8], drip: &[u8]) -> Result<u128, String> {
    let mut client = Client::asking(gate.addr, first);
    let began = Instant::now();
    client.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    while began.elapsed() < PATIENCE {
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
    let peer = Peer::polite();
    let config = "client_header_timeout 1s; keepalive_timeout 1s;
        server { listen LISTEN; location / { proxy_pass http://PEER; } }";
    let gate = Gate::before(config, &[("PEER", &peer)]);
    let about_a_second = |first: &[u8], drip: &[u8]| {
        let took = closed_after(&gate, first, drip)?;
        check(ABOUT_A_SECOND.contains(&took), || format!("it took {took} ms"))
    };
    let cases = vec![
        case("A06", || about_a_second(b"\r\n\r\n", b"")),
        case("O01", || about_a_second(b"", b"")),
        case("O02", || about_a_second(b"GET / HTTP/1.1\r\nHost: a\r\n", b"X: a\r\n")),
        case("O02 in the first line", || about_a_second(b"GET /", b"a")),
        case("O01 between requests", || {
            let mut client = Client::connect(gate.addr);
            client.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200)?;
            let began = Instant::now();
            client.expect_end()?;
            let took = began.elapsed().as_millis();
            check(ABOUT_A_SECOND.contains(&took), || format!("it took {took} ms"))
        }),
    ];
    verify_at_once(cases);
    let got = String::from_utf8_lossy(&peer.bytes()).into_owned();
    assert_eq!(got.matches("\r\n\r\n").count(), 1, "what was never whole went to the upstream: {got}");
}

/// More clients than descriptors.
#[test]
fn descriptors_run_out() {
    let peer = Peer::polite();
    let config = "server { listen LISTEN; location / { return 204; } location /up { proxy_pass http://PEER; } }";
    let config = config.replace("PEER", &peer.addr.to_string());
    let gate = Gate::start_by(&config, "ulimit -n 40; exec \"$0\" \"$@\"");
    let mut clients: Vec<Client> = (0..100).map(|_| Client::connect(gate.addr)).collect();
    wait_for("O08: it is noted", || gate.errors().iter().any(|line| line.contains("Too many open files")));
    let (ticks, began) = (gate.ticks(), Instant::now());
    // Those that were accepted are served all the while.
    let first = &mut clients[0];
    while began.elapsed() < Duration::from_millis(700) {
        first.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 204).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    let ticks = gate.ticks() - ticks;
    // On a busy machine one answer may take longer than all of them should.
    let most = u64::try_from(began.elapsed().as_millis()).unwrap() / 10 / 4;
    assert!(ticks < most.max(15), "O08: {ticks} ticks of processor time, and {most} are a quarter of it");
    // No descriptor is left for an upstream.
    let reply = first.ask(b"GET /up HTTP/1.1\r\nHost: a\r\n\r\n", 502);
    let reply = reply.unwrap_or_else(|why| panic!("O09: {why}"));
    assert!(!reply.closes(), "O09: {}", reply.head);
    gate.wait_for_error(&["[error]", "GET /up"]).unwrap();
    first.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 204).unwrap();
    let noted = gate.errors().iter().filter(|line| line.contains("accept4()")).count();
    assert!(noted <= 5, "O08: {noted} lines");
    // Room again, as soon as it is seen that they are gone.
    drop(clients);
    let is_served = || Client::connect(gate.addr).ask(b"GET /up HTTP/1.1\r\nHost: a\r\n\r\n", 200).is_ok();
    wait_for("O08: who comes then is served", is_served);
}

fn opened(gate: &Gate, target: &str) -> Client {
    let mut client = Client::connect(gate.addr);
    client.ask(&expand(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{{W}}\r\n").as_bytes()), 101).unwrap();
    client
}

#[test]
fn ends_of_tunnels() {
    const MEGABYTES: usize = 8 << 20;
    let last_words = Peer::start(|connection| {
        connection.head();
        connection.send(SWITCHING);
        connection.drain();
        connection.send(b"answer after the end");
    });
    let ends_first = Peer::start(|connection| {
        connection.head();
        connection.send(SWITCHING);
        connection.send(b"bye");
        connection.finish();
        connection.take(5);
    });
    let (let_read, may_read) = mpsc::channel::<()>();
    let may_read = Mutex::new(may_read);
    let both_write = Peer::start(move |connection| {
        connection.head();
        connection.send(SWITCHING);
        connection.send(&vec![b'd'; MEGABYTES]);
        may_read.lock().unwrap().recv().unwrap();
        let got = connection.take(MEGABYTES).unwrap_or_default();
        connection.send(format!("{}", got.len()).as_bytes());
        connection.finish();
        connection.drain();
    });
    let config = "server { listen LISTEN;
        location /P01 { proxy_pass http://WORDS; }
        location /P02 { proxy_pass http://FIRST; }
        location /P13 { proxy_pass http://BOTH; } }";
    let peers = [("WORDS", &last_words), ("FIRST", &ends_first), ("BOTH", &both_write)];
    let gate = Gate::before(config, &peers);
    let cases = vec![
        case("P01", || {
            let mut client = opened(&gate, "/P01");
            client.send(b"ping");
            client.finish();
            same("the client", &client.rest()?, b"answer after the end")?;
            check(last_words.bytes().ends_with(b"\r\n\r\nping"), || "the last bytes did not arrive".to_owned())?;
            gate.wait_for_access(&["\"GET /P01 HTTP/1.1\" 101 "])
        }),
        case("P02", || {
            let mut client = opened(&gate, "/P02");
            same("the client", &client.rest()?, b"bye")?;
            client.send(b"still");
            let arrived = within(PATIENCE, || ends_first.bytes().ends_with(b"still").then_some(()));
            check(arrived.is_some(), || "what the client still sent did not arrive".to_owned())?;
            client.finish();
            gate.wait_for_access(&["\"GET /P02 HTTP/1.1\" 101 "])
        }),
        case("P13", || {
            let mut client = opened(&gate, "/P13");
            let mut writer = client.stream.try_clone().unwrap();
            let writing = std::thread::spawn(move || writer.write_all(&vec![b'u'; MEGABYTES]).is_ok());
            // Our bytes are not read yet; theirs come nevertheless.
            let got = client.take(MEGABYTES)?;
            check(got.iter().all(|b| *b == b'd'), || "other bytes came".to_owned())?;
            let_read.send(()).unwrap();
            check(writing.join().unwrap(), || "our bytes were not taken".to_owned())?;
            same("the client", &client.rest()?, MEGABYTES.to_string().as_bytes())
        }),
    ];
    verify_at_once(cases);
}

#[test]
fn tunnels_that_break_or_stand_still() {
    let resets = Peer::start(|connection| {
        connection.head();
        connection.send(SWITCHING);
        connection.reset();
    });
    let never_reads = Peer::start(|connection| {
        connection.head();
        connection.send(SWITCHING);
        std::thread::sleep(PATIENCE);
    });
    let config = "server { listen LISTEN;
        location /reset { proxy_pass http://RESETS; }
        location /O05 { proxy_pass http://NEVER; } }";
    let gate = Gate::before(config, &[("RESETS", &resets), ("NEVER", &never_reads)]);
    let cases = vec![
        case("P02 as a reset", || {
            let mut client = opened(&gate, "/reset");
            client.send(b"x");
            match client.rest() {
                Err(why) if why.contains("reset") => Ok(()),
                other => Err(format!("no reset, but {other:?}")),
            }
        }),
        case("O05", || {
            let client = opened(&gate, "/O05");
            client.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
            let mut taken = 0;
            let piece = vec![0; 64 << 10];
            while let Ok(count) = (&client.stream).write(&piece) {
                taken += count;
                check(taken < 256 << 20, || "the sender is never stopped".to_owned())?;
            }
            let used = gate.resident_kib();
            check(used < 30_000, || format!("{used} KiB of memory for a tunnel that stands still"))
        }),
    ];
    verify_at_once(cases);
}

#[test]
fn ends_of_requests() {
    let slow = Peer::start(|connection| {
        if connection.request().is_some() {
            // The client's end comes before our answer.
            connection.is_quiet();
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            connection.drain();
        }
    });
    let streaming = Peer::start(|connection| {
        connection.request();
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
    let gate = Gate::before(config, &peers);
    let cases = vec![
        case("P05", || {
            let mut client = Client::asking(gate.addr, b"GET /P05 HTTP/1.1\r\nHost: a\r\n\r\n");
            client.finish();
            same("the client", &client.expect(200)?.body, b"ok")?;
            client.expect_end()
        }),
        case("P06", || {
            let mut client = Client::asking(gate.addr, b"GET /P06 HTTP/1.1\r\nHost: a\r\n\r\n");
            client.take(1000)?;
            drop(client);
            streaming.expect_all_closed()?;
            gate.wait_for_error(&["client", "\"GET /P06 HTTP/1.1\""])?;
            gate.wait_for_access(&["\"GET /P06 HTTP/1.1\" 499 "])
        }),
        case("P08", || {
            let mut client = Client::asking(gate.addr, b"GET /P08 HTTP/1.1\r\nHost: a\r\nX: y");
            client.finish();
            client.expect_end()?;
            gate.wait_for_access(&["GET /P08", "\" 400 "])
        }),
        case("P10", || {
            let mut client = Client::asking(gate.addr, b"BAD\r\n");
            for _ in 0..16 {
                client.stream.write_all(&vec![b'x'; 64 << 10]).map_err(|error| format!("while sending: {error}"))?;
            }
            let reply = client.expect(400)?;
            check(reply.closes() && reply.body.ends_with(b"</html>\r\n"), || reply.head)?;
            client.expect_end()
        }),
        case("P10 with a body", || {
            let mut client =
                Client::asking(gate.addr, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n");
            for _ in 0..64 {
                client.stream.write_all(&vec![b'x'; 64 << 10]).map_err(|error| format!("while sending: {error}"))?;
            }
            let reply = client.expect(413)?;
            check(reply.closes() && reply.body.ends_with(b"</html>\r\n"), || reply.head)?;
            client.expect_end()
        }),
    ];
    verify_at_once(cases);
    let got = String::from_utf8_lossy(&slow.bytes()).into_owned();
    assert!(!got.contains("P08"), "P08: {got}");
}

/// A connection that says nothing leaves no line.
#[test]
fn port_scans() {
    let gate = Gate::start("server { listen LISTEN; return 204; }");
    for _ in 0..3 {
        let mut client = Client::connect(gate.addr);
        client.finish();
        client.expect_end().unwrap_or_else(|why| panic!("P09: {why}"));
    }
    drop(TcpStream::connect(gate.addr).unwrap());
    Client::connect(gate.addr).ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 204).unwrap();
    gate.wait_for_access(&["\"GET / HTTP/1.1\" 204 "]).unwrap();
    assert_eq!(gate.access().len(), 1, "P09: {:?}", gate.access());
}

/// One-byte frames are not held back.
#[test]
fn small_frames_are_not_delayed() {
    let first_came = Arc::new(Barrier::new(2));
    let came = first_came.clone();
    let peer = Peer::start(move |connection| {
        connection.head();
        connection.send(SWITCHING);
        while connection.read() {
            connection.send(b"a");
            came.wait();
            connection.send(b"b");
        }
    });
    let config = "server { listen LISTEN; location / { proxy_pass http://PEER; } }";
    let gate = Gate::before(config, &[("PEER", &peer)]);
    let mut client = opened(&gate, "/ws");
    // Two frames without an answer between them: Nagle's algorithm holds the second one back until the client's system
    // acknowledges the first one, 40 ms later.
    let mut turn = || {
        client.send(b"?");
        client.take(1).unwrap();
        let began = Instant::now();
        first_came.wait();
        client.take(1).unwrap();
        began.elapsed()
    };
    // At first it acknowledges at once.
    for _ in 0..20 {
        turn();
    }
    let prompt = (0..200).filter(|_| turn() < Duration::from_millis(20)).take(10).count();
    assert!(prompt == 10, "P12: {prompt} of 200 came in time");
}
