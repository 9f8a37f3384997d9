//! Forwards a request to an upstream: selects a peer, sends the request, relays the response, retries on another peer
//! where that is safe, and keeps or closes the connection.
//!
//! Both bodies are relayed at once: an early response reaches the client while it still sends. Nothing of a request is
//! sent before the buffered part of its body is checked.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::config::{Level, NextUpstream, bind_addr};
use crate::http1::body::Decoder;
use crate::http1::head::{Framing, HeadScanner, HeaderName, Malformed, Response, Version};
use crate::http1::uri;
use crate::modules::error_page;
use crate::proxy::balance::{Outcome, PeerLease, PeerSelection, UpstreamState};
use crate::proxy::destination::resolve_destination;
use crate::proxy::error::AttemptError;
use crate::proxy::headers::{self, UpstreamRequest};
use crate::proxy::live::Live;
use crate::proxy::pool::{self, PoolKey, TlsKey, UpstreamConn};
use crate::proxy::request_body::{self, RequestProgress, RequestSender};
use crate::request::body_relay::{self, BodyRelay, TransferCoding};
use crate::request::exchange::{Attempt, AttemptTarget, Exchange};
use crate::request::next::Next;
use crate::request::rate_limit::MinRate;
use crate::request::send_queue::send_all;
use crate::request::{log, variables};
use crate::runtime::executor::{self, Millis, Timer};
use crate::runtime::socket::{self, Addr};
use crate::runtime::stream::{BufStream, Stream};

/// Interim responses (1xx) to one request.
const INTERIM_MAX: u32 = 32;

/// The outcome of a proxied request.
pub enum Forwarded {
    /// The response was sent whole.
    Sent { keep_alive: bool },
    /// The response was cut off, or the client has closed the connection.
    Aborted,
    /// Nothing was sent to the client.
    Next(Next),
    /// Both sides switch protocols.
    Upgraded(Box<UpgradedUpstream>),
}

/// The outcome of one attempt.
pub(crate) enum Attempted {
    Done(Forwarded),
    /// The status for the client.
    Fail(u16),
    /// Another peer may be tried.
    Retry,
}

/// An upstream connection after a 101, and the bytes that followed it.
pub struct UpgradedUpstream {
    pub stream: Stream,
    pub early: Vec<u8>,
    /// The protocol is WebSocket.
    pub is_websocket: bool,
    /// Counts the tunnel as a connection of its peer.
    pub lease: PeerLease,
}

/// Forwards the request, and relays the response. `timer` is that of the connection.
pub async fn forward(exchange: &mut Exchange, client: &mut BufStream, running: &Live, timer: &Timer) -> Forwarded {
    if let Err(failure) = request_body::buffer_chunked(exchange, client, timer).await {
        log::log_request(exchange, Level::Info, format_args!("{failure}"));
        return Forwarded::Next(Next::Reject(failure.status()));
    }
    match ProxyRequest::new(exchange, client, running, timer) {
        Ok(mut attempts) => attempts.run().await,
        Err(status) => Forwarded::Next(Next::Reject(status)),
    }
}

/// The local address of upstream connections (`proxy_bind`).
fn bind_address(exchange: &Exchange) -> Result<Option<Addr>, String> {
    let Some(template) = &exchange.settings().proxy.bind else { return Ok(None) };
    let text = variables::value(template, exchange);
    let text = String::from_utf8_lossy(&text);
    match bind_addr(&text) {
        _ if text.is_empty() => Ok(None),
        Some(addr) => Ok(Some(addr)),
        None => Err(format!("invalid local address \"{text}\"")),
    }
}

fn as_slice(body: Option<&Rc<Vec<u8>>>) -> Option<&[u8]> {
    body.map(|body| body.as_slice())
}

/// SNI and settings of TLS to the upstream, if it is used.
fn tls_key(exchange: &Exchange) -> Option<TlsKey> {
    let client = exchange.upstream_tls()?.clone();
    let said = exchange.settings().optional.proxy_tls.as_ref().and_then(|tls| tls.name.as_ref());
    let name = match said {
        Some(name) => String::from_utf8_lossy(&variables::value(name, exchange)).into_owned(),
        None => exchange.proxy_host().map_or(String::new(), |(host, _)| host.to_owned()),
    };
    // Removes a port, also behind brackets.
    let name = match name.rsplit_once(':') {
        Some((host, _)) if !host.contains(':') || host.ends_with(']') => host.into(),
        _ => name.into(),
    };
    Some(TlsKey { client, name })
}

