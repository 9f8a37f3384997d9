//! How clients are dealt with: which names of fields are taken, whether slashes are merged, and how connections end.

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
    /// Browsers whose connections end with each answer.
    pub keepalive_disable: KeepaliveDisable,
    pub rewrite_log: bool,
    /// A connection that timed out, or is closed without an answer, ends with a reset.
    pub reset_timedout_connection: bool,
    pub lingering: Lingering,
}

/// How a connection is closed whose client may still send.
#[derive(Clone, Copy, Debug)]
pub struct Lingering {
    pub on: bool,
    /// How long all of it may last.
    pub time: Duration,
    /// How long the client may pause.
    pub timeout: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepaliveDisable {
    /// Old ones, after POST.
    pub msie6: bool,
    /// Safari and its like on macOS.
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
    /// The names of fields that are taken.
    pub fn header_name_policy(&self) -> HeaderNamePolicy {
        match (self.ignore_invalid_headers, self.underscores_in_headers) {
            (false, _) => HeaderNamePolicy::Any,
            (true, true) => HeaderNamePolicy::Underscores,
            (true, false) => HeaderNamePolicy::Plain,
        }
    }
}

pub(crate) fn keepalive_disable(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let mut browsers = KeepaliveDisable::default();
    for word in &directive.args {
        match arguments::choice(directive, word, "none, msie6 or safari")? {
            0 => {}
            1 => browsers.msie6 = true,
            _ => browsers.safari = true,
        }
    }
    block.settings.client_options.keepalive_disable = browsers;
    Ok(())
}

/// A connection that is closed behind an answer always waits for its client, unless it is told not to.
pub(crate) fn lingering_close(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    block.settings.client_options.lingering.on = arguments::choice(directive, word, "on, always or off")? < 2;
    Ok(())
}
