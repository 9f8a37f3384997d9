//! What the workers are told: signals become orders, reports become the next step.
//!
//! A reload makes the new configuration ready beside the old one and swaps them; what was begun goes on under the old one,
//! and tunnels do not notice. An upgrade goes step by step, and each step can still be taken back.

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
use crate::process::exec::Program;
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

/// How long a stop at once may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes a configuration anew, for a reload.
pub type LoadConfig<'l> = dyn Fn() -> Result<Config, String> + 'l;

/// Who tells the workers what to do.
pub struct Control<'r> {
    pub workers: Arc<Workers>,
    /// Each socket that is listened on, from which the workers have their descriptors.
    pub listeners: &'r mut Listeners,
    pub signals: Signals,
    pub load: &'r LoadConfig<'r>,
    pub program: Option<Program>,
    pub live: Arc<Live>,
    /// The health checks of that.
    pub health_checks: HealthChecks,
    /// A program that is about to take the place of this one.
    pub upgrade: Option<UpgradeProgress>,
    /// The program was told to stop at once.
    pub stopping: bool,
}

/// How far an upgrade has come.
#[derive(Default)]
pub struct UpgradeProgress {
    /// Workers that have nothing but tunnels left, and those that have packed them.
    settled: usize,
    packed: usize,
    handover: HandoverEncoder,
}

