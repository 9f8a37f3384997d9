//! One client: read a head, find out what it is for, do it, write a log line, again.
//!
//! What waits is small: the wait for the next request holds a socket and nothing else, the work on a request is a boxed
//! future that ends with it, and a tunnel is a task of its own.

use std::future::{Future, poll_fn};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::balance::Chosen;
use crate::body::{self, Decoder};
use crate::config::{Group, Level, Server};
use crate::exchange::{Client, Exchange};
use crate::file;
use crate::head::Framing;
use crate::head::{Malformed, Request, Scan, Version};
use crate::log;
use crate::reactor::{self, Timer};
use crate::reply::Reply;
use crate::rewrite;
use crate::route;
use crate::running::Running;
use crate::socket::{Addr, Socket};
use crate::target;
use crate::transfer::{self, send_all};
use crate::tunnel;
use crate::upstream::{self, Forwarded, Upgraded};
use crate::wire::{Stream, Unparsed, Wire};
use crate::worker::{Slot, Worker};

/// A client that still sends when we have answered may go on so long, that it can read the answer.
const LINGER: Duration = Duration::from_secs(30);
/// And may pause so long.
const LINGER_PAUSE: Duration = Duration::from_secs(5);

/// How long a connection keeps its working memory when a request is answered, for the next one.
const WARM: Duration = Duration::from_millis(100);

/// How often the path of one request may be changed for another location to be found.
const CYCLES_MAX: u8 = 10;

/// What happens with a connection after a request.
enum After {
    KeepAlive,
    Close,
    /// Close, but let the client read the answer although it still sends.
    Linger,
    Tunnel(Box<Tunnel>),
}

/// A tunnel that is about to be dug.
struct Tunnel {
    upgraded: Upgraded,
    limits: tunnel::Limits,
    end: Option<Box<Ending>>,
}

/// What is written when a tunnel ends, rendered while the request was known.
struct Ending {
    lines: Vec<log::Line>,
    logs: Arc<[crate::config::ErrorLog]>,
    connection: u32,
    context: String,
    head_bytes: u64,
    began: reactor::Millis,
}

/// Serves a connection from its first byte to its last.
pub async fn serve(fd: OwnedFd, addr: Addr, local: Addr, group: Arc<Group>, worker: Rc<Worker>, slot: Slot) {
    let Ok(socket) = Socket::new(fd) else { return };
    let mut wire = Wire::new(Stream::Plain(socket));
    let client = Rc::new(Client { addr, local, number: worker.next_connection(), since: reactor::now() });
    let mut group = group;
    let timer = Timer::new();
    let mut number = 0;
    let mut idle_max = group.names.default_server().settings.header_timeout;
    loop {
        let readable = timer.within(idle_max, poll_fn(|cx| wire.poll_readable(cx)));
        if !worker.wait(readable).await {
            return;
        }
        if let Some(newer) = worker.group(&client.local, &group) {
            group = newer;
        }
        let warm = Warm {
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
            After::Linger => return Box::pin(linger(wire)).await,
            After::Tunnel(tunnel) => return reactor::spawn(tunnel.dig(wire, slot)),
            After::KeepAlive | After::Close => return,
        }
    }
}

/// A connection whose requests come one after the other: it keeps its working memory between them.
struct Warm<'c> {
    /// The one timer of a connection: moving it along costs nothing, a new one a place in the map.
    timer: &'c Timer,
    wire: &'c mut Wire,
    client: &'c Rc<Client>,
    group: &'c Group,
    number: &'c mut u32,
    worker: &'c Rc<Worker>,
}

impl Warm<'_> {
    /// Serves requests until none comes for [`WARM`]: what comes after, and how long the next one may be waited for.
    async fn serve(self) -> (After, Duration) {
        let timer = self.timer;
        loop {
            *self.number += 1;
            let (wire, client, group) = (&mut *self.wire, self.client, self.group);
            let running = self.worker.running();
            let (after, idle) =
                One { timer, wire, client, group, number: *self.number, running: running.clone() }.serve().await;
            let wire = &*self.wire;
            if !matches!(after, After::KeepAlive)
                || !Arc::ptr_eq(&running, &self.worker.running())
                || !self.worker.wait(timer.within(idle.min(WARM), poll_fn(|cx| wire.poll_readable(cx)))).await
            {
                return (after, idle);
            }
        }
    }
}

