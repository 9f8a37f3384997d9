//! Smooth weighted round robin: each round adds its weight to every peer's balance, and takes the sum from the peer with the
//! highest balance, which is chosen.

use crate::proxy::balance::peer::GroupPeer;
use crate::runtime::executor::Millis;

pub(super) fn choose(members: &mut [GroupPeer], now: Millis, is_usable: &dyn Fn(&GroupPeer) -> bool) -> Option<usize> {
    let mut total = 0;
    let mut best: Option<(usize, i64)> = None;
    for (at, member) in members.iter_mut().enumerate().filter(|(_, member)| is_usable(member)) {
        let share = member.share(now);
        member.current_weight += share;
        total += share;
        member.regain_weight();
        if best.is_none_or(|(_, highest)| member.current_weight > highest) {
            best = Some((at, member.current_weight));
        }
    }
    let (at, _) = best?;
    members.get_mut(at)?.current_weight -= total;
    Some(at)
}
