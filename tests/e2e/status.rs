//! `stub_status` and `status`.

use std::net::{Shutdown, TcpListener};

use crate::cases::{case, check, check_equal, run_concurrently};
use crate::client::{Client, expand};
use crate::harness::{Proxy, TIMEOUT, TempDir, poll_within, run};
use crate::peer::{Peer, SWITCHING_PROTOCOLS};
use crate::response_rows::{ResponseRow, format_request, run_response_rows};

const STUB: &str = "server { listen LISTEN; location / { return 200 ok; } location /stub { stub_status; } }";

/// Returns the body of `target`, on a new connection.
fn body(proxy: &Proxy, target: &str) -> Result<String, String> {
    let mut client =
        Client::connect_and_send(proxy.addr, format_request(&format!("{target}\nConnection: close")).as_bytes());
    Ok(String::from_utf8_lossy(&client.expect_status(200)?.body).into_owned())
}

/// Waits until the body of `target` has all of `parts`.
fn wait_for_body(proxy: &Proxy, target: &str, parts: &[&str]) -> Result<(), String> {
    let mut last = String::new();
    let has = || {
        last = body(proxy, target).unwrap_or_else(|why| why);
        parts.iter().all(|part| last.contains(part)).then_some(())
    };
    poll_within(TIMEOUT, has).ok_or(()).map_err(|()| format!("{parts:?} expected in {last}"))
}

fn stub_counts() -> Result<(), String> {
    let proxy = Proxy::start(STUB);
    let mut client = Client::connect(proxy.addr);
    for requests in 1..=2 {
        let response = client.request(format_request("/stub").as_bytes(), 200)?;
        let expected = format!(
            "Active connections: 1 \nserver accepts handled requests\n 1 1 {requests} \nReading: 0 Writing: 1 Waiting: 0 \n"
        );
        check_equal("the client", &response.body, expected.as_bytes())?;
        check(response.header("Content-Type") == Some("text/plain"), || response.head.clone())?;
    }
    wait_for_body(&proxy, "/stub", &["Active connections: 2 \n", "Reading: 0 Writing: 1 Waiting: 1 \n"])?;
    client.send(b"GET / HT");
    wait_for_body(&proxy, "/stub", &["Active connections: 2 \n", "Reading: 1 Writing: 1 Waiting: 0 \n"])?;
    client.request(b"TP/1.1\r\nHost: a\r\n\r\n", 200)?;
    drop(client);
    wait_for_body(&proxy, "/stub", &["Active connections: 1 \n", "Reading: 0 Writing: 1 Waiting: 0 \n"])
}

/// A request is counted from its first byte on; the end of an idle connection is none.
fn stub_counts_requests() -> Result<(), String> {
    let proxy = Proxy::start(STUB);
    let end = |client: &mut Client| {
        client.stream.shutdown(Shutdown::Write).map_err(|error| error.to_string())?;
        client.expect_eof()
    };
    let mut idle = Client::connect(proxy.addr);
    idle.request(format_request("/").as_bytes(), 200)?;
    end(&mut idle)?;
    end(&mut Client::connect(proxy.addr))?;
    Client::connect_and_send(proxy.addr, b"GET / HTTP/1.1\r\nHost : a\r\n\r\n").expect_status(400)?;
    end(&mut Client::connect_and_send(proxy.addr, b"GET / HT"))?;
    let text = body(&proxy, "/stub")?;
    // One, none, a malformed one, an incomplete one, and this one.
    check(text.contains("\n 5 5 4 \n"), || text)
}

/// A rejected client is accepted, but not handled.
fn stub_counts_rejected_clients() -> Result<(), String> {
    let proxy = Proxy::start(&format!("events {{ worker_connections 1; }} {STUB}"));
    let mut client = Client::connect(proxy.addr);
    client.request(format_request("/").as_bytes(), 200)?;
    let mut rejected = Client::connect(proxy.addr);
    rejected.expect_status(503)?;
    rejected.expect_eof()?;
    let response = client.request(format_request("/stub").as_bytes(), 200)?;
    let text = String::from_utf8_lossy(&response.body).into_owned();
    check(text.contains("\n 2 1 2 \n"), || text)
}

