//! What an expression is compiled to: steps that follow each other, where some go on elsewhere.

use super::set::Set;

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
    pub(super) looks: Vec<Look>,
    /// Capturing groups, the whole match included.
    pub(super) groups: usize,
    /// It matches at the start of a subject or not at all.
    anchored: bool,
    /// The bytes that every match begins with: `is` and `or` of each.
    prefix: Vec<(u8, u8)>,
}

/// What is looked for around a place.
#[derive(Debug)]
pub(super) struct Look {
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
    /// Finds out how every match begins.
    pub(super) fn complete(mut self) -> Self {
        let mut steps = self.steps.iter().filter(|step| !matches!(step, Step::Save(_))).peekable();
        self.anchored = steps.next_if(|step| **step == Step::Assert(Assert::Start)).is_some();
        let bytes = steps.map_while(|step| match step {
            Step::Byte { is, or } => Some((*is, *or)),
            _ => None,
        });
        self.prefix = bytes.collect();
        self
    }

    pub(super) fn is_anchored(&self) -> bool {
        self.anchored
    }

    /// Where the first match can begin.
    pub(super) fn first_place(&self, subject: &[u8]) -> Option<usize> {
        let places = if self.anchored { 0..=0 } else { 0..=subject.len() };
        let fits = |at: usize| {
            let rest = subject.get(at..).unwrap_or_default();
            rest.len() >= self.prefix.len() && self.prefix.iter().zip(rest).all(|((is, or), byte)| byte | or == *is)
        };
        places.into_iter().find(|at| fits(*at))
    }
}
