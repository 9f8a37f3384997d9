//! `limit_req`, `limit_conn` and their zones; `limit_rate` and other limits of bandwidth.

use crate::config::arguments::{self, arg, invalid_value};
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Error, Result, Word};
use crate::config::template::Template;
use crate::config::values;
use crate::request::log::conf::Level;

/// The smallest zone, as in nginx with pages of 4 KiB.
const ZONE_BYTES_MIN: u64 = 32 * 1024;

/// The limits of a location.
#[derive(Clone, Debug)]
pub struct LimitSettings {
    pub requests: Vec<RequestLimit>,
    pub connections: Vec<ConnectionLimit>,
    pub request_status: u16,
    pub connection_status: u16,
    /// The log level of a rejection; a delay is logged one level lower.
    pub request_level: Level,
    pub connection_level: Level,
    /// Excess is logged, but neither delayed nor rejected.
    pub request_dry_run: bool,
    pub connection_dry_run: bool,
    /// Bytes per second to the client; 0 or empty: no limit.
    pub rate: Option<Template>,
    /// The first bytes of a response, which are not limited.
    pub rate_after: Option<Template>,
    /// Bytes per second from the upstream.
    pub upstream_rate: Option<Template>,
    /// The minimum of bytes per second of a request body; 0: none.
    pub body_min_rate: u64,
}

impl Default for LimitSettings {
    /// nginx's defaults.
    fn default() -> Self {
        Self {
            requests: Vec::new(),
            connections: Vec::new(),
            request_status: 503,
            connection_status: 503,
            request_level: Level::Error,
            connection_level: Level::Error,
            request_dry_run: false,
            connection_dry_run: false,
            rate: None,
            rate_after: None,
            upstream_rate: None,
            body_min_rate: 0,
        }
    }
}

/// A `limit_req`, in thousandths of requests, as nginx counts.
#[derive(Clone, Debug)]
pub struct RequestLimit {
    /// The index of the zone.
    pub zone: u32,
    pub burst: u64,
    /// Excess above this is delayed.
    pub delay: u64,
}

/// A `limit_conn`.
#[derive(Clone, Debug)]
pub struct ConnectionLimit {
    pub zone: u32,
    pub max: u32,
}

/// What a zone counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneKind {
    /// `rate`: thousandths of requests per second.
    Requests {
        rate: u64,
    },
    Connections,
}

/// A `limit_req_zone` or `limit_conn_zone`.
#[derive(Clone, Debug)]
pub struct ZoneDefinition {
    pub name: String,
    pub kind: ZoneKind,
    pub key: Template,
    /// The text of the key: a reload keeps the state of a zone with the same key.
    pub key_source: String,
    pub bytes: usize,
}

/// The zones by number. A zone that is used above its definition is only a name at first.
#[derive(Default)]
pub(crate) struct ZoneTable {
    all: Vec<NamedZone>,
}

struct NamedZone {
    name: String,
    is_for_requests: bool,
    /// The first use.
    named_at: Word,
    definition: Option<ZoneDefinition>,
}

impl ZoneTable {
    /// Returns the number of the zone that a `limit_req` or, otherwise, a `limit_conn` names.
    fn number(&mut self, name: &str, of_requests: bool, word: &Word) -> usize {
        let known = self.all.iter().position(|zone| zone.name == name && zone.is_for_requests == of_requests);
        known.unwrap_or_else(|| {
            self.all.push(NamedZone {
                name: name.to_owned(),
                is_for_requests: of_requests,
                named_at: word.clone(),
                definition: None,
            });
            self.all.len() - 1
        })
    }

    fn define(&mut self, word: &Word, spec: ZoneDefinition) -> Result {
        if let Some(first) = self.all.iter().find(|zone| zone.name == spec.name && zone.definition.is_some()) {
            return Err(Error::formatted(&word.at, "duplicate zone \"{}\"", &spec.name).first_at(first.named_at.at));
        }
        let number = self.number(&spec.name, matches!(spec.kind, ZoneKind::Requests { .. }), word);
        if let Some(zone) = self.all.get_mut(number) {
            zone.named_at = word.clone();
            zone.definition = Some(spec);
        }
        Ok(())
    }

