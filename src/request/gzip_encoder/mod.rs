//! A streaming gzip encoder (RFC 1952).
//!
//! Without the feature `gzip`, [`Encoder`] is an enum without variants: code that uses one is compiled, and then removed.

#[cfg(feature = "gzip")]
pub(crate) mod deflate;
#[cfg(not(feature = "gzip"))]
pub(crate) mod stub;

#[cfg(feature = "gzip")]
pub(crate) use crate::request::gzip_encoder::deflate::Encoder;

#[cfg(not(feature = "gzip"))]
pub(crate) use crate::request::gzip_encoder::stub::Encoder;

/// How much of the output to produce, as in zlib.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// The encoder may keep data back, as more follows.
    None,
    /// All data so far can be decoded from the output.
    Sync,
    /// The data ends.
    Finish,
}

/// The encoder is in an invalid state.
#[derive(Debug, PartialEq, Eq)]
pub struct EncodeError;
