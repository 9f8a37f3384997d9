//! `error_log`, `access_log` and `log_format`.

use std::sync::{Arc, Mutex, PoisonError};

use crate::config::arguments::{arg, invalid_value};
use crate::config::builder::{BlockBuilder, Builder, find_by_name};
use crate::config::parser::{Directive, Error, Result, Word};
use crate::config::template::{Segment, Template, Variable};
use crate::config::{directives, suggestion, values};

/// How grave a message is; what is graver comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Emerg,
    Alert,
    Crit,
    Error,
    Warn,
    Notice,
    Info,
    Debug,
}

impl Level {
    const NAMES: &str = "debug, info, notice, warn, error, crit, alert or emerg";

    const ALL: [(Self, &'static str); 8] = [
        (Self::Emerg, "emerg"),
        (Self::Alert, "alert"),
        (Self::Crit, "crit"),
        (Self::Error, "error"),
        (Self::Warn, "warn"),
        (Self::Notice, "notice"),
        (Self::Info, "info"),
        (Self::Debug, "debug"),
    ];

    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(level, _)| *level == self).map_or("", |(_, name)| name)
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, name)| *name == text).map(|(level, _)| *level)
    }
}

/// The destination of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTarget {
    Stderr,
    /// A file or a syslog server, by its number in [`crate::config::Config::log_targets`].
    Numbered(u32),
    Nowhere,
}

/// Names of log files and syslog servers by number. A number is valid for the life of the process, since connections may
/// still use an old configuration.
static TARGET_NAMES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Returns the number of a log file, or of a syslog server (`syslog:server=...`).
pub fn target_number(name: &str) -> u32 {
    let mut names = TARGET_NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let at = names.iter().position(|known| known == name).unwrap_or_else(|| {
        names.push(name.to_owned());
        names.len() - 1
    });
    at as u32
}

/// What the name of a syslog server starts with, in place of a path.
pub const SYSLOG_PREFIX: &str = "syslog:";
const SYSLOG_PORT: u16 = 514;
/// Characters of a tag (RFC 3164 4.1.3).
const SYSLOG_TAG_MAX: usize = 32;
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "intern", "lpr", "news", "uucp", "clock", "authpriv", "ftp", "ntp",
    "audit", "alert", "cron", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];

/// A syslog server, and how its messages begin.
#[derive(Debug, PartialEq, Eq)]
pub struct Syslog {
    pub server: SyslogServer,
    /// The code of the facility (RFC 3164 4.1.1).
    pub facility: u8,
    /// The severity of access log lines. A message of the error log has its own.
    pub severity: Level,
    pub tag: String,
    pub has_hostname: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum SyslogServer {
    /// The path of a Unix socket.
    Unix(String),
    /// A host and a port of UDP.
    Udp(String, u16),
}

impl Syslog {
    /// Parses `syslog:server=ADDRESS[,facility=NAME][,severity=LEVEL][,tag=NAME][,nohostname]`. The error is a message, and
    /// what is expected.
    pub fn parse(name: &str) -> Result<Self, (String, &'static str)> {
        let (mut server, mut facility, mut severity, mut tag, mut has_hostname) = (None, None, None, None, true);
        for parameter in name.strip_prefix(SYSLOG_PREFIX).unwrap_or(name).split(',') {
            let is_new = match parameter.split_once('=') {
                Some(("server", text)) => server.replace(SyslogServer::parse(text)?).is_none(),
                Some(("facility", text)) => facility.replace(parse_facility(text)?).is_none(),
                Some(("severity", text)) => severity.replace(parse_severity(text)?).is_none(),
                Some(("tag", text)) => tag.replace(parse_tag(text)?).is_none(),
                None if parameter == "nohostname" => std::mem::replace(&mut has_hostname, false),
                _ => {
                    let message = format!("unknown syslog parameter \"{parameter}\"");
                    return Err((message, "server=, facility=, severity=, tag= or nohostname"));
                }
            };
            if !is_new {
                return Err((format!("duplicate syslog parameter \"{parameter}\""), "one of its kind"));
            }
        }
        Ok(Self {
            server: server.ok_or_else(|| {
                ("no syslog server specified".to_owned(), "server=HOST, server=HOST:PORT or server=unix:PATH")
            })?,
            facility: facility.unwrap_or(FACILITIES.len() as u8 - 1),
            severity: severity.unwrap_or(Level::Info),
            tag: tag.unwrap_or_else(|| "nginx".to_owned()),
            has_hostname,
        })
    }
}

impl SyslogServer {
    fn parse(text: &str) -> Result<Self, (String, &'static str)> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.to_owned()));
        }
        match values::host_port(text).filter(|(host, _)| !host.contains('/')) {
            Some((host, port)) => Ok(Self::Udp(host.to_owned(), port.unwrap_or(SYSLOG_PORT))),
            None => Err((format!("invalid syslog server \"{text}\""), "HOST, HOST:PORT or unix:PATH")),
        }
    }
}

