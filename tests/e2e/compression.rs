//! gzip: which responses are compressed, their heads, and that data is not delayed.

use std::io::Write;
use std::sync::{Mutex, mpsc};
use std::time::Instant;

use zlib_rs::{Inflate, InflateFlush, Status};

use crate::cases::{case, check, check_equal, run_cases, run_concurrently};
use crate::client::{Client, Response, show};
use crate::configuration::refuses_text;
use crate::harness::Proxy;
use crate::peer::Peer;
use crate::proxying::start_scripted;
use crate::response_rows::{ResponseRow, format_request, run_response_rows};

/// Decodes gzip incrementally.
struct Decoder {
    inflate: Inflate,
    ended: bool,
}

impl Decoder {
    fn new() -> Self {
        Self { inflate: Inflate::new(true, 16 + 15), ended: false }
    }

    /// Returns the data that can be decoded once `compressed` has come.
    fn read(&mut self, mut compressed: &[u8]) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        let mut buf = vec![0; 1 << 20];
        loop {
            let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(compressed, &mut buf, InflateFlush::SyncFlush);
            let status = status.map_err(|error| format!("no gzip: {}", error.as_str()))?;
            compressed = &compressed[(self.inflate.total_in() - read) as usize..];
            let decoded = (self.inflate.total_out() - written) as usize;
            out.extend_from_slice(&buf[..decoded]);
            self.ended |= status == Status::StreamEnd;
            if self.ended || decoded < buf.len() {
                check(compressed.is_empty(), || format!("more follows: {}", show(compressed)))?;
                return Ok(out);
            }
        }
    }
}

pub(crate) fn gunzip(compressed: &[u8]) -> Result<Vec<u8>, String> {
    let mut decoder = Decoder::new();
    let out = decoder.read(compressed)?;
    check(decoder.ended, || format!("only a part: {}", show(compressed)))?;
    Ok(out)
}

/// Formats `TARGET` with headers behind a newline as a request of a client that accepts gzip.
fn gzip_request(target: &str) -> String {
    format_request(&match target.split_once('\n') {
        Some((target, fields)) => format!("{target}\nAccept-Encoding: gzip\n{fields}"),
        None => format!("{target}\nAccept-Encoding: gzip"),
    })
}

/// Generates similar lines with random parts.
fn text(length: usize) -> Vec<u8> {
    let mut state = 7u32;
    let mut out = Vec::with_capacity(length + 64);
    while out.len() < length {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let _ = writeln!(out, "2026-11-21 {:08x} device {} is on", state, state >> 29);
    }
    out.truncate(length);
    out
}

