//! The task that runs a tunnel: accounting, the access-log line when it ends, and hand-over on a binary upgrade.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use crate::config::{Level, Upstream};
use crate::http1::websocket::FrameScanner;
use crate::proxy::balance::{PeerLease, UpstreamState};
use crate::proxy::forward::UpgradedUpstream;
use crate::request::exchange::Exchange;
use crate::request::log::LineKind;
use crate::request::log::on_end::LogOnEnd;
use crate::runtime::handover::{self, HandoverDecoder, HandoverEncoder};
use crate::runtime::socket::{Addr, Endpoint};
use crate::runtime::stream::BufStream;
use crate::runtime::{executor, metrics};
use crate::server::worker::{ConnectionGuard, Worker};
use crate::tunnel::{End, Timeouts, Tunnel, TunnelStats};

/// What a tunnel needs of the exchange that opens it.
pub struct TunnelSetup {
    upstream: UpgradedUpstream,
    frames: FrameScanner,
    timeouts: Timeouts,
    log: Option<Box<LogOnEnd>>,
}

impl TunnelSetup {
    pub fn new(exchange: &mut Exchange, upstream: UpgradedUpstream) -> Self {
        let log = LogOnEnd::new(exchange, LineKind::Tunnel, Level::Info);
        let proxy = &exchange.settings().proxy;
        let timeouts = Timeouts { idle: proxy.tunnel_idle_timeout(), send: proxy.tunnel_send_timeout() };
        let frames = if upstream.is_websocket { FrameScanner::START } else { FrameScanner::UNKNOWN };
        Self { upstream, frames, timeouts, log }
    }

    /// Starts the tunnel on the client's connection.
    pub fn start(self, mut client: BufStream, guard: ConnectionGuard) {
        let UpgradedUpstream { stream, early, lease, .. } = self.upstream;
        let early = (client.take_buffered(), early);
        let tunnel = Tunnel::new(client.stream, stream, early, self.frames, self.timeouts);
        executor::spawn(TunnelTask::new(tunnel, self.log, lease, guard));
    }
}

/// A tunnel with what has to be done at its end. Written out rather than `async`, which would hold most of it twice.
struct TunnelTask {
    /// `None` after the hand-over.
    tunnel: Option<Tunnel>,
    log: Option<Box<LogOnEnd>>,
    /// The tunnel counts as a connection of its peer, and of the worker.
    lease: PeerLease,
    guard: ConnectionGuard,
    _open: metrics::TunnelGuard,
}

impl TunnelTask {
    fn new(tunnel: Tunnel, log: Option<Box<LogOnEnd>>, lease: PeerLease, guard: ConnectionGuard) -> Self {
        guard.worker().tunnel_begins();
        Self { tunnel: Some(tunnel), log, lease, guard, _open: metrics::TunnelGuard::open() }
    }

    /// Leaves the tunnel to the new binary, if that can resume it.
    fn hand_over(&mut self) {
        let Some(tunnel) = self.tunnel.take_if(|tunnel| tunnel.can_hand_over()) else { return };
        let mut encoder = HandoverEncoder::default();
        if tunnel.encode(&mut encoder).is_err() {
            return;
        }
        encoder.string(&self.lease.upstream());
        encoder.string(&self.lease.peer.addr);
        encoder.u8(self.log.is_some().into());
        let worker = self.guard.worker();
        if let Some(log) = self.log.take() {
            log.encode(&mut encoder, &worker.running().zones);
        }
        worker.add_to_hand_over(|all| all.entry(handover::TUNNEL, encoder));
    }
}

impl Drop for TunnelTask {
    fn drop(&mut self) {
        self.guard.worker().tunnel_ends();
    }
}

impl Future for TunnelTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.guard.worker().is_frozen() {
            this.hand_over();
        }
        let Some(tunnel) = &mut this.tunnel else { return Poll::Ready(()) };
        let stats = ready!(Pin::new(tunnel).poll(cx));
        if let Some(log) = this.log.take() {
            write_log(&log, &stats);
        }
        Poll::Ready(())
    }
}

fn write_log(log: &LogOnEnd, stats: &TunnelStats) {
    let message = match stats.end {
        End::Closed => None,
        End::Drained => Some("the tunnel was closed: the worker shuts down"),
        End::Idle => Some("upstream timed out (110: Connection timed out) while proxying upgraded connection"),
        End::ClientFailed => Some("client broke the connection while proxying upgraded connection"),
        End::UpstreamFailed => Some("upstream broke the connection while proxying upgraded connection"),
    };
    log.write(log.head_bytes() + stats.bytes_to_client, true, message.map(|text| (Level::Info, text)));
}

/// Resumes a tunnel of the old binary. `None`: the entry is malformed.
pub fn resume(decoder: &mut HandoverDecoder, worker: &Rc<Worker>) -> Option<()> {
    let tunnel = Tunnel::decode(decoder)?;
    let (upstream, peer) = (decoder.string()?, Addr::parse(&decoder.string()?)?);
    let live = worker.running();
    let log = match decoder.u8()? {
        0 => None,
        _ => Some(LogOnEnd::decode(decoder, &live.zones, worker.error_log())?),
    };
    let state = live.all_upstreams().into_iter().find(|state| state.upstream.name == upstream).unwrap_or_else(|| {
        Arc::new(UpstreamState::new(Arc::new(Upstream::single(upstream, Endpoint::Addr(peer.clone()))), None))
    });
    // A broken socket ends its own tunnel and no other.
    if let Ok(tunnel) = tunnel {
        executor::spawn(TunnelTask::new(tunnel, log, state.adopt(peer), worker.admit()));
    }
    Some(())
}
