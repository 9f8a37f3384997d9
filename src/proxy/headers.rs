//! Rewrites message heads in transit: requests on their way to the upstream, responses on their way to the client.
//!
//! Hop-by-hop headers are removed and framing is set here. Configured headers follow those that a client could remove
//! by naming them in `Connection`. `Upgrade` is forwarded as configured, or without configuration for WebSocket.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::config::template::{Builtin, Variable};
use crate::config::{Destination, Location, Matcher, Redirect};
use crate::http1::head::{self, Framing, HeaderName, Malformed, Request, Response, Version};
use crate::http1::uri;
use crate::modules::charset;
use crate::proxy::cookies;
use crate::request::body_relay::TransferCoding;
use crate::request::exchange::Exchange;
use crate::request::response::{self, ContentEncoding, ResponseFraming};
use crate::request::response_headers::{HeaderFilter, weak_etag};
use crate::request::variables;
use crate::runtime::clock;
use crate::tls::SslVariable;

/// Bytes by which a request head for an upstream may exceed what `large_client_header_buffers` allow a client.
const ADDED_BYTES_MAX: usize = 32 * 1024;

/// Response bodies up to this size are copied behind their head.
const BODY_JOIN_BYTES: u64 = 512;

/// `$ssl_client_cert`
const CLIENT_CERTIFICATE: Variable = Variable::Builtin(Builtin::Ssl(SslVariable::ClientCert));

/// A request for an upstream.
pub struct UpstreamRequest {
    /// The head, and behind it what is in memory of the body.
    pub head: Vec<u8>,
    pub head_length: usize,
    pub framing: Framing,
    /// The protocols of `Upgrade`; empty if it is not sent.
    pub offered_protocols: Vec<u8>,
    /// The response has no body: the method is HEAD.
    pub is_head: bool,
    /// The connection can be reused, unless the upstream closes it.
    pub keep_alive: bool,
}

/// Returns the limit of a request head for an upstream.
pub fn head_bytes_max(exchange: &Exchange) -> usize {
    exchange.settings().head_limits.head_bytes_max + ADDED_BYTES_MAX
}

/// Headers that a client can't remove by naming them in `Connection`, since applications rely on them.
fn is_protected(name: &[u8]) -> bool {
    const PREFIXES: [&[u8]; 7] = [b"x-", b"sec-", b"content-", b"if-", b"accept", b"cf-", b"remote-"];
    const NAMES: [&[u8]; 13] = [
        b"host",
        b"cookie",
        b"authorization",
        b"forwarded",
        b"via",
        b"origin",
        b"referer",
        b"range",
        b"user-agent",
        b"cache-control",
        b"pragma",
        b"from",
        b"max-forwards",
    ];
    PREFIXES.iter().any(|prefix| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix)))
        || NAMES.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Whether an application may take one name for the other: CGI turns `-` into `_`.
fn is_same_header(name: &[u8], set: &[u8]) -> bool {
    let same = |a: u8, b: u8| a.eq_ignore_ascii_case(&b) || (b == b'-' && !a.is_ascii_alphanumeric());
    name.len() == set.len() && name.iter().zip(set).all(|(a, b)| same(*a, *b))
}

