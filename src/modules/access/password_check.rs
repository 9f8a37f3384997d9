//! Checks passwords on threads of their own: one check may take a tenth of a second, for which the worker would stand still.
//!
//! A digest of each correct password is cached, so that a page with many parts costs one check. The key of these digests
//! (HMAC-SHA-1, RFC 2104) lives as long as the process; no password is stored.

use std::cell::{Cell, RefCell};

use hmac::{Hmac, KeyInit, Mac};
use rustix::rand::GetRandomFlags;
use sha1::Sha1;
use smol::lock::Semaphore;

use crate::http1::digest::SHA1_BYTES;
use crate::modules::access::password::PasswordHash;

/// Slow checks at the same time, in all workers; each occupies a thread.
const CHECKS_MAX: usize = 2;
/// Requests of one worker that wait for a check.
const WAITING_MAX: u32 = 64;
/// Correct passwords that one worker caches.
const VERIFIED_MAX: usize = 256;

static CHECK_PERMITS: Semaphore = Semaphore::new(CHECKS_MAX);

thread_local! {
    static WAITING: Cell<u32> = const { Cell::new(0) };
    static VERIFIED: RefCell<VerifiedCache> = RefCell::new(VerifiedCache::new());
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckResult {
    Match,
    Mismatch,
    /// The hash is of a scheme that this build lacks, or malformed.
    Unsupported,
    /// [`WAITING_MAX`] requests wait already.
    Busy,
}

impl From<bool> for CheckResult {
    fn from(is_match: bool) -> Self {
        if is_match { Self::Match } else { Self::Mismatch }
    }
}

/// Checks `password` against `stored`, the hash from a password file.
pub async fn check(stored: &[u8], password: &[u8]) -> CheckResult {
    let Some(hash) = PasswordHash::parse(stored) else { return CheckResult::Unsupported };
    if !hash.is_slow() {
        return CheckResult::from(hash.matches(password));
    }
    let digest = VERIFIED.with_borrow(|cache| cache.digest(stored, password));
    let is_cached = || VERIFIED.with_borrow(|cache| cache.contains(digest));
    if is_cached() {
        return CheckResult::Match;
    }
    let result = check_in_thread(stored, password, is_cached).await;
    if result == CheckResult::Match {
        VERIFIED.with_borrow_mut(|cache| cache.insert(digest));
    }
    result
}

/// Takes as long as [`check`] does for a wrong password, and never returns a match: for a user that does not exist, so that
/// the time does not tell which users do. Neither reads nor fills the cache.
pub async fn check_decoy(stored: &[u8], password: &[u8]) -> CheckResult {
    let Some(hash) = PasswordHash::parse(stored) else { return CheckResult::Mismatch };
    let result = match hash.is_slow() {
        false => hash.matches(password).into(),
        true => check_in_thread(stored, password, || false).await,
    };
    if result == CheckResult::Busy { CheckResult::Busy } else { CheckResult::Mismatch }
}

/// Waits for a permit, and checks the password in a thread unless `is_cached` by then.
async fn check_in_thread(stored: &[u8], password: &[u8], is_cached: impl Fn() -> bool) -> CheckResult {
    let Some(_slot) = WaitSlot::new() else { return CheckResult::Busy };
    let permit = CHECK_PERMITS.acquire().await;
    // An earlier request may have checked the same password.
    if is_cached() {
        return CheckResult::Match;
    }
    let (stored, password) = (stored.to_vec(), password.to_vec());
    let is_match = smol::unblock(move || {
        // A check whose request was dropped holds its permit until it ends.
        let _permit = permit;
        PasswordHash::parse(&stored).is_some_and(|hash| hash.matches(&password))
    });
    is_match.await.into()
}

/// One of the [`WAITING_MAX`] requests that may wait.
struct WaitSlot;

impl WaitSlot {
    fn new() -> Option<Self> {
        let waiting = WAITING.get();
        if waiting >= WAITING_MAX {
            return None;
        }
        WAITING.set(waiting + 1);
        Some(Self)
    }
}

impl Drop for WaitSlot {
    fn drop(&mut self) {
        WAITING.set(WAITING.get().saturating_sub(1));
    }
}

type Digest = [u8; SHA1_BYTES];

/// Digests of correct passwords, the oldest first.
struct VerifiedCache {
    /// HMAC with the key of this worker; without a key nothing is cached.
    hmac: Option<Hmac<Sha1>>,
    digests: Vec<Digest>,
}

impl VerifiedCache {
    fn new() -> Self {
        let mut key = [0; 32];
        let filled = rustix::rand::getrandom(&mut key, GetRandomFlags::empty()).ok();
        let hmac = filled.filter(|count| *count == key.len()).and_then(|_| Hmac::new_from_slice(&key).ok());
        Self { hmac, digests: Vec::new() }
    }

    fn digest(&self, stored: &[u8], password: &[u8]) -> Option<Digest> {
        let hmac = self.hmac.clone()?;
        let length = (stored.len() as u64).to_le_bytes();
        Some(hmac.chain_update(length).chain_update(stored).chain_update(password).finalize().into_bytes().into())
    }

    fn contains(&self, digest: Option<Digest>) -> bool {
        digest.is_some_and(|digest| self.digests.contains(&digest))
    }

    fn insert(&mut self, digest: Option<Digest>) {
        let Some(digest) = digest else { return };
        if self.digests.len() >= VERIFIED_MAX {
            self.digests.remove(0);
        }
        self.digests.push(digest);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};
    use std::pin::pin;
    use std::task::Poll;

    use super::*;
    use crate::runtime::executor;

    const STORED: &[u8] = b"$apr1$salt$Xxd1irWT9ycqoYxGFn4cb.";

    #[test]
    fn correct_passwords_are_cached_and_wrong_ones_are_not() {
        let results = executor::run(async {
            let mut results = Vec::new();
            for (stored, password) in
                [(STORED, "password"), (STORED, "Password"), (STORED, "password"), (b"aaPwJ9XL9Y99E", "password")]
            {
                results.push(check(stored, password.as_bytes()).await);
            }
            results
        });
        assert_eq!(
            results.unwrap(),
            [CheckResult::Match, CheckResult::Mismatch, CheckResult::Match, CheckResult::Unsupported]
        );
        VERIFIED.with_borrow(|cache| {
            assert_eq!(cache.digests, [cache.digest(STORED, b"password").unwrap()]);
            assert_ne!(cache.digest(STORED, b"password"), VerifiedCache::new().digest(STORED, b"password"));
        });
    }

    #[cfg(feature = "crypt")]
    #[test]
    fn a_slow_check_lets_others_run() {
        let slow = b"$2b$08$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW";
        let ended = executor::run(with_permits_taken(check(slow, b"secret")));
        assert_eq!(ended.unwrap(), (true, CheckResult::Mismatch));
    }

    /// Starts a check while all permits are taken: whether it waits, and its result.
    async fn with_permits_taken(check: impl Future<Output = CheckResult>) -> (bool, CheckResult) {
        /// Two tests with one permit each would wait for one another.
        static HOLDER: smol::lock::Mutex<()> = smol::lock::Mutex::new(());
        let _holder = HOLDER.lock().await;
        let mut permits = Vec::new();
        for _ in 0..CHECKS_MAX {
            permits.push(CHECK_PERMITS.acquire().await);
        }
        let mut check = pin!(check);
        let waits = poll_fn(|cx| Poll::Ready(check.as_mut().poll(cx).is_pending())).await;
        drop(permits);
        let result = if waits { check.await } else { CheckResult::Busy };
        (waits, result)
    }

    #[test]
    fn a_check_of_a_decoy_is_as_slow_and_never_a_match() {
        let results = executor::run(async {
            let mut results = vec![(false, check_decoy(b"{PLAIN}password", b"password").await)];
            results.push((false, check_decoy(b"aaPwJ9XL9Y99E", b"password").await));
            for cached in [false, true] {
                results.push(with_permits_taken(check_decoy(STORED, b"password")).await);
                assert_eq!(VERIFIED.with_borrow(|cache| cache.digests.len()), usize::from(cached));
                assert_eq!(check(STORED, b"password").await, CheckResult::Match);
            }
            let slots: Vec<Option<WaitSlot>> = (0..WAITING_MAX).map(|_| WaitSlot::new()).collect();
            results.push((false, check_decoy(STORED, b"password").await));
            drop(slots);
            results
        });
        let (fast, slow) = ((false, CheckResult::Mismatch), (true, CheckResult::Mismatch));
        assert_eq!(results.unwrap(), [fast, fast, slow, slow, (false, CheckResult::Busy)]);
    }

    #[test]
    fn the_cache_drops_its_oldest_entry() {
        let mut cache = VerifiedCache::new();
        (0..VERIFIED_MAX as u32 + 2).for_each(|n| cache.insert(cache.digest(&n.to_le_bytes(), b"")));
        assert_eq!(cache.digests.len(), VERIFIED_MAX);
        assert_eq!(cache.digests.first().copied(), cache.digest(&2u32.to_le_bytes(), b""));
    }

    #[test]
    fn a_check_fails_while_too_many_wait() {
        let slots: Vec<Option<WaitSlot>> = (0..WAITING_MAX).map(|_| WaitSlot::new()).collect();
        assert!(slots.iter().all(Option::is_some));
        let results = executor::run(async {
            let busy = check(STORED, b"no").await;
            drop(slots);
            (busy, check(STORED, b"no").await)
        });
        assert_eq!(results.unwrap(), (CheckResult::Busy, CheckResult::Mismatch));
    }
}
