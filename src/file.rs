//! A path to the answer with a file: found below the root, opened once, described, and sent by sendfile(2).
//!
//! What is served was opened and looked at through one descriptor: nothing is looked up by name a second time, and only
//! regular files are sent.

use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use crate::added::{Added, weakened};
use crate::autoindex::{self, Listing};
use crate::charset::{self, Told};
use crate::clock;
use crate::config::{Level, ListingFormat, Recoding};
use crate::exchange::Exchange;
use crate::gzip;
use crate::head::{Name, field};
use crate::log;
use crate::marks::Marks;
use crate::open;
use crate::precompressed;
use crate::range::{self, Multipart, Part, Wanted};
use crate::reply::{self, Carriage, Packing, Reply};
use crate::variables;

/// A file that is sent with its head in one call.
const SMALL_BYTES_MAX: u64 = 16 * 1024;

/// What became of a path.
pub enum Answer {
    Reply(Reply),
    /// The index of a folder: this path is looked for instead.
    Instead(Vec<u8>),
    File(Found),
}

/// A file to send.
pub struct Found {
    pub head: FileHead,
    pub body: Body,
}

/// What the head says of a file.
pub struct FileHead {
    pub status: u16,
    content_type: Vec<u8>,
    /// Bytes of the body, if they were counted.
    pub length: Option<u64>,
    marks: Marks,
    ranges: Ranges,
    coded: Coded,
    /// The type as the client is told it.
    told: Option<Told>,
}

/// What lies compressed beside a file.
#[derive(Clone, Copy, Default)]
struct Coded {
    /// It is this that is sent, in this coding.
    coding: Option<&'static [u8]>,
    /// Another client may get another file.
    varies: bool,
}

/// What the head says of ranges.
enum Ranges {
    Nothing,
    /// They may be asked for.
    Accepted,
    /// `Content-Range`
    One(String),
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
        parts: Vec<(Vec<u8>, Part)>,
        end: Vec<u8>,
    },
    Listing(Listing),
}

/// Answers a request for a file or a folder.
pub async fn answer(exchange: &Exchange) -> Answer {
    let files = &exchange.settings().files;
    if !matches!(exchange.request.method(), b"GET" | b"HEAD" | b"POST") {
        return not_allowed(exchange);
    }
    if files.root.is_none() && files.alias.is_none() {
        return page(exchange, 404);
    }
    let mut name = Vec::new();
    variables::write_file_name(exchange, &mut name);
    if exchange.rewritten && variables::climbs(&exchange.path) {
        log::about(exchange, Level::Error, format_args!("the path that was made leads out of its folder"));
        return page(exchange, 404);
    }
    if exchange.path.ends_with(b"/") {
        return folder(exchange, &name).await;
    }
    let mut varies = false;
    if (files.gzip, files.brotli) != Default::default() && exchange.request.method() != b"POST" {
        let beside = precompressed::find(exchange, &name);
        varies = beside.varies;
        if let Some((file, meta, coding)) = beside.file {
            return describe(exchange, file, &meta, Coded { coding: Some(coding), varies });
        }
    }
    match open::open(exchange, &name) {
        // A folder is asked for again with a slash.
        Ok((_, meta)) if meta.is_dir() => Answer::Reply(Reply::with_slash(exchange)),
        Ok((_, meta)) if !meta.is_file() => {
            let name = String::from_utf8_lossy(&name);
            log::about(exchange, Level::Crit, format_args!("\"{name}\" is not a regular file"));
            page(exchange, 404)
        }
        Ok(_) if exchange.request.method() == b"POST" => not_allowed(exchange),
        Ok((file, meta)) => describe(exchange, file, &meta, Coded { coding: None, varies }),
        Err(error) => {
            let (status, level) = open::status_of(&error);
            if status != 404 || files.log_not_found {
                let name = String::from_utf8_lossy(&name);
                log::about(exchange, level, format_args!("open() \"{name}\" failed ({})", log::describe(&error)));
            }
            let mut reply = Reply::page(status, exchange.settings().server_tokens);
            if varies && gzip::tells(exchange) {
                reply.fields.push((b"Vary", b"Accept-Encoding".to_vec()));
            }
            Answer::Reply(reply)
        }
    }
}

fn page(exchange: &Exchange, status: u16) -> Answer {
    Answer::Reply(Reply::page(status, exchange.settings().server_tokens))
}

fn not_allowed(exchange: &Exchange) -> Answer {
    let reply = Reply::page(405, exchange.settings().server_tokens);
    Answer::Reply(Reply { allow: Some(b"GET, HEAD"), ..reply })
}