#[test]
fn which_requests_and_types() {
    let proxy = Proxy::start(
        "gzip on; gzip_types text/css application/*; default_type text/html;
         server { listen LISTEN; root www;
            location / { return 200 '0123456789 0123456789'; }
            location /short { return 200 '0123456789 01234567'; }
            location /least { gzip_min_length 5; return 200 12345; }
            location /most { gzip_min_length 5k; return 200 '0123456789 0123456789'; }
            location /css { default_type TEXT/CSS; return 200 '0123456789 0123456789'; }
            location /js { default_type text/javascript; return 200 '0123456789 0123456789'; }
            location /all { gzip_types *; default_type text/javascript; return 200 '0123456789 0123456789'; }
            location /own { gzip_types text/a; default_type text/css; return 200 '0123456789 0123456789'; }
            location /off { gzip off; return 200 '0123456789 0123456789'; }
            location /vary { gzip_vary on; return 200 '0123456789 0123456789'; }
            location /vary/short { gzip_vary on; return 200 short; }
            location /old { gzip_http_version 1.0; return 200 '0123456789 0123456789'; }
            location /dis { gzip_disable msie6 'bad[0-9]'; return 200 '0123456789 0123456789'; }
            location /if { gzip off; if ($arg_z) { gzip on; return 200 '0123456789 0123456789'; } }
            location /403 { return 403; }
            location /500 { return 500; }
            location /redirect { return 302 /x; } }",
    );
    let yes = "Content-Encoding: gzip | Transfer-Encoding: chunked | !Content-Length | !Vary";
    let no = "!Content-Encoding | Content-Length: 21 | !Transfer-Encoding | !Vary";
    let rows: &[ResponseRow<'_>] = &[
        ("no Accept-Encoding", "/", 200, no),
        ("gzip", "/\nAccept-Encoding: gzip", 200, yes),
        ("among others", "/\nAccept-Encoding: deflate, gzip, br", 200, yes),
        ("in two lines", "/\nAccept-Encoding: br\nAccept-Encoding: gzip", 200, yes),
        ("with a weight", "/\nAccept-Encoding: br;q=1.0, gzip;q=0.8, *;q=0.1", 200, yes),
        ("q=0", "/\nAccept-Encoding: gzip;q=0", 200, no),
        ("any coding", "/\nAccept-Encoding: *", 200, no),
        ("for HEAD", "HEAD /\nAccept-Encoding: gzip", 200, "Content-Encoding: gzip | !Content-Length | !Transfer-"),
        ("too short", "/short\nAccept-Encoding: gzip", 200, "!Content-Encoding | Content-Length: 19"),
        ("long enough", "/least\nAccept-Encoding: gzip", 200, yes),
        ("not long enough", "/most\nAccept-Encoding: gzip", 200, no),
        ("another type", "/css\nAccept-Encoding: gzip", 200, yes),
        ("a type that is not listed", "/js\nAccept-Encoding: gzip", 200, no),
        ("any type", "/all\nAccept-Encoding: gzip", 200, yes),
        ("a list of its own", "/own\nAccept-Encoding: gzip", 200, no),
        ("off", "/off\nAccept-Encoding: gzip", 200, no),
        ("vary", "/vary\nAccept-Encoding: gzip", 200, "Content-Encoding: gzip | Vary: Accept-Encoding"),
        ("vary for others", "/vary", 200, "!Content-Encoding | Content-Length: 21 | Vary: Accept-Encoding"),
        ("vary where no response is compressed", "/vary/short\nAccept-Encoding: gzip", 200, "!Vary | =short"),
        ("an old browser", "/dis\nAccept-Encoding: gzip\nUser-Agent: X (MSIE 6.0; Y)", 200, no),
        ("a less old browser", "/dis\nAccept-Encoding: gzip\nUser-Agent: X (MSIE 6.0; SV1)", 200, yes),
        ("a bad agent", "/dis\nAccept-Encoding: gzip\nUser-Agent: BAD7", 200, no),
        ("a good agent", "/dis\nAccept-Encoding: gzip\nUser-Agent: BAD", 200, yes),
        ("no agent", "/dis\nAccept-Encoding: gzip", 200, yes),
        ("if", "/if?z=1\nAccept-Encoding: gzip", 200, yes),
        ("an error page", "/403\nAccept-Encoding: gzip", 403, yes),
        ("another error page", "/500\nAccept-Encoding: gzip", 500, "!Content-Encoding"),
        ("a redirect", "/redirect\nAccept-Encoding: gzip", 302, "!Content-Encoding"),
    ];
    run_response_rows(&proxy, rows);
    let mut client = Client::connect_and_send(
        proxy.addr,
        [gzip_request("/"), gzip_request("/css"), format_request("/")].concat().as_bytes(),
    );
    for _ in 0..2 {
        let response = client.expect_status(200).unwrap();
        assert_eq!(gunzip(&response.body).unwrap(), b"0123456789 0123456789");
    }
    assert_eq!(
        client.expect_status(200).unwrap().body,
        b"0123456789 0123456789",
        "the connection serves further requests"
    );
    for (target, compressed) in [("/", false), ("/old", true)] {
        let fields = "Accept-Encoding: gzip\r\nConnection: keep-alive\r\n\r\n";
        let mut client = Client::connect_and_send(proxy.addr, format!("GET {target} HTTP/1.0\r\n{fields}").as_bytes());
        let response = client.expect_status(200).unwrap();
        assert_eq!(response.header("Content-Encoding").is_some(), compressed, "{target}");
        assert_eq!(response.closes(), compressed, "{target}: only the end of the connection tells that of the body");
        assert!(response.header("Transfer-Encoding").is_none());
        if compressed {
            assert_eq!(gunzip(&response.body).unwrap(), b"0123456789 0123456789");
        }
    }
}

