//! Tunnels that are all closed and reopened at the same moment, as by devices after an outage.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    conn::{BUFFER_BYTES, Conn},
    message,
    poll::{self, Poll},
};

/// Connections that are started between two polls.
const BURST: usize = 32;

/// The clients.
pub struct ReconnectStorm {
    to: SocketAddr,
    count: usize,
    /// How long no progress may be made.
    timeout: Duration,
    clients: Vec<Client>,
    buffer: Vec<u8>,
}

struct Client {
    conn: Conn,
    started: Instant,
    sent: bool,
    head: Vec<u8>,
    is_open: bool,
}

impl ReconnectStorm {
    pub fn new(to: SocketAddr, count: usize, timeout: Duration) -> Self {
        Self { to, count, timeout, clients: Vec::new(), buffer: vec![0; BUFFER_BYTES] }
    }

    /// Closes all tunnels and opens as many. Returns how long each took from the start of its connection.
    pub fn reconnect(&mut self) -> io::Result<Vec<Duration>> {
        self.clients.clear();
        let poll = Poll::new()?;
        let (mut latencies, mut events) = (Vec::with_capacity(self.count), Vec::with_capacity(256));
        while latencies.len() < self.count {
            let missing = self.count - self.clients.len();
            for _ in 0..missing.min(BURST) {
                let conn = Conn::connect(self.to)?;
                poll.add(&conn.stream, self.clients.len())?;
                self.clients.push(Client {
                    conn,
                    started: Instant::now(),
                    sent: false,
                    head: Vec::new(),
                    is_open: false,
                });
            }
            let all_started = self.clients.len() == self.count;
            poll.wait(&mut events, Some(if all_started { self.timeout } else { Duration::ZERO }))?;
            if events.is_empty() && all_started {
                let down = self.count - latencies.len();
                return Err(io::Error::other(format!("{down} tunnels made no progress for {:?}", self.timeout)));
            }
            for event in &events {
                let client = &mut self.clients[poll::token(event)];
                client.conn.set_ready(event.flags);
                if !client.is_open && client.continue_handshake(&mut self.buffer)? {
                    client.is_open = true;
                    latencies.push(client.started.elapsed());
                }
            }
        }
        Ok(latencies)
    }
}

impl Client {
    /// Continues the handshake; true when it is complete.
    fn continue_handshake(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        if !self.sent && self.conn.is_writable() {
            self.conn.send(message::UPGRADE)?;
            self.sent = true;
        }
        self.conn.flush()?;
        while let Some(count) = self.conn.read(buffer)? {
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
