//! An upgrade proxy made of three rooms of smolgate: `runtime`, `http1` and `tunnel`. `tiny PORT UPSTREAM` listens on
//! 127.0.0.1:PORT (0: any free port) and forwards requests to UPSTREAM, WebSockets included.
//!
//! It shows what these rooms do by themselves: one thread with one epoll, strict heads, and tunnels that own no buffer
//! while they are idle. To stay short it serves one request per connection and refuses requests with a body (501).

use std::convert::Infallible;
use std::env;
use std::future::{Future, poll_fn};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use smolgate::http1::body::{Decoded, Decoder};
use smolgate::http1::head::{
    self, Framing, HeadLimits, HeadScanner, HeaderName, HeaderNamePolicy, RESPONSE_BYTES_MAX, Request, Response,
};
use smolgate::http1::uri;
use smolgate::http1::websocket::{self, FrameScanner};
use smolgate::runtime::executor::{self, Timer};
use smolgate::runtime::socket::{self, Addr, ListenOptions, Listener, Socket};
use smolgate::runtime::stream::{BufStream, ReadError, Stream};
use smolgate::tunnel::{self, Tunnel};

/// The largest request head.
const HEAD_LIMITS: HeadLimits = HeadLimits { line_bytes_max: 8 * 1024, head_bytes_max: 32 * 1024 };
/// The longest wait for one step: a request, a response head, the next bytes of a body.
const STEP: Duration = Duration::from_secs(60);
/// The longest wait for a client to close after its response.
const LINGER: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let mut args = env::args().skip(1);
    let port = args.next().and_then(|port| port.parse().ok());
    let (Some(port), Some(upstream)) = (port, args.next().and_then(|addr| Addr::parse(&addr))) else {
        eprintln!("usage: tiny PORT UPSTREAM, for example: tiny 8080 127.0.0.1:8010");
        return ExitCode::from(2);
    };
    let run = || {
        let listener = listen(port)?;
        println!("listening on {}", socket::local_addr(&listener)?);
        // From here on this thread is a worker, which runs `serve` and all tasks that `serve` spawns.
        executor::run(serve(listener, upstream))?
    };
    let Err::<Infallible, io::Error>(error) = run();
    eprintln!("tiny: {error}");
    ExitCode::FAILURE
}

/// Binds the port. It needs no worker: with several of them each would get a copy of the descriptor.
pub(crate) fn listen(port: u16) -> io::Result<OwnedFd> {
    let options = ListenOptions { backlog: 1024, ipv6_only: false };
    socket::listen(&Addr::Ip((Ipv4Addr::LOCALHOST, port).into()), options, None)
}

