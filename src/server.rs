//! The life of the program: sockets, pid file, privileges, workers, signals, reload, stop.
//!
//! A start is all-or-nothing: the configuration is whole, logs are open, addresses are bound and the pid file is written
//! before the first connection is accepted. A reload makes the new configuration ready beside the old one and swaps them;
//! what was begun goes on under the old one, and tunnels do not notice.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::future::{Future, poll_fn};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use rustix::thread::CpuSet;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};

use crate::clock;
use crate::config::{Affinity, Binding, Config, Level};
use crate::listening::{self, Accepting};
use crate::log;
use crate::pool;
use crate::reactor::{self, Timer};
use crate::running::Running;
use crate::socket::{self, Addr, Socket};
use crate::tunnel;
use crate::users;
use crate::worker::{Crew, Order, Worker};

/// Descriptors that are neither a client's nor an upstream's: logs, files, idle connections to upstreams.
const OWN_DESCRIPTORS: u64 = 64;
/// How many open files "unlimited" stands for.
const DESCRIPTORS_MAX: u64 = 1 << 20;
/// How long a stop at once may take.
const STOP: Duration = Duration::from_secs(1);
/// Stack of a worker; what takes more waits in boxes.
const STACK_BYTES: usize = 1 << 20;
/// The longest time over which tunnels are closed at the end of a graceful stop.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Listening sockets by the address that is configured.
type Sockets = HashMap<Addr, OwnedFd>;
/// A new listening socket, with a copy for each worker.
type Fresh = (Addr, OwnedFd, Vec<OwnedFd>);

/// Why the program could not start, or ended.
#[derive(Debug)]
pub struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Makes a configuration anew, for a reload.
pub type Load<'l> = dyn Fn() -> Result<Config, String> + 'l;

/// Signals, as flags; a byte in the pipe says that one came.
struct Signals {
    pipe: OwnedFd,
    quit: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
    reopen: Arc<AtomicBool>,
}

impl Signals {
    /// From now on signals are noted. What reads the pipe is made by [`Signals::watch`].
    fn new() -> io::Result<Self> {
        let (near, far) = UnixStream::pair()?;
        near.set_nonblocking(true)?;
        let flags: [Arc<AtomicBool>; 4] = std::array::from_fn(|_| Arc::default());
        let [quit, stop, reload, reopen] = &flags;
        let signals = [(SIGQUIT, quit), (SIGTERM, stop), (SIGINT, stop), (SIGHUP, reload), (SIGUSR1, reopen)];
        for (signal, flag) in signals {
            signal_hook::flag::register(signal, flag.clone())?;
            signal_hook::low_level::pipe::register(signal, far.try_clone()?)?;
        }
        // nginx's other signals mean nothing here yet, and must not end the program.
        for signal in [SIGUSR2, SIGWINCH] {
            signal_hook::flag::register(signal, Arc::default())?;
        }
        let [quit, stop, reload, reopen] = flags;
        Ok(Self { pipe: near.into(), quit, stop, reload, reopen })
    }

    /// What tells the worker of this thread that a signal came.
    fn watch(&self) -> io::Result<Socket> {
        Socket::inner(self.pipe.try_clone()?)
    }
}

/// Waits until a signal may have come.
async fn next_signal(pipe: &Socket) {
    let mut bytes = [0; 64];
    let _ = poll_fn(|cx| pipe.poll_read(cx, &mut bytes)).await;
}

/// Runs the program until it is told to stop.
///
/// # Errors
/// What keeps it from starting, and what ends it while it runs.
pub fn run(config: Config, load: &Load<'_>) -> Result<(), Failure> {
    clock::start();
    serves_somebody(&config).map_err(Failure)?;
    log::open(&config.log_files).map_err(Failure)?;
    let descriptors = raise_descriptor_limit(config.main.descriptors);
    let config = Arc::new(config);
    let mut sockets = HashMap::new();
    for binding in &config.bindings {
        sockets.insert(binding.addr.clone(), bind(binding).map_err(Failure)?);
    }
    // Before anybody can know whom to send one.
    let signals = Signals::new().map_err(|error| Failure(format!("signals: {error}")))?;
    let main = &config.main;
    let account = users::account(main.user.as_deref(), main.group.as_deref()).map_err(Failure)?;
    let pid = main.pid.as_ref().map(|path| PidFile::write(path, account.as_ref())).transpose().map_err(Failure)?;
    if let Some(account) = account {
        log::give(&account);
        account.assume().map_err(Failure)?;
    }
    let ended = serve(config, &mut sockets, signals, load, descriptors);
    remove_paths(&sockets);
    drop(pid);
    ended.map_err(|error| Failure(format!("a worker ended ({})", log::describe(&error))))
}

