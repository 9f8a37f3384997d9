//! `gzip_static` and `brotli_static`: precompressed files (`.gz`, `.br`) next to the originals.

use crate::config::arguments::{self, arg};
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Result};

/// Which clients get a precompressed file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precompressed {
    #[default]
    Off,
    /// Clients that accept the encoding.
    On,
    Always,
}

fn parse(directive: &Directive) -> Result<Precompressed> {
    let word = arg(directive, 0);
    Ok(match arguments::choice(directive, word, "on, always or off")? {
        0 => Precompressed::On,
        1 => Precompressed::Always,
        _ => Precompressed::Off,
    })
}

pub(crate) fn gzip_static(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    block.settings.files.gzip_static = parse(directive)?;
    Ok(())
}

pub(crate) fn brotli_static(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    block.settings.files.brotli_static = parse(directive)?;
    Ok(())
}
