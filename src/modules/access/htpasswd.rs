//! Password files as htpasswd writes them: one `user:hash[:comment]` per line.
//!
//! Each worker caches the files that it has read, and reads a file again when its [`UserFileStamp`] has changed.

use std::cell::RefCell;
use std::fs::{File, Metadata};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::LazyLock;

use crate::os::privileged_reader;

const FILE_BYTES_MAX: u64 = 4 << 20;
/// Cached files.
const FILES_MAX: usize = 32;

/// The text of a password file. Lookups scan it: few files have more than a page of users.
#[derive(Debug)]
pub struct Htpasswd {
    text: Vec<u8>,
}

/// Tells a changed file from an unchanged one.
#[derive(Clone, Copy, PartialEq, Eq)]
struct UserFileStamp {
    modified: (i64, i64),
    changed: (i64, i64),
    length: u64,
    inode: (u64, u64),
}

/// The key that selects decoys. All workers share it: a decoy that differed by worker would give itself away.
static DECOY_KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

thread_local! {
    static CACHE: RefCell<Vec<(PathBuf, UserFileStamp, Rc<Htpasswd>)>> = RefCell::default();
}

impl Htpasswd {
    /// Returns the hash on the first line of the user `name`, which has no colon.
    pub fn find_hash(&self, name: &[u8]) -> Option<&[u8]> {
        if name.starts_with(b"#") {
            return None;
        }
        let mut lines = self.text.split(|b| *b == b'\n');
        let line = lines.find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(b":")))?;
        Self::hash_in_line(line)
    }

    /// Returns the hash of one of the users, to check a password against for a name that does not exist: the check then takes
    /// the time of one for an existing user, also in a file with several schemes. The choice is fixed for a name, and
    /// unpredictable without the key.
    pub fn decoy_hash(&self, name: &[u8]) -> Option<&[u8]> {
        let hashes = || self.text.split(|b| *b == b'\n').filter_map(Self::hash_in_line);
        let index = DECOY_KEY.hash_one(name).checked_rem(hashes().count() as u64)?;
        hashes().nth(usize::try_from(index).ok()?)
    }

    fn hash_in_line(line: &[u8]) -> Option<&[u8]> {
        let mut columns = line.strip_suffix(b"\r").unwrap_or(line).split(|b| *b == b':');
        columns.next().filter(|name| !name.starts_with(b"#"))?;
        columns.next()
    }
}

impl UserFileStamp {
    fn new(meta: &Metadata) -> Self {
        Self {
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            length: meta.len(),
            inode: (meta.dev(), meta.ino()),
        }
    }
}

/// Returns the current content of a password file.
///
/// # Errors
/// Those of opening and reading; if `path` is not a regular file, or one above [`FILE_BYTES_MAX`].
pub fn read(path: &Path) -> io::Result<Rc<Htpasswd>> {
    let stamp = UserFileStamp::new(&std::fs::metadata(path)?);
    let is_current =
        |(cached, old, _): &&(PathBuf, UserFileStamp, Rc<Htpasswd>)| is_same_path(cached, path) && *old == stamp;
    if let Some(users) = CACHE.with_borrow(|cache| cache.iter().find(is_current).map(|(.., users)| users.clone())) {
        return Ok(users);
    }
    let file = privileged_reader::open_nonblocking(path)?;
    let stamp = UserFileStamp::new(&file.metadata()?);
    let users = Rc::new(Htpasswd { text: read_text(file)? });
    CACHE.with_borrow_mut(|cache| {
        cache.retain(|(cached, ..)| !is_same_path(cached, path));
        if cache.len() >= FILES_MAX {
            cache.clear();
        }
        cache.push((path.to_owned(), stamp, users.clone()));
    });
    Ok(users)
}

fn is_same_path(a: &Path, b: &Path) -> bool {
    a.as_os_str() == b.as_os_str()
}

fn read_text(file: File) -> io::Result<Vec<u8>> {
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    if meta.len() > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {FILE_BYTES_MAX} bytes")));
    }
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_user_counts() {
        let users = Htpasswd { text: b"# a comment\n#u:x\na:1\r\nb:2:info\na:3\nc\n\nd:\ne:5".to_vec() };
        let found = |name: &[u8]| users.find_hash(name).map(|hash| String::from_utf8_lossy(hash).into_owned());
        let expected: [(&str, Option<&str>); 9] = [
            ("a", Some("1")),
            ("b", Some("2")),
            ("c", None),
            ("d", Some("")),
            ("e", Some("5")),
            ("u", None),
            ("#u", None),
            ("", None),
            ("A", None),
        ];
        for (name, hash) in expected {
            assert_eq!(found(name.as_bytes()).as_deref(), hash, "{name}");
        }
    }

    #[test]
    fn an_unknown_name_has_a_decoy() {
        let users = Htpasswd { text: b"# a comment: x\nc\na:1\r\nb:2:info\n".to_vec() };
        let decoys: Vec<_> = (0..64u8).map(|name| users.decoy_hash(&[name])).collect();
        assert_eq!(decoys, (0..64u8).map(|name| users.decoy_hash(&[name])).collect::<Vec<_>>());
        for hash in [b"1", b"2"] {
            assert!(decoys.contains(&Some(hash)));
        }
        assert!(decoys.iter().all(Option::is_some) && !decoys.contains(&Some(b" x")));
        assert_eq!(Htpasswd { text: b"# a comment\n".to_vec() }.decoy_hash(b"a"), None);
    }

    #[test]
    fn a_file_is_read_again_when_it_has_changed() {
        let path = std::env::temp_dir().join(format!("smolgate-users-{}", std::process::id()));
        std::fs::write(&path, "a:1").unwrap();
        let first = read(&path).unwrap();
        assert!(Rc::ptr_eq(&first, &read(&path).unwrap()));
        std::fs::write(&path, "a:22").unwrap();
        assert_eq!(read(&path).unwrap().find_hash(b"a"), Some(&b"22"[..]));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(read(&std::env::temp_dir()).is_err());
    }
}
