//! What answers for a folder: its first index that is there, a list of what is in it, or a refusal.

use std::io;

use crate::config::{Level, ListingFormat};
use crate::modules::static_files::autoindex::{self, Listing};
use crate::modules::static_files::file::{self, StaticResponse};
use crate::modules::static_files::open;
use crate::request::exchange::Exchange;
use crate::request::{log, variables};
use crate::runtime::io_error;

/// A folder: its first index that is there, or a list of what is in it, or nothing.
pub async fn respond(exchange: &Exchange, folder: &[u8]) -> StaticResponse {
    let files = &exchange.settings().files;
    let mut is_there = false;
    for template in files.index.iter() {
        let name = variables::value(template, exchange);
        if name.starts_with(b"/") {
            return StaticResponse::IndexRedirect(name);
        }
        if name.is_empty() {
            continue;
        }
        let full = [folder, &name].concat();
        match open::metadata(exchange, &full) {
            Ok(_) => return StaticResponse::IndexRedirect([exchange.uri.path.as_slice(), &name].concat()),
            // It is the folder that is not there, rather than the file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => match open::metadata(exchange, folder) {
                Ok(_) => is_there = true,
                Err(_) => return index_error(exchange, &full, &error),
            },
            Err(error) => return index_error(exchange, &full, &error),
        }
    }
    if files.autoindex.on && matches!(exchange.request.method(), b"GET" | b"HEAD") {
        return list_directory(exchange, folder).await;
    }
    if !is_there && let Err(error) = open::metadata(exchange, folder) {
        return index_error(exchange, folder, &error);
    }
    let folder = String::from_utf8_lossy(folder);
    log::log_request(exchange, Level::Error, format_args!("directory index of \"{folder}\" is forbidden"));
    file::status_page(exchange, 403)
}

fn index_error(exchange: &Exchange, name: &[u8], error: &io::Error) -> StaticResponse {
    let (status, level) = open::error_status(error);
    if status != 404 || exchange.settings().files.log_not_found {
        let name = String::from_utf8_lossy(name);
        let what = if status == 404 { "is not found" } else { "is forbidden" };
        log::log_request(exchange, level, format_args!("\"{name}\" {what} ({})", io_error::describe(error)));
    }
    file::status_page(exchange, status)
}

/// A list of what is in the folder.
async fn list_directory(exchange: &Exchange, name: &[u8]) -> StaticResponse {
    let settings = exchange.settings().files.autoindex;
    let args = exchange.uri.args.as_deref().unwrap_or_default();
    let callback = variables::arg(args, b"callback").filter(|_| settings.format == ListingFormat::Jsonp);
    let callback = callback.unwrap_or_default();
    if !autoindex::is_callback_name(callback) {
        log::log_request(exchange, Level::Info, format_args!("client sent invalid callback name"));
        return file::status_page(exchange, 400);
    }
    let read = async {
        let (folder, _) = open::open(exchange, name)?;
        Listing::read(&folder, &exchange.uri.path, settings).await
    };
    let listing = match read.await {
        Ok(listing) => listing.set_callback(callback),
        Err(error) => {
            let (status, level) = open::error_status(&error);
            let name = String::from_utf8_lossy(name);
            log::log_request(
                exchange,
                level,
                format_args!("opendir() \"{name}\" failed ({})", io_error::describe(&error)),
            );
            return file::status_page(exchange, status);
        }
    };
    if listing.is_truncated {
        let (name, most) = (String::from_utf8_lossy(name), autoindex::ENTRIES_MAX);
        log::log_request(
            exchange,
            Level::Error,
            format_args!("\"{name}\" has more than the {most} entries that are listed"),
        );
    }
    file::respond_listing(exchange, listing)
}
