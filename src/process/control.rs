//! The control loop of the main thread: signals become worker commands, worker events advance a binary upgrade.
//!
//! A reload prepares the new configuration beside the old one and swaps them. Requests in progress finish under the
//! old one, and tunnels are unaffected. A binary upgrade advances step by step, and each step can be undone.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::config::{Config, Level};
use crate::process::exec::Invocation;
use crate::process::{binary_upgrade, systemd};
use crate::proxy::health_check::{self, HealthChecks};
use crate::proxy::live::Live;
use crate::request::log;
use crate::runtime::executor::{self, Timer};
use crate::runtime::handover::{HandoverDecoder, HandoverEncoder};
use crate::runtime::io_error;
use crate::runtime::metrics::{self, Metric};
use crate::runtime::signals::Signals;
use crate::server::listeners::{self, Listeners, NewListener};
use crate::server::worker::{WorkerCommand, WorkerEvent, Workers};

/// How long a fast shutdown may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Loads the configuration for a reload.
pub type LoadConfig<'l> = dyn Fn() -> Result<Config, String> + 'l;

/// The state of the control loop.
pub struct Control<'r> {
    pub workers: Arc<Workers>,
    /// The listening sockets, of which the workers have duplicates.
    pub listeners: &'r mut Listeners,
    pub signals: Signals,
    pub load: &'r LoadConfig<'r>,
    pub program: Option<Invocation>,
    pub live: Arc<Live>,
    /// The health checks of `live`.
    pub health_checks: HealthChecks,
    /// The binary upgrade in progress.
    pub upgrade: Option<UpgradeProgress>,
    /// A fast shutdown is in progress.
    pub stopping: bool,
}

/// The progress of a binary upgrade.
#[derive(Default)]
pub struct UpgradeProgress {
    /// Workers that have only tunnels left, and those that have packed them.
    settled: usize,
    packed: usize,
    handover: HandoverEncoder,
}

