//! Resolves host names to addresses: DNS messages, the client of the directive `resolver`, and the cache of all names.

pub mod message;
pub mod client;
pub mod cache;
pub(crate) mod conf;
