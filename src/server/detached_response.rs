//! The rest of a response that its client reads slowly, without its request. The connection goes on after it.

use std::task::{Context, Poll, ready};

use crate::config::Level;
use crate::request::body_relay::TransferError;
use crate::request::exchange::Exchange;
use crate::request::log::LineKind;
use crate::request::log::on_end::LogOnEnd;
use crate::request::send_queue::SendQueue;
use crate::runtime::metrics;
use crate::runtime::stream::BufStream;
use crate::server::disposition::Disposition;
use crate::server::send_response;

pub struct DetachedResponse {
    queue: SendQueue,
    log: Option<Box<LogOnEnd>>,
    status: u16,
    /// Taken at the end.
    disposition: Disposition,
    /// A client that accepts nothing until the timeout is reset (`reset_timedout_connection`).
    resets_timed_out: bool,
    _in_flight: Option<metrics::RequestGuard>,
}

impl DetachedResponse {
    pub fn new(exchange: &mut Exchange, queue: SendQueue, keep_alive: bool) -> Self {
        Self {
            queue,
            log: LogOnEnd::new(exchange, LineKind::File, Level::Alert),
            status: exchange.response.status,
            disposition: Disposition::after_response(exchange, keep_alive),
            resets_timed_out: exchange.settings().client_options.reset_timedout_connection,
            _in_flight: exchange.in_flight.take(),
        }
    }

    /// Drops the wakers of the task that sent the first part.
    pub fn release_wakers(&self, stream: &BufStream) {
        self.queue.release_wakers(&stream.stream);
    }

    /// Sends the rest, and logs the request.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, stream: &BufStream) -> Poll<Disposition> {
        let result = ready!(self.queue.poll_send(cx, &stream.stream));
        metrics::count_response(self.status);
        if let Some(log) = self.log.take() {
            let message = result.as_ref().err().and_then(send_response::error_message);
            log.write(self.queue.sent, result.is_ok(), message);
        }
        Poll::Ready(match result {
            Ok(()) => std::mem::replace(&mut self.disposition, Disposition::Close),
            Err(error) => {
                if self.resets_timed_out && matches!(error, TransferError::SinkTimeout) {
                    stream.stream.socket().abort();
                }
                Disposition::Close
            }
        })
    }
}
