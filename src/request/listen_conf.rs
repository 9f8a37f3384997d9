//! `listen` and `server_name`: which sockets to open, and which server a request on one of them is for.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::arguments::{arg, invalid};
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Error, Result, Word, placeholder};
use crate::config::{HostName, Server, values};
use crate::modules::map::conf::Expression;
use crate::regex::Captures;
use crate::runtime::socket::{Addr, ListenOptions};
use crate::tls::{self, ServerTls};

/// Connections that wait to be accepted, if `backlog=` does not say: devices come back in herds.
const BACKLOG: i32 = 4096;

/// One `listen`.
#[derive(Clone, Debug)]
pub(crate) struct ListenLine {
    addr: Addr,
    options: ListenOptions,
    /// Whether something beside the address was said of the socket.
    explicit: bool,
    default: bool,
    proxied: bool,
    tls: bool,
    word: Word,
}

impl ListenLine {
    fn new(addr: Addr, word: Word) -> Self {
        let options = ListenOptions { backlog: BACKLOG, ipv6_only: true };
        Self { addr, options, explicit: false, default: false, proxied: false, tls: false, word }
    }

    /// As if it said `ssl`.
    pub(crate) fn secure(&mut self) {
        self.tls = true;
    }
}

/// One word of a `server_name`.
#[derive(Clone, Debug)]
pub(crate) struct ServerName {
    pub(crate) word: Word,
    expression: Option<Arc<Expression>>,
}

impl ServerName {
    pub(crate) fn host_name(&self) -> HostName {
        match &self.expression {
            Some(expression) => HostName::Pattern(expression.clone()),
            None => HostName::new(&self.word.text),
        }
    }
}

/// A server, its addresses and its names.
pub(crate) type Served = (Arc<Server>, Vec<ListenLine>, Vec<ServerName>);

/// One line that serves an address.
type Line<'s> = (&'s ListenLine, &'s Arc<Server>, &'s [ServerName]);

/// A socket to open, and what is behind it.
#[derive(Debug)]
pub struct Binding {
    pub addr: Addr,
    pub options: ListenOptions,
    /// Groups of addresses that this socket also serves because it is bound to a wildcard.
    pub specific: Vec<Arc<VirtualHosts>>,
    pub group: Arc<VirtualHosts>,
}

/// The servers of one `listen` address.
#[derive(Debug)]
pub struct VirtualHosts {
    pub addr: Addr,
    pub names: Names,
    /// Connections start with the PROXY protocol.
    pub proxied: bool,
    /// Connections begin with a handshake.
    pub tls: bool,
}

type ByName = HashMap<Vec<u8>, Arc<Server>>;

/// Server names of one address (nginx's order: exact, longest `*.x`, longest `x.*`, expressions as they come).
#[derive(Debug)]
pub struct Names {
    exact: ByName,
    /// `.example.com` for `*.example.com`.
    leading: ByName,
    /// `example.` for `example.*`.
    trailing: ByName,
    patterns: Vec<(Arc<Expression>, Arc<Server>)>,
    default: Arc<Server>,
    /// There is no other server than the default one, and no expression that captures.
    alone: bool,
}

/// A server, and what an expression in its name captured.
pub struct Found<'n> {
    pub server: &'n Arc<Server>,
    pub captures: Option<(&'n Expression, Captures)>,
}

