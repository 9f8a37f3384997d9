//! TLS on either side of us, by rustls with ring: certificates in, secured connections out.
//!
//! [`Site`]: what a server says in a handshake. [`accept`]: a client's connection becomes a `SecureStream`.
//! [`Secured`]: what is known of it then. [`Client`]: how we come to upstreams, by [`connect`].
//! Without the feature `tls` nothing of this can be made, and what can't exist costs nothing.

mod facts;
mod spec;

#[cfg(feature = "tls")]
mod client;
#[cfg(feature = "tls")]
mod files;
#[cfg(feature = "tls")]
mod handshake;
#[cfg(test)]
#[cfg(feature = "tls")]
mod hostile;
#[cfg(feature = "tls")]
mod pair;
#[cfg(feature = "tls")]
mod secured;
#[cfg(feature = "tls")]
mod session;
#[cfg(feature = "tls")]
mod site;
#[cfg(feature = "tls")]
mod tickets;
#[cfg(feature = "tls")]
mod trust;
#[cfg(feature = "tls")]
pub mod x509;

#[cfg(not(feature = "tls"))]
mod absent;

pub use self::facts::Fact;
pub use self::spec::{ClientSpec, ClientsSpec, Protocols, ServerSpec, Verify};

#[cfg(feature = "tls")]
pub use self::{
    client::{Client, connect},
    handshake::{Failure, accept},
    pair::News,
    secured::{Refusal, Secured},
    site::{Loaded, Site},
    trust::Distrust,
};

#[cfg(not(feature = "tls"))]
pub use self::absent::{Client, Distrust, Failure, Loaded, News, Refusal, Secured, Site, accept, connect};

/// Whether there is TLS in this build.
pub const AVAILABLE: bool = cfg!(feature = "tls");
