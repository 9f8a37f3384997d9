//! Limits: the rate of requests, requests and tunnels at a time, bytes per second.

use std::time::{Duration, Instant};

use crate::cases::{case, check, run_concurrently};
use crate::client::{Client, expand};
use crate::harness::{Proxy, TIMEOUT, poll_within, wait_for};
use crate::peer::Peer;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Returns the status of a request for `path`, on a connection of its own.
fn status(proxy: &Proxy, path: &str) -> Result<u16, String> {
    let mut client = Client::connect_and_send(proxy.addr, format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
    Ok(client.read_response()?.status)
}

fn statuses<const N: usize>(proxy: &Proxy, paths: [&str; N]) -> Result<[u16; N], String> {
    let mut all = [0; N];
    for (one, path) in all.iter_mut().zip(paths) {
        *one = status(proxy, path)?;
    }
    Ok(all)
}

fn expect<const N: usize>(proxy: &Proxy, paths: [&str; N], expected: [u16; N]) -> Result<(), String> {
    let got = statuses(proxy, paths)?;
    check(got == expected, || format!("{paths:?}: {got:?} instead of {expected:?}"))
}

#[test]
fn limit_req() {
    let config = "limit_req_zone $arg_a zone=a:1m rate=1r/m;
        limit_req_zone $arg_b zone=b:1m rate=1r/m;
        limit_req_zone $arg_c zone=c:1m rate=1r/m;
        limit_req_zone $arg_d zone=d:1m rate=1r/m;
        limit_req_zone $arg_e zone=e:1m rate=1r/m;
        add_header X-Status \"$limit_req_status\" always;
        server { listen LISTEN;
            location / { limit_req zone=a burst=2 nodelay; error_page 404 =200 @ok; }
            location /both { limit_req zone=b; limit_req zone=c burst=3 nodelay; limit_req_status 429; error_page 404 =200 @ok; }
            location /dry { limit_req zone=d; limit_req_dry_run on; error_page 404 =200 @ok; }
            location /page { limit_req zone=e; limit_req_status 420; error_page 420 =200 @ok; error_page 404 = @inner; }
            location @inner { limit_req zone=e; return 201; }
            location @ok { return 200 \"$limit_req_status\"; } }";
    let proxy = Proxy::start(config);
    let body = |path: &str| {
        let mut client =
            Client::connect_and_send(proxy.addr, format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        client.read_response().map(|response| String::from_utf8_lossy(&response.body).into_owned())
    };
    let cases = vec![
        case("a burst, and no more", || expect(&proxy, ["/?a=1", "/?a=1", "/?a=1", "/?a=1"], [200, 200, 200, 503])),
        case("keys are independent", || expect(&proxy, ["/?a=2", "/?a=3"], [200, 200])),
        case("no key, no limit", || expect(&proxy, ["/", "/", "/", "/", "/?a="], [200; 5])),
        case("a request that one bucket rejects does not count for the others", || {
            expect(&proxy, ["/both?b=1&c=1", "/both?b=1&c=1", "/both?b=1&c=1", "/both?c=1"], [200, 429, 429, 200])?;
            expect(&proxy, ["/both?b=2&c=1", "/both?b=3&c=1", "/both?b=4&c=1"], [200, 200, 429])
        }),
        case("a dry run rejects nothing", || {
            expect(&proxy, ["/dry?d=1"], [200])?;
            let response = body("/dry?d=1")?;
            check(response == "REJECTED_DRY_RUN", || response)?;
            // The excess has decreased since the first request.
            proxy.wait_for_error_line(&[
                "[error]",
                "limiting requests, dry run, excess: ",
                " by zone \"d\", client: 127.0.0.1",
            ])
        }),
        case("a request counts once, also after internal redirects", || {
            expect(&proxy, ["/page?e=1"], [201])?;
            let response = body("/page?e=1")?;
            check(response == "REJECTED", || response)
        }),
    ];
    run_concurrently(cases);
    proxy.wait_for_error_line(&["[error]", "limiting requests, excess: ", " by zone \"a\""]).unwrap();
}

/// A subrequest of `auth_request` does not count.
#[test]
fn subrequests_do_not_count() {
    let config = "limit_req_zone $binary_remote_addr zone=a:1m rate=1r/m;
        limit_conn_zone $binary_remote_addr zone=b:1m;
        set_real_ip_from 127.0.0.1; set_real_ip_from 192.0.2.0/24;
        server { listen LISTEN; limit_req zone=a; limit_conn b 1;
            location / { auth_request /auth; auth_request_set $from $realip_remote_addr; error_page 404 =200 @ok; }
            location /auth { internal; error_page 404 =204 @none; }
            location @none { return 204; } location @ok { return 200 \"$limit_req_status $limit_conn_status $from\"; } }";
    let proxy = Proxy::start(config);
    let mut client = Client::connect(proxy.addr);
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nX-Real-IP: 192.0.2.1\r\n\r\n";
    let response = client.request(request, 200).unwrap();
    assert_eq!(String::from_utf8_lossy(&response.body), "PASSED PASSED 127.0.0.1");
    client.request(request, 503).unwrap();
}

#[test]
fn limit_req_delays() {
    let config = "limit_req_zone $arg_a zone=a:1m rate=1r/s;
        limit_req_zone $arg_b zone=b:1m rate=1r/m;
        limit_req_log_level notice;
        log_format short '$arg_b $status $limit_req_status'; access_log access.log short;
        error_log error.log info; pid smolgate.pid;
        server { listen LISTEN; error_page 404 =200 @ok;
            location / { limit_req zone=a burst=2; }
            location /delay { limit_req zone=b burst=5 delay=1; }
            location @ok { return 200 \"$limit_req_status\"; } }";
    let proxy = Proxy::start(config);
    let cases = vec![
        case("until there is room in the bucket", || {
            let began = Instant::now();
            let mut clients: Vec<Client> = (0..3).map(|_| Client::connect(proxy.addr)).collect();
            for client in &mut clients {
                client.send(b"GET /?a=1 HTTP/1.1\r\nHost: a\r\n\r\n");
            }
            let bodies: Result<Vec<_>, _> =
                clients.iter_mut().map(|client| client.expect_status(200).map(|r| r.body)).collect();
            let mut bodies = bodies?;
            bodies.sort();
            check(bodies == [&b"DELAYED"[..], b"DELAYED", b"PASSED"], || format!("{bodies:?}"))?;
            let took = began.elapsed();
            check((1950..20_000).contains(&took.as_millis()), || format!("{took:?}"))?;
            proxy.wait_for_error_line(&["[info]", "delaying request, excess: ", "by zone \"a\""])
        }),
        case("not before delay=, and not for ever", || {
            expect(&proxy, ["/delay?b=1", "/delay?b=1"], [200, 200])?;
            let client = Client::connect_and_send(proxy.addr, b"GET /delay?b=1 HTTP/1.1\r\nHost: a\r\n\r\n");
            proxy.wait_for_error_line(&["delaying request, excess: ", "by zone \"b\""])?;
            drop(client);
            proxy.wait_for_access_line(&["1 499 DELAYED"])
        }),
    ];
    run_concurrently(cases);
}

#[test]
fn limit_conn() {
    let peer = Peer::start(|connection| {
        while let Some(request) = connection.read_request() {
            if !request.target().starts_with("/quick") {
                while connection.read() {}
                return;
            }
            connection.respond(&request, "quick");
        }
    });
    let config = "limit_conn_zone $arg_a zone=a:1m;
        limit_conn_zone $arg_b zone=b:1m;
        limit_conn_log_level warn;
        server { listen LISTEN; proxy_set_header Host up; add_header X-Status \"$limit_conn_status\" always;
            location / { limit_conn a 2; limit_conn b 1; proxy_pass http://PEER/; }
            location /other { limit_conn a 1; limit_conn_status 429; }
            location /dry { limit_conn a 1; limit_conn_dry_run on; error_page 404 =200 @ok; }
            location @ok { return 200 ok; } }";
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    let waiting = |query: &str| {
        let before = peer.connections();
        let client =
            Client::connect_and_send(proxy.addr, format!("GET /?{query} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        wait_for("the upstream has the request", || peer.connections() > before);
        client
    };
    let (first, second) = (waiting("a=1"), waiting("a=1&b=1"));
    expect(&proxy, ["/?a=1", "/other?a=1", "/dry?a=1", "/?b=1", "/quick?a=2"], [503, 429, 200, 503, 200]).unwrap();
    proxy.wait_for_error_line(&["[warn]", "limiting connections by zone \"a\", client: 127.0.0.1"]).unwrap();
    proxy.wait_for_error_line(&["[warn]", "limiting connections, dry run by zone \"a\""]).unwrap();
    // A request that b rejects does not count for a. A client that goes away makes room.
    drop(second);
    wait_for("there is room", || status(&proxy, "/quick?a=1&b=1") == Ok(200));
    drop(first);
    wait_for("there is more room", || status(&proxy, "/other?a=1") == Ok(404));
}

/// A tunnel counts until it is closed, not only until the 101.
#[test]
fn tunnels_count_until_they_are_closed() {
    let peer = Peer::start_echo();
    let config = "limit_conn_zone $binary_remote_addr zone=a:1m;
        server { listen LISTEN; location / { limit_conn a 1; proxy_pass http://PEER; } }";
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    let open = expand(b"GET /ws101 HTTP/1.1\r\nHost: a\r\n{W}\r\n");
    let mut tunnel = Client::connect_and_send(proxy.addr, &open);
    tunnel.expect_status(101).unwrap();
    Client::connect_and_send(proxy.addr, &open).expect_status(503).unwrap();
    drop(tunnel);
    wait_for("there is room", || {
        let mut client = Client::connect_and_send(proxy.addr, &open);
        client.read_response().is_ok_and(|response| response.status == 101)
    });
}

#[test]
fn zones_survive_a_reload() {
    let config = |extra: &str| {
        format!(
            "limit_req_zone $arg_a zone=a:1m rate=1r/m; limit_req_zone $arg_b zone=b:{extra} rate=1r/m;
             server {{ listen LISTEN; location / {{ limit_req zone=a; limit_req zone=b; error_page 404 =200 @ok; }}
                location @ok {{ return 200 {extra}; }} }}"
        )
    };
    let proxy = Proxy::start(&config("1m"));
    expect(&proxy, ["/?a=1", "/?a=1", "/?b=1", "/?b=1"], [200, 503, 200, 503]).unwrap();
    proxy.write_config(&config("2m"));
    proxy.signal("HUP");
    proxy.wait_for_error_line(&["configuration reloaded"]).unwrap();
    // A zone of the same size keeps its state; one of another size is new.
    expect(&proxy, ["/?a=1", "/?b=1", "/?b=1"], [503, 200, 503]).unwrap();
}

/// Returns how long a request takes, and the body of its response.
fn timed(proxy: &Proxy, path: &str) -> Result<(u128, Vec<u8>), String> {
    let began = Instant::now();
    let mut client = Client::connect_and_send(proxy.addr, format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
    let body = client.expect_status(200)?.body;
    Ok((began.elapsed().as_millis(), body))
}

#[test]
fn limit_rate() {
    let peer =
        Peer::start_responding([&b"HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n"[..], &[b'x'; 30000]].concat());
    let chunks = [format!("3000\r\n{}\r\n", "x".repeat(0x3000)).repeat(3), "0\r\n\r\n".to_owned()].concat();
    let chunked = format!("HTTP/1.1 200 OK\r\nX-Rate: 16k\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
    let other = Peer::start_responding(chunked.into_bytes());
    let config = "server { listen LISTEN; root DIRECTORY;
            location /slow { limit_rate 12k; limit_rate_after 256; alias DIRECTORY/big; }
            location /small { limit_rate 4k; alias DIRECTORY/small; }
            location /asked { limit_rate $arg_rate; limit_rate_after $arg_after; alias DIRECTORY/big; }
            location /set { set $limit_rate $arg_rate; alias DIRECTORY/big; }
            location /off { limit_rate 1; set $limit_rate 0; alias DIRECTORY/big; }
            location /passed { limit_rate 12k; proxy_pass http://PEER; }
            location /upstream { proxy_limit_rate $upstream_http_x_rate; proxy_pass http://THEOTHER; } }";
    let dir = crate::harness::TempDir::new();
    dir.write("big", [b'x'; 30000]);
    dir.write("small", [b'x'; 10000]);
    let config = config.replace("DIRECTORY", dir.path("").to_str().unwrap().trim_end_matches('/'));
    let proxy = Proxy::start_with_peers(&config, &[("PEER", &peer), ("THEOTHER", &other)]);
    let slow = |path: &'static str, len: usize| {
        let proxy = &proxy;
        case(path, move || {
            let (took, body) = timed(proxy, path)?;
            check(body == vec![b'x'; len], || format!("{} bytes came", body.len()))?;
            check((1000..20_000).contains(&took), || format!("it took {took} ms"))
        })
    };
    let fast = |path: &'static str| {
        let proxy = &proxy;
        case(path, move || {
            let (took, body) = timed(proxy, path)?;
            check(body.len() == 30000 && took < 1000, || format!("{} bytes took {took} ms", body.len()))
        })
    };
    run_concurrently(vec![
        slow("/slow", 30000),
        slow("/small", 10000),
        slow("/asked?rate=12k", 30000),
        slow("/set?rate=12k", 30000),
        slow("/passed", 30000),
        slow("/upstream", 0x9000),
        fast("/asked"),
        fast("/asked?rate=12k&after=40k"),
        fast("/off"),
        fast("/set?rate=much"),
    ]);
    proxy.wait_for_error_line(&["invalid size \"much\""]).unwrap();
}

/// A slow response ends when its client goes away.
#[test]
fn a_slow_response_ends_with_its_client() {
    let peer =
        Peer::start_responding([&b"HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n"[..], &[b'x'; 30000]].concat());
    let config = "server { listen LISTEN; location / { limit_rate 1k; proxy_pass http://PEER; } }";
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    let mut client = Client::connect_and_send(proxy.addr, GET);
    client.read_bytes(100).unwrap();
    let descriptors = proxy.open_descriptors();
    drop(client);
    let gone = poll_within(TIMEOUT, || (proxy.open_descriptors() < descriptors).then_some(()));
    assert!(gone.is_some(), "the connection is still there after {TIMEOUT:?}");
}

#[test]
fn client_body_min_rate() {
    let peer = Peer::start(|connection| connection.read_to_end());
    let config = "server { listen LISTEN; client_body_min_rate 100; location / { proxy_pass http://PEER; } }";
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    let mut client =
        Client::connect_and_send(proxy.addr, b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n");
    client.stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let began = Instant::now();
    while client.stream.peek(&mut [0]).is_err() {
        assert!(began.elapsed() < 2 * TIMEOUT, "the connection stays open");
        client.send(b"x");
    }
    assert!(began.elapsed() >= Duration::from_secs(29), "{:?}", began.elapsed());
    client.expect_status(408).unwrap();
    proxy.wait_for_error_line(&["[info]", "more slowly than \"client_body_min_rate\"", "PUT / "]).unwrap();
    peer.expect_all_closed().unwrap();
}

#[test]
fn invalid_values() {
    for (config, why) in [
        ("limit_req_zone $arg_a zone=a:1m rate=1r/m; server { limit_req zone=b; }", "unknown zone \"b\""),
        ("limit_req_zone $arg_a zone=a:1m rate=1r/m; server { limit_conn a 1; }", "unknown zone \"a\""),
        ("limit_req_zone $arg_a zone=a:1k rate=1r/m; server { }", "invalid value \"zone=a:1k\""),
        ("limit_req_zone $arg_a zone=a:1m rate=1; server { }", "invalid value \"rate=1\""),
        ("limit_req_zone $arg_a zone=a:1m rate=1r/s; limit_conn_zone $arg_a zone=a:1m; server { }", "duplicate zone"),
        ("limit_conn_zone $arg_a zone=a:1m; server { limit_conn a 0; }", "invalid value \"0\""),
        (
            "limit_conn_zone $arg_a zone=a:1m; server { limit_conn a 1; limit_conn a 2; }",
            "already has a limit with this zone",
        ),
        ("server { limit_req_status 200; }", "invalid value \"200\""),
        ("server { limit_rate fast; }", "invalid value \"fast\""),
        ("server { client_body_min_rate 1g; }", "invalid value \"1g\""),
    ] {
        let dir = crate::harness::TempDir::new();
        dir.write("smolgate.conf", config);
        let output = crate::harness::run(&dir, &["-t"], "smolgate.conf");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && stderr.contains(why), "{config}: {stderr}");
    }
}
