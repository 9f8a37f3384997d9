//! Bytes both ways between two streams until both have ended: what a connection becomes after a 101.
//!
//! One small future and nothing else: bytes pass through the worker's scratch buffer, one recv and one send a hop. Only
//! what a receiver would not take yet is held, at most one scratch buffer a direction, and its sender is not read
//! meanwhile. The end of one side is passed on as a half-close, a reset as a reset.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::reactor::{self, Millis, Timer};
use crate::wire::Stream;

/// How long the other side may go on after one has ended.
const HALF_CLOSED: Duration = Duration::from_secs(30);

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides ended.
    Closed,
    /// Nothing moved for as long as the configuration allows.
    Idle,
    ClientFailed,
    UpstreamFailed,
}

/// What a tunnel moved, and how it ended.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    pub end: End,
    pub to_client: u64,
    pub to_upstream: u64,
}

/// How long a tunnel may stand still; `None` is for ever, while the kernel watches for dead peers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `proxy_read_timeout`, where it is set.
    pub idle: Option<Duration>,
    /// `proxy_send_timeout`, where it is set: for an upstream that takes nothing.
    pub send: Option<Duration>,
}

impl Limits {
    fn now(self, half_closed: bool, upstream_stuck: bool) -> Option<Duration> {
        let half = half_closed.then_some(HALF_CLOSED);
        let send = self.send.filter(|_| upstream_stuck);
        [self.idle, half, send].into_iter().flatten().min()
    }
}

/// One direction.
#[derive(Default)]
struct Half {
    /// What the receiver would not take yet.
    held: Vec<u8>,
    state: State,
    moved: u64,
}

#[derive(Default, PartialEq, Eq)]
enum State {
    #[default]
    Flowing,
    /// The sender has ended; what is held goes first.
    Ending,
    Done,
}

/// Why a direction broke: on which of its sides.
enum Broken {
    Source,
    Sink,
}

impl Half {
    fn with(early: Vec<u8>) -> Self {
        Self { held: early, ..Self::default() }
    }

    /// Moves what can be moved; ready when the end was passed on.
    fn poll(&mut self, cx: &mut Context<'_>, from: &Stream, to: &Stream) -> Poll<Result<(), Broken>> {
        loop {
            ready!(self.poll_held(cx, to))?;
            match self.state {
                State::Done => return Poll::Ready(Ok(())),
                State::Ending => {
                    // A receiver that is gone already has ended anyway.
                    let _ = to.finish();
                    self.state = State::Done;
                }
                State::Flowing => {
                    let count = ready!(reactor::scratch(|scratch| self.poll_hop(cx, scratch, from, to)))?;
                    if count == 0 {
                        self.state = State::Ending;
                    }
                }
            }
        }
    }

    /// One read and one write.
    fn poll_hop(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        from: &Stream,
        to: &Stream,
    ) -> Poll<Result<usize, Broken>> {
        let count = ready!(from.poll_read(cx, scratch)).map_err(|_| Broken::Source)?;
        let bytes = scratch.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let written = match to.poll_write(cx, bytes) {
            Poll::Ready(written) => written.map_err(|_| Broken::Sink)?,
            Poll::Pending => 0,
        };
        self.moved += written as u64;
        self.held.extend_from_slice(bytes.get(written..).unwrap_or_default());
        Poll::Ready(Ok(count))
    }

    fn poll_held(&mut self, cx: &mut Context<'_>, to: &Stream) -> Poll<Result<(), Broken>> {
        while !self.held.is_empty() {
            let written = ready!(to.poll_write(cx, &self.held)).map_err(|_| Broken::Sink)?;
            self.moved += written as u64;
            if written == self.held.len() {
                self.held = Vec::new();
            } else {
                self.held.drain(..written);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// A tunnel: a future that relays between `client` and `upstream` until both have ended.
pub struct Tunnel {
    client: Stream,
    upstream: Stream,
    up: Half,
    down: Half,
    limits: Limits,
    timer: Timer,
    /// How much had moved when something moved last, and when that was.
    last: (u64, Millis),
}

impl Tunnel {
    /// `early` bytes were read before: from the client, and from the upstream.
    pub fn new(client: Stream, upstream: Stream, early: (Vec<u8>, Vec<u8>), limits: Limits) -> Self {
        for stream in [&client, &upstream] {
            stream.socket().release();
            stream.socket().watch_peer();
        }
        Self {
            client,
            upstream,
            up: Half::with(early.0),
            down: Half::with(early.1),
            limits,
            timer: Timer::new(),
            last: (0, reactor::now()),
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let upwards = self.up.poll(cx, &self.client, &self.upstream);
        let downwards = self.down.poll(cx, &self.upstream, &self.client);
        match (upwards, downwards) {
            (Poll::Ready(Err(Broken::Source)), _) | (_, Poll::Ready(Err(Broken::Sink))) => {
                Poll::Ready(End::ClientFailed)
            }
            (Poll::Ready(Err(Broken::Sink)), _) | (_, Poll::Ready(Err(Broken::Source))) => {
                Poll::Ready(End::UpstreamFailed)
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Closed),
            _ => self.poll_still(cx),
        }
    }

    /// Ready when nothing has moved for too long.
    fn poll_still(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let half_closed = self.up.state == State::Done || self.down.state == State::Done;
        let Some(limit) = self.limits.now(half_closed, !self.up.held.is_empty()) else { return Poll::Pending };
        // Activity stores a number; the timer looks at it when it goes off.
        let moved = self.up.moved + self.down.moved;
        if moved != self.last.0 {
            self.last = (moved, reactor::now());
        }
        let since = Duration::from_millis(reactor::now().saturating_sub(self.last.1));
        self.timer.set(limit.saturating_sub(since));
        self.timer.poll_due(cx).map(|()| if half_closed { End::Closed } else { End::Idle })
    }
}

impl Future for Tunnel {
    type Output = Summary;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Summary> {
        let this = self.get_mut();
        let end = ready!(this.poll_end(cx));
        if matches!(end, End::ClientFailed | End::UpstreamFailed) {
            this.client.socket().abort();
            this.upstream.socket().abort();
        }
        Poll::Ready(Summary { end, to_client: this.down.moved, to_upstream: this.up.moved })
    }
}
