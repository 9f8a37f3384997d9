//! `stub_status` and `status`: responses generated from the metrics.

use crate::config::arguments::invalid_value;
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Error, Result, Word};

/// A generated response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// nginx's page with seven numbers.
    StubStatus,
    /// All metrics, in this format. None: in the format that the request asks for.
    Status(Option<StatusForm>),
}

/// A format of `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusForm {
    Html,
    Json,
    Prometheus,
}

impl StatusForm {
    /// Whether this build has the HTML page.
    pub const HAS_PAGE: bool = cfg!(feature = "page");
}

/// The argument is ignored; old versions of nginx require one.
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
            _ => return Err(invalid_value(directive, word, "html, json, prometheus or no argument")),
        }),
    };
    set_content(block, directive, Content::Status(form))
}

fn set_content(block: &mut BlockBuilder, directive: &Directive, content: Content) -> Result {
    match block.content.replace(content) {
        None => Ok(()),
        Some(Content::StubStatus) if content == Content::StubStatus => Ok(()),
        Some(_) => Err(duplicate_content(&directive.name)),
    }
}

/// Rejects a location with two directives that respond: one would have no effect.
pub(crate) fn check_single_content(block: &BlockBuilder, location: &Word) -> Result {
    let passes = block.location.as_ref().is_some_and(|location| location.proxy_pass.is_some());
    if passes && block.content.is_some() { Err(duplicate_content(location)) } else { Ok(()) }
}

fn duplicate_content(at: &Word) -> Error {
    Error::new(&at.at, "this block has two directives that respond")
        .hint("keep one of \"proxy_pass\", \"status\" and \"stub_status\"")
}
