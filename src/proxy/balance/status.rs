//! Snapshots of peers for the status page and for metrics.

use crate::config::PeerSpec;
use crate::proxy::balance::UpstreamState;
use crate::proxy::balance::peer::{GroupPeer, Health};
use crate::runtime::executor::{self, Millis};
use crate::runtime::socket::Endpoint;

/// A snapshot of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerState {
    /// Its address; its name until that is resolved.
    pub endpoint: String,
    pub status: PeerStatus,
    pub backup: bool,
    pub weight: u32,
    /// Connections in use, without idle ones.
    pub conns: u32,
    /// Attempts to send it a request, and how many failed.
    pub attempts: u64,
    pub failures: u64,
    /// Runs of its `health_check`, and how many failed.
    pub checks: u32,
    pub failed_checks: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerStatus {
    Up,
    /// In its `fail_timeout` after `max_fails` failures.
    Failed,
    /// Its `health_check` fails.
    Unhealthy,
    /// The first `health_check` has not ended.
    Checking,
    /// `down` in the configuration.
    Down,
    /// Gets only requests of its sticky sessions (`drain`).
    Draining,
    /// Its name is not resolved yet, or has no address.
    Unknown,
}

impl UpstreamState {
    /// Returns snapshots of the peers, in the order of the `server` lines.
    pub fn peer_states(&self) -> Vec<PeerState> {
        let now = executor::now();
        let state = self.lock();
        let is_only = state.members.len() == 1;
        let mut states = Vec::new();
        for spec in &self.upstream.peers {
            let count = states.len();
            let peers = state.members.iter().filter(|member| std::sync::Arc::ptr_eq(&member.spec, spec));
            states.extend(peers.map(|member| member.state(now, is_only)));
            if states.len() == count {
                states.push(initial_state(spec));
            }
        }
        states
    }
}

impl GroupPeer {
    fn state(&self, now: Millis, is_only: bool) -> PeerState {
        let status = match configured_status(&self.spec) {
            None if self.peer.health() == Health::Unhealthy => PeerStatus::Unhealthy,
            None if self.peer.health() == Health::Unknown => PeerStatus::Checking,
            None if !is_only && self.is_in_fail_timeout(now) => PeerStatus::Failed,
            None => PeerStatus::Up,
            Some(status) => status,
        };
        let (conns, attempts, failures) = (self.conns(), self.attempts, self.failures);
        let (checks, failed_checks) = self.peer.checks();
        let endpoint = self.peer.addr.to_string();
        PeerState { endpoint, status, conns, attempts, failures, checks, failed_checks, ..initial_state(&self.spec) }
    }
}

/// Returns the status that the configuration sets, if it sets one.
fn configured_status(spec: &PeerSpec) -> Option<PeerStatus> {
    match (spec.down, spec.drain) {
        (true, _) => Some(PeerStatus::Down),
        (false, true) => Some(PeerStatus::Draining),
        (false, false) => None,
    }
}

/// Returns the snapshot of a `server` line without a peer.
fn initial_state(spec: &PeerSpec) -> PeerState {
    let (endpoint, status) = match &spec.endpoint {
        Endpoint::Addr(addr) => (addr.to_string(), PeerStatus::Up),
        Endpoint::Name { host, port } => (format!("{host}:{port}"), PeerStatus::Unknown),
    };
    let status = configured_status(spec).unwrap_or(status);
    PeerState {
        endpoint,
        status,
        backup: spec.backup,
        weight: spec.weight,
        conns: 0,
        attempts: 0,
        failures: 0,
        checks: 0,
        failed_checks: 0,
    }
}
