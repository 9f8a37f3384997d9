//! Zones of `limit_req` (leaky buckets) and `limit_conn` (counts), by key. All workers share a zone, whose size is fixed.
//!
//! The arithmetic is exactly nginx's: a bucket holds thousandths of requests and leaks by the millisecond.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::{Config, ZoneDefinition, ZoneKind};
use crate::runtime::executor::Millis;
use crate::runtime::lru_table::{EntryId, LruTable};

/// An empty bucket that got no request for this long may be evicted.
const STALE_MILLIS: Millis = 60_000;
/// Buckets that are evicted to make room for one, whose key may be longer than theirs.
const EVICTIONS_MAX: u32 = 16;

/// The leaky bucket of one key.
#[derive(Default)]
struct Bucket {
    /// When the last request was added.
    last: Millis,
    /// Its content, in thousandths of requests.
    excess: u64,
    /// Requests between `probe` and `commit` or `rollback`, during which it must not be evicted.
    reservations: u32,
}

impl Bucket {
    /// Milliseconds since `last`; 0 if another worker's clock was ahead.
    fn age(&self, now: Millis) -> Millis {
        now.saturating_sub(self.last)
    }

    /// Returns the content with one more request in it.
    fn excess_with_one_more(&self, rate: u64, now: Millis) -> u64 {
        (self.excess + 1000).saturating_sub(leaked(rate, self.age(now)))
    }

    fn update(&mut self, excess: u64, now: Millis) {
        self.excess = excess;
        self.last = self.last.max(now);
    }
}

/// Returns the thousandths of requests that leak in `millis`, at `rate` thousandths per second.
fn leaked(rate: u64, millis: Millis) -> u64 {
    rate.saturating_mul(millis) / 1000
}

/// The result of probing a bucket for one more request.
#[derive(Debug, PartialEq, Eq)]
pub enum BucketVerdict {
    /// The bucket would overflow.
    Exceeded {
        excess: u64,
    },
    /// The request is in the bucket.
    Committed {
        excess: u64,
    },
    /// There is room; to be followed by [`RequestZone::commit`] or [`RequestZone::rollback`].
    Reserved(EntryId),
    ZoneFull,
}

/// The result of the limits for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitStatus {
    Passed,
    Delayed,
    Rejected,
    DelayedDryRun,
    RejectedDryRun,
}

impl LimitStatus {
    /// Returns the value of `$limit_req_status` and `$limit_conn_status`.
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

/// The limits of a request. `limit_req` and `limit_conn` apply once, not again after an internal redirect.
#[derive(Default)]
pub struct RequestLimits {
    pub requests: Option<LimitStatus>,
    pub connections: Option<LimitStatus>,
    pub conn_guards: Vec<ConnGuard>,
    /// `set $limit_rate`, in bytes per second.
    pub rate: Option<u64>,
}

impl RequestLimits {
    /// Returns the limits of a subrequest, to which those that were applied do not apply again.
    pub fn for_subrequest(&self) -> Self {
        Self { requests: self.requests, connections: self.connections, ..Self::default() }
    }

    /// Takes over the limits that were applied to a subrequest.
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

    /// Checks whether one more request of `key` fits, and adds it if the bucket is the last one to probe. `rate` and `burst`
    /// are thousandths of requests.
    pub fn probe(&self, key: &[u8], rate: u64, burst: u64, is_last: bool, now: Millis) -> BucketVerdict {
        let mut table = self.lock();
        let Some(id) = table.find(key) else { return insert_bucket(&mut table, key, rate, is_last, now) };
        table.touch(id);
        let Some(bucket) = table.value_mut(id) else { return BucketVerdict::ZoneFull };
        let excess = bucket.excess_with_one_more(rate, now);
        if excess > burst {
            return BucketVerdict::Exceeded { excess };
        }
        if is_last {
            bucket.update(excess, now);
            return BucketVerdict::Committed { excess };
        }
        bucket.reservations += 1;
        BucketVerdict::Reserved(id)
    }

    /// Adds a request after [`BucketVerdict::Reserved`], and returns the new content.
    pub fn commit(&self, id: EntryId, rate: u64, now: Millis) -> u64 {
        let mut table = self.lock();
        let Some(bucket) = table.value_mut(id) else { return 0 };
        let excess = bucket.excess_with_one_more(rate, now);
        bucket.update(excess, now);
        bucket.reservations = bucket.reservations.saturating_sub(1);
        excess
    }

