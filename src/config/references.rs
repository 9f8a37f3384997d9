//! Files and hosts that a configuration names. They may appear after it is loaded, so that only `-t` and `-s reload` look for
//! them.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::config::builder::Builder;
use crate::config::parser::{Error, Position, SourceFile, Word};
use crate::config::{Config, Upstream, suggestion};

/// A file or host that a directive names.
#[derive(Debug)]
pub struct Reference {
    pub at: Position,
    pub target: ReferenceTarget,
}

#[derive(Debug)]
pub enum ReferenceTarget {
    /// A host name that the system resolves.
    Host(String),
    /// The path of a log or of the pid file, whose directory must exist at the start.
    Created(String),
    /// A file or directory that requests need: `root`, `auth_basic_user_file`.
    Read(String),
}

impl Reference {
    /// Returns the error of a file that can't be created: the start would fail.
    fn creation_error(&self, files: &[Arc<SourceFile>]) -> Option<Error> {
        match &self.target {
            ReferenceTarget::Created(path) if !is_volatile(path) => {
                Some(Error::new(&self.at, creation_failure(path)?).with_file_of(files))
            }
            _ => None,
        }
    }

    /// Returns a warning about a file that is not there: requests would fail.
    pub fn warning(&self) -> Option<String> {
        let ReferenceTarget::Read(path) = &self.target else { return None };
        let is_missing = std::fs::metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        is_missing.then(|| format!("\"{path}\" does not exist"))
    }
}

/// Whether a path is below a directory `run`, as in `/run` and `/var/run`. These are empty after a boot, and service managers
/// create directories there at the start.
fn is_volatile(path: &str) -> bool {
    Path::new(path).components().any(|component| component.as_os_str() == "run")
}

fn creation_failure(path: &str) -> Option<String> {
    let directory = Path::new(path).parent().filter(|directory| !directory.as_os_str().is_empty())?;
    match std::fs::metadata(directory) {
        Ok(found) if found.is_dir() => None,
        Ok(_) => Some(format!("\"{path}\" can't be created: \"{}\" is not a directory", directory.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Some(format!("\"{path}\" can't be created: there is no directory \"{}\"", directory.display()))
        }
        Err(_) => None,
    }
}

impl Config {
    /// Returns the first error of a log or pid file that can't be created.
    pub fn creation_error(&self) -> Option<Error> {
        self.references.iter().find_map(|reference| reference.creation_error(&self.files))
    }

    /// Returns the name of the `upstream` block that is closest to a host name, if one is close.
    pub fn closest_upstream(&self, host: &str) -> Option<&str> {
        // An upstream without a block has the name of its peer.
        let has_block = |upstream: &&Arc<Upstream>| upstream.peers.iter().all(|peer| peer.name != upstream.name);
        suggestion::closest(host, &mut self.upstreams.iter().filter(has_block).map(|upstream| upstream.name.as_str()))
    }
}

impl Builder {
    pub(crate) fn refer_to_created_file(&mut self, word: &Word, path: String) {
        self.refer(word, ReferenceTarget::Created(path));
    }

    pub(crate) fn refer_to_file(&mut self, word: &Word, path: String) {
        self.refer(word, ReferenceTarget::Read(path));
    }

    pub(crate) fn refer_to_host(&mut self, word: &Word, host: &str) {
        self.refer(word, ReferenceTarget::Host(host.to_owned()));
    }

    fn refer(&mut self, word: &Word, target: ReferenceTarget) {
        self.config.references.push(Reference { at: word.at, target });
    }
}
