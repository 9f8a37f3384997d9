//! The table of directives, read from its source: what is written there is what the program knows.

use std::collections::{BTreeMap, BTreeSet};

const TABLE: &str = include_str!("../../src/config/directives.rs");

/// What becomes of a directive (`works`, `Note`, `OnlyOff`, `Refuse`), where it may stand, and its fewest and most arguments.
pub(crate) type Known = (&'static str, BTreeSet<&'static str>, (usize, usize));

pub(crate) fn known() -> BTreeMap<&'static str, Known> {
    let lines = TABLE.split("static TABLE").nth(1).unwrap().split("#[cfg(test)]").next().unwrap();
    let one = |spec: &'static str| {
        let (name, rest) = spec.split_once('"').unwrap();
        let mut words = rest.trim_start_matches(',').split(',').map(str::trim);
        let contexts = words.next().unwrap();
        let mut count = || words.next().unwrap().parse().unwrap_or(usize::MAX);
        let counts = (count(), count());
        let treat = ["Refuse(", "OnlyOff(", "Note("].into_iter().find(|treat| rest.contains(treat)).unwrap_or("works");
        (name, (treat.trim_end_matches('('), meaning(contexts), counts))
    };
    lines.split("spec(").skip(1).map(|spec| one(spec.trim_start().trim_start_matches('"'))).collect()
}

/// The names of contexts that an expression like `HSL | UPSTREAM` stands for.
fn meaning(contexts: &'static str) -> BTreeSet<&'static str> {
    let one = |context: &'static str| match context {
        "MAIN" => BTreeSet::from(["main"]),
        "EVENTS" => BTreeSet::from(["events"]),
        "HTTP" => BTreeSet::from(["http"]),
        "SERVER" => BTreeSet::from(["server"]),
        "LOCATION" => BTreeSet::from(["location"]),
        "UPSTREAM" => BTreeSet::from(["upstream"]),
        "LIMIT_EXCEPT" => BTreeSet::from(["limit_except"]),
        "SERVER_IF" => BTreeSet::from(["if in server"]),
        "LOCATION_IF" => BTreeSet::from(["if in location"]),
        other => meaning(TABLE.split(&format!("const {other}: u16 = ")).nth(1).unwrap().split(';').next().unwrap()),
    };
    contexts.split('|').flat_map(|context| one(context.trim())).collect()
}
