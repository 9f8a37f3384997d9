//! The status of the program: `stub_status` as in nginx, and `status` as page, JSON and Prometheus text.
//!
//! The page contains no data. Its script fetches JSON from its own address and inserts values as text, so that names of
//! upstreams, which requests can choose, are never markup.

pub(crate) mod conf;
pub(crate) mod json;
pub(crate) mod prometheus;

use std::fmt::Write;
use std::time::Duration;

use crate::config::{Content, StatusForm};
use crate::http1::head;
use crate::proxy::balance::PeerState;
use crate::proxy::live::Live;
use crate::request::exchange::Exchange;
use crate::request::response::LocalResponse;
use crate::runtime::clock;
use crate::runtime::executor::{self, millis};
use crate::runtime::metrics::{self, Metric, Snapshot};

const PAGE: &str = if StatusForm::HAS_PAGE { include_str!("page.html") } else { "" };
/// Allows the page's own style and script, by their SHA-256, and nothing else. The page can't be framed.
const POLICY: &str = concat!(
    "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "; style-src 'sha256-9Z73EXWa0eaYKtyzCv9t8TN7qvdq3Xe+RXbWh/jtOwc='",
    "; script-src 'sha256-cm0UBriQ5bQNP5VpaEQxFAatOu5Yr25vxyuKj/Qx78k='",
);

/// How long to wait for other workers: a busy one counts with what it published last.
const ANSWERS_MAX: Duration = Duration::from_millis(250);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// All data of the status.
struct Report {
    figures: Snapshot,
    started: Duration,
    uptime: Duration,
    /// Of the process, where the system says so.
    memory_bytes: Option<u64>,
    /// Directives with a note.
    notes: usize,
    upstreams: Vec<(String, Vec<PeerState>)>,
}

pub async fn respond(exchange: &Exchange, content: Content, running: &Live) -> LocalResponse {
    let page = |status| LocalResponse::page(status, exchange.settings().server_tokens);
    if !matches!(exchange.request.method(), b"GET" | b"HEAD") {
        return LocalResponse { allow: Some(b"GET, HEAD"), ..page(405) };
    }
    let form = match content {
        Content::StubStatus => {
            ask_workers().await;
            return LocalResponse {
                status: 200,
                content_type: Some(b"text/plain".to_vec()),
                body: stub(&metrics::total()).into_bytes(),
                ..LocalResponse::default()
            };
        }
        Content::Status(wanted) => form(exchange, wanted),
    };
    let Some(form) = form else { return page(404) };
    let (content_type, body) = match form {
        StatusForm::Html => ("text/html; charset=utf-8", PAGE.to_owned()),
        StatusForm::Json => ("application/json", json::render(&report(running).await)),
        StatusForm::Prometheus => {
            ("text/plain; version=0.0.4; charset=utf-8", prometheus::render(&report(running).await))
        }
    };
    let mut headers: Vec<(&'static [u8], Vec<u8>)> = vec![
        (b"Cache-Control", b"no-store".to_vec()),
        (b"Vary", b"Accept".to_vec()),
        (b"X-Content-Type-Options", b"nosniff".to_vec()),
    ];
    if form == StatusForm::Html {
        headers.push((b"Content-Security-Policy", POLICY.as_bytes().to_vec()));
        headers.push((b"Referrer-Policy", b"no-referrer".to_vec()));
    }
    let content_type = Some(content_type.as_bytes().to_vec());
    LocalResponse { status: 200, content_type, headers, body: body.into_bytes(), ..LocalResponse::default() }
}

/// The format: set by the location, or by the extension of the path, or by `Accept`. `None`: the path names no format.
fn form(exchange: &Exchange, wanted: Option<StatusForm>) -> Option<StatusForm> {
    let accept: Vec<&[u8]> = exchange.request.headers.all_named(b"accept").flat_map(head::tokens).collect();
    let form = match (wanted, suffix(exchange)) {
        (Some(form), _) => form,
        (None, b"") => by_accept(&accept),
        (None, suffix) => by_name(suffix)?,
    };
    // The page fetches from its own address.
    let by_page = form == StatusForm::Html && matches!(accept[..], [b"application/json"]);
    Some(if by_page { StatusForm::Json } else { form })
}

/// The part of the path behind the location, without the dot or slash between.
fn suffix(exchange: &Exchange) -> &[u8] {
    let prefix = exchange.location.as_ref().map_or("", |location| location.path.as_str());
    if let Some(rest) = exchange.uri.path.strip_prefix(prefix.as_bytes()) {
        return rest.strip_prefix(b".").or(rest.strip_prefix(b"/")).unwrap_or(rest);
    }
    // An expression matched: the last part may be a format, or part of a name.
    let last = exchange.uri.path.rsplit(|b| matches!(b, b'.' | b'/')).next().unwrap_or_default();
    if by_name(last).is_some() { last } else { b"" }
}

fn by_name(suffix: &[u8]) -> Option<StatusForm> {
    const NAMES: [(&str, StatusForm); 5] = [
        ("html", StatusForm::Html),
        ("json", StatusForm::Json),
        ("prometheus", StatusForm::Prometheus),
        ("prom", StatusForm::Prometheus),
        ("metrics", StatusForm::Prometheus),
    ];
    let (_, form) = NAMES.iter().find(|(name, _)| name.as_bytes() == suffix)?;
    (StatusForm::HAS_PAGE || *form != StatusForm::Html).then_some(*form)
}

