//! Fields that tell who the client is, and those of one connection only (class L).

use crate::client::{Client, expand, show};
use crate::harness::Gate;
use crate::peer::Peer;
use crate::rows::Then::{Refused, Served, ServedLast};
use crate::rows::{Row, case, check, try_rows, verify_at_once};

#[test]
fn fields_of_one_hop() {
    let rows: &[Row] = &[
        (
            "L01",
            b"{G}Connection: close, X-Forwarded-For, Cookie\r\nX-Forwarded-For: 1.1.1.1\r\nCookie: s\r\n\r\n",
            ServedLast(b"{g}X-Forwarded-For: 1.1.1.1\r\nCookie: s\r\n\r\n"),
        ),
        (
            "L01 for others",
            b"{G}Connection: Mine\r\nMine: 1\r\nTE: x\r\nKeep-Alive: 5\r\nTrailer: X\r\n\r\n",
            Served(b"{g}\r\n"),
        ),
        ("L02", b"{G}Connection: Host\r\n\r\n", Served(b"{g}\r\n")),
        ("L04", b"{G}Connection: close, keep-alive\r\n\r\n", ServedLast(b"{g}\r\n")),
        ("L04 in two lines", b"{G}Connection: keep-alive\r\nConnection: close\r\n\r\n", ServedLast(b"{g}\r\n")),
        (
            "L05",
            b"{G}X-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\
              X-Forwarded-Host: evil\r\nForwarded: for=6.6.6.6\r\nVia: 1.1 x\r\n\r\n",
            Served(
                b"{g}X-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\
                  X-Forwarded-Host: evil\r\nForwarded: for=6.6.6.6\r\nVia: 1.1 x\r\n\r\n",
            ),
        ),
        ("L06", b"{G}X_Forwarded_For: 6.6.6.6\r\n\r\n", Served(b"{g}\r\n")),
        ("credentials for us", b"{G}Proxy-Authorization: Basic eDp5\r\n\r\n", Served(b"{g}\r\n")),
        ("L14", b"{G}Proxy: http://evil\r\n\r\n", Served(b"{g}Proxy: http://evil\r\n\r\n")),
    ];
    let peer = Peer::polite();
    let config = "upstream up { server PEER; } server { listen LISTEN; location / { proxy_pass http://up; } }";
    try_rows(&Gate::before(config, &[("PEER", &peer)]), &peer, rows);
}

