//! Stream sockets over TCP and Unix domain: listen, accept, connect, read, write, half-close, options. And UDP
//! sockets.
//!
//! Nothing here interprets bytes. Every socket is non-blocking, close-on-exec and without Nagle's delay; options that
//! every accepted socket needs are set on the listener, from which the kernel copies them.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, Mode, statat};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrAny, SocketAddrUnix, SocketFlags};
use rustix::net::{SocketType, sockopt};
use rustix::process::umask;

use crate::os::privileges::Account;
use crate::os::root_files;
use crate::runtime::executor::{Direction, IoSource};
use crate::runtime::metrics::{self, Side};

/// Silence after which the kernel probes a tunnel's peer.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Time between further probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Unanswered probes after which the peer counts as dead.
const KEEPALIVE_PROBES: u32 = 6;
/// Milliseconds that sent bytes (or probes) may stay unacknowledged.
const USER_TIMEOUT_MILLIS: u32 = 120_000;

/// The address of a socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Addr {
    Ip(SocketAddr),
    /// A path in the file system; empty for an unnamed peer.
    Unix(Arc<str>),
}

/// A configured endpoint, whose name may have to be resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Addr(Addr),
    Name { host: String, port: u16 },
}

impl Addr {
    /// Returns the address without the port; `unix:` for a Unix socket, as in nginx's `$remote_addr`.
    pub fn host(&self) -> String {
        match self {
            Self::Ip(addr) => addr.ip().to_string(),
            Self::Unix(_) => "unix:".to_owned(),
        }
    }

