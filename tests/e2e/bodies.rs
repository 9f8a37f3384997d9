//! Where a body ends: Content-Length, Transfer-Encoding, chunks, pipelining, expectations (classes F to I).

use std::sync::{Arc, Mutex};

use crate::client::{Client, expand};
use crate::harness::Gate;
use crate::peer::Peer;
use crate::rows::Then::{BrokenOff, Refused, Served, ServedAndRefused, ServedLast, ServedTimes};
use crate::rows::{Row, Then, case, check, same, try_rows, verify_at_once};

fn bare(peer: &Peer) -> Gate {
    let config =
        "upstream up { server PEER; keepalive 4; } server { listen LISTEN; location / { proxy_pass http://up; } }";
    Gate::before(config, &[("PEER", peer)])
}

#[test]
fn content_length() {
    let rows: &[Row] = &[
        ("F01", b"{P}Content-Length: +5\r\n\r\nhello", Refused(400)),
        ("F02", b"{P}Content-Length: -1\r\n\r\nhello", Refused(400)),
        ("F04", b"{P}Content-Length: 0x5\r\n\r\nhello", Refused(400)),
        ("F05", b"{P}Content-Length: 05\r\n\r\nhello", Served(b"{p}Content-Length: 5\r\n\r\nhello")),
        ("F06", b"{P}Content-Length: 00\r\n\r\n", Served(b"{p}Content-Length: 0\r\n\r\n")),
        ("F08", b"{P}Content-Length: 1 0\r\n\r\nhello12345", Refused(400)),
        ("F09", b"{P}Content-Length: 1_0\r\n\r\nhelloworld", Refused(400)),
        ("F10", b"{P}Content-Length: 5x\r\n\r\nhello", Refused(400)),
        ("F12", b"{P}Content-Length: 5.0\r\n\r\nhello", Refused(400)),
        ("F13", b"{P}Content-Length: 99999999999999999999\r\n\r\n", Refused(400)),
        ("F14", b"{P}Content-Length: 9223372036854775808\r\n\r\n", Refused(400)),
        ("F14 by one", b"{P}Content-Length: 9223372036854775807\r\n\r\n", Refused(413)),
        ("F16", b"{P}Content-Length: 999999999\r\n\r\n", Refused(413)),
        ("F17", b"{P}Content-Length: 5, 5\r\n\r\nhello", Refused(400)),
        ("F18", b"{P}Content-Length: 5, 6\r\n\r\nhello", Refused(400)),
        ("F20", b"{P}Content-Length: \"5\"\r\n\r\nhello", Refused(400)),
        ("F21", b"{P}Content-Length: 5\x00\r\n\r\nhello", Refused(400)),
        ("F22", b"{P}Content-Length: \x0b5\r\n\r\nhello", Refused(400)),
        ("F24", b"{P}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", Refused(400)),
        ("F25", b"{P}Content-Length: 5\r\nContent-Length: 0\r\n\r\nhello", Refused(400)),
        ("F26", b"{P}Content-Length: \r\nContent-Length: 5\r\n\r\nhello", Refused(400)),
        ("F28", b"{G}Content-Length: 5\r\n\r\nhello", Served(b"{g}Content-Length: 5\r\n\r\nhello")),
        (
            "F29",
            b"POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            ServedLast(b"{p}Content-Length: 5\r\n\r\nhello"),
        ),
        ("F30", b"POST / HTTP/1.0\r\nHost: a\r\n\r\nhello", ServedLast(b"{p}\r\n")),
        ("F32", b"{P}\r\nhello", ServedAndRefused(400, b"{p}\r\n")),
        ("F34", b"{P}Content-Length: 4294967301\r\n\r\nhello{N}", Refused(413)),
    ];
    let peer = Peer::polite();
    try_rows(&bare(&peer), &peer, rows);
}

