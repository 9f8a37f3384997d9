//! Responses generated here, and what all response heads have in common.

use std::borrow::Cow;
use std::io::Write;
use std::sync::Arc;

use crate::config::ReturnBody;
pub use crate::http1::head::write_header;
use crate::http1::uri;
use crate::request::exchange::Exchange;
use crate::request::response_headers::HeaderFilter;
use crate::request::variables;
use crate::runtime::clock;

/// A response generated here rather than by an upstream or from a file.
#[derive(Debug, Default)]
pub struct LocalResponse {
    pub status: u16,
    pub content_type: Option<Vec<u8>>,
    /// A URL that is made absolute when it is sent, as the settings say.
    pub location: Option<Vec<u8>>,
    /// `Allow` of a 405, where it differs from that of a proxy.
    pub allow: Option<&'static [u8]>,
    /// Header lines that are written already.
    pub header_lines: Vec<u8>,
    pub headers: Vec<(&'static [u8], Vec<u8>)>,
    /// An error page or redirect of this program, which `error_page` may replace.
    pub is_page: bool,
    pub body: Vec<u8>,
}

/// The content coding that is applied on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentEncoding {
    /// None, whatever the client accepts.
    Plain,
    /// None for this client; another one may get a coding.
    Varies,
    Gzip,
}

/// How a response is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseFraming {
    pub keep_alive: bool,
    pub chunked: bool,
    /// Trailers follow the body.
    pub has_trailers: bool,
    pub content_encoding: ContentEncoding,
}

/// `Allow` of a proxy. It forwards any method but CONNECT and TRACE.
const METHODS: &[u8] = b"GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH";

/// The reason phrase of a status (RFC 9110 15).
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Moved Temporarily",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Time-out",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Request Entity Too Large",
        414 => "Request-URI Too Large",
        415 => "Unsupported Media Type",
        416 => "Requested Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Temporarily Unavailable",
        504 => "Gateway Time-out",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "",
    }
}

/// The title of a status page, as in nginx.
fn page_title(status: u16) -> &'static str {
    match status {
        302 => "Found",
        401 => "Authorization Required",
        _ => reason_phrase(status),
    }
}

/// The message of an error of the connection rather than of the request. `error_page` knows it by a status of its own;
/// the client gets 400.
pub fn connection_error(status: u16) -> Option<&'static str> {
    match status {
        SSL_CERTIFICATE_ERROR => Some("The SSL certificate error"),
        SSL_CERTIFICATE_REQUIRED => Some("No required SSL certificate was sent"),
        HTTP_TO_HTTPS => Some("The plain HTTP request was sent to HTTPS port"),
        _ => None,
    }
}

pub const SSL_CERTIFICATE_ERROR: u16 = 495;
pub const SSL_CERTIFICATE_REQUIRED: u16 = 496;
pub const HTTP_TO_HTTPS: u16 = 497;

impl LocalResponse {
    /// The page of a status. It repeats nothing of the request.
    pub fn page(status: u16, tokens: bool) -> Self {
        if let Some(fault) = connection_error(status) {
            let (text, name) = (reason_phrase(400), server_token(tokens));
            let body = format!(
                "<html>\r\n<head><title>400 {fault}</title></head>\r\n<body>\r\n<center><h1>400 {text}</h1></center>\r\n\
                 <center>{fault}</center>\r\n<hr><center>{name}</center>\r\n</body>\r\n</html>\r\n"
            );
            let content_type = Some(b"text/html".to_vec());
            return Self { status, is_page: true, content_type, body: body.into_bytes(), ..Self::default() };
        }
        let mut response = Self { status, is_page: status >= 300, ..Self::default() };
        if status >= 300 && !crate::http1::head::is_bodyless(status) && !reason_phrase(status).is_empty() {
            let (text, name) = (page_title(status), server_token(tokens));
            let _ = write!(
                response.body,
                "<html>\r\n<head><title>{status} {text}</title></head>\r\n<body>\r\n<center><h1>{status} {text}</h1></center>\r\n\
                 <hr><center>{name}</center>\r\n</body>\r\n</html>\r\n"
            );
            response.content_type = Some(b"text/html".to_vec());
        }
        response
    }

    /// A redirect to `url`.
    pub fn redirect(exchange: &Exchange, status: u16, url: &[u8]) -> Self {
        let mut response = Self::page(status, exchange.settings().server_tokens);
        response.location = Some(url.to_vec());
        response
    }

