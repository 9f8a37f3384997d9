//! A scripted upstream: it does to each connection what the test says, and remembers every byte that it got.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::harness::{PATIENCE, within};

/// What a peer has seen.
#[derive(Default)]
struct Seen {
    bytes: Vec<u8>,
    connections: usize,
    open: usize,
}

/// An upstream in this process.
pub(crate) struct Peer {
    pub(crate) addr: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

/// One connection to it.
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    /// Which of the peer's connections it is, from 0.
    pub(crate) number: usize,
    ahead: Vec<u8>,
    seen: Arc<Mutex<Seen>>,
}

/// A request as it came.
pub(crate) struct Request {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap()
}

impl Peer {
    /// Does `serve` with each connection, and then closes it.
    pub(crate) fn start(serve: impl Fn(&mut Connection) + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), serve)
    }

    /// As [`Self::start`], with a socket that is there already.
    pub(crate) fn on(listener: TcpListener, serve: impl Fn(&mut Connection) + Send + Sync + 'static) -> Self {
        let addr = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Seen>> = Arc::default();
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
                    let mut connection = Connection { stream, number, ahead: Vec::new(), seen: seen.clone() };
                    serve(&mut connection);
                    drop(connection);
                    lock(&seen).open -= 1;
                });
            }
        });
        Self { addr, seen }
    }

    /// Answers each request with its target; an upgrade to `/ws...` with a 101, and then echoes.
    pub(crate) fn polite() -> Self {
        Self::start(|connection| {
            while let Some(request) = connection.request() {
                let websocket = request.head.contains("\r\nUpgrade: ") && request.target().starts_with("/ws");
                if websocket {
                    connection.send(SWITCHING);
                    connection.echo();
                    return;
                }
                connection.answer(&request, request.target());
            }
        })
    }

    /// Sends `answer` to each request, and closes when the other side has.
    pub(crate) fn answering(answer: Vec<u8>) -> Self {
        Self::start(move |connection| while connection.request().is_some() && connection.send(&answer) {})
    }

    /// Sends `answer` to the first request of each connection, and closes.
    pub(crate) fn ending(answer: Vec<u8>) -> Self {
        Self::start(move |connection| {
            if connection.request().is_some() {
                connection.send(&answer);
            }
        })
    }

    /// All bytes that came, in their order.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        lock(&self.seen).bytes.clone()
    }

    pub(crate) fn connections(&self) -> usize {
        lock(&self.seen).connections
    }

    /// Waits until the gate has closed all connections to it.
    pub(crate) fn expect_all_closed(&self) -> Result<(), String> {
        let closed = within(PATIENCE, || (lock(&self.seen).open == 0).then_some(()));
        closed.ok_or_else(|| "a connection to the upstream stays open".to_owned())
    }
}

/// The answer to an upgrade, with the key of RFC 6455 1.3.
pub(crate) const SWITCHING: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

impl Connection {
    /// Reads something; false at the end.
    pub(crate) fn read(&mut self) -> bool {
        let mut buf = [0; 16 * 1024];
        match self.stream.read(&mut buf) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.read(),
            Ok(0) | Err(_) => false,
            Ok(count) => {
                self.ahead.extend_from_slice(&buf[..count]);
                lock(&self.seen).bytes.extend_from_slice(&buf[..count]);
                true
            }
        }
    }

    /// Reads a head with its empty line.
    pub(crate) fn head(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.ahead.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = self.ahead.drain(..at + 4).collect();
                return Some(String::from_utf8_lossy(&head).into_owned());
            }
            if !self.read() {
                return None;
            }
        }
    }

    /// Reads `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.ahead.len() < count {
            if !self.read() {
                return None;
            }
        }
        Some(self.ahead.drain(..count).collect())
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.ahead.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.ahead.drain(..=at).collect();
                return Some(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if !self.read() {
                return None;
            }
        }
    }

    /// Reads a whole request.
    pub(crate) fn request(&mut self) -> Option<Request> {
        let head = self.head()?;
        let body = if head.contains("\r\nTransfer-Encoding: chunked\r\n") {
            let mut body = Vec::new();
            loop {
                let size = usize::from_str_radix(&self.line()?, 16).ok()?;
                body.extend(self.take(size)?);
                self.line()?;
                if size == 0 {
                    break body;
                }
            }
        } else {
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            self.take(length.map_or(Some(0), |length| length.parse().ok())?)?
        };
        Some(Request { head, body })
    }

    /// Sends bytes; false if the other side does not take them.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Answers 200 with a text, without its body for HEAD.
    pub(crate) fn answer(&mut self, request: &Request, text: &str) -> bool {
        let body = if request.head.starts_with("HEAD ") { "" } else { text };
        self.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", text.len()).as_bytes())
    }

    /// Sends back what comes, and the end behind it.
    pub(crate) fn echo(&mut self) {
        loop {
            let bytes = std::mem::take(&mut self.ahead);
            if !self.send(&bytes) || !self.read() {
                let _ = self.stream.shutdown(Shutdown::Write);
                return;
            }
        }
    }

    /// Reads until the other side ends.
    pub(crate) fn drain(&mut self) {
        while self.read() {}
    }

    /// Ends our direction.
    pub(crate) fn finish(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Whether nothing comes for a moment.
    pub(crate) fn is_quiet(&self) -> bool {
        let _ = self.stream.set_read_timeout(Some(Duration::from_millis(200)));
        let quiet = self.ahead.is_empty() && matches!(self.stream.peek(&mut [0]), Err(e) if is_timeout(&e));
        let _ = self.stream.set_read_timeout(None);
        quiet
    }

    /// Waits for the first byte and closes without reading it: what the other side gets is a reset.
    pub(crate) fn reset(&self) {
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
