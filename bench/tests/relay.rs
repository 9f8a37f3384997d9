//! The relay must be correct: half-close in both directions, and back-pressure without loss.

use std::{
    error::Error,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command},
    thread,
    time::Duration,
};

type Outcome = Result<(), Box<dyn Error>>;

struct Relay {
    child: Child,
    addr: SocketAddr,
}

impl Relay {
    fn start(upstream: SocketAddr) -> Result<Self, Box<dyn Error>> {
        let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let flags = [format!("--listen={addr}"), format!("--to={upstream}")];
        let flags: Vec<&str> = flags.iter().flat_map(|flag| flag.split('=')).collect();
        Ok(Self { child: Command::new(env!("CARGO_BIN_EXE_relay")).args(flags).spawn()?, addr })
    }

    fn connect(&self) -> TcpStream {
        loop {
            match TcpStream::connect(self.addr) {
                Ok(stream) => return stream,
                Err(_) => thread::yield_now(), // not listening yet
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn each_side_closes_separately() -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let relay = Relay::start(listener.local_addr()?)?;
    let mut client = relay.connect();
    let (mut upstream, _) = listener.accept()?;
    client.write_all(b"question")?;
    client.shutdown(Shutdown::Write)?;
    let mut received = String::new();
    upstream.read_to_string(&mut received)?;
    assert_eq!(received, "question");
    upstream.write_all(b"after EOF")?;
    drop(upstream);
    received.clear();
    client.read_to_string(&mut received)?;
    assert_eq!(received, "after EOF");
    Ok(())
}

#[test]
fn a_slow_reader_gets_every_byte() -> Outcome {
    const BYTES: usize = 32 << 20;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let relay = Relay::start(listener.local_addr()?)?;
    let mut client = relay.connect();
    let (mut upstream, _) = listener.accept()?;
    let sent = smolgate_bench::message::pattern(BYTES);
    let mut received = Vec::with_capacity(BYTES);
    thread::scope(|scope| -> Outcome {
        let writer = scope.spawn(|| client.write_all(&sent).and_then(|()| client.shutdown(Shutdown::Write)));
        // The reader is slow on purpose, so that every buffer fills up.
        thread::sleep(Duration::from_millis(100));
        let mut buffer = vec![0; 5_000];
        loop {
            match upstream.read(&mut buffer)? {
                0 => break,
                count => received.extend_from_slice(&buffer[..count]),
            }
        }
        writer.join().map_err(|_| "the writer panicked")??;
        Ok(())
    })?;
    assert!(received == sent, "{} bytes received of {BYTES}, or they differ", received.len());
    Ok(())
}
