//! Idle connections to upstreams, kept by each worker for the next request.
//!
//! A connection comes back only if its last answer was read to the end, and leaves again only if nothing was heard of
//! it since: bytes that nobody asked for never become the start of an answer.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Upstream;
use crate::runtime::executor::{self, Millis};
use crate::runtime::socket::Addr;
use crate::runtime::stream::BufStream;
use crate::tls;

/// How often connections that nobody wants any more are looked for.
const SWEEP: Duration = Duration::from_secs(5);

/// How a peer is connected to. A connection serves those alone who would have made it in the same way.
#[derive(Clone, PartialEq)]
pub struct PoolKey {
    /// The address that it is bound to (`proxy_bind`).
    pub from: Option<Addr>,
    pub tls: Option<TlsKey>,
}

/// How, and by which name, a peer is spoken to by TLS.
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

/// A connection, and how much it was used.
pub struct UpstreamConn {
    pub wire: BufStream,
    way: PoolKey,
    pub requests: u32,
    pub since: Millis,
    idle_since: Millis,
    idle_max: Duration,
}

impl UpstreamConn {
    pub fn new(wire: BufStream, way: PoolKey) -> Self {
        Self { wire, way, requests: 0, since: executor::now(), idle_since: 0, idle_max: Duration::ZERO }
    }

    fn is_usable(&self) -> bool {
        let idle = executor::now().saturating_sub(self.idle_since);
        idle < executor::millis(self.idle_max) && self.wire.ahead().is_empty() && self.wire.stream.is_quiet()
    }
}

#[derive(Default)]
struct Pool {
    /// By the names of upstreams. A program has few of them: a list is found through faster than a table.
    idle: Vec<(Box<str>, Idle)>,
    sweeping: bool,
}

/// The idle connections of an upstream; that which was used last stands last. Boxed, as they go from hand to hand.
type Idle = Vec<(Addr, Box<UpstreamConn>)>;

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

impl Pool {
    fn of(&mut self, upstream: &Upstream) -> Option<&mut Idle> {
        self.idle.iter_mut().find(|(name, _)| **name == *upstream.name).map(|(_, idle)| idle)
    }
}

/// An idle connection to a peer of `upstream` that was made in this way, if there is a good one: the one that was used
/// last.
pub fn take(addr: &Addr, way: &PoolKey, upstream: &Upstream) -> Option<Box<UpstreamConn>> {
    POOL.with_borrow_mut(|pool| {
        let idle = pool.of(upstream)?;
        let fits = |(known, pooled): &(Addr, Box<UpstreamConn>)| known == addr && pooled.way == *way;
        while let Some(at) = idle.iter().rposition(fits) {
            let (_, pooled) = idle.remove(at);
            if pooled.is_usable() {
                return Some(pooled);
            }
        }
        None
    })
}

/// Keeps a connection for the next request, as the upstream's settings allow. Where there is no room the one that lay idle
/// for the longest time gives way.
pub fn put(addr: &Addr, mut pooled: Box<UpstreamConn>, upstream: &Upstream) {
    let age = Duration::from_millis(executor::now().saturating_sub(pooled.since));
    if upstream.keepalive == 0 || pooled.requests >= upstream.keepalive_requests || age >= upstream.keepalive_time {
        return;
    }
    pooled.idle_since = executor::now();
    pooled.idle_max = upstream.keepalive_timeout;
    pooled.wire.stream.socket().release();
    if !pooled.wire.stream.is_quiet() {
        return;
    }
    let sweep = POOL.with_borrow_mut(|pool| {
        match pool.of(upstream) {
            Some(idle) => {
                if idle.len() >= upstream.keepalive as usize {
                    idle.remove(0);
                }
                idle.push((addr.clone(), pooled));
            }
            None => pool.idle.push((upstream.name.as_str().into(), vec![(addr.clone(), pooled)])),
        }
        !std::mem::replace(&mut pool.sweeping, true)
    });
    if sweep {
        executor::spawn_boxed(sweep_while_needed());
    }
}

/// Closes all idle connections.
pub fn clear() {
    POOL.with_borrow_mut(|pool| pool.idle.clear());
}

/// Closes what got old or was closed by the other side; ends when nothing is left, so that an idle process sleeps.
async fn sweep_while_needed() {
    loop {
        executor::sleep(SWEEP).await;
        let done = POOL.with_borrow_mut(|pool| {
            for (_, idle) in &mut pool.idle {
                idle.retain(|(_, pooled)| pooled.is_usable());
            }
            pool.idle.retain(|(_, idle)| !idle.is_empty());
            pool.sweeping = !pool.idle.is_empty();
            !pool.sweeping
        });
        if done {
            return;
        }
    }
}
