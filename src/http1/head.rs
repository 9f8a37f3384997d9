//! Request and response heads (RFC 9112): parsed strictly, stored as received, looked up by name.
//!
//! [`HeadScanner`] finds the end of a head, and looks at each byte once however the input is split;
//! [`Request::parse`] and [`Response::parse`] parse it. httparse splits the header lines; what it accepts against RFC
//! 9112 or RFC 9110 is rejected here. A malformed head is rejected, never forwarded.
//!
//! Lines of an HTTP/1.1 request must end with CRLF. A bare LF (RFC 9112 2.2 leaves it to the recipient) may end the
//! lines of a response, which is generated again anyway, and all lines of an HTTP/1.0 request: those are typed by
//! hand or sent by old devices, have no chunked body whose end could be ambiguous, and are the last request of their
//! connection.

use std::fmt;

pub use crate::http1::header::{HeaderName, HeaderNamePolicy};

/// Headers in one head, and lines in one trailer section.
pub const HEADERS_MAX: usize = 100;
/// Headers for which a short array on the stack is tried first.
const HEADERS_TYPICAL: usize = 24;
/// Bytes of a method.
const METHOD_BYTES_MAX: usize = 32;
/// Empty lines ignored before a request line (RFC 9112 2.2 requires at least one).
const EMPTY_LINES_MAX: u8 = 1;
/// Bytes of a response head.
pub const RESPONSE_BYTES_MAX: usize = 32 * 1024;

/// Size limits of a request head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of one line.
    pub line_bytes_max: usize,
    /// Bytes of all lines.
    pub head_bytes_max: usize,
}

/// An error in a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    RequestLine,
    RequestLineTooLong,
    Method,
    MethodNotAllowed,
    Version,
    UnsupportedVersion,
    Target,
    BareLf,
    StatusLine,
    Header,
    HeaderTooLong,
    TooManyHeaders,
    HeadTooLong,
    HostMissing,
    DuplicateHost,
    Host,
    ContentLength,
    DuplicateContentLength,
    LengthAndTransferEncoding,
    TransferEncoding,
    UnknownTransferEncoding,
    TransferEncodingInHttp10,
    Expect,
    WebSocketWithBody,
    DuplicateWebSocketKey,
    /// A header that may occur only once, by name.
    Duplicate(&'static str),
}

impl Malformed {
    /// Returns the status of the response to a request with this error.
    pub fn status(self) -> u16 {
        match self {
            Self::MethodNotAllowed => 405,
            Self::RequestLineTooLong => 414,
            Self::Expect => 417,
            Self::HeaderTooLong | Self::TooManyHeaders | Self::HeadTooLong => 431,
            Self::UnknownTransferEncoding => 501,
            Self::UnsupportedVersion => 505,
            _ => 400,
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Duplicate(name) => return write!(f, "more than one \"{name}\" header"),
            Self::RequestLine => "invalid request line",
            Self::RequestLineTooLong => "too long request line",
            Self::Method => "invalid method",
            Self::MethodNotAllowed => "a method that is not allowed here",
            Self::Version => "invalid HTTP version",
            Self::UnsupportedVersion => "unsupported HTTP version",
            Self::Target => "invalid request target",
            Self::BareLf => "a line that does not end with CRLF",
            Self::StatusLine => "no valid HTTP/1.0 or HTTP/1.1 status line",
            Self::Header => "invalid header line",
            Self::HeaderTooLong => "too long header line",
            Self::TooManyHeaders => "too many header lines",
            Self::HeadTooLong => "too big header",
            Self::HostMissing => "HTTP/1.1 request without \"Host\" header",
            Self::DuplicateHost => "more than one \"Host\" header",
            Self::Host => "invalid host",
            Self::ContentLength => "invalid \"Content-Length\" header",
            Self::DuplicateContentLength => "duplicate \"Content-Length\" header",
            Self::LengthAndTransferEncoding => "\"Content-Length\" and \"Transfer-Encoding\" headers at the same time",
            Self::TransferEncoding => "invalid \"Transfer-Encoding\" header",
            Self::UnknownTransferEncoding => "unknown \"Transfer-Encoding\"",
            Self::TransferEncodingInHttp10 => "\"Transfer-Encoding\" header in HTTP/1.0",
            Self::Expect => "unknown expectation",
            Self::WebSocketWithBody => "a WebSocket handshake with a body",
            Self::DuplicateWebSocketKey => "more than one \"Sec-WebSocket-Key\" header",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    Http10,
    Http11,
}

impl Version {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    len: u32,
}

impl Span {
    /// Returns the position of `part`, a subslice of `whole`.
    fn locate(whole: &[u8], part: &[u8]) -> Self {
        let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
        Self { start: start as u32, len: part.len() as u32 }
    }

    fn slice(self, bytes: &[u8]) -> &[u8] {
        let start = self.start as usize;
        bytes.get(start..start + self.len as usize).unwrap_or_default()
    }
}

#[derive(Clone, Copy, Debug)]
struct HeaderLine {
    kind: HeaderName,
    name: Span,
    value: Span,
}

/// One header of a head.
#[derive(Clone, Copy, Debug)]
pub struct Header<'h> {
    pub kind: HeaderName,
    pub name: &'h [u8],
    pub value: &'h [u8],
}

/// The headers of a head, in the order received.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    bytes: Box<[u8]>,
    lines: Vec<HeaderLine>,
}

