//! How many requests in a time, and how many at once, a key may have: the leaky buckets of `limit_req` and the counts of
//! `limit_conn`, in zones that all workers share and that hold to their size.
//!
//! The arithmetic is nginx's, to the digit: a bucket holds thousandths of requests and leaks whole ones by the second.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::{Config, ZoneDefinition, ZoneKind};
use crate::runtime::executor::Millis;
use crate::runtime::lru_table::{EntryId, LruTable};

/// A bucket that nobody has poured into for so long may give way to another, if it is empty.
const STALE_MILLIS: Millis = 60_000;
/// Buckets that are dropped for a key that is longer than theirs.
const EVICTIONS_MAX: u32 = 16;

/// What is known of one key of `limit_req`.
#[derive(Default)]
struct Bucket {
    last: Millis,
    /// Thousandths of requests in it.
    excess: u64,
    /// Requests that looked and have not settled yet: it must not go.
    reservations: u32,
}

impl Bucket {
    /// Milliseconds since it was poured into. Clocks of workers differ a little.
    fn age(&self, now: Millis) -> Millis {
        now.saturating_sub(self.last)
    }

    /// What is in it when one more request is.
    fn excess_with_one_more(&self, rate: u64, now: Millis) -> u64 {
        (self.excess + 1000).saturating_sub(leaked(rate, self.age(now)))
    }

    fn update(&mut self, excess: u64, now: Millis) {
        self.excess = excess;
        self.last = self.last.max(now);
    }
}

/// Thousandths of requests that leak in `millis`, at `rate` thousandths a second.
fn leaked(rate: u64, millis: Millis) -> u64 {
    rate.saturating_mul(millis) / 1000
}

/// What a bucket says to one more request.
#[derive(Debug, PartialEq, Eq)]
pub enum BucketVerdict {
    /// It would overflow.
    Exceeded { excess: u64 },
    /// It is in.
    Committed { excess: u64 },
    /// It would fit; to be settled with [`Requests::settle`] when all the other buckets agree.
    Reserved(EntryId),
    /// The zone is full.
    ZoneFull,
}

/// What the limits said of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitStatus {
    Passed,
    Delayed,
    Rejected,
    DelayedDryRun,
    RejectedDryRun,
}

impl LimitStatus {
    /// `$limit_req_status`, `$limit_conn_status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "PASSED",
            Self::Delayed => "DELAYED",
            Self::Rejected => "REJECTED",
            Self::DelayedDryRun => "DELAYED_DRY_RUN",
            Self::RejectedDryRun => "REJECTED_DRY_RUN",
        }
    }
}

/// What a request got out of the limits. They are asked once: not again when its path was changed.
#[derive(Default)]
pub struct RequestLimits {
    pub requests: Option<LimitStatus>,
    pub connections: Option<LimitStatus>,
    pub conn_guards: Vec<ConnGuard>,
    /// `set $limit_rate`: bytes a second.
    pub rate: Option<u64>,
}

impl RequestLimits {
    /// What counts for a request for the sake of this one: its limits have been asked already.
    pub fn for_subrequest(&self) -> Self {
        Self { requests: self.requests, connections: self.connections, ..Self::default() }
    }

    /// Takes over what such a request got.
    pub fn merge(&mut self, other: &mut Self) {
        (self.requests, self.connections) = (other.requests, other.connections);
        self.conn_guards.append(&mut other.conn_guards);
    }
}

/// The buckets of a zone.
pub struct RequestZone {
    table: Mutex<LruTable<Bucket>>,
}

impl RequestZone {
    pub fn new(bytes_max: usize) -> Self {
        Self { table: Mutex::new(LruTable::new(bytes_max)) }
    }

