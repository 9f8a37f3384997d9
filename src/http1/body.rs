//! Decodes message bodies: one decoder per framing, strict about the chunked coding (RFC 9112 6 and 7).
//!
//! Chunk framing is never copied from one side to the other: sizes are parsed, checked and written again; extensions
//! are checked and dropped, trailers are checked.

use std::fmt;

use crate::http1::head::{self, Framing};

/// Bytes of one chunk extension.
const EXTENSION_BYTES_MAX: usize = 256;
/// Bytes of all chunk extensions of one body.
const EXTENSIONS_BYTES_MAX: usize = 16 * 1024;
/// Bytes of the trailer section.
const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// Hexadecimal digits of a chunk size.
const SIZE_DIGITS_MAX: u8 = 8;

/// An error in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MalformedBody {
    ChunkSize,
    ChunkEnd,
    Extension,
    Trailer,
    TrailerTooLong,
}

impl MalformedBody {
    /// Returns the status of the response to a request with this error.
    pub fn status(self) -> u16 {
        match self {
            Self::TrailerTooLong => 431,
            _ => 400,
        }
    }
}

impl fmt::Display for MalformedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ChunkSize => "invalid chunk size",
            Self::ChunkEnd => "chunk data without CRLF at its end",
            Self::Extension => "invalid or too long chunk extension",
            Self::Trailer => "invalid trailer",
            Self::TrailerTooLong => "too big trailer section",
        })
    }
}

/// The position in a body: separates data from framing, and detects the end.
///
/// A body has one decoder, which every reader of the body continues with. A second one that starts in the middle
/// would parse data as framing: request smuggling.
#[derive(Debug)]
pub struct Decoder {
    state: BodyState,
    trailers: Vec<u8>,
    /// Bytes of input consumed, framing included.
    consumed: u64,
}

#[derive(Debug)]
enum BodyState {
    /// This many bytes are left.
    Length(u64),
    UntilClose,
    Chunked(Box<Chunked>),
    Done,
    /// Nothing after an error can be parsed.
    Malformed(MalformedBody),
}

#[derive(Debug, Default)]
struct Chunked {
    step: ChunkState,
    /// Bytes left in the current chunk.
    remaining: u64,
    digits: u8,
    extension_bytes: usize,
    extensions_bytes: usize,
    trailer: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ChunkState {
    #[default]
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailer,
}

/// The result of one call: the number of input bytes used, and those of them that are body data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded<'b> {
    pub used: usize,
    pub data: &'b [u8],
}

impl Decoder {
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => BodyState::Done,
            Framing::Length(length) => BodyState::Length(length),
            Framing::Chunked => BodyState::Chunked(Box::default()),
            Framing::UntilClose => BodyState::UntilClose,
        };
        Self { state, trailers: Vec::new(), consumed: 0 }
    }

    /// Bytes of input consumed, framing included.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Returns the trailer lines with their line ends; empty until the body is complete.
    pub fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    /// Whether the body is complete.
    pub fn is_done(&self) -> bool {
        matches!(self.state, BodyState::Done)
    }

    /// Whether EOF is a valid end of this body.
    pub fn ends_with_stream(&self) -> bool {
        matches!(self.state, BodyState::UntilClose | BodyState::Done)
    }

    /// Decodes the next input. Call it again with the rest until it uses nothing or the body is complete.
    ///
    /// # Errors At the first byte that the coding does not allow, and on every call after that.
    pub fn decode<'b>(&mut self, input: &'b [u8]) -> Result<Decoded<'b>, MalformedBody> {
        let decoded = match &mut self.state {
            BodyState::Done => Decoded { used: 0, data: &[] },
            BodyState::UntilClose => Decoded { used: input.len(), data: input },
            BodyState::Length(remaining) => {
                let used = usize::try_from(*remaining).unwrap_or(usize::MAX).min(input.len());
                *remaining -= used as u64;
                if *remaining == 0 {
                    self.state = BodyState::Done;
                }
                Decoded { used, data: input.get(..used).unwrap_or_default() }
            }
            BodyState::Chunked(chunked) => match chunked.decode(input) {
                Ok((decoded, done)) => {
                    if done {
                        self.trailers = std::mem::take(&mut chunked.trailer);
                        self.state = BodyState::Done;
                    }
                    decoded
                }
                Err(malformed) => {
                    self.consumed += 1;
                    self.state = BodyState::Malformed(malformed);
                    return Err(malformed);
                }
            },
            BodyState::Malformed(malformed) => return Err(*malformed),
        };
        self.consumed += decoded.used as u64;
        Ok(decoded)
    }

    /// Completes the body at EOF.
    pub fn finish(&mut self) {
        self.state = BodyState::Done;
    }
}

