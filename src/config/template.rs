//! Text with variables, `"http://$host${uri}x"`, parsed once: a [`Template`] is a list of texts and variables.
//!
//! Values belong to a request: `request::variables` evaluates templates.

use std::fmt;
use std::sync::Arc;

use crate::http1::proxy_protocol::Tlv;
use crate::tls::SslVariable;

/// A value of the configuration that may hold variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    /// Shared with the blocks that inherit it.
    segments: Arc<[Segment]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    Text(Box<[u8]>),
    Variable(Variable),
}

/// A variable whose name has been looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Variable {
    Builtin(Builtin),
    /// `$http_NAME`
    RequestHeader(Box<[u8]>),
    /// `$sent_http_NAME`
    SentHeader(Box<[u8]>),
    /// `$sent_trailer_NAME`
    SentTrailer(Box<[u8]>),
    /// `$upstream_http_NAME`
    UpstreamHeader(Box<[u8]>),
    /// `$upstream_trailer_NAME`
    UpstreamTrailer(Box<[u8]>),
    /// `$upstream_cookie_NAME`
    UpstreamCookie(Box<[u8]>),
    /// `$arg_NAME`
    Arg(Box<[u8]>),
    /// `$cookie_NAME`
    Cookie(Box<[u8]>),
    /// `$1` to `$9`
    Capture(u8),
    /// Assigned by `set`, `auth_request_set` or a named group.
    User(u32),
    /// The result of a `map`, by its index.
    Map(u32),
    /// The result of a `geo`.
    Geo(u32),
    /// The result of a `split_clients`.
    Split(u32),
    /// `$proxy_protocol_tlv_NAME`
    ProxyProtocolTlv(Tlv),
    /// A variable of nginx's that is always empty here.
    Empty,
}

/// Variables with a fixed name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Builtin {
    Args,
    BinaryRemoteAddr,
    BodyBytesSent,
    BytesSent,
    Connection,
    ConnectionRequests,
    ConnectionTime,
    Connections(ConnectionState),
    ContentLength,
    ContentType,
    DocumentRoot,
    GzipRatio,
    Host,
    Hostname,
    Https,
    InvalidReferer,
    IsArgs,
    IsRequestPort,
    LimitConnStatus,
    LimitRate,
    LimitReqStatus,
    Msec,
    Pid,
    Pipe,
    ProxyAddXForwardedFor,
    ProxyHost,
    ProxyPort,
    ProxyProtocolAddr,
    ProxyProtocolPort,
    ProxyProtocolServerAddr,
    ProxyProtocolServerPort,
    RealipRemoteAddr,
    RealipRemotePort,
    RemoteAddr,
    RemotePort,
    RemoteUser,
    Request,
    RequestBody,
    RequestCompletion,
    RequestFilename,
    RequestId,
    RequestLength,
    RequestMethod,
    RequestPort,
    RequestTime,
    RequestUri,
    Scheme,
    ServerAddr,
    ServerName,
    ServerPort,
    ServerProtocol,
    /// One of the `$ssl_` variables.
    Ssl(SslVariable),
    Status,
    TimeIso8601,
    TimeLocal,
    UpstreamAddr,
    UpstreamBytesReceived,
    UpstreamBytesSent,
    UpstreamConnectTime,
    UpstreamHeaderTime,
    UpstreamResponseLength,
    UpstreamResponseTime,
    UpstreamStatus,
    Uri,
    Version,
}

impl Builtin {
    /// Whether the value changes until the response has been sent.
    pub fn changes_until_end(self) -> bool {
        let is_told = matches!(
            self,
            Self::BodyBytesSent
                | Self::BytesSent
                | Self::Msec
                | Self::RequestCompletion
                | Self::RequestTime
                | Self::TimeIso8601
                | Self::TimeLocal
        );
        is_told || self.is_momentary()
    }

    /// Whether the value is only known at the moment, and so can't be filled into a log line that is already prepared.
    pub fn is_momentary(self) -> bool {
        matches!(self, Self::ConnectionTime | Self::Connections(_))
    }
}

/// Client connections by state, as in `stub_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    Active,
    Reading,
    Waiting,
    Writing,
}

