//! An end over TLS, and how a client comes to it: rustls, which asks for no certificate that anybody vouches for.

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

use crate::{conn::End, poll::EventFlags};

/// The name that is asked for.
pub const NAME: &str = "bench.example";

/// How clients come: with sessions that they take up again, or without.
pub fn config(resumes: bool) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    // Cannot fail: the provider has ciphers for all versions.
    let Ok(builder) = builder else { return config(resumes) };
    let mut config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.dangerous().set_certificate_verifier(Arc::new(Anybody));
    config.resumption = if resumes { Resumption::in_memory_sessions(256) } else { Resumption::disabled() };
    Arc::new(config)
}

/// Makes the handshake on a blocking connection.
pub fn connect(stream: &mut TcpStream, config: &Arc<ClientConfig>) -> io::Result<ClientConnection> {
    let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
    let mut connection = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
    while connection.is_handshaking() {
        connection.complete_io(stream)?;
    }
    Ok(connection)
}

/// An end whose bytes may be sealed on their way.
pub enum Line {
    Plain(End),
    Sealed {
        end: End,
        connection: Box<ClientConnection>,
        /// What came, from where on it was not looked at, and where it ends.
        came: Vec<u8>,
        next: usize,
        last: usize,
    },
}

impl Line {
    pub fn new(stream: TcpStream, connection: Option<ClientConnection>) -> io::Result<Self> {
        let end = End::new(stream)?;
        Ok(match connection {
            None => Self::Plain(end),
            Some(connection) => {
                Self::Sealed { end, connection: Box::new(connection), came: vec![0; 64 * 1024], next: 0, last: 0 }
            }
        })
    }

    pub fn end(&self) -> &End {
        match self {
            Self::Plain(end) | Self::Sealed { end, .. } => end,
        }
    }

    /// Remembers what an event said.
    pub fn note(&mut self, flags: EventFlags) {
        match self {
            Self::Plain(end) | Self::Sealed { end, .. } => end.note(flags),
        }
    }

    /// Sends what was kept; true if nothing of it is left.
    pub fn flush(&mut self) -> io::Result<bool> {
        match self {
            Self::Plain(end) | Self::Sealed { end, .. } => end.flush(),
        }
    }

    /// Sends what the kernel takes now and keeps the rest.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (end, connection) = match self {
            Self::Plain(end) => return end.send(bytes),
            Self::Sealed { end, connection, .. } => (end, connection),
        };
        let mut sealed = Vec::with_capacity(bytes.len() + 512);
        let mut left = bytes;
        while !left.is_empty() {
            let taken = connection.writer().write(left)?;
            left = &left[taken..];
            while connection.wants_write() {
                connection.write_tls(&mut sealed)?;
            }
        }
        end.send(&sealed)
    }

    /// Reads once; `None` if nothing is there now, `Some(0)` at the end of the stream.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let (end, connection, came, next, last) = match self {
            Self::Plain(end) => return end.read(buffer),
            Self::Sealed { end, connection, came, next, last } => (end, connection, came, next, last),
        };
        loop {
            match connection.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read.map(Some),
            }
            if next == last {
                let Some(count) = end.read(came)? else { return Ok(None) };
                (*next, *last) = (0, count);
                if count == 0 {
                    return Ok(Some(0));
                }
            }
            let mut fresh = &came[*next..*last];
            *next += connection.read_tls(&mut fresh)?;
            connection.process_new_packets().map_err(io::Error::other)?;
        }
    }
}

/// Takes any certificate.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
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
