//! Literals that every match of an expression contains, found while the expression is parsed.
//!
//! They are kept in lower case, so that one search serves expressions of either kind. They are a condition that is
//! necessary, not one that suffices: asserts and look-arounds match the empty literal here, and where the possible
//! texts are too many, the list is the empty literal, which every subject contains.

use crate::regex::byte_set::Set;

/// Bytes of one literal: longer ones exclude hardly more subjects.
const LITERAL_BYTES_MAX: usize = 32;
/// Literals that may result where two lists, both of several literals, are concatenated.
const PRODUCT_MAX: usize = 16;
/// Bytes of a set that count as literals.
const SET_MAX: usize = 8;
/// Literals of one list.
const LITERALS_MAX: usize = 2000;
/// From this length on fewer literals are better than longer ones.
const LONG_ENOUGH: usize = 6;

/// Bytes of a literal that make its key in a table.
pub(super) const KEY_BYTES: usize = 3;

/// Alternatives, one of which is in the subject.
pub(super) type List = Vec<Vec<u8>>;

/// What is known of the texts that a part of an expression matches.
#[derive(Clone, Debug)]
pub(super) enum Literals {
    /// All of them.
    All(List),
    /// How they begin, what they contain, and how they end.
    Some { starts: List, inner: List, ends: List },
}

impl Default for Literals {
    /// The empty text.
    fn default() -> Self {
        Self::All(anything())
    }
}

/// The list that excludes no subject.
fn anything() -> List {
    vec![Vec::new()]
}

/// Whether a list excludes more subjects than another: by its shortest literal, then by the number of them.
pub(super) fn quality(list: &List) -> (usize, std::cmp::Reverse<usize>) {
    (shortest(list).min(LONG_ENOUGH), std::cmp::Reverse(list.len()))
}

/// The length of the shortest literal.
pub(super) fn shortest(list: &List) -> usize {
    list.iter().map(Vec::len).min().unwrap_or(0)
}

fn better(one: List, other: List) -> List {
    if quality(&other) > quality(&one) { other } else { one }
}

/// Each literal of `one` in front of each of `other`.
fn product(mut one: List, other: &List) -> List {
    if let [end] = other.as_slice() {
        one.iter_mut().for_each(|literal| literal.extend_from_slice(end));
        return one;
    }
    one.iter().flat_map(|start| other.iter().map(move |end| [start.as_slice(), end].concat())).collect()
}

/// Whether the product of two lists is small.
fn fits(one: &List, other: &List) -> bool {
    let longest = |list: &List| list.iter().map(Vec::len).max().unwrap_or(0);
    let count = one.len() * other.len();
    (count <= PRODUCT_MAX || one.len() == 1 || other.len() == 1) && longest(one) + longest(other) <= LITERAL_BYTES_MAX
}

/// The literals of both lists; anything, if they are too many or one list is anything.
fn union(mut one: List, other: List) -> List {
    if one.len() + other.len() > LITERALS_MAX || shortest(&one).min(shortest(&other)) == 0 {
        return anything();
    }
    one.extend(other);
    one
}

impl Literals {
    /// A part that can match any text.
    pub(super) fn unknown() -> Self {
        Self::Some { starts: anything(), inner: anything(), ends: anything() }
    }

    pub(super) fn byte(byte: u8) -> Self {
        Self::All(vec![vec![byte.to_ascii_lowercase()]])
    }

    /// One byte of a set.
    pub(super) fn set(set: &Set) -> Self {
        let is_twice = |byte: u8| byte.is_ascii_uppercase() && set.has(byte.to_ascii_lowercase());
        let bytes = (0..=255).filter(|byte| set.has(*byte) && !is_twice(*byte));
        let list: List = bytes.map(|byte: u8| vec![byte.to_ascii_lowercase()]).take(SET_MAX + 1).collect();
        if (1..=SET_MAX).contains(&list.len()) { Self::All(list) } else { Self::unknown() }
    }

    /// The starts, what is inside, the ends.
    fn lists(self) -> [List; 3] {
        match self {
            Self::All(list) => [list.clone(), list.clone(), list],
            Self::Some { starts, inner, ends } => [starts, inner, ends],
        }
    }

    /// What begins every match, and what is in every match.
    pub(super) fn starts_and_inner(self) -> (List, List) {
        let [starts, inner, _] = self.lists();
        (starts, inner)
    }

    /// One behind the other.
    pub(super) fn then(self, next: Self) -> Self {
        let (start_is_all, end) = (matches!(self, Self::All(_)), next);
        match (self, end) {
            (Self::All(one), Self::All(other)) if fits(&one, &other) => Self::All(product(one, &other)),
            (one, other) => {
                let end_is_all = matches!(other, Self::All(_));
                let ([starts, inner, ends], [next_starts, next_inner, next_ends]) = (one.lists(), other.lists());
                let across =
                    if fits(&ends, &next_starts) { product(ends.clone(), &next_starts) } else { next_starts.clone() };
                let goes_on = start_is_all && fits(&starts, &next_starts);
                let starts = if goes_on { product(starts, &next_starts) } else { starts };
                let goes_back = end_is_all && fits(&ends, &next_ends);
                let ends = if goes_back { product(ends, &next_ends) } else { next_ends };
                Self::Some { starts, inner: better(better(inner, next_inner), across), ends }
            }
        }
    }

    /// One or the other.
    pub(super) fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::All(mut one), Self::All(other)) if one.len() + other.len() <= LITERALS_MAX => {
                one.extend(other);
                Self::All(one)
            }
            (one, other) => {
                let ([starts, inner, ends], [other_starts, other_inner, other_ends]) = (one.lists(), other.lists());
                let (starts, inner) = (union(starts, other_starts), union(inner, other_inner));
                Self::Some { starts, inner, ends: union(ends, other_ends) }
            }
        }
    }

    /// From `min` to `max` times.
    pub(super) fn repeated(self, min: usize, max: Option<usize>) -> Self {
        match (min, max) {
            (1, Some(1)) => self,
            (0, Some(1)) => self.or(Self::default()),
            (0, _) => Self::unknown(),
            _ => {
                let [starts, inner, ends] = self.lists();
                Self::Some { starts, inner, ends }
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
    fn what_is_in_every_match() {
        for (source, starts, inner) in [
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
            let (found_starts, found_inner) = literals_of(source).starts_and_inner();
            let text = |list: List| match shortest(&list) {
                0 => String::new(),
                _ => String::from_utf8(list.join(&b' ')).unwrap(),
            };
            assert_eq!((text(found_starts).as_str(), text(found_inner).as_str()), (starts, inner), "{source}");
        }
    }

    #[test]
    fn lists_and_literals_have_a_limit() {
        let long = "x".repeat(1000);
        for source in [long.clone(), format!("(a|b){long}(a|b)"), "(a|b)".repeat(100), format!("({long}|a)+")] {
            let (starts, inner) = literals_of(&source).starts_and_inner();
            for list in [starts, inner] {
                assert!(list.len() <= PRODUCT_MAX && list.iter().all(|text| text.len() <= LITERAL_BYTES_MAX));
            }
        }
    }
}
