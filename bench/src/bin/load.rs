//! The load: connections that play ping-pong through a proxy, every byte verified.
//!
//! A round trip is a message and its echo (`tunnel`) or a GET and its answer (`get`); each connection has one under way,
//! and `--trips` counts them over all connections, so that every proxy does the same number of operations. Before it
//! starts it prints "ready" and, with `--wait`, goes on when a line comes on stdin and stays until stdin ends: in between,
//! the runner reads the proxy's clocks. `idle` opens its tunnels, prints "ready" and holds them until stdin ends; `reconnect_storm`
//! closes and opens all of them at once. `file` is a GET of a file of the server's own; with `slow` each connection asks
//! for one and then reads next to nothing of it.
//! With `--tls` all this goes over TLS; then a round trip can also be a connection, its handshake and a GET (`handshake`,
//! or `resumed` with the session of the one before).

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
    reconnect_storm::Herd,
    tls::{self, Line},
};

/// Play ping-pong through a proxy and print round trips and latencies.
#[derive(FromArgs)]
struct Flags {
    /// tunnel, get, file, idle, herd, slow, handshake or resumed
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
    /// seconds after which no new trip is begun (10)
    #[argh(option, default = "10")]
    seconds: u64,
    /// speak TLS
    #[argh(switch)]
    tls: bool,
    /// wait for a line on stdin before the trips, and for its end after them
    #[argh(switch)]
    wait: bool,
}

/// How long a proxy may be silent before we give it up.
const SILENCE: Duration = Duration::from_secs(10);

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
    let work = match flags.mode.as_str() {
        "tunnel" if flags.size > 0 => Work::tunnel(flags.size),
        "get" => Work::get(),
        "file" if flags.size > 0 => Work::file(flags.size),
        "slow" => return read_slowly(flags),
        "reconnect_storm" if !flags.tls => {
            let mut herd = Herd::new(flags.to, flags.conns, SILENCE);
            return measure(flags, |_| herd.come_back());
        }
        "handshake" | "resumed" if flags.tls => return shake_hands(flags),
        "idle" => {
            let config = flags.tls.then(|| tls::config(false));
            let open = |_| connect(flags.to, true, config.as_ref());
            let _tunnels = (0..flags.conns).map(open).collect::<io::Result<Vec<_>>>()?;
            println!("ready");
            return io::copy(&mut io::stdin(), &mut io::sink()).map(|_| ());
        }
        _ => return Err(io::Error::other("expected tunnel, get, file, idle, herd or slow, and a size above 0")),
    };
    let mut rally = Rally::open(work, flags)?;
    measure(flags, |trips| rally.play(trips, Duration::from_secs(flags.seconds)))
}

/// Warms up, says so, and works.
fn measure(flags: &Flags, mut play: impl FnMut(usize) -> io::Result<Vec<Duration>>) -> io::Result<()> {
    play(flags.trips / 10 + 1)?;
    println!("ready");
    if flags.wait {
        io::stdin().read_line(&mut String::new())?;
    }
    let begun = Instant::now();
    let mut latencies = play(flags.trips)?;
    let seconds = begun.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let us = |percent: usize| latencies[(latencies.len() - 1) * percent / 100].as_nanos() as f64 / 1e3;
    println!("trips {} seconds {seconds:.3} p50_us {:.1} p99_us {:.1}", latencies.len(), us(50), us(99));
    if flags.wait {
        io::copy(&mut io::stdin(), &mut io::sink())?;
    }
    Ok(())
}

/// Connections one after the other, with a GET on each, by as many threads as there are to be connections.
fn shake_hands(flags: &Flags) -> io::Result<()> {
    let config = tls::config(flags.mode == "resumed");
    let body = message::pattern(message::GET_BODY_BYTES);
    let one = || {
        let begun = Instant::now();
        let (mut stream, connection) = connect(flags.to, false, Some(&config))?;
        let Some(mut connection) = connection else { return Err(io::Error::other("no TLS")) };
        let mut line = rustls::Stream::new(&mut connection, &mut stream);
        line.write_all(message::GET)?;
        let (mut came, mut buffer) = (Vec::new(), [0; 4096]);
        while !client::is_response(&came, &body)? {
            match line.read(&mut buffer)? {
                0 => return Err(io::Error::other("connection closed in the middle of the work")),
                count => came.extend_from_slice(&buffer[..count]),
            }
        }
        Ok(begun.elapsed())
    };
    let deadline = Duration::from_secs(flags.seconds);
    measure(flags, |trips| {
        let begun = Instant::now();
        let each = trips / flags.conns + 1;
        let play =
            || (0..each).take_while(|_| begun.elapsed() < deadline).map(|_| one()).collect::<io::Result<Vec<_>>>();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..flags.conns).map(|_| scope.spawn(play)).collect();
            let mut all = Vec::new();
            for thread in threads {
                all.extend(thread.join().map_err(|_| io::Error::other("a thread panicked"))??);
            }
            Ok(all)
        })
    })
}

