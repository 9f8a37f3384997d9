//! The first file or folder of a list that is there (`try_files`).

use std::io;

use crate::config::{Candidate, Fallback, Level};
use crate::modules::static_files::open;
use crate::request::exchange::Exchange;
use crate::request::{log, variables};
use crate::runtime::io_error;

/// What came of it.
pub enum TryFilesResult {
    /// The path is now that of what was found.
    Found,
    Status(u16),
    /// Nothing is there: this path and its arguments, or with `@` in front a named location.
    Fallback(Vec<u8>),
}

/// Looks for what `try_files` names; nothing, if there is no such directive.
pub fn resolve(exchange: &mut Exchange) -> Option<TryFilesResult> {
    let location = exchange.location.clone();
    let server = exchange.server.clone();
    let list = match &location {
        Some(location) => location.try_files.as_ref()?,
        None => server.try_files.as_ref()?,
    };
    let mut root = Vec::new();
    let aliased = variables::write_root(exchange, &mut root);
    let whole = exchange.settings().files.alias.as_ref().is_some_and(|alias| alias.replaces.is_none());
    for tryable in &list.names {
        let mut name = variables::value(&tryable.name, exchange);
        // What an alias stands for is no part of the file's name.
        let matched = exchange.uri.path.get(..aliased).filter(|matched| !whole && name.starts_with(matched));
        let matched = matched.map_or(0, <[u8]>::len);
        name.drain(..matched);
        if exists(exchange, tryable, &root, &name) {
            if whole {
                if !tryable.is_folder {
                    exchange.uri.path = name;
                    exchange.routing.alias_appended = true;
                }
            } else {
                let kept = exchange.uri.path.get(..aliased).unwrap_or_default();
                exchange.uri.path = [kept, &name].concat();
            }
            return Some(TryFilesResult::Found);
        }
    }
    Some(match &list.otherwise {
        Fallback::Status(status) => TryFilesResult::Status(*status),
        Fallback::Target(target) => TryFilesResult::Fallback(variables::value(target, exchange)),
    })
}

fn exists(exchange: &Exchange, tryable: &Candidate, root: &[u8], name: &[u8]) -> bool {
    if name.contains(&0) || variables::has_dot_dot(name) {
        return false;
    }
    let path = [root, name].concat();
    match open::metadata(exchange, &path) {
        Ok(meta) => meta.is_dir() == tryable.is_folder,
        Err(error) => {
            if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
                let name = String::from_utf8_lossy(name);
                log::log_request(
                    exchange,
                    Level::Error,
                    format_args!("stat() \"{name}\" failed ({})", io_error::describe(&error)),
                );
            }
            false
        }
    }
}