    /// Drops a request after [`BucketVerdict::Reserved`], as another bucket has no room.
    pub fn rollback(&self, id: EntryId) {
        if let Some(bucket) = self.lock().value_mut(id) {
            bucket.reservations = bucket.reservations.saturating_sub(1);
        }
    }
}

/// Adds the bucket of a first request. Evicts up to two stale ones each time, and if there is no room the oldest ones.
fn insert_bucket(table: &mut LruTable<Bucket>, key: &[u8], rate: u64, is_last: bool, now: Millis) -> BucketVerdict {
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
    if is_last {
        bucket.last = now;
        return BucketVerdict::Committed { excess: 0 };
    }
    bucket.reservations = 1;
    BucketVerdict::Reserved(id)
}

/// Evicts the oldest bucket unless it is reserved; with a rate, only if it is stale.
fn evict_oldest(table: &mut LruTable<Bucket>, stale_at: Option<u64>, now: Millis) {
    let Some((id, bucket)) = table.oldest().and_then(|id| Some((id, table.value(id)?))) else { return };
    let age = bucket.age(now);
    let is_stale = |rate| age >= STALE_MILLIS && bucket.excess <= leaked(rate, age);
    if bucket.reservations == 0 && stale_at.is_none_or(is_stale) {
        table.remove(id);
    }
}

/// The counts of a zone: current requests and tunnels by key.
pub struct ConnectionZone {
    table: Mutex<LruTable<u32>>,
}

/// A counted request or tunnel, until this is dropped.
pub struct ConnGuard {
    zone: Arc<ConnectionZone>,
    id: EntryId,
}

/// Why a zone rejects a request.
#[derive(Debug, PartialEq, Eq)]
pub enum LimitExceeded {
    /// The key is at its limit.
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

