//! The logs: escaping, full disks, rotation, variables.

use crate::cases::{case, check, run_concurrently};
use crate::client::Client;
use crate::harness::{Proxy, wait_for};
use crate::peer::Peer;

#[test]
fn values_are_escaped() {
    let config = "log_format json escape=json '{\"uri\":\"$request_uri\",\"agent\":\"$http_user_agent\"}';
        error_log error.log info; pid smolgate.pid; access_log access.log; access_log json.log json;
        server { listen LISTEN; return 204; }";
    let proxy = Proxy::start(config);
    let ask = |request: &[u8], status: u16| Client::connect(proxy.addr).request(request, status).map(drop);
    let lines = |file: &str| proxy.dir.lines(file);
    let cases = vec![
        case("in the target", || {
            ask(b"GET /\x1b[2Jq01 HTTP/1.1\r\nHost: a\r\n\r\n", 400)?;
            proxy.wait_for_access_line(&["\"GET /\\x1B[2Jq01 HTTP/1.1\" 400 "])?;
            proxy.wait_for_error_line(&["[info]", "GET /\\x1B[2Jq01"])
        }),
        case("in a header", || {
            ask(b"GET /q01c HTTP/1.1\r\nHost: a\r\nUser-Agent: \x1b]0;x\x07\"\r\n\r\n", 400)?;
            proxy.wait_for_access_line(&["/q01c HTTP/1.1\" 400 "])?;
            ask(b"GET /q01d HTTP/1.1\r\nHost: a\r\nUser-Agent: a\"b\\\xff\r\n\r\n", 204)?;
            proxy.wait_for_access_line(&["/q01d HTTP/1.1\" 204 ", "\"a\\x22b\\x5C\\xFF\""])
        }),
        case("line ends", || {
            let two =
                b"GET /%0d%0a127.0.0.1 HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\n127.0.0.1 - - \"GET /fake\"\r\n\r\n";
            ask(two, 400)?;
            ask(b"GET /q02%0d%0a127.0.0.1 HTTP/1.1\r\nHost: a\r\nUser-Agent: x%0d%0ay\r\n\r\n", 204)?;
            proxy.wait_for_access_line(&["\"GET /q02%0d%0a127.0.0.1 HTTP/1.1\" 204 ", "\"x%0d%0ay\""])?;
            let fake = |line: &String| line.starts_with("127.0.0.1 - - \"GET /fake");
            check(!proxy.access_lines().iter().any(fake) && !proxy.error_lines().iter().any(fake), || {
                "a client forged a line".to_owned()
            })
        }),
        case("JSON", || {
            ask(b"GET /q04\"\\ HTTP/1.1\r\nHost: a\r\nUser-Agent: t\tb\xff\"\\\r\n\r\n", 204)?;
            proxy.wait_for_access_line(&["/q04"])?;
            let line = lines("json.log").into_iter().find(|line| line.contains("q04")).unwrap_or_default();
            let expected = "{\"uri\":\"/q04\\\"\\\\\",\"agent\":\"t\\tb\u{fffd}\\\"\\\\\"}";
            check(line == expected, || format!("{line} instead of {expected}"))
        }),
    ];
    run_concurrently(cases);
    for line in proxy.access_lines().iter().chain(&proxy.error_lines()).chain(&lines("json.log")) {
        assert!(line.bytes().all(|b| b >= b' ' && b != 0x7f), "control bytes in {line:?}");
    }
    assert_eq!(proxy.access_lines().len(), 6, "{:?}", proxy.access_lines());
}

/// Characters that change the direction of text are escaped, and long values are truncated.
#[test]
fn invisible_and_long_values() {
    let proxy = Proxy::start("server { listen LISTEN; location / { root .; } }");
    let mut client = Client::connect(proxy.addr);
    client.request(b"GET /q01%E2%80%AEgpj.exe%E2%80%A8%E2%81%A6 HTTP/1.1\r\nHost: a\r\n\r\n", 404).unwrap();
    proxy.wait_for_error_line(&[r"/q01\u{202e}gpj.exe\u{2028}\u{2066}"]).unwrap();
    let long = format!("GET /long HTTP/1.1\r\nHost: a\r\nUser-Agent: {}\r\n\r\n", "x".repeat(5000));
    client.request(long.as_bytes(), 404).unwrap();
    proxy.wait_for_access_line(&["/long"]).unwrap();
    let line = proxy.access_lines().into_iter().find(|line| line.contains("/long")).unwrap();
    assert!(line.ends_with(&format!("\"-\" \"{}\"", "x".repeat(2048))), "{line}");
}

