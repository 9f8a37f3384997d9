//! Host names to addresses, and again after a while.
//!
//! What is known of a name is known to the whole program, as peers are: if each worker asked for itself, two answers would
//! drive each other's peers out. An answer is believed for `valid`. Then the next one is asked for, off the reactor's
//! thread, and waited for; not for long where there is an old one, and when none comes the last good one stays.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use smol::lock::Semaphore;

use crate::reactor::{self, Millis};

/// How long a new answer is waited for where there is an old one (RFC 8767 5 allows 1.8 s).
pub const PATIENCE: Duration = Duration::from_secs(1);
/// How long a failure is believed.
const FAILURE: Duration = Duration::from_secs(1);

/// Questions to the system at the same time; each has a thread meanwhile.
static ROOM: Semaphore = Semaphore::new(4);

/// The names that somebody wants to know the addresses of.
static NAMES: Mutex<BTreeMap<String, Weak<Name>>> = Mutex::new(BTreeMap::new());

/// A name, for all who want its addresses. What is known of it is forgotten when nobody does any more.
pub struct Name {
    host: String,
    known: Mutex<Known>,
}

/// What is known of a name.
#[derive(Default)]
struct Known {
    addrs: Arc<[IpAddr]>,
    /// When to ask again.
    stale: Millis,
    /// The last question had no answer.
    failed: bool,
    /// Since when it is being asked for.
    asked: Option<Millis>,
    waiting: Vec<Waker>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name `host`.
pub fn of(host: &str) -> Arc<Name> {
    let mut names = lock(&NAMES);
    if let Some(name) = names.get(host).and_then(Weak::upgrade) {
        return name;
    }
    names.retain(|_, name| name.strong_count() > 0);
    let name = Arc::new(Name { host: host.to_owned(), known: Mutex::default() });
    names.insert(host.to_owned(), Arc::downgrade(&name));
    name
}

impl Name {
    /// Its addresses as far as they are known, in an order that does not change, and until when they are believed.
    pub fn known(&self) -> (Arc<[IpAddr]>, Millis) {
        let known = lock(&self.known);
        (known.addrs.clone(), known.stale)
    }

    /// Ready when what is known is all that can be known now. Asks if nobody does.
    pub fn poll_known(self: &Arc<Self>, cx: &Context<'_>, valid: Duration) -> Poll<()> {
        let now = reactor::now();
        let mut known = lock(&self.known);
        if known.stale > now {
            return Poll::Ready(());
        }
        let asked = *known.asked.get_or_insert_with(|| {
            reactor::spawn(ask(Question(self.clone()), valid));
            now
        });
        let waits_enough = known.failed || now.saturating_sub(asked) >= millis(PATIENCE);
        if !known.addrs.is_empty() && waits_enough {
            return Poll::Ready(());
        }
        if !known.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            known.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// A name that is being asked for.
struct Question(Arc<Name>);

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

async fn ask(question: Question, valid: Duration) {
    let answer = {
        let _place = ROOM.acquire().await;
        async_net::resolve((question.0.host.as_str(), 0)).await
    };
    let mut known = lock(&question.0.known);
    let mut addrs: Vec<IpAddr> = answer.unwrap_or_default().into_iter().map(|addr| addr.ip()).collect();
    // Name servers change the order with each answer; peers keep theirs.
    addrs.sort_unstable();
    addrs.dedup();
    known.failed = addrs.is_empty();
    known.stale = reactor::now().saturating_add(millis(if known.failed { FAILURE } else { valid }));
    if !known.failed {
        known.addrs = addrs.into();
    }
    drop(known);
}

fn millis(time: Duration) -> Millis {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    async fn addrs(host: &str) -> Arc<[IpAddr]> {
        let name = of(host);
        poll_fn(|cx| name.poll_known(cx, PATIENCE)).await;
        name.known().0
    }

    #[test]
    fn names_that_exist_have_addresses_and_others_have_none() {
        let (known, unknown) =
            reactor::run(async { (addrs("localhost").await, addrs("no-such-host.invalid").await) }).unwrap();
        assert!(known.iter().all(IpAddr::is_loopback) && !known.is_empty());
        assert!(unknown.is_empty());
    }

    #[test]
    fn a_name_is_the_same_one_for_all_and_forgotten_by_all() {
        let name = of("shared.invalid");
        assert!(Arc::ptr_eq(&name, &of("shared.invalid")));
        let weak = Arc::downgrade(&name);
        drop(name);
        assert!(weak.upgrade().is_none());
        let _other = of("other.invalid");
        assert!(!lock(&NAMES).contains_key("shared.invalid"));
    }

    #[test]
    fn the_last_good_answer_stays_and_is_not_waited_for_again() {
        let (ready, addrs) = reactor::run(async {
            let name = of("gone.invalid");
            lock(&name.known).addrs = Arc::from([IpAddr::from([127, 0, 0, 9])]);
            poll_fn(|cx| name.poll_known(cx, PATIENCE)).await;
            reactor::sleep(FAILURE + Duration::from_millis(100)).await;
            let ready = poll_fn(|cx| Poll::Ready(name.poll_known(cx, PATIENCE).is_ready())).await;
            (ready, name.known().0)
        })
        .unwrap();
        assert!(ready, "the one that is asked for may take long");
        assert_eq!(*addrs, [IpAddr::from([127, 0, 0, 9])]);
    }
}
