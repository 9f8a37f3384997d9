//! How peers are, for people and programs that watch.

use crate::config::PeerSpec;
use crate::proxy::balance::UpstreamState;
use crate::proxy::balance::peer::{Finding, GroupPeer};
use crate::runtime::executor::{self, Millis};
use crate::runtime::socket::Endpoint;

/// How a peer is.
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
    /// Questions of a `health_check`, and those of them that had no good answer.
    pub checks: u32,
    pub failed_checks: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Up,
    /// Left alone for a while because of its failures (`max_fails`).
    Failed,
    /// Taken out by a `health_check`.
    Unhealthy,
    /// It waits for the first answer to a `health_check`.
    Checking,
    /// Taken out by the configuration (`down`).
    Down,
    /// It gets only what sticks to it (`drain`).
    Draining,
    /// Its name was not looked up yet, or has no address.
    Unknown,
}

impl UpstreamState {
    /// How its peers are, in the order of their lines.
    pub fn states(&self) -> Vec<PeerState> {
        let now = executor::now();
        let state = self.lock();
        let alone = state.members.len() == 1;
        let mut states = Vec::new();
        for spec in &self.upstream.peers {
            let before = states.len();
            let known = state.members.iter().filter(|member| std::sync::Arc::ptr_eq(&member.spec, spec));
            states.extend(known.map(|member| member.state(now, alone)));
            if states.len() == before {
                states.push(unknown(spec));
            }
        }
        states
    }
}

impl GroupPeer {
    fn state(&self, now: Millis, alone: bool) -> PeerState {
        let health = match chosen(&self.spec) {
            None if self.peer.finding() == Finding::Ill => Health::Unhealthy,
            None if self.peer.finding() == Finding::Awaited => Health::Checking,
            None if !alone && self.has_failed(now) => Health::Failed,
            None => Health::Up,
            Some(health) => health,
        };
        let (conns, tries, failures) = (self.conns(), self.tries, self.failures);
        let (checks, failed_checks) = self.peer.checks();
        let place = self.peer.addr.to_string();
        PeerState { place, health, conns, tries, failures, checks, failed_checks, ..unknown(&self.spec) }
    }
}

/// What the configuration says, whatever becomes of the peer.
fn chosen(spec: &PeerSpec) -> Option<Health> {
    match (spec.down, spec.drain) {
        (true, _) => Some(Health::Down),
        (false, true) => Some(Health::Draining),
        (false, false) => None,
    }
}

/// A line of which no address is known. Addresses that were written down are as good as their peers.
fn unknown(spec: &PeerSpec) -> PeerState {
    let (place, health) = match &spec.place {
        Endpoint::Addr(addr) => (addr.to_string(), Health::Up),
        Endpoint::Name { host, port } => (format!("{host}:{port}"), Health::Unknown),
    };
    let health = chosen(spec).unwrap_or(health);
    PeerState {
        place,
        health,
        backup: spec.backup,
        weight: spec.weight,
        conns: 0,
        tries: 0,
        failures: 0,
        checks: 0,
        failed_checks: 0,
    }
}