/// Starts the workers, of which this thread is one, and waits for their end.
fn serve(
    config: Arc<Config>,
    sockets: &mut Sockets,
    signals: Signals,
    load: &Load<'_>,
    descriptors: u64,
) -> io::Result<()> {
    let workers = config.main.workers;
    let room = room(descriptors, &config);
    note_start(&config, descriptors, room);
    let affinity = config.main.affinity.clone();
    let running = Arc::new(Running::new(config));
    let crew = Crew::new(workers as usize);
    for (addr, fd) in sockets.iter() {
        listen(&crew, addr, copies(fd, &crew)?);
    }
    for number in 1..workers as usize {
        let (crew, running, affinity) = (crew.clone(), running.clone(), affinity.clone());
        let body = move || {
            pin(&affinity, number);
            let ended = reactor::run(async { work(Rc::new(Worker::new(running, crew.clone(), number, room))).await });
            crew.ends.put(ended.and_then(|ended| ended));
        };
        let thread = std::thread::Builder::new().name(format!("worker {number}")).stack_size(STACK_BYTES);
        thread.spawn(body)?;
    }
    pin(&affinity, 0);
    reactor::run(async {
        let first = Rc::new(Worker::new(running.clone(), crew.clone(), 0, room));
        let ends = crew.clone();
        reactor::spawn(async move { ends.ends.put(work(first).await) });
        Command { crew, sockets, signals, load, running }.give().await
    })?
}

/// Room for connections in one worker, each of which may become a tunnel and take two descriptors.
fn room(descriptors: u64, config: &Config) -> u32 {
    let workers = u64::from(config.main.workers);
    let own = OWN_DESCRIPTORS.min(descriptors / 2) + config.bindings.len() as u64 * (workers + 1);
    u32::try_from(descriptors.saturating_sub(own) / 2 / workers.max(1)).unwrap_or(u32::MAX).max(1)
}

/// Keeps this thread on its processors.
fn pin(affinity: &Affinity, number: usize) {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else { return };
    let processors: Vec<usize> = match affinity {
        Affinity::Any => return,
        Affinity::Auto => {
            let all: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
            all.get(number.checked_rem(all.len()).unwrap_or(0)).into_iter().copied().collect()
        }
        Affinity::Lists(lists) => lists.get(number).or(lists.last()).cloned().unwrap_or_default(),
    };
    let mut set = CpuSet::new();
    processors.into_iter().filter(|cpu| *cpu < CpuSet::MAX_CPU).for_each(|cpu| set.set(cpu));
    if set.count() > 0 {
        let _ = rustix::thread::sched_setaffinity(None, &set);
    }
}

/// One descriptor of a socket for each worker.
fn copies(fd: &OwnedFd, crew: &Crew) -> io::Result<Vec<OwnedFd>> {
    crew.desks.iter().map(|_| fd.try_clone()).collect()
}

/// Has every worker listen on a socket.
fn listen(crew: &Crew, addr: &Addr, fds: Vec<OwnedFd>) {
    for (desk, fd) in crew.desks.iter().zip(fds) {
        desk.orders.put(Order::Listen(addr.clone(), fd));
    }
}

/// The file that says which process this is, as long as it lives.
struct PidFile {
    path: String,
    file: File,
}

impl PidFile {
    fn write(path: &str, owner: Option<&users::Account>) -> Result<Self, String> {
        let explain = |error: io::Error| format!("open() \"{path}\" failed ({})", log::describe(&error));
        // Whoever sees the file finds the number in it.
        let fresh = format!("{path}.new");
        let mut file = File::create(&fresh).map_err(explain)?;
        writeln!(file, "{}", std::process::id()).map_err(explain)?;
        std::fs::rename(&fresh, path).map_err(explain)?;
        if let Some(owner) = owner {
            owner.give(&file);
        }
        Ok(Self { path: path.to_owned(), file })
    }
}

