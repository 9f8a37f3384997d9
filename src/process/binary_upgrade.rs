//! Another program in place of this one: the same process, the same sockets, the same tunnels.
//!
//! The new program is asked first whether it understands what it gets, and whether it could start with the configuration.
//! Only then connections are packed; and if it can't be executed after all, they are unpacked where they were.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;
use std::thread::Builder;

use crate::os::privileged_reader;
use crate::process::exec::{HANDOVER_ENV, Program};
use crate::runtime::handover::{self, HandoverDecoder};
use crate::server::worker::{WorkerEvent, Workers};

/// Bytes of the stack of the thread that waits for what a new program says.
const STACK_BYTES: usize = 128 * 1024;

/// Has a new program check whether it could go on; the answer comes as a report.
pub fn check(program: &Program, crew: Arc<Workers>) -> io::Result<()> {
    let mut other = program.clone();
    other.args.extend(["-t", "-q", "--takes-over", &handover::VERSION.to_string()].map(Into::into));
    let ask = move || crew.reports.send(WorkerEvent::Checked(run_check(&other)));
    privileged_reader::run(|| Builder::new().name("check".to_owned()).stack_size(STACK_BYTES).spawn(ask).map(drop))
}

/// What a program finds that checks something, or why it can't.
fn run_check(program: &Program) -> Result<(), String> {
    let file = program.file.display();
    match program.command().stdin(Stdio::null()).stdout(Stdio::null()).output() {
        Ok(ended) if ended.status.success() => Ok(()),
        Ok(ended) => Err(format!("{file} says: {}", String::from_utf8_lossy(&ended.stderr).trim().replace('\n', " "))),
        Err(error) => Err(format!("{file}: {error}")),
    }
}

/// Becomes the new program, which gets `parcel`. Comes back only if that fails.
pub fn execute(program: &Program, parcel: &OwnedFd) -> io::Result<Infallible> {
    rustix::stdio::dup2_stdin(parcel)?;
    let failed = program.execute(HANDOVER_ENV);
    let _ = reset_stdin();
    failed
}

/// Puts nothing in the place of standard input.
fn reset_stdin() -> io::Result<()> {
    Ok(rustix::stdio::dup2_stdin(File::open("/dev/null")?)?)
}

/// Whether this program has taken the place of another one, which may have left nothing that can be read.
pub fn is_upgraded() -> bool {
    std::env::var_os(HANDOVER_ENV).is_some()
}

/// What the program before has left for this one.
pub fn receive_handover() -> Option<io::Result<HandoverDecoder>> {
    is_upgraded().then_some(())?;
    let parcel = HandoverDecoder::receive(rustix::stdio::stdin());
    Some(reset_stdin().and(parcel))
}
