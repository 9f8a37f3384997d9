//! Binary upgrade: tunnels and connections stay open, and nothing is lost if it fails.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, thread};

use crate::client::{Client, expand};
use crate::harness::{Proxy, TIMEOUT, wait_for};
use crate::peer::Peer;

const GET: &[u8] = b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n";

fn config(peer: &Peer, workers: u32, body: &str) -> String {
    format!(
        "worker_processes {workers}; server {{ listen LISTEN; location / {{ proxy_pass http://{}; }}
         location /version {{ return 200 {body}; }} }}",
        peer.addr
    )
}

fn tunnel(proxy: &Proxy) -> Client {
    let mut client = Client::connect(proxy.addr);
    client.request(&expand(b"GET /ws HTTP/1.1\r\nHost: a\r\n{W}\r\n"), 101).unwrap();
    client
}

/// Sends numbers through a tunnel until `end`, and checks that every byte comes back, once and in order.
fn echo_numbers(mut client: Client, end: &AtomicBool) -> Result<u64, String> {
    let mut number = 0u64;
    while !end.load(Ordering::Relaxed) {
        let sent: Vec<u8> = (number..number + 64).flat_map(u64::to_be_bytes).collect();
        client.stream.write_all(&sent).map_err(|error| format!("{number}: {error}"))?;
        let mut back = vec![0; sent.len()];
        client.stream.read_exact(&mut back).map_err(|error| format!("{number}: {error}"))?;
        if back != sent {
            return Err(format!("{number}: other bytes came back"));
        }
        number += 64;
    }
    Ok(number)
}

fn starts(proxy: &Proxy) -> usize {
    proxy.error_lines().iter().filter(|line| line.contains("listens on")).count()
}

fn version(proxy: &Proxy) -> String {
    let response = Client::connect(proxy.addr).request(GET, 200).unwrap();
    String::from_utf8(response.body).unwrap()
}

/// Tunnels stay open through many upgrades and reloads.
#[test]
fn tunnels_survive_upgrades() {
    let peer = Peer::start_echo();
    for workers in [1, 3] {
        let proxy = Proxy::start(&config(&peer, workers, "v0"));
        let end = AtomicBool::new(false);
        let pid = proxy.pid();
        let mut idle = tunnel(&proxy);
        let mut keep_alive = Client::connect(proxy.addr);
        keep_alive.request(GET, 200).unwrap();
        thread::scope(|scope| {
            let counting: Vec<_> = (0..8)
                .map(|_| {
                    let client = tunnel(&proxy);
                    scope.spawn(|| echo_numbers(client, &end))
                })
                .collect();
            for round in 1..=4 {
                proxy.write_config(&config(&peer, workers, &format!("v{round}")));
                proxy.signal("HUP");
                proxy.signal("USR2");
                wait_for("the new binary", || starts(&proxy) > round);
                wait_for("its configuration", || version(&proxy) == format!("v{round}"));
                // An idle client connection stays open as well.
                assert_eq!(keep_alive.request(GET, 200).unwrap().body, format!("v{round}").as_bytes());
            }
            end.store(true, Ordering::Relaxed);
            for one in counting {
                assert!(one.join().unwrap().unwrap() > 0);
            }
        });
        idle.send(b"still here");
        assert_eq!(idle.read_bytes(10).unwrap(), b"still here");
        assert_eq!(
            (proxy.pid(), fs::read_to_string(proxy.dir.path("smolgate.pid")).unwrap().trim()),
            (pid, &*pid.to_string())
        );
        drop(idle);
        proxy.wait_for_access_line(&["/ws", " 101 "]).unwrap();
    }
}

