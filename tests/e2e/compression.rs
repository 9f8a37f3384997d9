//! Answers that are compressed on their way: which ones, what their heads say, and that they come when they are sent.

use std::io::Write;
use std::sync::{Mutex, mpsc};
use std::time::Instant;

use zlib_rs::{Inflate, InflateFlush, Status};

use crate::cases::{case, check, check_equal, run_cases, run_concurrently};
use crate::client::{Client, Response, show};
use crate::configuration::refuses_text;
use crate::harness::Proxy;
use crate::peer::Peer;
use crate::proxying::told;
use crate::response_rows::{ResponseRow, format_request, run_response_rows};

/// Reads gzip as it comes.
struct Unpacker {
    inflate: Inflate,
    ended: bool,
}

impl Unpacker {
    fn new() -> Self {
        Self { inflate: Inflate::new(true, 16 + 15), ended: false }
    }

    /// What can be read when `packed` has come.
    fn read(&mut self, mut packed: &[u8]) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        let mut buf = vec![0; 1 << 20];
        loop {
            let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(packed, &mut buf, InflateFlush::SyncFlush);
            let status = status.map_err(|error| format!("no gzip: {}", error.as_str()))?;
            packed = &packed[(self.inflate.total_in() - read) as usize..];
            let made = (self.inflate.total_out() - written) as usize;
            out.extend_from_slice(&buf[..made]);
            self.ended |= status == Status::StreamEnd;
            if self.ended || made < buf.len() {
                check(packed.is_empty(), || format!("more follows: {}", show(packed)))?;
                return Ok(out);
            }
        }
    }
}

pub(crate) fn unpack(packed: &[u8]) -> Result<Vec<u8>, String> {
    let mut unpacker = Unpacker::new();
    let out = unpacker.read(packed)?;
    check(unpacker.ended, || format!("only a part: {}", show(packed)))?;
    Ok(out)
}

/// `GET TARGET`, and fields behind a newline, by a client that accepts gzip.
fn asking(target: &str) -> String {
    format_request(&match target.split_once('\n') {
        Some((target, fields)) => format!("{target}\nAccept-Encoding: gzip\n{fields}"),
        None => format!("{target}\nAccept-Encoding: gzip"),
    })
}

/// Lines that are alike, and noise between them.
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
fn who_gets_it_compressed() {
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
        ("who says nothing", "/", 200, no),
        ("who accepts it", "/\nAccept-Encoding: gzip", 200, yes),
        ("among others", "/\nAccept-Encoding: deflate, gzip, br", 200, yes),
        ("in two lines", "/\nAccept-Encoding: br\nAccept-Encoding: gzip", 200, yes),
        ("with a weight", "/\nAccept-Encoding: br;q=1.0, gzip;q=0.8, *;q=0.1", 200, yes),
        ("who does not want it", "/\nAccept-Encoding: gzip;q=0", 200, no),
        ("who takes anything", "/\nAccept-Encoding: *", 200, no),
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
        ("vary where nobody gets it", "/vary/short\nAccept-Encoding: gzip", 200, "!Vary | =short"),
        ("an old browser", "/dis\nAccept-Encoding: gzip\nUser-Agent: X (MSIE 6.0; Y)", 200, no),
        ("a less old browser", "/dis\nAccept-Encoding: gzip\nUser-Agent: X (MSIE 6.0; SV1)", 200, yes),
        ("a bad agent", "/dis\nAccept-Encoding: gzip\nUser-Agent: BAD7", 200, no),
        ("a good agent", "/dis\nAccept-Encoding: gzip\nUser-Agent: BAD", 200, yes),
        ("no agent", "/dis\nAccept-Encoding: gzip", 200, yes),
        ("if", "/if?z=1\nAccept-Encoding: gzip", 200, yes),
        ("a page of ours", "/403\nAccept-Encoding: gzip", 403, yes),
        ("another page", "/500\nAccept-Encoding: gzip", 500, "!Content-Encoding"),
        ("a redirect", "/redirect\nAccept-Encoding: gzip", 302, "!Content-Encoding"),
    ];
    run_response_rows(&proxy, rows);
    let mut client =
        Client::connect_and_send(proxy.addr, [asking("/"), asking("/css"), format_request("/")].concat().as_bytes());
    for _ in 0..2 {
        let response = client.expect_status(200).unwrap();
        assert_eq!(unpack(&response.body).unwrap(), b"0123456789 0123456789");
    }
    assert_eq!(
        client.expect_status(200).unwrap().body,
        b"0123456789 0123456789",
        "the connection serves further requests"
    );
    for (target, packed) in [("/", false), ("/old", true)] {
        let fields = "Accept-Encoding: gzip\r\nConnection: keep-alive\r\n\r\n";
        let mut client = Client::connect_and_send(proxy.addr, format!("GET {target} HTTP/1.0\r\n{fields}").as_bytes());
        let response = client.expect_status(200).unwrap();
        assert_eq!(response.header("Content-Encoding").is_some(), packed, "{target}");
        assert_eq!(response.closes(), packed, "{target}: only the end of the connection tells that of the body");
        assert!(response.header("Transfer-Encoding").is_none());
        if packed {
            assert_eq!(unpack(&response.body).unwrap(), b"0123456789 0123456789");
        }
    }
}

