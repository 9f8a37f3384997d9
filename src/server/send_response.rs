//! Sends a response to the client, and says how the connection goes on.

use std::future::poll_fn;
use std::task::Poll;

use futures_lite::FutureExt;

use crate::config::{Gzip, Level};
use crate::http1::range::FileRange;
use crate::http1::{body, head};
use crate::modules::static_files::autoindex::Listing;
use crate::modules::static_files::file;
use crate::modules::{charset, gzip};
use crate::request::body_relay::{self, TransferCoding, TransferError};
use crate::request::exchange::Exchange;
use crate::request::gzip_sender::{BodySource, GzipSender};
use crate::request::response::{self, ContentEncoding, LocalResponse, ResponseFraming};
use crate::request::response_headers::trailers;
use crate::request::send_queue::SendQueue;
use crate::request::{log, rate_limit};
use crate::runtime::stream::{BufStream, Stream};
use crate::server::detached_response::DetachedResponse;
use crate::server::disposition::Disposition;

/// Prepares a local response. A request body that is malformed turns it into an error page and ends the connection.
pub fn from_local(exchange: &mut Exchange, client: &mut BufStream, mut response: LocalResponse) -> PreparedResponse {
    let read = if exchange.closes_connection {
        Ok(false)
    } else {
        body_relay::discard_buffered(client, &mut exchange.body.decoder)
    };
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
    let info = gzip::ResponseInfo {
        status: response.status,
        content_type: response.content_type.as_deref(),
        length,
        fields: None,
        is_file: false,
    };
    let framing = response_framing(exchange, gzip::content_encoding(exchange, &info), length, keep_alive);
    exchange.record_content_type(response.content_type.as_deref().unwrap_or_default());
    let with_charset =
        charset::content_type(exchange, response.status, response.content_type.as_deref().unwrap_or_default());
    response.content_type = with_charset.or(response.content_type);
    let head = response.head(exchange, framing);
    PreparedResponse { head, body: file::Body::Bytes(response.body), framing }
}

/// Prepares a static file.
pub fn from_file(exchange: &mut Exchange, client: &mut BufStream, found: file::FileResponse) -> PreparedResponse {
    let keep_alive =
        body_relay::discard_buffered(client, &mut exchange.body.decoder) == Ok(true) && exchange.may_keep_alive();
    exchange.response.status = found.head.status;
    let content_encoding = found.head.content_encoding(exchange);
    let framing = response_framing(exchange, content_encoding, found.head.length, keep_alive);
    exchange.record_content_type(found.head.content_type());
    let head = found.head.write(exchange, framing);
    PreparedResponse { head, body: found.body, framing }
}

/// Chooses framing and coding of a local response.
fn response_framing(
    exchange: &Exchange,
    content_encoding: ContentEncoding,
    length: Option<u64>,
    keep_alive: bool,
) -> ResponseFraming {
    let unknown = (content_encoding == ContentEncoding::Gzip || length.is_none()) && wants_body(exchange);
    let chunks = exchange.accepts_chunked();
    let has_trailers = trailers::is_expected(exchange, exchange.response.status);
    ResponseFraming {
        keep_alive: keep_alive && (chunks || !unknown),
        chunked: chunks && unknown || has_trailers,
        has_trailers,
        content_encoding,
    }
}

fn wants_body(exchange: &Exchange) -> bool {
    exchange.request.method() != b"HEAD" && !head::is_bodyless(exchange.response.status)
}

/// A response that is ready to be sent.
pub struct PreparedResponse {
    head: Vec<u8>,
    body: file::Body,
    framing: ResponseFraming,
}

/// Sends a response.
pub async fn send(exchange: &mut Exchange, client: &BufStream, prepared: Box<PreparedResponse>) -> Disposition {
    let PreparedResponse { head, body, framing } = *prepared;
    exchange.record_head(exchange.response.status, &head);
    let mut queue = SendQueue::new(head, rate_limit::for_client(exchange), exchange.settings().send_timeout);
    let coding = transfer_coding(framing);
    let to = &client.stream;
    let has_body = wants_body(exchange);
    let sent = match body {
        body if Gzip::AVAILABLE && has_body && framing.content_encoding == ContentEncoding::Gzip => {
            // Boxed, so that connections without compression do not reserve its memory.
            send_gzip(exchange, to, &mut queue, body, coding).boxed_local().await
        }
        file::Body::Listing(listing) if has_body => send_listing(to, &mut queue, listing, coding).await,
        body => {
            if has_body {
                push_body(&mut queue, body, coding);
            }
            send_plain(exchange, to, &mut queue, !framing.has_trailers).await
        }
    };
    exchange.response.bytes = queue.sent;
    match sent {
        Ok(Sent::Whole) => {}
        Ok(Sent::Stalled) => {
            return Disposition::Detached(Box::new(DetachedResponse::new(exchange, queue, framing.keep_alive)));
        }
        Err(error) => return abort(exchange, &error),
    }
    if framing.has_trailers {
        queue.push(&trailers::last_chunk(exchange));
        let sent = queue.send(to).await;
        exchange.response.bytes = queue.sent;
        if let Err(error) = sent {
            return abort(exchange, &error);
        }
    }
    exchange.response.complete = true;
    Disposition::after_response(exchange, framing.keep_alive)
}

