//! Checks passwords off the reactor's thread: one check may take a tenth of a second, and the small machine has other
//! things to do meanwhile.
//!
//! A password that was right is known again by a digest of it, so that a page with many parts costs one check. The key of
//! these digests (HMAC-SHA-1, RFC 2104) lives as long as the process, and no password is kept.

use std::cell::{Cell, RefCell};

use hmac::{Hmac, KeyInit, Mac};
use rustix::rand::GetRandomFlags;
use sha1::Sha1;
use smol::lock::Semaphore;

use crate::http1::digest::SHA1_BYTES;
use crate::modules::access::password::PasswordHash;

/// Slow checks at the same time, of all workers; each has a thread meanwhile.
const CHECKS_MAX: usize = 2;
/// Requests of a worker that wait for a check.
const WAITING_MAX: u32 = 64;
/// Right passwords that a worker knows again.
const VERIFIED_MAX: usize = 256;

static CHECK_PERMITS: Semaphore = Semaphore::new(CHECKS_MAX);

thread_local! {
    static WAITING: Cell<u32> = const { Cell::new(0) };
    static VERIFIED: RefCell<VerifiedCache> = RefCell::new(VerifiedCache::new());
}

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckResult {
    Match,
    Mismatch,
    /// The stored password has a form that is not known.
    Unsupported,
    /// Too many others wait.
    Busy,
}

/// Whether `password` is the one that is stored as a user file has it.
pub async fn check(stored: &[u8], password: &[u8]) -> CheckResult {
    let Some(form) = PasswordHash::parse(stored) else { return CheckResult::Unsupported };
    if !form.is_slow() {
        return outcome(form.matches(password));
    }
    let digest = VERIFIED.with_borrow(|known| known.digest(stored, password));
    let is_known = || VERIFIED.with_borrow(|known| known.contains(digest));
    if is_known() {
        return CheckResult::Match;
    }
    let outcome = check_in_thread(stored, password, is_known).await;
    if outcome == CheckResult::Match {
        VERIFIED.with_borrow_mut(|known| known.insert(digest));
    }
    outcome
}

/// Takes as long as to find out that `password` is not the one that is stored, and never finds that it is: for a user that
/// does not exist, so that the time does not tell which users do. Nothing is remembered of it, and what was is not used.
pub async fn check_decoy(stored: &[u8], password: &[u8]) -> CheckResult {
    let Some(form) = PasswordHash::parse(stored) else { return CheckResult::Mismatch };
    let outcome = match form.is_slow() {
        false => outcome(form.matches(password)),
        true => check_in_thread(stored, password, || false).await,
    };
    if outcome == CheckResult::Busy { CheckResult::Busy } else { CheckResult::Mismatch }
}

/// Has a thread check a password, when it is its turn and if it is not known by then.
async fn check_in_thread(stored: &[u8], password: &[u8], is_known: impl Fn() -> bool) -> CheckResult {
    let Some(_waiting) = WaitSlot::new() else { return CheckResult::Busy };
    let permit = CHECK_PERMITS.acquire().await;
    // Somebody before us may have asked the same.
    if is_known() {
        return CheckResult::Match;
    }
    let (stored, password) = (stored.to_vec(), password.to_vec());
    let right = smol::unblock(move || {
        // A check whose request is gone by now still counts until it is done.
        let _permit = permit;
        PasswordHash::parse(&stored).is_some_and(|form| form.matches(&password))
    });
    outcome(right.await)
}

fn outcome(right: bool) -> CheckResult {
    if right { CheckResult::Match } else { CheckResult::Mismatch }
}

/// A place among those that wait.
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

