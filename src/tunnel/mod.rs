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
const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a tunnel that we close waits for both sides to close as well.
pub const CLOSE_GRACE: Duration = Duration::from_secs(1);

thread_local! {
    /// When the tunnels of this worker are closed: from, and until.
    static DRAIN: Cell<Option<(Millis, Millis)>> = const { Cell::new(None) };
}

/// Tunnels that were to be closed go on after all.
pub fn cancel_drain() {
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
    pub bytes_to_client: u64,
    pub bytes_to_upstream: u64,
}

/// How long a tunnel may stand still; `None` is for ever, while the kernel watches for dead peers.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// `proxy_read_timeout`, where it is set.
    pub idle: Option<Duration>,
    /// `proxy_send_timeout`, where it is set: for an upstream that takes nothing.
    pub send: Option<Duration>,
}

impl Timeouts {
    fn current(self, half_closed: bool, upstream_stuck: bool) -> Option<Duration> {
        let half = half_closed.then_some(HALF_CLOSE_TIMEOUT);
        let send = self.send.filter(|_| upstream_stuck);
        if (self.idle, half, send) == (None, None, None) {
            return None; // as most often
        }
        [self.idle, half, send].into_iter().flatten().min()
    }
}

/// One direction.
struct HalfTunnel {
    /// What the receiver would not take yet.
    pending: Vec<u8>,
    state: State,
    bytes_moved: u64,
    /// Where the sender's frames stand.
    frames: FrameScanner,
}

#[derive(PartialEq, Eq)]
enum State {
    Open,
    /// The sender has ended; what is held goes first.
    SourceClosed,
    Done,
}

/// Why a direction broke: on which of its sides.
enum FailedSide {
    Source,
    Sink,
}

impl HalfTunnel {
    fn new(early: Vec<u8>, mut frames: FrameScanner) -> Self {
        frames.advance(&early);
        Self { pending: early, state: State::Open, bytes_moved: 0, frames }
    }

    fn encode(&self, encoder: &mut HandoverEncoder) {
        encoder.bytes(&self.pending);
        encoder.u8(match self.state {
            State::Open => 0,
            State::SourceClosed => 1,
            State::Done => 2,
        });
        encoder.u64(self.bytes_moved);
        encoder.option_u64(self.frames.remaining_bytes());
    }

    fn decode(decoder: &mut HandoverDecoder) -> Option<Self> {
        let pending = decoder.bytes()?;
        let state = match decoder.u8()? {
            0 => State::Open,
            1 => State::SourceClosed,
            _ => State::Done,
        };
        Some(Self {
            pending,
            state,
            bytes_moved: decoder.u64()?,
            frames: FrameScanner::from_remaining_bytes(decoder.option_u64()?),
        })
    }

    /// Ends the direction from our side, with a Close frame if it has room for one.
    fn close(&mut self, key: Option<[u8; 4]>) {
        if self.state == State::Open {
            if self.frames.is_at_boundary() {
                self.pending.extend_from_slice(&websocket::going_away_frame(key));
            }
            self.state = State::SourceClosed;
        }
    }

    /// Moves what can be moved; ready when the end was passed on.
    fn poll(&mut self, cx: &mut Context<'_>, from: &Stream, to: &Stream) -> Poll<Result<(), FailedSide>> {
        loop {
            ready!(self.poll_flush(cx, to))?;
            match self.state {
                State::Done => return Poll::Ready(Ok(())),
                State::SourceClosed => {
                    // A receiver that is gone already has ended anyway.
                    let _ = ready!(to.poll_shutdown(cx));
                    self.state = State::Done;
                }
                State::Open => {
                    // Most often one direction has nothing. (A session has work of its own to do.)
                    if from.is_plain() {
                        ready!(from.poll_readable(cx));
                    }
                    let count = ready!(executor::with_scratch(|scratch| self.poll_copy(cx, scratch, from, to)))?;
                    if count == 0 {
                        self.state = State::SourceClosed;
                    }
                }
            }
        }
    }

