//! The files and syslog servers that log lines are written to. Lines that can't be written are lost, and counted.
//!
//! A line is one write(2): to a file opened for appending, or to a socket as a datagram. It never blocks. Files of the
//! configuration are opened at start. A file whose name has variables is opened for the first line, and stays open as long
//! as it is one of those written to last.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl, fstat, stat};

use crate::config::{Level, LogTarget, SYSLOG_PREFIX};
use crate::os::privileges::Account;
use crate::os::root_files;
use crate::request::log::one_line;
use crate::request::log::syslog::SyslogSender;
use crate::runtime::executor::{self, Millis};
use crate::runtime::metrics::{self, Metric};
use crate::runtime::{clock, io_error};

/// Symbolic links between a log's name and a standard stream.
const LINKS_MAX: u32 = 8;
/// Open files whose names have variables.
const NAMED_FILES_MAX: usize = 64;
/// Files that are created because of a name with variables. Clients choose some of the names.
const CREATED_FILES_MAX: u32 = 1024;
/// How long a file is written to without a look whether it still has its name.
const NAME_VALID: Millis = 10_000;

/// The targets of the configuration by number. They stay open as long as the process: a reload adds to them.
static TARGETS: RwLock<Vec<Option<Target>>> = RwLock::new(Vec::new());
/// Open files whose names have variables, the one used last first.
static NAMED_FILES: Mutex<VecDeque<NamedFile>> = Mutex::new(VecDeque::new());
static CREATED_FILES: AtomicU32 = AtomicU32::new(0);
/// Lost lines of all files whose names have variables.
static NAMED_FILES_LOST: LostLines = LostLines::new();

struct Target {
    /// A path, or `syslog:server=...`.
    name: String,
    sink: Sink,
    lost: LostLines,
}

enum Sink {
    File(OwnedFd),
    Syslog(SyslogSender),
}

struct NamedFile {
    path: Box<str>,
    fd: OwnedFd,
    /// When it last had its name.
    checked: Millis,
}

/// Opens the targets of a configuration that are not open yet. New files belong to `account`, the user of the workers, so
/// that it can reopen them.
pub fn open(targets: &[(u32, String)], account: Option<&Account>) -> Result<(), String> {
    let mut all = TARGETS.write().unwrap_or_else(PoisonError::into_inner);
    for (number, name) in targets {
        let at = *number as usize;
        if all.len() <= at {
            all.resize_with(at + 1, || None);
        }
        let Some(slot) = all.get_mut(at).filter(|slot| slot.is_none()) else { continue };
        let sink = match name.starts_with(SYSLOG_PREFIX) {
            true => Sink::Syslog(SyslogSender::new(name)?),
            false => Sink::File(open_file(name, account).map_err(|error| open_error(name, &error))?),
        };
        *slot = Some(Target { name: name.clone(), sink, lost: LostLines::new() });
    }
    Ok(())
}

/// Opens each renamed file again under its configured name, and returns an error for each that can't be opened; those
/// stay open.
pub fn reopen() -> Vec<String> {
    NAMED_FILES.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let mut all = TARGETS.write().unwrap_or_else(PoisonError::into_inner);
    let mut failed = Vec::new();
    for target in all.iter_mut().flatten() {
        let Sink::File(fd) = &mut target.sink else { continue };
        // Files that were not renamed stay open: a pipe or device of root's could not be opened again by the worker's user.
        if has_name(fd, &target.name) {
            continue;
        }
        match open_file(&target.name, None) {
            Ok(new) => *fd = new,
            Err(error) => failed.push(open_error(&target.name, &error)),
        }
    }
    failed
}

fn open_error(path: &str, error: &io::Error) -> String {
    format!("open() \"{path}\" failed ({})", io_error::describe(error))
}

