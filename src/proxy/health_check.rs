//! Active health checks (`health_check`): each peer is probed at intervals, and gets no requests while it is unhealthy.
//!
//! One worker runs the checks for all. Each peer has one small task, and each probe opens a new connection, since accepting
//! connections is part of being healthy. Only changes are logged. A probe that fails for want of local descriptors counts
//! neither way.

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{ErrorLog, HealthCheck, HealthMatch, Level, Probe};
use crate::http1::body::Decoder;
use crate::http1::head::{HeadScanner, HeaderName, RESPONSE_BYTES_MAX, Response};
use crate::http1::{base64, websocket};
use crate::proxy::balance::{Health, Peer, UpstreamState};
use crate::proxy::live::Live;
use crate::request::log;
use crate::request::send_queue::send_all;
use crate::runtime::executor::{self, Task, Timer};
use crate::runtime::handover::{self, HandoverDecoder, HandoverEncoder};
use crate::runtime::io_error;
use crate::runtime::socket::{self, Addr, Socket};
use crate::runtime::stream::{BufStream, ReadError, Stream};
use crate::tls;

/// Bytes of a body that are read.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// How long to wait for DNS before the known peers are checked.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(30);

/// The live checks of a configuration, stopped when this is dropped.
pub struct HealthChecks {
    _tasks: Vec<Task>,
}

/// Starts the checks of a configuration.
pub fn start(live: &Live) -> HealthChecks {
    let main = &live.config.main;
    let check = |group: Arc<UpstreamState>| {
        let check = group.upstream.health_check.clone()?;
        let checker = Checker { group, check, logs: main.error_log.clone() };
        executor::spawn_with_handle(checker.check_upstream())
    };
    HealthChecks { _tasks: checked_upstreams(live).into_iter().filter_map(check).collect() }
}

/// Returns the upstreams with a `health_check`.
fn checked_upstreams(live: &Live) -> Vec<Arc<UpstreamState>> {
    if !HealthCheck::AVAILABLE {
        return Vec::new();
    }
    live.all_upstreams().into_iter().filter(|group| group.upstream.health_check.is_some()).collect()
}

/// Appends the health of all checked peers, for a binary upgrade.
pub fn encode(live: &Live, out: &mut HandoverEncoder) {
    for group in checked_upstreams(live) {
        for peer in group.peers() {
            let mut entry = HandoverEncoder::default();
            entry.string(&group.upstream.name);
            entry.string(&peer.addr);
            entry.u8(peer.health() as u8);
            out.entry(handover::PEER_HEALTH, entry);
        }
    }
}

/// Restores the health of peers that are still checked after a binary upgrade. Returns the entries of other kinds.
pub fn restore(live: &Live, mut entries: HandoverDecoder) -> HandoverEncoder {
    let mut rest = HandoverEncoder::default();
    while let Some((kind, mut content)) = entries.entry() {
        if kind != handover::PEER_HEALTH {
            rest.entry(kind, content.into_encoder());
            continue;
        }
        let (Some(name), Some(addr), Some(health)) = (content.string(), content.string(), content.u8()) else {
            continue;
        };
        for group in checked_upstreams(live).into_iter().filter(|group| group.upstream.name == name) {
            for peer in group.peers() {
                if peer.addr.to_string() == addr {
                    peer.set_health(Health::from(health));
                }
            }
        }
    }
    rest
}

/// What the tasks of one upstream share.
#[derive(Clone)]
struct Checker {
    group: Arc<UpstreamState>,
    check: Arc<HealthCheck>,
    logs: Arc<[ErrorLog]>,
}

impl Checker {
    /// Runs a task for each peer, as long as it is one of the upstream.
    async fn check_upstream(self) {
        let mut tasks: Vec<(Arc<Peer>, Option<Task>)> = Vec::new();
        loop {
            if let Some(warning) = self.group.refresh(RESOLVE_TIMEOUT).await {
                log::log(&self.logs, Level::Warn, format_args!("{warning}"));
            }
            let peers = self.group.peers();
            tasks.retain(|(peer, _)| peers.iter().any(|known| Arc::ptr_eq(known, peer)));
            for peer in peers {
                if !tasks.iter().any(|(known, _)| Arc::ptr_eq(known, &peer)) {
                    let task = executor::spawn_with_handle(self.clone().check_peer(peer.clone()));
                    tasks.push((peer, task));
                }
            }
            if self.group.has_fixed_peers() {
                return pending().await;
            }
            executor::sleep(self.group.until_stale()).await;
        }
    }

