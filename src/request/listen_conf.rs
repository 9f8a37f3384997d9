//! `listen` and `server_name`: the sockets to open, and the virtual hosts of each.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::arguments::{arg, invalid_value};
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Error, Result, Word, placeholder_hint};
use crate::config::{HostName, Server, values};
use crate::modules::map::conf::Expression;
use crate::regex::Captures;
use crate::runtime::socket::{Addr, ListenOptions};
use crate::tls::{self, ServerTls};

/// The default of `backlog=`: after an outage all devices reconnect at once.
const BACKLOG: i32 = 4096;

/// One `listen`.
#[derive(Clone, Debug)]
pub(crate) struct Listen {
    addr: Addr,
    options: ListenOptions,
    /// Whether the line has options of the socket.
    has_socket_options: bool,
    default: bool,
    proxy_protocol: bool,
    tls: bool,
    word: Word,
}

impl Listen {
    fn new(addr: Addr, word: Word) -> Self {
        let options = ListenOptions { backlog: BACKLOG, ipv6_only: true };
        Self { addr, options, has_socket_options: false, default: false, proxy_protocol: false, tls: false, word }
    }

    /// As the parameter `ssl`.
    pub(crate) fn enable_tls(&mut self) {
        self.tls = true;
    }
}

/// One name of a `server_name`.
#[derive(Clone, Debug)]
pub(crate) struct ServerName {
    pub(crate) word: Word,
    expression: Option<Arc<Expression>>,
}

impl ServerName {
    pub(crate) fn host_name(&self) -> HostName {
        match &self.expression {
            Some(expression) => HostName::Pattern(expression.clone()),
            None => HostName::parse(&self.word.text),
        }
    }
}

/// A server with its addresses and names.
pub(crate) type ServerListens = (Arc<Server>, Vec<Listen>, Vec<ServerName>);

/// One `listen` of an address, with its server.
type AddressListen<'s> = (&'s Listen, &'s Arc<Server>, &'s [ServerName]);

/// A socket to open, with the virtual hosts that it serves.
#[derive(Debug)]
pub struct Binding {
    pub addr: Addr,
    pub options: ListenOptions,
    /// The virtual hosts of specific addresses, which a socket bound to the wildcard address also serves.
    pub specific_hosts: Vec<Arc<VirtualHosts>>,
    pub virtual_hosts: Arc<VirtualHosts>,
}

/// The servers of one address.
#[derive(Debug)]
pub struct VirtualHosts {
    pub addr: Addr,
    pub names: ServerNames,
    /// Connections start with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// Connections start with a TLS handshake.
    pub tls: bool,
}

type ByName = HashMap<Vec<u8>, Arc<Server>>;

/// The server names of one address. Order of matching, as in nginx: exact, longest `*.x`, longest `x.*`, expressions in
/// order, default.
#[derive(Debug)]
pub struct ServerNames {
    exact: ByName,
    /// `.example.com` for `*.example.com`.
    leading: ByName,
    /// `example.` for `example.*`.
    trailing: ByName,
    patterns: Vec<(Arc<Expression>, Arc<Server>)>,
    default: Arc<Server>,
    /// Whether the default server is the only one, and no expression captures.
    has_one_server: bool,
}

/// A server, and the captures of an expression in its name.
pub struct ServerMatch<'n> {
    pub server: &'n Arc<Server>,
    pub captures: Option<(&'n Expression, Captures)>,
}

impl ServerNames {
    /// Returns the server for `host`, which is in lower case.
    pub fn find(&self, host: &str) -> ServerMatch<'_> {
        let found = |server| ServerMatch { server, captures: None };
        if self.has_one_server {
            return found(&self.default);
        }
        if let Some(server) = self.exact.get(host.as_bytes()) {
            return found(server);
        }
        if !self.leading.is_empty() {
            let suffixes = host.match_indices('.').map(|(at, _)| host.get(at..).unwrap_or_default());
            if let Some(server) =
                suffixes.filter(|s| s.len() < host.len()).find_map(|suffix| self.leading.get(suffix.as_bytes()))
            {
                return found(server);
            }
        }
        if !self.trailing.is_empty() {
            let prefixes = host.rmatch_indices('.').map(|(at, _)| host.get(..=at).unwrap_or_default());
            if let Some(server) =
                prefixes.filter(|p| p.len() < host.len()).find_map(|prefix| self.trailing.get(prefix.as_bytes()))
            {
                return found(server);
            }
        }
        for (expression, server) in &self.patterns {
            if let Some(captures) = expression.pattern.captures(host.as_bytes()) {
                return ServerMatch { server, captures: Some((expression, captures)) };
            }
        }
        found(&self.default)
    }

    /// Returns the TLS settings for a server name (SNI).
    pub fn tls_for(&self, name: Option<&str>) -> Option<Arc<ServerTls>> {
        let named = name.map(|name| self.find(&name.to_ascii_lowercase()).server.tls.as_ref());
        named.flatten().or(self.default.tls.as_ref()).cloned()
    }

    pub fn default_server(&self) -> &Arc<Server> {
        &self.default
    }
}

