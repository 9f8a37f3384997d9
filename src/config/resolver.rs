//! `resolver`: who is asked for the addresses of names.

use std::sync::Arc;
use std::time::Duration;

use super::build::{Draft, Walk, invalid};
use super::core;
use super::syntax::{Directive, Error};
use super::units;
use super::upstream::{Place, place_at};

type Set = Result<(), Error>;

/// The port of name servers.
const PORT: u16 = 53;

/// Who is asked for the addresses of names. Names that were asked for in the same way are known in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolver {
    /// Name servers, in the order in which they are asked; if there are none, the system is asked.
    pub servers: Vec<Place>,
    /// How long an answer is believed; if it is not said, as long as the server says.
    pub valid: Option<Duration>,
    pub ipv4: bool,
    pub ipv6: bool,
}

impl Resolver {
    /// The one of the system, whose answers don't say how long they may be believed.
    pub fn system(valid: Option<Duration>) -> Self {
        Self { servers: Vec::new(), valid, ipv4: true, ipv6: true }
    }

    pub fn is_system(&self) -> bool {
        self.servers.is_empty()
    }
}

impl Draft {
    /// Who is asked for names that are written in the configuration: the system, which knows them before any name server
    /// does. Of a `resolver` its `valid=` counts.
    pub(super) fn system_resolver(&self) -> Arc<Resolver> {
        Arc::new(Resolver::system(self.settings.resolver.as_ref().and_then(|resolver| resolver.valid)))
    }
}

/// `resolver ADDRESS ... [valid=TIME] [ipv4=on|off] [ipv6=on|off] [status_zone=ZONE];`
pub(super) fn resolver(walk: &mut Walk, draft: &mut Draft, directive: &Directive) -> Set {
    let mut resolver = Resolver::system(None);
    for word in &directive.args {
        let switch = |value: &str| units::switch(value).ok_or_else(|| invalid(directive, word, "on or off"));
        match word.text.split_once('=') {
            Some(("valid", value)) => {
                let valid = units::time(value).ok_or_else(|| invalid(directive, word, "a time such as valid=30s"))?;
                resolver.valid = Some(valid);
            }
            Some(("ipv4", value)) => resolver.ipv4 = switch(value)?,
            Some(("ipv6", value)) => resolver.ipv6 = switch(value)?,
            Some(("status_zone", _)) => walk.note(&directive.name, "\"status_zone=\": questions are not counted"),
            Some(_) => return Err(invalid(directive, word, "an address, valid=TIME, ipv4=on|off or ipv6=on|off")),
            None => match place_at(&word.text, PORT) {
                Some(Place::Addr(addr)) if addr.ip().is_none() => {
                    return Err(invalid(directive, word, "the address of a name server"));
                }
                Some(place) => resolver.servers.push(place),
                None => return Err(invalid(directive, word, "the address of a name server")),
            },
        }
    }
    if resolver.servers.is_empty() {
        return Err(Error::new(&directive.name.at, "no name servers are defined in \"resolver\"")
            .hint("name at least one, such as 127.0.0.53 or [::1]:53"));
    }
    if !resolver.ipv4 && !resolver.ipv6 {
        return Err(Error::new(&directive.name.at, "\"ipv4\" and \"ipv6\" cannot both be \"off\" in \"resolver\""));
    }
    draft.settings.resolver = Some(Arc::new(resolver));
    Ok(())
}

/// 0 means no limit, as in nginx.
pub(super) fn resolver_timeout(_: &mut Walk, draft: &mut Draft, directive: &Directive) -> Set {
    let timeout = core::time(directive)?;
    let timeout = if timeout.is_zero() { units::TIME_MAX } else { timeout };
    draft.settings.resolver_timeout = timeout;
    draft.upstream.group.resolver_timeout = Some(timeout);
    Ok(())
}
