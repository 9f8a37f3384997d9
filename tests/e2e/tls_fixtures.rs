//! Certificates and keys generated for a test, and TLS clients.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use futures_rustls::rustls;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SerialNumber};
use rustls::SupportedProtocolVersion;
use rustls::client::Resumption;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::client::Client;
use crate::harness::TempDir;

/// A client over TLS.
pub(crate) type TlsClient = Client<StreamOwned<ClientConnection, TcpStream>>;

/// A certificate and its key.
pub(crate) struct CertKey {
    params: CertificateParams,
    key: KeyPair,
    certificate: rcgen::Certificate,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// Creates a certificate that may issue others.
pub(crate) fn certificate_authority(name: &str) -> CertKey {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    self_signed(params)
}

/// Creates a self-signed certificate.
pub(crate) fn self_signed(params: CertificateParams) -> CertKey {
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    CertKey { params, key, certificate }
}

impl CertKey {
    /// Issues a certificate for `name`.
    pub(crate) fn issue(&self, name: &str) -> Self {
        self.issue_with(name, |_| {})
    }

    pub(crate) fn issue_with(&self, name: &str, edit: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = params(name);
        edit(&mut params);
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        Self { params, key, certificate }
    }

    /// Returns a CRL with these serial numbers, as PEM.
    pub(crate) fn revocation_list(&self, serials: &[u64]) -> String {
        let revoked = serials.iter().map(|serial| rcgen::RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: rcgen::date_time_ymd(2025, 1, 2),
            reason_code: None,
            invalidity_date: None,
        });
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2025, 1, 2),
            next_update: rcgen::date_time_ymd(4000, 1, 1),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&Issuer::from_params(&self.params, &self.key)).unwrap().pem().unwrap()
    }

    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }

    pub(crate) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// Writes `NAME.crt` and `NAME.key`.
    pub(crate) fn write(&self, dir: &TempDir, name: &str) {
        dir.write(&format!("{name}.crt"), self.pem());
        dir.write(&format!("{name}.key"), self.key_pem());
    }
}

/// Opens TLS connections.
#[derive(Clone)]
pub(crate) struct TlsConnector {
    pub(crate) config: ClientConfig,
}

impl TlsConnector {
    /// A connector that trusts `authority`, with or without a client certificate.
    pub(crate) fn trusting(authority: &CertKey, own: Option<&CertKey>) -> Self {
        Self::with_versions(authority, own, &[&rustls::version::TLS13, &rustls::version::TLS12])
    }

    pub(crate) fn with_versions(
        authority: &CertKey,
        own: Option<&CertKey>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::try_from(own.key.serialize_der()).unwrap();
                builder.with_client_auth_cert(vec![own.certificate.der().clone()], key).unwrap()
            }
        };
        config.resumption = Resumption::disabled();
        Self { config }
    }

    /// Enables session resumption.
    pub(crate) fn resuming(mut self) -> Self {
        self.config.resumption = Resumption::in_memory_sessions(16);
        self
    }

    /// Connects and performs the handshake with this server name.
    pub(crate) fn connect(&self, addr: SocketAddr, name: &str) -> Result<TlsClient, String> {
        let Client { stream, .. } = Client::connect(addr);
        self.handshake(stream, name)
    }

    /// Performs the handshake on a connection.
    pub(crate) fn handshake(&self, mut stream: TcpStream, name: &str) -> Result<TlsClient, String> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut connection = ClientConnection::new(Arc::new(self.config.clone()), name).unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut stream).map_err(|error| error.to_string())?;
        }
        Ok(Client::from_stream(StreamOwned::new(connection, stream)))
    }
}

impl TlsClient {
    /// Sends close_notify and closes the write side.
    pub(crate) fn shutdown_write(&mut self) {
        self.send_close_notify();
        let _ = self.stream.sock.shutdown(Shutdown::Write);
    }

    /// Sends close_notify and leaves the write side open.
    pub(crate) fn send_close_notify(&mut self) {
        self.stream.conn.send_close_notify();
        let _ = self.stream.conn.complete_io(&mut self.stream.sock);
    }

    /// Returns the first certificate of the proxy.
    pub(crate) fn certificate(&self) -> Vec<u8> {
        self.stream.conn.peer_certificates().unwrap()[0].to_vec()
    }
}

impl CertKey {
    pub(crate) fn der(&self) -> Vec<u8> {
        self.certificate.der().to_vec()
    }
}

/// Performs the server side of a handshake.
pub(crate) fn accept_tls(
    stream: &TcpStream,
    own: &CertKey,
) -> Result<StreamOwned<ServerConnection, TcpStream>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::try_from(own.key.serialize_der()).unwrap();
    let chain = vec![own.certificate.der().clone()];
    let config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
    let mut connection = ServerConnection::new(Arc::new(config)).unwrap();
    let mut stream = stream.try_clone().unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).map_err(|error| error.to_string())?;
    }
    Ok(StreamOwned::new(connection, stream))
}