/// Builds the request for the upstream: request line, configured headers, framing, and the remaining headers of the
/// client. Without a `uri` it is the client's. A buffered `body` is appended, or the buffered start of a longer one.
pub fn build_request(
    exchange: &Exchange,
    uri: Option<&[u8]>,
    body: Option<&[u8]>,
) -> Result<UpstreamRequest, Malformed> {
    let request = &exchange.request;
    let proxy = &exchange.settings().proxy;
    let sends_body = proxy.set_body.is_some() || exchange.forwards_body();
    let framing = match body {
        _ if !sends_body => Framing::None,
        Some(body) => Framing::Length(body.len() as u64),
        None => request.framing,
    };
    let method = proxy.method.as_ref().map(|method| variables::value(method, exchange));
    let method = method.as_deref().filter(|method| !method.is_empty()).unwrap_or(request.method());
    if !method.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
        return Err(Malformed::Method);
    }
    let mut out = Vec::with_capacity(request.len() + 256);
    out.extend_from_slice(method);
    out.push(b' ');
    match uri {
        // Encoded: a URI from variables must stay one word of one line.
        Some(uri) => uri::encode_url(uri, &mut out),
        None => out.extend_from_slice(&exchange.uri.raw),
    }
    out.push(b' ');
    out.extend_from_slice(proxy.version.as_str().as_bytes());
    out.extend_from_slice(b"\r\n");
    let HopHeaders { upgrade, connection } = write_configured_headers(exchange, proxy.version, &mut out)?;
    if !upgrade.is_empty() {
        // The handshake of WebSocket is a GET without a body (RFC 6455 4.1); others may have one, as that of Docker has.
        let is_websocket = head::tokens(&upgrade).any(|token| token.eq_ignore_ascii_case(b"websocket"));
        if is_websocket && !matches!(request.framing, Framing::None | Framing::Length(0)) {
            return Err(Malformed::WebSocketWithBody);
        }
        if request.headers.all(HeaderName::WebSocketKey).count() > 1 {
            return Err(Malformed::DuplicateWebSocketKey);
        }
        response::write_header(b"Upgrade", &upgrade, &mut out);
    }
    if !connection.is_empty() {
        response::write_header(b"Connection", &connection, &mut out);
    }
    match framing {
        Framing::Length(length) => response::write_content_length(length, &mut out),
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Framing::None | Framing::UntilClose => {}
    }
    if proxy.pass_request_headers {
        write_client_headers(exchange, &mut out);
    }
    out.extend_from_slice(b"\r\n");
    let head_length = out.len();
    let buffered = body.filter(|_| sends_body);
    out.extend_from_slice(buffered.unwrap_or_default());
    if framing == Framing::Chunked {
        out.extend_from_slice(&exchange.body.prefix);
        TransferCoding::Chunked.frame(head_length, &mut out);
    }
    let closes = head::tokens(&connection).any(|token| token.eq_ignore_ascii_case(b"close"));
    Ok(UpstreamRequest {
        is_head: method == b"HEAD",
        head: out,
        head_length,
        framing: if buffered.is_some() { Framing::None } else { framing },
        offered_protocols: upgrade,
        keep_alive: !closes && (proxy.version == Version::Http11 || connection.eq_ignore_ascii_case(b"keep-alive")),
    })
}

/// Values of the hop-by-hop headers; empty ones are not sent.
#[derive(Default)]
struct HopHeaders {
    upgrade: Vec<u8>,
    connection: Vec<u8>,
}

/// Writes `Host` and the headers of `proxy_set_header`, but for the hop-by-hop ones, which it returns.
fn write_configured_headers(exchange: &Exchange, version: Version, out: &mut Vec<u8>) -> Result<HopHeaders, Malformed> {
    let set_headers = &exchange.settings().proxy.set_headers;
    let is_set = |kind: HeaderName| set_headers.iter().any(|set| set.kind == kind);
    if !is_set(HeaderName::Host) {
        let host = exchange.proxy_host().map_or("", |(host, _)| host);
        response::write_header(b"Host", host.as_bytes(), out);
    }
    let mut hop = HopHeaders::default();
    let mut value = Vec::new();
    let bytes_max = head_bytes_max(exchange);
    for set in set_headers.iter() {
        if out.len() > bytes_max {
            break; // a long value of the client's, repeated by many directives
        }
        value.clear();
        variables::write(&set.value, exchange, &mut value);
        let is_folded = head::has_line_break(&value);
        if is_folded && (set.kind != HeaderName::Other || !is_folded_by_certificate(exchange, &value)) {
            return Err(Malformed::Header);
        }
        match set.kind {
            _ if is_folded => head::write_folded_header(&set.name, &value, out),
            // Framing is not configurable.
            HeaderName::ContentLength
            | HeaderName::TransferEncoding
            | HeaderName::Http2Settings
            | HeaderName::Expect => {}
            _ if value.is_empty() => {}
            // A subrequest never upgrades.
            HeaderName::Upgrade | HeaderName::Connection if exchange.subrequest_of.is_some() => {}
            HeaderName::Upgrade => hop.upgrade = offered_protocols(&value, &exchange.request),
            HeaderName::Connection if hop.connection.is_empty() => hop.connection = std::mem::take(&mut value),
            HeaderName::Connection => {}
            _ => response::write_header(&set.name, &value, out),
        }
    }
    // WebSocket is forwarded without configuration.
    if !is_set(HeaderName::Upgrade)
        && !is_set(HeaderName::Connection)
        && version == Version::Http11
        && exchange.subrequest_of.is_none()
    {
        hop.upgrade = offered_protocols(b"websocket", &exchange.request);
        if !hop.upgrade.is_empty() {
            hop.connection = b"Upgrade".to_vec();
        }
    }
    if version == Version::Http10 && !is_set(HeaderName::Connection) {
        hop.connection = b"close".to_vec();
    }
    Ok(hop)
}

