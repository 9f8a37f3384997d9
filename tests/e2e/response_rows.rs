//! Rows of what is asked and what comes, for behaviour that a user sees: shorter than the exact bytes of `table`.

use crate::cases::{check, run_cases};
use crate::client::{Client, show};
use crate::harness::Proxy;

/// What the row shows, what is asked, and what comes: the status, then parts that ` | ` divides. `Name: value` is a
/// line of the head, `!text` a field that is not there and the start of no line, `=text` the whole body.
pub(crate) type ResponseRow<'r> = (&'static str, &'r str, u16, &'r str);

/// Asks each row on a connection of its own.
pub(crate) fn run_response_rows(proxy: &Proxy, rows: &[ResponseRow<'_>]) {
    run_cases(rows.iter().map(|row| (row.0, move || run_response_row(proxy, row))));
}

/// `TARGET` alone is a GET; `METHOD TARGET`, and behind a newline there may be fields.
pub(crate) fn format_request(asked: &str) -> String {
    let (line, fields) = asked.split_once('\n').unwrap_or((asked, ""));
    let line = if line.starts_with('/') { format!("GET {line}") } else { line.to_owned() };
    let host = if fields.lines().any(|field| field.starts_with("Host:")) { "" } else { "Host: a\n" };
    let end = if fields.is_empty() { "" } else { "\n" };
    format!("{line} HTTP/1.1\n{host}{fields}{end}\n").replace('\n', "\r\n")
}

pub(crate) fn run_response_row(proxy: &Proxy, (_, asked, status, parts): &ResponseRow<'_>) -> Result<(), String> {
    let mut client = Client::connect_and_send(proxy.addr, format_request(asked).as_bytes());
    let response = client.read_response_to(if asked.starts_with("HEAD ") { "HEAD" } else { "GET" })?;
    let all = format!("{}{}", response.head, String::from_utf8_lossy(&response.body));
    check(response.status == *status, || format!("expected {status}, got {}", show(all.as_bytes())))?;
    let parts = parts.replace("PORT", &proxy.addr.port().to_string());
    for part in parts.split(" | ").filter(|part| !part.is_empty()) {
        let mut lines = response.head.split("\r\n");
        let holds = match (part.strip_prefix('='), part.strip_prefix('!')) {
            (Some(body), _) => response.body == body.as_bytes(),
            (_, Some(name)) => response.header(name).is_none() && !lines.any(|line| line.starts_with(name)),
            _ => lines.any(|line| line == part),
        };
        check(holds, || format!("{part:?} expected in {}", show(all.as_bytes())))?;
    }
    Ok(())
}
