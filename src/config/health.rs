//! `health_check` and `match`: how peers are asked whether they are well, and what a good answer is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::build::{Draft, Walk, arg, invalid};
use super::proxy::{Destination, ProxyPass};
use super::syntax::{Directive, Error, Word};
use super::units;

type Set = Result<(), Error>;

/// How often peers may be asked at the most.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// How the peers of an upstream are watched.
#[derive(Clone, Debug)]
pub struct HealthCheck {
    pub probe: Probe,
    /// The port that is asked, if it is not the one that requests go to.
    pub port: Option<u16>,
    pub interval: Duration,
    /// Up to so much is added to each interval, so that many upstreams are not asked at once.
    pub jitter: Duration,
    /// For a whole answer.
    pub timeout: Duration,
    /// Failures, or good answers, one after the other, after which a peer is taken out, or taken back.
    pub fails: u32,
    pub passes: u32,
    /// A peer gets nothing before its first good answer.
    pub mandatory: bool,
}

/// What is asked.
#[derive(Clone, Debug)]
pub enum Probe {
    /// Whether it takes connections.
    Tcp,
    Http {
        host: String,
        uri: String,
        good: Arc<Statuses>,
    },
    /// Whether it takes an upgrade.
    WebSocket {
        host: String,
        uri: String,
    },
}

/// Statuses of answers.
#[derive(Debug, PartialEq, Eq)]
pub struct Statuses {
    /// First and last.
    ranges: Vec<(u16, u16)>,
    /// All others are meant.
    negated: bool,
}

impl Default for Statuses {
    fn default() -> Self {
        Self { ranges: vec![(200, 399)], negated: false }
    }
}

impl Statuses {
    pub fn has(&self, status: u16) -> bool {
        self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&status)) != self.negated
    }
}

/// The `match` blocks, by name.
pub(super) type Matches = HashMap<String, Arc<Statuses>>;

/// `match NAME { status [!] 200 204 300-399; }`
pub(super) fn match_block(walk: &mut Walk, _: &mut Draft, directive: &Directive) -> Set {
    let name = arg(directive, 0)?;
    let mut statuses = None;
    for inner in directive.block.as_deref().unwrap_or_default() {
        match inner.name.text.as_str() {
            "status" if statuses.is_none() => statuses = Some(statuses_of(inner)?),
            "status" => return Err(Error::new(&inner.name.at, "\"status\" directive is duplicate")),
            text => {
                return Err(Error::new(&inner.name.at, format!("\"{text}\" is not supported in \"match\""))
                    .hint("\"status\" is expected"));
            }
        }
    }
    if walk.matches.insert(name.text.clone(), Arc::new(statuses.unwrap_or_default())).is_some() {
        return Err(Error::new(&name.at, format!("duplicate match \"{}\"", name.text)));
    }
    Ok(())
}

fn statuses_of(directive: &Directive) -> Result<Statuses, Error> {
    let negated = directive.args.first().is_some_and(|word| word.text == "!");
    let words = directive.args.get(usize::from(negated)..).unwrap_or_default();
    if words.is_empty() {
        return Err(Error::new(&directive.name.at, "a status is missing").hint("200, or a range such as 200-399"));
    }
    let status = |text: &str| {
        units::number(text).and_then(|number| u16::try_from(number).ok()).filter(|status| (100..1000).contains(status))
    };
    let range = |word: &Word| {
        let (first, last) = word.text.split_once('-').unwrap_or((&word.text, &word.text));
        let range = status(first).zip(status(last)).filter(|(first, last)| first <= last);
        range.ok_or_else(|| invalid(directive, word, "a status, or a range such as 200-399,"))
    };
    Ok(Statuses { ranges: words.iter().map(range).collect::<Result<_, _>>()?, negated })
}

/// What is known while the words are read.
struct Words {
    kind: String,
    host: Option<String>,
    uri: String,
    good: Arc<Statuses>,
}

