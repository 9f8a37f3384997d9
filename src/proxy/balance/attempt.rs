//! One request's way through the peers of a group: what it is chosen by, and who was tried.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::{Balance, Sticky, Upstream};
use crate::proxy::balance::peer::Peer;
use crate::request::exchange::Exchange;
use crate::request::variables;
use crate::runtime::socket::Addr;

/// Peers that hashing or chance may find in vain before round robin decides, as in nginx.
const MISSES_MAX: u32 = 20;

/// What leads a request to its peers.
#[derive(Default)]
pub struct Search {
    /// The peer that the client is bound to.
    pub(super) bound: Vec<u8>,
    pub(super) tried: Vec<Arc<Peer>>,
    pub(super) trail: HashProbe,
}

/// How far hashing has come. It goes on from there when a further peer is needed.
#[derive(Default)]
pub(super) struct HashProbe {
    /// What the hash is made of; empty: the peers take turns.
    pub(super) key: Vec<u8>,
    pub(super) hash: u64,
    pub(super) rounds: u32,
    misses: u32,
}

impl HashProbe {
    pub(super) fn with(key: Vec<u8>) -> Self {
        Self { key, ..Self::default() }
    }

    pub(super) fn goes_on(&self) -> bool {
        self.misses <= MISSES_MAX
    }

    pub(super) fn miss(&mut self) {
        self.misses += 1;
    }
}

impl Search {
    pub fn new(upstream: &Upstream, exchange: &Exchange) -> Self {
        let key = match &upstream.balance {
            Balance::IpHash => address_key(&exchange.client.addr),
            Balance::Hash { key, .. } => variables::value(key, exchange),
            Balance::RoundRobin | Balance::LeastConn | Balance::Random { .. } => Vec::new(),
        };
        let bound = match &upstream.sticky {
            None => Vec::new(),
            Some(Sticky::Cookie(cookie)) => variables::value(&cookie.sent, exchange),
            Some(Sticky::Route(values)) => {
                let mut values = values.iter().map(|value| variables::value(value, exchange));
                values.find(|value| !value.is_empty()).unwrap_or_default()
            }
        };
        Self { bound, tried: Vec::new(), trail: HashProbe::with(key) }
    }

    pub(super) fn has_tried(&self, peer: &Arc<Peer>) -> bool {
        self.tried.iter().any(|tried| Arc::ptr_eq(tried, peer))
    }

    /// How many peers were tried.
    pub fn tries(&self) -> usize {
        self.tried.len()
    }
}

/// What `ip_hash` goes by: the network of an IPv4 address, all of an IPv6 address.
pub(super) fn address_key(client: &Addr) -> Vec<u8> {
    match client {
        Addr::Ip(addr) => match addr.ip() {
            IpAddr::V4(ip) => ip.octets().iter().take(3).copied().collect(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        },
        Addr::Unix(_) => vec![0; 3],
    }
}
