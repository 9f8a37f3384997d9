//! The body of a request on its way to a peer: a chunked one is buffered first, as far as memory allows. Then the request
//! is sent, and [`RequestProgress`] knows how much of it.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::http1::body::Decoder;
use crate::http1::head::{Framing, Malformed, Version};
use crate::proxy::error::AttemptError;
use crate::request::body_relay::{BodyRelay, TransferError};
use crate::request::exchange::{Exchange, RequestBody};
use crate::request::rate_limit::MinRate;
use crate::request::send_queue::send_all;
use crate::runtime::executor::Timer;
use crate::runtime::stream::{BufStream, ReadError, ReadHalf, Stream};

/// How much of a request was sent to a peer.
#[derive(Default)]
pub(crate) struct RequestProgress {
    /// Not even the connection was established.
    pub(crate) nothing_sent: bool,
    /// The rest of the request; `None` when it was sent whole.
    pub(crate) unfinished: Option<RequestSender>,
}

/// Sends `100 Continue` to a client that waits for it. One that sends `Content-Length: 0` may wait too.
pub(crate) async fn send_continue(exchange: &mut Exchange, client: &Stream) -> Result<(), AttemptError> {
    let request = &exchange.request;
    let waits = request.expects_continue && request.framing != Framing::None && exchange.forwards_body();
    if !waits || std::mem::replace(&mut exchange.body.continue_sent, true) {
        return Ok(());
    }
    let timeout = exchange.settings().send_timeout;
    send_all(client, b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(), timeout).await.map_err(|_| AttemptError::ClientClosed)
}

/// Reads a chunked body of up to `client_body_buffer_size`, so that the upstream gets its length: many applications take a
/// chunked body for an empty one. Of a longer body the start is read, and the rest is streamed.
pub(crate) async fn buffer_chunked(
    exchange: &mut Exchange,
    client: &mut BufStream,
    timer: &Timer,
) -> Result<(), AttemptError> {
    let proxy = &exchange.settings().proxy;
    let needs_length = proxy.version == Version::Http10;
    let is_chunked = exchange.request.framing == Framing::Chunked && exchange.forwards_body();
    if !is_chunked || !(proxy.request_buffering || needs_length) {
        return Ok(());
    }
    if exchange.body.buffered.is_none() && exchange.body.decoder.consumed() == 0 {
        read_chunked(exchange, client, timer).await?;
    }
    if needs_length && exchange.body.buffered.is_none() {
        let why =
            "sent a chunked body longer than \"client_body_buffer_size\", which HTTP/1.0 to the upstream can't carry";
        return Err(AttemptError::Client(411, why.to_owned()));
    }
    Ok(())
}

/// Reads a chunked body, or its start.
async fn read_chunked(exchange: &mut Exchange, client: &mut BufStream, timer: &Timer) -> Result<(), AttemptError> {
    send_continue(exchange, &client.stream).await?;
    let settings = exchange.settings();
    let (size, bytes_max, timeout) = (settings.body_buffer_size, settings.body_bytes_max, settings.body_timeout);
    let mut min_rate = MinRate::for_request(exchange);
    let mut reader = client.reader();
    let decoder = &mut exchange.body.decoder;
    let mut body = Vec::new();
    timer.set(timeout);
    poll_fn(|cx| {
        loop {
            match reader.poll_bytes(cx, |_, bytes| decode_into(&mut body, size, decoder, bytes)) {
                Poll::Ready(read) => {
                    read.map_err(|_| AttemptError::ClientClosed)??;
                    timer.set(timeout);
                }
                Poll::Pending => {
                    let failure = if timer.poll_due(cx).is_ready() {
                        AttemptError::client_body_timeout()
                    } else if min_rate
                        .as_mut()
                        .is_some_and(|rate| rate.poll_slow(cx, body.len() as u64, false).is_ready())
                    {
                        AttemptError::client_body_slow()
                    } else {
                        return Poll::Pending;
                    };
                    return Poll::Ready(Err(failure));
                }
            }
            if bytes_max > 0 && body.len() as u64 > bytes_max {
                return Poll::Ready(Err(AttemptError::client_body_too_large()));
            }
            if decoder.is_done() || body.len() > size {
                return Poll::Ready(Ok(()));
            }
        }
    })
    .await?;
    store(exchange, body);
    Ok(())
}

/// Checks the part of a body that came with the head, before anything is sent. If that is the whole body it is taken, and
/// can be sent to several peers, one after the other; but a chunked one is buffered before, or else streamed.
pub(crate) fn take_buffered(
    exchange: &mut Exchange,
    client: &mut BufStream,
) -> Result<Option<Rc<Vec<u8>>>, AttemptError> {
    let known = &exchange.body.decoder;
    if exchange.body.buffered.is_some() || known.consumed() > 0 || known.is_done() || client.buffered().is_empty() {
        return Ok(exchange.body.buffered.clone());
    }
    let bytes_max =
        usize::try_from(exchange.settings().body_bytes_max).ok().filter(|max| *max > 0).unwrap_or(usize::MAX);
    let mut decoder = Decoder::new(exchange.request.framing);
    let mut body = Vec::new();
    let (used, decoded) = decode_into(&mut body, bytes_max, &mut decoder, client.buffered());
    decoded?;
    if body.len() > bytes_max {
        return Err(AttemptError::client_body_too_large());
    }
    if decoder.is_done() && exchange.request.framing != Framing::Chunked {
        client.consume(used);
        exchange.body.decoder = decoder;
        store(exchange, body);
    }
    Ok(exchange.body.buffered.clone())
}

