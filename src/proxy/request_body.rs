//! The request on its way to a peer, and how much of it has left.

use std::io;
use std::task::{Context, Poll};

use crate::http1::body::Decoder;
use crate::http1::head::{Framing, Malformed};
use crate::proxy::error::AttemptError;
use crate::request::body_relay::{BodyRelay, Failure};
use crate::request::exchange::RequestBody;
use crate::request::rate_limit::MinRate;
use crate::runtime::stream::{ReadError, ReadHalf, Stream};

/// What of a request has left for a peer.
#[derive(Default)]
pub(crate) struct RequestProgress {
    /// Not even the connection was made.
    pub(crate) nothing: bool,
    /// The request, as long as it was not sent to its end.
    pub(crate) upload: Option<Upload>,
}

/// The request on its way to the upstream.
pub(crate) struct Upload {
    pub(crate) transfer: BodyRelay,
    /// Stands for the client's decoder where the body does not come from the client's stream.
    bodyless: Option<Decoder>,
    min_rate: Option<MinRate>,
    /// All of it was sent.
    pub(crate) complete: bool,
    /// The upstream takes no more of it; its answer may still come.
    refused: Option<io::Error>,
}

impl Upload {
    /// `framing` is that of what follows the head, and `min_rate` counts for it.
    pub(crate) fn new(transfer: BodyRelay, framing: Framing, min_rate: Option<MinRate>) -> Self {
        let bodyless = (framing == Framing::None).then(|| Decoder::new(Framing::None));
        let min_rate = min_rate.filter(|_| bodyless.is_none());
        Self { transfer, bodyless, min_rate, complete: false, refused: None }
    }

    /// Nothing more is sent.
    pub(crate) fn is_over(&self) -> bool {
        self.complete || self.refused.is_some()
    }

    /// Sends on; `body` is the position in the client's body.
    pub(crate) fn poll(
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
        match self.transfer.poll(cx, client, body, upstream) {
            Poll::Pending if self.poll_slow(cx).is_ready() => {
                client_fault(408, "sent its request body more slowly than \"client_body_min_rate\"")
            }
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(())) => {
                self.complete = true;
                Ok(())
            }
            Poll::Ready(Err(Failure::Sink(error))) => {
                self.refused = Some(error);
                Ok(())
            }
            Poll::Ready(Err(Failure::SinkTimeout)) => Err(AttemptError::Timeout("while sending request to upstream")),
            Poll::Ready(Err(Failure::Source(_))) => Err(AttemptError::Gone),
            Poll::Ready(Err(Failure::Cut)) => {
                client_fault(400, "prematurely closed connection while sending request body")
            }
            Poll::Ready(Err(Failure::SourceTimeout)) => client_fault(408, "timed out while sending request body"),
            // Nothing is compressed on this way.
            Poll::Ready(Err(Failure::Encoder)) => Err(AttemptError::Gone),
            Poll::Ready(Err(Failure::TooLarge)) => client_fault(413, "sent too large body"),
            Poll::Ready(Err(Failure::Malformed(why))) => Err(AttemptError::Client(why.status(), format!("sent {why}"))),
        }
    }

    /// Ready when the client sends more slowly than it may.
    fn poll_slow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(min_rate) = &mut self.min_rate else { return Poll::Pending };
        min_rate.poll_slow(cx, self.transfer.body_bytes, self.transfer.is_held_up())
    }

    /// Notes what was read of the client's body.
    pub(crate) fn count(&self, body: &mut RequestBody) {
        if self.bodyless.is_none() {
            body.bytes = self.transfer.body_bytes;
            body.start = self.transfer.kept().to_vec();
        }
    }

    pub(crate) fn why_no_head(unparsed: ReadError<Malformed>) -> AttemptError {
        match unparsed {
            ReadError::Eof | ReadError::UnexpectedEof => AttemptError::Closed(None),
            ReadError::Io(error) => AttemptError::Closed(Some(error)),
            ReadError::Malformed(why) => AttemptError::Invalid(why),
        }
    }
}
