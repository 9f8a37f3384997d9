//! Internal redirects: `error_page`, `try_files`, `internal`.

use crate::config::arguments::invalid_value;
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Error, Result};
use crate::config::template::Template;
use crate::config::values;

/// The replacement for responses with one status.
#[derive(Clone, Debug)]
pub struct ErrorPage {
    pub status: u16,
    /// The status sent to the client. None (`=`): that of the replacement.
    pub response_status: Option<u16>,
    /// A path, a named location, or a URL to redirect the client to.
    pub target: Template,
}

/// A `try_files`.
#[derive(Clone, Debug)]
pub struct TryFiles {
    pub candidates: Vec<Candidate>,
    pub fallback: Fallback,
}

#[derive(Clone, Debug)]
pub struct Candidate {
    /// Without the final slash that marks a directory.
    pub name: Template,
    pub is_directory: bool,
}

/// The last argument of `try_files`: used if no candidate exists.
#[derive(Clone, Debug)]
pub enum Fallback {
    Status(u16),
    /// A path or a named location.
    Target(Template),
}

/// `error_page CODE ... [=[RESPONSE]] TARGET`. Inherited only by blocks without an `error_page` of their own.
pub(crate) fn error_page(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let Some((target, mut codes)) = directive.args.split_last() else { return Ok(()) };
    let mut response_status = None;
    if let Some((word, rest)) = codes.split_last()
        && let Some(code) = word.text.strip_prefix('=')
    {
        codes = rest;
        response_status = Some(match (code, parse_status(code)) {
            ("", _) => None,
            (_, Some(code @ 200..=599)) => Some(code),
            _ => return Err(invalid_value(directive, word, "= and a status code from 200 to 599, or = alone")),
        });
    }
    if codes.is_empty() {
        return Err(Error::new(&directive.name.at, "\"error_page\" names no status code")
            .hint("for example: error_page 502 504 /offline.html;"));
    }
    let template = builder.template(target)?;
    let mut pages = if block.is_first { Vec::new() } else { block.settings.error_pages.to_vec() };
    for word in codes {
        let status = parse_status(&word.text).filter(|code| (300..=599).contains(code) && *code != 499);
        let status =
            status.ok_or_else(|| invalid_value(directive, word, "a status code from 300 to 599, but not 499"))?;
        // 494 to 497 are internal codes of nginx's; clients see 400.
        let shown = if matches!(status, 494..=497) { 400 } else { status };
        pages.push(ErrorPage {
            status,
            response_status: response_status.unwrap_or(Some(shown)),
            target: template.clone(),
        });
    }
    block.settings.error_pages = pages.into();
    Ok(())
}

fn parse_status(text: &str) -> Option<u16> {
    values::number(text).and_then(|code| u16::try_from(code).ok()).filter(|code| *code <= 999)
}

/// Not inherited.
pub(crate) fn try_files(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let Some((last, names)) = directive.args.split_last() else { return Ok(()) };
    let otherwise = match last.text.strip_prefix('=') {
        Some(code) => {
            Fallback::Status(parse_status(code).ok_or_else(|| invalid_value(directive, last, "= and a status code"))?)
        }
        None => Fallback::Target(builder.template(last)?),
    };
    let mut all = Vec::new();
    for word in names {
        let (text, is_folder) = match word.text.strip_suffix('/') {
            Some(text) => (text, true),
            None => (word.text.as_str(), false),
        };
        let name = builder.template_from(text, word)?;
        all.push(Candidate { name, is_directory: is_folder });
    }
    block.try_files = Some(TryFiles { candidates: all, fallback: otherwise });
    Ok(())
}

pub(crate) fn internal(_: &mut Builder, block: &mut BlockBuilder, _: &Directive) -> Result {
    if let Some(location) = &mut block.location {
        location.internal = true;
    }
    Ok(())
}
