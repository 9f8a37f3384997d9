//! The runner: compares smolgate, the other installed proxies and the bare relay.
//!
//! In every round each proxy does one run of each workload, always with the same number of round trips; the result is the CPU time
//! of the proxy per round trip. Memory is measured of each proxy alone, freshly started. All traffic is on loopback; the proxy has
//! a CPU of its own if there are two.

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
    proxy::{self, Kind, Proxy, RunningProxy},
    round::{self, FILES, HANDSHAKES, Load, RunResult, WORKLOADS, Workload},
    table::{self, Table},
    trace::Trace,
};

/// Measure smolgate beside a bare relay and the installed proxies.
#[derive(FromArgs)]
struct Flags {
    /// path of smolgate (default: beside this program)
    #[argh(option)]
    smolgate: Option<PathBuf>,
    /// only these, e.g. smolgate,nginx; the relay is always included
    #[argh(option)]
    proxies: Option<String>,
    /// only these workloads: tunnel64,tunnel1,tunnel64k,get,reconnect_storm,memory,file1k,file10m,slow, and with --tls handshake,resumed
    #[argh(option)]
    only: Option<String>,
    /// runs of each workload by each proxy (5)
    #[argh(option, default = "5")]
    rounds: usize,
    /// a tenth of the round trips, and 1,000 idle tunnels: a smoke test
    #[argh(switch)]
    quick: bool,
    /// clients connect over TLS, to smolgate, nginx and HAProxy; handshakes are measured too
    #[argh(switch)]
    tls: bool,
    /// count system calls with strace instead
    #[argh(switch)]
    syscalls: bool,
}

fn main() -> ExitCode {
    let flags: Flags = argh::from_env();
    process::run_in_temp_dir("bench", |dir| run(&flags, dir))
}

fn run(flags: &Flags, dir: &Path) -> Result<()> {
    let workloads = select_workloads(flags.only.as_deref(), flags.tls)?;
    let proxies = proxy::find(flags.proxies.as_deref(), flags.smolgate.as_deref(), flags.tls)?;
    let tunnels = if flags.quick { 1_000 } else { 5_000 };
    process::allow_descriptors(tunnels * 2 + 1_000)?;
    let cpus = Cpus::divide()?;
    let addr = process::free_addr()?;
    let mut command = process::pinned(&cpus.others, &process::sibling("origin")?)?;
    command.args(["--listen", &addr.to_string()]);
    let _origin = Process::serve("origin", command, addr, dir)?;
    let bench = Bench { flags, dir, proxies, workloads, cpus, origin: addr, tunnels: tunnels as usize };

    bench.print_environment();
    if flags.syscalls {
        return bench.count_calls();
    }
    bench.compare_proxies()?;
    let is_selected =
        |what: &str| flags.only.as_deref().is_none_or(|only| only.split(',').any(|name| name.trim() == what));
    if is_selected("reconnect_storm") && !flags.tls {
        bench.measure_reconnect_storm()?;
    }
    if is_selected("memory") {
        bench.measure_memory()?;
    }
    if !flags.tls {
        bench.compare_servers(is_selected("slow"))?;
    }
    Ok(())
}

/// Other measurements, for `--only`.
const OTHERS: [&str; 3] = ["reconnect_storm", "memory", "slow"];

fn select_workloads(only: Option<&str>, tls: bool) -> Result<Vec<Workload>> {
    let all = || {
        WORKLOADS.into_iter().chain(FILES.into_iter().filter(|_| !tls)).chain(HANDSHAKES.into_iter().filter(|_| tls))
    };
    let Some(only) = only else { return Ok(all().collect()) };
    let known = |name: &str| OTHERS.contains(&name) || all().any(|workload| workload.name == name);
    if let Some(name) = only.split(',').map(str::trim).find(|name| !known(name)) {
        let names: Vec<&str> = all().map(|workload| workload.name).collect();
        return Err(format!("unknown workload \"{name}\"; known are {}, {}", names.join(", "), OTHERS.join(", ")));
    }
    Ok(all().filter(|workload| only.split(',').any(|name| name.trim() == workload.name)).collect())
}

/// Clients before memory is measured, so that one-time allocations do not count.
const WARM_CLIENTS: usize = 50;

