//! How a client's connection becomes a secured one.
//!
//! What a client makes us do is bounded in each way: until its first message is whole it has a buffer of that size and
//! nothing else; a worker answers few first messages in one turn, so that others have theirs; and of handshakes that
//! were answered and wait for the client there are so many, the oldest of which give way to new ones.

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
use crate::tls::stream::{Session, Side};

/// Bytes of a client's first message.
const HELLO_BYTES_MAX: usize = 32 * 1024;
/// Bytes of a record that nothing has sealed (RFC 8446 5.1).
const RECORD_BYTES_MAX: u16 = 1 << 14;
/// Bytes that are read of it at once.
const HELLO_BYTES_AT_ONCE: usize = 4 * 1024;
/// First messages that a worker answers in one turn: each costs up to a few milliseconds on a small processor.
const ANSWERS_PER_TURN: u32 = 2;
/// Handshakes of a worker that were answered and are not done.
const UNDER_WAY_MAX: usize = 512;
/// How long one of them is safe from giving way; and how long when more wait than there are.
const SAFE: Duration = Duration::from_secs(5);
const SAFE_IN_FLOOD: Duration = Duration::from_secs(1);

/// Why there is no secured connection.
#[derive(Debug)]
pub enum Failure {
    /// The client has ended or broken the connection.
    Gone(io::Error),
    /// The name that it asked for gets no handshake.
    Rejected,
    /// It made way for others.
    Crowded,
    /// What it sent is against the rules, or we have nothing in common.
    Protocol(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("client closed connection while SSL handshaking")
            }
            Self::Gone(error) => write!(f, "SSL_do_handshake() failed ({error}) while SSL handshaking"),
            Self::Rejected => f.write_str("handshake rejected while SSL handshaking"),
            Self::Crowded => f.write_str("too many handshakes are not done: the oldest one ends"),
            Self::Protocol(why) => write!(f, "SSL_do_handshake() failed ({why}) while SSL handshaking"),
        }
    }
}

/// Makes the handshake with a client. `sealed` are the bytes that have come; `choose` gives the site for the name that
/// the client asks for.
pub async fn accept(
    socket: Socket,
    mut sealed: Vec<u8>,
    choose: impl FnOnce(Option<&str>) -> Option<Arc<ServerTls>>,
) -> Result<(Box<dyn SecureStream>, TlsInfo), Failure> {
    let accepted = read_hello(&socket, &mut sealed).await?;
    let hello = accepted.client_hello();
    let site = choose(hello.server_name()).filter(|site| !site.rejects);
    let Some(site) = site else {
        refuse(&socket, UNRECOGNIZED_NAME);
        return Err(Failure::Rejected);
    };
    let hello = ClientOffer::from_client_hello(&hello);
    drop(accepted);
    let place = HandshakePermit::take().await;
    turn_with_room().await;
    let connection = UnbufferedServerConnection::new(site.to(&hello.ciphers))
        .map_err(|error| Failure::Protocol(error.to_string()))?;
    let session = Session::new(socket, Side::Server(connection), sealed);
    poll_fn(|cx| match place.poll_lost(cx) {
        Poll::Ready(()) => Poll::Ready(Err(Failure::Crowded)),
        Poll::Pending => session.poll_handshake(cx).map_err(explain),
    })
    .await?;
    let secured = session.with_side(|side| TlsInfo::new(side.common(), site, hello));
    Ok((Box::new(session), secured))
}

fn explain(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::InvalidData => Failure::Protocol(error.to_string()),
        _ => Failure::Gone(error),
    }
}

/// Fatal alerts (RFC 8446 6) that nothing has sealed yet.
const UNEXPECTED_MESSAGE: &[u8] = &[21, 3, 3, 0, 2, 2, 10];
const UNRECOGNIZED_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];
const ILLEGAL_PARAMETER: &[u8] = &[21, 3, 3, 0, 2, 2, 47];
const RECORD_OVERFLOW: &[u8] = &[21, 3, 3, 0, 2, 2, 22];
const PROTOCOL_VERSION: &[u8] = &[21, 3, 1, 0, 2, 2, 70];

/// Sends an alert, if the socket takes it at once.
fn refuse(socket: &Socket, alert: &[u8]) {
    let _ = socket.poll_write(&mut Context::from_waker(Waker::noop()), alert);
}

/// Reads the client's first message. All that was read stays in `sealed`.
async fn read_hello(socket: &Socket, sealed: &mut Vec<u8>) -> Result<Accepted, Failure> {
    let mut scan = HelloScan::default();
    let fault = |alert: &[u8], why: &str| {
        refuse(socket, alert);
        Err(Failure::Protocol(why.to_owned()))
    };
    loop {
        match scan.look(sealed) {
            Look::Whole => return parse_hello(socket, sealed),
            Look::RecordTooLong => return fault(RECORD_OVERFLOW, "a record is too long"),
            Look::MessageTooLong => return fault(ILLEGAL_PARAMETER, "the first message is too long"),
            Look::Incomplete if sealed.len() > HELLO_BYTES_MAX => {
                return fault(ILLEGAL_PARAMETER, "the first message is in too many records");
            }
            Look::Incomplete => {}
        }
        let mut room = [0; HELLO_BYTES_AT_ONCE];
        let count = poll_fn(|cx| socket.poll_read(cx, &mut room)).await.map_err(Failure::Gone)?;
        if count == 0 {
            return Err(Failure::Gone(io::ErrorKind::UnexpectedEof.into()));
        }
        sealed.extend_from_slice(room.get(..count).unwrap_or_default());
    }
}

