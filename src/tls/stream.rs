//! One TLS connection over a socket: records in, bytes out, and back.
//!
//! rustls is driven without buffers of its own: records are read into memory that the worker's connections share,
//! opened there, and sealed there. What a session owns between two turns is its keys, a record of which only a part has
//! come, and sealed records that the socket would not take; when it is idle, the keys alone.
//!
//! A record that was sealed must be sent. [`Session::poll_write`] counts the bytes of the last one only when all of it has
//! left: who sees all of his bytes counted knows that nothing is stuck here, and never has to flush. Until then he comes
//! again with the same bytes, as all do who keep what was not taken.

use std::cell::{Cell, RefCell};
use std::io;
use std::task::{Context, Poll, ready};

use futures_rustls::rustls;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};

use crate::runtime::executor::SCRATCH_BYTES;
use crate::runtime::socket::Socket;
use crate::runtime::stream::SecureStream;

/// Plaintext bytes of one record (RFC 8446 5.1).
const RECORD_BYTES: usize = 1 << 14;
/// Bytes that sealing adds to a record, at most: header, explicit nonce, type, tag.
const SEAL_BYTES: usize = 64;
/// The memory that sessions of a worker share: what is read or written at once, sealed.
const SEALED_BYTES: usize = SCRATCH_BYTES + (SCRATCH_BYTES / RECORD_BYTES + 1) * SEAL_BYTES;
/// Bytes of records that are not whole yet. A handshake message, such as one with many certificates, may be spread over
/// several records.
const TORN_BYTES_MAX: usize = 48 * 1024;
/// Bytes that are sealed and not sent.
const UNSENT_BYTES_MAX: usize = 2 * SEALED_BYTES;

thread_local! {
    /// Sealed records on their way.
    static SEALED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Lends the memory for sealed records.
fn sealed<R>(with: impl FnOnce(&mut [u8]) -> R) -> R {
    SEALED.with_borrow_mut(|sealed| {
        if sealed.is_empty() {
            *sealed = vec![0; SEALED_BYTES];
        }
        with(sealed)
    })
}

/// A connection, from its handshake on.
pub(super) struct Session {
    socket: Socket,
    state: RefCell<State>,
    /// Closing it tells the peer that all was said.
    says_goodbye: Cell<bool>,
}

struct State {
    side: Side,
    /// Records that are not whole yet.
    torn: Vec<u8>,
    /// Sealed records that the socket would not take.
    unsent: Vec<u8>,
    /// The unsent may wait for the next bytes that are written, to go with them.
    may_wait: bool,
    /// Bytes that are among the unsent but were not counted as written.
    owed: usize,
    /// Opened bytes that found no room.
    opened: Vec<u8>,
    ended: End,
    finished: bool,
    /// What broke the connection; nothing more is read or written.
    broken: Option<Box<str>>,
}

/// How the peer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    NotYet,
    /// It said that it would.
    Said,
    /// The connection ended without a word: what came may not be all.
    Cut,
}

/// Either end of a connection.
pub(super) enum Side {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// What comes after a step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Another step.
    Step,
    /// The peer has ended.
    Ended,
    /// Nothing until more has come.
    Wait,
}

impl Side {
    /// Takes the next step with what has come: how many bytes of that are used up, and what comes next. Opened bytes
    /// are appended to `opened`, what has to be sent to `unsent`.
    fn step(
        &mut self,
        sealed: &mut [u8],
        opened: &mut dyn FnMut(&[u8]),
        unsent: &mut Vec<u8>,
    ) -> (usize, Result<Next, rustls::Error>) {
        match self {
            Self::Server(connection) => obey(connection.process_tls_records(sealed), opened, unsent),
            Self::Client(connection) => obey(connection.process_tls_records(sealed), opened, unsent),
        }
    }

    /// Seals `bytes`, or the word that we have ended, into `out`, unless a step comes first.
    fn seal(&mut self, torn: &mut [u8], bytes: Option<&[u8]>, out: &mut [u8], unsent: &mut Vec<u8>) -> Sealed {
        match self {
            Self::Server(connection) => seal(connection.process_tls_records(torn), bytes, out, unsent),
            Self::Client(connection) => seal(connection.process_tls_records(torn), bytes, out, unsent),
        }
    }

    pub(super) fn common(&self) -> &rustls::CommonState {
        match self {
            Self::Server(connection) => connection,
            Self::Client(connection) => connection,
        }
    }
}

