//! Resolves `proxy_pass` to an upstream and the URI for it.

use std::sync::Arc;

use crate::config::{ClientChoice, Destination, DynamicUrl, Url};
use crate::dns::client::Resolver;
use crate::http1::uri;
use crate::proxy::balance::UpstreamState;
use crate::proxy::live::Live;
use crate::request::exchange::{Exchange, ResolvedProxyPass};
use crate::request::variables;
use crate::runtime::socket::{Addr, Endpoint};

/// Why a request has no destination.
pub(crate) struct DestinationError {
    /// What the client gets: 500 for a value that is no URL, 502 for a URL that leads nowhere.
    pub(crate) status: u16,
    pub(crate) message: String,
}

impl DestinationError {
    fn invalid_url(message: String) -> Self {
        Self { status: 500, message }
    }

    fn no_upstream(message: String) -> Self {
        Self { status: 502, message }
    }
}

/// Resolves `proxy_pass`: the upstream, and the URI for it if that differs from the client's.
pub(crate) fn resolve_destination(
    exchange: &mut Exchange,
    live: &Live,
) -> Result<(Arc<UpstreamState>, Option<Vec<u8>>), DestinationError> {
    let Some(pass) = exchange.proxy_pass() else {
        return Err(DestinationError::no_upstream("no upstream is configured".to_owned()));
    };
    let unknown = || DestinationError::no_upstream("no such upstream".to_owned());
    match &pass.destination {
        Destination::Upstream(number) => {
            let upstream = live.upstream(*number).ok_or_else(unknown)?;
            Ok((upstream, upstream_uri(exchange, pass.uri.as_deref())))
        }
        Destination::Dynamic(made) => {
            let (upstream, host, uri) = variable_destination(made, exchange, live)?;
            exchange.upstream.target = Some(host);
            Ok((upstream, uri.or_else(|| upstream_uri(exchange, None))))
        }
    }
}

/// The upstream of a URL with variables, its host, and its URI if it has one.
type Found = (Arc<UpstreamState>, ResolvedProxyPass, Option<Vec<u8>>);

fn variable_destination(made: &DynamicUrl, exchange: &Exchange, live: &Live) -> Result<Found, DestinationError> {
    let mut whole = variables::value(&made.start, exchange);
    let start = whole.len();
    variables::write(&made.middle, exchange, &mut whole);
    let middle = whole.len();
    if let Some(rest) = &made.rest {
        variables::write(rest, exchange, &mut whole);
    }
    let whole = String::from_utf8(whole)
        .map_err(|_| DestinationError::invalid_url("invalid URL of \"proxy_pass\": it is not UTF-8".to_owned()))?;
    let url =
        Url::parse(&whole).map_err(|_| DestinationError::invalid_url(format!("invalid URL prefix in \"{whole}\"")))?;
    // If a slash precedes what the client chooses, it can't change the authority.
    let own = whole.get(..start).unwrap_or_default();
    let is_own = Url::parse(own).is_ok_and(|own| own.authority == url.authority);
    let port = whole.get(start..middle).filter(|_| own.ends_with(':') && made.rest.is_some());
    let is_port = url.has_port() && port.is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()));
    match made.client_choice {
        ClientChoice::Nothing if !is_own => {
            return Err(DestinationError::no_upstream(format!(
                "\"{own}\" is not followed by a slash in the URL \"{whole}\" of \"proxy_pass\""
            )));
        }
        ClientChoice::Port if !is_port && (!is_own || own.ends_with(':')) => {
            return Err(DestinationError::no_upstream(format!(
                "\"{own}\" is not followed by a port, a number from 1 to 65535, in \"{whole}\""
            )));
        }
        _ => {}
    }
    let (only_named, is_clients) =
        (made.requires_known_host && !is_own, made.client_choice == ClientChoice::Host && !is_own);
    let upstream = match live.upstream_named(&url) {
        Some(upstream) => upstream,
        None if only_named => {
            return Err(DestinationError::no_upstream(format!(
                "\"{}\" is chosen by the client and not named in the configuration",
                url.authority
            )));
        }
        None => {
            let place = url.endpoint().ok_or_else(|| {
                DestinationError::invalid_url(format!("invalid host in upstream \"{}\"", url.authority))
            })?;
            let resolver = match (&exchange.settings().resolver, &place) {
                // A resolver is for host names, not for Unix sockets of this machine.
                (_, Endpoint::Addr(Addr::Unix(_))) if is_clients => {
                    return Err(DestinationError::no_upstream(format!(
                        "\"{}\" is a socket that the client has chosen",
                        url.authority
                    )));
                }
                (Some(resolver), _) => resolver.clone(),
                (None, Endpoint::Addr(_)) => Arc::new(Resolver::system(None)),
                (None, Endpoint::Name { .. }) => {
                    return Err(DestinationError::no_upstream(format!(
                        "no resolver defined to resolve {}",
                        url.authority
                    )));
                }
            };
            live.dynamic_upstream(&url, place, resolver)
        }
    };
    let (host, port) = url.host_and_port();
    let uri = url.uri.map(|uri| if uri.starts_with('/') { uri.to_owned() } else { format!("/{uri}") });
    Ok((upstream, ResolvedProxyPass { host, port, tls: url.tls }, uri.map(String::into_bytes)))
}

/// The URI for the upstream: `None` for that of the client; otherwise the URI of `proxy_pass` replaces the location.
fn upstream_uri(exchange: &Exchange, replacement: Option<&str>) -> Option<Vec<u8>> {
    // After `rewrite ... break` the URI is forwarded whole, whatever `proxy_pass` says (nginx).
    let replacement = replacement.filter(|_| !exchange.routing.rewrite_break);
    if replacement.is_none() && !exchange.uri.path_changed && !exchange.uri.args_changed {
        return None;
    }
    let (replacement, matched) = match replacement {
        Some(replacement) => (replacement, exchange.location.as_ref().map_or(0, |location| location.path.len())),
        None => ("", 0),
    };
    let mut uri = replacement.as_bytes().to_vec();
    uri::encode_path(exchange.uri.path.get(matched..).unwrap_or_default(), &mut uri);
    if let Some(args) = exchange.uri.args.as_ref().filter(|args| !args.is_empty()) {
        uri.push(if replacement.contains('?') { b'&' } else { b'?' });
        uri.extend_from_slice(args);
    }
    Some(uri)
}
