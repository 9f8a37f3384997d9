//! The time of day as text, made once a second: `Date` fields and log lines.
//!
//! Times are UTC. Deadlines have nothing to do with this clock: they are of the monotonic one.

use std::cell::RefCell;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::runtime::calendar::{self, MONTHS};
use crate::runtime::executor;

/// Dates of HTTP (RFC 9110 5.6.7) in the letters of strftime(3): the form that is written, and those that are read too.
const IMF_FIXDATE: &str = "%a, %d %b %Y %T GMT";
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
    tick: u32,
    second: u64,
    http_date: String,
    time_local: String,
    time_iso8601: String,
    error_log: String,
}

thread_local! {
    static TIME_CACHE: RefCell<TimeCache> = RefCell::default();
}

static STARTED: OnceLock<(Instant, Duration)> = OnceLock::new();

/// When the program began: the first call of it says so. Since 1970.
pub fn start_time() -> Duration {
    STARTED.get_or_init(|| (Instant::now(), since_epoch())).1
}

/// How long the program has run.
pub fn uptime() -> Duration {
    start_time();
    STARTED.get().map_or(Duration::ZERO, |(began, _)| began.elapsed())
}

/// Since 1970.
pub fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn with_cache<R>(pick: impl FnOnce(&TimeCache) -> R) -> R {
    TIME_CACHE.with_borrow_mut(|texts| {
        if texts.tick != executor::tick() || texts.tick == 0 {
            let second = since_epoch().as_secs();
            if texts.second != second || texts.http_date.is_empty() {
                *texts = TimeCache::for_second(second);
            }
            texts.tick = executor::tick();
        }
        pick(texts)
    })
}

impl TimeCache {
    fn for_second(second: u64) -> Self {
        Self {
            tick: 0,
            second,
            http_date: format(second, IMF_FIXDATE),
            time_local: format(second, "%d/%b/%Y:%T +0000"),
            time_iso8601: format(second, "%Y-%m-%dT%T+00:00"),
            error_log: format(second, "%Y/%m/%d %T"),
        }
    }
}

/// Writes a time since 1970 in the letters of strftime(3), as far as dates need them; the last one that can be told, if it
/// is later.
pub fn format(secs: u64, form: &str) -> String {
    let secs = secs.min(SECS_MAX) as i64;
    let days = secs / 86400;
    let (year, month, day) = calendar::civil_from_days(days);
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
            Some('d') => write_two_digits(day, &mut out),
            Some('m') => write_two_digits(month, &mut out),
            Some('Y') => {
                write_two_digits(year / 100, &mut out);
                write_two_digits(year, &mut out);
            }
            Some('y') => write_two_digits(year, &mut out),
            Some(time @ ('R' | 'T')) => {
                write_two_digits(secs / 3600 % 24, &mut out);
                out.push(':');
                write_two_digits(secs / 60 % 60, &mut out);
                if time == 'T' {
                    out.push(':');
                    write_two_digits(secs % 60, &mut out);
                }
            }
            _ => {}
        }
    }
    out
}

/// The last two digits of a number.
fn write_two_digits(number: i64, out: &mut String) {
    out.push(char::from(b'0' + (number / 10 % 10) as u8));
    out.push(char::from(b'0' + (number % 10) as u8));
}

/// A time since 1970 in seconds as a date (RFC 9110 5.6.7).
pub fn format_http_date(secs: u64) -> String {
    format(secs, IMF_FIXDATE)
}

/// Seconds since 1970 of a date (RFC 9110 5.6.7). It is read generously; but what is no date does not come out as it was.
pub fn parse_http_date(date: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(date).ok()?.trim();
    let mut words = text.split([' ', ',', '-']).filter(|word| !word.is_empty());
    let weekday = words.next()?;
    let words = [words.next()?, words.next()?, words.next()?, words.next()?];
    let (form, [day, month, year, time]) = match words {
        [month, day, time, year] if MONTHS.contains(&month) => (ASCTIME, [day, month, year, time]),
        words if weekday.len() == 3 => (IMF_FIXDATE, words),
        words => (RFC850, words),
    };
    let number = |text: &str| text.parse::<u32>().ok().map(i64::from);
    let year = match number(year)? {
        year @ ..70 => year + 2000,
        year @ 70..100 => year + 1900,
        year => year,
    };
    let month = (1..).zip(MONTHS).find(|(_, name)| *name == month)?.0;
    let mut secs = calendar::days_from_civil(year, month, number(day)?);
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
pub fn write_http_date(out: &mut Vec<u8>) {
    with_cache(|texts| out.extend_from_slice(texts.http_date.as_bytes()));
}

/// `$time_local`.
pub fn write_time_local(out: &mut Vec<u8>) {
    with_cache(|texts| out.extend_from_slice(texts.time_local.as_bytes()));
}

/// `$time_iso8601`.
pub fn write_time_iso8601(out: &mut Vec<u8>) {
    with_cache(|texts| out.extend_from_slice(texts.time_iso8601.as_bytes()));
}

/// The start of a line of the error log.
pub fn error_log_time() -> String {
    with_cache(|texts| texts.error_log.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        let texts = TimeCache::for_second(784_111_777);
        assert_eq!(format_http_date(u64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(format(784_111_777, "%d-%b-%Y %R"), "06-Nov-1994 08:49");
        assert_eq!(texts.http_date, "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(texts.time_local, "06/Nov/1994:08:49:37 +0000");
        assert_eq!(texts.time_iso8601, "1994-11-06T08:49:37+00:00");
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
            assert_eq!(parse_http_date(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        for secs in (0..SECS_MAX).step_by(86_400 * 73 + 86_399) {
            for form in [IMF_FIXDATE, ASCTIME] {
                assert_eq!(parse_http_date(format(secs, form).as_bytes()), Some(secs));
            }
        }
    }
}
