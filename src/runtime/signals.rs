//! Signals, blocked in every thread and read from a signalfd(2).
//!
//! So none is lost during a binary upgrade, or ends the program: a signal that was not read stays pending for the new
//! binary.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::runtime::executor::{Direction, IoSource};
use crate::runtime::metrics::Side;

/// The handled signals. nginx's SIGWINCH has no effect here, and must not end the program.
const HANDLED: [Signal; 7] = [
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];
/// Bytes that the kernel writes for a signal; the first four are its number.
const RECORD_BYTES: usize = 128;

/// Receives signals.
pub struct Signals {
    source: IoSource,
    /// Signals that were read but not taken yet, as bits.
    pending: Cell<u64>,
}

/// Blocks the signals in this thread and in those it starts: call it before there are any.
pub fn block() -> io::Result<OwnedFd> {
    let set: SigSet = HANDLED.into_iter().collect();
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?.into())
}

impl Signals {
    /// Reads the descriptor of [`block`] in this worker.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { source: IoSource::new(fd, Side::Internal)?, pending: Cell::new(0) })
    }

    /// Waits until a signal arrives.
    pub async fn wait(&self) {
        let mut record = [0; RECORD_BYTES];
        let read = poll_fn(|cx| self.source.poll_io(cx, Direction::Read, |fd| rustix::io::read(fd, &mut record))).await;
        if let (Ok(RECORD_BYTES), Some(number)) = (read, record.first_chunk().copied().map(u32::from_ne_bytes)) {
            self.pending.set(self.pending.get() | 1u64.checked_shl(number).unwrap_or(0));
        }
    }

    /// Whether a signal has arrived since the last call.
    pub fn take(&self, signal: Signal) -> bool {
        let pending = self.is_pending(signal);
        self.pending.set(self.pending.get() & !(1 << signal as u32));
        pending
    }

    /// Whether a signal has arrived and was not taken.
    pub fn is_pending(&self, signal: Signal) -> bool {
        self.pending.get() & 1 << signal as u32 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::executor;

    #[test]
    fn signals_are_read_by_number() {
        let fd = block().unwrap();
        nix::sys::signal::raise(Signal::SIGUSR1).unwrap();
        executor::run(async {
            let signals = Signals::new(fd).unwrap();
            signals.wait().await;
            assert!(signals.is_pending(Signal::SIGUSR1) && !signals.is_pending(Signal::SIGHUP));
            assert!(signals.take(Signal::SIGUSR1) && !signals.take(Signal::SIGUSR1));
        })
        .unwrap();
    }
}