/// The attempts of one request, one peer after the other.
pub(crate) struct ProxyRequest<'e> {
    pub(crate) timer: &'e Timer,
    pub(crate) exchange: &'e mut Exchange,
    pub(crate) client: &'e mut BufStream,
    pub(crate) upstream: Arc<UpstreamState>,
    pub(crate) pool_key: PoolKey,
    /// The URI for the upstream; `None`: that of the client.
    pub(crate) uri: Option<Vec<u8>>,
    /// The buffered body, if it is complete.
    pub(crate) body: Option<Rc<Vec<u8>>>,
    pub(crate) request: UpstreamRequest,
    pub(crate) search: PeerSelection,
    /// Attempts with upstreams before an internal redirect.
    pub(crate) earlier_attempts: usize,
    pub(crate) began: Millis,
}

impl<'e> ProxyRequest<'e> {
    /// Resolves the destination, and builds the request.
    fn new(
        exchange: &'e mut Exchange,
        client: &'e mut BufStream,
        running: &Live,
        timer: &'e Timer,
    ) -> Result<Self, u16> {
        let (upstream, uri) = resolve_destination(exchange, running).map_err(|error| {
            log::log_request(exchange, Level::Error, format_args!("{}", error.message));
            error.status
        })?;
        if !exchange.can_be_forwarded() {
            log::log_request(
                exchange,
                Level::Error,
                format_args!("the request body was sent to another upstream already"),
            );
            return Err(502);
        }
        let body = request_body::take_buffered(exchange, client).map_err(|failure| {
            log::log_request(exchange, Level::Info, format_args!("{failure}"));
            failure.status()
        })?;
        let body = match &exchange.settings().proxy.set_body {
            Some(template) => Some(Rc::new(variables::value(template, exchange))),
            None => body,
        };
        let request = headers::build_request(exchange, uri.as_deref(), as_slice(body.as_ref())).map_err(|why| {
            log::log_request(exchange, Level::Info, format_args!("client sent {why}"));
            why.status()
        })?;
        let head_bytes_max = headers::head_bytes_max(exchange);
        if request.head_length > head_bytes_max {
            log::log_request(
                exchange,
                Level::Error,
                format_args!("the request head for the upstream is longer than {} KiB", head_bytes_max >> 10),
            );
            return Err(500);
        }
        let bind = bind_address(exchange).map_err(|message| {
            log::log_request(exchange, Level::Error, format_args!("{message}"));
            500_u16
        })?;
        let search = PeerSelection::new(&upstream.upstream, exchange);
        let earlier_attempts = exchange.upstream.attempts.len();
        let pool_key = PoolKey { bind, tls: tls_key(exchange) };
        Ok(Self {
            timer,
            exchange,
            client,
            upstream,
            uri,
            body,
            request,
            search,
            pool_key,
            earlier_attempts,
            began: executor::now(),
        })
    }

    async fn run(&mut self) -> Forwarded {
        let timeout = self.upstream.upstream.resolver_timeout.unwrap_or(self.exchange.settings().resolver_timeout);
        if let Some(complaint) = self.upstream.refresh(timeout).await {
            let so = "the addresses that were known before are used";
            log::log_request(self.exchange, Level::Warn, format_args!("{complaint}; {so}"));
        }
        self.began = executor::now();
        loop {
            let lease = match self.upstream.choose(&mut self.search) {
                Some(lease) => lease,
                None => match self.wait_for_peer().await {
                    Ok(lease) => lease,
                    Err(status) => return Forwarded::Next(Next::Reject(status)),
                },
            };
            self.begin_attempt(AttemptTarget::Peer(lease.peer.addr.clone()));
            match self.try_peer(lease).await {
                Attempted::Done(forwarded) => return forwarded,
                Attempted::Fail(status) => return Forwarded::Next(Next::Reject(status)),
                Attempted::Retry => {}
            }
        }
    }

    /// Whether `proxy_next_upstream_tries` and `_timeout` allow another attempt.
    fn may_try_another(&self) -> bool {
        let proxy = &self.exchange.settings().proxy;
        let tries = self.search.attempts();
        let is_late = !proxy.next_upstream_timeout.is_zero()
            && executor::now().saturating_sub(self.began) >= executor::millis(proxy.next_upstream_timeout);
        let used_up = proxy.next_upstream_tries > 0 && tries >= proxy.next_upstream_tries as usize;
        !is_late && !used_up && tries < self.upstream.attempts_max()
    }

    /// Logs that no peer is available.
    pub(crate) fn no_live_upstreams(&mut self, why: &str) -> u16 {
        if let Some(message) = self.upstream.resolve_error() {
            log::log_request(self.exchange, Level::Error, format_args!("{message}"));
            return 502;
        }
        self.begin_attempt(AttemptTarget::NoPeer(self.upstream.upstream.name.clone()));
        self.end_attempt(Some(502));
        log::log_request(self.exchange, Level::Error, format_args!("{why} while connecting to upstream"));
        502
    }

