//! smolgate's benchmark: the same work through several proxies, in turns, beside a bare relay.
//!
//! ```text
//!   load  ──►  proxy (or relay)  ──►  origin        bench starts all three and reads /proc about the middle one
//! ```
//!
//! From the ground up: `poll`, `conn`, `tls`, `slots`, `message`, `client`, `reconnect_storm` carry the bytes of the three programs on
//! that line; `process`, `proxy`, `round`, `trace`, `table` are what the runner, `bench`, is made of; `steady_load` and `reload` are for
//! `life`, which reloads and upgrades proxies while they are in use. The programs themselves are in `bin/`.
//! A module uses only modules listed above it.

#![forbid(unsafe_code)]

pub mod poll;
pub mod conn;
pub mod tls;
pub mod slots;
pub mod message;
pub mod client;
pub mod reconnect_storm;
pub mod process;
pub mod proxy;
pub mod round;
pub mod trace;
pub mod table;
pub mod steady_load;
pub mod reload;
