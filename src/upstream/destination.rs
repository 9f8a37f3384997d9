//! Where a request goes: the group of peers, and the target that they get, if it is not the one that the client wrote.

use std::sync::Arc;

use crate::balance::Group;
use crate::config::{Chosen, Destination, MadeUrl, Place, Resolver, Url};
use crate::exchange::{Exchange, Made};
use crate::running::Running;
use crate::socket::Addr;
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
        Destination::Made(made) => {
            let start = variables::value(&made.start, exchange);
            let mut rest = Vec::new();
            if let Some(template) = &made.rest {
                variables::write(template, exchange, &mut rest);
            }
            let (group, host, uri) = made_destination(made, start, rest, exchange, running)?;
            exchange.made = Some(host);
            Ok((group, uri.or_else(|| passed_uri(exchange, None))))
        }
    }
}

/// Where a URL leads whose variables have these values: the group, its host, and the URI if there is one.
fn made_destination(
    made: &MadeUrl,
    start: Vec<u8>,
    rest: Vec<u8>,
    exchange: &Exchange,
    running: &Running,
) -> Result<(Arc<Group>, Made, Option<Vec<u8>>), String> {
    let text = |bytes| String::from_utf8(bytes).map_err(|_| "invalid URL of \"proxy_pass\": it is no text".to_owned());
    let (start, rest) = (text(start)?, text(rest)?);
    if !rest.is_empty() && !rest.starts_with(['/', '?']) {
        return Err(format!("no slash follows the host in \"{start}{rest}\""));
    }
    let whole = format!("{start}{rest}");
    let url = Url::parse(&whole).map_err(|_| format!("invalid URL prefix in \"{whole}\""))?;
    let ends_early = made.rest.is_some() && Url::parse(&start).is_ok_and(|url| url.uri.is_some());
    if made.chosen == Chosen::Port && (ends_early || !url.has_port()) {
        return Err(format!("no port in \"{start}\": the client chooses it, a number from 1 to 65535 is expected"));
    }
    let group = match running.group_named(&url) {
        Some(group) => group,
        None if made.only_named => {
            return Err(format!("\"{}\" is chosen by the client and not named in the configuration", url.authority));
        }
        None => {
            let place = url.place().ok_or_else(|| format!("invalid host in upstream \"{}\"", url.authority))?;
            let resolver = match (&exchange.settings().resolver, &place) {
                // A resolver is there for names of hosts: sockets of this machine are no hosts.
                (_, Place::Addr(Addr::Unix(_))) if made.chosen == Chosen::Host => {
                    return Err(format!("\"{}\" is a socket that the client has chosen", url.authority));
                }
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
    let uri = url.uri.map(|uri| if uri.starts_with('/') { uri.to_owned() } else { format!("/{uri}") });
    Ok((group, Made { host, port, tls: url.tls }, uri.map(String::into_bytes)))
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
