//! Headers: hop-by-hop ones, forged ones, and those that the configuration sets, adds or hides.

use crate::cases::{case, check, run_concurrently};
use crate::client::{Client, expand, show};
use crate::harness::Proxy;
use crate::peer::Peer;
use crate::request_rows::Outcome::{Forwarded, ForwardedLast, Rejected};
use crate::request_rows::{RequestRow, run_request_rows};

#[test]
fn hop_by_hop_headers() {
    let rows: &[RequestRow] = &[
        (
            b"{G}Connection: close, X-Forwarded-For, Cookie\r\nX-Forwarded-For: 1.1.1.1\r\nCookie: s\r\n\r\n",
            ForwardedLast(b"{g}X-Forwarded-For: 1.1.1.1\r\nCookie: s\r\n\r\n"),
        ),
        (b"{G}Connection: Mine\r\nMine: 1\r\nTE: x\r\nKeep-Alive: 5\r\nTrailer: X\r\n\r\n", Forwarded(b"{g}\r\n")),
        (b"{G}Connection: Host\r\n\r\n", Forwarded(b"{g}\r\n")),
        (b"{G}Connection: close, keep-alive\r\n\r\n", ForwardedLast(b"{g}\r\n")),
        (b"{G}Connection: keep-alive\r\nConnection: close\r\n\r\n", ForwardedLast(b"{g}\r\n")),
        (
            b"{G}X-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\
              X-Forwarded-Host: evil\r\nForwarded: for=6.6.6.6\r\nVia: 1.1 x\r\n\r\n",
            Forwarded(
                b"{g}X-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\
                  X-Forwarded-Host: evil\r\nForwarded: for=6.6.6.6\r\nVia: 1.1 x\r\n\r\n",
            ),
        ),
        (b"{G}X_Forwarded_For: 6.6.6.6\r\n\r\n", Forwarded(b"{g}\r\n")),
        (b"{G}Proxy-Authorization: Basic eDp5\r\n\r\n", Forwarded(b"{g}\r\n")),
        (b"{G}Proxy: http://evil\r\n\r\n", Forwarded(b"{g}Proxy: http://evil\r\n\r\n")),
    ];
    let peer = Peer::start_echo();
    let config = "upstream up { server PEER; } server { listen LISTEN; location / { proxy_pass http://up; } }";
    run_request_rows(&Proxy::start_with_peers(config, &[("PEER", &peer)]), &peer, rows);
}

