//! Certificates whose files are named by the server name of the client (`ssl_certificate /certs/$ssl_server_name.crt`).
//!
//! The pairs used last are kept, and reloaded as any other. A name for which there is no pair is looked up each time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::tls::cert_key::{CertKey, ReloadEvent};
use crate::tls::settings::NamedPath;

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

    /// Returns the pairs for a server name.
    pub(super) fn get(&self, name: &str) -> Result<Vec<Arc<CertKey>>, String> {
        if self.paths.is_empty() {
            return Ok(Vec::new());
        }
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        let known = cached.iter().position(|entry| entry.name.eq_ignore_ascii_case(name));
        if let Some(entry) = known.and_then(|at| cached.remove(at)) {
            let pairs = entry.pairs.clone();
            cached.push_front(entry);
            return Ok(pairs);
        }
        let load = |(certificate, key): &(NamedPath, NamedPath)| {
            let path = |path: &NamedPath| path.for_name(name).ok_or_else(|| format!("no certificate for \"{name}\""));
            CertKey::load(&path(certificate)?, &path(key)?).map(Arc::new)
        };
        let pairs = self.paths.iter().map(load).collect::<Result<Vec<_>, String>>()?;
        cached.push_front(CachedPairs { name: name.into(), pairs: pairs.clone() });
        cached.truncate(PAIRS_MAX);
        Ok(pairs)
    }

    /// Loads the pairs for a server name, or reloads those whose files have changed.
    pub(super) fn load_or_reload(&self, name: &str) -> Vec<ReloadEvent> {
        match self.get(name) {
            Ok(pairs) => pairs.iter().filter_map(|pair| pair.reload_if_changed()).collect(),
            Err(error) => vec![ReloadEvent::Failed(error)],
        }
    }
}
