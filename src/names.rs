//! Host names to addresses, off the reactor's thread, and again after a while.
//!
//! Each worker keeps what it asked. An answer is believed for `valid`; then the old one serves on while the new one is
//! asked for, and when that fails the last good one stays.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::config::Resolver;
use crate::reactor::{self, Millis, Timer};

/// Questions at the same time; each has a thread meanwhile.
const ASKING_MAX: usize = 4;
/// Names that are remembered.
const NAMES_MAX: usize = 1024;
/// How long a failure is believed.
const FAILURE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Entry {
    addrs: Vec<IpAddr>,
    /// When to ask again.
    stale: Millis,
    asking: bool,
    waiting: Vec<Waker>,
}

thread_local! {
    static NAMES: RefCell<HashMap<String, Entry>> = RefCell::default();
}

/// The addresses of `host`, in the order of the resolver; none if it can't be resolved.
pub async fn resolve(host: &str, resolver: Resolver) -> Vec<IpAddr> {
    let timer = Timer::new();
    timer.set(resolver.timeout);
    poll_fn(|cx| {
        NAMES.with_borrow_mut(|names| {
            let asking = names.values().filter(|entry| entry.asking).count();
            if names.len() >= NAMES_MAX && !names.contains_key(host) {
                names.retain(|_, entry| entry.asking || entry.stale > reactor::now());
                if names.len() >= NAMES_MAX {
                    return Poll::Ready(Vec::new());
                }
            }
            let entry = names.entry(host.to_owned()).or_default();
            let fresh = entry.stale > reactor::now();
            if !fresh && !entry.asking && asking < ASKING_MAX {
                entry.asking = true;
                reactor::spawn(ask(host.to_owned(), resolver));
            }
            if !entry.addrs.is_empty() || fresh {
                return Poll::Ready(entry.addrs.clone());
            }
            if !entry.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                entry.waiting.push(cx.waker().clone());
            }
            timer.poll_due(cx).map(|()| Vec::new())
        })
    })
    .await
}

async fn ask(host: String, resolver: Resolver) {
    let answer = async_net::resolve((host.as_str(), 0)).await;
    let waiting = NAMES.with_borrow_mut(|names| {
        let entry = names.entry(host).or_default();
        let valid = match answer {
            Ok(addrs) if !addrs.is_empty() => {
                let mut addrs: Vec<IpAddr> = addrs.into_iter().map(|addr| addr.ip()).collect();
                addrs.sort_by_key(IpAddr::is_ipv6);
                addrs.dedup();
                entry.addrs = addrs;
                resolver.valid
            }
            // The last good answer stays.
            _ => FAILURE,
        };
        entry.asking = false;
        entry.stale = reactor::now() + u64::try_from(valid.as_millis()).unwrap_or(u64::MAX);
        // Others may wait for their turn to ask.
        names.values_mut().flat_map(|entry| std::mem::take(&mut entry.waiting)).collect::<Vec<_>>()
    });
    waiting.into_iter().for_each(Waker::wake);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_exist_have_addresses_and_others_have_none() {
        let (known, unknown) = reactor::run(async {
            let resolver = Resolver::default();
            (resolve("localhost", resolver).await, resolve("no-such-host.invalid", resolver).await)
        })
        .unwrap();
        assert!(known.iter().all(IpAddr::is_loopback) && !known.is_empty());
        assert!(unknown.is_empty());
    }
}
