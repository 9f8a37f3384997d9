//! Runs the steps of a server or location on an exchange: `return`, `set`, `if`, `rewrite`, `break`.

pub(crate) mod conf;

use crate::config::template::{Builtin, Segment, Template, Variable};
use crate::config::{Condition, Expression, FileTest, Level, Rewrite, RewriteFlag, SetTarget, Step};
use crate::http1::uri;
use crate::modules::static_files::open;
use crate::request::exchange::Exchange;
use crate::request::response::LocalResponse;
use crate::request::{log, rate_limit, variables};

/// Bytes that a rewritten path may have.
const PATH_BYTES_MAX: usize = 64 * 1024;

/// How a run of steps ended.
pub enum RewriteResult {
    /// All steps were done; whether the path was changed so that another location may be meant.
    Done { uri_changed: bool },
    /// The request ends here, with an answer or (`return 444`) without.
    Respond(Option<Box<LocalResponse>>),
}

/// What one step means for those behind it.
enum StepResult {
    Continue,
    Break,
    Answer(Option<Box<LocalResponse>>),
}

/// Runs `steps`.
pub fn run(steps: &[Step], exchange: &mut Exchange) -> RewriteResult {
    let mut changed = false;
    match run_steps(steps, exchange, &mut changed) {
        StepResult::Continue | StepResult::Break => RewriteResult::Done { uri_changed: changed },
        StepResult::Answer(response) => RewriteResult::Respond(response),
    }
}

fn run_steps(steps: &[Step], exchange: &mut Exchange, changed: &mut bool) -> StepResult {
    for step in steps {
        let flow = match step {
            Step::Return { status: 444, .. } => StepResult::Answer(None),
            Step::Return { status, what } => {
                exchange.response.status = exchange.overrides.status.unwrap_or(*status); // what it says may name it
                StepResult::Answer(Some(Box::new(LocalResponse::from_return(exchange, *status, what))))
            }
            Step::Break => StepResult::Break,
            Step::Set { to, value } => {
                let value = variables::value(value, exchange);
                set_variable(exchange, *to, value);
                StepResult::Continue
            }
            Step::If(step) if evaluate(&step.condition, exchange) => {
                if let Some(scope) = &step.scope {
                    exchange.location = Some(scope.clone());
                }
                run_steps(&step.steps, exchange, changed)
            }
            Step::If(_) => StepResult::Continue,
            Step::Rewrite(step) => rewrite(step, exchange, changed),
        };
        if !matches!(flow, StepResult::Continue) {
            return flow;
        }
    }
    StepResult::Continue
}

/// Fills a variable.
pub fn set_variable(exchange: &mut Exchange, to: SetTarget, value: Vec<u8>) {
    match to {
        SetTarget::Args => {
            exchange.uri.args = Some(value).filter(|args| !args.is_empty());
            exchange.uri.args_changed = true;
        }
        SetTarget::LimitRate => {
            exchange.limits.rate = rate_limit::parse_size(&value, exchange).or(exchange.limits.rate)
        }
        SetTarget::User(number) => {
            if let Some(slot) = exchange.variables.user.get_mut().get_mut(number as usize) {
                *slot = value;
            }
        }
    }
}

fn evaluate(condition: &Condition, exchange: &Exchange) -> bool {
    match condition {
        Condition::True(template) => variables::is_true(template, exchange),
        Condition::Equal { left, right, negated } => {
            (variables::value(left, exchange) == variables::value(right, exchange)) != *negated
        }
        Condition::Match { subject, expression, negated } => {
            let subject = variables::value(subject, exchange);
            let found = expression.pattern.captures(&subject);
            let matched = found.is_some();
            log_match(exchange, expression, &subject, matched);
            match found {
                Some(captures) => exchange.set_captures(expression, captures),
                None => exchange.clear_captures(),
            }
            matched != *negated
        }
        Condition::File { test, name, negated } => {
            use std::os::unix::fs::PermissionsExt;
            let meta = open::metadata(exchange, &variables::value(name, exchange)).ok();
            let yes = meta.is_some_and(|meta| match test {
                FileTest::File => meta.is_file(),
                FileTest::Folder => meta.is_dir(),
                FileTest::Exists => true,
                FileTest::Executable => meta.permissions().mode() & 0o111 != 0,
            });
            yes != *negated
        }
    }
}