impl Drop for PidFile {
    /// In a folder that is root's the file can't be removed any more, but emptied.
    fn drop(&mut self) {
        if std::fs::remove_file(&self.path).is_err() {
            let _ = self.file.set_len(0);
        }
    }
}

/// A configuration without a server is a mistake: at a reload most often a file that is just being written, and taking it
/// would drop every listener.
fn serves_somebody(config: &Config) -> Result<(), String> {
    match config.bindings.is_empty() {
        false => Ok(()),
        true => Err(format!(
            "{}: there is no \"server {{ }}\" in it: nothing would be listened on",
            config.files.first().map_or("the configuration", |file| file.name.as_str())
        )),
    }
}

/// A Unix socket leaves its path behind.
fn remove_paths(sockets: &Sockets) {
    for addr in sockets.keys() {
        if let Addr::Unix(path) = addr {
            let _ = std::fs::remove_file(&**path);
        }
    }
}

fn bind(binding: &Binding) -> Result<OwnedFd, String> {
    socket::listen(&binding.addr, binding.options)
        .map_err(|error| format!("bind() to {} failed ({})", binding.addr, log::describe(&error)))
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

/// What a worker does: it listens, and does as it is told.
async fn work(worker: Rc<Worker>) -> io::Result<()> {
    let mut open: Vec<(Addr, Accepting)> = Vec::new();
    loop {
        match poll_fn(|cx| worker.poll_order(cx)).await {
            Order::Take(running) => {
                open.retain(|(addr, _)| running.config.bindings.iter().any(|binding| binding.addr == *addr));
                worker.replace(running);
            }
            Order::Listen(addr, fd) => open.push((addr, listening::start(fd, &worker)?)),
            Order::Serve(newcomer) => listening::serve(newcomer, &worker, worker.slot()),
            Order::Finish => {
                worker.stop();
                drop(open);
                finish(&worker).await;
                return Ok(());
            }
            Order::Stop => return Ok(()),
        }
    }
}

/// Stops without cutting anything off: idle connections end, requests are answered, tunnels last as long as they may, and
/// are closed one after the other then.
async fn finish(worker: &Rc<Worker>) {
    pool::clear();
    reactor::wake_all();
    let limit = worker.running().config.main.worker_shutdown_timeout;
    let window = limit.map(|limit| (limit / 4).min(DRAIN_MAX));
    let timer = Timer::new();
    if let (Some(limit), Some(window)) = (limit, window) {
        timer.set(limit.saturating_sub(window));
    }
    let mut draining = false;
    poll_fn(|cx| {
        while let Poll::Ready(order) = worker.poll_order(cx) {
            match order {
                Order::Stop => return Poll::Ready(()),
                Order::Serve(newcomer) => listening::serve(newcomer, worker, worker.slot()),
                _ => {}
            }
        }
        if worker.poll_empty(cx).is_ready() {
            return Poll::Ready(());
        }
        if timer.poll_due(cx).is_pending() {
            return Poll::Pending;
        }
        if std::mem::replace(&mut draining, true) {
            return Poll::Ready(());
        }
        let window = window.unwrap_or_default();
        tunnel::drain(window);
        timer.set(window + tunnel::FAREWELL);
        timer.poll_due(cx)
    })
    .await;
}

/// Who tells the workers what to do.
struct Command<'r> {
    crew: Arc<Crew>,
    /// Each socket that is listened on, from which the workers have their descriptors.
    sockets: &'r mut Sockets,
    signals: Signals,
    load: &'r Load<'r>,
    running: Arc<Running>,
}

