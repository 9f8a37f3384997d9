//! `charset` and its relatives: the `charset` parameter of Content-Type.

use crate::config::arguments::arg;
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Result};
use crate::config::template::Template;
use crate::modules::gzip::conf::MediaTypes;

/// The note of the directives that recode bodies.
pub(crate) const NOT_RECODED: &str = "bodies are not recoded: Content-Type names the charset of \"source_charset\"";

/// The charset sent in Content-Type.
#[derive(Clone, Debug)]
pub struct Charset {
    /// None: no charset is added.
    pub name: Option<Template>,
    /// The charset of the bodies: since they are not recoded, it is sent in place of `name`.
    pub source: Option<Template>,
    pub types: MediaTypes,
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
        Self { name: None, source: None, types: MediaTypes::Listed(USUAL.map(Into::into).into()) }
    }
}

pub(crate) fn charset_mut(block: &mut BlockBuilder) -> &mut Charset {
    block.optional_mut().charset.get_or_insert_default()
}

pub(crate) fn charset(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    let name = builder.template(word)?;
    charset_mut(block).name = (word.text != "off" && !word.text.is_empty()).then_some(name);
    Ok(())
}

pub(crate) fn charset_types(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let types = charset_mut(block).types.clone();
    charset_mut(block).types = types.extended_by(directive, block.is_first)?;
    Ok(())
}

pub(crate) fn source_charset(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    charset_mut(block).source = Some(builder.template(arg(directive, 0))?);
    builder.note(&directive.name, NOT_RECODED);
    Ok(())
}

pub(crate) fn charset_map(builder: &mut Builder, _: &mut BlockBuilder, directive: &Directive) -> Result {
    builder.note(&directive.name, NOT_RECODED);
    Ok(())
}
