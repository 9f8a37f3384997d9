//! The directives `resolver` and `resolver_timeout`.

use std::sync::Arc;

use crate::config::arguments::{self, invalid_value};
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Error, Result};
use crate::config::values;
use crate::dns::client::Resolver;
use crate::proxy::upstream_conf::parse_endpoint_with_port;
use crate::runtime::socket::Endpoint;

/// The default port of name servers.
const DNS_PORT: u16 = 53;

impl BlockBuilder {
    /// The resolver for names that the configuration contains: the system, with `valid=` of a `resolver`.
    pub(crate) fn system_resolver(&self) -> Arc<Resolver> {
        Arc::new(Resolver::system(self.settings.resolver.as_ref().and_then(|resolver| resolver.valid)))
    }
}

/// `resolver ADDRESS ... [valid=TIME] [ipv4=on|off] [ipv6=on|off] [status_zone=ZONE];`
pub(crate) fn resolver(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let mut resolver = Resolver::system(None);
    for word in &directive.args {
        let switch = |value: &str| values::switch(value).ok_or_else(|| invalid_value(directive, word, "on or off"));
        match word.text.split_once('=') {
            Some(("valid", value)) => {
                let valid =
                    values::time(value).ok_or_else(|| invalid_value(directive, word, "a time such as valid=30s"))?;
                resolver.valid = Some(valid);
            }
            Some(("ipv4", value)) => resolver.ipv4 = switch(value)?,
            Some(("ipv6", value)) => resolver.ipv6 = switch(value)?,
            Some(("status_zone", _)) => builder.note(&directive.name, "\"status_zone=\": queries are not counted"),
            Some(_) => {
                return Err(invalid_value(directive, word, "an address, valid=TIME, ipv4=on|off or ipv6=on|off"));
            }
            None => match parse_endpoint_with_port(&word.text, DNS_PORT) {
                Some(Endpoint::Addr(addr)) if addr.ip().is_none() => {
                    return Err(invalid_value(directive, word, "the address of a name server"));
                }
                Some(endpoint) => resolver.servers.push(endpoint),
                None => return Err(invalid_value(directive, word, "the address of a name server")),
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
    block.settings.resolver = Some(Arc::new(resolver));
    Ok(())
}

/// 0 means no limit, as in nginx.
pub(crate) fn resolver_timeout(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let timeout = arguments::time(directive)?;
    let timeout = if timeout.is_zero() { values::TIME_MAX } else { timeout };
    block.settings.resolver_timeout = timeout;
    block.upstream.upstream.resolver_timeout = Some(timeout);
    Ok(())
}
