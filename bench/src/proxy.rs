//! The installed proxies, and equivalent configurations for them.
//!
//! Each has one worker, no access log, keep-alive to the origin if supported, forwards WebSocket upgrades, serves files of the
//! parent directory below /files/, and has room for `CONNECTIONS` sockets. smolgate and nginx read the same file, but for what
//! only nginx needs.

use std::{
    env, fs, io,
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    process::{self, Cpus, Process, Result},
    tls,
};

/// The limit of sockets of each proxy, on both sides.
const CONNECTIONS: usize = 20_000;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Relay,
    Smolgate,
    Nginx,
    Haproxy,
    Lighttpd,
    Caddy,
}

const KINDS: [Kind; 6] = [Kind::Relay, Kind::Smolgate, Kind::Nginx, Kind::Haproxy, Kind::Lighttpd, Kind::Caddy];

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Smolgate => "smolgate",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Lighttpd => "lighttpd",
            Self::Caddy => "caddy",
        }
    }

    /// Returns whether there is a TLS configuration for it.
    fn supports_tls(self) -> bool {
        matches!(self, Self::Smolgate | Self::Nginx | Self::Haproxy)
    }

    /// Returns whether it serves files.
    pub fn serves_files(self) -> bool {
        !matches!(self, Self::Relay | Self::Haproxy)
    }

    /// Returns whether it reads nginx's configuration language.
    pub fn reads_nginx_config(self) -> bool {
        matches!(self, Self::Smolgate | Self::Nginx)
    }
}

pub struct Proxy {
    pub kind: Kind,
    pub program: PathBuf,
    /// Clients connect over TLS.
    pub tls: bool,
}

/// Returns the relay and the installed proxies, or those of them that are `named`. Over TLS there is no relay.
pub fn find(named: Option<&str>, smolgate: Option<&Path>, tls: bool) -> Result<Vec<Proxy>> {
    let named: Option<Vec<&str>> = named.map(|names| names.split(',').map(str::trim).collect());
    if let Some(name) = named.iter().flatten().find(|name| !KINDS.iter().any(|kind| kind.name() == **name)) {
        return Err(format!("unknown proxy \"{name}\"; known are relay, smolgate, nginx, haproxy, lighttpd, caddy"));
    }
    let mut found = Vec::new();
    for kind in KINDS.into_iter().filter(|kind| !tls || kind.supports_tls()) {
        let is_requested = named.as_ref().is_some_and(|names| names.contains(&kind.name()));
        if named.is_some() && !is_requested && kind != Kind::Relay {
            continue;
        }
        let program = match kind {
            Kind::Relay => Some(process::sibling("relay")?),
            Kind::Smolgate => match smolgate {
                Some(path) if path.is_file() => Some(path.to_owned()),
                Some(path) => return Err(format!("{}: not found", path.display())),
                None => process::sibling("smolgate").ok(),
            },
            _ => installed(kind.name()),
        };
        match program {
            Some(program) => found.push(Proxy { kind, program, tls }),
            None if is_requested => return Err(format!("{}: not found beside this program or in PATH", kind.name())),
            None => eprintln!("bench: {} not found, skipped", kind.name()),
        }
    }
    Ok(found)
}

