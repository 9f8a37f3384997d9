//! `listen` and `server_name`: the sockets to open, and the virtual hosts of each.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::arguments::{arg, invalid_value};
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Error, Result, Word, placeholder_hint};
use crate::config::{HostName, Note, Server, values};
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
    is_default: bool,
    proxy_protocol: bool,
    tls: bool,
    word: Word,
}

impl Listen {
    fn new(addr: Addr, word: Word) -> Self {
        let options = ListenOptions { backlog: BACKLOG, ipv6_only: true };
        Self { addr, options, has_socket_options: false, is_default: false, proxy_protocol: false, tls: false, word }
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
pub(crate) struct ServerListens {
    pub(crate) server: Arc<Server>,
    pub(crate) listens: Vec<Listen>,
    pub(crate) names: Vec<ServerName>,
}

/// One `listen` of an address, with its server.
struct AddressListen<'s> {
    listen: &'s Listen,
    server: &'s Arc<Server>,
    names: &'s [ServerName],
}

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
            let suffixes = host.match_indices('.').filter_map(|(at, _)| host.get(at..));
            if let Some(server) =
                suffixes.filter(|s| s.len() < host.len()).find_map(|suffix| self.leading.get(suffix.as_bytes()))
            {
                return found(server);
            }
        }
        if !self.trailing.is_empty() {
            let prefixes = host.rmatch_indices('.').filter_map(|(at, _)| host.get(..=at));
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
            let range = values::listen_addr_range(&word.text);
            let (addr, last_port) = range.ok_or_else(|| invalid_value(directive, word, expected))?;
            (Addr::Ip(addr), last_port)
        }
    };
    let mut listen = Listen::new(addr, word.clone());
    for parameter in directive.args.iter().skip(1) {
        if parameter.text == "quic" {
            builder.note(&directive.name, "HTTP/3 is not supported: this \"listen\" is ignored");
            return Ok(());
        }
        read_parameter(builder, &mut listen, directive, parameter)?;
    }
    loop {
        if let Some(first) = block.listens.iter().find(|known| known.addr == listen.addr) {
            let error = word.error("a duplicate listen {}").hint("this server already has it");
            return Err(error.first_at(first.word.at));
        }
        block.listens.push(listen.clone());
        match &mut listen.addr {
            Addr::Ip(addr) if addr.port() < last_port => addr.set_port(addr.port() + 1),
            _ => return Ok(()),
        }
    }
}

fn read_parameter(builder: &mut Builder, listen: &mut Listen, directive: &Directive, word: &Word) -> Result {
    let (name, value) = word.text.split_once('=').unwrap_or((&word.text, ""));
    match (name, value) {
        ("default_server" | "default", "") => listen.is_default = true,
        ("backlog", count) => {
            let count = values::number(count).filter(|n| *n > 0).and_then(|n| i32::try_from(n).ok());
            listen.options.backlog = count.ok_or_else(|| invalid_value(directive, word, "a number"))?;
            listen.has_socket_options = true;
        }
        ("ipv6only", value) => {
            let value = values::switch(value);
            listen.options.ipv6_only = value.ok_or_else(|| invalid_value(directive, word, "\"on\" or \"off\""))?;
            listen.has_socket_options = true;
        }
        ("ssl", "") if tls::AVAILABLE => listen.tls = true,
        ("ssl", "") => {
            return Err(Error::new(&word.at, "\"listen ... ssl\" is not supported").hint("this build has no TLS"));
        }
        ("proxy_protocol", "") => listen.proxy_protocol = true,
        ("http2" | "spdy", "") => {
            builder.note(&directive.name, "\"http2\": only HTTP/1.1 is supported; clients fall back to it")
        }
        ("reuseport" | "deferred" | "bind", "") => {
            listen.has_socket_options = true;
            builder.note(
                &directive.name,
                "\"reuseport\", \"deferred\" and \"bind\" are ignored: one socket serves all workers",
            );
        }
        ("so_keepalive" | "fastopen" | "rcvbuf" | "sndbuf", _) if is_valid_socket_option(name, value) => {
            listen.has_socket_options = true;
            builder.note(&directive.name, "socket options other than \"backlog\" and \"ipv6only\" are ignored");
        }
        _ => {
            let hint = placeholder_hint(&word.text).unwrap_or_else(|| "not a parameter of \"listen\"".to_owned());
            return Err(word.error("invalid parameter \"{}\"").hint(hint));
        }
    }
    Ok(())
}