/// A small body that came with its head goes on with a Content-Length, whatever framing it had.
#[test]
fn transfer_encoding() {
    const FIVE: Then = Served(b"{p}Content-Length: 5\r\n\r\nhello");
    let rows: &[Row] = &[
        ("G01", b"{P}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", FIVE),
        ("G02", b"{P}Transfer-Encoding: ChUnKeD\r\n\r\n5\r\nhello\r\n0\r\n\r\n", FIVE),
        ("G04", b"{P}Transfer-Encoding: chunked,\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Refused(400)),
        ("G05", b"{P}Transfer-Encoding: chunked, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Refused(400)),
        ("G06", b"{P}Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Refused(501)),
        ("G08", b"{P}Transfer-Encoding: gzip\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Refused(501)),
        ("G09", b"{P}Transfer-Encoding: identity\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Refused(501)),
        ("G10", b"{P}Transfer-Encoding: xchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Refused(501)),
        ("G12", b"{P}Transfer-Encoding: chunked;a=b\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Refused(400)),
        ("G13", b"{P}Transfer-Encoding: \"chunked\"\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Refused(400)),
        ("G14", b"{P}Transfer-Encoding: chunked \r\n\r\n5\r\nhello\r\n0\r\n\r\n", FIVE),
        ("G16", b"{P}Transfer-Encoding: \x0bchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Refused(400)),
        ("G17", b"{P}Transfer-Encoding: chunked\x00\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Refused(400)),
        ("G18", b"{P}Transfer-Encoding: \xa0chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Refused(400)),
        ("G20", b"{P}Transfer-Encoding: chunked\r\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Refused(400)),
        ("G21", b"{P}Transfer-Encoding: chunk\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Refused(501)),
        ("G22", b"{P}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", Refused(400)),
        ("G24", b"{P}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", Refused(400)),
        ("G25", b"{P}Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
        ("G26", b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
        ("G28", b"{G}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Served(b"{g}Content-Length: 0\r\n\r\n")),
        (
            "G29",
            b"OPTIONS / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Served(b"OPTIONS / HTTP/1.1\r\nHost: up\r\nContent-Length: 0\r\n\r\n"),
        ),
        (
            "G30",
            b"HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Served(b"HEAD / HTTP/1.1\r\nHost: up\r\nContent-Length: 0\r\n\r\n"),
        ),
        (
            "G32",
            b"{P}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\nGPOST / HTTP/1.1\r\n\
              Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 15\r\n\r\nx=1\r\n0\r\n\r\n",
            Refused(400),
        ),
        ("G33", b"{G}Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX", Refused(400)),
        (
            "G34",
            b"OPTIONS / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n\
              1b\r\nGET /smug HTTP/1.1\r\nx: XXXX\r\n0\r\n\r\n",
            Served(b"OPTIONS / HTTP/1.1\r\nHost: up\r\nContent-Length: 27\r\n\r\nGET /smug HTTP/1.1\r\nx: XXXX"),
        ),
        ("G36", b"{P}Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", FIVE),
        (
            "G36 for Content-Length",
            b"{P}Connection: Content-Length\r\nContent-Length: 5\r\n\r\nhello",
            Served(b"{p}Content-Length: 5\r\n\r\nhello"),
        ),
        ("G37", b"GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n 33\r\n\r\n{N}", Refused(400)),
        ("G38", b"{P}Content-Length: 5\r\nX-Invalid Y: \r\n\r\nhello", Refused(400)),
        ("G40", b"{P}Transfer-%45ncoding: chunked\r\n\r\n0\r\n\r\n", ServedAndRefused(400, b"{p}\r\n")),
    ];
    let peer = Peer::polite();
    try_rows(&bare(&peer), &peer, rows);
}

/// The same head, `POST` with chunks, before each body.
fn chunked(rows: &'static [(&'static str, &'static [u8], Then)], gate: &Gate, peer: &Peer) {
    let whole = |body: &[u8]| [b"{P}Transfer-Encoding: chunked\r\n\r\n", body].concat();
    let rows: Vec<Row> = rows.iter().map(|(id, body, then)| (*id, &*whole(body).leak(), *then)).collect();
    try_rows(gate, peer, &rows);
}

#[test]
fn chunks() {
    const FIVE: Then = Served(b"{p}Content-Length: 5\r\n\r\nhello");
    let peer = Peer::polite();
    let gate = bare(&peer);
    let rows: &[Row] = &[
        ("H01", b"5\r\nhello\r\n0\r\n\r\n", FIVE),
        ("H01 with zeros", b"00000005\r\nhello\r\n00\r\n\r\n", FIVE),
        ("H02", b"5;a=b\r\nhello\r\n0\r\n\r\n", FIVE),
        ("H04", b"5;\r\nhello\r\n0\r\n\r\n", Refused(400)),
        ("H05", b"5;\nhello\r\n0\r\n\r\n", Refused(400)),
        ("H06", b"2;\nxx\r\n10\r\n1f\r\nAAAABBBBCCCC\r\n0\r\n\r\nDDDDEEEEFFFF\r\n0\r\n\r\n", Refused(400)),
        ("H08", b"5\r\r;a\r\nhello\r\n0\r\n\r\n", Refused(400)),
        ("H09", b"5;\x00a\r\nhello\r\n0\r\n\r\n", Refused(400)),
        ("H10", b"5;b[=x\r\nhello\r\n0\r\n\r\n", FIVE),
        ("H12", b"5\nhello\n0\n\n", Refused(400)),
        ("H13", b"5\r\nhello\n0\r\n\r\n", Refused(400)),
        ("H14", b"5\r\nhello\r\n0\r\n\n", Refused(400)),
        ("H16", b"5\rhello\r\n0\r\n\r\n", Refused(400)),
        ("H17", b"0x5\r\nhello\r\n0\r\n\r\n", Refused(400)),
        ("H18", b"+5\r\nhello\r\n0\r\n\r\n", Refused(400)),
        ("H20", b"0_5\r\nhello\r\n0\r\n\r\n", Refused(400)),
        ("H21", b" 5\r\nhello\r\n0\r\n\r\n", Refused(400)),
        ("H22", b"5 \r\nhello\r\n0\r\n\r\n", Refused(400)),
        ("H24", b"\r\nhello\r\n0\r\n\r\n", Refused(400)),
        ("H25", b";a\r\n\r\n", Refused(400)),
        ("H26", b"5g\r\nhello\r\n0\r\n\r\n", Refused(400)),
        ("H28", b"10000000000000005\r\nhello\r\n0\r\n\r\n", Refused(400)),
        ("H29", b"FFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n", Refused(400)),
        ("H30", b"7FFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n", Refused(400)),
        ("H32", b"5\r\nhello!!\r\n0\r\n\r\n", Refused(400)),
        ("H33", b"5\r\nhello0\r\n\r\n", Refused(400)),
        ("H34", b"2\r\nxx\n12\r\nxx\r\n19\r\nxxAAAABBBB\r\n0\r\n\r\nCCCCDDDD\r\n0\r\n\r\n", Refused(400)),
        ("H36", b"5;a{*65536}\r\nhello\r\n0\r\n\r\n", Refused(400)),
        (
            "H37",
            b"(1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nz\r\n){*20000}0\r\n\r\n",
            BrokenOff(400),
        ),
        ("H38", b"5\r\nhello\r\n0\r\nX-T: v\r\n\r\n", FIVE),
        ("H40", b"5\r\nhello\r\n0\r\nbad line\r\n\r\n", Refused(400)),
        ("H41", b"5\r\nhello\r\n0\r\nX: a{*65536}\r\n\r\n", BrokenOff(431)),
        ("H42", b"5\r\nhello\r\n0\r\n(X: a\r\n){*10000}\r\n", BrokenOff(431)),
        ("H42 by one", b"5\r\nhello\r\n0\r\n(X: a\r\n){*101}\r\n", Refused(431)),
        ("H44", b"0\r\n\r\n{N}", ServedTimes(2, b"{p}Content-Length: 0\r\n\r\n{n}")),
        ("H46", b"INVALID!!!\r\n{N}", Refused(400)),
    ];
    chunked(rows, &gate, &peer);
}

/// A body that is too large to be looked at as a whole goes on in chunks of our own.
#[test]
fn chunks_of_a_large_body() {
    let peer = Peer::start(|connection| {
        while let Some(request) = connection.request() {
            let framing = if request.head.contains("\r\nTransfer-Encoding: chunked\r\n") { "chunked" } else { "whole" };
            let good = request.body == expand(b"(0123456789){*50000}") && !request.head.contains("Content-Length");
            connection.answer(&request, if good { framing } else { "broken" });
        }
    });
    let gate = bare(&peer);
    let mut client = Client::connect(gate.addr);
    client.send(&expand(b"{P}Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n"));
    // Extensions stay below what a body may have of them.
    for _ in 0..5 {
        client.send(&expand(b"186a0;x=y\r\n(0123456789){*10000}\r\n"));
    }
    let reply = client.ask(b"0\r\nX-T: v\r\n\r\n", 200).unwrap_or_else(|why| panic!("H01 large: {why}"));
    assert_eq!(reply.body, b"chunked", "H01 large");
    let seen = peer.bytes();
    for ours in [&b"x=y"[..], b"X-T", b"186a0"] {
        assert!(!seen.windows(ours.len()).any(|part| part == ours), "H01 large: {}", ours.escape_ascii());
    }
}

/// Each body in two packets, whatever byte the cut is behind.
#[test]
fn chunks_in_two_packets() {
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let got = bodies.clone();
    let peer = Peer::start(move |connection| {
        while let Some(request) = connection.request() {
            got.lock().unwrap().push(request.body.clone());
            connection.answer(&request, "ok");
        }
    });
    let gate = bare(&peer);
    let whole =
        expand(b"{P}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nX-T: v\r\nX: w\r\n\r\n");
    let mut client = Client::connect(gate.addr);
    for at in 1..whole.len() {
        let (one, two) = whole.split_at(at);
        client.send(one);
        client.send(two);
        let reply = client.reply().unwrap_or_else(|why| panic!("H45 cut at {at}: {why}"));
        assert_eq!(reply.status, 200, "H45 cut at {at}");
        assert_eq!(bodies.lock().unwrap().pop().as_deref(), Some(&b"hello world"[..]), "H45 cut at {at}");
    }
}

#[test]
fn pipelines_and_expectations() {
    let rows: &[Row] = &[
        ("I01", b"{G}\r\n{N}", ServedTimes(2, b"{g}\r\n{n}")),
        ("I02", b"{G}Connection: close\r\n\r\n{N}", ServedLast(b"{g}\r\n")),
        ("I04", b"({G}\r\n){*50}", ServedTimes(50, b"({g}\r\n){*50}")),
        ("I05", b"{P}Content-Length: 5\r\n\r\nhello{N}", ServedTimes(2, b"{p}Content-Length: 5\r\n\r\nhello{n}")),
        ("I06", b"{P}Content-Length: 0\r\n\r\n{N}", ServedTimes(2, b"{p}Content-Length: 0\r\n\r\n{n}")),
        ("I12", b"{P}Expect: 200-ok\r\nContent-Length: 5\r\n\r\nhello", Refused(417)),
        ("I13", b"{G}Expect: 100-continue\r\n\r\n", Served(b"{g}\r\n")),
        ("I14", b"{P}Expect:\r\n 100-continue\r\nContent-Length: 5\r\n\r\nhello", Refused(400)),
    ];
    let peer = Peer::polite();
    let gate = bare(&peer);
    try_rows(&gate, &peer, rows);

    let before = peer.bytes().len();
    let mut client = Client::asking(gate.addr, &expand(b"{P}Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"));
    client.expect(100).unwrap_or_else(|why| panic!("I09: {why}"));
    client.ask(b"hello", 200).unwrap_or_else(|why| panic!("I09: {why}"));
    same("I09: the upstream", &peer.bytes()[before..], &expand(b"{p}Content-Length: 5\r\n\r\nhello")).unwrap();

    let before = peer.bytes().len();
    client.send(&expand(b"{P}Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello{N}"));
    let mut statuses = [client.reply(), client.reply()].map(|reply| reply.unwrap().status).to_vec();
    if statuses[0] == 100 {
        statuses.remove(0);
        statuses.push(client.reply().unwrap().status);
    }
    assert_eq!(statuses, [200, 200], "I10");
    same("I10: the upstream", &peer.bytes()[before..], &expand(b"{p}Content-Length: 5\r\n\r\nhello{n}")).unwrap();

    let mut client = Client::asking(gate.addr, &expand(b"{P}Expect: 100-continue\r\nContent-Length: 0\r\n\r\n"));
    client.expect(100).unwrap_or_else(|why| panic!("a body of no bytes: {why}"));
    client.expect(200).unwrap_or_else(|why| panic!("a body of no bytes: {why}"));
}

/// What takes time, or a peer that does something else than to answer.
#[test]
fn bodies_that_do_not_come_to_their_end() {
    let early = Peer::start(|connection| {
        connection.head();
        connection.take(10);
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        connection.drain();
    });
    let (polite, cut, paused) = (Peer::polite(), Peer::polite(), Peer::polite());
    let config = "server { listen LISTEN; server_name a; client_body_timeout 1s;
            location / { proxy_set_header Host up; proxy_pass http://POLITE; }
            location /gone { return 404; }
            location /moved { return 302 /x; }
            location /early { proxy_pass http://EARLY; }
            location /cut { proxy_pass http://CUT; }
            location /paused { proxy_pass http://PAUSED; } }
        server { listen LISTEN; server_name b; return 403; }";
    let peers = [("POLITE", &polite), ("EARLY", &early), ("CUT", &cut), ("PAUSED", &paused)];
    let gate = Gate::before(config, &peers);
    let refuse_at_once = |target: &str, status: u16| {
        let head = format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
        let mut client = Client::connect(gate.addr);
        let reply = client.ask(head.as_bytes(), status)?;
        // The reply is there before the body; what is sent now does not break the connection.
        [b'x'; 1000].iter().for_each(|_| client.send(&[b'x'; 1000]));
        check(reply.closes(), || format!("no \"Connection: close\" in {:?}", reply.head))?;
        client.expect_end()
    };
    let cases = vec![
        case("F33", || {
            let mut client =
                Client::asking(gate.addr, b"POST /cut HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
            client.finish();
            let came = client.rest()?;
            check(!came.starts_with(b"HTTP/1.1 2"), || "a reply was made up".to_owned())?;
            gate.wait_for_access(&["\"POST /cut HTTP/1.1\" 400 "])?;
            cut.expect_all_closed()?;
            check(cut.connections() <= 1, || "it was sent more than once".to_owned())
        }),
        case("I08 404", || refuse_at_once("/gone", 404)),
        case("I08 302", || refuse_at_once("/moved", 302)),
        case("I16", || {
            let head = b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n0123456789";
            let mut client = Client::connect(gate.addr);
            let reply = client.ask(head, 200)?;
            check(reply.body == b"ok" && reply.closes(), || reply.head.clone())?;
            client.expect_end()?;
            early.expect_all_closed()
        }),
        case("I17", || {
            let head = b"POST /paused HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n01234567890123456789";
            let mut client = Client::asking(gate.addr, head);
            let came = client.rest()?;
            check(came.is_empty() || came.starts_with(b"HTTP/1.1 408 "), || {
                String::from_utf8_lossy(&came).into_owned()
            })?;
            client.send(&expand(b"{N}"));
            paused.expect_all_closed()?;
            gate.wait_for_access(&["\"POST /paused HTTP/1.1\" 408 "])?;
            check(!String::from_utf8_lossy(&polite.bytes()).contains("/smug"), || "the rest was a request".to_owned())
        }),
        case("I18", || {
            let mut client = Client::connect(gate.addr);
            client.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200)?;
            client.ask(b"GET / HTTP/1.1\r\nHost: b\r\n\r\n", 403)?;
            client.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200).map(drop)
        }),
    ];
    verify_at_once(cases);
}
