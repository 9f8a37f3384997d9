//! One thread, one epoll: executor, timers, sockets, streams, channels, clock, metrics, hand-over. Knows no
//! directive.

pub mod signals;
pub(crate) mod calendar;
pub mod metrics;
pub mod executor;
pub(crate) mod channel;
pub(crate) mod clock;
pub mod handover;
pub mod socket;
pub(crate) mod cidr;
pub mod stream;
pub(crate) mod lru_table;
pub(crate) mod io_error;
