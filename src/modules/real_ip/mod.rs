//! Who a client is behind a proxy that is believed: its address as the proxy tells it, in a field or by the PROXY protocol.

pub(crate) mod conf;

use std::rc::Rc;

use crate::config::RealIpSource;
use crate::http1::x_forwarded_for;
use crate::request::exchange::{Client, Exchange};
use crate::runtime::socket::Addr;

/// Gives the exchange the client that its connection's peer speaks for, if it is believed. Once: a location may say what
/// the server did not, but nobody is asked behind the answer.
pub fn apply(exchange: &mut Exchange) {
    let Some(real_ip) = &exchange.settings().rare.real_ip else { return };
    if exchange.proxy_peer.is_some() {
        return;
    }
    let found = match &real_ip.told {
        RealIpSource::Field(name) => {
            let fields = &exchange.request.headers;
            x_forwarded_for::client_address(&exchange.client.addr, fields, name, &real_ip.from, real_ip.recursive)
        }
        RealIpSource::ProxyProtocol => {
            let told = exchange.client.proxy_protocol.as_ref().map(|proxied| proxied.source);
            told.filter(|_| x_forwarded_for::is_trusted(&real_ip.from, &exchange.client.addr))
        }
    };
    if let Some(addr) = found {
        let client = Rc::new(Client { addr: Addr::Ip(addr), ..(*exchange.client).clone() });
        exchange.proxy_peer = Some(std::mem::replace(&mut exchange.client, client));
    }
}
