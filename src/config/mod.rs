//! The configuration: its text becomes a tree of directives ([`parser`]), the tree one immutable, typed [`Config`].
//!
//! Loading is all-or-nothing. In a loaded configuration inheritance is resolved, and templates, maps and expressions are
//! compiled: no request parses text. A directive without effect leaves a [`Note`]; any other problem is an [`Error`].

pub mod parser;
pub(crate) mod command_line;
pub(crate) mod references;
pub(crate) mod values;
pub(crate) mod arguments;
pub(crate) mod directives;
pub(crate) mod unsupported;
pub(crate) mod suggestion;
pub(crate) mod builder;
pub(crate) mod core;
pub mod template;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use crate::config::builder::{ConfigSource, load};
pub use crate::config::command_line::{Route, generate};
pub use crate::config::directives::{KnownDirective, Support, directives};
pub use crate::config::parser::Error;
pub use crate::config::parser::Position;
pub use crate::config::references::{Reference, ReferenceTarget};
pub use crate::config::values::time as parse_time;
pub(crate) use crate::modules::access::conf::{Access, AuthBasic, AuthRequest, LimitExcept};
pub(crate) use crate::modules::charset::conf::Charset;
pub(crate) use crate::modules::error_page::conf::{Candidate, ErrorPage, Fallback, TryFiles};
pub use crate::modules::gzip::conf::Gzip;
pub(crate) use crate::modules::gzip::conf::{MediaTypes, Proxied, Window};
pub(crate) use crate::modules::limit::conf::{LimitSettings, ZoneDefinition, ZoneKind};
pub(crate) use crate::modules::map::conf::{Expression, Map};
pub(crate) use crate::modules::map::geo_conf::Geo;
pub(crate) use crate::modules::map::referer_conf::{HostName, Referers};
pub(crate) use crate::modules::map::split_clients_conf::Split;
pub(crate) use crate::modules::real_ip::conf::{RealIp, RealIpSource};
pub use crate::modules::rewrite::conf::RewriteStep;
pub(crate) use crate::modules::rewrite::conf::{Condition, FileTest, ReturnBody, Rewrite, RewriteFlag, SetTarget};
pub(crate) use crate::modules::static_files::autoindex_conf::{Autoindex, ListingFormat};
pub(crate) use crate::modules::static_files::conf::{Files, IfModifiedSince};
pub(crate) use crate::modules::static_files::precompressed_conf::Precompressed;
pub(crate) use crate::modules::static_files::symlinks_conf::Symlinks;
pub(crate) use crate::proxy::balance::conf::{Balance, CookieExpiry, Sticky, StickyCookie};
pub use crate::proxy::conf::Destination;
pub(crate) use crate::proxy::conf::{DynamicUrl, NextUpstream, Proxy, ProxyPass, Redirect, Url};
pub(crate) use crate::proxy::cookies_conf::{CookieFlags, CookieMatch, CookieRule, Cookies};
pub use crate::proxy::health_conf::HealthCheck;
pub(crate) use crate::proxy::health_conf::Probe;
pub(crate) use crate::proxy::health_match_conf::HealthMatch;
pub(crate) use crate::proxy::origin_conf::ClientChoice;
pub(crate) use crate::proxy::pass_conf::bind_addr;
pub(crate) use crate::proxy::upstream_conf::{PeerSpec, Upstream};
pub(crate) use crate::request::listen_conf::{Binding, VirtualHosts};
pub(crate) use crate::request::location_conf::{Location, Locations, Matcher};
pub use crate::request::log::conf::ErrorLog;
pub use crate::request::log::conf::target_number as log_target_number;
pub(crate) use crate::request::log::conf::{AccessLog, AccessLogTarget, Escape, Level, LogFormat, LogTarget};
pub(crate) use crate::request::log::conf::{SYSLOG_PREFIX, Syslog, SyslogServer};
pub(crate) use crate::request::response_headers::conf::{Expires, Lifetime};
pub(crate) use crate::server::client_conf::{ClientOptions, KeepaliveDisable, Lingering};
pub(crate) use crate::server::status::conf::Content;
pub use crate::server::status::conf::StatusForm;
pub(crate) use crate::tls::conf::ProxyTls;

