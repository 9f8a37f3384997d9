//! Properties of a TLS connection, for the `$ssl_*` variables and for the verdict on client certificates.

use std::io::Write;
use std::sync::Arc;

use futures_rustls::rustls;
use rustls::pki_types::CertificateDer;
use rustls::server::ClientHello;
use rustls::{CipherSuite, CommonState, HandshakeKind, NamedGroup, ProtocolVersion, SignatureScheme};

use crate::http1::{base64, digest};
use crate::tls::server_config::ServerTls;
use crate::tls::variables::SslVariable;
use crate::tls::verify;
use crate::tls::verify::chain::VerifyError;
use crate::tls::verify::x509::{self, Certificate};

/// What the ClientHello offered.
#[derive(Debug)]
pub(super) struct ClientOffer {
    server_name: Option<Box<str>>,
    pub(super) ciphers: Box<[CipherSuite]>,
    groups: Box<[NamedGroup]>,
    signature_schemes: Box<[SignatureScheme]>,
}

impl ClientOffer {
    pub(super) fn from_client_hello(hello: &ClientHello<'_>) -> Self {
        Self {
            server_name: hello.server_name().map(Into::into),
            ciphers: hello.cipher_suites().into(),
            groups: hello.named_groups().unwrap_or_default().into(),
            signature_schemes: hello.signature_schemes().into(),
        }
    }
}

/// Properties of an accepted TLS connection.
#[derive(Debug)]
pub struct TlsInfo {
    server: Arc<ServerTls>,
    protocol: Option<ProtocolVersion>,
    cipher: Option<CipherSuite>,
    group: Option<NamedGroup>,
    resumed: bool,
    alpn: Option<Box<[u8]>>,
    hello: ClientOffer,
    client: Option<ClientCertificate>,
}

#[derive(Debug)]
struct ClientCertificate {
    der: CertificateDer<'static>,
    verify_result: Result<(), VerifyError>,
}

/// Why a request is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// The server of the request verifies clients, and the handshake was made with another TLS configuration.
    Misdirected,
    NoCertificate,
    BadCertificate(VerifyError),
}

impl TlsInfo {
    pub(super) fn new(connection: &CommonState, server: Arc<ServerTls>, hello: ClientOffer) -> Self {
        let client = connection.peer_certificates().filter(|_| server.requests_certificate()).and_then(|chain| {
            // A resumed session is verified again: its certificate may have expired or been revoked since.
            Some(ClientCertificate { der: chain.first()?.clone(), verify_result: server.verify_chain(chain) })
        });
        Self {
            protocol: connection.protocol_version(),
            cipher: connection.negotiated_cipher_suite().map(|suite| suite.suite()),
            group: connection.negotiated_key_exchange_group().map(rustls::crypto::SupportedKxGroup::name),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            alpn: connection.alpn_protocol().map(Into::into),
            server,
            hello,
            client,
        }
    }

    /// Checks whether a request for a server with the TLS configuration `server` is accepted on this connection.
    pub fn authorize(&self, server: Option<&Arc<ServerTls>>) -> Result<(), AuthError> {
        let Some(server) = server.filter(|server| server.requests_certificate()) else { return Ok(()) };
        if !Arc::ptr_eq(server, &self.server) {
            return Err(AuthError::Misdirected);
        }
        match &self.client {
            Some(ClientCertificate { verify_result: Err(error), .. }) if !server.tolerates(*error) => {
                Err(AuthError::BadCertificate(*error))
            }
            None if server.requires_certificate() => Err(AuthError::NoCertificate),
            _ => Ok(()),
        }
    }

    /// Appends the value of `variable`.
    pub fn write_variable(&self, variable: SslVariable, out: &mut Vec<u8>) {
        match variable {
            SslVariable::Alpn => out.extend_from_slice(self.alpn.as_deref().unwrap_or_default()),
            SslVariable::Cipher => self.cipher.iter().for_each(|cipher| write_cipher(*cipher, out)),
            SslVariable::Ciphers => write_list(&self.hello.ciphers, out, |cipher, out| write_cipher(*cipher, out)),
            SslVariable::Curve => self.group.iter().for_each(|group| write_group(*group, out)),
            SslVariable::Curves => write_list(&self.hello.groups, out, |group, out| write_group(*group, out)),
            SslVariable::Sigalgs => {
                write_list(&self.hello.signature_schemes, out, |scheme, out| write_signature_scheme(*scheme, out))
            }
            SslVariable::Protocol => out.extend_from_slice(match self.protocol {
                Some(ProtocolVersion::TLSv1_3) => b"TLSv1.3",
                Some(ProtocolVersion::TLSv1_2) => b"TLSv1.2",
                _ => b"",
            }),
            SslVariable::ServerName => {
                out.extend_from_slice(self.hello.server_name.as_deref().unwrap_or_default().as_bytes())
            }
            SslVariable::SessionReused => out.push(if self.resumed { b'r' } else { b'.' }),
            SslVariable::ClientVerify => match &self.client {
                None => out.extend_from_slice(b"NONE"),
                Some(ClientCertificate { verify_result: Ok(()), .. }) => out.extend_from_slice(b"SUCCESS"),
                Some(ClientCertificate { verify_result: Err(why), .. }) => drop(write!(out, "FAILED:{why}")),
            },
            _ => self.client.iter().for_each(|client| client.write_variable(variable, out)),
        }
    }
}

