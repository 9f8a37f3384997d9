//! The live connections of one thread, each under a number that epoll gives back.
//!
//! A number that was freed is not given to a new connection before `sweep`, which belongs at the end of a batch of
//! events: a late event of the old connection must not reach the new one.

pub struct Slots<T> {
    values: Vec<Option<T>>,
    free: Vec<usize>,
    freed_in_this_batch: Vec<usize>,
}

impl<T> Slots<T> {
    pub fn new() -> Self {
        Self { values: Vec::new(), free: Vec::new(), freed_in_this_batch: Vec::new() }
    }

    pub fn insert(&mut self, value: T) -> usize {
        if let Some(slot) = self.free.pop() {
            self.values[slot] = Some(value);
            return slot;
        }
        self.values.push(Some(value));
        self.values.len() - 1
    }

    pub fn at(&mut self, slot: usize) -> Option<&mut T> {
        self.values.get_mut(slot)?.as_mut()
    }

    pub fn remove(&mut self, slot: usize) {
        if self.values[slot].take().is_some() {
            self.freed_in_this_batch.push(slot);
        }
    }

    pub fn sweep(&mut self) {
        self.free.append(&mut self.freed_in_this_batch);
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self::new()
    }
}
