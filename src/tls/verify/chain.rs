//! Whether a chain of certificates leads to one that is trusted (RFC 5280 6), and to whom a certificate belongs
//! (RFC 6125).
//!
//! The rules are those that nginx's users know, which are OpenSSL's: the end of the chain must be a certificate of the
//! list that signs itself; a certificate on the list is trusted whatever it is; revocation is looked up for each
//! certificate of the chain as soon as there is a list for any. What is not understood is not trusted.

use std::fmt;
use std::net::IpAddr;

use futures_rustls::rustls;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::CertificateDer;
use rustls::{DigitallySignedStruct, SignatureScheme};

use crate::tls::verify::crl::Revoked;
use crate::tls::verify::x509::{Certificate, RevocationList};

/// Signatures that are checked to judge one chain: who is sent many certificates of one name must not try them all.
const CHECKS_MAX: u32 = 32;
/// Certificates of a chain.
const CHAIN_MAX: usize = 10;
/// id-kp-serverAuth, id-kp-clientAuth. That a certificate is for everything (anyExtendedKeyUsage) is not enough: who
/// issued it did not think of these.
const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
/// Bits of KeyUsage (RFC 5280 4.2.1.3).
const DIGITAL_SIGNATURE: u8 = 0x80;
const KEY_ENCIPHERMENT: u8 = 0x20;
const KEY_AGREEMENT: u8 = 0x08;
const CERT_SIGN: u8 = 0x04;
const CRL_SIGN: u8 = 0x02;

/// Whom a certificate is to belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Server,
    Client,
}

/// What is trusted.
#[derive(Debug)]
pub(crate) struct Verifier {
    pub(crate) anchors: Vec<CertificateDer<'static>>,
    pub(crate) revoked: Vec<Revoked>,
    /// Certificates between the first and the last one of a chain.
    pub(crate) depth: u32,
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
}

/// Why a chain is not trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyError {
    Malformed,
    NotYetValid,
    Expired,
    /// It signs itself and is not on the list.
    SelfSigned,
    /// The last certificate of the chain does, and is not.
    SelfSignedRoot,
    /// Nobody knows who signed it.
    UnknownIssuer,
    /// Nobody knows who signed one of its issuers.
    UnknownIssuerOfIssuer,
    /// One of its issuers is on the list, but not the one who signed that.
    Unended,
    Signature,
    Revoked,
    NoRevocationList,
    OldRevocationList,
    Purpose,
    NotAnIssuer,
    TooLong,
    Critical,
    Name,
}

impl VerifyError {
    /// Whether it only means that the issuer is not known here (`ssl_verify_client optional_no_ca`).
    pub(crate) fn is_unknown_issuer(self) -> bool {
        matches!(self, Self::SelfSigned | Self::SelfSignedRoot | Self::UnknownIssuer | Self::UnknownIssuerOfIssuer)
    }
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "certificate rejected",
            Self::NotYetValid => "certificate is not yet valid",
            Self::Expired => "certificate has expired",
            Self::SelfSigned => "self-signed certificate",
            Self::SelfSignedRoot => "self-signed certificate in certificate chain",
            Self::UnknownIssuer => "unable to verify the first certificate",
            Self::UnknownIssuerOfIssuer => "unable to get local issuer certificate",
            Self::Unended => "unable to get issuer certificate",
            Self::Signature => "certificate signature failure",
            Self::Revoked => "certificate revoked",
            Self::NoRevocationList => "unable to get certificate CRL",
            Self::OldRevocationList => "CRL has expired",
            Self::Purpose => "unsuitable certificate purpose",
            Self::NotAnIssuer => "invalid CA certificate",
            Self::TooLong => "certificate chain too long",
            Self::Critical => "unhandled critical extension",
            Self::Name => "hostname mismatch",
        })
    }
}

