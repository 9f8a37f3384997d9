//! Start and end of the program: sockets, pid file, privileges, workers.
//!
//! A start is all-or-nothing: the configuration is valid, logs are open, addresses are bound and the pid file is
//! written before the first connection is accepted.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::Builder;

use rustix::thread::CpuSet;

use crate::config::{Binding, Config, CpuAffinity, Level};
use crate::os::pid_file::PidFile;
use crate::os::privileged_reader;
use crate::os::privileges::{self, Account};
use crate::process::control::{self, Control, LoadConfig};
use crate::process::exec::Invocation;
use crate::proxy::health_check;
use crate::proxy::live::Live;
use crate::request::log;
use crate::runtime::handover::{HandoverDecoder, HandoverEncoder};
use crate::runtime::signals::{self, Signals};
use crate::runtime::socket::Addr;
use crate::runtime::{clock, executor, io_error};
use crate::server::listeners::{self, Listeners};
use crate::server::worker::{Worker, WorkerEvent, Workers};
use crate::server::worker_loop;

/// Descriptors reserved for logs, files and idle connections to upstreams.
const OWN_DESCRIPTORS: u64 = 64;
/// The number of open files that "unlimited" stands for.
const DESCRIPTORS_MAX: u64 = 1 << 20;
/// Stack of a worker; larger futures are boxed.
const STACK_BYTES: usize = 1 << 20;

/// The reason why the program could not start, or ended.
#[derive(Debug)]
pub struct FatalError(String);

impl fmt::Display for FatalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Runs the start-up checks beyond parsing: at least one listener, and an existing user and group.
pub fn check_startable(config: Config) -> Result<Config, String> {
    listeners::serves_somebody(&config)?;
    privileges::find_account(config.main.user.as_deref(), config.main.group.as_deref())
        .map_err(|why| config.user_error(why).to_string())?;
    Ok(config)
}

/// As [`check_startable`], and looks for the directories of logs and of the pid file.
pub fn check_complete(config: Config) -> Result<Config, String> {
    match config.creation_error() {
        Some(error) => Err(error.to_string()),
        None => check_startable(config),
    }
}

/// Runs the proxy until it is stopped. A program with other threads calls [`signals::block`] before it starts them: a
/// signal delivered to one of these would end the program.
pub fn run(config: Config, load: &LoadConfig<'_>) -> Result<(), FatalError> {
    run_upgradable(None, config, load, None)
}

/// Runs the proxy like [`run`], with binary upgrades if `program` is known. `handover` is the state of the old
/// binary, or the sockets of systemd.
pub fn run_upgradable(
    program: Option<Invocation>,
    config: Config,
    load: &LoadConfig<'_>,
    handover: Option<HandoverDecoder>,
) -> Result<(), FatalError> {
    clock::start_time();
    // Before other threads start, and before the pid file invites signals.
    let signals = signals::block().map_err(|error| FatalError(format!("signals: {error}")))?;
    listeners::serves_somebody(&config).map_err(FatalError)?;
    let descriptors = raise_descriptor_limit(config.main.open_files_max);
    let config = Arc::new(config);
    let (listeners, inherited) = (Listeners::default(), HandoverEncoder::default());
    let mut start = Startup { descriptors, program, load, listeners, inherited, is_upgraded: false };
    if let Some(handover) = handover {
        start.inherited = start.listeners.inherit(handover);
    }
    start.is_upgraded = !start.listeners.is_empty();
    let main = &config.main;
    let account = privileges::find_account(main.user.as_deref(), main.group.as_deref()).map_err(FatalError)?;
    start.open_logs_and_sockets(&config, account.as_ref())?;
    let pid = match &main.pid {
        Some(path) => start.require(&config, write_pid(path, account.as_ref()))?,
        None => None,
    };
    privileged_reader::drop_privileges(account).map_err(FatalError)?;
    let ended = start.run_workers(config, signals);
    start.listeners.close();
    drop(pid);
    ended.map_err(|error| FatalError(format!("a worker ended ({})", io_error::describe(&error))))
}

