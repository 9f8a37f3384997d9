//! `random`: a peer at random by weight, or the less loaded of two such (`two least_conn`).

use crate::proxy::balance::attempt::HashProbe;
use crate::proxy::balance::least_conn;
use crate::proxy::balance::peer::{GroupPeer, find_by_weight};
use crate::runtime::executor::Millis;

pub(super) fn choose(
    members: &[GroupPeer],
    probe: &mut HashProbe,
    now: Millis,
    two: bool,
    is_usable: &dyn Fn(&GroupPeer) -> bool,
) -> Option<usize> {
    let total: u64 = members.iter().map(|member| u64::from(member.spec.weight)).sum();
    let mut first: Option<(usize, &GroupPeer)> = None;
    while probe.may_continue() {
        let drawn = find_by_weight(members, fastrand::u64(..total.max(1)))?;
        let is_new = first.is_none_or(|(at, _)| at != drawn.0);
        match first {
            _ if !is_new || !is_usable(drawn.1) => probe.count_miss(),
            None if two => first = Some(drawn),
            Some((at, one)) if least_conn::compare_load(drawn.1, one, now).is_gt() => return Some(at),
            _ => return Some(drawn.0),
        }
    }
    None
}
