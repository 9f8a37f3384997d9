//! Access log and error log. A record is one line, and writing never delays a request.
//!
//! A line is one write(2) to a file opened for appending. A target that would block or is full loses the line; the
//! number of lost lines is logged once a minute. Bytes that a terminal or a log reader could misread are escaped.

use std::cell::Cell;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl, fstat, stat};

use crate::config::template::{Builtin, Segment, Variable};
use crate::config::{self, AccessLog, ErrorLog, Escape, Level, LogTarget};
use crate::os::privileges::Account;
use crate::os::root_files;
use crate::request::exchange::{Client, Exchange};
use crate::request::variables;
use crate::runtime::handover::{HandoverDecoder, HandoverEncoder};
use crate::runtime::{clock, executor, io_error};
use crate::tls::ReloadEvent;

/// The name that stands for standard error.
const STDERR: &str = "stderr";
/// Error log lines of a worker in one second; further ones are counted.
const ERRORS_PER_SECOND_MAX: u32 = 100;
/// Symbolic links between a log's name and a standard stream.
const LINKS_MAX: u32 = 8;
/// Bytes of a line of the error log.
const LINE_BYTES_MAX: usize = 2048;
/// Bytes of the value of a variable in the access log, before escaping.
const VALUE_BYTES_MAX: usize = 2048;

/// The open log files by number. They stay open as long as the process: a reload adds to them.
static FILES: RwLock<Vec<Option<LogFile>>> = RwLock::new(Vec::new());

struct LogFile {
    path: String,
    fd: OwnedFd,
    /// Lines lost since it was opened.
    lost: AtomicU32,
}

/// Opens the files of a configuration that are not open yet. New files belong to `account`, the user of the workers, so
/// that it can reopen them.
pub fn open(files: &[(u32, String)], account: Option<&Account>) -> Result<(), String> {
    let mut all = FILES.write().unwrap_or_else(PoisonError::into_inner);
    for (number, path) in files {
        let at = *number as usize;
        if all.len() <= at {
            all.resize_with(at + 1, || None);
        }
        let Some(slot) = all.get_mut(at).filter(|slot| slot.is_none()) else { continue };
        let fd = open_file(path, account)
            .map_err(|error| format!("open() \"{path}\" failed ({})", io_error::describe(&error)))?;
        *slot = Some(LogFile { path: path.clone(), fd, lost: AtomicU32::new(0) });
    }
    Ok(())
}

/// Opens each renamed file again under its configured name, and returns an error for each that can't be opened; those
/// stay open.
pub fn reopen() -> Vec<String> {
    let mut all = FILES.write().unwrap_or_else(PoisonError::into_inner);
    let mut failed = Vec::new();
    // Files that were not renamed stay open: a pipe or device of root's could not be opened again by the worker's user.
    for file in all.iter_mut().flatten().filter(|file| !is_unchanged(file)) {
        match open_file(&file.path, None) {
            Ok(fd) => *file = LogFile { path: std::mem::take(&mut file.path), fd, lost: AtomicU32::new(0) },
            Err(error) => failed.push(format!("open() \"{}\" failed ({})", file.path, io_error::describe(&error))),
        }
    }
    failed
}

/// Whether a file still has its name.
fn is_unchanged(file: &LogFile) -> bool {
    let (named, open) = (stat(file.path.as_str()), fstat(&file.fd));
    named.is_ok_and(|named| open.is_ok_and(|open| (named.st_dev, named.st_ino) == (open.st_dev, open.st_ino)))
}

fn open_file(path: &str, account: Option<&Account>) -> io::Result<OwnedFd> {
    let opened = root_files::open_append(path.as_ref(), account);
    // A standard stream can't be opened by its name if it is a socket (of a supervisor) or a pipe of root's.
    opened.or_else(|error| match standard_stream(path.into()) {
        Some(stream) => {
            // A file opened by a shell would be written from its start.
            let _ = fcntl_getfl(stream).and_then(|flags| fcntl_setfl(stream, flags | OFlags::APPEND));
            stream.try_clone_to_owned()
        }
        None => Err(error),
    })
}

