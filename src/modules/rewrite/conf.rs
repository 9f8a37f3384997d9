//! The rewrite module's steps, which run in order: `return`, `set`, `if`, `rewrite`, `break`.

use std::sync::Arc;

use crate::config::arguments::{self, arg, invalid_value};
use crate::config::builder::{BlockBuilder, Builder, variable_name};
use crate::config::parser::{Directive, Error, Result, Word};
use crate::config::template::Template;
use crate::config::{directives, values};
use crate::modules::map::conf::Expression;
use crate::request::location_conf::Location;

/// One step.
#[derive(Clone, Debug)]
pub enum RewriteStep {
    Return { status: u16, body: ReturnBody },
    Set { target: SetTarget, value: Template },
    If(Arc<If>),
    Rewrite(Arc<Rewrite>),
    Break,
}

/// The response of `return`.
#[derive(Clone, Debug)]
pub enum ReturnBody {
    Page,
    Text(Template),
    Redirect(Template),
}

/// The variable that `set` assigns.
#[derive(Clone, Copy, Debug)]
pub enum SetTarget {
    User(u32),
    Args,
    LimitRate,
}

/// An `if`.
#[derive(Debug)]
pub struct If {
    pub condition: Condition,
    pub steps: Vec<RewriteStep>,
    /// The location with the settings of the block, if it has other directives than steps.
    pub location: Option<Arc<Location>>,
}

