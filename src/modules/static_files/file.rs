//! The response for an open file or a listing: its head, and the ranges of the file to send.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use crate::config::Level;
use crate::http1::head::{HeaderName, write_header};
use crate::http1::range::{self, FileRange, Multipart, Selection};
use crate::modules::static_files::autoindex::Listing;
use crate::modules::static_files::conditional::Validators;
use crate::modules::{charset, gzip};
use crate::request::exchange::Exchange;
use crate::request::log;
use crate::request::next::Next;
use crate::request::response::{self, ContentEncoding, LocalResponse, ResponseFraming};
use crate::request::response_headers::{HeaderFilter, weak_etag};
use crate::runtime::clock;

/// Files up to this size are sent with the head in one call.
const SMALL_BYTES_MAX: u64 = 16 * 1024;

/// A file to send.
pub struct FileResponse {
    pub head: FileHead,
    pub body: Body,
}

/// The head of the response for a file.
pub struct FileHead {
    pub status: u16,
    content_type: Arc<[u8]>,
    /// Bytes of the body; `None` for a listing.
    pub length: Option<u64>,
    validators: Validators,
    range_header: RangeHeader,
    encoding: StaticEncoding,
    /// `content_type` with a charset, if one is filter.
    type_with_charset: Option<Vec<u8>>,
}

/// The encoding of a file.
#[derive(Clone, Copy, Default)]
pub struct StaticEncoding {
    /// The content coding of a precompressed file.
    pub coding: Option<&'static [u8]>,
    /// The choice depends on Accept-Encoding.
    pub varies: bool,
}

/// The header on ranges.
enum RangeHeader {
    None,
    AcceptRanges,
    ContentRange(String),
}

pub enum Body {
    Bytes(Vec<u8>),
    File {
        fd: OwnedFd,
        from: u64,
        count: u64,
    },
    /// Ranges, each with the part header before it, and the closing delimiter.
    Multipart {
        fd: OwnedFd,
        ranges: Vec<(Vec<u8>, FileRange)>,
        end: Vec<u8>,
    },
    Listing(Listing),
}

impl Body {
    /// Returns its bytes; 0 for a listing.
    pub fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { count, .. } => *count,
            Self::Multipart { ranges, end, .. } => {
                let part = |(head, range): &(Vec<u8>, FileRange)| head.len() as u64 + range.length;
                ranges.iter().map(part).sum::<u64>() + end.len() as u64
            }
            Self::Listing(_) => 0,
        }
    }
}

/// Creates the response for an open file: all of it, or the ranges that the request asks for.
pub fn respond(
    exchange: &Exchange,
    file: File,
    meta: &Metadata,
    encoding: StaticEncoding,
) -> Result<FileResponse, Next> {
    let modified = u64::try_from(meta.mtime()).unwrap_or(0);
    let size = meta.len();
    // nginx's format, so that cached copies stay valid when it is replaced.
    let etag = exchange.settings().files.etag.then(|| format!("\"{modified:x}-{size:x}\"").into_bytes());
    let validators = Validators { modified: Some(modified), etag };
    let head = FileHead::new(exchange, response::content_type(exchange), Some(size), validators, encoding);
    let whole = FileRange { start: 0, length: size };
    // An error page is sent whole.
    if head.status != 200 {
        return file_response(exchange, head, file, whole);
    }
    match head.validators.check_preconditions(exchange) {
        Some(304) => head.not_modified(),
        Some(status) => Err(Next::Reject(status)),
        // As in nginx: no ranges of precompressed files.
        None if head.encoding.coding.is_some() => file_response(exchange, head, file, whole),
        None => apply_range(exchange, head, file, size),
    }
}

/// Creates the response for a listing.
pub fn respond_listing(exchange: &Exchange, mut listing: Listing) -> Result<FileResponse, Next> {
    let content_type = listing.content_type().into();
    let head = FileHead::new(exchange, content_type, None, Validators::default(), StaticEncoding::default());
    listing.utf8 = head.type_with_charset.as_deref().is_some_and(charset::is_utf8);
    match head.validators.check_preconditions(exchange).filter(|_| head.status == 200) {
        Some(304) => head.not_modified(),
        Some(status) => Err(Next::Reject(status)),
        None => Ok(FileResponse { head, body: Body::Listing(listing) }),
    }
}

/// Files are only read.
pub fn method_not_allowed(exchange: &Exchange) -> Result<FileResponse, Next> {
    let response = LocalResponse::page(405, exchange.settings().server_tokens);
    Err(Next::Respond(Box::new(LocalResponse { allow: Some(b"GET, HEAD"), ..response })))
}

/// Applies `Range`.
fn apply_range(exchange: &Exchange, mut head: FileHead, file: File, size: u64) -> Result<FileResponse, Next> {
    let whole = FileRange { start: 0, length: size };
    let ranges_max = exchange.settings().files.max_ranges;
    if ranges_max == 0 {
        return file_response(exchange, head, file, whole);
    }
    head.range_header = RangeHeader::AcceptRanges;
    // RFC 9110 14.2: ranges apply to GET only, and HEAD gets `Accept-Ranges`. nginx sends 206 to both.
    let is_get = exchange.request.method() == b"GET";
    let range = exchange.request.headers.first_named(b"range").filter(|_| is_get);
    let selection = match range.filter(|_| head.validators.if_range_matches(exchange)) {
        Some(range) => range::parse(range, size, ranges_max),
        None => Selection::Whole,
    };
    match selection {
        Selection::Whole => file_response(exchange, head, file, whole),
        Selection::Unsatisfiable => Err(Next::Respond(Box::new(range_not_satisfiable(exchange, &head, size)))),
        Selection::Ranges(ranges) => {
            head.status = 206;
            if let [range] = ranges.as_slice() {
                head.length = Some(range.length);
                head.range_header = RangeHeader::ContentRange(range::content_range(*range, size));
                return file_response(exchange, head, file, *range);
            }
            let multipart = Multipart::new(&ranges, size, head.sent_content_type());
            let content_type = format!("multipart/byteranges; boundary={}", multipart.boundary).into_bytes();
            head.content_type = content_type.as_slice().into();
            head.type_with_charset = head.type_with_charset.map(|_| content_type);
            head.length = Some(multipart.length);
            head.range_header = RangeHeader::None;
            let ranges = multipart.heads.into_iter().zip(ranges).collect();
            Ok(FileResponse { head, body: Body::Multipart { fd: file.into(), ranges, end: multipart.end } })
        }
    }
}

