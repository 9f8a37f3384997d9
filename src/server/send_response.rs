//! An answer on its way to the client: its status, whether the connection can be used again, head and body.

use std::future::poll_fn;
use std::task::Poll;

use futures_lite::FutureExt;

use crate::config::{Gzip, Level};
use crate::http1::range::FileRange;
use crate::http1::{body, head};
use crate::modules::static_files::autoindex::Listing;
use crate::modules::static_files::file;
use crate::modules::{charset, gzip};
use crate::request::body_relay::{self, BodySource, Failure, GzipSender, TransferCoding, send_slowly};
use crate::request::exchange::Exchange;
use crate::request::log;
use crate::request::rate_limit::{self, RateLimit};
use crate::request::response::{self, ContentEncoding, LocalResponse, ResponseFraming};
use crate::request::response_headers::trailers;
use crate::request::send_queue::SendQueue;
use crate::runtime::stream::BufStream;

/// What can be done with a connection after an answer.
pub enum After {
    KeepAlive,
    Close,
    /// Close, but let the client read the answer although it still sends.
    Linger,
    /// The client takes it slowly: what is left needs nothing of the request.
    Rest(Box<Remainder>),
}

/// What is left of an answer, and whether the connection can be used again then.
pub struct Remainder {
    pub outgoing: SendQueue,
    pub keep_alive: bool,
}

/// Makes an answer of a response. Behind what could not be understood nothing more is read from the connection.
pub fn of_reply(exchange: &mut Exchange, wire: &mut BufStream, mut response: LocalResponse) -> PreparedResponse {
    let read = if exchange.closes_connection { Ok(false) } else { body_relay::skip(wire, &mut exchange.body.decoder) };
    let keep_alive = read == Ok(true) && exchange.may_keep_alive();
    if let Err(malformed) = read {
        log::log_request(exchange, Level::Info, format_args!("client sent {malformed}"));
        response = LocalResponse::page(malformed.status(), exchange.settings().server_tokens);
    }
    if let Some(status) = exchange.overrides.status.filter(|_| !response.is_page) {
        response.status = status;
    }
    if response::connection_error(response.status).is_some() {
        response.status = 400;
    }
    exchange.response.status = response.status;
    if response.location.is_some() {
        exchange.remove_location_header();
    }
    let length = Some(response.body.len() as u64);
    let about = gzip::ResponseInfo {
        status: response.status,
        content_type: response.content_type.as_deref(),
        length,
        fields: None,
        is_file: false,
    };
    let framing = framing(exchange, gzip::content_encoding(exchange, &about), length, keep_alive);
    exchange.record_content_type(response.content_type.as_deref().unwrap_or_default());
    let told = charset::content_type(exchange, response.status, response.content_type.as_deref().unwrap_or_default());
    response.content_type = told.or(response.content_type);
    let head = response.head(exchange, framing);
    PreparedResponse { head, body: file::Body::Bytes(response.body), framing }
}

/// Makes an answer of a file.
pub fn of_file(exchange: &mut Exchange, wire: &mut BufStream, found: file::FileResponse) -> PreparedResponse {
    let keep_alive = body_relay::skip(wire, &mut exchange.body.decoder) == Ok(true) && exchange.may_keep_alive();
    exchange.response.status = found.head.status;
    let packing = found.head.content_encoding(exchange);
    let framing = framing(exchange, packing, found.head.length, keep_alive);
    exchange.record_content_type(found.head.content_type());
    let head = found.head.write(exchange, framing);
    PreparedResponse { head, body: found.body, framing }
}

/// How an answer of our own travels.
fn framing(exchange: &Exchange, packing: ContentEncoding, length: Option<u64>, keep_alive: bool) -> ResponseFraming {
    let unknown = (packing == ContentEncoding::Gzip || length.is_none()) && wants_body(exchange);
    let chunks = exchange.accepts_chunked();
    let trailed = trailers::is_expected(exchange, exchange.response.status);
    ResponseFraming {
        keep_alive: keep_alive && (chunks || !unknown),
        chunked: chunks && unknown || trailed,
        has_trailers: trailed,
        content_encoding: packing,
    }
}

