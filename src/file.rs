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
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::{IfModifiedSince, Level};
use crate::exchange::Exchange;
use crate::log;
use crate::reply::{self, Reply};
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
    modified: u64,
    etag: Option<String>,
    range: Option<String>,
}

pub enum Body {
    Bytes(Vec<u8>),
    /// From where, and how much.
    File {
        fd: OwnedFd,
        from: u64,
        count: u64,
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
    let etag = settings.files.etag.then(|| format!("\"{modified:x}-{size:x}\""));
    let mut head =
        FileHead { status: 200, content_type: content_type(exchange), length: size, modified, etag, range: None };
    if let Some(status) = exchange.status.filter(|status| *status != 200) {
        // An error page is sent whole.
        head.status = status;
        return body_of(exchange, head, file, 0, size);
    }
    match precondition(exchange, &head) {
        Some(304) => {
            head.status = 304;
            return Answer::File(Found { head, body: Body::Bytes(Vec::new()) });
        }
        Some(status) => return Answer::Reply(Reply::page(status, settings.server_tokens)),
        None => {}
    }
    let (mut from, mut count) = (0, size);
    match range(exchange, &head) {
        Some(Ok((start, end))) => {
            (from, count) = (start, end - start + 1);
            head.status = 206;
            head.length = count;
            head.range = Some(format!("bytes {start}-{end}/{size}"));
        }
        Some(Err(())) => {
            let mut reply = Reply::page(416, settings.server_tokens);
            reply.content_range = Some(format!("bytes */{size}"));
            return Answer::Reply(reply);
        }
        None => {}
    }
    body_of(exchange, head, file, from, count)
}

/// Small files are read at once.
fn body_of(exchange: &Exchange, head: FileHead, mut file: File, from: u64, count: u64) -> Answer {
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

/// The type by the extension, in any letter case.
fn content_type(exchange: &Exchange) -> Vec<u8> {
    let settings = exchange.settings();
    let name = exchange.path.rsplit(|b| *b == b'/').next().unwrap_or_default();
    let extension = name.iter().rposition(|b| *b == b'.').and_then(|dot| name.get(dot + 1..)).unwrap_or_default();
    let extension = String::from_utf8_lossy(extension).to_ascii_lowercase();
    match settings.files.types.get(&extension) {
        Some(known) => known.clone().into_bytes(),
        None => variables::value(&settings.default_type, exchange),
    }
}

/// RFC 9110 13.2.2: the status that a precondition leads to.
fn precondition(exchange: &Exchange, head: &FileHead) -> Option<u16> {
    let field = |name: &'static [u8]| exchange.request.fields.named(name).next();
    let time = |value: &[u8]| {
        let text = std::str::from_utf8(value).ok()?;
        Some(httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?.as_secs())
    };
    if let Some(list) = field(b"if_match") {
        if !etag_in(list, head, false) {
            return Some(412);
        }
    } else if let Some(since) = field(b"if_unmodified_since").and_then(time)
        && head.modified > since
    {
        return Some(412);
    }
    if let Some(list) = field(b"if_none_match") {
        return etag_in(list, head, true).then_some(304);
    }
    let since = field(b"if_modified_since").and_then(time)?;
    let fresh = match exchange.settings().files.if_modified_since {
        IfModifiedSince::Off => false,
        IfModifiedSince::Exact => since == head.modified,
        IfModifiedSince::Before => head.modified <= since,
    };
    fresh.then_some(304)
}

fn etag_in(list: &[u8], head: &FileHead, weakly: bool) -> bool {
    if list == b"*" {
        return true;
    }
    let Some(etag) = &head.etag else { return false };
    crate::head::tokens(list).any(|token| {
        let strong = token.strip_prefix(b"W/").filter(|_| weakly).unwrap_or(token);
        strong == etag.as_bytes()
    })
}

/// The one range that was asked for (RFC 9110 14.2), first and last byte; several ranges get the whole file.
fn range(exchange: &Exchange, head: &FileHead) -> Option<Result<(u64, u64), ()>> {
    if exchange.request.method() != b"GET" {
        return None;
    }
    let field = |name: &'static [u8]| exchange.request.fields.named(name).next();
    let spec = std::str::from_utf8(field(b"range")?).ok()?;
    if let Some(validator) = field(b"if_range") {
        let same_tag = head.etag.as_ref().is_some_and(|etag| validator == etag.as_bytes());
        let same_time = validator == http_time(head.modified).as_bytes();
        if !same_tag && !same_time {
            return None;
        }
    }
    let (unit, list) = spec.split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") || list.contains(',') {
        return None;
    }
    let size = head.length;
    if size == 0 {
        return None;
    }
    let Some((first, last)) = list.trim().split_once('-') else { return Some(Err(())) };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    Some(match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last && first < size => Ok((first, last.min(size - 1))),
        (Some(first), None) if last.is_empty() && first < size => Ok((first, size - 1)),
        (None, Some(count)) if first.is_empty() && count > 0 => Ok((size.saturating_sub(count), size - 1)),
        _ => Err(()),
    })
}

fn http_time(seconds: u64) -> String {
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

impl FileHead {
    /// The head of the answer.
    pub fn write(&self, exchange: &Exchange, keep_alive: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(320);
        reply::start(exchange, self.status, reply::reason(self.status).as_bytes(), &mut out);
        if self.status != 304 {
            reply::field(b"Content-Type", &self.content_type, &mut out);
            let _ = write!(out, "Content-Length: {}\r\n", self.length);
        }
        reply::field(b"Last-Modified", http_time(self.modified).as_bytes(), &mut out);
        reply::connection(exchange, keep_alive, &mut out);
        if let Some(etag) = &self.etag {
            reply::field(b"ETag", etag.as_bytes(), &mut out);
        }
        reply::added(exchange, self.status, &mut out);
        match &self.range {
            Some(range) => reply::field(b"Content-Range", range.as_bytes(), &mut out),
            None if self.status == 200 => out.extend_from_slice(b"Accept-Ranges: bytes\r\n"),
            None => {}
        }
        out.extend_from_slice(b"\r\n");
        out
    }
}
