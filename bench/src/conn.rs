//! A connection: a non-blocking socket with its edge-triggered readiness and unsent bytes.
//!
//! A read shorter than the buffer means that no data is left, which saves a recv with EAGAIN - unless the peer has hung up,
//! because then EOF is still to be read. Bytes that the kernel does not take stay in `unsent`; the caller must not send while
//! it is not empty. That is the whole back-pressure.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::poll::EventFlags;

/// The maximum of one read: the size of the one buffer of a program.
pub const BUFFER_BYTES: usize = 64 * 1024;

pub struct Conn {
    pub stream: TcpStream,
    /// EOF was read.
    pub eof: bool,
    readable: bool,
    writable: bool,
    hung_up: bool,
    unsent: Vec<u8>,
}

impl Conn {
    /// Takes a connected or connecting socket, which is not ready before the first event.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, eof: false, readable: false, writable: false, hung_up: false, unsent: Vec::new() })
    }

    /// Starts to connect; the connection is open when it becomes writable.
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

    /// Records the readiness of an event.
    pub fn set_ready(&mut self, flags: EventFlags) {
        let gone = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        self.hung_up |= flags.intersects(gone);
        self.readable |= flags.intersects(gone | EventFlags::IN);
        self.writable |= flags.intersects(EventFlags::OUT | EventFlags::ERR);
    }

    /// Reads once; `None` if there is no data now, `Some(0)` at EOF.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        while self.readable {
            match self.stream.read(buffer) {
                Ok(count) => {
                    self.eof = count == 0;
                    self.readable = !self.eof && (count == buffer.len() || self.hung_up);
                    return Ok(Some(count));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Sends what the kernel takes now and keeps the rest. To be called only after `flush` has returned true.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = self.send_now(bytes)?;
        self.unsent.extend_from_slice(&bytes[sent..]);
        Ok(())
    }

    /// Sends unsent bytes; true if none are left.
    pub fn flush(&mut self) -> io::Result<bool> {
        if !self.unsent.is_empty() && self.writable {
            let unsent = std::mem::take(&mut self.unsent);
            let sent = self.send_now(&unsent)?;
            self.unsent.extend_from_slice(&unsent[sent..]);
        }
        Ok(self.unsent.is_empty())
    }

    /// Closes the write side.
    pub fn shutdown_write(&self) -> io::Result<()> {
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

/// Accepts a connection; `None` if there is none now.
pub fn accept(listener: &TcpListener) -> io::Result<Option<Conn>> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Conn::new(stream).map(Some),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
            Err(error) => return Err(error),
        }
    }
}
