//! How a connection goes on after a response.

use std::time::Duration;

use crate::config::Lingering;
use crate::request::exchange::Exchange;
use crate::server::detached_response::DetachedResponse;
use crate::server::tunnel_task::TunnelSetup;

pub enum Disposition {
    /// Wait at most this long for the next request.
    KeepAlive(Duration),
    /// Close after the client had time to read the response, although it may still be sending (RFC 9112 9.6).
    Linger(Lingering),
    Close,
    /// The client reads slowly: a task of its own sends the rest of the response.
    Detached(Box<DetachedResponse>),
    Tunnel(Box<TunnelSetup>),
}

impl Disposition {
    /// After a response that was sent whole.
    pub fn after_response(exchange: &Exchange, keep_alive: bool) -> Self {
        let settings = exchange.settings();
        match settings.client_options.lingering {
            _ if keep_alive => Self::KeepAlive(settings.keepalive_timeout),
            lingering if lingering.on => Self::Linger(lingering),
            _ => Self::Close,
        }
    }
}
