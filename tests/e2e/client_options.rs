//! How clients are dealt with: names of fields, slashes, ends of connections.

use std::io::Read;
use std::time::Instant;

use crate::client::Client;
use crate::harness::{Gate, wait_for};
use crate::peer::Peer;
use crate::rows::Then::{Refused, Served, ServedLast};
use crate::rows::{Row, case, check, same, try_rows, verify_at_once};

/// An upstream behind a gate with these directives.
fn try_with(directives: &str, rows: &[Row]) {
    let peer = Peer::polite();
    let config = "upstream up { server PEER; } server { listen LISTEN; DIRECTIVES
        location / { proxy_set_header Host up; proxy_set_header X-Real-IP $arg_ip; proxy_pass http://up; } }";
    try_rows(&Gate::before(&config.replace("DIRECTIVES", directives), &[("PEER", &peer)]), &peer, rows);
}

/// What frames a request or names its host passes under no name that an application could take for it.
#[test]
fn names_of_fields() {
    let odd = b"{G}x_foo: 1\r\n_foo: 2\r\nx.foo: 3\r\nX!#$%&'*+^`|~: 4\r\nX-Foo: 5\r\n\r\n";
    let dangerous =
        b"{G}Content_Length: 5\r\nTransfer_Encoding: chunked\r\nHost_: b\r\nconnection_: x\r\nCONTENT_LENGTH: 1\r\n\
                      x_real_ip: 6.6.6.6\r\nX_REAL_IP: 6.6.6.6\r\n\r\n";
    try_with(
        "",
        &[
            ("D24 by default", odd, Served(b"{g}X-Foo: 5\r\n\r\n")),
            ("D24 nothing of it", dangerous, Served(b"{g}\r\n")),
        ],
    );
    try_with(
        "underscores_in_headers on;",
        &[
            ("D24 underscores", odd, Served(b"{g}x_foo: 1\r\n_foo: 2\r\nX-Foo: 5\r\n\r\n")),
            ("D24 underscores that collide", dangerous, Served(b"{g}Host_: b\r\nconnection_: x\r\n\r\n")),
        ],
    );
    try_with(
        "ignore_invalid_headers off;",
        &[
            ("D24 all", odd, Served(b"{g}x_foo: 1\r\n_foo: 2\r\nx.foo: 3\r\nX!#$%&'*+^`|~: 4\r\nX-Foo: 5\r\n\r\n")),
            ("D24 all but those", b"{G}Content.Length: 5\r\nTransfer~Encoding: chunked\r\n\r\n", Served(b"{g}\r\n")),
            ("D24 no name", b"{G}<x>: 1\r\n\r\n", Refused(400)),
            ("D24 two hosts", b"{G}Host: b\r\n\r\n", Refused(400)),
        ],
    );
}

#[test]
fn slashes() {
    let folder = crate::harness::Folder::new();
    std::fs::create_dir(folder.path("evil.com")).unwrap();
    let config = "server { listen LISTEN; merge_slashes off; absolute_redirect off; root FOLDER;
            location / { } location /uri { return 200 $uri; } location //uri { return 200 double; } }
        server { listen OTHER; location / { return 200 $uri; } }";
    let root = folder.path("").display().to_string();
    let gate = Gate::start(&config.replace("FOLDER", root.trim_end_matches('/')));
    let answer = |addr, target: &str| {
        let mut client = Client::asking(addr, format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        client.reply().map(|reply| reply.field("Location").map_or(reply.body.clone(), |to| to.as_bytes().to_vec()))
    };
    verify_at_once(vec![
        case("merged by default", || same("$uri", &answer(gate.other, "//uri///a//")?, b"/uri/a/")),
        case("not merged", || same("$uri", &answer(gate.addr, "/uri///a//")?, b"/uri///a//")),
        case("another location", || same("the body", &answer(gate.addr, "//uri")?, b"double")),
        case("steps up", || same("$uri", &answer(gate.addr, "/uri/a///../b")?, b"/uri/a//b")),
        // Not to another host.
        case("B32", || same("Location", &answer(gate.addr, "//evil.com")?, b"/evil.com/")),
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
    let gate = Gate::start(config);
    let closes = |method: &str, path: &str, agent: &str| {
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: a\r\nUser-Agent: {agent}\r\nContent-Length: 0\r\n\r\n");
        Client::asking(gate.addr, request.as_bytes()).expect(200).map(|reply| reply.closes()).unwrap()
    };
    assert!(closes("POST", "/", MSIE6) && !closes("GET", "/", MSIE6) && !closes("POST", "/none", MSIE6));
    assert!(!closes("POST", "/", &MSIE6.replace("5.1)", "5.1; SV1)")) && !closes("POST", "/", SAFARI));
    assert!(closes("GET", "/safari", SAFARI) && !closes("POST", "/safari", MSIE6) && !closes("GET", "/none", SAFARI));
    assert!(!closes("GET", "/safari", &SAFARI.replace("Safari/", "Chrome/120 Safari/")));
}

#[test]
fn steps_are_logged_where_they_are_to_be() {
    let config = "server { listen LISTEN; rewrite_log on; rewrite ^/a(.*)$ /b$1?x=y; if ($uri ~ ^/c) { return 204; }
            location / { return 200 ok; } location /quiet { rewrite_log off; rewrite ^/quiet /z; return 200 ok; } }";
    let gate = Gate::start(&format!("error_log error.log notice; pid gate.pid; access_log off;\n{config}"));
    let mut client = Client::connect(gate.addr);
    client.ask(b"GET /a1 HTTP/1.1\r\nHost: a\r\n\r\n", 200).unwrap();
    client.ask(b"GET /quiet HTTP/1.1\r\nHost: a\r\n\r\n", 200).unwrap();
    for line in [
        "\"^/a(.*)$\" matches \"/a1\", client: 127.0.0.1",
        "\"/b1\", args: \"x=y\"",
        "\"^/c\" does not match \"/b1\"",
        "\"^/a(.*)$\" does not match \"/quiet\"",
    ] {
        gate.wait_for_error(&["[notice]", line]).unwrap();
    }
    assert!(gate.errors().iter().all(|line| !line.contains("\"/z\"")), "{:?}", gate.errors());
}

#[test]
fn connections_that_end_with_a_reset() {
    let config = "server { listen LISTEN; reset_timedout_connection on; location / { return 444; } }
        server { listen OTHER; location / { return 444; } }";
    let gate = Gate::start(config);
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut reset = Client::asking(gate.addr, request);
    let error = reset.stream.read(&mut [0; 16]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    Client::asking(gate.other, request).expect_end().unwrap();
}

#[test]
fn clients_that_still_send() {
    let config = "server { listen LISTEN; location / { lingering_timeout 2s; return 403; }
            location /now { lingering_close off; return 403; }
            location /total { lingering_time 2s; return 403; } }";
    let gate = Gate::start(config);
    // A gate that has answered has opened all that it opens.
    let mut other = Client::connect(gate.addr);
    other.ask(b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n", 403).unwrap();
    // How long the connection was kept behind its answer.
    let kept = |path: &str, drips: bool| {
        let before = gate.descriptors();
        let request = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
        let mut client = Client::asking(gate.addr, request.as_bytes());
        client.expect(403).unwrap();
        let began = Instant::now();
        wait_for("it is closed", || {
            if drips {
                client.send(b"x");
            }
            gate.descriptors() <= before
        });
        began.elapsed().as_millis()
    };
    verify_at_once(vec![case("P10", || {
        let (pause, now, total) = (kept("/", false), kept("/now", false), kept("/total", true));
        check((1900..20_000).contains(&pause), || format!("lingering_timeout: {pause} ms"))?;
        check(now < pause, || format!("lingering_close off: {now} ms"))?;
        check((1900..20_000).contains(&total), || format!("lingering_time: {total} ms"))
    })]);
}

/// A row that shows that a connection is still in step, whatever names it has seen.
#[test]
fn names_do_not_smuggle() {
    try_with(
        "ignore_invalid_headers off; underscores_in_headers on;",
        &[(
            "D24 last",
            b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent_Length: 100\r\nContent-Length: 2\r\n\r\nab",
            ServedLast(b"{p}Content-Length: 2\r\n\r\nab"),
        )],
    );
}
