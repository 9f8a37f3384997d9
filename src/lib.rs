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

// The ground: knows no HTTP.
pub mod io_error;
pub mod base64;
pub mod digest;
pub mod calendar;
pub mod users;
pub mod root_files;
pub mod keeper;
pub mod pid_file;
pub mod counters;
pub mod reactor;
pub mod signals;
pub mod mailbox;
pub mod parcel;
pub mod socket;
pub mod cidr;
pub mod wire;
pub mod tls;
pub mod zone;

// The language: bytes in, values out; no socket, no file, no clock.
pub mod head;
pub mod body;
pub mod frames;
pub mod dns;
pub mod resolver;
pub mod names;
pub mod credentials;
pub mod forwarded;
pub mod browsers;
pub mod password;
pub mod target;
pub mod proxy_protocol;
pub mod pattern;
pub mod template;

// What the operator asked for, and one request seen with it.
pub mod config;
pub mod clock;
pub mod quota;
pub mod exchange;
pub mod coding;
pub mod variables;
pub mod log;
pub mod real_ip;
pub mod pace;
pub mod open;
pub mod charset;
pub mod route;

// What can be done with a request.
pub mod freshness;
pub mod added;
pub mod trailers;
pub mod reply;
pub mod compress;
pub mod cookies;
pub mod gzip;
pub mod error_page;
pub mod rewrite;
pub mod try_files;
pub mod marks;
pub mod range;
pub mod autoindex;
pub mod precompressed;
pub mod file;
pub mod folder;
pub mod lookup;
pub mod user_file;
pub mod verifier;
pub mod access;
pub mod transfer;
pub mod outgoing;
pub mod answer;
pub mod balance;
pub mod pool;
pub mod running;
pub mod health;
pub mod limit;
pub mod heads;
pub mod upstream;
pub mod tunnel;
pub mod status;
pub mod phases;

// The life.
pub mod worker;
pub mod passage;
pub mod download;
pub mod handshake;
pub mod connection;
pub mod listening;
pub mod duty;
pub mod sockets;
pub mod supervisor;
pub mod program;
pub mod upgrade;
pub mod command;
pub mod server;
