//! The runner: smolgate and whichever other proxies are installed do the same work in turns, beside the bare relay.
//!
//! In every round each proxy has one turn at each piece of work, always with the same number of operations; what is
//! compared is the CPU time that the proxy itself spent on one. Memory is measured before, each proxy alone and fresh.
//! All on loopback; the proxy has a CPU of its own if there are two.

#![forbid(unsafe_code)]

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    thread::sleep,
    time::Duration,
};

use argh::FromArgs;
use smolgate_bench::{
    message,
    process::{self, Cpus, Process, Result},
    proxy::{self, Kind, Proxy, Running},
    round::{self, FILES, HANDSHAKES, Load, Turn, WORKS, Work},
    table::{self, Table},
    trace::Trace,
};

/// Measure smolgate beside a bare relay and the proxies that are installed.
#[derive(FromArgs)]
struct Flags {
    /// the smolgate to measure (the one beside this program: target/release/smolgate)
    #[argh(option)]
    smolgate: Option<PathBuf>,
    /// only these, e.g. smolgate,nginx; the relay is always there
    #[argh(option)]
    proxies: Option<String>,
    /// only this work: tunnel64,tunnel1,tunnel64k,get,herd,memory,file1k,file10m,slow, and with --tls handshake,resumed
    #[argh(option)]
    only: Option<String>,
    /// turns that each proxy has at each work (5)
    #[argh(option, default = "5")]
    rounds: usize,
    /// a tenth of the operations and 1,000 idle tunnels: a look, not a result
    #[argh(switch)]
    quick: bool,
    /// clients come over TLS; smolgate, nginx and HAProxy do that, and handshakes are work too
    #[argh(switch)]
    tls: bool,
    /// count system calls with strace instead
    #[argh(switch)]
    syscalls: bool,
}

fn main() -> ExitCode {
    let flags: Flags = argh::from_env();
    process::in_folder("bench", |dir| run(&flags, dir))
}

fn run(flags: &Flags, dir: &Path) -> Result<()> {
    let works = chosen(flags.only.as_deref(), flags.tls)?;
    let proxies = proxy::find(flags.proxies.as_deref(), flags.smolgate.as_deref(), flags.tls)?;
    let tunnels = if flags.quick { 1_000 } else { 5_000 };
    process::allow_descriptors(tunnels * 2 + 1_000)?;
    let cpus = Cpus::divide()?;
    let addr = process::free_addr()?;
    let mut command = process::pinned(&cpus.others, &process::sibling("origin")?)?;
    command.args(["--listen", &addr.to_string()]);
    let _origin = Process::serve("origin", command, addr, dir)?;
    let bench = Bench { flags, dir, proxies, works, cpus, origin: addr, tunnels: tunnels as usize };

    bench.print_circumstances();
    if flags.syscalls {
        return bench.count_calls();
    }
    bench.compare_proxies()?;
    let wants = |what: &str| flags.only.as_deref().is_none_or(|only| only.split(',').any(|name| name.trim() == what));
    if wants("reconnect_storm") && !flags.tls {
        bench.herd()?;
    }
    if wants("memory") {
        bench.weigh()?;
    }
    if !flags.tls {
        bench.compare_servers(wants("slow"))?;
    }
    Ok(())
}

/// Work of other kinds, for `--only`.
const OTHERS: [&str; 3] = ["reconnect_storm", "memory", "slow"];

fn chosen(only: Option<&str>, tls: bool) -> Result<Vec<Work>> {
    let all =
        || WORKS.into_iter().chain(FILES.into_iter().filter(|_| !tls)).chain(HANDSHAKES.into_iter().filter(|_| tls));
    let Some(only) = only else { return Ok(all().collect()) };
    let known = |name: &str| OTHERS.contains(&name) || all().any(|work| work.name == name);
    if let Some(name) = only.split(',').map(str::trim).find(|name| !known(name)) {
        let names: Vec<&str> = all().map(|work| work.name).collect();
        return Err(format!("unknown work \"{name}\"; known are {}, {}", names.join(", "), OTHERS.join(", ")));
    }
    Ok(all().filter(|work| only.split(',').any(|name| name.trim() == work.name)).collect())
}

/// Clients that come and go before memory is measured, so that what a proxy sets up once doesn't count.
const WARM_CLIENTS: usize = 50;

