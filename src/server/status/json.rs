//! The status as JSON (RFC 8259).

use std::fmt::Write;

use crate::proxy::balance::{PeerState, PeerStatus};
use crate::runtime::metrics::Metric;
use crate::server::status::{Report, seconds};

pub(super) fn render(report: &Report) -> String {
    let mut out = String::with_capacity(2048);
    let of = |count| report.figures.get(count);
    let memory = report.memory_bytes.map_or("null".to_owned(), |bytes| bytes.to_string());
    let _ = writeln!(
        out,
        "{{\n\"program\":\"smolgate\",\"version\":\"{}\",\"pid\":{},\n\"uptime_seconds\":{},\"memory_bytes\":{memory},\
         \"notes\":{},",
        env!("CARGO_PKG_VERSION"),
        std::process::id(),
        seconds(report.uptime),
        report.notes,
    );
    let _ = writeln!(
        out,
        "\"connections\":{{\"accepted\":{},\"handled\":{},\"active\":{},\"reading\":{},\"writing\":{},\"waiting\":{}}},",
        of(Metric::Accepted),
        of(Metric::Handled),
        of(Metric::Active),
        of(Metric::Reading),
        of(Metric::Writing),
        report.figures.waiting(),
    );
    let _ = writeln!(
        out,
        "\"requests\":{},\n\"responses\":{{\"1xx\":{},\"2xx\":{},\"3xx\":{},\"4xx\":{},\"5xx\":{}}},",
        of(Metric::Requests),
        of(Metric::Responses1xx),
        of(Metric::Responses2xx),
        of(Metric::Responses3xx),
        of(Metric::Responses4xx),
        of(Metric::Responses5xx),
    );
    let _ = writeln!(
        out,
        "\"tunnels\":{{\"open\":{},\"opened\":{}}},\n\
         \"bytes\":{{\"from_clients\":{},\"to_clients\":{},\"from_upstreams\":{},\"to_upstreams\":{}}},\n\"log_lines_lost\":{},",
        of(Metric::OpenTunnels),
        of(Metric::Tunnels),
        of(Metric::BytesFromClients),
        of(Metric::BytesToClients),
        of(Metric::BytesFromUpstreams),
        of(Metric::BytesToUpstreams),
        of(Metric::LostLogLines),
    );
    out.push_str("\"upstreams\":[");
    for (at, (name, peers)) in report.upstreams.iter().enumerate() {
        out.push_str(if at == 0 { "\n{\"name\":" } else { ",\n{\"name\":" });
        string(name, &mut out);
        out.push_str(",\"peers\":[");
        for (at, peer) in peers.iter().enumerate() {
            out.push_str(if at == 0 { "\n  " } else { ",\n  " });
            write_peer(peer, &mut out);
        }
        out.push_str("]}");
    }
    out.push_str("]\n}\n");
    out
}

fn write_peer(peer: &PeerState, out: &mut String) {
    let PeerState { endpoint, status, backup, weight, conns, attempts, failures, checks, failed_checks } = peer;
    let state = match status {
        PeerStatus::Up => "up",
        PeerStatus::Failed => "failed",
        PeerStatus::Unhealthy => "unhealthy",
        PeerStatus::Checking => "checking",
        PeerStatus::Down => "down",
        PeerStatus::Draining => "draining",
        PeerStatus::Unknown => "unknown",
    };
    out.push_str("{\"address\":");
    string(endpoint, out);
    let _ = write!(
        out,
        ",\"state\":\"{state}\",\"backup\":{backup},\"weight\":{weight},\"connections\":{conns},\"tries\":{attempts},\
         \"failures\":{failures}"
    );
    if *checks > 0 {
        let _ = write!(out, ",\"checks\":{checks},\"failed_checks\":{failed_checks}");
    }
    out.push('}');
}

/// Writes a string escaped for JSON and for HTML.
fn string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\x1f' | '\x7f' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_hold_anything() {
        let mut out = String::new();
        string("a\"b\\c\n</script>&\u{2028}é", &mut out);
        assert_eq!(out, "\"a\\\"b\\\\c\\u000a\\u003c/script\\u003e\\u0026\\u2028é\"");
    }
}
