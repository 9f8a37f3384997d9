//! Relays a body: reads it from one stream, removes its framing, and writes it with new framing to another.
//!
//! Bytes go from the shared read buffer straight into a write. What the receiver does not accept is pending, and
//! nothing more is read until it is written: that is the back-pressure. The head that precedes the body is the first
//! pending output.
//!
//! A compressed body goes through an encoder. Whenever its sender pauses the encoder is flushed, so that events are not
//! delayed.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::http1::body::{self, Decoder};
use crate::request::gzip_encoder::{EncodeError, Encoder, Flush};
use crate::request::rate_limit::RateLimit;
use crate::runtime::executor::{self, Timer};
use crate::runtime::stream::{BufStream, ReadHalf, Stream};

/// Parts of a body up to this size are copied behind the pending output rather than written from the read buffer.
const COALESCE_BYTES_MAX: usize = 8 * 1024;

/// Bytes of a body for `$request_body`.
const PREFIX_BYTES_MAX: usize = 16 * 1024;

/// How long an encoder keeps its memory while nothing moves.
pub const ENCODER_IDLE: Duration = Duration::from_millis(250);

/// Why a body was not relayed to its end.
#[derive(Debug)]
pub enum TransferError {
    Source(io::Error),
    /// The sender closed before the end of the body.
    Truncated,
    SourceTimeout,
    Malformed(body::MalformedBody),
    TooLarge,
    Sink(io::Error),
    SinkTimeout,
    Encoder,
}

impl From<EncodeError> for TransferError {
    fn from(_: EncodeError) -> Self {
        Self::Encoder
    }
}

/// How a body is framed for its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferCoding {
    /// As it is: its length was announced, or it ends with the connection.
    Plain,
    Chunked,
    /// Chunked; the caller sends the last chunk with trailers.
    Trailed,
}

impl TransferCoding {
    pub fn is_chunked(self) -> bool {
        self != Self::Plain
    }