#[test]
fn gzip_proxied() {
    let peer = start_scripted();
    let config = "gzip on; gzip_types text/plain; server { listen LISTEN; location / { proxy_pass http://PEER; }
        location /any { gzip_proxied any; proxy_pass http://PEER; }
        location /auth { gzip_proxied auth; proxy_pass http://PEER; }
        location /expired { gzip_proxied expired; proxy_pass http://PEER; }
        location /cached { gzip_proxied no-cache; gzip_proxied no-store private; proxy_pass http://PEER; }
        location /added { gzip_proxied no-store; add_header Cache-Control no-store; return 200 '0123456789 0123456789'; }
        location /valid { gzip_proxied no_last_modified no_etag; proxy_pass http://PEER; } }";
    let (yes, no) = ("Content-Encoding: gzip", "!Content-Encoding | Content-Length: 26");
    let cases: &[(&str, &str, &str, &str)] = &[
        ("off", "/", "", no),
        ("any", "/any", "", yes),
        ("auth without", "/auth", "", yes),
        ("auth without, cached", "/auth", "Cache-Control: private", no),
        ("auth with", "/auth\nAuthorization: x", "Cache-Control: private", yes),
        ("expired", "/expired", "Expires: Thu, 01 Jan 1970 00:00:01 GMT", yes),
        ("not expired", "/expired", "Expires: Tue, 01 Jan 2069 00:00:01 GMT", no),
        ("no time", "/expired", "Expires: 0", no),
        ("no-cache", "/cached", "Cache-Control: max-age=0, No-Cache", yes),
        ("no-store", "/cached", "Cache-Control: no-store", yes),
        ("private", "/cached", "Cache-Control: private", yes),
        ("public", "/cached", "Cache-Control: public", no),
        ("expires comes first", "/cached", "Cache-Control: private|Expires: 0", no),
        ("nothing said", "/cached", "", yes),
        ("added", "/added", "", yes),
        ("no tag", "/valid", "", yes),
        ("a tag", "/valid", "ETag: \"a\"", no),
        ("a time", "/valid", "Last-Modified: Tue, 14 Nov 2023 22:13:20 GMT", no),
    ];
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    for (name, asked, sent, expected) in cases {
        let sent =
            format!("X-Send: 200 OK|Content-Type: text/plain|{sent}|=0123456789 0123456789 0123").replace("||", "|");
        let (target, fields) = asked.split_once('\n').unwrap_or((asked, "X-A: b"));
        let asked = format!("{target}\nVia: 1.1 other\nAccept-Encoding: gzip\n{fields}\n{sent}");
        run_response_rows(&proxy, &[(name, &asked, 200, expected)]);
    }
}

#[test]
fn responses_of_upstreams() {
    let peer = start_scripted();
    let config = "gzip on; gzip_types text/plain; gzip_vary on; server { listen LISTEN;
        location / { proxy_pass http://PEER; } }";
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    let ask = |sent: &str| {
        let asked = gzip_request(&format!(
            "/\nX-Send: {}|=0123456789 0123456789 0123",
            sent.replace('&', "|Content-Type: text/plain|")
        ));
        Client::connect_and_send(proxy.addr, asked.as_bytes()).read_response()
    };
    let expect = |sent: &str, parts: &[&str]| {
        let response: Response = ask(sent)?;
        let compressed =
            response.header("Content-Encoding") == Some("gzip") && !sent.contains("Content-Encoding: gzip");
        let body = if compressed { gunzip(&response.body)? } else { response.body.clone() };
        check_equal("the client", &body, if sent.contains(" 204 ") { b"" } else { b"0123456789 0123456789 0123" })?;
        for part in parts {
            let holds = match part.strip_prefix('!') {
                Some(name) => response.header(name).is_none(),
                None => response.head.split("\r\n").any(|line| line == *part),
            };
            check(holds, || format!("{part:?} expected in {:?}", response.head))?;
        }
        Ok(())
    };
    let compressed =
        ["Content-Encoding: gzip", "Transfer-Encoding: chunked", "Vary: Accept-Encoding", "!Content-Length"];
    run_concurrently(vec![
        case("all of it", || expect("200 OK&X: y", &[&compressed[..], &["X: y", "Content-Type: text/plain"]].concat())),
        case("a strong tag", || expect("200 OK&ETag: \"a\"", &[&compressed[..], &["ETag: W/\"a\""]].concat())),
        case("a weak tag", || expect("200 OK&ETag: W/\"a\"", &[&compressed[..], &["ETag: W/\"a\""]].concat())),
        case("no tag", || expect("200 OK&ETag: a", &[&compressed[..], &["!ETag"]].concat())),
        case("no ranges", || expect("200 OK&Accept-Ranges: bytes", &[&compressed[..], &["!Accept-Ranges"]].concat())),
        case("not found", || expect("404 Gone&X: y", &compressed)),
        case("another status", || expect("500 Bad&ETag: \"a\"", &["!Vary", "Content-Length: 26", "ETag: \"a\""])),
        case("a part", || {
            expect("206 Part&Accept-Ranges: bytes", &["!Vary", "Content-Length: 26", "Accept-Ranges: bytes"])
        }),
        case("another type", || expect("200 OK|Content-Type: image/png", &["!Vary", "Content-Length: 26"])),
        case("no type", || expect("200 OK|X: y", &["!Vary", "!Content-Encoding"])),
        case("compressed already", || expect("200 OK&Content-Encoding: gzip", &["!Vary", "Content-Length: 26"])),
        case("another coding", || expect("200 OK&Content-Encoding: br", &["!Vary", "Content-Encoding: br"])),
        case("no transformation", || {
            expect("200 OK&Cache-Control: no-cache, no-transform", &["!Vary", "!Content-Encoding"])
        }),
    ]);
}

/// Data of an upstream is flushed at once, and a pause after which the encoder frees its memory loses nothing.
#[test]
fn events_are_not_delayed() {
    let (allow, allowed) = mpsc::channel::<Option<Vec<u8>>>();
    let allowed = Mutex::new(allowed);
    let peer = Peer::start(move |connection| {
        let Some(asked) = connection.read_request() else { return };
        let chunked = asked.target() == "/chunked";
        let coding = if chunked { "Transfer-Encoding: chunked\r\n" } else { "" };
        connection.send(format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{coding}\r\n").as_bytes());
        for event in allowed.lock().unwrap().iter().map_while(|event| event) {
            let size = if chunked { format!("{:x}\r\n", event.len()) } else { String::new() };
            let end: &[u8] = if chunked { b"\r\n" } else { b"" };
            connection.send(&[size.as_bytes(), &event, end].concat());
        }
        if chunked {
            connection.send(b"0\r\n\r\n");
        }
    });
    let config = "gzip on; gzip_types text/event-stream;
        server { listen LISTEN; location / { proxy_pass http://PEER; } }";
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    for target in ["/chunked", "/until-close"] {
        let mut client = Client::connect_and_send(proxy.addr, gzip_request(target).as_bytes());
        // The head does not wait for the first event.
        assert!(client.read_head().unwrap().contains("\r\nContent-Encoding: gzip\r\n"));
        let mut decoder = Decoder::new();
        for (number, size) in [1, 50, 300, 50, 20_000, 100_000, 50].into_iter().enumerate() {
            let event = text(size);
            allow.send(Some(event.clone())).unwrap();
            let mut got = Vec::new();
            while got.len() < event.len() {
                let (_, data) = client.read_chunk().unwrap();
                got.extend(decoder.read(&data[..data.len() - 2]).unwrap());
            }
            check_equal("the client", &got, &event).unwrap();
            if number % 3 == 2 {
                // Twice the time after which an encoder frees its memory.
                assert!(is_quiet(&client) && is_quiet(&client) && is_quiet(&client));
            }
        }
        allow.send(None).unwrap();
        let mut rest = Vec::new();
        loop {
            let (_, data) = client.read_chunk().unwrap();
            if data.len() == 2 {
                break;
            }
            rest.extend_from_slice(&data[..data.len() - 2]);
        }
        assert_eq!(decoder.read(&rest).unwrap(), b"");
        assert!(decoder.ended);
    }
}

/// Returns whether no byte comes for a moment.
fn is_quiet(client: &Client) -> bool {
    let timeout = client.stream.read_timeout().unwrap();
    client.stream.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
    let quiet = client.stream.peek(&mut [0]).is_err_and(|error| crate::peer::is_timeout(&error));
    client.stream.set_read_timeout(timeout).unwrap();
    quiet
}

#[test]
fn files_of_several_buffers() {
    let proxy = Proxy::start(
        "gzip on; gzip_vary on; log_format ratio '$uri $gzip_ratio'; access_log access.log ratio; error_log error.log;
         pid smolgate.pid; server { listen LISTEN; root www; types { text/html html; } default_type image/png; }",
    );
    let sizes = [20, 16 * 1024, 16 * 1024 + 1, 64 * 1024, 64 * 1024 + 1, 300_000];
    std::fs::create_dir_all(proxy.dir.path("www")).unwrap();
    for size in sizes {
        proxy.dir.write(&format!("www/{size}.html"), text(size));
        proxy.dir.write(&format!("www/{size}.png"), text(size));
    }
    let mut client = Client::connect(proxy.addr);
    for size in sizes {
        let plain = client.request(format_request(&format!("/{size}.html")).as_bytes(), 200).unwrap();
        check_equal("plain", &plain.body, &text(size)).unwrap();
        let etag = plain.header("ETag").unwrap();
        assert_eq!(plain.header("Vary"), Some("Accept-Encoding"));
        let compressed = client.request(gzip_request(&format!("/{size}.html")).as_bytes(), 200).unwrap();
        check_equal("gzip", &gunzip(&compressed.body).unwrap(), &text(size)).unwrap();
        assert_eq!(compressed.header("ETag"), Some(format!("W/{etag}").as_str()));
        for name in ["Accept-Ranges", "Content-Length"] {
            assert!(compressed.header(name).is_none() && plain.header(name).is_some(), "{name}");
        }
        assert!(size < 1000 || compressed.body.len() < size / 2, "{size}: {}", compressed.body.len());
        let other = client.request(gzip_request(&format!("/{size}.png")).as_bytes(), 200).unwrap();
        check_equal("another type", &other.body, &text(size)).unwrap();
        let known =
            client.request(gzip_request(&format!("/{size}.html\nIf-None-Match: W/{etag}")).as_bytes(), 304).unwrap();
        assert!(known.header("Content-Encoding").is_none());
        let part = client.request(gzip_request(&format!("/{size}.html\nRange: bytes=5-9")).as_bytes(), 206).unwrap();
        check_equal("a part", &part.body, &text(size)[5..10]).unwrap();
        assert!(part.header("Content-Encoding").is_none());
        assert_eq!(part.header("Vary"), Some("Accept-Encoding"));
    }
    proxy.wait_for_access_line(&["/300000.html 4."]).unwrap();
    proxy.wait_for_access_line(&["/300000.png -"]).unwrap();
}

#[test]
fn a_slow_client_stops_its_upstream() {
    let peer = Peer::start(|connection| {
        let Some(asked) = connection.read_request() else { return };
        let total: usize = asked.target().trim_start_matches('/').parse().unwrap();
        connection.send(format!("HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: {total}\r\n\r\n").as_bytes());
        let block = noise();
        for _ in 0..total / block.len() {
            if !connection.send(&block) {
                return;
            }
        }
    });
    let config = "gzip on; gzip_types *; server { listen LISTEN; location / { proxy_pass http://PEER; } }";
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    let before = proxy.resident_kib();
    let total = 64 << 20;
    let mut client = Client::connect_and_send(proxy.addr, gzip_request(&format!("/{total}")).as_bytes());
    assert!(client.read_head().unwrap().contains("\r\nContent-Encoding: gzip\r\n"));
    // All buffers are full when the proxy sleeps and uses no processor time.
    crate::harness::wait_for("the sender is stopped", || {
        let ticks = proxy.cpu_ticks();
        std::thread::sleep(std::time::Duration::from_millis(300));
        proxy.is_sleeping() && proxy.cpu_ticks() == ticks
    });
    assert!(proxy.resident_kib() < before + 4096, "{} KiB, {before} before", proxy.resident_kib());
    let mut decoder = Decoder::new();
    let block = noise();
    let mut received = 0;
    while received < block.len() * 20 {
        let (_, data) = client.read_chunk().unwrap();
        for byte in decoder.read(&data[..data.len() - 2]).unwrap() {
            assert_eq!(byte, block[received % block.len()], "byte {received}");
            received += 1;
        }
    }
}

/// Generates incompressible data.
fn noise() -> Vec<u8> {
    let mut state = 3u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..64 << 10).map(|_| next()).collect()
}

#[test]
fn a_large_body_does_not_block_other_requests() {
    let proxy = Proxy::start(
        "gzip on; gzip_comp_level 9; default_type text/html;
         server { listen LISTEN; root www; location /small { return 200 small; } }",
    );
    std::fs::create_dir_all(proxy.dir.path("www")).unwrap();
    proxy.dir.write("www/large", text(12 << 20));
    let mut large = Client::connect_and_send(proxy.addr, gzip_request("/large").as_bytes());
    assert!(large.read_head().unwrap().contains("\r\nContent-Encoding: gzip\r\n"));
    let ended = std::thread::spawn(move || {
        let mut compressed = Vec::new();
        loop {
            let (_, data) = large.read_chunk().unwrap();
            if data.len() == 2 {
                return (Instant::now(), compressed);
            }
            compressed.extend_from_slice(&data[..data.len() - 2]);
        }
    });
    let small = Client::connect(proxy.addr).request(format_request("/small").as_bytes(), 200).unwrap();
    let responded = Instant::now();
    assert_eq!(small.body, b"small");
    let (ended, compressed) = ended.join().unwrap();
    assert!(responded < ended);
    check_equal("the client", &gunzip(&compressed).unwrap(), &text(12 << 20)).unwrap();
}

#[test]
fn with_other_filters() {
    let proxy = Proxy::start(
        "server {
            listen LISTEN;
            gzip on;
            gzip_types text/plain;
            gzip_min_length 1;
            location /compressed/ { alias www/; gzip_static on; }
            location /trailers/ { alias www/; add_trailer X-A a; }
        }",
    );
    std::fs::create_dir_all(proxy.dir.path("www")).unwrap();
    for (name, text) in [("f.txt", "plain"), ("f.txt.gz", "not really gzip")] {
        proxy.dir.write(&format!("www/{name}"), text);
    }
    let mut client = Client::connect(proxy.addr);
    let mut ask = |target: &str| client.request(gzip_request(target).as_bytes(), 200).unwrap();
    check_equal("nothing is compressed twice", &ask("/compressed/f.txt").body, b"not really gzip").unwrap();
    let asked = gzip_request("/trailers/f.txt").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let all = Client::connect_and_send(proxy.addr, asked.as_bytes()).read_to_end().unwrap();
    assert!(all.ends_with(b"\r\n0\r\nX-A: a\r\n\r\n"), "{}", String::from_utf8_lossy(&all));
}

#[test]
fn invalid_values() {
    let invalid = [
        ("gzip 1;", "\"on\" or \"off\""),
        ("gzip_comp_level 0;", "1 to 9"),
        ("gzip_comp_level 10;", "1 to 9"),
        ("gzip_min_length -1;", "a size"),
        ("gzip_http_version 2;", "1.0 or 1.1"),
        ("gzip_proxied always;", "no_etag"),
        ("gzip_types html;", "a media type"),
        ("gzip_disable (;", "invalid regular expression"),
        ("gzip_window 24k;", "32k"),
        ("gzip_window 64k;", "32k"),
        ("gzip_hash 256;", "128k"),
    ];
    run_cases(invalid.map(|(line, says)| (line, move || refuses_text(line, &["smolgate.conf:1:", says]))));
}
