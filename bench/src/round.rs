//! One run: a fixed number of round trips through one proxy, and the CPU time of the proxy.
//!
//! `load` opens its connections and warms up, then prints "ready" and waits; so the CPU time is read right before and right after
//! the round trips, and neither handshakes nor closing count.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{ChildStdout, Stdio},
};

use crate::{
    process::{self, Cpus, Process, Result},
    proxy::RunningProxy,
};

pub struct Workload {
    /// For `--only`.
    pub name: &'static str,
    pub label: &'static str,
    pub mode: &'static str,
    pub conns: usize,
    pub bytes: usize,
    /// Round trips in one run.
    pub trips: usize,
}

impl Workload {
    /// Converts microseconds per round trip to the unit of the label: for large files, milliseconds per GB.
    pub fn scale(&self) -> f64 {
        if self.bytes >= 1 << 20 { 1e6 / self.bytes as f64 } else { 1.0 }
    }
}

/// Workloads of file servers.
pub const FILES: [Workload; 2] = [
    Workload {
        name: "file1k",
        label: "1 KB, 64 conns: us per request",
        mode: "file",
        conns: 64,
        bytes: 1 << 10,
        trips: 100_000,
    },
    Workload {
        name: "file10m",
        label: "10 MB, 8 conns: ms per GB",
        mode: "file",
        conns: 8,
        bytes: 10 << 20,
        trips: 200,
    },
];

/// Workloads of TLS.
pub const HANDSHAKES: [Workload; 2] = [
    Workload {
        name: "handshake",
        label: "connection, handshake, GET",
        mode: "handshake",
        conns: 8,
        bytes: 100,
        trips: 8_000,
    },
    Workload { name: "resumed", label: "the same, resumed", mode: "resumed", conns: 8, bytes: 100, trips: 8_000 },
];

pub const WORKLOADS: [Workload; 4] = [
    Workload {
        name: "tunnel64",
        label: "tunnel, 64 conns, 64 B",
        mode: "tunnel",
        conns: 64,
        bytes: 64,
        trips: 100_000,
    },
    Workload { name: "tunnel1", label: "tunnel, 1 conn, 64 B", mode: "tunnel", conns: 1, bytes: 64, trips: 20_000 },
    Workload {
        name: "tunnel64k",
        label: "tunnel, 16 conns, 64 KiB",
        mode: "tunnel",
        conns: 16,
        bytes: 65_536,
        trips: 10_000,
    },
    Workload { name: "get", label: "GET 100 B, 64 conns", mode: "get", conns: 64, bytes: 100, trips: 60_000 },
];

/// A run that takes longer is cut short.
const RUN_SECS_MAX: u64 = 20;

pub struct RunResult {
    /// CPU time of the proxy for one round trip.
    pub cpu_us: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// The whole run.
    pub seconds: f64,
}

/// Does one run; `trips` replaces the number of the workload.
pub fn run(work: &Workload, trips: usize, proxy: &RunningProxy, cpus: &Cpus) -> Result<RunResult> {
    let mut load = Load::open(work.mode, work.conns, work.bytes, trips, proxy, cpus)?;
    let before = proxy.process.cpu_nanos()?;
    let result = load.run()?;
    let after = proxy.process.cpu_nanos()?;
    let trips = parse_number(&result, "trips")?;
    let cpu_us = after.saturating_sub(before) as f64 / 1e3 / trips;
    let of = |key| parse_number(&result, key);
    Ok(RunResult { cpu_us, p50_us: of("p50_us")?, p99_us: of("p99_us")?, seconds: of("seconds")? })
}

/// Parses the number after a word in a result of `load`.
pub fn parse_number(result: &str, key: &str) -> Result<f64> {
    let value = result.split_whitespace().skip_while(|word| *word != key).nth(1);
    value.and_then(|word| word.parse().ok()).ok_or_else(|| format!("load: no {key} in \"{}\"", result.trim()))
}

/// A running load generator, which closes its connections on drop.
pub struct Load {
    process: Process,
    output: BufReader<ChildStdout>,
}

impl Load {
    /// Returns when the connections are open and warm.
    pub fn open(mode: &str, conns: usize, bytes: usize, trips: usize, to: &RunningProxy, cpus: &Cpus) -> Result<Self> {
        let mut command = process::pinned(&cpus.others, &process::sibling("load")?)?;
        command.arg(mode).arg("--wait").args(["--to", &to.addr.to_string()]);
        if to.tls {
            command.arg("--tls");
        }
        for (flag, value) in [("--conns", conns), ("--size", bytes), ("--trips", trips)] {
            command.args([flag, &value.to_string()]);
        }
        command.args(["--seconds", &RUN_SECS_MAX.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::start("load", &mut command)?;
        let output = process.child.stdout.take().ok_or("load: no output")?;
        let mut load = Self { process, output: BufReader::new(output) };
        load.read_line()?;
        Ok(load)
    }

    /// Starts the round trips and returns the result line.
    pub fn run(&mut self) -> Result<String> {
        let input = self.process.child.stdin.as_mut().ok_or("load: no input")?;
        input.write_all(b"go\n").map_err(|error| format!("load: {error}"))?;
        self.read_line()
    }

    fn read_line(&mut self) -> Result<String> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(count) if count > 0 => Ok(line),
            _ => {
                let mut why = String::new();
                let errors = self.process.child.stderr.take().map(|mut errors| errors.read_to_string(&mut why));
                Err(if errors.is_some() && !why.is_empty() {
                    why.trim().to_owned()
                } else {
                    "load: exited early".to_owned()
                })
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.process.child.stdin.take());
        let _ = self.process.child.wait();
    }
}
