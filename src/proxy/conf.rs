//! `proxy_pass`, and the directives about requests to upstreams and responses from them.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::config::arguments::{self, arg, invalid_value};
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Error, Result, Word, placeholder_hint};
use crate::config::template::{Segment, Template};
use crate::config::values;
use crate::http1::head::{HeaderName, RESPONSE_BYTES_MAX, Version};
use crate::modules::map::conf::Expression;
use crate::proxy::origin_conf::{self, ClientChoice, Origin};
use crate::proxy::pass_conf::IgnoredHeaders;
use crate::proxy::upstream_conf::{PeerSpec, Upstream, parse_endpoint};
use crate::request::location_conf::Matcher;
use crate::runtime::socket::Endpoint;
use crate::tls;

/// How requests are proxied.
#[derive(Clone, Debug)]
pub struct Proxy {
    pub set_headers: Arc<[SetHeader]>,
    pub connect_timeout: Duration,
    pub(crate) read_timeout: Option<Duration>,
    pub(crate) send_timeout: Option<Duration>,
    pub redirects: Arc<[Redirect]>,
    /// Headers of responses that are removed, in addition to nginx's list.
    pub hidden_headers: Arc<[Box<[u8]>]>,
    /// Headers that are forwarded although they are on nginx's list.
    pub passed_headers: Arc<[Box<[u8]>]>,
    pub method: Option<Template>,
    pub version: Version,
    pub next_upstream: NextUpstream,
    /// The limit of attempts per request; 0: all peers.
    pub next_upstream_tries: u32,
    /// The limit of time for further attempts; zero: none.
    pub next_upstream_timeout: Duration,
    pub pass_request_headers: bool,
    pub pass_request_body: bool,
    /// Bytes of the head of a response (`proxy_buffer_size`).
    pub response_head_bytes_max: usize,
    /// Whether a chunked request body is read before it is sent, as far as memory allows.
    pub request_buffering: bool,
    /// Whether `error_page` also applies to responses of upstreams.
    pub intercept_errors: bool,
    /// Replaces the client's body.
    pub set_body: Option<Template>,
    pub ignored_headers: IgnoredHeaders,
    /// `proxy_bind`: the local address of connections.
    pub bind: Option<Template>,
    /// `SO_KEEPALIVE`.
    pub socket_keepalive: bool,
    pub ignore_client_abort: bool,
}

impl Proxy {
    /// nginx's default.
    const TIMEOUT: Duration = Duration::from_secs(60);

    /// The limit between two reads of a response (`proxy_read_timeout`).
    pub fn response_timeout(&self) -> Duration {
        self.read_timeout.unwrap_or(Self::TIMEOUT)
    }

    /// The limit between two writes of a request (`proxy_send_timeout`).
    pub fn request_timeout(&self) -> Duration {
        self.send_timeout.unwrap_or(Self::TIMEOUT)
    }

    /// How long a tunnel may be idle: unlike in nginx without limit, unless `proxy_read_timeout` is set.
    pub fn tunnel_idle_timeout(&self) -> Option<Duration> {
        self.read_timeout
    }

    /// How long the upstream of a tunnel may accept no bytes: without limit, unless `proxy_send_timeout` is set.
    pub fn tunnel_send_timeout(&self) -> Option<Duration> {
        self.send_timeout
    }
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            set_headers: Arc::from([]),
            connect_timeout: Self::TIMEOUT,
            read_timeout: None,
            send_timeout: None,
            redirects: Arc::from([Redirect::Default]),
            hidden_headers: Arc::from([]),
            passed_headers: Arc::from([]),
            method: None,
            version: Version::Http11,
            next_upstream: NextUpstream(NextUpstream::ERROR | NextUpstream::TIMEOUT),
            next_upstream_tries: 0,
            next_upstream_timeout: Duration::ZERO,
            pass_request_headers: true,
            pass_request_body: true,
            response_head_bytes_max: RESPONSE_BYTES_MAX,
            request_buffering: true,
            intercept_errors: false,
            set_body: None,
            ignored_headers: IgnoredHeaders::default(),
            bind: None,
            socket_keepalive: false,
            ignore_client_abort: false,
        }
    }
}

