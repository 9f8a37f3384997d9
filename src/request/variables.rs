//! What variables are worth for one exchange.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use crate::config::template::{Builtin, ConnectionState, Segment, Template, Variable};
use crate::http1::basic_auth::Credentials;
use crate::http1::head::{self, HeaderName, Headers};
use crate::http1::x_forwarded_for;
use crate::request::exchange::{Attempt, Exchange};
use crate::request::limit_zones::LimitStatus;
use crate::runtime::clock;
use crate::runtime::metrics::{self, Metric};
use crate::runtime::socket::Addr;

/// Maps within maps.
const DEPTH_MAX: u8 = 32;
/// Bytes that one value may come to (a head can be repeated in it many times over).
const VALUE_BYTES_MAX: usize = 64 * 1024;

/// The value of `template`.
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
    write_at(template, exchange, out, 0);
}

fn write_at(template: &Template, exchange: &Exchange, out: &mut Vec<u8>, depth: u8) {
    let limit = out.len() + VALUE_BYTES_MAX;
    for piece in template.pieces() {
        match piece {
            Segment::Text(text) => out.extend_from_slice(text),
            Segment::Variable(variable) => write_variable(variable, exchange, out, depth),
        }
        out.truncate(limit);
    }
}

/// Appends the value of one variable. Whether it has one at all is told apart from an empty one only in logs.
pub fn write_variable(variable: &Variable, exchange: &Exchange, out: &mut Vec<u8>, depth: u8) {
    match variable {
        Variable::Empty => {}
        Variable::Builtin(builtin) => write_builtin(*builtin, exchange, out),
        Variable::Field(name) => write_fields(&exchange.request.headers, name, out),
        Variable::SentField(name) => write_lines(&exchange.response.head.borrow(), name, out),
        Variable::UpstreamTrailer(name) => write_lines(&exchange.upstream.trailers, name, out),
        Variable::SentTrailer(name) => write_lines(&exchange.response.trailers, name, out),
        Variable::UpstreamField(name) => {
            if let Some(head) = &exchange.upstream.head {
                write_fields(&head.headers, name, out);
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
        Variable::Map(number) => write_map(*number, exchange, out, depth),
        Variable::Geo(number) => write_geo(*number, exchange, out, depth),
        Variable::Split(number) => write_split(*number, exchange, out, depth),
    }
}

fn write_map(number: u32, exchange: &Exchange, out: &mut Vec<u8>, depth: u8) {
    let at = number as usize;
    let Some(map) = exchange.config.maps.get(at).filter(|_| depth < DEPTH_MAX) else { return };
    let known = exchange.variables.maps.borrow().get(at).cloned().flatten();
    if let Some(known) = known.filter(|_| !map.volatile) {
        return out.extend_from_slice(&known);
    }
    let mut source = Vec::new();
    write_at(&map.source, exchange, &mut source, depth + 1);
    let (template, captured) = map.find(&source);
    if let Some((expression, captures)) = captured {
        exchange.set_captures(expression, captures);
    }
    let start = out.len();
    write_at(template, exchange, out, depth + 1);
    // A value stays what it is for a request, whatever changes meanwhile, as in nginx.
    if !map.volatile {
        let mut mapped = exchange.variables.maps.borrow_mut();
        mapped.resize(exchange.config.maps.len(), None);
        if let Some(slot) = mapped.get_mut(at) {
            *slot = Some(out.get(start..).unwrap_or_default().into());
        }
    }
}

fn write_geo(number: u32, exchange: &Exchange, out: &mut Vec<u8>, depth: u8) {
    let Some(geo) = exchange.config.geos.get(number as usize).filter(|_| depth < DEPTH_MAX) else { return };
    let addr = match &geo.source {
        None => Some(exchange.client.addr.clone()),
        Some(source) => {
            let mut text = Vec::new();
            write_at(source, exchange, &mut text, depth + 1);
            let ip = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
            ip.map(|ip: IpAddr| Addr::Ip((ip, 0).into()))
        }
    };
    let fields = &exchange.request.headers;
    let told = addr.as_ref().filter(|_| !geo.proxies.is_empty()).and_then(|addr| {
        x_forwarded_for::client_address(addr, fields, b"x_forwarded_for", &geo.proxies, geo.recursive)
            .map(|addr| addr.ip())
    });
    out.extend_from_slice(geo.find(told.or(addr.and_then(|addr| addr.ip()))));
}

fn write_split(number: u32, exchange: &Exchange, out: &mut Vec<u8>, depth: u8) {
    let Some(split) = exchange.config.splits.get(number as usize).filter(|_| depth < DEPTH_MAX) else { return };
    let mut text = Vec::new();
    write_at(&split.source, exchange, &mut text, depth + 1);
    out.extend_from_slice(split.find(&text));
}

/// The first cookie of this name. A line of an answer sets but one, its attributes stand behind.
fn write_cookie(fields: &Headers, kind: HeaderName, name: &[u8], out: &mut Vec<u8>) {
    let most = if kind == HeaderName::SetCookie { 1 } else { usize::MAX };
    for line in fields.all(kind) {
        for cookie in line.split(|b| *b == b';').take(most) {
            if let Some(value) = cookie_value(cookie, name) {
                return out.extend_from_slice(value);
            }
        }
    }
}

/// Several fields of a name are one list (RFC 9110 5.3); cookies are joined by `; ` (RFC 6265 5.4).
fn write_fields(fields: &Headers, name: &[u8], out: &mut Vec<u8>) {
    let separator: &[u8] = if name.eq_ignore_ascii_case(b"cookie") { b"; " } else { b", " };
    for (at, value) in fields.all_named(name).enumerate() {
        if at > 0 {
            out.extend_from_slice(separator);
        }
        out.extend_from_slice(value);
    }
}

/// A field among lines that were sent, or came behind a body.
fn write_lines(lines: &[u8], name: &[u8], out: &mut Vec<u8>) {
    let mut found = 0;
    for line in lines.split(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        if head::variable_name_matches(line.get(..colon).unwrap_or_default(), name) {
            if found > 0 {
                out.extend_from_slice(b", ");
            }
            found += 1;
            out.extend_from_slice(line.get(colon + 1..).unwrap_or_default().trim_ascii());
        }
    }
}

/// The value of an argument, the first of its name.
pub fn arg<'a>(args: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    args.split(|b| *b == b'&').find_map(|arg| arg_value(arg, name))
}

fn arg_value<'a>(arg: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (key, rest) = arg.split_at_checked(name.len())?;
    let value = rest.strip_prefix(b"=")?;
    key.eq_ignore_ascii_case(name).then_some(value)
}

