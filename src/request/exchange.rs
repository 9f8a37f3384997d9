//! One request on its way, with all that is known of it: who asked, what for, which server and location, which peers
//! were tried, what was answered. Variables and log lines are read from here.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use crate::config::{Config, Content, KeepaliveDisable, Location, ProxyPass, Server, Settings};
use crate::http1::body::Decoder;
use crate::http1::head::{Request, Response, Version};
use crate::http1::proxy_protocol::Addresses;
use crate::http1::user_agent;
use crate::regex::Captures;
use crate::request::limit_zones::RequestLimits;
use crate::runtime::executor::{self, Millis};
use crate::runtime::socket::Addr;
use crate::tls::{self, TlsInfo};

thread_local! {
    /// This worker stops: what is answered from now on says that nothing follows.
    static STOPPING: Cell<bool> = const { Cell::new(false) };
}

/// The requests that this worker has now are the last ones of their connections.
pub fn last_requests() {
    STOPPING.set(true);
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Client {
    pub addr: Addr,
    /// The address that the connection came to.
    pub local: Addr,
    /// The number of the connection in the logs.
    pub number: u32,
    pub since: Millis,
    /// What the PROXY protocol said.
    pub proxied: Option<Rc<Addresses>>,
    /// What is known of the connection, if it is a secured one.
    pub tls: Option<Rc<TlsInfo>>,
}

impl Client {
    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// Who was tried.
#[derive(Clone, Debug)]
pub enum Tried {
    Peer(Addr),
    /// No peer of this upstream could be tried.
    Nobody(String),
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(addr) => addr.fmt(f),
            Self::Nobody(upstream) => upstream.fmt(f),
        }
    }
}

/// One try to get an answer from a peer. Times are milliseconds since the try began.
#[derive(Clone, Debug)]
pub struct Try {
    pub peer: Tried,
    /// It was of another upstream than the try before, to which the request was sent on.
    pub elsewhere: bool,
    pub began: Millis,
    pub status: Option<u16>,
    pub connected: Option<Millis>,
    pub headed: Option<Millis>,
    pub ended: Option<Millis>,
    pub received: u64,
    pub body: u64,
    pub sent: u64,
}

