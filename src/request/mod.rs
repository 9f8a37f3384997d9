//! What one request needs, whichever module responds to it: context, variables, log, response, body relay.

pub(crate) mod accept_encoding;
pub(crate) mod location_conf;
pub(crate) mod listen_conf;
pub(crate) mod exchange;
pub(crate) mod next;
pub(crate) mod variables;
pub(crate) mod log;
pub(crate) mod response;
pub(crate) mod body_relay;
pub(crate) mod send_queue;
pub(crate) mod gzip_sender;
pub(crate) mod rate_limit;
pub(crate) mod gzip_encoder;
pub(crate) mod limit_zones;
pub(crate) mod response_headers;