/// The least that a socket may hold of what comes.
const SLOW_BYTES: usize = 4096;

/// Bytes of a segment, as on Ethernet: for those of loopback the kernel would take all of a file from the server.
const SEGMENT_BYTES: u32 = 1460;

/// Of those who read slowly, how many read all of it in the end.
const SLOW_READERS_THAT_GO_ON: usize = 10;

/// Asks for a file on each connection, says so when all answers have begun, and reads some of them to the end when a line
/// comes.
fn read_slowly(flags: &Flags) -> io::Result<()> {
    let open = || -> io::Result<TcpStream> {
        let family = if flags.to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SLOW_BYTES)?;
        nix::sys::socket::setsockopt(&socket, TcpMaxSeg, &SEGMENT_BYTES)?;
        rustix::net::connect(&socket, &flags.to)?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(SILENCE))?;
        stream.write_all(&message::get_file(flags.size))?;
        stream.peek(&mut [0; 1])?;
        Ok(stream)
    };
    let mut readers = (0..flags.conns).map(|_| open()).collect::<io::Result<Vec<_>>>()?;
    println!("ready");
    io::stdin().read_line(&mut String::new())?;
    let body = message::pattern(flags.size);
    let mut buffer = vec![0; BUFFER_BYTES];
    let last = readers.len().saturating_sub(SLOW_READERS_THAT_GO_ON);
    for reader in &mut readers[last..] {
        let mut file = Coming::default();
        while !file.take(
            &body,
            match reader.read(&mut buffer)? {
                0 => return Err(io::Error::other("connection closed in the middle of a file")),
                count => &buffer[..count],
            },
        )? {}
    }
    println!("trips {}", readers.len() - last);
    io::copy(&mut io::stdin(), &mut io::sink()).map(|_| ())
}

/// A file on its way to us.
#[derive(Default)]
struct Coming {
    head: Vec<u8>,
    /// Bytes of the body that have come, once the head has.
    came: Option<usize>,
}

