//! A TLS connection over a socket.
//!
//! rustls is driven without buffers of its own: records are read into memory that all TLS streams of the worker share, and
//! are decrypted and encrypted there. Between two polls a stream owns its keys, a partial record, and encrypted records
//! that the socket did not accept; when idle, only its keys.
//!
//! An encrypted record must be sent. [`TlsStream::poll_write`] reports the last record's bytes only after all of its
//! ciphertext is on the socket, so callers never flush. Until then they retry with the same bytes, as after any partial
//! write.

use std::cell::{Cell, RefCell};
use std::io;
use std::task::{Context, Poll, Waker, ready};

use futures_rustls::rustls;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{AlertDescription, InvalidMessage};

use crate::runtime::executor::SCRATCH_BYTES;
use crate::runtime::socket::Socket;
use crate::runtime::stream::SecureStream;

/// Plaintext bytes of a record (RFC 8446 5.1).
const RECORD_BYTES: usize = 1 << 14;
/// Bytes that encryption adds to a record at most: header, explicit nonce, type, tag.
const RECORD_OVERHEAD_BYTES: usize = 64;
/// The shared memory: what one read or write takes, encrypted.
const RECORD_BUFFER_BYTES: usize = SCRATCH_BYTES + (SCRATCH_BYTES / RECORD_BYTES + 1) * RECORD_OVERHEAD_BYTES;
/// Bytes that are received and not decrypted. A handshake message with many certificates may take several records.
const PARTIAL_RECORD_BYTES_MAX: usize = 48 * 1024;
/// Bytes that are encrypted and not sent.
const UNSENT_BYTES_MAX: usize = 2 * RECORD_BUFFER_BYTES;

thread_local! {
    static RECORD_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Lends the worker's memory for encrypted records.
fn with_record_buffer<R>(run: impl FnOnce(&mut [u8]) -> R) -> R {
    RECORD_BUFFER.with_borrow_mut(|buffer| {
        if buffer.is_empty() {
            *buffer = vec![0; RECORD_BUFFER_BYTES];
        }
        run(buffer)
    })
}

/// A TLS connection, from its handshake on.
pub(super) struct TlsStream {
    socket: Socket,
    state: RefCell<StreamState>,
    /// Whether dropping the stream sends close_notify.
    send_close_notify: Cell<bool>,
}

struct StreamState {
    connection: RustlsConnection,
    /// Received bytes of records that are not complete.
    partial_record: Vec<u8>,
    /// Encrypted records that the socket did not accept.
    unsent: Vec<u8>,
    /// `unsent` may wait for the next write, to go out with it.
    may_defer_unsent: bool,
    /// Plaintext bytes in `unsent` that `poll_write` has not reported as written.
    unreported: usize,
    /// Decrypted bytes that did not fit into the reader's buffer.
    plaintext: Vec<u8>,
    read_state: ReadState,
    close_notify_queued: bool,
    /// The error that ended the connection, after which nothing is read or written.
    error: Option<Box<str>>,
}

/// Whether and how the peer has closed its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReadState {
    Open,
    /// By close_notify.
    Closed,
    /// Without close_notify: an attacker may have cut bytes off.
    Truncated,
}

/// The rustls connection of either side.
pub(super) enum RustlsConnection {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// What follows a state of the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NextAction {
    /// Another state.
    Continue,
    /// The peer has sent close_notify.
    PeerClosed,
    /// Nothing until more bytes are received.
    NeedsInput,
}

/// What an attempt to encrypt led to.
enum Encrypted {
    Bytes(io::Result<usize>),
    /// The connection was in another state, which was handled first.
    NotReady(Result<NextAction, rustls::Error>),
}

impl RustlsConnection {
    /// Handles the next state of the connection with `received`: returns how many of these bytes are used up, and what
    /// follows. Decrypted bytes go to `on_plaintext`, handshake messages and alerts are appended to `unsent`.
    fn process(
        &mut self,
        received: &mut [u8],
        on_plaintext: &mut dyn FnMut(&[u8]),
        unsent: &mut Vec<u8>,
    ) -> (usize, Result<NextAction, rustls::Error>) {
        match self {
            Self::Server(connection) => handle(connection.process_tls_records(received), on_plaintext, unsent),
            Self::Client(connection) => handle(connection.process_tls_records(received), on_plaintext, unsent),
        }
    }

