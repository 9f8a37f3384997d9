//! `limit_req` and `limit_conn`: delays or rejects a request by the zones of its location. The zones are in
//! [`crate::request::limit_zones`].

pub(crate) mod conf;

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use crate::config::{Level, LimitSettings, ZoneDefinition, ZoneKind};
use crate::request::exchange::Exchange;
use crate::request::limit_zones::{BucketVerdict, LimitExceeded, LimitStatus, LimitZones, RequestZone};
use crate::request::{log, variables};
use crate::runtime::executor::{self, Timer};
use crate::runtime::lru_table::EntryId;
use crate::runtime::socket::Socket;

/// A request whose key is longer is not limited, as in nginx.
const REQUEST_KEY_BYTES_MAX: usize = 65535;
const CONNECTION_KEY_BYTES_MAX: usize = 255;

/// Admits a request, maybe after a delay, or returns the status to reject it with; 499: the client closed meanwhile.
pub async fn apply(exchange: &mut Exchange, zones: &LimitZones, timer: &Timer, client: &Socket) -> Result<(), u16> {
    if exchange.settings().optional.limits.is_none() {
        return Ok(());
    }
    let rare = exchange.settings().optional.clone();
    let Some(limits) = &rare.limits else { return Ok(()) };
    if !limits.requests.is_empty()
        && exchange.limits.requests.is_none()
        && let Some(delay) = limit_req(exchange, limits, zones)?
    {
        delay_request(exchange, timer, client, delay).await?;
    }
    if !limits.connections.is_empty() && exchange.limits.connections.is_none() {
        limit_conn(exchange, limits, zones)?;
    }
    Ok(())
}

/// Waits, unless the client closes meanwhile. A half-close counts as one here, as in nginx.
pub async fn delay_request(exchange: &Exchange, timer: &Timer, client: &Socket, delay: Duration) -> Result<(), u16> {
    timer.set(delay);
    let is_closed = poll_fn(|cx| {
        if client.poll_peer_closed(cx).is_ready() {
            return Poll::Ready(true);
        }
        timer.poll_due(cx).map(|()| false)
    })
    .await;
    if is_closed {
        log::log_request(
            exchange,
            Level::Info,
            format_args!("client prematurely closed connection while its request was delayed"),
        );
        return Err(499);
    }
    Ok(())
}

/// A bucket with room for the request, until all the others have been probed.
struct Reservation<'r> {
    zone: &'r RequestZone,
    name: &'r str,
    id: EntryId,
    rate: u64,
    delay: u64,
}

/// Adds the request to all buckets or to none, and returns the longest delay.
fn limit_req(exchange: &mut Exchange, limits: &LimitSettings, zones: &LimitZones) -> Result<Option<Duration>, u16> {
    let now = executor::now();
    let mut reservations: Vec<Reservation<'_>> = Vec::new();
    // The longest delay in milliseconds, with the excess and the name of its zone.
    let mut longest = (0, 0, "");
    let mut is_limited = false;
    for (at, limit) in limits.requests.iter().enumerate() {
        let Some((spec, zone)) = zones.request_zone(limit.zone) else { continue };
        let ZoneKind::Requests { rate } = spec.kind else { continue };
        let Some(key) = evaluate_key(exchange, spec, REQUEST_KEY_BYTES_MAX) else { continue };
        is_limited = true;
        let is_last = at + 1 == limits.requests.len();
        match zone.probe(&key, rate, limit.burst, is_last, now) {
            BucketVerdict::Committed { excess } => {
                longest = (delay_millis(excess, limit.delay, rate), excess, spec.name.as_str())
            }
            BucketVerdict::Reserved(id) => {
                reservations.push(Reservation { zone, name: &spec.name, id, rate, delay: limit.delay })
            }
            verdict => {
                reservations.iter().for_each(|other| other.zone.rollback(other.id));
                return reject_request(exchange, limits, &verdict, &spec.name);
            }
        }
    }
    if !is_limited {
        return Ok(None);
    }
    for other in reservations.iter().rev() {
        let excess = other.zone.commit(other.id, other.rate, now);
        let delay = delay_millis(excess, other.delay, other.rate);
        if delay > longest.0 {
            longest = (delay, excess, other.name);
        }
    }
    let (millis, excess, name) = longest;
    if millis == 0 {
        exchange.limits.requests = Some(LimitStatus::Passed);
        return Ok(None);
    }
    let dry_run = limits.request_dry_run;
    log::log_request(
        exchange,
        one_level_lower(limits.request_level),
        format_args!(
            "delaying request{}, excess: {}.{:03}, by zone \"{name}\"",
            dry_run_suffix(dry_run),
            excess / 1000,
            excess % 1000
        ),
    );
    exchange.limits.requests = Some(if dry_run { LimitStatus::DelayedDryRun } else { LimitStatus::Delayed });
    Ok((!dry_run).then_some(Duration::from_millis(millis)))
}

