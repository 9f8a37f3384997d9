//! One thread, one epoll: the executor and its timers, sockets and streams, channels, clock, metrics, hand-over.

pub mod signals;
pub mod calendar;
pub mod metrics;
pub mod executor;
pub mod channel;
pub mod clock;
pub mod handover;
pub mod socket;
pub mod cidr;
pub mod stream;
pub mod lru_table;
pub mod io_error;
