//! Certificates, keys and revocation lists in PEM files (RFC 7468).

use std::io::{self, Read};
use std::sync::Arc;

use futures_rustls::rustls;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};

use crate::os::privileged_reader;
use crate::tls::verify::crl::Revoked;
use crate::tls::verify::x509::Certificate;

/// Bytes of a file with a certificate and its chain, or with a key.
const CHAIN_BYTES_MAX: u64 = 64 * 1024;
/// Bytes of a file with trusted certificates: a system's own has some 220 KiB.
const TRUSTED_BYTES_MAX: u64 = 2 << 20;
/// Bytes of a file with revocation lists.
const REVOKED_BYTES_MAX: u64 = 16 << 20;

/// The right to read what only root may read is kept from the start on, and only if a file needs it then ([`keeper`]).
const ADVICE: &str = "give the user of the program the right to read it, or have root restart the program";

/// All of a file, unless it is longer than it may be.
fn read(path: &str, bytes_max: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    match privileged_reader::open(path).and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(format!("cannot load \"{path}\": {error}: {ADVICE}"))
        }
        Err(error) => Err(format!("cannot load \"{path}\": {error}")),
        Ok(count) if count as u64 > bytes_max => {
            Err(format!("cannot load \"{path}\": it has more than {bytes_max} bytes"))
        }
        Ok(_) => Ok(bytes),
    }
}

fn certificates_in(path: &str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let found = found.map_err(|why| format!("cannot load certificate \"{path}\": {why}"))?;
    match found.first() {
        None => Err(format!("cannot load certificate \"{path}\": there is no \"BEGIN CERTIFICATE\" in it")),
        Some(_) => Ok(found),
    }
}

/// Certificates that are trusted.
pub(super) fn trusted(path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = certificates_in(path, &read(path, TRUSTED_BYTES_MAX)?)?;
    Ok(found)
}

/// Revocation lists.
///
/// # Errors
/// As [`trusted`]; and a list that holds what is not understood, as leaving it out would let somebody in.
pub(super) fn revoked(path: &str) -> Result<Vec<Revoked>, String> {
    let text = read(path, REVOKED_BYTES_MAX)?;
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|why| format!("cannot load CRL \"{path}\": {why}"))?;
    if found.is_empty() {
        return Err(format!("cannot load CRL \"{path}\": there is no \"BEGIN X509 CRL\" in it"));
    }
    let lists: Option<Vec<Revoked>> = found.iter().map(|list| Revoked::read(list)).collect();
    lists.ok_or_else(|| format!("cannot load CRL \"{path}\": it is not understood"))
}

/// A certificate with its chain, and its key.
pub(super) fn pair(certificate: &str, key: &str) -> Result<CertifiedKey, String> {
    let chain = certificates_in(certificate, &read(certificate, CHAIN_BYTES_MAX)?)?;
    let own = chain.first().and_then(|own| Certificate::parse(own));
    let Some(own) = own else {
        return Err(format!("cannot load certificate \"{certificate}\": it is malformed"));
    };
    let signing = signing_key(key)?;
    if signing.public_key().is_some_and(|info| info.as_ref() != own.key_info) {
        return Err(format!("the key \"{key}\" is not that of the certificate \"{certificate}\""));
    }
    Ok(CertifiedKey::new(chain, signing))
}

fn signing_key(path: &str) -> Result<Arc<dyn SigningKey>, String> {
    let text = read(path, CHAIN_BYTES_MAX)?;
    let has = |what: &[u8]| text.windows(what.len()).any(|part| part == what);
    if has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED") {
        return Err(format!(
            "cannot load key \"{path}\": it is encrypted; \"openssl pkey -in {path} -out FILE\" writes it without a password"
        ));
    }
    let der = PrivateKeyDer::from_pem_slice(&text).map_err(|why| format!("cannot load key \"{path}\": {why}"))?;
    ring::sign::any_supported_type(&der).map_err(|_| {
        format!(
            "cannot load key \"{path}\": RSA of 2048 to 8192 bits, ECDSA on P-256 or P-384, and Ed25519 are known here"
        )
    })
}