fn obey<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    opened: &mut dyn FnMut(&[u8]),
    unsent: &mut Vec<u8>,
) -> (usize, Result<Next, rustls::Error>) {
    let mut used = status.discard;
    let next = match status.state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            let mut next = Ok(Next::Step);
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        used += record.discard;
                        opened(record.payload);
                    }
                    Err(error) => next = Err(error),
                }
            }
            next
        }
        Ok(ConnectionState::EncodeTlsData(mut message)) => {
            let start = unsent.len();
            let mut room = 0;
            loop {
                unsent.resize(start + room, 0);
                match message.encode(unsent.get_mut(start..).unwrap_or_default()) {
                    Err(EncodeError::InsufficientSize(needed)) if needed.required_size > room => {
                        room = needed.required_size;
                    }
                    written => {
                        unsent.truncate(start + written.unwrap_or(0));
                        break;
                    }
                }
            }
            Ok(Next::Step)
        }
        // It is among the unsent, before anything that is sealed from now on.
        Ok(ConnectionState::TransmitTlsData(sent)) => {
            sent.done();
            Ok(Next::Step)
        }
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Next::Ended),
        Ok(_) => Ok(Next::Wait),
    };
    (used, next)
}

/// What came of sealing.
enum Sealed {
    Bytes(io::Result<usize>),
    /// Something of TLS itself goes first.
    Not(Result<Next, rustls::Error>),
}

fn seal<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    bytes: Option<&[u8]>,
    out: &mut [u8],
    unsent: &mut Vec<u8>,
) -> Sealed {
    let UnbufferedStatus { discard, state } = status;
    let mut traffic = match state {
        Ok(ConnectionState::WriteTraffic(traffic)) => traffic,
        // Nothing can be opened: what has come of the next record is not whole.
        state => return Sealed::Not(obey(UnbufferedStatus { discard, state }, &mut |_| {}, unsent).1),
    };
    let written = match bytes {
        Some(bytes) => traffic.encrypt(bytes, out),
        None => traffic.queue_close_notify(out),
    };
    Sealed::Bytes(written.map_err(|error| match error {
        EncryptError::InsufficientSize(_) => io::Error::other("a record has no room"),
        EncryptError::EncryptExhausted => io::Error::other("the keys are used up"),
    }))
}

impl Session {
    pub(super) fn new(socket: Socket, side: Side, sealed: Vec<u8>) -> Self {
        let state = State {
            side,
            torn: sealed,
            unsent: Vec::new(),
            may_wait: false,
            owed: 0,
            opened: Vec::new(),
            ended: End::NotYet,
            finished: false,
            broken: None,
        };
        Self { socket, state: RefCell::new(state), says_goodbye: Cell::new(false) }
    }

    /// What was agreed with the peer.
    pub(super) fn with_side<R>(&self, with: impl FnOnce(&mut Side) -> R) -> R {
        with(&mut self.state.borrow_mut().side)
    }

    /// Ready when the handshake is done.
    pub(super) fn poll_handshake(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.state.borrow_mut();
        loop {
            let mut torn = std::mem::take(&mut state.torn);
            // A client that sends its first request with the end of its handshake does not wait for an answer to that.
            let mut early = Vec::new();
            let next = state.steps(&mut torn, &mut |bytes| early.extend_from_slice(bytes));
            state.torn = torn;
            state.opened.extend_from_slice(&early);
            let done = next.is_ok() && !state.side.common().is_handshaking();
            let version = state.side.common().protocol_version();
            if done && matches!(state.side, Side::Server(_)) && version == Some(rustls::ProtocolVersion::TLSv1_3) {
                // The client has had the last word of the handshake. What is left are tickets, which go with an answer.
                state.may_wait = !state.unsent.is_empty();
            }
            let flushed = if state.may_wait { Poll::Ready(Ok(())) } else { state.poll_unsent(cx, &self.socket) };
            next?;
            if done {
                ready!(flushed)?;
                self.says_goodbye.set(true);
                return Poll::Ready(Ok(()));
            }
            if state.ended != End::NotYet {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            // The next flight of the peer comes only after ours.
            ready!(flushed)?;
            ready!(state.poll_fill(cx, &self.socket))?;
        }
    }
}

impl SecureStream for Session {
    fn socket(&self) -> &Socket {
        &self.socket
    }

    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let state = &mut *self.state.borrow_mut();
        if !state.opened.is_empty() {
            return Poll::Ready(Ok(state.take_opened(buf)));
        }
        if !state.unsent.is_empty() && !state.may_wait {
            // Nobody may be writing, and what is unsent is to get out nevertheless.
            if let Poll::Ready(Err(error)) = state.poll_unsent(cx, &self.socket) {
                return Poll::Ready(Err(error));
            }
        }
        loop {
            if state.ended != End::NotYet {
                return Poll::Ready(Ok(0));
            }
            state.check()?;
            let count = ready!(sealed(|sealed| state.poll_open(cx, &self.socket, sealed, buf)))?;
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
        }
    }

    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let state = &mut *self.state.borrow_mut();
        state.check()?;
        if !std::mem::take(&mut state.may_wait) {
            ready!(state.poll_unsent(cx, &self.socket))?;
        }
        let owed = state.owed.min(bytes.len());
        state.owed -= owed;
        let rest = bytes.get(owed..).unwrap_or_default();
        let fresh = rest.get(..SCRATCH_BYTES).unwrap_or(rest);
        if fresh.is_empty() || state.owed > 0 {
            return Poll::Ready(Ok(owed));
        }
        match sealed(|sealed| state.poll_seal(cx, &self.socket, sealed, fresh)) {
            Poll::Ready(Ok(count)) => Poll::Ready(Ok(owed + count)),
            Poll::Pending if owed > 0 => Poll::Ready(Ok(owed)),
            other => other,
        }
    }

    fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.state.borrow_mut();
        if state.broken.is_none() {
            ready!(state.poll_unsent(cx, &self.socket))?;
            if !state.finished {
                state.say_goodbye();
                ready!(state.poll_unsent(cx, &self.socket))?;
            }
        }
        Poll::Ready(self.socket.shutdown_write())
    }

    fn is_truncated(&self) -> bool {
        self.state.borrow().ended == End::Cut
    }

    fn is_readable(&self) -> bool {
        let state = self.state.borrow();
        !state.opened.is_empty() || state.ended != End::NotYet
    }

    /// Tickets and the like are taken in.
    fn is_idle(&self) -> bool {
        if self.is_readable() || self.state.borrow().broken.is_some() {
            return false;
        }
        if self.socket.is_idle() {
            return true;
        }
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut byte = [0];
        self.poll_read(&mut cx, &mut byte).is_pending() && self.socket.is_idle()
    }

    fn suppress_close_notify(&self) {
        self.says_goodbye.set(false);
    }
}