/// Stores what was read of a body: all of it, or its start.
fn store(exchange: &mut Exchange, body: Vec<u8>) {
    exchange.body.bytes = body.len() as u64;
    if exchange.config.keeps_request_body {
        exchange.body.start.clone_from(&body);
    }
    if exchange.body.decoder.is_done() {
        exchange.body.buffered = Some(Rc::new(body));
    } else {
        exchange.body.prefix = body;
        exchange.body.prefix_end = exchange.body.decoder.consumed();
    }
}

/// Decodes `bytes` into `body`, until it is complete or longer than `size`. Returns how many were used.
fn decode_into(
    body: &mut Vec<u8>,
    size: usize,
    decoder: &mut Decoder,
    bytes: &[u8],
) -> (usize, Result<(), AttemptError>) {
    if bytes.is_empty() {
        return (0, Err(AttemptError::client_body_truncated()));
    }
    let mut used = 0;
    while used < bytes.len() && body.len() <= size && !decoder.is_done() {
        let end = bytes.len().min(used.saturating_add(size - body.len()).saturating_add(1));
        match decoder.decode(bytes.get(used..end).unwrap_or_default()) {
            Ok(piece) => {
                used += piece.used;
                body.extend_from_slice(piece.data);
            }
            Err(why) => return (used, Err(AttemptError::Client(why.status(), format!("sent {why}")))),
        }
    }
    (used, Ok(()))
}

/// Sends a request.
pub(crate) struct RequestSender {
    pub(crate) relay: BodyRelay,
    /// Replaces the client's decoder where the body is not that of the client.
    bodyless: Option<Decoder>,
    min_rate: Option<MinRate>,
    /// The whole request was sent.
    pub(crate) complete: bool,
    /// The upstream accepts no more; its response may still follow.
    sink_error: Option<io::Error>,
}

impl RequestSender {
    /// `framing` is that of what follows the head; `min_rate` applies to it.
    pub(crate) fn new(relay: BodyRelay, framing: Framing, min_rate: Option<MinRate>) -> Self {
        let bodyless = (framing == Framing::None).then(|| Decoder::new(Framing::None));
        let min_rate = min_rate.filter(|_| bodyless.is_none());
        Self { relay, bodyless, min_rate, complete: false, sink_error: None }
    }

    /// Whether nothing more is sent.
    pub(crate) fn is_over(&self) -> bool {
        self.complete || self.sink_error.is_some()
    }

    /// Sends; `body` is the position in the client's body.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut ReadHalf<'_>,
        body: &mut Decoder,
        upstream: &Stream,
    ) -> Result<(), AttemptError> {
        if self.is_over() {
            return Ok(());
        }
        let body = self.bodyless.as_mut().unwrap_or(body);
        match self.relay.poll(cx, client, body, upstream) {
            Poll::Pending if self.poll_min_rate(cx).is_ready() => Err(AttemptError::client_body_slow()),
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(())) => {
                self.complete = true;
                Ok(())
            }
            Poll::Ready(Err(TransferError::Sink(error))) => {
                self.sink_error = Some(error);
                Ok(())
            }
            Poll::Ready(Err(TransferError::SinkTimeout)) => {
                Err(AttemptError::Timeout("while sending request to upstream"))
            }
            Poll::Ready(Err(TransferError::Source(_))) => Err(AttemptError::ClientClosed),
            Poll::Ready(Err(TransferError::Truncated)) => Err(AttemptError::client_body_truncated()),
            Poll::Ready(Err(TransferError::SourceTimeout)) => Err(AttemptError::client_body_timeout()),
            // Requests are not compressed.
            Poll::Ready(Err(TransferError::Encoder)) => Err(AttemptError::ClientClosed),
            Poll::Ready(Err(TransferError::TooLarge)) => Err(AttemptError::client_body_too_large()),
            Poll::Ready(Err(TransferError::Malformed(why))) => {
                Err(AttemptError::Client(why.status(), format!("sent {why}")))
            }
        }
    }

    /// Ready when the client sends below `client_body_min_rate`.
    fn poll_min_rate(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(min_rate) = &mut self.min_rate else { return Poll::Pending };
        min_rate.poll_slow(cx, self.relay.body_bytes, self.relay.is_sink_blocked())
    }

    /// Stores how much of the client's body was read.
    pub(crate) fn record(&self, body: &mut RequestBody) {
        if self.bodyless.is_none() {
            body.bytes = self.relay.body_bytes;
            body.start = self.relay.prefix().to_vec();
            if !body.can_be_resent() {
                body.prefix = Vec::new();
            }
        }
    }

    pub(crate) fn head_error(unparsed: ReadError<Malformed>) -> AttemptError {
        match unparsed {
            ReadError::Eof | ReadError::UnexpectedEof => AttemptError::Closed(None),
            ReadError::Io(error) => AttemptError::Closed(Some(error)),
            ReadError::Malformed(why) => AttemptError::Invalid(why),
        }
    }
}