/// Whether all line breaks of a value are in `$ssl_client_cert`, which is folded, as in nginx.
fn is_folded_by_certificate(exchange: &Exchange, value: &[u8]) -> bool {
    let mut certificate = Vec::new();
    variables::write_variable(&CLIENT_CERTIFICATE, exchange, &mut certificate, 0);
    let mut rest = value;
    while let Some(at) = rest.windows(certificate.len().max(1)).position(|part| part == certificate) {
        let (before, behind) = rest.split_at(at);
        if head::has_line_break(before) {
            return false;
        }
        rest = behind.get(certificate.len()..).unwrap_or_default();
    }
    !head::has_line_break(rest)
}

/// Writes the client's headers that are neither hop-by-hop nor replaced by configuration.
fn write_client_headers(exchange: &Exchange, out: &mut Vec<u8>) {
    let headers = &exchange.request.headers;
    let set_headers = &exchange.settings().proxy.set_headers;
    let named: Vec<&[u8]> = headers.all(HeaderName::Connection).flat_map(head::tokens).collect();
    for header in headers.iter() {
        let replaced = matches!(header.kind, HeaderName::Host | HeaderName::ContentLength | HeaderName::Expect);
        let named = || named.iter().any(|name| name.eq_ignore_ascii_case(header.name)) && !is_protected(header.name);
        let set = || set_headers.iter().any(|set| is_same_header(header.name, &set.name));
        if !(replaced || header.kind.is_hop_by_hop() || named() || set()) {
            response::write_header(header.name, header.value, out);
        }
    }
}

/// The protocols of `value` to offer, each once: those that the client requests with HTTP/1.1 and `Connection: upgrade`
/// (RFC 9110 7.8). WebSocket only with GET (RFC 6455 4.1); `h2c` never, since HTTP/2 would bypass all rules.
fn offered_protocols(value: &[u8], request: &Request) -> Vec<u8> {
    if !request.may_upgrade() {
        return Vec::new();
    }
    let asked = request.headers.all(HeaderName::Upgrade).flat_map(head::tokens);
    let mut asked: BTreeSet<Vec<u8>> = asked.map(<[u8]>::to_ascii_lowercase).collect();
    asked.retain(|token| !token.starts_with(b"h2c") && (token != b"websocket" || request.method() == b"GET"));
    let offered: Vec<&[u8]> = head::tokens(value).filter(|token| asked.remove(&token.to_ascii_lowercase())).collect();
    offered.join(&b", "[..])
}

/// The head of an interim response (RFC 9110 15.2).
pub fn interim_response(head: &Response) -> Vec<u8> {
    let mut out = Vec::with_capacity(head.len());
    response::write_status_line(head.status, head.reason(), &mut out);
    let passed =
        head.headers.iter().filter(|field| !field.kind.is_hop_by_hop() && field.kind != HeaderName::ContentLength);
    passed.for_each(|field| response::write_header(field.name, field.value, &mut out));
    out.extend_from_slice(b"\r\n");
    out
}

