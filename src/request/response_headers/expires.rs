//! `Expires` and `Cache-Control` (RFC 9111 5) as set by `expires`, in nginx's format.

use std::borrow::Cow;

use crate::config::{Expires, Lifetime};
use crate::request::exchange::Exchange;
use crate::request::variables;
use crate::runtime::clock;

const DAY_SECS: u64 = 86_400;

/// The values of the two headers.
#[derive(Debug, PartialEq, Eq)]
pub struct Freshness {
    pub expires: String,
    pub cache_control: Cow<'static, str>,
}

/// Evaluates `expires` for a response with this `Last-Modified`.
pub fn for_response(exchange: &Exchange, modified: Option<u64>) -> Option<Freshness> {
    let lifetime = match exchange.settings().optional.expires.as_ref()? {
        Expires::Fixed(lifetime) => *lifetime,
        Expires::Template { template, modified } => {
            let text = variables::value(template, exchange);
            Lifetime::parse(std::str::from_utf8(&text).ok()?, *modified).ok()??
        }
    };
    Some(Freshness::compute(clock::since_epoch().as_secs(), clock::to_local, lifetime, modified))
}

impl Freshness {
    fn compute(now: u64, to_local: fn(u64) -> u64, lifetime: Lifetime, modified: Option<u64>) -> Self {
        let until = |time: u64, cache_control| Self { expires: clock::format_http_date(time), cache_control };
        let (from, secs, past) = match lifetime {
            // As nginx: one second after the epoch, which some caches take for an unknown time.
            Lifetime::Epoch => return until(1, "no-cache".into()),
            Lifetime::Max => return until(2_145_916_555, "max-age=315360000".into()),
            Lifetime::TimeOfDay(at) => {
                let now_of_day = to_local(now) % DAY_SECS;
                (now, if at > now_of_day { at - now_of_day } else { at + DAY_SECS - now_of_day }, false)
            }
            Lifetime::FromNow { secs, negative: past } => (now, secs, past),
            Lifetime::FromChange { secs, past } => (modified.unwrap_or(now), secs, past),
        };
        if secs == 0 && !matches!(lifetime, Lifetime::TimeOfDay(_)) {
            return until(now, "max-age=0".into());
        }
        let time = if past { from.saturating_sub(secs) } else { from.saturating_add(secs) };
        match time.checked_sub(now) {
            Some(age) if !past => until(time, format!("max-age={age}").into()),
            _ => until(time, "no-cache".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_become_dates_and_ages() {
        const NOW: u64 = 1_700_000_000; // Tue, 14 Nov 2023 22:13:20 GMT
        let from_now = |secs, past| Lifetime::FromNow { secs, negative: past };
        let from_change = |secs, past| Lifetime::FromChange { secs, past };
        for (lifetime, modified, expires, cache_control) in [
            (Lifetime::Epoch, None, "Thu, 01 Jan 1970 00:00:01 GMT", "no-cache"),
            (Lifetime::Max, None, "Thu, 31 Dec 2037 23:55:55 GMT", "max-age=315360000"),
            (from_now(86_400, false), Some(5), "Wed, 15 Nov 2023 22:13:20 GMT", "max-age=86400"),
            (from_now(0, false), None, "Tue, 14 Nov 2023 22:13:20 GMT", "max-age=0"),
            (from_now(1, true), None, "Tue, 14 Nov 2023 22:13:19 GMT", "no-cache"),
            (Lifetime::TimeOfDay(80_001), None, "Tue, 14 Nov 2023 22:13:21 GMT", "max-age=1"),
            (Lifetime::TimeOfDay(80_000), None, "Wed, 15 Nov 2023 22:13:20 GMT", "max-age=86400"),
            (Lifetime::TimeOfDay(0), None, "Wed, 15 Nov 2023 00:00:00 GMT", "max-age=6400"),
            (from_change(3600, false), Some(NOW - 600), "Tue, 14 Nov 2023 23:03:20 GMT", "max-age=3000"),
            (from_change(3600, false), Some(NOW - 4000), "Tue, 14 Nov 2023 22:06:40 GMT", "no-cache"),
            (from_change(3600, false), None, "Tue, 14 Nov 2023 23:13:20 GMT", "max-age=3600"),
            (from_change(60, true), Some(NOW + 3600), "Tue, 14 Nov 2023 23:12:20 GMT", "no-cache"),
        ] {
            let freshness = Freshness { expires: expires.to_owned(), cache_control: cache_control.into() };
            assert_eq!(Freshness::compute(NOW, |secs| secs, lifetime, modified), freshness, "{lifetime:?}");
        }
    }
}
