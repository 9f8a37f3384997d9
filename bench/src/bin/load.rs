//! The load generator: round trips through a proxy, with every byte verified.
//!
//! A round trip is a message and its echo (`tunnel`) or a GET and its response (`get`); each connection has one at a time, and
//! `--trips` counts them over all connections, so that every proxy does the same number. After the warm-up it prints "ready"; with
//! `--wait` it starts on a line on stdin and exits at EOF of stdin: in between, the runner reads the CPU time of the proxy. `idle`
//! opens tunnels, prints "ready" and keeps them until EOF of stdin; `reconnect_storm` closes and opens all at once. `file` is a GET
//! of a file of the server; with `slow` each connection requests one and reads almost nothing of it.
//! With `--tls` all this is over TLS; then a round trip can also be a connection, its handshake and a GET (`handshake`, or
//! `resumed` with the session of the previous one).

#![forbid(unsafe_code)]

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use argh::FromArgs;
use futures_rustls::rustls::{self, ClientConfig, ClientConnection};
use nix::sys::socket::sockopt::TcpMaxSeg;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use smolgate_bench::{
    client,
    conn::BUFFER_BYTES,
    message,
    poll::{self, Poll},
    reconnect_storm::ReconnectStorm,
    tls::{self, Stream},
};

/// Do round trips through a proxy and print their number and latencies.
#[derive(FromArgs)]
struct Flags {
    /// tunnel, get, file, idle, reconnect_storm, slow, handshake or resumed
    #[argh(positional)]
    mode: String,
    /// address of the proxy
    #[argh(option)]
    to: SocketAddr,
    /// connections (1)
    #[argh(option, default = "1")]
    conns: usize,
    /// bytes of a tunnel message, or of a file (64)
    #[argh(option, default = "64")]
    size: usize,
    /// round trips over all connections (100000)
    #[argh(option, default = "100_000")]
    trips: usize,
    /// seconds after which no round trip is started (10)
    #[argh(option, default = "10")]
    seconds: u64,
    /// connect over TLS
    #[argh(switch)]
    tls: bool,
    /// wait for a line on stdin before the trips, and for EOF after them
    #[argh(switch)]
    wait: bool,
}

/// The limit for a proxy to respond.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let flags: Flags = argh::from_env();
    match run(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {} {}: {error}", flags.mode, flags.to);
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> io::Result<()> {
    let workload = match flags.mode.as_str() {
        "tunnel" if flags.size > 0 => Workload::tunnel(flags.size),
        "get" => Workload::get(),
        "file" if flags.size > 0 => Workload::file(flags.size),
        "slow" => return read_slowly(flags),
        "reconnect_storm" if !flags.tls => {
            let mut storm = ReconnectStorm::new(flags.to, flags.conns, RESPONSE_TIMEOUT);
            return measure(flags, |_| storm.reconnect());
        }
        "handshake" | "resumed" if flags.tls => return measure_handshakes(flags),
        "idle" => {
            let config = flags.tls.then(|| tls::config(false));
            let open = |_| connect(flags.to, true, config.as_ref());
            let _tunnels = (0..flags.conns).map(open).collect::<io::Result<Vec<_>>>()?;
            println!("ready");
            return io::copy(&mut io::stdin(), &mut io::sink()).map(|_| ());
        }
        _ => {
            return Err(io::Error::other(
                "expected tunnel, get, file, idle, reconnect_storm or slow, and a size above 0",
            ));
        }
    };
    let mut runner = Runner::open(workload, flags)?;
    measure(flags, |trips| runner.run(trips, Duration::from_secs(flags.seconds)))
}

/// Warms up, prints "ready", runs and prints the result.
fn measure(flags: &Flags, mut run: impl FnMut(usize) -> io::Result<Vec<Duration>>) -> io::Result<()> {
    run(flags.trips / 10 + 1)?;
    println!("ready");
    if flags.wait {
        io::stdin().read_line(&mut String::new())?;
    }
    let started = Instant::now();
    let mut latencies = run(flags.trips)?;
    let seconds = started.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let us = |percent: usize| latencies[(latencies.len() - 1) * percent / 100].as_nanos() as f64 / 1e3;
    println!("trips {} seconds {seconds:.3} p50_us {:.1} p99_us {:.1}", latencies.len(), us(50), us(99));
    if flags.wait {
        io::copy(&mut io::stdin(), &mut io::sink())?;
    }
    Ok(())
}

/// Opens connections one after the other, with a GET on each, in `conns` threads.
fn measure_handshakes(flags: &Flags) -> io::Result<()> {
    let config = tls::config(flags.mode == "resumed");
    let body = message::pattern(message::GET_BODY_BYTES);
    let one = || {
        let started = Instant::now();
        let (mut stream, connection) = connect(flags.to, false, Some(&config))?;
        let Some(mut connection) = connection else { return Err(io::Error::other("no TLS")) };
        let mut line = rustls::Stream::new(&mut connection, &mut stream);
        line.write_all(message::GET)?;
        let (mut received, mut buffer) = (Vec::new(), [0; 4096]);
        while !client::is_response(&received, &body)? {
            match line.read(&mut buffer)? {
                0 => return Err(io::Error::other("connection closed during a round trip")),
                count => received.extend_from_slice(&buffer[..count]),
            }
        }
        Ok(started.elapsed())
    };
    let deadline = Duration::from_secs(flags.seconds);
    measure(flags, |trips| {
        let started = Instant::now();
        let each = trips / flags.conns + 1;
        let connect_all =
            || (0..each).take_while(|_| started.elapsed() < deadline).map(|_| one()).collect::<io::Result<Vec<_>>>();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..flags.conns).map(|_| scope.spawn(connect_all)).collect();
            let mut all = Vec::new();
            for thread in threads {
                all.extend(thread.join().map_err(|_| io::Error::other("a thread panicked"))??);
            }
            Ok(all)
        })
    })
}

