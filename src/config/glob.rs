//! File name patterns of `include`: `*`, `?` and `[...]` within one component, as glob(3).

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Whether a name is a pattern at all.
pub(super) fn is_pattern(name: &[u8]) -> bool {
    name.iter().any(|byte| matches!(byte, b'*' | b'?' | b'['))
}

/// The existing paths that `pattern` matches, in the order of their bytes.
pub(super) fn expand(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for component in pattern.components() {
        let mut longer = Vec::new();
        for path in found {
            match component {
                Component::Normal(name) if is_pattern(name.as_bytes()) => {
                    add_entries(&mut longer, &path, name.as_bytes());
                }
                other => {
                    let there = Some(path.join(other)).filter(|path| path.exists());
                    there.into_iter().for_each(|path| add(&mut longer, path));
                }
            }
        }
        found = longer;
    }
    found
}

fn add_entries(found: &mut Vec<PathBuf>, folder: &Path, pattern: &[u8]) {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.as_bytes();
        // A leading dot must be written out.
        let is_hidden = name.starts_with(b".") && !pattern.starts_with(b".");
        if !is_hidden && matches(pattern, name) {
            add(found, entry.path());
        }
    }
}

fn add(found: &mut Vec<PathBuf>, path: PathBuf) {
    let place = found.partition_point(|known| known.as_os_str() < path.as_os_str());
    found.insert(place, path);
}

/// Whether the whole of `name` matches.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=name.len()).any(|at| matches(rest, name.get(at..).unwrap_or_default())),
        ([b'?', rest @ ..], [_, tail @ ..]) => matches(rest, tail),
        ([b'[', set @ ..], [byte, tail @ ..]) => match class(set, *byte) {
            Some((true, rest)) => matches(rest, tail),
            Some((false, _)) => false,
            None => *byte == b'[' && matches(set, tail),
        },
        ([p, rest @ ..], [n, tail @ ..]) => p == n && matches(rest, tail),
        _ => false,
    }
}

/// Whether `byte` is in the set that starts here, and what follows the set. `None` if it has no end.
fn class(set: &[u8], byte: u8) -> Option<(bool, &[u8])> {
    let (negated, set) = match set {
        [b'!' | b'^', rest @ ..] => (true, rest),
        _ => (false, set),
    };
    // The first character belongs to the set, even if it is `]`.
    let end = 1 + set.get(1..)?.iter().position(|b| *b == b']')?;
    let (mut members, rest) = (set.get(..end)?, set.get(end + 1..)?);
    let mut found = false;
    while let Some((first, tail)) = members.split_first() {
        members = match tail {
            [b'-', last, tail @ ..] => {
                found |= (*first..=*last).contains(&byte);
                tail
            }
            _ => {
                found |= *first == byte;
                tail
            }
        };
    }
    Some((found != negated, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_glob_does() {
        for (pattern, name, expected) in [
            ("*.conf", "a.conf", true),
            ("*.conf", "a.conf~", false),
            ("events[.]conf", "events.conf", true),
            ("a?c", "abc", true),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]x]", "]", true),
            ("[x", "[x", true),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
