//! `try_files`: the first existing file or directory of a list.

use std::io;

use crate::config::{Candidate, Fallback, Level};
use crate::modules::static_files::open;
use crate::request::exchange::Exchange;
use crate::request::next::Next;
use crate::request::{log, variables};
use crate::runtime::io_error;

/// Points the URI at the first existing file of `try_files`, or takes its fallback.
pub fn resolve(exchange: &mut Exchange) -> Next {
    let location = exchange.location.clone();
    let server = exchange.server.clone();
    let list = match &location {
        Some(location) => location.try_files.as_ref(),
        None => server.try_files.as_ref(),
    };
    let Some(list) = list else { return Next::Continue };
    let mut root = Vec::new();
    let prefix_bytes = variables::write_root(exchange, &mut root);
    // An `alias` in a location of an expression stands for the whole path.
    let alias_is_file = exchange.settings().files.alias.as_ref().is_some_and(|alias| alias.replaced_bytes.is_none());
    for candidate in &list.candidates {
        let mut name = variables::value(&candidate.name, exchange);
        let prefix = exchange.uri.path.get(..prefix_bytes).unwrap_or_default();
        // The part of the path that the alias replaces is not in the name of the file.
        if !alias_is_file && name.starts_with(prefix) {
            name.drain(..prefix.len());
        }
        if exists(exchange, candidate, &root, &name) {
            if alias_is_file {
                if !candidate.is_directory {
                    exchange.uri.path = name;
                    exchange.routing.alias_appended = true;
                }
            } else {
                exchange.uri.path = [prefix, &name].concat();
            }
            return Next::Continue;
        }
    }
    match &list.fallback {
        Fallback::Status(status) => Next::Reject(*status),
        Fallback::Target(target) => Next::redirect(exchange, variables::value(target, exchange)),
    }
}

fn exists(exchange: &Exchange, candidate: &Candidate, root: &[u8], name: &[u8]) -> bool {
    if name.contains(&0) || variables::has_dot_dot(name) {
        return false;
    }
    let path = [root, name].concat();
    match open::metadata(exchange, &path) {
        Ok(meta) => meta.is_dir() == candidate.is_directory,
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
