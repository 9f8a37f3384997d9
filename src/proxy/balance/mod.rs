//! Load balancing: chooses the peer of an upstream for the next request, and tracks the state of the peers.
//!
//! Each method has a file of its own, and chooses the same peers as nginx. All workers share the state of an upstream, locked
//! for a few comparisons. Backups serve while no other peer is available.

pub(crate) mod crc32;
pub(crate) mod hash;
pub(crate) mod least_conn;
pub(crate) mod peer;
pub(crate) mod queue;
pub(crate) mod random;
pub(crate) mod consistent_hash;
pub(crate) mod round_robin;
pub(crate) mod attempt;
pub(crate) mod status;
pub(crate) mod sticky;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod conf;

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::proxy::balance::consistent_hash::Ring;
use crate::proxy::balance::peer::GroupPeer;
use crate::proxy::balance::queue::Queue;

pub(crate) use crate::proxy::balance::attempt::PeerSelection;
pub(crate) use crate::proxy::balance::peer::{Health, Peer};
pub(crate) use crate::proxy::balance::queue::Ticket;
pub(crate) use crate::proxy::balance::status::{PeerState, PeerStatus};

use crate::config::{Balance, Config, PeerSpec, Sticky, Upstream};
use crate::dns::cache::{self, CachedName};
use crate::request::exchange::Exchange;
use crate::runtime::executor::{self, Millis, Timer};
use crate::runtime::socket::{Addr, Endpoint};

/// A configured upstream with the state of its peers.
pub struct UpstreamState {
    pub upstream: Arc<Upstream>,
    /// For consistent hashing.
    ring: Option<Ring>,
    /// The peers given by name, in the order of the `server` lines.
    names: Vec<Arc<CachedName>>,
    /// The requests that wait for a peer. Like the peers, it survives a reload.
    queue: Arc<Queue>,
    state: Mutex<MemberState>,
}

#[derive(Default)]
struct MemberState {
    /// Primaries, then backups.
    members: Vec<GroupPeer>,
    primaries: usize,
    /// When the first address of a name expires.
    valid_until: Millis,
    /// Peers of the previous configuration, to be reused.
    previous: Vec<Arc<Peer>>,
}

/// How an attempt with a peer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Succeeded,
    Failed,
    /// Says nothing about the peer.
    Neutral,
}

/// A connection to the chosen peer, counted until this is dropped.
pub struct PeerLease {
    group: Arc<UpstreamState>,
    pub peer: Arc<Peer>,
}

impl PeerLease {
    /// Records the outcome; true if the peer now is in its `fail_timeout`.
    pub fn report(&self, outcome: Outcome) -> bool {
        self.group.report(&self.peer, outcome, executor::now())
    }

    /// Returns the name of the upstream.
    pub fn upstream(&self) -> &str {
        &self.group.upstream.name
    }
}

impl Drop for PeerLease {
    fn drop(&mut self) {
        self.peer.remove_conn();
    }
}

/// Builds the upstreams of a configuration, in its order. Peers of the `previous` ones keep their connection counts.
pub fn build_upstreams(config: &Config, previous: &[Arc<UpstreamState>]) -> Vec<Arc<UpstreamState>> {
    let find = |upstream: &Arc<Upstream>| previous.iter().find(|group| group.upstream.name == upstream.name);
    config.upstreams.iter().map(|upstream| Arc::new(UpstreamState::new(upstream.clone(), find(upstream)))).collect()
}

impl UpstreamState {
    pub fn new(upstream: Arc<Upstream>, previous: Option<&Arc<Self>>) -> Self {
        let ring = match upstream.balance {
            Balance::Hash { consistent: true, .. } => Some(Ring::new(&upstream.peers)),
            _ => None,
        };
        let name = |spec: &Arc<PeerSpec>| match &spec.endpoint {
            Endpoint::Addr(_) => None,
            Endpoint::Name { host, .. } => Some(cache::entry(host, &spec.resolver)),
        };
        let names = upstream.peers.iter().filter_map(name).collect();
        let queue = previous.map(|group| group.queue.clone()).unwrap_or_default();
        let previous = previous.map(|group| group.lock().peers()).unwrap_or_default();
        let group = Self {
            ring,
            names,
            queue,
            state: Mutex::new(MemberState { previous, ..MemberState::default() }),
            upstream,
        };
        group.update_peers();
        group
    }

