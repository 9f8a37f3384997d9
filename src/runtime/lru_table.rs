//! A hash table with a memory limit and least-recently-used order: the caller removes the oldest entry to make room.
//!
//! Keys come from clients, so the hash is keyed; the accounted bytes include the overhead of the allocator and of the
//! table. An entry keeps its id until it is removed.

use std::hash::{BuildHasher, RandomState};

/// The id of an entry. 0 is none.
pub type EntryId = u32;

/// Allocator overhead of a key.
const KEY_OVERHEAD_BYTES: usize = 16;
/// Bytes of one bucket.
const BUCKET_BYTES: usize = size_of::<EntryId>();

struct Entry<V> {
    key: Box<[u8]>,
    value: V,
    /// The next entry of the same bucket, or the next free one.
    next: EntryId,
    newer: EntryId,
    older: EntryId,
}

/// Entries by key, in order of use.
pub struct LruTable<V> {
    hasher: RandomState,
    /// The first entry of each chain. The number of buckets is a power of two.
    buckets: Vec<EntryId>,
    entries: Vec<Entry<V>>,
    free: EntryId,
    newest: EntryId,
    oldest: EntryId,
    /// Bytes of all keys.
    key_bytes: usize,
    bytes_max: usize,
}

impl<V: Default> LruTable<V> {
    /// Creates a table of at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        // About one bucket per two entries with short keys. Pages of it that are never touched cost no memory.
        let buckets = (bytes_max / Self::entry_bytes(2)).next_power_of_two();
        Self {
            hasher: RandomState::new(),
            buckets: vec![0; buckets],
            entries: Vec::new(),
            free: 0,
            newest: 0,
            oldest: 0,
            key_bytes: 0,
            bytes_max,
        }
    }

    const fn entry_bytes(count: usize) -> usize {
        count * size_of::<Entry<V>>()
    }

    fn key_cost_bytes(key: &[u8]) -> usize {
        if key.is_empty() { 0 } else { key.len() + KEY_OVERHEAD_BYTES }
    }

    /// Returns the accounted bytes.
    pub fn bytes_used(&self) -> usize {
        self.buckets.len() * BUCKET_BYTES + Self::entry_bytes(self.entries.capacity()) + self.key_bytes
    }

    fn entry(&self, id: EntryId) -> Option<&Entry<V>> {
        self.entries.get((id as usize).checked_sub(1)?)
    }

    fn entry_mut(&mut self, id: EntryId) -> Option<&mut Entry<V>> {
        self.entries.get_mut((id as usize).checked_sub(1)?)
    }

    pub fn value(&self, id: EntryId) -> Option<&V> {
        self.entry(id).map(|entry| &entry.value)
    }

    pub fn value_mut(&mut self, id: EntryId) -> Option<&mut V> {
        self.entry_mut(id).map(|entry| &mut entry.value)
    }

    pub fn key(&self, id: EntryId) -> Option<&[u8]> {
        self.entry(id).map(|entry| &*entry.key)
    }

    fn bucket(&self, key: &[u8]) -> usize {
        self.hasher.hash_one(key) as usize & (self.buckets.len() - 1)
    }

    pub fn find(&self, key: &[u8]) -> Option<EntryId> {
        let bucket = self.bucket(key);
        let mut id = self.buckets.get(bucket).copied()?;
        loop {
            let entry = self.entry(id)?;
            if *entry.key == *key {
                return Some(id);
            }
            id = entry.next;
        }
    }

    /// Inserts a key that has no entry yet, as the newest. `None`: the limit is reached.
    pub fn insert(&mut self, key: &[u8]) -> Option<EntryId> {
        let key_bytes = Self::key_cost_bytes(key);
        let left = self.bytes_max.checked_sub(self.bytes_used() + key_bytes)?;
        let id = self.allocate(left, key_bytes)?;
        let bucket = self.bucket(key);
        let next = std::mem::replace(self.buckets.get_mut(bucket)?, id);
        let entry = self.entry_mut(id)?;
        entry.key = key.into();
        entry.next = next;
        self.key_bytes += key_bytes;
        self.link_newest(id);
        Some(id)
    }

    /// Returns an unused entry: one that was removed, or a new one.
    fn allocate(&mut self, left: usize, key_bytes: usize) -> Option<EntryId> {
        if let Some(entry) = self.entry(self.free) {
            let next = entry.next;
            return Some(std::mem::replace(&mut self.free, next));
        }
        if self.entries.len() == self.entries.capacity() {
            // The remaining bytes are shared by entries and their keys.
            let max = left / (Self::entry_bytes(1) + key_bytes);
            let added = (self.entries.len() / 4).max(16).min(max);
            if added == 0 {
                return None;
            }
            self.entries.reserve_exact(added);
        }
        self.entries.push(Entry { key: Box::default(), value: V::default(), next: 0, newer: 0, older: 0 });
        EntryId::try_from(self.entries.len()).ok()
    }

    /// Removes an entry.
    pub fn remove(&mut self, id: EntryId) {
        let Some(entry) = self.entry_mut(id) else { return };
        let (key, next) = (std::mem::take(&mut entry.key), entry.next);
        entry.value = V::default();
        self.key_bytes -= Self::key_cost_bytes(&key);
        self.unlink(id);
        let bucket = self.bucket(&key);
        match self.buckets.get_mut(bucket) {
            Some(first) if *first == id => *first = next,
            Some(first) => {
                let mut before = *first;
                while let Some(entry) = self.entry_mut(before) {
                    if entry.next == id {
                        entry.next = next;
                        break;
                    }
                    before = entry.next;
                }
            }
            None => {}
        }
        let free = std::mem::replace(&mut self.free, id);
        if let Some(entry) = self.entry_mut(id) {
            entry.next = free;
        }
    }

    /// Returns the least recently used entry.
    pub fn oldest(&self) -> Option<EntryId> {
        (self.oldest != 0).then_some(self.oldest)
    }

    /// Marks an entry as the most recently used.
    pub fn touch(&mut self, id: EntryId) {
        if self.newest != id {
            self.unlink(id);
            self.link_newest(id);
        }
    }

    fn link_newest(&mut self, id: EntryId) {
        let before = std::mem::replace(&mut self.newest, id);
        if let Some(entry) = self.entry_mut(id) {
            (entry.newer, entry.older) = (0, before);
        }
        match self.entry_mut(before) {
            Some(entry) => entry.newer = id,
            None => self.oldest = id,
        }
    }

    fn unlink(&mut self, id: EntryId) {
        let Some(entry) = self.entry(id) else { return };
        let (newer, older) = (entry.newer, entry.older);
        match self.entry_mut(newer) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
        match self.entry_mut(older) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_until_they_are_removed() {
        let mut table: LruTable<u32> = LruTable::new(64 * 1024);
        for number in 0..300u32 {
            let id = table.insert(&number.to_be_bytes()).unwrap();
            *table.value_mut(id).unwrap() = number;
        }
        for number in (0..300u32).step_by(2) {
            let id = table.find(&number.to_be_bytes()).unwrap();
            table.remove(id);
        }
        for number in 0..300u32 {
            let found = table.find(&number.to_be_bytes());
            assert_eq!(found.and_then(|id| table.value(id)).copied(), (number % 2 == 1).then_some(number));
        }
        // Slots of removed entries are reused.
        let bytes = table.bytes_used();
        for number in (0..300u32).step_by(2) {
            table.insert(&number.to_be_bytes()).unwrap();
        }
        assert!(table.bytes_used() <= bytes + 150 * (4 + KEY_OVERHEAD_BYTES));
    }

    #[test]
    fn the_oldest_is_the_least_recently_used() {
        let mut table: LruTable<()> = LruTable::new(64 * 1024);
        let ids: Vec<EntryId> = [b"a", b"b", b"c"].iter().map(|key| table.insert(*key).unwrap()).collect();
        assert_eq!(table.oldest(), Some(ids[0]));
        table.touch(ids[0]);
        assert_eq!(table.oldest(), Some(ids[1]));
        table.remove(ids[1]);
        assert_eq!(table.oldest(), Some(ids[2]));
        table.remove(ids[2]);
        table.remove(ids[0]);
        assert_eq!(table.oldest(), None);
    }

    #[test]
    fn a_table_keeps_its_memory_limit_whatever_the_keys() {
        const BYTES: usize = 1 << 20;
        for len in [0, 4, 16, 300, 5000] {
            let mut table: LruTable<[u64; 3]> = LruTable::new(BYTES);
            let mut count = 0;
            for number in 0..40_000u32 {
                let mut key = number.to_be_bytes().to_vec();
                key.resize(4 + len, 0);
                while table.insert(&key).is_none() {
                    let oldest = table.oldest().unwrap();
                    table.remove(oldest);
                    count -= 1;
                }
                count += 1;
                assert!(table.bytes_used() <= BYTES, "{} bytes for keys of {len}", table.bytes_used());
            }
            assert!(count * (4 + len + 80) > BYTES / 2, "{count} keys of {len} bytes fit");
        }
        let mut table: LruTable<[u64; 3]> = LruTable::new(BYTES);
        assert_eq!(table.insert(&vec![0; BYTES]), None);
    }
}
