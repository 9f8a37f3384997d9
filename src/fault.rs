//! Errors of our own among those of the system.
//!
//! std would keep a text as `String`, and how that is quoted with it: 4 kB of Unicode's tables for what nobody prints.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;

struct Fault(Cow<'static, str>);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Fault {}

/// An error that reads like `text`.
pub fn error(kind: io::ErrorKind, text: impl Into<Cow<'static, str>>) -> io::Error {
    io::Error::new(kind, Fault(text.into()))
}
