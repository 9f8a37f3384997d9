//! Rows of a request and parts of its response: shorter than the exact bytes of `request_rows`.

use crate::cases::{check, run_cases};
use crate::client::{Client, show};
use crate::harness::Proxy;

/// A name, the request, the status, and parts of the response separated by ` | `. `Name: value` is a line of the head, `!text` is
/// neither a header nor the start of a line, `=text` is the whole body.
pub(crate) type ResponseRow<'r> = (&'static str, &'r str, u16, &'r str);

/// Runs each row on a connection of its own.
pub(crate) fn run_response_rows(proxy: &Proxy, rows: &[ResponseRow<'_>]) {
    run_cases(rows.iter().map(|row| (row.0, move || run_response_row(proxy, row))));
}

/// Formats `TARGET` (a GET) or `METHOD TARGET`, with headers behind a newline, as a request.
pub(crate) fn format_request(request: &str) -> String {
    let (line, headers) = request.split_once('\n').unwrap_or((request, ""));
    let line = if line.starts_with('/') { format!("GET {line}") } else { line.to_owned() };
    let host = if headers.lines().any(|header| header.starts_with("Host:")) { "" } else { "Host: a\n" };
    let end = if headers.is_empty() { "" } else { "\n" };
    format!("{line} HTTP/1.1\n{host}{headers}{end}\n").replace('\n', "\r\n")
}

pub(crate) fn run_response_row(proxy: &Proxy, (_, request, status, parts): &ResponseRow<'_>) -> Result<(), String> {
    let mut client = Client::connect_and_send(proxy.addr, format_request(request).as_bytes());
    let response = client.read_response_to(if request.starts_with("HEAD ") { "HEAD" } else { "GET" })?;
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
