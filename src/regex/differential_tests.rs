//! A second opinion: what regex-lite says about thousands of expressions that come from a seed.

use regex_lite::{Regex, RegexBuilder};

use crate::regex::{Pattern, Prefilter};

const EXPRESSIONS: usize = 6_000;
const WORDED: usize = 1_500;
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

fn theirs(regex: &Regex, pattern: &Pattern, subject: &[u8]) -> Option<Groups> {
    let text = latin(subject);
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

fn ours(pattern: &Pattern, subject: &[u8]) -> Option<Groups> {
    let groups = pattern.captures(subject)?.slots;
    let place = |at: u32| (at != crate::regex::pike_vm::NOWHERE).then_some(at as usize);
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
            assert_eq!(found, theirs(&regex, &pattern, &subject), "{source} {any_case} {:?}", latin(&subject));
            assert_eq!(found.is_some(), pattern.is_match(&subject), "{source}");
            matches += usize::from(found.is_some());
        }
    }
    assert!((EXPRESSIONS..EXPRESSIONS * (SUBJECTS_OF_EACH - 1)).contains(&matches), "{matches}");
}

/// Words that share their starts and their ends, for literals that nearly match.
const WORDS: [&str; 14] =
    ["bot", "bots", "bo", "robot", "Ro-bot", "crawl", "crawler", "raw", "aa", "ab-", "b", "spider", "Spide", "der-bot"];

/// An expression that has literals: words in all places, with what may stand around them.
fn worded(dice: &mut Dice, depth: usize) -> String {
    let branches = match dice.0.usize(..8) {
        0 => 9,
        1..=3 => 2,
        _ => 1,
    };
    let branch = |dice: &mut Dice| -> String {
        let edge = dice.one_of(&["", "", r"\b", r"(?:\b)", "^", r"\B", "(?:^| )"]);
        let items = (0..1 + dice.0.usize(..3)).map(|_| match dice.0.usize(..9) {
            0 if depth > 0 => {
                let open = dice.one_of(&["(", "(?:", "(?i:", "(?-i:"]);
                let often = dice.one_of(&["", "", "?", "+", "*", "{2}", "{0,2}?"]);
                format!("{open}{}){often}", worded(dice, depth - 1))
            }
            1 => dice.one_of(&["[a-z]+", ".*", r"\d?", "[Bb]", "[rR]?", "[-/ ]", r"\W+", "[^b]"]).into(),
            2 => dice.one_of(&["a?", "b*", "-+", "o{2}", "t{1,2}", "r{0}", "w{0,3}"]).into(),
            _ => dice.one_of(&WORDS).into(),
        });
        let items: String = items.collect();
        format!("{edge}{items}{}", dice.one_of(&["", "", r"\b", r"(?:\b)", "$", r"\B"]))
    };
    (0..branches).map(|_| branch(dice)).collect::<Vec<_>>().join("|")
}

/// A subject out of the words, some without their ends or in another case.
fn near_miss(dice: &mut Dice) -> Vec<u8> {
    let mut subject = Vec::new();
    for _ in 0..dice.0.usize(..6) {
        let word = dice.one_of(&WORDS);
        let mut word = word.as_bytes()[dice.0.usize(..2).min(word.len())..].to_vec();
        match dice.0.usize(..6) {
            0 => word.make_ascii_uppercase(),
            1 => word.truncate(word.len().saturating_sub(1)),
            2 => word.iter_mut().for_each(|byte| *byte ^= if dice.0.bool() { 0x20 } else { 0 }),
            _ => {}
        }
        subject.extend(word);
        subject.extend_from_slice(dice.one_of(&["", "", " ", "-", "/", "b", "\n", "7"]).as_bytes());
    }
    subject
}

