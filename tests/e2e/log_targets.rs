//! Where log lines go: syslog servers, and files whose names have variables.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;

use regex_lite::Regex;

use crate::client::{Client, expand};
use crate::harness::{Proxy, TIMEOUT, TempDir, run, wait_for};
use crate::peer::Peer;

const TIME: &str = r"[A-Z][a-z]{2} [ \d]\d \d{2}:\d{2}:\d{2}";

fn udp_server() -> UdpSocket {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(TIMEOUT)).unwrap();
    server
}

/// Binds a Unix socket that the unprivileged user of the proxy may write to.
fn unix_server(dir: &TempDir) -> UnixDatagram {
    let path = dir.path("syslog");
    let _ = fs::remove_file(&path);
    let server = UnixDatagram::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    server.set_read_timeout(Some(TIMEOUT)).unwrap();
    server
}

fn unix_config(dir: &TempDir) -> String {
    format!(
        "pid smolgate.pid; error_log error.log notice; log_format uri $uri;
         access_log syslog:server=unix:{},nohostname uri;
         server {{ listen LISTEN; keepalive_requests 10000; location / {{ return 204; }}
             location /metrics {{ status prometheus; access_log off; }} }}",
        dir.path("syslog").display()
    )
}

fn receive(server: &UdpSocket) -> String {
    datagram(|buffer| server.recv(buffer))
}

fn receive_unix(server: &UnixDatagram) -> String {
    datagram(|buffer| server.recv(buffer))
}

fn datagram(receive: impl FnOnce(&mut [u8]) -> std::io::Result<usize>) -> String {
    let mut buffer = [0; 4096];
    let length = receive(&mut buffer).unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

fn get(proxy: &Proxy, path: &str, status: u16) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    Client::connect(proxy.addr).request(request.as_bytes(), status).unwrap_or_else(|why| panic!("{why}"));
}

fn lost_lines(proxy: &Proxy) -> u64 {
    let response = Client::connect(proxy.addr).request(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 200).unwrap();
    let text = String::from_utf8(response.body).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix("smolgate_log_lines_lost_total "));
    value.unwrap().parse().unwrap()
}

/// The head of a message: priority, time, host name and tag (RFC 3164 4.1).
#[test]
fn messages_to_a_syslog_server() {
    let server = udp_server();
    let config = "pid smolgate.pid; log_format uri '$uri $status'; error_log SYSLOG error; access_log off;
        server { listen LISTEN; root .;
            location /access { access_log SYSLOG uri; return 204; }
            location /all { access_log SYSLOG,facility=user,severity=alert,tag=Hub_1,nohostname uri; return 204; }
            location /order { access_log syslog:tag=t,severity=emerg,facility=kern,server=UDP uri; return 204; }
            location /name { access_log syslog:server=localhost:PORT uri; return 204; }
            location /error { error_log SYSLOG,severity=alert,facility=daemon; }
            location /twice { access_log SYSLOG uri; access_log SYSLOG uri; return 204; }
            location /if { access_log SYSLOG uri if=$arg_log; return 204; } }";
    let addr = server.local_addr().unwrap();
    let config = config.replace("SYSLOG", "syslog:server=UDP").replace("UDP", &addr.to_string());
    let proxy = Proxy::start(&config.replace("PORT", &addr.port().to_string()));
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_lowercase();
    let host = regex_lite::escape(&host);
    for (path, status, expected) in [
        ("/access", 204, format!("^<190>{TIME} {host} nginx: /access 204$")),
        ("/all", 204, format!("^<9>{TIME} Hub_1: /all 204$")),
        ("/order", 204, format!("^<0>{TIME} {host} t: /order 204$")),
        ("/name", 204, format!("^<190>{TIME} {host} nginx: /name 204$")),
        // A message of the error log has its own severity.
        (
            "/none",
            404,
            format!(r"^<187>{TIME} {host} nginx: \d{{4}}/\d\d/\d\d [\d:]{{8}} \[error\] .*open\(\) .*/none"),
        ),
        (
            "/error",
            404,
            format!(r"^<27>{TIME} {host} nginx: \d{{4}}/\d\d/\d\d [\d:]{{8}} \[error\] .*open\(\) .*/error"),
        ),
        ("/twice", 204, format!("^<190>{TIME} {host} nginx: /twice 204$")),
    ] {
        get(&proxy, path, status);
        for _ in 0..if path == "/twice" { 2 } else { 1 } {
            let message = receive(&server);
            assert!(Regex::new(&expected).unwrap().is_match(&message), "{message:?} instead of {expected}");
            assert!(!message.ends_with('\n'));
        }
    }
    get(&proxy, "/if", 204);
    get(&proxy, "/if?log=1", 204);
    get(&proxy, "/access", 204);
    assert!(receive(&server).ends_with("/if 204"));
    assert!(receive(&server).ends_with("/access 204"));
}

