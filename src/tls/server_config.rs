//! What a server says in a handshake: its certificates, the versions it speaks, what it asks of clients.
//!
//! Servers that say the same share one [`ServerTls`], and files that several name are read once.

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
use crate::tls::pem;
use crate::tls::session_cache::{self, Cache, Tickets};
use crate::tls::settings::{ClientAuthSettings, ClientSettings, Protocols, ServerSettings, VerifyClient};
use crate::tls::verify::chain::{self, Purpose, Verifier, VerifyError};
use crate::tls::verify::x509::Certificate;

/// Protocols above TLS that are spoken here.
const ALPN: [&[u8]; 3] = [b"http/1.1", b"http/1.0", b"http/0.9"];

/// What was read of the files of a configuration.
#[derive(Debug, Default)]
pub struct TlsStore {
    cert_keys: Vec<Arc<CertKey>>,
    servers: Vec<(ServerSettings, Arc<ServerTls>)>,
    clients: Vec<(ClientSettings, Arc<ClientTls>)>,
}

impl TlsStore {
    /// What a server says, by its directives.
    pub fn server_tls(&mut self, settings: &ServerSettings) -> Result<Arc<ServerTls>, String> {
        if let Some((_, site)) = self.servers.iter().find(|(known, _)| known == settings) {
            return Ok(site.clone());
        }
        let mut cert_keys = Vec::new();
        for (certificate, key) in &settings.cert_key_paths {
            cert_keys.push(self.pair(certificate, key)?);
        }
        let server = Arc::new(ServerTls::new(settings, cert_keys)?);
        self.servers.push((settings.clone(), server.clone()));
        Ok(server)
    }

    /// How upstreams are connected to, by the directives of a location.
    pub fn client_tls(&mut self, spec: &ClientSettings) -> Result<Arc<ClientTls>, String> {
        if let Some((_, client)) = self.clients.iter().find(|(known, _)| known == spec) {
            return Ok(client.clone());
        }
        let pair = match &spec.cert_key_paths {
            Some((certificate, key)) => Some(self.pair(certificate, key)?),
            None => None,
        };
        let client = Arc::new(ClientTls::new(spec, pair)?);
        self.clients.push((spec.clone(), client.clone()));
        Ok(client)
    }

    /// What an operator should know of certificates and keys.
    pub fn warnings(&self) -> Vec<String> {
        self.cert_keys.iter().flat_map(|pair| pair.warnings()).collect()
    }

    fn pair(&mut self, certificate: &str, key: &str) -> Result<Arc<CertKey>, String> {
        let known = self.cert_keys.iter().find(|pair| pair.certificate == certificate && pair.key == key);
        if let Some(pair) = known {
            return Ok(pair.clone());
        }
        let pair = Arc::new(CertKey::load(certificate, key)?);
        self.cert_keys.push(pair.clone());
        Ok(pair)
    }
}

/// One way to make handshakes.
#[derive(Debug)]
pub struct ServerTls {
    server: Arc<ServerConfig>,
    /// The same for clients that say they are slow at AES.
    gentle: Arc<ServerConfig>,
    pub(super) rejects: bool,
    pairs: Vec<Arc<CertKey>>,
    verify: VerifyClient,
    trust: Verifier,
}

impl ServerTls {
    fn new(spec: &ServerSettings, pairs: Vec<Arc<CertKey>>) -> Result<Self, String> {
        let trust = trust(&spec.client_auth)?;
        let builder = ServerConfig::builder_with_provider(provider().clone())
            .with_protocol_versions(&versions(spec.protocols))
            .map_err(|error| error.to_string())?;
        let builder = match spec.client_auth.verify {
            VerifyClient::Off => builder.with_no_client_auth(),
            _ => builder.with_client_cert_verifier(Arc::new(CollectClientCert {
                names: names(&spec.client_auth)?,
                algorithms: trust.algorithms,
            })),
        };
        let mut server = builder.with_cert_resolver(Arc::new(CertResolver(pairs.clone())));
        server.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
        server.ignore_client_order = true;
        server.session_storage = match spec.session_cache_bytes {
            0 => Arc::new(NoServerSessionStorage {}),
            bytes => Arc::new(Cache::new(bytes, spec.session_timeout)),
        };
        if spec.session_tickets {
            let keys = ring::Ticketer::new().map_err(|error| error.to_string())?;
            server.ticketer = Arc::new(Tickets { keys, lifetime: spec.session_timeout });
        }
        // Each resumption gives a new one, so that one is enough.
        server.send_tls13_tickets = usize::from(spec.session_tickets || spec.session_cache_bytes > 0);
        let mut gentle = server.clone();
        gentle.ignore_client_order = false;
        Ok(Self {
            server: Arc::new(server),
            gentle: Arc::new(gentle),
            rejects: spec.reject_handshake,
            pairs,
            verify: spec.client_auth.verify,
            trust,
        })
    }

