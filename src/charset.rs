//! What clients are told of the encoding of texts (`charset`), and whether bodies are recoded for it.
//!
//! Recoding is from single bytes to single bytes: lengths, and parts of a body, stay what they are.

use crate::config::{Level, Recoding};
use crate::exchange::Exchange;
use crate::log;
use crate::variables;

/// What an answer is told to be.
pub struct Told {
    /// The type with its `charset`.
    pub content_type: Vec<u8>,
    /// What each byte of the body becomes, if it has another encoding than that.
    pub recoding: Option<Recoding>,
}

/// What an answer of this type is told to be; nothing, if its type stays as it is. A body that `is_packed` can't be
/// recoded.
pub fn of(exchange: &Exchange, status: u16, content_type: &[u8], is_packed: bool) -> Option<Told> {
    let charset = exchange.settings().rare.charset.as_ref()?;
    let name = charset.name.as_ref()?;
    // The page of a redirect is not what the client comes for (nginx).
    if matches!(status, 301..=303 | 307 | 308) {
        return None;
    }
    let (media_type, told) = split(content_type);
    let from = match told {
        Some(told) if charset.overrides => told.to_vec(),
        Some(_) => return None,
        None if !charset.types.has(content_type) => return None,
        None => charset.source.as_ref().map(|source| variables::value(source, exchange)).unwrap_or_default(),
    };
    let to = variables::value(name, exchange);
    if to.is_empty() {
        return None;
    }
    let mut recoding = None;
    if !from.is_empty() && !from.eq_ignore_ascii_case(&to) {
        if is_packed {
            return None;
        }
        recoding = exchange.config.charset_maps.iter().find_map(|map| map.recoding(&from, &to)).cloned();
        if recoding.is_none() {
            let [from, to] = [from, to].map(|name| String::from_utf8_lossy(&name).into_owned());
            let message = format_args!("no \"charset_map\" between the charsets \"{from}\" and \"{to}\"");
            log::about(exchange, Level::Error, message);
            return None;
        }
    }
    Some(Told { content_type: [media_type, b"; charset=", &to].concat(), recoding })
}

/// Whether clients are told that names are UTF-8.
pub fn is_utf8(told: Option<&Told>) -> bool {
    told.is_some_and(|told| told.content_type.to_ascii_lowercase().ends_with(b"; charset=utf-8"))
}

/// A type without its parameters, and what it says of its encoding. Other parameters are part of the type, as in nginx.
fn split(content_type: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut at = 0;
    for parameter in content_type.split(|b| *b == b';') {
        if let Some((name, value)) = parameter.trim_ascii().split_at_checked(8)
            && name.eq_ignore_ascii_case(b"charset=")
            && at > 0
        {
            let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
            return (content_type.get(..at - 1).unwrap_or_default(), Some(value));
        }
        at += parameter.len() + 1;
    }
    (content_type, None)
}

/// Recodes bytes where they are.
pub fn recode(recoding: &Recoding, bytes: &mut [u8]) {
    for byte in bytes {
        *byte = recoding.get(usize::from(*byte)).copied().unwrap_or(*byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_say_what_encoding_they_have() {
        for (content_type, media_type, told) in [
            ("text/html", "text/html", None),
            ("text/html;charset=koi8-r", "text/html", Some("koi8-r")),
            ("text/html; Charset=\"UTF-8\"", "text/html", Some("UTF-8")),
            ("text/html; a=b", "text/html; a=b", None),
            ("text/html; a=b; charset=x", "text/html; a=b", Some("x")),
            ("charset=x", "charset=x", None),
            ("", "", None),
        ] {
            let expected = (media_type.as_bytes(), told.map(str::as_bytes));
            assert_eq!(split(content_type.as_bytes()), expected, "{content_type}");
        }
    }
}
