//! Directives of static files: `root`, `alias`, `index`, `types`, `if_modified_since`.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use crate::config::arguments::{self, arg, invalid_value};
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Error, Result, Word};
use crate::config::template::Template;
use crate::modules::static_files::autoindex_conf::Autoindex;
use crate::modules::static_files::precompressed_conf::Precompressed;
use crate::request::location_conf::Matcher;

/// How files are located and described.
#[derive(Clone, Debug)]
pub struct Files {
    /// The directory of the files. None, and no `alias`: no files are served.
    pub root: Option<Template>,
    /// Replaces `root`.
    pub alias: Option<Alias>,
    pub index: Arc<[Template]>,
    pub types: Arc<TypesByExtension>,
    pub etag: bool,
    pub if_modified_since: IfModifiedSince,
    pub log_not_found: bool,
    pub autoindex: Autoindex,
    pub gzip_static: Precompressed,
    pub brotli_static: Precompressed,
    /// Ranges that one request may ask for; 0: `Range` is ignored. nginx has no default limit.
    pub max_ranges: u32,
}

/// An `alias`.
#[derive(Clone, Debug)]
pub struct Alias {
    pub target: Template,
    /// The length of the location's path, which it replaces. None: the location is an expression, it replaces the whole path.
    pub replaced_bytes: Option<usize>,
}

/// How `If-Modified-Since` is compared with the time of the file.
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

/// Media types by extension, in lower case.
type TypesByExtension = HashMap<Vec<u8>, Arc<[u8]>>;

/// Types of the files of web applications, used without a `types` block.
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

/// Resolves the directory against the prefix, unless it is absolute or starts with a variable.
fn in_prefix(builder: &Builder, word: &Word) -> String {
    if word.text.starts_with(['/', '$']) { word.text.clone() } else { builder.prefix.resolve(&word.text) }
}

pub(crate) fn root(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    let path = in_prefix(builder, word);
    block.settings.files.root = Some(builder.template_from(path.trim_end_matches('/'), word)?);
    if !path.contains('$') {
        builder.refer_to_file(word, path);
    }
    block.settings.files.alias = None;
    Ok(())
}

pub(crate) fn alias(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    let Some(location) = &block.location else { return Ok(()) };
    if matches!(location.matcher, Matcher::Named) {
        return Err(Error::new(&directive.name.at, "\"alias\" is not allowed in a named location").hint("use \"root\""));
    }
    // `location /a { alias /b/; }` would serve /x for `/a../x`, which request::variables therefore rejects.
    if matches!(location.matcher, Matcher::Prefix { .. }) && !location.path.ends_with('/') && word.text.ends_with('/') {
        builder.note(
            &directive.name,
            "it ends with a slash but its location does not: paths that leave the directory get 404",
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

/// `types { text/html html htm; }`; with an empty block all files have the `default_type`.
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
