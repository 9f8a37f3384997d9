//! Precompressed files beside the plain ones: `name.br`, `name.gz` (`brotli_static`, `gzip_static`).

use std::fs::{File, Metadata};

use crate::config::Precompressed;
use crate::modules::gzip;
use crate::modules::static_files::open;
use crate::request::exchange::Exchange;
use crate::request::{accept_encoding, log};
use crate::runtime::io_error;

/// The result of looking for precompressed files.
#[derive(Default)]
pub struct PrecompressedLookup {
    /// The file to send in place of the plain one, and its content coding.
    pub file: Option<(File, Metadata, &'static [u8])>,
    /// The choice depends on Accept-Encoding.
    pub varies: bool,
}

/// Looks for a precompressed file of `name` that this client accepts.
pub fn find(exchange: &Exchange, name: &[u8]) -> PrecompressedLookup {
    let files = &exchange.settings().files;
    let mut lookup = PrecompressedLookup::default();
    for (mode, coding, suffix) in [(files.brotli_static, &b"br"[..], &b".br"[..]), (files.gzip_static, b"gzip", b".gz")]
    {
        if mode == Precompressed::Off {
            continue;
        }
        let is_accepted = mode == Precompressed::Always || may_send(exchange, coding);
        if !is_accepted && !gzip::sends_vary(exchange) {
            continue;
        }
        let Some((file, meta)) = open_variant(exchange, &[name, suffix].concat()) else { continue };
        lookup.varies |= mode == Precompressed::On;
        if is_accepted && meta.is_file() {
            lookup.file = Some((file, meta, coding));
            break;
        }
    }
    lookup
}

/// Whether the client accepts the coding. For gzip the rules of `gzip_*` apply as well, as in nginx.
fn may_send(exchange: &Exchange, coding: &[u8]) -> bool {
    let response = gzip::ResponseInfo { status: 200, content_type: None, length: None, fields: None, is_file: true };
    accept_encoding::accepts(exchange, coding) && (coding != b"gzip" || gzip::may_compress(exchange, &response))
}

/// Opens a precompressed file. One that cannot be opened counts as missing; errors other than 404 are logged.
fn open_variant(exchange: &Exchange, name: &[u8]) -> Option<(File, Metadata)> {
    match open::open(exchange, name) {
        Ok(opened) => Some(opened),
        Err(error) => {
            let (status, level) = open::error_status(&error);
            if status != 404 {
                let name = String::from_utf8_lossy(name);
                log::log_request(
                    exchange,
                    level,
                    format_args!("open() \"{name}\" failed ({})", io_error::describe(&error)),
                );
            }
            None
        }
    }
}
