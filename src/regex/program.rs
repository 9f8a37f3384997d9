//! The program that an expression is compiled to, and where in a subject it can match.

use crate::regex::byte_set::ByteSet;
use crate::regex::finder::Finder;
use crate::regex::literals::{Literals, quality};

/// A step of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instruction {
    /// Matches a byte that is `value` once `case_bit` is set in it: 0x20 for a letter in any case, otherwise 0.
    Byte {
        value: u8,
        case_bit: u8,
    },
    /// Matches a byte of the set with this index.
    Set(u16),
    /// Continues with the next step or the step at an offset, and prefers the next. Offsets are relative, so that a part
    /// of a program can be moved and repeated.
    PreferNext(i16),
    /// As `PreferNext`, but prefers the step at the offset.
    PreferFar(i16),
    Jump(i16),
    /// Saves the start (even numbers) or the end of a group.
    Save(u16),
    Assert(Assert),
    /// Tests the look-around with this index, which must match if it is positive.
    Look {
        number: u8,
        is_positive: bool,
    },
    Match,
}

/// A condition on an offset of the subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Assert {
    Start,
    End,
    LineStart,
    LineEnd,
    /// Between a word character and another.
    Boundary,
    NoBoundary,
}

/// A compiled expression.
#[derive(Debug, Default)]
pub(super) struct Program {
    pub(super) steps: Vec<Instruction>,
    pub(super) sets: Vec<ByteSet>,
    /// Inner look-arounds precede those that contain them.
    pub(super) looks: Vec<Lookaround>,
    /// Groups that are captured, the whole match included.
    pub(super) groups: usize,
    /// Can only match at the start of a subject.
    is_anchored: bool,
    /// Has no branches and no look-arounds.
    pub(super) is_straight: bool,
    /// Finds what every match begins with.
    prefix_finder: Option<Box<Finder>>,
    /// Finds what every match contains, if that excludes more subjects.
    inner_finder: Option<Box<Finder>>,
}

/// The program of a look-ahead or look-behind.
#[derive(Debug)]
pub(super) struct Lookaround {
    pub(super) steps: Vec<Instruction>,
    /// A look-behind, which ends at the tested offset. The steps of a look-ahead run backwards through the subject.
    pub(super) is_behind: bool,
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
    /// Completes the program with the literals of the expression, which tell where a match can begin.
    pub(super) fn complete(mut self, literals: Literals) -> Self {
        self.is_anchored = self.first_steps(true).is_empty();
        self.is_straight = !self.steps.iter().any(|step| {
            matches!(
                step,
                Instruction::PreferNext(_)
                    | Instruction::PreferFar(_)
                    | Instruction::Jump(_)
                    | Instruction::Look { .. }
            )
        });
        let (prefixes, inner) = literals.prefixes_and_inner();
        if quality(&inner) > quality(&prefixes) {
            self.inner_finder = Finder::new(inner).map(Box::new);
        }
        self.prefix_finder = Finder::new(prefixes).or_else(|| self.first_bytes().map(Finder::from_set)).map(Box::new);
        self
    }

    /// The steps that can match the first byte of a match, or end an empty one. `without_anchored` leaves out those behind
    /// an `Assert::Start`.
    fn first_steps(&self, without_anchored: bool) -> Vec<Instruction> {
        let mut seen = vec![false; self.steps.len()];
        let (mut found, mut pending) = (Vec::new(), vec![0_usize]);
        while let Some(at) = pending.pop() {
            let (Some(step), Some(seen)) = (self.steps.get(at), seen.get_mut(at)) else { continue };
            if std::mem::replace(seen, true) {
                continue;
            }
            let target = |offset: i16| at.wrapping_add_signed(isize::from(offset));
            match *step {
                Instruction::Byte { .. } | Instruction::Set(_) | Instruction::Match => found.push(*step),
                Instruction::Assert(Assert::Start) if without_anchored => {}
                Instruction::PreferNext(offset) | Instruction::PreferFar(offset) => {
                    pending.extend([at + 1, target(offset)])
                }
                Instruction::Jump(offset) => pending.push(target(offset)),
                Instruction::Save(_) | Instruction::Assert(_) | Instruction::Look { .. } => pending.push(at + 1),
            }
        }
        found
    }

    /// The bytes that a match can begin with. `None` if it can be empty.
    fn first_bytes(&self) -> Option<ByteSet> {
        let mut bytes = ByteSet::default();
        for step in self.first_steps(false) {
            match step {
                Instruction::Byte { value, case_bit } => {
                    [value, value & !case_bit].map(u32::from).into_iter().for_each(|byte| bytes.add_range(byte, byte))
                }
                Instruction::Set(number) => bytes.add_all(self.sets.get(usize::from(number))?),
                _ => return None,
            }
        }
        Some(bytes)
    }

    /// Returns the first offset, `from` or greater, at which a match can begin.
    pub(super) fn next_start(&self, subject: &[u8], from: usize) -> Option<usize> {
        let starts = from..if self.is_anchored { 1 } else { subject.len() + 1 };
        match &self.prefix_finder {
            Some(finder) => finder.find(subject, starts),
            None => (!starts.is_empty()).then_some(from),
        }
    }

    /// Whether `subject` contains what every match contains.
    pub(super) fn may_match(&self, subject: &[u8]) -> bool {
        self.inner_finder.as_ref().is_none_or(|finder| finder.find(subject, 0..subject.len()).is_some())
    }

    /// Literals in lower case, at least one of which is in every match. None if there are no such literals.
    pub(super) fn literals(&self) -> Vec<&[u8]> {
        self.inner_finder.as_ref().or(self.prefix_finder.as_ref()).map(|finder| finder.literals()).unwrap_or_default()
    }
}
