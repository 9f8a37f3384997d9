//! Threads, each for one boxed piece of work: so the code that starts one is in the program once.

use std::io;
use std::thread::{Builder, JoinHandle, Thread};

/// What is done by a thread.
pub type Work = Box<dyn FnOnce() + Send>;

/// Starts a thread that nobody waits for.
///
/// # Errors
/// Those of clone(2): out of processes or memory.
pub fn start(name: String, stack_bytes: usize, work: Work) -> io::Result<Thread> {
    Ok(spawn(name, stack_bytes, work)?.thread().clone())
}

/// Starts a thread and waits for its end.
///
/// # Errors
/// As [`start`].
pub fn complete(name: String, stack_bytes: usize, work: Work) -> io::Result<()> {
    let ended = spawn(name, stack_bytes, work)?.join();
    ended.map_err(|_| io::ErrorKind::Other.into())
}

fn spawn(name: String, stack_bytes: usize, work: Work) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name).stack_size(stack_bytes).spawn(work)
}
