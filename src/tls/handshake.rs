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

use super::secured::{Hello, Secured};
use super::session::{Session, Side};
use super::site::Site;
use crate::reactor::{self, Millis, Timer};
use crate::socket::Socket;

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
///
/// # Errors
/// [`Failure`]; the client was told, as far as it listens.
pub async fn accept(
    socket: Socket,
    mut sealed: Vec<u8>,
    choose: impl FnOnce(Option<&str>) -> Option<Arc<Site>>,
) -> Result<(Session, Secured), Failure> {
    let accepted = read_hello(&socket, &mut sealed).await?;
    let hello = accepted.client_hello();
    let site = choose(hello.server_name()).filter(|site| !site.rejects);
    let Some(site) = site else {
        refuse(&socket, UNRECOGNIZED_NAME);
        return Err(Failure::Rejected);
    };
    let hello = Hello::of(&hello);
    drop(accepted);
    let place = Place::take().await;
    turn_with_room().await;
    let connection = UnbufferedServerConnection::new(site.to(&hello.ciphers))
        .map_err(|error| Failure::Protocol(error.to_string()))?;
    let session = Session::new(socket, Side::Server(connection), sealed);
    poll_fn(|cx| match place.poll_lost(cx) {
        Poll::Ready(()) => Poll::Ready(Err(Failure::Crowded)),
        Poll::Pending => session.poll_handshake(cx).map_err(explain),
    })
    .await?;
    let secured = session.with_side(|side| Secured::new(side.common(), site, hello));
    Ok((session, secured))
}

fn explain(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::InvalidData => Failure::Protocol(error.to_string()),
        _ => Failure::Gone(error),
    }
}

/// Fatal alerts (RFC 8446 6) that nothing has sealed yet.
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
    loop {
        if let [22, _, _, high, low, ..] = sealed.as_slice()
            && u16::from_be_bytes([*high, *low]) > RECORD_BYTES_MAX
        {
            refuse(socket, RECORD_OVERFLOW);
            return Err(Failure::Protocol("a record is too long".to_owned()));
        }
        if may_be_whole(sealed) {
            let mut acceptor = Acceptor::default();
            let mut rest = sealed.as_slice();
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
        }
        if sealed.len() > HELLO_BYTES_MAX {
            return Err(Failure::Protocol("the first message is too long".to_owned()));
        }
        let mut room = [0; HELLO_BYTES_AT_ONCE];
        let count = poll_fn(|cx| socket.poll_read(cx, &mut room)).await.map_err(Failure::Gone)?;
        if count == 0 {
            return Err(Failure::Gone(io::ErrorKind::UnexpectedEof.into()));
        }
        sealed.extend_from_slice(room.get(..count).unwrap_or_default());
    }
}

/// Whether a first message is of a version before TLS 1.2.
fn is_old(sealed: &[u8]) -> bool {
    matches!(sealed, [22, _, _, _, _, 1, _, _, _, 3, 0..=2, ..])
}

/// Whether a first message may be whole: a cheap look, so that one that comes byte by byte is not read anew with each.
/// What is no beginning of a handshake is to be looked at more closely at once.
fn may_be_whole(sealed: &[u8]) -> bool {
    let mut message = Vec::new();
    let mut rest = sealed;
    loop {
        let Some((header, after)) = rest.split_first_chunk::<5>() else {
            return rest.first().is_some_and(|kind| *kind != 22);
        };
        let [kind, _, _, high, low] = *header;
        let length = usize::from(high) << 8 | usize::from(low);
        if kind != 22 || length == 0 || length > usize::from(RECORD_BYTES_MAX) {
            return true;
        }
        let fragment = after.get(..length.min(after.len())).unwrap_or_default();
        let missing = 4usize.saturating_sub(message.len()).min(fragment.len());
        message.extend_from_slice(fragment.get(..missing).unwrap_or_default());
        message.resize(message.len() + fragment.len() - missing, 0);
        if let [kind, a, b, c, ..] = message.as_slice() {
            let needed = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if *kind != 1 || needed > HELLO_BYTES_MAX || message.len() >= 4 + needed {
                return true;
            }
        }
        rest = after.get(fragment.len()..).unwrap_or_default();
        if fragment.len() < length {
            return false;
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
        let answers = if turn == reactor::turn() { answers } else { 0 };
        if answers < ANSWERS_PER_TURN {
            return ANSWERS.set((reactor::turn(), answers + 1));
        }
        reactor::next_turn().await;
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
struct Place {
    number: u64,
    holder: Rc<Holder>,
}

impl Place {
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
    fn poll_room(&mut self, place: &Place, cx: &mut Context<'_>, timer: &Timer) -> Poll<()> {
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
            let age = Duration::from_millis(reactor::now().saturating_sub(*since));
            if age < safe {
                timer.set(safe - age);
                ready!(timer.poll_due(cx));
            }
            let (_, (_, holder)) = self.held.remove(0);
            holder.lost.set(true);
            holder.waker.take().into_iter().for_each(Waker::wake);
        }
        remove(&mut self.waiting, place.number);
        insert(&mut self.held, place.number, (reactor::now(), place.holder.clone()));
        self.wake_newest();
        Poll::Ready(())
    }

    fn wake_newest(&self) {
        self.waiting.last().into_iter().for_each(|(_, waker)| waker.wake_by_ref());
    }
}

impl Drop for Place {
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

    #[test]
    fn a_first_message_is_looked_at_when_it_is_whole_or_odd() {
        let hello = [22, 3, 1, 0, 9, 1, 0, 0, 5, 1, 2, 3, 4, 5];
        for end in 0..hello.len() {
            assert!(!may_be_whole(&hello[..end]), "{end}");
        }
        assert!(may_be_whole(&hello));
        // In two records, the first of which ends in the header of the message.
        let torn = [22, 3, 1, 0, 2, 1, 0, 22, 3, 1, 0, 7, 0, 5, 1, 2, 3, 4, 5];
        for end in 0..torn.len() {
            assert!(!may_be_whole(&torn[..end]), "{end}");
        }
        assert!(may_be_whole(&torn));
        for odd in [
            &[0x80, 0x2e][..],
            &[22, 3, 1, 0xff, 0xff],
            &[22, 3, 1, 0, 4, 2, 0, 0, 9],
            &[22, 3, 1, 2, 0, 1, 0xff, 0, 0],
        ] {
            assert!(may_be_whole(odd), "{odd:?}");
        }
    }
}
