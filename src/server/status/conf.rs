//! `stub_status` and `status`: what a location answers with by itself.

use crate::config::arguments::invalid_value;
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Error, Result, Word};

/// What is answered without a file and without an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// nginx's seven numbers.
    StubStatus,
    /// All numbers, in this form, or in the one that is asked for.
    Status(Option<StatusForm>),
}

/// A form of the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusForm {
    Html,
    Json,
    Prometheus,
}

impl StatusForm {
    /// Whether this build has the page.
    pub const HAS_PAGE: bool = cfg!(feature = "page");
}

/// Its argument means nothing; old versions of nginx ask for one.
pub(crate) fn stub_status(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    set_content(block, directive, Content::StubStatus)
}

pub(crate) fn status(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let form = match directive.args.first() {
        None => None,
        Some(word) => Some(match word.text.as_str() {
            "html" if StatusForm::HAS_PAGE => StatusForm::Html,
            "html" => {
                return Err(Error::new(&word.at, "\"status html\" is not supported").hint("this build has no page"));
            }
            "json" => StatusForm::Json,
            "prometheus" => StatusForm::Prometheus,
            _ => return Err(invalid_value(directive, word, "html, json, prometheus or nothing")),
        }),
    };
    set_content(block, directive, Content::Status(form))
}

fn set_content(block: &mut BlockBuilder, directive: &Directive, content: Content) -> Result {
    match block.content.replace(content) {
        None => Ok(()),
        Some(_) => Err(duplicate_content(&directive.name)),
    }
}

/// Of two directives that answer, one would do nothing.
pub(crate) fn check_single_content(block: &BlockBuilder, location: &Word) -> Result {
    let passes = block.location.as_ref().is_some_and(|location| location.proxy_pass.is_some());
    if passes && block.content.is_some() { Err(duplicate_content(location)) } else { Ok(()) }
}

fn duplicate_content(at: &Word) -> Error {
    Error::new(&at.at, "this block is answered in two ways")
        .hint("\"proxy_pass\", \"status\" or \"stub_status\": one of them is expected")
}
