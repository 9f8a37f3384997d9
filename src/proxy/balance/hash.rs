//! `ip_hash` and `hash`: the same peer for the same key, with nginx's arithmetic, so that both send it to the same one.

use crate::proxy::balance::attempt::HashProbe;
use crate::proxy::balance::crc32::Crc;
use crate::proxy::balance::peer::{GroupPeer, by_weight};

/// Where the hash of an address begins.
const ADDRESS_START: u64 = 89;

/// By the bytes of an address.
pub(super) fn by_address(
    members: &[GroupPeer],
    trail: &mut HashProbe,
    usable: &dyn Fn(&GroupPeer) -> bool,
) -> Option<usize> {
    choose(members, trail, usable, |trail| {
        let start = if trail.rounds == 0 { ADDRESS_START } else { trail.hash };
        trail.hash = trail.key.iter().fold(start, |hash, byte| (hash * 113 + u64::from(*byte)) % 6271);
    })
}

/// By a text: the hash of the key, to which the hashes of the key behind the numbers 1, 2, ... are added as long as the
/// peers that are found can't be used.
pub(super) fn by_text(
    members: &[GroupPeer],
    trail: &mut HashProbe,
    usable: &dyn Fn(&GroupPeer) -> bool,
) -> Option<usize> {
    choose(members, trail, usable, |trail| {
        let prefix = if trail.rounds == 0 { String::new() } else { trail.rounds.to_string() };
        let crc = Crc::new().with(prefix.as_bytes()).with(&trail.key).value();
        trail.hash += u64::from(crc >> 16 & 0x7fff);
    })
}

/// Goes from hash to hash until one leads to a peer that can be used.
fn choose(
    members: &[GroupPeer],
    trail: &mut HashProbe,
    usable: &dyn Fn(&GroupPeer) -> bool,
    step: impl Fn(&mut HashProbe),
) -> Option<usize> {
    let total: u64 = members.iter().map(|member| u64::from(member.spec.weight)).sum();
    while trail.goes_on() && !trail.key.is_empty() {
        step(trail);
        trail.rounds += 1;
        let (at, member) = by_weight(members, trail.hash.checked_rem(total)?)?;
        if usable(member) {
            return Some(at);
        }
        trail.miss();
    }
    None
}
