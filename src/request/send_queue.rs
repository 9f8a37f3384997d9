//! The one way to send bytes to a peer outside of relays: bytes and ranges of a file, in order, with a timeout and a rate
//! limit.
//!
//! It holds nothing of the request and can outlive it: when a client reads a file slowly, a small task sends the rest.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::http1::range::FileRange;
use crate::request::body_relay::TransferError;
use crate::request::rate_limit::RateLimit;
use crate::runtime::executor::{self, Timer};
use crate::runtime::stream::Stream;

/// Bytes sent in one tick, so that other connections get their turn. A smaller number costs CPU.
const TICK_BYTES_MAX: usize = 2 * 1024 * 1024;

pub struct SendQueue {
    bytes: Vec<u8>,
    written: usize,
    /// The file range behind `bytes`.
    range: FileRange,
    /// More bytes, each with a range behind them.
    more: VecDeque<(Vec<u8>, FileRange)>,
    file: Option<OwnedFd>,
    /// Bytes sent so far.
    pub sent: u64,
    rate: Option<Box<RateLimit>>,
    /// How long the peer may accept nothing.
    timeout: Duration,
    timer: Timer,
}

impl SendQueue {
    pub fn new(bytes: Vec<u8>, rate: Option<RateLimit>, timeout: Duration) -> Self {
        let timer = Timer::new();
        timer.set(timeout);
        let (range, more) = (FileRange::default(), VecDeque::new());
        Self { bytes, written: 0, range, more, file: None, sent: 0, rate: rate.map(Box::new), timeout, timer }
    }

    /// Sets the file of all ranges.
    pub fn set_file(&mut self, file: OwnedFd) {
        self.file = Some(file);
    }

    pub fn push(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.is_empty() {
            self.timer.set(self.timeout);
        }
        match self.more.back_mut() {
            Some((last, range)) if range.length == 0 => last.extend_from_slice(bytes),
            None if self.range.length == 0 => self.bytes.extend_from_slice(bytes),
            _ => self.more.push_back((bytes.to_vec(), FileRange::default())),
        }
    }

    pub fn push_range(&mut self, range: FileRange) {
        match self.more.back_mut() {
            Some((_, last)) if last.length == 0 => *last = range,
            None if self.range.length == 0 => self.range = range,
            _ => self.more.push_back((Vec::new(), range)),
        }
    }

    fn is_empty(&self) -> bool {
        self.written == self.bytes.len() && self.range.length == 0 && self.more.is_empty()
    }

    /// Sends all of it. A cancelled call loses nothing: the next one continues.
    pub async fn send(&mut self, to: &Stream) -> Result<(), TransferError> {
        poll_fn(|cx| self.poll_send(cx, to)).await
    }

    /// Sends what the peer accepts; ready when the queue is empty.
    ///
    /// # Errors
    /// `Sink`; `SinkTimeout` when the peer accepted nothing for `timeout`; of the file `Source`, and `Truncated` when it
    /// became shorter meanwhile.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, to: &Stream) -> Poll<Result<(), TransferError>> {
        let mut budget = TICK_BYTES_MAX;
        loop {
            if self.written == self.bytes.len() && self.range.length == 0 {
                let Some((bytes, range)) = self.more.pop_front() else { return Poll::Ready(Ok(())) };
                (self.bytes, self.written, self.range) = (bytes, 0, range);
                continue;
            }
            let allowed = ready!(self.poll_rate(cx, to));
            match self.poll_send_some(cx, to, allowed.min(budget)) {
                Poll::Ready(Ok(count)) => {
                    self.sent += count as u64;
                    self.timer.set(self.timeout);
                    budget = budget.saturating_sub(count);
                    if budget == 0 {
                        executor::wake_next_tick(cx);
                        return Poll::Pending;
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return self.timer.poll_due(cx).map(|()| Err(TransferError::SinkTimeout)),
            }
        }
    }

    /// How many bytes the rate limit allows now; ready when there are some, or when `to` is broken, as the next write says.
    fn poll_rate(&self, cx: &mut Context<'_>, to: &Stream) -> Poll<usize> {
        let Some(rate) = self.rate.as_deref() else { return Poll::Ready(usize::MAX) };
        loop {
            match rate.allowance(self.sent, executor::now()) {
                Ok(room) => return Poll::Ready(usize::try_from(room).unwrap_or(usize::MAX)),
                Err(wait) => self.timer.set(wait),
            }
            if to.socket().poll_failed(cx).is_ready() {
                return Poll::Ready(usize::MAX);
            }
            ready!(self.timer.poll_due(cx));
            self.timer.set(self.timeout);
        }
    }

    /// Sends at most `count_max` bytes of what is next.
    fn poll_send_some(
        &mut self,
        cx: &mut Context<'_>,
        to: &Stream,
        count_max: usize,
    ) -> Poll<Result<usize, TransferError>> {
        let unsent = self.bytes.get(self.written..).unwrap_or_default();
        if !unsent.is_empty() {
            let part = unsent.get(..count_max).unwrap_or(unsent);
            let count = ready!(to.poll_write(cx, part)).map_err(TransferError::Sink)?;
            self.written += count;
            if self.written == self.bytes.len() {
                (self.bytes, self.written) = (Vec::new(), 0);
            }
            return Poll::Ready(Ok(count));
        }
        let count_max = usize::try_from(self.range.length).unwrap_or(usize::MAX).min(count_max);
        match ready!(self.poll_send_file(cx, to, count_max)) {
            Ok(0) => Poll::Ready(Err(TransferError::Truncated)),
            Ok(count) => {
                self.range.length = self.range.length.saturating_sub(count as u64);
                Poll::Ready(Ok(count))
            }
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                Poll::Ready(Err(TransferError::Source(error)))
            }
            Err(error) => Poll::Ready(Err(TransferError::Sink(error))),
        }
    }

    /// Sends at most `count_max` bytes of the range; 0 is the end of the file. A file that can't be read fails with EIO.
    fn poll_send_file(&mut self, cx: &mut Context<'_>, to: &Stream, count_max: usize) -> Poll<io::Result<usize>> {
        let Some(file) = &self.file else { return Poll::Ready(Ok(0)) };
        to.poll_send_file(cx, file, &mut self.range.start, count_max)
    }

    /// Whether it waits for the peer or for the rate limit, rather than for its next tick.
    pub fn is_blocked(&self, to: &Stream) -> bool {
        let is_early = |rate: &RateLimit| rate.allowance(self.sent, executor::now()).is_err();
        !to.socket().is_writable() || self.rate.as_deref().is_some_and(is_early)
    }

    /// Drops the wakers of this task, before another task continues.
    pub fn release_wakers(&self, to: &Stream) {
        to.socket().clear_wakers();
        self.timer.detach();
    }
}

/// Sends all of `bytes`.
pub async fn send_all(to: &Stream, bytes: Vec<u8>, timeout: Duration) -> Result<(), TransferError> {
    SendQueue::new(bytes, None, timeout).send(to).await
}