/// Without a server, requests are served and lines counted; a server that is back gets the next line.
#[test]
fn a_syslog_server_that_is_gone() {
    let dir = TempDir::new();
    let server = unix_server(&dir);
    let proxy = Proxy::start(&unix_config(&dir));
    get(&proxy, "/one", 204);
    assert!(receive_unix(&server).ends_with("nginx: /one"));
    drop(server);
    get(&proxy, "/lost", 204);
    fs::remove_file(dir.path("syslog")).unwrap();
    get(&proxy, "/lost", 204);
    wait_for("the loss is reported", || proxy.dir.lines("stderr").iter().any(|line| line.contains("1 lines are lost")));
    wait_for("two lines are counted", || lost_lines(&proxy) == 2);
    let server = unix_server(&dir);
    get(&proxy, "/back", 204);
    assert!(receive_unix(&server).ends_with("nginx: /back"));
    assert_eq!(proxy.dir.lines("stderr").len(), 1, "{:?}", proxy.dir.lines("stderr"));
    assert_eq!(lost_lines(&proxy), 2);
}

/// UDP tells of a closed port only with the next line: each lost line is counted once.
#[test]
fn a_closed_port() {
    let server = udp_server();
    let addr = server.local_addr().unwrap();
    let config = format!(
        "pid smolgate.pid; error_log error.log; log_format uri $uri; access_log syslog:server={addr} uri;
         server {{ listen LISTEN; location / {{ return 204; }} location /metrics {{ status prometheus; access_log off; }} }}"
    );
    let proxy = Proxy::start(&config);
    get(&proxy, "/one", 204);
    assert!(receive(&server).ends_with("/one"));
    drop(server);
    get(&proxy, "/lost", 204);
    get(&proxy, "/lost", 204);
    wait_for("the first is counted", || lost_lines(&proxy) == 1);
    let server = UdpSocket::bind(addr).unwrap();
    server.set_read_timeout(Some(TIMEOUT)).unwrap();
    get(&proxy, "/back", 204);
    assert!(receive(&server).ends_with("/back"));
    wait_for("the second is counted", || lost_lines(&proxy) == 2);
}

/// A server that does not read delays no request.
#[test]
fn a_syslog_server_that_is_stuck() {
    const REQUESTS: usize = 2000;
    let dir = TempDir::new();
    let server = unix_server(&dir);
    let proxy = Proxy::start(&unix_config(&dir));
    let mut client = Client::connect(proxy.addr);
    for number in 0..REQUESTS {
        let request = format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n");
        client.request(request.as_bytes(), 204).unwrap_or_else(|why| panic!("{why}"));
    }
    server.set_nonblocking(true).unwrap();
    let mut received = 0;
    let mut buffer = [0; 4096];
    wait_for("every line is received or counted", || {
        while server.recv(&mut buffer).is_ok() {
            received += 1;
        }
        lost_lines(&proxy) as usize + received == REQUESTS
    });
    assert!(received < REQUESTS, "none was lost");
}

