//! Options of client connections: accepted header names, `merge_slashes`, `keepalive_disable`, how connections close.

use std::time::Duration;

use crate::config::arguments::{self, arg};
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Result};
use crate::http1::head::HeaderNamePolicy;

#[derive(Clone, Copy, Debug)]
pub struct ClientOptions {
    pub ignore_invalid_headers: bool,
    pub underscores_in_headers: bool,
    pub merge_slashes: bool,
    pub keepalive_disable: KeepaliveDisable,
    pub rewrite_log: bool,
    /// A connection that timed out, or is closed without a response, is reset.
    pub reset_timedout_connection: bool,
    pub lingering: Lingering,
}

/// How a connection is closed while its client may still be sending.
#[derive(Clone, Copy, Debug)]
pub struct Lingering {
    pub on: bool,
    /// The limit for the whole close.
    pub time: Duration,
    /// The limit for each wait for data.
    pub timeout: Duration,
}

/// Browsers without keep-alive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepaliveDisable {
    /// Old versions, after a POST.
    pub msie6: bool,
    /// Safari and similar browsers on macOS.
    pub safari: bool,
}

impl Default for ClientOptions {
    /// nginx's defaults.
    fn default() -> Self {
        Self {
            ignore_invalid_headers: true,
            underscores_in_headers: false,
            merge_slashes: true,
            keepalive_disable: KeepaliveDisable { msie6: true, safari: false },
            rewrite_log: false,
            reset_timedout_connection: false,
            lingering: Lingering { on: true, time: Duration::from_secs(30), timeout: Duration::from_secs(5) },
        }
    }
}

impl ClientOptions {
    /// Returns which header names are accepted.
    pub fn header_name_policy(&self) -> HeaderNamePolicy {
        match (self.ignore_invalid_headers, self.underscores_in_headers) {
            (false, _) => HeaderNamePolicy::Any,
            (true, true) => HeaderNamePolicy::Underscores,
            (true, false) => HeaderNamePolicy::Plain,
        }
    }
}

pub(crate) fn keepalive_disable(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let options = &mut block.settings.client_options;
    let mut browsers = if block.is_first { KeepaliveDisable::default() } else { options.keepalive_disable };
    for word in &directive.args {
        match arguments::choice(directive, word, "none, msie6 or safari")? {
            0 => {}
            1 => browsers.msie6 = true,
            _ => browsers.safari = true,
        }
    }
    options.keepalive_disable = browsers;
    Ok(())
}

/// `on` and `always` are the same: each connection closed after a response lingers.
pub(crate) fn lingering_close(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    block.settings.client_options.lingering.on = arguments::choice(directive, word, "on, always or off")? < 2;
    Ok(())
}
