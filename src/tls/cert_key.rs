//! A certificate and its key, reloaded when their files change.
//!
//! No notification is needed: a handshake that uses the pair checks its files if the last check was a while ago, and reloads
//! them if they are others. A pair that can't be loaded leaves the old one in use.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use futures_rustls::rustls;
use rustls::sign::CertifiedKey;

use crate::os::privileged_reader;
use crate::runtime::clock;
use crate::tls::settings::LoadError;
use crate::tls::verify::x509::Certificate;
use crate::tls::{pem, verify};

/// Seconds between two checks of the files.
const CHECK_INTERVAL_SECS: u32 = 30;
/// The remaining lifetime below which a certificate should have been renewed.
const EXPIRY_WARNING_SECS: i64 = 14 * 86_400;
/// The permissions that a key may have: owner and group may read it.
const KEY_MODE_MAX: u32 = 0o640;

/// A certificate chain and its key.
pub(super) struct CertKey {
    pub(super) certificate_path: String,
    pub(super) key_path: String,
    current: RwLock<Arc<CertifiedKey>>,
    /// The files as they were when they were last loaded.
    stamps: Mutex<Option<[PemFileStamp; 2]>>,
    /// When the files were last checked, in [`seconds_since_2000`].
    checked_at: AtomicU32,
}

impl fmt::Debug for CertKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertKey").field("certificate_path", &self.certificate_path).finish_non_exhaustive()
    }
}

/// Identifies a state of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
struct PemFileStamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl PemFileStamp {
    fn from_metadata(meta: &Metadata) -> Self {
        Self { inode: meta.ino(), length: meta.len(), modified: (meta.mtime(), meta.mtime_nsec()) }
    }
}

/// The result of a reload, as a message for the error log.
#[derive(Debug, PartialEq, Eq)]
pub enum ReloadEvent {
    Reloaded(String),
    Failed(String),
}

impl CertKey {
    /// Loads both files.
    pub(super) fn load(certificate_path: &str, key_path: &str) -> Result<Self, LoadError> {
        let stamps = stamps(certificate_path, key_path);
        let certified = pem::read_cert_key(certificate_path, key_path)?;
        Ok(Self {
            certificate_path: certificate_path.to_owned(),
            key_path: key_path.to_owned(),
            current: RwLock::new(Arc::new(certified)),
            stamps: Mutex::new(stamps),
            checked_at: AtomicU32::new(seconds_since_2000()),
        })
    }

    pub(super) fn current(&self) -> Arc<CertifiedKey> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reloads the pair if a check of its files is due and finds them changed.
    pub(super) fn reload_if_changed(&self) -> Option<ReloadEvent> {
        let (checked_at, now) = (self.checked_at.load(Ordering::Relaxed), seconds_since_2000());
        let is_due = now.wrapping_sub(checked_at) >= CHECK_INTERVAL_SECS;
        // One of the workers wins the exchange and checks.
        if !is_due || self.checked_at.compare_exchange(checked_at, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return None;
        }
        self.check()
    }

    fn check(&self) -> Option<ReloadEvent> {
        let found = stamps(&self.certificate_path, &self.key_path);
        if std::mem::replace(&mut *self.stamps.lock().unwrap_or_else(PoisonError::into_inner), found) == found {
            return None;
        }
        Some(match pem::read_cert_key(&self.certificate_path, &self.key_path) {
            Ok(certified) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(certified);
                ReloadEvent::Reloaded(format!("certificate \"{}\" reloaded", self.certificate_path))
            }
            // Often the other file is about to be written.
            Err(error) => ReloadEvent::Failed(format!("certificate reload failed, keeping the old one: {error}")),
        })
    }

    /// Warnings about expiry, a missing chain and the mode of the key, for the operator.
    pub(super) fn warnings(&self) -> Vec<String> {
        let certified = self.current();
        let Some(leaf) = certified.cert.first().and_then(|leaf| Certificate::parse(leaf)) else { return Vec::new() };
        let mut warnings = Vec::new();
        let (path, now) = (&self.certificate_path, verify::now());
        let remaining = leaf.not_after.saturating_sub(now);
        if remaining < 0 {
            warnings.push(format!("the certificate \"{path}\" has expired"));
        } else if remaining < EXPIRY_WARNING_SECS {
            warnings.push(format!("the certificate \"{path}\" expires in {} days", remaining / 86_400));
        }
        if now < leaf.not_before {
            warnings.push(format!("the certificate \"{path}\" is not valid yet: is the clock right?"));
        }
        if certified.cert.len() == 1 && !leaf.is_self_issued() {
            warnings.push(format!("the file \"{path}\" has no intermediate certificates: some clients will reject it"));
        }
        let mode = privileged_reader::open(&self.key_path)
            .and_then(|file| file.metadata())
            .map_or(0, |meta| meta.mode() & 0o777);
        if mode & !KEY_MODE_MAX != 0 {
            warnings.push(format!(
                "the key \"{}\" has the mode {mode:04o}: users outside its group can read it",
                self.key_path
            ));
        }
        warnings
    }
}

