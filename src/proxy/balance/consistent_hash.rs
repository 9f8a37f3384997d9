//! `hash ... consistent`: each peer has 160 points per unit of weight on a ring of hashes, and a key belongs to the next
//! point. A new peer takes only its share of the keys. The points are those of nginx and of memcached's clients (ketama).

use std::sync::Arc;

use crate::config::PeerSpec;
use crate::proxy::balance::attempt::HashProbe;
use crate::proxy::balance::crc32::{self, Crc32};
use crate::proxy::balance::peer::GroupPeer;
use crate::proxy::balance::round_robin;
use crate::runtime::executor::Millis;

const POINTS_PER_WEIGHT: u32 = 160;

pub(super) struct Ring {
    /// Hashes in ascending order, each with the index of its `server` line.
    points: Box<[(u32, u32)]>,
}

impl Ring {
    pub(super) fn new(specs: &[Arc<PeerSpec>]) -> Self {
        let mut points = Vec::new();
        for (line, spec) in specs.iter().enumerate().filter(|(_, spec)| !spec.backup) {
            let (host, port) = split_host_port(&spec.name);
            let base = Crc32::new().update(host.as_bytes()).update(b"\0").update(port.as_bytes());
            let mut last = 0u32;
            for _ in 0..spec.weight.saturating_mul(POINTS_PER_WEIGHT) {
                last = base.update(&last.to_le_bytes()).finish();
                points.push((last, line as u32));
            }
        }
        points.sort_by_key(|(hash, _)| *hash);
        points.dedup_by_key(|(hash, _)| *hash);
        Self { points: points.into() }
    }

    /// Chooses the next usable peer on the ring, among the addresses of one name by round robin.
    pub(super) fn choose(
        &self,
        members: &mut [GroupPeer],
        specs: &[Arc<PeerSpec>],
        probe: &mut HashProbe,
        now: Millis,
        is_usable: &dyn Fn(&GroupPeer) -> bool,
    ) -> Option<usize> {
        if probe.rounds == 0 {
            let hash = crc32::checksum(&probe.key);
            probe.hash = self.points.partition_point(|(point, _)| *point < hash) as u64;
        }
        probe.rounds += 1;
        while probe.may_continue() && !probe.key.is_empty() {
            let at = probe.hash.checked_rem(self.points.len() as u64)?;
            let (_, line) = self.points.get(at as usize)?;
            let name = &specs.get(*line as usize)?.name;
            let chosen = round_robin::choose(members, now, &|member| member.spec.name == *name && is_usable(member));
            if chosen.is_some() {
                return chosen;
            }
            probe.hash += 1;
            probe.count_miss();
        }
        None
    }
}

/// Splits the name of a peer as the configuration has it.
fn split_host_port(name: &str) -> (&str, &str) {
    if let Some((scheme, path)) = name.split_at_checked(5)
        && scheme.eq_ignore_ascii_case("unix:")
    {
        return (path, "");
    }
    match name.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, port),
        _ => (name, ""),
    }
}
