//! Programs that are executed: this one once more, beside it or in its place, and maybe in another version.
//!
//! posix_spawn(3) does what is needed of std's `Command` in a fifth of its size.

use std::convert::Infallible;
use std::ffi::{CString, NulError};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, WaitOptions, waitpid};

use crate::keeper;
use crate::supervisor;

/// In the environment of a program that goes on with the connections of another: their parcel is at standard input.
pub const PARCEL: &str = "SMOLGATE_PARCEL";
/// In the environment of a program that was started in the background: who waits for it is at standard input.
pub const BACKGROUND: &str = "SMOLGATE_BACKGROUND";

/// How this program was started.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its file, under the name that it had then: another version may have its place by now.
    pub file: CString,
    /// With the name of the program as the first.
    pub args: Vec<CString>,
}

impl Program {
    /// The program that runs.
    ///
    /// # Errors
    /// Where /proc is not mounted.
    pub fn current() -> io::Result<Self> {
        let mut args = Vec::new();
        for arg in std::env::args_os() {
            args.push(CString::new(arg.into_vec())?);
        }
        let file = std::env::current_exe()?.into_os_string();
        Ok(Self { file: CString::new(file.into_vec())?, args })
    }

    /// Starts it in a process of its own, with `streams` as the first of its standard streams; the others are ours.
    ///
    /// # Errors
    /// Those of fork(2) and execve(2).
    pub fn start(&self, said: Option<&str>, streams: &[BorrowedFd<'_>]) -> io::Result<Started> {
        let mut actions = PosixSpawnFileActions::init()?;
        for (number, stream) in (0..).zip(streams) {
            actions.add_dup2(stream.as_raw_fd(), number)?;
        }
        // It gets the signals that we hold or ignore.
        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF)?;
        attributes.set_sigmask(&SigSet::empty())?;
        attributes.set_sigdefault(&Signal::SIGPIPE.into())?;
        let pid = posix_spawn(self.file.as_c_str(), &actions, &attributes, &self.args, &environment(said)?)?;
        Ok(Started(Pid::from_raw(pid.as_raw()).ok_or(io::ErrorKind::NotFound)?))
    }

    /// Becomes it, with what this process has open. Comes back only if that fails.
    ///
    /// # Errors
    /// Those of execve(2).
    pub fn execute(&self, said: &str) -> io::Result<Infallible> {
        let (file, args) = (self.file.clone(), self.args.clone());
        let environment = environment(Some(said))?;
        Ok(keeper::with(move || nix::unistd::execve(&file, &args, &environment))?)
    }
}

/// A process that was started, and is to be waited for.
pub struct Started(Pid);

impl Started {
    /// Waits until it has ended: its exit code, unless a signal has ended it.
    ///
    /// # Errors
    /// Those of waitpid(2).
    pub fn wait(self) -> io::Result<Option<i32>> {
        let ended = retry_on_intr(|| waitpid(Some(self.0), WaitOptions::empty()))?;
        Ok(ended.and_then(|(_, status)| status.exit_status()))
    }
}

/// What is read from this is empty, and what is written to it is gone.
///
/// # Errors
/// Those of open(2).
pub fn nothing() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/null")
}

/// Our environment, with something else in the place of what was said to this program in particular: the sockets that
/// systemd has bound, too, are ours or in the parcel.
fn environment(said: Option<&str>) -> Result<Vec<CString>, NulError> {
    let ours = [&[PARCEL, BACKGROUND], &supervisor::PASSED[..]].concat();
    let mut lines = Vec::new();
    for (name, value) in std::env::vars_os() {
        if !ours.iter().any(|ours| name == *ours) {
            lines.push(CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())?);
        }
    }
    if let Some(name) = said {
        lines.push(CString::new(format!("{name}=1"))?);
    }
    Ok(lines)
}
