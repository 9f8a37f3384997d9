//! Responds to a path with `/` at its end: the first `index` file that exists, a listing (`autoindex`), or 403.

use std::io;

use crate::config::{Level, ListingFormat};
use crate::modules::static_files::autoindex::{self, Listing};
use crate::modules::static_files::file::{self, FileResponse};
use crate::modules::static_files::open;
use crate::request::exchange::Exchange;
use crate::request::next::Next;
use crate::request::{log, variables};
use crate::runtime::io_error;

pub async fn respond(exchange: &mut Exchange, directory: &[u8]) -> Result<FileResponse, Next> {
    let files = &exchange.settings().files;
    let mut directory_exists = false;
    for template in files.index.iter() {
        let name = variables::value(template, exchange);
        if name.starts_with(b"/") {
            return Err(serve_index(exchange, name));
        }
        if name.is_empty() {
            continue;
        }
        let path = [directory, &name].concat();
        match open::metadata(exchange, &path) {
            Ok(_) => {
                let path = [exchange.uri.path.as_slice(), &name].concat();
                return Err(serve_index(exchange, path));
            }
            // NotFound may mean the directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => match open::metadata(exchange, directory) {
                Ok(_) => directory_exists = true,
                Err(_) => return index_error(exchange, &path, &error),
            },
            Err(error) => return index_error(exchange, &path, &error),
        }
    }
    if files.autoindex.on && matches!(exchange.request.method(), b"GET" | b"HEAD") {
        return list_directory(exchange, directory).await;
    }
    if !directory_exists && let Err(error) = open::metadata(exchange, directory) {
        return index_error(exchange, directory, &error);
    }
    let directory = String::from_utf8_lossy(directory);
    log::log_request(exchange, Level::Error, format_args!("directory index of \"{directory}\" is forbidden"));
    Err(Next::Reject(403))
}

/// Serves the index file at `path` instead.
fn serve_index(exchange: &mut Exchange, path: Vec<u8>) -> Next {
    exchange.uri.path = path;
    exchange.uri.path_changed = true;
    exchange.routing.is_internal = true;
    Next::Restart
}

fn index_error(exchange: &Exchange, name: &[u8], error: &io::Error) -> Result<FileResponse, Next> {
    let (status, level) = open::error_status(error);
    if status != 404 || exchange.settings().files.log_not_found {
        let name = String::from_utf8_lossy(name);
        let what = if status == 404 { "is not found" } else { "is forbidden" };
        log::log_request(exchange, level, format_args!("\"{name}\" {what} ({})", io_error::describe(error)));
    }
    Err(Next::Reject(status))
}

async fn list_directory(exchange: &Exchange, name: &[u8]) -> Result<FileResponse, Next> {
    let settings = exchange.settings().files.autoindex;
    let args = exchange.uri.args.as_deref().unwrap_or_default();
    let callback = variables::arg(args, b"callback").filter(|_| settings.format == ListingFormat::Jsonp);
    let callback = callback.unwrap_or_default();
    if !autoindex::is_callback_name(callback) {
        log::log_request(exchange, Level::Info, format_args!("client sent invalid callback name"));
        return Err(Next::Reject(400));
    }
    let listing = async {
        let (directory, _) = open::open(exchange, name)?;
        Listing::read(&directory, &exchange.uri.path, settings).await
    };
    let listing = match listing.await {
        Ok(listing) => listing.set_callback(callback),
        Err(error) => {
            let (status, level) = open::error_status(&error);
            let name = String::from_utf8_lossy(name);
            log::log_request(
                exchange,
                level,
                format_args!("opendir() \"{name}\" failed ({})", io_error::describe(&error)),
            );
            return Err(Next::Reject(status));
        }
    };
    if listing.is_truncated {
        let (name, max) = (String::from_utf8_lossy(name), autoindex::ENTRIES_MAX);
        log::log_request(
            exchange,
            Level::Error,
            format_args!("\"{name}\" has more than {max} entries, listing truncated"),
        );
    }
    file::respond_listing(exchange, listing)
}
