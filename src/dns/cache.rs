//! Host names to addresses, and again after a while.
//!
//! What is known of a name is known to the whole program, as peers are: if each worker asked for itself, two answers would
//! drive each other's peers out. An answer is believed for its time. Then the next one is asked for, by the name servers of a
//! `resolver` or by the system. It is waited for; not for long where there is an old one, and when
//! there is no answer the last good one stays. That there is no such name is an answer as well, if a name server says so.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use smol::lock::Semaphore;

use crate::dns::client::{self, ResolveError, Resolver, Wanted};
use crate::runtime::executor::{self, Millis, millis};
use crate::runtime::socket::{Addr, Endpoint};

/// How long a new answer is waited for where there is an old one (RFC 8767 5 allows 1.8 s).
pub const REFRESH_WAIT: Duration = Duration::from_secs(1);
/// How long an answer of the system is believed, which does not say so itself.
const VALID: Duration = Duration::from_secs(30);
/// Seconds after which who watches names looks at them again at the latest.
pub const REFRESH_SECS_MAX: u64 = 3600;
/// What servers may say of that.
const TTL_SECS: std::ops::RangeInclusive<u32> = 1..=86_400;
/// How long it is believed that there is no answer.
const FAILURE: Duration = Duration::from_secs(1);

/// Questions to the system at the same time; each has a thread meanwhile.
static THREADS: Semaphore = Semaphore::new(4);
/// Names that name servers are asked for at the same time; each takes two descriptors.
static QUESTIONS: Semaphore = Semaphore::new(64);

/// The names that somebody wants to know the addresses of.
static NAMES: Mutex<Vec<Weak<CachedName>>> = Mutex::new(Vec::new());

/// A name, for all who want its addresses from the same servers. What is known of it is forgotten when nobody does any
/// more.
pub struct CachedName {
    /// In small letters.
    host: String,
    resolver: Arc<Resolver>,
    known: Mutex<Known>,
}

/// What is known of a name.
#[derive(Default)]
struct Known {
    addrs: Arc<[IpAddr]>,
    /// When to ask again.
    stale: Millis,
    /// Why the last question had no answer.
    failure: Option<ResolveError>,
    /// Nobody has been told of it yet.
    untold: bool,
    /// Since when it is being asked for.
    asked: Option<Millis>,
    waiting: Vec<Waker>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name `host`, asked for by `resolver`.
pub fn entry(host: &str, resolver: &Arc<Resolver>) -> Arc<CachedName> {
    let host = host.to_ascii_lowercase();
    let mut names = lock(&NAMES);
    names.retain(|name| name.strong_count() > 0);
    let same = |name: &Arc<CachedName>| name.host == host && name.resolver == *resolver;
    if let Some(name) = names.iter().filter_map(Weak::upgrade).find(same) {
        return name;
    }
    let name = Arc::new(CachedName { host, resolver: resolver.clone(), known: Mutex::default() });
    names.push(Arc::downgrade(&name));
    name
}

impl CachedName {
    /// Its addresses as far as they are known, in an order that does not change, and until when they are believed.
    pub fn addrs_and_expiry(&self) -> (Arc<[IpAddr]>, Millis) {
        let known = lock(&self.known);
        (known.addrs.clone(), known.stale)
    }

    /// Why no address of it is known, in nginx's words.
    pub fn error_message(&self) -> String {
        let failure = lock(&self.known).failure.clone().unwrap_or(ResolveError::Timeout);
        format!("{} could not be resolved ({failure})", self.host)
    }

    /// That the last question was in vain while the answer before it is still used; told once.
    pub fn take_error_message(&self) -> Option<String> {
        let untold = {
            let mut known = lock(&self.known);
            std::mem::take(&mut known.untold) && !known.addrs.is_empty()
        };
        untold.then(|| self.error_message())
    }

