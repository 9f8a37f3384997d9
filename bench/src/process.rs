//! A program that the runner started: its life, its CPU time and its memory.
//!
//! Everything is started through `pin`, so it runs on the CPUs it was given and ends with us, whatever happens. What
//! is measured is always the whole tree: the program, its children and all their threads.

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

/// What failed, in one line for the operator.
pub type Result<T> = std::result::Result<T, String>;

const START_SECS_MAX: u64 = 10;
const DESCRIPTORS_MAX: u64 = 65_536;

/// Which CPUs the proxy gets and which all the others get, as lists for `pin`.
pub struct Cpus {
    pub proxy: String,
    pub others: String,
}

impl Cpus {
    /// Gives the proxy a CPU of its own if there are two.
    pub fn divide() -> Result<Self> {
        let set = sched_getaffinity(None).map_err(|error| format!("sched_getaffinity: {error}"))?;
        let mut cpus: Vec<String> =
            (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).map(|c| c.to_string()).collect();
        let proxy = if cpus.len() > 1 { cpus.pop() } else { cpus.first().cloned() };
        Ok(Self { proxy: proxy.ok_or("no CPU to run on")?, others: cpus.join(",") })
    }

    pub fn are_apart(&self) -> bool {
        self.proxy != self.others
    }
}

/// Lets us and all we start open as many descriptors as allowed, up to a sensible number; at least `needed`.
pub fn allow_descriptors(needed: u64) -> Result<()> {
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let current = hard.clamp(needed, DESCRIPTORS_MAX.max(needed));
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum: Some(hard.max(current)) })
        .map_err(|_| format!("{needed} descriptors are needed and {hard} allowed; raise it (ulimit -Hn)"))
}

/// How many descriptors we may open now.
pub fn descriptors() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// An address on loopback that nobody listens on at the moment.
pub fn free_addr() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    listener.and_then(|listener| listener.local_addr()).map_err(|error| format!("no free port on 127.0.0.1: {error}"))
}

/// Runs `work` with a folder of its own, which goes away with it, and says what failed.
pub fn in_folder(name: &str, work: impl FnOnce(&Path) -> Result<()>) -> ExitCode {
    let dir = std::env::temp_dir().join(format!("smolgate-{name}-{}", std::process::id()));
    let result = fs::create_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()));
    let result = result.and_then(|()| work(&dir));
    let _ = fs::remove_dir_all(&dir); // of no use to anyone
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A program that lies beside this one: pin, relay, origin, load.
pub fn sibling(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(|error| format!("where is this program? {error}"))?;
    let path = own.with_file_name(name);
    if path.exists() {
        Ok(path)
    } else {
        Err(format!("{}: not found; run cargo build --release --workspace", path.display()))
    }
}

/// A command that will run as `program` on `cpus`.
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
            format!("{name}: {why}: {}", output.trim_end().lines().next_back().unwrap_or("it said nothing"))
        };
        let open = || File::create(&log).map_err(|error| format!("{}: {error}", log.display()));
        let mut process = Self::start(name, command.stdout(open()?).stderr(open()?))?;
        let deadline = Instant::now() + Duration::from_secs(START_SECS_MAX);
        while TcpStream::connect(addr).is_err() {
            if let Ok(Some(status)) = process.child.try_wait() {
                return Err(failed(format!("ended at once ({status})")));
            }
            if Instant::now() > deadline {
                return Err(failed(format!("doesn't listen on {addr} after {START_SECS_MAX} s")));
            }
            sleep(Duration::from_millis(20));
        }
        Ok(process)
    }

    /// CPU time spent so far, in the kernel and outside, in nanoseconds.
    pub fn cpu_nanos(&self) -> Result<u64> {
        let mut sum = 0;
        for task in self.tasks() {
            // A thread that has ended since it was listed is no failure.
            let Ok(text) = fs::read_to_string(task.join("schedstat")) else { continue };
            sum += text.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or(0);
        }
        if sum > 0 {
            Ok(sum)
        } else {
            Err(format!("{}: it has ended, or this kernel has no /proc/PID/schedstat", self.name))
        }
    }

    /// Memory in bytes, from /proc/PID/smaps_rollup, which is exact where /proc/PID/status is not.
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

    /// The /proc directories of all threads of the tree.
    pub fn tasks(&self) -> Vec<PathBuf> {
        let of = |pid: u32| {
            fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten().map(|task| task.path())
        };
        tree(self.child.id()).into_iter().flat_map(of).collect()
    }

    pub fn signal(&self, pid: u32, signal: Signal) {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal); // it may have ended by itself
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
    /// Everything that is in memory for it, shared libraries included.
    pub resident: u64,
    /// What it alone has allocated and touched.
    pub anonymous: u64,
}

pub fn kilobytes(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

/// A process and all its descendants.
fn tree(root: u32) -> Vec<u32> {
    let (mut tree, mut next) = (vec![root], 0);
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(parent).collect();
    while let Some(&pid) = tree.get(next) {
        tree.extend(parents.iter().filter(|&&(_, parent)| parent == pid).map(|&(child, _)| child));
        next += 1;
    }
    tree
}

/// A process and its parent; the name in between can hold blanks and parentheses.
fn parent(entry: fs::DirEntry) -> Option<(u32, u32)> {
    let pid = entry.file_name().to_str()?.parse().ok()?;
    let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    Some((pid, after_name.split(' ').nth(1)?.parse().ok()?))
}
