//! What the tasks of one worker share: the configuration in force, how many connections there are, whether the program
//! stops.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::config::{Binding, ErrorLog, Group};
use crate::counters::{self, Count};
use crate::reactor::Elapsed;
use crate::running::Running;
use crate::socket::Addr;

/// One worker's part of the program.
pub struct Worker {
    running: RefCell<Arc<Running>>,
    connections: Cell<u32>,
    last_connection: Cell<u32>,
    stopping: Cell<bool>,
    /// Who waits for the last connection to end.
    waiting: Cell<Option<Waker>>,
}

/// One of the connections that a worker counts.
pub struct Slot {
    worker: Rc<Worker>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        counters::remove(Count::Active);
        let left = self.worker.connections.get().saturating_sub(1);
        self.worker.connections.set(left);
        if left == 0
            && let Some(waker) = self.worker.waiting.take()
        {
            waker.wake();
        }
    }
}

impl Worker {
    pub fn new(running: Arc<Running>) -> Self {
        Self {
            running: RefCell::new(running),
            connections: Cell::new(0),
            last_connection: Cell::new(0),
            stopping: Cell::new(false),
            waiting: Cell::new(None),
        }
    }

    /// Takes another configuration into force.
    pub fn replace(&self, running: Running) {
        self.running.replace(Arc::new(running));
    }

    /// From now on nothing new is begun.
    pub fn stop(&self) {
        self.stopping.set(true);
    }

    /// Ready when no connection is left.
    pub fn poll_empty(&self, cx: &Context<'_>) -> Poll<()> {
        if self.connections.get() == 0 {
            return Poll::Ready(());
        }
        self.waiting.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// The configuration in force.
    pub fn running(&self) -> Arc<Running> {
        self.running.borrow().clone()
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// The number of a new connection.
    pub fn next_connection(&self) -> u32 {
        self.last_connection.set(self.last_connection.get().wrapping_add(1));
        self.last_connection.get()
    }

    /// The servers behind a new connection to `local` on the socket bound to `bound`.
    pub fn group_at(&self, bound: &Addr, local: &Addr) -> Option<Arc<Group>> {
        let running = self.running.borrow();
        let binding = running.config.bindings.iter().find(|binding| binding.addr == *bound)?;
        Some(group_of(binding, local))
    }

    /// The servers behind `local` now, if a reload has replaced `group`.
    pub fn group(&self, local: &Addr, group: &Arc<Group>) -> Option<Arc<Group>> {
        let running = self.running.borrow();
        let binding = running
            .config
            .bindings
            .iter()
            .find(|binding| serves(&binding.addr, local) || binding.group.addr == group.addr)?;
        let newer = group_of(binding, local);
        (!Arc::ptr_eq(&newer, group)).then_some(newer)
    }

    /// Waits for the next request. False: there will be none; the time is over, or the program stops and nothing has come
    /// of one.
    pub async fn wait(&self, readable: impl Future<Output = Result<(), Elapsed>>) -> bool {
        let mut readable = pin!(readable);
        poll_fn(|cx| match readable.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(outcome.is_ok()),
            Poll::Pending if self.stopping.get() => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Counts a connection, unless there are as many as `worker_connections` allows.
    pub fn enter(self: &Rc<Self>) -> Option<Slot> {
        counters::add(Count::Accepted, 1);
        let limit = self.running.borrow().config.main.worker_connections;
        if limit.is_some_and(|limit| self.connections.get() >= limit) {
            return None;
        }
        self.connections.set(self.connections.get() + 1);
        counters::add(Count::Handled, 1);
        counters::add(Count::Active, 1);
        Some(Slot { worker: self.clone() })
    }

    pub fn error_log(&self) -> Arc<[ErrorLog]> {
        self.running.borrow().config.main.error_log.clone()
    }
}

/// Whether a socket bound to `bound` takes connections to `local`.
fn serves(bound: &Addr, local: &Addr) -> bool {
    match (bound, local) {
        (Addr::Ip(b), Addr::Ip(l)) => {
            b == l || (b.ip().is_unspecified() && b.port() == l.port() && (b.is_ipv4() == l.is_ipv4()))
        }
        _ => bound == local,
    }
}

/// The servers of a binding that are meant by `local`.
fn group_of(binding: &Binding, local: &Addr) -> Arc<Group> {
    binding.specific.iter().find(|group| group.addr == *local).unwrap_or(&binding.group).clone()
}