/// The receive buffer of a slow reader: the minimum.
const SLOW_BYTES: usize = 4096;

/// The segment size of Ethernet: with that of loopback the kernel would take the whole file from the server.
const SEGMENT_BYTES: u32 = 1460;

/// Slow readers that read the whole file in the end.
const COMPLETED_READERS: usize = 10;

/// Requests a file on each connection, prints "ready" when all responses have started, and reads some of them to the end on a line
/// on stdin.
fn read_slowly(flags: &Flags) -> io::Result<()> {
    let open = || -> io::Result<TcpStream> {
        let family = if flags.to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SLOW_BYTES)?;
        nix::sys::socket::setsockopt(&socket, TcpMaxSeg, &SEGMENT_BYTES)?;
        rustix::net::connect(&socket, &flags.to)?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
        stream.write_all(&message::get_file(flags.size))?;
        stream.peek(&mut [0; 1])?;
        Ok(stream)
    };
    let mut readers = (0..flags.conns).map(|_| open()).collect::<io::Result<Vec<_>>>()?;
    println!("ready");
    io::stdin().read_line(&mut String::new())?;
    let body = message::pattern(flags.size);
    let mut buffer = vec![0; BUFFER_BYTES];
    let last = readers.len().saturating_sub(COMPLETED_READERS);
    for reader in &mut readers[last..] {
        let mut file = FileResponse::default();
        while !file.receive(
            &body,
            match reader.read(&mut buffer)? {
                0 => return Err(io::Error::other("connection closed within a file")),
                count => &buffer[..count],
            },
        )? {}
    }
    println!("trips {}", readers.len() - last);
    io::copy(&mut io::stdin(), &mut io::sink()).map(|_| ())
}

/// A file response being received.
#[derive(Default)]
struct FileResponse {
    head: Vec<u8>,
    /// Received bytes of the body, once the head is complete.
    body_bytes: Option<usize>,
}

impl FileResponse {
    /// Verifies received bytes; returns whether the response is complete.
    fn receive(&mut self, body: &[u8], mut bytes: &[u8]) -> io::Result<bool> {
        let before = match self.body_bytes {
            Some(before) => before,
            None => {
                self.head.extend_from_slice(bytes);
                let Some(used) = client::head_length(&self.head, body.len())? else { return Ok(false) };
                bytes = &bytes[used + bytes.len() - self.head.len()..];
                self.head.clear();
                0
            }
        };
        if !body[before..].starts_with(bytes) {
            return Err(io::Error::other("the file differs from the one expected"));
        }
        let is_all = before + bytes.len() == body.len();
        self.body_bytes = (!is_all).then_some(before + bytes.len());
        Ok(is_all)
    }
}

/// Connects, performs the TLS handshake if there is one, and upgrades the connection to a tunnel if `upgrade`.
fn connect(
    to: SocketAddr,
    upgrade: bool,
    tls: Option<&Arc<ClientConfig>>,
) -> io::Result<(TcpStream, Option<ClientConnection>)> {
    let mut stream = TcpStream::connect_timeout(&to, RESPONSE_TIMEOUT)?;
    stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
    stream.set_nodelay(true)?;
    let mut connection = tls.map(|config| tls::connect(&mut stream, config)).transpose()?;
    if upgrade {
        match &mut connection {
            None => client::open_tunnel(&mut stream)?,
            Some(connection) => client::open_tunnel(&mut rustls::Stream::new(connection, &mut stream))?,
        }
    }
    Ok((stream, connection))
}

enum Workload {
    /// Messages of `size` bytes; each is a different window into `bytes`, so that a late echo is detected.
    Tunnel {
        size: usize,
        bytes: Vec<u8>,
    },
    Get {
        body: Vec<u8>,
    },
    File {
        request: Vec<u8>,
        body: Vec<u8>,
    },
}

/// The number of different messages of a tunnel.
const WINDOWS: usize = 251;

