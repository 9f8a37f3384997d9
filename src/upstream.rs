//! One request to an upstream and its answer back: choose a peer, write the head anew, stream both bodies, try another
//! peer where that is safe, keep or drop the connection.
//!
//! Bodies go both ways at once: an answer that comes early reaches the client while it still sends. Nothing of a request
//! is sent before what has come of its body has been checked.

use std::future::Future;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::balance::{Chosen, Group, Outcome, Search};
use crate::body::Decoder;
use crate::config::{Destination, Level, NextUpstream, Place, Proxy, Url};
use crate::error_page;
use crate::exchange::{Exchange, Tried, Try};
use crate::gzip;
use crate::head::Framing;
use crate::head::{self, Limits, Malformed, Name, Response, Scan, Version};
use crate::heads::{self, Outgoing};
use crate::log;
use crate::pace;
use crate::pool::{self, Pooled};
use crate::reactor::{self, Millis, Timer};
use crate::reply::{Carriage, Packing};
use crate::running::Running;
use crate::socket::{self, Addr, Socket};
use crate::target;
use crate::transfer::{self, Coding, Failure, Transfer, send_all};
use crate::variables;
use crate::wire::{Reader, Stream, Unparsed, Wire};

/// Interim answers (1xx) to one request.
const INTERIM_MAX: u32 = 32;

/// What became of a request.
pub enum Forwarded {
    /// The answer was relayed; whether the client's connection can be used again.
    Answered { reusable: bool },
    /// Nothing was sent to the client: it gets this status.
    Refused(u16),
    /// The answer broke off, or the client is gone: close.
    Broken,
    /// Both sides have agreed on another protocol.
    Upgraded(Box<Upgraded>),
}

/// An upstream that has left HTTP, and what it has sent already.
pub struct Upgraded {
    pub stream: Stream,
    pub early: Vec<u8>,
    /// Counts the tunnel as a connection of its peer.
    pub chosen: Chosen,
}

