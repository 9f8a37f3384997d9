//! The log lines that docs/troubleshooting.md quotes must be lines that the program writes.
#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect fails")]

use std::fs;
use std::path::Path;

const PAGE: &str = include_str!("../docs/troubleshooting.md");

/// Appends the string literals of all files below `directory`.
fn literals(directory: &Path, all: &mut String) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            literals(&path, all);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = fs::read_to_string(&path).unwrap().replace("\\\"", "\u{1}");
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
            code.split('"').skip(1).step_by(2).for_each(|literal| {
                // Without placeholders: an empty value joins what stands around it.
                literal.replace('\u{1}', "\"").split(['{', '}']).step_by(2).for_each(|part| all.push_str(part));
                all.push('\n');
            });
        }
    }
}

/// A message without what differs from line to line: quotations, parentheses, and words with digits or slashes.
fn fixed_parts(message: &str) -> Vec<String> {
    let unquoted: String = message.split('"').step_by(2).collect::<Vec<_>>().join("\n");
    let parts = unquoted.split(['(', ')']).enumerate().map(|(at, part)| if at % 2 == 0 { part } else { "\n" });
    let is_value = |word: &&str| word.contains(|c: char| c.is_ascii_digit() || "/[]*#.".contains(c));
    let words = parts.collect::<Vec<_>>().join("\n").replace('\n', " 0 ");
    let words: Vec<&str> = words.split_whitespace().collect();
    words.split(|word| is_value(word)).map(|part| part.join(" ")).filter(|part| part.contains(' ')).collect()
}

/// Whether literals make up a text, each of them at least two words of it; the first word may belong to a value.
fn is_made_of(text: &str, literals: &str) -> bool {
    let ends = text.match_indices(' ').map(|(at, _)| at).skip(1);
    literals.contains(text)
        || text.split_once(' ').is_some_and(|(_, rest)| rest.contains(' ') && literals.contains(rest))
        || ends.into_iter().any(|at| literals.contains(&text[..at]) && is_made_of(&text[at + 1..], literals))
}

#[test]
fn quoted_log_lines_are_lines_of_the_program() {
    let mut all = String::new();
    literals(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut all);
    assert!(!is_made_of("the reload was not done", &all));
    let blocks = PAGE.split("```log\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines: Vec<&str> = blocks.flat_map(str::lines).collect();
    assert!(lines.len() > 20, "the page has lost its lines");
    for line in lines {
        let message = line.split(", client:").next().unwrap();
        let message = message.split_once("] ").map_or(message, |(_, message)| message);
        for part in fixed_parts(message) {
            assert!(is_made_of(&part, &all), "{part:?} is not in src/: {line}");
        }
    }
}
