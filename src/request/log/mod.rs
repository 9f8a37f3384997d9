//! Access log and error log. A record is one line, and writing never delays a request.
//!
//! Bytes that a terminal or a log reader could misread are escaped.

pub(crate) mod conf;
pub(crate) mod on_end;
pub(crate) mod target;
mod syslog;

use std::cell::Cell;
use std::fmt::{self, Write as _};
use std::io::Write as _;

use crate::config::template::{Builtin, Segment, Template, Variable};
use crate::config::{self, AccessLog, AccessLogTarget, ErrorLog, Escape, Level, LogTarget, SYSLOG_PREFIX};
use crate::request::exchange::{Client, Exchange};
use crate::request::variables;
use crate::runtime::handover::{HandoverDecoder, HandoverEncoder};
use crate::runtime::{clock, executor};
use crate::tls::ReloadEvent;

/// The name of standard error in a handover.
const STDERR: &str = "stderr";
/// Error log lines of a worker in one second; further ones are counted.
const ERRORS_PER_SECOND_MAX: u32 = 100;
/// Bytes of a line of the error log.
const LINE_BYTES_MAX: usize = 2048;
/// Bytes of the value of a variable in the access log, before escaping.
const VALUE_BYTES_MAX: usize = 2048;

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
        target::write(log.target, Some(level), line.as_bytes());
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
    target: LineTarget,
    text: Box<[u8]>,
    /// Where in the text each deferred value goes, in order.
    deferred: Box<[(u32, DeferredVar)]>,
}

enum LineTarget {
    Fixed(LogTarget),
    /// A path that was made with variables.
    Path(Box<str>),
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
        if log.condition.as_ref().is_some_and(|condition| !variables::is_true(condition, exchange)) {
            return None;
        }
        let target = match &log.target {
            AccessLogTarget::Fixed(LogTarget::Nowhere) => return None,
            AccessLogTarget::Fixed(target) => LineTarget::Fixed(*target),
            AccessLogTarget::Path(template) => LineTarget::Path(path(template, exchange)?),
        };
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
        Some(Self { target, text: text.into(), deferred: late.into() })
    }

    /// Encodes it for the new binary, with the name of the target, since numbers differ there.
    pub fn encode(&self, encoder: &mut HandoverEncoder) {
        let name = match &self.target {
            LineTarget::Fixed(LogTarget::Nowhere) => String::new(),
            LineTarget::Fixed(LogTarget::Stderr) => STDERR.to_owned(),
            LineTarget::Fixed(LogTarget::Numbered(number)) => target::name(*number).unwrap_or_default(),
            LineTarget::Path(path) => path.to_string(),
        };
        encoder.string(&name);
        encoder.bytes(&self.text);
        encoder.u64(self.deferred.len() as u64);
        for (at, kind) in &self.deferred {
            encoder.u64(u64::from(*at));
            encoder.u8(*kind as u8);
        }
    }

    /// Decodes what [`PendingLine::encode`] wrote.
    pub fn decode(decoder: &mut HandoverDecoder) -> Option<Self> {
        let name = decoder.string()?;
        let target = match name.as_str() {
            "" => LineTarget::Fixed(LogTarget::Nowhere),
            STDERR => LineTarget::Fixed(LogTarget::Stderr),
            name if name.starts_with(SYSLOG_PREFIX) => {
                let number = config::log_target_number(name);
                match target::open(&[(number, name.to_owned())], None) {
                    Ok(()) => LineTarget::Fixed(LogTarget::Numbered(number)),
                    Err(_) => LineTarget::Fixed(LogTarget::Nowhere),
                }
            }
            path => match target::number(path) {
                Some(number) => LineTarget::Fixed(LogTarget::Numbered(number)),
                // The new configuration does not have it, or its name had variables.
                None => LineTarget::Path(path.into()),
            },
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
        match &self.target {
            LineTarget::Fixed(target) => target::write(*target, None, &line),
            LineTarget::Path(path) => target::write_named(path, &line),
        }
    }
}

/// Returns the path that the variables of a target make. No value may lead to another directory than the configuration
/// says: a line without a valid path is lost.
fn path(template: &Template, exchange: &Exchange) -> Option<Box<str>> {
    let mut path = Vec::new();
    let mut is_valid = true;
    for segment in template.segments() {
        match segment {
            Segment::Text(text) => path.extend_from_slice(text),
            Segment::Variable(variable) => {
                let start = path.len();
                variables::write_variable(variable, exchange, &mut path, 0);
                let value = path.get(start..).unwrap_or_default();
                is_valid &= is_defined(variable) || !value.contains(&b'/');
            }
        }
    }
    let path = String::from_utf8_lossy(&path);
    if is_valid && !path.contains('\0') && path.split('/').all(|component| component != "..") {
        return Some(path.into());
    }
    target::refuse_named(&path);
    None
}

/// Whether the configuration defines a variable, and with it what characters a value can have.
fn is_defined(variable: &Variable) -> bool {
    matches!(variable, Variable::User(_) | Variable::Map(_) | Variable::Geo(_) | Variable::Split(_))
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
        _ => is_defined(variable),
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
