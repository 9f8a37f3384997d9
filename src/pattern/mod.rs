//! Regular expressions over bytes, as nginx's users write them.
//!
//! regex-lite matches text in linear time and has no look-around or back-references. Of these, published configurations
//! hold a look ahead now and then: `ahead` does that. Paths are bytes: a haystack that is not ASCII is matched as Latin-1,
//! one character a byte, and so is a pattern, which gives the byte-wise meaning of nginx's PCRE.

mod ahead;

use std::borrow::Cow;

use regex_lite::{Regex, RegexBuilder};

use self::ahead::Ahead;

/// A compiled expression with the names of its groups.
#[derive(Debug)]
pub struct Pattern {
    form: Form,
    source: Box<str>,
    names: Vec<(usize, Box<str>)>,
}

#[derive(Debug)]
enum Form {
    Plain(Regex),
    Ahead(Box<Ahead>),
}

/// What an expression's groups matched: ranges into the subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captures {
    subject: Vec<u8>,
    groups: Vec<Option<(usize, usize)>>,
}

impl Captures {
    /// Group `number`, or nothing.
    pub fn group(&self, number: usize) -> &[u8] {
        match self.groups.get(number) {
            Some(Some((start, end))) => self.subject.get(*start..*end).unwrap_or_default(),
            _ => &[],
        }
    }
}

impl Pattern {
    /// Compiles `source`.
    ///
    /// # Errors
    /// What regex-lite says about it.
    pub fn new(source: &str, any_case: bool) -> Result<Self, String> {
        let latin = latin(source.as_bytes());
        let mut names = Vec::new();
        let form = match compile(&latin, any_case) {
            Ok(regex) => {
                add_names(&mut names, &regex, 0);
                Form::Plain(regex)
            }
            Err(why) => {
                let ahead = Ahead::new(&latin, any_case)?.ok_or(why)?;
                for (regex, behind) in ahead.capturing() {
                    add_names(&mut names, regex, behind);
                }
                Form::Ahead(Box::new(ahead))
            }
        };
        Ok(Self { form, source: source.into(), names })
    }

    /// The named groups: number and name.
    pub fn names(&self) -> impl Iterator<Item = (usize, &str)> {
        self.names.iter().map(|(at, name)| (*at, &**name))
    }

    /// The expression.
    pub fn source(&self) -> &str {
        &self.source
    }

    pub fn is_match(&self, subject: &[u8]) -> bool {
        let text = latin(subject);
        match &self.form {
            Form::Plain(regex) => regex.is_match(&text),
            Form::Ahead(ahead) => ahead.find(&text).is_some(),
        }
    }

    /// Where the groups lie in `subject`, if it matches.
    pub fn captures(&self, subject: &[u8]) -> Option<Captures> {
        let text = latin(subject);
        let found = match &self.form {
            Form::Plain(regex) => {
                let found = regex.captures(&text)?;
                (0..found.len()).map(|at| found.get(at).map(|m| (m.start(), m.end()))).collect()
            }
            Form::Ahead(ahead) => ahead.find(&text)?,
        };
        // Offsets of characters in the text are those of bytes in the subject.
        let byte =
            |at: usize| if text.len() == subject.len() { at } else { text.get(..at).map_or(0, |s| s.chars().count()) };
        let groups = found.into_iter().map(|group| group.map(|(start, end)| (byte(start), byte(end)))).collect();
        Some(Captures { subject: subject.to_vec(), groups })
    }
}

/// The named groups of `regex`, which stands behind some others.
fn add_names(names: &mut Vec<(usize, Box<str>)>, regex: &Regex, behind: usize) {
    for (at, name) in regex.capture_names().enumerate() {
        if let Some(name) = name {
            names.push((behind + at, name.into()));
        }
    }
}

fn compile(source: &str, any_case: bool) -> Result<Regex, String> {
    RegexBuilder::new(&portable(source))
        .case_insensitive(any_case)
        .size_limit(1 << 20)
        .build()
        .map_err(|error| error.to_string().replace('\n', " "))
}

fn latin(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.is_ascii() => Cow::Borrowed(text),
        _ => Cow::Owned(bytes.iter().map(|b| char::from(*b)).collect()),
    }
}

/// PCRE takes `\` before any character that is not a letter or digit for that character; regex-lite knows fewer.
/// `\Q` and `\E` quote what is between them.
fn portable(source: &str) -> Cow<'_, str> {
    let needs =
        |c: char| matches!(c, '/' | '"' | '\'' | '!' | '@' | '%' | ',' | ':' | ';' | '<' | '=' | '>' | '_' | '`' | ' ');
    if !source.contains('\\') {
        return Cow::Borrowed(source);
    }
    let mut out = String::with_capacity(source.len());
    let mut chars = source.chars().peekable();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        match (c, chars.peek().copied()) {
            ('\\', Some(mark @ ('Q' | 'E'))) => {
                chars.next();
                quoted = mark == 'Q';
            }
            ('\\', Some('p')) if !quoted => {
                // The few classes that byte-wise expressions use.
                let name: String = chars.by_ref().take_while(|c| *c != '}').skip(2).collect();
                out.push_str(match name.as_str() {
                    "L" => "[A-Za-z]",
                    "Lu" => "[A-Z]",
                    "Ll" => "[a-z]",
                    "N" | "Nd" => "[0-9]",
                    _ => "\\p", // refused
                });
            }
            _ if quoted => out.push_str(&regex_lite::escape(c.encode_utf8(&mut [0; 4]))),
            ('\\', Some(next)) if needs(next) => {}
            ('\\', Some(next)) => {
                out.push(c);
                out.push(next);
                chars.next();
            }
            _ => out.push(c),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_byte_ranges_also_in_bytes_that_are_no_text() {
        let pattern = Pattern::new(r"^/(.)/(?<rest>.*)$", false).unwrap();
        let found = pattern.captures(b"/\xff/caf\xc3\xa9").unwrap();
        assert_eq!((found.group(1), found.group(2)), (&b"\xff"[..], &b"caf\xc3\xa9"[..]));
        assert_eq!(pattern.names().collect::<Vec<_>>(), [(2, "rest")]);
        assert!(Pattern::new("caf\u{e9}", false).unwrap().is_match("caf\u{e9}".as_bytes()));
    }

    #[test]
    fn what_people_write_for_pcre_compiles() {
        for source in [r"\/api\/", r"^/static/[0-9a-fA-F]{8}\/(.*)$", r#"^/([^/?&:'"]+)$"#, r"~\.(gif|jpg)$", r"\-\_\:"]
        {
            Pattern::new(source, true).unwrap();
        }
        assert!(Pattern::new(r"^(?P<name>[a-z]+)\Q.example.com\E$", false).unwrap().is_match(b"www.example.com"));
        assert!(!Pattern::new(r"^\Q.\E$", false).unwrap().is_match(b"x"));
        assert!(Pattern::new("(", false).is_err());
    }
}
