//! Standard output and standard error. What is written goes out at once; nobody is told that nobody reads it.
//!
//! std keeps locks and a buffer for them, which a program that writes whole lines has no use for.

use std::fmt;
use std::os::fd::BorrowedFd;

use rustix::io::retry_on_intr;
use rustix::stdio::{stderr, stdout};

/// Writes a line to standard output.
pub fn print(line: fmt::Arguments<'_>) {
    write(stdout(), format!("{line}\n").as_bytes());
}

/// Writes a line to standard error.
pub fn complain(line: fmt::Arguments<'_>) {
    write(stderr(), format!("{line}\n").as_bytes());
}

/// Writes all, if that can be.
pub fn write(stream: BorrowedFd<'_>, bytes: &[u8]) {
    let mut left = bytes;
    while let Ok(count @ 1..) = retry_on_intr(|| rustix::io::write(stream, left)) {
        left = left.get(count..).unwrap_or_default();
    }
}
