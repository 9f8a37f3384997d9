//! Evaluates templates and variables for one request.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use crate::config::Geo;
use crate::config::template::{Builtin, ConnectionState, Segment, Template, Variable};
use crate::http1::basic_auth::Credentials;
use crate::http1::head::{self, HeaderName, Headers};
use crate::http1::{uri, x_forwarded_for};
use crate::request::exchange::{Attempt, Exchange};
use crate::request::limit_zones::LimitStatus;
use crate::runtime::clock;
use crate::runtime::metrics::{self, Metric};
use crate::runtime::socket::Addr;

/// Nesting of maps.
const DEPTH_MAX: u8 = 32;
/// Longer values are truncated: nested maps could repeat a header many times.
const VALUE_BYTES_MAX: usize = 64 * 1024;

/// Returns the value of `template`.
pub fn value(template: &Template, exchange: &Exchange) -> Vec<u8> {
    match template.as_text() {
        Some(text) => text.to_vec(),
        None => {
            let mut out = Vec::new();
            write(template, exchange, &mut out);
            out
        }
    }
}

/// Appends the value of `template` to `out`.
pub fn write(template: &Template, exchange: &Exchange, out: &mut Vec<u8>) {
    write_nested(template, exchange, out, 0);
}

fn write_nested(template: &Template, exchange: &Exchange, out: &mut Vec<u8>, depth: u8) {
    let limit = out.len() + VALUE_BYTES_MAX;
    for segment in template.segments() {
        match segment {
            Segment::Text(text) => out.extend_from_slice(text),
            Segment::Variable(variable) => write_variable(variable, exchange, out, depth),
        }
        out.truncate(limit);
    }
}

/// Appends the value of a variable; nothing for one without a value.
pub fn write_variable(variable: &Variable, exchange: &Exchange, out: &mut Vec<u8>, depth: u8) {
    match variable {
        Variable::Empty => {}
        Variable::Builtin(builtin) => write_builtin(*builtin, exchange, out),
        Variable::RequestHeader(name) => write_headers(&exchange.request.headers, name, out),
        Variable::SentHeader(name) => write_header_lines(&exchange.response.head.borrow(), name, out),
        Variable::UpstreamTrailer(name) => write_header_lines(&exchange.upstream.trailers, name, out),
        Variable::SentTrailer(name) => write_header_lines(&exchange.response.trailers, name, out),
        Variable::UpstreamHeader(name) => {
            if let Some(head) = &exchange.upstream.head {
                write_headers(&head.headers, name, out);
            }
        }
        Variable::UpstreamCookie(name) => {
            if let Some(head) = &exchange.upstream.head {
                write_cookie(&head.headers, HeaderName::SetCookie, name, out);
            }
        }
        Variable::Arg(name) => {
            let args = exchange.uri.args.as_deref().unwrap_or_default();
            out.extend_from_slice(arg(args, name).unwrap_or_default());
        }
        Variable::Cookie(name) => {
            write_cookie(&exchange.request.headers, HeaderName::Cookie, name, out);
        }
        Variable::Capture(number) => {
            out.extend_from_slice(exchange.variables.captures.borrow().group(usize::from(*number)))
        }
        Variable::User(number) => {
            if let Some(value) = exchange.variables.user.borrow().get(*number as usize) {
                out.extend_from_slice(value);
            }
        }
        Variable::ProxyProtocolTlv(tlv) => {
            exchange.client.proxy_protocol.iter().for_each(|proxied| tlv.write(&proxied.tlvs, out))
        }
        Variable::Map(number) => write_map(*number, exchange, out, depth),
        Variable::Geo(number) => write_geo(*number, exchange, out, depth),
        Variable::Split(number) => write_split(*number, exchange, out, depth),
    }
}

fn write_map(number: u32, exchange: &Exchange, out: &mut Vec<u8>, depth: u8) {
    let at = number as usize;
    let Some(map) = exchange.config.maps.get(at).filter(|_| depth < DEPTH_MAX) else { return };
    let evaluate = |out: &mut Vec<u8>| {
        let mut source = Vec::new();
        write_nested(&map.source, exchange, &mut source, depth + 1);
        let (template, captures) = map.lookup(&source);
        if let Some((expression, captures)) = captures {
            exchange.set_captures(expression, captures);
        }
        write_nested(template, exchange, out, depth + 1);
    };
    if map.volatile { evaluate(out) } else { write_once(at, exchange, out, evaluate) }
}

