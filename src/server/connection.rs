//! A client's connection: reads a head, runs the phases, logs, and starts again.
//!
//! Waiting is cheap: between requests there is a socket and nothing else. The work on a request is a boxed future that ends
//! with it, and a tunnel is a task of its own.

use std::fmt;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::FutureExt;

use crate::config::{Level, Lingering, Server, VirtualHosts};
use crate::http1::head::{HeadScanner, Malformed, Request};
use crate::http1::proxy_protocol::{self, ProxiedConnection};
use crate::http1::{uri, x_forwarded_for};
use crate::proxy::live::Live;
use crate::request::exchange::{Client, Exchange};
use crate::request::log;
use crate::runtime::executor::{self, Timer};
use crate::runtime::handover::{self, HandoverEncoder};
use crate::runtime::socket::{Addr, Socket};
use crate::runtime::stream::{BufStream, ReadError, Stream};
use crate::runtime::{io_error, metrics};
use crate::server::detached_response::DetachedResponse;
use crate::server::disposition::Disposition;
use crate::server::phases::Phases;
use crate::server::tls_accept;
use crate::server::worker::{ConnectionGuard, WaitResult, Worker};
use crate::tls;

/// How long a connection keeps its working memory after a response, for the next request.
const WARM: Duration = Duration::from_millis(100);

/// Starts the task of a connection.
pub fn start(
    fd: OwnedFd,
    addr: Addr,
    local: Addr,
    hosts: Arc<VirtualHosts>,
    worker: Rc<Worker>,
    guard: ConnectionGuard,
) {
    let Ok(socket) = Socket::new(fd) else { return };
    let stream = BufStream::new(Stream::Plain(socket));
    let number = worker.next_connection();
    let client = Client { addr, local, number, connected_at: executor::now(), proxy_protocol: None, tls: None };
    if !hosts.proxy_protocol && !hosts.tls {
        return Connection { client: Rc::new(client), hosts, guard, requests: 0 }.spawn(stream, None);
    }
    // A task of its own, whose memory is not the connection's.
    executor::spawn_boxed(async move {
        if let Some((stream, client)) = establish(stream, client, &hosts, &worker).await {
            Connection { client: Rc::new(client), hosts, guard, requests: 0 }.spawn(stream, None);
        }
    });
}

/// Does what precedes the first request: the PROXY protocol header, the TLS handshake. `None`: the connection ends.
async fn establish(
    mut stream: BufStream,
    mut client: Client,
    hosts: &VirtualHosts,
    worker: &Worker,
) -> Option<(BufStream, Client)> {
    if hosts.proxy_protocol {
        match read_proxy_header(&client, &mut stream, hosts, worker).await {
            ProxyHeader::Addresses(addresses) => client.proxy_protocol = Some(addresses),
            ProxyHeader::Local => {}
            ProxyHeader::Invalid => return None,
        }
    }
    if tls::AVAILABLE && hosts.tls {
        // Boxed, so that plain connections do not reserve its memory.
        return tls_accept::accept_tls(stream, client, hosts, worker).boxed_local().await;
    }
    Some((stream, client))
}

/// A client's connection between two requests, but for its stream.
struct Connection {
    client: Rc<Client>,
    hosts: Arc<VirtualHosts>,
    guard: ConnectionGuard,
    /// Requests served so far.
    requests: u32,
}

impl Connection {
    /// Serves requests until the connection ends or another task takes it over. The next request has to begin within
    /// `idle_timeout`, the first one within `client_header_timeout`. Not an `async fn`, which would store its arguments
    /// twice.
    fn spawn(mut self, mut stream: BufStream, idle_timeout: Option<Duration>) {
        let worker = self.guard.worker().clone();
        let mut idle_timeout =
            idle_timeout.unwrap_or_else(|| self.hosts.names.default_server().settings.header_timeout);
        executor::spawn(async move {
            let timer = Timer::new();
            loop {
                match worker.wait(&stream, &timer, idle_timeout).await {
                    WaitResult::Readable => {}
                    WaitResult::Ended => return,
                    WaitResult::HandOver => return hand_over(stream, &self.client, &self.hosts, &worker),
                }
                if let Some(newer) = worker.group(&self.client.local, &self.hosts) {
                    self.hosts = newer;
                }
                let requests = KeepAliveLoop { timer: &timer, stream: &mut stream, connection: &mut self };
                match Box::pin(requests.run()).await {
                    Disposition::KeepAlive(timeout) if !worker.is_stopping() => {
                        idle_timeout = timeout.saturating_sub(WARM);
                    }
                    Disposition::Linger(lingering) => return Box::pin(linger(stream, lingering)).await,
                    Disposition::Tunnel(tunnel) => return tunnel.start(stream, self.guard),
                    Disposition::Detached(response) => return self.finish_response(response, stream),
                    Disposition::KeepAlive(_) | Disposition::Close => return,
                }
            }
        });
    }

