//! A worker: one thread, one epoll, one executor.
//!
//! A socket is registered once, edge-triggered, and never modified. Each direction has a ready flag and one waker;
//! all waiting goes through [`IoSource::poll_io`]. Timers are one ordered map, and lazy: moving a timer into the
//! future stores a number, and the map is touched only when the stored time is due. A tick: run ready tasks, wait,
//! read the clock once, fire timers, wake deferred tasks.
//!
//! Invariant: a ready flag may be set although the socket is not ready (the next operation then clears it), but is
//! never clear after an edge.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use smol::LocalExecutor;

use crate::runtime::metrics::{Side, WorkerMetrics};

/// Bytes read from a socket at once, and so the most that a connection buffers for a slow receiver.
pub const SCRATCH_BYTES: usize = 64 * 1024;
/// Consecutive operations of one direction of a socket before other tasks run.
const BURST_MAX: u8 = 16;
/// Tasks that run in one tick before epoll is polled again.
const TASKS_PER_TICK_MAX: u32 = 1024;
/// Events that one epoll_wait(2) returns.
const EVENTS_MAX: usize = 256;
/// The longest wait: the kernel takes 31 bits of milliseconds, which is less than a month.
const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The epoll token of the notifier; sockets count from 0.
const NOTIFIER_TOKEN: u64 = u64::MAX;

/// Milliseconds of the monotonic clock.
pub type Millis = u64;

/// The time at which a timer is due, and a unique number.
type TimerKey = (Millis, u64);

thread_local! {
    static WORKER: OnceCell<Rc<Reactor>> = const { OnceCell::new() };
    static NOW: Cell<Millis> = const { Cell::new(0) };
    static TICK: Cell<u32> = const { Cell::new(0) };
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

struct Reactor {
    epoll: OwnedFd,
    notifier: Arc<Notifier>,
    executor: LocalExecutor<'static>,
    sources: RefCell<ReadinessTable>,
    /// Wakers by due time; the number keeps those of one millisecond apart.
    timers: RefCell<BTreeMap<TimerKey, Waker>>,
    timer_count: Cell<u64>,
    /// Tasks that used up their burst; they continue in the next tick.
    deferred: RefCell<Vec<Waker>>,
    metrics: WorkerMetrics,
}

#[derive(Default)]
struct ReadinessTable {
    entries: Vec<Option<Rc<Readiness>>>,
    free: Vec<u32>,
}

/// The readiness of one socket. One waker per direction is enough: a connection is one task.
#[derive(Default)]
struct Readiness {
    readable: Cell<bool>,
    writable: Cell<bool>,
    /// The peer has closed its direction, or the connection: a short read does not mean that the next one would
    /// block.
    peer_closed: Cell<bool>,
    /// The connection is broken, or both directions have ended.
    failed: Cell<bool>,
    burst: Cell<u8>,
    read_waker: Cell<Option<Waker>>,
    write_waker: Cell<Option<Waker>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Read,
    Write,
}

/// Wakes the worker from its wait: by a flag from its own thread, by an eventfd from others.
struct Notifier {
    notified: AtomicBool,
    sleeping: AtomicBool,
    fd: OwnedFd,
}

impl Wake for Notifier {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.notified.store(true, Ordering::SeqCst);
        if self.sleeping.swap(false, Ordering::SeqCst) {
            let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
        }
    }
}

/// Wakes the main future of a worker, which is polled only when woken itself.
struct MainWaker {
    woken: AtomicBool,
    notifier: Arc<Notifier>,
}

impl Wake for MainWaker {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        self.notifier.wake_by_ref();
    }
}

/// Makes this thread a worker and runs `main` and the tasks that it spawns until `main` is done; remaining tasks are
/// dropped.
pub fn run<T>(main: impl Future<Output = T>) -> io::Result<T> {
    let mut value = None;
    drive(pin!(async { value = Some(main.await) }))?;
    value.ok_or_else(|| io::Error::other("the worker ended before its task"))
}