    /// Looks from time to time whether its certificates were renewed: what became of those that have changed.
    pub fn reload_if_changed(&self) -> Vec<ReloadEvent> {
        self.pairs.iter().filter_map(|pair| pair.reload_if_changed()).collect()
    }

    /// What is said to a client that offers these ciphers.
    pub(super) fn to(&self, ciphers: &[CipherSuite]) -> Arc<ServerConfig> {
        match ciphers.iter().find(|cipher| is_known(**cipher)) {
            Some(first) if is_chacha(*first) => self.gentle.clone(),
            _ => self.server.clone(),
        }
    }

    /// Whether certificates are asked for.
    pub fn verifies(&self) -> bool {
        self.verify != VerifyClient::Off
    }

    /// Whether clients without a certificate are turned away.
    pub(super) fn requires(&self) -> bool {
        self.verify == VerifyClient::On
    }

    /// Whether a client whose certificate is not trusted is nevertheless served.
    pub(super) fn tolerates(&self, why: VerifyError) -> bool {
        self.verify == VerifyClient::OptionalNoCa && why.is_unknown_issuer()
    }

    /// Judges the certificate of a client.
    pub(super) fn judge(&self, chain: &[CertificateDer<'_>]) -> Result<(), VerifyError> {
        self.trust.judge(chain, Purpose::Client, i64::try_from(session_cache::now()).unwrap_or(i64::MAX))
    }
}

fn trust(spec: &ClientAuthSettings) -> Result<Verifier, String> {
    let mut anchors = Vec::new();
    if spec.verify != VerifyClient::Off {
        for path in spec.client_certificate.iter().chain(&spec.trusted_certificate) {
            anchors.extend(pem::trusted(path)?);
        }
    }
    let revoked = match &spec.crl {
        Some(path) if spec.verify != VerifyClient::Off => pem::revoked(path)?,
        _ => Vec::new(),
    };
    Ok(Verifier { anchors, revoked, depth: spec.depth, algorithms: provider().signature_verification_algorithms })
}

/// The names of issuers that clients are told of.
fn names(spec: &ClientAuthSettings) -> Result<Vec<DistinguishedName>, String> {
    let Some(path) = &spec.client_certificate else { return Ok(Vec::new()) };
    let listed = pem::trusted(path)?;
    Ok(listed.iter().filter_map(|der| Some(Certificate::parse(der)?.subject.to_vec().into())).collect())
}

/// The cryptography, with the ciphers that cost this machine least first. Without instructions for AES its software is
/// several times slower than ChaCha20; and AES with 256 bits comes with SHA-384, for which no processor has any.
pub(super) fn provider() -> &'static Arc<CryptoProvider> {
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

fn is_known(cipher: CipherSuite) -> bool {
    provider().cipher_suites.iter().any(|suite| suite.suite() == cipher)
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

pub(super) fn versions(protocols: Protocols) -> Vec<&'static SupportedProtocolVersion> {
    let known = [(protocols.tls13, &rustls::version::TLS13), (protocols.tls12, &rustls::version::TLS12)];
    known.into_iter().filter(|(wanted, _)| *wanted).map(|(_, version)| version).collect()
}

/// The certificates of a server, of which one suits each client.
#[derive(Debug)]
struct CertResolver(Vec<Arc<CertKey>>);

impl ResolvesServerCert for CertResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let suits = |pair: &Arc<CertifiedKey>| pair.key.choose_scheme(hello.signature_schemes()).is_some();
        let mut suiting = self.0.iter().map(|pair| pair.current()).filter(suits).peekable();
        // If none does, any will do to tell the client that there is nothing in common.
        let first = suiting.peek().cloned().or_else(|| self.0.first().map(|pair| pair.current()));
        // Signing with another key than RSA takes a tenth of the time.
        suiting.find(|pair| pair.key.algorithm() != rustls::SignatureAlgorithm::RSA).or(first)
    }
}

/// Asks for certificates and takes any: they are judged when the handshake is done, so that who has no good one learns
/// it from an answer (400) rather than from a broken connection.
#[derive(Debug)]
struct CollectClientCert {
    names: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for CollectClientCert {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.names
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match Certificate::parse(own) {
            Some(_) => Ok(ClientCertVerified::assertion()),
            None => Err(CertificateError::BadEncoding.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature(chain::is_signed(message, own, signed, &self.algorithms, false))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature(chain::is_signed(message, own, signed, &self.algorithms, true))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

pub(super) fn signature(valid: bool) -> Result<HandshakeSignatureValid, Error> {
    match valid {
        true => Ok(HandshakeSignatureValid::assertion()),
        false => Err(CertificateError::BadSignature.into()),
    }
}
