//! `expires`: how long clients and caches may store a response.

use crate::config::arguments::arg;
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Result};
use crate::config::template::Template;
use crate::config::values;

const DAY_SECS: u64 = 86_400;

/// An `expires`.
#[derive(Clone, Debug)]
pub enum Expires {
    Fixed(Lifetime),
    /// Evaluated for each request. With `modified` times count from the last modification.
    Template {
        template: Template,
        modified: bool,
    },
}

/// How long a response may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// `epoch`: already expired.
    Epoch,
    /// `max`: ten years.
    Max,
    FromNow {
        secs: u64,
        negative: bool,
    },
    FromChange {
        secs: u64,
        past: bool,
    },
    /// Until this second of the day, in local time.
    TimeOfDay(u64),
}

impl Lifetime {
    /// Parses `30d`, `-1`, `+1h`, `@15h30m`, `epoch` and `max`; `off` is `Ok(None)`. The error is what is expected.
    pub fn parse(text: &str, modified: bool) -> Result<Option<Self>, &'static str> {
        match text {
            "off" if !modified => return Ok(None),
            "epoch" if !modified => return Ok(Some(Self::Epoch)),
            "max" if !modified => return Ok(Some(Self::Max)),
            _ => {}
        }
        let secs = |text: &str| values::time(text).map(|time| time.as_secs()).ok_or("a time, epoch, max or off");
        if let Some(text) = text.strip_prefix('@') {
            if modified {
                return Err("a time without \"@\" after \"modified\"");
            }
            let at = Some(secs(text)?).filter(|secs| *secs <= DAY_SECS).ok_or("a time of less than 24 hours")?;
            return Ok(Some(Self::TimeOfDay(at)));
        }
        let (text, past) = match text.strip_prefix('-') {
            Some(text) => (text, true),
            None => (text.strip_prefix('+').unwrap_or(text), false),
        };
        let secs = secs(text)?;
        Ok(Some(if modified { Self::FromChange { secs, past } } else { Self::FromNow { secs, negative: past } }))
    }
}

pub(crate) fn expires(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let first = arg(directive, 0);
    let (word, modified) = match directive.args.get(1) {
        None => (first, false),
        Some(word) if first.text == "modified" => (word, true),
        Some(_) => {
            return Err(crate::config::arguments::invalid_value(
                directive,
                first,
                "one argument, or \"modified\" and a time,",
            ));
        }
    };
    let template = builder.template(word)?;
    block.optional_mut().expires = match template.as_text() {
        None => Some(Expires::Template { template, modified }),
        Some(_) => Lifetime::parse(&word.text, modified)
            .map_err(|expected| crate::config::arguments::invalid_value(directive, word, expected))?
            .map(Expires::Fixed),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_expires() {
        let from_now = |secs, past| Ok(Some(Lifetime::FromNow { secs, negative: past }));
        for (text, modified, expected) in [
            ("30d", false, from_now(2_592_000, false)),
            ("+1h", false, from_now(3600, false)),
            ("-1", false, from_now(1, true)),
            ("0", false, from_now(0, false)),
            ("off", false, Ok(None)),
            ("epoch", false, Ok(Some(Lifetime::Epoch))),
            ("max", false, Ok(Some(Lifetime::Max))),
            ("@15h30m", false, Ok(Some(Lifetime::TimeOfDay(55_800)))),
            ("@24h", false, Ok(Some(Lifetime::TimeOfDay(86_400)))),
            ("24h", true, Ok(Some(Lifetime::FromChange { secs: 86_400, past: false }))),
            ("-1h", true, Ok(Some(Lifetime::FromChange { secs: 3600, past: true }))),
        ] {
            assert_eq!(Lifetime::parse(text, modified), expected, "{text}");
        }
        for (text, modified) in [
            ("", false),
            ("x", false),
            ("--1", false),
            ("@", false),
            ("@-1", false),
            ("@24h1s", false),
            ("@1h", true),
            ("epoch", true),
            ("off", true),
        ] {
            assert!(Lifetime::parse(text, modified).is_err(), "{text}");
        }
    }
}
