//! Accepts TLS connections.
//!
//! Bounds the work that an unauthenticated client can cause: one buffer until the ClientHello is complete; at most
//! [`SERVER_HELLOS_PER_TICK`] per event-loop iteration, so that other connections are served in between; and at most
//! [`PENDING_HANDSHAKES_MAX`] half-finished handshakes, of which the oldest are evicted.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use futures_rustls::rustls;
use rustls::server::{Accepted, Acceptor, UnbufferedServerConnection};

use crate::runtime::executor::{self, Millis, Timer};
use crate::runtime::socket::Socket;
use crate::runtime::stream::SecureStream;
use crate::tls::info::{ClientOffer, TlsInfo};
use crate::tls::server_config::ServerTls;
use crate::tls::stream::{RustlsConnection, TlsStream};

/// Bytes of a ClientHello.
const HELLO_BYTES_MAX: usize = 32 * 1024;
/// Bytes of a plaintext record (RFC 8446 5.1).
const RECORD_BYTES_MAX: u16 = 1 << 14;
/// Bytes of one read.
const READ_BYTES: usize = 4 * 1024;
/// ServerHellos of a worker in one event-loop iteration: each costs up to a few milliseconds on a small processor.
const SERVER_HELLOS_PER_TICK: u32 = 2;
/// Handshakes of a worker that have begun with a ServerHello and are not finished.
const PENDING_HANDSHAKES_MAX: usize = 512;
/// The age from which a pending handshake can be evicted; and the same while more handshakes wait than are pending.
const EVICTION_AGE: Duration = Duration::from_secs(5);
const EVICTION_AGE_IN_FLOOD: Duration = Duration::from_secs(1);

/// Why a handshake failed.
#[derive(Debug)]
pub enum AcceptError {
    Disconnected(io::Error),
    /// The server name is that of a server with `ssl_reject_handshake on`.
    Rejected,
    /// The handshake was evicted in favour of a newer one.
    Evicted,
    Protocol(String),
}

impl fmt::Display for AcceptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("client closed connection while SSL handshaking")
            }
            Self::Disconnected(error) => write!(f, "SSL_do_handshake() failed ({error}) while SSL handshaking"),
            Self::Rejected => f.write_str("handshake rejected while SSL handshaking"),
            Self::Evicted => f.write_str("too many pending handshakes, closing the oldest one while SSL handshaking"),
            Self::Protocol(reason) => write!(f, "SSL_do_handshake() failed ({reason}) while SSL handshaking"),
        }
    }
}

/// Performs the handshake with a client. `received` has the bytes that were read already; `choose_server` returns the TLS
/// configuration for the server name of the client.
pub async fn accept(
    socket: Socket,
    mut received: Vec<u8>,
    choose_server: impl FnOnce(Option<&str>) -> Option<Arc<ServerTls>>,
) -> Result<(Box<dyn SecureStream>, TlsInfo), AcceptError> {
    let accepted = read_client_hello(&socket, &mut received).await?;
    let client_hello = accepted.client_hello();
    let server = choose_server(client_hello.server_name()).filter(|server| !server.rejects_handshakes);
    let Some(server) = server else {
        send_alert(&socket, UNRECOGNIZED_NAME);
        return Err(AcceptError::Rejected);
    };
    let offer = ClientOffer::from_client_hello(&client_hello);
    drop(accepted);
    let permit = HandshakePermit::acquire().await;
    wait_for_server_hello_quota().await;
    let connection = UnbufferedServerConnection::new(server.config_for(&offer.ciphers))
        .map_err(|error| AcceptError::Protocol(error.to_string()))?;
    let stream = TlsStream::new(socket, RustlsConnection::Server(connection), received);
    poll_fn(|cx| match permit.poll_evicted(cx) {
        Poll::Ready(()) => Poll::Ready(Err(AcceptError::Evicted)),
        Poll::Pending => stream.poll_handshake(cx).map_err(handshake_error),
    })
    .await?;
    let info = stream.with_connection(|connection| TlsInfo::new(connection.common(), server, offer));
    Ok((Box::new(stream), info))
}