/// Sorted by name.
const BUILTINS: &[(&str, Builtin)] = &[
    ("args", Builtin::Args),
    ("binary_remote_addr", Builtin::BinaryRemoteAddr),
    ("body_bytes_sent", Builtin::BodyBytesSent),
    ("bytes_sent", Builtin::BytesSent),
    ("connection", Builtin::Connection),
    ("connection_requests", Builtin::ConnectionRequests),
    ("connection_time", Builtin::ConnectionTime),
    ("connections_active", Builtin::Connections(ConnectionState::Active)),
    ("connections_reading", Builtin::Connections(ConnectionState::Reading)),
    ("connections_waiting", Builtin::Connections(ConnectionState::Waiting)),
    ("connections_writing", Builtin::Connections(ConnectionState::Writing)),
    ("content_length", Builtin::ContentLength),
    ("content_type", Builtin::ContentType),
    ("document_root", Builtin::DocumentRoot),
    ("document_uri", Builtin::Uri),
    ("gzip_ratio", Builtin::GzipRatio),
    ("host", Builtin::Host),
    ("hostname", Builtin::Hostname),
    ("https", Builtin::Https),
    ("invalid_referer", Builtin::InvalidReferer),
    ("is_args", Builtin::IsArgs),
    ("is_request_port", Builtin::IsRequestPort),
    ("limit_conn_status", Builtin::LimitConnStatus),
    ("limit_rate", Builtin::LimitRate),
    ("limit_req_status", Builtin::LimitReqStatus),
    ("msec", Builtin::Msec),
    ("nginx_version", Builtin::Version),
    ("pid", Builtin::Pid),
    ("pipe", Builtin::Pipe),
    ("proxy_add_x_forwarded_for", Builtin::ProxyAddXForwardedFor),
    ("proxy_host", Builtin::ProxyHost),
    ("proxy_port", Builtin::ProxyPort),
    ("proxy_protocol_addr", Builtin::ProxyProtocolAddr),
    ("proxy_protocol_port", Builtin::ProxyProtocolPort),
    ("proxy_protocol_server_addr", Builtin::ProxyProtocolServerAddr),
    ("proxy_protocol_server_port", Builtin::ProxyProtocolServerPort),
    ("query_string", Builtin::Args),
    ("realip_remote_addr", Builtin::RealipRemoteAddr),
    ("realip_remote_port", Builtin::RealipRemotePort),
    ("remote_addr", Builtin::RemoteAddr),
    ("remote_port", Builtin::RemotePort),
    ("remote_user", Builtin::RemoteUser),
    ("request", Builtin::Request),
    ("request_body", Builtin::RequestBody),
    ("request_completion", Builtin::RequestCompletion),
    ("request_filename", Builtin::RequestFilename),
    ("request_id", Builtin::RequestId),
    ("request_length", Builtin::RequestLength),
    ("request_method", Builtin::RequestMethod),
    ("request_port", Builtin::RequestPort),
    ("request_time", Builtin::RequestTime),
    ("request_uri", Builtin::RequestUri),
    ("scheme", Builtin::Scheme),
    ("server_addr", Builtin::ServerAddr),
    ("server_name", Builtin::ServerName),
    ("server_port", Builtin::ServerPort),
    ("server_protocol", Builtin::ServerProtocol),
    ("ssl_alpn_protocol", Builtin::Ssl(SslVariable::Alpn)),
    ("ssl_cipher", Builtin::Ssl(SslVariable::Cipher)),
    ("ssl_ciphers", Builtin::Ssl(SslVariable::Ciphers)),
    ("ssl_client_cert", Builtin::Ssl(SslVariable::ClientCert)),
    ("ssl_client_escaped_cert", Builtin::Ssl(SslVariable::ClientEscapedCert)),
    ("ssl_client_fingerprint", Builtin::Ssl(SslVariable::ClientFingerprint)),
    ("ssl_client_i_dn", Builtin::Ssl(SslVariable::ClientIssuer)),
    ("ssl_client_i_dn_legacy", Builtin::Ssl(SslVariable::ClientIssuerLegacy)),
    ("ssl_client_raw_cert", Builtin::Ssl(SslVariable::ClientRawCert)),
    ("ssl_client_s_dn", Builtin::Ssl(SslVariable::ClientSubject)),
    ("ssl_client_s_dn_legacy", Builtin::Ssl(SslVariable::ClientSubjectLegacy)),
    ("ssl_client_serial", Builtin::Ssl(SslVariable::ClientSerial)),
    ("ssl_client_v_end", Builtin::Ssl(SslVariable::ClientValidEnd)),
    ("ssl_client_v_remain", Builtin::Ssl(SslVariable::ClientValidRemain)),
    ("ssl_client_v_start", Builtin::Ssl(SslVariable::ClientValidStart)),
    ("ssl_client_verify", Builtin::Ssl(SslVariable::ClientVerify)),
    ("ssl_curve", Builtin::Ssl(SslVariable::Curve)),
    ("ssl_curves", Builtin::Ssl(SslVariable::Curves)),
    ("ssl_protocol", Builtin::Ssl(SslVariable::Protocol)),
    ("ssl_server_name", Builtin::Ssl(SslVariable::ServerName)),
    ("ssl_session_reused", Builtin::Ssl(SslVariable::SessionReused)),
    ("ssl_sigalgs", Builtin::Ssl(SslVariable::Sigalgs)),
    ("status", Builtin::Status),
    ("time_iso8601", Builtin::TimeIso8601),
    ("time_local", Builtin::TimeLocal),
    ("upstream_addr", Builtin::UpstreamAddr),
    ("upstream_bytes_received", Builtin::UpstreamBytesReceived),
    ("upstream_bytes_sent", Builtin::UpstreamBytesSent),
    ("upstream_connect_time", Builtin::UpstreamConnectTime),
    ("upstream_header_time", Builtin::UpstreamHeaderTime),
    ("upstream_response_length", Builtin::UpstreamResponseLength),
    ("upstream_response_time", Builtin::UpstreamResponseTime),
    ("upstream_status", Builtin::UpstreamStatus),
    ("uri", Builtin::Uri),
];

