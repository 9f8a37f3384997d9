//! Reads certificates, keys and revocation lists from PEM files (RFC 7468).

use std::io::{self, Read};
use std::sync::Arc;

use futures_rustls::rustls;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};

use crate::os::privileged_reader;
use crate::tls::settings::LoadError;
use crate::tls::verify::crl::Crl;
use crate::tls::verify::x509::{self, Certificate};

/// Bytes of a file with a certificate and its chain, or with a key.
const CERT_KEY_BYTES_MAX: u64 = 64 * 1024;
/// Bytes of a file with trusted certificates: those of a Linux distribution have some 220 KiB.
const CA_BYTES_MAX: u64 = 2 << 20;
/// Bytes of a file with revocation lists.
const CRL_BYTES_MAX: u64 = 16 << 20;

/// The capability to read root's files is kept only if a file needed it at the start ([`privileged_reader`]).
const PERMISSION_HINT: &str = "let the user of the workers read it, or restart smolgate as root";

/// Reads a certificate with its chain, and its key.
pub(super) fn read_cert_key(certificate_path: &str, key_path: &str) -> Result<CertifiedKey, LoadError> {
    let chain = read_chain(certificate_path).map_err(LoadError::of(certificate_path))?;
    let Some(leaf) = chain.first().and_then(|leaf| Certificate::parse(leaf)) else {
        let message = format!("cannot load certificate \"{certificate_path}\": it is malformed");
        return Err(LoadError::of(certificate_path)(message));
    };
    let signing_key = read_signing_key(key_path).map_err(LoadError::of(key_path))?;
    if signing_key.public_key().is_some_and(|info| info.as_ref() != leaf.public_key_info) {
        let message = format!("the key \"{key_path}\" does not match the certificate \"{certificate_path}\"");
        return Err(LoadError::of(key_path)(message));
    }
    Ok(CertifiedKey::new(chain, signing_key))
}

fn read_chain(path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read_file(path, CERT_KEY_BYTES_MAX)?;
    match has_trust_settings(&pem) {
        true => parse_trusted_certificates(path, &pem),
        false => parse_certificates(path, &pem),
    }
}

fn read_signing_key(path: &str) -> Result<Arc<dyn SigningKey>, String> {
    let pem = read_file(path, CERT_KEY_BYTES_MAX)?;
    let text = String::from_utf8_lossy(&pem);
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(format!(
            "cannot load key \"{path}\": it is encrypted; \"openssl pkey -in {path} -out FILE\" writes it without a password"
        ));
    }
    let der = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| format!("cannot load key \"{path}\": {error}"))?;
    ring::sign::any_supported_type(&der).map_err(|_| {
        format!(
            "cannot load key \"{path}\": supported are RSA of 2048 to 8192 bits, ECDSA on P-256 or P-384, and Ed25519"
        )
    })
}

/// Reads trusted certificates. Those with trust settings of OpenSSL are an error: some of the settings restrict the trust.
pub(super) fn read_certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let pem = read_file(path, CA_BYTES_MAX).map_err(LoadError::of(path))?;
    if has_trust_settings(&pem) {
        return Err(LoadError::of(path)(format!(
            "cannot load certificate \"{path}\": trust settings of a \"BEGIN TRUSTED CERTIFICATE\" are not supported; \
             \"openssl x509 -in {path} -out FILE\" writes a certificate without them"
        )));
    }
    parse_certificates(path, &pem).map_err(LoadError::of(path))
}

/// What OpenSSL writes into the lines around a certificate with trust settings (`openssl x509 -trustout`).
const TRUSTED_LABEL: &str = "TRUSTED CERTIFICATE-----";

fn has_trust_settings(pem: &[u8]) -> bool {
    String::from_utf8_lossy(pem).contains(TRUSTED_LABEL)
}

/// Removes the trust settings, which follow each certificate: for an own one they have no meaning.
fn parse_trusted_certificates(path: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = String::from_utf8_lossy(pem).replace(TRUSTED_LABEL, "CERTIFICATE-----");
    let without_settings = |der: CertificateDer<'static>| match x509::first_element(&der) {
        Some(own) => own.to_vec().into(),
        None => der,
    };
    Ok(parse_certificates(path, pem.as_bytes())?.into_iter().map(without_settings).collect())
}

fn parse_certificates(path: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|error| format!("cannot load certificate \"{path}\": {error}"))?;
    match certificates.is_empty() {
        true => Err(format!("cannot load certificate \"{path}\": it has no \"BEGIN CERTIFICATE\" line")),
        false => Ok(certificates),
    }
}

/// Reads revocation lists. A list that is not supported is an error: without it a revoked certificate would be accepted.
pub(super) fn read_crls(path: &str) -> Result<Vec<Crl>, LoadError> {
    read_file(path, CRL_BYTES_MAX).and_then(|pem| parse_crls(path, &pem)).map_err(LoadError::of(path))
}

fn parse_crls(path: &str, pem: &[u8]) -> Result<Vec<Crl>, String> {
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    let lists = lists.map_err(|error| format!("cannot load CRL \"{path}\": {error}"))?;
    if lists.is_empty() {
        return Err(format!("cannot load CRL \"{path}\": it has no \"BEGIN X509 CRL\" line"));
    }
    let crls: Option<Vec<Crl>> = lists.iter().map(|list| Crl::from_der(list)).collect();
    crls.ok_or_else(|| format!("cannot load CRL \"{path}\": it is malformed or has a critical extension"))
}

/// Reads all of a file, unless it is longer than `bytes_max`.
fn read_file(path: &str, bytes_max: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    match privileged_reader::open(path).and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(format!("cannot load \"{path}\": {error}: {PERMISSION_HINT}"))
        }
        Err(error) => Err(format!("cannot load \"{path}\": {error}")),
        Ok(count) if count as u64 > bytes_max => {
            Err(format!("cannot load \"{path}\": it has more than {bytes_max} bytes"))
        }
        Ok(_) => Ok(bytes),
    }
}
