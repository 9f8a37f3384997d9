//! A stream, and a stream with the bytes that were read from it but not yet used.
//!
//! Bytes are read into the worker's scratch buffer and used from there; only what is left over is kept, so that an
//! idle wire owns no memory. That is what lets a pipelined request, or bytes that a peer sends early behind an
//! upgrade, reach whoever comes next.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};

use crate::runtime::executor;
use crate::runtime::socket::Socket;

/// Bytes of a file that are read at once where sendfile(2) can't be used.
const FILE_CHUNK_BYTES: usize = 64 * 1024;

/// Bytes both ways, whatever carries them.
pub enum Stream {
    Plain(Socket),
    /// Apart, so that a plain stream is no larger for it.
    Secure(Box<dyn SecureStream>),
}

/// A stream whose bytes are encrypted on its socket.
pub trait SecureStream {
    /// The socket below.
    fn socket(&self) -> &Socket;

    /// Reads into `buf`; 0 is the end.
    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Writes some of `bytes`. What was not counted must come again.
    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// Tells the peer that we have ended, and ends our direction of the socket; the other goes on.
    fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Whether the peer's end came without a word: it may not have sent all.
    fn is_truncated(&self) -> bool;

    /// Whether there is something to read without asking the socket.
    fn is_readable(&self) -> bool;

    /// Whether the peer has neither sent nor closed anything.
    fn is_idle(&self) -> bool;

    /// Closing it will look like an accident, as it is one: the peer learns that it has not got all.
    fn suppress_close_notify(&self);
}

impl Stream {
    /// Reads into `buf`; 0 is the end.
    pub fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => socket.poll_read(cx, buf),
            Self::Secure(secure) => secure.poll_read(cx, buf),
        }
    }

    /// Writes some of `bytes`. What was not counted must come again, and nothing else.
    pub fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => socket.poll_write(cx, bytes),
            Self::Secure(secure) => secure.poll_write(cx, bytes),
        }
    }

    /// Writes some of `parts`, in order.
    pub fn poll_write_vectored(&self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => socket.poll_write_vectored(cx, parts),
            // A record for each part would take more time than bringing them together.
            Self::Secure(secure) => {
                let mut whole = Vec::new();
                parts.iter().for_each(|part| whole.extend_from_slice(part));
                secure.poll_write(cx, &whole)
            }
        }
    }

    /// Sends up to `count` bytes of `file` from `offset` on, which moves along; 0 is the end of the file. The error of a
    /// file that can't be read is EIO.
    pub fn poll_send_file(
        &self,
        cx: &mut Context<'_>,
        file: impl AsFd,
        offset: &mut u64,
        count: usize,
    ) -> Poll<io::Result<usize>> {
        let secure = match self {
            Self::Plain(socket) => return socket.poll_send_file(cx, file, offset, count),
            Self::Secure(secure) => secure,
        };
        executor::with_scratch(|scratch| {
            let room = scratch.get_mut(..count.min(FILE_CHUNK_BYTES)).unwrap_or_default();
            let read = rustix::io::pread(file, &mut *room, *offset).map_err(|_| rustix::io::Errno::IO)?;
            if read == 0 {
                return Poll::Ready(Ok(0));
            }
            let sent = ready!(secure.poll_write(cx, room.get(..read).unwrap_or_default()))?;
            *offset += sent as u64;
            Poll::Ready(Ok(sent))
        })
    }

    /// Ends our direction.
    pub fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => Poll::Ready(socket.shutdown_write()),
            Self::Secure(secure) => secure.poll_shutdown(cx),
        }
    }

    /// Makes closing the stream a reset.
    pub fn abort(&self) {
        self.suppress_close_notify();
        self.socket().abort();
    }

    /// Closing the stream will not look like an end that was meant.
    pub fn suppress_close_notify(&self) {
        if let Self::Secure(secure) = self {
            secure.suppress_close_notify();
        }
    }

    /// Whether the peer's end may have been made by somebody else: it did not say that it would end.
    pub fn is_truncated(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Secure(secure) => secure.is_truncated(),
        }
    }

    /// Whether the peer has neither sent nor closed anything: such a connection can be used again.
    pub fn is_idle(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_idle(),
            Self::Secure(secure) => secure.is_idle(),
        }
    }

    /// Ready when there may be something to read, or the end.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Secure(secure) if secure.is_readable() => Poll::Ready(()),
            _ => self.socket().poll_readable(cx),
        }
    }

    /// A descriptor is all there is to it.
    pub fn is_plain(&self) -> bool {
        match self {
            Self::Plain(_) => true,
            Self::Secure(_) => false,
        }
    }

    /// The descriptor below, which nobody watches any more.
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        match self {
            Self::Plain(socket) => socket.into_fd(),
            Self::Secure(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// The socket below.
    pub fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Secure(secure) => secure.socket(),
        }
    }
}

/// A stream and what was read ahead.
pub struct BufStream {
    pub stream: Stream,
    buffer: ReadBuffer,
}

/// Bytes read but not yet used; owns no memory when there are none.
#[derive(Default)]
struct ReadBuffer {
    bytes: Vec<u8>,
    used: usize,
}

impl ReadBuffer {
    fn unread(&self) -> &[u8] {
        self.bytes.get(self.used..).unwrap_or_default()
    }

    fn consume(&mut self, count: usize) {
        self.used += count;
        if self.used >= self.bytes.len() {
            *self = Self::default();
        }
    }

