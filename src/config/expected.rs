//! `match`: what an answer to a health check must be like to be a good one. All that is said must be so.

use std::sync::Arc;

use super::build::{Draft, Walk, arg, find, invalid};
use super::syntax::{Directive, Error, Word};
use super::units;
use crate::head::Response;
use crate::pattern::Pattern;

type Set = Result<(), Error>;

/// What a good answer is.
#[derive(Debug)]
pub struct Expected {
    status: Option<Statuses>,
    fields: Vec<Test>,
    body: Option<Text>,
}

/// Statuses of answers.
#[derive(Debug)]
struct Statuses {
    /// First and last.
    ranges: Vec<(u16, u16)>,
    /// All others are meant.
    negated: bool,
}

/// What a field must be.
#[derive(Debug)]
struct Test {
    name: String,
    /// `None`: whatever it is, if it is there.
    value: Option<Text>,
    /// It must not be there.
    absent: bool,
}

/// What a text must be.
#[derive(Debug)]
struct Text {
    is: Like,
    negated: bool,
}

#[derive(Debug)]
enum Like {
    Same(String),
    Matching(Pattern),
}

impl Default for Expected {
    /// What is good where no `match` says it.
    fn default() -> Self {
        let good = Statuses { ranges: vec![(200, 399)], negated: false };
        Self { status: Some(good), fields: Vec::new(), body: None }
    }
}

impl Expected {
    /// What of a head is not as it should be.
    pub fn objection(&self, head: &Response) -> Option<String> {
        if self.status.as_ref().is_some_and(|statuses| !statuses.has(head.status)) {
            return Some(format!("it answers with status {}", head.status));
        }
        let wrong = self.fields.iter().find(|test| !test.holds(head))?;
        Some(format!("the field \"{}\" of its answer does not match", wrong.name))
    }

    /// Whether the body matters.
    pub fn has_body(&self) -> bool {
        self.body.is_some()
    }

    pub fn takes_body(&self, body: &[u8]) -> bool {
        self.body.as_ref().is_none_or(|text| text.holds(body))
    }
}

impl Statuses {
    fn has(&self, status: u16) -> bool {
        self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&status)) != self.negated
    }
}

impl Test {
    fn holds(&self, head: &Response) -> bool {
        let mut values = head.fields.iter().filter(|field| field.name.eq_ignore_ascii_case(self.name.as_bytes()));
        match &self.value {
            None => values.next().is_none() == self.absent,
            Some(text) if text.negated => values.all(|field| text.holds(field.value)),
            Some(text) => values.any(|field| text.holds(field.value)),
        }
    }
}

impl Text {
    fn holds(&self, bytes: &[u8]) -> bool {
        let is = match &self.is {
            Like::Same(text) => text.as_bytes() == bytes,
            Like::Matching(pattern) => pattern.is_match(bytes),
        };
        is != self.negated
    }
}

/// The `match` blocks, by name.
pub(super) type Matches = Vec<(String, Arc<Expected>)>;

/// `match NAME { status ...; header ...; body ...; }`
pub(super) fn match_block(walk: &mut Walk, _: &mut Draft, directive: &Directive) -> Set {
    let name = arg(directive, 0);
    let mut expected = Expected { status: None, fields: Vec::new(), body: None };
    for inner in directive.block.as_deref().unwrap_or_default() {
        let twice = || Err(inner.name.wrong("\"{}\" directive is duplicate"));
        match inner.name.text.as_str() {
            "status" if expected.status.is_some() => return twice(),
            "body" if expected.body.is_some() => return twice(),
            "status" => expected.status = Some(statuses(inner)?),
            "header" => expected.fields.push(field(walk, inner)?),
            "body" => expected.body = Some(body(walk, inner)?),
            _ => {
                return Err(inner
                    .name
                    .wrong("\"{}\" is not supported in \"match\"")
                    .hint("status, header or body is expected"));
            }
        }
    }
    if find(&walk.matches, &name.text).is_some() {
        return Err(name.wrong("duplicate match \"{}\""));
    }
    walk.matches.push((name.text.clone(), Arc::new(expected)));
    Ok(())
}

/// `status [!] 200 204 300-399;`
fn statuses(directive: &Directive) -> Result<Statuses, Error> {
    let negated = directive.args.first().is_some_and(|word| word.text == "!");
    let words = directive.args.get(usize::from(negated)..).unwrap_or_default();
    if words.is_empty() {
        return Err(Error::new(&directive.name.at, "a status is missing").hint("200, or a range such as 200-399"));
    }
    let status = |text: &str| {
        units::number(text).and_then(|number| u16::try_from(number).ok()).filter(|status| (100..1000).contains(status))
    };
    let mut ranges = Vec::new();
    for word in words {
        let (first, last) = word.text.split_once('-').unwrap_or((&word.text, &word.text));
        let range = status(first).zip(status(last)).filter(|(first, last)| first <= last);
        ranges.push(range.ok_or_else(|| invalid(directive, word, "a status, or a range such as 200-399,"))?);
    }
    Ok(Statuses { ranges, negated })
}

/// `header NAME;` `header ! NAME;` `header NAME [= | != | ~ | !~] VALUE;`
fn field(walk: &Walk, directive: &Directive) -> Result<Test, Error> {
    let test = |name: &Word, value, absent| Ok(Test { name: name.text.clone(), value, absent });
    match directive.args.as_slice() {
        [name] if name.text != "!" => test(name, None, false),
        [not, name] if not.text == "!" => test(name, None, true),
        [name, operator, value] => test(name, Some(text(walk, directive, operator, value)?), false),
        _ => Err(Error::new(
            &directive.name.at,
            "\"header\" takes a name, \"!\" and a name, or a name, an operator and a value",
        )),
    }
}

/// `body ~ EXPRESSION;` `body !~ EXPRESSION;`
fn body(walk: &Walk, directive: &Directive) -> Result<Text, Error> {
    match directive.args.as_slice() {
        [operator, value] if matches!(operator.text.as_str(), "~" | "!~") => text(walk, directive, operator, value),
        _ => Err(Error::new(&directive.name.at, "\"body\" takes \"~\" or \"!~\" and an expression")),
    }
}

fn text(walk: &Walk, directive: &Directive, operator: &Word, value: &Word) -> Result<Text, Error> {
    let (bare, negated) = match operator.text.strip_prefix('!') {
        Some(bare) => (bare, true),
        None => (operator.text.as_str(), false),
    };
    let is = match bare {
        "=" => Like::Same(value.text.clone()),
        "~" => Like::Matching(walk.expression(&value.text, false, &value.at)?.pattern),
        _ => return Err(invalid(directive, operator, "=, !=, ~ or !~")),
    };
    Ok(Text { is, negated })
}
