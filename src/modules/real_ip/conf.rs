//! `set_real_ip_from`, `real_ip_header`, `real_ip_recursive`: the client address when another proxy is in front.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::config::arguments::{self, arg, invalid_value};
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Result};
use crate::runtime::cidr::Cidr;

/// The proxies whose information is trusted, and its source.
#[derive(Clone, Debug)]
pub struct RealIp {
    pub trusted: Vec<Cidr>,
    pub source: RealIpSource,
    /// Trusted addresses at the end of the list are skipped.
    pub recursive: bool,
}

/// The source of the client address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RealIpSource {
    /// The last address in this header.
    Header(Box<[u8]>),
    ProxyProtocol,
}

impl Default for RealIp {
    /// nginx's defaults.
    fn default() -> Self {
        Self { trusted: Vec::new(), source: RealIpSource::Header(Box::from(&b"X-Real-IP"[..])), recursive: false }
    }
}

pub(crate) fn real_ip_mut(block: &mut BlockBuilder) -> &mut RealIp {
    block.optional_mut().real_ip.get_or_insert_default()
}

/// Inherited only by blocks without a `set_real_ip_from` of their own.
pub(crate) fn set_real_ip_from(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    let ranges =
        match word.text.as_str() {
            "localhost" => vec![Cidr::from_ip(Ipv4Addr::LOCALHOST.into()), Cidr::from_ip(Ipv6Addr::LOCALHOST.into())],
            text => {
                let range = Cidr::parse(text);
                vec![range.ok_or_else(|| {
                    invalid_value(directive, word, "an address, a range such as 10.0.0.0/8, or unix:")
                })?]
            }
        };
    let first = block.is_first;
    let from = &mut real_ip_mut(block).trusted;
    if first {
        from.clear();
    }
    from.extend(ranges);
    Ok(())
}

pub(crate) fn real_ip_header(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let name = arg(directive, 0);
    real_ip_mut(block).source = match name.text.as_str() {
        "proxy_protocol" => RealIpSource::ProxyProtocol,
        text => {
            arguments::check_header_name(directive, name)?;
            RealIpSource::Header(text.as_bytes().into())
        }
    };
    Ok(())
}
