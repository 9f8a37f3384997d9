//! What is done with one request, in nginx's order: the steps of its server; then, for the location that its path leads
//! to, what may keep it out, the steps of the location, `try_files`, and what the location answers with.
//!
//! A phase may send the request back to the start with another path, or to a location by name; [`CHANGES_MAX`] bounds
//! that. Every page of our own passes by `error_page` before it is sent.

use std::sync::Arc;

use crate::config::{Access, AuthRequest, Level, Location, SetTarget};
use crate::http1::head::Framing;
use crate::modules::access::{self, Denied, Satisfy, Verdict};
use crate::modules::error_page::{self, ErrorPageAction};
use crate::modules::static_files::try_files::{self, TryFilesResult};
use crate::modules::static_files::{self, file};
use crate::modules::{limit, real_ip, rewrite};
use crate::proxy::forward::{self, Forwarded, Upgraded};
use crate::proxy::live::Live;
use crate::request::exchange::Exchange;
use crate::request::response::LocalResponse;
use crate::request::{log, variables};
use crate::runtime::executor::Timer;
use crate::runtime::stream::BufStream;
use crate::server::send_response::{self, After, PreparedResponse};
use crate::server::{router, status};

/// How often one request may be sent to another path or location.
const CHANGES_MAX: u8 = 10;

/// How a request ended.
pub enum Done {
    Answered(After),
    Upgraded(Box<Upgraded>),
}

/// What comes next for a request.
enum Next {
    /// The steps of the server.
    Server,
    /// The location that the path leads to.
    Search,
    /// A location by its name.
    Named(Vec<u8>),
    /// A location that was found; without one, the server's own settings count.
    Enter(Option<Arc<Location>>),
    /// An answer of our own; without one the connection is closed (`return 444`).
    Answer(Option<Box<LocalResponse>>),
    /// An answer that is ready to go.
    Send(Box<PreparedResponse>),
    Done(Done),
}

/// One request's way through the phases.
pub struct Phases<'c> {
    pub wire: &'c mut BufStream,
    pub running: &'c Arc<Live>,
    /// The connection's.
    pub timer: &'c Timer,
}