    /// A redirect to the same path with a slash at its end.
    pub fn add_slash(exchange: &Exchange) -> Self {
        let mut url = Vec::new();
        uri::encode_path(&exchange.uri.path, &mut url);
        // `//host/` would be another host (`merge_slashes off`).
        let doubled = url.iter().take_while(|b| **b == b'/').count().saturating_sub(1);
        url.drain(..doubled);
        url.push(b'/');
        if let Some(args) = &exchange.uri.args {
            url.push(b'?');
            url.extend_from_slice(args);
        }
        Self::redirect(exchange, 301, &url)
    }

    /// The response of a `return`.
    pub fn from_return(exchange: &Exchange, status: u16, what: &ReturnBody) -> Self {
        match what {
            ReturnBody::Page if matches!(status, 200..=299) && !crate::http1::head::is_bodyless(status) => {
                let content_type = Some(content_type(exchange).to_vec());
                Self { status, content_type, ..Self::default() }
            }
            ReturnBody::Page => Self::page(status, exchange.settings().server_tokens),
            ReturnBody::Redirect(url) => Self::redirect(exchange, status, &variables::value(url, exchange)),
            // An empty text gets the page of the status.
            ReturnBody::Text(text) if status >= 400 && text.as_text() == Some(b"") => {
                Self::page(status, exchange.settings().server_tokens)
            }
            ReturnBody::Text(text) => Self {
                status,
                content_type: Some(content_type(exchange).to_vec()),
                body: variables::value(text, exchange),
                ..Self::default()
            },
        }
    }

    /// The whole response for a connection without a request, which is closed after it.
    pub fn without_exchange(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        write_status_line(self.status, reason_phrase(self.status).as_bytes(), &mut out);
        write_date(&mut out);
        write_header(b"Content-Type", b"text/html", &mut out);
        write_content_length(self.body.len() as u64, &mut out);
        out.extend_from_slice(b"Connection: close\r\n\r\n");
        out.extend_from_slice(&self.body);
        out
    }

    /// Writes the head.
    pub fn head(&self, exchange: &Exchange, framing: ResponseFraming) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        write_start(exchange, self.status, reason_phrase(self.status).as_bytes(), &mut out);
        if !crate::http1::head::is_bodyless(self.status) {
            if let Some(content_type) = self.content_type.as_ref().filter(|kind| !kind.is_empty()) {
                write_header(b"Content-Type", content_type, &mut out);
            }
            if framing.content_encoding != ContentEncoding::Gzip && !framing.chunked {
                write_content_length(self.body.len() as u64, &mut out);
            }
        }
        let location = self.location.as_ref().map(|url| absolute_location(exchange, url));
        // As in nginx: a `Location` that was made absolute comes before the headers of the connection.
        let is_made = self.location != location;
        if let Some(location) = location.as_ref().filter(|_| is_made) {
            write_header(b"Location", location, &mut out);
        }
        write_framing(exchange, framing, &mut out);
        if let Some(location) = location.as_ref().filter(|_| !is_made) {
            write_header(b"Location", location, &mut out);
        }
        if self.status == 405 {
            write_header(b"Allow", self.allow.unwrap_or(METHODS), &mut out);
        }
        out.extend_from_slice(&self.header_lines);
        self.headers.iter().for_each(|(name, value)| write_header(name, value, &mut out));
        HeaderFilter::new(exchange, self.status, None).finish(&mut out);
        write_content_encoding(framing, &mut out);
        out.extend_from_slice(b"\r\n");
        out
    }
}

/// The media type by extension, in any case.
pub fn content_type(exchange: &Exchange) -> Arc<[u8]> {
    if let Some(given) = &exchange.overrides.content_type {
        return given.as_slice().into();
    }
    let settings = exchange.settings();
    let name = exchange.uri.path.rsplit(|b| *b == b'/').next().unwrap_or_default();
    let extension = name.iter().rposition(|b| *b == b'.').and_then(|dot| name.get(dot + 1..)).unwrap_or_default();
    let known = match extension.iter().any(u8::is_ascii_uppercase) {
        true => settings.files.types.get(extension.to_ascii_lowercase().as_slice()),
        false => settings.files.types.get(extension),
    };
    known.cloned().unwrap_or_else(|| variables::value(&settings.default_type, exchange).into())
}