/// Why a try with a peer gave no answer.
enum Missed {
    Connect(io::Error),
    ConnectTimeout,
    /// The peer ended or broke the connection before a head was there.
    Closed(Option<io::Error>),
    Timeout(&'static str),
    Invalid(Malformed),
    /// It would leave HTTP for something else than was asked for.
    Upgrade(&'static str),
    /// It answered with a status that means: ask another.
    Status(u16),
    /// The client's fault; no other peer is tried.
    Client(u16, String),
    /// The client is gone.
    Gone,
}

/// Passes the request on, and the answer back.
/// `timer` is the connection's.
pub async fn forward(exchange: &mut Exchange, client: &mut Wire, running: &Running, timer: &Timer) -> Forwarded {
    let (group, uri) = match destination(exchange, running).await {
        Ok(found) => found,
        Err(message) => {
            log::about(exchange, Level::Error, format_args!("{message}"));
            return Forwarded::Refused(if message.starts_with("invalid") { 500 } else { 502 });
        }
    };
    if exchange.body_bytes > 0 && !exchange.body_taken && exchange.passes_body() {
        log::about(exchange, Level::Error, format_args!("the request body was sent to another upstream already"));
        return Forwarded::Refused(502);
    }
    let body = match early_body(exchange, client) {
        Ok(body) => body,
        Err((status, why)) => {
            log::about(exchange, Level::Info, format_args!("client sent {why}"));
            return Forwarded::Refused(status);
        }
    };
    let outgoing = match heads::outgoing(exchange, &uri, whole(body.as_ref())) {
        Ok(outgoing)
            if outgoing.head.len().saturating_sub(body.as_ref().map_or(0, |body| body.len())) > heads::BYTES_MAX =>
        {
            log::about(exchange, Level::Error, format_args!("the request head for the upstream is longer than 64 KiB"));
            return Forwarded::Refused(500);
        }
        Ok(outgoing) => outgoing,
        Err(why) => {
            log::about(exchange, Level::Info, format_args!("client sent {why}"));
            return Forwarded::Refused(why.status());
        }
    };
    group.refresh(running.config.main.resolver).await;
    let search = Search::new(&group.upstream, exchange);
    Attempts { timer, exchange, client, group, uri, body, outgoing, search, began: reactor::now() }.run().await
}

/// What has already come of the body is checked before anything is sent. If it is all of it, it is taken, and can be sent
/// to one peer after the other.
fn early_body(exchange: &mut Exchange, client: &mut Wire) -> Result<Option<Rc<Vec<u8>>>, (u16, String)> {
    if exchange.body_taken {
        return Ok(exchange.whole_body.clone());
    }
    if matches!(exchange.request.framing, Framing::None | Framing::Length(0)) || client.ahead().is_empty() {
        return Ok(None);
    }
    let most = exchange.settings().body_bytes_max;
    let mut decoder = Decoder::new(exchange.request.framing);
    let mut body = Vec::new();
    let mut used = 0;
    while used < client.ahead().len() && !decoder.is_done() {
        let rest = client.ahead().get(used..).unwrap_or_default();
        let piece = decoder.read(rest).map_err(|why| (why.status(), why.to_string()))?;
        used += piece.used;
        body.extend_from_slice(piece.data);
        if most > 0 && body.len() as u64 > most {
            return Err((413, "too large body".to_owned()));
        }
    }
    if !decoder.is_done() {
        return Ok(None);
    }
    client.consume(used);
    exchange.body_taken = true;
    exchange.body_bytes = body.len() as u64;
    if exchange.config.keeps_body {
        exchange.body = body.clone();
    }
    exchange.whole_body = Some(Rc::new(body));
    Ok(exchange.whole_body.clone())
}

fn whole(body: Option<&Rc<Vec<u8>>>) -> Option<&[u8]> {
    body.map(|body| body.as_slice())
}

/// Where the request goes, and the target that it gets there.
async fn destination(exchange: &mut Exchange, running: &Running) -> Result<(Arc<Group>, Vec<u8>), String> {
    let Some(pass) = exchange.pass() else { return Err("no upstream is configured".to_owned()) };
    let unknown = || "no such upstream".to_owned();
    match &pass.destination {
        Destination::Upstream(number) => {
            let group = running.group(*number).ok_or_else(unknown)?;
            Ok((group, passed_uri(exchange, pass.uri.as_deref())))
        }
        Destination::Made { url, resolves, only_named } => {
            let (resolves, only_named) = (*resolves, *only_named);
            let made = variables::value(url, exchange);
            let made =
                String::from_utf8(made).map_err(|_| "invalid URL of \"proxy_pass\": it is no text".to_owned())?;
            let url = Url::parse(&made).map_err(|_| format!("invalid URL prefix in \"{made}\""))?;
            let group = match running.group_named(url.authority) {
                Some(group) => group,
                None if only_named => {
                    return Err(format!(
                        "\"{}\" is chosen by the client and not named in the configuration",
                        url.authority
                    ));
                }
                None => {
                    let place = url.place().ok_or_else(|| format!("invalid host in upstream \"{}\"", url.authority))?;
                    if matches!(place, Place::Name { .. }) && !resolves {
                        return Err(format!("no resolver defined to resolve {}", url.authority));
                    }
                    running.made_group(url.authority, place)
                }
            };
            exchange.made_host = Some(url.host_and_port());
            let uri = match url.uri {
                None => passed_uri(exchange, None),
                Some(uri) if uri.starts_with('/') => uri.as_bytes().to_vec(),
                Some(uri) => format!("/{uri}").into_bytes(),
            };
            Ok((group, uri))
        }
    }
}

/// The target: as the client wrote it, or with the location's part replaced by the URI of `proxy_pass`.
fn passed_uri(exchange: &Exchange, replacement: Option<&str>) -> Vec<u8> {
    // What `rewrite ... break` made goes as it is, whatever `proxy_pass` says (nginx).
    let replacement = replacement.filter(|_| !exchange.broke);
    if replacement.is_none() && !exchange.rewritten && !exchange.args_changed {
        return exchange.written.clone();
    }
    let (replacement, matched) = match replacement {
        Some(replacement) => (replacement, exchange.location.as_ref().map_or(0, |location| location.path.len())),
        None => ("", 0),
    };
    let mut uri = replacement.as_bytes().to_vec();
    target::encode_path(exchange.path.get(matched..).unwrap_or_default(), &mut uri);
    if let Some(args) = exchange.args.as_ref().filter(|args| !args.is_empty()) {
        uri.push(if replacement.contains('?') { b'&' } else { b'?' });
        uri.extend_from_slice(args);
    }
    uri
}

/// The tries of one request, one peer after the other.
struct Attempts<'e> {
    timer: &'e Timer,
    exchange: &'e mut Exchange,
    client: &'e mut Wire,
    group: Arc<Group>,
    uri: Vec<u8>,
    /// The request's body, if all of it was there at once.
    body: Option<Rc<Vec<u8>>>,
    outgoing: Outgoing,
    search: Search,
    began: Millis,
}

impl Attempts<'_> {
    async fn run(mut self) -> Forwarded {
        loop {
            let Some(chosen) = self.group.choose(&mut self.search) else {
                return Forwarded::Refused(self.no_peer());
            };
            self.exchange.tries.push(Try::new(Tried::Peer(chosen.peer.addr.clone())));
            match self.with(chosen).await {
                Ok(done) => return done,
                Err(Some(status)) => return Forwarded::Refused(status),
                Err(None) => {}
            }
        }
    }

