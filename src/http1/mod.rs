//! HTTP/1.1 as pure functions, bytes in and values out: heads, bodies, URIs, WebSocket frames, the PROXY protocol. No
//! I/O, and no directive.

pub mod head;
pub(crate) mod header;
pub mod body;
pub mod uri;
pub mod websocket;
pub mod range;
pub mod basic_auth;
pub(crate) mod x_forwarded_for;
pub(crate) mod user_agent;
pub mod proxy_protocol;
pub(crate) mod base64;
pub mod digest;
