//! Whether a chain of certificates leads to one that is trusted (RFC 5280 6), and whether a certificate belongs to a host
//! (RFC 6125): by webpki, the verifier of rustls.
//!
//! nginx's users know the rules of OpenSSL, and webpki has others in some places. Where it would accept what OpenSSL
//! refuses, a check is added here:
//!
//! - A listed certificate is the end of a chain if it is issued by itself; webpki would take any. Other listed ones are
//!   issuers like those that the peer sends, so that they can be revoked and count for the depth.
//! - webpki takes the key of a listed certificate and nothing else: its dates, whether it is a CA, its KeyUsage and its
//!   pathLenConstraint are checked here. Without that, any listed device could issue certificates.
//! - webpki doesn't look at KeyUsage: issuers must have keyCertSign, the peer what its side of a handshake needs.
//! - webpki applies NameConstraints to SubjectAltName only. Below them a common name counts for nothing.
//!
//! Where webpki refuses what OpenSSL accepts, it stays so, but for two kinds that are common at home: version 1, which
//! `openssl x509 -req -CA` of OpenSSL 3.0 makes, and a listed certificate of a CA that the peer uses itself, which
//! `openssl req -x509` makes. Neither is accepted where there are revocation lists, since webpki would not apply these.
//!
//! The table of all differences is `hostile_chains`.

use std::fmt;
use std::ptr;
use std::time::Duration;

use futures_rustls::rustls;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, SubjectPublicKeyInfoDer};
use rustls::pki_types::{SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct};
use webpki::{BorrowedCertRevocationList, CertRevocationList, EndEntityCert, Error, ExpirationPolicy, KeyUsage};
use webpki::{RawPublicKeyEntity, RevocationOptionsBuilder, VerifiedPath, anchor_from_trusted_cert};

use crate::tls::x509::Certificate;

/// Issuers that a peer sends and that are looked at, and of these with one name: webpki tries each order of those whose
/// names fit before it checks a signature, and ten of one name have 187,000.
const SENT_MAX: usize = 10;
const NAMESAKES_MAX: usize = 2;
/// Bits of KeyUsage (RFC 5280 4.2.1.3).
const DIGITAL_SIGNATURE: u8 = 0x80;
const KEY_ENCIPHERMENT: u8 = 0x20;
const KEY_AGREEMENT: u8 = 0x08;
const CERT_SIGN: u8 = 0x04;

/// The side of a connection that a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Server,
    Client,
}

/// What is trusted.
#[derive(Debug)]
pub(super) struct Verifier {
    /// Listed certificates that are issued by themselves, and what webpki takes of each.
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    /// The other listed ones.
    between: Vec<CertificateDer<'static>>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
    /// Certificates between the first and the last one of a chain.
    depth: u32,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Why a chain is not trusted, in OpenSSL's words, as nginx logs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyError(pub(super) &'static str);

/// The issuer of a certificate is not known here: as [`unknown`] tells them apart.
const SELF_SIGNED: VerifyError = VerifyError("self-signed certificate");
const SELF_SIGNED_ROOT: VerifyError = VerifyError("self-signed certificate in certificate chain");
const UNKNOWN_ISSUER: VerifyError = VerifyError("unable to verify the first certificate");
const UNKNOWN_ISSUER_OF_ISSUER: VerifyError = VerifyError("unable to get local issuer certificate");

const PURPOSE: VerifyError = VerifyError("unsuitable certificate purpose");
const NO_REVOCATION_LIST: VerifyError = VerifyError("unable to get certificate CRL");

impl VerifyError {
    pub(super) const NAME: Self = Self("hostname mismatch");

    /// Whether it only means that the issuer is not known here (`ssl_verify_client optional_no_ca`).
    pub(super) fn is_unknown_issuer(self) -> bool {
        [SELF_SIGNED, SELF_SIGNED_ROOT, UNKNOWN_ISSUER, UNKNOWN_ISSUER_OF_ISSUER].contains(&self)
    }
}

