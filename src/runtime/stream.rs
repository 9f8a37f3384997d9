//! A stream, and a buffered stream that keeps bytes which were read but not consumed.
//!
//! Bytes are read into the worker's scratch buffer and parsed there; only the rest is copied, so that an idle stream
//! owns no memory. Thus a pipelined request, or bytes that a peer sends right after a 101, reach the next reader.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};

use crate::runtime::executor;
use crate::runtime::socket::Socket;

/// Bytes of a file that are read at once where sendfile(2) can't be used.
const FILE_CHUNK_BYTES: usize = 64 * 1024;

/// A bidirectional byte stream, plain or encrypted.
pub enum Stream {
    Plain(Socket),
    /// Boxed, so that a plain stream is no larger for it.
    Secure(Box<dyn SecureStream>),
}

/// A stream whose bytes are encrypted on the socket below.
pub trait SecureStream {
    /// Returns the socket.
    fn socket(&self) -> &Socket;

    /// Reads into `buf`; 0 is EOF.
    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Writes some of `bytes`. The caller must repeat the unreported rest, and nothing else.
    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// Sends close_notify, and closes the sending direction of the socket; the other one stays open.
    fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Whether the stream ended without close_notify, i.e. may have been truncated.
    fn is_truncated(&self) -> bool;

    /// Whether decrypted data is buffered.
    fn is_readable(&self) -> bool;

    /// Whether the peer has neither sent nor closed anything.
    fn is_idle(&self) -> bool;

    /// Omits close_notify when the stream is closed, so that the peer learns that data is missing.
    fn suppress_close_notify(&self);
}

impl Stream {
    /// Reads into `buf`; 0 is EOF.
    pub fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => socket.poll_read(cx, buf),
            Self::Secure(secure) => secure.poll_read(cx, buf),
        }
    }

    /// Writes some of `bytes`. The caller must repeat the unreported rest, and nothing else.
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
            // One record per part would take more time than joining them.
            Self::Secure(secure) => {
                let mut whole = Vec::new();
                parts.iter().for_each(|part| whole.extend_from_slice(part));
                secure.poll_write(cx, &whole)
            }
        }
    }

    /// Sends up to `count` bytes of `file` from `offset`, which advances; 0 is EOF of the file. A file that can't be
    /// read is EIO.
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
            let chunk = scratch.get_mut(..count.min(FILE_CHUNK_BYTES)).unwrap_or_default();
            let read = rustix::io::pread(file, &mut *chunk, *offset).map_err(|_| rustix::io::Errno::IO)?;
            if read == 0 {
                return Poll::Ready(Ok(0));
            }
            let sent = ready!(secure.poll_write(cx, chunk.get(..read).unwrap_or_default()))?;
            *offset += sent as u64;
            Poll::Ready(Ok(sent))
        })
    }

    /// Closes the sending direction.
    pub fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => Poll::Ready(socket.shutdown_write()),
            Self::Secure(secure) => secure.poll_shutdown(cx),
        }
    }

    /// Makes closing the stream send a reset.
    pub fn abort(&self) {
        self.suppress_close_notify();
        self.socket().abort();
    }

    /// Omits close_notify when the stream is closed.
    pub fn suppress_close_notify(&self) {
        if let Self::Secure(secure) = self {
            secure.suppress_close_notify();
        }
    }

    /// Whether the stream ended without close_notify, i.e. may have been truncated by an attacker.
    pub fn is_truncated(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Secure(secure) => secure.is_truncated(),
        }
    }

    /// Whether the peer has neither sent nor closed anything: such a connection can be reused.
    pub fn is_idle(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_idle(),
            Self::Secure(secure) => secure.is_idle(),
        }
    }

    /// Ready when there may be data, or EOF.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Secure(secure) if secure.is_readable() => Poll::Ready(()),
            _ => self.socket().poll_readable(cx),
        }
    }

    /// Whether the stream is a bare socket.
    pub fn is_plain(&self) -> bool {
        match self {
            Self::Plain(_) => true,
            Self::Secure(_) => false,
        }
    }

    /// Unregisters the descriptor and returns it; `Unsupported` for an encrypted stream.
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        match self {
            Self::Plain(socket) => socket.into_fd(),
            Self::Secure(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Returns the socket.
    pub fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Secure(secure) => secure.socket(),
        }
    }
}

/// A stream and its read buffer.
pub struct BufStream {
    pub stream: Stream,
    buffer: ReadBuffer,
}