    fn lock(&self) -> MutexGuard<'_, MemberState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Updates the peers from DNS. Waits up to `timeout` only if no address is known. Returns a warning if a lookup failed and
    /// the old addresses stay in use, once per failure.
    pub async fn refresh(&self, timeout: Duration) -> Option<String> {
        if self.names.is_empty() || self.lock().valid_until > executor::now() {
            return None;
        }
        Box::pin(self.resolve_names(timeout)).await;
        self.names.iter().find_map(|name| name.take_error_message())
    }

    /// Returns how long the addresses of the names are valid, in whole seconds, at least one.
    pub fn until_stale(&self) -> Duration {
        let left = self.lock().valid_until.saturating_sub(executor::now());
        Duration::from_secs((left / 1000 + 1).min(cache::REFRESH_SECS_MAX))
    }

    async fn resolve_names(&self, timeout: Duration) {
        let timer = Timer::new();
        timer.set(if self.is_empty() { timeout } else { timeout.min(cache::REFRESH_WAIT) });
        poll_fn(|cx| {
            // Polls all: the lookups run at the same time.
            let pending = self.names.iter().filter(|name| name.poll_resolved(cx).is_pending()).count();
            if pending == 0 { Poll::Ready(()) } else { timer.poll_due(cx) }
        })
        .await;
        self.update_peers();
    }

    /// Returns why no address is known, if so.
    pub fn resolve_error(&self) -> Option<String> {
        if self.is_empty() { self.names.iter().map(|name| name.error_message()).next() } else { None }
    }

    /// Makes the known addresses the peers. Peers whose address stays keep their state.
    fn update_peers(&self) {
        // Locked first, so that no other worker replaces newer addresses by older ones.
        let mut state = self.lock();
        let mut names = self.names.iter();
        let mut addrs = Vec::new();
        state.valid_until = Millis::MAX;
        for spec in &self.upstream.peers {
            match &spec.endpoint {
                Endpoint::Addr(addr) => addrs.push((spec.clone(), addr.clone())),
                Endpoint::Name { port, .. } => {
                    let (ips, until) = names.next().map(|name| name.addrs_and_expiry()).unwrap_or_default();
                    state.valid_until = state.valid_until.min(until);
                    addrs.extend(ips.iter().map(|ip| (spec.clone(), Addr::Ip((*ip, *port).into()))));
                }
            }
        }
        if self.replace_peers(&mut state, addrs) {
            drop(state);
            self.queue.notify_first();
        }
    }

    /// Replaces the peers; false if nothing changed.
    fn replace_peers(&self, state: &mut MemberState, addrs: Vec<(Arc<PeerSpec>, Addr)>) -> bool {
        let (mut backups, mut addrs): (Vec<_>, Vec<_>) = addrs.into_iter().partition(|(spec, _)| spec.backup);
        addrs.append(&mut backups);
        let matches = |member: &GroupPeer, spec: &Arc<PeerSpec>, addr: &Addr| {
            Arc::ptr_eq(&member.spec, spec) && member.peer.addr == *addr
        };
        let is_unchanged = state.members.len() == addrs.len()
            && state.members.iter().zip(&addrs).all(|(member, (spec, addr))| matches(member, spec, addr));
        if is_unchanged {
            return false;
        }
        state.primaries = addrs.iter().filter(|(spec, _)| !spec.backup).count();
        let mut old = std::mem::take(&mut state.members);
        for (spec, addr) in addrs {
            let member = match old.iter().position(|member| matches(member, &spec, &addr)) {
                Some(at) => old.remove(at),
                None => {
                    let previous = state.take_previous(&addr);
                    let is_new = previous.is_none();
                    let peer = previous.unwrap_or_else(|| self.new_peer(addr));
                    // Without a check an unhealthy peer would stay so for good.
                    match &self.upstream.health_check {
                        None => peer.set_health(Health::Healthy),
                        Some(check) if is_new && check.mandatory => peer.set_health(Health::Unknown),
                        Some(_) => {}
                    }
                    let id = self.sticky_id(&spec, &peer);
                    GroupPeer::new(peer, spec, id)
                }
            };
            state.members.push(member);
        }
        true
    }

