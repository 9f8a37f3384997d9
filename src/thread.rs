//! Threads, each for one boxed piece of work: so the code that starts one is in the program once.

use std::io;
use std::thread::{Builder, Thread};

/// What is done by a thread.
pub type Work = Box<dyn FnOnce() + Send>;

/// Starts a thread that nobody waits for.
///
/// # Errors
/// Those of clone(2): out of processes or memory.
pub fn start(name: String, stack_bytes: usize, work: Work) -> io::Result<Thread> {
    let thread = Builder::new().name(name).stack_size(stack_bytes).spawn(work)?;
    Ok(thread.thread().clone())
}
