//! TLS towards upstreams.

use std::io::{Read, Write};

use crate::client::{Client, show};
use crate::harness::{Folder, Gate, run};
use crate::peer::{Peer, SWITCHING};
use crate::rows::{case, check, same, verify_at_once};
use crate::tls_fixtures::{Clients, Made, accept, authority};

/// A folder with certificates, and who issued them.
fn certified() -> (Folder, Made) {
    let folder = Folder::new();
    let ca = authority("authority");
    ca.issues("up.example").write(&folder, "up");
    ca.issues_with("old.example", |params| params.not_after = rcgen::date_time_ymd(2024, 1, 1)).write(&folder, "old");
    ca.issues("device").write(&folder, "device");
    folder.write("ca.crt", ca.pem());
    folder.write("other.crt", authority("other").pem());
    (folder, ca)
}

fn start(folder: &Folder, config: &str, peers: &[(&str, &Peer)]) -> Gate {
    Gate::before(&config.replace("FOLDER", &folder.path("").display().to_string()), peers)
}

/// An upstream of TLS, which is a gate too.
fn upstream(folder: &Folder, peer: &Peer) -> Gate {
    let says = "return 200 \"$ssl_protocol,$ssl_server_name,$ssl_client_s_dn,$connection\";";
    let config = format!(
        "ssl_certificate FOLDERup.crt; ssl_certificate_key FOLDERup.key; client_max_body_size 0;
         server {{ listen LISTEN ssl; ssl_verify_client optional_no_ca;
            location / {{ proxy_pass http://PEER; }} location /says {{ {says} }} }}
         server {{ listen OTHER ssl; ssl_certificate FOLDERold.crt; ssl_certificate_key FOLDERold.key; {says} }}"
    );
    start(folder, &config, &[("PEER", peer)])
}

fn ask(gate: &Gate, target: &str, status: u16) -> Result<String, String> {
    let reply =
        Client::connect(gate.addr).ask(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), status)?;
    Ok(String::from_utf8_lossy(&reply.body).into_owned())
}

#[test]
fn what_is_said_and_asked_in_handshakes() {
    let (folder, _) = certified();
    let peer = Peer::polite();
    let up = upstream(&folder, &peer);
    let trusted = "proxy_ssl_trusted_certificate FOLDERca.crt; proxy_ssl_verify on;";
    let location = |name: &str, more: &str| format!("location /{name} {{ {more} proxy_pass https://UP/says; }}\n");
    let config = [
        "upstream named { server UP; } server { listen LISTEN;\n".to_owned(),
        location("plainly", ""),
        location("name", "proxy_ssl_name up.example; proxy_ssl_server_name on;"),
        location("unsent", "proxy_ssl_name up.example;"),
        location("made", "proxy_ssl_name $arg_name; proxy_ssl_server_name on;"),
        location("old", "proxy_ssl_protocols TLSv1.2;"),
        location("own", "proxy_ssl_certificate FOLDERdevice.crt; proxy_ssl_certificate_key FOLDERdevice.key;"),
        location("trusted", &format!("proxy_ssl_name up.example; {trusted}")),
        location("misnamed", &format!("proxy_ssl_name down.example; {trusted}")),
        location("distrusted", "proxy_ssl_verify on; proxy_ssl_trusted_certificate FOLDERother.crt;"),
        format!("location /expired {{ proxy_ssl_name old.example; {trusted} proxy_pass https://EXPIRED; }}"),
        "location /named { proxy_ssl_server_name on; proxy_pass https://named/says; }".to_owned(),
        "location /variable { set $scheme_there https; proxy_pass $scheme_there://UP/says; }".to_owned(),
        "location /plain { proxy_pass http://UP/; } }".to_owned(),
    ]
    .concat();
    let config = config.replace("UP", &up.addr.to_string()).replace("EXPIRED", &up.other.to_string());
    let gate = start(&folder, &config, &[]);
    let says = |target: &str, expected: &str| {
        let said = ask(&gate, target, 200)?;
        check(said.starts_with(expected), || said)
    };
    let fails = |target: &str, why: &str| {
        ask(&gate, target, 502)?;
        gate.wait_for_error(&["while SSL handshaking to upstream", "upstream: \"https://", why])
    };
    verify_at_once(vec![
        case("by default", || says("/plainly", "TLSv1.3,,,")),
        case("a name", || says("/name", "TLSv1.3,up.example,,")),
        case("a name that is not sent", || says("/unsent", "TLSv1.3,,,")),
        case("a name that is made", || says("/made?name=x.example", "TLSv1.3,x.example,,")),
        case("a name that is none", || says("/made?name=a%20b", "TLSv1.3,,,")),
        case("the name of an upstream", || says("/named", "TLSv1.3,named,,")),
        case("a scheme that is made", || says("/variable", "TLSv1.3,,,")),
        case("TLS 1.2", || says("/old", "TLSv1.2,,,")),
        case("a certificate of our own", || says("/own", "TLSv1.3,,CN=device")),
        case("verified", || says("/trusted", "TLSv1.3,,,")),
        case("another name", || fails("/misnamed", "hostname mismatch")),
        case("another issuer", || fails("/distrusted", "unable to verify the first certificate")),
        case("expired", || fails("/expired", "certificate has expired")),
        case("plain HTTP to TLS", || {
            let page = ask(&gate, "/plain", 400)?;
            check(page.contains("plain HTTP request was sent to HTTPS port"), || page)
        }),
    ]);
}

/// Connections are used again, but only for who would have made them alike.
#[test]
fn connections_are_kept() {
    let (folder, _) = certified();
    let peer = Peer::polite();
    let up = upstream(&folder, &peer);
    let config = "server { listen LISTEN; proxy_ssl_server_name on;
        location /a { proxy_ssl_name a.example; proxy_pass https://UP/says; }
        location /b { proxy_ssl_name b.example; proxy_pass https://UP/says; } }";
    let gate = start(&folder, &config.replace("UP", &up.addr.to_string()), &[]);
    let said: Vec<String> = ["/a", "/b", "/a", "/b"].iter().map(|target| ask(&gate, target, 200).unwrap()).collect();
    assert!(said[0].contains(",a.example,") && said[1].contains(",b.example,"), "{said:?}");
    assert!(said[0] == said[2] && said[1] == said[3], "{said:?}");
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 7 % 251) as u8).collect()
}

#[test]
fn bodies_and_tunnels_from_end_to_end() {
    const BURST: usize = 3_000_000;
    let (folder, ca) = certified();
    let peer = Peer::start(|connection| {
        while let Some(request) = connection.request() {
            if request.head.contains("\r\nUpgrade: ") {
                connection.send(SWITCHING);
                connection.send(&pattern(BURST));
                let came = connection.take(BURST).is_some_and(|bytes| bytes == pattern(BURST));
                connection.send(if came { b"all" } else { b"not" });
                return connection.drain();
            }
            let text = format!("{} {}", request.body.len(), request.body == pattern(request.body.len()));
            connection.answer(&request, &text);
        }
    });
    let up = upstream(&folder, &peer);
    let config = "ssl_certificate FOLDERup.crt; ssl_certificate_key FOLDERup.key; client_max_body_size 0;
        server { listen LISTEN ssl; location / { proxy_pass https://UP; } }";
    let gate = start(&folder, &config.replace("UP", &up.addr.to_string()), &[]);
    let clients = Clients::trusting(&ca, None);
    verify_at_once(vec![
        case("a body", || {
            let mut client = clients.connect(gate.addr, "up.example")?;
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {BURST}\r\n\r\n");
            let reply = client.ask(&[head.as_bytes(), &pattern(BURST)].concat(), 200)?;
            same("the upstream", &reply.body, format!("{BURST} true").as_bytes())
        }),
        case("a tunnel", || {
            let mut client = clients.connect(gate.addr, "up.example")?;
            client.ask(b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 101)?;
            check(client.take(BURST)? == pattern(BURST), || "other bytes came".to_owned())?;
            client.send(&pattern(BURST));
            same("the upstream", &client.take(3)?, b"all")?;
            client.finish();
            client.expect_end()
        }),
    ]);
}

#[test]
fn upstreams_that_fail() {
    let (folder, ca) = certified();
    let made = ca.issues("up.example");
    let plain = Peer::start(|connection| {
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno");
        connection.drain();
    });
    let silent = Peer::start(|connection| connection.drain());
    let closing = Peer::start(|_| {});
    // An answer that ends with its connection: with a word, and without.
    let ending = Peer::start(move |connection| {
        let Ok(mut stream) = accept(&connection.stream, &made) else { return };
        let mut request = [0; 4096];
        let count = stream.read(&mut request).unwrap();
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\npart").unwrap();
        if request[..count].starts_with(b"GET /whole") {
            stream.conn.send_close_notify();
        }
        stream.flush().unwrap();
    });
    let config = "proxy_connect_timeout 1s; proxy_next_upstream off; server { listen LISTEN;
        location /plain { proxy_pass https://PLAIN; } location /silent { proxy_pass https://SILENT; }
        location /closing { proxy_pass https://CLOSING; } location / { proxy_pass https://ENDING; } }";
    let peers = [("PLAIN", &plain), ("SILENT", &silent), ("CLOSING", &closing), ("ENDING", &ending)];
    let gate = start(&folder, config, &peers);
    verify_at_once(vec![
        case("K13 K70 one that speaks plainly", || ask(&gate, "/plain", 502).map(drop)),
        case("one that says nothing", || ask(&gate, "/silent", 504).map(drop)),
        case("one that closes", || ask(&gate, "/closing", 502).map(drop)),
        case("K22 a whole answer", || same("it", ask(&gate, "/whole", 200)?.as_bytes(), b"part")),
        case("K22 an answer that may be cut", || {
            let mut client = Client::asking(gate.addr, b"GET /cut HTTP/1.1\r\nHost: a\r\n\r\n");
            let got = client.rest()?;
            check(!got.ends_with(b"0\r\n\r\n"), || show(&got))
        }),
    ]);
    gate.wait_for_error(&["upstream timed out", "while SSL handshaking to upstream"]).unwrap();
    gate.wait_for_error(&["upstream prematurely closed connection", "/cut"]).unwrap();
}

#[test]
fn mistakes_are_shown() {
    let (folder, _) = certified();
    let folder = &folder;
    let lines = [
        ("who is trusted", "proxy_ssl_verify on;", "no \"proxy_ssl_trusted_certificate\""),
        ("a certificate without a key", "proxy_ssl_certificate device.crt;", "no \"proxy_ssl_certificate_key\""),
        (
            "another key",
            "proxy_ssl_certificate device.crt; proxy_ssl_certificate_key up.key;",
            "is not that of the certificate",
        ),
        ("no such file", "proxy_ssl_verify on; proxy_ssl_trusted_certificate none.crt;", "none.crt"),
        ("old versions", "proxy_ssl_protocols TLSv1;", "names no version that is spoken here"),
    ];
    let cases = lines.iter().enumerate().map(|(at, (id, text, expected))| {
        case(id, move || {
            let file = format!("{at}.conf");
            folder.write(&file, format!("server {{ location / {{ {text} proxy_pass https://127.0.0.1:1; }} }}"));
            let out = run(folder, &["-t"], &file);
            let err = String::from_utf8_lossy(&out.stderr).into_owned();
            check(out.status.code() == Some(2) && err.contains(expected), || err)
        })
    });
    verify_at_once(cases.collect());
}