    fn append(&mut self, fresh: &[u8]) {
        if !fresh.is_empty() {
            self.bytes.drain(..self.used);
            self.used = 0;
            self.bytes.extend_from_slice(fresh);
        }
    }
}

/// Why nothing could be parsed.
#[derive(Debug)]
pub enum ReadError<E> {
    /// The peer ended before the first byte.
    Eof,
    /// The peer ended in the middle.
    UnexpectedEof,
    Io(io::Error),
    Malformed(E),
}

/// The reading side of a wire, apart from its stream: so that others may write to it meanwhile.
pub struct ReadHalf<'w> {
    stream: &'w Stream,
    buffer: &'w mut ReadBuffer,
}

impl BufStream {
    pub fn new(stream: Stream) -> Self {
        Self { stream, buffer: ReadBuffer::default() }
    }

    /// The stream, and what reads from it.
    pub fn split(&mut self) -> (&Stream, ReadHalf<'_>) {
        (&self.stream, ReadHalf { stream: &self.stream, buffer: &mut self.buffer })
    }

    /// The descriptor below, if nothing is lost with the rest: nothing was read ahead, and it is not encrypted.
    pub fn into_fd(self) -> Option<OwnedFd> {
        if self.buffered().is_empty() && self.stream.is_plain() { self.stream.into_fd().ok() } else { None }
    }

    /// What reads from it.
    pub fn reader(&mut self) -> ReadHalf<'_> {
        self.split().1
    }

    /// What was read but not yet used.
    pub fn buffered(&self) -> &[u8] {
        self.buffer.unread()
    }

    /// Drops the first bytes of what was read.
    pub fn consume(&mut self, count: usize) {
        self.buffer.consume(count);
    }

    /// Takes what was read but not yet used.
    pub fn take_buffered(&mut self) -> Vec<u8> {
        let ReadBuffer { mut bytes, used } = std::mem::take(&mut self.buffer);
        bytes.drain(..used);
        bytes
    }

    /// Ready when there may be something to use, or the stream has ended.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.buffered().is_empty() { self.stream.poll_readable(cx) } else { Poll::Ready(()) }
    }
}

impl<'w> ReadHalf<'w> {
    /// What was read but not yet used.
    pub fn buffered(&self) -> &[u8] {
        self.buffer.unread()
    }

    /// The stream that it reads from.
    pub fn stream(&self) -> &'w Stream {
        self.stream
    }

    /// Reads until `parse` finds a whole value and says how many bytes it is long. `parse` sees all that was read
    /// so far, each time from the first byte.
    pub fn poll_parse<T, E>(
        &mut self,
        cx: &mut Context<'_>,
        parse: &mut impl FnMut(&[u8]) -> Result<Option<(T, usize)>, E>,
    ) -> Poll<Result<T, ReadError<E>>> {
        let mut parsed = None;
        let read = ready!(self.poll_read_until(cx, &mut |bytes| match parse(bytes) {
            Ok(None) => None,
            Ok(Some((value, used))) => {
                parsed = Some(Ok(value));
                Some(used)
            }
            Err(malformed) => {
                parsed = Some(Err(ReadError::Malformed(malformed)));
                Some(0) // all of it is kept for the log
            }
        }));
        let missing = || match read {
            Err(error) => ReadError::Io(error),
            Ok(()) if self.buffered().is_empty() => ReadError::Eof,
            Ok(()) => ReadError::UnexpectedEof,
        };
        Poll::Ready(parsed.unwrap_or_else(|| Err(missing())))
    }

    /// Reads until `take`, which sees all that was read so far, says how many bytes it has used, or to the end.
    fn poll_read_until(
        &mut self,
        cx: &mut Context<'_>,
        take: &mut dyn FnMut(&[u8]) -> Option<usize>,
    ) -> Poll<io::Result<()>> {
        if !self.buffered().is_empty()
            && let Some(used) = take(self.buffered())
        {
            self.buffer.consume(used);
            return Poll::Ready(Ok(()));
        }
        let (stream, buffer) = (self.stream, &mut *self.buffer);
        executor::with_scratch(|scratch| {
            loop {
                let count = ready!(stream.poll_read(cx, scratch))?;
                let fresh = scratch.get(..count).unwrap_or_default();
                if fresh.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                if !buffer.unread().is_empty() {
                    buffer.append(fresh);
                    if let Some(used) = take(buffer.unread()) {
                        buffer.consume(used);
                        return Poll::Ready(Ok(()));
                    }
                } else if let Some(used) = take(fresh) {
                    buffer.append(fresh.get(used..).unwrap_or_default());
                    return Poll::Ready(Ok(()));
                } else {
                    buffer.append(fresh);
                }
            }
        })
    }

    /// Gives `with` the next bytes (none at the end of the stream); it says how many of them it used.
    pub fn poll_bytes<R>(
        &mut self,
        cx: &mut Context<'_>,
        with: impl FnOnce(&mut Context<'_>, &[u8]) -> (usize, R),
    ) -> Poll<io::Result<R>> {
        if !self.buffered().is_empty() {
            let (used, result) = with(cx, self.buffered());
            self.buffer.consume(used);
            return Poll::Ready(Ok(result));
        }
        let (stream, buffer) = (self.stream, &mut *self.buffer);
        executor::with_scratch(|scratch| {
            let count = ready!(stream.poll_read(cx, scratch))?;
            let fresh = scratch.get(..count).unwrap_or_default();
            let (used, result) = with(cx, fresh);
            buffer.append(fresh.get(used..).unwrap_or_default());
            Poll::Ready(Ok(result))
        })
    }
}
