//! A chat server and smolgate in front of it, in one process: `cargo run --release --example demo`.
//!
//! [`app`] stands for any application that speaks WebSocket: it knows nothing of the proxy. smolgate serves the page from a
//! directory, forwards its WebSockets to the application, and shows its own state at `/status`. Configuration and page are
//! in a temporary directory that exists as long as the demo runs. With `--once` the demo is its own client: it tests all of
//! this, prints `ok` and ends.

mod app;
mod websocket;

use std::error::Error;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use smol::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use smol::net::{TcpListener, TcpStream};
use smolgate::config::{self, ConfigSource, ErrorLog, Prefix};
use smolgate::process::start;
use smolgate::runtime::signals;

use websocket::{BINARY, CLOSE, TEXT, encode, read_frame};

const PAGE: &str = include_str!("page.html");
const CONFIGURATION: &str = "smolgate.conf";

/// The longest time that `--once` may take.
const CHECK_TIME_MAX: Duration = Duration::from_secs(20);
/// Echoes that `--once` measures.
const ECHOES: usize = 100;

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let once = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => false,
        ["--once" | "--check"] => true,
        _ => {
            eprintln!("usage: demo [--once]");
            return ExitCode::from(2);
        }
    };
    match demo(once) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("demo: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn demo(once: bool) -> Result<(), Failure> {
    // Before other threads start: smolgate reads signals by signalfd, so that every thread has to block them.
    signals::block()?;
    let listener = smol::block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let upstream = listener.local_addr()?;
    smol::spawn(app::accept(listener)).detach();

    let addr = free_addr()?;
    let text = configuration(addr, upstream);
    let site = Site::write(&text)?;
    println!("{text}");

    // A program that embeds smolgate does this.
    let directory = site.path.clone();
    let load = move || {
        let prefix = Prefix { path: directory.display().to_string() };
        config::load(ConfigSource::File(&directory.join(CONFIGURATION)), "", prefix, ErrorLog::for_path(None))
            .map_err(|error| error.to_string())
    };
    let config = load()?;
    let proxy = std::thread::spawn(move || start::run(config, &load).map_err(|failure| failure.to_string()));

    while !proxy.is_finished() && std::net::TcpStream::connect(addr).is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    if once && !proxy.is_finished() {
        let timeout = async {
            smol::Timer::after(CHECK_TIME_MAX).await;
            Err("the check took too long".into())
        };
        println!("{}", smol::block_on(smol::future::or(check(addr), timeout))?);
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)?; // smolgate stops as it does after Ctrl-C
    } else if !proxy.is_finished() {
        println!("smolgate listens: open http://{addr}/ in two windows; Ctrl-C ends it");
        println!("(after a change of {}: kill -HUP {})", site.path.join(CONFIGURATION).display(), std::process::id());
    }
    proxy.join().map_err(|_| "the proxy's thread panicked")??;
    Ok(())
}

/// Returns 127.0.0.1 with port 8080, or with any free port if that one is in use.
fn free_addr() -> io::Result<SocketAddr> {
    let bind = |port| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    bind(8080).or_else(|_| bind(0))?.local_addr()
}

/// The directory of configuration and page; removed on drop.
struct Site {
    path: PathBuf,
}

impl Site {
    fn write(configuration: &str) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("smolgate-demo-{:016x}", fastrand::u64(..)));
        fs::create_dir(&path)?;
        let site = Self { path };
        fs::create_dir(site.path.join("www"))?;
        fs::write(site.path.join("www/index.html"), PAGE)?;
        fs::write(site.path.join(CONFIGURATION), configuration)?;
        // Started by root, smolgate switches to another user, which has to read these files.
        for (name, mode) in [("", 0o755), ("www", 0o755), ("www/index.html", 0o644), (CONFIGURATION, 0o644)] {
            fs::set_permissions(site.path.join(name), fs::Permissions::from_mode(mode))?;
        }
        Ok(site)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn configuration(listen: SocketAddr, upstream: SocketAddr) -> String {
    let text = "\
map $http_upgrade $connection_upgrade {
    default upgrade;
    ''      '';
}

