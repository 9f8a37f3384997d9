//! An open file, or the list of a folder, to an answer: its head, and what of the file is sent.

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
use crate::request::response::{self, ContentEncoding, LocalResponse, ResponseFraming};
use crate::request::response_headers::{HeaderFilter, weak_etag};
use crate::runtime::clock;

/// A file that is sent with its head in one call.
const SMALL_BYTES_MAX: u64 = 16 * 1024;

/// What became of a path.
pub enum StaticResponse {
    Reply(LocalResponse),
    /// The index of a folder: this path is looked for instead.
    IndexRedirect(Vec<u8>),
    File(FileResponse),
}

/// A file to send.
pub struct FileResponse {
    pub head: FileHead,
    pub body: Body,
}

/// What the head says of a file.
pub struct FileHead {
    pub status: u16,
    content_type: Arc<[u8]>,
    /// Bytes of the body, if they were counted.
    pub length: Option<u64>,
    validators: Validators,
    range_header: RangeHeader,
    encoding: StaticEncoding,
    /// The type as the client is told it.
    type_with_charset: Option<Vec<u8>>,
}

/// What lies compressed beside a file.
#[derive(Clone, Copy, Default)]
pub struct StaticEncoding {
    /// It is this that is sent, in this coding.
    pub coding: Option<&'static [u8]>,
    /// Another client may get another file.
    pub varies: bool,
}

/// What the head says of ranges.
enum RangeHeader {
    None,
    /// They may be asked for.
    AcceptRanges,
    /// `Content-Range`
    ContentRange(String),
}

pub enum Body {
    Bytes(Vec<u8>),
    /// From where, and how much.
    File {
        fd: OwnedFd,
        from: u64,
        count: u64,
    },
    /// Parts with what goes before each of them, and the end.
    Parts {
        fd: OwnedFd,
        parts: Vec<(Vec<u8>, FileRange)>,
        end: Vec<u8>,
    },
    Listing(Listing),
}

impl Body {
    /// Bytes of it, as far as they were counted.
    pub fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { count, .. } => *count,
            Self::Parts { parts, end, .. } => {
                let part = |(before, part): &(Vec<u8>, FileRange)| before.len() as u64 + part.length;
                parts.iter().map(part).sum::<u64>() + end.len() as u64
            }
            Self::Listing(_) => 0,
        }
    }
}

/// Describes a file that is open, and takes of it what the request wants.
pub fn respond(exchange: &Exchange, file: File, meta: &Metadata, coded: StaticEncoding) -> StaticResponse {
    let modified = u64::try_from(meta.mtime()).unwrap_or(0);
    let size = meta.len();
    // nginx's form, so that caches in front survive a change of the program.
    let etag = exchange.settings().files.etag.then(|| format!("\"{modified:x}-{size:x}\"").into_bytes());
    let marks = Validators { modified: Some(modified), etag };
    let head = FileHead::new(exchange, response::content_type(exchange), Some(size), marks, coded);
    let whole = FileRange { start: 0, length: size };
    // An error page is sent whole.
    if head.status != 200 {
        return file_response(exchange, head, file, whole);
    }
    match head.validators.check_preconditions(exchange) {
        Some(304) => head.not_modified(),
        Some(status) => status_page(exchange, status),
        // What was compressed beforehand has no parts that a client could put together with others (nginx).
        None if head.encoding.coding.is_some() => file_response(exchange, head, file, whole),
        None => apply_range(exchange, head, file, size),
    }
}

/// Describes the list of a folder.
pub fn respond_listing(exchange: &Exchange, mut listing: Listing) -> StaticResponse {
    let content_type = listing.content_type().into();
    let head = FileHead::new(exchange, content_type, None, Validators::default(), StaticEncoding::default());
    listing.utf8 = head.type_with_charset.as_deref().is_some_and(charset::is_utf8);
    match head.validators.check_preconditions(exchange).filter(|_| head.status == 200) {
        Some(304) => head.not_modified(),
        Some(status) => status_page(exchange, status),
        None => StaticResponse::File(FileResponse { head, body: Body::Listing(listing) }),
    }
}

/// A page in place of a file.
pub fn status_page(exchange: &Exchange, status: u16) -> StaticResponse {
    StaticResponse::Reply(LocalResponse::page(status, exchange.settings().server_tokens))
}

/// Files are only read.
pub fn method_not_allowed(exchange: &Exchange) -> StaticResponse {
    let response = LocalResponse::page(405, exchange.settings().server_tokens);
    StaticResponse::Reply(LocalResponse { allow: Some(b"GET, HEAD"), ..response })
}

