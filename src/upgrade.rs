//! Another program in place of this one: the same process, the same sockets, the same tunnels.
//!
//! The new program is asked first whether it understands what it gets, and whether it could start with the configuration.
//! Only then connections are packed; and if it can't be executed after all, they are unpacked where they were.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::keeper;
use crate::parcel::{self, Unpacker};
use crate::supervisor;
use crate::worker::{Crew, Report};

/// In the environment of a program that goes on with the connections of another: their parcel is at standard input.
const MARK: &str = "SMOLGATE_PARCEL";
/// In the environment of a program that was started in the background: who waits for it is at standard input.
pub const BACKGROUND: &str = "SMOLGATE_BACKGROUND";

/// How this program was started.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its file, under the name that it had then: another version may have its place by now.
    pub file: PathBuf,
    /// With the name of the program as the first.
    pub args: Vec<OsString>,
}

impl Program {
    /// The program that runs.
    ///
    /// # Errors
    /// Where /proc is not mounted.
    pub fn current() -> io::Result<Self> {
        Ok(Self { file: std::env::current_exe()?, args: std::env::args_os().collect() })
    }

    /// Has a new program check whether it could go on; the answer comes as a report.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn check(&self, crew: Arc<Crew>) -> io::Result<()> {
        let Self { file, args } = self.clone();
        let ask = move || {
            let version = parcel::VERSION.to_string();
            let flags = ["-t", "-q", "--takes-over", &version];
            let mut command = Command::new(&file);
            command.args(args.iter().skip(1)).args(flags).env_remove(MARK).stdin(Stdio::null()).stdout(Stdio::null());
            let verdict = match command.output() {
                Ok(output) if output.status.success() => Ok(()),
                Ok(output) => {
                    let said = String::from_utf8_lossy(&output.stderr);
                    Err(format!("{} says: {}", file.display(), said.trim().replace('\n', " ")))
                }
                Err(error) => Err(format!("{}: {error}", file.display())),
            };
            crew.reports.put(Report::Checked(verdict));
        };
        keeper::with(|| std::thread::Builder::new().name("check".to_owned()).spawn(ask).map(drop))?
    }

    /// Becomes the new program, which gets `parcel`. Comes back only if that fails.
    ///
    /// # Errors
    /// Those of dup2(2) and execve(2).
    pub fn execute(&self, parcel: &OwnedFd) -> io::Result<Infallible> {
        let zero = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let file = CString::new(self.file.as_os_str().as_bytes()).map_err(zero)?;
        let args = self.args.iter().map(|arg| CString::new(arg.as_bytes())).collect::<Result<Vec<_>, _>>();
        // What was said to this program in particular: the sockets that systemd has bound are in the parcel by now.
        let said = [&[MARK, BACKGROUND], &supervisor::PASSED[..]].concat();
        let others = std::env::vars_os().filter(|(name, _)| !said.iter().any(|said| name == said));
        let all = others.chain([(MARK.into(), OsString::from("0"))]);
        let join =
            |(name, value): (OsString, OsString)| CString::new([name.as_bytes(), b"=", &value.into_vec()].concat());
        let env = all.map(join).collect::<Result<Vec<_>, _>>().map_err(zero)?;
        let args = args.map_err(zero)?;
        rustix::stdio::dup2_stdin(parcel)?;
        let failed = keeper::with(move || nix::unistd::execve(&file, &args, &env))?;
        let _ = close_stdin();
        Ok(failed?)
    }
}

/// Puts nothing in the place of standard input.
fn close_stdin() -> io::Result<()> {
    Ok(rustix::stdio::dup2_stdin(OpenOptions::new().read(true).open("/dev/null")?)?)
}

/// Whether this program has taken the place of another one, which may have left nothing that can be read.
pub fn is_here() -> bool {
    std::env::var_os(MARK).is_some()
}

/// What the program before has left for this one.
///
/// # Errors
/// What makes a parcel unreadable: then this program starts like any other.
pub fn inherited() -> Option<io::Result<Unpacker>> {
    is_here().then_some(())?;
    let parcel = Unpacker::receive(io::stdin().as_fd());
    Some(close_stdin().and(parcel))
}