    /// Counts one more of `key`, unless there are `max` already.
    pub fn acquire(self: &Arc<Self>, key: &[u8], max: u32) -> Result<ConnGuard, LimitExceeded> {
        let mut table = self.lock();
        let id = table.find(key).or_else(|| table.insert(key)).ok_or(LimitExceeded::Zone)?;
        let count = table.value_mut(id).ok_or(LimitExceeded::Zone)?;
        if *count >= max {
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
    zones: Vec<(ZoneDefinition, ZoneState)>,
}

/// The state of a zone. It survives a reload if the new configuration has the same zone.
#[derive(Clone)]
enum ZoneState {
    Requests(Arc<RequestZone>),
    Connections(Arc<ConnectionZone>),
}

impl ZoneState {
    fn new(definition: &ZoneDefinition) -> Self {
        match definition.kind {
            ZoneKind::Requests { .. } => Self::Requests(Arc::new(RequestZone::new(definition.bytes))),
            ZoneKind::Connections => Self::Connections(Arc::new(ConnectionZone::new(definition.bytes))),
        }
    }
}

impl LimitZones {
    /// Takes over from `old` the state of zones whose name, size and key are the same.
    pub fn new(config: &Config, old: Option<&Self>) -> Self {
        let state = |zone| old.and_then(|old| old.find_state(zone)).unwrap_or_else(|| ZoneState::new(zone));
        Self { zones: config.zones.iter().map(|zone| (zone.clone(), state(zone))).collect() }
    }

    fn find_state(&self, wanted: &ZoneDefinition) -> Option<ZoneState> {
        let matches = |(zone, state): &&(ZoneDefinition, ZoneState)| {
            let kind = matches!(wanted.kind, ZoneKind::Requests { .. }) == matches!(state, ZoneState::Requests(_));
            kind && zone.name == wanted.name && zone.bytes == wanted.bytes && zone.key_source == wanted.key_source
        };
        self.zones.iter().find(matches).map(|(_, state)| state.clone())
    }

    /// Returns the zone of a `limit_req`.
    pub fn request_zone(&self, number: u32) -> Option<(&ZoneDefinition, &Arc<RequestZone>)> {
        match self.zones.get(number as usize)? {
            (definition, ZoneState::Requests(zone)) => Some((definition, zone)),
            _ => None,
        }
    }

    /// Returns the zone of a `limit_conn`.
    pub fn connection_zone(&self, number: u32) -> Option<(&ZoneDefinition, &Arc<ConnectionZone>)> {
        match self.zones.get(number as usize)? {
            (definition, ZoneState::Connections(zone)) => Some((definition, zone)),
            _ => None,
        }
    }

    /// Returns the name of a zone, if it is one of this configuration.
    pub fn zone_name(&self, zone: &Arc<ConnectionZone>) -> Option<&str> {
        self.zones.iter().find_map(|(definition, state)| match state {
            ZoneState::Connections(other) if Arc::ptr_eq(other, zone) => Some(definition.name.as_str()),
            _ => None,
        })
    }

    /// Returns the zone of a `limit_conn` by its name.
    pub fn connection_zone_named(&self, name: &str) -> Option<&Arc<ConnectionZone>> {
        self.zones.iter().find_map(|(definition, state)| match state {
            ZoneState::Connections(zone) if definition.name == name => Some(zone),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZONE_BYTES: usize = 32 * 1024;

    #[test]
    fn a_bucket_leaks_with_time_and_overflows_above_its_burst() {
        let zone = RequestZone::new(ZONE_BYTES);
        let probe = |now| zone.probe(b"a", 2000, 1000, true, now);
        assert_eq!(probe(5000), BucketVerdict::Committed { excess: 0 });
        assert_eq!(probe(5000), BucketVerdict::Committed { excess: 1000 });
        assert_eq!(probe(5000), BucketVerdict::Exceeded { excess: 2000 });
        assert_eq!(probe(5001), BucketVerdict::Exceeded { excess: 1998 });
        assert_eq!(probe(5500), BucketVerdict::Committed { excess: 1000 });
        // A rejected request is not counted, and a clock that lags behind does no harm.
        assert_eq!(probe(5400), BucketVerdict::Exceeded { excess: 2000 });
        assert_eq!(probe(7000), BucketVerdict::Committed { excess: 0 });
        assert_eq!(probe(999_999_999), BucketVerdict::Committed { excess: 0 });
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
    fn a_rolled_back_request_does_not_count() {
        let zone = RequestZone::new(ZONE_BYTES);
        let BucketVerdict::Reserved(id) = zone.probe(b"a", 1000, 0, false, 1000) else { panic!() };
        zone.rollback(id);
        let BucketVerdict::Reserved(id) = zone.probe(b"a", 1000, 1000, false, 1000) else { panic!() };
        // As in nginx: a new bucket has been leaking since the clock began.
        assert_eq!(zone.commit(id, 1000, 1000), 0);
        assert_eq!(zone.probe(b"a", 1000, 0, true, 1000), BucketVerdict::Exceeded { excess: 1000 });
    }

    #[test]
    fn a_full_zone_evicts_the_oldest_but_never_a_reserved_one() {
        let zone = RequestZone::new(ZONE_BYTES);
        let BucketVerdict::Reserved(_) = zone.probe(b"reserved", 1, 0, false, 0) else { panic!() };
        let mut rejected = 0;
        for number in 0..2000u32 {
            match zone.probe(&number.to_be_bytes(), 1, 0, true, 0) {
                BucketVerdict::ZoneFull => rejected += 1,
                verdict => assert_eq!(verdict, BucketVerdict::Committed { excess: 0 }),
            }
        }
        assert!(rejected > 1000, "the reserved one is the oldest: {rejected}");
        let zone = RequestZone::new(ZONE_BYTES);
        for number in 0..2000u32 {
            assert_eq!(zone.probe(&number.to_be_bytes(), 1, 0, true, 0), BucketVerdict::Committed { excess: 0 });
        }
        assert_eq!(zone.probe(&1999u32.to_be_bytes(), 1, 0, true, 0), BucketVerdict::Exceeded { excess: 1000 });
        assert_eq!(zone.probe(&0u32.to_be_bytes(), 1, 0, true, 0), BucketVerdict::Committed { excess: 0 });
    }

    #[test]
    fn connections_are_counted_until_they_end() {
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
        let guards: Vec<ConnGuard> =
            (0..5000u32).map_while(|number| zone.acquire(&number.to_be_bytes(), 1).ok()).collect();
        assert!(guards.len() > 200);
        assert_eq!(zone.acquire(b"new", 1).err(), Some(LimitExceeded::Zone));
        drop(guards);
        assert!(zone.acquire(b"new", 1).is_ok());
    }
}
