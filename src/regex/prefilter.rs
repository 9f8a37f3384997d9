//! Which of many expressions may match a subject, in one pass over it.
//!
//! An expression is a candidate if one of its literals is in the subject, or if it has none that are long enough. The
//! rest can't match, so trying the candidates in their order gives what trying all in their order gives.

use std::ops::ControlFlow;

use crate::regex::Pattern;
use crate::regex::finder::Table;
use crate::regex::literals::KEY_BYTES;

/// Fewer expressions are tried one after the other.
const PATTERNS_MIN: usize = 4;

/// The literals of a list of expressions.
#[derive(Debug, Default)]
pub struct Prefilter {
    table: Table,
    /// One bit for each expression that is always a candidate.
    always: Vec<u64>,
}

impl Prefilter {
    pub fn new<'p>(patterns: impl Iterator<Item = &'p Pattern>) -> Self {
        let patterns: Vec<&Pattern> = patterns.collect();
        let mut filter = Self { table: Table::default(), always: vec![0; patterns.len().div_ceil(64)] };
        let has_few = patterns.len() < PATTERNS_MIN;
        if !has_few {
            filter.table = Table::new(patterns.len());
        }
        for (pattern, number) in patterns.into_iter().zip(0..) {
            let list = pattern.program.literals();
            if has_few || list.is_empty() || list.iter().any(|literal| literal.len() < KEY_BYTES) {
                set(&mut filter.always, number);
            } else {
                list.into_iter().for_each(|literal| filter.table.add(literal.to_vec(), number, usize::MAX));
            }
        }
        filter
    }

    /// The numbers of the expressions that may match `subject`, in their order.
    pub fn candidates(&self, subject: &[u8]) -> impl Iterator<Item = usize> + use<> {
        let mut candidates = self.always.clone();
        if !self.table.is_empty() {
            self.table.scan(subject, 0..subject.len(), |number, _| {
                set(&mut candidates, number);
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

fn set(bits: &mut [u64], number: u32) {
    if let Some(word) = bits.get_mut(number as usize / 64) {
        *word |= 1 << (number % 64);
    }
}
