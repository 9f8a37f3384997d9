//! Rules of the source that the compiler does not check: which room may use which, what is at the top level of `src`, the length
//! of files and lines, and words that prose avoids.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that meets what it does not expect fails")]

use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 900;
const LINE_COLUMNS_MAX: usize = 130;

/// Returns all files below `dir`.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<PathBuf> =
        entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect();
    all.sort();
    all
}

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn source() -> PathBuf {
    top().join("src")
}

/// Returns the rooms in the order of lib.rs, the lowest first.
fn rooms() -> Vec<String> {
    let lib = fs::read_to_string(source().join("lib.rs")).unwrap();
    let names = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    names.map(str::to_owned).collect()
}

/// Returns the layer of a module path: its room, but `config` for files with directives (`conf.rs`, `*_conf.rs`).
fn layer<'p>(mut path: impl Iterator<Item = &'p str>) -> Option<&'p str> {
    let room = path.next()?;
    Some(if path.any(|part| part == "conf" || part.ends_with("_conf")) { "config" } else { room })
}

/// Returns the paths behind each `crate::` of a text, with line numbers. `crate::{a, b::{c, d}}` has three.
fn paths(text: &str) -> Vec<(usize, String)> {
    let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let mut paths = Vec::new();
    for (at, found) in code.match_indices("crate::") {
        let mut leaves = Vec::new();
        expand(&code[at + found.len()..], "", &mut leaves);
        let line = code[..at].matches('\n').count() + 1;
        paths.extend(leaves.into_iter().map(|path| (line, path)));
    }
    paths
}

/// Adds the paths of a use tree behind `prefix` to `paths`, and returns the length of the tree in bytes.
fn expand(code: &str, prefix: &str, paths: &mut Vec<String>) -> usize {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let length = code.find(|c| !is_path(c)).unwrap_or(code.len());
    let path = format!("{prefix}{}", &code[..length]);
    if !code[length..].starts_with('{') {
        paths.push(path);
        return length;
    }
    let mut at = length + 1;
    while let Some(next) = code[at..].find(|c: char| is_path(c) || c == '}') {
        at += next;
        if code[at..].starts_with('}') {
            return at + 1;
        }
        at += expand(&code[at..], &path, paths);
        at += code[at..].find([',', '}']).unwrap_or(0);
    }
    at
}

#[test]
fn use_trees_are_expanded() {
    let text =
        "use crate::{a, b::{self, c}};\nfn f() { crate::d::e(); } // crate::no\nuse crate::g::{\n    h, i as j,\n};";
    let found: Vec<String> = paths(text).into_iter().map(|(line, path)| format!("{line} {path}")).collect();
    assert_eq!(found, ["1 a", "1 b::self", "1 b::c", "2 d::e", "3 g::h", "3 g::i"]);
}