fn rewrite(step: &Rewrite, exchange: &mut Exchange, changed: &mut bool) -> StepResult {
    let found = step.expression.pattern.captures(&exchange.uri.path);
    log_match(exchange, &step.expression, &exchange.uri.path, found.is_some());
    let Some(captures) = found else {
        exchange.clear_captures();
        return StepResult::Continue;
    };
    exchange.set_captures(&step.expression, captures);
    if let RewriteFlag::Redirect(status) = step.then {
        return redirect(step, status, exchange);
    }
    let path = variables::value(&step.path, exchange);
    let made = step.args.as_ref().map(|args| evaluate_args(args, exchange)).unwrap_or_default();
    if let Some(refused) = check_length(path.len(), path.len() + made.len(), exchange) {
        return refused;
    }
    let args = append_request_args(step, made, exchange);
    exchange.uri.path = path;
    exchange.uri.args = args;
    log_uri(exchange);
    exchange.uri.path_changed = true;
    exchange.routing.is_internal = true;
    exchange.routing.rewrite_break = step.then == RewriteFlag::Break;
    match step.then {
        RewriteFlag::Break => StepResult::Break,
        RewriteFlag::Last => {
            *changed = true;
            StepResult::Break
        }
        RewriteFlag::NextStep | RewriteFlag::Redirect(_) => {
            *changed = true;
            StepResult::Continue
        }
    }
}

/// A redirect. What was captured is written as a path has to be; what variables hold is, unless they hold more encoded
/// than a URL needs: `$arg_url` becomes the URL that it is.
fn redirect(step: &Rewrite, status: u16, exchange: &Exchange) -> StepResult {
    let mut url = Vec::new();
    let mut value = Vec::new();
    for piece in step.path.pieces() {
        match piece {
            Segment::Text(text) => uri::encode_url(text, &mut url),
            Segment::Variable(variable) => {
                value.clear();
                variables::write_variable(variable, exchange, &mut value, 0);
                match variable {
                    Variable::Capture(_) | Variable::Builtin(Builtin::Uri) => uri::encode_path(&value, &mut url),
                    _ => uri::encode_url(&uri::decode_redirect(&value), &mut url),
                }
            }
        }
    }
    let made = step.args.as_ref().map(|args| evaluate_args(args, exchange)).unwrap_or_default();
    if let Some(refused) = check_length(url.len(), url.len() + made.len(), exchange) {
        return refused;
    }
    if let Some(args) = append_request_args(step, made, exchange) {
        url.push(b'?');
        url.extend_from_slice(&args);
    }
    log_rewrite(exchange, format_args!("rewritten redirect: \"{}\"", String::from_utf8_lossy(&url)));
    StepResult::Answer(Some(Box::new(LocalResponse::redirect(exchange, status, &url))))
}

fn check_length(path: usize, length: usize, exchange: &Exchange) -> Option<StepResult> {
    if path > 0 && length <= PATH_BYTES_MAX {
        return None;
    }
    log::log_request(exchange, Level::Error, format_args!("the rewritten URI has {length} bytes"));
    Some(StepResult::Answer(Some(Box::new(LocalResponse::page(500, exchange.settings().server_tokens)))))
}

/// The arguments that a replacement makes, and those of the request behind them if they are kept.
fn append_request_args(step: &Rewrite, made: Vec<u8>, exchange: &Exchange) -> Option<Vec<u8>> {
    let own = exchange.uri.args.as_deref().filter(|args| step.keeps_args && !args.is_empty());
    match (made.is_empty(), own) {
        (true, own) => own.map(<[u8]>::to_vec),
        (false, Some(own)) => Some([&made, &b"&"[..], own].concat()),
        (false, None) => Some(made),
    }
}

/// Tells what a step does, if it is to (`rewrite_log`).
fn log_rewrite(exchange: &Exchange, message: std::fmt::Arguments<'_>) {
    if exchange.settings().manners.rewrite_log {
        log::log_request(exchange, Level::Notice, message);
    }
}

fn log_match(exchange: &Exchange, expression: &Expression, subject: &[u8], matched: bool) {
    let what = if matched { "matches" } else { "does not match" };
    let (source, subject) = (expression.pattern.source(), subject.escape_ascii());
    log_rewrite(exchange, format_args!("\"{source}\" {what} \"{subject}\""));
}

fn log_uri(exchange: &Exchange) {
    let args = exchange.uri.args.as_deref().unwrap_or_default();
    let (path, args) = (exchange.uri.path.escape_ascii(), args.escape_ascii());
    log_rewrite(exchange, format_args!("rewritten data: \"{path}\", args: \"{args}\""));
}

/// Arguments of a replacement. What was captured of an escaped path is escaped again, or a client could add arguments.
fn evaluate_args(template: &Template, exchange: &Exchange) -> Vec<u8> {
    let path = exchange.uri.raw.split(|b| *b == b'?').next().unwrap_or_default();
    let escaped = path.iter().any(|b| matches!(b, b'%' | b'+'));
    let mut out = Vec::new();
    let mut value = Vec::new();
    for piece in template.pieces() {
        match piece {
            Segment::Text(text) => out.extend_from_slice(text),
            Segment::Variable(variable @ Variable::Capture(_)) if escaped => {
                value.clear();
                variables::write_variable(variable, exchange, &mut value, 0);
                uri::encode_arg(&value, &mut out);
            }
            Segment::Variable(variable) => variables::write_variable(variable, exchange, &mut out, 0),
        }
    }
    out
}
