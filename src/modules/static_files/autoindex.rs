//! Directory listings (`autoindex`): read once, sorted, and written part by part as they are sent.
//!
//! The pages are nginx's byte for byte; only chunks may end elsewhere. File names are arbitrary bytes, escaped for the format
//! of the listing.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Dir, FileType, statat};
use rustix::io::Errno;

use crate::config::{Autoindex, ListingFormat};
use crate::http1::uri;
use crate::request::log;
use crate::runtime::{clock, executor};

/// Listed entries of a directory. All are in memory, as they are sorted.
pub const ENTRIES_MAX: usize = 16 * 1024;
/// Entries that are read in one iteration of the event loop.
const ENTRIES_PER_TICK: usize = 128;
/// Bytes of a listing that are written at once.
const PART_BYTES: usize = 16 * 1024;
/// Characters of a name that HTML shows.
const NAME_CHARS_MAX: usize = 50;

struct DirectoryEntry {
    name: Box<[u8]>,
    is_directory: bool,
    is_file: bool,
    size: u64,
    /// Unix time in seconds.
    modified: u64,
}

/// A directory listing, as far as it is not sent yet.
pub struct Listing {
    path: Vec<u8>,
    entries: Vec<DirectoryEntry>,
    settings: Autoindex,
    /// The Content-Type declares UTF-8.
    pub utf8: bool,
    /// The function to call (JSONP).
    callback: Option<Vec<u8>>,
    position: ListingPosition,
    /// There are more than [`ENTRIES_MAX`] entries.
    pub is_truncated: bool,
}

#[derive(Clone, Copy)]
enum ListingPosition {
    Start,
    Entry(usize),
    Done,
}

impl Listing {
    /// Reads a directory; `path` is the one of the request.
    pub async fn read(directory: &File, path: &[u8], settings: Autoindex) -> io::Result<Self> {
        let mut entries = Vec::new();
        let mut is_cut = false;
        for (number, entry) in Dir::read_from(directory)?.enumerate() {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_bytes().starts_with(b".") {
                continue;
            }
            if entries.len() == ENTRIES_MAX {
                is_cut = true;
                break;
            }
            if number % ENTRIES_PER_TICK == ENTRIES_PER_TICK - 1 {
                executor::yield_now().await;
            }
            entries.extend(stat_entry(directory, name.to_bytes())?);
        }
        entries.sort_unstable_by(|a, b| b.is_directory.cmp(&a.is_directory).then_with(|| a.name.cmp(&b.name)));
        Ok(Self {
            path: path.to_vec(),
            entries,
            settings,
            utf8: false,
            callback: None,
            position: ListingPosition::Start,
            is_truncated: is_cut,
        })
    }

    /// Sets the function of JSONP; empty: plain JSON.
    pub fn set_callback(mut self, callback: &[u8]) -> Self {
        self.callback = (!callback.is_empty()).then(|| callback.to_vec());
        self
    }

    pub fn content_type(&self) -> &'static [u8] {
        match (self.settings.format, &self.callback) {
            (ListingFormat::Html, _) => b"text/html",
            (ListingFormat::Xml, _) => b"text/xml; charset=utf-8",
            (ListingFormat::Jsonp, Some(_)) => b"application/javascript",
            (ListingFormat::Json | ListingFormat::Jsonp, _) => b"application/json",
        }
    }

    /// Appends the next part; nothing once the listing is complete.
    pub fn write_part(&mut self, out: &mut Vec<u8>) {
        let end = out.len() + PART_BYTES;
        while out.len() < end {
            self.position = match self.position {
                ListingPosition::Done => return,
                ListingPosition::Start => {
                    self.write_start(out);
                    ListingPosition::Entry(0)
                }
                ListingPosition::Entry(at) => match self.entries.get(at) {
                    Some(entry) => {
                        self.write_entry(entry, at == 0, out);
                        ListingPosition::Entry(at + 1)
                    }
                    None => {
                        self.write_end(out);
                        ListingPosition::Done
                    }
                },
            };
        }
    }

    fn write_start(&self, out: &mut Vec<u8>) {
        match self.settings.format {
            ListingFormat::Html => {
                out.extend_from_slice(b"<html>\r\n<head><title>Index of ");
                escape_html(&self.path, out);
                out.extend_from_slice(b"</title></head>\r\n<body>\r\n<h1>Index of ");
                escape_html(&self.path, out);
                out.extend_from_slice(b"</h1><hr><pre><a href=\"../\">../</a>\r\n");
            }
            ListingFormat::Xml => out.extend_from_slice(b"<?xml version=\"1.0\"?>\r\n<list>\r\n"),
            ListingFormat::Json | ListingFormat::Jsonp => {
                if let Some(callback) = &self.callback {
                    // As in nginx: with the comment in front, a callback cannot make the response look like another type.
                    out.extend_from_slice(b"/* callback */\r\n");
                    out.extend_from_slice(callback);
                    out.push(b'(');
                }
                out.extend_from_slice(b"[");
            }
        }
    }

    fn write_entry(&self, entry: &DirectoryEntry, is_first: bool, out: &mut Vec<u8>) {
        match self.settings.format {
            ListingFormat::Html => entry.write_html(&self.settings, self.utf8, out),
            ListingFormat::Xml => entry.write_xml(out),
            ListingFormat::Json | ListingFormat::Jsonp => {
                out.extend_from_slice(if is_first { b"\r\n" } else { b",\r\n" });
                entry.write_json(out);
            }
        }
    }

    fn write_end(&self, out: &mut Vec<u8>) {
        match self.settings.format {
            ListingFormat::Html => out.extend_from_slice(b"</pre><hr></body>\r\n</html>\r\n"),
            ListingFormat::Xml => out.extend_from_slice(b"</list>\r\n"),
            ListingFormat::Json | ListingFormat::Jsonp => {
                out.extend_from_slice(b"\r\n]");
                if self.callback.is_some() {
                    out.extend_from_slice(b");");
                }
            }
        }
    }
}

