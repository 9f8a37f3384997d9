//! Access control: by address (`allow`, `deny`), by password (`auth_basic`), and by a subrequest (`auth_request`).
//!
//! Each check returns a [`Verdict`]; [`Satisfy`] combines them as `satisfy` says.

pub(crate) mod conf;
pub(crate) mod htpasswd;
pub(crate) mod password_check;
pub mod password;

use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use crate::config::{Access, AuthBasic, Level};
use crate::http1::basic_auth::Credentials;
use crate::modules::access::htpasswd::Htpasswd;
use crate::modules::access::password_check::CheckResult;
use crate::request::exchange::Exchange;
use crate::request::{log, variables};
use crate::runtime::io_error;
use crate::runtime::stream::BufStream;

/// The result of one check.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No directive or rule applies.
    NotApplicable,
    Allowed,
    Denied(Denied),
}

impl Verdict {
    fn denied(status: u16) -> Self {
        Self::Denied(Denied::new(status))
    }
}

/// How a request is rejected.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Denied {
    /// 499: the client has closed, and gets no response.
    pub status: u16,
    /// Values of `WWW-Authenticate`.
    pub challenges: Vec<Vec<u8>>,
}

impl Denied {
    pub fn new(status: u16) -> Self {
        Self { status, challenges: Vec::new() }
    }
}

/// Combines the verdicts on one request (`satisfy`).
pub struct Satisfy {
    any: bool,
    denied: Option<Denied>,
}

impl Satisfy {
    pub fn new(access: &Access) -> Self {
        Self { any: access.satisfy_any, denied: None }
    }

    /// Adds a verdict; returns the result as soon as it no longer depends on further ones.
    pub fn add(&mut self, verdict: Verdict) -> Option<Result<(), Denied>> {
        match verdict {
            Verdict::NotApplicable => None,
            Verdict::Allowed if self.any => Some(Ok(())),
            Verdict::Allowed => None,
            Verdict::Denied(denied) if !self.any || !matches!(denied.status, 401 | 403) => Some(Err(denied)),
            Verdict::Denied(mut denied) => {
                // With `satisfy any` a client that could log in gets the 401, not the 403 of another check.
                if let Some(mut previous) = self.denied.take() {
                    previous.challenges.append(&mut denied.challenges);
                    denied.challenges = previous.challenges;
                    if previous.status == 401 {
                        denied.status = 401;
                    }
                }
                self.denied = Some(denied);
                None
            }
        }
    }

    /// Returns the result once all verdicts are in.
    pub fn finish(self, exchange: &Exchange) -> Result<(), Denied> {
        let Some(denied) = self.denied else { return Ok(()) };
        if denied.status == 403 {
            log::log_request(exchange, Level::Error, format_args!("access forbidden by rule"));
        }
        Err(denied)
    }
}

/// Checks `allow` and `deny`.
pub fn check_address(access: &Access, exchange: &Exchange) -> Verdict {
    match access.rules.iter().find(|rule| rule.matches(&exchange.client.addr)) {
        None => Verdict::NotApplicable,
        Some(rule) if rule.allows => Verdict::Allowed,
        Some(_) => {
            if !access.satisfy_any {
                log::log_request(exchange, Level::Error, format_args!("access forbidden by rule"));
            }
            Verdict::denied(403)
        }
    }
}

/// Checks `auth_basic`.
pub async fn check_password(access: &Access, exchange: &Exchange, client: &BufStream) -> Verdict {
    let Some(basic) = &access.auth_basic else { return Verdict::NotApplicable };
    let Some(realm) = &basic.realm else { return Verdict::NotApplicable };
    let realm = variables::value(realm, exchange);
    if realm == b"off" {
        return Verdict::NotApplicable;
    }
    let unauthorized = || Verdict::Denied(Denied { status: 401, challenges: vec![www_authenticate(&realm)] });
    let Some(Credentials { user, password }) = Credentials::from_headers(&exchange.request.headers) else {
        log::log_request(exchange, Level::Info, format_args!("no user/password was provided for basic authentication"));
        return unauthorized();
    };
    let (users, path) = match read_user_file(basic, exchange) {
        Ok(read) => read,
        Err(status) => return Verdict::denied(status),
    };
    let name = user.escape_ascii();
    let hash = users.find_hash(&user);
    let check = async {
        match hash.or_else(|| users.decoy_hash(&user)) {
            Some(stored) if hash.is_some() => password_check::check(stored, &password).await,
            Some(decoy) => password_check::check_decoy(decoy, &password).await,
            None => CheckResult::Mismatch,
        }
    };
    let Some(result) = abort_if_client_closes(client, check).await else {
        log::log_request(
            exchange,
            Level::Info,
            format_args!("client closed connection while its password was being checked"),
        );
        return Verdict::denied(499);
    };
    match result {
        CheckResult::Match => Verdict::Allowed,
        CheckResult::Mismatch if hash.is_none() => {
            log::log_request(exchange, Level::Error, format_args!("user \"{name}\" was not found in \"{path}\""));
            unauthorized()
        }
        CheckResult::Mismatch => {
            log::log_request(exchange, Level::Error, format_args!("user \"{name}\": password mismatch"));
            unauthorized()
        }
        CheckResult::Unsupported => {
            let why = "the password hash is not supported";
            log::log_request(
                exchange,
                Level::Error,
                format_args!("user \"{name}\" in \"{path}\": {why}, {}", password::ADVICE),
            );
            unauthorized()
        }
        CheckResult::Busy => {
            log::log_request(exchange, Level::Error, format_args!("user \"{name}\": too many pending password checks"));
            Verdict::denied(503)
        }
    }
}

