//! Asks name servers for the addresses of a name: over UDP, and over TCP where an answer does not fit.
//!
//! Each question has a number of its own that cannot be guessed, and a socket of its own, which the kernel gives a port of its
//! choice and lets hear that server alone. The servers are asked in their order: the next one when one is silent or has
//! trouble. Nothing here waits longer than its time.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_lite::future::zip;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::dns::message::{self, Addresses, DomainName, Question, RecordType, Response};
use crate::runtime::executor::{self, Elapsed, Timer};
use crate::runtime::io_error;
use crate::runtime::socket::{Addr, Endpoint, Socket, UdpSocket};

/// How long a server may take for an answer in a datagram before the next one is asked as well.
const DATAGRAM: Duration = Duration::from_secs(2);
/// The same where there is no other: it may be slow, and questions that come again make it slower.
const DATAGRAM_ALONE: Duration = Duration::from_secs(5);
/// How long it may take for one over TCP.
const STREAM: Duration = Duration::from_secs(5);
/// How long all of it may take.
const LOOKUP: Duration = Duration::from_secs(30);
/// Aliases that are asked for one after the other.
const ALIASES_MAX: usize = 16;

/// How addresses of names are looked up: the directive `resolver`, or the system. The cache is common to equal ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolver {
    /// Name servers, in the order in which they are asked; if there are none, the system is asked.
    pub servers: Vec<Endpoint>,
    /// How long an answer is believed; if it is not said, as long as the server says.
    pub valid: Option<Duration>,
    pub ipv4: bool,
    pub ipv6: bool,
}

impl Resolver {
    /// The one of the system, whose answers don't say how long they may be believed.
    pub fn system(valid: Option<Duration>) -> Self {
        Self { servers: Vec::new(), valid, ipv4: true, ipv6: true }
    }

    pub fn is_system(&self) -> bool {
        self.servers.is_empty()
    }
}

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResolveError {
    /// A server says so: a response code.
    Rcode(u8),
    Timeout,
    /// The servers can't be asked, or the system says why.
    Other(String),
}

impl ResolveError {
    /// There is no such name, or no address of it: what was known of it before is no longer true.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Rcode(message::NXDOMAIN))
    }
}

impl fmt::Display for ResolveError {
    /// In nginx's words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Other(why) => return f.write_str(why),
            Self::Timeout => return f.write_str("110: Operation timed out"),
            Self::Rcode(1) => "Format error",
            Self::Rcode(2) => "Server failure",
            Self::Rcode(3) => "Host not found",
            Self::Rcode(4) => "Unimplemented",
            Self::Rcode(5) => "Operation refused",
            Self::Rcode(_) => "Unknown DNS error",
        };
        let Self::Rcode(code) = self else { return Ok(()) };
        write!(f, "{code}: {text}")
    }
}

/// Which addresses are wanted.
#[derive(Clone, Copy)]
pub struct Wanted {
    pub ipv4: bool,
    pub ipv6: bool,
}

/// The addresses of `host`, and for how many seconds they may be believed.
///
/// # Errors
/// Why there is none. An answer that lacks one of the families because a server had trouble is not taken for one: peers
/// would come and go with it.
pub async fn look_up(host: &str, servers: &[SocketAddr], wanted: Wanted) -> Result<(Vec<IpAddr>, u32), ResolveError> {
    let Some(mut name) = message::parse_name(host) else { return Err(ResolveError::Rcode(message::NXDOMAIN)) };
    let follow = async {
        let mut ttl = u32::MAX;
        for _ in 0..ALIASES_MAX {
            let (v4, v6) = zip(
                ask(&name, RecordType::A, servers, wanted.ipv4),
                ask(&name, RecordType::Aaaa, servers, wanted.ipv6),
            )
            .await;
            let (v4, v6) = (v4?, v6?);
            ttl = ttl.min(v4.ttl).min(v6.ttl);
            let addrs = [v4.addrs, v6.addrs].concat();
            if !addrs.is_empty() {
                return Ok((addrs, ttl));
            }
            match v6.cname.or(v4.cname) {
                Some(cname) => name = *cname,
                None => break,
            }
        }
        Err(ResolveError::Rcode(message::NXDOMAIN))
    };
    Timer::new().within(LOOKUP, pin!(follow)).await.unwrap_or(Err(ResolveError::Timeout))
}