impl Workload {
    fn tunnel(size: usize) -> Self {
        Self::Tunnel { size, bytes: message::pattern(size + WINDOWS) }
    }

    fn get() -> Self {
        Self::Get { body: message::pattern(message::GET_BODY_BYTES) }
    }

    fn file(size: usize) -> Self {
        Self::File { request: message::get_file(size), body: message::pattern(size) }
    }

    fn request(&self, window: usize) -> &[u8] {
        match self {
            Self::Tunnel { size, bytes } => &bytes[window..window + size],
            Self::Get { .. } => message::GET,
            Self::File { request, .. } => request,
        }
    }

    /// Returns true if the response is complete, false if it is correct so far.
    fn is_complete(&self, window: usize, received: &[u8]) -> io::Result<bool> {
        match self {
            Self::Tunnel { size, .. } if self.request(window).starts_with(received) => Ok(received.len() == *size),
            Self::Tunnel { .. } => Err(io::Error::other("the echo differs from what was sent")),
            Self::Get { body } | Self::File { body, .. } => client::is_response(received, body),
        }
    }
}

/// All connections and their workload.
struct Runner {
    workload: Workload,
    poll: Poll,
    clients: Vec<Client>,
    buffer: Vec<u8>,
}

struct Client {
    stream: Stream,
    /// The received part of a response.
    received: Vec<u8>,
    file: FileResponse,
    window: usize,
    started: Instant,
    is_waiting: bool,
}

impl Runner {
    fn open(workload: Workload, flags: &Flags) -> io::Result<Self> {
        let (poll, mut clients) = (Poll::new()?, Vec::new());
        let config = flags.tls.then(|| tls::config(false));
        for number in 0..flags.conns {
            let (stream, connection) = connect(flags.to, matches!(workload, Workload::Tunnel { .. }), config.as_ref())?;
            let stream = Stream::new(stream, connection)?;
            poll.add(&stream.conn().stream, number)?;
            clients.push(Client {
                stream,
                received: Vec::new(),
                file: FileResponse::default(),
                window: number % WINDOWS,
                started: Instant::now(),
                is_waiting: false,
            });
        }
        Ok(Self { workload, poll, clients, buffer: vec![0; BUFFER_BYTES] })
    }

    /// Does `trips` round trips, fewer if `time` is over before, and returns their latencies.
    fn run(&mut self, trips: usize, time: Duration) -> io::Result<Vec<Duration>> {
        let deadline = Instant::now() + time;
        let mut latencies = Vec::with_capacity(trips);
        let mut in_flight = self.clients.len().min(trips);
        let mut left = trips - in_flight;
        for client in &mut self.clients[..in_flight] {
            client.send_request(&self.workload, Instant::now())?;
        }
        let mut events = Vec::with_capacity(256);
        while in_flight > 0 {
            self.poll.wait(&mut events, Some(RESPONSE_TIMEOUT))?;
            if events.is_empty() {
                return Err(io::Error::other(format!(
                    "{in_flight} round trips made no progress for {RESPONSE_TIMEOUT:?}"
                )));
            }
            for event in &events {
                let client = &mut self.clients[poll::token(event)];
                client.stream.set_ready(event.flags);
                let Some(now) = client.receive(&self.workload, &mut self.buffer)? else { continue };
                latencies.push(now - client.started);
                if left > 0 && now < deadline {
                    left -= 1;
                    client.send_request(&self.workload, now)?;
                } else {
                    in_flight -= 1;
                }
            }
        }
        Ok(latencies)
    }
}

impl Client {
    fn send_request(&mut self, workload: &Workload, now: Instant) -> io::Result<()> {
        self.window = (self.window + 1) % WINDOWS;
        (self.started, self.is_waiting) = (now, true);
        self.stream.send(workload.request(self.window))
    }

    /// Reads available bytes; returns the time if the response is complete.
    fn receive(&mut self, workload: &Workload, buffer: &mut [u8]) -> io::Result<Option<Instant>> {
        self.stream.flush()?;
        while let Some(count) = self.stream.read(buffer)? {
            if count == 0 {
                return Err(io::Error::other("connection closed during a round trip"));
            }
            if !self.is_waiting {
                return Err(io::Error::other("unexpected bytes"));
            }
            // A response in one piece is compared without a copy; a file piece by piece.
            let is_complete = if let Workload::File { body, .. } = workload {
                self.file.receive(body, &buffer[..count])?
            } else if self.received.is_empty() {
                let is_complete = workload.is_complete(self.window, &buffer[..count])?;
                if !is_complete {
                    self.received.extend_from_slice(&buffer[..count]);
                }
                is_complete
            } else {
                self.received.extend_from_slice(&buffer[..count]);
                workload.is_complete(self.window, &self.received)?
            };
            if is_complete {
                self.received.clear();
                self.is_waiting = false;
                return Ok(Some(Instant::now()));
            }
        }
        Ok(None)
    }
}
