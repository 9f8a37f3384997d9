//! One body on its way: read from one wire, unframed, framed anew, written to the other side's stream.
//!
//! Bytes go from the scratch buffer straight into a send. What the receiver would not take yet is held, and nothing
//! more is read until that is gone: the whole back-pressure. What is held at first is the head that goes before.
//!
//! A body that is compressed on its way goes through an encoder in between. Whenever its sender pauses, all of it comes
//! out: what is sent event by event arrives event by event.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::http1::body::{self, Decoder};
use crate::request::gzip_encoder::{EncodeError, Encoder, Flush};
use crate::request::rate_limit::RateLimit;
use crate::runtime::executor::{self, Elapsed, Timer};
use crate::runtime::stream::{BufStream, ReadHalf, Stream};

/// Bytes of a body that are copied behind what is held rather than sent from where they are.
const JOIN_BYTES_MAX: usize = 8 * 1024;

/// Bytes of a body that `$request_body` holds.
const KEPT_BYTES_MAX: usize = 16 * 1024;

/// How long an encoder keeps its memory while nothing moves.
const REST_AFTER: Duration = Duration::from_millis(250);

/// Why a body did not come to its end.
#[derive(Debug)]
pub enum Failure {
    /// Reading failed.
    Source(io::Error),
    /// The sender ended before the body did.
    Cut,
    SourceTimeout,
    Malformed(body::Malformed),
    /// There is more of it than allowed.
    TooLarge,
    /// Writing failed.
    Sink(io::Error),
    SinkTimeout,
    /// It could not be compressed.
    Encoder,
}

impl From<EncodeError> for Failure {
    fn from(_: EncodeError) -> Self {
        Self::Encoder
    }
}

/// How a body is framed for its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferCoding {
    /// As it is: its length was told, or the connection ends with it.
    Plain,
    Chunked,
    /// In chunks, whose end somebody else writes: fields stand in it.
    Trailed,
}

impl TransferCoding {
    pub fn is_chunked(self) -> bool {
        self != Self::Plain
    }

    /// What ends a body.
    pub fn end(self) -> &'static [u8] {
        if self == Self::Chunked { body::LAST_CHUNK } else { b"" }
    }

    /// Frames the piece of a body that `out` has from `start` on.
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
pub struct Limits {
    /// Bytes of the body; 0: no limit.
    pub bytes_max: u64,
    pub read_timeout: Duration,
    pub write_timeout: Duration,
}

/// A body on its way. Where it is read from, and how far that has come, belongs to its owner: the [`Decoder`] comes with
/// each call.
pub struct BodyRelay {
    coding: TransferCoding,
    limits: Limits,
    /// Bytes that have to be written before anything else.
    held: Vec<u8>,
    written_of_held: usize,
    /// Whether what is held may wait for the first bytes of the body, to go with them.
    may_join: bool,
    /// Bytes of the body that were read.
    pub body_bytes: u64,
    /// Bytes that were written, with heads and framing.
    pub written: u64,
    /// The start of the body, where a variable asks for it.
    kept: Option<Vec<u8>>,
    encoder: Option<Box<Encoder>>,
    timer: Timer,
    waits_for: Option<Side>,
    /// How fast it may go, at most.
    paces: Vec<RateLimit>,
    /// The receiver is gone: what comes is dropped.
    drops: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Source,
    Sink,
    /// Neither: the next bytes may not go yet.
    Pace,
}

impl BodyRelay {
    /// `head` is written first, together with the first bytes of the body if they are there.
    pub fn new(head: Vec<u8>, coding: TransferCoding, limits: Limits) -> Self {
        Self {
            coding,
            limits,
            held: head,
            written_of_held: 0,
            may_join: true,
            body_bytes: 0,
            written: 0,
            kept: None,
            encoder: None,
            timer: Timer::new(),
            waits_for: None,
            paces: Vec::new(),
            drops: false,
        }
    }

