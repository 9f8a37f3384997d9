//! TLS by rustls with ring, towards clients and upstreams.
//!
//! [`accept`] turns the connection of a client into a `SecureStream` and its [`TlsInfo`], with the [`ServerTls`] of the server
//! name; [`connect`] does so for an upstream, with a [`ClientTls`]. [`TlsStore`] reads both from files. Without the feature
//! `tls` these types have no values, and code that needs one is compiled to nothing.

pub(crate) mod settings;
pub(crate) mod variables;
#[cfg(feature = "tls")]
pub(crate) mod info;
#[cfg(feature = "tls")]
pub(crate) mod stream;
#[cfg(feature = "tls")]
pub(crate) mod accept;
#[cfg(feature = "tls")]
pub(crate) mod connect;
#[cfg(feature = "tls")]
pub(crate) mod server_config;
#[cfg(feature = "tls")]
pub(crate) mod cert_key;
#[cfg(feature = "tls")]
pub(crate) mod named_cert_keys;
#[cfg(feature = "tls")]
pub(crate) mod pem;
#[cfg(feature = "tls")]
pub(crate) mod session_cache;
#[cfg(feature = "tls")]
pub mod verify;
#[cfg(not(feature = "tls"))]
pub(crate) mod stub;
pub(crate) mod conf;

pub(crate) use crate::tls::settings::{ClientSettings, Protocols, ServerSettings, VerifyClient};
pub(crate) use crate::tls::variables::SslVariable;

#[cfg(feature = "tls")]
pub(crate) use crate::tls::accept::accept;
#[cfg(feature = "tls")]
pub(crate) use crate::tls::cert_key::ReloadEvent;
#[cfg(feature = "tls")]
pub(crate) use crate::tls::connect::{ClientTls, connect};
#[cfg(feature = "tls")]
pub(crate) use crate::tls::info::{AuthError, TlsInfo};
#[cfg(feature = "tls")]
pub(crate) use crate::tls::server_config::{ServerTls, TlsStore};

#[cfg(not(feature = "tls"))]
pub(crate) use crate::tls::stub::{AuthError, ClientTls, ReloadEvent, ServerTls, TlsInfo, TlsStore, accept, connect};

/// Whether this build has TLS.
pub const AVAILABLE: bool = cfg!(feature = "tls");
