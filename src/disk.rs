//! Files by their names, opened and read in one way.
//!
//! std's `OpenOptions` checks what they ask for, which is right here by its type; the check is in the program with how it
//! would say what is wrong: 4 kB.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::retry_on_intr;

/// Opens a file that is there, or one that is made.
///
/// # Errors
/// Those of open(2).
pub fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    let path = path.as_os_str().as_bytes();
    Ok(retry_on_intr(|| openat(CWD, path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644)))?.into())
}

/// What is in a file.
///
/// # Errors
/// Those of open(2) and read(2).
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    rest_of(open(path, OFlags::RDONLY)?, u64::MAX)
}

/// What is still to be read of an open file, or of a pipe, up to so many bytes.
///
/// # Errors
/// Those of read(2).
pub fn rest_of(file: File, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The text that is in a file.
///
/// # Errors
/// As [`read`], and `InvalidData` for what is no UTF-8.
pub fn text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|_| io::ErrorKind::InvalidData.into())
}
