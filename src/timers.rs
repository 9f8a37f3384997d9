//! Wakers and when to wake them, the next one first: a heap in which what is put has a number, by which it can be taken out.

use std::task::Waker;

/// Entries right below another one: with more than two of them few have to move.
const BRANCHES: usize = 4;

#[derive(Default)]
pub struct Timers {
    /// No entry is due before the one above it, at a fourth of its place.
    heap: Vec<Entry>,
    /// Where in the heap the entry of a number is.
    places: Vec<u32>,
    /// Numbers of no entry.
    free: Vec<u32>,
}

struct Entry {
    /// In milliseconds.
    due: u64,
    number: u32,
    waker: Waker,
}

impl Timers {
    /// When the next one is due.
    pub fn next(&self) -> Option<u64> {
        self.heap.first().map(|entry| entry.due)
    }

    /// Puts a waker in. Its number is its own until it is taken out.
    pub fn put(&mut self, due: u64, waker: Waker) -> u32 {
        let number = self.free.pop().unwrap_or_else(|| {
            self.places.push(0);
            self.places.len() as u32 - 1
        });
        self.heap.push(Entry { due, number, waker });
        self.settle(self.heap.len() - 1);
        number
    }

    /// Takes out what has this number.
    pub fn take(&mut self, number: u32) -> Option<Waker> {
        let at = *self.places.get(number as usize)? as usize;
        self.heap.get(at).filter(|entry| entry.number == number)?;
        self.take_at(at)
    }

    /// Takes out the next one, if it is due.
    pub fn take_due(&mut self, now: u64) -> Option<Waker> {
        self.next().filter(|due| *due <= now)?;
        self.take_at(0)
    }

    fn take_at(&mut self, at: usize) -> Option<Waker> {
        let entry = self.heap.swap_remove(at);
        self.free.push(entry.number);
        self.settle(at);
        Some(entry.waker)
    }

    /// Moves an entry that others may have to make room for up or down to its place.
    fn settle(&mut self, mut at: usize) {
        let due = self.due(at);
        while at > 0 && due < self.due((at - 1) / BRANCHES) {
            at = self.swap(at, (at - 1) / BRANCHES);
        }
        loop {
            let first = at * BRANCHES + 1;
            let (mut next, mut least) = (at, due);
            for (below, entry) in self.heap.iter().enumerate().skip(first).take(BRANCHES) {
                if entry.due < least {
                    (next, least) = (below, entry.due);
                }
            }
            if next == at {
                break;
            }
            at = self.swap(at, next);
        }
        self.note(at);
    }

    fn due(&self, at: usize) -> u64 {
        self.heap.get(at).map_or(u64::MAX, |entry| entry.due)
    }

    /// Exchanges two entries; the first one is then at the second place.
    fn swap(&mut self, one: usize, other: usize) -> usize {
        self.heap.swap(one, other);
        self.note(one);
        other
    }

    fn note(&mut self, at: usize) {
        if let Some(entry) = self.heap.get(at)
            && let Some(place) = self.places.get_mut(entry.number as usize)
        {
            *place = at as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_comes_out_in_order_or_by_its_number() {
        let mut timers = Timers::default();
        let mut known: Vec<(u64, u32)> = Vec::new();
        let mut random = 1u64;
        for step in 0..2000u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (what, value) = (random >> 60, random >> 33);
            match known.len() {
                // First it grows, then it shrinks.
                count if count > 0 && what < if step < 1000 { 6 } else { 10 } => {
                    if what % 2 == 0 {
                        let (_, number) = known.swap_remove(value as usize % count);
                        assert!(timers.take(number).is_some());
                        assert!(timers.take(number).is_none(), "it was taken");
                    } else {
                        let due = known.iter().map(|(due, _)| *due).min().unwrap();
                        assert_eq!(timers.next(), Some(due));
                        assert!(timers.take_due(due - 1).is_none());
                        assert!(timers.take_due(due).is_some());
                        known.retain(|(_, number)| timers.is_in(*number));
                    }
                }
                _ => known.push((1 + value % 1000, timers.put(1 + value % 1000, Waker::noop().clone()))),
            }
            assert_eq!((timers.heap.len(), timers.heap.len() + timers.free.len()), (known.len(), timers.places.len()));
        }
        while let Some(due) = timers.next() {
            assert!(timers.take_due(due).is_some());
            assert!(timers.next().is_none_or(|next| next >= due));
        }
        assert!(timers.places.len() < 1000, "numbers are used again");
    }

    impl Timers {
        fn is_in(&self, number: u32) -> bool {
            self.heap.iter().any(|entry| entry.number == number)
        }
    }
}