impl Verifier {
    /// Judges a chain, whose first certificate is the peer's own.
    pub(crate) fn judge(&self, chain: &[CertificateDer<'_>], purpose: Purpose, now: i64) -> Result<(), VerifyError> {
        let all: Option<Vec<_>> = chain.iter().take(CHAIN_MAX).map(|der| Certificate::parse(der)).collect();
        let all = all.ok_or(VerifyError::Malformed)?;
        let (own, sent) = all.split_first().ok_or(VerifyError::Malformed)?;
        let anchors: Vec<Certificate<'_>> = self.anchors.iter().filter_map(|der| Certificate::parse(der)).collect();
        let mut search = Search { trust: self, anchors: &anchors, sent, purpose, now, checks: 0 };
        let mut path = vec![own];
        match search.extend(&mut path) {
            // Who need not be known (`optional_no_ca`) must be in time nevertheless.
            Err(why) if why.is_unknown_issuer() => in_time(own, now).and(Err(why)),
            judged => judged,
        }
    }

    /// Whether `key` of a certificate made the signature of a list or of another certificate.
    fn is_signed(&self, signed: &[u8], algorithm: &[u8], signature: &[u8], by: &Certificate<'_>) -> bool {
        self.algorithms.all.iter().any(|known| {
            *known.public_key_alg_id() == *by.key_algorithm
                && *known.signature_alg_id() == *algorithm
                && known.verify_signature(by.key, signed, signature).is_ok()
        })
    }
}

/// The search for a path from a certificate to an anchor.
struct Search<'s> {
    trust: &'s Verifier,
    anchors: &'s [Certificate<'s>],
    sent: &'s [Certificate<'s>],
    purpose: Purpose,
    now: i64,
    checks: u32,
}

impl<'s> Search<'s> {
    /// Whether a path can be made from what `path` has already, its last one being not yet accounted for.
    fn extend(&mut self, path: &mut Vec<&'s Certificate<'s>>) -> Result<(), VerifyError> {
        let Some(&last) = path.last() else { return Err(VerifyError::Malformed) };
        let trusted = self.anchors.iter().any(|anchor| same(anchor, last));
        if last.is_self_issued() && trusted {
            return self.approve(path);
        }
        let mut why = match (path.len(), last.is_self_issued()) {
            (1, true) => VerifyError::SelfSigned,
            (_, true) => VerifyError::SelfSignedRoot,
            _ if trusted => VerifyError::Unended,
            (1, _) => VerifyError::UnknownIssuer,
            _ => VerifyError::UnknownIssuerOfIssuer,
        };
        if path.len() >= CHAIN_MAX {
            return Err(VerifyError::TooLong);
        }
        // Those of the list first: they can't be made up.
        let (anchors, sent) = (self.anchors, self.sent);
        for issuer in anchors.iter().chain(sent).filter(|issuer| issuer.subject == last.issuer && !same(issuer, last)) {
            if path.iter().any(|known| same(known, issuer)) {
                continue;
            }
            self.checks += 1;
            if self.checks > CHECKS_MAX {
                return Err(VerifyError::TooLong);
            }
            if !self.trust.is_signed(last.signed, last.signature_algorithm, last.signature, issuer) {
                why = VerifyError::Signature;
                continue;
            }
            path.push(issuer);
            match self.extend(path) {
                Ok(()) => return Ok(()),
                Err(further) => why = further,
            }
            path.pop();
        }
        Err(why)
    }

