//! One request, and the answer to it in a form in which two programs can be compared.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use zlib_rs::{Inflate, InflateFlush, Status};

use crate::pair::PATIENCE;

/// An answer.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// The status line, and the fields in their order.
    pub(crate) lines: Vec<String>,
    /// Without chunk framing.
    pub(crate) body: Vec<u8>,
}

/// The bytes of a request. `/path` alone is a GET, `METHOD TARGET` may have a version behind it; fields follow on lines
/// of their own, and a body behind an empty one. `Host: a` is added where there is none.
pub(crate) fn request(asked: &str) -> Vec<u8> {
    let (head, body) = asked.split_once("\n\n").unwrap_or((asked, ""));
    let (line, fields) = head.split_once('\n').unwrap_or((head, ""));
    let mut line = if line.starts_with('/') { format!("GET {line}") } else { line.to_owned() };
    if !line.contains(" HTTP/") {
        line.push_str(" HTTP/1.1");
    }
    let host =
        if fields.lines().any(|field| field.starts_with("Host:")) || line.ends_with("/1.0") { "" } else { "Host: a\n" };
    let end = if fields.is_empty() { "" } else { "\n" };
    [format!("{line}\n{host}{fields}{end}\n").replace('\n', "\r\n").as_bytes(), body.as_bytes()].concat()
}

/// Asks a program. Behind an answer that keeps the connection, `again` shows with another request that it is in step.
pub(crate) fn ask(addr: SocketAddr, asked: &str, again: bool) -> Result<Reply, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(addr).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.write_all(&request(asked)).map_err(failed)?;
    let mut ahead = Vec::new();
    let is_head = asked.starts_with("HEAD ");
    let mut reply = read(&mut stream, &mut ahead, is_head)?;
    if reply.status() == 100 {
        let interim = reply;
        reply = read(&mut stream, &mut ahead, is_head)?;
        reply.lines.extend(interim.lines);
    }
    if again && reply.field("Connection") == Some("keep-alive") {
        stream.write_all(b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").map_err(failed)?;
        read(&mut stream, &mut ahead, false).map_err(|why| format!("the second answer: {why}"))?;
    }
    if ahead.is_empty() { Ok(reply) } else { Err(format!("more bytes came: {}", ahead.escape_ascii())) }
}

/// Reads more; `false` at the end.
fn more(stream: &mut TcpStream, ahead: &mut Vec<u8>) -> Result<bool, String> {
    let mut buffer = vec![0; 64 * 1024];
    let count = stream.read(&mut buffer).map_err(|error| format!("{error} after {}", ahead.escape_ascii()))?;
    ahead.extend_from_slice(&buffer[..count]);
    Ok(count > 0)
}

fn take(stream: &mut TcpStream, ahead: &mut Vec<u8>, count: usize) -> Result<Vec<u8>, String> {
    while ahead.len() < count {
        if !more(stream, ahead)? {
            return Err(format!("{} of {count} bytes came", ahead.len()));
        }
    }
    Ok(ahead.drain(..count).collect())
}

fn until(stream: &mut TcpStream, ahead: &mut Vec<u8>, end: &[u8]) -> Result<Vec<u8>, String> {
    loop {
        if let Some(at) = ahead.windows(end.len()).position(|part| part == end) {
            return Ok(ahead.drain(..at + end.len()).collect());
        }
        if !more(stream, ahead)? {
            return Err(format!("the end came after {:?}", ahead.escape_ascii().to_string()));
        }
    }
}

fn read(stream: &mut TcpStream, ahead: &mut Vec<u8>, is_head: bool) -> Result<Reply, String> {
    let head = until(stream, ahead, b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&head).into_owned();
    let lines = head.trim_end_matches("\r\n").split("\r\n").map(str::to_owned).collect();
    let mut reply = Reply { lines, body: Vec::new() };
    if is_head || matches!(reply.status(), 100..=199 | 204 | 304) {
        return Ok(reply);
    }
    if reply.field("Transfer-Encoding") == Some("chunked") {
        loop {
            let line = until(stream, ahead, b"\r\n")?;
            let size = String::from_utf8_lossy(&line).trim_end().to_owned();
            let size = usize::from_str_radix(&size, 16).map_err(|_| format!("no chunk size: {size:?}"))?;
            reply.body.extend_from_slice(&take(stream, ahead, size + 2)?[..size]);
            if size == 0 {
                return Ok(reply);
            }
        }
    }
    match reply.field("Content-Length").map(str::parse) {
        Some(length) => reply.body = take(stream, ahead, length.map_err(|_| head)?)?,
        None => {
            while more(stream, ahead)? {}
            reply.body = std::mem::take(ahead);
        }
    }
    Ok(reply)
}