/// What the request wants of the file.
fn apply_range(exchange: &Exchange, mut head: FileHead, file: File, size: u64) -> StaticResponse {
    let whole = FileRange { start: 0, length: size };
    let most = exchange.settings().files.max_ranges;
    if most == 0 {
        return file_response(exchange, head, file, whole);
    }
    head.range_header = RangeHeader::AcceptRanges;
    // RFC 9110 14.2: parts are of a GET, and a HEAD is told what there is. nginx answers both with 206.
    let is_get = exchange.request.method() == b"GET";
    let asked = exchange.request.headers.first_named(b"range").filter(|_| is_get);
    let wanted = match asked.filter(|_| head.validators.if_range_matches(exchange)) {
        Some(asked) => range::parse(asked, size, most),
        None => Selection::Whole,
    };
    match wanted {
        Selection::Whole => file_response(exchange, head, file, whole),
        Selection::Unsatisfiable => StaticResponse::Reply(range_not_satisfiable(exchange, &head, size)),
        Selection::Ranges(parts) => {
            head.status = 206;
            if let [part] = parts.as_slice() {
                head.length = Some(part.length);
                head.range_header = RangeHeader::ContentRange(range::content_range(*part, size));
                return file_response(exchange, head, file, *part);
            }
            let multipart = Multipart::new(&parts, size, head.sent_content_type());
            let content_type = format!("multipart/byteranges; boundary={}", multipart.boundary).into_bytes();
            head.content_type = content_type.as_slice().into();
            head.type_with_charset = head.type_with_charset.map(|_| content_type);
            head.length = Some(multipart.length);
            head.range_header = RangeHeader::None;
            let parts = multipart.heads.into_iter().zip(parts).collect();
            StaticResponse::File(FileResponse {
                head,
                body: Body::Parts { fd: file.into(), parts, end: multipart.end },
            })
        }
    }
}

/// A 416. It keeps what was added to the answer that it takes the place of.
fn range_not_satisfiable(exchange: &Exchange, head: &FileHead, size: u64) -> LocalResponse {
    let mut response = LocalResponse::page(416, exchange.settings().server_tokens);
    HeaderFilter::new(exchange, 200, head.validators.modified).finish_success_only(&mut response.header_lines);
    write_header(b"Content-Range", format!("bytes */{size}").as_bytes(), &mut response.header_lines);
    response
}

/// Small files are read at once.
fn file_response(exchange: &Exchange, head: FileHead, mut file: File, part: FileRange) -> StaticResponse {
    let FileRange { start: from, length: count } = part;
    let body = if count <= SMALL_BYTES_MAX && from == 0 {
        let mut bytes = vec![0; count as usize];
        if file.read_exact(&mut bytes).is_err() {
            log::log_request(exchange, Level::Alert, format_args!("the file was truncated before it was sent"));
            return status_page(exchange, 500);
        }
        Body::Bytes(bytes)
    } else {
        Body::File { fd: file.into(), from, count }
    };
    StaticResponse::File(FileResponse { head, body })
}

impl FileHead {
    fn new(
        exchange: &Exchange,
        content_type: Arc<[u8]>,
        length: Option<u64>,
        marks: Validators,
        coded: StaticEncoding,
    ) -> Self {
        let status = exchange.overrides.status.unwrap_or(200);
        let told = charset::content_type(exchange, status, &content_type);
        Self {
            status,
            content_type,
            length,
            validators: marks,
            range_header: RangeHeader::None,
            encoding: coded,
            type_with_charset: told,
        }
    }

    fn not_modified(mut self) -> StaticResponse {
        self.status = 304;
        StaticResponse::File(FileResponse { head: self, body: Body::Bytes(Vec::new()) })
    }

    /// How the body is packed.
    pub fn content_encoding(&self, exchange: &Exchange) -> ContentEncoding {
        let packing = match self.encoding.coding {
            Some(_) => ContentEncoding::Plain,
            None => gzip::content_encoding(exchange, &self.response_info()),
        };
        if packing == ContentEncoding::Plain && self.encoding.varies { ContentEncoding::Varies } else { packing }
    }

    /// What compression has to know.
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

    /// The type as the client is told it.
    fn sent_content_type(&self) -> &[u8] {
        self.type_with_charset.as_deref().unwrap_or(&self.content_type)
    }

    /// The head of the answer.
    pub fn write(&self, exchange: &Exchange, framing: ResponseFraming) -> Vec<u8> {
        let mut out = Vec::with_capacity(320);
        let packed = framing.content_encoding == ContentEncoding::Gzip;
        let mut added = HeaderFilter::new(exchange, self.status, self.validators.modified);
        if packed {
            added.weaken_etag();
        }
        response::write_start(exchange, self.status, response::reason_phrase(self.status).as_bytes(), &mut out);
        if self.status != 304 {
            if !self.content_type.is_empty() {
                write_header(b"Content-Type", self.sent_content_type(), &mut out);
            }
            if let Some(length) = self.length.filter(|_| !packed && !framing.chunked) {
                response::write_content_length(length, &mut out);
            }
        }
        if let Some(modified) = self
            .validators
            .modified
            .filter(|_| matches!(self.status, 200 | 206 | 304) && added.value(HeaderName::LastModified).is_none())
        {
            write_header(b"Last-Modified", clock::format_http_date(modified).as_bytes(), &mut out);
        }
        response::write_framing(exchange, framing, &mut out);
        if let Some(etag) = self.validators.etag.as_ref().filter(|_| added.value(HeaderName::Etag).is_none()) {
            let weak = weak_etag(etag).filter(|_| packed);
            write_header(b"ETag", weak.as_deref().unwrap_or(etag), &mut out);
        }
        if let Some(coding) = self.encoding.coding.filter(|_| self.status != 304) {
            write_header(b"Content-Encoding", coding, &mut out);
        }
        added.finish(&mut out);
        response::write_content_encoding(framing, &mut out);
        match &self.range_header {
            RangeHeader::ContentRange(range) => write_header(b"Content-Range", range.as_bytes(), &mut out),
            RangeHeader::AcceptRanges if self.status == 200 && !packed => {
                out.extend_from_slice(b"Accept-Ranges: bytes\r\n")
            }
            _ => {}
        }
        out.extend_from_slice(b"\r\n");
        out
    }
}
