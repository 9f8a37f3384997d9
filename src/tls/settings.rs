//! What a configuration says of TLS, before any file is read.

use std::time::Duration;

/// The `ssl_*` directives of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// Files of certificates and of their keys.
    pub cert_key_paths: Vec<(String, String)>,
    pub protocols: Protocols,
    pub session_tickets: bool,
    /// Bytes of the sessions that are kept; 0: none are.
    pub session_cache_bytes: usize,
    /// How long a session may be taken up again.
    pub session_timeout: Duration,
    /// No handshake is made for the names of this server.
    pub reject_handshake: bool,
    pub client_auth: ClientAuthSettings,
}

/// The `proxy_ssl_*` directives of a location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// The files of our own certificate and its key.
    pub cert_key_paths: Option<(String, String)>,
    pub protocols: Protocols,
    /// Sessions are taken up again.
    pub session_reuse: bool,
    pub verify: bool,
    pub trusted_certificate: Option<String>,
    pub crl: Option<String>,
    pub depth: u32,
    /// The name of the upstream is sent (SNI).
    pub send_server_name: bool,
}

impl Default for ClientSettings {
    /// nginx's defaults.
    fn default() -> Self {
        Self {
            cert_key_paths: None,
            protocols: Protocols::default(),
            session_reuse: true,
            verify: false,
            trusted_certificate: None,
            crl: None,
            depth: 1,
            send_server_name: false,
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
pub struct ClientAuthSettings {
    pub verify: VerifyClient,
    /// The certificates that clients are told of, and others that are trusted as well.
    pub client_certificate: Option<String>,
    pub trusted_certificate: Option<String>,
    pub crl: Option<String>,
    pub depth: u32,
}

/// `ssl_verify_client`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VerifyClient {
    #[default]
    Off,
    On,
    Optional,
    /// Who issued a certificate need not be known.
    OptionalNoCa,
}

impl Default for ServerSettings {
    /// nginx's defaults.
    fn default() -> Self {
        Self {
            cert_key_paths: Vec::new(),
            protocols: Protocols::default(),
            session_tickets: true,
            session_cache_bytes: 0,
            session_timeout: Duration::from_secs(300),
            reject_handshake: false,
            client_auth: ClientAuthSettings { depth: 1, ..ClientAuthSettings::default() },
        }
    }
}
