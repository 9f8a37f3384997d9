//! Fields that are added to the head of an answer, whatever it is: `expires` and `add_header`.
//!
//! `Expires`, `Cache-Control`, `ETag` and `Last-Modified` take the place of the answer's own.

pub(crate) mod expires;
pub(crate) mod trailers;
pub(crate) mod conf;

use crate::config::AddField;
use crate::http1::head::{HeaderName, write_header};
use crate::request::exchange::Exchange;
use crate::request::response_headers::expires::Freshness;
use crate::request::variables;

/// What is added to one answer.
pub struct HeaderFilter<'e> {
    /// In their order, with their values.
    fields: Vec<(&'e AddField, Vec<u8>)>,
    freshness: Option<Freshness>,
    /// Those of the four that are written already.
    written: Vec<HeaderName>,
}

impl<'e> HeaderFilter<'e> {
    /// What an answer with this status gets that last changed at `modified`.
    pub fn new(exchange: &'e Exchange, status: u16, modified: Option<u64>) -> Self {
        let usual = is_add_header_status(status);
        let applies = |add: &&AddField| add.always || usual;
        let known = exchange.response.head.borrow().len();
        let value = |add: &'e AddField| {
            let value = variables::value(&add.value, exchange);
            // The next one may use it.
            if exchange.config.keeps_sent {
                write_header(&add.name, &value, &mut exchange.response.head.borrow_mut());
            }
            (add, value)
        };
        let fields = exchange.settings().add_field.iter().filter(applies).map(value).collect();
        exchange.response.head.borrow_mut().truncate(known);
        Self {
            fields,
            freshness: if usual { expires::for_response(exchange, modified) } else { None },
            written: Vec::new(),
        }
    }

    /// The value that an `add_header` gives to a field, the last one if there are more. An empty one takes it away.
    pub fn value(&self, kind: HeaderName) -> Option<&[u8]> {
        self.fields.iter().rev().find(|(add, _)| add.kind == kind).map(|(_, value)| value.as_slice())
    }

    /// The answer is sent in another coding.
    pub fn weaken_etag(&mut self) {
        for (_, value) in self.fields.iter_mut().filter(|(add, _)| add.kind == HeaderName::Etag) {
            *value = weak_etag(value).unwrap_or_default();
        }
    }

    /// Writes what stands in the place of a field of the answer; false, if that stays as it is.
    pub fn replace(&mut self, kind: HeaderName, out: &mut Vec<u8>) -> bool {
        let value = match (kind, &self.freshness) {
            (HeaderName::Expires, Some(freshness)) => Some(freshness.expires.as_bytes()),
            (HeaderName::CacheControl, Some(freshness)) => Some(freshness.cache_control.as_bytes()),
            (HeaderName::Etag, _) => self.value(kind),
            // It moves to where the directive has it.
            (HeaderName::LastModified, _) => return self.value(kind).is_some(),
            _ => None,
        };
        let Some(value) = value else { return false };
        if !self.written.contains(&kind) {
            write_replaced(kind, value, out);
            self.written.push(kind);
        }
        true
    }

    /// Writes what only usual answers get, for one that takes the place of one.
    pub fn finish_success_only(mut self, out: &mut Vec<u8>) {
        self.fields.retain(|(add, _)| !add.always && !matches!(add.kind, HeaderName::Etag | HeaderName::LastModified));
        self.finish(out);
    }

    /// Writes what is left.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        for kind in [HeaderName::Etag, HeaderName::Expires, HeaderName::CacheControl] {
            if !self.written.contains(&kind) {
                self.replace(kind, out);
            }
        }
        let last_modified = self.value(HeaderName::LastModified).unwrap_or_default();
        let mut modified_written = last_modified.is_empty();
        for (add, value) in &self.fields {
            match add.kind {
                HeaderName::Etag => {}
                HeaderName::LastModified if modified_written => {}
                HeaderName::LastModified => {
                    write_replaced(add.kind, last_modified, out);
                    modified_written = true;
                }
                _ if value.is_empty() => {}
                _ => write_header(&add.name, value, out),
            }
        }
    }
}

fn write_replaced(kind: HeaderName, value: &[u8], out: &mut Vec<u8>) {
    let name: &[u8] = match kind {
        HeaderName::CacheControl => b"Cache-Control",
        HeaderName::Etag => b"ETag",
        HeaderName::Expires => b"Expires",
        _ => b"Last-Modified",
    };
    if !value.is_empty() {
        write_header(name, value, out);
    }
}

/// Answers that get what is not added to all.
pub fn is_add_header_status(status: u16) -> bool {
    matches!(status, 200 | 201 | 204 | 206 | 301 | 302 | 303 | 304 | 307 | 308)
}

/// The same answer in another coding is not the same bytes: its entity tag becomes a weak one (RFC 9110 8.8.1).
/// One that is none goes.
pub fn weak_etag(etag: &[u8]) -> Option<Vec<u8>> {
    match etag {
        [b'W', b'/', ..] => Some(etag.to_vec()),
        [b'"', ..] => Some([b"W/", etag].concat()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_become_weak_once() {
        assert_eq!(weak_etag(b"\"a\"").as_deref(), Some(&b"W/\"a\""[..]));
        assert_eq!(weak_etag(b"W/\"a\"").as_deref(), Some(&b"W/\"a\""[..]));
        assert_eq!(weak_etag(b"a"), None);
    }
}
