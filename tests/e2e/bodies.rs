//! Where a request body ends: Content-Length, Transfer-Encoding, chunks, pipelining, Expect.

use std::sync::{Arc, Mutex};

use crate::cases::{case, check, check_equal, run_concurrently};
use crate::client::{Client, expand};
use crate::harness::Proxy;
use crate::peer::Peer;
use crate::request_rows::Outcome::{
    Forwarded, ForwardedLast, ForwardedThenRejected, ForwardedTimes, Rejected, RejectedInBody,
};
use crate::request_rows::{Outcome, RequestRow, run_request_rows};

fn bare(peer: &Peer) -> Proxy {
    let config =
        "upstream up { server PEER; keepalive 4; } server { listen LISTEN; location / { proxy_pass http://up; } }";
    Proxy::start_with_peers(config, &[("PEER", peer)])
}

#[test]
fn content_length() {
    let rows: &[RequestRow] = &[
        (b"{P}Content-Length: +5\r\n\r\nhello", Rejected(400)),
        (b"{P}Content-Length: -1\r\n\r\nhello", Rejected(400)),
        (b"{P}Content-Length: 0x5\r\n\r\nhello", Rejected(400)),
        (b"{P}Content-Length: 05\r\n\r\nhello", Forwarded(b"{p}Content-Length: 5\r\n\r\nhello")),
        (b"{P}Content-Length: 00\r\n\r\n", Forwarded(b"{p}Content-Length: 0\r\n\r\n")),
        (b"{P}Content-Length: 1 0\r\n\r\nhello12345", Rejected(400)),
        (b"{P}Content-Length: 1_0\r\n\r\nhelloworld", Rejected(400)),
        (b"{P}Content-Length: 5x\r\n\r\nhello", Rejected(400)),
        (b"{P}Content-Length: 5.0\r\n\r\nhello", Rejected(400)),
        (b"{P}Content-Length: 99999999999999999999\r\n\r\n", Rejected(400)),
        (b"{P}Content-Length: 9223372036854775808\r\n\r\n", Rejected(400)),
        (b"{P}Content-Length: 9223372036854775807\r\n\r\n", Rejected(413)),
        (b"{P}Content-Length: 999999999\r\n\r\n", Rejected(413)),
        (b"{P}Content-Length: 5, 5\r\n\r\nhello", Rejected(400)),
        (b"{P}Content-Length: 5, 6\r\n\r\nhello", Rejected(400)),
        (b"{P}Content-Length: \"5\"\r\n\r\nhello", Rejected(400)),
        (b"{P}Content-Length: 5\x00\r\n\r\nhello", Rejected(400)),
        (b"{P}Content-Length: \x0b5\r\n\r\nhello", Rejected(400)),
        (b"{P}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", Rejected(400)),
        (b"{P}Content-Length: 5\r\nContent-Length: 0\r\n\r\nhello", Rejected(400)),
        (b"{P}Content-Length: \r\nContent-Length: 5\r\n\r\nhello", Rejected(400)),
        (b"{G}Content-Length: 5\r\n\r\nhello", Forwarded(b"{g}Content-Length: 5\r\n\r\nhello")),
        (
            b"POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            ForwardedLast(b"{p}Content-Length: 5\r\n\r\nhello"),
        ),
        (b"POST / HTTP/1.0\r\nHost: a\r\n\r\nhello", ForwardedLast(b"{p}\r\n")),
        (b"{P}\r\nhello", ForwardedThenRejected(400, b"{p}\r\n")),
        (b"{P}Content-Length: 4294967301\r\n\r\nhello{N}", Rejected(413)),
    ];
    let peer = Peer::start_echo();
    run_request_rows(&bare(&peer), &peer, rows);
}

