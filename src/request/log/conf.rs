//! `error_log`, `access_log` and `log_format`.

use std::sync::{Arc, Mutex, PoisonError};

use crate::config::arguments::{arg, invalid_value};
use crate::config::builder::{BlockBuilder, Builder, find_by_name};
use crate::config::parser::{Directive, Error, Result};
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
    /// A file, by its number in [`crate::config::Config::log_files`].
    File(u32),
    Nowhere,
}

/// Names of log files by number. A number is valid for the life of the process, since connections may still use an old
/// configuration.
static FILE_NAMES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Returns the number of a log file.
pub fn file_number(path: &str) -> u32 {
    let mut names = FILE_NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let at = names.iter().position(|known| known == path).unwrap_or_else(|| {
        names.push(path.to_owned());
        names.len() - 1
    });
    at as u32
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
pub struct AccessLog {
    pub target: LogTarget,
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
        Some(word) => Level::parse(&word.text)
            .ok_or_else(|| invalid_value(directive, word, "debug, info, notice, warn, error, crit, alert or emerg"))?,
    };
    if path.text.starts_with("syslog:") || path.text.starts_with("memory:") {
        return Err(invalid_value(directive, path, "a file or stderr"));
    }
    let target = parse_target(builder, &path.text);
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
fn parse_target(builder: &mut Builder, path: &str) -> LogTarget {
    match path {
        "off" | "/dev/null" => LogTarget::Nowhere,
        "stderr" | "/dev/stderr" => LogTarget::Stderr,
        _ => LogTarget::File(builder.log_file_number(path)),
    }
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

/// `access_log off` or `access_log path [format [buffer=size] [flush=time] [if=condition]]`.
pub(crate) fn access_log(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let path = arg(directive, 0);
    if path.text == "off" {
        block.settings.access_log = Arc::from([]);
        return match directive.args.get(1) {
            Some(word) => Err(invalid_value(directive, word, "\"off\" without further arguments")),
            None => Ok(()),
        };
    }
    if path.text.starts_with("syslog:") || path.text.contains('$') {
        return Err(invalid_value(directive, path, "\"off\" or a file without variables"));
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
            Some(("gzip", _)) => return Err(invalid_value(directive, word, "a log without compression")),
            None if word.text == "gzip" => return Err(invalid_value(directive, word, "a log without compression")),
            None if format.is_none() => format = Some(word),
            _ => return Err(invalid_value(directive, word, "a format, if=, buffer= or flush=")),
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
    let target = parse_target(builder, &path.text);
    let mut logs = if block.is_first { Vec::new() } else { block.settings.access_log.to_vec() };
    logs.push(AccessLog { target, format, condition });
    block.settings.access_log = logs.into();
    Ok(())
}

fn note_unbuffered(builder: &mut Builder, directive: &Directive) {
    builder.note(&directive.name, "\"buffer\" and \"flush\" are ignored: each line is written at once");
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
