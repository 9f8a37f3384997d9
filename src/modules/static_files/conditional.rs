//! Validators of a response (RFC 9110 8.8), and the conditions of requests on them (RFC 9110 13).
//!
//! Where nginx is stricter than the RFC, this follows nginx: the client gets the whole response, or a 412 for a malformed
//! condition.

use crate::config::IfModifiedSince;
use crate::http1::head;
use crate::request::exchange::Exchange;
use crate::request::response_headers::HeaderFilter;
use crate::runtime::clock;

/// The values of `Last-Modified` and `ETag`.
#[derive(Clone, Debug, Default)]
pub struct Validators {
    /// Seconds since 1970.
    pub modified: Option<u64>,
    pub etag: Option<Vec<u8>>,
}

impl Validators {
    /// Returns 304 or 412 if that is the response instead of 200.
    pub fn check_preconditions(&self, exchange: &Exchange) -> Option<u16> {
        let header = |name: &'static [u8]| exchange.request.headers.first_named(name);
        if let Some(since) = header(b"if_unmodified_since")
            && clock::parse_http_date(since).is_none_or(|since| self.modified.is_none_or(|time| time > since))
        {
            return Some(412);
        }
        if header(b"if_match").is_some_and(|list| !self.matches_list(list, false)) {
            return Some(412);
        }
        let is_newer = header(b"if_modified_since").map(|since| self.is_modified_since(since, exchange));
        let is_other = header(b"if_none_match").map(|list| !self.matches_list(list, true));
        match (is_newer, is_other) {
            (None, None) | (Some(true), _) | (_, Some(true)) => None,
            _ => Some(304),
        }
    }

    fn is_modified_since(&self, since: &[u8], exchange: &Exchange) -> bool {
        let (Some(since), Some(modified)) = (clock::parse_http_date(since), self.modified) else { return true };
        match exchange.settings().files.if_modified_since {
            IfModifiedSince::Off => true,
            IfModifiedSince::Exact => since != modified,
            IfModifiedSince::Before => since < modified,
        }
    }

    fn matches_list(&self, list: &[u8], weakly: bool) -> bool {
        if list == b"*" {
            return true;
        }
        let Some(etag) = &self.etag else { return false };
        head::tokens(list).any(|token| {
            let opaque = token.strip_prefix(b"W/").filter(|_| weakly).unwrap_or(token);
            opaque == etag
        })
    }

    /// Whether `If-Range` is absent or matches, so that a range may be sent (RFC 9110 13.1.5).
    pub fn if_range_matches(&self, exchange: &Exchange) -> bool {
        let Some(validator) = exchange.request.headers.first_named(b"if_range") else { return true };
        let filter = HeaderFilter::new(exchange, 200, self.modified);
        if validator.len() >= 2 && validator.ends_with(b"\"") {
            return filter.value(head::HeaderName::Etag).or(self.etag.as_deref()).is_some_and(|etag| etag == validator);
        }
        let modified = match filter.value(head::HeaderName::LastModified) {
            Some(value) => clock::parse_http_date(value),
            None => self.modified,
        };
        modified.is_some() && clock::parse_http_date(validator) == modified
    }
}
