//! The table of directives: name, contexts, number of arguments, and what the builder does with each.
//!
//! This file lists the directives that work, `unsupported.rs` those that are ignored or refused. Any other name is unknown.

use std::time::Duration;

use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Result};
use crate::config::template::Template;
use crate::config::{HealthCheck, core, suggestion, unsupported};
use crate::dns::conf as dns;
use crate::modules::access::conf as access;
use crate::modules::charset::conf as charset;
use crate::modules::error_page::conf as error_page;
use crate::modules::gzip::conf as gzip;
use crate::modules::limit::conf as limit;
use crate::modules::map::{geo_conf, referer_conf, split_clients_conf};
use crate::modules::real_ip::conf as real_ip;
use crate::modules::rewrite::conf as rewrite;
use crate::modules::static_files::{autoindex_conf, conf as static_files, precompressed_conf, symlinks_conf};
use crate::proxy::balance::conf as balance;
use crate::proxy::{conf as proxy, cookies_conf, health_conf, health_match_conf, pass_conf, upstream_conf};
use crate::request::log::conf as log_conf;
use crate::request::response_headers::conf as response_headers;
use crate::request::{listen_conf, location_conf};
use crate::server::client_conf;
use crate::server::status::conf as status;
use crate::tls::conf as tls;

/// Where a directive may stand.
pub(crate) const MAIN: u16 = 1;
pub(crate) const EVENTS: u16 = 2;
pub(crate) const HTTP: u16 = 4;
pub(crate) const SERVER: u16 = 8;
pub(crate) const LOCATION: u16 = 16;
pub(crate) const UPSTREAM: u16 = 32;
pub(crate) const SERVER_IF: u16 = 64;
pub(crate) const LOCATION_IF: u16 = 128;
pub(crate) const LIMIT_EXCEPT: u16 = 256;
pub(super) const HSL: u16 = HTTP | SERVER | LOCATION;
pub(super) const HS: u16 = HTTP | SERVER;
pub(super) const SL: u16 = SERVER | LOCATION;
/// Contexts of steps (the rewrite module).
const STEPS: u16 = SL | SERVER_IF | LOCATION_IF;
/// Contexts of access control.
const HSLX: u16 = HSL | LIMIT_EXCEPT;
pub(super) const HSLI: u16 = HSL | LOCATION_IF;

/// The contexts by name.
pub(super) const CONTEXTS: [(u16, &str); 9] = [
    (MAIN, "main"),
    (EVENTS, "events"),
    (HTTP, "http"),
    (SERVER, "server"),
    (LOCATION, "location"),
    (UPSTREAM, "upstream"),
    (SERVER_IF, "if in server"),
    (LOCATION_IF, "if in location"),
    (LIMIT_EXCEPT, "limit_except"),
];

pub(crate) type Setter = fn(&mut Builder, &mut BlockBuilder, &Directive) -> Result;

/// Returns the setting that a directive of one plain value writes to.
pub(crate) type Slot<T> = for<'a> fn(&'a mut Builder, &'a mut BlockBuilder) -> &'a mut T;

/// Why a directive is ignored or refused.
pub(crate) type Reason = &'static str;

/// What the builder does with a directive.
#[derive(Clone, Copy)]
pub(crate) enum Action {
    /// Once in a block, and read before all others, which depend on it.
    Early(Setter),
    /// Once in a block.
    Once(Setter),
    /// Once in a block: `on` or `off`.
    Switch(Slot<bool>),
    Time(Slot<Duration>),
    /// A time above 0.
    Timeout(Slot<Duration>),
    Number(Slot<u32>),
    /// A text with variables.
    Template(Slot<Template>),
    /// Any number of times in a block.
    Each(Setter),
    /// A step of the rewrite phase: steps run in the order of the file.
    Step(Setter),
    /// A step with a block: `if`.
    StepBlock(Setter),
    /// A setting whose value is a block with its own grammar: `types`.
    SettingBlock(Setter),
    /// A block of `http {}` that upstreams and servers refer to: `map`, `match`.
    Definition(Setter),
    /// `upstream {}`, which servers refer to.
    Upstream(Setter),
    /// A block that inherits the settings around it: `server`, `location`.
    Block(Setter),
    /// Accepted without effect: nothing has to be set here.
    Note(Reason),
    /// Accepted without effect: a function of nginx that is missing here. No note if it is `off`.
    Missing(Reason),
    Refuse(Reason),
    /// Refused, unless the argument is `off`.
    OnlyOff(Reason),
}