    /// Whether one more peer may be tried, if there is one.
    fn may_go_on(&self) -> bool {
        let proxy = &self.exchange.settings().proxy;
        let tries = self.search.tries();
        let is_late = !proxy.next_timeout.is_zero()
            && u128::from(reactor::now().saturating_sub(self.began)) >= proxy.next_timeout.as_millis();
        let used_up = proxy.next_tries > 0 && tries >= proxy.next_tries as usize;
        !is_late && !used_up && tries < self.group.tries()
    }

    /// No peer is left, or none can be tried.
    fn no_peer(&mut self) -> u16 {
        let name = &self.group.upstream.name;
        self.exchange.tries.push(Try { status: Some(502), ended: Some(0), ..Try::new(Tried::Nobody(name.clone())) });
        let why = if self.group.is_empty() { "could not be resolved" } else { "no live upstreams" };
        let message = if self.group.is_empty() { format!("{name} {why}") } else { why.to_owned() };
        log::about(self.exchange, Level::Error, format_args!("{message} while connecting to upstream"));
        502
    }

    /// Tries one peer: what came of it, or the status to end with, or nothing: try the next.
    async fn with(&mut self, chosen: Chosen) -> Result<Forwarded, Option<u16>> {
        let mut stale = false;
        loop {
            let pooled = if stale { None } else { pool::take(&chosen.peer.addr, &self.group.upstream) };
            let reused = pooled.is_some();
            let pooled = match pooled {
                Some(pooled) => Ok(pooled),
                None => self.connect(&chosen.peer.addr).await,
            };
            if let Some(now) = self.exchange.tries.last_mut().filter(|_| pooled.is_ok()) {
                now.connected = Some(now.elapsed());
            }
            let mut sent = Sent::default();
            let missed = match pooled {
                Ok(pooled) => {
                    let mut pooled = pooled;
                    pooled.requests += 1;
                    match self.ask(&mut pooled, &mut sent).await {
                        Ok(head) => {
                            // Fields that are added to the answer may ask for the upstream's.
                            let head = Rc::new(head);
                            self.exchange.upstream_head = Some(head.clone());
                            if error_page::intercepts(self.exchange, head.status) {
                                return Ok(self.intercept(&chosen, &head));
                            }
                            return self.relay(pooled, chosen, &head, sent).await;
                        }
                        Err(missed) => missed,
                    }
                }
                Err(missed) => {
                    sent.nothing = true;
                    missed
                }
            };
            // A connection that was closed while it lay idle says nothing of its peer: once more, on a new one.
            if reused && matches!(missed, Missed::Closed(_)) && self.may_repeat(&sent) {
                stale = true;
                continue;
            }
            return Err(self.judge(&chosen, &missed, &sent));
        }
    }

    /// Drops the answer: `error_page` has another one.
    fn intercept(&mut self, chosen: &Chosen, head: &Response) -> Forwarded {
        chosen.report(Outcome::Answered);
        self.end_try(None);
        if head.status == 401 {
            let asked = head.fields.named(b"www_authenticate").map(|value| (&b"WWW-Authenticate"[..], value.to_vec()));
            self.exchange.extra.extend(asked);
        }
        Forwarded::Refused(head.status)
    }

