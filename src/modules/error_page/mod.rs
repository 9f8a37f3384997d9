//! `error_page`: replaces error pages generated here by a path, a named location or a redirect.

pub(crate) mod conf;

use crate::http1::head;
use crate::request::exchange::Exchange;
use crate::request::next::Next;
use crate::request::response::{self, LocalResponse};
use crate::request::variables;

/// Finds what `error_page` says of a page. A page for a page is looked for only where the location
/// of the one before has `recursive_error_pages`.
pub fn apply(exchange: &mut Exchange, mut response: Box<LocalResponse>) -> Next {
    if !response.is_page || exchange.routing.error_page_done {
        return Next::Send(response);
    }
    let pages = exchange.settings().error_pages.clone();
    let Some(page) = pages.iter().find(|page| page.status == response.status) else {
        return Next::Send(response);
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
            Next::redirect(exchange, target)
        }
        Some(b'@') => {
            exchange.overrides.status = page.response_status;
            Next::redirect(exchange, target)
        }
        _ => {
            let status =
                page.response_status.filter(|status| matches!(status, 301 | 302 | 303 | 307 | 308)).unwrap_or(302);
            let mut redirect = LocalResponse::page(status, exchange.settings().server_tokens);
            redirect.location = Some(target);
            Next::Send(Box::new(redirect))
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