impl Headers {
    pub fn iter(&self) -> impl Iterator<Item = Header<'_>> {
        self.lines.iter().map(|line| Header {
            kind: line.kind,
            name: line.name.slice(&self.bytes),
            value: line.value.slice(&self.bytes),
        })
    }

    pub fn all(&self, kind: HeaderName) -> impl Iterator<Item = &[u8]> {
        self.lines.iter().filter(move |line| line.kind == kind).map(|line| line.value.slice(&self.bytes))
    }

    pub fn first(&self, kind: HeaderName) -> Option<&[u8]> {
        self.all(kind).next()
    }

    /// Replaces the values of the headers of a kind by a part of the same head.
    fn set_value(&mut self, kind: HeaderName, value: Span) {
        self.lines.iter_mut().filter(|line| line.kind == kind).for_each(|line| line.value = value);
    }

    /// Returns the values of the headers that a variable names: `_` stands for `-`.
    pub fn all_named<'f>(&'f self, name: &'f [u8]) -> impl Iterator<Item = &'f [u8]> {
        self.iter().filter(move |field| variable_name_matches(field.name, name)).map(|field| field.value)
    }

    /// Returns the first value that [`Headers::all_named`] returns.
    pub fn first_named(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter().find(|field| variable_name_matches(field.name, name)).map(|field| field.value)
    }

    /// Whether a comma-separated list contains `token`, case-insensitively.
    pub fn has_token(&self, kind: HeaderName, token: &str) -> bool {
        self.all(kind).flat_map(tokens).any(|t| t.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// Rejects a singleton header that occurs twice: recipients differ in which one they use.
    fn check_singletons(&self) -> Result<(), Malformed> {
        let mut seen = 0u64;
        for line in &self.lines {
            let Some(name) = line.kind.singleton_name() else { continue };
            let bit = 1 << line.kind as u32;
            if seen & bit != 0 {
                return Err(Malformed::Duplicate(name));
            }
            seen |= bit;
        }
        Ok(())
    }

    /// Parses the header lines of `bytes` from `from` up to and including the empty line.
    fn parse(bytes: Box<[u8]>, from: usize, names: HeaderNamePolicy) -> Result<Self, Malformed> {
        // Most heads are short: the long array is initialized only for the others.
        let lines = match split_lines(&bytes, from, names, &mut [httparse::EMPTY_HEADER; HEADERS_TYPICAL]) {
            Err(Malformed::TooManyHeaders) => {
                split_lines(&bytes, from, names, &mut [httparse::EMPTY_HEADER; HEADERS_MAX])?
            }
            lines => lines?,
        };
        Ok(Self { bytes, lines })
    }
}

fn split_lines<'h>(
    bytes: &'h [u8],
    from: usize,
    names: HeaderNamePolicy,
    headers: &mut [httparse::Header<'h>],
) -> Result<Vec<HeaderLine>, Malformed> {
    let section = bytes.get(from..).unwrap_or_default();
    let parsed = match httparse::parse_headers(section, headers) {
        Ok(httparse::Status::Complete((_, parsed))) => parsed,
        Err(httparse::Error::TooManyHeaders) => return Err(Malformed::TooManyHeaders),
        Ok(httparse::Status::Partial) | Err(_) => return Err(Malformed::Header),
    };
    let mut lines = Vec::with_capacity(parsed.len());
    lines.extend(parsed.iter().filter(|header| names.accepts(header.name.as_bytes())).map(|header| HeaderLine {
        kind: HeaderName::from_bytes(header.name.as_bytes()),
        name: Span::locate(bytes, header.name.as_bytes()),
        value: Span::locate(bytes, trim(header.value)),
    }));
    Ok(lines)
}

/// Checks trailer lines (RFC 9112 7.1.2).
pub fn check_trailers(lines: &[u8]) -> Result<(), Malformed> {
    Headers::parse(Box::from(lines), 0, HeaderNamePolicy::Plain).map(drop)
}

/// Trims optional whitespace: space and tab and nothing else (RFC 9110 5.6.3).
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Returns the elements of a comma-separated list, without the empty ones (RFC 9110 5.6.1).
pub fn tokens(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|b| *b == b',').map(trim).filter(|token| !token.is_empty())
}

