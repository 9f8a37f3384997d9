//! smolgate: an HTTP/1.1 and WebSocket proxy for small machines that reads nginx's configuration language.
//!
//! This file is the map: the rooms from the ground up. A room uses only rooms listed above it; a file of directives
//! (`conf.rs`, `*_conf.rs`) belongs to the layer `config` wherever it is, so that a capability and its directives share a
//! directory (tests/layering.rs checks both). The way of a request:
//!
//! ```text
//!  client -> server::accept -> tls::accept -> runtime::stream -> http1::head ->
//!         server::phases (modules::rewrite, server::router, modules::access, try_files) ->
//!            modules::static_files | request::response | proxy::forward ->
//!         modules::error_page -> server::send_response -> one line of the access log ->
//!         After::{KeepAlive, Close, Tunnel} -> server::tunnel_task -> tunnel
//! ```
//!
//! # Words
//!
//! - **client**: who connects to us. **upstream**: a named group of servers behind us; **peer**: one of them.
//! - **head**: start line and fields (RFC 9112). **field**: one line of it. **target**: the request-target.
//! - **body**, **framing**: what follows the head, and how its end is known.
//! - **server**, **location**: the blocks of the configuration. **reply**: an answer that we make ourselves.
//! - **tunnel**: a blind relay (RFC 9110 3.7). **upgrade**: the step to it, a 101 (RFC 9110 7.8).
//! - **stream**: bytes both ways. **wire**: a stream and what was read from it but not used. **listener**: accepts them.
//! - **worker**: a thread with one reactor. **turn**: what it does between two waits.
//! - **timeout**: a length of time. **deadline**: a point in time. **limit**: a number.

// The heart: knows no directive.
pub mod os;
pub mod runtime;
pub mod http1;
pub mod tunnel;

// What stands beside it: secure streams, names, expressions, and the language of the configuration.
pub mod tls;
pub mod dns;
pub mod regex;
pub mod config;

// A request, and what can be done with it.
pub mod request;
pub mod modules;
pub mod proxy;

// The program.
pub mod server;
pub mod process;