    /// Whether the request can be sent once more: nothing of its body is gone, and doing it twice does no harm
    /// (RFC 9110 9.2.2).
    fn may_repeat(&self, sent: &Sent) -> bool {
        let proxy = &self.exchange.settings().proxy;
        let idempotent = !matches!(self.exchange.request.method(), b"POST" | b"LOCK" | b"PATCH");
        sent.body_bytes == 0 && (sent.nothing || idempotent || proxy.next.has(NextUpstream::NON_IDEMPOTENT))
    }

    /// What a miss means: for the log, for the peer, and for the client. `None`: another peer is tried.
    fn judge(&mut self, chosen: &Chosen, missed: &Missed, sent: &Sent) -> Option<u16> {
        let next = self.exchange.settings().proxy.next;
        let (status, flag, message) = match missed {
            Missed::Connect(error) => (
                502,
                NextUpstream::ERROR,
                format!("connect() failed ({}) while connecting to upstream", log::describe(error)),
            ),
            Missed::ConnectTimeout => (
                504,
                NextUpstream::TIMEOUT,
                "upstream timed out (110: Connection timed out) while connecting to upstream".to_owned(),
            ),
            Missed::Closed(None) => (
                502,
                NextUpstream::ERROR,
                "upstream prematurely closed connection while reading response header from upstream".to_owned(),
            ),
            Missed::Closed(Some(error)) => (
                502,
                NextUpstream::ERROR,
                format!("recv() failed ({}) while reading response header from upstream", log::describe(error)),
            ),
            Missed::Timeout(what) => {
                (504, NextUpstream::TIMEOUT, format!("upstream timed out (110: Connection timed out) {what}"))
            }
            Missed::Invalid(why) => (
                502,
                NextUpstream::INVALID_HEADER,
                format!("upstream sent {why} while reading response header from upstream"),
            ),
            Missed::Upgrade(what) => (502, NextUpstream::INVALID_HEADER, format!("upstream sent a 101 that {what}")),
            Missed::Status(status) => (*status, 0, String::new()),
            Missed::Client(status, why) => {
                chosen.report(Outcome::Neutral);
                self.end_try(None);
                log::about(self.exchange, Level::Info, format_args!("client {why}"));
                return Some(*status);
            }
            Missed::Gone => {
                chosen.report(Outcome::Neutral);
                self.end_try(Some(499));
                log::about(
                    self.exchange,
                    Level::Info,
                    format_args!("client closed connection while waiting for the upstream"),
                );
                return Some(499);
            }
        };
        let fault = match missed {
            Missed::Status(status) => !matches!(status, 403 | 404),
            // Being out of descriptors, ports or memory is no fault of the peer.
            Missed::Connect(error) => !socket::is_shortage(error),
            _ => true,
        };
        let disabled = chosen.report(if fault { Outcome::Failed } else { Outcome::Neutral });
        self.end_try(Some(status));
        if !message.is_empty() {
            log::about(self.exchange, Level::Error, format_args!("{message}"));
        }
        if disabled {
            log::about(self.exchange, Level::Warn, format_args!("upstream server temporarily disabled"));
        }
        let allowed = flag == 0 || next.has(flag);
        let again = allowed && self.may_repeat(sent) && self.may_go_on();
        if again { None } else { Some(status) }
    }

    fn end_try(&mut self, status: Option<u16>) {
        if let Some(now) = self.exchange.tries.last_mut() {
            now.status = now.status.or(status);
            now.ended = Some(now.elapsed());
        }
    }

    /// Whether a client that ends its side does not wait any more: one that is to upgrade, or that keeps others out
    /// (`limit_conn`).
    fn end_counts(&self) -> bool {
        !self.outgoing.offered.is_empty() || !self.exchange.limits.held.is_empty()
    }

    async fn connect(&self, addr: &Addr) -> Result<Pooled, Missed> {
        let timer = self.timer;
        let limit = self.exchange.settings().proxy.connect_timeout;
        let end_counts = self.end_counts();
        let mut connecting = std::pin::pin!(timer.within(limit, Socket::connect(addr)));
        let client = &self.client.stream;
        let connected = poll_fn(|cx| {
            if let Poll::Ready(connected) = connecting.as_mut().poll(cx) {
                return Poll::Ready(Some(connected));
            }
            poll_gone(client, end_counts, cx).map(|()| None)
        });
        match connected.await {
            None => Err(Missed::Gone),
            Some(Err(reactor::Elapsed)) => Err(Missed::ConnectTimeout),
            Some(Ok(Err(error))) if error.kind() == io::ErrorKind::TimedOut => Err(Missed::ConnectTimeout),
            Some(Ok(Err(error))) => Err(Missed::Connect(error)),
            Some(Ok(Ok(socket))) => Ok(Pooled::new(Wire::new(Stream::Plain(socket)))),
        }
    }

