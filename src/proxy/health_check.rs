//! Active health checks: peers are asked again and again whether they are well, and get nothing while they are not.
//!
//! One worker watches, for all. A peer is one small task that sleeps most of the time; connections are made anew for each
//! question, which is what is to be found out. Only changes are told in the log. That we could not ask, for want of
//! descriptors, says nothing of a peer.

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{ErrorLog, HealthCheck, HealthMatch, Level, Probe};
use crate::http1::body::Decoder;
use crate::http1::head::{HeadScanner, HeaderName, Response};
use crate::http1::{base64, websocket};
use crate::proxy::balance::{Finding, Peer, UpstreamState};
use crate::proxy::live::Live;
use crate::request::body_relay::send_all;
use crate::request::log;
use crate::runtime::executor::{self, Task, Timer};
use crate::runtime::handover::{self, HandoverDecoder, HandoverEncoder};
use crate::runtime::io_error;
use crate::runtime::socket::{self, Addr, Socket};
use crate::runtime::stream::{BufStream, ReadError, Stream};
use crate::tls;

/// Bytes of a body that are looked at.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// How long names are waited for before those that are known are watched.
const NAMES: Duration = Duration::from_secs(30);
/// The checks of a configuration, which end when this is dropped.
pub struct HealthChecks {
    _groups: Vec<Task>,
}

/// Watches the upstreams of a configuration that have a `health_check`.
pub fn watch(running: &Live) -> HealthChecks {
    let main = &running.config.main;
    let watch = |group: Arc<UpstreamState>| {
        let check = group.upstream.health.clone()?;
        let watch = Checker { group, check, logs: main.error_log.clone() };
        executor::spawn_with_handle(watch.group())
    };
    HealthChecks { _groups: checked(running).into_iter().filter_map(watch).collect() }
}

/// The upstreams that have a `health_check`.
fn checked(running: &Live) -> Vec<Arc<UpstreamState>> {
    if !HealthCheck::AVAILABLE {
        return Vec::new();
    }
    running.all_groups().into_iter().filter(|group| group.upstream.health.is_some()).collect()
}

/// Packs what was found out, for the next program.
pub fn pack(running: &Live, packer: &mut HandoverEncoder) {
    for group in checked(running) {
        for peer in group.peers() {
            let mut found = HandoverEncoder::default();
            found.string(&group.upstream.name);
            found.string(&peer.addr);
            found.u8(peer.finding() as u8);
            packer.entry(handover::PEER_HEALTH, found);
        }
    }
}

/// Takes what the program before has found out about peers that are still checked. The rest comes back.
pub fn inherit(running: &Live, mut parcel: HandoverDecoder) -> HandoverEncoder {
    let mut rest = HandoverEncoder::default();
    while let Some((kind, mut content)) = parcel.entry() {
        if kind != handover::PEER_HEALTH {
            rest.entry(kind, content.into_encoder());
            continue;
        }
        let (Some(name), Some(addr), Some(finding)) = (content.string(), content.string(), content.u8()) else {
            continue;
        };
        for group in checked(running).into_iter().filter(|group| group.upstream.name == name) {
            for peer in group.peers() {
                if peer.addr.to_string() == addr {
                    peer.find(Finding::from(finding));
                }
            }
        }
    }
    rest
}

/// How one upstream is watched.
#[derive(Clone)]
struct Checker {
    group: Arc<UpstreamState>,
    check: Arc<HealthCheck>,
    logs: Arc<[ErrorLog]>,
}

impl Checker {
    /// Watches each peer as long as it is one.
    async fn group(self) {
        let mut watched: Vec<(Arc<Peer>, Option<Task>)> = Vec::new();
        loop {
            if let Some(complaint) = self.group.refresh(NAMES).await {
                log::log(&self.logs, Level::Warn, format_args!("{complaint}"));
            }
            let peers = self.group.peers();
            watched.retain(|(peer, _)| peers.iter().any(|known| Arc::ptr_eq(known, peer)));
            for peer in peers {
                if !watched.iter().any(|(known, _)| Arc::ptr_eq(known, &peer)) {
                    let task = executor::spawn_with_handle(self.clone().peer(peer.clone()));
                    watched.push((peer, task));
                }
            }
            if self.group.is_fixed() {
                return pending().await;
            }
            executor::sleep(self.group.until_stale()).await;
        }
    }