#[test]
fn another_engine_finds_the_same_behind_literals() {
    let mut dice = Dice(fastrand::Rng::with_seed(11));
    let mut matches = 0;
    for _ in 0..WORDED {
        let (source, any_case) = (worded(&mut dice, 2), dice.0.bool());
        let regex = RegexBuilder::new(&source).case_insensitive(any_case).build();
        let regex = regex.unwrap_or_else(|why| panic!("{source}: {why}"));
        let pattern = Pattern::new(&source, any_case).unwrap_or_else(|why| panic!("{source}: {why}"));
        for _ in 0..SUBJECTS_OF_EACH {
            let subject = near_miss(&mut dice);
            let found = ours(&pattern, &subject);
            assert_eq!(found, theirs(&regex, &pattern, &subject), "{source} {any_case} {:?}", latin(&subject));
            assert_eq!(found.is_some(), pattern.is_match(&subject), "{source}");
            matches += usize::from(found.is_some());
        }
    }
    assert!((WORDED..WORDED * (SUBJECTS_OF_EACH - 1)).contains(&matches), "{matches}");
}

/// The engine without anything that rules out places or subjects, for what regex-lite does not know.
#[test]
fn look_arounds_find_the_same_without_literals() {
    let mut dice = Dice(fastrand::Rng::with_seed(13));
    let mut matches = 0;
    for _ in 0..WORDED {
        let look = dice.one_of(&["(?=", "(?!", "(?<=", "(?<!"]);
        let inner = worded(&mut dice, 0);
        let source = format!("{}{look}{inner}){}", worded(&mut dice, 1), worded(&mut dice, 1));
        let pattern = Pattern::new(&source, true).unwrap_or_else(|why| panic!("{source}: {why}"));
        let parsed =
            crate::regex::compile::parse(source.as_bytes(), true).unwrap_or_else(|why| panic!("{source}: {why}"));
        let plain = parsed.program.complete(crate::regex::literals::Literals::unknown());
        for _ in 0..SUBJECTS_OF_EACH {
            let subject = near_miss(&mut dice);
            let found = pattern.captures(&subject).map(|found| found.slots);
            assert_eq!(
                found,
                crate::regex::pike_vm::find(&plain, &subject, plain.groups * 2),
                "{source} {:?}",
                latin(&subject)
            );
            matches += usize::from(found.is_some());
        }
    }
    assert!((WORDED / 2..WORDED * (SUBJECTS_OF_EACH - 1)).contains(&matches), "{matches}");
}

#[test]
fn candidates_in_their_order_give_what_all_in_their_order_give() {
    let mut dice = Dice(fastrand::Rng::with_seed(17));
    let (mut matches, mut left_out) = (0, 0);
    for _ in 0..120 {
        let count = dice.one_of(&["0", "1", "3", "4", "70", "200"]).parse().unwrap_or_default();
        let list: Vec<Pattern> = (0..count)
            .map(|_| {
                let source = if dice.0.usize(..8) == 0 { dice.choice(2) } else { worded(&mut dice, 1) };
                Pattern::new(&source, dice.0.bool()).unwrap_or_else(|why| panic!("{source}: {why}"))
            })
            .collect();
        let prefilter = Prefilter::new(list.iter());
        for _ in 0..SUBJECTS_OF_EACH {
            let subject = if dice.0.bool() { near_miss(&mut dice) } else { dice.subject() };
            let first = |mut numbers: Box<dyn Iterator<Item = usize> + '_>| {
                numbers.find_map(|number| Some((number, list.get(number)?.captures(&subject)?)))
            };
            let candidates: Vec<usize> = prefilter.candidates(&subject).collect();
            assert!(candidates.is_sorted() && candidates.iter().all(|number| *number < list.len()));
            let all = first(Box::new(0..list.len()));
            left_out += list.len() - candidates.len();
            assert_eq!(first(Box::new(candidates.into_iter())), all, "{:?}", latin(&subject));
            matches += usize::from(all.is_some());
        }
    }
    assert!(matches > 200 && left_out > 10_000, "{matches} {left_out}");
}
