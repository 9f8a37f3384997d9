//! A build without TLS: the same names, of which nothing can be made.
#![expect(clippy::needless_pass_by_ref_mut, reason = "the signatures are those of a build that has it")]

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::runtime::socket::Socket;
use crate::runtime::stream::SecureStream;
use crate::tls::settings::{ClientSettings, ServerSettings};
use crate::tls::variables::SslVariable;

/// What is known of a secured connection.
#[derive(Debug)]
pub enum TlsInfo {}

impl TlsInfo {
    /// Whether a request is served.
    pub fn authorize(&self, _: Option<&Arc<ServerTls>>) -> Result<(), AuthError> {
        match *self {}
    }

    pub fn write_variable(&self, _: SslVariable, _: &mut Vec<u8>) {
        match *self {}
    }
}

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthError {
    Misdirected,
    NoCertificate,
    BadCertificate(VerifyError),
}

/// Why a certificate is not trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyError {}

impl fmt::Display for VerifyError {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

/// What a server says in a handshake.
#[derive(Debug)]
pub enum ServerTls {}

impl ServerTls {
    /// What became of certificates that have changed.
    pub fn reload_if_changed(&self) -> Vec<ReloadEvent> {
        match *self {}
    }
}

/// What became of files that have changed.
#[derive(Debug, PartialEq, Eq)]
pub enum ReloadEvent {
    Reloaded(String),
    Failed(String),
}

/// How upstreams are connected to.
#[derive(Debug)]
pub enum ClientTls {}

impl ClientTls {
    /// What became of our certificate, if it has changed.
    pub fn reload_if_changed(&self) -> Option<ReloadEvent> {
        match *self {}
    }
}

/// What was read of the files of a configuration.
#[derive(Debug, Default)]
pub struct TlsStore {}

impl TlsStore {
    /// There can't be a site.
    pub fn server_tls(&mut self, _: &ServerSettings) -> Result<Arc<ServerTls>, String> {
        Err("this build has no TLS".to_owned())
    }

    /// There is nothing to know.
    pub fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// There can't be a client.
    pub fn client_tls(&mut self, _: &ClientSettings) -> Result<Arc<ClientTls>, String> {
        Err("this build has no TLS".to_owned())
    }
}

/// There is nobody to connect with.
pub async fn connect(_: Socket, client: &ClientTls, _: &str) -> io::Result<Box<dyn SecureStream>> {
    match *client {}
}

/// Why there is no secured connection.
#[derive(Debug)]
pub struct AcceptError;

impl fmt::Display for AcceptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this build has no TLS")
    }
}

/// There can't be a secured connection.
pub async fn accept(
    _: Socket,
    _: Vec<u8>,
    _: impl FnOnce(Option<&str>) -> Option<Arc<ServerTls>>,
) -> Result<(Box<dyn SecureStream>, TlsInfo), AcceptError> {
    Err(AcceptError)
}
