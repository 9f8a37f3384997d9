//! TLS on either side of us, by rustls with ring: certificates in, secured connections out.
//!
//! [`ServerTls`]: what a server says in a handshake. [`accept`]: a client's connection becomes a `SecureStream`.
//! [`TlsInfo`]: what is known of it then. [`ClientTls`]: how we come to upstreams, by [`connect`].
//! Without the feature `tls` nothing of this can be made, and what can't exist costs nothing.

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

/// Whether there is TLS in this build.
pub const AVAILABLE: bool = cfg!(feature = "tls");
