//! `proxy_pass` with variables: which hosts and ports a client may choose.

use crate::cases::{check, run_cases};
use crate::client::Client;
use crate::harness::{Proxy, TempDir, run};
use crate::peer::Peer;
use crate::response_rows::{ResponseRow, format_request, run_response_rows};

/// An upstream for each configuration, so that none is rejected as an open proxy.
const KNOWN: &str = "upstream known { server 127.0.0.1:1; }
    map $arg_h $captured { ~^(?<m>.*)$ $m; }
    map $arg_h $numbered { ~^(.*)$ $1; }
    map $arg_h $nested { default $captured; }";

/// Sends a request with `UP`, the address of a peer, in every place where a client can put it.
fn request_with_address(proxy: &Proxy, up: &Peer, target: &str) -> Result<u16, String> {
    let addr = up.addr;
    let target = target.replace("UP", &addr.to_string());
    let target = target.replace("PORT", &addr.port().to_string());
    // "UP:x" in Base64, whatever the port is.
    let credentials = base64(&format!("{addr}"));
    let head = format_request(&format!(
        "{target}\nX: {addr}\nCookie: h={addr}\nContent-Type: {addr}\nAuthorization: Basic {credentials}\nReferer: http://{addr}/"
    ));
    let mut client = Client::connect_and_send(proxy.addr, head.as_bytes());
    client.read_response_to("GET").map(|response| response.status)
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in text.as_bytes().chunks(3) {
        let bits = three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            out.push(if at <= three.len() { digit.into() } else { '=' });
        }
    }
    out
}

