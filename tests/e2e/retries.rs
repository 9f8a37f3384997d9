//! A request whose first upstream fails while its body is on the way: whatever answers next goes on from where the body
//! stands, and no byte of its data is read as framing or as another request.

use std::sync::{Arc, Mutex};

use crate::cases::check;
use crate::client::Client;
use crate::harness::{Proxy, wait_for};
use crate::peer::{Connection, Peer};

/// The data of the one chunk: read as framing it is an end, and a request behind it.
const DATA: &str = "0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n";
const NEXT: &[u8] = b"GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

const CONFIG: &str = "
    upstream backed { server FAILS max_fails=0; server GOOD backup; }
    upstream stale { server STALE; keepalive 4; }
    upstream busy { server BUSY max_fails=0; server GOOD backup; }
    server {
        listen LISTEN;
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
        location /sent-on { proxy_pass http://SENDS_ON; }
        location /sent-to-text { proxy_pass http://SENDS_TO_TEXT; }
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

/// Where a request may be answered: its target, and whether a stale connection has to be made first.
const WAYS: [(&str, bool); 16] = [
    ("/second", false),
    ("/stale", true),
    ("/fallback", false),
    ("/page", false),
    ("/own-page", false),
    ("/intercepted", false),
    ("/status", false),
    ("/sent-on", false),
    ("/sent-to-text", false),
    ("/early", false),
    ("/text-first", false),
    ("/denied", false),
    ("/allowed", false),
    ("/unsent", false),
    ("/replaced", false),
    ("/unsent-again", false),
];

/// What a strict reader makes of the bytes that an upstream gets.
type Seen = Arc<Mutex<Vec<Result<(String, Vec<u8>), String>>>>;

fn line(connection: &mut Connection) -> Option<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.extend(connection.read_bytes(1)?);
    }
    line.truncate(line.len() - 2);
    Some(String::from_utf8_lossy(&line).into_owned())
}

/// Reads the body of a request: `None` if the connection ends before it does.
fn body(connection: &mut Connection, head: &str) -> Option<Result<Vec<u8>, String>> {
    if !head.contains("\r\nTransfer-Encoding: chunked\r\n") {
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        return Some(Ok(connection.read_bytes(length.map_or(0, |length| length.parse().unwrap()))?));
    }
    let mut body = Vec::new();
    loop {
        let size = line(connection)?;
        let Some(count) = usize::from_str_radix(&size, 16).ok().filter(|_| !size.starts_with('+')) else {
            return Some(Err(format!("a size line {size:?}")));
        };
        body.extend(connection.read_bytes(count)?);
        match line(connection)?.as_str() {
            "" if count == 0 => return Some(Ok(body)),
            "" => {}
            other => return Some(Err(format!("{other:?} behind a chunk"))),
        }
    }
}

/// An upstream that reads everything strictly, and answers. A connection ends with the head behind `requests` of them.
fn strict(seen: Seen, requests: usize) -> Peer {
    Peer::start(move |connection| {
        for _ in 0..requests {
            let Some(head) = connection.read_head() else { return };
            let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let Some(body) = body(connection, &head) else { return };
            let is_malformed = body.is_err();
            seen.lock().unwrap().push(body.map(|body| (target, body)));
            if is_malformed || !connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") {
                return;
            }
        }
        connection.read_head();
    })
}

/// An upstream that answers a head before its body, and reads to the end.
fn early(answer: &'static [u8]) -> Peer {
    Peer::start(move |connection| {
        if connection.read_head().is_some() && connection.send(answer) {
            connection.read_to_end();
        }
    })
}

/// The head of a request, and all of it.
fn request(target: &str) -> (String, String) {
    let head = format!("PUT {target} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let body = format!("{:x};x=y\r\n{DATA}\r\n0\r\nTrailer: z\r\n\r\n", DATA.len());
    (head.clone(), head + &body)
}

/// Sends a request in two parts, cut at `cut`, the second when there is an answer to the first.
fn try_way(
    proxy: &Proxy,
    [good, stale]: [&Peer; 2],
    seen: &Seen,
    (target, is_stale): (&str, bool),
    cut: usize,
) -> Result<(), String> {
    let (head, request) = request(target);
    let (first, second) = request.as_bytes().split_at(cut);
    let mut client = Client::connect(proxy.addr);
    if is_stale {
        client.request(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), 200)?;
    }
    let before = (seen.lock().unwrap().len(), good.received().len(), stale.connections());
    client.send(first);
    if cut >= head.len() {
        client.stream.set_nonblocking(true).unwrap();
        wait_for("an answer, or another upstream", || {
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
        let (asked, body) = seen.as_ref().map_err(|why| format!("the upstream got {why}"))?;
        let is_honest = match asked.as_str() {
            "/next" | "/inner" => body.is_empty(),
            "/replaced" => body == b"ours",
            "/unsent" | "/unsent-again" => body.is_empty(),
            asked if asked == target => body == DATA.as_bytes() || (is_stale && body.is_empty()),
            _ => false,
        };
        check(is_honest, || format!("the upstream got {asked} with {:?}", String::from_utf8_lossy(body)))?;
    }
    Ok(())
}

#[test]
fn data_of_a_body_is_never_read_as_framing() {
    let seen = Seen::default();
    let good = strict(seen.clone(), usize::MAX);
    let fails = Peer::start(|connection| drop(connection.read_head()));
    let stale = strict(seen.clone(), 1);
    let busy = early(b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    let sends_on =
        early(b"HTTP/1.1 200 OK\r\nConnection: close\r\nX-Accel-Redirect: /inner\r\nContent-Length: 0\r\n\r\n");
    let sends_to_text =
        early(b"HTTP/1.1 200 OK\r\nConnection: close\r\nX-Accel-Redirect: /text\r\nContent-Length: 0\r\n\r\n");
    let early = early(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    let proxy = Proxy::start_with_peers(
        CONFIG,
        &[
            ("GOOD", &good),
            ("FAILS", &fails),
            ("STALE", &stale),
            ("BUSY", &busy),
            ("SENDS_ON", &sends_on),
            ("SENDS_TO_TEXT", &sends_to_text),
            ("EARLY", &early),
        ],
    );
    let mut wrong = Vec::new();
    for way in WAYS {
        for cut in 0..=request(way.0).1.len() {
            if let Err(why) = try_way(&proxy, [&good, &stale], &seen, way, cut) {
                wrong.push(format!("{} cut at {cut}: {why}", way.0));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let smuggled: Vec<String> = proxy.access_lines().into_iter().filter(|line| line.contains("/admin")).collect();
    assert!(smuggled.is_empty(), "{smuggled:?}");
}
