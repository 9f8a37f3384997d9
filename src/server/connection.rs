//! One client: read a head, find out what it is for, do it, write a log line, again.
//!
//! What waits is small: the wait for the next request holds a socket and nothing else, the work on a request is a boxed
//! future that ends with it, and a tunnel is a task of its own.

use std::fmt;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::FutureExt;

use crate::config::{Level, Lingering, Server, VirtualHosts};
use crate::http1::head::{HeadScanner, Malformed, Request};
use crate::http1::proxy_protocol::{self, Addresses};
use crate::http1::{uri, x_forwarded_for};
use crate::proxy::live::Live;
use crate::request::exchange::{Client, Exchange};
use crate::request::log;
use crate::runtime::executor::{self, Timer};
use crate::runtime::handover::{self, HandoverEncoder};
use crate::runtime::socket::{Addr, Socket};
use crate::runtime::stream::{BufStream, ReadError, Stream};
use crate::runtime::{io_error, metrics};
use crate::server::detached_response::{DetachedResponse, Downloading, Then};
use crate::server::phases::{Done, Phases};
use crate::server::tunnel_task::TunnelSetup;
use crate::server::worker::{ConnectionGuard, Waited, Worker};
use crate::server::{send_response, tls_accept};
use crate::tls;

/// How long a connection keeps its working memory when a request is answered, for the next one.
const WARM: Duration = Duration::from_millis(100);

/// What happens with a connection after a request.
enum After {
    KeepAlive,
    Close,
    /// Close, but let the client read the answer although it still sends.
    Linger(Lingering),
    Tunnel(Box<TunnelSetup>),
    /// The client takes the answer slowly.
    Download(Box<DetachedResponse>),
}

/// Starts the task of a connection.
pub fn start(
    fd: OwnedFd,
    addr: Addr,
    local: Addr,
    group: Arc<VirtualHosts>,
    worker: Rc<Worker>,
    slot: ConnectionGuard,
) {
    let Ok(socket) = Socket::new(fd) else { return };
    let wire = BufStream::new(Stream::Plain(socket));
    let number = worker.next_connection();
    let client = Client { addr, local, number, connected_at: executor::now(), proxy_protocol: None, tls: None };
    if !group.proxy_protocol && !group.tls {
        return serve(wire, Rc::new(client), group, slot, KeepAlive::start());
    }
    // A task of its own, whose memory is not the connection's.
    executor::spawn_boxed(async move {
        if let Some((wire, client)) = open(wire, client, &group, &worker).await {
            serve(wire, Rc::new(client), group, slot, KeepAlive::start());
        }
    });
}

/// What comes before the first request: whom a proxy speaks for, and the handshake of TLS. `None`: the connection ends.
async fn open(
    mut wire: BufStream,
    mut client: Client,
    group: &VirtualHosts,
    worker: &Worker,
) -> Option<(BufStream, Client)> {
    if group.proxy_protocol {
        client.proxy_protocol = introduce(&client, &mut wire, group, worker).await?;
    }
    if tls::AVAILABLE && group.tls {
        // By its pointer alone, so that builds that never come here do not have it.
        return tls_accept::secure(wire, client, group, worker).boxed_local().await;
    }
    Some((wire, client))
}

/// How far a connection is.
#[derive(Clone, Copy)]
struct KeepAlive {
    /// Requests that it has served.
    number: u32,
    /// How long the next one is waited for; without it, as long as for the first.
    idle: Option<Duration>,
}

impl KeepAlive {
    fn start() -> Self {
        Self { number: 0, idle: None }
    }
}