impl Phases<'_> {
    /// Does what the configuration says with a request; or answers one that is not served, with the status of `refused`.
    pub async fn act(self, exchange: &mut Exchange, refused: Option<u16>) -> Done {
        let first = match refused {
            None => {
                real_ip::apply(exchange);
                Next::Server
            }
            Some(status) => {
                exchange.closes_connection = true;
                exchange.response.status = status;
                Next::Answer(Some(page(exchange, status)))
            }
        };
        self.act_from(first, exchange).await
    }

    async fn act_from(mut self, mut next: Next, exchange: &mut Exchange) -> Done {
        let mut changes = 0;
        loop {
            if matches!(next, Next::Server | Next::Search | Next::Named(_)) {
                changes += 1;
                if changes > CHANGES_MAX + 1 {
                    log::log_request(exchange, Level::Error, format_args!("rewrite or internal redirection cycle"));
                    exchange.closes_connection = true;
                    next = self.send(exchange, *page(exchange, 500));
                }
            }
            next = match next {
                Next::Server => match rewrite::run(&exchange.server.clone().steps, exchange) {
                    rewrite::RewriteResult::Respond(response) => Next::Answer(response),
                    rewrite::RewriteResult::Done { .. } => {
                        changes -= 1; // it is no change of its own
                        Next::Search
                    }
                },
                Next::Search => search(exchange),
                Next::Named(name) => find_named(exchange, &name),
                Next::Enter(location) => self.enter(exchange, location).await,
                // 444 is never told, wherever it comes from (`limit_req_status 444`).
                Next::Answer(Some(response)) if !(response.is_page && response.status == 444) => {
                    self.answer(exchange, response)
                }
                Next::Answer(_) => {
                    exchange.response.status = 444;
                    return Done::Answered(After::Close);
                }
                Next::Send(delivery) => {
                    return Done::Answered(send_response::deliver(exchange, self.wire, delivery).await);
                }
                Next::Done(done) => return done,
            };
        }
    }

    /// Takes the request through a location; without one, the server's own settings count.
    async fn enter(&mut self, exchange: &mut Exchange, location: Option<Arc<Location>>) -> Next {
        let except = location.as_ref().and_then(|location| location.limit_except.as_ref());
        let except = except.filter(|except| except.applies_to(exchange.request.method()));
        let location = except.map(|except| except.location.clone()).or(location);
        exchange.location.clone_from(&location);
        let most = exchange.settings().body_bytes_max;
        if let Framing::Length(length) = exchange.request.framing
            && most > 0
            && length > most
            && !exchange.body.is_dropped
        {
            log::log_request(
                exchange,
                Level::Error,
                format_args!("client intended to send too large body: {length} bytes"),
            );
            exchange.closes_connection = true;
            return Next::Answer(Some(page(exchange, 413)));
        }
        if let Some(location) = &location {
            match rewrite::run(&location.steps, exchange) {
                rewrite::RewriteResult::Respond(response) => return Next::Answer(response),
                rewrite::RewriteResult::Done { uri_changed: true } => return Next::Search,
                rewrite::RewriteResult::Done { uri_changed: false } => {}
            }
        }
        real_ip::apply(exchange);
        if let Err(status) = limit::apply(exchange, &self.running.zones, self.timer, self.wire.stream.socket()).await {
            return refused(exchange, status);
        }
        // A question is asked by who has been let in, or is about to be.
        if exchange.settings().optional.access.is_some()
            && exchange.subrequest_of.is_none()
            && let Err(next) = Box::pin(self.admit(exchange)).await
        {
            return next;
        }
        if let Some(next) = try_files(exchange) {
            return next;
        }
        self.content(exchange).await
    }

    /// Keeps out whom the location does not let in.
    async fn admit(&mut self, exchange: &mut Exchange) -> Result<(), Next> {
        let rare = exchange.settings().optional.clone();
        let Some(access) = &rare.access else { return Ok(()) };
        let mut gate = Satisfy::new(access);
        let mut settled = gate.add(access::check_address(access, exchange));
        if settled.is_none() {
            settled = gate.add(access::check_password(access, exchange, self.wire).await);
        }
        if settled.is_none()
            && let Some(request) = &access.auth_request
        {
            settled = gate.add(self.ask(exchange, access, request).await?);
        }
        let Err(denied) = settled.unwrap_or_else(|| gate.finish(exchange)) else { return Ok(()) };
        Err(self.deny(exchange, access, denied).await)
    }

    /// Asks another location (`auth_request`); an end, if the client has gone or must go meanwhile.
    async fn ask(&mut self, exchange: &mut Exchange, access: &Access, request: &AuthRequest) -> Result<Verdict, Next> {
        let mut asked = exchange.subrequest(&request.target);
        let first = match request.target.as_slice() {
            name @ [b'@', ..] => Next::Named(name.to_vec()),
            _ => Next::Server,
        };
        let phases = Phases { wire: &mut *self.wire, running: self.running, timer: self.timer };
        let done = Box::pin(phases.act_from(first, &mut asked)).await;
        for (to, value) in access.auth_request_set.iter() {
            let value = variables::value(value, &asked);
            let holder = if matches!(to, SetTarget::User(_)) { &mut asked } else { &mut *exchange };
            rewrite::set_variable(holder, *to, value);
        }
        asked.variables.user.swap(&exchange.variables.user);
        asked.variables.maps.swap(&exchange.variables.maps);
        exchange.limits.merge(&mut asked.limits);
        match done {
            Done::Answered(After::Close) => {
                exchange.response.status = asked.response.status;
                Err(Next::Done(Done::Answered(After::Close)))
            }
            _ => Ok(access::check_subrequest(exchange, &asked)),
        }
    }

    async fn deny(&self, exchange: &mut Exchange, access: &Access, denied: Denied) -> Next {
        let mut status = denied.status;
        if status == 401 && !access.auth_delay.is_zero() {
            log::log_request(exchange, Level::Info, format_args!("delaying unauthorized request"));
            let waited = limit::delay_request(exchange, self.timer, self.wire.stream.socket(), access.auth_delay).await;
            status = waited.err().unwrap_or(status);
        }
        if status == 499 {
            return refused(exchange, status);
        }
        let mut response = page(exchange, status);
        for challenge in denied.challenges {
            response.headers.push((b"WWW-Authenticate", challenge));
        }
        Next::Answer(Some(response))
    }

    /// What the location answers with.
    async fn content(&mut self, exchange: &mut Exchange) -> Next {
        if let Some(content) = exchange.content() {
            return Next::Answer(Some(Box::new(status::answer(exchange, content, self.running).await)));
        }
        if exchange.proxy_pass().is_some() {
            if exchange.malformed {
                exchange.routing.error_page_done = true;
                return Next::Answer(Some(page(exchange, exchange.response.status)));
            }
            return self.forward(exchange).await;
        }
        match static_files::respond(exchange).await {
            file::StaticResponse::Local(response) => Next::Answer(Some(Box::new(response))),
            file::StaticResponse::IndexRedirect(path) => {
                exchange.uri.path = path;
                exchange.uri.path_changed = true;
                exchange.routing.is_internal = true;
                Next::Server
            }
            file::StaticResponse::File(_) if exchange.subrequest_of.is_some() => {
                exchange.response.status = exchange.overrides.status.unwrap_or(200);
                Next::Done(Done::Answered(After::KeepAlive))
            }
            file::StaticResponse::File(found) => {
                Next::Send(Box::new(send_response::of_file(exchange, self.wire, found)))
            }
        }
    }

    async fn forward(&mut self, exchange: &mut Exchange) -> Next {
        let after = match forward::forward(exchange, self.wire, self.running, self.timer).await {
            Forwarded::Answered { reusable: true } => After::KeepAlive,
            Forwarded::Answered { reusable: false } => After::Linger,
            Forwarded::Broken => After::Close,
            Forwarded::Refused(status) => {
                // What is left of a request that could not be understood is not to be understood either.
                exchange.closes_connection |= matches!(status, 400 | 408 | 413 | 431);
                return refused(exchange, status);
            }
            Forwarded::Elsewhere(name) if name.starts_with(b"@") => return Next::Named(name),
            Forwarded::Elsewhere(target) => {
                exchange.redirect_internally(&target);
                return Next::Server;
            }
            Forwarded::Upgraded(upgraded) => return Next::Done(Done::Upgraded(upgraded)),
        };
        Next::Done(Done::Answered(after))
    }

    /// Sends an answer of our own, unless `error_page` has another one.
    fn answer(&mut self, exchange: &mut Exchange, response: Box<LocalResponse>) -> Next {
        // As nginx does: these say that either side was not understood.
        exchange.closes_connection |= response.is_page && matches!(response.status, 400 | 413 | 414 | 500 | 501);
        match error_page::apply(exchange, response) {
            ErrorPageAction::Respond(response) => self.send(exchange, *response),
            ErrorPageAction::InternalRedirect => Next::Server,
            ErrorPageAction::NamedLocation(name) => Next::Named(name),
        }
    }

    fn send(&mut self, exchange: &mut Exchange, response: LocalResponse) -> Next {
        if exchange.subrequest_of.is_some() {
            exchange.response.status =
                exchange.overrides.status.filter(|_| !response.is_page).unwrap_or(response.status);
            return Next::Done(Done::Answered(After::KeepAlive));
        }
        Next::Send(Box::new(send_response::of_reply(exchange, self.wire, response)))
    }
}

