//! An answer that its client takes slowly, as a task of its own: it holds what is left to be sent and what is written at
//! the end, and nothing of the request. The connection goes on behind it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::config::{ErrorLog, Level, Lingering};
use crate::request::body_relay::Failure;
use crate::request::exchange::Exchange;
use crate::request::limit_zones::ConnGuard;
use crate::request::log;
use crate::request::send_queue::SendQueue;
use crate::runtime::stream::BufStream;
use crate::runtime::{executor, metrics};
use crate::server::send_response::{self, Remainder};

/// What is left of an answer, and of its exchange.
pub struct DetachedResponse {
    outgoing: SendQueue,
    ending: Box<Ending>,
    counted: metrics::RequestGuard,
}

/// What comes of the connection then.
pub enum Then {
    /// It may serve another request, for which it waits so long.
    KeepAlive(Duration),
    /// It is closed when the client has had the time to read all of it.
    Linger(Lingering),
    Close,
}

/// What is done when all of it is sent, rendered while the request was known.
struct Ending {
    lines: Box<[log::PendingLine]>,
    logs: Arc<[ErrorLog]>,
    context: Box<str>,
    connection: u32,
    status: u16,
    head_bytes: u64,
    began: executor::Millis,
    then: Then,
    /// A client that takes nothing for too long is cut off (`reset_timedout_connection`).
    resets: bool,
    /// What the request holds of `limit_conn`.
    _held: Vec<ConnGuard>,
}

impl DetachedResponse {
    pub fn new(exchange: &mut Exchange, rest: Remainder, counted: metrics::RequestGuard) -> Self {
        let held = std::mem::take(&mut exchange.limits.conn_guards);
        let settings = exchange.settings();
        let context = if log::is_enabled(&settings.error_log, Level::Alert) {
            log::request_context(exchange)
        } else {
            String::new()
        };
        let lingering = settings.client_options.lingering;
        let then = match rest.keep_alive {
            true => Then::KeepAlive(settings.keepalive_timeout),
            false if lingering.on => Then::Linger(lingering),
            false => Then::Close,
        };
        let ending = Ending {
            lines: log::pending_lines(exchange, log::LineKind::File),
            logs: settings.error_log.clone(),
            context: context.into(),
            connection: exchange.client.number,
            status: exchange.response.status,
            head_bytes: exchange.response.head_bytes,
            began: exchange.began,
            then,
            resets: settings.client_options.reset_timedout_connection,
            _held: held,
        };
        Self { outgoing: rest.outgoing, ending: Box::new(ending), counted }
    }

    /// Goes on over this wire.
    pub fn over(self, wire: BufStream) -> Downloading {
        self.outgoing.release(&wire.stream);
        Downloading { wire, outgoing: self.outgoing, ending: Some((self.ending, self.counted)) }
    }
}

/// A download with its wire. Written out rather than `async`, which would hold most of it twice.
pub struct Downloading {
    pub wire: BufStream,
    outgoing: SendQueue,
    ending: Option<(Box<Ending>, metrics::RequestGuard)>,
}

impl Future for Downloading {
    type Output = Then;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Then> {
        let this = self.get_mut();
        let sent = ready!(this.outgoing.poll(cx, &this.wire.stream));
        let Some((ending, _counted)) = this.ending.take() else { return Poll::Ready(Then::Close) };
        ending.write(this.outgoing.sent, sent.as_ref().err());
        Poll::Ready(match sent {
            Ok(()) => ending.then,
            Err(failure) => {
                if ending.resets && matches!(failure, Failure::SinkTimeout) {
                    this.wire.stream.socket().abort();
                }
                Then::Close
            }
        })
    }
}

impl Ending {
    /// Counts the request, and writes its lines.
    fn write(&self, bytes: u64, failure: Option<&Failure>) {
        if let Some((level, why)) = failure.and_then(send_response::complaint) {
            log::write_error(&self.logs, level, Some(self.connection), format_args!("{why}"), &self.context);
        }
        metrics::count_response(self.status);
        let moved = log::Totals {
            bytes,
            head_bytes: self.head_bytes,
            millis: executor::now().saturating_sub(self.began),
            complete: failure.is_none(),
        };
        self.lines.iter().for_each(|line| line.write(&moved));
    }
}
