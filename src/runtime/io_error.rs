//! I/O errors as log text.

use std::io;

/// Formats an error as nginx does: `111: Connection refused` for `Connection refused (os error 111)`.
pub fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    match (error.raw_os_error(), text.split_once(" (os error")) {
        (Some(code), Some((text, _))) => format!("{code}: {text}"),
        _ => text,
    }
}