impl From<Error> for VerifyError {
    fn from(error: Error) -> Self {
        match error {
            Error::CertNotValidYet { .. } => Self("certificate is not yet valid"),
            Error::CertExpired { .. } => Self("certificate has expired"),
            Error::UnknownIssuer => UNKNOWN_ISSUER,
            Error::InvalidSignatureForPublicKey
            | Error::UnsupportedSignatureAlgorithmContext(_)
            | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Self("certificate signature failure"),
            Error::CertRevoked => Self("certificate revoked"),
            Error::CrlExpired { .. } => Self("CRL has expired"),
            Error::UnknownRevocationStatus
            | Error::InvalidCrlSignatureForPublicKey
            | Error::UnsupportedCrlSignatureAlgorithmContext(_)
            | Error::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_)
            | Error::IssuerNotCrlSigner => NO_REVOCATION_LIST,
            Error::CaUsedAsEndEntity | Error::RequiredEkuNotFoundContext(_) | Error::EmptyEkuExtension => PURPOSE,
            Error::EndEntityUsedAsCa => Self("invalid CA certificate"),
            Error::PathLenConstraintViolated => Self("path length constraint exceeded"),
            Error::MaximumPathDepthExceeded => Self("certificate chain too long"),
            Error::UnsupportedCriticalExtension => Self("unhandled critical extension"),
            Error::NameConstraintViolation => Self("permitted subtree violation"),
            _ => Self("certificate rejected"),
        }
    }
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Verifier {
    /// Trusts listed certificates, as far as webpki can read them.
    pub(super) fn new(
        listed: Vec<CertificateDer<'static>>,
        revoked: Vec<CertificateRevocationListDer<'static>>,
        depth: u32,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Self {
        let is_root = |der: &CertificateDer<'_>| Certificate::parse(der).is_some_and(|listed| listed.is_self_issued());
        let (roots, between): (Vec<_>, Vec<_>) = listed.into_iter().partition(is_root);
        let anchored = |der: CertificateDer<'static>| Some((anchor_from_trusted_cert(&der).ok()?.to_owned(), der));
        let (anchors, roots) = roots.into_iter().filter_map(anchored).unzip();
        Self { roots, anchors, between, revoked, depth, algorithms }
    }

    /// Judges a chain, whose first certificate is the peer's own, at a time in seconds since 1970.
    pub(super) fn judge(&self, chain: &[CertificateDer<'_>], purpose: Purpose, now: u64) -> Result<(), VerifyError> {
        let (der, sent) = chain.split_first().ok_or(Error::BadDer)?;
        let own = Certificate::parse(der).ok_or(Error::BadDer)?;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        if own.is_v1 {
            return self.verify_v1(&own, now);
        }
        let between = self.issuers(sent);
        match self.verify(der, &between, purpose, now) {
            Err(Error::CaUsedAsEndEntity) if own.is_self_issued() => match self.roots.contains(der) {
                true if self.revoked.is_empty() => {}
                true => return Err(NO_REVOCATION_LIST),
                false => return Err(SELF_SIGNED),
            },
            Err(Error::UnknownIssuer) => return Err(unknown(&own, &between)),
            verified => verified?,
        }
        let usages = match purpose {
            Purpose::Server => DIGITAL_SIGNATURE | KEY_ENCIPHERMENT | KEY_AGREEMENT,
            Purpose::Client => DIGITAL_SIGNATURE | KEY_AGREEMENT,
        };
        if own.may(usages) { Ok(()) } else { Err(PURPOSE) }
    }

    /// Certificates that may stand between a peer's own and a root. Others than those of version 3 can't.
    pub(super) fn issuers<'c>(&'c self, sent: &'c [CertificateDer<'_>]) -> Vec<CertificateDer<'c>> {
        let mut names: Vec<&[u8]> = Vec::new();
        let mut issuers: Vec<CertificateDer<'_>> = self.between.iter().map(|der| der.as_ref().into()).collect();
        for der in sent.iter().take(SENT_MAX) {
            let Some(issuer) = Certificate::parse(der).filter(|issuer| !issuer.is_v1) else { continue };
            let namesakes = names.iter().filter(|name| **name == issuer.subject).count();
            if namesakes < NAMESAKES_MAX && !issuers.iter().any(|known| known == der) {
                names.push(issuer.subject);
                issuers.push(der.as_ref().into());
            }
        }
        issuers
    }

    fn verify(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        purpose: Purpose,
        now: UnixTime,
    ) -> Result<(), Error> {
        let read = |der| Some(CertRevocationList::from(BorrowedCertRevocationList::from_der(der).ok()?));
        let lists: Vec<CertRevocationList<'_>> = self.revoked.iter().filter_map(|der| read(der)).collect();
        let lists: Vec<&CertRevocationList<'_>> = lists.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&lists).ok();
        let revocation = revocation.map(|options| options.with_expiration_policy(ExpirationPolicy::Enforce).build());
        let usage = match purpose {
            Purpose::Server => KeyUsage::server_auth(),
            Purpose::Client => KeyUsage::client_auth(),
        };
        let approve = |path: &VerifiedPath<'_>| self.approve(path, now);
        EndEntityCert::try_from(own)?.verify_for_usage(
            self.algorithms.all,
            &self.anchors,
            between,
            now,
            usage,
            revocation,
            Some(&approve),
        )?;
        Ok(())
    }

    /// Checks what webpki leaves out; after an error it looks for another path.
    fn approve(&self, path: &VerifiedPath<'_>, now: UnixTime) -> Result<(), Error> {
        let mut roots = self.anchors.iter().zip(&self.roots);
        let (_, root) = roots.find(|(anchor, _)| ptr::eq(*anchor, path.anchor())).ok_or(Error::UnknownIssuer)?;
        let own = path.end_entity().der();
        if own == *root {
            return Ok(());
        }
        let between: Vec<CertificateDer<'_>> = path.intermediate_certificates().map(|issuer| issuer.der()).collect();
        if between.len() > self.depth as usize {
            return Err(Error::MaximumPathDepthExceeded);
        }
        let root = Certificate::parse(root).ok_or(Error::BadDer)?;
        may_issue(&root, between.len(), now)?;
        let mut is_constrained = root.extensions.is_constrained;
        for der in &between {
            let issuer = Certificate::parse(der).ok_or(Error::BadDer)?;
            if !issuer.may(CERT_SIGN) {
                return Err(Error::EndEntityUsedAsCa);
            }
            is_constrained |= issuer.extensions.is_constrained;
        }
        match Certificate::parse(&own).ok_or(Error::BadDer)?.extensions.has_host {
            Some(true) => Ok(()),
            _ if is_constrained => Err(Error::NameConstraintViolation),
            _ => Ok(()),
        }
    }

    /// Verifies a certificate of version 1, for which webpki has no more than the check of a signature: a root must have
    /// signed it. It has no extensions, thus no names that constraints could be applied to.
    fn verify_v1(&self, own: &Certificate<'_>, now: UnixTime) -> Result<(), VerifyError> {
        in_time(own, now)?;
        let mut why = unknown(own, &[]);
        let roots = self.roots.iter().filter_map(|der| Certificate::parse(der));
        for root in roots.filter(|root| root.subject == own.issuer) {
            why = match self.has_signed(&root, own).and_then(|()| may_issue(&root, 0, now)) {
                Ok(()) if !self.revoked.is_empty() => NO_REVOCATION_LIST,
                Ok(()) if root.extensions.is_constrained => Error::NameConstraintViolation.into(),
                Ok(()) => return Ok(()),
                Err(error) => error.into(),
            };
        }
        Err(why)
    }

    fn has_signed(&self, issuer: &Certificate<'_>, certificate: &Certificate<'_>) -> Result<(), Error> {
        let info = SubjectPublicKeyInfoDer::from(issuer.key_info);
        let key = RawPublicKeyEntity::try_from(&info)?;
        let verifies = |known: &&dyn SignatureVerificationAlgorithm| {
            *known.signature_alg_id() == *certificate.signature_algorithm
                && key.verify_signature(*known, certificate.signed, certificate.signature).is_ok()
        };
        match self.algorithms.all.iter().any(verifies) {
            true => Ok(()),
            false => Err(Error::InvalidSignatureForPublicKey),
        }
    }
}

