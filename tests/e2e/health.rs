//! Active health checks: requests of checks, matching of responses, and peers that become unhealthy and healthy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::client::Client;
use crate::harness::{Proxy, TempDir, run, wait_for};
use crate::peer::{Peer, SWITCHING_PROTOCOLS};
use crate::response_rows::format_request;
#[cfg(feature = "tls")]
use crate::tls_fixtures::certificate_authority;

/// A peer whose response to health checks can be changed. Other requests get its name.
struct CheckedPeer {
    peer: Peer,
    status: Arc<AtomicU32>,
    checks: Arc<AtomicUsize>,
}

impl CheckedPeer {
    fn new(name: &'static str) -> Self {
        let (status, checks): (Arc<AtomicU32>, Arc<AtomicUsize>) = (Arc::new(200.into()), Arc::default());
        let (own_status, own_checks) = (status.clone(), checks.clone());
        let peer = Peer::start(move |connection| {
            while let Some(request) = connection.read_request() {
                if !request.head.contains("(health check)") {
                    connection.respond(&request, name);
                    continue;
                }
                own_checks.fetch_add(1, Ordering::SeqCst);
                match own_status.load(Ordering::SeqCst) {
                    0 => return,
                    1 => return connection.read_to_end(),
                    101 if request.head.contains("Sec-WebSocket-Key") => {
                        connection.send(switching(&request.head).as_bytes());
                        return connection.read_to_end();
                    }
                    status => {
                        let status = if status == 101 { 200 } else { status };
                        let fields = format!("X-Name: {name}\r\nTransfer-Encoding: chunked\r\n\r\n");
                        connection.send(
                            format!("HTTP/1.1 {status} X\r\n{fields}3\r\nI a\r\n3\r\nm {name}\r\n0\r\n\r\n").as_bytes(),
                        )
                    }
                };
            }
        });
        Self { peer, status, checks }
    }

    fn set_status(&self, status: u32) {
        self.status.store(status, Ordering::SeqCst);
    }
}

