//! A crowd of tunnels that never rests: each sends numbers, reads them back and compares them, about once a second. Some
//! leave and others come, as told; whoever is cut off is counted, and does not come back.

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
    conn::{BUFFER_BYTES, End},
    poll::{self, Poll},
    slots::Slots,
};

/// How often some of the crowd speak.
const TICK: Duration = Duration::from_millis(10);
/// Ticks in which everybody speaks once.
const TICKS: usize = 100;
/// Numbers in a message.
const NUMBERS: u64 = 8;
/// How long an echo may take; who waits longer counts as cut off.
const SILENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Shared {
    stops: AtomicBool,
    /// Tunnels that are to be closed and opened again.
    turnover: AtomicUsize,
    cut_off: AtomicUsize,
    /// Others that came and were not let in.
    refused: AtomicUsize,
    echoes: AtomicUsize,
}

pub struct Crowd {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// What became of a crowd.
pub struct Tally {
    /// Tunnels that somebody else than their client has closed, or that gave back other bytes.
    pub cut_off: usize,
    /// Tunnels that others could not open.
    pub refused: usize,
    pub echoes: usize,
}

impl Crowd {
    /// Comes back when all tunnels are open.
    ///
    /// # Errors
    /// The first tunnel that can't be opened.
    pub fn open(to: SocketAddr, count: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut crowd = Members {
            to,
            shared: shared.clone(),
            poll: Poll::new()?,
            members: Slots::new(),
            places: Vec::new(),
            next: 0,
        };
        for _ in 0..count {
            crowd.join()?;
        }
        let thread = std::thread::Builder::new().name("crowd".to_owned()).spawn(move || crowd.live())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Has so many leave, and as many others come.
    pub fn turn_over(&self, count: usize) {
        self.shared.turnover.fetch_add(count, Ordering::Relaxed);
    }

    /// Closes all tunnels.
    ///
    /// # Errors
    /// What ended the crowd before.
    pub fn close(mut self) -> io::Result<Tally> {
        self.shared.stops.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| io::Error::other("the crowd panicked"))??;
        }
        let of = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let shared = &*self.shared;
        Ok(Tally { cut_off: of(&shared.cut_off), refused: of(&shared.refused), echoes: of(&shared.echoes) })
    }
}

/// The tunnels, in the thread that plays them.
struct Members {
    to: SocketAddr,
    shared: Arc<Shared>,
    poll: Poll,
    members: Slots<Member>,
    /// The slots of those that are there, in the order in which they speak.
    places: Vec<usize>,
    next: usize,
}

struct Member {
    end: End,
    /// The first number of the message on its way, and the bytes of it that are still to come back.
    number: u64,
    due: Vec<u8>,
    asked: Instant,
}

impl Members {
    fn join(&mut self) -> io::Result<()> {
        let stream: TcpStream = client::tunnel(self.to)?;
        let member = Member { end: End::new(stream)?, number: 0, due: Vec::new(), asked: Instant::now() };
        let slot = self.members.insert(member);
        if let Some(member) = self.members.at(slot) {
            self.poll.add(&member.end.stream, slot)?;
        }
        self.places.push(slot);
        Ok(())
    }

    fn live(mut self) -> io::Result<()> {
        let (mut events, mut buffer) = (Vec::with_capacity(256), vec![0; BUFFER_BYTES]);
        let mut tick = Instant::now();
        while !self.shared.stops.load(Ordering::Relaxed) {
            self.poll.wait(&mut events, Some(TICK))?;
            for event in &events {
                let slot = poll::token(event);
                let Some(member) = self.members.at(slot) else { continue };
                member.end.note(event.flags);
                match member.hear(&mut buffer) {
                    Ok(echoes) => drop(self.shared.echoes.fetch_add(echoes, Ordering::Relaxed)),
                    Err(_) => self.cut_off(slot),
                }
            }
            self.members.sweep();
            if tick.elapsed() >= TICK {
                tick = Instant::now();
                self.speak();
                self.turn_over();
            }
        }
        Ok(())
    }

    fn cut_off(&mut self, slot: usize) {
        self.members.remove(slot);
        self.places.retain(|place| *place != slot);
        self.shared.cut_off.fetch_add(1, Ordering::Relaxed);
    }

    /// The next ones in turn say something.
    fn speak(&mut self) {
        let now = Instant::now();
        let mut lost = Vec::new();
        for _ in 0..self.places.len().div_ceil(TICKS) {
            self.next = (self.next + 1) % self.places.len();
            let slot = self.places[self.next];
            if let Some(member) = self.members.at(slot)
                && member.speak(now).is_err()
            {
                lost.push(slot);
            }
        }
        lost.into_iter().for_each(|slot| self.cut_off(slot));
    }

    /// Somebody who has not been asked for long leaves, and somebody else comes.
    fn turn_over(&mut self) {
        for _ in 0..self.shared.turnover.swap(0, Ordering::Relaxed) {
            if !self.places.is_empty() {
                let slot = self.places.remove(self.next % self.places.len());
                self.members.remove(slot);
            }
            if self.join().is_err() {
                self.shared.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.members.sweep();
    }
}

impl Member {
    fn speak(&mut self, now: Instant) -> io::Result<()> {
        if !self.due.is_empty() {
            return if now - self.asked < SILENCE { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) };
        }
        self.asked = now;
        self.due = (self.number..self.number + NUMBERS).flat_map(u64::to_be_bytes).collect();
        self.number += NUMBERS;
        self.end.send(&self.due)
    }

    /// Compares what has come with what was sent: how many messages are whole.
    fn hear(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.end.flush()?;
        let mut whole = 0;
        while let Some(count) = self.end.read(buffer)? {
            if count == 0 || !self.due.starts_with(&buffer[..count]) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.due.drain(..count);
            whole += usize::from(self.due.is_empty());
        }
        Ok(whole)
    }
}
