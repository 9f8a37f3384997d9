//! A tunnel relays bytes both ways between two streams until both have ended: what a connection becomes after a 101.
//!
//! It is one small future. Bytes pass through the worker's scratch buffer, with one recv and one send per hop. Only
//! what a receiver does not accept yet is stored, at most one scratch buffer per direction, and its sender is not
//! read meanwhile. EOF of one side is forwarded as a half-close, a failure as a reset.
//!
//! A worker that shuts down may [`drain`] its tunnels: each is closed at a random time within a window, with a
//! WebSocket Close frame if the direction is between two frames.

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

/// How long the other direction may stay open after one has ended.
const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a tunnel that is closed here waits for both sides to close.
pub const CLOSE_GRACE: Duration = Duration::from_secs(1);

thread_local! {
    /// The window within which the tunnels of this worker are closed.
    static DRAIN: Cell<Option<(Millis, Millis)>> = const { Cell::new(None) };
}

/// Keeps the tunnels open that [`drain`] has not closed yet.
pub fn cancel_drain() {
    DRAIN.set(None);
}

/// Closes the tunnels of this worker, spread over `window`, so that their clients don't reconnect all at once.
pub fn drain(window: Duration) {
    let now = executor::now();
    DRAIN.set(Some((now, now + millis(window))));
    executor::wake_all();
}

/// The reason why a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both directions have ended.
    Closed,
    /// Nothing was transferred for as long as [`Timeouts`] allow.
    Idle,
    /// Closed by [`drain`].
    Drained,
    ClientFailed,
    UpstreamFailed,
}

/// The result of a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct TunnelStats {
    pub end: End,
    pub bytes_to_client: u64,
    pub bytes_to_upstream: u64,
}

/// Timeouts of a tunnel; `None` is unlimited, as the kernel detects dead peers (keepalive).
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Without a transferred byte in either direction.
    pub idle: Option<Duration>,
    /// While the upstream accepts no more bytes.
    pub send: Option<Duration>,
}

impl Timeouts {
    fn current(self, half_closed: bool, upstream_stuck: bool) -> Option<Duration> {
        let half = half_closed.then_some(HALF_CLOSE_TIMEOUT);
        let send = self.send.filter(|_| upstream_stuck);
        if (self.idle, half, send) == (None, None, None) {
            return None; // the common case
        }
        [self.idle, half, send].into_iter().flatten().min()
    }
}

/// One direction of a tunnel.
struct HalfTunnel {
    /// Bytes that the receiver has not accepted yet.
    pending: Vec<u8>,
    state: DirectionState,
    bytes_moved: u64,
    /// The position in the sender's WebSocket frames.
    frames: FrameScanner,
}

#[derive(PartialEq, Eq)]
enum DirectionState {
    Open,
    /// EOF of the sender; the pending bytes are sent first.
    SourceClosed,
    Done,
}

/// The side of a direction that failed.
enum FailedSide {
    Source,
    Sink,
}

impl HalfTunnel {
    fn new(early: Vec<u8>, mut frames: FrameScanner) -> Self {
        frames.advance(&early);
        Self { pending: early, state: DirectionState::Open, bytes_moved: 0, frames }
    }

    fn encode(&self, encoder: &mut HandoverEncoder) {
        encoder.bytes(&self.pending);
        encoder.u8(match self.state {
            DirectionState::Open => 0,
            DirectionState::SourceClosed => 1,
            DirectionState::Done => 2,
        });
        encoder.u64(self.bytes_moved);
        encoder.option_u64(self.frames.remaining_bytes());
    }

    fn decode(decoder: &mut HandoverDecoder) -> Option<Self> {
        let pending = decoder.bytes()?;
        let state = match decoder.u8()? {
            0 => DirectionState::Open,
            1 => DirectionState::SourceClosed,
            _ => DirectionState::Done,
        };
        Some(Self {
            pending,
            state,
            bytes_moved: decoder.u64()?,
            frames: FrameScanner::from_remaining_bytes(decoder.option_u64()?),
        })
    }

    /// Ends the direction, with a Close frame if it is between two frames.
    fn close(&mut self, key: Option<[u8; 4]>) {
        if self.state == DirectionState::Open {
            if self.frames.is_at_boundary() {
                self.pending.extend_from_slice(&websocket::going_away_frame(key));
            }
            self.state = DirectionState::SourceClosed;
        }
    }

    /// Transfers what can be transferred; ready when EOF was forwarded.
    fn poll(&mut self, cx: &mut Context<'_>, from: &Stream, to: &Stream) -> Poll<Result<(), FailedSide>> {
        loop {
            ready!(self.poll_flush(cx, to))?;
            match self.state {
                DirectionState::Done => return Poll::Ready(Ok(())),
                DirectionState::SourceClosed => {
                    // A failure means that the receiver has closed already.
                    let _ = ready!(to.poll_shutdown(cx));
                    self.state = DirectionState::Done;
                }
                DirectionState::Open => {
                    // Most often one direction is idle. (An encrypted stream has work of its own to do.)
                    if from.is_plain() {
                        ready!(from.poll_readable(cx));
                    }
                    let count = ready!(executor::with_scratch(|scratch| self.poll_copy(cx, scratch, from, to)))?;
                    if count == 0 {
                        self.state = DirectionState::SourceClosed;
                    }
                }
            }
        }
    }

    /// Reads once and writes once.
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

/// A future that relays between `client` and `upstream` until both directions have ended.
pub struct Tunnel {
    client: Stream,
    upstream: Stream,
    up: HalfTunnel,
    down: HalfTunnel,
    timeouts: Timeouts,
    timer: Timer,
    /// The bytes transferred at the last activity, and its time.
    last_activity: (u64, Millis),
    /// The time at which [`drain`] closes the tunnel.
    close_at: Option<Millis>,
}

impl Tunnel {
    /// Creates a tunnel. `early` are bytes that were read before, from the client and from the upstream; `frames` is
    /// the initial position in the frames of both.
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

    /// Whether the tunnel can be handed over: its streams are not encrypted.
    pub fn can_hand_over(&self) -> bool {
        self.client.is_plain() && self.upstream.is_plain()
    }

    /// Encodes the tunnel for a hand-over: descriptors, pending bytes and state.
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

    /// Decodes what [`Tunnel::encode`] wrote. An error inside: its sockets can't be registered.
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

    /// Chooses a random time within the window, and closes when it has come.
    fn close_when_due(&mut self, (from, until): (Millis, Millis)) {
        let at = *self.close_at.get_or_insert_with(|| fastrand::u64(from..=until));
        if at <= executor::now() {
            self.up.close(Some(fastrand::u32(..).to_ne_bytes()));
            self.down.close(None);
        }
    }

    /// Reads and discards until both sides have closed: closing a socket with unread data would reset it, and the
    /// peer could lose the last bytes sent.
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

    /// Ready when a timeout has passed.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Some(at) = self.close_at {
            // Pending bytes have the same grace period.
            let at = if at <= executor::now() { at + millis(CLOSE_GRACE) } else { at };
            self.timer.set(Duration::from_millis(at.saturating_sub(executor::now())));
            return self.timer.poll_due(cx).map(|()| End::Drained);
        }
        let half_closed = self.up.state == DirectionState::Done || self.down.state == DirectionState::Done;
        let Some(limit) = self.timeouts.current(half_closed, !self.up.pending.is_empty()) else { return Poll::Pending };
        // Activity only stores a number, which is checked when the timer fires.
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
