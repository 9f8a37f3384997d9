//! Which server a request is for, and which location of it.

use std::sync::Arc;

use crate::config::{Location, Locations, Matcher};
use crate::request::exchange::Exchange;

/// What was found for a path.
pub enum Found {
    Location(Arc<Location>),
    /// The path lacks the final slash of this location, which is passed on.
    AddSlash(Arc<Location>),
    Nothing,
}

/// Finds the location of an exchange, as nginx does: the exact one; else the longest prefix, unless an expression
/// matches (which `^~` forbids); within the one found the same again. What an expression captures is noted.
pub fn find(exchange: &Exchange) -> Found {
    match search(&exchange.server.locations, exchange) {
        Search::Final(location) | Search::Prefix(location) => Found::Location(location.clone()),
        Search::AddSlash(location) => Found::AddSlash(location.clone()),
        Search::Nothing => Found::Nothing,
    }
}

enum Search<'l> {
    /// Nothing can take precedence.
    Final(&'l Arc<Location>),
    /// An expression further out may take precedence.
    Prefix(&'l Arc<Location>),
    AddSlash(&'l Arc<Location>),
    Nothing,
}

fn search<'l>(locations: &'l Locations, exchange: &Exchange) -> Search<'l> {
    let path = exchange.uri.path.as_slice();
    if let Some(exact) = locations.exact(path) {
        return Search::Final(exact);
    }
    let prefix = locations.longest_prefix(path);
    // `location /a` is asked for itself, be there a `location /a/` or not.
    let is_asked = prefix.is_some_and(|prefix| prefix.path.len() == path.len());
    if !is_asked
        && let Some(slashed) = locations.with_trailing_slash(path).filter(|location| location.proxy_pass.is_some())
    {
        return Search::AddSlash(slashed);
    }
    let mut found = Search::Nothing;
    let mut patterns = true;
    if let Some(prefix) = prefix {
        patterns = !matches!(prefix.matcher, Matcher::Prefix { skips_patterns: true });
        found = match search(&prefix.nested, exchange) {
            Search::Nothing => Search::Prefix(prefix),
            Search::Prefix(inner) => Search::Prefix(inner),
            done => return done,
        };
    }
    if patterns {
        for (expression, location) in locations.candidates(path) {
            if let Some(captures) = expression.pattern.captures(path) {
                exchange.set_captures(expression, captures);
                return match search(&location.nested, exchange) {
                    Search::Nothing => Search::Final(location),
                    Search::Prefix(inner) | Search::Final(inner) => Search::Final(inner),
                    slashed @ Search::AddSlash(_) => slashed,
                };
            }
        }
    }
    found
}
