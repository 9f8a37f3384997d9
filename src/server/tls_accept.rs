//! The TLS handshake of a connection, and whether a request may be served on it.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use crate::config::{Level, VirtualHosts};
use crate::request::exchange::{Client, Exchange};
use crate::request::log;
use crate::request::response::{HTTP_TO_HTTPS, SSL_CERTIFICATE_ERROR, SSL_CERTIFICATE_REQUIRED};
use crate::runtime::executor::{Elapsed, Timer};
use crate::runtime::stream::{BufStream, Stream};
use crate::server::worker::{WaitResult, Worker};
use crate::tls::{self, AuthError};

/// Performs the handshake, unless the client speaks plain HTTP: it gets an error response then. `None`: the connection
/// ends.
pub async fn accept_tls(
    mut wire: BufStream,
    client: Client,
    group: &VirtualHosts,
    worker: &Worker,
) -> Option<(BufStream, Client)> {
    let settings = &group.names.default_server().settings;
    let info = |message: std::fmt::Arguments<'_>| log::log_client(&settings.error_log, Level::Info, &client, message);
    let timer = Timer::new();
    if worker.wait(&wire, &timer, settings.header_timeout).await != WaitResult::Readable {
        return None;
    }
    let mut reader = wire.reader();
    let first = poll_fn(|cx| reader.poll_bytes(cx, |_, bytes| (0, bytes.first().copied())));
    // A handshake record, or the ClientHello of SSL 2, which is rejected.
    let first = timer.within(settings.header_timeout, first).await.ok()?.ok()??;
    if !matches!(first, 22 | 0x80..) {
        return Some((wire, client));
    }
    let ahead = wire.take_buffered();
    let Stream::Plain(socket) = wire.stream else { return None };
    let choose = |name: Option<&str>| {
        let site = group.names.tls_for(name)?;
        site.reload_if_changed(name).iter().for_each(|news| log::log_cert_reload(&worker.error_log(), news));
        Some(site)
    };
    let made = tls::accept(socket, ahead, choose);
    match timer.within(settings.header_timeout, pin!(made)).await {
        Ok(Ok((session, secured))) => {
            let client = Client { tls: Some(Rc::new(secured)), ..client };
            Some((BufStream::new(Stream::Secure(session)), client))
        }
        Ok(Err(failure)) => {
            info(format_args!("{failure}"));
            None
        }
        Err(Elapsed) => {
            info(format_args!("client timed out (110: Connection timed out) while SSL handshaking"));
            None
        }
    }
}

/// Checks SNI and client certificate of a request.
pub fn authorize(exchange: &Exchange, group: &VirtualHosts) -> Result<(), u16> {
    let info = |message: std::fmt::Arguments<'_>| {
        log::log_request(exchange, Level::Info, format_args!("{message} while reading client request headers"));
    };
    let secured = match &exchange.client.tls {
        _ if !tls::AVAILABLE => return Ok(()),
        Some(secured) => secured,
        None if group.tls => {
            info(format_args!("client sent plain HTTP request to HTTPS port"));
            return Err(HTTP_TO_HTTPS);
        }
        None => return Ok(()),
    };
    // A server without TLS settings of its own uses those of the default server.
    let own = exchange.server.tls.as_ref();
    let site: Option<&Arc<tls::ServerTls>> = own.or(group.names.default_server().tls.as_ref());
    secured.authorize(site).map_err(|refusal| match refusal {
        AuthError::Misdirected => {
            info(format_args!(
                "client attempted to request the server name different from the one that was negotiated"
            ));
            421
        }
        AuthError::NoCertificate => {
            info(format_args!("client sent no required SSL certificate"));
            SSL_CERTIFICATE_REQUIRED
        }
        AuthError::BadCertificate(why) => {
            info(format_args!("client SSL certificate verify error: ({why})"));
            SSL_CERTIFICATE_ERROR
        }
    })
}
