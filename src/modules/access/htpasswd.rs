//! Files of users and their passwords, as htpasswd writes them: `user:password[:comment]`, a line each.
//!
//! Each worker keeps the files that it has read, and reads one again when it is not the same any more.

use std::cell::RefCell;
use std::fs::{File, Metadata};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::LazyLock;

use crate::os::privileged_reader;

/// Bytes of one file.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Files that are kept.
const FILES_MAX: usize = 32;

/// What was read of a file: its text, through which each search goes. Few have more than a page of users.
#[derive(Debug)]
pub struct Htpasswd {
    text: Vec<u8>,
}

/// By what a changed file is known.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FileStamp {
    modified: (i64, i64),
    changed: (i64, i64),
    length: u64,
    inode: (u64, u64),
}

/// The key by which decoys are chosen, one for all workers: another choice of each would tell.
static DECOY_KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

thread_local! {
    static CACHE: RefCell<Vec<(PathBuf, FileStamp, Rc<Htpasswd>)>> = RefCell::default();
}

impl Htpasswd {
    /// The stored password of the first user of this name, which has no colon.
    pub fn find_hash(&self, name: &[u8]) -> Option<&[u8]> {
        if name.starts_with(b"#") {
            return None;
        }
        let mut lines = self.text.split(|b| *b == b'\n');
        let line = lines.find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(b":")))?;
        Self::hash_in_line(line)
    }

    /// The stored password of one of the users, always the same for a name and never to be guessed which: to be checked in
    /// vain for a name that has none. So a name that does not exist takes the time of one that does, also where passwords
    /// are stored in several forms.
    pub fn decoy_hash(&self, name: &[u8]) -> Option<&[u8]> {
        let all = || self.text.split(|b| *b == b'\n').filter_map(Self::hash_in_line);
        let count = all().count() as u64;
        let chosen = DECOY_KEY.hash_one(name).checked_rem(count)?;
        all().nth(usize::try_from(chosen).ok()?)
    }

    /// The stored password of a line.
    fn hash_in_line(line: &[u8]) -> Option<&[u8]> {
        let mut columns = line.strip_suffix(b"\r").unwrap_or(line).split(|b| *b == b':');
        columns.next().filter(|name| !name.starts_with(b"#"))?;
        columns.next()
    }
}

impl FileStamp {
    fn new(meta: &Metadata) -> Self {
        Self {
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            length: meta.len(),
            inode: (meta.dev(), meta.ino()),
        }
    }
}

/// The users in a file, as it is now.
///
/// # Errors
/// Those of opening and reading; when it is no file or too big.
pub fn read(path: &Path) -> io::Result<Rc<Htpasswd>> {
    let mark = FileStamp::new(&std::fs::metadata(path)?);
    let same = |(known, old, _): &&(PathBuf, FileStamp, Rc<Htpasswd>)| is_same_path(known, path) && *old == mark;
    if let Some(users) = CACHE.with_borrow(|kept| kept.iter().find(same).map(|(.., users)| users.clone())) {
        return Ok(users);
    }
    let file = privileged_reader::open_without_waiting(path)?;
    let mark = FileStamp::new(&file.metadata()?);
    let users = Rc::new(Htpasswd { text: read_text(file)? });
    CACHE.with_borrow_mut(|kept| {
        kept.retain(|(known, ..)| !is_same_path(known, path));
        if kept.len() >= FILES_MAX {
            kept.clear();
        }
        kept.push((path.to_owned(), mark, users.clone()));
    });
    Ok(users)
}

fn is_same_path(one: &Path, other: &Path) -> bool {
    one.as_os_str() == other.as_os_str()
}

fn read_text(file: File) -> io::Result<Vec<u8>> {
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    if meta.len() > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {FILE_BYTES_MAX} bytes")));
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
        let users = Htpasswd { text: b"# a comment\n#u:x\na:1\r\nb:2:who\na:3\nc\n\nd:\ne:5".to_vec() };
        let found = |name: &[u8]| users.find_hash(name).map(|stored| String::from_utf8_lossy(stored).into_owned());
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
        for (name, stored) in expected {
            assert_eq!(found(name.as_bytes()).as_deref(), stored, "{name}");
        }
    }

    #[test]
    fn a_name_that_is_not_there_has_a_decoy() {
        let users = Htpasswd { text: b"# a comment: x\nc\na:1\r\nb:2:who\n".to_vec() };
        let decoys: Vec<_> = (0..64u8).map(|name| users.decoy_hash(&[name])).collect();
        assert_eq!(decoys, (0..64u8).map(|name| users.decoy_hash(&[name])).collect::<Vec<_>>());
        for stored in [b"1", b"2"] {
            assert!(decoys.contains(&Some(stored)));
        }
        assert!(decoys.iter().all(Option::is_some) && !decoys.contains(&Some(b" x")));
        assert_eq!(Htpasswd { text: b"# nobody\n".to_vec() }.decoy_hash(b"a"), None);
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