    fn lock(&self) -> MutexGuard<'_, LruTable<Bucket>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks whether one more request of `key` fits, and pours it in if it is the `last` bucket to be asked. `rate` and
    /// `burst` are thousandths of requests.
    pub fn probe(&self, key: &[u8], rate: u64, burst: u64, last: bool, now: Millis) -> BucketVerdict {
        let mut table = self.lock();
        let Some(id) = table.find(key) else { return insert_bucket(&mut table, key, rate, last, now) };
        table.touch(id);
        let Some(bucket) = table.value_mut(id) else { return BucketVerdict::ZoneFull };
        let excess = bucket.excess_with_one_more(rate, now);
        if excess > burst {
            return BucketVerdict::Exceeded { excess };
        }
        if last {
            bucket.update(excess, now);
            return BucketVerdict::Committed { excess };
        }
        bucket.reservations += 1;
        BucketVerdict::Reserved(id)
    }

    /// Pours in a request that fitted: what is in the bucket now.
    pub fn commit(&self, id: EntryId, rate: u64, now: Millis) -> u64 {
        let mut table = self.lock();
        let Some(bucket) = table.value_mut(id) else { return 0 };
        let excess = bucket.excess_with_one_more(rate, now);
        bucket.update(excess, now);
        bucket.reservations = bucket.reservations.saturating_sub(1);
        excess
    }

    /// Gives up a request that fitted here, but not elsewhere.
    pub fn rollback(&self, id: EntryId) {
        if let Some(bucket) = self.lock().value_mut(id) {
            bucket.reservations = bucket.reservations.saturating_sub(1);
        }
    }
}

/// A first request: up to two buckets that are empty by now make room, and the oldest ones in any case if there is none.
fn insert_bucket(table: &mut LruTable<Bucket>, key: &[u8], rate: u64, last: bool, now: Millis) -> BucketVerdict {
    for _ in 0..2 {
        evict_oldest(table, Some(rate), now);
    }
    let mut id = table.insert(key);
    for _ in 0..EVICTIONS_MAX {
        if id.is_some() {
            break;
        }
        evict_oldest(table, None, now);
        id = table.insert(key);
    }
    let Some((id, bucket)) = id.and_then(|id| Some((id, table.value_mut(id)?))) else { return BucketVerdict::ZoneFull };
    if last {
        bucket.last = now;
        return BucketVerdict::Committed { excess: 0 };
    }
    bucket.reservations = 1;
    BucketVerdict::Reserved(id)
}

/// Drops the oldest bucket; with a rate, only one that has been empty for a while.
fn evict_oldest(table: &mut LruTable<Bucket>, empty_at: Option<u64>, now: Millis) {
    let Some((id, bucket)) = table.oldest().and_then(|id| Some((id, table.value(id)?))) else { return };
    let age = bucket.age(now);
    let empty = |rate| age >= STALE_MILLIS && bucket.excess <= leaked(rate, age);
    if bucket.reservations == 0 && empty_at.is_none_or(empty) {
        table.remove(id);
    }
}

/// The counts of a zone: requests, and tunnels, that are there at this moment.
pub struct ConnectionZone {
    table: Mutex<LruTable<u32>>,
}

/// One of those that are counted, as long as this lives.
pub struct ConnGuard {
    zone: Arc<ConnectionZone>,
    id: EntryId,
}

/// Why nobody more is let in.
#[derive(Debug, PartialEq, Eq)]
pub enum LimitExceeded {
    /// There are as many of the key as may be.
    Key,
    /// The zone has no room for another key.
    Zone,
}

impl ConnectionZone {
    pub fn new(bytes_max: usize) -> Self {
        Self { table: Mutex::new(LruTable::new(bytes_max)) }
    }

    fn lock(&self) -> MutexGuard<'_, LruTable<u32>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more of `key`, unless there are `most` already.
    pub fn acquire(self: &Arc<Self>, key: &[u8], most: u32) -> Result<ConnGuard, LimitExceeded> {
        let mut table = self.lock();
        let id = table.find(key).or_else(|| table.insert(key)).ok_or(LimitExceeded::Zone)?;
        let count = table.value_mut(id).ok_or(LimitExceeded::Zone)?;
        if *count >= most {
            return Err(LimitExceeded::Key);
        }
        *count += 1;
        Ok(ConnGuard { zone: self.clone(), id })
    }
}

impl ConnGuard {
    pub fn zone(&self) -> &Arc<ConnectionZone> {
        &self.zone
    }

