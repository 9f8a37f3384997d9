//! What the tasks of one worker share: the configuration in force, how many connections there are, whether the program
//! stops. And what workers know of one another: who has the fewest connections, and how to reach it.

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

/// A connection that one worker has accepted and another one serves.
pub struct Accepted {
    pub fd: OwnedFd,
    pub addr: Addr,
    /// The address that the listening socket is bound to.
    pub bound: Addr,
}

/// What a worker is told to do.
pub enum WorkerCommand {
    /// A new configuration comes into force.
    Take(Arc<Live>),
    /// Another socket is to be listened on; the address is the one that is configured.
    Listen(Addr, OwnedFd),
    Serve(Accepted),
    /// Stop when all that was begun is done.
    Finish,
    /// Another program is about to go on: accept nothing, and finish requests.
    Leave,
    /// Pack all that is left.
    Freeze,
    /// Go on with this.
    Resume(HandoverDecoder),
    /// Go on as if nothing had been.
    Stay,
    Stop,
}

/// Where a new connection goes.
pub enum Assignment<'w> {
    Here(ConnectionGuard),
    There(&'w WorkerHandle),
    /// There are as many as allowed.
    Nowhere,
}

/// A worker as the others see it.
#[derive(Default)]
pub struct WorkerHandle {
    pub orders: Channel<WorkerCommand>,
    /// Connections that it serves.
    connections: AtomicU32,
}

/// All workers.
pub struct Workers {
    pub desks: Box<[WorkerHandle]>,
    pub reports: Channel<WorkerEvent>,
}

/// What is told to who gives the orders.
pub enum WorkerEvent {
    /// A worker has ended.
    Ended(std::io::Result<()>),
    /// A new program says whether it could go on.
    Checked(Result<(), String>),
    /// A worker has nothing but tunnels left, or its time is over.
    Settled,
    /// What the next program gets of a worker.
    Packed(HandoverEncoder),
}

impl Workers {
    pub fn new(workers: usize) -> Arc<Self> {
        let desks = std::iter::repeat_with(WorkerHandle::default).take(workers.max(1)).collect();
        Arc::new(Self { desks, reports: Channel::default() })
    }

    /// Tells every worker the same.
    pub fn tell(&self, order: &dyn Fn() -> WorkerCommand) {
        self.desks.iter().for_each(|desk| desk.orders.send(order()));
    }
}

/// One worker's part of the program.
pub struct Worker {
    running: RefCell<Arc<Live>>,
    crew: Arc<Workers>,
    /// Which of the crew it is.
    number: usize,
    connections_max: u32,
    last_connection: Cell<u32>,
    stopping: Cell<bool>,
    /// Another program is about to go on: connections without a request are packed, and when frozen, tunnels as well.
    leaving: Cell<bool>,
    frozen: Cell<bool>,
    packer: RefCell<HandoverEncoder>,
    tunnels: Cell<u32>,
    /// Who waits for connections to end.
    waiting: Cell<Option<Waker>>,
}

/// One of the connections that a worker counts.
pub struct ConnectionGuard {
    worker: Rc<Worker>,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        metrics::decrement(Metric::Active);
        if let Some(desk) = self.worker.desk() {
            desk.connections.fetch_sub(1, Ordering::Relaxed);
        }
        self.worker.wake_waiting();
    }
}

impl ConnectionGuard {
    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }
}

/// How a wait for the next request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitResult {
    Readable,
    /// There will be none: the time is over, or the program stops and nothing has come of one.
    Ended,
    /// Nothing has come yet, and another program goes on.
    HandOver,
}

impl Worker {
    /// The worker `number` of `crew`. It serves `connections_max` connections at the same time, if `worker_connections`
    /// does not say.
    pub fn new(running: Arc<Live>, crew: Arc<Workers>, number: usize, connections_max: u32) -> Self {
        Self {
            running: RefCell::new(running),
            crew,
            number,
            connections_max,
            last_connection: Cell::new(0),
            stopping: Cell::new(false),
            leaving: Cell::new(false),
            frozen: Cell::new(false),
            packer: RefCell::default(),
            tunnels: Cell::new(0),
            waiting: Cell::new(None),
        }
    }

    fn desk(&self) -> Option<&WorkerHandle> {
        self.crew.desks.get(self.number)
    }

    /// The next order for this worker.
    pub fn poll_order(&self, cx: &Context<'_>) -> Poll<WorkerCommand> {
        self.desk().map_or(Poll::Pending, |desk| desk.orders.poll_receive(cx))
    }

    pub fn connections(&self) -> u32 {
        self.desk().map_or(0, |desk| desk.connections.load(Ordering::Relaxed))
    }

