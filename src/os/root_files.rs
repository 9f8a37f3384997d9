//! Files that root opens, makes and removes by their names, before it becomes the account of `user`.
//!
//! A name is as safe as the directories that it leads through: if others than root can write to one of them, they can put
//! a symbolic or hard link to any file there. So root walks a name step by step. As long as only root can have made what
//! is there, links are followed: the access log of a container is often a link to /dev/stdout. Behind that, the account
//! does what is to be done, with no more power than it will have. Only where it may not, as in /var/log of Ubuntu, to
//! which the group syslog can write, root does it: it follows no link, and takes no file with a second name. In every case
//! a file is given to the account only if it was made by this very call.

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

/// Symbolic links of one name, as many as the kernel follows.
const LINKS_MAX: u32 = 40;
/// Mode of a new file, less the umask.
const FILE_MODE: Mode = Mode::from_raw_mode(0o644);
/// A step on the way.
const COMPONENT_FLAGS: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The end of a walk: a name in an open directory. The last part of the name may be a link, or not be there.
#[derive(Debug)]
struct CheckedPath {
    dir: OwnedFd,
    name: OsString,
    /// Nothing on the way, nor what is there, can be changed by others than root.
    safe: bool,
    /// It is a link of /proc to something open, which only the kernel can follow.
    magic_link: bool,
}

/// Opens a file for appending, which is made if it is not there, as root or as the account of the process.
///
/// # Errors
/// Those of open(2); and a name that is not safe for root.
pub fn open_append(path: &Path, account: Option<&Account>) -> io::Result<OwnedFd> {
    const APPEND: OFlags = OFlags::WRONLY.union(OFlags::APPEND).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
    let plain = |path: &Path| {
        Ok(retry_on_intr(|| rustix::fs::open(path, APPEND | OFlags::CREATE | OFlags::CLOEXEC, FILE_MODE))?)
    };
    if !geteuid().is_root() {
        return plain(path);
    }
    let owned = path.to_owned();
    run_least_privileged(
        CheckedPath::resolve(path, true),
        account,
        move || plain(&owned),
        |place| place.open(APPEND, account),
    )
}

/// Puts a new file in the place of whatever has the name: `write` fills it, before others see it.
///
/// # Errors
/// Those of open(2), rename(2) and `write`; and a name that is not safe for root.
pub fn replace(path: &Path, account: Option<&Account>, write: fn(&mut File) -> io::Result<()>) -> io::Result<File> {
    if !geteuid().is_root() {
        return replace_in(CWD, path.as_os_str(), None, write);
    }
    let owned = path.to_owned();
    let plain = move || replace_in(CWD, owned.as_os_str(), None, write);
    run_least_privileged(CheckedPath::resolve(path, false), account, plain, |place| {
        replace_in(&place.dir, &place.name, account, write)
    })
}

/// Removes a name, and follows no link that others than root can have made.
pub fn remove(path: &Path) -> io::Result<()> {
    if !geteuid().is_root() {
        return std::fs::remove_file(path);
    }
    let place = CheckedPath::resolve(path, false)?;
    Ok(unlinkat(&place.dir, &place.name, AtFlags::empty())?)
}

/// Does something at a safe place as root, and elsewhere as the account; as root there, too, if the account may not.
///
/// # Errors
/// Those of what is done; the walk's, if the account may not either.
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
    place: io::Result<CheckedPath>,
    account: Option<&Account>,
    by_account: impl FnOnce() -> io::Result<R> + Send + 'static,
    by_root: impl FnOnce(&CheckedPath) -> io::Result<R>,
) -> io::Result<R> {
    let is_safe = place.as_ref().is_ok_and(|place| place.safe);
    if let (Some(account), false) = (account, is_safe) {
        match account.run(by_account)? {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            done => return done,
        }
    }
    by_root(&place?)
}