/// A `proxy_set_header`.
#[derive(Clone, Debug)]
pub struct SetHeader {
    pub kind: HeaderName,
    pub name: Box<[u8]>,
    pub value: Template,
}

/// The conditions for another attempt (`proxy_next_upstream`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextUpstream(u16);

impl NextUpstream {
    pub const ERROR: u16 = 1;
    pub const TIMEOUT: u16 = 2;
    pub const INVALID_HEADER: u16 = 4;
    pub const NON_IDEMPOTENT: u16 = 8;
    /// `off`, which overrides all others.
    const OFF: u16 = 1 << 15;
    const STATUSES: [(u16, u16); 7] =
        [(500, 16), (502, 32), (503, 64), (504, 128), (403, 256), (404, 512), (429, 1024)];

    pub fn contains(self, flag: u16) -> bool {
        self.0 & Self::OFF == 0 && self.0 & flag != 0
    }

    /// Whether a response with `status` leads to another attempt.
    pub fn contains_status(self, status: u16) -> bool {
        Self::STATUSES.iter().any(|(code, flag)| *code == status && self.contains(*flag))
    }
}

/// A rule for rewriting `Location` and `Refresh` (`proxy_redirect`).
#[derive(Clone, Debug)]
pub enum Redirect {
    /// From the URL of `proxy_pass` to the path of the location.
    Default,
    Prefix {
        from: Template,
        to: Template,
    },
    Pattern {
        expression: Arc<Expression>,
        to: Template,
    },
}

/// A `proxy_pass`.
#[derive(Clone, Debug)]
pub struct ProxyPass {
    pub destination: Destination,
    /// `$proxy_host`, the default value of `Host`.
    pub host: String,
    pub port: u16,
    /// The URL without its URI part, as written; redirects are compared with it.
    pub url_base: String,
    /// Replaces the part of the path that the location matched.
    pub uri: Option<String>,
    scheme: Scheme,
    /// The TLS client of a URL with `https://`.
    pub tls: Option<Arc<tls::ClientTls>>,
}

/// The scheme of a `proxy_pass`, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
    /// It depends on a variable.
    Either,
}

fn parse_scheme(text: &str) -> Scheme {
    match text.split_once("://") {
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("http") => Scheme::Http,
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => Scheme::Https,
        _ => Scheme::Either,
    }
}

impl ProxyPass {
    /// Whether requests are forwarded over TLS, or may be, depending on a variable.
    pub(crate) fn may_use_tls(&self) -> bool {
        tls::AVAILABLE && matches!(self.scheme, Scheme::Https | Scheme::Either)
    }
}

/// The destination of a `proxy_pass`.
#[derive(Clone, Debug)]
pub enum Destination {
    /// An upstream, by its number.
    Upstream(u32),
    /// A URL that is evaluated for each request.
    Dynamic(Box<DynamicUrl>),
}

/// A URL with variables.
#[derive(Clone, Debug)]
pub struct DynamicUrl {
    /// The part of the URL before the first variable of its authority that the client controls.
    pub start: Template,
    /// The rest of what may be the authority.
    pub middle: Template,
    /// What follows the authority. None: the authority ends within a variable.
    pub rest: Option<Template>,
    /// What the client controls of the authority.
    pub client_choice: ClientChoice,
    /// The host must be one that the configuration names, since the client controls it and no `resolver` is set.
    pub requires_known_host: bool,
}

/// The parts of a URL without variables.
#[derive(Debug, PartialEq, Eq)]
pub struct Url<'u> {
    /// The scheme is `https`.
    pub tls: bool,
    /// `host`, `host:port` or `unix:/path`.
    pub authority: &'u str,
    pub uri: Option<&'u str>,
}

/// Why requests can't be forwarded to a URL.
#[derive(Debug, PartialEq, Eq)]
pub enum UrlError {
    Scheme,
    Tls,
    Host,
}