impl Names {
    /// The server for `host`, which is in lower case.
    pub fn find(&self, host: &str) -> Found<'_> {
        let found = |server| Found { server, captures: None };
        if self.alone {
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
                return Found { server, captures: Some((expression, captures)) };
            }
        }
        found(&self.default)
    }

    /// How the handshake is made for `name`.
    pub fn site(&self, name: Option<&str>) -> Option<Arc<ServerTls>> {
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
        let odd = |c: char| c == '*' || c == '/' || c == '<' || c == '>' || c == '{';
        if !name.starts_with('~') && (middle.contains(odd) || name.starts_with("http:") || name.starts_with("https:")) {
            return Err(invalid(directive, word, "a name, *.name, name.*, or ~ and an expression"));
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
        Some("") => return Err(invalid(directive, word, "a path after \"unix:\"")),
        Some(path) => (Addr::Unix(Arc::from(path)), 0),
        None => {
            let expected = "a port from 1 to 65535, an address, address:port, or unix:/path";
            let addrs = values::listen_addrs(&word.text).ok_or_else(|| invalid(directive, word, expected))?;
            (Addr::Ip(addrs.0), addrs.1)
        }
    };
    let mut line = ListenLine::new(addr, word.clone());
    for word in directive.args.iter().skip(1) {
        let (name, value) = word.text.split_once('=').unwrap_or((&word.text, ""));
        match (name, value) {
            ("default_server" | "default", "") => line.default = true,
            ("backlog", count) => {
                let count = values::number(count).filter(|n| *n > 0).and_then(|n| i32::try_from(n).ok());
                line.options.backlog = count.ok_or_else(|| invalid(directive, word, "a number"))?;
                line.explicit = true;
            }
            ("ipv6only", value) => {
                let value = values::switch(value);
                line.options.ipv6_only = value.ok_or_else(|| invalid(directive, word, "\"on\" or \"off\""))?;
                line.explicit = true;
            }
            ("quic", "") => {
                builder.note(&directive.name, "HTTP/3 is not spoken: this address is not listened on for it");
                return Ok(());
            }
            ("ssl", "") if tls::AVAILABLE => line.tls = true,
            ("ssl", "") => {
                return Err(Error::new(&word.at, "\"listen ... ssl\" is not supported").hint("this build has no TLS"));
            }
            ("proxy_protocol", "") => line.proxied = true,
            ("http2" | "spdy", "") => {
                builder.note(&directive.name, "\"http2\": HTTP/1.1 is spoken; clients fall back to it")
            }
            ("reuseport" | "deferred" | "bind", "") => {
                line.explicit = true;
                builder
                    .note(&directive.name, "\"reuseport\", \"deferred\" and \"bind\": one socket serves all workers");
            }
            ("so_keepalive" | "fastopen" | "rcvbuf" | "sndbuf", _) if is_socket_option(name, value) => {
                line.explicit = true;
                builder.note(&directive.name, "socket options but \"backlog\" and \"ipv6only\" are the system's");
            }
            _ => {
                let error = word.wrong("invalid parameter \"{}\"");
                return Err(error.hint(placeholder(&word.text).unwrap_or_else(|| "of \"listen\"".to_owned())));
            }
        }
    }
    loop {
        if block.listens.iter().any(|known| known.addr == line.addr) {
            return Err(word.wrong("a duplicate listen {}").hint("this server has it already"));
        }
        block.listens.push(line.clone());
        match &mut line.addr {
            Addr::Ip(addr) if addr.port() < last_port => addr.set_port(addr.port() + 1),
            _ => return Ok(()),
        }
    }
}

