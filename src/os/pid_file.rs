//! The pid file: which process this is, for scripts; and a lock, for `-s`.
//!
//! A number in a file may be that of a process that has ended, or of another one by now; and the account of the service
//! may write to the file, so a number alone would let it choose which process root signals. Therefore the program holds a
//! lock on its file (fcntl(2), `F_SETLK`), and `-s` asks the kernel which process does (`F_GETLK`): that can't be stale and
//! can't be forged, and `-s` needs no right but to read the file. The link /proc/PID/exe would tell less: only root and
//! the account can read it, and it names a deleted file after an upgrade.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use rustix::process::{Flock, FlockType, Pid, fcntl_getlk, test_kill_process};

use crate::os::privileges::Account;
use crate::os::{privileged_reader, root_files};

/// How long `-s` waits for the lock while the process lives: a binary upgrade drops it with the old program, and the new
/// one takes it when it has read its configuration.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(3);
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Bytes of the file that are looked at.
const NUMBER_BYTES_MAX: u64 = 32;

/// The file that says which process this is, as long as it lives. Closing any descriptor of the file would drop the lock,
/// so nothing else opens it.
pub struct PidFile {
    path: String,
    file: File,
}

impl PidFile {
    /// Writes the file, and gives it to the account that root becomes.
    pub fn write(path: &str, account: Option<&Account>) -> io::Result<Self> {
        let file = match root_files::replace(path.as_ref(), account, write_pid) {
            Ok(file) => file,
            // It was written by the program before, in a directory that is root's.
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

    /// Whether the name is still that of this file, and not of another program's.
    fn owns_path(&self) -> bool {
        let identity = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        let (named, own) = (std::fs::symlink_metadata(&self.path), self.file.metadata());
        named.ok().map(identity) == own.ok().map(identity)
    }
}

impl Drop for PidFile {
    /// In a directory that is root's the file can't be removed any more, but emptied.
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

/// A file system without locks keeps no program from starting; `-s` says that no program holds the file.
fn lock(file: &File) {
    let _ = fcntl_lock(file, FlockOperation::NonBlockingLockExclusive);
}

/// The process whose pid file this is.
pub fn find_holder(path: &str) -> Result<Pid, String> {
    let started = Instant::now();
    loop {
        // It is another file as soon as another program has the name.
        let (file, text) =
            read(path).map_err(|error| format!("reading \"{path}\" failed ({error}): does the program run?"))?;
        let text = text.trim();
        let Some(pid) = text.parse().ok().filter(|pid| *pid > 0).and_then(Pid::from_raw) else {
            return Err(format!("invalid PID \"{text}\" in \"{path}\""));
        };
        if let Some(holder) = lock_owner(&file).map_err(|error| format!("fcntl() \"{path}\" failed ({error})"))? {
            return Ok(holder);
        }
        if test_kill_process(pid) == Err(Errno::SRCH) || started.elapsed() > LOCK_WAIT_MAX {
            return Err(format!(
                "no smolgate holds \"{path}\", and process {text} may be any other: it gets no signal"
            ));
        }
        std::thread::sleep(LOCK_POLL_INTERVAL);
    }
}

fn read(path: &str) -> io::Result<(File, String)> {
    let file = privileged_reader::open_nonblocking(path.as_ref())?;
    let mut bytes = Vec::new();
    (&file).take(NUMBER_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok((file, String::from_utf8_lossy(&bytes).into_owned()))
}

/// The process that keeps others from writing to the file. Locks of another kind belong to no process, and have -1 there.
fn lock_owner(file: &File) -> io::Result<Option<Pid>> {
    let found = fcntl_getlk(file, &Flock::from(FlockType::ReadLock))?;
    Ok(found
        .filter(|lock| lock.typ == FlockType::WriteLock)
        .and_then(|lock| lock.pid)
        .filter(|pid| pid.as_raw_pid() > 0))
}
