//! An HTTP exchange: one request with all that is known of it: client, URI, server and location, the attempts to reach
//! peers, and what was sent in response. Variables and log lines are evaluated from it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use crate::config::{Config, Content, KeepaliveDisable, Location, ProxyPass, Server, Settings};
use crate::http1::body::Decoder;
use crate::http1::head::{Request, Response, Version};
use crate::http1::proxy_protocol::ProxiedConnection;
use crate::http1::user_agent;
use crate::regex::Captures;
use crate::request::limit_zones::RequestLimits;
use crate::runtime::executor::{self, Millis};
use crate::runtime::metrics;
use crate::runtime::socket::Addr;
use crate::tls::{self, TlsInfo};

thread_local! {
    /// This worker is shutting down: each response from now on closes its connection.
    static STOPPING: Cell<bool> = const { Cell::new(false) };
}

/// Makes the current requests of this worker the last ones of their connections.
pub fn end_keep_alive() {
    STOPPING.set(true);
}

/// The client end of a connection.
#[derive(Clone, Debug)]
pub struct Client {
    pub addr: Addr,
    /// The local address of the connection.
    pub local: Addr,
    /// The number of the connection in the logs.
    pub number: u32,
    pub connected_at: Millis,
    /// The addresses of the PROXY protocol header.
    pub proxy_protocol: Option<Rc<ProxiedConnection>>,
    /// Set on TLS connections.
    pub tls: Option<Rc<TlsInfo>>,
}

impl Client {
    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// The target of an attempt.
#[derive(Clone, Debug)]
pub enum AttemptTarget {
    Peer(Addr),
    /// The name of an upstream that had no available peer.
    NoPeer(String),
}

impl fmt::Display for AttemptTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(addr) => addr.fmt(f),
            Self::NoPeer(upstream) => upstream.fmt(f),
        }
    }
}

/// One attempt to get a response from a peer. Times are milliseconds since `began`.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub target: AttemptTarget,
    /// An internal redirect led to another upstream than that of the preceding attempt.
    pub after_redirect: bool,
    pub began: Millis,
    pub status: Option<u16>,
    pub connected: Option<Millis>,
    pub head_received: Option<Millis>,
    pub ended: Option<Millis>,
    pub received: u64,
    pub body: u64,
    pub sent: u64,
}

impl Attempt {
    pub fn new(peer: AttemptTarget) -> Self {
        let began = executor::now();
        Self {
            target: peer,
            after_redirect: false,
            began,
            status: None,
            connected: None,
            head_received: None,
            ended: None,
            received: 0,
            body: 0,
            sent: 0,
        }
    }

    pub fn elapsed(&self) -> Millis {
        executor::now().saturating_sub(self.began)
    }
}

/// The value of a `proxy_pass` with variables.
#[derive(Debug)]
pub struct ResolvedProxyPass {
    pub host: String,
    pub port: u16,
    pub tls: bool,
}

/// The response as it was sent to the client.
#[derive(Debug, Default)]
pub struct SentResponse {
    /// 0 until a response is chosen.
    pub status: u16,
    pub head_bytes: u64,
    /// Bytes sent, including the head.
    pub bytes: u64,
    /// The head, where a log format or a map reads headers of it.
    pub head: RefCell<Vec<u8>>,
    /// The whole response was sent.
    pub complete: bool,
    /// Trailer lines behind the body.
    pub trailers: Vec<u8>,
    /// Bytes of the body before and after compression.
    pub compressed_bytes: Option<(u64, u64)>,
}

/// The body of a request. All attempts and internal redirects share it, so that none starts to read in the middle.
#[derive(Debug)]
pub struct RequestBody {
    /// The position in the client's stream.
    pub decoder: Decoder,
    /// The whole body, if it is in memory: it can be sent to several peers, one after the other.
    pub buffered: Option<Rc<Vec<u8>>>,
    /// The start of a chunked body that is too long for memory. It can be sent again until more of the body was read.
    pub prefix: Vec<u8>,
    /// Where the rest of the body starts behind `prefix`, in bytes of the client's stream.
    pub prefix_end: u64,
    /// The first bytes, where a variable reads them.
    pub start: Vec<u8>,
    /// Bytes read for an upstream, without framing.
    pub bytes: u64,
    /// The body is not forwarded: the request has become a GET.
    pub is_dropped: bool,
    /// `100 Continue` was sent.
    pub continue_sent: bool,
}

