//! `autoindex`: listings of directories that have no index file.

use crate::config::arguments::{self, arg};
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Result};

/// How directories are listed.
#[derive(Clone, Copy, Debug)]
pub struct Autoindex {
    pub on: bool,
    pub format: ListingFormat,
    /// Exact sizes in bytes, not rounded to K, M or G.
    pub exact_size: bool,
    /// Times of HTML listings are local.
    pub local_time: bool,
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
        Self { on: false, format: ListingFormat::Html, exact_size: true, local_time: false }
    }
}

pub(crate) fn format(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    block.settings.files.autoindex.format = match arguments::choice(directive, word, "html, xml, json or jsonp")? {
        0 => ListingFormat::Html,
        1 => ListingFormat::Xml,
        2 => ListingFormat::Json,
        _ => ListingFormat::Jsonp,
    };
    Ok(())
}
