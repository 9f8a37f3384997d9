//! Static files: maps a path to a file below `root` or `alias`, or to an index or a listing of a directory.
//!
//! A file is opened once and inspected through its descriptor, never looked up by name again. Only regular files are sent.

pub(crate) mod index;
pub(crate) mod file;
pub(crate) mod open;
pub(crate) mod conditional;
pub(crate) mod autoindex;
pub(crate) mod precompressed;
pub(crate) mod try_files;
pub(crate) mod conf;
pub(crate) mod autoindex_conf;
pub(crate) mod precompressed_conf;
pub(crate) mod symlinks_conf;

use crate::config::Level;
use crate::modules::gzip;
use crate::modules::static_files::file::{FileResponse, StaticEncoding};
use crate::request::exchange::Exchange;
use crate::request::next::Next;
use crate::request::response::LocalResponse;
use crate::request::{log, variables};
use crate::runtime::io_error;

/// Responds to a request for a file or a directory.
pub async fn respond(exchange: &mut Exchange) -> Result<FileResponse, Next> {
    let files = &exchange.settings().files;
    if !matches!(exchange.request.method(), b"GET" | b"HEAD" | b"POST") {
        return file::method_not_allowed(exchange);
    }
    if files.root.is_none() && files.alias.is_none() {
        return Err(Next::Reject(404));
    }
    if files.alias.is_some() && exchange.routing.rewrite_break {
        let why = "\"alias\" cannot be used in a location whose URI was rewritten with \"break\"; use \"root\"";
        log::log_request(exchange, Level::Error, format_args!("{why}"));
        return Err(Next::Reject(500));
    }
    let mut name = Vec::new();
    variables::write_file_name(exchange, &mut name);
    if variables::escapes_root(exchange, &name) {
        log::log_request(exchange, Level::Error, format_args!("path escapes its root, responding with 404"));
        return Err(Next::Reject(404));
    }
    if exchange.uri.path.ends_with(b"/") {
        return index::respond(exchange, &name).await;
    }
    let mut varies = false;
    if (files.gzip_static, files.brotli_static) != Default::default() && exchange.request.method() != b"POST" {
        let lookup = precompressed::find(exchange, &name);
        varies = lookup.varies;
        if let Some((file, meta, coding)) = lookup.file {
            return file::respond(exchange, file, &meta, StaticEncoding { coding: Some(coding), varies });
        }
    }
    match open::open(exchange, &name) {
        Ok((_, meta)) if meta.is_dir() => Err(Next::Respond(Box::new(LocalResponse::add_slash(exchange)))),
        Ok((_, meta)) if !meta.is_file() => {
            let name = String::from_utf8_lossy(&name);
            log::log_request(exchange, Level::Crit, format_args!("\"{name}\" is not a regular file"));
            Err(Next::Reject(404))
        }
        Ok(_) if exchange.request.method() == b"POST" => file::method_not_allowed(exchange),
        Ok((file, meta)) => file::respond(exchange, file, &meta, StaticEncoding { coding: None, varies }),
        Err(error) => {
            let (status, level) = open::error_status(&error);
            if status != 404 || files.log_not_found {
                let name = String::from_utf8_lossy(&name);
                log::log_request(
                    exchange,
                    level,
                    format_args!("open() \"{name}\" failed ({})", io_error::describe(&error)),
                );
            }
            let mut response = LocalResponse::page(status, exchange.settings().server_tokens);
            if varies && gzip::sends_vary(exchange) {
                response.headers.push((b"Vary", b"Accept-Encoding".to_vec()));
            }
            Err(Next::Respond(Box::new(response)))
        }
    }
}
