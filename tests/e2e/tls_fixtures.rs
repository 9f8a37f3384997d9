//! Certificates and keys that are made for a test, and clients that speak TLS.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use futures_rustls::rustls;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SerialNumber};
use rustls::SupportedProtocolVersion;
use rustls::client::Resumption;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::client::Client;
use crate::harness::Folder;

/// A client over TLS.
pub(crate) type Secured = Client<StreamOwned<ClientConnection, TcpStream>>;

/// A certificate and its key.
pub(crate) struct Made {
    params: CertificateParams,
    key: KeyPair,
    certificate: rcgen::Certificate,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A certificate that may issue others.
pub(crate) fn authority(name: &str) -> Made {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    itself(params)
}

/// A certificate that nobody but itself vouches for.
pub(crate) fn itself(params: CertificateParams) -> Made {
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Made { params, key, certificate }
}

impl Made {
    /// Issues a certificate for `name`.
    pub(crate) fn issues(&self, name: &str) -> Self {
        self.issues_with(name, |_| {})
    }

    pub(crate) fn issues_with(&self, name: &str, edit: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = params(name);
        edit(&mut params);
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        Self { params, key, certificate }
    }

    /// Revokes the certificates with these serial numbers.
    pub(crate) fn revokes(&self, serials: &[u64]) -> String {
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
    pub(crate) fn write(&self, folder: &Folder, name: &str) {
        folder.write(&format!("{name}.crt"), self.pem());
        folder.write(&format!("{name}.key"), self.key_pem());
    }
}

/// How clients come.
#[derive(Clone)]
pub(crate) struct Clients {
    pub(crate) config: ClientConfig,
}

impl Clients {
    /// Clients that trust `authority`, and have a certificate or none.
    pub(crate) fn trusting(authority: &Made, own: Option<&Made>) -> Self {
        Self::speaking(authority, own, &[&rustls::version::TLS13, &rustls::version::TLS12])
    }

    pub(crate) fn speaking(
        authority: &Made,
        own: Option<&Made>,
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

    /// These clients keep their sessions.
    pub(crate) fn resuming(mut self) -> Self {
        self.config.resumption = Resumption::in_memory_sessions(16);
        self
    }

    /// Connects and makes the handshake with `name`.
    pub(crate) fn connect(&self, addr: SocketAddr, name: &str) -> Result<Secured, String> {
        let Client { stream, .. } = Client::connect(addr);
        self.over(stream, name)
    }

    /// Makes the handshake on a connection.
    pub(crate) fn over(&self, mut stream: TcpStream, name: &str) -> Result<Secured, String> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut connection = ClientConnection::new(Arc::new(self.config.clone()), name).unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut stream).map_err(|error| error.to_string())?;
        }
        Ok(Client::on(StreamOwned::new(connection, stream)))
    }
}

impl Secured {
    /// Says that nothing more comes, and ends our direction.
    pub(crate) fn finish(&mut self) {
        self.say_goodbye();
        let _ = self.stream.sock.shutdown(Shutdown::Write);
    }

    /// Says that nothing more comes, and leaves our direction open.
    pub(crate) fn say_goodbye(&mut self) {
        self.stream.conn.send_close_notify();
        let _ = self.stream.conn.complete_io(&mut self.stream.sock);
    }

    /// The first certificate of the gate.
    pub(crate) fn certificate(&self) -> Vec<u8> {
        self.stream.conn.peer_certificates().unwrap()[0].to_vec()
    }
}

impl Made {
    pub(crate) fn der(&self) -> Vec<u8> {
        self.certificate.der().to_vec()
    }
}

/// The other side of a handshake.
pub(crate) fn accept(stream: &TcpStream, own: &Made) -> Result<StreamOwned<ServerConnection, TcpStream>, String> {
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
