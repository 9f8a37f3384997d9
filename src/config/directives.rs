//! The directives: name, where it may stand, how many arguments it takes, and what becomes of it.
//!
//! One line each, sorted by name. What is not here is unknown.

use std::time::Duration;

use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Error};
use crate::config::template::Template;
use crate::config::{HealthCheck, core};
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
use crate::request::response_headers::conf as response_headers;
use crate::request::{listen_conf, location_conf, log_conf};
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
const HSL: u16 = HTTP | SERVER | LOCATION;
const HS: u16 = HTTP | SERVER;
const SL: u16 = SERVER | LOCATION;
/// Where steps may stand.
const STEPS: u16 = SL | SERVER_IF | LOCATION_IF;
/// Where something is said of who comes in.
const HSLX: u16 = HSL | LIMIT_EXCEPT;
const HSLI: u16 = HSL | LOCATION_IF;

pub(crate) type Setter = fn(&mut Builder, &mut BlockBuilder, &Directive) -> Result<(), Error>;

/// What a directive sets that needs nothing else.
pub(crate) type Slot<T> = for<'a> fn(&'a mut Builder, &'a mut BlockBuilder) -> &'a mut T;

/// Why a directive is ignored or refused.
pub(crate) type Reason = &'static str;

/// What becomes of a directive.
#[derive(Clone, Copy)]
pub(crate) enum Action {
    /// Sets something that others in the block need, wherever it stands; once in a block.
    First(Setter),
    /// Sets something; once in a block.
    Once(Setter),
    /// `on` or `off`, a time, a number or a value with variables, once in a block, and where that is kept.
    Switch(Slot<bool>),
    Time(Slot<Duration>),
    /// A time above 0: with 0 every wait would be over at once.
    Timeout(Slot<Duration>),
    Number(Slot<u32>),
    Value(Slot<Template>),
    /// Sets something each time.
    Each(Setter),
    /// One step of what is done with a request, in order.
    Step(Setter),
    /// Such a step with a block.
    StepBlock(Setter),
    /// Has a block with its own reading, and is inherited like a setting.
    List(Setter),
    /// Has a block that makes what upstreams and servers use: it is read before them.
    Define(Setter),
    /// Has a block that makes what servers use.
    Group(Setter),
    /// Has a block that inherits what this one sets.
    Block(Setter),
    /// Accepted and ignored: why that is harmless.
    Note(Reason),
    /// Refused: why.
    Refuse(Reason),
    /// `off` says what is done here anyway; anything else is refused.
    OnlyOff(Reason),
}

impl Action {
    /// Whether a block may have it several times.
    pub(crate) fn repeats(self) -> bool {
        !matches!(self, First(_) | Once(_) | Switch(_) | Time(_) | Timeout(_) | Number(_) | Value(_))
    }

    pub(crate) fn has_block(self) -> bool {
        matches!(self, List(_) | Define(_) | Group(_) | Block(_) | StepBlock(_))
    }

    /// Whether it is part of the steps of a request.
    pub(crate) fn is_step(self) -> bool {
        matches!(self, Step(_) | StepBlock(_))
    }

    /// In which round of its block it is read.
    pub(crate) fn round(self) -> u8 {
        match self {
            First(_) => 0,
            Step(_) | StepBlock(_) => STEP_ROUND,
            Define(_) => STEP_ROUND + 1,
            Group(_) => STEP_ROUND + 2,
            Block(_) => ROUNDS - 1,
            _ => 1,
        }
    }
}

/// The round of the steps, when all is known that the block sets.
pub(crate) const STEP_ROUND: u8 = 2;
pub(crate) const ROUNDS: u8 = STEP_ROUND + 4;

/// A line of the table.
#[derive(Clone, Copy)]
pub(crate) struct DirectiveSpec {
    pub(crate) name: &'static str,
    pub(crate) contexts: u16,
    /// Fewest and most arguments.
    pub(crate) args: (u8, u8),
    pub(crate) treat: Action,
}

/// As many arguments as one likes.
pub(crate) const MANY: u8 = 15;
/// No two words are as far from one another.
const FAR: usize = usize::MAX / 2;

const fn spec(name: &'static str, contexts: u16, min: u8, max: u8, treat: Action) -> DirectiveSpec {
    DirectiveSpec { name, contexts, args: (min, max), treat }
}

pub(crate) fn find(name: &str) -> Option<&'static DirectiveSpec> {
    let at = TABLE.binary_search_by(|spec| spec.name.cmp(name)).ok()?;
    TABLE.get(at)
}

/// The known name that `name` is most like, if one is near.
pub(crate) fn nearest(name: &str) -> Option<&'static str> {
    let known = TABLE.iter().filter(|spec| !matches!(spec.treat, Action::Refuse(_)));
    nearest_of(name, &mut known.map(|spec| spec.name).chain(["include", "default"]))
}

/// The one of `known` that is most like `name`, if one is near.
pub(crate) fn nearest_of<'k>(name: &str, known: &mut dyn Iterator<Item = &'k str>) -> Option<&'k str> {
    let lower = name.to_ascii_lowercase();
    let (mut nearest, mut most) = (None, (lower.len() / 3).clamp(1, 3) + 1);
    for known in known {
        let far = distance(&lower, known);
        if far < most {
            (nearest, most) = (Some(known), far);
        }
    }
    nearest
}

