//! Workers and their connections: accept, TLS handshakes, the phases of a request, responses, status.

pub(crate) mod tls_accept;
pub(crate) mod client_conf;
pub(crate) mod worker;
pub(crate) mod accept;
pub(crate) mod connection;
pub(crate) mod disposition;
pub(crate) mod phases;
pub(crate) mod router;
pub(crate) mod send_response;
pub(crate) mod detached_response;
pub(crate) mod tunnel_task;
pub(crate) mod worker_loop;
pub mod listeners;
pub(crate) mod status;