/// Whether a root may issue certificates, at the end of a chain with so many certificates between.
fn may_issue(root: &Certificate<'_>, between: usize, now: UnixTime) -> Result<(), Error> {
    in_time(root, now)?;
    match root.extensions.ca {
        // Version 1 can't say that it is a CA.
        None if root.is_v1 => Ok(()),
        Some((true, _)) if !root.may(CERT_SIGN) => Err(Error::EndEntityUsedAsCa),
        Some((true, Some(most))) if between > most as usize => Err(Error::PathLenConstraintViolated),
        Some((true, _)) => Ok(()),
        _ => Err(Error::EndEntityUsedAsCa),
    }
}

fn in_time(certificate: &Certificate<'_>, time: UnixTime) -> Result<(), Error> {
    let date = |seconds: i64| UnixTime::since_unix_epoch(Duration::from_secs(seconds.try_into().unwrap_or(0)));
    let (not_before, not_after) = (date(certificate.not_before), date(certificate.not_after));
    match time {
        time if time < not_before => Err(Error::CertNotValidYet { time, not_before }),
        time if time > not_after => Err(Error::CertExpired { time, not_after }),
        _ => Ok(()),
    }
}

/// Why a chain leads to no root, as OpenSSL says it.
fn unknown(own: &Certificate<'_>, between: &[CertificateDer<'_>]) -> VerifyError {
    let issuers: Vec<Certificate<'_>> = between.iter().filter_map(|der| Certificate::parse(der)).collect();
    match () {
        () if own.is_self_issued() => SELF_SIGNED,
        () if issuers.iter().any(Certificate::is_self_issued) => SELF_SIGNED_ROOT,
        () if issuers.iter().any(|issuer| issuer.subject == own.issuer) => UNKNOWN_ISSUER_OF_ISSUER,
        () => UNKNOWN_ISSUER,
    }
}