    /// The place for a new connection: with the worker that has the fewest, if even that one has room.
    pub fn place(self: &Rc<Self>) -> Assignment<'_> {
        metrics::add(Metric::Accepted, 1);
        let own = self.desk().map(|desk| (self.connections(), desk));
        // A worker that stops sends nobody to others, who may have ended.
        let others = self.crew.desks.iter().filter(|_| self.crew.desks.len() > 1 && !self.is_stopping());
        let counted = others.map(|desk| (desk.connections.load(Ordering::Relaxed), desk));
        let Some((least, desk)) = own.into_iter().chain(counted).min_by_key(|(count, _)| *count) else {
            return Assignment::Nowhere;
        };
        if least >= self.running.borrow().config.main.worker_connections.unwrap_or(self.connections_max) {
            return Assignment::Nowhere;
        }
        desk.connections.fetch_add(1, Ordering::Relaxed);
        if self.desk().is_some_and(|own| std::ptr::eq(own, desk)) {
            Assignment::Here(self.slot())
        } else {
            Assignment::There(desk)
        }
    }

    /// The slot of a connection that was counted when this worker was chosen for it.
    pub fn slot(self: &Rc<Self>) -> ConnectionGuard {
        metrics::add(Metric::Handled, 1);
        metrics::add(Metric::Active, 1);
        ConnectionGuard { worker: self.clone() }
    }

    /// Takes another configuration into force.
    pub fn replace(&self, running: Arc<Live>) {
        self.running.replace(running);
    }

    /// From now on nothing new is begun.
    pub fn stop(&self) {
        self.stopping.set(true);
        exchange::end_keep_alive();
    }

    /// Ready when no connection is left.
    pub fn poll_empty(&self, cx: &Context<'_>) -> Poll<()> {
        self.poll_fewer(cx, 0)
    }

    /// Ready when there are only tunnels.
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

    /// From now on connections without a request are packed.
    pub fn leave(&self) {
        self.leaving.set(true);
    }

    /// From now on tunnels are packed as well.
    pub fn freeze(&self) {
        self.frozen.set(true);
    }

    /// Nobody leaves after all.
    pub fn stay(&self) {
        self.leaving.set(false);
        self.frozen.set(false);
    }

    pub fn is_frozen(&self) -> bool {
        self.frozen.get()
    }

    /// Adds to what the next program gets.
    pub fn pack(&self, with: impl FnOnce(&mut HandoverEncoder)) {
        with(&mut self.packer.borrow_mut());
    }

    /// What the next program gets of this worker.
    pub fn take_packed(&self) -> HandoverEncoder {
        self.packer.take()
    }

    /// The slot of a connection that was let in by the program before.
    pub fn admit(self: &Rc<Self>) -> ConnectionGuard {
        if let Some(desk) = self.desk() {
            desk.connections.fetch_add(1, Ordering::Relaxed);
        }
        metrics::add(Metric::Active, 1);
        ConnectionGuard { worker: self.clone() }
    }

    /// Tells something to who gives the orders.
    pub fn report(&self, report: WorkerEvent) {
        self.crew.reports.send(report);
    }

    /// The configuration in force.
    pub fn running(&self) -> Arc<Live> {
        self.running.borrow().clone()
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// The number of a new connection; no other worker gives the same.
    pub fn next_connection(&self) -> u32 {
        let workers = self.crew.desks.len() as u32;
        self.last_connection.set(self.last_connection.get().wrapping_add(1));
        (self.last_connection.get() - 1).wrapping_mul(workers).wrapping_add(self.number as u32 + 1)
    }

    /// The servers behind a new connection to `local`.
    pub fn group_at(&self, local: &Addr) -> Option<Arc<VirtualHosts>> {
        let running = self.running.borrow();
        Some(group_of(binding(&running.config, local)?, local))
    }

    /// The servers behind `local` now, if a reload has replaced `group`.
    pub fn group(&self, local: &Addr, group: &Arc<VirtualHosts>) -> Option<Arc<VirtualHosts>> {
        let running = self.running.borrow();
        let same = || running.config.bindings.iter().find(|binding| binding.virtual_hosts.addr == group.addr);
        let binding = binding(&running.config, local).or_else(same)?;
        let newer = group_of(binding, local);
        (!Arc::ptr_eq(&newer, group)).then_some(newer)
    }

    /// Waits for the next bytes of a client, for `limit` at most.
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

/// The binding that takes connections to `local`. An IPv6 socket may take those over IPv4, if there is no other for them.
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

/// The servers of a binding that are meant by `local`.
fn group_of(binding: &Binding, local: &Addr) -> Arc<VirtualHosts> {
    binding.specific_hosts.iter().find(|group| group.addr == *local).unwrap_or(&binding.virtual_hosts).clone()
}