/// `health_check [parameters];`
pub(super) fn health_check(walk: &mut Walk, draft: &mut Draft, directive: &Directive) -> Set {
    let mut words =
        Words { kind: "http".to_owned(), host: None, uri: "/".to_owned(), good: Arc::new(Statuses::default()) };
    let mut check = HealthCheck {
        probe: Probe::Tcp,
        port: None,
        interval: Duration::from_secs(5),
        jitter: Duration::MAX,
        timeout: Duration::from_secs(5),
        fails: 1,
        passes: 1,
        mandatory: false,
    };
    for word in &directive.args {
        parameter(walk, &mut check, &mut words, directive, word)?;
    }
    if check.jitter == Duration::MAX {
        check.jitter = check.interval / 10;
    }
    let host = words.host.unwrap_or_default();
    check.probe = match words.kind.as_str() {
        "tcp" => Probe::Tcp,
        "websocket" => Probe::WebSocket { host, uri: words.uri },
        _ => Probe::Http { host, uri: words.uri, good: words.good },
    };
    draft.upstream.health = Some((check, directive.name.clone()));
    Ok(())
}

fn parameter(
    walk: &Walk,
    check: &mut HealthCheck,
    words: &mut Words,
    directive: &Directive,
    word: &Word,
) -> Result<(), Error> {
    let time = |value: &str| units::time(value).ok_or_else(|| invalid(directive, word, "a time such as interval=5s"));
    let count = |value: &str| {
        units::number(value).filter(|n| *n > 0).ok_or_else(|| invalid(directive, word, "a number of 1 or more"))
    };
    match word.text.split_once('=') {
        Some(("interval", value)) => {
            check.interval = time(value)?;
            if check.interval < INTERVAL_MIN {
                return Err(invalid(directive, word, "an interval of 100ms or more"));
            }
        }
        Some(("jitter", value)) => check.jitter = time(value)?,
        Some(("timeout", value)) => check.timeout = time(value)?,
        Some(("fails", value)) => check.fails = count(value)?,
        Some(("passes", value)) => check.passes = count(value)?,
        Some(("port", value)) => {
            let port = u16::try_from(count(value)?).map_err(|_| invalid(directive, word, "a port"))?;
            check.port = Some(port);
        }
        Some(("type", value @ ("http" | "tcp" | "websocket"))) => value.clone_into(&mut words.kind),
        Some(("host", value)) if is_word(value) && !value.is_empty() => words.host = Some(value.to_owned()),
        Some(("uri", value)) if is_word(value) && value.starts_with('/') => value.clone_into(&mut words.uri),
        Some(("match", name)) => {
            let found = walk.matches.get(name).cloned();
            words.good = found.ok_or_else(|| Error::new(&word.at, format!("match \"{name}\" is not known")))?;
        }
        None if word.text == "mandatory" => check.mandatory = true,
        // Peers that stay the same are the same after a reload.
        None if word.text == "persistent" => {}
        _ => {
            return Err(Error::new(&word.at, format!("invalid parameter \"{}\"", word.text)).hint(
                "interval=, jitter=, timeout=, fails=, passes=, uri=/path, host=, port=, match=, mandatory or \
                 type=http|tcp|websocket is expected",
            ));
        }
    }
    Ok(())
}

/// Whether it can stand in the first lines of a request.
fn is_word(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic())
}

/// Gives the check that stands in a location to the upstream of its `proxy_pass`.
pub(super) fn attach(walk: &mut Walk, check: Option<(HealthCheck, Word)>, pass: Option<&ProxyPass>) -> Set {
    let Some((check, at)) = check else { return Ok(()) };
    let number = match pass.map(|pass| (&pass.destination, &pass.tls)) {
        Some((_, Some(_))) if !matches!(check.probe, Probe::Tcp) => {
            return Err(Error::new(&at.at, "\"health_check\" of an https:// upstream").hint("it must be of type=tcp"));
        }
        Some((Destination::Upstream(number), _)) => *number,
        _ => {
            return Err(Error::new(&at.at, "\"health_check\" without an upstream")
                .hint("it belongs beside a \"proxy_pass\" without variables, or into an \"upstream\""));
        }
    };
    let Some(upstream) = walk.upstreams.get_mut(number as usize).map(Arc::make_mut) else { return Ok(()) };
    if upstream.health.replace(Arc::new(check.named(&upstream.name))).is_some() {
        let name = &upstream.name;
        return Err(Error::new(&at.at, format!("a second \"health_check\" of upstream \"{name}\"")));
    }
    Ok(())
}

impl HealthCheck {
    /// Peers are asked by the name of their upstream, where no other is given.
    pub(super) fn named(mut self, name: &str) -> Self {
        if let Probe::Http { host, .. } | Probe::WebSocket { host, .. } = &mut self.probe
            && host.is_empty()
        {
            *host = if name.starts_with("unix:") { "localhost".to_owned() } else { name.to_owned() };
        }
        self
    }
}