/// One request on a connection.
struct One<'c> {
    timer: &'c Timer,
    wire: &'c mut Wire,
    client: &'c Rc<Client>,
    group: &'c Group,
    number: u32,
    running: Arc<Running>,
}

impl One<'_> {
    /// Reads one request and answers it: what comes after, and how long the next one is waited for.
    async fn serve(mut self) -> (After, Duration) {
        let began = reactor::now();
        let server = self.group.names.default_server().clone();
        let request = match self.read_head(&server).await {
            Ok(request) => request,
            Err(Some(malformed)) => return (self.refuse(&server, malformed).await, Duration::ZERO),
            Err(None) => return (After::Close, Duration::ZERO),
        };
        let mut exchange =
            Exchange::new(self.running.config.clone(), self.client.clone(), server, request, self.number);
        exchange.began = began;
        if let Err(malformed) = understand(&mut exchange, self.group) {
            log::about(
                &exchange,
                Level::Info,
                format_args!("client sent {malformed} while reading client request headers"),
            );
            return (self.page(&mut exchange, malformed.status(), false).await, Duration::ZERO);
        }
        let after = self.act(&mut exchange).await;
        if !matches!(after, After::Tunnel(_)) {
            log::access(&exchange);
        }
        (after, exchange.settings().keepalive_timeout)
    }

    /// The next head. `Err(None)`: nothing to answer.
    async fn read_head(&mut self, server: &Arc<Server>) -> Result<Request, Option<Malformed>> {
        let settings = &server.settings;
        let mut scan = Scan::request();
        let mut parse = |bytes: &[u8]| {
            let Some((start, end)) = scan.find_end(bytes, settings.head_limits)? else { return Ok(None) };
            Request::parse(bytes.get(start..end).unwrap_or_default()).map(|request| Some((request, end)))
        };
        let mut reader = self.wire.reader();
        let read = self.timer.within(settings.header_timeout, poll_fn(|cx| reader.poll_parse(cx, &mut parse))).await;
        let info =
            |message: &str| log::about_client(&settings.error_log, Level::Info, self.client, format_args!("{message}"));
        match read {
            Ok(Ok(request)) => return Ok(request),
            Ok(Err(Unparsed::Malformed(malformed))) => return Err(Some(malformed)),
            Ok(Err(Unparsed::Nothing)) => {}
            Ok(Err(Unparsed::Cut)) => {
                info("client prematurely closed connection while reading client request headers");
                self.log_unread(server, 400);
            }
            Ok(Err(Unparsed::Failed(error))) => {
                info(&format!("recv() failed ({}) while reading client request headers", log::describe(&error)));
            }
            Err(reactor::Elapsed) if self.wire.ahead().is_empty() => {}
            Err(reactor::Elapsed) => {
                info("client timed out (110: Connection timed out) while reading client request headers")
            }
        }
        Err(None)
    }

    /// An exchange for a head that could not be read.
    fn unread(&self, server: &Arc<Server>) -> Exchange {
        let request = Request::broken(self.wire.ahead());
        Exchange::new(self.running.config.clone(), self.client.clone(), server.clone(), request, self.number)
    }

    /// Writes the access line of a request that gets no answer.
    fn log_unread(&self, server: &Arc<Server>, status: u16) {
        let mut exchange = self.unread(server);
        exchange.answer.status = status;
        log::access(&exchange);
    }

    /// Answers a head that could not be read.
    async fn refuse(&self, server: &Arc<Server>, malformed: Malformed) -> After {
        let mut exchange = self.unread(server);
        log::about(
            &exchange,
            Level::Info,
            format_args!("client sent {malformed} while reading client request headers"),
        );
        self.page(&mut exchange, malformed.status(), false).await
    }

    /// Sends a page, writes the log line, and closes.
    async fn page(&self, exchange: &mut Exchange, status: u16, keep_alive: bool) -> After {
        let reply = Reply::page(status, exchange.settings().server_tokens);
        let after = self.send(exchange, reply, keep_alive).await;
        log::access(exchange);
        after
    }

    /// Does what the configuration says with a request.
    async fn act(&mut self, exchange: &mut Exchange) -> After {
        let server = exchange.server.clone();
        if let rewrite::Outcome::Answer(reply) = rewrite::run(&server.steps, exchange) {
            return self.answer(exchange, reply).await;
        }
        for _ in 0..=CYCLES_MAX {
            if let Some(after) = self.visit(exchange).await {
                return after;
            }
        }
        log::about(exchange, Level::Error, format_args!("rewrite or internal redirection cycle"));
        self.answer_page(exchange, 500).await
    }

    /// Finds the location and does what it says; `None`: the path was changed, and another location is meant.
    async fn visit(&mut self, exchange: &mut Exchange) -> Option<After> {
        let location = match route::find(exchange) {
            route::Found::Location(location) => location,
            route::Found::AddSlash => {
                let reply = Reply::with_slash(exchange);
                return Some(self.answer(exchange, Some(reply)).await);
            }
            route::Found::Nothing => {
                exchange.location = None;
                return self.send_file(exchange).await;
            }
        };
        exchange.location = Some(location.clone());
        let most = exchange.settings().body_bytes_max;
        if let Framing::Length(length) = exchange.request.framing
            && most > 0
            && length > most
        {
            log::about(exchange, Level::Error, format_args!("client intended to send too large body: {length} bytes"));
            return Some(self.answer_and_close(exchange, 413).await);
        }
        match rewrite::run(&location.steps, exchange) {
            rewrite::Outcome::Answer(reply) => return Some(self.answer(exchange, reply).await),
            rewrite::Outcome::Done { changed: true } => return None,
            rewrite::Outcome::Done { changed: false } => {}
        }
        if exchange.pass().is_none() {
            return self.send_file(exchange).await;
        }
        Some(self.forward(exchange).await)
    }

    async fn forward(&mut self, exchange: &mut Exchange) -> After {
        let running = self.running.clone();
        match upstream::forward(exchange, self.wire, &running, self.timer).await {
            Forwarded::Answered { reusable: true } => After::KeepAlive,
            Forwarded::Answered { reusable: false } => After::Linger,
            Forwarded::Broken => After::Close,
            Forwarded::Refused(499) => {
                exchange.answer.status = 499;
                After::Close
            }
            Forwarded::Refused(status @ (400 | 408 | 413 | 431)) => self.answer_and_close(exchange, status).await,
            Forwarded::Refused(status) => self.answer_page(exchange, status).await,
            Forwarded::Upgraded(upgraded) => After::Tunnel(Box::new(tunnel_of(exchange, *upgraded))),
        }
    }

    /// Answers with a file; `None`: another path is to be looked for.
    async fn send_file(&mut self, exchange: &mut Exchange) -> Option<After> {
        let found = match file::answer(exchange) {
            file::Answer::Reply(reply) => return Some(self.answer(exchange, Some(reply)).await),
            file::Answer::Instead(path) => {
                exchange.path = path;
                exchange.rewritten = true;
                return None;
            }
            file::Answer::File(found) => found,
        };
        let keep_alive = exchange.may_keep_alive() && self.skip_body(exchange.request.framing).await == Left::Nothing;
        exchange.answer.status = found.head.status;
        let mut out = found.head.write(exchange, keep_alive);
        exchange.begin_answer(found.head.status, &out);
        let wants_body = exchange.request.method() != b"HEAD" && found.head.status != 304;
        let limit = exchange.settings().send_timeout;
        let mut rest = None;
        match found.body {
            file::Body::Bytes(bytes) if wants_body => out.extend_from_slice(&bytes),
            file::Body::File { fd, from, count } if wants_body => rest = Some((fd, from, count)),
            _ => {}
        }
        if send_all(&self.wire.stream, &out, limit).await.is_err() {
            return Some(After::Close);
        }
        exchange.answer.bytes = out.len() as u64;
        if let Some((fd, from, count)) = rest {
            match transfer::send_file(&self.wire.stream, fd, from, count, limit).await {
                Ok(sent) => {
                    exchange.answer.bytes += sent;
                    if sent < count {
                        log::about(exchange, Level::Alert, format_args!("the file was truncated while it was sent"));
                        return Some(After::Close);
                    }
                }
                Err(_) => return Some(After::Close),
            }
        }
        exchange.answer.complete = true;
        Some(if keep_alive { After::KeepAlive } else { After::Linger })
    }

    async fn answer_page(&mut self, exchange: &mut Exchange, status: u16) -> After {
        let reply = Reply::page(status, exchange.settings().server_tokens);
        self.answer(exchange, Some(reply)).await
    }

    /// Sends an answer of our own, or closes without one (`return 444`).
    async fn answer(&mut self, exchange: &mut Exchange, reply: Option<Reply>) -> After {
        let Some(reply) = reply else {
            exchange.answer.status = 444;
            return After::Close;
        };
        // What is left of the body must be here already if the next request is to be found behind it.
        let left = match exchange.body_bytes {
            _ if exchange.body_taken => Left::Nothing,
            0 => self.skip_body(exchange.request.framing).await,
            _ => Left::Some,
        };
        if let Left::Malformed(malformed) = left {
            log::about(exchange, Level::Info, format_args!("client sent {malformed}"));
            return self.answer_and_close(exchange, malformed.status()).await;
        }
        let keep_alive = exchange.may_keep_alive() && left == Left::Nothing;
        self.send(exchange, reply, keep_alive).await
    }

    async fn answer_and_close(&self, exchange: &mut Exchange, status: u16) -> After {
        let reply = Reply::page(status, exchange.settings().server_tokens);
        self.send(exchange, reply, false).await
    }

    async fn send(&self, exchange: &mut Exchange, reply: Reply, keep_alive: bool) -> After {
        exchange.answer.status = reply.status;
        let mut out = reply.head(exchange, keep_alive);
        exchange.begin_answer(reply.status, &out);
        if exchange.request.method() != b"HEAD" {
            out.extend_from_slice(&reply.body);
        }
        let limit = exchange.settings().send_timeout;
        if send_all(&self.wire.stream, &out, limit).await.is_err() {
            return After::Close;
        }
        exchange.answer.bytes = out.len() as u64;
        exchange.answer.complete = true;
        if keep_alive { After::KeepAlive } else { After::Linger }
    }

    /// Drops what has come of a body that nobody wants.
    async fn skip_body(&mut self, framing: Framing) -> Left {
        let mut decoder = Decoder::new(framing);
        let mut reader = self.wire.reader();
        while !decoder.is_done() && !reader.ahead().is_empty() {
            let next = poll_fn(|cx| {
                reader.poll_bytes(cx, |_, bytes| match decoder.read(bytes) {
                    Ok(piece) => (piece.used, Ok(())),
                    Err(malformed) => (0, Err(malformed)),
                })
            });
            match next.await {
                Ok(Ok(())) => {}
                Ok(Err(malformed)) => return Left::Malformed(malformed),
                Err(_) => return Left::Some,
            }
        }
        if decoder.is_done() { Left::Nothing } else { Left::Some }
    }
}

