//! What systemd is told: that the program is ready, reloads, stops, and lives (sd_notify(3)). And what it has bound for the
//! program (sd_listen_fds(3)). Without it nothing happens.

use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with};

use crate::runtime::handover::{self, HandoverDecoder, HandoverEncoder};

/// Where systemd says how many sockets it has bound, and for which process.
pub const LISTEN_VARS: [&str; 3] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// The first of them.
const LISTEN_FDS_START: RawFd = 3;
/// How many there can be.
const FDS_MAX: u64 = u16::MAX as u64;

/// The sockets that systemd has bound; to be asked before the program opens anything.
pub fn take_sockets() -> Result<Option<HandoverDecoder>, String> {
    if env_number("LISTEN_PID", u32::MAX.into())? != Some(std::process::id().into()) {
        return Ok(None);
    }
    let count = env_number("LISTEN_FDS", FDS_MAX)?.unwrap_or(0);
    if count == 0 {
        return Ok(None);
    }
    let mut numbers = Vec::new();
    for number in (LISTEN_FDS_START..).take(count as usize) {
        // One that is not there becomes that of what is opened next.
        if !Path::new(&format!("/proc/self/fd/{number}")).exists() {
            return Err(format!("{number} is not open"));
        }
        numbers.push(number);
    }
    let mut handover = HandoverEncoder::default();
    for fd in handover::adopt_fds(&numbers).map_err(|error| error.to_string())? {
        let mut socket = HandoverEncoder::default();
        socket.fd(fd);
        handover.entry(handover::INHERITED_SOCKET, socket);
    }
    Ok(Some(handover.into_decoder()))
}

/// The number that a variable of the environment is, if it is there.
fn env_number(name: &str, max: u64) -> Result<Option<u64>, String> {
    let Ok(text) = std::env::var(name) else { return Ok(None) };
    match text.parse() {
        Ok(number) if number <= max => Ok(Some(number)),
        _ => Err(format!("invalid {name}")),
    }
}

/// It serves; `status` is what `systemctl status` shows.
pub fn notify_ready(status: &str) {
    send(&format!("READY=1\nSTATUS={status}\n"));
}

/// It has begun to read its configuration; [`ready`] follows.
pub fn notify_reloading() {
    if let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from) {
        let micros = now.as_secs() * 1_000_000 + u64::from(now.subsec_micros());
        send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\n"));
    }
}

pub fn notify_stopping(status: &str) {
    send(&format!("STOPPING=1\nSTATUS={status}\n"));
}

/// It lives; and what it does.
pub fn notify_watchdog(status: &str) {
    send(&format!("WATCHDOG=1\nSTATUS={status}\n"));
}

/// How often systemd wants to hear that it lives: twice as often as it has to.
pub fn watchdog_interval() -> Option<Duration> {
    let process = env_number("WATCHDOG_PID", u32::MAX.into()).unwrap_or(None);
    let micros = env_number("WATCHDOG_USEC", u64::MAX).unwrap_or(None)?;
    process.is_none_or(|process| process == std::process::id().into()).then(|| Duration::from_micros(micros) / 2)
}

/// One datagram to a socket with a path, or with a name that begins with a zero byte and not with `@`. There is nobody to
/// whom it could be told that it did not arrive.
fn send(lines: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let addr = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name),
        path => SocketAddrUnix::new(path),
    };
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    if let (Ok(addr), Ok(socket)) = (addr, socket) {
        let _ = sendto(socket, lines.as_bytes(), SendFlags::NOSIGNAL, &addr);
    }
}
