//! The application behind the proxies, as cheap as it can be: it must not be what a measurement measures.
//!
//! `GET` is answered with 100 bytes, `GET /big/N` with N bytes, over a kept connection. A WebSocket upgrade on any path
//! is answered with a true Sec-WebSocket-Accept (some proxies check it); from then on every byte comes back as it is.

#![forbid(unsafe_code)]

use std::{
    io,
    net::{SocketAddr, TcpListener},
    process::ExitCode,
};

use argh::FromArgs;
use smolgate_bench::{
    conn::{self, BUFFER_BYTES, End},
    message,
    poll::{self, Poll},
    slots::Slots,
};

/// Answer GET requests and WebSocket upgrades.
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
                while let Some(end) = conn::accept(&listener)? {
                    let slot = clients.insert(Client { end, head: Vec::new(), body_left: 0, next: Next::Head });
                    let Some(client) = clients.at(slot) else { continue };
                    poll.add(&client.end.stream, slot)?;
                }
            } else if let Some(client) = clients.at(token) {
                client.end.note(event.flags);
                if client.is_over(&mut buffer, &pattern).unwrap_or(true) {
                    clients.remove(token);
                }
            }
        }
        clients.sweep();
    }
}

struct Client {
    end: End,
    /// What was read of requests that are not answered yet; empty in an echo.
    head: Vec<u8>,
    /// How much of the body is not yet given to `conn`.
    body_left: usize,
    next: Next,
}

/// What comes when everything is sent.
#[derive(Clone, Copy)]
enum Next {
    Head,
    Echo,
    Close,
}

impl Client {
    fn is_over(&mut self, buffer: &mut [u8], pattern: &[u8]) -> io::Result<bool> {
        while self.end.flush()? {
            if self.body_left > 0 {
                let part = self.body_left.min(pattern.len());
                self.body_left -= part;
                self.end.send(&pattern[..part])?;
                continue;
            }
            if matches!(self.next, Next::Close) {
                return Ok(true);
            }
            if !self.head.is_empty() && self.answer(pattern)? {
                continue;
            }
            match (self.end.read(buffer)?, self.next) {
                (None, _) => return Ok(false),
                (Some(0), _) => return Ok(true),
                (Some(count), Next::Echo) => self.end.send(&buffer[..count])?,
                (Some(count), _) => self.head.extend_from_slice(&buffer[..count]),
            }
        }
        Ok(false)
    }

    /// Answers the first request in `head`; false if it is not complete.
    fn answer(&mut self, pattern: &[u8]) -> io::Result<bool> {
        let mut fields = [httparse::EMPTY_HEADER; message::FIELDS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        let used = match request.parse(&self.head) {
            Ok(httparse::Status::Complete(used)) => used,
            Ok(httparse::Status::Partial) => return Ok(false),
            Err(error) => return Err(io::Error::other(error)),
        };
        if request.method != Some("GET") {
            self.next = Next::Close;
            self.end.send(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        } else if let Some(key) = message::field(request.headers, "Sec-WebSocket-Key") {
            self.next = Next::Echo;
            let accept = message::websocket_accept(key);
            let mut answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n\r\n"
            )
            .into_bytes();
            answer.extend(self.head.drain(..).skip(used));
            self.end.send(&answer)?;
            return Ok(true);
        } else {
            let close = message::field(request.headers, "Connection").is_some_and(|v| v.eq_ignore_ascii_case(b"close"));
            let close = close || request.version == Some(0);
            let big = request.path.and_then(|path| path.strip_prefix("/big/")).map(|count| count.parse());
            let Ok(body) = big.unwrap_or(Ok(message::GET_BODY_BYTES)) else {
                return Err(io::Error::other("/big/ needs a number"));
            };
            let connection = if close { "Connection: close\r\n" } else { "" };
            let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {body}\r\n{connection}\r\n").into_bytes();
            let first = body.min(pattern.len());
            answer.extend_from_slice(&pattern[..first]);
            self.body_left = body - first;
            self.next = if close { Next::Close } else { Next::Head };
            self.end.send(&answer)?;
        }
        self.head.drain(..used);
        Ok(true)
    }
}