    /// Asks one peer again and again.
    async fn peer(self, peer: Arc<Peer>) {
        let (mut passes, mut fails) = (0u32, 0u32);
        if peer.finding() != Finding::Awaited {
            executor::sleep(self.jitter()).await;
        }
        loop {
            let answer = self.ask(&peer).await;
            match &answer {
                Answer::Good => (passes, fails) = (passes.saturating_add(1), 0),
                Answer::Bad(_) => (passes, fails) = (0, fails.saturating_add(1)),
                Answer::Unasked => {}
            }
            match (answer, peer.finding()) {
                (Answer::Good, Finding::Ill) if passes >= self.check.passes => self.is_well(&peer),
                (Answer::Good, Finding::Awaited) => self.is_well(&peer),
                (Answer::Bad(why), Finding::Well) if fails >= self.check.fails => self.is_ill(&peer, &why),
                (Answer::Bad(why), Finding::Awaited) => self.is_ill(&peer, &why),
                _ => {}
            }
            executor::sleep(self.check.interval + self.jitter()).await;
        }
    }

    fn jitter(&self) -> Duration {
        Duration::from_millis(fastrand::u64(0..=executor::millis(self.check.jitter)))
    }

    fn is_well(&self, peer: &Arc<Peer>) {
        self.group.recovers(peer);
        self.tell(Level::Notice, peer, "is healthy");
    }

    fn is_ill(&self, peer: &Peer, why: &str) {
        peer.find(Finding::Ill);
        self.tell(Level::Warn, peer, &format!("is unhealthy: {why}"));
    }

    fn tell(&self, level: Level, peer: &Peer, what: &str) {
        let name = &self.group.upstream.name;
        log::log(&self.logs, level, format_args!("peer {} of upstream \"{name}\" {what}", peer.addr));
    }

    /// Asks a peer once.
    async fn ask(&self, peer: &Peer) -> Answer {
        let addr = match (&peer.addr, self.check.port) {
            (Addr::Ip(addr), Some(port)) => Addr::Ip((addr.ip(), port).into()),
            (addr, _) => addr.clone(),
        };
        let asked = Timer::new().within(self.check.timeout, pin!(probe(&addr, &self.check))).await;
        let answer = asked.unwrap_or_else(|executor::Elapsed| Answer::Bad("no answer in time".to_owned()));
        peer.count_check(matches!(answer, Answer::Bad(_)));
        answer
    }
}

/// What a peer says of itself.
enum Answer {
    Good,
    /// What is wrong with it, for the log.
    Bad(String),
    Unasked,
}

async fn probe(addr: &Addr, check: &HealthCheck) -> Answer {
    let socket = match Socket::connect(addr, None).await {
        Ok(socket) => socket,
        Err(error) if socket::is_shortage(&error) => return Answer::Unasked,
        Err(error) => return Answer::Bad(format!("connect() failed ({})", io_error::describe(&error))),
    };
    match question(socket, check).await {
        Ok(()) => Answer::Good,
        Err(why) => Answer::Bad(why),
    }
}

async fn question(socket: Socket, check: &HealthCheck) -> Result<(), String> {
    if matches!(check.probe, Probe::Tcp) {
        return Ok(());
    }
    let stream = match check.tls.as_ref().filter(|_| tls::AVAILABLE) {
        None => Stream::Plain(socket),
        Some((client, name)) => {
            let secured = Box::pin(tls::connect(socket, client, name)).await;
            let failed = |error| format!("SSL_do_handshake() failed ({})", io_error::describe(&error));
            Stream::Secure(secured.map_err(failed)?)
        }
    };
    let mut wire = BufStream::new(stream);
    match &check.probe {
        Probe::Tcp => Ok(()),
        Probe::Http { host, uri, good } => {
            let head = send(&mut wire, host, uri, "Connection: close\r\n", check.timeout).await?;
            judge(&mut wire, good, &head).await
        }
        Probe::WebSocket { host, uri } => {
            let key = base64::encode(&fastrand::u128(..).to_ne_bytes());
            let fields = format!(
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            );
            let head = send(&mut wire, host, uri, &fields, check.timeout).await?;
            agreed(&head, &key)?;
            let farewell = websocket::going_away_frame(Some(fastrand::u32(..).to_ne_bytes()));
            let _ = send_all(&wire.stream, &farewell, check.timeout).await;
            Ok(())
        }
    }
}

