//! Session resumption: tickets, which clients keep, and a cache of sessions on the server.
//!
//! rustls serializes a session to bytes. The time is put in front of them to enforce `ssl_session_timeout`.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_rustls::rustls;
use rustls::server::{ProducesTickets, StoresServerSessions};

use crate::runtime::clock;

fn prepend_time(session: &[u8]) -> Vec<u8> {
    [&clock::since_epoch().as_secs().to_be_bytes()[..], session].concat()
}

/// Strips the time from a session. `None` if it is older than `lifetime`, or from the future of a clock that went back.
fn strip_time(stored: &[u8], lifetime: Duration) -> Option<Vec<u8>> {
    let (time, session) = stored.split_first_chunk()?;
    let age = clock::since_epoch().as_secs().checked_sub(u64::from_be_bytes(*time))?;
    (age < lifetime.as_secs()).then(|| session.to_vec())
}

/// Tickets with a limited lifetime, encrypted by keys that change every six hours.
#[derive(Debug)]
pub(super) struct Ticketer {
    pub(super) inner: Arc<dyn ProducesTickets>,
    pub(super) lifetime: Duration,
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        let lifetime = u32::try_from(self.lifetime.as_secs()).unwrap_or(u32::MAX);
        lifetime.min(self.inner.lifetime())
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.inner.encrypt(&prepend_time(plain))
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        strip_time(&self.inner.decrypt(cipher)?, self.lifetime)
    }
}

/// The cache of `ssl_session_cache`. The oldest sessions are evicted.
#[derive(Debug)]
pub(super) struct SessionCache {
    bytes_max: usize,
    lifetime: Duration,
    sessions: Mutex<Sessions>,
}

#[derive(Debug, Default)]
struct Sessions {
    by_id: HashMap<Vec<u8>, Vec<u8>>,
    /// Session IDs, the oldest first. Some may have been taken already.
    order: VecDeque<Vec<u8>>,
    bytes: usize,
}

/// Estimated overhead of an entry.
const ENTRY_OVERHEAD_BYTES: usize = 160;

/// The ID is stored twice.
fn entry_bytes(id: &[u8], session: &[u8]) -> usize {
    2 * id.len() + session.len() + ENTRY_OVERHEAD_BYTES
}

impl Sessions {
    fn remove(&mut self, id: &[u8]) -> Option<Vec<u8>> {
        let session = self.by_id.remove(id)?;
        self.bytes = self.bytes.saturating_sub(entry_bytes(id, &session));
        Some(session)
    }
}

impl SessionCache {
    pub(super) fn new(bytes_max: usize, lifetime: Duration) -> Self {
        Self { bytes_max, lifetime, sessions: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoresServerSessions for SessionCache {
    fn put(&self, id: Vec<u8>, session: Vec<u8>) -> bool {
        let session = prepend_time(&session);
        let added = entry_bytes(&id, &session);
        if added > self.bytes_max {
            return false;
        }
        let mut sessions = self.lock();
        sessions.remove(&id);
        // The ID of a taken session stays in the order until it is the oldest, so the order has a limit too.
        while sessions.bytes + added > self.bytes_max || sessions.order.len() > self.bytes_max / ENTRY_OVERHEAD_BYTES {
            let Some(oldest) = sessions.order.pop_front() else { break };
            sessions.remove(&oldest);
        }
        sessions.bytes += added;
        sessions.order.push_back(id.clone());
        sessions.by_id.insert(id, session);
        true
    }

    fn get(&self, id: &[u8]) -> Option<Vec<u8>> {
        strip_time(self.lock().by_id.get(id)?, self.lifetime)
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        let session = self.lock().remove(id)?;
        strip_time(&session, self.lifetime)
    }

    fn can_cache(&self) -> bool {
        self.bytes_max > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_sessions_are_evicted_and_a_taken_one_is_gone() {
        let cache = SessionCache::new(4 * ENTRY_OVERHEAD_BYTES, Duration::from_secs(60));
        for n in 0..100u8 {
            assert!(cache.put(vec![n; 4], vec![n; 40]));
        }
        let left: Vec<u8> = (0..100).filter(|n| cache.get(&[*n; 4]).is_some()).collect();
        assert!(!left.is_empty() && left.len() < 4 && left.ends_with(&[99]), "{left:?}");
        assert_eq!(cache.take(&[99; 4]).unwrap(), [99; 40]);
        assert!(cache.take(&[99; 4]).is_none());
        assert!(!cache.put(vec![1], vec![1; 8000]));
        assert!(cache.lock().bytes <= 4 * ENTRY_OVERHEAD_BYTES && cache.lock().order.len() <= 5);
    }

    #[test]
    fn expired_sessions_are_not_resumed() {
        let cache = SessionCache::new(10_000, Duration::ZERO);
        assert!(cache.put(vec![1], vec![2]));
        assert!(cache.get(&[1]).is_none());
        let inner = rustls::crypto::ring::Ticketer::new().unwrap();
        let tickets = |lifetime| Ticketer { inner: inner.clone(), lifetime };
        let ticket = tickets(Duration::from_secs(60)).encrypt(b"session").unwrap();
        assert_eq!(tickets(Duration::from_secs(60)).decrypt(&ticket).unwrap(), b"session");
        assert_eq!(tickets(Duration::ZERO).decrypt(&ticket), None);
        assert_eq!(tickets(Duration::from_secs(60)).decrypt(b"forged"), None);
    }
}
