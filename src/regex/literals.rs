//! Literals that every match of an expression contains, found while the expression is parsed.
//!
//! Literals are in lower case, so that one search serves case-sensitive and caseless expressions. They are a necessary
//! condition of a match, not a sufficient one: assertions and look-arounds count as the empty literal, and so does a part
//! that matches too many texts. Every subject contains the empty literal.

use crate::regex::byte_set::ByteSet;

/// Bytes of a literal: longer ones exclude hardly more subjects.
const LITERAL_BYTES_MAX: usize = 32;
/// Literals of the product of two lists that both have several.
const PRODUCT_MAX: usize = 16;
/// Bytes of a set that are listed as literals.
const SET_MAX: usize = 8;
/// Literals of a list.
const LITERALS_MAX: usize = 2000;
/// From this length on, fewer literals are better than longer ones.
const LONG_ENOUGH: usize = 6;

/// Bytes of a literal that make its key in a table.
pub(super) const KEY_BYTES: usize = 3;

/// Alternatives, at least one of which is in every match.
pub(super) type LiteralList = Vec<Vec<u8>>;

/// The texts that a part of an expression matches.
#[derive(Clone, Debug)]
pub(super) enum Literals {
    /// All of these texts.
    Exact(LiteralList),
    /// What the texts begin with, contain and end with.
    Partial { prefixes: LiteralList, inner: LiteralList, suffixes: LiteralList },
}

impl Default for Literals {
    /// The empty text.
    fn default() -> Self {
        Self::Exact(empty_literal())
    }
}

/// The list that excludes no subject.
fn empty_literal() -> LiteralList {
    vec![Vec::new()]
}

/// A measure of how many subjects a list excludes: the length of its shortest literal, then the number of literals.
pub(super) fn quality(list: &LiteralList) -> (usize, std::cmp::Reverse<usize>) {
    (shortest(list).min(LONG_ENOUGH), std::cmp::Reverse(list.len()))
}

/// The length of the shortest literal.
pub(super) fn shortest(list: &LiteralList) -> usize {
    list.iter().map(Vec::len).min().unwrap_or(0)
}

fn better(one: LiteralList, other: LiteralList) -> LiteralList {
    if quality(&other) > quality(&one) { other } else { one }
}

/// Concatenates each literal of `one` with each of `other`.
fn product(mut one: LiteralList, other: &LiteralList) -> LiteralList {
    if let [end] = other.as_slice() {
        one.iter_mut().for_each(|literal| literal.extend_from_slice(end));
        return one;
    }
    one.iter().flat_map(|start| other.iter().map(move |end| [start.as_slice(), end].concat())).collect()
}

/// Whether the product of two lists is within the limits.
fn product_fits(one: &LiteralList, other: &LiteralList) -> bool {
    let longest = |list: &LiteralList| list.iter().map(Vec::len).max().unwrap_or(0);
    let count = one.len() * other.len();
    (count <= PRODUCT_MAX || one.len() == 1 || other.len() == 1) && longest(one) + longest(other) <= LITERAL_BYTES_MAX
}

/// The literals of both lists, or the empty literal if there are too many.
fn union(mut one: LiteralList, other: LiteralList) -> LiteralList {
    if one.len() + other.len() > LITERALS_MAX || shortest(&one).min(shortest(&other)) == 0 {
        return empty_literal();
    }
    one.extend(other);
    one
}

impl Literals {
    /// A part that can match any text.
    pub(super) fn any_text() -> Self {
        Self::Partial { prefixes: empty_literal(), inner: empty_literal(), suffixes: empty_literal() }
    }

    pub(super) fn from_byte(byte: u8) -> Self {
        Self::Exact(vec![vec![byte.to_ascii_lowercase()]])
    }

    /// Any one byte of a set.
    pub(super) fn from_set(set: &ByteSet) -> Self {
        let has_lower_case = |byte: u8| byte.is_ascii_uppercase() && set.contains(byte.to_ascii_lowercase());
        let bytes = (0..=255).filter(|byte| set.contains(*byte) && !has_lower_case(*byte));
        let list: LiteralList = bytes.map(|byte: u8| vec![byte.to_ascii_lowercase()]).take(SET_MAX + 1).collect();
        if (1..=SET_MAX).contains(&list.len()) { Self::Exact(list) } else { Self::any_text() }
    }

    /// The prefixes, the inner literals, the suffixes.
    fn lists(self) -> [LiteralList; 3] {
        match self {
            Self::Exact(list) => [list.clone(), list.clone(), list],
            Self::Partial { prefixes, inner, suffixes } => [prefixes, inner, suffixes],
        }
    }

