//! Into the background (`daemon on`): the program is started once more, in a session of its own, and this one ends as soon
//! as that one serves.
//!
//! So whoever started it learns whether it serves: the exit code is 0 only then, and that of the other one if it has ended,
//! which has said why. A copy of a running process (fork) would do as well, but there is no safe way to make one.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use crate::program::{self, BACKGROUND, Program};

/// Goes into the background: the exit code, if this process stays behind.
///
/// # Errors
/// Those of fork(2), execve(2) and setsid(2).
pub fn go(program: &Program) -> io::Result<Option<u8>> {
    if !is_here() {
        return start(program).map(Some);
    }
    // The end of the session of who has started it is none of its business any more.
    rustix::process::setsid()?;
    Ok(None)
}

/// Whether this is the one in the background.
fn is_here() -> bool {
    std::env::var_os(BACKGROUND).is_some()
}

/// Starts the other one, and waits until it serves or has ended.
fn start(program: &Program) -> io::Result<u8> {
    let (mut near, far) = UnixStream::pair()?;
    let started = program.start(Some(BACKGROUND), &[far.as_fd()])?;
    drop(far);
    if let Ok(1..) = near.read(&mut [0]) {
        return Ok(0);
    }
    let code = started.wait()?;
    Ok(code.and_then(|code| u8::try_from(code).ok()).filter(|code| *code > 0).unwrap_or(1))
}

/// The program serves: who waits for it may go, with the standard streams. Standard error stays if logs are written to it.
///
/// # Errors
/// Those of open(2) and dup2(2).
pub fn arrive(logs_to_stderr: bool) -> io::Result<()> {
    if !is_here() {
        return Ok(());
    }
    let nothing = program::nothing()?;
    rustix::io::write(rustix::stdio::stdin(), b"+")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stdout(&nothing)?;
    if !logs_to_stderr {
        rustix::stdio::dup2_stderr(&nothing)?;
    }
    Ok(())
}
