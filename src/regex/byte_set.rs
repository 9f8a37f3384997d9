//! Sets of bytes, which classes like `[^a-z]` or `\d` match.

/// One bit for each byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ByteSet([u32; 8]);

/// POSIX classes: a name in six bytes, and the first and last byte of up to four ranges.
const NAMED: [[u8; 14]; 14] = [
    *b"alnum 09AZazaz",
    *b"alpha AZazazaz",
    *b"ascii \0\x7f\0\x7f\0\x7f\0\x7f",
    *b"blank \t\t      ",
    *b"cntrl \0\x1f\x7f\x7f\x7f\x7f\x7f\x7f",
    *b"digit 09090909",
    *b"graph !~!~!~!~",
    *b"lower azazazaz",
    *b"print  ~ ~ ~ ~",
    *b"punct !/:@[`{~",
    *b"space \t\r      ",
    *b"upper AZAZAZAZ",
    *b"word  09AZ__az",
    *b"xdigit09AFafaf",
];

impl ByteSet {
    /// Returns the POSIX class of this name.
    pub(super) fn named(name: &[u8]) -> Option<Self> {
        let known = NAMED.iter().map(|entry| entry.split_at(6));
        let (_, ranges) = known.into_iter().find(|(known, _)| known.trim_ascii_end() == name)?;
        let mut set = Self::default();
        for range in ranges.chunks_exact(2) {
            if let [first, last] = range {
                set.add_range(u32::from(*first), u32::from(*last));
            }
        }
        Some(set)
    }

    pub(super) fn contains(&self, byte: u8) -> bool {
        self.0.get(usize::from(byte >> 5)).is_some_and(|word| word >> (byte & 31) & 1 == 1)
    }

    /// Adds the characters from `first` to `last`, except those above 255.
    pub(super) fn add_range(&mut self, first: u32, last: u32) {
        for byte in first..=last.min(255) {
            if let Some(word) = self.0.get_mut(byte as usize >> 5) {
                *word |= 1 << (byte & 31);
            }
        }
    }

    pub(super) fn add_all(&mut self, other: &Self) {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word |= more;
        }
    }

    /// Adds the other case of each ASCII letter in the set.
    pub(super) fn add_other_case(&mut self) {
        for letter in b'A'..=b'Z' {
            for (one, other) in [(letter, letter | 0x20), (letter | 0x20, letter)] {
                if self.contains(one) {
                    self.add_range(u32::from(other), u32::from(other));
                }
            }
        }
    }

    pub(super) fn negated(self) -> Self {
        Self(self.0.map(|word| !word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_select_the_classes_of_ascii() {
        type Class = (&'static str, fn(&u8) -> bool);
        let classes: [Class; 13] = [
            ("alnum", u8::is_ascii_alphanumeric),
            ("alpha", u8::is_ascii_alphabetic),
            ("ascii", u8::is_ascii),
            ("blank", |b| matches!(b, b' ' | b'\t')),
            ("cntrl", u8::is_ascii_control),
            ("digit", u8::is_ascii_digit),
            ("graph", u8::is_ascii_graphic),
            ("lower", u8::is_ascii_lowercase),
            ("punct", u8::is_ascii_punctuation),
            ("space", |b| b.is_ascii_whitespace() || *b == 0x0b),
            ("upper", u8::is_ascii_uppercase),
            ("word", |b| b.is_ascii_alphanumeric() || *b == b'_'),
            ("xdigit", u8::is_ascii_hexdigit),
        ];
        for (name, is_member) in classes {
            let set = ByteSet::named(name.as_bytes()).unwrap();
            assert!((0..=255).all(|byte| set.contains(byte) == is_member(&byte)), "{name}");
            assert!((0..=255).all(|byte| set.negated().contains(byte) != is_member(&byte)), "{name}");
        }
        assert!(ByteSet::named(b"print").unwrap().contains(b' '));
        assert_eq!((ByteSet::named(b"words"), ByteSet::named(b"xdigit09"), ByteSet::named(b"")), (None, None, None));
    }

    #[test]
    fn other_case_and_characters_above_255() {
        let mut set = ByteSet::default();
        set.add_range(u32::from(b'Y'), u32::from(b'b'));
        set.add_other_case();
        let members: Vec<u8> = (0..=255).filter(|byte| set.contains(*byte)).collect();
        assert_eq!(members, b"ABYZ[\\]^_`abyz");
        set.add_range(0x100, 0x200);
        set.add_range(0xfe, 0x200);
        assert_eq!((0..=255).filter(|byte| set.contains(*byte)).count(), members.len() + 2);
    }
}