/// Reads the password file of a location; also returns its path. `Err`: the status to reject with.
fn read_user_file(basic: &AuthBasic, exchange: &Exchange) -> Result<(Rc<Htpasswd>, String), u16> {
    let Some(file) = &basic.file else {
        log::log_request(
            exchange,
            Level::Error,
            format_args!("\"auth_basic\" is set without \"auth_basic_user_file\""),
        );
        return Err(403);
    };
    let name = variables::value(file, exchange);
    if file.as_text().is_none() && variables::has_dot_dot(&name) {
        log::log_request(
            exchange,
            Level::Error,
            format_args!("\"auth_basic_user_file\" with variables contains \"..\""),
        );
        return Err(403);
    }
    let path = Path::new(&*basic.directory).join(String::from_utf8_lossy(&name).as_ref());
    let shown = path.display().to_string();
    match htpasswd::read(&path) {
        Ok(users) => Ok((users, shown)),
        Err(error) => {
            let (level, status) = match error.kind() {
                std::io::ErrorKind::NotFound => (Level::Error, 403),
                _ => (Level::Crit, 500),
            };
            log::log_request(
                exchange,
                level,
                format_args!("open() \"{shown}\" failed ({})", io_error::describe(&error)),
            );
            Err(status)
        }
    }
}

/// Returns the `WWW-Authenticate` value of a realm, which is escaped: variables can put any byte into it.
fn www_authenticate(realm: &[u8]) -> Vec<u8> {
    let mut out = b"Basic realm=\"".to_vec();
    for byte in realm {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            _ if byte.is_ascii_control() => out.push(b' '),
            _ => out.push(*byte),
        }
    }
    out.push(b'"');
    out
}

/// Evaluates the response to the subrequest of `auth_request`.
pub fn check_subrequest(exchange: &Exchange, subrequest: &Exchange) -> Verdict {
    match subrequest.response.status {
        200..=299 => Verdict::Allowed,
        401 => {
            let head = subrequest.upstream.head.as_ref();
            let challenges = head.into_iter().flat_map(|head| head.headers.all_named(b"www_authenticate"));
            Verdict::Denied(Denied { status: 401, challenges: challenges.map(<[u8]>::to_vec).collect() })
        }
        403 => Verdict::denied(403),
        status => {
            log::log_request(exchange, Level::Error, format_args!("auth request unexpected status: {status}"));
            Verdict::denied(500)
        }
    }
}

/// Awaits `work`; `None` if the client closes first.
pub async fn abort_if_client_closes<T>(client: &BufStream, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => client.stream.socket().poll_failed(cx).map(|()| None),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(status: u16, challenge: &str) -> Verdict {
        let challenges = if challenge.is_empty() { Vec::new() } else { vec![challenge.as_bytes().to_vec()] };
        Verdict::Denied(Denied { status, challenges })
    }

    /// The status and the number of challenges for a list of verdicts.
    fn outcome(any: bool, verdicts: Vec<Verdict>) -> (u16, usize) {
        let mut satisfy = Satisfy { any, denied: None };
        let early = verdicts.into_iter().find_map(|verdict| satisfy.add(verdict));
        match early.unwrap_or(satisfy.denied.map_or(Ok(()), Err)) {
            Ok(()) => (200, 0),
            Err(denied) => (denied.status, denied.challenges.len()),
        }
    }

    #[test]
    fn all_must_agree_or_one_is_enough() {
        use Verdict::{Allowed, NotApplicable};
        for (verdicts, all, any) in [
            (vec![], (200, 0), (200, 0)),
            (vec![NotApplicable, NotApplicable], (200, 0), (200, 0)),
            (vec![Allowed, NotApplicable], (200, 0), (200, 0)),
            (vec![denied(403, ""), NotApplicable], (403, 0), (403, 0)),
            (vec![denied(403, ""), Allowed], (403, 0), (200, 0)),
            (vec![Allowed, denied(401, "a")], (401, 1), (200, 0)),
            (vec![denied(403, ""), denied(401, "a")], (403, 0), (401, 1)),
            (vec![denied(401, "a"), denied(403, "")], (401, 1), (401, 1)),
            (vec![denied(401, "a"), denied(401, "b")], (401, 1), (401, 2)),
            (vec![denied(403, ""), denied(500, ""), Allowed], (403, 0), (500, 0)),
        ] {
            let label = format!("{verdicts:?}");
            let again = verdicts.iter().map(|verdict| match verdict {
                NotApplicable => NotApplicable,
                Allowed => Allowed,
                Verdict::Denied(denied) => {
                    Verdict::Denied(Denied { status: denied.status, challenges: denied.challenges.clone() })
                }
            });
            assert_eq!(outcome(true, again.collect()), any, "any {label}");
            assert_eq!(outcome(false, verdicts), all, "all {label}");
        }
    }

    #[test]
    fn a_realm_is_one_quoted_string() {
        for (realm, expected) in [
            ("closed site", "Basic realm=\"closed site\""),
            ("a\"b\\c", "Basic realm=\"a\\\"b\\\\c\""),
            ("a\r\nSet-Cookie: x", "Basic realm=\"a  Set-Cookie: x\""),
            ("", "Basic realm=\"\""),
        ] {
            assert_eq!(www_authenticate(realm.as_bytes()), expected.as_bytes());
        }
    }
}
