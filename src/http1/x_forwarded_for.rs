//! `X-Forwarded-For`: a list of addresses, to which each proxy appends the address of its client.

use std::net::{IpAddr, SocketAddr};

use crate::http1::head::Headers;
use crate::runtime::cidr::Cidr;
use crate::runtime::socket::Addr;

/// Returns the last address in the headers `name` of a trusted `peer`. If `recursive`, trusted addresses are skipped
/// from the end, and the first one of the list is returned if all are trusted.
pub fn client_address(
    peer: &Addr,
    headers: &Headers,
    name: &[u8],
    trusted: &[Cidr],
    recursive: bool,
) -> Option<SocketAddr> {
    if !is_trusted(trusted, peer) {
        return None;
    }
    let lists: Vec<&[u8]> = headers.all_named(name).collect();
    let entries = lists.iter().rev().flat_map(|list| list.rsplit(|b| matches!(b, b' ' | b',')));
    let mut found = None;
    for entry in entries.filter(|entry| !entry.is_empty()) {
        let Some(addr) = parse_address(entry) else { break };
        found = Some(addr);
        if !recursive || !is_trusted(trusted, &Addr::Ip(addr)) {
            break;
        }
    }
    found
}

/// Whether an address may set the client address.
pub fn is_trusted(trusted: &[Cidr], addr: &Addr) -> bool {
    trusted.iter().any(|range| range.contains(addr))
}

/// Parses an address with or without a port, which is 0 then.
fn parse_address(entry: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(entry).ok()?;
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let addr = match bare.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, 0),
        Err(_) => text.parse::<SocketAddr>().ok().filter(|addr| addr.port() > 0)?,
    };
    Some(SocketAddr::new(addr.ip().to_canonical(), addr.port()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::head::{HeaderNamePolicy, Request};

    /// Returns the client address for a list sent by 127.0.0.1.
    fn found(lists: &[&str], recursive: bool) -> Option<String> {
        let head = lists.iter().map(|list| format!("X-Forwarded-For: {list}\r\n")).collect::<String>();
        let request =
            Request::parse(format!("GET / HTTP/1.0\r\n{head}\r\n").as_bytes(), HeaderNamePolicy::Plain).unwrap();
        let from = ["127.0.0.1", "10.0.1.0/24", "::1"].map(|range| Cidr::parse(range).unwrap()).to_vec();
        let peer = Addr::Ip("127.0.0.1:5".parse().unwrap());
        client_address(&peer, &request.headers, b"X-Forwarded-For", &from, recursive).map(|addr| addr.to_string())
    }

    #[test]
    fn the_last_address_counts_or_the_last_untrusted_one() {
        for (lists, last, recursive) in [
            (&["192.0.2.1"][..], "192.0.2.1:0", "192.0.2.1:0"),
            (&["10.0.0.1, 192.0.2.1"], "192.0.2.1:0", "192.0.2.1:0"),
            (&["192.0.2.1, 10.0.1.1, 127.0.0.1"], "127.0.0.1:0", "192.0.2.1:0"),
            (&["10.0.1.1", "192.0.2.1", "127.0.0.1 ,10.0.1.2 ,, "], "10.0.1.2:0", "192.0.2.1:0"),
            (&["10.0.1.1,10.0.1.2"], "10.0.1.2:0", "10.0.1.1:0"),
            (&["192.0.2.1:80"], "192.0.2.1:80", "192.0.2.1:80"),
            (&["2001:db8::1, [::1]:123"], "[::1]:123", "[2001:db8::1]:0"),
            (&["::ffff:192.0.2.1"], "192.0.2.1:0", "192.0.2.1:0"),
            (&["unknown, 10.0.1.1"], "10.0.1.1:0", "10.0.1.1:0"),
            (&["192.0.2.1", ""], "192.0.2.1:0", "192.0.2.1:0"),
        ] {
            assert_eq!(found(lists, false).as_deref(), Some(last), "{lists:?}");
            assert_eq!(found(lists, true).as_deref(), Some(recursive), "{lists:?} recursive");
        }
        for nothing in [
            &[][..],
            &[""],
            &["192.0.2.1, unknown"],
            &["192.0.2.1, 1.2.3"],
            &["192.0.2.1, 10.0.1.1:x"],
            &["1.2.3.4:0"],
            &["a"],
        ] {
            assert_eq!(found(nothing, true), None, "{nothing:?}");
        }
    }
}