/// Checks that the key of a certificate made a signature of the handshake. rustls has this for certificates that webpki
/// can read; those that it can't, as of version 1, are judged after the handshake.
pub(super) fn check_signature(
    message: &[u8],
    certificate: &[u8],
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
    tls13: bool,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let certificate = Certificate::parse(certificate).ok_or(CertificateError::BadEncoding)?;
    let info = SubjectPublicKeyInfoDer::from(certificate.key_info);
    if tls13 {
        return verify_tls13_signature_with_raw_key(message, &info, signed, algorithms);
    }
    let key = RawPublicKeyEntity::try_from(&info).map_err(|_| CertificateError::BadEncoding)?;
    // A scheme of TLS 1.2 is for keys on any curve.
    let mut schemes = algorithms.mapping.iter().filter(|(scheme, _)| *scheme == signed.scheme);
    let verifies =
        |known: &&dyn SignatureVerificationAlgorithm| key.verify_signature(*known, message, signed.signature()).is_ok();
    match schemes.any(|(_, known)| known.iter().any(verifies)) {
        true => Ok(HandshakeSignatureValid::assertion()),
        false => Err(CertificateError::BadSignature.into()),
    }
}

/// Whether a certificate belongs to a host. Its common name counts only if it has no other name of a host.
pub(super) fn is_for(der: &CertificateDer<'_>, host: &ServerName<'_>) -> bool {
    if EndEntityCert::try_from(der).is_ok_and(|own| own.verify_is_valid_for_subject_name(host).is_ok()) {
        return true;
    }
    let (ServerName::DnsName(host), Some(own)) = (host, Certificate::parse(der)) else { return false };
    let host = host.as_ref().strip_suffix('.').unwrap_or(host.as_ref());
    own.extensions.has_host != Some(true) && own.common_name().is_some_and(|name| name.eq_ignore_ascii_case(host))
}
