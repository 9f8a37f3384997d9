//! Errors of the system, as the log has them.

use std::io;

/// `Connection refused (os error 111)` as nginx writes it: `111: Connection refused`.
pub fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    match (error.raw_os_error(), text.split_once(" (os error")) {
        (Some(code), Some((text, _))) => format!("{code}: {text}"),
        _ => text,
    }
}
