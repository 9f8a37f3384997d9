//! Files that lie compressed beside the plain ones: `name.br`, `name.gz` (`brotli_static`, `gzip_static`).

use std::fs::{File, Metadata};

use crate::config::Precompressed;
use crate::modules::gzip;
use crate::modules::static_files::open;
use crate::request::exchange::Exchange;
use crate::request::{accept_encoding, log};
use crate::runtime::io_error;

/// What lies beside a file.
#[derive(Default)]
pub struct Lookup {
    /// The file to send in place of the plain one, and its content coding.
    pub file: Option<(File, Metadata, &'static [u8])>,
    /// Another client may get another file.
    pub varies: bool,
}

/// Looks for a compressed file beside `name` that this client can read.
pub fn find(exchange: &Exchange, name: &[u8]) -> Lookup {
    let files = &exchange.settings().files;
    let mut beside = Lookup::default();
    for (who, coding, suffix) in [(files.brotli, &b"br"[..], &b".br"[..]), (files.gzip, b"gzip", b".gz")] {
        if who == Precompressed::Off {
            continue;
        }
        let readable = who == Precompressed::Always || may_send(exchange, coding);
        if !readable && !gzip::sends_vary(exchange) {
            continue;
        }
        let Some((file, meta)) = open_variant(exchange, &[name, suffix].concat()) else { continue };
        beside.varies |= who == Precompressed::On;
        if readable && meta.is_file() {
            beside.file = Some((file, meta, coding));
            break;
        }
    }
    beside
}

/// Whether the client says that it can read the coding. For gzip, what restricts compression counts as well (nginx).
fn may_send(exchange: &Exchange, coding: &[u8]) -> bool {
    let about = gzip::ResponseInfo { status: 200, content_type: None, length: None, fields: None, is_file: true };
    accept_encoding::accepts(exchange, coding) && (coding != b"gzip" || gzip::may_compress(exchange, &about))
}

/// What can't be opened is as good as not there, but the log tells why.
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
