//! Selects, in one pass over a subject, which of many expressions may match it.
//!
//! An expression is a candidate if one of its literals is in the subject, or if its literals are too short. The others can't
//! match, so the first match of the candidates is the first match of all.

use std::ops::ControlFlow;

use crate::regex::Pattern;
use crate::regex::finder::LiteralTable;
use crate::regex::literals::KEY_BYTES;

/// Shorter lists are tried without a table.
const PATTERNS_MIN: usize = 4;

/// The literals of a list of expressions.
#[derive(Debug, Default)]
pub struct Prefilter {
    table: LiteralTable,
    /// One bit for each expression, set if it is always a candidate.
    always: Vec<u64>,
}

impl Prefilter {
    pub fn new<'p>(patterns: impl Iterator<Item = &'p Pattern>) -> Self {
        let patterns: Vec<&Pattern> = patterns.collect();
        let mut prefilter = Self { table: LiteralTable::default(), always: vec![0; patterns.len().div_ceil(64)] };
        let has_few = patterns.len() < PATTERNS_MIN;
        if !has_few {
            prefilter.table = LiteralTable::new(patterns.len());
        }
        for (pattern, number) in patterns.into_iter().zip(0..) {
            let list = pattern.program.literals();
            if has_few || list.is_empty() || list.iter().any(|literal| literal.len() < KEY_BYTES) {
                set_bit(&mut prefilter.always, number);
            } else {
                list.into_iter().for_each(|literal| prefilter.table.add(literal.to_vec(), number, usize::MAX));
            }
        }
        prefilter
    }

    /// The indices of the expressions that may match `subject`, in ascending order.
    pub fn candidates(&self, subject: &[u8]) -> impl Iterator<Item = usize> + use<> {
        let mut candidates = self.always.clone();
        if !self.table.is_empty() {
            self.table.scan(subject, 0..subject.len(), |number, _| {
                set_bit(&mut candidates, number);
                ControlFlow::Continue(())
            });
        }
        candidates.into_iter().enumerate().flat_map(|(index, mut bits)| {
            std::iter::from_fn(move || {
                let bit = (bits != 0).then(|| bits.trailing_zeros())?;
                bits &= bits - 1;
                Some(index * 64 + bit as usize)
            })
        })
    }
}

fn set_bit(bits: &mut [u64], number: u32) {
    if let Some(word) = bits.get_mut(number as usize / 64) {
        *word |= 1 << (number % 64);
    }
}
