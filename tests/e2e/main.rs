//! The real program from outside: exact bytes in, exact bytes out.
//!
//! What it is for: `proxying` (routes, upstreams, answers), `balancing` (which peer), `serving` (heads and bodies of
//! files), `downloads` (slow readers of them), `files` (files, steps, the life of the program), `internal` (requests that
//! are sent elsewhere), `limits` (how much a client may ask for), `clients` (where it comes from), `manners` (how clients
//! are dealt with), `retries` (bodies that meet more than one upstream), `status` (what the program tells of itself),
//! `compression`, `access` (who is let in), `names` (of upstreams) and `activation` (sockets that systemd has bound).
//!
//! And hostile and broken input: an exact outcome, and not a byte of what is refused reaches an upstream. Each row has an
//! id, a class and a number, that a failure names; rows that look at one thing from more sides share it.
//!
//! - `heads`: A request lines, B targets, C hosts, D fields, E limits of heads
//! - `bodies`: F Content-Length, G Transfer-Encoding, H chunks, I pipelines and expectations
//! - `tls`: N, and towards upstreams `secured`
//! - `upgrades`: J; `upstreams`: K; `fields`: L fields that are set, taken away or must not be believed
//! - `lifecycle`: O exhaustion and deadlines, P ends of connections; `logs`: Q; `configuration`: R; `process`: S
//!
//! Left out:
//! - K70 and N10, N12, N21: rustls's own rules and floods of handshakes
//! - class M static files: this table is about what is proxied
//! - O04, O06, O10, O12 to O20, P04: they take minutes, gigabytes or thousands of connections; the benchmarks look there
//! - P14 floods of one-byte segments: they are measured, not tested
//! - Q05, Q08, Q10, R13: no secret is logged by default but in a request line; there is no syslog; limits of messages are
//!   tested in `log`
//! - S09, S10, S12, S13, S16: panics, crashes, suspended machines, accounts and read-only systems need more than a test
//! - class T: rules of the source, tested where they stand
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
#[cfg(feature = "gzip")]
mod compression;
mod configuration;
mod downloads;
mod headers;
mod files;
mod harness;
mod heads;
#[cfg(feature = "health")]
mod health;
mod internal_redirects;
mod lifecycle;
mod limits;
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
