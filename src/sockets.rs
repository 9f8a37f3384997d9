//! The sockets that the program listens on, and their copies for the workers.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use crate::config::{Binding, Config};
use crate::log;
use crate::socket::{self, Addr};
use crate::worker::{Crew, Order};

/// Listening sockets by the address that is configured.
pub type Sockets = HashMap<Addr, OwnedFd>;
/// A new listening socket, with a copy for each worker.
pub type Fresh = (Addr, OwnedFd, Vec<OwnedFd>);

/// A configuration without a server is a mistake: at a reload most often a file that is just being written, and taking it
/// would drop every listener.
///
/// # Errors
/// What to say of such a one.
pub fn serves_somebody(config: &Config) -> Result<(), String> {
    match config.bindings.is_empty() {
        false => Ok(()),
        true => Err(format!(
            "{}: there is no \"server {{ }}\" in it: nothing would be listened on",
            config.files.first().map_or("the configuration", |file| file.name.as_str())
        )),
    }
}

/// A Unix socket leaves its path behind.
pub fn remove_paths(sockets: &Sockets) {
    for addr in sockets.keys() {
        if let Addr::Unix(path) = addr {
            let _ = std::fs::remove_file(&**path);
        }
    }
}

/// Opens a socket.
///
/// # Errors
/// Which one could not be opened, and why.
pub fn bind(binding: &Binding) -> Result<OwnedFd, String> {
    socket::listen(&binding.addr, binding.options)
        .map_err(|error| format!("bind() to {} failed ({})", binding.addr, log::describe(&error)))
}

/// One descriptor of a socket for each worker.
///
/// # Errors
/// Those of dup(2).
pub fn copies(fd: &OwnedFd, crew: &Crew) -> io::Result<Vec<OwnedFd>> {
    crew.desks.iter().map(|_| fd.try_clone()).collect()
}

/// Has every worker listen on a socket.
pub fn listen(crew: &Crew, addr: &Addr, fds: Vec<OwnedFd>) {
    for (desk, fd) in crew.desks.iter().zip(fds) {
        desk.orders.put(Order::Listen(addr.clone(), fd));
    }
}
