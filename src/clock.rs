//! The time of day as text, made once a second: `Date` fields and log lines.
//!
//! Times are UTC. Deadlines have nothing to do with this clock: they are of the monotonic one.

use std::cell::RefCell;
use std::fmt::Write;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The texts of one second.
#[derive(Default)]
struct Texts {
    second: u64,
    http: String,
    local: String,
    iso: String,
    error: String,
}

thread_local! {
    static TEXTS: RefCell<Texts> = RefCell::default();
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

fn with<R>(pick: impl FnOnce(&Texts) -> R) -> R {
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    TEXTS.with_borrow_mut(|texts| {
        if texts.second != second || texts.http.is_empty() {
            *texts = Texts::at(now, second);
        }
        pick(texts)
    })
}

impl Texts {
    fn at(now: SystemTime, second: u64) -> Self {
        let (year, month, day) = date(second / 86400);
        let (hour, minute, sec) = (second / 3600 % 24, second / 60 % 60, second % 60);
        let name = month_name(month);
        let mut texts = Self { second, http: httpdate::fmt_http_date(now), ..Self::default() };
        let _ = write!(texts.local, "{day:02}/{name}/{year}:{hour:02}:{minute:02}:{sec:02} +0000");
        let _ = write!(texts.iso, "{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{sec:02}+00:00");
        let _ = write!(texts.error, "{year}/{month:02}/{day:02} {hour:02}:{minute:02}:{sec:02}");
        texts
    }
}

fn month_name(month: u64) -> &'static str {
    const NAMES: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    NAMES.get(month as usize - 1).copied().unwrap_or_default()
}

/// Days since 1970 to year, month and day, by Howard Hinnant's algorithm.
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468; // days since 0000-03-01
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// A time since 1970 in seconds as a date (RFC 9110 5.6.7); the last one that can be told, if it is later.
pub fn http_time(secs: u64) -> String {
    /// The end of the year 9999.
    const SECS_MAX: u64 = 253_402_300_799;
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(secs.min(SECS_MAX)))
}

/// A time since 1970 in seconds as people read it: `14-Nov-2023 22:13`.
pub fn short_time(secs: u64) -> String {
    let (year, month, day) = date(secs / 86400);
    format!("{day:02}-{}-{year} {:02}:{:02}", month_name(month), secs / 3600 % 24, secs / 60 % 60)
}

/// A time since 1970 in seconds as programs read it: `2023-11-14T22:13:20Z`.
pub fn iso_time(secs: u64) -> String {
    let (year, month, day) = date(secs / 86400);
    format!("{year}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", secs / 3600 % 24, secs / 60 % 60, secs % 60)
}

/// Seconds since 1970 of a date (RFC 9110 5.6.7).
pub fn parse_http_time(date: &[u8]) -> Option<u64> {
    let date = httpdate::parse_http_date(std::str::from_utf8(date).ok()?).ok()?;
    Some(date.duration_since(UNIX_EPOCH).ok()?.as_secs())
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
        for (days, expected) in
            [(0, (1970, 1, 1)), (59, (1970, 3, 1)), (11_016, (2000, 2, 29)), (20_778, (2026, 11, 21))]
        {
            assert_eq!(date(days), expected);
        }
        let texts = Texts::at(UNIX_EPOCH + Duration::from_secs(784_111_777), 784_111_777);
        assert_eq!(http_time(u64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(parse_http_time(b"Sunday, 06-Nov-94 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(parse_http_time(b"Thu, 31 Dec 1969 23:59:59 GMT"), None);
        assert_eq!(short_time(784_111_777), "06-Nov-1994 08:49");
        assert_eq!(iso_time(784_111_777), "1994-11-06T08:49:37Z");
        assert_eq!(texts.http, "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(texts.local, "06/Nov/1994:08:49:37 +0000");
        assert_eq!(texts.iso, "1994-11-06T08:49:37+00:00");
    }
}