    /// Makes an attempt with one peer.
    async fn try_peer(&mut self, lease: PeerLease) -> Attempted {
        let mut stale = false;
        loop {
            let pooled =
                if stale { None } else { pool::take(&lease.peer.addr, &self.pool_key, &self.upstream.upstream) };
            let reused = pooled.is_some();
            let pooled = match pooled {
                Some(pooled) => Ok(pooled),
                None => self.connect(&lease.peer).await,
            };
            if let Some(now) = self.exchange.upstream.attempts.last_mut().filter(|_| pooled.is_ok()) {
                now.connected = Some(now.elapsed());
            }
            let mut sent = RequestProgress::default();
            let missed = match pooled {
                Ok(pooled) => {
                    let mut pooled = pooled;
                    pooled.requests += 1;
                    match self.exchange_heads(&mut pooled, &mut sent).await {
                        Ok(head) => {
                            // Headers added to the response may read those of the upstream.
                            let head = Rc::new(head);
                            self.exchange.upstream.head = Some(head.clone());
                            if error_page::intercepts(self.exchange, head.status) {
                                return Attempted::Done(self.intercept(&lease, &head));
                            }
                            if self.exchange.subrequest_of.is_some() {
                                return Attempted::Done(self.finish_subrequest(
                                    pooled,
                                    &lease,
                                    &head,
                                    sent.unfinished.is_none(),
                                ));
                            }
                            if let Some(target) = self.x_accel_redirect(&head) {
                                return Attempted::Done(self.redirect_internally(&lease, &head, target));
                            }
                            return self.relay(pooled, lease, &head, &mut sent).await;
                        }
                        Err(missed) => missed,
                    }
                }
                Err(missed) => {
                    sent.nothing_sent = true;
                    missed
                }
            };
            // A pooled connection that was closed while idle says nothing about its peer: once more, on a new
            // connection.
            if reused && matches!(missed, AttemptError::Closed(_)) && self.may_resend(&sent) {
                stale = true;
                continue;
            }
            return self.classify_error(&lease, &missed, &sent);
        }
    }

    /// Keeps the status and discards the body. The connection is reused if the body is buffered and the whole request
    /// was `sent`.
    fn finish_subrequest(
        &mut self,
        mut pooled: Box<UpstreamConn>,
        lease: &PeerLease,
        head: &Response,
        sent: bool,
    ) -> Forwarded {
        lease.report(Outcome::Succeeded);
        self.end_attempt(None);
        self.exchange.response.status = self.exchange.overrides.status.unwrap_or(head.status);
        let mut body = Decoder::new(head.framing(self.request.is_head));
        let is_whole = matches!(body_relay::discard_buffered(&mut pooled.stream, &mut body), Ok(true));
        let is_over = sent && is_whole && pooled.stream.buffered().is_empty() && head.status != 101;
        if is_over && self.request.keep_alive && head.keeps_alive() {
            pool::put(&lease.peer.addr, pooled, &self.upstream.upstream);
        }
        Forwarded::Sent { keep_alive: true }
    }

    /// Discards the response: `error_page` replaces it.
    fn intercept(&mut self, lease: &PeerLease, head: &Response) -> Forwarded {
        lease.report(Outcome::Succeeded);
        self.end_attempt(None);
        if head.status == 401 {
            preserve_header(self.exchange, head, b"WWW-Authenticate", b"www_authenticate");
        }
        Forwarded::Next(Next::Reject(head.status))
    }

    /// Obeys `X-Accel-Limit-Rate`, and returns `X-Accel-Redirect`.
    fn x_accel_redirect(&mut self, head: &Response) -> Option<Vec<u8>> {
        head.headers.first(HeaderName::Accel)?;
        let ignored = self.exchange.settings().proxy.ignored_headers;
        let rate = head.headers.first_named(b"x_accel_limit_rate").filter(|_| !ignored.limit_rate);
        if let Some(rate) = rate.and_then(|rate| std::str::from_utf8(rate).ok()?.parse().ok()) {
            self.exchange.limits.rate = Some(rate);
        }
        head.headers.first_named(b"x_accel_redirect").filter(|_| !ignored.redirect).map(<[u8]>::to_vec)
    }

