//! The fuzz targets: a function for each parser, which panics if the parser breaks an invariant.
//!
//! `tests/fuzz_corpus.rs` calls them with `tests/corpus/NAME/` and with mutations of it; `fuzz/` calls them with the inputs of
//! libFuzzer, which starts from the same files.

use std::fmt::Debug;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use smolgate::config::{self, ConfigSource, ErrorLog, Prefix};
use smolgate::dns::message::{self, Question, RecordType, ResolvedAddrs};
use smolgate::http1::basic_auth::Credentials;
use smolgate::http1::body::Decoder;
use smolgate::http1::head::{Framing, HeadLimits, HeadScanner, HeaderNamePolicy, Request, Response};
use smolgate::http1::proxy_protocol;
use smolgate::http1::range::{self, Multipart, Selection};
use smolgate::http1::uri;
use smolgate::http1::websocket::FrameScanner;
use smolgate::modules::access::password::PasswordHash;
use smolgate::regex::Pattern;
use smolgate::runtime::executor;
use smolgate::runtime::handover::{self, HandoverDecoder, HandoverEncoder};
use smolgate::server::listeners::Listeners;
use smolgate::tunnel::Tunnel;

/// Small, so that small inputs can exceed them.
const LIMITS: HeadLimits = HeadLimits { line_bytes_max: 120, head_bytes_max: 400 };

/// Checks that `read` gets the same from an input in one piece, in two pieces split anywhere, and byte by byte.
fn read_in_pieces<T: PartialEq + Debug>(input: &[u8], read: impl Fn(&[&[u8]]) -> T) -> T {
    let whole = read(&[input]);
    for at in 0..=input.len() {
        let (one, two) = input.split_at(at);
        assert_eq!(read(&[one, two]), whole, "cut at {at}: {}", input.escape_ascii());
    }
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(read(&bytes), whole, "byte by byte: {}", input.escape_ascii());
    whole
}

/// The bytes of a complete head.
fn head(input: &[u8], start: impl Fn() -> HeadScanner) -> Option<&[u8]> {
    let (start, end) = read_in_pieces(input, |pieces| {
        let (mut scan, mut bytes) = (start(), Vec::new());
        for piece in pieces {
            bytes.extend_from_slice(piece);
            if let Some(place) = scan.find_end(&bytes, LIMITS).map_err(drop)? {
                return Ok(Some(place));
            }
        }
        Ok::<_, ()>(None)
    })
    .ok()??;
    Some(&input[start..end])
}

/// A request head: start line and headers.
pub fn request(input: &[u8]) {
    let Some(head) = head(input, HeadScanner::for_request) else { return };
    for names in [HeaderNamePolicy::Plain, HeaderNamePolicy::Underscores, HeaderNamePolicy::Any] {
        let _ = Request::parse(head, names).map(|request| format!("{request:?}"));
    }
}

/// A response head: status line and headers.
pub fn response(input: &[u8]) {
    let Some(head) = head(input, HeadScanner::for_response) else { return };
    let _ = Response::parse(head).map(|response| format!("{response:?}"));
}

/// A chunked body.
pub fn chunked(input: &[u8]) {
    let _ = read_in_pieces(input, |pieces| {
        let mut decoder = Decoder::new(Framing::Chunked);
        let (mut body, mut used) = (Vec::new(), 0);
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() && !decoder.is_done() {
                let Ok(step) = decoder.decode(rest) else {
                    assert!(decoder.decode(b"0\r\n\r\n").is_err() && !decoder.is_done(), "it goes on behind a fault");
                    return Err(());
                };
                assert!(step.used > 0 && decoder.consumed() > 0, "no progress");
                body.extend_from_slice(step.data);
                used += step.used;
                rest = &rest[step.used..];
            }
        }
        Ok(decoder.is_done().then_some((used, body)))
    });
}

/// A PROXY protocol header of version 1 or 2.
pub fn proxy_protocol(input: &[u8]) {
    let _ = read_in_pieces(input, |pieces| {
        let mut bytes = Vec::new();
        for piece in pieces {
            bytes.extend_from_slice(piece);
            if let Some((addresses, used)) = proxy_protocol::parse(&bytes).map_err(drop)? {
                assert!(used <= bytes.len(), "the header is longer than its bytes");
                return Ok(Some((used, addresses)));
            }
        }
        assert!(bytes.len() < 4096, "the header has no end");
        Ok::<_, ()>(None)
    });
}

