//! A second opinion: what regex-lite says about thousands of expressions that come from a seed.

use regex_lite::{Regex, RegexBuilder};

use super::Pattern;

const EXPRESSIONS: usize = 6_000;
const SUBJECTS_OF_EACH: usize = 8;

struct Dice(fastrand::Rng);

impl Dice {
    fn one_of<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        texts[self.0.usize(..texts.len())]
    }

    fn choice(&mut self, depth: usize) -> String {
        let branches = 1 + self.0.usize(..3) * self.0.usize(..2);
        (0..branches).map(|_| self.branch(depth)).collect::<Vec<_>>().join("|")
    }

    fn branch(&mut self, depth: usize) -> String {
        (0..self.0.usize(..5)).map(|_| self.item(depth)).collect()
    }

    fn item(&mut self, depth: usize) -> String {
        let item = match self.0.usize(..12) {
            0..=2 if depth > 0 => {
                let open = self.one_of(&["(", "(", "(?:", "(?i:", "(?s-i:", "(?m:", "(?U:"]);
                format!("{open}{})", self.choice(depth - 1))
            }
            3 => self.class(),
            4 => self.one_of(&[".", r"\d", r"\w", r"\s", r"\W", r"\D", r"\xe9", r"\x{41}", r"\n", r"\/", r"\."]).into(),
            5 => return self.one_of(&["^", "$", r"\b", r"\B", r"\A", r"\z", "(?i)", "(?m)", "(?s)", "(?-i)"]).into(),
            _ => self.one_of(&["a", "b", "A", "B", "-", "/", "1", "ab", "\u{e9}"]).into(),
        };
        let often = self.one_of(&["", "", "", "", "*", "+", "?", "*?", "+?", "??", "{2}", "{1,2}", "{0,2}?", "{2,}"]);
        format!("{item}{often}")
    }

    fn class(&mut self) -> String {
        let items =
            ["a", "b", "A-B", "a-c", "0-9", r"\d", r"\W", r"\-", "[:alpha:]", "[:^upper:]", r"\x80-\xff", "/", r"\n"];
        let inner: String = (0..=self.0.usize(..3)).map(|_| self.one_of(&items)).collect();
        format!("[{}{}{inner}{}]", self.one_of(&["", "^"]), self.one_of(&["", "]", "-"]), self.one_of(&["", "-"]))
    }

    fn subject(&mut self) -> Vec<u8> {
        (0..self.0.usize(..12)).map(|_| *self.0.choice(b"aabbAB-/1 \n\xe9\xc3").unwrap()).collect()
    }
}

/// One character a byte.
fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|b| char::from(*b)).collect()
}

type Groups = Vec<Option<(usize, usize)>>;

fn theirs(regex: &Regex, subject: &[u8]) -> Option<Groups> {
    let text = latin(subject);
    let byte = |at: usize| text[..at].chars().count();
    let found = regex.captures(&text)?;
    Some(found.iter().map(|group| group.map(|group| (byte(group.start()), byte(group.end())))).collect())
}

fn ours(pattern: &Pattern, subject: &[u8]) -> Option<Groups> {
    let groups = pattern.captures(subject)?.slots;
    let place = |at: u32| (at != super::search::NOWHERE).then_some(at as usize);
    Some(groups.chunks(2).map(|pair| place(pair[0]).zip(place(pair[1]))).collect())
}

#[test]
fn another_engine_finds_the_same() {
    let mut dice = Dice(fastrand::Rng::with_seed(7));
    let mut matches = 0;
    for _ in 0..EXPRESSIONS {
        let (source, any_case) = (dice.choice(3), dice.0.bool());
        let regex = RegexBuilder::new(&latin(source.as_bytes())).case_insensitive(any_case).build();
        let regex = regex.unwrap_or_else(|why| panic!("{source}: {why}"));
        let pattern = Pattern::new(&source, any_case).unwrap_or_else(|why| panic!("{source}: {why}"));
        for _ in 0..SUBJECTS_OF_EACH {
            let subject = dice.subject();
            let found = ours(&pattern, &subject);
            assert_eq!(found, theirs(&regex, &subject), "{source} {any_case} {:?}", latin(&subject));
            assert_eq!(found.is_some(), pattern.is_match(&subject), "{source}");
            matches += usize::from(found.is_some());
        }
    }
    assert!((EXPRESSIONS..EXPRESSIONS * (SUBJECTS_OF_EACH - 1)).contains(&matches), "{matches}");
}
