//! Headers that `expires` and `add_header` add to a response.
//!
//! `Expires`, `Cache-Control`, `ETag` and `Last-Modified` replace those that the response has.

pub(crate) mod expires;
pub(crate) mod trailers;
pub(crate) mod conf;

use crate::config::AddHeader;
use crate::http1::head::{HeaderName, write_header};
use crate::request::exchange::Exchange;
use crate::request::response_headers::expires::Freshness;
use crate::request::variables;

/// The headers to add to one response, evaluated.
pub struct HeaderFilter<'e> {
    /// In the order of the directives, with their values.
    headers: Vec<(&'e AddHeader, Vec<u8>)>,
    freshness: Option<Freshness>,
    /// Those of the four replacing headers that were written.
    written: Vec<HeaderName>,
}

impl<'e> HeaderFilter<'e> {
    /// Evaluates the headers for a response with this status and `Last-Modified`.
    pub fn new(exchange: &'e Exchange, status: u16, modified: Option<u64>) -> Self {
        let applies_to_status = is_add_header_status(status);
        let applies = |add: &&AddHeader| add.always || applies_to_status;
        let start = exchange.response.head.borrow().len();
        let value = |add: &'e AddHeader| {
            let value = variables::value(&add.value, exchange);
            // The value of a later one may use `$sent_http_<name>` of this one.
            if exchange.config.keeps_response_head {
                write_header(&add.name, &value, &mut exchange.response.head.borrow_mut());
            }
            (add, value)
        };
        let headers = exchange.settings().add_headers.iter().filter(applies).map(value).collect();
        exchange.response.head.borrow_mut().truncate(start);
        Self {
            headers,
            freshness: if applies_to_status { expires::for_response(exchange, modified) } else { None },
            written: Vec::new(),
        }
    }

    /// Returns the value that the last `add_header` of a header sets; empty: removes the header.
    pub fn value(&self, kind: HeaderName) -> Option<&[u8]> {
        self.headers.iter().rev().find(|(add, _)| add.kind == kind).map(|(_, value)| value.as_slice())
    }

    /// Makes an `ETag` weak, as the response is encoded on the fly.
    pub fn weaken_etag(&mut self) {
        for (_, value) in self.headers.iter_mut().filter(|(add, _)| add.kind == HeaderName::Etag) {
            *value = weak_etag(value).unwrap_or_default();
        }
    }

    /// Writes the replacement of a header of the response; false if there is none.
    pub fn replace(&mut self, kind: HeaderName, out: &mut Vec<u8>) -> bool {
        let value = match (kind, &self.freshness) {
            (HeaderName::Expires, Some(freshness)) => Some(freshness.expires.as_bytes()),
            (HeaderName::CacheControl, Some(freshness)) => Some(freshness.cache_control.as_bytes()),
            (HeaderName::Etag, _) => self.value(kind),
            // Written by `finish`, in the place of its directive.
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

    /// Writes the headers that `add_header` without `always` adds, for an error that replaces a successful response.
    pub fn finish_success_only(mut self, out: &mut Vec<u8>) {
        self.headers.retain(|(add, _)| !add.always && !matches!(add.kind, HeaderName::Etag | HeaderName::LastModified));
        self.finish(out);
    }

    /// Writes the remaining headers.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        for kind in [HeaderName::Etag, HeaderName::Expires, HeaderName::CacheControl] {
            if !self.written.contains(&kind) {
                self.replace(kind, out);
            }
        }
        let last_modified = self.value(HeaderName::LastModified).unwrap_or_default();
        let mut is_written = last_modified.is_empty();
        for (add, value) in &self.headers {
            match add.kind {
                HeaderName::Etag => {}
                HeaderName::LastModified if is_written => {}
                HeaderName::LastModified => {
                    write_replaced(add.kind, last_modified, out);
                    is_written = true;
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

/// Whether headers without `always` are added to a response with this status.
pub fn is_add_header_status(status: u16) -> bool {
    matches!(status, 200 | 201 | 204 | 206 | 301 | 302 | 303 | 304 | 307 | 308)
}

/// Returns the weak form of an entity tag, as an encoded response has other bytes (RFC 9110 8.8.1); `None` for a malformed
/// one.
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
