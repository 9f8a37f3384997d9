//! The peers: processes that can be killed and stopped, at addresses that may then be closed, or have a full backlog.

use std::cell::RefCell;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smolgate::runtime::socket::{self, Addr, ListenOptions};

pub(super) const PEERS: usize = 5;
/// The environment variable with the address of a peer process.
const ADDR: &str = "CHAOS_PEER";

#[derive(Clone, Copy, Debug)]
pub(super) enum Failure {
    /// SIGKILL: the port is closed.
    Killed,
    /// SIGSTOP: connections are accepted by the kernel.
    Frozen,
    /// A listening socket with a full backlog that never accepts.
    CutOff,
}

enum State {
    Lives(Child),
    Killed,
    CutOff { _listener: OwnedFd, _backlog: Vec<TcpStream> },
}

pub(super) struct Peers {
    pub(super) addrs: [SocketAddr; PEERS],
    states: [RefCell<State>; PEERS],
    /// The number of failures of each peer.
    failures: [AtomicU32; PEERS],
}

impl Peers {
    pub(super) fn start() -> Self {
        let held = [(); PEERS].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let addrs = held.map(|listener| listener.local_addr().unwrap());
        let states = addrs.map(|addr| RefCell::new(State::Lives(spawn(addr))));
        Self { addrs, states, failures: Default::default() }
    }

    /// The number of failures of each peer.
    pub(super) fn failures(&self) -> [u32; PEERS] {
        self.failures.each_ref().map(|count| count.load(Ordering::SeqCst))
    }

    pub(super) fn number(&self, port: &str) -> usize {
        self.addrs.iter().position(|addr| addr.port().to_string() == port).unwrap()
    }

    pub(super) fn disturb(&self, number: usize, failure: Failure) {
        self.failures[number].fetch_add(1, Ordering::SeqCst);
        let mut state = self.states[number].borrow_mut();
        let State::Lives(child) = &mut *state else { panic!("it does not live") };
        match failure {
            Failure::Frozen => signal(child, Signal::STOP),
            Failure::Killed => {
                kill(child);
                *state = State::Killed;
            }
            Failure::CutOff => {
                kill(child);
                *state = cut_off(self.addrs[number]);
            }
        }
    }

    pub(super) fn restore(&self, number: usize) {
        let mut state = self.states[number].borrow_mut();
        if let State::Lives(child) = &*state {
            return signal(child, Signal::CONT);
        }
        *state = State::Killed;
        *state = State::Lives(spawn(self.addrs[number]));
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        for state in &mut self.states {
            if let State::Lives(child) = state.get_mut() {
                kill(child);
            }
        }
    }
}

fn cut_off(addr: SocketAddr) -> State {
    let options = ListenOptions { backlog: 1, ipv6_only: true };
    let listener = socket::listen(&Addr::Ip(addr), options, None).unwrap();
    // Fill the backlog.
    let backlog = (0..16).map_while(|_| TcpStream::connect_timeout(&addr, Duration::from_millis(50)).ok()).collect();
    State::CutOff { _listener: listener, _backlog: backlog }
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
    kill_process(pid, signal).unwrap();
}

fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn spawn(addr: SocketAddr) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "chaos::peers::process"]).env(ADDR, addr.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

/// Not a test: the peer process.
#[test]
#[ignore = "a peer of chaos::run, which starts it"]
fn process() {
    let Ok(addr) = std::env::var(ADDR) else { return };
    let addr: SocketAddr = addr.parse().unwrap();
    smol::block_on(async {
        let listener = smol::net::TcpListener::bind(addr).await.unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            smol::spawn(serve(stream, addr.port())).detach();
        }
    });
}

async fn serve(mut stream: smol::net::TcpStream, port: u16) -> std::io::Result<()> {
    let mut came = Vec::new();
    let mut buffer = vec![0; 4096];
    loop {
        let Some(end) = came.windows(4).position(|part| part == b"\r\n\r\n") else {
            match stream.read(&mut buffer).await? {
                0 => return Ok(()),
                count => came.extend_from_slice(&buffer[..count]),
            }
            continue;
        };
        let head: Vec<u8> = came.drain(..end + 4).collect();
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        if head.contains("\r\nupgrade: ") {
            let switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
            stream.write_all(format!("{switching}X-Name: {port}\r\n\r\n").as_bytes()).await?;
            return smol::io::copy(stream.clone(), stream).await.map(drop);
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body: usize = length.map_or(0, |length| length.parse().unwrap());
        while came.len() < body {
            match stream.read(&mut buffer).await? {
                0 => body = 0,
                count => came.extend_from_slice(&buffer[..count]),
            }
        }
        came.drain(..body);
        pause(100).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n").await?;
        let parts = if head.contains(" /long ") { 10 } else { 1 };
        for _ in 0..parts {
            stream.write_all(&vec![b'x'; 20_000 / parts]).await?;
            if parts > 1 {
                pause(50).await;
            }
        }
    }
}

/// Sleeps for at most this many milliseconds.
async fn pause(most: u64) {
    smol::Timer::after(Duration::from_millis(fastrand::u64(..most))).await;
}
