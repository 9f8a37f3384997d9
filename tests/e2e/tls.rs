//! TLS of clients.

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use futures_rustls::rustls;
use rustls::HandshakeKind;

use crate::cases::{case, check, check_equal, run_concurrently};
use crate::client::{Client, show};
use crate::harness::{ABOUT_A_SECOND, Proxy, TIMEOUT, TempDir, run, wait_for};
use crate::peer::{Peer, SWITCHING_PROTOCOLS};
use crate::tls_fixtures::{CertKey, TlsConnector, certificate_authority, self_signed};

pub(crate) const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

/// Creates a directory with certificates of `a.example` and `b.example`, and their issuer.
pub(crate) fn certificates() -> (TempDir, CertKey) {
    let dir = TempDir::new();
    let ca = certificate_authority("authority");
    ca.issue("a.example").write(&dir, "a");
    ca.issue("b.example").write(&dir, "b");
    dir.write("ca.crt", ca.pem());
    (dir, ca)
}

/// Starts a proxy. `DIRECTORY` in its configuration is the path of the certificates.
pub(crate) fn start(dir: &TempDir, config: &str, peers: &[(&str, &Peer)]) -> Proxy {
    Proxy::start_with_peers(&config.replace("DIRECTORY", &dir.path("").display().to_string()), peers)
}

pub(crate) const PAIR: &str = "ssl_certificate DIRECTORYa.crt; ssl_certificate_key DIRECTORYa.key;";

