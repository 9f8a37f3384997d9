//! The files that log lines are written to.
//!
//! A line is one write(2) to a file opened for appending. A file that would block or is full loses the line.

use std::io::{self, Write as _};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl, fstat, stat};

use crate::config::LogTarget;
use crate::os::privileges::Account;
use crate::os::root_files;
use crate::runtime::io_error;

/// Symbolic links between a log's name and a standard stream.
const LINKS_MAX: u32 = 8;

/// The open log files by number. They stay open as long as the process: a reload adds to them.
static FILES: RwLock<Vec<Option<LogFile>>> = RwLock::new(Vec::new());

struct LogFile {
    path: String,
    fd: OwnedFd,
    /// Lines lost since it was opened.
    lost: AtomicU32,
}

/// Opens the files of a configuration that are not open yet. New files belong to `account`, the user of the workers, so
/// that it can reopen them.
pub fn open(files: &[(u32, String)], account: Option<&Account>) -> Result<(), String> {
    let mut all = FILES.write().unwrap_or_else(PoisonError::into_inner);
    for (number, path) in files {
        let at = *number as usize;
        if all.len() <= at {
            all.resize_with(at + 1, || None);
        }
        let Some(slot) = all.get_mut(at).filter(|slot| slot.is_none()) else { continue };
        let fd = open_file(path, account)
            .map_err(|error| format!("open() \"{path}\" failed ({})", io_error::describe(&error)))?;
        *slot = Some(LogFile { path: path.clone(), fd, lost: AtomicU32::new(0) });
    }
    Ok(())
}

/// Opens each renamed file again under its configured name, and returns an error for each that can't be opened; those
/// stay open.
pub fn reopen() -> Vec<String> {
    let mut all = FILES.write().unwrap_or_else(PoisonError::into_inner);
    let mut failed = Vec::new();
    // Files that were not renamed stay open: a pipe or device of root's could not be opened again by the worker's user.
    for file in all.iter_mut().flatten().filter(|file| !is_unchanged(file)) {
        match open_file(&file.path, None) {
            Ok(fd) => *file = LogFile { path: std::mem::take(&mut file.path), fd, lost: AtomicU32::new(0) },
            Err(error) => failed.push(format!("open() \"{}\" failed ({})", file.path, io_error::describe(&error))),
        }
    }
    failed
}

/// Whether a file still has its name.
fn is_unchanged(file: &LogFile) -> bool {
    let (named, open) = (stat(file.path.as_str()), fstat(&file.fd));
    named.is_ok_and(|named| open.is_ok_and(|open| (named.st_dev, named.st_ino) == (open.st_dev, open.st_ino)))
}

fn open_file(path: &str, account: Option<&Account>) -> io::Result<OwnedFd> {
    let opened = root_files::open_append(path.as_ref(), account);
    // A standard stream can't be opened by its name if it is a socket (of a supervisor) or a pipe of root's.
    opened.or_else(|error| match standard_stream(path.into()) {
        Some(stream) => {
            // A file opened by a shell would be written from its start.
            let _ = fcntl_getfl(stream).and_then(|flags| fcntl_setfl(stream, flags | OFlags::APPEND));
            stream.try_clone_to_owned()
        }
        None => Err(error),
    })
}

/// The standard stream that a path is a name of or a link to.
fn standard_stream(mut path: PathBuf) -> Option<BorrowedFd<'static>> {
    for _ in 0..LINKS_MAX {
        match path.to_str()? {
            "/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1" => return Some(rustix::stdio::stdout()),
            "/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2" => return Some(rustix::stdio::stderr()),
            _ => {}
        }
        let target = std::fs::read_link(&path).ok()?;
        path.pop();
        path.push(target);
    }
    None
}

/// Writes a line; one that can't be written is lost.
pub fn write(target: LogTarget, line: &[u8]) {
    match target {
        LogTarget::Nowhere => {}
        LogTarget::Stderr => drop(io::stderr().write_all(line)),
        LogTarget::File(number) => {
            let files = FILES.read().unwrap_or_else(PoisonError::into_inner);
            let Some(Some(file)) = files.get(number as usize) else { return };
            if rustix::io::write(&file.fd, line).is_ok() {
                return;
            }
            if file.lost.fetch_add(1, Ordering::Relaxed) == 0 {
                let _ = writeln!(io::stderr(), "write to \"{}\" failed: lines are lost", file.path);
            }
        }
    }
}

/// Returns the path of an open file.
pub fn path(number: u32) -> Option<String> {
    let files = FILES.read().unwrap_or_else(PoisonError::into_inner);
    files.get(number as usize)?.as_ref().map(|file| file.path.clone())
}
