//! What the phases do next with a request. Handlers return it; `server::phases` acts on it.

use std::sync::Arc;

use crate::config::Location;
use crate::request::exchange::Exchange;
use crate::request::response::LocalResponse;

pub enum Next {
    /// The following phase.
    Continue,
    /// The first phase again, with the URI that the exchange has now.
    Restart,
    /// The location of the URI.
    FindLocation,
    NamedLocation(Vec<u8>),
    /// This location; without one the settings of the server apply.
    EnterLocation(Option<Arc<Location>>),
    /// Send a local response. `error_page` may replace a page.
    Respond(Box<LocalResponse>),
    /// Send a local response as it is.
    Send(Box<LocalResponse>),
    /// Send the page of a status; 444 and 499 close the connection without a response.
    Reject(u16),
}

impl Next {
    /// An internal redirect to `@name`, or to a path with its arguments.
    pub fn redirect(exchange: &mut Exchange, target: Vec<u8>) -> Self {
        if target.starts_with(b"@") {
            return Self::NamedLocation(target);
        }
        exchange.redirect_internally(&target);
        Self::Restart
    }
}
