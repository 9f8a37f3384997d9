//! Searches for literals, in any case: the first place of one of them, or all that a subject contains.

use std::ops::{ControlFlow, Range};

use crate::regex::byte_set::Set;
use crate::regex::literals::{KEY_BYTES, List, shortest};

/// Literals that are compared one after the other; a table finds more of them.
const FEW_MAX: usize = 6;
/// Slots for each literal: most of what a subject contains falls into empty ones.
const SLOTS_EACH: usize = 4;
const SLOTS_MIN: usize = 64;

/// Finds where the first of some literals begins.
#[derive(Debug)]
pub(super) enum Finder {
    /// The bytes that a literal can begin with, and the literals, where they are longer than one byte.
    Few(Set, List),
    Many(Table),
}

impl Finder {
    /// `None`: the list excludes no subject.
    pub(super) fn new(list: List) -> Option<Self> {
        match shortest(&list) {
            0 => None,
            KEY_BYTES.. if list.len() > FEW_MAX => {
                let mut table = Table::new(list.len());
                list.into_iter().for_each(|literal| table.add(literal, 0, 1));
                Some(Self::Many(table))
            }
            length => {
                let mut set = Set::default();
                for first in list.iter().filter_map(|literal| literal.first().copied().map(u32::from)) {
                    set.add(first, first);
                }
                set.fold();
                let needs_more = length > 1 && list.len() <= FEW_MAX;
                Some(Self::Few(set, if needs_more { list } else { List::new() }))
            }
        }
    }

    /// Finds bytes of a set.
    pub(super) fn of_set(set: Set) -> Self {
        Self::Few(set, List::new())
    }

    /// The literals; none, where it finds bytes of a set.
    pub(super) fn literals(&self) -> Vec<&[u8]> {
        match self {
            Self::Few(_, list) => list.iter().map(Vec::as_slice).collect(),
            Self::Many(table) => table.entries.iter().map(|entry| entry.literal.as_slice()).collect(),
        }
    }

    /// The first of `places` where a literal begins.
    pub(super) fn find(&self, subject: &[u8], places: Range<usize>) -> Option<usize> {
        match self {
            Self::Few(set, list) => {
                let (end, mut at) = (places.end.min(subject.len()), places.start);
                loop {
                    at += subject.get(at..end)?.iter().position(|byte| set.has(*byte))?;
                    let rest = subject.get(at..)?;
                    if list.is_empty() || list.iter().any(|literal| begins(rest, literal)) {
                        return Some(at);
                    }
                    at += 1;
                }
            }
            Self::Many(table) => {
                let mut found = None;
                table.scan(subject, places, |_, at| {
                    found = Some(at);
                    ControlFlow::Break(())
                });
                found
            }
        }
    }
}

/// Whether `text` begins with a literal in lower case.
fn begins(text: &[u8], literal: &[u8]) -> bool {
    text.get(..literal.len()).is_some_and(|start| start.eq_ignore_ascii_case(literal))
}

/// Literals of at least `KEY_BYTES` bytes, by a hash of those.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: Vec<Entry>,
    /// One more than the index of the first literal of each slot; 0, if there is none.
    slots: Vec<u32>,
    /// The number of low bits of a hash that do not belong to the slot number.
    shift: u32,
}

#[derive(Debug)]
struct Entry {
    literal: Vec<u8>,
    /// Where its key stands in it.
    offset: usize,
    owner: u32,
    /// The next literal of its slot, as in `slots`.
    next: u32,
}

/// The key with `byte` behind it.
fn key(key: u32, byte: &u8) -> u32 {
    (key << 8 | u32::from(byte.to_ascii_lowercase())) & 0xff_ffff
}

impl Table {
    /// An empty table with room for `literals` literals.
    pub(super) fn new(literals: usize) -> Self {
        let slots = (literals * SLOTS_EACH).next_power_of_two().max(SLOTS_MIN);
        Self { entries: Vec::with_capacity(literals), slots: vec![0; slots], shift: 32 - slots.trailing_zeros() }
    }

    /// Adds a literal. One of its first `keys` sequences of `KEY_BYTES` bytes becomes its key, preferably one whose slot is
    /// free. With `keys` 1 a scan reports literals in the order of their places.
    pub(super) fn add(&mut self, literal: Vec<u8>, owner: u32, keys: usize) {
        let mut slots = literal.windows(KEY_BYTES).take(keys).map(|bytes| self.slot(bytes.iter().fold(0, key)));
        let first = slots.next().unwrap_or_default();
        let is_free = |slot: usize| self.slots.get(slot) == Some(&0);
        let better = if is_free(first) { None } else { slots.zip(1..).find(|(slot, _)| is_free(*slot)) };
        let (slot, offset) = better.unwrap_or((first, 0));
        if let Some(head) = self.slots.get_mut(slot) {
            self.entries.push(Entry { literal, offset, owner, next: *head });
            *head = self.entries.len() as u32;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn slot(&self, key: u32) -> usize {
        (key.wrapping_mul(0x9e37_79b1) >> self.shift) as usize
    }

    /// Reports the owner and the place of each literal whose key begins in `keys`, until `found` breaks.
    pub(super) fn scan(
        &self,
        subject: &[u8],
        keys: Range<usize>,
        mut found: impl FnMut(u32, usize) -> ControlFlow<()>,
    ) {
        let end = subject.len().min(keys.end.saturating_add(KEY_BYTES - 1));
        let bytes = subject.get(keys.start..end).unwrap_or_default();
        let mut last = 0;
        for (behind, byte) in (keys.start + 1..).zip(bytes) {
            last = key(last, byte);
            let mut next = self.slots.get(self.slot(last)).copied().unwrap_or_default();
            while let Some(entry) = self.entries.get((next as usize).wrapping_sub(1)) {
                next = entry.next;
                let at = behind.checked_sub(KEY_BYTES + entry.offset).filter(|at| at + entry.offset >= keys.start);
                let Some(at) = at else { continue };
                if begins(subject.get(at..).unwrap_or_default(), &entry.literal) && found(entry.owner, at).is_break() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> List {
        texts.iter().map(|text| text.as_bytes().to_vec()).collect()
    }

    #[test]
    fn the_first_place_of_a_few_or_many() {
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
    fn a_table_reports_all_that_is_there() {
        let texts = ["http://a", "http://b", "http://ab", "ttp", "p:/", "é://"];
        for keys in [1, 2, usize::MAX] {
            let mut table = Table::new(texts.len());
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