    /// The lists of what begins every match, and of what every match contains.
    pub(super) fn prefixes_and_inner(self) -> (LiteralList, LiteralList) {
        let [prefixes, inner, _] = self.lists();
        (prefixes, inner)
    }

    /// This part followed by `next`.
    pub(super) fn concat(self, next: Self) -> Self {
        let (is_exact, next_is_exact) = (matches!(self, Self::Exact(_)), matches!(next, Self::Exact(_)));
        match (self, next) {
            (Self::Exact(one), Self::Exact(other)) if product_fits(&one, &other) => Self::Exact(product(one, &other)),
            (one, other) => {
                let ([prefixes, inner, suffixes], [next_prefixes, next_inner, next_suffixes]) =
                    (one.lists(), other.lists());
                let across = if product_fits(&suffixes, &next_prefixes) {
                    product(suffixes.clone(), &next_prefixes)
                } else {
                    next_prefixes.clone()
                };
                let extends_prefixes = is_exact && product_fits(&prefixes, &next_prefixes);
                let prefixes = if extends_prefixes { product(prefixes, &next_prefixes) } else { prefixes };
                let extends_suffixes = next_is_exact && product_fits(&suffixes, &next_suffixes);
                let suffixes = if extends_suffixes { product(suffixes, &next_suffixes) } else { next_suffixes };
                Self::Partial { prefixes, inner: better(better(inner, next_inner), across), suffixes }
            }
        }
    }

    /// This part or `other`.
    pub(super) fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Exact(mut one), Self::Exact(other)) if one.len() + other.len() <= LITERALS_MAX => {
                one.extend(other);
                Self::Exact(one)
            }
            (one, other) => {
                let ([prefixes, inner, suffixes], [other_prefixes, other_inner, other_suffixes]) =
                    (one.lists(), other.lists());
                let (prefixes, inner) = (union(prefixes, other_prefixes), union(inner, other_inner));
                Self::Partial { prefixes, inner, suffixes: union(suffixes, other_suffixes) }
            }
        }
    }

    /// This part, repeated from `min` to `max` times.
    pub(super) fn repeat(self, min: usize, max: Option<usize>) -> Self {
        match (min, max) {
            (1, Some(1)) => self,
            (0, Some(1)) => self.or(Self::default()),
            (0, _) => Self::any_text(),
            _ => {
                let [prefixes, inner, suffixes] = self.lists();
                Self::Partial { prefixes, inner, suffixes }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::regex::compile::parse;

    fn literals_of(source: &str) -> Literals {
        parse(source.as_bytes(), false).unwrap().literals
    }

    #[test]
    fn literals_of_every_match() {
        for (source, prefixes, inner) in [
            ("Foo", "foo", "foo"),
            (r"(?:\bFoo)(?!x)bar\b", "foobar", "foobar"),
            ("foo|(ba[rz])", "foo bar baz", "foo bar baz"),
            ("https?:", "https: http:", "https: http:"),
            (r"^\w+bot/[0-9]", "", "bot/"),
            ("[Bb][0-9]+ot|x+yz", "b x", "ot xyz"),
            ("x*yz", "", "yz"),
            ("a(bc)+d", "abc", "abc"),
            ("abc*d", "ab", "ab"),
            ("ab.*|c", "ab c", "ab c"),
            (r"\.(gif|jpe?g)$", ".gif .jpeg .jpg", ".gif .jpeg .jpg"),
            ("a|", "", ""),
            ("a{0}b", "", "b"),
            (r"\x{100}a", "", "a"),
        ] {
            let (found_prefixes, found_inner) = literals_of(source).prefixes_and_inner();
            let text = |list: LiteralList| match shortest(&list) {
                0 => String::new(),
                _ => String::from_utf8(list.join(&b' ')).unwrap(),
            };
            assert_eq!((text(found_prefixes).as_str(), text(found_inner).as_str()), (prefixes, inner), "{source}");
        }
    }

    #[test]
    fn lists_and_literals_are_limited() {
        let long = "x".repeat(1000);
        for source in [long.clone(), format!("(a|b){long}(a|b)"), "(a|b)".repeat(100), format!("({long}|a)+")] {
            let (prefixes, inner) = literals_of(&source).prefixes_and_inner();
            for list in [prefixes, inner] {
                assert!(list.len() <= PRODUCT_MAX && list.iter().all(|text| text.len() <= LITERAL_BYTES_MAX));
            }
        }
    }
}