/// A folder: its first index that is there, or a list of what is in it, or nothing.
async fn folder(exchange: &Exchange, folder: &[u8]) -> Answer {
    let files = &exchange.settings().files;
    let mut is_there = false;
    for template in files.index.iter() {
        let name = variables::value(template, exchange);
        if name.starts_with(b"/") {
            return Answer::Instead(name);
        }
        if name.is_empty() {
            continue;
        }
        let full = [folder, &name].concat();
        match open::metadata(exchange, &full) {
            Ok(_) => return Answer::Instead([exchange.path.as_slice(), &name].concat()),
            // It is the folder that is not there, rather than the file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => match open::metadata(exchange, folder) {
                Ok(_) => is_there = true,
                Err(_) => return no_index(exchange, &full, &error),
            },
            Err(error) => return no_index(exchange, &full, &error),
        }
    }
    if files.autoindex.on && matches!(exchange.request.method(), b"GET" | b"HEAD") {
        return list(exchange, folder).await;
    }
    if !is_there && let Err(error) = open::metadata(exchange, folder) {
        return no_index(exchange, folder, &error);
    }
    let folder = String::from_utf8_lossy(folder);
    log::about(exchange, Level::Error, format_args!("directory index of \"{folder}\" is forbidden"));
    page(exchange, 403)
}

fn no_index(exchange: &Exchange, name: &[u8], error: &io::Error) -> Answer {
    let (status, level) = open::status_of(error);
    if status != 404 || exchange.settings().files.log_not_found {
        let name = String::from_utf8_lossy(name);
        let what = if status == 404 { "is not found" } else { "is forbidden" };
        log::about(exchange, level, format_args!("\"{name}\" {what} ({})", log::describe(error)));
    }
    page(exchange, status)
}

async fn list(exchange: &Exchange, name: &[u8]) -> Answer {
    let settings = exchange.settings().files.autoindex;
    let args = exchange.args.as_deref().unwrap_or_default();
    let callback = variables::arg(args, b"callback").filter(|_| settings.format == ListingFormat::Jsonp);
    let callback = callback.unwrap_or_default();
    if !autoindex::is_callback(callback) {
        log::about(exchange, Level::Info, format_args!("client sent invalid callback name"));
        return page(exchange, 400);
    }
    let read = async {
        let (folder, _) = open::open(exchange, name)?;
        Listing::read(&folder, &exchange.path, settings).await
    };
    let mut listing = match read.await {
        Ok(listing) => listing.for_callback(callback),
        Err(error) => {
            let (status, level) = open::status_of(&error);
            let name = String::from_utf8_lossy(name);
            log::about(exchange, level, format_args!("opendir() \"{name}\" failed ({})", log::describe(&error)));
            return page(exchange, status);
        }
    };
    if listing.is_cut {
        let (name, most) = (String::from_utf8_lossy(name), autoindex::ENTRIES_MAX);
        log::about(exchange, Level::Error, format_args!("\"{name}\" has more than the {most} entries that are listed"));
    }
    let mut head = FileHead {
        status: exchange.status.unwrap_or(200),
        content_type: listing.content_type().to_vec(),
        length: None,
        marks: Marks::default(),
        ranges: Ranges::Nothing,
        coded: Coded::default(),
        told: None,
    };
    head.told = charset::of(exchange, head.status, &head.content_type, false);
    listing.utf8 = charset::is_utf8(head.told.as_ref());
    listing.recoding = head.recoding();
    match head.marks.precondition(exchange).filter(|_| head.status == 200) {
        Some(304) => {
            head.status = 304;
            Answer::File(Found { head, body: Body::Bytes(Vec::new()) })
        }
        Some(status) => page(exchange, status),
        None => Answer::File(Found { head, body: Body::Listing(listing) }),
    }
}

fn describe(exchange: &Exchange, file: File, meta: &Metadata, coded: Coded) -> Answer {
    let settings = exchange.settings();
    let modified = u64::try_from(meta.mtime()).unwrap_or(0);
    let size = meta.len();
    // nginx's form, so that caches in front survive a change of the program.
    let etag = settings.files.etag.then(|| format!("\"{modified:x}-{size:x}\"").into_bytes());
    let mut head = FileHead {
        status: exchange.status.unwrap_or(200),
        content_type: reply::content_type(exchange),
        length: Some(size),
        marks: Marks { modified: Some(modified), etag },
        ranges: Ranges::Nothing,
        coded,
        told: None,
    };
    head.told = charset::of(exchange, head.status, &head.content_type, head.coded.coding.is_some());
    // An error page is sent whole.
    if head.status != 200 {
        return body_of(exchange, head, file, Part { from: 0, count: size });
    }
    match head.marks.precondition(exchange) {
        Some(304) => {
            head.status = 304;
            Answer::File(Found { head, body: Body::Bytes(Vec::new()) })
        }
        Some(status) => Answer::Reply(Reply::page(status, settings.server_tokens)),
        // What was compressed beforehand has no parts that a client could put together with others (nginx).
        None if coded.coding.is_some() => body_of(exchange, head, file, Part { from: 0, count: size }),
        None => ranged(exchange, head, file, size),
    }
}

