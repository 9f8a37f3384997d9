//! Signals, reloads, and how the program stops (class S).

use std::net::TcpStream;
use std::time::Duration;

use crate::client::{Client, expand};
use crate::harness::{Gate, PATIENCE, wait_for};
use crate::peer::Peer;
use crate::rows::{case, check, verify_at_once};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn server(status: u16) -> String {
    format!("server {{ listen LISTEN; return {status}; }}")
}

/// What a request gets now.
fn status(gate: &Gate) -> u16 {
    let mut client = Client::asking(gate.addr, GET);
    client.reply().map_or(0, |reply| reply.status)
}

fn tunnel(gate: &Gate) -> Client {
    let mut client = Client::connect(gate.addr);
    client.ask(&expand(b"GET /ws HTTP/1.1\r\nHost: a\r\n{W}\r\n"), 101).unwrap();
    client
}

fn ping(client: &mut Client) -> Result<(), String> {
    client.send(b"ping");
    client.take(4).map(drop)
}

#[test]
fn reloads() {
    let storm = |workers: &str| {
        let server = |status: u16| format!("{workers} {}", server(status));
        // Each worker opens two when it starts, maybe after they were counted.
        let starting = if workers.is_empty() { 0 } else { 4 };
        let gate = Gate::start(&server(201));
        let before = if status(&gate) == 201 { gate.descriptors() } else { 0 };
        let all =
            format!("for i in 1 2 3 4 5 6 7 8 9 10; do {} done", format!("kill -HUP {};", gate.pid()).repeat(100));
        check(std::process::Command::new("sh").args(["-c", &all]).status().unwrap().success(), || {
            "it is gone".to_owned()
        })?;
        gate.rewrite(&server(202));
        gate.signal("HUP");
        wait_for("S01: the last configuration", || status(&gate) == 202);
        let reloads = gate.errors().iter().filter(|line| line.contains("in force")).count();
        check(reloads <= 1001, || format!("{reloads} reloads"))?;
        wait_for("S01: descriptors", || gate.descriptors() <= before + 1 + starting);
        Ok(())
    };
    let broken = || {
        let gate = Gate::start(&server(201));
        let lines = || gate.errors().iter().filter(|line| line.contains("[emerg]")).count();
        for (number, text) in [
            "server { listen LISTEN; return 202;",
            "frobnicate;",
            "server { listen 203.0.113.1:80; }",
            "# nothing is here yet",
        ]
        .iter()
        .enumerate()
        {
            gate.rewrite(text);
            gate.signal("HUP");
            wait_for("S02: it is told", || lines() > number);
            check(status(&gate) == 201, || format!("{text} is in force"))?;
        }
        check(lines() == 4, || format!("{:?}", gate.errors()))?;
        gate.rewrite(&server(202));
        gate.signal("HUP");
        wait_for("S02: a good one", || status(&gate) == 202);
        Ok(())
    };
    let removed = || {
        let gate = Gate::start("server { listen LISTEN; listen OTHER; return 201; }");
        let mut client = Client::connect(gate.other);
        client.ask(GET, 201)?;
        gate.rewrite(&server(202));
        gate.signal("HUP");
        wait_for("S04: the listener is gone", || TcpStream::connect(gate.other).is_err());
        check(status(&gate) == 202, || "the other is not there".to_owned())
    };
    let tunnels = || {
        let peer = Peer::polite();
        let gate =
            Gate::start(&format!("server {{ listen LISTEN; location / {{ proxy_pass http://{}; }} }}", peer.addr));
        let mut client = tunnel(&gate);
        gate.rewrite(&server(202));
        gate.signal("HUP");
        wait_for("a reload", || status(&gate) == 202);
        ping(&mut client)
    };
    let cases = vec![
        case("S01", || storm("")),
        case("S01 three workers", || storm("worker_processes 3;")),
        case("S02", broken),
        case("S04", removed),
        case("a tunnel lives through a reload", tunnels),
    ];
    verify_at_once(cases);
}

/// A connection that waits for its next request has no part of the configuration before, however soon that comes.
#[test]
fn waiting_connections_move_over() {
    let named = |name: &'static str| {
        Peer::start(move |connection| {
            while connection.request().is_some() {
                connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}").as_bytes());
            }
        })
    };
    let (a, b) = (named("a"), named("b"));
    // The same upstreams in another order: `a` has the place of `b` after each reload.
    let config = |round: usize| {
        let (a, b) = (format!("upstream a {{ server {}; }}", a.addr), format!("upstream b {{ server {}; }}", b.addr));
        let order = if round.is_multiple_of(2) { a + &b } else { b + &a };
        format!(
            "{order} server {{ listen LISTEN; location / {{ proxy_pass http://a; }} location /b {{ proxy_pass http://b; }}
             location /round {{ return 200 {round}; }} }}"
        )
    };
    let gate = Gate::start(&config(0));
    let mut kept = Client::connect(gate.addr);
    let round_now = || {
        let reply = Client::connect(gate.addr).ask(b"GET /round HTTP/1.1\r\nHost: a\r\n\r\n", 200).unwrap();
        String::from_utf8(reply.body).unwrap()
    };
    for round in 1..8 {
        gate.rewrite(&config(round));
        assert_eq!(kept.ask(GET, 200).unwrap().body, b"a");
        gate.signal("HUP");
        wait_for("a reload", || round_now() == round.to_string());
        assert_eq!(kept.ask(GET, 200).unwrap().body, b"a", "round {round}");
    }
}

