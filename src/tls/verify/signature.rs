//! Verifies the signature by which a peer proves in the handshake that it owns the key of its certificate.

use futures_rustls::rustls;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

use crate::tls::verify::x509::Certificate;

/// Verifies `signature` of `message` with the key of `certificate`, as TLS 1.2 allows it.
pub(crate) fn verify_tls12(
    message: &[u8],
    certificate: &[u8],
    signature: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    verify(message, certificate, signature, algorithms, usize::MAX)
}

/// As [`verify_tls12`] for TLS 1.3, which has no PKCS#1 signatures, and for each scheme one curve (RFC 8446 4.2.3).
pub(crate) fn verify_tls13(
    message: &[u8],
    certificate: &[u8],
    signature: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    match signature.scheme {
        SignatureScheme::RSA_PKCS1_SHA256 | SignatureScheme::RSA_PKCS1_SHA384 | SignatureScheme::RSA_PKCS1_SHA512 => {
            Err(CertificateError::BadSignature.into())
        }
        _ => verify(message, certificate, signature, algorithms, 1),
    }
}

/// Tries at most the first `candidates_max` algorithms of the scheme.
fn verify(
    message: &[u8],
    certificate: &[u8],
    signature: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
    candidates_max: usize,
) -> Result<HandshakeSignatureValid, Error> {
    let candidates = algorithms.mapping.iter().find(|(scheme, _)| *scheme == signature.scheme);
    let candidates = candidates.map_or(&[][..], |(_, candidates)| *candidates);
    let is_valid = Certificate::parse(certificate).is_some_and(|certificate| {
        candidates.iter().take(candidates_max).any(|algorithm| {
            *algorithm.public_key_alg_id() == *certificate.key_algorithm
                && algorithm.verify_signature(certificate.public_key, message, signature.signature()).is_ok()
        })
    });
    if is_valid { Ok(HandshakeSignatureValid::assertion()) } else { Err(CertificateError::BadSignature.into()) }
}
