//! `ip_hash` and `hash`: the same peer for the same key, by nginx's arithmetic, so that both choose the same one.

use crate::proxy::balance::attempt::HashProbe;
use crate::proxy::balance::crc32::Crc32;
use crate::proxy::balance::peer::{GroupPeer, find_by_weight};

/// The initial value of the hash of an address.
const ADDRESS_HASH_START: u64 = 89;

/// `ip_hash`.
pub(super) fn choose_by_address(
    members: &[GroupPeer],
    probe: &mut HashProbe,
    is_usable: &dyn Fn(&GroupPeer) -> bool,
) -> Option<usize> {
    choose(members, probe, is_usable, |probe| {
        let start = if probe.rounds == 0 { ADDRESS_HASH_START } else { probe.hash };
        probe.hash = probe.key.iter().fold(start, |hash, byte| (hash * 113 + u64::from(*byte)) % 6271);
    })
}

/// `hash`: the hash of the key; while the peer is not usable, the hashes of `1<key>`, `2<key>`, ... are added.
pub(super) fn choose_by_key(
    members: &[GroupPeer],
    probe: &mut HashProbe,
    is_usable: &dyn Fn(&GroupPeer) -> bool,
) -> Option<usize> {
    choose(members, probe, is_usable, |probe| {
        let prefix = if probe.rounds == 0 { String::new() } else { probe.rounds.to_string() };
        let crc = Crc32::new().update(prefix.as_bytes()).update(&probe.key).finish();
        probe.hash += u64::from(crc >> 16 & 0x7fff);
    })
}

/// Calls `step` until the hash is that of a usable peer.
fn choose(
    members: &[GroupPeer],
    probe: &mut HashProbe,
    is_usable: &dyn Fn(&GroupPeer) -> bool,
    step: impl Fn(&mut HashProbe),
) -> Option<usize> {
    let total: u64 = members.iter().map(|member| u64::from(member.spec.weight)).sum();
    while probe.may_continue() && !probe.key.is_empty() {
        step(probe);
        probe.rounds += 1;
        let (at, member) = find_by_weight(members, probe.hash.checked_rem(total)?)?;
        if is_usable(member) {
            return Some(at);
        }
        probe.count_miss();
    }
    None
}
