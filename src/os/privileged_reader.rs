//! Files that only root may read, when root has become somebody else: keys of certificates, which are read again when they
//! are renewed.
//!
//! If one of these files can't be read otherwise, one thread keeps the power to read whatever there is
//! (CAP_DAC_READ_SEARCH). It does nothing by itself, waits for those who read keys, and starts the next program, which has
//! to read them too. All other threads have given the power up. Without such a file there is no such thread: most programs
//! have no use for that much power, and one that a later configuration names is told of.

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

/// Bytes of the stack of that thread.
const STACK_BYTES: usize = 128 * 1024;
/// What the thread may do: the next program has to bind, too.
const CAPABILITIES: CapabilitySet = CapabilitySet::DAC_READ_SEARCH.union(CapabilitySet::NET_BIND_SERVICE);

type Job = Box<dyn FnOnce() + Send>;

static READER: OnceLock<Thread> = OnceLock::new();
/// What it is to do. Who gives it that waits.
static JOBS: Mutex<Vec<Job>> = Mutex::new(Vec::new());
/// The files that were opened here before [`start`], by a thread that can read everything.
static OPENED_PATHS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the thread, if root is to become `account`, or if the power was given to somebody else. Everything that this
/// thread starts from now on is without it: there must be no others yet.
pub fn start(account: Option<Account>) -> Result<(), String> {
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

/// Whether this thread has the power to read whatever there is.
#[cfg(feature = "tls")]
fn can_read_everything() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::DAC_READ_SEARCH))
}

/// Whether one of these files can't be opened after the step that gives the power up.
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
    let thread = Builder::new().name("reader".to_owned()).stack_size(STACK_BYTES).spawn(body);
    let _ = READER.set(thread.map_err(|error| format!("no thread can be started ({error})"))?.thread().clone());
    Ok(())
}

/// Does something where all can be read: at once if there is no such thread.
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

/// Opens a file with a key to read it, now and whenever it has changed.
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

/// Opens a file to read it, and does not wait if it is a pipe without a writer.
pub fn open_nonblocking(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Opens a regular file: to wait here would let all others wait.
#[cfg(feature = "tls")]
fn open_regular(path: &str) -> io::Result<File> {
    let file = open_nonblocking(path.as_ref())?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::from(io::ErrorKind::PermissionDenied)),
    }
}
