//! `upstream {}`: a named group of peers, and how one of them is chosen.

use std::sync::Arc;
use std::time::Duration;

use super::build::{Draft, Walk, arg, invalid};
use super::syntax::{Directive, Error, Word, placeholder};
use super::{core, table, units};
use crate::socket::Addr;

/// A group of peers.
#[derive(Debug)]
pub struct Upstream {
    /// As `proxy_pass` names it.
    pub name: String,
    pub peers: Vec<PeerSpec>,
    pub balance: Balance,
    /// Idle connections that a worker keeps to it.
    pub keepalive: u32,
    pub keepalive_requests: u32,
    pub keepalive_timeout: Duration,
    pub keepalive_time: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    RoundRobin,
    /// By the client's address: the first three bytes of IPv4, all of IPv6.
    IpHash,
}

/// One `server` of an upstream. A name may stand for several addresses, each of which is a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSpec {
    pub place: Place,
    pub weight: u32,
    /// Failures within `fail_timeout` after which a peer is left alone as long; 0: never.
    pub max_fails: u32,
    pub fail_timeout: Duration,
    /// Connections at the same time; 0: no limit.
    pub max_conns: u32,
    pub backup: bool,
    pub down: bool,
}

/// Where a peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Addr(Addr),
    Name { host: String, port: u16 },
}

impl PeerSpec {
    pub fn new(place: Place) -> Self {
        Self {
            place,
            weight: 1,
            max_fails: 1,
            fail_timeout: Duration::from_secs(10),
            max_conns: 0,
            backup: false,
            down: false,
        }
    }
}

/// What of an upstream is known while its block is read.
#[derive(Default)]
pub(super) struct UpstreamDraft {
    peers: Vec<PeerSpec>,
    balance: Option<Balance>,
    keepalive: Option<u32>,
    pub(super) keepalive_requests: Option<u32>,
    pub(super) keepalive_timeout: Option<Duration>,
    pub(super) keepalive_time: Option<Duration>,
}

impl UpstreamDraft {
    /// Idle connections are kept by default, as nginx does since 1.29.7.
    fn finish(self, name: String) -> Upstream {
        Upstream {
            name,
            peers: self.peers,
            balance: self.balance.unwrap_or(Balance::RoundRobin),
            keepalive: self.keepalive.unwrap_or(32),
            keepalive_requests: self.keepalive_requests.unwrap_or(1000),
            keepalive_timeout: self.keepalive_timeout.unwrap_or(Duration::from_secs(60)),
            keepalive_time: self.keepalive_time.unwrap_or(Duration::from_secs(3600)),
        }
    }
}

impl Upstream {
    /// The group that stands behind a `proxy_pass` to a single place.
    pub fn single(name: String, place: Place) -> Self {
        // nginx never marks the only peer as failed.
        let peer = PeerSpec { max_fails: 0, ..PeerSpec::new(place) };
        UpstreamDraft { peers: vec![peer], ..UpstreamDraft::default() }.finish(name)
    }
}

/// `host`, `host:port`, `unix:/path`; the port is 80 if it is not said.
pub(super) fn place(text: &str) -> Option<Place> {
    if let Some(path) = text.strip_prefix("unix:") {
        return (!path.is_empty()).then(|| Place::Addr(Addr::Unix(Arc::from(path))));
    }
    let (host, port) = units::host_port(text)?;
    let port = port.unwrap_or(80);
    if let Some(ip) = units::ip(host) {
        return Some(Place::Addr(Addr::Ip((ip, port).into())));
    }
    let known = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    known.then(|| Place::Name { host: host.to_owned(), port })
}

pub(super) fn upstream(walk: &mut Walk, draft: &mut Draft, directive: &Directive) -> Result<(), Error> {
    let name = arg(directive, 0)?;
    let mut inner = Draft::new(table::UPSTREAM, draft.settings.clone());
    walk.block(directive.block.as_deref().unwrap_or_default(), &mut inner)?;
    if inner.upstream.peers.is_empty() {
        return Err(Error::new(&directive.name.at, format!("no servers are inside upstream \"{}\"", name.text)));
    }
    if inner.upstream.peers.iter().all(|peer| peer.backup) {
        return Err(Error::new(
            &directive.name.at,
            format!("only backup servers are inside upstream \"{}\"", name.text),
        ));
    }
    if walk.upstream_names.contains_key(&name.text) {
        return Err(Error::new(&name.at, format!("duplicate upstream \"{}\"", name.text)));
    }
    walk.add_upstream(name.text.clone(), inner.upstream.finish(name.text.clone()));
    Ok(())
}

/// `server address [weight=n] [max_fails=n] [fail_timeout=t] [max_conns=n] [backup] [down];`
pub(super) fn server(walk: &mut Walk, draft: &mut Draft, directive: &Directive) -> Result<(), Error> {
    let word = arg(directive, 0)?;
    let place = place(&word.text).ok_or_else(|| wrong_place(directive, word))?;
    let mut peer = PeerSpec::new(place);
    for word in directive.args.iter().skip(1) {
        let (name, value) = word.text.split_once('=').unwrap_or((&word.text, ""));
        let count = || units::number(value).ok_or_else(|| invalid(directive, word, "a number"));
        match name {
            "weight" => {
                peer.weight = count()
                    .and_then(|n| if n > 0 { Ok(n) } else { Err(invalid(directive, word, "a weight of 1 or more")) })?
            }
            "max_fails" => peer.max_fails = count()?,
            "max_conns" => peer.max_conns = count()?,
            "fail_timeout" => {
                peer.fail_timeout = units::time(value).ok_or_else(|| invalid(directive, word, "a time such as 10s"))?;
            }
            "backup" if value.is_empty() => peer.backup = true,
            "down" if value.is_empty() => peer.down = true,
            "resolve" if value.is_empty() => walk.note(&directive.name, "\"resolve\": names are always resolved again"),
            _ => {
                return Err(Error::new(&word.at, format!("invalid parameter \"{}\"", word.text))
                    .hint("weight=, max_fails=, fail_timeout=, max_conns=, backup, down or resolve is expected"));
            }
        }
    }
    draft.upstream.peers.push(peer);
    Ok(())
}

fn wrong_place(directive: &Directive, word: &Word) -> Error {
    if let Some(rest) = word.text.strip_prefix("http://").or_else(|| word.text.strip_prefix("https://")) {
        return Error::new(&word.at, format!("invalid host in upstream \"{}\"", word.text))
            .hint(format!("no scheme here: server {};", rest.trim_end_matches('/')));
    }
    let error = Error::new(&word.at, format!("invalid host in upstream \"{}\"", word.text));
    match placeholder(&word.text) {
        Some(hint) => error.hint(hint),
        None => invalid(directive, word, "host, host:port or unix:/path"),
    }
}

pub(super) fn ip_hash(_: &mut Walk, draft: &mut Draft, _: &Directive) -> Result<(), Error> {
    draft.upstream.balance = Some(Balance::IpHash);
    Ok(())
}

pub(super) fn keepalive(_: &mut Walk, draft: &mut Draft, directive: &Directive) -> Result<(), Error> {
    draft.upstream.keepalive = Some(core::number(directive, arg(directive, 0)?)?);
    Ok(())
}
