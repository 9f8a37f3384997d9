//! A client that sends raw bytes and reads responses.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use crate::harness::TIMEOUT;

/// Expands the shorthands of request rows: `{G}`, `{P}`, `{N}` and `{W}` are starts of requests, `{g}`, `{p}` and `{n}` the same
/// as an upstream gets them, `b{*9}` is nine times the byte, and `(..){*9}` nine times the group.
pub(crate) fn expand(short: &[u8]) -> Vec<u8> {
    const NAMES: [(&[u8], &[u8]); 7] = [
        (b"{G}", b"GET / HTTP/1.1\r\nHost: a\r\n"),
        (b"{P}", b"POST / HTTP/1.1\r\nHost: a\r\n"),
        (b"{N}", b"GET /smug HTTP/1.1\r\nHost: a\r\n\r\n"),
        (
            b"{W}",
            b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
              Sec-WebSocket-Version: 13\r\n",
        ),
        (b"{g}", b"GET / HTTP/1.1\r\nHost: up\r\n"),
        (b"{p}", b"POST / HTTP/1.1\r\nHost: up\r\n"),
        (b"{n}", b"GET /smug HTTP/1.1\r\nHost: up\r\n\r\n"),
    ];
    let mut out = Vec::new();
    let mut rest = short;
    while let [first, tail @ ..] = rest {
        if let Some((name, text)) = NAMES.iter().find(|(name, _)| rest.starts_with(name)) {
            out.extend_from_slice(text);
            rest = &rest[name.len()..];
        } else if rest.starts_with(b"{*") {
            let end = rest.iter().position(|b| *b == b'}').unwrap();
            let count: usize = String::from_utf8_lossy(&rest[2..end]).parse().unwrap();
            let group = if out.ends_with(b")") {
                let start = out.iter().rposition(|b| *b == b'(').unwrap();
                let group = out[start + 1..out.len() - 1].to_vec();
                out.truncate(start);
                group
            } else {
                vec![out.pop().unwrap()]
            };
            out.extend(group.repeat(count));
            rest = &rest[end + 1..];
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

/// Escapes and shortens bytes for a message.
pub(crate) fn show(bytes: &[u8]) -> String {
    let short = &bytes[..bytes.len().min(600)];
    let more = if short.len() < bytes.len() { format!("... ({} bytes)", bytes.len()) } else { String::new() };
    format!("\"{}\"{more}", short.escape_ascii())
}

/// One client, over TCP or a stream above it.
pub(crate) struct Client<S = TcpStream> {
    pub(crate) stream: S,
    unread: Vec<u8>,
}

/// A response, as received.
pub(crate) struct Response {
    pub(crate) status: u16,
    /// With the empty line.
    pub(crate) head: String,
    /// Without chunk framing.
    pub(crate) body: Vec<u8>,
    /// With chunk framing.
    pub(crate) framed: Vec<u8>,
}

impl Response {
    /// Returns the value of the first header with this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let headers = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        headers.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    pub(crate) fn closes(&self) -> bool {
        self.header("Connection") == Some("close")
    }
}

impl Client {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        Self { stream, unread: Vec::new() }
    }

    /// Connects and sends.
    pub(crate) fn connect_and_send(addr: SocketAddr, bytes: &[u8]) -> Self {
        let mut client = Self::connect(addr);
        client.send(bytes);
        client
    }

    /// Closes the write side.
    pub(crate) fn shutdown_write(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }
}

impl<S: Read + Write> Client<S> {
    /// A client on an open stream.
    pub(crate) fn from_stream(stream: S) -> Self {
        Self { stream, unread: Vec::new() }
    }

    /// Sends. Errors are ignored: a proxy that has rejected the request may not read all of it.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    fn read(&mut self) -> Result<bool, String> {
        let mut buf = vec![0; 64 * 1024];
        match self.stream.read(&mut buf) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.read(),
            Ok(count) => {
                self.unread.extend_from_slice(&buf[..count]);
                Ok(count > 0)
            }
            Err(error) if crate::peer::is_timeout(&error) => Err(format!("timed out after {}", show(&self.unread))),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err("the connection was reset".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Reads `count` bytes.
    pub(crate) fn read_bytes(&mut self, count: usize) -> Result<Vec<u8>, String> {
        while self.unread.len() < count {
            if !self.read()? {
                return Err(format!("EOF after {}", show(&self.unread)));
            }
        }
        Ok(self.unread.drain(..count).collect())
    }

    pub(crate) fn read_until(&mut self, end: &[u8]) -> Result<Vec<u8>, String> {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|part| part == end) {
                return Ok(self.unread.drain(..at + end.len()).collect());
            }
            if !self.read()? {
                return Err(format!("EOF after {}", show(&self.unread)));
            }
        }
    }

    /// Reads to EOF.
    pub(crate) fn read_to_end(&mut self) -> Result<Vec<u8>, String> {
        while self.read()? {}
        Ok(std::mem::take(&mut self.unread))
    }

    /// Checks that the proxy closes without another byte.
    pub(crate) fn expect_eof(&mut self) -> Result<(), String> {
        match self.read_to_end()? {
            rest if rest.is_empty() => Ok(()),
            rest => Err(format!("unexpected bytes: {}", show(&rest))),
        }
    }

    /// Reads a head.
    pub(crate) fn read_head(&mut self) -> Result<String, String> {
        Ok(String::from_utf8_lossy(&self.read_until(b"\r\n\r\n")?).into_owned())
    }

    /// Reads a chunk: its size line, and its data with the line end.
    pub(crate) fn read_chunk(&mut self) -> Result<(Vec<u8>, Vec<u8>), String> {
        let line = self.read_until(b"\r\n")?;
        let size = String::from_utf8_lossy(&line).trim_end().to_owned();
        let size = usize::from_str_radix(&size, 16).map_err(|_| format!("no chunk size: {size:?}"))?;
        let data = self.read_bytes(size + 2)?;
        Ok((line, data))
    }

    /// Reads a response to `method`.
    pub(crate) fn read_response_to(&mut self, method: &str) -> Result<Response, String> {
        let head = self.read_head()?;
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status: u16 = status.ok_or_else(|| format!("no status line: {head:?}"))?;
        let mut response = Response { status, head, body: Vec::new(), framed: Vec::new() };
        if method == "HEAD" || status < 200 || matches!(status, 204 | 304) {
            return Ok(response);
        }
        if response.header("Transfer-Encoding") == Some("chunked") {
            loop {
                let (line, data) = self.read_chunk()?;
                response.framed.extend_from_slice(&line);
                response.framed.extend_from_slice(&data);
                response.body.extend_from_slice(&data[..data.len() - 2]);
                if data.len() == 2 {
                    return Ok(response);
                }
            }
        }
        response.body = match response.header("Content-Length").map(str::parse) {
            Some(length) => self.read_bytes(length.map_err(|_| response.head.clone())?)?,
            None => self.read_to_end()?,
        };
        response.framed = response.body.clone();
        Ok(response)
    }

    /// Reads a response to GET.
    pub(crate) fn read_response(&mut self) -> Result<Response, String> {
        self.read_response_to("GET")
    }

    /// Reads a response and checks its status.
    pub(crate) fn expect_status(&mut self, status: u16) -> Result<Response, String> {
        let response = self.read_response()?;
        if response.status == status {
            Ok(response)
        } else {
            Err(format!("expected {status}, got {}", show(response.head.as_bytes())))
        }
    }

    /// Sends a request, reads the response and checks its status.
    pub(crate) fn request(&mut self, request: &[u8], status: u16) -> Result<Response, String> {
        self.send(request);
        self.expect_status(status)
    }
}
