//! Where a request goes: the group of peers, and the target that they get, if it is not the one that the client wrote.

use std::sync::Arc;

use crate::balance::Group;
use crate::config::{Destination, Place, Resolver, Url};
use crate::exchange::{Exchange, Made};
use crate::running::Running;
use crate::target;
use crate::variables;

/// Where the request goes, and the target that it gets there.
pub(super) fn destination(exchange: &mut Exchange, running: &Running) -> Result<(Arc<Group>, Option<Vec<u8>>), String> {
    let Some(pass) = exchange.pass() else { return Err("no upstream is configured".to_owned()) };
    let unknown = || "no such upstream".to_owned();
    match &pass.destination {
        Destination::Upstream(number) => {
            let group = running.group(*number).ok_or_else(unknown)?;
            Ok((group, passed_uri(exchange, pass.uri.as_deref())))
        }
        Destination::Made { url, only_named } => {
            let only_named = *only_named;
            let made = variables::value(url, exchange);
            let made =
                String::from_utf8(made).map_err(|_| "invalid URL of \"proxy_pass\": it is no text".to_owned())?;
            let url = Url::parse(&made).map_err(|_| format!("invalid URL prefix in \"{made}\""))?;
            let group = match running.group_named(&url) {
                Some(group) => group,
                None if only_named => {
                    return Err(format!(
                        "\"{}\" is chosen by the client and not named in the configuration",
                        url.authority
                    ));
                }
                None => {
                    let place = url.place().ok_or_else(|| format!("invalid host in upstream \"{}\"", url.authority))?;
                    let resolver = match (&exchange.settings().resolver, &place) {
                        (Some(resolver), _) => resolver.clone(),
                        (None, Place::Addr(_)) => Arc::new(Resolver::system(None)),
                        (None, Place::Name { .. }) => {
                            return Err(format!("no resolver defined to resolve {}", url.authority));
                        }
                    };
                    running.made_group(&url, place, resolver)
                }
            };
            let (host, port) = url.host_and_port();
            exchange.made = Some(Made { host, port, tls: url.tls });
            let uri = match url.uri {
                None => passed_uri(exchange, None),
                Some(uri) if uri.starts_with('/') => Some(uri.as_bytes().to_vec()),
                Some(uri) => Some(format!("/{uri}").into_bytes()),
            };
            Ok((group, uri))
        }
    }
}

/// The target: as the client wrote it, or with the location's part replaced by the URI of `proxy_pass`.
fn passed_uri(exchange: &Exchange, replacement: Option<&str>) -> Option<Vec<u8>> {
    // What `rewrite ... break` made goes as it is, whatever `proxy_pass` says (nginx).
    let replacement = replacement.filter(|_| !exchange.broke);
    if replacement.is_none() && !exchange.rewritten && !exchange.args_changed {
        return None;
    }
    let (replacement, matched) = match replacement {
        Some(replacement) => (replacement, exchange.location.as_ref().map_or(0, |location| location.path.len())),
        None => ("", 0),
    };
    let mut uri = replacement.as_bytes().to_vec();
    target::encode_path(exchange.path.get(matched..).unwrap_or_default(), &mut uri);
    if let Some(args) = exchange.args.as_ref().filter(|args| !args.is_empty()) {
        uri.push(if replacement.contains('?') { b'&' } else { b'?' });
        uri.extend_from_slice(args);
    }
    Some(uri)
}