fn wants_body(exchange: &Exchange) -> bool {
    exchange.request.method() != b"HEAD" && !head::is_bodyless(exchange.response.status)
}

/// A head and what belongs to it.
pub struct PreparedResponse {
    head: Vec<u8>,
    body: file::Body,
    framing: ResponseFraming,
}

/// Sends an answer.
pub async fn deliver(exchange: &mut Exchange, wire: &BufStream, delivery: Box<PreparedResponse>) -> After {
    let ResponseFraming { keep_alive, has_trailers: trailed, .. } = delivery.framing;
    exchange.record_head(exchange.response.status, &delivery.head);
    let sent = match delivery.framing.content_encoding {
        ContentEncoding::Gzip if Gzip::AVAILABLE && wants_body(exchange) => {
            // By its pointer alone, so that builds that never come here do not have it.
            pack(exchange, wire, delivery).boxed_local().await.map(|()| None)
        }
        _ => write_out(exchange, wire, delivery).await,
    };
    match sent {
        Ok(None) => {}
        Ok(Some(outgoing)) => return After::Rest(Box::new(Remainder { outgoing, keep_alive })),
        Err(Aborted) => return After::Close,
    }
    if trailed {
        let mut end = trailers::last_chunk(exchange);
        if send_bytes(exchange, wire, &mut end).await.is_err() {
            return After::Close;
        }
    }
    exchange.response.complete = true;
    if keep_alive { After::KeepAlive } else { After::Linger }
}

/// Sends an answer as it is: what is left of it, if the client does not take it now.
async fn write_out(
    exchange: &mut Exchange,
    wire: &BufStream,
    delivery: Box<PreparedResponse>,
) -> Result<Option<SendQueue>, Aborted> {
    let PreparedResponse { mut head, body, framing } = *delivery;
    let coding = coding(framing);
    let body = match body {
        _ if !wants_body(exchange) => file::Body::Bytes(Vec::new()),
        file::Body::Listing(listing) => return list(exchange, wire, head, listing, coding).await.map(|()| None),
        body => body,
    };
    // All of it is one chunk: how much it is, is known.
    let length = body.length();
    let is_chunk = coding.is_chunked() && length > 0;
    if is_chunk {
        body::write_chunk_size(&mut head, length);
    }
    let mut outgoing = SendQueue::new(head, rate_limit::for_client(exchange), exchange.settings().send_timeout);
    match body {
        file::Body::Bytes(bytes) => outgoing.add(&bytes),
        file::Body::File { fd, from, count } => {
            outgoing.of(fd);
            outgoing.add_part(FileRange { start: from, length: count });
        }
        file::Body::Multipart { fd, ranges, end } => {
            outgoing.of(fd);
            for (before, part) in ranges {
                outgoing.add(&before);
                outgoing.add_part(part);
            }
            outgoing.add(&end);
        }
        file::Body::Listing(_) => {} // sent already
    }
    outgoing.add(if is_chunk { b"\r\n" } else { b"" });
    send_out(exchange, wire, outgoing, !framing.has_trailers).await
}

/// Sends all of it; or as much as the client takes now, if it `may_rest` and nothing of the request is needed any more.
async fn send_out(
    exchange: &mut Exchange,
    wire: &BufStream,
    mut outgoing: SendQueue,
    may_rest: bool,
) -> Result<Option<SendQueue>, Aborted> {
    let looks_back = exchange.config.needs_request_at_end && !exchange.settings().access_log.is_empty();
    let may_rest = may_rest && !looks_back;
    let sent = poll_fn(|cx| match outgoing.poll(cx, &wire.stream) {
        Poll::Pending if may_rest && outgoing.is_held_up(&wire.stream) => Poll::Ready(None),
        sent => sent.map(Some),
    });
    let sent = sent.await;
    exchange.response.bytes = outgoing.sent;
    match sent {
        Some(sent) => sent.map(|()| None).map_err(|failure| broken_off(exchange, &failure)),
        None => Ok(Some(outgoing)),
    }
}

