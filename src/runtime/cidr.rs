//! Address ranges: `192.0.2.0/24`, `2001:db8::/32`, a single address, or `unix:` for all Unix sockets.

use std::net::IpAddr;

use crate::runtime::socket::Addr;

/// An address range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cidr {
    V4 {
        net: u32,
        mask: u32,
    },
    V6 {
        net: u128,
        mask: u128,
    },
    /// All peers of Unix sockets.
    Unix,
}

impl Cidr {
    /// Returns the range of one address.
    pub fn from_ip(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::V4 { net: ip.to_bits(), mask: u32::MAX },
            IpAddr::V6(ip) => Self::V6 { net: ip.to_bits(), mask: u128::MAX },
        }
    }

    /// Parses a range. Bits behind the prefix are ignored, as in nginx.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "unix:" {
            return Some(Self::Unix);
        }
        let Some((addr, prefix)) = text.split_once('/') else { return text.parse().ok().map(Self::from_ip) };
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let prefix: u32 = prefix.parse().ok()?;
        match addr.parse().ok()? {
            IpAddr::V4(ip) if prefix <= 32 => {
                let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
                Some(Self::V4 { net: ip.to_bits() & mask, mask })
            }
            IpAddr::V6(ip) if prefix <= 128 => {
                let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
                Some(Self::V6 { net: ip.to_bits() & mask, mask })
            }
            _ => None,
        }
    }

    /// Whether the address is in the range. An IPv4-mapped IPv6 address counts as an IPv4 address.
    pub fn contains(self, addr: &Addr) -> bool {
        match (self, addr) {
            (Self::Unix, Addr::Unix(_)) => true,
            (Self::Unix, Addr::Ip(_)) | (_, Addr::Unix(_)) => false,
            (range, Addr::Ip(addr)) => range.contains_ip(addr.ip()),
        }
    }

    pub fn contains_ip(self, ip: IpAddr) -> bool {
        match (self, ip.to_canonical(), ip) {
            (Self::V4 { net, mask }, IpAddr::V4(ip), _) => ip.to_bits() & mask == net,
            (Self::V6 { net, mask }, _, IpAddr::V6(ip)) => ip.to_bits() & mask == net,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_contain_what_their_prefix_says() {
        for (range, inside, outside) in [
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("192.0.2.77/24", "192.0.2.1", "192.0.1.255"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("0.0.0.0/0", "203.0.113.9", "2001:db8::1"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::10.1.2.3"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::1", "::1", "::2"),
            ("::/0", "2001:db8::1", "192.0.2.1"),
            ("::ffff:0:0/96", "::ffff:192.0.2.1", "::1"),
        ] {
            let cidr = Cidr::parse(range).unwrap();
            assert!(cidr.contains_ip(inside.parse().unwrap()), "{range} {inside}");
            assert!(!cidr.contains_ip(outside.parse().unwrap()), "{range} {outside}");
        }
        for bad in
            ["", "/", "10.0.0.0/", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/-1", "10.0.0.0/+8", "::/129", "a", "::1/x"]
        {
            assert_eq!(Cidr::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn unix_sockets_are_a_range_of_their_own() {
        let unix = Addr::Unix("".into());
        let ip = Addr::Ip("127.0.0.1:1".parse().unwrap());
        assert!(Cidr::Unix.contains(&unix) && !Cidr::Unix.contains(&ip));
        assert!(!Cidr::parse("0.0.0.0/0").unwrap().contains(&unix));
    }
}