#[test]
fn hosts_chosen_by_the_client_are_not_reached() {
    let up = Peer::start_echo();
    let rows: &[(&'static str, &str, &str)] = &[
        ("$1", "location ~ ^/p/([^/]+)/ { proxy_pass http://$1; }", "/p/UP/x"),
        ("$1, with a path", "location ~ ^/p/([^/]+)/(.*) { proxy_pass http://$1/$2; }", "/p/UP/x"),
        ("a named group", "location ~ ^/p/(?<h>[^/]+)/ { proxy_pass http://$h; }", "/p/UP/x"),
        ("set", "location /p { set $h $arg_h; proxy_pass http://$h; }", "/p?h=UP"),
        ("set twice", "location /p { set $h $arg_h; set $i $h; proxy_pass http://$i/; }", "/p?h=UP"),
        (
            "set in an if",
            "location /p { set $h known; if ($arg_h) { set $h $arg_h; } proxy_pass http://$h; }",
            "/p?h=UP",
        ),
        ("set by the server", "set $h $arg_h; location /p { proxy_pass http://$h; }", "/p?h=UP"),
        ("a group of an if", "location /p { if ($args ~ h=(?<h>.*)) { } proxy_pass http://$h; }", "/p?h=UP"),
        ("a group of a rewrite", "location /p { rewrite ^/p/(.*)$ /$1 break; proxy_pass http://$1; }", "/p/UP"),
        ("the whole URL", "location /p { proxy_pass $arg_u; }", "/p?u=http://UP/"),
        (
            "a variable that is not set",
            "location /p { proxy_pass $u$arg_u; } location /q { set $u http://known; }",
            "/p?u=http://UP",
        ),
        ("a scheme", "location /p { proxy_pass $arg_u://known; }", "/p?u=http://UP/x?"),
        ("an argument", "location /p { proxy_pass http://$arg_h; }", "/p?h=UP"),
        ("a header", "location /p { proxy_pass http://$http_x; }", "/p"),
        ("server_name", "location /p { proxy_pass http://$sub:PORT; }", "/p\nHost: 127.0.0.1"),
        ("$remote_user", "location /p { proxy_pass http://$remote_user:PORT; }", "/p"),
        ("$request_body", "location /p { proxy_pass http://$request_body; }", "/p"),
        ("a cookie", "location /p { proxy_pass http://$cookie_h; }", "/p"),
        ("a map", "location /p { proxy_pass http://$captured; }", "/p?h=UP"),
        ("a map by number", "location /p { proxy_pass http://$numbered; }", "/p?h=UP"),
        ("a map of a map", "location /p { proxy_pass http://$nested; }", "/p?h=UP"),
        ("$content_type", "location /p { proxy_pass http://$content_type; }", "/p"),
        ("the end of a host", "location /p { proxy_pass http://127.0.0.$arg_h:PORT/; }", "/p?h=1"),
        ("the start of a host", "location /p { proxy_pass http://$arg_h.0.0.1:PORT/; }", "/p?h=127"),
        ("user information", "location ~ ^/p/(.*)$ { proxy_pass http://127.0.0.1:$1/; }", "/p/1@UP"),
        (
            "a path without a slash",
            "location /p/ { rewrite ^/p/(.*)$ $1 break; proxy_pass http://127.0.0$uri; }",
            "/p/.1:PORT/",
        ),
        ("a path behind an address", "location ~ ^/p(.*)$ { proxy_pass http://127.0.0$1; }", "/p.1:PORT/"),
    ];
    let row = |(_, inner, target): &(&'static str, &str, &str)| {
        let inner = inner.replace("PORT", &up.addr.port().to_string());
        let proxy = Proxy::start(&format!("{KNOWN} server {{ listen LISTEN; server_name ~^(?<sub>.+)$; {inner} }}"));
        let status = request_with_address(&proxy, &up, target)?;
        check(matches!(status, 500 | 502), || format!("got {status}"))?;
        check(up.connections() == 0, || "the peer was reached".to_owned())
    };
    run_cases(rows.iter().map(|of| (of.0, move || row(of))));
}

#[test]
fn ports_chosen_by_the_client_are_only_ports() {
    let up = Peer::start_echo();
    let proxy = Proxy::start_with_peers(
        "server { listen LISTEN;
            location ~ ^/all/(.*)$ { proxy_pass http://127.0.0.1:$1; }
            location ~ ^/path/p([^/]*)/(.*)$ { proxy_pass http://127.0.0.1:$1/$2$is_args$args; }
            location /arg { proxy_pass http://127.0.0.1:$arg_p/; }
            location /set { set $u http://127.0.0.1:$arg_p; proxy_pass $u/x; } }",
        &[],
    );
    let port = up.addr.port();
    let with_port = |target: &str| target.replace("PORT", &port.to_string());
    let targets = ["/all/PORT", "/path/pPORT/a/b?c", "/arg?p=PORT", "/set?p=PORT"].map(with_port);
    for target in &targets {
        Client::connect(proxy.addr).request(format_request(target).as_bytes(), 200).unwrap();
    }
    let reached = up.connections();
    let bad = [
        "",
        "0",
        "65536",
        "PORTx",
        "x",
        "PORT@127.0.0.1",
        "PORT@127.0.0.1:PORT",
        "1.evil.test",
        "+PORT",
        "-1",
        ":PORT",
    ];
    for bad in bad.map(with_port) {
        for path in ["/all/PART", "/path/pPART/x", "/arg?p=PART", "/set?p=PART"] {
            let target = path.replace("PART", &bad);
            Client::connect(proxy.addr)
                .request(format_request(&target).as_bytes(), 502)
                .unwrap_or_else(|why| panic!("{target}: {why}"));
        }
    }
    for target in
        ["/all/PORT/x", "/all//x", "/all/PORT%3Fx", "/path/pPORT%3Fx/y", "/arg?p=PORT/x", "/arg?p=/x"].map(with_port)
    {
        Client::connect(proxy.addr)
            .request(format_request(&target).as_bytes(), 502)
            .unwrap_or_else(|why| panic!("{target}: {why}"));
    }
    proxy.wait_for_error_line(&["[error]", "\"http://127.0.0.1:\" is not followed by a port", "client: "]).unwrap();
    assert_eq!(up.connections(), reached);
}

/// Configurations of noVNC, ttyd, code-server and others: the host is fixed, and the client chooses the rest.
#[test]
fn fixed_hosts_are_reached() {
    let up = Peer::start(|connection| {
        while let Some(request) = connection.read_request() {
            let target = request.target().to_owned();
            connection.respond(&request, &target);
        }
    });
    let proxy = Proxy::start_with_peers(
        r"map $host $backend { default UP; other.test 127.0.0.1:1; }
        map $http_upgrade $url { default http://UP; websocket http://127.0.0.1:1; }
        server { listen LISTEN; set $base http://UP;
            location ~ ^/vnc/(\d+)/(.*)$ { proxy_pass http://127.0.0.1:$1/$2$is_args$args; }
            location ~ ^/proxy/(\d+)/(.*) { proxy_pass http://127.0.0.1:$1/$2; }
            location ~ ^/set/(.*)$ { set $u http://UP; proxy_pass $u/$1$is_args$args; }
            location ~ ^/slash/(.*)$ { set $u http://UP/; proxy_pass $u$1; }
            location ~ ^/base(/.*)$ { proxy_pass $base$1?c=$cookie_x; }
            location ~ ^/glued(/.*)$ { proxy_pass http://UP$1; }
            location ~ ^/joined(/.*)$ { set $u http://UP$1; proxy_pass $u; }
            location ~ ^/joined-uri { set $u http://UP$uri$is_args$args; proxy_pass $u; }
            location /arg { proxy_pass http://UP/x?a=$arg_a; }
            location /whole { set $u http://UP; proxy_pass $u; }
            location /uri { proxy_pass http://UP$uri$is_args$args; }
            location ~ ^/map/(.*)$ { proxy_pass http://$backend/$1$is_args$args; }
            location ~ ^/url/(.*)$ { proxy_pass $url/$1$is_args$args; }
            location ~ ^/local(/.*)$ { proxy_pass $scheme://$server_addr:PEERPORT$1; }
            # A host that a client may choose elsewhere, among those that are named.
            location /chosen { proxy_pass http://$arg_h; } }"
            .replace("PEERPORT", &up.addr.port().to_string())
            .as_str(),
        &[("UP", &up)],
    );
    let port = up.addr.port();
    let (vnc, code_server) = (format!("/vnc/{port}/websockify?a=1"), format!("/proxy/{port}/static/x.js"));
    let rows: &[ResponseRow<'_>] = &[
        ("noVNC", &vnc, 200, "=/websockify?a=1"),
        ("code-server", &code_server, 200, "=/static/x.js"),
        ("set", "/set/x?a=1", 200, "=/x?a=1"),
        ("set, with a slash", "/slash/x", 200, "=/x"),
        ("set by the server", "/base/x\nCookie: x=1", 200, "=/x?c=1"),
        ("glued", "/glued/x", 200, "=/x"),
        ("glued in a set", "/joined/x", 200, "=/x"),
        ("$uri in a set", "/joined-uri?a", 200, "=/joined-uri?a"),
        ("an argument", "/arg?a=http://evil.test/", 200, "=/x?a=http://evil.test/"),
        ("the whole URL", "/whole?a", 200, "=/whole?a"),
        ("$uri", "/uri?a=1", 200, "=/uri?a=1"),
        ("a map of hosts", "/map/x?a=1", 200, "=/x?a=1"),
        ("a map of URLs", "/url/x?a=1", 200, "=/x?a=1"),
        ("the server's address", "/local/x", 200, "=/x"),
    ];
    run_response_rows(&proxy, rows);
}

#[test]
fn errors_and_notes_of_a_configuration() {
    let dir = TempDir::new();
    let test = |inner: &str| {
        dir.write("a.conf", format!("server {{ listen 8080; {inner} }}"));
        let output = run(&dir, &["-t"], "a.conf");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for inner in [
        "location ~ ^/([^/]+)/ { proxy_pass http://$1; }",
        "location ~ ^/(?<h>[^/]+)/ { proxy_pass http://$h; }",
        "location / { set $h $http_x; proxy_pass http://$h; }",
        "location / { proxy_pass $scheme://$content_type; }",
    ] {
        let (code, err) = test(inner);
        assert_eq!(code, Some(2), "{inner}: {err}");
        assert!(err.contains("lets the client choose any host"), "{err}");
    }
    let note = "note: \"proxy_pass\": the client can choose the port";
    for (inner, noted) in [
        ("location ~ ^/(.*) { proxy_pass http://127.0.0.1:80/$1$is_args$args; }", false),
        ("location ~ ^/(.*) { set $u http://127.0.0.1:80; proxy_pass $u/$1$is_args$args; }", false),
        ("resolver 127.0.0.11; location / { set $u http://app:80; proxy_pass $u; }", false),
        ("resolver 127.0.0.11; location ~ ^/(.*) { proxy_pass http://$1; }", false),
        ("location ~ ^(.*) { proxy_pass http://127.0.0.1$1; }", false),
        ("location ~ ^/(.*)/(.*) { proxy_pass http://127.0.0.1:$1/$2$is_args$args; }", true),
    ] {
        let (code, err) = test(inner);
        assert_eq!(code, Some(0), "{inner}: {err}");
        assert_eq!(err.contains(note), noted, "{inner}: {err}");
    }
}

/// With a `resolver` any host is allowed, but no Unix socket.
#[test]
fn with_a_resolver_any_host_is_reached_but_no_socket() {
    let up = Peer::start_echo();
    let proxy = Proxy::start(
        "server { listen LISTEN; resolver 127.0.0.1:1; resolver_timeout 100ms;
            location / { proxy_pass http://$arg_h; }
            location /fixed { proxy_pass http://127.0.0.1:$arg_p/; } }",
    );
    let get = |target: String, status| Client::connect(proxy.addr).request(format_request(&target).as_bytes(), status);
    get(format!("/?h={}", up.addr), 200).unwrap();
    get(format!("/fixed?p={}@127.0.0.1:{0}", up.addr.port()), 502).unwrap();
    get("/?h=unix:/run/docker.sock".to_owned(), 502).unwrap();
    proxy.wait_for_error_line(&["\"unix:/run/docker.sock\" is a socket that the client has chosen"]).unwrap();
    assert_eq!(up.connections(), 1);
}
