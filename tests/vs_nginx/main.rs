//! smolgate beside nginx: both are started with the same file and asked the same, and their answers are compared.
//!
//! Where nginx is not installed, nothing is compared and a line says so. Where smolgate differs on purpose, a row says
//! what it answers instead, and why.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that meets what it does not expect fails"
)]

mod access;
mod balancing;
mod chaos;
mod geo_split;
#[cfg(feature = "gzip")]
mod compression;
#[path = "../directives/mod.rs"]
mod directives;
mod generated;
mod grammar;
mod autoindex;
mod pair;
mod peer;
#[path = "../random/mod.rs"]
mod random;
mod recipes;
mod response;
mod rows;
mod rewrite;
mod tutorial;
mod values;
