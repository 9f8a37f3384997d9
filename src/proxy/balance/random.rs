//! A peer by chance and weight, or the less busy one of two such.

use crate::proxy::balance::attempt::HashProbe;
use crate::proxy::balance::least_conn;
use crate::proxy::balance::peer::{GroupPeer, by_weight};
use crate::runtime::executor::Millis;

pub(super) fn choose(
    members: &[GroupPeer],
    trail: &mut HashProbe,
    now: Millis,
    two: bool,
    usable: &dyn Fn(&GroupPeer) -> bool,
) -> Option<usize> {
    let total: u64 = members.iter().map(|member| u64::from(member.spec.weight)).sum();
    let mut first: Option<(usize, &GroupPeer)> = None;
    while trail.goes_on() {
        let drawn = by_weight(members, fastrand::u64(..total.max(1)))?;
        let new = first.is_none_or(|(at, _)| at != drawn.0);
        match first {
            _ if !new || !usable(drawn.1) => trail.miss(),
            None if two => first = Some(drawn),
            Some((at, one)) if least_conn::by_load(drawn.1, one, now).is_gt() => return Some(at),
            _ => return Some(drawn.0),
        }
    }
    None
}