/// A request target, and a Host header.
pub fn target(input: &[u8]) {
    if let Ok(name) = uri::parse_host(input) {
        // An address of a future version may have more characters (RFC 3986 3.2.2).
        let more = if name.starts_with("[v") { "[]:!$&'()*+,;=" } else { "[]:" };
        // A zone begins with an escaped percent sign (RFC 6874 2).
        let name = if name.starts_with('[') { name.replacen("%25", "", 1) } else { name };
        let known = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c) || more.contains(c);
        assert!(name.chars().all(known), "host {name:?}");
    }
    // The request line allows no other bytes.
    if !input.iter().all(u8::is_ascii_graphic) {
        return;
    }
    let climbs = |path: &[u8]| path.split(|b| *b == b'/').any(|segment| matches!(segment, b"." | b".."));
    let parsed = uri::parse(input, true).ok().map(|target| target.path.into_owned());
    if let Some(path) = uri::normalize(input, false) {
        assert!(path.starts_with(b"/") && !climbs(&path), "{} of {}", path.escape_ascii(), input.escape_ascii());
    }
    for path in parsed.into_iter().chain(uri::normalize(input, true).map(std::borrow::Cow::into_owned)) {
        let safe = path.starts_with(b"/") && !path.contains(&0) && !path.windows(2).any(|pair| pair == b"//");
        assert!(safe && !climbs(&path), "{} of {}", path.escape_ascii(), input.escape_ascii());
        let mut encoded = Vec::new();
        uri::encode_path(&path, &mut encoded);
        assert_eq!(uri::normalize(&encoded, true).as_deref(), Some(&path[..]), "{}", input.escape_ascii());
    }
}

/// An Authorization header.
pub fn authorization(input: &[u8]) {
    if let Some(Credentials { user, password }) = Credentials::parse(input) {
        assert!(!user.contains(&b':') && user.len() + password.len() < input.len());
    }
}

/// A password of a user file.
pub fn password(input: &[u8]) {
    // The slow hashes would take hours.
    if let Some(stored) = PasswordHash::parse(input).filter(|stored| !stored.is_slow()) {
        assert!(!stored.matches(b"another") && !stored.matches(input));
    }
}