/// Servers to sockets: a wildcard socket also serves the specific addresses of its port, which can't be bound beside it.
pub(crate) fn bind(servers: &[Served]) -> Result<Vec<Binding>> {
    let nowhere = crate::config::Position { file: u32::MAX, line: 1, column: 1 };
    let word = Word { text: "80".to_owned(), at: nowhere, quoted: false };
    let unsaid = ListenLine::new(Addr::Ip(SocketAddr::from(([0, 0, 0, 0], 80))), word);
    let mut addrs: Vec<(&Addr, Vec<Line<'_>>)> = Vec::new();
    for (server, listens, names) in servers {
        for line in if listens.is_empty() { std::slice::from_ref(&unsaid) } else { listens.as_slice() } {
            let line = (line, server, names.as_slice());
            match addrs.iter_mut().find(|(addr, _)| **addr == line.0.addr) {
                Some((_, lines)) => lines.push(line),
                None => addrs.push((&line.0.addr, vec![line])),
            }
        }
    }
    let mut groups = Vec::new();
    for (addr, lines) in addrs {
        groups.push((group(addr, &lines)?, options(&lines)?));
    }
    let covers = |wild: &Addr, addr: &Addr| match (wild, addr) {
        (Addr::Ip(w), Addr::Ip(a)) => {
            w != a && w.ip().is_unspecified() && w.port() == a.port() && w.is_ipv4() == a.is_ipv4()
        }
        _ => false,
    };
    let covered = |addr: &Addr| groups.iter().any(|(group, _)| covers(&group.addr, addr));
    let mut bindings = Vec::new();
    for (group, options) in groups.iter().filter(|(group, _)| !covered(&group.addr)) {
        let mut specific = Vec::new();
        for (other, _) in groups.iter().filter(|(other, _)| covers(&group.addr, &other.addr)) {
            specific.push(other.clone());
        }
        bindings.push(Binding { addr: group.addr.clone(), options: *options, specific, group: group.clone() });
    }
    Ok(bindings)
}

/// The options of an address may be said once.
fn options(lines: &[Line<'_>]) -> Result<ListenOptions> {
    let mut said = lines.iter().filter(|(line, ..)| line.explicit).map(|(line, ..)| line);
    let (first, second) = (said.next(), said.next());
    if let Some(second) = second {
        return Err(Error::new(&second.word.at, format!("duplicate listen options for {}", second.addr)));
    }
    Ok(first.map_or(ListenOptions { backlog: BACKLOG, ipv6_only: true }, |line| line.options))
}

fn group(addr: &Addr, lines: &[Line<'_>]) -> Result<Arc<VirtualHosts>> {
    let mut defaults = lines.iter().filter(|(line, ..)| line.default);
    let default = defaults.next();
    if let Some((line, ..)) = defaults.next() {
        return Err(Error::new(&line.word.at, format!("a duplicate default server for {addr}")));
    }
    let first = default.or(lines.first()).ok_or_else(|| Error::nowhere("a listen without a server"))?;
    let mut names = Names {
        exact: HashMap::new(),
        leading: HashMap::new(),
        trailing: HashMap::new(),
        patterns: Vec::new(),
        default: first.1.clone(),
        alone: lines.len() == 1 && lines.iter().all(|(_, _, names)| names.iter().all(|name| name.expression.is_none())),
    };
    for (_, server, words) in lines {
        // A server without a name has the empty one.
        if words.is_empty() {
            keep(&mut names.exact, "", server);
        }
        for name in *words {
            names.add(name, server);
        }
    }
    let proxied = lines.iter().any(|(line, ..)| line.proxied);
    let tls = lines.iter().any(|(line, ..)| line.tls);
    if tls && names.default.tls.is_none() {
        let message = "no \"ssl_certificate\" is defined for the \"listen ... ssl\" directive";
        return Err(Error::new(&first.0.word.at, message)
            .hint("\"ssl_certificate\" and \"ssl_certificate_key\" name its files"));
    }
    Ok(Arc::new(VirtualHosts { addr: addr.clone(), names, proxied, tls }))
}

impl Names {
    fn add(&mut self, name: &ServerName, server: &Arc<Server>) {
        if let Some(expression) = &name.expression {
            self.patterns.push((expression.clone(), server.clone()));
            return;
        }
        let name = name.word.text.to_ascii_lowercase();
        if let Some(suffix) = name.strip_prefix('*') {
            keep(&mut self.leading, suffix, server);
        } else if name.starts_with('.') {
            keep(&mut self.leading, &name, server);
            keep(&mut self.exact, name.trim_start_matches('.'), server);
        } else if let Some(prefix) = name.strip_suffix('*') {
            keep(&mut self.trailing, prefix, server);
        } else {
            keep(&mut self.exact, name.strip_suffix('.').unwrap_or(&name), server);
        }
    }
}

/// The first server of a name keeps it, as in nginx (which warns of the others).
fn keep(servers: &mut ByName, name: &str, server: &Arc<Server>) {
    servers.entry(name.into()).or_insert_with(|| server.clone());
}

/// Whether an option of sockets, which is the system's here, has a value that it can have.
fn is_socket_option(name: &str, value: &str) -> bool {
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
