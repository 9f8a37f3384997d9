//! Executes a new binary in place of this one: the same process, sockets and tunnels.
//!
//! The new executable first checks that it can read the hand-over and start with the configuration. Only then
//! connections are packed; if exec fails after all, the old binary resumes them.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;
use std::thread::Builder;

use crate::os::privileged_reader;
use crate::process::exec::{HANDOVER_ENV, Invocation};
use crate::runtime::handover::{self, HandoverDecoder};
use crate::server::worker::{WorkerEvent, Workers};

/// Bytes of the stack of the thread that waits for the check.
const STACK_BYTES: usize = 128 * 1024;

/// Has the new executable check whether it can take over; the result arrives as a [`WorkerEvent`].
pub fn check(program: &Invocation, workers: Arc<Workers>) -> io::Result<()> {
    let mut checker = program.clone();
    checker.args.extend(["-t", "-q", "--takes-over", &handover::VERSION.to_string()].map(Into::into));
    let run = move || workers.events.send(WorkerEvent::Checked(run_check(&checker)));
    privileged_reader::run(|| Builder::new().name("check".to_owned()).stack_size(STACK_BYTES).spawn(run).map(drop))
}

/// Runs the check. Returns its error output, or the reason why it can't run.
fn run_check(program: &Invocation) -> Result<(), String> {
    let file = program.file.display();
    match program.command().stdin(Stdio::null()).stdout(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            Err(format!("{file} reports: {}", String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ")))
        }
        Err(error) => Err(format!("{file}: {error}")),
    }
}

/// Executes the new binary with `handover` as standard input. Returns only on failure.
pub fn execute(program: &Invocation, handover: &OwnedFd) -> io::Result<Infallible> {
    rustix::stdio::dup2_stdin(handover)?;
    let error = program.execute(HANDOVER_ENV);
    let _ = reset_stdin();
    error
}

/// Replaces standard input by /dev/null.
fn reset_stdin() -> io::Result<()> {
    Ok(rustix::stdio::dup2_stdin(File::open("/dev/null")?)?)
}

/// Whether this process is a binary upgrade, even if its hand-over can't be read.
pub fn is_upgraded() -> bool {
    std::env::var_os(HANDOVER_ENV).is_some()
}

/// Receives the state that the old binary has handed over.
pub fn receive_handover() -> Option<io::Result<HandoverDecoder>> {
    is_upgraded().then_some(())?;
    let handover = HandoverDecoder::receive(rustix::stdio::stdin());
    Some(reset_stdin().and(handover))
}