fn stamps(certificate_path: &str, key_path: &str) -> Option<[PemFileStamp; 2]> {
    let stamp =
        |path| Some(PemFileStamp::from_metadata(&privileged_reader::open(path).and_then(|file| file.metadata()).ok()?));
    Some([stamp(certificate_path)?, stamp(key_path)?])
}

/// Seconds since 2000 fit into 32 bits, which every supported processor can exchange atomically.
fn seconds_since_2000() -> u32 {
    u32::try_from(clock::since_epoch().as_secs().saturating_sub(946_684_800)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn write(directory: &str, edit: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        edit(&mut params);
        let certificate = params.self_signed(&key).unwrap();
        fs::write(format!("{directory}/crt"), certificate.pem()).unwrap();
        fs::write(format!("{directory}/key"), key.serialize_pem()).unwrap();
        fs::set_permissions(format!("{directory}/key"), fs::Permissions::from_mode(0o600)).unwrap();
        certificate.der().to_vec()
    }

    fn temp_dir(name: &str) -> String {
        let path = std::env::temp_dir().join(format!("smolgate-pair-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path.display().to_string()
    }

    #[test]
    fn changed_files_are_reloaded_if_they_are_valid() {
        let directory = temp_dir("renewed");
        let (crt, key) = (format!("{directory}/crt"), format!("{directory}/key"));
        let first = write(&directory, |_| {});
        let cert_key = CertKey::load(&crt, &key).unwrap();
        let current = || cert_key.current().cert[0].to_vec();
        assert_eq!(cert_key.check(), None);
        let second = write(&directory, |_| {});
        assert_eq!(cert_key.reload_if_changed(), None, "a check is not due");
        assert!(matches!(cert_key.check(), Some(ReloadEvent::Reloaded(_))));
        assert!(current() == second && first != second);
        assert_eq!(cert_key.check(), None);
        fs::write(&crt, "garbage, longer than nothing").unwrap();
        assert!(matches!(cert_key.check(), Some(ReloadEvent::Failed(_))));
        assert_eq!(cert_key.check(), None, "it is reported once");
        assert_eq!(current(), second);
        fs::remove_file(&key).unwrap();
        assert!(matches!(cert_key.check(), Some(ReloadEvent::Failed(_))));
        assert_eq!(cert_key.check(), None);
        assert_eq!(current(), second);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn operators_are_warned() {
        let directory = temp_dir("warned");
        let warnings = |edit: fn(&mut CertificateParams)| {
            write(&directory, edit);
            CertKey::load(&format!("{directory}/crt"), &format!("{directory}/key")).unwrap().warnings()
        };
        assert_eq!(warnings(|_| {}), [""; 0]);
        assert!(warnings(|params| params.not_after = rcgen::date_time_ymd(2024, 1, 1))[0].ends_with("has expired"));
        assert!(warnings(|params| params.not_before = rcgen::date_time_ymd(4000, 1, 1))[0].contains("not valid yet"));
        write(&directory, |_| {});
        fs::set_permissions(format!("{directory}/key"), fs::Permissions::from_mode(0o644)).unwrap();
        let cert_key = CertKey::load(&format!("{directory}/crt"), &format!("{directory}/key")).unwrap();
        assert!(cert_key.warnings()[0].contains("0644"));
        fs::remove_dir_all(directory).unwrap();
    }
}
