//! One directory per capability: its directives (`conf.rs`) and what they do.

pub mod limit;
pub mod rewrite;
pub mod gzip;
pub mod charset;
pub mod real_ip;
pub mod error_page;
pub mod access;
pub mod static_files;
pub mod map;
