//! Content codings that a client takes (RFC 9110 12.5.3), as nginx reads its Accept-Encoding.

use crate::http1::head::{self, HeaderName};
use crate::request::exchange::Exchange;

/// Whether the client asked for `coding`, in lower case, by its name: `*` is not taken for it, and neither is silence.
pub fn accepts(exchange: &Exchange, coding: &[u8]) -> bool {
    let lists = exchange.request.headers.all(HeaderName::AcceptEncoding);
    lists.flat_map(head::tokens).find_map(|member| member_accepts(member, coding)).unwrap_or(false)
}

/// What one member of the list says of `coding`; `None` if it is about another. Whoever writes a weight that is none
/// does not get the coding.
fn member_accepts(member: &[u8], coding: &[u8]) -> Option<bool> {
    let name_end = member.iter().position(|b| *b == b';').unwrap_or(member.len());
    let (name, rest) = member.split_at(name_end);
    if !name.trim_ascii().eq_ignore_ascii_case(coding) {
        return None;
    }
    let parameter = rest.strip_prefix(b";").unwrap_or_default().trim_ascii();
    if parameter.is_empty() {
        return Some(true);
    }
    Some(match parameter {
        [b'q' | b'Q', b'=', weight @ ..] => is_nonzero_weight(weight),
        _ => false,
    })
}

/// `0.001` to `1.000` (RFC 9110 12.4.2); nothing and all that is no weight is false.
fn is_nonzero_weight(weight: &[u8]) -> bool {
    let (whole, digits) = match weight {
        [whole] | [whole, b'.'] => (whole, &[][..]),
        [whole, b'.', digits @ ..] => (whole, digits),
        _ => return false,
    };
    let zero = digits.iter().all(|b| *b == b'0');
    let valid = digits.len() <= 3 && digits.iter().all(u8::is_ascii_digit);
    valid && (*whole == b'1' && zero || *whole == b'0' && !zero)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_nginx_reads_it() {
        for (member, expected) in [
            ("gzip", Some(true)),
            ("GZip", Some(true)),
            ("x-gzip", None),
            ("gzipped", None),
            ("*", None),
            ("br", None),
            ("gzip;", Some(true)),
            ("gzip;q=1", Some(true)),
            ("gzip ; Q=1.000", Some(true)),
            ("gzip;q=0.", Some(false)),
            ("gzip;q=0.001", Some(true)),
            ("gzip;q=0", Some(false)),
            ("gzip; q=0.000", Some(false)),
            ("gzip;q=0.0001", Some(false)),
            ("gzip;q=1.1", Some(false)),
            ("gzip;q=2", Some(false)),
            ("gzip;q", Some(false)),
            ("gzip;q=", Some(false)),
            ("gzip;q=x", Some(false)),
            ("gzip;v=1", Some(false)),
            ("gzip;q=0.5;v=1", Some(false)),
        ] {
            assert_eq!(member_accepts(member.as_bytes(), b"gzip"), expected, "{member}");
        }
    }
}