#[test]
fn a_room_uses_only_rooms_above_it() {
    let rooms = rooms();
    let mut wrong = Vec::new();
    for file in files(&source()) {
        let inner = file.strip_prefix(source()).unwrap().with_extension("");
        let Some(own) = layer(inner.iter().map(|part| part.to_str().unwrap())) else { continue };
        if matches!(own, "lib" | "main") || file.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let rank = |room: &str| {
            rooms.iter().position(|known| known == room).unwrap_or_else(|| panic!("lib.rs does not list {room}"))
        };
        for (line, path) in paths(&fs::read_to_string(&file).unwrap()) {
            let Some(used) = layer(path.split("::")) else { continue };
            if rank(used) > rank(own) {
                wrong.push(format!("{}:{line}: {own} uses {path}", inner.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "uses of rooms below:\n{}", wrong.join("\n"));
}

#[test]
fn files_and_lines_are_not_too_long() {
    let mut wrong = Vec::new();
    for file in files(&source()) {
        let text = fs::read_to_string(&file).unwrap();
        if text.lines().count() > FILE_LINES_MAX {
            wrong.push(format!("{}: more than {FILE_LINES_MAX} lines", file.display()));
        }
        let long = text.lines().enumerate().filter(|(_, line)| line.chars().count() > LINE_COLUMNS_MAX);
        wrong.extend(
            long.map(|(number, _)| format!("{}:{}: more than {LINE_COLUMNS_MAX} columns", file.display(), number + 1)),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_top_level_has_only_rooms() {
    let mut expected: Vec<String> = rooms();
    expected.extend(["lib.rs", "main.rs"].map(str::to_owned));
    expected.sort();
    let entries = fs::read_dir(source()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut found: Vec<String> = entries.collect();
    found.sort();
    assert_eq!(found, expected, "src has the rooms of lib.rs, lib.rs and main.rs");
}

/// Windows reserves some names, with any extension, and characters: a clone there would fail.
#[test]
fn windows_can_have_all_file_names() {
    let is_reserved = |name: &str| {
        let stem = name.split('.').next().unwrap().to_lowercase();
        let is_numbered = stem.len() == 4 && (stem.starts_with("com") || stem.starts_with("lpt"));
        ["con", "prn", "aux", "nul"].contains(&stem.as_str())
            || (is_numbered && stem.ends_with(|c: char| c.is_ascii_digit()))
    };
    let is_bad = |name: &str| {
        is_reserved(name) || name.contains(['<', '>', ':', '"', '|', '?', '*', '\\']) || name.ends_with(['.', ' '])
    };
    let mut bad = Vec::new();
    for directory in ["src", "docs", "configs", "examples", "tests", "bench", "cross", "fuzz", ".ci"] {
        for file in files(&top().join(directory)) {
            let path = file.strip_prefix(top()).unwrap();
            let parts: Vec<&str> = path.iter().map(|part| part.to_str().unwrap()).collect();
            if !parts.iter().any(|part| ["target", "node_modules"].contains(part))
                && parts.iter().any(|part| is_bad(part))
            {
                bad.push(path.display().to_string());
            }
        }
    }
    assert!(bad.is_empty(), "{bad:?}");
}

/// What prose is written in: comments, strings and documents below these paths.
const PROSE: &[&str] = &[
    "src",
    "docs",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "configs",
    "examples",
    "tests",
    "bench",
    "cross",
    "fuzz/src",
    "fuzz/run",
    "fuzz/fuzz_targets",
    ".ci",
];

/// Not ours to word: inputs, licences, lists of packages. And this file, which lists the words.
const EXCLUDED: &[&str] =
    &["tests/corpus", "tests/interop/node_modules", "tests/layering.rs", "copyright", ".json", ".lock", ".pyc"];

/// Words for a person whose role is not named, and a word that is only found in books.
const AVOIDED: &[&str] = &["who", "whom", "nobody", "somebody", "anybody", "anew"];

/// The Unix account, and a flag of systemctl.
const ALLOWED: &[&str] =
    &["user nobody", "chown nobody", "`nobody`", "\"nobody\"", "(nobody)", ".BR nobody", "--kill-whom"];

#[test]
fn prose_names_roles() {
    let mut wrong = Vec::new();
    for file in
        PROSE.iter().map(|path| top().join(path)).flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
    {
        let name = file.strip_prefix(top()).unwrap().display().to_string();
        if EXCLUDED.iter().any(|part| name.starts_with(part) || name.ends_with(part)) {
            continue;
        }
        let Ok(text) = fs::read_to_string(&file) else { continue };
        for (number, line) in text.lines().enumerate() {
            let line = ALLOWED.iter().fold(line.to_owned(), |line, allowed| line.replace(allowed, ""));
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            if let Some(word) = words.find(|word| AVOIDED.iter().any(|avoided| word.eq_ignore_ascii_case(avoided))) {
                wrong.push(format!("{name}:{}: {word}", number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "words to avoid: name the role (client, operator, peer, caller):\n{}", wrong.join("\n"));
}

/// Returns the source of a module and what follows of the path: of `a::b::Type` the file `a/b.rs`, and `Type`.
fn module(path: &str) -> Option<(String, String)> {
    let parts: Vec<&str> = path.split("::").collect();
    (1..=parts.len()).rev().find_map(|count| {
        let (file, item) = parts.split_at(count);
        let base = source().join(file.join("/"));
        let text = fs::read_to_string(base.with_extension("rs")).or_else(|_| fs::read_to_string(base.join("mod.rs")));
        Some((text.ok()?, item.join("::")))
    })
}

#[test]
fn the_map_names_what_exists() {
    let rooms = rooms();
    let texts = ["src/lib.rs", "docs/architecture.md", "CONTRIBUTING.md"]
        .map(|name| fs::read_to_string(top().join(name)).unwrap());
    let text = texts.join("\n").replace("tls/", "tls::").replace("modules/", "modules::");
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
    let paths: Vec<&str> = words
        .map(|word| word.trim_matches(':'))
        .filter(|word| word.split_once("::").is_some_and(|(room, _)| rooms.iter().any(|known| known == room)))
        .collect();
    assert!(paths.len() > 30, "the map was not understood");
    for path in paths {
        let (text, item) = module(path).unwrap_or_else(|| panic!("{path} does not exist"));
        let is_defined = |kind| text.contains(&format!("{kind} {item}"));
        let defined = item.is_empty() || ["fn", "struct", "enum", "trait"].into_iter().any(is_defined);
        assert!(defined, "{path} does not exist");
    }
}