    /// Sends the request, and reads heads until a final one is there. What is left of the body goes on later.
    async fn ask(&mut self, pooled: &mut Pooled, sent: &mut Sent) -> Result<Response, Missed> {
        let settings = self.exchange.settings();
        let proxy = &settings.proxy;
        let read_timeout = proxy.read_timeout.unwrap_or(Proxy::TIMEOUT);
        let framing = self.outgoing.framing;
        let limits = transfer::Limits {
            bytes_max: settings.body_bytes_max,
            read_timeout: settings.body_timeout,
            write_timeout: proxy.send_timeout.unwrap_or(Proxy::TIMEOUT),
        };
        let coding = if framing == Framing::Chunked { Coding::Chunked } else { Coding::Plain };
        let http11 = self.exchange.request.version == Version::Http11;
        let has_body = !matches!(self.exchange.request.framing, Framing::None | Framing::Length(0));
        let goes_on = self.exchange.request.expects_continue && has_body && self.exchange.passes_body();
        let send_timeout = settings.send_timeout;
        let end_counts = self.end_counts();
        // The first try takes the head; the rare further one writes it again.
        let head = match std::mem::take(&mut self.outgoing.head) {
            head if !head.is_empty() => head,
            _ => heads::outgoing(self.exchange, &self.uri, whole(self.body.as_ref())).map_err(Missed::Invalid)?.head,
        };
        let mut upload = Upload::new(Transfer::new(head, framing, coding, limits));
        if self.exchange.config.keeps_body {
            upload.transfer.keep();
        }
        let (client_tx, mut client_rx) = self.client.split();
        let (upstream_tx, mut upstream_rx) = pooled.wire.split();
        if goes_on && !self.exchange.continued {
            self.exchange.continued = true;
            send_all(client_tx, b"HTTP/1.1 100 Continue\r\n\r\n", send_timeout).await.map_err(|_| Missed::Gone)?;
        }
        let timer = self.timer;
        let mut waiting = false;
        let mut interim = 0;
        let head = loop {
            let mut scan = Scan::response();
            let mut parse = |bytes: &[u8]| {
                let limits =
                    Limits { line_bytes_max: head::RESPONSE_BYTES_MAX, head_bytes_max: head::RESPONSE_BYTES_MAX };
                let Some((start, end)) = scan.find_end(bytes, limits)? else { return Ok(None) };
                Response::parse(bytes.get(start..end).unwrap_or_default()).map(|head| Some((head, end)))
            };
            let read = poll_fn(|cx| {
                if let Err(missed) = upload.poll(cx, &mut client_rx, upstream_tx) {
                    return Poll::Ready(Err(missed));
                }
                match upstream_rx.poll_parse(cx, &mut parse) {
                    Poll::Ready(Ok(head)) => return Poll::Ready(Ok(head)),
                    Poll::Ready(Err(unparsed)) => return Poll::Ready(Err(Upload::why_no_head(unparsed))),
                    Poll::Pending => {}
                }
                if let Poll::Ready(()) = poll_gone(client_tx, end_counts, cx) {
                    return Poll::Ready(Err(Missed::Gone));
                }
                if !upload.is_over() {
                    return Poll::Pending;
                }
                if !std::mem::replace(&mut waiting, true) {
                    timer.set(read_timeout);
                }
                timer.poll_due(cx).map(|()| Err(Missed::Timeout("while reading response header from upstream")))
            })
            .await;
            sent.take(&upload);
            if self.body.is_none() {
                self.exchange.body_bytes = sent.body_bytes;
                self.exchange.body = upload.transfer.kept().to_vec();
            }
            let head = read?;
            match head.status {
                101 => break head,
                100..=199 => {
                    interim += 1;
                    if interim > INTERIM_MAX {
                        return Err(Missed::Invalid(Malformed::HeadTooLong));
                    }
                    // We have said `100 Continue` ourselves.
                    if head.status != 100 && http11 {
                        let bytes = heads::interim(&head);
                        send_all(client_tx, &bytes, send_timeout).await.map_err(|_| Missed::Gone)?;
                    }
                }
                _ => break head,
            }
        };
        sent.upload = (!upload.complete).then_some(upload);
        self.heed(head, sent)
    }

