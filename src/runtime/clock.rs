//! The time of day as text, made once a second: `Date` fields and log lines.
//!
//! Times are UTC. Deadlines have nothing to do with this clock: they are of the monotonic one.

use std::cell::RefCell;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::runtime::calendar::{self, MONTHS};
use crate::runtime::executor;

/// Dates of HTTP (RFC 9110 5.6.7) in the letters of strftime(3): the form that is written, and those that are read too.
const HTTP: &str = "%a, %d %b %Y %T GMT";
const RFC850: &str = "%A, %d-%b-%y %T GMT";
const ASCTIME: &str = "%a %b %d %T %Y";
/// The last second that has a date: the end of the year 9999.
const SECS_MAX: u64 = 253_402_300_799;
/// The first of January 1970 was a Thursday.
const WEEKDAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// The texts of one second.
#[derive(Default)]
struct TimeCache {
    /// When the clock was looked at last. For a thread that is no worker it is always 0.
    turn: u32,
    second: u64,
    http: String,
    local: String,
    iso: String,
    error: String,
}

thread_local! {
    static TEXTS: RefCell<TimeCache> = RefCell::default();
}

static START: OnceLock<(Instant, Duration)> = OnceLock::new();

/// When the program began: the first call of it says so. Since 1970.
pub fn start() -> Duration {
    START.get_or_init(|| (Instant::now(), since_epoch())).1
}

/// How long the program has run.
pub fn uptime() -> Duration {
    start();
    START.get().map_or(Duration::ZERO, |(began, _)| began.elapsed())
}

/// Since 1970.
pub fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn with<R>(pick: impl FnOnce(&TimeCache) -> R) -> R {
    TEXTS.with_borrow_mut(|texts| {
        if texts.turn != executor::turn() || texts.turn == 0 {
            let second = since_epoch().as_secs();
            if texts.second != second || texts.http.is_empty() {
                *texts = TimeCache::at(second);
            }
            texts.turn = executor::turn();
        }
        pick(texts)
    })
}

impl TimeCache {
    fn at(second: u64) -> Self {
        Self {
            turn: 0,
            second,
            http: format(second, HTTP),
            local: format(second, "%d/%b/%Y:%T +0000"),
            iso: format(second, "%Y-%m-%dT%T+00:00"),
            error: format(second, "%Y/%m/%d %T"),
        }
    }
}

/// Writes a time since 1970 in the letters of strftime(3), as far as dates need them; the last one that can be told, if it
/// is later.
pub fn format(secs: u64, form: &str) -> String {
    let secs = secs.min(SECS_MAX) as i64;
    let days = secs / 86400;
    let (year, month, day) = calendar::date(days);
    let weekday = WEEKDAYS.get((days % 7) as usize).copied().unwrap_or_default();
    let mut out = String::with_capacity(32);
    let mut letters = form.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        match letters.next() {
            Some('A') => out.push_str(weekday),
            Some('a') => out.push_str(weekday.get(..3).unwrap_or_default()),
            Some('b') => out.push_str(calendar::month_name(month)),
            Some('d') => two(day, &mut out),
            Some('m') => two(month, &mut out),
            Some('Y') => {
                two(year / 100, &mut out);
                two(year, &mut out);
            }
            Some('y') => two(year, &mut out),
            Some(time @ ('R' | 'T')) => {
                two(secs / 3600 % 24, &mut out);
                out.push(':');
                two(secs / 60 % 60, &mut out);
                if time == 'T' {
                    out.push(':');
                    two(secs % 60, &mut out);
                }
            }
            _ => {}
        }
    }
    out
}

/// The last two digits of a number.
fn two(number: i64, out: &mut String) {
    out.push(char::from(b'0' + (number / 10 % 10) as u8));
    out.push(char::from(b'0' + (number % 10) as u8));
}

/// A time since 1970 in seconds as a date (RFC 9110 5.6.7).
pub fn http_time(secs: u64) -> String {
    format(secs, HTTP)
}

