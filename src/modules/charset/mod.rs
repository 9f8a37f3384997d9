//! The `charset` parameter of Content-Type (`charset`, `charset_types`, `source_charset`). Bodies stay as they are.

pub(crate) mod conf;

use crate::request::exchange::Exchange;
use crate::request::variables;

/// Returns the Content-Type with a charset, or `None` if it stays unchanged.
pub fn content_type(exchange: &Exchange, status: u16, content_type: &[u8]) -> Option<Vec<u8>> {
    let charset = exchange.settings().optional.charset.as_ref()?;
    let name = charset.name.as_ref()?;
    // nginx adds no charset to redirects.
    if matches!(status, 301..=303 | 307 | 308) {
        return None;
    }
    let (media_type, own_charset) = split_charset(content_type);
    if own_charset.is_some() || !charset.types.contains(content_type) {
        return None;
    }
    let name = variables::value(charset.source.as_ref().unwrap_or(name), exchange);
    (!name.is_empty()).then(|| [media_type, b"; charset=", &name].concat())
}

/// Whether a Content-Type as [`content_type`] writes it says UTF-8.
pub fn is_utf8(content_type: &[u8]) -> bool {
    content_type.to_ascii_lowercase().ends_with(b"; charset=utf-8")
}

/// Splits the `charset` parameter off. Parameters before it stay with the type, as in nginx.
fn split_charset(content_type: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut start = 0usize;
    for parameter in content_type.split(|b| *b == b';') {
        if let Some((name, value)) = parameter.trim_ascii().split_at_checked(8)
            && name.eq_ignore_ascii_case(b"charset=")
            && let Some(media_type) = start.checked_sub(1).and_then(|end| content_type.get(..end))
        {
            let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
            return (media_type, Some(value));
        }
        start += parameter.len() + 1;
    }
    (content_type, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_charset_parameter_is_split_off() {
        for (content_type, media_type, charset) in [
            ("text/html", "text/html", None),
            ("text/html;charset=koi8-r", "text/html", Some("koi8-r")),
            ("text/html; Charset=\"UTF-8\"", "text/html", Some("UTF-8")),
            ("text/html; a=b", "text/html; a=b", None),
            ("text/html; a=b; charset=x", "text/html; a=b", Some("x")),
            ("charset=x", "charset=x", None),
            ("", "", None),
        ] {
            let expected = (media_type.as_bytes(), charset.map(str::as_bytes));
            assert_eq!(split_charset(content_type.as_bytes()), expected, "{content_type}");
        }
    }
}
