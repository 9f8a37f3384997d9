//! Sockets that systemd has bound for the program.

use std::net::TcpStream;
use std::time::Duration;

use crate::client::Client;
use crate::harness::{Proxy, TIMEOUT, TempDir, run_in_shell, wait_for};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn status(addr: std::net::SocketAddr) -> u16 {
    Client::connect_and_send(addr, GET).read_response().map_or(0, |response| response.status)
}

/// A socket is taken for the `listen` of its address, stays through reloads and upgrades, and waits if there is none.
#[test]
fn sockets_are_taken_by_their_address() {
    let both = "worker_processes 2; server { listen LISTEN; return 201; } server { listen OTHER; return 202; }";
    let proxy = Proxy::start_socket_activated(both, None);
    assert_eq!((status(proxy.addr), status(proxy.other)), (201, 202));
    // One that no server has the address of is told of, and kept for the one that does.
    proxy.write_config("server { listen LISTEN; return 203; }");
    proxy.signal("HUP");
    wait_for("one server less", || status(proxy.addr) == 203);
    let starts = || proxy.error_lines().iter().filter(|line| line.contains("listens on")).count();
    proxy.signal("USR2");
    wait_for("the next program", || starts() == 2 && status(proxy.addr) == 203);
    proxy.wait_for_error_line(&["[warn]", &format!("systemd has bound {}", proxy.other)]).unwrap();
    // No worker accepts there any more: who comes now waits in the socket.
    let mut early = Client::connect_and_send(proxy.other, GET);
    proxy.write_config(both);
    proxy.signal("HUP");
    assert_eq!(early.expect_status(202).unwrap().status, 202);
    assert_eq!((status(proxy.addr), status(proxy.other)), (201, 202));
    assert!(proxy.error_lines().iter().all(|line| !line.contains("[emerg]")), "{:?}", proxy.error_lines());
}

/// A graceful stop leaves them to systemd: who comes meanwhile waits for the next start.
#[test]
fn sockets_outlive_the_program() {
    let mut proxy = Proxy::start_socket_activated("server { listen LISTEN; return 201; }", None);
    assert_eq!(status(proxy.addr), 201);
    proxy.signal("QUIT");
    assert_eq!(proxy.exit_code_within(TIMEOUT), Some(0));
    assert!(TcpStream::connect_timeout(&proxy.addr, Duration::from_secs(1)).is_ok());
}

/// What is meant for another process, or is not there, is not taken.
#[test]
fn sockets_that_are_none() {
    let dir = TempDir::new();
    dir.write("smolgate.conf", "server { listen unix:socket; return 204; }");
    let missing = run_in_shell(&dir, "export LISTEN_FDS=2 LISTEN_PID=$$; exec \"$0\" \"$@\" 3<&-", "smolgate.conf");
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert_eq!(missing.status.code(), Some(1), "{said}");
    assert!(said.contains("the sockets of LISTEN_FDS can't be used"), "{said}");
    let others =
        Proxy::start_in_shell("server { listen LISTEN; return 204; }", "LISTEN_FDS=2 LISTEN_PID=1 exec \"$0\" \"$@\"");
    assert_eq!(status(others.addr), 204);
}

/// systemd's own IPv6 sockets take IPv4 connections too: they stand for both addresses, each with its servers.
#[test]
fn one_socket_stands_for_both_versions() {
    let Ok(wide) = std::net::TcpListener::bind("[::]:0") else { return }; // no IPv6 here
    let port = wide.local_addr().unwrap().port();
    let config = format!("server {{ listen {port}; return 204; }} server {{ listen [::]:{port}; return 206; }}");
    let proxy =
        Proxy::start_socket_activated(&format!("server {{ listen LISTEN; return 201; }} {config}"), Some(&wide));
    assert_eq!(status(proxy.addr), 201);
    assert_eq!(status(([127, 0, 0, 1], port).into()), 204);
    let six = std::net::SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port));
    assert_eq!(status(six), 206);
}
