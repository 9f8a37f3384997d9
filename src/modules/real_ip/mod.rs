//! `real_ip`: the client address that a trusted proxy reports in a header or by the PROXY protocol.

pub(crate) mod conf;

use std::rc::Rc;

use crate::config::RealIpSource;
use crate::http1::x_forwarded_for;
use crate::request::exchange::{Client, Exchange};
use crate::runtime::socket::Addr;

/// Replaces the client address by the reported one, if the connection comes from a trusted proxy. Only once per request: a
/// location may add `set_real_ip_from`, but a replaced address is not replaced again.
pub fn apply(exchange: &mut Exchange) {
    let Some(real_ip) = &exchange.settings().optional.real_ip else { return };
    if exchange.proxy_peer.is_some() {
        return;
    }
    let addr = match &real_ip.source {
        RealIpSource::Header(name) => {
            let fields = &exchange.request.headers;
            x_forwarded_for::client_address(&exchange.client.addr, fields, name, &real_ip.trusted, real_ip.recursive)
        }
        RealIpSource::ProxyProtocol => {
            let source = exchange.client.proxy_protocol.as_ref().map(|proxied| proxied.source);
            source.filter(|_| x_forwarded_for::is_trusted(&real_ip.trusted, &exchange.client.addr))
        }
    };
    if let Some(addr) = addr {
        let client = Rc::new(Client { addr: Addr::Ip(addr), ..(*exchange.client).clone() });
        exchange.proxy_peer = Some(std::mem::replace(&mut exchange.client, client));
    }
}
