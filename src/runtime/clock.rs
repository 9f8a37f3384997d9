//! The time of day as text, formatted at most once a second: `Date` headers and log lines.
//!
//! HTTP dates are UTC; logs have the time zone of the machine. Deadlines are independent of this clock: they use the
//! monotonic one.

use std::cell::RefCell;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::runtime::calendar::{self, MONTHS};
use crate::runtime::executor;

/// The date formats of HTTP (RFC 9110 5.6.7) in the conversions of strftime(3). IMF-fixdate is written, all three are
/// parsed.
const IMF_FIXDATE: &str = "%a, %d %b %Y %T GMT";
const RFC850: &str = "%A, %d-%b-%y %T GMT";
const ASCTIME: &str = "%a %b %d %T %Y";
/// Time zones by name.
const ZONEINFO_DIRECTORY: &str = "/usr/share/zoneinfo";
/// The zone of the machine in the format of tzfile(5).
const LOCALTIME: &str = "/etc/localtime";
/// The zone of an OpenWrt machine as a value of TZ.
const OPENWRT_TZ: &str = "/etc/TZ";
/// The last second that is formatted: the end of the year 9999.
const SECS_MAX: u64 = 253_402_300_799;
/// 1 January 1970 was a Thursday.
const WEEKDAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// The formatted times of one second.
#[derive(Default)]
struct TimeCache {
    /// Tick of the last clock reading. Always 0 in a thread that is not a worker.
    tick: u32,
    second: u64,
    http_date: String,
    time_local: String,
    time_iso8601: String,
    error_log: String,
    syslog: String,
}

thread_local! {
    static TIME_CACHE: RefCell<TimeCache> = RefCell::default();
}

/// The zone of logs, read once.
static ZONE: OnceLock<TimeZone> = OnceLock::new();

static STARTED: OnceLock<(Instant, Duration)> = OnceLock::new();

/// Returns the time since 1970 at which the program started; the first call sets it.
pub fn start_time() -> Duration {
    STARTED.get_or_init(|| (Instant::now(), since_epoch())).1
}

/// Returns how long the program has been running.
pub fn uptime() -> Duration {
    start_time();
    STARTED.get().map_or(Duration::ZERO, |(started, _)| started.elapsed())
}

/// Returns the time since 1970.
pub fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn with_cache<R>(pick: impl FnOnce(&TimeCache) -> R) -> R {
    TIME_CACHE.with_borrow_mut(|cache| {
        if cache.tick != executor::tick() || cache.tick == 0 {
            let second = since_epoch().as_secs();
            if cache.second != second || cache.http_date.is_empty() {
                *cache = TimeCache::for_second(second, zone());
            }
            cache.tick = executor::tick();
        }
        pick(cache)
    })
}

impl TimeCache {
    fn for_second(second: u64, zone: &TimeZone) -> Self {
        let offset = offset_secs(second, zone);
        let local = second.saturating_add_signed(offset);
        let (sign, minutes) = (if offset < 0 { '-' } else { '+' }, offset.unsigned_abs() / 60);
        let (hours, minutes) = (minutes / 60, minutes % 60);
        Self {
            tick: 0,
            second,
            http_date: format(second, IMF_FIXDATE),
            time_local: std::format!("{} {sign}{hours:02}{minutes:02}", format(local, "%d/%b/%Y:%T")),
            time_iso8601: std::format!("{}{sign}{hours:02}:{minutes:02}", format(local, "%Y-%m-%dT%T")),
            error_log: format(local, "%Y/%m/%d %T"),
            syslog: format(local, "%b %e %T"),
        }
    }
}

/// Returns how many seconds the local time is ahead of UTC.
fn offset_secs(secs: u64, zone: &TimeZone) -> i64 {
    let timestamp = Timestamp::from_second(secs.min(SECS_MAX) as i64).unwrap_or_default();
    zone.to_offset(timestamp).seconds().into()
}

fn zone() -> &'static TimeZone {
    ZONE.get_or_init(|| {
        let found = match std::env::var("TZ") {
            Ok(text) => parse_zone(&text),
            Err(_) => {
                read_zone(Path::new(LOCALTIME)).or_else(|| parse_zone(&std::fs::read_to_string(OPENWRT_TZ).ok()?))
            }
        };
        found.unwrap_or(TimeZone::UTC)
    })
}

/// Parses a value of TZ: a rule (`CET-1CEST,M3.5.0,M10.5.0/3`), or the name or path of a file, also after a colon.
fn parse_zone(text: &str) -> Option<TimeZone> {
    let text = text.trim();
    let name = text.strip_prefix(':').unwrap_or(text);
    TimeZone::posix(name).ok().or_else(|| read_zone(&Path::new(ZONEINFO_DIRECTORY).join(name)))
}

fn read_zone(path: &Path) -> Option<TimeZone> {
    TimeZone::tzif("", &std::fs::read(path).ok()?).ok()
}

/// Returns a time since 1970 as a time that [`format`] writes in the zone of the machine.
pub fn to_local(secs: u64) -> u64 {
    secs.saturating_add_signed(offset_secs(secs, zone()))
}

