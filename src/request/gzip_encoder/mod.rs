//! One body on its way into gzip (RFC 1952): bytes in, bytes out.
//!
//! Without the feature `gzip` no [`Encoder`] can be made, and what can't exist costs nothing.

#[cfg(feature = "gzip")]
pub(crate) mod deflate;
#[cfg(not(feature = "gzip"))]
pub(crate) mod stub;

#[cfg(feature = "gzip")]
pub(crate) use crate::request::gzip_encoder::deflate::Encoder;

#[cfg(not(feature = "gzip"))]
pub(crate) use crate::request::gzip_encoder::stub::Encoder;

/// What follows the bytes at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// More, soon: it may wait for that.
    More,
    /// Nothing for now: all of it must come out.
    Pause,
    End,
}

/// The encoder is in a state that it can't be in.
#[derive(Debug, PartialEq, Eq)]
pub struct EncodeError;
