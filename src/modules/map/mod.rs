//! `map`, `geo`, `split_clients` and `valid_referers`: variables derived from other variables.

pub(crate) mod conf;
pub(crate) mod geo_conf;
pub(crate) mod split_clients_conf;
pub(crate) mod referer_conf;