/// Formats seconds since 1970 by the conversions of strftime(3) that dates need. A time beyond `SECS_MAX` is clamped.
pub fn format(secs: u64, format_string: &str) -> String {
    let secs = secs.min(SECS_MAX) as i64;
    let days = secs / 86400;
    let (year, month, day) = calendar::civil_from_days(days);
    let weekday = WEEKDAYS.get((days % 7) as usize).copied().unwrap_or_default();
    let mut out = String::with_capacity(32);
    let mut chars = format_string.chars();
    while let Some(char) = chars.next() {
        if char != '%' {
            out.push(char);
            continue;
        }
        match chars.next() {
            Some('A') => out.push_str(weekday),
            Some('a') => out.push_str(weekday.get(..3).unwrap_or_default()),
            Some('b') => out.push_str(calendar::month_name(month)),
            Some('d') => write_two_digits(day, &mut out),
            Some('e') => out.push_str(&format!("{day:2}")),
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

/// Appends the last two digits of a number.
fn write_two_digits(number: i64, out: &mut String) {
    out.push(char::from(b'0' + (number / 10 % 10) as u8));
    out.push(char::from(b'0' + (number % 10) as u8));
}

/// Formats seconds since 1970 as an HTTP date (RFC 9110 5.6.7).
pub fn format_http_date(secs: u64) -> String {
    format(secs, IMF_FIXDATE)
}

/// Parses an HTTP date (RFC 9110 5.6.7) to seconds since 1970. The parser is lenient, but then rejects what differs
/// from its own output.
pub fn parse_http_date(date: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(date).ok()?.trim();
    let mut words = text.split([' ', ',', '-']).filter(|word| !word.is_empty());
    let weekday = words.next()?;
    let words = [words.next()?, words.next()?, words.next()?, words.next()?];
    let (format_string, [day, month, year, time]) = match words {
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
    // asctime pads a one-digit day with a space.
    let padded = text.bytes().scan(0, |before, byte| {
        *before = if (*before, byte) == (b' ', b' ') { b'0' } else { byte };
        Some(*before)
    });
    format(secs, format_string).bytes().eq(padded).then_some(secs)
}

/// Appends the current time as an HTTP date: `Sat, 21 Nov 2026 03:21:00 GMT` (RFC 9110 5.6.7).
pub fn write_http_date(out: &mut Vec<u8>) {
    with_cache(|cache| out.extend_from_slice(cache.http_date.as_bytes()));
}

/// Appends the current time as in `$time_local`: `21/Nov/2026:04:21:00 +0100`.
pub fn write_time_local(out: &mut Vec<u8>) {
    with_cache(|cache| out.extend_from_slice(cache.time_local.as_bytes()));
}

/// Appends the current time as in `$time_iso8601`: `2026-11-21T04:21:00+01:00`.
pub fn write_time_iso8601(out: &mut Vec<u8>) {
    with_cache(|cache| out.extend_from_slice(cache.time_iso8601.as_bytes()));
}

/// Returns the current time as in the error log: `2026/11/21 03:21:00`.
pub fn error_log_time() -> String {
    with_cache(|cache| cache.error_log.clone())
}

/// Returns the current time as in messages to a syslog server: `Nov  1 03:21:00` (RFC 3164 4.1.2).
pub fn syslog_time() -> String {
    with_cache(|cache| cache.syslog.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_formatted() {
        let cache = TimeCache::for_second(784_111_777, &TimeZone::UTC);
        assert_eq!(format_http_date(u64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(format(784_111_777, "%d-%b-%Y %R"), "06-Nov-1994 08:49");
        assert_eq!(cache.http_date, "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(cache.time_local, "06/Nov/1994:08:49:37 +0000");
        assert_eq!(cache.syslog, "Nov  6 08:49:37");
        assert_eq!(cache.time_iso8601, "1994-11-06T08:49:37+00:00");
    }

    #[test]
    fn logs_have_the_time_of_the_zone() {
        let times = |zone: &str| {
            let cache = TimeCache::for_second(784_111_777, &parse_zone(zone).unwrap_or(TimeZone::UTC));
            (cache.http_date, cache.time_local, cache.time_iso8601, cache.error_log)
        };
        for (zone, local, iso8601, error_log) in [
            (
                "CET-1CEST,M3.5.0,M10.5.0/3",
                "06/Nov/1994:09:49:37 +0100",
                "1994-11-06T09:49:37+01:00",
                "1994/11/06 09:49:37",
            ),
            ("<+0530>-5:30", "06/Nov/1994:14:19:37 +0530", "1994-11-06T14:19:37+05:30", "1994/11/06 14:19:37"),
            ("NST3:30", "06/Nov/1994:05:19:37 -0330", "1994-11-06T05:19:37-03:30", "1994/11/06 05:19:37"),
            ("no zone", "06/Nov/1994:08:49:37 +0000", "1994-11-06T08:49:37+00:00", "1994/11/06 08:49:37"),
        ] {
            let date = "Sun, 06 Nov 1994 08:49:37 GMT";
            assert_eq!(times(zone), (date.into(), local.into(), iso8601.into(), error_log.into()), "{zone}");
        }
    }

    #[test]
    fn a_zone_is_read_from_a_file() {
        // Version 1 of tzfile(5): one type of local time, two hours ahead.
        let counts = [0, 0, 0, 0, 1, 4].map(u32::to_be_bytes).concat();
        let file = [b"TZif".as_slice(), &[0; 16], &counts, &7200u32.to_be_bytes(), &[0, 0], b"EET\0"].concat();
        let path = std::env::temp_dir().join(std::format!("smolgate-zone-{}", std::process::id()));
        std::fs::write(&path, &file).unwrap();
        let zone = parse_zone(&std::format!(":{}", path.display()));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(zone.map(|zone| offset_secs(0, &zone)), Some(7200));
    }

    #[test]
    fn dates_are_parsed_in_their_three_forms_and_no_other() {
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
    fn formatted_dates_can_be_parsed() {
        for secs in (0..SECS_MAX).step_by(86_400 * 73 + 86_399) {
            for format_string in [IMF_FIXDATE, ASCTIME] {
                assert_eq!(parse_http_date(format(secs, format_string).as_bytes()), Some(secs));
            }
        }
    }
}
