//! Where a request goes: the group of peers, and the target that they get, if it is not the one that the client wrote.

use std::sync::Arc;

use crate::config::{ClientChoice, Destination, DynamicUrl, Url};
use crate::dns::client::Resolver;
use crate::http1::uri;
use crate::proxy::balance::UpstreamState;
use crate::proxy::live::Live;
use crate::request::exchange::{Exchange, ResolvedProxyPass};
use crate::request::variables;
use crate::runtime::socket::{Addr, Endpoint};

/// Where the request goes, and the target that it gets there.
pub(crate) fn destination(
    exchange: &mut Exchange,
    running: &Live,
) -> Result<(Arc<UpstreamState>, Option<Vec<u8>>), String> {
    let Some(pass) = exchange.proxy_pass() else { return Err("no upstream is configured".to_owned()) };
    let unknown = || "no such upstream".to_owned();
    match &pass.destination {
        Destination::Upstream(number) => {
            let group = running.upstream(*number).ok_or_else(unknown)?;
            Ok((group, passed_uri(exchange, pass.uri.as_deref())))
        }
        Destination::Dynamic(made) => {
            let (group, host, uri) = made_destination(made, exchange, running)?;
            exchange.upstream.target = Some(host);
            Ok((group, uri.or_else(|| passed_uri(exchange, None))))
        }
    }
}

/// The group that a URL with variables leads to, its host, and its URI if it has one.
type Found = (Arc<UpstreamState>, ResolvedProxyPass, Option<Vec<u8>>);

/// Where a URL with variables leads.
fn made_destination(made: &DynamicUrl, exchange: &Exchange, running: &Live) -> Result<Found, String> {
    let mut whole = variables::value(&made.start, exchange);
    let start = whole.len();
    variables::write(&made.middle, exchange, &mut whole);
    let middle = whole.len();
    if let Some(rest) = &made.rest {
        variables::write(rest, exchange, &mut whole);
    }
    let whole = String::from_utf8(whole).map_err(|_| "invalid URL of \"proxy_pass\": it is no text".to_owned())?;
    let url = Url::parse(&whole).map_err(|_| format!("invalid URL prefix in \"{whole}\""))?;
    // Where a slash begins what the client chooses, it has no say in the authority.
    let own = whole.get(..start).unwrap_or_default();
    let is_own = Url::parse(own).is_ok_and(|own| own.authority == url.authority);
    let port = whole.get(start..middle).filter(|_| own.ends_with(':') && made.rest.is_some());
    let is_port = url.has_port() && port.is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()));
    match made.chosen {
        ClientChoice::Nothing if !is_own => {
            return Err(format!("\"{own}\" is not followed by a slash in the URL \"{whole}\" of \"proxy_pass\""));
        }
        ClientChoice::Port if !is_port && (!is_own || own.ends_with(':')) => {
            return Err(format!("\"{own}\" is not followed by a port, a number from 1 to 65535, in \"{whole}\""));
        }
        _ => {}
    }
    let (only_named, is_clients) = (made.requires_known_host && !is_own, made.chosen == ClientChoice::Host && !is_own);
    let group = match running.upstream_named(&url) {
        Some(group) => group,
        None if only_named => {
            return Err(format!("\"{}\" is chosen by the client and not named in the configuration", url.authority));
        }
        None => {
            let place = url.endpoint().ok_or_else(|| format!("invalid host in upstream \"{}\"", url.authority))?;
            let resolver = match (&exchange.settings().resolver, &place) {
                // A resolver is there for names of hosts: sockets of this machine are no hosts.
                (_, Endpoint::Addr(Addr::Unix(_))) if is_clients => {
                    return Err(format!("\"{}\" is a socket that the client has chosen", url.authority));
                }
                (Some(resolver), _) => resolver.clone(),
                (None, Endpoint::Addr(_)) => Arc::new(Resolver::system(None)),
                (None, Endpoint::Name { .. }) => {
                    return Err(format!("no resolver defined to resolve {}", url.authority));
                }
            };
            running.dynamic_upstream(&url, place, resolver)
        }
    };
    let (host, port) = url.host_and_port();
    let uri = url.uri.map(|uri| if uri.starts_with('/') { uri.to_owned() } else { format!("/{uri}") });
    Ok((group, ResolvedProxyPass { host, port, tls: url.tls }, uri.map(String::into_bytes)))
}

/// The target: as the client wrote it, or with the location's part replaced by the URI of `proxy_pass`.
fn passed_uri(exchange: &Exchange, replacement: Option<&str>) -> Option<Vec<u8>> {
    // What `rewrite ... break` made goes as it is, whatever `proxy_pass` says (nginx).
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
