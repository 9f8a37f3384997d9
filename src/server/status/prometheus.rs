//! The status in Prometheus' text format, version 0.0.4.
//!
//! Names follow its conventions: base units, `_total` for counters, and the common names for process metrics.

use std::fmt::{Display, Write};

use crate::proxy::balance::{PeerState, PeerStatus};
use crate::runtime::metrics::Metric;
use crate::server::status::{Report, seconds};

pub(super) fn render(report: &Report) -> String {
    let mut text = Text(String::with_capacity(4096));
    program(report, &mut text);
    traffic(report, &mut text);
    upstreams(report, &mut text);
    text.0
}

fn program(report: &Report, text: &mut Text) {
    text.metric("smolgate_build_info", Kind::Gauge, "The version, as a label.");
    text.sample("smolgate_build_info", &[("version", env!("CARGO_PKG_VERSION"))], &1);
    text.metric("smolgate_configuration_notes", Kind::Gauge, "Directives that do less than they say.");
    text.sample("smolgate_configuration_notes", &[], &report.notes);
    text.metric("process_start_time_seconds", Kind::Gauge, "Start time of the process since 1970 in seconds.");
    text.sample("process_start_time_seconds", &[], &seconds(report.started));
    if let Some(bytes) = report.memory_bytes {
        text.metric("process_resident_memory_bytes", Kind::Gauge, "Resident memory size in bytes.");
        text.sample("process_resident_memory_bytes", &[], &bytes);
    }
}

fn traffic(report: &Report, text: &mut Text) {
    let of = |count| report.figures.get(count);
    let waiting = report.figures.waiting();
    text.metric("smolgate_connections", Kind::Gauge, "Connections of clients by what they do; tunnels are writing.");
    for (state, value) in [("reading", of(Metric::Reading)), ("writing", of(Metric::Writing)), ("waiting", waiting)] {
        text.sample("smolgate_connections", &[("state", state)], &value);
    }
    text.counter("smolgate_connections_accepted_total", "Connections of clients accepted.", of(Metric::Accepted));
    text.counter("smolgate_connections_handled_total", "Of these, those not turned away.", of(Metric::Handled));
    text.counter("smolgate_requests_total", "Requests begun.", of(Metric::Requests));
    text.metric("smolgate_responses_total", Kind::Counter, "Answers by the class of their status.");
    for (class, count) in &[
        ("1xx", Metric::Responses1xx),
        ("2xx", Metric::Responses2xx),
        ("3xx", Metric::Responses3xx),
        ("4xx", Metric::Responses4xx),
        ("5xx", Metric::Responses5xx),
    ] {
        text.sample("smolgate_responses_total", &[("class", class)], &of(*count));
    }
    text.metric("smolgate_tunnels", Kind::Gauge, "Tunnels open.");
    text.sample("smolgate_tunnels", &[], &of(Metric::OpenTunnels));
    text.counter("smolgate_tunnels_opened_total", "Tunnels opened.", of(Metric::Tunnels));
    for (name, help, client, upstream) in &[
        ("smolgate_received_bytes_total", "Bytes received.", Metric::BytesFromClients, Metric::BytesFromUpstreams),
        ("smolgate_sent_bytes_total", "Bytes sent.", Metric::BytesToClients, Metric::BytesToUpstreams),
    ] {
        text.metric(name, Kind::Counter, help);
        text.sample(name, &[("side", "client")], &of(*client));
        text.sample(name, &[("side", "upstream")], &of(*upstream));
    }
    let lost = of(Metric::LostLogLines);
    text.counter("smolgate_log_lines_lost_total", "Log lines that could not be written.", lost);
}

