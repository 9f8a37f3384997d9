//! What the program has done and is doing, in numbers.
//!
//! Each worker counts for itself in cells of its thread: an add is an add, without a lock and without an atomic, and the
//! numbers have 64 bits on processors that have no atomics of that size. To read the sum over all workers, a caller raises a
//! flag; each worker then writes its numbers down in its next turn ([`WorkerMetrics::answer`]). While it is not raised, a
//! turn costs one look at it.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Connections of clients that were accepted, and those of them that were not turned away.
    Accepted,
    Handled,
    /// Connections of clients that are open.
    Active,
    /// Of these: a request is being read; one is being answered, or the connection is a tunnel.
    Reading,
    Writing,
    /// Requests that were begun.
    Requests,
    /// Answers by the first digit of their status.
    Responses1xx,
    Responses2xx,
    Responses3xx,
    Responses4xx,
    Responses5xx,
    /// Tunnels that are open, and all that were.
    OpenTunnels,
    Tunnels,
    /// Bytes as the sockets moved them, heads included.
    BytesFromClients,
    BytesToClients,
    BytesFromUpstreams,
    BytesToUpstreams,
}

/// Whose bytes a socket moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Upstream,
    /// Our own: nobody counts them.
    Internal,
}

const METRICS: usize = Metric::BytesToUpstreams as usize + 1;

/// Numbers of one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Snapshot([u64; METRICS]);

impl Snapshot {
    pub fn get(&self, count: Metric) -> u64 {
        self.0.get(count as usize).copied().unwrap_or(0)
    }

    /// Connections of clients that have nothing to do.
    pub fn waiting(&self) -> u64 {
        self.get(Metric::Active).saturating_sub(self.get(Metric::Reading)).saturating_sub(self.get(Metric::Writing))
    }

    fn add(&mut self, other: &Self) {
        // Numbers of things that last may pass from one worker to another, so that one of them goes below zero.
        self.0.iter_mut().zip(other.0).for_each(|(mine, theirs)| *mine = mine.wrapping_add(theirs));
    }
}

thread_local! {
    static COUNTERS: [Cell<u64>; METRICS] = const { [const { Cell::new(0) }; METRICS] };
    /// The seat of this thread; 0: none.
    static WORKER_NUMBER: Cell<u32> = const { Cell::new(0) };
}

/// Adds to one number of this worker.
pub fn add(count: Metric, more: u64) {
    COUNTERS.with(|cells| {
        if let Some(cell) = cells.get(count as usize) {
            cell.set(cell.get().wrapping_add(more));
        }
    });
}

/// Takes one from a number that says how many there are now.
pub fn decrement(count: Metric) {
    add(count, u64::MAX);
}

/// Counts bytes that were read.
pub fn count_received(side: Side, bytes: usize) {
    match side {
        Side::Client => add(Metric::BytesFromClients, bytes as u64),
        Side::Upstream => add(Metric::BytesFromUpstreams, bytes as u64),
        Side::Internal => {}
    }
}

/// Counts bytes that were written.
pub fn count_sent(side: Side, bytes: usize) {
    match side {
        Side::Client => add(Metric::BytesToClients, bytes as u64),
        Side::Upstream => add(Metric::BytesToUpstreams, bytes as u64),
        Side::Internal => {}
    }
}

/// Counts an answer by its status.
pub fn count_response(status: u16) {
    let class = match status {
        100..=199 => Metric::Responses1xx,
        200..=299 => Metric::Responses2xx,
        300..=399 => Metric::Responses3xx,
        400..=499 => Metric::Responses4xx,
        500..=599 => Metric::Responses5xx,
        _ => return,
    };
    add(class, 1);
}

/// A request on its way: it is read, then answered.
pub struct RequestGuard(Metric);

impl RequestGuard {
    pub fn begin() -> Self {
        add(Metric::Requests, 1);
        add(Metric::Reading, 1);
        Self(Metric::Reading)
    }

    /// Its head is there.
    pub fn set_writing(&mut self) {
        decrement(self.0);
        add(Metric::Writing, 1);
        self.0 = Metric::Writing;
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        decrement(self.0);
    }
}

/// A tunnel, as long as it is open. Takes no room.
pub struct TunnelGuard(());

impl TunnelGuard {
    pub fn open() -> Self {
        [Metric::Tunnels, Metric::OpenTunnels, Metric::Writing].into_iter().for_each(|count| add(count, 1));
        Self(())
    }
}

impl Drop for TunnelGuard {
    fn drop(&mut self) {
        [Metric::OpenTunnels, Metric::Writing].into_iter().for_each(decrement);
    }
}