/// The loop of [`run`], compiled once for all types of futures.
fn drive(mut main: Pin<&mut dyn Future<Output = ()>>) -> io::Result<()> {
    let worker = Rc::new(Reactor::new()?);
    let already = |_| io::Error::other("this thread is a worker already");
    WORKER.with(|cell| cell.set(worker.clone())).map_err(already)?;
    // Zeroed pages are mapped lazily: only the used part of the buffer takes memory.
    SCRATCH.set(vec![0; SCRATCH_BYTES]);
    update_clock();
    let main_notify = Arc::new(MainWaker { woken: AtomicBool::new(true), notifier: worker.notifier.clone() });
    let (main_waker, notifier) = (Waker::from(main_notify.clone()), Waker::from(worker.notifier.clone()));
    // Waits for the next ready task, and runs it.
    let mut next_task = pin!(worker.executor.tick());
    let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS_MAX);
    loop {
        // All notifications so far are handled in this iteration.
        worker.notifier.notified.swap(false, Ordering::SeqCst);
        if main_notify.woken.swap(false, Ordering::SeqCst)
            && main.as_mut().poll(&mut Context::from_waker(&main_waker)).is_ready()
        {
            return Ok(());
        }
        let mut left = TASKS_PER_TICK_MAX;
        while left > 0 {
            left -= 1;
            if worker.executor.try_tick() {
                continue;
            }
            if next_task.as_mut().poll(&mut Context::from_waker(&notifier)).is_pending() {
                break;
            }
            next_task.set(worker.executor.tick());
        }
        worker.wait_for_events(&mut events, left == 0)?;
    }
}

impl Reactor {
    fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(
            &epoll,
            &fd,
            epoll::EventData::new_u64(NOTIFIER_TOKEN),
            epoll::EventFlags::IN | epoll::EventFlags::ET,
        )?;
        let notifier = Arc::new(Notifier { notified: AtomicBool::new(false), sleeping: AtomicBool::new(false), fd });
        Ok(Self {
            epoll,
            metrics: WorkerMetrics::register(Waker::from(notifier.clone())),
            notifier,
            executor: LocalExecutor::new(),
            sources: RefCell::default(),
            timers: RefCell::default(),
            timer_count: Cell::new(0),
            deferred: RefCell::default(),
        })
    }

    /// Waits for readiness, timers or the notifier, unless there is work already, and wakes the tasks concerned.
    fn wait_for_events(&self, events: &mut Vec<epoll::Event>, busy: bool) -> io::Result<()> {
        let notifier = &self.notifier;
        notifier.sleeping.store(true, Ordering::SeqCst);
        let timeout = if busy || notifier.notified.load(Ordering::SeqCst) || !self.deferred.borrow().is_empty() {
            Some(Duration::ZERO)
        } else {
            self.time_to_next_timer()
        };
        let timeout =
            timeout.map(|d| Timespec { tv_sec: d.as_secs() as i64, tv_nsec: i64::from(d.subsec_nanos()) as _ });
        events.clear();
        let waited = epoll::wait(&self.epoll, spare_capacity(events), timeout.as_ref());
        notifier.sleeping.store(false, Ordering::SeqCst);
        update_clock();
        match waited {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => events.clear(),
            Err(error) => return Err(error.into()),
        }
        for event in events.iter() {
            self.dispatch(event);
        }
        self.fire_timers();
        self.metrics.publish();
        for waker in self.deferred.take() {
            waker.wake();
        }
        Ok(())
    }

    fn dispatch(&self, event: &epoll::Event) {
        // The event is a packed structure: copy the fields.
        let (flags, token) = (event.flags, event.data.u64());
        if token == NOTIFIER_TOKEN {
            let mut count = [0; 8];
            let _ = rustix::io::read(&self.notifier.fd, &mut count);
            return;
        }
        let ready = usize::try_from(token).ok().and_then(|at| self.sources.borrow().entries.get(at).cloned().flatten());
        let Some(ready) = ready else { return };
        let failed = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
        if failed || flags.contains(epoll::EventFlags::RDHUP) {
            ready.peer_closed.set(true);
        }
        if failed {
            ready.failed.set(true);
        }
        if failed || flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP) {
            ready.readable.set(true);
            if let Some(waker) = ready.read_waker.take() {
                waker.wake();
            }
        }
        if failed || flags.contains(epoll::EventFlags::OUT) {
            ready.writable.set(true);
            if let Some(waker) = ready.write_waker.take() {
                waker.wake();
            }
        }
    }

    fn time_to_next_timer(&self) -> Option<Duration> {
        let (due, _) = *self.timers.borrow().first_key_value()?.0;
        Some(Duration::from_millis(due.saturating_sub(now())).min(WAIT_MAX))
    }

    fn fire_timers(&self) {
        while let Some(waker) = self.pop_due_timer() {
            waker.wake();
        }
    }

    fn pop_due_timer(&self) -> Option<Waker> {
        let mut timers = self.timers.borrow_mut();
        let first = timers.first_entry().filter(|first| first.key().0 <= now())?;
        Some(first.remove())
    }

    fn add_timer(&self, due: Millis, waker: Waker) -> TimerKey {
        let key = (due, self.timer_count.get());
        self.timer_count.set(key.1 + 1);
        self.timers.borrow_mut().insert(key, waker);
        key
    }
}