    /// Encrypts `bytes`, or a close_notify if there are none, into `out`. Handles another state instead if there is one.
    fn encrypt(
        &mut self,
        partial_record: &mut [u8],
        bytes: Option<&[u8]>,
        out: &mut [u8],
        unsent: &mut Vec<u8>,
    ) -> Encrypted {
        match self {
            Self::Server(connection) => encrypt(connection.process_tls_records(partial_record), bytes, out, unsent),
            Self::Client(connection) => encrypt(connection.process_tls_records(partial_record), bytes, out, unsent),
        }
    }

    pub(super) fn common(&self) -> &rustls::CommonState {
        match self {
            Self::Server(connection) => connection,
            Self::Client(connection) => connection,
        }
    }
}

fn handle<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    on_plaintext: &mut dyn FnMut(&[u8]),
    unsent: &mut Vec<u8>,
) -> (usize, Result<NextAction, rustls::Error>) {
    let mut used = status.discard;
    let next = match status.state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            let mut next = Ok(NextAction::Continue);
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        used += record.discard;
                        on_plaintext(record.payload);
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
                match message.encode(unsent.split_at_mut(start).1) {
                    Err(EncodeError::InsufficientSize(needed)) if needed.required_size > room => {
                        room = needed.required_size;
                    }
                    written => {
                        unsent.truncate(start + written.unwrap_or(0));
                        break;
                    }
                }
            }
            Ok(NextAction::Continue)
        }
        // The message is in `unsent`, before all records that are encrypted from now on.
        Ok(ConnectionState::TransmitTlsData(message)) => {
            message.done();
            Ok(NextAction::Continue)
        }
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(NextAction::PeerClosed),
        Ok(_) => Ok(NextAction::NeedsInput),
    };
    (used, next)
}

fn encrypt<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    bytes: Option<&[u8]>,
    out: &mut [u8],
    unsent: &mut Vec<u8>,
) -> Encrypted {
    let UnbufferedStatus { discard, state } = status;
    let mut traffic = match state {
        Ok(ConnectionState::WriteTraffic(traffic)) => traffic,
        // There is no plaintext: the received record is not complete.
        state => return Encrypted::NotReady(handle(UnbufferedStatus { discard, state }, &mut |_| {}, unsent).1),
    };
    let written = match bytes {
        Some(bytes) => traffic.encrypt(bytes, out),
        None => traffic.queue_close_notify(out),
    };
    Encrypted::Bytes(written.map_err(|error| match error {
        EncryptError::InsufficientSize(_) => io::Error::other("no room for an encrypted record"),
        EncryptError::EncryptExhausted => io::Error::other("encryption keys exhausted"),
    }))
}

impl TlsStream {
    /// `received` has bytes of the peer that were read already.
    pub(super) fn new(socket: Socket, connection: RustlsConnection, received: Vec<u8>) -> Self {
        let state = StreamState {
            connection,
            partial_record: received,
            unsent: Vec::new(),
            may_defer_unsent: false,
            unreported: 0,
            plaintext: Vec::new(),
            read_state: ReadState::Open,
            close_notify_queued: false,
            error: None,
        };
        Self { socket, state: RefCell::new(state), send_close_notify: Cell::new(false) }
    }

    /// Lends the connection, for what the handshake has negotiated.
    pub(super) fn with_connection<R>(&self, run: impl FnOnce(&mut RustlsConnection) -> R) -> R {
        run(&mut self.state.borrow_mut().connection)
    }

