//! A cache of resolved host names, shared by all workers.
//!
//! With one cache for each worker, two different responses would keep replacing each other's peers. Entries live for their
//! TTL and are then refreshed by `resolver` or by the system. Users of an expired entry wait for the refresh, but only
//! briefly if it has addresses. A refresh that fails leaves the old addresses in place; a name server's NXDOMAIN does not.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use smol::lock::Semaphore;

use crate::dns::client::{self, AddrFamilies, ResolveError, Resolver};
use crate::runtime::executor::{self, Millis, millis};
use crate::runtime::socket::{Addr, Endpoint};

/// How long users wait for a refresh if there are old addresses (RFC 8767 5 allows 1.8 s).
pub const REFRESH_WAIT: Duration = Duration::from_secs(1);
/// The longest interval between two checks whether an entry has expired.
pub const REFRESH_SECS_MAX: u64 = 3600;
/// The TTL of names resolved by the system, which does not report one.
const SYSTEM_TTL: Duration = Duration::from_secs(30);
/// Bounds of the TTL of name servers.
const TTL_SECS: std::ops::RangeInclusive<u32> = 1..=86_400;
/// How long a failure is cached.
const ERROR_TTL: Duration = Duration::from_secs(1);

/// Concurrent lookups by the system, each of which blocks a thread.
static SYSTEM_LOOKUPS: Semaphore = Semaphore::new(4);
/// Concurrent lookups by name servers, each of which takes two descriptors.
static SERVER_LOOKUPS: Semaphore = Semaphore::new(64);

static CACHE: Mutex<Vec<Weak<CachedName>>> = Mutex::new(Vec::new());

/// An entry: a name and its resolver. It is dropped with its last user.
pub struct CachedName {
    /// In lower case.
    host: String,
    resolver: Arc<Resolver>,
    state: Mutex<NameState>,
}

#[derive(Default)]
struct NameState {
    addrs: Arc<[IpAddr]>,
    expires: Millis,
    /// Why the last lookup failed.
    error: Option<ResolveError>,
    /// The error has not been logged.
    is_error_unlogged: bool,
    /// When the lookup in progress began.
    lookup_started: Option<Millis>,
    wakers: Vec<Waker>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the entry of `host` and `resolver`, a new one if there is none.
pub fn entry(host: &str, resolver: &Arc<Resolver>) -> Arc<CachedName> {
    let host = host.to_ascii_lowercase();
    let mut cache = lock(&CACHE);
    cache.retain(|name| name.strong_count() > 0);
    let is_same = |name: &Arc<CachedName>| name.host == host && name.resolver == *resolver;
    if let Some(name) = cache.iter().filter_map(Weak::upgrade).find(is_same) {
        return name;
    }
    let name = Arc::new(CachedName { host, resolver: resolver.clone(), state: Mutex::default() });
    cache.push(Arc::downgrade(&name));
    name
}

impl CachedName {
    /// Returns the cached addresses, which are sorted, and when they expire.
    pub fn addrs_and_expiry(&self) -> (Arc<[IpAddr]>, Millis) {
        let state = lock(&self.state);
        (state.addrs.clone(), state.expires)
    }

    /// Describes, in nginx's words, why there are no addresses.
    pub fn error_message(&self) -> String {
        let error = lock(&self.state).error.clone().unwrap_or(ResolveError::Timeout);
        format!("{} could not be resolved ({error})", self.host)
    }

    /// Takes the message of a failed refresh whose old addresses stay in use, so that it is logged once.
    pub fn take_error_message(&self) -> Option<String> {
        let is_unlogged = {
            let mut state = lock(&self.state);
            std::mem::take(&mut state.is_error_unlogged) && !state.addrs.is_empty()
        };
        is_unlogged.then(|| self.error_message())
    }