    /// Returns all zones, or an error if one has no definition.
    pub(crate) fn finish(self) -> Result<Vec<ZoneDefinition>> {
        let into_definition = |zone: NamedZone| {
            let directive = if zone.is_for_requests { "limit_req_zone" } else { "limit_conn_zone" };
            let missing = || {
                Error::formatted(&zone.named_at.at, "unknown zone \"{}\"", &zone.name)
                    .hint_formatted("define it by \"{}\" in http { }", directive)
            };
            zone.definition.ok_or_else(missing)
        };
        self.all.into_iter().map(into_definition).collect()
    }
}

/// Returns the limits of the block to change.
pub(crate) fn limits_mut(block: &mut BlockBuilder) -> &mut LimitSettings {
    block.optional_mut().limits.get_or_insert_default()
}

/// Parses `zone=NAME:SIZE`.
fn parse_zone<'w>(directive: &Directive, word: &'w Word) -> Result<(&'w str, usize)> {
    let expected = || invalid_value(directive, word, "zone=NAME:SIZE, the size at least 32k");
    let (name, size) = word.text.strip_prefix("zone=").and_then(|zone| zone.split_once(':')).ok_or_else(expected)?;
    let bytes = values::size(size).filter(|bytes| *bytes >= ZONE_BYTES_MIN);
    let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok()).filter(|bytes| *bytes <= isize::MAX as usize);
    match bytes {
        Some(bytes) if !name.is_empty() => Ok((name, bytes)),
        _ => Err(expected()),
    }
}

/// `limit_req_zone KEY zone=NAME:SIZE rate=10r/s`.
pub(crate) fn limit_req_zone(builder: &mut Builder, _: &mut BlockBuilder, directive: &Directive) -> Result {
    let key = arg(directive, 0);
    let (mut zone, mut rate) = (None, None);
    for word in directive.args.iter().skip(1) {
        if word.text.starts_with("zone=") {
            zone = Some((word, parse_zone(directive, word)?));
        } else if let Some(text) = word.text.strip_prefix("rate=") {
            rate =
                Some(parse_rate(text).ok_or_else(|| invalid_value(directive, word, "a rate such as 10r/s or 30r/m"))?);
        } else {
            return Err(invalid_value(directive, word, "zone=NAME:SIZE or rate=NUMBERr/s"));
        }
    }
    let missing = |what| Error::formatted(&directive.name.at, "\"limit_req_zone\" must have \"{}\" parameter", what);
    let (word, (name, bytes)) = zone.ok_or_else(|| missing("zone"))?;
    let counted = ZoneKind::Requests { rate: rate.ok_or_else(|| missing("rate"))? };
    let (name, key_text) = (name.to_owned(), key.text.clone());
    let spec = ZoneDefinition { name, kind: counted, key: builder.template(key)?, key_source: key_text, bytes };
    builder.zones.define(word, spec)
}

/// Parses `10r/s` or `30r/m` to thousandths of requests per second.
fn parse_rate(text: &str) -> Option<u64> {
    let (count, secs) = match (text.strip_suffix("r/s"), text.strip_suffix("r/m")) {
        (Some(count), _) => (count, 1),
        (None, Some(count)) => (count, 60),
        (None, None) => return None,
    };
    values::number(count).filter(|count| *count > 0).map(|count| u64::from(count) * 1000 / secs)
}

/// `limit_conn_zone KEY zone=NAME:SIZE`.
pub(crate) fn limit_conn_zone(builder: &mut Builder, _: &mut BlockBuilder, directive: &Directive) -> Result {
    let (key, word) = (arg(directive, 0), arg(directive, 1));
    let (name, bytes) = parse_zone(directive, word)?;
    let (name, key_text) = (name.to_owned(), key.text.clone());
    let spec =
        ZoneDefinition { name, kind: ZoneKind::Connections, key: builder.template(key)?, key_source: key_text, bytes };
    builder.zones.define(word, spec)
}

