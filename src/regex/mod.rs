//! Regular expressions over bytes, in the dialect of nginx's users.
//!
//! The language is PCRE's without what needs backtracking: there are no backreferences and no atomic groups (`a++` is `a+`).
//! Every byte is a character, and only ASCII letters have a case. The time of a search is proportional to the lengths of
//! the subject and the expression.
//!
//! `compile` emits the `program` of an expression and collects its `literals`, `pike_vm` runs it where the literals allow a
//! match, `prefilter` selects the expressions of a list that may match.

pub(crate) mod finder;
pub(crate) mod literals;
#[cfg(test)]
pub(crate) mod differential_tests;
pub(crate) mod compile;
pub(crate) mod prefilter;
pub(crate) mod program;
pub(crate) mod pike_vm;
pub(crate) mod byte_set;

use std::ops::Range;

use crate::regex::pike_vm::CaptureSlots;
pub(crate) use crate::regex::prefilter::Prefilter;
use crate::regex::program::Program;

/// A compiled expression.
#[derive(Debug)]
pub struct Pattern {
    program: Program,
    source: Box<str>,
    names: compile::GroupNames,
}

/// What the groups of an expression matched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captures {
    subject: Vec<u8>,
    slots: CaptureSlots,
}

impl Captures {
    /// Returns what group `number` matched, which may be nothing.
    pub fn group(&self, number: usize) -> &[u8] {
        self.range(number).and_then(|range| self.subject.get(range)).unwrap_or_default()
    }

    /// Returns the range of group `number` in the subject. `None` if the group did not take part in the match.
    pub fn range(&self, number: usize) -> Option<Range<usize>> {
        match self.slots.get(number.checked_mul(2)?..)? {
            [pike_vm::UNSET, ..] | [_, pike_vm::UNSET, ..] => None,
            [start, end, ..] => Some(*start as usize..*end as usize),
            _ => None,
        }
    }
}

impl Pattern {
    /// Compiles `source`.
    pub fn new(source: &str, caseless: bool) -> Result<Self, String> {
        let compile::Parsed { program, names, literals } = compile::parse(source.as_bytes(), caseless)?;
        Ok(Self { program: program.complete(literals), source: source.into(), names })
    }

    /// The numbers and names of the named groups.
    pub fn names(&self) -> impl Iterator<Item = (usize, &str)> {
        self.names.iter().map(|(number, name)| (*number, &**name))
    }

    /// The expression as text.
    pub fn source(&self) -> &str {
        &self.source
    }

    pub fn is_match(&self, subject: &[u8]) -> bool {
        pike_vm::find(&self.program, subject, 0).is_some()
    }

