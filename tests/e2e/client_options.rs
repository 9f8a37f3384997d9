//! Directives for client connections: header names, slashes, keep-alive, lingering close, resets.

use std::io::Read;
use std::time::Instant;

use crate::cases::{case, check, check_equal, run_concurrently};
use crate::client::Client;
use crate::harness::{Proxy, wait_for};
use crate::peer::Peer;
use crate::request_rows::Outcome::{Forwarded, ForwardedLast, Rejected};
use crate::request_rows::{RequestRow, run_request_rows};

/// Runs rows on a proxy with these directives.
fn run_with(directives: &str, rows: &[RequestRow]) {
    let peer = Peer::start_echo();
    let config = "upstream up { server PEER; } server { listen LISTEN; DIRECTIVES
        location / { proxy_set_header Host up; proxy_set_header X-Real-IP $arg_ip; proxy_pass http://up; } }";
    run_request_rows(
        &Proxy::start_with_peers(&config.replace("DIRECTIVES", directives), &[("PEER", &peer)]),
        &peer,
        rows,
    );
}

/// No header passes whose name an application could take for one that frames a request or names its host.
#[test]
fn header_names() {
    let unusual = b"{G}x_foo: 1\r\n_foo: 2\r\nx.foo: 3\r\nX!#$%&'*+^`|~: 4\r\nX-Foo: 5\r\n\r\n";
    let dangerous =
        b"{G}Content_Length: 5\r\nTransfer_Encoding: chunked\r\nHost_: b\r\nconnection_: x\r\nCONTENT_LENGTH: 1\r\n\
                      x_real_ip: 6.6.6.6\r\nX_REAL_IP: 6.6.6.6\r\n\r\n";
    run_with("", &[(unusual, Forwarded(b"{g}X-Foo: 5\r\n\r\n")), (dangerous, Forwarded(b"{g}\r\n"))]);
    run_with(
        "underscores_in_headers on;",
        &[
            (unusual, Forwarded(b"{g}x_foo: 1\r\n_foo: 2\r\nX-Foo: 5\r\n\r\n")),
            (dangerous, Forwarded(b"{g}Host_: b\r\nconnection_: x\r\n\r\n")),
        ],
    );
    run_with(
        "ignore_invalid_headers off;",
        &[
            (unusual, Forwarded(b"{g}x_foo: 1\r\n_foo: 2\r\nx.foo: 3\r\nX!#$%&'*+^`|~: 4\r\nX-Foo: 5\r\n\r\n")),
            (b"{G}Content.Length: 5\r\nTransfer~Encoding: chunked\r\n\r\n", Forwarded(b"{g}\r\n")),
            (b"{G}<x>: 1\r\n\r\n", Rejected(400)),
            (b"{G}Host: b\r\n\r\n", Rejected(400)),
        ],
    );
}

#[test]
fn slashes() {
    let dir = crate::harness::TempDir::new();
    std::fs::create_dir(dir.path("evil.com")).unwrap();
    let config = "server { listen LISTEN; merge_slashes off; absolute_redirect off; root DIRECTORY;
            location / { } location /uri { return 200 $uri; } location //uri { return 200 double; } }
        server { listen OTHER; location / { return 200 $uri; } }";
    let root = dir.path("").display().to_string();
    let proxy = Proxy::start(&config.replace("DIRECTORY", root.trim_end_matches('/')));
    let get = |addr, target: &str| {
        let mut client = Client::connect_and_send(addr, format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        client
            .read_response()
            .map(|response| response.header("Location").map_or(response.body.clone(), |to| to.as_bytes().to_vec()))
    };
    run_concurrently(vec![
        case("merged by default", || check_equal("$uri", &get(proxy.other, "//uri///a//")?, b"/uri/a/")),
        case("not merged", || check_equal("$uri", &get(proxy.addr, "/uri///a//")?, b"/uri///a//")),
        case("another location", || check_equal("the body", &get(proxy.addr, "//uri")?, b"double")),
        case("parent directories", || check_equal("$uri", &get(proxy.addr, "/uri/a///../b")?, b"/uri/a//b")),
        case("no redirect to another host", || check_equal("Location", &get(proxy.addr, "//evil.com")?, b"/evil.com/")),
    ]);
}

const MSIE6: &str = "Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1)";
const SAFARI: &str =
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_0) AppleWebKit/605.1.15 (KHTML, like Gecko) Safari/605.1.15";

#[test]
fn browsers_without_keep_alive() {
    let config = "server { listen LISTEN; location / { return 200 ok; }
            location /safari { keepalive_disable safari; return 200 ok; }
            location /none { keepalive_disable none; return 200 ok; } }";
    let proxy = Proxy::start(config);
    let closes = |method: &str, path: &str, agent: &str| {
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: a\r\nUser-Agent: {agent}\r\nContent-Length: 0\r\n\r\n");
        Client::connect_and_send(proxy.addr, request.as_bytes())
            .expect_status(200)
            .map(|response| response.closes())
            .unwrap()
    };
    assert!(closes("POST", "/", MSIE6) && !closes("GET", "/", MSIE6) && !closes("POST", "/none", MSIE6));
    assert!(!closes("POST", "/", &MSIE6.replace("5.1)", "5.1; SV1)")) && !closes("POST", "/", SAFARI));
    assert!(closes("GET", "/safari", SAFARI) && !closes("POST", "/safari", MSIE6) && !closes("GET", "/none", SAFARI));
    assert!(!closes("GET", "/safari", &SAFARI.replace("Safari/", "Chrome/120 Safari/")));
}