/// What is left of a request's body.
#[derive(PartialEq, Eq)]
enum Left {
    Nothing,
    Some,
    Malformed(body::Malformed),
}

/// Takes the target and the host apart, and finds the server.
fn understand(exchange: &mut Exchange, group: &Group) -> Result<(), Malformed> {
    let request = &exchange.request;
    let parsed = target::parse(request.target())?;
    let field = request.fields.first(crate::head::Name::Host);
    let host = match (parsed.authority, field) {
        (Some(authority), field) => {
            field.map(target::host_name).transpose()?;
            target::host_name(authority)?
        }
        (None, Some(field)) if field.is_empty() && request.version == Version::Http10 => String::new(),
        (None, Some(field)) => target::host_name(field)?,
        (None, None) => String::new(),
    };
    let (written, path) = (parsed.written.into_owned(), parsed.path.into_owned());
    let args = parsed.args.map(<[u8]>::to_vec);
    if parsed.authority.is_some() {
        exchange.request.host_from_target();
    }
    let found = group.names.find(&host);
    exchange.server = found.server.clone();
    if let Some((expression, captures)) = found.captures {
        exchange.set_captures(expression, captures);
    }
    exchange.host = host;
    exchange.written = written;
    exchange.path = path;
    exchange.args = args;
    Ok(())
}