impl Control<'_> {
    /// Handles signals and worker events until all workers have ended.
    pub async fn run(mut self) -> io::Result<()> {
        let mut running = self.workers.handles.len();
        let timer = Timer::new();
        let interval = systemd::watchdog_interval();
        systemd::notify_ready(&status());
        loop {
            let limit = if self.stopping { STOP_TIMEOUT } else { interval.unwrap_or(Duration::MAX) };
            let outcome = {
                let signal = pin!(self.signals.wait());
                let event = pin!(self.workers.events.receive());
                timer.within(limit, select(signal, event)).await
            };
            match outcome {
                Ok(Some(WorkerEvent::Ended(result))) => {
                    result?;
                    running -= 1;
                    if running == 0 {
                        return Ok(());
                    }
                }
                Ok(Some(event)) => {
                    self.advance_upgrade(event);
                    self.handle_signals();
                }
                Ok(None) => self.handle_signals(),
                // A worker that hangs in a system call is not waited for.
                Err(executor::Elapsed) if self.stopping => return Ok(()),
                Err(executor::Elapsed) => systemd::notify_watchdog(&status()),
            }
        }
    }

    /// Handles pending signals. During a binary upgrade all but a fast shutdown stay pending: the new binary reads
    /// its configuration and opens its logs anyway.
    fn handle_signals(&mut self) {
        if self.signals.take(Signal::SIGTERM) | self.signals.take(Signal::SIGINT) {
            self.stopping = true;
            systemd::notify_stopping("stopping");
            self.workers.send(&|| WorkerCommand::Stop);
        }
        if self.upgrade.is_some() {
            return;
        }
        if self.signals.take(Signal::SIGUSR1) {
            self.reopen();
        }
        if self.signals.take(Signal::SIGQUIT) {
            self.listeners.close();
            systemd::notify_stopping("shutting down gracefully");
            self.workers.send(&|| WorkerCommand::Finish);
        }
        if self.signals.take(Signal::SIGHUP) {
            systemd::notify_reloading();
            self.reload();
            systemd::notify_ready(&status());
        }
        if self.signals.take(Signal::SIGUSR2) && !self.listeners.is_empty() {
            self.log(Level::Notice, format_args!("binary upgrade requested; checking the new executable"));
            self.upgrade = Some(UpgradeProgress::default());
            let check = match &self.program {
                Some(program) => {
                    binary_upgrade::check(program, self.workers.clone()).map_err(|error| io_error::describe(&error))
                }
                None => Err("the executable is unknown".to_owned()),
            };
            if check.is_err() {
                self.advance_upgrade(WorkerEvent::Checked(check));
            }
        }
    }

    /// Advances a binary upgrade: check the new executable, finish requests, pack connections, exec.
    fn advance_upgrade(&mut self, event: WorkerEvent) {
        // Workers may still report a step that they began before a stop.
        let Some(upgrade) = self.upgrade.as_mut().filter(|_| !self.stopping) else { return };
        let workers = self.workers.handles.len();
        match event {
            WorkerEvent::Checked(Ok(())) => self.workers.send(&|| WorkerCommand::Leave),
            WorkerEvent::Checked(Err(why)) => {
                self.upgrade = None;
                self.log(Level::Emerg, format_args!("binary upgrade failed, continuing with the old binary: {why}"));
            }
            WorkerEvent::Settled => {
                upgrade.settled += 1;
                if upgrade.settled == workers {
                    self.workers.send(&|| WorkerCommand::Freeze);
                }
            }
            WorkerEvent::Packed(handover) => {
                upgrade.packed += 1;
                upgrade.handover.append(handover);
                if upgrade.packed == workers {
                    self.finish_upgrade();
                }
            }
            WorkerEvent::Ended(_) => {}
        }
    }

    /// Executes the new binary. If that fails, this one resumes.
    fn finish_upgrade(&mut self) {
        let packed = self.upgrade.take().unwrap_or_default().handover;
        let error = match self.exec_new_binary(&packed) {
            Ok(never) => match never {},
            Err(why) => why,
        };
        self.log(Level::Emerg, format_args!("binary upgrade failed, continuing with the old binary: {error}"));
        for (addr, copies) in self.listeners.copies(&self.workers).unwrap_or_default() {
            listeners::listen(&self.workers, &addr, copies);
        }
        self.workers.send(&|| WorkerCommand::Stay);
        distribute(packed.into_decoder(), &self.workers);
    }

    fn exec_new_binary(&self, packed: &HandoverEncoder) -> Result<Infallible, String> {
        if self.signals.is_pending(Signal::SIGQUIT) {
            return Err("a graceful shutdown was requested".to_owned());
        }
        // The configuration may have changed since the check; without a valid one the new binary could not start.
        (self.load)()?;
        self.hand_over(packed).map_err(|error| io_error::describe(&error))
    }

    fn hand_over(&self, packed: &HandoverEncoder) -> io::Result<Infallible> {
        let mut all = HandoverEncoder::default();
        self.listeners.encode(&mut all)?;
        health_check::encode(&self.live, &mut all);
        let handover = all.send_with(packed)?;
        match &self.program {
            Some(program) => binary_upgrade::execute(program, &handover),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn log(&self, level: Level, message: fmt::Arguments<'_>) {
        log::log(&self.live.config.main.error_log, level, message);
    }

    fn reopen(&self) {
        let failed = log::target::reopen();
        for why in &failed {
            self.log(Level::Error, format_args!("{why}: still writing to the old file"));
        }
        if failed.is_empty() {
            self.log(Level::Notice, format_args!("log files reopened"));
        }
    }

    /// Reloads; the old configuration stays in force if the new one has any error.
    fn reload(&mut self) {
        match self.prepare_reload() {
            Err(why) => self.log(
                Level::Emerg,
                format_args!("reload failed, keeping the old configuration: {}", why.replace('\n', " ")),
            ),
            Ok((config, new_listeners)) => {
                if config.main.workers as usize != self.workers.handles.len() {
                    self.log(Level::Warn, format_args!("`worker_processes` changes take effect after a restart"));
                }
                self.live = Arc::new(Live::new(config.clone(), Some(&self.live)));
                // All workers get the configuration before any of them listens.
                self.workers.send(&|| WorkerCommand::Take(self.live.clone()));
                self.health_checks = health_check::start(&self.live);
                self.listeners.retain(&config);
                for (addr, fd, copies) in new_listeners {
                    listeners::listen(&self.workers, &addr, copies);
                    self.listeners.insert(addr, fd);
                }
                self.log(Level::Notice, format_args!("configuration reloaded"));
            }
        }
    }

    /// Does every step of a reload that can fail.
    fn prepare_reload(&self) -> Result<(Arc<Config>, Vec<NewListener>), String> {
        let config = (self.load)()?;
        listeners::serves_somebody(&config)?;
        let mut new_listeners = Vec::new();
        for binding in &config.bindings {
            let Some(fd) = self.listeners.open(binding, None)? else { continue };
            let copies = listeners::copies(&fd, &self.workers).map_err(|error| io_error::describe(&error))?;
            new_listeners.push((binding.addr.clone(), fd, copies));
        }
        log::target::open(&config.log_targets, None)?;
        Ok((Arc::new(config), new_listeners))
    }
}

/// Returns the status shown by systemd. For other workers it holds the values of the last update.
fn status() -> String {
    metrics::request_update();
    let now = metrics::total();
    format!("{} tunnels, {} connections", now.get(Metric::OpenTunnels), now.get(Metric::Active))
}

/// Waits for a signal (`None`) or a worker event.
fn select<T>(
    mut signal: Pin<&mut impl Future<Output = ()>>,
    mut event: Pin<&mut impl Future<Output = T>>,
) -> impl Future<Output = Option<T>> + Unpin {
    poll_fn(move |cx| match event.as_mut().poll(cx) {
        Poll::Ready(event) => Poll::Ready(Some(event)),
        Poll::Pending => signal.as_mut().poll(cx).map(|()| None),
    })
}

/// Distributes handed-over connections among the workers.
pub fn distribute(mut handover: HandoverDecoder, workers: &Workers) {
    let mut parts: Vec<HandoverEncoder> = workers.handles.iter().map(|_| HandoverEncoder::default()).collect();
    let mut next = (0..parts.len()).cycle();
    while let Some((kind, content)) = handover.entry() {
        if let Some(part) = next.next().and_then(|at| parts.get_mut(at)) {
            part.entry(kind, content.into_encoder());
        }
    }
    for (handle, part) in workers.handles.iter().zip(parts).filter(|(_, part)| !part.is_empty()) {
        handle.commands.send(WorkerCommand::Resume(part.into_decoder()));
    }
}