impl Chunked {
    /// Decodes up to the next data, or the end. Returns whether the body is complete.
    fn decode<'b>(&mut self, input: &'b [u8]) -> Result<(Decoded<'b>, bool), MalformedBody> {
        let mut used = 0;
        loop {
            let rest = input.get(used..).unwrap_or_default();
            let Some(&byte) = rest.first() else { return Ok((Decoded { used, data: &[] }, false)) };
            match self.step {
                ChunkState::Data => {
                    let count = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(rest.len());
                    self.remaining -= count as u64;
                    if self.remaining == 0 {
                        self.step = ChunkState::DataCr;
                    }
                    let data = rest.get(..count).unwrap_or_default();
                    return Ok((Decoded { used: used + count, data }, false));
                }
                ChunkState::Trailer => {
                    self.trailer.push(byte);
                    used += 1;
                    if self.is_trailer_complete()? {
                        return Ok((Decoded { used, data: &[] }, true));
                    }
                }
                _ => {
                    self.parse_framing(byte)?;
                    used += 1;
                }
            }
        }
    }

    /// Parses one byte of `chunk-size [ chunk-ext ] CRLF`, or of the CRLF after chunk data.
    fn parse_framing(&mut self, byte: u8) -> Result<(), MalformedBody> {
        self.step = match (self.step, byte) {
            (ChunkState::Size, _) if byte.is_ascii_hexdigit() => {
                self.digits += 1;
                if self.digits > SIZE_DIGITS_MAX {
                    return Err(MalformedBody::ChunkSize);
                }
                self.remaining = self.remaining << 4 | u64::from(char::from(byte).to_digit(16).unwrap_or(0));
                ChunkState::Size
            }
            (ChunkState::Size, b'\r') if self.digits > 0 => ChunkState::SizeLf,
            (ChunkState::Size, b';') if self.digits > 0 => {
                self.extension_bytes = 0;
                ChunkState::Extension
            }
            (ChunkState::Size | ChunkState::SizeLf, b'\n') if self.digits > 0 && self.step == ChunkState::SizeLf => {
                self.digits = 0;
                if self.remaining == 0 { ChunkState::Trailer } else { ChunkState::Data }
            }
            (ChunkState::Size | ChunkState::SizeLf, _) => return Err(MalformedBody::ChunkSize),
            (ChunkState::Extension, b'\r') if self.extension_bytes > 0 => ChunkState::SizeLf,
            (ChunkState::Extension, b'\t' | b' '..=b'~' | 0x80..) => {
                self.extension_bytes += 1;
                self.extensions_bytes += 1;
                if self.extension_bytes > EXTENSION_BYTES_MAX || self.extensions_bytes > EXTENSIONS_BYTES_MAX {
                    return Err(MalformedBody::Extension);
                }
                ChunkState::Extension
            }
            (ChunkState::Extension, _) => return Err(MalformedBody::Extension),
            (ChunkState::DataCr, b'\r') => ChunkState::DataLf,
            (ChunkState::DataLf, b'\n') => ChunkState::Size,
            (ChunkState::DataCr | ChunkState::DataLf | ChunkState::Data | ChunkState::Trailer, _) => {
                return Err(MalformedBody::ChunkEnd);
            }
        };
        Ok(())
    }

    /// Whether the trailer section is complete, i.e. ends with an empty line; it is checked like the headers of a
    /// head.
    fn is_trailer_complete(&self) -> Result<bool, MalformedBody> {
        if self.trailer.len() > TRAILER_BYTES_MAX {
            return Err(MalformedBody::TrailerTooLong);
        }
        match self.trailer.as_slice() {
            [b'\n'] | [.., 0..=12 | 14.., b'\n'] => Err(MalformedBody::Trailer),
            [b'\r', b'\n'] => Ok(true),
            [.., b'\r', b'\n', b'\r', b'\n'] => match head::check_trailers(&self.trailer) {
                Ok(()) => Ok(true),
                Err(head::Malformed::TooManyHeaders) => Err(MalformedBody::TrailerTooLong),
                Err(_) => Err(MalformedBody::Trailer),
            },
            _ => Ok(false),
        }
    }
}

