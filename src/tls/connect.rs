//! Connections that we make: what is said in a handshake with an upstream, and what is asked of it.

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
use crate::tls::server_config::{provider, signature, versions};
use crate::tls::settings::ClientSettings;
use crate::tls::stream::{Session, Side};
use crate::tls::verify::chain::{self, Purpose, Verifier, VerifyError};
use crate::tls::{pem, session_cache};

/// Sessions that are kept for upstreams, by their names.
const SESSIONS_MAX: usize = 64;

/// One way to connect to upstreams.
#[derive(Debug)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    pair: Option<Arc<CertKey>>,
}

/// Makes the handshake with an upstream that is called `name`.
pub async fn connect(socket: Socket, client: &ClientTls, name: &str) -> io::Result<Box<dyn SecureStream>> {
    // What can't be a name is none that could be asked for.
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    let nameless = || ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0; 4])));
    let name = ServerName::try_from(bare.to_owned()).unwrap_or_else(|_| nameless());
    let connection = UnbufferedClientConnection::new(client.config.clone(), name).map_err(io::Error::other)?;
    let session = Session::new(socket, Side::Client(connection), Vec::new());
    poll_fn(|cx| session.poll_handshake(cx)).await?;
    Ok(Box::new(session))
}

impl ClientTls {
    /// Looks from time to time whether our certificate was renewed.
    pub fn reload_if_changed(&self) -> Option<ReloadEvent> {
        self.pair.as_ref()?.reload_if_changed()
    }

    pub(super) fn new(spec: &ClientSettings, pair: Option<Arc<CertKey>>) -> Result<Self, String> {
        let algorithms = provider().signature_verification_algorithms;
        let trust = match (&spec.trusted_certificate, spec.verify) {
            (Some(path), true) => Some(Verifier {
                anchors: pem::trusted(path)?,
                revoked: spec.crl.as_ref().map_or(Ok(Vec::new()), |path| pem::revoked(path))?,
                depth: spec.depth,
                algorithms,
            }),
            _ => None,
        };
        let builder = ClientConfig::builder_with_provider(provider().clone())
            .with_protocol_versions(&versions(spec.protocols))
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(ServerVerifier { trust }));
        let mut config = match pair.clone() {
            Some(pair) => builder.with_client_cert_resolver(Arc::new(ClientCertResolver(pair))),
            None => builder.with_no_client_auth(),
        };
        config.enable_sni = spec.send_server_name;
        config.resumption = match spec.session_reuse {
            true => Resumption::in_memory_sessions(SESSIONS_MAX),
            false => Resumption::disabled(),
        };
        Ok(Self { config: Arc::new(config), pair })
    }
}

/// Our own certificate, for upstreams that ask for one.
#[derive(Debug)]
struct ClientCertResolver(Arc<CertKey>);

impl ResolvesClientCert for ClientCertResolver {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current()).filter(|pair| pair.key.choose_scheme(schemes).is_some())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Judges the certificate of an upstream, if that is to be done at all (`proxy_ssl_verify`).
#[derive(Debug)]
struct ServerVerifier {
    trust: Option<Verifier>,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(trust) = &self.trust else { return Ok(ServerCertVerified::assertion()) };
        let chain: Vec<CertificateDer<'_>> = std::iter::once(own).chain(others).cloned().collect();
        let now = i64::try_from(session_cache::now()).unwrap_or(i64::MAX);
        let judged = trust.judge(&chain, Purpose::Server, now);
        let judged =
            judged.and_then(|()| if chain::is_for(own, &name.to_str()) { Ok(()) } else { Err(VerifyError::Name) });
        match judged {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(why) => Err(Error::General(format!("upstream SSL certificate verify error: {why}"))),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check(message, own, signed, false)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check(message, own, signed, true)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ServerVerifier {
    /// Who does not care whose certificate it is has nothing from a signature by its key: old appliances have certificates
    /// that nobody can read.
    fn check(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
        tls13: bool,
    ) -> Result<HandshakeSignatureValid, Error> {
        match &self.trust {
            None => Ok(HandshakeSignatureValid::assertion()),
            Some(trust) => signature(chain::is_signed(message, own, signed, &trust.algorithms, tls13)),
        }
    }
}
