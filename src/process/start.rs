//! The start of the program and its end: sockets, pid file, privileges, workers.
//!
//! A start is all-or-nothing: the configuration is whole, logs are open, addresses are bound and the pid file is written
//! before the first connection is accepted.

use std::fmt;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::Builder;

use rustix::thread::CpuSet;

use crate::config::{Config, CpuAffinity, Level};
use crate::os::pid_file::PidFile;
use crate::os::privileged_reader;
use crate::os::privileges::{self, Account};
use crate::process::control::{self, Control, LoadConfig};
use crate::process::exec::Program;
use crate::proxy::health_check;
use crate::proxy::live::Live;
use crate::request::log;
use crate::runtime::handover::{HandoverDecoder, HandoverEncoder};
use crate::runtime::signals::{self, Signals};
use crate::runtime::{clock, executor, io_error};
use crate::server::listeners::{self, Listeners};
use crate::server::worker::{Worker, WorkerEvent, Workers};
use crate::server::worker_loop;

/// Descriptors that are neither a client's nor an upstream's: logs, files, idle connections to upstreams.
const OWN_DESCRIPTORS: u64 = 64;
/// How many open files "unlimited" stands for.
const DESCRIPTORS_MAX: u64 = 1 << 20;
/// Stack of a worker; what takes more waits in boxes.
const STACK_BYTES: usize = 1 << 20;

/// Why the program could not start, or ended.
#[derive(Debug)]
pub struct FatalError(String);

impl fmt::Display for FatalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a program asks of a configuration beside that it can be read: whom it would serve, and as who.
pub fn check_startable(config: Config) -> Result<Config, String> {
    listeners::serves_somebody(&config)?;
    privileges::find_account(config.main.user.as_deref(), config.main.group.as_deref())?;
    Ok(config)
}

/// Runs the proxy until it is told to stop. A program that has other threads calls [`signals::block`] before it starts them:
/// a signal that one of these gets would end it.
pub fn run(config: Config, load: &LoadConfig<'_>) -> Result<(), FatalError> {
    run_upgradable(None, config, load, None)
}

/// As [`run`], for a program that another one can take the place of. `parcel` is what a program before it, or systemd, has left.
pub fn run_upgradable(
    program: Option<Program>,
    config: Config,
    load: &LoadConfig<'_>,
    handover: Option<HandoverDecoder>,
) -> Result<(), FatalError> {
    clock::start_time();
    // Before there are other threads, and before anybody can know whom to send one.
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

/// What there is before the workers.
struct Startup<'s> {
    descriptors: u64,
    program: Option<Program>,
    load: &'s LoadConfig<'s>,
    listeners: Listeners,
    /// Connections and tunnels of the program before.
    inherited: HandoverEncoder,
    /// Whether there was one: then this one goes on, whatever it lacks.
    is_upgraded: bool,
}

impl Startup<'_> {
    /// What can't be had keeps the program from starting; one with the connections of another would cut them all off, and
    /// only tells it.
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
        log::log(&config.main.error_log, Level::Emerg, format_args!("{why}: it goes on without"));
        Ok(())
    }

    /// Opens logs and sockets.
    fn open_logs_and_sockets(&mut self, config: &Config, account: Option<&Account>) -> Result<(), FatalError> {
        for file in &config.log_files {
            let opened = log::open(std::slice::from_ref(file), account);
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
            log::log(
                &config.main.error_log,
                Level::Warn,
                format_args!("systemd has bound {addr}, which no \"listen\" names: nobody is served there"),
            );
        }
        Ok(())
    }

    /// Starts the workers, of which this thread is one, and waits for their end.
    fn run_workers(&mut self, config: Arc<Config>, signals: OwnedFd) -> io::Result<()> {
        let count = config.main.workers as usize;
        let connections_max = connections_max(self.descriptors, &config);
        log_start(&config, self.descriptors, connections_max);
        let live = Arc::new(Live::new(config, None));
        let workers = Workers::new(count);
        // What was let in before goes on first: limits count it.
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
                workers.reports.send(WorkerEvent::Ended(ended.and_then(|ended| ended)));
            };
            Builder::new().name(format!("worker {number}")).stack_size(STACK_BYTES).spawn(body)?;
        }
        pin_thread(&live.config.main.cpu_affinity, 0);
        let (program, load, listeners) = (self.program.take(), self.load, &mut self.listeners);
        executor::run(async {
            let first = Rc::new(Worker::new(live.clone(), workers.clone(), 0, connections_max));
            let ends = workers.clone();
            executor::spawn_boxed(
                async move { ends.reports.send(WorkerEvent::Ended(worker_loop::follow(first).await)) },
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

/// Room for connections in one worker, each of which may become a tunnel and take two descriptors.
fn connections_max(descriptors: u64, config: &Config) -> u32 {
    let workers = u64::from(config.main.workers);
    let own = OWN_DESCRIPTORS.min(descriptors / 2) + config.bindings.len() as u64 * (workers + 1);
    u32::try_from(descriptors.saturating_sub(own) / 2 / workers.max(1)).unwrap_or(u32::MAX).max(1)
}

/// Keeps this thread on its processors.
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

/// Tunnels take two descriptors each: as many as the system allows, or as `worker_rlimit_nofile` says. How many there are.
fn raise_descriptor_limit(wanted: Option<u64>) -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(DESCRIPTORS_MAX);
    let wanted = wanted.unwrap_or(most);
    // Only root may have more than the hard limit.
    let maximum = limit.maximum.map(|maximum| maximum.max(wanted));
    if setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).is_err() {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted.min(most)), ..limit });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(DESCRIPTORS_MAX)
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
