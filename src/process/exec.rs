//! The program that runs, to be executed once more: beside this process or in its place, and maybe in another version.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use crate::os::privileged_reader;
use crate::process::systemd;

/// In the environment of a program that goes on with the connections of another: their parcel is at standard input.
pub const HANDOVER_ENV: &str = "SMOLGATE_PARCEL";

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
    pub fn current() -> io::Result<Self> {
        Ok(Self { file: std::env::current_exe()?, args: std::env::args_os().collect() })
    }

    /// The command that starts it in a process of its own.
    pub fn command(&self) -> Command {
        let mut args = self.args.iter();
        let mut command = Command::new(&self.file);
        if let Some(name) = args.next() {
            command.arg0(name);
        }
        command.args(args).env_clear().envs(inherited_environment());
        command
    }

    /// Becomes it, with what this process has open; `said` is a variable of its environment. Comes back only if that fails.
    ///
    /// Signals stay blocked, as they are for signalfd(2): std's `CommandExt::exec` would unblock them, and one that comes
    /// before the new program reads them would end it.
    pub fn execute(&self, said: &str) -> io::Result<Infallible> {
        let file = CString::new(self.file.as_os_str().as_bytes())?;
        let args: Result<Vec<CString>, _> = self.args.iter().map(|arg| CString::new(arg.as_bytes())).collect();
        let lines = inherited_environment().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
        let lines: Result<Vec<CString>, _> =
            lines.chain([format!("{said}=1").into_bytes()]).map(CString::new).collect();
        let (args, lines) = (args?, lines?);
        Ok(privileged_reader::run(move || nix::unistd::execve(&file, &args, &lines))?)
    }
}

/// Our environment without what was said to this program in particular: the sockets that systemd has bound, too, are ours or
/// in the parcel.
fn inherited_environment() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os()
        .filter(|(name, _)| name != HANDOVER_ENV && !systemd::LISTEN_VARS.iter().any(|passed| name == passed))
}