    pub fn key(&self) -> Vec<u8> {
        self.zone.lock().key(self.id).unwrap_or_default().to_vec()
    }
}

impl Drop for ConnGuard {
    fn drop(&mut self) {
        let mut table = self.zone.lock();
        let Some(count) = table.value_mut(self.id) else { return };
        *count = count.saturating_sub(1);
        if *count == 0 {
            table.remove(self.id);
        }
    }
}

/// The zones of `limit_req` and `limit_conn` of a configuration, with their state.
pub struct LimitZones {
    config: Arc<Config>,
    zones: Vec<ZoneState>,
}

/// The state of a zone. It outlives its configuration if the next one has the same zone.
#[derive(Clone)]
enum ZoneState {
    Requests(Arc<RequestZone>),
    Connections(Arc<ConnectionZone>),
}

impl ZoneState {
    fn new(spec: &ZoneDefinition) -> Self {
        match spec.counted {
            ZoneKind::Requests { .. } => Self::Requests(Arc::new(RequestZone::new(spec.bytes))),
            ZoneKind::Connections => Self::Connections(Arc::new(ConnectionZone::new(spec.bytes))),
        }
    }
}

impl LimitZones {
    /// Those of a configuration. Of an old one it takes over those whose name, size and key are the same.
    pub fn new(config: Arc<Config>, old: Option<&Self>) -> Self {
        let zone = |spec| old.and_then(|old| old.find_matching(spec)).unwrap_or_else(|| ZoneState::new(spec));
        Self { zones: config.zones.iter().map(zone).collect(), config }
    }

    fn find_matching(&self, spec: &ZoneDefinition) -> Option<ZoneState> {
        let same = |(known, zone): &(&ZoneDefinition, &ZoneState)| {
            let kind = matches!(spec.counted, ZoneKind::Requests { .. }) == matches!(zone, ZoneState::Requests(_));
            kind && known.name == spec.name && known.bytes == spec.bytes && known.key_text == spec.key_text
        };
        self.config.zones.iter().zip(&self.zones).find(same).map(|(_, zone)| zone.clone())
    }

    /// The zone of a `limit_req`, and what is to be known of it.
    pub fn request_zone(&self, number: u32) -> Option<(&ZoneDefinition, &Arc<RequestZone>)> {
        match (self.config.zones.get(number as usize)?, self.zones.get(number as usize)?) {
            (spec, ZoneState::Requests(zone)) => Some((spec, zone)),
            _ => None,
        }
    }

    /// The zone of a `limit_conn`, and what is to be known of it.
    pub fn connection_zone(&self, number: u32) -> Option<(&ZoneDefinition, &Arc<ConnectionZone>)> {
        match (self.config.zones.get(number as usize)?, self.zones.get(number as usize)?) {
            (spec, ZoneState::Connections(zone)) => Some((spec, zone)),
            _ => None,
        }
    }

    /// The name under which the configuration knows a zone, if it still does.
    pub fn zone_name(&self, zone: &Arc<ConnectionZone>) -> Option<&str> {
        let same = |other: &ZoneState| matches!(other, ZoneState::Connections(other) if Arc::ptr_eq(other, zone));
        let mut named = self.config.zones.iter().zip(&self.zones);
        named.find(|(_, other)| same(other)).map(|(spec, _)| spec.name.as_str())
    }