fn handshake_error(error: io::Error) -> AcceptError {
    match error.kind() {
        io::ErrorKind::InvalidData => AcceptError::Protocol(error.to_string()),
        _ => AcceptError::Disconnected(error),
    }
}

/// Fatal alerts (RFC 8446 6) as plaintext records.
const UNEXPECTED_MESSAGE: &[u8] = &[21, 3, 3, 0, 2, 2, 10];
const UNRECOGNIZED_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];
const ILLEGAL_PARAMETER: &[u8] = &[21, 3, 3, 0, 2, 2, 47];
const RECORD_OVERFLOW: &[u8] = &[21, 3, 3, 0, 2, 2, 22];
const PROTOCOL_VERSION: &[u8] = &[21, 3, 1, 0, 2, 2, 70];

/// Sends an alert, if the socket is writable.
fn send_alert(socket: &Socket, alert: &[u8]) {
    let _ = socket.poll_write(&mut Context::from_waker(Waker::noop()), alert);
}

/// Reads until the ClientHello is complete, and parses it. All bytes stay in `received`.
async fn read_client_hello(socket: &Socket, received: &mut Vec<u8>) -> Result<Accepted, AcceptError> {
    let mut scanner = HelloScanner::default();
    let reject = |alert: &[u8], reason: &str| {
        send_alert(socket, alert);
        Err(AcceptError::Protocol(reason.to_owned()))
    };
    loop {
        match scanner.scan(received) {
            ScanResult::Complete => return parse_client_hello(socket, received),
            ScanResult::RecordTooLong => return reject(RECORD_OVERFLOW, "record too long"),
            ScanResult::MessageTooLong => return reject(ILLEGAL_PARAMETER, "ClientHello too long"),
            ScanResult::Incomplete if received.len() > HELLO_BYTES_MAX => {
                return reject(ILLEGAL_PARAMETER, "ClientHello in too many records");
            }
            ScanResult::Incomplete => {}
        }
        let mut buf = [0; READ_BYTES];
        let count = poll_fn(|cx| socket.poll_read(cx, &mut buf)).await.map_err(AcceptError::Disconnected)?;
        if count == 0 {
            return Err(AcceptError::Disconnected(io::ErrorKind::UnexpectedEof.into()));
        }
        received.extend(buf.iter().take(count));
    }
}

/// Parses the complete first message. rustls reads it only here, once, however many pieces it came in.
fn parse_client_hello(socket: &Socket, received: &[u8]) -> Result<Accepted, AcceptError> {
    let mut acceptor = Acceptor::default();
    let mut unread = received;
    while !unread.is_empty() {
        if acceptor.read_tls(&mut unread).is_err() {
            break;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok(accepted),
            Ok(None) => {}
            // rustls would report another difference of an old version first.
            Err(_) if is_before_tls12(received) => {
                send_alert(socket, PROTOCOL_VERSION);
                return Err(AcceptError::Protocol("unsupported protocol".to_owned()));
            }
            Err((error, mut alert)) => {
                let mut bytes = Vec::new();
                let _ = alert.write_all(&mut bytes);
                send_alert(socket, if bytes.is_empty() { ILLEGAL_PARAMETER } else { &bytes });
                return Err(AcceptError::Protocol(error.to_string()));
            }
        }
    }
    send_alert(socket, UNEXPECTED_MESSAGE);
    Err(AcceptError::Protocol("the first message is no ClientHello".to_owned()))
}

/// Whether a ClientHello is of a version before TLS 1.2.
fn is_before_tls12(received: &[u8]) -> bool {
    matches!(received, [22, _, _, _, _, 1, _, _, _, 3, 0..=2, ..])
}

