//! So many at the same time: a permit is waited for, and given back when it is dropped, on any thread.

use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// The permits for one thing.
pub struct Permits {
    inner: Mutex<Inner>,
}

struct Inner {
    free: usize,
    waiting: Vec<Waker>,
}

/// It is given back when this is dropped.
pub struct Permit(&'static Permits);

impl Permits {
    pub const fn new(count: usize) -> Self {
        Self { inner: Mutex::new(Inner { free: count, waiting: Vec::new() }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a permit.
    pub async fn take(&'static self) -> Permit {
        poll_fn(|cx| self.poll_take(cx)).await
    }

    fn poll_take(&'static self, cx: &Context<'_>) -> Poll<Permit> {
        let mut inner = self.lock();
        if inner.free > 0 {
            inner.free -= 1;
            return Poll::Ready(Permit(self));
        }
        if !inner.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            inner.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Permit {
    /// Wakes all who wait, of whom some may wait no more: the first one to look gets it.
    fn drop(&mut self) {
        let waiting = {
            let mut inner = self.0.lock();
            inner.free += 1;
            std::mem::take(&mut inner.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor;
    use std::cell::Cell;
    use std::rc::Rc;

    #[test]
    fn no_more_than_so_many_have_one_and_all_get_one() {
        static TWO: Permits = Permits::new(2);
        let counts = reactor::run(async {
            let (now, most, all) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
            for _ in 0..9 {
                let (now, most, all) = (now.clone(), most.clone(), all.clone());
                reactor::spawn(async move {
                    let _permit = TWO.take().await;
                    now.set(now.get() + 1);
                    most.set(most.get().max(now.get()));
                    reactor::next_turn().await;
                    now.set(now.get() - 1);
                    all.set(all.get() + 1);
                });
            }
            while all.get() < 9 {
                reactor::next_turn().await;
            }
            most.get()
        });
        assert_eq!(counts.unwrap(), 2);
    }
}
