//! Finding a text in a text. The standard library's way is made for long ones, and is 2.5 kB of program; those here are
//! lines of a configuration and fields.

/// What stands before and behind the first `part` of `text`, which is not empty.
pub fn split_once<'t>(text: &'t str, part: &str) -> Option<(&'t str, &'t str)> {
    let (part, first) = (part.as_bytes(), part.as_bytes().first());
    let at = text.as_bytes().windows(part.len().max(1)).position(|here| here.first() == first && here == part)?;
    Some((text.get(..at)?, text.get(at + part.len()..)?))
}

pub fn has(text: &str, part: &str) -> bool {
    split_once(text, part).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_part_is_found() {
        for (text, part, expected) in [
            ("http://a://b", "://", Some(("http", "a://b"))),
            ("::///", "://", Some((":", "/"))),
            ("caf\u{e9}s", "\u{e9}", Some(("caf", "s"))),
            ("ab", "ab", Some(("", ""))),
            ("a", "ab", None),
            ("", "ab", None),
            ("a", "", None),
        ] {
            assert_eq!(split_once(text, part), expected, "{text} {part}");
            assert_eq!(has(text, part), expected.is_some());
        }
    }
}
