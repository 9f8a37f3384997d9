//! Rates of bodies: the highest for a response (`limit_rate`, `limit_rate_after`, `set $limit_rate`, `proxy_limit_rate`), and
//! the lowest for a request body (`client_body_min_rate`).
//!
//! As in nginx, the first second's bytes may be sent at once. Bytes are sent in steps of half a second: smoother than nginx's
//! steps of a second, and still few wake-ups for many slow downloads.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::config::template::Template;
use crate::config::{Level, values};
use crate::request::exchange::Exchange;
use crate::request::{log, variables};
use crate::runtime::executor::{Millis, Timer};

/// Steps in which the bytes of a second are sent.
const STEPS_PER_SECOND: u64 = 2;

/// The highest rate of a body.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    /// Bytes per second, above 0.
    rate: u64,
    /// Bytes at the start that are not limited.
    after: u64,
    began: Millis,
}

impl RateLimit {
    /// Returns how many bytes may follow the `sent` ones, at least one, or how long to wait for the next step.
    pub fn allowance(&self, sent: u64, now: Millis) -> Result<u64, Duration> {
        let allowed = self.rate.saturating_mul(now.saturating_sub(self.began).saturating_add(1000)) / 1000;
        let allowed = allowed.saturating_add(self.after);
        let allowance = allowed.saturating_sub(sent);
        let step = (self.rate / STEPS_PER_SECOND).max(1);
        if allowance >= step {
            return Ok(allowance);
        }
        let missing = sent.saturating_add(step).saturating_sub(allowed);
        Err(Duration::from_millis((missing.saturating_mul(1000) / self.rate).saturating_add(1)))
    }
}

/// Returns the limit of a response to a client.
pub fn for_client(exchange: &Exchange) -> Option<RateLimit> {
    let limits = exchange.settings().optional.limits.as_ref();
    let size = |template: Option<&Template>| template.map_or(0, |template| evaluate_size(template, exchange));
    let rate = match exchange.limits.rate {
        Some(rate) => rate,
        None => size(limits?.rate.as_ref()),
    };
    let after = if rate > 0 { size(limits.and_then(|limits| limits.rate_after.as_ref())) } else { 0 };
    (rate > 0).then_some(RateLimit { rate, after, began: exchange.began })
}

/// Returns the limit of a response from an upstream, which starts now.
pub fn for_upstream(exchange: &Exchange, now: Millis) -> Option<RateLimit> {
    let rate = evaluate_size(exchange.settings().optional.limits.as_ref()?.upstream_rate.as_ref()?, exchange);
    (rate > 0).then_some(RateLimit { rate, after: 0, began: now })
}

/// The interval of checks. The rate is that of the last two intervals, at first of one.
const CHECK_SECS: u64 = 30;

/// Detects bodies that arrive too slowly.
pub struct MinRate {
    /// Bytes per second.
    rate: u64,
    timer: Timer,
    /// The bytes received by the last check, and by the one before.
    last_bytes: u64,
    previous_bytes: Option<u64>,
    /// The upstream did not take the bytes, so the rate is not the client's.
    was_blocked: bool,
}

impl MinRate {
    /// Returns the limit of a request body, which starts now.
    pub fn for_request(exchange: &Exchange) -> Option<Self> {
        let rate = exchange.settings().optional.limits.as_ref()?.body_min_rate;
        (rate > 0).then(|| Self::new(rate))
    }

    fn new(rate: u64) -> Self {
        let timer = Timer::new();
        timer.set(Duration::from_secs(CHECK_SECS));
        Self { rate, timer, last_bytes: 0, previous_bytes: None, was_blocked: false }
    }

    /// Ready when the body is too slow. `bytes`: received so far; `is_blocked`: the upstream does not take them.
    pub fn poll_slow(&mut self, cx: &mut Context<'_>, bytes: u64, is_blocked: bool) -> Poll<()> {
        self.was_blocked |= is_blocked;
        loop {
            ready!(self.timer.poll_due(cx));
            self.timer.set(Duration::from_secs(CHECK_SECS));
            if self.is_slow(bytes) {
                return Poll::Ready(());
            }
        }
    }

    /// Checks the rate since the check before the last one.
    fn is_slow(&mut self, bytes: u64) -> bool {
        let (since, secs) =
            self.previous_bytes.map_or((self.last_bytes, CHECK_SECS), |previous| (previous, 2 * CHECK_SECS));
        let is_slow = bytes - since < self.rate.saturating_mul(secs);
        self.previous_bytes = if self.was_blocked { None } else { Some(self.last_bytes) };
        self.last_bytes = bytes;
        is_slow && !std::mem::take(&mut self.was_blocked)
    }
}

/// Evaluates a size with variables; 0 if it is invalid.
fn evaluate_size(template: &Template, exchange: &Exchange) -> u64 {
    let value = variables::value(template, exchange);
    if value.is_empty() {
        return 0;
    }
    parse_size(&value, exchange).unwrap_or(0)
}

/// Parses a size that variables produced; logs an invalid one.
pub fn parse_size(value: &[u8], exchange: &Exchange) -> Option<u64> {
    let text = String::from_utf8_lossy(value);
    let size = values::size(&text);
    if size.is_none() {
        log::log_request(exchange, Level::Error, format_args!("invalid size \"{text}\""));
    }
    size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_a_minute_or_its_first_half() {
        let first_slow = |bytes: &[u64]| {
            let mut rate = MinRate::new(10);
            bytes.iter().position(|bytes| rate.is_slow(*bytes))
        };
        assert_eq!(first_slow(&[299]), Some(0));
        assert_eq!(first_slow(&[300, 600, 900]), None);
        // A pause of half a minute is balanced by the interval before or after it.
        assert_eq!(first_slow(&[600, 600, 1200, 1200, 1799]), Some(4));
        assert_eq!(first_slow(&[600, 600, 600]), Some(2));
        let mut rate = MinRate::new(10);
        rate.was_blocked = true;
        assert!(!rate.is_slow(0));
        assert!(!rate.is_slow(300));
        assert!(rate.is_slow(599));
    }

    #[test]
    fn the_first_second_may_be_sent_at_once() {
        let limit = RateLimit { rate: 1000, after: 300, began: 5000 };
        assert_eq!(limit.allowance(0, 5000), Ok(1300));
        assert_eq!(limit.allowance(1300, 5000), Err(Duration::from_millis(501)));
        assert_eq!(limit.allowance(1300, 5499), Err(Duration::from_millis(2)));
        assert_eq!(limit.allowance(1300, 5500), Ok(500));
        assert_eq!(limit.allowance(1300, 7000), Ok(2000));
        // Bytes sent in excess delay the next step.
        assert_eq!(limit.allowance(3300, 5000), Err(Duration::from_millis(2501)));
        let slow = RateLimit { rate: 1, after: 0, began: 0 };
        assert_eq!(slow.allowance(1, 0), Err(Duration::from_millis(1001)));
        assert!(slow.allowance(u64::MAX, u64::MAX).is_err());
    }
}
