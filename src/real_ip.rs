//! Who a client is behind a proxy that is believed: its address as the proxy tells it, in a field or by the PROXY protocol.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use crate::config::{RealIp, Told};
use crate::exchange::{Client, Exchange};
use crate::head::Fields;
use crate::socket::Addr;

/// Gives the exchange the client that its connection's peer speaks for, if it is believed. Once: a location may say what
/// the server did not, but nobody is asked behind the answer.
pub fn apply(exchange: &mut Exchange) {
    let Some(real_ip) = &exchange.settings().real_ip else { return };
    if exchange.connected.is_some() {
        return;
    }
    let found = match &real_ip.told {
        Told::Field(name) => from_fields(real_ip, &exchange.client.addr, &exchange.request.fields, name),
        Told::ProxyProtocol => {
            let told = exchange.client.proxied.as_ref().map(|proxied| proxied.source);
            told.filter(|_| is_trusted(real_ip, &exchange.client.addr))
        }
    };
    if let Some(addr) = found {
        let client = Rc::new(Client { addr: Addr::Ip(addr), ..(*exchange.client).clone() });
        exchange.connected = Some(std::mem::replace(&mut exchange.client, client));
    }
}

/// Whether an address may tell for whom it asks.
pub fn is_trusted(real_ip: &RealIp, addr: &Addr) -> bool {
    real_ip.from.iter().any(|range| range.contains(addr))
}

/// The last address of the list. If it is believed itself, and others are to be asked, the one before it, and so on.
fn from_fields(real_ip: &RealIp, peer: &Addr, fields: &Fields, name: &[u8]) -> Option<SocketAddr> {
    if !is_trusted(real_ip, peer) {
        return None;
    }
    let lists: Vec<&[u8]> = fields.named(name).collect();
    let words = lists.iter().rev().flat_map(|list| list.rsplit(|b| matches!(b, b' ' | b',')));
    let mut found = None;
    for word in words.filter(|word| !word.is_empty()) {
        let Some(addr) = parse(word) else { break };
        found = Some(addr);
        if !real_ip.recursive || !is_trusted(real_ip, &Addr::Ip(addr)) {
            break;
        }
    }
    found
}

/// An address with or without a port, which is 0 then.
fn parse(word: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(word).ok()?;
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let addr = match bare.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, 0),
        Err(_) => text.parse().ok()?,
    };
    Some(SocketAddr::new(addr.ip().to_canonical(), addr.port()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cidr::Cidr;
    use crate::head::{Names, Request};

    /// What a list comes to, told by 127.0.0.1.
    fn found(lists: &[&str], recursive: bool) -> Option<String> {
        let head = lists.iter().map(|list| format!("X-Forwarded-For: {list}\r\n")).collect::<String>();
        let request = Request::parse(format!("GET / HTTP/1.0\r\n{head}\r\n").as_bytes(), Names::Plain).unwrap();
        let from = ["127.0.0.1", "10.0.1.0/24", "::1"].map(|range| Cidr::parse(range).unwrap()).to_vec();
        let real_ip = RealIp { from, recursive, ..RealIp::default() };
        let peer = Addr::Ip("127.0.0.1:5".parse().unwrap());
        from_fields(&real_ip, &peer, &request.fields, b"X-Forwarded-For").map(|addr| addr.to_string())
    }

    #[test]
    fn the_last_address_counts_or_the_last_that_is_not_believed() {
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
        for nothing in
            [&[][..], &[""], &["192.0.2.1, unknown"], &["192.0.2.1, 1.2.3"], &["192.0.2.1, 10.0.1.1:x"], &["a"]]
        {
            assert_eq!(found(nothing, true), None, "{nothing:?}");
        }
    }
}
