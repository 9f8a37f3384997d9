//! Which answers are compressed on their way, and for whom: nginx's rules (`gzip` and what begins with `gzip_`), and
//! `no-transform` of an upstream besides (RFC 9110 7.7).

pub(crate) mod conf;

use crate::config::{Gzip, Proxied, Types};
use crate::http1::head::{self, HeaderName, Headers};
use crate::http1::user_agent;
use crate::request::accept_encoding;
use crate::request::exchange::Exchange;
use crate::request::gzip_encoder::Encoder;
use crate::request::response::ContentEncoding;
use crate::request::response_headers::HeaderFilter;
use crate::runtime::clock;

/// What the rules ask of an answer.
pub struct ResponseInfo<'a> {
    pub status: u16,
    pub content_type: Option<&'a [u8]>,
    pub length: Option<u64>,
    /// The fields of an upstream's head.
    pub fields: Option<&'a Headers>,
    /// Has `Last-Modified` and `ETag` of its own.
    pub is_file: bool,
}

/// What becomes of the body of an answer.
pub fn content_encoding(exchange: &Exchange, response: &ResponseInfo<'_>) -> ContentEncoding {
    match &exchange.settings().rare.gzip {
        Some(gzip) if Gzip::AVAILABLE && gzip.on && is_compressible(gzip, response) => {
            // A part of a file is a part of what it is itself.
            if response.status != 206 && accept_encoding::accepts(exchange, b"gzip") && may_compress(exchange, response)
            {
                ContentEncoding::Gzip
            } else {
                ContentEncoding::Varies
            }
        }
        _ => ContentEncoding::Plain,
    }
}

/// Whether caches are told what depends on the coding that a client takes (`gzip_vary`).
pub fn sends_vary(exchange: &Exchange) -> bool {
    exchange.settings().rare.gzip.as_ref().is_some_and(|gzip| gzip.vary)
}

/// An encoder as the configuration describes it. None only in builds without gzip.
pub fn new_encoder(exchange: &Exchange) -> Option<Encoder> {
    let default = Gzip::default();
    let gzip = exchange.settings().rare.gzip.as_ref().unwrap_or(&default);
    Encoder::new(gzip.level, gzip.window)
}

/// Whether clients that accept it get the answer compressed.
fn is_compressible(gzip: &Gzip, response: &ResponseInfo<'_>) -> bool {
    // The length of a part says nothing of the file.
    let is_part = response.status == 206 && response.is_file;
    let is_long = response.length.is_none_or(|length| length >= gzip.length_min.max(1));
    (is_part || matches!(response.status, 200 | 403 | 404) && is_long)
        && is_listed(&gzip.types, response.content_type.unwrap_or_default())
        && response.fields.is_none_or(|fields| {
            let encoded = fields.all_named(b"content_encoding").any(|value| !value.is_empty());
            let mut fixed = fields.all(HeaderName::CacheControl).flat_map(head::tokens);
            !encoded && !fixed.any(|token| token.eq_ignore_ascii_case(b"no-transform"))
        })
}

/// Whether a media type is in the list, whatever its parameters.
fn is_listed(types: &Types, content_type: &[u8]) -> bool {
    let media_type = content_type.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
    types.has(media_type)
}

/// Whether this client, that says it accepts it, may get the answer encoded. Also for what was compressed beforehand.
pub fn may_compress(exchange: &Exchange, response: &ResponseInfo<'_>) -> bool {
    let default = Gzip::default();
    let gzip = exchange.settings().rare.gzip.as_ref().unwrap_or(&default);
    let request = &exchange.request;
    if request.version < gzip.version_min {
        return false;
    }
    if request.headers.first_named(b"via").is_some() && !may_compress_for_proxy(exchange, gzip.proxied, response) {
        return false;
    }
    let agent = request.headers.first_named(b"user_agent").unwrap_or_default();
    let disabled = gzip.not_msie6 && user_agent::is_msie6(agent);
    !disabled && !gzip.disable.iter().any(|pattern| !agent.is_empty() && pattern.is_match(agent))
}

/// `gzip_proxied`: another proxy may keep an answer, and give it to those who can't read it.
fn may_compress_for_proxy(exchange: &Exchange, proxied: Proxied, response: &ResponseInfo<'_>) -> bool {
    if proxied.has(Proxied::OFF) {
        return false;
    }
    let authorized = || exchange.request.headers.first_named(b"authorization").is_some();
    if proxied.has(Proxied::ANY) || proxied.has(Proxied::AUTH) && authorized() {
        return true;
    }
    let mut lines = Vec::new();
    HeaderFilter::new(exchange, response.status, None).finish(&mut lines);
    let mut sent: Vec<(HeaderName, &[u8])> = lines.split(|b| *b == b'\n').filter_map(name_and_value).collect();
    if let Some(fields) = response.fields {
        sent.extend(fields.iter().map(|field| (field.kind, field.value)));
    }
    let values = |kind| sent.iter().filter(move |(known, _)| *known == kind).map(|(_, value)| *value);
    if let Some(expires) = values(HeaderName::Expires).next() {
        let at = clock::parse_http_date(expires);
        return proxied.has(Proxied::EXPIRED) && at.is_some_and(|at| at < clock::since_epoch().as_secs());
    }
    if values(HeaderName::CacheControl).next().is_some() {
        let is = |value, word: &[u8]| head::tokens(value).any(|token| token.eq_ignore_ascii_case(word));
        let has = |word: &[u8]| values(HeaderName::CacheControl).any(|value| is(value, word));
        return proxied.has(Proxied::NO_CACHE) && has(b"no-cache")
            || proxied.has(Proxied::NO_STORE) && has(b"no-store")
            || proxied.has(Proxied::PRIVATE) && has(b"private");
    }
    let is_dated = response.is_file || values(HeaderName::LastModified).next().is_some();
    let is_tagged = response.is_file && exchange.settings().files.etag || values(HeaderName::Etag).next().is_some();
    !(proxied.has(Proxied::NO_LAST_MODIFIED) && is_dated || proxied.has(Proxied::NO_ETAG) && is_tagged)
}

fn name_and_value(line: &[u8]) -> Option<(HeaderName, &[u8])> {
    let colon = line.iter().position(|b| *b == b':')?;
    let (name, rest) = line.split_at(colon);
    Some((HeaderName::from_bytes(name), rest.strip_prefix(b":")?.trim_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_compared_without_parameters_and_letter_case() {
        let listed = Types::Listed(vec!["text/html".into(), "text/css".into()]);
        for (content_type, expected) in [
            ("text/html", true),
            ("Text/HTML; charset=utf-8", true),
            ("text/css ;a", true),
            ("text/html5", false),
            ("text", false),
            ("", false),
        ] {
            assert_eq!(is_listed(&listed, content_type.as_bytes()), expected, "{content_type}");
            assert!(is_listed(&Types::All, content_type.as_bytes()));
        }
    }
}
