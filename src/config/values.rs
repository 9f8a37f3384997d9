//! Parsers of values: times, sizes, numbers, switches, addresses. All are strict and can't overflow; None means invalid.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// The longest time; longer ones are cut to it.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(u32::MAX as u64);

/// `30`, `30s`, `1h 30m`, `500ms`: seconds without a unit; units from large to small.
pub fn time(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 8] = [
        ("y", 365 * 86_400_000),
        ("M", 30 * 86_400_000),
        ("w", 7 * 86_400_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
        ("ms", 1),
    ];
    let mut total = 0u64;
    let mut rest = text;
    let mut units = UNITS.as_slice();
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (digits, tail) = rest.split_at(end);
        let unit_len = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let unit = if unit.is_empty() { "s" } else { unit };
        let at = units.iter().position(|(name, _)| *name == unit)?;
        let (_, millis) = units.get(at)?;
        units = units.get(at + 1..)?;
        total = total.saturating_add(parse_digits(digits)?.saturating_mul(*millis));
        rest = tail.trim_start_matches(' ');
    }
    (!text.is_empty()).then(|| Duration::from_millis(total).min(TIME_MAX))
}

/// Parses a number of digits alone.
fn parse_digits(digits: &str) -> Option<u64> {
    let known = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    known.then(|| digits.parse().ok())?
}

/// A size in memory, or a rate: `100`, `8k`, `1m`.
pub fn size(text: &str) -> Option<u64> {
    file_size(text).filter(|_| !text.ends_with(['g', 'G']))
}

/// A size that need not fit into memory: also `2G`.
pub fn file_size(text: &str) -> Option<u64> {
    let (digits, factor) = match text.as_bytes().last()? {
        b'k' | b'K' => (text.get(..text.len() - 1)?, 1 << 10),
        b'm' | b'M' => (text.get(..text.len() - 1)?, 1 << 20),
        b'g' | b'G' => (text.get(..text.len() - 1)?, 1 << 30),
        _ => (text, 1),
    };
    parse_digits(digits)?.checked_mul(factor).filter(|size| *size <= i64::MAX as u64)
}

/// A number without a sign.
pub fn number(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// `on` or `off`, in any case.
pub fn switch(text: &str) -> Option<bool> {
    match text {
        _ if text.eq_ignore_ascii_case("on") => Some(true),
        _ if text.eq_ignore_ascii_case("off") => Some(false),
        _ => None,
    }
}

/// A host with an optional port: `a`, `a:80`, `1.2.3.4:80`, `[::1]`, `[::1]:80`.
pub fn host_port(text: &str) -> Option<(&str, Option<u16>)> {
    let port = |text: &str| number(text).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        let host = text.get(..host.len() + 2)?;
        return match rest {
            "" => Some((host, None)),
            _ => Some((host, Some(port(rest.strip_prefix(':')?)?))),
        };
    }
    match text.split_once(':') {
        None => Some((text, None)),
        Some((host, digits)) => Some((host, Some(port(digits)?))),
    }
    .filter(|(host, _)| !host.is_empty())
}

/// `1.2.3.4` or `[::1]`.
pub fn ip(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// The address of a `listen` and its last port: as [`listen_addr`], or with a range of ports, `127.0.0.1:8000-8010`.
pub fn listen_addr_range(text: &str) -> Option<(SocketAddr, u16)> {
    let (first, last) = match text.rsplit_once('-') {
        Some((first, last)) => (first, Some(number(last).and_then(|port| u16::try_from(port).ok())?)),
        None => (text, None),
    };
    let addr = listen_addr(first)?;
    let last = last.unwrap_or(addr.port());
    (addr.port() <= last).then_some((addr, last))
}

/// The address of a `listen`: `80`, `*:80`, `1.2.3.4`, `1.2.3.4:80`, `[::]:80`, `localhost:80`.
pub fn listen_addr(text: &str) -> Option<SocketAddr> {
    const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    if let Some(port) = number(text) {
        let port = u16::try_from(port).ok().filter(|port| *port > 0)?;
        return Some(SocketAddr::new(ANY, port));
    }
    let (host, port) = host_port(text)?;
    let host = match host {
        "*" => ANY,
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        _ => ip(host)?,
    };
    Some(SocketAddr::new(host, port.unwrap_or(80)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_nginx_units_and_saturate() {
        for (text, millis) in [
            ("60", 60_000),
            ("1m", 60_000),
            ("1h 30m", 5_400_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("7d", 604_800_000),
            ("20d", 1_728_000_000),
            ("0", 0),
            ("1y", 31_536_000_000),
            ("1s500ms", 1500),
        ] {
            assert_eq!(time(text), Some(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(time("43200000"), Some(Duration::from_secs(43_200_000)));
        assert_eq!(time("9999999999999d"), Some(TIME_MAX));
        assert_eq!(time("99999999999999999999d"), None);
        for bad in ["", "-1", "1x", "m", "1m 1h", "1.5m", "1 s", "s1", "1mm"] {
            assert_eq!(time(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_are_strict() {
        assert_eq!(
            [size("0"), size("8k"), size("50000M"), file_size("8G")],
            [0, 8192, 50_000 << 20, 8 << 30].map(Some)
        );
        assert_eq!(size("1g"), None, "no memory is that large");
        for bad in ["", "k", "1kk", "-1", "1.5m", "10s", "99999999999999999999", "99999999999g"] {
            assert_eq!(file_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn addresses_of_all_forms() {
        for (text, expected) in [
            ("80", "0.0.0.0:80"),
            ("*:81", "0.0.0.0:81"),
            ("127.0.0.1", "127.0.0.1:80"),
            ("[::]:80", "[::]:80"),
            ("[::1]", "[::1]:80"),
            ("localhost:8080", "127.0.0.1:8080"),
        ] {
            assert_eq!(listen_addr(text), Some(expected.parse().unwrap()), "{text}");
        }
        for bad in ["0", "70000", "127.0.0.1:0", "[::1", "::1", "host:80", "127.0.0.1:70000", ""] {
            assert_eq!(listen_addr(bad), None, "{bad}");
        }
    }
}