/// `name = value; ...`, with spaces where people write them.
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

/// Whether a condition (`if=`) holds: neither empty nor `0`.
pub fn is_true(template: &Template, exchange: &Exchange) -> bool {
    let value = value(template, exchange);
    !value.is_empty() && value != b"0"
}

fn write_builtin(builtin: Builtin, exchange: &Exchange, out: &mut Vec<u8>) {
    let client = &exchange.client;
    let answer = &exchange.response;
    let mut number = |value: u64| write_number(value, 1, out);
    match builtin {
        Builtin::Args => out.extend_from_slice(exchange.uri.args.as_deref().unwrap_or_default()),
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
        Builtin::BodyBytesSent => number(answer.bytes.saturating_sub(answer.head_bytes)),
        Builtin::BytesSent => number(answer.bytes),
        Builtin::Connection => number(client.number.into()),
        Builtin::ConnectionRequests => number(exchange.number.into()),
        Builtin::ConnectionTime => {
            write_seconds(crate::runtime::executor::now().saturating_sub(client.connected_at), out)
        }
        Builtin::Connections(state) => number(connection_count(state)),
        Builtin::ContentLength => {
            out.extend_from_slice(exchange.request.headers.first(HeaderName::ContentLength).unwrap_or_default());
        }
        Builtin::ContentType => write_fields(&exchange.request.headers, b"content_type", out),
        Builtin::GzipRatio => write_ratio(answer.compressed_bytes, out),
        Builtin::Host => out.extend_from_slice(host(exchange).as_bytes()),
        Builtin::Hostname => out.extend_from_slice(rustix::system::uname().nodename().to_string_lossy().as_bytes()),
        Builtin::Https => out.extend_from_slice(if client.tls.is_some() { b"on" } else { b"" }),
        Builtin::InvalidReferer => write_invalid_referer(exchange, out),
        Builtin::DocumentRoot => {
            let files = &exchange.settings().files;
            if let Some(root) = files.alias.as_ref().map(|alias| &alias.to).or(files.root.as_ref()) {
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
        Builtin::RequestCompletion => out.extend_from_slice(if answer.complete { b"OK" } else { b"" }),
        Builtin::RequestId => out.extend_from_slice(exchange.request_id().as_bytes()),
        Builtin::RequestLength => number(exchange.request.len() as u64 + exchange.body.bytes),
        Builtin::RequestMethod => out.extend_from_slice(exchange.method()),
        Builtin::RequestTime => write_seconds(exchange.elapsed(), out),
        Builtin::RequestUri => out.extend_from_slice(&exchange.uri.raw),
        Builtin::Scheme => out.extend_from_slice(client.scheme().as_bytes()),
        Builtin::Ssl(fact) => client.tls.iter().for_each(|secured| secured.write_variable(fact, out)),
        Builtin::ServerAddr => out.extend_from_slice(client.local.host().as_bytes()),
        Builtin::ServerName => out.extend_from_slice(exchange.server.name.as_bytes()),
        Builtin::ServerPort => {
            if let Some(port) = client.local.port() {
                number(port.into());
            }
        }
        Builtin::ServerProtocol => out.extend_from_slice(exchange.request.version.as_str().as_bytes()),
        Builtin::Status => write_number(answer.status.into(), 3, out),
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

/// Who the client is, who has connected for it, and what the PROXY protocol said.
fn write_client(builtin: Builtin, exchange: &Exchange, out: &mut Vec<u8>) {
    let client = &exchange.client;
    let connected = exchange.proxy_peer.as_ref().unwrap_or(client);
    let proxied = client.proxy_protocol.as_ref();
    let source = proxied.map(|proxied| proxied.source);
    let target = proxied.map(|proxied| proxied.destination);
    let port = match builtin {
        Builtin::BinaryRemoteAddr => return write_binary(&client.addr, out),
        Builtin::RemoteAddr => return out.extend_from_slice(client.addr.host().as_bytes()),
        Builtin::RealipRemoteAddr => return out.extend_from_slice(connected.addr.host().as_bytes()),
        Builtin::ProxyProtocolAddr => return write_ip(source, out),
        Builtin::ProxyProtocolServerAddr => return write_ip(target, out),
        // A port that a field did not tell is 0.
        Builtin::RemotePort => client.addr.port().filter(|port| *port > 0),
        Builtin::RealipRemotePort => connected.addr.port().filter(|port| *port > 0),
        Builtin::ProxyProtocolPort => source.map(|addr| addr.port()),
        _ => target.map(|addr| addr.port()),
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

/// `X-Forwarded-For` with the client at its end.
fn write_forwarded_for(exchange: &Exchange, out: &mut Vec<u8>) {
    write_fields(&exchange.request.headers, b"x_forwarded_for", out);
    if !out.is_empty() && exchange.request.headers.first_named(b"x_forwarded_for").is_some() {
        out.extend_from_slice(b", ");
    }
    out.extend_from_slice(exchange.client.addr.host().as_bytes());
}

/// What limits said of the request.
fn write_limit(builtin: Builtin, exchange: &Exchange, out: &mut Vec<u8>) {
    let limits = &exchange.limits;
    let ruling = match builtin {
        Builtin::LimitRate => return write_number(limits.rate.unwrap_or(0), 1, out),
        Builtin::LimitReqStatus => limits.requests,
        _ => limits.connections,
    };
    out.extend_from_slice(ruling.map_or("", LimitStatus::as_str).as_bytes());
}

/// How many connections of clients there are: those of other workers when they were asked last.
fn connection_count(state: ConnectionState) -> u64 {
    metrics::request_update();
    let figures = metrics::total();
    match state {
        ConnectionState::Active => figures.get(Metric::Active),
        ConnectionState::Reading => figures.get(Metric::Reading),
        ConnectionState::Waiting => figures.waiting(),
        ConnectionState::Writing => figures.get(Metric::Writing),
    }
}

/// `root` and the path, or `alias` and what of the path the location did not match.
pub fn write_file_name(exchange: &Exchange, out: &mut Vec<u8>) {
    let matched = write_root(exchange, out);
    let matched = if exchange.routing.alias_appended { 0 } else { matched };
    out.extend_from_slice(exchange.uri.path.get(matched..).unwrap_or_default());
}

/// `root`, or `alias` and for how many bytes of the path it stands.
pub fn write_root(exchange: &Exchange, out: &mut Vec<u8>) -> usize {
    let files = &exchange.settings().files;
    match (&files.alias, &files.root) {
        (Some(alias), _) => {
            write(&alias.to, exchange, out);
            alias.replaces.unwrap_or(exchange.uri.path.len())
        }
        (None, Some(root)) => {
            write(root, exchange, out);
            0
        }
        (None, None) => exchange.uri.path.len(),
    }
}

/// Whether the path, or the name of the file that it means, leads out of its folder. The path of a client does only where
/// an alias stands for a part of a name (`/a../x`); the folder does where a variable of `root` or `alias` has steps
/// upwards (`/~../x` with `alias /home/$1`).
pub fn escapes_root(exchange: &Exchange, name: &[u8]) -> bool {
    let files = &exchange.settings().files;
    let alias = files.alias.as_ref();
    let matched = alias.filter(|_| !exchange.routing.alias_appended).and_then(|alias| alias.replaces).unwrap_or(0);
    let folder = alias.map(|alias| &alias.to).or(files.root.as_ref()).filter(|folder| folder.as_text().is_none());
    let leaves = folder.is_some_and(|folder| {
        let written = folder.pieces().iter().map(|piece| match piece {
            Segment::Text(text) => count_dot_dot(text),
            Segment::Variable(_) => 0,
        });
        count_dot_dot(name) > written.sum()
    });
    leaves
        || ((exchange.uri.path_changed || matched > 0)
            && has_dot_dot(exchange.uri.path.get(matched..).unwrap_or_default()))
}

fn count_dot_dot(path: &[u8]) -> usize {
    path.split(|b| *b == b'/').filter(|segment| *segment == b"..").count()
}

/// Whether a path has steps upwards. Paths of clients never do; one that was made of variables may.
pub fn has_dot_dot(path: &[u8]) -> bool {
    count_dot_dot(path) > 0
}

/// `$host`: the host of the request, or the name of the server that took it.
pub fn host(exchange: &Exchange) -> &str {
    if exchange.uri.host.is_empty() { &exchange.server.name } else { &exchange.uri.host }
}

/// A number with so many digits at least. `write!` takes several times as long.
pub fn write_number(number: u64, digits_min: usize, out: &mut Vec<u8>) {
    let (mut digits, mut left, mut count) = ([0; 20], number, 0);
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (left % 10) as u8;
        left /= 10;
        count += 1;
        if left == 0 && count >= digits_min {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - count..).unwrap_or_default());
}

/// Milliseconds as seconds with three decimals.
pub fn write_seconds(millis: u64, out: &mut Vec<u8>) {
    write_number(millis / 1000, 1, out);
    out.push(b'.');
    write_number(millis % 1000, 3, out);
}

/// How many times smaller a body became, in hundredths, rounded as nginx does it.
fn write_ratio(packed: Option<(u64, u64)>, out: &mut Vec<u8>) {
    if let Some((before, after)) = packed.filter(|(_, after)| *after > 0) {
        let hundredths = (before.saturating_mul(1000) / after + 5) / 10;
        write_number(hundredths / 100, 1, out);
        out.push(b'.');
        write_number(hundredths % 100, 2, out);
    }
}

/// What one try is worth to a variable.
fn write_attempt(builtin: Builtin, one: &Attempt, out: &mut Vec<u8>) {
    let time = match builtin {
        Builtin::UpstreamAddr => return drop(write!(out, "{}", one.target)),
        Builtin::UpstreamResponseLength => return write_number(one.body, 1, out),
        Builtin::UpstreamBytesReceived => return write_number(one.received, 1, out),
        Builtin::UpstreamBytesSent => return write_number(one.sent, 1, out),
        Builtin::UpstreamStatus => match one.status {
            Some(status) => return write_number(status.into(), 1, out),
            None => None,
        },
        Builtin::UpstreamConnectTime => one.connected,
        Builtin::UpstreamHeaderTime => one.head_received,
        _ => one.ended,
    };
    match time {
        Some(millis) => write_seconds(millis, out),
        None => out.push(b'-'),
    }
}

/// Peers that were tried for one request stand in one value, with commas between them, and colons between upstreams.
fn write_attempts(builtin: Builtin, exchange: &Exchange, out: &mut Vec<u8>) {
    for (at, one) in exchange.upstream.attempts.iter().enumerate() {
        if at > 0 {
            out.extend_from_slice(if one.after_redirect { b" : " } else { b", " });
        }
        write_attempt(builtin, one, out);
    }
}

/// 1, unless `valid_referers` says that the referer is one.
fn write_invalid_referer(exchange: &Exchange, out: &mut Vec<u8>) {
    let referer = exchange.request.headers.first_named(b"referer");
    let names = &exchange.server.names;
    if exchange.settings().rare.referers.as_ref().is_some_and(|referers| !referers.allow(referer, names)) {
        out.push(b'1');
    }
}

/// The user of Basic authentication, whether or not the password was checked.
fn write_remote_user(exchange: &Exchange, out: &mut Vec<u8>) {
    if let Some(credentials) = Credentials::from_headers(&exchange.request.headers) {
        out.extend_from_slice(&credentials.user);
    }
}