/// Clients that read almost nothing of a file, and its size.
const SLOW_READERS: usize = 10_000;
const SLOW_FILE_BYTES: usize = 1 << 20;

/// Round trips when system calls are counted; few, because strace is slow.
const TRACED_TRIPS: usize = 5_000;

struct Bench<'a> {
    flags: &'a Flags,
    dir: &'a Path,
    proxies: Vec<Proxy>,
    workloads: Vec<Workload>,
    cpus: Cpus,
    origin: SocketAddr,
    tunnels: usize,
}

impl Bench<'_> {
    fn print_environment(&self) {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let Cpus { proxy, others } = &self.cpus;
        let pinned = match self.cpus.are_separate() {
            true => format!("proxy on CPU {proxy}, load and origin on CPU {others}"),
            false => format!("everything shares CPU {proxy}"),
        };
        println!("Loopback, one worker each; {pinned}; Linux {}", kernel.trim());
        for proxy in self.proxies.iter().filter(|proxy| proxy.kind != Kind::Relay) {
            println!("- {}: {}", proxy.kind.name(), proxy.version());
        }
        println!();
    }

    fn start_all(&self, proxies: &[&Proxy]) -> Result<Vec<RunningProxy>> {
        proxies.iter().map(|proxy| proxy.start(self.dir, self.origin, false, &self.cpus)).collect()
    }

    fn all(&self) -> Vec<&Proxy> {
        self.proxies.iter().collect()
    }

    /// Returns the workloads with or without files.
    fn workloads(&self, files: bool) -> Vec<&Workload> {
        self.workloads.iter().filter(|workload| (workload.mode == "file") == files).collect()
    }

    fn trips(&self, workload: &Workload) -> usize {
        if self.flags.quick { workload.trips / 10 } else { workload.trips }
    }

    /// Compares CPU time and latency of all proxies with the first.
    fn compare_proxies(&self) -> Result<()> {
        self.compare(&self.workloads(false), &self.all(), 0, "CPU of the proxy, us per round trip")
    }

    /// Compares the file servers with nginx, or the first.
    fn compare_servers(&self, slow: bool) -> Result<()> {
        let servers: Vec<&Proxy> = self.proxies.iter().filter(|proxy| proxy.kind.serves_files()).collect();
        if servers.is_empty() {
            return Ok(());
        }
        let base = servers.iter().position(|server| server.kind == Kind::Nginx).unwrap_or(0);
        let files = self.workloads(true);
        let files_dir = self.dir.join("files");
        let write = |bytes: usize| fs::write(files_dir.join(bytes.to_string()), message::pattern(bytes));
        let mut sizes = files.iter().map(|workload| workload.bytes).chain([SLOW_FILE_BYTES]);
        let written = fs::create_dir_all(&files_dir).and_then(|()| sizes.try_for_each(write));
        written.map_err(|error| format!("{}: {error}", files_dir.display()))?;
        self.compare(&files, &servers, base, "files, CPU of the server")?;
        if slow { self.measure_slow_readers(&servers, base) } else { Ok(()) }
    }

    /// Compares CPU time and latency of proxies.
    fn compare(&self, workloads: &[&Workload], proxies: &[&Proxy], base: usize, title: &str) -> Result<()> {
        if workloads.is_empty() {
            return Ok(());
        }
        let running = self.start_all(proxies)?;
        // By workload, then by round, then by proxy.
        let mut results: Vec<Vec<Vec<RunResult>>> = workloads.iter().map(|_| Vec::new()).collect();
        for round in 1..=self.flags.rounds.max(1) {
            for (workload, rounds) in workloads.iter().zip(&mut results) {
                eprintln!("bench: round {round} of {}: {}", self.flags.rounds.max(1), workload.label);
                rounds.push(self.round(workload, &running, round)?);
            }
        }
        let mut cpu = table_of(title, proxies);
        let mut latency = table_of("latency, p50 / p99, us", proxies);
        for (workload, rounds) in workloads.iter().zip(&results) {
            let column = |proxy: usize, of: fn(&RunResult) -> f64| -> Vec<f64> {
                rounds.iter().filter_map(|runs| runs.get(proxy)).map(of).collect()
            };
            let time = |proxy: usize| -> Vec<f64> {
                column(proxy, |result| result.cpu_us).into_iter().map(|time| time * workload.scale()).collect()
            };
            let first = time(base);
            let all = 0..running.len();
            cpu.row(workload.label, all.clone().map(|proxy| table::with_ratio(&time(proxy), &first)));
            let median = |proxy: usize, of: fn(&RunResult) -> f64| table::short(table::median(column(proxy, of)));
            let both = |proxy: usize| format!("{} / {}", median(proxy, |t| t.p50_us), median(proxy, |t| t.p99_us));
            latency.row(workload.label, all.map(both));
            let name = proxies.get(base).map_or("", |proxy| proxy.kind.name());
            println!("The {name} itself, {}: {} from round to round", workload.label, table::range(&first));
        }
        println!();
        cpu.print();
        latency.print();
        Ok(())
    }

    /// Does one run for each proxy. Each round starts with another proxy.
    fn round(&self, workload: &Workload, running: &[RunningProxy], round: usize) -> Result<Vec<RunResult>> {
        let first = round % running.len();
        let (before, after) = running.split_at(first);
        let mut runs = Vec::with_capacity(running.len());
        for proxy in after.iter().chain(before) {
            let result = round::run(workload, self.trips(workload), proxy, &self.cpus);
            runs.push(result.map_err(|error| format!("{}: {}: {error}", proxy.kind.name(), workload.label))?);
        }
        runs.rotate_right(first);
        Ok(runs)
    }

    /// Measures how all tunnels are reopened at once.
    fn measure_reconnect_storm(&self) -> Result<()> {
        let running = self.start_all(&self.all())?;
        let workload = Workload {
            name: "reconnect_storm",
            label: "",
            mode: "reconnect_storm",
            conns: self.tunnels,
            bytes: 1,
            trips: self.tunnels,
        };
        let mut runs: Vec<Vec<RunResult>> = running.iter().map(|_| Vec::new()).collect();
        for round in 1..=self.flags.rounds.max(1) {
            eprintln!("bench: round {round} of {}: {} tunnels reconnect", self.flags.rounds.max(1), self.tunnels);
            for at in (0..running.len()).map(|at| (at + round) % running.len()) {
                // A proxy that fails has no number.
                match round::run(&workload, workload.trips, &running[at], &self.cpus) {
                    Ok(result) => runs[at].push(result),
                    Err(error) => eprintln!("bench: {}: {error}", running[at].kind.name()),
                }
            }
        }
        let median = |proxy: usize, of: fn(&RunResult) -> f64| match runs[proxy].as_slice() {
            [] => "-".to_owned(),
            runs => table::short(table::median(runs.iter().map(of))),
        };
        let proxies = 0..running.len();
        let mut table = table_of(&format!("{} tunnels reconnect at once", self.tunnels), &self.all());
        table.row("all are open, ms", proxies.clone().map(|proxy| median(proxy, |result| result.seconds * 1e3)));
        let both = |proxy: usize| {
            format!("{} / {}", median(proxy, |result| result.p50_us / 1e3), median(proxy, |result| result.p99_us / 1e3))
        };
        table.row("handshake, p50 / p99, ms", proxies.clone().map(both));
        table.row("CPU of the proxy, us per tunnel", proxies.map(|proxy| median(proxy, |result| result.cpu_us)));
        table.print();
        Ok(())
    }

    /// Measures the memory of each proxy, one at a time.
    fn measure_memory(&self) -> Result<()> {
        let (mut idle, mut logged, mut rest, mut size) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for proxy in &self.proxies {
            eprintln!("bench: memory of {}", proxy.kind.name());
            let name = |error| format!("{}: idle tunnels: {error}", proxy.kind.name());
            let plain = self.measure_tunnels(proxy, false).map_err(name)?;
            idle.push(plain.each);
            rest.push(plain.at_rest);
            let log =
                proxy.kind.reads_nginx_config().then(|| self.measure_tunnels(proxy, true).map_err(name)).transpose()?;
            logged.push(log.map_or(f64::NAN, |memory_use| memory_use.each));
            size.push(proxy.size(self.dir)? as f64);
        }
        let mut memory = table_of("memory and size", &self.all());
        memory.row("idle tunnel, bytes", idle.iter().map(|bytes| table::with_ratio(&[*bytes], &idle[..1])));
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

    fn measure_tunnels(&self, proxy: &Proxy, access_log: bool) -> Result<MemoryUse> {
        let running = proxy.start(self.dir, self.origin, access_log, &self.cpus)?;
        self.measure_clients(&running, "idle", 0, self.tunnels)
    }

    /// Measures the memory for clients that read slowly.
    fn measure_slow_readers(&self, servers: &[&Proxy], base: usize) -> Result<()> {
        let most = usize::try_from(process::descriptor_limit().saturating_sub(1_000) / 2).unwrap_or(SLOW_READERS);
        let readers = if self.flags.quick { SLOW_READERS / 10 } else { SLOW_READERS.min(most) };
        let measure = |server: &Proxy, access_log: bool| -> Result<f64> {
            eprintln!("bench: slow readers of {}", server.kind.name());
            let measured = server.start(self.dir, self.origin, access_log, &self.cpus).and_then(|running| {
                self.measure_clients(&running, "slow", SLOW_FILE_BYTES, readers).map(|memory_use| memory_use.each)
            });
            measured.map_err(|error| format!("{}: slow readers: {error}", server.kind.name()))
        };
        let plain = servers.iter().map(|server| measure(server, false)).collect::<Result<Vec<f64>>>()?;
        let logs =
            |server: &&Proxy| if server.kind.reads_nginx_config() { measure(server, true) } else { Ok(f64::NAN) };
        let logged = servers.iter().map(logs).collect::<Result<Vec<f64>>>()?;
        let base_bytes = plain.get(base).copied().unwrap_or(f64::NAN);
        let show =
            |bytes: &f64| if bytes.is_nan() { "-".to_owned() } else { table::with_ratio(&[*bytes], &[base_bytes]) };
        let mut table = table_of(&format!("{readers} slow readers of a file of 1 MB"), servers);
        table.row("each, bytes", plain.iter().map(show));
        table.row("each, access log on", logged.iter().map(show));
        table.print();
        Ok(())
    }

    /// Measures the memory at rest, and what each client adds.
    fn measure_clients(&self, running: &RunningProxy, mode: &str, bytes: usize, clients: usize) -> Result<MemoryUse> {
        let settle = || sleep(Duration::from_millis(500));
        let open = |count| Load::open(mode, count, bytes, 0, running, &self.cpus);
        settle();
        let at_rest = running.process.memory()?.resident as f64;
        drop(open(WARM_CLIENTS)?);
        settle();
        let before = running.process.memory()?.anonymous as f64;
        let mut load = open(clients)?;
        settle();
        let after = running.process.memory()?.anonymous as f64;
        if mode == "slow" {
            load.run()?;
        }
        Ok(MemoryUse { at_rest, each: (after - before).max(0.0) / clients as f64 })
    }

    /// Counts the system calls of all proxies.
    fn count_calls(&self) -> Result<()> {
        let strace = proxy::installed("strace").ok_or("--syscalls needs strace, which is not installed")?;
        let running = self.start_all(&self.all())?;
        println!(
            "System calls per message. A round trip of a tunnel is two messages, and so are a GET and its response.\n"
        );
        let mut table = Table::new("workload", ["proxy", "calls per message", "which"].map(str::to_owned));
        for workload in self.workloads(false) {
            for proxy in &running {
                let trips = TRACED_TRIPS.min(self.trips(workload));
                let mut load = Load::open(workload.mode, workload.conns, workload.bytes, trips, proxy, &self.cpus)?;
                let trace = Trace::attach(&strace, &proxy.process, self.dir, &self.cpus)?;
                let done = round::parse_number(&load.run()?, "trips")?;
                let calls = trace.detach()?;
                let each = |count: u64| count as f64 / (done * 2.0);
                let all = each(calls.iter().map(|&(_, count)| count).sum());
                let some = calls.iter().filter(|&&(_, count)| each(count) >= 0.005);
                let which: Vec<String> = some.map(|(name, count)| format!("{name} {:.2}", each(*count))).collect();
                table.row(workload.label, [proxy.kind.name().to_owned(), format!("{all:.2}"), which.join(", ")]);
            }
        }
        table.print();
        Ok(())
    }
}

fn table_of(first: &str, proxies: &[&Proxy]) -> Table {
    Table::new(first, proxies.iter().map(|proxy| proxy.kind.name().to_owned()))
}

struct MemoryUse {
    at_rest: f64,
    /// Bytes that the proxy has allocated for one client.
    each: f64,
}
