//! Upgrades, and the tunnels that they become (class J).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::client::{Client, expand};
use crate::harness::Gate;
use crate::peer::{Peer, SWITCHING};
use crate::rows::Then::{Refused, Served, ServedLast, ServedTimes};
use crate::rows::{Row, case, check, same, try_rows, verify_at_once};

/// What an upstream gets of a plain GET.
const PLAIN: &[u8] = b"GET /ws101 HTTP/1.1\r\nHost: up\r\n\r\n";
/// What an upstream gets of an upgrade to WebSocket without more fields.
const UPGRADE: &[u8] = b"GET /ws101 HTTP/1.1\r\nHost: up\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

/// Upgrades that are none: the connection stays HTTP, as the request after it shows.
#[test]
fn upgrades_that_are_refused_or_passed_over() {
    let rows: &[Row] = &[
        (
            "J04",
            b"{G}{W}\r\n{N}",
            ServedTimes(
                2,
                b"{g}Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                  Sec-WebSocket-Version: 13\r\n\r\n{n}",
            ),
        ),
        ("J05", b"GET /ws101 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n{W}\r\nhello", Refused(400)),
        ("J06", b"GET /ws101 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n{W}\r\n5\r\nhello\r\n0\r\n\r\n", Refused(400)),
        (
            "J08",
            b"POST /ws101 HTTP/1.1\r\nHost: a\r\n{W}\r\n",
            Served(
                b"POST /ws101 HTTP/1.1\r\nHost: up\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                  Sec-WebSocket-Version: 13\r\n\r\n",
            ),
        ),
        ("J09", b"GET /ws101 HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", Served(PLAIN)),
        ("J10", b"GET /ws101 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\r\n", Served(PLAIN)),
        ("J14", b"GET /ws101 HTTP/1.1\r\nHost: a\r\nUpgrade: totally/1\r\nConnection: Upgrade\r\n\r\n", Served(PLAIN)),
        (
            "J16",
            b"GET /ws101 HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\
              Connection: Upgrade, HTTP2-Settings\r\n\r\n",
            Served(PLAIN),
        ),
        (
            "J17",
            b"GET /ws101 HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\
              Connection: Upgrade\r\n\r\n",
            Served(PLAIN),
        ),
        ("J21", b"GET /ws101 HTTP/1.1\r\nHost: a\r\n{W}Sec-WebSocket-Key: second\r\n\r\n", Refused(400)),
        ("J01 in HTTP/1.0", b"GET /ws101 HTTP/1.0\r\nHost: a\r\n{W}\r\n", ServedLast(
            b"GET /ws101 HTTP/1.1\r\nHost: up\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        )),
    ];
    let peer = Peer::polite();
    let config = "upstream up { server PEER; } server { listen LISTEN; location / { proxy_pass http://up; } }";
    try_rows(&Gate::before(config, &[("PEER", &peer)]), &peer, rows);
}

/// Where the configuration sets Upgrade, any token that the client asks for goes to the upstream, with any method; but
/// WebSocket only with GET, h2c never, and nothing for HTTP/1.0 or without `Connection: upgrade`.
#[test]
fn upgrades_that_are_configured() {
    let rows: &[Row] = &[
        ("J05 configured", b"GET /ws101 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n{W}\r\nhello", Refused(400)),
        ("J06 configured", b"GET /ws101 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n{W}\r\n5\r\nhello\r\n0\r\n\r\n", Refused(400)),
        (
            "J08 configured",
            b"POST /derp HTTP/1.1\r\nHost: a\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n\r\n",
            Served(b"POST /derp HTTP/1.1\r\nHost: up\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n\r\n"),
        ),
        (
            "J14 configured",
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: totally/1\r\nConnection: Upgrade\r\n\r\n",
            Served(b"{g}Upgrade: totally/1\r\nConnection: upgrade\r\n\r\n"),
        ),
        (
            "J12 configured",
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c, websocket\r\nConnection: Upgrade\r\n\r\n",
            Served(b"{g}Upgrade: websocket\r\nConnection: upgrade\r\n\r\n"),
        ),
        (
            "J16 configured",
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: H2C\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\
              Connection: Upgrade, HTTP2-Settings\r\n\r\n",
            Served(b"{g}Connection: upgrade\r\n\r\n"),
        ),
        (
            "J01 in HTTP/1.0, configured",
            b"GET /ws101 HTTP/1.0\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            ServedLast(b"GET /ws101 HTTP/1.1\r\nHost: up\r\nConnection: upgrade\r\n\r\n"),
        ),
        (
            "J08 by POST, configured",
            b"POST /attach HTTP/1.1\r\nHost: a\r\nUpgrade: tcp, WebSocket\r\nConnection: Upgrade\r\n\r\n",
            Served(b"POST /attach HTTP/1.1\r\nHost: up\r\nUpgrade: tcp\r\nConnection: upgrade\r\n\r\n"),
        ),
        (
            "J09 configured",
            b"GET /plain HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
            Served(b"GET /plain HTTP/1.1\r\nHost: up\r\nConnection: upgrade\r\n\r\n"),
        ),
        (
            "J09 fixed",
            b"GET /fixed HTTP/1.1\r\nHost: a\r\n\r\n",
            Served(b"GET /fixed HTTP/1.1\r\nHost: up\r\nConnection: upgrade\r\n\r\n"),
        ),
        (
            "J24 configured",
            b"{G}Upgrade: (a,){*400}\r\nUpgrade: a, b\r\nConnection: Upgrade\r\n\r\n",
            Served(b"{g}Upgrade: a, b\r\nConnection: upgrade\r\n\r\n"),
        ),
        ("J21 configured", b"GET /ws101 HTTP/1.1\r\nHost: a\r\n{W}Sec-WebSocket-Key: second\r\n\r\n", Refused(400)),
    ];
    let peer = Peer::polite();
    let config = "map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
        upstream up { server PEER; }
        server { listen LISTEN;
            proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
            location / { proxy_set_header Host up; proxy_set_header Upgrade $http_upgrade;
                proxy_set_header Connection $connection_upgrade; proxy_pass http://up; }
            location /fixed { proxy_set_header Host up; proxy_set_header Upgrade websocket;
                proxy_set_header Connection upgrade; proxy_pass http://up; } }";
    try_rows(&Gate::before(config, &[("PEER", &peer)]), &peer, rows);
}

/// Opens a tunnel through a polite upstream, and sends bytes both ways: what the upstream got before them.
fn tunnel(input: &[u8]) -> Result<Vec<u8>, String> {
    let peer = Peer::polite();
    let config = "upstream up { server PEER; } server { listen LISTEN; location / { proxy_pass http://up; } }";
    let gate = Gate::before(config, &[("PEER", &peer)]);
    let mut client = Client::asking(gate.addr, &expand(input));
    let reply = client.expect(101)?;
    check(reply.field("Upgrade") == Some("websocket"), || reply.head.clone())?;
    let before = peer.bytes();
    // Frames are not looked at: one without a mask, one of 2^63 bytes, one of a reserved kind.
    for bytes in [&b"ping"[..], b"\x81\x02hi", b"\x82\xff\x80\0\0\0\0\0\0\0", b"\x8f\x80\0\0\0\0"] {
        client.send(bytes);
        same("the client", &client.take(bytes.len())?, bytes)?;
    }
    client.finish();
    client.expect_end()?;
    gate.wait_for_access(&["\" 101 "])?;
    Ok(before)
}

#[test]
fn tunnels() {
    let upstream_gets = |input: &[u8], expected: &[u8]| same("the upstream", &tunnel(input)?, expected);
    let cases = vec![
        case("J01", || {
            let key = b"GET /ws101 HTTP/1.1\r\nHost: up\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
            upstream_gets(b"GET /ws101 HTTP/1.1\r\nHost: a\r\n{W}\r\n", key)
        }),
        case("J12", || {
            upstream_gets(
                b"GET /ws101 HTTP/1.1\r\nHost: a\r\nUpgrade: h2c, websocket\r\nConnection: Upgrade\r\n\r\n",
                UPGRADE,
            )
        }),
        case("J13", || {
            let two =
                b"GET /ws101 HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n";
            upstream_gets(two, UPGRADE)
        }),
        case("J18", || {
            let strange = b"GET /ws101 HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 777\r\n\r\n";
            let expected = b"GET /ws101 HTTP/1.1\r\nHost: up\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 777\r\n\r\n";
            upstream_gets(strange, expected)
        }),
        case("J20", || {
            let foreign = b"GET /ws101 HTTP/1.1\r\nHost: a\r\nOrigin: https://evil.example\r\nCookie: victim=1\r\n\
                Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\r\n";
            let expected = b"GET /ws101 HTTP/1.1\r\nHost: up\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Origin: https://evil.example\r\nCookie: victim=1\r\n\r\n";
            upstream_gets(foreign, expected)
        }),
        // J22, frames that break RFC 6455, is part of each tunnel here.
        case("J24", || {
            upstream_gets(
                b"GET /ws101 HTTP/1.1\r\nHost: a\r\nUpgrade: (websocket,){*700}\r\nConnection: Upgrade\r\n\r\n",
                UPGRADE,
            )
        }),
    ];
    verify_at_once(cases);
}

#[test]
fn bytes_before_the_101() {
    let too_early = Arc::new(AtomicBool::new(false));
    let seen = too_early.clone();
    let held = Peer::start(move |connection| {
        connection.head();
        seen.store(!connection.is_quiet(), Ordering::SeqCst);
        connection.send(SWITCHING);
        connection.echo();
    });
    let (silent, refusing) = (
        Peer::start(|connection| connection.drain()),
        Peer::start(move |connection| {
            connection.head();
            let early = !connection.is_quiet();
            connection.send(if early {
                b"HTTP/1.1 500 Early\r\nContent-Length: 0\r\n\r\n"
            } else {
                b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"
            });
            connection.drain();
        }),
    );
    let config = "server { listen LISTEN;
        location /held { proxy_pass http://HELD; }
        location /silent { proxy_pass http://SILENT; }
        location /refusing { proxy_pass http://REFUSING; }
        location /fixed { return 200 fixed; } }";
    let peers = [("HELD", &held), ("SILENT", &silent), ("REFUSING", &refusing)];
    let gate = Gate::before(config, &peers);
    let cases = vec![
        case("J02", || {
            let mut client = Client::asking(gate.addr, &expand(b"GET /held HTTP/1.1\r\nHost: a\r\n{W}\r\nEARLYDATA"));
            client.expect(101)?;
            check(!too_early.load(Ordering::SeqCst), || "bytes went to the upstream before its 101".to_owned())?;
            same("the client", &client.take(9)?, b"EARLYDATA")
        }),
        case("J02 refused", || {
            // What was meant for a tunnel is a request if there is none.
            let mut client =
                Client::asking(gate.addr, &expand(b"GET /refusing HTTP/1.1\r\nHost: a\r\n{W}\r\nEARLYDATA\r\n"));
            client.expect(403)?;
            client.expect(400)?;
            client.expect_end()
        }),
        case("J25", || {
            let mut client = Client::asking(gate.addr, &expand(b"GET /silent HTTP/1.1\r\nHost: a\r\n{W}\r\n"));
            crate::harness::wait_for("the upstream has the head", || silent.bytes().ends_with(b"\r\n\r\n"));
            client.finish();
            silent.expect_all_closed()?;
            gate.wait_for_access(&["\"GET /silent HTTP/1.1\" 499 "])?;
            client.expect_end()
        }),
        case("J26", || {
            let mut client = Client::connect(gate.addr);
            for _ in 0..2 {
                let reply = client.ask(&expand(b"GET /fixed HTTP/1.1\r\nHost: a\r\n{W}\r\n"), 200)?;
                same("the client", &reply.body, b"fixed")?;
                check(reply.field("Upgrade").is_none(), || reply.head.clone())?;
            }
            Ok(())
        }),
    ];
    verify_at_once(cases);
}
