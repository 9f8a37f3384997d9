//! `health_check`: active health checks of peers.

use std::sync::Arc;
use std::time::Duration;

use crate::config::arguments::invalid_value;
use crate::config::builder::{BlockBuilder, Builder, find_by_name};
use crate::config::parser::{Directive, Error, Result, Word};
use crate::config::{Settings, values};
use crate::proxy::conf::{Destination, ProxyPass};
use crate::proxy::health_match_conf::HealthMatch;
use crate::tls;

/// The shortest interval.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// The health checks of an upstream's peers.
#[derive(Clone, Debug)]
pub struct HealthCheck {
    pub probe: Probe,
    /// The port to check. None: that of the peer.
    pub port: Option<u16>,
    pub interval: Duration,
    /// The maximum of a random time added to each interval, to spread the checks.
    pub jitter: Duration,
    /// The limit for a complete response.
    pub timeout: Duration,
    /// Consecutive failed checks after which a peer is unhealthy, and passed ones after which it is healthy.
    pub fails: u32,
    pub passes: u32,
    /// Peers get no requests before their first check.
    pub mandatory: bool,
    /// The TLS client and the server name, of a `proxy_pass https://` to the upstream.
    pub tls: Option<(Arc<tls::ClientTls>, String)>,
}

impl HealthCheck {
    /// Whether this build has health checks.
    pub const AVAILABLE: bool = cfg!(feature = "health");
}

/// The kind of a check.
#[derive(Clone, Debug)]
pub enum Probe {
    /// Passes if the peer accepts a connection.
    Tcp,
    Http {
        host: String,
        uri: String,
        expected: Arc<HealthMatch>,
    },
    /// Passes if the peer accepts a WebSocket upgrade.
    WebSocket {
        host: String,
        uri: String,
    },
}

/// Parameters of the probe, while they are read.
struct ProbeParameters {
    probe_type: String,
    host: Option<String>,
    uri: String,
    expected: Option<Arc<HealthMatch>>,
}

/// `health_check [parameters];`
pub(crate) fn health_check(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let mut parameters =
        ProbeParameters { probe_type: "http".to_owned(), host: None, uri: "/".to_owned(), expected: None };
    let mut check = HealthCheck {
        probe: Probe::Tcp,
        port: None,
        interval: Duration::from_secs(5),
        jitter: Duration::MAX,
        timeout: Duration::from_secs(5),
        fails: 1,
        passes: 1,
        mandatory: false,
        tls: None,
    };
    for word in &directive.args {
        read_parameter(builder, &mut check, &mut parameters, directive, word)?;
    }
    if check.jitter == Duration::MAX {
        check.jitter = check.interval / 10;
    }
    let host = parameters.host.unwrap_or_default();
    check.probe = match (parameters.probe_type.as_str(), parameters.expected) {
        ("http", expected) => Probe::Http { host, uri: parameters.uri, expected: expected.unwrap_or_default() },
        (kind, Some(_)) => {
            return Err(Error::formatted(&directive.name.at, "\"match=\" with \"type={}\"", kind)
                .hint("\"match=\" needs type=http"));
        }
        ("websocket", None) => Probe::WebSocket { host, uri: parameters.uri },
        (_, None) => Probe::Tcp,
    };
    block.upstream.health_check = Some((check, directive.name.clone()));
    Ok(())
}

