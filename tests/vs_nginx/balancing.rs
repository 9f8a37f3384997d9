//! Load balancing: the same keys go to the same peers, and tunnels count as connections.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::pair::{Pair, Program};
use crate::peer;
use crate::response::{fetch, format_request};

/// Upstreams with the peers `a` to `d`, each behind a location of its name.
fn pair() -> Option<Pair> {
    let addrs = ["a", "b", "c", "d"].map(peer::start);
    let upstreams = [
        ("turns", "", "a weight=5", "b", "c weight=2", "d"),
        ("least", "least_conn;", "a", "b weight=2", "c", "d backup"),
        ("text", "hash $arg_k;", "a", "b weight=3", "c", "d"),
        ("text-down", "hash $arg_k;", "a", "b weight=3", "c down", "d"),
        ("ring", "hash $arg_k consistent;", "a", "b weight=3", "c", "d"),
        ("ring-down", "hash $arg_k consistent;", "a", "b weight=3", "c down", "d"),
        ("client", "ip_hash;", "a", "b weight=2", "c", "d"),
        ("client-down", "ip_hash;", "a", "b weight=2", "c down", "d"),
        ("failing", "", "x max_fails=1 fail_timeout=1h", "b", "c", "d"),
        ("text-failing", "hash $arg_k;", "a", "x max_fails=2 fail_timeout=1h", "c weight=2", "d"),
        ("ring-failing", "hash $arg_k consistent;", "a", "x max_fails=2 fail_timeout=1h", "c weight=2", "d"),
        ("client-failing", "ip_hash;", "a", "x max_fails=2 fail_timeout=1h", "c weight=2", "d"),
        ("least-failing", "least_conn;", "a weight=3", "x max_fails=3 fail_timeout=1h", "c", "d"),
        ("twice", "", "a weight=2", "b", "a", "b weight=3"),
        ("ring-twice", "hash $arg_k consistent;", "a weight=2", "b", "a", "c"),
    ];
    let server = |text: &str| {
        let (name, more) = text.split_at(1);
        let at = name.bytes().next().unwrap().wrapping_sub(b'a') as usize;
        let addr = addrs.get(at).map_or("127.0.0.1:1".to_owned(), ToString::to_string);
        format!("server {addr}{more};")
    };
    let upstream = |(name, method, a, b, c, d): (&str, &str, &str, &str, &str, &str)| {
        let servers = [a, b, c, d].map(server).concat();
        format!("upstream {name} {{ {method} {servers} }}\n")
    };
    let location = |name: &str| format!("location /{name}/ {{ proxy_pass http://{name}; }}\n");
    let blocks = upstreams.map(upstream).concat();
    let locations = upstreams.map(|(name, ..)| location(name)).concat();
    let config = format!(
        "{blocks} server {{ listen LISTEN; set_real_ip_from 127.0.0.0/8; real_ip_header X-Real-IP;
            proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $http_connection;
            {locations} }}"
    );
    Pair::start(&config, |_| ())
}

/// Returns the names of the peers that requests came to.
fn peers(program: &Program, asked: &[String]) -> String {
    let name = |asked: &String| fetch(program.addr, asked, false).unwrap().body.first().map_or('-', |b| char::from(*b));
    asked.iter().map(name).collect()
}

#[test]
fn requests_go_to_the_same_peers() {
    let Some(pair) = pair() else { return };
    let keys = |upstream: &str| (0..150).map(|key| format!("/{upstream}/?k=key{key}")).collect::<Vec<_>>();
    let clients = |upstream: &str| {
        let client = |at: usize| [at * 37 % 250, at * 11 % 250, at * 5 % 250].map(|part| part.to_string()).join(".");
        (0..150).map(|at| format!("/{upstream}/\nX-Real-IP: 10.{}", client(at))).collect::<Vec<_>>()
    };
    let mut asked: Vec<Vec<String>> =
        ["turns", "least", "text", "text-down", "ring", "ring-down", "failing", "text-failing", "ring-failing"]
            .iter()
            .chain(&["least-failing", "twice", "ring-twice"])
            .map(|upstream| keys(upstream))
            .collect();
    let of_ipv6 = |upstream: &str| {
        let client = |at: usize| format!("2001:db8:{:x}:{:x}::{:x}", at * 977 % 65536, at * 31 % 65536, at * 7);
        (0..150).map(|at| format!("/{upstream}/\nX-Real-IP: {}", client(at))).collect::<Vec<_>>()
    };
    asked.extend(["client", "client-down", "client-failing"].map(clients));
    asked.extend([of_ipv6("client"), of_ipv6("client-down"), vec!["/text/?k=".to_owned(); 20]]);
    for asked in asked {
        let (ours, theirs) = (peers(&pair.smolgate, &asked), peers(&pair.nginx, &asked));
        assert_eq!(ours, theirs, "{}", asked[0]);
    }
}

/// Opens a tunnel. Returns it with the name of its peer.
fn tunnel(program: &Program) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(program.addr).unwrap();
    let headers = "Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    stream.write_all(&format_request(&format!("/least/\n{headers}"))).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let name = head.lines().find_map(|line| line.strip_prefix("X-Name: ")).unwrap_or_else(|| panic!("{head}"));
    (stream, name.to_owned())
}

/// Opens and closes tunnels. Returns the peer of each.
fn peers_of_tunnels(program: &Program) -> String {
    let mut random = 1u32;
    let mut open: Vec<(TcpStream, String)> = Vec::new();
    let mut came = String::new();
    for _ in 0..120 {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let drawn = (random >> 16) as usize;
        if drawn % 5 < 2 && !open.is_empty() {
            let (mut stream, _) = open.swap_remove(drawn % open.len());
            stream.shutdown(Shutdown::Write).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        } else {
            open.push(tunnel(program));
            came.extend(open.last().map(|(_, name)| name.as_str()));
        }
        let count = |wanted: &str| open.iter().filter(|(_, name)| name == wanted).count();
        came.push_str(&format!("{}{}{} ", count("a"), count("b"), count("c")));
    }
    came
}

#[test]
fn tunnels_count_as_connections() {
    let Some(pair) = pair() else { return };
    assert_eq!(peers_of_tunnels(&pair.smolgate), peers_of_tunnels(&pair.nginx));
}
