//! Smooth weighted round robin: every peer earns its weight each time, the richest is chosen and pays for all.

use crate::proxy::balance::peer::GroupPeer;
use crate::runtime::executor::Millis;

pub(super) fn choose(members: &mut [GroupPeer], now: Millis, usable: &dyn Fn(&GroupPeer) -> bool) -> Option<usize> {
    let mut total = 0;
    let mut best: Option<(usize, i64)> = None;
    for (at, member) in members.iter_mut().enumerate().filter(|(_, member)| usable(member)) {
        let share = member.share(now);
        member.current += share;
        total += share;
        member.recover();
        if best.is_none_or(|(_, most)| member.current > most) {
            best = Some((at, member.current));
        }
    }
    let (at, _) = best?;
    members.get_mut(at)?.current -= total;
    Some(at)
}