    /// The bytes that end a body.
    pub fn terminator(self) -> &'static [u8] {
        if self == Self::Chunked { body::LAST_CHUNK } else { b"" }
    }

    /// Frames the part of a body that starts at `start` in `out`.
    pub fn frame(self, start: usize, out: &mut Vec<u8>) {
        if self.is_chunked() && out.len() > start {
            let piece = out.split_off(start);
            body::write_chunk_size(out, piece.len() as u64);
            out.extend_from_slice(&piece);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Limits of one direction.
#[derive(Clone, Copy, Debug)]
pub struct RelayLimits {
    /// Bytes of the body; 0: no limit.
    pub bytes_max: u64,
    pub read_timeout: Duration,
    pub write_timeout: Duration,
}

/// A body on its way. The position in the source belongs to the caller, which passes the [`Decoder`] with each call.
pub struct BodyRelay {
    coding: TransferCoding,
    limits: RelayLimits,
    /// Bytes that have to be written before anything else.
    pending: Vec<u8>,
    pending_written: usize,
    /// Pending output may wait for the first bytes of the body, to be written together.
    may_coalesce: bool,
    /// Bytes of the body read so far.
    pub body_bytes: u64,
    /// Bytes written so far, including head and framing.
    pub written: u64,
    /// The start of the body, where a variable reads it.
    prefix: Option<Vec<u8>>,
    encoder: Option<Box<Encoder>>,
    timer: Timer,
    waiting: Option<Waiting>,
    /// All must allow it.
    rate_limits: Vec<RateLimit>,
    /// The receiver has closed: the body is read and discarded.
    discards: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    Source,
    Sink,
    /// The rate limit.
    Pace,
}

impl BodyRelay {
    /// `head` is written first, together with the first bytes of the body if they are there.
    pub fn new(head: Vec<u8>, coding: TransferCoding, limits: RelayLimits) -> Self {
        Self {
            coding,
            limits,
            pending: head,
            pending_written: 0,
            may_coalesce: true,
            body_bytes: 0,
            written: 0,
            prefix: None,
            encoder: None,
            timer: Timer::new(),
            waiting: None,
            rate_limits: Vec::new(),
            discards: false,
        }
    }

    /// Adds a rate limit.
    pub fn limit_rate(&mut self, pace: Option<RateLimit>) {
        self.rate_limits.extend(pace);
    }

    /// Reads the body to its end without its receiver.
    pub fn discard_rest(&mut self) {
        self.discards = true;
        self.pending = Vec::new();
        self.pending_written = 0;
        self.encoder = None;
        self.rate_limits = Vec::new();
        self.waiting = None;
    }

    /// Takes the output that was not written yet.
    pub fn take_pending(&mut self) -> Vec<u8> {
        let mut pending = std::mem::take(&mut self.pending);
        pending.drain(..std::mem::take(&mut self.pending_written));
        pending
    }

    /// Whether the receiver does not accept the pending output.
    pub fn is_sink_blocked(&self) -> bool {
        self.waiting == Some(Waiting::Sink)
    }

    /// Stores the start of the body; `first` of it precedes what is relayed.
    pub fn keep_prefix(&mut self, first: &[u8]) {
        self.prefix = Some(first.get(..PREFIX_BYTES_MAX).unwrap_or(first).to_vec());
    }

    pub fn prefix(&self) -> &[u8] {
        self.prefix.as_deref().unwrap_or_default()
    }

    /// Compresses the body.
    pub fn compress(&mut self, encoder: Option<Encoder>) {
        self.encoder = encoder.map(Box::new);
    }

    /// Bytes of the body before and after compression.
    pub fn compressed_bytes(&self) -> Option<(u64, u64)> {
        self.encoder.as_ref().map(|encoder| encoder.byte_counts())
    }

    /// Relays what can be relayed; ready when the whole body is written.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut ReadHalf<'_>,
        decoder: &mut Decoder,
        to: &Stream,
    ) -> Poll<Result<(), TransferError>> {
        loop {
            let moved = self.poll_move(cx, from, decoder, to);
            if moved.is_ready() {
                self.timer.clear();
                return moved;
            }
            // Or its share of this tick is used up.
            let Some(side) = self.waiting else { return Poll::Pending };
            ready!(self.timer.poll_due(cx));
            let (limit, failure) = match side {
                Waiting::Source => (self.limits.read_timeout, TransferError::SourceTimeout),
                Waiting::Sink => (self.limits.write_timeout, TransferError::SinkTimeout),
                Waiting::Pace => {
                    self.waiting = None;
                    continue;
                }
            };
            if !self.may_release_encoder(limit) {
                return Poll::Ready(Err(failure));
            }
            self.release_encoder()?;
            self.timer.set(limit.saturating_sub(ENCODER_IDLE));
        }
    }

    /// Whether a wait is long enough to release the encoder's memory.
    fn may_release_encoder(&self, wait: Duration) -> bool {
        wait > ENCODER_IDLE && self.encoder.as_ref().is_some_and(|encoder| encoder.is_active())
    }

    fn release_encoder(&mut self) -> Result<(), TransferError> {
        let Some(encoder) = &mut self.encoder else { return Ok(()) };
        let start = self.pending.len();
        encoder.release_buffers(&mut self.pending)?;
        self.coding.frame(start, &mut self.pending);
        Ok(())
    }

    fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut ReadHalf<'_>,
        decoder: &mut Decoder,
        to: &Stream,
    ) -> Poll<Result<(), TransferError>> {
        loop {
            if !self.may_coalesce || decoder.is_done() {
                ready!(self.poll_flush(cx, to))?;
            }
            if decoder.is_done() {
                return Poll::Ready(Ok(()));
            }
            let room = match self.room() {
                Ok(room) => room,
                Err(wait) => {
                    if self.may_release_encoder(wait) {
                        self.release_encoder()?;
                    }
                    self.waiting = Some(Waiting::Pace);
                    self.timer.set(wait);
                    return Poll::Pending;
                }
            };
            let source = from.stream();
            let moved = from.poll_bytes(cx, |cx, bytes| {
                if bytes.is_empty() && source.is_truncated() {
                    return (0, Err(TransferError::Truncated));
                }
                let bytes = bytes.get(..room).unwrap_or(bytes);
                self.forward(cx, bytes, decoder, to)
            });
            match moved {
                Poll::Ready(Ok(Ok(()))) if self.encoder.is_some() && !decoder.is_done() => {
                    self.clear_wait();
                    executor::wake_next_tick(cx);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(Ok(()))) => self.clear_wait(),
                Poll::Ready(Ok(Err(failure))) => return Poll::Ready(Err(failure)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(TransferError::Source(error))),
                Poll::Pending => {
                    // The body has not arrived: the head does not wait for it.
                    self.may_coalesce = false;
                    self.encode(cx, &[], Flush::Sync, to)?;
                    ready!(self.poll_flush(cx, to))?;
                    self.wait(Waiting::Source, self.limits.read_timeout);
                    return Poll::Pending;
                }
            }
        }
    }

    /// How many bytes may be written, or how long to wait.
    fn room(&self) -> Result<usize, Duration> {
        let mut most = usize::MAX;
        for pace in &self.rate_limits {
            let room = pace.allowance(self.written, executor::now())?;
            most = most.min(usize::try_from(room).unwrap_or(usize::MAX));
        }
        Ok(most)
    }

    /// Decodes and writes `bytes`; returns how many belong to the body.
    fn forward(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        decoder: &mut Decoder,
        to: &Stream,
    ) -> (usize, Result<(), TransferError>) {
        self.may_coalesce = false;
        if bytes.is_empty() {
            if !decoder.ends_with_stream() {
                return (0, Err(TransferError::Truncated));
            }
            decoder.finish();
            if self.encoder.is_some() {
                return (0, self.encode(cx, &[], Flush::Finish, to));
            }
            self.pending.extend_from_slice(self.coding.terminator());
            return (0, Ok(()));
        }
        let mut used = 0;
        let mut parts: Vec<u8> = Vec::new();
        let mut first: &[u8] = &[];
        // Small chunks that arrive together leave as one.
        while used < bytes.len() && !decoder.is_done() {
            let piece = match decoder.decode(bytes.get(used..).unwrap_or_default()) {
                Ok(piece) => piece,
                Err(malformed) => return (used, Err(TransferError::Malformed(malformed))),
            };
            used += piece.used;
            match (first.is_empty(), parts.is_empty()) {
                (true, _) => first = piece.data,
                (false, true) if !piece.data.is_empty() => {
                    parts.extend_from_slice(first);
                    parts.extend_from_slice(piece.data);
                }
                _ => parts.extend_from_slice(piece.data),
            }
        }
        let data = if parts.is_empty() { first } else { &parts };
        self.body_bytes += data.len() as u64;
        if let Some(kept) = &mut self.prefix {
            kept.extend_from_slice(data);
            kept.truncate(PREFIX_BYTES_MAX);
        }
        if self.limits.bytes_max > 0 && self.body_bytes > self.limits.bytes_max {
            return (used, Err(TransferError::TooLarge));
        }
        let then = if decoder.is_done() { Flush::Finish } else { Flush::None };
        (used, if self.encoder.is_some() { self.encode(cx, data, then, to) } else { self.send(cx, data, then, to) })
    }

    /// Compresses and writes `data`.
    fn encode(&mut self, cx: &mut Context<'_>, data: &[u8], then: Flush, to: &Stream) -> Result<(), TransferError> {
        let Some(encoder) = &mut self.encoder else { return Ok(()) };
        let mut packed = Vec::new();
        encoder.encode(data, then, &mut packed)?;
        if packed.is_empty() { Ok(()) } else { self.send(cx, &packed, then, to) }
    }

    /// Writes pending output and `data` with one call; what is not accepted stays pending.
    fn send(&mut self, cx: &mut Context<'_>, data: &[u8], then: Flush, to: &Stream) -> Result<(), TransferError> {
        if self.discards {
            return Ok(());
        }
        let mut tail: &[u8] = &[];
        if self.coding.is_chunked() {
            if !data.is_empty() {
                body::write_chunk_size(&mut self.pending, data.len() as u64);
            }
            tail = match (data.is_empty(), then == Flush::Finish) {
                (false, true) if self.coding == TransferCoding::Chunked => b"\r\n0\r\n\r\n",
                (false, _) => b"\r\n",
                (true, true) => self.coding.terminator(),
                (true, false) => b"",
            };
        }
        // Small parts are copied: cheaper than a call with several buffers.
        let small = data.len() <= COALESCE_BYTES_MAX && !(self.pending.is_empty() && tail.is_empty());
        let (data, tail) = if small {
            self.pending.extend_from_slice(data);
            self.pending.extend_from_slice(tail);
            (&b""[..], &b""[..])
        } else {
            (data, tail)
        };
        let parts = [self.pending.get(self.pending_written..).unwrap_or_default(), data, tail];
        let total: usize = parts.iter().map(|part| part.len()).sum();
        if total == 0 {
            return Ok(());
        }
        let written = match parts {
            [one, [], []] | [[], one, []] => to.poll_write(cx, one),
            parts => to.poll_write_vectored(cx, &parts.map(IoSlice::new)),
        };
        let mut count = match written {
            Poll::Ready(Ok(count)) => count,
            Poll::Ready(Err(error)) => return Err(TransferError::Sink(error)),
            Poll::Pending => 0,
        };
        self.written += count as u64;
        if count == total {
            self.pending = Vec::new();
            self.pending_written = 0;
            return Ok(());
        }
        let mut rest = Vec::with_capacity(total - count);
        for part in parts {
            let skip = count.min(part.len());
            rest.extend_from_slice(part.get(skip..).unwrap_or_default());
            count -= skip;
        }
        self.pending = rest;
        self.pending_written = 0;
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, to: &Stream) -> Poll<Result<(), TransferError>> {
        while self.pending_written < self.pending.len() {
            let rest = self.pending.get(self.pending_written..).unwrap_or_default();
            match to.poll_write(cx, rest) {
                Poll::Ready(Ok(count)) => {
                    self.pending_written += count;
                    self.written += count as u64;
                    self.clear_wait();
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(TransferError::Sink(error))),
                Poll::Pending => {
                    self.wait(Waiting::Sink, self.limits.write_timeout);
                    return Poll::Pending;
                }
            }
        }
        if self.pending_written > 0 {
            self.pending = Vec::new();
            self.pending_written = 0;
        }
        Poll::Ready(Ok(()))
    }

    fn clear_wait(&mut self) {
        self.waiting = None;
    }

    /// Starts to wait, unless this wait has begun already.
    fn wait(&mut self, side: Waiting, limit: Duration) {
        if self.waiting != Some(side) {
            self.waiting = Some(side);
            self.timer.set(if self.may_release_encoder(limit) { ENCODER_IDLE } else { limit });
        }
    }
}

/// Discards buffered bytes of an unwanted body; returns whether that was all of it.
pub fn discard_buffered(stream: &mut BufStream, decoder: &mut Decoder) -> Result<bool, body::MalformedBody> {
    while !decoder.is_done() && !stream.buffered().is_empty() {
        let used = decoder.decode(stream.buffered())?.used;
        stream.consume(used);
    }
    Ok(decoder.is_done())
}