/// The response to a WebSocket handshake (RFC 6455 4.2.2).
fn switching(head: &str) -> String {
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
    let digest = smolgate::http1::digest::sha1(&[key.as_bytes(), b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"]);
    let accept = data_encoding::BASE64.encode(&digest);
    let known = String::from_utf8_lossy(SWITCHING_PROTOCOLS);
    let fields = known.split("Sec-WebSocket-Accept").next().unwrap().to_owned();
    format!("{fields}Sec-WebSocket-Accept: {accept}\r\n\r\n")
}

fn status(proxy: &Proxy, form: &str) -> String {
    String::from_utf8(
        Client::connect_and_send(proxy.addr, format_request(form).as_bytes()).expect_status(200).unwrap().body,
    )
    .unwrap()
}

fn names(proxy: &Proxy, target: &str, count: usize) -> String {
    let one =
        || Client::connect_and_send(proxy.addr, format_request(target).as_bytes()).expect_status(200).unwrap().body;
    (0..count).map(|_| String::from_utf8(one()).unwrap()).collect()
}

#[test]
fn a_peer_becomes_unhealthy_and_healthy() {
    let (a, b) = (CheckedPeer::new("a"), CheckedPeer::new("b"));
    let config = |check: &str| {
        format!(
            "upstream u {{ server {}; server {}; {check} }} server {{ listen LISTEN;
                location / {{ proxy_pass http://u; }} location /status {{ status; }}
                location /generation {{ return 200 \"{check}\"; }} }}",
            a.peer.addr, b.peer.addr
        )
    };
    const CHECK: &str = "health_check interval=100ms jitter=0 fails=2 passes=2 uri=/health?x host=app;";
    let proxy = Proxy::start(&config(CHECK));
    assert_eq!(names(&proxy, "/", 4), "abab");
    wait_for("checks come", || a.checks.load(Ordering::SeqCst) > 0);
    let head = String::from_utf8(a.peer.received()).unwrap();
    let fields = "Host: app\r\nUser-Agent: smolgate/0.1.0 (health check)\r\nConnection: close\r\n\r\n";
    assert!(head.contains(&format!("GET /health?x HTTP/1.1\r\n{fields}")), "{head}");

    b.set_status(500);
    let line = format!("[warn] {0}#{0}: peer {1} of upstream \"u\" is unhealthy: status 500", proxy.pid(), b.peer.addr);
    proxy.wait_for_error_line(&[&line]).unwrap();
    assert_eq!(names(&proxy, "/", 4), "aaaa");
    let unhealthy = format!("\"address\":\"{}\",\"state\":\"unhealthy\"", b.peer.addr);
    assert!(status(&proxy, "/status").contains(&unhealthy), "{}", status(&proxy, "/status"));
    let up = format!("smolgate_peer_up{{upstream=\"u\",peer=\"{}\"}} 0\n", b.peer.addr);
    let text = status(&proxy, "/status.prom");
    assert!(text.contains(&up) && text.contains("smolgate_peer_failed_checks_total"), "{text}");

    // It stays unhealthy after a reload.
    proxy.write_config(&config("health_check interval=1h;"));
    proxy.signal("HUP");
    wait_for("the reload", || names(&proxy, "/generation", 1).contains("1h"));
    assert_eq!(names(&proxy, "/", 4), "aaaa");
    proxy.write_config(&config(CHECK));
    proxy.signal("HUP");
    b.set_status(204);
    proxy.wait_for_error_line(&["[notice]", &format!("peer {} of upstream \"u\" is healthy", b.peer.addr)]).unwrap();
    assert!(names(&proxy, "/", 4).contains('b'));
    let changes = proxy.error_lines().iter().filter(|line| line.contains("healthy")).count();
    assert_eq!(changes, 2, "{:?}", proxy.error_lines());

    // Without checks it is used again.
    b.set_status(0);
    proxy.wait_for_error_line(&["is unhealthy: connection closed"]).unwrap();
    proxy.write_config(&config(""));
    proxy.signal("HUP");
    wait_for("requests go to it again", || names(&proxy, "/", 4).contains('b'));
}

#[test]
fn requests_of_checks() {
    let (a, ws) = (CheckedPeer::new("a"), CheckedPeer::new("w"));
    ws.set_status(101);
    a.set_status(503);
    let proxy = Proxy::start_with_peers(
        "match busy { status ! 500 502-504; } match odd { status 404 503; }
         upstream tcp { server 127.0.0.1:1; server PEER-A; health_check type=tcp interval=100ms; }
         upstream ws { server PEER-W; server PEER-A; health_check type=websocket interval=100ms uri=/ws; }
         upstream odd { server PEER-A; health_check match=odd interval=100ms; }
         upstream busy { server PEER-A; server PEER-W backup; health_check match=busy interval=100ms; }
         server { listen LISTEN;
            location /tcp { proxy_pass http://tcp; } location /ws { proxy_pass http://ws; }
            location /odd { proxy_pass http://odd; } location /busy { proxy_pass http://busy; }
            location /alone { proxy_pass http://PEER-A; health_check interval=100ms port=1; } }",
        &[("PEER-A", &a.peer), ("PEER-W", &ws.peer)],
    );
    let addr = a.peer.addr;
    proxy
        .wait_for_error_line(&[
            "peer 127.0.0.1:1 of upstream \"tcp\" is unhealthy: connect() failed (111: Connection refused)",
        ])
        .unwrap();
    proxy.wait_for_error_line(&[&format!("peer {addr} of upstream \"ws\" is unhealthy: status 503")]).unwrap();
    proxy.wait_for_error_line(&[&format!("peer {addr} of upstream \"busy\" is unhealthy")]).unwrap();
    proxy
        .wait_for_error_line(&[&format!("peer {addr} of upstream \"{addr}\" is unhealthy: connect() failed")])
        .unwrap();
    assert_eq!(names(&proxy, "/tcp", 3), "aaa");
    assert_eq!(names(&proxy, "/ws", 3), "www");
    assert_eq!(names(&proxy, "/odd", 2), "aa");
    assert!(
        !proxy.error_lines().iter().any(|line| line.contains("upstream: \"http://127.0.0.1:1")),
        "no request was sent there"
    );
    wait_for("the backup takes over", || names(&proxy, "/busy", 1) != "a");
    let alone = Client::connect_and_send(proxy.addr, format_request("/alone").as_bytes()).read_response().unwrap();
    assert_eq!(alone.status, 502, "an unhealthy peer gets nothing, even alone");
    let handshakes = || String::from_utf8_lossy(&ws.peer.received()).matches("Sec-WebSocket-Version: 13").count();
    wait_for("a Close frame is sent", || ws.peer.received().contains(&0x88) && handshakes() > 0);
}

/// A peer of a mandatory check gets no request before its first result.
#[test]
fn mandatory_checks() {
    let (silent, unhealthy, healthy) = (CheckedPeer::new("s"), CheckedPeer::new("i"), CheckedPeer::new("w"));
    silent.set_status(1);
    unhealthy.set_status(503);
    let check = "health_check mandatory passes=5 fails=5 interval=1h timeout=1h;";
    let proxy = Proxy::start_with_peers(
        &format!(
            "upstream silent {{ server PEER-S; {check} }} upstream unhealthy {{ server PEER-I; {check} }}
             upstream healthy {{ server PEER-W; {check} }}
             server {{ listen LISTEN; location /silent {{ proxy_pass http://silent; }} location /status {{ status; }}
                location /unhealthy {{ proxy_pass http://unhealthy; }} location /healthy {{ proxy_pass http://healthy; }} }}"
        ),
        &[("PEER-S", &silent.peer), ("PEER-I", &unhealthy.peer), ("PEER-W", &healthy.peer)],
    );
    let gets = |target: &str| {
        Client::connect_and_send(proxy.addr, format_request(target).as_bytes()).read_response().unwrap().status
    };
    proxy.wait_for_error_line(&["of upstream \"unhealthy\" is unhealthy: status 503"]).unwrap();
    wait_for("the healthy one is known", || gets("/healthy") == 200);
    assert_eq!((gets("/silent"), gets("/unhealthy")), (502, 502));
    assert!(status(&proxy, "/status").contains("\"state\":\"checking\""));
}

#[test]
fn matches() {
    let (a, b) = (CheckedPeer::new("a"), CheckedPeer::new("b"));
    let rules = [
        ("named", "header X-Name;", "ab"),
        ("unnamed", "header ! X-Name;", ""),
        ("same", "header x-name = a;", "a"),
        ("other", "header X-Name != a;", "b"),
        ("like", "header X-Name ~ ^[a]; status 200;", "a"),
        ("unlike", "header X-Name !~ ^[a];", "b"),
        ("body", "body ~ \"I am [b]$\";", "b"),
        ("not_body", "body !~ \"I am b\"; header ! X-None;", "a"),
        ("missing_other", "header X-None != x;", ""),
        ("missing_unlike", "header X-None !~ x;", ""),
        ("twice", "status 200-299; status ! 201 204; body ~ ^I; body ~ [a]$;", "a"),
        ("none", "status ! 100-199 200;", ""),
        ("all", "status 200; header X-Name = a; body ~ b;", ""),
    ];
    let blocks = rules.map(|(name, rule, _)| {
        format!(
            "match {name} {{ {rule} }} upstream {name} {{ server PEER-A; server PEER-B;
                health_check mandatory interval=1h match={name}; }}"
        )
    });
    let locations = rules.map(|(name, ..)| format!("location /{name} {{ proxy_pass http://{name}; }}"));
    let proxy = Proxy::start_with_peers(
        &format!(
            "{} server {{ listen LISTEN; location /status {{ status; }} {} }}",
            blocks.concat(),
            locations.concat()
        ),
        &[("PEER-A", &a.peer), ("PEER-B", &b.peer)],
    );
    wait_for("all were checked", || !status(&proxy, "/status").contains("checking"));
    for (name, rule, expected) in rules {
        let ask = || {
            Client::connect_and_send(proxy.addr, format_request(&format!("/{name}")).as_bytes())
                .read_response()
                .unwrap()
        };
        let mut got =
            [ask(), ask()].map(|response| if response.status == 200 { response.body } else { Vec::new() }).concat();
        got.sort_unstable();
        got.dedup();
        assert_eq!(String::from_utf8(got).unwrap(), expected, "{rule}");
    }
    proxy.wait_for_error_line(&["is unhealthy: response header \"X-Name\" does not match"]).unwrap();
    proxy.wait_for_error_line(&["is unhealthy: response body does not match"]).unwrap();
}

/// A binary upgrade hands the health of peers over.
#[test]
fn results_survive_a_binary_upgrade() {
    let (a, b) = (CheckedPeer::new("a"), CheckedPeer::new("b"));
    b.set_status(500);
    let config = |interval: &str| {
        let check = format!("health_check interval={interval} jitter={interval} mandatory;");
        let servers = format!("server {}; server {};", a.peer.addr, b.peer.addr);
        format!("upstream u {{ {servers} {check} }} server {{ listen LISTEN; location / {{ proxy_pass http://u; }} }}")
    };
    let proxy = Proxy::start(&config("100ms"));
    proxy.wait_for_error_line(&["is healthy"]).unwrap();
    proxy.wait_for_error_line(&["is unhealthy: status 500"]).unwrap();
    proxy.write_config(&config("1h"));
    proxy.signal("USR2");
    wait_for("the new binary", || proxy.error_lines().iter().filter(|line| line.contains("listens on")).count() == 2);
    assert_eq!(names(&proxy, "/", 4), "aaaa");
    let changes = proxy.error_lines().iter().filter(|line| line.contains("healthy")).count();
    assert_eq!(changes, 2, "{:?}", proxy.error_lines());
}

/// Peers that get requests over TLS are checked over TLS.
#[cfg(feature = "tls")]
#[test]
fn checks_over_tls() {
    let dir = TempDir::new();
    certificate_authority("authority").issue("up.example").write(&dir, "up");
    let path = dir.path("").display().to_string();
    let up = Proxy::start(&format!(
        "server {{ listen LISTEN ssl; ssl_certificate {path}up.crt; ssl_certificate_key {path}up.key;
            if ($http_user_agent ~ health) {{ set $known $ssl_server_name-$http_host; }}
            location / {{ return 200 $known; }} }}"
    ));
    let asks = |match_: &str, check: &str| format!("health_check mandatory interval=1h match={match_} {check};");
    let proxy = Proxy::start(&format!(
        "match in {{ body ~ ^up.example-app$; }} match by {{ body ~ ^by-by$; }}
         upstream in {{ server {0}; {1} }} upstream by {{ server {0}; }} upstream plain {{ server {0}; {3} }}
         server {{ listen LISTEN; location /status {{ status; }} proxy_ssl_server_name on;
            location /in {{ proxy_pass https://in; proxy_ssl_name up.example; }}
            location /by {{ proxy_pass https://by; {2} }} location /plain {{ proxy_pass http://plain; }} }}",
        up.addr,
        asks("in", "host=app"),
        asks("by", ""),
        asks("in", ""),
    ));
    wait_for("all were checked", || !status(&proxy, "/status").contains("checking"));
    let gets = |target: &str| {
        Client::connect_and_send(proxy.addr, format_request(target).as_bytes()).read_response().unwrap().status
    };
    assert_eq!((gets("/in"), gets("/by"), gets("/plain")), (200, 200, 502), "{:?}", proxy.error_lines());
}

#[test]
fn invalid_checks() {
    let refuses = |text: &str, part: &str| {
        let dir = TempDir::new();
        dir.write("smolgate.conf", text);
        let output = run(&dir, &["-t"], "smolgate.conf");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && stderr.contains(part), "{text}: {stderr}");
    };
    let upstream = |check: &str| format!("upstream u {{ server 127.0.0.1:1; {check} }} server {{ listen 8080; }}");
    refuses(&upstream("health_check interval=0;"), "an interval of 100ms or more is expected");
    refuses(&upstream("health_check fails=0;"), "a number of 1 or more is expected");
    refuses(&upstream("health_check uri=x;"), "invalid parameter \"uri=x\"");
    refuses(&upstream("health_check \"host=a b\";"), "invalid parameter \"host=a b\"");
    refuses(&upstream("health_check type=grpc;"), "invalid parameter \"type=grpc\"");
    refuses(&upstream("health_check match=none;"), "unknown match \"none\"");
    for line in [
        "status",
        "status !",
        "status 20",
        "status 300-200",
        "status ! ok",
        "require $uri",
        "body = x",
        "body x",
        "body ! ~ x",
        "header",
        "header !",
        "header ! a = b",
        "header a > b",
        "header a b",
    ] {
        let name = line.split(' ').next().unwrap();
        refuses(&format!("match m {{ {line}; }}"), &format!("smolgate.conf:1:11: invalid \"{name}\" in \"match\""));
    }
    refuses("match m { body ~ (; }", "invalid regular expression");
    let matched = "match m { } upstream u { server 127.0.0.1:1; health_check type=tcp match=m; }";
    refuses(&format!("{matched} server {{ listen 8080; }}"), "\"match=\" with \"type=tcp\"");
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
