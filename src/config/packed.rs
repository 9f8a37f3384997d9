//! The table of directives as the program has it. There are hundreds of lines, so the compiler makes them short: names are
//! one text, and what becomes of several directives in the same way is there once.

use super::table::{Spec, TABLE, Treat};

/// A line: where its name and its treatment are.
#[derive(Clone, Copy)]
pub(super) struct Row {
    name_at: u16,
    treat_at: u16,
    pub(super) contexts: u16,
    name_len: u8,
    /// Fewest and most, four bits each.
    args: u8,
}

impl Row {
    pub(super) fn name(&self) -> &'static str {
        let at = usize::from(self.name_at);
        NAMES.get(at..at + usize::from(self.name_len)).unwrap_or_default()
    }

    /// Fewest and most arguments.
    pub(super) fn args(&self) -> (u8, u8) {
        (self.args >> 4, self.args & 15)
    }

    #[expect(clippy::indexing_slicing, reason = "it was there when the number was made")]
    pub(super) fn treat(&self) -> Treat {
        TREATS[usize::from(self.treat_at)]
    }
}

/// Sorted by name.
pub(super) static ROWS: [Row; COUNT] = PACKED.rows;
/// A static of its own: from a constant all of that would stay.
static NAME_BYTES: [u8; NAMES_LEN] = PACKED.names;
static NAMES: &str = match str::from_utf8(&NAME_BYTES) {
    Ok(names) => names,
    Err(_) => panic!(),
};
static TREATS: [Treat; PACKED.treat_count] = match PACKED.treats.first_chunk() {
    Some(treats) => *treats,
    None => panic!(),
};

const COUNT: usize = TABLE.len();
const NAMES_LEN: usize = {
    let (mut len, mut lines) = (0, TABLE);
    while let [line, rest @ ..] = lines {
        (len, lines) = (len + line.name.len(), rest);
    }
    len
};

struct Packed {
    rows: [Row; COUNT],
    names: [u8; NAMES_LEN],
    /// So many are made use of.
    treats: [Treat; COUNT],
    treat_count: usize,
}

const PACKED: Packed = pack();

#[expect(clippy::indexing_slicing, reason = "the compiler runs it, which says so if it fails")]
const fn pack() -> Packed {
    let empty = Row { name_at: 0, treat_at: 0, contexts: 0, name_len: 0, args: 0 };
    let mut packed =
        Packed { rows: [empty; COUNT], names: [0; NAMES_LEN], treats: [TABLE[0].treat; COUNT], treat_count: 0 };
    let (mut at, mut name_at) = (0, 0);
    while at < COUNT {
        let Spec { name, contexts, args, treat } = TABLE[at];
        let mut treat_at = 0;
        while treat_at < packed.treat_count && !is_same(packed.treats[treat_at], treat) {
            treat_at += 1;
        }
        if treat_at == packed.treat_count {
            packed.treats[treat_at] = treat;
            packed.treat_count += 1;
        }
        packed.names.split_at_mut(name_at).1.split_at_mut(name.len()).0.copy_from_slice(name.as_bytes());
        packed.rows[at] = Row {
            name_at: name_at as u16,
            treat_at: treat_at as u16,
            contexts,
            name_len: name.len() as u8,
            args: args.0 << 4 | args.1,
        };
        (at, name_at) = (at + 1, name_at + name.len());
    }
    packed
}

/// Whether the same is said of two directives. Functions can't be compared; few directives share one.
const fn is_same(one: Treat, other: Treat) -> bool {
    match (one, other) {
        (Treat::Note(one), Treat::Note(other))
        | (Treat::Refuse(one), Treat::Refuse(other))
        | (Treat::OnlyOff(one), Treat::OnlyOff(other)) => {
            let (mut one, mut other) = (one.as_bytes(), other.as_bytes());
            while let ([a, one_rest @ ..], [b, other_rest @ ..]) = (one, other)
                && *a == *b
            {
                (one, other) = (one_rest, other_rest);
            }
            one.is_empty() && other.is_empty()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_is_what_the_table_says() {
        assert_eq!(ROWS.len(), TABLE.len());
        for (row, line) in ROWS.iter().zip(TABLE) {
            assert_eq!((row.name(), row.contexts, row.args()), (line.name, line.contexts, line.args));
            assert_eq!(std::mem::discriminant(&row.treat()), std::mem::discriminant(&line.treat), "{}", line.name);
            if let (Treat::Note(said), Treat::Note(meant)) = (row.treat(), line.treat) {
                assert_eq!(said, meant, "{}", line.name);
            }
        }
    }
}
