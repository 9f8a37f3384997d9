//! `split_clients "text" $name { ... }`: a value chosen by a hash of the text, with given percentages.

use crate::config::arguments::arg;
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Error, Result, Word};
use crate::config::template::Template;

/// A compiled `split_clients`.
#[derive(Debug)]
pub struct Split {
    pub name: String,
    pub source: Template,
    /// Values, each for hashes below a bound. None: for all remaining hashes.
    parts: Vec<(Option<u64>, Box<[u8]>)>,
}

impl Split {
    /// Returns the value for a text; empty, if its hash is in no part.
    pub fn lookup(&self, text: &[u8]) -> &[u8] {
        let hash = u64::from(murmur2(text));
        let found = self.parts.iter().find(|(end, _)| end.is_none_or(|end| hash < end));
        found.map_or(&[], |(_, value)| value)
    }

    /// Lists all values that the variable may have.
    pub(crate) fn possible_values(&self) -> impl Iterator<Item = &[u8]> {
        let is_whole = self.parts.iter().any(|(end, _)| end.is_none());
        let nothing = (!is_whole).then_some(&[][..]);
        self.parts.iter().map(|(_, value)| &**value).chain(nothing)
    }
}

/// MurmurHash2 with seed 0, as in nginx: a text gets the same value from both.
fn murmur2(text: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let (words, rest) = text.as_chunks::<4>();
    let mut hash = words.iter().fold(text.len() as u32, |hash, word| {
        let word = u32::from_le_bytes(*word).wrapping_mul(M);
        hash.wrapping_mul(M) ^ (word ^ word >> 24).wrapping_mul(M)
    });
    if !rest.is_empty() {
        hash = rest.iter().zip([0, 8, 16]).fold(hash, |hash, (byte, shift)| hash ^ u32::from(*byte) << shift);
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ hash >> 13).wrapping_mul(M);
    hash ^ hash >> 15
}

pub(crate) fn split_clients(builder: &mut Builder, _: &mut BlockBuilder, directive: &Directive) -> Result {
    let name = builder.defined_variable_name(arg(directive, 1))?;
    let source = builder.template(arg(directive, 0))?;
    let mut parts = Vec::new();
    let (mut sum, mut end) = (0, 0);
    for entry in directive.block.as_deref().unwrap_or_default() {
        let ([value], None) = (entry.args.as_slice(), &entry.block) else {
            return Err(Error::new(&entry.name.at, "invalid number of the split_clients parameters")
                .hint("a percentage and a value are expected"));
        };
        let hundredths = parse_percentage(&entry.name)?;
        sum = hundredths.map_or(HUNDREDTHS, |part| sum + part);
        if sum > HUNDREDTHS {
            return Err(Error::new(&entry.name.at, "percent total is greater than 100%"));
        }
        end += hundredths.unwrap_or(0) * u64::from(u32::MAX) / HUNDREDTHS;
        parts.push((hundredths.map(|_| end), value.text.as_bytes().into()));
    }
    builder.config.splits.push(Split { name, source, parts });
    Ok(())
}

/// 100 % in hundredths of a percent.
const HUNDREDTHS: u64 = 10_000;

/// Parses `51.2%` to hundredths of a percent. `Ok(None)`: `*`, the rest.
fn parse_percentage(word: &Word) -> Result<Option<u64>> {
    if word.text == "*" {
        return Ok(None);
    }
    let wrong = || word.error("invalid percent value \"{}\"").hint("0.01% to 100%, or * for the rest, is expected");
    parse_hundredths(&word.text).filter(|part| (1..=HUNDREDTHS).contains(part)).map(Some).ok_or_else(wrong)
}

fn parse_hundredths(text: &str) -> Option<u64> {
    let number = text.strip_suffix('%')?;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    let known = decimals.len() <= 2 && (1..=3).contains(&whole.len());
    let digits = format!("{whole}{decimals:0<2}");
    (known && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_nginxs() {
        for (text, expected) in
            [("", 0), ("a", 0x9268_5f5e), ("ab", 0x1aa1_4063), ("abc", 0x1357_7c9b), ("abcd", 0x2687_3021)]
        {
            assert_eq!(murmur2(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn parts_are_hundredths_of_a_percent() {
        for (text, expected) in
            [("51.2%", 5120), ("10%", 1000), ("0.01%", 1), ("100%", 10_000), ("100.00%", 10_000), ("7.%", 700)]
        {
            assert_eq!(parse_hundredths(text), Some(expected), "{text}");
        }
        for bad in ["", "%", "10", ".5%", "0.001%", "1000.5%%", "-1%", "1e1%", "1 %", "12345%"] {
            assert_eq!(parse_hundredths(bad), None, "{bad}");
        }
    }
}