    /// Redirects internally (`X-Accel-Redirect`), keeping some headers of the response as nginx does.
    fn redirect_internally(&mut self, lease: &PeerLease, head: &Response, target: Vec<u8>) -> Forwarded {
        const PASSED: [(&[u8], &[u8]); 5] = [
            (b"Set-Cookie", b"set_cookie"),
            (b"Content-Disposition", b"content_disposition"),
            (b"Cache-Control", b"cache_control"),
            (b"Expires", b"expires"),
            (b"Accept-Ranges", b"accept_ranges"),
        ];
        lease.report(Outcome::Succeeded);
        self.end_attempt(None);
        let exchange = &mut *self.exchange;
        for (name, known) in PASSED {
            preserve_header(exchange, head, name, known);
        }
        exchange.overrides.content_type = head.headers.first(HeaderName::ContentType).map(<[u8]>::to_vec);
        if target.starts_with(b"@") {
            return Forwarded::Next(Next::redirect(exchange, target));
        }
        let Some(target) = uri::parse_internal(&target) else {
            log::log_request(exchange, Level::Error, format_args!("upstream sent unsafe \"X-Accel-Redirect\""));
            return Forwarded::Next(Next::Reject(404));
        };
        if exchange.request.method() != b"HEAD" {
            exchange.request.become_get();
            exchange.body.is_dropped = true;
        }
        Forwarded::Next(Next::redirect(exchange, target))
    }

    /// Whether the request may be sent again: its body is available, and it is idempotent (RFC 9110 9.2.2).
    fn may_resend(&self, sent: &RequestProgress) -> bool {
        let proxy = &self.exchange.settings().proxy;
        let idempotent = !matches!(self.exchange.request.method(), b"POST" | b"LOCK" | b"PATCH");
        self.exchange.can_be_forwarded()
            && (sent.nothing_sent || idempotent || proxy.next_upstream.contains(NextUpstream::NON_IDEMPOTENT))
    }

    /// Logs an error, reports it to the peer, and decides whether to try another one.
    fn classify_error(&mut self, lease: &PeerLease, missed: &AttemptError, sent: &RequestProgress) -> Attempted {
        let status = missed.status();
        if let AttemptError::Client(..) | AttemptError::ClientClosed = missed {
            lease.report(Outcome::Neutral);
            self.end_attempt(matches!(missed, AttemptError::ClientClosed).then_some(status));
            log::log_request(self.exchange, Level::Info, format_args!("{missed}"));
            return Attempted::Fail(status);
        }
        let fault = match missed {
            AttemptError::Status(status) => !matches!(status, 403 | 404),
            // A shortage of descriptors, ports or memory here is no failure of the peer.
            AttemptError::Connect(error) => !socket::is_out_of_resources(error),
            _ => true,
        };
        let disabled = lease.report(if fault { Outcome::Failed } else { Outcome::Neutral });
        self.end_attempt(Some(status));
        if !matches!(missed, AttemptError::Status(_)) {
            log::log_request(self.exchange, Level::Error, format_args!("{missed}"));
        }
        if disabled {
            log::log_request(self.exchange, Level::Warn, format_args!("upstream server temporarily disabled"));
        }
        let allowed =
            missed.next_upstream_flag().is_none_or(|flag| self.exchange.settings().proxy.next_upstream.contains(flag));
        let again = allowed && self.may_resend(sent) && self.may_try_another();
        if again { Attempted::Retry } else { Attempted::Fail(status) }
    }

    fn begin_attempt(&mut self, peer: AttemptTarget) {
        let after_redirect =
            self.earlier_attempts > 0 && self.exchange.upstream.attempts.len() == self.earlier_attempts;
        self.exchange.upstream.attempts.push(Attempt { after_redirect, ..Attempt::new(peer) });
    }

    fn end_attempt(&mut self, status: Option<u16>) {
        if let Some(now) = self.exchange.upstream.attempts.last_mut() {
            now.status = now.status.or(status);
            now.ended = Some(now.elapsed());
        }
    }

