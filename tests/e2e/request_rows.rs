//! Rows of exact bytes: what a client sends, and what the upstream and the client must get of it. All rows of a table run one
//! after the other through one proxy with one echoing upstream.

use crate::cases::{check, check_equal, run_cases};
use crate::client::{Client, expand, show};
use crate::harness::{Proxy, TIMEOUT, poll_within};
use crate::peer::Peer;

/// What the client sends, and the outcome.
pub(crate) type RequestRow = (&'static [u8], Outcome);

#[derive(Clone, Copy)]
pub(crate) enum Outcome {
    /// The proxy sends one response with this status and `Connection: close`, and closes. Not a byte reaches the upstream; one
    /// line in each log.
    Rejected(u16),
    /// As [`Rejected`](Self::Rejected), but the body is longer than what is read before forwarding starts: the upstream may get
    /// part of it, and never its end.
    RejectedInBody(u16),
    /// The upstream gets exactly these bytes and responds; the connection serves the next request.
    Forwarded(&'static [u8]),
    /// As [`Forwarded`](Self::Forwarded), for several requests.
    ForwardedTimes(usize, &'static [u8]),
    /// As [`Forwarded`](Self::Forwarded), but the connection is closed behind the response.
    ForwardedLast(&'static [u8]),
    /// As [`Forwarded`](Self::Forwarded), and what follows is rejected with this status.
    ForwardedThenRejected(u16, &'static [u8]),
}

const PROBE: &[u8] = b"GET /probe HTTP/1.1\r\nHost: a\r\n\r\n";

/// Runs all rows, and fails with the input and the error of each that went wrong.
pub(crate) fn run_request_rows(proxy: &Proxy, peer: &Peer, rows: &[RequestRow]) {
    run_cases(
        rows.iter()
            .map(|(input, outcome)| (show(input), move || run_request_row(proxy, peer, &expand(input), *outcome))),
    );
}

fn run_request_row(proxy: &Proxy, peer: &Peer, input: &[u8], outcome: Outcome) -> Result<(), String> {
    let client_errors = || proxy.error_lines().into_iter().filter(|line| line.contains(": *")).collect::<Vec<_>>();
    let (received, lines, errors) = (peer.received().len(), proxy.access_lines().len(), client_errors().len());
    let (served, rejected, forwarded) = match outcome {
        Outcome::Rejected(status) | Outcome::RejectedInBody(status) => (0, Some(status), &b""[..]),
        Outcome::Forwarded(bytes) | Outcome::ForwardedLast(bytes) => (1, None, bytes),
        Outcome::ForwardedTimes(times, bytes) => (times, None, bytes),
        Outcome::ForwardedThenRejected(status, bytes) => (1, Some(status), bytes),
    };
    let method = if input.starts_with(b"HEAD ") { "HEAD" } else { "GET" };
    let mut client = Client::connect_and_send(proxy.addr, input);
    let mut responses = 0;
    for number in 1..=served {
        let response = client.read_response_to(method)?;
        check(response.status == 200, || format!("response {number}: expected 200, got {:?}", response.head))?;
        let last = matches!(outcome, Outcome::ForwardedLast(_)) && number == served;
        check(response.closes() == last, || format!("wrong Connection header in {:?}", response.head))?;
        responses += 1;
    }
    if let Some(status) = rejected {
        let response = client.expect_status(status)?;
        check(response.closes(), || format!("no \"Connection: close\" in {:?}", response.head))?;
        responses += 1;
    }
    let closes = rejected.is_some() || matches!(outcome, Outcome::ForwardedLast(_));
    if closes {
        client.expect_eof()?;
        client = Client::connect(proxy.addr);
    }
    // One more request shows that neither connection is out of step.
    let probe = client.request(PROBE, 200)?;
    check_equal("the probe", &probe.body, b"/probe")?;
    responses += 1;
    let is_logged = || (proxy.access_lines().len() - lines == responses).then_some(());
    poll_within(TIMEOUT, is_logged)
        .ok_or_else(|| format!("{responses} access lines expected: {:?}", &proxy.access_lines()[lines..]))?;
    let sent = peer.received()[received..].to_vec();
    if matches!(outcome, Outcome::RejectedInBody(_)) {
        check(!sent.windows(7).any(|end| end == b"\r\n0\r\n\r\n"), || {
            format!("the upstream got a whole body: {}", show(&sent))
        })?;
    } else {
        let expected = [&expand(forwarded)[..], b"GET /probe HTTP/1.1\r\nHost: up\r\n\r\n"].concat();
        check_equal("the upstream", &sent, &expected)?;
    }
    let logged = &client_errors()[errors..];
    let expected = usize::from(rejected.is_some());
    check(logged.len() == expected && logged.iter().all(|line| line.contains(" client ")), || {
        format!("{expected} lines about the client expected in the error log: {logged:?}")
    })
}