impl<'u> Url<'u> {
    /// Parses `http://` and `https://` URLs, also of Unix sockets.
    pub fn parse(url: &'u str) -> Result<Self, UrlError> {
        let (scheme, rest) = url.split_once("://").ok_or(UrlError::Scheme)?;
        let tls = match scheme {
            _ if scheme.eq_ignore_ascii_case("http") => false,
            _ if !scheme.eq_ignore_ascii_case("https") => return Err(UrlError::Scheme),
            _ if !tls::AVAILABLE => return Err(UrlError::Tls),
            _ => true,
        };
        let (authority, uri) = if let Some(path) = rest.strip_prefix("unix:") {
            match path.find(':') {
                Some(colon) => (rest.get(..colon + 5), rest.get(colon + 6..)),
                None => (Some(rest), None),
            }
        } else {
            match rest.find(['/', '?']) {
                Some(at) => (rest.get(..at), rest.get(at..)),
                None => (Some(rest), None),
            }
        };
        let authority = authority.filter(|authority| !authority.is_empty()).ok_or(UrlError::Host)?;
        Ok(Self { tls, authority, uri: uri.filter(|uri| !uri.is_empty()) })
    }

    /// Returns the values of `$proxy_host` and `$proxy_port`.
    pub fn host_and_port(&self) -> (String, u16) {
        let usual = self.default_port();
        if self.authority.starts_with("unix:") {
            return ("localhost".to_owned(), usual);
        }
        match values::host_port(self.authority) {
            Some((host, Some(port))) if port == usual => (host.to_owned(), port),
            Some((_, Some(port))) => (self.authority.to_owned(), port),
            _ => (self.authority.to_owned(), usual),
        }
    }

    /// Returns the endpoint that the authority names.
    pub fn endpoint(&self) -> Option<Endpoint> {
        parse_endpoint(&self.authority_with_port())
    }

    /// Returns the authority with its port, which identifies the endpoint.
    pub fn authority_with_port(&self) -> Cow<'u, str> {
        match values::host_port(self.authority) {
            Some((_, None)) if !self.authority.starts_with("unix:") => {
                format!("{}:{}", self.authority, self.default_port()).into()
            }
            _ => self.authority.into(),
        }
    }

    /// Whether the authority is a host with a valid port.
    pub fn has_port(&self) -> bool {
        matches!(values::host_port(self.authority), Some((_, Some(_))))
    }

    /// Returns the name of an implicit upstream, which has this endpoint as its only peer.
    pub fn upstream_name(&self) -> Cow<'u, str> {
        if self.tls { self.authority_with_port() } else { self.authority.into() }
    }

    fn default_port(&self) -> u16 {
        if self.tls { 443 } else { 80 }
    }
}

impl Builder {
    pub(crate) fn add_upstream(&mut self, key: String, upstream: Upstream) -> u32 {
        let number = self.config.upstreams.len() as u32;
        self.config.upstreams.push(Arc::new(upstream));
        self.config.upstream_names.insert(key, number);
        number
    }

    /// Returns the number of the URL's upstream: a defined one, or an implicit one with this endpoint.
    fn find_or_add_upstream(&mut self, url: &Url<'_>, block: &BlockBuilder, word: &Word) -> Option<u32> {
        let key = url.authority_with_port();
        let named = |name: &str| self.config.upstream_names.get(name);
        if let Some(number) = named(url.authority).or_else(|| named(&key)) {
            return Some(*number);
        }
        let endpoint = url.endpoint()?;
        if let Endpoint::Name { host, .. } = &endpoint {
            self.refer_to_host(word, host);
        }
        let peer =
            PeerSpec { resolver: block.system_resolver(), ..PeerSpec::new(url.upstream_name().into_owned(), endpoint) };
        Some(self.add_upstream(key.into_owned(), Upstream::from_peer(peer)))
    }
}