    /// Whether all certificates of a whole path may stand where they do.
    fn approve(&self, path: &[&Certificate<'s>]) -> Result<(), VerifyError> {
        if path.len() > self.trust.depth as usize + 2 {
            return Err(VerifyError::TooLong);
        }
        let mut below = 0; // issuers that are not the same as those above them
        for (at, certificate) in path.iter().enumerate() {
            in_time(certificate, self.now)?;
            let extensions = &certificate.extensions;
            if extensions.beyond {
                return Err(VerifyError::Critical);
            }
            let (wanted, usages) = match self.purpose {
                Purpose::Server => (SERVER_AUTH, DIGITAL_SIGNATURE | KEY_ENCIPHERMENT | KEY_AGREEMENT),
                Purpose::Client => (CLIENT_AUTH, DIGITAL_SIGNATURE | KEY_AGREEMENT),
            };
            if extensions.purposes.as_ref().is_some_and(|purposes| !purposes.contains(&wanted)) {
                return Err(VerifyError::Purpose);
            }
            if at == 0 {
                if !may(certificate, usages) {
                    return Err(VerifyError::Purpose);
                }
                continue;
            }
            let may_sign = match extensions.ca {
                Some((ca, most)) => ca && most.is_none_or(|most| below <= most),
                // Before there were extensions, only the root could be known.
                None => certificate.is_v1 && at + 1 == path.len(),
            };
            if !may_sign || !may(certificate, CERT_SIGN) {
                return Err(VerifyError::NotAnIssuer);
            }
            below += u32::from(!certificate.is_self_issued());
        }
        self.check_revocation(path)
    }

    fn check_revocation(&self, path: &[&Certificate<'s>]) -> Result<(), VerifyError> {
        if self.trust.revoked.is_empty() {
            return Ok(());
        }
        let mut outcome = Ok(());
        for (at, certificate) in path.iter().enumerate() {
            let issuer = path.get(at + 1).unwrap_or(certificate);
            let mut why = Err(VerifyError::NoRevocationList);
            let is_signed = |list: &RevocationList<'_>| {
                self.trust.is_signed(list.signed, list.signature_algorithm, list.signature, issuer)
            };
            for list in self.trust.revoked.iter().filter(|list| may(issuer, CRL_SIGN) && list.is_of(issuer, is_signed))
            {
                if list.names(certificate.serial) {
                    return Err(VerifyError::Revoked);
                }
                match list.is_fresh(self.now) {
                    true => why = Ok(()),
                    false if why.is_err() => why = Err(VerifyError::OldRevocationList),
                    false => {}
                }
            }
            outcome = outcome.and(why);
        }
        outcome
    }
}

fn in_time(certificate: &Certificate<'_>, now: i64) -> Result<(), VerifyError> {
    match now {
        now if now < certificate.not_before => Err(VerifyError::NotYetValid),
        now if now > certificate.not_after => Err(VerifyError::Expired),
        _ => Ok(()),
    }
}

/// Whether the key of a certificate may be used for one of these, as far as it says.
fn may(certificate: &Certificate<'_>, usages: u8) -> bool {
    certificate.extensions.usage.is_none_or(|usage| usage & usages != 0)
}

fn same(one: &Certificate<'_>, other: &Certificate<'_>) -> bool {
    one.signed == other.signed && one.signature == other.signature
}

/// Whether the key of a certificate made a signature of the handshake. TLS 1.3 knows fewer schemes, and each of them
/// means one curve (RFC 8446 4.2.3).
pub(crate) fn is_signed(
    message: &[u8],
    certificate: &[u8],
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
    tls13: bool,
) -> bool {
    let (scheme, signature) = (signed.scheme, signed.signature());
    let old = matches!(
        scheme,
        SignatureScheme::RSA_PKCS1_SHA256 | SignatureScheme::RSA_PKCS1_SHA384 | SignatureScheme::RSA_PKCS1_SHA512
    );
    let Some(certificate) = Certificate::parse(certificate).filter(|_| !(tls13 && old)) else { return false };
    let known = algorithms.mapping.iter().find(|(known, _)| *known == scheme).map_or(&[][..], |(_, known)| *known);
    known.iter().take(if tls13 { 1 } else { usize::MAX }).any(|known| {
        *known.public_key_alg_id() == *certificate.key_algorithm
            && known.verify_signature(certificate.key, message, signature).is_ok()
    })
}

/// Whether a certificate belongs to the host of that name or address. Its common name counts only if it has no other.
pub(crate) fn is_for(certificate: &[u8], host: &str) -> bool {
    let Some(certificate) = Certificate::parse(certificate) else { return false };
    let names = certificate.extensions.names.as_deref().unwrap_or_default();
    if let Ok(addr) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        let octets = match addr {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        return names.iter().any(|(tag, name)| *tag == 0x87 && *name == octets);
    }
    let mut dns = names.iter().filter(|(tag, _)| *tag == 0x82).peekable();
    if dns.peek().is_some() {
        return dns.any(|(_, name)| matches(name, host));
    }
    certificate.common_name().is_some_and(|name| matches(name.as_bytes(), host))
}

/// A name, or `*.` for one label of it.
fn matches(pattern: &[u8], host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).as_bytes();
    match pattern.strip_prefix(b"*.") {
        Some(parent) => {
            let dot = host.iter().position(|b| *b == b'.');
            let rest = dot.filter(|dot| *dot > 0).and_then(|dot| host.get(dot + 1..)).unwrap_or_default();
            parent.contains(&b'.') && rest.eq_ignore_ascii_case(parent)
        }
        None => !pattern.is_empty() && pattern.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Eku, IsCa, Issuer, KeyPair};
    use rcgen::{CertificateRevocationListParams, KeyIdMethod, KeyUsagePurpose, RevokedCertParams, SerialNumber};
    use rustls::pki_types::CertificateRevocationListDer;

    /// Seconds since 1970 of a day in 2026, at which all of these are valid.
    const NOW: i64 = 1_782_000_000;

    struct Made {
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

    fn root(name: &str) -> Made {
        let mut params = params(name, 1);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        own(params)
    }

    fn own(params: CertificateParams) -> Made {
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().clone();
        Made { params, key, der }
    }

    impl Made {
        fn issues(&self, params: CertificateParams) -> Self {
            let key = KeyPair::generate().unwrap();
            let issuer = Issuer::from_params(&self.params, &self.key);
            let der = params.signed_by(&key, &issuer).unwrap().der().clone();
            Self { params, key, der }
        }

