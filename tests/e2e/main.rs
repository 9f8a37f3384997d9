//! End-to-end tests: the real program, exact bytes in, exact bytes out.
//!
//! - Tools: `harness` (starts the program), `client`, `peer` (a scripted upstream), `dns_server`, `tls_fixtures`; `cases` (named
//!   cases), `request_rows` and `response_rows` (tables of requests)
//! - HTTP, also with hostile input: `heads`, `bodies`, `headers`, `upstreams` (their responses), `retries`, `websocket`,
//!   `lifecycle` (timeouts, half-closes, resets)
//! - TLS: `tls`, `handshakes`, `openssl`, `upstream_tls`, `root_keys`
//! - Directives: `proxying`, `proxy_options`, `proxy_pass_variables`, `balancing`, `health`, `dns`, `static_files`,
//!   `file_directives`, `downloads` (slow readers), `rewrite`, `internal_redirects`, `compression`, `access`, `limits`,
//!   `client_address`, `client_options`, `geo_split`, `status`, `logs`, `log_targets`
//! - The process: `configuration` (errors), `command_line`, `process` (signals, workers), `binary_upgrade`, `systemd_sockets`,
//!   `root`
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that meets what it does not expect fails")]

mod access;
mod systemd_sockets;
mod response_rows;
mod balancing;
mod bodies;
mod cases;
mod geo_split;
mod proxy_pass_variables;
mod client;
mod client_address;
#[cfg(feature = "tls")]
mod client_certificates;
#[cfg(feature = "gzip")]
mod compression;
mod configuration;
mod downloads;
mod headers;
mod harness;
mod heads;
#[cfg(feature = "health")]
mod health;
mod internal_redirects;
mod lifecycle;
mod limits;
mod log_targets;
mod logs;
mod client_options;
mod dns;
mod dns_server;
mod proxy_options;
mod peer;
mod process;
mod proxying;
mod retries;
mod root;
mod static_files;
mod file_directives;
mod rewrite;
mod command_line;
mod status;
mod request_rows;
#[cfg(feature = "tls")]
mod handshakes;
#[cfg(feature = "tls")]
mod root_keys;
#[cfg(feature = "tls")]
mod openssl;
#[cfg(feature = "tls")]
mod tls_fixtures;
#[cfg(feature = "tls")]
mod upstream_tls;
#[cfg(feature = "tls")]
mod tls;
mod binary_upgrade;
mod websocket;
mod upstreams;
