//! State shared by the tasks of one worker: the live configuration, the number of connections, whether it is stopping;
//! and what workers know of each other: load, and a channel for commands.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::config::{Binding, Config, ErrorLog, VirtualHosts};
use crate::proxy::live::Live;
use crate::request::exchange;
use crate::runtime::channel::Channel;
use crate::runtime::executor::Timer;
use crate::runtime::handover::{HandoverDecoder, HandoverEncoder};
use crate::runtime::metrics::{self, Metric};
use crate::runtime::socket::Addr;
use crate::runtime::stream::BufStream;

/// A connection accepted by one worker and served by another.
pub struct Accepted {
    pub fd: OwnedFd,
    pub addr: Addr,
    /// The address that the listening socket is bound to.
    pub bound: Addr,
}

/// A command to a worker.
pub enum WorkerCommand {
    /// Use a new configuration.
    Take(Arc<Live>),
    /// Listen on another socket; the address is the configured one.
    Listen(Addr, OwnedFd),
    Serve(Accepted),
    /// Stop after the current requests and tunnels.
    Finish,
    /// A binary upgrade starts: accept nothing more, and finish requests.
    Leave,
    /// Encode all connections and tunnels.
    Freeze,
    /// Adopt connections and tunnels of the old binary.
    Resume(HandoverDecoder),
    /// The binary upgrade failed: continue.
    Stay,
    Stop,
}

/// The worker for a new connection.
pub enum Assignment<'w> {
    Here(ConnectionGuard),
    There(&'w WorkerHandle),
    /// All workers are at `worker_connections`.
    Nowhere,
}

/// A worker as the others see it.
#[derive(Default)]
pub struct WorkerHandle {
    pub commands: Channel<WorkerCommand>,
    /// Connections that it serves.
    connections: AtomicU32,
}

/// All workers.
pub struct Workers {
    pub handles: Box<[WorkerHandle]>,
    pub events: Channel<WorkerEvent>,
}

/// An event that a worker reports to the main thread.
pub enum WorkerEvent {
    /// The worker has ended.
    Ended(std::io::Result<()>),
    /// The new binary reported whether it can take over.
    Checked(Result<(), String>),
    /// Only tunnels are left, or the time for requests is over.
    Settled,
    /// The encoded connections and tunnels of the worker.
    Packed(HandoverEncoder),
}

impl Workers {
    pub fn new(workers: usize) -> Arc<Self> {
        let handles = std::iter::repeat_with(WorkerHandle::default).take(workers.max(1)).collect();
        Arc::new(Self { handles, events: Channel::default() })
    }

    /// Sends every worker the same command.
    pub fn send(&self, command: &dyn Fn() -> WorkerCommand) {
        self.handles.iter().for_each(|handle| handle.commands.send(command()));
    }
}

pub struct Worker {
    running: RefCell<Arc<Live>>,
    workers: Arc<Workers>,
    /// The index of this worker.
    number: usize,
    connections_max: u32,
    last_connection: Cell<u32>,
    stopping: Cell<bool>,
    /// A binary upgrade is in progress: idle connections are encoded, and once frozen, tunnels too.
    leaving: Cell<bool>,
    frozen: Cell<bool>,
    hand_over: RefCell<HandoverEncoder>,
    tunnels: Cell<u32>,
    /// Tasks that wait for connections to end.
    waiting: Cell<Option<Waker>>,
}

/// Counts a connection of a worker while it exists.
pub struct ConnectionGuard {
    worker: Rc<Worker>,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        metrics::decrement(Metric::Active);
        if let Some(handle) = self.worker.handle() {
            handle.connections.fetch_sub(1, Ordering::Relaxed);
        }
        self.worker.wake_waiting();
    }
}

impl ConnectionGuard {
    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }
}

/// The result of waiting for the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitResult {
    Readable,
    /// None follows: timeout, or the worker is stopping and no byte of one has arrived.
    Ended,
    /// No byte has arrived, and a binary upgrade takes the connection over.
    HandOver,
}

