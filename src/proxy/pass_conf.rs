//! Less usual ways to pass requests on: a body of one's own, the address that connections come from, clients that go away,
//! and what an upstream may tell its proxy to do.

use crate::config::arguments::{arg, invalid_value};
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Error, Result};
use crate::config::values;
use crate::runtime::socket::Addr;

/// `X-Accel-*` fields that are not obeyed (`proxy_ignore_headers`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IgnoredHeaders {
    pub redirect: bool,
    pub limit_rate: bool,
}

/// Fields that are known; those for a cache, buffers and a character set are not obeyed anyway.
pub(crate) fn ignore_headers(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    const OTHERS: [&str; 7] =
        ["x-accel-expires", "x-accel-buffering", "x-accel-charset", "expires", "cache-control", "set-cookie", "vary"];
    let mut ignored = IgnoredHeaders::default();
    for word in &directive.args {
        match word.text.to_ascii_lowercase().as_str() {
            "x-accel-redirect" => ignored.redirect = true,
            "x-accel-limit-rate" => ignored.limit_rate = true,
            name if OTHERS.contains(&name) => {}
            _ => {
                return Err(invalid_value(
                    directive,
                    word,
                    "X-Accel-Redirect, X-Accel-Limit-Rate or another field of nginx's list",
                ));
            }
        }
    }
    block.settings.proxy.ignored_headers = ignored;
    Ok(())
}

/// `proxy_bind ADDRESS | off;`
pub(crate) fn bind(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    if let Some(more) = directive.args.get(1) {
        return Err(match more.text.as_str() {
            "transparent" => Error::new(&more.at, "\"transparent\" is not supported")
                .hint("the address must be one of this machine's own"),
            _ => invalid_value(directive, more, "one address"),
        });
    }
    let template = builder.template(word)?;
    let is_off = word.text == "off";
    if !is_off && template.as_text().is_some() && bind_addr(&word.text).is_none() {
        return Err(invalid_value(directive, word, "an address, with or without a port, or \"off\""));
    }
    block.settings.proxy.bind = (!is_off).then_some(template);
    Ok(())
}

/// The address that connections come from; without a port the kernel chooses one.
pub fn bind_addr(text: &str) -> Option<Addr> {
    let (host, port) = values::host_port(text)?;
    Some(Addr::Ip((values::ip(host)?, port.unwrap_or(0)).into()))
}
