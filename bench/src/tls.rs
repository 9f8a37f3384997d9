//! TLS connections of clients by rustls, which accept any certificate.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::Arc,
};

use futures_rustls::rustls;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::{conn::Conn, poll::EventFlags};

/// The server name.
pub const NAME: &str = "bench.example";

/// Returns the configuration of clients, with or without session resumption.
pub fn config(resumes: bool) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    // Cannot fail: the provider has ciphers for all versions.
    let Ok(builder) = builder else { return config(resumes) };
    let mut config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.dangerous().set_certificate_verifier(Arc::new(AcceptAny));
    config.resumption = if resumes { Resumption::in_memory_sessions(256) } else { Resumption::disabled() };
    Arc::new(config)
}

/// Performs the handshake on a blocking connection.
pub fn connect(stream: &mut TcpStream, config: &Arc<ClientConfig>) -> io::Result<ClientConnection> {
    let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
    let mut tls = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
    while tls.is_handshaking() {
        tls.complete_io(stream)?;
    }
    Ok(tls)
}

/// A connection, plain or over TLS.
pub enum Stream {
    Plain(Conn),
    Tls {
        conn: Conn,
        tls: Box<ClientConnection>,
        /// Received bytes; `next..last` is not processed yet.
        received: Vec<u8>,
        next: usize,
        last: usize,
    },
}

impl Stream {
    pub fn new(stream: TcpStream, tls: Option<ClientConnection>) -> io::Result<Self> {
        let conn = Conn::new(stream)?;
        Ok(match tls {
            None => Self::Plain(conn),
            Some(tls) => Self::Tls { conn, tls: Box::new(tls), received: vec![0; 64 * 1024], next: 0, last: 0 },
        })
    }

    pub fn conn(&self) -> &Conn {
        match self {
            Self::Plain(conn) | Self::Tls { conn, .. } => conn,
        }
    }

    /// Records the readiness of an event.
    pub fn set_ready(&mut self, flags: EventFlags) {
        match self {
            Self::Plain(conn) | Self::Tls { conn, .. } => conn.set_ready(flags),
        }
    }

    /// Sends unsent bytes; true if none are left.
    pub fn flush(&mut self) -> io::Result<bool> {
        match self {
            Self::Plain(conn) | Self::Tls { conn, .. } => conn.flush(),
        }
    }

    /// Sends what the kernel takes now and keeps the rest.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (conn, tls) = match self {
            Self::Plain(conn) => return conn.send(bytes),
            Self::Tls { conn, tls, .. } => (conn, tls),
        };
        let mut encrypted = Vec::with_capacity(bytes.len() + 512);
        let mut left = bytes;
        while !left.is_empty() {
            let taken = tls.writer().write(left)?;
            left = &left[taken..];
            while tls.wants_write() {
                tls.write_tls(&mut encrypted)?;
            }
        }
        conn.send(&encrypted)
    }

    /// Reads once; `None` if there is no data now, `Some(0)` at EOF.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let (conn, tls, received, next, last) = match self {
            Self::Plain(conn) => return conn.read(buffer),
            Self::Tls { conn, tls, received, next, last } => (conn, tls, received, next, last),
        };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read.map(Some),
            }
            if next == last {
                let Some(count) = conn.read(received)? else { return Ok(None) };
                (*next, *last) = (0, count);
                if count == 0 {
                    return Ok(Some(0));
                }
            }
            let mut unprocessed = &received[*next..*last];
            *next += tls.read_tls(&mut unprocessed)?;
            tls.process_new_packets().map_err(io::Error::other)?;
        }
    }
}

/// Accepts any certificate.
#[derive(Debug)]
struct AcceptAny;

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
