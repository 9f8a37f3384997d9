//! `location`: matching and contents.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::arguments::arg;
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Error, Result};
use crate::config::{Content, LimitExcept, Settings, TryFiles, directives};
use crate::modules::map::conf::Expression;
use crate::modules::rewrite::conf::RewriteStep;
use crate::proxy::conf::ProxyPass;
use crate::regex::Prefilter;
use crate::server::status::conf as status;

/// How a location matches.
#[derive(Debug)]
pub enum Matcher {
    /// `= /path`
    Exact,
    /// `/path`, or with `skips_patterns` `^~ /path`: no expressions are tried after it.
    Prefix { skips_patterns: bool },
    /// `~` and `~*`
    Pattern(Expression),
    /// `@name`
    Named,
}

/// A `location {}`.
#[derive(Debug)]
pub struct Location {
    pub matcher: Matcher,
    pub path: String,
    pub settings: Settings,
    pub steps: Vec<RewriteStep>,
    pub try_files: Option<TryFiles>,
    /// Only for internal redirects and subrequests.
    pub internal: bool,
    pub proxy_pass: Option<ProxyPass>,
    pub content: Option<Content>,
    pub limit_except: Option<LimitExcept>,
    pub nested: Locations,
}

impl Location {
    fn expression(&self) -> Option<&Expression> {
        match &self.matcher {
            Matcher::Pattern(expression) => Some(expression),
            _ => None,
        }
    }
}

/// The locations of one block, indexed for the search.
#[derive(Debug, Default)]
pub struct Locations {
    exact: HashMap<Vec<u8>, Arc<Location>>,
    /// Sorted by path: the longest prefix of a path is close before the place of the path.
    prefixes: Vec<Arc<Location>>,
    patterns: Vec<Arc<Location>>,
    prefilter: Prefilter,
    named: HashMap<Vec<u8>, Arc<Location>>,
}

/// A location under construction, apart from the block's settings.
pub(crate) struct LocationBuilder {
    pub(crate) matcher: Matcher,
    pub(crate) path: String,
    pub(crate) proxy_pass: Option<ProxyPass>,
    pub(crate) internal: bool,
    pub(crate) limit_except: Option<LimitExcept>,
}

impl LocationBuilder {
    /// Returns the location of an `if` or `limit_except` inside this one.
    pub(crate) fn for_nested_block(&self) -> Self {
        Self {
            matcher: Matcher::Named,
            path: self.path.clone(),
            proxy_pass: None,
            internal: self.internal,
            limit_except: None,
        }
    }

    /// Returns the location with the contents of its block.
    fn build(self, block: BlockBuilder, inner: Locations) -> Arc<Location> {
        Arc::new(Location {
            matcher: self.matcher,
            path: self.path,
            settings: block.settings,
            steps: block.steps,
            try_files: block.try_files,
            internal: self.internal,
            proxy_pass: self.proxy_pass,
            content: block.content,
            limit_except: self.limit_except,
            nested: inner,
        })
    }
}

impl Locations {
    /// Sorts the locations of a block, whose paths differ.
    pub(crate) fn new(locations: Vec<Arc<Location>>) -> Self {
        let mut all = Self::default();
        for location in locations {
            let path = location.path.as_bytes().to_vec();
            match location.matcher {
                Matcher::Exact => drop(all.exact.insert(path, location)),
                Matcher::Named => drop(all.named.insert(path, location)),
                Matcher::Pattern(_) => all.patterns.push(location),
                Matcher::Prefix { .. } => all.prefixes.push(location),
            }
        }
        all.prefixes.sort_by(|a, b| a.path.cmp(&b.path));
        let expressions = all.patterns.iter().filter_map(|location| location.expression());
        all.prefilter = Prefilter::new(expressions.map(|expression| &expression.pattern));
        all
    }

    pub fn exact(&self, path: &[u8]) -> Option<&Arc<Location>> {
        if self.exact.is_empty() { None } else { self.exact.get(path) }
    }

    /// Returns the location with the longest prefix of `path`.
    pub fn longest_prefix(&self, path: &[u8]) -> Option<&Arc<Location>> {
        let end = self.prefixes.partition_point(|location| location.path.as_bytes() <= path);
        self.prefixes.get(..end)?.iter().rev().find(|location| path.starts_with(location.path.as_bytes()))
    }

    /// Returns the location whose path is `path` and a slash.
    pub fn with_trailing_slash(&self, path: &[u8]) -> Option<&Arc<Location>> {
        let slashed =
            |location: &&Arc<Location>| location.path.as_bytes().strip_suffix(b"/").is_some_and(|bare| bare == path);
        self.prefixes.iter().find(slashed)
    }

    /// Returns the locations whose expressions may match `path`, in order.
    pub fn candidates(&self, path: &[u8]) -> impl Iterator<Item = (&Expression, &Arc<Location>)> {
        let locations = self.prefilter.candidates(path).filter_map(|number| self.patterns.get(number));
        locations.filter_map(|location| Some((location.expression()?, location)))
    }

    pub fn named(&self, name: &str) -> Option<&Arc<Location>> {
        self.named.get(name.as_bytes())
    }
}