    /// Sends the rest of a response in a task of its own, which then continues with the connection.
    fn finish_response(self, mut response: Box<DetachedResponse>, stream: BufStream) {
        response.release_wakers(&stream);
        executor::spawn_boxed(async move {
            match poll_fn(|cx| response.poll_send(cx, &stream)).await {
                Disposition::KeepAlive(timeout) if !self.guard.worker().is_stopping() => {
                    drop(response);
                    self.spawn(stream, Some(timeout));
                }
                Disposition::Linger(lingering) => Box::pin(linger(stream, lingering)).await,
                _ => {}
            }
        });
    }
}

/// Leaves an idle connection to the new binary. One that can't be resumed there is closed.
fn hand_over(stream: BufStream, client: &Client, hosts: &VirtualHosts, worker: &Worker) {
    if !hosts.proxy_protocol
        && let Some(fd) = stream.into_fd()
    {
        let mut encoder = HandoverEncoder::default();
        encoder.string(&client.addr);
        encoder.string(&client.local);
        encoder.fd(fd);
        worker.add_to_hand_over(|all| all.entry(handover::CONNECTION, encoder));
    }
}

/// What a proxy in front says of its client.
enum ProxyHeader {
    Addresses(Rc<ProxiedConnection>),
    /// The proxy connects for itself.
    Local,
    /// The sender is not trusted, or there is no valid header.
    Invalid,
}

/// Reads the header of the PROXY protocol, from senders in `set_real_ip_from` only, if that is set.
async fn read_proxy_header(
    client: &Client,
    stream: &mut BufStream,
    hosts: &VirtualHosts,
    worker: &Worker,
) -> ProxyHeader {
    let settings = &hosts.names.default_server().settings;
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
        return ProxyHeader::Invalid;
    }
    let timer = Timer::new();
    let limit = settings.header_timeout;
    if worker.wait(stream, &timer, limit).await != WaitResult::Readable {
        return ProxyHeader::Invalid;
    }
    let mut reader = stream.reader();
    let mut parse = proxy_protocol::parse;
    match timer.within(limit, poll_fn(|cx| reader.poll_parse(cx, &mut parse))).await {
        Ok(Ok(Some(addresses))) => return ProxyHeader::Addresses(Rc::new(addresses)),
        Ok(Ok(None)) => return ProxyHeader::Local,
        Ok(Err(ReadError::Eof)) => {}
        Ok(Err(ReadError::UnexpectedEof)) => info(format_args!("client closed connection")),
        Ok(Err(ReadError::Malformed(malformed))) => info(format_args!("client sent {malformed}")),
        Ok(Err(ReadError::Io(error))) => info(format_args!("recv() failed ({})", io_error::describe(&error))),
        Err(executor::Elapsed) => info(format_args!("client timed out (110: Connection timed out)")),
    }
    ProxyHeader::Invalid
}

/// Requests that follow one another on a connection: working memory is kept between them.
struct KeepAliveLoop<'c> {
    /// Moving one timer is free, a new one costs an entry in the map.
    timer: &'c Timer,
    stream: &'c mut BufStream,
    connection: &'c mut Connection,
}

impl KeepAliveLoop<'_> {
    /// Serves requests until none arrives for [`WARM`].
    async fn run(self) -> Disposition {
        let Self { timer, stream, connection } = self;
        let worker = connection.guard.worker().clone();
        loop {
            connection.requests += 1;
            let live = worker.running();
            let handler = RequestHandler { timer, stream: &mut *stream, connection: &*connection, live: live.clone() };
            let disposition = handler.handle().await;
            let Disposition::KeepAlive(timeout) = disposition else { return disposition };
            // After a reload the servers may have changed.
            if worker.wait(stream, timer, timeout.min(WARM)).await != WaitResult::Readable
                || !Arc::ptr_eq(&live, &worker.running())
            {
                return disposition;
            }
        }
    }
}

/// The head of a request, as far as it arrived.
enum HeadRead {
    Request(Request),
    Malformed(Malformed),
    /// There is no request to respond to.
    Nothing,
}

/// One request on a connection.
struct RequestHandler<'c> {
    timer: &'c Timer,
    stream: &'c mut BufStream,
    connection: &'c Connection,
    live: Arc<Live>,
}

