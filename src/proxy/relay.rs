//! Relays the response of a peer to the client, or starts a tunnel.

use std::future::poll_fn;
use std::task::Poll;

use crate::http1::body::Decoder;
use crate::http1::head::{self, Framing, HeaderName, Response, Version};
use crate::http1::websocket;
use crate::modules::gzip;
use crate::proxy::balance::{Outcome, PeerLease};
use crate::proxy::error::RelayError;
use crate::proxy::forward::{Attempted, Forwarded, ProxyRequest, UpgradedUpstream, poll_client_abort};
use crate::proxy::headers;
use crate::proxy::pool::{self, UpstreamConn};
use crate::proxy::request_body::RequestProgress;
use crate::request::body_relay::{self, BodyRelay, TransferCoding, TransferError};
use crate::request::response::{ContentEncoding, ResponseFraming};
use crate::request::response_headers::trailers;
use crate::request::send_queue::send_all;
use crate::request::{log, rate_limit};
use crate::runtime::executor;

/// How a response is relayed.
struct RelayPlan {
    status: u16,
    framing: Framing,
    coding: TransferCoding,
    content_encoding: ContentEncoding,
    keep_alive: bool,
    /// Whether the upstream connection can be reused.
    reusable: bool,
}

impl ProxyRequest<'_> {
    /// Relays the response.
    pub(crate) async fn relay(
        &mut self,
        mut pooled: Box<UpstreamConn>,
        lease: PeerLease,
        head: &Response,
        sent: &mut RequestProgress,
    ) -> Attempted {
        if head.status == 101 {
            return self.open_tunnel(pooled, lease, head).await;
        }
        lease.report(Outcome::Succeeded);
        let RelayPlan { status, framing, coding, content_encoding, keep_alive, reusable } = self.plan(head);
        let settings = self.exchange.settings();
        let limits = body_relay::RelayLimits {
            bytes_max: 0,
            read_timeout: settings.proxy.response_timeout(),
            write_timeout: settings.send_timeout,
        };
        self.exchange.response.status = status;
        if head.headers.first_named(b"location").is_some() {
            self.exchange.remove_location_header();
        }
        self.set_sticky_cookie(&lease);
        let (chunked, has_trailers) = (coding.is_chunked(), coding == TransferCoding::Trailed);
        self.exchange.record_content_type(head.headers.first(HeaderName::ContentType).unwrap_or_default());
        let out = headers::response_head(
            self.exchange,
            head,
            ResponseFraming { keep_alive, chunked, has_trailers, content_encoding },
        );
        self.exchange.record_head(status, &out);
        let mut download = BodyRelay::new(out, coding, limits);
        let mut received = Decoder::new(framing);
        if content_encoding == ContentEncoding::Gzip {
            download.compress(gzip::new_encoder(self.exchange));
        }
        download.limit_rate(rate_limit::for_client(self.exchange));
        download.limit_rate(rate_limit::for_upstream(self.exchange, executor::now()));
        let upload = &mut sent.unfinished;
        let ignores_abort = self.exchange.settings().proxy.ignore_client_abort;
        let (client_tx, mut client_rx) = self.client.split();
        let (upstream_tx, mut upstream_rx) = pooled.stream.split();
        let done = poll_fn(|cx| {
            if let Some(upload) = upload.as_mut()
                && let Err(missed) = upload.poll_send(cx, &mut client_rx, &mut self.exchange.body.decoder, upstream_tx)
            {
                return Poll::Ready(Err(RelayError::Request(missed)));
            }
            match download.poll(cx, &mut upstream_rx, &mut received, client_tx) {
                Poll::Ready(Err(TransferError::Sink(_))) if ignores_abort => {
                    download.discard_rest();
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                Poll::Ready(done) => Poll::Ready(done.map_err(RelayError::Response)),
                Poll::Pending => poll_client_abort(client_tx, ignores_abort, cx).map(|()| Err(RelayError::Gone)),
            }
        })
        .await;
        let exchange = &mut *self.exchange;
        exchange.response.bytes = download.written;
        exchange.response.compressed_bytes = download.compressed_bytes();
        exchange.upstream.trailers = received.trailers().to_vec();
        let uploaded = upload.as_ref().is_none_or(|upload| upload.complete);
        if let Some(upload) = upload {
            upload.record(&mut exchange.body);
        }
        if let Some(now) = exchange.upstream.attempts.last_mut() {
            now.body = download.body_bytes;
            now.received += download.body_bytes;
            now.ended = Some(now.elapsed());
        }
        match done {
            Ok(()) if coding == TransferCoding::Trailed && self.send_trailers().await.is_err() => {
                Attempted::Done(Forwarded::Aborted)
            }
            Ok(()) => {
                self.exchange.response.complete = true;
                if reusable && uploaded && pooled.stream.buffered().is_empty() {
                    pool::put(&lease.peer.addr, pooled, &self.upstream.upstream);
                }
                Attempted::Done(Forwarded::Sent { keep_alive })
            }
            Err(stopped) => {
                let exchange = &mut *self.exchange;
                exchange.timed_out = matches!(stopped, RelayError::Response(TransferError::SinkTimeout));
                log::log_request(exchange, stopped.level(), format_args!("{stopped}"));
                if stopped.is_client_fault() {
                    exchange.response.status = 499; // the client did not wait for the rest
                } else if stopped.is_upstream_fault() && download.written == 0 {
                    // The head waited for the body. That the body would not come must not depend on how soon it was known.
                    let head = download.take_pending();
                    let length = head.len() as u64;
                    if send_all(&self.client.stream, head, exchange.settings().send_timeout).await.is_ok() {
                        exchange.response.bytes = length;
                    }
                }
                Attempted::Done(Forwarded::Aborted)
            }
        }
    }

    /// Ends the body with its trailers.
    async fn send_trailers(&mut self) -> Result<(), TransferError> {
        let end = trailers::last_chunk(self.exchange);
        let length = end.len() as u64;
        send_all(&self.client.stream, end, self.exchange.settings().send_timeout).await?;
        self.exchange.response.bytes += length;
        Ok(())
    }

    /// Chooses framing and coding of a response.
    fn plan(&self, head: &Response) -> RelayPlan {
        let exchange = &self.exchange;
        let status = exchange.overrides.status.unwrap_or(head.status);
        // The upstream was asked with GET for a client that wants the head only.
        let unread = (exchange.request.method() == b"HEAD" && !self.request.is_head)
            || (head::is_bodyless(status) && !head::is_bodyless(head.status));
        let upstream_framing = head.framing(self.request.is_head);
        let framing = if unread { Framing::None } else { upstream_framing };
        let content_encoding = gzip::content_encoding(exchange, &response_info(head, status));
        let (coding, delimited) = match framing {
            Framing::None => (TransferCoding::Plain, true),
            _ if trailers::is_expected(exchange, status) => (TransferCoding::Trailed, true),
            Framing::Length(_) if content_encoding != ContentEncoding::Gzip => (TransferCoding::Plain, true),
            _ if exchange.accepts_chunked() => (TransferCoding::Chunked, true),
            _ => (TransferCoding::Plain, false),
        };
        // The unread rest of the request body must not be parsed as the next request.
        let keep_alive = delimited && exchange.body.decoder.is_done() && exchange.may_keep_alive();
        let reusable = self.request.keep_alive
            && head.keeps_alive()
            && framing == upstream_framing
            && framing != Framing::UntilClose;
        RelayPlan { status, framing, coding, content_encoding, keep_alive, reusable }
    }

    /// Sends the sticky cookie of the peer to the client.
    fn set_sticky_cookie(&mut self, lease: &PeerLease) {
        let cookie = self.upstream.sticky_cookie(&lease.peer, self.exchange);
        self.exchange.overrides.headers.extend(cookie.map(|cookie| (&b"Set-Cookie"[..], cookie.into_bytes())));
    }

    /// Checks that a 101 accepts what was offered.
    pub(crate) fn check_upgrade(&self, head: &Response, sent: &RequestProgress) -> Result<(), &'static str> {
        if self.request.offered_protocols.is_empty() {
            return Err("was not asked for");
        }
        let protocol = self
            .upgrade_protocol(head)
            .filter(|_| sent.unfinished.is_none())
            .ok_or("does not name what was asked for")?;
        let key = self.exchange.request.headers.first(HeaderName::WebSocketKey).filter(|_| is_websocket(protocol));
        let accepted = head.headers.first_named(b"sec_websocket_accept");
        // Shows that the peer has read the key, and does not just echo the request (RFC 6455 4.1).
        if key.is_some_and(|key| accepted != Some(websocket::accept_key(key).as_bytes())) {
            return Err("has not the \"Sec-WebSocket-Accept\" of the client's key");
        }
        Ok(())
    }

    /// The protocol of a 101, if it is one of those offered.
    pub(crate) fn upgrade_protocol<'h>(&self, head: &'h Response) -> Option<&'h [u8]> {
        let named = head.headers.first(HeaderName::Upgrade).and_then(|value| head::tokens(value).next())?;
        let is_offered = head::tokens(&self.request.offered_protocols).any(|known| known.eq_ignore_ascii_case(named));
        let is_upgrade = head.version == Version::Http11 && head.headers.has_token(HeaderName::Connection, "upgrade");
        (is_offered && is_upgrade).then_some(named)
    }

    /// Sends the 101 to the client, and hands the connection over to a tunnel.
    async fn open_tunnel(&mut self, pooled: Box<UpstreamConn>, lease: PeerLease, head: &Response) -> Attempted {
        let token = self.upgrade_protocol(head).unwrap_or_default();
        lease.report(Outcome::Succeeded);
        self.exchange.response.status = 101;
        self.set_sticky_cookie(&lease);
        let out = headers::switching_protocols(self.exchange, head, token);
        self.exchange.record_head(101, &out);
        let (length, timeout) = (out.len() as u64, self.exchange.settings().send_timeout);
        if send_all(&self.client.stream, out, timeout).await.is_err() {
            return Attempted::Done(Forwarded::Aborted);
        }
        self.exchange.response.bytes = length;
        self.exchange.response.complete = true;
        let UpstreamConn { stream: mut wire, .. } = *pooled;
        let early = wire.take_buffered();
        let is_websocket = is_websocket(token);
        Attempted::Done(Forwarded::Upgraded(Box::new(UpgradedUpstream {
            stream: wire.stream,
            early,
            is_websocket,
            lease,
        })))
    }
}

fn is_websocket(protocol: &[u8]) -> bool {
    protocol.eq_ignore_ascii_case(b"websocket")
}

/// The input of the compression policy.
fn response_info(head: &Response, status: u16) -> gzip::ResponseInfo<'_> {
    gzip::ResponseInfo {
        status,
        content_type: head.headers.first(HeaderName::ContentType),
        length: head.content_length(),
        fields: Some(&head.headers),
        is_file: false,
    }
}