/// A configuration. No file is written, and only certificates and keys are opened.
pub fn config(input: &[u8]) {
    let text = String::from_utf8_lossy(input).replace("include", "exclude");
    let prefix = Prefix { path: "/nonexistent".to_owned() };
    match config::load(ConfigSource::Text("corpus", text), "", prefix, ErrorLog::for_path(None)) {
        Ok(config) => drop(format!("{config:?}")),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A DNS response to a question for `a.test` with the same id; and the name of a host.
pub fn dns(input: &[u8]) {
    let id = input.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
    for rtype in [RecordType::A, RecordType::Aaaa] {
        if let Some(message::DnsResponse::Addresses(found)) =
            (Question { id, name: &message::parse_name("a.test").unwrap(), rtype }).parse_response(input)
        {
            assert!(found.addrs.iter().all(|addr| addr.is_ipv4() == (rtype == RecordType::A)), "{found:?}");
            assert!(found.cname.is_none() || found.addrs.is_empty(), "{found:?}");
        }
        // Encoder and decoder agree about the name: an empty response to its question is valid.
        if let Some(name) = str::from_utf8(input).ok().and_then(message::parse_name) {
            let question = Question { id, name: &name, rtype };
            let mut message = question.encode().unwrap();
            message[2] |= 0x80;
            let none = ResolvedAddrs { ttl: u32::MAX, ..ResolvedAddrs::default() };
            assert_eq!(
                question.parse_response(&message),
                Some(message::DnsResponse::Addresses(none)),
                "{}",
                input.escape_ascii()
            );
        }
    }
}

/// An input of [`pattern`]: an expression, after `*` if case does not matter, and after a line feed the subject.
pub fn expression(input: &[u8]) -> Option<(&str, bool, &[u8])> {
    let (source, subject) = input.split_at(input.iter().position(|b| *b == b'\n')?);
    let source = str::from_utf8(source).ok()?;
    Some((source.strip_prefix('*').unwrap_or(source), source.starts_with('*'), &subject[1..]))
}

/// A regular expression and a subject.
pub fn pattern(input: &[u8]) {
    let Some((source, any_case, subject)) = expression(input) else { return };
    let Ok(pattern) = Pattern::new(source, any_case) else { return };
    let found = pattern.captures(subject);
    assert_eq!(pattern.is_match(subject), found.is_some(), "{}", input.escape_ascii());
    for range in (0..20).filter_map(|number| found.as_ref()?.range(number)) {
        assert!(range.start <= range.end && range.end <= subject.len(), "{range:?} {}", input.escape_ascii());
    }
}

/// A stream of WebSocket frames: the same in any pieces, and with the same boundaries as by a second parser.
pub fn frames(input: &[u8]) {
    let after = |pieces: &[&[u8]]| {
        let mut frames = FrameScanner::START;
        pieces.iter().for_each(|piece| frames.advance(piece));
        if let Some(left) = frames.remaining_bytes() {
            assert_eq!(FrameScanner::from_remaining_bytes(Some(left)), frames, "{}", input.escape_ascii());
        }
        frames
    };
    let frames = read_in_pieces(input, after);
    let mut rest = Some(input);
    while let Some(frame) = rest.filter(|rest| !rest.is_empty()) {
        rest = skip_frame(frame);
    }
    assert_eq!(frames.is_at_boundary(), rest.is_some(), "{}", input.escape_ascii());
}

/// Returns the bytes behind the first frame (RFC 6455 5.2); `None` if it is incomplete or has an unknown opcode.
fn skip_frame(bytes: &[u8]) -> Option<&[u8]> {
    let ([first, second], rest) = bytes.split_first_chunk()?;
    let (length, rest) = match second & 0x7f {
        126 => rest.split_first_chunk().map(|(length, rest)| (u64::from(u16::from_be_bytes(*length)), rest))?,
        127 => rest.split_first_chunk().map(|(length, rest)| (u64::from_be_bytes(*length), rest))?,
        short => (short.into(), rest),
    };
    let key = if second & 0x80 == 0 { 0 } else { 4 };
    let known = matches!(first & 0x0f, 0..=2 | 8..=10);
    rest.get(usize::try_from(length).ok()?.checked_add(key)?..).filter(|_| known)
}

/// A Range header, for responses of several sizes.
pub fn range(input: &[u8]) {
    for (size, most) in [(0, 16), (1, 16), (10, 1), (10, 16), (10_000, 1000), (i64::MAX as u64, u32::MAX)] {
        let Selection::Ranges(parts) = range::parse(input, size, most) else { continue };
        let inside =
            |part: &range::FileRange| part.length > 0 && part.length <= size && part.start <= size - part.length;
        assert!(!parts.is_empty() && parts.len() <= most as usize && parts.iter().all(inside), "{parts:?} of {size}");
        // Except for the heads of the parts, no more than the whole is sent.
        let total: u128 = parts.iter().map(|part| u128::from(part.length)).sum();
        assert!(total <= size.into(), "{parts:?} of {size}");
        if parts.len() > 1 {
            let multipart = Multipart::new(&parts, size, b"text/plain");
            let heads: usize = multipart.heads.iter().map(Vec::len).sum();
            assert_eq!(u128::from(multipart.length), total + (heads + multipart.end.len()) as u128, "{parts:?}");
        }
    }
}

/// The entries that an old binary hands over to a new one. The first byte is the number of pairs of sockets.
pub fn handover(input: &[u8]) {
    let Some((pairs, bytes)) = input.split_first() else { return };
    let pairs = (0..pairs % 4).map(|_| UnixStream::pair().unwrap());
    let fds = pairs.flat_map(|(one, other)| [one.into(), other.into()]).collect();
    let received = HandoverDecoder::receive(encoder_with(bytes, fds).send().unwrap()).unwrap();
    let mut rest = Listeners::default().inherit(received).into_decoder();
    // Sockets of tunnels are registered with the executor of this thread, which the first call creates.
    let _ = executor::run(async {});
    while let Some((kind, mut content)) = rest.entry() {
        if kind != handover::TUNNEL {
            continue;
        }
        if let Some(Ok(tunnel)) = Tunnel::decode(&mut content) {
            let (bytes, fds) = encode_tunnel(tunnel);
            let tunnel = Tunnel::decode(&mut encoder_with(&bytes, fds).into_decoder()).unwrap().unwrap();
            assert_eq!(encode_tunnel(tunnel).0, bytes, "the new binary decodes something else");
        }
    }
}

fn encoder_with(bytes: &[u8], fds: Vec<OwnedFd>) -> HandoverEncoder {
    let mut encoder = HandoverEncoder::default();
    bytes.iter().for_each(|byte| encoder.u8(*byte));
    fds.into_iter().for_each(|fd| encoder.fd(fd));
    encoder
}

fn encode_tunnel(tunnel: Tunnel) -> (Vec<u8>, Vec<OwnedFd>) {
    let mut encoder = HandoverEncoder::default();
    tunnel.encode(&mut encoder).unwrap();
    let mut decoder = encoder.into_decoder();
    (std::iter::from_fn(|| decoder.u8()).collect(), std::iter::from_fn(|| decoder.fd()).collect())
}

/// A certificate or a revocation list, in DER.
#[cfg(feature = "tls")]
pub fn x509(input: &[u8]) {
    use smolgate::tls::verify::x509::{self, Certificate, RevocationList};

    let longer = [input, b"\0"].concat();
    let shorter = &input[..input.len().saturating_sub(1)];
    if RevocationList::parse(input).is_some() {
        assert!(RevocationList::parse(&longer).is_none() && RevocationList::parse(shorter).is_none());
    }
    let Some(certificate) = Certificate::parse(input) else { return };
    assert!(Certificate::parse(&longer).is_none() && Certificate::parse(shorter).is_none());
    let _ = (certificate.common_name(), certificate.is_self_issued());
    // Its variables become part of headers and log lines.
    let mut text = Vec::new();
    certificate.write_serial(&mut text);
    for name in [certificate.subject, certificate.issuer] {
        x509::write_rfc2253_name(name, &mut text);
        x509::write_legacy_name(name, &mut text);
    }
    x509::write_time(certificate.not_before, &mut text);
    assert!(text.iter().all(|byte| matches!(byte, b' '..=b'~')), "{}", text.escape_ascii());
}
