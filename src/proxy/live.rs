//! The live configuration with the state of its upstreams and zones. A reload creates the next one beside it.

use std::sync::{Arc, Mutex, PoisonError};

use crate::config::{Config, PeerSpec, Upstream, Url};
use crate::dns::client::Resolver;
use crate::proxy::balance::{self, UpstreamState};
use crate::request::limit_zones::LimitZones;
use crate::runtime::socket::Endpoint;

/// Upstreams of a `proxy_pass` with variables that are kept.
const DYNAMIC_UPSTREAMS_MAX: usize = 256;

pub struct Live {
    pub config: Arc<Config>,
    upstreams: Vec<Arc<UpstreamState>>,
    /// Sorted by name (host and port, as in a URL); several of one name differ in their resolver.
    dynamic: Mutex<Vec<Arc<UpstreamState>>>,
    pub zones: LimitZones,
}

impl Live {
    /// Takes over from `old` the zones whose name, size and key are the same, and the connection counts of peers.
    pub fn new(config: Arc<Config>, old: Option<&Self>) -> Self {
        let upstreams = balance::build_upstreams(&config, old.map_or(&[], |old| &old.upstreams));
        let zones = LimitZones::new(&config, old.map(|old| &old.zones));
        Self { config, upstreams, dynamic: Mutex::default(), zones }
    }

    pub fn upstream(&self, number: u32) -> Option<Arc<UpstreamState>> {
        self.upstreams.get(number as usize).cloned()
    }

    /// Returns the upstreams of the configuration, then the dynamic ones by name.
    pub fn all_upstreams(&self) -> Vec<Arc<UpstreamState>> {
        let dynamic = self.dynamic.lock().unwrap_or_else(PoisonError::into_inner);
        [self.upstreams.as_slice(), &dynamic].concat()
    }

    /// Returns the configured upstream that has the name, or the host and port, of a URL.
    pub fn upstream_named(&self, url: &Url<'_>) -> Option<Arc<UpstreamState>> {
        let names = &self.config.upstream_names;
        let number = names.get(url.authority).or_else(|| names.get(&*url.authority_with_port()))?;
        self.upstream(*number)
    }

    /// Returns the upstream for an endpoint that only a request names, created if there is none yet.
    pub fn dynamic_upstream(&self, url: &Url<'_>, endpoint: Endpoint, resolver: Arc<Resolver>) -> Arc<UpstreamState> {
        let name = url.upstream_name();
        let mut dynamic = self.dynamic.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = dynamic.partition_point(|group| *group.upstream.name < *name);
        let mut same_name = dynamic.iter().skip(at).take_while(|group| group.upstream.name == name);
        if let Some(group) = same_name.find(|group| group.upstream.peers.iter().all(|peer| peer.resolver == resolver)) {
            return group.clone();
        }
        let peer = PeerSpec { resolver, ..PeerSpec::new(name.into_owned(), endpoint) };
        let group = Arc::new(UpstreamState::new(
            Arc::new(Upstream { is_from_request: true, ..Upstream::from_peer(peer) }),
            None,
        ));
        if dynamic.len() >= DYNAMIC_UPSTREAMS_MAX {
            dynamic.clear();
            at = 0;
        }
        dynamic.insert(at, group.clone());
        group
    }
}