fn with_worker<R>(f: impl FnOnce(&Rc<Reactor>) -> R) -> Option<R> {
    // `None` also while the thread ends and its tasks are dropped.
    WORKER.try_with(|cell| cell.get().map(f)).ok().flatten()
}

/// Starts a task on this worker. The task runs until it or the worker ends.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    with_worker(|w| w.executor.spawn(future).detach());
}

/// Starts a task as a boxed future: the executor's code for it exists once, which pays for tasks that are started
/// rarely.
pub fn spawn_boxed(future: impl Future<Output = ()> + 'static) {
    if let Some(task) = spawn_with_handle(future) {
        task.detach();
    }
}

/// A handle of a task; dropping it cancels the task.
pub type Task = smol::Task<()>;

/// Starts a boxed task like [`spawn_boxed`], and returns its handle; `None` while the worker ends.
pub fn spawn_with_handle(future: impl Future<Output = ()> + 'static) -> Option<Task> {
    start_boxed(Box::pin(future))
}

fn start_boxed(future: Pin<Box<dyn Future<Output = ()>>>) -> Option<Task> {
    with_worker(|w| w.executor.spawn(future))
}

/// Wakes every task that waits for a socket of this worker, so that it checks its conditions.
pub fn wake_all() {
    let all = with_worker(|w| w.sources.borrow().entries.iter().flatten().cloned().collect::<Vec<_>>());
    all.unwrap_or_default().iter().for_each(|ready| ready.wake());
}

/// Wakes the task in the next tick, so that other tasks run first.
pub fn wake_next_tick(cx: &Context<'_>) {
    with_worker(|w| w.deferred.borrow_mut().push(cx.waker().clone()));
}

/// Waits for the next tick.
pub async fn yield_now() {
    let mut waited = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        wake_next_tick(cx);
        Poll::Pending
    })
    .await;
}

/// Returns the time of this tick.
pub fn now() -> Millis {
    NOW.get()
}

/// Returns the number of this tick, which wraps.
pub fn tick() -> u32 {
    TICK.get()
}

/// Converts to milliseconds; a duration above a hundred years becomes infinite.
pub fn millis(time: Duration) -> Millis {
    match u32::try_from(time.as_secs()) {
        Ok(secs) => Millis::from(secs) * 1000 + Millis::from(time.subsec_millis()),
        Err(_) => Millis::MAX,
    }
}

