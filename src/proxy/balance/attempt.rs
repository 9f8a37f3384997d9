//! The search of one request for a peer: the keys to choose by, and the peers tried so far.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::{Balance, Sticky, Upstream};
use crate::proxy::balance::peer::Peer;
use crate::request::exchange::Exchange;
use crate::request::variables;
use crate::runtime::socket::Addr;

/// Unusable peers that a hash or a random choice may hit before round robin decides, as in nginx.
const MISSES_MAX: u32 = 20;

/// The keys of one request, and the peers it has tried.
#[derive(Default)]
pub struct PeerSelection {
    /// The peer of the client's sticky session; empty: none.
    pub(super) sticky_id: Vec<u8>,
    pub(super) tried: Vec<Arc<Peer>>,
    pub(super) probe: HashProbe,
}

/// The state of hashing, which continues when a further peer is needed.
#[derive(Default)]
pub(super) struct HashProbe {
    /// The text to hash; empty: round robin.
    pub(super) key: Vec<u8>,
    pub(super) hash: u64,
    pub(super) rounds: u32,
    misses: u32,
}

impl HashProbe {
    pub(super) fn for_key(key: Vec<u8>) -> Self {
        Self { key, ..Self::default() }
    }

    pub(super) fn may_continue(&self) -> bool {
        self.misses <= MISSES_MAX
    }

    pub(super) fn count_miss(&mut self) {
        self.misses += 1;
    }
}

impl PeerSelection {
    pub fn new(upstream: &Upstream, exchange: &Exchange) -> Self {
        let key = match &upstream.balance {
            Balance::IpHash => ip_hash_key(&exchange.client.addr),
            Balance::Hash { key, .. } => variables::value(key, exchange),
            Balance::RoundRobin | Balance::LeastConn | Balance::Random { .. } => Vec::new(),
        };
        let sticky_id = match &upstream.sticky {
            None => Vec::new(),
            Some(Sticky::Cookie(cookie)) => variables::value(&cookie.sent_value, exchange),
            Some(Sticky::Route(values)) => {
                let mut values = values.iter().map(|value| variables::value(value, exchange));
                values.find(|value| !value.is_empty()).unwrap_or_default()
            }
        };
        Self { sticky_id, tried: Vec::new(), probe: HashProbe::for_key(key) }
    }

    pub(super) fn has_tried(&self, peer: &Arc<Peer>) -> bool {
        self.tried.iter().any(|tried| Arc::ptr_eq(tried, peer))
    }

    /// Returns the number of peers tried.
    pub fn attempts(&self) -> usize {
        self.tried.len()
    }
}

/// Returns the key of `ip_hash`: the first three bytes of an IPv4 address, all of an IPv6 address.
pub(super) fn ip_hash_key(client: &Addr) -> Vec<u8> {
    match client {
        Addr::Ip(addr) => match addr.ip() {
            IpAddr::V4(ip) => ip.octets().iter().take(3).copied().collect(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        },
        Addr::Unix(_) => vec![0; 3],
    }
}
