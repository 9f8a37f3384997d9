//! How fast an answer may go: `limit_rate`, `limit_rate_after`, `set $limit_rate`, `proxy_limit_rate`.
//!
//! What may go is earned by time, a second of it in advance, as in nginx. It goes in steps of half a second: smoother than
//! nginx's whole ones, and still few wake-ups for many slow downloads.
//!
//! And how slowly a request's body may come: `client_body_min_rate`.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::config::template::Template;
use crate::config::{Level, values};
use crate::request::exchange::Exchange;
use crate::request::{log, variables};
use crate::runtime::executor::{Millis, Timer};

/// Steps in which a second's worth is sent.
const STEPS_PER_SECOND: u64 = 2;

/// How fast bytes may go.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    /// Bytes a second, more than 0.
    rate: u64,
    /// Bytes that are not counted.
    after: u64,
    began: Millis,
}

impl RateLimit {
    /// How many more bytes may go when `sent` have gone, at least one; or how long to wait for the next step.
    pub fn allowance(&self, sent: u64, now: Millis) -> Result<u64, Duration> {
        let earned = self.rate.saturating_mul(now.saturating_sub(self.began).saturating_add(1000)) / 1000;
        let earned = earned.saturating_add(self.after);
        let room = earned.saturating_sub(sent);
        let step = (self.rate / STEPS_PER_SECOND).max(1);
        if room >= step {
            return Ok(room);
        }
        let missing = sent.saturating_add(step).saturating_sub(earned);
        Err(Duration::from_millis((missing.saturating_mul(1000) / self.rate).saturating_add(1)))
    }
}

/// The pace of an answer to its client.
pub fn for_client(exchange: &Exchange) -> Option<RateLimit> {
    let limits = exchange.settings().rare.limits.as_ref();
    let size = |template: Option<&Template>| template.map_or(0, |template| evaluate_size(template, exchange));
    let rate = match exchange.limits.rate {
        Some(rate) => rate,
        None => size(limits?.rate.as_ref()),
    };
    let after = if rate > 0 { size(limits.and_then(|limits| limits.rate_after.as_ref())) } else { 0 };
    (rate > 0).then_some(RateLimit { rate, after, began: exchange.began })
}

/// The pace at which an answer is taken from its upstream, from now on.
pub fn for_upstream(exchange: &Exchange, now: Millis) -> Option<RateLimit> {
    let rate = evaluate_size(exchange.settings().rare.limits.as_ref()?.upstream_rate.as_ref()?, exchange);
    (rate > 0).then_some(RateLimit { rate, after: 0, began: now })
}

/// How often the rate of a body is looked at. It counts over two of these, or over the first one.
const CHECK_SECS: u64 = 30;

/// Finds bodies that come more slowly than allowed.
pub struct MinRate {
    /// Bytes a second.
    rate: u64,
    timer: Timer,
    /// Bytes that had come at the last look, and at the one before.
    last_bytes: u64,
    previous_bytes: Option<u64>,
    /// The receiver did not take the bytes: the client is not to blame.
    blocked: bool,
}

impl MinRate {
    /// What the settings of a request say, from now on.
    pub fn for_request(exchange: &Exchange) -> Option<Self> {
        let rate = exchange.settings().rare.limits.as_ref()?.body_min_rate;
        (rate > 0).then(|| Self::new(rate))
    }

    fn new(rate: u64) -> Self {
        let timer = Timer::new();
        timer.set(Duration::from_secs(CHECK_SECS));
        Self { rate, timer, last_bytes: 0, previous_bytes: None, blocked: false }
    }

    /// Ready when the body comes too slowly; `bytes` of it have come, and its receiver may not take them.
    pub fn poll_slow(&mut self, cx: &mut Context<'_>, bytes: u64, held_up: bool) -> Poll<()> {
        self.blocked |= held_up;
        loop {
            ready!(self.timer.poll_due(cx));
            self.timer.set(Duration::from_secs(CHECK_SECS));
            if self.is_slow(bytes) {
                return Poll::Ready(());
            }
        }
    }

    /// Whether fewer bytes came since the look before the last one than should have. The next look goes on from here.
    fn is_slow(&mut self, bytes: u64) -> bool {
        let (since, secs) =
            self.previous_bytes.map_or((self.last_bytes, CHECK_SECS), |before| (before, 2 * CHECK_SECS));
        let slow = bytes - since < self.rate.saturating_mul(secs);
        self.previous_bytes = if self.blocked { None } else { Some(self.last_bytes) };
        self.last_bytes = bytes;
        slow && !std::mem::take(&mut self.blocked)
    }
}

/// What a value with variables comes to; 0 if it is no size.
fn evaluate_size(template: &Template, exchange: &Exchange) -> u64 {
    let value = variables::value(template, exchange);
    if value.is_empty() {
        return 0;
    }
    parse_size(&value, exchange).unwrap_or(0)
}

/// Reads a size that a request made; what is none is told in the log.
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
    fn a_body_counts_over_a_minute_or_its_first_half() {
        let looks = |bytes: &[u64]| {
            let mut rate = MinRate::new(10);
            bytes.iter().position(|bytes| rate.is_slow(*bytes))
        };
        assert_eq!(looks(&[299]), Some(0));
        assert_eq!(looks(&[300, 600, 900]), None);
        // A pause of half a minute is made up for by what came before it, and by what comes after it.
        assert_eq!(looks(&[600, 600, 1200, 1200, 1799]), Some(4));
        assert_eq!(looks(&[600, 600, 600]), Some(2));
        let mut rate = MinRate::new(10);
        rate.blocked = true;
        assert!(!rate.is_slow(0));
        assert!(!rate.is_slow(300));
        assert!(rate.is_slow(599));
    }

    #[test]
    fn a_second_is_given_in_advance_and_the_rest_is_earned() {
        let pace = RateLimit { rate: 1000, after: 300, began: 5000 };
        assert_eq!(pace.allowance(0, 5000), Ok(1300));
        assert_eq!(pace.allowance(1300, 5000), Err(Duration::from_millis(501)));
        assert_eq!(pace.allowance(1300, 5499), Err(Duration::from_millis(2)));
        assert_eq!(pace.allowance(1300, 5500), Ok(500));
        assert_eq!(pace.allowance(1300, 7000), Ok(2000));
        // A receiver that took more at once than was meant for it waits the longer.
        assert_eq!(pace.allowance(3300, 5000), Err(Duration::from_millis(2501)));
        let slow = RateLimit { rate: 1, after: 0, began: 0 };
        assert_eq!(slow.allowance(1, 0), Err(Duration::from_millis(1001)));
        assert!(slow.allowance(u64::MAX, u64::MAX).is_err());
    }
}
