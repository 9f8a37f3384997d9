//! What one request needs, whichever module responds to it: context, variables, log, response, body relay.

pub mod accept_encoding;
pub mod location_conf;
pub mod listen_conf;
pub mod log_conf;
pub mod context;
pub mod variables;
pub mod log;
pub mod response;
pub mod body_relay;
pub mod send_queue;
pub mod rate_limit;
pub mod gzip_encoder;
pub mod limit_zones;
pub mod response_headers;
