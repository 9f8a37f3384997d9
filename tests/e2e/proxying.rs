//! Proxying: locations, server names, request targets, headers, redirects, retries, maps, logs, bodies.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Mutex, mpsc};

use regex_lite::Regex;

use crate::cases::{case, check, check_equal, run_cases, run_concurrently};
use crate::client::{Client, Response, show};
use crate::harness::{Proxy, TIMEOUT, TempDir, wait_for};
use crate::peer::Peer;
use crate::request_rows::Outcome::{Forwarded, ForwardedLast};
use crate::request_rows::run_request_rows;
use crate::response_rows::{ResponseRow, format_request, run_response_row, run_response_rows};

/// Sends `GET TARGET` on a new connection.
fn get(proxy: &Proxy, target: &str) -> Result<Response, String> {
    Client::connect_and_send(proxy.addr, format_request(target).as_bytes()).read_response()
}

/// Returns the bodies of `count` responses to `GET TARGET`, each on a new connection.
fn bodies(proxy: &Proxy, target: &str, count: usize) -> Result<Vec<String>, String> {
    (0..count)
        .map(|_| get(proxy, target).map(|response| String::from_utf8_lossy(&response.body).into_owned()))
        .collect()
}

/// Starts a peer that responds with its name and the target.
fn named(name: &'static str) -> Peer {
    Peer::start(move |connection| {
        while let Some(request) = connection.read_request() {
            connection.respond(&request, &format!("{name} {}", request.target()));
        }
    })
}

/// Starts a peer that sends the response in a header of the request: `X-Send: 200 OK|Name: value|=body`.
pub(crate) fn start_scripted() -> Peer {
    Peer::start(|connection| {
        while let Some(request) = connection.read_request() {
            let line = request.head.lines().find_map(|line| line.strip_prefix("X-Send: "));
            let mut parts = line.unwrap_or("200 OK").split('|');
            let mut response = format!("HTTP/1.1 {}\r\n", parts.next().unwrap());
            let (body, fields): (Vec<&str>, Vec<&str>) = parts.partition(|part| part.starts_with('='));
            fields.iter().for_each(|field| response.push_str(&format!("{field}\r\n")));
            let body = body.concat().replace('=', "").replace("\\n", "\r\n");
            if !response.contains("chunked") && !response.contains(" 204 ") && !response.contains(" 304 ") {
                response.push_str(&format!("Content-Length: {}\r\n", body.len()));
            }
            connection.send(format!("{response}\r\n{body}").as_bytes());
        }
    })
}

#[test]
fn locations() {
    let proxy = Proxy::start(
        r"server { listen LISTEN;
            location / { return 200 root; }
            location = /exact { return 200 exact; }
            location /exact { return 200 prefix; }
            location /long { return 200 long; }
            location /long/er { return 200 longer; }
            location ^~ /static { return 200 static; }
            location ~ \.one$ { return 200 one; }
            location ~ \.(one|two)$ { return 200 two; }
            location ~* \.JPG$ { return 200 jpg; }
            location ~ ^/(?<kind>[a-z]+)-(\d+)$ { return 200 $kind,$2; }
            location /outer { return 200 outer;
                location /outer/in { return 200 in; }
                location = /outer/just { return 200 just; }
                location ~ \.two$ { return 200 nested; } } }",
    );
    let rows: &[ResponseRow<'_>] = &[
        ("the rest", "/else", 200, "=root"),
        ("exact", "/exact", 200, "=exact"),
        ("exact with arguments", "/exact?a=/else", 200, "=exact"),
        ("longer than exact", "/exact/x", 200, "=prefix"),
        ("prefixes are case-sensitive", "/EXACT", 200, "=root"),
        ("a prefix", "/longest", 200, "=long"),
        ("the longest prefix", "/long/er/x", 200, "=longer"),
        ("the normalized path", "/x/../long//er%2Fx", 200, "=longer"),
        ("no expressions behind ^~", "/static/x.one", 200, "=static"),
        ("an expression before a prefix", "/long/x.one", 200, "=one"),
        ("the first matching expression", "/x.two", 200, "=two"),
        ("any case", "/X.jPg", 200, "=jpg"),
        ("not any case", "/x.ONE", 200, "=root"),
        ("captures", "/item-42", 200, "=item,42"),
        ("no nested location", "/outer/x", 200, "=outer"),
        ("a nested prefix", "/outer/inner", 200, "=in"),
        ("a nested exact one", "/outer/just", 200, "=just"),
        ("a nested expression comes first", "/outer/x.two", 200, "=nested"),
        ("an expression of the server", "/outer/x.one", 200, "=one"),
    ];
    run_response_rows(&proxy, rows);
}

