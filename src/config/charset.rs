//! `charset` and what belongs to it: the encoding of texts, as clients are told, and as bodies are recoded.

use std::sync::Arc;

use super::build::{Draft, Walk, arg, invalid};
use super::gzip::Types;
use super::syntax::{Directive, Error, Position, Word};
use crate::template::Template;

type Set = Result<(), Error>;

/// What is told of the encoding of texts.
#[derive(Clone, Debug)]
pub struct Charset {
    /// None: nothing.
    pub name: Option<Template>,
    /// The encoding that bodies have, if it is another.
    pub source: Option<Template>,
    pub types: Types,
    /// What an upstream says of the encoding is believed, rather than passed on.
    pub overrides: bool,
}

impl Default for Charset {
    fn default() -> Self {
        const USUAL: [&str; 6] = [
            "text/html",
            "text/xml",
            "text/plain",
            "text/vnd.wap.wml",
            "application/javascript",
            "application/rss+xml",
        ];
        Self { name: None, source: None, types: Types::Listed(USUAL.map(Into::into).into()), overrides: false }
    }
}

/// What each byte becomes.
pub type Recoding = Arc<[u8; 256]>;

/// A `charset_map`: from one encoding to another, and back.
#[derive(Debug)]
pub struct CharsetMap {
    names: [String; 2],
    tables: [Recoding; 2],
}

impl CharsetMap {
    /// What bytes of one encoding become in the other.
    pub fn recoding(&self, from: &[u8], to: &[u8]) -> Option<&Recoding> {
        let is = |name: &str, asked: &[u8]| name.as_bytes().eq_ignore_ascii_case(asked);
        let [one, other] = &self.names;
        let [there, back] = &self.tables;
        match () {
            () if is(one, from) && is(other, to) => Some(there),
            () if is(other, from) && is(one, to) => Some(back),
            () => None,
        }
    }
}

/// A recoding that the configuration asks for.
pub(super) struct Needed {
    at: Position,
    from: String,
    to: String,
}

pub(super) fn of(draft: &mut Draft) -> &mut Charset {
    draft.rare().charset.get_or_insert_default()
}

pub(super) fn charset(walk: &mut Walk, draft: &mut Draft, directive: &Directive) -> Set {
    let word = arg(directive, 0);
    let name = walk.template(word)?;
    of(draft).name = (word.text != "off" && !word.text.is_empty()).then_some(name);
    Ok(())
}

pub(super) fn charset_types(_: &mut Walk, draft: &mut Draft, directive: &Directive) -> Set {
    let types = of(draft).types.clone();
    of(draft).types = types.with(directive, draft.first)?;
    Ok(())
}

/// `charset_map one other { C0 FE; }`: bytes below 80 stay as they are, others that are not named become `?`.
pub(super) fn charset_map(walk: &mut Walk, _: &mut Draft, directive: &Directive) -> Set {
    let names = [arg(directive, 0), arg(directive, 1)];
    if let Some(word) = names.iter().find(|word| word.text.eq_ignore_ascii_case("utf-8")) {
        return Err(Error::new(&word.at, "\"charset_map\" of utf-8 is not supported")
            .hint("bytes are recoded one by one here; store the files as utf-8"));
    }
    let plain: [u8; 256] = std::array::from_fn(|byte| if byte < 128 { byte as u8 } else { b'?' });
    let (mut there, mut back) = (plain, plain);
    for entry in directive.block.as_deref().unwrap_or_default() {
        let (Some(one), [other], None) = (byte(&entry.name), entry.args.as_slice(), &entry.block) else {
            return Err(invalid(directive, &entry.name, "two bytes in hexadecimal, such as \"C0 FE;\","));
        };
        let other = byte(other).ok_or_else(|| invalid(directive, other, "a byte in hexadecimal, such as FE,"))?;
        there.get_mut(usize::from(one)).into_iter().for_each(|to| *to = other);
        back.get_mut(usize::from(other)).into_iter().for_each(|to| *to = one);
    }
    let names = names.map(|word| word.text.clone());
    walk.config.charset_maps.push(CharsetMap { names, tables: [Arc::new(there), Arc::new(back)] });
    Ok(())
}

fn byte(word: &Word) -> Option<u8> {
    let digits = !word.text.is_empty() && word.text.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| u8::from_str_radix(&word.text, 16).ok())?
}

/// Notes what a block, all of which has been read, asks for.
pub(super) fn note_recoding(walk: &mut Walk, draft: &Draft, directives: &[Directive]) {
    let Some(charset) = &draft.settings.rare.charset else { return };
    let text = |name: &Option<Template>| name.as_ref().and_then(Template::as_text).map(<[u8]>::to_vec);
    let (Some(from), Some(to)) = (text(&charset.source), text(&charset.name)) else { return };
    let told = |directive: &&Directive| matches!(directive.name.text.as_str(), "charset" | "source_charset");
    if let Some(directive) = directives.iter().find(told)
        && !from.eq_ignore_ascii_case(&to)
    {
        let [from, to] = [from, to].map(|name| String::from_utf8_lossy(&name).into_owned());
        walk.recodings.push(Needed { at: directive.name.at, from, to });
    }
}

/// What is to be recoded must be possible.
pub(super) fn check_recodings(walk: &Walk) -> Set {
    let known = |needed: &&Needed| {
        let mut maps = walk.config.charset_maps.iter();
        maps.any(|map| map.recoding(needed.from.as_bytes(), needed.to.as_bytes()).is_some())
    };
    match walk.recodings.iter().find(|needed| !known(needed)) {
        Some(Needed { at, from, to }) => {
            Err(Error::new(at, format!("no \"charset_map\" between the charsets \"{from}\" and \"{to}\""))
                .hint("what is not utf-8 already is recoded by a map of single bytes only"))
        }
        None => Ok(()),
    }
}