/// Which of the two: what it calls itself.
pub(crate) struct Own {
    pub(crate) name: &'static str,
    pub(crate) port: u16,
}

impl Reply {
    pub(crate) fn status(&self) -> u16 {
        self.lines[0].get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let fields = self.lines.iter().skip(1).filter_map(|line| line.split_once(": "));
        fields.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    /// The same without what must differ: the name of the program, its port, the time, and the boundary of parts.
    ///
    /// # Errors
    /// `Content-Length` is not the length of the body.
    pub(crate) fn comparable(mut self, own: &Own) -> Result<Self, String> {
        let before = self.body.len();
        if self.field("Content-Encoding") == Some("gzip")
            && let Some(body) = unpacked(&self.body)
        {
            self.body = body;
        }
        if let Some(boundary) = self.field("Content-Type").and_then(|kind| kind.split_once("boundary=")) {
            let boundary = boundary.1.to_owned();
            self.replace(boundary.as_bytes(), b"BOUNDARY");
        }
        let version = format!("{}/", own.name);
        if let Some(at) = self.body.windows(version.len()).position(|part| part == version.as_bytes()) {
            let end = self.body[at..].iter().position(|b| *b == b'<').map_or(self.body.len(), |end| at + end);
            self.body.splice(at..end, *b"PROGRAM/VERSION");
        }
        self.replace(format!("<center>{}</center>", own.name).as_bytes(), b"<center>PROGRAM</center>");
        self.replace(format!(":{}", own.port).as_bytes(), b":PORT");
        let now = self.field("Date").and_then(time);
        for line in &mut self.lines {
            let Some((name, value)) = line.split_once(": ") else { continue };
            let value = match (name, time(value), now) {
                ("Server", ..) if value.contains('/') => "PROGRAM/VERSION".to_owned(),
                ("Server", ..) => "PROGRAM".to_owned(),
                ("Date", Some(_), _) => "NOW".to_owned(),
                // Seconds of another program's clock, more or less one.
                ("Expires", Some(time), Some(now)) if time.abs_diff(now) % 60 <= 1 => {
                    format!("NOW + {}", time as i64 - now as i64)
                }
                ("Content-Length", ..) if before != self.body.len() => match value.parse() == Ok(before) {
                    true => "ITS LENGTH".to_owned(),
                    false => return Err(format!("Content-Length is {value}, the body has {before} bytes")),
                },
                _ => continue,
            };
            *line = format!("{name}: {value}");
        }
        Ok(self)
    }

    fn replace(&mut self, old: &[u8], new: &[u8]) {
        let mut at = 0;
        while let Some(next) = self.body.get(at..).and_then(|rest| rest.windows(old.len()).position(|part| part == old))
        {
            self.body.splice(at + next..at + next + old.len(), new.iter().copied());
            at += next + new.len();
        }
        for line in &mut self.lines {
            *line = line.replace(&*String::from_utf8_lossy(old), &String::from_utf8_lossy(new));
        }
    }

    /// Its lines, and one for the body.
    pub(crate) fn show(&self) -> Vec<String> {
        let start = self.body[..self.body.len().min(300)].escape_ascii();
        let body = format!("body of {} bytes: {start}", self.body.len());
        self.lines.iter().cloned().chain([body]).collect()
    }
}

/// What is in a whole gzip member.
fn unpacked(packed: &[u8]) -> Option<Vec<u8>> {
    let mut inflate = Inflate::new(true, 16 + 15);
    let mut body = vec![0; 1 << 20];
    let status = inflate.decompress(packed, &mut body, InflateFlush::Finish).ok()?;
    body.truncate(inflate.total_out() as usize);
    (status == Status::StreamEnd && inflate.total_in() == packed.len() as u64).then_some(body)
}

/// Seconds since 1970 of an IMF-fixdate (RFC 9110 5.6.7).
fn time(text: &str) -> Option<u64> {
    let time = httpdate::parse_http_date(text).ok()?;
    time.duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_secs())
}
