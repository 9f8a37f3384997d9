//! Rewriting of cookies from upstreams: `proxy_cookie_domain`, `proxy_cookie_path`, `proxy_cookie_flags`.

use std::sync::Arc;

use crate::config::arguments::{arg, invalid_value};
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Result, Word};
use crate::config::template::Template;
use crate::modules::map::conf::Expression;

/// The rules of a location; of each kind the first match applies.
#[derive(Clone, Debug, Default)]
pub struct Cookies {
    pub domains: Vec<CookieRule>,
    pub paths: Vec<CookieRule>,
    pub flags: Vec<CookieFlags>,
}

/// A replacement for the value of an attribute.
#[derive(Clone, Debug)]
pub struct CookieRule {
    pub from: CookieMatch,
    pub to: Template,
}

/// Flags to set or remove: `secure`, `nosecure`, `httponly`, `nohttponly`, `samesite=...`, `nosamesite`.
#[derive(Clone, Debug)]
pub struct CookieFlags {
    pub cookie: CookieMatch,
    pub flags: Vec<Template>,
}

#[derive(Clone, Debug)]
pub enum CookieMatch {
    Text(Template),
    Pattern(Arc<Expression>),
}

const FLAGS: [&str; 8] =
    ["secure", "nosecure", "httponly", "nohttponly", "samesite=strict", "samesite=lax", "samesite=none", "nosamesite"];

/// Parses a text, or an expression after `~`; `~*` ignores case, as do all expressions for domains and names.
fn parse_match(builder: &Builder, word: &Word, any_case: bool) -> Result<CookieMatch> {
    let Some(source) = word.text.strip_prefix('~') else { return Ok(CookieMatch::Text(builder.template(word)?)) };
    let (source, any_case) = source.strip_prefix('*').map_or((source, any_case), |source| (source, true));
    Ok(CookieMatch::Pattern(Arc::new(builder.expression(source, any_case, &word.at)?)))
}

/// Adds a rule to a list of the block. The first rule of a block replaces the inherited ones; None (`off`) clears the list.
fn change_rules<T>(block: &mut BlockBuilder, select_list: fn(&mut Cookies) -> &mut Vec<T>, rule: Option<T>) {
    let first = block.is_first;
    let rules = select_list(block.optional_mut().cookies.get_or_insert_default());
    if first || rule.is_none() {
        rules.clear();
    }
    rules.extend(rule);
}

/// Parses `off` or `FROM TO`. A dot before a domain is ignored.
fn parse_rule(builder: &Builder, directive: &Directive, is_domain: bool) -> Result<Option<CookieRule>> {
    let from = arg(directive, 0);
    let Some(to) = directive.args.get(1) else {
        return if from.text == "off" {
            Ok(None)
        } else {
            Err(invalid_value(directive, from, "\"off\" or two values"))
        };
    };
    let undotted = |word: &Word| Word { text: word.text.trim_start_matches('.').to_owned(), ..*word };
    if is_domain && !from.text.starts_with('~') {
        let from = parse_match(builder, &undotted(from), true)?;
        return Ok(Some(CookieRule { from, to: builder.template(&undotted(to))? }));
    }
    Ok(Some(CookieRule { from: parse_match(builder, from, is_domain)?, to: builder.template(to)? }))
}

pub(crate) fn domain(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let rule = parse_rule(builder, directive, true)?;
    change_rules(block, |cookies| &mut cookies.domains, rule);
    Ok(())
}

pub(crate) fn path(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let rule = parse_rule(builder, directive, false)?;
    change_rules(block, |cookies| &mut cookies.paths, rule);
    Ok(())
}

pub(crate) fn flags(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let Some((name, words)) = directive.args.split_first() else { return Ok(()) };
    if words.is_empty() && name.text == "off" {
        change_rules(block, |cookies| &mut cookies.flags, None);
        return Ok(());
    }
    if words.is_empty() {
        return Err(invalid_value(directive, name, "\"off\", or a cookie and its flags,"));
    }
    for word in words {
        if !FLAGS.contains(&word.text.as_str()) && !word.text.contains('$') {
            return Err(invalid_value(
                directive,
                word,
                "secure, nosecure, httponly, nohttponly, samesite=strict|lax|none or nosamesite",
            ));
        }
    }
    let flags = builder.templates(words)?;
    let rule = CookieFlags { cookie: parse_match(builder, name, true)?, flags };
    change_rules(block, |cookies| &mut cookies.flags, Some(rule));
    Ok(())
}