#[test]
fn redirects_to_proxied_locations_with_a_slash() {
    let peer = Peer::start_echo();
    let config = "server { listen LISTEN; return 404;
        } server { listen LISTEN; server_name a;
            location /x/ { proxy_pass http://PEER; }
            location /y/ { proxy_pass http://PEER/; } location = /y { return 200 own; }
            location /z/ { return 204; } }";
    let rows: &[ResponseRow<'_>] = &[
        ("without slash", "/x", 301, "Location: http://a:PORT/x/"),
        ("with arguments", "/x?b=/c", 301, "Location: http://a:PORT/x/?b=/c"),
        ("with slash", "/x/", 200, "=/x/"),
        ("below", "/x/y", 200, "=/x/y"),
        ("other paths", "/xy", 404, ""),
        ("an own location", "/y", 200, "=own"),
        ("nothing is proxied", "/z", 404, ""),
    ];
    run_response_rows(&Proxy::start_with_peers(config, &[("PEER", &peer)]), rows);
    assert_eq!(peer.connections(), 1);
}

#[test]
fn server_names() {
    let proxy = Proxy::start(
        r#"server { listen LISTEN; listen OTHER; server_name first; return 200 first; }
        server { listen LISTEN default_server; server_name x; return 200 default; }
        server { listen LISTEN; server_name plain.example other.example; return 200 plain; }
        server { listen LISTEN; server_name *.wild.example; return 200 wild; }
        server { listen LISTEN; server_name *.deep.wild.example; return 200 deep; }
        server { listen LISTEN; server_name www.tail.*; return 200 tail; }
        server { listen LISTEN; server_name .dot.example; return 200 dot; }
        server { listen LISTEN; server_name ~^(?<user>[a-z]+)\.(wild|users)\.example$; return 200 user=$user; }
        server { listen LISTEN; server_name ~^.*\.users\.example$; return 200 later; }
        server { listen OTHER; server_name ""; return 200 nameless; }"#,
    );
    let rows: &[ResponseRow<'_>] = &[
        ("exact", "/\nHost: plain.example", 200, "=plain"),
        ("the second name", "/\nHost: other.example", 200, "=plain"),
        ("with a port", "/\nHost: plain.example:81", 200, "=plain"),
        ("any case", "/\nHost: PLAIN.Example", 200, "=plain"),
        ("a dot at the end", "/\nHost: plain.example.", 200, "=plain"),
        ("*.", "/\nHost: a.b.wild.example", 200, "=wild"),
        ("*. before an expression", "/\nHost: joe.wild.example", 200, "=wild"),
        ("*. is not the name itself", "/\nHost: wild.example", 200, "=default"),
        ("the longest *.", "/\nHost: a.deep.wild.example", 200, "=deep"),
        (".*", "/\nHost: www.tail.org", 200, "=tail"),
        (".x as name", "/\nHost: dot.example", 200, "=dot"),
        (".x as end", "/\nHost: a.b.dot.example", 200, "=dot"),
        ("an expression", "/\nHost: joe.users.example", 200, "=user=joe"),
        ("the next expression", "/\nHost: joe1.users.example", 200, "=later"),
        ("none", "/\nHost: unknown", 200, "=default"),
        ("the target's host", "GET http://plain.example/\nHost: plain.example", 200, "=plain"),
    ];
    run_response_rows(&proxy, rows);
    for (addr, body) in [(proxy.addr, "default"), (proxy.other, "nameless")] {
        let response = Client::connect(addr).request(b"GET / HTTP/1.0\r\n\r\n", 200).unwrap();
        assert_eq!(String::from_utf8_lossy(&response.body), body, "without Host");
    }
    let response = Client::connect(proxy.other).request(b"GET / HTTP/1.1\r\nHost: plain.example\r\n\r\n", 200).unwrap();
    assert_eq!(response.body, b"first", "the first server of an address is its default");
}

#[test]
fn targets_for_upstreams() {
    let (one, two) = (named("one"), named("two"));
    let config = r"map $arg_to $up { default one; two two; }
        upstream one { server ONE; } upstream two { server TWO; }
        server { listen LISTEN;
            location /bare { proxy_pass http://one; }
            location /slash/ { proxy_pass http://one/; }
            location /path/ { proxy_pass http://one/other/; }
            location /glued { proxy_pass http://one/x; }
            location = /exact { proxy_pass http://one/single; }
            location /mapped { proxy_pass http://$up$request_uri; }
            location /mapped/bare { proxy_pass http://$up; }
            location /named { proxy_pass http://one$request_uri; }
            location /address { proxy_pass http://TWO/by/; }
            location /rewritten { rewrite ^/rewritten/(.*)$ /new/$1 break; proxy_pass http://one/ignored/; }
            location ~ ^/re/(\w+)/(.*)$ { proxy_pass http://two/$2/$1; }
            location ~ ^/kept/(.*)$ { proxy_pass http://one/$1$is_args$args; }
            location ~ ^/plain/ { proxy_pass http://one; } }";
    let proxy = Proxy::start_with_peers(config, &[("ONE", &one), ("TWO", &two)]);
    let rows: &[ResponseRow<'_>] = &[
        ("bare", "/bare/x?a=1&b=%20", 200, "=one /bare/x?a=1&b=%20"),
        ("bare, as written", "/bare/.//%7E/%2f/../x?", 200, "=one /bare/.//%7E/%2f/../x?"),
        ("slash", "/slash/x/y", 200, "=one /x/y"),
        ("slash with arguments", "/slash/x?a=1&b=%20", 200, "=one /x?a=1&b=%20"),
        ("slash alone", "/slash/", 200, "=one /"),
        ("slash, normalized", "/slash/x/../y%20z//w", 200, "=one /y%20z/w"),
        ("path", "/path/x?a", 200, "=one /other/x?a"),
        ("glued", "/glued/y", 200, "=one /x/y"),
        ("glued without slash", "/gluedy", 200, "=one /xy"),
        ("exact", "/exact?a=1", 200, "=one /single?a=1"),
        ("mapped", "/mapped/%7E?to=two", 200, "=two /mapped/%7E?to=two"),
        ("mapped by default", "/mapped/x", 200, "=one /mapped/x"),
        ("mapped, without URI", "/mapped/bare/%7E?to=two", 200, "=two /mapped/bare/%7E?to=two"),
        ("a name and $request_uri", "/named/%7E?a=1", 200, "=one /named/%7E?a=1"),
        ("an address", "/address/x", 200, "=two /by//x"),
        ("rewritten", "/rewritten/x?a=1", 200, "=one /new/x?a=1"),
        ("captures", "/re/ab/cd/ef?a=1", 200, "=two /cd/ef/ab"),
        ("captures and arguments", "/kept/x?a=1", 200, "=one /x?a=1"),
        ("an expression, bare", "/plain/%7E?a=1", 200, "=one /plain/%7E?a=1"),
    ];
    run_response_rows(&proxy, rows);
}

/// Reads from a stream up to `end`.
fn read_until(stream: &mut UnixStream, end: &[u8]) -> Vec<u8> {
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let (mut all, mut byte) = (Vec::new(), [0]);
    while !all.ends_with(end) && stream.read(&mut byte).is_ok_and(|count| count > 0) {
        all.push(byte[0]);
    }
    all
}

#[test]
fn unix_sockets() {
    let dir = TempDir::new();
    let (up, down) = (dir.path("up.sock"), dir.path("down.sock"));
    let listener = UnixListener::bind(&up).unwrap();
    // Started by root, the proxy runs as an unprivileged user.
    fs::set_permissions(&up, fs::Permissions::from_mode(0o777)).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                loop {
                    let head = read_until(&mut stream, b"\r\n\r\n");
                    let lines: Vec<&[u8]> = head.splitn(3, |b| *b == b'\n').take(2).collect();
                    let body = lines.join(&b"|"[..]);
                    let start = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                    if head.is_empty() || stream.write_all(&[start.as_bytes(), &body].concat()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    let config = "upstream up { server unix:UP; }
        server { listen LISTEN; listen unix:DOWN;
            location / { proxy_pass http://unix:UP; }
            location /uri/ { proxy_pass http://unix:UP:/other/; }
            location /group/ { proxy_pass http://up; }
            location /address { return 200 \"$remote_addr $server_name\"; } }";
    let config = config.replace("UP", up.to_str().unwrap()).replace("DOWN", down.to_str().unwrap());
    let proxy = Proxy::start(&config);
    let rows: &[ResponseRow<'_>] = &[
        ("bare", "/x?a=1", 200, "=GET /x?a=1 HTTP/1.1\r|Host: localhost\r"),
        ("with a URI", "/uri/x?a=1", 200, "=GET /other/x?a=1 HTTP/1.1\r|Host: localhost\r"),
        ("in a group", "/group/", 200, "=GET /group/ HTTP/1.1\r|Host: up\r"),
    ];
    run_response_rows(&proxy, rows);
    let mut client = UnixStream::connect(&down).unwrap();
    for (target, end) in [("/address", "\r\n\r\nunix: "), ("/x", "\r\n\r\nGET /x HTTP/1.1\r|Host: localhost\r")] {
        client.write_all(format_request(target).as_bytes()).unwrap();
        let response = read_until(&mut client, end.as_bytes());
        assert!(response.starts_with(b"HTTP/1.1 200 ") && response.ends_with(end.as_bytes()), "{}", show(&response));
    }
}

#[test]
fn heads_for_upstreams() {
    let peer = Peer::start_echo();
    let config = "upstream up { server PEER; }
        proxy_set_header X-Http h; proxy_set_header Host up;
        server { listen LISTEN;
            location /outer { proxy_pass http://up; }
        } server { listen LISTEN; server_name a; proxy_set_header X-Server s; proxy_set_header Accept-Encoding '';
            location /server { proxy_pass http://up; }
            location / { proxy_set_header Host $proxy_host; proxy_pass http://up; }
            location /own { proxy_set_header X-Own $request_method-$arg_a; proxy_set_header Host $http_host;
                proxy_pass http://up; }
            location /drop { proxy_set_header Host up; proxy_set_header Accept ''; proxy_set_header X-Empty $arg_none;
                proxy_set_header accept-language en; proxy_pass http://up; }
            location /method { proxy_method PUT; proxy_set_header Host up; proxy_pass http://up; }
            location /nothing { proxy_pass_request_headers off; proxy_set_header X-Own 1; proxy_pass http://up; }
            location /old { proxy_http_version 1.0; proxy_set_header Host up; proxy_pass http://up; } }";
    let rows: &[crate::request_rows::RequestRow] = &[
        (
            b"GET /?a=1 HTTP/1.1\r\nHost: a\r\nUser-Agent: u\r\nAccept: */*\r\nConnection: keep-alive\r\n\r\n",
            Forwarded(b"GET /?a=1 HTTP/1.1\r\nHost: up\r\nUser-Agent: u\r\nAccept: */*\r\n\r\n"),
        ),
        (b"{G}Connection: close\r\n\r\n", ForwardedLast(b"{g}\r\n")),
        (b"{P}Content-Length: 5\r\nX: y\r\n\r\nhello", Forwarded(b"{p}Content-Length: 5\r\nX: y\r\n\r\nhello")),
        (
            b"GET /server HTTP/1.1\r\nHost: a\r\nX-Server: evil\r\nAccept-Encoding: gzip\r\nX-Http: c\r\n\r\n",
            Forwarded(b"GET /server HTTP/1.1\r\nHost: up\r\nX-Server: s\r\nX-Http: c\r\n\r\n"),
        ),
        (
            b"GET /outer HTTP/1.1\r\nHost: b\r\nAccept-Encoding: gzip\r\n\r\n",
            Forwarded(b"GET /outer HTTP/1.1\r\nX-Http: h\r\nHost: up\r\nAccept-Encoding: gzip\r\n\r\n"),
        ),
        (
            b"GET /own?a=b HTTP/1.1\r\nHost: a:81\r\nX-Server: c\r\nAccept-Encoding: gzip\r\n\r\n",
            Forwarded(
                b"GET /own?a=b HTTP/1.1\r\nX-Own: GET-b\r\nHost: a:81\r\nX-Server: c\r\nAccept-Encoding: gzip\r\n\r\n",
            ),
        ),
        (
            b"GET /drop HTTP/1.1\r\nHost: a\r\nAccept: x\r\nX-Empty: y\r\nAccept-Language: de\r\n\r\n",
            Forwarded(b"GET /drop HTTP/1.1\r\nHost: up\r\naccept-language: en\r\n\r\n"),
        ),
        (b"GET /method HTTP/1.1\r\nHost: a\r\n\r\n", Forwarded(b"PUT /method HTTP/1.1\r\nHost: up\r\n\r\n")),
        (
            b"GET /nothing HTTP/1.1\r\nHost: a\r\nUser-Agent: u\r\nCookie: c\r\n\r\n",
            Forwarded(b"GET /nothing HTTP/1.1\r\nHost: up\r\nX-Own: 1\r\n\r\n"),
        ),
        (
            b"GET /old HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n",
            Forwarded(b"GET /old HTTP/1.0\r\nHost: up\r\nConnection: close\r\nX: y\r\n\r\n"),
        ),
    ];
    run_request_rows(&Proxy::start_with_peers(config, &[("PEER", &peer)]), &peer, rows);
}

/// `Host` is the authority of `proxy_pass`.
#[test]
fn the_default_host() {
    let peer = Peer::start_echo();
    let proxy =
        Proxy::start_with_peers("server { listen LISTEN; location / { proxy_pass http://PEER; } }", &[("PEER", &peer)]);
    get(&proxy, "/").unwrap();
    assert_eq!(show(&peer.received()), show(format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", peer.addr).as_bytes()));
}

#[test]
fn redirects_of_upstreams() {
    let peer = start_scripted();
    let config = r"upstream up { server PEER; } server { listen LISTEN;
        location /app/ { proxy_pass http://up/base/; }
        location /bare/ { proxy_pass http://up; }
        location /off/ { proxy_redirect off; proxy_pass http://up/base/; }
        location /two/ { proxy_redirect http://backend/in/ /front/; proxy_pass http://up; }
        location /more/ { proxy_pass http://up/base/; proxy_redirect default; proxy_redirect http://one/ /1/;
            proxy_redirect http://on /2/; proxy_redirect http://$host/ https://$host/; }
        location /re/ { proxy_redirect ~^http://([a-z]+)\.in/(.*)$ https://$1.out/$2;
            proxy_redirect ~*^/Low/(?<rest>.*) /high/$rest; proxy_pass http://up; }
        location ~ ^/expr { proxy_pass http://up; } }";
    // The target, the header of the upstream, and that of the client.
    let rows: &[(&'static str, &str, &str, &str)] = &[
        ("default", "/app/", "Location: http://up/base/x?y", "Location: http://a:PORT/app/x?y"),
        ("default, elsewhere", "/app/", "Location: http://up/else", "Location: http://up/else"),
        ("default, a path", "/app/", "Location: /base/x", "Location: /base/x"),
        ("default, bare", "/bare/", "Location: http://up/x", "Location: http://a:PORT/x"),
        ("default, no slash", "/bare/", "Location: http://up", "Location: http://up"),
        ("an expression", "/expr", "Location: http://up/x", "Location: http://a:PORT/x"),
        ("Refresh", "/app/", "Refresh: 5; url=http://up/base/x", "Refresh: 5; url=/app/x"),
        ("Refresh alone", "/app/", "Refresh: 5", "Refresh: 5"),
        ("off", "/off/", "Location: http://up/base/x", "Location: http://up/base/x"),
        ("Refresh off", "/off/", "Refresh: 5; url=http://up/base/x", "Refresh: 5; url=http://up/base/x"),
        ("two values", "/two/", "Location: http://backend/in/x", "Location: http://a:PORT/front/x"),
        ("two values are not default", "/two/", "Location: http://up/x", "Location: http://up/x"),
        ("default among others", "/more/", "Location: http://up/base/", "Location: http://a:PORT/more/"),
        ("the first that fits", "/more/", "Location: http://one/x", "Location: http://a:PORT/1/x"),
        ("the next that fits", "/more/", "Location: http://only", "Location: http://a:PORT/2/ly"),
        ("a variable", "/more/", "Location: http://a/x", "Location: https://a/x"),
        ("a pattern", "/re/", "Location: http://app.in/x/y", "Location: https://app.out/x/y"),
        ("a pattern, any case", "/re/", "Location: /lOW/x", "Location: http://a:PORT/high/x"),
        ("no pattern", "/re/", "Location: http://9.in/", "Location: http://9.in/"),
    ];
    let proxy = &Proxy::start_with_peers(config, &[("PEER", &peer)]);
    let run = |id, target, sent, got| {
        run_response_row(proxy, &(id, &format!("{target}\nX-Send: 302 Found|{sent}"), 302, got))
    };
    run_cases(rows.iter().map(|(id, target, sent, got)| (*id, move || run(id, target, sent, got))));
}

#[test]
fn response_headers() {
    let peer = start_scripted();
    let config = r"upstream up { server PEER; } server { listen LISTEN; add_header X-Server s;
        location / { proxy_pass http://up; }
        location /hide { proxy_hide_header x-Secret; proxy_hide_header X-Two; proxy_pass http://up; }
        location /pass { proxy_pass_header Server; proxy_pass_header Date; proxy_pass_header X-Accel-Expires;
            proxy_pass http://up; }
        location /add { add_header X-Own $http_x_value; add_header X-Always $http_host always; add_header X-Empty '';
            proxy_pass http://up; }
        location /of { add_header X-Field $upstream_http_x_version; add_header X-Cookie $upstream_cookie_sid;
            add_header X-Status $upstream_status; add_header X-Addr $upstream_addr; proxy_pass http://up; } }";
    let of = "X-Field: v1 | X-Cookie: 42 | X-Status: 200 | X-Addr: PEER".replace("PEER", &peer.addr.to_string());
    let rows: &[ResponseRow<'_>] = &[
        ("as they are", "/\nX-Send: 203 Mine|X-A: 1|X-A: 2|ETag: e|=ok", 203, "X-A: 1 | X-A: 2 | ETag: e | =ok"),
        ("inherited", "/", 200, "X-Server: s"),
        (
            "Server and Date",
            "/\nX-Send: 200 OK|Server: mine|Date: Tue, 14 Nov 2023 22:13:20 GMT|X-Accel-Expires: 0|X-Pad: 1",
            200,
            "!Server: mine | !Date: Tue, 14 Nov 2023 | !X-Accel | !X-Pad",
        ),
        (
            "passed",
            "/pass\nX-Send: 200 OK|Server: mine|Date: Tue, 14 Nov 2023 22:13:20 GMT|X-Accel-Expires: 0|X-Pad: 1",
            200,
            "Server: mine | Date: Tue, 14 Nov 2023 22:13:20 GMT | X-Accel-Expires: 0 | !X-Pad",
        ),
        (
            "hidden",
            "/hide\nX-Send: 200 OK|X-SECRET: 1|X-Two: 2|X-Three: 3|Server: mine",
            200,
            "!X-SECRET | !X-Two | X-Three: 3 | !Server: mine",
        ),
        ("added", "/add\nX-Value: v", 200, "X-Own: v | X-Always: a | !X-Server | !X-Empty"),
        ("not added", "/add\nX-Value: v\nX-Send: 404 No", 404, "!X-Own | X-Always: a"),
        ("added to 201", "/add\nX-Value: v\nX-Send: 201 Created", 201, "X-Own: v"),
        ("added to 204", "/add\nX-Value: v\nX-Send: 204 No Content", 204, "X-Own: v"),
        ("added to 304", "/add\nX-Value: v\nX-Send: 304 Not Modified", 304, "X-Own: v"),
        ("empty ones are omitted", "/add", 200, "!X-Own"),
        ("beside the upstream's", "/add\nX-Value: v\nX-Send: 200 OK|X-Own: up", 200, "X-Own: up | X-Own: v"),
        // Evaluated before the head of the upstream was received.
        ("of the upstream", "/of\nX-Send: 200 OK|X-Version: v1|Set-Cookie: a=b|Set-Cookie: sid=42; Path=/", 200, &of),
        ("nothing of the upstream", "/of", 200, "!X-Field | !X-Cookie | X-Status: 200"),
    ];
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    run_response_rows(&proxy, rows);
    let response = Client::connect_and_send(proxy.addr, format_request("/\nX-Send: 203 Mine|Server: mine").as_bytes())
        .read_response()
        .unwrap();
    assert!(response.head.starts_with("HTTP/1.1 203 Mine\r\n"), "{}", response.head);
    for name in ["Server", "Date"] {
        let times = response.head.lines().filter(|line| line.starts_with(name)).count();
        assert_eq!(times, 1, "{name}: {}", response.head);
    }
}

#[test]
fn the_status_in_add_header() {
    let peer = start_scripted();
    let config = "add_header X-Status $status always; server { listen LISTEN;
        location / { proxy_pass http://PEER; } location /own { return 204; } location /none { return 404; } }";
    let rows: &[ResponseRow<'_>] = &[
        ("200 of the upstream", "/", 200, "X-Status: 200"),
        ("404 of the upstream", "/\nX-Send: 404 No", 404, "X-Status: 404"),
        ("204", "/own", 204, "X-Status: 204"),
        ("404", "/none", 404, "X-Status: 404"),
    ];
    run_response_rows(&Proxy::start_with_peers(config, &[("PEER", &peer)]), rows);
}

/// The framing of responses for different clients.
#[test]
fn framing_of_responses() {
    let peer = start_scripted();
    let proxy =
        Proxy::start_with_peers("server { listen LISTEN; location / { proxy_pass http://PEER; } }", &[("PEER", &peer)]);
    let ask = |asked: &str| Client::connect_and_send(proxy.addr, format_request(asked).as_bytes());
    let is_kept = |client: &mut Client| client.request(format_request("/").as_bytes(), 200).map(drop);
    const CHUNKED: &str = "X-Send: 200 OK|Transfer-Encoding: chunked|=5\\nhello\\n0\\n\\n";
    let none = |status: &str, fields: &'static [&'static str]| {
        let mut client = ask(&format!("/\nX-Send: {status}"));
        let response = client.read_response()?;
        check(status.starts_with(&response.status.to_string()), || response.head.clone())?;
        check(fields.iter().all(|field| response.head.contains(field)), || response.head.clone())?;
        check(response.header("Transfer-Encoding").is_none(), || response.head)?;
        is_kept(&mut client)
    };
    let cases = vec![
        case("chunks", || {
            let mut client = ask(&format!("/\n{CHUNKED}"));
            check_equal("the client", &client.expect_status(200)?.framed, b"5\r\nhello\r\n0\r\n\r\n")?;
            is_kept(&mut client)
        }),
        case("chunks for HTTP/1.0", || {
            let request = format!("GET / HTTP/1.0\r\nConnection: keep-alive\r\n{CHUNKED}\r\n\r\n");
            let response = Client::connect(proxy.addr).request(request.as_bytes(), 200)?;
            check(response.header("Transfer-Encoding").is_none() && response.closes(), || response.head.clone())?;
            check_equal("the client", &response.body, b"hello")
        }),
        case("a length for HTTP/1.0", || {
            let request = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\nX-Send: 200 OK|=hello\r\n\r\n";
            let mut client = Client::connect(proxy.addr);
            let response = client.request(request, 200)?;
            check(response.header("Connection") == Some("keep-alive"), || response.head.clone())?;
            is_kept(&mut client)
        }),
        case("HEAD", || {
            let mut client = ask("HEAD /\nX-Send: 200 OK|Transfer-Encoding: chunked|X-A: b");
            let response = client.read_response_to("HEAD")?;
            check(response.status == 200 && response.header("X-A") == Some("b"), || response.head)?;
            is_kept(&mut client)
        }),
        case("204", || none("204 No Content|X-A: b", &["X-A: b\r\n"])),
        case("304", || none("304 Not Modified|ETag: e", &["ETag: e\r\n"])),
        case("an empty body", || none("200 OK", &["Content-Length: 0\r\n"])),
    ];
    run_concurrently(cases);
}

#[test]
fn upstream_connections_are_reused() {
    let (peer, once) = (Peer::start_echo(), Peer::start_echo());
    let config = "upstream once { server ONCE; keepalive_requests 1; } server { listen LISTEN;
        location / { proxy_pass http://PEER; }
        location /once { proxy_pass http://once; }
        location /close { proxy_set_header Connection close; proxy_pass http://PEER; } }";
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer), ("ONCE", &once)]);
    let mut client = Client::connect(proxy.addr);
    for target in ["/1", "/2", "/3"] {
        client.request(format_request(target).as_bytes(), 200).unwrap();
    }
    get(&proxy, "/4").unwrap();
    client.request(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 200).unwrap();
    assert_eq!(peer.connections(), 1);
    get(&proxy, "/close").unwrap();
    get(&proxy, "/5").unwrap();
    assert_eq!(peer.connections(), 2, "Connection: close");
    get(&proxy, "/once").unwrap();
    get(&proxy, "/once").unwrap();
    assert_eq!(once.connections(), 2, "keepalive_requests");
}

/// The upstream closes a connection on its second request.
#[test]
fn stale_connections() {
    let repeated =
        [("GET", ""), ("PUT", ""), ("DELETE", ""), ("OPTIONS", ""), ("PUT", "Content-Length: 5\r\n\r\nhello")];
    let not = [("POST", ""), ("PATCH", ""), ("LOCK", ""), ("POST", "Content-Length: 5\r\n\r\nhello")];
    let rows = repeated.map(|row| (row, 200)).into_iter().chain(not.map(|row| (row, 502)));
    for ((method, body), status) in rows {
        let peer = Peer::start(|connection| {
            if let Some(request) = connection.read_request() {
                connection.respond(&request, "first");
                connection.read_request();
            }
        });
        let proxy = Proxy::start_with_peers(
            "server { listen LISTEN; location / { proxy_pass http://PEER; } }",
            &[("PEER", &peer)],
        );
        get(&proxy, "/").unwrap();
        let end = if body.is_empty() { "\r\n" } else { body };
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n{end}");
        let response = Client::connect(proxy.addr).request(request.as_bytes(), status);
        assert!(response.is_ok(), "{method} {body:?}: {:?}", response.err());
        assert_eq!(peer.connections(), if status == 200 { 2 } else { 1 }, "{method} {body:?}");
        let sent = String::from_utf8_lossy(&peer.received()).matches("hello").count();
        assert_eq!(sent, if body.is_empty() { 0 } else { peer.connections() }, "{method}");
    }
}

/// A closed port.
const DEAD: &str = "127.0.0.1:1";

#[test]
fn proxy_next_upstream() {
    let (live, full, full_too) =
        (Peer::start_echo(), Peer::start_responding(FULL.to_vec()), Peer::start_responding(FULL.to_vec()));
    const FULL: &[u8] = b"HTTP/1.1 503 Full\r\nContent-Length: 4\r\n\r\nfull";
    // Closes its first connection without a response.
    let flaky = Peer::start(|connection| {
        while let Some(request) = connection.read_request() {
            if connection.number == 0 {
                return;
            }
            connection.respond(&request, "well");
        }
    });
    let config = "add_header X-Attempts \"$upstream_addr, $upstream_status\" always;
        upstream dead { server DEAD; server LIVE; } upstream dead_post { server DEAD; server LIVE; }
        upstream one_try { server DEAD; server LIVE; } upstream off { server DEAD; server LIVE; }
        upstream full { server FULL; server LIVE; } upstream full_post { server FULL; server LIVE; }
        upstream full_all { server FULL; server ALSO; } upstream full_kept { server FULL; server LIVE; }
        upstream twice { server FLAKY; server FLAKY; } upstream all { server DEAD; server DEAD; }
        upstream down { server LIVE down; server LIVE down; }
        server { listen LISTEN; proxy_next_upstream error http_503;
            location /dead { proxy_pass http://dead; } location /dead_post { proxy_pass http://dead_post; }
            location /one_try { proxy_next_upstream_tries 1; proxy_pass http://one_try; }
            location /off { proxy_next_upstream off; proxy_pass http://off; }
            location /full { proxy_pass http://full; } location /full_post { proxy_pass http://full_post; }
            location /full_all { proxy_pass http://full_all; }
            location /full_kept { proxy_next_upstream error; proxy_pass http://full_kept; }
            location /twice { proxy_pass http://twice; } location /all { proxy_pass http://all; }
            location /down { proxy_pass http://down; } }";
    let place = |text: &str| {
        let names = [("LIVE", live.addr), ("FULL", full.addr), ("ALSO", full_too.addr), ("FLAKY", flaky.addr)];
        names.iter().fold(text.replace("DEAD", DEAD), |text, (name, addr)| text.replace(name, &addr.to_string()))
    };
    let proxy = Proxy::start(&place(config));
    let post = |target: &str| format!("POST {target}\nContent-Length: 5\n\nhello");
    let rows: &[(&'static str, &str, u16, &str, &str)] = &[
        ("a closed port", "/dead", 200, "/dead", "DEAD, LIVE, 502, 200"),
        ("the failed peer is skipped", "/dead", 200, "/dead", "LIVE, 200"),
        ("a body is sent again", &post("/dead_post"), 200, "/dead_post", "DEAD, LIVE, 502, 200"),
        ("proxy_next_upstream_tries", "/one_try", 502, "", "DEAD, 502"),
        ("never", "/off", 502, "", "DEAD, 502"),
        ("a 503", "/full", 200, "/full", "FULL, LIVE, 503, 200"),
        ("a 503 for POST", &post("/full_post"), 503, "full", "FULL, 503"),
        ("the last 503 is forwarded", "/full_all", 503, "full", "FULL, ALSO, 503, 503"),
        ("without http_503", "/full_kept", 503, "full", "FULL, 503"),
        ("one address in two lines", "/twice", 200, "well", "FLAKY, FLAKY, 502, 200"),
        ("all ports are closed", "/all", 502, "", "DEAD, DEAD, 502, 502"),
        ("all peers are skipped", "/all", 502, "", "all, 502"),
        ("all are down", "/down", 502, "", "down, 502"),
    ];
    let run = |asked: &str, status, body: &str, attempts: &str| {
        let request = match asked.split_once("\n\n") {
            Some((head, body)) => format!("{}{body}", format_request(head)),
            None => format_request(asked),
        };
        let response = Client::connect(proxy.addr).request(request.as_bytes(), status)?;
        check(body.is_empty() || response.body == body.as_bytes(), || show(&response.body))?;
        check_equal(
            "X-Attempts",
            response.header("X-Attempts").unwrap_or_default().as_bytes(),
            place(attempts).as_bytes(),
        )
    };
    run_cases(rows.iter().map(|(id, asked, status, body, tried)| (*id, move || run(asked, *status, body, tried))));
    let bytes = String::from_utf8_lossy(&live.received()).into_owned();
    assert!(bytes.contains("POST /dead_post HTTP/1.1\r\nHost: dead_post\r\nContent-Length: 5\r\n\r\nhello"), "{bytes}");
}

#[test]
fn failed_peers_are_skipped_for_a_while() {
    let live = Peer::start_echo();
    let config = "add_header X-Attempts \"$upstream_addr\" always;
        upstream twice { server DEAD max_fails=2; server LIVE; }
        upstream never { server DEAD max_fails=0; server LIVE; }
        upstream second { server DEAD fail_timeout=2s; server LIVE; }
        server { listen LISTEN;
            location /twice { proxy_pass http://twice; }
            location /never { proxy_pass http://never; }
            location /second { proxy_pass http://second; } }";
    let proxy = Proxy::start_with_peers(&config.replace("DEAD", DEAD), &[("LIVE", &live)]);
    let attempts_dead = |target: &str| {
        let response = get(&proxy, target)?;
        check(response.status == 200, || response.head.clone())?;
        Ok::<_, String>(response.header("X-Attempts").unwrap_or_default().contains(DEAD))
    };
    let count = |target: &str| (0..9).map(|_| attempts_dead(target).unwrap()).filter(|dead| *dead).count();
    assert_eq!(count("/twice"), 2, "max_fails=2");
    assert!(count("/never") > 3, "max_fails=0");
    assert!(attempts_dead("/second").unwrap() && !attempts_dead("/second").unwrap(), "fail_timeout=2s");
    wait_for("the peer is tried again", || attempts_dead("/second").unwrap());
}

/// nginx never marks the only peer of a group as failed.
#[test]
fn the_only_peer_is_always_tried() {
    let flaky = Peer::start(|connection| {
        while let Some(request) = connection.read_request().filter(|_| connection.number > 1) {
            connection.respond(&request, "well");
        }
    });
    let config = "upstream only { server FLAKY; } server { listen LISTEN; location / { proxy_pass http://only; } }";
    let proxy = Proxy::start_with_peers(config, &[("FLAKY", &flaky)]);
    let statuses: Vec<u16> = (0..3).map(|_| get(&proxy, "/").unwrap().status).collect();
    assert_eq!(statuses, [502, 502, 200]);
}

#[test]
fn requests_are_balanced() {
    let peers = [named("a"), named("b"), named("c")];
    let config = "upstream weighted { server PEER_A weight=5; server PEER_B; server PEER_C; }
        upstream equal { server PEER_A; server PEER_B; server PEER_C; }
        upstream backup { server PEER_A backup; server PEER_B; }
        upstream failed { server PEER_C backup; server DEAD; }
        upstream down { server PEER_A down; server PEER_B; }
        upstream hashed { ip_hash; server PEER_A; server PEER_B; server PEER_C; }
        upstream hashed_down { ip_hash; server PEER_A down; server PEER_B down; server PEER_C; }
        map $uri $group { ~^/(?<name>\\w+) $name; }
        server { listen LISTEN; location / { proxy_pass http://$group; } }";
    let config = config.replace("DEAD", DEAD);
    let proxy =
        Proxy::start_with_peers(&config, &[("PEER_A", &peers[0]), ("PEER_B", &peers[1]), ("PEER_C", &peers[2])]);
    let rows: &[(&'static str, &str, &str)] = &[
        ("weights", "/weighted", "aabacaaaabacaa"),
        ("equal weights", "/equal", "abcabc"),
        ("a backup is idle", "/backup", "bbbb"),
        ("a backup is used", "/failed", "cccc"),
        ("down", "/down", "bbbb"),
        ("ip_hash without down peers", "/hashed_down", "cccc"),
    ];
    let run = |target, order: &str| {
        let names: String = bodies(&proxy, target, order.len())?.iter().map(|body| &body[..1]).collect();
        check_equal("the order", names.as_bytes(), order.as_bytes())
    };
    run_cases(rows.iter().map(|(id, target, order)| (*id, move || run(target, order))));
    let hashed = bodies(&proxy, "/hashed", 9).unwrap();
    assert!(hashed.iter().all(|body| *body == hashed[0]), "ip_hash: {hashed:?}");
}

#[test]
fn maps() {
    let proxy = Proxy::start(
        r#"map $arg_v $exact { default other; one 1; 'two words' 2; \default 3; '' empty; Upper 4; }
        map $arg_v $bare { one 1; }
        map $arg_v $expression { ~^(?<left>\w+)-(\w+)$ $2-$left; ~*^ABC any; ~^Case case; abcd exact; default none; }
        map $host $site { hostnames; default other; a.example a; *.example wild; www.* tail; .dot.org dot; }
        map $http_x $made { default "$request_method:$uri"; x $exact; }
        map "$arg_v:$http_x" $both { "1:2" yes; default no; }
        server { listen LISTEN; location / { return 200 "$exact|$bare|$both"; }
            location /expression { return 200 $expression; }
            location /site { return 200 $site; } location /made { return 200 $made; } }"#,
    );
    let rows: &[ResponseRow<'_>] = &[
        ("exact", "/?v=one", 200, "=1|1|no"),
        ("exact, any case", "/?v=oNE", 200, "=1|1|no"),
        ("a key in upper case", "/?v=upper", 200, "=4||no"),
        ("a key called default", "/?v=default", 200, "=3||no"),
        ("empty", "/", 200, "=empty||no"),
        ("default", "/?v=x", 200, "=other||no"),
        ("two variables", "/?v=1\nX: 2", 200, "=other||yes"),
        ("captures", "/expression?v=ab-cd", 200, "=cd-ab"),
        ("exact before expressions", "/expression?v=abcd", 200, "=exact"),
        ("any case", "/expression?v=aBcDe", 200, "=any"),
        ("this case", "/expression?v=case", 200, "=none"),
        ("a host", "/site\nHost: A.example", 200, "=a"),
        ("*.", "/site\nHost: x.y.example", 200, "=wild"),
        (".*", "/site\nHost: www.any", 200, "=tail"),
        (".x as name", "/site\nHost: dot.org", 200, "=dot"),
        (".x as end", "/site\nHost: x.dot.org", 200, "=dot"),
        ("another host", "/site\nHost: example", 200, "=other"),
        ("variables in a value", "/made?v=one", 200, "=GET:/made"),
        ("a map in a value", "/made?v=one\nX: x", 200, "=1"),
    ];
    run_response_rows(&proxy, rows);
}

#[test]
fn access_logs() {
    let peer = Peer::start_echo();
    let config = r#"error_log error.log info; pid smolgate.pid;
        map $status $loud { ~^[23] 0; default 1; }
        log_format json escape=json '{"uri":"$request_uri","x":"$http_x","none":"$http_none","sent":$body_bytes_sent,'
            '"to":"$upstream_addr $upstream_status"}';
        log_format plain '$request_method $uri $status "$http_x" $http_none';
        log_format bare escape=none '$http_x';
        access_log access.log; access_log json.log json; access_log loud.log plain if=$loud; access_log bare.log bare;
        access_log agents.log plain if=$http_x;
        server { listen LISTEN;
            location / { return 200 ok; } location /no { return 404 no; }
            location /up { proxy_pass http://PEER; }
            location /quiet { access_log off; return 200; }
            location /own { access_log own.log plain; return 200 ok; } }"#;
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    let asked = [
        "/quiet",
        "/own",
        "/ok?a=1\nX: a\"b\\c\td\nUser-Agent: agent\nReferer: http://r/\nAuthorization: Basic am9lOnNlY3JldA==",
        "/no\nX: 0",
        "/up",
    ];
    for asked in asked {
        get(&proxy, asked).unwrap();
    }
    let lines = |file: &str, count: usize| {
        wait_for(file, || proxy.dir.lines(file).len() >= count);
        proxy.dir.lines(file)
    };
    let combined = [
        r#"127\.0\.0\.1 - joe \[TIME\] "GET /ok\?a=1 HTTP/1\.1" 200 2 "http://r/" "agent""#,
        r#"127\.0\.0\.1 - - \[TIME\] "GET /no HTTP/1\.1" 404 2 "-" "-""#,
        r#"127\.0\.0\.1 - - \[TIME\] "GET /up HTTP/1\.1" 200 3 "-" "-""#,
    ];
    let written = lines("access.log", 3);
    assert_eq!(written.len(), 3, "{written:?}");
    for (line, expected) in written.iter().zip(combined) {
        let expected = expected.replace("TIME", r"\d\d/[A-Z][a-z]{2}/20\d\d:\d\d:\d\d:\d\d \+0000");
        assert!(Regex::new(&format!("^{expected}$")).unwrap().is_match(line), "{line}");
    }
    let to = format!(r#"{{"uri":"/up","x":"","none":"","sent":3,"to":"{} 200"}}"#, peer.addr);
    let json = [
        r#"{"uri":"/ok?a=1","x":"a\"b\\c\td","none":"","sent":2,"to":" "}"#,
        r#"{"uri":"/no","x":"0","none":"","sent":2,"to":" "}"#,
        &to,
    ];
    assert_eq!(lines("json.log", 3), json);
    assert_eq!(lines("loud.log", 1), [r#"GET /no 404 "0" -"#]);
    assert_eq!(lines("agents.log", 1), [r#"GET /ok 200 "a\x22b\x5Cc\x09d" -"#]);
    assert_eq!(lines("own.log", 1), [r#"GET /own 200 "-" -"#]);
    assert_eq!(lines("bare.log", 3)[..2], ["a\"b\\c\td", "0"]);
}

/// Bodies are forwarded without delay.
#[test]
fn bodies_are_streamed() {
    let (seen, is_seen) = mpsc::channel();
    let (allow, allowed) = mpsc::channel::<()>();
    let allowed = Mutex::new(allowed);
    let up = Peer::start(move |connection| {
        let head = connection.read_head().unwrap();
        // The start of the body: five bytes, or a chunk of them.
        let start = connection.read_bytes(if head.contains("chunked") { 8 } else { 5 }).unwrap();
        seen.send(start).unwrap();
        let rest = connection.read_bytes(if head.contains("chunked") { 13 } else { 5 }).unwrap();
        connection.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 13\r\n\r\n");
        connection.send(&rest);
        connection.send(&b"........"[..13 - rest.len().min(13)]);
    });
    let down = Peer::start(move |connection| {
        connection.read_request();
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
        allowed.lock().unwrap().recv().unwrap();
        connection.send(b"world");
        connection.read_to_end();
    });
    let early = Peer::start(|connection| {
        connection.read_head();
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly");
        connection.read_to_end();
    });
    let config = "proxy_buffering off; proxy_request_buffering off; server { listen LISTEN;
        location /up { proxy_pass http://PEER_UP; } location /down { proxy_pass http://PEER_DOWN; }
        location /early { proxy_pass http://PEER_EARLY; } }";
    let proxy = Proxy::start_with_peers(config, &[("PEER_UP", &up), ("PEER_DOWN", &down), ("PEER_EARLY", &early)]);
    type Parts = [&'static [u8]; 2];
    let uploads: [(&str, Parts, Parts); 2] = [
        ("Content-Length: 10", [b"hello", b"world"], [b"hello", b"world........"]),
        (
            "Transfer-Encoding: chunked",
            [b"5\r\nhello\r\n", b"5\r\nworld\r\n0\r\n\r\n"],
            [b"5\r\nhello", b"\r\n5\r\nworld\r\n0"],
        ),
    ];
    for (framing, parts, expected) in uploads {
        let head = format!("POST /up HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
        let mut client = Client::connect_and_send(proxy.addr, &[head.as_bytes(), parts[0]].concat());
        assert_eq!(is_seen.recv_timeout(TIMEOUT).unwrap(), expected[0], "{framing}");
        assert_eq!(client.request(parts[1], 200).unwrap().body, expected[1], "{framing}");
    }
    let mut client = Client::connect_and_send(proxy.addr, format_request("/down").as_bytes());
    let mut first = Vec::new();
    while !first.ends_with(b"\r\n\r\nhello") {
        first.extend(client.read_bytes(1).unwrap());
    }
    allow.send(()).unwrap();
    assert_eq!(client.read_bytes(5).unwrap(), b"world");

    let head = b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nhello";
    assert_eq!(Client::connect(proxy.addr).request(head, 200).unwrap().body, b"early", "while the client still sends");
}

#[test]
fn client_max_body_size() {
    let peer = Peer::start_echo();
    let config = "server { listen LISTEN;
        location / { proxy_pass http://PEER; }
        location /five { client_max_body_size 5; proxy_pass http://PEER; }
        location /any { client_max_body_size 0; proxy_pass http://PEER; } }";
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    const MB: usize = 1024 * 1024;
    let chunked = |parts: &[usize]| {
        let chunk = |size: &usize| format!("{size:x}\r\n{}\r\n", "a".repeat(*size));
        let chunks: String = parts.iter().map(chunk).collect();
        format!("Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
    };
    let counted = |size: usize| format!("Content-Length: {size}\r\n\r\n{}", "a".repeat(size));
    let rows: &[(&'static str, &str, String, u16)] = &[
        ("just five", "/five", counted(5), 200),
        ("six", "/five", counted(6), 413),
        ("five in chunks", "/five", chunked(&[2, 3]), 200),
        ("six in chunks", "/five", chunked(&[2, 4]), 413),
        ("just a megabyte", "/", counted(MB), 200),
        ("more than a megabyte", "/", format!("Content-Length: {}\r\n\r\n", MB + 1), 413),
        ("a megabyte in chunks", "/", chunked(&[MB - 1, 1]), 200),
        ("more in chunks", "/", chunked(&[MB, 1]), 413),
        ("any", "/any", counted(3 * MB), 200),
        ("any in chunks", "/any", chunked(&[MB, MB, MB]), 200),
    ];
    let run = |target: &str, body: &str, status: u16| {
        let mut client = Client::connect(proxy.addr);
        let response = client.request(format!("POST {target} HTTP/1.1\r\nHost: a\r\n{body}").as_bytes(), status)?;
        check(response.closes() == (status == 413), || response.head)?;
        if status == 413 { client.expect_eof() } else { client.request(format_request("/").as_bytes(), 200).map(drop) }
    };
    run_cases(rows.iter().map(|(id, target, body, status)| (*id, move || run(target, body, *status))));
    let refused = String::from_utf8_lossy(&peer.received()).matches("Content-Length: 6\r\n").count();
    assert_eq!(refused, 0, "a body that is too large is not forwarded");
}

/// With `proxy_pass_request_body off`, the body is not read as the next request.
#[test]
fn bodies_that_are_not_forwarded() {
    let peer = Peer::start_echo();
    let config = "upstream up { server PEER; } server { listen LISTEN;
        location / { proxy_pass http://up; }
        location /not { proxy_pass_request_body off; proxy_pass http://up; } }";
    let proxy = Proxy::start_with_peers(config, &[("PEER", &peer)]);
    const SMUGGLED: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let forwarded = b"POST /not HTTP/1.1\r\nHost: up\r\nX: y\r\n\r\n";
    let head = |framing: &str| format!("POST /not HTTP/1.1\r\nHost: a\r\nX: y\r\n{framing}\r\n\r\n").into_bytes();
    // A complete body is dropped, and the next request is served.
    let whole =
        [&head(&format!("Content-Length: {}", SMUGGLED.len())), SMUGGLED, format_request("/next").as_bytes()].concat();
    let mut client = Client::connect_and_send(proxy.addr, &whole);
    assert_eq!(client.expect_status(200).unwrap().body, b"/not");
    assert_eq!(client.expect_status(200).unwrap().body, b"/next");
    let expected = [&forwarded[..], b"GET /next HTTP/1.1\r\nHost: up\r\n\r\n"].concat();
    assert_eq!(show(&peer.received()), show(&expected));
    // With a body that comes later, the connection closes.
    for framing in [format!("Content-Length: {}", SMUGGLED.len()), "Transfer-Encoding: chunked".to_owned()] {
        let seen = peer.received().len();
        let mut client = Client::connect_and_send(proxy.addr, &head(&framing));
        let response = client.expect_status(200).unwrap();
        assert!(response.body == b"/not" && response.closes(), "{}", response.head);
        client.send(SMUGGLED);
        client.shutdown_write();
        client.expect_eof().unwrap();
        assert_eq!(show(&peer.received()[seen..]), show(forwarded), "{framing}");
    }
}
