//! Directives of nginx and of common modules that do nothing here: accepted with a note, accepted only as `off`, or refused.
//!
//! A directive gets a note if ignoring it changes neither what is served, nor access, nor where requests go;
//! otherwise it is refused. It is `Missing` if it asks for a function that is not here, such as a cache. `-t` prints each
//! text as `note: "gzip_buffers": TEXT`, and after a refusal as the hint.

use crate::config::directives::{
    Action::{Missing, Note, OnlyOff, Refuse},
    DirectiveSpec, EVENTS, HS, HSL, HSLI, HTTP, LOCATION, MAIN, MANY, SL, spec,
};
use crate::modules::charset::conf::NOT_RECODED;

const ALWAYS_ON: &str = "always on";
const BODIES_ARE_RELAYED: &str = "bodies are read while they are forwarded, not before";
const BODIES_STREAM: &str = "bodies are streamed, never buffered on disk";
const BROTLI: &str = "not supported; use \"gzip\"";
const BUFFERS: &str = "buffers are allocated as needed";
const HTTP1: &str = "only HTTP/1.1 is supported; clients fall back to it";
const HTTP_UPSTREAMS: &str = "FastCGI, uWSGI, SCGI and gRPC are not supported: upstreams must speak HTTP/1.1";
const INTERIM: &str = "interim responses of upstreams are always forwarded";
const NOT_YET: &str = "not implemented";
const NO_ASYNC_IO: &str = "files are read by the workers themselves";
const NO_BODY_FILTERS: &str = "bodies are forwarded unchanged";
const NO_CACHE: &str = "there is no cache: every request goes to the upstream";
const NO_COMPRESSION: &str = "certificates are not compressed";
const NO_DISK_STORE: &str = "responses are not stored on disk";
const NO_ECH: &str = "Encrypted Client Hello is not supported: server names are not encrypted";
const NO_ENCRYPTED_KEYS: &str = "encrypted keys are not supported: decrypt the key file";
const NO_FILE_CACHE: &str = "there is no cache of open files: each request opens its file";
const NO_GEOIP: &str = "GeoIP is not supported; use \"geo\" or \"map\"";
const NO_MIRROR: &str = "requests are not mirrored";
const NO_OCSP: &str = "client certificates are not checked by OCSP; use revocation lists, \"ssl_crl\"";
const NO_SUCH_UPSTREAMS: &str = "no effect without FastCGI, uWSGI, SCGI, gRPC and memcached, which are not supported";
const NO_SCRIPTS: &str = "there is no script engine";
const NO_SIGNED_LINKS: &str = "signed links are not supported; without the check every request would be allowed";
const NO_STAPLING: &str = "OCSP stapling is not supported";
const NO_UPSTREAM_TRAILERS: &str =
    "trailers of upstreams are not forwarded; use \"add_trailer\" with \"$upstream_trailer_NAME\"";
const NO_USERID: &str = "no cookies are issued";
const ONLY_HTTP: &str = "only HTTP is proxied";
const ONLY_REVERSE: &str = "CONNECT is not supported: requests go to the configured upstreams only";
const RELOADED_BY_STAMP: &str = "certificates are cached, and read again when their files change";
const SAFE_CIPHERS: &str = "rustls has only safe ciphers and curves";
const SENT_AT_ONCE: &str = "data is sent as soon as it arrives";
const SHARED_SOCKETS: &str = "all workers wait on the same sockets";
const SIZED_TABLES: &str = "hash tables are sized automatically";
const SOCKET_BUFFERS: &str = "the kernel sizes the buffers of sockets";
const SUPERVISOR: &str = "set it in the supervisor, for example in the systemd unit";
const WEBDAV: &str = "WebDAV is not supported";

