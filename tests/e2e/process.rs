//! The process: signals, reloads, systemd, workers, graceful and fast shutdown.

use std::net::TcpStream;
use std::time::Duration;

use crate::cases::{case, check, run_concurrently};
use crate::client::{Client, expand};
use crate::harness::{Proxy, TIMEOUT, TempDir, run, wait_for};
use crate::peer::Peer;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn server(status: u16) -> String {
    format!("server {{ listen LISTEN; return {status}; }}")
}

/// Returns the status of a request, 0 without a response.
fn status(proxy: &Proxy) -> u16 {
    let mut client = Client::connect_and_send(proxy.addr, GET);
    client.read_response().map_or(0, |response| response.status)
}

fn tunnel(proxy: &Proxy) -> Client {
    let mut client = Client::connect(proxy.addr);
    client.request(&expand(b"GET /ws HTTP/1.1\r\nHost: a\r\n{W}\r\n"), 101).unwrap();
    client
}

fn ping(client: &mut Client) -> Result<(), String> {
    client.send(b"ping");
    client.read_bytes(4).map(drop)
}

#[test]
fn reloads() {
    let many_reloads = |workers: &str| {
        let server = |status: u16| format!("{workers} {}", server(status));
        // Each worker opens two when it starts, maybe after they were counted.
        let starting = if workers.is_empty() { 0 } else { 4 };
        let proxy = Proxy::start(&server(201));
        let before = if status(&proxy) == 201 { proxy.open_descriptors() } else { 0 };
        let all =
            format!("for i in 1 2 3 4 5 6 7 8 9 10; do {} done", format!("kill -HUP {};", proxy.pid()).repeat(100));
        check(std::process::Command::new("sh").args(["-c", &all]).status().unwrap().success(), || {
            "kill failed".to_owned()
        })?;
        proxy.write_config(&server(202));
        proxy.signal("HUP");
        wait_for("the last configuration", || status(&proxy) == 202);
        let reloads = proxy.error_lines().iter().filter(|line| line.contains("configuration reloaded")).count();
        check(reloads <= 1001, || format!("{reloads} reloads"))?;
        wait_for("descriptors", || proxy.open_descriptors() <= before + 1 + starting);
        Ok(())
    };
    let broken = || {
        let proxy = Proxy::start(&server(201));
        let lines = || proxy.error_lines().iter().filter(|line| line.contains("[emerg]")).count();
        for (number, text) in [
            "server { listen LISTEN; return 202;",
            "frobnicate;",
            "server { listen 203.0.113.1:80; }",
            "# nothing is here yet",
        ]
        .iter()
        .enumerate()
        {
            proxy.write_config(text);
            proxy.signal("HUP");
            wait_for("a log line", || lines() > number);
            check(status(&proxy) == 201, || format!("{text} is in force"))?;
        }
        check(lines() == 4, || format!("{:?}", proxy.error_lines()))?;
        proxy.write_config(&server(202));
        proxy.signal("HUP");
        wait_for("a good one", || status(&proxy) == 202);
        Ok(())
    };
    let removed = || {
        let proxy = Proxy::start("server { listen LISTEN; listen OTHER; return 201; }");
        let mut client = Client::connect(proxy.other);
        client.request(GET, 201)?;
        proxy.write_config(&server(202));
        proxy.signal("HUP");
        wait_for("the listener is gone", || TcpStream::connect(proxy.other).is_err());
        check(status(&proxy) == 202, || "the other is not there".to_owned())
    };
    let tunnels = || {
        let peer = Peer::start_echo();
        let proxy =
            Proxy::start(&format!("server {{ listen LISTEN; location / {{ proxy_pass http://{}; }} }}", peer.addr));
        let mut client = tunnel(&proxy);
        proxy.write_config(&server(202));
        proxy.signal("HUP");
        wait_for("a reload", || status(&proxy) == 202);
        ping(&mut client)
    };
    let cases = vec![
        case("many reloads", || many_reloads("")),
        case("three workers", || many_reloads("worker_processes 3;")),
        case("broken configurations", broken),
        case("a removed listener", removed),
        case("tunnels stay open", tunnels),
    ];
    run_concurrently(cases);
}

