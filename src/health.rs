//! Active health checks: peers are asked again and again whether they are well, and get nothing while they are not.
//!
//! One worker watches, for all. A peer is one small task that sleeps most of the time; connections are made anew for each
//! question, which is what is to be found out. Only changes are told in the log.

use std::cell::Cell;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use crate::balance::{Group, Peer};
use crate::config::{ErrorLog, HealthCheck, Level, Probe, Resolver};
use crate::head::{self, Limits, Name, Response, Scan};
use crate::log;
use crate::reactor::{self, Timer};
use crate::running::Running;
use crate::socket::{Addr, Socket};
use crate::wire::{Stream, Unparsed, Wire};

thread_local! {
    /// How often a configuration was taken: tasks of an older one end.
    static GENERATION: Cell<u32> = const { Cell::new(0) };
}

/// Watches the upstreams of a configuration that have a `health_check`, and no others any more.
pub fn watch(running: &Running) {
    let generation = GENERATION.get().wrapping_add(1);
    GENERATION.set(generation);
    for group in running.all_groups() {
        let Some(check) = group.upstream.health.clone() else { continue };
        let main = &running.config.main;
        let watch = Watch { group, check, logs: main.error_log.clone(), generation };
        reactor::spawn(watch.group(main.resolver));
    }
}

/// How one upstream is watched.
#[derive(Clone)]
struct Watch {
    group: Arc<Group>,
    check: Arc<HealthCheck>,
    logs: Arc<[ErrorLog]>,
    generation: u32,
}

impl Watch {
    fn is_over(&self) -> bool {
        GENERATION.get() != self.generation
    }

    /// Starts to watch each peer that comes.
    async fn group(self, resolver: Resolver) {
        let mut watched: Vec<Arc<Peer>> = Vec::new();
        while !self.is_over() {
            self.group.refresh(resolver).await;
            let peers = self.group.peers();
            watched.retain(|peer| peers.iter().any(|known| Arc::ptr_eq(known, peer)));
            for peer in peers {
                if !watched.iter().any(|known| Arc::ptr_eq(known, &peer)) {
                    watched.push(peer.clone());
                    reactor::spawn(self.clone().peer(peer));
                }
            }
            if self.group.is_fixed() {
                return;
            }
            reactor::sleep(self.check.interval).await;
        }
    }

    /// Asks one peer until it is none any more.
    async fn peer(self, peer: Arc<Peer>) {
        let (mut passes, mut fails) = (0u32, 0u32);
        reactor::sleep(self.jitter()).await;
        while !self.is_over() && self.group.has(&peer) {
            let addr = match (&peer.addr, self.check.port) {
                (Addr::Ip(addr), Some(port)) => Addr::Ip((addr.ip(), port).into()),
                (addr, _) => addr.clone(),
            };
            let answer = ask(&addr, &self.check).await;
            if self.is_over() {
                return;
            }
            (passes, fails) = if answer.is_ok() { (passes.saturating_add(1), 0) } else { (0, fails.saturating_add(1)) };
            match answer {
                Ok(()) if peer.is_ill() && passes >= self.check.passes => {
                    self.group.recovered(&peer);
                    self.tell(Level::Notice, &peer, "is healthy");
                }
                Err(why) if !peer.is_ill() && fails >= self.check.fails => {
                    self.group.falls_ill(&peer);
                    self.tell(Level::Warn, &peer, &format!("is unhealthy: {why}"));
                }
                _ => {}
            }
            reactor::sleep(self.check.interval + self.jitter()).await;
        }
    }

    fn jitter(&self) -> Duration {
        let most = u64::try_from(self.check.jitter.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(fastrand::u64(0..=most))
    }

    fn tell(&self, level: Level, peer: &Peer, what: &str) {
        let name = &self.group.upstream.name;
        log::note(&self.logs, level, format_args!("peer {} of upstream \"{name}\" {what}", peer.addr));
    }
}

/// Asks a peer once.
///
/// # Errors
/// What is wrong with it, for the log.
async fn ask(addr: &Addr, check: &HealthCheck) -> Result<(), String> {
    let answer = Timer::new().within(check.timeout, probe(addr, &check.probe)).await;
    answer.unwrap_or_else(|reactor::Elapsed| Err("no answer in time".to_owned()))
}

async fn probe(addr: &Addr, probe: &Probe) -> Result<(), String> {
    let failed = |what: &str, error: &std::io::Error| format!("{what}() failed ({})", log::describe(error));
    let socket = Socket::connect(addr, None).await.map_err(|error| failed("connect", &error))?;
    let mut wire = Wire::new(Stream::Plain(socket));
    let Some(request) = request(probe) else { return Ok(()) };
    let mut sent = 0;
    while let Some(rest) = request.get(sent..).filter(|rest| !rest.is_empty()) {
        sent += poll_fn(|cx| wire.stream.poll_write(cx, rest)).await.map_err(|error| failed("send", &error))?;
    }
    let head = answer(&mut wire).await?;
    match probe {
        Probe::Tcp => Ok(()),
        Probe::Http { good, .. } if good.has(head.status) => Ok(()),
        Probe::WebSocket { .. } if is_websocket(&head) => Ok(()),
        Probe::Http { .. } | Probe::WebSocket { .. } => Err(format!("it answers with status {}", head.status)),
    }
}

fn is_websocket(head: &Response) -> bool {
    let upgrade = head.fields.first(Name::Upgrade).is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"));
    head.status == 101 && upgrade && head.fields.has_token(Name::Connection, "upgrade")
}

/// The bytes of a question; none, if that is only whether there is a connection.
fn request(probe: &Probe) -> Option<Vec<u8>> {
    let (host, uri, fields) = match probe {
        Probe::Tcp => return None,
        Probe::Http { host, uri, .. } => (host, uri, "Connection: close\r\n".to_owned()),
        Probe::WebSocket { host, uri } => {
            let key = data_encoding::BASE64.encode(&fastrand::u128(..).to_ne_bytes());
            let rest = format!("Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n");
            (host, uri, format!("Upgrade: websocket\r\nConnection: Upgrade\r\n{rest}"))
        }
    };
    let agent = concat!("smolgate/", env!("CARGO_PKG_VERSION"), " (health check)");
    Some(format!("GET {uri} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\n{fields}\r\n").into_bytes())
}

/// The head of the answer; interim ones are passed over, but for the 101 that is asked for.
async fn answer(wire: &mut Wire) -> Result<Response, String> {
    let limits = Limits { line_bytes_max: head::RESPONSE_BYTES_MAX, head_bytes_max: head::RESPONSE_BYTES_MAX };
    loop {
        let mut scan = Scan::response();
        let mut parse = |bytes: &[u8]| {
            let Some((start, end)) = scan.find_end(bytes, limits)? else { return Ok(None) };
            Response::parse(bytes.get(start..end).unwrap_or_default()).map(|head| Some((head, end)))
        };
        let mut reader = wire.reader();
        let head = match poll_fn(|cx| reader.poll_parse(cx, &mut parse)).await {
            Ok(head) => head,
            Err(Unparsed::Nothing | Unparsed::Cut) => return Err("it closes the connection".to_owned()),
            Err(Unparsed::Failed(error)) => return Err(format!("recv() failed ({})", log::describe(&error))),
            Err(Unparsed::Malformed(why)) => return Err(format!("it sends {why}")),
        };
        if head.status == 101 || head.status >= 200 {
            return Ok(head);
        }
    }
}