    /// Ready once the handshake is finished.
    pub(super) fn poll_handshake(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.state.borrow_mut();
        loop {
            let mut received = std::mem::take(&mut state.partial_record);
            // Clients may send the first request together with the end of their handshake.
            let mut early = Vec::new();
            let result = state.process_all(&mut received, &mut |bytes| early.extend_from_slice(bytes));
            state.partial_record = received;
            state.plaintext.extend_from_slice(&early);
            let is_done = result.is_ok() && !state.connection.common().is_handshaking();
            let version = state.connection.common().protocol_version();
            let is_server = matches!(state.connection, RustlsConnection::Server(_));
            if is_done && is_server && version == Some(rustls::ProtocolVersion::TLSv1_3) {
                // The client sends the last message of the handshake. `unsent` has tickets, which go out with a response.
                state.may_defer_unsent = !state.unsent.is_empty();
            }
            let flushed = if state.may_defer_unsent { Poll::Ready(Ok(())) } else { state.poll_flush(cx, &self.socket) };
            result?;
            if is_done {
                ready!(flushed)?;
                self.send_close_notify.set(true);
                return Poll::Ready(Ok(()));
            }
            if state.read_state != ReadState::Open {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            // The next flight of the peer comes only after this one.
            ready!(flushed)?;
            ready!(state.poll_read_handshake(cx, &self.socket))?;
        }
    }
}

impl SecureStream for TlsStream {
    fn socket(&self) -> &Socket {
        &self.socket
    }

    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let state = &mut *self.state.borrow_mut();
        if !state.plaintext.is_empty() {
            return Poll::Ready(Ok(state.take_plaintext(buf)));
        }
        if !state.unsent.is_empty() && !state.may_defer_unsent {
            // There may be no writer that would flush.
            if let Poll::Ready(Err(error)) = state.poll_flush(cx, &self.socket) {
                return Poll::Ready(Err(error));
            }
        }
        loop {
            if state.read_state != ReadState::Open {
                return Poll::Ready(Ok(0));
            }
            state.check_error()?;
            let count = ready!(with_record_buffer(|buffer| state.poll_decrypt(cx, &self.socket, buffer, buf)))?;
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
        }
    }

    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let state = &mut *self.state.borrow_mut();
        state.check_error()?;
        if !std::mem::take(&mut state.may_defer_unsent) {
            ready!(state.poll_flush(cx, &self.socket))?;
        }
        // The first bytes of a retry are those that were sent and not reported.
        let reported = state.unreported.min(bytes.len());
        state.unreported -= reported;
        let (_, unwritten) = bytes.split_at(reported);
        let (chunk, _) = unwritten.split_at(unwritten.len().min(SCRATCH_BYTES));
        if chunk.is_empty() || state.unreported > 0 {
            return Poll::Ready(Ok(reported));
        }
        match with_record_buffer(|buffer| state.poll_encrypt(cx, &self.socket, buffer, chunk)) {
            Poll::Ready(Ok(count)) => Poll::Ready(Ok(reported + count)),
            Poll::Pending if reported > 0 => Poll::Ready(Ok(reported)),
            other => other,
        }
    }

    fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.state.borrow_mut();
        if state.error.is_none() {
            ready!(state.poll_flush(cx, &self.socket))?;
            if !state.close_notify_queued {
                state.queue_close_notify();
                ready!(state.poll_flush(cx, &self.socket))?;
            }
        }
        Poll::Ready(self.socket.shutdown_write())
    }

    fn is_truncated(&self) -> bool {
        self.state.borrow().read_state == ReadState::Truncated
    }

    fn is_readable(&self) -> bool {
        let state = self.state.borrow();
        !state.plaintext.is_empty() || state.read_state != ReadState::Open
    }

    /// Processes tickets and other records without plaintext.
    fn is_idle(&self) -> bool {
        if self.is_readable() || self.state.borrow().error.is_some() {
            return false;
        }
        if self.socket.is_idle() {
            return true;
        }
        let mut cx = Context::from_waker(Waker::noop());
        let mut byte = [0];
        self.poll_read(&mut cx, &mut byte).is_pending() && self.socket.is_idle()
    }

    fn suppress_close_notify(&self) {
        self.send_close_notify.set(false);
    }
}

impl Drop for TlsStream {
    /// Sends close_notify, if the socket is writable.
    fn drop(&mut self) {
        let state = self.state.get_mut();
        // A peer that has closed the connection would respond with a reset.
        let is_peer_open = state.read_state == ReadState::Open || !self.socket.peer_closed();
        if is_peer_open && self.send_close_notify.get() && state.error.is_none() && !state.close_notify_queued {
            state.queue_close_notify();
            let _ = state.poll_flush(&mut Context::from_waker(Waker::noop()), &self.socket);
        }
    }
}

impl StreamState {
    fn check_error(&self) -> io::Result<()> {
        match &self.error {
            None => Ok(()),
            Some(error) => Err(io::Error::new(io::ErrorKind::InvalidData, &**error)),
        }
    }

