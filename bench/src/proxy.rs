//! The proxies: which are installed, and how each is told to do the same thing.
//!
//! The same thing is: one worker, no access log, connections to the origin kept where the program can, WebSocket upgrades
//! passed on, the files of the folder above for what begins with /files/, room for `CONNECTIONS` sockets. smolgate and
//! nginx read the same file, but for what only nginx needs.

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

/// Sockets on both sides that each proxy is given room for.
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

    /// Is told here how to speak TLS.
    fn speaks_tls(self) -> bool {
        matches!(self, Self::Smolgate | Self::Nginx | Self::Haproxy)
    }

    /// Serves files of its own.
    pub fn serves_files(self) -> bool {
        !matches!(self, Self::Relay | Self::Haproxy)
    }

    /// Reads nginx's language.
    pub fn reads_nginx(self) -> bool {
        matches!(self, Self::Smolgate | Self::Nginx)
    }
}

pub struct Proxy {
    pub kind: Kind,
    pub program: PathBuf,
    /// Clients come over TLS.
    pub tls: bool,
}

/// The relay and those proxies that are installed, or of these the ones that are `asked` for. Over TLS there is nothing that
/// a relay could do.
pub fn find(asked: Option<&str>, smolgate: Option<&Path>, tls: bool) -> Result<Vec<Proxy>> {
    let asked: Option<Vec<&str>> = asked.map(|names| names.split(',').map(str::trim).collect());
    if let Some(name) = asked.iter().flatten().find(|name| !KINDS.iter().any(|kind| kind.name() == **name)) {
        return Err(format!("unknown proxy \"{name}\"; known are relay, smolgate, nginx, haproxy, lighttpd, caddy"));
    }
    let mut found = Vec::new();
    for kind in KINDS.into_iter().filter(|kind| !tls || kind.speaks_tls()) {
        let is_named = asked.as_ref().is_some_and(|names| names.contains(&kind.name()));
        if asked.is_some() && !is_named && kind != Kind::Relay {
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
            None if is_named => return Err(format!("{}: not found beside this program or in PATH", kind.name())),
            None => eprintln!("bench: {} not found, left out", kind.name()),
        }
    }
    Ok(found)
}

pub fn installed(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// A proxy that listens.
pub struct Running {
    pub kind: Kind,
    pub addr: SocketAddr,
    pub tls: bool,
    pub process: Process,
}

/// A connection serves as many requests as the load wants.
const ENDLESS: &str = "keepalive_requests 1000000000;";

impl Proxy {
    /// Starts it in a folder of its own under `dir`, with an access log in that folder or without one.
    pub fn start(&self, dir: &Path, origin: SocketAddr, access_log: bool, cpus: &Cpus) -> Result<Running> {
        let (addr, name) = (process::free_addr()?, self.kind.name());
        let dir = dir.join(format!("{name}-{}", addr.port()));
        let file = dir.join("config");
        let text = self.config(&dir, addr, origin, access_log);
        fs::create_dir(&dir)
            .and_then(|()| fs::write(&file, text))
            .and_then(|()| if self.tls { certify(&dir) } else { Ok(()) })
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
        Ok(Running { kind: self.kind, addr, tls: self.tls, process })
    }

    fn config(&self, dir: &Path, addr: SocketAddr, origin: SocketAddr, access_log: bool) -> String {
        let dir = dir.display();
        match self.kind {
            Kind::Relay => String::new(),
            Kind::Smolgate => {
                nginx_config(&dir.to_string(), &self.listen(addr, &dir), origin, access_log, "", ENDLESS, ENDLESS)
            }
            // Without a master there is one process to measure, as for the others. The folders are nginx's own, which it
            // would otherwise make where only root may.
            Kind::Nginx => {
                let folders =
                    ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|n| format!("{n}_temp_path {n};"));
                let http = format!("{ENDLESS} sendfile on; {}", folders.join(" "));
                let upstream = ENDLESS;
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

    /// Where smolgate and nginx listen.
    fn listen(&self, addr: SocketAddr, dir: &impl std::fmt::Display) -> String {
        match self.tls {
            false => format!("listen {addr};"),
            true => format!("listen {addr} ssl; ssl_certificate {dir}/both.pem; ssl_certificate_key {dir}/both.pem;"),
        }
    }

    /// The first line that it prints about itself; empty for the relay.
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

    /// The size of the program file without symbols, in bytes.
    pub fn size(&self, dir: &Path) -> Result<u64> {
        let stripped = dir.join("stripped");
        let strip = Command::new("strip").arg("-o").arg(&stripped).arg(&self.program).output();
        let is_stripped = strip.is_ok_and(|output| output.status.success());
        let path = if is_stripped { &stripped } else { &self.program };
        fs::metadata(path).map(|file| file.len()).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// Writes a certificate and its key, as HAProxy wants them: in one file. ECDSA on P-256, as certbot asks for by itself.
fn certify(dir: &Path) -> io::Result<()> {
    let made = rcgen::generate_simple_self_signed([tls::NAME.to_owned()]).map_err(io::Error::other)?;
    fs::write(dir.join("both.pem"), made.cert.pem() + &made.signing_key.serialize_pem())
}

/// smolgate's and nginx's file; the last three are what only nginx needs, by context.
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
