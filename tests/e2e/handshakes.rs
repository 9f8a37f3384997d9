//! Handshakes and what comes after them, as they come from who means no good (class N).

use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::client::{Client, expand, show};
use crate::harness::{Gate, PATIENCE};
use crate::peer::Peer;
use crate::rows::{case, check, same, verify_at_once};
use crate::tls::{GET, PAIR, certified, hello, start};
use crate::tls_fixtures::Clients;

/// Records that are allowed, but not in such numbers.
#[test]
fn too_much_of_what_is_allowed() {
    let (folder, ca) = certified();
    let gate = start(&folder, &format!("{PAIR} server {{ listen LISTEN ssl; return 200; }}"), &[]);
    let ends_with_alert = |sent: &[u8]| {
        let mut client = Client::asking(gate.addr, sent);
        let came = client.rest()?;
        let last = came.len().checked_sub(7).and_then(|at| came.get(at..)).unwrap_or_default();
        check(matches!(last, [21, 3, _, 0, 2, 2, _]), || show(last))
    };
    let whole = hello(0x0303, &[0xc0, 0x2b], b"");
    let warning = b"\x15\x03\x03\x00\x02\x01\x5a";
    verify_at_once(vec![
        case("N10 empty fragments", || ends_with_alert(&b"\x16\x03\x01\x00\x00".repeat(1000))),
        case("N10 empty fragments after the first message", || {
            ends_with_alert(&[&whole[..], &b"\x16\x03\x03\x00\x00".repeat(1000)].concat())
        }),
        case("N10 warnings after the first message", || {
            Client::asking(gate.addr, &[&whole[..], &warning.repeat(20)].concat()).rest().map(drop)
        }),
        case("N10 warnings at first", || {
            let mut client = Client::asking(gate.addr, &warning.repeat(20));
            client.expect(400).map(drop)
        }),
        case("N10 new keys", || {
            let mut client = Clients::trusting(&ca, None).connect(gate.addr, "a.example")?;
            client.ask(GET, 200)?;
            for _ in 0..100 {
                client.stream.conn.refresh_traffic_keys().map_err(|error| error.to_string())?;
                let _ = client.stream.conn.complete_io(&mut client.stream.sock);
            }
            match client.ask(GET, 200) {
                Ok(_) => Err("it goes on".to_owned()),
                Err(_) => Ok(()),
            }
        }),
        case("some new keys", || {
            let mut client = Clients::trusting(&ca, None).connect(gate.addr, "a.example")?;
            for _ in 0..10 {
                client.stream.conn.refresh_traffic_keys().map_err(|error| error.to_string())?;
                client.ask(GET, 200)?;
            }
            Ok(())
        }),
        case("a first message of 40 KB", || {
            let mut long = hello(0x0303, &[0xc0, 0x2b], b"");
            long.splice(3..9, [0x40, 0, 1, 0, 0x9c, 0x40]);
            long.resize(5 + 0x4000, 0);
            let next = [&b"\x16\x03\x01\x40\x00"[..], &[0; 0x4000]].concat();
            ends_with_alert(&[long, next.clone(), next].concat())
        }),
        case("a first message that claims 40 KB", || ends_with_alert(b"\x16\x03\x01\x00\x04\x01\x00\x9c\x40")),
        case("a first message that claims 40 KB, byte by byte", || {
            ends_with_alert(
                b"\x16\x03\x01\x00\x01\x01\x16\x03\x01\x00\x01\x00\x16\x03\x01\x00\x01\x9c\x16\x03\x01\x00\x01\x40",
            )
        }),
        case("a first message in too many records", || {
            let header = b"\x16\x03\x01\x00\x04\x01\x00\x4e\x20";
            ends_with_alert(&[&header[..], &b"\x16\x03\x01\x00\x01a".repeat(6000)].concat())
        }),
        case("others meanwhile", || {
            Clients::trusting(&ca, None).connect(gate.addr, "a.example")?.ask(GET, 200).map(drop)
        }),
    ]);
}

/// OpenSSL asks for it by a line with an R.
#[test]
fn a_handshake_is_not_made_anew() {
    let (folder, ca) = certified();
    let gate = start(&folder, &format!("{PAIR} server {{ listen LISTEN ssl; return 200; }}"), &[]);
    let mut command = Command::new("openssl");
    command.args(["s_client", "-tls1_2", "-connect", &gate.addr.to_string()]).stdin(Stdio::piped());
    let Ok(mut child) = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() else { return };
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"R\n").unwrap();
    let out = child.wait_with_output().unwrap();
    drop(stdin);
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(err.contains("RENEGOTIATING") && err.contains("no renegotiation"), "N12: {err}");
    Clients::trusting(&ca, None).connect(gate.addr, "a.example").unwrap().ask(GET, 200).unwrap();
}

/// Thousands begin a handshake and say nothing more: others are served, tunnels go on, and memory has a limit.
#[test]
fn handshakes_that_are_never_finished() {
    const FLOOD: usize = 2000;
    let (folder, ca) = certified();
    let peer = Peer::polite();
    let config = format!("{PAIR} server {{ listen LISTEN ssl; location / {{ proxy_pass http://PEER; }} }}");
    let gate = start(&folder, &config, &[("PEER", &peer)]);
    let clients = Clients::trusting(&ca, None);
    let mut tunnel = clients.connect(gate.addr, "a.example").unwrap();
    tunnel.ask(&expand(b"GET /ws HTTP/1.1\r\nHost: a.example\r\n{W}\r\n"), 101).unwrap();
    let before = gate.resident_kib();
    let flood: Vec<TcpStream> = (0..FLOOD).map_while(|_| stalled(&gate)).collect();
    let began = Instant::now();
    for n in 0..20u32 {
        tunnel.send(&n.to_be_bytes());
        same("N21 the tunnel", &tunnel.take(4).unwrap(), &n.to_be_bytes()).unwrap();
    }
    assert!(began.elapsed() < PATIENCE, "N21: the tunnel took {:?}", began.elapsed());
    // A new client waits for all of the flood.
    let Client { stream, .. } = Client::connect(gate.addr);
    stream.set_read_timeout(Some(4 * PATIENCE)).unwrap();
    clients.over(stream, "a.example").unwrap().ask(GET, 200).unwrap();
    assert!(flood.len() < 1000 || gate.errors().iter().any(|line| line.contains("too many handshakes are not done")));
    let each = gate.resident_kib().saturating_sub(before) * 1024 / flood.len() as u64;
    assert!(each < 20_000, "N21: {each} bytes for each of {}", flood.len());
}

/// Sends a first message and nothing else; `None` where there are no more descriptors.
fn stalled(gate: &Gate) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(gate.addr).ok()?;
    stream.write_all(&hello(0x0303, &[0xc0, 0x2b], b"")).ok()?;
    Some(stream)
}