impl Coming {
    /// Takes what has come: whether that was all.
    fn take(&mut self, body: &[u8], mut bytes: &[u8]) -> io::Result<bool> {
        let before = match self.came {
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
        self.came = (!is_all).then_some(before + bytes.len());
        Ok(is_all)
    }
}

/// Connects, makes the handshake if there is one, and turns the connection into a tunnel if asked to.
fn connect(
    to: SocketAddr,
    upgrade: bool,
    tls: Option<&Arc<ClientConfig>>,
) -> io::Result<(TcpStream, Option<ClientConnection>)> {
    let mut stream = TcpStream::connect_timeout(&to, SILENCE)?;
    stream.set_read_timeout(Some(SILENCE))?;
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

enum Work {
    /// Messages of `size` bytes; each is a different window into `bytes`, so that a late echo can't pass for the right one.
    Tunnel {
        size: usize,
        bytes: Vec<u8>,
    },
    Get {
        body: Vec<u8>,
    },
    File {
        question: Vec<u8>,
        body: Vec<u8>,
    },
}

/// How many different messages a tunnel sends.
const WINDOWS: usize = 251;

impl Work {
    fn tunnel(size: usize) -> Self {
        Self::Tunnel { size, bytes: message::pattern(size + WINDOWS) }
    }

    fn get() -> Self {
        Self::Get { body: message::pattern(message::GET_BODY_BYTES) }
    }

    fn file(size: usize) -> Self {
        Self::File { question: message::get_file(size), body: message::pattern(size) }
    }

    fn question(&self, window: usize) -> &[u8] {
        match self {
            Self::Tunnel { size, bytes } => &bytes[window..window + size],
            Self::Get { .. } => message::GET,
            Self::File { question, .. } => question,
        }
    }

    /// True if `came` is the whole answer, false if it is a true beginning of it.
    fn is_answered(&self, window: usize, came: &[u8]) -> io::Result<bool> {
        match self {
            Self::Tunnel { size, .. } if self.question(window).starts_with(came) => Ok(came.len() == *size),
            Self::Tunnel { .. } => Err(io::Error::other("the echo differs from what was sent")),
            Self::Get { body } | Self::File { body, .. } => client::is_response(came, body),
        }
    }
}

/// All connections and what they play.
struct Rally {
    work: Work,
    poll: Poll,
    players: Vec<Player>,
    buffer: Vec<u8>,
}

struct Player {
    line: Line,
    /// The part of the answer that has come.
    came: Vec<u8>,
    file: Coming,
    window: usize,
    begun: Instant,
    waits: bool,
}

impl Rally {
    fn open(work: Work, flags: &Flags) -> io::Result<Self> {
        let (poll, mut players) = (Poll::new()?, Vec::new());
        let config = flags.tls.then(|| tls::config(false));
        for number in 0..flags.conns {
            let (stream, connection) = connect(flags.to, matches!(work, Work::Tunnel { .. }), config.as_ref())?;
            let line = Line::new(stream, connection)?;
            poll.add(&line.end().stream, number)?;
            players.push(Player {
                line,
                came: Vec::new(),
                file: Coming::default(),
                window: number % WINDOWS,
                begun: Instant::now(),
                waits: false,
            });
        }
        Ok(Self { work, poll, players, buffer: vec![0; BUFFER_BYTES] })
    }

    /// Plays `trips` round trips, fewer if `time` is over before, and gives how long each one took.
    fn play(&mut self, trips: usize, time: Duration) -> io::Result<Vec<Duration>> {
        let deadline = Instant::now() + time;
        let mut latencies = Vec::with_capacity(trips);
        let mut under_way = self.players.len().min(trips);
        let mut left = trips - under_way;
        for player in &mut self.players[..under_way] {
            player.ask(&self.work, Instant::now())?;
        }
        let mut events = Vec::with_capacity(256);
        while under_way > 0 {
            self.poll.wait(&mut events, Some(SILENCE))?;
            if events.is_empty() {
                return Err(io::Error::other(format!("{under_way} round trips made no progress for {SILENCE:?}")));
            }
            for event in &events {
                let player = &mut self.players[poll::token(event)];
                player.line.note(event.flags);
                let Some(now) = player.hear(&self.work, &mut self.buffer)? else { continue };
                latencies.push(now - player.begun);
                if left > 0 && now < deadline {
                    left -= 1;
                    player.ask(&self.work, now)?;
                } else {
                    under_way -= 1;
                }
            }
        }
        Ok(latencies)
    }
}

impl Player {
    fn ask(&mut self, work: &Work, now: Instant) -> io::Result<()> {
        self.window = (self.window + 1) % WINDOWS;
        (self.begun, self.waits) = (now, true);
        self.line.send(work.question(self.window))
    }

    /// Reads what has come; gives the time if that completed the answer.
    fn hear(&mut self, work: &Work, buffer: &mut [u8]) -> io::Result<Option<Instant>> {
        self.line.flush()?;
        while let Some(count) = self.line.read(buffer)? {
            if count == 0 {
                return Err(io::Error::other("connection closed in the middle of the work"));
            }
            if !self.waits {
                return Err(io::Error::other("bytes came that nobody asked for"));
            }
            // The usual answer comes in one piece and is looked at where it lies; a large one piece by piece.
            let answered = if let Work::File { body, .. } = work {
                self.file.take(body, &buffer[..count])?
            } else if self.came.is_empty() {
                let answered = work.is_answered(self.window, &buffer[..count])?;
                if !answered {
                    self.came.extend_from_slice(&buffer[..count]);
                }
                answered
            } else {
                self.came.extend_from_slice(&buffer[..count]);
                work.is_answered(self.window, &self.came)?
            };
            if answered {
                self.came.clear();
                self.waits = false;
                return Ok(Some(Instant::now()));
            }
        }
        Ok(None)
    }
}