/// The listed type with the highest weight (RFC 9110 12.5.1), the first of equal ones. Without a listed type, as from
/// curl, it is JSON.
fn by_accept(accept: &[&[u8]]) -> StatusForm {
    const TYPES: [(&str, StatusForm); 5] = [
        ("text/html", StatusForm::Html),
        ("application/xhtml+xml", StatusForm::Html),
        ("application/json", StatusForm::Json),
        ("text/plain", StatusForm::Prometheus),
        ("application/openmetrics-text", StatusForm::Prometheus),
    ];
    let mut best = (0, StatusForm::Json);
    for range in accept {
        let mut parts = range.split(|b| *b == b';').map(<[u8]>::trim_ascii);
        let named = parts.next().unwrap_or_default();
        let Some((_, form)) = TYPES.iter().find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(named)) else {
            continue;
        };
        if *form == StatusForm::Html && !StatusForm::HAS_PAGE {
            continue;
        }
        let weight =
            parts.find_map(|part| part.strip_prefix(b"q=").or(part.strip_prefix(b"Q="))).map_or(1000, thousandths);
        if weight > best.0 {
            best = (weight, *form);
        }
    }
    best.1
}

/// Parses a weight from 0 to 1 (RFC 9110 12.4.2) in thousandths; an invalid one is 0. Without floating point, whose
/// parser is larger than this module.
fn thousandths(weight: &[u8]) -> u32 {
    let (whole, digits) = match weight {
        [b'1'] | [b'1', b'.', ..] => return 1000,
        [whole, b'.', digits @ ..] => (whole, digits),
        _ => return 0,
    };
    let digit = |at: usize| digits.get(at).filter(|b| b.is_ascii_digit()).map_or(0, |b| u32::from(b - b'0'));
    if *whole == b'0' { digit(0) * 100 + digit(1) * 10 + digit(2) } else { 0 }
}

/// Makes other workers publish their counters.
async fn ask_workers() {
    metrics::request_update();
    let began = executor::now();
    while !metrics::is_up_to_date() && executor::now().saturating_sub(began) < millis(ANSWERS_MAX) {
        executor::sleep(LOOK_AGAIN).await;
    }
}

async fn report(running: &Live) -> Report {
    ask_workers().await;
    let groups = running.all_upstreams();
    Report {
        figures: metrics::total(),
        started: clock::start_time(),
        uptime: clock::uptime(),
        memory_bytes: memory_bytes(),
        notes: running.config.notes.len(),
        upstreams: groups.iter().map(|group| (group.upstream.name.clone(), group.peer_states())).collect(),
    }
}

/// A time in seconds with three decimals.
fn seconds(time: Duration) -> String {
    format!("{}.{:03}", time.as_secs(), time.subsec_millis())
}

/// Resident memory in bytes, including code.
fn memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(kib.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// The text of nginx's ngx_http_stub_status_module.
fn stub(figures: &Snapshot) -> String {
    let of = |count| figures.get(count);
    let mut text = String::new();
    let _ = write!(
        text,
        "Active connections: {} \nserver accepts handled requests\n {} {} {} \nReading: {} Writing: {} Waiting: {} \n",
        of(Metric::Active),
        of(Metric::Accepted),
        of(Metric::Handled),
        of(Metric::Requests),
        of(Metric::Reading),
        of(Metric::Writing),
        figures.waiting(),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page must stay small, and a change of it must change the policy.
    #[test]
    #[cfg(feature = "page")]
    fn the_policy_lets_the_page_work_and_nothing_else() {
        use crate::http1::base64;
        use sha2::{Digest, Sha256};
        assert!(PAGE.len() < 12 * 1024, "{} bytes", PAGE.len());
        for tag in ["style", "script"] {
            let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
            let inner: Vec<&str> = PAGE.split(&open).skip(1).filter_map(|rest| rest.split(&close).next()).collect();
            assert_eq!(inner.len(), 1);
            let hash = format!("{tag}-src 'sha256-{}'", base64::encode(&Sha256::digest(inner[0])));
            assert!(POLICY.contains(&hash), "POLICY needs {hash}");
        }
        // Neither event handlers nor style attributes, and nothing from other hosts.
        for banned in [" style=", " onclick=", " onload=", "javascript:", "src=", "@import", "url(", "innerHTML"] {
            assert!(!PAGE.contains(banned), "{banned}");
        }
        let addresses: Vec<&str> = PAGE.split("//").skip(1).filter(|rest| rest.starts_with("www.")).collect();
        assert!(addresses.iter().all(|rest| rest.starts_with("www.w3.org/2000/svg\"")), "{addresses:?}");
    }

    #[test]
    fn who_asks_for_a_type_gets_it() {
        let html = if StatusForm::HAS_PAGE { StatusForm::Html } else { StatusForm::Json };
        for (accept, expected) in [
            ("", StatusForm::Json),
            ("*/*", StatusForm::Json),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", html),
            ("application/json", StatusForm::Json),
            ("text/html;q=0.5, Application/JSON", StatusForm::Json),
            ("application/json;q=0, text/html;q=0.1", html),
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1",
                StatusForm::Prometheus,
            ),
            ("text/plain", StatusForm::Prometheus),
            ("text/html;q=x, application/json;q=NaN, image/png", StatusForm::Json),
        ] {
            let members: Vec<&[u8]> = head::tokens(accept.as_bytes()).collect();
            assert_eq!(by_accept(&members), expected, "{accept}");
        }
    }

    #[test]
    fn the_stub_is_nginx_s() {
        let text =
            "Active connections: 0 \nserver accepts handled requests\n 0 0 0 \nReading: 0 Writing: 0 Waiting: 0 \n";
        assert_eq!(stub(&Snapshot::default()), text);
        assert!(memory_bytes().is_some_and(|bytes| bytes > 100_000));
    }
}
