//! `least_conn`: the peer with the fewest connections in proportion to its weight, among equals by round robin. A tunnel
//! counts as long as it lasts.

use std::cmp::Ordering;

use crate::proxy::balance::peer::GroupPeer;
use crate::proxy::balance::round_robin;
use crate::runtime::executor::Millis;

pub(super) fn choose(members: &mut [GroupPeer], now: Millis, is_usable: &dyn Fn(&GroupPeer) -> bool) -> Option<usize> {
    let candidates = || members.iter().enumerate().filter(|(_, member)| is_usable(member));
    let (first, least) = candidates().min_by(|(_, a), (_, b)| compare_load(a, b, now))?;
    if candidates().filter(|(_, member)| compare_load(member, least, now).is_eq()).count() == 1 {
        return Some(first);
    }
    let (conns, weight) = (least.conns(), least.weight(now));
    let is_equal = |member: &GroupPeer| product(member.conns(), weight) == product(conns, member.weight(now));
    round_robin::choose(members, now, &|member| is_usable(member) && is_equal(member))
}

/// Compares connections in proportion to weights.
pub(super) fn compare_load(a: &GroupPeer, b: &GroupPeer, now: Millis) -> Ordering {
    product(a.conns(), b.weight(now)).cmp(&product(b.conns(), a.weight(now)))
}

fn product(conns: u32, weight: u64) -> u128 {
    u128::from(conns) * u128::from(weight)
}
