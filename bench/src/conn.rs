//! One end of a connection: a non-blocking socket that remembers its edges and what it could not send yet.
//!
//! A read shorter than the buffer means that nothing is left, which saves the recv that would only say so - unless the
//! peer has hung up, because then the end of the stream is still to be read. What the kernel would not take is kept in
//! `unsent`; whoever feeds an end must stop while there is something in it. That is the whole back-pressure.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::poll::EventFlags;

/// How much one read takes at most: the size of the one buffer that a program has.
pub const BUFFER_BYTES: usize = 64 * 1024;

pub struct End {
    pub stream: TcpStream,
    /// The peer has sent its last byte and we have read it.
    pub ended: bool,
    readable: bool,
    writable: bool,
    hung_up: bool,
    unsent: Vec<u8>,
}

impl End {
    /// Takes a connected or connecting socket; nothing is ready before the first event says so.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, ended: false, readable: false, writable: false, hung_up: false, unsent: Vec::new() })
    }

    /// Starts a connection; it is there when the first event says that it is writable.
    pub fn connect(addr: SocketAddr) -> io::Result<Self> {
        let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&socket, &addr) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Self::new(socket.into()),
            Err(error) => Err(error.into()),
        }
    }

    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Remembers what an event said.
    pub fn note(&mut self, flags: EventFlags) {
        let gone = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        self.hung_up |= flags.intersects(gone);
        self.readable |= flags.intersects(gone | EventFlags::IN);
        self.writable |= flags.intersects(EventFlags::OUT | EventFlags::ERR);
    }

    /// Reads once; `None` if nothing is there now, `Some(0)` at the end of the stream.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        while self.readable {
            match self.stream.read(buffer) {
                Ok(count) => {
                    self.ended = count == 0;
                    self.readable = !self.ended && (count == buffer.len() || self.hung_up);
                    return Ok(Some(count));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Sends what the kernel takes now and keeps the rest. Call it only after `flush` has said true.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = self.send_now(bytes)?;
        self.unsent.extend_from_slice(&bytes[sent..]);
        Ok(())
    }

    /// Sends what was kept; true if nothing of it is left.
    pub fn flush(&mut self) -> io::Result<bool> {
        if !self.unsent.is_empty() && self.writable {
            let unsent = std::mem::take(&mut self.unsent);
            let sent = self.send_now(&unsent)?;
            self.unsent.extend_from_slice(&unsent[sent..]);
        }
        Ok(self.unsent.is_empty())
    }

    /// Tells the peer that this was the last byte.
    pub fn finish(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    fn send_now(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut sent = 0;
        while self.writable && sent < bytes.len() {
            match self.stream.write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }
}

/// The next connection that waits at a non-blocking listener; `None` if there is none.
pub fn accept(listener: &TcpListener) -> io::Result<Option<End>> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => return End::new(stream).map(Some),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
            Err(error) => return Err(error),
        }
    }
}
