//! One directory per capability: its directives (`conf.rs`) and their behaviour.

pub(crate) mod limit;
pub(crate) mod rewrite;
pub(crate) mod gzip;
pub(crate) mod charset;
pub(crate) mod real_ip;
pub(crate) mod error_page;
pub mod access;
pub(crate) mod static_files;
pub(crate) mod map;
