//! Expressions that look ahead, which regex-lite can't: `/\.(?!well-known)`, as published files have it.
//!
//! Such an expression is taken apart into what comes before, what must or must not follow, and the rest. What comes before
//! is of a fixed length: it ends in one place. Time stays linear, since there is one place only (`^`), or what is looked at
//! in each of many is short, but for a `.*` in the end, which never fails. Any other look-around is refused.

use regex_lite::Regex;

use super::compile;

/// `before(?!barred)after`
#[derive(Debug)]
pub(super) struct Ahead {
    before: Regex,
    /// What follows the place, and whether it has to.
    looks: Vec<(Regex, bool)>,
    after: Regex,
    /// How many groups stand in what is looked for; they capture nothing.
    groups: usize,
}

/// Where groups lie in a text.
pub(super) type Groups = Vec<Option<(usize, usize)>>;

impl Ahead {
    /// Takes `source` apart; nothing, if it does not look ahead, or not in a way that can be done.
    ///
    /// # Errors
    /// What is wrong with one of its parts.
    pub(super) fn new(source: &str, any_case: bool) -> Result<Option<Self>, String> {
        let (source, any_case) = source.strip_prefix("(?i)").map_or((source, any_case), |source| (source, true));
        let Some((before, mut rest)) = split(source) else { return Ok(None) };
        let mut looks = Vec::new();
        while let Some((wanted, inner, behind)) = look(rest) {
            looks.push((inner, wanted));
            rest = behind;
        }
        let short = looks.iter().all(|(inner, _)| is_short(inner)) && is_short(without_tail(rest));
        let anchored = |part: &str| compile(&format!("^(?:{part})"), any_case);
        if looks.is_empty()
            || !is_fixed(before)
            || !(before.starts_with('^') || short)
            || !fits(rest, 0)
            || !looks.iter().all(|(inner, _)| fits(inner, 1))
        {
            return Ok(None);
        }
        let mut compiled = Vec::new();
        for (inner, wanted) in looks {
            compiled.push((anchored(inner)?, wanted));
        }
        let looks = compiled;
        // What is wanted would capture.
        if looks.iter().any(|(look, wanted)| *wanted && look.captures_len() > 1) {
            return Ok(None);
        }
        let groups = looks.iter().map(|(look, _)| look.captures_len() - 1).sum();
        Ok(Some(Self { before: compile(before, any_case)?, looks, after: anchored(rest)?, groups }))
    }

    /// The parts that capture, and how many groups stand before each.
    pub(super) fn capturing(&self) -> [(&Regex, usize); 2] {
        [(&self.before, 0), (&self.after, self.before.captures_len() - 1 + self.groups)]
    }

    /// Where the first match and its groups lie in `text`.
    pub(super) fn find(&self, text: &str) -> Option<Groups> {
        let mut start = 0;
        loop {
            let before = self.before.captures_at(text, start)?;
            let whole = before.get(0)?;
            let rest = text.get(whole.end()..)?;
            if self.looks.iter().all(|(look, wanted)| look.is_match(rest) == *wanted)
                && let Some(after) = self.after.captures(rest)
            {
                let shift = |at: usize| whole.end() + at;
                let end = after.get(0).map_or(whole.end(), |found| shift(found.end()));
                let mut groups = vec![Some((whole.start(), end))];
                groups.extend(before.iter().skip(1).map(|found| found.map(|found| (found.start(), found.end()))));
                groups.extend(std::iter::repeat_n(None, self.groups));
                groups.extend(after.iter().skip(1).map(|found| found.map(|m| (shift(m.start()), shift(m.end())))));
                return Some(groups);
            }
            start = whole.start() + text.get(whole.start()..)?.chars().next()?.len_utf8();
        }
    }
}

/// One character of an expression, with what it means for what is around it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// It stands for itself, is escaped, or in a class.
    Plain,
    Opens,
    Closes,
    /// It says how often, or something else of what is around it.
    Operator(char),
}

/// The marks of an expression with their places.
fn marks(source: &str) -> impl Iterator<Item = (usize, Mark)> {
    let (mut escaped, mut in_class, mut class_start) = (false, false, false);
    source.char_indices().map(move |(at, c)| {
        let first = std::mem::take(&mut class_start);
        let mark = match c {
            _ if std::mem::take(&mut escaped) => Mark::Plain,
            '\\' => {
                escaped = true;
                Mark::Plain
            }
            ']' if in_class && !first => {
                in_class = false;
                Mark::Plain
            }
            '^' if in_class && first => {
                class_start = true;
                Mark::Plain
            }
            _ if in_class => Mark::Plain,
            '[' => {
                (in_class, class_start) = (true, true);
                Mark::Plain
            }
            '(' => Mark::Opens,
            ')' => Mark::Closes,
            '*' | '+' | '?' | '{' | '|' | '^' => Mark::Operator(c),
            _ => Mark::Plain,
        };
        (at, mark)
    })
}

