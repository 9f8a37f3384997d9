//! smolgate's benchmark: the same workloads through several proxies in turn, compared with a bare relay.
//!
//! ```text
//!   load  ──►  proxy (or relay)  ──►  origin        bench starts all three and measures the middle one by /proc
//! ```
//!
//! `poll`, `conn`, `tls`, `slots`, `message`, `client` and `reconnect_storm` are the I/O of these three programs; `process`, `proxy`,
//! `round`, `trace` and `table` belong to the runner, `bench`; `steady_load` and `reload` to `life`, which reloads and upgrades
//! proxies under load. The programs are in `bin/`. A module uses only modules listed above it.

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