/// Appends what `evaluate` appends at its first call for `at`: as in nginx, a `map` without `volatile`, a `geo` and a
/// `split_clients` keep their value for the whole request. `at` counts through all maps, then all geos, then all splits.
fn write_once(at: usize, exchange: &Exchange, out: &mut Vec<u8>, evaluate: impl FnOnce(&mut Vec<u8>)) {
    let known = exchange.variables.evaluated.borrow().get(at).cloned().flatten();
    if let Some(known) = known {
        return out.extend_from_slice(&known);
    }
    let start = out.len();
    evaluate(out);
    let config = &exchange.config;
    let mut evaluated = exchange.variables.evaluated.borrow_mut();
    evaluated.resize(config.maps.len() + config.geos.len() + config.splits.len(), None);
    if let (Some(slot), Some(value)) = (evaluated.get_mut(at), out.get(start..)) {
        *slot = Some(value.into());
    }
}

fn write_geo(number: u32, exchange: &Exchange, out: &mut Vec<u8>, depth: u8) {
    let config = &exchange.config;
    let Some(geo) = config.geos.get(number as usize).filter(|_| depth < DEPTH_MAX) else { return };
    write_once(config.maps.len() + number as usize, exchange, out, |out| evaluate_geo(geo, exchange, out, depth));
}

fn evaluate_geo(geo: &Geo, exchange: &Exchange, out: &mut Vec<u8>, depth: u8) {
    let addr = match &geo.source {
        None => Some(exchange.client.addr.clone()),
        Some(source) => {
            let mut text = Vec::new();
            write_nested(source, exchange, &mut text, depth + 1);
            let ip = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
            ip.map(|ip: IpAddr| Addr::Ip((ip, 0).into()))
        }
    };
    let headers = &exchange.request.headers;
    let forwarded = addr.as_ref().filter(|_| !geo.proxies.is_empty()).and_then(|addr| {
        x_forwarded_for::client_address(addr, headers, b"x_forwarded_for", &geo.proxies, geo.recursive)
            .map(|addr| addr.ip())
    });
    out.extend_from_slice(geo.lookup(forwarded.or(addr.and_then(|addr| addr.ip()))));
}

fn write_split(number: u32, exchange: &Exchange, out: &mut Vec<u8>, depth: u8) {
    let config = &exchange.config;
    let Some(split) = config.splits.get(number as usize).filter(|_| depth < DEPTH_MAX) else { return };
    let at = config.maps.len() + config.geos.len() + number as usize;
    write_once(at, exchange, out, |out| {
        let mut text = Vec::new();
        write_nested(&split.source, exchange, &mut text, depth + 1);
        out.extend_from_slice(split.lookup(&text));
    });
}

/// Appends the first cookie of this name. `Set-Cookie` has one per line, followed by attributes.
fn write_cookie(headers: &Headers, kind: HeaderName, name: &[u8], out: &mut Vec<u8>) {
    let max = if kind == HeaderName::SetCookie { 1 } else { usize::MAX };
    for line in headers.all(kind) {
        for cookie in line.split(|b| *b == b';').take(max) {
            if let Some(value) = cookie_value(cookie, name) {
                return out.extend_from_slice(value);
            }
        }
    }
}

/// Appends all headers of a name as one list (RFC 9110 5.3); cookies are joined by `; ` (RFC 6265 5.4).
fn write_headers(headers: &Headers, name: &[u8], out: &mut Vec<u8>) {
    let separator: &[u8] = if name.eq_ignore_ascii_case(b"cookie") { b"; " } else { b", " };
    for (at, value) in headers.all_named(name).enumerate() {
        if at > 0 {
            out.extend_from_slice(separator);
        }
        out.extend_from_slice(value);
    }
}