#[test]
fn rewrite_log() {
    let config = "server { listen LISTEN; rewrite_log on; rewrite ^/a(.*)$ /b$1?x=y; if ($uri ~ ^/c) { return 204; }
            location / { return 200 ok; } location /quiet { rewrite_log off; rewrite ^/quiet /z; return 200 ok; } }";
    let proxy = Proxy::start(&format!("error_log error.log notice; pid smolgate.pid; access_log off;\n{config}"));
    let mut client = Client::connect(proxy.addr);
    client.request(b"GET /a1 HTTP/1.1\r\nHost: a\r\n\r\n", 200).unwrap();
    client.request(b"GET /quiet HTTP/1.1\r\nHost: a\r\n\r\n", 200).unwrap();
    for line in [
        "\"^/a(.*)$\" matches \"/a1\", client: 127.0.0.1",
        "\"/b1\", args: \"x=y\"",
        "\"^/c\" does not match \"/b1\"",
        "\"^/a(.*)$\" does not match \"/quiet\"",
    ] {
        proxy.wait_for_error_line(&["[notice]", line]).unwrap();
    }
    assert!(proxy.error_lines().iter().all(|line| !line.contains("\"/z\"")), "{:?}", proxy.error_lines());
}

#[test]
fn reset_timedout_connection() {
    let config = "server { listen LISTEN; reset_timedout_connection on; location / { return 444; } }
        server { listen OTHER; location / { return 444; } }";
    let proxy = Proxy::start(config);
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut reset = Client::connect_and_send(proxy.addr, request);
    let error = reset.stream.read(&mut [0; 16]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    Client::connect_and_send(proxy.other, request).expect_eof().unwrap();
}

#[test]
fn lingering_close() {
    let config = "server { listen LISTEN; location / { lingering_timeout 2s; return 403; }
            location /now { lingering_close off; return 403; }
            location /total { lingering_time 2s; return 403; } }";
    let proxy = Proxy::start(config);
    // After a first response the proxy has opened all of its own descriptors.
    let mut other = Client::connect(proxy.addr);
    other.request(b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n", 403).unwrap();
    // How long the connection stays open behind its response.
    let lingers = |path: &str, drips: bool| {
        let before = proxy.open_descriptors();
        let request = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
        let mut client = Client::connect_and_send(proxy.addr, request.as_bytes());
        client.expect_status(403).unwrap();
        let began = Instant::now();
        wait_for("it is closed", || {
            if drips {
                client.send(b"x");
            }
            proxy.open_descriptors() <= before
        });
        began.elapsed().as_millis()
    };
    run_concurrently(vec![case("lingering", || {
        let (pause, now, total) = (lingers("/", false), lingers("/now", false), lingers("/total", true));
        check((1900..20_000).contains(&pause), || format!("lingering_timeout: {pause} ms"))?;
        check(now < pause, || format!("lingering_close off: {now} ms"))?;
        check((1900..20_000).contains(&total), || format!("lingering_time: {total} ms"))
    })]);
}

#[test]
fn header_names_do_not_smuggle() {
    run_with(
        "ignore_invalid_headers off; underscores_in_headers on;",
        &[(
            b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent_Length: 100\r\nContent-Length: 2\r\n\r\nab",
            ForwardedLast(b"{p}Content-Length: 2\r\n\r\nab"),
        )],
    );
}