/// Whether `$http_NAME` names the header `field`.
pub fn variable_name_matches(field: &[u8], name: &[u8]) -> bool {
    field.len() == name.len()
        && field.iter().zip(name).all(|(f, n)| f.eq_ignore_ascii_case(n) || (*f == b'-' && *n == b'_'))
}

/// Whether a value contains CR, LF or NUL. Scanning all of it is several times faster than stopping at the first.
pub fn has_line_break(value: &[u8]) -> bool {
    value.iter().fold(false, |found, b| found | matches!(b, b'\r' | b'\n' | 0))
}

/// Writes one header line. A header whose value contains a line break is omitted.
pub fn write_header(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    if has_line_break(value) {
        return;
    }
    write_folded_header(name, value, out);
}

/// Writes one header, of which a line break in the value must continue it on the next line (`obs-fold`, RFC 9112 5.2).
pub fn write_folded_header(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Finds the end of a head in input that is split anywhere; each byte is scanned once.
#[derive(Debug)]
pub struct HeadScanner {
    position: usize,
    line_start: usize,
    lines: usize,
    empty_lines: u8,
    is_response: bool,
    bare_lf: bool,
}

impl HeadScanner {
    pub fn for_request() -> Self {
        Self { position: 0, line_start: 0, lines: 0, empty_lines: 0, is_response: false, bare_lf: false }
    }

    /// Creates a scanner for a response, before which no empty line is ignored.
    pub fn for_response() -> Self {
        Self { is_response: true, ..Self::for_request() }
    }

    /// Returns where the head in `bytes` starts and ends; `None` if it is incomplete. Each call gets the bytes of the
    /// last one and more.
    ///
    /// # Errors As soon as the input can't become a head, or exceeds a limit.
    pub fn find_end(&mut self, bytes: &[u8], limits: HeadLimits) -> Result<Option<(usize, usize)>, Malformed> {
        while let Some(lf) = find_lf(bytes.get(self.position..).unwrap_or_default()) {
            let end = self.position + lf;
            self.position = end + 1;
            let line = bytes.get(self.line_start..end).unwrap_or_default();
            let line = self.strip_cr(line)?;
            let first = self.line_start;
            self.line_start = self.position;
            match (self.lines, line) {
                (0, []) if self.is_response => return Err(Malformed::StatusLine),
                (0, []) if self.empty_lines > EMPTY_LINES_MAX => return Err(Malformed::RequestLine),
                (0, []) => self.empty_lines += 1,
                (_, []) if self.position > limits.head_bytes_max => return Err(Malformed::HeadTooLong),
                (_, []) => return Ok(Some((self.head_start(), self.position))),
                (0, _) => {
                    self.check_start(bytes, first)?;
                    check_line_length(line.len(), 0, limits)?;
                    if !self.is_response {
                        RequestLine::parse(line)?;
                    }
                    self.lines = 1;
                }
                (lines, _) => {
                    check_line_length(line.len(), lines, limits)?;
                    self.lines += 1;
                }
            }
            if self.lines > HEADERS_MAX + 1 {
                return Err(Malformed::TooManyHeaders);
            }
        }
        self.position = bytes.len();
        if self.lines == 0 {
            self.check_start(bytes, self.line_start)?;
        }
        let partial = bytes.get(self.line_start..).unwrap_or_default();
        check_line_length(partial.strip_suffix(b"\r").unwrap_or(partial).len(), self.lines, limits)?;
        if bytes.len() > limits.head_bytes_max {
            return Err(Malformed::HeadTooLong);
        }
        Ok(None)
    }

    /// Parses the request head at the start of `bytes`. Returns the request and the end of its head; `None` if it is
    /// incomplete.
    pub fn parse_request(
        &mut self,
        bytes: &[u8],
        limits: HeadLimits,
        names: HeaderNamePolicy,
    ) -> Result<Option<(Request, usize)>, Malformed> {
        let Some((start, end)) = self.find_end(bytes, limits)? else { return Ok(None) };
        Request::parse(bytes.get(start..end).unwrap_or_default(), names).map(|head| Some((head, end)))
    }

    /// Parses the response head at the start of `bytes`, like [`HeadScanner::parse_request`], within
    /// `bytes_max`.
    pub fn parse_response(&mut self, bytes: &[u8], bytes_max: usize) -> Result<Option<(Response, usize)>, Malformed> {
        let limits = HeadLimits { line_bytes_max: bytes_max, head_bytes_max: bytes_max };
        let Some((start, end)) = self.find_end(bytes, limits)? else { return Ok(None) };
        Response::parse(bytes.get(start..end).unwrap_or_default()).map(|head| Some((head, end)))
    }

    /// Strips the CR of a line, if the line ends as the lines of this head must.
    fn strip_cr<'l>(&mut self, line: &'l [u8]) -> Result<&'l [u8], Malformed> {
        match (line, self.is_response) {
            ([line @ .., b'\r'], true) => Ok(line),
            (line, true) => Ok(line),
            ([line @ .., b'\r'], false) if !self.bare_lf => Ok(line),
            (line, false) if self.lines == 0 && line.ends_with(b" HTTP/1.0") => {
                self.bare_lf = true;
                Ok(line)
            }
            (line, false) if self.bare_lf && !line.ends_with(b"\r") => Ok(line),
            _ => Err(Malformed::BareLf),
        }
    }

    /// Returns the offset of the start line: after the empty lines.
    fn head_start(&self) -> usize {
        usize::from(self.empty_lines) * 2
    }

    /// Rejects input that does not begin like a head at once, not at the end of a line that may never come.
    fn check_start(&self, bytes: &[u8], start: usize) -> Result<(), Malformed> {
        let Some(line) = bytes.get(start..).filter(|line| !line.is_empty()) else { return Ok(()) };
        match line {
            _ if self.is_response => {
                let known = line.len().min(5);
                if line.get(..known) != b"HTTP/".get(..known) {
                    return Err(Malformed::StatusLine);
                }
            }
            [b'\r'] | [b'\r', b'\n', ..] => {}
            _ if self.empty_lines > EMPTY_LINES_MAX => return Err(Malformed::RequestLine),
            [b'A'..=b'Z', ..] => {}
            _ => return Err(Malformed::Method),
        }
        Ok(())
    }
}

