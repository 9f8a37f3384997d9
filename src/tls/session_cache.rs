//! Sessions that clients take up again: tickets that they keep, and sessions that we keep.
//!
//! rustls gives what is to be kept as bytes. The time is put before them, so that `ssl_session_timeout` holds.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_rustls::rustls;
use rustls::server::{ProducesTickets, StoresServerSessions};

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn with_time(bytes: &[u8]) -> Vec<u8> {
    [&now().to_be_bytes()[..], bytes].concat()
}

/// What was kept, unless that is too long ago. A clock that went back ends it as well.
fn if_fresh(kept: &[u8], lifetime: Duration) -> Option<Vec<u8>> {
    let (time, bytes) = kept.split_first_chunk()?;
    let age = now().checked_sub(u64::from_be_bytes(*time))?;
    (age < lifetime.as_secs()).then(|| bytes.to_vec())
}

/// Tickets, sealed by keys that change every six hours.
#[derive(Debug)]
pub(super) struct Tickets {
    pub(super) keys: Arc<dyn ProducesTickets>,
    pub(super) lifetime: Duration,
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        let known = u32::try_from(self.lifetime.as_secs()).unwrap_or(u32::MAX);
        known.min(self.keys.lifetime())
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.keys.encrypt(&with_time(plain))
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        if_fresh(&self.keys.decrypt(cipher)?, self.lifetime)
    }
}

/// Sessions that are kept here (`ssl_session_cache`); the oldest make room for new ones.
#[derive(Debug)]
pub(super) struct Cache {
    bytes_max: usize,
    lifetime: Duration,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    sessions: HashMap<Vec<u8>, Vec<u8>>,
    /// Their names, the oldest first; some may be gone already.
    order: VecDeque<Vec<u8>>,
    bytes: usize,
}

/// Bytes that a session takes beside its name and its content.
const ENTRY_BYTES: usize = 160;

impl Kept {
    fn remove(&mut self, name: &[u8]) -> Option<Vec<u8>> {
        let session = self.sessions.remove(name)?;
        self.bytes = self.bytes.saturating_sub(cost(name, &session));
        Some(session)
    }
}

/// The name is held twice.
fn cost(name: &[u8], session: &[u8]) -> usize {
    2 * name.len() + session.len() + ENTRY_BYTES
}

impl Cache {
    pub(super) fn new(bytes_max: usize, lifetime: Duration) -> Self {
        Self { bytes_max, lifetime, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoresServerSessions for Cache {
    fn put(&self, name: Vec<u8>, session: Vec<u8>) -> bool {
        let session = with_time(&session);
        let needed = cost(&name, &session);
        if needed > self.bytes_max {
            return false;
        }
        let mut kept = self.kept();
        kept.remove(&name);
        // A name that was taken stays in the order until its turn comes: bounded as well.
        while kept.bytes + needed > self.bytes_max || kept.order.len() > self.bytes_max / ENTRY_BYTES {
            let Some(oldest) = kept.order.pop_front() else { break };
            kept.remove(&oldest);
        }
        kept.bytes += needed;
        kept.order.push_back(name.clone());
        kept.sessions.insert(name, session);
        true
    }

    fn get(&self, name: &[u8]) -> Option<Vec<u8>> {
        if_fresh(self.kept().sessions.get(name)?, self.lifetime)
    }

    fn take(&self, name: &[u8]) -> Option<Vec<u8>> {
        let taken = self.kept().remove(name)?;
        if_fresh(&taken, self.lifetime)
    }

    fn can_cache(&self) -> bool {
        self.bytes_max > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_sessions_make_room_and_a_taken_one_is_gone() {
        let cache = Cache::new(4 * ENTRY_BYTES, Duration::from_secs(60));
        for n in 0..100u8 {
            assert!(cache.put(vec![n; 4], vec![n; 40]));
        }
        let left: Vec<u8> = (0..100).filter(|n| cache.get(&[*n; 4]).is_some()).collect();
        assert!(!left.is_empty() && left.len() < 4 && left.ends_with(&[99]), "{left:?}");
        assert_eq!(cache.take(&[99; 4]).unwrap(), [99; 40]);
        assert!(cache.take(&[99; 4]).is_none());
        assert!(!cache.put(vec![1], vec![1; 8000]));
        assert!(cache.kept().bytes <= 4 * ENTRY_BYTES && cache.kept().order.len() <= 5);
    }

    #[test]
    fn what_is_too_old_is_not_taken_up_again() {
        let cache = Cache::new(10_000, Duration::ZERO);
        assert!(cache.put(vec![1], vec![2]));
        assert!(cache.get(&[1]).is_none());
        let keys = rustls::crypto::ring::Ticketer::new().unwrap();
        let tickets = |lifetime| Tickets { keys: keys.clone(), lifetime };
        let ticket = tickets(Duration::from_secs(60)).encrypt(b"session").unwrap();
        assert_eq!(tickets(Duration::from_secs(60)).decrypt(&ticket).unwrap(), b"session");
        assert_eq!(tickets(Duration::ZERO).decrypt(&ticket), None);
        assert_eq!(tickets(Duration::from_secs(60)).decrypt(b"made up"), None);
    }
}
