//! What systemd is told: that the program is ready, reloads, stops, and lives (sd_notify(3)). And what it has bound for the
//! program (sd_listen_fds(3)). Without it nothing happens.

use std::io;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::parcel::{self, Packer, Unpacker};

/// Where systemd says how many sockets it has bound, and for which process.
pub const PASSED: [&str; 3] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// The sockets that systemd has bound; to be asked before the program opens anything.
///
/// # Errors
/// What is wrong with them: then the program must not start without them.
pub fn passed() -> io::Result<Option<Unpacker>> {
    let numbers: Vec<_> = sd_notify::listen_fds()?.collect();
    if numbers.is_empty() {
        return Ok(None);
    }
    let mut parcel = Packer::default();
    for fd in parcel::take_over(&numbers)? {
        let mut socket = Packer::default();
        socket.fd(fd);
        parcel.entry(parcel::PASSED, socket);
    }
    Ok(Some(parcel.open()))
}

/// Whether systemd wants to hear something, and so knows the process.
pub fn listens() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// It serves; `status` is what `systemctl status` shows.
pub fn ready(status: &str) {
    let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// It has begun to read its configuration; [`ready`] follows.
pub fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        let _ = sd_notify::notify(&[NotifyState::Reloading, now]);
    }
}

pub fn stopping(status: &str) {
    let _ = sd_notify::notify(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// It lives; and what it does.
pub fn alive(status: &str) {
    let _ = sd_notify::notify(&[NotifyState::Watchdog, NotifyState::Status(status)]);
}

/// How often systemd wants to hear that it lives: twice as often as it has to.
pub fn interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}
