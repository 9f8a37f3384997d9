//! The application behind the proxies, as cheap as possible, so that it does not limit a measurement.
//!
//! `GET` gets 100 bytes, `GET /big/N` gets N bytes, with keep-alive. A WebSocket upgrade on any path gets a correct
//! Sec-WebSocket-Accept (some proxies check it), and then an echo of every byte.

#![forbid(unsafe_code)]

use std::{
    io,
    net::{SocketAddr, TcpListener},
    process::ExitCode,
};

use argh::FromArgs;
use smolgate_bench::{
    conn::{self, BUFFER_BYTES, Conn},
    message,
    poll::{self, Poll},
    slots::Slots,
};

/// Respond to GET requests and WebSocket upgrades.
#[derive(FromArgs)]
struct Flags {
    /// where to listen
    #[argh(option)]
    listen: SocketAddr,
}

fn main() -> ExitCode {
    let flags: Flags = argh::from_env();
    let Err(error) = run(flags.listen);
    eprintln!("origin: {error}");
    ExitCode::FAILURE
}

const LISTENER: usize = usize::MAX;

fn run(listen: SocketAddr) -> io::Result<std::convert::Infallible> {
    let listener = TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    let poll = Poll::new()?;
    poll.add(&listener, LISTENER)?;
    let (mut clients, mut events, mut buffer) = (Slots::new(), Vec::with_capacity(256), vec![0; BUFFER_BYTES]);
    let pattern = message::pattern(BUFFER_BYTES);
    loop {
        poll.wait(&mut events, None)?;
        for event in &events {
            let token = poll::token(event);
            if token == LISTENER {
                while let Some(conn) = conn::accept(&listener)? {
                    let slot = clients.insert(Client { conn, received: Vec::new(), body_left: 0, next: Next::Head });
                    let Some(client) = clients.get(slot) else { continue };
                    poll.add(&client.conn.stream, slot)?;
                }
            } else if let Some(client) = clients.get(token) {
                client.conn.set_ready(event.flags);
                if client.is_done(&mut buffer, &pattern).unwrap_or(true) {
                    clients.remove(token);
                }
            }
        }
        clients.sweep();
    }
}

struct Client {
    conn: Conn,
    /// Received bytes of pending requests; empty in an echo.
    received: Vec<u8>,
    /// Bytes of the body that are not sent yet.
    body_left: usize,
    next: Next,
}

/// The state after everything is sent.
#[derive(Clone, Copy)]
enum Next {
    Head,
    Echo,
    Close,
}

impl Client {
    fn is_done(&mut self, buffer: &mut [u8], pattern: &[u8]) -> io::Result<bool> {
        while self.conn.flush()? {
            if self.body_left > 0 {
                let part = self.body_left.min(pattern.len());
                self.body_left -= part;
                self.conn.send(&pattern[..part])?;
                continue;
            }
            if matches!(self.next, Next::Close) {
                return Ok(true);
            }
            if !self.received.is_empty() && self.respond(pattern)? {
                continue;
            }
            match (self.conn.read(buffer)?, self.next) {
                (None, _) => return Ok(false),
                (Some(0), _) => return Ok(true),
                (Some(count), Next::Echo) => self.conn.send(&buffer[..count])?,
                (Some(count), _) => self.received.extend_from_slice(&buffer[..count]),
            }
        }
        Ok(false)
    }

    /// Responds to the first request in `received`; false if it is incomplete.
    fn respond(&mut self, pattern: &[u8]) -> io::Result<bool> {
        let mut headers = [httparse::EMPTY_HEADER; message::HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        let used = match request.parse(&self.received) {
            Ok(httparse::Status::Complete(used)) => used,
            Ok(httparse::Status::Partial) => return Ok(false),
            Err(error) => return Err(io::Error::other(error)),
        };
        if request.method != Some("GET") {
            self.next = Next::Close;
            self.conn.send(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        } else if let Some(key) = message::header(request.headers, "Sec-WebSocket-Key") {
            self.next = Next::Echo;
            let accept = message::websocket_accept(key);
            let mut response = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n\r\n"
            )
            .into_bytes();
            response.extend(self.received.drain(..).skip(used));
            self.conn.send(&response)?;
            return Ok(true);
        } else {
            let close =
                message::header(request.headers, "Connection").is_some_and(|v| v.eq_ignore_ascii_case(b"close"));
            let close = close || request.version == Some(0);
            let big = request.path.and_then(|path| path.strip_prefix("/big/")).map(|count| count.parse());
            let Ok(body) = big.unwrap_or(Ok(message::GET_BODY_BYTES)) else {
                return Err(io::Error::other("/big/ needs a number"));
            };
            let connection = if close { "Connection: close\r\n" } else { "" };
            let mut response = format!("HTTP/1.1 200 OK\r\nContent-Length: {body}\r\n{connection}\r\n").into_bytes();
            let first = body.min(pattern.len());
            response.extend_from_slice(&pattern[..first]);
            self.body_left = body - first;
            self.next = if close { Next::Close } else { Next::Head };
            self.conn.send(&response)?;
        }
        self.received.drain(..used);
        Ok(true)
    }
}
