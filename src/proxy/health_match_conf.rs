//! `match`: tests for the response to a health check, all of which must pass.

use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::config::arguments::arg;
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Result};
use crate::config::values;
use crate::http1::head::Response;
use crate::regex::Pattern;

const LINES: &str =
    "status [!] 200 300-399, header [!] name, header name =|!=|~|!~ value, or body ~|!~ expression is expected";

/// The tests of a `match`; `true` marks a negated one.
#[derive(Debug)]
pub struct HealthMatch {
    status: Vec<(Vec<RangeInclusive<u16>>, bool)>,
    headers: Vec<(String, ValueTest, bool)>,
    body: Vec<(Pattern, bool)>,
}

#[derive(Debug)]
enum ValueTest {
    Present,
    Equals(String),
    Matches(Pattern),
}

impl Default for HealthMatch {
    /// The test without a `match=`.
    fn default() -> Self {
        Self { status: vec![(vec![200..=399], false)], headers: Vec::new(), body: Vec::new() }
    }
}

impl HealthMatch {
    /// Returns the reason if the head fails a test.
    pub fn mismatch(&self, head: &Response) -> Option<String> {
        let has = |ranges: &[RangeInclusive<u16>]| ranges.iter().any(|range| range.contains(&head.status));
        if self.status.iter().any(|(ranges, negated)| has(ranges) == *negated) {
            return Some(format!("status {}", head.status));
        }
        let (name, ..) = self.headers.iter().find(|(name, value, negated)| {
            let mut lines = head.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name.as_bytes()));
            !match value {
                ValueTest::Present => lines.next().is_some() != *negated,
                ValueTest::Equals(text) => lines.any(|line| (line.value == text.as_bytes()) != *negated),
                ValueTest::Matches(pattern) => lines.any(|line| pattern.is_match(line.value) != *negated),
            }
        })?;
        Some(format!("response header \"{name}\" does not match"))
    }

    /// Whether there is a test of the body.
    pub fn tests_body(&self) -> bool {
        !self.body.is_empty()
    }

    /// Whether the body passes its tests.
    pub fn matches_body(&self, body: &[u8]) -> bool {
        self.body.iter().all(|(pattern, negated)| pattern.is_match(body) != *negated)
    }

    fn add(&mut self, builder: &Builder, line: &Directive) -> Result {
        let wrong = || line.name.error("invalid \"{}\" in \"match\"").hint(LINES);
        let words: Vec<&str> = line.args.iter().map(|word| word.text.as_str()).collect();
        let (negated, words) = words.strip_prefix(&["!"]).map_or((false, words.as_slice()), |words| (true, words));
        let at = line.args.last().map_or(&line.name.at, |word| &word.at);
        let pattern = |text: &str| builder.expression(text, false, at).map(|expression| expression.pattern);
        match (line.name.text.as_str(), negated, words) {
            ("status", _, [_, ..]) => {
                let ranges = words.iter().map(parse_status_range).collect::<Option<_>>();
                self.status.push((ranges.ok_or_else(wrong)?, negated));
            }
            ("header", _, [name]) => self.headers.push(((*name).into(), ValueTest::Present, negated)),
            ("header", false, [name, is @ ("=" | "!=" | "~" | "!~"), text]) => {
                let value = if is.ends_with('=') {
                    ValueTest::Equals((*text).into())
                } else {
                    ValueTest::Matches(pattern(text)?)
                };
                self.headers.push(((*name).into(), value, is.starts_with('!')));
            }
            ("body", false, [is @ ("~" | "!~"), text]) => self.body.push((pattern(text)?, *is == "!~")),
            _ => return Err(wrong()),
        }
        Ok(())
    }
}

/// Parses a status, or a range of them.
fn parse_status_range(word: &&str) -> Option<RangeInclusive<u16>> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    let code = |text| u16::try_from(values::number(text)?).ok().filter(|code| (100..1000).contains(code));
    Some(code(first)?..=code(last)?).filter(|range| !range.is_empty())
}

/// The `match` blocks, by name.
pub(crate) type HealthMatches = Vec<(String, Arc<HealthMatch>)>;

/// `match NAME { status ...; header ...; body ...; }`
pub(crate) fn match_block(builder: &mut Builder, _: &mut BlockBuilder, directive: &Directive) -> Result {
    let name = arg(directive, 0);
    builder.claim_name("match", name)?;
    let mut expected = HealthMatch { status: Vec::new(), headers: Vec::new(), body: Vec::new() };
    directive.block.iter().flatten().try_for_each(|line| expected.add(builder, line))?;
    builder.health_matches.push((name.text.clone(), Arc::new(expected)));
    Ok(())
}
