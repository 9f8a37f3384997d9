//! Bytes both ways between two streams until both have ended: what a connection becomes after a 101.
//!
//! One small future and nothing else: bytes pass through the worker's scratch buffer, one recv and one send a hop. Only
//! what a receiver would not take yet is held, at most one scratch buffer a direction, and its sender is not read
//! meanwhile. The end of one side is passed on as a half-close, a reset as a reset.
//!
//! A worker that stops may [`drain`] its tunnels: each is closed at a time of its own, with a WebSocket Close frame where
//! that fits between two frames.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::http1::websocket::{self, FrameScanner};
use crate::runtime::executor::{self, Millis, Timer, millis};
use crate::runtime::handover::{HandoverDecoder, HandoverEncoder};
use crate::runtime::socket::Socket;
use crate::runtime::stream::Stream;

/// How long the other side may go on after one has ended.
const HALF_CLOSED: Duration = Duration::from_secs(30);

/// How long a tunnel that we close waits for both sides to close as well.
pub const FAREWELL: Duration = Duration::from_secs(1);

thread_local! {
    /// When the tunnels of this worker are closed: from, and until.
    static DRAIN: Cell<Option<(Millis, Millis)>> = const { Cell::new(None) };
}

/// Tunnels that were to be closed go on after all.
pub fn go_on() {
    DRAIN.set(None);
}

/// Closes the tunnels of this worker, spread over `window`: their clients would all come back at once.
pub fn drain(window: Duration) {
    let now = executor::now();
    DRAIN.set(Some((now, now + millis(window))));
    executor::wake_all();
}

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides ended.
    Closed,
    /// Nothing moved for as long as the configuration allows.
    Idle,
    /// We closed it.
    Drained,
    ClientFailed,
    UpstreamFailed,
}

/// What a tunnel moved, and how it ended.
#[derive(Clone, Copy, Debug)]
pub struct TunnelStats {
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
        if (self.idle, half, send) == (None, None, None) {
            return None; // as most often
        }
        [self.idle, half, send].into_iter().flatten().min()
    }
}

/// One direction.
struct Half {
    /// What the receiver would not take yet.
    held: Vec<u8>,
    state: State,
    moved: u64,
    /// Where the sender's frames stand.
    frames: FrameScanner,
}

#[derive(PartialEq, Eq)]
enum State {
    Flowing,
    /// The sender has ended; what is held goes first.
    Ending,
    Done,
}

/// Why a direction broke: on which of its sides.
enum FailedSide {
    Source,
    Sink,
}

impl Half {
    fn with(early: Vec<u8>, mut frames: FrameScanner) -> Self {
        frames.advance(&early);
        Self { held: early, state: State::Flowing, moved: 0, frames }
    }

    fn pack(&self, packer: &mut HandoverEncoder) {
        packer.bytes(&self.held);
        packer.u8(match self.state {
            State::Flowing => 0,
            State::Ending => 1,
            State::Done => 2,
        });
        packer.u64(self.moved);
        packer.option_u64(self.frames.remaining_bytes());
    }

    fn unpack(parcel: &mut HandoverDecoder) -> Option<Self> {
        let held = parcel.bytes()?;
        let state = match parcel.u8()? {
            0 => State::Flowing,
            1 => State::Ending,
            _ => State::Done,
        };
        Some(Self {
            held,
            state,
            moved: parcel.u64()?,
            frames: FrameScanner::from_remaining_bytes(parcel.option_u64()?),
        })
    }

    /// Ends the direction from our side, with a Close frame if it has room for one.
    fn close(&mut self, key: Option<[u8; 4]>) {
        if self.state == State::Flowing {
            if self.frames.is_at_boundary() {
                self.held.extend_from_slice(&websocket::going_away_frame(key));
            }
            self.state = State::Ending;
        }
    }

