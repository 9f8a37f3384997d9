//! A certificate and its key, which change while the program runs: whoever renews them tells nobody.
//!
//! Nothing waits for a change. When a handshake needs the pair and it was not looked at for a while, its files are; if
//! they are others, they are read, and what they hold is taken if it is good.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use futures_rustls::rustls;
use rustls::sign::CertifiedKey;

use crate::os::privileged_reader;
use crate::tls::verify::x509::Certificate;
use crate::tls::{pem, session_cache};

/// Seconds between two looks at the files.
const LOOK_SECS: u32 = 30;
/// Seconds before its end at which a certificate should have been renewed.
const RENEWAL_SECS: i64 = 14 * 86_400;
/// Who may read a key: its owner, and a group.
const KEY_MODE: u32 = 0o640;

/// A certificate and its key, as their files were when they were read last.
pub(super) struct CertKey {
    pub(super) certificate: String,
    pub(super) key: String,
    current: RwLock<Arc<CertifiedKey>>,
    /// How the files looked when they were read last, and when they were looked at, in seconds of this century.
    stamps: Mutex<Option<[Stamp; 2]>>,
    looked: AtomicU32,
}

impl fmt::Debug for CertKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self { inode: meta.ino(), length: meta.len(), modified: (meta.mtime(), meta.mtime_nsec()) }
    }
}

/// What became of files that have changed.
#[derive(Debug, PartialEq, Eq)]
pub enum ReloadEvent {
    Reloaded(String),
    Failed(String),
}

impl CertKey {
    /// Reads both files.
    pub(super) fn load(certificate: &str, key: &str) -> Result<Self, String> {
        let stamps = stamps(certificate, key);
        let current = RwLock::new(Arc::new(pem::pair(certificate, key)?));
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        Ok(Self { certificate, key, current, stamps: Mutex::new(stamps), looked: AtomicU32::new(seconds()) })
    }

    pub(super) fn current(&self) -> Arc<CertifiedKey> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks whether the files have changed, if that was not done for a while, and takes what is good.
    pub(super) fn reload_if_changed(&self) -> Option<ReloadEvent> {
        let (last, now) = (self.looked.load(Ordering::Relaxed), seconds());
        let due = now.wrapping_sub(last) >= LOOK_SECS;
        // Of several workers one looks.
        if !due || self.looked.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return None;
        }
        self.reload()
    }

    fn reload(&self) -> Option<ReloadEvent> {
        let found = stamps(&self.certificate, &self.key);
        if std::mem::replace(&mut *self.stamps.lock().unwrap_or_else(PoisonError::into_inner), found) == found {
            return None;
        }
        Some(match pem::pair(&self.certificate, &self.key) {
            Ok(pair) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair);
                ReloadEvent::Reloaded(format!("the certificate \"{}\" was renewed", self.certificate))
            }
            // Often enough the other file is only about to be written.
            Err(why) => ReloadEvent::Failed(format!("{why}: the certificate from before is used")),
        })
    }

    /// What an operator should know of it.
    pub(super) fn warnings(&self) -> Vec<String> {
        let pair = self.current();
        let Some(own) = pair.cert.first().and_then(|own| Certificate::parse(own)) else { return Vec::new() };
        let mut warnings = Vec::new();
        let (path, now) = (&self.certificate, i64::try_from(session_cache::now()).unwrap_or(i64::MAX));
        let left = own.not_after.saturating_sub(now);
        if left < 0 {
            warnings.push(format!("the certificate \"{path}\" has expired"));
        } else if left < RENEWAL_SECS {
            warnings.push(format!("the certificate \"{path}\" expires in {} days", left / 86_400));
        }
        if now < own.not_before {
            warnings.push(format!("the certificate \"{path}\" is not valid yet: is the clock right?"));
        }
        if pair.cert.len() == 1 && !own.is_self_issued() {
            warnings.push(format!("\"{path}\" has one certificate, and not those between it and a trusted one"));
        }
        let mode =
            privileged_reader::open(&self.key).and_then(|file| file.metadata()).map_or(0, |meta| meta.mode() & 0o777);
        if mode & !KEY_MODE != 0 {
            warnings
                .push(format!("the key \"{}\" has the mode {mode:04o}: others than its group can use it", self.key));
        }
        warnings
    }
}

fn stamps(certificate: &str, key: &str) -> Option<[Stamp; 2]> {
    let stamp = |path| privileged_reader::open(path).and_then(|file| file.metadata()).ok().as_ref().map(Stamp::of);
    Some([stamp(certificate)?, stamp(key)?])
}

/// Seconds of this century: they fit into what every processor can exchange at once.
fn seconds() -> u32 {
    u32::try_from(session_cache::now().saturating_sub(946_684_800)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn write(folder: &str, edit: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        edit(&mut params);
        let certificate = params.self_signed(&key).unwrap();
        fs::write(format!("{folder}/crt"), certificate.pem()).unwrap();
        fs::write(format!("{folder}/key"), key.serialize_pem()).unwrap();
        fs::set_permissions(format!("{folder}/key"), fs::Permissions::from_mode(0o600)).unwrap();
        certificate.der().to_vec()
    }

    fn folder(name: &str) -> String {
        let path = std::env::temp_dir().join(format!("smolgate-pair-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path.display().to_string()
    }

    #[test]
    fn files_that_change_are_taken_if_they_are_good() {
        let folder = folder("renewed");
        let (crt, key) = (format!("{folder}/crt"), format!("{folder}/key"));
        let first = write(&folder, |_| {});
        let pair = CertKey::load(&crt, &key).unwrap();
        let shown = || pair.current().cert[0].to_vec();
        assert_eq!(pair.reload(), None);
        let second = write(&folder, |_| {});
        assert_eq!(pair.reload_if_changed(), None, "it was just looked at");
        assert!(matches!(pair.reload(), Some(ReloadEvent::Reloaded(_))));
        assert!(shown() == second && first != second);
        assert_eq!(pair.reload(), None);
        fs::write(&crt, "garbage, longer than nothing").unwrap();
        assert!(matches!(pair.reload(), Some(ReloadEvent::Failed(_))));
        assert_eq!(pair.reload(), None, "it is told once");
        assert_eq!(shown(), second);
        fs::remove_file(&key).unwrap();
        assert!(matches!(pair.reload(), Some(ReloadEvent::Failed(_))));
        assert_eq!(pair.reload(), None);
        assert_eq!(shown(), second);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn an_operator_is_warned() {
        let folder = folder("warned");
        let warnings = |edit: fn(&mut CertificateParams)| {
            write(&folder, edit);
            CertKey::load(&format!("{folder}/crt"), &format!("{folder}/key")).unwrap().warnings()
        };
        assert_eq!(warnings(|_| {}), [""; 0]);
        assert!(warnings(|params| params.not_after = rcgen::date_time_ymd(2024, 1, 1))[0].ends_with("has expired"));
        assert!(warnings(|params| params.not_before = rcgen::date_time_ymd(4000, 1, 1))[0].contains("not valid yet"));
        write(&folder, |_| {});
        fs::set_permissions(format!("{folder}/key"), fs::Permissions::from_mode(0o644)).unwrap();
        let pair = CertKey::load(&format!("{folder}/crt"), &format!("{folder}/key")).unwrap();
        assert!(pair.warnings()[0].contains("0644"));
        fs::remove_dir_all(folder).unwrap();
    }
}
