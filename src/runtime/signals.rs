//! Signals: held back from every thread, and read like anything else from a descriptor.
//!
//! So none is lost, or ends the program, while another one takes its place: what nobody has read yet waits for whoever is
//! there in the end.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::runtime::executor::{Direction, IoSource};
use crate::runtime::metrics::Side;

/// What signals ask for. nginx's SIGWINCH means nothing here, and must not end the program.
const HANDLED: [Signal; 7] = [
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];
/// Bytes that the kernel writes for a signal; its number are the first four.
const RECORD_BYTES: usize = 128;

/// Where signals are read.
pub struct Signals {
    source: IoSource,
    /// Those that were read and not asked for yet, as bits.
    pending: Cell<u64>,
}

/// Holds signals back from this thread and those that it starts: to be called before there are any.
pub fn block() -> io::Result<OwnedFd> {
    let heard: SigSet = HANDLED.into_iter().collect();
    heard.thread_block()?;
    Ok(SignalFd::with_flags(&heard, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?.into())
}

impl Signals {
    /// Reads the descriptor of [`block`] in this worker.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { source: IoSource::new(fd, Side::Internal)?, pending: Cell::new(0) })
    }

    /// Waits until a signal has come.
    pub async fn wait(&self) {
        let mut record = [0; RECORD_BYTES];
        let read = poll_fn(|cx| self.source.poll_io(cx, Direction::Read, |fd| rustix::io::read(fd, &mut record))).await;
        if let (Ok(RECORD_BYTES), Some(number)) = (read, record.first_chunk().copied().map(u32::from_ne_bytes)) {
            self.pending.set(self.pending.get() | 1u64.checked_shl(number).unwrap_or(0));
        }
    }

    /// Whether a signal came since this was asked last.
    pub fn take(&self, signal: Signal) -> bool {
        let pending = self.is_pending(signal);
        self.pending.set(self.pending.get() & !(1 << signal as u32));
        pending
    }

    /// Whether a signal came; the answer stays.
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
