//! Counters and gauges of the program, summed over all workers.
//!
//! Each worker counts in cells of its thread: an increment needs no lock and no atomic, and counters have 64 bits on
//! processors without atomics of that size. To read totals, a caller raises a flag; each worker then publishes its
//! counters on its next tick ([`WorkerMetrics::publish`]). While the flag is down, a tick costs one load of it.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// A counter or gauge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Client connections that were accepted, and those of them that were not rejected.
    Accepted,
    Handled,
    /// Open client connections.
    Active,
    /// Of these, connections whose request is being read, and connections that send a response or are tunnels.
    Reading,
    Writing,
    /// Requests whose first byte was received.
    Requests,
    /// Responses by the class of their status.
    Responses1xx,
    Responses2xx,
    Responses3xx,
    Responses4xx,
    Responses5xx,
    /// Open tunnels, and all tunnels so far.
    OpenTunnels,
    Tunnels,
    /// Bytes read from and written to sockets, heads included.
    BytesFromClients,
    BytesToClients,
    BytesFromUpstreams,
    BytesToUpstreams,
    /// Log lines that could not be written.
    LostLogLines,
}

/// The peer of a socket, by which its bytes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Upstream,
    /// Name servers, signals and the like: not counted.
    Internal,
}

const METRICS: usize = Metric::LostLogLines as usize + 1;

/// The values of one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Snapshot([u64; METRICS]);

impl Snapshot {
    pub fn get(&self, metric: Metric) -> u64 {
        self.0.get(metric as usize).copied().unwrap_or(0)
    }

    /// Returns the idle client connections.
    pub fn waiting(&self) -> u64 {
        self.get(Metric::Active).saturating_sub(self.get(Metric::Reading)).saturating_sub(self.get(Metric::Writing))
    }

    fn add(&mut self, other: &Self) {
        // A connection may move from one worker to another, so that the gauge of one of them wraps below zero.
        self.0.iter_mut().zip(other.0).for_each(|(sum, value)| *sum = sum.wrapping_add(value));
    }
}

thread_local! {
    static COUNTERS: [Cell<u64>; METRICS] = const { [const { Cell::new(0) }; METRICS] };
    /// The number of this thread's worker; 0 if it is none.
    static WORKER_NUMBER: Cell<u32> = const { Cell::new(0) };
}

/// Adds `amount` to a counter of this worker.
pub fn add(metric: Metric, amount: u64) {
    COUNTERS.with(|cells| {
        if let Some(cell) = cells.get(metric as usize) {
            cell.set(cell.get().wrapping_add(amount));
        }
    });
}

/// Decrements a gauge of this worker.
pub fn decrement(metric: Metric) {
    add(metric, u64::MAX);
}

/// Counts received bytes.
pub fn count_received(side: Side, bytes: usize) {
    match side {
        Side::Client => add(Metric::BytesFromClients, bytes as u64),
        Side::Upstream => add(Metric::BytesFromUpstreams, bytes as u64),
        Side::Internal => {}
    }
}

/// Counts sent bytes.
pub fn count_sent(side: Side, bytes: usize) {
    match side {
        Side::Client => add(Metric::BytesToClients, bytes as u64),
        Side::Upstream => add(Metric::BytesToUpstreams, bytes as u64),
        Side::Internal => {}
    }
}

/// Counts a response by its status.
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

/// Counts a request as being read, then as being responded to, until dropped.
pub struct RequestGuard {
    state: Metric,
    is_counted: bool,
}

impl RequestGuard {
    pub fn begin() -> Self {
        add(Metric::Reading, 1);
        Self { state: Metric::Reading, is_counted: false }
    }

    /// Called when bytes of the head have arrived: a connection that ends between two requests is no request.
    pub fn count(&mut self) {
        if !self.is_counted {
            add(Metric::Requests, 1);
            self.is_counted = true;
        }
    }

    /// Called when the head is complete.
    pub fn set_writing(&mut self) {
        decrement(self.state);
        add(Metric::Writing, 1);
        self.state = Metric::Writing;
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        decrement(self.state);
    }
}

/// Counts an open tunnel until dropped. Has no size.
pub struct TunnelGuard(());

impl TunnelGuard {
    pub fn open() -> Self {
        [Metric::Tunnels, Metric::OpenTunnels, Metric::Writing].into_iter().for_each(|metric| add(metric, 1));
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

/// The published metrics of all workers.
struct Registry {
    workers: Vec<Arc<SharedMetrics>>,
    last_number: u32,
    /// Sum over the workers that have ended.
    ended: Snapshot,
}

static REGISTRY: Mutex<Registry> =
    Mutex::new(Registry { workers: Vec::new(), last_number: 0, ended: Snapshot([0; METRICS]) });

fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The part of a worker's metrics that other threads see.
struct SharedMetrics {
    number: u32,
    requested: AtomicBool,
    waker: Waker,
    published: Mutex<Snapshot>,
}

/// A worker's seat at the registry.
pub struct WorkerMetrics(Arc<SharedMetrics>);

impl WorkerMetrics {
    /// Registers this thread. `waker` makes its worker run a tick.
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

    /// Publishes this worker's counters, if requested.
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

/// Requests an update from all other workers; [`total`] includes it when [`is_up_to_date`].
pub fn request_update() {
    for worker in registry().workers.iter().filter(|worker| worker.number != WORKER_NUMBER.get()) {
        worker.requested.store(true, Ordering::Release);
        worker.waker.wake_by_ref();
    }
}

pub fn is_up_to_date() -> bool {
    !registry().workers.iter().any(|worker| worker.requested.load(Ordering::Acquire))
}

/// Returns the sum over all workers: the current values of this one, the last published ones of the others.
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

    /// Tests of other modules count too, so only metrics that grow here are checked.
    #[test]
    fn workers_publish_on_request() {
        let (published_sender, published) = std::sync::mpsc::channel();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let before = total().get(Metric::Tunnels);
        let other = std::thread::spawn(move || {
            let worker = WorkerMetrics::register(Waker::noop().clone());
            let tunnel = TunnelGuard::open();
            add(Metric::BytesToClients, 5);
            worker.publish();
            published_sender.send(()).unwrap();
            while stopped.try_recv().is_err() {
                worker.publish();
            }
            drop(tunnel);
        });
        published.recv().unwrap();
        assert_eq!(total().get(Metric::Tunnels), before, "no totals were requested");
        request_update();
        while total().get(Metric::Tunnels) == before {}
        assert_eq!(total().get(Metric::Tunnels), before + 1);
        assert!(total().get(Metric::BytesToClients) >= 5);
        stop.send(()).unwrap();
        other.join().unwrap();
        assert_eq!(total().get(Metric::Tunnels), before + 1, "the counters of a worker outlive it");
    }

    #[test]
    fn gauges_last_as_long_as_their_guards() {
        let now = |metric| local_snapshot().get(metric);
        let mut request = RequestGuard::begin();
        assert_eq!((now(Metric::Reading), now(Metric::Writing), now(Metric::Requests)), (1, 0, 0));
        request.count();
        request.count();
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