#[test]
fn stub_status() {
    run_concurrently(vec![
        case("counts", stub_counts),
        case("requests", stub_counts_requests),
        case("rejected", stub_counts_rejected_clients),
    ]);
    let config = "server { listen LISTEN; add_header X-Connections
            $connections_active,$connections_reading,$connections_writing,$connections_waiting;
        location /files { root /nowhere; }
        location = /on { stub_status on; if ($arg_a) { add_header X-If yes; } }
        stub_status; }";
    let rows: &[ResponseRow] = &[
        ("get", "/on", 200, "Content-Type: text/plain | X-Connections: 1,0,1,0"),
        ("head", "HEAD /on", 200, "Content-Type: text/plain | Content-Length: 97"),
        ("post", "POST /on\nContent-Length: 0", 405, "Allow: GET, HEAD"),
        ("in an if", "/on?a=1", 200, "X-If: yes | Content-Type: text/plain"),
        ("of a server", "/any/thing", 200, "Content-Type: text/plain"),
        ("beside it", "/files", 404, ""),
    ];
    run_response_rows(&Proxy::start(config), rows);
}

/// Accept of a browser, and the type it gets if the build has the page.
const BROWSER: &str = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
const HTML: &str = "Content-Type: text/html; charset=utf-8";

#[test]
fn formats() {
    let config = "server { listen LISTEN;
        location /status { status; }
        location = /exact { status; }
        location ~ ^/found/ { status; }
        location = /data { status json; }
        location = /metrics { status prometheus; }
        location = /named { try_files /no @status; root /nowhere; }
        location @status { status; } }";
    let json = "Content-Type: application/json";
    let page = if cfg!(feature = "page") { HTML } else { json };
    let prometheus = "Content-Type: text/plain; version=0.0.4; charset=utf-8";
    let scraper = "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
    let by = |target: &str, accept: &str| format!("{target}\n{accept}");
    let rows: &[ResponseRow] = &[
        ("no Accept", "/status", 200, json),
        ("anything", &by("/status", "Accept: */*"), 200, json),
        ("a browser", &by("/status", BROWSER), 200, page),
        ("a browser, with a slash", &by("/status/", BROWSER), 200, page),
        ("a scraper", &by("/status", scraper), 200, prometheus),
        (".json", &by("/status.json", BROWSER), 200, json),
        ("/json", &by("/status/json?x", BROWSER), 200, json),
        (".prom", &by("/status.prom", BROWSER), 200, prometheus),
        ("/metrics", "/status/metrics", 200, prometheus),
        ("/prometheus", "/status/prometheus", 200, prometheus),
        ("unknown format", "/status.xml", 404, ""),
        ("something else", "/statuses", 404, ""),
        ("an exact location", &by("/exact", BROWSER), 200, page),
        ("an expression", &by("/found/a.json", BROWSER), 200, json),
        ("an expression, unknown extension", &by("/found/a.b", scraper), 200, prometheus),
        ("a named location", &by("/named", BROWSER), 200, page),
        ("json", &by("/data", BROWSER), 200, json),
        ("prometheus", &by("/metrics", BROWSER), 200, prometheus),
        ("headers", "/status.json", 200, "Cache-Control: no-store | Vary: Accept | X-Content-Type-Options: nosniff"),
        ("head", "HEAD /status.json", 200, json),
        ("post", "POST /status\nContent-Length: 0", 405, "Allow: GET, HEAD"),
    ];
    run_response_rows(&Proxy::start(config), rows);
}

