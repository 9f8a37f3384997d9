//! Rules of the source that no compiler holds: which room may use which, and how long files and lines may be.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that meets what it does not expect fails")]

use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 900;
const LINE_COLUMNS_MAX: usize = 130;

/// All files below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<PathBuf> =
        entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect();
    all.sort();
    all
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The rooms, from the ground up, as lib.rs lists them.
fn rooms() -> Vec<String> {
    let lib = fs::read_to_string(source().join("lib.rs")).unwrap();
    let names = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    names.map(str::to_owned).collect()
}

/// The layer of a path of modules: that of its room, but files with directives (`conf.rs`, `*_conf.rs`) belong to `config`
/// wherever they are.
fn layer<'p>(mut path: impl Iterator<Item = &'p str>) -> Option<&'p str> {
    let room = path.next()?;
    Some(if path.any(|part| part == "conf" || part.ends_with("_conf")) { "config" } else { room })
}

/// The paths behind each `crate::` of a text, with the numbers of their lines. `crate::{a, b::{c, d}}` has three.
fn paths(text: &str) -> Vec<(usize, String)> {
    let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let mut paths = Vec::new();
    for (at, found) in code.match_indices("crate::") {
        let mut ends = Vec::new();
        expand(&code[at + found.len()..], "", &mut ends);
        let line = code[..at].matches('\n').count() + 1;
        paths.extend(ends.into_iter().map(|path| (line, path)));
    }
    paths
}

/// Puts the paths of a use tree behind `prefix` into `paths`, and returns how many bytes the tree has.
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
fn a_tree_of_names_has_all_its_paths() {
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
    assert!(wrong.is_empty(), "what they use does not stand above them:\n{}", wrong.join("\n"));
}

#[test]
fn files_and_lines_have_an_end() {
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