/// Finds the first LF, eight bytes at a time: every byte of a head passes here.
fn find_lf(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    let (words, rest) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let differs = u64::from_le_bytes(*word) ^ (ONES * b'\n' as u64);
        // The top bit of the first LF byte, and of none before it.
        let same = differs.wrapping_sub(ONES) & !differs & (ONES << 7);
        if same != 0 {
            return Some(at * 8 + same.trailing_zeros() as usize / 8);
        }
    }
    rest.iter().position(|b| *b == b'\n').map(|at| words.len() * 8 + at)
}

fn check_line_length(line: usize, lines_before: usize, limits: HeadLimits) -> Result<(), Malformed> {
    match lines_before {
        _ if line <= limits.line_bytes_max => Ok(()),
        0 => Err(Malformed::RequestLineTooLong),
        _ => Err(Malformed::HeaderTooLong),
    }
}

/// `method SP request-target SP HTTP-version` (RFC 9112 3), one space each.
struct RequestLine<'h> {
    method: &'h [u8],
    target: &'h [u8],
    version: Version,
}

impl<'h> RequestLine<'h> {
    fn parse(line: &'h [u8]) -> Result<Self, Malformed> {
        let mut parts = line.split(|b| *b == b' ');
        let (Some(method), Some(target), version, None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Malformed::RequestLine);
        };
        // Methods are tokens; like nginx, only capital letters, `-` and `_` are accepted.
        let is_token = method.iter().all(|b| b.is_ascii_uppercase() || matches!(b, b'-' | b'_'));
        if method.len() > METHOD_BYTES_MAX || !is_token || !method.first().is_some_and(u8::is_ascii_uppercase) {
            return Err(Malformed::Method);
        }
        if target.is_empty() || target.iter().fold(false, |found, b| found | matches!(b, 0..=b' ' | 0x7f)) {
            return Err(Malformed::Target);
        }
        let version = match version.ok_or(Malformed::RequestLine)? {
            b"HTTP/1.1" => Version::Http11,
            b"HTTP/1.0" => Version::Http10,
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
                return Err(Malformed::UnsupportedVersion);
            }
            _ => return Err(Malformed::Version),
        };
        // `CONNECT host:port` is the only form (RFC 9112 3.2.3).
        if method == b"CONNECT" && !is_authority(target) {
            return Err(Malformed::Target);
        }
        // A tunnel to any host, and an echo of cookies, are never offered (RFC 9110 9.3.6, 9.3.8).
        if matches!(method, b"CONNECT" | b"TRACE") {
            return Err(Malformed::MethodNotAllowed);
        }
        Ok(Self { method, target, version })
    }
}