impl Worker {
    /// Creates worker `number`. `connections_max` applies where `worker_connections` is not set.
    pub fn new(running: Arc<Live>, workers: Arc<Workers>, number: usize, connections_max: u32) -> Self {
        Self {
            running: RefCell::new(running),
            workers,
            number,
            connections_max,
            last_connection: Cell::new(0),
            stopping: Cell::new(false),
            leaving: Cell::new(false),
            frozen: Cell::new(false),
            hand_over: RefCell::default(),
            tunnels: Cell::new(0),
            waiting: Cell::new(None),
        }
    }

    fn handle(&self) -> Option<&WorkerHandle> {
        self.workers.handles.get(self.number)
    }

    /// The next command.
    pub fn poll_command(&self, cx: &Context<'_>) -> Poll<WorkerCommand> {
        self.handle().map_or(Poll::Pending, |handle| handle.commands.poll_receive(cx))
    }

    pub fn connections(&self) -> u32 {
        self.handle().map_or(0, |handle| handle.connections.load(Ordering::Relaxed))
    }

    /// Chooses the worker with the fewest connections, if it has room.
    pub fn place(self: &Rc<Self>) -> Assignment<'_> {
        metrics::add(Metric::Accepted, 1);
        let own = self.handle().map(|handle| (self.connections(), handle));
        // A stopping worker keeps its connections: the others may have ended.
        let others = self.workers.handles.iter().filter(|_| self.workers.handles.len() > 1 && !self.is_stopping());
        let counted = others.map(|handle| (handle.connections.load(Ordering::Relaxed), handle));
        let Some((least, handle)) = own.into_iter().chain(counted).min_by_key(|(count, _)| *count) else {
            return Assignment::Nowhere;
        };
        if least >= self.running.borrow().config.main.worker_connections.unwrap_or(self.connections_max) {
            return Assignment::Nowhere;
        }
        handle.connections.fetch_add(1, Ordering::Relaxed);
        if self.handle().is_some_and(|own| std::ptr::eq(own, handle)) {
            Assignment::Here(self.slot())
        } else {
            Assignment::There(handle)
        }
    }

    /// The guard of a connection that was counted when this worker was chosen.
    pub fn slot(self: &Rc<Self>) -> ConnectionGuard {
        metrics::add(Metric::Handled, 1);
        metrics::add(Metric::Active, 1);
        ConnectionGuard { worker: self.clone() }
    }

    /// Uses another configuration.
    pub fn replace(&self, running: Arc<Live>) {
        self.running.replace(running);
    }

    /// Begins nothing new from now on.
    pub fn stop(&self) {
        self.stopping.set(true);
        exchange::end_keep_alive();
    }

    /// Ready when no connection is left.
    pub fn poll_empty(&self, cx: &Context<'_>) -> Poll<()> {
        self.poll_fewer(cx, 0)
    }

    /// Ready when only tunnels are left.
    pub fn poll_settled(&self, cx: &Context<'_>) -> Poll<()> {
        self.poll_fewer(cx, self.tunnels.get())
    }

    fn poll_fewer(&self, cx: &Context<'_>, most: u32) -> Poll<()> {
        if self.connections() <= most {
            return Poll::Ready(());
        }
        self.waiting.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    fn wake_waiting(&self) {
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    pub fn tunnel_begins(&self) {
        self.tunnels.set(self.tunnels.get() + 1);
        self.wake_waiting();
    }

    pub fn tunnel_ends(&self) {
        self.tunnels.set(self.tunnels.get().saturating_sub(1));
    }

    /// Idle connections are encoded from now on.
    pub fn leave(&self) {
        self.leaving.set(true);
    }

    /// Tunnels are encoded from now on.
    pub fn freeze(&self) {
        self.frozen.set(true);
    }

    /// Cancels the hand-over.
    pub fn stay(&self) {
        self.leaving.set(false);
        self.frozen.set(false);
    }

    pub fn is_frozen(&self) -> bool {
        self.frozen.get()
    }

    /// Adds to what the new binary gets.
    pub fn add_to_hand_over(&self, with: impl FnOnce(&mut HandoverEncoder)) {
        with(&mut self.hand_over.borrow_mut());
    }

    /// What the new binary gets of this worker.
    pub fn take_hand_over(&self) -> HandoverEncoder {
        self.hand_over.take()
    }

    /// The guard of a connection from the old binary, which has admitted it.
    pub fn admit(self: &Rc<Self>) -> ConnectionGuard {
        if let Some(handle) = self.handle() {
            handle.connections.fetch_add(1, Ordering::Relaxed);
        }
        metrics::add(Metric::Active, 1);
        ConnectionGuard { worker: self.clone() }
    }

    /// Reports an event to the main thread.
    pub fn report(&self, report: WorkerEvent) {
        self.workers.events.send(report);
    }

    /// The live configuration.
    pub fn running(&self) -> Arc<Live> {
        self.running.borrow().clone()
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// The number of a new connection, unique among all workers.
    pub fn next_connection(&self) -> u32 {
        let workers = self.workers.handles.len() as u32;
        self.last_connection.set(self.last_connection.get().wrapping_add(1));
        (self.last_connection.get() - 1).wrapping_mul(workers).wrapping_add(self.number as u32 + 1)
    }

    /// The virtual hosts of a new connection to `local`.
    pub fn group_at(&self, local: &Addr) -> Option<Arc<VirtualHosts>> {
        let running = self.running.borrow();
        Some(group_of(binding(&running.config, local)?, local))
    }

    /// The virtual hosts of `local`, if a reload has replaced `group`.
    pub fn group(&self, local: &Addr, group: &Arc<VirtualHosts>) -> Option<Arc<VirtualHosts>> {
        let running = self.running.borrow();
        let same = || running.config.bindings.iter().find(|binding| binding.virtual_hosts.addr == group.addr);
        let binding = binding(&running.config, local).or_else(same)?;
        let newer = group_of(binding, local);
        (!Arc::ptr_eq(&newer, group)).then_some(newer)
    }

    /// Waits at most `limit` for the next bytes of a client.
    pub fn wait(&self, wire: &BufStream, timer: &Timer, limit: Duration) -> impl Future<Output = WaitResult> {
        timer.set(limit);
        poll_fn(move |cx| match wire.poll_readable(cx) {
            Poll::Ready(()) => Poll::Ready(WaitResult::Readable),
            Poll::Pending if timer.poll_due(cx).is_ready() || self.stopping.get() => Poll::Ready(WaitResult::Ended),
            Poll::Pending if self.leaving.get() => Poll::Ready(WaitResult::HandOver),
            Poll::Pending => Poll::Pending,
        })
    }

    pub fn error_log(&self) -> Arc<[ErrorLog]> {
        self.running.borrow().config.main.error_log.clone()
    }
}

/// The binding for connections to `local`. An IPv6 socket accepts IPv4 connections where no other socket does.
fn binding<'c>(config: &'c Config, local: &Addr) -> Option<&'c Binding> {
    let fit = |bound: &Addr| match (bound, local) {
        (Addr::Ip(b), Addr::Ip(l)) if b.ip().is_unspecified() && b.port() == l.port() => {
            [b.is_ipv4() == l.is_ipv4(), l.is_ipv4()].iter().position(|fits| *fits)
        }
        _ => (bound == local).then_some(0),
    };
    let fitting = config.bindings.iter().filter_map(|binding| Some((fit(&binding.addr)?, binding)));
    fitting.min_by_key(|(distance, _)| *distance).map(|(_, binding)| binding)
}

/// The virtual hosts of a binding for `local`.
fn group_of(binding: &Binding, local: &Addr) -> Arc<VirtualHosts> {
    binding.specific_hosts.iter().find(|group| group.addr == *local).unwrap_or(&binding.virtual_hosts).clone()
}