/// Accepts connections until the program ends. Each is a task that stays on this thread, so nothing has to be locked.
pub(crate) async fn serve(listener: OwnedFd, upstream: Addr) -> io::Result<Infallible> {
    let listener = Listener::new(listener)?;
    loop {
        match poll_fn(|cx| listener.poll_accept(cx)).await {
            Ok((fd, _)) => executor::spawn(connection(fd, upstream.clone())),
            // No descriptor is left, most likely: trying again at once would only burn CPU.
            Err(_) => executor::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// The life of one connection: a request, then its response or a tunnel.
async fn connection(fd: OwnedFd, upstream: Addr) {
    let Ok(socket) = Socket::new(fd) else { return };
    let mut client = BufStream::new(Stream::Plain(socket));
    let responded = match exchange_heads(&mut client, &upstream).await {
        Ok((_, head, peer)) if head.status == 101 => return switch_protocols(client, head, peer).await,
        Ok((request, head, peer)) => respond(&client.stream, &request, &head, peer).await,
        Err(status) => {
            let response = format!("HTTP/1.1 {status} \r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            in_time(send(&client.stream, response.as_bytes())).await.flatten()
        }
    };
    match responded {
        Some(()) => linger(client).await,
        // A body without a length ends with its connection: only a reset tells the client that this one is truncated.
        None => client.stream.abort(),
    }
}

/// Reads a request, forwards it, and reads the head of its response. The error is the status for the client.
async fn exchange_heads(client: &mut BufStream, upstream: &Addr) -> Result<(Request, Response, BufStream), u16> {
    let request = in_time(read_request(client)).await.unwrap_or(Err(408))?;
    let (head, peer) = in_time(forward(&request, upstream)).await.unwrap_or(Err(504))?;
    Ok((request, head, peer))
}

async fn read_request(client: &mut BufStream) -> Result<Request, u16> {
    let mut scanner = HeadScanner::for_request();
    let mut parse = |bytes: &[u8]| scanner.parse_request(bytes, HEAD_LIMITS, HeaderNamePolicy::Plain);
    let mut reader = client.reader();
    let mut request = poll_fn(|cx| reader.poll_parse(cx, &mut parse)).await.map_err(|error| match error {
        ReadError::Malformed(malformed) => malformed.status(),
        _ => 400,
    })?;
    // The grammar of the head was checked above; what target and host mean is checked here.
    uri::parse(request.target(), false).map_err(|malformed| malformed.status())?;
    request.set_host_from_target();
    let host = request.headers.first(HeaderName::Host).ok_or(400u16)?;
    uri::parse_host(host).map_err(|malformed| malformed.status())?;
    if matches!(request.framing, Framing::None | Framing::Length(0)) { Ok(request) } else { Err(501) }
}

/// Sends the request to the upstream, and reads heads until one is final: 100 and 103 are dropped.
async fn forward(request: &Request, upstream: &Addr) -> Result<(Response, BufStream), u16> {
    let mut peer = BufStream::new(Stream::Plain(Socket::connect(upstream, None).await.map_err(|_| 502u16)?));
    // An upgrade counts only with `Connection: upgrade` and in HTTP/1.1. No other protocol than WebSocket is let through.
    let upgrades = request.may_upgrade() && request.headers.has_token(HeaderName::Upgrade, "websocket");
    let key = request.headers.first(HeaderName::WebSocketKey).filter(|_| upgrades && request.method() == b"GET");

    let target = uri::parse(request.target(), false).map_err(|_| 400u16)?.path_and_query;
    let mut out = [request.method(), b" ", &target, b" HTTP/1.1\r\n"].concat();
    write_fields(&request.headers, key.map_or("close", |_| "Upgrade"), &mut out);
    send(&peer.stream, &out).await.ok_or(502u16)?;

    loop {
        let mut scanner = HeadScanner::for_response();
        let mut reader = peer.reader();
        let read =
            poll_fn(|cx| reader.poll_parse(cx, &mut |bytes| scanner.parse_response(bytes, RESPONSE_BYTES_MAX))).await;
        let head = read.map_err(|_| 502u16)?;
        match (head.status, key) {
            // Without the answer to its key it is no WebSocket, and the tunnel would carry any requests past these checks.
            (101, Some(key)) if accepts(&head, key) => return Ok((head, peer)),
            (101, _) => return Err(502),
            (100..=199, _) => {}
            _ => return Ok((head, peer)),
        }
    }
}

fn accepts(head: &Response, key: &[u8]) -> bool {
    head.headers.has_token(HeaderName::Upgrade, "websocket")
        && head.headers.first_named(b"sec_websocket_accept") == Some(websocket::accept_key(key).as_bytes())
}

/// Forwards the 101, and lets a tunnel take over both connections.
async fn switch_protocols(mut client: BufStream, head: Response, mut peer: BufStream) {
    if in_time(send_head(&client.stream, &head, "Upgrade")).await.flatten().is_none() {
        return;
    }
    // Either side may have sent its first frames behind its head: they were read with it, and go first.
    let early = (client.take_buffered(), peer.take_buffered());
    let limits = tunnel::Timeouts { idle: None, send: None };
    let tunnel = Tunnel::new(client.stream, peer.stream, early, FrameScanner::START, limits);
    // A task of its own is smaller than the one that runs this function, and that counts for tunnels that last for days.
    executor::spawn(async { _ = tunnel.await });
}

/// Forwards a response; `None` if one side broke before its end.
async fn respond(client: &Stream, request: &Request, head: &Response, mut peer: BufStream) -> Option<()> {
    in_time(send_head(client, head, "close")).await??;
    // The decoder says where the body ends and drops chunk framing: the client finds the end by Content-Length or the close.
    let mut body = Decoder::new(head.framing(request.method() == b"HEAD"));
    while !body.is_done() {
        let mut reader = peer.reader();
        let next = poll_fn(|cx| {
            reader.poll_bytes(cx, |_, bytes| match body.decode(bytes) {
                Ok(Decoded { used, data }) if used > 0 => (used, Some(data.to_vec())),
                Ok(_) if body.ends_with_stream() => {
                    body.finish();
                    (0, Some(Vec::new()))
                }
                _ => (0, None), // malformed, or the end of the stream in the middle of the body
            })
        });
        let data = in_time(next).await?.ok()??;
        in_time(send(client, &data)).await??;
    }
    Some(())
}

async fn send_head(client: &Stream, head: &Response, connection: &str) -> Option<()> {
    let mut out = format!("HTTP/1.1 {} ", head.status).into_bytes();
    out.extend_from_slice(head.reason());
    out.extend_from_slice(b"\r\n");
    write_fields(&head.headers, connection, &mut out);
    send(client, &out).await
}

/// Writes the fields of a head that go on to the other side: all but those of the connection itself (RFC 9110 7.6.1).
fn write_fields(fields: &head::Headers, connection: &str, out: &mut Vec<u8>) {
    let named: Vec<&[u8]> = fields.all(HeaderName::Connection).flat_map(head::tokens).collect();
    let is_named = |name: &[u8]| named.iter().any(|token| token.eq_ignore_ascii_case(name));
    for field in fields.iter() {
        // A sender can't take Host or the framing away by naming them in Connection.
        let kept = matches!(field.kind, HeaderName::Host | HeaderName::ContentLength);
        if kept || !(field.kind.is_hop_by_hop() || is_named(field.name)) {
            head::write_header(field.name, field.value, out);
        }
    }
    if connection == "Upgrade" {
        head::write_header(b"Upgrade", b"websocket", out);
    }
    head::write_header(b"Connection", connection.as_bytes(), out);
    out.extend_from_slice(b"\r\n");
}

async fn send(stream: &Stream, mut bytes: &[u8]) -> Option<()> {
    while !bytes.is_empty() {
        let written = poll_fn(|cx| stream.poll_write(cx, bytes)).await.ok()?;
        bytes = bytes.get(written..)?;
    }
    Some(())
}

/// Ends our direction and waits for the client to end its own. Closing at once would reset the connection if the client
/// still sends, and a reset may destroy the response before the client has read it.
async fn linger(mut client: BufStream) {
    let _ = poll_fn(|cx| client.stream.poll_shutdown(cx)).await;
    let mut reader = client.reader();
    let drain = async {
        while let Ok(1..) = poll_fn(|cx| reader.poll_bytes(cx, |_, bytes| (bytes.len(), bytes.len()))).await {}
    };
    let _ = Timer::new().within(LINGER, pin!(drain)).await;
}

/// Waits for `step`, but no longer than [`STEP`]: `None` if that is over.
async fn in_time<T>(step: impl Future<Output = T>) -> Option<T> {
    Timer::new().within(STEP, pin!(step)).await.ok()
}