/// Serves a connection to its last byte, or to where another task goes on. Not an `async fn`, which would hold what it is
/// given twice.
fn serve(
    mut wire: BufStream,
    client: Rc<Client>,
    mut group: Arc<VirtualHosts>,
    slot: ConnectionGuard,
    position: KeepAlive,
) {
    let worker = slot.worker().clone();
    let KeepAlive { mut number, idle } = position;
    let mut idle_max = idle.unwrap_or_else(|| group.names.default_server().settings.header_timeout);
    executor::spawn(async move {
        let timer = Timer::new();
        loop {
            match worker.wait(&wire, &timer, idle_max).await {
                Waited::Readable => {}
                Waited::Over => return,
                Waited::Leaving => return leave(wire, &client, &group, &worker),
            }
            if let Some(newer) = worker.group(&client.local, &group) {
                group = newer;
            }
            let warm = KeepAliveLoop {
                timer: &timer,
                wire: &mut wire,
                client: &client,
                group: &group,
                number: &mut number,
                worker: &worker,
            };
            let (after, idle) = Box::pin(warm.serve()).await;
            match after {
                After::KeepAlive if !worker.is_stopping() => idle_max = idle.saturating_sub(WARM),
                After::Linger(how) => return Box::pin(linger(wire, how)).await,
                After::Tunnel(tunnel) => return tunnel.start(wire, slot),
                After::Download(download) => return follow(download.over(wire), client, group, slot, number),
                After::KeepAlive | After::Close => return,
            }
        }
    });
}

/// Sends the rest of an answer, and goes on with the connection then.
fn follow(mut download: Downloading, client: Rc<Client>, group: Arc<VirtualHosts>, slot: ConnectionGuard, number: u32) {
    executor::spawn_boxed(async move {
        match (&mut download).await {
            Then::KeepAlive(_) if slot.worker().is_stopping() => {}
            Then::KeepAlive(idle) => serve(download.wire, client, group, slot, KeepAlive { number, idle: Some(idle) }),
            Then::Linger(how) => Box::pin(linger(download.wire, how)).await,
            Then::Close => {}
        }
    });
}

/// Leaves a connection, of which nothing was read yet, to the next program; one that it could not go on with is closed.
fn leave(wire: BufStream, client: &Client, group: &VirtualHosts, worker: &Worker) {
    if !group.proxy_protocol
        && let Some(fd) = wire.into_fd()
    {
        let mut packer = HandoverEncoder::default();
        packer.string(&client.addr);
        packer.string(&client.local);
        packer.fd(fd);
        worker.pack(|all| all.entry(handover::CONNECTION, packer));
    }
}

/// Reads what the PROXY protocol says of the client before its first request. `None`: the connection ends, as with one who
/// may not say it.
async fn introduce(
    client: &Client,
    wire: &mut BufStream,
    group: &VirtualHosts,
    worker: &Worker,
) -> Option<Option<Rc<Addresses>>> {
    let settings = &group.names.default_server().settings;
    let info = |why: fmt::Arguments<'_>| {
        log::log_client(&settings.error_log, Level::Info, client, format_args!("{why} while reading PROXY protocol"));
    };
    if settings
        .optional
        .real_ip
        .as_ref()
        .is_some_and(|known| !known.trusted.is_empty() && !x_forwarded_for::is_trusted(&known.trusted, &client.addr))
    {
        info(format_args!("client is none of \"set_real_ip_from\""));
        return None;
    }
    let timer = Timer::new();
    let limit = settings.header_timeout;
    if worker.wait(wire, &timer, limit).await != Waited::Readable {
        return None;
    }
    let mut reader = wire.reader();
    let mut parse = proxy_protocol::parse;
    match timer.within(limit, poll_fn(|cx| reader.poll_parse(cx, &mut parse))).await {
        Ok(Ok(told)) => return Some(told.map(Rc::new)),
        Ok(Err(ReadError::Eof)) => {}
        Ok(Err(ReadError::UnexpectedEof)) => info(format_args!("client closed connection")),
        Ok(Err(ReadError::Malformed(malformed))) => info(format_args!("client sent {malformed}")),
        Ok(Err(ReadError::Io(error))) => info(format_args!("recv() failed ({})", io_error::describe(&error))),
        Err(executor::Elapsed) => info(format_args!("client timed out (110: Connection timed out)")),
    }
    None
}

