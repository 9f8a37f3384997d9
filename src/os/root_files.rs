//! Opens, creates and removes files by path as root, before the process switches to the account of `user`.
//!
//! A path is as safe as the directories that it leads through: if other users can write to one of them, they can put
//! a symbolic or hard link to any file there. So root resolves a path component by component. As long as only root
//! can have created an entry, links are followed: the access log of a container is often a link to /dev/stdout.
//! Beyond that, the operation runs as the account, without privileges it would not have later. Only where the account
//! lacks permission, as in /var/log of Ubuntu, which the group syslog can write to, the operation runs as root: it
//! follows no link, and opens no file with a second hard link. A file is handed to the account only if this very call
//! created it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, Stat};
use rustix::fs::{fstat, fstatfs, openat, readlinkat, renameat, unlinkat};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::geteuid;

use crate::os::privileges::Account;

/// Symbolic links in one path, as in the kernel.
const LINKS_MAX: u32 = 40;
/// Mode of a new file, less the umask.
const FILE_MODE: Mode = Mode::from_raw_mode(0o644);
/// How a component of a path is opened.
const COMPONENT_FLAGS: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A resolved path: an entry of an open directory. The entry may be a link, or not exist.
#[derive(Debug)]
struct CheckedPath {
    dir: OwnedFd,
    name: OsString,
    /// Only root can change the directories of the path, and the entry.
    safe: bool,
    /// The entry is a magic link of /proc to an open file (symlink(7)), which only the kernel can follow.
    magic_link: bool,
}

/// Opens a file for appending, and creates it if it does not exist, as root or as the account of the process.
///
/// # Errors Those of open(2), and a path that is not safe for root.
pub fn open_append(path: &Path, account: Option<&Account>) -> io::Result<OwnedFd> {
    const APPEND: OFlags = OFlags::WRONLY.union(OFlags::APPEND).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
    let by_path = |path: &Path| {
        Ok(retry_on_intr(|| rustix::fs::open(path, APPEND | OFlags::CREATE | OFlags::CLOEXEC, FILE_MODE))?)
    };
    if !geteuid().is_root() {
        return by_path(path);
    }
    let owned = path.to_owned();
    run_least_privileged(
        CheckedPath::resolve(path, true),
        account,
        move || by_path(&owned),
        |checked| checked.open(APPEND, account),
    )
}

/// Replaces `path` by a new file, which `write` fills before the file gets that name.
///
/// # Errors Those of open(2), rename(2) and `write`, and a path that is not safe for root.
pub fn replace(path: &Path, account: Option<&Account>, write: fn(&mut File) -> io::Result<()>) -> io::Result<File> {
    if !geteuid().is_root() {
        return replace_in(CWD, path.as_os_str(), None, write);
    }
    let owned = path.to_owned();
    let by_path = move || replace_in(CWD, owned.as_os_str(), None, write);
    run_least_privileged(CheckedPath::resolve(path, false), account, by_path, |checked| {
        replace_in(&checked.dir, &checked.name, account, write)
    })
}

/// Removes a file without following links that other users can have made.
pub fn remove(path: &Path) -> io::Result<()> {
    if !geteuid().is_root() {
        return std::fs::remove_file(path);
    }
    let checked = CheckedPath::resolve(path, false)?;
    Ok(unlinkat(&checked.dir, &checked.name, AtFlags::empty())?)
}

/// Runs `act` as root if the path is safe, otherwise as the account; as root there, too, if the account lacks
/// permission.
///
/// # Errors Those of `act`; those of resolving the path, if the account lacks permission, too.
pub fn run_at<R: Send + 'static>(
    path: &Path,
    account: Option<&Account>,
    act: impl Fn() -> io::Result<R> + Clone + Send + 'static,
) -> io::Result<R> {
    if !geteuid().is_root() {
        return act();
    }
    run_least_privileged(CheckedPath::resolve(path, false), account, act.clone(), |_| act())
}

fn run_least_privileged<R: Send + 'static>(
    checked: io::Result<CheckedPath>,
    account: Option<&Account>,
    by_account: impl FnOnce() -> io::Result<R> + Send + 'static,
    by_root: impl FnOnce(&CheckedPath) -> io::Result<R>,
) -> io::Result<R> {
    let is_safe = checked.as_ref().is_ok_and(|checked| checked.safe);
    if let (Some(account), false) = (account, is_safe) {
        match account.run(by_account)? {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            done => return done,
        }
    }
    by_root(&checked?)
}