impl Drop for Session {
    /// The last word, if the socket takes it at once.
    fn drop(&mut self) {
        let state = self.state.get_mut();
        // Who has gone would answer with a reset.
        let listens = state.ended == End::NotYet || !self.socket.peer_closed();
        if listens && self.says_goodbye.get() && state.broken.is_none() && !state.finished {
            state.say_goodbye();
            let _ = state.poll_unsent(&mut Context::from_waker(std::task::Waker::noop()), &self.socket);
        }
    }
}

impl State {
    fn check(&self) -> io::Result<()> {
        match &self.broken {
            None => Ok(()),
            Some(why) => Err(io::Error::new(io::ErrorKind::InvalidData, &**why)),
        }
    }

    /// Notes that the connection is broken. The alert that tells the peer is among the unsent.
    fn fail(&mut self, error: &rustls::Error) -> io::Error {
        while self.side.common().wants_write() {
            let _ = self.side.step(&mut [], &mut |_| {}, &mut self.unsent);
        }
        let why = error.to_string();
        self.broken = Some(why.clone().into());
        io::Error::new(io::ErrorKind::InvalidData, why)
    }

    /// Takes all steps that can be taken with `sealed`; what is left of it stays.
    fn steps(&mut self, sealed: &mut Vec<u8>, opened: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let mut used = 0;
        let outcome = self.steps_in(sealed, &mut used, opened);
        sealed.drain(..used.min(sealed.len()));
        outcome
    }

    fn steps_in(&mut self, sealed: &mut [u8], used: &mut usize, opened: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        loop {
            let rest = sealed.get_mut(*used..).unwrap_or_default();
            let (taken, next) = self.side.step(rest, opened, &mut self.unsent);
            *used += taken;
            match next {
                Ok(Next::Step) if self.unsent.len() > UNSENT_BYTES_MAX => {
                    return Err(self.fail(&rustls::Error::General("the peer asks for too much".to_owned())));
                }
                Ok(Next::Step) => {}
                Ok(Next::Wait) => return Ok(()),
                Ok(Next::Ended) => {
                    self.ended = End::Said;
                    *used = sealed.len(); // whatever follows is nothing of it
                    return Ok(());
                }
                Err(error) => return Err(self.fail(&error)),
            }
        }
    }

    /// Reads what has come of the handshake.
    fn poll_fill(&mut self, cx: &mut Context<'_>, socket: &Socket) -> Poll<io::Result<()>> {
        let room = TORN_BYTES_MAX.saturating_sub(self.torn.len());
        if room == 0 {
            return Poll::Ready(Err(self.fail(&rustls::Error::General("the handshake is too long".to_owned()))));
        }
        sealed(|sealed| {
            let count = ready!(socket.poll_read(cx, sealed.get_mut(..room).unwrap_or_default()))?;
            if count == 0 {
                self.ended = End::Cut;
            }
            self.torn.extend_from_slice(sealed.get(..count).unwrap_or_default());
            Poll::Ready(Ok(()))
        })
    }

