//! The bare relay: the least that any proxy can do for a message, and so the yardstick for the others.
//!
//! One thread, edge-triggered epoll, one recv into a shared buffer and one send per hop. It knows no HTTP, has no timeouts,
//! and is not fair: a connection is read until it is empty. It is correct all the same: what one side won't take stops
//! the reading from the other side, and the end of a stream is passed on as a half-close.

#![forbid(unsafe_code)]

use std::{
    io,
    net::{SocketAddr, TcpListener},
    process::ExitCode,
};

use argh::FromArgs;
use smolgate_bench::{
    conn::{self, BUFFER_BYTES, End},
    poll::{self, Poll},
    slots::Slots,
};

/// Relay bytes between every client and one upstream.
#[derive(FromArgs)]
struct Flags {
    /// where to listen
    #[argh(option)]
    listen: SocketAddr,
    /// where to connect to
    #[argh(option)]
    to: SocketAddr,
}

fn main() -> ExitCode {
    let flags: Flags = argh::from_env();
    let Err(error) = run(&flags);
    eprintln!("relay: {error}");
    ExitCode::FAILURE
}

const LISTENER: usize = usize::MAX;

fn run(flags: &Flags) -> io::Result<std::convert::Infallible> {
    let listener = TcpListener::bind(flags.listen)?;
    listener.set_nonblocking(true)?;
    let poll = Poll::new()?;
    poll.add(&listener, LISTENER)?;
    let (mut pairs, mut events, mut buffer) = (Slots::new(), Vec::with_capacity(256), vec![0; BUFFER_BYTES]);
    loop {
        poll.wait(&mut events, None)?;
        for event in &events {
            let token = poll::token(event);
            if token == LISTENER {
                while let Some(client) = conn::accept(&listener)? {
                    open(&poll, &mut pairs, client, flags.to)?;
                }
            } else if let Some(pair) = pairs.at(token / 2) {
                pair[token % 2].note(event.flags);
                if is_over(pair, &mut buffer).unwrap_or(true) {
                    pairs.remove(token / 2);
                }
            }
        }
        pairs.sweep();
    }
}

/// The client and its upstream; they are registered as two numbers next to each other.
type Pair = [End; 2];

fn open(poll: &Poll, pairs: &mut Slots<Pair>, client: End, upstream: SocketAddr) -> io::Result<()> {
    let slot = pairs.insert([client, End::connect(upstream)?]);
    for (side, end) in pairs.at(slot).into_iter().flatten().enumerate() {
        poll.add(&end.stream, slot * 2 + side)?;
    }
    Ok(())
}

fn is_over([client, upstream]: &mut Pair, buffer: &mut [u8]) -> io::Result<bool> {
    pass(client, upstream, buffer)?;
    pass(upstream, client, buffer)?;
    Ok(client.ended && upstream.ended)
}

fn pass(from: &mut End, to: &mut End, buffer: &mut [u8]) -> io::Result<()> {
    while to.flush()? {
        match from.read(buffer)? {
            None => break,
            Some(0) => return to.finish(),
            Some(count) => to.send(&buffer[..count])?,
        }
    }
    Ok(())
}
