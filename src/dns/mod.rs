//! Host names to addresses: messages, the client of `resolver`, and the cache.

pub mod message;
pub mod client;
pub mod cache;
pub(crate) mod conf;
