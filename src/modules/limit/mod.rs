//! What a location limits, asked of one request: may it pass (`limit_req`, `limit_conn`), and how fast may its answer go
//! (`limit_rate`).

pub(crate) mod conf;

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use crate::config::template::Template;
use crate::config::{Level, Limits, ZoneKind};
use crate::request::exchange::Exchange;
use crate::request::limit_zones::{BucketVerdict, LimitExceeded, LimitStatus, LimitZones, RequestZone};
use crate::request::{log, variables};
use crate::runtime::executor::{self, Timer};
use crate::runtime::lru_table::EntryId;
use crate::runtime::socket::Socket;

/// Bytes of a key; a request with a longer one is not limited, as in nginx.
const REQUEST_KEY_BYTES_MAX: usize = 65535;
const CONNECTION_KEY_BYTES_MAX: usize = 255;

/// Lets a request through, at once or after a while, or refuses it with a status. 499: the client did not wait.
pub async fn apply(exchange: &mut Exchange, zones: &LimitZones, timer: &Timer, client: &Socket) -> Result<(), u16> {
    if exchange.settings().rare.limits.is_none() {
        return Ok(());
    }
    let rare = exchange.settings().rare.clone();
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

/// Waits, unless the client goes meanwhile: one that ends its side counts as gone here, as in nginx.
pub async fn delay_request(exchange: &Exchange, timer: &Timer, client: &Socket, delay: Duration) -> Result<(), u16> {
    timer.set(delay);
    let gone = poll_fn(|cx| {
        if client.ended() || client.poll_failed(cx).is_ready() {
            return Poll::Ready(true);
        }
        timer.poll_due(cx).map(|()| false)
    })
    .await;
    if gone {
        log::log_request(
            exchange,
            Level::Info,
            format_args!("client prematurely closed connection while it was delayed"),
        );
        return Err(499);
    }
    Ok(())
}

/// A bucket that has room for the request, as long as the others are not asked yet.
struct Reservation<'r> {
    zone: &'r RequestZone,
    name: &'r str,
    id: EntryId,
    rate: u64,
    delay: u64,
}

/// Asks all buckets, and pours the request into all of them or none: how long it has to wait.
fn limit_req(exchange: &mut Exchange, limits: &Limits, zones: &LimitZones) -> Result<Option<Duration>, u16> {
    let now = executor::now();
    let mut waiting: Vec<Reservation<'_>> = Vec::new();
    // The longest delay in milliseconds, with what is in the bucket and its name.
    let mut longest = (0, 0, "");
    let mut asked = false;
    for (at, limit) in limits.requests.iter().enumerate() {
        let Some((spec, zone)) = zones.request_zone(limit.zone) else { continue };
        let ZoneKind::Requests { rate } = spec.counted else { continue };
        let Some(key) = evaluate_key(exchange, &spec.key, REQUEST_KEY_BYTES_MAX) else { continue };
        asked = true;
        let last = at + 1 == limits.requests.len();
        match zone.probe(&key, rate, limit.burst, last, now) {
            BucketVerdict::Committed { excess } => {
                longest = (delay_millis(excess, limit.delay, rate), excess, spec.name.as_str())
            }
            BucketVerdict::Reserved(id) => {
                waiting.push(Reservation { zone, name: &spec.name, id, rate, delay: limit.delay })
            }
            refused => {
                waiting.iter().for_each(|other| other.zone.rollback(other.id));
                return reject_request(exchange, limits, &refused, &spec.name);
            }
        }
    }
    if !asked {
        return Ok(None);
    }
    for other in waiting.iter().rev() {
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
    let dry = limits.request_dry_run;
    log::log_request(
        exchange,
        one_level_lower(limits.request_level),
        format_args!(
            "delaying request{}, excess: {}.{:03}, by zone \"{name}\"",
            dry_run_suffix(dry),
            excess / 1000,
            excess % 1000
        ),
    );
    exchange.limits.requests = Some(if dry { LimitStatus::DelayedDryRun } else { LimitStatus::Delayed });
    Ok((!dry).then_some(Duration::from_millis(millis)))
}

fn reject_request(
    exchange: &mut Exchange,
    limits: &Limits,
    refused: &BucketVerdict,
    name: &str,
) -> Result<Option<Duration>, u16> {
    let dry = limits.request_dry_run;
    match refused {
        BucketVerdict::Exceeded { excess } => log::log_request(
            exchange,
            limits.request_level,
            format_args!(
                "limiting requests{}, excess: {}.{:03} by zone \"{name}\"",
                dry_run_suffix(dry),
                excess / 1000,
                excess % 1000
            ),
        ),
        _ => log::log_request(exchange, Level::Alert, format_args!("zone \"{name}\" is too small for another key")),
    }
    exchange.limits.requests = Some(if dry { LimitStatus::RejectedDryRun } else { LimitStatus::Rejected });
    if dry { Ok(None) } else { Err(limits.request_status) }
}

/// Milliseconds until what is above `delay` has leaked.
fn delay_millis(excess: u64, delay: u64, rate: u64) -> u64 {
    (excess.saturating_sub(delay) * 1000).checked_div(rate).unwrap_or(0)
}

/// The next level down.
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

/// The key of a zone; a request without one is not limited.
fn evaluate_key(exchange: &Exchange, key: &Template, bytes_max: usize) -> Option<Vec<u8>> {
    let key = variables::value(key, exchange);
    if key.len() > bytes_max {
        log::log_request(
            exchange,
            Level::Error,
            format_args!("the key of a limit is more than {bytes_max} bytes long"),
        );
        return None;
    }
    (!key.is_empty()).then_some(key)
}

/// Counts the request in all zones, or in none if one is full.
fn limit_conn(exchange: &mut Exchange, limits: &Limits, zones: &LimitZones) -> Result<(), u16> {
    let mut held = Vec::new();
    let mut asked = false;
    for limit in &limits.connections {
        let Some((spec, zone)) = zones.connection_zone(limit.zone) else { continue };
        let Some(key) = evaluate_key(exchange, &spec.key, CONNECTION_KEY_BYTES_MAX) else { continue };
        asked = true;
        match zone.acquire(&key, limit.most) {
            Ok(one) => held.push(one),
            Err(full) => return reject_connection(exchange, limits, &full, &spec.name),
        }
    }
    if asked {
        exchange.limits.connections = Some(LimitStatus::Passed);
        exchange.limits.conn_guards = held;
    }
    Ok(())
}

fn reject_connection(exchange: &mut Exchange, limits: &Limits, full: &LimitExceeded, name: &str) -> Result<(), u16> {
    let dry = limits.connection_dry_run;
    match full {
        LimitExceeded::Key => log::log_request(
            exchange,
            limits.connection_level,
            format_args!("limiting connections{} by zone \"{name}\"", dry_run_suffix(dry)),
        ),
        LimitExceeded::Zone => {
            log::log_request(exchange, Level::Alert, format_args!("zone \"{name}\" is too small for another key"))
        }
    }
    exchange.limits.connections = Some(if dry { LimitStatus::RejectedDryRun } else { LimitStatus::Rejected });
    if dry { Ok(()) } else { Err(limits.connection_status) }
}