pub(crate) fn server_name(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    for word in &directive.args {
        let name = &word.text;
        let middle = name.strip_prefix("*.").or_else(|| name.strip_prefix('.')).unwrap_or(name);
        let middle = middle.strip_suffix(".*").unwrap_or(middle);
        let is_forbidden = |c: char| c == '*' || c == '/' || c == '<' || c == '>' || c == '{';
        if !name.starts_with('~')
            && (middle.contains(is_forbidden) || name.starts_with("http:") || name.starts_with("https:"))
        {
            return Err(invalid_value(directive, word, "a name, *.name, name.*, or ~ and an expression"));
        }
        let expression = match name.strip_prefix('~') {
            Some(source) => Some(Arc::new(builder.expression(source, true, &word.at)?)),
            None => None,
        };
        block.names.push(ServerName { word: word.clone(), expression });
    }
    Ok(())
}

pub(crate) fn listen(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    let (addr, last_port) = match word.text.strip_prefix("unix:") {
        Some("") => return Err(invalid_value(directive, word, "a path after \"unix:\"")),
        Some(path) => (Addr::Unix(Arc::from(path)), 0),
        None => {
            let expected = "a port from 1 to 65535, an address, address:port, or unix:/path";
            let addrs =
                values::listen_addr_range(&word.text).ok_or_else(|| invalid_value(directive, word, expected))?;
            (Addr::Ip(addrs.0), addrs.1)
        }
    };
    let mut line = Listen::new(addr, word.clone());
    for word in directive.args.iter().skip(1) {
        let (name, value) = word.text.split_once('=').unwrap_or((&word.text, ""));
        match (name, value) {
            ("default_server" | "default", "") => line.default = true,
            ("backlog", count) => {
                let count = values::number(count).filter(|n| *n > 0).and_then(|n| i32::try_from(n).ok());
                line.options.backlog = count.ok_or_else(|| invalid_value(directive, word, "a number"))?;
                line.has_socket_options = true;
            }
            ("ipv6only", value) => {
                let value = values::switch(value);
                line.options.ipv6_only = value.ok_or_else(|| invalid_value(directive, word, "\"on\" or \"off\""))?;
                line.has_socket_options = true;
            }
            ("quic", "") => {
                builder.note(&directive.name, "HTTP/3 is not supported: this \"listen\" is ignored");
                return Ok(());
            }
            ("ssl", "") if tls::AVAILABLE => line.tls = true,
            ("ssl", "") => {
                return Err(Error::new(&word.at, "\"listen ... ssl\" is not supported").hint("this build has no TLS"));
            }
            ("proxy_protocol", "") => line.proxy_protocol = true,
            ("http2" | "spdy", "") => {
                builder.note(&directive.name, "\"http2\": only HTTP/1.1 is supported; clients fall back to it")
            }
            ("reuseport" | "deferred" | "bind", "") => {
                line.has_socket_options = true;
                builder.note(
                    &directive.name,
                    "\"reuseport\", \"deferred\" and \"bind\" are ignored: one socket serves all workers",
                );
            }
            ("so_keepalive" | "fastopen" | "rcvbuf" | "sndbuf", _) if is_valid_socket_option(name, value) => {
                line.has_socket_options = true;
                builder.note(&directive.name, "socket options other than \"backlog\" and \"ipv6only\" are ignored");
            }
            _ => {
                let error = word.error("invalid parameter \"{}\"");
                return Err(error
                    .hint(placeholder_hint(&word.text).unwrap_or_else(|| "not a parameter of \"listen\"".to_owned())));
            }
        }
    }
    loop {
        if block.listens.iter().any(|known| known.addr == line.addr) {
            return Err(word.error("a duplicate listen {}").hint("this server already has it"));
        }
        block.listens.push(line.clone());
        match &mut line.addr {
            Addr::Ip(addr) if addr.port() < last_port => addr.set_port(addr.port() + 1),
            _ => return Ok(()),
        }
    }
}

