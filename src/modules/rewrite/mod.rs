//! Runs the steps of a server or location on a request: `return`, `set`, `if`, `rewrite`, `break`.

pub(crate) mod conf;

use std::ops::ControlFlow::{self, Break, Continue};

use crate::config::template::{Builtin, Segment, Template, Variable};
use crate::config::{Condition, Expression, FileTest, Level, Rewrite, RewriteFlag, RewriteStep, SetTarget};
use crate::http1::uri;
use crate::modules::static_files::open;
use crate::request::exchange::Exchange;
use crate::request::next::Next;
use crate::request::response::LocalResponse;
use crate::request::{log, rate_limit, variables};

/// Bytes of a rewritten URI.
const URI_BYTES_MAX: usize = 64 * 1024;

/// What follows a step: `Break(Next::Continue)` skips the remaining steps, any other `Break` ends the phase.
type StepFlow = ControlFlow<Next>;

/// Runs the rewrite phase: [`Next::FindLocation`] if the URI changed, [`Next::Continue`] if it did not, or a response.
pub fn run(steps: &[RewriteStep], exchange: &mut Exchange) -> Next {
    let mut uri_changed = false;
    match run_steps(steps, exchange, &mut uri_changed) {
        Continue(()) | Break(Next::Continue) if uri_changed => Next::FindLocation,
        Continue(()) => Next::Continue,
        Break(next) => next,
    }
}

fn run_steps(steps: &[RewriteStep], exchange: &mut Exchange, uri_changed: &mut bool) -> StepFlow {
    for step in steps {
        let result = match step {
            RewriteStep::Return { status: 444, .. } => Break(Next::Reject(444)),
            RewriteStep::Return { status, body: what } => {
                exchange.response.status = exchange.overrides.status.unwrap_or(*status); // for `$status` in the body
                Break(Next::Respond(Box::new(LocalResponse::from_return(exchange, *status, what))))
            }
            RewriteStep::Break => {
                if *uri_changed {
                    stay_in_location(exchange, uri_changed);
                }
                Break(Next::Continue)
            }
            RewriteStep::Set { target: to, value } => {
                let value = variables::value(value, exchange);
                set_variable(exchange, *to, value);
                Continue(())
            }
            RewriteStep::If(step) if evaluate(&step.condition, exchange) => {
                if let Some(scope) = &step.location {
                    exchange.location = Some(scope.clone());
                }
                run_steps(&step.steps, exchange, uri_changed)
            }
            RewriteStep::If(_) => Continue(()),
            RewriteStep::Rewrite(step) => rewrite(step, exchange, uri_changed),
        };
        if !matches!(result, Continue(())) {
            return result;
        }
    }
    Continue(())
}

/// Sets the variable of a `set` or `auth_request_set`.
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
            let captures = expression.pattern.captures(&subject);
            let matched = captures.is_some();
            log_match(exchange, expression, &subject, matched);
            match captures {
                Some(captures) => exchange.set_captures(expression, captures),
                None => exchange.clear_captures(),
            }
            matched != *negated
        }
        Condition::File { test, name, negated } => {
            use std::os::unix::fs::PermissionsExt;
            let meta = open::metadata(exchange, &variables::value(name, exchange)).ok();
            let holds = meta.is_some_and(|meta| match test {
                FileTest::File => meta.is_file(),
                FileTest::Directory => meta.is_dir(),
                FileTest::Exists => true,
                FileTest::Executable => meta.permissions().mode() & 0o111 != 0,
            });
            holds != *negated
        }
    }
}

fn rewrite(step: &Rewrite, exchange: &mut Exchange, uri_changed: &mut bool) -> StepFlow {
    let captures = step.expression.pattern.captures(&exchange.uri.path);
    log_match(exchange, &step.expression, &exchange.uri.path, captures.is_some());
    let Some(captures) = captures else {
        exchange.clear_captures();
        return Continue(());
    };
    exchange.set_captures(&step.expression, captures);
    if let RewriteFlag::Redirect(status) = step.flag {
        return redirect(step, status, exchange);
    }
    let path = variables::value(&step.replacement, exchange);
    let args = step.args.as_ref().map(|args| evaluate_args(args, exchange)).unwrap_or_default();
    if let Some(response) = check_length(path.len(), path.len() + args.len(), exchange) {
        return response;
    }
    exchange.uri.args = append_request_args(step, args, exchange);
    exchange.uri.path = path;
    log_uri(exchange);
    exchange.uri.path_changed = true;
    exchange.routing.is_internal = true;
    match step.flag {
        RewriteFlag::Break => {
            stay_in_location(exchange, uri_changed);
            Break(Next::Continue)
        }
        RewriteFlag::Last => {
            *uri_changed = true;
            Break(Next::Continue)
        }
        RewriteFlag::NextStep | RewriteFlag::Redirect(_) => {
            *uri_changed = true;
            Continue(())
        }
    }
}