pub fn installed(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// A running proxy.
pub struct RunningProxy {
    pub kind: Kind,
    pub addr: SocketAddr,
    pub tls: bool,
    pub process: Process,
}

/// Connections are never closed because of the number of requests.
const UNLIMITED_REQUESTS: &str = "keepalive_requests 1000000000;";

impl Proxy {
    /// Starts the proxy in a new directory under `dir`, with or without an access log there.
    pub fn start(&self, dir: &Path, origin: SocketAddr, access_log: bool, cpus: &Cpus) -> Result<RunningProxy> {
        let (addr, name) = (process::free_addr()?, self.kind.name());
        let dir = dir.join(format!("{name}-{}", addr.port()));
        let file = dir.join("config");
        let text = self.config(&dir, addr, origin, access_log);
        fs::create_dir(&dir)
            .and_then(|()| fs::write(&file, text))
            .and_then(|()| if self.tls { write_certificate(&dir) } else { Ok(()) })
            .map_err(|error| format!("{}: {error}", file.display()))?;

        let mut command = process::pinned(&cpus.proxy, &self.program)?;
        match self.kind {
            Kind::Relay => command.args(["--listen", &addr.to_string(), "--to", &origin.to_string()]),
            Kind::Smolgate => command.arg("-c").arg(&file).arg("-p").arg(&dir),
            Kind::Nginx => command.arg("-c").arg(&file).arg("-p").arg(&dir).args(["-e", "stderr"]),
            Kind::Haproxy => command.arg("-db").arg("-f").arg(&file),
            Kind::Lighttpd => command.arg("-D").arg("-f").arg(&file),
            Kind::Caddy => command
                .args(["run", "--adapter", "caddyfile", "--config"])
                .arg(&file)
                .env("GOMAXPROCS", "1")
                .env("HOME", &dir)
                .env("XDG_DATA_HOME", &dir)
                .env("XDG_CONFIG_HOME", &dir),
        };
        let process = Process::serve(name, command, addr, &dir)?;
        Ok(RunningProxy { kind: self.kind, addr, tls: self.tls, process })
    }

    fn config(&self, dir: &Path, addr: SocketAddr, origin: SocketAddr, access_log: bool) -> String {
        let dir = dir.display();
        match self.kind {
            Kind::Relay => String::new(),
            Kind::Smolgate => nginx_config(
                &dir.to_string(),
                &self.listen(addr, &dir),
                origin,
                access_log,
                "",
                UNLIMITED_REQUESTS,
                UNLIMITED_REQUESTS,
            ),
            // Without a master there is one process to measure, as for the others. The default temporary directories need root.
            Kind::Nginx => {
                let temp_paths =
                    ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|n| format!("{n}_temp_path {n};"));
                let http = format!("{UNLIMITED_REQUESTS} sendfile on; {}", temp_paths.join(" "));
                let upstream = UNLIMITED_REQUESTS;
                nginx_config(
                    &dir.to_string(),
                    &self.listen(addr, &dir),
                    origin,
                    access_log,
                    "daemon off; master_process off;",
                    &http,
                    upstream,
                )
            }
            Kind::Haproxy => format!(
                "global
    nbthread 1
    maxconn {}
    no strict-limits
defaults
    mode http
    timeout connect 10s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
    http-reuse always
frontend bench
    bind {addr}{}
    default_backend origin
backend origin
    server origin {origin}
",
                CONNECTIONS / 2,
                if self.tls { format!(" ssl crt {dir}/both.pem alpn http/1.1") } else { String::new() }
            ),
            Kind::Lighttpd => format!(
                r#"server.modules = ( "mod_proxy" )
server.bind = "{}"
server.port = {}
server.document-root = "{dir}/.."
server.max-connections = {}
server.max-fds = {CONNECTIONS}
server.max-keep-alive-requests = 1000000000
server.max-keep-alive-idle = 3600
server.max-read-idle = 3600
server.max-write-idle = 3600
$HTTP["url"] !~ "^/files/" {{ proxy.server = ( "" => ( ( "host" => "{}", "port" => {} ) ) ) }}
proxy.header = ( "upgrade" => "enable" )
"#,
                addr.ip(),
                addr.port(),
                CONNECTIONS / 2,
                origin.ip(),
                origin.port()
            ),
            Kind::Caddy => format!(
                "{{
    admin off
    auto_https off
}}
http://:{} {{
    bind {}
    handle /files/* {{
        root * {dir}/..
        file_server
    }}
    handle {{
        reverse_proxy {origin} {{
            transport http {{
                keepalive_idle_conns_per_host 64
            }}
        }}
    }}
}}
",
                addr.port(),
                addr.ip()
            ),
        }
    }

    /// The `listen` directive of smolgate and nginx.
    fn listen(&self, addr: SocketAddr, dir: &impl std::fmt::Display) -> String {
        match self.tls {
            false => format!("listen {addr};"),
            true => format!("listen {addr} ssl; ssl_certificate {dir}/both.pem; ssl_certificate_key {dir}/both.pem;"),
        }
    }

    /// Returns the first line of its version; empty for the relay.
    pub fn version(&self) -> String {
        let argument = match self.kind {
            Kind::Relay => return String::new(),
            Kind::Smolgate => "--version",
            Kind::Caddy => "version",
            _ => "-v",
        };
        let Ok(output) = Command::new(&self.program).arg0(self.kind.name()).arg(argument).output() else {
            return String::new();
        };
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
    }

    /// Returns the size of the executable without symbols, in bytes.
    pub fn size(&self, dir: &Path) -> Result<u64> {
        let stripped = dir.join("stripped");
        let strip = Command::new("strip").arg("-o").arg(&stripped).arg(&self.program).output();
        let is_stripped = strip.is_ok_and(|output| output.status.success());
        let path = if is_stripped { &stripped } else { &self.program };
        fs::metadata(path).map(|file| file.len()).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// Writes a certificate and its key into one file, as HAProxy reads them: ECDSA on P-256, the default of certbot.
fn write_certificate(dir: &Path) -> io::Result<()> {
    let generated = rcgen::generate_simple_self_signed([tls::NAME.to_owned()]).map_err(io::Error::other)?;
    fs::write(dir.join("both.pem"), generated.cert.pem() + &generated.signing_key.serialize_pem())
}

/// Returns the configuration of smolgate and nginx; the last three arguments are added to the contexts of these names.
fn nginx_config(
    dir: &str,
    listen: &str,
    origin: SocketAddr,
    access_log: bool,
    main: &str,
    http: &str,
    upstream: &str,
) -> String {
    let log = if access_log { format!("{dir}/access.log") } else { "off".to_owned() };
    format!(
        "worker_processes 1;
error_log /dev/null;
pid {dir}/pid;
{main}
events {{
    worker_connections {CONNECTIONS};
}}
http {{
    access_log {log};
    {http}
    upstream origin {{
        server {origin};
        keepalive 64;
        {upstream}
    }}
    server {{
        {listen}
        location /files/ {{
            root {dir}/..;
        }}
        location / {{
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
        }}
    }}
    map $http_upgrade $connection_upgrade {{
        default upgrade;
        '' '';
    }}
}}
"
    )
}