/// Returns the sockets of the servers. A wildcard socket also serves the specific addresses of its port, which can't be
/// bound at the same time.
pub(crate) fn build_bindings(servers: &[ServerListens]) -> Result<Vec<Binding>> {
    let nowhere = crate::config::Position { file: u32::MAX, line: 1, column: 1 };
    let word = Word { text: "80".to_owned(), at: nowhere, quoted: false };
    let default_listen = Listen::new(Addr::Ip(SocketAddr::from(([0, 0, 0, 0], 80))), word);
    let mut addrs: Vec<(&Addr, Vec<AddressListen<'_>>)> = Vec::new();
    for (server, listens, names) in servers {
        for line in if listens.is_empty() { std::slice::from_ref(&default_listen) } else { listens.as_slice() } {
            let line = (line, server, names.as_slice());
            match addrs.iter_mut().find(|(addr, _)| **addr == line.0.addr) {
                Some((_, lines)) => lines.push(line),
                None => addrs.push((&line.0.addr, vec![line])),
            }
        }
    }
    let mut groups = Vec::new();
    for (addr, lines) in addrs {
        groups.push((build_virtual_hosts(addr, &lines)?, socket_options(&lines)?));
    }
    let covers = |wildcard: &Addr, addr: &Addr| match (wildcard, addr) {
        (Addr::Ip(w), Addr::Ip(a)) => {
            w != a && w.ip().is_unspecified() && w.port() == a.port() && w.is_ipv4() == a.is_ipv4()
        }
        _ => false,
    };
    let is_covered = |addr: &Addr| groups.iter().any(|(group, _)| covers(&group.addr, addr));
    let mut bindings = Vec::new();
    for (group, options) in groups.iter().filter(|(group, _)| !is_covered(&group.addr)) {
        let mut specific = Vec::new();
        for (other, _) in groups.iter().filter(|(other, _)| covers(&group.addr, &other.addr)) {
            specific.push(other.clone());
        }
        bindings.push(Binding {
            addr: group.addr.clone(),
            options: *options,
            specific_hosts: specific,
            virtual_hosts: group.clone(),
        });
    }
    Ok(bindings)
}

/// Returns the options of an address; only one `listen` may set them.
fn socket_options(lines: &[AddressListen<'_>]) -> Result<ListenOptions> {
    let mut with_options = lines.iter().filter(|(line, ..)| line.has_socket_options).map(|(line, ..)| line);
    let (first, second) = (with_options.next(), with_options.next());
    if let Some(second) = second {
        return Err(Error::new(&second.word.at, format!("duplicate listen options for {}", second.addr)));
    }
    Ok(first.map_or(ListenOptions { backlog: BACKLOG, ipv6_only: true }, |line| line.options))
}

fn build_virtual_hosts(addr: &Addr, lines: &[AddressListen<'_>]) -> Result<Arc<VirtualHosts>> {
    let mut defaults = lines.iter().filter(|(line, ..)| line.default);
    let default = defaults.next();
    if let Some((line, ..)) = defaults.next() {
        return Err(Error::new(&line.word.at, format!("a duplicate default server for {addr}")));
    }
    let first = default.or(lines.first()).ok_or_else(|| Error::without_position("a listen without a server"))?;
    let mut names = ServerNames {
        exact: HashMap::new(),
        leading: HashMap::new(),
        trailing: HashMap::new(),
        patterns: Vec::new(),
        default: first.1.clone(),
        has_one_server: lines.len() == 1
            && lines.iter().all(|(_, _, names)| names.iter().all(|name| name.expression.is_none())),
    };
    for (_, server, words) in lines {
        // A server without a name has the empty name.
        if words.is_empty() {
            insert_if_absent(&mut names.exact, "", server);
        }
        for name in *words {
            names.add(name, server);
        }
    }
    let proxied = lines.iter().any(|(line, ..)| line.proxy_protocol);
    let tls = lines.iter().any(|(line, ..)| line.tls);
    if tls && names.default.tls.is_none() {
        let message = "no \"ssl_certificate\" is defined for the \"listen ... ssl\" directive";
        return Err(Error::new(&first.0.word.at, message).hint("set \"ssl_certificate\" and \"ssl_certificate_key\""));
    }
    Ok(Arc::new(VirtualHosts { addr: addr.clone(), names, proxy_protocol: proxied, tls }))
}

impl ServerNames {
    fn add(&mut self, name: &ServerName, server: &Arc<Server>) {
        if let Some(expression) = &name.expression {
            self.patterns.push((expression.clone(), server.clone()));
            return;
        }
        let name = name.word.text.to_ascii_lowercase();
        if let Some(suffix) = name.strip_prefix('*') {
            insert_if_absent(&mut self.leading, suffix, server);
        } else if name.starts_with('.') {
            insert_if_absent(&mut self.leading, &name, server);
            insert_if_absent(&mut self.exact, name.trim_start_matches('.'), server);
        } else if let Some(prefix) = name.strip_suffix('*') {
            insert_if_absent(&mut self.trailing, prefix, server);
        } else {
            insert_if_absent(&mut self.exact, name.strip_suffix('.').unwrap_or(&name), server);
        }
    }
}

/// The first server with a name wins, as in nginx (which warns about the others).
fn insert_if_absent(servers: &mut ByName, name: &str, server: &Arc<Server>) {
    servers.entry(name.into()).or_insert_with(|| server.clone());
}

/// Whether an ignored socket option has a valid value.
fn is_valid_socket_option(name: &str, value: &str) -> bool {
    let numbers: Vec<&str> = value.split(':').collect();
    let is_number = |text: &&str| !text.is_empty() && values::number(text).is_some();
    match (name, &numbers[..]) {
        ("so_keepalive", ["on" | "off"]) => true,
        ("so_keepalive", [idle, interval, count]) => {
            let is_time = |text: &&str| text.is_empty() || values::time(text).is_some();
            is_time(idle) && is_time(interval) && (count.is_empty() || is_number(count)) && value != "::"
        }
        ("fastopen", [count]) => is_number(count),
        ("rcvbuf" | "sndbuf", [bytes]) => values::size(bytes).is_some(),
        _ => false,
    }
}
