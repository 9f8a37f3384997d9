//! The PROXY protocol, versions 1 and 2: a header in front of the client's first byte, with the addresses of the
//! connection to the proxy before this one.
//!
//! TLVs after the addresses are kept as they are, and parsed where a variable names one ([`Tlv`]).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of a header of version 1, CRLF included.
const V1_BYTES_MAX: usize = 107;
/// Bytes of a header of version 2.
const V2_BYTES_MAX: usize = 4096;
/// The start of a header of version 2.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The connection to the proxy before this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxiedConnection {
    /// The client's address.
    pub source: SocketAddr,
    /// The address it connected to.
    pub destination: SocketAddr,
    /// The TLVs of version 2; not parsed.
    pub tlvs: Box<[u8]>,
}

/// Which TLV of version 2 (section 2.2 of the specification), as `$proxy_protocol_tlv_NAME` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tlv {
    Type(u8),
    /// One of those in the TLV of TLS.
    Tls(u8),
    /// The result of the verification of the client's certificate, in the TLV of TLS.
    TlsVerify,
}

/// The type of the TLV of TLS, and the bytes before the TLVs in it: one of flags, four of the result of the verification.
const TLS: u8 = 0x20;
const TLS_FLAGS_BYTES: usize = 1;

impl Tlv {
    /// Parses nginx's name, or a number such as `0xea`.
    pub fn from_name(name: &str) -> Option<Self> {
        let (name, is_tls) = match name.strip_prefix("ssl_") {
            Some(rest) => (rest, true),
            None => (name, false),
        };
        let kind = match (is_tls, name) {
            (true, "verify") => return Some(Self::TlsVerify),
            (false, "alpn") => 0x01,
            (false, "authority") => 0x02,
            (false, "unique_id") => 0x05,
            (false, "ssl") => TLS,
            (false, "netns") => 0x30,
            (true, "version") => 0x21,
            (true, "cn") => 0x22,
            (true, "cipher") => 0x23,
            (true, "sig_alg") => 0x24,
            (true, "key_alg") => 0x25,
            _ => {
                let digits = name.strip_prefix("0x").filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
                u8::from_str_radix(digits, 16).ok()?
            }
        };
        Some(if is_tls { Self::Tls(kind) } else { Self::Type(kind) })
    }

    /// Appends the value of the first such TLV among `tlvs`; nothing if there is none or if one before it is malformed.
    pub fn write(self, tlvs: &[u8], out: &mut Vec<u8>) {
        let tls = || find_tlv(tlvs, TLS)?.get(TLS_FLAGS_BYTES..)?.split_first_chunk::<4>();
        let value = match self {
            Self::Type(kind) => find_tlv(tlvs, kind),
            Self::Tls(kind) => tls().and_then(|(_, inner)| find_tlv(inner, kind)),
            Self::TlsVerify => {
                let result = tls().map(|(result, _)| u32::from_be_bytes(*result).to_string());
                return out.extend_from_slice(result.unwrap_or_default().as_bytes());
            }
        };
        out.extend_from_slice(value.unwrap_or_default());
    }
}

/// Finds the first TLV of a type: one byte of type, two of length, the value.
fn find_tlv(mut tlvs: &[u8], kind: u8) -> Option<&[u8]> {
    loop {
        let (&[found, high, low], rest) = tlvs.split_first_chunk::<3>()?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
        if found == kind {
            return Some(value);
        }
        tlvs = rest;
    }
}

/// An error in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MalformedProxyHeader {
    Missing,
    Line,
    Version,
    TooLong,
    Addresses,
}

impl fmt::Display for MalformedProxyHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "no PROXY protocol header",
            Self::Line => "an invalid PROXY protocol line",
            Self::Version => "a PROXY protocol header of an unknown version",
            Self::TooLong => "a too long PROXY protocol header",
            Self::Addresses => "a PROXY protocol header that is too short for its addresses",
        })
    }
}

/// The addresses of a header, if any, and its length. `None`: the header is incomplete.
pub type ParsedHeader = Option<(Option<ProxiedConnection>, usize)>;

/// Parses the header at the start of `bytes`.
///
/// # Errors As soon as the input can't become one.
pub fn parse(bytes: &[u8]) -> Result<ParsedHeader, MalformedProxyHeader> {
    let may_start_with = |start: &[u8]| bytes.iter().zip(start).all(|(byte, known)| byte == known);
    if may_start_with(b"PROXY ") {
        parse_v1(bytes)
    } else if may_start_with(SIGNATURE) {
        parse_v2(bytes)
    } else {
        Err(MalformedProxyHeader::Missing)
    }
}

