//! Tasks that wait for a peer (`queue`), or for a permit to connect to one: first come, first served.
//!
//! One waiter at a time is active, and may try to take what it waits for. One that cannot use it (its request has tried that
//! peer, or is bound to another) makes the next waiter active. A notification makes the first one active again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

#[derive(Default)]
pub(super) struct Queue {
    /// Waiters; read without the lock whenever a connection to a peer ends.
    length: AtomicU32,
    waiters: Mutex<Waiters>,
}

#[derive(Default)]
struct Waiters {
    waiting: VecDeque<(u64, Option<Waker>)>,
    next_id: u64,
    /// The active waiter. `None`: all have tried since the last notification.
    active: Option<u64>,
}

/// A place in the queue, left when this is dropped.
pub struct Ticket {
    queue: Arc<Queue>,
    id: u64,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length.load(Ordering::SeqCst) == 0
    }

    /// Adds a waiter, unless there are `max` already.
    pub(super) fn try_push(self: &Arc<Self>, max: u32) -> Option<Ticket> {
        let waiters = self.lock();
        (waiters.waiting.len() < max as usize).then(|| self.push_locked(waiters))
    }

    /// Adds a waiter.
    pub(super) fn push(self: &Arc<Self>) -> Ticket {
        self.push_locked(self.lock())
    }

    fn push_locked(self: &Arc<Self>, mut waiters: MutexGuard<'_, Waiters>) -> Ticket {
        let id = waiters.next_id;
        waiters.next_id += 1;
        waiters.waiting.push_back((id, None));
        waiters.active = waiters.active.or(Some(id));
        self.length.fetch_add(1, Ordering::SeqCst);
        Ticket { queue: self.clone(), id }
    }

    /// Makes the first waiter active and wakes it, as what it waits for may be available.
    pub(super) fn notify_first(&self) {
        if !self.is_empty() {
            self.lock().wake_at(0);
        }
    }
}

impl Waiters {
    fn position(&self, id: u64) -> Option<usize> {
        self.waiting.binary_search_by_key(&id, |(id, _)| *id).ok()
    }

    /// Makes the waiter at this position active, if there is one, and wakes it.
    fn wake_at(&mut self, at: usize) {
        let next = self.waiting.get_mut(at);
        self.active = next.as_ref().map(|(id, _)| *id);
        if let Some(waker) = next.and_then(|(_, waker)| waker.take()) {
            waker.wake();
        }
    }
}

impl Ticket {
    /// Calls `find` if this waiter is active; otherwise the task is woken when it is.
    pub(super) fn try_take<T>(&self, cx: &Context<'_>, find: impl FnOnce() -> Option<T>) -> Option<T> {
        let mut waiters = self.queue.lock();
        let at = waiters.position(self.id)?;
        if let Some((_, waker)) = waiters.waiting.get_mut(at) {
            *waker = Some(cx.waker().clone());
        }
        if waiters.active != Some(self.id) {
            return None;
        }
        let found = find();
        if found.is_none() {
            waiters.wake_at(at + 1);
        }
        found
    }

    pub fn is_first(&self) -> bool {
        self.queue.lock().waiting.front().is_some_and(|(id, _)| *id == self.id)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut waiters = self.queue.lock();
        let Some(at) = waiters.position(self.id) else { return };
        // Keeps the order of those before it. Mostly the first one leaves, for which this does nothing.
        (0..at).rev().for_each(|before| waiters.waiting.swap(before, before + 1));
        waiters.waiting.pop_front();
        self.queue.length.fetch_sub(1, Ordering::SeqCst);
        // The new first one sets a timer (`until_retry`), so it has to run.
        if waiters.active == Some(self.id) || at == 0 {
            waiters.wake_at(at);
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

    /// A waiter, and how often its task was woken.
    struct Task {
        ticket: Ticket,
        woken: Arc<Count>,
    }

    impl Task {
        fn new(queue: &Arc<Queue>) -> Self {
            Self { ticket: queue.try_push(9).unwrap(), woken: Arc::default() }
        }

        fn try_take(&self, is_usable: bool) -> bool {
            let waker = Waker::from(self.woken.clone());
            self.ticket.try_take(&Context::from_waker(&waker), || is_usable.then_some(())).is_some()
        }

        fn woken(&self) -> usize {
            self.woken.0.swap(0, Ordering::SeqCst)
        }
    }

    #[test]
    fn the_first_waiter_is_served_first_or_makes_the_next_active() {
        let queue: Arc<Queue> = Arc::default();
        let [a, b, c] = [0; 3].map(|_| Task::new(&queue));
        assert!(!a.try_take(false) && !b.try_take(false) && !c.try_take(false), "all have tried");
        assert!(!b.try_take(true), "it is not active");
        queue.notify_first();
        assert_eq!((a.woken(), b.woken(), c.woken()), (1, 0, 0), "the first is active again");
        assert!(!b.try_take(true));
        assert!(!a.try_take(false), "it cannot use this one");
        assert_eq!(b.woken(), 1);
        assert!(b.try_take(true));
        drop(b);
        assert_eq!((a.woken(), c.woken()), (0, 1), "there may be one for the next, too");
        assert!(!c.try_take(false));
        let d = Task::new(&queue);
        assert!(!d.try_take(false), "a new one is active at once if no other is");
        drop(a);
        assert_eq!((c.woken(), d.woken()), (1, 0), "it is the first now");
        assert!(c.ticket.is_first() && !d.ticket.is_first());
        drop(c);
        assert_eq!(d.woken(), 1);
        drop(d);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_full_queue_takes_no_more() {
        let queue: Arc<Queue> = Arc::default();
        let tickets: Vec<Ticket> = (0..3).map_while(|_| queue.try_push(2)).collect();
        assert_eq!(tickets.len(), 2);
        drop(tickets);
        assert!(queue.try_push(2).is_some());
    }
}