fn parse_facility(name: &str) -> Result<u8, (String, &'static str)> {
    let code = FACILITIES.iter().position(|known| *known == name);
    code.map(|code| code as u8).ok_or_else(|| {
        (format!("unknown syslog facility \"{name}\""), "user, daemon, local0 to local7 or another name of RFC 3164")
    })
}

fn parse_severity(name: &str) -> Result<Level, (String, &'static str)> {
    Level::parse(name).ok_or_else(|| (format!("unknown syslog severity \"{name}\""), Level::NAMES))
}

fn parse_tag(tag: &str) -> Result<String, (String, &'static str)> {
    let is_valid = tag.len() <= SYSLOG_TAG_MAX && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    match is_valid {
        true => Ok(tag.to_owned()),
        false => Err((format!("invalid syslog tag \"{tag}\""), "a word of at most 32 letters, digits and underscores")),
    }
}

#[derive(Clone, Debug)]
pub struct ErrorLog {
    pub target: LogTarget,
    /// The lowest level that is written.
    pub level: Level,
    /// The file of `-e`, until the builder gives it a number.
    pub default_path: Option<String>,
}

impl ErrorLog {
    /// Returns the log of `-e FILE`; without a file, standard error.
    pub fn for_path(path: Option<String>) -> Self {
        let path = path.filter(|path| path != "stderr");
        Self { target: LogTarget::Stderr, level: Level::Error, default_path: path }
    }
}

#[derive(Clone, Debug)]
pub enum AccessLogTarget {
    Fixed(LogTarget),
    /// A path with variables.
    Path(Template),
}

#[derive(Clone, Debug)]
pub struct AccessLog {
    pub target: AccessLogTarget,
    pub format: Arc<LogFormat>,
    /// `if=`: a line is written unless this is empty or `0`.
    pub condition: Option<Template>,
}

/// How values are escaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// `"`, `\` and everything but printable ASCII as `\xXX`.
    Default,
    Json,
    None,
}

#[derive(Debug)]
pub struct LogFormat {
    pub template: Template,
    pub escape: Escape,
}

/// nginx's predefined format.
const COMBINED: &str = "$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \
                        \"$http_referer\" \"$http_user_agent\"";

pub(crate) fn error_log(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let path = arg(directive, 0);
    let level = match directive.args.get(1) {
        None => Level::Error,
        Some(word) => Level::parse(&word.text).ok_or_else(|| invalid_value(directive, word, Level::NAMES))?,
    };
    if path.text.starts_with("memory:") {
        return Err(invalid_value(directive, path, "a file, stderr or syslog:server="));
    }
    let target = parse_target(builder, path)?;
    let current =
        if block.context == directives::MAIN { &builder.config.main.error_log } else { &block.settings.error_log };
    let mut logs = if block.is_first { Vec::new() } else { current.to_vec() };
    logs.push(ErrorLog { target, level, default_path: None });
    if block.context == directives::MAIN {
        builder.config.main.error_log = logs.into();
    } else {
        block.settings.error_log = logs.into();
    }
    Ok(())
}

/// Parses the destination of a log. `off` is not taken as the name of a file.
fn parse_target(builder: &mut Builder, word: &Word) -> Result<LogTarget> {
    Ok(match word.text.as_str() {
        "off" | "/dev/null" => LogTarget::Nowhere,
        "stderr" | "/dev/stderr" => LogTarget::Stderr,
        name if name.starts_with(SYSLOG_PREFIX) => {
            Syslog::parse(name).map_err(|(message, expected)| {
                Error::new(&word.at, message).hint([expected, " is expected"].concat())
            })?;
            LogTarget::Numbered(builder.log_target_number(name.to_owned()))
        }
        path => {
            let path = builder.prefix.resolve(path);
            builder.refer_to_created_file(word, path.clone());
            LogTarget::Numbered(builder.log_target_number(path))
        }
    })
}

