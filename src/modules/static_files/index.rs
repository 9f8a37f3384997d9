//! What answers for a folder: its first index that is there, a list of what is in it, or a refusal.

use std::io;

use crate::config::{Level, ListingFormat};
use crate::modules::static_files::autoindex::{self, Listing};
use crate::modules::static_files::file::{self, Answer};
use crate::modules::static_files::open;
use crate::request::exchange::Exchange;
use crate::request::{log, variables};
use crate::runtime::io_error;

/// A folder: its first index that is there, or a list of what is in it, or nothing.
pub async fn answer(exchange: &Exchange, folder: &[u8]) -> Answer {
    let files = &exchange.settings().files;
    let mut is_there = false;
    for template in files.index.iter() {
        let name = variables::value(template, exchange);
        if name.starts_with(b"/") {
            return Answer::Instead(name);
        }
        if name.is_empty() {
            continue;
        }
        let full = [folder, &name].concat();
        match open::metadata(exchange, &full) {
            Ok(_) => return Answer::Instead([exchange.uri.path.as_slice(), &name].concat()),
            // It is the folder that is not there, rather than the file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => match open::metadata(exchange, folder) {
                Ok(_) => is_there = true,
                Err(_) => return no_index(exchange, &full, &error),
            },
            Err(error) => return no_index(exchange, &full, &error),
        }
    }
    if files.autoindex.on && matches!(exchange.request.method(), b"GET" | b"HEAD") {
        return list(exchange, folder).await;
    }
    if !is_there && let Err(error) = open::metadata(exchange, folder) {
        return no_index(exchange, folder, &error);
    }
    let folder = String::from_utf8_lossy(folder);
    log::about(exchange, Level::Error, format_args!("directory index of \"{folder}\" is forbidden"));
    file::page(exchange, 403)
}

fn no_index(exchange: &Exchange, name: &[u8], error: &io::Error) -> Answer {
    let (status, level) = open::status_of(error);
    if status != 404 || exchange.settings().files.log_not_found {
        let name = String::from_utf8_lossy(name);
        let what = if status == 404 { "is not found" } else { "is forbidden" };
        log::about(exchange, level, format_args!("\"{name}\" {what} ({})", io_error::describe(error)));
    }
    file::page(exchange, status)
}

/// A list of what is in the folder.
async fn list(exchange: &Exchange, name: &[u8]) -> Answer {
    let settings = exchange.settings().files.autoindex;
    let args = exchange.uri.args.as_deref().unwrap_or_default();
    let callback = variables::arg(args, b"callback").filter(|_| settings.format == ListingFormat::Jsonp);
    let callback = callback.unwrap_or_default();
    if !autoindex::is_callback(callback) {
        log::about(exchange, Level::Info, format_args!("client sent invalid callback name"));
        return file::page(exchange, 400);
    }
    let read = async {
        let (folder, _) = open::open(exchange, name)?;
        Listing::read(&folder, &exchange.uri.path, settings).await
    };
    let listing = match read.await {
        Ok(listing) => listing.for_callback(callback),
        Err(error) => {
            let (status, level) = open::status_of(&error);
            let name = String::from_utf8_lossy(name);
            log::about(exchange, level, format_args!("opendir() \"{name}\" failed ({})", io_error::describe(&error)));
            return file::page(exchange, status);
        }
    };
    if listing.is_cut {
        let (name, most) = (String::from_utf8_lossy(name), autoindex::ENTRIES_MAX);
        log::about(exchange, Level::Error, format_args!("\"{name}\" has more than the {most} entries that are listed"));
    }
    file::of_listing(exchange, listing)
}
