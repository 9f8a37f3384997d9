//! Socket activation by systemd.

use std::net::TcpStream;
use std::time::Duration;

use crate::client::Client;
use crate::harness::{Proxy, TIMEOUT, TempDir, run_in_shell, wait_for};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn status(addr: std::net::SocketAddr) -> u16 {
    Client::connect_and_send(addr, GET).read_response().map_or(0, |response| response.status)
}

/// A socket is used for the `listen` of its address, survives reloads and upgrades, and is kept if there is none.
#[test]
fn sockets_are_matched_by_address() {
    let both = "worker_processes 2; server { listen LISTEN; return 201; } server { listen OTHER; return 202; }";
    let proxy = Proxy::start_socket_activated(both, None);
    assert_eq!((status(proxy.addr), status(proxy.other)), (201, 202));
    // A socket without a `listen` is logged, and kept for a later reload.
    proxy.write_config("server { listen LISTEN; return 203; }");
    proxy.signal("HUP");
    wait_for("the reload", || status(proxy.addr) == 203);
    let starts = || proxy.error_lines().iter().filter(|line| line.contains("listens on")).count();
    proxy.signal("USR2");
    wait_for("the new binary", || starts() == 2 && status(proxy.addr) == 203);
    proxy.wait_for_error_line(&["[warn]", &format!("systemd passed a socket for {}", proxy.other)]).unwrap();
    // No worker accepts there now: a client waits in the backlog.
    let mut early = Client::connect_and_send(proxy.other, GET);
    proxy.write_config(both);
    proxy.signal("HUP");
    assert_eq!(early.expect_status(202).unwrap().status, 202);
    assert_eq!((status(proxy.addr), status(proxy.other)), (201, 202));
    assert!(proxy.error_lines().iter().all(|line| !line.contains("[emerg]")), "{:?}", proxy.error_lines());
}

/// A graceful shutdown leaves sockets open: clients wait for the next start.
#[test]
fn sockets_survive_shutdown() {
    let mut proxy = Proxy::start_socket_activated("server { listen LISTEN; return 201; }", None);
    assert_eq!(status(proxy.addr), 201);
    proxy.signal("QUIT");
    assert_eq!(proxy.exit_code_within(TIMEOUT), Some(0));
    assert!(TcpStream::connect_timeout(&proxy.addr, Duration::from_secs(1)).is_ok());
}

/// Sockets for another process, or missing ones, are not used.
#[test]
fn invalid_sockets() {
    let dir = TempDir::new();
    dir.write("smolgate.conf", "server { listen unix:socket; return 204; }");
    let missing = run_in_shell(&dir, "export LISTEN_FDS=2 LISTEN_PID=$$; exec \"$0\" \"$@\" 3<&-", "smolgate.conf");
    let stderr = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert_eq!(missing.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("the sockets of LISTEN_FDS can't be used"), "{stderr}");
    let others =
        Proxy::start_in_shell("server { listen LISTEN; return 204; }", "LISTEN_FDS=2 LISTEN_PID=1 exec \"$0\" \"$@\"");
    assert_eq!(status(others.addr), 204);
}

/// An IPv6 socket of systemd accepts IPv4 connections too: it is used for both addresses, each with its servers.
#[test]
fn dual_stack_sockets() {
    let Ok(dual_stack) = std::net::TcpListener::bind("[::]:0") else { return }; // no IPv6 here
    let port = dual_stack.local_addr().unwrap().port();
    let config = format!("server {{ listen {port}; return 204; }} server {{ listen [::]:{port}; return 206; }}");
    let proxy =
        Proxy::start_socket_activated(&format!("server {{ listen LISTEN; return 201; }} {config}"), Some(&dual_stack));
    assert_eq!(status(proxy.addr), 201);
    assert_eq!(status(([127, 0, 0, 1], port).into()), 204);
    let six = std::net::SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port));
    assert_eq!(status(six), 206);
}
