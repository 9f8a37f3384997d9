//! A path to the answer with a file: found below the root, opened once, described, and sent by sendfile(2).
//!
//! What is served was opened and looked at through one descriptor: nothing is looked up by name a second time, and only
//! regular files are sent.

use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use crate::added::{Added, weakened};
use crate::clock;
use crate::config::Level;
use crate::exchange::Exchange;
use crate::gzip;
use crate::head::{Name, field};
use crate::log;
use crate::marks::Marks;
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
    length: u64,
    marks: Marks,
    ranges: Ranges,
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
}

/// Answers a request for a file.
pub fn answer(exchange: &Exchange) -> Answer {
    let files = &exchange.settings().files;
    let page = |status| Answer::Reply(Reply::page(status, exchange.settings().server_tokens));
    let not_allowed = || {
        let reply = Reply::page(405, exchange.settings().server_tokens);
        Answer::Reply(Reply { allow: Some(b"GET, HEAD"), ..reply })
    };
    // A POST to what is not there gets 404, as from nginx.
    let posted = exchange.request.method() == b"POST";
    if !posted && !matches!(exchange.request.method(), b"GET" | b"HEAD") {
        return not_allowed();
    }
    if files.root.is_none() && files.alias.is_none() {
        return page(404);
    }
    let mut name = Vec::new();
    variables::write_file_name(exchange, &mut name);
    if exchange.rewritten && variables::climbs(&exchange.path) {
        log::about(exchange, Level::Error, format_args!("the path that was made leads out of its folder"));
        return page(404);
    }
    if exchange.path.ends_with(b"/") {
        return index(exchange, &name);
    }
    match open(&name) {
        Ok((_, meta)) if meta.is_file() && posted => not_allowed(),
        Ok((file, meta)) if meta.is_file() => describe(exchange, file, &meta),
        // A folder is asked for again with a slash.
        Ok((_, meta)) if meta.is_dir() => Answer::Reply(Reply::with_slash(exchange)),
        Ok(_) => page(404),
        Err(error) => {
            let (status, level) = status_of(&error);
            if status != 404 || files.log_not_found {
                let path = String::from_utf8_lossy(&name);
                log::about(exchange, level, format_args!("open() \"{path}\" failed ({})", log::describe(&error)));
            }
            page(status)
        }
    }
}

fn status_of(error: &io::Error) -> (u16, Level) {
    use rustix::io::Errno;
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        // A socket can't be opened at all: NXIO.
        Some(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::NXIO) => (404, Level::Error),
        Some(Errno::ACCESS | Errno::LOOP | Errno::PERM) => (403, Level::Error),
        _ => (500, Level::Crit),
    }
}

/// Opened without waiting: a FIFO must not hold up the worker.
fn open(name: &[u8]) -> io::Result<(File, Metadata)> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(OsString::from_vec(name.to_vec()))?;
    let meta = file.metadata()?;
    Ok((file, meta))
}

/// The first index file that is there.
fn index(exchange: &Exchange, folder: &[u8]) -> Answer {
    let settings = exchange.settings();
    for template in settings.files.index.iter() {
        let name = variables::value(template, exchange);
        if name.starts_with(b"/") {
            return Answer::Instead(name);
        }
        let full = OsString::from_vec([folder, &name].concat());
        if std::fs::metadata(full).is_ok_and(|meta| meta.is_file()) {
            return Answer::Instead([exchange.path.as_slice(), &name].concat());
        }
    }
    let status = match std::fs::metadata(OsString::from_vec(folder.to_vec())) {
        Ok(_) => 403,
        Err(_) => 404,
    };
    let path = String::from_utf8_lossy(folder);
    if status == 404 && !settings.files.log_not_found {
        return Answer::Reply(Reply::page(status, settings.server_tokens));
    }
    let what = if status == 403 { "directory index of" } else { "there is no" };
    log::about(
        exchange,
        Level::Error,
        format_args!("{what} \"{path}\"{}", if status == 403 { " is forbidden" } else { "" }),
    );
    Answer::Reply(Reply::page(status, settings.server_tokens))
}

fn describe(exchange: &Exchange, file: File, meta: &Metadata) -> Answer {
    let settings = exchange.settings();
    let modified = u64::try_from(meta.mtime()).unwrap_or(0);
    let size = meta.len();
    // nginx's form, so that caches in front survive a change of the program.
    let etag = settings.files.etag.then(|| format!("\"{modified:x}-{size:x}\"").into_bytes());
    let mut head = FileHead {
        status: exchange.status.unwrap_or(200),
        content_type: reply::content_type(exchange),
        length: size,
        marks: Marks { modified: Some(modified), etag },
        ranges: Ranges::Nothing,
    };
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
                head.length = part.count;
                head.ranges = Ranges::One(range::content_range(*part, size));
                return body_of(exchange, head, file, *part);
            }
            let multipart = Multipart::new(&parts, size, &head.content_type);
            head.content_type = format!("multipart/byteranges; boundary={}", multipart.boundary).into_bytes();
            head.length = multipart.length;
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
    /// What compression has to know.
    pub fn about(&self) -> gzip::About<'_> {
        gzip::About {
            status: self.status,
            content_type: Some(&self.content_type),
            length: Some(self.length),
            fields: None,
            is_file: true,
        }
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
            field(b"Content-Type", &self.content_type, &mut out);
            if !packed {
                let _ = write!(out, "Content-Length: {}\r\n", self.length);
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
        added.finish(&mut out);
        match &self.ranges {
            Ranges::One(range) => field(b"Content-Range", range.as_bytes(), &mut out),
            Ranges::Accepted if self.status == 200 && !packed => out.extend_from_slice(b"Accept-Ranges: bytes\r\n"),
            _ => {}
        }
        out.extend_from_slice(b"\r\n");
        out
    }
}
