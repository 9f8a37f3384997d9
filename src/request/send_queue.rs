//! What of an answer is ready to go: bytes and parts of a file, one after the other, to the last of them.
//!
//! It knows nothing of the request, so that it can outlive it: who takes a file slowly has what is left of it sent by a
//! task that holds little else.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::http1::range::FileRange;
use crate::request::body_relay::{Failure, poll_room};
use crate::request::rate_limit::RateLimit;
use crate::runtime::executor::{self, Timer};
use crate::runtime::stream::Stream;

/// Bytes that are sent in one turn, and at once: others get theirs then. Fewer at once would cost more.
const TURN_BYTES_MAX: usize = 2 * 1024 * 1024;

/// An answer, or what is left of it.
pub struct SendQueue {
    bytes: Vec<u8>,
    written: usize,
    /// What follows the bytes of the file.
    part: FileRange,
    /// What comes then: bytes again, and another part.
    more: VecDeque<(Vec<u8>, FileRange)>,
    file: Option<OwnedFd>,
    /// Bytes that were sent.
    pub sent: u64,
    pace: Option<Box<RateLimit>>,
    /// How long nothing may be taken.
    limit: Duration,
    timer: Timer,
}

impl SendQueue {
    /// Begins with `bytes`.
    pub fn new(bytes: Vec<u8>, pace: Option<RateLimit>, limit: Duration) -> Self {
        let timer = Timer::new();
        timer.set(limit);
        let (part, more) = (FileRange::default(), VecDeque::new());
        let pace = pace.map(Box::new);
        Self { bytes, written: 0, part, more, file: None, sent: 0, pace, limit, timer }
    }

    /// Parts are of this file.
    pub fn of(&mut self, file: OwnedFd) {
        self.file = Some(file);
    }

    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        match self.more.back_mut() {
            _ if bytes.is_empty() => {}
            Some((last, part)) if part.length == 0 => last.extend_from_slice(bytes),
            None if self.part.length == 0 => self.bytes.extend_from_slice(bytes),
            _ => self.more.push_back((bytes.to_vec(), FileRange::default())),
        }
    }

    /// Adds a part of the file.
    pub fn add_part(&mut self, part: FileRange) {
        match self.more.back_mut() {
            Some((_, last)) if last.length == 0 => *last = part,
            None if self.part.length == 0 => self.part = part,
            _ => self.more.push_back((Vec::new(), part)),
        }
    }

    /// Sends what can be sent; ready when all of it is.
    ///
    /// # Errors
    /// [`Failure::Sink`]; [`Failure::SinkTimeout`] when nothing was taken for as long as allowed; of the file,
    /// [`Failure::Source`], and [`Failure::Cut`] when it got shorter meanwhile.
    pub fn poll(&mut self, cx: &mut Context<'_>, to: &Stream) -> Poll<Result<(), Failure>> {
        let mut budget = TURN_BYTES_MAX;
        loop {
            if self.written == self.bytes.len() && self.part.length == 0 {
                let Some((bytes, part)) = self.more.pop_front() else { return Poll::Ready(Ok(())) };
                (self.bytes, self.written, self.part) = (bytes, 0, part);
                continue;
            }
            let slow = self.pace.as_deref().map(|pace| (*pace, self.sent));
            let room = ready!(poll_room(cx, to, slow, &self.timer, self.limit));
            match self.poll_some(cx, to, room.min(budget)) {
                Poll::Ready(Ok(count)) => {
                    self.sent += count as u64;
                    self.timer.set(self.limit);
                    budget = budget.saturating_sub(count);
                    if budget == 0 {
                        executor::wake_next_tick(cx);
                        return Poll::Pending;
                    }
                }
                Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
                Poll::Pending => return self.timer.poll_due(cx).map(|()| Err(Failure::SinkTimeout)),
            }
        }
    }

    /// Sends some of what is next, `room` bytes at most.
    fn poll_some(&mut self, cx: &mut Context<'_>, to: &Stream, room: usize) -> Poll<Result<usize, Failure>> {
        let rest = self.bytes.get(self.written..).unwrap_or_default();
        if !rest.is_empty() {
            let count = ready!(to.poll_write(cx, rest.get(..room).unwrap_or(rest))).map_err(Failure::Sink)?;
            self.written += count;
            if self.written == self.bytes.len() {
                (self.bytes, self.written) = (Vec::new(), 0);
            }
            return Poll::Ready(Ok(count));
        }
        let most = usize::try_from(self.part.length).unwrap_or(usize::MAX).min(room);
        match ready!(self.poll_part(cx, to, most)) {
            Ok(0) => Poll::Ready(Err(Failure::Cut)),
            Ok(count) => {
                self.part.length = self.part.length.saturating_sub(count as u64);
                Poll::Ready(Ok(count))
            }
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                Poll::Ready(Err(Failure::Source(error)))
            }
            Err(error) => Poll::Ready(Err(Failure::Sink(error))),
        }
    }

    /// Sends up to `most` bytes of the part; 0 is the end of the file. The error of a file that can't be read is EIO.
    fn poll_part(&mut self, cx: &mut Context<'_>, to: &Stream, most: usize) -> Poll<io::Result<usize>> {
        let Some(file) = &self.file else { return Poll::Ready(Ok(0)) };
        to.poll_send_file(cx, file, &mut self.part.start, most)
    }

    /// Whether it waits for its receiver or for time to pass, rather than for its next turn.
    pub fn is_held_up(&self, to: &Stream) -> bool {
        let is_early = |pace: &RateLimit| pace.allowance(self.sent, executor::now()).is_err();
        !to.socket().is_writable() || self.pace.as_deref().is_some_and(is_early)
    }

    /// Forgets who waited, before another task goes on.
    pub fn release(&self, to: &Stream) {
        to.socket().clear_wakers();
        self.timer.detach();
    }
}
