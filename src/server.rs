//! The life of the program: sockets, pid file, privileges, the worker, signals, reload, stop.
//!
//! A start is all-or-nothing: the configuration is whole, logs are open, addresses are bound and the pid file is written
//! before the first connection is accepted. A reload makes the new configuration ready beside the old one and swaps them;
//! what was begun goes on under the old one, and tunnels do not notice.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::future::{Future, poll_fn};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};

use crate::clock;
use crate::config::{Binding, Config, Level};
use crate::connection;
use crate::log;
use crate::pool;
use crate::reactor::{self, Timer};
use crate::running::Running;
use crate::socket::{self, Addr, Listener, Socket};
use crate::users;
use crate::worker::Worker;

/// How long accepting rests when descriptors or memory are short, unless a connection ends before.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(200);

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
    raise_descriptor_limit();
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
    let unix: Vec<Addr> = sockets.keys().filter(|addr| matches!(addr, Addr::Unix(_))).cloned().collect();
    let done = reactor::run(live(config, sockets, signals, load));
    for addr in unix {
        if let Addr::Unix(path) = addr {
            let _ = std::fs::remove_file(&*path);
        }
    }
    drop(pid);
    done.and_then(|done| done).map_err(|error| Failure(format!("the worker ended ({})", log::describe(&error))))
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

fn bind(binding: &Binding) -> Result<OwnedFd, String> {
    socket::listen(&binding.addr, binding.options)
        .map_err(|error| format!("bind() to {} failed ({})", binding.addr, log::describe(&error)))
}

/// Tunnels take two descriptors each: as many as the system allows.
fn raise_descriptor_limit() {
    let resource = rustix::process::Resource::Nofile;
    let limit = rustix::process::getrlimit(resource);
    let _ = rustix::process::setrlimit(resource, rustix::process::Rlimit { current: limit.maximum, ..limit });
}

/// The worker's main task.
async fn live(
    config: Arc<Config>,
    sockets: HashMap<Addr, OwnedFd>,
    signals: Signals,
    load: &Load<'_>,
) -> io::Result<()> {
    let pipe = signals.watch()?;
    let worker = Rc::new(Worker::new(Arc::new(Running::new(config))));
    let mut listeners = HashMap::new();
    for (addr, fd) in sockets {
        listeners.insert(addr, start_accepting(fd, &worker)?);
    }
    note_start(&worker);
    loop {
        next_signal(&pipe).await;
        let came = |flag: &AtomicBool| flag.swap(false, Ordering::SeqCst);
        if came(&signals.reopen) {
            let failed = log::reopen();
            for why in &failed {
                log::note(&worker.error_log(), Level::Error, format_args!("{why}: the old file is still written to"));
            }
            if failed.is_empty() {
                log::note(&worker.error_log(), Level::Notice, format_args!("logs were reopened"));
            }
        }
        if came(&signals.stop) {
            return Ok(());
        }
        if came(&signals.quit) {
            listeners.clear();
            return finish(&worker, &signals, &pipe).await;
        }
        if came(&signals.reload) {
            reload(&worker, &mut listeners, load);
        }
    }
}

fn note_start(worker: &Worker) {
    let running = worker.running();
    let logs = &running.config.main.error_log;
    let addrs: Vec<String> = running.config.bindings.iter().map(|binding| binding.addr.to_string()).collect();
    log::note(
        logs,
        Level::Notice,
        format_args!("smolgate {} listens on {}", env!("CARGO_PKG_VERSION"), addrs.join(", ")),
    );
    let notes = running.config.notes.len();
    if notes > 0 {
        log::note(
            logs,
            Level::Notice,
            format_args!("{notes} directives do less than they say: \"smolgate -t\" lists them"),
        );
    }
}

/// A listening socket; accepting ends when this is dropped.
struct Accepting {
    listener: Rc<Listener>,
    stopped: Rc<Cell<bool>>,
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.stopped.set(true);
        self.listener.wake();
    }
}

fn start_accepting(fd: OwnedFd, worker: &Rc<Worker>) -> io::Result<Accepting> {
    let listener = Rc::new(Listener::new(fd)?);
    let stopped = Rc::new(Cell::new(false));
    reactor::spawn(accept(listener.clone(), stopped.clone(), worker.clone()));
    Ok(Accepting { listener, stopped })
}

