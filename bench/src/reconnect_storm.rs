//! Tunnels that all break and come back at the same moment, as those of devices do when a proxy or an application was away.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    conn::{BUFFER_BYTES, End},
    message,
    poll::{self, Poll},
};

/// Connections that are begun before anybody is heard.
const BURST: usize = 32;

/// Who comes back.
pub struct Herd {
    to: SocketAddr,
    count: usize,
    /// How long nothing may happen.
    silence: Duration,
    members: Vec<Member>,
    buffer: Vec<u8>,
}

struct Member {
    end: End,
    begun: Instant,
    asked: bool,
    head: Vec<u8>,
    is_up: bool,
}

impl Herd {
    pub fn new(to: SocketAddr, count: usize, silence: Duration) -> Self {
        Self { to, count, silence, members: Vec::new(), buffer: vec![0; BUFFER_BYTES] }
    }

    /// Closes all tunnels and opens as many: how long each took from the start of its connection.
    pub fn come_back(&mut self) -> io::Result<Vec<Duration>> {
        self.members.clear();
        let poll = Poll::new()?;
        let (mut taken, mut events) = (Vec::with_capacity(self.count), Vec::with_capacity(256));
        while taken.len() < self.count {
            let missing = self.count - self.members.len();
            for _ in 0..missing.min(BURST) {
                let end = End::connect(self.to)?;
                poll.add(&end.stream, self.members.len())?;
                self.members.push(Member { end, begun: Instant::now(), asked: false, head: Vec::new(), is_up: false });
            }
            let is_begun = self.members.len() == self.count;
            poll.wait(&mut events, Some(if is_begun { self.silence } else { Duration::ZERO }))?;
            if events.is_empty() && is_begun {
                let down = self.count - taken.len();
                return Err(io::Error::other(format!("{down} tunnels made no progress for {:?}", self.silence)));
            }
            for event in &events {
                let member = &mut self.members[poll::token(event)];
                member.end.note(event.flags);
                if !member.is_up && member.comes_up(&mut self.buffer)? {
                    member.is_up = true;
                    taken.push(member.begun.elapsed());
                }
            }
        }
        Ok(taken)
    }
}

impl Member {
    /// Goes on with the handshake; true when it is over.
    fn comes_up(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        if !self.asked && self.end.is_writable() {
            self.end.send(message::UPGRADE)?;
            self.asked = true;
        }
        self.end.flush()?;
        while let Some(count) = self.end.read(buffer)? {
            if count == 0 {
                return Err(io::Error::other("connection closed in the WebSocket handshake"));
            }
            self.head.extend_from_slice(&buffer[..count]);
            if message::is_switched(&self.head)? {
                self.head = Vec::new();
                return Ok(true);
            }
        }
        Ok(false)
    }
}
