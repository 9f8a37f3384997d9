//! `proxy_bind` and `proxy_ignore_headers`.

use crate::config::arguments::{arg, invalid_value};
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Error, Result};
use crate::config::values;
use crate::runtime::socket::Addr;

/// `X-Accel-*` headers without effect (`proxy_ignore_headers`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IgnoredHeaders {
    pub redirect: bool,
    pub limit_rate: bool,
}

/// Accepts all headers of nginx's list; most concern its cache and buffers, and never have an effect here.
pub(crate) fn ignore_headers(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    const OTHERS: [&str; 7] =
        ["x-accel-expires", "x-accel-buffering", "x-accel-charset", "expires", "cache-control", "set-cookie", "vary"];
    let current = &mut block.settings.proxy.ignored_headers;
    let mut ignored = if block.is_first { IgnoredHeaders::default() } else { *current };
    for word in &directive.args {
        match word.text.to_ascii_lowercase().as_str() {
            "x-accel-redirect" => ignored.redirect = true,
            "x-accel-limit-rate" => ignored.limit_rate = true,
            name if OTHERS.contains(&name) => {}
            _ => {
                return Err(invalid_value(
                    directive,
                    word,
                    "X-Accel-Redirect, X-Accel-Limit-Rate or another header of nginx's list",
                ));
            }
        }
    }
    *current = ignored;
    Ok(())
}

/// `proxy_bind ADDRESS | off;`
pub(crate) fn bind(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    if let Some(more) = directive.args.get(1) {
        return Err(match more.text.as_str() {
            "transparent" => Error::new(&more.at, "\"transparent\" is not supported").hint("the address must be local"),
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

/// Parses the local address of connections; without a port the kernel chooses one.
pub fn bind_addr(text: &str) -> Option<Addr> {
    let (host, port) = values::host_port(text)?;
    Some(Addr::Ip((values::ip(host)?, port.unwrap_or(0)).into()))
}
