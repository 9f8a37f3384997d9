//! The address of a client: headers of proxies in front (`set_real_ip_from`), and the PROXY protocol.

use std::io::Write;
use std::time::Instant;

use crate::cases::{case, check, check_equal, run_concurrently};
use crate::client::{Client, expand};
use crate::harness::{ABOUT_A_SECOND, Proxy, wait_for};
use crate::peer::Peer;
use crate::response_rows::run_response_rows;

/// The response of all servers of these tests.
const ADDRESSES: &str = "return 200 \"$remote_addr:$remote_port $realip_remote_addr $proxy_protocol_addr:$proxy_protocol_port \
                    $proxy_protocol_server_addr:$proxy_protocol_server_port\";";

/// Returns the response to a request with these headers, with `PORT` for the port of the connection.
fn request_addresses(proxy: &Proxy, path: &str, headers: &str) -> Result<String, String> {
    let mut client = Client::connect(proxy.addr);
    let port = client.stream.local_addr().unwrap().port();
    let response = client.request(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n").as_bytes(), 200)?;
    Ok(String::from_utf8_lossy(&response.body).replace(&port.to_string(), "PORT"))
}

#[test]
fn addresses_in_headers() {
    // The settings of a location apply behind its `try_files` too.
    let config = "error_log error.log info; pid smolgate.pid;
        log_format addresses '$remote_addr $http_x_forwarded_for'; access_log access.log addresses;
        set_real_ip_from 127.0.0.1; set_real_ip_from 10.0.0.0/8;
        limit_req_zone $binary_remote_addr zone=a:1m rate=1r/m;
        server { listen LISTEN;
            location / { ADDRESSES }
            location /xff { real_ip_header X-Forwarded-For; try_files /none @addresses; }
            location /all { real_ip_header X-Forwarded-For; real_ip_recursive on; try_files /none @addresses; }
            location /limit { limit_req zone=a; try_files /none @addresses; }
            location @addresses { ADDRESSES } }
        server { listen OTHER; set_real_ip_from 10.0.0.0/8;
            location / { real_ip_header X-Forwarded-For; ADDRESSES }
            location /mine { set_real_ip_from 127.0.0.1; try_files /none @addresses; }
            location @addresses { ADDRESSES } }";
    let config = config.replace("ADDRESSES", ADDRESSES);
    let proxy = Proxy::start(&config);
    let unchanged = "127.0.0.1:PORT 127.0.0.1 : :";
    let at = |path: &'static str, headers: &'static str, expected: &'static str| {
        let proxy = &proxy;
        move || {
            let got = request_addresses(proxy, path, headers)?;
            check(got == expected, || format!("{got:?} instead of {expected:?}"))
        }
    };
    let at_other = |path: &str, header: &str, expected: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n");
        let body = Client::connect_and_send(proxy.other, request.as_bytes()).expect_status(200)?.body;
        check(body.starts_with(expected.as_bytes()), || String::from_utf8_lossy(&body).into_owned())
    };
    run_concurrently(vec![
        case("no header", at("/", "", unchanged)),
        case("the default header", at("/", "X-Real-IP: 192.0.2.1\r\n", "192.0.2.1: 127.0.0.1 : :")),
        case("with a port", at("/", "x-real-ip: 192.0.2.1:99\r\n", "192.0.2.1:99 127.0.0.1 : :")),
        case("IPv6", at("/", "X-Real-IP: [2001:DB8::1]:5\r\n", "2001:db8::1:5 127.0.0.1 : :")),
        case("no address", at("/", "X-Real-IP: me\r\n", unchanged)),
        case("another header", at("/", "X-Forwarded-For: 192.0.2.1\r\n", unchanged)),
        case("the last of a list", at("/xff", "X-Forwarded-For: 192.0.2.1, 10.1.1.1\r\n", "10.1.1.1: 127.0.0.1 : :")),
        case(
            "the last that is not trusted, with real_ip_recursive",
            at(
                "/all",
                "X-Forwarded-For: 6.6.6.6, 192.0.2.1\r\nX-Forwarded-For: 10.1.1.1\r\n",
                "192.0.2.1: 127.0.0.1 : :",
            ),
        ),
        case("a location trusts other addresses", || at_other("/mine", "X-Real-IP: 192.0.2.1", "192.0.2.1:")),
        case("a list with an invalid address", || at_other("/", "X-Forwarded-For: evil, 10.0.0.5", "127.0.0.1:")),
        case("limits count the address of the header", || {
            at("/limit", "X-Real-IP: 192.0.2.1\r\n", "192.0.2.1: 127.0.0.1 : :")()?;
            at("/limit", "X-Real-IP: 192.0.2.2\r\n", "192.0.2.2: 127.0.0.1 : :")()?;
            let mut client = Client::connect(proxy.addr);
            client.request(b"GET /limit HTTP/1.1\r\nHost: a\r\nX-Real-IP: 192.0.2.1\r\n\r\n", 503).map(drop)
        }),
        case("each request has its own address", || {
            let mut client = Client::connect(proxy.addr);
            let first = client.request(b"GET / HTTP/1.1\r\nHost: a\r\nX-Real-IP: 192.0.2.1\r\n\r\n", 200)?;
            let second = client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200)?;
            check(first.body.starts_with(b"192.0.2.1:") && second.body.starts_with(b"127.0.0.1:"), || {
                "mixed up".to_owned()
            })
        }),
    ]);
    proxy.wait_for_access_line(&["192.0.2.1 6.6.6.6, 192.0.2.1, 10.1.1.1"]).unwrap();
    proxy.wait_for_error_line(&["limiting requests", "client: 192.0.2.1,"]).unwrap();
}

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2 with the addresses of the line `PROXY TCP4 192.0.2.1 192.0.2.2 123 5678`.
const V2_TCP4: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\0\x7b\x16\x2e";

