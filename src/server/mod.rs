//! Workers and their connections: accept, TLS handshakes, the phases of a request, responses, status.

pub mod tls_accept;
pub mod client_conf;
pub mod worker;
pub mod accept;
pub mod connection;
pub mod phases;
pub mod router;
pub mod send_response;
pub mod detached_response;
pub mod tunnel_task;
pub mod worker_loop;
pub mod listeners;
pub mod status;
