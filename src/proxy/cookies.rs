//! Rewrites `Set-Cookie` of an upstream (RFC 6265 4.1): `proxy_cookie_domain`, `proxy_cookie_path`, `proxy_cookie_flags`.
//!
//! A cookie to which no rule applies stays unchanged, byte by byte; any other is reassembled.

use std::borrow::Cow;

use crate::config::{CookieFlags, CookieMatch, CookieRule, Cookies};
use crate::request::exchange::Exchange;
use crate::request::variables;

/// `name=value`, or a name alone.
struct CookieAttribute<'v> {
    name: &'v [u8],
    value: Option<Cow<'v, [u8]>>,
}

impl CookieAttribute<'_> {
    fn is_named(&self, name: &[u8]) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

/// Returns the `Set-Cookie` value for the client.
pub fn rewrite<'v>(rules: &Cookies, value: &'v [u8], exchange: &Exchange) -> Cow<'v, [u8]> {
    let mut attributes: Vec<CookieAttribute<'v>> = value.split(|b| *b == b';').map(parse_attribute).collect();
    let mut changed = false;
    for attribute in attributes.iter_mut().skip(1) {
        let replaced = match attribute.value.as_deref() {
            Some(value) if attribute.is_named(b"domain") => rewrite_domain(&rules.domains, value, exchange),
            Some(value) if attribute.is_named(b"path") => rewrite_path(&rules.paths, value, exchange),
            _ => None,
        };
        changed |= replaced.is_some();
        attribute.value = replaced.map(Cow::Owned).or_else(|| attribute.value.take());
    }
    let name = attributes.first().map(|attribute| attribute.name).unwrap_or_default();
    if let Some(rule) = rules.flags.iter().find(|rule| matches_name(&rule.cookie, name, exchange)) {
        changed |= set_flags(rule, &mut attributes, exchange);
    }
    if !changed {
        return Cow::Borrowed(value);
    }
    let mut out = Vec::with_capacity(value.len());
    for (at, attribute) in attributes.iter().enumerate() {
        out.extend_from_slice(if at > 0 { b"; " } else { b"" });
        out.extend_from_slice(attribute.name);
        if let Some(value) = &attribute.value {
            out.push(b'=');
            out.extend_from_slice(value);
        }
    }
    out.into()
}

fn parse_attribute(text: &[u8]) -> CookieAttribute<'_> {
    let mut parts = text.splitn(2, |b| *b == b'=');
    let name = parts.next().unwrap_or_default().trim_ascii();
    CookieAttribute { name, value: parts.next().map(Cow::Borrowed) }
}

/// Applies the first rule that matches a domain. A leading dot stays.
fn rewrite_domain(rules: &[CookieRule], value: &[u8], exchange: &Exchange) -> Option<Vec<u8>> {
    let (dot, name) = value.split_at(usize::from(value.starts_with(b".")));
    rules.iter().find_map(|rule| match &rule.from {
        CookieMatch::Text(from) => {
            let matches = variables::value(from, exchange).eq_ignore_ascii_case(name);
            matches.then(|| [dot, &variables::value(&rule.to, exchange)].concat())
        }
        CookieMatch::Pattern(_) => rewrite_by_pattern(rule, value, exchange),
    })
}

/// Applies the first rule that matches the start of a path.
fn rewrite_path(rules: &[CookieRule], value: &[u8], exchange: &Exchange) -> Option<Vec<u8>> {
    rules.iter().find_map(|rule| match &rule.from {
        CookieMatch::Text(from) => {
            let rest = value.strip_prefix(variables::value(from, exchange).as_slice())?;
            Some([&variables::value(&rule.to, exchange), rest].concat())
        }
        CookieMatch::Pattern(_) => rewrite_by_pattern(rule, value, exchange),
    })
}

fn rewrite_by_pattern(rule: &CookieRule, value: &[u8], exchange: &Exchange) -> Option<Vec<u8>> {
    let CookieMatch::Pattern(expression) = &rule.from else { return None };
    exchange.set_captures(expression, expression.pattern.captures(value)?);
    Some(variables::value(&rule.to, exchange))
}

fn matches_name(cookie: &CookieMatch, name: &[u8], exchange: &Exchange) -> bool {
    match cookie {
        CookieMatch::Text(text) => variables::value(text, exchange).eq_ignore_ascii_case(name),
        CookieMatch::Pattern(expression) => expression.pattern.is_match(name),
    }
}

/// The flags of the configuration, with the attribute that each sets, or removes (`no...`).
const FLAGS: [(&str, &str, Option<&str>); 8] = [
    ("secure", "Secure", None),
    ("nosecure", "Secure", None),
    ("httponly", "HttpOnly", None),
    ("nohttponly", "HttpOnly", None),
    ("samesite=strict", "SameSite", Some("Strict")),
    ("samesite=lax", "SameSite", Some("Lax")),
    ("samesite=none", "SameSite", Some("None")),
    ("nosamesite", "SameSite", None),
];

/// Sets and removes attributes; true if any changed.
fn set_flags(rule: &CookieFlags, attributes: &mut Vec<CookieAttribute<'_>>, exchange: &Exchange) -> bool {
    let mut changed = false;
    for flag in &rule.flags {
        let flag = variables::value(flag, exchange).to_ascii_lowercase();
        let Some((flag, name, value)) = FLAGS.iter().find(|(known, ..)| known.as_bytes() == flag) else { continue };
        let (name, removes) = (name.as_bytes(), flag.starts_with("no"));
        let count = attributes.len();
        if removes {
            let mut number = 0;
            attributes.retain(|attribute| {
                number += 1;
                number == 1 || !attribute.is_named(name)
            });
            changed |= attributes.len() != count;
            continue;
        }
        let new = CookieAttribute { name, value: value.map(|value| value.as_bytes().into()) };
        match attributes.iter_mut().skip(1).find(|attribute| attribute.is_named(name)) {
            Some(attribute) => *attribute = new,
            None => attributes.push(new),
        }
        changed = true;
    }
    changed
}
