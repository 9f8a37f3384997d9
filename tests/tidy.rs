//! Rules of the source that no compiler holds: who may use whom, and how long files and lines may be.
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

/// The modules, from the ground up, as lib.rs lists them.
fn order() -> Vec<String> {
    let lib = fs::read_to_string(source().join("lib.rs")).unwrap();
    let names = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    names.map(str::to_owned).collect()
}

/// The module that a file belongs to: what is in a folder belongs to the module of that name.
fn module_of(file: &Path) -> Option<String> {
    let inner = file.strip_prefix(source()).unwrap().with_extension("");
    let name = inner.components().next()?.as_os_str().to_str()?.to_owned();
    (!matches!(name.as_str(), "lib" | "main")).then_some(name)
}

/// The modules that a line of code names after `crate::`.
fn used(line: &str) -> Vec<&str> {
    let code = line.split("//").next().unwrap_or_default();
    let after = code.split("crate::").skip(1);
    after
        .flat_map(|rest| match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or_default().split(',').map(str::trim).collect(),
            None => vec![rest],
        })
        .map(|rest| rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default())
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn a_module_uses_only_what_stands_above_it() {
    let order = order();
    let place = |name: &str| order.iter().position(|known| known == name);
    let mut wrong = Vec::new();
    for file in files(&source()) {
        let Some(module) = module_of(&file) else { continue };
        let own = place(&module).unwrap_or_else(|| panic!("lib.rs does not list {module}"));
        let text = fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            let above = |name: &str| name == module || place(name).is_some_and(|at| at < own);
            let used = used(line).into_iter().filter(|name| !above(name));
            wrong.extend(used.map(|name| format!("{}:{}: {module} uses {name}", file.display(), number + 1)));
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