/// Whether the target is `host:port`.
fn is_authority(target: &[u8]) -> bool {
    let Some(colon) = target.iter().rposition(|b| *b == b':') else { return false };
    let (host, port) = target.split_at(colon);
    !host.is_empty() && !host.contains(&b'/') && port.len() > 1 && port.iter().skip(1).all(u8::is_ascii_digit)
}

/// How the end of a body is determined (RFC 9112 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// A request head.
#[derive(Debug)]
pub struct Request {
    method: Span,
    target: Span,
    pub version: Version,
    pub headers: Headers,
    /// How the end of the body is determined.
    pub framing: Framing,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// Its lines end with a bare LF: the connection is not reused.
    bare_lf: bool,
    /// Treated as a GET, whatever its request line says.
    as_get: bool,
}

impl Request {
    /// Parses a complete head, as found by [`HeadScanner`].
    pub fn parse(head: &[u8], names: HeaderNamePolicy) -> Result<Self, Malformed> {
        let bytes: Box<[u8]> = Box::from(head);
        let (first, next) = split_first_line(&bytes).ok_or(Malformed::RequestLine)?;
        let line = RequestLine::parse(first)?;
        let lf_alone = first.len() + 1 == next;
        let (method, target, version) =
            (Span::locate(&bytes, line.method), Span::locate(&bytes, line.target), line.version);
        let headers = Headers::parse(bytes, next, names)?;
        let framing = request_framing(&headers, version)?;
        headers.check_singletons()?;
        let expects_continue = match headers.first(HeaderName::Expect) {
            Some(value) if value.eq_ignore_ascii_case(b"100-continue") => version == Version::Http11,
            Some(value) if !value.is_empty() => return Err(Malformed::Expect),
            _ => false,
        };
        let request =
            Self { method, target, version, headers, framing, expects_continue, bare_lf: lf_alone, as_get: false };
        if request.headers.all(HeaderName::Host).count() > 1 {
            return Err(Malformed::DuplicateHost);
        }
        if request.headers.first(HeaderName::Host).is_none() && version == Version::Http11 {
            return Err(Malformed::HostMissing);
        }
        Ok(request)
    }

    /// Keeps the first line of a malformed request, for the log.
    pub fn from_malformed(bytes: &[u8]) -> Self {
        const LINE_BYTES_MAX: usize = 1024;
        let bytes = bytes.trim_ascii_start();
        let end = bytes.iter().position(|b| matches!(b, b'\r' | b'\n')).unwrap_or(bytes.len()).min(LINE_BYTES_MAX);
        let line = bytes.get(..end).unwrap_or_default();
        Self {
            method: Span::default(),
            target: Span::default(),
            version: Version::Http11,
            headers: Headers { bytes: [line, b"\r\n"].concat().into(), lines: Vec::new() },
            framing: Framing::None,
            expects_continue: false,
            bare_lf: false,
            as_get: false,
        }
    }