impl RequestBody {
    fn from_request(request: &Request) -> Self {
        Self {
            decoder: Decoder::new(request.framing),
            buffered: None,
            prefix: Vec::new(),
            prefix_end: 0,
            start: Vec::new(),
            bytes: 0,
            is_dropped: false,
            continue_sent: false,
        }
    }

    /// Whether the body can be sent from its first byte: it is in memory as far as it was read.
    pub fn can_be_resent(&self) -> bool {
        self.buffered.is_some() || self.decoder.consumed() == self.prefix_end
    }
}

/// The target of a request, taken apart.
#[derive(Debug, Default)]
pub struct RequestUri {
    /// The requested host, lower case and without port; empty if the client sent none.
    pub host: String,
    /// The normalized path, `$uri`.
    pub path: Vec<u8>,
    /// Path and query as the client sent them, `$request_uri`.
    pub raw: Vec<u8>,
    pub args: Option<Vec<u8>>,
    /// `path` differs from that of the client.
    pub path_changed: bool,
    /// `args` differ from those of the client.
    pub args_changed: bool,
}

/// What the phases have done with the path so far.
#[derive(Debug, Default)]
pub struct Routing {
    /// An internal redirect: the request may enter an `internal` location.
    pub is_internal: bool,
    /// `rewrite ... break` made the path: it is forwarded whole, whatever the URI of `proxy_pass`.
    pub rewrite_break: bool,
    /// The path is what follows an alias, although an expression selected the location.
    pub alias_appended: bool,
    /// `error_page` has replaced a page already.
    pub error_page_done: bool,
}

/// What replaces or extends parts of the response, whichever handler makes it.
#[derive(Debug, Default)]
pub struct ResponseOverrides {
    /// The status to send (`error_page 404 =200 ...`).
    pub status: Option<u16>,
    /// Headers to add.
    pub headers: Vec<(&'static [u8], Vec<u8>)>,
    /// The media type, where an upstream chose it (`X-Accel-Redirect`).
    pub content_type: Option<Vec<u8>>,
}

/// Values of variables. A subrequest shares those of its request.
#[derive(Debug, Default)]
pub struct VariableValues {
    /// Groups of the last expression that matched.
    pub captures: RefCell<Captures>,
    /// Variables of `set` and of named groups.
    pub user: RefCell<Vec<Vec<u8>>>,
    /// Values of `map`, `geo` and `split_clients`, kept from their first evaluation on.
    pub evaluated: RefCell<Vec<Option<Rc<[u8]>>>>,
    request_id: RefCell<Option<String>>,
}

/// The upstream side of a request.
#[derive(Debug, Default)]
pub struct UpstreamExchange {
    pub attempts: Vec<Attempt>,
    pub head: Option<Rc<Response>>,
    /// Trailer lines behind the body.
    pub trailers: Vec<u8>,
    /// Host and port of a `proxy_pass` with variables.
    pub target: Option<ResolvedProxyPass>,
}

/// One request with its response.
pub struct Exchange {
    pub config: Arc<Config>,
    pub client: Rc<Client>,
    /// The peer of the TCP connection, where that is a trusted proxy that named another client (`real_ip`).
    pub proxy_peer: Option<Rc<Client>>,
    pub server: Arc<Server>,
    pub location: Option<Arc<Location>>,
    pub request: Request,
    /// The number of this request on its connection, from 1.
    pub number: u32,
    pub began: Millis,
    pub uri: RequestUri,
    pub body: RequestBody,
    pub routing: Routing,
    pub variables: VariableValues,
    pub limits: RequestLimits,
    pub upstream: UpstreamExchange,
    pub overrides: ResponseOverrides,
    pub response: SentResponse,
    /// The connection is closed after the response.
    pub closes_connection: bool,
    /// The method of the request for which `auth_request` made this subrequest. Nothing of it goes to the client.
    pub subrequest_of: Option<Box<[u8]>>,
    /// The client took too long.
    pub timed_out: bool,
    /// The head is malformed: it is not forwarded.
    pub malformed: bool,
    /// Counts the request until its response ends.
    pub in_flight: Option<metrics::RequestGuard>,
    /// It arrived before the preceding request was answered.
    pub pipelined: bool,
}

impl Exchange {
    pub fn new(config: Arc<Config>, client: Rc<Client>, server: Arc<Server>, request: Request, number: u32) -> Self {
        let user = RefCell::new(vec![Vec::new(); config.user_variables]);
        Self {
            body: RequestBody::from_request(&request),
            variables: VariableValues { user, ..VariableValues::default() },
            config,
            client,
            proxy_peer: None,
            server,
            location: None,
            request,
            number,
            began: executor::now(),
            uri: RequestUri::default(),
            routing: Routing::default(),
            limits: RequestLimits::default(),
            upstream: UpstreamExchange::default(),
            overrides: ResponseOverrides::default(),
            response: SentResponse::default(),
            closes_connection: false,
            subrequest_of: None,
            timed_out: false,
            malformed: false,
            in_flight: None,
            pipelined: false,
        }
    }

