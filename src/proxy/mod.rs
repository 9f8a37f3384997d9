//! Forwarding to upstreams: connections, balancing, health checks, and their directives.

pub mod forward;
pub mod destination;
pub mod connect;
pub mod request_body;
pub mod relay;
pub mod error;
pub mod headers;
pub mod cookies;
pub mod pool;
pub mod live;
pub mod health_check;
pub mod balance;
pub mod conf;
pub mod pass_conf;
pub mod origin_conf;
pub mod cookies_conf;
pub mod upstream_conf;
pub mod health_conf;
pub mod health_match_conf;
