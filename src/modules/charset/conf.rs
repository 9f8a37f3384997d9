//! `charset` and what belongs to it: the encoding of texts, as clients are told.

use crate::config::builder::{BlockBuilder, Builder, arg};
use crate::config::parser::{Directive, Error};
use crate::config::template::Template;
use crate::modules::gzip::conf::Types;

type Set = Result<(), Error>;

/// Why what asks for recoding is ignored.
pub(crate) const NOT_RECODED: &str = "bodies are not recoded: clients are told the charset of \"source_charset\"";

/// What is told of the encoding of texts.
#[derive(Clone, Debug)]
pub struct Charset {
    /// None: nothing.
    pub name: Option<Template>,
    /// The encoding that bodies have: they are not recoded, so it is the one that clients are told.
    pub source: Option<Template>,
    pub types: Types,
}

impl Default for Charset {
    fn default() -> Self {
        const USUAL: [&str; 6] = [
            "text/html",
            "text/xml",
            "text/plain",
            "text/vnd.wap.wml",
            "application/javascript",
            "application/rss+xml",
        ];
        Self { name: None, source: None, types: Types::Listed(USUAL.map(Into::into).into()) }
    }
}

pub(crate) fn of(draft: &mut BlockBuilder) -> &mut Charset {
    draft.rare().charset.get_or_insert_default()
}

pub(crate) fn charset(walk: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Set {
    let word = arg(directive, 0);
    let name = walk.template(word)?;
    of(draft).name = (word.text != "off" && !word.text.is_empty()).then_some(name);
    Ok(())
}

pub(crate) fn charset_types(_: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Set {
    let types = of(draft).types.clone();
    of(draft).types = types.with(directive, draft.first)?;
    Ok(())
}

pub(crate) fn source_charset(walk: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Set {
    of(draft).source = Some(walk.template(arg(directive, 0))?);
    walk.note(&directive.name, NOT_RECODED);
    Ok(())
}

pub(crate) fn charset_map(walk: &mut Builder, _: &mut BlockBuilder, directive: &Directive) -> Set {
    walk.note(&directive.name, NOT_RECODED);
    Ok(())
}