/// Reads what a client still sends, so that closing does not take the answer from it (RFC 9112 9.6).
async fn linger(mut wire: Wire) {
    if wire.stream.finish().is_err() {
        return;
    }
    let timer = Timer::new();
    let began = reactor::now();
    let mut reader = wire.reader();
    while u128::from(reactor::now().saturating_sub(began)) < LINGER.as_millis() {
        let next = poll_fn(|cx| reader.poll_bytes(cx, |_, bytes| (bytes.len(), bytes.len())));
        match timer.within(LINGER_PAUSE, next).await {
            Ok(Ok(count)) if count > 0 => {}
            _ => return,
        }
    }
}

/// What a tunnel needs of the request that dug it.
fn tunnel_of(exchange: &Exchange, upgraded: Upgraded) -> Tunnel {
    let settings = exchange.settings();
    let lines: Vec<log::Line> =
        settings.access_log.iter().filter_map(|log| log::Line::new(log, exchange, true)).collect();
    let wanted = log::enabled(&settings.error_log, Level::Info);
    let end = (!lines.is_empty() || wanted).then(|| {
        Box::new(Ending {
            lines,
            logs: settings.error_log.clone(),
            connection: exchange.client.number,
            context: if wanted { log::context(exchange) } else { String::new() },
            head_bytes: exchange.answer.head_bytes,
            began: exchange.began,
        })
    });
    let limits = tunnel::Limits { idle: settings.proxy.read_timeout, send: settings.proxy.send_timeout };
    Tunnel { upgraded, limits, end }
}

