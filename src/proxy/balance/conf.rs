//! Load balancing: the method, `sticky` and `queue`.

use std::time::Duration;

use crate::config::arguments::{self, arg, invalid_value};
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Error, Result};
use crate::config::template::{Template, Variable};
use crate::config::values;

/// The load-balancing method of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Balance {
    RoundRobin,
    /// The fewest connections in relation to the weight.
    LeastConn,
    /// By the client's address: the first three bytes of IPv4, all of IPv6.
    IpHash,
    /// By a text with variables.
    Hash {
        key: Template,
        /// A change of the peers remaps few keys.
        consistent: bool,
    },
    Random {
        /// Picks two peers and takes the one with fewer connections.
        two: bool,
    },
}

/// `queue`: requests wait if no peer can accept them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSpec {
    pub length: u32,
    pub timeout: Duration,
}

/// What binds a client to a peer, as long as the peer is available.
#[derive(Clone, Debug)]
pub enum Sticky {
    /// A cookie set here.
    Cookie(StickyCookie),
    /// The first value that is not empty is the `route=` of the peer.
    Route(Vec<Template>),
}

/// The cookie that names a peer.
#[derive(Clone, Debug)]
pub struct StickyCookie {
    pub name: String,
    /// The value that the client sent.
    pub sent_value: Template,
    pub expires: Option<CookieExpiry>,
    pub domain: Option<Template>,
    pub path: Option<Template>,
    pub samesite: Option<Template>,
    pub secure: bool,
    pub http_only: bool,
}

/// How long a browser keeps a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CookieExpiry {
    After(Duration),
    Max,
}

fn set_method(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive, method: Balance) {
    block.upstream.upstream.balance = method;
    if std::mem::replace(&mut block.upstream.has_method, true) {
        builder.note(&directive.name, "replaces the method set above");
    }
}

pub(crate) fn ip_hash(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    set_method(builder, block, directive, Balance::IpHash);
    Ok(())
}

pub(crate) fn least_conn(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    set_method(builder, block, directive, Balance::LeastConn);
    Ok(())
}

/// `hash KEY [consistent];`
pub(crate) fn hash(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let key = builder.template(arg(directive, 0))?;
    let consistent = match directive.args.get(1) {
        None => false,
        Some(word) if word.text == "consistent" => true,
        Some(word) => return Err(invalid_value(directive, word, "\"consistent\" or nothing")),
    };
    set_method(builder, block, directive, Balance::Hash { key, consistent });
    Ok(())
}

/// `random [two [least_conn]];`
pub(crate) fn random(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let words: Vec<&str> = directive.args.iter().map(|word| word.text.as_str()).collect();
    let two = match (words.as_slice(), directive.args.last()) {
        ([], _) => false,
        (["two"] | ["two", "least_conn"], _) => true,
        (_, Some(last)) => return Err(invalid_value(directive, last, "\"two\", \"two least_conn\" or nothing")),
        (_, None) => false,
    };
    set_method(builder, block, directive, Balance::Random { two });
    Ok(())
}

/// `queue LENGTH [timeout=TIME];`
pub(crate) fn queue(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    let length = match arguments::number(directive, word)? {
        0 => return Err(invalid_value(directive, word, "a length of 1 or more")),
        length => length,
    };
    let timeout = match directive.args.get(1) {
        None => Duration::from_secs(60),
        Some(word) => word
            .text
            .strip_prefix("timeout=")
            .and_then(values::time)
            .filter(|timeout| !timeout.is_zero())
            .ok_or_else(|| invalid_value(directive, word, "a time above 0 such as timeout=60s"))?,
    };
    block.upstream.upstream.queue = Some(QueueSpec { length, timeout });
    Ok(())
}

/// `sticky cookie NAME ...;` or `sticky route $VARIABLE ...;`
pub(crate) fn sticky(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let Some((kind, parameters)) = directive.args.split_first() else { return Ok(()) };
    let sticky = match kind.text.as_str() {
        "cookie" => Sticky::Cookie(parse_sticky_cookie(builder, directive)?),
        "route" if !parameters.is_empty() => Sticky::Route(builder.templates(parameters)?),
        "route" => return Err(invalid_value(directive, kind, "a variable after \"route\"")),
        "learn" => {
            return Err(Error::new(&kind.at, "\"sticky learn\" is not supported").hint("use \"sticky cookie\""));
        }
        _ => return Err(invalid_value(directive, kind, "\"cookie\" or \"route\"")),
    };
    block.upstream.upstream.sticky = Some(sticky);
    Ok(())
}

/// Parses the arguments after `sticky cookie`.
fn parse_sticky_cookie(builder: &Builder, directive: &Directive) -> Result<StickyCookie> {
    let Some(name) = directive.args.get(1) else {
        return Err(invalid_value(directive, arg(directive, 0), "the name of a cookie after \"cookie\""));
    };
    arguments::check_header_name(directive, name)?;
    let sent = Variable::Cookie(name.text.as_bytes().into());
    let mut cookie = StickyCookie {
        name: name.text.clone(),
        sent_value: Template::from_variable(sent),
        expires: None,
        domain: None,
        path: None,
        samesite: None,
        secure: false,
        http_only: false,
    };
    for word in directive.args.iter().skip(2) {
        let value = |text: &str| builder.template_from(text, word);
        match word.text.split_once('=') {
            None if word.text == "secure" => cookie.secure = true,
            None if word.text == "httponly" => cookie.http_only = true,
            Some(("expires", "max")) => cookie.expires = Some(CookieExpiry::Max),
            Some(("expires", time)) => {
                let time =
                    values::time(time).ok_or_else(|| invalid_value(directive, word, "a time such as expires=1h"))?;
                cookie.expires = Some(CookieExpiry::After(time));
            }
            Some(("domain", text)) => cookie.domain = Some(value(text)?),
            Some(("path", text)) => cookie.path = Some(value(text)?),
            Some(("samesite", text)) if matches!(text, "strict" | "lax" | "none") || text.contains('$') => {
                cookie.samesite = Some(value(text)?);
            }
            _ => {
                let known = "expires=, domain=, path=, samesite=strict|lax|none, secure or httponly";
                return Err(invalid_value(directive, word, known));
            }
        }
    }
    Ok(cookie)
}