/// Splits before the first look ahead that stands in no group.
fn split(source: &str) -> Option<(&str, &str)> {
    let mut depth = 0usize;
    for (at, mark) in marks(source) {
        match mark {
            Mark::Opens if depth == 0 && look(source.get(at..)?).is_some() => return source.split_at_checked(at),
            Mark::Opens => depth += 1,
            Mark::Closes => depth = depth.checked_sub(1)?,
            // What would belong to one of several expressions.
            Mark::Operator('|') if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// `(?!inner)` or `(?=inner)` at the start of a text: whether it is wanted, what is looked for, and what follows.
fn look(text: &str) -> Option<(bool, &str, &str)> {
    let (inner, wanted) = match text.strip_prefix("(?!") {
        Some(inner) => (inner, false),
        None => (text.strip_prefix("(?=")?, true),
    };
    let mut depth = 0;
    for (at, mark) in marks(inner) {
        match mark {
            Mark::Opens => depth += 1,
            Mark::Closes if depth == 0 => return Some((wanted, inner.get(..at)?, inner.get(at + 1..)?)),
            Mark::Closes => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Whether it always matches the same number of characters: nothing is repeated or left out, there is no choice.
fn is_fixed(before: &str) -> bool {
    let mut opened = false;
    marks(before).all(|(_, mark)| {
        let after_bracket = std::mem::replace(&mut opened, mark == Mark::Opens);
        match mark {
            // `(?:` and `(?<name>`
            Mark::Operator('?') => after_bracket,
            Mark::Operator(c) => c == '^',
            _ => true,
        }
    }) && !before.contains("\\Q")
        // A flag would count for what follows as well.
        && before.split("(?").skip(1).all(|group| group.starts_with([':', '<', 'P']))
}

/// Whether it matches no more characters than it has itself.
fn is_short(part: &str) -> bool {
    marks(part).all(|(_, mark)| !matches!(mark, Mark::Operator('*' | '+' | '{')))
}

/// What stands before a `.*` in the end.
fn without_tail(part: &str) -> &str {
    let before = ["(.*)", ".*"].iter().find_map(|tail| part.strip_suffix(tail));
    before.filter(|before| !before.ends_with('\\')).unwrap_or(part)
}

/// Whether a part means the same when it is looked for by itself: nothing in it asks for the character before it, and a
/// choice stands in a group. `depth` tells how many groups are around the part.
fn fits(part: &str, mut depth: usize) -> bool {
    let own = marks(part).all(|(_, mark)| match mark {
        Mark::Opens => {
            depth += 1;
            true
        }
        Mark::Closes => {
            depth = depth.saturating_sub(1);
            true
        }
        Mark::Operator('^') => false,
        Mark::Operator('|') => depth > 0,
        _ => true,
    });
    let asks_back = |boundary: &str| {
        ["", "|", "("].iter().any(|before| match *before {
            "" => part.starts_with(boundary),
            before => part.contains(&format!("{before}{boundary}")),
        })
    };
    own && !asks_back("\\b")
        && !["\\B", "\\A", "\\Q", "(?!", "(?=", "(?<=", "(?<!"].iter().any(|odd| part.contains(odd))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the expression captures of each text; `None` if it does not match.
    fn check(source: &str, any_case: bool, texts: &[(&str, Option<&[&str]>)]) {
        let ahead = Ahead::new(source, any_case).unwrap().unwrap();
        for (text, expected) in texts {
            let found = ahead.find(text).map(|groups| {
                groups.iter().map(|group| group.map_or("-", |(start, end)| &text[start..end])).collect::<Vec<_>>()
            });
            assert_eq!(found.as_deref(), *expected, "{source} {text}");
        }
    }

    #[test]
    fn what_must_not_follow() {
        check(
            r"/\.(?!well-known).*",
            false,
            &[
                ("/.git/config", Some(&["/.git/config"])),
                ("/.well-known/acme", None),
                ("/a/.b/.well-known", Some(&["/.b/.well-known"])),
                ("/.well-known/.git", Some(&["/.git"])),
                ("/a.b", None),
                ("/.", Some(&["/."])),
            ],
        );
        check(
            r"^/(?!api|static/)(.*)$",
            false,
            &[("/apis", None), ("/stat", Some(&["/stat", "stat"])), ("/static/x", None), ("/", Some(&["/", ""]))],
        );
        check(r"(?i)^/(?!API\b)([a-z]+)", false, &[("/api/x", None), ("/Apis/x", Some(&["/Apis", "Apis"]))]);
        check(r"(?!a)b$", false, &[("ab", Some(&["b"])), ("a", None)]);
    }

    #[test]
    fn groups_keep_their_numbers() {
        check(
            r"^/(\w\w)/(?!(x|y)z)(?!q)(.*)\.([a-z]+)$",
            true,
            &[("/de/a.JS", Some(&["/de/a.JS", "de", "-", "a", "JS"])), ("/de/xz.js", None), ("/de/q.js", None)],
        );
        check(r"^/v(?=[0-9])(.)", false, &[("/v1", Some(&["/v1", "1"])), ("/vx", None)]);
        let named = crate::pattern::Pattern::new(r"^(?<a>.)(?!(x))(?<b>.)$", false).unwrap();
        assert_eq!(named.names().collect::<Vec<_>>(), [(1, "a"), (3, "b")]);
    }

    #[test]
    fn what_can_not_be_done_is_left_alone() {
        for source in [
            r"^/.*(?!x)y",
            r"a|b(?!c)",
            r"(a(?!b))c",
            r"a(?!b)c|d",
            r"a(?<!b)c",
            r"a(?!(?!b))c",
            r"^a?(?!b)",
            r"x(?!^a)",
            r"x(?!a)\bb",
            r"plain",
            r"\(?!x\)",
            r"[(?!x)]",
            r"a(?!b",
            r"a{2}(?!b)",
            r"(a|bc)(?!d)",
            r"a(?!b*)",
            r"a(?!b)\.*",
            r"a(?!b).*c",
            r"a(?=(b))",
        ] {
            assert!(Ahead::new(source, false).unwrap().is_none(), "{source}");
        }
        assert!(Ahead::new(r"a(?!b[)c", false).unwrap().is_none());
        assert!(Ahead::new(r"a(?!\xzz)c", false).is_err());
    }
}
