//! The interface of `tls` in a build without it: types without values.
#![expect(clippy::needless_pass_by_ref_mut, reason = "the signatures are those of a build with TLS")]

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::runtime::socket::Socket;
use crate::runtime::stream::SecureStream;
use crate::tls::settings::{ClientSettings, LoadError, ServerSettings};
use crate::tls::variables::SslVariable;

/// Properties of a TLS connection.
#[derive(Debug)]
pub enum TlsInfo {}

impl TlsInfo {
    pub fn authorize(&self, _: Option<&Arc<ServerTls>>) -> Result<(), AuthError> {
        match *self {}
    }

    pub fn write_variable(&self, _: SslVariable, _: &mut Vec<u8>) {
        match *self {}
    }
}

/// Why a request is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthError {
    Misdirected,
    NoCertificate,
    BadCertificate(VerifyError),
}

/// Why a chain is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyError {}

impl fmt::Display for VerifyError {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

/// The TLS configuration of a server.
#[derive(Debug)]
pub enum ServerTls {}

impl ServerTls {
    pub fn reload_if_changed(&self, _: Option<&str>) -> Vec<ReloadEvent> {
        match *self {}
    }
}

/// The result of a reload.
#[derive(Debug, PartialEq, Eq)]
pub enum ReloadEvent {
    Reloaded(String),
    Failed(String),
}

/// The TLS configuration of connections to upstreams.
#[derive(Debug)]
pub enum ClientTls {}

impl ClientTls {
    pub fn reload_if_changed(&self) -> Option<ReloadEvent> {
        match *self {}
    }
}

/// No TLS configurations.
#[derive(Debug, Default)]
pub struct TlsStore {}

impl TlsStore {
    pub fn server_tls(&mut self, _: &ServerSettings) -> Result<Arc<ServerTls>, LoadError> {
        Err("this build has no TLS".to_owned().into())
    }

    pub fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    pub fn client_tls(&mut self, _: &ClientSettings) -> Result<Arc<ClientTls>, LoadError> {
        Err("this build has no TLS".to_owned().into())
    }
}

pub async fn connect(_: Socket, client: &ClientTls, _: &str) -> io::Result<Box<dyn SecureStream>> {
    match *client {}
}

/// Why a handshake failed.
#[derive(Debug)]
pub struct AcceptError;

impl fmt::Display for AcceptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this build has no TLS")
    }
}

/// Fails: without TLS no listener calls this.
pub async fn accept(
    _: Socket,
    _: Vec<u8>,
    _: impl FnOnce(Option<&str>) -> Option<Arc<ServerTls>>,
) -> Result<(Box<dyn SecureStream>, TlsInfo), AcceptError> {
    Err(AcceptError)
}