    /// Finds the first match and its groups.
    pub fn captures(&self, subject: &[u8]) -> Option<Captures> {
        let slots = pike_vm::find(&self.program, subject, self.program.groups * 2)?;
        Some(Captures { subject: subject.to_vec(), slots })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks what the expression captures of each text. `None` if it does not match.
    fn check(source: &str, caseless: bool, texts: &[(&str, Option<&[&str]>)]) {
        let pattern = Pattern::new(source, caseless).unwrap_or_else(|why| panic!("{source}: {why}"));
        for (text, expected) in texts {
            let found = pattern.captures(text.as_bytes());
            let group = |number| std::str::from_utf8(found.as_ref()?.group(number)).ok();
            let groups: Option<Vec<&str>> = (0..pattern.program.groups).map(group).collect();
            assert_eq!(groups.as_deref(), *expected, "{source} {text}");
            assert_eq!(pattern.is_match(text.as_bytes()), expected.is_some(), "{source} {text}");
        }
    }

    #[test]
    fn groups_are_byte_ranges_even_without_utf_8() {
        let pattern = Pattern::new(r"^/(.)/(?<rest>.*)$", false).unwrap();
        let found = pattern.captures(b"/\xff/caf\xc3\xa9").unwrap();
        assert_eq!((found.group(1), found.group(2)), (&b"\xff"[..], &b"caf\xc3\xa9"[..]));
        assert_eq!((found.group(3), found.group(usize::MAX / 2)), (&b""[..], &b""[..]));
        assert_eq!(pattern.names().collect::<Vec<_>>(), [(2, "rest")]);
        assert!(Pattern::new("caf\u{e9}", false).unwrap().is_match("caf\u{e9}".as_bytes()));
        assert!(!Pattern::new("caf\u{e9}", true).unwrap().is_match("caf\u{c9}".as_bytes()));
    }

    #[test]
    fn expressions_for_pcre_compile() {
        for source in [r"\/api\/", r"^/static/[0-9a-fA-F]{8}\/(.*)$", r#"^/([^/?&:'"]+)$"#, r"~\.(gif|jpg)$", r"\-\_\:"]
        {
            Pattern::new(source, true).unwrap();
        }
        assert!(Pattern::new(r"^(?P<name>[a-z]+)\Q.example.com\E$", false).unwrap().is_match(b"www.example.com"));
        assert!(!Pattern::new(r"^\Q.\E$", false).unwrap().is_match(b"x"));
    }

    #[test]
    fn quotes_are_those_of_pcre() {
        check(r"^\Qa\Qb\E$", false, &[(r"a\Qb", Some(&[r"a\Qb"])), ("ab", None)]);
        check(r"^[a-\E]+$", false, &[("a-", Some(&["a-"])), ("b", None)]);
        check(r"^[a-\Ec]+$", false, &[("abc", Some(&["abc"])), ("-", None)]);
    }

    #[test]
    fn vertical_space_is_any_line_end() {
        let pattern = Pattern::new(r"^\v[^\v]$", false).unwrap();
        for space in *b"\n\x0b\x0c\r\x85" {
            assert!(pattern.is_match(&[space, b'v']) && !pattern.is_match(&[space, space]), "{space:x}");
        }
        assert!(!pattern.is_match(b"\tv") && !pattern.is_match(b"vv"));
    }

    #[test]
    fn details_of_pcre() {
        check(r"^[\w-.]+$", false, &[("a-.", Some(&["a-."])), ("a/", None)]);
        check(r"^[[a&&b~~-]+$", false, &[("[a&b~-", Some(&["[a&b~-"])), ("c", None)]);
        check(r"^(?'a'.)[\Qa-c]\E]{2,}?", false, &[("x-]]", Some(&["x-]", "x"])), ("xb]", None)]);
        check(r"^/{id}/{x", false, &[("/{id}/{x", Some(&["/{id}/{x"]))]);
        check("(?x) ^ / ( [a b]+ )  # a comment\n +(?-x) c$", false, &[("/a b c", Some(&["/a b c", "a b"]))]);
        check(r"^\p{Lu}[\p{Ll}\p{N}]+", false, &[("Ab1", Some(&["Ab1"])), ("ab", None)]);
        check(r"[\b\x{2f}]$", false, &[("/", Some(&["/"])), ("\x08", Some(&["\x08"])), ("b", None)]);
        check(r"(a*)*?b|(a++c)", false, &[("aab", Some(&["aab", "aa", ""])), ("aac", Some(&["aac", "", "aac"]))]);
        check(r"\x{4e2d}|[^\x{80}-\x{9fff}]$", false, &[("a", Some(&["a"])), ("\u{4e2d}", None)]);
    }

    #[test]
    fn negative_look_aheads() {
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
        check(
            r"^/(\w\w)/(?!(x|y)z)(?!q)(.*)\.([a-z]+)$",
            true,
            &[("/de/a.JS", Some(&["/de/a.JS", "de", "", "a", "JS"])), ("/de/xz.js", None), ("/de/q.js", None)],
        );
        let named = Pattern::new(r"^(?<a>.)(?!(x))(?<b>.)$", false).unwrap();
        assert_eq!(named.names().collect::<Vec<_>>(), [(1, "a"), (3, "b")]);
    }

    #[test]
    fn look_arounds_can_be_anywhere() {
        check(r"^/v(?=[0-9])(.)", false, &[("/v1", Some(&["/v1", "1"])), ("/vx", None)]);
        check(r"^((?!admin).)*$", false, &[("/a/x", Some(&["/a/x", "x"])), ("/a/admin/", None)]);
        check(r"^/.*(?!\.php)\.\w+$|^/x(?=.*y$)", false, &[("/a.php", None), ("/a.js", Some(&["/a.js"]))]);
        check(r"a(?!b(?!c))", false, &[("ab", None), ("abc", Some(&["a"])), ("ad", Some(&["a"]))]);
        check(r"(?<!\.min)\.js$", true, &[("/a.js", Some(&[".js"])), ("/a.Min.js", None)]);
        check(r"(?<=^/[ab]+/)x+", false, &[("/abba/xx", Some(&["xx"])), ("/abc/x", None), ("x", None)]);
        check(r"^(?=.{3,5}$)(?=.*\d)[a-z\d]+$", false, &[("ab1", Some(&["ab1"])), ("abc", None), ("abcde1", None)]);
    }

    #[test]
    fn errors_have_an_offset() {
        for (source, why) in [
            ("(", "expected \")\", at character 2"),
            ("a)b", "no \"(\" belongs to this \")\", at character 2"),
            ("a|*", "there is nothing to repeat, at character 3"),
            ("a(?i)*", "there is nothing to repeat, at character 6"),
            ("a{2", "expected \"}\", at character 4"),
            ("a{,2}", "expected a number, at character 3"),
            ("a{3,2}", "the second number is less than the first, at character 6"),
            ("[]a", "expected \"]\", at character 4"),
            ("[b-a]", "the range ends before it begins, at character 5"),
            ("[[:x:]]", "unknown class, at character 2"),
            (r"(a)\1", "references to groups are not supported, at character 5"),
            (r"a\", "expected a character after the \"\\\", at character 3"),
            (r"\y", "unknown escape, at character 2"),
            (r"\x4g", "expected a hexadecimal digit, at character 4"),
            (r"\p{Greek}", "unknown property, at character 2"),
            ("(?>a)", "such a group is not supported, at character 3"),
            ("(?i", "expected \")\", at character 4"),
            ("(?<1>a)", "expected the name of a group: letters, digits and \"_\", at character 4"),
            ("(?<a>.)(?P<a>.)", "there is another group of this name, at character 12"),
            ("a(?=(b))", "a group in a look-around can not capture, at character 8"),
            ("a(?!b[)c", "expected \"]\", at character 9"),
        ] {
            assert_eq!(Pattern::new(source, false).unwrap_err(), why, "{source}");
        }
        let too_big =
            "it is too big: more than 4000 steps (each character, class and choice counts, as often as it is repeated)";
        for (source, at) in [
            ("(?:a{1000}){1000}", 18),
            ("((((a{1,99}){1,99}){1,99}){1,99}){1,99}", 19),
            (&"a".repeat(4000), 4001),
            (&format!("a(?!{})", "b".repeat(4000)), 4005),
        ] {
            assert_eq!(Pattern::new(source, false).unwrap_err(), format!("{too_big}, at character {at}"));
        }
        assert!(Pattern::new(&"a".repeat(3999), false).is_ok());
        let words: String = (0..400).map(|number| format!("(a{number})|")).collect();
        assert_eq!(Pattern::new(&words, false).unwrap().program.groups, 10);
        assert!(Pattern::new(&format!("{words}(?<last>b)"), false).unwrap_err().contains("named group"));
        let nested = |depth| format!("{}{}", "(".repeat(depth), ")".repeat(depth));
        assert!(Pattern::new(&nested(99), false).is_ok());
        assert_eq!(Pattern::new(&nested(10_000), false).unwrap_err().split(',').next(), Some("too many nested groups"));
        assert!(Pattern::new(&"(?!a)".repeat(65), false).is_err());
    }

    /// The steps of a program and its look-arounds.
    fn steps(program: &Program) -> usize {
        program.steps.len() + program.looks.iter().map(|look| look.steps.len()).sum::<usize>()
    }

    #[test]
    fn a_search_takes_at_most_three_times_subject_times_expression() {
        let words: Vec<String> = (0..300).map(|number| format!("a{}b{number}", "a".repeat(number % 9))).collect();
        let words = words.join("|");
        let many = [format!("({words})"), format!(r"\b(?:{words})\b"), format!("({words})*$"), format!("(?!{words})b")];
        let few = [r"^(a*)*$", r"(a|aa)+$", r"(?:a+){20}b", r"a(?=.*b)", r"(?<!b.*)(?:a?){50}$", r"^(?:(?!ab).)*$"];
        let literal =
            ["aab$", r"a{40}b", r"\baab\b", "(a|b)ab0", "(?:aaaa|aaab)$", ".*aab0", "aab[0-9]x", r"(\w+)b\d{8}"];
        let texts: [&[u8]; 5] = [b"a", b"aab0", b"aaab1-", b"AAAAAAAAAAAAAAAAB", b"b"];
        for source in many.iter().map(String::as_str).chain(few).chain(literal) {
            let pattern = Pattern::new(source, true).unwrap_or_else(|why| panic!("{source}: {why}"));
            for text in texts {
                let subject: Vec<u8> =
                    text.iter().copied().cycle().take(if source.len() > 99 { 500 } else { 5000 }).collect();
                pike_vm::work::take();
                pattern.captures(&subject);
                let work = pike_vm::work::take();
                assert!(work <= 3 * steps(&pattern.program) * (subject.len() + 1), "{source}: {work}");
            }
        }
    }

    #[test]
    fn a_subject_without_the_literals_takes_no_step() {
        let words: Vec<String> = (0..300).map(|number| format!("bot{number}x")).collect();
        let agent =
            b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 bot Safari/537.36";
        for source in [r"(?:\b)Wget(?:\b)", "crawler", "(spider|bot7)", ".*spider", r"[a-z]+-?bots", &words.join("|")] {
            let pattern = Pattern::new(source, true).unwrap_or_else(|why| panic!("{source}: {why}"));
            pike_vm::work::take();
            assert!(!pattern.is_match(agent) && pattern.captures(agent).is_none());
            assert_eq!(pike_vm::work::take(), 0, "{source}");
        }
    }
}
