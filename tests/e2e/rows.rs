//! Rows of input and outcome, tried one after the other on one gate with one polite upstream behind it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::client::{Client, expand, show};
use crate::harness::{Gate, PATIENCE, within};
use crate::peer::Peer;

/// The id of the row, what the client sends, and what must come of it.
pub(crate) type Row = (&'static str, &'static [u8], Then);

/// What must come of an input.
#[derive(Clone, Copy)]
pub(crate) enum Then {
    /// One reply of our own with `Connection: close`, then the end. Not a byte reaches the upstream; one line in each log.
    Refused(u16),
    /// As refused, but part of the body may have gone on: it is longer than what is looked at before anything is sent.
    /// The upstream never sees the end of it.
    BrokenOff(u16),
    /// The upstream gets exactly these bytes and answers; the connection serves the next request.
    Served(&'static [u8]),
    /// As served, with so many replies.
    ServedTimes(usize, &'static [u8]),
    /// As served, but the connection is closed behind the reply.
    ServedLast(&'static [u8]),
    /// As served, and what follows is refused.
    ServedAndRefused(u16, &'static [u8]),
}

const PROBE: &[u8] = b"GET /probe HTTP/1.1\r\nHost: a\r\n\r\n";

/// Tries all rows; fails with all that went wrong.
pub(crate) fn try_rows(gate: &Gate, peer: &Peer, rows: &[Row]) {
    verify(rows.iter().map(|(id, input, then)| (*id, move || try_row(gate, peer, &expand(input), *then))));
}

/// Does what is given by name, all of it, and fails with the names of what went wrong.
pub(crate) fn verify<F: FnOnce() -> Result<(), String>>(cases: impl IntoIterator<Item = (&'static str, F)>) {
    let run = |(id, case): (&str, F)| match catch_unwind(AssertUnwindSafe(case)) {
        Ok(Ok(())) => None,
        Ok(Err(why)) => Some(format!("{id}: {why}")),
        Err(_) => Some(format!("{id}: panicked")),
    };
    let wrong: Vec<String> = cases.into_iter().filter_map(run).collect();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// One case that runs beside others.
pub(crate) type Case<'c> = (&'static str, Box<dyn FnOnce() -> Result<(), String> + Send + 'c>);

/// Names a case.
pub(crate) fn case<'c>(id: &'static str, run: impl FnOnce() -> Result<(), String> + Send + 'c) -> Case<'c> {
    (id, Box::new(run))
}

/// As [`verify`], all at the same time: for cases that wait.
pub(crate) fn verify_at_once(cases: Vec<Case<'_>>) {
    std::thread::scope(|scope| {
        let running: Vec<_> = cases.into_iter().map(|(id, run)| (id, scope.spawn(run))).collect();
        verify(
            running
                .into_iter()
                .map(|(id, thread)| (id, move || thread.join().unwrap_or_else(|_| Err("panicked".to_owned())))),
        );
    });
}

/// `Ok` if it holds.
pub(crate) fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// `Ok` if both are the same bytes.
pub(crate) fn same(what: &str, got: &[u8], expected: &[u8]) -> Result<(), String> {
    check(got == expected, || format!("{what} got {}\n    instead of {}", show(got), show(expected)))
}

fn try_row(gate: &Gate, peer: &Peer, input: &[u8], then: Then) -> Result<(), String> {
    let about_clients = || gate.errors().into_iter().filter(|line| line.contains(": *")).collect::<Vec<_>>();
    let (seen, lines, errors) = (peer.bytes().len(), gate.access().len(), about_clients().len());
    let (served, refused, forwarded) = match then {
        Then::Refused(status) | Then::BrokenOff(status) => (0, Some(status), &b""[..]),
        Then::Served(bytes) | Then::ServedLast(bytes) => (1, None, bytes),
        Then::ServedTimes(times, bytes) => (times, None, bytes),
        Then::ServedAndRefused(status, bytes) => (1, Some(status), bytes),
    };
    let method = if input.starts_with(b"HEAD ") { "HEAD" } else { "GET" };
    let mut client = Client::asking(gate.addr, input);
    let mut replies = 0;
    for number in 1..=served {
        let reply = client.reply_to(method)?;
        check(reply.status == 200, || format!("reply {number}: expected 200, got {:?}", reply.head))?;
        let last = matches!(then, Then::ServedLast(_)) && number == served;
        check(reply.closes() == last, || format!("wrong Connection field in {:?}", reply.head))?;
        replies += 1;
    }
    if let Some(status) = refused {
        let reply = client.expect(status)?;
        check(reply.closes(), || format!("no \"Connection: close\" in {:?}", reply.head))?;
        replies += 1;
    }
    let closes = refused.is_some() || matches!(then, Then::ServedLast(_));
    if closes {
        client.expect_end()?;
        client = Client::connect(gate.addr);
    }
    // Another request shows that the gate is in step with the client and the upstream.
    let probe = client.ask(PROBE, 200)?;
    same("the probe", &probe.body, b"/probe")?;
    replies += 1;
    let grown = || (gate.access().len() - lines == replies).then_some(());
    within(PATIENCE, grown).ok_or_else(|| format!("{replies} access lines expected: {:?}", &gate.access()[lines..]))?;
    let came = peer.bytes()[seen..].to_vec();
    if matches!(then, Then::BrokenOff(_)) {
        check(!came.windows(7).any(|end| end == b"\r\n0\r\n\r\n"), || {
            format!("the upstream got a whole body: {}", show(&came))
        })?;
    } else {
        let expected = [&expand(forwarded)[..], b"GET /probe HTTP/1.1\r\nHost: up\r\n\r\n"].concat();
        same("the upstream", &came, &expected)?;
    }
    let told = &about_clients()[errors..];
    let expected = usize::from(refused.is_some());
    check(told.len() == expected && told.iter().all(|line| line.contains(" client ")), || {
        format!("{expected} lines about the client expected in the error log: {told:?}")
    })
}
