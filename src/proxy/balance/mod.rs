//! Which peer of an upstream gets the next request, and what is known of the peers.
//!
//! Each method has a file and says only who is next; all follow nginx's rules, to the same peers. A group's state is
//! shared by all workers and locked for a few comparisons. Backups are asked when no other peer can be.

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

pub(crate) use crate::proxy::balance::attempt::Search;
pub(crate) use crate::proxy::balance::peer::{Finding, Peer};
pub(crate) use crate::proxy::balance::queue::Ticket;
pub(crate) use crate::proxy::balance::status::{Health, PeerState};

use crate::config::{Balance, Config, PeerSpec, Sticky, Upstream};
use crate::dns::cache::{self, CachedName};
use crate::request::exchange::Exchange;
use crate::runtime::executor::{self, Millis, Timer};
use crate::runtime::socket::{Addr, Endpoint};

/// An upstream and the state of its peers.
pub struct UpstreamState {
    pub upstream: Arc<Upstream>,
    /// For consistent hashing.
    ring: Option<Ring>,
    /// The names of the peers that are known by one, in the order of the lines.
    names: Vec<Arc<CachedName>>,
    /// Who waits for a peer. It outlives a reload, as peers do.
    queue: Arc<Queue>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Backups stand last.
    members: Vec<GroupPeer>,
    primaries: usize,
    /// Until when what names stand for is believed.
    fresh_until: Millis,
    /// Peers of the configuration before, which may be members again.
    before: Vec<Arc<Peer>>,
}

/// How a try with a peer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    Failed,
    /// Neither its success nor its fault.
    Neutral,
}

/// A peer that was chosen; a connection to it is counted until this is dropped.
pub struct PeerLease {
    group: Arc<UpstreamState>,
    pub peer: Arc<Peer>,
}

impl PeerLease {
    /// Tells how it went: whether the peer will be left alone for a while.
    pub fn report(&self, outcome: Outcome) -> bool {
        self.group.report(&self.peer, outcome, executor::now())
    }
}

impl PeerLease {
    /// The name of its upstream.
    pub fn upstream(&self) -> &str {
        &self.group.upstream.name
    }
}

impl Drop for PeerLease {
    fn drop(&mut self) {
        self.peer.leave();
    }
}

/// The groups of a configuration, in its order. Peers that were there before keep their connections.
pub fn groups(config: &Config, before: &[Arc<UpstreamState>]) -> Vec<Arc<UpstreamState>> {
    let of = |upstream: &Arc<Upstream>| before.iter().find(|group| group.upstream.name == upstream.name);
    config.upstreams.iter().map(|upstream| Arc::new(UpstreamState::new(upstream.clone(), of(upstream)))).collect()
}