impl RequestHandler<'_> {
    /// Reads one request and responds to it.
    async fn handle(mut self) -> Disposition {
        let mut in_flight = metrics::RequestGuard::begin();
        let began = executor::now();
        let pipelined = !self.stream.buffered().is_empty() && self.connection.requests > 1;
        let hosts = &*self.connection.hosts;
        let server = hosts.names.default_server().clone();
        let (mut exchange, resolved) = match self.read_head(&server, &mut in_flight).await {
            HeadRead::Request(request) => {
                in_flight.set_writing();
                let mut exchange = self.exchange(&server, request);
                exchange.began = began;
                exchange.pipelined = pipelined;
                let resolved = resolve_target(&mut exchange, hosts);
                (exchange, resolved)
            }
            HeadRead::Malformed(malformed) => (self.unread_exchange(&server), Err(malformed)),
            HeadRead::Nothing => return Disposition::Close,
        };
        exchange.in_flight = Some(in_flight);
        let rejected = match resolved {
            Ok(()) => tls_accept::authorize(&exchange, hosts).err(),
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
        let phases = Phases { stream: &mut *self.stream, live: &self.live, timer: self.timer };
        let disposition = phases.run(&mut exchange, rejected).await;
        match &disposition {
            Disposition::Detached(_) => {} // counted and logged at its end
            Disposition::Tunnel(_) => metrics::count_response(exchange.response.status), // logged at its end
            _ => {
                count_and_log(&exchange);
                let resets = exchange.settings().client_options.reset_timedout_connection;
                if resets && (exchange.timed_out || exchange.response.status == 444) {
                    self.stream.stream.socket().abort();
                }
            }
        }
        disposition
    }

    async fn read_head(&mut self, server: &Arc<Server>, in_flight: &mut metrics::RequestGuard) -> HeadRead {
        let settings = &server.settings;
        let names = settings.client_options.header_name_policy();
        let mut scanner = HeadScanner::for_request();
        let mut parse = |bytes: &[u8]| {
            in_flight.count();
            scanner.parse_request(bytes, settings.head_limits, names)
        };
        let mut reader = self.stream.reader();
        let read = self.timer.within(settings.header_timeout, poll_fn(|cx| reader.poll_parse(cx, &mut parse))).await;
        let client = &self.connection.client;
        let info = |message: &str| {
            let message = format_args!("{message} while reading client request headers");
            log::log_client(&settings.error_log, Level::Info, client, message);
        };
        match read {
            Ok(Ok(request)) => return HeadRead::Request(request),
            Ok(Err(ReadError::Malformed(malformed))) => return HeadRead::Malformed(malformed),
            Ok(Err(ReadError::Eof)) => {}
            Ok(Err(ReadError::UnexpectedEof)) => {
                info("client prematurely closed connection");
                let mut exchange = self.unread_exchange(server);
                exchange.response.status = 400;
                count_and_log(&exchange);
            }
            Ok(Err(ReadError::Io(error))) => info(&format!("recv() failed ({})", io_error::describe(&error))),
            Err(executor::Elapsed) if self.stream.buffered().is_empty() => {}
            Err(executor::Elapsed) => info("client timed out (110: Connection timed out)"),
        }
        HeadRead::Nothing
    }

    /// The exchange of a head that could not be parsed.
    fn unread_exchange(&self, server: &Arc<Server>) -> Exchange {
        self.exchange(server, Request::from_malformed(self.stream.buffered()))
    }

    fn exchange(&self, server: &Arc<Server>, request: Request) -> Exchange {
        let Connection { client, requests, .. } = self.connection;
        Exchange::new(self.live.config.clone(), client.clone(), server.clone(), request, *requests)
    }
}

fn count_and_log(exchange: &Exchange) {
    metrics::count_response(exchange.response.status);
    log::write_access(exchange);
}

/// Parses target and host, and selects the virtual server.
fn resolve_target(exchange: &mut Exchange, hosts: &VirtualHosts) -> Result<(), Malformed> {
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
    let (raw, path) = (parsed.path_and_query.into_owned(), parsed.path.into_owned());
    let args = parsed.args.map(<[u8]>::to_vec);
    if parsed.authority.is_some() {
        exchange.request.set_host_from_target();
    }
    let found = hosts.names.find(&host);
    exchange.server = found.server.clone();
    if let Some((expression, captures)) = found.captures {
        exchange.set_captures(expression, captures);
    }
    exchange.uri.host = host;
    exchange.uri.raw = raw;
    exchange.uri.path = path;
    exchange.uri.args = args;
    Ok(())
}

/// Reads what the client still sends, so that closing does not reset the response (RFC 9112 9.6).
async fn linger(mut stream: BufStream, lingering: Lingering) {
    let timer = Timer::new();
    let finished = timer.within(lingering.timeout, poll_fn(|cx| stream.stream.poll_shutdown(cx)));
    if !matches!(finished.await, Ok(Ok(()))) {
        return;
    }
    let began = executor::now();
    let mut reader = stream.reader();
    while executor::now().saturating_sub(began) < executor::millis(lingering.time) {
        let next = poll_fn(|cx| reader.poll_bytes(cx, |_, bytes| (bytes.len(), bytes.len())));
        match timer.within(lingering.timeout, next).await {
            Ok(Ok(count)) if count > 0 => {}
            _ => return,
        }
    }
}