/// The standard stream that a path is a name of or a link to.
fn standard_stream(mut path: PathBuf) -> Option<BorrowedFd<'static>> {
    for _ in 0..LINKS_MAX {
        match path.to_str()? {
            "/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1" => return Some(rustix::stdio::stdout()),
            "/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2" => return Some(rustix::stdio::stderr()),
            _ => {}
        }
        let target = std::fs::read_link(&path).ok()?;
        path.pop();
        path.push(target);
    }
    None
}

/// Writes a line; one that can't be written is lost.
fn write(target: LogTarget, line: &[u8]) {
    match target {
        LogTarget::Nowhere => {}
        LogTarget::Stderr => drop(io::stderr().write_all(line)),
        LogTarget::File(number) => {
            let files = FILES.read().unwrap_or_else(PoisonError::into_inner);
            let Some(Some(file)) = files.get(number as usize) else { return };
            if rustix::io::write(&file.fd, line).is_ok() {
                return;
            }
            if file.lost.fetch_add(1, Ordering::Relaxed) == 0 {
                let _ = writeln!(io::stderr(), "write to \"{}\" failed: lines are lost", file.path);
            }
        }
    }
}

thread_local! {
    /// The current second, and its number of errors.
    static ERROR_RATE: Cell<(u64, u32)> = const { Cell::new((0, 0)) };
}

/// Whether messages of this level are written.
pub fn is_enabled(logs: &[ErrorLog], level: Level) -> bool {
    logs.iter().any(|log| level <= log.level && log.target != LogTarget::Nowhere)
}

/// Logs a message without a connection.
pub fn log(logs: &[ErrorLog], level: Level, message: fmt::Arguments<'_>) {
    write_error(logs, level, None, message, "");
}

/// Logs the reload of a certificate.
pub fn log_cert_reload(logs: &[ErrorLog], news: &ReloadEvent) {
    match news {
        ReloadEvent::Reloaded(text) => log(logs, Level::Notice, format_args!("{text}")),
        ReloadEvent::Failed(text) => log(logs, Level::Error, format_args!("{text}")),
    }
}

/// Logs a message about a connection without a request.
pub fn log_client(logs: &[ErrorLog], level: Level, client: &Client, message: fmt::Arguments<'_>) {
    if is_enabled(logs, level) {
        let context = format!(", client: {}, server: {}", client.addr.host(), client.local);
        write_error(logs, level, Some(client.number), message, &context);
    }
}

/// Logs a message about a request, followed by its context.
pub fn log_request(exchange: &Exchange, level: Level, message: fmt::Arguments<'_>) {
    let logs = &exchange.settings().error_log;
    if is_enabled(logs, level) {
        write_error(logs, level, Some(exchange.client.number), message, &request_context(exchange));
    }
}

/// The context of a request in the error log.
pub fn request_context(exchange: &Exchange) -> String {
    let text = |bytes: &[u8]| {
        let mut out = Vec::new();
        escape(bytes, Escape::Default, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    };
    let mut context = format!(", client: {}, server: {}", exchange.client.addr.host(), exchange.server.name);
    let _ = write!(context, ", request: \"{}\"", text(exchange.request.request_line()));
    if exchange.subrequest_of.is_some() {
        let _ = write!(context, ", subrequest: \"{}\"", text(&exchange.uri.path));
    }
    if let (Some(last), Some(pass)) = (exchange.upstream.attempts.last(), exchange.proxy_pass()) {
        let uri = pass.uri.as_deref().unwrap_or_default();
        let path = if uri.is_empty() { text(&exchange.uri.raw) } else { uri.to_owned() };
        let scheme = if exchange.upstream_tls().is_some() { "https" } else { "http" };
        let _ = write!(context, ", upstream: \"{scheme}://{}{path}\"", last.target);
    }
    if let Some(host) = exchange.request.headers.first(crate::http1::head::HeaderName::Host) {
        let _ = write!(context, ", host: \"{}\"", text(host));
    }
    context
}

/// Writes a message to all logs of its level.
pub fn write_error(
    logs: &[ErrorLog],
    level: Level,
    connection: Option<u32>,
    message: fmt::Arguments<'_>,
    context: &str,
) {
    if !is_enabled(logs, level) || is_over_rate(logs) {
        return;
    }
    let pid = std::process::id();
    let mut line = format!("{} [{}] {pid}#{pid}: ", clock::error_log_time(), level.name());
    if let Some(number) = connection {
        let _ = write!(line, "*{number} ");
    }
    let _ = write!(line, "{message}{context}");
    if line.len() > LINE_BYTES_MAX {
        let end = (0..=LINE_BYTES_MAX).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
        line.truncate(end);
    }
    let mut line = one_line(&line);
    line.push('\n');
    for log in logs.iter().filter(|log| level <= log.level) {
        write(log.target, line.as_bytes());
    }
}

/// Escapes a text into one line: control characters become spaces, and characters that break lines or change the
/// direction of text (UAX 9) are escaped. They may be in file names and host names.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        match c {
            _ if c.is_control() => line.push(' '),
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                line.extend(c.escape_unicode());
            }
            _ => line.push(c),
        }
    }
    line
}