/// The state before the workers start.
struct Startup<'s> {
    descriptors: u64,
    program: Option<Invocation>,
    load: &'s LoadConfig<'s>,
    listeners: Listeners,
    /// Connections and tunnels of the old binary.
    inherited: HandoverEncoder,
    /// Whether this is a binary upgrade, which continues whatever is missing.
    is_upgraded: bool,
}

impl Startup<'_> {
    /// A failed step prevents a start. In a binary upgrade, where that would drop all connections, it is only logged.
    fn require<T>(&self, config: &Config, what: Result<T, String>) -> Result<Option<T>, FatalError> {
        match what {
            Ok(what) => Ok(Some(what)),
            Err(why) => self.continue_without(config, why).map(|()| None),
        }
    }

    fn continue_without(&self, config: &Config, why: String) -> Result<(), FatalError> {
        if !self.is_upgraded {
            return Err(FatalError(why));
        }
        log::log(&config.main.error_log, Level::Emerg, format_args!("{why}: continuing without it"));
        Ok(())
    }

    /// Opens logs and sockets.
    fn open_logs_and_sockets(&mut self, config: &Config, account: Option<&Account>) -> Result<(), FatalError> {
        for target in &config.log_targets {
            let opened = log::target::open(std::slice::from_ref(target), account);
            if let (Err(why), true) = (&opened, self.is_upgraded) {
                let _ = writeln!(io::stderr(), "smolgate: {why}");
            }
            self.require(config, opened)?;
        }
        self.listeners.retain(config);
        for binding in &config.bindings {
            let opened = self.listeners.open(binding, account);
            if let Some(Some(fd)) = self.require(config, opened)? {
                self.listeners.insert(binding.addr.clone(), fd);
            }
        }
        for addr in self.listeners.unused(config) {
            let message = format_args!("systemd passed a socket for {addr} but no `listen` matches it: ignored");
            log::log(&config.main.error_log, Level::Warn, message);
        }
        Ok(())
    }

    /// Starts the workers, of which this thread is one, and waits for their end.
    fn run_workers(&mut self, config: Arc<Config>, signals: OwnedFd) -> io::Result<()> {
        let count = config.main.workers as usize;
        let connections_max = connections_max(self.descriptors, &config);
        log_start(&config, self.descriptors, connections_max);
        greet(&config);
        let live = Arc::new(Live::new(config, None));
        let workers = Workers::new(count);
        // Inherited connections come first: limits count them.
        let inherited = health_check::restore(&live, std::mem::take(&mut self.inherited).into_decoder());
        control::distribute(inherited.into_decoder(), &workers);
        for (addr, copies) in self.listeners.copies(&workers)? {
            listeners::listen(&workers, &addr, copies);
        }
        for number in 1..count {
            let (workers, live) = (workers.clone(), live.clone());
            let body = move || {
                pin_thread(&live.config.main.cpu_affinity, number);
                let worker = || Rc::new(Worker::new(live, workers.clone(), number, connections_max));
                let ended = executor::run(async { worker_loop::follow(worker()).await });
                workers.events.send(WorkerEvent::Ended(ended.and_then(|ended| ended)));
            };
            Builder::new().name(format!("worker {number}")).stack_size(STACK_BYTES).spawn(body)?;
        }
        pin_thread(&live.config.main.cpu_affinity, 0);
        let (program, load, listeners) = (self.program.take(), self.load, &mut self.listeners);
        executor::run(async {
            let first = Rc::new(Worker::new(live.clone(), workers.clone(), 0, connections_max));
            let ends = workers.clone();
            executor::spawn_boxed(
                async move { ends.events.send(WorkerEvent::Ended(worker_loop::follow(first).await)) },
            );
            let signals = Signals::new(signals)?;
            let health_checks = health_check::start(&live);
            Control { health_checks, workers, listeners, signals, load, program, live, upgrade: None, stopping: false }
                .run()
                .await
        })?
    }
}

