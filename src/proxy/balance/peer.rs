//! A peer: its connections and health ([`Peer`]), and its weight and failures in one upstream ([`GroupPeer`]).

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::task::Poll;

use crate::config::PeerSpec;
use crate::proxy::balance::queue::Queue;
use crate::runtime::executor::{Millis, millis};
use crate::runtime::socket::Addr;

/// Connections to one peer that may be in progress at the same time; further ones are queued. Few backlogs are shorter.
const CONNECTING_MAX: u32 = 64;
/// A unit of weight in the arithmetic: the steps of a slow start.
const WEIGHT_SCALE: u64 = 1000;

/// The result of health checks. A peer without a check counts as healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Healthy = 0,
    Unhealthy = 1,
    /// The first check has not ended, and the peer gets no request before (`mandatory`).
    Unknown = 2,
}

impl From<u8> for Health {
    fn from(number: u8) -> Self {
        match number {
            0 => Self::Healthy,
            1 => Self::Unhealthy,
            _ => Self::Unknown,
        }
    }
}

/// A peer with its connections. It survives a reload.
pub struct Peer {
    pub addr: Addr,
    conns: AtomicU32,
    /// The requests that wait for a peer of its upstream.
    queue: Arc<Queue>,
    /// Connections in progress.
    connecting: AtomicU32,
    /// A [`Health`].
    health: AtomicU8,
    checks: AtomicU32,
    failed_checks: AtomicU32,
    /// The attempts that wait for a [`ConnectPermit`].
    connect_queue: Arc<Queue>,
}

impl Peer {
    pub(super) fn new(addr: Addr, queue: Arc<Queue>) -> Self {
        Self {
            addr,
            conns: AtomicU32::new(0),
            queue,
            connecting: AtomicU32::new(0),
            health: AtomicU8::new(Health::Healthy as u8),
            checks: AtomicU32::new(0),
            failed_checks: AtomicU32::new(0),
            connect_queue: Arc::default(),
        }
    }

    pub fn health(&self) -> Health {
        self.health.load(Ordering::SeqCst).into()
    }

    pub fn set_health(&self, health: Health) {
        self.health.store(health as u8, Ordering::SeqCst);
    }

    /// Counts a health check.
    pub fn count_check(&self, failed: bool) {
        self.checks.fetch_add(1, Ordering::Relaxed);
        self.failed_checks.fetch_add(failed.into(), Ordering::Relaxed);
    }

    /// Returns the number of health checks, and how many of them failed.
    pub(super) fn checks(&self) -> (u32, u32) {
        (self.checks.load(Ordering::Relaxed), self.failed_checks.load(Ordering::Relaxed))
    }

    /// Counts one more connection. The caller holds the lock of the upstream's state.
    pub(super) fn add_conn(&self) {
        self.conns.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until a connection may be started.
    pub async fn connect_permit(&self) -> ConnectPermit<'_> {
        if self.connect_queue.is_empty()
            && let Some(permit) = self.try_connect_permit()
        {
            return permit;
        }
        let ticket = self.connect_queue.push();
        poll_fn(|cx| ticket.try_take(cx, || self.try_connect_permit()).map_or(Poll::Pending, Poll::Ready)).await
    }

    fn try_connect_permit(&self) -> Option<ConnectPermit<'_>> {
        let add = |count: u32| (count < CONNECTING_MAX).then_some(count + 1);
        let added = self.connecting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add);
        added.ok().map(|_| ConnectPermit { peer: self })
    }

    pub(super) fn remove_conn(&self) {
        self.conns.fetch_sub(1, Ordering::SeqCst);
        self.queue.notify_first();
    }
}

/// A connection in progress, counted until this is dropped.
pub struct ConnectPermit<'p> {
    peer: &'p Peer,
}

impl Drop for ConnectPermit<'_> {
    fn drop(&mut self) {
        self.peer.connecting.fetch_sub(1, Ordering::SeqCst);
        self.peer.connect_queue.notify_first();
    }
}

/// A peer as one upstream uses it.
pub(super) struct GroupPeer {
    pub(super) peer: Arc<Peer>,
    pub(super) spec: Arc<PeerSpec>,
    /// The value that names it in a `sticky` cookie or route.
    pub(super) id: String,
    /// The weight, reduced by failures.
    effective_weight: u32,
    /// The balance of smooth round robin.
    pub(super) current_weight: i64,
    fails: u32,
    failed_at: Millis,
    /// When it failed last, or was tried again after its `fail_timeout`.
    checked_at: Millis,
    /// The start of its slow start.
    recovered_at: Option<Millis>,
    /// Attempts to send it a request, and how many failed.
    pub(super) attempts: u64,
    pub(super) failures: u64,
}