    pub fn method(&self) -> &[u8] {
        if self.as_get {
            return b"GET";
        }
        self.method.slice(&self.headers.bytes)
    }

    /// Returns a GET without a body and with the same headers.
    pub fn to_bodyless_get(&self) -> Self {
        let headers = self.headers.clone();
        Self { headers, framing: Framing::None, expects_continue: false, as_get: true, ..*self }
    }

    /// Turns the request into a GET, as for error pages.
    pub fn become_get(&mut self) {
        self.as_get = true;
    }

    pub fn target(&self) -> &[u8] {
        self.target.slice(&self.headers.bytes)
    }

    /// Sets Host to the authority of an absolute-form target, as a proxy must (RFC 9112 3.2.2): all later readers of
    /// Host, upstreams included, see the name that the request was routed by.
    pub fn set_host_from_target(&mut self) {
        let target = self.target();
        let Some(start) = target.windows(3).position(|part| part == b"://").map(|at| at + 3) else { return };
        let rest = target.get(start..).unwrap_or_default();
        let len = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
        let host = Span { start: self.target.start + start as u32, len: len as u32 };
        self.headers.set_value(HeaderName::Host, host);
    }

    /// Returns the request line without its line end.
    pub fn request_line(&self) -> &[u8] {
        split_first_line(&self.headers.bytes).map_or(&[], |(line, _)| line)
    }

    /// Returns the bytes of the head.
    pub fn len(&self) -> usize {
        self.headers.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.headers.bytes.is_empty()
    }

    /// Whether the client keeps the connection open (RFC 9112 9.3).
    pub fn keeps_alive(&self) -> bool {
        keeps_alive(&self.headers, self.version) && !self.bare_lf
    }

    /// Whether the Upgrade header applies: not in HTTP/1.0, nor without `Connection: upgrade` (RFC 9110 7.8).
    pub fn may_upgrade(&self) -> bool {
        self.version == Version::Http11 && self.headers.has_token(HeaderName::Connection, "upgrade")
    }
}

/// Returns the first line without its line end, and the offset of the next one.
fn split_first_line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = find_lf(bytes)?;
    let line = bytes.get(..end)?;
    Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1))
}

fn keeps_alive(headers: &Headers, version: Version) -> bool {
    if headers.has_token(HeaderName::Connection, "close") {
        return false;
    }
    version == Version::Http11 || headers.has_token(HeaderName::Connection, "keep-alive")
}

/// RFC 9112 6.3, except that ambiguous cases are rejected.
fn request_framing(headers: &Headers, version: Version) -> Result<Framing, Malformed> {
    match declared_framing(headers, version)? {
        Some(framing) => Ok(framing),
        None => Ok(Framing::None),
    }
}

/// Returns the framing that Content-Length or Transfer-Encoding declares; `None` if neither is there.
fn declared_framing(headers: &Headers, version: Version) -> Result<Option<Framing>, Malformed> {
    let mut codings = headers.all(HeaderName::TransferEncoding);
    let mut lengths = headers.all(HeaderName::ContentLength);
    let (coding, length) = (codings.next(), lengths.next());
    if lengths.next().is_some() {
        return Err(Malformed::DuplicateContentLength);
    }
    match (coding, length) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(Malformed::LengthAndTransferEncoding),
        (None, Some(length)) => Ok(Some(Framing::Length(parse_content_length(length)?))),
        (Some(_), None) if version == Version::Http10 => Err(Malformed::TransferEncodingInHttp10),
        (Some(_), None) if codings.next().is_some() => Err(Malformed::TransferEncoding),
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Some(Framing::Chunked)),
        (Some(coding), None) if coding.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b',' | b' ' | b'-')) => {
            let mut all = tokens(coding);
            match all.all(|token| token.eq_ignore_ascii_case(b"chunked")) {
                true => Err(Malformed::TransferEncoding),
                false => Err(Malformed::UnknownTransferEncoding),
            }
        }
        (Some(_), None) => Err(Malformed::TransferEncoding),
    }
}