impl Command<'_> {
    /// Passes on what signals say, until all workers have ended.
    async fn give(mut self) -> io::Result<()> {
        let pipe = self.signals.watch()?;
        let mut left = self.crew.desks.len();
        let timer = Timer::new();
        let mut limit = Duration::MAX;
        loop {
            let happened = {
                let signal = pin!(next_signal(&pipe));
                let ended = pin!(self.crew.ends.next());
                timer.within(limit, select(signal, ended)).await
            };
            match happened {
                Ok(Some(ended)) => {
                    ended?;
                    left -= 1;
                    if left == 0 {
                        return Ok(());
                    }
                }
                Ok(None) if self.obey() => limit = STOP,
                Ok(None) => {}
                // A worker that hangs in a call to the system is not waited for.
                Err(reactor::Elapsed) if limit == STOP => return Ok(()),
                Err(reactor::Elapsed) => {}
            }
        }
    }

    /// Does what the signals that came ask for; true, if the program ends now.
    fn obey(&mut self) -> bool {
        let came = |flag: &AtomicBool| flag.swap(false, Ordering::SeqCst);
        if came(&self.signals.reopen) {
            self.reopen();
        }
        let stops = came(&self.signals.stop);
        if stops {
            self.crew.tell(|| Order::Stop);
        }
        if came(&self.signals.quit) {
            remove_paths(self.sockets);
            self.sockets.clear();
            self.crew.tell(|| Order::Finish);
        }
        if came(&self.signals.reload) {
            self.reload();
        }
        stops
    }

    fn note(&self, level: Level, message: fmt::Arguments<'_>) {
        log::note(&self.running.config.main.error_log, level, message);
    }

    fn reopen(&self) {
        let failed = log::reopen();
        for why in &failed {
            self.note(Level::Error, format_args!("{why}: the old file is still written to"));
        }
        if failed.is_empty() {
            self.note(Level::Notice, format_args!("logs were reopened"));
        }
    }

    /// Takes a new configuration into force; the old one stays if anything is wrong with it.
    fn reload(&mut self) {
        match self.prepare() {
            Err(why) => {
                self.note(Level::Emerg, format_args!("the new configuration was not taken: {}", why.replace('\n', " ")))
            }
            Ok((config, fresh)) => {
                if config.main.workers as usize != self.crew.desks.len() {
                    self.note(Level::Warn, format_args!("the number of workers stays until the program starts anew"));
                }
                self.running = Arc::new(Running::after(config.clone(), &self.running));
                // No worker listens before all of them know for whom.
                self.crew.tell(|| Order::Take(self.running.clone()));
                self.sockets.retain(|addr, _| config.bindings.iter().any(|binding| binding.addr == *addr));
                for (addr, fd, copies) in fresh {
                    listen(&self.crew, &addr, copies);
                    self.sockets.insert(addr, fd);
                }
                self.note(Level::Notice, format_args!("the new configuration is in force"));
            }
        }
    }

    /// Makes everything ready that can go wrong.
    fn prepare(&self) -> Result<(Arc<Config>, Vec<Fresh>), String> {
        let config = (self.load)()?;
        serves_somebody(&config)?;
        let mut fresh = Vec::new();
        for binding in config.bindings.iter().filter(|binding| !self.sockets.contains_key(&binding.addr)) {
            let fd = bind(binding)?;
            let copies = copies(&fd, &self.crew).map_err(|error| log::describe(&error))?;
            fresh.push((binding.addr.clone(), fd, copies));
        }
        log::open(&config.log_files)?;
        Ok((Arc::new(config), fresh))
    }
}

/// The first of a signal (nothing) and a worker's end.
async fn select<T>(
    mut signal: Pin<&mut impl Future<Output = ()>>,
    mut ended: Pin<&mut impl Future<Output = T>>,
) -> Option<T> {
    poll_fn(|cx| match ended.as_mut().poll(cx) {
        Poll::Ready(ended) => Poll::Ready(Some(ended)),
        Poll::Pending => signal.as_mut().poll(cx).map(|()| None),
    })
    .await
}

fn note_start(config: &Config, descriptors: u64, room: u32) {
    let logs = &config.main.error_log;
    let addrs: Vec<String> = config.bindings.iter().map(|binding| binding.addr.to_string()).collect();
    let workers = config.main.workers;
    log::note(
        logs,
        Level::Notice,
        format_args!(
            "smolgate {} listens on {}; {workers} {}, {descriptors} open files: room for {} tunnels",
            env!("CARGO_PKG_VERSION"),
            addrs.join(", "),
            if workers == 1 { "worker" } else { "workers" },
            u64::from(config.main.worker_connections.unwrap_or(room).min(room)) * u64::from(workers),
        ),
    );
    let notes = config.notes.len();
    if notes > 0 {
        log::note(
            logs,
            Level::Notice,
            format_args!("{notes} directives do less than they say: \"smolgate -t\" lists them"),
        );
    }
}
