//! Request heads: request lines, targets, hosts, headers and their limits.

use crate::cases::{case, check, check_equal, run_cases};
use crate::client::{Client, expand};
use crate::harness::{Proxy, TIMEOUT, poll_within};
use crate::peer::Peer;
use crate::request_rows::Outcome::{Forwarded, ForwardedLast, Rejected};
use crate::request_rows::{Outcome, RequestRow, run_request_rows};

fn bare(peer: &Peer) -> Proxy {
    let config = "upstream up { server PEER; } server { listen LISTEN; location / { proxy_pass http://up; } }";
    Proxy::start_with_peers(config, &[("PEER", peer)])
}

#[test]
fn request_lines() {
    let rows: &[RequestRow] = &[
        (b"GET / HTTP/1.1\nHost: a\r\n\r\n", Rejected(400)),
        (b"GET / HTTP/1.0\nHost: a\nX: y\n\n", ForwardedLast(b"{g}X: y\r\n\r\n")),
        (b"GET / HTTP/1.0\nHost: a\nConnection: keep-alive\n\n{N}", ForwardedLast(b"{g}\r\n")),
        (b"GET / HTTP/1.0\nHost: a\r\n\r\n", Rejected(400)),
        (b"GET / HTTP/1.0\r\nHost: a\r\n\n", Rejected(400)),
        (b"\r\n\r\n{G}\r\n", Rejected(400)),
        (b"\r\n{G}\r\n", Forwarded(b"{g}\r\n")),
        (b"\r{G}\r\n", Rejected(400)),
        (b"(\r\n){*5000}{G}\r\n", Rejected(400)),
        (b"(\r\n){*256}{G}\r\n", Rejected(400)),
        (b"(\r\n){*257}{G}\r\n", Rejected(400)),
        (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(400)),
        (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Rejected(400)),
        (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(400)),
        (b"GET /\r\n", Rejected(400)),
        (b"POST /\r\n\r\n", Rejected(400)),
        (b"GET / HTTP/1.0\r\n\r\n", ForwardedLast(b"{g}\r\n")),
        (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", Rejected(505)),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", Rejected(505)),
        (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", Rejected(505)),
        (b"GET / HTTP/01.1\r\nHost: a\r\n\r\n", Rejected(400)),
        (b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", Rejected(400)),
        (b"GET / HTTP/1\r\nHost: a\r\n\r\n", Rejected(400)),
        (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(400)),
        (b"FOOBAR / HTTP/1.1\r\nHost: a\r\n\r\n", Forwarded(b"FOOBAR / HTTP/1.1\r\nHost: up\r\n\r\n")),
        (b"!#$%&'*+-.^_`|~ / HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(400)),
        (b"G\"T / HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(400)),
        (b"A{*5000} / HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(400)),
        (b"A{*33} / HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(400)),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", Rejected(405)),
        (b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(400)),
        (b"CONNECT /:443 HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(400)),
        (b"TRACE / HTTP/1.1\r\nHost: a\r\nCookie: s=1\r\n\r\n", Rejected(405)),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(400)),
        (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(400)),
    ];
    let peer = Peer::start_echo();
    run_request_rows(&bare(&peer), &peer, rows);
}

#[test]
fn targets() {
    let rows: &[RequestRow] = &[
        (b"GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n", Forwarded(b"GET /x HTTP/1.1\r\nHost: up\r\n\r\n")),
        (b"GET http://evil/x HTTP/1.1\r\nHost: a\r\n\r\n", Forwarded(b"GET /x HTTP/1.1\r\nHost: up\r\n\r\n")),
        (b"GET http://a/x HTTP/1.1\r\nHost: a b\r\n\r\n", Rejected(400)),
        (b"GET http://a/x HTTP/1.1\r\n\r\n", Rejected(400)),
        (b"GET http://u:p@a/x HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(400)),
        (b"GET ftp://a/x HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(400)),
        (b"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", Forwarded(b"{g}\r\n")),
        (b"GET http://a?q HTTP/1.1\r\nHost: a\r\n\r\n", Forwarded(b"GET /?q HTTP/1.1\r\nHost: up\r\n\r\n")),
        (b"GET foo HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(400)),
        (b"GET ! HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(400)),
        (b"GET @evil.com/x HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(400)),
        (b"GET ?a HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(400)),
        (b"GET HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(400)),
        (b"GET /x#f HTTP/1.1\r\nHost: a\r\n\r\n", Forwarded(b"GET /x HTTP/1.1\r\nHost: up\r\n\r\n")),
        (b"GET /b#/?x HTTP/1.1\r\nHost: a\r\n\r\n", Forwarded(b"GET /b HTTP/1.1\r\nHost: up\r\nIn: b\r\n\r\n")),
        (b"GET # HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(400)),
        (b"GET /x%00.html HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(400)),
        (b"GET /x\x00y HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(400)),
        (
            b"GET /caf\xc3\xa9?\xff HTTP/1.1\r\nHost: a\r\n\r\n",
            Forwarded(b"GET /caf\xc3\xa9?\xff HTTP/1.1\r\nHost: up\r\n\r\n"),
        ),
        (b"GET /\x80 HTTP/1.1\r\nHost: [fe80::1%25eth0]\r\n\r\n", Forwarded(b"GET /\x80 HTTP/1.1\r\nHost: up\r\n\r\n")),
        (b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(400)),
        (b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(400)),
        (b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(400)),
        (b"GET /\"<>{}|^` HTTP/1.1\r\nHost: a\r\n\r\n", Forwarded(b"GET /\"<>{}|^` HTTP/1.1\r\nHost: up\r\n\r\n")),
        (b"GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", Forwarded(b"GET /a\\b HTTP/1.1\r\nHost: up\r\n\r\n")),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(400)),
        (
            b"GET /a/%2e%2e/b HTTP/1.1\r\nHost: a\r\n\r\n",
            Forwarded(b"GET /a/%2e%2e/b HTTP/1.1\r\nHost: up\r\nIn: b\r\n\r\n"),
        ),
        (
            b"GET /a/%252e%252e/b HTTP/1.1\r\nHost: a\r\n\r\n",
            Forwarded(b"GET /a/%252e%252e/b HTTP/1.1\r\nHost: up\r\nIn: a\r\n\r\n"),
        ),
        (
            b"GET /a/..%2fb HTTP/1.1\r\nHost: a\r\n\r\n",
            Forwarded(b"GET /a/..%2fb HTTP/1.1\r\nHost: up\r\nIn: b\r\n\r\n"),
        ),
        (b"GET //a//b HTTP/1.1\r\nHost: a\r\n\r\n", Forwarded(b"GET //a//b HTTP/1.1\r\nHost: up\r\nIn: a\r\n\r\n")),
        (b"GET /a;x=1/..;/b HTTP/1.1\r\nHost: a\r\n\r\n", Forwarded(b"GET /a;x=1/..;/b HTTP/1.1\r\nHost: up\r\n\r\n")),
        (
            b"GET /%c0%ae%c0%ae/%c0%af HTTP/1.1\r\nHost: a\r\n\r\n",
            Forwarded(b"GET /%c0%ae%c0%ae/%c0%af HTTP/1.1\r\nHost: up\r\n\r\n"),
        ),
        (b"GET /a{*65000} HTTP/1.1\r\nHost: a\r\n\r\n", Rejected(414)),
    ];
    let peer = Peer::start_echo();
    let config = "upstream up { server PEER; } server { listen LISTEN;
        location / { proxy_pass http://up; }
        location /a/ { proxy_set_header In a; proxy_pass http://up; }
        location /b { proxy_set_header In b; proxy_pass http://up; } }";
    run_request_rows(&Proxy::start_with_peers(config, &[("PEER", &peer)]), &peer, rows);
}

/// `$host` and `$http_host` of an absolute URI, and redirects of paths with several slashes.
#[test]
fn hosts_and_redirects_of_targets() {
    let peer = Peer::start_echo();
    let config = "upstream up { server PEER; } server { listen LISTEN;
        location / { proxy_set_header Host $host; proxy_set_header X-Host $http_host; proxy_pass http://up; }
        location /r/ { proxy_pass http://up; } }";
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    let location = |target: &str| {
        let mut client = Client::connect(proxy.addr);
        let response = client.request(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), 301)?;
        Ok::<_, String>(response.header("Location").unwrap_or_default().to_owned())
    };
    let upstream_gets = |request: &[u8], expected: &[u8]| {
        let before = peer.received().len();
        Client::connect(proxy.addr).request(request, 200)?;
        check_equal("the upstream", &peer.received()[before..], expected)
    };
    let cases = [
        case("the authority is the host, in lower case", || {
            let expected = b"GET /x HTTP/1.1\r\nHost: a\r\nX-Host: A\r\n\r\n";
            upstream_gets(b"GET http://A/x HTTP/1.1\r\nHost: a:80\r\n\r\n", expected)
        }),
        case("the authority is the host, in lower case", || {
            let expected = b"GET /x HTTP/1.1\r\nHost: evil\r\nX-Host: Evil:81\r\n\r\n";
            upstream_gets(b"GET http://Evil:81/x HTTP/1.1\r\nHost: a\r\n\r\n", expected)
        }),
        case("a redirect of /r", || {
            let (is, expected) = (location("/r?x")?, format!("http://a:{}/r/?x", proxy.addr.port()));
            check(is == expected, || format!("{is} instead of {expected}"))
        }),
        case("a redirect of //r", || {
            let (is, expected) = (location("//r")?, format!("http://a:{}/r/", proxy.addr.port()));
            check(is == expected, || format!("{is} instead of {expected}"))
        }),
    ];
    run_cases(cases);
}

#[test]
fn hosts() {
    const NAMED: Outcome = Forwarded(b"{g}Server: a\r\n\r\n");
    let rows: &[RequestRow] = &[
        (b"GET / HTTP/1.1\r\n\r\n", Rejected(400)),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", Rejected(400)),
        (b"GET / HTTP/1.0\r\nHost:\r\n\r\n", Rejected(400)),
        (b"{G}Host: a\r\n\r\n", Rejected(400)),
        (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Rejected(400)),
        (b"GET / HTTP/1.1\r\nHost: a/p\r\n\r\n", Rejected(400)),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Rejected(400)),
        (b"GET / HTTP/1.1\r\nHost: a:80\r\n\r\n", NAMED),
        (b"GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n", Rejected(400)),
        (b"GET / HTTP/1.1\r\nHost: a:-1\r\n\r\n", Rejected(400)),
        (b"GET / HTTP/1.1\r\nHost: a:\r\n\r\n", NAMED),
        (b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n", Rejected(400)),
        (b"GET / HTTP/1.1\r\nHost: a.\r\n\r\n", NAMED),
        (b"GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n", Forwarded(b"{g}\r\n")),
        (b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", Rejected(400)),
        (b"GET / HTTP/1.1\r\nHost: a\"b\r\n\r\n", Rejected(400)),
        (b"GET / HTTP/1.1\r\nHost: <script>\r\n\r\n", Rejected(400)),
        (b"GET / HTTP/1.1\r\nHost: \xc3\xa9\r\n\r\n", Rejected(400)),
        (b"GET / HTTP/1.1\r\nHost: a?x\r\n\r\n", Rejected(400)),
        (b"GET / HTTP/1.1\r\nHost: a#x\r\n\r\n", Rejected(400)),
        (b"GET / HTTP/1.1\r\nHost: a%0d%0ax\r\n\r\n", Rejected(400)),
        (b"GET / HTTP/1.1\r\nHost: a;b\r\n\r\n", Rejected(400)),
    ];
    let peer = Peer::start_echo();
    let config = "upstream up { server PEER; }
        server { listen LISTEN; server_name other; location / { proxy_pass http://up; } location /probe { proxy_pass http://up; } }
        server { listen LISTEN; server_name a; location / { proxy_set_header Server a; proxy_pass http://up; }
            location /probe { proxy_pass http://up; } }";
    run_request_rows(&Proxy::start_with_peers(config, &[("PEER", &peer)]), &peer, rows);
}

#[test]
fn headers() {
    let rows: &[RequestRow] = &[
        (b"{G}X: y\n\r\n", Rejected(400)),
        (b"GET / HTTP/1.1\nHost: a\n\n", Rejected(400)),
        (b"{G}X: a\rb\r\n\r\n", Rejected(400)),
        (b"{G}X: a\rTransfer-Encoding: chunked\r\n\r\n", Rejected(400)),
        (b"{G}X: a\r\r\n\r\n", Rejected(400)),
        (b"{G}X: a\x00b\r\n\r\n", Rejected(400)),
        (b"{G}X: a\x07\x08\x1bb\r\n\r\n", Rejected(400)),
        (b"{G}X: \x0bb\r\n\r\n", Rejected(400)),
        (b"{G}X: a\xff\xa0b\r\n\r\n", Forwarded(b"{g}X: a\xff\xa0b\r\n\r\n")),
        (b"{G}X:\t \xa0a\xa0 \t\r\n\r\n", Forwarded(b"{g}X: \xa0a\xa0\r\n\r\n")),
        (b"{G}X : a\r\n\r\n", Rejected(400)),
        (b"{G}X\t: a\r\n\r\n", Rejected(400)),
        (b"{G}X: a\r\n\tb\r\n\r\n", Rejected(400)),
        (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", Rejected(400)),
        (b"{G}bogus\r\n\r\n", Rejected(400)),
        (b"{G}X(Y): v\r\n\r\n", Rejected(400)),
        (b"{G}X\xef: v\r\n\r\n", Rejected(400)),
        (b"{G}X Y: v\r\n\r\n", Rejected(400)),
        (b"{G}X.Y: v\r\n\r\n", Forwarded(b"{g}\r\n")),
        (b"{G}X:\r\n\r\n", Forwarded(b"{g}X: \r\n\r\n")),
        (b"{P}Content_Length: 5\r\n\r\n", Forwarded(b"{p}\r\n")),
    ];
    let peer = Peer::start_echo();
    run_request_rows(&bare(&peer), &peer, rows);
}

/// Headers that are ambiguous if they are repeated.
#[test]
fn headers_that_may_stand_only_once() {
    let rows: &[RequestRow] = &[
        (b"{G}Authorization: Basic YTpi\r\nauthorization: Basic YTpi\r\n\r\n", Rejected(400)),
        (b"{G}Content-Range: a\r\nContent-Range: a\r\n\r\n", Rejected(400)),
        (b"{P}Expect: 100-continue\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n", Rejected(400)),
        (b"{G}Expect: a\r\nExpect: b\r\n\r\n", Rejected(400)),
        (b"{G}If-Match: a\r\nX: y\r\nIf-Match: b\r\n\r\n", Rejected(400)),
        (b"{G}If-Modified-Since: a\r\nIf-Modified-Since: b\r\n\r\n", Rejected(400)),
        (b"{G}If-None-Match: a\r\nIf-None-Match: b\r\n\r\n", Rejected(400)),
        (b"{G}If-Range: a\r\nIf-Range: b\r\n\r\n", Rejected(400)),
        (b"{G}If-Unmodified-Since: a\r\nIf-Unmodified-Since: b\r\n\r\n", Rejected(400)),
        (
            b"{G}Authorization: a\r\nIf-Match: b\r\nIf-None-Match: c\r\n\r\n",
            Forwarded(b"{g}Authorization: a\r\nIf-Match: b\r\nIf-None-Match: c\r\n\r\n"),
        ),
    ];
    let peer = Peer::start_echo();
    run_request_rows(&bare(&peer), &peer, rows);
}

/// What could not be understood has its page as well, but no upstream hears of it.
#[test]
fn error_pages_for_malformed_requests() {
    let peer = Peer::start_echo();
    let config = "server { listen LISTEN; error_page 400 /page; error_page 414 = @up; error_page 505 /up;
            location = /page { return 200 \"page of $status\"; }
            location /up { proxy_pass http://PEER; }
            location @up { proxy_pass http://PEER; } }";
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    let ask = |request: &[u8], status: u16| {
        let mut client = Client::connect_and_send(proxy.addr, &expand(request));
        let response = client.expect_status(status)?;
        client.expect_eof()?;
        Ok::<_, String>(response.body)
    };
    let cases = [
        case("no target", || {
            check_equal("the page", &ask(b"GET foo HTTP/1.1\r\nHost: a\r\n\r\n", 400)?, b"page of 400")
        }),
        case("no host", || check_equal("the page", &ask(b"GET / HTTP/1.1\r\nHost: .\r\n\r\n", 400)?, b"page of 400")),
        case("no field", || check_equal("the page", &ask(b"{G}X\r\n\r\n", 400)?, b"page of 400")),
        case("to an upstream by name", || ask(b"GET /a{*9000} HTTP/1.1\r\nHost: a\r\n\r\n", 414).map(drop)),
        case("to an upstream", || ask(b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505).map(drop)),
    ];
    run_cases(cases.into_iter().collect::<Vec<_>>());
    check_equal("the upstream", &peer.received(), b"").unwrap();
}

#[test]
fn sizes_of_heads() {
    let rows: &[RequestRow] = &[
        (b"{G}X: b{*10000}\r\n\r\n", Rejected(431)),
        (b"{G}X: b{*100000}\r\n\r\n", Rejected(431)),
        (b"{G}(X: a{*8000}\r\n){*5}\r\n", Rejected(431)),
        (b"{G}(X: a\r\n){*109}\r\n", Rejected(431)),
        (b"{G}(X: a\r\n){*1100}\r\n", Rejected(431)),
        (b"{G}(X: a\r\n){*10000}\r\n", Rejected(431)),
        (b"{G}(Cookie: a=1\r\n){*90}\r\n", Forwarded(b"{g}(Cookie: a=1\r\n){*90}\r\n")),
        (b"{G}Connection: ,{*7000}\r\n\r\n", Forwarded(b"{g}\r\n")),
        (b"{G}Accept-Encoding: (a,){*40}\r\n\r\n", Forwarded(b"{g}Accept-Encoding: (a,){*40}\r\n\r\n")),
        // One field more than 100, and as many as are allowed.
        (b"{G}(X: a\r\n){*100}\r\n", Rejected(431)),
        (b"{G}(X: a\r\n){*99}\r\n", Forwarded(b"{g}(X: a\r\n){*99}\r\n")),
    ];
    let peer = Peer::start_echo();
    run_request_rows(&bare(&peer), &peer, rows);
}

/// A byte a packet: the same outcome, and not much work.
#[test]
fn heads_that_drip() {
    let peer = Peer::start_echo();
    let proxy = bare(&peer);
    let drip = |bytes: &[u8]| {
        let mut client = Client::connect(proxy.addr);
        bytes.chunks(1).for_each(|byte| client.send(byte));
        client.read_response()
    };
    let fields = |count: usize| expand(format!("(X: a{{*1000}}\r\n){{*{count}}}").as_bytes());
    let head = |count| [&expand(b"{G}")[..], &fields(count), b"\r\n"].concat();
    let cases = [
        case("16 KiB", || {
            let before = peer.received().len();
            let ticks = proxy.cpu_ticks();
            let response = drip(&head(16))?;
            check(response.status == 200, || response.head.clone())?;
            check_equal(
                "the upstream",
                &peer.received()[before..],
                &[&expand(b"{g}")[..], &fields(16), b"\r\n"].concat(),
            )?;
            // What it takes to read 16,000 times, and no parsing from the start each time.
            let ticks = proxy.cpu_ticks() - ticks;
            check(ticks < 100, || format!("it took {ticks} ticks of processor time"))
        }),
        case("64 KiB", || {
            let response = drip(&head(64))?;
            check(response.status == 431, || response.head.clone())?;
            poll_within(TIMEOUT, || (proxy.resident_kib() < 30_000).then_some(()))
                .ok_or_else(|| "too much memory".to_owned())
        }),
    ];
    run_cases(cases);
}

/// `proxy_buffer_size` raises the limit of a response's head, `large_client_header_buffers` those of a request's.
#[test]
fn sizes_that_are_configured() {
    let peer = Peer::start(|connection| {
        while let Some(request) = connection.read_request() {
            let bytes: usize = request.target().rsplit('/').next().unwrap().parse().unwrap();
            let length = request.head.len();
            connection.send(
                format!("HTTP/1.1 200 OK\r\nX: {}\r\nY: {length}\r\nContent-Length: 0\r\n\r\n", "x".repeat(bytes))
                    .as_bytes(),
            );
        }
    });
    let proxy = Proxy::start_with_peers(
        "server { listen LISTEN; large_client_header_buffers 4 100k;
            location / { proxy_pass http://PEER; }
            location /small/ { proxy_buffer_size 4k; proxy_pass http://PEER; }
            location /128k/ { proxy_buffer_size 128k; proxy_pass http://PEER; }
            location /max/ { proxy_buffer_size 1m; proxy_pass http://PEER; } }",
        &[("PEER", &peer)],
    );
    let rows = [
        ("/32000", 200),
        ("/33000", 502),
        ("/small/32000", 200),
        ("/128k/33000", 200),
        ("/128k/130000", 200),
        ("/128k/132000", 502),
        ("/max/262000", 200),
        ("/max/263000", 502),
    ];
    for (target, status) in rows {
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut client = Client::connect_and_send(proxy.addr, request.as_bytes());
        client.expect_status(status).unwrap_or_else(|why| panic!("{target}: {why}"));
    }
    let cookies = format!("Cookie: {}\r\n", "c".repeat(90_000)).repeat(3);
    let request = format!("GET /1 HTTP/1.1\r\nHost: a\r\n{cookies}\r\n");
    let response = Client::connect_and_send(proxy.addr, request.as_bytes()).expect_status(200).unwrap();
    let length: usize = response.header("Y").unwrap().parse().unwrap();
    assert!(length > 270_000, "{length} bytes reach the upstream");
}
