//! Verifies that a chain of certificates leads to a trusted one (RFC 5280 6).
//!
//! The rules are OpenSSL's, which nginx's users know: the chain must end in a trusted certificate that is self-issued; a
//! trusted certificate is accepted whatever its extensions say; once there is a revocation list, each certificate of the
//! chain needs one. A critical extension that is not supported makes a chain invalid.

use std::fmt;

use futures_rustls::rustls;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::CertificateDer;

use crate::tls::verify::crl::Crl;
use crate::tls::verify::x509::{Certificate, RevocationList};

/// Signatures that are verified for one chain: a peer that sends many certificates of one name can't have all of them tried.
const SIGNATURES_MAX: u32 = 32;
/// Certificates of a chain.
const CHAIN_LENGTH_MAX: usize = 10;
/// id-kp-serverAuth and id-kp-clientAuth. anyExtendedKeyUsage does not stand for either: the issuer did not mean these.
const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
/// Bits of KeyUsage (RFC 5280 4.2.1.3).
const DIGITAL_SIGNATURE: u8 = 0x80;
const KEY_ENCIPHERMENT: u8 = 0x20;
const KEY_AGREEMENT: u8 = 0x08;
const CERT_SIGN: u8 = 0x04;
const CRL_SIGN: u8 = 0x02;

/// The role of the peer that presents a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Server,
    Client,
}

/// Trusted certificates, revocation lists and limits.
#[derive(Debug)]
pub(crate) struct Verifier {
    pub(crate) anchors: Vec<CertificateDer<'static>>,
    pub(crate) crls: Vec<Crl>,
    /// The most intermediates between the first and the last certificate of a chain.
    pub(crate) depth: u32,
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
}

/// Why a chain is rejected. The messages are OpenSSL's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyError {
    Malformed,
    NotYetValid,
    Expired,
    /// The certificate of the peer is self-issued and not trusted.
    SelfSignedLeaf,
    /// The last certificate of the chain is self-issued and not trusted.
    SelfSignedRoot,
    /// No issuer of the peer's certificate was found.
    UnknownLeafIssuer,
    /// No issuer of an intermediate was found.
    UnknownIssuer,
    /// An intermediate is trusted, but its own issuer was not found.
    IncompleteChain,
    BadSignature,
    Revoked,
    NoCrl,
    ExpiredCrl,
    WrongPurpose,
    InvalidCa,
    ChainTooLong,
    UnhandledCriticalExtension,
    HostMismatch,
}

impl VerifyError {
    /// Whether the chain only lacks a trusted issuer, which `ssl_verify_client optional_no_ca` tolerates.
    pub(crate) fn is_unknown_issuer(self) -> bool {
        matches!(self, Self::SelfSignedLeaf | Self::SelfSignedRoot | Self::UnknownLeafIssuer | Self::UnknownIssuer)
    }
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "certificate rejected",
            Self::NotYetValid => "certificate is not yet valid",
            Self::Expired => "certificate has expired",
            Self::SelfSignedLeaf => "self-signed certificate",
            Self::SelfSignedRoot => "self-signed certificate in certificate chain",
            Self::UnknownLeafIssuer => "unable to verify the first certificate",
            Self::UnknownIssuer => "unable to get local issuer certificate",
            Self::IncompleteChain => "unable to get issuer certificate",
            Self::BadSignature => "certificate signature failure",
            Self::Revoked => "certificate revoked",
            Self::NoCrl => "unable to get certificate CRL",
            Self::ExpiredCrl => "CRL has expired",
            Self::WrongPurpose => "unsuitable certificate purpose",
            Self::InvalidCa => "invalid CA certificate",
            Self::ChainTooLong => "certificate chain too long",
            Self::UnhandledCriticalExtension => "unhandled critical extension",
            Self::HostMismatch => "hostname mismatch",
        })
    }
}

