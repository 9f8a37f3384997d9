//! `map $source $name { ... }`: a variable whose value depends on another one's.

use std::collections::HashMap;

use crate::config::arguments::arg;
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Error, Result, Word};
use crate::config::template::{Template, Variable};
use crate::regex::{Captures, Pattern, Prefilter};

/// The limit of entries per map.
const ENTRIES_MAX: usize = 100_000;

/// A regular expression, and the variables that its named groups assign.
#[derive(Debug)]
pub struct Expression {
    pub pattern: Pattern,
    /// The group, and the number of its variable.
    pub group_variables: Vec<(usize, u32)>,
}

/// Indices of values by key.
type ValueIndices = HashMap<Vec<u8>, u32>;

/// A compiled map. Order of matching, as in nginx: exact text, longest `*.x`, longest `x.*`, expressions in order, default.
#[derive(Debug)]
pub struct Map {
    pub name: String,
    pub source: Template,
    exact: ValueIndices,
    hosts: bool,
    /// Evaluated at each use, not once per request.
    pub volatile: bool,
    leading: ValueIndices,
    trailing: ValueIndices,
    patterns: Vec<(Expression, u32)>,
    prefilter: Prefilter,
    /// The values of the entries, without the default.
    values: Vec<Template>,
    default: Template,
}

impl Map {
    /// Returns what `value` is mapped to, and the captures if an expression matched.
    pub fn lookup(&self, value: &[u8]) -> (&Template, Option<(&Expression, Captures)>) {
        let lower = value.to_ascii_lowercase();
        let key = if self.hosts { lower.strip_suffix(b".").unwrap_or(&lower) } else { &lower };
        if let Some(index) = self.exact.get(key) {
            return (self.value(*index), None);
        }
        if self.hosts {
            let dots = || key.iter().enumerate().filter(|(_, b)| **b == b'.').map(|(at, _)| at);
            let leading = dots().find_map(|at| self.leading.get(key.get(at..)?));
            let trailing =
                || dots().collect::<Vec<_>>().into_iter().rev().find_map(|at| self.trailing.get(key.get(..=at)?));
            if let Some(index) = leading.or_else(trailing) {
                return (self.value(*index), None);
            }
        }
        for number in self.prefilter.candidates(value) {
            let Some((expression, index)) = self.patterns.get(number) else { continue };
            if let Some(captures) = expression.pattern.captures(value) {
                return (self.value(*index), Some((expression, captures)));
            }
        }
        (&self.default, None)
    }

    fn value(&self, index: u32) -> &Template {
        self.values.get(index as usize).unwrap_or(&self.default)
    }

    /// Lists all values that the variable may have.
    pub(crate) fn possible_values(&self) -> impl Iterator<Item = &Template> {
        self.values.iter().chain([&self.default])
    }
}

pub(crate) fn map(builder: &mut Builder, _: &mut BlockBuilder, directive: &Directive) -> Result {
    let name = builder.defined_variable_name(arg(directive, 1))?;
    let mut map = Map {
        name,
        source: builder.template(arg(directive, 0))?,
        exact: HashMap::new(),
        hosts: false,
        volatile: false,
        leading: HashMap::new(),
        trailing: HashMap::new(),
        patterns: Vec::new(),
        prefilter: Prefilter::default(),
        values: Vec::new(),
        default: Template::default(),
    };
    let entries = directive.block.as_deref().unwrap_or_default();
    if entries.len() > ENTRIES_MAX {
        return Err(Error::new(&directive.name.at, format!("more than {ENTRIES_MAX} entries in a map")));
    }
    let has_flag = |word: &str| entries.iter().any(|entry| entry.name.text == word && entry.args.is_empty());
    (map.hosts, map.volatile) = (has_flag("hostnames"), has_flag("volatile"));
    let mut default_seen = false;
    for entry in entries {
        add_entry(builder, &mut map, entry, &mut default_seen)?;
    }
    map.prefilter = Prefilter::new(map.patterns.iter().map(|(expression, _)| &expression.pattern));
    builder.config.maps.push(map);
    Ok(())
}

fn add_entry(builder: &Builder, map: &mut Map, entry: &Directive, default_seen: &mut bool) -> Result {
    let key = &entry.name;
    let value = match entry.args.as_slice() {
        [] if matches!(key.text.as_str(), "hostnames" | "volatile") => return Ok(()),
        [value] if entry.block.is_none() => value,
        _ => {
            let error = Error::new(&key.at, "invalid number of the map parameters");
            let broken = entry.args.windows(2).find(|pair| matches!(pair, [a, b] if b.at.line > a.at.line));
            return Err(match broken {
                Some([a, _]) => error.hint(format!("put a \";\" at the end of line {}", a.at.line)),
                _ => error.hint("a key and a value are expected"),
            });
        }
    };
    let template = builder.template(value)?;
    let duplicate = |word: &Word| word.error("conflicting parameter \"{}\"");
    let text = key.text.as_str();
    if text == "default" && !key.quoted {
        if std::mem::replace(default_seen, true) {
            return Err(duplicate(key));
        }
        map.default = template;
        return Ok(());
    }
    let index = map.values.len() as u32;
    map.values.push(template);
    if let Some(source) = text.strip_prefix('~') {
        let (source, any_case) = source.strip_prefix('*').map_or((source, false), |source| (source, true));
        map.patterns.push((builder.expression(source, any_case, &key.at)?, index));
        return Ok(());
    }
    // A backslash escapes a key with a special meaning: `\default`, `\~x`.
    let text = text.strip_prefix('\\').unwrap_or(text).to_ascii_lowercase();
    let leading = text.strip_prefix('*').filter(|suffix| suffix.starts_with('.'));
    let trailing = text.strip_suffix('*').filter(|prefix| prefix.ends_with('.'));
    let old = match (leading, trailing, text.strip_prefix('.')) {
        _ if !map.hosts => map.exact.insert(text.into_bytes(), index),
        (Some(suffix), ..) => map.leading.insert(suffix.into(), index),
        (None, Some(prefix), _) => map.trailing.insert(prefix.into(), index),
        (None, None, Some(host)) => {
            map.exact.insert(host.into(), index);
            map.leading.insert(text.into(), index)
        }
        (None, None, None) => map.exact.insert(text.into(), index),
    };
    if old.is_some() { Err(duplicate(key)) } else { Ok(()) }
}

/// Rejects maps whose value depends on themselves.
pub(crate) fn check_cycles(maps: &[Map]) -> Result {
    // 0: not visited, 1: being visited, 2: no cycle
    let mut states = vec![0u8; maps.len()];
    fn visit(at: usize, maps: &[Map], states: &mut [u8]) -> Result {
        let Some(map) = maps.get(at) else { return Ok(()) };
        match states.get(at).copied() {
            Some(1) => {
                return Err(Error::without_position(format!(
                    "cycle while evaluating variable \"{}\": the map depends on itself",
                    map.name
                )));
            }
            Some(0) => {}
            _ => return Ok(()),
        }
        let mut set = |state| states.get_mut(at).map(|s| *s = state);
        set(1);
        for variable in map.possible_values().chain([&map.source]).flat_map(Template::variables) {
            if let Variable::Map(next) = variable {
                visit(*next as usize, maps, states)?;
            }
        }
        if let Some(state) = states.get_mut(at) {
            *state = 2;
        }
        Ok(())
    }
    (0..maps.len()).try_for_each(|at| visit(at, maps, &mut states))
}
