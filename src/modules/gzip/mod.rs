//! Which responses are compressed, and for which clients: nginx's rules (`gzip`, `gzip_*`), and beyond nginx an upstream's
//! `no-transform` (RFC 9110 7.7).

pub(crate) mod conf;

use crate::config::{Gzip, MediaTypes, Proxied};
use crate::http1::head::{self, HeaderName, Headers};
use crate::http1::user_agent;
use crate::request::accept_encoding;
use crate::request::exchange::Exchange;
use crate::request::gzip_encoder::Encoder;
use crate::request::response::ContentEncoding;
use crate::request::response_headers::HeaderFilter;
use crate::runtime::clock;

/// The properties of a response that the rules look at.
pub struct ResponseInfo<'a> {
    pub status: u16,
    pub content_type: Option<&'a [u8]>,
    pub length: Option<u64>,
    /// The headers of an upstream's response.
    pub fields: Option<&'a Headers>,
    /// The response is a static file, which has `Last-Modified` and maybe `ETag`.
    pub is_file: bool,
}

/// Decides whether to compress a response.
pub fn content_encoding(exchange: &Exchange, response: &ResponseInfo<'_>) -> ContentEncoding {
    match &exchange.settings().optional.gzip {
        Some(gzip) if Gzip::AVAILABLE && gzip.on && is_compressible(gzip, response) => {
            // A range is a part of the uncompressed file.
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

/// Whether to send `Vary: Accept-Encoding` (`gzip_vary`).
pub fn sends_vary(exchange: &Exchange) -> bool {
    exchange.settings().optional.gzip.as_ref().is_some_and(|gzip| gzip.vary)
}

/// Creates an encoder as configured; `None` only in builds without gzip.
pub fn new_encoder(exchange: &Exchange) -> Option<Encoder> {
    let default = Gzip::default();
    let gzip = exchange.settings().optional.gzip.as_ref().unwrap_or(&default);
    Encoder::new(gzip.level, gzip.window)
}

/// Whether the response may be compressed for a client that accepts gzip.
fn is_compressible(gzip: &Gzip, response: &ResponseInfo<'_>) -> bool {
    // The length of a range says nothing about the file.
    let is_range = response.status == 206 && response.is_file;
    let is_long = response.length.is_none_or(|length| length >= gzip.length_min.max(1));
    (is_range || matches!(response.status, 200 | 403 | 404) && is_long)
        && is_listed(&gzip.types, response.content_type.unwrap_or_default())
        && response.fields.is_none_or(|fields| {
            let is_encoded = fields.all_named(b"content_encoding").any(|value| !value.is_empty());
            let mut directives = fields.all(HeaderName::CacheControl).flat_map(head::tokens);
            !is_encoded && !directives.any(|token| token.eq_ignore_ascii_case(b"no-transform"))
        })
}

/// Whether a media type, compared without parameters, is in the list.
fn is_listed(types: &MediaTypes, content_type: &[u8]) -> bool {
    let media_type = content_type.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
    types.contains(media_type)
}

/// Whether the rules allow gzip for this client, whose Accept-Encoding has it. Also asked for precompressed files.
pub fn may_compress(exchange: &Exchange, response: &ResponseInfo<'_>) -> bool {
    let default = Gzip::default();
    let gzip = exchange.settings().optional.gzip.as_ref().unwrap_or(&default);
    let request = &exchange.request;
    if request.version < gzip.version_min {
        return false;
    }
    if request.headers.first_named(b"via").is_some() && !may_compress_for_proxy(exchange, gzip.proxied, response) {
        return false;
    }
    let agent = request.headers.first_named(b"user_agent").unwrap_or_default();
    let disabled = gzip.disable_msie6 && user_agent::is_msie6(agent);
    !disabled && !gzip.disabled_agents.iter().any(|pattern| !agent.is_empty() && pattern.is_match(agent))
}

/// `gzip_proxied`: a caching proxy might serve the compressed response to clients that do not accept gzip.
fn may_compress_for_proxy(exchange: &Exchange, proxied: Proxied, response: &ResponseInfo<'_>) -> bool {
    if proxied.allows(Proxied::OFF) {
        return false;
    }
    let authorized = || exchange.request.headers.first_named(b"authorization").is_some();
    if proxied.allows(Proxied::ANY) || proxied.allows(Proxied::AUTH) && authorized() {
        return true;
    }
    let mut added = Vec::new();
    HeaderFilter::new(exchange, response.status, None).finish(&mut added);
    let mut sent: Vec<(HeaderName, &[u8])> = added.split(|b| *b == b'\n').filter_map(name_and_value).collect();
    if let Some(fields) = response.fields {
        sent.extend(fields.iter().map(|field| (field.kind, field.value)));
    }
    let values = |kind| sent.iter().filter(move |(name, _)| *name == kind).map(|(_, value)| *value);
    if let Some(expires) = values(HeaderName::Expires).next() {
        let at = clock::parse_http_date(expires);
        return proxied.allows(Proxied::EXPIRED) && at.is_some_and(|at| at < clock::since_epoch().as_secs());
    }
    if values(HeaderName::CacheControl).next().is_some() {
        let directives = || values(HeaderName::CacheControl).flat_map(head::tokens);
        let has = |name: &[u8]| directives().any(|directive| directive.eq_ignore_ascii_case(name));
        return proxied.allows(Proxied::NO_CACHE) && has(b"no-cache")
            || proxied.allows(Proxied::NO_STORE) && has(b"no-store")
            || proxied.allows(Proxied::PRIVATE) && has(b"private");
    }
    let is_dated = response.is_file || values(HeaderName::LastModified).next().is_some();
    let is_tagged = response.is_file && exchange.settings().files.etag || values(HeaderName::Etag).next().is_some();
    !(proxied.allows(Proxied::NO_LAST_MODIFIED) && is_dated || proxied.allows(Proxied::NO_ETAG) && is_tagged)
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
        let listed = MediaTypes::Listed(vec!["text/html".into(), "text/css".into()]);
        for (content_type, expected) in [
            ("text/html", true),
            ("Text/HTML; charset=utf-8", true),
            ("text/css ;a", true),
            ("text/html5", false),
            ("text", false),
            ("", false),
        ] {
            assert_eq!(is_listed(&listed, content_type.as_bytes()), expected, "{content_type}");
            assert!(is_listed(&MediaTypes::All, content_type.as_bytes()));
        }
    }
}
