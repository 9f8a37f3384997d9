//! The life cycle of the program: start, reload, binary upgrade, stop.

pub mod exec;
pub mod systemd;
pub mod start;
pub(crate) mod control;
pub mod binary_upgrade;
pub mod check_url;