/// Fields that the configuration sets.
#[test]
fn fields_of_the_configuration() {
    let rows: &[Row] = &[
        (
            "L05 replaced",
            b"GET /set HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n\
              x-forwarded-proto: https\r\nX-Forwarded-Host: evil\r\nConnection: X-Real-IP\r\n\r\n",
            Served(
                b"GET /set HTTP/1.1\r\nHost: up\r\nX-Forwarded-For: 127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\n\
                  X-Forwarded-Proto: http\r\nX-Forwarded-Host: evil\r\n\r\n",
            ),
        ),
        (
            "L05 appended",
            b"GET /add HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\n\
              Connection: close, X-Forwarded-For\r\n\r\n",
            ServedLast(b"GET /add HTTP/1.1\r\nHost: up\r\nX-Forwarded-For: 6.6.6.6, 7.7.7.7, 127.0.0.1\r\n\r\n"),
        ),
        (
            "L06 with a variable",
            b"GET /add HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 6.6.6.6\r\n\r\n",
            Served(b"GET /add HTTP/1.1\r\nHost: up\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n"),
        ),
        (
            "L09",
            b"GET /arg?x=a%0d%0aTransfer-Encoding:%20chunked HTTP/1.1\r\nHost: a\r\n\r\n",
            Served(
                b"GET /arg?x=a%0d%0aTransfer-Encoding:%20chunked HTTP/1.1\r\nHost: up\r\n\
                  X-A: a%0d%0aTransfer-Encoding:%20chunked\r\n\r\n",
            ),
        ),
        ("L09 decoded", b"GET /uri/%0d%0aX-B:%20c HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
        ("L09 decoded LF", b"GET /uri/%0aX-B:%20c HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ];
    let peer = Peer::polite();
    let config = "upstream up { server PEER; } server { listen LISTEN;
        location / { proxy_pass http://up; }
        location /set { proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme; proxy_pass http://up; }
        location /add { proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_pass http://up; }
        location /arg { proxy_set_header X-A $arg_x; proxy_pass http://up; }
        location /uri { proxy_set_header X-A $uri; proxy_pass http://up; } }";
    try_rows(&Gate::before(config, &[("PEER", &peer)]), &peer, rows);
}

#[test]
fn variables_in_answers() {
    let peer = Peer::polite();
    let hundred = "$http_x".repeat(100);
    let config = "upstream up { server PEER; } server { listen LISTEN; add_header X-Echo $http_x always;
        location / { return 302 http://x$uri; }
        location /own { return 200 ok; }
        location /uri { add_header X-Uri $uri always; return 200 ok; }
        location /rewritten/ { proxy_pass http://REWRITTEN/; }
        location /much { proxy_set_header X-N HUNDRED; proxy_pass http://up; } }";
    let rewritten = Peer::polite();
    let config = config.replace("PEER", &peer.addr.to_string()).replace("REWRITTEN", &rewritten.addr.to_string());
    let gate = Gate::start(&config.replace("HUNDRED", &hundred));
    let ask = |request: &[u8], status: u16| Client::connect(gate.addr).ask(&expand(request), status);
    let cases = vec![
        case("L10", || {
            let reply = ask(b"GET /%0d%0aSet-Cookie:%20a=b HTTP/1.1\r\nHost: a\r\n\r\n", 302)?;
            check(reply.field("Set-Cookie").is_none(), || reply.head.clone())?;
            check(reply.head.contains("\r\nLocation: http://x/%0D%0ASet-Cookie:"), || reply.head)
        }),
        case("L10 in a field", || {
            let reply = ask(b"GET /uri/%0d%0aSet-Cookie:%20a=b HTTP/1.1\r\nHost: a\r\n\r\n", 200)?;
            check(reply.field("Set-Cookie").is_none() && reply.field("X-Uri").is_none(), || reply.head)
        }),
        case("L10 to an upstream", || {
            ask(b"GET /rewritten/%0d%0aX:%20y%20z HTTP/1.1\r\nHost: a\r\n\r\n", 200)?;
            check(rewritten.bytes().starts_with(b"GET /%0D%0AX:%20y%20z HTTP/1.1\r\n"), || show(&rewritten.bytes()))
        }),
        case("L12", || {
            let mut client =
                Client::asking(gate.addr, b"GET /own HTTP/1.1\r\nHost: a\r\nX: a\xff\r\nConnection: close\r\n\r\n");
            let all = client.rest()?;
            let has = |part: &[u8]| all.windows(part.len()).any(|window| window == part);
            check(has(b"\r\nX-Echo: a\xff\r\n"), || String::from_utf8_lossy(&all).into_owned())
        }),
        case("L13", || {
            // 8,000 bytes a hundred times are no head that an upstream should have to read.
            let reply = ask(b"GET /much HTTP/1.1\r\nHost: a\r\nX: a{*8000}\r\n\r\n", 500)?;
            check(reply.status == 500, || reply.head)
        }),
    ];
    verify_at_once(cases);
}

/// Values that the configuration has in several lines go out in one.
#[test]
fn values_in_lines() {
    let peer = Peer::polite();
    let config = "server { listen LISTEN; add_header Content-Security-Policy \"default-src 'self';
            img-src $http_x;\\n
            font-src *;\\n\";
        location / { proxy_set_header Host up; proxy_set_header X-Lines 'a\\n b'; proxy_pass http://PEER; } }";
    let gate = Gate::before(config, &[("PEER", &peer)]);
    let reply = Client::connect(gate.addr).ask(&expand(b"{G}X: i\r\n\r\n"), 200).unwrap();
    assert_eq!(reply.field("Content-Security-Policy"), Some("default-src 'self'; img-src i; font-src *;"));
    assert_eq!(show(&peer.bytes()), show(&expand(b"{g}X-Lines: a b\r\nX: i\r\n\r\n")));
}

#[test]
fn fields_that_are_hidden_unless_they_are_passed() {
    let peer = Peer::start(|connection| {
        connection.head();
        connection.send(
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Pad: x\r\nX-Accel-Expires: 1\r\nProxy-Authenticate: Basic\r\n\
              Proxy-Authentication-Info: y\r\n\r\n",
        );
    });
    let config = "server { listen LISTEN; location / { proxy_pass http://PEER; }
        location /all { proxy_pass http://PEER; proxy_pass_header X-Pad; proxy_pass_header X-Accel-Expires;
            proxy_pass_header Proxy-Authenticate; proxy_pass_header Proxy-Authentication-Info;
            proxy_set_header Proxy-Authorization $http_proxy_authorization; } }";
    let gate = Gate::before(config, &[("PEER", &peer)]);
    let ask = |target: &str| {
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic eDp5\r\n\r\n");
        let reply = Client::connect(gate.addr).ask(request.as_bytes(), 200).unwrap();
        ["X-Pad", "X-Accel-Expires", "Proxy-Authenticate", "Proxy-Authentication-Info"]
            .map(|name| reply.field(name).unwrap_or("-").to_owned())
    };
    assert_eq!(ask("/"), ["-"; 4]);
    assert!(!String::from_utf8_lossy(&peer.bytes()).contains("Proxy-Authorization"));
    assert_eq!(ask("/all"), ["x", "1", "Basic", "y"]);
    assert!(String::from_utf8_lossy(&peer.bytes()).contains("Proxy-Authorization: Basic eDp5\r\n"));
}
