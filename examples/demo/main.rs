//! A chat server and smolgate in front of it, in one process: `cargo run --release --example demo`.
//!
//! [`app`] stands for any application that speaks WebSocket: it knows nothing of the proxy. The page comes from a folder,
//! as smolgate's own file; its WebSockets go through smolgate to the application; and `/status` shows both. Configuration
//! and page lie in a temporary folder as long as the demo runs. With `--once` the program is its own visitor: it checks all
//! of this, prints `ok` and ends.

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

/// For everything that `--once` does.
const CHECK: Duration = Duration::from_secs(20);
/// Messages that `--once` sends.
const MESSAGES: usize = 100;

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
    // Before there are other threads: smolgate reads signals, and no other thread is to get them.
    signals::hold()?;
    let listener = smol::block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let upstream = listener.local_addr()?;
    smol::spawn(app::accept(listener)).detach();

    let addr = free_addr()?;
    let text = configuration(addr, upstream);
    let site = Site::write(&text)?;
    println!("{text}");

    // This is what a program does that has smolgate inside.
    let folder = site.path.clone();
    let load = move || {
        let folders = Prefix { prefix: folder.display().to_string() };
        config::load(ConfigSource::File(&folder.join(CONFIGURATION)), "", folders, ErrorLog::default_to(None))
            .map_err(|error| error.to_string())
    };
    let config = load()?;
    let proxy = std::thread::spawn(move || start::run(config, &load).map_err(|failure| failure.to_string()));

    while !proxy.is_finished() && std::net::TcpStream::connect(addr).is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    if once && !proxy.is_finished() {
        let late = async {
            smol::Timer::after(CHECK).await;
            Err("the check took too long".into())
        };
        println!("{}", smol::block_on(smol::future::or(visit(addr), late))?);
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)?; // smolgate stops as it does after Ctrl-C
    } else if !proxy.is_finished() {
        println!("smolgate listens: open http://{addr}/ in two windows; Ctrl-C ends it");
        println!("(after a change of {}: kill -HUP {})", site.path.join(CONFIGURATION).display(), std::process::id());
    }
    proxy.join().map_err(|_| "the proxy's thread panicked")??;
    Ok(())
}

/// Port 8080, or another if somebody has it.
fn free_addr() -> io::Result<SocketAddr> {
    let bind = |port| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    bind(8080).or_else(|_| bind(0))?.local_addr()
}

/// The folder that smolgate runs in; gone when this is dropped.
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
        // Started by root, smolgate becomes somebody else, who has to read this.
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

/// A visitor of the page at `addr`: what went well, in one line.
async fn visit(addr: SocketAddr) -> Result<String, Failure> {
    let page = get(addr, "/").await?;
    if !page.starts_with("HTTP/1.1 200 ") || !page.ends_with(PAGE) {
        return Err(format!("the page did not come: {page}").into());
    }

    let mut echo = Visitor::open(addr, "/ws/echo").await?;
    let began = Instant::now();
    for number in 0..MESSAGES {
        let message = vec![number as u8; number * number]; // 0 to 9,801 bytes: two of the three forms of a length
        echo.say(BINARY, &message).await?;
        echo.hear(BINARY, &message).await?;
    }
    let each = began.elapsed() / MESSAGES as u32;
    let largest = vec![b'z'; websocket::MESSAGE_BYTES_MAX];
    echo.say(TEXT, &largest).await?;
    echo.hear(TEXT, &largest).await?;

    let mut chat = [Visitor::open(addr, "/ws/chat").await?, Visitor::open(addr, "/ws/chat").await?];
    let hello = "hello, всем".as_bytes();
    for speaker in 0..chat.len() {
        if let Some(visitor) = chat.get_mut(speaker) {
            visitor.say(TEXT, hello).await?;
        }
        for visitor in &mut chat {
            visitor.hear(TEXT, hello).await?;
        }
    }
    let status = get(addr, "/status.json").await?;
    if !status.contains("\"tunnels\":{\"open\":3,\"opened\":3}") {
        return Err(format!("the status does not show three tunnels: {status}").into());
    }
    for visitor in chat.iter_mut().chain([&mut echo]) {
        visitor.say(CLOSE, &1000u16.to_be_bytes()).await?;
        visitor.hear(CLOSE, &1000u16.to_be_bytes()).await?;
    }
    Ok(format!("ok: a page, a chat, a status, and {MESSAGES} echoes through smolgate, {} us each", each.as_micros()))
}

/// The answer to a GET, with its head.
async fn get(addr: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// The client's end of a WebSocket.
struct Visitor(BufReader<TcpStream>);

impl Visitor {
    async fn open(addr: SocketAddr, path: &str) -> Result<Self, Failure> {
        let key = data_encoding::BASE64.encode(&fastrand::u128(..).to_ne_bytes());
        let mut visitor = Self(BufReader::new(TcpStream::connect(addr).await?));
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {addr}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        );
        visitor.0.get_mut().write_all(head.as_bytes()).await?;
        let reply = String::from_utf8(app::read_head(&mut visitor.0).await?)?;
        let accept = format!("\r\nSec-WebSocket-Accept: {}\r\n", websocket::accept_key(&key));
        if !reply.starts_with("HTTP/1.1 101 ") || !reply.contains(&accept) {
            return Err(format!("no WebSocket at {path}: {reply}").into());
        }
        Ok(visitor)
    }

    async fn say(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        let frame = encode(opcode, payload, Some(fastrand::u32(..).to_ne_bytes()));
        self.0.get_mut().write_all(&frame).await
    }

    async fn hear(&mut self, opcode: u8, payload: &[u8]) -> Result<(), Failure> {
        match read_frame(&mut self.0, false).await {
            Ok(frame) if frame.last && frame.opcode == opcode && frame.payload == payload => Ok(()),
            Ok(frame) => Err(format!("heard {} bytes instead of {}", frame.payload.len(), payload.len()).into()),
            Err(_) => Err("the WebSocket broke".into()),
        }
    }
}
