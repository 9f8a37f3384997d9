//! The running executable, to be executed again: in a child process, or in place of this one, maybe as another
//! version.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use crate::os::privileged_reader;
use crate::process::systemd;

/// The environment variable of a binary that takes over connections: their state is on standard input. Old and new
/// binary must agree on the name.
pub const HANDOVER_ENV: &str = "SMOLGATE_PARCEL";

/// How this program was started.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// The path of the executable at start; another version may be there now.
    pub file: PathBuf,
    /// The arguments, program name included.
    pub args: Vec<OsString>,
}

impl Invocation {
    /// Returns the running program.
    pub fn current() -> io::Result<Self> {
        Ok(Self { file: std::env::current_exe()?, args: std::env::args_os().collect() })
    }

    /// Returns the command that starts the program as a child process.
    pub fn command(&self) -> Command {
        let mut args = self.args.iter();
        let mut command = Command::new(&self.file);
        if let Some(name) = args.next() {
            command.arg0(name);
        }
        command.args(args).env_clear().envs(inherited_environment());
        command
    }

    /// Replaces this process by the program; open descriptors stay, and the environment variable `flag` is set.
    /// Returns only on failure.
    ///
    /// Signals stay blocked, as signalfd(2) requires: std's `CommandExt::exec` would unblock them, and one that
    /// arrives before the new program reads signals would end it.
    pub fn execute(&self, flag: &str) -> io::Result<Infallible> {
        let file = CString::new(self.file.as_os_str().as_bytes())?;
        let args: Result<Vec<CString>, _> = self.args.iter().map(|arg| CString::new(arg.as_bytes())).collect();
        let env = inherited_environment().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
        let env: Result<Vec<CString>, _> = env.chain([format!("{flag}=1").into_bytes()]).map(CString::new).collect();
        let (args, env) = (args?, env?);
        Ok(privileged_reader::run(move || nix::unistd::execve(&file, &args, &env))?)
    }
}

/// Returns this process's environment, except the variables addressed to it in particular: the sockets of systemd are
/// owned by this process or part of the hand-over.
fn inherited_environment() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os()
        .filter(|(name, _)| name != HANDOVER_ENV && !systemd::LISTEN_VARS.iter().any(|passed| name == passed))
}
