//! Caseless searches for literals: the first of some literals, or all that a subject contains.

use std::ops::{ControlFlow, Range};

use crate::regex::byte_set::ByteSet;
use crate::regex::literals::{KEY_BYTES, LiteralList, shortest};

/// Literals that are compared one by one; a table is used for more.
const FEW_MAX: usize = 6;
/// Slots of a table for each literal: most keys of a subject hit empty ones.
const SLOTS_PER_LITERAL: usize = 4;
const SLOTS_MIN: usize = 64;

/// Finds the first of some literals.
#[derive(Debug)]
pub(super) enum Finder {
    /// The first bytes of the literals, and the literals if these bytes don't suffice.
    Few(ByteSet, LiteralList),
    Many(LiteralTable),
}

impl Finder {
    /// `None` if the list excludes no subject.
    pub(super) fn new(list: LiteralList) -> Option<Self> {
        match shortest(&list) {
            0 => None,
            KEY_BYTES.. if list.len() > FEW_MAX => {
                let mut table = LiteralTable::new(list.len());
                list.into_iter().for_each(|literal| table.add(literal, 0, 1));
                Some(Self::Many(table))
            }
            length => {
                let mut set = ByteSet::default();
                for first in list.iter().filter_map(|literal| literal.first().copied().map(u32::from)) {
                    set.add_range(first, first);
                }
                set.add_other_case();
                let compares_literals = length > 1 && list.len() <= FEW_MAX;
                Some(Self::Few(set, if compares_literals { list } else { LiteralList::new() }))
            }
        }
    }

    /// A finder of the bytes of a set.
    pub(super) fn from_set(set: ByteSet) -> Self {
        Self::Few(set, LiteralList::new())
    }

    /// The literals. None if only first bytes are compared.
    pub(super) fn literals(&self) -> Vec<&[u8]> {
        match self {
            Self::Few(_, list) => list.iter().map(Vec::as_slice).collect(),
            Self::Many(table) => table.entries.iter().map(|entry| entry.literal.as_slice()).collect(),
        }
    }

    /// Returns the first offset within `starts` at which a literal begins.
    pub(super) fn find(&self, subject: &[u8], starts: Range<usize>) -> Option<usize> {
        match self {
            Self::Few(set, list) => {
                let (end, mut at) = (starts.end.min(subject.len()), starts.start);
                loop {
                    at += subject.get(at..end)?.iter().position(|byte| set.contains(*byte))?;
                    let rest = subject.get(at..)?;
                    if list.is_empty() || list.iter().any(|literal| starts_with(rest, literal)) {
                        return Some(at);
                    }
                    at += 1;
                }
            }
            Self::Many(table) => {
                let mut found = None;
                table.scan(subject, starts, |_, at| {
                    found = Some(at);
                    ControlFlow::Break(())
                });
                found
            }
        }
    }
}

/// Whether `text` starts with a literal, in any case.
fn starts_with(text: &[u8], literal: &[u8]) -> bool {
    text.get(..literal.len()).is_some_and(|start| start.eq_ignore_ascii_case(literal))
}

/// A hash table of literals. The key of each is a sequence of `KEY_BYTES` bytes in it.
#[derive(Debug, Default)]
pub(super) struct LiteralTable {
    entries: Vec<LiteralEntry>,
    /// One more than the index of the first entry of each slot; 0 for an empty slot.
    slots: Vec<u32>,
    /// The low bits of a hash that are not part of the slot number.
    shift: u32,
}

#[derive(Debug)]
struct LiteralEntry {
    literal: Vec<u8>,
    /// Offset of the key in the literal.
    key_offset: usize,
    owner: u32,
    /// The next entry of the slot, as in `slots`.
    next: u32,
}

/// Shifts `byte` into a key.
fn shift_key(key: u32, byte: &u8) -> u32 {
    (key << 8 | u32::from(byte.to_ascii_lowercase())) & 0xff_ffff
}

impl LiteralTable {
    /// An empty table for `literals` literals.
    pub(super) fn new(literals: usize) -> Self {
        let slots = (literals * SLOTS_PER_LITERAL).next_power_of_two().max(SLOTS_MIN);
        Self { entries: Vec::with_capacity(literals), slots: vec![0; slots], shift: 32 - slots.trailing_zeros() }
    }