/// The rounds in which a block is read, whatever the order of its lines: each sees all that the ones before have set.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    Early,
    Settings,
    Steps,
    Definitions,
    Upstreams,
    Blocks,
}

impl Round {
    pub(crate) const ORDER: [Self; 6] =
        [Self::Early, Self::Settings, Self::Steps, Self::Definitions, Self::Upstreams, Self::Blocks];
}

impl Action {
    /// Whether a block may contain the directive several times.
    pub(crate) fn repeats(self) -> bool {
        !matches!(self, Early(_) | Once(_) | Switch(_) | Time(_) | Timeout(_) | Number(_) | Self::Template(_))
    }

    pub(crate) fn has_block(self) -> bool {
        matches!(self, SettingBlock(_) | Definition(_) | Self::Upstream(_) | Block(_) | StepBlock(_))
    }

    pub(crate) fn is_step(self) -> bool {
        self.round() == Round::Steps
    }

    pub(crate) fn round(self) -> Round {
        match self {
            Early(_) => Round::Early,
            Step(_) | StepBlock(_) => Round::Steps,
            Definition(_) => Round::Definitions,
            Self::Upstream(_) => Round::Upstreams,
            Block(_) => Round::Blocks,
            _ => Round::Settings,
        }
    }
}

/// A row of the table.
#[derive(Clone, Copy)]
pub(crate) struct DirectiveSpec {
    pub(crate) name: &'static str,
    pub(crate) contexts: u16,
    /// Minimum and maximum; `server` has two meanings, which the builder tells apart.
    pub(crate) args: (u8, u8),
    pub(crate) action: Action,
}

/// No upper limit of arguments.
pub(crate) const MANY: u8 = u8::MAX;

pub(super) const fn spec(name: &'static str, contexts: u16, min: u8, max: u8, action: Action) -> DirectiveSpec {
    DirectiveSpec { name, contexts, args: (min, max), action }
}

/// How far a directive is supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    Works,
    /// Accepted without effect, with a note.
    Note,
    /// Accepted as `off`, otherwise refused.
    OnlyOff,
    Refuse,
}

/// A directive that the configuration language knows, for documentation and tests.
#[derive(Clone, Debug)]
pub struct KnownDirective {
    pub name: &'static str,
    pub contexts: Vec<&'static str>,
    pub args_min: usize,
    /// None: no upper limit.
    pub args_max: Option<usize>,
    /// In a build with all features.
    pub support: Support,
}

/// Lists all directives but `include`, which the parser resolves.
pub fn directives() -> impl Iterator<Item = KnownDirective> {
    TABLE.iter().chain(unsupported::TABLE).map(|spec| KnownDirective {
        name: spec.name,
        contexts: CONTEXTS.iter().filter(|(bit, _)| spec.contexts & bit != 0).map(|(_, name)| *name).collect(),
        args_min: spec.args.0.into(),
        args_max: (spec.args.1 != MANY).then_some(spec.args.1.into()),
        support: match spec.action {
            Note(NO_TLS) | Refuse(NO_HEALTH_CHECKS) => Support::Works,
            Note(_) | Missing(_) => Support::Note,
            OnlyOff(_) => Support::OnlyOff,
            Refuse(_) => Support::Refuse,
            _ => Support::Works,
        },
    })
}

pub(crate) fn find(name: &str) -> Option<&'static DirectiveSpec> {
    let find_in = |table: &'static [DirectiveSpec]| {
        let at = table.binary_search_by(|spec| spec.name.cmp(name)).ok()?;
        table.get(at)
    };
    find_in(TABLE).or_else(|| find_in(unsupported::TABLE)).or_else(|| unsupported::find_family(name))
}