    fn new_peer(&self, addr: Addr) -> Arc<Peer> {
        Arc::new(Peer::new(addr, self.queue.clone()))
    }

    /// Returns the value that names the peer in a `sticky` cookie or route.
    fn sticky_id(&self, spec: &PeerSpec, peer: &Peer) -> String {
        match (&self.upstream.sticky, &spec.route) {
            (None, _) => String::new(),
            (Some(_), Some(route)) => route.clone(),
            (Some(Sticky::Cookie(_)), None) => sticky::hashed_id(&peer.addr),
            (Some(Sticky::Route(_)), None) => String::new(),
        }
    }

    /// Counts an existing connection to `addr`, which may no longer be a peer.
    pub fn adopt(self: &Arc<Self>, addr: Addr) -> PeerLease {
        let state = self.lock();
        let known = state.members.iter().find(|member| member.peer.addr == addr).map(|member| member.peer.clone());
        let peer = known.unwrap_or_else(|| self.new_peer(addr));
        peer.add_conn();
        PeerLease { group: self.clone(), peer }
    }

    /// Returns the peers that are not `down`.
    pub fn peers(&self) -> Vec<Arc<Peer>> {
        self.lock().members.iter().filter(|member| !member.spec.down).map(|member| member.peer.clone()).collect()
    }

    /// Whether all peers are given by address.
    pub fn has_fixed_peers(&self) -> bool {
        self.names.is_empty()
    }

    /// Records that a health check succeeded again: resets the failures of the peer.
    pub fn mark_recovered(&self, peer: &Arc<Peer>) {
        if let Some(member) = self.lock().members.iter_mut().find(|member| Arc::ptr_eq(&member.peer, peer)) {
            member.reset_failures(executor::now());
        }
        peer.set_health(Health::Healthy);
        self.queue.notify_first();
    }

    /// Returns the number of peers that one request may try.
    pub fn attempts_max(&self) -> usize {
        self.lock().members.iter().filter(|member| !member.spec.down).count()
    }

    /// Whether no address is known.
    pub fn is_empty(&self) -> bool {
        self.lock().members.is_empty()
    }

    /// Chooses a peer for a request; none while other requests are queued.
    pub fn choose(self: &Arc<Self>, search: &mut PeerSelection) -> Option<PeerLease> {
        match self.upstream.queue {
            Some(_) if !self.queue.is_empty() => None,
            _ => self.choose_at(search, executor::now()),
        }
    }

    /// Queues the request, if there is room in the queue and a peer that may become available.
    pub fn enqueue(&self, search: &PeerSelection) -> Option<Ticket> {
        let spec = self.upstream.queue?;
        let may_serve = |member: &GroupPeer| !member.spec.down && !member.spec.drain && !search.has_tried(&member.peer);
        let is_useful = self.lock().members.iter().any(may_serve);
        self.queue.try_push(spec.length).filter(|_| is_useful)
    }

    /// Chooses a peer for a queued request if it is the active one in the queue; otherwise the task is woken when it is.
    pub fn choose_queued(
        self: &Arc<Self>,
        ticket: &Ticket,
        search: &mut PeerSelection,
        cx: &Context<'_>,
    ) -> Option<PeerLease> {
        ticket.try_take(cx, || self.choose_at(search, executor::now()))
    }

    /// Returns how long until a failed peer may be tried again, for the first request in the queue.
    pub fn until_retry(&self, ticket: &Ticket) -> Option<Duration> {
        if !ticket.is_first() {
            return None;
        }
        let now = executor::now();
        let retry_at = self.lock().members.iter().filter_map(|member| member.retry_at(now)).min()?;
        Some(Duration::from_millis(retry_at.saturating_sub(now)))
    }

    /// Has the first queued request choose again.
    pub fn wake_first(&self) {
        self.queue.notify_first();
    }