/// A new binary that rejects the configuration, or cannot be executed, changes nothing.
#[test]
fn upgrades_that_fail() {
    let peer = Peer::start_echo();
    let first = config(&peer, 2, "first");
    let proxy = Proxy::start_in_shell(&first, "cp \"$0\" \"$2/smolgate\"; exec \"$2/smolgate\" \"$@\"");
    let mut client = tunnel(&proxy);
    let mut keep_alive = Client::connect(proxy.addr);
    keep_alive.request(GET, 200).unwrap();
    let mut serves = |what: &str| {
        client.send(b"ping");
        assert_eq!(client.read_bytes(4).unwrap(), b"ping", "{what}");
        assert_eq!(keep_alive.request(GET, 200).unwrap().body, b"first", "{what}");
        assert_eq!(version(&proxy), "first", "{what}");
    };
    let upgrade_fails = |times: usize| {
        proxy.signal("USR2");
        wait_for("a log line", || {
            proxy
                .error_lines()
                .iter()
                .filter(|line| line.contains("binary upgrade failed, continuing with the old binary: "))
                .count()
                == times
        });
    };
    proxy.write_config("server { listen LISTEN; frobnicate; }");
    upgrade_fails(1);
    proxy
        .wait_for_error_line(&["binary upgrade failed, continuing with the old binary: ", "unknown directive"])
        .unwrap();
    serves("a broken configuration");
    proxy.write_config(&first);
    let replace = |script: &str| {
        proxy.dir.write("new", script);
        fs::set_permissions(proxy.dir.path("new"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(proxy.dir.path("new"), proxy.dir.path("smolgate")).unwrap();
    };
    replace("#!/bin/sh\necho 'unknown flag --takes-over' >&2\nexit 2\n");
    upgrade_fails(2);
    proxy
        .wait_for_error_line(&["binary upgrade failed, continuing with the old binary: ", "unknown flag --takes-over"])
        .unwrap();
    serves("an executable without the flag");
    replace("#!/bin/sh\nrm \"$0\"\n");
    upgrade_fails(3);
    proxy
        .wait_for_error_line(&["binary upgrade failed, continuing with the old binary: 2: No such file or directory"])
        .unwrap();
    serves("an executable that is gone");
}

/// Tunnels count for `limit_conn` in the new binary.
#[test]
fn tunnels_still_count_for_limits() {
    let peer = Peer::start_echo();
    // Without an access log the request of a tunnel is handed over only for its limits.
    let config = "pid smolgate.pid; error_log error.log notice; access_log off;
        limit_conn_zone $arg_key zone=keys:64k; limit_conn_zone $host zone=hosts:64k;
        server { listen LISTEN; limit_conn keys 1; limit_conn hosts 3; location / { proxy_pass http://PEER; } }";
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    let ask = |key: &str| expand(format!("GET /ws?key={key} HTTP/1.1\r\nHost: a\r\n{{W}}\r\n").as_bytes());
    let status = |key: &str| {
        Client::connect_and_send(proxy.addr, &ask(key)).read_response().map_or(0, |response| response.status)
    };
    let mut tunnels: Vec<Client> = ["a", "b", "c"]
        .map(|key| {
            let mut client = Client::connect(proxy.addr);
            client.request(&ask(key), 101).unwrap();
            client
        })
        .into();
    assert_eq!((status("a"), status("d")), (503, 503));
    for round in 1..3 {
        proxy.signal("USR2");
        wait_for("the new binary", || starts(&proxy) > round);
        // One for each key, three for the host.
        wait_for("its tunnels", || (status("a"), status("d")) == (503, 503));
    }
    // A tunnel that ends is no longer counted; the others are.
    drop(tunnels.pop());
    wait_for("room for one", || status("d") == 101);
    wait_for("it has ended", || status("c") == 101);
    assert_eq!(status("b"), 503);
    tunnels.iter_mut().for_each(|client| {
        client.send(b"ping");
        assert_eq!(client.read_bytes(4).unwrap(), b"ping");
    });
}

/// A new binary that cannot open a log or bind an address keeps the connections.
#[test]
fn a_missing_log_or_address_closes_no_connection() {
    let peer = Peer::start_echo();
    let config = |more: &str| {
        format!(
            "pid smolgate.pid; error_log error.log notice; server {{ listen LISTEN; {more} access_log logs/access.log;
                 location / {{ proxy_pass http://{}; }} location /version {{ return 200 here; }} }}",
            peer.addr
        )
    };
    let proxy = Proxy::start_in_shell(&config(""), "mkdir -m 777 \"$2/logs\"; exec \"$0\" \"$@\"");
    let mut client = tunnel(&proxy);
    fs::remove_dir_all(proxy.dir.path("logs")).unwrap();
    proxy.dir.write(
        "smolgate.conf",
        config("listen OTHER;").replace("LISTEN", &proxy.addr.to_string()).replace("OTHER", "203.0.113.1:80"),
    );
    proxy.signal("USR2");
    wait_for("the new binary", || starts(&proxy) == 2);
    proxy.wait_for_error_line(&["[emerg]", "bind() to 203.0.113.1:80 failed", "continuing without it"]).unwrap();
    proxy.wait_for_error_line(&["[emerg]", "logs/access.log\" failed", "continuing without it"]).unwrap();
    client.send(b"ping");
    assert_eq!(client.read_bytes(4).unwrap(), b"ping");
    assert_eq!(version(&proxy), "here");
    // A new binary that would serve no address is not executed.
    proxy.dir.write("smolgate.conf", "pid smolgate.pid;");
    proxy.signal("USR2");
    proxy
        .wait_for_error_line(&[
            "binary upgrade failed, continuing with the old binary: ",
            "nothing would be listened on",
        ])
        .unwrap();
    assert_eq!(version(&proxy), "here");
}

/// The hand-over of an unknown version is rejected.
#[test]
fn unknown_versions() {
    let proxy = Proxy::start("server { listen LISTEN; return 204; }");
    let check =
        |version: &str| crate::harness::run(&proxy.dir, &["-t", "-q", "--takes-over", version], "smolgate.conf");
    assert_eq!(check("2").status.code(), Some(0), "{:?}", check("2"));
    for other in ["1", "999"] {
        assert_eq!(check(other).status.code(), Some(2));
    }
}

/// A stop during a binary upgrade stops the program.
#[test]
fn a_stop_during_an_upgrade() {
    let peer = Peer::start_echo();
    let mut proxy = Proxy::start(&config(&peer, 1, "first"));
    let _client = tunnel(&proxy);
    proxy.signal("USR2");
    proxy.signal("TERM");
    assert_eq!(proxy.exit_code_within(TIMEOUT), Some(0));
}

/// Sends a 101, and echoes what follows.
async fn echo(mut stream: smol::net::TcpStream) -> std::io::Result<()> {
    use smol::io::{AsyncReadExt, AsyncWriteExt};
    let mut head = Vec::new();
    let mut buf = vec![0; 4096];
    while !head.ends_with(b"\r\n\r\n") {
        let count = stream.read(&mut buf).await?;
        head.extend_from_slice(&buf[..count]);
        if count == 0 {
            return Ok(());
        }
    }
    stream.write_all(crate::peer::SWITCHING_PROTOCOLS).await?;
    loop {
        let count = stream.read(&mut buf).await?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buf[..count]).await?;
    }
}

/// As [`echo_numbers`], with pauses.
async fn echo_numbers_slowly(addr: std::net::SocketAddr, end: &AtomicBool) -> Result<u64, String> {
    use smol::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = smol::net::TcpStream::connect(addr).await.map_err(|error| format!("connect: {error}"))?;
    stream.write_all(&expand(b"GET /ws HTTP/1.1\r\nHost: a\r\n{W}\r\n")).await.map_err(|error| error.to_string())?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).await.map_err(|error| format!("head: {error}"))?;
        head.push(byte[0]);
    }
    if !head.starts_with(b"HTTP/1.1 101 ") {
        return Err(String::from_utf8_lossy(&head).into_owned());
    }
    let mut number = 0u64;
    while !end.load(Ordering::Relaxed) {
        let sent: Vec<u8> = (number..number + 8).flat_map(u64::to_be_bytes).collect();
        stream.write_all(&sent).await.map_err(|error| format!("{number}: {error}"))?;
        let mut back = vec![0; sent.len()];
        stream.read_exact(&mut back).await.map_err(|error| format!("{number}: {error}"))?;
        if back != sent {
            return Err(format!("{number}: other bytes came back"));
        }
        number += 8;
        smol::Timer::after(Duration::from_millis(fastrand::u64(5..200))).await;
    }
    Ok(number)
}

/// 2,000 tunnels, 200 reloads (half of them of broken files, some without the tunnels' location), 20 binary upgrades, and
/// new clients all the time.
#[test]
#[ignore = "takes a minute: cargo test --release --test e2e storm -- --ignored --nocapture"]
fn many_tunnels_reloads_and_upgrades() {
    const TUNNELS: usize = 2000;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = listener.local_addr().unwrap();
    let config = |round: usize| {
        let tunnels = format!("location /ws {{ proxy_pass http://{upstream}; }}");
        let tunnels = if round % 7 == 3 { "" } else { &tunnels };
        let broken = if round % 2 == 1 { "frobnicate on;" } else { "" };
        format!(
            "worker_processes 2; {broken} server {{ listen LISTEN; {tunnels} location /version {{ return 200 r{round}; }} }}"
        )
    };
    let proxy = Proxy::start(&config(0));
    let end = AtomicBool::new(false);
    smol::spawn(async move {
        let listener = smol::net::TcpListener::from(smol::Async::new(listener).unwrap());
        while let Ok((stream, _)) = listener.accept().await {
            smol::spawn(echo(stream)).detach();
        }
    })
    .detach();
    let (echoed, failed, before, after) = smol::block_on(async {
        let executor = smol::LocalExecutor::new();
        let tasks: Vec<_> = (0..TUNNELS).map(|_| executor.spawn(echo_numbers_slowly(proxy.addr, &end))).collect();
        let new_clients = executor.spawn(async {
            let (mut requests, mut failed) = (0, 0);
            while !end.load(Ordering::Relaxed) {
                let (addr, get) = (proxy.addr, GET);
                let succeeded = smol::unblock(move || {
                    let mut client = Client::connect(addr);
                    client.request(get, 200).is_ok()
                });
                failed += usize::from(!succeeded.await);
                requests += 1;
            }
            (requests, failed)
        });
        let reloads_and_upgrades = async {
            smol::Timer::after(Duration::from_secs(5)).await;
            let before = proxy.resident_kib();
            for round in 1..=200 {
                proxy.write_config(&config(round));
                proxy.signal("HUP");
                smol::Timer::after(Duration::from_millis(100)).await;
                if round % 10 == 0 {
                    proxy.write_config(&config(0));
                    proxy.signal("USR2");
                    smol::Timer::after(Duration::from_millis(500)).await;
                }
            }
            smol::Timer::after(Duration::from_secs(2)).await;
            end.store(true, Ordering::Relaxed);
            (before, proxy.resident_kib())
        };
        let (before, after) = executor.run(reloads_and_upgrades).await;
        let mut echoed = 0;
        for task in tasks {
            echoed += executor.run(task).await.unwrap();
        }
        (echoed, executor.run(new_clients).await, before, after)
    });
    let upgrades = starts(&proxy) - 1;
    println!(
        "{upgrades} upgrades, {echoed} numbers, {failed:?} (requests, failed), {before} KiB before, {after} KiB after"
    );
    assert_eq!(failed.1, 0);
    assert!(upgrades >= 18, "{upgrades} upgrades: {:?}", proxy.error_lines().last());
}
