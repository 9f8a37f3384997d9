//! A tunnel as one of the connections of a worker: it is counted, its end is logged, and it may go on in the next program.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use crate::config::{Level, Upstream};
use crate::http1::websocket::FrameScanner;
use crate::proxy::balance::{PeerLease, UpstreamState};
use crate::proxy::forward::Upgraded;
use crate::proxy::live::Live;
use crate::request::exchange::Exchange;
use crate::request::limit_zones::ConnGuard;
use crate::request::log;
use crate::runtime::handover::{self, HandoverDecoder, HandoverEncoder};
use crate::runtime::socket::{Addr, Endpoint};
use crate::runtime::stream::BufStream;
use crate::runtime::{executor, metrics};
use crate::server::worker::{ConnectionGuard, Worker};
use crate::tunnel;

/// A tunnel that is about to be dug.
pub struct TunnelSetup {
    upgraded: Upgraded,
    frames: FrameScanner,
    limits: tunnel::Timeouts,
    end: Option<Box<Ending>>,
}

/// What is written when a tunnel ends, rendered while the request was known; and what only few tunnels have.
struct Ending {
    lines: Box<[log::PendingLine]>,
    /// What the request holds of `limit_conn`, the tunnel holds on to.
    held: Box<[ConnGuard]>,
    logs: Arc<[crate::config::ErrorLog]>,
    connection: u32,
    context: Box<str>,
    head_bytes: u64,
    began: executor::Millis,
}

impl TunnelSetup {
    /// What a tunnel needs of the request that dug it.
    pub fn new(exchange: &mut Exchange, upgraded: Upgraded) -> Self {
        let held = std::mem::take(&mut exchange.limits.conn_guards);
        let settings = exchange.settings();
        let lines = log::pending_lines(exchange, log::LineKind::Tunnel);
        let wanted = log::is_enabled(&settings.error_log, Level::Info);
        let end = (!lines.is_empty() || !held.is_empty() || wanted).then(|| {
            Box::new(Ending {
                lines,
                held: held.into(),
                logs: settings.error_log.clone(),
                connection: exchange.client.number,
                context: if wanted { log::request_context(exchange).into() } else { Box::default() },
                head_bytes: exchange.response.head_bytes,
                began: exchange.began,
            })
        });
        let limits =
            tunnel::Timeouts { idle: settings.proxy.tunnel_idle_timeout(), send: settings.proxy.tunnel_send_timeout() };
        let frames = if upgraded.websocket { FrameScanner::START } else { FrameScanner::UNKNOWN };
        Self { upgraded, frames, limits, end }
    }

    /// Starts the task that the connection goes on as.
    pub fn start(self, mut wire: BufStream, slot: ConnectionGuard) {
        let Upgraded { stream, early, chosen, .. } = self.upgraded;
        let early = (wire.take_buffered(), early);
        let relay = tunnel::Tunnel::new(wire.stream, stream, early, self.frames, self.limits);
        executor::spawn(TunnelTask::new(relay, self.end, chosen, slot));
    }
}

/// A tunnel with what has to be done at its end. Written out rather than `async`, which would hold most of it twice.
struct TunnelTask {
    /// Gone when the tunnel was left to the next program.
    relay: Option<tunnel::Tunnel>,
    end: Option<Box<Ending>>,
    /// The tunnel is a connection of its peer, and of the worker.
    chosen: PeerLease,
    slot: ConnectionGuard,
    _open: metrics::TunnelGuard,
}

impl TunnelTask {
    fn new(relay: tunnel::Tunnel, end: Option<Box<Ending>>, chosen: PeerLease, slot: ConnectionGuard) -> Self {
        slot.worker().tunnel_begins();
        Self { relay: Some(relay), end, chosen, slot, _open: metrics::TunnelGuard::open() }
    }

    /// Leaves the tunnel to the next program, if that can go on with it.
    fn leave(&mut self) {
        let Some(relay) = self.relay.take_if(|relay| relay.can_hand_over()) else { return };
        let mut packer = HandoverEncoder::default();
        if relay.encode(&mut packer).is_err() {
            return;
        }
        packer.string(&self.chosen.upstream());
        packer.string(&self.chosen.peer.addr);
        packer.u8(self.end.is_some().into());
        if let Some(ending) = self.end.take() {
            ending.pack(&mut packer, &self.slot.worker().running());
        }
        self.slot.worker().pack(|all| all.entry(handover::TUNNEL, packer));
    }
}