/// Appends the headers of a name among the lines of a sent head, or of trailers.
fn write_header_lines(lines: &[u8], name: &[u8], out: &mut Vec<u8>) {
    let mut is_first = true;
    for line in lines.split(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mut parts = line.splitn(2, |b| *b == b':');
        if let (Some(line_name), Some(value)) = (parts.next(), parts.next())
            && head::variable_name_matches(line_name, name)
        {
            out.extend_from_slice(if is_first { b"" } else { b", " });
            out.extend_from_slice(value.trim_ascii());
            is_first = false;
        }
    }
}

/// Returns the value of the first argument of a name.
pub fn arg<'a>(args: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    args.split(|b| *b == b'&').find_map(|arg| arg_value(arg, name))
}

fn arg_value<'a>(arg: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (key, rest) = arg.split_at_checked(name.len())?;
    let value = rest.strip_prefix(b"=")?;
    key.eq_ignore_ascii_case(name).then_some(value)
}

/// Parses `name=value`, with optional spaces.
fn cookie_value<'c>(cookie: &'c [u8], name: &[u8]) -> Option<&'c [u8]> {
    let (key, rest) = trim_spaces_start(cookie).split_at_checked(name.len())?;
    let value = trim_spaces_start(rest).strip_prefix(b"=").filter(|_| key.eq_ignore_ascii_case(name))?;
    Some(trim_spaces_start(value))
}

