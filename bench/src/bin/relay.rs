//! The bare relay: the minimum that a proxy can do for a message, and so the base of comparisons.
//!
//! One thread, edge-triggered epoll, one recv into a shared buffer and one send per hop. It has no HTTP and no timeouts, and is not
//! fair: a connection is read until it is empty. It is correct, though: unsent bytes stop reading from the other side, and EOF is
//! forwarded as a half-close.

#![forbid(unsafe_code)]

use std::{
    io,
    net::{SocketAddr, TcpListener},
    process::ExitCode,
};

use argh::FromArgs;
use smolgate_bench::{
    conn::{self, BUFFER_BYTES, Conn},
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
            } else if let Some(pair) = pairs.get(token / 2) {
                pair[token % 2].set_ready(event.flags);
                if is_done(pair, &mut buffer).unwrap_or(true) {
                    pairs.remove(token / 2);
                }
            }
        }
        pairs.sweep();
    }
}

/// The client and its upstream, with adjacent tokens.
type Pair = [Conn; 2];

fn open(poll: &Poll, pairs: &mut Slots<Pair>, client: Conn, upstream: SocketAddr) -> io::Result<()> {
    let slot = pairs.insert([client, Conn::connect(upstream)?]);
    for (side, conn) in pairs.get(slot).into_iter().flatten().enumerate() {
        poll.add(&conn.stream, slot * 2 + side)?;
    }
    Ok(())
}

fn is_done([client, upstream]: &mut Pair, buffer: &mut [u8]) -> io::Result<bool> {
    forward(client, upstream, buffer)?;
    forward(upstream, client, buffer)?;
    Ok(client.eof && upstream.eof)
}

fn forward(from: &mut Conn, to: &mut Conn, buffer: &mut [u8]) -> io::Result<()> {
    while to.flush()? {
        match from.read(buffer)? {
            None => break,
            Some(0) => return to.shutdown_write(),
            Some(count) => to.send(&buffer[..count])?,
        }
    }
    Ok(())
}