#[derive(Debug)]
pub enum Condition {
    True(Template),
    Equal { left: Template, right: Template, negated: bool },
    Match { subject: Template, expression: Expression, negated: bool },
    File { test: FileTest, name: Template, negated: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileTest {
    File,
    Directory,
    Exists,
    Executable,
}

/// A `rewrite`.
#[derive(Debug)]
pub struct Rewrite {
    pub expression: Expression,
    pub replacement: Template,
    /// The arguments of the replacement. A `?` in the value of a variable does not start arguments.
    pub args: Option<Template>,
    /// Whether the arguments of the request are appended; not if the replacement ends with `?`.
    pub keeps_args: bool,
    pub flag: RewriteFlag,
}

/// What happens after a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RewriteFlag {
    NextStep,
    /// Ends the steps and searches for a location again.
    Last,
    /// Ends the steps and stays in the location.
    Break,
    Redirect(u16),
}

/// `return CODE`, `return CODE TEXT`, `return CODE URL`, `return URL`.
pub(crate) fn return_step(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let first = arg(directive, 0);
    let step = match (values::number(&first.text), directive.args.get(1)) {
        (Some(code), second) => {
            let status = u16::try_from(code).ok().filter(|code| *code <= 999);
            let status = status.ok_or_else(|| invalid_value(directive, first, "a status code from 0 to 999"))?;
            let what = match second {
                Some(url) if matches!(status, 301 | 302 | 303 | 307 | 308) => {
                    ReturnBody::Redirect(builder.template(url)?)
                }
                Some(text) => ReturnBody::Text(builder.template(text)?),
                None => ReturnBody::Page,
            };
            RewriteStep::Return { status, body: what }
        }
        (None, None) if is_url(&first.text) => {
            RewriteStep::Return { status: 302, body: ReturnBody::Redirect(builder.template(first)?) }
        }
        (None, _) => {
            let expected = "a status code, or a URL that starts with http://, https:// or $scheme";
            return Err(invalid_value(directive, first, expected));
        }
    };
    block.steps.push(step);
    Ok(())
}

fn is_url(text: &str) -> bool {
    ["http://", "https://", "$scheme"].iter().any(|start| text.starts_with(start))
}

pub(crate) fn break_step(_: &mut Builder, block: &mut BlockBuilder, _: &Directive) -> Result {
    block.steps.push(RewriteStep::Break);
    Ok(())
}

impl Builder {
    /// Returns the variable that a directive assigns.
    pub(crate) fn set_target(&self, target: &Word) -> Result<SetTarget> {
        let name = variable_name(target)?;
        match self.user_variable(name) {
            Some(number) => Ok(SetTarget::User(number)),
            None if name == "args" || name == "query_string" => Ok(SetTarget::Args),
            None if name == "limit_rate" => Ok(SetTarget::LimitRate),
            None => Err(Error::formatted(&target.at, "the duplicate \"{}\" variable", name)
                .hint("built-in variables and results of maps can't be set")),
        }
    }
}

pub(crate) fn set(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let to = builder.set_target(arg(directive, 0))?;
    let value = builder.template(arg(directive, 1))?;
    block.steps.push(RewriteStep::Set { target: to, value });
    Ok(())
}

pub(crate) fn rewrite(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let (pattern, to) = (arg(directive, 0), arg(directive, 1));
    let then = match directive.args.get(2) {
        None if is_url(&to.text) => RewriteFlag::Redirect(302),
        None => RewriteFlag::NextStep,
        Some(word) => match arguments::choice(directive, word, "last, break, redirect or permanent")? {
            0 => RewriteFlag::Last,
            1 => RewriteFlag::Break,
            2 => RewriteFlag::Redirect(302),
            _ => RewriteFlag::Redirect(301),
        },
    };
    let expression = builder.expression(&pattern.text, false, &pattern.at)?;
    let keeps_args = !to.text.ends_with('?');
    let (path, args) = match to.text.split_once('?') {
        Some((path, args)) => (path, Some(args.strip_suffix('?').unwrap_or(args)).filter(|args| !args.is_empty())),
        None => (to.text.as_str(), None),
    };
    let template = |text: &str| builder.template_from(text, to);
    let (path, args) = (template(path)?, args.map(template).transpose()?);
    block.steps.push(RewriteStep::Rewrite(Arc::new(Rewrite {
        expression,
        replacement: path,
        args,
        keeps_args,
        flag: then,
    })));
    Ok(())
}

/// `if (condition) { ... }`.
pub(crate) fn if_step(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let condition = parse_condition(builder, directive)?;
    let context = if block.context == directives::SERVER { directives::SERVER_IF } else { directives::LOCATION_IF };
    let directives = directive.block.as_deref().unwrap_or_default();
    let location = block.location.as_ref().map(crate::request::location_conf::LocationBuilder::for_nested_block);
    let mut inner = builder.build_block(block, directive, context, location)?;
    let steps_only =
        directives.iter().all(|d| matches!(directives::find(&d.name.text), Some(spec) if spec.action.is_step()));
    let steps = std::mem::take(&mut inner.steps);
    let scope =
        crate::request::location_conf::build_nested_block(builder, block, inner, directive)?.filter(|_| !steps_only);
    block.steps.push(RewriteStep::If(Arc::new(If { condition, steps, location: scope })));
    Ok(())
}

/// Parses the words between the parentheses, which may touch the first and the last one.
fn parse_condition(builder: &Builder, directive: &Directive) -> Result<Condition> {
    let wrong = |at: &Word| {
        Error::new(&at.at, "invalid condition")
            .hint("($variable), ($variable = value), ($variable ~ expression) or (-f file)")
    };
    let first = arg(directive, 0);
    let last = directive.args.last().unwrap_or(first);
    if !first.text.starts_with('(') || first.quoted || !last.text.ends_with(')') || last.quoted {
        return Err(first.error("invalid condition \"{}\"").hint("a condition in parentheses is expected"));
    }
    let mut words = directive.args.clone();
    if let Some(word) = words.first_mut() {
        word.text.remove(0);
    }
    if let Some(word) = words.last_mut() {
        word.text.pop();
    }
    words.retain(|word| word.quoted || !word.text.is_empty());
    match words.as_slice() {
        [one] if one.text.starts_with('$') => Ok(Condition::True(builder.template(one)?)),
        [test, name] if test.text.starts_with(['-', '!']) => {
            let negated = test.text.starts_with('!');
            let test = match test.text.trim_start_matches('!') {
                "-f" => FileTest::File,
                "-d" => FileTest::Directory,
                "-e" => FileTest::Exists,
                "-x" => FileTest::Executable,
                _ => return Err(wrong(test)),
            };
            Ok(Condition::File { test, name: builder.template(name)?, negated })
        }
        [left, operator, right] if left.text.starts_with('$') => {
            let negated = operator.text.starts_with('!');
            let (left, any_case) = (builder.template(left)?, operator.text.ends_with('*'));
            match operator.text.trim_start_matches('!') {
                "=" => Ok(Condition::Equal { left, right: builder.template(right)?, negated }),
                "~" | "~*" => {
                    let expression = builder.expression(&right.text, any_case, &right.at)?;
                    Ok(Condition::Match { subject: left, expression, negated })
                }
                _ => Err(wrong(operator)),
            }
        }
        _ => Err(wrong(first)),
    }
}