impl GroupPeer {
    pub(super) fn new(peer: Arc<Peer>, spec: Arc<PeerSpec>, id: String) -> Self {
        Self {
            effective_weight: spec.weight,
            peer,
            spec,
            id,
            current_weight: 0,
            fails: 0,
            failed_at: 0,
            checked_at: 0,
            recovered_at: None,
            attempts: 0,
            failures: 0,
        }
    }

    pub(super) fn conns(&self) -> u32 {
        self.peer.conns.load(Ordering::SeqCst)
    }

    /// Whether it can take one more request. The only peer of an upstream stays available after failures, as there is no
    /// alternative.
    pub(super) fn is_available(&self, now: Millis, is_only: bool) -> bool {
        !self.spec.down
            && self.peer.health() == Health::Healthy
            && (is_only || !self.is_in_fail_timeout(now))
            && (self.spec.max_conns == 0 || self.conns() < self.spec.max_conns)
    }

    fn has_max_fails(&self) -> bool {
        self.spec.max_fails > 0 && self.fails >= self.spec.max_fails
    }

    pub(super) fn is_in_fail_timeout(&self, now: Millis) -> bool {
        self.has_max_fails() && now.saturating_sub(self.checked_at) <= millis(self.spec.fail_timeout)
    }

    /// Returns when its `fail_timeout` ends.
    pub(super) fn retry_at(&self, now: Millis) -> Option<Millis> {
        let is_waiting = !self.spec.down && self.is_in_fail_timeout(now);
        is_waiting.then(|| self.checked_at.saturating_add(millis(self.spec.fail_timeout)).saturating_add(1))
    }

    /// Records that it was chosen. After a `fail_timeout` one request tests the peer, for the others the timeout starts again.
    pub(super) fn begin_attempt(&mut self, now: Millis) {
        self.peer.add_conn();
        self.attempts += 1;
        if now.saturating_sub(self.checked_at) > millis(self.spec.fail_timeout) {
            self.checked_at = now;
        }
    }

    /// Records a response; true if the peer has recovered by it.
    pub(super) fn record_success(&mut self, now: Millis) -> bool {
        let has_recovered = self.failed_at < self.checked_at && self.has_max_fails();
        if has_recovered && !self.spec.slow_start.is_zero() {
            self.recovered_at = Some(now);
        }
        if self.failed_at < self.checked_at {
            self.fails = 0;
        }
        has_recovered
    }

    /// Forgets failures, as a health check succeeded.
    pub(super) fn reset_failures(&mut self, now: Millis) {
        self.fails = 0;
        self.effective_weight = self.spec.weight;
        self.recovered_at = (!self.spec.slow_start.is_zero()).then_some(now);
    }

    /// Records a failure; true if the peer has reached `max_fails`.
    pub(super) fn record_failure(&mut self, now: Millis) -> bool {
        self.fails = self.fails.saturating_add(1);
        self.failures += 1;
        self.failed_at = now;
        self.checked_at = now;
        let lost = self.spec.weight.checked_div(self.spec.max_fails).unwrap_or(0);
        self.effective_weight = self.effective_weight.saturating_sub(lost);
        self.has_max_fails()
    }

    /// Returns a weight times [`WEIGHT_SCALE`], less during a slow start.
    fn scale_weight(&self, weight: u32, now: Millis) -> u64 {
        let duration = millis(self.spec.slow_start);
        let scale = match self.recovered_at.map(|since| now.saturating_sub(since)) {
            Some(elapsed) if elapsed < duration => (elapsed * WEIGHT_SCALE / duration).max(1),
            _ => WEIGHT_SCALE,
        };
        u64::from(weight) * scale
    }

    /// Returns the weight for `least_conn`.
    pub(super) fn weight(&self, now: Millis) -> u64 {
        self.scale_weight(self.spec.weight, now)
    }

    /// Returns what it gains in one round of round robin.
    pub(super) fn share(&self, now: Millis) -> i64 {
        self.scale_weight(self.effective_weight, now).cast_signed()
    }

    /// Restores a unit of the weight that failures took.
    pub(super) fn regain_weight(&mut self) {
        if self.effective_weight < self.spec.weight {
            self.effective_weight += 1;
        }
    }
}

/// Finds the peer at `point`, where the peers lie one after the other, each as long as its weight.
pub(super) fn find_by_weight(members: &[GroupPeer], mut point: u64) -> Option<(usize, &GroupPeer)> {
    members.iter().enumerate().find(|(_, member)| {
        let weight = u64::from(member.spec.weight);
        let is_here = point < weight;
        point = point.saturating_sub(weight);
        is_here
    })
}