/// Finds the end of a ClientHello by the headers of the records and of the message. Each byte is scanned once.
#[derive(Default)]
struct HelloScanner {
    /// Bytes scanned.
    at: usize,
    /// Bytes of the current record that are not scanned.
    record_left: usize,
    /// Bytes of the message scanned, and its header.
    message_bytes: usize,
    message_header: [u8; 4],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ScanResult {
    Incomplete,
    /// The message is complete, or is no ClientHello.
    Complete,
    RecordTooLong,
    MessageTooLong,
}

impl HelloScanner {
    /// Scans the bytes that were added to `received` since the last call.
    fn scan(&mut self, received: &[u8]) -> ScanResult {
        loop {
            let Some(unread) = received.get(self.at..) else { return ScanResult::Incomplete };
            if self.record_left == 0 {
                let Some([kind, _, _, high, low]) = unread.first_chunk::<5>() else { return ScanResult::Incomplete };
                let length = u16::from_be_bytes([*high, *low]);
                if *kind != 22 || length == 0 {
                    return ScanResult::Complete;
                }
                if length > RECORD_BYTES_MAX {
                    return ScanResult::RecordTooLong;
                }
                self.at += 5;
                self.record_left = usize::from(length);
                continue;
            }
            let count = self.record_left.min(unread.len());
            if count == 0 {
                return ScanResult::Incomplete;
            }
            let header_left = self.message_header.iter_mut().skip(self.message_bytes);
            header_left.zip(unread.iter().take(count)).for_each(|(to, from)| *to = *from);
            self.at += count;
            self.record_left -= count;
            self.message_bytes += count;
            let [kind, length @ ..] = self.message_header;
            let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            match self.message_bytes {
                1.. if kind != 1 => return ScanResult::Complete,
                4.. if length > HELLO_BYTES_MAX => return ScanResult::MessageTooLong,
                4.. if self.message_bytes >= 4 + length => return ScanResult::Complete,
                _ => {}
            }
        }
    }
}

thread_local! {
    /// An event-loop iteration, and the ServerHellos in it.
    static SERVER_HELLOS: Cell<(u32, u32)> = const { Cell::new((0, 0)) };
    static HANDSHAKES: RefCell<Handshakes> = RefCell::default();
}

/// Waits for an event-loop iteration in which another ServerHello is allowed.
async fn wait_for_server_hello_quota() {
    loop {
        let (tick, count) = SERVER_HELLOS.get();
        let count = if tick == executor::tick() { count } else { 0 };
        if count < SERVER_HELLOS_PER_TICK {
            return SERVER_HELLOS.set((executor::tick(), count + 1));
        }
        executor::yield_now().await;
    }
}

/// The handshakes of a worker.
#[derive(Default)]
struct Handshakes {
    /// Those with a permit, and since when they have it.
    pending: ByNumber<(Millis, Rc<PermitState>)>,
    /// Those that wait for a permit.
    waiting: ByNumber<Waker>,
    last_number: u64,
}

/// Entries in the order of their numbers: the oldest is first.
type ByNumber<T> = Vec<(u64, T)>;

fn insert<T>(entries: &mut ByNumber<T>, number: u64, value: T) {
    remove(entries, number);
    entries.insert(entries.partition_point(|(known, _)| *known < number), (number, value));
}

fn remove<T>(entries: &mut ByNumber<T>, number: u64) {
    if let Ok(at) = entries.binary_search_by_key(&number, |(known, _)| *known) {
        entries.remove(at);
    }
}

#[derive(Default)]
struct PermitState {
    is_evicted: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

/// The permit for a pending handshake, or a request for one. Dropping it releases it.
struct HandshakePermit {
    number: u64,
    state: Rc<PermitState>,
}

impl HandshakePermit {
    /// Waits for a permit. The newest request is served first: in a flood, a queue would only serve clients that have given
    /// up or never meant to finish.
    async fn acquire() -> Self {
        let number = HANDSHAKES.with_borrow_mut(|handshakes| {
            handshakes.last_number += 1;
            handshakes.last_number
        });
        let permit = Self { number, state: Rc::default() };
        let timer = Timer::new();
        poll_fn(|cx| HANDSHAKES.with_borrow_mut(|handshakes| handshakes.poll_acquire(&permit, cx, &timer))).await;
        permit
    }

