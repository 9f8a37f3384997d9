//! Lists of certificates that are no longer valid, as they are kept: a long one is not read through at each handshake.

use std::sync::OnceLock;

use crate::tls::verify::x509::{Certificate, RevocationList};

/// A list.
#[derive(Debug)]
pub(crate) struct Revoked {
    der: Box<[u8]>,
    issuer: Box<[u8]>,
    this_update: i64,
    next_update: Option<i64>,
    /// Where serial numbers are in `der`, and their lengths, by their bytes.
    serials: Box<[(u32, u8)]>,
    /// The key that has signed it, as soon as that is known.
    signer: OnceLock<Box<[u8]>>,
}

impl Revoked {
    /// Reads a list; `None` if it is none, or says something of which nothing is known here.
    pub(crate) fn read(der: &[u8]) -> Option<Self> {
        let list = RevocationList::parse(der)?;
        let place = |serial: &[u8]| {
            let at = (serial.as_ptr() as usize).checked_sub(der.as_ptr() as usize)?;
            Some((u32::try_from(at).ok()?, u8::try_from(serial.len()).ok()?))
        };
        let mut sorted = list.serials.clone();
        sorted.sort_unstable();
        Some(Self {
            issuer: list.issuer.into(),
            this_update: list.this_update,
            next_update: list.next_update,
            serials: sorted.into_iter().map(place).collect::<Option<_>>()?,
            signer: OnceLock::new(),
            der: der.into(),
        })
    }

    /// Whether it is the list of this issuer; `is_signed` says whether the issuer's key has made its signature.
    pub(crate) fn is_of(&self, issuer: &Certificate<'_>, is_signed: impl FnOnce(&RevocationList<'_>) -> bool) -> bool {
        if *self.issuer != *issuer.subject {
            return false;
        }
        if self.signer.get().is_some_and(|signer| **signer == *issuer.key_info) {
            return true;
        }
        let signed = RevocationList::parse(&self.der).is_some_and(|list| is_signed(&list));
        if signed {
            let _ = self.signer.set(issuer.key_info.into());
        }
        signed
    }

    pub(crate) fn names(&self, serial: &[u8]) -> bool {
        let bytes = |&(at, length): &(u32, u8)| {
            let at = at as usize;
            self.der.get(at..at + usize::from(length)).unwrap_or_default()
        };
        self.serials.binary_search_by(|place| bytes(place).cmp(serial)).is_ok()
    }

    pub(crate) fn is_fresh(&self, now: i64) -> bool {
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
        let own = params.self_signed(&key).unwrap();
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
        let list = Revoked::read(&der).unwrap();
        let found = |number: u64| {
            let bytes = number.to_be_bytes();
            let from = bytes.iter().position(|byte| *byte != 0).unwrap_or(7);
            let padding = if bytes[from] > 0x7f { &[0][..] } else { &[] };
            list.names(&[padding, &bytes[from..]].concat())
        };
        assert!((0..35_000).all(|number| found(number) == (number % 7 == 1)));
        assert!(list.is_fresh(1_750_000_000) && !list.is_fresh(1_700_000_000) && !list.is_fresh(1_800_000_000));
        let issuer = Certificate::parse(own.der()).unwrap();
        assert!(!list.is_of(&issuer, |_| false) && list.is_of(&issuer, |_| true));
        // It is known now.
        assert!(list.is_of(&issuer, |_| false));
    }
}