    /// Probes one peer until the task is dropped.
    async fn check_peer(self, peer: Arc<Peer>) {
        let (mut passes, mut fails) = (0u32, 0u32);
        if peer.health() != Health::Unknown {
            executor::sleep(self.jitter()).await;
        }
        loop {
            let result = self.check_once(&peer).await;
            match &result {
                ProbeResult::Pass => (passes, fails) = (passes.saturating_add(1), 0),
                ProbeResult::Fail(_) => (passes, fails) = (0, fails.saturating_add(1)),
                ProbeResult::Skipped => {}
            }
            match (result, peer.health()) {
                (ProbeResult::Pass, Health::Unhealthy) if passes >= self.check.passes => self.mark_healthy(&peer),
                (ProbeResult::Pass, Health::Unknown) => self.mark_healthy(&peer),
                (ProbeResult::Fail(why), Health::Healthy) if fails >= self.check.fails => {
                    self.mark_unhealthy(&peer, &why)
                }
                (ProbeResult::Fail(why), Health::Unknown) => self.mark_unhealthy(&peer, &why),
                _ => {}
            }
            executor::sleep(self.check.interval + self.jitter()).await;
        }
    }

    fn jitter(&self) -> Duration {
        Duration::from_millis(fastrand::u64(0..=executor::millis(self.check.jitter)))
    }

    fn mark_healthy(&self, peer: &Arc<Peer>) {
        self.group.mark_recovered(peer);
        self.log_peer(Level::Notice, peer, "is healthy");
    }

    fn mark_unhealthy(&self, peer: &Peer, why: &str) {
        peer.set_health(Health::Unhealthy);
        self.log_peer(Level::Warn, peer, &format!("is unhealthy: {why}"));
    }

    fn log_peer(&self, level: Level, peer: &Peer, event: &str) {
        let name = &self.group.upstream.name;
        log::log(&self.logs, level, format_args!("peer {} of upstream \"{name}\" {event}", peer.addr));
    }

    async fn check_once(&self, peer: &Peer) -> ProbeResult {
        let addr = match (&peer.addr, self.check.port) {
            (Addr::Ip(addr), Some(port)) => Addr::Ip((addr.ip(), port).into()),
            (addr, _) => addr.clone(),
        };
        let result = Timer::new().within(self.check.timeout, pin!(probe(&addr, &self.check))).await;
        let result = result.unwrap_or_else(|executor::Elapsed| ProbeResult::Fail("timed out".to_owned()));
        peer.count_check(matches!(result, ProbeResult::Fail(_)));
        result
    }
}

enum ProbeResult {
    Pass,
    /// With the reason, for the log.
    Fail(String),
    /// The probe could not be made.
    Skipped,
}

async fn probe(addr: &Addr, check: &HealthCheck) -> ProbeResult {
    let socket = match Socket::connect(addr, None).await {
        Ok(socket) => socket,
        Err(error) if socket::is_out_of_resources(&error) => return ProbeResult::Skipped,
        Err(error) => return ProbeResult::Fail(format!("connect() failed ({})", io_error::describe(&error))),
    };
    match run_probe(socket, check).await {
        Ok(()) => ProbeResult::Pass,
        Err(why) => ProbeResult::Fail(why),
    }
}

async fn run_probe(socket: Socket, check: &HealthCheck) -> Result<(), String> {
    if matches!(check.probe, Probe::Tcp) {
        return Ok(());
    }
    let stream = match check.tls.as_ref().filter(|_| tls::AVAILABLE) {
        None => Stream::Plain(socket),
        Some((client, name)) => {
            let tls = Box::pin(tls::connect(socket, client, name)).await;
            let failed = |error| format!("SSL_do_handshake() failed ({})", io_error::describe(&error));
            Stream::Secure(tls.map_err(failed)?)
        }
    };
    let mut stream = BufStream::new(stream);
    match &check.probe {
        Probe::Tcp => Ok(()),
        Probe::Http { host, uri, expected } => {
            let head = exchange_heads(&mut stream, host, uri, "Connection: close\r\n", check.timeout).await?;
            check_response(&mut stream, expected, &head).await
        }
        Probe::WebSocket { host, uri } => {
            let key = base64::encode(&fastrand::u128(..).to_ne_bytes());
            let headers = format!(
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            );
            let head = exchange_heads(&mut stream, host, uri, &headers, check.timeout).await?;
            check_upgrade(&head, &key)?;
            let close = websocket::going_away_frame(Some(fastrand::u32(..).to_ne_bytes()));
            let _ = send_all(&stream.stream, close, check.timeout).await;
            Ok(())
        }
    }
}

