//! `map`, `geo`, `split_clients` and `valid_referers`: variables that follow from others.

pub mod conf;
pub mod geo_conf;
pub mod split_clients_conf;
pub mod referer_conf;
