//! TLS connections to upstreams: the handshake, and how the certificate of an upstream is verified.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use futures_rustls::rustls;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ResolvesClientCert, Resumption, UnbufferedClientConnection};
use rustls::pki_types::{CertificateDer, IpAddr, Ipv4Addr, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

use crate::runtime::socket::Socket;
use crate::runtime::stream::SecureStream;
use crate::tls::cert_key::{CertKey, ReloadEvent};
use crate::tls::pem;
use crate::tls::server_config::{crypto_provider, protocol_versions};
use crate::tls::settings::{ClientSettings, LoadError};
use crate::tls::stream::{RustlsConnection, TlsStream};
use crate::tls::verify::chain::{Purpose, Verifier, VerifyError};
use crate::tls::verify::{self, host, signature};

/// Sessions that are cached for resumption, by the names of upstreams.
const SESSIONS_MAX: usize = 64;

/// The TLS configuration of connections to upstreams.
#[derive(Debug)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    cert_key: Option<Arc<CertKey>>,
}

/// Performs the handshake with an upstream. `name` is verified and sent as SNI, if the configuration asks for that.
pub async fn connect(socket: Socket, client: &ClientTls, name: &str) -> io::Result<Box<dyn SecureStream>> {
    let host = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    // A name that is no DNS name can be neither verified nor sent: 0.0.0.0 stands for it.
    let unspecified = || ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0; 4])));
    let server_name = ServerName::try_from(host.to_owned()).unwrap_or_else(|_| unspecified());
    let connection = UnbufferedClientConnection::new(client.config.clone(), server_name).map_err(io::Error::other)?;
    let stream = TlsStream::new(socket, RustlsConnection::Client(connection), Vec::new());
    poll_fn(|cx| stream.poll_handshake(cx)).await?;
    Ok(Box::new(stream))
}

impl ClientTls {
    pub(super) fn new(settings: &ClientSettings, cert_key: Option<Arc<CertKey>>) -> Result<Self, LoadError> {
        let verifier = match (&settings.trusted_certificate, settings.verify) {
            (Some(path), true) => Some(Verifier {
                anchors: pem::read_certificates(path)?,
                crls: settings.crl.as_ref().map_or(Ok(Vec::new()), |path| pem::read_crls(path))?,
                depth: settings.depth,
                algorithms: crypto_provider().signature_verification_algorithms,
            }),
            _ => None,
        };
        let builder = ClientConfig::builder_with_provider(crypto_provider().clone())
            .with_protocol_versions(&protocol_versions(settings.protocols))
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(ServerVerifier { verifier }));
        let mut config = match cert_key.clone() {
            Some(cert_key) => builder.with_client_cert_resolver(Arc::new(ClientCertResolver(cert_key))),
            None => builder.with_no_client_auth(),
        };
        config.enable_sni = settings.send_server_name;
        config.resumption = match settings.session_reuse {
            true => Resumption::in_memory_sessions(SESSIONS_MAX),
            false => Resumption::disabled(),
        };
        Ok(Self { config: Arc::new(config), cert_key })
    }

    /// Reloads the client certificate if its files have changed. See [`CertKey::reload_if_changed`].
    pub fn reload_if_changed(&self) -> Option<ReloadEvent> {
        self.cert_key.as_ref()?.reload_if_changed()
    }
}

/// The client certificate (`proxy_ssl_certificate`), for upstreams that request one.
#[derive(Debug)]
struct ClientCertResolver(Arc<CertKey>);

impl ResolvesClientCert for ClientCertResolver {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current()).filter(|certified| certified.key.choose_scheme(schemes).is_some())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Verifies the certificate of an upstream. Without a verifier (`proxy_ssl_verify off`) every certificate is accepted.
#[derive(Debug)]
struct ServerVerifier {
    verifier: Option<Verifier>,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(verifier) = &self.verifier else { return Ok(ServerCertVerified::assertion()) };
        let chain: Vec<CertificateDer<'_>> = std::iter::once(end_entity).chain(intermediates).cloned().collect();
        let result = match verifier.verify(&chain, Purpose::Server, verify::now()) {
            Ok(()) if !host::is_valid_for(end_entity, &name.to_str()) => Err(VerifyError::HostMismatch),
            result => result,
        };
        match result {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(error) => Err(Error::General(format!("upstream SSL certificate verify error: {error}"))),
        }
    }

    // An unverified certificate proves nothing, so its signature needs no check: some old appliances have certificates that
    // can't be parsed.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let Some(verifier) = &self.verifier else { return Ok(HandshakeSignatureValid::assertion()) };
        signature::verify_tls12(message, certificate, signed, &verifier.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let Some(verifier) = &self.verifier else { return Ok(HandshakeSignatureValid::assertion()) };
        signature::verify_tls13(message, certificate, signed, &verifier.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto_provider().signature_verification_algorithms.supported_schemes()
    }
}
