//! A peer as its group sees it: its share of the requests, and whether it can take one.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::task::Poll;

use crate::config::PeerSpec;
use crate::proxy::balance::queue::Queue;
use crate::runtime::executor::{Millis, millis};
use crate::runtime::socket::Addr;

/// Connections to a peer that may be under way at the same time; others wait for them, in their order. Backlogs are seldom
/// shorter.
const CONNECTING_MAX: u32 = 64;
/// Parts of a unit of weight: the steps of a slow start.
const PARTS: u64 = 1000;

/// What health checks have found out about a peer. Whom nobody checks is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    Well = 0,
    Ill = 1,
    /// It was not asked yet, and gets nothing before (`mandatory`).
    Awaited = 2,
}

impl From<u8> for Finding {
    fn from(number: u8) -> Self {
        match number {
            0 => Self::Well,
            1 => Self::Ill,
            _ => Self::Awaited,
        }
    }
}

/// A peer as others hold it. It is the same one after a reload, with its connections.
pub struct Peer {
    pub addr: Addr,
    conns: AtomicU32,
    /// Who waits for it, or for another peer of its group.
    queue: Arc<Queue>,
    /// Connections that are being made.
    connecting: AtomicU32,
    /// A `Finding`.
    finding: AtomicU8,
    /// How often a health check has asked it, and how often in vain.
    checks: AtomicU32,
    failed_checks: AtomicU32,
    /// Who waits for those to be done.
    anteroom: Arc<Queue>,
}

impl Peer {
    pub(super) fn new(addr: Addr, queue: Arc<Queue>) -> Self {
        Self {
            addr,
            conns: AtomicU32::new(0),
            queue,
            connecting: AtomicU32::new(0),
            finding: AtomicU8::new(Finding::Well as u8),
            checks: AtomicU32::new(0),
            failed_checks: AtomicU32::new(0),
            anteroom: Arc::default(),
        }
    }

    /// What health checks have found out about it.
    pub fn finding(&self) -> Finding {
        self.finding.load(Ordering::SeqCst).into()
    }

    pub fn find(&self, finding: Finding) {
        self.finding.store(finding as u8, Ordering::SeqCst);
    }

    /// Counts a question of a health check.
    pub fn count_check(&self, failed: bool) {
        self.checks.fetch_add(1, Ordering::Relaxed);
        self.failed_checks.fetch_add(failed.into(), Ordering::Relaxed);
    }

    /// How often a health check has asked it, and how often in vain.
    pub(super) fn checks(&self) -> (u32, u32) {
        (self.checks.load(Ordering::Relaxed), self.failed_checks.load(Ordering::Relaxed))
    }

    /// Counts one more connection. Only who holds the group's lock does that.
    pub(super) fn enter(&self) {
        self.conns.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until a connection to it may be made.
    pub async fn admit(&self) -> ConnectPermit<'_> {
        if self.anteroom.is_empty()
            && let Some(admission) = self.try_admit()
        {
            return admission;
        }
        let place = self.anteroom.line_up();
        poll_fn(|cx| place.look(cx, || self.try_admit()).map_or(Poll::Pending, Poll::Ready)).await
    }

    fn try_admit(&self) -> Option<ConnectPermit<'_>> {
        let more = |count: u32| (count < CONNECTING_MAX).then_some(count + 1);
        let admitted = self.connecting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
        admitted.ok().map(|_| ConnectPermit { peer: self })
    }

    pub(super) fn leave(&self) {
        self.conns.fetch_sub(1, Ordering::SeqCst);
        self.queue.announce();
    }
}

/// Counts a connection that is being made, until this is dropped.
pub struct ConnectPermit<'p> {
    peer: &'p Peer,
}

impl Drop for ConnectPermit<'_> {
    fn drop(&mut self) {
        self.peer.connecting.fetch_sub(1, Ordering::SeqCst);
        self.peer.anteroom.announce();
    }
}

/// A peer in its group.
pub(super) struct GroupPeer {
    pub(super) peer: Arc<Peer>,
    pub(super) spec: Arc<PeerSpec>,
    /// What `sticky` knows it by.
    pub(super) id: String,
    /// What is left of the weight after failures.
    effective: u32,
    /// What it has earned by round robin.
    pub(super) current: i64,
    fails: u32,
    failed: Millis,
    /// When it failed last, or was tried again since.
    checked: Millis,
    /// Since when it is back, while it starts slowly.
    back: Option<Millis>,
    /// Requests that were sent to it or could not be, and those of them that it failed.
    pub(super) tries: u64,
    pub(super) failures: u64,
}

