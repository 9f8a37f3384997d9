//! Which peer of an upstream gets the next request, and what is known of the peers.
//!
//! Smooth weighted round robin and `ip_hash`, with nginx's rules for failed peers. All workers share the state; it is
//! locked for a few comparisons.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::config::{Balance, Config, PeerSpec, Place, Resolver, Upstream};
use crate::names;
use crate::reactor::{self, Millis};
use crate::socket::Addr;

/// Tries of `ip_hash` before round robin decides, as in nginx.
const HASH_TRIES: u32 = 20;

/// An upstream and the state of its peers.
pub struct Group {
    pub upstream: Arc<Upstream>,
    peers: Mutex<Vec<Peer>>,
}

#[derive(Clone)]
struct Peer {
    addr: Addr,
    /// Which `server` line it comes from.
    spec: usize,
    effective: i64,
    current: i64,
    fails: u32,
    accessed: Millis,
    checked: Millis,
    conns: u32,
    tries: u64,
    failures: u64,
}

/// How a peer is, for people and programs that watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerState {
    /// Its address, or its name as long as nobody has looked that up.
    pub place: String,
    pub health: Health,
    pub backup: bool,
    pub weight: u32,
    /// Connections that are in use; idle ones are not.
    pub conns: u32,
    /// Requests that were sent to it or could not be, and those of them that it failed.
    pub tries: u64,
    pub failures: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Up,
    /// Left alone for a while because of its failures (`max_fails`).
    Failed,
    /// Taken out by the configuration (`down`).
    Down,
    /// Its name was not looked up yet, or has no address.
    Unknown,
}

impl Peer {
    fn is(&self, id: &PeerId) -> bool {
        self.spec == id.spec && self.addr == id.addr
    }

    fn is_among(&self, ids: &[PeerId]) -> bool {
        ids.iter().any(|id| self.is(id))
    }

    fn state(&self, spec: &PeerSpec, alone: bool) -> PeerState {
        let health = match spec.down {
            true => Health::Down,
            false if !alone && has_failed(self, spec) => Health::Failed,
            false => Health::Up,
        };
        let (conns, tries, failures) = (self.conns, self.tries, self.failures);
        PeerState { place: self.addr.to_string(), health, conns, tries, failures, ..unknown(spec) }
    }
}

/// How a try with a peer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    Failed,
    /// Neither its success nor its fault.
    Neutral,
}

/// Which peer: the same address may stand in several lines, each of which is a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerId {
    spec: usize,
    pub addr: Addr,
}

/// A peer that was chosen; a connection to it is counted until this is dropped.
pub struct Chosen {
    group: Arc<Group>,
    pub peer: PeerId,
}

impl Chosen {
    /// Tells how it went.
    pub fn report(&self, outcome: Outcome) {
        self.group.report(&self.peer, outcome);
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        if let Some(peer) = self.group.lock().iter_mut().find(|peer| peer.is(&self.peer)) {
            peer.conns = peer.conns.saturating_sub(1);
        }
    }
}

/// The groups of a configuration, in its order.
pub fn groups(config: &Config) -> Vec<Arc<Group>> {
    config.upstreams.iter().map(|upstream| Arc::new(Group::new(upstream.clone()))).collect()
}

