//! smolgate's benchmark: the same work through several proxies, in turns, beside a bare relay.
//!
//! ```text
//!   load  ──►  proxy (or relay)  ──►  origin        bench starts all three and reads /proc about the middle one
//! ```
//!
//! From the ground up: `poll`, `end`, `sealed`, `slots`, `message`, `client`, `herd` carry the bytes of the three programs on
//! that line; `process`, `proxy`, `turn`, `trace`, `table` are what the runner, `bench`, is made of; `crowd` and `lives` are for
//! `life`, which reloads and upgrades proxies while they are in use. The programs themselves are in `bin/`.
//! A module uses only modules listed above it.

#![forbid(unsafe_code)]

pub mod poll;
pub mod end;
pub mod sealed;
pub mod slots;
pub mod message;
pub mod client;
pub mod herd;
pub mod process;
pub mod proxy;
pub mod turn;
pub mod trace;
pub mod table;
pub mod crowd;
pub mod lives;
