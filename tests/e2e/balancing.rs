//! Load balancing: the methods, sticky sessions, failures, the next peer, queues.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use smolgate::runtime::socket::{self, Addr, ListenOptions};

use crate::client::{Client, Response, expand};
use crate::harness::{Proxy, TempDir, wait_for};
use crate::peer::{Peer, SWITCHING_PROTOCOLS};

/// Starts a peer that responds with its name, and with the status that the target ends with (`?404`). An upgrade gets a 101,
/// the name and an echo.
fn named(name: &'static str) -> Peer {
    Peer::start(move |connection| {
        while let Some(request) = connection.read_request() {
            if request.head.contains("\r\nUpgrade: ") {
                connection.send(&[SWITCHING_PROTOCOLS, name.as_bytes()].concat());
                return connection.echo();
            }
            let status = request.target().split('?').nth(1).and_then(|text| text.parse().ok()).unwrap_or(200u16);
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", name.len());
            connection.send(format!("{head}{name}").as_bytes());
        }
    })
}

/// Starts a proxy with these upstreams, each behind a location of its name; `A:` and `B:` stand for peers.
fn start(upstreams: &[(&str, &str)], more: &str, peers: &[(&str, &Peer)]) -> Proxy {
    let blocks: String = upstreams.iter().map(|(name, text)| format!("upstream {name} {{ {text} }}\n")).collect();
    let location = |(name, _): &(&str, &str)| format!("location /{name} {{ proxy_pass http://{name}; }}\n");
    let locations: String = upstreams.iter().map(location).collect();
    Proxy::start_with_peers(&format!("{blocks} server {{ listen LISTEN; {more}\n{locations} }}"), peers)
}

fn get(proxy: &Proxy, target: &str, fields: &str) -> Response {
    let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    Client::connect_and_send(proxy.addr, request.as_bytes()).read_response().unwrap()
}

/// Returns the names of the peers that `count` requests came to.
fn names(proxy: &Proxy, target: &str, count: usize) -> String {
    (0..count).map(|_| String::from_utf8(get(proxy, target, "").body).unwrap()).collect()
}

/// Opens a tunnel. Returns it with the name of the peer at its end.
fn tunnel(proxy: &Proxy, target: &str, fields: &str) -> (Client, String) {
    let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}{{W}}\r\n");
    let mut client = Client::connect_and_send(proxy.addr, &expand(request.as_bytes()));
    client.expect_status(101).unwrap();
    let name = client.read_bytes(1).unwrap();
    (client, String::from_utf8(name).unwrap())
}

#[test]
fn methods() {
    let (a, b, c) = (named("a"), named("b"), named("c"));
    let upstreams = [
        ("round", "zone z 64k; server A: weight=2; server B:;"),
        ("hash", "hash $arg_k; server A:; server B:; server C:;"),
        ("ring", "hash $arg_k consistent; server A:; server B:; server C:;"),
        ("random", "random two least_conn; server A:; server B:; server C: down;"),
    ];
    let proxy = start(&upstreams, "", &[("A:", &a), ("B:", &b), ("C:", &c)]);
    assert_eq!(names(&proxy, "/round", 6), "abaaba");
    for method in ["hash", "ring"] {
        let by_key: Vec<String> = (0..40).map(|key| names(&proxy, &format!("/{method}?k={key}"), 2)).collect();
        assert!(by_key.iter().all(|two| two[..1] == two[1..]), "{by_key:?}");
        assert!(["aa", "bb", "cc"].iter().all(|two| by_key.iter().any(|known| known == two)), "{by_key:?}");
    }
    let by_random = names(&proxy, "/random", 60);
    assert!(by_random.contains('a') && by_random.contains('b') && !by_random.contains('c'), "{by_random}");
}

