//! Certificates whose files are named by the server name of the client (`ssl_certificate /certs/$ssl_server_name.crt`).
//!
//! The pairs used last are kept, and reloaded as any other. A name for which there is no pair is looked up each time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::tls::cert_key::{CertKey, ReloadEvent};
use crate::tls::settings::{LoadError, NamedPath};

/// Pairs that are kept.
const PAIRS_MAX: usize = 100;

#[derive(Debug, Default)]
pub(super) struct NamedCertKeys {
    paths: Vec<(NamedPath, NamedPath)>,
    /// The one used last first.
    cached: Mutex<VecDeque<CachedPairs>>,
}

/// The pairs of a server name.
#[derive(Debug)]
struct CachedPairs {
    name: Box<str>,
    pairs: Vec<Arc<CertKey>>,
}

impl NamedCertKeys {
    pub(super) fn new(paths: Vec<(NamedPath, NamedPath)>) -> Self {
        Self { paths, ..Self::default() }
    }

    /// Returns the pairs for a server name, if [`Self::load_or_reload`] has found them.
    pub(super) fn get(&self, name: &str) -> Vec<Arc<CertKey>> {
        if self.paths.is_empty() { Vec::new() } else { find(&mut self.lock(), name).unwrap_or_default() }
    }

    /// Loads the pairs for a server name, or reloads those whose files have changed.
    pub(super) fn load_or_reload(&self, name: &str) -> Vec<ReloadEvent> {
        if self.paths.is_empty() {
            return Vec::new();
        }
        let mut cached = self.lock();
        if let Some(pairs) = find(&mut cached, name) {
            drop(cached);
            return pairs.iter().filter_map(|pair| pair.reload_if_changed()).collect();
        }
        match self.paths.iter().map(|paths| load(paths, name)).collect() {
            Ok(pairs) => {
                cached.push_front(CachedPairs { name: name.into(), pairs });
                cached.truncate(PAIRS_MAX);
                Vec::new()
            }
            Err(error) => vec![ReloadEvent::Failed(error.message)],
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<CachedPairs>> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Finds the pairs of a name, and makes them the ones used last.
fn find(cached: &mut VecDeque<CachedPairs>, name: &str) -> Option<Vec<Arc<CertKey>>> {
    let at = cached.iter().position(|entry| entry.name.eq_ignore_ascii_case(name))?;
    let entry = cached.remove(at)?;
    let pairs = entry.pairs.clone();
    cached.push_front(entry);
    Some(pairs)
}

fn load((certificate, key): &(NamedPath, NamedPath), name: &str) -> Result<Arc<CertKey>, LoadError> {
    let path = |path: &NamedPath| path.for_name(name).ok_or_else(|| format!("no certificate for \"{name}\""));
    CertKey::load(&path(certificate)?, &path(key)?).map(Arc::new)
}