fn upstreams(report: &Report, text: &mut Text) {
    type Value = fn(&PeerState) -> u64;
    const METRICS: [(&str, Kind, &str, Value); 6] = [
        ("smolgate_peer_up", Kind::Gauge, "Whether the peer gets all its requests.", |peer| {
            (peer.status == PeerStatus::Up).into()
        }),
        ("smolgate_peer_connections", Kind::Gauge, "Connections to the peer in use.", |peer| peer.conns.into()),
        ("smolgate_peer_tries_total", Kind::Counter, "Requests tried with the peer.", |peer| peer.attempts),
        ("smolgate_peer_failures_total", Kind::Counter, "Of these, those that it failed.", |peer| peer.failures),
        ("smolgate_peer_checks_total", Kind::Counter, "Health checks of the peer.", |peer| peer.checks.into()),
        ("smolgate_peer_failed_checks_total", Kind::Counter, "Of these, those that it failed.", |peer| {
            peer.failed_checks.into()
        }),
    ];
    let peers = peers(report);
    for (name, kind, help, value) in &METRICS {
        if !peers.is_empty() {
            text.metric(name, *kind, help);
        }
        for (upstream, peer) in &peers {
            text.sample(name, &[("upstream", *upstream), ("peer", peer.endpoint.as_str())], &value(peer));
        }
    }
}

/// All peers, each address once per upstream: a series may not be repeated.
fn peers(report: &Report) -> Vec<(&str, PeerState)> {
    let mut all: Vec<(&str, PeerState)> = Vec::new();
    for (upstream, states) in &report.upstreams {
        let first = all.len();
        for state in states {
            let known = all.iter_mut().skip(first).find(|(_, known)| known.endpoint == state.endpoint);
            let Some((_, known)) = known else {
                all.push((upstream.as_str(), state.clone()));
                continue;
            };
            known.conns += state.conns;
            known.attempts += state.attempts;
            known.failures += state.failures;
            known.checks += state.checks;
            known.failed_checks += state.failed_checks;
            if state.status == PeerStatus::Up {
                known.status = PeerStatus::Up;
            }
        }
    }
    all
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

struct Text(String);

impl Text {
    fn metric(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Writes a counter without labels.
    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.metric(name, Kind::Counter, help);
        self.sample(name, &[], &value);
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: &dyn Display) {
        self.0.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"", if at == 0 { '{' } else { ',' });
            escape(text, &mut self.0);
            self.0.push('"');
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

/// Escapes the value of a label.
fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut text = Text(String::new());
        text.sample("a_total", &[("name", "x\"\\\n}"), ("b", "c")], &7);
        text.sample("c", &[], &"1.5");
        assert_eq!(text.0, "a_total{name=\"x\\\"\\\\\\n}\",b=\"c\"} 7\nc 1.5\n");
    }

    #[test]
    fn a_peer_that_stands_in_two_lines_is_one_series() {
        let peer = |endpoint: &str, status, attempts| PeerState {
            endpoint: endpoint.to_owned(),
            status,
            backup: false,
            weight: 1,
            conns: 1,
            attempts,
            failures: 0,
            checks: 0,
            failed_checks: 0,
        };
        let lines =
            vec![peer("a:1", PeerStatus::Failed, 2), peer("b:1", PeerStatus::Down, 0), peer("a:1", PeerStatus::Up, 3)];
        let report = Report {
            figures: Default::default(),
            started: Default::default(),
            uptime: Default::default(),
            memory_bytes: None,
            notes: 0,
            upstreams: vec![("u".to_owned(), lines.clone()), ("v".to_owned(), lines)],
        };
        let seen = peers(&report);
        let seen: Vec<_> = seen.iter().map(|(u, p)| (*u, p.endpoint.as_str(), p.status, p.conns, p.attempts)).collect();
        assert_eq!(
            seen,
            [
                ("u", "a:1", PeerStatus::Up, 2, 5),
                ("u", "b:1", PeerStatus::Down, 1, 0),
                ("v", "a:1", PeerStatus::Up, 2, 5),
                ("v", "b:1", PeerStatus::Down, 1, 0)
            ]
        );
    }
}
