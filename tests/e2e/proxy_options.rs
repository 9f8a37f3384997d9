//! Less common directives of `proxy_pass`: cookies, bodies, source addresses, `X-Accel-*`, `proxy_ignore_client_abort`.

use std::io::Read;
use std::sync::Mutex;
use std::sync::mpsc;

use crate::client::Client;
use crate::harness::{Proxy, TIMEOUT};
use crate::peer::Peer;
use crate::proxying::start_scripted;
use crate::response_rows::run_response_rows;

/// Responds with the target, the Content-Length and the body of the request, and the address of the connection.
fn start_describing() -> Peer {
    Peer::start(|connection| {
        let from = connection.stream.peer_addr().unwrap().ip();
        while let Some(request) = connection.read_request() {
            let body = String::from_utf8_lossy(&request.body).into_owned();
            let length = request.head.lines().find(|line| line.starts_with("Content-Length")).unwrap_or("none");
            let text = format!("{} {length} [{body}] {from}", request.target());
            connection.respond(&request, &text);
        }
    })
}

#[test]
fn cookies_are_rewritten() {
    let peer = start_scripted();
    let proxy = Proxy::start_with_peers(
        "server { listen LISTEN; server_name localhost;
            proxy_cookie_domain app.local .example.com; proxy_cookie_domain ~^(.+)\\.old$ $1.new;
            proxy_cookie_path /app/ /$arg_at/; proxy_cookie_path ~*^/x/(.+)$ /$1;
            proxy_cookie_flags sid secure httponly samesite=lax; proxy_cookie_flags plain nosecure nohttponly nosamesite;
            proxy_cookie_flags ~^pre samesite=$arg_same;
            location / { proxy_pass http://PEER; }
            location /off { proxy_cookie_domain off; proxy_cookie_path off; proxy_cookie_flags off; proxy_pass http://PEER; }
            location /own { proxy_cookie_path / /own/; proxy_pass http://PEER; } }",
        &[("PEER", &peer)],
    );
    run_response_rows(
        &proxy,
        &[
            (
                "both attributes, in any letter case",
                "/?at=b\nX-Send: 200 OK|Set-Cookie: a=1;domain=App.Local;  PATH=/app/c;Max-Age=5",
                200,
                "Set-Cookie: a=1; domain=example.com; PATH=/b/c; Max-Age=5",
            ),
            (
                "a dot stays",
                "/\nX-Send: 200 OK|Set-Cookie: a=1; Domain=.app.local",
                200,
                "Set-Cookie: a=1; Domain=.example.com",
            ),
            ("an expression", "/\nX-Send: 200 OK|Set-Cookie: a=1; Domain=x.OLD", 200, "Set-Cookie: a=1; Domain=x.new"),
            ("a path by expression", "/\nX-Send: 200 OK|Set-Cookie: a=1; Path=/X/y", 200, "Set-Cookie: a=1; Path=/y"),
            (
                "part of a domain",
                "/\nX-Send: 200 OK|Set-Cookie: a=1;domain=b.app.local",
                200,
                "Set-Cookie: a=1;domain=b.app.local",
            ),
            (
                "none is like it",
                "/\nX-Send: 200 OK|Set-Cookie: a=1;path=/other;domain",
                200,
                "Set-Cookie: a=1;path=/other;domain",
            ),
            (
                "two cookies",
                "/?at=b\nX-Send: 200 OK|Set-Cookie: a=1; Path=/app/|Set-Cookie: c=path=/app/; Path=/app/x",
                200,
                "Set-Cookie: a=1; Path=/b/ | Set-Cookie: c=path=/app/; Path=/b/x",
            ),
            ("flags", "/\nX-Send: 200 OK|Set-Cookie: sid=1", 200, "Set-Cookie: sid=1; Secure; HttpOnly; SameSite=Lax"),
            (
                "flags that are there",
                "/\nX-Send: 200 OK|Set-Cookie: SID=1;samesite=None;secure;X",
                200,
                "Set-Cookie: SID=1; SameSite=Lax; Secure; X; HttpOnly",
            ),
            (
                "flags taken away",
                "/\nX-Send: 200 OK|Set-Cookie: plain=1; secure;HttpOnly; x=y",
                200,
                "Set-Cookie: plain=1; x=y",
            ),
            (
                "a flag by variable",
                "/?same=strict\nX-Send: 200 OK|Set-Cookie: prefix=1",
                200,
                "Set-Cookie: prefix=1; SameSite=Strict",
            ),
            ("an invalid flag", "/?same=x\nX-Send: 200 OK|Set-Cookie: prefix=1", 200, "Set-Cookie: prefix=1"),
            ("off", "/off\nX-Send: 200 OK|Set-Cookie: sid=1;path=/app/", 200, "Set-Cookie: sid=1;path=/app/"),
            (
                "one kind of one's own",
                "/own\nX-Send: 200 OK|Set-Cookie: sid=1;path=/app/;domain=x.old",
                200,
                "Set-Cookie: sid=1; path=/own/app/; domain=x.new; Secure; HttpOnly; SameSite=Lax",
            ),
        ],
    );
}

#[test]
fn proxy_set_body_and_proxy_bind() {
    let peer = start_describing();
    let proxy = Proxy::start_with_peers(
        "server { listen LISTEN; proxy_bind 127.0.0.9;
            location / { proxy_set_body \"<$arg_b>\"; proxy_pass http://PEER; }
            location /empty { proxy_set_body \"\"; proxy_pass http://PEER; }
            location /without { proxy_set_body x; proxy_pass_request_body off; proxy_bind off; proxy_pass http://PEER; }
            location /bind { proxy_bind $arg_from; proxy_socket_keepalive on; proxy_pass http://PEER; } }",
        &[("PEER", &peer)],
    );
    run_response_rows(
        &proxy,
        &[
            ("a body for GET", "/a?b=c", 200, "=/a?b=c Content-Length: 3 [<c>] 127.0.0.9"),
            (
                "in place of another",
                "POST /a?b=c\nContent-Length: 5\n\nhello",
                200,
                "=/a?b=c Content-Length: 3 [<c>] 127.0.0.9",
            ),
            ("an empty one", "/empty", 200, "=/empty Content-Length: 0 [] 127.0.0.9"),
            ("with proxy_pass_request_body off", "/without", 200, "=/without Content-Length: 1 [x] 127.0.0.1"),
            (
                "an address that the request says",
                "/bind?from=127.0.0.7",
                200,
                "=/bind?from=127.0.0.7 none [] 127.0.0.7",
            ),
            (
                "another one on another connection",
                "/bind?from=127.0.0.8",
                200,
                "=/bind?from=127.0.0.8 none [] 127.0.0.8",
            ),
            ("none", "/bind", 200, "=/bind none [] 127.0.0.1"),
            ("an address of another machine", "/bind?from=192.0.2.1", 502, ""),
            ("no address", "/bind?from=x", 500, ""),
        ],
    );
    // A client that still sends an unused body gets its response, and the connection is closed.
    let mut client =
        Client::connect_and_send(proxy.addr, b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nhello");
    let response = client.expect_status(200).unwrap();
    assert!(response.closes() && response.body.starts_with(b"/a Content-Length: 2 [<>]"), "{}", response.head);
}

/// An upstream redirects the request internally, to a file or another location.
#[test]
fn x_accel_redirect() {
    let (peer, other) = (start_scripted(), Peer::start_echo());
    let proxy = Proxy::start_with_peers(
        "server { listen LISTEN;
            add_header X-Told \"$upstream_http_x_told\"; add_header X-Rate $limit_rate; add_header X-Addr \"$upstream_addr $upstream_status\" always;
            location / { proxy_pass http://PEER; }
            location /ignored { proxy_ignore_headers X-Accel-Redirect X-Accel-Limit-Rate Vary; proxy_pass http://PEER; }
            location /passed { proxy_pass_header X-Accel-Redirect; proxy_ignore_headers x-accel-redirect; proxy_pass http://PEER; }
            location /inner/ { internal; return 200 \"inner $uri $args $request_method\"; }
            location /again/ { internal; proxy_pass http://OTHER-PEER; }
            location /bad { proxy_pass http://PEER; error_page 404 = /inner/page; }
            location @named { return 200 \"named $uri\"; } }",
        &[("OTHER-PEER", &other), ("PEER", &peer)],
    );
    let again = format!("X-Addr: {} : {} 200 : 200 | =/again/", peer.addr, other.addr);
    run_response_rows(
        &proxy,
        &[
            ("an internal location", "/inner/a", 404, ""),
            (
                "but an upstream",
                "/\nX-Send: 200 OK|X-Accel-Redirect: /inner/a%20b?c=d|=secret",
                200,
                "=inner /inner/a b c=d GET",
            ),
            (
                "with a body that was sent already",
                "POST /\nX-Send: 200 OK|X-Accel-Redirect: /inner/a",
                200,
                "=inner /inner/a  GET",
            ),
            (
                "some fields go with it",
                "/\nX-Send: 200 OK|X-Accel-Redirect: /inner/a|Content-Type: a/b|Set-Cookie: c=d|Expires: e|X-Other: f|Content-Disposition: g",
                200,
                "Content-Type: a/b | Set-Cookie: c=d | Expires: e | !X-Other | Content-Disposition: g | !X-Accel-Redirect",
            ),
            ("to a location by name", "/x\nX-Send: 200 OK|X-Accel-Redirect: @named", 200, "=named /x"),
            ("to an unknown name", "/x\nX-Send: 200 OK|X-Accel-Redirect: @nope", 500, ""),
            ("out of the root", "/\nX-Send: 200 OK|X-Accel-Redirect: /inner/../../etc", 404, ""),
            ("out of the root, encoded", "/\nX-Send: 200 OK|X-Accel-Redirect: /inner/.%2e/a", 404, ""),
            ("to a URL", "/\nX-Send: 200 OK|X-Accel-Redirect: http://b/", 404, ""),
            ("with an error page", "/bad\nX-Send: 200 OK|X-Accel-Redirect: ..", 200, "=inner /inner/page  GET"),
            ("to another upstream", "/\nX-Send: 200 OK|X-Accel-Redirect: /again/", 200, &again),
            (
                "not where it is ignored",
                "/ignored\nX-Send: 200 OK|X-Accel-Redirect: /inner/a|=mine",
                200,
                "=mine | !X-Accel-Redirect",
            ),
            (
                "and passed",
                "/passed\nX-Send: 200 OK|X-Accel-Redirect: /inner/a|=mine",
                200,
                "=mine | X-Accel-Redirect: /inner/a",
            ),
        ],
    );
}

/// A client that goes away aborts its request, unless `proxy_ignore_client_abort` is on.
#[test]
fn proxy_ignore_client_abort() {
    const HALF: [u8; 1000] = [b'x'; 1000];
    let ((tell, told), (gone, is_gone)) = (mpsc::channel(), mpsc::channel::<()>());
    let is_gone = Mutex::new(is_gone);
    let peer = Peer::start(move |connection| {
        while let Some(request) = connection.read_request() {
            if request.target() == "/number" {
                connection.respond(&request, &connection.number.to_string());
                continue;
            }
            connection.send(&[b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n".as_slice(), &HALF].concat());
            is_gone.lock().unwrap().recv().unwrap();
            if request.target() == "/off" {
                connection.read_to_end();
            } else {
                connection.send(&HALF);
            }
            tell.send(()).unwrap();
        }
    });
    let proxy = Proxy::start_with_peers(
        "server { listen LISTEN; location / { proxy_pass http://PEER; }
            location /on { proxy_ignore_client_abort on; proxy_pass http://PEER; } }",
        &[("PEER", &peer)],
    );
    for (target, status) in [("/off", 499), ("/on", 200)] {
        let mut client =
            Client::connect_and_send(proxy.addr, format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        // Closing a connection with unread bytes resets it.
        client.stream.read_exact(&mut [0; 100]).unwrap();
        drop(client);
        gone.send(()).unwrap();
        told.recv_timeout(TIMEOUT).unwrap();
        proxy.wait_for_access_line(&[&format!("\"GET {target} HTTP/1.1\" {status} ")]).unwrap();
    }
    let number =
        Client::connect_and_send(proxy.addr, b"GET /number HTTP/1.1\r\nHost: a\r\n\r\n").expect_status(200).unwrap();
    assert_eq!(number.body, b"1", "the connection of a complete response is reused");
}