/// Whether an open file still has its name.
fn has_name(fd: &OwnedFd, path: &str) -> bool {
    let (named, open) = (stat(path), fstat(fd));
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

/// Writes a line that ends in a line feed. `severity` is that of a message of the error log.
pub fn write(target: LogTarget, severity: Option<Level>, line: &[u8]) {
    match target {
        LogTarget::Nowhere => {}
        LogTarget::Stderr => drop(io::stderr().write_all(line)),
        LogTarget::Numbered(number) => {
            let targets = TARGETS.read().unwrap_or_else(PoisonError::into_inner);
            let Some(Some(target)) = targets.get(number as usize) else { return };
            let written = match &target.sink {
                Sink::File(fd) => write_line(fd, line),
                Sink::Syslog(sender) => sender.send(severity, line),
            };
            if let Err(error) = written {
                target.lost.count(&target.name, &error);
            }
        }
    }
}

fn write_line(fd: &OwnedFd, line: &[u8]) -> io::Result<()> {
    match rustix::io::write(fd, line)? {
        count if count == line.len() => Ok(()),
        _ => Err(io::Error::other("only a part was written")),
    }
}

/// Writes a line to the file of a path that was made with variables.
pub fn write_named(path: &str, line: &[u8]) {
    let mut files = NAMED_FILES.lock().unwrap_or_else(PoisonError::into_inner);
    let written = named_file(&mut files, path).and_then(|file| write_line(&file.fd, line));
    if let Err(error) = written {
        NAMED_FILES_LOST.count(path, &error);
    }
}

/// Returns the open file of a path, moved to the front.
fn named_file<'f>(files: &'f mut VecDeque<NamedFile>, path: &str) -> io::Result<&'f NamedFile> {
    let now = executor::now();
    let file = match files.iter().position(|file| *file.path == *path).and_then(|at| files.remove(at)) {
        Some(file) if now.saturating_sub(file.checked) < NAME_VALID => file,
        Some(file) if has_name(&file.fd, path) => NamedFile { checked: now, ..file },
        _ => NamedFile { path: path.into(), fd: open_named(path)?, checked: now },
    };
    files.truncate(NAMED_FILES_MAX - 1);
    files.push_front(file);
    files.front().ok_or_else(|| io::Error::other("no file is open"))
}

fn open_named(path: &str) -> io::Result<OwnedFd> {
    let is_new = !Path::new(path).exists();
    if is_new && CREATED_FILES.load(Ordering::Relaxed) >= CREATED_FILES_MAX {
        return Err(io::Error::other("too many files were created because of names with variables"));
    }
    let fd = root_files::open_append(path.as_ref(), None)?;
    CREATED_FILES.fetch_add(is_new.into(), Ordering::Relaxed);
    Ok(fd)
}

/// Counts a line whose variables make no valid path.
pub fn refuse_named(value: &str) {
    NAMED_FILES_LOST.count(value, &io::Error::other("its variables make no file name"));
}

/// Returns the name of an open target.
pub fn name(number: u32) -> Option<String> {
    let targets = TARGETS.read().unwrap_or_else(PoisonError::into_inner);
    targets.get(number as usize)?.as_ref().map(|target| target.name.clone())
}

/// Returns the number of an open target.
pub fn number(name: &str) -> Option<u32> {
    let targets = TARGETS.read().unwrap_or_else(PoisonError::into_inner);
    let at = targets.iter().position(|target| target.as_ref().is_some_and(|target| target.name == name))?;
    Some(at as u32)
}

/// Lost lines of a target. They are reported on standard error: the first at once, later ones at most once a minute.
struct LostLines {
    /// Since the last report.
    count: AtomicU32,
    /// The number of the minute of the last report, from 1.
    reported: AtomicU32,
}

impl LostLines {
    const fn new() -> Self {
        Self { count: AtomicU32::new(0), reported: AtomicU32::new(0) }
    }

    fn count(&self, name: &str, error: &io::Error) {
        metrics::add(Metric::LostLogLines, 1);
        self.count.fetch_add(1, Ordering::Relaxed);
        let minute = (clock::uptime().as_secs() / 60) as u32 + 1;
        if self.reported.swap(minute, Ordering::Relaxed) != minute {
            let lost = self.count.swap(0, Ordering::Relaxed);
            let (name, why) = (one_line(name), io_error::describe(error));
            let _ = writeln!(io::stderr(), "write to \"{name}\" failed ({why}): {lost} lines are lost");
        }
    }
}