impl Verifier {
    /// Verifies a chain at the time `now`. Its first certificate is the peer's own.
    pub(crate) fn verify(&self, chain: &[CertificateDer<'_>], purpose: Purpose, now: i64) -> Result<(), VerifyError> {
        let chain: Option<Vec<_>> = chain.iter().take(CHAIN_LENGTH_MAX).map(|der| Certificate::parse(der)).collect();
        let chain = chain.ok_or(VerifyError::Malformed)?;
        let (leaf, intermediates) = chain.split_first().ok_or(VerifyError::Malformed)?;
        let anchors: Vec<Certificate<'_>> = self.anchors.iter().filter_map(|der| Certificate::parse(der)).collect();
        let mut builder = PathBuilder { verifier: self, anchors: &anchors, intermediates, purpose, now, signatures: 0 };
        match builder.extend(&mut vec![leaf]) {
            // Where an unknown issuer is tolerated (`optional_no_ca`), the dates count nevertheless.
            Err(error) if error.is_unknown_issuer() => check_validity(leaf, now).and(Err(error)),
            result => result,
        }
    }

    /// Whether the key of `signer` made `signature` of `message`, a certificate or a revocation list.
    fn is_signed_by(&self, message: &[u8], algorithm: &[u8], signature: &[u8], signer: &Certificate<'_>) -> bool {
        self.algorithms.all.iter().any(|supported| {
            *supported.public_key_alg_id() == *signer.key_algorithm
                && *supported.signature_alg_id() == *algorithm
                && supported.verify_signature(signer.public_key, message, signature).is_ok()
        })
    }
}

/// The search for a path from the peer's certificate to an anchor.
struct PathBuilder<'s> {
    verifier: &'s Verifier,
    anchors: &'s [Certificate<'s>],
    /// What the peer sent beside its own certificate, in any order.
    intermediates: &'s [Certificate<'s>],
    purpose: Purpose,
    now: i64,
    /// Signatures verified so far.
    signatures: u32,
}

impl<'s> PathBuilder<'s> {
    /// Extends `path`, whose last certificate needs an issuer unless it is a root, to an anchor, and checks the whole path.
    fn extend(&mut self, path: &mut Vec<&'s Certificate<'s>>) -> Result<(), VerifyError> {
        let Some(&last) = path.last() else { return Err(VerifyError::Malformed) };
        let is_trusted = self.anchors.iter().any(|anchor| is_same(anchor, last));
        if last.is_self_issued() && is_trusted {
            return self.check_path(path);
        }
        let mut error = match (path.len(), last.is_self_issued()) {
            (1, true) => VerifyError::SelfSignedLeaf,
            (_, true) => VerifyError::SelfSignedRoot,
            _ if is_trusted => VerifyError::IncompleteChain,
            (1, _) => VerifyError::UnknownLeafIssuer,
            _ => VerifyError::UnknownIssuer,
        };
        if path.len() >= CHAIN_LENGTH_MAX {
            return Err(VerifyError::ChainTooLong);
        }
        // Anchors first: a peer can't forge them.
        for issuer in self.anchors.iter().chain(self.intermediates) {
            let is_issuer = issuer.subject == last.issuer && !path.iter().any(|earlier| is_same(earlier, issuer));
            if !is_issuer {
                continue;
            }
            self.signatures += 1;
            if self.signatures > SIGNATURES_MAX {
                return Err(VerifyError::ChainTooLong);
            }
            if !self.verifier.is_signed_by(last.tbs, last.signature_algorithm, last.signature, issuer) {
                error = VerifyError::BadSignature;
                continue;
            }
            path.push(issuer);
            match self.extend(path) {
                Ok(()) => return Ok(()),
                Err(further) => error = further,
            }
            path.pop();
        }
        Err(error)
    }

