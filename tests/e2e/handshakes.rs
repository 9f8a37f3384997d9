//! TLS against hostile clients: floods of records, renegotiation, unfinished handshakes.

use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::cases::{case, check, check_equal, run_concurrently};
use crate::client::{Client, expand, show};
use crate::harness::{Proxy, TIMEOUT};
use crate::peer::Peer;
use crate::tls::{GET, PAIR, certificates, client_hello, start};
use crate::tls_fixtures::TlsConnector;

/// Records that are valid, but too many.
#[test]
fn floods_of_records() {
    let (dir, ca) = certificates();
    let proxy = start(&dir, &format!("{PAIR} server {{ listen LISTEN ssl; return 200; }}"), &[]);
    let ends_with_alert = |sent: &[u8]| {
        let mut client = Client::connect_and_send(proxy.addr, sent);
        let received = client.read_to_end()?;
        let last = received.len().checked_sub(7).and_then(|at| received.get(at..)).unwrap_or_default();
        check(matches!(last, [21, 3, _, 0, 2, 2, _]), || show(last))
    };
    let whole = client_hello(0x0303, &[0xc0, 0x2b], b"");
    let warning = b"\x15\x03\x03\x00\x02\x01\x5a";
    run_concurrently(vec![
        case("empty fragments", || ends_with_alert(&b"\x16\x03\x01\x00\x00".repeat(1000))),
        case("empty fragments after the ClientHello", || {
            ends_with_alert(&[&whole[..], &b"\x16\x03\x03\x00\x00".repeat(1000)].concat())
        }),
        case("warnings after the ClientHello", || {
            Client::connect_and_send(proxy.addr, &[&whole[..], &warning.repeat(20)].concat()).read_to_end().map(drop)
        }),
        case("warnings instead of a ClientHello", || {
            let mut client = Client::connect_and_send(proxy.addr, &warning.repeat(20));
            client.expect_status(400).map(drop)
        }),
        case("KeyUpdates", || {
            let mut client = TlsConnector::trusting(&ca, None).connect(proxy.addr, "a.example")?;
            client.request(GET, 200)?;
            for _ in 0..100 {
                client.stream.conn.refresh_traffic_keys().map_err(|error| error.to_string())?;
                let _ = client.stream.conn.complete_io(&mut client.stream.sock);
            }
            match client.request(GET, 200) {
                Ok(_) => Err("the connection stays open".to_owned()),
                Err(_) => Ok(()),
            }
        }),
        case("a few KeyUpdates", || {
            let mut client = TlsConnector::trusting(&ca, None).connect(proxy.addr, "a.example")?;
            for _ in 0..10 {
                client.stream.conn.refresh_traffic_keys().map_err(|error| error.to_string())?;
                client.request(GET, 200)?;
            }
            Ok(())
        }),
        case("a ClientHello of 40 KB", || {
            let mut long = client_hello(0x0303, &[0xc0, 0x2b], b"");
            long.splice(3..9, [0x40, 0, 1, 0, 0x9c, 0x40]);
            long.resize(5 + 0x4000, 0);
            let next = [&b"\x16\x03\x01\x40\x00"[..], &[0; 0x4000]].concat();
            ends_with_alert(&[long, next.clone(), next].concat())
        }),
        case("a ClientHello that claims 40 KB", || ends_with_alert(b"\x16\x03\x01\x00\x04\x01\x00\x9c\x40")),
        case("a ClientHello that claims 40 KB, byte by byte", || {
            ends_with_alert(
                b"\x16\x03\x01\x00\x01\x01\x16\x03\x01\x00\x01\x00\x16\x03\x01\x00\x01\x9c\x16\x03\x01\x00\x01\x40",
            )
        }),
        case("a ClientHello in too many records", || {
            let header = b"\x16\x03\x01\x00\x04\x01\x00\x4e\x20";
            ends_with_alert(&[&header[..], &b"\x16\x03\x01\x00\x01a".repeat(6000)].concat())
        }),
        case("others meanwhile", || {
            TlsConnector::trusting(&ca, None).connect(proxy.addr, "a.example")?.request(GET, 200).map(drop)
        }),
    ]);
}

/// `openssl s_client` renegotiates on a line with an R.
#[test]
fn renegotiation_is_refused() {
    let (dir, ca) = certificates();
    let proxy = start(&dir, &format!("{PAIR} server {{ listen LISTEN ssl; return 200; }}"), &[]);
    let mut command = Command::new("openssl");
    command.args(["s_client", "-tls1_2", "-connect", &proxy.addr.to_string()]).stdin(Stdio::piped());
    let Ok(mut child) = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() else { return };
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"R\n").unwrap();
    let out = child.wait_with_output().unwrap();
    drop(stdin);
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(err.contains("RENEGOTIATING") && err.contains("no renegotiation"), "{err}");
    TlsConnector::trusting(&ca, None).connect(proxy.addr, "a.example").unwrap().request(GET, 200).unwrap();
}

/// Thousands of unfinished handshakes: other clients are served, tunnels work, and memory is bounded.
#[test]
fn unfinished_handshakes() {
    const FLOOD: usize = 2000;
    let (dir, ca) = certificates();
    let peer = Peer::start_echo();
    let config = format!("{PAIR} server {{ listen LISTEN ssl; location / {{ proxy_pass http://PEER; }} }}");
    let proxy = start(&dir, &config, &[("PEER", &peer)]);
    let clients = TlsConnector::trusting(&ca, None);
    let mut tunnel = clients.connect(proxy.addr, "a.example").unwrap();
    tunnel.request(&expand(b"GET /ws HTTP/1.1\r\nHost: a.example\r\n{W}\r\n"), 101).unwrap();
    let before = proxy.resident_kib();
    let flood: Vec<TcpStream> = (0..FLOOD).map_while(|_| start_handshake(&proxy)).collect();
    let began = Instant::now();
    for n in 0..20u32 {
        tunnel.send(&n.to_be_bytes());
        check_equal("the tunnel", &tunnel.read_bytes(4).unwrap(), &n.to_be_bytes()).unwrap();
    }
    assert!(began.elapsed() < TIMEOUT, "the tunnel took {:?}", began.elapsed());
    // A new client waits for the whole flood.
    let Client { stream, .. } = Client::connect(proxy.addr);
    stream.set_read_timeout(Some(4 * TIMEOUT)).unwrap();
    clients.handshake(stream, "a.example").unwrap().request(GET, 200).unwrap();
    assert!(flood.len() < 1000 || proxy.error_lines().iter().any(|line| line.contains("too many pending handshakes")));
    let each = proxy.resident_kib().saturating_sub(before) * 1024 / flood.len() as u64;
    assert!(each < 20_000, "{each} bytes for each of {}", flood.len());
}

/// Sends a ClientHello and nothing else; `None` if there are no more descriptors.
fn start_handshake(proxy: &Proxy) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(proxy.addr).ok()?;
    stream.write_all(&client_hello(0x0303, &[0xc0, 0x2b], b"")).ok()?;
    Some(stream)
}
