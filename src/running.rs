//! A configuration in force, with the state of its upstreams. A reload makes a new one beside it.

use std::sync::{Arc, Mutex, PoisonError};

use crate::balance::{self, Group};
use crate::config::{Config, Counted, PeerSpec, Upstream, Url, ZoneSpec};
use crate::quota::{Connections, Requests};
use crate::resolver::Resolver;
use crate::socket::Endpoint;

/// Upstreams that `proxy_pass` made of variables and that are remembered.
const MADE_MAX: usize = 256;

pub struct Running {
    pub config: Arc<Config>,
    groups: Vec<Arc<Group>>,
    /// Sorted by host and port, as requests named them; of one name there is one for each resolver.
    made: Mutex<Vec<Arc<Group>>>,
    zones: Vec<Zone>,
}

/// The state of a zone. It outlives its configuration if the next one has the same zone.
#[derive(Clone)]
enum Zone {
    Requests(Arc<Requests>),
    Connections(Arc<Connections>),
}

impl Zone {
    fn new(spec: &ZoneSpec) -> Self {
        match spec.counted {
            Counted::Requests { .. } => Self::Requests(Arc::new(Requests::new(spec.bytes))),
            Counted::Connections => Self::Connections(Arc::new(Connections::new(spec.bytes))),
        }
    }
}

impl Running {
    pub fn new(config: Arc<Config>) -> Self {
        let zones = config.zones.iter().map(Zone::new).collect();
        Self { groups: balance::groups(&config, &[]), config, made: Mutex::default(), zones }
    }

    /// A configuration that follows `old`: it takes its zones over where name, size and key are the same, and keeps the
    /// connections of its peers in mind.
    pub fn after(config: Arc<Config>, old: &Self) -> Self {
        let zones = config.zones.iter().map(|spec| old.zone_like(spec).unwrap_or_else(|| Zone::new(spec))).collect();
        Self { groups: balance::groups(&config, &old.groups), config, made: Mutex::default(), zones }
    }

    fn zone_like(&self, spec: &ZoneSpec) -> Option<Zone> {
        let same = |(known, zone): &(&ZoneSpec, &Zone)| {
            let kind = matches!(spec.counted, Counted::Requests { .. }) == matches!(zone, Zone::Requests(_));
            kind && known.name == spec.name && known.bytes == spec.bytes && known.key_text == spec.key_text
        };
        self.config.zones.iter().zip(&self.zones).find(same).map(|(_, zone)| zone.clone())
    }

    /// The zone of a `limit_req`, and what is to be known of it.
    pub fn requests(&self, number: u32) -> Option<(&ZoneSpec, &Arc<Requests>)> {
        match (self.config.zones.get(number as usize)?, self.zones.get(number as usize)?) {
            (spec, Zone::Requests(zone)) => Some((spec, zone)),
            _ => None,
        }
    }

    /// The zone of a `limit_conn`, and what is to be known of it.
    pub fn connections(&self, number: u32) -> Option<(&ZoneSpec, &Arc<Connections>)> {
        match (self.config.zones.get(number as usize)?, self.zones.get(number as usize)?) {
            (spec, Zone::Connections(zone)) => Some((spec, zone)),
            _ => None,
        }
    }

    /// The name under which the configuration knows a zone, if it still does.
    pub fn name_of(&self, zone: &Arc<Connections>) -> Option<&str> {
        let same = |other: &Zone| matches!(other, Zone::Connections(other) if Arc::ptr_eq(other, zone));
        let mut named = self.config.zones.iter().zip(&self.zones);
        named.find(|(_, other)| same(other)).map(|(spec, _)| spec.name.as_str())
    }

    /// The zone of a `limit_conn` by its name.
    pub fn connections_named(&self, name: &str) -> Option<&Arc<Connections>> {
        let number = self.config.zones.iter().position(|spec| spec.name == name)?;
        self.connections(number as u32).map(|(_, zone)| zone)
    }

    pub fn group(&self, number: u32) -> Option<Arc<Group>> {
        self.groups.get(number as usize).cloned()
    }

    /// All upstreams: those of the configuration, then those that requests have named, by name.
    pub fn all_groups(&self) -> Vec<Arc<Group>> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        [self.groups.as_slice(), &made].concat()
    }

    /// The upstream that the configuration knows by the name, or host and port, of a URL.
    pub fn group_named(&self, url: &Url<'_>) -> Option<Arc<Group>> {
        let names = &self.config.upstream_names;
        let number = names.get(url.authority).or_else(|| names.get(&*url.key()))?;
        self.group(*number)
    }

    /// The upstream for a place that only a request named.
    pub fn made_group(&self, url: &Url<'_>, place: Endpoint, resolver: Arc<Resolver>) -> Arc<Group> {
        let name = url.name();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = made.partition_point(|group| *group.upstream.name < *name);
        let mut known = made.iter().skip(at).take_while(|group| group.upstream.name == name);
        if let Some(group) = known.find(|group| group.upstream.peers.iter().all(|peer| peer.resolver == resolver)) {
            return group.clone();
        }
        let peer = PeerSpec { resolver, ..PeerSpec::new(name.into_owned(), place) };
        let group = Arc::new(Group::new(Arc::new(Upstream { made: true, ..Upstream::of(peer) }), None));
        if made.len() >= MADE_MAX {
            made.clear();
            at = 0;
        }
        made.insert(at, group.clone());
        group
    }
}
