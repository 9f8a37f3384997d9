//! What the operator asked for: text to a tree of directives ([`parser`]), the tree to one immutable, typed [`Config`].
//!
//! All-or-nothing: after a load nothing reads text again, inheritance is resolved, templates, maps and expressions are
//! compiled. What can't be done is refused with its place; what may be ignored leaves a [`Note`].

pub mod parser;
pub(crate) mod values;
pub(crate) mod arguments;
pub(crate) mod directives;
pub(crate) mod unsupported;
pub(crate) mod suggestion;
pub(crate) mod builder;
pub(crate) mod core;
pub mod template;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use crate::config::builder::{ConfigSource, generate, load};
pub use crate::config::directives::{KnownDirective, Support, directives};
pub use crate::config::parser::Error;
pub(crate) use crate::config::parser::Position;
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
pub use crate::modules::rewrite::conf::Step;
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
pub use crate::request::log_conf::ErrorLog;
pub use crate::request::log_conf::file_number as log_number;
pub(crate) use crate::request::log_conf::{AccessLog, Escape, Level, LogFormat, LogTarget};
pub(crate) use crate::request::response_headers::conf::{Expires, Lifetime};
pub(crate) use crate::server::client_conf::{ClientOptions, KeepaliveDisable, Lingering};
pub(crate) use crate::server::status::conf::Content;
pub use crate::server::status::conf::StatusForm;
pub(crate) use crate::tls::conf::ProxyTls;

use crate::config::template::Template;
use crate::dns::client::Resolver;
use crate::http1::head::{self, HeaderName};
use crate::tls::{ServerTls, TlsStore};

/// A configuration, whole and checked.
#[derive(Debug)]
pub struct Config {
    pub main: Main,
    pub bindings: Vec<Binding>,
    pub upstreams: Vec<Arc<Upstream>>,
    /// Upstreams by the name, or host and port, that a `proxy_pass` with variables may come to.
    pub upstream_names: HashMap<String, u32>,
    pub maps: Vec<Map>,
    pub geos: Vec<Geo>,
    pub splits: Vec<Split>,
    /// Zones of `limit_req` and `limit_conn`.
    pub zones: Vec<ZoneDefinition>,
    /// How many variables named groups fill.
    pub user_variables: usize,
    /// Whether a variable asks for fields of the answer, which must then be kept.
    pub keeps_response_head: bool,
    /// Whether one asks for the start of the request body.
    pub keeps_request_body: bool,
    /// Whether lines of a log need all of a request at its end, because a choice is made by how the answer went.
    pub needs_request_at_end: bool,
    /// Files that logs are written to, each once, with their numbers.
    pub log_files: Vec<(u32, String)>,
    pub notes: Vec<Note>,
    /// Certificates and their keys.
    pub tls: TlsStore,
    /// The texts it was made of.
    pub files: Vec<Arc<parser::File>>,
}

/// Settings of the whole program.
#[derive(Clone, Debug)]
pub struct Main {
    pub pid: Option<String>,
    pub user: Option<String>,
    pub group: Option<String>,
    pub error_log: Arc<[ErrorLog]>,
    /// Connections that a worker serves at the same time; as many as descriptors allow if not set.
    pub worker_connections: Option<u32>,
    pub workers: u32,
    pub cpu_affinity: CpuAffinity,
    /// The limit of open files, if not as many as allowed.
    pub open_files_max: Option<u64>,
    /// How long a graceful stop waits for tunnels; as long as they last if not set.
    pub worker_shutdown_timeout: Option<Duration>,
}

/// On which processors workers run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CpuAffinity {
    /// Wherever the kernel puts them.
    Any,
    /// Each on one of its own, as far as there are enough.
    Auto,
    /// The first worker on the processors of the first list, and so on; the last list counts for all that are left.
    Lists(Vec<Vec<usize>>),
}

/// A directive that was accepted and does less than its name says.
#[derive(Clone, Debug)]
pub struct Note {
    pub at: Position,
    pub directive: String,
    pub text: &'static str,
}

/// A `server {}`.
#[derive(Debug)]
pub struct Server {
    /// The first name, for `$server_name`.
    pub name: String,
    /// All of them, for `valid_referers`.
    pub names: Vec<HostName>,
    pub settings: Settings,
    pub steps: Vec<Step>,
    pub try_files: Option<TryFiles>,
    pub content: Option<Content>,
    pub locations: Locations,
    /// How handshakes are made for it, if it says anything of that.
    pub tls: Option<Arc<ServerTls>>,
}

/// What a location, a server or `http {}` sets and the blocks in it inherit.
#[derive(Clone, Debug)]
pub struct Settings {
    pub access_log: Arc<[AccessLog]>,
    pub error_log: Arc<[ErrorLog]>,
    /// Bytes of a request body; 0 for no limit.
    pub body_bytes_max: u64,
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    pub send_timeout: Duration,
    /// Zero: no keep-alive.
    pub keepalive_timeout: Duration,
    /// Seconds that the `Keep-Alive` field tells the client.
    pub keepalive_header_secs: Option<u64>,
    pub keepalive_requests: u32,
    /// The longest life of a keep-alive connection.
    pub keepalive_time: Duration,
    pub head_limits: head::Limits,
    pub server_tokens: bool,
    pub default_type: Template,
    pub add_headers: Arc<[AddHeader]>,
    /// HTTP/1.1 clients may get chunks.
    pub chunked: bool,
    pub error_pages: Arc<[ErrorPage]>,
    pub recursive_error_pages: bool,
    pub absolute_redirect: bool,
    pub port_in_redirect: bool,
    pub server_name_in_redirect: bool,
    /// Who is asked for names that a variable makes, and for those of `server ... resolve`.
    pub resolver: Option<Arc<Resolver>>,
    /// How long a request waits for an answer.
    pub resolver_timeout: Duration,
    pub files: Files,
    pub proxy: Proxy,
    pub client_options: ClientOptions,
    pub optional: Arc<OptionalSettings>,
}

/// What few blocks set: the others share it with the block around them.
#[derive(Clone, Debug, Default)]
pub struct OptionalSettings {
    /// Nothing is asked if there is none.
    pub access: Option<Access>,
    pub charset: Option<Charset>,
    pub cookies: Option<Cookies>,
    pub expires: Option<Expires>,
    /// Where something of it is set.
    pub gzip: Option<Gzip>,
    pub limits: Option<LimitSettings>,
    pub proxy_tls: Option<ProxyTls>,
    pub real_ip: Option<RealIp>,
    pub referers: Option<Referers>,
    pub symlinks: Option<Symlinks>,
    /// Fields behind the body.
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
            header_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(60),
            keepalive_timeout: Duration::from_secs(75),
            keepalive_header_secs: None,
            keepalive_requests: 1000,
            keepalive_time: Duration::from_secs(3600),
            head_limits: head::Limits { line_bytes_max: 8192, head_bytes_max: 4 * 8192 },
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

/// Where relative names of a configuration lead to.
#[derive(Clone, Debug)]
pub struct Prefix {
    /// `-p`: logs and the pid file.
    pub path: String,
}

impl Prefix {
    /// `name`, relative to the prefix.
    pub fn resolve(&self, name: &str) -> String {
        Path::new(&self.path).join(name).display().to_string()
    }
}