#[test]
#[cfg(feature = "page")]
fn the_page() {
    let proxy =
        Proxy::start("server { listen LISTEN; location /status { status; } location = /page { status html; } }");
    let json = "Content-Type: application/json";
    let rows: &[ResponseRow] = &[
        (".html", "/status.html", 200, HTML),
        ("with Accept", "/status.html\nAccept: application/json", 200, json),
        ("html", "/page\nAccept: text/plain", 200, HTML),
        ("html, with Accept", "/page\nAccept: application/json", 200, json),
    ];
    run_response_rows(&proxy, rows);
    let mut client = Client::connect(proxy.addr);
    let page = client.request(format_request("/page").as_bytes(), 200).unwrap();
    let policy = page.header("Content-Security-Policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
    assert!(page.body.len() < 12 * 1024 && page.body.starts_with(b"<!doctype html>"));
}

#[test]
fn invalid_configurations() {
    let is_rejected = |block: &str, message: &str| {
        let dir = TempDir::new();
        dir.write("smolgate.conf", format!("server {{ listen 127.0.0.1:1; {block} }}"));
        let output = run(&dir, &["-t"], "smolgate.conf");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(message), "{block}: {said}");
    };
    is_rejected("location / { status xml; }", "invalid value \"xml\" in \"status\" directive");
    #[cfg(not(feature = "page"))]
    is_rejected("location / { status html; }", "this build has no page");
    is_rejected("status;", "\"status\" directive is not allowed here");
    is_rejected("location / { status; status json; }", "\"status\" directive is duplicate");
    let twice = "this block has two directives that respond";
    is_rejected("location / { status; stub_status; }", twice);
    is_rejected("location / { proxy_pass http://127.0.0.1:1; status; }", twice);
    is_rejected("location / { stub_status; proxy_pass http://127.0.0.1:1; }", twice);
}

/// Every byte is counted once.
#[test]
fn bytes_of_a_tunnel() {
    let peer = Peer::start_echo();
    let config = "server { listen LISTEN; location / { proxy_pass http://PEER; } location /status { status; } }";
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    let asked = format_request("/status.prom");
    let mut watcher = Client::connect(proxy.addr);
    let first = watcher.request(asked.as_bytes(), 200).unwrap();
    let upgrade = expand(b"GET /ws HTTP/1.1\r\nHost: a\r\n{W}\r\n");
    let mut client = Client::connect_and_send(proxy.addr, &upgrade);
    let switched = client.expect_status(101).unwrap();
    client.send(b"hello");
    assert_eq!(client.read_bytes(5).unwrap(), b"hello");
    let open = watcher.request(asked.as_bytes(), 200).unwrap();
    let open_text = String::from_utf8_lossy(&open.body).into_owned();
    let addr = peer.addr;
    for line in [
        "smolgate_tunnels 1".to_owned(),
        "smolgate_tunnels_opened_total 1".to_owned(),
        "smolgate_connections{state=\"writing\"} 2".to_owned(),
        "smolgate_connections_accepted_total 2".to_owned(),
        "smolgate_requests_total 3".to_owned(),
        "smolgate_responses_total{class=\"1xx\"} 1".to_owned(),
        "smolgate_responses_total{class=\"2xx\"} 1".to_owned(),
        format!("smolgate_received_bytes_total{{side=\"client\"}} {}", 2 * asked.len() + upgrade.len() + 5),
        format!(
            "smolgate_sent_bytes_total{{side=\"client\"}} {}",
            first.head.len() + first.body.len() + switched.head.len() + 5
        ),
        format!("smolgate_received_bytes_total{{side=\"upstream\"}} {}", SWITCHING_PROTOCOLS.len() + 5),
        format!("smolgate_sent_bytes_total{{side=\"upstream\"}} {}", peer.received().len()),
        format!("smolgate_peer_up{{upstream=\"{addr}\",peer=\"{addr}\"}} 1"),
        format!("smolgate_peer_connections{{upstream=\"{addr}\",peer=\"{addr}\"}} 1"),
        format!("smolgate_peer_tries_total{{upstream=\"{addr}\",peer=\"{addr}\"}} 1"),
    ] {
        assert!(open_text.lines().any(|known| known == line), "{line:?} expected in {open_text}");
    }
    proxy.signal("HUP");
    proxy.wait_for_error_line(&["configuration reloaded"]).unwrap();
    let reloaded = watcher.request(asked.as_bytes(), 200).unwrap();
    let text = String::from_utf8_lossy(&reloaded.body).into_owned();
    let still = format!("smolgate_peer_connections{{upstream=\"{addr}\",peer=\"{addr}\"}} 1\n");
    assert!(text.contains("smolgate_tunnels 1\n") && text.contains(&still), "{text}");
    drop(client);
    let peer_gone = format!("smolgate_peer_connections{{upstream=\"{addr}\",peer=\"{addr}\"}} 0\n");
    let parts = ["smolgate_tunnels 0\n", "smolgate_tunnels_opened_total 1\n", peer_gone.as_str()];
    wait_for_body(&proxy, "/status.prom", &parts).unwrap();
    wait_for_body(&proxy, "/status.json", &["\"tunnels\":{\"open\":0,\"opened\":1}"]).unwrap();
}