fn write_pid(path: &str, account: Option<&Account>) -> Result<PidFile, String> {
    PidFile::write(path, account).map_err(|error| format!("open() \"{path}\" failed ({})", io_error::describe(&error)))
}

/// Returns how many connections a worker can serve; each may become a tunnel with two descriptors.
fn connections_max(descriptors: u64, config: &Config) -> u32 {
    let workers = u64::from(config.main.workers);
    let own = OWN_DESCRIPTORS.min(descriptors / 2) + config.bindings.len() as u64 * (workers + 1);
    u32::try_from(descriptors.saturating_sub(own) / 2 / workers.max(1)).unwrap_or(u32::MAX).max(1)
}

/// Pins this thread to its processors.
fn pin_thread(affinity: &CpuAffinity, number: usize) {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else { return };
    let processors: Vec<usize> = match affinity {
        CpuAffinity::Any => return,
        CpuAffinity::Auto => {
            let all: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
            all.get(number.checked_rem(all.len()).unwrap_or(0)).into_iter().copied().collect()
        }
        CpuAffinity::Lists(lists) => lists.get(number).or(lists.last()).cloned().unwrap_or_default(),
    };
    let mut set = CpuSet::new();
    processors.into_iter().filter(|cpu| *cpu < CpuSet::MAX_CPU).for_each(|cpu| set.set(cpu));
    if set.count() > 0 {
        let _ = rustix::thread::sched_setaffinity(None, &set);
    }
}

/// Raises the limit of open files to `wanted`, or to the hard limit: a tunnel takes two descriptors. Returns the
/// limit.
fn raise_descriptor_limit(wanted: Option<u64>) -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(DESCRIPTORS_MAX);
    let wanted = wanted.unwrap_or(most);
    // Only root can exceed the hard limit.
    let maximum = limit.maximum.map(|maximum| maximum.max(wanted));
    if setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).is_err() {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted.min(most)), ..limit });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(DESCRIPTORS_MAX)
}

/// Tells a person at a terminal where to look, since the log may be a file and has no such line by default.
fn greet(config: &Config) {
    let urls: Vec<String> = config.bindings.iter().filter_map(url).collect();
    if io::stderr().is_terminal() && !urls.is_empty() {
        let _ = writeln!(io::stderr(), "smolgate: serving {} (stop with Ctrl-C)", urls.join(" "));
    }
}

/// Returns the URL of a binding for a browser of this machine.
fn url(binding: &Binding) -> Option<String> {
    let Addr::Ip(addr) = &binding.addr else { return None };
    let (scheme, default_port) = if binding.virtual_hosts.tls { ("https", 443) } else { ("http", 80) };
    let host = match addr {
        _ if addr.ip().is_unspecified() => "localhost".to_owned(),
        SocketAddr::V4(addr) => addr.ip().to_string(),
        SocketAddr::V6(addr) => format!("[{}]", addr.ip()),
    };
    let port = if addr.port() == default_port { String::new() } else { format!(":{}", addr.port()) };
    Some(format!("{scheme}://{host}{port}/"))
}

fn log_start(config: &Config, descriptors: u64, connections_max: u32) {
    let logs = &config.main.error_log;
    let addrs: Vec<String> = config.bindings.iter().map(|binding| binding.addr.to_string()).collect();
    let workers = config.main.workers;
    let per_worker = config.main.worker_connections.unwrap_or(connections_max).min(connections_max);
    log::log(
        logs,
        Level::Notice,
        format_args!(
            "smolgate {} listens on {}; {workers} {}, {descriptors} open files: room for {} tunnels",
            env!("CARGO_PKG_VERSION"),
            addrs.join(", "),
            if workers == 1 { "worker" } else { "workers" },
            u64::from(per_worker) * u64::from(workers),
        ),
    );
    for warning in config.tls.warnings() {
        log::log(logs, Level::Warn, format_args!("{warning}"));
    }
    let notes = config.notes.len();
    if notes > 0 {
        log::log(
            logs,
            Level::Notice,
            format_args!("{notes} directives do less than they say: \"smolgate -t\" lists them"),
        );
    }
}
