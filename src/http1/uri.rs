//! Parses a request-target (RFC 9112 3.2) to the path that locations are matched against, and a Host header to a
//! name.
//!
//! The path is percent-decoded once, then `//` becomes `/` and dot segments are resolved, as in nginx; a path above
//! the root is rejected. The target is forwarded as the client wrote it.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use crate::http1::head::Malformed;

/// The parts of a request-target, as slices of the head.
#[derive(Debug, PartialEq, Eq)]
pub struct Target<'h> {
    /// The authority of an absolute-form target.
    pub authority: Option<&'h [u8]>,
    /// Path and query as received, without a fragment, `/` for an empty path: nginx's `$request_uri`.
    pub path_and_query: Cow<'h, [u8]>,
    /// The path, decoded and normalized: the initial `$uri`.
    pub path: Cow<'h, [u8]>,
    /// The bytes after the first `?`.
    pub args: Option<&'h [u8]>,
}

/// Parses a request-target. A fragment, which is not sent by clients (RFC 9110 4.2.5), is dropped.
///
/// # Errors [`Malformed::Target`]: neither origin-form nor http absolute-form (`*` addresses the proxy itself, which
/// has no resource for it), a bad percent escape, `%00`, or a path above the root.
pub fn parse(target: &[u8], merge_slashes: bool) -> Result<Target<'_>, Malformed> {
    let end = target.iter().position(|b| *b == b'#').unwrap_or(target.len());
    let target = target.get(..end).unwrap_or_default();
    let (authority, rest) = match target {
        [b'/', ..] => (None, target),
        _ => split_absolute(target)?,
    };
    let (raw, args) = match rest.iter().position(|b| *b == b'?') {
        Some(at) => (rest.get(..at).unwrap_or_default(), rest.get(at + 1..)),
        None => (rest, None),
    };
    let written = if raw.is_empty() { Cow::Owned([b"/", rest].concat()) } else { Cow::Borrowed(rest) };
    let path = if raw.is_empty() { Some(Cow::Borrowed(&b"/"[..])) } else { normalize(raw, merge_slashes) };
    Ok(Target { authority, path_and_query: written, path: path.ok_or(Malformed::Target)?, args })
}

/// Parses the target of an internal redirect that an upstream requests, to decoded path and query. `None` for a path
/// that does not begin at the root, or contains `..`.
pub fn parse_internal(target: &[u8]) -> Option<Vec<u8>> {
    let (path, query) = target.split_at(target.iter().position(|b| *b == b'?').unwrap_or(target.len()));
    let path = percent_decode(path)?;
    let is_safe = path.starts_with(b"/") && !path.contains(&0) && !path.split(|b| *b == b'/').any(|part| part == b"..");
    // An encoded `?` is part of the path, but could not be told from the start of the query afterwards.
    (is_safe && !path.contains(&b'?')).then(|| [&path, query].concat())
}

/// Splits `http://authority[/path][?query]`; user information is rejected (RFC 9110 4.2.4).
fn split_absolute(target: &[u8]) -> Result<(Option<&[u8]>, &[u8]), Malformed> {
    let rest = ["http://", "https://"]
        .iter()
        .find_map(|scheme| {
            let (start, rest) = target.split_at_checked(scheme.len())?;
            start.eq_ignore_ascii_case(scheme.as_bytes()).then_some(rest)
        })
        .ok_or(Malformed::Target)?;
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    if authority.is_empty() || authority.contains(&b'@') {
        return Err(Malformed::Target);
    }
    Ok((Some(authority), rest))
}

/// Decodes once, merges slashes if `merge_slashes` is set, and resolves dot segments. `None` if the path is malformed
/// or above the root.
pub fn normalize(raw: &[u8], merge_slashes: bool) -> Option<Cow<'_, [u8]>> {
    let is_normal =
        !raw.contains(&b'%') && raw.windows(2).all(|pair| !matches!(pair, b"//" | b"/.")) && raw.first() == Some(&b'/');
    if is_normal {
        return Some(Cow::Borrowed(raw));
    }
    let decoded = percent_decode(raw)?;
    if decoded.contains(&0) {
        return None;
    }
    let mut path: Vec<u8> = Vec::with_capacity(decoded.len());
    let mut segments = decoded.split(|b| *b == b'/');
    if !segments.next()?.is_empty() {
        return None; // does not start with `/`
    }
    path.push(b'/');
    let mut segments = segments.peekable();
    while let Some(segment) = segments.next() {
        match segment {
            b"" if !merge_slashes && segments.peek().is_some() => path.push(b'/'),
            b"" | b"." => {}
            b".." => {
                // `path` ends with `/`; drop the segment before it.
                path.pop()?;
                let parent = path.iter().rposition(|b| *b == b'/')?;
                path.truncate(parent + 1);
            }
            _ => {
                path.extend_from_slice(segment);
                if segments.peek().is_some() {
                    path.push(b'/');
                }
            }
        }
    }
    Some(Cow::Owned(path))
}