/// Returns a 416, with the headers that `add_header` adds to the 200 that it replaces.
fn range_not_satisfiable(exchange: &Exchange, head: &FileHead, size: u64) -> LocalResponse {
    let mut response = LocalResponse::page(416, exchange.settings().server_tokens);
    HeaderFilter::new(exchange, 200, head.validators.modified).finish_success_only(&mut response.header_lines);
    write_header(b"Content-Range", format!("bytes */{size}").as_bytes(), &mut response.header_lines);
    response
}

/// Creates the response for one range; a small file is read at once.
fn file_response(exchange: &Exchange, head: FileHead, mut file: File, range: FileRange) -> Result<FileResponse, Next> {
    let FileRange { start: from, length: count } = range;
    let body = if count <= SMALL_BYTES_MAX && from == 0 {
        let mut bytes = vec![0; count as usize];
        if file.read_exact(&mut bytes).is_err() {
            log::log_request(
                exchange,
                Level::Alert,
                format_args!("file was truncated while it was read, responding with 500"),
            );
            return Err(Next::Reject(500));
        }
        Body::Bytes(bytes)
    } else {
        Body::File { fd: file.into(), from, count }
    };
    Ok(FileResponse { head, body })
}

impl FileHead {
    fn new(
        exchange: &Exchange,
        content_type: Arc<[u8]>,
        length: Option<u64>,
        validators: Validators,
        encoding: StaticEncoding,
    ) -> Self {
        let status = exchange.overrides.status.unwrap_or(200);
        let type_with_charset = charset::content_type(exchange, status, &content_type);
        Self { status, content_type, length, validators, range_header: RangeHeader::None, encoding, type_with_charset }
    }

    fn not_modified(mut self) -> Result<FileResponse, Next> {
        self.status = 304;
        Ok(FileResponse { head: self, body: Body::Bytes(Vec::new()) })
    }

    /// Decides whether to compress the body.
    pub fn content_encoding(&self, exchange: &Exchange) -> ContentEncoding {
        let encoding = match self.encoding.coding {
            Some(_) => ContentEncoding::Plain,
            None => gzip::content_encoding(exchange, &self.response_info()),
        };
        if encoding == ContentEncoding::Plain && self.encoding.varies { ContentEncoding::Varies } else { encoding }
    }

    fn response_info(&self) -> gzip::ResponseInfo<'_> {
        gzip::ResponseInfo {
            status: self.status,
            content_type: Some(&self.content_type),
            length: self.length,
            fields: None,
            is_file: true,
        }
    }

    pub fn content_type(&self) -> &[u8] {
        &self.content_type
    }

    /// Returns the Content-Type that is sent.
    fn sent_content_type(&self) -> &[u8] {
        self.type_with_charset.as_deref().unwrap_or(&self.content_type)
    }

    /// Returns the head of the response.
    pub fn write(&self, exchange: &Exchange, framing: ResponseFraming) -> Vec<u8> {
        let mut out = Vec::with_capacity(320);
        let is_gzip = framing.content_encoding == ContentEncoding::Gzip;
        let mut filter = HeaderFilter::new(exchange, self.status, self.validators.modified);
        if is_gzip {
            filter.weaken_etag();
        }
        response::write_start(exchange, self.status, response::reason_phrase(self.status).as_bytes(), &mut out);
        if self.status != 304 {
            if !self.content_type.is_empty() {
                write_header(b"Content-Type", self.sent_content_type(), &mut out);
            }
            if let Some(length) = self.length.filter(|_| !is_gzip && !framing.chunked) {
                response::write_content_length(length, &mut out);
            }
        }
        if let Some(modified) = self
            .validators
            .modified
            .filter(|_| matches!(self.status, 200 | 206 | 304) && filter.value(HeaderName::LastModified).is_none())
        {
            write_header(b"Last-Modified", clock::format_http_date(modified).as_bytes(), &mut out);
        }
        response::write_framing(exchange, framing, &mut out);
        if let Some(etag) = self.validators.etag.as_ref().filter(|_| filter.value(HeaderName::Etag).is_none()) {
            let weak = weak_etag(etag).filter(|_| is_gzip);
            write_header(b"ETag", weak.as_deref().unwrap_or(etag), &mut out);
        }
        if let Some(coding) = self.encoding.coding.filter(|_| self.status != 304) {
            write_header(b"Content-Encoding", coding, &mut out);
        }
        filter.finish(&mut out);
        response::write_content_encoding(framing, &mut out);
        match &self.range_header {
            RangeHeader::ContentRange(range) => write_header(b"Content-Range", range.as_bytes(), &mut out),
            RangeHeader::AcceptRanges if self.status == 200 && !is_gzip => {
                out.extend_from_slice(b"Accept-Ranges: bytes\r\n")
            }
            _ => {}
        }
        out.extend_from_slice(b"\r\n");
        out
    }
}
