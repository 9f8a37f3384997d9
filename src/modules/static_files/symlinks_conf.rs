//! `disable_symlinks`: which symbolic links are not followed.

use crate::config::arguments::{self, arg, invalid_value};
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Result};
use crate::config::template::Template;

/// A `disable_symlinks` that is not off.
#[derive(Clone, Debug)]
pub struct Symlinks {
    /// Links are followed if their target has the same owner.
    pub if_not_owner: bool,
    /// The start of a path in which links are followed.
    pub from: Option<Template>,
}

pub(crate) fn disable_symlinks(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    let of_same_owner = match arguments::choice(directive, word, "on, if_not_owner or off")? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    };
    let from = match directive.args.get(1).map(|word| (word, word.text.strip_prefix("from="))) {
        None => None,
        Some((word, Some(text))) if of_same_owner.is_some() => Some(builder.template_from(text, word)?),
        Some((word, _)) => {
            return Err(invalid_value(directive, word, "from=PATH, after on or if_not_owner,"));
        }
    };
    block.optional_mut().symlinks = of_same_owner.map(|of_same_owner| Symlinks { if_not_owner: of_same_owner, from });
    Ok(())
}