/// Parses the first message, which is whole, or finds out what is wrong with it: it is done once.
fn parse_hello(socket: &Socket, sealed: &[u8]) -> Result<Accepted, Failure> {
    let mut acceptor = Acceptor::default();
    let mut rest = sealed;
    while !rest.is_empty() {
        // An error comes again from what is asked next.
        if acceptor.read_tls(&mut rest).is_err() {
            break;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok(accepted),
            Ok(None) => {}
            // That they are old comes before what else old ones lack.
            Err(_) if is_old(sealed) => {
                refuse(socket, PROTOCOL_VERSION);
                return Err(Failure::Protocol("unsupported protocol".to_owned()));
            }
            Err((error, mut alert)) => {
                let mut bytes = Vec::new();
                let _ = alert.write_all(&mut bytes);
                refuse(socket, if bytes.is_empty() { ILLEGAL_PARAMETER } else { &bytes });
                return Err(Failure::Protocol(error.to_string()));
            }
        }
    }
    refuse(socket, UNEXPECTED_MESSAGE);
    Err(Failure::Protocol("the first message is no ClientHello".to_owned()))
}

/// Whether a first message is of a version before TLS 1.2.
fn is_old(sealed: &[u8]) -> bool {
    matches!(sealed, [22, _, _, _, _, 1, _, _, _, 3, 0..=2, ..])
}

/// What is known of a first message by the headers of its records and its own. Each byte is looked at once, however many
/// pieces it comes in.
#[derive(Default)]
struct HelloScan {
    /// Bytes that were looked at.
    at: usize,
    /// Bytes of the current record that are still to come.
    left: usize,
    /// Bytes of the message that have come, and the header that it begins with.
    message: usize,
    header: [u8; 4],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Incomplete,
    /// All of it is here, or it is no ClientHello.
    Whole,
    RecordTooLong,
    MessageTooLong,
}

impl HelloScan {
    /// Looks at what has come since the last look; `sealed` has all of it.
    fn look(&mut self, sealed: &[u8]) -> Look {
        loop {
            let rest = sealed.get(self.at..).unwrap_or_default();
            if self.left == 0 {
                let Some([kind, _, _, high, low]) = rest.first_chunk::<5>() else { return Look::Incomplete };
                let length = u16::from_be_bytes([*high, *low]);
                if *kind != 22 || length == 0 {
                    return Look::Whole;
                }
                if length > RECORD_BYTES_MAX {
                    return Look::RecordTooLong;
                }
                self.at += 5;
                self.left = usize::from(length);
                continue;
            }
            let count = self.left.min(rest.len());
            if count == 0 {
                return Look::Incomplete;
            }
            let missing = self.header.iter_mut().skip(self.message);
            missing.zip(rest.iter().take(count)).for_each(|(known, byte)| *known = *byte);
            self.at += count;
            self.left -= count;
            self.message += count;
            let [kind, size @ ..] = self.header;
            let size = size.iter().fold(0, |size, byte| size << 8 | usize::from(*byte));
            match self.message {
                1.. if kind != 1 => return Look::Whole,
                4.. if size > HELLO_BYTES_MAX => return Look::MessageTooLong,
                4.. if self.message >= 4 + size => return Look::Whole,
                _ => {}
            }
        }
    }
}

thread_local! {
    /// The turn, and how many answers it has seen.
    static ANSWERS: Cell<(u32, u32)> = const { Cell::new((0, 0)) };
    static UNDER_WAY: RefCell<UnderWay> = RefCell::default();
}

/// Waits for a turn that has room for another answer.
async fn turn_with_room() {
    loop {
        let (turn, answers) = ANSWERS.get();
        let answers = if turn == executor::tick() { answers } else { 0 };
        if answers < ANSWERS_PER_TURN {
            return ANSWERS.set((executor::tick(), answers + 1));
        }
        executor::yield_now().await;
    }
}

/// Handshakes that were answered and are not done, and those that wait for a place among them.
#[derive(Default)]
struct UnderWay {
    held: Numbered<(Millis, Rc<Holder>)>,
    waiting: Numbered<Waker>,
    next: u64,
}

/// In the order of their numbers: the oldest is first.
type Numbered<T> = Vec<(u64, T)>;

fn insert<T>(all: &mut Numbered<T>, number: u64, one: T) {
    remove(all, number);
    all.insert(all.partition_point(|(known, _)| *known < number), (number, one));
}

fn remove<T>(all: &mut Numbered<T>, number: u64) {
    if let Ok(at) = all.binary_search_by_key(&number, |(known, _)| *known) {
        all.remove(at);
    }
}

