//! The pid file: the process id for scripts, and a lock for `-s`.
//!
//! A number in a file may belong to a process that has ended, or to another one by now. The service account may write
//! to the file, so a number alone would let that account choose which process root signals. Therefore the program
//! holds a lock on its file (fcntl(2), `F_SETLK`), and `-s` asks the kernel for the process that holds it
//! (`F_GETLK`): the result can be neither stale nor forged, and `-s` needs only read access to the file.
//! /proc/PID/exe is no substitute: only root and the account can read that link, and it names a deleted file after a
//! binary upgrade.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use rustix::process::{Flock, FlockType, Pid, fcntl_getlk, test_kill_process};

use crate::os::privileges::Account;
use crate::os::{privileged_reader, root_files};

/// How long `-s` waits for the lock while the process lives: a binary upgrade releases the lock with the old program,
/// and the new one takes it after reading its configuration.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(3);
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Bytes of the file that are read.
const NUMBER_BYTES_MAX: u64 = 32;

/// The pid file of this process. Closing any descriptor of the file would release the lock, so nothing else opens it.
pub struct PidFile {
    path: String,
    file: File,
}

impl PidFile {
    /// Writes the file, and hands its ownership to `account`.
    pub fn write(path: &str, account: Option<&Account>) -> io::Result<Self> {
        let file = match root_files::replace(path.as_ref(), account, write_pid) {
            Ok(file) => file,
            // The old binary wrote it, into a directory that only root can change.
            Err(error) => match (std::fs::read_to_string(path), File::options().write(true).open(path)) {
                (Ok(text), Ok(file)) if text.trim() == std::process::id().to_string() => {
                    lock(&file);
                    file
                }
                _ => return Err(error),
            },
        };
        Ok(Self { path: path.to_owned(), file })
    }

    /// Whether the path still names this file, and not that of another program.
    fn owns_path(&self) -> bool {
        let identity = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        let (named, own) = (std::fs::symlink_metadata(&self.path), self.file.metadata());
        named.ok().map(identity) == own.ok().map(identity)
    }
}

impl Drop for PidFile {
    /// Removes the file. In a directory that only root can change it is truncated instead.
    fn drop(&mut self) {
        if !self.owns_path() || root_files::remove(self.path.as_ref()).is_err() {
            let _ = self.file.set_len(0);
        }
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    lock(file);
    file.write_all(format!("{}\n", std::process::id()).as_bytes())
}

/// Locks the file. A failure (a file system without locks) is ignored: `-s` then reports that no program holds the
/// file.
fn lock(file: &File) {
    let _ = fcntl_lock(file, FlockOperation::NonBlockingLockExclusive);
}

/// Finds the process that holds the lock of the pid file.
pub fn find_holder(path: &str) -> Result<Pid, String> {
    let started = Instant::now();
    loop {
        // Opened each time: the new binary replaces the file.
        let (file, text) =
            read(path).map_err(|error| format!("reading \"{path}\" failed ({error}): is smolgate running?"))?;
        let text = text.trim();
        if text.is_empty() {
            return Err(format!("smolgate is not running: \"{path}\" is empty"));
        }
        let pid = parse_pid(text).ok_or_else(|| format!("\"{path}\" has no process id: \"{text}\""))?;
        if let Some(holder) = lock_owner(&file).map_err(|error| format!("fcntl() \"{path}\" failed ({error})"))? {
            return Ok(holder);
        }
        if test_kill_process(pid) == Err(Errno::SRCH) {
            return Err(format!("smolgate is not running: \"{path}\" names process {text}, which has ended"));
        }
        if started.elapsed() > LOCK_WAIT_MAX {
            return Err(format!(
                "no smolgate holds the lock of \"{path}\": process {text} may be another program, and gets no signal"
            ));
        }
        std::thread::sleep(LOCK_POLL_INTERVAL);
    }
}

/// Parses the id of one process: 0 and negative numbers name groups.
pub fn parse_pid(text: &str) -> Option<Pid> {
    text.parse().ok().filter(|pid| *pid > 0).and_then(Pid::from_raw)
}

fn read(path: &str) -> io::Result<(File, String)> {
    let file = privileged_reader::open_nonblocking(path.as_ref())?;
    let mut bytes = Vec::new();
    (&file).take(NUMBER_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok((file, String::from_utf8_lossy(&bytes).into_owned()))
}

/// Returns the process that holds the write lock. Locks of another kind belong to no process, and have -1 there.
fn lock_owner(file: &File) -> io::Result<Option<Pid>> {
    let found = fcntl_getlk(file, &Flock::from(FlockType::ReadLock))?;
    Ok(found
        .filter(|lock| lock.typ == FlockType::WriteLock)
        .and_then(|lock| lock.pid)
        .filter(|pid| pid.as_raw_pid() > 0))
}