impl UpstreamState {
    pub fn new(upstream: Arc<Upstream>, before: Option<&Arc<Self>>) -> Self {
        let ring = match upstream.balance {
            Balance::Hash { consistent: true, .. } => Some(Ring::new(&upstream.peers)),
            _ => None,
        };
        let name = |spec: &Arc<PeerSpec>| match &spec.place {
            Endpoint::Addr(_) => None,
            Endpoint::Name { host, .. } => Some(cache::entry(host, &spec.resolver)),
        };
        let names = upstream.peers.iter().filter_map(name).collect();
        let queue = before.map(|group| group.queue.clone()).unwrap_or_default();
        let before = before.map(|group| group.lock().peers()).unwrap_or_default();
        let group = Self { ring, names, queue, state: Mutex::new(State { before, ..State::default() }), upstream };
        group.update();
        group
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the peers up to date with what their names stand for. Only who finds no peer waits as long as `timeout`. What
    /// is returned tells that an answer failed to come while the last one serves on; once for each that failed.
    pub async fn refresh(&self, timeout: Duration) -> Option<String> {
        if self.names.is_empty() || self.lock().fresh_until > executor::now() {
            return None;
        }
        Box::pin(self.look_up(timeout)).await;
        self.names.iter().find_map(|name| name.take_error_message())
    }

    /// How long what its names stand for is believed, in whole seconds: one at least.
    pub fn until_stale(&self) -> Duration {
        let left = self.lock().fresh_until.saturating_sub(executor::now());
        Duration::from_secs((left / 1000 + 1).min(cache::REFRESH_SECS_MAX))
    }

    async fn look_up(&self, timeout: Duration) {
        let timer = Timer::new();
        timer.set(if self.is_empty() { timeout } else { timeout.min(cache::REFRESH_WAIT) });
        poll_fn(|cx| {
            // All are asked for at the same time.
            let waits = self.names.iter().filter(|name| name.poll_resolved(cx).is_pending()).count();
            if waits == 0 { Poll::Ready(()) } else { timer.poll_due(cx) }
        })
        .await;
        self.update();
    }

    /// Why there is no peer, if no address is known.
    pub fn unresolved(&self) -> Option<String> {
        if self.is_empty() { self.names.iter().map(|name| name.error_message()).next() } else { None }
    }

    /// Takes what is known now as its peers. Those that were there already stay as they are.
    fn update(&self) {
        // Nobody else brings older news meanwhile.
        let mut state = self.lock();
        let mut names = self.names.iter();
        let mut addrs = Vec::new();
        state.fresh_until = Millis::MAX;
        for spec in &self.upstream.peers {
            match &spec.place {
                Endpoint::Addr(addr) => addrs.push((spec.clone(), addr.clone())),
                Endpoint::Name { port, .. } => {
                    let (ips, until) = names.next().map(|name| name.addrs_and_expiry()).unwrap_or_default();
                    state.fresh_until = state.fresh_until.min(until);
                    addrs.extend(ips.iter().map(|ip| (spec.clone(), Addr::Ip((*ip, *port).into()))));
                }
            }
        }
        if self.replace(&mut state, addrs) {
            drop(state);
            self.queue.announce();
        }
    }

    /// From now on these are the peers: whether that is a change.
    fn replace(&self, state: &mut State, addrs: Vec<(Arc<PeerSpec>, Addr)>) -> bool {
        let (mut backups, mut addrs): (Vec<_>, Vec<_>) = addrs.into_iter().partition(|(spec, _)| spec.backup);
        addrs.append(&mut backups);
        let is = |member: &GroupPeer, spec: &Arc<PeerSpec>, addr: &Addr| {
            Arc::ptr_eq(&member.spec, spec) && member.peer.addr == *addr
        };
        let same = state.members.len() == addrs.len()
            && state.members.iter().zip(&addrs).all(|(member, (spec, addr))| is(member, spec, addr));
        if same {
            return false;
        }
        state.primaries = addrs.iter().filter(|(spec, _)| !spec.backup).count();
        let mut known = std::mem::take(&mut state.members);
        for (spec, addr) in addrs {
            let member = match known.iter().position(|member| is(member, &spec, &addr)) {
                Some(at) => known.remove(at),
                None => {
                    let before = state.take_before(&addr);
                    let is_new = before.is_none();
                    let peer = before.unwrap_or_else(|| self.peer(addr));
                    // Whom nobody checks any more nobody would find to be well again.
                    match &self.upstream.health {
                        None => peer.find(Finding::Well),
                        Some(check) if is_new && check.mandatory => peer.find(Finding::Awaited),
                        Some(_) => {}
                    }
                    let id = self.id(&spec, &peer);
                    GroupPeer::new(peer, spec, id)
                }
            };
            state.members.push(member);
        }
        true
    }

    fn peer(&self, addr: Addr) -> Arc<Peer> {
        Arc::new(Peer::new(addr, self.queue.clone()))
    }

    /// What `sticky` knows a peer by.
    fn id(&self, spec: &PeerSpec, peer: &Peer) -> String {
        match (&self.upstream.sticky, &spec.route) {
            (None, _) => String::new(),
            (Some(_), Some(route)) => route.clone(),
            (Some(Sticky::Cookie(_)), None) => sticky::id(&peer.addr),
            (Some(Sticky::Route(_)), None) => String::new(),
        }
    }

    /// Counts a connection that is there already, to `addr`, which may be no peer any more.
    pub fn adopt(self: &Arc<Self>, addr: Addr) -> PeerLease {
        let state = self.lock();
        let known = state.members.iter().find(|member| member.peer.addr == addr).map(|member| member.peer.clone());
        let peer = known.unwrap_or_else(|| self.peer(addr));
        peer.enter();
        PeerLease { group: self.clone(), peer }
    }

    /// The peers that requests may go to, if they are well.
    pub fn peers(&self) -> Vec<Arc<Peer>> {
        self.lock().members.iter().filter(|member| !member.spec.down).map(|member| member.peer.clone()).collect()
    }

    /// Whether its peers are always the same.
    pub fn is_fixed(&self) -> bool {
        self.names.is_empty()
    }

    /// A health check has found that a peer works again: its failures are forgotten.
    pub fn recovers(&self, peer: &Arc<Peer>) {
        if let Some(member) = self.lock().members.iter_mut().find(|member| Arc::ptr_eq(&member.peer, peer)) {
            member.recover_all(executor::now());
        }
        peer.find(Finding::Well);
        self.queue.announce();
    }

    /// How many peers may be tried for one request.
    pub fn tries(&self) -> usize {
        self.lock().members.iter().filter(|member| !member.spec.down).count()
    }

    /// Whether no address is known.
    pub fn is_empty(&self) -> bool {
        self.lock().members.is_empty()
    }

    /// The next peer for a request. Where others wait for one, it has to wait behind them.
    pub fn choose(self: &Arc<Self>, search: &mut Search) -> Option<PeerLease> {
        match self.upstream.queue {
            Some(_) if !self.queue.is_empty() => None,
            _ => self.choose_at(search, executor::now()),
        }
    }

    /// A place among those who wait for a peer, if there is room and a peer that may come.
    pub fn queue_up(&self, search: &Search) -> Option<Ticket> {
        let spec = self.upstream.queue?;
        let may_come = |member: &GroupPeer| !member.spec.down && !member.spec.drain && !search.has_tried(&member.peer);
        let hope = self.lock().members.iter().any(may_come);
        self.queue.join(spec.length).filter(|_| hope)
    }

    /// The next peer for a request that has waited, if it is its turn. The task is woken when it comes.
    pub fn choose_in_turn(
        self: &Arc<Self>,
        place: &Ticket,
        search: &mut Search,
        cx: &Context<'_>,
    ) -> Option<PeerLease> {
        place.look(cx, || self.choose_at(search, executor::now()))
    }

    /// How long until a peer that has failed may be tried again; who waits first looks again then.
    pub fn until_back(&self, place: &Ticket) -> Option<Duration> {
        if !place.is_first() {
            return None;
        }
        let now = executor::now();
        let back = self.lock().members.iter().filter_map(|member| member.back_at(now)).min()?;
        Some(Duration::from_millis(back.saturating_sub(now)))
    }

    /// Lets who waits first look again.
    pub fn announce(&self) {
        self.queue.announce();
    }

    fn choose_at(self: &Arc<Self>, search: &mut Search, now: Millis) -> Option<PeerLease> {
        let mut state = self.lock();
        let alone = state.members.len() == 1;
        let primaries = state.primaries;
        let (first, backups) = state.members.split_at_mut_checked(primaries)?;
        let of_first = self.among(first, search, now, alone);
        let of_first =
            if self.upstream.made { of_first.or_else(|| self.among(first, search, now, true)) } else { of_first };
        let member = match of_first {
            Some(at) => first.get_mut(at),
            None => self.among(backups, search, now, alone).and_then(|at| backups.get_mut(at)),
        }?;
        member.take(now);
        search.tried.push(member.peer.clone());
        Some(PeerLease { group: self.clone(), peer: member.peer.clone() })
    }

    /// The next one of `members`: first the one that the client is bound to, then by the method, then by turn.
    fn among(&self, members: &mut [GroupPeer], search: &mut Search, now: Millis, alone: bool) -> Option<usize> {
        let Search { bound, tried, trail } = search;
        let open =
            |member: &GroupPeer| member.is_open(now, alone) && !tried.iter().any(|p| Arc::ptr_eq(p, &member.peer));
        if !bound.is_empty()
            && let Some(at) = members.iter().position(|member| member.id.as_bytes() == bound && open(member))
        {
            return Some(at);
        }
        let usable = |member: &GroupPeer| !member.spec.drain && open(member);
        let backups = members.first().is_some_and(|member| member.spec.backup);
        let chosen = match (&self.upstream.balance, &self.ring) {
            (Balance::LeastConn, _) => return least_conn::choose(members, now, &usable),
            (Balance::RoundRobin, _) => None,
            _ if alone || backups => None,
            (_, Some(ring)) => ring.choose(members, &self.upstream.peers, trail, now, &usable),
            (Balance::IpHash, _) => hash::by_address(members, trail, &usable),
            (Balance::Hash { .. }, _) => hash::by_text(members, trail, &usable),
            (Balance::Random { two }, _) => random::choose(members, trail, now, *two, &usable),
        };
        chosen.or_else(|| round_robin::choose(members, now, &usable))
    }

    /// Whether there is a peer that was not tried and can be.
    pub fn has_another(&self, search: &Search) -> bool {
        let now = executor::now();
        let state = self.lock();
        let alone = state.members.len() == 1;
        state
            .members
            .iter()
            .any(|member| !search.has_tried(&member.peer) && !member.spec.drain && member.is_open(now, alone))
    }

    /// The `Set-Cookie` that binds a client to the peer that it came to.
    pub fn cookie(&self, peer: &Arc<Peer>, exchange: &Exchange) -> Option<String> {
        let Some(Sticky::Cookie(cookie)) = &self.upstream.sticky else { return None };
        let state = self.lock();
        let member = state.members.iter().find(|member| Arc::ptr_eq(&member.peer, peer))?;
        Some(sticky::write(cookie, &member.id, exchange))
    }

    fn report(&self, peer: &Arc<Peer>, outcome: Outcome, now: Millis) -> bool {
        let mut state = self.lock();
        let alone = state.members.len() == 1;
        let Some(member) = state.members.iter_mut().find(|member| Arc::ptr_eq(&member.peer, peer)) else {
            return false;
        };
        match outcome {
            Outcome::Neutral => false,
            Outcome::Answered => {
                let is_back = member.answered(now);
                drop(state);
                if is_back {
                    self.queue.announce();
                }
                false
            }
            Outcome::Failed => member.fail(now) && !alone,
        }
    }
}

impl State {
    fn peers(&self) -> Vec<Arc<Peer>> {
        self.members.iter().map(|member| &member.peer).chain(&self.before).cloned().collect()
    }

    /// A peer with this address from before.
    fn take_before(&mut self, addr: &Addr) -> Option<Arc<Peer>> {
        let at = self.before.iter().position(|peer| peer.addr == *addr)?;
        Some(self.before.remove(at))
    }
}
