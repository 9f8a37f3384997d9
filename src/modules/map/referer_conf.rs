//! `valid_referers`, evaluated by `$invalid_referer`.

use std::sync::Arc;

use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Error, Result};
use crate::modules::map::conf::Expression;

/// The shortest referer with a scheme in nginx: `http://i.ru`.
const LEN_MIN: usize = 11;
/// The longest valid host of a referer.
const HOST_BYTES_MAX: usize = 256;

/// The name of a host, with or without a wildcard, or an expression.
#[derive(Clone, Debug)]
pub enum HostName {
    Exact(Box<[u8]>),
    /// `.x` for `*.x`; with `true`, for `.x`, which also matches `x`.
    Suffix(Box<[u8]>, bool),
    /// `x.` for `x.*`.
    Prefix(Box<[u8]>),
    Pattern(Arc<Expression>),
}

impl HostName {
    pub(crate) fn parse(text: &str) -> Self {
        let name = text.to_ascii_lowercase();
        match (name.strip_prefix('*'), name.strip_suffix('*')) {
            (Some(ending), _) => Self::Suffix(ending.as_bytes().into(), false),
            (_, Some(start)) => Self::Prefix(start.as_bytes().into()),
            _ if name.starts_with('.') => Self::Suffix(name.into_bytes().into(), true),
            _ => Self::Exact(name.into_bytes().into()),
        }
    }

    /// Ranks the match with a host, which is in lower case; the highest rank wins. None: no match.
    fn rank(&self, host: &[u8]) -> Option<(u8, usize)> {
        match self {
            Self::Exact(name) => (host == &**name && !host.is_empty()).then_some((3, 0)),
            Self::Suffix(ending, true) if ending.get(1..) == Some(host) => Some((3, 0)),
            Self::Suffix(ending, _) => {
                (host.len() > ending.len() && host.ends_with(ending)).then_some((2, ending.len()))
            }
            Self::Prefix(start) => (host.len() > start.len() && host.starts_with(start)).then_some((1, start.len())),
            Self::Pattern(expression) => expression.pattern.is_match(host).then_some((0, 0)),
        }
    }
}

/// The valid referers.
#[derive(Clone, Debug, Default)]
pub struct Referers {
    /// No `Referer` header.
    none: bool,
    /// A `Referer` without `http://` or `https://`.
    blocked: bool,
    /// The names of the server.
    server_names: bool,
    /// Hosts, each with a prefix of the path.
    hosts: Vec<(HostName, Box<[u8]>)>,
    /// Matched with the referer without its scheme.
    patterns: Vec<Arc<Expression>>,
}

impl Referers {
    /// Whether a referer is valid for a server with these names.
    pub fn is_valid(&self, referer: Option<&[u8]>, names: &[HostName]) -> bool {
        let Some(referer) = referer else { return self.none };
        let Some(rest) = strip_scheme(referer) else { return self.blocked };
        let host = rest.split(|b| matches!(b, b'/' | b':')).next().unwrap_or_default().to_ascii_lowercase();
        if host.len() > HOST_BYTES_MAX {
            return false;
        }
        let known = self.hosts.iter().filter_map(|(name, path)| Some((name.rank(&host)?, path)));
        if let Some((_, path)) = known.max_by_key(|(rank, _)| *rank) {
            let uri = rest.iter().position(|b| *b == b'/').and_then(|at| rest.get(at..));
            return uri.unwrap_or_default().starts_with(path);
        }
        self.server_names && names.iter().any(|name| name.rank(&host).is_some())
            || self.patterns.iter().any(|expression| expression.pattern.is_match(rest))
    }
}

fn strip_scheme(referer: &[u8]) -> Option<&[u8]> {
    let schemes: [&[u8]; 2] = [b"http://", b"https://"];
    let starts = |scheme: &&[u8]| referer.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    let scheme = schemes.into_iter().find(starts).filter(|_| referer.len() >= LEN_MIN)?;
    referer.get(scheme.len()..)
}

/// All lines of a block make one list.
pub(crate) fn valid_referers(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let mut referers = match (&block.settings.optional.referers, block.is_first) {
        (Some(before), false) => before.clone(),
        _ => Referers::default(),
    };
    for word in &directive.args {
        match word.text.as_str() {
            "none" => referers.none = true,
            "blocked" => referers.blocked = true,
            "server_names" => referers.server_names = true,
            text => match text.strip_prefix('~') {
                Some(source) => referers.patterns.push(Arc::new(builder.expression(source, true, &word.at)?)),
                None => {
                    let (host, path) = text.split_at(text.find('/').unwrap_or(text.len()));
                    let stars = host.matches('*').count();
                    let at_end = host.starts_with("*.") || host.ends_with(".*");
                    if host.is_empty() || stars > 1 || (stars == 1 && !at_end) {
                        return Err(Error::formatted(&word.at, "invalid host in \"{}\"", text)
                            .hint("a name such as example.com, *.example.com or example.*/path is expected"));
                    }
                    referers.hosts.push((HostName::parse(host), path.as_bytes().into()));
                }
            },
        }
    }
    block.optional_mut().referers = Some(referers);
    Ok(())
}
