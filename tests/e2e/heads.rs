//! Request lines, targets, hosts, fields and their limits (classes A to E).

use crate::client::{Client, expand};
use crate::harness::{Gate, PATIENCE, within};
use crate::peer::Peer;
use crate::rows::Then::{Refused, Served, ServedLast};
use crate::rows::{Row, Then, case, check, same, try_rows, verify};

fn bare(peer: &Peer) -> Gate {
    let config = "upstream up { server PEER; } server { listen LISTEN; location / { proxy_pass http://up; } }";
    Gate::before(config, &[("PEER", peer)])
}

#[test]
fn request_lines() {
    let rows: &[Row] = &[
        ("A01", b"GET / HTTP/1.1\nHost: a\r\n\r\n", Refused(400)),
        ("A01 in HTTP/1.0", b"GET / HTTP/1.0\nHost: a\nX: y\n\n", ServedLast(b"{g}X: y\r\n\r\n")),
        ("A01 is the last", b"GET / HTTP/1.0\nHost: a\nConnection: keep-alive\n\n{N}", ServedLast(b"{g}\r\n")),
        ("A01 mixed", b"GET / HTTP/1.0\nHost: a\r\n\r\n", Refused(400)),
        ("A01 mixed in the end", b"GET / HTTP/1.0\r\nHost: a\r\n\n", Refused(400)),
        ("A02", b"\r\n\r\n{G}\r\n", Refused(400)),
        ("A02 one empty line", b"\r\n{G}\r\n", Served(b"{g}\r\n")),
        ("A04", b"\r{G}\r\n", Refused(400)),
        ("A05", b"(\r\n){*5000}{G}\r\n", Refused(400)),
        ("A05 256", b"(\r\n){*256}{G}\r\n", Refused(400)),
        ("A05 257", b"(\r\n){*257}{G}\r\n", Refused(400)),
        ("A08", b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
        ("A09", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Refused(400)),
        ("A10", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
        ("A12", b"GET /\r\n", Refused(400)),
        ("A13", b"POST /\r\n\r\n", Refused(400)),
        ("A14", b"GET / HTTP/1.0\r\n\r\n", ServedLast(b"{g}\r\n")),
        ("A16", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", Refused(505)),
        ("A17", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", Refused(505)),
        ("A18", b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", Refused(505)),
        ("A20", b"GET / HTTP/01.1\r\nHost: a\r\n\r\n", Refused(400)),
        ("A21", b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", Refused(400)),
        ("A22", b"GET / HTTP/1\r\nHost: a\r\n\r\n", Refused(400)),
        ("A24", b"get / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
        ("A25", b"FOOBAR / HTTP/1.1\r\nHost: a\r\n\r\n", Served(b"FOOBAR / HTTP/1.1\r\nHost: up\r\n\r\n")),
        ("A26", b"!#$%&'*+-.^_`|~ / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
        ("A28", b"G\"T / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
        ("A29", b"A{*5000} / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
        ("A29 by one byte", b"A{*33} / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
        ("A30", b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", Refused(405)),
        ("A30 without a port", b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
        ("A30 of a path", b"CONNECT /:443 HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
        ("A32", b"TRACE / HTTP/1.1\r\nHost: a\r\nCookie: s=1\r\n\r\n", Refused(405)),
        ("A33", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
        ("A34", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ];
    let peer = Peer::polite();
    try_rows(&bare(&peer), &peer, rows);
}

#[test]
fn targets() {
    let rows: &[Row] = &[
        ("B01", b"GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n", Served(b"GET /x HTTP/1.1\r\nHost: up\r\n\r\n")),
        ("B02", b"GET http://evil/x HTTP/1.1\r\nHost: a\r\n\r\n", Served(b"GET /x HTTP/1.1\r\nHost: up\r\n\r\n")),
        ("B02 with a bad Host", b"GET http://a/x HTTP/1.1\r\nHost: a b\r\n\r\n", Refused(400)),
        ("B02 without Host", b"GET http://a/x HTTP/1.1\r\n\r\n", Refused(400)),
        ("B04", b"GET http://u:p@a/x HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
        ("B05", b"GET ftp://a/x HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
        ("B06", b"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", Served(b"{g}\r\n")),
        (
            "B06 with a query",
            b"GET http://a?q HTTP/1.1\r\nHost: a\r\n\r\n",
            Served(b"GET /?q HTTP/1.1\r\nHost: up\r\n\r\n"),
        ),
        ("B08", b"GET foo HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
        ("B09", b"GET ! HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
        ("B10", b"GET @evil.com/x HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
        ("B12", b"GET ?a HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
        ("B13", b"GET HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
        ("B14", b"GET /x#f HTTP/1.1\r\nHost: a\r\n\r\n", Served(b"GET /x HTTP/1.1\r\nHost: up\r\n\r\n")),
        (
            "B14 before a query",
            b"GET /b#/?x HTTP/1.1\r\nHost: a\r\n\r\n",
            Served(b"GET /b HTTP/1.1\r\nHost: up\r\nIn: b\r\n\r\n"),
        ),
        ("B14 alone", b"GET # HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
        ("B16", b"GET /x%00.html HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
        ("B17", b"GET /x\x00y HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
        ("B18", b"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
        ("B20", b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
        ("B21", b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
        ("B22", b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
        ("B24", b"GET /\"<>{}|^` HTTP/1.1\r\nHost: a\r\n\r\n", Served(b"GET /\"<>{}|^` HTTP/1.1\r\nHost: up\r\n\r\n")),
        ("B25", b"GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", Served(b"GET /a\\b HTTP/1.1\r\nHost: up\r\n\r\n")),
        ("B26", b"GET /../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
        (
            "B28",
            b"GET /a/%2e%2e/b HTTP/1.1\r\nHost: a\r\n\r\n",
            Served(b"GET /a/%2e%2e/b HTTP/1.1\r\nHost: up\r\nIn: b\r\n\r\n"),
        ),
        (
            "B29",
            b"GET /a/%252e%252e/b HTTP/1.1\r\nHost: a\r\n\r\n",
            Served(b"GET /a/%252e%252e/b HTTP/1.1\r\nHost: up\r\nIn: a\r\n\r\n"),
        ),
        (
            "B30",
            b"GET /a/..%2fb HTTP/1.1\r\nHost: a\r\n\r\n",
            Served(b"GET /a/..%2fb HTTP/1.1\r\nHost: up\r\nIn: b\r\n\r\n"),
        ),
        ("B32", b"GET //a//b HTTP/1.1\r\nHost: a\r\n\r\n", Served(b"GET //a//b HTTP/1.1\r\nHost: up\r\nIn: a\r\n\r\n")),
        (
            "B33",
            b"GET /a;x=1/..;/b HTTP/1.1\r\nHost: a\r\n\r\n",
            Served(b"GET /a;x=1/..;/b HTTP/1.1\r\nHost: up\r\n\r\n"),
        ),
        (
            "B34",
            b"GET /%c0%ae%c0%ae/%c0%af HTTP/1.1\r\nHost: a\r\n\r\n",
            Served(b"GET /%c0%ae%c0%ae/%c0%af HTTP/1.1\r\nHost: up\r\n\r\n"),
        ),
        ("B36", b"GET /a{*65000} HTTP/1.1\r\nHost: a\r\n\r\n", Refused(414)),
    ];
    let peer = Peer::polite();
    let config = "upstream up { server PEER; } server { listen LISTEN;
        location / { proxy_pass http://up; }
        location /a/ { proxy_set_header In a; proxy_pass http://up; }
        location /b { proxy_set_header In b; proxy_pass http://up; } }";
    try_rows(&Gate::before(config, &[("PEER", &peer)]), &peer, rows);
}

/// What an upstream is told of the host, and what a redirect makes of slashes.
#[test]
fn targets_and_what_is_made_of_them() {
    let peer = Peer::polite();
    let config = "upstream up { server PEER; } server { listen LISTEN;
        location / { proxy_set_header Host $host; proxy_set_header X-Host $http_host; proxy_pass http://up; }
        location /r/ { proxy_pass http://up; } }";
    let gate = Gate::before(config, &[("PEER", &peer)]);
    let location = |target: &str| {
        let mut client = Client::connect(gate.addr);
        let reply = client.ask(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), 301)?;
        Ok::<_, String>(reply.field("Location").unwrap_or_default().to_owned())
    };
    let told = |request: &[u8], expected: &[u8]| {
        let before = peer.bytes().len();
        Client::connect(gate.addr).ask(request, 200)?;
        same("the upstream", &peer.bytes()[before..], expected)
    };
    let cases = [
        case("B01 the authority is the host", || {
            let expected = b"GET /x HTTP/1.1\r\nHost: a\r\nX-Host: A\r\n\r\n";
            told(b"GET http://A/x HTTP/1.1\r\nHost: a:80\r\n\r\n", expected)
        }),
        case("B02 the authority is the host", || {
            let expected = b"GET /x HTTP/1.1\r\nHost: evil\r\nX-Host: Evil:81\r\n\r\n";
            told(b"GET http://Evil:81/x HTTP/1.1\r\nHost: a\r\n\r\n", expected)
        }),
        case("B32 a redirect of /r", || {
            let (is, expected) = (location("/r?x")?, format!("http://a:{}/r/?x", gate.addr.port()));
            check(is == expected, || format!("{is} instead of {expected}"))
        }),
        case("B32 a redirect of //r", || {
            let (is, expected) = (location("//r")?, format!("http://a:{}/r/", gate.addr.port()));
            check(is == expected, || format!("{is} instead of {expected}"))
        }),
    ];
    verify(cases);
}

#[test]
fn hosts() {
    const NAMED: Then = Served(b"{g}Server: a\r\n\r\n");
    let rows: &[Row] = &[
        ("C01", b"GET / HTTP/1.1\r\n\r\n", Refused(400)),
        ("C02", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", Refused(400)),
        ("C02 in HTTP/1.0", b"GET / HTTP/1.0\r\nHost:\r\n\r\n", Refused(400)),
        ("C04", b"{G}Host: a\r\n\r\n", Refused(400)),
        ("C05", b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Refused(400)),
        ("C06", b"GET / HTTP/1.1\r\nHost: a/p\r\n\r\n", Refused(400)),
        ("C08", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Refused(400)),
        ("C09", b"GET / HTTP/1.1\r\nHost: a:80\r\n\r\n", NAMED),
        ("C10", b"GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n", Refused(400)),
        ("C12", b"GET / HTTP/1.1\r\nHost: a:-1\r\n\r\n", Refused(400)),
        ("C13", b"GET / HTTP/1.1\r\nHost: a:\r\n\r\n", NAMED),
        ("C14", b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n", Refused(400)),
        ("C16", b"GET / HTTP/1.1\r\nHost: a.\r\n\r\n", NAMED),
        ("C17", b"GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n", Served(b"{g}\r\n")),
        ("C18", b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", Refused(400)),
        ("C20", b"GET / HTTP/1.1\r\nHost: a\"b\r\n\r\n", Refused(400)),
        ("C21", b"GET / HTTP/1.1\r\nHost: <script>\r\n\r\n", Refused(400)),
        ("C22", b"GET / HTTP/1.1\r\nHost: \xc3\xa9\r\n\r\n", Refused(400)),
        ("C24", b"GET / HTTP/1.1\r\nHost: a?x\r\n\r\n", Refused(400)),
        ("C25", b"GET / HTTP/1.1\r\nHost: a#x\r\n\r\n", Refused(400)),
        ("C26", b"GET / HTTP/1.1\r\nHost: a%0d%0ax\r\n\r\n", Refused(400)),
        ("C28", b"GET / HTTP/1.1\r\nHost: a;b\r\n\r\n", Refused(400)),
    ];
    let peer = Peer::polite();
    let config = "upstream up { server PEER; }
        server { listen LISTEN; server_name other; location / { proxy_pass http://up; } location /probe { proxy_pass http://up; } }
        server { listen LISTEN; server_name a; location / { proxy_set_header Server a; proxy_pass http://up; }
            location /probe { proxy_pass http://up; } }";
    try_rows(&Gate::before(config, &[("PEER", &peer)]), &peer, rows);
}

#[test]
fn fields() {
    let rows: &[Row] = &[
        ("D01", b"{G}X: y\n\r\n", Refused(400)),
        ("D02", b"GET / HTTP/1.1\nHost: a\n\n", Refused(400)),
        ("D04", b"{G}X: a\rb\r\n\r\n", Refused(400)),
        ("D05", b"{G}X: a\rTransfer-Encoding: chunked\r\n\r\n", Refused(400)),
        ("D06", b"{G}X: a\r\r\n\r\n", Refused(400)),
        ("D08", b"{G}X: a\x00b\r\n\r\n", Refused(400)),
        ("D09", b"{G}X: a\x07\x08\x1bb\r\n\r\n", Refused(400)),
        ("D10", b"{G}X: \x0bb\r\n\r\n", Refused(400)),
        ("D12", b"{G}X: a\xff\xa0b\r\n\r\n", Served(b"{g}X: a\xff\xa0b\r\n\r\n")),
        ("D12 at its ends", b"{G}X:\t \xa0a\xa0 \t\r\n\r\n", Served(b"{g}X: \xa0a\xa0\r\n\r\n")),
        ("D13", b"{G}X : a\r\n\r\n", Refused(400)),
        ("D14", b"{G}X\t: a\r\n\r\n", Refused(400)),
        ("D16", b"{G}X: a\r\n\tb\r\n\r\n", Refused(400)),
        ("D17", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", Refused(400)),
        ("D18", b"{G}bogus\r\n\r\n", Refused(400)),
        ("D20", b"{G}X(Y): v\r\n\r\n", Refused(400)),
        ("D21", b"{G}X\xef: v\r\n\r\n", Refused(400)),
        ("D22", b"{G}X Y: v\r\n\r\n", Refused(400)),
        ("D24", b"{G}X.Y: v\r\n\r\n", Served(b"{g}\r\n")),
        ("D25", b"{G}X:\r\n\r\n", Served(b"{g}X: \r\n\r\n")),
        ("D26", b"{P}Content_Length: 5\r\n\r\n", Served(b"{p}\r\n")),
    ];
    let peer = Peer::polite();
    try_rows(&bare(&peer), &peer, rows);
}

/// Fields whose repetition leaves open what is meant.
#[test]
fn fields_that_stand_once() {
    let rows: &[Row] = &[
        ("Authorization", b"{G}Authorization: Basic YTpi\r\nauthorization: Basic YTpi\r\n\r\n", Refused(400)),
        ("Content-Range", b"{G}Content-Range: a\r\nContent-Range: a\r\n\r\n", Refused(400)),
        ("Expect", b"{P}Expect: 100-continue\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n", Refused(400)),
        ("Expect of others", b"{G}Expect: a\r\nExpect: b\r\n\r\n", Refused(400)),
        ("If-Match", b"{G}If-Match: a\r\nX: y\r\nIf-Match: b\r\n\r\n", Refused(400)),
        ("If-Modified-Since", b"{G}If-Modified-Since: a\r\nIf-Modified-Since: b\r\n\r\n", Refused(400)),
        ("If-None-Match", b"{G}If-None-Match: a\r\nIf-None-Match: b\r\n\r\n", Refused(400)),
        ("If-Range", b"{G}If-Range: a\r\nIf-Range: b\r\n\r\n", Refused(400)),
        ("If-Unmodified-Since", b"{G}If-Unmodified-Since: a\r\nIf-Unmodified-Since: b\r\n\r\n", Refused(400)),
        (
            "one of each",
            b"{G}Authorization: a\r\nIf-Match: b\r\nIf-None-Match: c\r\n\r\n",
            Served(b"{g}Authorization: a\r\nIf-Match: b\r\nIf-None-Match: c\r\n\r\n"),
        ),
    ];
    let peer = Peer::polite();
    try_rows(&bare(&peer), &peer, rows);
}

/// What could not be understood has its page as well, but no upstream hears of it.
#[test]
fn pages_for_what_was_not_understood() {
    let peer = Peer::polite();
    let config = "server { listen LISTEN; error_page 400 /page; error_page 414 = @up; error_page 505 /up;
            location = /page { return 200 \"page of $status\"; }
            location /up { proxy_pass http://PEER; }
            location @up { proxy_pass http://PEER; } }";
    let gate = Gate::before(config, &[("PEER", &peer)]);
    let ask = |request: &[u8], status: u16| {
        let mut client = Client::asking(gate.addr, &expand(request));
        let reply = client.expect(status)?;
        client.expect_end()?;
        Ok::<_, String>(reply.body)
    };
    let cases = [
        case("no target", || same("the page", &ask(b"GET foo HTTP/1.1\r\nHost: a\r\n\r\n", 400)?, b"page of 400")),
        case("no host", || same("the page", &ask(b"GET / HTTP/1.1\r\nHost: .\r\n\r\n", 400)?, b"page of 400")),
        case("no field", || same("the page", &ask(b"{G}X\r\n\r\n", 400)?, b"page of 400")),
        case("to an upstream by name", || ask(b"GET /a{*9000} HTTP/1.1\r\nHost: a\r\n\r\n", 414).map(drop)),
        case("to an upstream", || ask(b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505).map(drop)),
    ];
    verify(cases.into_iter().collect::<Vec<_>>());
    same("the upstream", &peer.bytes(), b"").unwrap();
}

#[test]
fn sizes_of_heads() {
    let rows: &[Row] = &[
        ("E01", b"{G}X: b{*10000}\r\n\r\n", Refused(431)),
        ("E02", b"{G}X: b{*100000}\r\n\r\n", Refused(431)),
        ("E02 in several lines", b"{G}(X: a{*8000}\r\n){*5}\r\n", Refused(431)),
        ("E04", b"{G}(X: a\r\n){*109}\r\n", Refused(431)),
        ("E05", b"{G}(X: a\r\n){*1100}\r\n", Refused(431)),
        ("E06", b"{G}(X: a\r\n){*10000}\r\n", Refused(431)),
        ("E09", b"{G}(Cookie: a=1\r\n){*90}\r\n", Served(b"{g}(Cookie: a=1\r\n){*90}\r\n")),
        ("E10", b"{G}Connection: ,{*7000}\r\n\r\n", Served(b"{g}\r\n")),
        ("E12", b"{G}Accept-Encoding: (a,){*40}\r\n\r\n", Served(b"{g}Accept-Encoding: (a,){*40}\r\n\r\n")),
        // One field more than 100, and as many as are allowed.
        ("E04 by one", b"{G}(X: a\r\n){*100}\r\n", Refused(431)),
        ("E04 just not", b"{G}(X: a\r\n){*99}\r\n", Served(b"{g}(X: a\r\n){*99}\r\n")),
    ];
    let peer = Peer::polite();
    try_rows(&bare(&peer), &peer, rows);
}

/// A byte a packet: the same outcome, and not much work.
#[test]
fn heads_that_drip() {
    let peer = Peer::polite();
    let gate = bare(&peer);
    let drip = |bytes: &[u8]| {
        let mut client = Client::connect(gate.addr);
        bytes.chunks(1).for_each(|byte| client.send(byte));
        client.reply()
    };
    let fields = |count: usize| expand(format!("(X: a{{*1000}}\r\n){{*{count}}}").as_bytes());
    let head = |count| [&expand(b"{G}")[..], &fields(count), b"\r\n"].concat();
    let cases = [
        case("E08 16 KiB", || {
            let before = peer.bytes().len();
            let ticks = gate.ticks();
            let reply = drip(&head(16))?;
            check(reply.status == 200, || reply.head.clone())?;
            same("the upstream", &peer.bytes()[before..], &[&expand(b"{g}")[..], &fields(16), b"\r\n"].concat())?;
            // What it takes to read 16,000 times, and no parsing from the start each time.
            let ticks = gate.ticks() - ticks;
            check(ticks < 100, || format!("it took {ticks} ticks of processor time"))
        }),
        case("E08 64 KiB", || {
            let reply = drip(&head(64))?;
            check(reply.status == 431, || reply.head.clone())?;
            within(PATIENCE, || (gate.resident_kib() < 30_000).then_some(()))
                .ok_or_else(|| "too much memory".to_owned())
        }),
    ];
    verify(cases);
}
