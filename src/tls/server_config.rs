//! The TLS configuration of a server: its certificates, protocol versions, sessions, and client verification.
//!
//! Servers with equal settings share one [`ServerTls`], and each file is read once.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use futures_rustls::rustls;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, CipherSuite, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    SupportedProtocolVersion,
};

use crate::tls::cert_key::{CertKey, ReloadEvent};
use crate::tls::connect::ClientTls;
use crate::tls::named_cert_keys::NamedCertKeys;
use crate::tls::pem;
use crate::tls::session_cache::{SessionCache, Ticketer};
use crate::tls::settings::{ClientAuthSettings, ClientSettings, LoadError, Protocols, ServerSettings, VerifyClient};
use crate::tls::verify::chain::{Purpose, Verifier, VerifyError};
use crate::tls::verify::x509::Certificate;
use crate::tls::verify::{self, signature};

/// Supported protocols of ALPN.
const ALPN: [&[u8]; 3] = [b"http/1.1", b"http/1.0", b"http/0.9"];

/// The TLS configurations of a smolgate configuration, each with the settings it was built from.
#[derive(Debug, Default)]
pub struct TlsStore {
    cert_keys: Vec<Arc<CertKey>>,
    servers: Vec<(ServerSettings, Arc<ServerTls>)>,
    clients: Vec<(ClientSettings, Arc<ClientTls>)>,
}

impl TlsStore {
    /// Returns the TLS configuration of a server. Reads its files unless an equal one exists.
    pub fn server_tls(&mut self, settings: &ServerSettings) -> Result<Arc<ServerTls>, LoadError> {
        if let Some((_, server)) = self.servers.iter().find(|(known, _)| known == settings) {
            return Ok(server.clone());
        }
        let mut cert_keys = Vec::new();
        for (certificate, key) in &settings.cert_key_paths {
            cert_keys.push(self.cert_key(certificate, key)?);
        }
        let server = Arc::new(ServerTls::new(settings, cert_keys)?);
        self.servers.push((settings.clone(), server.clone()));
        Ok(server)
    }

    /// Returns the TLS configuration of connections to upstreams. Reads its files unless an equal one exists.
    pub fn client_tls(&mut self, settings: &ClientSettings) -> Result<Arc<ClientTls>, LoadError> {
        if let Some((_, client)) = self.clients.iter().find(|(known, _)| known == settings) {
            return Ok(client.clone());
        }
        let cert_key = match &settings.cert_key_paths {
            Some((certificate, key)) => Some(self.cert_key(certificate, key)?),
            None => None,
        };
        let client = Arc::new(ClientTls::new(settings, cert_key)?);
        self.clients.push((settings.clone(), client.clone()));
        Ok(client)
    }

    /// Warnings about certificates and keys, for the operator.
    pub fn warnings(&self) -> Vec<String> {
        self.cert_keys.iter().flat_map(|cert_key| cert_key.warnings()).collect()
    }

    fn cert_key(&mut self, certificate_path: &str, key_path: &str) -> Result<Arc<CertKey>, LoadError> {
        let is_known = |known: &&Arc<CertKey>| known.certificate_path == certificate_path && known.key_path == key_path;
        if let Some(known) = self.cert_keys.iter().find(is_known) {
            return Ok(known.clone());
        }
        let cert_key = Arc::new(CertKey::load(certificate_path, key_path)?);
        self.cert_keys.push(cert_key.clone());
        Ok(cert_key)
    }
}

/// The TLS configuration of one or more servers.
#[derive(Debug)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    /// The same for clients that prefer ChaCha20, having no fast AES.
    chacha_first: Arc<ServerConfig>,
    pub(super) rejects_handshakes: bool,
    cert_keys: Vec<Arc<CertKey>>,
    named_cert_keys: Arc<NamedCertKeys>,
    verify_client: VerifyClient,
    verifier: Verifier,
}

impl ServerTls {
    fn new(settings: &ServerSettings, cert_keys: Vec<Arc<CertKey>>) -> Result<Self, LoadError> {
        let verifier = client_verifier(&settings.client_auth)?;
        let builder = ServerConfig::builder_with_provider(crypto_provider().clone())
            .with_protocol_versions(&protocol_versions(settings.protocols))
            .map_err(|error| error.to_string())?;
        let builder = match settings.client_auth.verify {
            VerifyClient::Off => builder.with_no_client_auth(),
            _ => builder.with_client_cert_verifier(Arc::new(CollectClientCert {
                issuer_names: issuer_names(&settings.client_auth)?,
                algorithms: verifier.algorithms,
            })),
        };
        let named_cert_keys = Arc::new(NamedCertKeys::new(settings.named_cert_key_paths.clone()));
        let resolver = CertResolver { fixed: cert_keys.clone(), named: named_cert_keys.clone() };
        let mut config = builder.with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
        config.ignore_client_order = true;
        config.session_storage = match settings.session_cache_bytes {
            0 => Arc::new(NoServerSessionStorage {}),
            bytes => Arc::new(SessionCache::new(bytes, settings.session_timeout)),
        };
        if settings.session_tickets {
            let inner = ring::Ticketer::new().map_err(|error| error.to_string())?;
            config.ticketer = Arc::new(Ticketer { inner, lifetime: settings.session_timeout });
        }
        // Each resumption issues a new ticket, so that one is enough.
        config.send_tls13_tickets = usize::from(settings.session_tickets || settings.session_cache_bytes > 0);
        let mut chacha_first = config.clone();
        chacha_first.ignore_client_order = false;
        Ok(Self {
            config: Arc::new(config),
            chacha_first: Arc::new(chacha_first),
            rejects_handshakes: settings.reject_handshake,
            cert_keys,
            named_cert_keys,
            verify_client: settings.client_auth.verify,
            verifier,
        })
    }

