//! Names as the system knows them: by /etc/hosts, or by the name servers of /etc/resolv.conf (hosts(5), resolv.conf(5)).
//!
//! musl reads the same two files, on a thread for each question and in 30 kB of code. Other C libraries know more ways, and
//! are asked themselves (`names`).

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::pin::pin;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, netdevice, socket};

use crate::dns;
use crate::reactor::Timer;
use crate::resolver::{self, Failure, Wanted};

const HOSTS: &str = "/etc/hosts";
const SETTINGS: &str = "/etc/resolv.conf";
/// Bytes of each that are read.
const FILE_BYTES_MAX: u64 = 1 << 20;
const PORT: u16 = 53;
const SERVERS_MAX: usize = 3;
const DOMAINS_MAX: usize = 6;
const DOTS_MAX: u32 = 15;
const TIMEOUT_SECS_MAX: u32 = 30;
const ATTEMPTS_MAX: u32 = 10;

/// The addresses of `host`.
///
/// # Errors
/// Why there is none.
pub async fn look_up(host: &str) -> Result<Vec<IpAddr>, Failure> {
    let known = addrs(&read(HOSTS), host);
    if !known.is_empty() {
        return Ok(known);
    }
    // Not all of the smallest machines have that file, and nobody else is asked for this name (RFC 6761 6.3).
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let settings = Settings::parse(&read(SETTINGS));
    for name in settings.names(host) {
        let answer = resolver::look_up(&name, &settings.servers, Wanted { ipv4: true, ipv6: true });
        match Timer::new().within(settings.time(), pin!(answer)).await.unwrap_or(Err(Failure::Silence)) {
            Err(failure) if failure.is_final() => {}
            answer => return answer.map(|(addrs, _)| addrs),
        }
    }
    Err(Failure::Refused(dns::NO_NAME))
}

/// A file that is not there is as good as an empty one.
fn read(path: &str) -> String {
    let mut text = Vec::new();
    let _ = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut text));
    String::from_utf8_lossy(&text).into_owned()
}

/// The addresses that a text like /etc/hosts has for a name.
fn addrs(text: &str, host: &str) -> Vec<IpAddr> {
    let addr = |line: &str| {
        let mut words = line.split('#').next()?.split_ascii_whitespace();
        let addr = words.next()?;
        words.any(|name| name.eq_ignore_ascii_case(host)).then(|| addr.parse().ok())?
    };
    text.lines().filter_map(addr).collect()
}

/// What /etc/resolv.conf says.
#[derive(Debug, PartialEq, Eq)]
struct Settings {
    servers: Vec<SocketAddr>,
    /// Short names may be those of hosts in these.
    domains: Vec<String>,
    /// How many dots a name has that is not short.
    dots: u32,
    /// How long all servers together may take for an attempt.
    timeout_secs: u32,
    attempts: u32,
}

impl Settings {
    fn parse(text: &str) -> Self {
        let mut settings = Self { servers: Vec::new(), domains: Vec::new(), dots: 1, timeout_secs: 5, attempts: 2 };
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => settings.servers.extend(words.next().and_then(server)),
                // The last one counts.
                Some("domain" | "search") => settings.domains = words.take(DOMAINS_MAX).map(str::to_owned).collect(),
                Some("options") => words.for_each(|word| settings.set(word)),
                _ => {}
            }
        }
        settings.servers.truncate(SERVERS_MAX);
        if settings.servers.is_empty() {
            settings.servers.push((Ipv4Addr::LOCALHOST, PORT).into());
        }
        settings
    }

    fn set(&mut self, option: &str) {
        let Some((name, Ok(value))) = option.split_once(':').map(|(name, value)| (name, value.parse::<u32>())) else {
            return;
        };
        match name {
            "ndots" => self.dots = value.min(DOTS_MAX),
            "timeout" => self.timeout_secs = value.clamp(1, TIMEOUT_SECS_MAX),
            "attempts" => self.attempts = value.clamp(1, ATTEMPTS_MAX),
            _ => {}
        }
    }

    /// How long the question for one name may take.
    fn time(&self) -> Duration {
        Duration::from_secs((self.timeout_secs * self.attempts).into())
    }

    /// The names that may be meant, in the order in which they are asked for.
    fn names(&self, host: &str) -> Vec<String> {
        let is_short = !host.ends_with('.') && host.bytes().filter(|byte| *byte == b'.').count() < self.dots as usize;
        let longer = self.domains.iter().filter(|_| is_short).map(|domain| format!("{host}.{domain}"));
        longer.chain([host.to_owned()]).collect()
    }
}

