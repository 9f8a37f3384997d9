//! smolgate: an HTTP/1.1 and WebSocket proxy for small machines that reads nginx's configuration language.
//!
//! This file is the map: it lists the rooms, the lowest first. A room uses only rooms listed above it; a file with directives
//! (`conf.rs`, `*_conf.rs`) belongs to the layer `config` wherever it is, so that a capability and its directives share a
//! directory (tests/layering.rs checks both). docs/architecture.md follows a request, an upgrade and a directive through the
//! rooms, and has the glossary. The way of a request:
//!
//! ```text
//!  client -> server::accept -> server::connection (PROXY protocol, tls::accept) -> http1::head ->
//!         server::phases (modules::rewrite, server::router, modules::limit, modules::access, try_files) ->
//!            server::status | request::response | modules::static_files | proxy::forward ->
//!         modules::error_page -> server::send_response -> the access log ->
//!         Disposition: KeepAlive | Linger | Close | Detached | Tunnel -> server::tunnel_task -> tunnel
//! ```
//!
//! # Words
//!
//! - **client**: the program that connects to smolgate. **upstream**: a named group of servers; **peer**: one of them.
//! - **head**: start line and headers (RFC 9112). **header**: one line of a head. **target**: the request-target.
//! - **body**; **framing**: how a recipient finds the end of a body.
//! - **server**, **location**: blocks of the configuration. **local response**: a response that smolgate generates itself.
//! - **upgrade**: the switch to another protocol by a 101 (RFC 9110 7.8). **tunnel**: the relay of bytes after it.
//! - **stream**: a connected byte stream, plain or TLS. **buffered stream**: a stream and the bytes that were read ahead.
//! - **worker**: a thread with one executor. **tick**: one iteration of its event loop.
//! - **timeout**: a length of time. **deadline**: a point in time. **limit**: a number.

// The heart: knows no directive.
pub mod os;
pub mod runtime;
pub mod http1;
pub mod tunnel;

// Beside it: TLS, names, expressions, and the configuration language.
pub mod tls;
pub mod dns;
pub mod regex;
pub mod config;

// A request, and its handlers.
pub mod request;
pub mod modules;
pub mod proxy;

// The program.
pub mod server;
pub mod process;
