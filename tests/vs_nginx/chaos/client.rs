//! The clients: tunnels, which are reopened when they break, and sequences of requests.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use smol::future::or;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::TcpStream;

use super::peers::Peers;

/// Longer than a proxy may take to try all peers.
const TIMEOUT: Duration = Duration::from_secs(25);

/// The kind of a request.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// A GET with an immediate response.
    Short,
    /// A GET with a slow response.
    Long,
    Post,
}

/// The results of one program.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) short: Outcome,
    pub(super) long: Outcome,
    pub(super) post: Outcome,
    pub(super) upgrades: Outcome,
    /// Broken tunnels of failed peers, and of healthy ones.
    tunnels_cut: Cell<usize>,
    pub(super) tunnels_lost: Cell<usize>,
}

#[derive(Default)]
pub(super) struct Outcome {
    /// The duration of each.
    good: RefCell<Vec<Duration>>,
    /// The number of failures by cause.
    failures: RefCell<Vec<(String, usize)>>,
}

impl Outcome {
    fn note(&self, began: Instant, result: &io::Result<()>) {
        let Err(why) = result else { return self.good.borrow_mut().push(began.elapsed()) };
        let why = why.to_string();
        let mut failures = self.failures.borrow_mut();
        match failures.iter_mut().find(|(known, _)| *known == why) {
            Some((_, count)) => *count += 1,
            None => failures.push((why, 1)),
        }
    }

    pub(super) fn failed(&self) -> usize {
        self.failures.borrow().iter().map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut good = self.good.borrow_mut();
        good.sort_unstable();
        let at = |part: usize| good.get((good.len() * part / 1000).min(good.len().saturating_sub(1)));
        let [p50, p99, p999] = [500, 990, 999].map(|part| at(part).copied().unwrap_or_default().as_millis());
        write!(f, "{} served ({p50}/{p99}/{p999} ms), {} failed", good.len(), self.failed())?;
        let failures = self.failures.borrow();
        if failures.is_empty() { Ok(()) } else { write!(f, " {failures:?}") }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { short, long, post, upgrades, tunnels_cut, tunnels_lost } = self;
        let (cut, lost) = (tunnels_cut.get(), tunnels_lost.get());
        write!(f, "GET {short}; long GET {long}; POST {post}; upgrades {upgrades}; tunnels {cut} cut, {lost} lost")
    }
}

/// Sends one request after the other, on the same connection as long as possible.
pub(super) async fn requests(addr: SocketAddr, kind: Kind, counts: &Counts, end: &AtomicBool) {
    let (line, outcome) = match kind {
        Kind::Short => ("GET /short HTTP/1.1\r\nHost: a\r\n\r\n", &counts.short),
        Kind::Long => ("GET /long HTTP/1.1\r\nHost: a\r\n\r\n", &counts.long),
        Kind::Post => ("POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", &counts.post),
    };
    let mut stream = None;
    while !end.load(Ordering::Relaxed) {
        let kept = match stream.take() {
            Some(kept) => kept,
            None => TcpStream::connect(addr).await.unwrap(),
        };
        let began = Instant::now();
        let asked = within(ask(kept, line.as_bytes())).await;
        let result = asked.map(|kept| stream = kept);
        outcome.note(began, &result);
    }
}

async fn ask(mut stream: TcpStream, request: &[u8]) -> io::Result<Option<TcpStream>> {
    stream.write_all(request).await?;
    let head = head(&mut stream).await?;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let mut body = vec![0; length.and_then(|length| length.parse().ok()).unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    if !head.starts_with("HTTP/1.1 200 ") || body.len() != 20_000 {
        return Err(io::Error::other(head.lines().next().unwrap_or_default().to_owned()));
    }
    Ok(Some(stream).filter(|_| !head.contains("Connection: close")))
}

/// Reads a head, byte by byte.
async fn head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).await?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

async fn within<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    or(future, async {
        smol::Timer::after(TIMEOUT).await;
        Err(io::Error::other("nothing for 25 s"))
    })
    .await
}

/// Echoes numbers through a tunnel; opens another one when it breaks.
pub(super) async fn tunnels(addr: SocketAddr, peers: &Peers, counts: &Counts, end: &AtomicBool) {
    while !end.load(Ordering::Relaxed) {
        let (began, before) = (Instant::now(), peers.failures());
        let opened = within(open(addr)).await;
        let (result, tunnel) = match opened {
            Ok(tunnel) => (Ok(()), Some(tunnel)),
            Err(error) => (Err(error), None),
        };
        counts.upgrades.note(began, &result);
        let Some((stream, port)) = tunnel else { continue };
        let peer = peers.number(&port);
        if echo_numbers(stream, end).await.is_err() {
            let kind = if peers.failures()[peer] == before[peer] { &counts.tunnels_lost } else { &counts.tunnels_cut };
            kind.set(kind.get() + 1);
        }
        pause(100).await;
    }
}

/// Opens a tunnel. Returns it with the port of its peer.
async fn open(addr: SocketAddr) -> io::Result<(TcpStream, String)> {
    const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(UPGRADE).await?;
    let head = head(&mut stream).await?;
    let name = head.lines().find_map(|line| line.strip_prefix("X-Name: "));
    match name.filter(|_| head.starts_with("HTTP/1.1 101 ")) {
        Some(name) => Ok((stream, name.to_owned())),
        None => Err(io::Error::other(head.lines().next().unwrap_or_default().to_owned())),
    }
}

async fn echo_numbers(mut stream: TcpStream, end: &AtomicBool) -> io::Result<()> {
    while !end.load(Ordering::Relaxed) {
        let sent = fastrand::u64(..).to_be_bytes();
        let mut back = [0; 8];
        within(async {
            stream.write_all(&sent).await?;
            stream.read_exact(&mut back).await
        })
        .await?;
        assert_eq!(sent, back, "other bytes came back");
        pause(1000).await;
    }
    Ok(())
}

/// Sleeps for at most this many milliseconds.
async fn pause(most: u64) {
    smol::Timer::after(Duration::from_millis(fastrand::u64(..most))).await;
}