    /// One read: how many bytes of `buf` it filled; none if it was all of TLS itself.
    fn poll_open(
        &mut self,
        cx: &mut Context<'_>,
        socket: &Socket,
        sealed: &mut [u8],
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let torn = self.torn.len();
        // What is opened is shorter than what was sealed: so it finds room.
        let end = sealed.len().min(torn + buf.len().max(RECORD_BYTES));
        let count = ready!(socket.poll_read(cx, sealed.get_mut(torn..end).unwrap_or_default()))?;
        if count == 0 {
            self.ended = End::Cut;
            return Poll::Ready(Ok(0));
        }
        let whole = sealed.get_mut(..torn + count).unwrap_or_default();
        for (to, from) in whole.iter_mut().zip(&self.torn) {
            *to = *from;
        }
        let (mut filled, mut used, mut over) = (0, 0, Vec::new());
        let outcome = self.steps_in(whole, &mut used, &mut |bytes| {
            let room = buf.get_mut(filled..).unwrap_or_default();
            let fits = bytes.len().min(room.len());
            if let (Some(room), Some(bytes)) = (room.get_mut(..fits), bytes.get(..fits)) {
                room.copy_from_slice(bytes);
            }
            filled += fits;
            over.extend_from_slice(bytes.get(fits..).unwrap_or_default());
        });
        self.torn = whole.get(used..).unwrap_or_default().to_vec();
        self.opened = over;
        let flushed = if self.may_wait { Poll::Pending } else { self.poll_unsent(cx, socket) };
        if filled == 0 {
            // What came before the fault is given first.
            outcome?;
            if let Poll::Ready(Err(error)) = flushed {
                return Poll::Ready(Err(error));
            }
        }
        if self.torn.len() > TORN_BYTES_MAX {
            return Poll::Ready(Err(self.fail(&rustls::Error::General("a message is too long".to_owned()))));
        }
        Poll::Ready(Ok(filled))
    }

    fn take_opened(&mut self, buf: &mut [u8]) -> usize {
        let count = buf.len().min(self.opened.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..count), self.opened.get(..count)) {
            to.copy_from_slice(from);
        }
        self.opened.drain(..count);
        if self.opened.is_empty() {
            self.opened = Vec::new();
        }
        count
    }

    /// Sends what is unsent.
    fn poll_unsent(&mut self, cx: &mut Context<'_>, socket: &Socket) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let count = ready!(socket.poll_write(cx, &self.unsent))?;
            self.unsent.drain(..count.min(self.unsent.len()));
        }
        self.unsent = Vec::new();
        Poll::Ready(Ok(()))
    }

    /// Seals `bytes` and sends them; nothing is unsent when it begins.
    fn poll_seal(
        &mut self,
        cx: &mut Context<'_>,
        socket: &Socket,
        sealed: &mut [u8],
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let total = self.seal(Some(bytes), sealed)?;
        let mut sent = 0;
        if !self.unsent.is_empty() {
            // Tickets, or once in a long while a key update: they go before.
            self.unsent.extend_from_slice(sealed.get(..total).unwrap_or_default());
            sent = total;
            if self.poll_unsent(cx, socket)?.is_pending() {
                return self.count_but_last(bytes.len());
            }
        }
        while sent < total {
            match socket.poll_write(cx, sealed.get(sent..total).unwrap_or_default()) {
                Poll::Ready(Ok(count)) => sent += count,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.unsent.extend_from_slice(sealed.get(sent..total).unwrap_or_default());
                    return self.count_but_last(bytes.len());
                }
            }
        }
        Poll::Ready(Ok(bytes.len()))
    }

    /// Of `count` bytes those of the last record are counted when it has left.
    fn count_but_last(&mut self, count: usize) -> Poll<io::Result<usize>> {
        self.owed = (count - 1) % RECORD_BYTES + 1;
        let counted = count - self.owed;
        if counted > 0 { Poll::Ready(Ok(counted)) } else { Poll::Pending }
    }

    /// Seals into `out`: how many bytes that came to. What goes before them is appended to the unsent.
    fn seal(&mut self, bytes: Option<&[u8]>, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.side.seal(&mut self.torn, bytes, out, &mut self.unsent) {
                Sealed::Bytes(count) => return count,
                Sealed::Not(Ok(Next::Step)) => {}
                Sealed::Not(Ok(Next::Ended)) => self.ended = End::Said,
                Sealed::Not(Ok(Next::Wait)) => return Err(io::Error::other("nothing can be sent now")),
                Sealed::Not(Err(error)) => return Err(self.fail(&error)),
            }
        }
    }

    fn say_goodbye(&mut self) {
        self.finished = true;
        let mut word = [0; 4 * SEAL_BYTES];
        if let Ok(count) = self.seal(None, &mut word) {
            self.unsent.extend_from_slice(word.get(..count).unwrap_or_default());
        }
    }
}
