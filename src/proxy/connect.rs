//! Connects to a peer, after waiting for one that has room.
//!
//! When a peer comes back, thousands of requests may want to connect at once. At most as many as its backlog holds
//! connect at the same time, in order: the kernel would retry what a full backlog drops only after seconds.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use crate::config::Level;
use crate::proxy::balance::{Peer, PeerLease};
use crate::proxy::error::AttemptError;
use crate::proxy::forward::{ProxyRequest, poll_client_abort};
use crate::proxy::pool::{TlsKey, UpstreamConn};
use crate::request::log;
use crate::runtime::executor::{self, Timer};
use crate::runtime::socket::{Addr, Socket};
use crate::runtime::stream::{BufStream, Stream};
use crate::tls;

/// The longest a connection within this machine takes unless the backlog was full.
const BACKLOG_RETRY: Duration = Duration::from_millis(10);
/// The longest wait after several full backlogs.
const BACKLOG_RETRY_MAX: Duration = Duration::from_millis(100);

impl ProxyRequest<'_> {
    /// Waits for a peer as long as `queue` allows.
    pub(crate) async fn wait_for_peer(&mut self) -> Result<PeerLease, u16> {
        let (Some(queue), false) = (self.upstream.upstream.queue, self.upstream.is_empty()) else {
            return Err(self.no_live_upstreams("no live upstreams"));
        };
        let Some(place) = self.upstream.enqueue(&self.search) else {
            return Err(self.no_live_upstreams("no live upstreams, and no place in the queue"));
        };
        // A client that has aborted would delay the others in the queue.
        let ignores_abort = self.exchange.settings().proxy.ignore_client_abort;
        let retry = Timer::new();
        self.timer.set(queue.timeout);
        let (group, search, client, timer) = (&self.upstream, &mut self.search, &self.client.stream, self.timer);
        let lease = poll_fn(|cx| {
            if poll_client_abort(client, ignores_abort, cx).is_ready() {
                return Poll::Ready(Err(AttemptError::ClientClosed));
            }
            if retry.poll_due(cx).is_ready() {
                group.wake_first();
            }
            if let Some(lease) = group.choose_queued(&place, search, cx) {
                return Poll::Ready(Ok(lease));
            }
            match group.until_retry(&place) {
                Some(time) => retry.set(time),
                None => retry.clear(),
            }
            let _ = retry.poll_due(cx);
            timer.poll_due(cx).map(|()| Err(AttemptError::Timeout("in the queue")))
        })
        .await;
        lease.map_err(|missed| match missed {
            AttemptError::ClientClosed => {
                log::log_request(self.exchange, Level::Info, format_args!("{missed}"));
                missed.status()
            }
            _ => self.no_live_upstreams("no live upstreams within the time of the queue"),
        })
    }

    pub(crate) async fn connect(&self, peer: &Peer) -> Result<Box<UpstreamConn>, AttemptError> {
        let proxy = &self.exchange.settings().proxy;
        // While the body is not read a FIN may be behind it, or cut it off: reading it tells.
        let ignores_abort = proxy.ignore_client_abort || !self.exchange.body.decoder.is_done();
        let connected = Cell::new(false);
        let connecting = async {
            let socket = {
                let _admission = peer.connect_permit().await;
                connect_with_retry(&peer.addr, self.pool_key.bind.as_ref()).await.map_err(AttemptError::Connect)?
            };
            connected.set(true);
            match self.pool_key.tls.as_ref().filter(|_| tls::AVAILABLE) {
                None => Ok(Stream::Plain(socket)),
                Some(called) => {
                    if let Some(news) = called.client.reload_if_changed() {
                        log::log_cert_reload(&self.exchange.settings().error_log, &news);
                    }
                    Box::pin(connect_tls(socket, called)).await
                }
            }
        };
        let connecting = pin!(connecting);
        let mut connecting = self.timer.within(proxy.connect_timeout, connecting);
        let made = poll_fn(|cx| {
            if let Poll::Ready(made) = Pin::new(&mut connecting).poll(cx) {
                return Poll::Ready(Some(made));
            }
            poll_client_abort(&self.client.stream, ignores_abort, cx).map(|()| None)
        });
        match made.await {
            None => Err(AttemptError::ClientClosed),
            Some(Err(executor::Elapsed)) if connected.get() => {
                Err(AttemptError::Timeout("while SSL handshaking to upstream"))
            }
            Some(Err(executor::Elapsed)) => Err(AttemptError::ConnectTimeout),
            Some(Ok(Err(AttemptError::Connect(error)))) if error.kind() == io::ErrorKind::TimedOut => {
                Err(AttemptError::ConnectTimeout)
            }
            Some(Ok(Err(missed))) => Err(missed),
            Some(Ok(Ok(stream))) => {
                if proxy.socket_keepalive {
                    stream.socket().enable_keepalive();
                }
                Ok(Box::new(UpstreamConn::new(BufStream::new(stream), self.pool_key.clone())))
            }
        }
    }
}

/// Connects. Within this machine a connection that is not established at once means a full backlog: it is tried again
/// soon, where the kernel would wait a second, and then longer.
async fn connect_with_retry(addr: &Addr, from: Option<&Addr>) -> io::Result<Socket> {
    if !addr.is_local() {
        return Socket::connect(addr, from).await;
    }
    let (timer, mut patience) = (Timer::new(), BACKLOG_RETRY);
    loop {
        match timer.within(patience, pin!(Socket::connect(addr, from))).await {
            Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => executor::sleep(patience).await,
            Ok(done) => return done,
            Err(executor::Elapsed) => {}
        }
        patience = (patience * 2).min(BACKLOG_RETRY_MAX);
    }
}

/// Performs the TLS handshake with a peer.
async fn connect_tls(socket: Socket, called: &TlsKey) -> Result<Stream, AttemptError> {
    match tls::connect(socket, &called.client, &called.name).await {
        Ok(session) => Ok(Stream::Secure(session)),
        Err(error) => Err(AttemptError::Handshake(error)),
    }
}
