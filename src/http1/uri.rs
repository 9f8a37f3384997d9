//! A request-target (RFC 9112 3.2) to the path that locations are matched against, and a Host field to a name.
//!
//! The path is percent-decoded once, then `//` becomes `/` and dot segments are resolved, as nginx does it; a path
//! that leaves the root is refused. What is forwarded stays as the client wrote it.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use crate::http1::head::Malformed;

/// A request-target, taken apart. The slices are those of the head.
#[derive(Debug, PartialEq, Eq)]
pub struct Target<'h> {
    /// The authority of an absolute-form target.
    pub authority: Option<&'h [u8]>,
    /// Path and query as written, without a fragment, `/` for no path; what `$request_uri` is.
    pub path_and_query: Cow<'h, [u8]>,
    /// The path, decoded and normalized; what `$uri` starts as.
    pub path: Cow<'h, [u8]>,
    /// What follows the first `?`.
    pub args: Option<&'h [u8]>,
}

/// Takes a request-target apart. A fragment, which is no business of a server (RFC 9110 4.2.5), is cut off.
///
/// # Errors
/// [`Malformed::Target`]: neither origin-form nor http absolute-form (`*` asks about the proxy itself, which has nothing
/// to say), a bad percent escape, `%00`, or a path above the root.
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

/// The path, decoded, and the query of a target that an upstream sends us to, joined again. `None` if it is not safe: a
/// path must begin at the root and not lead upwards.
pub fn parse_internal(target: &[u8]) -> Option<Vec<u8>> {
    let (path, query) = target.split_at(target.iter().position(|b| *b == b'?').unwrap_or(target.len()));
    let path = percent_decode(path)?;
    let safe = path.starts_with(b"/") && !path.contains(&0) && !path.split(|b| *b == b'/').any(|part| part == b"..");
    // What is encoded there as `?` is part of the path, and can't be told from the query any more.
    (safe && !path.contains(&b'?')).then(|| [&path, query].concat())
}

/// `http://authority[/path][?query]`; no user information (RFC 9110 4.2.4).
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

/// Decodes once, merges slashes if it is to, resolves dot segments. `None` if that can't be done safely.
pub fn normalize(raw: &[u8], merge_slashes: bool) -> Option<Cow<'_, [u8]>> {
    let simple =
        !raw.contains(&b'%') && raw.windows(2).all(|pair| !matches!(pair, b"//" | b"/.")) && raw.first() == Some(&b'/');
    if simple {
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

/// Percent-decodes once. `None` for a `%` that two hexadecimal digits do not follow.
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

/// Decodes what needs no encoding in a URL up to the first `?`, and leaves the rest, as nginx does in redirects.
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

/// Percent-encodes what a path may not hold, as nginx does when it writes `$uri` into a request or a redirect.
pub fn encode_path(path: &[u8], out: &mut Vec<u8>) {
    percent_encode(path, out, |b| is_forbidden(b) || matches!(b, b'%' | b'?' | b'#'));
}

/// Percent-encodes what would end an argument or start another, as nginx does with captures.
pub fn encode_arg(value: &[u8], out: &mut Vec<u8>) {
    percent_encode(value, out, |b| is_forbidden(b) || matches!(b, b'%' | b'&' | b'+' | b';' | b'?' | b'#'));
}

/// Percent-encodes all that RFC 3986 2.3 does not leave to names.
pub fn encode_component(name: &[u8], out: &mut Vec<u8>) {
    percent_encode(name, out, |b| !(b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')));
}

/// Percent-encodes what a URL may not hold, and leaves what gives it its shape.
pub fn encode_url(url: &[u8], out: &mut Vec<u8>) {
    let must = |b: u8| matches!(b, 0..=b' ' | 0x7f..);
    // Nearly every one is a word already.
    if url.iter().fold(false, |found, b| found | must(*b)) {
        percent_encode(url, out, must);
    } else {
        out.extend_from_slice(url);
    }
}

/// What no part of a URL holds (RFC 3986 appendix C).
fn is_forbidden(byte: u8) -> bool {
    matches!(byte, 0..=b' ' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x7f..)
}

fn percent_encode(bytes: &[u8], out: &mut Vec<u8>, must: impl Fn(u8) -> bool) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in bytes {
        if must(byte) {
            let digit = |at: u8| HEX.get(usize::from(at)).copied().unwrap_or(b'0');
            out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
        } else {
            out.push(byte);
        }
    }
}

/// The name in a Host field or an authority: lower case, without port and final dot.
pub fn parse_host(field: &[u8]) -> Result<String, Malformed> {
    let (name, port) = match field {
        [b'[', rest @ ..] => {
            let end = rest.iter().position(|b| *b == b']').ok_or(Malformed::Host)?;
            let inner = std::str::from_utf8(rest.get(..end).unwrap_or_default()).map_err(|_| Malformed::Host)?;
            if inner.parse::<Ipv6Addr>().is_err() && !is_ip_future(inner) {
                return Err(Malformed::Host);
            }
            let (name, port) = field.split_at(end + 2);
            (name, (!port.is_empty()).then_some(port))
        }
        _ => match field.iter().position(|b| *b == b':') {
            Some(colon) => (field.get(..colon).unwrap_or_default(), field.get(colon..)),
            None => (field, None),
        },
    };
    if let Some(port) = port {
        check_port(port)?;
    }
    if !name.starts_with(b"[") {
        let known = name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~'));
        if name.is_empty() || !known || name.windows(2).any(|pair| pair == b"..") || name == b"." {
            return Err(Malformed::Host);
        }
    }
    let name = name.strip_suffix(b".").unwrap_or(name);
    String::from_utf8(name.to_ascii_lowercase()).map_err(|_| Malformed::Host)
}

/// `"v" 1*HEXDIG "." 1*( unreserved / sub-delims / ":" )`, an address of a version to come.
fn is_ip_future(text: &str) -> bool {
    let Some((version, rest)) = text.strip_prefix(['v', 'V']).and_then(|text| text.split_once('.')) else {
        return false;
    };
    let known = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:".contains(&b);
    !version.is_empty() && version.bytes().all(|b| b.is_ascii_hexdigit()) && !rest.is_empty() && rest.bytes().all(known)
}

/// `":" *DIGIT`, and no more than 65535.
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
    fn slashes_stay_where_they_are_not_to_be_merged() {
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
        for (field, expected) in [
            ("a", "a"),
            ("A.Example:80", "a.example"),
            ("a:", "a"),
            ("a.", "a"),
            ("[::1]", "[::1]"),
            ("[::1]:8", "[::1]"),
            ("[v1.a:B]:8", "[v1.a:b]"),
        ] {
            assert_eq!(parse_host(field.as_bytes()).as_deref(), Ok(expected), "{field}");
        }
        for bad in [
            "", ":80", "a, b", "a/p", "a b", "a:99999", "a:-1", "a:8x", "[::1", "[x]", "[v.a]", "[v1.]", "[vx.a]",
            "[v1.a/b]", "a\"b", "<a>", "\u{e9}", "a?x", "a#x", "a%0d", "a..b", ".",
        ] {
            assert!(parse_host(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
