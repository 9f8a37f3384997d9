//! `upstream {}`: a named group of peers.

use std::sync::Arc;
use std::time::Duration;

use crate::config::arguments::{self, arg, invalid_value};
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Error, Result, Word, placeholder_hint};
use crate::config::{directives, values};
use crate::dns::client::Resolver;
use crate::proxy::balance::conf::{Balance, QueueSpec, Sticky};
use crate::proxy::health_conf::HealthCheck;
use crate::runtime::socket::{Addr, Endpoint};

/// The longest `route=`.
const ROUTE_BYTES_MAX: usize = 32;

/// A group of peers.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The name that `proxy_pass` uses.
    pub name: String,
    pub peers: Vec<Arc<PeerSpec>>,
    pub balance: Balance,
    pub sticky: Option<Sticky>,
    pub queue: Option<QueueSpec>,
    pub health_check: Option<Arc<HealthCheck>>,
    /// The limit of idle connections per worker.
    pub keepalive: u32,
    pub keepalive_requests: u32,
    pub keepalive_timeout: Duration,
    pub keepalive_time: Duration,
    /// How long a request waits for the address of a peer. None: as set for its location.
    pub resolver_timeout: Option<Duration>,
    /// Created by a request, from a `proxy_pass` with variables. Its peers are tried even if all have failed, as in nginx.
    pub is_from_request: bool,
}

/// One `server` of an upstream. A name may resolve to several addresses, each of which is a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSpec {
    /// As written; the input of consistent hashing.
    pub name: String,
    pub endpoint: Endpoint,
    /// Resolves the name.
    pub resolver: Arc<Resolver>,
    pub weight: u32,
    /// Failures within `fail_timeout` that make the peer unavailable for the same time; 0: never.
    pub max_fails: u32,
    pub fail_timeout: Duration,
    /// The limit of concurrent connections; 0: none.
    pub max_conns: u32,
    /// How long the weight of a recovered peer ramps up; zero: no ramp.
    pub slow_start: Duration,
    /// The value of `sticky` for the peer. None: its address.
    pub route: Option<String>,
    pub backup: bool,
    pub down: bool,
    /// Only receives requests that `sticky` binds to it.
    pub drain: bool,
}

impl PeerSpec {
    pub fn new(name: String, endpoint: Endpoint) -> Self {
        Self {
            name,
            endpoint,
            resolver: Arc::new(Resolver::system(None)),
            weight: 1,
            max_fails: 1,
            fail_timeout: Duration::from_secs(10),
            max_conns: 0,
            slow_start: Duration::ZERO,
            route: None,
            backup: false,
            down: false,
            drain: false,
        }
    }
}

/// An `upstream` block under construction.
#[derive(Default)]
pub(crate) struct UpstreamBuilder {
    pub(crate) upstream: Upstream,
    /// Whether a load-balancing method is set.
    pub(crate) has_method: bool,
    /// A `health_check` and its position; also of a location.
    pub(crate) health_check: Option<(HealthCheck, Word)>,
}

impl Default for Upstream {
    /// With idle connections, as in nginx since 1.29.7.
    fn default() -> Self {
        Self {
            name: String::new(),
            peers: Vec::new(),
            balance: Balance::RoundRobin,
            sticky: None,
            queue: None,
            health_check: None,
            keepalive: 32,
            keepalive_requests: 1000,
            keepalive_timeout: Duration::from_secs(60),
            keepalive_time: Duration::from_secs(3600),
            resolver_timeout: None,
            is_from_request: false,
        }
    }
}

impl Upstream {
    /// Returns the implicit upstream of a `proxy_pass` to one endpoint.
    pub fn single(name: String, endpoint: Endpoint) -> Self {
        Self::from_peer(PeerSpec::new(name, endpoint))
    }

    /// Returns an upstream of one peer, with its name.
    pub fn from_peer(peer: PeerSpec) -> Self {
        Self { name: peer.name.clone(), peers: vec![Arc::new(peer)], ..Self::default() }
    }
}

/// Parses `host`, `host:port` or `unix:/path`; the default port is 80.
pub(crate) fn parse_endpoint(text: &str) -> Option<Endpoint> {
    parse_endpoint_with_port(text, 80)
}

/// As [`parse_endpoint`], with another default port.
pub(crate) fn parse_endpoint_with_port(text: &str, usual_port: u16) -> Option<Endpoint> {
    if let Some(path) = text.strip_prefix("unix:") {
        return (!path.is_empty()).then(|| Endpoint::Addr(Addr::Unix(Arc::from(path))));
    }
    let (host, port) = values::host_port(text)?;
    let port = port.unwrap_or(usual_port);
    if let Some(ip) = values::ip(host) {
        return Some(Endpoint::Addr(Addr::Ip((ip, port).into())));
    }
    let known = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    known.then(|| Endpoint::Name { host: host.to_owned(), port })
}

