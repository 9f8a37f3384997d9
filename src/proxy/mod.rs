//! Forwarding to upstreams: connections, balancing, health checks, and their directives.

pub(crate) mod forward;
pub(crate) mod destination;
pub(crate) mod connect;
pub(crate) mod request_body;
pub(crate) mod relay;
pub(crate) mod error;
pub(crate) mod headers;
pub(crate) mod cookies;
pub(crate) mod pool;
pub(crate) mod live;
pub(crate) mod health_check;
pub(crate) mod balance;
pub(crate) mod conf;
pub(crate) mod pass_conf;
pub(crate) mod origin_conf;
pub(crate) mod cookies_conf;
pub(crate) mod upstream_conf;
pub(crate) mod health_conf;
pub(crate) mod health_match_conf;
