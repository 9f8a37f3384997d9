//! A configuration in force, with the state of its upstreams. A reload makes a new one beside it.

use std::sync::{Arc, Mutex, PoisonError};

use crate::config::{Config, PeerSpec, Upstream, Url};
use crate::dns::client::Resolver;
use crate::proxy::balance::{self, UpstreamState};
use crate::request::limit_zones::LimitZones;
use crate::runtime::socket::Endpoint;

/// Upstreams that `proxy_pass` made of variables and that are remembered.
const MADE_MAX: usize = 256;

pub struct Live {
    pub config: Arc<Config>,
    groups: Vec<Arc<UpstreamState>>,
    /// Sorted by host and port, as requests named them; of one name there is one for each resolver.
    made: Mutex<Vec<Arc<UpstreamState>>>,
    pub zones: LimitZones,
}

impl Live {
    pub fn new(config: Arc<Config>) -> Self {
        let zones = LimitZones::new(config.clone(), None);
        Self { groups: balance::groups(&config, &[]), config, made: Mutex::default(), zones }
    }

    /// A configuration that follows `old`: it takes its zones over where name, size and key are the same, and keeps the
    /// connections of its peers in mind.
    pub fn after(config: Arc<Config>, old: &Self) -> Self {
        let zones = LimitZones::new(config.clone(), Some(&old.zones));
        Self { groups: balance::groups(&config, &old.groups), config, made: Mutex::default(), zones }
    }

    pub fn group(&self, number: u32) -> Option<Arc<UpstreamState>> {
        self.groups.get(number as usize).cloned()
    }

    /// All upstreams: those of the configuration, then those that requests have named, by name.
    pub fn all_groups(&self) -> Vec<Arc<UpstreamState>> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        [self.groups.as_slice(), &made].concat()
    }

    /// The upstream that the configuration knows by the name, or host and port, of a URL.
    pub fn group_named(&self, url: &Url<'_>) -> Option<Arc<UpstreamState>> {
        let names = &self.config.upstream_names;
        let number = names.get(url.authority).or_else(|| names.get(&*url.key()))?;
        self.group(*number)
    }

    /// The upstream for a place that only a request named.
    pub fn made_group(&self, url: &Url<'_>, place: Endpoint, resolver: Arc<Resolver>) -> Arc<UpstreamState> {
        let name = url.name();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = made.partition_point(|group| *group.upstream.name < *name);
        let mut known = made.iter().skip(at).take_while(|group| group.upstream.name == name);
        if let Some(group) = known.find(|group| group.upstream.peers.iter().all(|peer| peer.resolver == resolver)) {
            return group.clone();
        }
        let peer = PeerSpec { resolver, ..PeerSpec::new(name.into_owned(), place) };
        let group = Arc::new(UpstreamState::new(Arc::new(Upstream { made: true, ..Upstream::of(peer) }), None));
        if made.len() >= MADE_MAX {
            made.clear();
            at = 0;
        }
        made.insert(at, group.clone());
        group
    }
}