/// `192.168.1.1`, `::1`, or `fe80::1%eth0`, which only has a meaning at an interface.
fn server(word: &str) -> Option<SocketAddr> {
    let (addr, interface) = word.split_once('%').unwrap_or((word, ""));
    match addr.parse().ok()? {
        IpAddr::V6(addr) => Some(SocketAddrV6::new(addr, PORT, 0, number(interface)).into()),
        addr => Some((addr, PORT).into()),
    }
}

/// That of an interface; 0 is none.
fn number(interface: &str) -> u32 {
    let known = || netdevice::name_to_index(socket(AddressFamily::INET, SocketType::DGRAM, None)?, interface);
    interface.parse().ok().or_else(|| known().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_several_addresses_and_names() {
        let text =
            "127.0.0.1 localhost\n# 10.0.0.1 hub\n::1\tlocalhost ip6-localhost # hub\n10.0.0.2  Hub.lan hub\n\nhub\n";
        for (host, expected) in [
            ("localhost", vec!["127.0.0.1", "::1"]),
            ("hub", vec!["10.0.0.2"]),
            ("hub.lan", vec!["10.0.0.2"]),
            ("10.0.0.2", vec![]),
            ("lan", vec![]),
        ] {
            let expected: Vec<IpAddr> = expected.iter().map(|addr| addr.parse().unwrap()).collect();
            assert_eq!(addrs(text, host), expected, "{host}");
        }
    }

    #[test]
    fn settings_are_those_of_resolv_conf() {
        let text = "# made by hand\ndomain old.lan\nsearch a.lan b.lan\nnameserver 10.0.0.1\nnameserver ::1 # us\n\
                    nameserver fe80::1%lo\nnameserver 10.0.0.4\noptions rotate ndots:2 timeout:3 attempts:99 edns0\n";
        let servers = ["10.0.0.1:53", "[::1]:53", "[fe80::1%1]:53"].map(|addr| addr.parse().unwrap());
        let (servers, domains) = (servers.into(), ["a.lan", "b.lan"].map(str::to_owned).into());
        let expected = Settings { servers, domains, dots: 2, timeout_secs: 3, attempts: 10 };
        assert_eq!(Settings::parse(text), expected);
        assert_eq!(expected.time(), Duration::from_secs(30));
        let expected =
            Settings { servers: vec!["127.0.0.1:53".parse().unwrap()], domains: vec![], dots: 1, ..expected };
        assert_eq!(Settings::parse("nameserver\nnameserver x\noptions ndots timeout:3 attempts:10"), expected);
    }

    #[test]
    fn short_names_are_looked_for_in_domains_first() {
        let names = |text: &str, host: &str| Settings::parse(text).names(host).join(" ");
        let text = "search a.lan b.lan";
        assert_eq!(names(text, "hub"), "hub.a.lan hub.b.lan hub");
        assert_eq!(names(text, "hub.lan"), "hub.lan");
        assert_eq!(names(text, "hub."), "hub.");
        assert_eq!(names("search a.lan\noptions ndots:2", "hub.lan"), "hub.lan.a.lan hub.lan");
        assert_eq!(names("", "hub"), "hub");
    }
}
