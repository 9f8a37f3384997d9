//! Access control: `allow`, `deny`, `auth_basic`, `auth_request`, `satisfy`, `limit_except`.

use std::sync::Arc;
use std::time::Duration;

use crate::config::arguments::{self, arg, invalid_value};
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Error, Result};
use crate::config::template::Template;
use crate::config::{Settings, directives};
use crate::modules::rewrite::conf::SetTarget;
use crate::request::location_conf::{Location, LocationBuilder, Matcher};
use crate::runtime::cidr::Cidr;
use crate::runtime::socket::Addr;

/// The checks of the access phase.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The first matching rule decides; without one access is allowed.
    pub rules: Vec<AccessRule>,
    pub auth_basic: Option<AuthBasic>,
    pub auth_request: Option<AuthRequest>,
    /// `auth_request_set`, in order.
    pub auth_request_set: Vec<(SetTarget, Template)>,
    /// `satisfy any`: one passed check suffices.
    pub satisfy_any: bool,
    /// How long a 401 is delayed.
    pub auth_delay: Duration,
}

/// An `allow` or a `deny`.
#[derive(Clone, Copy, Debug)]
pub struct AccessRule {
    /// None: all addresses.
    pub network: Option<Cidr>,
    pub allows: bool,
}

impl AccessRule {
    pub fn matches(&self, addr: &Addr) -> bool {
        self.network.is_none_or(|range| range.contains(addr))
    }
}

/// HTTP Basic authentication.
#[derive(Clone, Debug, Default)]
pub struct AuthBasic {
    /// None: no authentication.
    pub realm: Option<Template>,
    /// The user file. None: there are no users.
    pub file: Option<Template>,
    /// The directory that a relative name of the file starts at.
    pub directory: Arc<str>,
}

/// A subrequest whose status decides.
#[derive(Clone, Debug)]
pub struct AuthRequest {
    /// A path, or the name of a location.
    pub target: Vec<u8>,
}

/// A `limit_except`: the settings of a location for all methods but those listed.
#[derive(Debug)]
pub struct LimitExcept {
    /// The excepted methods.
    methods: Vec<&'static str>,
    pub location: Arc<Location>,
}

impl LimitExcept {
    pub fn applies_to(&self, method: &[u8]) -> bool {
        !self.methods.iter().any(|known| known.as_bytes() == method)
    }
}

/// Returns the access settings of the block to change.
pub(crate) fn access_mut(block: &mut BlockBuilder) -> &mut Access {
    block.optional_mut().access.get_or_insert_default()
}

fn auth_basic_mut(block: &mut BlockBuilder) -> &mut AuthBasic {
    access_mut(block).auth_basic.get_or_insert_default()
}

pub(crate) fn allow(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    add_rule(block, directive, true)
}

pub(crate) fn deny(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    add_rule(block, directive, false)
}

/// The first rule of a block, whether `allow` or `deny`, replaces all inherited rules.
fn add_rule(block: &mut BlockBuilder, directive: &Directive, allows: bool) -> Result {
    let word = arg(directive, 0);
    let range = match word.text.as_str() {
        "all" => None,
        text => {
            let range = Cidr::parse(text);
            Some(range.ok_or_else(|| {
                invalid_value(directive, word, "an address, a range such as 10.0.0.0/8, unix: or all")
            })?)
        }
    };
    let inherited = !std::mem::replace(&mut block.has_access_rules, true);
    let rules = &mut access_mut(block).rules;
    if inherited {
        rules.clear();
    }
    rules.push(AccessRule { network: range, allows });
    Ok(())
}

pub(crate) fn satisfy(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    access_mut(block).satisfy_any = arguments::choice(directive, word, "all or any")? == 1;
    Ok(())
}

/// `auth_basic REALM | off`; a variable may also evaluate to `off`.
pub(crate) fn auth_basic(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let realm = builder.template(arg(directive, 0))?;
    auth_basic_mut(block).realm = (realm.as_text() != Some(b"off")).then_some(realm);
    Ok(())
}

pub(crate) fn auth_basic_user_file(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    let file = builder.template(word)?;
    if file.as_text().is_some() {
        builder.refer_to_file(word, builder.in_config_directory(&word.text));
    }
    let basic = auth_basic_mut(block);
    basic.file = Some(file);
    basic.directory = builder.config_directory.display().to_string().into();
    Ok(())
}

/// Rejects `auth_basic` without a user file, with which nginx would allow every request.
pub(crate) fn check_auth_basic(settings: &Settings, directive: &Directive) -> Result {
    let basic = settings.optional.access.as_ref().and_then(|access| access.auth_basic.as_ref());
    match basic {
        Some(basic) if basic.realm.is_some() && basic.file.is_none() => {
            Err(Error::new(&directive.name.at, "\"auth_basic\" is set without \"auth_basic_user_file\"")
                .hint("name a file of users and passwords, as written by htpasswd"))
        }
        _ => Ok(()),
    }
}

pub(crate) fn auth_request(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    access_mut(block).auth_request = match word.text.as_str() {
        "off" => None,
        text if text.starts_with(['/', '@']) => Some(AuthRequest { target: text.as_bytes().to_vec() }),
        _ => return Err(invalid_value(directive, word, "a path such as /auth, or off")),
    };
    Ok(())
}

pub(crate) fn auth_request_set(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let to = builder.set_target(arg(directive, 0))?;
    let value = builder.template(arg(directive, 1))?;
    let first = block.is_first;
    let set = &mut access_mut(block).auth_request_set;
    if first {
        set.clear();
    }
    set.push((to, value));
    Ok(())
}

/// The methods that `limit_except` accepts.
const METHODS: [&str; 14] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "MKCOL",
    "COPY",
    "MOVE",
    "OPTIONS",
    "PROPFIND",
    "PROPPATCH",
    "LOCK",
    "UNLOCK",
    "PATCH",
];

/// `limit_except METHOD ... { ... }`. It inherits everything but steps and `try_files`, as in nginx.
pub(crate) fn limit_except(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let mut methods = Vec::new();
    for word in &directive.args {
        let known = METHODS.iter().find(|known| known.eq_ignore_ascii_case(&word.text));
        methods.push(*known.ok_or_else(|| invalid_value(directive, word, &format!("one of {}", METHODS.join(", "))))?);
    }
    if methods.contains(&"GET") {
        methods.push("HEAD");
    }
    let Some(outer) = block.location.as_ref() else { return Ok(()) };
    let matcher = match outer.matcher {
        Matcher::Exact => Matcher::Exact,
        Matcher::Prefix { skips_patterns } => Matcher::Prefix { skips_patterns },
        Matcher::Pattern(_) | Matcher::Named => Matcher::Named,
    };
    let location = outer.for_nested_block();
    let mut inner = builder.build_block(block, directive, directives::LIMIT_EXCEPT, Some(location))?;
    check_auth_basic(&inner.settings, directive)?;
    inner.location = inner.location.take().map(|location| LocationBuilder { matcher, ..location });
    let scope = crate::request::location_conf::build_nested_block(builder, block, inner, directive)?;
    if let Some((outer, scope)) = block.location.as_mut().zip(scope) {
        outer.limit_except = Some(LimitExcept { methods, location: scope });
    }
    Ok(())
}
