//! Revocation lists as they are kept in memory: sorted, so that a handshake does not read through a long one.

use std::sync::OnceLock;

use crate::tls::verify::x509::{Certificate, RevocationList};

/// A revocation list.
#[derive(Debug)]
pub(crate) struct Crl {
    der: Box<[u8]>,
    issuer: Box<[u8]>,
    this_update: i64,
    next_update: Option<i64>,
    /// Offset in `der` and length of each serial number, in the order of their bytes.
    serials: Box<[(u32, u8)]>,
    /// SubjectPublicKeyInfo of the issuer, once the signature was verified with it.
    verified_key: OnceLock<Box<[u8]>>,
}

impl Crl {
    /// Parses a list. `None` if it is malformed or has a critical extension.
    pub(crate) fn from_der(der: &[u8]) -> Option<Self> {
        let list = RevocationList::parse(der)?;
        let location = |serial: &[u8]| {
            let offset = (serial.as_ptr() as usize).checked_sub(der.as_ptr() as usize)?;
            Some((u32::try_from(offset).ok()?, u8::try_from(serial.len()).ok()?))
        };
        let mut sorted = list.serials.clone();
        sorted.sort_unstable();
        Some(Self {
            issuer: list.issuer.into(),
            this_update: list.this_update,
            next_update: list.next_update,
            serials: sorted.into_iter().map(location).collect::<Option<_>>()?,
            verified_key: OnceLock::new(),
            der: der.into(),
        })
    }

    /// Whether `issuer` issued the list. `is_signed` verifies its signature, and is called until it has succeeded once.
    pub(crate) fn is_issued_by(
        &self,
        issuer: &Certificate<'_>,
        is_signed: impl FnOnce(&RevocationList<'_>) -> bool,
    ) -> bool {
        if *self.issuer != *issuer.subject {
            return false;
        }
        if self.verified_key.get().is_some_and(|key| **key == *issuer.public_key_info) {
            return true;
        }
        let is_signed = RevocationList::parse(&self.der).is_some_and(|list| is_signed(&list));
        if is_signed {
            let _ = self.verified_key.set(issuer.public_key_info.into());
        }
        is_signed
    }

    /// Whether the list revokes the certificate with this serial number.
    pub(crate) fn contains(&self, serial: &[u8]) -> bool {
        let bytes = |&(offset, length): &(u32, u8)| self.der.get(offset as usize..)?.get(..usize::from(length));
        self.serials.binary_search_by(|location| bytes(location).cmp(&Some(serial))).is_ok()
    }

    /// Whether `now` is between the dates of the list.
    pub(crate) fn is_current(&self, now: i64) -> bool {
        now >= self.this_update && self.next_update.is_none_or(|next| now <= next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod};
    use rcgen::{KeyPair, RevokedCertParams, SerialNumber};

    #[test]
    fn each_of_many_serial_numbers_is_found_and_no_other() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap();
        let time = rcgen::date_time_ymd(2025, 1, 1);
        let revoked = (0..5000u64).rev().map(|number| RevokedCertParams {
            serial_number: SerialNumber::from(number * 7 + 1),
            revocation_time: time,
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: time,
            next_update: rcgen::date_time_ymd(2026, 1, 1),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let der = list.signed_by(&Issuer::from_params(&params, &key)).unwrap().der().clone();
        let crl = Crl::from_der(&der).unwrap();
        let is_revoked = |number: u64| {
            let bytes = number.to_be_bytes();
            let from = bytes.iter().position(|byte| *byte != 0).unwrap_or(7);
            let padding = if bytes[from] > 0x7f { &[0][..] } else { &[] };
            crl.contains(&[padding, &bytes[from..]].concat())
        };
        assert!((0..35_000).all(|number| is_revoked(number) == (number % 7 == 1)));
        assert!(crl.is_current(1_750_000_000) && !crl.is_current(1_700_000_000) && !crl.is_current(1_800_000_000));
        let issuer = Certificate::parse(ca.der()).unwrap();
        assert!(!crl.is_issued_by(&issuer, |_| false) && crl.is_issued_by(&issuer, |_| true));
        // The key was verified above.
        assert!(crl.is_issued_by(&issuer, |_| false));
    }
}