/// The upstream's headers for the client.
fn forwarded_headers<'h>(exchange: &'h Exchange, head: &'h Response) -> impl Iterator<Item = head::Header<'h>> {
    let proxy = &exchange.settings().proxy;
    let listed = |list: &[Box<[u8]>], name: &[u8]| list.iter().any(|known| known.eq_ignore_ascii_case(name));
    head.headers.iter().filter(move |field| {
        let hidden = match field.kind {
            HeaderName::Server | HeaderName::Date | HeaderName::Accel | HeaderName::ProxyAuth => {
                !listed(&proxy.passed_headers, field.name)
            }
            HeaderName::Upgrade => head.status != 426, // it says what to ask for (RFC 9110 15.5.22)
            kind if kind.is_hop_by_hop() => true,
            HeaderName::Status => true,
            _ => field.name.eq_ignore_ascii_case(b"x-pad") && !listed(&proxy.passed_headers, field.name),
        };
        let named = || {
            head.headers.all(HeaderName::Connection).flat_map(head::tokens).any(|n| n.eq_ignore_ascii_case(field.name))
        };
        !hidden
            && !listed(&proxy.hidden_headers, field.name)
            && (is_protected(field.name) || field.kind == HeaderName::Upgrade || !named())
    })
}

/// The head of a response for the client.
pub fn response_head(exchange: &Exchange, head: &Response, framing: ResponseFraming) -> Vec<u8> {
    let proxy = &exchange.settings().proxy;
    let passes = |name: &str| proxy.passed_headers.iter().any(|known| known.eq_ignore_ascii_case(name.as_bytes()));
    // A short body is copied behind it.
    let body = head.content_length().filter(|length| *length <= BODY_JOIN_BYTES).unwrap_or(0);
    let mut out = Vec::with_capacity(head.len() + 128 + body as usize);
    let (status, reason) = match exchange.overrides.status {
        Some(status) => (status, response::reason_phrase(status).as_bytes()),
        None => (head.status, head.reason()),
    };
    match (passes("server"), passes("date")) {
        (false, false) => response::write_start(exchange, status, reason, &mut out),
        (true, false) => {
            response::write_status_line(status, reason, &mut out);
            response::write_date(&mut out);
        }
        (server, _) => {
            response::write_status_line(status, reason, &mut out);
            if !server {
                response::write_server(exchange, &mut out);
            }
        }
    }
    // Only `expires` reads it.
    let expires = exchange.settings().optional.expires.as_ref();
    let modified = expires.and_then(|_| head.headers.first(HeaderName::LastModified)).and_then(clock::parse_http_date);
    let mut added = HeaderFilter::new(exchange, status, modified);
    let packed = framing.content_encoding == ContentEncoding::Gzip;
    if packed {
        added.weaken_etag();
    }
    for field in forwarded_headers(exchange, head) {
        match field.kind {
            kind if added.replace(kind, &mut out) => {}
            HeaderName::ContentLength => {
                let told = !framing.chunked && !packed && status != 204;
                if let Some(length) = head.content_length().filter(|_| told) {
                    response::write_content_length(length, &mut out);
                }
            }
            HeaderName::ContentType => {
                let told = charset::content_type(exchange, status, field.value);
                response::write_header(field.name, told.as_deref().unwrap_or(field.value), &mut out);
            }
            HeaderName::Location => {
                response::write_header(field.name, &rewrite_location(exchange, field.value), &mut out)
            }
            HeaderName::Refresh => {
                response::write_header(field.name, &rewrite_refresh(exchange, field.value), &mut out)
            }
            HeaderName::SetCookie => {
                response::write_header(field.name, &rewrite_cookie(exchange, field.value), &mut out)
            }
            HeaderName::Etag if packed => {
                if let Some(weak) = weak_etag(field.value) {
                    response::write_header(field.name, &weak, &mut out);
                }
            }
            _ if packed && field.name.eq_ignore_ascii_case(b"accept-ranges") => {}
            _ => response::write_header(field.name, field.value, &mut out),
        }
    }
    response::write_framing(exchange, framing, &mut out);
    added.finish(&mut out);
    response::write_content_encoding(framing, &mut out);
    out.extend_from_slice(b"\r\n");
    out
}

