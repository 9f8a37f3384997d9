//! TLS on either side of us, by rustls with ring: certificates in, secured connections out.
//!
//! [`Site`]: what a server says in a handshake. [`accept`]: a client's connection becomes a `SecureStream`.
//! [`Secured`]: what is known of it then. [`Client`]: how we come to upstreams, by [`connect`].
//! Without the feature `tls` nothing of this can be made, and what can't exist costs nothing.

pub mod settings;
pub mod variables;
#[cfg(feature = "tls")]
pub mod info;
#[cfg(feature = "tls")]
pub mod session;
#[cfg(feature = "tls")]
pub mod accept;
#[cfg(feature = "tls")]
pub mod connect;
#[cfg(feature = "tls")]
pub mod server_config;
#[cfg(feature = "tls")]
pub mod cert_key;
#[cfg(feature = "tls")]
pub mod pem;
#[cfg(feature = "tls")]
pub mod session_cache;
#[cfg(feature = "tls")]
pub mod verify;
#[cfg(feature = "tls")]
pub mod x509;
#[cfg(test)]
#[cfg(feature = "tls")]
pub mod hostile_chains;
#[cfg(not(feature = "tls"))]
pub mod stub;
pub mod conf;

pub use crate::tls::settings::{ClientSpec, ClientsSpec, Protocols, ServerSpec, Verify};
pub use crate::tls::variables::Fact;

#[cfg(feature = "tls")]
pub use crate::tls::accept::{Failure, accept};
#[cfg(feature = "tls")]
pub use crate::tls::cert_key::News;
#[cfg(feature = "tls")]
pub use crate::tls::connect::{Client, connect};
#[cfg(feature = "tls")]
pub use crate::tls::info::{Refusal, Secured};
#[cfg(feature = "tls")]
pub use crate::tls::server_config::{Loaded, Site};
#[cfg(feature = "tls")]
pub use crate::tls::verify::Distrust;

#[cfg(not(feature = "tls"))]
pub use crate::tls::stub::{Client, Distrust, Failure, Loaded, News, Refusal, Secured, Site, accept, connect};

/// Whether there is TLS in this build.
pub const AVAILABLE: bool = cfg!(feature = "tls");