/// Known to nginx, but never set here. Sorted.
const ALWAYS_EMPTY: &[&str] = &[
    "http2",
    "http3",
    "realpath_root",
    "request_body_file",
    "ssl_client_sigalg",
    "ssl_early_data",
    "ssl_ech_outer_server_name",
    "ssl_ech_status",
    "ssl_session_id",
    "ssl_sigalg",
    "tcpinfo_rcv_space",
    "tcpinfo_rtt",
    "tcpinfo_rttvar",
    "tcpinfo_snd_cwnd",
    "upstream_cache_etag",
    "upstream_cache_last_modified",
    "upstream_cache_status",
];

impl Variable {
    /// Looks up a variable that the program defines; those that a configuration defines are not known here.
    pub fn builtin(name: &str) -> Option<Self> {
        if let Ok(at) = BUILTINS.binary_search_by_key(&name, |(known, _)| known) {
            return BUILTINS.get(at).map(|(_, builtin)| Self::Builtin(*builtin));
        }
        if ALWAYS_EMPTY.binary_search(&name).is_ok() {
            return Some(Self::Empty);
        }
        if let [digit @ b'1'..=b'9'] = name.as_bytes() {
            return Some(Self::Capture(digit - b'0'));
        }
        // nginx accepts an argument without a name.
        if name == "arg_" {
            return Some(Self::Empty);
        }
        if let Some(name) = name.strip_prefix("proxy_protocol_tlv_") {
            return Tlv::from_name(name).map(Self::ProxyProtocolTlv);
        }
        let rest =
            |prefix: &str| name.strip_prefix(prefix).filter(|rest| !rest.is_empty()).map(|rest| rest.as_bytes().into());
        rest("http_")
            .map(Self::RequestHeader)
            .or_else(|| rest("sent_http_").map(Self::SentHeader))
            .or_else(|| rest("sent_trailer_").map(Self::SentTrailer))
            .or_else(|| rest("upstream_trailer_").map(Self::UpstreamTrailer))
            .or_else(|| rest("upstream_http_").map(Self::UpstreamHeader))
            .or_else(|| rest("upstream_cookie_").map(Self::UpstreamCookie))
            .or_else(|| rest("arg_").map(Self::Arg))
            .or_else(|| rest("cookie_").map(Self::Cookie))
    }

    /// Lists the fixed names.
    pub fn known_names() -> impl Iterator<Item = &'static str> {
        BUILTINS.iter().map(|(name, _)| *name)
    }
}

/// Why a text is not a template.
#[derive(Debug, PartialEq, Eq)]
pub enum TemplateError {
    NameMissing,
    Unclosed,
    Unknown(String),
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameMissing => f.write_str("invalid variable name: a name must follow \"$\""),
            Self::Unclosed => f.write_str("the closing bracket of \"${\" is missing"),
            Self::Unknown(name) => write!(f, "unknown \"{name}\" variable"),
        }
    }
}