    /// Sends the request, and reads heads until the final one. The rest of the body is sent by the relay.
    async fn exchange_heads(
        &mut self,
        pooled: &mut UpstreamConn,
        sent: &mut RequestProgress,
    ) -> Result<Response, AttemptError> {
        let settings = self.exchange.settings();
        let proxy = &settings.proxy;
        let (read_timeout, head_bytes_max) = (proxy.response_timeout(), proxy.response_head_bytes_max);
        let framing = self.request.framing;
        let limits = body_relay::RelayLimits {
            bytes_max: settings.body_bytes_max,
            read_timeout: settings.body_timeout,
            write_timeout: proxy.request_timeout(),
        };
        let coding = if framing == Framing::Chunked { TransferCoding::Chunked } else { TransferCoding::Plain };
        let http11 = self.exchange.request.version == Version::Http11;
        let send_timeout = settings.send_timeout;
        let ignores_abort = proxy.ignore_client_abort;
        // The first attempt takes the head; further ones, which are rare, build it again.
        let head = match std::mem::take(&mut self.request.head) {
            head if !head.is_empty() => head,
            _ => {
                headers::build_request(self.exchange, self.uri.as_deref(), as_slice(self.body.as_ref()))
                    .map_err(AttemptError::Invalid)?
                    .head
            }
        };
        let min_rate = MinRate::for_request(self.exchange);
        let upload =
            sent.unfinished.insert(RequestSender::new(BodyRelay::new(head, coding, limits), framing, min_rate));
        upload.relay.body_bytes = self.exchange.body.prefix.len() as u64;
        if self.exchange.config.keeps_request_body {
            upload.relay.keep_prefix(&self.exchange.body.prefix);
        }
        request_body::send_continue(self.exchange, &self.client.stream).await?;
        let (client_tx, mut client_rx) = self.client.split();
        let (upstream_tx, mut upstream_rx) = pooled.stream.split();
        let timer = self.timer;
        let mut waiting = false;
        let mut interim = 0;
        let head = loop {
            let mut scan = HeadScanner::for_response();
            let mut parse = |bytes: &[u8]| scan.parse_response(bytes, head_bytes_max);
            let read = poll_fn(|cx| {
                if let Err(missed) = upload.poll_send(cx, &mut client_rx, &mut self.exchange.body.decoder, upstream_tx)
                {
                    return Poll::Ready(Err(missed));
                }
                match upstream_rx.poll_parse(cx, &mut parse) {
                    Poll::Ready(Ok(head)) => return Poll::Ready(Ok(head)),
                    Poll::Ready(Err(unparsed)) => return Poll::Ready(Err(RequestSender::head_error(unparsed))),
                    Poll::Pending => {}
                }
                if let Poll::Ready(()) = poll_client_abort(client_tx, ignores_abort, cx) {
                    return Poll::Ready(Err(AttemptError::ClientClosed));
                }
                if !upload.is_over() {
                    return Poll::Pending;
                }
                if !std::mem::replace(&mut waiting, true) {
                    timer.set(read_timeout);
                }
                timer.poll_due(cx).map(|()| Err(AttemptError::Timeout("while reading response header from upstream")))
            })
            .await;
            if let Some(now) = self.exchange.upstream.attempts.last_mut() {
                now.sent = upload.relay.written;
            }
            upload.record(&mut self.exchange.body);
            let head = read?;
            match head.status {
                101 => break head,
                100..=199 => {
                    interim += 1;
                    if interim > INTERIM_MAX {
                        return Err(AttemptError::Invalid(Malformed::HeadTooLong));
                    }
                    // `100 Continue` was sent before.
                    if head.status != 100 && http11 && self.exchange.subrequest_of.is_none() {
                        let bytes = headers::interim_response(&head);
                        send_all(client_tx, bytes, send_timeout).await.map_err(|_| AttemptError::ClientClosed)?;
                    }
                }
                _ => break head,
            }
        };
        if upload.complete {
            sent.unfinished = None;
        }
        self.check_response(head, sent)
    }

    /// Decides whether a response is relayed.
    fn check_response(&mut self, head: Response, sent: &RequestProgress) -> Result<Response, AttemptError> {
        if head.status == 101 {
            self.check_upgrade(&head, sent).map_err(AttemptError::Upgrade)?;
        }
        if let Some(now) = self.exchange.upstream.attempts.last_mut() {
            now.head_received = Some(now.elapsed());
            now.status = Some(head.status);
            now.received += head.len() as u64;
        }
        // Without another peer this response is better than none.
        let status = head.status;
        if self.exchange.settings().proxy.next_upstream.contains_status(status)
            && self.may_resend(sent)
            && self.may_try_another()
            && self.upstream.has_untried_peer(&self.search)
        {
            return Err(AttemptError::Status(status));
        }
        Ok(head)
    }
}

/// Adds a header of the upstream to the response that replaces it.
fn preserve_header(exchange: &mut Exchange, head: &Response, name: &'static [u8], known: &[u8]) {
    for value in head.headers.all_named(known) {
        exchange.overrides.headers.push((name, value.to_vec()));
    }
}

/// Ready when the client has aborted: it has closed the connection, or only its sending direction, which looks the same
/// from here.
pub(crate) fn poll_client_abort(client: &Stream, ignored: bool, cx: &mut Context<'_>) -> Poll<()> {
    if ignored { Poll::Pending } else { client.socket().poll_peer_closed(cx) }
}