pub(crate) fn pass(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    let template = builder.template(word)?;
    let pass = match template.as_text() {
        Some(_) => {
            let url = Url::parse(&word.text).map_err(|why| invalid_url(word, &why))?;
            let number =
                builder.find_or_add_upstream(&url, block, word).ok_or_else(|| invalid_url(word, &UrlError::Host))?;
            let (host, port) = url.host_and_port();
            let base = word.text.strip_suffix(url.uri.unwrap_or_default()).unwrap_or(&word.text);
            ProxyPass {
                destination: Destination::Upstream(number),
                host,
                port,
                url_base: base.to_owned(),
                scheme: if url.tls { Scheme::Https } else { Scheme::Http },
                tls: None,
                uri: url.uri.map(|uri| if uri.starts_with('?') { format!("/{uri}") } else { uri.to_owned() }),
            }
        }
        None => ProxyPass {
            destination: Destination::Dynamic(Box::new(dynamic_url(builder, block, &template, directive)?)),
            host: String::new(),
            port: 80,
            url_base: String::new(),
            scheme: parse_scheme(&word.text),
            tls: None,
            uri: None,
        },
    };
    let Some(location) = &mut block.location else { return Ok(()) };
    if pass.uri.is_some() && matches!(location.matcher, Matcher::Pattern(_) | Matcher::Named) {
        return Err(Error::new(
            &word.at,
            "\"proxy_pass\" cannot have URI part in location given by regular expression, or inside named location",
        )
        .hint("remove the URI part, or use a variable such as $1 in it"));
    }
    location.proxy_pass = Some(pass);
    Ok(())
}

/// Builds a URL with variables. If its authority is plain text, the upstream is added at once.
fn dynamic_url(
    builder: &mut Builder,
    block: &BlockBuilder,
    template: &Template,
    directive: &Directive,
) -> Result<DynamicUrl> {
    let word = arg(directive, 0);
    let Origin { client_choice, client_segment, may_be_path, authority_end } =
        origin_conf::analyze(template, &builder.config, &builder.assignments);
    if let Some(Segment::Text(text)) = template.segments().first() {
        match Url::parse(std::str::from_utf8(text).unwrap_or_default()) {
            Ok(url) if url.uri.is_some() || authority_end == Some((1, 0)) => {
                let known = match block.settings.resolver {
                    // The first request adds it, with the resolver of its location.
                    Some(_) => url.endpoint().is_some(),
                    None => builder.find_or_add_upstream(&url, block, word).is_some(),
                };
                if !known {
                    return Err(invalid_url(word, &UrlError::Host));
                }
            }
            Err(UrlError::Tls) => return Err(invalid_url(word, &UrlError::Tls)),
            Ok(_) | Err(UrlError::Scheme | UrlError::Host) => {}
        }
    }
    let requires_known_host = client_choice == ClientChoice::Host && block.settings.resolver.is_none();
    if requires_known_host && !may_be_path {
        builder.client_chosen_hosts.push(word.clone());
    }
    if client_choice == ClientChoice::Port {
        builder.note(
            &directive.name,
            "the client can choose the port; if the variable is a path, write a slash before it",
        );
    }
    let (url, rest) = match authority_end {
        Some((segment, at)) => {
            let (url, rest) = template.split_at(segment, at);
            (url, Some(rest))
        }
        None => (template.clone(), None),
    };
    let (start, middle) = url.split_at(client_segment, 0);
    Ok(DynamicUrl { start, middle, rest, client_choice, requires_known_host })
}

/// Rejects an open proxy: a host that clients can choose must be one that the configuration names, and it names none.
pub(crate) fn check_open_proxies(builder: &Builder) -> Result {
    match builder.client_chosen_hosts.first() {
        Some(word) if builder.config.upstreams.is_empty() => Err(word
            .error("\"proxy_pass {}\" lets the client choose any host")
            .hint("define the hosts as upstreams, or choose one by a map; to allow any host, set a \"resolver\"")),
        _ => Ok(()),
    }
}

fn invalid_url(word: &Word, why: &UrlError) -> Error {
    let (message, hint) = match why {
        UrlError::Scheme => {
            (format!("invalid URL prefix in \"{}\"", word.text), "it must start with http:// or https://")
        }
        UrlError::Tls => ("\"https://\" upstreams are not supported".to_owned(), "this build has no TLS"),
        UrlError::Host => {
            (format!("invalid host in \"{}\"", word.text), "http://host:port or http://unix:/path is expected")
        }
    };
    Error::new(&word.at, message).hint(placeholder_hint(&word.text).unwrap_or_else(|| hint.to_owned()))
}