/// Seconds since 1970 of a date (RFC 9110 5.6.7). It is read generously; but what is no date does not come out as it was.
pub fn parse_http_time(date: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(date).ok()?.trim();
    let mut words = text.split([' ', ',', '-']).filter(|word| !word.is_empty());
    let weekday = words.next()?;
    let words = [words.next()?, words.next()?, words.next()?, words.next()?];
    let (form, [day, month, year, time]) = match words {
        [month, day, time, year] if MONTHS.contains(&month) => (ASCTIME, [day, month, year, time]),
        words if weekday.len() == 3 => (HTTP, words),
        words => (RFC850, words),
    };
    let number = |text: &str| text.parse::<u32>().ok().map(i64::from);
    let year = match number(year)? {
        year @ ..70 => year + 2000,
        year @ 70..100 => year + 1900,
        year => year,
    };
    let month = (1..).zip(MONTHS).find(|(_, name)| *name == month)?.0;
    let mut secs = calendar::days(year, month, number(day)?);
    for (part, unit) in time.splitn(3, ':').zip([24, 60, 60]) {
        secs = secs * unit + number(part)?;
    }
    let secs = u64::try_from(secs).ok()?;
    // One digit has a space before it in asctime's form.
    let padded = text.bytes().scan(0, |before, byte| {
        *before = if (*before, byte) == (b' ', b' ') { b'0' } else { byte };
        Some(*before)
    });
    format(secs, form).bytes().eq(padded).then_some(secs)
}

/// `Sat, 21 Nov 2026 03:21:00 GMT` (RFC 9110 5.6.7).
pub fn write_http(out: &mut Vec<u8>) {
    with(|texts| out.extend_from_slice(texts.http.as_bytes()));
}

/// `$time_local`.
pub fn write_local(out: &mut Vec<u8>) {
    with(|texts| out.extend_from_slice(texts.local.as_bytes()));
}

/// `$time_iso8601`.
pub fn write_iso(out: &mut Vec<u8>) {
    with(|texts| out.extend_from_slice(texts.iso.as_bytes()));
}

/// The start of a line of the error log.
pub fn error_time() -> String {
    with(|texts| texts.error.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        let texts = TimeCache::at(784_111_777);
        assert_eq!(http_time(u64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(format(784_111_777, "%d-%b-%Y %R"), "06-Nov-1994 08:49");
        assert_eq!(texts.http, "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(texts.local, "06/Nov/1994:08:49:37 +0000");
        assert_eq!(texts.iso, "1994-11-06T08:49:37+00:00");
    }

    #[test]
    fn dates_are_read_in_their_three_forms_and_no_other() {
        for (text, expected) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            (" Sunday, 06-Nov-94 08:49:37 GMT", Some(784_111_777)),
            ("Sun Nov  6 08:49:37 1994", Some(784_111_777)),
            ("Sun Nov 06 08:49:37 1994", Some(784_111_777)),
            ("Thursday, 01-Jan-70 00:00:00 GMT", Some(0)),
            ("Tue, 29 Feb 2000 00:00:00 GMT", Some(951_782_400)),
            ("Wednesday, 31-Dec-69 23:59:59 GMT", None),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(SECS_MAX)),
            ("Sat, 01 Jan 10000 00:00:00 GMT", None),
            ("Sat Jan 01 00:00:00 10000", None),
            ("Thu, 31 Dec 1969 23:59:59 GMT", None),
            ("Mon, 06 Nov 1994 08:49:37 GMT", None),
            ("Sun, 6 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49:60 GMT", None),
            ("Sun, 06 Nov 1994 8:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37", None),
            ("Sun, 06 Nov 1994 08:49:37 CET", None),
            ("Wed, 30 Feb 2000 00:00:00 GMT", None),
            ("Sun, 00 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 4294967295 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 4294967295:4294967295:4294967295 GMT", None),
            ("0", None),
            ("", None),
        ] {
            assert_eq!(parse_http_time(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        for secs in (0..SECS_MAX).step_by(86_400 * 73 + 86_399) {
            for form in [HTTP, ASCTIME] {
                assert_eq!(parse_http_time(format(secs, form).as_bytes()), Some(secs));
            }
        }
    }
}