/// Sends the list of a folder.
async fn list(
    exchange: &mut Exchange,
    wire: &BufStream,
    mut out: Vec<u8>,
    mut listing: Listing,
    coding: TransferCoding,
) -> Result<(), Aborted> {
    loop {
        let start = out.len();
        listing.write_part(&mut out);
        let is_end = out.len() == start;
        coding.frame(start, &mut out);
        if is_end {
            out.extend_from_slice(coding.end());
        }
        send_bytes(exchange, wire, &mut out).await?;
        if is_end {
            return Ok(());
        }
    }
}

fn coding(framing: ResponseFraming) -> TransferCoding {
    match framing {
        ResponseFraming { has_trailers: true, .. } => TransferCoding::Trailed,
        ResponseFraming { chunked: true, .. } => TransferCoding::Chunked,
        _ => TransferCoding::Plain,
    }
}

/// Sends an answer compressed. Parts of a file never are.
async fn pack(exchange: &mut Exchange, wire: &BufStream, mut delivery: Box<PreparedResponse>) -> Result<(), Aborted> {
    let Some(encoder) = gzip::new_encoder(exchange) else { return Err(Aborted) };
    let mut packer = GzipSender {
        encoder,
        coding: coding(delivery.framing),
        write_timeout: exchange.settings().send_timeout,
        pace: rate_limit::for_client(exchange),
        sent: 0,
    };
    let source = match &mut delivery.body {
        file::Body::Bytes(bytes) => BodySource::Bytes(bytes),
        file::Body::File { fd, from, count } => BodySource::File { fd, from: *from, count: *count },
        file::Body::Listing(listing) => BodySource::Made(Box::new(|out| listing.write_part(out))),
        file::Body::Multipart { .. } => return Err(Aborted),
    };
    let sent = packer.send(&wire.stream, delivery.head, source).await;
    exchange.response.bytes = packer.sent;
    exchange.response.compressed_bytes = Some(packer.encoder.byte_counts());
    sent.map_err(|failure| broken_off(exchange, &failure))
}

/// How fast the answer may go, and how much of it has gone already.
fn slowness(exchange: &Exchange) -> Option<(RateLimit, u64)> {
    rate_limit::for_client(exchange).map(|pace| (pace, exchange.response.bytes))
}

/// An answer that can't come to its end.
struct Aborted;

fn broken_off(exchange: &mut Exchange, failure: &Failure) -> Aborted {
    exchange.timed_out |= matches!(failure, Failure::SinkTimeout);
    if let Some((level, message)) = complaint(failure) {
        log::log_request(exchange, level, format_args!("{message}"));
    }
    Aborted
}

/// What the error log says of an answer that was broken off.
pub fn complaint(failure: &Failure) -> Option<(Level, &'static str)> {
    match failure {
        Failure::SinkTimeout => Some((Level::Info, "client timed out (110: Connection timed out) while sending to it")),
        Failure::Cut => Some((Level::Alert, "the file was truncated while it was sent")),
        _ => None,
    }
}

/// Sends what has gathered.
async fn send_bytes(exchange: &mut Exchange, wire: &BufStream, out: &mut Vec<u8>) -> Result<(), Aborted> {
    let limit = exchange.settings().send_timeout;
    let sent = send_slowly(&wire.stream, out, limit, slowness(exchange)).await;
    sent.map_err(|failure| broken_off(exchange, &failure))?;
    exchange.response.bytes += out.len() as u64;
    out.clear();
    Ok(())
}