/// Finds the location of the path.
fn search(exchange: &mut Exchange) -> Next {
    match router::find(exchange) {
        router::Found::Location(location) | router::Found::AddSlash(location)
            if location.internal && !exchange.routing.is_internal =>
        {
            exchange.location = Some(location);
            Next::Answer(Some(page(exchange, 404)))
        }
        router::Found::Location(location) => Next::Enter(Some(location)),
        router::Found::AddSlash(location) => {
            exchange.location = Some(location);
            Next::Answer(Some(Box::new(LocalResponse::add_slash(exchange))))
        }
        router::Found::Nothing => Next::Enter(None),
    }
}

fn find_named(exchange: &mut Exchange, name: &[u8]) -> Next {
    let text = String::from_utf8_lossy(name);
    let Some(location) = exchange.server.locations.named(&text).cloned() else {
        log::log_request(exchange, Level::Error, format_args!("could not find named location \"{text}\""));
        return Next::Answer(Some(page(exchange, 500)));
    };
    exchange.routing.is_internal = true;
    exchange.uri.path_changed = true;
    Next::Enter(Some(location))
}

/// The page of a status; but a client that is gone (499) gets none.
fn refused(exchange: &mut Exchange, status: u16) -> Next {
    if status == 499 {
        exchange.response.status = status;
        return Next::Done(Done::Answered(After::Close));
    }
    Next::Answer(Some(page(exchange, status)))
}

fn page(exchange: &Exchange, status: u16) -> Box<LocalResponse> {
    Box::new(LocalResponse::page(status, exchange.settings().server_tokens))
}

/// Looks which of the files of `try_files` is there; nothing, if the request goes on with the path that it has now.
fn try_files(exchange: &mut Exchange) -> Option<Next> {
    match try_files::resolve(exchange)? {
        TryFilesResult::Found => None,
        TryFilesResult::Status(status) => Some(Next::Answer(Some(page(exchange, status)))),
        TryFilesResult::Fallback(name) if name.starts_with(b"@") => Some(Next::Named(name)),
        TryFilesResult::Fallback(target) => {
            exchange.redirect_internally(&target);
            Some(Next::Server)
        }
    }
}
