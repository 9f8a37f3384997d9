//! What an expression is compiled to: steps that follow each other, where some go on elsewhere.

use crate::regex::byte_set::Set;
use crate::regex::finder::Finder;
use crate::regex::literals::{Literals, quality};

/// One step of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// One byte. With the bits of `or` set in it, it is `is`: `or` is 0x20 for a letter in any case.
    Byte {
        is: u8,
        or: u8,
    },
    /// One byte out of the set of this number.
    Set(u16),
    /// Goes on with the next step, or else with the one that is so far away. Ways are relative, so that a part of a
    /// program can be moved and repeated.
    Split(i16),
    /// As `Split`, but the one far away comes first.
    Prefer(i16),
    Jump(i16),
    /// A group begins (an even number) or ends here.
    Save(u16),
    Assert(Assert),
    /// Whether the look-around of this number holds here, as it is wanted.
    Look {
        number: u8,
        wanted: bool,
    },
    Match,
}

/// What a place has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Assert {
    Start,
    End,
    LineStart,
    LineEnd,
    /// Between a character of a word and another.
    Boundary,
    NoBoundary,
}

/// A compiled expression.
#[derive(Debug, Default)]
pub(super) struct Program {
    pub(super) steps: Vec<Step>,
    pub(super) sets: Vec<Set>,
    /// Those inside of others stand before them.
    pub(super) looks: Vec<Lookaround>,
    /// Groups whose places are remembered, the whole match included.
    pub(super) groups: usize,
    /// It matches at the start of a subject or not at all.
    anchored: bool,
    /// It has no choices and no look-arounds: its steps follow each other.
    pub(super) straight: bool,
    /// Finds what every match begins with.
    starts: Option<Box<Finder>>,
    /// Finds what every match contains, where that excludes more subjects.
    inner: Option<Box<Finder>>,
}

/// What is looked for around a place.
#[derive(Debug)]
pub(super) struct Lookaround {
    pub(super) steps: Vec<Step>,
    /// It ends at the place; otherwise it begins there, and its steps go backwards.
    pub(super) behind: bool,
}

impl Assert {
    pub(super) fn holds(self, subject: &[u8], at: usize) -> bool {
        let before = at.checked_sub(1).and_then(|before| subject.get(before));
        let after = subject.get(at);
        let is_word = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
        let is_edge = |byte: Option<&u8>| byte.is_none_or(|b| *b == b'\n');
        match self {
            Self::Start => before.is_none(),
            Self::End => after.is_none(),
            Self::LineStart => is_edge(before),
            Self::LineEnd => is_edge(after),
            Self::Boundary => is_word(before) != is_word(after),
            Self::NoBoundary => is_word(before) == is_word(after),
        }
    }
}

impl Program {
    /// Finds out where a match can begin; `literals` are those of the whole expression.
    pub(super) fn complete(mut self, literals: Literals) -> Self {
        self.anchored = self.first_steps(true).is_empty();
        self.straight = !self
            .steps
            .iter()
            .any(|step| matches!(step, Step::Split(_) | Step::Prefer(_) | Step::Jump(_) | Step::Look { .. }));
        let (starts, inner) = literals.starts_and_inner();
        if quality(&inner) > quality(&starts) {
            self.inner = Finder::new(inner).map(Box::new);
        }
        self.starts = Finder::new(starts).or_else(|| self.first_bytes().map(Finder::of_set)).map(Box::new);
        self
    }

    /// The steps that can take the first byte of a match, or end an empty one; with `but_at_start` without those that an
    /// `Assert::Start` precedes.
    fn first_steps(&self, but_at_start: bool) -> Vec<Step> {
        let mut seen = vec![false; self.steps.len()];
        let (mut found, mut ways) = (Vec::new(), vec![0_usize]);
        while let Some(at) = ways.pop() {
            let (Some(step), Some(seen)) = (self.steps.get(at), seen.get_mut(at)) else { continue };
            if std::mem::replace(seen, true) {
                continue;
            }
            let far = |way: i16| at.wrapping_add_signed(isize::from(way));
            match *step {
                Step::Byte { .. } | Step::Set(_) | Step::Match => found.push(*step),
                Step::Assert(Assert::Start) if but_at_start => {}
                Step::Split(way) | Step::Prefer(way) => ways.extend([at + 1, far(way)]),
                Step::Jump(way) => ways.push(far(way)),
                Step::Save(_) | Step::Assert(_) | Step::Look { .. } => ways.push(at + 1),
            }
        }
        found
    }

    /// The bytes that a match can begin with, unless it can be empty.
    fn first_bytes(&self) -> Option<Set> {
        let mut bytes = Set::default();
        for step in self.first_steps(false) {
            match step {
                Step::Byte { is, or } => {
                    [is, is & !or].map(u32::from).into_iter().for_each(|byte| bytes.add(byte, byte))
                }
                Step::Set(number) => bytes.join(self.sets.get(usize::from(number))?),
                _ => return None,
            }
        }
        Some(bytes)
    }

    /// The first place from `from` on where a match can begin.
    pub(super) fn next_place(&self, subject: &[u8], from: usize) -> Option<usize> {
        let places = from..if self.anchored { 1 } else { subject.len() + 1 };
        match &self.starts {
            Some(starts) => starts.find(subject, places),
            None => (!places.is_empty()).then_some(from),
        }
    }

    /// Whether `subject` contains what every match contains.
    pub(super) fn may_match(&self, subject: &[u8]) -> bool {
        self.inner.as_ref().is_none_or(|inner| inner.find(subject, 0..subject.len()).is_some())
    }

    /// Literals in lower case, one of which is in every match; none, if there are no such.
    pub(super) fn literals(&self) -> Vec<&[u8]> {
        self.inner.as_ref().or(self.starts.as_ref()).map(|finder| finder.literals()).unwrap_or_default()
    }
}