/// What the request wants of the file.
fn ranged(exchange: &Exchange, mut head: FileHead, file: File, size: u64) -> Answer {
    let whole = Part { from: 0, count: size };
    let most = exchange.settings().files.max_ranges.unwrap_or(range::PARTS_USUAL);
    if most == 0 {
        return body_of(exchange, head, file, whole);
    }
    head.ranges = Ranges::Accepted;
    let asked = exchange.request.fields.named(b"range").next();
    let wanted = match asked.filter(|_| head.marks.allow_range(exchange)) {
        Some(asked) => range::parse(asked, size, most),
        None => Wanted::Whole,
    };
    match wanted {
        Wanted::Whole => body_of(exchange, head, file, whole),
        Wanted::Nothing => Answer::Reply(out_of_range(exchange, &head, size)),
        Wanted::Parts(parts) => {
            head.status = 206;
            if let [part] = parts.as_slice() {
                head.length = Some(part.count);
                head.ranges = Ranges::One(range::content_range(*part, size));
                return body_of(exchange, head, file, *part);
            }
            let told = head.told.as_ref().map_or(&head.content_type, |told| &told.content_type);
            let multipart = Multipart::new(&parts, size, told);
            head.content_type = format!("multipart/byteranges; boundary={}", multipart.boundary).into_bytes();
            if let Some(told) = &mut head.told {
                told.content_type.clone_from(&head.content_type);
            }
            head.length = Some(multipart.length);
            head.ranges = Ranges::Nothing;
            let parts = multipart.heads.into_iter().zip(parts).collect();
            Answer::File(Found { head, body: Body::Parts { fd: file.into(), parts, end: multipart.end } })
        }
    }
}

/// A 416. It keeps what was added to the answer that it takes the place of.
fn out_of_range(exchange: &Exchange, head: &FileHead, size: u64) -> Reply {
    let mut reply = Reply::page(416, exchange.settings().server_tokens);
    Added::new(exchange, 200, head.marks.modified).finish_usual(&mut reply.lines);
    field(b"Content-Range", format!("bytes */{size}").as_bytes(), &mut reply.lines);
    reply
}

/// Small files are read at once.
fn body_of(exchange: &Exchange, head: FileHead, mut file: File, part: Part) -> Answer {
    let Part { from, count } = part;
    let body = if count <= SMALL_BYTES_MAX && from == 0 {
        let mut bytes = Vec::with_capacity(count as usize);
        if (&mut file).take(count).read_to_end(&mut bytes).is_err() || bytes.len() as u64 != count {
            return Answer::Reply(Reply::page(500, exchange.settings().server_tokens));
        }
        Body::Bytes(bytes)
    } else {
        Body::File { fd: file.into(), from, count }
    };
    Answer::File(Found { head, body })
}

impl FileHead {
    /// How the body is packed.
    pub fn packing(&self, exchange: &Exchange) -> Packing {
        let packing = match self.coded.coding {
            Some(_) => Packing::Plain,
            None => gzip::packing(exchange, &self.about()),
        };
        if packing == Packing::Plain && self.coded.varies { Packing::Varies } else { packing }
    }

    /// What each byte of the body becomes.
    pub fn recoding(&self) -> Option<Recoding> {
        self.told.as_ref().and_then(|told| told.recoding.clone())
    }

    /// What compression has to know.
    fn about(&self) -> gzip::About<'_> {
        gzip::About {
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

    /// The head of the answer.
    pub fn write(&self, exchange: &Exchange, carriage: Carriage) -> Vec<u8> {
        let mut out = Vec::with_capacity(320);
        let packed = carriage.packing == Packing::Gzip;
        let mut added = Added::new(exchange, self.status, self.marks.modified);
        if packed {
            added.weaken();
        }
        reply::start(exchange, self.status, reply::reason(self.status).as_bytes(), &mut out);
        if self.status != 304 {
            if !self.content_type.is_empty() {
                let told = self.told.as_ref().map_or(&self.content_type, |told| &told.content_type);
                field(b"Content-Type", told, &mut out);
            }
            if let Some(length) = self.length.filter(|_| !packed && !carriage.chunked) {
                let _ = write!(out, "Content-Length: {length}\r\n");
            }
        }
        if let Some(modified) = self
            .marks
            .modified
            .filter(|_| matches!(self.status, 200 | 206 | 304) && added.value(Name::LastModified).is_none())
        {
            field(b"Last-Modified", clock::http_time(modified).as_bytes(), &mut out);
        }
        reply::connection(exchange, carriage, &mut out);
        if let Some(etag) = self.marks.etag.as_ref().filter(|_| added.value(Name::Etag).is_none()) {
            let weak = weakened(etag).filter(|_| packed);
            field(b"ETag", weak.as_deref().unwrap_or(etag), &mut out);
        }
        if let Some(coding) = self.coded.coding.filter(|_| self.status != 304) {
            field(b"Content-Encoding", coding, &mut out);
        }
        added.finish(&mut out);
        reply::packing(carriage, &mut out);
        match &self.ranges {
            Ranges::One(range) => field(b"Content-Range", range.as_bytes(), &mut out),
            Ranges::Accepted if self.status == 200 && !packed => out.extend_from_slice(b"Accept-Ranges: bytes\r\n"),
            _ => {}
        }
        out.extend_from_slice(b"\r\n");
        out
    }
}
