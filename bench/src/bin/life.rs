//! Reloads (half of them of broken configurations) and binary upgrades of a proxy with open tunnels and new clients. Counts broken
//! tunnels and failed requests, and the processes and memory that old configurations and binaries leave behind.

#![forbid(unsafe_code)]

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, sleep},
    time::Duration,
};

use argh::FromArgs;
use smolgate_bench::{
    client,
    process::{self, Cpus, Process, Result},
    proxy::{self, Kind, Proxy},
    reload::ReloadableProxy,
    steady_load::{Counts, SteadyLoad},
    table::{self, Table},
};

/// Reload and upgrade smolgate, nginx, HAProxy and Caddy under load, and count what clients notice.
#[derive(FromArgs)]
struct Flags {
    /// path of smolgate (default: beside this program)
    #[argh(option)]
    smolgate: Option<PathBuf>,
    /// only these, e.g. smolgate,nginx
    #[argh(option)]
    proxies: Option<String>,
    /// open tunnels (2000)
    #[argh(option, default = "2000")]
    tunnels: usize,
    /// reloads, half of them of a broken file (200)
    #[argh(option, default = "200")]
    reloads: usize,
    /// binary upgrades (20)
    #[argh(option, default = "20")]
    upgrades: usize,
}

/// Between two reloads, and between two binary upgrades.
const PAUSE: Duration = Duration::from_millis(150);
/// Before each measurement of memory.
const SETTLE: Duration = Duration::from_secs(3);
/// Tunnels that are replaced between two reloads.
const REPLACED: usize = 10;

fn main() -> ExitCode {
    let flags: Flags = argh::from_env();
    process::run_in_temp_dir("life", |dir| run(&flags, dir))
}

fn run(flags: &Flags, dir: &Path) -> Result<()> {
    let found = proxy::find(flags.proxies.as_deref(), flags.smolgate.as_deref(), false)?;
    let proxies: Vec<Proxy> =
        found.into_iter().filter(|proxy| !matches!(proxy.kind, Kind::Relay | Kind::Lighttpd)).collect();
    process::allow_descriptors(flags.tunnels as u64 * 2 + 1_000)?;
    let cpus = Cpus::divide()?;
    let addr = process::free_addr()?;
    let mut command = process::pinned(&cpus.others, &process::sibling("origin")?)?;
    command.args(["--listen", &addr.to_string()]);
    let _origin = Process::serve("origin", command, addr, dir)?;
    let columns: Vec<Column> =
        proxies.iter().map(|proxy| measure(flags, proxy, dir, addr, &cpus)).collect::<Result<_>>()?;
    print(flags, &proxies, &columns);
    Ok(())
}

/// The results of one proxy.
struct Column {
    counts: Counts,
    /// New clients, and those that were not served.
    requests: usize,
    failed: usize,
    /// Processes and bytes of memory.
    before: (usize, u64),
    reloaded: (usize, u64),
    upgraded: (usize, u64),
    upgrades: usize,
}

fn measure(flags: &Flags, proxy: &Proxy, dir: &Path, origin: SocketAddr, cpus: &Cpus) -> Result<Column> {
    eprintln!("life: {}", proxy.kind.name());
    let running = ReloadableProxy::start(proxy, dir, origin, cpus)?;
    let describe = |error: std::io::Error| format!("{}: {error}", proxy.kind.name());
    let load = SteadyLoad::open(running.addr, flags.tunnels).map_err(describe)?;
    let stop = AtomicBool::new(false);
    let (requests, failed, measured) = thread::scope(|scope| {
        let new_clients = scope.spawn(|| request_until(running.addr, &stop));
        let measured = reload_and_upgrade(flags, &running, &load);
        stop.store(true, Ordering::Relaxed);
        let (requests, failed) = new_clients.join().map_err(|_| "a thread panicked".to_owned())?;
        measured.map(|measured| (requests, failed, measured))
    })?;
    let (before, reloaded, upgraded, upgrades) = measured;
    let counts = load.close().map_err(describe)?;
    Ok(Column { counts, requests, failed, before, reloaded, upgraded, upgrades })
}

type Memory = (usize, u64);

fn reload_and_upgrade(
    flags: &Flags,
    running: &ReloadableProxy,
    load: &SteadyLoad,
) -> Result<(Memory, Memory, Memory, usize)> {
    sleep(SETTLE);
    let before = running.memory();
    for round in 1..=flags.reloads {
        running.reload(round % 2 == 1)?;
        sleep(PAUSE);
        load.replace(REPLACED);
    }
    sleep(SETTLE);
    let reloaded = running.memory();
    let mut upgrades = 0;
    for _ in 0..flags.upgrades {
        upgrades += usize::from(running.upgrade()?);
        sleep(PAUSE);
        load.replace(REPLACED);
    }
    sleep(SETTLE);
    Ok((before, reloaded, running.memory(), upgrades))
}

/// Sends requests on new connections, one after the other. Returns how many there were and how many failed.
fn request_until(addr: SocketAddr, stop: &AtomicBool) -> (usize, usize) {
    let (mut requests, mut failed) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        requests += 1;
        failed += usize::from(client::get(addr).is_err());
        sleep(Duration::from_millis(5));
    }
    (requests, failed)
}

fn print(flags: &Flags, proxies: &[Proxy], columns: &[Column]) {
    let head = format!("{} tunnels, {} reloads, {} upgrades", flags.tunnels, flags.reloads, flags.upgrades);
    let mut table = Table::new(&head, proxies.iter().map(|proxy| proxy.kind.name().to_owned()));
    let mut row = |label: &str, cell: &dyn Fn(&Column) -> String| table.row(label, columns.iter().map(cell));
    let memory = |(processes, bytes): Memory| format!("{processes}, {} MB", table::short(bytes as f64 / 1e6));
    row("broken tunnels", &|column| column.counts.broken.to_string());
    let replaced = (flags.reloads + flags.upgrades) * REPLACED;
    row("new clients, not served", &|column| {
        format!("{}, {}", column.requests + replaced, column.failed + column.counts.rejected)
    });
    row("binary upgrades", &|column| column.upgrades.to_string());
    row("processes, memory: before", &|column| memory(column.before));
    row("after the reloads", &|column| memory(column.reloaded));
    row("after the upgrades", &|column| memory(column.upgraded));
    table.print();
    let echoes: Vec<String> = columns.iter().map(|column| column.counts.echoes.to_string()).collect();
    println!("messages echoed correctly: {}", echoes.join(", "));
}