/// Limits messages per second, so that an attack can't fill the disk. The number of omitted ones is logged in a later
/// second.
fn is_over_rate(logs: &[ErrorLog]) -> bool {
    let second = executor::now() / 1000;
    let (last, count) = ERROR_RATE.get();
    if second != last {
        ERROR_RATE.set((second, 1));
        if count > ERRORS_PER_SECOND_MAX {
            let left_out = count - ERRORS_PER_SECOND_MAX;
            log(logs, Level::Error, format_args!("{left_out} messages of one second were left out"));
        }
        return false;
    }
    ERROR_RATE.set((last, count + 1));
    count >= ERRORS_PER_SECOND_MAX
}

/// Writes the access log line of an exchange.
pub fn write_access(exchange: &Exchange) {
    for log in exchange.settings().access_log.iter() {
        if let Some(line) = PendingLine::new(log, exchange, LineKind::Now) {
            line.write(&Totals::default());
        }
    }
}

/// Prepares the access log lines of an exchange that has not ended.
pub fn pending_lines(exchange: &Exchange, end: LineKind) -> Box<[PendingLine]> {
    exchange.settings().access_log.iter().filter_map(|log| PendingLine::new(log, exchange, end)).collect()
}

/// An access log line, complete but for values known only at the end.
pub struct PendingLine {
    target: LogTarget,
    text: Box<[u8]>,
    /// Where in the text each deferred value goes, in order.
    deferred: Box<[(u32, DeferredVar)]>,
}

#[derive(Clone, Copy)]
enum DeferredVar {
    BytesSent,
    BodyBytesSent,
    RequestTime,
    Msec,
    TimeLocal,
    TimeIso8601,
    UpstreamResponseTime,
    Completion,
}

/// When the exchange of a line ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// It has ended.
    Now,
    Tunnel,
    /// With a detached response.
    File,
}

impl DeferredVar {
    const ALL: [Self; 8] = [
        Self::BytesSent,
        Self::BodyBytesSent,
        Self::RequestTime,
        Self::Msec,
        Self::TimeLocal,
        Self::TimeIso8601,
        Self::UpstreamResponseTime,
        Self::Completion,
    ];

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == code)
    }

    /// The deferred value of a variable.
    fn at_end(variable: &Variable, end: LineKind) -> Option<Self> {
        let Variable::Builtin(builtin) = variable else { return None };
        match builtin {
            _ if end == LineKind::Now => None,
            Builtin::BytesSent => Some(Self::BytesSent),
            Builtin::BodyBytesSent => Some(Self::BodyBytesSent),
            Builtin::RequestTime => Some(Self::RequestTime),
            Builtin::Msec => Some(Self::Msec),
            Builtin::TimeLocal => Some(Self::TimeLocal),
            Builtin::TimeIso8601 => Some(Self::TimeIso8601),
            Builtin::UpstreamResponseTime if end == LineKind::Tunnel => Some(Self::UpstreamResponseTime),
            Builtin::RequestCompletion if end == LineKind::File => Some(Self::Completion),
            _ => None,
        }
    }
}

