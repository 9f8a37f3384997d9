//! TLS on either side of us, by rustls with ring: certificates in, secured connections out.
//!
//! [`Site`]: what a server says in a handshake. [`accept`]: a client's connection becomes a [`Session`].
//! [`Secured`]: what is known of it then. Without the feature `tls` nothing of this can be made, and what can't exist
//! costs nothing.

mod facts;
mod spec;

#[cfg(feature = "tls")]
mod files;
#[cfg(feature = "tls")]
mod handshake;
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
mod x509;

#[cfg(not(feature = "tls"))]
mod absent;

pub use self::facts::Fact;
pub use self::spec::{ClientsSpec, Protocols, ServerSpec, Verify};

#[cfg(feature = "tls")]
pub use self::{
    handshake::{Failure, accept},
    secured::{Refusal, Secured},
    session::Session,
    site::{Loaded, Site},
    trust::Distrust,
};

#[cfg(not(feature = "tls"))]
pub use self::absent::{Distrust, Failure, Loaded, Refusal, Secured, Session, Site, accept};

/// Whether there is TLS in this build.
pub const AVAILABLE: bool = cfg!(feature = "tls");
