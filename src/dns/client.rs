//! A DNS client for `resolver`: queries over UDP, and over TCP if a response is truncated.
//!
//! Against forged responses each query has a random id, and a connected socket with a port chosen by the kernel. Servers are
//! queried in their order: the next one when the previous one does not respond in time or fails.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_lite::future::zip;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::dns::message::{self, DnsResponse, DomainName, Question, RecordType, ResolvedAddrs};
use crate::runtime::executor::{self, Elapsed, Timer};
use crate::runtime::io_error;
use crate::runtime::socket::{Addr, Endpoint, Socket, UdpSocket};

/// How long to wait for a response over UDP before the next server is queried too.
const UDP_TIMEOUT: Duration = Duration::from_secs(2);
/// The same for a single server: it may be slow, and retries would make it slower.
const UDP_TIMEOUT_SINGLE: Duration = Duration::from_secs(5);
const TCP_TIMEOUT: Duration = Duration::from_secs(5);
/// The timeout of a lookup with all its queries.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(30);
/// CNAMEs that are followed by further queries.
const CNAMES_MAX: usize = 16;

/// The directive `resolver`, or the resolver of the system. Equal ones share the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolver {
    /// Name servers in the order of queries. Without any, the system resolves names.
    pub servers: Vec<Endpoint>,
    /// Overrides the TTL of responses.
    pub valid: Option<Duration>,
    pub ipv4: bool,
    pub ipv6: bool,
}

impl Resolver {
    /// The resolver of the system, which does not report TTLs.
    pub fn system(valid: Option<Duration>) -> Self {
        Self { servers: Vec::new(), valid, ipv4: true, ipv6: true }
    }

    pub fn is_system(&self) -> bool {
        self.servers.is_empty()
    }
}

/// Why a name could not be resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResolveError {
    /// The response code of a name server.
    Rcode(u8),
    Timeout,
    /// An error of the connection to a server, or of the system's resolver.
    Other(String),
}

impl ResolveError {
    /// Whether the name is known to have no addresses, so that cached ones are outdated.
    pub fn is_negative(&self) -> bool {
        matches!(self, Self::Rcode(message::NXDOMAIN))
    }

    /// Whether a name server responded.
    pub fn is_response(&self) -> bool {
        matches!(self, Self::Rcode(_))
    }
}

