//! Verifies certificates: the chain of a peer, its revocation, and the host it is valid for.

pub mod x509;
pub(crate) mod crl;
pub(crate) mod chain;
#[cfg(test)]
pub(crate) mod hostile_chains;
