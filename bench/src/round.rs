//! One turn: a fixed amount of work through one proxy, and what it cost that proxy.
//!
//! `load` opens its connections and warms up, then says "ready" and waits; so the proxy's clock can be read right before
//! and right after the work, and neither handshakes nor closing count.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{ChildStdout, Stdio},
};

use crate::{
    process::{self, Cpus, Process, Result},
    proxy::Running,
};

pub struct Work {
    /// For `--only`.
    pub name: &'static str,
    pub label: &'static str,
    pub mode: &'static str,
    pub conns: usize,
    pub bytes: usize,
    /// Round trips in one turn.
    pub trips: usize,
}

impl Work {
    /// What a microsecond of a round trip is in the unit of the label: of large files, a millisecond of a GB.
    pub fn unit(&self) -> f64 {
        if self.bytes >= 1 << 20 { 1e6 / self.bytes as f64 } else { 1.0 }
    }
}

/// Work of those that serve files of their own.
pub const FILES: [Work; 2] = [
    Work {
        name: "file1k",
        label: "1 KB, 64 conns: us a request",
        mode: "file",
        conns: 64,
        bytes: 1 << 10,
        trips: 100_000,
    },
    Work { name: "file10m", label: "10 MB, 8 conns: ms a GB", mode: "file", conns: 8, bytes: 10 << 20, trips: 200 },
];

/// Work that only TLS makes.
pub const HANDSHAKES: [Work; 2] = [
    Work {
        name: "handshake",
        label: "connection, handshake, GET",
        mode: "handshake",
        conns: 8,
        bytes: 100,
        trips: 8_000,
    },
    Work { name: "resumed", label: "the same, resumed", mode: "resumed", conns: 8, bytes: 100, trips: 8_000 },
];

pub const WORKS: [Work; 4] = [
    Work { name: "tunnel64", label: "tunnel, 64 conns, 64 B", mode: "tunnel", conns: 64, bytes: 64, trips: 100_000 },
    Work { name: "tunnel1", label: "tunnel, 1 conn, 64 B", mode: "tunnel", conns: 1, bytes: 64, trips: 20_000 },
    Work {
        name: "tunnel64k",
        label: "tunnel, 16 conns, 64 KiB",
        mode: "tunnel",
        conns: 16,
        bytes: 65_536,
        trips: 10_000,
    },
    Work { name: "get", label: "GET 100 B, 64 conns", mode: "get", conns: 64, bytes: 100, trips: 60_000 },
];

/// A turn that takes longer than this ends early and counts the trips it made.
const TURN_SECS_MAX: u64 = 20;

pub struct Turn {
    /// The proxy's own CPU time for one round trip.
    pub cpu_us: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// All of it.
    pub seconds: f64,
}

/// Does one turn; `trips` replaces the number of the work.
pub fn take(work: &Work, trips: usize, proxy: &Running, cpus: &Cpus) -> Result<Turn> {
    let mut load = Load::open(work.mode, work.conns, work.bytes, trips, proxy, cpus)?;
    let before = proxy.process.cpu_nanos()?;
    let result = load.go()?;
    let after = proxy.process.cpu_nanos()?;
    let trips = number(&result, "trips")?;
    let cpu_us = after.saturating_sub(before) as f64 / 1e3 / trips;
    let of = |key| number(&result, key);
    Ok(Turn { cpu_us, p50_us: of("p50_us")?, p99_us: of("p99_us")?, seconds: of("seconds")? })
}

/// The number after a word in a result of `load`.
pub fn number(result: &str, key: &str) -> Result<f64> {
    let value = result.split_whitespace().skip_while(|word| *word != key).nth(1);
    value.and_then(|word| word.parse().ok()).ok_or_else(|| format!("load: no {key} in \"{}\"", result.trim()))
}

/// A running load generator; it closes its connections when it is dropped.
pub struct Load {
    process: Process,
    output: BufReader<ChildStdout>,
}

impl Load {
    /// Comes back when the connections are open and warm.
    pub fn open(mode: &str, conns: usize, bytes: usize, trips: usize, to: &Running, cpus: &Cpus) -> Result<Self> {
        let mut command = process::pinned(&cpus.others, &process::sibling("load")?)?;
        command.arg(mode).arg("--wait").args(["--to", &to.addr.to_string()]);
        if to.tls {
            command.arg("--tls");
        }
        for (flag, value) in [("--conns", conns), ("--size", bytes), ("--trips", trips)] {
            command.args([flag, &value.to_string()]);
        }
        command.args(["--seconds", &TURN_SECS_MAX.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::start("load", &mut command)?;
        let output = process.child.stdout.take().ok_or("load: no output")?;
        let mut load = Self { process, output: BufReader::new(output) };
        load.line()?;
        Ok(load)
    }

    /// Lets it work and gives its result.
    pub fn go(&mut self) -> Result<String> {
        let input = self.process.child.stdin.as_mut().ok_or("load: no input")?;
        input.write_all(b"go\n").map_err(|error| format!("load: {error}"))?;
        self.line()
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(count) if count > 0 => Ok(line),
            _ => {
                let mut why = String::new();
                let errors = self.process.child.stderr.take().map(|mut errors| errors.read_to_string(&mut why));
                Err(if errors.is_some() && !why.is_empty() {
                    why.trim().to_owned()
                } else {
                    "load: ended early".to_owned()
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