/// Sends a request, and reads the head of the response.
async fn exchange_heads(
    stream: &mut BufStream,
    host: &str,
    uri: &str,
    headers: &str,
    timeout: Duration,
) -> Result<Response, String> {
    let agent = concat!("smolgate/", env!("CARGO_PKG_VERSION"), " (health check)");
    let request = format!("GET {uri} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\n{headers}\r\n");
    send_all(&stream.stream, request.into_bytes(), timeout)
        .await
        .map_err(|_| "sending the request failed".to_owned())?;
    read_head(stream).await
}

/// Checks a response against the `match` block.
async fn check_response(stream: &mut BufStream, expected: &HealthMatch, head: &Response) -> Result<(), String> {
    if let Some(why) = expected.mismatch(head) {
        return Err(why);
    }
    if expected.tests_body() && !expected.matches_body(&read_body(stream, head).await?) {
        return Err("response body does not match".to_owned());
    }
    Ok(())
}

/// Checks the response to the upgrade request (RFC 6455 4.1).
fn check_upgrade(head: &Response, key: &str) -> Result<(), String> {
    if head.status != 101 {
        return Err(format!("status {}", head.status));
    }
    let upgrade = head.headers.first(HeaderName::Upgrade).is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"));
    let accept = websocket::accept_key(key.as_bytes());
    let accepts = head.headers.all_named(b"sec_websocket_accept").any(|value| value == accept.as_bytes());
    if upgrade && accepts && head.headers.has_token(HeaderName::Connection, "upgrade") {
        return Ok(());
    }
    Err("invalid WebSocket handshake".to_owned())
}

/// Reads the head of the final response, or of a 101; skips other interim ones.
async fn read_head(stream: &mut BufStream) -> Result<Response, String> {
    loop {
        let mut scan = HeadScanner::for_response();
        let mut parse = |bytes: &[u8]| scan.parse_response(bytes, RESPONSE_BYTES_MAX);
        let mut reader = stream.reader();
        let head = match poll_fn(|cx| reader.poll_parse(cx, &mut parse)).await {
            Ok(head) => head,
            Err(ReadError::Eof | ReadError::UnexpectedEof) => return Err("connection closed".to_owned()),
            Err(ReadError::Io(error)) => return Err(format!("recv() failed ({})", io_error::describe(&error))),
            Err(ReadError::Malformed(why)) => return Err(format!("malformed response: {why}")),
        };
        if head.status == 101 || head.status >= 200 {
            return Ok(head);
        }
    }
}

/// Reads the body, up to [`BODY_BYTES_MAX`].
async fn read_body(stream: &mut BufStream, head: &Response) -> Result<Vec<u8>, String> {
    let mut decoder = Decoder::new(head.framing(false));
    let mut body = Vec::new();
    while !decoder.is_done() && body.len() < BODY_BYTES_MAX {
        let mut reader = stream.reader();
        let mut take = |bytes: &[u8]| match decoder.decode(bytes) {
            _ if bytes.is_empty() => (0, Ok(true)),
            Ok(piece) => {
                body.extend_from_slice(piece.data);
                (piece.used, Ok(false))
            }
            Err(why) => (0, Err(format!("malformed response: {why}"))),
        };
        let read = poll_fn(|cx| reader.poll_bytes(cx, |_, bytes| take(bytes))).await;
        match read.map_err(|error| format!("recv() failed ({})", io_error::describe(&error)))? {
            Ok(false) => {}
            Ok(true) if decoder.ends_with_stream() => break,
            Ok(true) => return Err("response truncated".to_owned()),
            Err(why) => return Err(why),
        }
    }
    body.truncate(BODY_BYTES_MAX);
    Ok(body)
}