/// Parses version 1: `PROXY TCP4 source destination port port CRLF`, or `PROXY UNKNOWN` followed by anything.
fn parse_v1(bytes: &[u8]) -> Result<ParsedHeader, MalformedProxyHeader> {
    let prefix = bytes.get(..V1_BYTES_MAX).unwrap_or(bytes);
    let Some(end) = prefix.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < V1_BYTES_MAX { Ok(None) } else { Err(MalformedProxyHeader::TooLong) };
    };
    let line = prefix.get(..end).and_then(|line| std::str::from_utf8(line).ok()).ok_or(MalformedProxyHeader::Line)?;
    let words: Vec<&str> = line.split(' ').collect();
    let addresses = match words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", family @ ("TCP4" | "TCP6"), source, destination, from, to] => {
            let addr = |host: &str, digits: &str| Some(SocketAddr::new(parse_ip(family, host)?, parse_port(digits)?));
            let addresses = addr(source, from).zip(addr(destination, to));
            let (source, destination) = addresses.ok_or(MalformedProxyHeader::Line)?;
            Some(ProxiedConnection { source, destination, tlvs: Box::default() })
        }
        _ => return Err(MalformedProxyHeader::Line),
    };
    Ok(Some((addresses, end + 2)))
}

fn parse_ip(family: &str, text: &str) -> Option<IpAddr> {
    match family {
        "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        _ => text.parse::<Ipv6Addr>().ok().map(|ip| ip.to_canonical()),
    }
}

/// Parses digits only: `str::parse` would accept a sign.
fn parse_port(digits: &str) -> Option<u16> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Parses version 2: the signature, version and command, family and transport, and the length of the rest.
fn parse_v2(bytes: &[u8]) -> Result<ParsedHeader, MalformedProxyHeader> {
    let Some((head, rest)) = bytes.split_at_checked(SIGNATURE.len() + 4) else { return Ok(None) };
    let Some(&[command, family, high, low]) = head.last_chunk() else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([high, low]));
    // LOCAL, as in health checks of the proxy itself, or PROXY.
    if !matches!(command, 0x20 | 0x21) {
        return Err(MalformedProxyHeader::Version);
    }
    if head.len() + len > V2_BYTES_MAX {
        return Err(MalformedProxyHeader::TooLong);
    }
    let Some(body) = rest.get(..len) else { return Ok(None) };
    let addresses = match (command, family) {
        (0x21, 0x11) => Some(parse_ipv4(body).ok_or(MalformedProxyHeader::Addresses)?),
        (0x21, 0x21) => Some(parse_ipv6(body).ok_or(MalformedProxyHeader::Addresses)?),
        _ => None, // a Unix socket, a datagram, or an unknown family
    };
    Ok(Some((addresses, head.len() + len)))
}

fn parse_ipv4(body: &[u8]) -> Option<ProxiedConnection> {
    let (source, rest) = body.split_first_chunk::<4>()?;
    let (destination, rest) = rest.split_first_chunk::<4>()?;
    join_ports(Ipv4Addr::from(*source).into(), Ipv4Addr::from(*destination).into(), rest)
}

fn parse_ipv6(body: &[u8]) -> Option<ProxiedConnection> {
    let (source, rest) = body.split_first_chunk::<16>()?;
    let (destination, rest) = rest.split_first_chunk::<16>()?;
    let (source, destination) = (Ipv6Addr::from(*source).to_canonical(), Ipv6Addr::from(*destination).to_canonical());
    join_ports(source, destination, rest)
}

