//! `hash ... consistent`: each peer has 160 points a unit of weight on a ring of hashes, and a key belongs to the next point.
//! Another peer takes only its part of the keys. The points are those of nginx and of memcached's clients (ketama).

use std::sync::Arc;

use crate::config::PeerSpec;
use crate::proxy::balance::attempt::HashProbe;
use crate::proxy::balance::crc32::{self, Crc};
use crate::proxy::balance::peer::GroupPeer;
use crate::proxy::balance::round_robin;
use crate::runtime::executor::Millis;

/// Points of a unit of weight.
const POINTS: u32 = 160;

/// The points in their order.
pub(super) struct Ring {
    /// A hash, and the first line with the name that it belongs to.
    points: Box<[(u32, u32)]>,
}

impl Ring {
    pub(super) fn new(specs: &[Arc<PeerSpec>]) -> Self {
        let mut points = Vec::new();
        for (line, spec) in specs.iter().enumerate().filter(|(_, spec)| !spec.backup) {
            let (host, port) = parts(&spec.name);
            let base = Crc::new().with(host.as_bytes()).with(b"\0").with(port.as_bytes());
            let mut last = 0u32;
            for _ in 0..spec.weight.saturating_mul(POINTS) {
                last = base.with(&last.to_le_bytes()).value();
                points.push((last, line as u32));
            }
        }
        points.sort_by_key(|(hash, _)| *hash);
        points.dedup_by_key(|(hash, _)| *hash);
        Self { points: points.into() }
    }

    /// The next peer on the ring that can be used. Peers of one name (its addresses) take turns.
    pub(super) fn choose(
        &self,
        members: &mut [GroupPeer],
        specs: &[Arc<PeerSpec>],
        trail: &mut HashProbe,
        now: Millis,
        usable: &dyn Fn(&GroupPeer) -> bool,
    ) -> Option<usize> {
        if trail.rounds == 0 {
            let hash = crc32::of(&trail.key);
            trail.hash = self.points.partition_point(|(point, _)| *point < hash) as u64;
        }
        trail.rounds += 1;
        while trail.goes_on() && !trail.key.is_empty() {
            let at = trail.hash.checked_rem(self.points.len() as u64)?;
            let (_, line) = self.points.get(at as usize)?;
            let name = &specs.get(*line as usize)?.name;
            let found = round_robin::choose(members, now, &|member| member.spec.name == *name && usable(member));
            if found.is_some() {
                return found;
            }
            trail.hash += 1;
            trail.miss();
        }
        None
    }
}

/// Host and port of a peer as it was written.
fn parts(name: &str) -> (&str, &str) {
    if name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("unix:")) {
        return (name.get(5..).unwrap_or_default(), "");
    }
    match name.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, port),
        _ => (name, ""),
    }
}
