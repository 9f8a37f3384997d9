//! DNS: responses of name servers, valid and hostile ones, and addresses that change.

use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU8, Ordering};

use crate::cases::{case, run_concurrently};
use crate::client::{Client, expand};
use crate::dns_server::{DnsServer, Question, TRUNCATED, address_record, cname_record};
use crate::harness::{Proxy, TempDir, run, wait_for};
use crate::peer::{Peer, SWITCHING_PROTOCOLS};

const HERE: &str = "127.0.0.1";

/// Responds to each `name.test` in its own way.
fn respond(question: &Question) -> Vec<Vec<u8>> {
    let good = question.address_response(HERE);
    let name = question.name.as_str();
    let addr = |name: &str| address_record(name, HERE.parse().unwrap(), 60);
    let with = |change: fn(&mut Vec<u8>)| {
        let mut bad = question.address_response("127.0.0.9");
        change(&mut bad);
        vec![bad, good.clone()]
    };
    match name {
        "plain.test" | "target.test" | "shared.test" => vec![good],
        "alias.test" if question.record_type == 1 => {
            vec![question.response(0, &[cname_record(name, "target.test"), addr("target.test")])]
        }
        "chase.test" | "alias.test" => vec![question.response(0, &[cname_record(name, "target.test")])],
        "loop.test" => vec![question.response(0, &[cname_record(name, name)])],
        "loops.test" => vec![question.response(0, &[cname_record(name, "sloop.test")])],
        "sloop.test" => vec![question.response(0, &[cname_record(name, "loops.test")])],
        "other.test" => vec![question.response(0, &[addr("elsewhere.test")])],
        "big.test" if question.over_tcp => vec![good],
        "big.test" | "cut.test" => vec![question.response(TRUNCATED, &[])],
        "wrong-id.test" => with(|bad| bad[0] ^= 1),
        "wrong-name.test" => with(|bad| bad[13] = b'W' ^ 1),
        "wrong-kind.test" => with(|bad| {
            let at = bad.windows(5).position(|five| five == b"test\0").unwrap() + 6;
            bad[at] ^= 2;
        }),
        "question.test" => with(|bad| bad[2] &= 0x7f),
        "garbage.test" => {
            vec![vec![], vec![0xff; 3], vec![0xc0; 500], question.response(0, &[vec![0xc0, 0xff, 0]]), good]
        }
        "pointers.test" => with(|bad| {
            let at = bad.windows(5).position(|five| five == b"test\0").unwrap() + 9;
            bad.truncate(at);
            bad.extend([0xc0, at as u8, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 127, 0, 0, 9]);
        }),
        "none.test" => vec![question.response(3, &[])],
        "empty.test" => vec![question.response(0, &[])],
        "trouble.test" => vec![question.response(2, &[])],
        "refused.test" => vec![question.response(5, &[])],
        "half.test" if question.record_type == 28 => vec![question.response(2, &[])],
        "half.test" => vec![good],
        "later.test" if question.earlier_queries > 0 => vec![good],
        _ => vec![],
    }
}

fn ask(proxy: &Proxy, target: &str, status: u16) -> Result<Vec<u8>, String> {
    let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    Ok(Client::connect(proxy.addr).request(request.as_bytes(), status)?.body)
}

/// A configuration that proxies `/?h=NAME` to the name, at the port of the peer.
fn config_by_name(peer: &Peer, resolver: &str) -> String {
    format!(
        "server {{ listen LISTEN; resolver {resolver}; resolver_timeout 20s;\n\
         location / {{ proxy_pass http://$arg_h:{port}; }}\n\
         location /soon {{ resolver_timeout 300ms; set $up http://$arg_h:{port}; proxy_pass $up; }} }}",
        port = peer.addr.port()
    )
}

#[test]
fn valid_responses() {
    let (peer, server) = (Peer::start_echo(), DnsServer::start(respond));
    let proxy = Proxy::start(&config_by_name(&peer, &format!("{} ipv6=off", server.addr)));
    let names = [
        "plain",
        "alias",
        "chase",
        "big",
        "wrong-id",
        "wrong-name",
        "wrong-kind",
        "question",
        "garbage",
        "pointers",
        "half",
        "later",
        "PLAIN",
    ];
    let proxy = &proxy;
    let good = |name| case(name, move || ask(proxy, &format!("/?h={name}.test"), 200).map(drop));
    run_concurrently(names.into_iter().map(good).collect());
    assert_eq!(server.query_count("plain.test", 1), 1, "names are compared without case");
    assert_eq!((server.query_count("chase.test", 1), server.query_count("chase.test", 28)), (1, 0), "IPv6 is off");
    assert_eq!(server.query_count("later.test", 1), 2, "a lost query is repeated");
}