/// Writes a temporary file and renames it, so that `name` is never a partial file.
fn replace_in(
    dir: impl AsFd,
    name: &OsStr,
    account: Option<&Account>,
    write: fn(&mut File) -> io::Result<()>,
) -> io::Result<File> {
    let mut temporary = name.to_owned();
    temporary.push(".new");
    match unlinkat(&dir, &temporary, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(retry_on_intr(|| openat(&dir, &temporary, flags, FILE_MODE))?);
    if let Some(account) = account {
        account.chown(&file);
    }
    write(&mut file)?;
    renameat(&dir, &temporary, &dir, name)?;
    Ok(file)
}

impl CheckedPath {
    /// Resolves a path up to its last component, and follows that one, too, if it is a link and `follow` is set.
    fn resolve(path: &Path, follow: bool) -> io::Result<Self> {
        let path = if path.is_absolute() { path.to_owned() } else { std::env::current_dir()?.join(path) };
        let root = Directory::root()?;
        let mut pending = components(&path);
        let mut dir = root.try_clone()?;
        let mut links = 0;
        while let Some(name) = pending.pop_front() {
            let is_last = pending.is_empty();
            let child = match openat(&dir.fd, &name, COMPONENT_FLAGS, Mode::empty()) {
                Err(Errno::NOENT) if is_last => return Ok(dir.entry(name, None, false)),
                child => child?,
            };
            let stat = fstat(&child)?;
            let is_safe = dir.is_root_only(Some(&stat));
            match FileType::from_raw_mode(stat.st_mode) {
                _ if is_last && !follow => return Ok(dir.entry(name, Some(&stat), false)),
                FileType::Symlink if is_last && is_magic(&dir.fd) => return Ok(dir.entry(name, Some(&stat), true)),
                FileType::Symlink if !is_safe => {
                    let why = "root does not follow a symbolic link that other users can change";
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
                }
                FileType::Symlink => {
                    links += 1;
                    let target = PathBuf::from(OsString::from_vec(readlinkat(&child, "", Vec::new())?.into_bytes()));
                    if links > LINKS_MAX {
                        return Err(Errno::LOOP.into());
                    }
                    if target.is_absolute() {
                        dir = root.try_clone()?;
                    }
                    let rest = std::mem::replace(&mut pending, components(&target));
                    pending.extend(rest);
                }
                FileType::Directory => dir = Directory { fd: child, stat, safe: is_safe },
                _ if is_last => return Ok(dir.entry(name, Some(&stat), false)),
                _ => return Err(Errno::NOTDIR.into()),
            }
        }
        Err(Errno::ISDIR.into())
    }

    /// Opens the entry, or creates it.
    fn open(&self, flags: OFlags, account: Option<&Account>) -> io::Result<OwnedFd> {
        let open = |more| retry_on_intr(|| openat(&self.dir, &self.name, flags | OFlags::CLOEXEC | more, FILE_MODE));
        if self.magic_link && self.safe {
            return Ok(open(OFlags::empty())?);
        }
        // Two calls, because without O_EXCL it would be unknown whether this one created the file.
        match open(OFlags::NOFOLLOW) {
            Err(Errno::NOENT) => {
                let created = open(OFlags::NOFOLLOW | OFlags::CREATE | OFlags::EXCL)?;
                if let Some(account) = account {
                    account.chown(&created);
                }
                Ok(created)
            }
            Err(error) => Err(error.into()),
            Ok(found) => {
                let stat = fstat(&found)?;
                if self.safe || (FileType::from_raw_mode(stat.st_mode).is_file() && stat.st_nlink == 1) {
                    return Ok(found);
                }
                let why = "root opens only a regular file without a second hard link where other users can write";
                Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
            }
        }
    }
}

/// A directory of the path.
struct Directory {
    fd: OwnedFd,
    stat: Stat,
    /// Only root can have put this directory here.
    safe: bool,
}

impl Directory {
    fn root() -> io::Result<Self> {
        let fd = openat(CWD, "/", COMPONENT_FLAGS | OFlags::DIRECTORY, Mode::empty())?;
        Ok(Self { stat: fstat(&fd)?, fd, safe: true })
    }

    fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()?, stat: self.stat, safe: self.safe })
    }

    /// Whether only root can change an entry of this directory: a link, a file, or none yet. In a sticky directory
    /// such as /tmp other users can create entries, but can't move a directory that root owns.
    fn is_root_only(&self, child: Option<&Stat>) -> bool {
        const OTHERS_WRITE: u32 = 0o022;
        const STICKY: u32 = 0o1000;
        let is_roots_dir =
            |child: &Stat| child.st_uid == 0 && FileType::from_raw_mode(child.st_mode) == FileType::Directory;
        let is_protected = self.stat.st_mode & OTHERS_WRITE == 0
            || (self.stat.st_mode & STICKY != 0 && child.is_some_and(is_roots_dir));
        self.safe && self.stat.st_uid == 0 && is_protected
    }

    fn entry(self, name: OsString, child: Option<&Stat>, magic_link: bool) -> CheckedPath {
        CheckedPath { safe: self.is_root_only(child), dir: self.fd, name, magic_link }
    }
}

/// Splits a path into its components.
fn components(path: &Path) -> VecDeque<OsString> {
    let part = |part: Component<'_>| match part {
        Component::Normal(_) | Component::ParentDir => Some(part.as_os_str().to_owned()),
        _ => None,
    };
    path.components().filter_map(part).collect()
}

/// Whether the directory is one of /proc, whose links can lead to files without a path.
fn is_magic(dir: &OwnedFd) -> bool {
    fstatfs(dir).is_ok_and(|fs| fs.f_type == PROC_SUPER_MAGIC)
}