/// `limit_req zone=NAME [burst=NUMBER] [nodelay | delay=NUMBER]`. Inherited only by blocks without one of their own.
pub(crate) fn limit_req(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let (mut zone, mut burst, mut delay) = (None, 0, 0);
    for word in &directive.args {
        let count = |text: &str| {
            let count = values::number(text).filter(|count| *count > 0).map(|count| u64::from(count) * 1000);
            count.ok_or_else(|| invalid_value(directive, word, "a number above 0"))
        };
        match word.text.split_once('=') {
            Some(("zone", name)) if !name.is_empty() => zone = Some(builder.zones.number(name, true, word) as u32),
            Some(("burst", text)) => burst = count(text)?,
            Some(("delay", text)) => delay = count(text)?,
            None if word.text == "nodelay" => delay = u64::MAX,
            _ => return Err(invalid_value(directive, word, "zone=NAME, burst=NUMBER, delay=NUMBER or nodelay")),
        }
    }
    let Some(zone) = zone else {
        return Err(Error::new(&directive.name.at, "\"limit_req\" must have \"zone\" parameter"));
    };
    let first = block.is_first;
    let all = &mut limits_mut(block).requests;
    if first {
        all.clear();
    }
    if all.iter().any(|limit| limit.zone == zone) {
        return Err(Error::new(&directive.name.at, "this block already has a limit with this zone"));
    }
    all.push(RequestLimit { zone, burst, delay });
    Ok(())
}

/// `limit_conn ZONE NUMBER`. Inherited only by blocks without one of their own.
pub(crate) fn limit_conn(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let (name, number) = (arg(directive, 0), arg(directive, 1));
    let max = values::number(&number.text).filter(|max| (1..=65535).contains(max));
    let max = max.ok_or_else(|| invalid_value(directive, number, "a number from 1 to 65535"))?;
    let zone = builder.zones.number(&name.text, false, name) as u32;
    let first = block.is_first;
    let all = &mut limits_mut(block).connections;
    if first {
        all.clear();
    }
    if all.iter().any(|limit| limit.zone == zone) {
        return Err(Error::new(&directive.name.at, "this block already has a limit with this zone"));
    }
    all.push(ConnectionLimit { zone, max });
    Ok(())
}

fn parse_status(directive: &Directive) -> Result<u16> {
    let word = arg(directive, 0);
    let status = values::number(&word.text).and_then(|status| u16::try_from(status).ok());
    status.filter(|s| (400..600).contains(s)).ok_or_else(|| invalid_value(directive, word, "a status from 400 to 599"))
}

fn parse_level(directive: &Directive) -> Result<Level> {
    let word = arg(directive, 0);
    Ok(match arguments::choice(directive, word, "info, notice, warn or error")? {
        0 => Level::Info,
        1 => Level::Notice,
        2 => Level::Warn,
        _ => Level::Error,
    })
}

pub(crate) fn limit_req_status(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    limits_mut(block).request_status = parse_status(directive)?;
    Ok(())
}

pub(crate) fn limit_conn_status(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    limits_mut(block).connection_status = parse_status(directive)?;
    Ok(())
}

pub(crate) fn limit_req_log_level(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    limits_mut(block).request_level = parse_level(directive)?;
    Ok(())
}

pub(crate) fn limit_conn_log_level(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    limits_mut(block).connection_level = parse_level(directive)?;
    Ok(())
}

/// Parses a size, or a text with variables.
fn parse_rate_limit(builder: &Builder, directive: &Directive) -> Result<Template> {
    let word = arg(directive, 0);
    if !word.text.contains('$') {
        arguments::size(directive, word)?;
    }
    builder.template(word)
}

pub(crate) fn limit_rate(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    limits_mut(block).rate = Some(parse_rate_limit(builder, directive)?);
    Ok(())
}

pub(crate) fn limit_rate_after(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    limits_mut(block).rate_after = Some(parse_rate_limit(builder, directive)?);
    Ok(())
}

pub(crate) fn proxy_limit_rate(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    limits_mut(block).upstream_rate = Some(parse_rate_limit(builder, directive)?);
    Ok(())
}

pub(crate) fn client_body_min_rate(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    limits_mut(block).body_min_rate = arguments::size(directive, arg(directive, 0))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_thousandths_of_a_second_rounded_down() {
        for (text, expected) in [("2r/s", 2000), ("30r/m", 500), ("1r/m", 16), ("1000r/s", 1_000_000)] {
            assert_eq!(parse_rate(text), Some(expected), "{text}");
        }
        for bad in ["0r/s", "-1r/s", "2", "r/s", "2r/h", "1.5r/s", "99999999999r/s"] {
            assert_eq!(parse_rate(bad), None, "{bad}");
        }
    }
}
