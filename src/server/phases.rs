//! The phases of a request, in nginx's order: the rewrite phase of the server; then, in the location of the URI, rewrite,
//! limits, access control, `try_files` and the content handler.
//!
//! Handlers say with a [`Next`] what follows. A phase may send the request back to the start with another URI, or to a
//! named location, at most [`REDIRECTS_MAX`] times. `error_page` sees each local error page before it is sent.

use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Access, AuthRequest, Level, Location, SetTarget};
use crate::http1::head::Framing;
use crate::modules::access::{self, Satisfy, Verdict};
use crate::modules::static_files::{self, try_files};
use crate::modules::{error_page, limit, real_ip, rewrite};
use crate::proxy::forward::{self, Forwarded};
use crate::proxy::live::Live;
use crate::request::exchange::Exchange;
use crate::request::next::Next;
use crate::request::response::LocalResponse;
use crate::request::{log, variables};
use crate::runtime::executor::Timer;
use crate::runtime::stream::BufStream;
use crate::server::disposition::Disposition;
use crate::server::tunnel_task::TunnelSetup;
use crate::server::{router, send_response, status};

/// Internal redirects of one request.
const REDIRECTS_MAX: u8 = 10;

/// `Break` ends the request.
type Flow<T = Next> = ControlFlow<Disposition, T>;

/// One request's way through the phases.
pub struct Phases<'c> {
    pub stream: &'c mut BufStream,
    pub live: &'c Arc<Live>,
    /// The connection's.
    pub timer: &'c Timer,
}

