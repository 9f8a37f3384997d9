//! Reloads and binary upgrades of each proxy, and the memory of all processes of its group, since some leave old ones behind.

use std::{
    fs,
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::{
    process::{self, Cpus, Process, Result},
    proxy::{Kind, Proxy},
};

/// The limit for a new binary to take over.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(3);

pub struct ReloadableProxy {
    kind: Kind,
    program: PathBuf,
    dir: PathBuf,
    config: String,
    /// The first process, whose id is that of the group.
    first: u32,
    /// Killed on drop.
    _process: Process,
    pub addr: SocketAddr,
    /// Caddy's admin API.
    admin: SocketAddr,
}

impl ReloadableProxy {
    /// Starts a proxy in a process group of its own.
    pub fn start(proxy: &Proxy, dir: &Path, origin: SocketAddr, cpus: &Cpus) -> Result<Self> {
        let (addr, admin, name) = (process::free_addr()?, process::free_addr()?, proxy.kind.name());
        let dir = dir.join(name);
        fs::create_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let config = match proxy.kind {
            Kind::Haproxy => haproxy(addr, origin),
            Kind::Caddy => caddy(addr, admin, origin),
            // nginx can be upgraded only as a daemon.
            Kind::Nginx => format!("daemon on; {}", nginx(&dir, addr, origin)),
            _ => nginx(&dir, addr, origin),
        };
        write(&dir, &config)?;
        let mut command = process::pinned(&format!("{},{}", cpus.proxy, cpus.others), &proxy.program)?;
        command.process_group(0);
        let file = dir.join("config");
        match proxy.kind {
            Kind::Haproxy => command.args(["-W", "-db", "-f"]).arg(&file),
            Kind::Caddy => command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&file).env("HOME", &dir),
            _ => command.arg("-c").arg(&file).arg("-p").arg(&dir).args(["-e", "error.log"]),
        };
        let process = Process::serve(name, command, addr, &dir)?;
        // nginx listens before it becomes a daemon.
        poll_within(UPGRADE_TIMEOUT, || proxy.kind != Kind::Nginx || read_pid(&dir.join("pid")).is_ok());
        let first = if proxy.kind == Kind::Nginx { read_pid(&dir.join("pid"))? } else { process.child.id() };
        let (kind, program) = (proxy.kind, proxy.program.clone());
        Ok(Self { kind, program, dir, config, first, _process: process, addr, admin })
    }

    /// Reloads the configuration, or a broken one.
    pub fn reload(&self, broken: bool) -> Result<()> {
        write(&self.dir, &if broken { format!("{}\n{{", self.config) } else { self.config.clone() })?;
        match self.kind {
            Kind::Haproxy => signal(self.first, Signal::USR2),
            Kind::Caddy => {
                let mut command = Command::new(&self.program);
                command.args(["reload", "--force", "--adapter", "caddyfile", "--config"]).arg(self.dir.join("config"));
                command.args(["--address", &self.admin.to_string()]).env("HOME", &self.dir);
                let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
                status.map_err(|error| format!("caddy reload: {error}"))?;
            }
            Kind::Nginx => signal(self.master()?, Signal::HUP),
            _ => signal(self.first, Signal::HUP),
        }
        Ok(())
    }

    /// Upgrades the binary if the proxy can; returns whether it did.
    pub fn upgrade(&self) -> Result<bool> {
        write(&self.dir, &self.config)?;
        match self.kind {
            // HAProxy executes itself on every reload.
            Kind::Haproxy => signal(self.first, Signal::USR2),
            Kind::Caddy => return Ok(false),
            Kind::Nginx => {
                let master = self.master()?;
                signal(master, Signal::USR2);
                let upgraded = poll_within(UPGRADE_TIMEOUT, || self.master().is_ok_and(|now| now != master));
                if upgraded {
                    signal(master, Signal::QUIT);
                }
                return Ok(upgraded);
            }
            _ => {
                let before = self.starts();
                signal(self.first, Signal::USR2);
                return Ok(poll_within(UPGRADE_TIMEOUT, || self.starts() > before));
            }
        }
        Ok(true)
    }

    /// Returns the newest of nginx's masters.
    fn master(&self) -> Result<u32> {
        read_pid(&self.dir.join("pid"))
    }

    /// Returns how often smolgate has started.
    fn starts(&self) -> usize {
        fs::read_to_string(self.dir.join("error.log")).unwrap_or_default().matches(" listens on ").count()
    }

    /// Returns the number of processes and their memory in bytes; shared memory is counted once (Pss).
    pub fn memory(&self) -> (usize, u64) {
        let processes = group_members(self.first);
        let of = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let bytes = processes.iter().map(|pid| process::kilobytes(&of(pid), "Pss:") * 1024).sum();
        (processes.len(), bytes)
    }
}

impl Drop for ReloadableProxy {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.first).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal); // it may have exited
    }
}

fn read_pid(path: &Path) -> Result<u32> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    text.trim().parse().map_err(|_| format!("{}: \"{text}\" is no number", path.display()))
}

/// Returns all processes of a group.
fn group_members(group: u32) -> Vec<u32> {
    let of = |entry: fs::DirEntry| -> Option<u32> {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let (_, after_name) = stat.rsplit_once(") ")?;
        (after_name.split(' ').nth(2)?.parse() == Ok(group)).then_some(pid)
    };
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(of).collect()
}

/// Polls until `holds`; false if it does not in time.
fn poll_within(limit: Duration, holds: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if holds() {
            return true;
        }
        sleep(Duration::from_millis(5));
    }
    false
}

/// Writes the configuration atomically: a reader gets the old text or the new one.
fn write(dir: &Path, text: &str) -> Result<()> {
    let (new, file) = (dir.join("config.new"), dir.join("config"));
    fs::write(&new, text).and_then(|()| fs::rename(&new, &file)).map_err(|error| format!("{}: {error}", file.display()))
}

/// The configuration of smolgate and nginx.
fn nginx(dir: &Path, addr: SocketAddr, origin: SocketAddr) -> String {
    let dir = dir.display();
    let temp_paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|n| format!("{n}_temp_path {dir}/{n};"));
    format!(
        "worker_processes 1; pid {dir}/pid; error_log {dir}/error.log notice;
events {{ worker_connections 10000; }}
http {{
    access_log off; {}
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    upstream origin {{ server {origin}; keepalive 16; }}
    server {{
        listen {addr};
        location / {{
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_read_timeout 1h;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
        }}
    }}
}}
",
        temp_paths.join(" ")
    )
}

fn haproxy(addr: SocketAddr, origin: SocketAddr) -> String {
    format!(
        "global
    nbthread 1
    maxconn 5000
defaults
    mode http
    timeout connect 10s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
frontend life
    bind {addr}
    default_backend origin
backend origin
    server origin {origin}
"
    )
}

fn caddy(addr: SocketAddr, admin: SocketAddr, origin: SocketAddr) -> String {
    format!(
        "{{
    admin {admin}
    auto_https off
}}
http://:{} {{
    bind {}
    reverse_proxy {origin}
}}
",
        addr.port(),
        addr.ip()
    )
}
