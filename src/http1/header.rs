//! Header names: those that a proxy handles, and those that are accepted.

/// The headers that the proxy handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderName {
    Other,
    AcceptEncoding,
    Authorization,
    CacheControl,
    Connection,
    ContentLength,
    ContentRange,
    ContentType,
    Cookie,
    Date,
    Etag,
    Expect,
    Expires,
    Host,
    Http2Settings,
    IfMatch,
    IfModifiedSince,
    IfNoneMatch,
    IfRange,
    IfUnmodifiedSince,
    KeepAlive,
    LastModified,
    Location,
    /// `Proxy-Authenticate`, `Proxy-Authorization` and `Proxy-Authentication-Info`: between a client and its proxy.
    ProxyAuth,
    ProxyConnection,
    Refresh,
    Server,
    SetCookie,
    Status,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    WebSocketKey,
    /// `X-Accel-*`: between an upstream and its proxy.
    Accel,
}

impl HeaderName {
    pub fn from_bytes(name: &[u8]) -> Self {
        let is = |is_allowed: &str| name.eq_ignore_ascii_case(is_allowed.as_bytes());
        match name.len() {
            2 if is("te") => Self::Te,
            4 if is("host") => Self::Host,
            4 if is("date") => Self::Date,
            4 if is("etag") => Self::Etag,
            6 if is("cookie") => Self::Cookie,
            6 if is("expect") => Self::Expect,
            6 if is("server") => Self::Server,
            6 if is("status") => Self::Status,
            7 if is("upgrade") => Self::Upgrade,
            7 if is("trailer") => Self::Trailer,
            7 if is("refresh") => Self::Refresh,
            7 if is("expires") => Self::Expires,
            8 if is("location") => Self::Location,
            8 if is("if-match") => Self::IfMatch,
            8 if is("if-range") => Self::IfRange,
            10 if is("connection") => Self::Connection,
            10 if is("keep-alive") => Self::KeepAlive,
            10 if is("set-cookie") => Self::SetCookie,
            12 if is("content-type") => Self::ContentType,
            13 if is("cache-control") => Self::CacheControl,
            13 if is("last-modified") => Self::LastModified,
            13 if is("authorization") => Self::Authorization,
            13 if is("if-none-match") => Self::IfNoneMatch,
            13 if is("content-range") => Self::ContentRange,
            14 if is("content-length") => Self::ContentLength,
            14 if is("http2-settings") => Self::Http2Settings,
            15 if is("accept-encoding") => Self::AcceptEncoding,
            16 if is("proxy-connection") => Self::ProxyConnection,
            17 if is("transfer-encoding") => Self::TransferEncoding,
            17 if is("sec-websocket-key") => Self::WebSocketKey,
            17 if is("if-modified-since") => Self::IfModifiedSince,
            19 if is("if-unmodified-since") => Self::IfUnmodifiedSince,
            18 if is("proxy-authenticate") => Self::ProxyAuth,
            19 if is("proxy-authorization") => Self::ProxyAuth,
            25 if is("proxy-authentication-info") => Self::ProxyAuth,
            8.. if name.get(..8).is_some_and(|start| start.eq_ignore_ascii_case(b"x-accel-")) => Self::Accel,
            _ => Self::Other,
        }
    }

    /// Returns the name of a singleton header (RFC 9110 5.5), except of those whose repetition has an error of its
    /// own.
    pub(crate) fn singleton_name(self) -> Option<&'static str> {
        match self {
            Self::Authorization => Some("Authorization"),
            Self::ContentRange => Some("Content-Range"),
            Self::Expect => Some("Expect"),
            Self::IfMatch => Some("If-Match"),
            Self::IfModifiedSince => Some("If-Modified-Since"),
            Self::IfNoneMatch => Some("If-None-Match"),
            Self::IfRange => Some("If-Range"),
            Self::IfUnmodifiedSince => Some("If-Unmodified-Since"),
            _ => None,
        }
    }

    /// Whether the header concerns one connection only (RFC 9110 7.6.1, 11.7).
    pub fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::KeepAlive
                | Self::ProxyAuth
                | Self::ProxyConnection
                | Self::Te
                | Self::Trailer
                | Self::TransferEncoding
                | Self::Upgrade
                | Self::Http2Settings
        )
    }
}

/// Which header names are accepted; a header with another name is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderNamePolicy {
    /// Letters, digits and `-`, as in nginx: `_` and `.` collide with `-` in CGI-like applications.
    Plain,
    /// `_`, too.
    Underscores,
    /// Any token (RFC 9110 5.6.2).
    Any,
}

impl HeaderNamePolicy {
    pub(crate) fn accepts(self, name: &[u8]) -> bool {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if name.iter().all(|b| plain(*b)) {
            return true;
        }
        let is_allowed = match self {
            Self::Plain => false,
            Self::Underscores => name.iter().all(|b| plain(*b) || *b == b'_'),
            Self::Any => true,
        };
        // A header that an application could mistake for one that frames the request or names its host is never
        // accepted.
        let normalized: Vec<u8> = name.iter().map(|b| if plain(*b) { *b } else { b'-' }).collect();
        let kind = HeaderName::from_bytes(&normalized);
        is_allowed
            && !kind.is_hop_by_hop()
            && !matches!(kind, HeaderName::ContentLength | HeaderName::Host | HeaderName::Expect)
    }
}
