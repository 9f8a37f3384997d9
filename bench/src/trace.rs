//! The system calls of a proxy, counted by strace while it works.
//!
//! strace stops the proxy at every call, so times mean nothing. The counts are exact but for the few calls that attaching
//! interrupts.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::process::{self, Cpus, Process, Result};

const ATTACH_SECS_MAX: u64 = 10;

pub struct Trace {
    strace: Process,
    summary: PathBuf,
}

impl Trace {
    /// Returns when strace is attached to every thread of the process.
    pub fn attach(strace: &Path, to: &Process, dir: &Path, cpus: &Cpus) -> Result<Self> {
        let summary = dir.join("strace");
        let mut command = process::pinned(&cpus.others, strace)?;
        command.args(["-c", "-f", "-q", "-o"]).arg(&summary).args(["-p", &to.child.id().to_string()]);
        let mut strace = Process::start("strace", command.stderr(Stdio::null()))?;
        let deadline = Instant::now() + Duration::from_secs(ATTACH_SECS_MAX);
        while !to.tasks().iter().all(|task| is_traced(task)) {
            if strace.child.try_wait().is_ok_and(|status| status.is_some()) || Instant::now() > deadline {
                return Err(format!(
                    "strace can't attach to {}; run as root or set kernel.yama.ptrace_scope=0",
                    to.name
                ));
            }
            sleep(Duration::from_millis(20));
        }
        Ok(Self { strace, summary })
    }

    /// Detaches and returns the system calls, the most frequent first.
    pub fn detach(mut self) -> Result<Vec<(String, u64)>> {
        self.strace.signal(self.strace.child.id(), Signal::INT);
        self.strace.child.wait().map_err(|error| format!("strace: {error}"))?;
        let text = fs::read_to_string(&self.summary).map_err(|error| format!("{}: {error}", self.summary.display()))?;
        let mut calls: Vec<(String, u64)> = text.lines().filter_map(row).collect();
        calls.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        Ok(calls)
    }
}

fn is_traced(task: &Path) -> bool {
    let status = fs::read_to_string(task.join("status")).unwrap_or_default();
    !status.contains("TracerPid:\t0\n")
}

/// Parses a row of the summary: `% time, seconds, usecs/call, calls, [errors,] name`.
fn row(line: &str) -> Option<(String, u64)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (calls, name) = (words.get(3)?.parse().ok()?, words.last()?);
    (*name != "total").then(|| ((*name).to_owned(), calls))
}
