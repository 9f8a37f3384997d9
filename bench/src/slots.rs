//! The open connections of one thread, each with an index that is its epoll token.
//!
//! A freed index is not reused before `sweep`, which is called at the end of a batch of events: a late event of an old connection
//! must not reach a new one.

pub struct Slots<T> {
    values: Vec<Option<T>>,
    free: Vec<usize>,
    freed: Vec<usize>,
}

impl<T> Slots<T> {
    pub fn new() -> Self {
        Self { values: Vec::new(), free: Vec::new(), freed: Vec::new() }
    }

    pub fn insert(&mut self, value: T) -> usize {
        if let Some(slot) = self.free.pop() {
            self.values[slot] = Some(value);
            return slot;
        }
        self.values.push(Some(value));
        self.values.len() - 1
    }

    pub fn get(&mut self, slot: usize) -> Option<&mut T> {
        self.values.get_mut(slot)?.as_mut()
    }

    pub fn remove(&mut self, slot: usize) {
        if self.values[slot].take().is_some() {
            self.freed.push(slot);
        }
    }

    pub fn sweep(&mut self) {
        self.free.append(&mut self.freed);
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self::new()
    }
}