    /// The zone of a `limit_conn` by its name.
    pub fn connection_zone_named(&self, name: &str) -> Option<&Arc<ConnectionZone>> {
        let number = self.config.zones.iter().position(|spec| spec.name == name)?;
        self.connection_zone(number as u32).map(|(_, zone)| zone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZONE_BYTES: usize = 32 * 1024;

    #[test]
    fn a_bucket_leaks_with_time_and_overflows_above_its_burst() {
        let zone = RequestZone::new(ZONE_BYTES);
        let look = |now| zone.probe(b"a", 2000, 1000, true, now);
        assert_eq!(look(5000), BucketVerdict::Committed { excess: 0 });
        assert_eq!(look(5000), BucketVerdict::Committed { excess: 1000 });
        assert_eq!(look(5000), BucketVerdict::Exceeded { excess: 2000 });
        assert_eq!(look(5001), BucketVerdict::Exceeded { excess: 1998 });
        assert_eq!(look(5500), BucketVerdict::Committed { excess: 1000 });
        // What is refused is not counted, what leaked is gone, and a clock that lags behind does no harm.
        assert_eq!(look(5400), BucketVerdict::Exceeded { excess: 2000 });
        assert_eq!(look(7000), BucketVerdict::Committed { excess: 0 });
        assert_eq!(look(999_999_999), BucketVerdict::Committed { excess: 0 });
    }

    #[test]
    fn slow_rates_are_thousandths_as_in_nginx() {
        // 1r/m is 16 thousandths a second.
        let zone = RequestZone::new(ZONE_BYTES);
        assert_eq!(zone.probe(b"a", 16, 0, true, 0), BucketVerdict::Committed { excess: 0 });
        assert_eq!(zone.probe(b"a", 16, 0, true, 60_000), BucketVerdict::Exceeded { excess: 40 });
        assert_eq!(zone.probe(b"a", 16, 0, true, 62_500), BucketVerdict::Committed { excess: 0 });
    }

    #[test]
    fn a_request_that_others_refuse_is_not_poured_in() {
        let zone = RequestZone::new(ZONE_BYTES);
        let BucketVerdict::Reserved(id) = zone.probe(b"a", 1000, 0, false, 1000) else { panic!() };
        zone.rollback(id);
        let BucketVerdict::Reserved(id) = zone.probe(b"a", 1000, 1000, false, 1000) else { panic!() };
        // As in nginx: a new bucket has been leaking since the clock began.
        assert_eq!(zone.commit(id, 1000, 1000), 0);
        assert_eq!(zone.probe(b"a", 1000, 0, true, 1000), BucketVerdict::Exceeded { excess: 1000 });
    }

    #[test]
    fn a_full_zone_forgets_the_oldest_but_never_one_in_use() {
        let zone = RequestZone::new(ZONE_BYTES);
        let BucketVerdict::Reserved(_) = zone.probe(b"held", 1, 0, false, 0) else { panic!() };
        let mut refused = 0;
        for number in 0..2000u32 {
            match zone.probe(&number.to_be_bytes(), 1, 0, true, 0) {
                BucketVerdict::ZoneFull => refused += 1,
                look => assert_eq!(look, BucketVerdict::Committed { excess: 0 }),
            }
        }
        assert!(refused > 1000, "the one in use is the oldest: {refused}");
        let zone = RequestZone::new(ZONE_BYTES);
        for number in 0..2000u32 {
            assert_eq!(zone.probe(&number.to_be_bytes(), 1, 0, true, 0), BucketVerdict::Committed { excess: 0 });
        }
        assert_eq!(zone.probe(&1999u32.to_be_bytes(), 1, 0, true, 0), BucketVerdict::Exceeded { excess: 1000 });
        assert_eq!(zone.probe(&0u32.to_be_bytes(), 1, 0, true, 0), BucketVerdict::Committed { excess: 0 });
    }

    #[test]
    fn connections_are_counted_until_they_go() {
        let zone = Arc::new(ConnectionZone::new(ZONE_BYTES));
        let first = zone.acquire(b"a", 2).unwrap();
        assert_eq!(first.key(), b"a");
        let second = zone.acquire(b"a", 2).unwrap();
        assert_eq!(zone.acquire(b"a", 2).err(), Some(LimitExceeded::Key));
        let other = zone.acquire(b"b", 1).unwrap();
        drop(first);
        let third = zone.acquire(b"a", 2).unwrap();
        drop((second, third, other));
        assert_eq!(zone.lock().oldest(), None);
        let held: Vec<ConnGuard> =
            (0..5000u32).map_while(|number| zone.acquire(&number.to_be_bytes(), 1).ok()).collect();
        assert!(held.len() > 200);
        assert_eq!(zone.acquire(b"new", 1).err(), Some(LimitExceeded::Zone));
        drop(held);
        assert!(zone.acquire(b"new", 1).is_ok());
    }
}
