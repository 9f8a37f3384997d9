//! smolgate: an HTTP/1.1 and WebSocket proxy for small machines that reads nginx's configuration language.
//!
//! This file is the map. The modules are listed from the ground up, and a module uses only modules listed above it.
//!
//! ```text
//!  client -> socket -> tls -> wire -> head::parse ->
//!         phases::act (rewrite::run, route::find, access, try_files::find) ->
//!            reply | lookup::answer | upstream::forward -> error_page::find -> answer::send -> one log line
//!         -> After::{KeepAlive, Close, Tunnel(upstream)} -> tunnel::relay
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

pub mod os;
pub mod runtime;
pub mod http1;
pub mod tunnel;
pub mod tls;
pub mod dns;
pub mod regex;
pub mod config;
pub mod request;
pub mod modules;
pub mod proxy;
pub mod server;
pub mod process;