/// Sorted by name.
pub(super) static TABLE: &[DirectiveSpec] = &[
    spec("accept_mutex", EVENTS, 1, 1, Note(SHARED_SOCKETS)),
    spec("accept_mutex_delay", EVENTS, 1, 1, Note(SHARED_SOCKETS)),
    spec("access_by_lua_block", HSL, 0, MANY, Refuse(NO_SCRIPTS)),
    spec("access_by_lua_file", HSL, 0, MANY, Refuse(NO_SCRIPTS)),
    spec("add_after_body", HSL, 1, 1, Refuse(NO_BODY_FILTERS)),
    spec("add_before_body", HSL, 1, 1, Refuse(NO_BODY_FILTERS)),
    spec("add_header_inherit", HSLI, 1, 1, Refuse(NOT_YET)),
    spec("add_trailer_inherit", HSLI, 1, 1, Refuse(NOT_YET)),
    spec("addition_types", HSL, 1, MANY, Refuse(NO_BODY_FILTERS)),
    spec("aio", HSL, 1, 1, Note(NO_ASYNC_IO)),
    spec("aio_write", HSL, 1, 1, Note(BODIES_STREAM)),
    spec("ancient_browser", HSL, 1, MANY, Refuse(NOT_YET)),
    spec("ancient_browser_value", HSL, 1, 1, Refuse(NOT_YET)),
    spec("brotli", HSL, 1, 1, Missing(BROTLI)),
    spec("brotli_buffers", HSL, 2, 2, Missing(BROTLI)),
    spec("brotli_comp_level", HSL, 1, 1, Missing(BROTLI)),
    spec("brotli_min_length", HSL, 1, 1, Missing(BROTLI)),
    spec("brotli_types", HSL, 1, MANY, Missing(BROTLI)),
    spec("brotli_window", HSL, 1, 1, Missing(BROTLI)),
    spec("client_body_early_read", HS, 1, MANY, Refuse(BODIES_ARE_RELAYED)),
    spec("client_body_in_file_only", HSL, 1, 1, Note(BODIES_STREAM)),
    spec("client_body_in_single_buffer", HSL, 1, 1, Note(BODIES_STREAM)),
    spec("client_body_temp_path", HSL, 1, 4, Note(BODIES_STREAM)),
    spec("client_header_buffer_size", HS, 1, 1, Note(BUFFERS)),
    spec("connection_pool_size", HS, 1, 1, Note(BUFFERS)),
    spec("content_by_lua_block", LOCATION, 0, MANY, Refuse(NO_SCRIPTS)),
    spec("content_by_lua_file", LOCATION, 0, MANY, Refuse(NO_SCRIPTS)),
    spec("create_full_put_path", HSL, 1, 1, Missing(WEBDAV)),
    spec(
        "daemon",
        MAIN,
        1,
        1,
        OnlyOff("smolgate stays in the foreground: start it with systemd (Type=notify), procd or \"setsid -f\""),
    ),
    spec("dav_access", HSL, 1, 3, Refuse(WEBDAV)),
    spec("dav_methods", HSL, 1, MANY, OnlyOff(WEBDAV)),
    spec("debug_connection", EVENTS, 1, 1, Note("there is no debug log")),
    spec("debug_points", MAIN, 1, 1, Note("there are no debug points")),
    spec("directio", HSL, 1, 1, Note(NO_FILE_CACHE)),
    spec("directio_alignment", HSL, 1, 1, Note(NO_FILE_CACHE)),
    spec("early_hints", HSL, 1, MANY, Note(INTERIM)),
    spec("empty_gif", LOCATION, 0, 0, Refuse(NOT_YET)),
    spec("env", MAIN, 1, 1, Note("no child processes are started")),
    spec("fastcgi_pass", LOCATION, 1, 1, Refuse(HTTP_UPSTREAMS)),
    spec("flv", LOCATION, 0, 0, Refuse(NOT_YET)),
    spec("geoip_city", HTTP, 1, 2, Refuse(NO_GEOIP)),
    spec("geoip_country", HTTP, 1, 2, Refuse(NO_GEOIP)),
    spec("geoip_org", HTTP, 1, 2, Refuse(NO_GEOIP)),
    spec("geoip_proxy", HTTP, 1, 1, Refuse(NO_GEOIP)),
    spec("geoip_proxy_recursive", HTTP, 1, 1, Refuse(NO_GEOIP)),
    spec("google_perftools_profiles", MAIN, 1, 1, Note("there is no profiler")),
    spec("grpc_pass", LOCATION, 1, 1, Refuse(HTTP_UPSTREAMS)),
    spec("gunzip", HSL, 1, 1, OnlyOff(NO_BODY_FILTERS)),
    spec("gunzip_buffers", HSL, 2, 2, Note(BUFFERS)),
    spec("gzip_buffers", HSL, 2, 2, Note(BUFFERS)),
    spec("gzip_no_buffer", HSL, 1, 1, Note(SENT_AT_ONCE)),
    spec("http2", HS, 1, 1, Missing(HTTP1)),
    spec("http2_body_preread_size", HS, 1, 1, Missing(HTTP1)),
    spec("http2_chunk_size", HSL, 1, 1, Missing(HTTP1)),
    spec("http2_idle_timeout", HS, 1, 1, Missing(HTTP1)),
    spec("http2_max_concurrent_pushes", HS, 1, 1, Missing(HTTP1)),
    spec("http2_max_concurrent_streams", HS, 1, 1, Missing(HTTP1)),
    spec("http2_max_field_size", HS, 1, 1, Missing(HTTP1)),
    spec("http2_max_header_size", HS, 1, 1, Missing(HTTP1)),
    spec("http2_max_requests", HS, 1, 1, Missing(HTTP1)),
    spec("http2_pool_size", HS, 1, 1, Missing(HTTP1)),
    spec("http2_push", HSL, 1, 1, Missing(HTTP1)),
    spec("http2_push_preload", HSL, 1, 1, Missing(HTTP1)),
    spec("http2_recv_buffer_size", HTTP, 1, 1, Missing(HTTP1)),
    spec("http2_recv_timeout", HS, 1, 1, Missing(HTTP1)),
    spec("http2_streams_index_size", HS, 1, 1, Missing(HTTP1)),
    spec("http3", HS, 1, 1, Missing(HTTP1)),
    spec("http3_hq", HS, 1, 1, Missing(HTTP1)),
    spec("http3_max_concurrent_streams", HS, 1, 1, Missing(HTTP1)),
    spec("http3_stream_buffer_size", HS, 1, 1, Missing(HTTP1)),
    spec("image_filter", LOCATION, 1, 3, Refuse(NO_BODY_FILTERS)),
    spec("js_content", LOCATION, 1, MANY, Refuse(NO_SCRIPTS)),
    spec("js_import", HTTP, 1, MANY, Refuse(NO_SCRIPTS)),
    spec("keepalive_min_timeout", HSL, 1, 1, Note("a graceful stop closes idle connections at once")),
    spec("load_module", MAIN, 1, 1, Note("there are no loadable modules; directives of missing modules are refused")),
    spec("lock_file", MAIN, 1, 1, Note("there is no lock file")),
    spec("log_subrequest", HSL, 1, 1, OnlyOff("subrequests are not logged")),
    spec("mail", MAIN, 0, 0, Refuse(ONLY_HTTP)),
    spec("map_hash_bucket_size", HTTP, 1, 1, Note(SIZED_TABLES)),
    spec("map_hash_max_size", HTTP, 1, 1, Note(SIZED_TABLES)),
    spec("master_process", MAIN, 1, 1, Note("there is only one process")),
    spec("max_headers", HS, 1, 1, Note("the limit is always 100 headers")),
    spec("memcached_pass", LOCATION, 1, 1, Refuse(HTTP_UPSTREAMS)),
    spec("min_delete_depth", HSL, 1, 1, Missing(WEBDAV)),
    spec("mirror", HSL, 1, 1, OnlyOff(NOT_YET)),
    spec("mirror_request_body", HSL, 1, 1, Missing(NO_MIRROR)),
    spec("modern_browser", HSL, 1, 2, Refuse(NOT_YET)),
    spec("modern_browser_value", HSL, 1, 1, Refuse(NOT_YET)),
    spec("more_clear_headers", HSL, 1, MANY, Refuse("headers-more is not built in; use \"proxy_hide_header\"")),
    spec("more_set_headers", HSL, 1, MANY, Refuse("headers-more is not built in; use \"add_header\"")),
    spec("mp4", LOCATION, 0, 0, Refuse(NOT_YET)),
    spec("msie_padding", HSL, 1, 1, Note("error pages are not padded")),
    spec("msie_refresh", HSL, 1, 1, OnlyOff("redirects are always sent as such")),
    spec("multi_accept", EVENTS, 1, 1, Note(ALWAYS_ON)),
    spec("open_file_cache", HSL, 1, 2, Note(NO_FILE_CACHE)),
    spec("open_file_cache_errors", HSL, 1, 1, Note(NO_FILE_CACHE)),
    spec("open_file_cache_events", HSL, 1, 1, Note(NO_FILE_CACHE)),
    spec("open_file_cache_min_uses", HSL, 1, 1, Note(NO_FILE_CACHE)),
    spec("open_file_cache_valid", HSL, 1, 1, Note(NO_FILE_CACHE)),
    spec("open_log_file_cache", HSL, 1, 4, Note("the 64 files used last stay open")),
    spec("output_buffers", HSL, 2, 2, Note(BUFFERS)),
    spec("override_charset", HSLI, 1, 1, Missing(NOT_RECODED)),
    spec("pcre_jit", MAIN, 1, 1, Note("regular expressions always run in linear time")),
    spec("perl", LOCATION, 1, 1, Refuse(NO_SCRIPTS)),
    spec("perl_modules", HTTP, 1, 1, Refuse(NO_SCRIPTS)),
    spec("perl_require", HTTP, 1, 1, Refuse(NO_SCRIPTS)),
    spec("perl_set", HTTP, 2, 2, Refuse(NO_SCRIPTS)),
    spec("post_action", HSLI, 1, 1, Refuse(NOT_YET)),
    spec("postpone_gzipping", HSL, 1, 1, Note(SENT_AT_ONCE)),
    spec("postpone_output", HSL, 1, 1, Note(SENT_AT_ONCE)),
    spec("proxy_buffering", HSL, 1, 1, Missing("responses are always streamed, as with \"off\"")),
    spec("proxy_buffers", HSL, 2, 2, Note(BODIES_STREAM)),
    spec("proxy_busy_buffers_size", HSL, 1, 1, Note(BODIES_STREAM)),
    spec("proxy_cache", HSL, 1, 1, Missing(NO_CACHE)),
    spec("proxy_cache_background_update", HSL, 1, 1, Missing(NO_CACHE)),
    spec("proxy_cache_bypass", HSL, 1, MANY, Missing(NO_CACHE)),
    spec("proxy_cache_convert_head", HSL, 1, 1, Missing(NO_CACHE)),
    spec("proxy_cache_key", HSL, 1, 1, Missing(NO_CACHE)),
    spec("proxy_cache_lock", HSL, 1, 1, Missing(NO_CACHE)),
    spec("proxy_cache_lock_age", HSL, 1, 1, Missing(NO_CACHE)),
    spec("proxy_cache_lock_timeout", HSL, 1, 1, Missing(NO_CACHE)),
    spec("proxy_cache_max_range_offset", HSL, 1, 1, Missing(NO_CACHE)),
    spec("proxy_cache_methods", HSL, 1, MANY, Missing(NO_CACHE)),
    spec("proxy_cache_min_uses", HSL, 1, 1, Missing(NO_CACHE)),
    spec("proxy_cache_path", HTTP, 2, MANY, Missing(NO_CACHE)),
    spec("proxy_cache_revalidate", HSL, 1, 1, Missing(NO_CACHE)),
    spec("proxy_cache_use_stale", HSL, 1, MANY, Missing(NO_CACHE)),
    spec("proxy_cache_valid", HSL, 1, MANY, Missing(NO_CACHE)),
    spec("proxy_force_ranges", HSL, 1, 1, OnlyOff(NO_CACHE)),
    spec("proxy_headers_hash_bucket_size", HSL, 1, 1, Note(SIZED_TABLES)),
    spec("proxy_headers_hash_max_size", HSL, 1, 1, Note(SIZED_TABLES)),
    spec("proxy_max_temp_file_size", HSL, 1, 1, Note(BODIES_STREAM)),
    spec("proxy_no_cache", HSL, 1, MANY, Missing(NO_CACHE)),
    spec("proxy_pass_trailers", HSL, 1, 1, OnlyOff(NO_UPSTREAM_TRAILERS)),
    spec("proxy_send_lowat", HSL, 1, 1, Note(SENT_AT_ONCE)),
    spec("proxy_socket_rcvbuf", HSL, 1, 1, Note(SOCKET_BUFFERS)),
    spec("proxy_socket_sndbuf", HSL, 1, 1, Note(SOCKET_BUFFERS)),
    spec("proxy_ssl_certificate_cache", HSL, 1, 3, Note(RELOADED_BY_STAMP)),
    spec("proxy_ssl_ciphers", HSL, 1, 1, Note(SAFE_CIPHERS)),
    spec("proxy_ssl_conf_command", HSL, 2, 2, Note(SAFE_CIPHERS)),
    spec("proxy_ssl_password_file", HSL, 1, 1, Missing(NO_ENCRYPTED_KEYS)),
    spec("proxy_store", HSL, 1, 1, OnlyOff(NO_DISK_STORE)),
    spec("proxy_store_access", HSL, 1, 3, Missing(NO_DISK_STORE)),
    spec("proxy_temp_file_write_size", HSL, 1, 1, Note(BODIES_STREAM)),
    spec("proxy_temp_path", HSL, 1, 4, Note(BODIES_STREAM)),
    spec("quic_active_connection_id_limit", HS, 1, 1, Missing(HTTP1)),
    spec("quic_bpf", MAIN, 1, 1, Missing(HTTP1)),
    spec("quic_gso", HS, 1, 1, Missing(HTTP1)),
    spec("quic_host_key", HS, 1, 1, Missing(HTTP1)),
    spec("quic_retry", HS, 1, 1, Missing(HTTP1)),
    spec("random_index", LOCATION, 1, 1, OnlyOff(NOT_YET)),
    spec("read_ahead", HSL, 1, 1, Note("the kernel decides how far to read ahead")),
    spec("referer_hash_bucket_size", SL, 1, 1, Note(SIZED_TABLES)),
    spec("referer_hash_max_size", SL, 1, 1, Note(SIZED_TABLES)),
    spec("request_pool_size", HS, 1, 1, Note(BUFFERS)),
    spec("rtmp", MAIN, 0, 0, Refuse(ONLY_HTTP)),
    spec("scgi_pass", LOCATION, 1, 1, Refuse(HTTP_UPSTREAMS)),
    spec("secure_link", HSL, 1, 1, Refuse(NO_SIGNED_LINKS)),
    spec("secure_link_md5", HSL, 1, 1, Refuse(NO_SIGNED_LINKS)),
    spec("secure_link_secret", LOCATION, 1, 1, Refuse(NO_SIGNED_LINKS)),
    spec("send_lowat", HSL, 1, 1, Note(SENT_AT_ONCE)),
    spec("sendfile", HSLI, 1, 1, Note(ALWAYS_ON)),
    spec("sendfile_max_chunk", HSLI, 1, 1, Note("the limit is always 2 MiB per event-loop iteration")),
    spec("server_names_hash_bucket_size", HTTP, 1, 1, Note(SIZED_TABLES)),
    spec("server_names_hash_max_size", HTTP, 1, 1, Note(SIZED_TABLES)),
    spec("slice", HSL, 1, 1, OnlyOff(NOT_YET)),
    spec("ssi", HSL, 1, 1, OnlyOff(NO_BODY_FILTERS)),
    spec("ssi_types", HSL, 1, MANY, Missing("server-side includes are not supported")),
    spec("ssl_buffer_size", HS, 1, 1, Note("records are as large as the data at hand, up to 16 KiB")),
    spec("ssl_certificate_cache", HS, 1, 3, Note(RELOADED_BY_STAMP)),
    spec("ssl_certificate_compression", HS, 1, 1, Missing(NO_COMPRESSION)),
    spec("ssl_ciphers", HS, 1, 1, Note(SAFE_CIPHERS)),
    spec("ssl_conf_command", HS, 2, 2, Note(SAFE_CIPHERS)),
    spec("ssl_dhparam", HS, 1, 1, Note(SAFE_CIPHERS)),
    spec("ssl_early_data", HS, 1, 1, Note("early data is never accepted: it can be replayed")),
    spec("ssl_ecdh_curve", HS, 1, 1, Note(SAFE_CIPHERS)),
    spec("ssl_ech_file", HS, 1, 1, Missing(NO_ECH)),
    spec("ssl_engine", MAIN, 1, 1, Note("the cryptography is that of rustls and ring")),
    spec("ssl_object_cache_inheritable", MAIN, 1, 1, Note(RELOADED_BY_STAMP)),
    spec("ssl_ocsp", HS, 1, 1, Refuse(NO_OCSP)),
    spec("ssl_ocsp_cache", HS, 1, 1, Refuse(NO_OCSP)),
    spec("ssl_ocsp_responder", HS, 1, 1, Refuse(NO_OCSP)),
    spec("ssl_password_file", HS, 1, 1, Missing(NO_ENCRYPTED_KEYS)),
    spec("ssl_prefer_server_ciphers", HS, 1, 1, Note(SAFE_CIPHERS)),
    spec("ssl_session_ticket_key", HS, 1, 1, Note("ticket keys are generated at start and rotated every six hours")),
    spec("ssl_stapling", HS, 1, 1, Missing(NO_STAPLING)),
    spec("ssl_stapling_file", HS, 1, 1, Missing(NO_STAPLING)),
    spec("ssl_stapling_responder", HS, 1, 1, Missing(NO_STAPLING)),
    spec("ssl_stapling_verify", HS, 1, 1, Missing(NO_STAPLING)),
    spec("stream", MAIN, 0, 0, Refuse(ONLY_HTTP)),
    spec("sub_filter", HSL, 2, 2, Refuse(NO_BODY_FILTERS)),
    spec("sub_filter_last_modified", HSL, 1, 1, Refuse(NO_BODY_FILTERS)),
    spec("sub_filter_once", HSL, 1, 1, Refuse(NO_BODY_FILTERS)),
    spec("sub_filter_types", HSL, 1, MANY, Refuse(NO_BODY_FILTERS)),
    spec("subrequest_output_buffer_size", HSL, 1, 1, Note(BUFFERS)),
    spec("tcp_nodelay", HSL, 1, 1, Note(ALWAYS_ON)),
    spec("tcp_nopush", HSL, 1, 1, Note("a small file is sent together with its head")),
    spec("thread_pool", MAIN, 1, 3, Note(NO_ASYNC_IO)),
    spec("timer_resolution", MAIN, 1, 1, Note("the clock is read once per event-loop iteration")),
    spec("tunnel_pass", LOCATION, 0, 1, Refuse(ONLY_REVERSE)),
    spec("types_hash_bucket_size", HSL, 1, 1, Note(SIZED_TABLES)),
    spec("types_hash_max_size", HSL, 1, 1, Note(SIZED_TABLES)),
    spec("uninitialized_variable_warn", HSLI, 1, 1, Note("uninitialized variables are empty, without a warning")),
    spec("use", EVENTS, 1, 1, Note("always epoll")),
    spec("userid", HSL, 1, 1, OnlyOff(NOT_YET)),
    spec("userid_domain", HSL, 1, 1, Missing(NO_USERID)),
    spec("userid_expires", HSL, 1, 1, Missing(NO_USERID)),
    spec("userid_flags", HSL, 1, MANY, Missing(NO_USERID)),
    spec("userid_mark", HSL, 1, 1, Missing(NO_USERID)),
    spec("userid_name", HSL, 1, 1, Missing(NO_USERID)),
    spec("userid_p3p", HSL, 1, 1, Missing(NO_USERID)),
    spec("userid_path", HSL, 1, 1, Missing(NO_USERID)),
    spec("userid_service", HSL, 1, 1, Missing(NO_USERID)),
    spec("uwsgi_pass", LOCATION, 1, 1, Refuse(HTTP_UPSTREAMS)),
    spec("variables_hash_bucket_size", HTTP, 1, 1, Note(SIZED_TABLES)),
    spec("variables_hash_max_size", HTTP, 1, 1, Note(SIZED_TABLES)),
    spec("worker_aio_requests", EVENTS, 1, 1, Note(NO_ASYNC_IO)),
    spec("worker_priority", MAIN, 1, 1, Note(SUPERVISOR)),
    spec("worker_rlimit_core", MAIN, 1, 1, Note(SUPERVISOR)),
    spec("working_directory", MAIN, 1, 1, Note("relative names start at the prefix (-p)")),
    spec("xclient", MAIN, 1, 1, Refuse(ONLY_HTTP)),
    spec("xslt_stylesheet", LOCATION, 1, MANY, Refuse(NO_BODY_FILTERS)),
];

