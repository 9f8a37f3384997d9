//! Tunnels under steady load: each sends numbers and verifies their echo about once a second. Some are replaced by new ones on
//! demand; broken ones are counted and not reopened.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    client,
    conn::{BUFFER_BYTES, Conn},
    poll::{self, Poll},
    slots::Slots,
};

/// How often some of the tunnels send.
const TICK: Duration = Duration::from_millis(10);
/// Ticks in which each tunnel sends once.
const TICKS_PER_ROUND: usize = 100;
/// Numbers in a message.
const NUMBERS: u64 = 8;
/// The limit for an echo; a tunnel without it counts as broken.
const ECHO_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Tunnels to be closed and replaced.
    to_replace: AtomicUsize,
    broken: AtomicUsize,
    /// New tunnels that could not be opened.
    rejected: AtomicUsize,
    echoes: AtomicUsize,
}

pub struct SteadyLoad {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// The results.
pub struct Counts {
    /// Tunnels that the proxy closed, or whose echo was wrong.
    pub broken: usize,
    /// New tunnels that could not be opened.
    pub rejected: usize,
    pub echoes: usize,
}

impl SteadyLoad {
    /// Returns when all tunnels are open.
    ///
    /// # Errors
    /// A tunnel cannot be opened.
    pub fn open(to: SocketAddr, count: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut tunnels = Tunnels {
            to,
            shared: shared.clone(),
            poll: Poll::new()?,
            tunnels: Slots::new(),
            order: Vec::new(),
            next: 0,
        };
        for _ in 0..count {
            tunnels.open_one()?;
        }
        let thread = std::thread::Builder::new().name("steady_load".to_owned()).spawn(move || tunnels.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Closes `count` tunnels and opens as many.
    pub fn replace(&self, count: usize) {
        self.shared.to_replace.fetch_add(count, Ordering::Relaxed);
    }

    /// Closes all tunnels.
    ///
    /// # Errors
    /// Of the thread of the tunnels.
    pub fn close(mut self) -> io::Result<Counts> {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| io::Error::other("the thread of the tunnels panicked"))??;
        }
        let of = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let shared = &*self.shared;
        Ok(Counts { broken: of(&shared.broken), rejected: of(&shared.rejected), echoes: of(&shared.echoes) })
    }
}

/// The tunnels, in their thread.
struct Tunnels {
    to: SocketAddr,
    shared: Arc<Shared>,
    poll: Poll,
    tunnels: Slots<Tunnel>,
    /// The slots of open tunnels, in the order in which they send.
    order: Vec<usize>,
    next: usize,
}

struct Tunnel {
    conn: Conn,
    /// The first number of the current message, the bytes of it that are not echoed yet, and when it was sent.
    number: u64,
    pending: Vec<u8>,
    sent_at: Instant,
}

impl Tunnels {
    fn open_one(&mut self) -> io::Result<()> {
        let stream: TcpStream = client::tunnel(self.to)?;
        let tunnel = Tunnel { conn: Conn::new(stream)?, number: 0, pending: Vec::new(), sent_at: Instant::now() };
        let slot = self.tunnels.insert(tunnel);
        if let Some(tunnel) = self.tunnels.get(slot) {
            self.poll.add(&tunnel.conn.stream, slot)?;
        }
        self.order.push(slot);
        Ok(())
    }

    fn run(mut self) -> io::Result<()> {
        let (mut events, mut buffer) = (Vec::with_capacity(256), vec![0; BUFFER_BYTES]);
        let mut tick = Instant::now();
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.poll.wait(&mut events, Some(TICK))?;
            for event in &events {
                let slot = poll::token(event);
                let Some(tunnel) = self.tunnels.get(slot) else { continue };
                tunnel.conn.set_ready(event.flags);
                match tunnel.receive(&mut buffer) {
                    Ok(echoes) => drop(self.shared.echoes.fetch_add(echoes, Ordering::Relaxed)),
                    Err(_) => self.broken(slot),
                }
            }
            self.tunnels.sweep();
            if tick.elapsed() >= TICK {
                tick = Instant::now();
                self.send();
                self.replace();
            }
        }
        Ok(())
    }

    fn broken(&mut self, slot: usize) {
        self.tunnels.remove(slot);
        self.order.retain(|other| *other != slot);
        self.shared.broken.fetch_add(1, Ordering::Relaxed);
    }

    /// Sends on the next tunnels in order.
    fn send(&mut self) {
        let now = Instant::now();
        let mut lost = Vec::new();
        for _ in 0..self.order.len().div_ceil(TICKS_PER_ROUND) {
            self.next = (self.next + 1) % self.order.len();
            let slot = self.order[self.next];
            if let Some(tunnel) = self.tunnels.get(slot)
                && tunnel.send(now).is_err()
            {
                lost.push(slot);
            }
        }
        lost.into_iter().for_each(|slot| self.broken(slot));
    }

    /// Replaces the tunnels that are the last to send again.
    fn replace(&mut self) {
        for _ in 0..self.shared.to_replace.swap(0, Ordering::Relaxed) {
            if !self.order.is_empty() {
                let slot = self.order.remove(self.next % self.order.len());
                self.tunnels.remove(slot);
            }
            if self.open_one().is_err() {
                self.shared.rejected.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.tunnels.sweep();
    }
}

impl Tunnel {
    fn send(&mut self, now: Instant) -> io::Result<()> {
        if !self.pending.is_empty() {
            return if now - self.sent_at < ECHO_TIMEOUT { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) };
        }
        self.sent_at = now;
        self.pending = (self.number..self.number + NUMBERS).flat_map(u64::to_be_bytes).collect();
        self.number += NUMBERS;
        self.conn.send(&self.pending)
    }

    /// Compares received bytes with those sent. Returns the number of complete messages.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.conn.flush()?;
        let mut complete = 0;
        while let Some(count) = self.conn.read(buffer)? {
            if count == 0 || !self.pending.starts_with(&buffer[..count]) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.pending.drain(..count);
            complete += usize::from(self.pending.is_empty());
        }
        Ok(complete)
    }
}