fn read_parameter(
    builder: &Builder,
    check: &mut HealthCheck,
    parameters: &mut ProbeParameters,
    directive: &Directive,
    word: &Word,
) -> Result {
    let time =
        |value: &str| values::time(value).ok_or_else(|| invalid_value(directive, word, "a time such as interval=5s"));
    let count = |value: &str| {
        values::number(value).filter(|n| *n > 0).ok_or_else(|| invalid_value(directive, word, "a number of 1 or more"))
    };
    match word.text.split_once('=') {
        Some(("interval", value)) => {
            check.interval = time(value)?;
            if check.interval < INTERVAL_MIN {
                return Err(invalid_value(directive, word, "an interval of 100ms or more"));
            }
        }
        Some(("jitter", value)) => check.jitter = time(value)?,
        Some(("timeout", value)) => {
            check.timeout = time(value)?;
            if check.timeout.is_zero() {
                return Err(invalid_value(directive, word, "a time above 0"));
            }
        }
        Some(("fails", value)) => check.fails = count(value)?,
        Some(("passes", value)) => check.passes = count(value)?,
        Some(("port", value)) => {
            let port = u16::try_from(count(value)?).map_err(|_| invalid_value(directive, word, "a port"))?;
            check.port = Some(port);
        }
        Some(("type", value @ ("http" | "tcp" | "websocket"))) => value.clone_into(&mut parameters.probe_type),
        Some(("host", value)) if is_printable(value) && !value.is_empty() => parameters.host = Some(value.to_owned()),
        Some(("uri", value)) if is_printable(value) && value.starts_with('/') => value.clone_into(&mut parameters.uri),
        Some(("match", name)) => {
            let found = find_by_name(&builder.health_matches, name).cloned();
            let unknown = || Error::formatted(&word.at, "unknown match \"{}\"", name);
            parameters.expected = Some(found.ok_or_else(unknown)?);
        }
        None if word.text == "mandatory" => check.mandatory = true,
        // Always the case: a reload keeps the state of unchanged peers.
        None if word.text == "persistent" => {}
        _ => {
            return Err(word.error("invalid parameter \"{}\"").hint(
                "interval=, jitter=, timeout=, fails=, passes=, uri=/path, host=, port=, match=, mandatory or \
                 type=http|tcp|websocket is expected",
            ));
        }
    }
    Ok(())
}

/// Whether the text can be part of a request line or header.
fn is_printable(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic())
}

/// Attaches the check of a location to the upstream of its `proxy_pass`, and the upstream's TLS to its check.
pub(crate) fn attach_health_check(
    builder: &mut Builder,
    check: Option<(HealthCheck, Word)>,
    pass: Option<&ProxyPass>,
    settings: &Settings,
) -> Result {
    if !HealthCheck::AVAILABLE {
        return Ok(());
    }
    let upstream = match pass.map(|pass| &pass.destination) {
        // The Arc is not shared yet.
        Some(Destination::Upstream(number)) => {
            builder.config.upstreams.get_mut(*number as usize).and_then(Arc::get_mut)
        }
        _ => None,
    };
    let Some(upstream) = upstream else {
        return match check {
            None => Ok(()),
            Some((_, at)) => Err(Error::new(&at.at, "\"health_check\" without an upstream")
                .hint("set it next to a \"proxy_pass\" without variables, or in an \"upstream\"")),
        };
    };
    let secure = pass.and_then(|pass| pass.tls.clone());
    if check.is_none() && (secure.is_none() || upstream.health_check.is_none()) {
        return Ok(());
    }
    if let Some((check, at)) = check
        && upstream.health_check.replace(Arc::new(check.with_default_host(&upstream.name))).is_some()
    {
        let name = &upstream.name;
        return Err(Error::formatted(&at.at, "a second \"health_check\" of upstream \"{}\"", name));
    }
    // A name with variables can't be evaluated without a request: the upstream's is used.
    let server_name = settings.optional.proxy_tls.as_ref().and_then(|tls| tls.name.as_ref()?.as_text());
    let name = server_name.map_or(upstream.name.clone(), |name| String::from_utf8_lossy(name).into_owned());
    let name = values::host_port(&name).map_or(name.as_str(), |(host, _)| host);
    if let Some(health) = upstream.health_check.as_mut().and_then(Arc::get_mut) {
        health.tls = health.tls.take().or(secure.map(|client| (client, name.to_owned())));
    }
    Ok(())
}

impl HealthCheck {
    /// Sets `Host` to the name of the upstream, unless `host=` is given.
    pub(crate) fn with_default_host(mut self, name: &str) -> Self {
        if let Probe::Http { host, .. } | Probe::WebSocket { host, .. } = &mut self.probe
            && host.is_empty()
        {
            *host = if name.starts_with("unix:") { "localhost".to_owned() } else { name.to_owned() };
        }
        self
    }
}