fn reject_request(
    exchange: &mut Exchange,
    limits: &LimitSettings,
    verdict: &BucketVerdict,
    name: &str,
) -> Result<Option<Duration>, u16> {
    let dry_run = limits.request_dry_run;
    match verdict {
        BucketVerdict::Exceeded { excess } => log::log_request(
            exchange,
            limits.request_level,
            format_args!(
                "limiting requests{}, excess: {}.{:03} by zone \"{name}\"",
                dry_run_suffix(dry_run),
                excess / 1000,
                excess % 1000
            ),
        ),
        _ => log::log_request(exchange, Level::Alert, format_args!("zone \"{name}\" is too small for another key")),
    }
    exchange.limits.requests = Some(if dry_run { LimitStatus::RejectedDryRun } else { LimitStatus::Rejected });
    if dry_run { Ok(None) } else { Err(limits.request_status) }
}

/// Milliseconds until the excess above `delay` has leaked.
fn delay_millis(excess: u64, delay: u64, rate: u64) -> u64 {
    (excess.saturating_sub(delay) * 1000).checked_div(rate).unwrap_or(0)
}

fn one_level_lower(level: Level) -> Level {
    match level {
        Level::Error => Level::Warn,
        Level::Warn => Level::Notice,
        _ => Level::Info,
    }
}

fn dry_run_suffix(dry_run: bool) -> &'static str {
    if dry_run { ", dry run" } else { "" }
}

/// Evaluates the key of a zone; a request with an empty or too long one is not limited.
fn evaluate_key(exchange: &Exchange, zone: &ZoneDefinition, bytes_max: usize) -> Option<Vec<u8>> {
    let (key, name) = (variables::value(&zone.key, exchange), &zone.name);
    if key.len() > bytes_max {
        log::log_request(
            exchange,
            Level::Error,
            format_args!("the key of zone \"{name}\" is longer than {bytes_max} bytes, request not limited"),
        );
        return None;
    }
    (!key.is_empty()).then_some(key)
}

/// Counts the request in all zones, or in none if one is at its limit.
fn limit_conn(exchange: &mut Exchange, limits: &LimitSettings, zones: &LimitZones) -> Result<(), u16> {
    let mut guards = Vec::new();
    let mut is_limited = false;
    for limit in &limits.connections {
        let Some((spec, zone)) = zones.connection_zone(limit.zone) else { continue };
        let Some(key) = evaluate_key(exchange, spec, CONNECTION_KEY_BYTES_MAX) else { continue };
        is_limited = true;
        match zone.acquire(&key, limit.max) {
            Ok(guard) => guards.push(guard),
            Err(exceeded) => return reject_connection(exchange, limits, &exceeded, &spec.name),
        }
    }
    if is_limited {
        exchange.limits.connections = Some(LimitStatus::Passed);
        exchange.limits.conn_guards = guards;
    }
    Ok(())
}

fn reject_connection(
    exchange: &mut Exchange,
    limits: &LimitSettings,
    exceeded: &LimitExceeded,
    name: &str,
) -> Result<(), u16> {
    let dry_run = limits.connection_dry_run;
    match exceeded {
        LimitExceeded::Key => log::log_request(
            exchange,
            limits.connection_level,
            format_args!("limiting connections{} by zone \"{name}\"", dry_run_suffix(dry_run)),
        ),
        LimitExceeded::Zone => {
            log::log_request(exchange, Level::Alert, format_args!("zone \"{name}\" is too small for another key"))
        }
    }
    exchange.limits.connections = Some(if dry_run { LimitStatus::RejectedDryRun } else { LimitStatus::Rejected });
    if dry_run { Ok(()) } else { Err(limits.connection_status) }
}
