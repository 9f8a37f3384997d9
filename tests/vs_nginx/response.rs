//! One request, and its response in a form that can be compared between programs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use zlib_rs::{Inflate, InflateFlush, Status};

use crate::pair::TIMEOUT;

/// A response.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Response {
    /// The status line and the headers, in order.
    pub(crate) lines: Vec<String>,
    /// Without chunk framing.
    pub(crate) body: Vec<u8>,
}

/// Formats a request. `/path` alone is a GET; `METHOD TARGET` may have a version; headers follow on lines of their own, and a
/// body behind an empty line. `Host: a` is added if there is none.
pub(crate) fn format_request(request: &str) -> Vec<u8> {
    let (head, body) = request.split_once("\n\n").unwrap_or((request, ""));
    let (line, headers) = head.split_once('\n').unwrap_or((head, ""));
    let mut line = if line.starts_with('/') { format!("GET {line}") } else { line.to_owned() };
    if !line.contains(" HTTP/") {
        line.push_str(" HTTP/1.1");
    }
    let host = if headers.lines().any(|header| header.starts_with("Host:")) || line.ends_with("/1.0") {
        ""
    } else {
        "Host: a\n"
    };
    let end = if headers.is_empty() { "" } else { "\n" };
    [format!("{line}\n{host}{headers}{end}\n").replace('\n', "\r\n").as_bytes(), body.as_bytes()].concat()
}

/// Sends a request and reads the response. With `again`, another request on a kept connection shows that it is not out of step.
pub(crate) fn fetch(addr: SocketAddr, request: &str, again: bool) -> Result<Response, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(addr).map_err(failed)?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(failed)?;
    stream.write_all(&format_request(request)).map_err(failed)?;
    let mut unread = Vec::new();
    let is_head = request.starts_with("HEAD ");
    let mut response = read_response(&mut stream, &mut unread, is_head)?;
    if response.status() == 100 {
        let interim = response;
        response = read_response(&mut stream, &mut unread, is_head)?;
        response.lines.extend(interim.lines);
    }
    if again && response.header("Connection") == Some("keep-alive") {
        stream.write_all(b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").map_err(failed)?;
        read_response(&mut stream, &mut unread, false).map_err(|why| format!("the second response: {why}"))?;
    }
    if unread.is_empty() { Ok(response) } else { Err(format!("unexpected bytes: {}", unread.escape_ascii())) }
}

/// Reads some bytes; `false` at EOF.
fn read_more(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Result<bool, String> {
    let mut buffer = vec![0; 64 * 1024];
    let count = stream.read(&mut buffer).map_err(|error| format!("{error} after {}", unread.escape_ascii()))?;
    unread.extend_from_slice(&buffer[..count]);
    Ok(count > 0)
}

fn read_bytes(stream: &mut TcpStream, unread: &mut Vec<u8>, count: usize) -> Result<Vec<u8>, String> {
    while unread.len() < count {
        if !read_more(stream, unread)? {
            return Err(format!("{} of {count} bytes came", unread.len()));
        }
    }
    Ok(unread.drain(..count).collect())
}

fn read_until(stream: &mut TcpStream, unread: &mut Vec<u8>, end: &[u8]) -> Result<Vec<u8>, String> {
    loop {
        if let Some(at) = unread.windows(end.len()).position(|part| part == end) {
            return Ok(unread.drain(..at + end.len()).collect());
        }
        if !read_more(stream, unread)? {
            return Err(format!("EOF after {:?}", unread.escape_ascii().to_string()));
        }
    }
}

fn read_response(stream: &mut TcpStream, unread: &mut Vec<u8>, is_head: bool) -> Result<Response, String> {
    let head = read_until(stream, unread, b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&head).into_owned();
    let lines = head.trim_end_matches("\r\n").split("\r\n").map(str::to_owned).collect();
    let mut response = Response { lines, body: Vec::new() };
    if is_head || matches!(response.status(), 100..=199 | 204 | 304) {
        return Ok(response);
    }
    if response.header("Transfer-Encoding") == Some("chunked") {
        loop {
            let line = read_until(stream, unread, b"\r\n")?;
            let size = String::from_utf8_lossy(&line).trim_end().to_owned();
            let size = usize::from_str_radix(&size, 16).map_err(|_| format!("no chunk size: {size:?}"))?;
            response.body.extend_from_slice(&read_bytes(stream, unread, size + 2)?[..size]);
            if size == 0 {
                return Ok(response);
            }
        }
    }
    match response.header("Content-Length").map(str::parse) {
        Some(length) => response.body = read_bytes(stream, unread, length.map_err(|_| head)?)?,
        None => {
            while read_more(stream, unread)? {}
            response.body = std::mem::take(unread);
        }
    }
    Ok(response)
}

/// The name and the port of a program, which its responses contain.
pub(crate) struct Identity {
    pub(crate) name: &'static str,
    pub(crate) port: u16,
}

impl Response {
    pub(crate) fn status(&self) -> u16 {
        self.lines[0].get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let headers = self.lines.iter().skip(1).filter_map(|line| line.split_once(": "));
        headers.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    /// Replaces what always differs: the name of the program, its port, the time, and multipart boundaries.
    ///
    /// # Errors
    /// `Content-Length` is not the length of the body.
    pub(crate) fn comparable(mut self, own: &Identity) -> Result<Self, String> {
        let before = self.body.len();
        if self.header("Content-Encoding") == Some("gzip")
            && let Some(body) = gunzip(&self.body)
        {
            self.body = body;
        }
        if let Some(boundary) = self.header("Content-Type").and_then(|kind| kind.split_once("boundary=")) {
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
        let now = self.header("Date").and_then(parse_date);
        for line in &mut self.lines {
            let Some((name, value)) = line.split_once(": ") else { continue };
            let value = match (name, parse_date(value), now) {
                ("Server", ..) if value.contains('/') => "PROGRAM/VERSION".to_owned(),
                ("Server", ..) => "PROGRAM".to_owned(),
                ("Date", Some(_), _) => "NOW".to_owned(),
                // Within a second of the clock of the other program. `expires epoch` is a constant, at any time of day.
                ("Expires", Some(time), Some(now)) if time > 1 && time.abs_diff(now) % 60 <= 1 => {
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

    /// Returns the lines of the head, and one for the body.
    pub(crate) fn show(&self) -> Vec<String> {
        let start = self.body[..self.body.len().min(300)].escape_ascii();
        let body = format!("body of {} bytes: {start}", self.body.len());
        self.lines.iter().cloned().chain([body]).collect()
    }
}

/// Decompresses a whole gzip member.
fn gunzip(compressed: &[u8]) -> Option<Vec<u8>> {
    let mut inflate = Inflate::new(true, 16 + 15);
    let mut body = vec![0; 1 << 20];
    let status = inflate.decompress(compressed, &mut body, InflateFlush::Finish).ok()?;
    body.truncate(inflate.total_out() as usize);
    (status == Status::StreamEnd && inflate.total_in() == compressed.len() as u64).then_some(body)
}

/// Parses an IMF-fixdate (RFC 9110 5.6.7) to seconds since 1970.
fn parse_date(text: &str) -> Option<u64> {
    let time = httpdate::parse_http_date(text).ok()?;
    time.duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_secs())
}