/// Sends a request, and waits for the head of the answer.
async fn send(
    wire: &mut BufStream,
    host: &str,
    uri: &str,
    fields: &str,
    timeout: Duration,
) -> Result<Response, String> {
    let agent = concat!("smolgate/", env!("CARGO_PKG_VERSION"), " (health check)");
    let request = format!("GET {uri} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\n{fields}\r\n");
    send_all(&wire.stream, request.as_bytes(), timeout).await.map_err(|_| "it takes no request".to_owned())?;
    answer(wire).await
}

/// Whether an answer is as it should be.
async fn judge(wire: &mut BufStream, good: &HealthMatch, head: &Response) -> Result<(), String> {
    if let Some(objection) = good.objection(head) {
        return Err(objection);
    }
    if good.has_body() && !good.takes_body(&body(wire, head).await?) {
        return Err("the body of its answer does not match".to_owned());
    }
    Ok(())
}

/// Whether a peer has taken the upgrade (RFC 6455 4.1).
fn agreed(head: &Response, key: &str) -> Result<(), String> {
    if head.status != 101 {
        return Err(format!("it answers with status {}", head.status));
    }
    let upgrade = head.headers.first(HeaderName::Upgrade).is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"));
    let accept = websocket::accept_key(key.as_bytes());
    let accepts = head.headers.all_named(b"sec_websocket_accept").any(|value| value == accept.as_bytes());
    if upgrade && accepts && head.headers.has_token(HeaderName::Connection, "upgrade") {
        return Ok(());
    }
    Err("its 101 is not that of a WebSocket".to_owned())
}

/// The head of the answer; interim ones are passed over, but for the 101 that is asked for.
async fn answer(wire: &mut BufStream) -> Result<Response, String> {
    loop {
        let mut scan = HeadScanner::for_response();
        let mut parse = |bytes: &[u8]| scan.parse_response(bytes);
        let mut reader = wire.reader();
        let head = match poll_fn(|cx| reader.poll_parse(cx, &mut parse)).await {
            Ok(head) => head,
            Err(ReadError::Nothing | ReadError::Cut) => return Err("it closes the connection".to_owned()),
            Err(ReadError::Failed(error)) => return Err(format!("recv() failed ({})", io_error::describe(&error))),
            Err(ReadError::Malformed(why)) => return Err(format!("it sends {why}")),
        };
        if head.status == 101 || head.status >= 200 {
            return Ok(head);
        }
    }
}

/// The body of the answer, as far as it is looked at.
async fn body(wire: &mut BufStream, head: &Response) -> Result<Vec<u8>, String> {
    let mut decoder = Decoder::new(head.framing(false));
    let mut body = Vec::new();
    while !decoder.is_done() && body.len() < BODY_BYTES_MAX {
        let mut reader = wire.reader();
        let mut take = |bytes: &[u8]| match decoder.decode(bytes) {
            _ if bytes.is_empty() => (0, Ok(true)),
            Ok(piece) => {
                body.extend_from_slice(piece.data);
                (piece.used, Ok(false))
            }
            Err(why) => (0, Err(format!("it sends {why}"))),
        };
        let read = poll_fn(|cx| reader.poll_bytes(cx, |_, bytes| take(bytes))).await;
        match read.map_err(|error| format!("recv() failed ({})", io_error::describe(&error)))? {
            Ok(false) => {}
            Ok(true) if decoder.ends_with_stream() => break,
            Ok(true) => return Err("its answer breaks off".to_owned()),
            Err(why) => return Err(why),
        }
    }
    body.truncate(BODY_BYTES_MAX);
    Ok(body)
}