    /// Goes no faster than this.
    pub fn slow_down(&mut self, pace: Option<RateLimit>) {
        self.paces.extend(pace);
    }

    /// Goes on to the end of the body, without its receiver.
    pub fn drop_the_rest(&mut self) {
        self.drops = true;
        self.held = Vec::new();
        self.written_of_held = 0;
        self.encoder = None;
        self.paces = Vec::new();
        self.waits_for = None;
    }

    /// Whether the receiver does not take what has come.
    pub fn is_held_up(&self) -> bool {
        self.waits_for == Some(Side::Sink)
    }

    /// Keeps the start of the body.
    pub fn keep(&mut self) {
        self.kept = Some(Vec::new());
    }

    /// What was kept.
    pub fn kept(&self) -> &[u8] {
        self.kept.as_deref().unwrap_or_default()
    }

    /// Compresses the body on its way.
    pub fn pack(&mut self, encoder: Option<Encoder>) {
        self.encoder = encoder.map(Box::new);
    }

    /// Bytes of the body before and after it was compressed.
    pub fn packed(&self) -> Option<(u64, u64)> {
        self.encoder.as_ref().map(|encoder| encoder.byte_counts())
    }

    /// Moves what can be moved; ready when all of it is written.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut ReadHalf<'_>,
        decoder: &mut Decoder,
        to: &Stream,
    ) -> Poll<Result<(), Failure>> {
        loop {
            let moved = self.poll_move(cx, from, decoder, to);
            if moved.is_ready() {
                self.timer.clear();
                return moved;
            }
            // Or its turn is over.
            let Some(side) = self.waits_for else { return Poll::Pending };
            ready!(self.timer.poll_due(cx));
            let (limit, failure) = match side {
                Side::Source => (self.limits.read_timeout, Failure::SourceTimeout),
                Side::Sink => (self.limits.write_timeout, Failure::SinkTimeout),
                Side::Pace => {
                    self.waits_for = None;
                    continue;
                }
            };
            if !self.may_rest(limit) {
                return Poll::Ready(Err(failure));
            }
            self.rest()?;
            self.timer.set(limit.saturating_sub(REST_AFTER));
        }
    }

    /// Whether a wait is long enough for the encoder to rest in it.
    fn may_rest(&self, wait: Duration) -> bool {
        wait > REST_AFTER && self.encoder.as_ref().is_some_and(|encoder| encoder.is_active())
    }

    fn rest(&mut self) -> Result<(), Failure> {
        let Some(encoder) = &mut self.encoder else { return Ok(()) };
        let start = self.held.len();
        encoder.release_buffers(&mut self.held)?;
        self.coding.frame(start, &mut self.held);
        Ok(())
    }

    fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut ReadHalf<'_>,
        decoder: &mut Decoder,
        to: &Stream,
    ) -> Poll<Result<(), Failure>> {
        loop {
            if !self.may_join || decoder.is_done() {
                ready!(self.poll_held(cx, to))?;
            }
            if decoder.is_done() {
                return Poll::Ready(Ok(()));
            }
            let room = match self.room() {
                Ok(room) => room,
                Err(wait) => {
                    if self.may_rest(wait) {
                        self.rest()?;
                    }
                    self.waits_for = Some(Side::Pace);
                    self.timer.set(wait);
                    return Poll::Pending;
                }
            };
            let source = from.stream();
            let moved = from.poll_bytes(cx, |cx, bytes| {
                if bytes.is_empty() && source.is_truncated() {
                    return (0, Err(Failure::Cut));
                }
                let bytes = bytes.get(..room).unwrap_or(bytes);
                self.take(cx, bytes, decoder, to)
            });
            match moved {
                Poll::Ready(Ok(Ok(()))) if self.encoder.is_some() && !decoder.is_done() => {
                    self.progress();
                    executor::wake_next_tick(cx);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(Ok(()))) => self.progress(),
                Poll::Ready(Ok(Err(failure))) => return Poll::Ready(Err(failure)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::Source(error))),
                Poll::Pending => {
                    // Nothing of the body is there yet: the head does not wait for it.
                    self.may_join = false;
                    self.encode(cx, &[], Flush::Sync, to)?;
                    ready!(self.poll_held(cx, to))?;
                    self.wait(Side::Source, self.limits.read_timeout);
                    return Poll::Pending;
                }
            }
        }
    }

    /// How many bytes may be taken, or how long to wait for some.
    fn room(&self) -> Result<usize, Duration> {
        let mut most = usize::MAX;
        for pace in &self.paces {
            let room = pace.allowance(self.written, executor::now())?;
            most = most.min(usize::try_from(room).unwrap_or(usize::MAX));
        }
        Ok(most)
    }

    /// Takes what is the body's of `bytes`, and sends it: how many bytes were used.
    fn take(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        decoder: &mut Decoder,
        to: &Stream,
    ) -> (usize, Result<(), Failure>) {
        self.may_join = false;
        if bytes.is_empty() {
            if !decoder.ends_with_stream() {
                return (0, Err(Failure::Cut));
            }
            decoder.finish();
            if self.encoder.is_some() {
                return (0, self.encode(cx, &[], Flush::Finish, to));
            }
            self.held.extend_from_slice(self.coding.end());
            return (0, Ok(()));
        }
        let mut used = 0;
        let mut parts: Vec<u8> = Vec::new();
        let mut first: &[u8] = &[];
        // Small chunks that arrive together leave as one.
        while used < bytes.len() && !decoder.is_done() {
            let piece = match decoder.decode(bytes.get(used..).unwrap_or_default()) {
                Ok(piece) => piece,
                Err(malformed) => return (used, Err(Failure::Malformed(malformed))),
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
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(data);
            kept.truncate(KEPT_BYTES_MAX);
        }
        if self.limits.bytes_max > 0 && self.body_bytes > self.limits.bytes_max {
            return (used, Err(Failure::TooLarge));
        }
        let then = if decoder.is_done() { Flush::Finish } else { Flush::None };
        (used, if self.encoder.is_some() { self.encode(cx, data, then, to) } else { self.send(cx, data, then, to) })
    }

    /// Sends what comes of `data` when it is compressed.
    fn encode(&mut self, cx: &mut Context<'_>, data: &[u8], then: Flush, to: &Stream) -> Result<(), Failure> {
        let Some(encoder) = &mut self.encoder else { return Ok(()) };
        let mut packed = Vec::new();
        encoder.encode(data, then, &mut packed)?;
        if packed.is_empty() { Ok(()) } else { self.send(cx, &packed, then, to) }
    }

    /// Sends what is held and `data` with one call, and holds what was not taken.
    fn send(&mut self, cx: &mut Context<'_>, data: &[u8], then: Flush, to: &Stream) -> Result<(), Failure> {
        if self.drops {
            return Ok(());
        }
        let mut tail: &[u8] = &[];
        if self.coding.is_chunked() {
            if !data.is_empty() {
                body::write_chunk_size(&mut self.held, data.len() as u64);
            }
            tail = match (data.is_empty(), then == Flush::Finish) {
                (false, true) if self.coding == TransferCoding::Chunked => b"\r\n0\r\n\r\n",
                (false, _) => b"\r\n",
                (true, true) => self.coding.end(),
                (true, false) => b"",
            };
        }
        // Small pieces are copied behind one another: cheaper than a call with several buffers.
        let small = data.len() <= JOIN_BYTES_MAX && !(self.held.is_empty() && tail.is_empty());
        let (data, tail) = if small {
            self.held.extend_from_slice(data);
            self.held.extend_from_slice(tail);
            (&b""[..], &b""[..])
        } else {
            (data, tail)
        };
        let parts = [self.held.get(self.written_of_held..).unwrap_or_default(), data, tail];
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
            Poll::Ready(Err(error)) => return Err(Failure::Sink(error)),
            Poll::Pending => 0,
        };
        self.written += count as u64;
        if count == total {
            self.held = Vec::new();
            self.written_of_held = 0;
            return Ok(());
        }
        let mut rest = Vec::with_capacity(total - count);
        for part in parts {
            let skip = count.min(part.len());
            rest.extend_from_slice(part.get(skip..).unwrap_or_default());
            count -= skip;
        }
        self.held = rest;
        self.written_of_held = 0;
        Ok(())
    }

    fn poll_held(&mut self, cx: &mut Context<'_>, to: &Stream) -> Poll<Result<(), Failure>> {
        while self.written_of_held < self.held.len() {
            let rest = self.held.get(self.written_of_held..).unwrap_or_default();
            match to.poll_write(cx, rest) {
                Poll::Ready(Ok(count)) => {
                    self.written_of_held += count;
                    self.written += count as u64;
                    self.progress();
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::Sink(error))),
                Poll::Pending => {
                    self.wait(Side::Sink, self.limits.write_timeout);
                    return Poll::Pending;
                }
            }
        }
        if self.written_of_held > 0 {
            self.held = Vec::new();
            self.written_of_held = 0;
        }
        Poll::Ready(Ok(()))
    }

    fn progress(&mut self) {
        self.waits_for = None;
    }

    /// Starts to wait for a side, unless it is waited for already.
    fn wait(&mut self, side: Side, limit: Duration) {
        if self.waits_for != Some(side) {
            self.waits_for = Some(side);
            self.timer.set(if self.may_rest(limit) { REST_AFTER } else { limit });
        }
    }
}