impl Template {
    /// Parses `text`; `resolve` looks up the name of a variable.
    pub fn parse(text: &str, resolve: &mut dyn FnMut(&str) -> Option<Variable>) -> Result<Self, TemplateError> {
        let mut segments = Vec::new();
        let mut plain = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            plain.extend_from_slice(before.as_bytes());
            let (name, tail) = match after.strip_prefix('{') {
                Some(inner) => inner.split_once('}').ok_or(TemplateError::Unclosed)?,
                None => after.split_at(variable_name_len(after)),
            };
            if name.is_empty() {
                return Err(TemplateError::NameMissing);
            }
            if !plain.is_empty() {
                segments.push(Segment::Text(std::mem::take(&mut plain).into()));
            }
            segments.push(Segment::Variable(resolve(name).ok_or_else(|| TemplateError::Unknown(name.to_owned()))?));
            rest = tail;
        }
        plain.extend_from_slice(rest.as_bytes());
        if !plain.is_empty() {
            segments.push(Segment::Text(plain.into()));
        }
        Ok(Self { segments: segments.into() })
    }

    /// Returns a template without variables.
    pub fn from_text(text: &[u8]) -> Self {
        let segments = if text.is_empty() { Arc::default() } else { Arc::from([Segment::Text(text.into())]) };
        Self { segments }
    }

    /// Returns a template of one variable.
    pub fn from_variable(variable: Variable) -> Self {
        Self { segments: Arc::from([Segment::Variable(variable)]) }
    }

    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Returns the text, unless the template has variables.
    pub fn as_text(&self) -> Option<&[u8]> {
        match &*self.segments {
            [] => Some(&[]),
            [Segment::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Splits the template before byte `at` of a segment.
    pub fn split_at(&self, segment: usize, at: usize) -> (Self, Self) {
        let (before, behind) = self.segments.split_at(segment.min(self.segments.len()));
        let (mut before, mut behind) = (before.to_vec(), behind.to_vec());
        if let Some(Segment::Text(text)) = behind.first_mut().filter(|_| at > 0) {
            let (head, tail) = text.split_at(at.min(text.len()));
            before.push(Segment::Text(head.into()));
            *text = tail.into();
        }
        (Self { segments: before.into() }, Self { segments: behind.into() })
    }

    pub fn variables(&self) -> impl Iterator<Item = &Variable> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Variable(variable) => Some(variable),
            Segment::Text(_) => None,
        })
    }
}

/// Counts the letters, digits and `_` of a name; but `$12` is `$1` followed by a 2, as in nginx.
fn variable_name_len(text: &str) -> usize {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return 1;
    }
    text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Template, TemplateError> {
        Template::parse(text, &mut Variable::builtin)
    }

    #[test]
    fn tables_are_sorted_for_the_search() {
        assert!(BUILTINS.is_sorted_by_key(|(name, _)| *name));
        assert!(ALWAYS_EMPTY.is_sorted());
    }

    #[test]
    fn names_end_where_nginx_ends_them() {
        let text = |t: &str| Segment::Text(t.as_bytes().into());
        let template = parse("http://$host:8080${uri}x$1$http_x_y").unwrap();
        let expected = [
            text("http://"),
            Segment::Variable(Variable::Builtin(Builtin::Host)),
            text(":8080"),
            Segment::Variable(Variable::Builtin(Builtin::Uri)),
            text("x"),
            Segment::Variable(Variable::Capture(1)),
            Segment::Variable(Variable::RequestHeader(Box::from(&b"x_y"[..]))),
        ];
        assert_eq!(template.segments(), expected);
        assert_eq!(parse("a$"), Err(TemplateError::NameMissing));
        assert_eq!(parse("${a"), Err(TemplateError::Unclosed));
        assert_eq!(parse("$nope"), Err(TemplateError::Unknown("nope".to_owned())));
        assert_eq!(parse("plain").unwrap().as_text(), Some(&b"plain"[..]));
    }

    #[test]
    fn a_template_is_split_at_a_piece_or_within_its_text() {
        for (segment, at, before, behind) in [
            (0, 0, "", "ab${uri}cd"),
            (0, 1, "a", "b${uri}cd"),
            (1, 0, "ab", "${uri}cd"),
            (2, 1, "ab${uri}c", "d"),
            (3, 0, "ab${uri}cd", ""),
        ] {
            let split = parse("ab${uri}cd").unwrap().split_at(segment, at);
            assert_eq!(split, (parse(before).unwrap(), parse(behind).unwrap()), "{segment} {at}");
        }
    }
}