/// The next request of an idle connection is served by the new configuration, however soon it comes.
#[test]
fn idle_connections_get_the_new_configuration() {
    let named = |name: &'static str| {
        Peer::start(move |connection| {
            while connection.read_request().is_some() {
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
    let proxy = Proxy::start(&config(0));
    let mut idle = Client::connect(proxy.addr);
    let round_now = || {
        let response = Client::connect(proxy.addr).request(b"GET /round HTTP/1.1\r\nHost: a\r\n\r\n", 200).unwrap();
        String::from_utf8(response.body).unwrap()
    };
    for round in 1..8 {
        proxy.write_config(&config(round));
        assert_eq!(idle.request(GET, 200).unwrap().body, b"a");
        proxy.signal("HUP");
        wait_for("a reload", || round_now() == round.to_string());
        assert_eq!(idle.request(GET, 200).unwrap().body, b"a", "round {round}");
    }
}

/// A response during a graceful shutdown has `Connection: close`.
#[test]
fn responses_during_shutdown_close() {
    let (allow_response, may_respond) = std::sync::mpsc::channel::<()>();
    let may_respond = std::sync::Mutex::new(may_respond);
    let slow = Peer::start(move |connection| {
        connection.read_request();
        may_respond.lock().unwrap().recv().unwrap();
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let mut proxy =
        Proxy::start_with_peers("server { listen LISTEN; location / { proxy_pass http://PEER; } }", &[("PEER", &slow)]);
    let mut client = Client::connect_and_send(proxy.addr, GET);
    wait_for("the request is there", || slow.received().ends_with(b"\r\n\r\n"));
    proxy.signal("QUIT");
    wait_for("it listens no more", || TcpStream::connect(proxy.addr).is_err());
    allow_response.send(()).unwrap();
    let response = client.expect_status(200).unwrap();
    assert!(response.closes(), "{}", response.head);
    client.expect_eof().unwrap();
    assert_eq!(proxy.exit_code_within(TIMEOUT), Some(0));
}

/// All capabilities of root are dropped but the one to bind ports below 1024, for reloads.
#[test]
fn privileged_ports() {
    let free = (600..1024).rev().find_map(|port| std::net::TcpListener::bind(("127.0.0.1", port)).ok());
    let Some(free) = free else { return }; // not root
    let addr = free.local_addr().unwrap();
    drop(free);
    let proxy = Proxy::start(&server(201));
    let text = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    if text.lines().any(|line| line.starts_with("Uid:\t0")) {
        return;
    }
    proxy.write_config(&format!("server {{ listen LISTEN; listen {addr}; return 202; }}"));
    proxy.signal("HUP");
    wait_for("the new port", || TcpStream::connect(addr).is_ok());
    assert!(!text.contains("CapEff:\t000001"), "{text}");
}

/// systemd is notified when the program is ready, reloads and stops.
#[test]
fn systemd_is_notified() {
    let dir = std::env::temp_dir().join(format!("smolgate-notify-{}", std::process::id()));
    let socket = std::os::unix::net::UnixDatagram::bind(&dir).unwrap();
    std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    let shell = format!("export NOTIFY_SOCKET={} WATCHDOG_USEC=400000; exec \"$0\" \"$@\"", dir.display());
    let mut proxy = Proxy::start_in_shell(&server(201), &shell);
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
    proxy.signal("HUP");
    assert!(wait("RELOADING=1").contains("MONOTONIC_USEC="));
    wait("READY=1");
    proxy.signal("USR2");
    wait("READY=1");
    proxy.signal("TERM");
    wait("STOPPING=1");
    assert_eq!(proxy.exit_code_within(TIMEOUT), Some(0));
    std::fs::remove_file(dir).unwrap();
}

/// Connections are spread evenly over the workers; a client above the limit gets a 503.
#[test]
fn workers() {
    let proxy = Proxy::start("worker_processes 4; server { listen LISTEN; return 200 $connection; }");
    let mut clients: Vec<Client> = (0..40).map(|_| Client::connect(proxy.addr)).collect();
    let mut spread = [0; 4];
    for client in &mut clients {
        let body = client.request(GET, 200).unwrap().body;
        let number: usize = String::from_utf8(body).unwrap().parse().unwrap();
        spread[(number - 1) % 4] += 1;
    }
    assert_eq!(spread, [10; 4]);
    let limited =
        Proxy::start("worker_processes 2; events { worker_connections 2; } server { listen LISTEN; return 204; }");
    let mut clients: Vec<Client> = (0..4).map(|_| Client::connect(limited.addr)).collect();
    clients.iter_mut().for_each(|client| drop(client.request(GET, 204).unwrap()));
    let mut one_more = Client::connect_and_send(limited.addr, GET);
    let response = one_more.expect_status(503).unwrap();
    assert!(response.closes(), "{}", response.head);
    one_more.expect_eof().unwrap();
    limited.wait_for_error_line(&["[alert]", "worker_connections are not enough"]).unwrap();
    clients.pop();
    wait_for("room for another client", || status(&limited) == 204);
}

/// `--stop-timeout` limits a graceful stop whatever the configuration says, a reloaded one too.
#[test]
fn the_time_of_a_stop() {
    for setting in ["", "worker_shutdown_timeout 1h;"] {
        let peer = Peer::start_echo();
        let config = format!("{setting} server {{ listen LISTEN; location / {{ proxy_pass http://{}; }} }}", peer.addr);
        let mut proxy = Proxy::start_in_shell(&config, "exec \"$0\" \"$@\" --stop-timeout 2s");
        proxy.write_config(&config);
        let pid = proxy.pid().to_string();
        let output = run(&proxy.dir, &["-s", "reload", "--pid", &pid], "smolgate.conf");
        assert_eq!(output.status.code(), Some(0));
        proxy.wait_for_error_line(&["configuration reloaded"]).unwrap();
        let mut client = tunnel(&proxy);
        assert_eq!(run(&proxy.dir, &["-s", "quit", "--pid", &pid], "none.conf").status.code(), Some(0));
        assert_eq!(client.read_bytes(4).unwrap(), [0x88, 2, 0x03, 0xe9]);
        assert_eq!(proxy.exit_code_within(TIMEOUT), Some(0));
    }
    let dir = TempDir::new();
    dir.write("smolgate.conf", "server { listen 127.0.0.1:1; return 204; }");
    for (flags, expected) in [
        (&["-s", "stop", "--pid", "-1"][..], "--pid takes a process id, not \"-1\""),
        (&["-s", "stop", "--pid", "x"], "--pid takes a process id, not \"x\""),
        (&["-s", "stop"], "no pid file: \"-s\" needs \"pid FILE;\" in the configuration, or --pid"),
        (&["--stop-timeout", "soon"], "--stop-timeout takes a time, as in 5s or 1h"),
    ] {
        let output = run(&dir, flags, "smolgate.conf");
        assert!(String::from_utf8_lossy(&output.stderr).contains(expected), "{output:?}");
    }
}

/// At the end of a graceful shutdown WebSockets are closed with a Close frame, unless a frame is incomplete.
#[test]
fn close_frames() {
    let peer = Peer::start_echo();
    let config = "worker_processes 2; worker_shutdown_timeout 1s;
        server { listen LISTEN; location / { proxy_pass http://PEER; } }";
    let mut proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    let mut idle = tunnel(&proxy);
    let mut talking = tunnel(&proxy);
    let frame = [0x81, 0x85, 0, 0, 0, 0, b'h', b'e', b'l', b'l', b'o'];
    talking.send(&frame);
    assert_eq!(talking.read_bytes(frame.len()).unwrap(), frame);
    let mut incomplete = tunnel(&proxy);
    incomplete.send(&frame[..7]);
    assert_eq!(incomplete.read_bytes(7).unwrap(), frame[..7]);
    let seen = peer.received().len();
    proxy.signal("QUIT");
    for client in [&mut idle, &mut talking] {
        assert_eq!(client.read_bytes(4).unwrap(), [0x88, 2, 0x03, 0xe9]);
        client.expect_eof().unwrap();
    }
    incomplete.expect_eof().unwrap();
    assert_eq!(proxy.exit_code_within(TIMEOUT), Some(0));
    // Frames to peers are masked.
    let close_frames = peer.received()[seen..].chunks(8).filter(|frame| frame.starts_with(&[0x88, 0x82])).count();
    assert_eq!(close_frames, 2, "{:?}", &peer.received()[seen..]);
}

#[test]
fn shutdown() {
    let at_once = |signal: &str| {
        let peer = Peer::start_echo();
        let mut proxy =
            Proxy::start(&format!("server {{ listen LISTEN; location / {{ proxy_pass http://{}; }} }}", peer.addr));
        let mut client = tunnel(&proxy);
        ping(&mut client)?;
        proxy.signal(signal);
        let code = proxy.exit_code_within(TIMEOUT);
        check(code == Some(0), || format!("exit code {code:?}"))?;
        check(!proxy.dir.path("smolgate.pid").exists(), || "the pid file stays".to_owned())
    };
    let graceful = || {
        let peer = Peer::start_echo();
        let config = "worker_shutdown_timeout 1s; server { listen LISTEN; location / { proxy_pass http://PEER; } }";
        let mut proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
        let mut idle = Client::connect(proxy.addr);
        idle.request(GET, 200)?;
        let mut client = tunnel(&proxy);
        proxy.signal("QUIT");
        idle.expect_eof()?;
        check(TcpStream::connect(proxy.addr).is_err(), || "it still listens".to_owned())?;
        ping(&mut client)?;
        check(proxy.is_running(), || "the tunnel was closed at once".to_owned())?;
        let code = proxy.exit_code_within(TIMEOUT);
        check(code == Some(0), || format!("exit code {code:?}"))
    };
    let graceful_without_limit = || {
        let peer = Peer::start_echo();
        let mut proxy =
            Proxy::start(&format!("server {{ listen LISTEN; location / {{ proxy_pass http://{}; }} }}", peer.addr));
        let mut client = tunnel(&proxy);
        proxy.signal("QUIT");
        wait_for("it listens no more", || TcpStream::connect(proxy.addr).is_err());
        ping(&mut client)?;
        client.shutdown_write();
        client.expect_eof()?;
        let code = proxy.exit_code_within(TIMEOUT);
        check(code == Some(0), || format!("exit code {code:?}"))
    };
    let cases = vec![
        case("TERM", || at_once("TERM")),
        case("INT", || at_once("INT")),
        case("QUIT with worker_shutdown_timeout", graceful),
        case("QUIT", graceful_without_limit),
    ];
    run_concurrently(cases);
}

#[test]
fn other_signals() {
    let survives = |signal: &str| {
        let mut proxy = Proxy::start(&server(201));
        proxy.signal(signal);
        // A deadly signal takes effect before the next response.
        let _ = status(&proxy);
        check(proxy.exit_code_within(Duration::from_millis(50)).is_none(), || "it has exited".to_owned())?;
        check(status(&proxy) == 201, || "it does not serve".to_owned())
    };
    let cases = vec![
        case("USR1", || survives("USR1")),
        case("USR2", || survives("USR2")),
        case("WINCH", || survives("WINCH")),
        case("CHLD", || survives("CHLD")),
        case("PIPE", || survives("PIPE")),
    ];
    run_concurrently(cases);
}

/// Closed standard streams do not become sockets.
#[test]
fn closed_standard_streams() {
    let proxy = Proxy::start_in_shell(&server(201), "exec \"$0\" \"$@\" <&- >&- 2>&-");
    for fd in 0..3 {
        let target = std::fs::read_link(format!("/proc/{}/fd/{fd}", proxy.pid())).unwrap_or_default();
        assert_eq!(target.to_string_lossy(), "/dev/null", "descriptor {fd}");
    }
    assert_eq!(status(&proxy), 201);
}