fn local_snapshot() -> Snapshot {
    COUNTERS.with(|cells| Snapshot(std::array::from_fn(|at| cells.get(at).map_or(0, Cell::get))))
}

/// What all workers have written down.
struct Registry {
    workers: Vec<Arc<SharedMetrics>>,
    last_number: u32,
    /// Of workers that have ended.
    ended: Snapshot,
}

static REGISTRY: Mutex<Registry> =
    Mutex::new(Registry { workers: Vec::new(), last_number: 0, ended: Snapshot([0; METRICS]) });

fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What of a worker others see.
struct SharedMetrics {
    number: u32,
    requested: AtomicBool,
    waker: Waker,
    published: Mutex<Snapshot>,
}

/// A worker's seat at the registry.
pub struct WorkerMetrics(Arc<SharedMetrics>);

impl WorkerMetrics {
    /// Takes a seat for this thread. `waker` makes its worker take a turn.
    pub fn register(waker: Waker) -> Self {
        let mut registry = registry();
        registry.last_number += 1;
        let number = registry.last_number;
        let worker =
            Arc::new(SharedMetrics { number, requested: AtomicBool::new(false), waker, published: Mutex::default() });
        registry.workers.push(worker.clone());
        WORKER_NUMBER.set(number);
        Self(worker)
    }

    /// Writes down this worker's numbers, if somebody has asked.
    pub fn publish(&self) {
        if self.0.requested.load(Ordering::Acquire) {
            *self.0.published.lock().unwrap_or_else(PoisonError::into_inner) = local_snapshot();
            self.0.requested.store(false, Ordering::Release);
        }
    }
}

impl Drop for WorkerMetrics {
    fn drop(&mut self) {
        let mut registry = registry();
        registry.workers.retain(|worker| worker.number != self.0.number);
        registry.ended.add(&local_snapshot());
        WORKER_NUMBER.set(0);
    }
}

/// Asks all other workers for their numbers; they come with [`total`] when [`is_up_to_date`].
pub fn request_update() {
    for worker in registry().workers.iter().filter(|worker| worker.number != WORKER_NUMBER.get()) {
        worker.requested.store(true, Ordering::Release);
        worker.waker.wake_by_ref();
    }
}

pub fn is_up_to_date() -> bool {
    !registry().workers.iter().any(|worker| worker.requested.load(Ordering::Acquire))
}

/// The numbers of all workers: of this one as they are, of the others as they were last asked for.
pub fn total() -> Snapshot {
    let registry = registry();
    let mut sum = local_snapshot();
    sum.add(&registry.ended);
    for worker in registry.workers.iter().filter(|worker| worker.number != WORKER_NUMBER.get()) {
        sum.add(&worker.published.lock().unwrap_or_else(PoisonError::into_inner));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tests of other modules count as well, so only what grows here is looked at.
    #[test]
    fn workers_answer_when_asked() {
        let (told, heard) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let before = total().get(Metric::Tunnels);
        let other = std::thread::spawn(move || {
            let worker = WorkerMetrics::register(Waker::noop().clone());
            let tunnel = TunnelGuard::open();
            add(Metric::BytesToClients, 5);
            worker.publish();
            told.send(()).unwrap();
            while ended.try_recv().is_err() {
                worker.publish();
            }
            drop(tunnel);
        });
        heard.recv().unwrap();
        assert_eq!(total().get(Metric::Tunnels), before, "nobody has requested");
        request_update();
        while total().get(Metric::Tunnels) == before {}
        assert_eq!(total().get(Metric::Tunnels), before + 1);
        assert!(total().get(Metric::BytesToClients) >= 5);
        end.send(()).unwrap();
        other.join().unwrap();
        assert_eq!(total().get(Metric::Tunnels), before + 1, "what a worker has done stays when it has ended");
    }

    #[test]
    fn what_lasts_is_counted_as_long_as_it_lasts() {
        let now = |count| local_snapshot().get(count);
        let mut request = RequestGuard::begin();
        assert_eq!((now(Metric::Reading), now(Metric::Writing), now(Metric::Requests)), (1, 0, 1));
        request.set_writing();
        let tunnel = TunnelGuard::open();
        assert_eq!((now(Metric::Reading), now(Metric::Writing), now(Metric::OpenTunnels)), (0, 2, 1));
        drop((request, tunnel));
        assert_eq!((now(Metric::Reading), now(Metric::Writing), now(Metric::OpenTunnels)), (0, 0, 0));
        for status in [101, 200, 304, 404, 502, 502, 999] {
            count_response(status);
        }
        assert_eq!((now(Metric::Responses1xx), now(Metric::Responses4xx), now(Metric::Responses5xx)), (1, 1, 2));
        assert_eq!(size_of::<TunnelGuard>(), 0);
    }
}