/// Percent-decodes once. `None` for a `%` without two hexadecimal digits.
pub fn percent_decode(raw: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(raw.len());
    let mut rest = raw;
    loop {
        match rest {
            [] => return Some(decoded),
            [b'%', high, low, tail @ ..] => {
                let high = char::from(*high).to_digit(16)?;
                let low = char::from(*low).to_digit(16)?;
                decoded.push((high << 4 | low) as u8);
                rest = tail;
            }
            [b'%', ..] => return None,
            [byte, tail @ ..] => {
                decoded.push(*byte);
                rest = tail;
            }
        }
    }
}

/// Decodes escapes of characters that need none in a URL up to the first `?`, as nginx does in redirects.
pub fn decode_redirect(url: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(url.len());
    let mut rest = url;
    while let [first, tail @ ..] = rest {
        let plain = match rest {
            [b'%', high, low, ..] => percent_decode(&[b'%', *high, *low]).and_then(|byte| byte.first().copied()),
            _ => None,
        };
        match plain.filter(|byte| (b'&'..0x7f).contains(byte)) {
            Some(byte) => {
                decoded.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                decoded.push(*first);
                rest = tail;
            }
        }
        if decoded.last() == Some(&b'?') {
            break;
        }
    }
    decoded.extend_from_slice(rest);
    decoded
}

/// Percent-encodes what a path must not contain, as nginx does when it writes `$uri` into a request or a redirect.
pub fn encode_path(path: &[u8], out: &mut Vec<u8>) {
    percent_encode(path, out, |b| is_forbidden(b) || matches!(b, b'%' | b'?' | b'#'));
}

/// Percent-encodes what would end an argument or start another one, as nginx does with captures.
pub fn encode_arg(value: &[u8], out: &mut Vec<u8>) {
    percent_encode(value, out, |b| is_forbidden(b) || matches!(b, b'%' | b'&' | b'+' | b';' | b'?' | b'#'));
}

/// Percent-encodes all but unreserved characters (RFC 3986 2.3).
pub fn encode_component(name: &[u8], out: &mut Vec<u8>) {
    percent_encode(name, out, |b| !is_unreserved(b));
}

/// Percent-encodes what a URL must not contain, and leaves delimiters.
pub fn encode_url(url: &[u8], out: &mut Vec<u8>) {
    let needs_encoding = |b: u8| matches!(b, 0..=b' ' | 0x7f..);
    // Nearly every URL needs no encoding.
    if url.iter().fold(false, |found, b| found | needs_encoding(*b)) {
        percent_encode(url, out, needs_encoding);
    } else {
        out.extend_from_slice(url);
    }
}

/// RFC 3986 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Whether no part of a URL may contain the byte (RFC 3986 appendix C).
fn is_forbidden(byte: u8) -> bool {
    matches!(byte, 0..=b' ' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x7f..)
}

fn percent_encode(bytes: &[u8], out: &mut Vec<u8>, needs_encoding: impl Fn(u8) -> bool) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in bytes {
        if needs_encoding(byte) {
            let digit = |at: u8| HEX.get(usize::from(at)).copied().unwrap_or(b'0');
            out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
        } else {
            out.push(byte);
        }
    }
}

/// Parses a Host header or an authority to a name: lower case, without port and final dot.
pub fn parse_host(host: &[u8]) -> Result<String, Malformed> {
    let (name, port) = split_port(host);
    if !port.is_empty() {
        check_port(port)?;
    }
    if let Some(rest) = name.strip_prefix(b"[") {
        let inner = rest.strip_suffix(b"]").and_then(|inner| std::str::from_utf8(inner).ok()).ok_or(Malformed::Host)?;
        if inner.parse::<Ipv6Addr>().is_err() && !is_zoned_address(inner) && !is_ip_future(inner) {
            return Err(Malformed::Host);
        }
    } else {
        let is_valid = name.iter().all(|b| is_unreserved(*b));
        if name.is_empty() || !is_valid || name.windows(2).any(|pair| pair == b"..") || name == b"." {
            return Err(Malformed::Host);
        }
    }
    let name = name.strip_suffix(b".").unwrap_or(name);
    String::from_utf8(name.to_ascii_lowercase()).map_err(|_| Malformed::Host)
}