    /// Adds a literal. Its key is one of its first `keys_max` sequences of `KEY_BYTES` bytes, preferably one with an empty
    /// slot. If `keys_max` is 1, a scan reports literals in the order of their offsets.
    pub(super) fn add(&mut self, literal: Vec<u8>, owner: u32, keys_max: usize) {
        let mut slots =
            literal.windows(KEY_BYTES).take(keys_max).map(|bytes| self.slot(bytes.iter().fold(0, shift_key)));
        let first = slots.next().unwrap_or_default();
        let is_empty = |slot: usize| self.slots.get(slot) == Some(&0);
        let empty = if is_empty(first) { None } else { slots.zip(1..).find(|(slot, _)| is_empty(*slot)) };
        let (slot, key_offset) = empty.unwrap_or((first, 0));
        if let Some(head) = self.slots.get_mut(slot) {
            self.entries.push(LiteralEntry { literal, key_offset, owner, next: *head });
            *head = self.entries.len() as u32;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn slot(&self, key: u32) -> usize {
        (key.wrapping_mul(0x9e37_79b1) >> self.shift) as usize
    }

    /// Reports the owner and the offset of each literal whose key begins within `key_starts`, until `report` breaks.
    pub(super) fn scan(
        &self,
        subject: &[u8],
        key_starts: Range<usize>,
        mut report: impl FnMut(u32, usize) -> ControlFlow<()>,
    ) {
        let end = subject.len().min(key_starts.end.saturating_add(KEY_BYTES - 1));
        let bytes = subject.get(key_starts.start..end).unwrap_or_default();
        let mut key = 0;
        for (key_end, byte) in (key_starts.start + 1..).zip(bytes) {
            key = shift_key(key, byte);
            let mut next = self.slots.get(self.slot(key)).copied().unwrap_or_default();
            while let Some(entry) = self.entries.get((next as usize).wrapping_sub(1)) {
                next = entry.next;
                let at = key_end
                    .checked_sub(KEY_BYTES + entry.key_offset)
                    .filter(|at| at + entry.key_offset >= key_starts.start);
                let Some(at) = at else { continue };
                if starts_with(subject.get(at..).unwrap_or_default(), &entry.literal)
                    && report(entry.owner, at).is_break()
                {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> LiteralList {
        texts.iter().map(|text| text.as_bytes().to_vec()).collect()
    }

    #[test]
    fn few_and_many_literals_are_found() {
        let many = ["abc", "abcde", "bcd", "xyz", "x-y", "cde", "google"];
        for texts in [&many[..1], &many[2..5], &many] {
            let finder = Finder::new(list(texts)).unwrap();
            assert_eq!(matches!(finder, Finder::Many(_)), texts.len() > FEW_MAX);
            for subject in ["", "a", "ab", "abc", "--ABC", "xabxyabCd", "goobcgoogl", "goooGOOGle", "x-x-X-Y", "xyxyz"]
            {
                let lower = subject.to_lowercase();
                for (from, to) in (0..=subject.len()).flat_map(|from| (from..=subject.len()).map(move |to| (from, to)))
                {
                    let expected = (from..to).find(|at| texts.iter().any(|text| lower[*at..].starts_with(text)));
                    assert_eq!(finder.find(subject.as_bytes(), from..to), expected, "{texts:?} {subject} {from}..{to}");
                }
            }
        }
    }

    #[test]
    fn a_table_reports_all_literals() {
        let texts = ["http://a", "http://b", "http://ab", "ttp", "p:/", "é://"];
        for keys in [1, 2, usize::MAX] {
            let mut table = LiteralTable::new(texts.len());
            list(&texts).into_iter().zip(0..).for_each(|(literal, owner)| table.add(literal, owner, keys));
            for subject in ["HTTP://AB", "é://http://b", "http:/", "xp:/", "tt"] {
                let mut found = Vec::new();
                table.scan(subject.as_bytes(), 0..subject.len(), |owner, at| {
                    found.push((owner as usize, at));
                    ControlFlow::Continue(())
                });
                found.sort_unstable();
                let lower = subject.to_lowercase();
                let places = texts.iter().enumerate().flat_map(|(owner, text)| {
                    let found = lower.match_indices(text).map(move |(at, _)| (owner, at));
                    found.collect::<Vec<_>>()
                });
                assert_eq!(found, places.collect::<Vec<_>>(), "{subject} {keys}");
            }
        }
    }
}