impl fmt::Display for ResolveError {
    /// Writes nginx's texts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Other(reason) => return f.write_str(reason),
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

/// The address families to look up.
#[derive(Clone, Copy)]
pub struct AddrFamilies {
    pub ipv4: bool,
    pub ipv6: bool,
}

/// Looks up the addresses of `host`, and their TTL in seconds.
///
/// # Errors
/// A failure for one address family is a failure of the lookup: otherwise peers would come and go with it.
pub async fn look_up(
    host: &str,
    servers: &[SocketAddr],
    families: AddrFamilies,
) -> Result<(Vec<IpAddr>, u32), ResolveError> {
    let Some(mut name) = message::parse_name(host) else { return Err(ResolveError::Rcode(message::NXDOMAIN)) };
    let follow_cnames = async {
        let mut ttl = u32::MAX;
        for _ in 0..CNAMES_MAX {
            let ipv4 = query(&name, RecordType::A, servers, families.ipv4);
            let ipv6 = query(&name, RecordType::Aaaa, servers, families.ipv6);
            let (ipv4, ipv6) = zip(ipv4, ipv6).await;
            let (ipv4, ipv6) = (ipv4?, ipv6?);
            ttl = ttl.min(ipv4.ttl).min(ipv6.ttl);
            let addrs = [ipv4.addrs, ipv6.addrs].concat();
            if !addrs.is_empty() {
                return Ok((addrs, ttl));
            }
            match ipv6.cname.or(ipv4.cname) {
                Some(cname) => name = *cname,
                None => break,
            }
        }
        Err(ResolveError::Rcode(message::NXDOMAIN))
    };
    Timer::new().within(LOOKUP_TIMEOUT, pin!(follow_cnames)).await.unwrap_or(Err(ResolveError::Timeout))
}

/// Queries one server after the other, repeatedly. A slow server can still respond to an earlier query; a server that has
/// failed is not queried again.
async fn query(
    name: &DomainName,
    rtype: RecordType,
    servers: &[SocketAddr],
    is_wanted: bool,
) -> Result<ResolvedAddrs, ResolveError> {
    let no_addresses = ResolvedAddrs { ttl: u32::MAX, ..ResolvedAddrs::default() };
    if !is_wanted {
        return Ok(no_addresses);
    }
    let timer = Timer::new();
    let mut queries: Vec<Query<'_>> = servers
        .iter()
        .map(|server| Query { server: *server, question: Question { id: random_id(), name, rtype }, socket: None })
        .collect();
    let mut error = ResolveError::Other("no name servers".to_owned());
    while !queries.is_empty() {
        let mut next = queries.remove(0);
        let sent = next.send().await;
        let timeout = if queries.is_empty() { UDP_TIMEOUT_SINGLE } else { UDP_TIMEOUT };
        // All others are sent again before this one.
        queries.push(next);
        let received = match sent {
            Ok(()) => timer.within(timeout, pin!(receive_first(&queries))).await,
            Err(error) => Ok((queries.len() - 1, Err(error))),
        };
        let Ok((index, mut response)) = received else { continue };
        if let (Ok(DnsResponse::Truncated), Some(query)) = (&response, queries.get(index)) {
            let timed_out = |Elapsed| io::Error::from(io::ErrorKind::TimedOut);
            response = timer
                .within(TCP_TIMEOUT, pin!(query_by_tcp(&query.question, query.server)))
                .await
                .map_err(timed_out)
                .and_then(|response| response);
        }
        error = match response {
            Ok(DnsResponse::Addresses(addresses)) => return Ok(addresses),
            Ok(DnsResponse::Error(message::NXDOMAIN)) => return Ok(no_addresses),
            Ok(DnsResponse::Error(code)) => ResolveError::Rcode(code),
            Ok(DnsResponse::Truncated) => ResolveError::Other("response truncated over TCP".to_owned()),
            Err(error) => ResolveError::Other(io_error::describe(&error)),
        };
        let failed = queries.remove(index);
        if let ResolveError::Other(reason) = &mut error {
            reason.insert_str(0, &format!("{}: ", failed.server));
        }
    }
    Err(error)
}

/// The query to one server over UDP.
struct Query<'n> {
    server: SocketAddr,
    question: Question<'n>,
    /// Connected by the first [`send`](Self::send).
    socket: Option<UdpSocket>,
}

impl Query<'_> {
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

    /// Receives the response. UdpSocket that don't match the query are dropped.
    fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<DnsResponse>> {
        let Some(socket) = &self.socket else { return Poll::Pending };
        executor::with_scratch(|scratch| {
            loop {
                let count = ready!(socket.poll_receive(cx, scratch))?;
                let response = scratch.get(..count).and_then(|bytes| self.question.parse_response(bytes));
                if let Some(response) = response {
                    return Poll::Ready(Ok(response));
                }
            }
        })
    }
}

/// Waits for the first response to any of the queries, and returns the index of its query.
async fn receive_first(queries: &[Query<'_>]) -> (usize, io::Result<DnsResponse>) {
    poll_fn(|cx| {
        let received = queries.iter().enumerate().find_map(|(index, query)| match query.poll_receive(cx) {
            Poll::Ready(response) => Some((index, response)),
            Poll::Pending => None,
        });
        received.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// An id that can't be guessed, except right after boot, while the kernel has no random numbers.
fn random_id() -> u16 {
    let mut bytes = [0; 2];
    match getrandom(&mut bytes, GetRandomFlags::NONBLOCK) {
        Ok(2) => u16::from_ne_bytes(bytes),
        _ => fastrand::u16(..),
    }
}

/// Sends a query over TCP, where each message has its length in front (RFC 1035 4.2.2).
async fn query_by_tcp(question: &Question<'_>, server: SocketAddr) -> io::Result<DnsResponse> {
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
