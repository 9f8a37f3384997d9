//! The program under test: each test starts its own proxy in the foreground, and kills it at the end.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::peer::Peer;

const BINARY: &str = env!("CARGO_BIN_EXE_smolgate");
/// The limit for everything that a test waits for, on a very busy machine. Less than nginx's default timeouts of 60 seconds, so
/// that none of these can make it happen.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(40);

/// How long one second may take on a busy machine, in milliseconds.
pub(crate) const ABOUT_A_SECOND: Range<u128> = 900..10_000;

/// Calls `poll` until it returns a value; `None` if it does not in time.
pub(crate) fn poll_within<T>(limit: Duration, mut poll: impl FnMut() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    loop {
        if let Some(value) = poll() {
            return Some(value);
        }
        if began.elapsed() > limit {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Returns whether the tests run as root, which the proxy needs to change its user.
pub(crate) fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").unwrap_or_default().lines().any(|line| line.starts_with("Uid:\t0\t0"))
}

/// Waits until `holds`; panics if it does not in time.
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    assert!(poll_within(TIMEOUT, || holds().then_some(())).is_some(), "timed out: {what}");
}

/// A directory that is removed at the end of the test.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("smolgate-test-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        // Started by root, the proxy changes to an unprivileged user, which has to rotate logs here.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Returns the lines of a file, none if it does not exist.
    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        let bytes = fs::read(self.path(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
    }
}

impl Drop for TempDir {
    /// An ordinary user can't remove what is in a directory that a test has made unreadable.
    fn drop(&mut self) {
        if fs::remove_dir_all(&self.0).is_err() {
            let _ = Command::new("chmod").args(["-R", "u+rwX"]).arg(&self.0).status();
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// `smolgate -p DIRECTORY -c FILE` and more flags, run to its end.
pub(crate) fn run(dir: &TempDir, flags: &[&str], file: &str) -> Output {
    let mut command = Command::new(BINARY);
    command.arg("-p").arg(&dir.0).args(flags).arg("-c").arg(file).stdin(Stdio::null());
    command.output().unwrap()
}

/// As [`run`], by a line of shell, in which `"$0" "$@"` is the program with its flags.
pub(crate) fn run_in_shell(dir: &TempDir, shell: &str, file: &str) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", shell, BINARY, "-p"]).arg(&dir.0).args(["-c", file]).stdin(Stdio::null()).output().unwrap()
}

/// A running proxy.
pub(crate) struct Proxy {
    child: Child,
    pub(crate) dir: TempDir,
    /// Replaces `LISTEN` in the configuration.
    pub(crate) addr: SocketAddr,
    /// Replaces `OTHER` in the configuration.
    pub(crate) other: SocketAddr,
    /// Sockets passed to the proxy, which stay open as long as the test.
    _inherited: Vec<TcpListener>,
}

/// The start of each configuration that has no `access_log`.
const LOGS: &str = "error_log error.log info;\npid smolgate.pid;\naccess_log access.log;\n";

impl Proxy {
    /// Starts with a configuration, and waits until it listens.
    pub(crate) fn start(config: &str) -> Self {
        Self::start_in_shell(config, "exec \"$0\" \"$@\"")
    }

    /// Starts with a configuration in which names are replaced by the addresses of peers.
    pub(crate) fn start_with_peers(config: &str, peers: &[(&str, &Peer)]) -> Self {
        let replace = |text: String, (name, peer): &(&str, &Peer)| text.replace(name, &peer.addr.to_string());
        Self::start(&peers.iter().fold(config.to_owned(), replace))
    }

    /// Starts with inherited sockets, as systemd does: one for `LISTEN`, and one for `OTHER` or the given one.
    pub(crate) fn start_socket_activated(config: &str, other: Option<&TcpListener>) -> Self {
        let shell = "exec 3<&0 4>&1 </dev/null >/dev/null; export LISTEN_FDS=2 LISTEN_PID=$$; exec \"$0\" \"$@\"";
        let own = TcpListener::bind("127.0.0.1:0").unwrap();
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        Self::spawn(config, shell, &[&first, other.unwrap_or(&own)])
    }

    /// Starts by a line of shell, in which `"$0" "$@"` is the program with its flags.
    pub(crate) fn start_in_shell(config: &str, shell: &str) -> Self {
        Self::spawn(config, shell, &[])
    }

    /// The sockets in `passed` are standard input and output of the shell.
    fn spawn(config: &str, shell: &str, passed: &[&TcpListener]) -> Self {
        let config = if config.contains("access_log ") { config.to_owned() } else { format!("{LOGS}{config}") };
        let copy = |at: usize| passed.get(at).map(|listener| listener.try_clone().unwrap());
        let stream = |at| copy(at).map_or(Stdio::null(), |listener| Stdio::from(OwnedFd::from(listener)));
        // A free port may be taken before the program binds it: then another one is tried.
        for _ in 0..20 {
            let dir = TempDir::new();
            let listeners = [0, 1].map(|at| copy(at).unwrap_or_else(|| TcpListener::bind("127.0.0.1:0").unwrap()));
            let [addr, other] = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
            let inherited = listeners.into_iter().filter(|_| !passed.is_empty()).collect();
            dir.write("smolgate.conf", fill_in_addresses(&config, addr, other));
            let mut command = Command::new("sh");
            command.args(["-c", shell, BINARY, "-p"]).arg(&dir.0).args(["-c", "smolgate.conf"]);
            let err = fs::File::create(dir.path("stderr")).unwrap();
            // Whatever the zone of this machine.
            command.env("TZ", "UTC0");
            let mut child = command.stdin(stream(0)).stdout(stream(1)).stderr(err).spawn().unwrap();
            let pid = dir.path("smolgate.pid");
            let up =
                poll_within(TIMEOUT, || match (pid.exists() && blocks_sighup(child.id()), child.try_wait().unwrap()) {
                    (_, Some(_)) => Some(false),
                    (true, None) => Some(true),
                    _ => None,
                });
            match up {
                Some(true) => return Self { child, dir, addr, other, _inherited: inherited },
                Some(false) if dir.lines("stderr").iter().any(|line| line.contains("bind()")) => {}
                _ => {
                    let _ = child.kill();
                    panic!("the program does not start: {:?}", dir.lines("stderr"));
                }
            }
        }
        panic!("no free port was found");
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Replaces the configuration.
    pub(crate) fn write_config(&self, config: &str) {
        // Atomically, as editors do: a pending reload reads the old text or the new one.
        self.dir.write("smolgate.conf.new", fill_in_addresses(&format!("{LOGS}{config}"), self.addr, self.other));
        fs::rename(self.dir.path("smolgate.conf.new"), self.dir.path("smolgate.conf")).unwrap();
    }

    /// Sends a signal by its short name.
    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Returns the exit code, if the process exits within `limit`.
    pub(crate) fn exit_code_within(&mut self, limit: Duration) -> Option<i32> {
        poll_within(limit, || self.child.try_wait().unwrap()).map(|status| status.code().unwrap_or(-1))
    }

    /// Returns the lines of the access log.
    pub(crate) fn access_lines(&self) -> Vec<String> {
        self.dir.lines("access.log")
    }

    /// Returns the lines of the error log.
    pub(crate) fn error_lines(&self) -> Vec<String> {
        self.dir.lines("error.log")
    }

    /// Waits for a line of the access log with all of `parts`.
    pub(crate) fn wait_for_access_line(&self, parts: &[&str]) -> Result<(), String> {
        let has = || self.access_lines().iter().any(|line| parts.iter().all(|part| line.contains(part)));
        poll_within(TIMEOUT, || has().then_some(()))
            .ok_or_else(|| format!("no line with {parts:?} in the access log: {:?}", self.access_lines()))
    }

    /// Waits for a line of the error log with all of `parts`.
    pub(crate) fn wait_for_error_line(&self, parts: &[&str]) -> Result<(), String> {
        let has = || self.error_lines().iter().any(|line| parts.iter().all(|part| line.contains(part)));
        poll_within(TIMEOUT, || has().then_some(()))
            .ok_or_else(|| format!("no line with {parts:?} in the error log: {:?}", self.error_lines()))
    }

    /// Returns the number of open descriptors.
    pub(crate) fn open_descriptors(&self) -> usize {
        fs::read_dir(Path::new("/proc").join(self.pid().to_string()).join("fd")).map_or(0, Iterator::count)
    }

    /// Returns the processor time used so far, in ticks of 10 ms.
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Returns whether the process sleeps.
    #[cfg(feature = "gzip")]
    pub(crate) fn is_sleeping(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        status.contains("\nState:\tS")
    }

    /// Returns the resident memory, in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns whether a process blocks SIGHUP to read it from a signalfd: before that, SIGHUP would kill it.
fn blocks_sighup(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
    blocked.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

fn fill_in_addresses(config: &str, addr: SocketAddr, other: SocketAddr) -> String {
    config.replace("LISTEN", &addr.to_string()).replace("OTHER", &other.to_string())
}