impl Try {
    pub fn new(peer: Tried) -> Self {
        let began = executor::now();
        Self {
            peer,
            elsewhere: false,
            began,
            status: None,
            connected: None,
            headed: None,
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

/// What a `proxy_pass` with variables came to.
#[derive(Debug)]
pub struct ResolvedProxyPass {
    pub host: String,
    pub port: u16,
    pub tls: bool,
}

/// What was sent to the client.
#[derive(Debug, Default)]
pub struct Answer {
    /// 0 as long as nothing was sent.
    pub status: u16,
    pub head_bytes: u64,
    /// All bytes, with the head.
    pub bytes: u64,
    /// The head, if a log format or a map asks for fields of it.
    pub head: RefCell<Vec<u8>>,
    /// Whether all of it was sent.
    pub complete: bool,
    /// Lines behind the body.
    pub trailers: Vec<u8>,
    /// Bytes of the body before and after it was compressed.
    pub packed: Option<(u64, u64)>,
}

/// The body of a request: one value for all tries and internal redirects, so that none of them begins to read it in the
/// middle.
#[derive(Debug)]
pub struct RequestBody {
    /// The position in the client's stream.
    pub decoder: Decoder,
    /// All of it, if it was there at once: it can be sent to one peer after the other.
    pub whole: Option<Rc<Vec<u8>>>,
    /// The start of it, if a variable asks for it.
    pub start: Vec<u8>,
    /// Bytes that were read for an upstream, without framing.
    pub bytes: u64,
}

impl RequestBody {
    /// The body behind the head of `request`.
    fn of(request: &Request) -> Self {
        Self { decoder: Decoder::new(request.framing), whole: None, start: Vec::new(), bytes: 0 }
    }

    /// Whether it can be sent from its first byte: it is kept, or nothing behind the head was read.
    fn is_complete(&self) -> bool {
        self.whole.is_some() || self.decoder.is_untouched()
    }
}

/// One request.
pub struct Exchange {
    pub config: Arc<Config>,
    pub client: Rc<Client>,
    /// Who has connected, where that is not the client but speaks for it.
    pub connected: Option<Rc<Client>>,
    pub server: Arc<Server>,
    pub location: Option<Arc<Location>>,
    pub request: Request,
    /// The host that was asked for, in lower case without port; empty if the client named none.
    pub host: String,
    /// The normalized path, `$uri`.
    pub path: Vec<u8>,
    /// The path and query as the client wrote them, `$request_uri`.
    pub written: Vec<u8>,
    pub args: Option<Vec<u8>>,
    /// The path is no longer what the client wrote.
    pub rewritten: bool,
    /// The arguments are not.
    pub args_changed: bool,
    /// `rewrite ... break` made the path: it goes to the upstream whole, whatever the URI of `proxy_pass`.
    pub broke: bool,
    /// Sent on by the configuration: it may enter an `internal` location.
    pub internal: bool,
    /// The path is what follows an alias, although an expression found the location.
    pub adds_path: bool,
    /// A page of our own was replaced already.
    pub in_error_page: bool,
    /// The status that is answered with, whatever the answer has (`error_page 404 =200 ...`).
    pub status: Option<u16>,
    /// Fields that the answer gets beside its own.
    pub extra: Vec<(&'static [u8], Vec<u8>)>,
    /// The type of what an upstream has sent us for (`X-Accel-Redirect`), whatever it would be otherwise.
    pub given_type: Option<Vec<u8>>,
    /// The request's body goes nowhere: the request has become a GET.
    pub drops_body: bool,
    /// The connection ends with the answer.
    pub closes: bool,
    /// This is what `auth_request` asks for the sake of a request with this method. Nothing of it goes to the client.
    pub asked_for: Option<Box<[u8]>>,
    /// The client took too long.
    pub timed_out: bool,
    /// Its head could not be understood: no upstream hears of it.
    pub malformed: bool,
    /// It was there before the request before it was answered.
    pub pipelined: bool,
    /// The number of this request on its connection, from 1.
    pub number: u32,
    pub began: Millis,
    /// What expressions captured last, and what their named groups filled.
    pub captures: RefCell<Captures>,
    pub users: RefCell<Vec<Vec<u8>>>,
    /// What maps were worth when they were asked first.
    pub mapped: RefCell<Vec<Option<Rc<[u8]>>>>,
    pub tries: Vec<Try>,
    pub upstream_head: Option<Rc<Response>>,
    /// The lines behind its body.
    pub upstream_trailers: Vec<u8>,
    /// The host and port that a `proxy_pass` with variables came to.
    pub made: Option<ResolvedProxyPass>,
    pub body: RequestBody,
    /// `100 Continue` was sent.
    pub continued: bool,
    pub limits: RequestLimits,
    pub answer: Answer,
    request_id: RefCell<Option<String>>,
}

impl Exchange {
    pub fn new(config: Arc<Config>, client: Rc<Client>, server: Arc<Server>, request: Request, number: u32) -> Self {
        Self {
            users: RefCell::new(vec![Vec::new(); config.user_variables]),
            body: RequestBody::of(&request),
            config,
            client,
            connected: None,
            server,
            location: None,
            request,
            host: String::new(),
            path: Vec::new(),
            written: Vec::new(),
            args: None,
            rewritten: false,
            args_changed: false,
            broke: false,
            internal: false,
            adds_path: false,
            in_error_page: false,
            status: None,
            extra: Vec::new(),
            given_type: None,
            drops_body: false,
            closes: false,
            asked_for: None,
            timed_out: false,
            malformed: false,
            pipelined: false,
            number,
            began: executor::now(),
            captures: RefCell::default(),
            mapped: RefCell::default(),
            tries: Vec::new(),
            upstream_head: None,
            upstream_trailers: Vec::new(),
            made: None,
            continued: false,
            limits: RequestLimits::default(),
            answer: Answer::default(),
            request_id: RefCell::default(),
        }
    }

    /// The settings in force: those of the location, once it is known.
    pub fn settings(&self) -> &Settings {
        self.location.as_ref().map_or(&self.server.settings, |location| &location.settings)
    }

    /// The `proxy_pass` of the location.
    pub fn pass(&self) -> Option<&ProxyPass> {
        self.location.as_ref().and_then(|location| location.pass.as_ref())
    }

    /// What is answered by ourselves, if it is neither a file nor an upstream's.
    pub fn content(&self) -> Option<Content> {
        self.location.as_ref().map_or(self.server.content, |location| location.content)
    }

    /// `$proxy_host` and `$proxy_port`.
    pub fn proxy_host(&self) -> Option<(&str, u16)> {
        let made = self.made.as_ref().map(|made| (made.host.as_str(), made.port));
        made.or_else(|| self.pass().map(|pass| (pass.host.as_str(), pass.port)))
    }

    /// How its upstream is connected to, if that is to be by TLS.
    pub fn upstream_tls(&self) -> Option<&Arc<tls::Client>> {
        let client = self.pass()?.tls.as_ref().filter(|_| tls::AVAILABLE)?;
        self.made.as_ref().is_none_or(|made| made.tls).then_some(client)
    }

    /// Goes on with another path and its arguments, as if it had been asked for.
    pub fn redirect(&mut self, target: &[u8]) {
        let (path, args) = match target.iter().position(|b| *b == b'?') {
            Some(at) => (target.get(..at), target.get(at + 1..)),
            None => (Some(target), None),
        };
        self.path = path.unwrap_or_default().to_vec();
        self.args = args.map(<[u8]>::to_vec);
        self.rewritten = true;
        self.broke = false;
        self.adds_path = false;
        self.internal = true;
    }

    /// A request to another path for the sake of this one: a GET with the same fields, which shares its variables. Its
    /// answer is for us alone.
    pub fn ask(&self, path: &[u8]) -> Self {
        let request = self.request.bodyless_get();
        let mut asked = Self::new(self.config.clone(), self.client.clone(), self.server.clone(), request, self.number);
        asked.asked_for = Some(self.request.method().into());
        asked.connected.clone_from(&self.connected);
        asked.limits = self.limits.for_another();
        asked.host.clone_from(&self.host);
        asked.written.clone_from(&self.written);
        asked.path = path.to_vec();
        asked.rewritten = true;
        asked.internal = true;
        asked.drops_body = true;
        asked.malformed = self.malformed;
        asked.connected.clone_from(&self.connected);
        asked.users.swap(&self.users);
        asked.mapped.swap(&self.mapped);
        asked.request_id = RefCell::new(Some(self.request_id()));
        asked
    }

    /// `$request_method`: that of the client's request.
    pub fn method(&self) -> &[u8] {
        self.asked_for.as_deref().unwrap_or(self.request.method())
    }

    /// The answer has a `Location` of its own, and none of a page that it stands for.
    pub fn forget_location(&mut self) {
        self.extra.retain(|(name, _)| !name.eq_ignore_ascii_case(b"location"));
    }

    /// Whether an upstream gets the request's body, and not another one.
    pub fn passes_body(&self) -> bool {
        let proxy = &self.settings().proxy;
        proxy.pass_body && proxy.set_body.is_none() && !self.drops_body
    }

    /// Whether an upstream can be sent the request: it gets no body of the client's, or one from its first byte.
    pub fn can_be_sent(&self) -> bool {
        !self.passes_body() || self.body.is_complete()
    }

    /// Notes what an expression captured.
    pub fn set_captures(&self, expression: &crate::config::Expression, captures: Captures) {
        let mut users = self.users.borrow_mut();
        for (group, number) in &expression.users {
            if let Some(slot) = users.get_mut(*number as usize) {
                *slot = captures.group(*group).to_vec();
            }
        }
        // Those of an expression without groups are none.
        self.captures.replace(captures);
    }

    /// Forgets what was captured: a step whose expression does not match leaves no `$1`.
    pub fn forget_captures(&self) {
        self.captures.take();
    }

    /// Whether the connection may serve another request after this one.
    pub fn may_keep_alive(&self) -> bool {
        let settings = self.settings();
        let age = executor::now().saturating_sub(self.client.since);
        !self.closes
            && !STOPPING.get()
            && !settings.keepalive_timeout.is_zero()
            && self.request.keeps_alive()
            && self.number < settings.keepalive_requests
            && age < executor::millis(settings.keepalive_time)
            && !self.is_from(settings.manners.keepalive_disable)
    }

    /// Whether the client is a browser that can't be trusted with keep-alive, MSIE after POST only (as in nginx).
    fn is_from(&self, disabled: KeepaliveDisable) -> bool {
        let agent = || self.request.fields.first_named(b"user_agent").unwrap_or_default();
        disabled.msie6 && self.request.method() == b"POST" && user_agent::is_msie6(agent())
            || disabled.safari && user_agent::is_safari(agent())
    }

    /// Whether the client takes a body in chunks (RFC 9112 7.1).
    pub fn takes_chunks(&self) -> bool {
        self.request.version == Version::Http11 && self.settings().chunked
    }

    /// Notes the type of the answer, by which `expires` and the like may choose, before there is a head.
    pub fn announce(&self, content_type: &[u8]) {
        if self.config.keeps_sent {
            self.answer.head.replace([b"Content-Type: ", content_type, b"\r\n"].concat());
        }
    }

    /// Notes the head that is about to be sent.
    pub fn begin_answer(&mut self, status: u16, head: &[u8]) {
        let kept = if self.config.keeps_sent { head.to_vec() } else { Vec::new() };
        self.answer = Answer { status, head_bytes: head.len() as u64, head: kept.into(), ..Answer::default() };
    }

    /// 16 random bytes in hexadecimal, the same all along.
    pub fn request_id(&self) -> String {
        self.request_id.borrow_mut().get_or_insert_with(|| format!("{:032x}", fastrand::u128(..))).clone()
    }

    /// Milliseconds since the first byte of the request was there.
    pub fn elapsed(&self) -> Millis {
        executor::now().saturating_sub(self.began)
    }
}