/// Parses what follows the addresses: two ports and the TLVs.
fn join_ports(source: IpAddr, destination: IpAddr, rest: &[u8]) -> Option<ProxiedConnection> {
    let ([a, b, c, d], tlvs) = rest.split_first_chunk()?;
    Some(ProxiedConnection {
        source: SocketAddr::new(source, u16::from_be_bytes([*a, *b])),
        destination: SocketAddr::new(destination, u16::from_be_bytes([*c, *d])),
        tlvs: tlvs.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(source: &str, destination: &str) -> Option<ProxiedConnection> {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        Some(ProxiedConnection { source, destination, tlvs: Box::default() })
    }

    fn with_tlvs(tlvs: &[u8]) -> Option<ProxiedConnection> {
        addresses("192.0.2.1:123", "192.0.2.2:5678").map(|known| ProxiedConnection { tlvs: tlvs.into(), ..known })
    }

    fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        [SIGNATURE, &[command, family], &(body.len() as u16).to_be_bytes(), body].concat()
    }

    #[test]
    fn headers_are_the_same_however_they_are_split() {
        let v4_body = [192, 0, 2, 1, 192, 0, 2, 2, 0, 123, 22, 46];
        let mut v6_body = [0; 36];
        (v6_body[0], v6_body[15], v6_body[16], v6_body[31], v6_body[33], v6_body[35]) = (0x20, 1, 0x20, 2, 5, 6);
        for (header, expected) in [
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 123 5678\r\n".to_vec(), addresses("192.0.2.1:123", "192.0.2.2:5678")),
            (
                b"PROXY TCP6 2001:Db8::1 ::ffff:192.0.2.2 0 65535\r\n".to_vec(),
                addresses("[2001:db8::1]:0", "192.0.2.2:65535"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN 1 2 3 4 \xc3\xa4\r\n".to_vec(), None),
            (binary(0x21, 0x11, &v4_body), addresses("192.0.2.1:123", "192.0.2.2:5678")),
            (binary(0x21, 0x11, &[&v4_body[..], &[3, 0, 4, 1, 2, 3, 4]].concat()), with_tlvs(&[3, 0, 4, 1, 2, 3, 4])),
            (binary(0x21, 0x21, &v6_body), addresses("[2000::1]:5", "[2000::2]:6")),
            (binary(0x20, 0x11, &v4_body), None),
            (binary(0x21, 0x00, &[]), None),
            (binary(0x21, 0x31, &[0; 216]), None),
            (binary(0x21, 0x41, &[1, 2, 3, 4]), None),
        ] {
            let whole = [&header[..], b"GET /"].concat();
            for end in 0..header.len() {
                assert_eq!(parse(&whole[..end]), Ok(None), "{:?}", whole[..end].escape_ascii());
            }
            assert_eq!(parse(&whole), Ok(Some((expected, header.len()))));
        }
    }

    #[test]
    fn tlvs_have_names() {
        let tls = [&[5, 0, 0, 1, 2][..], b"\x21\0\x07TLSv1.3", b"\x22\0\x01a"].concat();
        let tlvs = [b"\x01\0\x02h2\x02\0\x01a\x02\0\x01b\x20\0\x13", &tls[..], b"\xea\0\0\x30\0\x03cut"].concat();
        let value = |name: &str, tlvs: &[u8]| {
            let mut out = Vec::new();
            Tlv::from_name(name).unwrap().write(tlvs, &mut out);
            out
        };
        for (name, expected) in [
            ("alpn", &b"h2"[..]),
            ("authority", b"a"),
            ("0x2", b"a"),
            ("unique_id", b""),
            ("ssl", &tls),
            ("ssl_verify", b"258"),
            ("ssl_version", b"TLSv1.3"),
            ("ssl_0x22", b"a"),
            ("ssl_cipher", b""),
            ("0xea", b""),
            ("netns", b"cut"),
        ] {
            assert_eq!(value(name, &tlvs), expected, "{name}");
            for end in 0..tlvs.len() {
                let part = value(name, &tlvs[..end]);
                assert!(part.is_empty() || part == expected, "{name}: {end}");
            }
        }
        assert_eq!(value("ssl_verify", b"\x20\0\x04\0\0\0\0"), b"");
        for name in ["", "0x", "0x100", "0x+1", "verify", "ssl_", "ssl_alpn", "cn"] {
            assert_eq!(Tlv::from_name(name), None, "{name}");
        }
    }

    #[test]
    fn malformed_headers_are_rejected_at_once() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], MalformedProxyHeader::Missing),
            (b"\r\n\r\n\0\r\nX", MalformedProxyHeader::Missing),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", MalformedProxyHeader::Line),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n", MalformedProxyHeader::Line),
            (b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n", MalformedProxyHeader::Line),
            (b"PROXY TCP4 ::1 ::1 1 2\r\n", MalformedProxyHeader::Line),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n", MalformedProxyHeader::Line),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", MalformedProxyHeader::Line),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4  2\r\n", MalformedProxyHeader::Line),
            (b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n", MalformedProxyHeader::Line),
            (&[b"PROXY UNKNOWN ", &[b'x'; 100][..]].concat(), MalformedProxyHeader::TooLong),
            (&binary(0x11, 0x11, &[0; 12]), MalformedProxyHeader::Version),
            (&binary(0x22, 0x11, &[0; 12]), MalformedProxyHeader::Version),
            (&binary(0x21, 0x11, &[0; 11]), MalformedProxyHeader::Addresses),
            (&binary(0x21, 0x21, &[0; 35]), MalformedProxyHeader::Addresses),
            (&binary(0x21, 0x11, &[0; 5000])[..16], MalformedProxyHeader::TooLong),
        ] {
            assert_eq!(parse(bytes), Err(expected), "{:?}", bytes.escape_ascii());
        }
    }
}
