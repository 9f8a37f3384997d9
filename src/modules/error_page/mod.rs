//! `error_page`: replaces error pages generated here by a path, a named location or a redirect.

pub(crate) mod conf;

use crate::http1::head;
use crate::request::exchange::Exchange;
use crate::request::response::{self, LocalResponse};
use crate::request::variables;

pub enum ErrorPageAction {
    /// The page itself, or a redirect in its place.
    Respond(Box<LocalResponse>),
    /// The request now has the path of the error page: its location is to be found.
    InternalRedirect,
    /// The name of a location, with its `@`.
    NamedLocation(Vec<u8>),
}

/// Applies `error_page` to a generated page. An error while an error page is made is itself replaced only with
/// `recursive_error_pages`.
pub fn apply(exchange: &mut Exchange, mut response: Box<LocalResponse>) -> ErrorPageAction {
    if !response.is_page || exchange.routing.error_page_done {
        return ErrorPageAction::Respond(response);
    }
    let pages = exchange.settings().error_pages.clone();
    let Some(page) = pages.iter().find(|page| page.status == response.status) else {
        return ErrorPageAction::Respond(response);
    };
    exchange.routing.error_page_done = !exchange.settings().recursive_error_pages;
    let target = variables::value(&page.target, exchange);
    // The page keeps what the client needs to go on: `WWW-Authenticate` and `Location`.
    exchange.overrides.headers.append(&mut response.headers);
    if let Some(location) = response.location {
        exchange.remove_location_header();
        let location = response::absolute_location(exchange, &location);
        exchange.overrides.headers.push((b"Location", location));
    }
    match target.first() {
        Some(b'/') => {
            exchange.overrides.status = page.response_status;
            if exchange.request.method() != b"HEAD" {
                exchange.request.become_get();
                exchange.body.is_dropped = true;
            }
            exchange.redirect_internally(&target);
            ErrorPageAction::InternalRedirect
        }
        Some(b'@') => {
            exchange.overrides.status = page.response_status;
            ErrorPageAction::NamedLocation(target)
        }
        _ => {
            let status =
                page.response_status.filter(|status| matches!(status, 301 | 302 | 303 | 307 | 308)).unwrap_or(302);
            let mut redirect = LocalResponse::page(status, exchange.settings().server_tokens);
            redirect.location = Some(target);
            ErrorPageAction::Respond(Box::new(redirect))
        }
    }
}

/// Whether an error page replaces an upstream's response with `status` (`proxy_intercept_errors`).
pub fn intercepts(exchange: &Exchange, status: u16) -> bool {
    let settings = exchange.settings();
    settings.proxy.intercept_errors
        && !head::is_bodyless(status)
        && settings.error_pages.iter().any(|page| page.status == status)
}