    /// Whether an answer is one that the client gets.
    fn heed(&mut self, head: Response, sent: &Sent) -> Result<Response, Missed> {
        if head.status == 101 && (sent.upload.is_some() || self.agreed(&head).is_none()) {
            let asked = !self.outgoing.offered.is_empty();
            return Err(Missed::Upgrade(if asked { "does not name what was asked for" } else { "nobody asked for" }));
        }
        if let Some(now) = self.exchange.tries.last_mut() {
            now.headed = Some(now.elapsed());
            now.status = Some(head.status);
            now.received += head.len() as u64;
            now.sent = sent.bytes;
        }
        // Where no other peer can be asked this answer is better than none.
        let status = head.status;
        if self.exchange.settings().proxy.next.has_status(status)
            && self.may_repeat(sent)
            && self.may_go_on()
            && self.group.has_another(&self.search)
        {
            return Err(Missed::Status(status));
        }
        Ok(head)
    }

    /// Passes the answer on.
    async fn relay(
        &mut self,
        mut pooled: Pooled,
        chosen: Chosen,
        head: &Response,
        sent: Sent,
    ) -> Result<Forwarded, Option<u16>> {
        if head.status == 101 {
            return self.upgrade(pooled, chosen, head).await;
        }
        chosen.report(Outcome::Answered);
        let settings = self.exchange.settings();
        // Asked with GET for a client that wants the head alone.
        let status = self.exchange.status.unwrap_or(head.status);
        let unread = (self.exchange.request.method() == b"HEAD" && !self.outgoing.to_head)
            || (head::is_bodyless(status) && !head::is_bodyless(head.status));
        let upstream_framing = head.framing(self.outgoing.to_head);
        let framing = if unread { Framing::None } else { upstream_framing };
        let http11 = self.exchange.request.version == Version::Http11;
        let packing = gzip::packing(self.exchange, &about(head, status));
        let (coding, delimited) = match framing {
            Framing::None => (Coding::Plain, true),
            Framing::Length(_) if packing != Packing::Gzip => (Coding::Plain, true),
            _ if http11 => (Coding::Chunked, true),
            _ => (Coding::Plain, false),
        };
        // A body that is not passed on must not be taken for the next request.
        let unread_body = !self.exchange.passes_body()
            && !self.exchange.body_taken
            && !matches!(self.exchange.request.framing, Framing::None | Framing::Length(0));
        let keep_alive = delimited && sent.upload.is_none() && !unread_body && self.exchange.may_keep_alive();
        let limits = transfer::Limits {
            bytes_max: 0,
            read_timeout: settings.proxy.read_timeout.unwrap_or(Proxy::TIMEOUT),
            write_timeout: settings.send_timeout,
        };
        self.exchange.answer.status = status;
        if head.fields.named(b"location").next().is_some() {
            self.exchange.forget_location();
        }
        self.bind(&chosen);
        let chunked = coding == Coding::Chunked;
        let out = heads::answer(self.exchange, head, Carriage { keep_alive, chunked, packing });
        self.exchange.begin_answer(status, &out);
        let reusable = self.outgoing.keeps_alive
            && head.keeps_alive()
            && framing == upstream_framing
            && framing != Framing::UntilClose;
        let mut download = Transfer::new(out, framing, coding, limits);
        if packing == Packing::Gzip {
            download.pack(gzip::encoder(self.exchange, head.content_length()));
        }
        download.slow_down(pace::to_client(self.exchange));
        download.slow_down(pace::from_upstream(self.exchange, reactor::now()));
        let mut upload = sent.upload;
        let end_counts = !self.exchange.limits.held.is_empty();
        let (client_tx, mut client_rx) = self.client.split();
        let (upstream_tx, mut upstream_rx) = pooled.wire.split();
        let done = poll_fn(|cx| {
            if let Some(upload) = &mut upload
                && let Err(missed) = upload.poll(cx, &mut client_rx, upstream_tx)
            {
                return Poll::Ready(Err(Stopped::Upload(missed)));
            }
            match download.poll(cx, &mut upstream_rx, client_tx) {
                Poll::Ready(done) => Poll::Ready(done.map_err(Stopped::Download)),
                Poll::Pending => poll_gone(client_tx, end_counts, cx).map(|()| Err(Stopped::Gone)),
            }
        })
        .await;
        self.exchange.answer.bytes = download.written;
        self.exchange.answer.packed = download.packed();
        let uploaded = upload.as_ref().is_none_or(|upload| upload.complete);
        if let Some(upload) = &upload {
            self.exchange.body_bytes = upload.transfer.body_bytes;
        }
        if let Some(now) = self.exchange.tries.last_mut() {
            now.body = download.body_bytes;
            now.received += download.body_bytes;
            now.ended = Some(now.elapsed());
        }
        match done {
            Ok(()) => {
                self.exchange.answer.complete = true;
                if reusable && uploaded && pooled.wire.ahead().is_empty() {
                    pool::put(&chosen.peer.addr, pooled, &self.group.upstream);
                }
                Ok(Forwarded::Answered { reusable: keep_alive })
            }
            Err(stopped) => {
                let untouched = download.written == 0 && stopped.is_upstreams();
                log::about(self.exchange, stopped.level(), format_args!("{stopped}"));
                if !untouched {
                    if stopped.is_clients() {
                        self.exchange.answer.status = 499; // the client did not wait for the rest
                    }
                    return Ok(Forwarded::Broken);
                }
                if let Some(now) = self.exchange.tries.last_mut() {
                    now.status = Some(502);
                }
                Err(Some(502))
            }
        }
    }