/// Bytes read but not yet consumed; owns no memory when there are none.
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

    fn append(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.bytes.drain(..self.used);
            self.used = 0;
            self.bytes.extend_from_slice(bytes);
        }
    }
}

/// The reason why nothing could be parsed.
#[derive(Debug)]
pub enum ReadError<E> {
    /// EOF before the first byte.
    Eof,
    /// EOF in the middle.
    UnexpectedEof,
    Io(io::Error),
    Malformed(E),
}

/// The reading side of a buffered stream, split off so that its stream can be written to meanwhile.
pub struct ReadHalf<'s> {
    stream: &'s Stream,
    buffer: &'s mut ReadBuffer,
}

impl BufStream {
    pub fn new(stream: Stream) -> Self {
        Self { stream, buffer: ReadBuffer::default() }
    }

    /// Splits into the stream and its reading side.
    pub fn split(&mut self) -> (&Stream, ReadHalf<'_>) {
        (&self.stream, ReadHalf { stream: &self.stream, buffer: &mut self.buffer })
    }

    /// Returns the descriptor if it is the whole state: nothing is buffered, and the stream is not encrypted.
    pub fn into_fd(self) -> Option<OwnedFd> {
        if self.buffered().is_empty() && self.stream.is_plain() { self.stream.into_fd().ok() } else { None }
    }

    /// Returns the reading side.
    pub fn reader(&mut self) -> ReadHalf<'_> {
        self.split().1
    }

    /// Returns the bytes that were read but not yet consumed.
    pub fn buffered(&self) -> &[u8] {
        self.buffer.unread()
    }

    /// Drops the first buffered bytes.
    pub fn consume(&mut self, count: usize) {
        self.buffer.consume(count);
    }

    /// Takes the buffered bytes.
    pub fn take_buffered(&mut self) -> Vec<u8> {
        let ReadBuffer { mut bytes, used } = std::mem::take(&mut self.buffer);
        bytes.drain(..used);
        bytes
    }

    /// Ready when there may be data, or EOF.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.buffered().is_empty() { self.stream.poll_readable(cx) } else { Poll::Ready(()) }
    }
}

impl<'s> ReadHalf<'s> {
    /// Returns the bytes that were read but not yet consumed.
    pub fn buffered(&self) -> &[u8] {
        self.buffer.unread()
    }

    /// Returns the stream.
    pub fn stream(&self) -> &'s Stream {
        self.stream
    }

    /// Reads until `parse` returns a value and its length in bytes. `parse` gets all unconsumed bytes, each time from
    /// the first.
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
                Some(0) // kept for the log
            }
        }));
        let eof = || match read {
            Err(error) => ReadError::Io(error),
            Ok(()) if self.buffered().is_empty() => ReadError::Eof,
            Ok(()) => ReadError::UnexpectedEof,
        };
        Poll::Ready(parsed.unwrap_or_else(|| Err(eof())))
    }

    /// Reads until `take`, which gets all unconsumed bytes, returns how many it has consumed, or to EOF.
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
                let bytes = scratch.get(..count).unwrap_or_default();
                if bytes.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                if !buffer.unread().is_empty() {
                    buffer.append(bytes);
                    if let Some(used) = take(buffer.unread()) {
                        buffer.consume(used);
                        return Poll::Ready(Ok(()));
                    }
                } else if let Some(used) = take(bytes) {
                    buffer.append(bytes.get(used..).unwrap_or_default());
                    return Poll::Ready(Ok(()));
                } else {
                    buffer.append(bytes);
                }
            }
        })
    }

    /// Calls `f` with the next bytes (none at EOF); `f` returns how many it consumed.
    pub fn poll_bytes<R>(
        &mut self,
        cx: &mut Context<'_>,
        f: impl FnOnce(&mut Context<'_>, &[u8]) -> (usize, R),
    ) -> Poll<io::Result<R>> {
        if !self.buffered().is_empty() {
            let (used, result) = f(cx, self.buffered());
            self.buffer.consume(used);
            return Poll::Ready(Ok(result));
        }
        let (stream, buffer) = (self.stream, &mut *self.buffer);
        executor::with_scratch(|scratch| {
            let count = ready!(stream.poll_read(cx, scratch))?;
            let bytes = scratch.get(..count).unwrap_or_default();
            let (used, result) = f(cx, bytes);
            buffer.append(bytes.get(used..).unwrap_or_default());
            Poll::Ready(Ok(result))
        })
    }
}