fn trim_spaces_start(mut bytes: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

/// Whether a condition (`if=`) is true: neither empty nor `0`.
pub fn is_true(template: &Template, exchange: &Exchange) -> bool {
    let value = value(template, exchange);
    !value.is_empty() && value != b"0"
}

fn write_builtin(builtin: Builtin, exchange: &Exchange, out: &mut Vec<u8>) {
    let client = &exchange.client;
    let response = &exchange.response;
    let mut number = |value: u64| write_number(value, 1, out);
    match builtin {
        Builtin::Args => out.extend_from_slice(exchange.uri.args.as_deref().unwrap_or_default()),
        Builtin::IsRequestPort => out.extend_from_slice(request_port(exchange).map_or(b"", |_| b":")),
        Builtin::RequestPort => request_port(exchange).into_iter().for_each(|port| number(port.into())),
        Builtin::IsArgs => {
            if exchange.uri.args.as_ref().is_some_and(|args| !args.is_empty()) {
                out.push(b'?');
            }
        }
        Builtin::BinaryRemoteAddr
        | Builtin::ProxyProtocolAddr
        | Builtin::ProxyProtocolPort
        | Builtin::ProxyProtocolServerAddr
        | Builtin::ProxyProtocolServerPort
        | Builtin::RealipRemoteAddr
        | Builtin::RealipRemotePort
        | Builtin::RemoteAddr
        | Builtin::RemotePort => write_client(builtin, exchange, out),
        Builtin::BodyBytesSent => number(response.bytes.saturating_sub(response.head_bytes)),
        Builtin::BytesSent => number(response.bytes),
        Builtin::Connection => number(client.number.into()),
        Builtin::ConnectionRequests => number(exchange.number.into()),
        Builtin::ConnectionTime => {
            write_seconds(crate::runtime::executor::now().saturating_sub(client.connected_at), out)
        }
        Builtin::Connections(state) => number(connection_count(state)),
        Builtin::ContentLength => {
            out.extend_from_slice(exchange.request.headers.first(HeaderName::ContentLength).unwrap_or_default());
        }
        Builtin::ContentType => write_headers(&exchange.request.headers, b"content_type", out),
        Builtin::GzipRatio => write_ratio(response.compressed_bytes, out),
        Builtin::Host => out.extend_from_slice(host(exchange).as_bytes()),
        Builtin::Hostname => out.extend_from_slice(rustix::system::uname().nodename().to_string_lossy().as_bytes()),
        Builtin::Https => out.extend_from_slice(if client.tls.is_some() { b"on" } else { b"" }),
        Builtin::InvalidReferer => write_invalid_referer(exchange, out),
        Builtin::DocumentRoot => {
            let files = &exchange.settings().files;
            if let Some(root) = files.alias.as_ref().map(|alias| &alias.target).or(files.root.as_ref()) {
                write(root, exchange, out);
            }
        }
        Builtin::RequestFilename => write_file_name(exchange, out),
        Builtin::LimitConnStatus | Builtin::LimitRate | Builtin::LimitReqStatus => write_limit(builtin, exchange, out),
        Builtin::Msec => write_seconds(clock::since_epoch().as_millis() as u64, out),
        Builtin::Pid => number(std::process::id().into()),
        Builtin::Pipe => out.push(if exchange.pipelined { b'p' } else { b'.' }),
        Builtin::ProxyAddXForwardedFor => write_forwarded_for(exchange, out),
        Builtin::ProxyHost => {
            out.extend_from_slice(exchange.proxy_host().map_or(b"", |(host, _)| host.as_bytes()));
        }
        Builtin::ProxyPort => {
            if let Some((_, port)) = exchange.proxy_host() {
                number(port.into());
            }
        }
        Builtin::RemoteUser => write_remote_user(exchange, out),
        Builtin::Request => out.extend_from_slice(exchange.request.request_line()),
        Builtin::RequestBody => out.extend_from_slice(&exchange.body.start),
        Builtin::RequestCompletion => out.extend_from_slice(if response.complete { b"OK" } else { b"" }),
        Builtin::RequestId => out.extend_from_slice(exchange.request_id().as_bytes()),
        Builtin::RequestLength => number(exchange.request.len() as u64 + exchange.body.bytes),
        Builtin::RequestMethod => out.extend_from_slice(exchange.method()),
        Builtin::RequestTime => write_seconds(exchange.elapsed(), out),
        Builtin::RequestUri => out.extend_from_slice(&exchange.uri.raw),
        Builtin::Scheme => out.extend_from_slice(client.scheme().as_bytes()),
        Builtin::Ssl(variable) => client.tls.iter().for_each(|tls| tls.write_variable(variable, out)),
        Builtin::ServerAddr => out.extend_from_slice(client.local.host().as_bytes()),
        Builtin::ServerName => out.extend_from_slice(exchange.server.name.as_bytes()),
        Builtin::ServerPort => {
            if let Some(port) = client.local.port() {
                number(port.into());
            }
        }
        Builtin::ServerProtocol => out.extend_from_slice(exchange.request.version.as_str().as_bytes()),
        Builtin::Status => write_number(response.status.into(), 3, out),
        Builtin::TimeIso8601 => clock::write_time_iso8601(out),
        Builtin::TimeLocal => clock::write_time_local(out),
        Builtin::UpstreamAddr
        | Builtin::UpstreamStatus
        | Builtin::UpstreamConnectTime
        | Builtin::UpstreamHeaderTime
        | Builtin::UpstreamResponseTime
        | Builtin::UpstreamResponseLength
        | Builtin::UpstreamBytesReceived
        | Builtin::UpstreamBytesSent => write_attempts(builtin, exchange, out),
        Builtin::Uri => out.extend_from_slice(&exchange.uri.path),
        Builtin::Version => out.extend_from_slice(env!("CARGO_PKG_VERSION").as_bytes()),
    }
}

/// Appends a variable of the client, of the proxy in front (`$realip_*`), or of the PROXY protocol.
fn write_client(builtin: Builtin, exchange: &Exchange, out: &mut Vec<u8>) {
    let client = &exchange.client;
    let proxy_peer = exchange.proxy_peer.as_ref().unwrap_or(client);
    let proxied = client.proxy_protocol.as_ref();
    let source = proxied.map(|proxied| proxied.source);
    let destination = proxied.map(|proxied| proxied.destination);
    let port = match builtin {
        Builtin::BinaryRemoteAddr => return write_binary(&client.addr, out),
        Builtin::RemoteAddr => return out.extend_from_slice(client.addr.host().as_bytes()),
        Builtin::RealipRemoteAddr => return out.extend_from_slice(proxy_peer.addr.host().as_bytes()),
        Builtin::ProxyProtocolAddr => return write_ip(source, out),
        Builtin::ProxyProtocolServerAddr => return write_ip(destination, out),
        // 0: the header that replaced the address has no port.
        Builtin::RemotePort => client.addr.port().filter(|port| *port > 0),
        Builtin::RealipRemotePort => proxy_peer.addr.port().filter(|port| *port > 0),
        Builtin::ProxyProtocolPort => source.map(|addr| addr.port()),
        _ => destination.map(|addr| addr.port()),
    };
    if let Some(port) = port {
        write_number(port.into(), 1, out);
    }
}

fn write_ip(addr: Option<SocketAddr>, out: &mut Vec<u8>) {
    if let Some(addr) = addr {
        let _ = write!(out, "{}", addr.ip());
    }
}

fn write_binary(addr: &Addr, out: &mut Vec<u8>) {
    match addr {
        Addr::Ip(addr) => match addr.ip() {
            std::net::IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
            std::net::IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
        },
        Addr::Unix(_) => out.extend_from_slice(b"unix:"),
    }
}

/// Appends `X-Forwarded-For` with the client at its end.
fn write_forwarded_for(exchange: &Exchange, out: &mut Vec<u8>) {
    write_headers(&exchange.request.headers, b"x_forwarded_for", out);
    if !out.is_empty() && exchange.request.headers.first_named(b"x_forwarded_for").is_some() {
        out.extend_from_slice(b", ");
    }
    out.extend_from_slice(exchange.client.addr.host().as_bytes());
}

fn write_limit(builtin: Builtin, exchange: &Exchange, out: &mut Vec<u8>) {
    let limits = &exchange.limits;
    let status = match builtin {
        Builtin::LimitRate => return write_number(limits.rate.unwrap_or(0), 1, out),
        Builtin::LimitReqStatus => limits.requests,
        _ => limits.connections,
    };
    out.extend_from_slice(status.map_or("", LimitStatus::as_str).as_bytes());
}

/// Returns the number of client connections; those of other workers as of their last update.
fn connection_count(state: ConnectionState) -> u64 {
    metrics::request_update();
    let snapshot = metrics::total();
    match state {
        ConnectionState::Active => snapshot.get(Metric::Active),
        ConnectionState::Reading => snapshot.get(Metric::Reading),
        ConnectionState::Waiting => snapshot.waiting(),
        ConnectionState::Writing => snapshot.get(Metric::Writing),
    }
}

/// Appends the name of the file: `root` and the path, or `alias` and the rest of the path after the location.
pub fn write_file_name(exchange: &Exchange, out: &mut Vec<u8>) {
    let replaced = write_root(exchange, out);
    let replaced = if exchange.routing.alias_appended { 0 } else { replaced };
    out.extend_from_slice(exchange.uri.path.get(replaced..).unwrap_or_default());
}

/// Appends `root` or `alias`, and returns how many bytes of the path it replaces.
pub fn write_root(exchange: &Exchange, out: &mut Vec<u8>) -> usize {
    let files = &exchange.settings().files;
    match (&files.alias, &files.root) {
        (Some(alias), _) => {
            write(&alias.target, exchange, out);
            alias.replaced_bytes.unwrap_or(exchange.uri.path.len())
        }
        (None, Some(root)) => {
            write(root, exchange, out);
            0
        }
        (None, None) => exchange.uri.path.len(),
    }
}

/// Whether the file name escapes the root. The path of a client can only where an alias replaces a part of a segment
/// (`/a../x`); the root can where a variable in it has `..` (`/~../x` with `alias /home/$1`).
pub fn escapes_root(exchange: &Exchange, name: &[u8]) -> bool {
    let files = &exchange.settings().files;
    let alias = files.alias.as_ref();
    let replaced =
        alias.filter(|_| !exchange.routing.alias_appended).and_then(|alias| alias.replaced_bytes).unwrap_or(0);
    let root = alias.map(|alias| &alias.target).or(files.root.as_ref()).filter(|root| root.as_text().is_none());
    let root_escapes = root.is_some_and(|root| {
        let configured = root.segments().iter().map(|segment| match segment {
            Segment::Text(text) => count_dot_dot(text),
            Segment::Variable(_) => 0,
        });
        count_dot_dot(name) > configured.sum()
    });
    root_escapes
        || ((exchange.uri.path_changed || replaced > 0)
            && has_dot_dot(exchange.uri.path.get(replaced..).unwrap_or_default()))
}

fn count_dot_dot(path: &[u8]) -> usize {
    path.split(|b| *b == b'/').filter(|segment| *segment == b"..").count()
}

/// Whether a path has a segment `..`. The normalized path of a client has none; one made of variables may.
pub fn has_dot_dot(path: &[u8]) -> bool {
    count_dot_dot(path) > 0
}

/// Returns `$host`: the host of the request, or the name of its server.
pub fn host(exchange: &Exchange) -> &str {
    if exchange.uri.host.is_empty() { &exchange.server.name } else { &exchange.uri.host }
}

/// The port in the host of the request, if it has one.
fn request_port(exchange: &Exchange) -> Option<u16> {
    // A host in the target has replaced the header.
    uri::host_port(exchange.request.headers.first(HeaderName::Host)?).filter(|port| *port > 0)
}

/// Appends a number with at least `digits_min` digits. `write!` takes several times as long.
pub fn write_number(number: u64, digits_min: usize, out: &mut Vec<u8>) {
    let (mut digits, mut rest, mut count) = ([0; 20], number, 0);
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        count += 1;
        if rest == 0 && count >= digits_min {
            break;
        }
    }
    out.extend_from_slice(digits.split_at(digits.len() - count).1);
}

