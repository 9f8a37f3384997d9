//! Responses to slow readers: the rest is sent by a task of its own, with the same limits, logs and timeouts.

use std::fs;
use std::io::Read;

use crate::cases::{case, check, check_equal, run_concurrently};
use crate::client::Client;
use crate::harness::{Proxy, TIMEOUT, wait_for};
use crate::peer::Peer;
use crate::response_rows::format_request;
use crate::static_files::put;

/// More than the socket buffers of both sides.
const BIG: usize = 16 << 20;

/// A log with variables that are known only at the end.
const LOGS: &str = "error_log error.log info; pid smolgate.pid;
    log_format end '$request_uri $status $body_bytes_sent $request_completion $connection_requests $sent_http_last_modified';
    access_log access.log end;";

fn big() -> Vec<u8> {
    (0..BIG as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn start(config: &str) -> Proxy {
    let proxy = Proxy::start(&format!("{LOGS} {config}"));
    put(&proxy.dir, "www/big", big());
    put(&proxy.dir, "www/small", "small");
    proxy
}

/// Sends a request and waits for the response, but reads nothing of it.
fn slow(proxy: &Proxy, request: &str) -> Client {
    let client = Client::connect_and_send(proxy.addr, format_request(request).as_bytes());
    client.stream.peek(&mut [0; 12]).unwrap();
    client
}

#[test]
fn slow_readers() {
    let proxy = start(
        "limit_conn_zone $uri zone=one:1m;
        server { listen LISTEN; root www;
            location /stuck { alias www/big; send_timeout 1s; }
            location /reset { alias www/big; send_timeout 1s; reset_timedout_connection on; }
            location /limited { alias www/big; limit_conn one 1; }
            location /chunks { alias www/big; add_trailer X-End there; }
            location /last { alias www/big; keepalive_requests 1; }
        }",
    );
    let whole = &big();
    let logs = |line: &str| {
        wait_for(line, || {
            proxy.access_lines().iter().any(|known| known.strip_suffix(" Tue, 14 Nov 2023 22:13:20 GMT") == Some(line))
        });
        Ok(())
    };
    run_concurrently(vec![
        case("keep-alive", || {
            let mut client = slow(&proxy, "/big?1");
            client.send(format_request("/small").as_bytes());
            check_equal("the client", &client.expect_status(200)?.body, whole)?;
            check_equal("the client", &client.expect_status(200)?.body, b"small")?;
            check_equal("the client", &client.request(format_request("/big?3").as_bytes(), 200)?.body, whole)?;
            check_equal("the client", &client.request(format_request("/small").as_bytes(), 200)?.body, b"small")?;
            logs("/big?1 200 16777216 OK 1")?;
            logs("/big?3 200 16777216 OK 3")
        }),
        case("no keep-alive", || {
            let mut client = slow(&proxy, "/big?last\nConnection: close");
            check_equal("the client", &client.expect_status(200)?.body, whole)?;
            client.expect_eof()?;
            let mut client = slow(&proxy, "/last");
            let response = client.expect_status(200)?;
            check(response.closes() && response.body == *whole, || response.head)?;
            client.expect_eof()?;
            logs("/last 200 16777216 OK 1")
        }),
        case("a client that reads nothing", || {
            let mut client = slow(&proxy, "/stuck");
            proxy.wait_for_error_line(&[
                "client timed out",
                "while sending to it, client: 127.0.0.1",
                "\"GET /stuck HTTP/1.1\"",
            ])?;
            wait_for("a line", || {
                proxy.access_lines().iter().any(|line| line.starts_with("/stuck 200 ") && line.contains("  1 "))
            });
            check(client.read_to_end()?.len() < BIG, || "all of it came".to_owned())
        }),
        case("a client that reads nothing, reset_timedout_connection", || {
            let mut client = slow(&proxy, "/reset");
            proxy.wait_for_error_line(&["client timed out", "\"GET /reset HTTP/1.1\""])?;
            let reset = "the connection was reset".to_owned();
            check(client.read_to_end() == Err(reset), || "it was not".to_owned())
        }),
        case("a client that goes away", || {
            drop(slow(&proxy, "/big?gone"));
            proxy.wait_for_access_line(&["/big?gone 200 ", "  1 "])
        }),
        case("limits hold to the end", || {
            let mut client = slow(&proxy, "/limited");
            Client::connect(proxy.addr).request(format_request("/limited").as_bytes(), 503)?;
            check_equal("the client", &client.expect_status(200)?.body, whole)?;
            wait_for("room for another", || {
                Client::connect(proxy.addr)
                    .request(format_request("/limited\nRange: bytes=0-0").as_bytes(), 206)
                    .is_ok()
            });
            Ok(())
        }),
        case("multipart ranges", || {
            let mut client = slow(&proxy, "/big?parts\nRange: bytes=0-7999999, 8000001-16777215");
            let body = client.expect_status(206)?.body;
            let (first, second) = (&whole[..8_000_000], &whole[8_000_001..]);
            check(
                body.windows(4).position(|end| end == b"\r\n\r\n").is_some_and(|at| body[at + 4..].starts_with(first)),
                || "another first part".to_owned(),
            )?;
            let tail = body.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at - 1);
            let end = body[..tail].iter().rposition(|byte| *byte == b'\r').unwrap_or(0);
            check(body[..end].ends_with(second), || "another second part".to_owned())?;
            logs(&format!("/big?parts 206 {} OK 1", body.len()))
        }),
        case("trailers", || {
            let mut client = slow(&proxy, "/chunks");
            client.read_head()?;
            check_equal("the size", &client.read_until(b"\r\n")?, b"1000000\r\n")?;
            check_equal("the client", &client.read_bytes(BIG)?, whole)?;
            check_equal("the end", &client.read_until(b"\r\n\r\n")?, b"\r\n0\r\nX-End: there\r\n\r\n")
        }),
    ]);
}

#[test]
fn the_condition_of_a_log_is_evaluated_at_the_end() {
    let proxy = Proxy::start(
        "error_log error.log info; pid smolgate.pid;
        map $request_completion $whole { OK whole; default broken; }
        map $body_bytes_sent $some { 0 \"\"; default 1; }
        log_format end '$request_uri $whole';
        server { listen LISTEN; root www; access_log access.log end if=$some; }",
    );
    put(&proxy.dir, "www/big", big());
    assert_eq!(slow(&proxy, "/big").expect_status(200).unwrap().body.len(), BIG);
    // Without a byte of the body there is no line.
    let mut gone = slow(&proxy, "/big?gone");
    gone.read_head().unwrap();
    gone.read_bytes(1).unwrap();
    drop(gone);
    wait_for("both lines", || proxy.access_lines() == ["/big whole", "/big?gone broken"]);
}

#[test]
fn slow_readers_are_counted_and_waited_for() {
    let config = "worker_processes 1; server { listen LISTEN; root www; location /now { stub_status; } }";
    let mut proxy = start(config);
    let mut client = slow(&proxy, "/big");
    let numbers = || Client::connect(proxy.addr).request(format_request("/now").as_bytes(), 200).unwrap().body;
    wait_for("it is counted", || String::from_utf8_lossy(&numbers()).contains("Active connections: 2 "));
    assert!(String::from_utf8_lossy(&numbers()).contains("Reading: 0 Writing: 2 Waiting: 0"));
    proxy.write_config(
        "worker_processes 1; server { listen LISTEN; root www; location /small { return 200 reloaded; } }",
    );
    proxy.signal("HUP");
    let ask = || Client::connect(proxy.addr).request(format_request("/small").as_bytes(), 200).unwrap().body;
    wait_for("the new configuration is in force", || ask() == b"reloaded");
    let mut buf = [0; 1 << 16];
    client.stream.read_exact(&mut buf).unwrap();
    client.send(format_request("/small").as_bytes());
    let mut other = slow(&proxy, "/big");
    let mut rest = vec![0; BIG];
    let head = String::from_utf8_lossy(&buf).find("\r\n\r\n").unwrap() + 4;
    let left = BIG + head - buf.len();
    client.stream.read_exact(&mut rest[..left]).unwrap();
    assert!(big().ends_with(&rest[..left]));
    assert_eq!(
        client.expect_status(200).unwrap().body,
        b"reloaded",
        "the next request is served by the new configuration"
    );
    proxy.signal("QUIT");
    wait_for("the listener is closed", || std::net::TcpStream::connect(proxy.addr).is_err());
    assert!(proxy.is_running());
    assert_eq!(other.expect_status(200).unwrap().body.len(), BIG);
    other.expect_eof().unwrap();
    assert_eq!(proxy.exit_code_within(TIMEOUT), Some(0));
    assert!(fs::read_to_string(proxy.dir.path("access.log")).unwrap().contains("/big 200 16777216 OK 1"));
}

#[test]
fn memory_of_slow_readers() {
    const READERS: u64 = 200;
    let proxy = start("worker_processes 1; server { listen LISTEN; root www; }");
    let readers: Vec<Client> = (0..READERS / 10).map(|_| slow(&proxy, "/big")).collect();
    drop(readers);
    let before = proxy.resident_kib();
    let readers: Vec<Client> = (0..READERS).map(|_| slow(&proxy, "/big")).collect();
    let each = proxy.resident_kib().saturating_sub(before) * 1024 / readers.len() as u64;
    assert!(each < 4096, "{each} bytes each");
}

/// A response that ends right behind its head: the client gets the head and then EOF, however early the end is known.
#[test]
fn responses_that_end_behind_their_head() {
    let heads = ["Content-Length: 10", "Transfer-Encoding: chunked"];
    let peers = heads.map(|framing| {
        Peer::start_responding_once(format!("HTTP/1.1 200 OK\r\nX: y\r\n{framing}\r\n\r\n").into_bytes())
    });
    let late = Peer::start(|connection| {
        if connection.read_request().is_some() {
            connection.send(b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 10\r\n\r\n");
            connection.is_quiet();
        }
    });
    let proxy = Proxy::start_with_peers(
        "server { listen LISTEN; location /0 { proxy_pass http://LENGTH; } location /1 { proxy_pass http://CHUNKED; }
            location /2 { proxy_pass http://LATE; } }",
        &[("LENGTH", &peers[0]), ("CHUNKED", &peers[1]), ("LATE", &late)],
    );
    for target in ["/0", "/0", "/0", "/1", "/1", "/1", "/2"] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut client = Client::connect_and_send(proxy.addr, request.as_bytes());
        let head = client.read_head().unwrap_or_else(|why| panic!("{target}: {why}"));
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("\r\nX: y\r\n"), "{target}: {head}");
        client.expect_eof().unwrap_or_else(|why| panic!("{target}: {why}"));
        proxy.wait_for_error_line(&["upstream prematurely closed connection while reading upstream", target]).unwrap();
    }
}
