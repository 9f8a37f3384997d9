//! Content codings that a client accepts (RFC 9110 12.5.3), with nginx's reading of Accept-Encoding.

use crate::http1::head::{self, HeaderName};
use crate::request::exchange::Exchange;

/// Whether Accept-Encoding names `coding` (in lower case). Neither `*` nor a missing header counts.
pub fn accepts(exchange: &Exchange, coding: &[u8]) -> bool {
    let lists = exchange.request.headers.all(HeaderName::AcceptEncoding);
    lists.flat_map(head::tokens).find_map(|member| member_accepts(member, coding)).unwrap_or(false)
}

/// Returns what one member of the list says about `coding`; `None` if it names another. A malformed weight means no.
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

/// Whether a weight is valid and above 0: `0.001` to `1.000` (RFC 9110 12.4.2).
fn is_nonzero_weight(weight: &[u8]) -> bool {
    let (whole, digits) = match weight {
        [whole] | [whole, b'.'] => (whole, &[][..]),
        [whole, b'.', digits @ ..] => (whole, digits),
        _ => return false,
    };
    let is_zero = digits.iter().all(|b| *b == b'0');
    let is_valid = digits.len() <= 3 && digits.iter().all(u8::is_ascii_digit);
    is_valid && (*whole == b'1' && is_zero || *whole == b'0' && !is_zero)
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