#[test]
fn headers_that_the_configuration_sets() {
    let rows: &[RequestRow] = &[
        (
            b"GET /set HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n\
              x-forwarded-proto: https\r\nX-Forwarded-Host: evil\r\nConnection: X-Real-IP\r\n\r\n",
            Forwarded(
                b"GET /set HTTP/1.1\r\nHost: up\r\nX-Forwarded-For: 127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\n\
                  X-Forwarded-Proto: http\r\nX-Forwarded-Host: evil\r\n\r\n",
            ),
        ),
        (
            b"GET /add HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\n\
              Connection: close, X-Forwarded-For\r\n\r\n",
            ForwardedLast(b"GET /add HTTP/1.1\r\nHost: up\r\nX-Forwarded-For: 6.6.6.6, 7.7.7.7, 127.0.0.1\r\n\r\n"),
        ),
        (
            b"GET /add HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 6.6.6.6\r\n\r\n",
            Forwarded(b"GET /add HTTP/1.1\r\nHost: up\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n"),
        ),
        (
            b"GET /arg?x=a%0d%0aTransfer-Encoding:%20chunked HTTP/1.1\r\nHost: a\r\n\r\n",
            Forwarded(
                b"GET /arg?x=a%0d%0aTransfer-Encoding:%20chunked HTTP/1.1\r\nHost: up\r\n\
                  X-A: a%0d%0aTransfer-Encoding:%20chunked\r\n\r\n",
            ),
        ),
        (b"GET /uri/%0d%0aX-B:%20c HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(400)),
        (b"GET /uri/%0aX-B:%20c HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(400)),
    ];
    let peer = Peer::start_echo();
    let config = "upstream up { server PEER; } server { listen LISTEN;
        location / { proxy_pass http://up; }
        location /set { proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme; proxy_pass http://up; }
        location /add { proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_pass http://up; }
        location /arg { proxy_set_header X-A $arg_x; proxy_pass http://up; }
        location /uri { proxy_set_header X-A $uri; proxy_pass http://up; } }";
    run_request_rows(&Proxy::start_with_peers(config, &[("PEER", &peer)]), &peer, rows);
}

#[test]
fn variables_in_responses() {
    let peer = Peer::start_echo();
    let hundred = "$http_x".repeat(100);
    let config = "upstream up { server PEER; } server { listen LISTEN; add_header X-Echo $http_x always;
        location / { return 302 http://x$uri; }
        location /own { return 200 ok; }
        location /uri { add_header X-Uri $uri always; return 200 ok; }
        location /rewritten/ { proxy_pass http://REWRITTEN/; }
        location /much { proxy_set_header X-N HUNDRED; proxy_pass http://up; } }";
    let rewritten = Peer::start_echo();
    let config = config.replace("PEER", &peer.addr.to_string()).replace("REWRITTEN", &rewritten.addr.to_string());
    let proxy = Proxy::start(&config.replace("HUNDRED", &hundred));
    let ask = |request: &[u8], status: u16| Client::connect(proxy.addr).request(&expand(request), status);
    let cases = vec![
        case("$uri in Location", || {
            let response = ask(b"GET /%0d%0aSet-Cookie:%20a=b HTTP/1.1\r\nHost: a\r\n\r\n", 302)?;
            check(response.header("Set-Cookie").is_none(), || response.head.clone())?;
            check(response.head.contains("\r\nLocation: http://x/%0D%0ASet-Cookie:"), || response.head)
        }),
        case("$uri in add_header", || {
            let response = ask(b"GET /uri/%0d%0aSet-Cookie:%20a=b HTTP/1.1\r\nHost: a\r\n\r\n", 200)?;
            check(response.header("Set-Cookie").is_none() && response.header("X-Uri").is_none(), || response.head)
        }),
        case("a decoded path to an upstream", || {
            ask(b"GET /rewritten/%0d%0aX:%20y%20z HTTP/1.1\r\nHost: a\r\n\r\n", 200)?;
            check(rewritten.received().starts_with(b"GET /%0D%0AX:%20y%20z HTTP/1.1\r\n"), || {
                show(&rewritten.received())
            })
        }),
        case("bytes above 0x7f", || {
            let mut client = Client::connect_and_send(
                proxy.addr,
                b"GET /own HTTP/1.1\r\nHost: a\r\nX: a\xff\r\nConnection: close\r\n\r\n",
            );
            let all = client.read_to_end()?;
            let has = |part: &[u8]| all.windows(part.len()).any(|window| window == part);
            check(has(b"\r\nX-Echo: a\xff\r\n"), || String::from_utf8_lossy(&all).into_owned())
        }),
        case("a head that gets too large", || {
            // 8,000 bytes a hundred times are more than an upstream should have to read.
            let response = ask(b"GET /much HTTP/1.1\r\nHost: a\r\nX: a{*8000}\r\n\r\n", 500)?;
            check(response.status == 500, || response.head)
        }),
    ];
    run_concurrently(cases);
}

/// Values of several lines are sent as one line.
#[test]
fn multi_line_values() {
    let peer = Peer::start_echo();
    let config = "server { listen LISTEN; add_header Content-Security-Policy \"default-src 'self';
            img-src $http_x;\\n
            font-src *;\\n\";
        location / { proxy_set_header Host up; proxy_set_header X-Lines 'a\\n b'; proxy_pass http://PEER; } }";
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    let response = Client::connect(proxy.addr).request(&expand(b"{G}X: i\r\n\r\n"), 200).unwrap();
    assert_eq!(response.header("Content-Security-Policy"), Some("default-src 'self'; img-src i; font-src *;"));
    assert_eq!(show(&peer.received()), show(&expand(b"{g}X-Lines: a b\r\nX: i\r\n\r\n")));
}

#[test]
fn headers_that_are_hidden_by_default() {
    let peer = Peer::start(|connection| {
        connection.read_head();
        connection.send(
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Pad: x\r\nX-Accel-Expires: 1\r\nProxy-Authenticate: Basic\r\n\
              Proxy-Authentication-Info: y\r\n\r\n",
        );
    });
    let config = "server { listen LISTEN; location / { proxy_pass http://PEER; }
        location /all { proxy_pass http://PEER; proxy_pass_header X-Pad; proxy_pass_header X-Accel-Expires;
            proxy_pass_header Proxy-Authenticate; proxy_pass_header Proxy-Authentication-Info;
            proxy_set_header Proxy-Authorization $http_proxy_authorization; } }";
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    let ask = |target: &str| {
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic eDp5\r\n\r\n");
        let response = Client::connect(proxy.addr).request(request.as_bytes(), 200).unwrap();
        ["X-Pad", "X-Accel-Expires", "Proxy-Authenticate", "Proxy-Authentication-Info"]
            .map(|name| response.header(name).unwrap_or("-").to_owned())
    };
    assert_eq!(ask("/"), ["-"; 4]);
    assert!(!String::from_utf8_lossy(&peer.received()).contains("Proxy-Authorization"));
    assert_eq!(ask("/all"), ["x", "1", "Basic", "y"]);
    assert!(String::from_utf8_lossy(&peer.received()).contains("Proxy-Authorization: Basic eDp5\r\n"));
}