#[test]
fn names_with_variables() {
    let config = "pid smolgate.pid; error_log error.log notice; log_format uri $uri;
        map $arg_a $directory { default logs/a; other logs/b; none nowhere; climbs ../logs; }
        access_log logs/$arg_name.log uri;
        server { listen LISTEN; location / { return 204; }
            location /map { access_log $directory/map.log uri; return 204; }
            location ~ ^/capture/(?<name>.+)$ { access_log logs/$name.log uri; return 204; }
            location /set { set $file $arg_a; access_log logs/$file/x.log uri; return 204; }
            location /metrics { status prometheus; access_log off; } }";
    let proxy = Proxy::start_in_shell(
        config,
        "umask 0; mkdir -p \"$2/logs/a\" \"$2/logs/b\" \"$2/logs/one\"; exec \"$0\" \"$@\"",
    );
    let wait_for_line = |file: &str, line: &str| {
        wait_for(&format!("{line} in {file}"), || proxy.dir.lines(file).iter().any(|known| known == line));
    };
    for (target, file, line) in [
        ("/1?name=one", "logs/one.log", "/1"),
        ("/2?name=one", "logs/one.log", "/2"),
        ("/3", "logs/.log", "/3"),
        ("/map", "logs/a/map.log", "/map"),
        ("/map?a=other", "logs/b/map.log", "/map"),
        // What the configuration assigns may lead to subdirectories.
        ("/capture/one/two", "logs/one/two.log", "/capture/one/two"),
    ] {
        get(&proxy, target, 204);
        wait_for_line(file, line);
    }
    assert_eq!(proxy.dir.lines("logs/one.log"), ["/1", "/2"]);
    assert_eq!(lost_lines(&proxy), 0);
    // Clients can't choose another directory.
    for (number, target) in
        ["/?name=../out", "/?name=one/x", "/set?a=../out", "/set?a=..", "/map?a=climbs", "/map?a=none"]
            .iter()
            .enumerate()
    {
        get(&proxy, target, 204);
        wait_for(target, || lost_lines(&proxy) == number as u64 + 1);
    }
    assert!(!proxy.dir.path("out.log").exists() && !proxy.dir.path("logs/one/x.log").exists());
    // A moved file is written to until the files are reopened.
    fs::rename(proxy.dir.path("logs/one.log"), proxy.dir.path("logs/one.log.1")).unwrap();
    proxy.signal("USR1");
    proxy.wait_for_error_line(&["reopened"]).unwrap();
    get(&proxy, "/4?name=one", 204);
    wait_for_line("logs/one.log", "/4");
}

/// Names that clients choose can't fill a directory.
#[test]
fn the_number_of_new_files_is_limited() {
    const CREATED_FILES_MAX: usize = 1024;
    let config = "pid smolgate.pid; error_log error.log notice; log_format uri $uri; access_log logs/$host uri;
        server { listen LISTEN; keepalive_requests 10000; location / { return 204; } location /metrics { status prometheus; access_log off; } }";
    let proxy = Proxy::start_in_shell(config, "mkdir -m 777 \"$2/logs\"; exec \"$0\" \"$@\"");
    let mut client = Client::connect(proxy.addr);
    let mut get = |number: usize| {
        let request = format!("GET /{number} HTTP/1.1\r\nHost: h{number}\r\n\r\n");
        client.request(request.as_bytes(), 204).unwrap_or_else(|why| panic!("{why}"));
    };
    (0..CREATED_FILES_MAX + 10).for_each(&mut get);
    wait_for("further lines are lost", || lost_lines(&proxy) == 10);
    // Those that exist are written to; no more than 64 of them are open.
    get(0);
    wait_for("a second line", || proxy.dir.lines("logs/h0").len() == 2);
    assert_eq!(fs::read_dir(proxy.dir.path("logs")).unwrap().count(), CREATED_FILES_MAX);
    assert!(proxy.open_descriptors() < 100, "{}", proxy.open_descriptors());
}