/// A tunnel counts as a connection of its peer until it ends, also after a reload.
#[test]
fn tunnels_are_counted_for_their_peer() {
    let (a, b) = (named("a"), named("b"));
    let config = |more: &str| {
        let text = format!(
            "upstream least {{ least_conn; server A: weight=2; server B: {more}; }}
             upstream few {{ server A: max_conns=1; server B: max_conns=2; }}
             server {{ listen LISTEN; location /least {{ proxy_pass http://least; }}
                location /few {{ proxy_pass http://few; }} location /generation {{ return 200 \"{more}\"; }} }}"
        );
        text.replace("A:", &a.addr.to_string()).replace("B:", &b.addr.to_string())
    };
    let proxy = Proxy::start(&config(""));
    let mut open: Vec<_> = (0..9).map(|_| tunnel(&proxy, "/least", "")).collect();
    assert_eq!(open.iter().filter(|(_, name)| name == "a").count(), 6);
    open.retain(|(_, name)| name == "b");
    wait_for("the tunnels end", || proxy.access_lines().len() >= 6);
    assert_eq!(names(&proxy, "/least", 3), "aaa");

    let few: String = (0..3)
        .map(|_| tunnel(&proxy, "/few", ""))
        .map(|(client, name)| (open.push((client, name.clone())), name).1)
        .collect();
    assert_eq!(few, "abb");
    assert_eq!(get(&proxy, "/few", "").status, 502);
    proxy.write_config(&config("max_fails=9"));
    proxy.signal("HUP");
    wait_for("the reload", || names(&proxy, "/generation", 1) == "max_fails=9");
    assert_eq!(get(&proxy, "/few", "").status, 502, "tunnels from before the reload still count");
    assert_eq!(names(&proxy, "/least", 3), "aaa");
    drop(open);
    wait_for("the tunnels end", || get(&proxy, "/few", "").status == 200);
}

/// The cookie names the peer of a client, for polling requests and for the upgrade (Socket.IO).
#[test]
fn sticky_cookie() {
    let (a, b, c) = (named("a"), named("b"), named("c"));
    let sticky = "sticky cookie io expires=1h domain=$host path=/x secure httponly samesite=lax;";
    let upstreams = [
        ("plain", "server A:; server B:; server C:; sticky cookie io;"),
        ("routed", "server A: route=one; server B: route=two; sticky cookie io;"),
        ("full", &format!("server A: route=one; {sticky}")),
        ("failing", "server A: route=one; server B: route=two; sticky cookie io;"),
        ("down", "server A: down; sticky cookie io;"),
    ];
    let proxy = start(&upstreams, "proxy_next_upstream http_503;", &[("A:", &a), ("B:", &b), ("C:", &c)]);
    let first = get(&proxy, "/plain", "");
    let cookie = first.header("Set-Cookie").unwrap().to_owned();
    let (name, value) = cookie.split_once('=').unwrap();
    assert!(name == "io" && value.len() == 32 && value.bytes().all(|byte| byte.is_ascii_hexdigit()), "{cookie}");
    let header = format!("Cookie: x=y; {cookie}\r\n");
    for _ in 0..5 {
        let again = get(&proxy, "/plain", &header);
        assert_eq!((again.body, again.head.contains(&cookie)), (first.body.clone(), true));
        assert_eq!(tunnel(&proxy, "/plain", &header).1.as_bytes(), first.body);
    }
    let others: Vec<_> = (0..3).map(|_| get(&proxy, "/plain", "Cookie: io=garbage\r\n").body).collect();
    assert!(others.iter().any(|name| *name != first.body), "clients without a cookie are balanced");

    assert_eq!(get(&proxy, "/routed", "Cookie: io=two\r\n").body, b"b");
    let full = get(&proxy, "/full", "");
    let full = full.header("Set-Cookie").unwrap();
    assert!(full.starts_with("io=one; expires=") && full.contains(" GMT; max-age=3600; domain=a; path=/x;"), "{full}");
    assert!(full.ends_with("; secure; httponly; samesite=lax"), "{full}");

    let moved = get(&proxy, "/failing?503", "Cookie: io=two\r\n");
    assert_eq!((moved.status, moved.body.as_slice()), (503, b"a".as_slice()));
    assert_eq!(moved.header("Set-Cookie"), Some("io=one"), "the cookie names the peer that responded");
    let down = get(&proxy, "/down", "");
    assert_eq!((down.status, down.header("Set-Cookie")), (502, None));
}

#[test]
fn sticky_route() {
    let (a, b) = (named("a"), named("b"));
    let upstreams = [("routes", "server A: route=x drain; server B: route=y; sticky route $cookie_r $arg_r;")];
    let proxy = start(&upstreams, "", &[("A:", &a), ("B:", &b)]);
    assert_eq!(names(&proxy, "/routes", 3), "bbb", "a draining peer gets only its own clients");
    assert_eq!(names(&proxy, "/routes?r=x", 3), "aaa");
    let by_cookie = get(&proxy, "/routes?r=x", "Cookie: r=y\r\n");
    assert_eq!((by_cookie.header("Set-Cookie"), by_cookie.body.as_slice()), (None, b"b".as_slice()));
}

/// If a peer closes after the upgrade request, or sends an invalid response, the next one gets it.
#[test]
fn an_upgrade_goes_to_the_next_peer() {
    let closing = Peer::start_responding_once(Vec::new());
    let invalid = Peer::start_responding_once(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: upgrade\r\n\r\n".to_vec(),
    );
    let unavailable = Peer::start_responding_once(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n".to_vec());
    let live = named("b");
    let upstreams = [("ws", "server 127.0.0.1:1; server A:; server B:; server C:; server D: backup;")];
    let proxy = start(
        &upstreams,
        "proxy_next_upstream error invalid_header http_503;",
        &[("A:", &closing), ("B:", &invalid), ("C:", &unavailable), ("D:", &live)],
    );
    let (mut client, name) = tunnel(&proxy, "/ws", "");
    assert_eq!(name, "b");
    client.send(b"hello");
    assert_eq!(client.read_bytes(5).unwrap(), b"hello");
    assert_eq!([&closing, &invalid, &unavailable].map(|peer| peer.connections()), [1; 3]);
    proxy.wait_for_error_line(&["[warn]", "upstream server temporarily disabled"]).unwrap();
}

/// The response and the upstream variables when no other peer is left.
#[test]
fn the_last_response_counts() {
    let (a, b) = (named("a"), named("b"));
    let upstreams = [
        ("attempts", "server A:; server B:;"),
        ("busy", "server A: max_fails=0; server B: max_conns=1 max_fails=0;"),
        ("gone", "server 127.0.0.1:1; server 127.0.0.1:2;"),
    ];
    let more = "proxy_next_upstream error http_404; proxy_next_upstream_tries 2;
        add_header X-Attempts \"$upstream_addr $upstream_status\" always;";
    let proxy = start(&upstreams, more, &[("A:", &a), ("B:", &b)]);
    let both = get(&proxy, "/attempts?404", "");
    assert_eq!((both.status, both.body.as_slice()), (404, b"b".as_slice()));
    assert_eq!(both.header("X-Attempts"), Some(format!("{}, {} 404, 404", a.addr, b.addr).as_str()));
    let busy = tunnel(&proxy, "/busy", "");
    let (_tunnel, name) = if busy.1 == "a" { tunnel(&proxy, "/busy", "") } else { busy };
    assert_eq!(name, "b");
    let last = get(&proxy, "/busy?404", "");
    assert_eq!((last.status, last.body.as_slice()), (404, b"a".as_slice()), "any response is better than none");
    for _ in 0..2 {
        let gone = get(&proxy, "/gone", "");
        assert_eq!(gone.status, 502);
    }
    let gone = get(&proxy, "/gone", "");
    assert_eq!(gone.header("X-Attempts"), Some("gone 502"));
    proxy.wait_for_error_line(&["no live upstreams while connecting to upstream"]).unwrap();
}

/// When all peers are busy, requests wait in order; one whose client goes away is removed.
#[test]
fn requests_wait_in_a_queue() {
    let (a, b) = (named("a"), named("b"));
    let upstreams = [
        ("one", "server A: max_conns=1; queue 4 timeout=1h;"),
        ("short", "server A: max_conns=1; queue 1 timeout=1s;"),
        ("two", "server A: max_conns=1 route=a; server B: max_conns=1 route=b; sticky route $arg_r; queue 9;"),
    ];
    let proxy = start(&upstreams, "", &[("A:", &a), ("B:", &b)]);
    let ask = |target: &str| {
        Client::connect_and_send(proxy.addr, format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes())
    };

    let (busy, _) = tunnel(&proxy, "/one", "");
    let mut waiting: Vec<Client> = (201..=204).map(|status| ask(&format!("/one?{status}"))).collect();
    assert_eq!(get(&proxy, "/one", "").status, 502, "the queue is full");
    proxy.wait_for_error_line(&["no live upstreams, and no place in the queue"]).unwrap();
    drop(waiting.remove(1));
    proxy.wait_for_access_line(&["/one?202 HTTP/1.1\" 499 "]).unwrap();
    waiting.push(ask("/one?205"));
    drop(busy);
    let statuses: Vec<u16> = waiting.iter_mut().map(|client| client.read_response().unwrap().status).collect();
    assert_eq!(statuses, [201, 203, 204, 205]);
    let received = String::from_utf8(a.received()).unwrap();
    let received: Vec<&str> = received.lines().filter_map(|line| line.strip_prefix("GET /one?")?.get(..3)).collect();
    assert_eq!(received, ["201", "203", "204", "205"]);

    // A request may take another peer than its own; a later one does not overtake.
    let busy = [tunnel(&proxy, "/two", ""), tunnel(&proxy, "/two", "")];
    let mut waiting = [ask("/two?r=b"), ask("/two?r=a"), ask("/two?r=a")];
    let [first, _second] = busy;
    assert_eq!(first.1, "a");
    drop(first);
    for client in &mut waiting {
        assert_eq!(client.read_response().unwrap().body, b"a");
    }

    let (_tunnel, _) = tunnel(&proxy, "/short", "");
    assert_eq!(get(&proxy, "/short", "").status, 502);
    proxy.wait_for_error_line(&["no live upstreams within the time of the queue"]).unwrap();
}

/// Requests wait for failed peers until `fail_timeout` is over.
#[test]
fn the_queue_waits_for_peers_that_failed() {
    let flaky = Peer::start(|connection| {
        let Some(request) = connection.read_request() else { return };
        if connection.number >= 2 {
            connection.respond(&request, "back");
        }
    });
    let upstreams = [("u", "server A: fail_timeout=1s; server 127.0.0.1:1 fail_timeout=1s; queue 5 timeout=1h;")];
    let proxy = start(&upstreams, "", &[("A:", &flaky)]);
    assert_eq!(get(&proxy, "/u", "").status, 502, "all were tried by this request");
    let (first, second) = (get(&proxy, "/u", ""), get(&proxy, "/u", ""));
    assert!([first.status, second.status].contains(&200), "{} {}", first.status, second.status);
}

/// Binds a listening socket with a minimal backlog.
fn bind_with_small_backlog(addr: &Addr) -> OwnedFd {
    socket::listen(addr, ListenOptions { backlog: 1, ipv6_only: true }, None).unwrap()
}

/// More connections than a peer's backlog holds wait: none is rejected, none waits for seconds.
#[test]
fn connections_wait_for_a_full_backlog() {
    const HERD: usize = 100;
    const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    let dir = TempDir::new();
    let path = dir.path("peer.sock").display().to_string();
    let tcp = TcpListener::from(bind_with_small_backlog(&Addr::Ip("127.0.0.1:0".parse().unwrap())));
    let unix = UnixListener::from(bind_with_small_backlog(&Addr::Unix(path.as_str().into())));
    tcp.set_nonblocking(false).unwrap();
    unix.set_nonblocking(false).unwrap();
    let proxy = Proxy::start(&format!(
        "server {{ listen LISTEN; location /tcp {{ proxy_pass http://{}; }} location /unix {{ proxy_pass http://unix:{path}; }} }}",
        tcp.local_addr().unwrap()
    ));
    let connect_all = |target: &str| -> Vec<Client> {
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        (0..HERD).map(|_| Client::connect_and_send(proxy.addr, request.as_bytes())).collect()
    };
    let mut all: Vec<Client> = connect_all("/tcp").into_iter().chain(connect_all("/unix")).collect();
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().take(HERD).flatten() {
            let _ = stream.read(&mut [0; 1024]).and_then(|_| stream.write_all(RESPONSE));
        }
    });
    std::thread::spawn(move || {
        for mut stream in unix.incoming().take(HERD).flatten() {
            let _ = stream.read(&mut [0; 1024]).and_then(|_| stream.write_all(RESPONSE));
        }
    });
    for client in &mut all {
        client.expect_status(200).unwrap();
    }
}