pub(crate) fn upstream(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let name = arg(directive, 0);
    let inner = &mut builder.build_block(block, directive, directives::UPSTREAM, None)?.upstream;
    let mut upstream = std::mem::take(&mut inner.upstream);
    if upstream.peers.is_empty() {
        return Err(Error::formatted(&directive.name.at, "no servers are inside upstream \"{}\"", &name.text));
    }
    if upstream.peers.iter().all(|peer| peer.backup) {
        return Err(Error::formatted(&directive.name.at, "only backup servers are inside upstream \"{}\"", &name.text));
    }
    builder.claim_name("upstream", name)?;
    upstream.name.clone_from(&name.text);
    upstream.health_check = inner.health_check.take().map(|(check, _)| Arc::new(check.with_default_host(&name.text)));
    builder.add_upstream(name.text.clone(), upstream);
    Ok(())
}

/// `server address [parameters];`
pub(crate) fn server(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    let endpoint = parse_endpoint(&word.text).ok_or_else(|| invalid_endpoint(directive, word))?;
    if let Endpoint::Name { host, .. } = &endpoint
        && !directive.args.iter().any(|word| word.text == "resolve")
    {
        builder.refer_to_host(word, host);
    }
    let mut peer = PeerSpec { resolver: block.system_resolver(), ..PeerSpec::new(word.text.clone(), endpoint) };
    for word in directive.args.iter().skip(1) {
        match (word.text.as_str(), &block.settings.resolver) {
            ("resolve", Some(resolver)) => peer.resolver = resolver.clone(),
            ("resolve", None) => {
                builder.note(&directive.name, "\"resolve\" without a \"resolver\": the system's is used")
            }
            (text, _) if text.starts_with("service=") => {
                return Err(Error::new(&word.at, "\"service=\" is not supported")
                    .hint("SRV records are not supported: write the port"));
            }
            _ => parameter(&mut peer, directive, word)?,
        }
    }
    block.upstream.upstream.peers.push(Arc::new(peer));
    Ok(())
}

fn parameter(peer: &mut PeerSpec, directive: &Directive, word: &Word) -> Result {
    let count = |value: &str| values::number(value).ok_or_else(|| invalid_value(directive, word, "a number"));
    let time = |value: &str| values::time(value).ok_or_else(|| invalid_value(directive, word, "a time such as 10s"));
    match word.text.split_once('=') {
        Some(("weight", value)) => match count(value)? {
            0 => return Err(invalid_value(directive, word, "a weight of 1 or more")),
            weight => peer.weight = weight,
        },
        Some(("max_fails", value)) => peer.max_fails = count(value)?,
        Some(("max_conns", value)) => peer.max_conns = count(value)?,
        Some(("fail_timeout", value)) => peer.fail_timeout = time(value)?,
        Some(("slow_start", value)) => peer.slow_start = time(value)?,
        Some(("route", value)) if value.len() <= ROUTE_BYTES_MAX => peer.route = Some(value.to_owned()),
        Some(("route", _)) => return Err(invalid_value(directive, word, "a route of at most 32 bytes")),
        None if word.text == "backup" => peer.backup = true,
        None if word.text == "down" => peer.down = true,
        None if word.text == "drain" => peer.drain = true,
        _ => {
            return Err(word.error("invalid parameter \"{}\"").hint(
                "weight=, max_fails=, fail_timeout=, max_conns=, slow_start=, route=, backup, down, drain or resolve \
                 is expected",
            ));
        }
    }
    Ok(())
}

fn invalid_endpoint(directive: &Directive, word: &Word) -> Error {
    if let Some(rest) = word.text.strip_prefix("http://").or_else(|| word.text.strip_prefix("https://")) {
        return word
            .error("invalid host in upstream \"{}\"")
            .hint_formatted("without a scheme: server {};", rest.trim_end_matches('/'));
    }
    let error = word.error("invalid host in upstream \"{}\"");
    match placeholder_hint(&word.text) {
        Some(hint) => error.hint(hint),
        None => invalid_value(directive, word, "host, host:port or unix:/path"),
    }
}

/// nginx's minimum.
const ZONE_BYTES_MIN: u64 = 32 * 1024;

/// Without effect: all workers share the state of upstreams anyway.
pub(crate) fn zone(_: &mut Builder, _: &mut BlockBuilder, directive: &Directive) -> Result {
    match directive.args.get(1) {
        Some(word) if arguments::size(directive, word)? < ZONE_BYTES_MIN => {
            Err(invalid_value(directive, word, "a size of 32k or more"))
        }
        _ => Ok(()),
    }
}
