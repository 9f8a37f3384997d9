//! Opens files by name, through symbolic links or not (`disable_symlinks`).
//!
//! With `disable_symlinks` each component of a path is opened relative to the previous one: a link cannot be swapped in
//! between a check and its use.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, openat, statat};
use rustix::io::Errno;

use crate::config::{Level, Symlinks};
use crate::request::exchange::Exchange;
use crate::request::variables;

/// Flags for the directories on the way, which need search permission only, not read permission.
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Opens a file or a directory for reading.
pub fn open(exchange: &Exchange, name: &[u8]) -> io::Result<(File, Metadata)> {
    // A FIFO must not block the worker, and a terminal must not become the controlling one.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(open_fd(exchange, name, flags)?);
    let meta = file.metadata()?;
    Ok((file, meta))
}

/// Returns the metadata of a file or a directory.
pub fn metadata(exchange: &Exchange, name: &[u8]) -> io::Result<Metadata> {
    if exchange.settings().optional.symlinks.is_none() {
        return std::fs::metadata(OsString::from_vec(name.to_vec()));
    }
    let meta = File::from(open_fd(exchange, name, OFlags::PATH | OFlags::CLOEXEC)?).metadata()?;
    if meta.is_symlink() { Err(Errno::LOOP.into()) } else { Ok(meta) }
}

fn open_fd(exchange: &Exchange, name: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let open_plain = || openat(CWD, name, flags, Mode::empty());
    let Some(symlinks) = &exchange.settings().optional.symlinks else { return open_plain() };
    let from = symlinks.from.as_ref().map(|from| variables::value(from, exchange)).unwrap_or_default();
    match trusted_prefix(name, &from) {
        trusted if trusted == name.len() => open_plain(),
        trusted => open_checked(symlinks, name.split_at(trusted), flags),
    }
}

/// Returns the length of the prefix that is not checked (`from=`), which ends at a component of the path.
fn trusted_prefix(name: &[u8], from: &[u8]) -> usize {
    match name.strip_prefix(from) {
        _ if from.is_empty() => 0,
        Some([] | [b'/', ..]) => from.len(),
        Some(_) if from.ends_with(b"/") => from.len() - 1,
        _ => 0,
    }
}

fn open_checked(symlinks: &Symlinks, (start, rest): (&[u8], &[u8]), flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let start = match (start, rest) {
        (b"", [b'/', ..]) => b"/",
        (b"", _) => &b"."[..],
        _ => start,
    };
    let mut directory = openat(CWD, start, DIRECTORY, Mode::empty())?;
    // A slash at the end means the directory itself.
    let (directories, last) = match rest.iter().rposition(|b| *b == b'/') {
        Some(slash) if slash + 1 == rest.len() => (rest, &b"."[..]),
        Some(slash) => rest.split_at(slash + 1),
        None => (&b""[..], rest),
    };
    for name in directories.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
        directory = open_component(symlinks, directory.as_fd(), name, DIRECTORY)?;
    }
    open_component(symlinks, directory.as_fd(), last, flags)
}

fn open_component(
    symlinks: &Symlinks,
    directory: BorrowedFd<'_>,
    name: &[u8],
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    if !symlinks.if_not_owner {
        return openat(directory, name, flags | OFlags::NOFOLLOW, Mode::empty());
    }
    let opened = openat(directory, name, flags, Mode::empty())?;
    // Whether a link was followed cannot be known afterwards: compare the owners of the name and of the opened file.
    let link = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if link.st_uid == fstat(&opened)?.st_uid { Ok(opened) } else { Err(Errno::LOOP) }
}

/// Returns the status of a file that cannot be opened, and the level to log the error with.
pub fn error_status(error: &io::Error) -> (u16, Level) {
    match Errno::from_io_error(error) {
        // NXIO: a socket.
        Some(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::NXIO) => (404, Level::Error),
        // INVAL: a name with a NUL.
        Some(Errno::INVAL) => (404, Level::Error),
        Some(Errno::ACCESS | Errno::LOOP | Errno::PERM) => (403, Level::Error),
        _ => (500, Level::Crit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trusted_prefix_ends_with_a_component() {
        for (name, from, expected) in [
            ("/a/b/c", "/a/b", 4),
            ("/a/b/c", "/a/b/", 4),
            ("/a/b", "/a/b", 4),
            ("/a/bc", "/a/b", 0),
            ("/a/bc", "/a/", 2),
            ("/a/b", "", 0),
            ("/a", "/a/b", 0),
        ] {
            assert_eq!(trusted_prefix(name.as_bytes(), from.as_bytes()), expected, "{name} from {from}");
        }
    }
}
