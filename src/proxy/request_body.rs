//! Sends the request to a peer, and knows how much of it was sent.

use std::io;
use std::task::{Context, Poll};

use crate::http1::body::Decoder;
use crate::http1::head::{Framing, Malformed};
use crate::proxy::error::AttemptError;
use crate::request::body_relay::{BodyRelay, TransferError};
use crate::request::exchange::RequestBody;
use crate::request::rate_limit::MinRate;
use crate::runtime::stream::{ReadError, ReadHalf, Stream};

/// How much of a request was sent to a peer.
#[derive(Default)]
pub(crate) struct RequestProgress {
    /// Not even the connection was established.
    pub(crate) nothing_sent: bool,
    /// The rest of the request; `None` when it was sent whole.
    pub(crate) unfinished: Option<RequestSender>,
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
        let client_fault = |status, why: &str| Err(AttemptError::Client(status, why.to_owned()));
        let body = self.bodyless.as_mut().unwrap_or(body);
        match self.relay.poll(cx, client, body, upstream) {
            Poll::Pending if self.poll_min_rate(cx).is_ready() => {
                client_fault(408, "sent its request body more slowly than \"client_body_min_rate\"")
            }
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
            Poll::Ready(Err(TransferError::Truncated)) => {
                client_fault(400, "prematurely closed connection while sending request body")
            }
            Poll::Ready(Err(TransferError::SourceTimeout)) => client_fault(408, "timed out while sending request body"),
            // Requests are not compressed.
            Poll::Ready(Err(TransferError::Encoder)) => Err(AttemptError::ClientClosed),
            Poll::Ready(Err(TransferError::TooLarge)) => client_fault(413, "sent too large body"),
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
