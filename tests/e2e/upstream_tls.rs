//! TLS of upstream connections.

use std::io::{Read, Write};

use crate::cases::{case, check, check_equal, run_concurrently};
use crate::client::{Client, show};
use crate::harness::{Proxy, TempDir, run};
use crate::peer::{Peer, SWITCHING_PROTOCOLS};
use crate::tls_fixtures::{CertKey, TlsConnector, accept_tls, certificate_authority};

/// Creates a directory with certificates, and their issuer.
fn certificates() -> (TempDir, CertKey) {
    let dir = TempDir::new();
    let ca = certificate_authority("authority");
    ca.issue("up.example").write(&dir, "up");
    ca.issue_with("old.example", |params| params.not_after = rcgen::date_time_ymd(2024, 1, 1)).write(&dir, "old");
    ca.issue("device").write(&dir, "device");
    dir.write("ca.crt", ca.pem());
    dir.write("other.crt", certificate_authority("other").pem());
    (dir, ca)
}

fn start(dir: &TempDir, config: &str, peers: &[(&str, &Peer)]) -> Proxy {
    Proxy::start_with_peers(&config.replace("DIRECTORY", &dir.path("").display().to_string()), peers)
}

/// Starts another proxy as an upstream with TLS.
fn start_upstream(dir: &TempDir, peer: &Peer) -> Proxy {
    let says = "return 200 \"$ssl_protocol,$ssl_server_name,$ssl_client_s_dn,$connection\";";
    let config = format!(
        "ssl_certificate DIRECTORYup.crt; ssl_certificate_key DIRECTORYup.key; client_max_body_size 0;
         server {{ listen LISTEN ssl; ssl_verify_client optional_no_ca;
            location / {{ proxy_pass http://PEER; }} location /says {{ {says} }} }}
         server {{ listen OTHER ssl; ssl_certificate DIRECTORYold.crt; ssl_certificate_key DIRECTORYold.key; {says} }}"
    );
    start(dir, &config, &[("PEER", peer)])
}

fn ask(proxy: &Proxy, target: &str, status: u16) -> Result<String, String> {
    let response =
        Client::connect(proxy.addr).request(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), status)?;
    Ok(String::from_utf8_lossy(&response.body).into_owned())
}

#[test]
fn handshakes() {
    let (dir, _) = certificates();
    let peer = Peer::start_echo();
    let up = start_upstream(&dir, &peer);
    let trusted = "proxy_ssl_trusted_certificate DIRECTORYca.crt; proxy_ssl_verify on;";
    let location = |name: &str, more: &str| format!("location /{name} {{ {more} proxy_pass https://UP/says; }}\n");
    let config = [
        "upstream named { server UP; } server { listen LISTEN;\n".to_owned(),
        location("plainly", ""),
        location("name", "proxy_ssl_name up.example; proxy_ssl_server_name on;"),
        location("unsent", "proxy_ssl_name up.example;"),
        location("made", "proxy_ssl_name $arg_name; proxy_ssl_server_name on;"),
        location("old", "proxy_ssl_protocols TLSv1.2;"),
        location("own", "proxy_ssl_certificate DIRECTORYdevice.crt; proxy_ssl_certificate_key DIRECTORYdevice.key;"),
        "location /inherits { proxy_ssl_certificate DIRECTORYdevice.crt; proxy_ssl_certificate_key DIRECTORYdevice.key;\n".to_owned(),
        location("inherits/one", ""),
        location("inherits/none", "proxy_ssl_certificate \"\";"),
        location("inherits/neither", "proxy_ssl_certificate \"\"; proxy_ssl_certificate_key \"\";"),
        "}\n".to_owned(),
        location("trusted", &format!("proxy_ssl_name up.example; {trusted}")),
        location("misnamed", &format!("proxy_ssl_name down.example; {trusted}")),
        location("distrusted", "proxy_ssl_verify on; proxy_ssl_trusted_certificate DIRECTORYother.crt;"),
        format!("location /expired {{ proxy_ssl_name old.example; {trusted} proxy_pass https://EXPIRED; }}"),
        "location /named { proxy_ssl_server_name on; proxy_pass https://named/says; }".to_owned(),
        "location /variable { set $scheme_there https; proxy_pass $scheme_there://UP/says; }".to_owned(),
        "location /plain { proxy_pass http://UP/; } }".to_owned(),
    ]
    .concat();
    let config = config.replace("UP", &up.addr.to_string()).replace("EXPIRED", &up.other.to_string());
    let proxy = start(&dir, &config, &[]);
    let says = |target: &str, expected: &str| {
        let response = ask(&proxy, target, 200)?;
        check(response.starts_with(expected), || response)
    };
    let fails = |target: &str, why: &str| {
        ask(&proxy, target, 502)?;
        proxy.wait_for_error_line(&["while SSL handshaking to upstream", "upstream: \"https://", why])
    };
    run_concurrently(vec![
        case("by default", || says("/plainly", "TLSv1.3,,,")),
        case("a name", || says("/name", "TLSv1.3,up.example,,")),
        case("a name that is not sent", || says("/unsent", "TLSv1.3,,,")),
        case("a name of a variable", || says("/made?name=x.example", "TLSv1.3,x.example,,")),
        case("an invalid name", || says("/made?name=a%20b", "TLSv1.3,,,")),
        case("the name of an upstream", || says("/named", "TLSv1.3,named,,")),
        case("a scheme of a variable", || says("/variable", "TLSv1.3,,,")),
        case("TLS 1.2", || says("/old", "TLSv1.2,,,")),
        case("a client certificate", || says("/own", "TLSv1.3,,CN=device")),
        case("an inherited certificate", || says("/inherits/one", "TLSv1.3,,CN=device")),
        case("an empty name of a certificate", || says("/inherits/none", "TLSv1.3,,,")),
        case("empty names", || says("/inherits/neither", "TLSv1.3,,,")),
        case("verified", || says("/trusted", "TLSv1.3,,,")),
        case("another name", || fails("/misnamed", "hostname mismatch")),
        case("another issuer", || fails("/distrusted", "unable to verify the first certificate")),
        case("expired", || fails("/expired", "certificate has expired")),
        case("plain HTTP to TLS", || {
            let page = ask(&proxy, "/plain", 400)?;
            check(page.contains("plain HTTP request was sent to HTTPS port"), || page)
        }),
    ]);
}

/// Connections are reused, but only with the same TLS settings.
#[test]
fn connections_are_reused() {
    let (dir, _) = certificates();
    let peer = Peer::start_echo();
    let up = start_upstream(&dir, &peer);
    let config = "server { listen LISTEN; proxy_ssl_server_name on;
        location /a { proxy_ssl_name a.example; proxy_pass https://UP/says; }
        location /b { proxy_ssl_name b.example; proxy_pass https://UP/says; } }";
    let proxy = start(&dir, &config.replace("UP", &up.addr.to_string()), &[]);
    let response: Vec<String> =
        ["/a", "/b", "/a", "/b"].iter().map(|target| ask(&proxy, target, 200).unwrap()).collect();
    assert!(response[0].contains(",a.example,") && response[1].contains(",b.example,"), "{response:?}");
    assert!(response[0] == response[2] && response[1] == response[3], "{response:?}");
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 7 % 251) as u8).collect()
}

#[test]
fn bodies_and_tunnels() {
    const BURST: usize = 3_000_000;
    let (dir, ca) = certificates();
    let peer = Peer::start(|connection| {
        while let Some(request) = connection.read_request() {
            if request.head.contains("\r\nUpgrade: ") {
                connection.send(SWITCHING_PROTOCOLS);
                connection.send(&pattern(BURST));
                let is_complete = connection.read_bytes(BURST).is_some_and(|bytes| bytes == pattern(BURST));
                connection.send(if is_complete { b"all" } else { b"not" });
                return connection.read_to_end();
            }
            let text = format!("{} {}", request.body.len(), request.body == pattern(request.body.len()));
            connection.respond(&request, &text);
        }
    });
    let up = start_upstream(&dir, &peer);
    let config = "ssl_certificate DIRECTORYup.crt; ssl_certificate_key DIRECTORYup.key; client_max_body_size 0;
        server { listen LISTEN ssl; location / { proxy_pass https://UP; } }";
    let proxy = start(&dir, &config.replace("UP", &up.addr.to_string()), &[]);
    let clients = TlsConnector::trusting(&ca, None);
    run_concurrently(vec![
        case("a body", || {
            let mut client = clients.connect(proxy.addr, "up.example")?;
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {BURST}\r\n\r\n");
            let response = client.request(&[head.as_bytes(), &pattern(BURST)].concat(), 200)?;
            check_equal("the upstream", &response.body, format!("{BURST} true").as_bytes())
        }),
        case("a tunnel", || {
            let mut client = clients.connect(proxy.addr, "up.example")?;
            client.request(b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 101)?;
            check(client.read_bytes(BURST)? == pattern(BURST), || "other bytes is_complete".to_owned())?;
            client.send(&pattern(BURST));
            check_equal("the upstream", &client.read_bytes(3)?, b"all")?;
            client.shutdown_write();
            client.expect_eof()
        }),
    ]);
}

#[test]
fn upstreams_that_fail() {
    let (dir, ca) = certificates();
    let cert_key = ca.issue("up.example");
    let plain = Peer::start(|connection| {
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno");
        connection.read_to_end();
    });
    let silent = Peer::start(|connection| connection.read_to_end());
    let closing = Peer::start(|_| {});
    // A response that ends at EOF, with and without close_notify.
    let ending = Peer::start(move |connection| {
        let Ok(mut stream) = accept_tls(&connection.stream, &cert_key) else { return };
        let mut request = [0; 4096];
        let count = stream.read(&mut request).unwrap();
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\npart").unwrap();
        if request[..count].starts_with(b"GET /whole") {
            stream.conn.send_close_notify();
        }
        stream.flush().unwrap();
    });
    // Alerts before a ServerHello.
    let refusing = |alert: u8| {
        Peer::start(move |connection| {
            connection.read();
            connection.send(&[21, 3, 3, 0, 2, 2, alert]);
        })
    };
    let (no_cipher, old) = (refusing(40), refusing(70));
    let config = "proxy_connect_timeout 1s; proxy_next_upstream off; server { listen LISTEN;
        location /cipher { proxy_pass https://CIPHER; } location /version { proxy_pass https://VERSION; }
        location /plain { proxy_pass https://PLAIN; } location /silent { proxy_pass https://SILENT; }
        location /closing { proxy_pass https://CLOSING; } location / { proxy_pass https://ENDING; } }";
    let peers = [
        ("PLAIN", &plain),
        ("SILENT", &silent),
        ("CLOSING", &closing),
        ("ENDING", &ending),
        ("CIPHER", &no_cipher),
        ("VERSION", &old),
    ];
    let proxy = start(&dir, config, &peers);
    run_concurrently(vec![
        case("plain HTTP", || ask(&proxy, "/plain", 502).map(drop)),
        case("no response", || ask(&proxy, "/silent", 504).map(drop)),
        case("no cipher", || ask(&proxy, "/cipher", 502).map(drop)),
        case("no version", || ask(&proxy, "/version", 502).map(drop)),
        case("EOF", || ask(&proxy, "/closing", 502).map(drop)),
        case("a complete response", || check_equal("the client", ask(&proxy, "/whole", 200)?.as_bytes(), b"part")),
        case("a response that may be truncated", || {
            let mut client = Client::connect_and_send(proxy.addr, b"GET /cut HTTP/1.1\r\nHost: a\r\n\r\n");
            let got = client.read_to_end()?;
            check(!got.ends_with(b"0\r\n\r\n"), || show(&got))
        }),
    ]);
    proxy.wait_for_error_line(&["upstream timed out", "while SSL handshaking to upstream"]).unwrap();
    proxy.wait_for_error_line(&["upstream prematurely closed connection", "/cut"]).unwrap();
    proxy.wait_for_error_line(&["the upstream offers no cipher that is supported", "/cipher"]).unwrap();
    proxy.wait_for_error_line(&["the upstream offers no version of TLS that is enabled", "/version"]).unwrap();
    proxy
        .wait_for_error_line(&["the upstream does not speak TLS at this port: write http:// for it", "/plain"])
        .unwrap();
}

#[test]
fn invalid_configurations() {
    let (dir, _) = certificates();
    let dir = &dir;
    let lines = [
        ("verification without issuers", "proxy_ssl_verify on;", "no \"proxy_ssl_trusted_certificate\""),
        ("a certificate without a key", "proxy_ssl_certificate device.crt;", "no \"proxy_ssl_certificate_key\""),
        (
            "another key",
            "proxy_ssl_certificate device.crt; proxy_ssl_certificate_key up.key;",
            "does not match the certificate",
        ),
        ("no such file", "proxy_ssl_verify on; proxy_ssl_trusted_certificate none.crt;", "none.crt"),
        ("old versions", "proxy_ssl_protocols TLSv1;", "enables neither TLSv1.2 nor TLSv1.3"),
    ];
    let cases = lines.iter().enumerate().map(|(at, (id, text, expected))| {
        case(id, move || {
            let file = format!("{at}.conf");
            dir.write(&file, format!("server {{ location / {{ {text} proxy_pass https://127.0.0.1:1; }} }}"));
            let out = run(dir, &["-t"], &file);
            let err = String::from_utf8_lossy(&out.stderr).into_owned();
            check(out.status.code() == Some(2) && err.contains(expected), || err)
        })
    });
    run_concurrently(cases.collect());
}