enum Sent {
    Whole,
    /// The client is slow, and the rest can be sent without the exchange.
    Stalled,
}

/// Queues a body whose length is known: in one chunk, if it is chunked.
fn push_body(queue: &mut SendQueue, body: file::Body, coding: TransferCoding) {
    let length = body.length();
    let is_chunk = coding.is_chunked() && length > 0;
    if is_chunk {
        let mut size = Vec::new();
        body::write_chunk_size(&mut size, length);
        queue.push(&size);
    }
    match body {
        file::Body::Bytes(bytes) => queue.push(&bytes),
        file::Body::File { fd, from, count } => {
            queue.set_file(fd);
            queue.push_range(FileRange { start: from, length: count });
        }
        file::Body::Multipart { fd, ranges, end } => {
            queue.set_file(fd);
            for (head, range) in ranges {
                queue.push(&head);
                queue.push_range(range);
            }
            queue.push(&end);
        }
        file::Body::Listing(_) => {} // its length is not known
    }
    if is_chunk {
        queue.push(b"\r\n");
    }
}

async fn send_plain(
    exchange: &Exchange,
    to: &Stream,
    queue: &mut SendQueue,
    may_stall: bool,
) -> Result<Sent, TransferError> {
    // The access log may read variables that are known only at the end.
    let log_needs_exchange = exchange.config.needs_request_at_end && !exchange.settings().access_log.is_empty();
    let may_stall = may_stall && !log_needs_exchange;
    poll_fn(|cx| match queue.poll_send(cx, to) {
        Poll::Pending if may_stall && queue.is_blocked(to) => Poll::Ready(Ok(Sent::Stalled)),
        sent => sent.map_ok(|()| Sent::Whole),
    })
    .await
}

/// Sends the list of a directory.
async fn send_listing(
    to: &Stream,
    queue: &mut SendQueue,
    mut listing: Listing,
    coding: TransferCoding,
) -> Result<Sent, TransferError> {
    loop {
        let mut out = Vec::new();
        listing.write_part(&mut out);
        let is_end = out.is_empty();
        coding.frame(0, &mut out);
        queue.push(&out);
        if is_end {
            queue.push(coding.terminator());
        }
        queue.send(to).await?;
        if is_end {
            return Ok(Sent::Whole);
        }
    }
}

/// Sends a body compressed. Parts of a file never are.
async fn send_gzip(
    exchange: &mut Exchange,
    to: &Stream,
    queue: &mut SendQueue,
    mut body: file::Body,
    coding: TransferCoding,
) -> Result<Sent, TransferError> {
    let Some(encoder) = gzip::new_encoder(exchange) else { return Err(TransferError::Encoder) };
    let source = match &mut body {
        file::Body::Bytes(bytes) => BodySource::Bytes(bytes),
        file::Body::File { fd, from, count } => BodySource::File { fd, from: *from, count: *count },
        file::Body::Listing(listing) => BodySource::Generated(Box::new(|out| listing.write_part(out))),
        file::Body::Multipart { .. } => return Err(TransferError::Encoder),
    };
    let mut sender = GzipSender { encoder, coding, queue };
    let sent = sender.send(to, source).await;
    exchange.response.compressed_bytes = Some(sender.encoder.byte_counts());
    sent.map(|()| Sent::Whole)
}

fn transfer_coding(framing: ResponseFraming) -> TransferCoding {
    match framing {
        ResponseFraming { has_trailers: true, .. } => TransferCoding::Trailed,
        ResponseFraming { chunked: true, .. } => TransferCoding::Chunked,
        _ => TransferCoding::Plain,
    }
}

/// Records that a response was not sent whole.
fn abort(exchange: &mut Exchange, error: &TransferError) -> Disposition {
    exchange.timed_out |= matches!(error, TransferError::SinkTimeout);
    if let Some((level, message)) = error_message(error) {
        log::log_request(exchange, level, format_args!("{message}"));
    }
    Disposition::Close
}

/// The error log's message about a response that was not sent whole.
pub fn error_message(error: &TransferError) -> Option<(Level, &'static str)> {
    match error {
        TransferError::SinkTimeout => {
            Some((Level::Info, "client timed out (110: Connection timed out) while sending to it"))
        }
        TransferError::Truncated => Some((Level::Alert, "the file was truncated while it was sent")),
        _ => None,
    }
}