#[test]
fn names_without_an_address() {
    let (peer, server) = (Peer::start_echo(), DnsServer::start(respond));
    let proxy = Proxy::start(&config_by_name(&peer, &server.addr.to_string()));
    let bad = |path: &'static str, name: &'static str, why: &'static str| {
        let proxy = &proxy;
        case(name, move || {
            ask(proxy, &format!("{path}?h={name}"), 502)?;
            proxy.wait_for_error_line(&[
                "[error]",
                &format!("{name} could not be resolved ("),
                &format!("{why}), client: "),
            ])
        })
    };
    run_concurrently(vec![
        bad("/", "none.test", "3: Host not found"),
        bad("/", "empty.test", "3: Host not found"),
        bad("/", "other.test", "3: Host not found"),
        bad("/", "loop.test", "3: Host not found"),
        bad("/", "loops.test", "3: Host not found"),
        bad("/", "trouble.test", "2: Server failure"),
        bad("/", "refused.test", "5: Operation refused"),
        bad("/", "half.test", "2: Server failure"),
        bad("/", "cut.test", "response truncated over TCP"),
        bad("/soon", "silent.test", "110: Operation timed out"),
        bad("/", "a..b", "3: Host not found"),
    ]);
    assert!(server.query_count("loops.test", 1) <= 16);
    assert_eq!(peer.connections(), 0);
}

/// The next server is queried if one is silent, fails or is not there.
#[test]
fn servers_in_order() {
    let (peer, good) = (Peer::start_echo(), DnsServer::start(|question| vec![question.address_response(HERE)]));
    let second = DnsServer::start(|question| match question.name.as_str() {
        "trouble.test" => vec![question.response(2, &[])],
        "none.test" => vec![question.response(3, &[])],
        _ => vec![],
    });
    let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = Proxy::start(&config_by_name(&peer, &format!("{free} {} localhost:{}", second.addr, good.addr.port())));
    run_concurrently(vec![
        case("a server failure", || ask(&proxy, "/?h=trouble.test", 200).map(drop)),
        case("no response", || ask(&proxy, "/?h=silence.test", 200).map(drop)),
        case("NXDOMAIN is final", || ask(&proxy, "/?h=none.test", 502).map(drop)),
    ]);
    assert_eq!(good.query_count("none.test", 1), 0, "the second has responded");
    let proxy = Proxy::start(&config_by_name(&peer, &free.to_string()));
    ask(&proxy, "/?h=a.test", 502).unwrap();
    proxy.wait_for_error_line(&[&format!("a.test could not be resolved ({free}: 111: ")]).unwrap();
}

#[test]
fn a_server_at_an_ipv6_address() {
    let Some(server) = DnsServer::start_at("::1", |question| vec![question.address_response(HERE)]) else { return };
    let peer = Peer::start_echo();
    let proxy = Proxy::start(&config_by_name(&peer, &server.addr.to_string()));
    ask(&proxy, "/?h=a.test", 200).unwrap();
}

/// All workers together send one query until the records expire.
#[test]
fn the_cache_is_shared_by_workers() {
    let (peer, server) = (Peer::start_echo(), DnsServer::start(respond));
    let pass = config_by_name(&peer, &format!("{} valid=1h", server.addr));
    let proxy = Proxy::start(&format!("worker_processes 3;\n{pass}"));
    let all = |_| case("shared.test", || ask(&proxy, "/?h=shared.test", 200).map(drop));
    run_concurrently((0..24).map(all).collect());
    assert_eq!((server.query_count("shared.test", 1), server.query_count("shared.test", 28)), (1, 1));
}

/// Binds two sockets to the same port, at 127.0.0.1 and 127.0.0.2.
fn listeners() -> (TcpListener, TcpListener) {
    let mut pairs = (0..100).filter_map(|_| {
        let first = TcpListener::bind("127.0.0.1:0").ok()?;
        let second = TcpListener::bind(("127.0.0.2", first.local_addr().ok()?.port())).ok()?;
        Some((first, second))
    });
    pairs.next().unwrap()
}