/// The values known at the end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Bytes sent to the client, including the head.
    pub bytes: u64,
    pub head_bytes: u64,
    pub millis: u64,
    /// The response was sent whole.
    pub complete: bool,
}

impl PendingLine {
    /// `None` if the log's condition excludes this exchange. Deferred values are left to [`PendingLine::write`].
    pub fn new(log: &AccessLog, exchange: &Exchange, end: LineKind) -> Option<Self> {
        if log.target == LogTarget::Nowhere || log.condition.as_ref().is_some_and(|c| !variables::is_true(c, exchange))
        {
            return None;
        }
        let mut text = Vec::with_capacity(256);
        let mut late = Vec::new();
        let mut value = Vec::new();
        for piece in log.format.template.segments() {
            match piece {
                Segment::Text(plain) => text.extend_from_slice(plain),
                Segment::Variable(variable) => match DeferredVar::at_end(variable, end) {
                    Some(kind) => late.push((text.len() as u32, kind)),
                    None => {
                        value.clear();
                        variables::write_variable(variable, exchange, &mut value, 0);
                        value.truncate(VALUE_BYTES_MAX);
                        match (value.is_empty(), log.format.escape) {
                            (true, Escape::Default) if !has_value(variable) => text.push(b'-'),
                            (_, how) => escape(&value, how, &mut text),
                        }
                    }
                },
            }
        }
        text.push(b'\n');
        Some(Self { target: log.target, text: text.into(), deferred: late.into() })
    }

    /// Encodes it for the new binary, with the name of the file, since numbers differ there.
    pub fn encode(&self, encoder: &mut HandoverEncoder) {
        let path = match self.target {
            LogTarget::Nowhere => String::new(),
            LogTarget::Stderr => STDERR.to_owned(),
            LogTarget::File(number) => {
                let files = FILES.read().unwrap_or_else(PoisonError::into_inner);
                files.get(number as usize).and_then(Option::as_ref).map_or(String::new(), |file| file.path.clone())
            }
        };
        encoder.string(&path);
        encoder.bytes(&self.text);
        encoder.u64(self.deferred.len() as u64);
        for (at, kind) in &self.deferred {
            encoder.u64(u64::from(*at));
            encoder.u8(*kind as u8);
        }
    }

    /// Decodes what [`PendingLine::encode`] wrote.
    pub fn decode(decoder: &mut HandoverDecoder) -> Option<Self> {
        let target = match decoder.string()?.as_str() {
            "" => LogTarget::Nowhere,
            STDERR => LogTarget::Stderr,
            path => {
                let number = config::log_number(path);
                match open(&[(number, path.to_owned())], None) {
                    Ok(()) => LogTarget::File(number),
                    Err(_) => LogTarget::Nowhere,
                }
            }
        };
        let text = decoder.bytes()?.into();
        let mut late = Vec::new();
        for _ in 0..decoder.u64()? {
            late.push((u32::try_from(decoder.u64()?).ok()?, DeferredVar::from_code(decoder.u8()?)?));
        }
        Some(Self { target, text, deferred: late.into() })
    }

    /// Inserts the deferred values, and writes the line.
    pub fn write(&self, moved: &Totals) {
        let mut line = Vec::with_capacity(self.text.len() + 64);
        let mut from = 0;
        for (at, kind) in &self.deferred {
            let at = *at as usize;
            line.extend_from_slice(self.text.get(from..at).unwrap_or_default());
            from = at;
            match kind {
                DeferredVar::BytesSent => variables::write_number(moved.bytes, 1, &mut line),
                DeferredVar::BodyBytesSent => {
                    variables::write_number(moved.bytes.saturating_sub(moved.head_bytes), 1, &mut line);
                }
                DeferredVar::RequestTime | DeferredVar::UpstreamResponseTime => {
                    variables::write_seconds(moved.millis, &mut line)
                }
                DeferredVar::Msec => variables::write_seconds(clock::since_epoch().as_millis() as u64, &mut line),
                DeferredVar::TimeLocal => clock::write_time_local(&mut line),
                DeferredVar::TimeIso8601 => clock::write_time_iso8601(&mut line),
                DeferredVar::Completion => line.extend_from_slice(if moved.complete { b"OK" } else { b"" }),
            }
        }
        line.extend_from_slice(self.text.get(from..).unwrap_or_default());
        write(self.target, &line);
    }
}

