//! The main loop of a worker: it carries out commands until one of them ends it.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::proxy::pool;
use crate::runtime::executor::{self, Timer};
use crate::runtime::handover::{self, HandoverDecoder};
use crate::runtime::socket::Addr;
use crate::server::accept::{self, AcceptHandle};
use crate::server::worker::{Worker, WorkerCommand, WorkerEvent};
use crate::server::{connection, tunnel_task};
use crate::tunnel;

/// The longest time over which tunnels are closed at the end of a graceful stop.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// How long requests may take to end before a binary upgrade; then they are aborted.
const SETTLE: Duration = Duration::from_secs(5);
/// How long tunnels that can't be handed over have for their close handshake.
const FREEZE: Duration = Duration::from_millis(1500);

/// Runs commands until one ends the worker.
pub async fn follow(worker: Rc<Worker>) -> io::Result<()> {
    let mut open: Vec<(Addr, AcceptHandle)> = Vec::new();
    loop {
        match poll_fn(|cx| worker.poll_command(cx)).await {
            WorkerCommand::Take(running) => {
                open.retain(|(addr, _)| running.config.bindings.iter().any(|binding| binding.addr == *addr));
                worker.replace(running);
            }
            WorkerCommand::Listen(addr, fd) => open.push((addr, accept::start(fd, &worker)?)),
            WorkerCommand::Serve(newcomer) => accept::serve(newcomer, &worker, worker.slot()),
            WorkerCommand::Finish => {
                worker.stop();
                drop(open);
                finish(&worker).await;
                return Ok(());
            }
            WorkerCommand::Stop => return Ok(()),
            WorkerCommand::Leave => {
                // Clients in the backlog are for the new binary.
                open.drain(..).for_each(|(_, accepting)| accepting.leave());
                worker.leave();
                executor::wake_all();
                let timer = Timer::new();
                timer.set(SETTLE);
                until(&worker, &mut |cx| worker.poll_settled(cx).is_ready() || timer.poll_due(cx).is_ready()).await;
                worker.report(WorkerEvent::Settled);
            }
            WorkerCommand::Freeze => {
                tunnel::drain(Duration::ZERO);
                worker.freeze();
                executor::wake_all();
                let timer = Timer::new();
                timer.set(FREEZE);
                until(&worker, &mut |cx| worker.poll_empty(cx).is_ready() || timer.poll_due(cx).is_ready()).await;
                worker.report(WorkerEvent::Packed(worker.take_hand_over()));
            }
            WorkerCommand::Resume(mut decoder) => {
                stay(&worker);
                resume(&mut decoder, &worker);
            }
            WorkerCommand::Stay => stay(&worker),
        }
    }
}

/// Serves connections that other workers accepted for this one until `over`.
async fn until(worker: &Rc<Worker>, over: &mut dyn FnMut(&mut Context<'_>) -> bool) {
    poll_fn(|cx| {
        while let Poll::Ready(command) = worker.poll_command(cx) {
            match command {
                WorkerCommand::Stop => return Poll::Ready(()),
                WorkerCommand::Serve(newcomer) => accept::serve(newcomer, worker, worker.slot()),
                _ => {}
            }
        }
        if over(cx) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Stops gracefully: idle connections end, requests are finished, tunnels last until they end or until
/// `worker_shutdown_timeout`, when they are closed one after the other.
async fn finish(worker: &Rc<Worker>) {
    pool::clear();
    executor::wake_all();
    let limit = worker.running().config.main.worker_shutdown_timeout;
    let window = limit.map(|limit| (limit / 4).min(DRAIN_MAX));
    let timer = Timer::new();
    if let (Some(limit), Some(window)) = (limit, window) {
        timer.set(limit.saturating_sub(window));
    }
    let mut draining = false;
    until(worker, &mut |cx| {
        if worker.poll_empty(cx).is_ready() {
            return true;
        }
        if timer.poll_due(cx).is_pending() {
            return false;
        }
        if std::mem::replace(&mut draining, true) {
            return true;
        }
        let window = window.unwrap_or_default();
        tunnel::drain(window);
        timer.set(window + tunnel::CLOSE_GRACE);
        timer.poll_due(cx).is_ready()
    })
    .await;
}

fn stay(worker: &Worker) {
    tunnel::cancel_drain();
    worker.stay();
}

/// Adopts connections and tunnels of the old binary. A malformed entry is dropped, which closes its socket.
fn resume(decoder: &mut HandoverDecoder, worker: &Rc<Worker>) {
    while let Some((kind, mut content)) = decoder.entry() {
        let _ = match kind {
            handover::CONNECTION => connection(&mut content, worker),
            handover::TUNNEL => tunnel_task::resume(&mut content, worker),
            _ => None,
        };
    }
}

fn connection(decoder: &mut HandoverDecoder, worker: &Rc<Worker>) -> Option<()> {
    let (addr, local) = (Addr::parse(&decoder.string()?)?, Addr::parse(&decoder.string()?)?);
    let fd = decoder.fd()?;
    if let Some(group) = worker.group_at(&local) {
        connection::start(fd, addr, local, group, worker.clone(), worker.admit());
    }
    Some(())
}