/// A connection whose requests come one after the other: it keeps its working memory between them.
struct KeepAliveLoop<'c> {
    /// The one timer of a connection: moving it along costs nothing, a new one a place in the map.
    timer: &'c Timer,
    wire: &'c mut BufStream,
    client: &'c Rc<Client>,
    group: &'c VirtualHosts,
    number: &'c mut u32,
    worker: &'c Rc<Worker>,
}

impl KeepAliveLoop<'_> {
    /// Serves requests until none comes for [`WARM`]: what comes after, and how long the next one may be waited for.
    async fn serve(self) -> (After, Duration) {
        let timer = self.timer;
        loop {
            *self.number += 1;
            let (wire, client, group) = (&mut *self.wire, self.client, self.group);
            let running = self.worker.running();
            let (after, idle) =
                RequestHandler { timer, wire, client, group, number: *self.number, running: running.clone() }
                    .serve()
                    .await;
            let wire = &*self.wire;
            // A configuration that came meanwhile has other servers.
            if !matches!(after, After::KeepAlive)
                || self.worker.wait(wire, timer, idle.min(WARM)).await != Waited::Readable
                || !Arc::ptr_eq(&running, &self.worker.running())
            {
                return (after, idle);
            }
        }
    }
}

/// One request on a connection.
struct RequestHandler<'c> {
    timer: &'c Timer,
    wire: &'c mut BufStream,
    client: &'c Rc<Client>,
    group: &'c VirtualHosts,
    number: u32,
    running: Arc<Live>,
}

impl RequestHandler<'_> {
    /// Reads one request and answers it: what comes after, and how long the next one is waited for.
    async fn serve(mut self) -> (After, Duration) {
        let mut counted = metrics::RequestGuard::begin();
        let began = executor::now();
        let pipelined = !self.wire.buffered().is_empty() && self.number > 1;
        let server = self.group.names.default_server().clone();
        let (mut exchange, understood) = match self.read_head(&server).await {
            Ok(request) => {
                counted.set_writing();
                let mut exchange = self.exchange(&server, request);
                exchange.began = began;
                exchange.pipelined = pipelined;
                let understood = understand(&mut exchange, self.group);
                (exchange, understood)
            }
            Err(Some(malformed)) => (self.unread(&server), Err(malformed)),
            Err(None) => return (After::Close, Duration::ZERO),
        };
        let refused = match understood {
            Ok(()) => tls_accept::check(&exchange, self.group).err(),
            Err(malformed) => {
                log::log_request(
                    &exchange,
                    Level::Info,
                    format_args!("client sent {malformed} while reading client request headers"),
                );
                exchange.malformed = true;
                Some(malformed.status())
            }
        };
        let phases = Phases { wire: &mut *self.wire, running: &self.running, timer: self.timer };
        let after = match phases.act(&mut exchange, refused).await {
            Done::Answered(after) => self.after(after, &mut exchange, counted),
            Done::Upgraded(upgraded) => {
                let passage = TunnelSetup::new(&mut exchange, *upgraded);
                metrics::count_response(exchange.response.status); // its log line is written at its end
                After::Tunnel(Box::new(passage))
            }
        };
        (after, exchange.settings().keepalive_timeout)
    }

    /// The next head. `Err(None)`: nothing to answer.
    async fn read_head(&mut self, server: &Arc<Server>) -> Result<Request, Option<Malformed>> {
        let settings = &server.settings;
        let names = settings.client_options.header_name_policy();
        let mut scan = HeadScanner::for_request();
        let mut parse = |bytes: &[u8]| scan.parse_request(bytes, settings.head_limits, names);
        let mut reader = self.wire.reader();
        let read = self.timer.within(settings.header_timeout, poll_fn(|cx| reader.poll_parse(cx, &mut parse))).await;
        let info =
            |message: &str| log::log_client(&settings.error_log, Level::Info, self.client, format_args!("{message}"));
        match read {
            Ok(Ok(request)) => return Ok(request),
            Ok(Err(ReadError::Malformed(malformed))) => return Err(Some(malformed)),
            Ok(Err(ReadError::Eof)) => {}
            Ok(Err(ReadError::UnexpectedEof)) => {
                info("client prematurely closed connection while reading client request headers");
                self.log_unread(server, 400);
            }
            Ok(Err(ReadError::Io(error))) => {
                info(&format!("recv() failed ({}) while reading client request headers", io_error::describe(&error)));
            }
            Err(executor::Elapsed) if self.wire.buffered().is_empty() => {}
            Err(executor::Elapsed) => {
                info("client timed out (110: Connection timed out) while reading client request headers")
            }
        }
        Err(None)
    }

    /// An exchange for a head that could not be read.
    fn unread(&self, server: &Arc<Server>) -> Exchange {
        self.exchange(server, Request::from_malformed(self.wire.buffered()))
    }

    fn exchange(&self, server: &Arc<Server>, request: Request) -> Exchange {
        Exchange::new(self.running.config.clone(), self.client.clone(), server.clone(), request, self.number)
    }

    /// Writes the access line of a request that gets no answer.
    fn log_unread(&self, server: &Arc<Server>, status: u16) {
        let mut exchange = self.unread(server);
        exchange.response.status = status;
        end(&exchange);
    }

    /// Ends a request, unless something of its answer is left, and says how the connection goes on.
    fn after(&self, after: send_response::After, exchange: &mut Exchange, counted: metrics::RequestGuard) -> After {
        if let send_response::After::Rest(rest) = after {
            return After::Download(Box::new(DetachedResponse::new(exchange, *rest, counted)));
        }
        end(exchange);
        let manners = &exchange.settings().client_options;
        if manners.reset_timedout_connection && (exchange.timed_out || exchange.response.status == 444) {
            self.wire.stream.socket().abort();
        }
        match after {
            send_response::After::KeepAlive => After::KeepAlive,
            send_response::After::Linger if manners.lingering.on => After::Linger(manners.lingering),
            _ => After::Close,
        }
    }
}

