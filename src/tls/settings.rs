//! The TLS settings of a configuration, before any file is read.

use std::fmt;
use std::time::Duration;

/// The `ssl_*` directives of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// The paths of each certificate and its key.
    pub cert_key_paths: Vec<(String, String)>,
    /// The same with the server name of the client in at least one of the two.
    pub named_cert_key_paths: Vec<(NamedPath, NamedPath)>,
    pub protocols: Protocols,
    pub session_tickets: bool,
    /// Size of the session cache; 0 disables it.
    pub session_cache_bytes: usize,
    /// How long a session can be resumed.
    pub session_timeout: Duration,
    /// Handshakes for the names of this server are rejected (`ssl_reject_handshake`).
    pub reject_handshake: bool,
    pub client_auth: ClientAuthSettings,
}

impl Default for ServerSettings {
    /// nginx's defaults.
    fn default() -> Self {
        Self {
            cert_key_paths: Vec::new(),
            named_cert_key_paths: Vec::new(),
            protocols: Protocols::default(),
            session_tickets: true,
            session_cache_bytes: 0,
            session_timeout: Duration::from_secs(300),
            reject_handshake: false,
            client_auth: ClientAuthSettings { depth: 1, ..ClientAuthSettings::default() },
        }
    }
}

/// A path in which the server name of the client stands between two parts each. With one part it is fixed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPath(pub Vec<String>);

impl NamedPath {
    /// Returns the path for a server name; `None` if the name could lead out of the directory.
    pub fn for_name(&self, name: &str) -> Option<String> {
        let is_label = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let is_safe = name.bytes().all(is_label) && !name.starts_with('.') && !name.contains("..");
        is_safe.then(|| self.0.join(&name.to_ascii_lowercase()))
    }
}

/// The `proxy_ssl_*` directives of a location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// The paths of the client certificate and its key.
    pub cert_key_paths: Option<(String, String)>,
    pub protocols: Protocols,
    pub session_reuse: bool,
    pub verify: bool,
    pub trusted_certificate: Option<String>,
    pub crl: Option<String>,
    pub depth: u32,
    /// Sends the name of the upstream as SNI (`proxy_ssl_server_name`).
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

/// Why a TLS configuration can't be built.
#[derive(Debug)]
pub struct LoadError {
    pub message: String,
    /// The file that is the cause.
    pub path: Option<String>,
}

impl LoadError {
    /// Returns a function that turns messages about a file into errors.
    pub fn of(path: &str) -> impl FnOnce(String) -> Self {
        move |message| Self { message, path: Some(path.to_owned()) }
    }
}

impl From<String> for LoadError {
    fn from(message: String) -> Self {
        Self { message, path: None }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Enabled versions of TLS.
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

/// How client certificates are requested and verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientAuthSettings {
    pub verify: VerifyClient,
    /// Trusted certificates whose subjects are sent to clients as acceptable issuers.
    pub client_certificate: Option<String>,
    /// Trusted certificates that are not sent.
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
    /// As `Optional`, but the issuer of a certificate may be unknown.
    OptionalNoCa,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_name_stays_in_its_directory() {
        let path = NamedPath(vec!["/live/".to_owned(), "/key.".to_owned(), String::new()]);
        for (name, expected) in [
            ("A.Example", Some("/live/a.example/key.a.example")),
            ("", Some("/live//key.")),
            ("..", None),
            (".", None),
            ("a..b", None),
            ("a/b", None),
            ("a\0", None),
        ] {
            assert_eq!(path.for_name(name).as_deref(), expected, "{name}");
        }
    }
}
