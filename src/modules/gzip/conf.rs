//! Directives of compression on the fly: `gzip`, `gzip_*`.

use std::sync::Arc;

use crate::config::arguments::{self, arg, invalid_value};
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Error, Result};
use crate::http1::head::Version;
use crate::regex::Pattern;

/// Which responses are compressed, and how.
#[derive(Clone, Debug)]
pub struct Gzip {
    pub on: bool,
    /// `Vary: Accept-Encoding`.
    pub vary: bool,
    pub level: u8,
    pub window: Window,
    /// The shortest body, if its length is known.
    pub length_min: u64,
    pub version_min: Version,
    pub proxied: Proxied,
    pub types: MediaTypes,
    /// Internet Explorer before 6 SP2, which fails to decompress.
    pub disable_msie6: bool,
    /// User agents that get uncompressed responses.
    pub disabled_agents: Vec<Arc<Pattern>>,
}

impl Gzip {
    /// Whether this build can compress.
    pub const AVAILABLE: bool = cfg!(feature = "gzip");
}

impl Default for Gzip {
    fn default() -> Self {
        Self {
            on: false,
            vary: false,
            level: 1,
            window: Window::default(),
            length_min: 20,
            version_min: Version::Http11,
            proxied: Proxied(Proxied::OFF),
            types: MediaTypes::Listed(vec![HTML.into()]),
            disable_msie6: false,
            disabled_agents: Vec::new(),
        }
    }
}

/// The memory of an encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Binary logarithm of the window size, 9 to 15.
    pub bits: u8,
    /// zlib's memLevel, 1 to 9.
    pub memory: u8,
}

impl Default for Window {
    /// A quarter less memory than zlib's default memLevel, 8, for 4 % more time.
    fn default() -> Self {
        Self { bits: 15, memory: 6 }
    }
}

const HTML: &str = "text/html";

/// Media types, in lower case.
#[derive(Clone, Debug)]
pub enum MediaTypes {
    All,
    Listed(Vec<Box<str>>),
}

impl MediaTypes {
    /// Whether the list contains a media type, which has no parameters.
    pub fn contains(&self, media_type: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::Listed(listed) => listed.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(media_type)),
        }
    }

    /// Adds the types of a directive; the first one of a block replaces the inherited list. `text/html` is always included.
    pub(crate) fn extended_by(self, directive: &Directive, first: bool) -> Result<Self> {
        let mut listed = match self {
            Self::All if !first => return Ok(Self::All),
            Self::Listed(listed) if !first => listed,
            _ => vec![HTML.into()],
        };
        for word in &directive.args {
            if word.text == "*" {
                return Ok(Self::All);
            }
            if !word.text.contains('/') {
                return Err(invalid_value(directive, word, "a media type such as text/css, or *"));
            }
            listed.push(word.text.to_ascii_lowercase().into());
        }
        Ok(Self::Listed(listed))
    }
}

/// Which responses are compressed for a request with `Via`, that is, from another proxy (`gzip_proxied`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proxied(u16);

/// The words in the order of their bits.
const PROXIED: &str = "off, expired, no-cache, no-store, private, no_last_modified, no_etag, auth or any";

impl Proxied {
    pub const OFF: u16 = 1;
    pub const EXPIRED: u16 = 2;
    pub const NO_CACHE: u16 = 4;
    pub const NO_STORE: u16 = 8;
    pub const PRIVATE: u16 = 16;
    pub const NO_LAST_MODIFIED: u16 = 32;
    pub const NO_ETAG: u16 = 64;
    pub const AUTH: u16 = 128;
    pub const ANY: u16 = 256;

    pub fn allows(self, word: u16) -> bool {
        self.0 & word != 0
    }
}

pub(crate) fn gzip_mut(block: &mut BlockBuilder) -> &mut Gzip {
    block.optional_mut().gzip.get_or_insert_default()
}

pub(crate) fn gzip(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let on = arguments::switch(directive)?;
    if on && !Gzip::AVAILABLE {
        return Err(Error::new(&directive.name.at, "\"gzip on\" is not supported").hint("this build has no gzip"));
    }
    gzip_mut(block).on = on;
    Ok(())
}

pub(crate) fn comp_level(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    let level = word.text.parse().ok().filter(|level| (1..=9).contains(level));
    gzip_mut(block).level = level.ok_or_else(|| invalid_value(directive, word, "a number from 1 to 9"))?;
    Ok(())
}

/// Undocumented in nginx.
pub(crate) fn window(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let bits = parse_log2(directive, 9, 15, "512, 1k, 2k, 4k, 8k, 16k or 32k")?;
    gzip_mut(block).window.bits = bits;
    Ok(())
}

/// Undocumented in nginx.
pub(crate) fn hash(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let bits = parse_log2(directive, 9, 17, "512, 1k, 2k and so on to 128k")?;
    gzip_mut(block).window.memory = bits - 8;
    Ok(())
}

fn parse_log2(directive: &Directive, min: u8, max: u8, expected: &str) -> Result<u8> {
    let word = arg(directive, 0);
    let size = crate::config::values::size(&word.text);
    let bits = (min..=max).find(|bits| size == Some(1 << bits));
    bits.ok_or_else(|| invalid_value(directive, word, expected))
}

pub(crate) fn min_length(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    gzip_mut(block).length_min = arguments::size(directive, arg(directive, 0))?;
    Ok(())
}

pub(crate) fn http_version(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    gzip_mut(block).version_min = arguments::http_version(directive, word)?;
    Ok(())
}

/// All words of a block add up.
pub(crate) fn proxied(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let mut words = if block.is_first { 0 } else { gzip_mut(block).proxied.0 };
    for word in &directive.args {
        words |= 1 << arguments::choice(directive, word, PROXIED)?;
    }
    gzip_mut(block).proxied = Proxied(words);
    Ok(())
}

pub(crate) fn types(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let types = gzip_mut(block).types.clone();
    gzip_mut(block).types = types.extended_by(directive, block.is_first)?;
    Ok(())
}

/// `msie6` is a keyword for a built-in expression.
pub(crate) fn disable(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    if block.is_first {
        gzip_mut(block).disable_msie6 = false;
        gzip_mut(block).disabled_agents.clear();
    }
    for word in &directive.args {
        if word.text == "msie6" {
            gzip_mut(block).disable_msie6 = true;
            continue;
        }
        let failed = |why| Error::new(&word.at, format!("invalid regular expression \"{}\": {why}", word.text));
        let pattern = Pattern::new(&word.text, true).map_err(failed)?;
        gzip_mut(block).disabled_agents.push(Arc::new(pattern));
    }
    Ok(())
}
