//! The listening sockets, and their copies for the workers.
//!
//! Most are bound here. Sockets from systemd (sd_listen_fds(3)) serve the `listen` with their address. They stay open
//! without one, since they could not be bound again after a reload that brings the `listen` back.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::config::{Binding, Config};
use crate::os::privileges::Account;
use crate::os::root_files;
use crate::runtime::handover::{self, HandoverDecoder, HandoverEncoder};
use crate::runtime::io_error;
use crate::runtime::socket::{self, Addr};
use crate::server::worker::{WorkerCommand, Workers};

/// A new listening socket, with a copy for each worker.
pub type NewListener = (Addr, OwnedFd, Vec<OwnedFd>);

/// All listening sockets.
#[derive(Default)]
pub struct Listeners {
    /// By configured address.
    open: Vec<(Addr, OwnedFd)>,
    passed: Vec<InheritedListener>,
}

/// A socket from systemd.
struct InheritedListener {
    addr: Addr,
    fd: OwnedFd,
}

impl InheritedListener {
    /// An IPv6 socket may accept IPv4 connections too; those of systemd do unless `BindIPv6Only=` is set.
    fn serves(&self, addr: &Addr) -> bool {
        let both = match (&self.addr, addr) {
            (Addr::Ip(SocketAddr::V6(own)), Addr::Ip(SocketAddr::V4(addr))) => {
                own.ip().is_unspecified() && addr.ip().is_unspecified() && own.port() == addr.port()
            }
            _ => false,
        };
        self.addr == *addr || (both && socket::is_dual_stack(&self.fd))
    }
}

impl Listeners {
    /// Takes the listening sockets of systemd or the old binary out of the hand-over, and returns the other entries.
    pub fn inherit(&mut self, mut decoder: HandoverDecoder) -> HandoverEncoder {
        let mut rest = HandoverEncoder::default();
        while let Some((kind, mut content)) = decoder.entry() {
            match kind {
                handover::LISTENER => {
                    let addr = content.string().and_then(|text| Addr::parse(&text));
                    self.open.extend(addr.zip(content.fd()));
                }
                handover::INHERITED_SOCKET => {
                    let known = content.fd().and_then(|fd| Some((socket::adopt(&fd).ok()?, fd)));
                    self.passed.extend(known.map(|(addr, fd)| InheritedListener { addr, fd }));
                }
                _ => rest.entry(kind, content.into_encoder()),
            }
        }
        rest
    }

    /// Encodes the sockets for the new binary.
    pub fn encode(&self, encoder: &mut HandoverEncoder) -> io::Result<()> {
        for (addr, fd) in &self.open {
            let mut socket = HandoverEncoder::default();
            socket.string(addr);
            socket.fd(fd.try_clone()?);
            encoder.entry(handover::LISTENER, socket);
        }
        for passed in &self.passed {
            let mut socket = HandoverEncoder::default();
            socket.fd(passed.fd.try_clone()?);
            encoder.entry(handover::INHERITED_SOCKET, socket);
        }
        Ok(())
    }

    /// Opens the socket of a binding, unless it is open. Root binds a Unix socket as `account`, where that is safer.
    pub fn open(&self, binding: &Binding, account: Option<&Account>) -> Result<Option<OwnedFd>, String> {
        if self.open.iter().any(|(addr, _)| *addr == binding.addr) {
            return Ok(None);
        }
        let fd = match self.passed.iter().find(|passed| passed.serves(&binding.addr)) {
            Some(passed) => passed.fd.try_clone(),
            None => socket::listen(&binding.addr, binding.options, account),
        };
        fd.map(Some).map_err(|error| {
            let hint = bind_hint(&binding.addr, error.kind());
            format!("bind() to {} failed ({}){hint}", binding.addr, io_error::describe(&error))
        })
    }

    pub fn insert(&mut self, addr: Addr, fd: OwnedFd) {
        self.open.push((addr, fd));
    }

    /// Closes the sockets that the configuration does not name.
    pub fn retain(&mut self, config: &Config) {
        self.open.retain(|(addr, _)| config.bindings.iter().any(|binding| binding.addr == *addr));
    }

    /// Sockets from systemd without a `listen`.
    pub fn unused(&self, config: &Config) -> Vec<&Addr> {
        let used = |passed: &&InheritedListener| !config.bindings.iter().any(|binding| passed.serves(&binding.addr));
        self.passed.iter().filter(used).map(|passed| &passed.addr).collect()
    }

    /// Closes all sockets, and removes the paths of Unix sockets bound here.
    pub fn close(&mut self) {
        for (addr, _) in self.open.iter().filter(|(addr, _)| !self.passed.iter().any(|passed| passed.addr == *addr)) {
            if let Addr::Unix(path) = addr {
                let _ = root_files::remove(Path::new(&**path));
            }
        }
        self.open.clear();
        self.passed.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Duplicates each socket for each worker.
    pub fn copies(&self, workers: &Workers) -> io::Result<Vec<(Addr, Vec<OwnedFd>)>> {
        let mut all = Vec::new();
        for (addr, fd) in &self.open {
            all.push((addr.clone(), copies(fd, workers)?));
        }
        Ok(all)
    }
}

/// Rejects a configuration without a server. At a reload that is most often a file that is being written, and taking it
/// would close every listener.
pub fn serves_somebody(config: &Config) -> Result<(), String> {
    match config.bindings.is_empty() {
        false => Ok(()),
        true => Err(format!(
            "{}: there is no \"server {{ }}\" in it: nothing would be listened on",
            config.files.first().map_or("the configuration", |file| file.name.as_str())
        )),
    }
}

/// What the operator can do about a bind(2) that failed.
fn bind_hint(addr: &Addr, error: io::ErrorKind) -> &'static str {
    match (addr, error) {
        (Addr::Ip(addr), io::ErrorKind::PermissionDenied) if addr.port() < 1024 => {
            ": ports below 1024 need root, CAP_NET_BIND_SERVICE or a socket unit of systemd"
        }
        (Addr::Ip(_), io::ErrorKind::AddrInUse) => ": another program listens there, \"ss -ltnp\" shows which",
        (Addr::Ip(_), io::ErrorKind::AddrNotAvailable) => ": this machine does not have the address",
        _ => "",
    }
}

/// Duplicates a socket for each worker.
pub fn copies(fd: &OwnedFd, workers: &Workers) -> io::Result<Vec<OwnedFd>> {
    workers.handles.iter().map(|_| fd.try_clone()).collect()
}

/// Makes every worker listen on a socket.
pub fn listen(workers: &Workers, addr: &Addr, fds: Vec<OwnedFd>) {
    for (handle, fd) in workers.handles.iter().zip(fds) {
        handle.commands.send(WorkerCommand::Listen(addr.clone(), fd));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_bind_has_a_hint() {
        let hint = |addr: &str, error| bind_hint(&Addr::parse(addr).unwrap(), error);
        assert!(hint("0.0.0.0:80", io::ErrorKind::PermissionDenied).contains("ports below 1024"));
        assert_eq!(hint("0.0.0.0:8080", io::ErrorKind::PermissionDenied), "");
        assert_eq!(hint("unix:/run/a", io::ErrorKind::PermissionDenied), "");
        assert!(hint("[::]:80", io::ErrorKind::AddrInUse).contains("another program"));
        assert!(hint("203.0.113.1:80", io::ErrorKind::AddrNotAvailable).contains("does not have the address"));
    }
}