pub(crate) fn set_header(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let name = arg(directive, 0);
    arguments::check_header_name(directive, name)?;
    let value = builder.template(&arg(directive, 1).joined_lines())?;
    let mut headers = if block.is_first { Vec::new() } else { block.settings.proxy.set_headers.to_vec() };
    headers.push(SetHeader {
        kind: HeaderName::from_bytes(name.text.as_bytes()),
        name: name.text.as_bytes().into(),
        value,
    });
    block.settings.proxy.set_headers = headers.into();
    Ok(())
}

/// `proxy_redirect off | default | FROM TO`
pub(crate) fn redirect(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let from = arg(directive, 0);
    let mut redirects = if block.is_first { Vec::new() } else { block.settings.proxy.redirects.to_vec() };
    match (directive.args.get(1), from.text.as_str()) {
        (None, "off") => redirects.clear(),
        (None, "default") => redirects.push(Redirect::Default),
        (None, _) => return Err(invalid_value(directive, from, "\"off\", \"default\", or two values")),
        (Some(to), text) => {
            let to = builder.template(to)?;
            redirects.push(match text.strip_prefix('~') {
                Some(source) => {
                    let (source, any_case) = source.strip_prefix('*').map_or((source, false), |source| (source, true));
                    Redirect::Pattern { expression: Arc::new(builder.expression(source, any_case, &from.at)?), to }
                }
                None => Redirect::Prefix { from: builder.template(from)?, to },
            });
        }
    }
    block.settings.proxy.redirects = redirects.into();
    Ok(())
}

pub(crate) fn hide_header(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let name = arg(directive, 0);
    block.settings.proxy.hidden_headers = append_name(block.is_first, &block.settings.proxy.hidden_headers, name);
    Ok(())
}

pub(crate) fn pass_header(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let name = arg(directive, 0);
    block.settings.proxy.passed_headers = append_name(block.is_first, &block.settings.proxy.passed_headers, name);
    Ok(())
}

fn append_name(first: bool, list: &Arc<[Box<[u8]>]>, name: &Word) -> Arc<[Box<[u8]>]> {
    let mut names = if first { Vec::new() } else { list.to_vec() };
    names.push(name.text.as_bytes().into());
    names.into()
}

pub(crate) fn http_version(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    block.settings.proxy.version = arguments::http_version(directive, word)?;
    Ok(())
}

/// `proxy_buffer_size SIZE;`, which in nginx too limits the head of a response.
pub(crate) fn buffer_size(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    const MAX: u64 = 256 * 1024;
    let size = arguments::size(directive, arg(directive, 0))?;
    if size > MAX {
        builder.note(&directive.name, "the limit for the head of a response is at most 256k");
    }
    block.settings.proxy.response_head_bytes_max = RESPONSE_BYTES_MAX.max(size.min(MAX) as usize);
    Ok(())
}

pub(crate) fn next_upstream(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let current = &mut block.settings.proxy.next_upstream;
    let mut flags = if block.is_first { 0 } else { current.0 };
    for word in &directive.args {
        flags |= match word.text.as_str() {
            "off" => NextUpstream::OFF,
            "error" => NextUpstream::ERROR,
            "timeout" => NextUpstream::TIMEOUT,
            "invalid_header" => NextUpstream::INVALID_HEADER,
            "non_idempotent" => NextUpstream::NON_IDEMPOTENT,
            "updating" => 0,
            text => {
                let code = text.strip_prefix("http_").and_then(values::number);
                let known = NextUpstream::STATUSES.iter().find(|(status, _)| code == Some(u32::from(*status)));
                known
                    .ok_or_else(|| {
                        invalid_value(
                            directive,
                            word,
                            "error, timeout, invalid_header, http_500 (or 502, 503, 504, 403, 404, 429), non_idempotent or off",
                        )
                    })?
                    .1
            }
        };
    }
    *current = NextUpstream(flags);
    Ok(())
}
