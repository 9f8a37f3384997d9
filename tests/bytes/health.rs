//! Active health checks: who is asked what, when a peer is taken out, and when it is taken back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::asked::{ask_row, request};
use crate::client::Client;
use crate::gate::{Folder, Gate, run, wait_for};
use crate::peer::{Peer, SWITCHING};

/// A peer whose answer to health checks can be changed: the status it answers them with, and how many came. Others get its
/// name.
struct Patient {
    peer: Peer,
    status: Arc<AtomicU32>,
    checks: Arc<AtomicUsize>,
}

impl Patient {
    fn new(name: &'static str) -> Self {
        let (status, checks): (Arc<AtomicU32>, Arc<AtomicUsize>) = (Arc::new(200.into()), Arc::default());
        let (own_status, own_checks) = (status.clone(), checks.clone());
        let peer = Peer::start(move |connection| {
            while let Some(request) = connection.request() {
                if !request.head.contains("(health check)") {
                    connection.answer(&request, name);
                    continue;
                }
                own_checks.fetch_add(1, Ordering::SeqCst);
                match own_status.load(Ordering::SeqCst) {
                    0 => return,
                    101 => connection.send(SWITCHING),
                    status => connection.send(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").as_bytes()),
                };
            }
        });
        Self { peer, status, checks }
    }

    fn answer_with(&self, status: u32) {
        self.status.store(status, Ordering::SeqCst);
    }
}

fn names(gate: &Gate, target: &str, count: usize) -> String {
    let one = || Client::asking(gate.addr, request(target).as_bytes()).expect(200).unwrap().body;
    (0..count).map(|_| String::from_utf8(one()).unwrap()).collect()
}

#[test]
fn a_peer_is_taken_out_and_back() {
    let (a, b) = (Patient::new("a"), Patient::new("b"));
    let config = |check: &str| {
        format!(
            "upstream u {{ server {}; server {}; {check} }} server {{ listen LISTEN;
                location / {{ proxy_pass http://u; }} location /status {{ status json; }}
                location /generation {{ return 200 \"{check}\"; }} }}",
            a.peer.addr, b.peer.addr
        )
    };
    const CHECK: &str = "health_check interval=100ms jitter=0 fails=2 passes=2 uri=/health?x host=app;";
    let gate = Gate::start(&config(CHECK));
    assert_eq!(names(&gate, "/", 4), "abab");
    wait_for("checks come", || a.checks.load(Ordering::SeqCst) > 0);
    let head = String::from_utf8(a.peer.bytes()).unwrap();
    let fields = "Host: app\r\nUser-Agent: smolgate/0.1.0 (health check)\r\nConnection: close\r\n\r\n";
    assert!(head.contains(&format!("GET /health?x HTTP/1.1\r\n{fields}")), "{head}");

    b.answer_with(500);
    let told = format!(
        "[warn] {0}#{0}: peer {1} of upstream \"u\" is unhealthy: it answers with status 500",
        gate.pid(),
        b.peer.addr
    );
    gate.wait_for_error(&[&told]).unwrap();
    assert_eq!(names(&gate, "/", 4), "aaaa");
    ask_row(&gate, &("the status page knows", "/status", 200, "")).unwrap();
    let status = String::from_utf8(Client::asking(gate.addr, request("/status").as_bytes()).expect(200).unwrap().body);
    assert!(status.unwrap().contains("\"state\":\"unhealthy\""));

    // It stays taken out over a reload.
    gate.rewrite(&config("health_check interval=1h;"));
    gate.signal("HUP");
    wait_for("the reload", || names(&gate, "/generation", 1).contains("1h"));
    assert_eq!(names(&gate, "/", 4), "aaaa");
    gate.rewrite(&config(CHECK));
    gate.signal("HUP");
    b.answer_with(204);
    gate.wait_for_error(&["[notice]", &format!("peer {} of upstream \"u\" is healthy", b.peer.addr)]).unwrap();
    assert!(names(&gate, "/", 4).contains('b'));
    let changes = gate.errors().iter().filter(|line| line.contains("healthy")).count();
    assert_eq!(changes, 2, "{:?}", gate.errors());

    // And comes back where nobody is checked any more.
    b.answer_with(0);
    gate.wait_for_error(&["is unhealthy: it closes the connection"]).unwrap();
    gate.rewrite(&config(""));
    gate.signal("HUP");
    wait_for("it is asked again", || names(&gate, "/", 4).contains('b'));
}

#[test]
fn what_is_asked() {
    let (a, ws) = (Patient::new("a"), Patient::new("w"));
    ws.answer_with(101);
    a.answer_with(503);
    let gate = Gate::before(
        "match busy { status ! 500 502-504; } match odd { status 404 503; }
         upstream tcp { server 127.0.0.1:1; server PEER-A; health_check type=tcp interval=100ms; }
         upstream ws { server PEER-W; server PEER-A; health_check type=websocket interval=100ms uri=/ws; }
         upstream odd { server PEER-A; health_check match=odd interval=100ms; }
         upstream busy { server PEER-A; server PEER-W backup; health_check match=busy interval=100ms; }
         upstream first { server PEER-A; server PEER-W backup; health_check mandatory interval=1h jitter=1h; }
         server { listen LISTEN;
            location /tcp { proxy_pass http://tcp; } location /ws { proxy_pass http://ws; }
            location /odd { proxy_pass http://odd; } location /busy { proxy_pass http://busy; }
            location /first { proxy_pass http://first; }
            location /alone { proxy_pass http://PEER-A; health_check interval=100ms port=1; } }",
        &[("PEER-A", &a.peer), ("PEER-W", &ws.peer)],
    );
    let addr = a.peer.addr;
    gate.wait_for_error(&[
        "peer 127.0.0.1:1 of upstream \"tcp\" is unhealthy: connect() failed (111: Connection refused)",
    ])
    .unwrap();
    gate.wait_for_error(&[&format!("peer {addr} of upstream \"ws\" is unhealthy: it answers with status 503")])
        .unwrap();
    gate.wait_for_error(&[&format!("peer {addr} of upstream \"busy\" is unhealthy")]).unwrap();
    gate.wait_for_error(&[&format!("peer {addr} of upstream \"{addr}\" is unhealthy: connect() failed")]).unwrap();
    assert_eq!(names(&gate, "/tcp", 3), "aaa");
    assert_eq!(names(&gate, "/ws", 3), "www");
    assert_eq!(names(&gate, "/odd", 2), "aa");
    assert!(!gate.errors().iter().any(|line| line.contains("upstream: \"http://127.0.0.1:1")), "nobody was sent there");
    wait_for("the backup takes over", || names(&gate, "/busy", 1) != "a");
    let first = Client::asking(gate.addr, request("/first").as_bytes()).reply().unwrap();
    assert_eq!(first.status, 502, "nobody is known to be well");
    let alone = Client::asking(gate.addr, request("/alone").as_bytes()).reply().unwrap();
    assert_eq!(alone.status, 502, "also the only one gets nothing");
}

#[test]
fn checks_that_can_not_be() {
    let refuses = |text: &str, part: &str| {
        let folder = Folder::new();
        folder.write("gate.conf", text);
        let output = run(&folder, &["-t"], "gate.conf");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && told.contains(part), "{text}: {told}");
    };
    let upstream = |check: &str| format!("upstream u {{ server 127.0.0.1:1; {check} }} server {{ listen 8080; }}");
    refuses(&upstream("health_check interval=0;"), "an interval of 100ms or more is expected");
    refuses(&upstream("health_check fails=0;"), "a number of 1 or more is expected");
    refuses(&upstream("health_check uri=x;"), "invalid parameter \"uri=x\"");
    refuses(&upstream("health_check \"host=a b\";"), "invalid parameter \"host=a b\"");
    refuses(&upstream("health_check type=grpc;"), "invalid parameter \"type=grpc\"");
    refuses(&upstream("health_check match=none;"), "match \"none\" is not known");
    refuses("match m { status; }", "a status is missing");
    refuses("match m { status 20; }", "a status, or a range");
    refuses("match m { body ~ x; }", "\"body\" is not supported in \"match\"");
    refuses("match m { } match m { }", "duplicate match \"m\"");
    let location = |inner: &str| format!("server {{ listen 8080; location / {{ {inner} }} }}");
    refuses(&location("health_check; return 200;"), "\"health_check\" without an upstream");
    refuses(&location("health_check; proxy_pass http://127.0.0.1$uri;"), "\"health_check\" without an upstream");
    let twice = "location /b { health_check; proxy_pass http://127.0.0.1:1; }";
    refuses(
        &format!("server {{ listen 8080; {twice} {} }}", twice.replace("/b", "/c")),
        "a second \"health_check\" of upstream \"127.0.0.1:1\"",
    );
}