    /// Ready once the permit was given to a newer handshake.
    fn poll_evicted(&self, cx: &Context<'_>) -> Poll<()> {
        if self.state.is_evicted.get() {
            return Poll::Ready(());
        }
        self.state.waker.set(Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl Handshakes {
    /// Ready once `permit` is granted. Only the newest of the waiting requests evicts others.
    fn poll_acquire(&mut self, permit: &HandshakePermit, cx: &mut Context<'_>, timer: &Timer) -> Poll<()> {
        let is_newest = self.waiting.last().is_none_or(|(newest, _)| permit.number >= *newest);
        if !is_newest || self.pending.len() >= PENDING_HANDSHAKES_MAX {
            insert(&mut self.waiting, permit.number, cx.waker().clone());
        }
        if !is_newest {
            return Poll::Pending;
        }
        while self.pending.len() >= PENDING_HANDSHAKES_MAX {
            let is_flood = self.waiting.len() > PENDING_HANDSHAKES_MAX;
            let eviction_age = if is_flood { EVICTION_AGE_IN_FLOOD } else { EVICTION_AGE };
            let Some((_, (since, _))) = self.pending.first() else { break };
            let age = Duration::from_millis(executor::now().saturating_sub(*since));
            if age < eviction_age {
                timer.set(eviction_age - age);
                ready!(timer.poll_due(cx));
            }
            let (_, (_, oldest)) = self.pending.remove(0);
            oldest.is_evicted.set(true);
            oldest.waker.take().into_iter().for_each(Waker::wake);
        }
        remove(&mut self.waiting, permit.number);
        insert(&mut self.pending, permit.number, (executor::now(), permit.state.clone()));
        self.wake_newest();
        Poll::Ready(())
    }

    fn wake_newest(&self) {
        self.waiting.last().into_iter().for_each(|(_, waker)| waker.wake_by_ref());
    }
}

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        let _ = HANDSHAKES.try_with(|handshakes| {
            let mut handshakes = handshakes.try_borrow_mut().ok()?;
            remove(&mut handshakes.pending, self.number);
            remove(&mut handshakes.waiting, self.number);
            handshakes.wake_newest();
            Some(())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scans `bytes` in pieces of `step`: the first result other than `Incomplete`, and after how many bytes it came.
    fn scan(bytes: &[u8], step: usize) -> (ScanResult, usize) {
        let mut scanner = HelloScanner::default();
        let ends = (0..bytes.len()).step_by(step).map(|start| (start + step).min(bytes.len()));
        let mut results = ends.map(|end| (scanner.scan(&bytes[..end]), end));
        results.find(|(result, _)| *result != ScanResult::Incomplete).unwrap_or((ScanResult::Incomplete, bytes.len()))
    }

    #[test]
    fn a_client_hello_is_complete_at_its_last_byte() {
        let hello = &[22, 3, 1, 0, 9, 1, 0, 0, 5, 1, 2, 3, 4, 5][..];
        // In two records, the first of which ends in the header of the message.
        let split = &[22, 3, 1, 0, 2, 1, 0, 22, 3, 1, 0, 7, 0, 5, 1, 2, 3, 4, 5][..];
        for bytes in [hello, split] {
            for step in 1..=bytes.len() {
                assert_eq!(scan(bytes, step), (ScanResult::Complete, bytes.len()), "{step}");
                assert_eq!(scan(&bytes[..bytes.len() - 1], step).0, ScanResult::Incomplete, "{step}");
            }
        }
        for (bytes, expected, at) in [
            (&b"GET / HTTP/1.1"[..], ScanResult::Complete, 5),
            (&[0x80, 0x2e, 1, 3, 1], ScanResult::Complete, 5),
            (&[22, 3, 1, 0, 0], ScanResult::Complete, 5),
            (&[22, 3, 1, 0xff, 0xff], ScanResult::RecordTooLong, 5),
            (&[22, 3, 1, 0x40, 1], ScanResult::RecordTooLong, 5),
            (&[22, 3, 1, 0, 4, 2, 0, 0, 9], ScanResult::Complete, 6),
            (&[22, 3, 1, 2, 0, 1, 0, 0x80, 1], ScanResult::MessageTooLong, 9),
            (&[22, 3, 1, 2, 0, 1, 0xff, 0, 0], ScanResult::MessageTooLong, 9),
            (&[22, 3, 1, 0, 1, 1, 22, 3, 1, 0, 3, 0, 0x80, 1, 9], ScanResult::MessageTooLong, 14),
        ] {
            assert_eq!(scan(bytes, 1), (expected, at), "{bytes:?}");
            assert_eq!(scan(bytes, bytes.len()).0, expected, "{bytes:?}");
        }
    }
}