/// Settings of upstreams that do not speak HTTP, by the start of their names: without the directives of [`TABLE`] that pass
/// requests to such upstreams they have no effect in nginx either.
static FAMILIES: &[DirectiveSpec] = &[
    spec("fastcgi_", HSLI, 1, MANY, Missing(NO_SUCH_UPSTREAMS)),
    spec("grpc_", HSLI, 1, MANY, Missing(NO_SUCH_UPSTREAMS)),
    spec("memcached_", HSLI, 1, MANY, Missing(NO_SUCH_UPSTREAMS)),
    spec("scgi_", HSLI, 1, MANY, Missing(NO_SUCH_UPSTREAMS)),
    spec("uwsgi_", HSLI, 1, MANY, Missing(NO_SUCH_UPSTREAMS)),
];

/// Returns the family of a name that is in no table.
pub(super) fn find_family(name: &str) -> Option<&'static DirectiveSpec> {
    FAMILIES.iter().find(|family| name.len() > family.name.len() && name.starts_with(family.name))
}

/// Starts of names of other modules, of nginx and of its builders.
const MISSING_MODULES: &[&str] = &[
    "acme_",
    "api",
    "auth_digest",
    "auth_gss",
    "auth_jwt",
    "auth_ldap",
    "auth_oidc",
    "auth_pam",
    "auth_require",
    "cache_purge",
    "cors",
    "drizzle_",
    "echo",
    "eval",
    "f4f",
    "fancyindex",
    "geoip2",
    "geoip_",
    "hls",
    "image_filter",
    "internal_redirect",
    "js_",
    "keyval",
    "lua_",
    "memc_",
    "modsecurity",
    "more_",
    "mp4_",
    "naxsi",
    "nchan_",
    "ndk_",
    "num_map",
    "oidc_",
    "opentelemetry",
    "opentracing",
    "otel_",
    "pagespeed",
    "passenger_",
    "perl_",
    "postgres_",
    "proxy_cache_purge",
    "push_stream",
    "redis",
    "security",
    "session_log",
    "set_base",
    "set_by_lua",
    "set_decode",
    "set_encode",
    "set_escape_uri",
    "set_formatted",
    "set_from",
    "set_hash",
    "set_hex",
    "set_hmac",
    "set_if_empty",
    "set_local_today",
    "set_md5",
    "set_misc",
    "set_quote",
    "set_random",
    "set_rotate",
    "set_secure",
    "set_sha1",
    "set_unescape_uri",
    "slowfs_",
    "srcache_",
    "status_",
    "subs_filter",
    "testcookie",
    "traffic_status",
    "tunnel_",
    "upload",
    "vhost_traffic_status",
    "vod",
    "waf",
    "xml_",
    "xslt_",
    "zstd",
];

/// Whether an unknown directive seems to be of a module that is not here.
pub(super) fn is_of_missing_module(name: &str) -> bool {
    name.contains("_by_lua") || MISSING_MODULES.iter().any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::TABLE;

    #[test]
    fn the_table_is_sorted_for_the_search() {
        assert!(TABLE.is_sorted_by(|a, b| a.name < b.name));
    }
}