/// Reads the clock, once per tick.
fn update_clock() {
    TICK.set(TICK.get().wrapping_add(1));
    // nix has libc's type of seconds: rustix assumes 64 bits where musl gives 32, on MIPS.
    if let Ok(time) = clock_gettime(ClockId::CLOCK_MONOTONIC) {
        NOW.set(millis(time.into()));
    }
}

/// Lends the worker's scratch buffer of [`SCRATCH_BYTES`]. Its content is lost when `f` returns.
pub fn with_scratch<R>(f: impl FnOnce(&mut [u8]) -> R) -> R {
    SCRATCH.with(|scratch| f(&mut scratch.borrow_mut()))
}

/// A descriptor registered in the worker's epoll.
pub struct IoSource {
    ready: Rc<Readiness>,
    token: u32,
    /// Other workers have registered the same socket, so that closing this descriptor does not unregister it.
    shared: bool,
    /// Kept here because it fits into padding.
    side: Side,
    fd: OwnedFd,
}

impl IoSource {
    /// Registers `fd`, which must be non-blocking, for both directions.
    pub fn new(fd: OwnedFd, side: Side) -> io::Result<Self> {
        use epoll::EventFlags as F;
        Self::register(fd, F::IN | F::OUT | F::RDHUP | F::ET, side)
    }

    /// Registers a listening socket that other workers may have registered as well: the kernel wakes one of them.
    pub fn new_shared(fd: OwnedFd) -> io::Result<Self> {
        use epoll::EventFlags as F;
        Self::register(fd, F::IN | F::ET | F::EXCLUSIVE, Side::Internal)
    }

    fn register(fd: OwnedFd, flags: epoll::EventFlags, side: Side) -> io::Result<Self> {
        with_worker(|w| {
            // Data that is there already is the first edge; a new socket is almost always writable.
            let ready = Rc::new(Readiness { writable: Cell::new(true), ..Readiness::default() });
            let mut slots = w.sources.borrow_mut();
            let token = match slots.free.pop() {
                Some(token) => token,
                None => {
                    slots.entries.push(None);
                    slots.entries.len() as u32 - 1
                }
            };
            if let Err(error) = epoll::add(&w.epoll, &fd, epoll::EventData::new_u64(token.into()), flags) {
                slots.free.push(token);
                return Err(error.into());
            }
            if let Some(slot) = slots.entries.get_mut(token as usize) {
                *slot = Some(ready.clone());
            }
            Ok(Self { ready, token, shared: flags.contains(epoll::EventFlags::EXCLUSIVE), side, fd })
        })
        .unwrap_or_else(|| Err(io::Error::other("no worker runs on this thread")))
    }