/// Clients that read next to nothing of a file, and how long it is.
const SLOW_READERS: usize = 10_000;
const SLOW_FILE_BYTES: usize = 1 << 20;

/// Operations for counting system calls; few, because every call is slow then.
const TRACED_TRIPS: usize = 5_000;

struct Bench<'a> {
    flags: &'a Flags,
    dir: &'a Path,
    proxies: Vec<Proxy>,
    works: Vec<Work>,
    cpus: Cpus,
    origin: SocketAddr,
    tunnels: usize,
}

impl Bench<'_> {
    fn print_circumstances(&self) {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let Cpus { proxy, others } = &self.cpus;
        let pinned = match self.cpus.are_apart() {
            true => format!("proxy on CPU {proxy}, load and origin on CPU {others}"),
            false => format!("everything shares CPU {proxy}"),
        };
        println!("Loopback, one worker each; {pinned}; Linux {}", kernel.trim());
        for proxy in self.proxies.iter().filter(|proxy| proxy.kind != Kind::Relay) {
            println!("- {}: {}", proxy.kind.name(), proxy.version());
        }
        println!();
    }

    fn start_all(&self, proxies: &[&Proxy]) -> Result<Vec<Running>> {
        proxies.iter().map(|proxy| proxy.start(self.dir, self.origin, false, &self.cpus)).collect()
    }

    fn all(&self) -> Vec<&Proxy> {
        self.proxies.iter().collect()
    }

    /// Those of all the work that are files, or that are not.
    fn works(&self, files: bool) -> Vec<&Work> {
        self.works.iter().filter(|work| (work.mode == "file") == files).collect()
    }

    fn trips(&self, work: &Work) -> usize {
        if self.flags.quick { work.trips / 10 } else { work.trips }
    }

    /// CPU time and latency of all proxies, beside the first.
    fn compare_proxies(&self) -> Result<()> {
        self.compare(&self.works(false), &self.all(), 0, "CPU of the proxy, us per round trip")
    }

    /// What it costs those that serve files to do so, beside nginx where it is.
    fn compare_servers(&self, slow: bool) -> Result<()> {
        let servers: Vec<&Proxy> = self.proxies.iter().filter(|proxy| proxy.kind.serves_files()).collect();
        if servers.is_empty() {
            return Ok(());
        }
        let base = servers.iter().position(|server| server.kind == Kind::Nginx).unwrap_or(0);
        let files = self.works(true);
        let folder = self.dir.join("files");
        let write = |bytes: usize| fs::write(folder.join(bytes.to_string()), message::pattern(bytes));
        let mut sizes = files.iter().map(|work| work.bytes).chain([SLOW_FILE_BYTES]);
        let written = fs::create_dir_all(&folder).and_then(|()| sizes.try_for_each(write));
        written.map_err(|error| format!("{}: {error}", folder.display()))?;
        self.compare(&files, &servers, base, "files, CPU of the server")?;
        if slow { self.weigh_readers(&servers, base) } else { Ok(()) }
    }

    /// CPU time and latency of some proxies.
    fn compare(&self, works: &[&Work], proxies: &[&Proxy], base: usize, title: &str) -> Result<()> {
        if works.is_empty() {
            return Ok(());
        }
        let running = self.start_all(proxies)?;
        // By work, then by round, then by proxy.
        let mut results: Vec<Vec<Vec<Turn>>> = works.iter().map(|_| Vec::new()).collect();
        for round in 1..=self.flags.rounds.max(1) {
            for (work, rounds) in works.iter().zip(&mut results) {
                eprintln!("bench: round {round} of {}: {}", self.flags.rounds.max(1), work.label);
                rounds.push(self.round(work, &running, round)?);
            }
        }
        let mut cpu = table_of(title, proxies);
        let mut latency = table_of("latency, p50 / p99, us", proxies);
        for (work, rounds) in works.iter().zip(&results) {
            let column = |proxy: usize, of: fn(&Turn) -> f64| -> Vec<f64> {
                rounds.iter().filter_map(|turns| turns.get(proxy)).map(of).collect()
            };
            let time = |proxy: usize| -> Vec<f64> {
                column(proxy, |turn| turn.cpu_us).into_iter().map(|time| time * work.unit()).collect()
            };
            let first = time(base);
            let all = 0..running.len();
            cpu.row(work.label, all.clone().map(|proxy| table::with_ratio(&time(proxy), &first)));
            let median = |proxy: usize, of: fn(&Turn) -> f64| table::short(table::median(column(proxy, of)));
            let both = |proxy: usize| format!("{} / {}", median(proxy, |t| t.p50_us), median(proxy, |t| t.p99_us));
            latency.row(work.label, all.map(both));
            let name = proxies.get(base).map_or("", |proxy| proxy.kind.name());
            println!("The {name} itself, {}: {} from round to round", work.label, table::range(&first));
        }
        println!();
        cpu.print();
        latency.print();
        Ok(())
    }

    /// One turn for each proxy. Every round begins with another one, so that none always follows the same neighbour.
    fn round(&self, work: &Work, running: &[Running], round: usize) -> Result<Vec<Turn>> {
        let first = round % running.len();
        let (before, after) = running.split_at(first);
        let mut turns = Vec::with_capacity(running.len());
        for proxy in after.iter().chain(before) {
            let turn = round::take(work, self.trips(work), proxy, &self.cpus);
            turns.push(turn.map_err(|error| format!("{}: {}: {error}", proxy.kind.name(), work.label))?);
        }
        turns.rotate_right(first);
        Ok(turns)
    }

    /// All tunnels break, and come back at once.
    fn herd(&self) -> Result<()> {
        let running = self.start_all(&self.all())?;
        let work = Work {
            name: "reconnect_storm",
            label: "",
            mode: "reconnect_storm",
            conns: self.tunnels,
            bytes: 1,
            trips: self.tunnels,
        };
        let mut turns: Vec<Vec<Turn>> = running.iter().map(|_| Vec::new()).collect();
        for round in 1..=self.flags.rounds.max(1) {
            eprintln!("bench: round {round} of {}: {} tunnels anew", self.flags.rounds.max(1), self.tunnels);
            for at in (0..running.len()).map(|at| (at + round) % running.len()) {
                // One that does not bring all of them back has no number.
                match round::take(&work, work.trips, &running[at], &self.cpus) {
                    Ok(turn) => turns[at].push(turn),
                    Err(error) => eprintln!("bench: {}: {error}", running[at].kind.name()),
                }
            }
        }
        let median = |proxy: usize, of: fn(&Turn) -> f64| match turns[proxy].as_slice() {
            [] => "-".to_owned(),
            turns => table::short(table::median(turns.iter().map(of))),
        };
        let proxies = 0..running.len();
        let mut table = table_of(&format!("{} tunnels come back at once", self.tunnels), &self.all());
        table.row("all are up, ms", proxies.clone().map(|proxy| median(proxy, |turn| turn.seconds * 1e3)));
        let both = |proxy: usize| {
            format!("{} / {}", median(proxy, |turn| turn.p50_us / 1e3), median(proxy, |turn| turn.p99_us / 1e3))
        };
        table.row("a handshake, p50 / p99, ms", proxies.clone().map(both));
        table.row("CPU of the proxy, us per tunnel", proxies.map(|proxy| median(proxy, |turn| turn.cpu_us)));
        table.print();
        Ok(())
    }

    /// Memory of each proxy, one at a time.
    fn weigh(&self) -> Result<()> {
        let (mut idle, mut logged, mut rest, mut size) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for proxy in &self.proxies {
            eprintln!("bench: memory of {}", proxy.kind.name());
            let name = |error| format!("{}: idle tunnels: {error}", proxy.kind.name());
            let plain = self.weigh_tunnels(proxy, false).map_err(name)?;
            idle.push(plain.each);
            rest.push(plain.at_rest);
            let log = proxy.kind.reads_nginx().then(|| self.weigh_tunnels(proxy, true).map_err(name)).transpose()?;
            logged.push(log.map_or(f64::NAN, |weight| weight.each));
            size.push(proxy.size(self.dir)? as f64);
        }
        let mut memory = table_of("memory and size", &self.all());
        memory.row("idle tunnel, user bytes", idle.iter().map(|bytes| table::with_ratio(&[*bytes], &idle[..1])));
        memory.row(
            "idle tunnel, access log on",
            logged.iter().map(|bytes| match bytes.is_nan() {
                true => "-".to_owned(),
                false => table::with_ratio(&[*bytes], &idle[..1]),
            }),
        );
        memory.row("RSS at rest, MB", rest.iter().map(|bytes| table::short(bytes / 1e6)));
        memory.row("program, stripped, kB", size.iter().map(|bytes| table::short(bytes / 1e3)));
        memory.print();
        Ok(())
    }

    fn weigh_tunnels(&self, proxy: &Proxy, access_log: bool) -> Result<Weight> {
        let running = proxy.start(self.dir, self.origin, access_log, &self.cpus)?;
        self.weigh_held(&running, "idle", 0, self.tunnels)
    }

    /// What a server holds for clients that read slowly.
    fn weigh_readers(&self, servers: &[&Proxy], base: usize) -> Result<()> {
        let most = usize::try_from(process::descriptors().saturating_sub(1_000) / 2).unwrap_or(SLOW_READERS);
        let readers = if self.flags.quick { SLOW_READERS / 10 } else { SLOW_READERS.min(most) };
        let weigh = |server: &Proxy, access_log: bool| -> Result<f64> {
            eprintln!("bench: slow readers of {}", server.kind.name());
            let weighed = server.start(self.dir, self.origin, access_log, &self.cpus).and_then(|running| {
                self.weigh_held(&running, "slow", SLOW_FILE_BYTES, readers).map(|weight| weight.each)
            });
            weighed.map_err(|error| format!("{}: slow readers: {error}", server.kind.name()))
        };
        let plain = servers.iter().map(|server| weigh(server, false)).collect::<Result<Vec<f64>>>()?;
        let logs = |server: &&Proxy| if server.kind.reads_nginx() { weigh(server, true) } else { Ok(f64::NAN) };
        let logged = servers.iter().map(logs).collect::<Result<Vec<f64>>>()?;
        let beside = plain.get(base).copied().unwrap_or(f64::NAN);
        let show = |bytes: &f64| if bytes.is_nan() { "-".to_owned() } else { table::with_ratio(&[*bytes], &[beside]) };
        let mut table = table_of(&format!("{readers} slow readers of a file of 1 MB"), servers);
        table.row("each, user bytes", plain.iter().map(show));
        table.row("each, access log on", logged.iter().map(show));
        table.print();
        Ok(())
    }

    /// Memory at rest, and what so many clients add to it.
    fn weigh_held(&self, running: &Running, mode: &str, bytes: usize, clients: usize) -> Result<Weight> {
        let settle = || sleep(Duration::from_millis(500));
        let open = |count| Load::open(mode, count, bytes, 0, running, &self.cpus);
        settle();
        let at_rest = running.process.memory()?.resident as f64;
        drop(open(WARM_CLIENTS)?);
        settle();
        let before = running.process.memory()?.anonymous as f64;
        let mut held = open(clients)?;
        settle();
        let after = running.process.memory()?.anonymous as f64;
        if mode == "slow" {
            held.go()?;
        }
        Ok(Weight { at_rest, each: (after - before).max(0.0) / clients as f64 })
    }

    /// System calls of all proxies.
    fn count_calls(&self) -> Result<()> {
        let strace = proxy::installed("strace").ok_or("--syscalls needs strace, which is not installed")?;
        let running = self.start_all(&self.all())?;
        println!("System calls per message. A tunnel's round trip is two messages, so is a GET and its answer.\n");
        let mut table = Table::new("work", ["proxy", "calls per message", "which"].map(str::to_owned));
        for work in self.works(false) {
            for proxy in &running {
                let trips = TRACED_TRIPS.min(self.trips(work));
                let mut load = Load::open(work.mode, work.conns, work.bytes, trips, proxy, &self.cpus)?;
                let trace = Trace::attach(&strace, &proxy.process, self.dir, &self.cpus)?;
                let done = round::number(&load.go()?, "trips")?;
                let calls = trace.detach()?;
                let each = |count: u64| count as f64 / (done * 2.0);
                let all = each(calls.iter().map(|&(_, count)| count).sum());
                let some = calls.iter().filter(|&&(_, count)| each(count) >= 0.005);
                let which: Vec<String> = some.map(|(name, count)| format!("{name} {:.2}", each(*count))).collect();
                table.row(work.label, [proxy.kind.name().to_owned(), format!("{all:.2}"), which.join(", ")]);
            }
        }
        table.print();
        Ok(())
    }
}

fn table_of(first: &str, proxies: &[&Proxy]) -> Table {
    Table::new(first, proxies.iter().map(|proxy| proxy.kind.name().to_owned()))
}

struct Weight {
    at_rest: f64,
    /// Bytes that the proxy itself has allocated for one client.
    each: f64,
}
