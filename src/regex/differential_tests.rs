//! Compares searches with those of regex-lite, for thousands of random expressions from a fixed seed.

use regex_lite::{Regex, RegexBuilder};

use crate::regex::{Pattern, Prefilter};

const EXPRESSIONS: usize = 6_000;
const WORDED_EXPRESSIONS: usize = 1_500;
const SUBJECTS_PER_EXPRESSION: usize = 8;

struct Generator(fastrand::Rng);

impl Generator {
    fn one_of<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        texts[self.0.usize(..texts.len())]
    }

    fn alternation(&mut self, depth: usize) -> String {
        let branches = 1 + self.0.usize(..3) * self.0.usize(..2);
        (0..branches).map(|_| self.concatenation(depth)).collect::<Vec<_>>().join("|")
    }

    fn concatenation(&mut self, depth: usize) -> String {
        (0..self.0.usize(..5)).map(|_| self.item(depth)).collect()
    }

    fn item(&mut self, depth: usize) -> String {
        let item = match self.0.usize(..12) {
            0..=2 if depth > 0 => {
                let open = self.one_of(&["(", "(", "(?:", "(?i:", "(?s-i:", "(?m:", "(?U:"]);
                format!("{open}{})", self.alternation(depth - 1))
            }
            3 => self.class(),
            4 => self.one_of(&[".", r"\d", r"\w", r"\s", r"\W", r"\D", r"\xe9", r"\x{41}", r"\n", r"\/", r"\."]).into(),
            5 => return self.one_of(&["^", "$", r"\b", r"\B", r"\A", r"\z", "(?i)", "(?m)", "(?s)", "(?-i)"]).into(),
            _ => self.one_of(&["a", "b", "A", "B", "-", "/", "1", "ab", "\u{e9}"]).into(),
        };
        let quantifier =
            self.one_of(&["", "", "", "", "*", "+", "?", "*?", "+?", "??", "{2}", "{1,2}", "{0,2}?", "{2,}"]);
        format!("{item}{quantifier}")
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

/// Bytes as text, one character each.
fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|b| char::from(*b)).collect()
}

type Groups = Vec<Option<(usize, usize)>>;

fn groups_of_regex_lite(regex: &Regex, pattern: &Pattern, subject: &[u8]) -> Option<Groups> {
    let text = latin1(subject);
    let byte = |at: usize| text[..at].chars().count();
    let found = regex.captures(&text)?;
    Some(
        found
            .iter()
            .take(pattern.program.groups)
            .map(|group| group.map(|group| (byte(group.start()), byte(group.end()))))
            .collect(),
    )
}

fn groups(pattern: &Pattern, subject: &[u8]) -> Option<Groups> {
    let groups = pattern.captures(subject)?.slots;
    let place = |at: u32| (at != crate::regex::pike_vm::UNSET).then_some(at as usize);
    Some(groups.chunks(2).map(|pair| place(pair[0]).zip(place(pair[1]))).collect())
}

#[test]
fn another_engine_finds_the_same() {
    let mut generator = Generator(fastrand::Rng::with_seed(7));
    let mut matches = 0;
    for _ in 0..EXPRESSIONS {
        let (source, caseless) = (generator.alternation(3), generator.0.bool());
        let regex = RegexBuilder::new(&latin1(source.as_bytes())).case_insensitive(caseless).build();
        let regex = regex.unwrap_or_else(|why| panic!("{source}: {why}"));
        let pattern = Pattern::new(&source, caseless).unwrap_or_else(|why| panic!("{source}: {why}"));
        for _ in 0..SUBJECTS_PER_EXPRESSION {
            let subject = generator.subject();
            let found = groups(&pattern, &subject);
            assert_eq!(
                found,
                groups_of_regex_lite(&regex, &pattern, &subject),
                "{source} {caseless} {:?}",
                latin1(&subject)
            );
            assert_eq!(found.is_some(), pattern.is_match(&subject), "{source}");
            matches += usize::from(found.is_some());
        }
    }
    assert!((EXPRESSIONS..EXPRESSIONS * (SUBJECTS_PER_EXPRESSION - 1)).contains(&matches), "{matches}");
}

/// Words that share their starts and their ends, for literals that nearly match.
const WORDS: [&str; 14] =
    ["bot", "bots", "bo", "robot", "Ro-bot", "crawl", "crawler", "raw", "aa", "ab-", "b", "spider", "Spide", "der-bot"];

/// An expression with literals: words, and around them what else an expression can contain.
fn worded(generator: &mut Generator, depth: usize) -> String {
    let branches = match generator.0.usize(..8) {
        0 => 9,
        1..=3 => 2,
        _ => 1,
    };
    let branch = |generator: &mut Generator| -> String {
        let edge = generator.one_of(&["", "", r"\b", r"(?:\b)", "^", r"\B", "(?:^| )"]);
        let items = (0..1 + generator.0.usize(..3)).map(|_| match generator.0.usize(..9) {
            0 if depth > 0 => {
                let open = generator.one_of(&["(", "(?:", "(?i:", "(?-i:"]);
                let quantifier = generator.one_of(&["", "", "?", "+", "*", "{2}", "{0,2}?"]);
                format!("{open}{}){quantifier}", worded(generator, depth - 1))
            }
            1 => generator.one_of(&["[a-z]+", ".*", r"\d?", "[Bb]", "[rR]?", "[-/ ]", r"\W+", "[^b]"]).into(),
            2 => generator.one_of(&["a?", "b*", "-+", "o{2}", "t{1,2}", "r{0}", "w{0,3}"]).into(),
            _ => generator.one_of(&WORDS).into(),
        });
        let items: String = items.collect();
        format!("{edge}{items}{}", generator.one_of(&["", "", r"\b", r"(?:\b)", "$", r"\B"]))
    };
    (0..branches).map(|_| branch(generator)).collect::<Vec<_>>().join("|")
}