pub(crate) fn log_format(builder: &mut Builder, _: &mut BlockBuilder, directive: &Directive) -> Result {
    let name = arg(directive, 0);
    let mut escape = Escape::Default;
    let mut text = String::new();
    for (at, word) in directive.args.iter().enumerate().skip(1) {
        match (at, word.text.as_str()) {
            (1, "escape=default") => {}
            (1, "escape=json") => escape = Escape::Json,
            (1, "escape=none") => escape = Escape::None,
            (1, other) if other.starts_with("escape=") => {
                return Err(invalid_value(directive, word, "escape=default, escape=json or escape=none"));
            }
            (_, segment) => text.push_str(segment),
        }
    }
    // A variable that changes until the end needs no whole request as part of a line: it is filled in at the end.
    let looked_back = builder.needs_request_at_end.get();
    let format = LogFormat { template: builder.template_from(&text, arg(directive, 1))?, escape };
    let is_open =
        |segment: &Segment| matches!(segment, Segment::Variable(Variable::Builtin(builtin)) if builtin.is_momentary());
    builder.needs_request_at_end.set(looked_back || format.template.segments().iter().any(is_open));
    if name.text == "combined" {
        return Err(name.error("duplicate log_format \"{}\"").hint("it is built in"));
    }
    builder.claim_name("log_format", name)?;
    builder.log_formats.push((name.text.clone(), Arc::new(format)));
    Ok(())
}

/// `access_log off` or `access_log path [format [buffer=size] [gzip[=level]] [flush=time] [if=condition]]`.
pub(crate) fn access_log(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let path = arg(directive, 0);
    if path.text == "off" {
        block.settings.access_log = Arc::from([]);
        return match directive.args.get(1) {
            Some(word) => Err(invalid_value(directive, word, "\"off\" without further arguments")),
            None => Ok(()),
        };
    }
    let mut format = None;
    let mut condition = None;
    for word in directive.args.iter().skip(1) {
        match word.text.split_once('=') {
            Some(("if", value)) => {
                condition = Some(builder.template_from(value, word)?);
            }
            Some(("buffer", value)) if values::size(value).is_some() => note_unbuffered(builder, directive),
            Some(("flush", value)) if values::time(value).is_some() => {}
            Some(("gzip", level)) if matches!(values::number(level), Some(1..=9)) => note_plain(builder, directive),
            None if word.text == "gzip" => note_plain(builder, directive),
            None if format.is_none() => format = Some(word),
            _ => return Err(invalid_value(directive, word, "a format, if=, buffer=, flush= or gzip")),
        }
    }
    let format = match format {
        Some(word) if word.text != "combined" => {
            find_by_name(&builder.log_formats, &word.text).cloned().ok_or_else(|| {
                let error = word.error("unknown log format \"{}\"");
                match suggestion::closest(&word.text, &mut builder.log_formats.iter().map(|(name, _)| name.as_str())) {
                    Some(near) => error.hint_formatted("did you mean \"{}\"?", near),
                    None => error.hint("define it above by \"log_format\""),
                }
            })?
        }
        _ => combined_format(builder)?,
    };
    let target = match path.text.contains('$') && !path.text.starts_with(SYSLOG_PREFIX) {
        true => AccessLogTarget::Path(builder.template_from(&builder.prefix.resolve(&path.text), path)?),
        false => AccessLogTarget::Fixed(parse_target(builder, path)?),
    };
    let mut logs = if block.is_first { Vec::new() } else { block.settings.access_log.to_vec() };
    logs.push(AccessLog { target, format, condition });
    block.settings.access_log = logs.into();
    Ok(())
}

fn note_unbuffered(builder: &mut Builder, directive: &Directive) {
    builder.note(&directive.name, "\"buffer\" and \"flush\" are ignored: each line is written at once");
}

fn note_plain(builder: &mut Builder, directive: &Directive) {
    builder.note(&directive.name, "\"gzip\" is ignored: lines are written uncompressed");
}

fn combined_format(builder: &mut Builder) -> Result<Arc<LogFormat>> {
    if let Some(known) = find_by_name(&builder.log_formats, "combined") {
        return Ok(known.clone());
    }
    let template = Template::parse(COMBINED, &mut Variable::builtin)
        .map_err(|invalid| Error::without_position(invalid.to_string()))?;
    let format = Arc::new(LogFormat { template, escape: Escape::Default });
    builder.log_formats.push(("combined".to_owned(), format.clone()));
    Ok(format)
}
