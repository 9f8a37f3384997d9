//! A scripted upstream in this process, which records every byte that it receives.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::harness::{TIMEOUT, poll_within};

/// What a peer has received.
#[derive(Default)]
struct Traffic {
    bytes: Vec<u8>,
    connections: usize,
    open: usize,
}

pub(crate) struct Peer {
    pub(crate) addr: SocketAddr,
    traffic: Arc<Mutex<Traffic>>,
}

/// One connection to a peer.
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    /// Which of the peer's connections it is, from 0.
    pub(crate) number: usize,
    unread: Vec<u8>,
    seen: Arc<Mutex<Traffic>>,
}

/// A request, as received.
pub(crate) struct Request {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

fn lock(seen: &Mutex<Traffic>) -> MutexGuard<'_, Traffic> {
    seen.lock().unwrap()
}

impl Peer {
    /// Calls `serve` with each connection, and then closes it.
    pub(crate) fn start(serve: impl Fn(&mut Connection) + Send + Sync + 'static) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").unwrap(), serve)
    }

    /// As [`Self::start`], on a bound socket.
    pub(crate) fn start_on(listener: TcpListener, serve: impl Fn(&mut Connection) + Send + Sync + 'static) -> Self {
        let addr = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Traffic>> = Arc::default();
        let serve = Arc::new(serve);
        let all = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let _ = stream.set_nodelay(true);
                let number = lock(&all).connections;
                lock(&all).connections += 1;
                lock(&all).open += 1;
                let (seen, serve) = (all.clone(), serve.clone());
                std::thread::spawn(move || {
                    let mut connection = Connection { stream, number, unread: Vec::new(), seen: seen.clone() };
                    serve(&mut connection);
                    drop(connection);
                    lock(&seen).open -= 1;
                });
            }
        });
        Self { addr, traffic: seen }
    }

    /// Responds to each request with its target; to an upgrade of `/ws...` with a 101, and then echoes.
    pub(crate) fn start_echo() -> Self {
        Self::start(|connection| {
            while let Some(request) = connection.read_request() {
                let websocket = request.head.contains("\r\nUpgrade: ") && request.target().starts_with("/ws");
                if websocket {
                    connection.send(SWITCHING_PROTOCOLS);
                    connection.echo();
                    return;
                }
                connection.respond(&request, request.target());
            }
        })
    }

    /// Sends `response` to each request.
    pub(crate) fn start_responding(response: Vec<u8>) -> Self {
        Self::start(move |connection| while connection.read_request().is_some() && connection.send(&response) {})
    }

    /// Sends `response` to the first request of each connection, and closes.
    pub(crate) fn start_responding_once(response: Vec<u8>) -> Self {
        Self::start(move |connection| {
            if connection.read_request().is_some() {
                connection.send(&response);
            }
        })
    }

    /// Returns all received bytes, in order.
    pub(crate) fn received(&self) -> Vec<u8> {
        lock(&self.traffic).bytes.clone()
    }

    pub(crate) fn connections(&self) -> usize {
        lock(&self.traffic).connections
    }

    /// Waits until all connections are closed.
    pub(crate) fn expect_all_closed(&self) -> Result<(), String> {
        let closed = poll_within(TIMEOUT, || (lock(&self.traffic).open == 0).then_some(()));
        closed.ok_or_else(|| "a connection to the upstream stays open".to_owned())
    }
}

/// The response to an upgrade with the key of RFC 6455 1.3.
pub(crate) const SWITCHING_PROTOCOLS: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

impl Connection {
    /// Reads some bytes; false at EOF.
    pub(crate) fn read(&mut self) -> bool {
        let mut buf = [0; 16 * 1024];
        match self.stream.read(&mut buf) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.read(),
            Ok(0) | Err(_) => false,
            Ok(count) => {
                self.unread.extend_from_slice(&buf[..count]);
                lock(&self.seen).bytes.extend_from_slice(&buf[..count]);
                true
            }
        }
    }

    /// Reads a head with its empty line.
    pub(crate) fn read_head(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = self.unread.drain(..at + 4).collect();
                return Some(String::from_utf8_lossy(&head).into_owned());
            }
            if !self.read() {
                return None;
            }
        }
    }

    /// Reads `count` bytes.
    pub(crate) fn read_bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.unread.len() < count {
            if !self.read() {
                return None;
            }
        }
        Some(self.unread.drain(..count).collect())
    }

    fn read_line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.unread.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=at).collect();
                return Some(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if !self.read() {
                return None;
            }
        }
    }

    /// Reads a whole request.
    pub(crate) fn read_request(&mut self) -> Option<Request> {
        let head = self.read_head()?;
        let body = if head.contains("\r\nTransfer-Encoding: chunked\r\n") {
            let mut body = Vec::new();
            loop {
                let size = usize::from_str_radix(&self.read_line()?, 16).ok()?;
                body.extend(self.read_bytes(size)?);
                self.read_line()?;
                if size == 0 {
                    break body;
                }
            }
        } else {
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            self.read_bytes(length.map_or(Some(0), |length| length.parse().ok())?)?
        };
        Some(Request { head, body })
    }

    /// Sends bytes; false on an error.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Responds with 200 and a text, without the body for HEAD.
    pub(crate) fn respond(&mut self, request: &Request, text: &str) -> bool {
        let body = if request.head.starts_with("HEAD ") { "" } else { text };
        self.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", text.len()).as_bytes())
    }

    /// Echoes bytes and EOF.
    pub(crate) fn echo(&mut self) {
        loop {
            let bytes = std::mem::take(&mut self.unread);
            if !self.send(&bytes) || !self.read() {
                let _ = self.stream.shutdown(Shutdown::Write);
                return;
            }
        }
    }

    /// Reads to EOF.
    pub(crate) fn read_to_end(&mut self) {
        while self.read() {}
    }

    /// Closes the write side.
    pub(crate) fn shutdown_write(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Returns whether no byte comes for a moment.
    pub(crate) fn is_quiet(&self) -> bool {
        let _ = self.stream.set_read_timeout(Some(Duration::from_millis(200)));
        let quiet = self.unread.is_empty() && matches!(self.stream.peek(&mut [0]), Err(e) if is_timeout(&e));
        let _ = self.stream.set_read_timeout(None);
        quiet
    }

    /// Waits for the first byte without reading it: closing the connection now resets it.
    pub(crate) fn reset_on_first_byte(&self) {
        let _ = self.stream.peek(&mut [0]);
    }
}

impl Request {
    /// The target of the request line.
    pub(crate) fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }
}

pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