/// What is answered while the program stops says that nothing follows.
#[test]
fn last_answers_say_so() {
    let (let_answer, may_answer) = std::sync::mpsc::channel::<()>();
    let may_answer = std::sync::Mutex::new(may_answer);
    let slow = Peer::start(move |connection| {
        connection.request();
        may_answer.lock().unwrap().recv().unwrap();
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let mut gate = Gate::before("server { listen LISTEN; location / { proxy_pass http://PEER; } }", &[("PEER", &slow)]);
    let mut client = Client::asking(gate.addr, GET);
    wait_for("the request is there", || slow.bytes().ends_with(b"\r\n\r\n"));
    gate.signal("QUIT");
    wait_for("it listens no more", || TcpStream::connect(gate.addr).is_err());
    let_answer.send(()).unwrap();
    let reply = client.expect(200).unwrap();
    assert!(reply.closes(), "{}", reply.head);
    client.expect_end().unwrap();
    assert_eq!(gate.ends_within(PATIENCE), Some(0));
}

/// What root may do is given up, but for binding to ports below 1024: a reload may add one.
#[test]
fn privileged_ports() {
    let free = (600..1024).rev().find_map(|port| std::net::TcpListener::bind(("127.0.0.1", port)).ok());
    let Some(free) = free else { return }; // only root can have been root
    let addr = free.local_addr().unwrap();
    drop(free);
    let gate = Gate::start(&server(201));
    let text = std::fs::read_to_string(format!("/proc/{}/status", gate.pid())).unwrap();
    if text.lines().any(|line| line.starts_with("Uid:\t0")) {
        return;
    }
    gate.rewrite(&format!("server {{ listen LISTEN; listen {addr}; return 202; }}"));
    gate.signal("HUP");
    wait_for("the new port", || TcpStream::connect(addr).is_ok());
    assert!(!text.contains("CapEff:\t000001"), "{text}");
}

/// systemd hears when the program is ready, reloads and stops.
#[test]
fn supervisors() {
    let folder = std::env::temp_dir().join(format!("smolgate-notify-{}", std::process::id()));
    let socket = std::os::unix::net::UnixDatagram::bind(&folder).unwrap();
    std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let shell = format!("export NOTIFY_SOCKET={} WATCHDOG_USEC=400000; exec \"$0\" \"$@\"", folder.display());
    let mut gate = Gate::start_by(&server(201), &shell);
    let wait = |expected: &str| {
        let mut buf = [0; 256];
        loop {
            let count = socket.recv(&mut buf).unwrap_or_else(|error| panic!("{expected}: {error}"));
            let message = String::from_utf8_lossy(&buf[..count]).into_owned();
            if message.contains(expected) {
                return message;
            }
        }
    };
    assert!(wait("READY=1").contains("STATUS=0 tunnels"));
    wait("WATCHDOG=1");
    gate.signal("HUP");
    assert!(wait("RELOADING=1").contains("MONOTONIC_USEC="));
    wait("READY=1");
    gate.signal("USR2");
    wait("READY=1");
    gate.signal("TERM");
    wait("STOPPING=1");
    assert_eq!(gate.ends_within(PATIENCE), Some(0));
    std::fs::remove_file(folder).unwrap();
}

/// Each worker serves as many connections as the others; at the limit a client learns why it is not served.
#[test]
fn workers() {
    let gate = Gate::start("worker_processes 4; server { listen LISTEN; return 200 $connection; }");
    let mut clients: Vec<Client> = (0..40).map(|_| Client::connect(gate.addr)).collect();
    let mut spread = [0; 4];
    for client in &mut clients {
        let body = client.ask(GET, 200).unwrap().body;
        let number: usize = String::from_utf8(body).unwrap().parse().unwrap();
        spread[(number - 1) % 4] += 1;
    }
    assert_eq!(spread, [10; 4]);
    let limited =
        Gate::start("worker_processes 2; events { worker_connections 2; } server { listen LISTEN; return 204; }");
    let mut clients: Vec<Client> = (0..4).map(|_| Client::connect(limited.addr)).collect();
    clients.iter_mut().for_each(|client| drop(client.ask(GET, 204).unwrap()));
    let mut one_more = Client::asking(limited.addr, GET);
    let reply = one_more.expect(503).unwrap();
    assert!(reply.closes(), "{}", reply.head);
    one_more.expect_end().unwrap();
    limited.wait_for_error(&["[alert]", "worker_connections are not enough"]).unwrap();
    clients.pop();
    wait_for("room for another one", || status(&limited) == 204);
}

/// At the end of a graceful stop tunnels are closed with a Close frame, where there is room for one.
#[test]
fn farewells() {
    let peer = Peer::polite();
    let config = "worker_processes 2; worker_shutdown_timeout 1s;
        server { listen LISTEN; location / { proxy_pass http://PEER; } }";
    let mut gate = Gate::before(config, &[("PEER", &peer)]);
    let mut idle = tunnel(&gate);
    let mut talking = tunnel(&gate);
    let frame = [0x81, 0x85, 0, 0, 0, 0, b'h', b'e', b'l', b'l', b'o'];
    talking.send(&frame);
    assert_eq!(talking.take(frame.len()).unwrap(), frame);
    let mut within = tunnel(&gate);
    within.send(&frame[..7]);
    assert_eq!(within.take(7).unwrap(), frame[..7]);
    let seen = peer.bytes().len();
    gate.signal("QUIT");
    for client in [&mut idle, &mut talking] {
        assert_eq!(client.take(4).unwrap(), [0x88, 2, 0x03, 0xe9]);
        client.expect_end().unwrap();
    }
    within.expect_end().unwrap();
    assert_eq!(gate.ends_within(PATIENCE), Some(0));
    // To the peers the frames are masked.
    let farewells = peer.bytes()[seen..].chunks(8).filter(|frame| frame.starts_with(&[0x88, 0x82])).count();
    assert_eq!(farewells, 2, "{:?}", &peer.bytes()[seen..]);
}

#[test]
fn stops() {
    let at_once = |signal: &str| {
        let peer = Peer::polite();
        let mut gate =
            Gate::start(&format!("server {{ listen LISTEN; location / {{ proxy_pass http://{}; }} }}", peer.addr));
        let mut client = tunnel(&gate);
        ping(&mut client)?;
        gate.signal(signal);
        let code = gate.ends_within(PATIENCE);
        check(code == Some(0), || format!("exit code {code:?}"))?;
        check(!gate.folder.path("gate.pid").exists(), || "the pid file stays".to_owned())
    };
    let graceful = || {
        let peer = Peer::polite();
        let config = "worker_shutdown_timeout 1s; server { listen LISTEN; location / { proxy_pass http://PEER; } }";
        let mut gate = Gate::before(config, &[("PEER", &peer)]);
        let mut idle = Client::connect(gate.addr);
        idle.ask(GET, 200)?;
        let mut client = tunnel(&gate);
        gate.signal("QUIT");
        idle.expect_end()?;
        check(TcpStream::connect(gate.addr).is_err(), || "it still listens".to_owned())?;
        ping(&mut client)?;
        check(gate.is_running(), || "the tunnel was cut at once".to_owned())?;
        let code = gate.ends_within(PATIENCE);
        check(code == Some(0), || format!("exit code {code:?}"))
    };
    let patient = || {
        let peer = Peer::polite();
        let mut gate =
            Gate::start(&format!("server {{ listen LISTEN; location / {{ proxy_pass http://{}; }} }}", peer.addr));
        let mut client = tunnel(&gate);
        gate.signal("QUIT");
        wait_for("S06: it listens no more", || TcpStream::connect(gate.addr).is_err());
        ping(&mut client)?;
        client.finish();
        client.expect_end()?;
        let code = gate.ends_within(PATIENCE);
        check(code == Some(0), || format!("exit code {code:?}"))
    };
    let cases = vec![
        case("S05 TERM", || at_once("TERM")),
        case("S05 INT", || at_once("INT")),
        case("S06", graceful),
        case("S06 without a limit", patient),
    ];
    verify_at_once(cases);
}

#[test]
fn other_signals() {
    let survives = |signal: &str| {
        let mut gate = Gate::start(&server(201));
        gate.signal(signal);
        // A signal that kills does so before the next request is answered.
        let _ = status(&gate);
        check(gate.ends_within(Duration::from_millis(50)).is_none(), || "it has ended".to_owned())?;
        check(status(&gate) == 201, || "it does not serve".to_owned())
    };
    let cases = vec![
        case("S08 USR1", || survives("USR1")),
        case("S08 USR2", || survives("USR2")),
        case("S08 WINCH", || survives("WINCH")),
        case("S08 CHLD", || survives("CHLD")),
        case("S08 PIPE", || survives("PIPE")),
    ];
    verify_at_once(cases);
}

/// Standard streams that are closed do not become sockets.
#[test]
fn closed_streams() {
    let gate = Gate::start_by(&server(201), "exec \"$0\" \"$@\" <&- >&- 2>&-");
    for fd in 0..3 {
        let target = std::fs::read_link(format!("/proc/{}/fd/{fd}", gate.pid())).unwrap_or_default();
        assert_eq!(target.to_string_lossy(), "/dev/null", "S14: descriptor {fd}");
    }
    assert_eq!(status(&gate), 201, "S14");
}