/// Asks one server after the other, round and round. The one that answers may be one that was asked before and is slow;
/// one that has trouble is asked no more.
async fn ask(
    name: &DomainName,
    rtype: RecordType,
    servers: &[SocketAddr],
    wanted: bool,
) -> Result<Addresses, ResolveError> {
    let nothing = Addresses { ttl: u32::MAX, ..Addresses::default() };
    if !wanted {
        return Ok(nothing);
    }
    let timer = Timer::new();
    let mut lines: Vec<Line<'_>> = servers
        .iter()
        .map(|server| Line { server: *server, question: Question { id: random(), name, rtype }, socket: None })
        .collect();
    let mut trouble = ResolveError::Other("there is nobody to ask".to_owned());
    while !lines.is_empty() {
        let mut line = lines.remove(0);
        let sent = line.send().await;
        let patience = if lines.is_empty() { DATAGRAM_ALONE } else { DATAGRAM };
        // It is the last one to be asked again.
        lines.push(line);
        let heard = match sent {
            Ok(()) => timer.within(patience, pin!(hear(&lines))).await,
            Err(error) => Ok((lines.len() - 1, Err(error))),
        };
        let Ok((at, mut answer)) = heard else { continue };
        if let (Ok(Response::Truncated), Some(line)) = (&answer, lines.get(at)) {
            let late = |Elapsed| io::Error::from(io::ErrorKind::TimedOut);
            answer = timer
                .within(STREAM, pin!(by_stream(&line.question, line.server)))
                .await
                .map_err(late)
                .and_then(|answer| answer);
        }
        trouble = match answer {
            Ok(Response::Addresses(found)) => return Ok(found),
            Ok(Response::Error(message::NXDOMAIN)) => return Ok(nothing),
            Ok(Response::Error(code)) => ResolveError::Rcode(code),
            Ok(Response::Truncated) => ResolveError::Other("an answer that is truncated over TCP".to_owned()),
            Err(error) => ResolveError::Other(io_error::describe(&error)),
        };
        let line = lines.remove(at);
        if let ResolveError::Other(why) = &mut trouble {
            why.insert_str(0, &format!("{}: ", line.server));
        }
    }
    Err(trouble)
}

/// A server, and how it is asked.
struct Line<'n> {
    server: SocketAddr,
    question: Question<'n>,
    /// Once it was asked.
    socket: Option<UdpSocket>,
}

impl Line<'_> {
    async fn send(&mut self) -> io::Result<()> {
        let message = self.question.encode().ok_or(io::ErrorKind::InvalidInput)?;
        if self.socket.is_none() {
            self.socket = Some(UdpSocket::connect(&self.server)?);
        }
        if let Some(socket) = &self.socket {
            poll_fn(|cx| socket.poll_send(cx, &message)).await?;
        }
        Ok(())
    }

    /// What is no answer to the question is not heard.
    fn poll_hear(&self, cx: &mut Context<'_>) -> Poll<io::Result<Response>> {
        let Some(socket) = &self.socket else { return Poll::Pending };
        executor::with_scratch(|scratch| {
            loop {
                let count = ready!(socket.poll_receive(cx, scratch))?;
                let answer = scratch.get(..count).and_then(|bytes| self.question.parse_response(bytes));
                if let Some(answer) = answer {
                    return Poll::Ready(Ok(answer));
                }
            }
        })
    }
}

/// The first answer, and which of the servers it is of.
async fn hear(lines: &[Line<'_>]) -> (usize, io::Result<Response>) {
    poll_fn(|cx| {
        let heard = lines.iter().enumerate().find_map(|(at, line)| match line.poll_hear(cx) {
            Poll::Ready(answer) => Some((at, answer)),
            Poll::Pending => None,
        });
        heard.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// A number that cannot be guessed; while the system has none yet, right after it was started, any.
fn random() -> u16 {
    let mut bytes = [0; 2];
    match getrandom(&mut bytes, GetRandomFlags::NONBLOCK) {
        Ok(2) => u16::from_ne_bytes(bytes),
        _ => fastrand::u16(..),
    }
}

/// Messages have their length before them (RFC 1035 4.2.2).
async fn by_stream(question: &Question<'_>, server: SocketAddr) -> io::Result<Response> {
    let message = question.encode().ok_or(io::ErrorKind::InvalidInput)?;
    let socket = Socket::connect(&Addr::Ip(server), None).await?;
    let sent = [&(message.len() as u16).to_be_bytes(), message.as_slice()].concat();
    let mut written = 0;
    while let Some(rest) = sent.get(written..).filter(|rest| !rest.is_empty()) {
        written += poll_fn(|cx| socket.poll_write(cx, rest)).await?;
    }
    let mut received = Vec::new();
    loop {
        let count = poll_fn(|cx| {
            executor::with_scratch(|scratch| {
                let read = socket.poll_read(cx, scratch);
                if let Poll::Ready(Ok(count)) = read {
                    received.extend_from_slice(scratch.get(..count).unwrap_or_default());
                }
                read
            })
        })
        .await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let [high, low, rest @ ..] = received.as_slice() else { continue };
        if let Some(bytes) = rest.get(..u16::from_be_bytes([*high, *low]).into()) {
            return question.parse_response(bytes).ok_or_else(|| io::ErrorKind::InvalidData.into());
        }
    }
}