/// Whether `callback` is a valid name of a function.
pub fn is_callback_name(name: &[u8]) -> bool {
    name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.'))
}

/// Describes an entry: the target of a link, or the link itself if it is broken. `None` if access is denied, or it is gone.
fn stat_entry(directory: &File, name: &[u8]) -> io::Result<Option<DirectoryEntry>> {
    let directory = directory.as_fd();
    let stat = match statat(directory, name, AtFlags::empty()) {
        Err(Errno::NOENT | Errno::LOOP) => match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            stat => stat?,
        },
        Err(Errno::ACCESS) => return Ok(None),
        stat => stat?,
    };
    let kind = FileType::from_raw_mode(stat.st_mode);
    Ok(Some(DirectoryEntry {
        name: name.into(),
        is_directory: kind == FileType::Directory,
        is_file: kind == FileType::RegularFile,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified: u64::try_from(stat.st_mtime).unwrap_or(0),
    }))
}

impl DirectoryEntry {
    fn kind(&self) -> &'static str {
        match (self.is_directory, self.is_file) {
            (true, _) => "directory",
            (false, true) => "file",
            (false, false) => "other",
        }
    }

    fn write_html(&self, settings: &Autoindex, utf8: bool, out: &mut Vec<u8>) {
        let slash: &[u8] = if self.is_directory { b"/" } else { b"" };
        out.extend_from_slice(b"<a href=\"");
        uri::encode_component(&self.name, out);
        out.extend_from_slice(slash);
        out.extend_from_slice(b"\">");
        // The slash of a directory is left out where it does not fit.
        let (chars, shown) = shorten_name(&self.name, utf8);
        if chars > NAME_CHARS_MAX {
            escape_html(shown, out);
            out.extend_from_slice(b"..&gt;</a>");
        } else {
            escape_html(&self.name, out);
            let fits = chars < NAME_CHARS_MAX;
            out.extend_from_slice(if fits { slash } else { b"" });
            out.extend_from_slice(b"</a>");
            let width = NAME_CHARS_MAX - chars - if fits { slash.len() } else { 0 };
            out.resize(out.len() + width, b' ');
        }
        let modified = if settings.local_time { clock::to_local(self.modified) } else { self.modified };
        let _ = write!(out, " {} ", clock::format(modified, "%d-%b-%Y %R"));
        let width = if settings.exact_size { 19 } else { 7 };
        let size = match (self.is_directory, settings.exact_size) {
            (true, _) => "-".to_owned(),
            (false, true) => self.size.to_string(),
            (false, false) => rounded_size(self.size),
        };
        let _ = write!(out, "{size:>width$}\r\n");
    }

    fn write_xml(&self, out: &mut Vec<u8>) {
        let kind = self.kind();
        let _ = write!(out, "<{kind} mtime=\"{}\"", clock::format(self.modified, "%Y-%m-%dT%TZ"));
        if self.is_file {
            let _ = write!(out, " size=\"{}\"", self.size);
        }
        out.push(b'>');
        escape_html(&self.name, out);
        let _ = write!(out, "</{kind}>\r\n");
    }

    fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{ \"name\":\"");
        self.name.iter().for_each(|byte| log::write_json_byte(*byte, out));
        let _ =
            write!(out, "\", \"type\":\"{}\", \"mtime\":\"{}\"", self.kind(), clock::format_http_date(self.modified));
        if self.is_file {
            let _ = write!(out, ", \"size\":{}", self.size);
        }
        out.extend_from_slice(b" }");
    }
}

/// Returns the number of characters of a name, and the start to show if there are too many. Without UTF-8 bytes count.
fn shorten_name(name: &[u8], utf8: bool) -> (usize, &[u8]) {
    const SHOWN: usize = NAME_CHARS_MAX - 3;
    match std::str::from_utf8(name).ok().filter(|_| utf8) {
        Some(text) => {
            let end = text.char_indices().nth(SHOWN).map_or(name.len(), |(at, _)| at);
            (text.chars().count(), name.get(..end).unwrap_or(name))
        }
        None => (name.len(), name.get(..SHOWN).unwrap_or(name)),
    }
}

/// `1000`, `10K`, `5M`, `11G`.
fn rounded_size(size: u64) -> String {
    let (unit, sign) = match size {
        0..=9999 => return size.to_string(),
        10_000..0x10_0000 => (1 << 10, 'K'),
        0x10_0000..0x4000_0000 => (1 << 20, 'M'),
        _ => (1 << 30, 'G'),
    };
    format!("{}{sign}", size / unit + u64::from(size % unit >= unit / 2))
}

fn escape_html(text: &[u8], out: &mut Vec<u8>) {
    for byte in text {
        match byte {
            b'<' => out.extend_from_slice(b"&lt;"),
            b'>' => out.extend_from_slice(b"&gt;"),
            b'&' => out.extend_from_slice(b"&amp;"),
            b'"' => out.extend_from_slice(b"&quot;"),
            _ => out.push(*byte),
        }
    }
}