#[derive(Default)]
struct Holder {
    lost: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

/// One of the places of those that are under way, or the wish for one.
struct HandshakePermit {
    number: u64,
    holder: Rc<Holder>,
}

impl HandshakePermit {
    /// Waits for a place. Who asked last comes first: in a flood all could only wait for those that will never go on.
    async fn take() -> Self {
        let number = UNDER_WAY.with_borrow_mut(|under_way| {
            under_way.next += 1;
            under_way.next
        });
        let place = Self { number, holder: Rc::default() };
        let timer = Timer::new();
        poll_fn(|cx| UNDER_WAY.with_borrow_mut(|under_way| under_way.poll_room(&place, cx, &timer))).await;
        place
    }

    /// Ready when the place was given to another.
    fn poll_lost(&self, cx: &Context<'_>) -> Poll<()> {
        if self.holder.lost.get() {
            return Poll::Ready(());
        }
        self.holder.waker.set(Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl UnderWay {
    /// Ready when there is room, or was made; only the newest of those who wait makes some.
    fn poll_room(&mut self, place: &HandshakePermit, cx: &mut Context<'_>, timer: &Timer) -> Poll<()> {
        let is_newest = self.waiting.last().is_none_or(|(newest, _)| place.number >= *newest);
        if !is_newest || self.held.len() >= UNDER_WAY_MAX {
            insert(&mut self.waiting, place.number, cx.waker().clone());
        }
        if !is_newest {
            return Poll::Pending;
        }
        while self.held.len() >= UNDER_WAY_MAX {
            let safe = if self.waiting.len() > UNDER_WAY_MAX { SAFE_IN_FLOOD } else { SAFE };
            let Some((_, (since, _))) = self.held.first() else { break };
            let age = Duration::from_millis(executor::now().saturating_sub(*since));
            if age < safe {
                timer.set(safe - age);
                ready!(timer.poll_due(cx));
            }
            let (_, (_, holder)) = self.held.remove(0);
            holder.lost.set(true);
            holder.waker.take().into_iter().for_each(Waker::wake);
        }
        remove(&mut self.waiting, place.number);
        insert(&mut self.held, place.number, (executor::now(), place.holder.clone()));
        self.wake_newest();
        Poll::Ready(())
    }

    fn wake_newest(&self) {
        self.waiting.last().into_iter().for_each(|(_, waker)| waker.wake_by_ref());
    }
}

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        let _ = UNDER_WAY.try_with(|under_way| {
            let mut under_way = under_way.try_borrow_mut().ok()?;
            remove(&mut under_way.held, self.number);
            remove(&mut under_way.waiting, self.number);
            under_way.wake_newest();
            Some(())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found of `bytes` that come in pieces of `step`, and after how many of them.
    fn look(bytes: &[u8], step: usize) -> (Look, usize) {
        let mut scan = HelloScan::default();
        let ends = (0..bytes.len()).step_by(step).map(|start| (start + step).min(bytes.len()));
        let mut looks = ends.map(|end| (scan.look(&bytes[..end]), end));
        looks.find(|(look, _)| *look != Look::Incomplete).unwrap_or((Look::Incomplete, bytes.len()))
    }

    #[test]
    fn a_first_message_is_parsed_once_when_it_is_whole_or_odd() {
        let hello = &[22, 3, 1, 0, 9, 1, 0, 0, 5, 1, 2, 3, 4, 5][..];
        // In two records, the first of which ends in the header of the message.
        let torn = &[22, 3, 1, 0, 2, 1, 0, 22, 3, 1, 0, 7, 0, 5, 1, 2, 3, 4, 5][..];
        for whole in [hello, torn] {
            for step in 1..=whole.len() {
                assert_eq!(look(whole, step), (Look::Whole, whole.len()), "{step}");
                assert_eq!(look(&whole[..whole.len() - 1], step).0, Look::Incomplete, "{step}");
            }
        }
        for (odd, found, at) in [
            (&b"GET / HTTP/1.1"[..], Look::Whole, 5),
            (&[0x80, 0x2e, 1, 3, 1], Look::Whole, 5),
            (&[22, 3, 1, 0, 0], Look::Whole, 5),
            (&[22, 3, 1, 0xff, 0xff], Look::RecordTooLong, 5),
            (&[22, 3, 1, 0x40, 1], Look::RecordTooLong, 5),
            (&[22, 3, 1, 0, 4, 2, 0, 0, 9], Look::Whole, 6),
            (&[22, 3, 1, 2, 0, 1, 0, 0x80, 1], Look::MessageTooLong, 9),
            (&[22, 3, 1, 2, 0, 1, 0xff, 0, 0], Look::MessageTooLong, 9),
            (&[22, 3, 1, 0, 1, 1, 22, 3, 1, 0, 3, 0, 0x80, 1, 9], Look::MessageTooLong, 14),
        ] {
            assert_eq!(look(odd, 1), (found, at), "{odd:?}");
            assert_eq!(look(odd, odd.len()).0, found, "{odd:?}");
        }
    }
}
