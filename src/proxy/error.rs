//! Errors of an attempt: before the response, and during it.

use std::fmt;
use std::io;

use crate::config::{Level, NextUpstream};
use crate::http1::head::Malformed;
use crate::request::body_relay::TransferError;
use crate::runtime::io_error;

/// Why an attempt gave no response.
pub(crate) enum AttemptError {
    Connect(io::Error),
    ConnectTimeout,
    Handshake(io::Error),
    /// The peer closed the connection before the head was complete.
    Closed(Option<io::Error>),
    Timeout(&'static str),
    Invalid(Malformed),
    /// A 101 that does not accept what was offered.
    Upgrade(&'static str),
    /// A status for which `proxy_next_upstream` tries another peer.
    Status(u16),
    /// An error of the client; no other peer is tried.
    Client(u16, String),
    /// The client has closed the connection.
    ClientClosed,
}

impl AttemptError {
    pub(crate) fn client_body_slow() -> Self {
        Self::Client(408, "sent its request body more slowly than \"client_body_min_rate\"".to_owned())
    }

    pub(crate) fn client_body_timeout() -> Self {
        Self::Client(408, "timed out while sending request body".to_owned())
    }

    pub(crate) fn client_body_too_large() -> Self {
        Self::Client(413, "sent too large body".to_owned())
    }

    pub(crate) fn client_body_truncated() -> Self {
        Self::Client(400, "prematurely closed connection while sending request body".to_owned())
    }

    /// The status for the client after the last attempt.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Connect(_) | Self::Handshake(_) | Self::Closed(_) | Self::Invalid(_) | Self::Upgrade(_) => 502,
            Self::ConnectTimeout | Self::Timeout(_) => 504,
            Self::Status(status) | Self::Client(status, _) => *status,
            Self::ClientClosed => 499,
        }
    }

    /// The condition of `proxy_next_upstream` for another attempt; a status was checked already.
    pub(crate) fn next_upstream_flag(&self) -> Option<u16> {
        match self {
            Self::Connect(_) | Self::Handshake(_) | Self::Closed(_) => Some(NextUpstream::ERROR),
            Self::ConnectTimeout | Self::Timeout(_) => Some(NextUpstream::TIMEOUT),
            Self::Invalid(_) | Self::Upgrade(_) => Some(NextUpstream::INVALID_HEADER),
            Self::Status(_) | Self::Client(..) | Self::ClientClosed => None,
        }
    }
}

impl fmt::Display for AttemptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const READING: &str = "while reading response header from upstream";
        match self {
            Self::Connect(error) => {
                write!(f, "connect() failed ({}) while connecting to upstream", io_error::describe(error))
            }
            Self::ConnectTimeout => {
                f.write_str("upstream timed out (110: Connection timed out) while connecting to upstream")
            }
            Self::Handshake(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("peer closed connection in SSL handshake while SSL handshaking to upstream")
            }
            Self::Handshake(error) => {
                write!(f, "SSL_do_handshake() failed ({}) while SSL handshaking to upstream", io_error::describe(error))
            }
            Self::Closed(None) => write!(f, "upstream prematurely closed connection {READING}"),
            Self::Closed(Some(error)) => write!(f, "recv() failed ({}) {READING}", io_error::describe(error)),
            Self::Timeout(what) => write!(f, "upstream timed out (110: Connection timed out) {what}"),
            Self::Invalid(why) => write!(f, "upstream sent {why} {READING}"),
            Self::Upgrade(what) => write!(f, "upstream sent a 101 that {what}"),
            Self::Status(status) => write!(f, "upstream answered with {status}"),
            Self::Client(_, why) => write!(f, "client {why}"),
            Self::ClientClosed => f.write_str("client closed connection while waiting for the upstream"),
        }
    }
}

/// Why a response was cut off.
pub(crate) enum RelayError {
    Request(AttemptError),
    Response(TransferError),
    Gone,
}

impl RelayError {
    pub(crate) fn is_upstream_fault(&self) -> bool {
        matches!(
            self,
            Self::Response(
                TransferError::Source(_)
                    | TransferError::Truncated
                    | TransferError::SourceTimeout
                    | TransferError::Malformed(_)
            )
        )
    }

    pub(crate) fn is_client_fault(&self) -> bool {
        matches!(self, Self::Gone | Self::Request(AttemptError::ClientClosed) | Self::Response(TransferError::Sink(_)))
    }

    pub(crate) fn level(&self) -> Level {
        if self.is_upstream_fault() { Level::Error } else { Level::Info }
    }
}

impl fmt::Display for RelayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(missed @ (AttemptError::Client(..) | AttemptError::Timeout(_))) => missed.fmt(f),
            Self::Request(_) | Self::Gone => f.write_str("client closed connection while reading upstream"),
            Self::Response(TransferError::Source(error)) => {
                write!(f, "recv() failed ({}) while reading upstream", io_error::describe(error))
            }
            Self::Response(TransferError::Truncated) => {
                f.write_str("upstream prematurely closed connection while reading upstream")
            }
            Self::Response(TransferError::SourceTimeout) => {
                f.write_str("upstream timed out (110: Connection timed out) while reading upstream")
            }
            Self::Response(TransferError::Malformed(why)) => write!(f, "upstream sent {why} while reading upstream"),
            Self::Response(TransferError::Sink(error)) => {
                write!(f, "send() failed ({}) while sending to client", io_error::describe(error))
            }
            Self::Response(TransferError::Encoder) => f.write_str("the answer could not be compressed"),
            Self::Response(TransferError::SinkTimeout) => f.write_str("client timed out while sending to client"),
            Self::Response(TransferError::TooLarge) => f.write_str("upstream sent too large body"),
        }
    }
}
