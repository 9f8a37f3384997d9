//! Sends log lines to a syslog server as datagrams in the format of RFC 3164.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use crate::config::{Level, Syslog, SyslogServer};
use crate::dns;
use crate::runtime::clock;
use crate::runtime::socket::Addr;

pub struct SyslogSender {
    syslog: Syslog,
    addr: Addr,
    hostname: String,
    /// Connected. None: until the first line, and after an error.
    socket: Mutex<Option<OwnedFd>>,
}

impl SyslogSender {
    /// Creates the sender of a name that is `syslog:` with parameters. A host name is looked up here, once.
    pub fn new(name: &str) -> Result<Self, String> {
        let syslog = Syslog::parse(name).map_err(|(message, _)| message)?;
        let addr = match &syslog.server {
            SyslogServer::Unix(path) => Addr::Unix(path.as_str().into()),
            SyslogServer::Udp(host, port) => Addr::Ip(
                *dns::resolve_blocking(host, *port)
                    .first()
                    .ok_or_else(|| format!("host not found in syslog server \"{host}\""))?,
            ),
        };
        let hostname = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
        Ok(Self { syslog, addr, hostname, socket: Mutex::new(None) })
    }

    /// Sends a line that ends in a line feed. An error stands for one lost line: this one, or one sent before, since UDP
    /// reports a closed port only then.
    pub fn send(&self, severity: Option<Level>, line: &[u8]) -> io::Result<()> {
        let datagram = self.datagram(severity, line);
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let mut line_before = Ok(());
        if let Some(open) = socket.take() {
            match send(&open, &datagram, SendFlags::NOSIGNAL) {
                Err(Errno::CONNREFUSED) if matches!(self.addr, Addr::Ip(_)) => {
                    line_before = Err(Errno::CONNREFUSED.into())
                }
                // The server was restarted.
                Err(error) if error != Errno::AGAIN => {}
                sent => {
                    *socket = Some(open);
                    return Ok(sent.map(drop)?);
                }
            }
        }
        let open = self.connect()?;
        send(&open, &datagram, SendFlags::NOSIGNAL)?;
        *socket = Some(open);
        line_before
    }

    fn connect(&self) -> io::Result<OwnedFd> {
        match &self.addr {
            Addr::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                socket.connect(&**path)?;
                Ok(socket.into())
            }
            Addr::Ip(addr) => {
                let socket = match addr {
                    SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?,
                    SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?,
                };
                socket.set_nonblocking(true)?;
                socket.connect(addr)?;
                Ok(socket.into())
            }
        }
    }

    fn datagram(&self, severity: Option<Level>, line: &[u8]) -> Vec<u8> {
        let Syslog { facility, tag, .. } = &self.syslog;
        let priority = facility * 8 + severity.unwrap_or(self.syslog.severity) as u8;
        let (hostname, space) = if self.syslog.has_hostname { (self.hostname.as_str(), " ") } else { ("", "") };
        let mut datagram = format!("<{priority}>{} {hostname}{space}{tag}: ", clock::syslog_time()).into_bytes();
        datagram.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
        datagram
    }
}