pub(crate) fn location(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let (matcher, path) = parse_matcher(builder, directive)?;
    if let Some(outer) = &block.location {
        check_nesting(outer, &matcher, &path, directive)?;
    }
    check_new(block, &matcher, &path, directive)?;
    let is_path = matches!(matcher, Matcher::Exact | Matcher::Prefix { .. });
    if is_path && !path.is_empty() && !path.starts_with('/') {
        builder.note(&directive.name, "it matches no request: a path starts with \"/\"");
    }
    let location = LocationBuilder { matcher, path, proxy_pass: None, internal: false, limit_except: None };
    let mut inner = builder.build_block(block, directive, directives::LOCATION, Some(location))?;
    status::check_single_content(&inner, &directive.name)?;
    if inner.locations.is_empty() {
        crate::modules::access::conf::check_auth_basic(&inner.settings, directive)?;
    }
    let nested = Locations::new(std::mem::take(&mut inner.locations));
    let Some(mut location) = inner.location.take() else { return Ok(()) };
    crate::tls::conf::attach_client_tls(builder, location.proxy_pass.as_mut(), &inner.settings, directive)?;
    crate::proxy::health_conf::attach_health_check(
        builder,
        inner.upstream.health_check.take(),
        location.proxy_pass.as_ref(),
        &inner.settings,
    )?;
    block.locations.push(location.build(*inner, nested));
    Ok(())
}

/// Builds the location that an `if` or `limit_except` puts in place of the one around it. It inherits the `proxy_pass`,
/// unless it has its own.
pub(crate) fn build_nested_block(
    builder: &mut Builder,
    outer: &BlockBuilder,
    mut inner: Box<BlockBuilder>,
    directive: &Directive,
) -> Result<Option<Arc<Location>>> {
    let (Some(outer_location), Some(mut location)) = (&outer.location, inner.location.take()) else { return Ok(None) };
    inner.content = outer.content.filter(|_| location.proxy_pass.is_none());
    location.proxy_pass = location.proxy_pass.or_else(|| outer_location.proxy_pass.clone());
    crate::tls::conf::attach_client_tls(builder, location.proxy_pass.as_mut(), &inner.settings, directive)?;
    Ok(Some(location.build(*inner, Locations::default())))
}

/// Parses `[ = | ~ | ~* | ^~ ] PATH`, with or without a space after the modifier.
fn parse_matcher(builder: &Builder, directive: &Directive) -> Result<(Matcher, String)> {
    let first = arg(directive, 0);
    let (modifier, path, word) = match directive.args.get(1) {
        Some(second) => (Some(first.text.as_str()), second.text.as_str(), second),
        None => {
            let split = |modifier| Some((modifier, first.text.strip_prefix(modifier)?));
            let found = ["=", "^~", "~*", "~"].into_iter().find_map(split).filter(|_| !first.quoted);
            let (modifier, path) = found.unzip();
            (modifier, path.unwrap_or(&first.text), first)
        }
    };
    let matcher = match modifier {
        Some("=") => Matcher::Exact,
        Some("^~") => Matcher::Prefix { skips_patterns: true },
        Some("~") => Matcher::Pattern(builder.expression(path, false, &word.at)?),
        Some("~*") => Matcher::Pattern(builder.expression(path, true, &word.at)?),
        None if path.starts_with('@') => Matcher::Named,
        None => Matcher::Prefix { skips_patterns: false },
        Some(modifier) => {
            return Err(Error::formatted(&first.at, "invalid location modifier \"{}\"", modifier)
                .hint("=, ~, ~* or ^~ is expected"));
        }
    };
    Ok((matcher, path.to_owned()))
}

/// Checks that the block has no such location yet. Expressions may be the same: the first one counts.
fn check_new(block: &mut BlockBuilder, matcher: &Matcher, path: &str, directive: &Directive) -> Result {
    let key = match matcher {
        Matcher::Pattern(_) => return Ok(()),
        Matcher::Exact => format!("= {path}"),
        Matcher::Prefix { .. } | Matcher::Named => path.to_owned(),
    };
    let word = directive.args.last().unwrap_or(&directive.name);
    match block.location_positions.insert(key, word.at) {
        Some(first) => Err(Error::formatted(&word.at, "duplicate location \"{}\" in this block", path).first_at(first)),
        None => Ok(()),
    }
}

fn check_nesting(outer: &LocationBuilder, inner: &Matcher, path: &str, directive: &Directive) -> Result {
    let at = &directive.name.at;
    let why = match (&outer.matcher, inner) {
        (Matcher::Exact, _) => "cannot be inside the exact location",
        (Matcher::Named, _) => "cannot be inside the named location",
        (_, Matcher::Named) => {
            return Err(Error::formatted(at, "named location \"{}\" can be on the server level only", path));
        }
        (Matcher::Prefix { .. }, Matcher::Exact | Matcher::Prefix { .. }) if !path.starts_with(&outer.path) => {
            "is outside location"
        }
        (Matcher::Pattern(_), Matcher::Exact | Matcher::Prefix { .. }) => "cannot be inside the expression",
        _ => return Ok(()),
    };
    Err(Error::new(at, ["location \"", path, "\" ", why, " \"", &outer.path, "\""].concat()))
}