#[test]
fn what_other_proxies_get() {
    let peer = told();
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
fn what_becomes_of_an_upstreams_answer() {
    let peer = told();
    let config = "gzip on; gzip_types text/plain; gzip_vary on; server { listen LISTEN;
        location / { proxy_pass http://PEER; } }";
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    let ask = |sent: &str| {
        let asked = asking(&format!(
            "/\nX-Send: {}|=0123456789 0123456789 0123",
            sent.replace('&', "|Content-Type: text/plain|")
        ));
        Client::connect_and_send(proxy.addr, asked.as_bytes()).read_response()
    };
    let expect = |sent: &str, parts: &[&str]| {
        let response: Response = ask(sent)?;
        let packed = response.header("Content-Encoding") == Some("gzip") && !sent.contains("Content-Encoding: gzip");
        let body = if packed { unpack(&response.body)? } else { response.body.clone() };
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
    let packed = ["Content-Encoding: gzip", "Transfer-Encoding: chunked", "Vary: Accept-Encoding", "!Content-Length"];
    run_concurrently(vec![
        case("all of it", || expect("200 OK&X: y", &[&packed[..], &["X: y", "Content-Type: text/plain"]].concat())),
        case("a strong tag", || expect("200 OK&ETag: \"a\"", &[&packed[..], &["ETag: W/\"a\""]].concat())),
        case("a weak tag", || expect("200 OK&ETag: W/\"a\"", &[&packed[..], &["ETag: W/\"a\""]].concat())),
        case("no tag", || expect("200 OK&ETag: a", &[&packed[..], &["!ETag"]].concat())),
        case("no ranges", || expect("200 OK&Accept-Ranges: bytes", &[&packed[..], &["!Accept-Ranges"]].concat())),
        case("not found", || expect("404 Gone&X: y", &packed)),
        case("another status", || expect("500 Bad&ETag: \"a\"", &["!Vary", "Content-Length: 26", "ETag: \"a\""])),
        case("a part", || {
            expect("206 Part&Accept-Ranges: bytes", &["!Vary", "Content-Length: 26", "Accept-Ranges: bytes"])
        }),
        case("another type", || expect("200 OK|Content-Type: image/png", &["!Vary", "Content-Length: 26"])),
        case("no type", || expect("200 OK|X: y", &["!Vary", "!Content-Encoding"])),
        case("gzip already", || expect("200 OK&Content-Encoding: gzip", &["!Vary", "Content-Length: 26"])),
        case("another coding", || expect("200 OK&Content-Encoding: br", &["!Vary", "Content-Encoding: br"])),
        case("no transformation", || {
            expect("200 OK&Cache-Control: no-cache, no-transform", &["!Vary", "!Content-Encoding"])
        }),
    ]);
}

/// What an upstream sends comes at once, and a pause after which the encoder rests loses nothing.
#[test]
fn events_arrive_one_by_one() {
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
        let mut client = Client::connect_and_send(proxy.addr, asking(target).as_bytes());
        // The head does not wait for the first event.
        assert!(client.read_head().unwrap().contains("\r\nContent-Encoding: gzip\r\n"));
        let mut unpacker = Unpacker::new();
        for (number, size) in [1, 50, 300, 50, 20_000, 100_000, 50].into_iter().enumerate() {
            let event = text(size);
            allow.send(Some(event.clone())).unwrap();
            let mut got = Vec::new();
            while got.len() < event.len() {
                let (_, data) = client.read_chunk().unwrap();
                got.extend(unpacker.read(&data[..data.len() - 2]).unwrap());
            }
            check_equal("the client", &got, &event).unwrap();
            if number % 3 == 2 {
                // Twice the time after which an encoder rests.
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
        assert_eq!(unpacker.read(&rest).unwrap(), b"");
        assert!(unpacker.ended);
    }
}

/// Whether nothing comes for a moment.
fn is_quiet(client: &Client) -> bool {
    let patience = client.stream.read_timeout().unwrap();
    client.stream.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
    let quiet = client.stream.peek(&mut [0]).is_err_and(|error| crate::peer::is_timeout(&error));
    client.stream.set_read_timeout(patience).unwrap();
    quiet
}

#[test]
fn files_are_compressed_piece_by_piece() {
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
        check_equal("who does not ask for it", &plain.body, &text(size)).unwrap();
        let etag = plain.header("ETag").unwrap();
        assert_eq!(plain.header("Vary"), Some("Accept-Encoding"));
        let packed = client.request(asking(&format!("/{size}.html")).as_bytes(), 200).unwrap();
        check_equal("who asks for it", &unpack(&packed.body).unwrap(), &text(size)).unwrap();
        assert_eq!(packed.header("ETag"), Some(format!("W/{etag}").as_str()));
        for name in ["Accept-Ranges", "Content-Length"] {
            assert!(packed.header(name).is_none() && plain.header(name).is_some(), "{name}");
        }
        assert!(size < 1000 || packed.body.len() < size / 2, "{size}: {}", packed.body.len());
        let other = client.request(asking(&format!("/{size}.png")).as_bytes(), 200).unwrap();
        check_equal("another type", &other.body, &text(size)).unwrap();
        let known = client.request(asking(&format!("/{size}.html\nIf-None-Match: W/{etag}")).as_bytes(), 304).unwrap();
        assert!(known.header("Content-Encoding").is_none());
        let part = client.request(asking(&format!("/{size}.html\nRange: bytes=5-9")).as_bytes(), 206).unwrap();
        check_equal("a part", &part.body, &text(size)[5..10]).unwrap();
        assert!(part.header("Content-Encoding").is_none());
        assert_eq!(part.header("Vary"), Some("Accept-Encoding"));
    }
    proxy.wait_for_access_line(&["/300000.html 4."]).unwrap();
    proxy.wait_for_access_line(&["/300000.png -"]).unwrap();
}

#[test]
fn a_slow_client_holds_its_upstream_up() {
    let peer = Peer::start(|connection| {
        let Some(asked) = connection.read_request() else { return };
        let total: usize = asked.target().trim_start_matches('/').parse().unwrap();
        connection.send(format!("HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: {total}\r\n\r\n").as_bytes());
        let piece = noise();
        for _ in 0..total / piece.len() {
            if !connection.send(&piece) {
                return;
            }
        }
    });
    let config = "gzip on; gzip_types *; server { listen LISTEN; location / { proxy_pass http://PEER; } }";
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    let before = proxy.resident_kib();
    let total = 64 << 20;
    let mut client = Client::connect_and_send(proxy.addr, asking(&format!("/{total}")).as_bytes());
    assert!(client.read_head().unwrap().contains("\r\nContent-Encoding: gzip\r\n"));
    // All buffers are full when the proxy sleeps and spends no time.
    crate::harness::wait_for("the sender is stopped", || {
        let ticks = proxy.cpu_ticks();
        std::thread::sleep(std::time::Duration::from_millis(300));
        proxy.is_sleeping() && proxy.cpu_ticks() == ticks
    });
    assert!(proxy.resident_kib() < before + 4096, "{} KiB, {before} before", proxy.resident_kib());
    let mut unpacker = Unpacker::new();
    let piece = noise();
    let mut received = 0;
    while received < piece.len() * 20 {
        let (_, data) = client.read_chunk().unwrap();
        for byte in unpacker.read(&data[..data.len() - 2]).unwrap() {
            assert_eq!(byte, piece[received % piece.len()], "byte {received}");
            received += 1;
        }
    }
}

/// A body whose pieces are as long when they are compressed.
fn noise() -> Vec<u8> {
    let mut state = 3u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..64 << 10).map(|_| next()).collect()
}

#[test]
fn a_large_body_leaves_turns_to_others() {
    let proxy = Proxy::start(
        "gzip on; gzip_comp_level 9; default_type text/html;
         server { listen LISTEN; root www; location /small { return 200 small; } }",
    );
    std::fs::create_dir_all(proxy.dir.path("www")).unwrap();
    proxy.dir.write("www/large", text(12 << 20));
    let mut large = Client::connect_and_send(proxy.addr, asking("/large").as_bytes());
    assert!(large.read_head().unwrap().contains("\r\nContent-Encoding: gzip\r\n"));
    let ended = std::thread::spawn(move || {
        let mut packed = Vec::new();
        loop {
            let (_, data) = large.read_chunk().unwrap();
            if data.len() == 2 {
                return (Instant::now(), packed);
            }
            packed.extend_from_slice(&data[..data.len() - 2]);
        }
    });
    let small = Client::connect(proxy.addr).request(format_request("/small").as_bytes(), 200).unwrap();
    let answered = Instant::now();
    assert_eq!(small.body, b"small");
    let (ended, packed) = ended.join().unwrap();
    assert!(answered < ended);
    check_equal("the client", &unpack(&packed).unwrap(), &text(12 << 20)).unwrap();
}

#[test]
fn beside_other_changes_of_a_body() {
    let proxy = Proxy::start(
        "server {
            listen LISTEN;
            gzip on;
            gzip_types text/plain;
            gzip_min_length 1;
            location /packed/ { alias www/; gzip_static on; }
            location /trailers/ { alias www/; add_trailer X-A a; }
        }",
    );
    std::fs::create_dir_all(proxy.dir.path("www")).unwrap();
    for (name, text) in [("f.txt", "plain"), ("f.txt.gz", "not really gzip")] {
        proxy.dir.write(&format!("www/{name}"), text);
    }
    let mut client = Client::connect(proxy.addr);
    let mut ask = |target: &str| client.request(asking(target).as_bytes(), 200).unwrap();
    check_equal("nothing is packed twice", &ask("/packed/f.txt").body, b"not really gzip").unwrap();
    let asked = asking("/trailers/f.txt").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let all = Client::connect_and_send(proxy.addr, asked.as_bytes()).read_to_end().unwrap();
    assert!(all.ends_with(b"\r\n0\r\nX-A: a\r\n\r\n"), "{}", String::from_utf8_lossy(&all));
}

#[test]
fn values_that_mean_nothing() {
    let refused = [
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
    run_cases(refused.map(|(line, says)| (line, move || refuses_text(line, &["smolgate.conf:1:", says]))));
}
