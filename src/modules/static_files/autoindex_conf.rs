//! `autoindex`: what a folder without an index is answered with.

use crate::config::builder::{BlockBuilder, Builder, arg};
use crate::config::core;
use crate::config::parser::{Directive, Error};

type Set = Result<(), Error>;

/// How folders are listed.
#[derive(Clone, Copy, Debug)]
pub struct Autoindex {
    pub on: bool,
    pub format: ListingFormat,
    /// Sizes in bytes, rather than in the largest unit that fits.
    pub exact_size: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListingFormat {
    Html,
    Xml,
    Json,
    Jsonp,
}

impl Default for Autoindex {
    fn default() -> Self {
        Self { on: false, format: ListingFormat::Html, exact_size: true }
    }
}

pub(crate) fn localtime(walk: &mut Builder, _: &mut BlockBuilder, directive: &Directive) -> Set {
    if core::switch(directive)? {
        walk.note(&directive.name, "times are UTC: there are no time zones here");
    }
    Ok(())
}

pub(crate) fn format(_: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Set {
    let word = arg(directive, 0);
    draft.settings.files.autoindex.format = match core::choice(directive, word, "html, xml, json or jsonp")? {
        0 => ListingFormat::Html,
        1 => ListingFormat::Xml,
        2 => ListingFormat::Json,
        _ => ListingFormat::Jsonp,
    };
    Ok(())
}
