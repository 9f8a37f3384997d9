//! A build without TLS: the same names, of which nothing can be made.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::facts::Fact;
use super::spec::{ClientSpec, ServerSpec};
use crate::socket::Socket;

/// A secured connection.
pub enum Session {}

impl Session {
    pub fn socket(&self) -> &Socket {
        match *self {}
    }

    /// Reads into `buf`.
    pub fn poll_read(&self, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
        match *self {}
    }

    /// Writes some of `bytes`.
    pub fn poll_write(&self, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        match *self {}
    }

    /// Ends our direction.
    pub fn poll_finish(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }

    pub fn is_cut(&self) -> bool {
        match *self {}
    }

    pub fn is_readable(&self) -> bool {
        match *self {}
    }

    pub fn is_quiet(&self) -> bool {
        match *self {}
    }

    pub fn break_off(&self) {
        match *self {}
    }
}

/// What is known of a secured connection.
#[derive(Debug)]
pub enum Secured {}

impl Secured {
    /// Whether a request is served.
    ///
    /// # Errors
    /// None.
    pub fn check(&self, _: Option<&Arc<Site>>) -> Result<(), Refusal> {
        match *self {}
    }

    pub fn write(&self, _: Fact, _: &mut Vec<u8>) {
        match *self {}
    }
}

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Misdirected,
    NoCertificate,
    Distrusted(Distrust),
}

/// Why a certificate is not trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distrust {}

impl fmt::Display for Distrust {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

/// What a server says in a handshake.
#[derive(Debug)]
pub enum Site {}

impl Site {
    /// What became of certificates that have changed.
    pub fn refresh(&self) -> Vec<News> {
        match *self {}
    }
}

/// What became of files that have changed.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    Taken(String),
    Refused(String),
}

/// How upstreams are connected to.
#[derive(Debug)]
pub enum Client {}

impl Client {
    /// What became of our certificate, if it has changed.
    pub fn refresh(&self) -> Option<News> {
        match *self {}
    }
}

/// What was read of the files of a configuration.
#[derive(Debug, Default)]
pub struct Loaded {}

impl Loaded {
    /// There can't be a site.
    ///
    /// # Errors
    /// Always.
    pub fn site(&mut self, _: &ServerSpec) -> Result<Arc<Site>, String> {
        Err("this build has no TLS".to_owned())
    }

    /// There is nothing to know.
    pub fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// There can't be a client.
    ///
    /// # Errors
    /// Always.
    pub fn client(&mut self, _: &ClientSpec) -> Result<Arc<Client>, String> {
        Err("this build has no TLS".to_owned())
    }
}

/// There is nobody to connect with.
///
/// # Errors
/// None.
pub async fn connect(_: Socket, client: &Client, _: &str) -> io::Result<Session> {
    match *client {}
}

/// Why there is no secured connection.
#[derive(Debug)]
pub struct Failure;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this build has no TLS")
    }
}

/// There can't be a secured connection.
///
/// # Errors
/// Always.
pub async fn accept(
    _: Socket,
    _: Vec<u8>,
    _: impl FnOnce(Option<&str>) -> Option<Arc<Site>>,
) -> Result<(Session, Secured), Failure> {
    Err(Failure)
}