/// New connections follow a changed address within `valid`. An invalid response changes nothing, and neither does a reload.
#[test]
fn addresses_that_change() {
    static STATE: AtomicU8 = AtomicU8::new(0);
    let server = DnsServer::start(|question| match STATE.load(Ordering::SeqCst) {
        0 => vec![question.address_response("127.0.0.1")],
        1 => vec![question.address_response("127.0.0.2")],
        2 => vec![question.response(2, &[])],
        _ => vec![question.response(3, &[])],
    });
    let here = |listener, text: &'static str| {
        Peer::start_on(listener, move |connection| {
            while let Some(request) = connection.read_request() {
                if request.target() == "/ws" {
                    connection.send(SWITCHING_PROTOCOLS);
                    connection.echo();
                    return;
                }
                connection.respond(&request, text);
            }
        })
    };
    let (first, second) = listeners();
    let (first, second) = (here(first, "first"), here(second, "second"));
    let config = format!(
        "resolver {} valid=1s; upstream u {{ zone u 64k; server moving.test:{} resolve max_fails=0; }}\n\
         server {{ listen LISTEN; location / {{ proxy_pass http://u; proxy_http_version 1.1;\n\
         proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection Upgrade; }} }}",
        server.addr,
        first.addr.port()
    );
    let proxy = Proxy::start(&config);
    let mut tunnel = Client::connect_and_send(proxy.addr, &expand(b"GET /ws HTTP/1.1\r\nHost: a\r\n{W}\r\n"));
    assert!(tunnel.read_head().unwrap().starts_with("HTTP/1.1 101 "));
    let get = || Client::connect_and_send(proxy.addr, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").read_response().unwrap();
    assert_eq!(get().body, b"first");

    STATE.store(1, Ordering::SeqCst);
    wait_for("the new address", || get().body == b"second");
    tunnel.send(b"still there");
    assert_eq!(tunnel.read_bytes(11).unwrap(), b"still there");
    assert_eq!(second.connections(), 1);

    STATE.store(2, Ordering::SeqCst);
    let warning = ["[warn]", "moving.test could not be resolved (2: Server failure); the addresses that were known"];
    wait_for("a warning", || {
        assert_eq!(get().body, b"second");
        proxy.error_lines().iter().any(|line| warning.iter().all(|part| line.contains(part)))
    });
    proxy.write_config(&config);
    proxy.signal("HUP");
    wait_for("the reload", || proxy.error_lines().iter().any(|line| line.contains("configuration reloaded")));
    assert_eq!(get().body, b"second");

    STATE.store(3, Ordering::SeqCst);
    wait_for("NXDOMAIN takes effect", || get().status == 502);
    STATE.store(0, Ordering::SeqCst);
    wait_for("the name is back", || get().status == 200);
    tunnel.send(b"still there");
    assert_eq!(tunnel.read_bytes(11).unwrap(), b"still there");
}

#[test]
fn the_resolver_directive() {
    let dir = TempDir::new();
    let test = |name: &str, resolver: &str| {
        let file = format!("{name}.conf");
        dir.write(
            &file,
            format!("server {{ listen 8080; resolver {resolver}; location / {{ proxy_pass http://$host; }} }}"),
        );
        let output = run(&dir, &["-t"], &file);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (name, good) in [
        ("a", "127.0.0.11 valid=10s ipv6=off"),
        ("b", "[::1]:5353 [::1] 127.0.0.1:53 ns.test:54 ipv4=off ipv6=on"),
        ("c", "1.1.1.1; resolver_timeout 5s"),
    ] {
        let (code, err) = test(name, good);
        assert_eq!(code, Some(0), "{err}");
        assert!(!err.contains("note: \"resolver\""), "{err}");
    }
    for (name, bad, why) in [
        ("d", "valid=10s", "no name servers"),
        ("e", "127.0.0.1 ipv4=off ipv6=off", "cannot both be"),
        ("f", "127.0.0.1:99999", "127.0.0.1:99999"),
        ("g", "127.0.0.1 valid=x", "valid=x"),
        ("h", "127.0.0.1 ipv6=maybe", "ipv6=maybe"),
        ("i", "unix:/a", "unix:/a"),
        ("j", "127.0.0.1 what=1", "what=1"),
    ] {
        let (code, err) = test(name, bad);
        assert_eq!(code, Some(2), "{bad}");
        assert!(err.contains(why) && err.contains(&format!("{name}.conf:1:")), "{err}");
    }
}