    /// Ready when the entry has not expired, or need not be waited for any longer. Starts a lookup if none is in progress.
    pub fn poll_resolved(self: &Arc<Self>, cx: &Context<'_>) -> Poll<()> {
        let now = executor::now();
        let mut state = lock(&self.state);
        if state.expires > now {
            return Poll::Ready(());
        }
        let started = *state.lookup_started.get_or_insert_with(|| {
            executor::spawn_boxed(look_up(PendingLookup(self.clone())));
            now
        });
        // A name server that has just answered with an error does so again within moments, or has new addresses.
        let is_silent = state.error.as_ref().is_some_and(|error| !error.is_response());
        let has_waited = is_silent || now.saturating_sub(started) >= millis(REFRESH_WAIT);
        if !state.addrs.is_empty() && has_waited {
            return Poll::Ready(());
        }
        if !state.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Stores the result of a lookup.
    fn update(&self, result: Result<(Vec<IpAddr>, Duration), ResolveError>) {
        let mut state = lock(&self.state);
        let ttl = match result {
            Ok((mut addrs, ttl)) => {
                // Name servers rotate the order; peers keep theirs.
                addrs.sort_unstable();
                addrs.dedup();
                state.addrs = addrs.into();
                state.error = None;
                ttl
            }
            Err(error) => {
                if error.is_negative() {
                    state.addrs = Arc::default();
                }
                // One log line for equal failures in a row.
                state.is_error_unlogged |= state.error.as_ref() != Some(&error);
                state.error = Some(error);
                ERROR_TTL
            }
        };
        state.expires = executor::now().saturating_add(millis(ttl));
    }
}

/// A lookup in progress.
struct PendingLookup(Arc<CachedName>);

impl Drop for PendingLookup {
    /// Wakes all waiters: they use the result, or start another lookup if the worker of this one has ended.
    fn drop(&mut self) {
        let wakers = {
            let mut state = lock(&self.0.state);
            state.lookup_started = None;
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

async fn look_up(lookup: PendingLookup) {
    let CachedName { host, resolver, .. } = &*lookup.0;
    let result = match resolver.is_system() {
        true => look_up_by_system(host).await,
        false => look_up_by_servers(host, resolver).await,
    };
    lookup.0.update(result.map(|(addrs, ttl)| (addrs, resolver.valid.unwrap_or(ttl))));
}

/// An unknown name is never `is_negative` here: the system may have lost its name server.
async fn look_up_by_system(host: &str) -> Result<(Vec<IpAddr>, Duration), ResolveError> {
    let _permit = SYSTEM_LOOKUPS.acquire().await;
    match async_net::resolve((host, 0)).await {
        Ok(addrs) if addrs.is_empty() => Err(ResolveError::Other("no addresses".to_owned())),
        Ok(addrs) => Ok((addrs.into_iter().map(|addr| addr.ip()).collect(), SYSTEM_TTL)),
        Err(error) => Err(ResolveError::Other(error.to_string())),
    }
}

async fn look_up_by_servers(host: &str, resolver: &Resolver) -> Result<(Vec<IpAddr>, Duration), ResolveError> {
    let servers = server_addrs(resolver).await?;
    let _permit = SERVER_LOOKUPS.acquire().await;
    let families = AddrFamilies { ipv4: resolver.ipv4, ipv6: resolver.ipv6 };
    let (addrs, ttl) = client::look_up(host, &servers, families).await?;
    Ok((addrs, Duration::from_secs(ttl.clamp(*TTL_SECS.start(), *TTL_SECS.end()).into())))
}

/// The addresses of the name servers. The system resolves their names.
async fn server_addrs(resolver: &Resolver) -> Result<Vec<SocketAddr>, ResolveError> {
    let mut servers = Vec::new();
    for endpoint in &resolver.servers {
        match endpoint {
            Endpoint::Addr(Addr::Ip(addr)) => servers.push(*addr),
            Endpoint::Addr(Addr::Unix(_)) => {}
            Endpoint::Name { host, port } => {
                let name = entry(host, &Arc::new(Resolver::system(None)));
                poll_fn(|cx| name.poll_resolved(cx)).await;
                servers.extend(name.addrs_and_expiry().0.iter().map(|ip| SocketAddr::new(*ip, *port)));
                if servers.is_empty() {
                    return Err(ResolveError::Other(name.error_message()));
                }
            }
        }
    }
    Ok(servers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system() -> Arc<Resolver> {
        Arc::new(Resolver::system(None))
    }

    async fn addrs(host: &str) -> Arc<[IpAddr]> {
        let name = entry(host, &system());
        poll_fn(|cx| name.poll_resolved(cx)).await;
        name.addrs_and_expiry().0
    }

    #[test]
    fn existing_names_have_addresses_and_others_have_none() {
        let (resolved, unresolved) =
            executor::run(async { (addrs("localhost").await, addrs("no-such-host.invalid").await) }).unwrap();
        assert!(resolved.iter().all(IpAddr::is_loopback) && !resolved.is_empty());
        assert!(unresolved.is_empty());
    }

    /// Only a name server that does not respond is not waited for.
    #[test]
    fn old_addresses_are_used_at_once_after_a_silent_failure() {
        let errors = [
            (None, true),
            (Some(ResolveError::Rcode(2)), true),
            (Some(ResolveError::Timeout), false),
            (Some(ResolveError::Other("?".to_owned())), false),
        ];
        executor::run(async {
            for (error, expected) in errors {
                let name = entry("waited.invalid", &system());
                name.update(Ok((vec![IpAddr::from([127, 0, 0, 9])], SYSTEM_TTL)));
                if let Some(error) = error {
                    name.update(Err(error));
                }
                lock(&name.state).expires = 0;
                let is_waited_for = poll_fn(|cx| Poll::Ready(name.poll_resolved(cx).is_pending())).await;
                assert_eq!(is_waited_for, expected);
            }
        })
        .unwrap();
    }

    #[test]
    fn an_entry_is_shared_and_dropped_with_its_last_user() {
        let name = entry("shared.invalid", &system());
        assert!(Arc::ptr_eq(&name, &entry("Shared.INVALID", &system())));
        assert!(!Arc::ptr_eq(&name, &entry("shared.invalid", &Arc::new(Resolver::system(Some(SYSTEM_TTL))))));
        let weak = Arc::downgrade(&name);
        drop(name);
        assert!(weak.upgrade().is_none());
    }

    #[test]
    fn old_addresses_stay_until_nxdomain() {
        let name = entry("good.invalid", &system());
        let good = [IpAddr::from([127, 0, 0, 9])];
        name.update(Ok((vec![good[0]; 2], SYSTEM_TTL)));
        assert_eq!(*name.addrs_and_expiry().0, good);
        assert_eq!(name.take_error_message(), None);
        for error in
            [ResolveError::Timeout, ResolveError::Timeout, ResolveError::Rcode(2), ResolveError::Other("?".to_owned())]
        {
            name.update(Err(error));
            assert_eq!(*name.addrs_and_expiry().0, good);
        }
        assert_eq!(name.take_error_message().unwrap(), "good.invalid could not be resolved (?)");
        name.update(Err(ResolveError::Other("?".to_owned())));
        assert_eq!(name.take_error_message(), None, "it was logged");
        name.update(Err(ResolveError::Rcode(3)));
        assert!(name.addrs_and_expiry().0.is_empty());
        assert_eq!(name.error_message(), "good.invalid could not be resolved (3: Host not found)");
    }

    #[test]
    fn nothing_waits_for_a_refresh_after_a_failure() {
        let ready = executor::run(async {
            let name = entry("gone.invalid", &system());
            name.update(Ok((vec![[127, 0, 0, 9].into()], Duration::ZERO)));
            let poll = || poll_fn(|cx| Poll::Ready(name.poll_resolved(cx).is_ready()));
            let first = poll().await;
            name.update(Err(ResolveError::Timeout));
            lock(&name.state).expires = 0;
            (first, poll().await)
        });
        assert_eq!(ready.unwrap(), (false, true));
    }
}