#[test]
fn requests() {
    let (dir, ca) = certificates();
    let peer = Peer::start_echo();
    dir.write("big", vec![b'x'; 3_000_000]);
    let config = format!(
        "{PAIR} log_format tls '$ssl_protocol $ssl_cipher $ssl_server_name $scheme'; access_log access.log tls;
         error_log error.log info; pid smolgate.pid;
         server {{ listen LISTEN ssl; server_name a.example;
            location / {{ proxy_pass http://PEER; }}
            location = /says {{ return 200 \"$scheme,$https,$ssl_protocol,$ssl_server_name,$ssl_session_reused,$ssl_client_verify\"; }}
            location = /there {{ return 301 /here; }}
            location = /big {{ root DIRECTORY; }}
         }}"
    );
    let proxy = start(&dir, &config, &[("PEER", &peer)]);
    let clients = TlsConnector::trusting(&ca, None);
    let connect = || clients.connect(proxy.addr, "a.example");
    run_concurrently(vec![
        case("one after the other", || {
            let mut client = connect()?;
            for target in ["/1", "/2"] {
                let response =
                    client.request(format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n").as_bytes(), 200)?;
                check_equal("the body", &response.body, target.as_bytes())?;
                check(!response.closes(), || response.head.clone())?;
            }
            Ok(())
        }),
        case("many at once", || {
            let mut client = connect()?;
            client.send(&GET.repeat(300));
            (0..300).try_for_each(|_| client.expect_status(200).map(drop))
        }),
        case("the last one closes with close_notify", || {
            let mut client = connect()?;
            client.request(b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n", 200)?;
            client.expect_eof() // rustls returns an error for EOF without close_notify
        }),
        case("variables", || {
            let response = connect()?.request(b"GET /says HTTP/1.1\r\nHost: a.example\r\n\r\n", 200)?;
            check_equal("the client", &response.body, b"https,on,TLSv1.3,a.example,.,NONE")
        }),
        case("TLS 1.2", || {
            let old = TlsConnector::with_versions(&ca, None, &[&rustls::version::TLS12]);
            let mut client = old.connect(proxy.addr, "a.example")?;
            let response = client.request(b"GET /says HTTP/1.1\r\nHost: a.example\r\n\r\n", 200)?;
            check_equal("the client", &response.body, b"https,on,TLSv1.2,a.example,.,NONE")
        }),
        case("a redirect keeps https", || {
            let response = connect()?.request(b"GET /there HTTP/1.1\r\nHost: a.example\r\n\r\n", 301)?;
            let expected = format!("https://a.example:{}/here", proxy.addr.port());
            check(response.header("Location") == Some(&expected), || response.head.clone())
        }),
        case("a file", || {
            let response = connect()?.request(b"GET /big HTTP/1.1\r\nHost: a.example\r\n\r\n", 200)?;
            check(response.body == vec![b'x'; 3_000_000], || format!("{} bytes", response.body.len()))
        }),
        case("a request byte by byte", || {
            let mut client = connect()?;
            GET.iter().for_each(|byte| client.send(&[*byte]));
            client.expect_status(200).map(drop)
        }),
    ]);
    proxy.wait_for_access_line(&["TLSv1.3 TLS_", "a.example https"]).unwrap();
}

/// Plain HTTP, other bytes, unsupported versions and malformed records.
#[test]
fn invalid_handshakes() {
    let (dir, _) = certificates();
    let proxy = start(&dir, &format!("{PAIR} server {{ listen LISTEN ssl; return 200; }}"), &[]);
    let is_rejected = |sent: &[u8], text: &str| {
        let mut client = Client::connect_and_send(proxy.addr, sent);
        let response = client.expect_status(400)?;
        check(response.closes(), || response.head.clone())?;
        check(String::from_utf8_lossy(&response.body).contains(text), || show(&response.body))?;
        client.expect_eof()
    };
    // A fatal alert and EOF.
    let gets_alert = |sent: &[u8], alert: u8| {
        let mut client = Client::connect_and_send(proxy.addr, sent);
        match client.read_to_end()?.as_slice() {
            [21, 3, _, 0, 2, 2, found] if *found == alert => Ok(()),
            other => Err(format!("alert {alert} expected, got {}", show(other))),
        }
    };
    run_concurrently(vec![
        case("plain HTTP", || {
            is_rejected(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "plain HTTP request was sent to HTTPS port")
        }),
        case("zeros", || is_rejected(&[0; 50], "400 Bad Request")),
        case("text", || is_rejected(b"\x01\x02hello\r\n\r\n", "400 Bad Request")),
        case("a record of an unknown type", || gets_alert(b"\x99\x03\x01\x00\x05hello", 50)),
        case("SSL 2", || gets_alert(b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10", 50)),
        case("an impossible length", || gets_alert(b"\x16\x03\x01\x00\x0b\x01\xff\xff\xff\x03\x03hello", 47)),
        case("a record that is too large", || gets_alert(b"\x16\x03\x01\xff\xff\x01\x00\x00\x10\x03\x03", 22)),
        case("TLS 1.1", || gets_alert(&client_hello(0x0302, &[0xc0, 0x13], b""), 70)),
        case("no common cipher", || gets_alert(&client_hello(0x0303, &[0x00, 0x2f], b""), 40)),
        case("an address as a server name is ignored", || {
            let mut client = Client::connect_and_send(proxy.addr, &client_hello_for(b"127.0.0.1"));
            check_equal("the client", &client.read_bytes(1)?, &[22])
        }),
        case("two dots", || gets_alert(&client_hello_for(b"a..b"), 47)),
        case("an invalid byte in a name", || gets_alert(&client_hello_for(b"a\0b"), 47)),
        case("a long one", || gets_alert(&client_hello_for(&[b'a'; 300]), 47)),
    ]);
    assert!(proxy.error_lines().iter().all(|line| !line.contains("[crit]") && !line.contains("[error]")));
}

/// Encodes a ClientHello of at most TLS 1.2, with one cipher suite.
pub(crate) fn client_hello(version: u16, cipher: &[u8], extensions: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
    let groups = b"\x00\x0a\x00\x04\x00\x02\x00\x17\x00\x0b\x00\x02\x01\x00\x00\x0d\x00\x06\x00\x04\x04\x03\x08\x04";
    let body = [
        &version.to_be_bytes()[..],
        &[7; 32],
        &[0],
        &length(cipher),
        &[1, 0],
        &length(&[&groups[..], extensions].concat()),
    ]
    .concat();
    let message = [&[1, 0][..], &length(&body)].concat();
    [&[22, 3, 1][..], &length(&message)].concat()
}

fn client_hello_for(name: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
    let list = length(&[&[0][..], &length(name)].concat());
    client_hello(0x0303, &[0xc0, 0x2b], &[&[0, 0][..], &length(&list)].concat())
}

#[test]
fn stalled_handshakes_time_out() {
    let (dir, ca) = certificates();
    let config = format!("{PAIR} client_header_timeout 1s; server {{ listen LISTEN ssl; return 200; }}");
    let proxy = start(&dir, &config, &[]);
    let about_a_second = |first: &[u8], drip: &[u8]| {
        let mut client = Client::connect_and_send(proxy.addr, first);
        client.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let began = Instant::now();
        loop {
            match client.stream.read(&mut [0; 4096]) {
                Err(error) if crate::peer::is_timeout(&error) => client.send(drip),
                Ok(count) if count > 0 => {}
                _ => break,
            }
            check(began.elapsed() < TIMEOUT, || "it stays open".to_owned())?;
        }
        let took = began.elapsed().as_millis();
        check(ABOUT_A_SECOND.contains(&took), || format!("it took {took} ms"))
    };
    let whole = client_hello(0x0303, &[0xc0, 0x2b], b"");
    run_concurrently(vec![
        case("no byte", || about_a_second(b"", b"")),
        case("part of a ClientHello", || about_a_second(b"\x16\x03\x01\x02\x00\x01\x00", b"")),
        case("byte by byte", || about_a_second(b"\x16\x03\x01\x02\x00\x01\x00", b"\x01")),
        case("after the ClientHello", || about_a_second(&whole, b"")),
        case("other clients meanwhile", || {
            let clients = TlsConnector::trusting(&ca, None);
            (0..20).try_for_each(|_| clients.connect(proxy.addr, "a.example")?.request(GET, 200).map(drop))
        }),
    ]);
    proxy.wait_for_error_line(&["timed out", "SSL handshaking"]).unwrap();
}

#[test]
fn server_names_select_certificates() {
    let (dir, ca) = certificates();
    ca.issue("*.c.example").write(&dir, "c");
    let config = "
        server { listen LISTEN ssl; server_name a.example; ssl_certificate DIRECTORYa.crt; ssl_certificate_key DIRECTORYa.key;
            ssl_protocols TLSv1.2; return 200 a,$ssl_protocol; }
        server { listen LISTEN ssl; server_name b.example; ssl_certificate DIRECTORYb.crt; ssl_certificate_key DIRECTORYb.key;
            return 200 b,$ssl_protocol; }
        server { listen LISTEN; server_name *.c.example; ssl_certificate DIRECTORYc.crt; ssl_certificate_key DIRECTORYc.key;
            return 200 c,$ssl_protocol; }
        server { listen LISTEN; server_name none.example; return 200 none; }
        server { listen OTHER ssl default_server; ssl_reject_handshake on; }
        server { listen OTHER ssl; server_name b.example; ssl_certificate DIRECTORYb.crt; ssl_certificate_key DIRECTORYb.key;
            return 200 b; }";
    let proxy = start(&dir, config, &[]);
    let clients = TlsConnector::trusting(&ca, None);
    let is = |name: &str, host: &str, body: &str| {
        let mut client = clients.connect(proxy.addr, name)?;
        let response = client.request(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes(), 200)?;
        check_equal("the client", &response.body, body.as_bytes())
    };
    let fails = |addr, name: &str, why: &str| match clients.connect(addr, name) {
        Ok(_) => Err("the handshake was made".to_owned()),
        Err(error) => check(error.contains(why), || error),
    };
    run_concurrently(vec![
        case("the default one", || is("a.example", "a.example", "a,TLSv1.2")),
        case("another one", || is("b.example", "b.example", "b,TLSv1.3")),
        case("in capitals", || is("B.EXAMPLE", "b.example", "b,TLSv1.3")),
        case("with an asterisk", || is("x.c.example", "x.c.example", "c,TLSv1.3")),
        case("a request for another server", || is("b.example", "a.example", "a,TLSv1.3")),
        case("unknown", || fails(proxy.addr, "unknown.example", "not valid for name")),
        case("one without a certificate", || fails(proxy.addr, "none.example", "not valid for name")),
        case("rejected", || fails(proxy.other, "unknown.example", "UnrecognisedName")),
        case("not rejected", || clients.connect(proxy.other, "b.example").map(drop)),
        case("no common protocol", || {
            let mut clients = clients.clone();
            clients.config.alpn_protocols = vec![b"h2".to_vec()];
            match clients.connect(proxy.addr, "b.example") {
                Err(error) if error.contains("NoApplicationProtocol") => Ok(()),
                other => Err(format!("{:?}", other.err())),
            }
        }),
        case("HTTP/1.1 among other protocols", || {
            let mut clients = clients.clone();
            clients.config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            let client = clients.connect(proxy.addr, "b.example")?;
            check_equal("the client", client.stream.conn.alpn_protocol().unwrap_or_default(), b"http/1.1")
        }),
    ]);
}

#[test]
fn session_resumption() {
    let (dir, ca) = certificates();
    let server =
        |listen: &str, more: &str| format!("server {{ listen {listen} ssl; {more} return 200 $ssl_session_reused; }}");
    let config = |one: &str, other: &str| format!("{PAIR} {}{}", server("LISTEN", one), server("OTHER", other));
    let tickets = start(&dir, &config("", "ssl_session_timeout 0;"), &[]);
    let caches = start(
        &dir,
        &config(
            "ssl_session_tickets off; ssl_session_cache shared:S:1m;",
            "ssl_session_tickets off; ssl_session_cache off;",
        ),
        &[],
    );
    let cases = [
        ("tickets", tickets.addr, tickets.addr, true),
        ("expired tickets", tickets.other, tickets.other, false),
        ("tickets of another server", tickets.addr, tickets.other, false),
        ("a cache", caches.addr, caches.addr, true),
        ("neither", caches.other, caches.other, false),
        ("a session of another server", caches.addr, caches.other, false),
    ];
    let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
    let ca = &ca;
    let all = cases.iter().flat_map(|(id, first, second, expected)| {
        versions.map(|version| {
            case(id, move || {
                let clients = TlsConnector::with_versions(ca, None, &[version]).resuming();
                clients.connect(*first, "a.example")?.request(GET, 200)?;
                let mut client = clients.connect(*second, "a.example")?;
                let response = client.request(GET, 200)?;
                let resumed = client.stream.conn.handshake_kind() == Some(HandshakeKind::Resumed);
                check(resumed == *expected, || format!("{version:?}: {resumed}"))?;
                check_equal("the variable", &response.body, if resumed { b"r" } else { b"." })
            })
        })
    });
    run_concurrently(all.collect());
}

#[test]
fn client_certificates() {
    let (dir, ca) = certificates();
    let (issuer, stranger) = (certificate_authority("issuer"), certificate_authority("stranger"));
    let middle = issuer.issue_with("middle", |params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    });
    dir.write("issuer.crt", issuer.pem());
    dir.write("all.crt", issuer.pem() + &middle.pem());
    dir.write("revoked.crl", issuer.revocation_list(&[66]));
    let server = |name: &str, more: &str| {
        format!(
            "server {{ listen LISTEN ssl; server_name {name}; ssl_client_certificate DIRECTORYissuer.crt; {more}
             location / {{ return 200 \"$ssl_client_verify $ssl_client_s_dn\"; }} }}"
        )
    };
    let config = format!(
        "{PAIR} server {{ listen LISTEN ssl; server_name a.example; return 200 open; }} {} {} {} {} {}",
        server("on.example", "ssl_verify_client on; error_page 495 =470 /other; error_page 496 =471 /other;"),
        server("optional.example", "ssl_verify_client optional;"),
        server("any.example", "ssl_verify_client optional_no_ca;"),
        server("revoked.example", "ssl_verify_client on; ssl_crl DIRECTORYrevoked.crl;"),
        server("page.example", "ssl_verify_client on;"),
    );
    let proxy = start(&dir, &config, &[]);
    let valid = issuer.issue("device");
    let serial = |serial: u64| {
        issuer.issue_with("device", |params| params.serial_number = Some(rcgen::SerialNumber::from(serial)))
    };
    let expired = issuer.issue_with("old", |params| params.not_after = rcgen::date_time_ymd(2024, 1, 1));
    let old_and_unknown = stranger.issue_with("old", |params| params.not_after = rcgen::date_time_ymd(2024, 1, 1));
    let (unknown, below) = (stranger.issue("device"), middle.issue("device"));
    let own = self_signed(rcgen::CertificateParams::new(vec!["own".to_owned()]).unwrap());
    let (fine, revoked) = (serial(65), serial(66));
    // The certificate of the proxy is not tested here.
    let ask = |own: Option<&CertKey>, server: &str, host: &str, status: u16, text: &str| {
        let mut clients = TlsConnector::trusting(&ca, own);
        clients.config.dangerous().set_certificate_verifier(std::sync::Arc::new(AcceptAny));
        let mut client = clients.connect(proxy.addr, server)?;
        let response = client.request(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes(), status)?;
        check(String::from_utf8_lossy(&response.body).contains(text), || show(&response.body))?;
        check((status == 200) != response.closes() || status == 421, || response.head.clone())
    };
    let (on, optional, any) = ("on.example", "optional.example", "any.example");
    let on_page = "page.example";
    run_concurrently(vec![
        case("on: valid", || ask(Some(&valid), on, on, 200, "SUCCESS CN=device")),
        case("on: none", || ask(None, on, on, 471, "NONE")),
        case("on: none, without a page", || ask(None, on_page, on_page, 400, "No required SSL certificate was sent")),
        case("on: expired", || ask(Some(&expired), on, on, 470, "FAILED:certificate has expired")),
        case("on: expired, without a page", || ask(Some(&expired), on_page, on_page, 400, "The SSL certificate error")),
        case("on: of another issuer", || {
            ask(Some(&unknown), on, on, 470, "FAILED:unable to verify the first certificate")
        }),
        case("on: self-signed", || ask(Some(&own), on, on, 470, "FAILED:self-signed certificate")),
        case("on: a chain that is not sent", || ask(Some(&below), on, on, 470, "FAILED")),
        case("optional: valid", || ask(Some(&valid), optional, optional, 200, "SUCCESS")),
        case("optional: none", || ask(None, optional, optional, 200, "NONE")),
        case("optional: of another issuer", || {
            ask(Some(&unknown), optional, optional, 400, "The SSL certificate error")
        }),
        case("optional_no_ca: of another issuer", || ask(Some(&unknown), any, any, 200, "FAILED:unable to verify")),
        case("optional_no_ca: self-signed", || ask(Some(&own), any, any, 200, "FAILED:self-signed certificate")),
        case("optional_no_ca: of another issuer, and expired", || {
            ask(Some(&old_and_unknown), any, any, 400, "The SSL certificate error")
        }),
        case("optional_no_ca: expired", || ask(Some(&expired), any, any, 400, "The SSL certificate error")),
        case("revoked", || ask(Some(&revoked), "revoked.example", "revoked.example", 400, "The SSL certificate error")),
        case("not revoked", || ask(Some(&fine), "revoked.example", "revoked.example", 200, "SUCCESS")),
        case("a Host of another server, after a handshake without certificate", || {
            ask(None, "a.example", on, 421, "421")
        }),
        case("a Host of another server, after a handshake with other rules", || {
            ask(Some(&unknown), any, on, 421, "421")
        }),
        case("a Host of a server that verifies none", || ask(None, on, "a.example", 200, "open")),
    ]);
    proxy.wait_for_error_line(&["client SSL certificate verify error: (certificate has expired)"]).unwrap();
}

/// Accepts any certificate.
#[derive(Debug)]
struct AcceptAny;

impl rustls::client::danger::ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

#[test]
fn tunnels() {
    const BURST: usize = 5_000_000;
    let (dir, ca) = certificates();
    // Sends a burst before the client reads, and then nothing until it was read.
    let bursting = Peer::start(|connection| {
        connection.read_request();
        connection.send(SWITCHING_PROTOCOLS);
        connection.send(&pattern(BURST));
        connection.read_to_end();
    });
    let counting = Peer::start(|connection| {
        connection.read_request();
        connection.send(SWITCHING_PROTOCOLS);
        let is_complete = connection.read_bytes(BURST).is_some_and(|bytes| bytes == pattern(BURST));
        connection.send(if is_complete { b"all" } else { b"not" });
        connection.read_to_end();
        connection.send(b"after the end");
    });
    let echoing = Peer::start_echo();
    let config = format!(
        "{PAIR} server {{ listen LISTEN ssl; location /ws/burst {{ proxy_pass http://BURSTING/ws; }}
         location /ws/count {{ proxy_pass http://COUNTING/ws; }} location / {{ proxy_pass http://ECHOING; }} }}"
    );
    let proxy = start(&dir, &config, &[("BURSTING", &bursting), ("COUNTING", &counting), ("ECHOING", &echoing)]);
    let upgrade = |target: &str| {
        let mut client = TlsConnector::trusting(&ca, None).connect(proxy.addr, "a.example")?;
        let request = String::from_utf8_lossy(UPGRADE).replace("/ws", target);
        client.request(request.as_bytes(), 101)?;
        Ok::<_, String>(client)
    };
    run_concurrently(vec![
        case("small messages", || {
            let mut client = upgrade("/ws")?;
            for n in 0..200u32 {
                client.send(&n.to_be_bytes());
                check_equal("the client", &client.read_bytes(4)?, &n.to_be_bytes())?;
            }
            Ok(())
        }),
        case("bytes with the request", || {
            let mut client = TlsConnector::trusting(&ca, None).connect(proxy.addr, "a.example")?;
            client.send(&[UPGRADE, b"early"].concat());
            client.expect_status(101)?;
            check_equal("the client", &client.read_bytes(5)?, b"early")
        }),
        case("the tail of a burst to a slow reader", || {
            let mut client = upgrade("/ws/burst")?;
            std::thread::sleep(Duration::from_millis(300)); // until all buffers are full
            check(client.read_bytes(BURST)? == pattern(BURST), || "other bytes is_complete".to_owned())
        }),
        case("a burst to the upstream, and a half-close", || {
            let mut client = upgrade("/ws/count")?;
            client.send(&pattern(BURST));
            check_equal("the other side", &client.read_bytes(3)?, b"all")?;
            client.send_close_notify();
            check_equal("what comes after our end", &client.read_to_end()?, b"after the end")
        }),
        case("EOF without close_notify", || {
            let mut client = upgrade("/ws/count")?;
            client.send(&pattern(BURST));
            client.read_bytes(3)?;
            client.stream.sock.shutdown(std::net::Shutdown::Write).unwrap();
            check_equal("what comes after our end", &client.read_bytes(13)?, b"after the end")
        }),
        case("close_notify of the client", || {
            let mut client = upgrade("/ws")?;
            client.send(b"x");
            client.read_bytes(1)?;
            client.shutdown_write();
            client.expect_eof() // with close_notify
        }),
    ]);
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 7 % 251) as u8).collect()
}

#[test]
fn bodies() {
    let (dir, ca) = certificates();
    let peer = Peer::start(|connection| {
        while let Some(request) = connection.read_request() {
            let text = format!("{} {}", request.body.len(), request.body == pattern(request.body.len()));
            connection.respond(&request, &text);
        }
    });
    let big = Peer::start_responding(
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(), chunked(&pattern(3_000_000))].concat(),
    );
    let config = format!(
        "{PAIR} client_max_body_size 0; server {{ listen LISTEN ssl; location / {{ proxy_pass http://PEER; }}
         location /big {{ proxy_pass http://BIG; }}
         location /small {{ client_max_body_size 1k; proxy_pass http://PEER; }} }}"
    );
    let proxy = start(&dir, &config, &[("PEER", &peer), ("BIG", &big)]);
    let connect = || TlsConnector::trusting(&ca, None).connect(proxy.addr, "a.example");
    run_concurrently(vec![
        case("Content-Length", || {
            let head = b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3000000\r\n\r\n";
            let response = connect()?.request(&[&head[..], &pattern(3_000_000)].concat(), 200)?;
            check_equal("the upstream", &response.body, b"3000000 true")
        }),
        case("chunks", || {
            let head = b"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n";
            let response = connect()?.request(&[&head[..], &chunked(&pattern(1_000_000))].concat(), 200)?;
            check_equal("the upstream", &response.body, b"1000000 true")
        }),
        case("rejected while it is sent", || {
            let mut client = connect()?;
            client.send(b"POST /small HTTP/1.1\r\nHost: a.example\r\nContent-Length: 100000\r\n\r\nab");
            let response = client.expect_status(413)?;
            client.send(&[b'x'; 50_000]);
            check(response.closes(), || response.head.clone())?;
            client.expect_eof() // with close_notify, although more bytes were in flight
        }),
        case("chunks in a response", || {
            let response = connect()?.request(b"GET /big HTTP/1.1\r\nHost: a.example\r\n\r\n", 200)?;
            check(response.body == pattern(3_000_000), || format!("{} bytes", response.body.len()))
        }),
    ]);
}

fn chunked(bytes: &[u8]) -> Vec<u8> {
    let chunks =
        bytes.chunks(70_000).flat_map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
    chunks.chain(b"0\r\n\r\n".iter().copied()).collect()
}

/// A reload uses a renewed certificate, keeps tunnels, and rejects an invalid one.
#[test]
fn reloads_of_certificates() {
    let (dir, ca) = certificates();
    let peer = Peer::start_echo();
    let config = format!("{PAIR} server {{ listen LISTEN ssl; location / {{ proxy_pass http://PEER; }} }}");
    let proxy = start(&dir, &config, &[("PEER", &peer)]);
    let clients = TlsConnector::trusting(&ca, None);
    let certificate =
        || clients.connect(proxy.addr, "a.example").map(|client| client.certificate()).unwrap_or_default();
    let mut tunnel = clients.connect(proxy.addr, "a.example").unwrap();
    tunnel.request(UPGRADE, 101).unwrap();
    let first = certificate();

    let renewed = ca.issue("a.example");
    renewed.write(&dir, "a");
    proxy.signal("HUP");
    wait_for("the new certificate", || certificate() == renewed.der());
    assert_ne!(first, renewed.der());

    let other = ca.issue("a.example");
    dir.write("a.crt", other.pem()); // without its key
    proxy.signal("HUP");
    proxy.wait_for_error_line(&["[emerg]", "reload failed", "does not match the certificate"]).unwrap();
    dir.write("a.crt", "garbage");
    proxy.signal("HUP");
    proxy.wait_for_error_line(&["[emerg]", "reload failed", "BEGIN CERTIFICATE"]).unwrap();
    assert_eq!(certificate(), renewed.der());

    tunnel.send(b"still here");
    assert_eq!(tunnel.read_bytes(10).unwrap(), b"still here");
}

#[test]
fn invalid_configurations() {
    let (dir, ca) = certificates();
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
    dir.write("encrypted.key", encrypted);
    dir.write("empty", "");
    dir.write("cut.crt", &ca.pem()[..200]);
    dir.write("long.crt", ca.pem().repeat(200));
    dir.write("odd.crl", "-----BEGIN X509 CRL-----\nMIIB\n-----END X509 CRL-----\n");
    // With CRLF, and text around the certificate.
    dir.write("crlf.crt", format!("subject: me\n{}trailing\n", ca.issue("x").pem()).replace('\n', "\r\n"));
    let lines: &[(&str, &str, &str)] = &[
        ("no certificate", "listen 1 ssl;", "no \"ssl_certificate\" is defined"),
        ("no key", "listen 1 ssl; ssl_certificate a.crt;", "no \"ssl_certificate_key\" is defined"),
        ("no file", "ssl_certificate none.crt; ssl_certificate_key a.key;", "none.crt"),
        ("another key", "ssl_certificate a.crt; ssl_certificate_key b.key;", "does not match the certificate"),
        ("an empty file", "ssl_certificate empty; ssl_certificate_key a.key;", "BEGIN CERTIFICATE"),
        ("truncated", "ssl_certificate cut.crt; ssl_certificate_key a.key;", "cut.crt"),
        ("a certificate as a key", "ssl_certificate a.crt; ssl_certificate_key a.crt;", "cannot load key"),
        ("encrypted", "ssl_certificate a.crt; ssl_certificate_key encrypted.key;", "openssl pkey"),
        ("other line ends", "ssl_certificate crlf.crt; ssl_certificate_key a.key;", "does not match the certificate"),
        ("a large file", "ssl_certificate long.crt; ssl_certificate_key a.key;", "more than 65536 bytes"),
        ("variables", "ssl_certificate $host.crt; ssl_certificate_key a.key;", "without variables"),
        ("old versions", "ssl_protocols TLSv1 TLSv1.1;", "enables neither TLSv1.2 nor TLSv1.3"),
        ("no version", "ssl_protocols TLSv9;", "invalid value \"TLSv9\""),
        (
            "verification without issuers",
            "ssl_certificate a.crt; ssl_certificate_key a.key; ssl_verify_client on;",
            "ssl_client_certificate",
        ),
        (
            "a list that is not understood",
            "ssl_certificate a.crt; ssl_certificate_key a.key; ssl_verify_client on; ssl_client_certificate ca.crt; ssl_crl odd.crl;",
            "CRL",
        ),
        ("a cache", "ssl_session_cache shared:S;", "shared:NAME:SIZE"),
    ];
    let dir = &dir;
    let cases = lines.iter().enumerate().map(|(at, (id, text, expected))| {
        case(id, move || {
            let file = format!("{at}.conf");
            dir.write(&file, format!("server {{ {text} }}"));
            let out = run(dir, &["-t"], &file);
            let err = String::from_utf8_lossy(&out.stderr).into_owned();
            check(out.status.code() == Some(2), || err.clone())?;
            check(err.contains(expected) && err.contains(&format!("{file}:1:")), || err)
        })
    });
    run_concurrently(cases.collect());
}

/// An error about a file is at the word that names it.
#[test]
fn the_place_of_a_file_that_cannot_be_loaded() {
    let dir = TempDir::new();
    let ca = certificate_authority("authority");
    for name in ["a", "b"] {
        ca.issue(name).write(&dir, name);
    }
    ca.write(&dir, "ca");
    let server = "listen 1 ssl; ssl_certificate a.crt; ssl_certificate_key a.key;";
    let verify = "ssl_verify_client on; ssl_client_certificate";
    let upstream =
        "listen 1; location / { proxy_pass https://127.0.0.1; proxy_ssl_verify on; proxy_ssl_trusted_certificate";
    // The last word in the text is the cause.
    for (config, cause) in [
        ("server { listen 1 ssl; ssl_certificate a.crt; ssl_certificate_key none.key; }".to_owned(), "none.key"),
        ("server { listen 1 ssl; ssl_certificate_key a.key; ssl_certificate none.crt; }".to_owned(), "none.crt"),
        ("server { listen 1 ssl; ssl_certificate a.crt; ssl_certificate_key b.key; }".to_owned(), "b.key"),
        ("ssl_certificate_key bad.key; server { listen 1 ssl; ssl_certificate a.crt; }".to_owned(), "bad.key"),
        (format!("server {{ {server} ssl_certificate b.crt; ssl_certificate_key bad.key; }}"), "bad.key"),
        (format!("server {{ {server} {verify} none.crt; }}"), "none.crt"),
        (format!("server {{ {server} {verify} ca.crt; ssl_trusted_certificate bad.crt; }}"), "bad.crt"),
        (format!("server {{ {server} {verify} ca.crt; ssl_crl none.crl; }}"), "none.crl"),
        (format!("server {{ {upstream} bad.crt; }} }}"), "bad.crt"),
        (format!("server {{ {upstream} ca.crt; proxy_ssl_crl none.crl; }} }}"), "none.crl"),
        (
            format!("server {{ {upstream} ca.crt; proxy_ssl_certificate a.crt; proxy_ssl_certificate_key b.key; }} }}"),
            "b.key",
        ),
    ] {
        dir.write("bad.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
        dir.write("bad.crt", "");
        dir.write("smolgate.conf", &config);
        let out = run(&dir, &["-t"], "smolgate.conf");
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        let place = format!("smolgate.conf:1:{}: ", config.rfind(cause).unwrap() + 1);
        assert!(out.status.code() == Some(2) && text.contains(&place), "{config}: {text}");
    }
}

/// Warnings about certificates, of `-t` and in the log at start.
#[test]
fn warnings_about_certificates() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new();
    let ca = certificate_authority("authority");
    ca.issue_with("old.example", |params| params.not_after = rcgen::date_time_ymd(2024, 1, 1)).write(&dir, "old");
    ca.write(&dir, "own");
    let private = std::fs::Permissions::from_mode(0o640);
    std::fs::set_permissions(dir.path("own.key"), private).unwrap();
    let config = "server { listen LISTEN ssl; ssl_certificate DIRECTORYold.crt; ssl_certificate_key DIRECTORYold.key; }
        server { listen OTHER ssl; ssl_certificate DIRECTORYown.crt; ssl_certificate_key DIRECTORYown.key; }";
    let proxy = start(&dir, config, &[]);
    let warnings =
        ["old.crt\" has expired", "old.crt\" has no intermediate certificates", "old.key\" has the mode 0644"];
    for text in warnings {
        proxy.wait_for_error_line(&["[warn]", text]).unwrap();
    }
    assert!(!proxy.error_lines().iter().any(|line| line.contains("own.")), "{:?}", proxy.error_lines());
    let out = run(&proxy.dir, &["-t"], "smolgate.conf");
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && warnings.iter().all(|text| err.contains(text)), "{err}");
}

/// The formats and types of keys.
#[test]
fn formats_of_keys() {
    let dir = TempDir::new();
    let shell = |line: &str| {
        let done = std::process::Command::new("sh").current_dir(dir.path("")).args(["-c", line]).output().unwrap();
        assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
    };
    if std::process::Command::new("openssl").arg("version").output().is_err() {
        return; // only OpenSSL writes all formats
    }
    for (name, make) in [
        ("pkcs1", "openssl genrsa -traditional -out pkcs1.key 2048"),
        ("pkcs8", "openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out pkcs8.key"),
        ("sec1", "openssl ecparam -genkey -name prime256v1 -out sec1.key"),
        ("p384", "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out p384.key"),
        ("ed25519", "openssl genpkey -algorithm ED25519 -out ed25519.key"),
    ] {
        shell(make);
        shell(&format!("openssl req -x509 -new -key {name}.key -subj /CN={name} -out {name}.crt"));
        dir.write(
            "kind.conf",
            format!("server {{ listen 1 ssl; ssl_certificate {name}.crt; ssl_certificate_key {name}.key; }}"),
        );
        let out = run(&dir, &["-t"], "kind.conf");
        assert_eq!(out.status.code(), Some(0), "{name}: {}", String::from_utf8_lossy(&out.stderr));
    }
    // A certificate with trust settings: of a server it is read without them.
    shell("openssl x509 -in p384.crt -trustout -addtrust serverAuth -setalias a -out trusted.crt");
    for (more, code) in [("", 0), ("ssl_verify_client on; ssl_client_certificate trusted.crt;", 2)] {
        let text =
            format!("server {{ listen 1 ssl; ssl_certificate trusted.crt; ssl_certificate_key p384.key; {more} }}");
        dir.write("kind.conf", text);
        let out = run(&dir, &["-t"], "kind.conf");
        let err = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{err}");
        assert_eq!(err.contains("trust settings"), code != 0, "{err}");
    }
}

/// The memory of connections without a handshake, and of idle TLS connections.
#[test]
fn memory_of_idle_connections() {
    let (dir, ca) = certificates();
    let proxy = start(&dir, &format!("{PAIR} server {{ listen LISTEN ssl; return 200; }}"), &[]);
    let clients = TlsConnector::trusting(&ca, None);
    let connect = |count: usize| -> Vec<_> {
        (0..count)
            .map(|_| {
                let mut client = clients.connect(proxy.addr, "a.example").unwrap();
                client.request(GET, 200).unwrap();
                client
            })
            .collect()
    };
    let warm = connect(100);
    let before = proxy.resident_kib();
    let more = connect(300);
    let each = (proxy.resident_kib().saturating_sub(before)) * 1024 / 300;
    assert!(each < 12_000, "{each} bytes for one of {}", warm.len() + more.len());
    let silent: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(proxy.addr).unwrap()).collect();
    wait_for("connections without a handshake", || proxy.open_descriptors() > 650);
    drop(silent);
}