/// Rewrites `Set-Cookie` (`proxy_cookie_path` and the like).
fn rewrite_cookie<'v>(exchange: &Exchange, value: &'v [u8]) -> Cow<'v, [u8]> {
    match &exchange.settings().optional.cookies {
        Some(rules) => cookies::rewrite(rules, value, exchange),
        None => Cow::Borrowed(value),
    }
}

/// Applies `proxy_redirect` to `Location`.
fn rewrite_location(exchange: &Exchange, value: &[u8]) -> Vec<u8> {
    match apply_proxy_redirect(exchange, value) {
        Some(value) if value.starts_with(b"/") => response::absolute_location(exchange, &value),
        Some(value) => value,
        None => value.to_vec(),
    }
}

/// Applies `proxy_redirect` to the URL in `Refresh`: `5; url=http://...`.
fn rewrite_refresh(exchange: &Exchange, value: &[u8]) -> Vec<u8> {
    let Some(at) = value.windows(4).position(|part| part.eq_ignore_ascii_case(b"url=")) else { return value.to_vec() };
    let (before, url) = value.split_at(at + 4);
    match apply_proxy_redirect(exchange, url) {
        Some(url) => [before, &url].concat(),
        None => value.to_vec(),
    }
}

/// Applies the first rule that matches.
fn apply_proxy_redirect(exchange: &Exchange, value: &[u8]) -> Option<Vec<u8>> {
    let pass = exchange.proxy_pass()?;
    exchange.settings().proxy.redirects.iter().find_map(|rule| match rule {
        Redirect::Default => {
            let Destination::Upstream(_) = pass.destination else { return None };
            let path = exchange.location.as_ref().map_or("/", |location| location_path(location));
            let (from, to) = match &pass.uri {
                Some(uri) => (format!("{}{uri}", pass.url_base), path),
                None => (format!("{}/", pass.url_base), "/"),
            };
            value.strip_prefix(from.as_bytes()).map(|rest| [to.as_bytes(), rest].concat())
        }
        Redirect::Prefix { from, to } => {
            let rest = value.strip_prefix(variables::value(from, exchange).as_slice())?;
            Some([&variables::value(to, exchange), rest].concat())
        }
        Redirect::Pattern { expression, to } => {
            let captures = expression.pattern.captures(value)?;
            exchange.set_captures(expression, captures);
            Some(variables::value(to, exchange))
        }
    })
}

/// The path of a location in `proxy_redirect default`.
fn location_path(location: &Location) -> &str {
    match location.matcher {
        Matcher::Exact | Matcher::Prefix { .. } => &location.path,
        Matcher::Pattern(_) | Matcher::Named => "/",
    }
}

/// The head of a 101: the protocol, and the other headers of the upstream.
pub fn switching_protocols(exchange: &Exchange, head: &Response, token: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(head.len() + 128);
    let reason = if head.reason().is_empty() { response::reason_phrase(101).as_bytes() } else { head.reason() };
    response::write_start(exchange, 101, reason, &mut out);
    response::write_header(b"Upgrade", token, &mut out);
    response::write_header(b"Connection", b"upgrade", &mut out);
    for field in forwarded_headers(exchange, head) {
        match field.kind {
            HeaderName::ContentLength => {}
            HeaderName::SetCookie => {
                response::write_header(field.name, &rewrite_cookie(exchange, field.value), &mut out)
            }
            _ => response::write_header(field.name, field.value, &mut out),
        }
    }
    HeaderFilter::new(exchange, 101, None).finish(&mut out);
    out.extend_from_slice(b"\r\n");
    out
}