impl Drop for TunnelTask {
    fn drop(&mut self) {
        self.slot.worker().tunnel_ends();
    }
}

impl Future for TunnelTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.slot.worker().is_frozen() {
            this.leave();
        }
        let Some(relay) = &mut this.relay else { return Poll::Ready(()) };
        let summary = ready!(Pin::new(relay).poll(cx));
        if let Some(ending) = this.end.take() {
            ending.write(&summary);
        }
        Poll::Ready(())
    }
}

/// Goes on with a tunnel of the program before. `None`: the parcel is broken.
pub fn resume(parcel: &mut HandoverDecoder, worker: &Rc<Worker>) -> Option<()> {
    let relay = tunnel::Tunnel::decode(parcel)?;
    let (upstream, peer) = (parcel.string()?, Addr::parse(&parcel.string()?)?);
    let end = if parcel.u8()? == 0 { None } else { Some(Box::new(Ending::unpack(parcel, worker)?)) };
    let groups = worker.running().all_upstreams();
    let group = groups.into_iter().find(|group| group.upstream.name == upstream).unwrap_or_else(|| {
        Arc::new(UpstreamState::new(Arc::new(Upstream::single(upstream, Endpoint::Addr(peer.clone()))), None))
    });
    // A broken socket ends its own tunnel and no other.
    if let Ok(relay) = relay {
        executor::spawn(TunnelTask::new(relay, end, group.adopt(peer), worker.admit()));
    }
    Some(())
}

impl Ending {
    fn pack(&self, packer: &mut HandoverEncoder, running: &Live) {
        let mut known = Vec::new();
        for one in &self.held {
            known.extend(running.zones.zone_name(one.zone()).map(|zone| (zone, one.key())));
        }
        packer.u64(known.len() as u64);
        for (zone, key) in &known {
            packer.string(zone);
            packer.bytes(key);
        }
        packer.u64(self.lines.len() as u64);
        self.lines.iter().for_each(|line| line.pack(packer));
        packer.u64(self.connection.into());
        packer.bytes(self.context.as_bytes());
        packer.u64(self.head_bytes);
        packer.u64(executor::now().saturating_sub(self.began));
    }

    fn unpack(parcel: &mut HandoverDecoder, worker: &Worker) -> Option<Self> {
        let running = worker.running();
        let mut held = Vec::new();
        for _ in 0..parcel.u64()? {
            let (zone, key) = (parcel.string()?, parcel.bytes()?);
            // It was let in before, whatever the limit is now.
            held.extend(running.zones.connection_zone_named(&zone).and_then(|zone| zone.acquire(&key, u32::MAX).ok()));
        }
        let mut lines = Vec::new();
        for _ in 0..parcel.u64()? {
            lines.push(log::PendingLine::unpack(parcel)?);
        }
        Some(Self {
            lines: lines.into(),
            held: held.into(),
            logs: worker.error_log(),
            connection: u32::try_from(parcel.u64()?).ok()?,
            context: parcel.string()?.into(),
            head_bytes: parcel.u64()?,
            began: executor::now().saturating_sub(parcel.u64()?),
        })
    }

    fn write(&self, summary: &tunnel::TunnelStats) {
        let why = match summary.end {
            tunnel::End::Closed => None,
            tunnel::End::Drained => Some("the tunnel was closed: the worker shuts down"),
            tunnel::End::Idle => {
                Some("upstream timed out (110: Connection timed out) while proxying upgraded connection")
            }
            tunnel::End::ClientFailed => Some("client broke the connection while proxying upgraded connection"),
            tunnel::End::UpstreamFailed => Some("upstream broke the connection while proxying upgraded connection"),
        };
        if let Some(why) = why {
            log::write_error(&self.logs, Level::Info, Some(self.connection), format_args!("{why}"), &self.context);
        }
        let moved = log::Totals {
            bytes: self.head_bytes + summary.bytes_to_client,
            head_bytes: self.head_bytes,
            millis: executor::now().saturating_sub(self.began),
            complete: true,
        };
        self.lines.iter().for_each(|line| line.write(&moved));
    }
}