/// A subject of the words, some truncated or in another case.
fn near_miss(generator: &mut Generator) -> Vec<u8> {
    let mut subject = Vec::new();
    for _ in 0..generator.0.usize(..6) {
        let word = generator.one_of(&WORDS);
        let mut word = word.as_bytes()[generator.0.usize(..2).min(word.len())..].to_vec();
        match generator.0.usize(..6) {
            0 => word.make_ascii_uppercase(),
            1 => word.truncate(word.len().saturating_sub(1)),
            2 => word.iter_mut().for_each(|byte| *byte ^= if generator.0.bool() { 0x20 } else { 0 }),
            _ => {}
        }
        subject.extend(word);
        subject.extend_from_slice(generator.one_of(&["", "", " ", "-", "/", "b", "\n", "7"]).as_bytes());
    }
    subject
}

#[test]
fn another_engine_finds_the_same_after_literals() {
    let mut generator = Generator(fastrand::Rng::with_seed(11));
    let mut matches = 0;
    for _ in 0..WORDED_EXPRESSIONS {
        let (source, caseless) = (worded(&mut generator, 2), generator.0.bool());
        let regex = RegexBuilder::new(&source).case_insensitive(caseless).build();
        let regex = regex.unwrap_or_else(|why| panic!("{source}: {why}"));
        let pattern = Pattern::new(&source, caseless).unwrap_or_else(|why| panic!("{source}: {why}"));
        for _ in 0..SUBJECTS_PER_EXPRESSION {
            let subject = near_miss(&mut generator);
            let found = groups(&pattern, &subject);
            assert_eq!(
                found,
                groups_of_regex_lite(&regex, &pattern, &subject),
                "{source} {caseless} {:?}",
                latin1(&subject)
            );
            assert_eq!(found.is_some(), pattern.is_match(&subject), "{source}");
            matches += usize::from(found.is_some());
        }
    }
    assert!((WORDED_EXPRESSIONS..WORDED_EXPRESSIONS * (SUBJECTS_PER_EXPRESSION - 1)).contains(&matches), "{matches}");
}

/// Compares with a search that uses no literals, because regex-lite has no look-arounds.
#[test]
fn look_arounds_match_the_same_without_literals() {
    let mut generator = Generator(fastrand::Rng::with_seed(13));
    let mut matches = 0;
    for _ in 0..WORDED_EXPRESSIONS {
        let look = generator.one_of(&["(?=", "(?!", "(?<=", "(?<!"]);
        let inner = worded(&mut generator, 0);
        let source = format!("{}{look}{inner}){}", worded(&mut generator, 1), worded(&mut generator, 1));
        let pattern = Pattern::new(&source, true).unwrap_or_else(|why| panic!("{source}: {why}"));
        let parsed =
            crate::regex::compile::parse(source.as_bytes(), true).unwrap_or_else(|why| panic!("{source}: {why}"));
        let plain = parsed.program.complete(crate::regex::literals::Literals::any_text());
        for _ in 0..SUBJECTS_PER_EXPRESSION {
            let subject = near_miss(&mut generator);
            let found = pattern.captures(&subject).map(|found| found.slots);
            assert_eq!(
                found,
                crate::regex::pike_vm::find(&plain, &subject, plain.groups * 2),
                "{source} {:?}",
                latin1(&subject)
            );
            matches += usize::from(found.is_some());
        }
    }
    assert!(
        (WORDED_EXPRESSIONS / 2..WORDED_EXPRESSIONS * (SUBJECTS_PER_EXPRESSION - 1)).contains(&matches),
        "{matches}"
    );
}

#[test]
fn the_first_match_of_the_candidates_is_that_of_all() {
    let mut generator = Generator(fastrand::Rng::with_seed(17));
    let (mut matches, mut left_out) = (0, 0);
    for _ in 0..120 {
        let count = generator.one_of(&["0", "1", "3", "4", "70", "200"]).parse().unwrap_or_default();
        let list: Vec<Pattern> = (0..count)
            .map(|_| {
                let source =
                    if generator.0.usize(..8) == 0 { generator.alternation(2) } else { worded(&mut generator, 1) };
                Pattern::new(&source, generator.0.bool()).unwrap_or_else(|why| panic!("{source}: {why}"))
            })
            .collect();
        let prefilter = Prefilter::new(list.iter());
        for _ in 0..SUBJECTS_PER_EXPRESSION {
            let subject = if generator.0.bool() { near_miss(&mut generator) } else { generator.subject() };
            let first = |mut numbers: Box<dyn Iterator<Item = usize> + '_>| {
                numbers.find_map(|number| Some((number, list.get(number)?.captures(&subject)?)))
            };
            let candidates: Vec<usize> = prefilter.candidates(&subject).collect();
            assert!(candidates.is_sorted() && candidates.iter().all(|number| *number < list.len()));
            let all = first(Box::new(0..list.len()));
            left_out += list.len() - candidates.len();
            assert_eq!(first(Box::new(candidates.into_iter())), all, "{:?}", latin1(&subject));
            matches += usize::from(all.is_some());
        }
    }
    assert!(matches > 200 && left_out > 10_000, "{matches} {left_out}");
}
