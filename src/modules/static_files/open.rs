//! Files by their names, through symbolic links or not (`disable_symlinks`).
//!
//! With `disable_symlinks` each folder of a name is opened by itself, in the one before: nobody can put a link into a path
//! between the look and the step.

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

/// A folder that is only a step to what is in it: to go through it is allowed to those who may not read it.
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Opens a file or a folder to read it.
pub fn open(exchange: &Exchange, name: &[u8]) -> io::Result<(File, Metadata)> {
    // A FIFO must not hold up the worker, and a terminal is not to become ours.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(open_fd(exchange, name, flags)?);
    let meta = file.metadata()?;
    Ok((file, meta))
}

/// What is there under a name.
pub fn metadata(exchange: &Exchange, name: &[u8]) -> io::Result<Metadata> {
    if exchange.settings().rare.symlinks.is_none() {
        return std::fs::metadata(OsString::from_vec(name.to_vec()));
    }
    let meta = File::from(open_fd(exchange, name, OFlags::PATH | OFlags::CLOEXEC)?).metadata()?;
    if meta.is_symlink() { Err(Errno::LOOP.into()) } else { Ok(meta) }
}

fn open_fd(exchange: &Exchange, name: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let plainly = || openat(CWD, name, flags, Mode::empty());
    let Some(symlinks) = &exchange.settings().rare.symlinks else { return plainly() };
    let from = symlinks.from.as_ref().map(|from| variables::value(from, exchange)).unwrap_or_default();
    match trusted_prefix(name, &from) {
        trusted if trusted == name.len() => plainly(),
        trusted => open_checked(symlinks, name.split_at(trusted), flags),
    }
}

/// How much of a name is not looked at: what `from=` says, if it ends where a folder does.
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
    let mut folder = openat(CWD, start, DIRECTORY, Mode::empty())?;
    // Behind a slash at the end stands the folder itself.
    let (folders, last) = match rest.iter().rposition(|b| *b == b'/') {
        Some(slash) if slash + 1 == rest.len() => (rest, &b"."[..]),
        Some(slash) => rest.split_at(slash + 1),
        None => (&b""[..], rest),
    };
    for name in folders.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
        folder = open_component(symlinks, folder.as_fd(), name, DIRECTORY)?;
    }
    open_component(symlinks, folder.as_fd(), last, flags)
}

fn open_component(
    symlinks: &Symlinks,
    folder: BorrowedFd<'_>,
    name: &[u8],
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    if !symlinks.of_same_owner {
        return openat(folder, name, flags | OFlags::NOFOLLOW, Mode::empty());
    }
    let opened = openat(folder, name, flags, Mode::empty())?;
    // Whether it was a link when it was opened can't be known: so the owners of both are compared.
    let named = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if named.st_uid == fstat(&opened)?.st_uid { Ok(opened) } else { Err(Errno::LOOP) }
}

/// The status of a file that can't be opened, and how much it matters.
pub fn error_status(error: &io::Error) -> (u16, Level) {
    match Errno::from_io_error(error) {
        // A socket can't be opened at all: NXIO.
        Some(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::NXIO) => (404, Level::Error),
        // No file has such a name.
        Some(Errno::INVAL) => (404, Level::Error),
        Some(Errno::ACCESS | Errno::LOOP | Errno::PERM) => (403, Level::Error),
        _ => (500, Level::Crit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_trusted_ends_with_a_folder() {
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