/// A small body that came with its head is forwarded with a Content-Length, whatever framing it had.
#[test]
fn transfer_encoding() {
    const FIVE: Outcome = Forwarded(b"{p}Content-Length: 5\r\n\r\nhello");
    let rows: &[RequestRow] = &[
        (b"{P}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", FIVE),
        (b"{P}Transfer-Encoding: ChUnKeD\r\n\r\n5\r\nhello\r\n0\r\n\r\n", FIVE),
        (b"{P}Transfer-Encoding: chunked,\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Rejected(400)),
        (b"{P}Transfer-Encoding: chunked, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Rejected(400)),
        (b"{P}Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Rejected(501)),
        (b"{P}Transfer-Encoding: gzip\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Rejected(501)),
        (b"{P}Transfer-Encoding: identity\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Rejected(501)),
        (b"{P}Transfer-Encoding: xchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Rejected(501)),
        (b"{P}Transfer-Encoding: chunked;a=b\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Rejected(400)),
        (b"{P}Transfer-Encoding: \"chunked\"\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Rejected(400)),
        (b"{P}Transfer-Encoding: chunked \r\n\r\n5\r\nhello\r\n0\r\n\r\n", FIVE),
        (b"{P}Transfer-Encoding: \x0bchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Rejected(400)),
        (b"{P}Transfer-Encoding: chunked\x00\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Rejected(400)),
        (b"{P}Transfer-Encoding: \xa0chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Rejected(400)),
        (b"{P}Transfer-Encoding: chunked\r\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Rejected(400)),
        (b"{P}Transfer-Encoding: chunk\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Rejected(501)),
        (b"{P}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", Rejected(400)),
        (b"{P}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", Rejected(400)),
        (b"{P}Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Rejected(400)),
        (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Rejected(400)),
        (b"{G}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Forwarded(b"{g}Content-Length: 0\r\n\r\n")),
        (
            b"OPTIONS / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Forwarded(b"OPTIONS / HTTP/1.1\r\nHost: up\r\nContent-Length: 0\r\n\r\n"),
        ),
        (
            b"HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Forwarded(b"HEAD / HTTP/1.1\r\nHost: up\r\nContent-Length: 0\r\n\r\n"),
        ),
        (
            b"{P}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\nGPOST / HTTP/1.1\r\n\
              Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 15\r\n\r\nx=1\r\n0\r\n\r\n",
            Rejected(400),
        ),
        (b"{G}Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX", Rejected(400)),
        (
            b"OPTIONS / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n\
              1b\r\nGET /smug HTTP/1.1\r\nx: XXXX\r\n0\r\n\r\n",
            Forwarded(b"OPTIONS / HTTP/1.1\r\nHost: up\r\nContent-Length: 27\r\n\r\nGET /smug HTTP/1.1\r\nx: XXXX"),
        ),
        (b"{P}Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", FIVE),
        (
            b"{P}Connection: Content-Length\r\nContent-Length: 5\r\n\r\nhello",
            Forwarded(b"{p}Content-Length: 5\r\n\r\nhello"),
        ),
        (b"GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n 33\r\n\r\n{N}", Rejected(400)),
        (b"{P}Content-Length: 5\r\nX-Invalid Y: \r\n\r\nhello", Rejected(400)),
        (b"{P}Transfer-%45ncoding: chunked\r\n\r\n0\r\n\r\n", ForwardedThenRejected(400, b"{p}\r\n")),
    ];
    let peer = Peer::start_echo();
    run_request_rows(&bare(&peer), &peer, rows);
}

/// Runs rows of chunked bodies behind the head of a `POST`.
fn chunked(rows: &'static [RequestRow], proxy: &Proxy, peer: &Peer) {
    let whole = |body: &[u8]| [b"{P}Transfer-Encoding: chunked\r\n\r\n", body].concat();
    let rows: Vec<RequestRow> = rows.iter().map(|(body, outcome)| (&*whole(body).leak(), *outcome)).collect();
    run_request_rows(proxy, peer, &rows);
}

#[test]
fn chunks() {
    const FIVE: Outcome = Forwarded(b"{p}Content-Length: 5\r\n\r\nhello");
    let peer = Peer::start_echo();
    let proxy = bare(&peer);
    let rows: &[RequestRow] = &[
        (b"5\r\nhello\r\n0\r\n\r\n", FIVE),
        (b"00000005\r\nhello\r\n00\r\n\r\n", FIVE),
        (b"5;a=b\r\nhello\r\n0\r\n\r\n", FIVE),
        (b"5;\r\nhello\r\n0\r\n\r\n", Rejected(400)),
        (b"5;\nhello\r\n0\r\n\r\n", Rejected(400)),
        (b"2;\nxx\r\n10\r\n1f\r\nAAAABBBBCCCC\r\n0\r\n\r\nDDDDEEEEFFFF\r\n0\r\n\r\n", Rejected(400)),
        (b"5\r\r;a\r\nhello\r\n0\r\n\r\n", Rejected(400)),
        (b"5;\x00a\r\nhello\r\n0\r\n\r\n", Rejected(400)),
        (b"5;b[=x\r\nhello\r\n0\r\n\r\n", FIVE),
        (b"5\nhello\n0\n\n", Rejected(400)),
        (b"5\r\nhello\n0\r\n\r\n", Rejected(400)),
        (b"5\r\nhello\r\n0\r\n\n", Rejected(400)),
        (b"5\rhello\r\n0\r\n\r\n", Rejected(400)),
        (b"0x5\r\nhello\r\n0\r\n\r\n", Rejected(400)),
        (b"+5\r\nhello\r\n0\r\n\r\n", Rejected(400)),
        (b"0_5\r\nhello\r\n0\r\n\r\n", Rejected(400)),
        (b" 5\r\nhello\r\n0\r\n\r\n", Rejected(400)),
        (b"5 \r\nhello\r\n0\r\n\r\n", Rejected(400)),
        (b"\r\nhello\r\n0\r\n\r\n", Rejected(400)),
        (b";a\r\n\r\n", Rejected(400)),
        (b"5g\r\nhello\r\n0\r\n\r\n", Rejected(400)),
        (b"10000000000000005\r\nhello\r\n0\r\n\r\n", Rejected(400)),
        (b"FFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n", Rejected(400)),
        (b"7FFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n", Rejected(400)),
        (b"5\r\nhello!!\r\n0\r\n\r\n", Rejected(400)),
        (b"5\r\nhello0\r\n\r\n", Rejected(400)),
        (b"2\r\nxx\n12\r\nxx\r\n19\r\nxxAAAABBBB\r\n0\r\n\r\nCCCCDDDD\r\n0\r\n\r\n", Rejected(400)),
        (b"5;a{*65536}\r\nhello\r\n0\r\n\r\n", Rejected(400)),
        (
            b"(1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nz\r\n){*20000}0\r\n\r\n",
            RejectedInBody(400),
        ),
        (b"5\r\nhello\r\n0\r\nX-T: v\r\n\r\n", FIVE),
        (b"5\r\nhello\r\n0\r\nbad line\r\n\r\n", Rejected(400)),
        (b"5\r\nhello\r\n0\r\nX: a{*65536}\r\n\r\n", RejectedInBody(431)),
        (b"5\r\nhello\r\n0\r\n(X: a\r\n){*10000}\r\n", RejectedInBody(431)),
        (b"5\r\nhello\r\n0\r\n(X: a\r\n){*101}\r\n", Rejected(431)),
        (b"0\r\n\r\n{N}", ForwardedTimes(2, b"{p}Content-Length: 0\r\n\r\n{n}")),
        (b"INVALID!!!\r\n{N}", Rejected(400)),
    ];
    chunked(rows, &proxy, &peer);
}

/// A body too large to be read before forwarding starts is forwarded in chunks that the proxy generates.
#[test]
fn chunks_of_a_large_body() {
    let peer = Peer::start(|connection| {
        while let Some(request) = connection.read_request() {
            let framing = if request.head.contains("\r\nTransfer-Encoding: chunked\r\n") { "chunked" } else { "whole" };
            let good = request.body == expand(b"(0123456789){*50000}") && !request.head.contains("Content-Length");
            connection.respond(&request, if good { framing } else { "broken" });
        }
    });
    let proxy = bare(&peer);
    let mut client = Client::connect(proxy.addr);
    client.send(&expand(b"{P}Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n"));
    // The extensions stay below the limit for a body.
    for _ in 0..5 {
        client.send(&expand(b"186a0;x=y\r\n(0123456789){*10000}\r\n"));
    }
    let response = client.request(b"0\r\nX-T: v\r\n\r\n", 200).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(response.body, b"chunked");
    let seen = peer.received();
    for dropped in [&b"x=y"[..], b"X-T", b"186a0"] {
        assert!(!seen.windows(dropped.len()).any(|part| part == dropped), "{}", dropped.escape_ascii());
    }
}

/// A chunked body of up to `client_body_buffer_size` is read whole, however it arrives, and gets a length. A longer one is
/// streamed in chunks; so is each with `proxy_request_buffering off`. HTTP/1.0 upstreams never get chunks.
#[test]
fn buffered_bodies() {
    let peer = Peer::start_echo();
    let proxy = Proxy::start_with_peers(
        "upstream up { server PEER; keepalive 4; }
        server { listen LISTEN;
            client_body_buffer_size 16; client_max_body_size 40;
            location /on { proxy_pass http://up; }
            location /off { proxy_request_buffering off; proxy_pass http://up; }
            location /old { proxy_http_version 1.0; proxy_request_buffering off; proxy_pass http://up; } }",
        &[("PEER", &peer)],
    );
    let short = ["8\r\n01234567\r\n", "8\r\n89abcdef\r\n", "0\r\n", "\r\n"];
    let long = ["8\r\n01234567\r\n", "9\r\n89abcdefg\r\n", "2\r\nhi\r\n0\r\n", "\r\n"];
    let head = "Host: up\r\n";
    let rows: [(&str, &[&str], Result<&str, u16>); 8] = [
        ("/on", &short, Ok("Content-Length: 16\r\n\r\n0123456789abcdef")),
        ("/on", &["0\r\n\r\n"], Ok("Content-Length: 0\r\n\r\n")),
        ("/on", &long, Ok("Transfer-Encoding: chunked\r\n\r\n11\r\n0123456789abcdefg\r\n2\r\nhi\r\n0\r\n\r\n")),
        ("/on", &["29\r\n01234567890123456789012345678901234567890\r\n0\r\n\r\n"], Err(413)),
        ("/on", &["8\r\n01234567\r\n", "x\r\n"], Err(400)),
        ("/off", &["4\r\n0123\r\n0\r\n\r\n"], Ok("Transfer-Encoding: chunked\r\n\r\n4\r\n0123\r\n0\r\n\r\n")),
        ("/old", &short, Ok("Connection: close\r\nContent-Length: 16\r\n\r\n0123456789abcdef")),
        ("/old", &long, Err(411)),
    ];
    for (target, parts, expected) in rows {
        let (before, connections) = (peer.received().len(), peer.connections());
        let mut client = Client::connect(proxy.addr);
        let expect =
            format!("POST {target} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n");
        client.send(expect.as_bytes());
        // The proxy has read the head alone.
        client.expect_status(100).unwrap_or_else(|why| panic!("{target}: {why}"));
        if target != "/off" {
            assert_eq!(peer.connections(), connections, "{target} connects before the body is read");
        }
        parts.iter().for_each(|part| client.send(part.as_bytes()));
        match expected {
            Ok(rest) => {
                client.expect_status(200).unwrap_or_else(|why| panic!("{target}: {why}"));
                let version = if target == "/old" { "1.0" } else { "1.1" };
                let request = format!("POST {target} HTTP/{version}\r\n{head}{rest}");
                check_equal("the upstream", &peer.received()[before..], request.as_bytes()).unwrap();
            }
            Err(status) => {
                client.expect_status(status).unwrap_or_else(|why| panic!("{target}: {why}"));
                assert_eq!(peer.received().len(), before, "{target} with {parts:?} is sent");
            }
        }
    }
}

/// A body in two packets, split at every byte.
#[test]
fn chunks_in_two_packets() {
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let got = bodies.clone();
    let peer = Peer::start(move |connection| {
        while let Some(request) = connection.read_request() {
            got.lock().unwrap().push(request.body.clone());
            connection.respond(&request, "ok");
        }
    });
    let proxy = bare(&peer);
    let whole =
        expand(b"{P}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nX-T: v\r\nX: w\r\n\r\n");
    let mut client = Client::connect(proxy.addr);
    for at in 1..whole.len() {
        let (one, two) = whole.split_at(at);
        client.send(one);
        client.send(two);
        let response = client.read_response().unwrap_or_else(|why| panic!("split at {at}: {why}"));
        assert_eq!(response.status, 200, "split at {at}");
        assert_eq!(bodies.lock().unwrap().pop().as_deref(), Some(&b"hello world"[..]), "split at {at}");
    }
}

#[test]
fn pipelines_and_expectations() {
    let rows: &[RequestRow] = &[
        (b"{G}\r\n{N}", ForwardedTimes(2, b"{g}\r\n{n}")),
        (b"{G}Connection: close\r\n\r\n{N}", ForwardedLast(b"{g}\r\n")),
        (b"({G}\r\n){*50}", ForwardedTimes(50, b"({g}\r\n){*50}")),
        (b"{P}Content-Length: 5\r\n\r\nhello{N}", ForwardedTimes(2, b"{p}Content-Length: 5\r\n\r\nhello{n}")),
        (b"{P}Content-Length: 0\r\n\r\n{N}", ForwardedTimes(2, b"{p}Content-Length: 0\r\n\r\n{n}")),
        (b"{P}Expect: 200-ok\r\nContent-Length: 5\r\n\r\nhello", Rejected(417)),
        (b"{G}Expect: 100-continue\r\n\r\n", Forwarded(b"{g}\r\n")),
        (b"{P}Expect:\r\n 100-continue\r\nContent-Length: 5\r\n\r\nhello", Rejected(400)),
    ];
    let peer = Peer::start_echo();
    let proxy = bare(&peer);
    run_request_rows(&proxy, &peer, rows);

    let before = peer.received().len();
    let mut client =
        Client::connect_and_send(proxy.addr, &expand(b"{P}Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"));
    client.expect_status(100).unwrap_or_else(|why| panic!("{why}"));
    client.request(b"hello", 200).unwrap_or_else(|why| panic!("{why}"));
    check_equal("the upstream", &peer.received()[before..], &expand(b"{p}Content-Length: 5\r\n\r\nhello")).unwrap();

    let before = peer.received().len();
    client.send(&expand(b"{P}Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello{N}"));
    let mut statuses =
        [client.read_response(), client.read_response()].map(|response| response.unwrap().status).to_vec();
    if statuses[0] == 100 {
        statuses.remove(0);
        statuses.push(client.read_response().unwrap().status);
    }
    assert_eq!(statuses, [200, 200]);
    check_equal("the upstream", &peer.received()[before..], &expand(b"{p}Content-Length: 5\r\n\r\nhello{n}")).unwrap();

    let mut client =
        Client::connect_and_send(proxy.addr, &expand(b"{P}Expect: 100-continue\r\nContent-Length: 0\r\n\r\n"));
    client.expect_status(100).unwrap_or_else(|why| panic!("a body of no bytes: {why}"));
    client.expect_status(200).unwrap_or_else(|why| panic!("a body of no bytes: {why}"));
}

#[test]
fn bodies_that_are_not_completed() {
    let early = Peer::start(|connection| {
        connection.read_head();
        connection.read_bytes(10);
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        connection.read_to_end();
    });
    let (echo, cut, paused) = (Peer::start_echo(), Peer::start_echo(), Peer::start_echo());
    let config = "server { listen LISTEN; server_name a; client_body_timeout 1s;
            location / { proxy_set_header Host up; proxy_pass http://ECHO; }
            location /gone { return 404; }
            location /moved { return 302 /x; }
            location /early { proxy_pass http://EARLY; }
            location /cut { proxy_pass http://CUT; }
            location /paused { proxy_pass http://PAUSED; } }
        server { listen LISTEN; server_name b; return 403; }";
    let peers = [("ECHO", &echo), ("EARLY", &early), ("CUT", &cut), ("PAUSED", &paused)];
    let proxy = Proxy::start_with_peers(config, &peers);
    let is_rejected_at_once = |target: &str, status: u16| {
        let head = format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
        let mut client = Client::connect(proxy.addr);
        let response = client.request(head.as_bytes(), status)?;
        // The response came before the body; what is sent now does not break the connection.
        [b'x'; 1000].iter().for_each(|_| client.send(&[b'x'; 1000]));
        check(response.closes(), || format!("no \"Connection: close\" in {:?}", response.head))?;
        client.expect_eof()
    };
    let cases = vec![
        case("a body that ends early", || {
            let mut client = Client::connect_and_send(
                proxy.addr,
                b"POST /cut HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello",
            );
            client.shutdown_write();
            let response = client.read_to_end()?;
            check(!response.starts_with(b"HTTP/1.1 2"), || "a response was generated".to_owned())?;
            proxy.wait_for_access_line(&["\"POST /cut HTTP/1.1\" 400 "])?;
            cut.expect_all_closed()?;
            check(cut.connections() <= 1, || "it was sent more than once".to_owned())
        }),
        case("404", || is_rejected_at_once("/gone", 404)),
        case("302", || is_rejected_at_once("/moved", 302)),
        case("a response before the end of the body", || {
            let head = b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n0123456789";
            let mut client = Client::connect(proxy.addr);
            let response = client.request(head, 200)?;
            check(response.body == b"ok" && response.closes(), || response.head.clone())?;
            client.expect_eof()?;
            early.expect_all_closed()
        }),
        case("client_body_timeout", || {
            let head = b"POST /paused HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n01234567890123456789";
            let mut client = Client::connect_and_send(proxy.addr, head);
            let response = client.read_to_end()?;
            check(response.is_empty() || response.starts_with(b"HTTP/1.1 408 "), || {
                String::from_utf8_lossy(&response).into_owned()
            })?;
            client.send(&expand(b"{N}"));
            paused.expect_all_closed()?;
            proxy.wait_for_access_line(&["\"POST /paused HTTP/1.1\" 408 "])?;
            check(!String::from_utf8_lossy(&echo.received()).contains("/smug"), || "the rest was a request".to_owned())
        }),
        case("another server on the same connection", || {
            let mut client = Client::connect(proxy.addr);
            client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200)?;
            client.request(b"GET / HTTP/1.1\r\nHost: b\r\n\r\n", 403)?;
            client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200).map(drop)
        }),
    ];
    run_concurrently(cases);
}