/// A tunnel that outlives the program is logged by the new one.
#[test]
fn targets_survive_a_binary_upgrade() {
    let server = udp_server();
    let peer = Peer::start_echo();
    let config = format!(
        "pid smolgate.pid; error_log error.log notice; log_format uri '$uri $status';
         access_log syslog:server={},tag=old uri; access_log $host.log uri;
         server {{ listen LISTEN; location / {{ proxy_pass http://{}; }} }}",
        server.local_addr().unwrap(),
        peer.addr
    );
    let proxy = Proxy::start(&config);
    let mut client = Client::connect(proxy.addr);
    client.request(&expand(b"GET /ws HTTP/1.1\r\nHost: a\r\n{W}\r\n"), 101).unwrap();
    // The new configuration has neither.
    proxy.write_config(&format!("server {{ listen LISTEN; location / {{ proxy_pass http://{}; }} }}", peer.addr));
    proxy.signal("USR2");
    wait_for("the new binary", || proxy.error_lines().iter().filter(|line| line.contains("listens on")).count() == 2);
    client.send(b"ping");
    assert_eq!(client.read_bytes(4).unwrap(), b"ping");
    drop(client);
    assert!(receive(&server).ends_with(" old: /ws 101"));
    wait_for("the file", || proxy.dir.lines("a.log") == ["/ws 101"]);
}

#[test]
fn invalid_targets() {
    let dir = TempDir::new();
    // A message, and what is expected.
    for (directive, expected) in [
        ("access_log syslog:tag=a;", "no syslog server specified|server=HOST, server=HOST:PORT or server=unix:PATH"),
        ("access_log syslog:server=a,server=b;", "duplicate syslog parameter \"server=b\""),
        ("access_log syslog:server=a,nohostname,nohostname;", "duplicate syslog parameter \"nohostname\""),
        (
            "access_log syslog:server=a,facility=none;",
            "unknown syslog facility \"none\"|user, daemon, local0 to local7",
        ),
        ("access_log syslog:server=a,severity=bad;", "unknown syslog severity \"bad\"|debug, info, notice"),
        ("error_log syslog:server=a,tag=a-b;", "invalid syslog tag \"a-b\"|a word of at most 32 letters"),
        ("error_log syslog:server=a,colour=red;", "unknown syslog parameter \"colour=red\"|server=, facility="),
        ("error_log syslog:server=a:b;", "invalid syslog server \"a:b\"|HOST, HOST:PORT or unix:PATH is expected"),
        ("error_log syslog:server=unix:;", "invalid syslog server \"unix:\""),
        ("error_log memory:32m;", "invalid value \"memory:32m\""),
        ("access_log a.log combined gzip=10;", "invalid value \"gzip=10\""),
        ("access_log $none.log;", "unknown \"none\" variable"),
    ] {
        dir.write("smolgate.conf", format!("{directive} server {{ listen 127.0.0.1:1; return 204; }}"));
        let output = run(&dir, &["-t"], "smolgate.conf");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{directive}: {text}");
        assert!(expected.split('|').all(|part| text.contains(part)), "{directive}: {text}");
        assert!(text.contains("smolgate.conf:1:"), "{text}");
    }
    let host = "error_log syslog:server=none.invalid; server { listen 127.0.0.1:1; return 204; }";
    dir.write("smolgate.conf", host);
    let output = run(&dir, &[], "smolgate.conf");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("host not found in syslog server \"none.invalid\""), "{text}");
    let gzip = "access_log a.log combined gzip=1 buffer=4k flush=1s; server { listen 127.0.0.1:1; return 204; }";
    dir.write("smolgate.conf", gzip);
    let output = run(&dir, &["-t"], "smolgate.conf");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("\"gzip\" is ignored: lines are written uncompressed"), "{text}");
}
