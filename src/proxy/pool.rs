//! Idle connections to upstreams, one pool per worker (`keepalive`).
//!
//! A connection enters the pool only after its last response was read to the end, and is reused only if no byte has arrived
//! since: unsolicited bytes never become the start of a response.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Upstream;
use crate::runtime::executor::{self, Millis};
use crate::runtime::socket::Addr;
use crate::runtime::stream::BufStream;
use crate::tls;

/// How often expired and closed connections are removed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// How a connection was opened. A request reuses a connection only if it would have opened it in the same way.
#[derive(Clone, PartialEq)]
pub struct PoolKey {
    /// The local address (`proxy_bind`).
    pub bind: Option<Addr>,
    pub tls: Option<TlsKey>,
}

/// The TLS settings, and the server name.
#[derive(Clone)]
pub struct TlsKey {
    pub client: Arc<tls::ClientTls>,
    pub name: Box<str>,
}

impl PartialEq for TlsKey {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.client, &other.client) && self.name == other.name
    }
}

/// A connection to a peer, with its age and use.
pub struct UpstreamConn {
    pub stream: BufStream,
    key: PoolKey,
    pub requests: u32,
    pub connected_at: Millis,
    idle_since: Millis,
    idle_max: Duration,
}

impl UpstreamConn {
    pub fn new(stream: BufStream, key: PoolKey) -> Self {
        Self { stream, key, requests: 0, connected_at: executor::now(), idle_since: 0, idle_max: Duration::ZERO }
    }

    fn is_usable(&self) -> bool {
        let idle = executor::now().saturating_sub(self.idle_since);
        idle < executor::millis(self.idle_max) && self.stream.buffered().is_empty() && self.stream.stream.is_idle()
    }
}

#[derive(Default)]
struct Pool {
    /// By name of the upstream. There are few: a linear search is faster than hashing.
    idle: Vec<(Box<str>, IdleConns)>,
    /// `sweep_until_empty` runs.
    is_sweeping: bool,
}

/// The idle connections of an upstream, the most recently used one last. Boxed, as they are moved often.
type IdleConns = Vec<(Addr, Box<UpstreamConn>)>;

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

impl Pool {
    fn idle_conns(&mut self, upstream: &Upstream) -> Option<&mut IdleConns> {
        self.idle.iter_mut().find(|(name, _)| **name == *upstream.name).map(|(_, idle)| idle)
    }
}

/// Takes the most recently used idle connection to `addr` that was opened as `key` says and is still usable.
pub fn take(addr: &Addr, key: &PoolKey, upstream: &Upstream) -> Option<Box<UpstreamConn>> {
    POOL.with_borrow_mut(|pool| {
        let idle = pool.idle_conns(upstream)?;
        let matches = |(peer, conn): &(Addr, Box<UpstreamConn>)| peer == addr && conn.key == *key;
        while let Some(at) = idle.iter().rposition(matches) {
            let (_, conn) = idle.remove(at);
            if conn.is_usable() {
                return Some(conn);
            }
        }
        None
    })
}

/// Keeps a connection for the next request, as the settings of the upstream allow; in a full pool it replaces the one that was
/// idle for the longest time.
pub fn put(addr: &Addr, mut conn: Box<UpstreamConn>, upstream: &Upstream) {
    let age = Duration::from_millis(executor::now().saturating_sub(conn.connected_at));
    if upstream.keepalive == 0 || conn.requests >= upstream.keepalive_requests || age >= upstream.keepalive_time {
        return;
    }
    conn.idle_since = executor::now();
    conn.idle_max = upstream.keepalive_timeout;
    conn.stream.stream.socket().clear_wakers();
    if !conn.stream.stream.is_idle() {
        return;
    }
    let starts_sweep = POOL.with_borrow_mut(|pool| {
        match pool.idle_conns(upstream) {
            Some(idle) => {
                if idle.len() >= upstream.keepalive as usize {
                    idle.remove(0);
                }
                idle.push((addr.clone(), conn));
            }
            None => pool.idle.push((upstream.name.as_str().into(), vec![(addr.clone(), conn)])),
        }
        !std::mem::replace(&mut pool.is_sweeping, true)
    });
    if starts_sweep {
        executor::spawn_boxed(sweep_until_empty());
    }
}

/// Closes all idle connections.
pub fn clear() {
    POOL.with_borrow_mut(|pool| pool.idle.clear());
}

/// Closes connections that expired, or that the peer closed. Ends when the pool is empty, so that an idle process sleeps.
async fn sweep_until_empty() {
    loop {
        executor::sleep(SWEEP_INTERVAL).await;
        let done = POOL.with_borrow_mut(|pool| {
            for (_, idle) in &mut pool.idle {
                idle.retain(|(_, conn)| conn.is_usable());
            }
            pool.idle.retain(|(_, idle)| !idle.is_empty());
            pool.is_sweeping = !pool.idle.is_empty();
            !pool.is_sweeping
        });
        if done {
            return;
        }
    }
}