/// Appends milliseconds as seconds with three decimals.
pub fn write_seconds(millis: u64, out: &mut Vec<u8>) {
    write_number(millis / 1000, 1, out);
    out.push(b'.');
    write_number(millis % 1000, 3, out);
}

/// Appends `$gzip_ratio`, with two decimals and rounded as in nginx. `bytes`: before and after compression.
fn write_ratio(bytes: Option<(u64, u64)>, out: &mut Vec<u8>) {
    if let Some((before, after)) = bytes.filter(|(_, after)| *after > 0) {
        let hundredths = (before.saturating_mul(1000) / after + 5) / 10;
        write_number(hundredths / 100, 1, out);
        out.push(b'.');
        write_number(hundredths % 100, 2, out);
    }
}

fn write_attempt(builtin: Builtin, attempt: &Attempt, out: &mut Vec<u8>) {
    let time = match builtin {
        Builtin::UpstreamAddr => return drop(write!(out, "{}", attempt.target)),
        Builtin::UpstreamResponseLength => return write_number(attempt.body, 1, out),
        Builtin::UpstreamBytesReceived => return write_number(attempt.received, 1, out),
        Builtin::UpstreamBytesSent => return write_number(attempt.sent, 1, out),
        Builtin::UpstreamStatus => match attempt.status {
            Some(status) => return write_number(status.into(), 1, out),
            None => None,
        },
        Builtin::UpstreamConnectTime => attempt.connected,
        Builtin::UpstreamHeaderTime => attempt.head_received,
        _ => attempt.ended,
    };
    match time {
        Some(millis) => write_seconds(millis, out),
        None => out.push(b'-'),
    }
}

/// Appends a value for each attempt, separated by commas, and by colons after an internal redirect.
fn write_attempts(builtin: Builtin, exchange: &Exchange, out: &mut Vec<u8>) {
    for (at, attempt) in exchange.upstream.attempts.iter().enumerate() {
        if at > 0 {
            out.extend_from_slice(if attempt.after_redirect { b" : " } else { b", " });
        }
        write_attempt(builtin, attempt, out);
    }
}

/// Appends 1 if `valid_referers` does not allow the referer.
fn write_invalid_referer(exchange: &Exchange, out: &mut Vec<u8>) {
    let referer = exchange.request.headers.first_named(b"referer");
    let names = &exchange.server.names;
    if exchange.settings().optional.referers.as_ref().is_some_and(|referers| !referers.is_valid(referer, names)) {
        out.push(b'1');
    }
}

/// Appends the user of Basic authentication, even if no password was checked.
fn write_remote_user(exchange: &Exchange, out: &mut Vec<u8>) {
    if let Some(credentials) = Credentials::from_headers(&exchange.request.headers) {
        out.extend_from_slice(&credentials.user);
    }
}