    /// One read and one write.
    fn poll_copy(
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
        self.bytes_moved += written as u64;
        self.pending.extend_from_slice(bytes.get(written..).unwrap_or_default());
        Poll::Ready(Ok(count))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, to: &Stream) -> Poll<Result<(), FailedSide>> {
        while !self.pending.is_empty() {
            let written = ready!(to.poll_write(cx, &self.pending)).map_err(|_| FailedSide::Sink)?;
            self.bytes_moved += written as u64;
            if written == self.pending.len() {
                self.pending = Vec::new();
            } else {
                self.pending.drain(..written);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// A tunnel: a future that relays between `client` and `upstream` until both have ended.
pub struct Tunnel {
    client: Stream,
    upstream: Stream,
    up: HalfTunnel,
    down: HalfTunnel,
    timeouts: Timeouts,
    timer: Timer,
    /// How much had moved when something moved last, and when that was.
    last_activity: (u64, Millis),
    /// When the worker closes it, if it does.
    close_at: Option<Millis>,
}

impl Tunnel {
    /// `early` bytes were read before: from the client, and from the upstream. `frames` is how both begin.
    pub fn new(
        client: Stream,
        upstream: Stream,
        early: (Vec<u8>, Vec<u8>),
        frames: FrameScanner,
        timeouts: Timeouts,
    ) -> Self {
        for stream in [&client, &upstream] {
            stream.socket().clear_wakers();
            stream.socket().enable_keepalive();
        }
        Self {
            client,
            upstream,
            up: HalfTunnel::new(early.0, frames),
            down: HalfTunnel::new(early.1, frames),
            timeouts,
            timer: Timer::new(),
            last_activity: (0, executor::now()),
            close_at: None,
        }
    }

    /// Whether another program could go on with it: its streams are no more than descriptors.
    pub fn can_hand_over(&self) -> bool {
        self.client.is_plain() && self.upstream.is_plain()
    }

    /// Leaves the tunnel to another program: descriptors, what is held, and where it stands.
    pub fn encode(self, encoder: &mut HandoverEncoder) -> io::Result<()> {
        let (client, upstream) = (self.client.into_fd()?, self.upstream.into_fd()?);
        encoder.fd(client);
        encoder.fd(upstream);
        self.up.encode(encoder);
        self.down.encode(encoder);
        encoder.duration(self.timeouts.idle);
        encoder.duration(self.timeouts.send);
        Ok(())
    }

    /// What [`Tunnel::encode`] left; an error, if its sockets can't be watched.
    pub fn decode(decoder: &mut HandoverDecoder) -> Option<io::Result<Self>> {
        let (client, upstream) = (decoder.fd()?, decoder.fd()?);
        let (up, down) = (HalfTunnel::decode(decoder)?, HalfTunnel::decode(decoder)?);
        let timeouts = Timeouts { idle: decoder.duration()?, send: decoder.duration()? };
        let sockets = Socket::new(client).and_then(|client| Ok((client, Socket::for_upstream(upstream)?)));
        Some(sockets.map(|(client, upstream)| Self {
            client: Stream::Plain(client),
            upstream: Stream::Plain(upstream),
            up,
            down,
            timeouts,
            timer: Timer::new(),
            last_activity: (0, executor::now()),
            close_at: None,
        }))
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Some(drain) = DRAIN.get() {
            self.close_when_due(drain);
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
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) if self.close_at.is_some_and(|at| at <= executor::now()) => {
                self.poll_linger(cx)
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Closed),
            _ => self.poll_idle(cx),
        }
    }

    /// Chooses a time to close, and closes when it has come.
    fn close_when_due(&mut self, (from, until): (Millis, Millis)) {
        let at = *self.close_at.get_or_insert_with(|| fastrand::u64(from..=until));
        if at <= executor::now() {
            self.up.close(Some(fastrand::u32(..).to_ne_bytes()));
            self.down.close(None);
        }
    }

    /// Takes what still comes, so that closing does not take our last words from their receivers.
    fn poll_linger(&self, cx: &mut Context<'_>) -> Poll<End> {
        let over = self.close_at.unwrap_or(0) + millis(CLOSE_GRACE);
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
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Some(at) = self.close_at {
            // What is held then has as long as a farewell to go.
            let at = if at <= executor::now() { at + millis(CLOSE_GRACE) } else { at };
            self.timer.set(Duration::from_millis(at.saturating_sub(executor::now())));
            return self.timer.poll_due(cx).map(|()| End::Drained);
        }
        let half_closed = self.up.state == State::Done || self.down.state == State::Done;
        let Some(limit) = self.timeouts.current(half_closed, !self.up.pending.is_empty()) else { return Poll::Pending };
        // Activity stores a number; the timer looks at it when it goes off.
        let bytes_moved = self.up.bytes_moved + self.down.bytes_moved;
        if bytes_moved != self.last_activity.0 {
            self.last_activity = (bytes_moved, executor::now());
        }
        let since = Duration::from_millis(executor::now().saturating_sub(self.last_activity.1));
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
        Poll::Ready(TunnelStats { end, bytes_to_client: this.down.bytes_moved, bytes_to_upstream: this.up.bytes_moved })
    }
}