use crate::config::template::Template;
use crate::dns::client::Resolver;
use crate::http1::head::{self, HeaderName};
use crate::tls::{ServerTls, TlsStore};

/// A complete, valid configuration.
#[derive(Debug)]
pub struct Config {
    pub main: Main,
    pub bindings: Vec<Binding>,
    pub upstreams: Vec<Arc<Upstream>>,
    /// Indices of `upstreams` by name, or host and port: what a `proxy_pass` with variables may evaluate to.
    pub upstream_names: HashMap<String, u32>,
    pub maps: Vec<Map>,
    pub geos: Vec<Geo>,
    pub splits: Vec<Split>,
    /// Zones of `limit_req` and `limit_conn`.
    pub zones: Vec<ZoneDefinition>,
    /// The number of variables that `set`, `auth_request_set` and named groups assign.
    pub user_variables: usize,
    /// Whether a variable reads headers of the response, whose head must then be kept.
    pub keeps_response_head: bool,
    /// Whether a variable reads the start of the request body.
    pub keeps_request_body: bool,
    /// Whether log lines need the whole request after the response, because a map or an `if=` depends on its outcome.
    pub needs_request_at_end: bool,
    /// Log files and syslog servers, each once, with their numbers.
    pub log_targets: Vec<(u32, String)>,
    pub notes: Vec<Note>,
    /// Files and hosts that `-t` looks for.
    pub references: Vec<Reference>,
    /// Certificates and their keys.
    pub tls: TlsStore,
    /// The text of each file, for messages and `-T`.
    pub files: Vec<Arc<parser::SourceFile>>,
}

/// Settings of the main context.
#[derive(Clone, Debug)]
pub struct Main {
    pub pid: Option<String>,
    pub user: Option<String>,
    pub group: Option<String>,
    /// Where `user` is set.
    pub user_position: Option<Position>,
    pub error_log: Arc<[ErrorLog]>,
    /// Concurrent connections per worker. None: as many as the file descriptors allow.
    pub worker_connections: Option<u32>,
    pub workers: u32,
    pub cpu_affinity: CpuAffinity,
    /// `worker_rlimit_nofile`. None: the hard limit.
    pub open_files_max: Option<u64>,
    /// How long a graceful stop waits for tunnels. None: until they end.
    pub worker_shutdown_timeout: Option<Duration>,
}

/// The processors that workers run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CpuAffinity {
    /// The kernel decides.
    Any,
    /// Each worker on a processor of its own, as far as there are enough.
    Auto,
    /// One list for each worker, in order; the last list applies to all further workers.
    Lists(Vec<Vec<usize>>),
}

/// A directive that was accepted, but has another effect than it says, or none. Notes are listed in the order of the fields.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    pub effect: NoteEffect,
    pub at: Position,
    pub directive: String,
    pub text: Cow<'static, str>,
}

/// What a note says of a directive, what matters most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoteEffect {
    /// It does something else than the operator may expect.
    Behaviour,
    /// It asks for a function that is missing.
    MissingFunction,
    /// It is ignored, since nothing has to be set.
    Nothing,
}

impl Config {
    /// Returns an error about `user`, at its place.
    pub fn user_error(&self, message: String) -> Error {
        match self.main.user_position {
            Some(at) => Error::new(&at, message).with_file_of(&self.files),
            None => Error::without_position(message),
        }
    }
}

impl Main {
    /// Limits the time of a graceful stop, whatever `worker_shutdown_timeout` says.
    pub fn limit_stop(&mut self, limit: Duration) {
        let limit = limit.saturating_sub(crate::tunnel::CLOSE_GRACE);
        self.worker_shutdown_timeout = Some(self.worker_shutdown_timeout.map_or(limit, |own| own.min(limit)));
    }
}

impl Note {
    pub(crate) fn new(at: &Position, directive: String, text: impl Into<Cow<'static, str>>) -> Self {
        Self { at: *at, directive, text: text.into(), effect: NoteEffect::Behaviour }
    }
}