    /// Tells the client which peer it is bound to from now on.
    fn bind(&mut self, chosen: &Chosen) {
        let cookie = self.group.cookie(&chosen.peer, self.exchange);
        self.exchange.extra.extend(cookie.map(|cookie| (&b"Set-Cookie"[..], cookie.into_bytes())));
    }

    /// What the upstream leaves HTTP for, if that is one of what we asked for.
    fn agreed<'h>(&self, head: &'h Response) -> Option<&'h [u8]> {
        let named = head.fields.first(Name::Upgrade).and_then(|value| head::tokens(value).next())?;
        let is_offered = head::tokens(&self.outgoing.offered).any(|known| known.eq_ignore_ascii_case(named));
        let is_upgrade = head.version == Version::Http11 && head.fields.has_token(Name::Connection, "upgrade");
        (is_offered && is_upgrade).then_some(named)
    }

    /// The upstream leaves HTTP, as was asked for.
    async fn upgrade(&mut self, pooled: Pooled, chosen: Chosen, head: &Response) -> Result<Forwarded, Option<u16>> {
        let token = self.agreed(head).unwrap_or_default();
        chosen.report(Outcome::Answered);
        self.exchange.answer.status = 101;
        self.bind(&chosen);
        let out = heads::upgraded(self.exchange, head, token);
        self.exchange.begin_answer(101, &out);
        let limit = self.exchange.settings().send_timeout;
        if send_all(&self.client.stream, &out, limit).await.is_err() {
            return Ok(Forwarded::Broken);
        }
        self.exchange.answer.bytes = out.len() as u64;
        self.exchange.answer.complete = true;
        let Pooled { mut wire, .. } = pooled;
        let early = wire.take_ahead();
        Ok(Forwarded::Upgraded(Box::new(Upgraded { stream: wire.stream, early, chosen })))
    }
}

/// What compression has to know of an upstream's answer.
fn about(head: &Response, status: u16) -> gzip::About<'_> {
    gzip::About {
        status,
        content_type: head.fields.first(Name::ContentType),
        length: head.content_length(),
        fields: Some(&head.fields),
        is_file: false,
    }
}

/// What of a request has left for a peer.
#[derive(Default)]
struct Sent {
    /// Not even the connection was made.
    nothing: bool,
    body_bytes: u64,
    bytes: u64,
    /// The rest of the body, if it was not sent to its end.
    upload: Option<Upload>,
}

impl Sent {
    fn take(&mut self, upload: &Upload) {
        self.body_bytes = upload.transfer.body_bytes;
        self.bytes = upload.transfer.written;
    }
}

