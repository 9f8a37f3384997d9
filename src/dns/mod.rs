//! Resolves host names to addresses: DNS messages, the client of the directive `resolver`, and the cache of all names.

use std::net::{SocketAddr, ToSocketAddrs};

pub mod message;
pub mod client;
pub mod cache;
pub(crate) mod conf;

/// Looks up a host by the system, and waits for the result. The host is a name, `1.2.3.4` or `[::1]`.
pub(crate) fn resolve_blocking(host: &str, port: u16) -> Vec<SocketAddr> {
    let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    (host, port).to_socket_addrs().map(Iterator::collect).unwrap_or_default()
}