/// Returns the port of a valid host.
pub fn host_port(host: &[u8]) -> Option<u16> {
    let digits = split_port(host).1.strip_prefix(b":")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Splits what follows the name or the address in brackets off: the colon and the port, or nothing.
fn split_port(host: &[u8]) -> (&[u8], &[u8]) {
    let end = match host.starts_with(b"[") {
        true => host.iter().position(|b| *b == b']').map(|bracket| bracket + 1),
        false => host.iter().position(|b| *b == b':'),
    };
    host.split_at(end.unwrap_or(host.len()))
}

/// Whether the text is an IPv6 address with a zone (RFC 6874): `address "%25" 1*unreserved`.
fn is_zoned_address(text: &str) -> bool {
    text.split_once("%25").is_some_and(|(address, zone)| {
        address.parse::<Ipv6Addr>().is_ok() && !zone.is_empty() && zone.bytes().all(is_unreserved)
    })
}

/// Whether the text is an IPvFuture (RFC 3986 3.2.2): `"v" 1*HEXDIG "." 1*( unreserved / sub-delims / ":" )`.
fn is_ip_future(text: &str) -> bool {
    let Some((version, rest)) = text.strip_prefix(['v', 'V']).and_then(|text| text.split_once('.')) else {
        return false;
    };
    let is_valid = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:".contains(&b);
    !version.is_empty()
        && version.bytes().all(|b| b.is_ascii_hexdigit())
        && !rest.is_empty()
        && rest.bytes().all(is_valid)
}

/// Checks `":" *DIGIT`, at most 65535.
fn check_port(port: &[u8]) -> Result<(), Malformed> {
    let [b':', digits @ ..] = port else { return Err(Malformed::Host) };
    let fits = digits.iter().try_fold(0u32, |sum, digit| {
        let digit = digit.is_ascii_digit().then(|| u32::from(digit - b'0'))?;
        Some(sum * 10 + digit).filter(|sum| *sum <= 65535)
    });
    fits.map(drop).ok_or(Malformed::Host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(target: &str) -> Option<String> {
        parse(target.as_bytes(), true).ok().map(|t| String::from_utf8_lossy(&t.path).into_owned())
    }

    #[test]
    fn paths_are_decoded_once_and_stay_below_the_root() {
        for (target, expected) in [
            ("/", "/"),
            ("/a/b?c", "/a/b"),
            ("/a/%2e%2e/b", "/b"),
            ("/a/%252e%252e/b", "/a/%2e%2e/b"),
            ("/a/..%2fb", "/b"),
            ("//a//b", "/a/b"),
            ("/a;x=1/..;/b", "/a;x=1/..;/b"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a/./b/", "/a/b/"),
            ("/a\\b", "/a\\b"),
            ("http://a", "/"),
            ("http://a/x", "/x"),
            ("http://a?q", "/"),
            ("/x#f", "/x"),
            ("/.well-known/x", "/.well-known/x"),
            ("/a/...", "/a/..."),
        ] {
            assert_eq!(path(target).as_deref(), Some(expected), "{target}");
        }
        for bad in [
            "/../../etc/passwd",
            "/%2e%2e/",
            "/x%00.html",
            "/%zz",
            "/%a",
            "#",
            "foo",
            "!",
            "@evil.com/x",
            "?a",
            "*",
            "ftp://a/x",
            "http://u:p@a/x",
            "http:///x",
            "/a/../..",
        ] {
            assert_eq!(path(bad), None, "{bad}");
        }
    }

    #[test]
    fn hosts_have_ports() {
        for (host, port) in [
            ("a", None),
            ("a:", None),
            ("a:8080", Some(8080)),
            ("[::1]", None),
            ("[::1]:0", Some(0)),
            ("[v1.a]:65535", Some(65535)),
        ] {
            assert_eq!(host_port(host.as_bytes()), port, "{host}");
        }
    }

    #[test]
    fn slashes_stay_without_merge_slashes() {
        for (raw, expected) in [
            ("/foo//../bar", "/foo/bar"),
            ("/foo///../bar", "/foo//bar"),
            ("//a///b//", "//a///b//"),
            ("//", "//"),
            ("//..", "/"),
            ("/a//./b/.//c", "/a//b//c"),
        ] {
            let path = normalize(raw.as_bytes(), false).unwrap();
            assert_eq!(String::from_utf8_lossy(&path), expected, "{raw}");
        }
        assert_eq!(normalize(b"//../..", false), None);
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        for (host, expected) in [
            ("a", "a"),
            ("A.Example:80", "a.example"),
            ("a:", "a"),
            ("a.", "a"),
            ("[::1]", "[::1]"),
            ("[::1]:8", "[::1]"),
            ("[v1.a:B]:8", "[v1.a:b]"),
            ("[fe80::1%25eth0]:8", "[fe80::1%25eth0]"),
        ] {
            assert_eq!(parse_host(host.as_bytes()).as_deref(), Ok(expected), "{host}");
        }
        for bad in [
            "",
            ":80",
            "a, b",
            "a/p",
            "a b",
            "a:99999",
            "a:-1",
            "a:8x",
            "[::1",
            "[x]",
            "[v.a]",
            "[v1.]",
            "[vx.a]",
            "[v1.a/b]",
            "a\"b",
            "<a>",
            "\u{e9}",
            "a?x",
            "a#x",
            "a%0d",
            "a..b",
            ".",
            "[fe80::1%25]",
            "[fe80::1%eth0]",
            "[fe80::1%25e/0]",
            "[x%25eth0]",
        ] {
            assert!(parse_host(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