/// The request on its way to the upstream.
struct Upload {
    transfer: Transfer,
    /// All of it was sent.
    complete: bool,
    /// The upstream takes no more of it; its answer may still come.
    refused: Option<io::Error>,
}

impl Upload {
    fn new(transfer: Transfer) -> Self {
        Self { transfer, complete: false, refused: None }
    }

    /// Nothing more is sent.
    fn is_over(&self) -> bool {
        self.complete || self.refused.is_some()
    }

    fn poll(&mut self, cx: &mut Context<'_>, client: &mut Reader<'_>, upstream: &Stream) -> Result<(), Missed> {
        if self.is_over() {
            return Ok(());
        }
        let client_fault = |status, why: &str| Err(Missed::Client(status, why.to_owned()));
        match self.transfer.poll(cx, client, upstream) {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(())) => {
                self.complete = true;
                Ok(())
            }
            Poll::Ready(Err(Failure::Sink(error))) => {
                self.refused = Some(error);
                Ok(())
            }
            Poll::Ready(Err(Failure::SinkTimeout)) => Err(Missed::Timeout("while sending request to upstream")),
            Poll::Ready(Err(Failure::Source(_))) => Err(Missed::Gone),
            Poll::Ready(Err(Failure::Cut)) => {
                client_fault(400, "prematurely closed connection while sending request body")
            }
            Poll::Ready(Err(Failure::SourceTimeout)) => client_fault(408, "timed out while sending request body"),
            // Nothing is compressed on this way.
            Poll::Ready(Err(Failure::Encoder)) => Err(Missed::Gone),
            Poll::Ready(Err(Failure::TooLarge)) => client_fault(413, "sent too large body"),
            Poll::Ready(Err(Failure::Malformed(why))) => Err(Missed::Client(why.status(), format!("sent {why}"))),
        }
    }

    fn why_no_head(unparsed: Unparsed<Malformed>) -> Missed {
        match unparsed {
            Unparsed::Nothing | Unparsed::Cut => Missed::Closed(None),
            Unparsed::Failed(error) => Missed::Closed(Some(error)),
            Unparsed::Malformed(why) => Missed::Invalid(why),
        }
    }
}

/// Why an answer broke off.
enum Stopped {
    Upload(Missed),
    Download(Failure),
    Gone,
}

impl Stopped {
    fn is_upstreams(&self) -> bool {
        matches!(
            self,
            Self::Download(Failure::Source(_) | Failure::Cut | Failure::SourceTimeout | Failure::Malformed(_))
        )
    }

    fn is_clients(&self) -> bool {
        matches!(self, Self::Gone | Self::Upload(Missed::Gone) | Self::Download(Failure::Sink(_)))
    }

    fn level(&self) -> Level {
        if self.is_upstreams() { Level::Error } else { Level::Info }
    }
}

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Upload(Missed::Client(_, why)) => write!(f, "client {why}"),
            Self::Upload(Missed::Timeout(what)) => write!(f, "upstream timed out (110: Connection timed out) {what}"),
            Self::Upload(_) | Self::Gone => f.write_str("client closed connection while reading upstream"),
            Self::Download(Failure::Source(error)) => {
                write!(f, "recv() failed ({}) while reading upstream", log::describe(error))
            }
            Self::Download(Failure::Cut) => {
                f.write_str("upstream prematurely closed connection while reading upstream")
            }
            Self::Download(Failure::SourceTimeout) => {
                f.write_str("upstream timed out (110: Connection timed out) while reading upstream")
            }
            Self::Download(Failure::Malformed(why)) => write!(f, "upstream sent {why} while reading upstream"),
            Self::Download(Failure::Sink(error)) => {
                write!(f, "send() failed ({}) while sending to client", log::describe(error))
            }
            Self::Download(Failure::Encoder) => f.write_str("the answer could not be compressed"),
            Self::Download(Failure::SinkTimeout) => f.write_str("client timed out while sending to client"),
            Self::Download(Failure::TooLarge) => f.write_str("upstream sent too large body"),
        }
    }
}

/// Ready when the client is gone; a client that only stopped sending still waits for its answer, unless `end_counts`.
fn poll_gone(client: &Stream, end_counts: bool, cx: &mut Context<'_>) -> Poll<()> {
    if end_counts && client.socket().ended() {
        return Poll::Ready(());
    }
    client.socket().poll_failed(cx)
}
