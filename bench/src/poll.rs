//! One epoll for one thread.
//!
//! Every descriptor is registered once, for both directions and edge-triggered, and never modified: an event says what
//! *became* possible, which must be remembered until a call returns EAGAIN (see `conn`).

use std::{io, os::fd::AsFd, os::fd::OwnedFd, time::Duration};

use rustix::event::{Timespec, epoll};

pub use rustix::event::epoll::{Event, EventFlags};

pub struct Poll {
    epoll: OwnedFd,
}

impl Poll {
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// Registers a descriptor until it is closed.
    pub fn add(&self, descriptor: impl AsFd, token: usize) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, descriptor, epoll::EventData::new_u64(token as u64), flags)?)
    }

    /// Fills `events` up to its capacity; it stays empty after `timeout` or a signal.
    pub fn wait(&self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        let timeout =
            timeout.map(|time| Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() });
        events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Returns the token with which the descriptor of this event was registered.
pub fn token(event: &Event) -> usize {
    let data = event.data;
    data.u64() as usize
}