/// Parses `1*DIGIT` (RFC 9110 8.6) below 2^63. `str::parse` would accept a sign.
fn parse_content_length(value: &[u8]) -> Result<u64, Malformed> {
    if value.is_empty() {
        return Err(Malformed::ContentLength);
    }
    value
        .iter()
        .try_fold(0u64, |sum, digit| {
            let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
            sum.checked_mul(10)?.checked_add(digit).filter(|sum| *sum <= i64::MAX as u64)
        })
        .ok_or(Malformed::ContentLength)
}

/// A response head.
#[derive(Debug)]
pub struct Response {
    pub version: Version,
    pub status: u16,
    reason: Span,
    pub headers: Headers,
    declared: Option<Framing>,
}

impl Response {
    /// Parses a complete head, as found by [`HeadScanner`].
    pub fn parse(head: &[u8]) -> Result<Self, Malformed> {
        let bytes: Box<[u8]> = Box::from(head);
        let (line, next) = split_first_line(&bytes).ok_or(Malformed::StatusLine)?;
        let (version, rest) = match line {
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1', b' ', rest @ ..] => (Version::Http11, rest),
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0', b' ', rest @ ..] => (Version::Http10, rest),
            _ => return Err(Malformed::StatusLine),
        };
        // status-line = HTTP-version SP 3DIGIT SP [ reason ] (RFC 9112 4); the last space is often missing.
        let (code, reason) = match rest {
            [a @ b'1'..=b'9', b, c] => ([*a, *b, *c], [].as_slice()),
            [a @ b'1'..=b'9', b, c, b' ', reason @ ..] => ([*a, *b, *c], reason),
            _ => return Err(Malformed::StatusLine),
        };
        let is_text = reason.iter().all(|b| matches!(b, b'\t' | b' '..=b'~' | 0x80..));
        if !code.iter().all(u8::is_ascii_digit) || !is_text {
            return Err(Malformed::StatusLine);
        }
        let status = code.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
        let reason = Span::locate(&bytes, reason);
        let headers = Headers::parse(bytes, next, HeaderNamePolicy::Plain)?;
        let declared = match declared_framing(&headers, version) {
            // Such a response has no body, so the declared framing does not matter.
            Err(_) if is_bodyless(status) => None,
            declared => declared?,
        };
        Ok(Self { version, status, reason, headers, declared })
    }

    pub fn reason(&self) -> &[u8] {
        self.reason.slice(&self.headers.bytes)
    }

    /// Returns how the end of the body is determined (RFC 9112 6.3). `to_head`: the response to a HEAD request.
    pub fn framing(&self, to_head: bool) -> Framing {
        if to_head || is_bodyless(self.status) {
            return Framing::None;
        }
        self.declared.unwrap_or(Framing::UntilClose)
    }

    /// Returns Content-Length, whether or not there is a body.
    pub fn content_length(&self) -> Option<u64> {
        match self.declared {
            Some(Framing::Length(length)) => Some(length),
            _ => None,
        }
    }

    /// Whether the upstream keeps the connection open.
    pub fn keeps_alive(&self) -> bool {
        // A 204 that declares a body may send one (RFC 9110 8.6 forbids it): the connection is not reused.
        let declares_body = self.status == 204 && self.declared.is_some();
        keeps_alive(&self.headers, self.version) && !declares_body
    }

    /// Returns the bytes of the head.
    pub fn len(&self) -> usize {
        self.headers.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.headers.bytes.is_empty()
    }
}

