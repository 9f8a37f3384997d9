//! Finds the location of a request.

use std::sync::Arc;

use crate::config::{Level, Location, Locations, Matcher};
use crate::request::exchange::Exchange;
use crate::request::log;
use crate::request::next::Next;
use crate::request::response::LocalResponse;

/// Finds the location of the URI, as nginx does: the exact one; else the longest prefix, unless an expression matches
/// (which `^~` prevents); within that location the same again. Captures of an expression are stored.
pub fn find_location(exchange: &mut Exchange) -> Next {
    let (location, adds_slash) = match search(&exchange.server.locations, exchange) {
        LocationMatch::Final(location) | LocationMatch::Prefix(location) => (location.clone(), false),
        LocationMatch::AddSlash(location) => (location.clone(), true),
        LocationMatch::Nothing => return Next::EnterLocation(None),
    };
    if location.internal && !exchange.routing.is_internal {
        exchange.location = Some(location);
        return Next::Reject(404);
    }
    if adds_slash {
        exchange.location = Some(location);
        return Next::Respond(Box::new(LocalResponse::add_slash(exchange)));
    }
    Next::EnterLocation(Some(location))
}

/// Finds a location by its name, for an internal redirect.
pub fn find_named(exchange: &mut Exchange, name: &[u8]) -> Next {
    let text = String::from_utf8_lossy(name);
    let Some(location) = exchange.server.locations.named(&text).cloned() else {
        log::log_request(exchange, Level::Error, format_args!("could not find named location \"{text}\""));
        return Next::Reject(500);
    };
    exchange.routing.is_internal = true;
    exchange.uri.path_changed = true;
    Next::EnterLocation(Some(location))
}

enum LocationMatch<'l> {
    /// Nothing can take precedence.
    Final(&'l Arc<Location>),
    /// An expression further out may take precedence.
    Prefix(&'l Arc<Location>),
    AddSlash(&'l Arc<Location>),
    Nothing,
}

fn search<'l>(locations: &'l Locations, exchange: &Exchange) -> LocationMatch<'l> {
    let path = exchange.uri.path.as_slice();
    if let Some(exact) = locations.exact(path) {
        return LocationMatch::Final(exact);
    }
    let prefix = locations.longest_prefix(path);
    // `location /a` matches `/a` itself, whether or not there is a `location /a/`.
    let is_asked = prefix.is_some_and(|prefix| prefix.path.len() == path.len());
    if !is_asked
        && let Some(slashed) = locations.with_trailing_slash(path).filter(|location| location.proxy_pass.is_some())
    {
        return LocationMatch::AddSlash(slashed);
    }
    let mut found = LocationMatch::Nothing;
    let mut patterns = true;
    if let Some(prefix) = prefix {
        patterns = !matches!(prefix.matcher, Matcher::Prefix { skips_patterns: true });
        found = match search(&prefix.nested, exchange) {
            LocationMatch::Nothing => LocationMatch::Prefix(prefix),
            LocationMatch::Prefix(inner) => LocationMatch::Prefix(inner),
            done => return done,
        };
    }
    if patterns {
        for (expression, location) in locations.candidates(path) {
            if let Some(captures) = expression.pattern.captures(path) {
                exchange.set_captures(expression, captures);
                return match search(&location.nested, exchange) {
                    LocationMatch::Nothing => LocationMatch::Final(location),
                    LocationMatch::Prefix(inner) | LocationMatch::Final(inner) => LocationMatch::Final(inner),
                    slashed @ LocationMatch::AddSlash(_) => slashed,
                };
            }
        }
    }
    found
}