        fn issues_to(&self, name: &str, serial: u64) -> Self {
            self.issues(params(name, serial))
        }

        fn issues_issuer(&self, name: &str, below: u8) -> Self {
            let mut params = params(name, 7);
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
            self.issues(params)
        }

        fn revokes(&self, serials: &[u64], until: i32) -> CertificateRevocationListDer<'static> {
            let revoked = serials.iter().map(|serial| RevokedCertParams {
                serial_number: SerialNumber::from(*serial),
                revocation_time: rcgen::date_time_ymd(2026, 1, 2),
                reason_code: None,
                invalidity_date: None,
            });
            let list = CertificateRevocationListParams {
                this_update: rcgen::date_time_ymd(2025, 1, 2),
                next_update: rcgen::date_time_ymd(until, 1, 1),
                crl_number: SerialNumber::from(1u64),
                issuing_distribution_point: None,
                revoked_certs: revoked.collect(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            list.signed_by(&Issuer::from_params(&self.params, &self.key)).unwrap().der().clone()
        }
    }

    fn trust(anchors: &[&Made]) -> Verifier {
        Verifier {
            anchors: anchors.iter().map(|made| made.der.clone()).collect(),
            revoked: Vec::new(),
            depth: 1,
            algorithms: crate::tls::server_config::provider().signature_verification_algorithms,
        }
    }

    fn judge(trust: &Verifier, chain: &[&Made]) -> Result<(), VerifyError> {
        let chain: Vec<_> = chain.iter().map(|made| made.der.clone()).collect();
        trust.judge(&chain, Purpose::Client, NOW)
    }

    #[test]
    fn a_chain_must_end_in_a_trusted_certificate_that_signs_itself() {
        let (ca, other) = (root("ca"), root("other"));
        let middle = ca.issues_issuer("middle", 0);
        let leaf = middle.issues_to("leaf", 2);
        assert_eq!(judge(&trust(&[&ca]), &[&leaf, &middle]), Ok(()));
        assert_eq!(judge(&trust(&[&other, &ca]), &[&leaf, &ca, &middle]), Ok(()));
        assert_eq!(judge(&trust(&[&ca, &middle]), &[&leaf]), Ok(()));
        assert_eq!(judge(&trust(&[&ca]), &[&leaf]), Err(VerifyError::UnknownIssuer));
        assert_eq!(judge(&trust(&[&other]), &[&leaf, &middle]), Err(VerifyError::UnknownIssuerOfIssuer));
        assert_eq!(judge(&trust(&[&other]), &[&leaf, &middle, &ca]), Err(VerifyError::SelfSignedRoot));
        assert_eq!(judge(&trust(&[&middle]), &[&leaf]), Err(VerifyError::Unended));
        assert_eq!(judge(&trust(&[]), &[&ca]), Err(VerifyError::SelfSigned));
        assert_eq!(judge(&trust(&[&ca]), &[]), Err(VerifyError::Malformed));
        let shallow = Verifier { depth: 0, ..trust(&[&ca]) };
        assert_eq!(judge(&shallow, &[&leaf, &middle]), Err(VerifyError::TooLong));
    }

    #[test]
    fn a_trusted_certificate_is_trusted_whatever_it_is() {
        let itself = own(params("device", 9));
        assert_eq!(judge(&trust(&[&itself]), &[&itself]), Ok(()));
        let also_named_so = own(params("device", 9));
        assert_eq!(judge(&trust(&[&itself]), &[&also_named_so]), Err(VerifyError::Signature));
    }

    #[test]
    fn who_may_not_sign_does_not() {
        let ca = root("ca");
        let leaf = ca.issues_to("leaf", 2);
        let made_up = leaf.issues_to("victim", 3);
        assert_eq!(judge(&trust(&[&ca]), &[&made_up, &leaf]), Err(VerifyError::NotAnIssuer));
        let middle = ca.issues_issuer("middle", 0);
        let below = middle.issues_issuer("below", 0);
        let deep = Verifier { depth: 5, ..trust(&[&ca]) };
        assert_eq!(judge(&deep, &[&below.issues_to("leaf", 4), &below, &middle]), Err(VerifyError::NotAnIssuer));
        // The name of the issuer, but not its key.
        assert_eq!(judge(&trust(&[&ca]), &[&root("ca").issues_to("leaf", 5)]), Err(VerifyError::Signature));
    }