/// Bytes of a body of our own that are compressed in one turn.
const PACKED_AT_ONCE: u64 = executor::SCRATCH_BYTES as u64;

/// Writes the next piece of a body.
pub type BodyWriter<'b> = Box<dyn FnMut(&mut Vec<u8>) + 'b>;

/// A body of our own.
pub enum BodySource<'b> {
    Bytes(&'b [u8]),
    /// So many bytes from there on.
    File {
        fd: &'b OwnedFd,
        from: u64,
        count: u64,
    },
    /// Piece by piece; an empty one ends it.
    Made(BodyWriter<'b>),
}

impl BodySource<'_> {
    /// Takes the next bytes, and whether they are the last; none, if the file got shorter meanwhile.
    pub fn next<R>(&mut self, with: impl FnOnce(&[u8], bool) -> R) -> io::Result<R> {
        match self {
            BodySource::Bytes(bytes) => {
                let (part, rest) = bytes.split_at(bytes.len().min(PACKED_AT_ONCE as usize));
                *bytes = rest;
                Ok(with(part, rest.is_empty()))
            }
            BodySource::Made(write) => {
                let mut piece = Vec::new();
                write(&mut piece);
                Ok(with(&piece, piece.is_empty()))
            }
            BodySource::File { fd, from, count } => executor::with_scratch(|scratch| {
                let room = scratch.get_mut(..PACKED_AT_ONCE.min(*count) as usize).unwrap_or_default();
                let read = rustix::io::pread(*fd, &mut *room, *from)?;
                *from += read as u64;
                *count -= read as u64;
                Ok(with(room.get(..read).unwrap_or_default(), *count == 0))
            }),
        }
    }
}

