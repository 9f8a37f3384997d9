//! Answers that their clients take slowly: the request is over but for what is left to be sent, and nobody sees that.

use std::fs;
use std::io::Read;

use crate::client::Client;
use crate::files::put;
use crate::harness::{Gate, PATIENCE, wait_for};
use crate::response_rows::request;
use crate::rows::{case, check, same, verify_at_once};

/// More than the sockets of both sides hold.
const BIG: usize = 16 << 20;

/// Logs with what is known only at the end.
const LOGS: &str = "error_log error.log info; pid gate.pid;
    log_format end '$request_uri $status $body_bytes_sent $request_completion $connection_requests $sent_http_last_modified';
    access_log access.log end;";

fn big() -> Vec<u8> {
    (0..BIG as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn start(config: &str) -> Gate {
    let gate = Gate::start(&format!("{LOGS} {config}"));
    put(&gate.folder, "www/big", big());
    put(&gate.folder, "www/small", "small");
    gate
}

/// Asks, and waits until the answer comes; but reads nothing of it.
fn slow(gate: &Gate, asked: &str) -> Client {
    let client = Client::asking(gate.addr, request(asked).as_bytes());
    client.stream.peek(&mut [0; 12]).unwrap();
    client
}

#[test]
fn slow_readers() {
    let gate = start(
        "limit_conn_zone $uri zone=one:1m;
        server { listen LISTEN; root www;
            location /stuck { alias www/big; send_timeout 1s; }
            location /reset { alias www/big; send_timeout 1s; reset_timedout_connection on; }
            location /held { alias www/big; limit_conn one 1; }
            location /chunks { alias www/big; add_trailer X-End there; }
            location /last { alias www/big; keepalive_requests 1; }
        }",
    );
    let whole = &big();
    let logs = |line: &str| {
        wait_for(line, || {
            gate.access().iter().any(|known| known.strip_suffix(" Tue, 14 Nov 2023 22:13:20 GMT") == Some(line))
        });
        Ok(())
    };
    verify_at_once(vec![
        case("the connection goes on", || {
            let mut client = slow(&gate, "/big?1");
            client.send(request("/small").as_bytes());
            same("the client", &client.expect(200)?.body, whole)?;
            same("the client", &client.expect(200)?.body, b"small")?;
            same("the client", &client.ask(request("/big?3").as_bytes(), 200)?.body, whole)?;
            same("the client", &client.ask(request("/small").as_bytes(), 200)?.body, b"small")?;
            logs("/big?1 200 16777216 OK 1")?;
            logs("/big?3 200 16777216 OK 3")
        }),
        case("or not", || {
            let mut client = slow(&gate, "/big?last\nConnection: close");
            same("the client", &client.expect(200)?.body, whole)?;
            client.expect_end()?;
            let mut client = slow(&gate, "/last");
            let reply = client.expect(200)?;
            check(reply.closes() && reply.body == *whole, || reply.head)?;
            client.expect_end()?;
            logs("/last 200 16777216 OK 1")
        }),
        case("a client that takes nothing", || {
            let mut client = slow(&gate, "/stuck");
            gate.wait_for_error(&[
                "client timed out",
                "while sending to it, client: 127.0.0.1",
                "\"GET /stuck HTTP/1.1\"",
            ])?;
            wait_for("a line", || {
                gate.access().iter().any(|line| line.starts_with("/stuck 200 ") && line.contains("  1 "))
            });
            check(client.rest()?.len() < BIG, || "all of it came".to_owned())
        }),
        case("a client that takes nothing, and is reset", || {
            let mut client = slow(&gate, "/reset");
            gate.wait_for_error(&["client timed out", "\"GET /reset HTTP/1.1\""])?;
            let reset = "the connection was reset".to_owned();
            check(client.rest() == Err(reset), || "it was not".to_owned())
        }),
        case("a client that goes", || {
            drop(slow(&gate, "/big?gone"));
            gate.wait_for_access(&["/big?gone 200 ", "  1 "])
        }),
        case("limits hold to the end", || {
            let mut client = slow(&gate, "/held");
            Client::connect(gate.addr).ask(request("/held").as_bytes(), 503)?;
            same("the client", &client.expect(200)?.body, whole)?;
            wait_for("room for another", || {
                Client::connect(gate.addr).ask(request("/held\nRange: bytes=0-0").as_bytes(), 206).is_ok()
            });
            Ok(())
        }),
        case("parts", || {
            let mut client = slow(&gate, "/big?parts\nRange: bytes=0-7999999, 8000001-16777215");
            let body = client.expect(206)?.body;
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
            let mut client = slow(&gate, "/chunks");
            client.head()?;
            same("the size", &client.until(b"\r\n")?, b"1000000\r\n")?;
            same("the client", &client.take(BIG)?, whole)?;
            same("the end", &client.until(b"\r\n\r\n")?, b"\r\n0\r\nX-End: there\r\n\r\n")
        }),
    ]);
}

#[test]
fn what_a_choice_is_made_by_is_known() {
    let gate = Gate::start(
        "error_log error.log info; pid gate.pid;
        map $request_completion $whole { OK whole; default broken; }
        map $body_bytes_sent $some { 0 \"\"; default 1; }
        log_format end '$request_uri $whole';
        server { listen LISTEN; root www; access_log access.log end if=$some; }",
    );
    put(&gate.folder, "www/big", big());
    assert_eq!(slow(&gate, "/big").expect(200).unwrap().body.len(), BIG);
    // Something of the file has come, or there is no line.
    let mut gone = slow(&gate, "/big?gone");
    gone.head().unwrap();
    gone.take(1).unwrap();
    drop(gone);
    wait_for("both lines", || gate.access() == ["/big whole", "/big?gone broken"]);
}

#[test]
fn slow_readers_are_counted_and_waited_for() {
    let config = "worker_processes 1; server { listen LISTEN; root www; location /now { stub_status; } }";
    let mut gate = start(config);
    let mut client = slow(&gate, "/big");
    let numbers = || Client::connect(gate.addr).ask(request("/now").as_bytes(), 200).unwrap().body;
    wait_for("it is counted", || String::from_utf8_lossy(&numbers()).contains("Active connections: 2 "));
    assert!(String::from_utf8_lossy(&numbers()).contains("Reading: 0 Writing: 2 Waiting: 0"));
    gate.rewrite("worker_processes 1; server { listen LISTEN; root www; location /small { return 200 reloaded; } }");
    gate.signal("HUP");
    let ask = || Client::connect(gate.addr).ask(request("/small").as_bytes(), 200).unwrap().body;
    wait_for("the new configuration is in force", || ask() == b"reloaded");
    let mut buf = [0; 1 << 16];
    client.stream.read_exact(&mut buf).unwrap();
    client.send(request("/small").as_bytes());
    let mut other = slow(&gate, "/big");
    let mut rest = vec![0; BIG];
    let head = String::from_utf8_lossy(&buf).find("\r\n\r\n").unwrap() + 4;
    let left = BIG + head - buf.len();
    client.stream.read_exact(&mut rest[..left]).unwrap();
    assert!(big().ends_with(&rest[..left]));
    assert_eq!(client.expect(200).unwrap().body, b"reloaded", "what follows is served as it is configured now");
    gate.signal("QUIT");
    wait_for("it listens no more", || std::net::TcpStream::connect(gate.addr).is_err());
    assert!(gate.is_running());
    assert_eq!(other.expect(200).unwrap().body.len(), BIG);
    other.expect_end().unwrap();
    assert_eq!(gate.ends_within(PATIENCE), Some(0));
    assert!(fs::read_to_string(gate.folder.path("access.log")).unwrap().contains("/big 200 16777216 OK 1"));
}

#[test]
fn a_slow_reader_holds_little() {
    const READERS: u64 = 200;
    let gate = start("worker_processes 1; server { listen LISTEN; root www; }");
    let held: Vec<Client> = (0..READERS / 10).map(|_| slow(&gate, "/big")).collect();
    drop(held);
    let before = gate.resident_kib();
    let held: Vec<Client> = (0..READERS).map(|_| slow(&gate, "/big")).collect();
    let each = gate.resident_kib().saturating_sub(before) * 1024 / held.len() as u64;
    assert!(each < 4096, "{each} bytes each");
}
