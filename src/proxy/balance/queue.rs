//! Requests that wait for a peer (`queue`): first come, first served.
//!
//! Who has the turn looks for a peer. If there is none for it the turn passes on, for the room that was made may be for
//! somebody else (who has tried other peers, or is bound to this one). New room gives the turn back to the first.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

/// The requests that wait for the peers of an upstream.
#[derive(Default)]
pub(super) struct Queue {
    /// How many there are: whoever leaves a peer asks that first.
    length: AtomicU32,
    line: Mutex<Line>,
}

#[derive(Default)]
struct Line {
    waiting: VecDeque<(u64, Option<Waker>)>,
    next: u64,
    /// Whose turn it is. Nobody's: all have looked since there was room.
    turn: Option<u64>,
}

/// A place in the queue, given up when it is dropped.
pub struct Ticket {
    queue: Arc<Queue>,
    ticket: u64,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length.load(Ordering::SeqCst) == 0
    }

    /// A place at the end, unless so many wait already.
    pub(super) fn join(self: &Arc<Self>, most: u32) -> Option<Ticket> {
        let line = self.lock();
        (line.waiting.len() < most as usize).then(|| self.stand(line))
    }

    /// A place at the end.
    pub(super) fn line_up(self: &Arc<Self>) -> Ticket {
        self.stand(self.lock())
    }

    fn stand(self: &Arc<Self>, mut line: MutexGuard<'_, Line>) -> Ticket {
        let ticket = line.next;
        line.next += 1;
        line.waiting.push_back((ticket, None));
        line.turn = line.turn.or(Some(ticket));
        self.length.fetch_add(1, Ordering::SeqCst);
        Ticket { queue: self.clone(), ticket }
    }

    /// There may be room for the first one.
    pub(super) fn announce(&self) {
        if !self.is_empty() {
            self.lock().pass_turn(0);
        }
    }
}

impl Line {
    fn place(&self, ticket: u64) -> Option<usize> {
        self.waiting.binary_search_by_key(&ticket, |(known, _)| *known).ok()
    }

    /// Gives the turn to who stands at this place, if there is one.
    fn pass_turn(&mut self, at: usize) {
        let next = self.waiting.get_mut(at);
        self.turn = next.as_ref().map(|(ticket, _)| *ticket);
        if let Some(waker) = next.and_then(|(_, waker)| waker.take()) {
            waker.wake();
        }
    }
}

impl Ticket {
    /// Looks with `find` if it is its turn, and wakes the task when it comes.
    pub(super) fn look<T>(&self, cx: &Context<'_>, find: impl FnOnce() -> Option<T>) -> Option<T> {
        let mut line = self.queue.lock();
        let at = line.place(self.ticket)?;
        if let Some((_, waker)) = line.waiting.get_mut(at) {
            *waker = Some(cx.waker().clone());
        }
        if line.turn != Some(self.ticket) {
            return None;
        }
        let found = find();
        if found.is_none() {
            line.pass_turn(at + 1);
        }
        found
    }

    /// Whether nobody stands before it.
    pub fn is_first(&self) -> bool {
        self.queue.lock().waiting.front().is_some_and(|(ticket, _)| *ticket == self.ticket)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut line = self.queue.lock();
        let Some(at) = line.place(self.ticket) else { return };
        // Those before it keep their order. Who leaves is the first, most often.
        (0..at).rev().for_each(|before| line.waiting.swap(before, before + 1));
        line.waiting.pop_front();
        self.queue.length.fetch_sub(1, Ordering::SeqCst);
        // Who has become the first has to know it.
        if line.turn == Some(self.ticket) || at == 0 {
            line.pass_turn(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A place, and how often its task was woken.
    struct Task {
        place: Ticket,
        woken: Arc<Count>,
    }

    impl Task {
        fn join(queue: &Arc<Queue>) -> Self {
            Self { place: queue.join(9).unwrap(), woken: Arc::default() }
        }

        fn look(&self, room: bool) -> bool {
            let waker = Waker::from(self.woken.clone());
            self.place.look(&Context::from_waker(&waker), || room.then_some(())).is_some()
        }

        fn woken(&self) -> usize {
            self.woken.0.swap(0, Ordering::SeqCst)
        }
    }

    #[test]
    fn the_first_comes_first_and_passes_on_what_it_can_not_use() {
        let queue: Arc<Queue> = Arc::default();
        let [a, b, c] = [0; 3].map(|_| Task::join(&queue));
        assert!(!a.look(false) && !b.look(false) && !c.look(false), "all have looked");
        assert!(!b.look(true), "it is not its turn");
        queue.announce();
        assert_eq!((a.woken(), b.woken(), c.woken()), (1, 0, 0), "it is the turn of the first again");
        assert!(!b.look(true));
        assert!(!a.look(false), "it can't use this room");
        assert_eq!(b.woken(), 1);
        assert!(b.look(true));
        drop(b);
        assert_eq!((a.woken(), c.woken()), (0, 1), "there may be room for one more behind it");
        assert!(!c.look(false));
        let d = Task::join(&queue);
        assert!(!d.look(false), "one that comes when nobody has the turn looks at once");
        drop(a);
        assert_eq!((c.woken(), d.woken()), (1, 0), "it is the first now");
        assert!(c.place.is_first() && !d.place.is_first());
        drop(c);
        assert_eq!(d.woken(), 1);
        drop(d);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_full_queue_takes_nobody() {
        let queue: Arc<Queue> = Arc::default();
        let places: Vec<Ticket> = (0..3).map_while(|_| queue.join(2)).collect();
        assert_eq!(places.len(), 2);
        drop(places);
        assert!(queue.join(2).is_some());
    }
}