    /// Checks the dates, extensions and revocation of a path that ends in an anchor.
    fn check_path(&self, path: &[&Certificate<'s>]) -> Result<(), VerifyError> {
        if path.len() > self.verifier.depth as usize + 2 {
            return Err(VerifyError::ChainTooLong);
        }
        let (ext_key_usage, leaf_key_usages) = match self.purpose {
            Purpose::Server => (SERVER_AUTH, DIGITAL_SIGNATURE | KEY_ENCIPHERMENT | KEY_AGREEMENT),
            Purpose::Client => (CLIENT_AUTH, DIGITAL_SIGNATURE | KEY_AGREEMENT),
        };
        // Issuers below the current certificate that are not self-issued (RFC 5280 6.1.4 l).
        let mut path_len = 0;
        for (index, certificate) in path.iter().enumerate() {
            check_validity(certificate, self.now)?;
            let extensions = &certificate.extensions;
            if extensions.has_unsupported {
                return Err(VerifyError::UnhandledCriticalExtension);
            }
            if extensions.ext_key_usages.as_ref().is_some_and(|usages| !usages.contains(&ext_key_usage)) {
                return Err(VerifyError::WrongPurpose);
            }
            if index == 0 {
                if !allows_key_usage(certificate, leaf_key_usages) {
                    return Err(VerifyError::WrongPurpose);
                }
                continue;
            }
            let is_ca = match extensions.basic_constraints {
                Some((is_ca, path_len_max)) => is_ca && path_len_max.is_none_or(|max| path_len <= max),
                // Version 1 has no extensions; only the root can be trusted to be a CA.
                None => certificate.is_v1 && index + 1 == path.len(),
            };
            if !is_ca || !allows_key_usage(certificate, CERT_SIGN) {
                return Err(VerifyError::InvalidCa);
            }
            path_len += u32::from(!certificate.is_self_issued());
        }
        self.check_revocation(path)
    }

    fn check_revocation(&self, path: &[&Certificate<'s>]) -> Result<(), VerifyError> {
        if self.verifier.crls.is_empty() {
            return Ok(());
        }
        let mut result = Ok(());
        for (index, certificate) in path.iter().enumerate() {
            // The root is its own issuer.
            let issuer = path.get(index + 1).unwrap_or(certificate);
            let is_signed_by_issuer = |list: &RevocationList<'_>| {
                self.verifier.is_signed_by(list.tbs, list.signature_algorithm, list.signature, issuer)
            };
            let mut status = Err(VerifyError::NoCrl);
            for crl in &self.verifier.crls {
                if !allows_key_usage(issuer, CRL_SIGN) || !crl.is_issued_by(issuer, is_signed_by_issuer) {
                    continue;
                }
                if crl.contains(certificate.serial) {
                    return Err(VerifyError::Revoked);
                }
                match crl.is_current(self.now) {
                    true => status = Ok(()),
                    false if status.is_err() => status = Err(VerifyError::ExpiredCrl),
                    false => {}
                }
            }
            result = result.and(status);
        }
        result
    }
}

fn check_validity(certificate: &Certificate<'_>, now: i64) -> Result<(), VerifyError> {
    match now {
        now if now < certificate.not_before => Err(VerifyError::NotYetValid),
        now if now > certificate.not_after => Err(VerifyError::Expired),
        _ => Ok(()),
    }
}

/// Whether KeyUsage, if present, allows one of `usages`.
fn allows_key_usage(certificate: &Certificate<'_>, usages: u8) -> bool {
    certificate.extensions.key_usage.is_none_or(|allowed| allowed & usages != 0)
}

fn is_same(one: &Certificate<'_>, other: &Certificate<'_>) -> bool {
    one.tbs == other.tbs && one.signature == other.signature
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Eku, IsCa, Issuer, KeyPair};
    use rcgen::{CertificateRevocationListParams, KeyIdMethod, KeyUsagePurpose, RevokedCertParams, SerialNumber};
    use rustls::pki_types::CertificateRevocationListDer;

    /// A day in 2026, on which all certificates of these tests are valid.
    const NOW: i64 = 1_782_000_000;

    struct TestCert {
        params: CertificateParams,
        key: KeyPair,
        der: CertificateDer<'static>,
    }