    /// Runs `op` as soon as the socket may be ready: the one place where a task waits for a socket.
    pub fn poll_io<T>(
        &self,
        cx: &mut Context<'_>,
        direction: Direction,
        mut op: impl FnMut(BorrowedFd<'_>) -> rustix::io::Result<T>,
    ) -> Poll<io::Result<T>> {
        let flag = self.ready.ready_flag(direction);
        if flag.get() && self.ready.burst.get() >= BURST_MAX {
            self.ready.burst.set(0);
            wake_next_tick(cx);
            return Poll::Pending;
        }
        while flag.get() {
            match op(self.fd.as_fd()) {
                Err(rustix::io::Errno::AGAIN) => flag.set(false),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
                Ok(value) => {
                    self.ready.burst.set(self.ready.burst.get() + 1);
                    return Poll::Ready(Ok(value));
                }
            }
        }
        self.ready.burst.set(0);
        self.ready.set_waker(direction, cx);
        Poll::Pending
    }

    /// Clears the ready flag after an operation that moved less than it could have: the next one would block.
    pub fn clear_ready(&self, direction: Direction) {
        if !self.ready.peer_closed.get() {
            self.ready.ready_flag(direction).set(false);
        }
    }

    /// Returns the peer by which bytes are counted.
    pub fn side(&self) -> Side {
        self.side
    }

    /// Waits for the next edge in `direction`, regardless of the ready flag: for connect(2).
    pub async fn wait_for_edge(&self, direction: Direction) {
        self.ready.ready_flag(direction).set(false);
        poll_fn(|cx| {
            if self.ready.ready_flag(direction).get() {
                return Poll::Ready(());
            }
            self.ready.set_waker(direction, cx);
            Poll::Pending
        })
        .await;
    }

    /// Whether the peer is known to have closed its direction, or the connection.
    pub fn peer_closed(&self) -> bool {
        self.ready.peer_closed.get()
    }

    /// Ready when the connection has failed, or both directions have ended. Data also wakes the task.
    pub fn poll_failed(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.ready.failed.get() {
            return Poll::Ready(());
        }
        self.ready.set_waker(Direction::Read, cx);
        Poll::Pending
    }

    /// Ready when the ready flag is set; makes no system call.
    pub fn poll_ready(&self, cx: &mut Context<'_>, direction: Direction) -> Poll<()> {
        if self.ready.ready_flag(direction).get() {
            return Poll::Ready(());
        }
        self.ready.burst.set(0);
        self.ready.set_waker(direction, cx);
        Poll::Pending
    }

    /// Whether there may be data to read.
    pub fn is_readable(&self) -> bool {
        self.ready.readable.get()
    }

    /// Whether there may be room to write.
    pub fn is_writable(&self) -> bool {
        self.ready.writable.get()
    }

    /// Wakes the tasks that wait for the socket, as an edge does.
    pub fn wake(&self) {
        self.ready.wake();
    }

    /// Unregisters the descriptor and returns it.
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        let fd = self.fd.try_clone()?;
        with_worker(|w| {
            let _ = epoll::delete(&w.epoll, &self.fd);
        });
        Ok(fd)
    }

    /// Drops the wakers of the task that had the socket before.
    pub fn clear_wakers(&self) {
        self.ready.read_waker.set(None);
        self.ready.write_waker.set(None);
    }
}

impl AsFd for IoSource {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for IoSource {
    fn drop(&mut self) {
        self.clear_wakers();
        with_worker(|w| {
            let mut slots = w.sources.borrow_mut();
            if let Some(slot) = slots.entries.get_mut(self.token as usize) {
                *slot = None;
                slots.free.push(self.token);
            }
            if self.shared {
                let _ = epoll::delete(&w.epoll, &self.fd);
            }
        });
    }
}

impl Readiness {
    fn wake(&self) {
        [self.read_waker.take(), self.write_waker.take()].into_iter().flatten().for_each(Waker::wake);
    }

    fn ready_flag(&self, direction: Direction) -> &Cell<bool> {
        match direction {
            Direction::Read => &self.readable,
            Direction::Write => &self.writable,
        }
    }

    fn set_waker(&self, direction: Direction, cx: &Context<'_>) {
        let slot = match direction {
            Direction::Read => &self.read_waker,
            Direction::Write => &self.write_waker,
        };
        let parked = slot.take().filter(|waker| waker.will_wake(cx.waker()));
        slot.set(Some(parked.unwrap_or_else(|| cx.waker().clone())));
    }
}

/// A deadline that a task waits for. Moving it into the future costs nothing.
pub struct Timer {
    due: Cell<Millis>,
    /// The pending entry in the worker's map of timers.
    armed: Cell<Option<TimerKey>>,
}

impl Timer {
    pub fn new() -> Self {
        Self { due: Cell::new(Millis::MAX), armed: Cell::new(None) }
    }

    /// Sets the timer to `after`, counted from this tick.
    pub fn set(&self, after: Duration) {
        self.due.set(now().saturating_add(millis(after)));
    }

    /// Stops the timer.
    pub fn clear(&self) {
        self.due.set(Millis::MAX);
    }