fn write_list<T>(list: &[T], out: &mut Vec<u8>, write: impl Fn(&T, &mut Vec<u8>)) {
    for (index, item) in list.iter().enumerate() {
        if index > 0 {
            out.push(b':');
        }
        write(item, out);
    }
}

/// Writes OpenSSL's name of a supported cipher suite, and other suites as numbers.
fn write_cipher(cipher: CipherSuite, out: &mut Vec<u8>) {
    let name = match cipher {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        other => return drop(write!(out, "0x{:04x}", u16::from(other))),
    };
    out.extend_from_slice(name.as_bytes());
}

fn write_group(group: NamedGroup, out: &mut Vec<u8>) {
    let name = match group {
        NamedGroup::X25519 => "X25519",
        NamedGroup::secp256r1 => "prime256v1",
        NamedGroup::secp384r1 => "secp384r1",
        NamedGroup::secp521r1 => "secp521r1",
        other => return drop(write!(out, "0x{:04x}", u16::from(other))),
    };
    out.extend_from_slice(name.as_bytes());
}

/// Writes the name of a signature algorithm in TLS (RFC 8446 4.2.3), and others as numbers.
fn write_signature_scheme(scheme: SignatureScheme, out: &mut Vec<u8>) {
    let name = match scheme {
        SignatureScheme::RSA_PKCS1_SHA1 => "rsa_pkcs1_sha1",
        SignatureScheme::RSA_PKCS1_SHA256 => "rsa_pkcs1_sha256",
        SignatureScheme::RSA_PKCS1_SHA384 => "rsa_pkcs1_sha384",
        SignatureScheme::RSA_PKCS1_SHA512 => "rsa_pkcs1_sha512",
        SignatureScheme::RSA_PSS_SHA256 => "rsa_pss_rsae_sha256",
        SignatureScheme::RSA_PSS_SHA384 => "rsa_pss_rsae_sha384",
        SignatureScheme::RSA_PSS_SHA512 => "rsa_pss_rsae_sha512",
        SignatureScheme::ECDSA_SHA1_Legacy => "ecdsa_sha1",
        SignatureScheme::ECDSA_NISTP256_SHA256 => "ecdsa_secp256r1_sha256",
        SignatureScheme::ECDSA_NISTP384_SHA384 => "ecdsa_secp384r1_sha384",
        SignatureScheme::ECDSA_NISTP521_SHA512 => "ecdsa_secp521r1_sha512",
        SignatureScheme::ED25519 => "ed25519",
        SignatureScheme::ED448 => "ed448",
        other => return drop(write!(out, "0x{:04x}", u16::from(other))),
    };
    out.extend_from_slice(name.as_bytes());
}

impl ClientCertificate {
    fn write_variable(&self, variable: SslVariable, out: &mut Vec<u8>) {
        let Some(certificate) = Certificate::parse(&self.der) else { return };
        match variable {
            SslVariable::ClientCert => {
                let pem = self.pem();
                // As a header value the PEM text continues on lines that begin with a tab, as in nginx.
                for (index, line) in pem.trim_end().lines().enumerate() {
                    out.extend_from_slice(if index > 0 { b"\n\t" } else { b"" });
                    out.extend_from_slice(line.as_bytes());
                }
            }
            SslVariable::ClientRawCert => out.extend_from_slice(self.pem().as_bytes()),
            SslVariable::ClientEscapedCert => self.pem().bytes().for_each(|byte| match byte {
                b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_' | b'.' | b'~' => out.push(byte),
                _ => drop(write!(out, "%{byte:02X}")),
            }),
            SslVariable::ClientFingerprint => {
                for byte in digest::sha1(&[&self.der]) {
                    let _ = write!(out, "{byte:02x}");
                }
            }
            SslVariable::ClientIssuer => x509::write_rfc2253_name(certificate.issuer, out),
            SslVariable::ClientIssuerLegacy => x509::write_legacy_name(certificate.issuer, out),
            SslVariable::ClientSubject => x509::write_rfc2253_name(certificate.subject, out),
            SslVariable::ClientSubjectLegacy => x509::write_legacy_name(certificate.subject, out),
            SslVariable::ClientSerial => certificate.write_serial(out),
            SslVariable::ClientValidStart => x509::write_time(certificate.not_before, out),
            SslVariable::ClientValidEnd => x509::write_time(certificate.not_after, out),
            SslVariable::ClientValidRemain => {
                let remaining = certificate.not_after.saturating_sub(verify::now());
                let _ = write!(out, "{}", remaining.max(0) / 86_400);
            }
            _ => {}
        }
    }

    fn pem(&self) -> String {
        let encoded = base64::encode(&self.der);
        let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
        for line in encoded.as_bytes().chunks(64) {
            out.push_str(&String::from_utf8_lossy(line));
            out.push('\n');
        }
        out.push_str("-----END CERTIFICATE-----\n");
        out
    }
}