upstream app {
    server UPSTREAM;
}

server {
    listen LISTEN;

    # The page.
    root www;

    # Its WebSockets.
    location /ws/ {
        proxy_pass http://app;
        proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_upgrade;
        proxy_set_header Host $http_host;
    }

    # What smolgate is doing.
    location /status {
        status;
    }
}
";
    text.replace("UPSTREAM", &upstream.to_string()).replace("LISTEN", &listen.to_string())
}

/// Tests page, WebSockets and status at `addr`; returns the results in one line.
async fn check(addr: SocketAddr) -> Result<String, Failure> {
    let page = get(addr, "/").await?;
    if !page.starts_with("HTTP/1.1 200 ") || !page.ends_with(PAGE) {
        return Err(format!("unexpected response instead of the page: {page}").into());
    }

    let mut echo = WebSocket::open(addr, "/ws/echo").await?;
    let began = Instant::now();
    for number in 0..ECHOES {
        let message = vec![number as u8; number * number]; // 0 to 9,801 bytes: two of the three forms of a length
        echo.send(BINARY, &message).await?;
        echo.expect(BINARY, &message).await?;
    }
    let each = began.elapsed() / ECHOES as u32;
    let largest = vec![b'z'; websocket::MESSAGE_BYTES_MAX];
    echo.send(TEXT, &largest).await?;
    echo.expect(TEXT, &largest).await?;

    let mut chat = [WebSocket::open(addr, "/ws/chat").await?, WebSocket::open(addr, "/ws/chat").await?];
    let hello = "hello, всем".as_bytes();
    for speaker in 0..chat.len() {
        if let Some(member) = chat.get_mut(speaker) {
            member.send(TEXT, hello).await?;
        }
        for member in &mut chat {
            member.expect(TEXT, hello).await?;
        }
    }
    let status = get(addr, "/status.json").await?;
    if !status.contains("\"tunnels\":{\"open\":3,\"opened\":3}") {
        return Err(format!("the status does not show three tunnels: {status}").into());
    }
    for socket in chat.iter_mut().chain([&mut echo]) {
        socket.send(CLOSE, &1000u16.to_be_bytes()).await?;
        socket.expect(CLOSE, &1000u16.to_be_bytes()).await?;
    }
    Ok(format!("ok: a page, a chat, a status, and {ECHOES} echoes through smolgate, {} us each", each.as_micros()))
}

/// Returns the response to a GET, with its head.
async fn get(addr: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    Ok(response)
}

/// The client's end of a WebSocket.
struct WebSocket(BufReader<TcpStream>);

impl WebSocket {
    async fn open(addr: SocketAddr, path: &str) -> Result<Self, Failure> {
        let key = data_encoding::BASE64.encode(&fastrand::u128(..).to_ne_bytes());
        let mut socket = Self(BufReader::new(TcpStream::connect(addr).await?));
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {addr}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        );
        socket.0.get_mut().write_all(head.as_bytes()).await?;
        let response = String::from_utf8(app::read_head(&mut socket.0).await?)?;
        let accept = format!("\r\nSec-WebSocket-Accept: {}\r\n", websocket::accept_key(&key));
        if !response.starts_with("HTTP/1.1 101 ") || !response.contains(&accept) {
            return Err(format!("no WebSocket at {path}: {response}").into());
        }
        Ok(socket)
    }

    async fn send(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        let frame = encode(opcode, payload, Some(fastrand::u32(..).to_ne_bytes()));
        self.0.get_mut().write_all(&frame).await
    }

    async fn expect(&mut self, opcode: u8, payload: &[u8]) -> Result<(), Failure> {
        match read_frame(&mut self.0, false).await {
            Ok(frame) if frame.last && frame.opcode == opcode && frame.payload == payload => Ok(()),
            Ok(frame) => Err(format!("received {} bytes instead of {}", frame.payload.len(), payload.len()).into()),
            Err(_) => Err("the WebSocket broke".into()),
        }
    }
}