impl Control<'_> {
    /// Passes on what signals say, until all workers have ended.
    pub async fn run(mut self) -> io::Result<()> {
        let mut left = self.workers.desks.len();
        let timer = Timer::new();
        let watched = systemd::watchdog_interval();
        systemd::notify_ready(&status());
        loop {
            let limit = if self.stopping { STOP_TIMEOUT } else { watched.unwrap_or(Duration::MAX) };
            let happened = {
                let signal = pin!(self.signals.wait());
                let report = pin!(self.workers.reports.receive());
                timer.within(limit, select(signal, report)).await
            };
            match happened {
                Ok(Some(WorkerEvent::Ended(ended))) => {
                    ended?;
                    left -= 1;
                    if left == 0 {
                        return Ok(());
                    }
                }
                Ok(Some(report)) => {
                    self.advance_upgrade(report);
                    self.handle_signals();
                }
                Ok(None) => self.handle_signals(),
                // A worker that hangs in a call to the system is not waited for.
                Err(executor::Elapsed) if self.stopping => return Ok(()),
                Err(executor::Elapsed) => systemd::notify_watchdog(&status()),
            }
        }
    }

    /// Does what the signals that came ask for. While another program is about to go on, all but a stop waits: the new one
    /// reads its configuration and opens its logs anyway.
    fn handle_signals(&mut self) {
        if self.signals.take(Signal::SIGTERM) | self.signals.take(Signal::SIGINT) {
            self.stopping = true;
            systemd::notify_stopping("stopping");
            self.workers.tell(&|| WorkerCommand::Stop);
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
            self.workers.tell(&|| WorkerCommand::Finish);
        }
        if self.signals.take(Signal::SIGHUP) {
            systemd::notify_reloading();
            self.reload();
            systemd::notify_ready(&status());
        }
        if self.signals.take(Signal::SIGUSR2) && !self.listeners.is_empty() {
            self.log(Level::Notice, format_args!("an upgrade was asked for: the new program is checked"));
            self.upgrade = Some(UpgradeProgress::default());
            let asked = match &self.program {
                Some(program) => {
                    binary_upgrade::check(program, self.workers.clone()).map_err(|error| io_error::describe(&error))
                }
                None => Err("there is no program to be executed".to_owned()),
            };
            if asked.is_err() {
                self.advance_upgrade(WorkerEvent::Checked(asked));
            }
        }
    }

    /// One step after the other: the new program is asked, requests end, everything is packed, the program is executed.
    fn advance_upgrade(&mut self, report: WorkerEvent) {
        // Workers that were told to stop may still report a step that they had begun.
        let Some(upgrade) = self.upgrade.as_mut().filter(|_| !self.stopping) else { return };
        let workers = self.workers.desks.len();
        match report {
            WorkerEvent::Checked(Ok(())) => self.workers.tell(&|| WorkerCommand::Leave),
            WorkerEvent::Checked(Err(why)) => {
                self.upgrade = None;
                self.log(Level::Emerg, format_args!("no upgrade: {why}"));
            }
            WorkerEvent::Settled => {
                upgrade.settled += 1;
                if upgrade.settled == workers {
                    self.workers.tell(&|| WorkerCommand::Freeze);
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

    /// Becomes the new program. If that fails, everything goes on here.
    fn finish_upgrade(&mut self) {
        let packed = self.upgrade.take().unwrap_or_default().handover;
        let failed = match self.exec_new_binary(&packed) {
            Ok(never) => match never {},
            Err(why) => why,
        };
        self.log(Level::Emerg, format_args!("no upgrade: {failed}"));
        for (addr, copies) in self.listeners.copies(&self.workers).unwrap_or_default() {
            listeners::listen(&self.workers, &addr, copies);
        }
        self.workers.tell(&|| WorkerCommand::Stay);
        distribute(packed.into_decoder(), &self.workers);
    }

    fn exec_new_binary(&self, packed: &HandoverEncoder) -> Result<Infallible, String> {
        if self.signals.is_pending(Signal::SIGQUIT) {
            return Err("the program is to stop".to_owned());
        }
        // It may have changed since the new program has looked at it, which could not go on without.
        (self.load)()?;
        self.hand_over(packed).map_err(|error| io_error::describe(&error))
    }

    fn hand_over(&self, packed: &HandoverEncoder) -> io::Result<Infallible> {
        let mut all = HandoverEncoder::default();
        self.listeners.pack(&mut all)?;
        health_check::pack(&self.live, &mut all);
        let parcel = all.send_with(packed)?;
        match &self.program {
            Some(program) => binary_upgrade::execute(program, &parcel),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn log(&self, level: Level, message: fmt::Arguments<'_>) {
        log::log(&self.live.config.main.error_log, level, message);
    }

    fn reopen(&self) {
        let failed = log::reopen();
        for why in &failed {
            self.log(Level::Error, format_args!("{why}: the old file is still written to"));
        }
        if failed.is_empty() {
            self.log(Level::Notice, format_args!("logs were reopened"));
        }
    }

    /// Takes a new configuration into force; the old one stays if anything is wrong with it.
    fn reload(&mut self) {
        match self.prepare_reload() {
            Err(why) => {
                self.log(Level::Emerg, format_args!("the new configuration was not taken: {}", why.replace('\n', " ")))
            }
            Ok((config, fresh)) => {
                if config.main.workers as usize != self.workers.desks.len() {
                    self.log(Level::Warn, format_args!("the number of workers stays until the program starts anew"));
                }
                self.live = Arc::new(Live::new(config.clone(), Some(&self.live)));
                // No worker listens before all of them know for whom.
                self.workers.tell(&|| WorkerCommand::Take(self.live.clone()));
                self.health_checks = health_check::start(&self.live);
                self.listeners.retain(&config);
                for (addr, fd, copies) in fresh {
                    listeners::listen(&self.workers, &addr, copies);
                    self.listeners.insert(addr, fd);
                }
                self.log(Level::Notice, format_args!("the new configuration is in force"));
            }
        }
    }

    /// Makes everything ready that can go wrong.
    fn prepare_reload(&self) -> Result<(Arc<Config>, Vec<NewListener>), String> {
        let config = (self.load)()?;
        listeners::serves_somebody(&config)?;
        let mut fresh = Vec::new();
        for binding in &config.bindings {
            let Some(fd) = self.listeners.open(binding, None)? else { continue };
            let copies = listeners::copies(&fd, &self.workers).map_err(|error| io_error::describe(&error))?;
            fresh.push((binding.addr.clone(), fd, copies));
        }
        log::open(&config.log_files, None)?;
        Ok((Arc::new(config), fresh))
    }
}

/// What a supervisor shows of the program. Of other workers it knows what was last asked for.
fn status() -> String {
    metrics::request_update();
    let now = metrics::total();
    format!("{} tunnels, {} connections", now.get(Metric::OpenTunnels), now.get(Metric::Active))
}

/// The first of a signal (nothing) and a report.
fn select<T>(
    mut signal: Pin<&mut impl Future<Output = ()>>,
    mut report: Pin<&mut impl Future<Output = T>>,
) -> impl Future<Output = Option<T>> + Unpin {
    poll_fn(move |cx| match report.as_mut().poll(cx) {
        Poll::Ready(report) => Poll::Ready(Some(report)),
        Poll::Pending => signal.as_mut().poll(cx).map(|()| None),
    })
}

/// Gives each worker its part of what another program left, or what this one has packed.
pub fn distribute(mut parcel: HandoverDecoder, workers: &Workers) {
    let mut parts: Vec<HandoverEncoder> = workers.desks.iter().map(|_| HandoverEncoder::default()).collect();
    let mut next = (0..parts.len()).cycle();
    while let Some((kind, content)) = parcel.entry() {
        if let Some(part) = next.next().and_then(|at| parts.get_mut(at)) {
            part.entry(kind, content.into_encoder());
        }
    }
    for (desk, part) in workers.desks.iter().zip(parts).filter(|(_, part)| !part.is_empty()) {
        desk.orders.send(WorkerCommand::Resume(part.into_decoder()));
    }
}
