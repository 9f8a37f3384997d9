//! Comparison with nginx: both programs get the same configuration and the same requests, and their responses are compared.
//!
//! Without an installed nginx the tests print a line and pass. A [`rows::KnownDifference`] is a difference on purpose, and the
//! reason.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that meets what it does not expect fails"
)]

mod access;
mod balancing;
mod chaos;
mod internal_redirects;
#[cfg(feature = "gzip")]
mod compression;
#[path = "../directives/mod.rs"]
mod directives;
mod generated;
mod grammar;
mod static_files;
mod pair;
mod peer;
#[path = "../random/mod.rs"]
mod random;
mod recipes;
mod response;
mod rows;
mod rewrite;
mod tutorial;
mod variables;