    /// Ready when what is known is all that can be known now. Asks if nobody does.
    pub fn poll_resolved(self: &Arc<Self>, cx: &Context<'_>) -> Poll<()> {
        let now = executor::now();
        let mut known = lock(&self.known);
        if known.stale > now {
            return Poll::Ready(());
        }
        let asked = *known.asked.get_or_insert_with(|| {
            executor::spawn_boxed(ask(Question(self.clone())));
            now
        });
        let waits_enough = known.failure.is_some() || now.saturating_sub(asked) >= millis(REFRESH_WAIT);
        if !known.addrs.is_empty() && waits_enough {
            return Poll::Ready(());
        }
        if !known.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            known.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Takes an answer, or that there is none.
    fn learn(&self, answer: Result<(Vec<IpAddr>, Duration), ResolveError>) {
        let mut known = lock(&self.known);
        let valid = match answer {
            Ok((addrs, valid)) => {
                // Name servers change the order with each answer; peers keep theirs.
                let mut sorted: Vec<IpAddr> = Vec::with_capacity(addrs.len());
                for addr in addrs {
                    if let Err(at) = sorted.binary_search(&addr) {
                        sorted.insert(at, addr);
                    }
                }
                known.addrs = sorted.into();
                known.failure = None;
                valid
            }
            Err(failure) => {
                if failure.is_final() {
                    known.addrs = Arc::default();
                }
                // One line for all that fail in a row.
                known.untold |= known.failure.as_ref() != Some(&failure);
                known.failure = Some(failure);
                FAILURE
            }
        };
        known.stale = executor::now().saturating_add(millis(valid));
    }
}

/// A name that is being asked for.
struct Question(Arc<CachedName>);

impl Drop for Question {
    /// Whoever waits looks at what is known, or asks again if the worker that did has ended.
    fn drop(&mut self) {
        let waiting = {
            let mut known = lock(&self.0.known);
            known.asked = None;
            std::mem::take(&mut known.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

async fn ask(question: Question) {
    let CachedName { host, resolver, .. } = &*question.0;
    let answer = if resolver.is_system() { ask_system(host).await } else { ask_servers(host, resolver).await };
    question.0.learn(answer.map(|(addrs, valid)| (addrs, resolver.valid.unwrap_or(valid))));
}

/// That there is no such name is not final here: the system may have lost its own.
async fn ask_system(host: &str) -> Result<(Vec<IpAddr>, Duration), ResolveError> {
    let _place = THREADS.acquire().await;
    match async_net::resolve((host, 0)).await {
        Ok(addrs) if addrs.is_empty() => Err(ResolveError::Other("it has no address".to_owned())),
        Ok(addrs) => Ok((addrs.into_iter().map(|addr| addr.ip()).collect(), VALID)),
        Err(error) => Err(ResolveError::Other(error.to_string())),
    }
}

async fn ask_servers(host: &str, resolver: &Resolver) -> Result<(Vec<IpAddr>, Duration), ResolveError> {
    let servers = servers(resolver).await?;
    let _place = QUESTIONS.acquire().await;
    let wanted = Wanted { ipv4: resolver.ipv4, ipv6: resolver.ipv6 };
    let (addrs, ttl) = client::look_up(host, &servers, wanted).await?;
    Ok((addrs, Duration::from_secs(ttl.clamp(*TTL_SECS.start(), *TTL_SECS.end()).into())))
}

/// The addresses of the name servers; those of servers that have a name themselves the system knows.
async fn servers(resolver: &Resolver) -> Result<Vec<SocketAddr>, ResolveError> {
    let mut servers = Vec::new();
    for place in &resolver.servers {
        match place {
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
    fn names_that_exist_have_addresses_and_others_have_none() {
        let (known, unknown) =
            executor::run(async { (addrs("localhost").await, addrs("no-such-host.invalid").await) }).unwrap();
        assert!(known.iter().all(IpAddr::is_loopback) && !known.is_empty());
        assert!(unknown.is_empty());
    }

    #[test]
    fn a_name_is_the_same_one_for_all_and_forgotten_by_all() {
        let name = entry("shared.invalid", &system());
        assert!(Arc::ptr_eq(&name, &entry("Shared.INVALID", &system())));
        assert!(!Arc::ptr_eq(&name, &entry("shared.invalid", &Arc::new(Resolver::system(Some(VALID))))));
        let weak = Arc::downgrade(&name);
        drop(name);
        assert!(weak.upgrade().is_none());
    }

    #[test]
    fn the_last_good_answer_stays_until_a_server_says_that_there_is_none() {
        let name = entry("good.invalid", &system());
        let good = [IpAddr::from([127, 0, 0, 9])];
        name.learn(Ok((vec![good[0]; 2], VALID)));
        assert_eq!(*name.addrs_and_expiry().0, good);
        assert_eq!(name.take_error_message(), None);
        for failure in
            [ResolveError::Timeout, ResolveError::Timeout, ResolveError::Rcode(2), ResolveError::Other("?".to_owned())]
        {
            name.learn(Err(failure));
            assert_eq!(*name.addrs_and_expiry().0, good);
        }
        assert_eq!(name.take_error_message().unwrap(), "good.invalid could not be resolved (?)");
        name.learn(Err(ResolveError::Other("?".to_owned())));
        assert_eq!(name.take_error_message(), None, "it was told");
        name.learn(Err(ResolveError::Rcode(3)));
        assert!(name.addrs_and_expiry().0.is_empty());
        assert_eq!(name.error_message(), "good.invalid could not be resolved (3: Host not found)");
    }

    #[test]
    fn an_old_answer_is_not_waited_for_after_a_failure() {
        let ready = executor::run(async {
            let name = entry("gone.invalid", &system());
            name.learn(Ok((vec![[127, 0, 0, 9].into()], Duration::ZERO)));
            let poll = || poll_fn(|cx| Poll::Ready(name.poll_resolved(cx).is_ready()));
            let first = poll().await;
            name.learn(Err(ResolveError::Timeout));
            lock(&name.known).stale = 0;
            (first, poll().await)
        });
        assert_eq!(ready.unwrap(), (false, true));
    }
}