/// Compresses a body of our own on its way.
pub struct GzipSender {
    pub encoder: Encoder,
    pub coding: TransferCoding,
    pub write_timeout: Duration,
    /// How fast it may go, at most.
    pub pace: Option<RateLimit>,
    /// Bytes that were written, with the head.
    pub sent: u64,
}

impl GzipSender {
    /// Sends `head` and all of `source`.
    pub async fn send(&mut self, to: &Stream, head: Vec<u8>, mut source: BodySource<'_>) -> Result<(), Failure> {
        let mut out = head;
        loop {
            let start = out.len();
            let encode = |part: &[u8], last| {
                self.encoder.encode(part, if last { Flush::Finish } else { Flush::None }, &mut out)?;
                Ok::<_, Failure>((part.is_empty() && !last, last))
            };
            let (is_cut, last) = source.next(encode).map_err(Failure::Source)??;
            if is_cut {
                return Err(Failure::Cut);
            }
            self.coding.frame(start, &mut out);
            if last {
                out.extend_from_slice(self.coding.end());
            }
            out = self.send_and_rest(to, out).await?;
            if last {
                return Ok(());
            }
            executor::yield_now().await;
        }
    }

    /// Writes all of `bytes`; if the receiver takes them slowly the encoder rests, and what it wrote first has to follow.
    async fn send_and_rest(&mut self, to: &Stream, bytes: Vec<u8>) -> Result<Vec<u8>, Failure> {
        let mut follows = Vec::new();
        let slow = self.pace.map(|pace| (pace, self.sent));
        let mut sending = pin!(send_slowly(to, &bytes, self.write_timeout, slow));
        match Timer::new().within(REST_AFTER, sending.as_mut()).await {
            Ok(sent) => sent?,
            Err(Elapsed) => {
                self.encoder.release_buffers(&mut follows)?;
                self.coding.frame(0, &mut follows);
                sending.await?;
            }
        }
        self.sent += bytes.len() as u64;
        Ok(follows)
    }
}