    /// Ready when the timer is due.
    pub fn poll_due(&self, cx: &mut Context<'_>) -> Poll<()> {
        let due = self.due.get();
        if due <= now() {
            return Poll::Ready(());
        }
        let armed = self.armed.get().filter(|(at, _)| *at > now());
        if due != Millis::MAX && armed.is_none_or(|(at, _)| at > due) {
            self.disarm();
            self.armed.set(with_worker(|w| w.add_timer(due, cx.waker().clone())));
        }
        Poll::Pending
    }

    /// Drops the waker of the task that had the timer before.
    pub fn detach(&self) {
        self.disarm();
    }

    fn disarm(&self) {
        if let Some(key) = self.armed.take() {
            with_worker(|w| w.timers.borrow_mut().remove(&key));
        }
    }

    /// Waits for `future` for at most `limit`. Not an `async fn`, which would store the future twice.
    pub fn within<T>(
        &self,
        limit: Duration,
        mut future: impl Future<Output = T> + Unpin,
    ) -> impl Future<Output = Result<T, Elapsed>> + Unpin {
        self.set(limit);
        poll_fn(move |cx| match Pin::new(&mut future).poll(cx) {
            Poll::Ready(value) => Poll::Ready(Ok(value)),
            Poll::Pending => self.poll_due(cx).map(|()| Err(Elapsed)),
        })
    }
}

impl Default for Timer {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.disarm();
    }
}

/// The limit has passed.
#[derive(Debug, PartialEq, Eq)]
pub struct Elapsed;

/// Waits for `after`.
pub async fn sleep(after: Duration) {
    let timer = Timer::new();
    timer.set(after);
    poll_fn(|cx| timer.poll_due(cx)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_in_order_and_a_moved_one_at_its_new_time() {
        let order = run(async {
            let order = Rc::new(RefCell::new(Vec::new()));
            let moved = Timer::new();
            moved.set(Duration::from_millis(5));
            for after in [30u64, 10, 20] {
                let order = order.clone();
                spawn(async move {
                    sleep(Duration::from_millis(after)).await;
                    order.borrow_mut().push(after);
                });
            }
            poll_fn(|cx| {
                let _ = moved.poll_due(cx); // armed at 5 ms
                Poll::Ready(())
            })
            .await;
            moved.set(Duration::from_millis(60));
            poll_fn(|cx| moved.poll_due(cx)).await;
            order.take()
        });
        assert_eq!(order.unwrap(), [10, 20, 30]);
    }

    #[test]
    fn another_thread_wakes_the_worker() {
        let value = run(async {
            let slot: Arc<std::sync::Mutex<(Option<u32>, Option<Waker>)>> = Arc::default();
            let sender = slot.clone();
            let thread = std::thread::spawn(move || {
                let waker = {
                    let mut slot = sender.lock().unwrap();
                    slot.0 = Some(7);
                    slot.1.take()
                };
                waker.into_iter().for_each(Waker::wake);
            });
            let value = poll_fn(|cx| {
                let mut slot = slot.lock().unwrap();
                slot.1 = Some(cx.waker().clone());
                slot.0.map_or(Poll::Pending, Poll::Ready)
            })
            .await;
            thread.join().unwrap();
            value
        });
        assert_eq!(value.unwrap(), 7);
    }

    #[test]
    fn a_worker_can_wait_for_longer_than_the_kernel() {
        let waits = run(async {
            let mut long = pin!(sleep(Duration::from_secs(366 * 24 * 60 * 60)));
            assert!(poll_fn(|cx| Poll::Ready(long.as_mut().poll(cx).is_pending())).await);
            with_worker(|w| w.time_to_next_timer()).flatten()
        });
        assert_eq!(waits.unwrap(), Some(WAIT_MAX));
    }

    #[test]
    fn a_limit_ends_a_wait() {
        let outcome = run(async {
            let timer = Timer::new();
            (
                timer.within(Duration::from_millis(5), std::future::pending::<()>()).await,
                timer.within(Duration::from_secs(5), std::future::ready(1)).await,
            )
        });
        assert_eq!(outcome.unwrap(), (Err(Elapsed), Ok(1)));
    }
}