/// `Server` (`server_tokens`).
fn server_token(tokens: bool) -> &'static str {
    if tokens { concat!("smolgate/", env!("CARGO_PKG_VERSION")) } else { "smolgate" }
}

/// Writes the status line, `Server` and `Date`.
pub fn write_start(exchange: &Exchange, status: u16, reason: &[u8], out: &mut Vec<u8>) {
    write_status_line(status, reason, out);
    write_server(exchange, out);
    write_date(out);
}

/// Writes `Server` (RFC 9110 10.2.4).
pub fn write_server(exchange: &Exchange, out: &mut Vec<u8>) {
    write_header(b"Server", server_token(exchange.settings().server_tokens).as_bytes(), out);
}

/// Writes the status line alone.
pub fn write_status_line(status: u16, reason: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend([100, 10, 1].map(|unit| b'0' + (status / unit % 10) as u8));
    out.push(b' ');
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

/// Writes `Content-Length` (RFC 9110 8.6).
pub fn write_content_length(length: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Content-Length: ");
    variables::write_number(length, 1, out);
    out.extend_from_slice(b"\r\n");
}

/// Writes `Date` (RFC 9110 6.6.1).
pub fn write_date(out: &mut Vec<u8>) {
    out.extend_from_slice(b"Date: ");
    clock::write_http_date(out);
    out.extend_from_slice(b"\r\n");
}

/// Writes the headers for framing and connection, and behind them those that phases have added.
pub fn write_framing(exchange: &Exchange, framing: ResponseFraming, out: &mut Vec<u8>) {
    let settings = exchange.settings();
    if framing.chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    if framing.keep_alive {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    } else {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    if let Some(secs) = settings.keepalive_header_secs.filter(|_| framing.keep_alive) {
        let _ = write!(out, "Keep-Alive: timeout={secs}\r\n");
    }
    if framing.content_encoding != ContentEncoding::Plain
        && settings.optional.gzip.as_ref().is_some_and(|gzip| gzip.vary)
    {
        out.extend_from_slice(b"Vary: Accept-Encoding\r\n");
    }
    exchange.overrides.headers.iter().for_each(|(name, value)| write_header(name, value, out));
}

/// Writes `Content-Encoding`, which nginx has behind the other headers.
pub fn write_content_encoding(framing: ResponseFraming, out: &mut Vec<u8>) {
    if framing.content_encoding == ContentEncoding::Gzip {
        out.extend_from_slice(b"Content-Encoding: gzip\r\n");
    }
}

/// A URL for `Location`: control characters are encoded, and a path gets scheme, host and port.
pub fn absolute_location(exchange: &Exchange, url: &[u8]) -> Vec<u8> {
    let safe: Cow<'_, [u8]> = if url.iter().any(u8::is_ascii_control) {
        let mut safe = Vec::new();
        for part in url.chunk_by(|a, b| a.is_ascii_control() == b.is_ascii_control()) {
            if part.first().is_some_and(u8::is_ascii_control) {
                uri::encode_path(part, &mut safe);
            } else {
                safe.extend_from_slice(part);
            }
        }
        safe.into()
    } else {
        url.into()
    };
    let settings = exchange.settings();
    if !safe.starts_with(b"/") || !settings.absolute_redirect {
        return safe.into_owned();
    }
    let name = exchange.server.name.as_str();
    let local = exchange.client.local.host();
    let host = match exchange.uri.host.as_str() {
        _ if settings.server_name_in_redirect && !name.is_empty() => name,
        "" => &local,
        host => host,
    };
    let scheme = exchange.client.scheme();
    let usual = if scheme == "https" { 443 } else { 80 };
    let mut out = format!("{scheme}://{host}").into_bytes();
    match exchange.client.local.port() {
        Some(port) if settings.port_in_redirect && port != usual => drop(write!(out, ":{port}")),
        _ => {}
    }
    out.extend_from_slice(&safe);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_all_their_digits() {
        for number in [0, 9, 10, 100, 1_234_567_890, u64::MAX] {
            let mut out = Vec::new();
            write_content_length(number, &mut out);
            assert_eq!(out, format!("Content-Length: {number}\r\n").into_bytes());
        }
        for status in [0, 7, 99, 200, 999] {
            let mut out = Vec::new();
            write_status_line(status, b"x", &mut out);
            assert_eq!(out, format!("HTTP/1.1 {status:03} x\r\n").into_bytes());
        }
    }
}