/// Accepts connections until told to stop.
async fn accept(listener: Rc<Listener>, stopped: Rc<Cell<bool>>, worker: Rc<Worker>) {
    let mut short = false;
    loop {
        let accepted = poll_fn(|cx| match stopped.get() {
            true => Poll::Ready(None),
            false => listener.poll_accept(cx).map(Some),
        });
        match accepted.await {
            None => return,
            Some(Ok((fd, addr))) => {
                short = false;
                start_connection(fd, addr, &listener, &worker);
            }
            Some(Err(error)) if socket::is_shortage(&error) => {
                if !std::mem::replace(&mut short, true) {
                    let logs = worker.error_log();
                    log::note(
                        &logs,
                        Level::Crit,
                        format_args!("accept4() failed ({}): accepting rests", log::describe(&error)),
                    );
                }
                reactor::sleep(SHORTAGE_PAUSE).await;
            }
            Some(Err(_)) => {} // the client was gone before it was accepted
        }
    }
}

fn start_connection(fd: OwnedFd, addr: Addr, listener: &Listener, worker: &Rc<Worker>) {
    let Some(slot) = worker.enter() else {
        log::note(
            &worker.error_log(),
            Level::Alert,
            format_args!("worker_connections are not enough: {addr} is turned away"),
        );
        return;
    };
    let bound = listener.local();
    // A wildcard socket does not know which address a client came to.
    let local = match bound {
        Addr::Ip(ip) if ip.ip().is_unspecified() => socket::local_addr(&fd).unwrap_or_else(|_| bound.clone()),
        _ => bound.clone(),
    };
    if let Some(group) = worker.group_at(bound, &local) {
        connection::start(fd, addr, local, group, worker.clone(), slot);
    }
}

/// Stops without cutting anything off: idle connections end, requests are answered, tunnels last as long as they may.
async fn finish(worker: &Rc<Worker>, signals: &Signals, pipe: &Socket) -> io::Result<()> {
    worker.stop();
    pool::clear();
    reactor::wake_all();
    let timer = Timer::new();
    if let Some(limit) = worker.running().config.main.worker_shutdown_timeout {
        timer.set(limit);
    }
    let mut told = pin!(next_signal(pipe));
    poll_fn(|cx| {
        if worker.poll_empty(cx).is_ready() || signals.stop.load(Ordering::SeqCst) {
            return Poll::Ready(());
        }
        if told.as_mut().poll(cx).is_ready() {
            told.set(next_signal(pipe));
            cx.waker().wake_by_ref();
        }
        timer.poll_due(cx)
    })
    .await;
    Ok(())
}

/// Takes a new configuration into force; the old one stays if anything is wrong with it.
fn reload(worker: &Rc<Worker>, listeners: &mut HashMap<Addr, Accepting>, load: &Load<'_>) {
    let logs = worker.error_log();
    let refuse = |why: String| {
        log::note(&logs, Level::Emerg, format_args!("the new configuration was not taken: {}", why.replace('\n', " ")));
    };
    let config = match load().and_then(|config| serves_somebody(&config).map(|()| Arc::new(config))) {
        Ok(config) => config,
        Err(why) => return refuse(why),
    };
    let mut fresh = Vec::new();
    for binding in config.bindings.iter().filter(|binding| !listeners.contains_key(&binding.addr)) {
        match bind(binding) {
            Ok(fd) => fresh.push((binding.addr.clone(), fd)),
            Err(why) => return refuse(why),
        }
    }
    if let Err(why) = log::open(&config.log_files) {
        return refuse(why);
    }
    worker.replace(Running::after(config.clone(), &worker.running()));
    listeners.retain(|addr, _| config.bindings.iter().any(|binding| binding.addr == *addr));
    for (addr, fd) in fresh {
        match start_accepting(fd, worker) {
            Ok(accepting) => drop(listeners.insert(addr, accepting)),
            Err(error) => refuse(log::describe(&error)),
        }
    }
    log::note(&worker.error_log(), Level::Notice, format_args!("the new configuration is in force"));
}