    #[test]
    fn times_purposes_and_what_is_not_understood_count() {
        let ca = root("ca");
        let issued = |edit: &dyn Fn(&mut CertificateParams)| {
            let mut params = params("leaf", 2);
            edit(&mut params);
            ca.issues(params)
        };
        type Edit<'e> = &'e dyn Fn(&mut CertificateParams);
        let critical = |params: &mut CertificateParams| {
            let mut odd = rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
            odd.set_criticality(true);
            params.custom_extensions = vec![odd];
        };
        let cases: [(Result<(), VerifyError>, Edit<'_>); 8] = [
            (Err(VerifyError::Expired), &|params| params.not_after = rcgen::date_time_ymd(2026, 2, 1)),
            (Err(VerifyError::NotYetValid), &|params| params.not_before = rcgen::date_time_ymd(2026, 12, 1)),
            (Err(VerifyError::Purpose), &|params| params.extended_key_usages = vec![Eku::ServerAuth]),
            (Ok(()), &|params| params.extended_key_usages = vec![Eku::ServerAuth, Eku::ClientAuth]),
            (Err(VerifyError::Purpose), &|params| params.extended_key_usages = vec![Eku::Any]),
            (Err(VerifyError::Purpose), &|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]),
            (Ok(()), &|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
            (Err(VerifyError::Critical), &critical),
        ];
        for (expected, edit) in cases {
            assert_eq!(judge(&trust(&[&ca]), &[&issued(edit)]), expected);
        }
        let mut old = params("ca", 1);
        old.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        old.not_after = rcgen::date_time_ymd(2026, 2, 1);
        let old = own(old);
        assert_eq!(judge(&trust(&[&old]), &[&old.issues_to("leaf", 2)]), Err(VerifyError::Expired));
    }

    #[test]
    fn a_list_of_revoked_certificates_is_needed_for_each_issuer_once_there_is_one() {
        let ca = root("ca");
        let middle = ca.issues_issuer("middle", 0);
        let leaf = middle.issues_to("leaf", 2);
        let judge_with = |revoked: Vec<CertificateRevocationListDer<'static>>| {
            let revoked = revoked.iter().map(|list| Revoked::read(list).unwrap()).collect();
            let trust = Verifier { revoked, ..trust(&[&ca]) };
            let first = judge(&trust, &[&leaf, &middle]);
            assert_eq!(judge(&trust, &[&leaf, &middle]), first); // when it is known who has signed
            first
        };
        let (fine, of_middle) = (ca.revokes(&[99], 2027), middle.revokes(&[98], 2027));
        assert_eq!(judge_with(vec![fine.clone(), of_middle.clone()]), Ok(()));
        assert_eq!(judge_with(vec![fine.clone()]), Err(VerifyError::NoRevocationList));
        assert_eq!(judge_with(vec![fine.clone(), middle.revokes(&[2, 98], 2027)]), Err(VerifyError::Revoked));
        assert_eq!(judge_with(vec![ca.revokes(&[7], 2027)]), Err(VerifyError::Revoked));
        assert_eq!(judge_with(vec![fine.clone(), middle.revokes(&[], 2026)]), Err(VerifyError::OldRevocationList));
        // Somebody else's list of the same name.
        let impostor = root("middle").revokes(&[], 2027);
        assert_eq!(judge_with(vec![fine, impostor]), Err(VerifyError::NoRevocationList));
    }

    #[test]
    fn many_certificates_of_one_name_do_not_take_long() {
        let ca = root("ca");
        let sent: Vec<Made> = (0..CHAIN_MAX).map(|_| root("ca").issues_issuer("ca", 9)).collect();
        let leaf = ca.issues_to("leaf", 2);
        let chain: Vec<&Made> = std::iter::once(&leaf).chain(&sent).collect();
        assert!(judge(&trust(&[]), &chain).is_err());
    }

    #[test]
    fn a_certificate_belongs_to_its_names() {
        let named = |names: &[&str], common: &str| {
            let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
            params.distinguished_name.push(DnType::CommonName, common);
            own(params).der
        };
        let der = named(&["a.example", "*.b.example", "192.0.2.1", "2001:db8::1"], "common.example");
        for name in ["a.example", "A.Example.", "x.b.example", "192.0.2.1", "2001:db8::1", "[2001:db8::1]"] {
            assert!(is_for(&der, name), "{name}");
        }
        for name in ["b.example", "x.y.b.example", "common.example", "192.0.2.2", "", ".b.example", "xa.example"] {
            assert!(!is_for(&der, name), "{name}");
        }
        assert!(is_for(&named(&[], "common.example"), "common.example"));
        assert!(is_for(&named(&["192.0.2.1"], "common.example"), "common.example"));
        assert!(!is_for(&named(&[], "*"), "example") && !is_for(&named(&["*.example"], "x"), "a.example"));
    }
}