/// Returns the supported directive whose name is closest to `name`, if one is close.
pub(crate) fn suggest(name: &str) -> Option<&'static str> {
    let known = TABLE.iter().chain(unsupported::TABLE).filter(|spec| !matches!(spec.action, Refuse(_)));
    suggestion::closest(name, &mut known.map(|spec| spec.name).chain(["include", "default"]))
}

use Action::{
    Block, Definition, Each, Early, Missing, Note, Number, Once, OnlyOff, Refuse, SettingBlock, Step, StepBlock,
    Switch, Time, Timeout,
};

const NO_TLS: &str = "this build has no TLS";
const NO_HEALTH_CHECKS: &str =
    "this build has no health checks; \"max_fails=\" of a \"server\" takes failing peers out";

/// `action` in a build with TLS, otherwise a note.
const fn if_tls(action: Action) -> Action {
    if crate::tls::AVAILABLE { action } else { Note(NO_TLS) }
}

/// `action` in a build with health checks, otherwise a refusal.
const fn if_health(action: Action) -> Action {
    if HealthCheck::AVAILABLE { action } else { Refuse(NO_HEALTH_CHECKS) }
}

/// Directives that work, sorted by name.
static TABLE: &[DirectiveSpec] = &[
    spec("absolute_redirect", HSL, 1, 1, Switch(|_, block| &mut block.settings.absolute_redirect)),
    spec("access_log", HSLI | LIMIT_EXCEPT, 1, MANY, Each(log_conf::access_log)),
    spec("add_header", HSLI, 2, 3, Each(core::add_header)),
    spec("add_trailer", HSLI, 2, 3, Each(core::add_trailer)),
    spec("alias", LOCATION, 1, 1, Once(static_files::alias)),
    spec("allow", HSLX, 1, 1, Each(access::allow)),
    spec("auth_basic", HSLX, 1, 1, Once(access::auth_basic)),
    spec("auth_basic_user_file", HSLX, 1, 1, Once(access::auth_basic_user_file)),
    spec("auth_delay", HSL, 1, 1, Time(|_, block| &mut access::access_mut(block).auth_delay)),
    spec("auth_request", HSL, 1, 1, Once(access::auth_request)),
    spec("auth_request_set", HSL, 2, 2, Each(access::auth_request_set)),
    spec("autoindex", HSL, 1, 1, Switch(|_, block| &mut block.settings.files.autoindex.on)),
    spec("autoindex_exact_size", HSL, 1, 1, Switch(|_, block| &mut block.settings.files.autoindex.exact_size)),
    spec("autoindex_format", HSL, 1, 1, Once(autoindex_conf::format)),
    spec("autoindex_localtime", HSL, 1, 1, Switch(|_, block| &mut block.settings.files.autoindex.local_time)),
    spec("break", STEPS, 0, 0, Step(rewrite::break_step)),
    spec("brotli_static", HSL, 1, 1, Once(precompressed_conf::brotli_static)),
    spec("charset", HSLI, 1, 1, Once(charset::charset)),
    spec("charset_map", HTTP, 2, 2, Definition(charset::charset_map)),
    spec("charset_types", HSL, 1, MANY, Each(charset::charset_types)),
    spec("chunked_transfer_encoding", HSL, 1, 1, Switch(|_, block| &mut block.settings.chunked)),
    spec("client_body_buffer_size", HSL, 1, 1, Once(core::client_body_buffer_size)),
    spec("client_body_min_rate", HSL, 1, 1, Once(limit::client_body_min_rate)),
    spec("client_body_timeout", HSL, 1, 1, Timeout(|_, block| &mut block.settings.body_timeout)),
    spec("client_header_timeout", HS, 1, 1, Timeout(|_, block| &mut block.settings.header_timeout)),
    spec("client_max_body_size", HSL, 1, 1, Once(core::client_max_body_size)),
    spec("default_type", HSL, 1, 1, Once(core::default_type)),
    spec("deny", HSLX, 1, 1, Each(access::deny)),
    spec("disable_symlinks", HSL, 1, 2, Once(symlinks_conf::disable_symlinks)),
    spec("error_log", MAIN | HSL, 1, 2, Each(log_conf::error_log)),
    spec("error_page", HSLI, 2, MANY, Each(error_page::error_page)),
    spec("etag", HSL, 1, 1, Switch(|_, block| &mut block.settings.files.etag)),
    spec("events", MAIN, 0, 0, Definition(core::events)),
    spec("expires", HSLI, 1, 2, Once(response_headers::expires)),
    spec("geo", HTTP, 1, 2, Definition(geo_conf::geo)),
    spec("gzip", HSLI, 1, 1, Once(gzip::gzip)),
    spec("gzip_comp_level", HSL, 1, 1, Once(gzip::comp_level)),
    spec("gzip_disable", HSL, 1, MANY, Each(gzip::disable)),
    spec("gzip_hash", HSL, 1, 1, Once(gzip::hash)),
    spec("gzip_http_version", HSL, 1, 1, Once(gzip::http_version)),
    spec("gzip_min_length", HSL, 1, 1, Once(gzip::min_length)),
    spec("gzip_proxied", HSL, 1, MANY, Each(gzip::proxied)),
    spec("gzip_static", HSL, 1, 1, Once(precompressed_conf::gzip_static)),
    spec("gzip_types", HSL, 1, MANY, Each(gzip::types)),
    spec("gzip_vary", HSL, 1, 1, Switch(|_, block| &mut gzip::gzip_mut(block).vary)),
    spec("gzip_window", HSL, 1, 1, Once(gzip::window)),
    spec("hash", UPSTREAM, 1, 2, Each(balance::hash)),
    spec("health_check", LOCATION | UPSTREAM, 0, MANY, if_health(Once(health_conf::health_check))),
    spec("http", MAIN, 0, 0, Block(core::http)),
    spec("if", SL, 1, MANY, StepBlock(rewrite::if_step)),
    spec("if_modified_since", HSL, 1, 1, Once(static_files::if_modified_since)),
    spec(
        "ignore_invalid_headers",
        HS,
        1,
        1,
        Switch(|_, block| &mut block.settings.client_options.ignore_invalid_headers),
    ),
    spec("index", HSL, 1, MANY, Each(static_files::index)),
    spec("internal", LOCATION, 0, 0, Once(error_page::internal)),
    spec("ip_hash", UPSTREAM, 0, 0, Each(balance::ip_hash)),
    spec("keepalive", UPSTREAM, 1, 2, Number(|_, block| &mut block.upstream.upstream.keepalive)),
    spec("keepalive_disable", HSL, 1, MANY, Each(client_conf::keepalive_disable)),
    spec("keepalive_requests", HSL | UPSTREAM, 1, 1, Number(core::keepalive_requests)),
    spec("keepalive_time", HSL | UPSTREAM, 1, 1, Time(core::keepalive_time)),
    spec("keepalive_timeout", HSL | UPSTREAM, 1, 2, Once(core::keepalive_timeout)),
    spec("large_client_header_buffers", HS, 2, 2, Once(core::large_client_header_buffers)),
    spec("least_conn", UPSTREAM, 0, 0, Each(balance::least_conn)),
    spec("limit_conn", HSL, 2, 2, Each(limit::limit_conn)),
    spec("limit_conn_dry_run", HSL, 1, 1, Switch(|_, block| &mut limit::limits_mut(block).connection_dry_run)),
    spec("limit_conn_log_level", HSL, 1, 1, Once(limit::limit_conn_log_level)),
    spec("limit_conn_status", HSL, 1, 1, Once(limit::limit_conn_status)),
    spec("limit_conn_zone", HTTP, 2, 2, Each(limit::limit_conn_zone)),
    spec("limit_except", LOCATION, 1, MANY, Block(access::limit_except)),
    spec("limit_rate", HSLI, 1, 1, Once(limit::limit_rate)),
    spec("limit_rate_after", HSLI, 1, 1, Once(limit::limit_rate_after)),
    spec("limit_req", HSL, 1, 3, Each(limit::limit_req)),
    spec("limit_req_dry_run", HSL, 1, 1, Switch(|_, block| &mut limit::limits_mut(block).request_dry_run)),
    spec("limit_req_log_level", HSL, 1, 1, Once(limit::limit_req_log_level)),
    spec("limit_req_status", HSL, 1, 1, Once(limit::limit_req_status)),
    spec("limit_req_zone", HTTP, 3, 3, Each(limit::limit_req_zone)),
    spec("lingering_close", HSL, 1, 1, Once(client_conf::lingering_close)),
    spec("lingering_time", HSL, 1, 1, Time(|_, block| &mut block.settings.client_options.lingering.time)),
    spec("lingering_timeout", HSL, 1, 1, Time(|_, block| &mut block.settings.client_options.lingering.timeout)),
    spec("listen", SERVER, 1, MANY, Each(listen_conf::listen)),
    spec("location", SL, 1, 2, Block(location_conf::location)),
    spec("log_format", HTTP, 2, MANY, Each(log_conf::log_format)),
    spec("log_not_found", HSL, 1, 1, Switch(|_, block| &mut block.settings.files.log_not_found)),
    spec("map", HTTP, 2, 2, Definition(crate::modules::map::conf::map)),
    spec("match", HTTP, 1, 1, if_health(Definition(health_match_conf::match_block))),
    spec("max_ranges", HSL, 1, 1, Number(|_, block| &mut block.settings.files.max_ranges)),
    spec("merge_slashes", HS, 1, 1, Switch(|_, block| &mut block.settings.client_options.merge_slashes)),
    spec("pid", MAIN, 1, 1, Once(core::pid)),
    spec("port_in_redirect", HSL, 1, 1, Switch(|_, block| &mut block.settings.port_in_redirect)),
    spec("proxy_bind", HSL, 1, 2, Once(pass_conf::bind)),
    spec("proxy_buffer_size", HSL, 1, 1, Once(proxy::buffer_size)),
    spec("proxy_connect_timeout", HSL, 1, 1, Timeout(|_, block| &mut block.settings.proxy.connect_timeout)),
    spec("proxy_cookie_domain", HSL, 1, 2, Each(cookies_conf::domain)),
    spec("proxy_cookie_flags", HSL, 1, MANY, Each(cookies_conf::flags)),
    spec("proxy_cookie_path", HSL, 1, 2, Each(cookies_conf::path)),
    spec("proxy_hide_header", HSL, 1, 1, Each(proxy::hide_header)),
    spec("proxy_http_version", HSL, 1, 1, Once(proxy::http_version)),
    spec("proxy_ignore_client_abort", HSL, 1, 1, Switch(|_, block| &mut block.settings.proxy.ignore_client_abort)),
    spec("proxy_ignore_headers", HSL, 1, MANY, Each(pass_conf::ignore_headers)),
    spec("proxy_intercept_errors", HSL, 1, 1, Switch(|_, block| &mut block.settings.proxy.intercept_errors)),
    spec("proxy_limit_rate", HSL, 1, 1, Once(limit::proxy_limit_rate)),
    spec("proxy_method", HSL, 1, 1, Action::Template(|_, block| block.settings.proxy.method.get_or_insert_default())),
    spec("proxy_next_upstream", HSL, 1, MANY, Each(proxy::next_upstream)),
    spec("proxy_next_upstream_timeout", HSL, 1, 1, Time(|_, block| &mut block.settings.proxy.next_upstream_timeout)),
    spec("proxy_next_upstream_tries", HSL, 1, 1, Number(|_, block| &mut block.settings.proxy.next_upstream_tries)),
    spec("proxy_pass", LOCATION | LOCATION_IF | LIMIT_EXCEPT, 1, 1, Once(proxy::pass)),
    spec("proxy_pass_header", HSL, 1, 1, Each(proxy::pass_header)),
    spec("proxy_pass_request_body", HSL, 1, 1, Switch(|_, block| &mut block.settings.proxy.pass_request_body)),
    spec("proxy_pass_request_headers", HSL, 1, 1, Switch(|_, block| &mut block.settings.proxy.pass_request_headers)),
    spec(
        "proxy_read_timeout",
        HSL,
        1,
        1,
        Timeout(|_, block| block.settings.proxy.read_timeout.get_or_insert_default()),
    ),
    spec("proxy_redirect", HSL, 1, 2, Each(proxy::redirect)),
    spec("proxy_request_buffering", HSL, 1, 1, Switch(|_, block| &mut block.settings.proxy.request_buffering)),
    spec(
        "proxy_send_timeout",
        HSL,
        1,
        1,
        Timeout(|_, block| block.settings.proxy.send_timeout.get_or_insert_default()),
    ),
    spec(
        "proxy_set_body",
        HSL,
        1,
        1,
        Action::Template(|_, block| block.settings.proxy.set_body.get_or_insert_default()),
    ),
    spec("proxy_set_header", HSL, 2, 2, Each(proxy::set_header)),
    spec("proxy_socket_keepalive", HSL, 1, 1, Switch(|_, block| &mut block.settings.proxy.socket_keepalive)),
    spec("proxy_ssl_certificate", HSL, 1, 1, if_tls(Once(tls::proxy_certificate))),
    spec("proxy_ssl_certificate_key", HSL, 1, 1, if_tls(Once(tls::proxy_certificate_key))),
    spec("proxy_ssl_crl", HSL, 1, 1, if_tls(Once(tls::proxy_crl))),
    spec(
        "proxy_ssl_name",
        HSL,
        1,
        1,
        if_tls(Action::Template(|_, block| tls::proxy_tls_mut(block).name.get_or_insert_default())),
    ),
    spec("proxy_ssl_protocols", HSL, 1, MANY, if_tls(Each(tls::proxy_protocols))),
    spec(
        "proxy_ssl_server_name",
        HSL,
        1,
        1,
        if_tls(Switch(|_, block| &mut tls::proxy_tls_mut(block).settings.send_server_name)),
    ),
    spec(
        "proxy_ssl_session_reuse",
        HSL,
        1,
        1,
        if_tls(Switch(|_, block| &mut tls::proxy_tls_mut(block).settings.session_reuse)),
    ),
    spec("proxy_ssl_trusted_certificate", HSL, 1, 1, if_tls(Once(tls::proxy_trusted_certificate))),
    spec("proxy_ssl_verify", HSL, 1, 1, if_tls(Switch(|_, block| &mut tls::proxy_tls_mut(block).settings.verify))),
    spec("proxy_ssl_verify_depth", HSL, 1, 1, if_tls(Number(|_, block| &mut tls::proxy_tls_mut(block).settings.depth))),
    spec("queue", UPSTREAM, 1, 2, Once(balance::queue)),
    spec("random", UPSTREAM, 0, 2, Each(balance::random)),
    spec("real_ip_header", HSL, 1, 1, Once(real_ip::real_ip_header)),
    spec("real_ip_recursive", HSL, 1, 1, Switch(|_, block| &mut real_ip::real_ip_mut(block).recursive)),
    spec("recursive_error_pages", HSL, 1, 1, Switch(|_, block| &mut block.settings.recursive_error_pages)),
    spec(
        "reset_timedout_connection",
        HSL,
        1,
        1,
        Switch(|_, block| &mut block.settings.client_options.reset_timedout_connection),
    ),
    spec("resolver", HSL | UPSTREAM, 1, MANY, Early(dns::resolver)),
    spec("resolver_timeout", HSL | UPSTREAM, 1, 1, Once(dns::resolver_timeout)),
    spec("return", STEPS, 1, 2, Step(rewrite::return_step)),
    spec("rewrite", STEPS, 2, 3, Step(rewrite::rewrite)),
    spec("rewrite_log", HSLI, 1, 1, Switch(|_, block| &mut block.settings.client_options.rewrite_log)),
    spec("root", HSLI, 1, 1, Once(static_files::root)),
    spec("satisfy", HSL, 1, 1, Once(access::satisfy)),
    spec("send_timeout", HSL, 1, 1, Timeout(|_, block| &mut block.settings.send_timeout)),
    spec("server", HTTP | UPSTREAM, 0, MANY, Block(core::server)),
    spec("server_name", SERVER, 1, MANY, Each(listen_conf::server_name)),
    spec("server_name_in_redirect", HSL, 1, 1, Switch(|_, block| &mut block.settings.server_name_in_redirect)),
    spec("server_tokens", HSL, 1, 1, Once(core::server_tokens)),
    spec("set", STEPS, 2, 2, Step(rewrite::set)),
    spec("set_real_ip_from", HSL, 1, 1, Each(real_ip::set_real_ip_from)),
    spec("source_charset", HSLI, 1, 1, Once(charset::source_charset)),
    spec("split_clients", HTTP, 2, 2, Definition(split_clients_conf::split_clients)),
    spec("ssl", HS, 1, 1, Once(tls::on)),
    spec("ssl_certificate", HS, 1, 1, if_tls(Each(tls::certificate))),
    spec("ssl_certificate_key", HS, 1, 1, if_tls(Each(tls::certificate_key))),
    spec("ssl_client_certificate", HS, 1, 1, if_tls(Once(tls::client_certificate))),
    spec("ssl_crl", HS, 1, 1, if_tls(Once(tls::crl))),
    spec("ssl_protocols", HS, 1, MANY, if_tls(Each(tls::protocols))),
    spec("ssl_reject_handshake", HS, 1, 1, if_tls(Switch(|_, block| &mut block.tls.settings.reject_handshake))),
    spec("ssl_session_cache", HS, 1, 2, if_tls(Each(tls::session_cache))),
    spec("ssl_session_tickets", HS, 1, 1, if_tls(Switch(|_, block| &mut block.tls.settings.session_tickets))),
    spec("ssl_session_timeout", HS, 1, 1, if_tls(Time(|_, block| &mut block.tls.settings.session_timeout))),
    spec("ssl_trusted_certificate", HS, 1, 1, if_tls(Once(tls::trusted_certificate))),
    spec("ssl_verify_client", HS, 1, 1, if_tls(Once(tls::verify_client))),
    spec("ssl_verify_depth", HS, 1, 1, if_tls(Number(|_, block| &mut block.tls.settings.client_auth.depth))),
    spec("status", LOCATION, 0, 1, Once(status::status)),
    spec("sticky", UPSTREAM, 1, MANY, Once(balance::sticky)),
    spec("stub_status", SL, 0, 1, Each(status::stub_status)),
    spec("try_files", SL, 2, MANY, Once(error_page::try_files)),
    spec("types", HSL, 0, 0, SettingBlock(static_files::types)),
    spec(
        "underscores_in_headers",
        HS,
        1,
        1,
        Switch(|_, block| &mut block.settings.client_options.underscores_in_headers),
    ),
    spec("upstream", HTTP, 1, 1, Action::Upstream(upstream_conf::upstream)),
    spec("user", MAIN, 1, 2, Once(core::user)),
    spec("valid_referers", SL, 1, MANY, Each(referer_conf::valid_referers)),
    spec(
        "worker_connections",
        EVENTS,
        1,
        1,
        Number(|builder, _| builder.config.main.worker_connections.get_or_insert_default()),
    ),
    spec("worker_cpu_affinity", MAIN, 1, MANY, Once(core::worker_cpu_affinity)),
    spec("worker_processes", MAIN, 1, 1, Once(core::worker_processes)),
    spec("worker_rlimit_nofile", MAIN, 1, 1, Once(core::worker_rlimit_nofile)),
    spec(
        "worker_shutdown_timeout",
        MAIN,
        1,
        1,
        Time(|builder, _| builder.config.main.worker_shutdown_timeout.get_or_insert_default()),
    ),
    spec("zone", UPSTREAM, 1, 2, Once(upstream_conf::zone)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_for_the_search() {
        assert!(TABLE.is_sorted_by(|a, b| a.name < b.name));
    }

    #[test]
    fn slips_of_the_pen_find_the_name_that_was_meant() {
        for (slip, meant) in [
            ("proxy_set_headers", "proxy_set_header"),
            ("proxy_set_Header", "proxy_set_header"),
            ("loction", "location"),
            ("sevrer", "server"),
            ("proxypass", "proxy_pass"),
            ("lissten", "listen"),
        ] {
            assert_eq!(suggest(slip), Some(meant));
        }
        assert_eq!(suggest("quux_frobnicate"), None);
    }
}