/// Returns the sockets of the servers. A wildcard socket also serves the specific addresses of its port, which can't be
/// bound at the same time. Names that an earlier server of the same address has are noted.
pub(crate) fn build_bindings(servers: &[ServerListens], notes: &mut Vec<Note>) -> Result<Vec<Binding>> {
    let nowhere = crate::config::Position { file: u32::MAX, line: 1, column: 1 };
    let word = Word { text: "80".to_owned(), at: nowhere, quoted: false };
    let default_listen = Listen::new(Addr::Ip(SocketAddr::from(([0, 0, 0, 0], 80))), word);
    let mut addrs: Vec<(&Addr, Vec<AddressListen<'_>>)> = Vec::new();
    for ServerListens { server, listens, names } in servers {
        for listen in if listens.is_empty() { std::slice::from_ref(&default_listen) } else { listens.as_slice() } {
            let entry = AddressListen { listen, server, names };
            match addrs.iter_mut().find(|(addr, _)| **addr == listen.addr) {
                Some((_, entries)) => entries.push(entry),
                None => addrs.push((&listen.addr, vec![entry])),
            }
        }
    }
    let mut hosts = Vec::new();
    for (addr, entries) in addrs {
        hosts.push((build_virtual_hosts(addr, &entries, notes)?, socket_options(&entries)?));
    }
    let covers = |wildcard: &Addr, addr: &Addr| match (wildcard, addr) {
        (Addr::Ip(w), Addr::Ip(a)) => {
            w != a && w.ip().is_unspecified() && w.port() == a.port() && w.is_ipv4() == a.is_ipv4()
        }
        _ => false,
    };
    let is_covered = |addr: &Addr| hosts.iter().any(|(other, _)| covers(&other.addr, addr));
    let mut bindings = Vec::new();
    for (virtual_hosts, options) in hosts.iter().filter(|(own, _)| !is_covered(&own.addr)) {
        let addr = virtual_hosts.addr.clone();
        let covered = hosts.iter().filter(|(other, _)| covers(&addr, &other.addr));
        let specific_hosts = covered.map(|(other, _)| other.clone()).collect();
        bindings.push(Binding { addr, options: *options, specific_hosts, virtual_hosts: virtual_hosts.clone() });
    }
    Ok(bindings)
}

/// Returns the options of an address; only one `listen` may set them.
fn socket_options(entries: &[AddressListen<'_>]) -> Result<ListenOptions> {
    let mut with_options = entries.iter().map(|entry| entry.listen).filter(|listen| listen.has_socket_options);
    let (first, second) = (with_options.next(), with_options.next());
    if let (Some(first), Some(second)) = (first, second) {
        let error = Error::new(&second.word.at, format!("duplicate listen options for {}", second.addr));
        return Err(error.first_at(first.word.at));
    }
    Ok(first.map_or(ListenOptions { backlog: BACKLOG, ipv6_only: true }, |listen| listen.options))
}

fn build_virtual_hosts(addr: &Addr, entries: &[AddressListen<'_>], notes: &mut Vec<Note>) -> Result<Arc<VirtualHosts>> {
    let mut defaults = entries.iter().filter(|entry| entry.listen.is_default);
    let default = defaults.next();
    if let (Some(first), Some(second)) = (default, defaults.next()) {
        let error = Error::new(&second.listen.word.at, format!("a duplicate default server for {addr}"));
        return Err(error.first_at(first.listen.word.at));
    }
    let default = default.or(entries.first()).ok_or_else(|| Error::without_position("a listen without a server"))?;
    let captures = |entry: &AddressListen<'_>| entry.names.iter().any(|name| name.expression.is_some());
    let mut names = ServerNames {
        exact: HashMap::new(),
        leading: HashMap::new(),
        trailing: HashMap::new(),
        patterns: Vec::new(),
        default: default.server.clone(),
        has_one_server: entries.len() == 1 && !entries.iter().any(captures),
    };
    for entry in entries {
        // A server without a name has the empty name.
        if entry.names.is_empty() && !insert_if_absent(&mut names.exact, "", entry.server) {
            notes.push(conflicting_name(&entry.listen.word, "", addr));
        }
        for name in entry.names {
            if !names.add(name, entry.server) {
                notes.push(conflicting_name(&name.word, &name.word.text, addr));
            }
        }
    }
    let proxy_protocol = entries.iter().any(|entry| entry.listen.proxy_protocol);
    let tls = entries.iter().any(|entry| entry.listen.tls);
    if tls && names.default.tls.is_none() {
        let message = "no \"ssl_certificate\" is defined for the \"listen ... ssl\" directive";
        return Err(
            Error::new(&default.listen.word.at, message).hint("set \"ssl_certificate\" and \"ssl_certificate_key\"")
        );
    }
    Ok(Arc::new(VirtualHosts { addr: addr.clone(), names, proxy_protocol, tls }))
}

fn conflicting_name(at: &Word, name: &str, addr: &Addr) -> Note {
    let directive = format!("server_name \"{name}\"");
    Note::new(&at.at, directive, format!("an earlier server of {addr} has this name, and gets its requests"))
}

impl ServerNames {
    /// Returns false if an earlier server has the name.
    fn add(&mut self, name: &ServerName, server: &Arc<Server>) -> bool {
        if let Some(expression) = &name.expression {
            self.patterns.push((expression.clone(), server.clone()));
            return true;
        }
        let name = name.word.text.to_ascii_lowercase();
        if let Some(suffix) = name.strip_prefix('*') {
            insert_if_absent(&mut self.leading, suffix, server)
        } else if name.starts_with('.') {
            let is_new = insert_if_absent(&mut self.leading, &name, server);
            insert_if_absent(&mut self.exact, name.trim_start_matches('.'), server) && is_new
        } else if let Some(prefix) = name.strip_suffix('*') {
            insert_if_absent(&mut self.trailing, prefix, server)
        } else {
            insert_if_absent(&mut self.exact, name.strip_suffix('.').unwrap_or(&name), server)
        }
    }
}

/// The first server with a name wins, as in nginx. Returns false if that is another one.
fn insert_if_absent(servers: &mut ByName, name: &str, server: &Arc<Server>) -> bool {
    Arc::ptr_eq(servers.entry(name.into()).or_insert_with(|| server.clone()), server)
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