/// Drops what has come of a body that is not wanted: whether that is all of it.
pub fn skip(wire: &mut BufStream, decoder: &mut Decoder) -> Result<bool, body::Malformed> {
    while !decoder.is_done() && !wire.buffered().is_empty() {
        let used = decoder.decode(wire.buffered())?.used;
        wire.consume(used);
    }
    Ok(decoder.is_done())
}

/// How many bytes may go now; ready when some may, or when `to` is gone, as the next write says. The `timer` waits for
/// `limit` again then. `slow` is a pace and how many bytes went at it so far.
pub fn poll_room(
    cx: &mut Context<'_>,
    to: &Stream,
    slow: Option<(RateLimit, u64)>,
    timer: &Timer,
    limit: Duration,
) -> Poll<usize> {
    let Some((pace, sent)) = slow else { return Poll::Ready(usize::MAX) };
    loop {
        match pace.allowance(sent, executor::now()) {
            Ok(room) => return Poll::Ready(usize::try_from(room).unwrap_or(usize::MAX)),
            Err(wait) => timer.set(wait),
        }
        if to.socket().poll_failed(cx).is_ready() {
            return Poll::Ready(usize::MAX);
        }
        ready!(timer.poll_due(cx));
        timer.set(limit);
    }
}

/// Writes all of `bytes`.
pub async fn send_all(to: &Stream, bytes: &[u8], limit: Duration) -> Result<(), Failure> {
    send_slowly(to, bytes, limit, None).await
}

/// Writes all of `bytes`; `slow` is a pace and how many bytes went at it before.
pub async fn send_slowly(
    to: &Stream,
    bytes: &[u8],
    limit: Duration,
    slow: Option<(RateLimit, u64)>,
) -> Result<(), Failure> {
    let timer = Timer::new();
    let mut sent = 0;
    timer.set(limit);
    std::future::poll_fn(|cx| {
        while sent < bytes.len() {
            let so_far = slow.map(|(pace, before)| (pace, before + sent as u64));
            let room = ready!(poll_room(cx, to, so_far, &timer, limit));
            let rest = bytes.get(sent..).unwrap_or_default();
            match to.poll_write(cx, rest.get(..room).unwrap_or(rest)) {
                Poll::Ready(Ok(count)) => {
                    sent += count;
                    timer.set(limit);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::Sink(error))),
                Poll::Pending => return timer.poll_due(cx).map(|()| Err(Failure::SinkTimeout)),
            }
        }
        Poll::Ready(Ok(()))
    })
    .await
}