/// `break`: no location is searched for the new URI, not even for one that an earlier `rewrite` made.
fn stay_in_location(exchange: &mut Exchange, uri_changed: &mut bool) {
    exchange.routing.rewrite_break = true;
    *uri_changed = false;
}

/// Responds with a redirect. Captures and `$uri` are encoded as a path. Other variables are decoded first, so that `$arg_url`
/// becomes the URL that it encodes.
fn redirect(step: &Rewrite, status: u16, exchange: &Exchange) -> StepFlow {
    let mut url = Vec::new();
    let mut value = Vec::new();
    for piece in step.replacement.segments() {
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
    let args = step.args.as_ref().map(|args| evaluate_args(args, exchange)).unwrap_or_default();
    if let Some(response) = check_length(url.len(), url.len() + args.len(), exchange) {
        return response;
    }
    if let Some(args) = append_request_args(step, args, exchange) {
        url.push(b'?');
        url.extend_from_slice(&args);
    }
    log_rewrite(exchange, format_args!("rewritten redirect: \"{}\"", String::from_utf8_lossy(&url)));
    Break(Next::Respond(Box::new(LocalResponse::redirect(exchange, status, &url))))
}

/// Returns a 500 if the new path is empty, or the URI too long.
fn check_length(path: usize, length: usize, exchange: &Exchange) -> Option<StepFlow> {
    if path > 0 && length <= URI_BYTES_MAX {
        return None;
    }
    log::log_request(exchange, Level::Error, format_args!("rewritten URI is empty or too long: {length} bytes"));
    Some(Break(Next::Respond(Box::new(LocalResponse::page(500, exchange.settings().server_tokens)))))
}

/// Appends the arguments of the request to those of the replacement, unless that ends in `?`.
fn append_request_args(step: &Rewrite, args: Vec<u8>, exchange: &Exchange) -> Option<Vec<u8>> {
    let request_args = exchange.uri.args.as_deref().filter(|args| step.keeps_args && !args.is_empty());
    match (args.is_empty(), request_args) {
        (true, request_args) => request_args.map(<[u8]>::to_vec),
        (false, Some(request_args)) => Some([&args, &b"&"[..], request_args].concat()),
        (false, None) => Some(args),
    }
}

/// Logs a step, with `rewrite_log`.
fn log_rewrite(exchange: &Exchange, message: std::fmt::Arguments<'_>) {
    if exchange.settings().client_options.rewrite_log {
        log::log_request(exchange, Level::Notice, message);
    }
}

fn log_match(exchange: &Exchange, expression: &Expression, subject: &[u8], matched: bool) {
    let verb = if matched { "matches" } else { "does not match" };
    let (source, subject) = (expression.pattern.source(), subject.escape_ascii());
    log_rewrite(exchange, format_args!("\"{source}\" {verb} \"{subject}\""));
}

fn log_uri(exchange: &Exchange) {
    let args = exchange.uri.args.as_deref().unwrap_or_default();
    let (path, args) = (exchange.uri.path.escape_ascii(), args.escape_ascii());
    log_rewrite(exchange, format_args!("rewritten data: \"{path}\", args: \"{args}\""));
}

/// Evaluates the arguments of a replacement. Captures of a path that was encoded are encoded again, or a client could inject
/// arguments.
fn evaluate_args(template: &Template, exchange: &Exchange) -> Vec<u8> {
    let path = exchange.uri.raw.split(|b| *b == b'?').next().unwrap_or_default();
    let is_encoded = path.iter().any(|b| matches!(b, b'%' | b'+'));
    let mut out = Vec::new();
    let mut value = Vec::new();
    for piece in template.segments() {
        match piece {
            Segment::Text(text) => out.extend_from_slice(text),
            Segment::Variable(variable @ Variable::Capture(_)) if is_encoded => {
                value.clear();
                variables::write_variable(variable, exchange, &mut value, 0);
                uri::encode_arg(&value, &mut out);
            }
            Segment::Variable(variable) => variables::write_variable(variable, exchange, &mut out, 0),
        }
    }
    out
}