/// 1xx, 204 and 304 never have a body.
pub fn is_bodyless(status: u16) -> bool {
    matches!(status, 100..=199 | 204 | 304)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { line_bytes_max: 8192, head_bytes_max: 32768 };

    #[test]
    fn the_first_lf_is_found_at_every_offset() {
        for others in [0, 9, 11, b'\n' | 128, 255] {
            for (length, at) in (0..40).flat_map(|length| (0..=length).map(move |at| (length, at))) {
                let mut bytes = vec![others; length];
                bytes.iter_mut().skip(at).step_by(3).for_each(|b| *b = b'\n');
                assert_eq!(find_lf(&bytes), (at < length).then_some(at));
            }
        }
    }

    fn read(bytes: &[u8]) -> Result<Option<Request>, Malformed> {
        let Some((start, end)) = HeadScanner::for_request().find_end(bytes, LIMITS)? else { return Ok(None) };
        Request::parse(&bytes[start..end], HeaderNamePolicy::Plain).map(Some)
    }

    #[test]
    fn a_head_is_the_same_however_it_is_split() {
        let whole = b"\r\nGET /a?b HTTP/1.1\r\nHost: a\r\nX-Y:  z \t\r\n\r\nrest";
        let mut scanner = HeadScanner::for_request();
        for end in 0..whole.len() - 4 {
            assert_eq!(scanner.find_end(&whole[..end], LIMITS), Ok(None), "{end}");
        }
        let (start, end) = scanner.find_end(whole, LIMITS).unwrap().unwrap();
        let request = Request::parse(&whole[start..end], HeaderNamePolicy::Plain).unwrap();
        assert_eq!((request.method(), request.target()), (&b"GET"[..], &b"/a?b"[..]));
        assert_eq!(request.headers.all_named(b"x_y").next(), Some(&b"z"[..]));
        assert_eq!(&whole[end..], b"rest");
    }

    #[test]
    fn empty_lines_alone_are_incomplete_and_a_second_one_before_a_request_is_rejected() {
        assert!(read(b"\r\n").unwrap().is_none());
        assert!(read(b"\r\n\r\n").unwrap().is_none());
        assert_eq!(read(b"\r\n\r\nG").unwrap_err(), Malformed::RequestLine);
        assert_eq!(read(b"\rG").unwrap_err(), Malformed::Method);
        assert_eq!(read(&b"\r\n".repeat(5000)).unwrap_err(), Malformed::RequestLine);
    }

    #[test]
    fn a_bare_lf_ends_all_lines_of_http_1_0_or_none() {
        let request = read(b"GET / HTTP/1.0\nHost: a\nConnection: keep-alive\n\n").unwrap().unwrap();
        assert_eq!(request.request_line(), b"GET / HTTP/1.0");
        assert!(!request.keeps_alive());
        for bad in [
            "GET / HTTP/1.1\nHost: a\n\n",
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.0\nHost: a\r\n\n",
            "GET / HTTP/1.0\r\nHost: a\n\r\n",
            "\nGET / HTTP/1.0\n\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: y\n\r\n",
        ] {
            assert_eq!(read(bad.as_bytes()).unwrap_err(), Malformed::BareLf, "{bad:?}");
        }
    }

    #[test]
    fn lengths_are_digits_only() {
        for bad in ["+5", "-1", "0x5", "5x", "", "5, 5", "1 0", "9223372036854775808", "99999999999999999999"] {
            assert_eq!(parse_content_length(bad.as_bytes()), Err(Malformed::ContentLength), "{bad}");
        }
        assert_eq!(parse_content_length(b"05"), Ok(5));
        assert_eq!(parse_content_length(b"4294967301"), Ok(4_294_967_301));
    }

    #[test]
    fn a_response_may_end_lines_with_lf_but_not_be_ambiguous() {
        let parse = |bytes: &[u8]| {
            let limits = HeadLimits { line_bytes_max: 8192, head_bytes_max: 8192 };
            let (start, end) = HeadScanner::for_response().find_end(bytes, limits)?.ok_or(Malformed::StatusLine)?;
            Response::parse(&bytes[start..end])
        };
        let response = parse(b"HTTP/1.1 200 OK\nContent-Length: 2\n\n").unwrap();
        assert_eq!((response.status, response.framing(false)), (200, Framing::Length(2)));
        for bad in ["HTTP/1.1 000 Zero\r\n\r\n", "HTTP/1.1 20 OK\r\n\r\n", "HTTP/2.0 200 OK\r\n\r\n", "junk\r\n\r\n"] {
            assert_eq!(parse(bad.as_bytes()).unwrap_err(), Malformed::StatusLine, "{bad}");
        }
        let both = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(parse(both).unwrap_err(), Malformed::LengthAndTransferEncoding);
        let no_content = parse(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n").unwrap();
        assert!(!no_content.keeps_alive());
        assert_eq!(no_content.framing(false), Framing::None);
    }
}
