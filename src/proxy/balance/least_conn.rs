//! The peer with the fewest connections for its weight; among equals they take turns. A tunnel is a connection as long as
//! it lasts.

use std::cmp::Ordering;

use crate::proxy::balance::peer::GroupPeer;
use crate::proxy::balance::round_robin;
use crate::runtime::executor::Millis;

pub(super) fn choose(members: &mut [GroupPeer], now: Millis, usable: &dyn Fn(&GroupPeer) -> bool) -> Option<usize> {
    let candidates = || members.iter().enumerate().filter(|(_, member)| usable(member));
    let (first, least) = candidates().min_by(|(_, a), (_, b)| by_load(a, b, now))?;
    if candidates().filter(|(_, member)| by_load(member, least, now).is_eq()).count() == 1 {
        return Some(first);
    }
    let (conns, weight) = (least.conns(), least.weight(now));
    let equal = |member: &GroupPeer| product(member.conns(), weight) == product(conns, member.weight(now));
    round_robin::choose(members, now, &|member| usable(member) && equal(member))
}

/// Who has fewer connections for the weight.
pub(super) fn by_load(a: &GroupPeer, b: &GroupPeer, now: Millis) -> Ordering {
    product(a.conns(), b.weight(now)).cmp(&product(b.conns(), a.weight(now)))
}

fn product(conns: u32, weight: u64) -> u128 {
    u128::from(conns) * u128::from(weight)
}