    /// Moves what can be moved; ready when the end was passed on.
    fn poll(&mut self, cx: &mut Context<'_>, from: &Stream, to: &Stream) -> Poll<Result<(), FailedSide>> {
        loop {
            ready!(self.poll_held(cx, to))?;
            match self.state {
                State::Done => return Poll::Ready(Ok(())),
                State::Ending => {
                    // A receiver that is gone already has ended anyway.
                    let _ = ready!(to.poll_finish(cx));
                    self.state = State::Done;
                }
                State::Flowing => {
                    // Most often one direction has nothing. (A session has work of its own to do.)
                    if from.is_plain() {
                        ready!(from.poll_readable(cx));
                    }
                    let count = ready!(executor::with_scratch(|scratch| self.poll_hop(cx, scratch, from, to)))?;
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
    ) -> Poll<Result<usize, FailedSide>> {
        let count = ready!(from.poll_read(cx, scratch)).map_err(|_| FailedSide::Source)?;
        let bytes = scratch.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.frames.advance(bytes);
        let written = match to.poll_write(cx, bytes) {
            Poll::Ready(written) => written.map_err(|_| FailedSide::Sink)?,
            Poll::Pending => 0,
        };
        self.moved += written as u64;
        self.held.extend_from_slice(bytes.get(written..).unwrap_or_default());
        Poll::Ready(Ok(count))
    }

    fn poll_held(&mut self, cx: &mut Context<'_>, to: &Stream) -> Poll<Result<(), FailedSide>> {
        while !self.held.is_empty() {
            let written = ready!(to.poll_write(cx, &self.held)).map_err(|_| FailedSide::Sink)?;
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
    /// When the worker closes it, if it does.
    closes: Option<Millis>,
}

impl Tunnel {
    /// `early` bytes were read before: from the client, and from the upstream. `frames` is how both begin.
    pub fn new(
        client: Stream,
        upstream: Stream,
        early: (Vec<u8>, Vec<u8>),
        frames: FrameScanner,
        limits: Limits,
    ) -> Self {
        for stream in [&client, &upstream] {
            stream.socket().release();
            stream.socket().watch_peer();
        }
        Self {
            client,
            upstream,
            up: Half::with(early.0, frames),
            down: Half::with(early.1, frames),
            limits,
            timer: Timer::new(),
            last: (0, executor::now()),
            closes: None,
        }
    }

    /// Whether another program could go on with it: its streams are no more than descriptors.
    pub fn can_leave(&self) -> bool {
        self.client.is_plain() && self.upstream.is_plain()
    }

    /// Leaves the tunnel to another program: descriptors, what is held, and where it stands.
    pub fn pack(self, packer: &mut HandoverEncoder) -> io::Result<()> {
        let (client, upstream) = (self.client.into_fd()?, self.upstream.into_fd()?);
        packer.fd(client);
        packer.fd(upstream);
        self.up.pack(packer);
        self.down.pack(packer);
        packer.duration(self.limits.idle);
        packer.duration(self.limits.send);
        Ok(())
    }

    /// What [`Tunnel::pack`] left; an error, if its sockets can't be watched.
    pub fn unpack(parcel: &mut HandoverDecoder) -> Option<io::Result<Self>> {
        let (client, upstream) = (parcel.fd()?, parcel.fd()?);
        let (up, down) = (Half::unpack(parcel)?, Half::unpack(parcel)?);
        let limits = Limits { idle: parcel.duration()?, send: parcel.duration()? };
        let sockets = Socket::new(client).and_then(|client| Ok((client, Socket::upstream(upstream)?)));
        Some(sockets.map(|(client, upstream)| Self {
            client: Stream::Plain(client),
            upstream: Stream::Plain(upstream),
            up,
            down,
            limits,
            timer: Timer::new(),
            last: (0, executor::now()),
            closes: None,
        }))
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Some(drain) = DRAIN.get() {
            self.close_in_time(drain);
        }
        let upwards = self.up.poll(cx, &self.client, &self.upstream);
        let downwards = self.down.poll(cx, &self.upstream, &self.client);
        match (upwards, downwards) {
            (Poll::Ready(Err(FailedSide::Source)), _) | (_, Poll::Ready(Err(FailedSide::Sink))) => {
                Poll::Ready(End::ClientFailed)
            }
            (Poll::Ready(Err(FailedSide::Sink)), _) | (_, Poll::Ready(Err(FailedSide::Source))) => {
                Poll::Ready(End::UpstreamFailed)
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) if self.closes.is_some_and(|at| at <= executor::now()) => {
                self.poll_farewell(cx)
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Closed),
            _ => self.poll_still(cx),
        }
    }

    /// Chooses a time to close, and closes when it has come.
    fn close_in_time(&mut self, (from, until): (Millis, Millis)) {
        let at = *self.closes.get_or_insert_with(|| fastrand::u64(from..=until));
        if at <= executor::now() {
            self.up.close(Some(fastrand::u32(..).to_ne_bytes()));
            self.down.close(None);
        }
    }

    /// Takes what still comes, so that closing does not take our last words from their receivers.
    fn poll_farewell(&self, cx: &mut Context<'_>) -> Poll<End> {
        let over = self.closes.unwrap_or(0) + millis(FAREWELL);
        self.timer.set(Duration::from_millis(over.saturating_sub(executor::now())));
        let mut open = false;
        for stream in [&self.client, &self.upstream] {
            open |= loop {
                match executor::with_scratch(|scratch| stream.poll_read(cx, scratch)) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(_) => break false,
                    Poll::Pending => break true,
                }
            };
        }
        if open { self.timer.poll_due(cx).map(|()| End::Drained) } else { Poll::Ready(End::Drained) }
    }

    /// Ready when nothing has moved for too long.
    fn poll_still(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Some(at) = self.closes {
            // What is held then has as long as a farewell to go.
            let at = if at <= executor::now() { at + millis(FAREWELL) } else { at };
            self.timer.set(Duration::from_millis(at.saturating_sub(executor::now())));
            return self.timer.poll_due(cx).map(|()| End::Drained);
        }
        let half_closed = self.up.state == State::Done || self.down.state == State::Done;
        let Some(limit) = self.limits.now(half_closed, !self.up.held.is_empty()) else { return Poll::Pending };
        // Activity stores a number; the timer looks at it when it goes off.
        let moved = self.up.moved + self.down.moved;
        if moved != self.last.0 {
            self.last = (moved, executor::now());
        }
        let since = Duration::from_millis(executor::now().saturating_sub(self.last.1));
        self.timer.set(limit.saturating_sub(since));
        self.timer.poll_due(cx).map(|()| if half_closed { End::Closed } else { End::Idle })
    }
}

impl Future for Tunnel {
    type Output = TunnelStats;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TunnelStats> {
        let this = self.get_mut();
        let end = ready!(this.poll_end(cx));
        if matches!(end, End::ClientFailed | End::UpstreamFailed) {
            this.client.abort();
            this.upstream.abort();
        }
        Poll::Ready(TunnelStats { end, to_client: this.down.moved, to_upstream: this.up.moved })
    }
}