    fn params(name: &str, serial: u64) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2027, 1, 1);
        params
    }

    fn root(name: &str) -> TestCert {
        let mut params = params(name, 1);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        self_signed(params)
    }

    fn self_signed(params: CertificateParams) -> TestCert {
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().clone();
        TestCert { params, key, der }
    }

    impl TestCert {
        fn issue(&self, params: CertificateParams) -> Self {
            let key = KeyPair::generate().unwrap();
            let issuer = Issuer::from_params(&self.params, &self.key);
            let der = params.signed_by(&key, &issuer).unwrap().der().clone();
            Self { params, key, der }
        }

        fn issue_leaf(&self, name: &str, serial: u64) -> Self {
            self.issue(params(name, serial))
        }

        fn issue_ca(&self, name: &str, path_len: u8) -> Self {
            let mut params = params(name, 7);
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
            self.issue(params)
        }

        fn revoke(&self, serials: &[u64], next_update: i32) -> CertificateRevocationListDer<'static> {
            let revoked = serials.iter().map(|serial| RevokedCertParams {
                serial_number: SerialNumber::from(*serial),
                revocation_time: rcgen::date_time_ymd(2026, 1, 2),
                reason_code: None,
                invalidity_date: None,
            });
            let list = CertificateRevocationListParams {
                this_update: rcgen::date_time_ymd(2025, 1, 2),
                next_update: rcgen::date_time_ymd(next_update, 1, 1),
                crl_number: SerialNumber::from(1u64),
                issuing_distribution_point: None,
                revoked_certs: revoked.collect(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            list.signed_by(&Issuer::from_params(&self.params, &self.key)).unwrap().der().clone()
        }
    }

    fn verifier(anchors: &[&TestCert]) -> Verifier {
        Verifier {
            anchors: anchors.iter().map(|cert| cert.der.clone()).collect(),
            crls: Vec::new(),
            depth: 1,
            algorithms: crate::tls::server_config::crypto_provider().signature_verification_algorithms,
        }
    }

    fn verify(verifier: &Verifier, chain: &[&TestCert]) -> Result<(), VerifyError> {
        let chain: Vec<_> = chain.iter().map(|cert| cert.der.clone()).collect();
        verifier.verify(&chain, Purpose::Client, NOW)
    }

    #[test]
    fn a_chain_must_end_in_a_trusted_self_signed_certificate() {
        let (ca, other) = (root("ca"), root("other"));
        let middle = ca.issue_ca("middle", 0);
        let leaf = middle.issue_leaf("leaf", 2);
        assert_eq!(verify(&verifier(&[&ca]), &[&leaf, &middle]), Ok(()));
        assert_eq!(verify(&verifier(&[&other, &ca]), &[&leaf, &ca, &middle]), Ok(()));
        assert_eq!(verify(&verifier(&[&ca, &middle]), &[&leaf]), Ok(()));
        assert_eq!(verify(&verifier(&[&ca]), &[&leaf]), Err(VerifyError::UnknownLeafIssuer));
        assert_eq!(verify(&verifier(&[&other]), &[&leaf, &middle]), Err(VerifyError::UnknownIssuer));
        assert_eq!(verify(&verifier(&[&other]), &[&leaf, &middle, &ca]), Err(VerifyError::SelfSignedRoot));
        assert_eq!(verify(&verifier(&[&middle]), &[&leaf]), Err(VerifyError::IncompleteChain));
        assert_eq!(verify(&verifier(&[]), &[&ca]), Err(VerifyError::SelfSignedLeaf));
        assert_eq!(verify(&verifier(&[&ca]), &[]), Err(VerifyError::Malformed));
        let shallow = Verifier { depth: 0, ..verifier(&[&ca]) };
        assert_eq!(verify(&shallow, &[&leaf, &middle]), Err(VerifyError::ChainTooLong));
    }

    #[test]
    fn a_trusted_certificate_is_trusted_whatever_it_is() {
        let device = self_signed(params("device", 9));
        assert_eq!(verify(&verifier(&[&device]), &[&device]), Ok(()));
        let namesake = self_signed(params("device", 9));
        assert_eq!(verify(&verifier(&[&device]), &[&namesake]), Err(VerifyError::BadSignature));
    }

    #[test]
    fn only_a_ca_can_issue() {
        let ca = root("ca");
        let leaf = ca.issue_leaf("leaf", 2);
        let forged = leaf.issue_leaf("victim", 3);
        assert_eq!(verify(&verifier(&[&ca]), &[&forged, &leaf]), Err(VerifyError::InvalidCa));
        let middle = ca.issue_ca("middle", 0);
        let below = middle.issue_ca("below", 0);
        let deep = Verifier { depth: 5, ..verifier(&[&ca]) };
        assert_eq!(verify(&deep, &[&below.issue_leaf("leaf", 4), &below, &middle]), Err(VerifyError::InvalidCa));
        // The name of the issuer without its key.
        assert_eq!(verify(&verifier(&[&ca]), &[&root("ca").issue_leaf("leaf", 5)]), Err(VerifyError::BadSignature));
    }

    #[test]
    fn dates_key_usages_and_critical_extensions_are_checked() {
        let ca = root("ca");
        let issued = |edit: &dyn Fn(&mut CertificateParams)| {
            let mut params = params("leaf", 2);
            edit(&mut params);
            ca.issue(params)
        };
        type Edit<'e> = &'e dyn Fn(&mut CertificateParams);
        let critical = |params: &mut CertificateParams| {
            let mut extension = rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
            extension.set_criticality(true);
            params.custom_extensions = vec![extension];
        };
        let cases: [(Result<(), VerifyError>, Edit<'_>); 8] = [
            (Err(VerifyError::Expired), &|params| params.not_after = rcgen::date_time_ymd(2026, 2, 1)),
            (Err(VerifyError::NotYetValid), &|params| params.not_before = rcgen::date_time_ymd(2026, 12, 1)),
            (Err(VerifyError::WrongPurpose), &|params| params.extended_key_usages = vec![Eku::ServerAuth]),
            (Ok(()), &|params| params.extended_key_usages = vec![Eku::ServerAuth, Eku::ClientAuth]),
            (Err(VerifyError::WrongPurpose), &|params| params.extended_key_usages = vec![Eku::Any]),
            (Err(VerifyError::WrongPurpose), &|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]),
            (Ok(()), &|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
            (Err(VerifyError::UnhandledCriticalExtension), &critical),
        ];
        for (expected, edit) in cases {
            assert_eq!(verify(&verifier(&[&ca]), &[&issued(edit)]), expected);
        }
        let mut expired = params("ca", 1);
        expired.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        expired.not_after = rcgen::date_time_ymd(2026, 2, 1);
        let expired = self_signed(expired);
        assert_eq!(verify(&verifier(&[&expired]), &[&expired.issue_leaf("leaf", 2)]), Err(VerifyError::Expired));
    }

    #[test]
    fn once_there_is_a_crl_each_issuer_needs_one() {
        let ca = root("ca");
        let middle = ca.issue_ca("middle", 0);
        let leaf = middle.issue_leaf("leaf", 2);
        let verify_with = |lists: Vec<CertificateRevocationListDer<'static>>| {
            let crls = lists.iter().map(|list| Crl::from_der(list).unwrap()).collect();
            let verifier = Verifier { crls, ..verifier(&[&ca]) };
            let first = verify(&verifier, &[&leaf, &middle]);
            assert_eq!(verify(&verifier, &[&leaf, &middle]), first); // the signer is cached
            first
        };
        let (ca_list, middle_list) = (ca.revoke(&[99], 2027), middle.revoke(&[98], 2027));
        assert_eq!(verify_with(vec![ca_list.clone(), middle_list.clone()]), Ok(()));
        assert_eq!(verify_with(vec![ca_list.clone()]), Err(VerifyError::NoCrl));
        assert_eq!(verify_with(vec![ca_list.clone(), middle.revoke(&[2, 98], 2027)]), Err(VerifyError::Revoked));
        assert_eq!(verify_with(vec![ca.revoke(&[7], 2027)]), Err(VerifyError::Revoked));
        assert_eq!(verify_with(vec![ca_list.clone(), middle.revoke(&[], 2026)]), Err(VerifyError::ExpiredCrl));
        // A list of another CA with the same name.
        let impostor = root("middle").revoke(&[], 2027);
        assert_eq!(verify_with(vec![ca_list, impostor]), Err(VerifyError::NoCrl));
    }

    #[test]
    fn many_certificates_of_one_name_are_not_all_tried() {
        let ca = root("ca");
        let sent: Vec<TestCert> = (0..CHAIN_LENGTH_MAX).map(|_| root("ca").issue_ca("ca", 9)).collect();
        let leaf = ca.issue_leaf("leaf", 2);
        let chain: Vec<&TestCert> = std::iter::once(&leaf).chain(&sent).collect();
        assert!(verify(&verifier(&[]), &chain).is_err());
    }
}
