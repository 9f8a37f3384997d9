//! Verification of certificates and of what their keys have signed.
//!
//! [`chain`] builds and checks a path to a trusted certificate, [`crl`] keeps revocation lists, [`host`] compares names,
//! [`signature`] checks the signature of a handshake, and [`x509`] parses DER.

pub mod x509;
pub(crate) mod crl;
pub(crate) mod chain;
pub(crate) mod host;
pub(crate) mod signature;
#[cfg(test)]
pub(crate) mod hostile_chains;

use crate::runtime::clock;

/// Seconds since 1970, as certificates count them.
pub(crate) fn now() -> i64 {
    i64::try_from(clock::since_epoch().as_secs()).unwrap_or(i64::MAX)
}