    /// The settings in force: those of the location, once it is known.
    pub fn settings(&self) -> &Settings {
        self.location.as_ref().map_or(&self.server.settings, |location| &location.settings)
    }

    /// The `proxy_pass` of the location.
    pub fn proxy_pass(&self) -> Option<&ProxyPass> {
        self.location.as_ref().and_then(|location| location.proxy_pass.as_ref())
    }

    /// The handler of the location, if it is neither `proxy_pass` nor static files.
    pub fn content(&self) -> Option<Content> {
        self.location.as_ref().map_or(self.server.content, |location| location.content)
    }

    /// `$proxy_host` and `$proxy_port`.
    pub fn proxy_host(&self) -> Option<(&str, u16)> {
        let target = self.upstream.target.as_ref().map(|target| (target.host.as_str(), target.port));
        target.or_else(|| self.proxy_pass().map(|pass| (pass.host.as_str(), pass.port)))
    }

    /// The TLS settings of the upstream; `None` for plain HTTP.
    pub fn upstream_tls(&self) -> Option<&Arc<tls::ClientTls>> {
        let client = self.proxy_pass()?.tls.as_ref().filter(|_| tls::AVAILABLE)?;
        self.upstream.target.as_ref().is_none_or(|target| target.tls).then_some(client)
    }

    /// Replaces path and arguments, as for a new request.
    pub fn redirect_internally(&mut self, target: &[u8]) {
        let (path, args) = match target.iter().position(|b| *b == b'?') {
            Some(at) => (target.get(..at), target.get(at + 1..)),
            None => (Some(target), None),
        };
        self.uri.path = path.unwrap_or_default().to_vec();
        self.uri.args = args.map(<[u8]>::to_vec);
        self.uri.path_changed = true;
        self.routing.rewrite_break = false;
        self.routing.alias_appended = false;
        self.routing.is_internal = true;
    }

    /// A GET of another path with the same headers and shared variables (`auth_request`). Its response is not sent.
    pub fn subrequest(&self, path: &[u8]) -> Self {
        let request = self.request.to_bodyless_get();
        let mut subrequest =
            Self::new(self.config.clone(), self.client.clone(), self.server.clone(), request, self.number);
        subrequest.subrequest_of = Some(self.request.method().into());
        subrequest.limits = self.limits.for_subrequest();
        subrequest.uri.host.clone_from(&self.uri.host);
        subrequest.uri.raw.clone_from(&self.uri.raw);
        subrequest.uri.path = path.to_vec();
        subrequest.uri.path_changed = true;
        subrequest.routing.is_internal = true;
        subrequest.body.is_dropped = true;
        subrequest.malformed = self.malformed;
        subrequest.proxy_peer.clone_from(&self.proxy_peer);
        subrequest.variables.user.swap(&self.variables.user);
        subrequest.variables.evaluated.swap(&self.variables.evaluated);
        subrequest.variables.request_id = RefCell::new(Some(self.request_id()));
        subrequest
    }