impl Group {
    pub fn new(upstream: Arc<Upstream>) -> Self {
        Self { upstream, peers: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the peers up to date with what their names stand for. Names that were resolved before don't wait.
    pub async fn refresh(&self, resolver: Resolver) {
        let fixed = self.upstream.peers.iter().all(|spec| matches!(spec.place, Place::Addr(_)));
        if fixed && !self.lock().is_empty() {
            return;
        }
        let mut addrs = Vec::new();
        for (at, spec) in self.upstream.peers.iter().enumerate() {
            match &spec.place {
                Place::Addr(addr) => addrs.push((at, addr.clone())),
                Place::Name { host, port } => {
                    let ips = names::resolve(host, resolver).await;
                    addrs.extend(ips.into_iter().map(|ip| (at, Addr::Ip((ip, *port).into()))));
                }
            }
        }
        let mut peers = self.lock();
        let same =
            peers.len() == addrs.len() && peers.iter().zip(&addrs).all(|(p, (at, a))| p.spec == *at && p.addr == *a);
        if !same {
            let known = std::mem::take(&mut *peers);
            *peers = addrs
                .into_iter()
                .map(|(spec, addr)| {
                    known.iter().find(|p| p.spec == spec && p.addr == addr).cloned().unwrap_or(Peer {
                        addr,
                        spec,
                        effective: self.spec(spec).map_or(1, |spec| spec.weight.into()),
                        current: 0,
                        fails: 0,
                        accessed: 0,
                        checked: 0,
                        conns: 0,
                        tries: 0,
                        failures: 0,
                    })
                })
                .collect();
        }
    }

    fn spec(&self, at: usize) -> Option<&PeerSpec> {
        self.upstream.peers.get(at)
    }

    /// How its peers are, in the order of their lines.
    pub fn states(&self) -> Vec<PeerState> {
        let peers = self.lock();
        let alone = peers.len() == 1;
        let of_line = |(at, spec): (usize, &PeerSpec)| {
            let known: Vec<PeerState> =
                peers.iter().filter(|peer| peer.spec == at).map(|peer| peer.state(spec, alone)).collect();
            if known.is_empty() { vec![unknown(spec)] } else { known }
        };
        self.upstream.peers.iter().enumerate().flat_map(of_line).collect()
    }

    /// How many peers there are to try.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// The next peer for `client`, other than those `tried`. Backups come when no other is left.
    pub fn choose(self: &Arc<Self>, client: &Addr, tried: &[PeerId]) -> Option<Chosen> {
        let mut peers = self.lock();
        let hashed = match self.upstream.balance {
            Balance::IpHash => self.by_hash(&peers, client, tried),
            Balance::RoundRobin => None,
        };
        let at = hashed
            .or_else(|| self.by_turn(&mut peers, tried, false))
            .or_else(|| self.by_turn(&mut peers, tried, true))?;
        let peer = peers.get_mut(at)?;
        peer.conns += 1;
        peer.tries += 1;
        let now = reactor::now();
        if self.spec(peer.spec).is_some_and(|spec| now.saturating_sub(peer.checked) > millis(spec.fail_timeout)) {
            peer.checked = now;
        }
        Some(Chosen { group: self.clone(), peer: PeerId { spec: peer.spec, addr: peer.addr.clone() } })
    }

    /// Smooth weighted round robin.
    fn by_turn(&self, peers: &mut [Peer], tried: &[PeerId], backup: bool) -> Option<usize> {
        let mut total = 0;
        let mut best: Option<(usize, i64)> = None;
        let alone = peers.len() == 1;
        for (at, peer) in peers.iter_mut().enumerate() {
            let Some(spec) = self.spec(peer.spec).filter(|spec| spec.backup == backup) else { continue };
            if !is_usable(peer, spec, tried, alone) {
                continue;
            }
            peer.current += peer.effective;
            total += peer.effective;
            if peer.effective < spec.weight.into() {
                peer.effective += 1;
            }
            if best.is_none_or(|(_, most)| peer.current > most) {
                best = Some((at, peer.current));
            }
        }
        let (at, _) = best?;
        peers.get_mut(at)?.current -= total;
        Some(at)
    }

    /// nginx's hash of the client's address over the weights.
    fn by_hash(&self, peers: &[Peer], client: &Addr, tried: &[PeerId]) -> Option<usize> {
        let key = match client {
            Addr::Ip(addr) => match addr.ip() {
                IpAddr::V4(ip) => ip.octets().iter().take(3).copied().collect(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            },
            Addr::Unix(_) => vec![0; 3],
        };
        let weights = || {
            let specs = peers.iter().enumerate().filter_map(|(at, peer)| Some((at, self.spec(peer.spec)?)));
            specs.filter(|(_, spec)| !spec.backup).map(|(at, spec)| (at, u64::from(spec.weight)))
        };
        let total: u64 = weights().map(|(_, weight)| weight).sum();
        let mut hash: u64 = 89;
        for _ in 0..HASH_TRIES {
            hash = key.iter().fold(hash, |hash, byte| (hash * 113 + u64::from(*byte)) % 6271);
            let mut left = hash.checked_rem(total)?;
            let (at, _) = weights().find(|(_, weight)| {
                let here = left < *weight;
                left = left.saturating_sub(*weight);
                here
            })?;
            let usable = peers.get(at).zip(peers.get(at).and_then(|peer| self.spec(peer.spec)));
            if usable.is_some_and(|(peer, spec)| is_usable(peer, spec, tried, peers.len() == 1)) {
                return Some(at);
            }
        }
        None
    }

    fn report(&self, id: &PeerId, outcome: Outcome) {
        let mut peers = self.lock();
        let Some(peer) = peers.iter_mut().find(|peer| peer.is(id)) else { return };
        let Some(spec) = self.spec(peer.spec) else { return };
        let now = reactor::now();
        match outcome {
            Outcome::Neutral => {}
            Outcome::Answered if peer.accessed < peer.checked => peer.fails = 0,
            Outcome::Answered => {}
            Outcome::Failed => {
                peer.fails += 1;
                peer.failures += 1;
                peer.accessed = now;
                peer.checked = now;
                let lost = i64::from(spec.weight).checked_div(spec.max_fails.into()).unwrap_or(0);
                peer.effective = (peer.effective - lost).max(0);
            }
        }
    }
}

/// A line of which no address is known. Addresses that were written down are as good as their peers.
fn unknown(spec: &PeerSpec) -> PeerState {
    let (place, health) = match &spec.place {
        Place::Addr(addr) => (addr.to_string(), Health::Up),
        Place::Name { host, port } => (format!("{host}:{port}"), Health::Unknown),
    };
    let health = if spec.down { Health::Down } else { health };
    PeerState { place, health, backup: spec.backup, weight: spec.weight, conns: 0, tries: 0, failures: 0 }
}

/// The only peer of a group is never left alone for its failures, as in nginx: there is no other to ask.
fn is_usable(peer: &Peer, spec: &PeerSpec, tried: &[PeerId], alone: bool) -> bool {
    !spec.down
        && !peer.is_among(tried)
        && (alone || !has_failed(peer, spec))
        && (spec.max_conns == 0 || peer.conns < spec.max_conns)
}

fn has_failed(peer: &Peer, spec: &PeerSpec) -> bool {
    let recent = reactor::now().saturating_sub(peer.checked) <= millis(spec.fail_timeout);
    spec.max_fails > 0 && peer.fails >= spec.max_fails && recent
}

fn millis(time: Duration) -> Millis {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(lines: &[(u16, u32, bool, bool)], balance: Balance) -> Arc<Group> {
        let peers = lines.iter().map(|(port, weight, backup, down)| PeerSpec {
            weight: *weight,
            backup: *backup,
            down: *down,
            ..PeerSpec::new(Place::Addr(addr(*port)))
        });
        let mut upstream = Upstream::single("u".to_owned(), Place::Addr(addr(1)));
        upstream.peers = peers.collect();
        upstream.balance = balance;
        let group = Arc::new(Group::new(Arc::new(upstream)));
        smol::block_on(group.refresh(Resolver::default()));
        group
    }

    fn addr(port: u16) -> Addr {
        Addr::Ip(([127, 0, 0, 1], port).into())
    }

    fn ports(group: &Arc<Group>, count: usize) -> Vec<u16> {
        (0..count).map(|_| group.choose(&addr(9), &[]).unwrap().peer.addr.port().unwrap()).collect()
    }

    #[test]
    fn weights_are_smooth_and_backups_wait() {
        let smooth = group(
            &[(1, 5, false, false), (2, 1, false, false), (3, 1, false, false), (4, 9, true, false)],
            Balance::RoundRobin,
        );
        assert_eq!(ports(&smooth, 7), [1, 1, 2, 1, 3, 1, 1]);
        let down = group(&[(1, 1, false, true), (2, 1, false, false), (3, 1, true, false)], Balance::RoundRobin);
        assert_eq!(ports(&down, 3), [2, 2, 2]);
        down.choose(&addr(9), &[]).unwrap().report(Outcome::Failed);
        assert_eq!(ports(&down, 2), [3, 3]);
        let backup = down.choose(&addr(9), &[]).unwrap().peer.clone();
        assert!(down.choose(&addr(9), &[backup]).is_none());
    }

    #[test]
    fn peers_are_seen_with_what_became_of_them() {
        let watched = group(&[(1, 2, false, false), (2, 1, false, true), (3, 1, true, false)], Balance::RoundRobin);
        let chosen = watched.choose(&addr(9), &[]).unwrap();
        let seen =
            || watched.states().into_iter().map(|s| (s.health, s.backup, s.weight, s.conns, s.tries, s.failures));
        assert_eq!(
            seen().collect::<Vec<_>>(),
            [(Health::Up, false, 2, 1, 1, 0), (Health::Down, false, 1, 0, 0, 0), (Health::Up, true, 1, 0, 0, 0)]
        );
        chosen.report(Outcome::Failed);
        drop(chosen);
        assert_eq!(seen().next(), Some((Health::Failed, false, 2, 0, 1, 1)));
        assert_eq!(watched.states()[0].place, "127.0.0.1:1");
    }

    #[test]
    fn a_client_keeps_its_peer_by_hash() {
        let hashed = group(&[(1, 1, false, false), (2, 1, false, false), (3, 1, false, false)], Balance::IpHash);
        let first = hashed.choose(&addr(9), &[]).unwrap().peer.clone();
        assert!((0..9).all(|_| hashed.choose(&addr(7), &[]).unwrap().peer == first));
        assert_ne!(hashed.choose(&addr(9), std::slice::from_ref(&first)).unwrap().peer, first);
    }
}