/// A `server {}`.
#[derive(Debug)]
pub struct Server {
    /// The first name, for `$server_name`.
    pub name: String,
    /// All names, for `valid_referers`.
    pub names: Vec<HostName>,
    pub settings: Settings,
    pub steps: Vec<RewriteStep>,
    pub try_files: Option<TryFiles>,
    pub content: Option<Content>,
    pub locations: Locations,
    /// The TLS settings, if the server has any.
    pub tls: Option<Arc<ServerTls>>,
}

/// Settings of `http {}`, a server or a location; inner blocks inherit them.
#[derive(Clone, Debug)]
pub struct Settings {
    pub access_log: Arc<[AccessLog]>,
    pub error_log: Arc<[ErrorLog]>,
    /// The limit of a request body; 0: none.
    pub body_bytes_max: u64,
    /// Bytes of a chunked request body in memory (`client_body_buffer_size`).
    pub body_buffer_size: usize,
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    pub send_timeout: Duration,
    /// Zero disables keep-alive.
    pub keepalive_timeout: Duration,
    /// The `timeout` of the `Keep-Alive` header.
    pub keepalive_header_secs: Option<u64>,
    pub keepalive_requests: u32,
    /// The maximum age of a keep-alive connection.
    pub keepalive_time: Duration,
    pub head_limits: head::HeadLimits,
    pub server_tokens: bool,
    pub default_type: Template,
    pub add_headers: Arc<[AddHeader]>,
    /// Whether HTTP/1.1 clients may receive chunked bodies.
    pub chunked: bool,
    pub error_pages: Arc<[ErrorPage]>,
    pub recursive_error_pages: bool,
    pub absolute_redirect: bool,
    pub port_in_redirect: bool,
    pub server_name_in_redirect: bool,
    /// Resolves names in variables and in `server ... resolve`.
    pub resolver: Option<Arc<Resolver>>,
    /// How long a request waits for the resolver.
    pub resolver_timeout: Duration,
    pub files: Files,
    pub proxy: Proxy,
    pub client_options: ClientOptions,
    pub optional: Arc<OptionalSettings>,
}

/// Settings that few blocks change: the others share one copy with the block around them.
#[derive(Clone, Debug, Default)]
pub struct OptionalSettings {
    pub access: Option<Access>,
    pub charset: Option<Charset>,
    pub cookies: Option<Cookies>,
    pub expires: Option<Expires>,
    pub gzip: Option<Gzip>,
    pub limits: Option<LimitSettings>,
    pub proxy_tls: Option<ProxyTls>,
    pub real_ip: Option<RealIp>,
    pub referers: Option<Referers>,
    pub symlinks: Option<Symlinks>,
    /// `add_trailer`.
    pub trailers: Vec<AddHeader>,
}

/// An `add_header` or an `add_trailer`.
#[derive(Clone, Debug)]
pub struct AddHeader {
    pub kind: HeaderName,
    pub name: Box<[u8]>,
    pub value: Template,
    pub always: bool,
}

impl Default for Settings {
    /// nginx's defaults.
    fn default() -> Self {
        Self {
            access_log: Arc::from([]),
            error_log: Arc::from([]),
            body_bytes_max: 1 << 20,
            body_buffer_size: 16 << 10,
            header_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(60),
            keepalive_timeout: Duration::from_secs(75),
            keepalive_header_secs: None,
            keepalive_requests: 1000,
            keepalive_time: Duration::from_secs(3600),
            head_limits: head::HeadLimits { line_bytes_max: 8192, head_bytes_max: 4 * 8192 },
            server_tokens: true,
            default_type: Template::from_text(b"text/plain"),
            add_headers: Arc::from([]),
            chunked: true,
            error_pages: Arc::from([]),
            recursive_error_pages: false,
            absolute_redirect: true,
            port_in_redirect: true,
            server_name_in_redirect: false,
            resolver: None,
            resolver_timeout: Duration::from_secs(30),
            files: Files::default(),
            proxy: Proxy::default(),
            client_options: ClientOptions::default(),
            optional: Arc::default(),
        }
    }
}

/// The directory that relative names start at.
#[derive(Clone, Debug)]
pub struct Prefix {
    /// Of `-p`, or else the current directory.
    pub path: String,
}

impl Prefix {
    /// Returns `name` as a path, relative to the prefix unless absolute.
    pub fn resolve(&self, name: &str) -> String {
        Path::new(&self.path).join(name).display().to_string()
    }
}