/// Counts a request that is over, and writes its log line.
fn end(exchange: &Exchange) {
    metrics::count_response(exchange.response.status);
    log::write_access(exchange);
}

/// Takes the target and the host apart, and finds the server.
fn understand(exchange: &mut Exchange, group: &VirtualHosts) -> Result<(), Malformed> {
    let request = &exchange.request;
    let parsed = uri::parse(request.target(), exchange.settings().client_options.merge_slashes)?;
    let field = request.headers.first(crate::http1::head::HeaderName::Host);
    let host = match (parsed.authority, field) {
        (Some(authority), field) => {
            field.map(uri::parse_host).transpose()?;
            uri::parse_host(authority)?
        }
        (None, Some(field)) => uri::parse_host(field)?,
        (None, None) => String::new(),
    };
    let (written, path) = (parsed.path_and_query.into_owned(), parsed.path.into_owned());
    let args = parsed.args.map(<[u8]>::to_vec);
    if parsed.authority.is_some() {
        exchange.request.set_host_from_target();
    }
    let found = group.names.find(&host);
    exchange.server = found.server.clone();
    if let Some((expression, captures)) = found.captures {
        exchange.set_captures(expression, captures);
    }
    exchange.uri.host = host;
    exchange.uri.raw = written;
    exchange.uri.path = path;
    exchange.uri.args = args;
    Ok(())
}

/// Reads what a client still sends, so that closing does not take the answer from it (RFC 9112 9.6).
async fn linger(mut wire: BufStream, how: Lingering) {
    let timer = Timer::new();
    let finished = timer.within(how.timeout, poll_fn(|cx| wire.stream.poll_shutdown(cx)));
    if !matches!(finished.await, Ok(Ok(()))) {
        return;
    }
    let began = executor::now();
    let mut reader = wire.reader();
    while executor::now().saturating_sub(began) < executor::millis(how.time) {
        let next = poll_fn(|cx| reader.poll_bytes(cx, |_, bytes| (bytes.len(), bytes.len())));
        match timer.within(how.timeout, next).await {
            Ok(Ok(count)) if count > 0 => {}
            _ => return,
        }
    }
}
