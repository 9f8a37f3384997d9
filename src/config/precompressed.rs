//! `gzip_static` and `brotli_static`: compressed files beside the plain ones.

use super::build::{Draft, Walk, arg, invalid};
use super::syntax::{Directive, Error};

type Set = Result<(), Error>;

/// Who gets a compressed file where one lies beside the plain one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precompressed {
    #[default]
    Off,
    /// Clients that say that they can read it.
    On,
    Always,
}

fn read(directive: &Directive) -> Result<Precompressed, Error> {
    let word = arg(directive, 0)?;
    match word.text.as_str() {
        "off" => Ok(Precompressed::Off),
        "on" => Ok(Precompressed::On),
        "always" => Ok(Precompressed::Always),
        _ => Err(invalid(directive, word, "on, always or off")),
    }
}

pub(super) fn gzip_static(_: &mut Walk, draft: &mut Draft, directive: &Directive) -> Set {
    draft.settings.files.gzip = read(directive)?;
    Ok(())
}

pub(super) fn brotli_static(_: &mut Walk, draft: &mut Draft, directive: &Directive) -> Set {
    draft.settings.files.brotli = read(directive)?;
    Ok(())
}
