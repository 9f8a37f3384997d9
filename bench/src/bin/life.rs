//! The life of a proxy in use: tunnels that count, new clients all the time, and meanwhile its configuration is read again
//! and again, half of the times a broken one, and its program replaced. What of it all the clients notice, and what is
//! left of old configurations and programs: processes and memory.

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
    reload::Life,
    steady_load::{Crowd, Tally},
    table::{self, Table},
};

/// Reload and upgrade smolgate, nginx, HAProxy and Caddy while they are in use, and count what clients notice.
#[derive(FromArgs)]
struct Flags {
    /// the smolgate to look at (the one beside this program: target/release/smolgate)
    #[argh(option)]
    smolgate: Option<PathBuf>,
    /// only these, e.g. smolgate,nginx
    #[argh(option)]
    proxies: Option<String>,
    /// tunnels that are open (2000)
    #[argh(option, default = "2000")]
    tunnels: usize,
    /// reloads, half of them of a broken file (200)
    #[argh(option, default = "200")]
    reloads: usize,
    /// upgrades of the program (20)
    #[argh(option, default = "20")]
    upgrades: usize,
}

/// Between two reloads, and between two upgrades.
const PAUSE: Duration = Duration::from_millis(150);
/// Before the first weighing, and before the last.
const REST: Duration = Duration::from_secs(3);
/// Clients that leave, and others that come, between two reloads.
const TURNOVER: usize = 10;

fn main() -> ExitCode {
    let flags: Flags = argh::from_env();
    process::in_folder("life", |dir| run(&flags, dir))
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
        proxies.iter().map(|proxy| observe(flags, proxy, dir, addr, &cpus)).collect::<Result<_>>()?;
    print(flags, &proxies, &columns);
    Ok(())
}

/// What was seen of one proxy.
struct Column {
    tally: Tally,
    /// New clients, and those of them that were not served.
    asked: usize,
    refused: usize,
    /// Processes and bytes of memory, before and after.
    before: (usize, u64),
    reloaded: (usize, u64),
    upgraded: (usize, u64),
    upgrades: usize,
}

fn observe(flags: &Flags, proxy: &Proxy, dir: &Path, origin: SocketAddr, cpus: &Cpus) -> Result<Column> {
    eprintln!("life: {}", proxy.kind.name());
    let life = Life::begin(proxy, dir, origin, cpus)?;
    let explain = |error: std::io::Error| format!("{}: {error}", proxy.kind.name());
    let crowd = Crowd::open(life.addr, flags.tunnels).map_err(explain)?;
    let over = AtomicBool::new(false);
    let (asked, refused, seen) = thread::scope(|scope| {
        let newcomers = scope.spawn(|| come(life.addr, &over));
        let seen = storm(flags, &life, &crowd);
        over.store(true, Ordering::Relaxed);
        let (asked, refused) = newcomers.join().map_err(|_| "a thread panicked".to_owned())?;
        seen.map(|seen| (asked, refused, seen))
    })?;
    let (before, reloaded, upgraded, upgrades) = seen;
    let tally = crowd.close().map_err(explain)?;
    Ok(Column { tally, asked, refused, before, reloaded, upgraded, upgrades })
}

type Weight = (usize, u64);

fn storm(flags: &Flags, life: &Life, crowd: &Crowd) -> Result<(Weight, Weight, Weight, usize)> {
    sleep(REST);
    let before = life.weigh();
    for round in 1..=flags.reloads {
        life.reload(round % 2 == 1)?;
        sleep(PAUSE);
        crowd.turn_over(TURNOVER);
    }
    sleep(REST);
    let reloaded = life.weigh();
    let mut upgrades = 0;
    for _ in 0..flags.upgrades {
        upgrades += usize::from(life.upgrade()?);
        sleep(PAUSE);
        crowd.turn_over(TURNOVER);
    }
    sleep(REST);
    Ok((before, reloaded, life.weigh(), upgrades))
}

/// New clients, one after the other: how many there were, and how many were not served.
fn come(addr: SocketAddr, over: &AtomicBool) -> (usize, usize) {
    let (mut asked, mut refused) = (0, 0);
    while !over.load(Ordering::Relaxed) {
        asked += 1;
        refused += usize::from(client::get(addr).is_err());
        sleep(Duration::from_millis(5));
    }
    (asked, refused)
}

fn print(flags: &Flags, proxies: &[Proxy], columns: &[Column]) {
    let head = format!("{} tunnels, {} reloads, {} upgrades", flags.tunnels, flags.reloads, flags.upgrades);
    let mut table = Table::new(&head, proxies.iter().map(|proxy| proxy.kind.name().to_owned()));
    let mut row = |label: &str, cell: &dyn Fn(&Column) -> String| table.row(label, columns.iter().map(cell));
    let weight = |(processes, bytes): Weight| format!("{processes}, {} MB", table::short(bytes as f64 / 1e6));
    row("tunnels that were cut off", &|column| column.tally.cut_off.to_string());
    let came = (flags.reloads + flags.upgrades) * TURNOVER;
    row("new clients, not served", &|column| {
        format!("{}, {}", column.asked + came, column.refused + column.tally.refused)
    });
    row("upgrades that were done", &|column| column.upgrades.to_string());
    row("processes, memory: before", &|column| weight(column.before));
    row("after the reloads", &|column| weight(column.reloaded));
    row("after the upgrades", &|column| weight(column.upgraded));
    table.print();
    let echoes: Vec<String> = columns.iter().map(|column| column.tally.echoes.to_string()).collect();
    println!("messages that came back as they were sent: {}", echoes.join(", "));
}