/// Insertions, deletions, replacements and swaps of neighbours that make one word the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len().abs_diff(b.len()) > 3 {
        return FAR;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let at = |row: &[usize], i: usize| row.get(i).copied().unwrap_or(FAR);
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (at(&last, j) + usize::from(x != y)).min(at(&last, j + 1) + 1).min(at(&row, j) + 1);
            if i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x) {
                best = best.min(at(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    at(&last, b.len())
}

use Action::{
    Block, Define, Each, First, Group, List, Note, Number, Once, OnlyOff, Refuse, Step, StepBlock, Switch, Time,
    Timeout, Value,
};

const ALWAYS_ON: &str = "it is always done";
const BODIES_STREAM: &str = "bodies stream, nothing is buffered on disk";
const NO_CACHE: &str = "there is no cache: every request goes to the upstream";
const NO_HASHES: &str = "tables size themselves";
const NO_FASTCGI: &str = "FastCGI, uWSGI, SCGI and gRPC are not spoken here; only HTTP/1.1 upstreams are";
const NO_BODY_REWRITE: &str = "bodies are not rewritten here";
const NO_ACCESS: &str = "access control is not done by this version, and ignoring it would let anybody in";
const NOT_ENCRYPTED: &str = "keys must not be encrypted: one that is gets refused";
const READ_ONCE: &str = "certificates are read once, and again when their files have changed";
const NO_OCSP: &str =
    "nobody is asked about certificates of clients; \"ssl_crl\" names lists of those that were revoked";
const OWN_CIPHERS: &str = "rustls has only ciphers and curves that are safe";
const OWN_LIMITS: &str = "nothing waits in such a buffer here";
const LATER: &str = "it is not done by this version";
const FOREGROUND: &str =
    "the program stays in the foreground: let systemd (Type=notify), procd or \"setsid -f smolgate\" start it";
const HTTP1: &str = "HTTP/1.1 is spoken; clients fall back to it by themselves";
const LUA: &str = "there is no script engine here";

/// Means something only where there is TLS.
const fn if_tls(treat: Action) -> Action {
    if crate::tls::AVAILABLE { treat } else { Note("this build has no TLS") }
}

/// Can be done only where there are health checks.
const fn if_health(treat: Action) -> Action {
    if HealthCheck::AVAILABLE {
        treat
    } else {
        Refuse("this build has no health checks; \"max_fails=\" of a \"server\" leaves peers alone that fail")
    }
}

/// Sorted by name.
pub(crate) static TABLE: &[DirectiveSpec] = &[
    spec("absolute_redirect", HSL, 1, 1, Switch(|_, draft| &mut draft.settings.absolute_redirect)),
    spec("accept_mutex", EVENTS, 1, 1, Note("workers accept beside one another")),
    spec("accept_mutex_delay", EVENTS, 1, 1, Note("workers accept beside one another")),
    spec("access_by_lua_block", HSL, 0, MANY, Refuse(LUA)),
    spec("access_by_lua_file", HSL, 0, MANY, Refuse(LUA)),
    spec("access_log", HSLI | LIMIT_EXCEPT, 1, MANY, Each(log_conf::access_log)),
    spec("add_after_body", HSL, 1, 1, Refuse(NO_BODY_REWRITE)),
    spec("add_before_body", HSL, 1, 1, Refuse(NO_BODY_REWRITE)),
    spec("add_header", HSLI, 2, 3, Each(core::add_header)),
    spec("add_trailer", HSLI, 2, 3, Each(core::add_trailer)),
    spec("addition_types", HSL, 1, MANY, Refuse(NO_BODY_REWRITE)),
    spec("aio", HSL, 1, 1, Note("files are not read by other threads")),
    spec("aio_write", HSL, 1, 1, Note("nothing is written to disk")),
    spec("alias", LOCATION, 1, 1, Once(static_files::alias)),
    spec("allow", HSLX, 1, 1, Each(access::allow)),
    spec("ancient_browser", HSL, 1, MANY, Refuse(LATER)),
    spec("auth_basic", HSLX, 1, 1, Once(access::basic)),
    spec("auth_basic_user_file", HSLX, 1, 1, Once(access::basic_user_file)),
    spec("auth_delay", HSL, 1, 1, Time(|_, draft| &mut access::own(draft).delay)),
    spec("auth_request", HSL, 1, 1, Once(access::request)),
    spec("auth_request_set", HSL, 2, 2, Each(access::request_set)),
    spec("autoindex", HSL, 1, 1, Switch(|_, draft| &mut draft.settings.files.autoindex.on)),
    spec("autoindex_exact_size", HSL, 1, 1, Switch(|_, draft| &mut draft.settings.files.autoindex.exact_size)),
    spec("autoindex_format", HSL, 1, 1, Once(autoindex_conf::format)),
    spec("autoindex_localtime", HSL, 1, 1, Once(autoindex_conf::localtime)),
    spec("break", STEPS, 0, 0, Step(rewrite::break_step)),
    spec("brotli", HSL, 1, 1, Note("gzip can be had")),
    spec("brotli_buffers", HSL, 2, 2, Note("gzip can be had")),
    spec("brotli_comp_level", HSL, 1, 1, Note("gzip can be had")),
    spec("brotli_min_length", HSL, 1, 1, Note("gzip can be had")),
    spec("brotli_static", HSL, 1, 1, Once(precompressed_conf::brotli_static)),
    spec("brotli_types", HSL, 1, MANY, Note("gzip can be had")),
    spec("brotli_window", HSL, 1, 1, Note("gzip can be had")),
    spec("charset", HSLI, 1, 1, Once(charset::charset)),
    spec("charset_map", HTTP, 2, 2, Define(charset::charset_map)),
    spec("charset_types", HSL, 1, MANY, Each(charset::charset_types)),
    spec("chunked_transfer_encoding", HSL, 1, 1, Switch(|_, draft| &mut draft.settings.chunked)),
    spec("client_body_buffer_size", HSL, 1, 1, Note(BODIES_STREAM)),
    spec("client_body_in_file_only", HSL, 1, 1, Note(BODIES_STREAM)),
    spec("client_body_in_single_buffer", HSL, 1, 1, Note(BODIES_STREAM)),
    spec("client_body_min_rate", HSL, 1, 1, Once(limit::client_body_min_rate)),
    spec("client_body_temp_path", HSL, 1, 4, Note(BODIES_STREAM)),
    spec("client_body_timeout", HSL, 1, 1, Timeout(|_, draft| &mut draft.settings.body_timeout)),
    spec("client_header_buffer_size", HS, 1, 1, Note(OWN_LIMITS)),
    spec("client_header_timeout", HS, 1, 1, Timeout(|_, draft| &mut draft.settings.header_timeout)),
    spec("client_max_body_size", HSL, 1, 1, Once(core::client_max_body_size)),
    spec("connection_pool_size", HS, 1, 1, Note(OWN_LIMITS)),
    spec("content_by_lua_block", LOCATION, 0, MANY, Refuse(LUA)),
    spec("content_by_lua_file", LOCATION, 0, MANY, Refuse(LUA)),
    spec("daemon", MAIN, 1, 1, OnlyOff(FOREGROUND)),
    spec("dav_access", HSL, 1, 3, Refuse("WebDAV is not spoken here")),
    spec("dav_methods", HSL, 1, MANY, OnlyOff("WebDAV is not spoken here")),
    spec("debug_connection", EVENTS, 1, 1, Note("there is no debug log per connection")),
    spec("debug_points", MAIN, 1, 1, Note("there are no debug points")),
    spec("default_type", HSL, 1, 1, Once(core::default_type)),
    spec("deny", HSLX, 1, 1, Each(access::deny)),
    spec("directio", HSL, 1, 1, Note("files are opened and sent plainly")),
    spec("directio_alignment", HSL, 1, 1, Note("files are opened and sent plainly")),
    spec("disable_symlinks", HSL, 1, 2, Once(symlinks_conf::disable_symlinks)),
    spec("empty_gif", LOCATION, 0, 0, Refuse(LATER)),
    spec("env", MAIN, 1, 1, Note("no other program is started")),
    spec("error_log", MAIN | HSL, 1, 2, Each(log_conf::error_log)),
    spec("error_page", HSLI, 2, MANY, Each(error_page::error_page)),
    spec("etag", HSL, 1, 1, Switch(|_, draft| &mut draft.settings.files.etag)),
    spec("events", MAIN, 0, 0, Define(core::events)),
    spec("expires", HSLI, 1, 2, Once(response_headers::expires)),
    spec("fastcgi_cache_path", HTTP, 1, MANY, Note(NO_CACHE)),
    spec("fastcgi_index", HSL, 1, 1, Refuse(NO_FASTCGI)),
    spec("fastcgi_param", HSL, 2, 3, Refuse(NO_FASTCGI)),
    spec("fastcgi_pass", LOCATION, 1, 1, Refuse(NO_FASTCGI)),
    spec("fastcgi_split_path_info", LOCATION, 1, 1, Refuse(NO_FASTCGI)),
    spec("fastcgi_temp_path", HSL, 1, 4, Note(BODIES_STREAM)),
    spec("geo", HTTP, 1, 2, Define(geo_conf::geo)),
    spec("google_perftools_profiles", MAIN, 1, 1, Note("there is no profiler")),
    spec("grpc_pass", LOCATION, 1, 1, Refuse(NO_FASTCGI)),
    spec("gunzip", HSL, 1, 1, OnlyOff(NO_BODY_REWRITE)),
    spec("gunzip_buffers", HSL, 2, 2, Note(OWN_LIMITS)),
    spec("gzip", HSLI, 1, 1, Once(gzip::gzip)),
    spec("gzip_buffers", HSL, 2, 2, Note(OWN_LIMITS)),
    spec("gzip_comp_level", HSL, 1, 1, Once(gzip::comp_level)),
    spec("gzip_disable", HSL, 1, MANY, Each(gzip::disable)),
    spec("gzip_hash", HSL, 1, 1, Once(gzip::hash)),
    spec("gzip_http_version", HSL, 1, 1, Once(gzip::http_version)),
    spec("gzip_min_length", HSL, 1, 1, Once(gzip::min_length)),
    spec("gzip_proxied", HSL, 1, MANY, Each(gzip::proxied)),
    spec("gzip_static", HSL, 1, 1, Once(precompressed_conf::gzip_static)),
    spec("gzip_types", HSL, 1, MANY, Each(gzip::types)),
    spec("gzip_vary", HSL, 1, 1, Switch(|_, draft| &mut gzip::of(draft).vary)),
    spec("gzip_window", HSL, 1, 1, Once(gzip::window)),
    spec("hash", UPSTREAM, 1, 2, Once(balance::hash)),
    spec("health_check", LOCATION | UPSTREAM, 0, MANY, if_health(Once(health_conf::health_check))),
    spec("http", MAIN, 0, 0, Block(core::http)),
    spec("http2", HS, 1, 1, Note(HTTP1)),
    spec("http2_body_preread_size", HS, 1, 1, Note(HTTP1)),
    spec("http2_chunk_size", HSL, 1, 1, Note(HTTP1)),
    spec("http2_idle_timeout", HS, 1, 1, Note(HTTP1)),
    spec("http2_max_concurrent_streams", HS, 1, 1, Note(HTTP1)),
    spec("http2_max_field_size", HS, 1, 1, Note(HTTP1)),
    spec("http2_max_header_size", HS, 1, 1, Note(HTTP1)),
    spec("http2_max_requests", HS, 1, 1, Note(HTTP1)),
    spec("http2_push", HSL, 1, 1, Note(HTTP1)),
    spec("http2_push_preload", HSL, 1, 1, Note(HTTP1)),
    spec("http2_recv_timeout", HS, 1, 1, Note(HTTP1)),
    spec("http3", HS, 1, 1, Note(HTTP1)),
    spec("if", SL, 1, MANY, StepBlock(rewrite::if_step)),
    spec("if_modified_since", HSL, 1, 1, Once(static_files::if_modified_since)),
    spec("ignore_invalid_headers", HS, 1, 1, Switch(|_, draft| &mut draft.settings.manners.ignores_invalid)),
    spec("image_filter", LOCATION, 1, 3, Refuse(NO_BODY_REWRITE)),
    spec("index", HSL, 1, MANY, Each(static_files::index)),
    spec("internal", LOCATION, 0, 0, Once(error_page::internal)),
    spec("ip_hash", UPSTREAM, 0, 0, Once(balance::ip_hash)),
    spec("js_content", LOCATION, 1, MANY, Refuse(LUA)),
    spec("js_import", HTTP, 1, MANY, Refuse(LUA)),
    spec("keepalive", UPSTREAM, 1, 2, Number(|_, draft| &mut draft.upstream.group.keepalive)),
    spec("keepalive_disable", HSL, 1, MANY, Once(client_conf::keepalive_disable)),
    spec("keepalive_min_timeout", HSL, 1, 1, Note("a connection that waits is closed when its time is over")),
    spec("keepalive_requests", HSL | UPSTREAM, 1, 1, Number(core::keepalive_requests)),
    spec("keepalive_time", HSL | UPSTREAM, 1, 1, Time(core::keepalive_time)),
    spec("keepalive_timeout", HSL | UPSTREAM, 1, 2, Once(core::keepalive_timeout)),
    spec("large_client_header_buffers", HS, 2, 2, Once(core::large_client_header_buffers)),
    spec("least_conn", UPSTREAM, 0, 0, Once(balance::least_conn)),
    spec("limit_conn", HSL, 2, 2, Each(limit::limit_conn)),
    spec("limit_conn_dry_run", HSL, 1, 1, Switch(|_, draft| &mut limit::of(draft).connection_dry_run)),
    spec("limit_conn_log_level", HSL, 1, 1, Once(limit::limit_conn_log_level)),
    spec("limit_conn_status", HSL, 1, 1, Once(limit::limit_conn_status)),
    spec("limit_conn_zone", HTTP, 2, 2, Each(limit::limit_conn_zone)),
    spec("limit_except", LOCATION, 1, MANY, Block(access::limit_except)),
    spec("limit_rate", HSLI, 1, 1, Once(limit::limit_rate)),
    spec("limit_rate_after", HSLI, 1, 1, Once(limit::limit_rate_after)),
    spec("limit_req", HSL, 1, 3, Each(limit::limit_req)),
    spec("limit_req_dry_run", HSL, 1, 1, Switch(|_, draft| &mut limit::of(draft).request_dry_run)),
    spec("limit_req_log_level", HSL, 1, 1, Once(limit::limit_req_log_level)),
    spec("limit_req_status", HSL, 1, 1, Once(limit::limit_req_status)),
    spec("limit_req_zone", HTTP, 3, 3, Each(limit::limit_req_zone)),
    spec("lingering_close", HSL, 1, 1, Once(client_conf::lingering_close)),
    spec("lingering_time", HSL, 1, 1, Time(|_, draft| &mut draft.settings.manners.lingering.time)),
    spec("lingering_timeout", HSL, 1, 1, Time(|_, draft| &mut draft.settings.manners.lingering.pause)),
    spec("listen", SERVER, 1, MANY, Each(listen_conf::listen)),
    spec("load_module", MAIN, 1, 1, Note("there are no modules; a directive that needs one is refused")),
    spec("location", SL, 1, 2, Block(location_conf::location)),
    spec("lock_file", MAIN, 1, 1, Note("there is no lock")),
    spec("log_format", HTTP, 2, MANY, Each(log_conf::log_format)),
    spec("log_not_found", HSL, 1, 1, Switch(|_, draft| &mut draft.settings.files.log_not_found)),
    spec("log_subrequest", HSL, 1, 1, OnlyOff("what auth_request asks is not logged")),
    spec("mail", MAIN, 0, 0, Refuse("only HTTP is proxied here")),
    spec("map", HTTP, 2, 2, Define(crate::modules::map::conf::map)),
    spec("map_hash_bucket_size", HTTP, 1, 1, Note(NO_HASHES)),
    spec("map_hash_max_size", HTTP, 1, 1, Note(NO_HASHES)),
    spec("master_process", MAIN, 1, 1, Note("there is one process")),
    spec("match", HTTP, 1, 1, if_health(Define(health_match_conf::match_block))),
    spec("max_headers", HS, 1, 1, Note("a head has at most 100 fields")),
    spec("max_ranges", HSL, 1, 1, Number(|_, draft| draft.settings.files.max_ranges.get_or_insert_default())),
    spec("merge_slashes", HS, 1, 1, Switch(|_, draft| &mut draft.settings.manners.merge_slashes)),
    spec("mirror", HSL, 1, 1, OnlyOff(LATER)),
    spec(
        "more_clear_headers",
        HSL,
        1,
        MANY,
        Refuse("it belongs to a module that is not here; \"proxy_hide_header\" may do"),
    ),
    spec("more_set_headers", HSL, 1, MANY, Refuse("it belongs to a module that is not here; \"add_header\" may do")),
    spec("msie_padding", HSL, 1, 1, Note("pages are as long as they are")),
    spec("msie_refresh", HSL, 1, 1, OnlyOff(LATER)),
    spec("multi_accept", EVENTS, 1, 1, Note(ALWAYS_ON)),
    spec("open_file_cache", HSL, 1, 2, Note("files are opened and sent plainly")),
    spec("open_file_cache_errors", HSL, 1, 1, Note("files are opened and sent plainly")),
    spec("open_file_cache_min_uses", HSL, 1, 1, Note("files are opened and sent plainly")),
    spec("open_file_cache_valid", HSL, 1, 1, Note("files are opened and sent plainly")),
    spec("open_log_file_cache", HSL, 1, 4, Note("logs stay open")),
    spec("output_buffers", HSL, 2, 2, Note(OWN_LIMITS)),
    spec("override_charset", HSLI, 1, 1, Note(charset::NOT_RECODED)),
    spec("pcre_jit", MAIN, 1, 1, Note("expressions take linear time")),
    spec("perl", LOCATION, 1, 1, Refuse(LUA)),
    spec("pid", MAIN, 1, 1, Once(core::pid)),
    spec("port_in_redirect", HSL, 1, 1, Switch(|_, draft| &mut draft.settings.port_in_redirect)),
    spec("postpone_output", HSL, 1, 1, Note("nothing is held back")),
    spec("proxy_bind", HSL, 1, 2, Once(pass_conf::bind)),
    spec("proxy_buffer_size", HSL, 1, 1, Note("an upstream's head may have 32 KiB")),
    spec("proxy_buffering", HSL, 1, 1, Note("answers always stream, as with \"off\"")),
    spec("proxy_buffers", HSL, 2, 2, Note(BODIES_STREAM)),
    spec("proxy_busy_buffers_size", HSL, 1, 1, Note(BODIES_STREAM)),
    spec("proxy_cache", HSL, 1, 1, Note(NO_CACHE)),
    spec("proxy_cache_background_update", HSL, 1, 1, Note(NO_CACHE)),
    spec("proxy_cache_bypass", HSL, 1, MANY, Note(NO_CACHE)),
    spec("proxy_cache_convert_head", HSL, 1, 1, Note(NO_CACHE)),
    spec("proxy_cache_key", HSL, 1, 1, Note(NO_CACHE)),
    spec("proxy_cache_lock", HSL, 1, 1, Note(NO_CACHE)),
    spec("proxy_cache_lock_age", HSL, 1, 1, Note(NO_CACHE)),
    spec("proxy_cache_lock_timeout", HSL, 1, 1, Note(NO_CACHE)),
    spec("proxy_cache_max_range_offset", HSL, 1, 1, Note(NO_CACHE)),
    spec("proxy_cache_methods", HSL, 1, MANY, Note(NO_CACHE)),
    spec("proxy_cache_min_uses", HSL, 1, 1, Note(NO_CACHE)),
    spec("proxy_cache_path", HTTP, 2, MANY, Note(NO_CACHE)),
    spec("proxy_cache_revalidate", HSL, 1, 1, Note(NO_CACHE)),
    spec("proxy_cache_use_stale", HSL, 1, MANY, Note(NO_CACHE)),
    spec("proxy_cache_valid", HSL, 1, MANY, Note(NO_CACHE)),
    spec("proxy_connect_timeout", HSL, 1, 1, Timeout(|_, draft| &mut draft.settings.proxy.connect_timeout)),
    spec("proxy_cookie_domain", HSL, 1, 2, Each(cookies_conf::domain)),
    spec("proxy_cookie_flags", HSL, 1, MANY, Each(cookies_conf::flags)),
    spec("proxy_cookie_path", HSL, 1, 2, Each(cookies_conf::path)),
    spec("proxy_force_ranges", HSL, 1, 1, OnlyOff(NO_CACHE)),
    spec("proxy_headers_hash_bucket_size", HSL, 1, 1, Note(NO_HASHES)),
    spec("proxy_headers_hash_max_size", HSL, 1, 1, Note(NO_HASHES)),
    spec("proxy_hide_header", HSL, 1, 1, Each(proxy::hide_header)),
    spec("proxy_http_version", HSL, 1, 1, Once(proxy::http_version)),
    spec("proxy_ignore_client_abort", HSL, 1, 1, Switch(|_, draft| &mut draft.settings.proxy.ignores_abort)),
    spec("proxy_ignore_headers", HSL, 1, MANY, Once(pass_conf::ignore_headers)),
    spec("proxy_intercept_errors", HSL, 1, 1, Switch(|_, draft| &mut draft.settings.proxy.intercepts)),
    spec("proxy_limit_rate", HSL, 1, 1, Once(limit::proxy_limit_rate)),
    spec("proxy_max_temp_file_size", HSL, 1, 1, Note(BODIES_STREAM)),
    spec("proxy_method", HSL, 1, 1, Value(|_, draft| draft.settings.proxy.method.get_or_insert_default())),
    spec("proxy_next_upstream", HSL, 1, MANY, Once(proxy::next_upstream)),
    spec("proxy_next_upstream_timeout", HSL, 1, 1, Time(|_, draft| &mut draft.settings.proxy.next_timeout)),
    spec("proxy_next_upstream_tries", HSL, 1, 1, Number(|_, draft| &mut draft.settings.proxy.next_tries)),
    spec("proxy_no_cache", HSL, 1, MANY, Note(NO_CACHE)),
    spec("proxy_pass", LOCATION | LOCATION_IF | LIMIT_EXCEPT, 1, 1, Once(proxy::pass)),
    spec("proxy_pass_header", HSL, 1, 1, Each(proxy::pass_header)),
    spec("proxy_pass_request_body", HSL, 1, 1, Switch(|_, draft| &mut draft.settings.proxy.pass_body)),
    spec("proxy_pass_request_headers", HSL, 1, 1, Switch(|_, draft| &mut draft.settings.proxy.pass_fields)),
    spec(
        "proxy_read_timeout",
        HSL,
        1,
        1,
        Timeout(|_, draft| draft.settings.proxy.read_timeout.get_or_insert_default()),
    ),
    spec("proxy_redirect", HSL, 1, 2, Each(proxy::redirect)),
    spec("proxy_request_buffering", HSL, 1, 1, Note("request bodies always stream, as with \"off\"")),
    spec("proxy_send_lowat", HSL, 1, 1, Note("nothing is held back")),
    spec(
        "proxy_send_timeout",
        HSL,
        1,
        1,
        Timeout(|_, draft| draft.settings.proxy.send_timeout.get_or_insert_default()),
    ),
    spec("proxy_set_body", HSL, 1, 1, Value(|_, draft| draft.settings.proxy.set_body.get_or_insert_default())),
    spec("proxy_set_header", HSL, 2, 2, Each(proxy::set_header)),
    spec("proxy_socket_keepalive", HSL, 1, 1, Switch(|_, draft| &mut draft.settings.proxy.socket_keepalive)),
    spec("proxy_ssl_certificate", HSL, 1, 1, if_tls(Once(tls::proxy_certificate))),
    spec("proxy_ssl_certificate_cache", HSL, 1, 3, Note(READ_ONCE)),
    spec("proxy_ssl_certificate_key", HSL, 1, 1, if_tls(Once(tls::proxy_certificate_key))),
    spec("proxy_ssl_ciphers", HSL, 1, 1, Note(OWN_CIPHERS)),
    spec("proxy_ssl_conf_command", HSL, 2, 2, Note(OWN_CIPHERS)),
    spec("proxy_ssl_crl", HSL, 1, 1, if_tls(Once(tls::proxy_crl))),
    spec("proxy_ssl_name", HSL, 1, 1, if_tls(Value(|_, draft| tls::proxy(draft).name.get_or_insert_default()))),
    spec("proxy_ssl_password_file", HSL, 1, 1, Note(NOT_ENCRYPTED)),
    spec("proxy_ssl_protocols", HSL, 1, MANY, if_tls(Once(tls::proxy_protocols))),
    spec("proxy_ssl_server_name", HSL, 1, 1, if_tls(Switch(|_, draft| &mut tls::proxy(draft).spec.sends_name))),
    spec("proxy_ssl_session_reuse", HSL, 1, 1, if_tls(Switch(|_, draft| &mut tls::proxy(draft).spec.resumes))),
    spec("proxy_ssl_trusted_certificate", HSL, 1, 1, if_tls(Once(tls::proxy_trusted_certificate))),
    spec("proxy_ssl_verify", HSL, 1, 1, if_tls(Switch(|_, draft| &mut tls::proxy(draft).spec.verify))),
    spec("proxy_ssl_verify_depth", HSL, 1, 1, if_tls(Number(|_, draft| &mut tls::proxy(draft).spec.depth))),
    spec("proxy_store", HSL, 1, 1, OnlyOff("nothing is written to disk")),
    spec("proxy_store_access", HSL, 1, 3, Note("nothing is written to disk")),
    spec("proxy_temp_file_write_size", HSL, 1, 1, Note(BODIES_STREAM)),
    spec("proxy_temp_path", HSL, 1, 4, Note(BODIES_STREAM)),
    spec("queue", UPSTREAM, 1, 2, Once(balance::queue)),
    spec("quic_gso", HS, 1, 1, Note(HTTP1)),
    spec("quic_retry", HS, 1, 1, Note(HTTP1)),
    spec("random", UPSTREAM, 0, 2, Once(balance::random)),
    spec("read_ahead", HSL, 1, 1, Note("the system reads ahead")),
    spec("real_ip_header", HSL, 1, 1, Once(real_ip::real_ip_header)),
    spec("real_ip_recursive", HSL, 1, 1, Switch(|_, draft| &mut real_ip::of(draft).recursive)),
    spec("recursive_error_pages", HSL, 1, 1, Switch(|_, draft| &mut draft.settings.recursive_error_pages)),
    spec("request_pool_size", HS, 1, 1, Note(OWN_LIMITS)),
    spec("reset_timedout_connection", HSL, 1, 1, Switch(|_, draft| &mut draft.settings.manners.reset_timed_out)),
    spec("resolver", HSL | UPSTREAM, 1, MANY, First(dns::resolver)),
    spec("resolver_timeout", HSL | UPSTREAM, 1, 1, Once(dns::resolver_timeout)),
    spec("return", STEPS, 1, 2, Step(rewrite::return_step)),
    spec("rewrite", STEPS, 2, 3, Step(rewrite::rewrite)),
    spec("rewrite_log", HSLI, 1, 1, Switch(|_, draft| &mut draft.settings.manners.rewrite_log)),
    spec("root", HSLI, 1, 1, Once(static_files::root)),
    spec("rtmp", MAIN, 0, 0, Refuse("only HTTP is proxied here")),
    spec("satisfy", HSL, 1, 1, Once(access::satisfy)),
    spec("scgi_cache_path", HTTP, 1, MANY, Note(NO_CACHE)),
    spec("scgi_pass", LOCATION, 1, 1, Refuse(NO_FASTCGI)),
    spec("scgi_temp_path", HSL, 1, 4, Note(BODIES_STREAM)),
    spec("secure_link", HSL, 1, 1, Refuse(NO_ACCESS)),
    spec("send_lowat", HSL, 1, 1, Note("nothing is held back")),
    spec("send_timeout", HSL, 1, 1, Timeout(|_, draft| &mut draft.settings.send_timeout)),
    spec("sendfile", HSLI, 1, 1, Note(ALWAYS_ON)),
    spec("sendfile_max_chunk", HSLI, 1, 1, Note("128 KiB of a file are sent at once")),
    spec("server", HTTP | UPSTREAM, 0, MANY, Block(core::server)),
    spec("server_name", SERVER, 1, MANY, Each(listen_conf::server_name)),
    spec("server_name_in_redirect", HSL, 1, 1, Switch(|_, draft| &mut draft.settings.server_name_in_redirect)),
    spec("server_names_hash_bucket_size", HTTP, 1, 1, Note(NO_HASHES)),
    spec("server_names_hash_max_size", HTTP, 1, 1, Note(NO_HASHES)),
    spec("server_tokens", HSL, 1, 1, Once(core::server_tokens)),
    spec("set", STEPS, 2, 2, Step(rewrite::set)),
    spec("set_real_ip_from", HSL, 1, 1, Each(real_ip::set_real_ip_from)),
    spec("slice", HSL, 1, 1, OnlyOff(LATER)),
    spec("source_charset", HSLI, 1, 1, Once(charset::source_charset)),
    spec("split_clients", HTTP, 2, 2, Define(split_clients_conf::split_clients)),
    spec("ssi", HSL, 1, 1, OnlyOff(NO_BODY_REWRITE)),
    spec("ssi_types", HSL, 1, MANY, Note("there are no server-side includes")),
    spec("ssl", HS, 1, 1, Once(tls::on)),
    spec("ssl_buffer_size", HS, 1, 1, Note("a record has what there is to send, 16 KiB at most")),
    spec("ssl_certificate", HS, 1, 1, if_tls(Each(tls::certificate))),
    spec("ssl_certificate_cache", HS, 1, 3, Note(READ_ONCE)),
    spec("ssl_certificate_key", HS, 1, 1, if_tls(Each(tls::certificate_key))),
    spec("ssl_ciphers", HS, 1, 1, Note(OWN_CIPHERS)),
    spec("ssl_client_certificate", HS, 1, 1, if_tls(Once(tls::client_certificate))),
    spec("ssl_conf_command", HS, 2, 2, Note(OWN_CIPHERS)),
    spec("ssl_crl", HS, 1, 1, if_tls(Once(tls::crl))),
    spec("ssl_dhparam", HS, 1, 1, Note(OWN_CIPHERS)),
    spec("ssl_early_data", HS, 1, 1, Note("early data, which others may repeat, is not taken")),
    spec("ssl_ecdh_curve", HS, 1, 1, Note(OWN_CIPHERS)),
    spec("ssl_engine", MAIN, 1, 1, Note("rustls and ring do the cryptography")),
    spec("ssl_ocsp", HS, 1, 1, Refuse(NO_OCSP)),
    spec("ssl_ocsp_cache", HS, 1, 1, Refuse(NO_OCSP)),
    spec("ssl_ocsp_responder", HS, 1, 1, Refuse(NO_OCSP)),
    spec("ssl_password_file", HS, 1, 1, Note(NOT_ENCRYPTED)),
    spec("ssl_prefer_server_ciphers", HS, 1, 1, Note(OWN_CIPHERS)),
    spec("ssl_protocols", HS, 1, MANY, if_tls(Once(tls::protocols))),
    spec("ssl_reject_handshake", HS, 1, 1, if_tls(Switch(|_, draft| &mut draft.tls.spec.rejects))),
    spec("ssl_session_cache", HS, 1, 2, if_tls(Once(tls::session_cache))),
    spec("ssl_session_ticket_key", HS, 1, 1, Note("the keys of tickets are made at start and change every six hours")),
    spec("ssl_session_tickets", HS, 1, 1, if_tls(Switch(|_, draft| &mut draft.tls.spec.tickets))),
    spec("ssl_session_timeout", HS, 1, 1, if_tls(Time(|_, draft| &mut draft.tls.spec.session_timeout))),
    spec("ssl_stapling", HS, 1, 1, Note("revocation is not stapled")),
    spec("ssl_stapling_file", HS, 1, 1, Note("revocation is not stapled")),
    spec("ssl_stapling_verify", HS, 1, 1, Note("revocation is not stapled")),
    spec("ssl_trusted_certificate", HS, 1, 1, if_tls(Once(tls::trusted_certificate))),
    spec("ssl_verify_client", HS, 1, 1, if_tls(Once(tls::verify_client))),
    spec("ssl_verify_depth", HS, 1, 1, if_tls(Number(|_, draft| &mut draft.tls.spec.clients.depth))),
    spec("status", LOCATION, 0, 1, Once(status::status)),
    spec("sticky", UPSTREAM, 1, MANY, Once(balance::sticky)),
    spec("stream", MAIN, 0, 0, Refuse("only HTTP is proxied here")),
    spec("stub_status", SL, 0, 1, Once(status::stub_status)),
    spec("sub_filter", HSL, 2, 2, Refuse(NO_BODY_REWRITE)),
    spec("sub_filter_once", HSL, 1, 1, Refuse(NO_BODY_REWRITE)),
    spec("sub_filter_types", HSL, 1, MANY, Refuse(NO_BODY_REWRITE)),
    spec("subrequest_output_buffer_size", HSL, 1, 1, Note(OWN_LIMITS)),
    spec("tcp_nodelay", HSL, 1, 1, Note(ALWAYS_ON)),
    spec("tcp_nopush", HSL, 1, 1, Note("a small file and its head are sent at once")),
    spec("thread_pool", MAIN, 1, 3, Note("files are not read by other threads")),
    spec("timer_resolution", MAIN, 1, 1, Note("the clock is read once a turn")),
    spec("try_files", SL, 2, MANY, Once(error_page::try_files)),
    spec("types", HSL, 0, 0, List(static_files::types)),
    spec("types_hash_bucket_size", HSL, 1, 1, Note(NO_HASHES)),
    spec("types_hash_max_size", HSL, 1, 1, Note(NO_HASHES)),
    spec("underscores_in_headers", HS, 1, 1, Switch(|_, draft| &mut draft.settings.manners.underscores)),
    spec("uninitialized_variable_warn", HSLI, 1, 1, Note("it is never warned")),
    spec("upstream", HTTP, 1, 1, Group(upstream_conf::upstream)),
    spec("use", EVENTS, 1, 1, Note("epoll it is")),
    spec("user", MAIN, 1, 2, Once(core::user)),
    spec("userid", HSL, 1, 1, OnlyOff(LATER)),
    spec("uwsgi_cache_path", HTTP, 1, MANY, Note(NO_CACHE)),
    spec("uwsgi_param", HSL, 2, 3, Refuse(NO_FASTCGI)),
    spec("uwsgi_pass", LOCATION, 1, 1, Refuse(NO_FASTCGI)),
    spec("uwsgi_temp_path", HSL, 1, 4, Note(BODIES_STREAM)),
    spec("valid_referers", SL, 1, MANY, Each(referer_conf::valid_referers)),
    spec("variables_hash_bucket_size", HTTP, 1, 1, Note(NO_HASHES)),
    spec("variables_hash_max_size", HTTP, 1, 1, Note(NO_HASHES)),
    spec("worker_aio_requests", EVENTS, 1, 1, Note("files are not read by other threads")),
    spec(
        "worker_connections",
        EVENTS,
        1,
        1,
        Number(|walk, _| walk.config.main.worker_connections.get_or_insert_default()),
    ),
    spec("worker_cpu_affinity", MAIN, 1, MANY, Once(core::worker_cpu_affinity)),
    spec("worker_priority", MAIN, 1, 1, Note("priority is the supervisor's")),
    spec("worker_processes", MAIN, 1, 1, Once(core::worker_processes)),
    spec("worker_rlimit_core", MAIN, 1, 1, Note("limits are the supervisor's")),
    spec("worker_rlimit_nofile", MAIN, 1, 1, Once(core::worker_rlimit_nofile)),
    spec(
        "worker_shutdown_timeout",
        MAIN,
        1,
        1,
        Time(|walk, _| walk.config.main.worker_shutdown_timeout.get_or_insert_default()),
    ),
    spec("working_directory", MAIN, 1, 1, Note("names are relative to the prefix")),
    spec("xclient", MAIN, 1, 1, Refuse("only HTTP is proxied here")),
    spec("xslt_stylesheet", LOCATION, 1, MANY, Refuse(NO_BODY_REWRITE)),
    spec("zone", UPSTREAM, 1, 2, Once(upstream_conf::zone)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_for_the_search() {
        for pair in TABLE.windows(2) {
            assert!(pair[0].name < pair[1].name, "{} before {}", pair[0].name, pair[1].name);
        }
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
            assert_eq!(nearest(slip), Some(meant));
        }
        assert_eq!(nearest("quux_frobnicate"), None);
    }
}