impl Tunnel {
    /// The task that the connection goes on as.
    fn dig(self, mut wire: Wire, slot: Slot) -> Digging {
        let Upgraded { stream, early, chosen } = self.upgraded;
        let early = (wire.take_ahead(), early);
        let relay = tunnel::Tunnel::new(wire.stream, stream, early, self.limits);
        Digging { relay, end: self.end, _counted: (chosen, slot) }
    }
}

/// A tunnel with what has to be done at its end. Written out rather than `async`, which would hold most of it twice.
struct Digging {
    relay: tunnel::Tunnel,
    end: Option<Box<Ending>>,
    /// The tunnel is a connection of its peer, and of the worker.
    _counted: (Chosen, Slot),
}

impl Future for Digging {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let summary = ready!(Pin::new(&mut this.relay).poll(cx));
        if let Some(ending) = this.end.take() {
            ending.write(&summary);
        }
        Poll::Ready(())
    }
}

impl Ending {
    fn write(&self, summary: &tunnel::Summary) {
        let why = match summary.end {
            tunnel::End::Closed => None,
            tunnel::End::Idle => {
                Some("upstream timed out (110: Connection timed out) while proxying upgraded connection")
            }
            tunnel::End::ClientFailed => Some("client broke the connection while proxying upgraded connection"),
            tunnel::End::UpstreamFailed => Some("upstream broke the connection while proxying upgraded connection"),
        };
        if let Some(why) = why {
            log::error(&self.logs, Level::Info, Some(self.connection), format_args!("{why}"), &self.context);
        }
        let moved = log::Moved {
            bytes: self.head_bytes + summary.to_client,
            head_bytes: self.head_bytes,
            millis: reactor::now().saturating_sub(self.began),
        };
        self.lines.iter().for_each(|line| line.write(&moved));
    }
}