    fn choose_at(self: &Arc<Self>, search: &mut PeerSelection, now: Millis) -> Option<PeerLease> {
        let mut state = self.lock();
        let is_only = state.members.len() == 1;
        let count = state.primaries;
        let (primaries, backups) = state.members.split_at_mut_checked(count)?;
        let mut chosen = self.choose_among(primaries, search, now, is_only);
        if chosen.is_none() && self.upstream.is_from_request {
            chosen = self.choose_among(primaries, search, now, true);
        }
        let member = match chosen {
            Some(at) => primaries.get_mut(at),
            None => self.choose_among(backups, search, now, is_only).and_then(|at| backups.get_mut(at)),
        }?;
        member.begin_attempt(now);
        search.tried.push(member.peer.clone());
        Some(PeerLease { group: self.clone(), peer: member.peer.clone() })
    }

    /// Chooses one of `members`: the one of the sticky session, else by the method, else by round robin.
    fn choose_among(
        &self,
        members: &mut [GroupPeer],
        search: &mut PeerSelection,
        now: Millis,
        is_only: bool,
    ) -> Option<usize> {
        let PeerSelection { sticky_id, tried, probe } = search;
        let is_open = |member: &GroupPeer| {
            member.is_available(now, is_only) && !tried.iter().any(|p| Arc::ptr_eq(p, &member.peer))
        };
        if !sticky_id.is_empty()
            && let Some(at) = members.iter().position(|member| member.id.as_bytes() == sticky_id && is_open(member))
        {
            return Some(at);
        }
        let is_usable = |member: &GroupPeer| !member.spec.drain && is_open(member);
        let are_backups = members.first().is_some_and(|member| member.spec.backup);
        let chosen = match (&self.upstream.balance, &self.ring) {
            (Balance::LeastConn, _) => return least_conn::choose(members, now, &is_usable),
            (Balance::RoundRobin, _) => None,
            _ if is_only || are_backups => None,
            (_, Some(ring)) => ring.choose(members, &self.upstream.peers, probe, now, &is_usable),
            (Balance::IpHash, _) => hash::choose_by_address(members, probe, &is_usable),
            (Balance::Hash { .. }, _) => hash::choose_by_key(members, probe, &is_usable),
            (Balance::Random { two }, _) => random::choose(members, probe, now, *two, &is_usable),
        };
        chosen.or_else(|| round_robin::choose(members, now, &is_usable))
    }

    /// Whether an untried peer is available.
    pub fn has_untried_peer(&self, search: &PeerSelection) -> bool {
        let now = executor::now();
        let state = self.lock();
        let is_only = state.members.len() == 1;
        state
            .members
            .iter()
            .any(|member| !search.has_tried(&member.peer) && !member.spec.drain && member.is_available(now, is_only))
    }

    /// Returns the `Set-Cookie` value that binds the client to `peer`.
    pub fn sticky_cookie(&self, peer: &Arc<Peer>, exchange: &Exchange) -> Option<String> {
        let Some(Sticky::Cookie(cookie)) = &self.upstream.sticky else { return None };
        let state = self.lock();
        let member = state.members.iter().find(|member| Arc::ptr_eq(&member.peer, peer))?;
        Some(sticky::set_cookie(cookie, &member.id, exchange))
    }

    fn report(&self, peer: &Arc<Peer>, outcome: Outcome, now: Millis) -> bool {
        let mut state = self.lock();
        let is_only = state.members.len() == 1;
        let Some(member) = state.members.iter_mut().find(|member| Arc::ptr_eq(&member.peer, peer)) else {
            return false;
        };
        match outcome {
            Outcome::Neutral => false,
            Outcome::Succeeded => {
                let has_recovered = member.record_success(now);
                drop(state);
                if has_recovered {
                    self.queue.notify_first();
                }
                false
            }
            Outcome::Failed => member.record_failure(now) && !is_only,
        }
    }
}

impl MemberState {
    fn peers(&self) -> Vec<Arc<Peer>> {
        self.members.iter().map(|member| &member.peer).chain(&self.previous).cloned().collect()
    }

    /// Takes the peer with this address out of the previous ones.
    fn take_previous(&mut self, addr: &Addr) -> Option<Arc<Peer>> {
        let at = self.previous.iter().position(|peer| peer.addr == *addr)?;
        Some(self.previous.remove(at))
    }
}
