//! A request whose first upstream fails while its body is sent: the next upstream or page gets the whole body, and no byte of
//! its data is ever parsed as framing or as another request.

use std::sync::{Arc, Mutex};

use crate::cases::check;
use crate::client::Client;
use crate::harness::{Proxy, wait_for};
use crate::peer::{Connection, Peer};

/// The data of the only chunk: parsed as framing it is the last chunk, and another request.
const DATA: &str = "0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n";
const NEXT: &[u8] = b"GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

const CONFIG: &str = "
    upstream backed { server FAILS max_fails=0; server GOOD backup; }
    upstream stale { server STALE; keepalive 4; }
    upstream busy { server BUSY max_fails=0; server GOOD backup; }
    server {
        listen LISTEN;
        BUFFERING
        location /next { proxy_pass http://GOOD; }
        location /admin { proxy_pass http://GOOD; }
        location /inner { internal; proxy_pass http://GOOD; }
        location /text { internal; return 200 text; }
        location @good { proxy_pass http://GOOD; }
        location /second { proxy_pass http://backed; }
        location /stale { proxy_pass http://stale; }
        location /fallback { proxy_pass http://FAILS; error_page 502 = @good; }
        location /page { proxy_pass http://FAILS; }
        location /own-page { proxy_pass http://FAILS; error_page 502 =200 /text; }
        location /intercepted { proxy_pass http://BUSY; proxy_intercept_errors on; error_page 503 = @good; }
        location /status { proxy_pass http://busy; proxy_next_upstream error http_503; }
        location /redirected { proxy_pass http://REDIRECTS; }
        location /redirected-to-text { proxy_pass http://TO_TEXT; }
        location /early { proxy_pass http://EARLY; }
        location /text-first { return 200 text; }
        location /denied { auth_request /busy; proxy_pass http://GOOD; }
        location /allowed { auth_request /asks; proxy_pass http://GOOD; }
        location /busy { internal; proxy_pass http://BUSY; proxy_pass_request_body off; }
        location /asks { internal; proxy_pass http://EARLY; proxy_pass_request_body off; }
        location /unsent { proxy_pass http://GOOD; proxy_pass_request_body off; }
        location /replaced { proxy_pass http://GOOD; proxy_set_body ours; }
        location /unsent-again { proxy_pass http://backed; proxy_pass_request_body off; }
    }";

/// The targets, and whether a stale connection has to be opened first.
const TARGETS: [(&str, bool); 16] = [
    ("/second", false),
    ("/stale", true),
    ("/fallback", false),
    ("/page", false),
    ("/own-page", false),
    ("/intercepted", false),
    ("/status", false),
    ("/redirected", false),
    ("/redirected-to-text", false),
    ("/early", false),
    ("/text-first", false),
    ("/denied", false),
    ("/allowed", false),
    ("/unsent", false),
    ("/replaced", false),
    ("/unsent-again", false),
];

/// The requests that a strict parser reads at the upstream.
type Seen = Arc<Mutex<Vec<Result<(String, Vec<u8>), String>>>>;

fn read_line(connection: &mut Connection) -> Option<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.extend(connection.read_bytes(1)?);
    }
    line.truncate(line.len() - 2);
    Some(String::from_utf8_lossy(&line).into_owned())
}

/// Reads the body of a request; `None` if the connection ends before.
fn read_body(connection: &mut Connection, head: &str) -> Option<Result<Vec<u8>, String>> {
    if !head.contains("\r\nTransfer-Encoding: chunked\r\n") {
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        return Some(Ok(connection.read_bytes(length.map_or(0, |length| length.parse().unwrap()))?));
    }
    let mut body = Vec::new();
    loop {
        let size = read_line(connection)?;
        let Some(count) = usize::from_str_radix(&size, 16).ok().filter(|_| !size.starts_with('+')) else {
            return Some(Err(format!("a size line {size:?}")));
        };
        body.extend(connection.read_bytes(count)?);
        match read_line(connection)?.as_str() {
            "" if count == 0 => return Some(Ok(body)),
            "" => {}
            other => return Some(Err(format!("{other:?} behind a chunk"))),
        }
    }
}

/// Starts an upstream with a strict parser. It closes a connection on the head that follows `requests` requests.
fn strict(seen: Seen, requests: usize) -> Peer {
    Peer::start(move |connection| {
        for _ in 0..requests {
            let Some(head) = connection.read_head() else { return };
            let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let Some(body) = read_body(connection, &head) else { return };
            let is_malformed = body.is_err();
            seen.lock().unwrap().push(body.map(|body| (target, body)));
            if is_malformed || !connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") {
                return;
            }
        }
        connection.read_head();
    })
}

/// Starts an upstream that responds before the body, and reads to the end.
fn early(response: &'static [u8]) -> Peer {
    Peer::start(move |connection| {
        if connection.read_head().is_some() && connection.send(response) {
            connection.read_to_end();
        }
    })
}

/// Returns the head of a request, and the whole request.
fn request(target: &str) -> (String, String) {
    let head = format!("PUT {target} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let body = format!("{:x};x=y\r\n{DATA}\r\n0\r\nTrailer: z\r\n\r\n", DATA.len());
    (head.clone(), head + &body)
}

/// Sends a request in two parts, split at `cut`; where bodies are streamed the second when the first has an effect.
fn send_split(
    proxy: &Proxy,
    [good, stale]: [&Peer; 2],
    seen: &Seen,
    (target, is_stale): (&str, bool),
    cut: usize,
    streams: bool,
) -> Result<(), String> {
    let (head, request) = request(target);
    let (first, second) = request.as_bytes().split_at(cut);
    let mut client = Client::connect(proxy.addr);
    if is_stale {
        client.request(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), 200)?;
    }
    let before = (seen.lock().unwrap().len(), good.received().len(), stale.connections());
    client.send(first);
    if streams && cut >= head.len() {
        client.stream.set_nonblocking(true).unwrap();
        wait_for("a response, or another upstream", || {
            let elsewhere = good.received().len() > before.1 || stale.connections() > before.2;
            elsewhere || client.stream.peek(&mut [0]).is_ok()
        });
        client.stream.set_nonblocking(false).unwrap();
    }
    client.send(second);
    client.send(NEXT);
    let first = client.read_response()?;
    let expected = if first.closes() { 0 } else { 1 };
    for _ in 0..expected {
        client.expect_status(200)?;
    }
    client.expect_eof()?;
    for seen in &seen.lock().unwrap()[before.0..] {
        let (path, body) = seen.as_ref().map_err(|why| format!("the upstream got {why}"))?;
        let is_expected = match path.as_str() {
            "/next" | "/inner" => body.is_empty(),
            "/replaced" => body == b"ours",
            "/unsent" | "/unsent-again" => body.is_empty(),
            path if path == target => body == DATA.as_bytes() || (is_stale && body.is_empty()),
            _ => false,
        };
        check(is_expected, || format!("the upstream got {path} with {:?}", String::from_utf8_lossy(body)))?;
    }
    Ok(())
}

#[test]
fn data_of_a_body_is_never_parsed_as_framing() {
    let seen = Seen::default();
    let good = strict(seen.clone(), usize::MAX);
    let fails = Peer::start(|connection| drop(connection.read_head()));
    let stale = strict(seen.clone(), 1);
    let busy = early(b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    let redirects =
        early(b"HTTP/1.1 200 OK\r\nConnection: close\r\nX-Accel-Redirect: /inner\r\nContent-Length: 0\r\n\r\n");
    let redirects_to_text =
        early(b"HTTP/1.1 200 OK\r\nConnection: close\r\nX-Accel-Redirect: /text\r\nContent-Length: 0\r\n\r\n");
    let early = early(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    let peers = [
        ("GOOD", &good),
        ("FAILS", &fails),
        ("STALE", &stale),
        ("BUSY", &busy),
        ("REDIRECTS", &redirects),
        ("TO_TEXT", &redirects_to_text),
        ("EARLY", &early),
    ];
    let buffering = ["proxy_request_buffering off;", "", "client_body_buffer_size 8;", "client_body_buffer_size 0;"];
    for buffering in buffering {
        let proxy = Proxy::start_with_peers(&CONFIG.replace("BUFFERING", buffering), &peers);
        let streams = buffering.contains("off");
        let mut wrong = Vec::new();
        for target in TARGETS {
            for cut in 0..=request(target.0).1.len() {
                if let Err(why) = send_split(&proxy, [&good, &stale], &seen, target, cut, streams) {
                    wrong.push(format!("{} split at {cut}: {why}", target.0));
                    break;
                }
            }
        }
        assert!(wrong.is_empty(), "{buffering}\n{}", wrong.join("\n"));
        let smuggled: Vec<String> = proxy.access_lines().into_iter().filter(|line| line.contains("/admin")).collect();
        assert!(smuggled.is_empty(), "{buffering} {smuggled:?}");
    }
}
