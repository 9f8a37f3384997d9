//! Whether a request is let in: its address (`allow`, `deny`), its password (`auth_basic`), what another request says of
//! it (`auth_request`), and how these go together (`satisfy`).
//!
//! Each check gives a [`Verdict`]; a [`Gate`] takes them one after the other until the matter is settled.

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

/// What one check says.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is nothing to check.
    NotApplicable,
    Allowed,
    Denied(Denied),
}

impl Verdict {
    fn denied(status: u16) -> Self {
        Self::Denied(Denied::new(status))
    }
}

/// Who is not let in gets this.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Denied {
    /// 499: nothing, the client is gone.
    pub status: u16,
    /// How to ask for entry: values of `WWW-Authenticate`.
    pub challenges: Vec<Vec<u8>>,
}

impl Denied {
    pub fn new(status: u16) -> Self {
        Self { status, challenges: Vec::new() }
    }
}

/// The verdicts on one request.
pub struct Satisfy {
    any: bool,
    denied: Option<Denied>,
}

impl Satisfy {
    pub fn new(access: &Access) -> Self {
        Self { any: access.any, denied: None }
    }

    /// Takes one verdict in; something, as soon as the others do not matter.
    pub fn add(&mut self, verdict: Verdict) -> Option<Result<(), Denied>> {
        match verdict {
            Verdict::NotApplicable => None,
            Verdict::Allowed if self.any => Some(Ok(())),
            Verdict::Allowed => None,
            Verdict::Denied(denied) if !self.any || !matches!(denied.status, 401 | 403) => Some(Err(denied)),
            Verdict::Denied(mut denied) => {
                // Who may still log in is told so, whatever else kept him out.
                if let Some(mut before) = self.denied.take() {
                    before.challenges.append(&mut denied.challenges);
                    denied.challenges = before.challenges;
                    if before.status == 401 {
                        denied.status = 401;
                    }
                }
                self.denied = Some(denied);
                None
            }
        }
    }

    /// What the verdicts come to when there are no more.
    pub fn finish(self, exchange: &Exchange) -> Result<(), Denied> {
        let Some(denied) = self.denied else { return Ok(()) };
        if denied.status == 403 {
            log::log_request(exchange, Level::Error, format_args!("access forbidden by rule"));
        }
        Err(denied)
    }
}

/// `allow` and `deny`.
pub fn check_address(access: &Access, exchange: &Exchange) -> Verdict {
    match access.rules.iter().find(|rule| rule.fits(&exchange.client.addr)) {
        None => Verdict::NotApplicable,
        Some(rule) if rule.allows => Verdict::Allowed,
        Some(_) => {
            if !access.any {
                log::log_request(exchange, Level::Error, format_args!("access forbidden by rule"));
            }
            Verdict::denied(403)
        }
    }
}

/// `auth_basic`.
pub async fn check_password(access: &Access, exchange: &Exchange, client: &BufStream) -> Verdict {
    let Some(basic) = &access.basic else { return Verdict::NotApplicable };
    let Some(realm) = &basic.realm else { return Verdict::NotApplicable };
    let realm = variables::value(realm, exchange);
    if realm == b"off" {
        return Verdict::NotApplicable;
    }
    let challenge = || Verdict::Denied(Denied { status: 401, challenges: vec![www_authenticate(&realm)] });
    let Some(Credentials { user, password }) = Credentials::from_headers(&exchange.request.headers) else {
        log::log_request(exchange, Level::Info, format_args!("no user/password was provided for basic authentication"));
        return challenge();
    };
    let (users, path) = match read_user_file(basic, exchange) {
        Ok(found) => found,
        Err(status) => return Verdict::denied(status),
    };
    let name = user.escape_ascii();
    let found = users.find_hash(&user);
    let check = async {
        match found.or_else(|| users.decoy_hash(&user)) {
            Some(stored) if found.is_some() => password_check::check(stored, &password).await,
            Some(decoy) => password_check::check_decoy(decoy, &password).await,
            None => CheckResult::Mismatch,
        }
    };
    let Some(outcome) = abort_if_client_closes(client, check).await else {
        log::log_request(
            exchange,
            Level::Info,
            format_args!("client closed connection while its password was checked"),
        );
        return Verdict::denied(499);
    };
    match outcome {
        CheckResult::Match => Verdict::Allowed,
        CheckResult::Mismatch if found.is_none() => {
            log::log_request(exchange, Level::Error, format_args!("user \"{name}\" was not found in \"{path}\""));
            challenge()
        }
        CheckResult::Mismatch => {
            log::log_request(exchange, Level::Error, format_args!("user \"{name}\": password mismatch"));
            challenge()
        }
        CheckResult::Unsupported => {
            let why = "the password is stored in a form that is not supported";
            log::log_request(
                exchange,
                Level::Error,
                format_args!("user \"{name}\" in \"{path}\": {why}, {}", password::ADVICE),
            );
            challenge()
        }
        CheckResult::Busy => {
            log::log_request(
                exchange,
                Level::Error,
                format_args!("user \"{name}\": too many passwords wait to be checked"),
            );
            Verdict::denied(503)
        }
    }
}

/// The users that a location knows, and the file that they are in.
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
            format_args!("the variables of \"auth_basic_user_file\" lead out of its folder"),
        );
        return Err(403);
    }
    let path = Path::new(&*basic.folder).join(String::from_utf8_lossy(&name).as_ref());
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

/// The challenge of a realm, which is one quoted string whatever it was made of.
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

/// What `auth_request` has found out, by what became of `asked`.
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

/// Does `work`; nothing, if the client goes before it is done.
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

    /// The verdicts one after the other: the status that it comes to, and the challenges.
    fn outcome(any: bool, verdicts: Vec<Verdict>) -> (u16, usize) {
        let mut gate = Satisfy { any, denied: None };
        let settled = verdicts.into_iter().find_map(|verdict| gate.add(verdict));
        match settled.unwrap_or(gate.denied.map_or(Ok(()), Err)) {
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
