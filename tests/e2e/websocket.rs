//! HTTP upgrades, and the tunnels they become.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cases::{case, check, check_equal, run_concurrently};
use crate::client::{Client, expand};
use crate::harness::Proxy;
use crate::peer::{Peer, SWITCHING_PROTOCOLS};
use crate::request_rows::Outcome::{Forwarded, ForwardedLast, ForwardedTimes, Rejected};
use crate::request_rows::{RequestRow, run_request_rows};

/// A plain GET as the upstream gets it.
const PLAIN: &[u8] = b"GET /ws101 HTTP/1.1\r\nHost: up\r\n\r\n";
/// An upgrade to WebSocket without other headers, as the upstream gets it.
const UPGRADE: &[u8] = b"GET /ws101 HTTP/1.1\r\nHost: up\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

/// The connection stays HTTP, as the request after it shows.
#[test]
fn upgrades_that_are_rejected_or_ignored() {
    let rows: &[RequestRow] = &[
        (
            b"{G}{W}\r\n{N}",
            ForwardedTimes(
                2,
                b"{g}Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                  Sec-WebSocket-Version: 13\r\n\r\n{n}",
            ),
        ),
        (b"GET /ws101 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n{W}\r\nhello", Rejected(400)),
        (b"GET /ws101 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n{W}\r\n5\r\nhello\r\n0\r\n\r\n", Rejected(400)),
        (
            b"POST /ws101 HTTP/1.1\r\nHost: a\r\n{W}\r\n",
            Forwarded(
                b"POST /ws101 HTTP/1.1\r\nHost: up\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                  Sec-WebSocket-Version: 13\r\n\r\n",
            ),
        ),
        (b"GET /ws101 HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", Forwarded(PLAIN)),
        (b"GET /ws101 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\r\n", Forwarded(PLAIN)),
        (b"GET /ws101 HTTP/1.1\r\nHost: a\r\nUpgrade: totally/1\r\nConnection: Upgrade\r\n\r\n", Forwarded(PLAIN)),
        (
            b"GET /ws101 HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\
              Connection: Upgrade, HTTP2-Settings\r\n\r\n",
            Forwarded(PLAIN),
        ),
        (
            b"GET /ws101 HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\
              Connection: Upgrade\r\n\r\n",
            Forwarded(PLAIN),
        ),
        (b"GET /ws101 HTTP/1.1\r\nHost: a\r\n{W}Sec-WebSocket-Key: second\r\n\r\n", Rejected(400)),
        (b"GET /ws101 HTTP/1.0\r\nHost: a\r\n{W}\r\n", ForwardedLast(
            b"GET /ws101 HTTP/1.1\r\nHost: up\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        )),
    ];
    let peer = Peer::start_echo();
    let config = "upstream up { server PEER; } server { listen LISTEN; location / { proxy_pass http://up; } }";
    run_request_rows(&Proxy::start_with_peers(config, &[("PEER", &peer)]), &peer, rows);
}

/// If the configuration sets Upgrade, all tokens of the client's header are forwarded, with any method; but WebSocket only with
/// GET, h2c never, and nothing for HTTP/1.0 or without `Connection: upgrade`.
#[test]
fn upgrades_that_are_configured() {
    let rows: &[RequestRow] = &[
        (b"GET /ws101 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n{W}\r\nhello", Rejected(400)),
        (b"GET /ws101 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n{W}\r\n5\r\nhello\r\n0\r\n\r\n", Rejected(400)),
        (
            b"POST /derp HTTP/1.1\r\nHost: a\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n\r\n",
            Forwarded(b"POST /derp HTTP/1.1\r\nHost: up\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n\r\n"),
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: totally/1\r\nConnection: Upgrade\r\n\r\n",
            Forwarded(b"{g}Upgrade: totally/1\r\nConnection: upgrade\r\n\r\n"),
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c, websocket\r\nConnection: Upgrade\r\n\r\n",
            Forwarded(b"{g}Upgrade: websocket\r\nConnection: upgrade\r\n\r\n"),
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: H2C\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\
              Connection: Upgrade, HTTP2-Settings\r\n\r\n",
            Forwarded(b"{g}Connection: upgrade\r\n\r\n"),
        ),
        (
            b"GET /ws101 HTTP/1.0\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            ForwardedLast(b"GET /ws101 HTTP/1.1\r\nHost: up\r\nConnection: upgrade\r\n\r\n"),
        ),
        (
            b"POST /attach HTTP/1.1\r\nHost: a\r\nUpgrade: tcp, WebSocket\r\nConnection: Upgrade\r\n\r\n",
            Forwarded(b"POST /attach HTTP/1.1\r\nHost: up\r\nUpgrade: tcp\r\nConnection: upgrade\r\n\r\n"),
        ),
        (
            b"POST /fixed HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello",
            Forwarded(b"POST /fixed HTTP/1.1\r\nHost: up\r\nConnection: upgrade\r\nContent-Length: 5\r\n\r\nhello"),
        ),
        (
            b"POST /fixed HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nUpgrade: TLS/1.2\r\nConnection: Upgrade\r\n\r\nhello",
            Forwarded(b"POST /fixed HTTP/1.1\r\nHost: up\r\nConnection: upgrade\r\nContent-Length: 5\r\n\r\nhello"),
        ),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nUpgrade: TLS/1.2\r\nConnection: Upgrade\r\n\r\nhello{N}",
            ForwardedTimes(
                2,
                b"POST / HTTP/1.1\r\nHost: up\r\nUpgrade: TLS/1.2\r\nConnection: upgrade\r\nContent-Length: 5\r\n\r\n\
                  hello{n}",
            ),
        ),
        (
            b"GET /plain HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
            Forwarded(b"GET /plain HTTP/1.1\r\nHost: up\r\nConnection: upgrade\r\n\r\n"),
        ),
        (
            b"GET /fixed HTTP/1.1\r\nHost: a\r\n\r\n",
            Forwarded(b"GET /fixed HTTP/1.1\r\nHost: up\r\nConnection: upgrade\r\n\r\n"),
        ),
        (
            b"{G}Upgrade: (a,){*400}\r\nUpgrade: a, b\r\nConnection: Upgrade\r\n\r\n",
            Forwarded(b"{g}Upgrade: a, b\r\nConnection: upgrade\r\n\r\n"),
        ),
        (b"GET /ws101 HTTP/1.1\r\nHost: a\r\n{W}Sec-WebSocket-Key: second\r\n\r\n", Rejected(400)),
    ];
    let peer = Peer::start_echo();
    let config = "map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
        upstream up { server PEER; }
        server { listen LISTEN;
            proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
            location / { proxy_set_header Host up; proxy_set_header Upgrade $http_upgrade;
                proxy_set_header Connection $connection_upgrade; proxy_pass http://up; }
            location /fixed { proxy_set_header Host up; proxy_set_header Upgrade websocket;
                proxy_set_header Connection upgrade; proxy_pass http://up; } }";
    run_request_rows(&Proxy::start_with_peers(config, &[("PEER", &peer)]), &peer, rows);
}

/// Docker's attach and exec: the body ends by its framing, and the 101 makes the tunnel. What follows the body waits for it; a
/// 101 before the body was sent, or without one, makes no tunnel.
#[test]
fn upgrades_with_a_body() {
    const UPGRADED: &[u8] = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    let docker = Peer::start(|connection| {
        let Some(head) = connection.read_head() else { return };
        if head.starts_with("POST /hasty ") {
            connection.send(UPGRADED);
            connection.read_to_end();
            return;
        }
        if !head.starts_with("POST /exec ") {
            connection.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
            connection.read_to_end();
            return;
        }
        let body = connection.read_bytes(16);
        if body.as_deref() == Some(br#"{"Detach":false}"#) && connection.is_quiet() {
            connection.send(UPGRADED);
            connection.echo();
        }
    });
    let config = "server { listen LISTEN; location / { proxy_pass http://PEER;
        proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; } }";
    let proxy = Proxy::start_with_peers(config, &[("PEER", &docker)]);
    let post = |target: &str, framing: &str| {
        format!("POST {target} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n{framing}\r\n\r\n")
    };
    for (framing, body) in [
        ("Content-Length: 16", r#"{"Detach":false}"#),
        ("Transfer-Encoding: chunked", "8\r\n{\"Detach\r\n8\r\n\":false}\r\n0\r\n\r\n"),
    ] {
        for behind in ["", "early"] {
            let request = post("/exec", framing) + body + behind;
            let mut client = Client::connect_and_send(proxy.addr, request.as_bytes());
            client.expect_status(101).unwrap_or_else(|why| panic!("{framing}: {why}"));
            client.send(b" late");
            let expected = format!("{behind} late");
            assert_eq!(client.read_bytes(expected.len()).unwrap(), expected.as_bytes(), "{framing}");
        }
    }
    let mut client = Client::connect_and_send(proxy.addr, post("/hasty", "Content-Length: 16").as_bytes());
    client.expect_status(502).unwrap();
    let mut client = Client::connect_and_send(proxy.addr, (post("/none", "Content-Length: 4") + "body").as_bytes());
    client.expect_status(404).unwrap();
}

/// Opens a tunnel to an echoing upstream, and sends bytes both ways. Returns the bytes that the upstream got before them.
fn tunnel(input: &[u8]) -> Result<Vec<u8>, String> {
    let peer = Peer::start_echo();
    let config = "upstream up { server PEER; } server { listen LISTEN; location / { proxy_pass http://up; } }";
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    let mut client = Client::connect_and_send(proxy.addr, &expand(input));
    let response = client.expect_status(101)?;
    check(response.header("Upgrade") == Some("websocket"), || response.head.clone())?;
    let before = peer.received();
    // Frames are not inspected: one without a mask, one of 2^63 bytes, one with a reserved opcode.
    for bytes in [&b"ping"[..], b"\x81\x02hi", b"\x82\xff\x80\0\0\0\0\0\0\0", b"\x8f\x80\0\0\0\0"] {
        client.send(bytes);
        check_equal("the client", &client.read_bytes(bytes.len())?, bytes)?;
    }
    client.shutdown_write();
    client.expect_eof()?;
    proxy.wait_for_access_line(&["\" 101 "])?;
    Ok(before)
}

#[test]
fn tunnels() {
    let upstream_gets = |input: &[u8], expected: &[u8]| check_equal("the upstream", &tunnel(input)?, expected);
    let cases = vec![
        case("WebSocket", || {
            let key = b"GET /ws101 HTTP/1.1\r\nHost: up\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
            upstream_gets(b"GET /ws101 HTTP/1.1\r\nHost: a\r\n{W}\r\n", key)
        }),
        case("among other tokens", || {
            upstream_gets(
                b"GET /ws101 HTTP/1.1\r\nHost: a\r\nUpgrade: h2c, websocket\r\nConnection: Upgrade\r\n\r\n",
                UPGRADE,
            )
        }),
        case("two Upgrade headers", || {
            let two =
                b"GET /ws101 HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n";
            upstream_gets(two, UPGRADE)
        }),
        case("an unknown version", || {
            let request = b"GET /ws101 HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 777\r\n\r\n";
            let expected = b"GET /ws101 HTTP/1.1\r\nHost: up\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 777\r\n\r\n";
            upstream_gets(request, expected)
        }),
        case("another origin", || {
            let request = b"GET /ws101 HTTP/1.1\r\nHost: a\r\nOrigin: https://evil.example\r\nCookie: victim=1\r\n\
                Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\r\n";
            let expected = b"GET /ws101 HTTP/1.1\r\nHost: up\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Origin: https://evil.example\r\nCookie: victim=1\r\n\r\n";
            upstream_gets(request, expected)
        }),
        case("many tokens", || {
            upstream_gets(
                b"GET /ws101 HTTP/1.1\r\nHost: a\r\nUpgrade: (websocket,){*700}\r\nConnection: Upgrade\r\n\r\n",
                UPGRADE,
            )
        }),
    ];
    run_concurrently(cases);
}

#[test]
fn bytes_before_the_101() {
    let too_early = Arc::new(AtomicBool::new(false));
    let seen = too_early.clone();
    let waiting = Peer::start(move |connection| {
        connection.read_head();
        seen.store(!connection.is_quiet(), Ordering::SeqCst);
        connection.send(SWITCHING_PROTOCOLS);
        connection.echo();
    });
    let (silent, refusing) = (
        Peer::start(|connection| connection.read_to_end()),
        Peer::start(move |connection| {
            connection.read_head();
            let early = !connection.is_quiet();
            connection.send(if early {
                b"HTTP/1.1 500 Early\r\nContent-Length: 0\r\n\r\n"
            } else {
                b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"
            });
            connection.read_to_end();
        }),
    );
    let config = "server { listen LISTEN;
        location /waiting { proxy_pass http://WAITING; }
        location /silent { proxy_pass http://SILENT; }
        location /refusing { proxy_pass http://REFUSING; }
        location /fixed { return 200 fixed; } }";
    let peers = [("WAITING", &waiting), ("SILENT", &silent), ("REFUSING", &refusing)];
    let proxy = Proxy::start_with_peers(config, &peers);
    let cases = vec![
        case("bytes before the 101 wait", || {
            let mut client =
                Client::connect_and_send(proxy.addr, &expand(b"GET /waiting HTTP/1.1\r\nHost: a\r\n{W}\r\nEARLYDATA"));
            client.expect_status(101)?;
            check(!too_early.load(Ordering::SeqCst), || "bytes went to the upstream before its 101".to_owned())?;
            check_equal("the client", &client.read_bytes(9)?, b"EARLYDATA")
        }),
        case("bytes before a 403 are a request", || {
            let mut client = Client::connect_and_send(
                proxy.addr,
                &expand(b"GET /refusing HTTP/1.1\r\nHost: a\r\n{W}\r\nEARLYDATA\r\n"),
            );
            client.expect_status(403)?;
            client.expect_status(400)?;
            client.expect_eof()
        }),
        case("a client that goes before the 101", || {
            let mut client =
                Client::connect_and_send(proxy.addr, &expand(b"GET /silent HTTP/1.1\r\nHost: a\r\n{W}\r\n"));
            crate::harness::wait_for("the upstream has the head", || silent.received().ends_with(b"\r\n\r\n"));
            client.shutdown_write();
            silent.expect_all_closed()?;
            proxy.wait_for_access_line(&["\"GET /silent HTTP/1.1\" 499 "])?;
            client.expect_eof()
        }),
        case("return", || {
            let mut client = Client::connect(proxy.addr);
            for _ in 0..2 {
                let response = client.request(&expand(b"GET /fixed HTTP/1.1\r\nHost: a\r\n{W}\r\n"), 200)?;
                check_equal("the client", &response.body, b"fixed")?;
                check(response.header("Upgrade").is_none(), || response.head.clone())?;
            }
            Ok(())
        }),
    ];
    run_concurrently(cases);
}
