//! The `$ssl_*` variables.

/// One variable of a TLS connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslVariable {
    Alpn,
    Cipher,
    Ciphers,
    ClientCert,
    ClientEscapedCert,
    ClientFingerprint,
    ClientIssuer,
    ClientIssuerLegacy,
    ClientRawCert,
    ClientSerial,
    ClientSubject,
    ClientSubjectLegacy,
    ClientValidEnd,
    ClientValidRemain,
    ClientValidStart,
    ClientVerify,
    Curve,
    Curves,
    Protocol,
    ServerName,
    SessionReused,
    Sigalgs,
}