#[test]
fn tlvs_of_the_proxy_protocol() {
    let proxy = Proxy::start(
        "server { listen LISTEN proxy_protocol;
            return 200 \"$proxy_protocol_tlv_alpn,$proxy_protocol_tlv_0xea,$proxy_protocol_tlv_ssl_version,$proxy_protocol_tlv_netns\"; }",
    );
    let tlvs = b"\x01\0\x02h2\xea\0\x01x\x20\0\x0f\x01\0\0\0\0\x21\0\x07TLSv1.3";
    let addresses = b"\xc0\0\x02\x01\xc0\0\x02\x02\0\x7b\x16\x2e";
    for (tlvs, expected) in [(&tlvs[..], &b"h2,x,TLSv1.3,"[..]), (b"", b",,,")] {
        let rest = [&addresses[..], tlvs].concat();
        let header = [V2, b"\x21\x11\0", &[rest.len() as u8], &rest].concat();
        let mut client =
            Client::connect_and_send(proxy.addr, &[&header[..], b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
        check_equal("the client", &client.expect_status(200).unwrap().body, expected).unwrap();
    }
}

/// Names of newer nginx.
#[test]
fn the_port_of_a_request() {
    let proxy = Proxy::start(
        "server { listen LISTEN; return 200 \"$host$is_request_port$request_port,$http2$http3$tcpinfo_rtt\"; }",
    );
    run_response_rows(
        &proxy,
        &[
            ("a port", "/\nHost: a:81", 200, "=a:81,"),
            ("none", "/\nHost: a", 200, "=a,"),
            ("an empty one", "/\nHost: a:", 200, "=a,"),
            ("zero", "/\nHost: a:0", 200, "=a,"),
            ("of an address", "/\nHost: [::1]:82", 200, "=[::1]:82,"),
            ("of a target", "GET http://b:83/\nHost: a:81", 200, "=b:83,"),
        ],
    );
}

#[test]
fn the_proxy_protocol() {
    let config = format!(
        "client_header_timeout 1s;
         server {{ listen LISTEN proxy_protocol; location / {{ {ADDRESSES} }} location /none {{ return 404; }} }}
         server {{ listen OTHER proxy_protocol; set_real_ip_from 127.0.0.0/8; real_ip_header proxy_protocol; {ADDRESSES} }}"
    );
    let proxy = Proxy::start(&config);
    let get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let is_accepted = |header: &[u8], expected: &str| {
        let mut client = Client::connect(proxy.addr);
        let port = client.stream.local_addr().unwrap().port();
        client.send(&[header, get].concat());
        for _ in 0..2 {
            let body = client.expect_status(200)?.body;
            check_equal("the client", &body, expected.replace("PORT", &port.to_string()).as_bytes())?;
            client.send(get);
        }
        Ok(())
    };
    let is_rejected = |bytes: &[u8], why: &str| {
        let mut client = Client::connect_and_send(proxy.addr, bytes);
        client.shutdown_write();
        let rest = client.read_to_end().unwrap_or_default();
        check(rest.is_empty(), || format!("bytes came: {}", String::from_utf8_lossy(&rest)))?;
        proxy.wait_for_error_line(&["[info]", why, "while reading PROXY protocol, client: 127.0.0.1"])
    };
    let both = "127.0.0.1:PORT 127.0.0.1 192.0.2.1:123 192.0.2.2:5678";
    let neither = "127.0.0.1:PORT 127.0.0.1 : :";
    let tlv = [V2, b"\x21\x11\0\x13\xc0\0\x02\x01\xc0\0\x02\x02\0\x7b\x16\x2e\x04\0\x04abcd"].concat();
    run_concurrently(vec![
        case("version 1", || is_accepted(b"PROXY TCP4 192.0.2.1 192.0.2.2 123 5678\r\n", both)),
        case("version 1, IPv6", || {
            let expected = "127.0.0.1:PORT 127.0.0.1 2001:db8::1:123 2001:db8::2:5678";
            is_accepted(b"PROXY TCP6 2001:Db8::1 2001:Db8::2 123 5678\r\n", expected)
        }),
        case("version 1, unknown", || is_accepted(b"PROXY UNKNOWN\r\n", neither)),
        case("version 2", || is_accepted(V2_TCP4, both)),
        case("version 2 with a TLV", || is_accepted(&tlv, both)),
        case("version 2, local", || is_accepted(&[V2, b"\x20\0\0\0"].concat(), neither)),
        case("byte by byte", || {
            let mut client = Client::connect(proxy.addr);
            for byte in V2_TCP4.iter().chain(get) {
                client.stream.write_all(&[*byte]).unwrap();
            }
            client.expect_status(200).map(drop)
        }),
        case("none", || is_rejected(get, "client sent no PROXY protocol header")),
        case("an invalid one", || is_rejected(b"PROXY TCP4 x\r\n", "client sent an invalid PROXY protocol line")),
        case("half of one", || is_rejected(V2, "client closed connection")),
        case("one that never ends", || {
            let began = Instant::now();
            Client::connect_and_send(proxy.addr, b"PROXY ").expect_eof()?;
            check(ABOUT_A_SECOND.contains(&began.elapsed().as_millis()), || format!("after {:?}", began.elapsed()))?;
            proxy.wait_for_error_line(&["client timed out (110: Connection timed out) while reading PROXY protocol"])
        }),
        case("no bytes at all are not logged", || {
            Client::connect(proxy.addr).shutdown_write();
            Ok(())
        }),
        case("its address is trusted", || {
            let mut client = Client::connect_and_send(proxy.other, &[V2_TCP4, get].concat());
            let body = client.expect_status(200)?.body;
            check_equal("the client", &body, b"192.0.2.1:123 127.0.0.1 192.0.2.1:123 192.0.2.2:5678")
        }),
    ]);
    proxy.wait_for_access_line(&["192.0.2.1 - "]).unwrap();
}

#[test]
fn the_proxy_protocol_of_an_untrusted_address_is_rejected() {
    let config = format!("set_real_ip_from 10.0.0.0/8; server {{ listen LISTEN proxy_protocol; {ADDRESSES} }}");
    let proxy = Proxy::start(&config);
    let mut client = Client::connect_and_send(proxy.addr, &[V2_TCP4, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
    assert_eq!(client.read_to_end().unwrap_or_default(), b"");
    proxy
        .wait_for_error_line(&["[info]", "client is none of \"set_real_ip_from\" while reading PROXY protocol"])
        .unwrap();
}

/// The access log of a tunnel has the client's address of its request.
#[test]
fn tunnels_of_clients_behind_a_proxy() {
    let peer = Peer::start_echo();
    let config = "set_real_ip_from 127.0.0.1; real_ip_header proxy_protocol;
        server { listen LISTEN proxy_protocol; location / { proxy_pass http://PEER;
            proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; } }";
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    let mut tunnel = Client::connect_and_send(
        proxy.addr,
        &[V2_TCP4, &expand(b"GET /ws101 HTTP/1.1\r\nHost: a\r\n{W}\r\n")].concat(),
    );
    tunnel.expect_status(101).unwrap();
    tunnel.send(b"hello");
    assert_eq!(tunnel.read_bytes(5).unwrap(), b"hello");
    drop(tunnel);
    proxy.wait_for_access_line(&["192.0.2.1 - ", "GET /ws101", " 101 "]).unwrap();
    let got = String::from_utf8_lossy(&peer.received()).into_owned();
    assert!(got.contains("X-Real-IP: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.1\r\n"), "{got}");
    wait_for("no errors", || proxy.error_lines().iter().all(|line| !line.contains("[error]")));
}