#[test]
fn the_state_of_peers() {
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let peer = Peer::start_echo();
    let config = r#"upstream mixed { server DEAD; server PEER; server 'unix:/nowhere/x"<i>.sock' down;
            server 127.0.0.1:1 drain; server name.invalid:81 backup; }
        server { listen LISTEN; location / { proxy_pass http://mixed; } location /status { status; } }"#;
    let proxy = Proxy::start_with_peers(&config.replace("DEAD", &dead.to_string()), &[("PEER", &peer)]);
    let before = body(&proxy, "/status.json").unwrap();
    let unseen = ["\"connections\":0", "\"tries\":0", "\"failures\":0}"].join(",");
    for line in [
        format!("{{\"address\":\"127.0.0.1:1\",\"state\":\"draining\",\"backup\":false,\"weight\":1,{unseen}"),
        format!("{{\"address\":\"{dead}\",\"state\":\"up\",\"backup\":false,\"weight\":1,{unseen}"),
        format!(
            "{{\"address\":\"unix:/nowhere/x\\\"\\u003ci\\u003e.sock\",\"state\":\"down\",\"backup\":false,\"weight\":1,{unseen}"
        ),
        format!("{{\"address\":\"name.invalid:81\",\"state\":\"unknown\",\"backup\":true,\"weight\":1,{unseen}"),
    ] {
        assert!(before.contains(&line), "{line} expected in {before}");
    }
    let mut client = Client::connect(proxy.addr);
    client.request(format_request("/a").as_bytes(), 200).unwrap();
    wait_for_body(
        &proxy,
        "/status.json",
        &[
            &format!("\"{dead}\",\"state\":\"failed\",\"backup\":false,\"weight\":1,\"connections\":0,\"tries\":1,\"failures\":1}}"),
            &format!("\"{}\",\"state\":\"up\",\"backup\":false,\"weight\":1,\"connections\":0,\"tries\":1,\"failures\":0}}", peer.addr),
        ],
    )
    .unwrap();
    let metrics = body(&proxy, "/status.prom").unwrap();
    for line in [
        format!("smolgate_peer_up{{upstream=\"mixed\",peer=\"{dead}\"}} 0\n"),
        format!("smolgate_peer_failures_total{{upstream=\"mixed\",peer=\"{dead}\"}} 1\n"),
        "smolgate_peer_up{upstream=\"mixed\",peer=\"unix:/nowhere/x\\\"<i>.sock\"} 0\n".to_owned(),
    ] {
        assert!(metrics.contains(&line), "{line} expected in {metrics}");
    }
}

/// Each worker reports the sum of all.
#[test]
fn the_sum_over_workers() {
    let peer = Peer::start_echo();
    let config = "worker_processes 3; server { listen LISTEN; location / { proxy_pass http://PEER; }
        location /stub { stub_status; } location /status { status; } }";
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    let upgrade = expand(b"GET /ws HTTP/1.1\r\nHost: a\r\n{W}\r\n");
    let mut clients: Vec<Client> = (0..9).map(|_| Client::connect_and_send(proxy.addr, &upgrade)).collect();
    for client in &mut clients {
        client.expect_status(101).unwrap();
    }
    let all = ["smolgate_tunnels 9\n", "smolgate_connections{state=\"writing\"} 10\n", "{class=\"1xx\"} 9\n"];
    wait_for_body(&proxy, "/status.prom", &all).unwrap();
    wait_for_body(&proxy, "/stub", &["Active connections: 10 \n", "Reading: 0 Writing: 10 Waiting: 0"]).unwrap();
    drop(clients);
    let all =
        ["smolgate_tunnels 0\n", "smolgate_tunnels_opened_total 9\n", "smolgate_connections{state=\"writing\"} 1\n"];
    wait_for_body(&proxy, "/status.prom", &all).unwrap();
}