/// Whether a variable always has a value, even an empty one, so that no `-` stands for it.
fn has_value(variable: &Variable) -> bool {
    match variable {
        Variable::Builtin(builtin) => matches!(
            builtin,
            Builtin::Https
                | Builtin::InvalidReferer
                | Builtin::IsArgs
                | Builtin::IsRequestPort
                | Builtin::RequestCompletion
                | Builtin::RequestPort
                | Builtin::ServerName
                | Builtin::Uri
        ),
        Variable::User(_) | Variable::Map(_) | Variable::Geo(_) | Variable::Split(_) => true,
        _ => false,
    }
}

/// Appends `bytes` escaped, so that a record stays one line.
pub fn escape(bytes: &[u8], how: Escape, out: &mut Vec<u8>) {
    for &byte in bytes {
        match (how, byte) {
            (Escape::None, b'\n' | b'\r') => out.push(b' '),
            (Escape::None, _) => out.push(byte),
            (Escape::Json, 0x7f) => out.extend_from_slice(b"\\u007F"),
            (Escape::Json, _) => write_json_byte(byte, out),
            (Escape::Default, b'"' | b'\\' | 0..=0x1f | 0x7f..) => drop(write!(out, "\\x{byte:02X}")),
            _ => out.push(byte),
        }
    }
    // Invalid UTF-8 would be invalid JSON.
    if how == Escape::Json && std::str::from_utf8(bytes).is_err() {
        let start = out.len() - escaped_len(bytes);
        let text = String::from_utf8_lossy(out.get(start..).unwrap_or_default()).into_owned();
        out.truncate(start);
        out.extend_from_slice(text.as_bytes());
    }
}

/// Appends one byte of a JSON string, escaped as nginx does it.
pub fn write_json_byte(byte: u8, out: &mut Vec<u8>) {
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        0x08 => out.extend_from_slice(b"\\b"),
        0x0c => out.extend_from_slice(b"\\f"),
        0..=0x1f => drop(write!(out, "\\u{byte:04X}")),
        _ => out.push(byte),
    }
}

fn escaped_len(bytes: &[u8]) -> usize {
    let one = |byte: &u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..=0x1f | 0x7f => 6,
        _ => 1,
    };
    bytes.iter().map(one).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(bytes: &[u8], how: Escape) -> Vec<u8> {
        let mut out = Vec::new();
        escape(bytes, how, &mut out);
        out
    }

    #[test]
    fn an_error_line_reads_as_it_was_written() {
        assert_eq!(one_line("a\r\n\u{85}b\u{e9}\u{4e2d}"), "a   b\u{e9}\u{4e2d}");
        assert_eq!(
            one_line("a\u{202e}gpj.exe\u{2028}\u{2067}\u{61c}\u{200f}"),
            r"a\u{202e}gpj.exe\u{2028}\u{2067}\u{61c}\u{200f}"
        );
    }

    #[test]
    fn a_record_stays_one_line_whatever_is_in_it() {
        assert_eq!(escaped(b"a\"b\\\r\n\x1b\xff", Escape::Default), b"a\\x22b\\x5C\\x0D\\x0A\\x1B\\xFF");
        let json = "a\\\"b\\\\\\n\\u001F\\b\\f\u{fffd}";
        assert_eq!(escaped(b"a\"b\\\n\x1f\x08\x0c\xff", Escape::Json), json.as_bytes());
        assert_eq!(escaped(b"a\nb", Escape::None), b"a b");
    }
}
