//! Accepts connections, gives each to the worker with the fewest, and rejects those for which there is no room.
//!
//! All workers wait on the same sockets, and the kernel wakes one of them for a connection. Under little load that one
//! would get most connections, so it passes them on; that costs little beside a handshake and keeps the workers level.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::config::Level;
use crate::request::log;
use crate::request::response::LocalResponse;
use crate::runtime::executor::{self, Timer};
use crate::runtime::io_error;
use crate::runtime::socket::{self, Addr, Listener, Socket};
use crate::server::connection;
use crate::server::worker::{Accepted, Assignment, ConnectionGuard, Worker, WorkerCommand};

/// How long accepting pauses when descriptors or memory are short, unless a connection ends before.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(200);
/// Connections that are being rejected with 503 at the same time; further ones are closed without a response.
const TURNED_AWAY_MAX: u32 = 64;
/// How long a rejected client may take to read the response.
const TURNED_AWAY: Duration = Duration::from_secs(1);
/// The shortest time between two log lines about rejected clients.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// A listening socket of this worker. Dropping it ends accepting.
pub struct AcceptHandle {
    listener: Rc<Listener>,
    state: Rc<Cell<ListenerState>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ListenerState {
    Open,
    /// Accept what is in the backlog, then end.
    Closing,
    /// End at once: the backlog is for another process.
    Left,
}

impl AcceptHandle {
    /// Ends without accepting the backlog.
    pub fn leave(self) {
        self.state.set(ListenerState::Left);
    }
}

impl Drop for AcceptHandle {
    fn drop(&mut self) {
        if self.state.get() == ListenerState::Open {
            self.state.set(ListenerState::Closing);
        }
        self.listener.wake();
    }
}

pub fn start(fd: OwnedFd, worker: &Rc<Worker>) -> io::Result<AcceptHandle> {
    let listener = Rc::new(Listener::new(fd)?);
    let state = Rc::new(Cell::new(ListenerState::Open));
    executor::spawn_boxed(accept(listener.clone(), state.clone(), worker.clone()));
    Ok(AcceptHandle { listener, state })
}

async fn accept(listener: Rc<Listener>, state: Rc<Cell<ListenerState>>, worker: Rc<Worker>) {
    let mut short = false;
    loop {
        // Clients in the backlog of a socket that is being closed are served.
        let accepted = poll_fn(|cx| match state.get() {
            ListenerState::Left => Poll::Ready(None),
            state => match listener.poll_accept(cx) {
                Poll::Pending if state == ListenerState::Closing => Poll::Ready(None),
                accepted => accepted.map(Some),
            },
        });
        match accepted.await {
            None => return,
            Some(Ok((fd, addr))) => {
                short = false;
                let newcomer = Accepted { fd, addr, bound: listener.local_addr().clone() };
                match worker.place() {
                    Assignment::Here(slot) => serve(newcomer, &worker, slot),
                    Assignment::There(handle) => handle.commands.send(WorkerCommand::Serve(newcomer)),
                    Assignment::Nowhere => turn_away(newcomer.fd, &newcomer.addr, &worker),
                }
            }
            Some(Err(error)) if socket::is_out_of_resources(&error) => {
                if !std::mem::replace(&mut short, true) {
                    let logs = worker.error_log();
                    log::log(
                        &logs,
                        Level::Crit,
                        format_args!("accept4() failed ({}): accepting rests", io_error::describe(&error)),
                    );
                }
                executor::sleep(SHORTAGE_PAUSE).await;
            }
            Some(Err(_)) => {} // the client was gone before it was accepted
        }
    }
}

/// Serves a connection that has its guard.
pub fn serve(newcomer: Accepted, worker: &Rc<Worker>, slot: ConnectionGuard) {
    let Accepted { fd, addr, bound } = newcomer;
    // A wildcard socket does not know which local address a client used.
    let local = match &bound {
        Addr::Ip(ip) if ip.ip().is_unspecified() => socket::local_addr(&fd).unwrap_or_else(|_| bound.clone()),
        _ => bound.clone(),
    };
    if let Some(group) = worker.group_at(&local) {
        connection::start(fd, addr, local, group, worker.clone(), slot);
    }
}

thread_local! {
    static TURNING_AWAY: Cell<u32> = const { Cell::new(0) };
    static TOLD: Cell<Option<executor::Millis>> = const { Cell::new(None) };
}

/// Responds with 503 and closes.
fn turn_away(fd: OwnedFd, addr: &Addr, worker: &Worker) {
    let now = executor::now();
    if TOLD.get().is_none_or(|at| now - at >= executor::millis(TOLD_EVERY)) {
        TOLD.set(Some(now));
        log::log(
            &worker.error_log(),
            Level::Alert,
            format_args!("{} worker_connections are not enough: {addr} is turned away", worker.connections()),
        );
    }
    if TURNING_AWAY.get() >= TURNED_AWAY_MAX {
        return;
    }
    let tokens = worker
        .running()
        .config
        .bindings
        .first()
        .is_none_or(|binding| binding.virtual_hosts.names.default_server().settings.server_tokens);
    let Ok(socket) = Socket::new(fd) else { return };
    TURNING_AWAY.set(TURNING_AWAY.get() + 1);
    executor::spawn_boxed(async move {
        let _ = Timer::new().within(TURNED_AWAY, pin!(say_no(socket, tokens))).await;
        TURNING_AWAY.set(TURNING_AWAY.get() - 1);
    });
}

async fn say_no(socket: Socket, tokens: bool) {
    let answer = LocalResponse::page(503, tokens).without_exchange();
    let _ = poll_fn(|cx| socket.poll_write(cx, &answer)).await;
    let _ = socket.shutdown_write();
    // Reads what the client still sends: closing earlier would reset the response.
    while let Ok(1..) = poll_fn(|cx| executor::with_scratch(|scratch| socket.poll_read(cx, scratch))).await {}
}