/// Bytes sent to peers that failed, and trailers.
#[test]
fn attempts_and_trailers() {
    let closing = Peer::start_responding_once(Vec::new());
    let responding = Peer::start_responding_once(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum:  1 \r\nx-sum: 2\r\n\r\n"
            .to_vec(),
    );
    let config =
        "log_format attempts '$upstream_status $upstream_bytes_sent $upstream_trailer_x_sum [$upstream_trailer_none]';
        error_log error.log info; pid smolgate.pid; access_log access.log attempts;
        upstream u { server FIRST max_fails=0; server SECOND; }
        server { listen LISTEN; location / { proxy_pass http://u; } }";
    let proxy = Proxy::start_with_peers(config, &[("FIRST", &closing), ("SECOND", &responding)]);
    Client::connect(proxy.addr).request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200).unwrap();
    proxy.wait_for_access_line(&["502, 200 27, 27 1, 2 [-]"]).unwrap();
}

/// When the disk is full, requests are served, and the loss is reported on standard error.
#[test]
fn full_disks() {
    let config = "error_log /dev/full info; pid smolgate.pid; access_log /dev/full;
        server { listen LISTEN; return 204; }";
    let mut proxy = Proxy::start(config);
    let mut client = Client::connect(proxy.addr);
    for _ in 0..200 {
        client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 204).unwrap_or_else(|why| panic!("{why}"));
    }
    wait_for("the loss is reported", || !proxy.dir.lines("stderr").is_empty());
    let reported = proxy.dir.lines("stderr");
    assert!(reported.len() <= 4 && reported.iter().all(|line| line.contains("/dev/full")), "{reported:?}");
    assert!(proxy.is_running());
}

/// Log files that are moved, deleted, or cannot be reopened.
#[test]
fn rotation() {
    let config = "error_log error.log info; pid smolgate.pid; access_log logs/access.log;
        server { listen LISTEN; return 204; }";
    let proxy = Proxy::start_in_shell(config, "mkdir -m 777 \"$2/logs\"; exec \"$0\" \"$@\"");
    let logs = proxy.dir.path("logs");
    let mut client = Client::connect(proxy.addr);
    let mut ask = |name: &str| {
        client.request(format!("GET /{name} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), 204).unwrap();
    };
    let has = |file: &str, name: &str| proxy.dir.lines(file).iter().any(|line| line.contains(name));
    let reopened = |times: usize| {
        proxy.signal("USR1");
        wait_for("reopened", || proxy.error_lines().iter().filter(|line| line.contains("reopened")).count() >= times);
    };
    ask("one");
    std::fs::rename(logs.join("access.log"), logs.join("access.log.1")).unwrap();
    ask("two");
    wait_for("the old file is used", || has("logs/access.log.1", "/two"));
    reopened(1);
    ask("three");
    wait_for("moved", || has("logs/access.log", "/three"));
    assert!(!has("logs/access.log.1", "/three"));
    std::fs::remove_file(logs.join("access.log")).unwrap();
    reopened(2);
    ask("four");
    wait_for("deleted", || has("logs/access.log", "/four"));
    // Without the directory, the open file stays in use.
    std::fs::rename(&logs, proxy.dir.path("elsewhere")).unwrap();
    proxy.signal("USR1");
    proxy.wait_for_error_line(&["[error]", "access.log", "failed"]).unwrap_or_else(|why| panic!("{why}"));
    ask("five");
    wait_for("the old file stays", || has("elsewhere/access.log", "/five"));
}

/// Logs have the time of the zone that TZ names.
#[test]
fn local_times() {
    let config = "error_log error.log notice; pid smolgate.pid; log_format times '$msec $time_local $time_iso8601';
        access_log access.log times; server { listen LISTEN; return 204; }";
    let proxy = Proxy::start_in_shell(config, "TZ='<+0530>-5:30' exec \"$0\" \"$@\"");
    Client::connect(proxy.addr).request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 204).unwrap();
    proxy.wait_for_access_line(&["+0530", "+05:30"]).unwrap();
    let line = proxy.access_lines().remove(0);
    let mut words = line.split(' ');
    let secs: u64 = words.next().unwrap().split('.').next().unwrap().parse().unwrap();
    let minutes = (secs / 60 + 5 * 60 + 30) % (24 * 60);
    let time = format!(":{:02}:{:02}:{:02}", minutes / 60, minutes % 60, secs % 60);
    assert!(words.next().unwrap().ends_with(&time) && line.contains(&format!("T{}+05:30", &time[1..])), "{line}");
    // The start was less than a minute ago, or the minute before.
    let minute = |minutes: u64| format!(" {:02}:{:02}:", minutes / 60, minutes % 60);
    let started = proxy.error_lines().remove(0);
    assert!((0..3).any(|ago| started.contains(&minute((minutes + 24 * 60 - ago) % (24 * 60)))), "{started}");
}

#[test]
fn pipelined_requests() {
    let proxy = Proxy::start(
        "error_log error.log; pid smolgate.pid; log_format pipe '$uri $pipe'; access_log pipe.log pipe; server { listen LISTEN; return 204; }",
    );
    let mut client =
        Client::connect_and_send(proxy.addr, b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n");
    client.read_response().unwrap();
    client.read_response().unwrap();
    client.request(b"GET /c HTTP/1.1\r\nHost: a\r\n\r\n", 204).unwrap();
    wait_for("three lines", || proxy.dir.lines("pipe.log").len() == 3);
    assert_eq!(proxy.dir.lines("pipe.log"), ["/a .", "/b p", "/c ."]);
}

/// `-` stands for a missing value, not for an empty one.
#[test]
fn missing_and_empty_values() {
    let config =
        "error_log error.log; pid smolgate.pid; map $http_none $map { default \"\"; } geo $geo { default \"\"; }
        log_format all '$uri [$map$geo$set$is_args$https] [$args] [$http_none] [$arg_none] [$remote_user]';
        access_log all.log all;
        server { listen LISTEN; set $set \"\"; return 204; }";
    let proxy = Proxy::start(config);
    Client::connect(proxy.addr).request(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n", 204).unwrap();
    wait_for("a line", || proxy.dir.lines("all.log") == ["/a [] [-] [-] [-] [-]"]);
}