/// Digests of passwords that were right, the oldest first.
struct VerifiedCache {
    /// HMAC with the key of this worker; without one, nothing is known again.
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
    fn what_was_right_is_known_again_and_what_was_wrong_is_not() {
        let outcomes = executor::run(async {
            let mut outcomes = Vec::new();
            for (stored, password) in
                [(STORED, "password"), (STORED, "Password"), (STORED, "password"), (b"aaPwJ9XL9Y99E", "password")]
            {
                outcomes.push(check(stored, password.as_bytes()).await);
            }
            outcomes
        });
        assert_eq!(
            outcomes.unwrap(),
            [CheckResult::Match, CheckResult::Mismatch, CheckResult::Match, CheckResult::Unsupported]
        );
        VERIFIED.with_borrow(|known| {
            assert_eq!(known.digests, [known.digest(STORED, b"password").unwrap()]);
            assert_ne!(known.digest(STORED, b"password"), VerifiedCache::new().digest(STORED, b"password"));
        });
    }

    #[cfg(feature = "crypt")]
    #[test]
    fn a_slow_check_lets_others_run() {
        let slow = b"$2b$08$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW";
        let ended = executor::run(with_permits_taken(check(slow, b"secret")));
        assert_eq!(ended.unwrap(), (true, CheckResult::Mismatch));
    }

    /// Whether a check waits while others have all turns, and what comes of it then.
    async fn with_permits_taken(check: impl Future<Output = CheckResult>) -> (bool, CheckResult) {
        /// Two tests that have one turn each would wait for one another.
        static HOLDER: smol::lock::Mutex<()> = smol::lock::Mutex::new(());
        let _holder = HOLDER.lock().await;
        let mut turns = Vec::new();
        for _ in 0..CHECKS_MAX {
            turns.push(CHECK_PERMITS.acquire().await);
        }
        let mut check = pin!(check);
        let waits = poll_fn(|cx| Poll::Ready(check.as_mut().poll(cx).is_pending())).await;
        drop(turns);
        let outcome = if waits { check.await } else { CheckResult::Busy };
        (waits, outcome)
    }

    /// A user that does not exist costs what one costs that does, and nothing of it is remembered or known again.
    #[test]
    fn a_check_in_vain_is_as_slow_and_never_right() {
        let outcomes = executor::run(async {
            let mut outcomes = vec![(false, check_decoy(b"{PLAIN}password", b"password").await)];
            outcomes.push((false, check_decoy(b"aaPwJ9XL9Y99E", b"password").await));
            for known in [false, true] {
                outcomes.push(with_permits_taken(check_decoy(STORED, b"password")).await);
                assert_eq!(VERIFIED.with_borrow(|known| known.digests.len()), usize::from(known));
                assert_eq!(check(STORED, b"password").await, CheckResult::Match);
            }
            let places: Vec<Option<WaitSlot>> = (0..WAITING_MAX).map(|_| WaitSlot::new()).collect();
            outcomes.push((false, check_decoy(STORED, b"password").await));
            drop(places);
            outcomes
        });
        let (fast, slow) = ((false, CheckResult::Mismatch), (true, CheckResult::Mismatch));
        assert_eq!(outcomes.unwrap(), [fast, fast, slow, slow, (false, CheckResult::Busy)]);
    }

    #[test]
    fn not_more_is_remembered_than_there_is_room_for() {
        let mut known = VerifiedCache::new();
        (0..VERIFIED_MAX as u32 + 2).for_each(|n| known.insert(known.digest(&n.to_le_bytes(), b"")));
        assert_eq!(known.digests.len(), VERIFIED_MAX);
        assert_eq!(known.digests.first().copied(), known.digest(&2u32.to_le_bytes(), b""));
    }

    #[test]
    fn who_finds_too_many_waiting_is_sent_away() {
        let places: Vec<Option<WaitSlot>> = (0..WAITING_MAX).map(|_| WaitSlot::new()).collect();
        assert!(places.iter().all(Option::is_some));
        let outcomes = executor::run(async {
            let busy = check(STORED, b"no").await;
            drop(places);
            (busy, check(STORED, b"no").await)
        });
        assert_eq!(outcomes.unwrap(), (CheckResult::Busy, CheckResult::Mismatch));
    }
}
