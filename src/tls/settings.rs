//! What a configuration says of TLS, before any file is read.

use std::time::Duration;

/// The `ssl_*` directives of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSpec {
    /// Files of certificates and of their keys.
    pub pairs: Vec<(String, String)>,
    pub protocols: Protocols,
    pub tickets: bool,
    /// Bytes of the sessions that are kept; 0: none are.
    pub cache_bytes: usize,
    /// How long a session may be taken up again.
    pub session_timeout: Duration,
    /// No handshake is made for the names of this server.
    pub rejects: bool,
    pub clients: ClientsSpec,
}

/// The `proxy_ssl_*` directives of a location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSpec {
    /// The files of our own certificate and its key.
    pub pair: Option<(String, String)>,
    pub protocols: Protocols,
    /// Sessions are taken up again.
    pub resumes: bool,
    pub verify: bool,
    pub trusted: Option<String>,
    pub revoked: Option<String>,
    pub depth: u32,
    /// The name of the upstream is sent (SNI).
    pub sends_name: bool,
}

impl Default for ClientSpec {
    /// nginx's defaults.
    fn default() -> Self {
        Self {
            pair: None,
            protocols: Protocols::default(),
            resumes: true,
            verify: false,
            trusted: None,
            revoked: None,
            depth: 1,
            sends_name: false,
        }
    }
}

/// Versions of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    pub tls12: bool,
    pub tls13: bool,
}

impl Default for Protocols {
    fn default() -> Self {
        Self { tls12: true, tls13: true }
    }
}

/// What is asked of clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientsSpec {
    pub verify: Verify,
    /// The certificates that clients are told of, and others that are trusted as well.
    pub named: Option<String>,
    pub trusted: Option<String>,
    pub revoked: Option<String>,
    pub depth: u32,
}

/// `ssl_verify_client`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    #[default]
    Off,
    On,
    Optional,
    /// Who issued a certificate need not be known.
    OptionalNoCa,
}

impl Default for ServerSpec {
    /// nginx's defaults.
    fn default() -> Self {
        Self {
            pairs: Vec::new(),
            protocols: Protocols::default(),
            tickets: true,
            cache_bytes: 0,
            session_timeout: Duration::from_secs(300),
            rejects: false,
            clients: ClientsSpec { depth: 1, ..ClientsSpec::default() },
        }
    }
}
