//! `pin CPUS PROGRAM ARGUMENTS...` executes PROGRAM pinned to CPUS (0,2,3), and is killed when its parent dies.
//!
//! The runner starts everything through it, so that nothing outlives an interrupted benchmark. The process id stays the same across
//! the exec, and no unsafe code is needed between fork and exec.

#![forbid(unsafe_code)]

use std::{env, os::unix::process::CommandExt, process::Command, process::ExitCode};

use rustix::{
    process::{Signal, getppid, set_parent_process_death_signal},
    thread::{CpuSet, sched_setaffinity},
};

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let (Some(cpus), Some(program)) = (arguments.next(), arguments.next()) else {
        eprintln!("pin: expected CPUS PROGRAM ARGUMENTS...");
        return ExitCode::FAILURE;
    };
    let mut set = CpuSet::new();
    for cpu in cpus.to_string_lossy().split(',') {
        match cpu.parse() {
            Ok(cpu) if cpu < CpuSet::MAX_CPU => set.set(cpu),
            _ => {
                eprintln!("pin: \"{cpu}\" is not the number of a CPU");
                return ExitCode::FAILURE;
            }
        }
    }
    let parent = getppid();
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)).and_then(|()| sched_setaffinity(None, &set))
    {
        eprintln!("pin: {error}");
        return ExitCode::FAILURE;
    }
    if getppid() != parent {
        return ExitCode::FAILURE; // the parent died before the signal was requested
    }
    let error = Command::new(&program).args(arguments).exec();
    eprintln!("pin: {}: {error}", program.to_string_lossy());
    ExitCode::FAILURE
}
