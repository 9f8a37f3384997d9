//! A peer as its group sees it: its share of the requests, and whether it can take one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::config::PeerSpec;
use crate::reactor::Millis;
use crate::socket::Addr;

/// Parts of a unit of weight: the steps of a slow start.
const PARTS: u64 = 1000;

/// A peer as others hold it. It is the same one after a reload, with its connections.
#[derive(Debug)]
pub struct Peer {
    pub addr: Addr,
    conns: AtomicU32,
}

impl Peer {
    pub(super) fn new(addr: Addr) -> Self {
        Self { addr, conns: AtomicU32::new(0) }
    }

    /// Counts one more connection. Only who holds the group's lock does that.
    pub(super) fn enter(&self) {
        self.conns.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        self.conns.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A peer in its group.
pub(super) struct Member {
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

impl Member {
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
        self.peer.conns.load(Ordering::Relaxed)
    }

    /// Whether it can take one more request. The only peer of a group is never left alone for its failures: there is no
    /// other to ask.
    pub(super) fn is_open(&self, now: Millis, alone: bool) -> bool {
        !self.spec.down
            && (alone || !self.has_failed(now))
            && (self.spec.max_conns == 0 || self.conns() < self.spec.max_conns)
    }

    fn is_disabled(&self) -> bool {
        self.spec.max_fails > 0 && self.fails >= self.spec.max_fails
    }

    pub(super) fn has_failed(&self, now: Millis) -> bool {
        self.is_disabled() && now.saturating_sub(self.checked) <= millis(self.spec.fail_timeout)
    }

    /// It was chosen: one request finds out whether a peer that had failed is back.
    pub(super) fn take(&mut self, now: Millis) {
        self.peer.enter();
        self.tries += 1;
        if now.saturating_sub(self.checked) > millis(self.spec.fail_timeout) {
            self.checked = now;
        }
    }

    pub(super) fn answered(&mut self, now: Millis) {
        if self.failed < self.checked {
            if self.is_disabled() && !self.spec.slow_start.is_zero() {
                self.back = Some(now);
            }
            self.fails = 0;
        }
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
pub(super) fn by_weight(members: &[Member], mut point: u64) -> Option<(usize, &Member)> {
    members.iter().enumerate().find(|(_, member)| {
        let weight = u64::from(member.spec.weight);
        let here = point < weight;
        point = point.saturating_sub(weight);
        here
    })
}

fn millis(time: Duration) -> Millis {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