/// Writes the size line of a chunk.
pub fn write_chunk_size(out: &mut Vec<u8>, size: u64) {
    use std::io::Write;
    let _ = write!(out, "{size:x}\r\n");
}

/// The end of a chunked body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes `input` in pieces of `step` bytes. Returns the body, and the number of input bytes used.
    fn decode(framing: Framing, input: &[u8], step: usize) -> Result<Option<(Vec<u8>, usize)>, MalformedBody> {
        let mut decoder = Decoder::new(framing);
        let (mut body, mut at) = (Vec::new(), 0);
        for part in input.chunks(step) {
            let mut rest = part;
            while !rest.is_empty() && !decoder.is_done() {
                let decoded = decoder.decode(rest)?;
                body.extend_from_slice(decoded.data);
                rest = &rest[decoded.used..];
                at += decoded.used;
            }
        }
        Ok(decoder.is_done().then_some((body, at)))
    }

    #[test]
    fn chunks_are_the_same_however_they_are_split() {
        let input = b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nX-T: v\r\n\r\nGET /";
        for step in 1..input.len() {
            let (body, used) = decode(Framing::Chunked, input, step).unwrap().unwrap();
            assert_eq!((body.as_slice(), used), (&b"hello world"[..], input.len() - 5), "{step}");
        }
    }

    #[test]
    fn ambiguous_chunks_are_rejected() {
        for bad in [
            "5;\r\nhello\r\n0\r\n\r\n",
            "5;\nhello",
            "5\nhello",
            "5\rhello",
            "0x5\r\nhello",
            "+5\r\nhello",
            " 5\r\nhello",
            "5 \r\nhello",
            "\r\nhello",
            ";a\r\n",
            "5g\r\n",
            "FFFFFFFFFFFFFFFF\r\n",
            "5\r\nhello!!\r\n",
            "5\r\nhello0\r\n",
            "5\r\nhello\n",
            "5\r\nhello\r\n0\r\n\n",
            "5;\0a\r\nhello",
            "0\r\nbad line\r\n\r\n",
            "0\r\nX : y\r\n\r\n",
        ] {
            assert!(decode(Framing::Chunked, bad.as_bytes(), bad.len()).is_err(), "{bad:?}");
            assert!(decode(Framing::Chunked, bad.as_bytes(), 1).is_err(), "{bad:?} bytewise");
        }
    }

    #[test]
    fn extensions_and_trailers_have_limits() {
        let long = format!("5;{}\r\nhello", "a".repeat(257));
        assert_eq!(decode(Framing::Chunked, long.as_bytes(), 64).unwrap_err(), MalformedBody::Extension);
        let many = "1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nz\r\n".repeat(400);
        assert_eq!(decode(Framing::Chunked, many.as_bytes(), 64).unwrap_err(), MalformedBody::Extension);
        let big = format!("0\r\nX: {}\r\n\r\n", "a".repeat(9000));
        assert_eq!(decode(Framing::Chunked, big.as_bytes(), 64).unwrap_err(), MalformedBody::TrailerTooLong);
    }

    #[test]
    fn nothing_is_decoded_after_an_error() {
        let mut decoder = Decoder::new(Framing::Chunked);
        assert_eq!(decoder.consumed(), 0);
        assert_eq!(decoder.decode(b"x"), Err(MalformedBody::ChunkSize));
        assert_eq!(decoder.decode(b"0\r\n\r\n"), Err(MalformedBody::ChunkSize));
        assert!(decoder.consumed() > 0 && !decoder.is_done());
    }

    #[test]
    fn a_size_line_alone_starts_a_body() {
        let mut decoder = Decoder::new(Framing::Chunked);
        assert_eq!(decoder.decode(b"5"), Ok(Decoded { used: 1, data: &[] }));
        assert!(decoder.consumed() > 0);
        assert!(Decoder::new(Framing::None).is_done());
    }

    #[test]
    fn a_body_of_known_length_uses_only_its_own_bytes() {
        assert_eq!(decode(Framing::Length(5), b"helloGET", 3).unwrap().unwrap(), (b"hello".to_vec(), 5));
        assert!(decode(Framing::Length(5), b"hell", 4).unwrap().is_none());
    }
}
