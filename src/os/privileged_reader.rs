//! Reads key files that only root may read, after privileges were dropped: keys are read again when certificates are
//! renewed.
//!
//! If such a file can't be read otherwise, one thread keeps the capability to read every file (CAP_DAC_READ_SEARCH),
//! serves read requests, and starts the new binary, which needs the capability too. All other threads have dropped
//! it. Without such a file there is no such thread, because most configurations have no use for that much privilege;
//! an unreadable key that a later configuration names is then reported as an error.

use std::fs::File;
use std::io;
use std::mem::take;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{Builder, Thread};

use rustix::fs::OFlags;
use rustix::process::geteuid;
use rustix::thread::{CapabilitySet, capabilities};

use crate::os::privileges::{self, Account};

/// Bytes of the thread's stack.
const STACK_BYTES: usize = 128 * 1024;
/// The capabilities of the thread: the new binary has to bind its sockets, too.
const CAPABILITIES: CapabilitySet = CapabilitySet::DAC_READ_SEARCH.union(CapabilitySet::NET_BIND_SERVICE);

type Job = Box<dyn FnOnce() + Send>;

static READER: OnceLock<Thread> = OnceLock::new();
/// Jobs of the thread; the caller that adds one waits for its end.
static JOBS: Mutex<Vec<Job>> = Mutex::new(Vec::new());
/// Paths opened before [`drop_privileges`] by a thread that can read every file.
static OPENED_PATHS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Drops privileges: root becomes `account`, or a process that was started with CAP_DAC_READ_SEARCH gives it up.
/// Starts the privileged thread first, if it is needed. Threads that exist already keep their privileges, so there
/// must be none.
pub fn drop_privileges(account: Option<Account>) -> Result<(), String> {
    let opened = take(&mut *lock(&OPENED_PATHS));
    let effective = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    let remaining = effective - CapabilitySet::DAC_READ_SEARCH;
    match account {
        Some(account) => {
            let later = account.clone();
            if needs_reader(opened, move || later.assume(CapabilitySet::empty()))? {
                spawn()?;
                let reader = account.clone();
                run(move || reader.assume(CAPABILITIES))?;
            }
            account.assume(CapabilitySet::NET_BIND_SERVICE)
        }
        None if effective != remaining && !geteuid().is_root() => {
            if needs_reader(opened, move || privileges::keep_capabilities(remaining))? {
                spawn()?;
            }
            privileges::keep_capabilities(remaining)
        }
        None => Ok(()),
    }
}

/// Whether this thread has the capability to read every file.
#[cfg(feature = "tls")]
fn can_read_everything() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::DAC_READ_SEARCH))
}

/// Whether one of `files` can't be opened after `give_up`.
fn needs_reader(
    files: Vec<String>,
    give_up: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Result<bool, String> {
    if files.is_empty() {
        return Ok(false);
    }
    let is_denied = |path: &String| {
        open_nonblocking(path.as_ref()).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    let check = move || give_up().map(|()| files.iter().any(is_denied));
    privileges::run_in_thread(check).map_err(|error| error.to_string())
}

fn spawn() -> Result<(), String> {
    let body = || {
        loop {
            let jobs = take(&mut *lock(&JOBS));
            jobs.into_iter().for_each(|job| job());
            std::thread::park();
        }
    };
    let thread = Builder::new().name("key-reader".to_owned()).stack_size(STACK_BYTES).spawn(body);
    let _ = READER.set(thread.map_err(|error| format!("starting a thread failed ({error})"))?.thread().clone());
    Ok(())
}

/// Runs `job` on the privileged thread and waits for its result; on this thread if there is no privileged one.
pub fn run<R: Send + 'static>(job: impl FnOnce() -> R + Send + 'static) -> R {
    let Some(reader) = READER.get() else { return job() };
    let result = Arc::new(Mutex::new(None));
    let (slot, waiting) = (result.clone(), std::thread::current());
    lock(&JOBS).push(Box::new(move || {
        *lock(&slot) = Some(job());
        waiting.unpark();
    }));
    reader.unpark();
    loop {
        if let Some(result) = lock(&result).take() {
            return result;
        }
        std::thread::park();
    }
}

/// Opens a key file, at start and whenever it has changed.
#[cfg(feature = "tls")]
pub fn open(path: &str) -> io::Result<File> {
    if READER.get().is_none() && can_read_everything() {
        let mut opened = lock(&OPENED_PATHS);
        if !opened.iter().any(|known| known == path) {
            opened.push(path.to_owned());
        }
    }
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && READER.get().is_some() => {
            let path = path.to_owned();
            run(move || open_regular(&path))
        }
        opened => opened,
    }
}

/// Opens a file for reading, without blocking on a pipe that has no writer.
pub fn open_nonblocking(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Opens a regular file only: one that blocks would block all readers.
#[cfg(feature = "tls")]
fn open_regular(path: &str) -> io::Result<File> {
    let file = open_nonblocking(path.as_ref())?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::from(io::ErrorKind::PermissionDenied)),
    }
}