    /// Ends the connection with an error. The alert for the peer is appended to `unsent`.
    fn fail(&mut self, error: &rustls::Error) -> io::Error {
        while self.connection.common().wants_write() {
            let _ = self.connection.process(&mut [], &mut |_| {}, &mut self.unsent);
        }
        let message = match self.refusal(error) {
            Some(reason) => format!("{error}: {reason}"),
            None => error.to_string(),
        };
        self.error = Some(message.clone().into());
        io::Error::new(io::ErrorKind::InvalidData, message)
    }

    /// Why an upstream refused the ClientHello, if `error` is its alert.
    fn refusal(&self, error: &rustls::Error) -> Option<&'static str> {
        let is_refused = matches!(self.connection, RustlsConnection::Client(_))
            && self.connection.common().negotiated_cipher_suite().is_none();
        match error {
            rustls::Error::AlertReceived(
                AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity,
            ) if is_refused => Some("the upstream offers no cipher that is supported (ECDHE with AES-GCM or ChaCha20)"),
            rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) if is_refused => {
                Some("the upstream offers no version of TLS that is enabled (1.2 and 1.3 are supported)")
            }
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) if is_refused => {
                Some("the upstream does not speak TLS at this port: write http:// for it")
            }
            _ => None,
        }
    }

    /// Processes `received` as far as possible, and removes the bytes that are used up.
    fn process_all(&mut self, received: &mut Vec<u8>, on_plaintext: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let mut used = 0;
        let result = self.process_slice(received, &mut used, on_plaintext);
        received.drain(..used.min(received.len()));
        result
    }

    /// As [`process_all`](Self::process_all), and counts the bytes in `used`.
    fn process_slice(
        &mut self,
        received: &mut [u8],
        used: &mut usize,
        on_plaintext: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()> {
        loop {
            let unread = received.get_mut(*used..).unwrap_or_default();
            let (count, next) = self.connection.process(unread, on_plaintext, &mut self.unsent);
            *used += count;
            match next {
                Ok(NextAction::Continue) if self.unsent.len() > UNSENT_BYTES_MAX => {
                    return Err(self.fail(&rustls::Error::General("too many messages that need a response".to_owned())));
                }
                Ok(NextAction::Continue) => {}
                Ok(NextAction::NeedsInput) => return Ok(()),
                Ok(NextAction::PeerClosed) => {
                    self.read_state = ReadState::Closed;
                    *used = received.len(); // bytes after close_notify are ignored
                    return Ok(());
                }
                Err(error) => return Err(self.fail(&error)),
            }
        }
    }

    /// Reads bytes of the handshake into `partial_record`.
    fn poll_read_handshake(&mut self, cx: &mut Context<'_>, socket: &Socket) -> Poll<io::Result<()>> {
        let room = PARTIAL_RECORD_BYTES_MAX.saturating_sub(self.partial_record.len());
        if room == 0 {
            return Poll::Ready(Err(self.fail(&rustls::Error::General("handshake message too long".to_owned()))));
        }
        with_record_buffer(|buffer| {
            let (buffer, _) = buffer.split_at_mut(room.min(buffer.len()));
            let count = ready!(socket.poll_read(cx, buffer))?;
            if count == 0 {
                self.read_state = ReadState::Truncated;
            }
            self.partial_record.extend_from_slice(buffer.get(..count).unwrap_or_default());
            Poll::Ready(Ok(()))
        })
    }

    /// Reads from the socket once and decrypts into `buf`: returns the bytes of plaintext, 0 if there were none.
    fn poll_decrypt(
        &mut self,
        cx: &mut Context<'_>,
        socket: &Socket,
        buffer: &mut [u8],
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let partial = self.partial_record.len();
        // Plaintext is shorter than its ciphertext, so a read of this size rarely needs more room than `buf` has.
        let end = buffer.len().min(partial + buf.len().max(RECORD_BYTES));
        let count = ready!(socket.poll_read(cx, buffer.get_mut(partial..end).unwrap_or_default()))?;
        if count == 0 {
            self.read_state = ReadState::Truncated;
            return Poll::Ready(Ok(0));
        }
        let received = buffer.get_mut(..partial + count).unwrap_or_default();
        received.iter_mut().zip(&self.partial_record).for_each(|(to, from)| *to = *from);
        let (mut filled, mut used, mut overflow) = (0, 0, Vec::new());
        let result = self.process_slice(received, &mut used, &mut |bytes| {
            let room = buf.get_mut(filled..).unwrap_or_default();
            let fits = bytes.len().min(room.len());
            let (fitting, rest) = bytes.split_at(fits);
            room.split_at_mut(fits).0.copy_from_slice(fitting);
            filled += fits;
            overflow.extend_from_slice(rest);
        });
        self.partial_record = received.get(used..).unwrap_or_default().to_vec();
        self.plaintext = overflow;
        let flushed = if self.may_defer_unsent { Poll::Pending } else { self.poll_flush(cx, socket) };
        if filled == 0 {
            // An error is reported after the plaintext before it.
            result?;
            if let Poll::Ready(Err(error)) = flushed {
                return Poll::Ready(Err(error));
            }
        }
        if self.partial_record.len() > PARTIAL_RECORD_BYTES_MAX {
            return Poll::Ready(Err(self.fail(&rustls::Error::General("message too long".to_owned()))));
        }
        Poll::Ready(Ok(filled))
    }

    fn take_plaintext(&mut self, buf: &mut [u8]) -> usize {
        let count = buf.len().min(self.plaintext.len());
        buf.split_at_mut(count).0.copy_from_slice(self.plaintext.split_at(count).0);
        self.plaintext.drain(..count);
        if self.plaintext.is_empty() {
            self.plaintext = Vec::new();
        }
        count
    }

    /// Sends `unsent`.
    fn poll_flush(&mut self, cx: &mut Context<'_>, socket: &Socket) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let count = ready!(socket.poll_write(cx, &self.unsent))?;
            self.unsent.drain(..count.min(self.unsent.len()));
        }
        self.unsent = Vec::new();
        Poll::Ready(Ok(()))
    }

    /// Encrypts `bytes` into `buffer` and sends them. `unsent` has nothing but what may be deferred.
    fn poll_encrypt(
        &mut self,
        cx: &mut Context<'_>,
        socket: &Socket,
        buffer: &mut [u8],
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = self.encrypt(Some(bytes), buffer)?;
        let mut records = buffer.get(..count).unwrap_or_default();
        if !self.unsent.is_empty() {
            // Tickets, or a rare key update: these go first.
            self.unsent.extend_from_slice(records);
            records = &[];
            if self.poll_flush(cx, socket)?.is_pending() {
                return self.report_all_but_last_record(bytes.len());
            }
        }
        while !records.is_empty() {
            match socket.poll_write(cx, records) {
                Poll::Ready(Ok(count)) => records = records.get(count..).unwrap_or_default(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.unsent.extend_from_slice(records);
                    return self.report_all_but_last_record(bytes.len());
                }
            }
        }
        Poll::Ready(Ok(bytes.len()))
    }

    /// Reports `count` written bytes except those of the last record, which is still unsent.
    fn report_all_but_last_record(&mut self, count: usize) -> Poll<io::Result<usize>> {
        self.unreported = (count - 1) % RECORD_BYTES + 1;
        let reported = count - self.unreported;
        if reported > 0 { Poll::Ready(Ok(reported)) } else { Poll::Pending }
    }

    /// Encrypts `bytes`, or a close_notify, into `out`, and returns the size. What must go first is appended to `unsent`.
    fn encrypt(&mut self, bytes: Option<&[u8]>, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.encrypt(&mut self.partial_record, bytes, out, &mut self.unsent) {
                Encrypted::Bytes(count) => return count,
                Encrypted::NotReady(Ok(NextAction::Continue)) => {}
                Encrypted::NotReady(Ok(NextAction::PeerClosed)) => self.read_state = ReadState::Closed,
                Encrypted::NotReady(Ok(NextAction::NeedsInput)) => return Err(io::Error::other("not ready to send")),
                Encrypted::NotReady(Err(error)) => return Err(self.fail(&error)),
            }
        }
    }

    fn queue_close_notify(&mut self) {
        self.close_notify_queued = true;
        let mut record = [0; 4 * RECORD_OVERHEAD_BYTES];
        if let Ok(count) = self.encrypt(None, &mut record) {
            self.unsent.extend(record.iter().take(count));
        }
    }
}