    /// Reloads certificates whose files have changed, and loads those for the server name of a client. See
    /// [`CertKey::reload_if_changed`].
    pub fn reload_if_changed(&self, name: Option<&str>) -> Vec<ReloadEvent> {
        let mut events = self.named_cert_keys.load_or_reload(name.unwrap_or_default());
        events.extend(self.cert_keys.iter().filter_map(|cert_key| cert_key.reload_if_changed()));
        events
    }

    /// The configuration for a client that offers `ciphers`: its order counts only if it puts ChaCha20 first.
    pub(super) fn config_for(&self, ciphers: &[CipherSuite]) -> Arc<ServerConfig> {
        match ciphers.iter().find(|cipher| is_supported(**cipher)) {
            Some(first) if is_chacha(*first) => self.chacha_first.clone(),
            _ => self.config.clone(),
        }
    }

    /// Whether handshakes request a client certificate.
    pub(super) fn requests_certificate(&self) -> bool {
        self.verify_client != VerifyClient::Off
    }

    /// Whether clients without a certificate are rejected.
    pub(super) fn requires_certificate(&self) -> bool {
        self.verify_client == VerifyClient::On
    }

    /// Whether a client is accepted although its certificate failed with `error`.
    pub(super) fn tolerates(&self, error: VerifyError) -> bool {
        self.verify_client == VerifyClient::OptionalNoCa && error.is_unknown_issuer()
    }

    /// Verifies the chain of a client.
    pub(super) fn verify_chain(&self, chain: &[CertificateDer<'_>]) -> Result<(), VerifyError> {
        self.verifier.verify(chain, Purpose::Client, verify::now())
    }
}

/// Reads the trusted certificates and revocation lists of `ssl_verify_client`.
fn client_verifier(settings: &ClientAuthSettings) -> Result<Verifier, LoadError> {
    let mut anchors = Vec::new();
    let mut crls = Vec::new();
    if settings.verify != VerifyClient::Off {
        for path in settings.client_certificate.iter().chain(&settings.trusted_certificate) {
            anchors.extend(pem::read_certificates(path)?);
        }
        if let Some(path) = &settings.crl {
            crls = pem::read_crls(path)?;
        }
    }
    let algorithms = crypto_provider().signature_verification_algorithms;
    Ok(Verifier { anchors, crls, depth: settings.depth, algorithms })
}

/// The issuers that the CertificateRequest names, each once: a CA often has several certificates.
fn issuer_names(settings: &ClientAuthSettings) -> Result<Vec<DistinguishedName>, LoadError> {
    let Some(path) = &settings.client_certificate else { return Ok(Vec::new()) };
    let certificates = pem::read_certificates(path)?;
    let mut seen = HashSet::new();
    let names = certificates.iter().filter_map(|der| Some(Certificate::parse(der)?.subject.to_vec()));
    Ok(names.filter(|name| seen.insert(name.clone())).map(DistinguishedName::from).collect())
}

/// The cryptography of ring, with the cipher suites in the order of their cost on this machine. Without AES instructions
/// AES is several times slower than ChaCha20; and AES-256 comes with SHA-384, for which no processor has instructions.
pub(super) fn crypto_provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        let mut provider = ring::default_provider();
        provider.cipher_suites.sort_by_key(|suite| match suite.suite() {
            cipher if is_chacha(cipher) => u8::from(has_aes()),
            cipher if is_aes_128(cipher) => u8::from(!has_aes()),
            _ => 2,
        });
        Arc::new(provider)
    })
}

fn is_supported(cipher: CipherSuite) -> bool {
    crypto_provider().cipher_suites.iter().any(|suite| suite.suite() == cipher)
}

fn is_chacha(cipher: CipherSuite) -> bool {
    matches!(
        cipher,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
    )
}

fn is_aes_128(cipher: CipherSuite) -> bool {
    matches!(
        cipher,
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    )
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

pub(super) fn protocol_versions(protocols: Protocols) -> Vec<&'static SupportedProtocolVersion> {
    let all = [(protocols.tls13, &rustls::version::TLS13), (protocols.tls12, &rustls::version::TLS12)];
    all.into_iter().filter(|(is_enabled, _)| *is_enabled).map(|(_, version)| version).collect()
}

/// Selects the certificate of a server that a client can verify.
#[derive(Debug)]
struct CertResolver {
    fixed: Vec<Arc<CertKey>>,
    named: Arc<NamedCertKeys>,
}

impl ResolvesServerCert for CertResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let is_usable =
            |certified: &Arc<CertifiedKey>| certified.key.choose_scheme(hello.signature_schemes()).is_some();
        // An error was logged before the handshake.
        let named = self.named.get(hello.server_name().unwrap_or_default());
        let all = || self.fixed.iter().chain(&named);
        let mut usable = all().map(|cert_key| cert_key.current()).filter(is_usable).peekable();
        // If the client can verify none, rustls rejects it with any of them.
        let first = usable.peek().cloned().or_else(|| all().next().map(|cert_key| cert_key.current()));
        // Other keys than RSA sign in a tenth of the time.
        usable.find(|certified| certified.key.algorithm() != rustls::SignatureAlgorithm::RSA).or(first)
    }
}

/// Requests a client certificate and accepts any in the handshake. It is verified afterwards, so that a client without a
/// valid one gets an HTTP error (400) and not a broken connection.
#[derive(Debug)]
struct CollectClientCert {
    issuer_names: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for CollectClientCert {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.issuer_names
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match Certificate::parse(end_entity) {
            Some(_) => Ok(ClientCertVerified::assertion()),
            None => Err(CertificateError::BadEncoding.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature::verify_tls12(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature::verify_tls13(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
