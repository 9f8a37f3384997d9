//! `set_real_ip_from`, `real_ip_header`, `real_ip_recursive`: where the address of a client is taken from behind a proxy.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::config::arguments::{self, arg, invalid_value};
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Result};
use crate::runtime::cidr::Cidr;

/// Who is believed when it tells for whom it asks, and how it tells it.
#[derive(Clone, Debug)]
pub struct RealIp {
    pub trusted: Vec<Cidr>,
    pub source: RealIpSource,
    /// Addresses that are believed themselves are passed over.
    pub recursive: bool,
}

/// Where the address stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RealIpSource {
    /// In a field, the last one of a list.
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

/// Inherited only where the block has none of its own.
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