/// Writes a file beside the name and renames it, so that the name is never one of half a file.
fn replace_in(
    dir: impl AsFd,
    name: &OsStr,
    account: Option<&Account>,
    write: fn(&mut File) -> io::Result<()>,
) -> io::Result<File> {
    let mut fresh = name.to_owned();
    fresh.push(".new");
    match unlinkat(&dir, &fresh, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(retry_on_intr(|| openat(&dir, &fresh, flags, FILE_MODE))?);
    if let Some(account) = account {
        account.chown(&file);
    }
    write(&mut file)?;
    renameat(&dir, &fresh, &dir, name)?;
    Ok(file)
}

impl CheckedPath {
    /// Walks to the last part of a name, and follows it if it is a link and `follow` says so.
    fn resolve(path: &Path, follow: bool) -> io::Result<Self> {
        let path = if path.is_absolute() { path.to_owned() } else { std::env::current_dir()?.join(path) };
        let root = Directory::root()?;
        let mut left = components(&path);
        let mut here = root.try_clone()?;
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            let is_last = left.is_empty();
            let child = match openat(&here.dir, &name, COMPONENT_FLAGS, Mode::empty()) {
                Err(Errno::NOENT) if is_last => return Ok(here.entry(name, None, false)),
                child => child?,
            };
            let stat = fstat(&child)?;
            let is_safe = here.is_root_only(Some(&stat));
            match FileType::from_raw_mode(stat.st_mode) {
                _ if is_last && !follow => return Ok(here.entry(name, Some(&stat), false)),
                FileType::Symlink if is_last && is_magic(&here.dir) => return Ok(here.entry(name, Some(&stat), true)),
                FileType::Symlink if !is_safe => {
                    let why = "a symbolic link is not followed by root where others can write";
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
                }
                FileType::Symlink => {
                    links += 1;
                    let target = PathBuf::from(OsString::from_vec(readlinkat(&child, "", Vec::new())?.into_bytes()));
                    if links > LINKS_MAX {
                        return Err(Errno::LOOP.into());
                    }
                    if target.is_absolute() {
                        here = root.try_clone()?;
                    }
                    let rest = std::mem::replace(&mut left, components(&target));
                    left.extend(rest);
                }
                FileType::Directory => here = Directory { dir: child, stat, safe: is_safe },
                _ if is_last => return Ok(here.entry(name, Some(&stat), false)),
                _ => return Err(Errno::NOTDIR.into()),
            }
        }
        Err(Errno::ISDIR.into())
    }

    /// Opens what is there, or makes it.
    fn open(&self, flags: OFlags, account: Option<&Account>) -> io::Result<OwnedFd> {
        let open = |more| retry_on_intr(|| openat(&self.dir, &self.name, flags | OFlags::CLOEXEC | more, FILE_MODE));
        if self.magic_link && self.safe {
            return Ok(open(OFlags::empty())?);
        }
        // Neither call makes what the other has found: without O_EXCL it would not be known what this one has made.
        match open(OFlags::NOFOLLOW) {
            Err(Errno::NOENT) => {
                let made = open(OFlags::NOFOLLOW | OFlags::CREATE | OFlags::EXCL)?;
                if let Some(account) = account {
                    account.chown(&made);
                }
                Ok(made)
            }
            Err(error) => Err(error.into()),
            Ok(found) => {
                let stat = fstat(&found)?;
                if self.safe || (FileType::from_raw_mode(stat.st_mode).is_file() && stat.st_nlink == 1) {
                    return Ok(found);
                }
                let why = "root opens nothing but a regular file of one name where others can write";
                Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
            }
        }
    }
}

/// A directory on the way.
struct Directory {
    dir: OwnedFd,
    stat: Stat,
    /// It is the one that root has put here.
    safe: bool,
}

impl Directory {
    fn root() -> io::Result<Self> {
        let dir = openat(CWD, "/", COMPONENT_FLAGS | OFlags::DIRECTORY, Mode::empty())?;
        Ok(Self { stat: fstat(&dir)?, dir, safe: true })
    }

    fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { dir: self.dir.try_clone()?, stat: self.stat, safe: self.safe })
    }

    /// Whether only root can change what is here under a name: a link, a file, or nothing yet. In a sticky directory such
    /// as /tmp others make what they like, but don't move a directory of root's.
    fn is_root_only(&self, child: Option<&Stat>) -> bool {
        const OTHERS_WRITE: u32 = 0o022;
        const STICKY: u32 = 0o1000;
        let is_roots_dir =
            |child: &Stat| child.st_uid == 0 && FileType::from_raw_mode(child.st_mode) == FileType::Directory;
        let closed = self.stat.st_mode & OTHERS_WRITE == 0
            || (self.stat.st_mode & STICKY != 0 && child.is_some_and(is_roots_dir));
        self.safe && self.stat.st_uid == 0 && closed
    }

    fn entry(self, name: OsString, child: Option<&Stat>, magic_link: bool) -> CheckedPath {
        CheckedPath { safe: self.is_root_only(child), dir: self.dir, name, magic_link }
    }
}

/// The parts of a name between its slashes.
fn components(path: &Path) -> VecDeque<OsString> {
    let part = |part: Component<'_>| match part {
        Component::Normal(_) | Component::ParentDir => Some(part.as_os_str().to_owned()),
        _ => None,
    };
    path.components().filter_map(part).collect()
}

/// Whether links of this directory can lead to what has no name.
fn is_magic(dir: &OwnedFd) -> bool {
    fstatfs(dir).is_ok_and(|fs| fs.f_type == PROC_SUPER_MAGIC)
}