    /// Returns the IP address; `None` for a Unix socket.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(addr) => Some(addr.ip()),
            Self::Unix(_) => None,
        }
    }

    /// Whether the peer is on this machine: a loopback address or a Unix socket.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Ip(addr) => addr.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Ip(addr) => Some(addr.port()),
            Self::Unix(_) => None,
        }
    }

    /// Converts an address; an IPv4-mapped IPv6 address becomes an IPv4 address.
    fn from_any(any: Option<SocketAddrAny>) -> Self {
        let Some(any) = any else { return Self::Unix(Arc::from("")) };
        if let Ok(addr) = SocketAddr::try_from(any.clone()) {
            return Self::Ip(SocketAddr::new(addr.ip().to_canonical(), addr.port()));
        }
        let path = SocketAddrUnix::try_from(any).ok().and_then(|unix| {
            unix.path_bytes().map(|path| String::from_utf8_lossy(path).trim_end_matches('\0').to_owned())
        });
        Self::Unix(Arc::from(path.unwrap_or_default()))
    }

    /// Parses the form that [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("unix:") {
            Some(path) => Some(Self::Unix(Arc::from(path))),
            None => text.parse().ok().map(Self::Ip),
        }
    }

    fn family(&self) -> AddressFamily {
        match self {
            Self::Ip(SocketAddr::V4(_)) => AddressFamily::INET,
            Self::Ip(SocketAddr::V6(_)) => AddressFamily::INET6,
            Self::Unix(_) => AddressFamily::UNIX,
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

fn new_stream_socket(addr: &Addr) -> io::Result<OwnedFd> {
    new_socket(SocketType::STREAM, addr.family())
}

fn new_socket(kind: SocketType, family: AddressFamily) -> io::Result<OwnedFd> {
    Ok(net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?)
}

/// Options of a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Connections that may wait to be accepted; the kernel caps this at net.core.somaxconn.
    pub backlog: i32,
    /// An IPv6 socket accepts no IPv4 connections.
    pub ipv6_only: bool,
}

/// Binds and listens. The descriptor can be duplicated for several workers. `account` is the one that root switches
/// to.
pub fn listen(addr: &Addr, options: ListenOptions, account: Option<&Account>) -> io::Result<OwnedFd> {
    let fd = new_stream_socket(addr)?;
    match addr {
        Addr::Ip(ip) => {
            sockopt::set_socket_reuseaddr(&fd, true)?;
            if ip.is_ipv6() {
                sockopt::set_ipv6_v6only(&fd, options.ipv6_only)?;
            }
            sockopt::set_tcp_nodelay(&fd, true)?;
            enable_keepalive(&fd);
            net::bind(&fd, ip)?;
        }
        Addr::Unix(path) => {
            let (copy, name) = (Arc::new(fd.try_clone()?), path.clone());
            root_files::run_at(Path::new(&**path), account, move || bind_unix(&copy, &name))?;
        }
    }
    net::listen(&fd, options.backlog)?;
    Ok(fd)
}

/// Sets the options of [`listen`] on an inherited listening socket, and returns its address.
///
/// # Errors `InvalidInput` if it is not a listening stream socket; those of fcntl(2) and getsockname(2).
pub fn adopt(fd: &OwnedFd) -> io::Result<Addr> {
    if sockopt::socket_type(fd)? != SocketType::STREAM || !sockopt::socket_acceptconn(fd)? {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::io::ioctl_fionbio(fd, true)?;
    let addr = local_addr(fd)?;
    if let Addr::Ip(_) = addr {
        sockopt::set_tcp_nodelay(fd, true)?;
        enable_keepalive(fd);
    }
    Ok(addr)
}

/// Whether an IPv6 socket accepts IPv4 connections.
pub fn is_dual_stack(fd: &OwnedFd) -> bool {
    sockopt::ipv6_v6only(fd).is_ok_and(|only| !only)
}

/// Binds to a path, and replaces a socket file whose process has ended.
fn bind_unix(fd: &OwnedFd, path: &str) -> io::Result<()> {
    let unix = SocketAddrUnix::new(path)?;
    let mut bound = bind_with_umask(fd, &unix);
    if bound == Err(Errno::ADDRINUSE) && is_stale(path, &unix)? {
        root_files::remove(path.as_ref())?;
        bound = bind_with_umask(fd, &unix);
    }
    Ok(bound?)
}

/// Binds so that all users may connect, as in nginx: the directory decides which of them can. The umask grants this,
/// not a chmod(2) of the path, which may name another file by then. It applies to the whole process, in which no
/// other thread creates files meanwhile.
fn bind_with_umask(fd: &OwnedFd, unix: &SocketAddrUnix) -> rustix::io::Result<()> {
    let before = umask(Mode::from_raw_mode(0o111));
    let bound = net::bind(fd, unix);
    umask(before);
    bound
}

/// Whether a path is a socket file without a listening process. connect(2) to another kind of file is refused, too.
fn is_stale(path: &str, unix: &SocketAddrUnix) -> io::Result<bool> {
    let stat = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    let probe = new_stream_socket(&Addr::Unix(Arc::from(path)))?;
    let refused = net::connect(&probe, unix) == Err(Errno::CONNREFUSED);
    Ok(refused && FileType::from_raw_mode(stat.st_mode) == FileType::Socket)
}

/// Whether the error means a lack of descriptors, ports or memory.
pub fn is_out_of_resources(error: &io::Error) -> bool {
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    shortages.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Returns the local address of a socket.
pub fn local_addr(fd: impl AsFd) -> io::Result<Addr> {
    Ok(Addr::from_any(Some(net::getsockname(fd)?)))
}

/// Enables keepalive probes: the only end of an idle tunnel whose peer has vanished and that has no timeout.
fn enable_keepalive(fd: impl AsFd) {
    let fd = fd.as_fd();
    let _ = sockopt::set_socket_keepalive(fd, true);
    let _ = sockopt::set_tcp_keepidle(fd, KEEPALIVE_IDLE);
    let _ = sockopt::set_tcp_keepintvl(fd, KEEPALIVE_INTERVAL);
    let _ = sockopt::set_tcp_keepcnt(fd, KEEPALIVE_PROBES);
    let _ = sockopt::set_tcp_user_timeout(fd, USER_TIMEOUT_MILLIS);
}

/// A listening socket of this worker.
pub struct Listener {
    source: IoSource,
    local: Addr,
}

impl Listener {
    /// Registers a descriptor of [`listen`].
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let local = local_addr(&fd)?;
        Ok(Self { source: IoSource::new_shared(fd)?, local })
    }

    /// Accepts the next connection; returns its descriptor and the peer's address.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(OwnedFd, Addr)>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        self.source
            .poll_io(cx, Direction::Read, |fd| net::acceptfrom_with(fd, flags))
            .map_ok(|(fd, addr)| (fd, Addr::from_any(addr)))
    }

    pub fn local_addr(&self) -> &Addr {
        &self.local
    }

    /// Wakes the task that waits for a connection.
    pub fn wake(&self) {
        self.source.wake();
    }
}

/// A connected stream socket.
pub struct Socket {
    source: IoSource,
}

impl Socket {
    /// Registers an accepted descriptor.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { source: IoSource::new(fd, Side::Client)? })
    }

    /// Unregisters the descriptor and returns it.
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        self.source.into_fd()
    }

    /// Registers a connected descriptor of an upstream.
    pub fn for_upstream(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { source: IoSource::new(fd, Side::Upstream)? })
    }

    /// Connects to `addr`, from a local address if one is given.
    ///
    /// # Errors Those of bind(2) and connect(2); `WouldBlock` for a Unix socket with a full backlog.
    pub async fn connect(addr: &Addr, from: Option<&Addr>) -> io::Result<Self> {
        let fd = new_stream_socket(addr)?;
        if let (Addr::Ip(_), Some(Addr::Ip(from))) = (addr, from) {
            sockopt::set_socket_reuseaddr(&fd, from.port() > 0)?;
            net::bind(&fd, from)?;
        }
        let started = match addr {
            Addr::Ip(ip) => {
                sockopt::set_tcp_nodelay(&fd, true)?;
                net::connect(&fd, ip)
            }
            Addr::Unix(path) => net::connect(&fd, &SocketAddrUnix::new(&**path)?),
        };
        match started {
            Ok(()) => Self::for_upstream(fd),
            Err(rustix::io::Errno::INPROGRESS) => {
                let connected = Self::for_upstream(fd)?;
                connected.source.wait_for_edge(Direction::Write).await;
                sockopt::socket_error(&connected.source)??;
                Ok(connected)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads into `buf`; 0 is EOF.
    pub fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let room = buf.len();
        let read = self
            .source
            .poll_io(cx, Direction::Read, |fd| net::recv(fd, &mut *buf, RecvFlags::empty()).map(|(_, count)| count));
        if let Poll::Ready(Ok(count)) = read {
            metrics::count_received(self.source.side(), count);
            if count < room {
                self.source.clear_ready(Direction::Read);
            }
        }
        read
    }

    /// Writes some of `bytes`.
    pub fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.count_sent(self.source.poll_io(cx, Direction::Write, |fd| net::send(fd, bytes, SendFlags::NOSIGNAL)))
    }

    /// Writes some of `parts`, in order, with one system call.
    pub fn poll_write_vectored(&self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.count_sent(self.source.poll_io(cx, Direction::Write, |fd| {
            net::sendmsg(fd, parts, &mut net::SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)
        }))
    }

    /// Sends up to `count` bytes of `file` from `offset`, which advances; 0 is EOF of the file.
    pub fn poll_send_file(
        &self,
        cx: &mut Context<'_>,
        file: impl AsFd,
        offset: &mut u64,
        count: usize,
    ) -> Poll<io::Result<usize>> {
        let send = |fd: BorrowedFd<'_>| rustix::fs::sendfile(fd, &file, Some(&mut *offset), count);
        self.count_sent(self.source.poll_io(cx, Direction::Write, send))
    }

    /// Counts written bytes.
    fn count_sent(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = written {
            metrics::count_sent(self.source.side(), count);
        }
        written
    }

    /// Ready when there may be data, or EOF; makes no system call.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.source.poll_ready(cx, Direction::Read)
    }

    /// Whether there may be room to write; makes no system call.
    pub fn is_writable(&self) -> bool {
        self.source.is_writable()
    }

    /// Whether the peer has neither sent nor closed anything: such a connection can be reused.
    pub fn is_idle(&self) -> bool {
        if self.source.peer_closed() {
            return false;
        }
        if !self.source.is_readable() {
            return true; // the last read emptied the socket, without an edge since
        }
        let mut byte = [0; 1];
        matches!(
            net::recv(&self.source, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT),
            Err(rustix::io::Errno::AGAIN)
        )
    }

    /// Ready when the connection has failed, or both directions have ended.
    pub fn poll_failed(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.source.poll_failed(cx)
    }

    /// Whether the peer is known to have closed its direction, or the connection.
    pub fn peer_closed(&self) -> bool {
        self.source.peer_closed()
    }

    /// Ready when the peer has closed its direction, or the connection. Data also wakes the task.
    pub fn poll_peer_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.peer_closed() { Poll::Ready(()) } else { self.poll_failed(cx) }
    }

    /// Closes the sending direction; the other one stays open.
    pub fn shutdown_write(&self) -> io::Result<()> {
        Ok(net::shutdown(&self.source, Shutdown::Write)?)
    }

    /// Makes close(2) send a reset.
    pub fn abort(&self) {
        let _ = sockopt::set_socket_linger(&self.source, Some(Duration::ZERO));
    }

    /// Enables keepalive probes.
    pub fn enable_keepalive(&self) {
        enable_keepalive(&self.source);
    }

    /// Drops the wakers of the task that had the socket before.
    pub fn clear_wakers(&self) {
        self.source.clear_wakers();
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

/// A connected UDP socket: it receives datagrams of one peer only.
pub struct UdpSocket {
    source: IoSource,
}

impl UdpSocket {
    /// Connects from an address that the kernel chooses.
    pub fn connect(addr: &SocketAddr) -> io::Result<Self> {
        let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let fd = new_socket(SocketType::DGRAM, family)?;
        net::connect(&fd, addr)?;
        Ok(Self { source: IoSource::new(fd, Side::Internal)? })
    }

    pub fn poll_send(&self, cx: &mut Context<'_>, datagram: &[u8]) -> Poll<io::Result<usize>> {
        self.source.poll_io(cx, Direction::Write, |fd| net::send(fd, datagram, SendFlags::NOSIGNAL))
    }

    /// Receives one datagram, truncated to `buf`. A short one does not mean that no other is pending.
    pub fn poll_receive(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.source
            .poll_io(cx, Direction::Read, |fd| net::recv(fd, &mut *buf, RecvFlags::empty()).map(|(_, count)| count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::executor;
    use std::future::poll_fn;

    const OPTIONS: ListenOptions = ListenOptions { backlog: 16, ipv6_only: true };

    #[test]
    fn bytes_and_half_close_travel_over_tcp_and_unix() {
        let path = std::env::temp_dir().join(format!("smolgate-socket-{}.sock", std::process::id()));
        let addrs = [Addr::Ip("127.0.0.1:0".parse().unwrap()), Addr::Unix(Arc::from(path.to_str().unwrap()))];
        executor::run(async {
            for addr in addrs {
                let listener = Listener::new(listen(&addr, OPTIONS, None).unwrap()).unwrap();
                let near = Socket::connect(listener.local_addr(), None).await.unwrap();
                let (fd, _) = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
                let far = Socket::new(fd).unwrap();
                assert_eq!(poll_fn(|cx| near.poll_write(cx, b"ping")).await.unwrap(), 4);
                near.shutdown_write().unwrap();
                let mut buf = [0; 16];
                assert_eq!(poll_fn(|cx| far.poll_read(cx, &mut buf)).await.unwrap(), 4);
                assert_eq!(&buf[..4], b"ping");
                assert_eq!(poll_fn(|cx| far.poll_read(cx, &mut buf)).await.unwrap(), 0);
                assert_eq!(poll_fn(|cx| far.poll_write(cx, b"pong")).await.unwrap(), 4);
                assert_eq!(poll_fn(|cx| near.poll_read(cx, &mut buf)).await.unwrap(), 4);
            }
        })
        .unwrap();
        let _ = std::fs::remove_file(path);
    }

    #[test]
    fn a_refused_connection_is_an_error() {
        executor::run(async {
            let free = {
                let listener = Listener::new(listen(&Addr::Ip("127.0.0.1:0".parse().unwrap()), OPTIONS, None).unwrap());
                listener.unwrap().local_addr().clone()
            };
            let error = Socket::connect(&free, None).await.err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        })
        .unwrap();
    }
}