    /// `$request_method`: that of the client's request.
    pub fn method(&self) -> &[u8] {
        self.subrequest_of.as_deref().unwrap_or(self.request.method())
    }

    /// Drops a `Location` of the response that this one replaces.
    pub fn remove_location_header(&mut self) {
        self.overrides.headers.retain(|(name, _)| !name.eq_ignore_ascii_case(b"location"));
    }

    /// Whether an upstream gets the client's body.
    pub fn forwards_body(&self) -> bool {
        let proxy = &self.settings().proxy;
        proxy.pass_request_body && proxy.set_body.is_none() && !self.body.is_dropped
    }

    /// Whether the request can be sent to an upstream: without the client's body, or with all of it.
    pub fn can_be_forwarded(&self) -> bool {
        !self.forwards_body() || self.body.can_be_resent()
    }

    /// Stores the groups of an expression that matched.
    pub fn set_captures(&self, expression: &crate::config::Expression, captures: Captures) {
        let mut users = self.variables.user.borrow_mut();
        for (group, number) in &expression.group_variables {
            if let Some(slot) = users.get_mut(*number as usize) {
                *slot = captures.group(*group).to_vec();
            }
        }
        // An expression without groups clears `$1`.
        self.variables.captures.replace(captures);
    }

    /// Clears `$1`: an expression did not match.
    pub fn clear_captures(&self) {
        self.variables.captures.take();
    }

    /// Whether the connection may serve another request after this one.
    pub fn may_keep_alive(&self) -> bool {
        let settings = self.settings();
        let age = executor::now().saturating_sub(self.client.connected_at);
        !self.closes_connection
            && !STOPPING.get()
            && !settings.keepalive_timeout.is_zero()
            && self.request.keeps_alive()
            && self.number < settings.keepalive_requests
            && age < executor::millis(settings.keepalive_time)
            && !self.is_disabled_browser(settings.client_options.keepalive_disable)
    }

    /// Whether `keepalive_disable` names this browser; MSIE only after POST, as in nginx.
    fn is_disabled_browser(&self, disabled: KeepaliveDisable) -> bool {
        let agent = || self.request.headers.first_named(b"user_agent").unwrap_or_default();
        disabled.msie6 && self.request.method() == b"POST" && user_agent::is_msie6(agent())
            || disabled.safari && user_agent::is_safari(agent())
    }

    /// Whether the client accepts a chunked body (RFC 9112 7.1).
    pub fn accepts_chunked(&self) -> bool {
        self.request.version == Version::Http11 && self.settings().chunked
    }

    /// Records the media type before the head exists, for variables that `expires` and the like read.
    pub fn record_content_type(&self, content_type: &[u8]) {
        if self.config.keeps_response_head {
            self.response.head.replace([b"Content-Type: ", content_type, b"\r\n"].concat());
        }
    }

    /// Records the head that is about to be sent.
    pub fn record_head(&mut self, status: u16, head: &[u8]) {
        let kept = if self.config.keeps_response_head { head.to_vec() } else { Vec::new() };
        self.response =
            SentResponse { status, head_bytes: head.len() as u64, head: kept.into(), ..SentResponse::default() };
    }

    /// `$request_id`: 16 random bytes in hexadecimal.
    pub fn request_id(&self) -> String {
        self.variables.request_id.borrow_mut().get_or_insert_with(|| format!("{:032x}", fastrand::u128(..))).clone()
    }

    /// Milliseconds since the first byte of the request.
    pub fn elapsed(&self) -> Millis {
        executor::now().saturating_sub(self.began)
    }
}
