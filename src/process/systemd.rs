//! Notifies systemd of readiness, reload, stop and liveness (sd_notify(3)), and takes the sockets that systemd has
//! bound (sd_listen_fds(3)). Without systemd nothing happens.

use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with};

use crate::runtime::handover::{self, HandoverDecoder, HandoverEncoder};

/// The variables of socket activation.
pub const LISTEN_VARS: [&str; 3] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// The first passed descriptor (SD_LISTEN_FDS_START).
const LISTEN_FDS_START: RawFd = 3;
/// Upper bound of the passed descriptors.
const FDS_MAX: u64 = u16::MAX as u64;

/// Takes the sockets that systemd has bound. Call it before the program opens anything.
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
        // The number of a missing descriptor would be reused by the next open(2).
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

/// Parses an environment variable, if it is set.
fn env_number(name: &str, max: u64) -> Result<Option<u64>, String> {
    let Ok(text) = std::env::var(name) else { return Ok(None) };
    match text.parse() {
        Ok(number) if number <= max => Ok(Some(number)),
        _ => Err(format!("invalid {name}")),
    }
}

/// Reports readiness; `status` is shown by `systemctl status`.
pub fn notify_ready(status: &str) {
    send(&format!("READY=1\nSTATUS={status}\n"));
}

/// Reports the start of a reload; [`notify_ready`] follows.
pub fn notify_reloading() {
    if let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from) {
        let micros = now.as_secs() * 1_000_000 + u64::from(now.subsec_micros());
        send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\n"));
    }
}

pub fn notify_stopping(status: &str) {
    send(&format!("STOPPING=1\nSTATUS={status}\n"));
}

/// Reports liveness and the status.
pub fn notify_watchdog(status: &str) {
    send(&format!("WATCHDOG=1\nSTATUS={status}\n"));
}

/// Returns the interval of liveness reports: half of the watchdog timeout.
pub fn watchdog_interval() -> Option<Duration> {
    let process = env_number("WATCHDOG_PID", u32::MAX.into()).unwrap_or(None);
    let micros = env_number("WATCHDOG_USEC", u64::MAX).unwrap_or(None)?;
    process.is_none_or(|process| process == std::process::id().into()).then(|| Duration::from_micros(micros) / 2)
}

/// Sends one datagram to NOTIFY_SOCKET: a path, or an abstract name, whose leading zero byte is written as `@`.
/// Errors are ignored.
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
