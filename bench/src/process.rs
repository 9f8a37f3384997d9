//! A program that the runner started: its lifetime, CPU time and memory.
//!
//! Each is started through `pin`, so that it runs on its CPUs and never outlives the runner. Measurements are always of the whole
//! tree: the program, its children and all their threads.

use std::{
    fs,
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::{
    process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit},
    thread::{CpuSet, sched_getaffinity},
};

/// An error is one line for the operator.
pub type Result<T> = std::result::Result<T, String>;

const START_SECS_MAX: u64 = 10;
const DESCRIPTORS_MAX: u64 = 65_536;

/// The CPUs of the proxy and of all other programs, as lists for `pin`.
pub struct Cpus {
    pub proxy: String,
    pub others: String,
}

impl Cpus {
    /// Reserves a CPU for the proxy if there are two.
    pub fn divide() -> Result<Self> {
        let set = sched_getaffinity(None).map_err(|error| format!("sched_getaffinity: {error}"))?;
        let mut cpus: Vec<String> =
            (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).map(|c| c.to_string()).collect();
        let proxy = if cpus.len() > 1 { cpus.pop() } else { cpus.first().cloned() };
        Ok(Self { proxy: proxy.ok_or("no CPU to run on")?, others: cpus.join(",") })
    }

    pub fn are_separate(&self) -> bool {
        self.proxy != self.others
    }
}

/// Raises the limit of descriptors, for this process and all it starts, up to `DESCRIPTORS_MAX` and at least to `needed`.
pub fn allow_descriptors(needed: u64) -> Result<()> {
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let current = hard.clamp(needed, DESCRIPTORS_MAX.max(needed));
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum: Some(hard.max(current)) })
        .map_err(|_| format!("{needed} descriptors are needed and {hard} allowed; raise it (ulimit -Hn)"))
}

/// Returns the limit of open descriptors.
pub fn descriptor_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Returns a loopback address with a port that is free at the moment.
pub fn free_addr() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    listener.and_then(|listener| listener.local_addr()).map_err(|error| format!("no free port on 127.0.0.1: {error}"))
}

/// Runs `work` in a temporary directory, and prints its error.
pub fn run_in_temp_dir(name: &str, work: impl FnOnce(&Path) -> Result<()>) -> ExitCode {
    let dir = std::env::temp_dir().join(format!("smolgate-{name}-{}", std::process::id()));
    let result = fs::create_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()));
    let result = result.and_then(|()| work(&dir));
    let _ = fs::remove_dir_all(&dir);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the path of a program beside this one: pin, relay, origin, load.
pub fn sibling(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(|error| format!("current_exe: {error}"))?;
    let path = own.with_file_name(name);
    if path.exists() {
        Ok(path)
    } else {
        Err(format!("{}: not found; run cargo build --release --workspace", path.display()))
    }
}

/// Returns a command that runs `program` on `cpus`.
pub fn pinned(cpus: &str, program: &Path) -> Result<Command> {
    let mut command = Command::new(sibling("pin")?);
    command.arg(cpus).arg(program).stdin(Stdio::null());
    Ok(command)
}

pub struct Process {
    pub name: String,
    pub child: Child,
}

impl Process {
    pub fn start(name: &str, command: &mut Command) -> Result<Self> {
        let child = command.spawn().map_err(|error| format!("{name}: {error}"))?;
        Ok(Self { name: name.to_owned(), child })
    }

    /// Starts a server whose output goes to a file in `dir`, and waits until it listens.
    pub fn serve(name: &str, mut command: Command, addr: SocketAddr, dir: &Path) -> Result<Self> {
        let log = dir.join(format!("{name}.output"));
        let failed = |why: String| {
            let output = fs::read_to_string(&log).unwrap_or_default();
            format!("{name}: {why}: {}", output.trim_end().lines().next_back().unwrap_or("no output"))
        };
        let open = || File::create(&log).map_err(|error| format!("{}: {error}", log.display()));
        let mut process = Self::start(name, command.stdout(open()?).stderr(open()?))?;
        let deadline = Instant::now() + Duration::from_secs(START_SECS_MAX);
        while TcpStream::connect(addr).is_err() {
            if let Ok(Some(status)) = process.child.try_wait() {
                return Err(failed(format!("exited at once ({status})")));
            }
            if Instant::now() > deadline {
                return Err(failed(format!("doesn't listen on {addr} after {START_SECS_MAX} s")));
            }
            sleep(Duration::from_millis(20));
        }
        Ok(process)
    }

    /// Returns the CPU time used so far, user and system, in nanoseconds.
    pub fn cpu_nanos(&self) -> Result<u64> {
        let mut sum = 0;
        for task in self.tasks() {
            // A thread may have exited since it was listed.
            let Ok(text) = fs::read_to_string(task.join("schedstat")) else { continue };
            sum += text.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or(0);
        }
        if sum > 0 {
            Ok(sum)
        } else {
            Err(format!("{}: it has exited, or this kernel has no /proc/PID/schedstat", self.name))
        }
    }

    /// Returns the memory, from /proc/PID/smaps_rollup, as /proc/PID/status is not exact.
    pub fn memory(&self) -> Result<Memory> {
        let mut memory = Memory { resident: 0, anonymous: 0 };
        for pid in tree(self.child.id()) {
            let path = format!("/proc/{pid}/smaps_rollup");
            let text = fs::read_to_string(&path).map_err(|error| format!("{}: {path}: {error}", self.name))?;
            memory.resident += kilobytes(&text, "Rss:") * 1024;
            memory.anonymous += kilobytes(&text, "Anonymous:") * 1024;
        }
        Ok(memory)
    }

    /// Returns the /proc directories of all threads of the tree.
    pub fn tasks(&self) -> Vec<PathBuf> {
        let of = |pid: u32| {
            fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten().map(|task| task.path())
        };
        tree(self.child.id()).into_iter().flat_map(of).collect()
    }

    pub fn signal(&self, pid: u32, signal: Signal) {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal); // it may have exited
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            for pid in tree(self.child.id()) {
                self.signal(pid, Signal::KILL);
            }
            let _ = self.child.wait();
        }
    }
}

pub struct Memory {
    /// In bytes, shared libraries included.
    pub resident: u64,
    /// Allocated and touched by the process itself.
    pub anonymous: u64,
}

pub fn kilobytes(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

/// Returns a process and all its descendants.
fn tree(root: u32) -> Vec<u32> {
    let (mut tree, mut next) = (vec![root], 0);
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(parent).collect();
    while let Some(&pid) = tree.get(next) {
        tree.extend(parents.iter().filter(|&&(_, parent)| parent == pid).map(|&(child, _)| child));
        next += 1;
    }
    tree
}

/// Returns a process and its parent. The name between them may contain spaces and parentheses.
fn parent(entry: fs::DirEntry) -> Option<(u32, u32)> {
    let pid = entry.file_name().to_str()?.parse().ok()?;
    let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    Some((pid, after_name.split(' ').nth(1)?.parse().ok()?))
}
