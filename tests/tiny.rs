//! `examples/tiny.rs` before the demo's application and before scripted upstreams.
#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect fails")]

#[path = "../examples/demo/app.rs"]
mod app;
#[expect(dead_code, reason = "`main` of the example")]
#[path = "../examples/tiny.rs"]
mod tiny;
#[path = "../examples/demo/websocket.rs"]
mod websocket;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use smol::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use smolgate::runtime::executor;
use smolgate::runtime::socket::{Addr, local_addr};

use websocket::{BINARY, CLOSE, TEXT, accept_key, encode, read_frame};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const UPGRADE: &str = "GET /ws/echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Starts the proxy on a thread of its own, which lasts as long as the test program: its address.
fn proxy(upstream: SocketAddr) -> SocketAddr {
    let listener = tiny::listen(0).unwrap();
    let Addr::Ip(addr) = local_addr(&listener).unwrap() else { panic!("no IP address") };
    thread::spawn(move || executor::run(tiny::serve(listener, Addr::Ip(upstream))));
    addr
}

/// An upstream for one connection: reads a head, and hands both over.
fn upstream(serve: impl FnOnce(TcpStream, String) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let head = read_head(&mut stream);
        serve(stream, head);
    });
    addr
}

/// Reads up to and with the empty line, byte by byte: what follows stays on the socket.
fn read_head(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    String::from_utf8(head).unwrap()
}

fn connect(addr: SocketAddr, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    stream.write_all(bytes.as_bytes()).unwrap();
    stream
}

/// All that comes in response to `bytes`, up to the end.
fn ask(addr: SocketAddr, bytes: &str) -> String {
    let mut text = String::new();
    connect(addr, bytes).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_websocket_echoes_text_and_binary_and_closes() {
    smol::block_on(async {
        let listener = smol::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = proxy(listener.local_addr().unwrap());
        let _app = smol::spawn(app::accept(listener));

        let mut client = BufReader::new(smol::net::TcpStream::connect(addr).await.unwrap());
        client.get_mut().write_all(UPGRADE.as_bytes()).await.unwrap();
        let head = String::from_utf8(app::read_head(&mut client).await.unwrap()).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains(&format!("\r\nSec-WebSocket-Accept: {}\r\n", accept_key(KEY))), "{head}");

        let largest = vec![7; websocket::MESSAGE_BYTES_MAX];
        for (opcode, payload) in [(TEXT, "hello".as_bytes()), (BINARY, &[0, 159, 255]), (BINARY, &largest)] {
            client.get_mut().write_all(&encode(opcode, payload, Some([1, 2, 3, 4]))).await.unwrap();
            let frame = read_frame(&mut client, false).await.unwrap_or_else(|_| panic!("the WebSocket broke"));
            assert!(frame.last && frame.opcode == opcode && frame.payload == payload);
        }
        client.get_mut().write_all(&encode(CLOSE, &1000u16.to_be_bytes(), Some([1, 2, 3, 4]))).await.unwrap();
        let frame = read_frame(&mut client, false).await.unwrap_or_else(|_| panic!("the WebSocket broke"));
        assert!(frame.opcode == CLOSE && frame.payload == 1000u16.to_be_bytes());
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    });
}

#[test]
fn each_side_of_a_tunnel_may_end_before_the_other() {
    let addr = proxy(upstream(|mut stream, head| {
        assert!(head.contains("\r\nUpgrade: websocket\r\n") && head.contains("\r\nConnection: Upgrade\r\n"), "{head}");
        // The 101 and the first bytes of the tunnel in one piece.
        let accept = accept_key(KEY);
        let head = "HTTP/1.1 101 Switching\r\nUpgrade: WebSocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: ";
        stream.write_all(format!("{head}{accept}\r\n\r\nfirst").as_bytes()).unwrap();
        let mut early = [0; 5];
        stream.read_exact(&mut early).unwrap();
        assert_eq!(&early, b"early");
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        stream.write_all(b"last").unwrap(); // the client has ended, and still gets this
    }));
    let mut client = connect(addr, &format!("{UPGRADE}early"));
    client.shutdown(Shutdown::Write).unwrap();
    assert!(read_head(&mut client).starts_with("HTTP/1.1 101 "));
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "firstlast");
}

#[test]
fn heads_that_are_malformed_or_not_served_are_rejected() {
    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let addr = proxy(nowhere);
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(9000));
    for (status, request) in [
        (400, "GET / HTTP/1.1\nHost: a\n\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
        (400, "GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\n\r\n"),
        (400, "GET / HTTP/1.0\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (405, "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (414, &long),
        (501, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n"),
        (502, UPGRADE),
    ] {
        let response = ask(addr, request);
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{status} {request}: {response}");
    }
}

#[test]
fn responses_are_forwarded_with_their_bodies() {
    for (response, expected) in [
        ("Content-Length: 4\r\n\r\nbody", "Content-Length: 4\r\nConnection: close\r\n\r\nbody"),
        ("Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", "Connection: close\r\n\r\nbody"),
        ("X: y\r\nConnection: x\r\n\r\nbody", "Connection: close\r\n\r\nbody"),
    ] {
        let addr = proxy(upstream(move |mut stream, head| {
            assert_eq!(head, "GET /a?b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            stream.write_all(b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n").unwrap();
            stream.write_all(format!("HTTP/1.1 200 Fine\r\n{response}").as_bytes()).unwrap();
        }));
        let request = "GET http://a/a?b HTTP/1.1\r\nHost: b\r\nConnection: x-y, host\r\nX-Y: z\r\n\r\n";
        assert_eq!(ask(addr, request), format!("HTTP/1.1 200 Fine\r\n{expected}"));
    }
}

#[test]
fn a_101_that_does_not_answer_the_key_opens_no_tunnel() {
    for (status, accept) in [(502, "wrong".to_owned()), (101, accept_key(KEY))] {
        let addr = proxy(upstream(move |mut stream, _| {
            let head = "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: ";
            stream.write_all(format!("{head}{accept}\r\n\r\n").as_bytes()).unwrap();
        }));
        let mut client = connect(addr, UPGRADE);
        assert!(read_head(&mut client).starts_with(&format!("HTTP/1.1 {status} ")));
    }
}

#[test]
fn a_truncated_body_ends_with_a_reset() {
    let addr = proxy(upstream(|mut stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbo").unwrap();
    }));
    let error = connect(addr, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}