impl Phases<'_> {
    /// Handles a request; or rejects it with a status that was found before the phases.
    pub async fn run(self, exchange: &mut Exchange, rejected: Option<u16>) -> Disposition {
        let first = match rejected {
            None => {
                real_ip::apply(exchange);
                Next::Restart
            }
            Some(status) => {
                exchange.closes_connection = true;
                exchange.response.status = status;
                Next::Reject(status)
            }
        };
        self.run_from(first, exchange).await
    }

    async fn run_from(mut self, mut next: Next, exchange: &mut Exchange) -> Disposition {
        let mut redirects = 0;
        loop {
            if matches!(next, Next::Restart | Next::FindLocation | Next::NamedLocation(_)) {
                redirects += 1;
                if redirects > REDIRECTS_MAX + 1 {
                    log::log_request(exchange, Level::Error, format_args!("rewrite or internal redirection cycle"));
                    exchange.closes_connection = true;
                    next = Next::Send(page(exchange, 500));
                }
            }
            let flow = match next {
                Next::Restart => match rewrite::run(&exchange.server.clone().steps, exchange) {
                    Next::Continue | Next::FindLocation => {
                        redirects -= 1; // the two are one redirect
                        Continue(Next::FindLocation)
                    }
                    response => Continue(response),
                },
                Next::FindLocation => Continue(router::find_location(exchange)),
                Next::NamedLocation(name) => Continue(router::find_named(exchange, &name)),
                Next::EnterLocation(location) => self.location_phases(exchange, location).await,
                Next::Reject(status @ (444 | 499)) => Break(close_silently(exchange, status)),
                Next::Reject(status) => Continue(Next::Respond(page(exchange, status))),
                // `limit_req_status 444` and the like.
                Next::Respond(response) if response.is_page && response.status == 444 => {
                    Break(close_silently(exchange, 444))
                }
                Next::Respond(response) => {
                    // As nginx does: after these statuses one side has lost track of the other.
                    exchange.closes_connection |=
                        response.is_page && matches!(response.status, 400 | 413 | 414 | 500 | 501);
                    Continue(error_page::apply(exchange, response))
                }
                Next::Send(response) if exchange.subrequest_of.is_some() => {
                    let status = exchange.overrides.status.filter(|_| !response.is_page);
                    Break(end_subrequest(exchange, status.unwrap_or(response.status)))
                }
                Next::Send(response) => {
                    let prepared = send_response::from_local(exchange, self.stream, *response);
                    Break(send_response::send(exchange, self.stream, Box::new(prepared)).await)
                }
                // No phase is left: not reached, since the content phase always responds.
                Next::Continue => Continue(Next::Reject(404)),
            };
            match flow {
                Continue(following) => next = following,
                Break(disposition) => return disposition,
            }
        }
    }

    /// The phases of a location; without one the settings of the server apply.
    async fn location_phases(&mut self, exchange: &mut Exchange, location: Option<Arc<Location>>) -> Flow {
        let except = location.as_ref().and_then(|location| location.limit_except.as_ref());
        let except = except.filter(|except| except.applies_to(exchange.request.method()));
        let location = except.map(|except| except.location.clone()).or(location);
        exchange.location.clone_from(&location);
        let body_bytes_max = exchange.settings().body_bytes_max;
        if let Framing::Length(length) = exchange.request.framing
            && body_bytes_max > 0
            && length > body_bytes_max
            && !exchange.body.is_dropped
        {
            log::log_request(
                exchange,
                Level::Error,
                format_args!("client intended to send too large body: {length} bytes"),
            );
            exchange.closes_connection = true;
            return Continue(Next::Reject(413));
        }
        if let Some(location) = &location {
            match rewrite::run(&location.steps, exchange) {
                Next::Continue => {}
                next => return Continue(next),
            }
        }
        real_ip::apply(exchange);
        if let Err(status) = limit::apply(exchange, &self.live.zones, self.timer, self.stream.stream.socket()).await {
            return Continue(Next::Reject(status));
        }
        // The access rules of the request itself cover its subrequest.
        if exchange.settings().optional.access.is_some() && exchange.subrequest_of.is_none() {
            match Box::pin(self.access_phase(exchange)).await? {
                Next::Continue => {}
                next => return Continue(next),
            }
        }
        match try_files::resolve(exchange) {
            Next::Continue => self.content_phase(exchange).await,
            next => Continue(next),
        }
    }

    /// `allow` and `deny`, `auth_basic`, `auth_request`, as `satisfy` combines them.
    async fn access_phase(&mut self, exchange: &mut Exchange) -> Flow {
        let optional = exchange.settings().optional.clone();
        let Some(access) = &optional.access else { return Continue(Next::Continue) };
        let mut satisfy = Satisfy::new(access);
        let mut settled = satisfy.add(access::check_address(access, exchange));
        if settled.is_none() {
            settled = satisfy.add(access::check_password(access, exchange, self.stream).await);
        }
        if settled.is_none()
            && let Some(request) = &access.auth_request
        {
            settled = satisfy.add(self.auth_request(exchange, access, request).await?);
        }
        let Err(denied) = settled.unwrap_or_else(|| satisfy.finish(exchange)) else {
            return Continue(Next::Continue);
        };
        let mut status = denied.status;
        if status == 401 && !access.auth_delay.is_zero() {
            log::log_request(exchange, Level::Info, format_args!("delaying unauthorized request"));
            let waited =
                limit::delay_request(exchange, self.timer, self.stream.stream.socket(), access.auth_delay).await;
            status = waited.err().unwrap_or(status);
        }
        if status == 499 {
            return Continue(Next::Reject(status));
        }
        let mut response = page(exchange, status);
        for challenge in denied.challenges {
            response.headers.push((b"WWW-Authenticate", challenge));
        }
        Continue(Next::Respond(response))
    }

    /// Makes the subrequest of `auth_request`. `Break`: the client has closed the connection meanwhile.
    async fn auth_request(&mut self, exchange: &mut Exchange, access: &Access, request: &AuthRequest) -> Flow<Verdict> {
        let mut subrequest = exchange.subrequest(&request.target);
        let first = match request.target.as_slice() {
            name @ [b'@', ..] => Next::NamedLocation(name.to_vec()),
            _ => Next::Restart,
        };
        let phases = Phases { stream: &mut *self.stream, live: self.live, timer: self.timer };
        let disposition = Box::pin(phases.run_from(first, &mut subrequest)).await;
        for (to, value) in access.auth_request_set.iter() {
            let value = variables::value(value, &subrequest);
            let holder = if matches!(to, SetTarget::User(_)) { &mut subrequest } else { &mut *exchange };
            rewrite::set_variable(holder, *to, value);
        }
        subrequest.variables.user.swap(&exchange.variables.user);
        subrequest.variables.evaluated.swap(&exchange.variables.evaluated);
        exchange.limits.merge(&mut subrequest.limits);
        if matches!(disposition, Disposition::Close) {
            exchange.response.status = subrequest.response.status;
            return Break(Disposition::Close);
        }
        Continue(access::check_subrequest(exchange, &subrequest))
    }

    /// The handler of the location: a status page, `proxy_pass`, or static files.
    async fn content_phase(&mut self, exchange: &mut Exchange) -> Flow {
        if let Some(content) = exchange.content() {
            return Continue(Next::Respond(Box::new(status::respond(exchange, content, self.live).await)));
        }
        if exchange.proxy_pass().is_some() {
            if exchange.malformed {
                exchange.routing.error_page_done = true;
                return Continue(Next::Respond(page(exchange, exchange.response.status)));
            }
            return self.forward(exchange).await;
        }
        match static_files::respond(exchange).await {
            Err(next) => Continue(next),
            Ok(_) if exchange.subrequest_of.is_some() => {
                Break(end_subrequest(exchange, exchange.overrides.status.unwrap_or(200)))
            }
            Ok(file) => {
                let prepared = send_response::from_file(exchange, self.stream, file);
                Break(send_response::send(exchange, self.stream, Box::new(prepared)).await)
            }
        }
    }

    async fn forward(&mut self, exchange: &mut Exchange) -> Flow {
        match forward::forward(exchange, self.stream, self.live, self.timer).await {
            Forwarded::Next(Next::Reject(status)) => {
                // The rest of a request that can't be parsed can't be parsed either.
                exchange.closes_connection |= matches!(status, 400 | 408 | 413 | 431);
                Continue(Next::Reject(status))
            }
            Forwarded::Next(next) => Continue(next),
            Forwarded::Sent { keep_alive } => Break(Disposition::after_response(exchange, keep_alive)),
            Forwarded::Aborted => Break(Disposition::Close),
            Forwarded::Upgraded(upgraded) => {
                Break(Disposition::Tunnel(Box::new(TunnelSetup::new(exchange, *upgraded))))
            }
        }
    }
}

fn close_silently(exchange: &mut Exchange, status: u16) -> Disposition {
    exchange.response.status = status;
    Disposition::Close
}

/// The response of a subrequest is its status: nothing is sent.
fn end_subrequest(exchange: &mut Exchange, status: u16) -> Disposition {
    exchange.response.status = status;
    Disposition::KeepAlive(Duration::ZERO)
}

fn page(exchange: &Exchange, status: u16) -> Box<LocalResponse> {
    Box::new(LocalResponse::page(status, exchange.settings().server_tokens))
}
