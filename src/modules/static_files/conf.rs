//! Setters about files: `root`, `alias`, `index`, `types`, `etag`, `if_modified_since`.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use crate::config::arguments::{self, arg, invalid_value};
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Error, Result, Word};
use crate::config::template::Template;
use crate::modules::static_files::autoindex_conf::Autoindex;
use crate::modules::static_files::precompressed_conf::Precompressed;
use crate::request::location_conf::Matcher;

/// How files are found and described.
#[derive(Clone, Debug)]
pub struct Files {
    /// The folder that paths lead into; no files are served without one.
    pub root: Option<Template>,
    /// What stands for the matched part of the path, instead.
    pub alias: Option<Alias>,
    pub index: Arc<[Template]>,
    /// Extensions, in lower case, and their types.
    pub types: Arc<TypesByExtension>,
    pub etag: bool,
    pub if_modified_since: IfModifiedSince,
    pub log_not_found: bool,
    pub autoindex: Autoindex,
    /// Whether compressed files are looked for beside the plain ones.
    pub gzip_static: Precompressed,
    pub brotli_static: Precompressed,
    /// Ranges that one request may ask for; 0: `Range` is ignored. nginx has no default limit.
    pub max_ranges: u32,
}

/// An `alias`.
#[derive(Clone, Debug)]
pub struct Alias {
    pub target: Template,
    /// For how many bytes of the path it stands: the path of its location. None: for all, an expression found it.
    pub replaced_bytes: Option<usize>,
}

/// When a file counts as not modified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfModifiedSince {
    Off,
    Exact,
    Before,
}

impl Default for Files {
    fn default() -> Self {
        Self {
            root: None,
            alias: None,
            index: Arc::from([Template::from_text(b"index.html")]),
            types: DEFAULT_TYPES.clone(),
            etag: true,
            if_modified_since: IfModifiedSince::Exact,
            log_not_found: true,
            autoindex: Autoindex::default(),
            gzip_static: Precompressed::Off,
            brotli_static: Precompressed::Off,
            max_ranges: 16,
        }
    }
}

/// Types by extension.
type TypesByExtension = HashMap<Vec<u8>, Arc<[u8]>>;

/// Types of what web applications are made of, where no `types` is configured.
static DEFAULT_TYPES: LazyLock<Arc<TypesByExtension>> = LazyLock::new(|| {
    const TYPES: &[(&str, &str)] = &[
        ("text/html", "html htm shtml"),
        ("text/css", "css"),
        ("text/xml", "xml"),
        ("text/plain", "txt log conf"),
        ("text/markdown", "md"),
        ("text/csv", "csv"),
        ("text/calendar", "ics"),
        ("application/javascript", "js mjs"),
        ("application/json", "json map"),
        ("application/manifest+json", "webmanifest"),
        ("application/wasm", "wasm"),
        ("application/pdf", "pdf"),
        ("application/zip", "zip"),
        ("application/gzip", "gz"),
        ("application/x-tar", "tar"),
        ("application/atom+xml", "atom"),
        ("application/rss+xml", "rss"),
        ("application/vnd.apple.mpegurl", "m3u8"),
        ("image/png", "png"),
        ("image/jpeg", "jpg jpeg"),
        ("image/gif", "gif"),
        ("image/svg+xml", "svg svgz"),
        ("image/webp", "webp"),
        ("image/avif", "avif"),
        ("image/x-icon", "ico"),
        ("image/bmp", "bmp"),
        ("font/woff", "woff"),
        ("font/woff2", "woff2"),
        ("font/ttf", "ttf"),
        ("font/otf", "otf"),
        ("audio/mpeg", "mp3"),
        ("audio/ogg", "ogg"),
        ("audio/wav", "wav"),
        ("video/mp4", "mp4"),
        ("video/webm", "webm"),
        ("video/mp2t", "ts"),
    ];
    let mut types = TypesByExtension::default();
    for (name, list) in TYPES {
        let name: Arc<[u8]> = name.as_bytes().into();
        for extension in list.split(' ') {
            types.insert(extension.into(), name.clone());
        }
    }
    Arc::new(types)
});

/// A folder, relative to the prefix unless a variable begins it.
fn in_prefix(builder: &Builder, word: &Word) -> String {
    if word.text.starts_with(['/', '$']) { word.text.clone() } else { builder.prefix.resolve(&word.text) }
}

pub(crate) fn root(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    block.settings.files.root = Some(builder.template_from(in_prefix(builder, word).trim_end_matches('/'), word)?);
    block.settings.files.alias = None;
    Ok(())
}

pub(crate) fn alias(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    let Some(location) = &block.location else { return Ok(()) };
    if matches!(location.matcher, Matcher::Named) {
        return Err(Error::new(&directive.name.at, "\"alias\" cannot stand in a named location").hint("\"root\" can"));
    }
    // `location /a { alias /b/; }` would let `/a../x` out of /b/: see `leads_out`.
    if matches!(location.matcher, Matcher::Prefix { .. }) && !location.path.ends_with('/') && word.text.ends_with('/') {
        builder.note(
            &directive.name,
            "it ends with a slash, its location does not: what would leave the folder is not found",
        );
    }
    let replaces = (!matches!(location.matcher, Matcher::Pattern(_))).then_some(location.path.len());
    block.settings.files.alias =
        Some(Alias { target: builder.template_from(&in_prefix(builder, word), word)?, replaced_bytes: replaces });
    Ok(())
}

pub(crate) fn index(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let mut names = if block.is_first { Vec::new() } else { block.settings.files.index.to_vec() };
    for word in &directive.args {
        if word.text.is_empty() {
            return Err(invalid_value(directive, word, "a name"));
        }
        names.push(builder.template(word)?);
    }
    block.settings.files.index = names.into();
    Ok(())
}

/// `types { text/html html htm; }`; an empty block leaves everything to `default_type`.
pub(crate) fn types(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let mut types = TypesByExtension::default();
    for entry in directive.block.as_deref().unwrap_or_default() {
        if entry.block.is_some() || entry.args.is_empty() {
            return Err(Error::new(&entry.name.at, "invalid number of arguments in \"types\" directive")
                .hint("a type and its extensions are expected"));
        }
        let name: Arc<[u8]> = entry.name.text.as_bytes().into();
        for extension in &entry.args {
            types.insert(extension.text.to_ascii_lowercase().into_bytes(), name.clone());
        }
    }
    block.settings.files.types = Arc::new(types);
    Ok(())
}

pub(crate) fn if_modified_since(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    block.settings.files.if_modified_since = match arguments::choice(directive, word, "off, exact or before")? {
        0 => IfModifiedSince::Off,
        1 => IfModifiedSince::Exact,
        _ => IfModifiedSince::Before,
    };
    Ok(())
}