impl GroupPeer {
    pub(super) fn new(peer: Arc<Peer>, spec: Arc<PeerSpec>, id: String) -> Self {
        let effective = spec.weight;
        Self {
            peer,
            spec,
            id,
            effective,
            current: 0,
            fails: 0,
            failed: 0,
            checked: 0,
            back: None,
            tries: 0,
            failures: 0,
        }
    }

    pub(super) fn conns(&self) -> u32 {
        self.peer.conns.load(Ordering::SeqCst)
    }

    /// Whether it can take one more request. The only peer of a group is never left alone for its failures: there is no
    /// other to ask.
    pub(super) fn is_open(&self, now: Millis, alone: bool) -> bool {
        !self.spec.down
            && self.peer.finding() == Finding::Well
            && (alone || !self.has_failed(now))
            && (self.spec.max_conns == 0 || self.conns() < self.spec.max_conns)
    }

    fn is_disabled(&self) -> bool {
        self.spec.max_fails > 0 && self.fails >= self.spec.max_fails
    }

    pub(super) fn has_failed(&self, now: Millis) -> bool {
        self.is_disabled() && now.saturating_sub(self.checked) <= millis(self.spec.fail_timeout)
    }

    /// When it may be tried again after its failures.
    pub(super) fn back_at(&self, now: Millis) -> Option<Millis> {
        let waits = !self.spec.down && self.has_failed(now);
        waits.then(|| self.checked.saturating_add(millis(self.spec.fail_timeout)).saturating_add(1))
    }

    /// It was chosen: one request finds out whether a peer that had failed is back.
    pub(super) fn take(&mut self, now: Millis) {
        self.peer.enter();
        self.tries += 1;
        if now.saturating_sub(self.checked) > millis(self.spec.fail_timeout) {
            self.checked = now;
        }
    }

    /// Notes an answer: whether the peer is back by it.
    pub(super) fn answered(&mut self, now: Millis) -> bool {
        let is_back = self.failed < self.checked && self.is_disabled();
        if is_back && !self.spec.slow_start.is_zero() {
            self.back = Some(now);
        }
        if self.failed < self.checked {
            self.fails = 0;
        }
        is_back
    }

    /// It works again, by what a health check says.
    pub(super) fn recover_all(&mut self, now: Millis) {
        self.fails = 0;
        self.effective = self.spec.weight;
        self.back = (!self.spec.slow_start.is_zero()).then_some(now);
    }

    /// Notes a failure: whether it was the last one that it may have.
    pub(super) fn fail(&mut self, now: Millis) -> bool {
        self.fails = self.fails.saturating_add(1);
        self.failures += 1;
        self.failed = now;
        self.checked = now;
        let lost = self.spec.weight.checked_div(self.spec.max_fails).unwrap_or(0);
        self.effective = self.effective.saturating_sub(lost);
        self.is_disabled()
    }

    /// The weight in parts of a unit, less in a slow start.
    fn parts(&self, weight: u32, now: Millis) -> u64 {
        let slow = millis(self.spec.slow_start);
        let parts = match self.back.map(|since| now.saturating_sub(since)) {
            Some(elapsed) if elapsed < slow => (elapsed * PARTS / slow).max(1),
            _ => PARTS,
        };
        u64::from(weight) * parts
    }

    /// The weight that connections are compared by.
    pub(super) fn weight(&self, now: Millis) -> u64 {
        self.parts(self.spec.weight, now)
    }

    /// What it earns by one round.
    pub(super) fn share(&self, now: Millis) -> i64 {
        self.parts(self.effective, now).cast_signed()
    }

    /// Gets back some of the weight that failures took.
    pub(super) fn recover(&mut self) {
        if self.effective < self.spec.weight {
            self.effective += 1;
        }
    }
}

/// The peer that `point`, which is less than all weights together, falls to.
pub(super) fn by_weight(members: &[GroupPeer], mut point: u64) -> Option<(usize, &GroupPeer)> {
    members.iter().enumerate().find(|(_, member)| {
        let weight = u64::from(member.spec.weight);
        let here = point < weight;
        point = point.saturating_sub(weight);
        here
    })
}
