//! Access control: `allow`, `deny`, `auth_basic`, `auth_request`, `satisfy`, `limit_except`; for upgrades as well.

use std::time::{Duration, Instant};

use data_encoding::BASE64;

use crate::cases::{case, check, check_equal, run_cases, run_concurrently};
use crate::client::Client;
use crate::harness::{Proxy, wait_for};
use crate::peer::Peer;
use crate::response_rows::{format_request, run_response_row, run_response_rows};
use crate::static_files::put;

/// The `Authorization` header of `user:password`.
fn basic(user: &str) -> String {
    format!("Authorization: Basic {}", BASE64.encode(user.as_bytes()))
}

const ADDRESSES: &str = r#"server { listen LISTEN;
    location /open { return 200; add_header X-In yes; }
    location /all/ { deny all; allow all; root www; }
    location /one/ { allow 127.0.0.1; deny all; root www; }
    location /range/ { deny 127.0.0.0/8; allow all; root www; }
    location /other/ { allow 10.0.0.0/8; allow 2001:db8::/32; deny all; root www; }
    location /six/ { deny ::/0; root www; }
    location /local/ { allow unix:; deny all; root www; }
    location /before/ { deny all; return 201; }
    location /outer/ { deny all;
        location /outer/same/ { root www; }
        location /outer/own/ { allow all; root www; }
        location /outer/none/ { allow 10.0.0.1; root www; } }
    location /page/ { deny all; error_page 403 /why; }
    location /why { return 200 "no entry"; }
    location /page_too/ { deny all; error_page 403 /all/why; }
    location /if/ { if ($arg_x) { set $y 1; } deny all; }
}"#;

#[test]
fn addresses() {
    let proxy = Proxy::start(ADDRESSES);
    run_response_rows(
        &proxy,
        &[
            ("no rules", "/open", 200, "X-In: yes"),
            ("the first rule counts", "/all/", 403, "!WWW-Authenticate"),
            ("one address", "/one/", 404, ""),
            ("a range", "/range/", 403, ""),
            ("a range that it is not in", "/other/", 403, ""),
            ("another address family", "/six/", 404, ""),
            ("local sockets", "/local/", 403, ""),
            ("return comes first", "/before/", 201, ""),
            ("inherited", "/outer/same/", 403, ""),
            ("own rules", "/outer/own/", 404, ""),
            ("own rules without a match", "/outer/none/", 404, ""),
            ("a page", "/page/", 403, "=no entry"),
            ("a page that is denied as well", "/page_too/", 403, "Content-Type: text/html"),
            ("beside if", "/if/?x=1", 403, ""),
        ],
    );
    run_cases([("log", || {
        proxy.wait_for_error_line(&["[error]", "access forbidden by rule", "\"GET /range/ HTTP/1.1\""])
    })]);
}

const USERS: &str = "# comment
plain:{PLAIN}password
sha:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=
ssha:{SSHA}yI6cZwQadOA1e+/f+T+H3eCQQhRzYWx0
apr1:$apr1$salt$Xxd1irWT9ycqoYxGFn4cb.:with a comment
sha256:$5$saltstring$OH4IDuTlsuTYPdED1gsuiRMyTAwNlRWyA6Xr3I4/dQ5
sha512:$6$saltstring$adDbXsJjcDlq2662QPgd.tkSOVmnG9Tt3oXl4HR60SusC3AGjirnDenVZp3DGwLwqy6iYKCzannhaX9DR72nN1
bcrypt:$2y$05$uRVNusHvy1L1btdEO8q7..wK7NE4EzcFLudfN7fiaXuUJSu7uIvoO
des:aaPwJ9XL9Y99E
";

const PASSWORDS: &str = r#"log_format user "$remote_user $status"; access_log access.log user; error_log error.log info; pid smolgate.pid;
server { listen LISTEN;
    auth_basic "closed site"; auth_basic_user_file users;
    location / { root www; }
    location /off/ { auth_basic off; root www; }
    location /off_by_variable/ { auth_basic $off; root www; }
    location /realm/ { auth_basic "for $arg_name \"only\""; root www; }
    location /by/ { auth_basic_user_file $arg_file; root www; }
    location /missing/ { auth_basic_user_file missing; root www; }
    location /dir/ { auth_basic_user_file /; root www; }
    location /login/ { error_page 401 =200 /off/login; root www; }
    location /up/ { proxy_pass http://UP/; }
}
map $uri $off { default off; }"#;

#[test]
fn passwords() {
    let peer = Peer::start_echo();
    let proxy = Proxy::start_with_peers(PASSWORDS, &[("UP", &peer)]);
    proxy.dir.write("users", USERS);
    let challenge = "WWW-Authenticate: Basic realm=\"closed site\"";
    run_response_rows(
        &proxy,
        &[
            ("no credentials", "/", 401, challenge),
            ("no credentials, HEAD", "HEAD /", 401, &format!("{challenge} | =")),
            ("another scheme", "/\nAuthorization: Bearer x", 401, challenge),
            ("broken", "/\nAuthorization: Basic !", 401, challenge),
            ("off", "/off/", 404, "!WWW-Authenticate"),
            ("off by a variable", "/off_by_variable/", 404, ""),
            ("a realm with a variable", "/realm/?name=you", 401, r#"WWW-Authenticate: Basic realm="for you \"only\"""#),
            ("no file", &format!("/missing/\n{}", basic("plain:password")), 403, "!WWW-Authenticate"),
            ("a directory", &format!("/dir/\n{}", basic("plain:password")), 500, "!WWW-Authenticate"),
            ("a file by a variable", &format!("/by/?file=users\n{}", basic("plain:password")), 404, ""),
            ("a file by a variable, upwards", &format!("/by/?file=www/../users\n{}", basic("plain:password")), 403, ""),
            ("a file by a variable, none", &format!("/by/?file=x\n{}", basic("plain:password")), 403, ""),
            ("a page", "/login/", 404, challenge),
        ],
    );
    let slow = ["sha256", "sha512", "bcrypt"].into_iter().filter(|_| cfg!(feature = "crypt"));
    let requests = ["plain", "sha", "ssha", "apr1"].into_iter().chain(slow).flat_map(|user| {
        [("password", 404), ("Password", 401), ("", 401)].map(|(password, status)| {
            let asked = format!("/x\n{}", basic(&format!("{user}:{password}")));
            (user, asked, status)
        })
    });
    run_cases(requests.map(|(user, asked, status)| {
        let proxy = &proxy;
        (user, move || run_response_row(proxy, &(user, &asked, status, if status == 401 { challenge } else { "" })))
    }));
    for (what, user, parts) in [
        ("an unsupported hash", "des:x", ["user \"des\"", "not supported"]),
        ("an unknown user", "ghost:x", ["user \"ghost\" was not found in", "users"]),
        ("a name with control bytes", "a\r\nb:x", ["user \"a\\r\\nb\" was not found", ""]),
        ("a wrong password", "plain:x", ["user \"plain\": password mismatch", ""]),
    ] {
        run_cases([(what, || {
            run_response_row(&proxy, &(what, &format!("/\n{}", basic(user)), 401, challenge))?;
            proxy.wait_for_error_line(&parts)
        })]);
    }
    run_cases([("a user's name is logged", || proxy.wait_for_access_line(&["apr1 404"]))]);
    assert!(peer.received().is_empty());
}

/// A build without bcrypt and SHA-crypt logs where such a hash is, and the remedy.
#[cfg(not(feature = "crypt"))]
#[test]
fn hashes_that_a_build_does_not_support() {
    let proxy = Proxy::start_with_peers(PASSWORDS, &[("UP", &Peer::start_echo())]);
    proxy.dir.write("users", USERS);
    run_cases(["sha256", "sha512", "bcrypt"].map(|user| {
        let proxy = &proxy;
        (user, move || {
            run_response_row(proxy, &(user, &format!("/\n{}", basic(&format!("{user}:password"))), 401, ""))?;
            proxy.wait_for_error_line(&[&format!("user \"{user}\" in \""), "/users\"", "not supported", "htpasswd -m"])
        })
    }));
}

#[test]
fn a_changed_file_takes_effect_at_once() {
    let proxy =
        Proxy::start("server { listen LISTEN; location / { auth_basic x; auth_basic_user_file users; root w; } }");
    let ask = |user: &str, status| run_response_row(&proxy, &("", &format!("/\n{}", basic(user)), status, ""));
    let slow = |digest: &str| format!("b:$apr1$salt${digest}\n");
    run_cases([("changes", || {
        proxy.dir.write("users", "a:{PLAIN}1\n");
        ask("a:1", 404)?;
        proxy.dir.write("users", "a:{PLAIN}22\n");
        ask("a:1", 401)?;
        ask("a:22", 404)?;
        proxy.dir.write("users", slow("Xxd1irWT9ycqoYxGFn4cb."));
        ask("a:22", 401)?;
        ask("b:password", 404)?;
        ask("b:password", 404)?;
        // A cached verdict is valid only for the hash that it was computed with.
        proxy.dir.write("users", slow("xxd1irWT9ycqoYxGFn4cb."));
        ask("b:password", 401)?;
        std::fs::remove_file(proxy.dir.path("users")).unwrap();
        ask("b:password", 403)
    })]);
}

#[test]
fn auth_delay() {
    let proxy = Proxy::start(
        "server { listen LISTEN; auth_delay 1s; auth_basic_user_file users;
            location / { auth_basic x; root w; } location /long/ { auth_basic x; auth_delay 1h; root w; } }",
    );
    proxy.dir.write("users", "a:{PLAIN}1\n");
    let took = |user: &str, status| {
        let began = Instant::now();
        run_response_row(&proxy, &("", &format!("/\n{}", basic(user)), status, "")).map(|()| began.elapsed())
    };
    run_concurrently(vec![
        case("a wrong password", || {
            check(took("a:2", 401)? >= Duration::from_secs(1), || "the response came early".to_owned())
        }),
        case("the right password", || took("a:1", 404).map(drop)),
        case("a client that goes away", || {
            drop(Client::connect_and_send(proxy.addr, format_request("/long/").as_bytes()));
            proxy.wait_for_access_line(&["GET /long/", " 499 "])
        }),
    ]);
}

#[test]
fn satisfy() {
    let proxy = Proxy::start(
        r#"server { listen LISTEN; auth_basic x; auth_basic_user_file users; root w;
            location /all/ { satisfy all; allow all; }
            location /all_deny/ { deny all; }
            location /any/ { satisfy any; allow all; }
            location /any_deny/ { satisfy any; deny all; }
            location /asked/ { satisfy any; auth_request /says; deny all; }
            location /asked_only/ { satisfy any; auth_basic off; auth_request /says; deny all; }
            location /says { return 401; } location /says200 { return 200; }
            location /asked200/ { satisfy any; auth_request /says200; deny all; }
            location /asked403/ { satisfy any; auth_request /says403; deny all; }
            location /says403 { return 403; }
        }"#,
    );
    proxy.dir.write("users", "a:{PLAIN}1\n");
    let with = |path: &str| format!("{path}\n{}", basic("a:1"));
    let challenge = "WWW-Authenticate: Basic realm=\"x\"";
    run_response_rows(
        &proxy,
        &[
            ("all, no password", "/all/", 401, challenge),
            ("all", &with("/all/"), 404, ""),
            ("all, denied", &with("/all_deny/"), 403, "!WWW-Authenticate"),
            ("any, allowed", "/any/", 404, "!WWW-Authenticate"),
            ("any, denied, no password", "/any_deny/", 401, challenge),
            ("any, denied, a password", &with("/any_deny/"), 404, "!WWW-Authenticate"),
            ("any, all fail", "/asked/", 401, challenge),
            ("any, a password", &with("/asked/"), 404, ""),
            ("any, 401 before 403", "/asked_only/", 401, "!WWW-Authenticate"),
            ("any, a 200 of auth_request", "/asked200/", 404, "!WWW-Authenticate"),
            ("any, 401 although auth_request says 403", "/asked403/", 401, challenge),
        ],
    );
}

#[test]
fn limit_except() {
    let peer = Peer::start_echo();
    let proxy = Proxy::start_with_peers(
        r#"server { listen LISTEN;
            location /a/ { limit_except GET { deny all; } proxy_pass http://UP/to/; }
            location /b/ { limit_except GET POST { auth_basic x; auth_basic_user_file users; } proxy_pass http://UP; }
            location /c/ { limit_except get { proxy_pass http://UP; } return 200 "read"; }
            location = /d { limit_except PUT { allow 127.0.0.1; deny all; } proxy_pass http://UP/d; }
            location ~ ^/e/ { deny all; limit_except GET { allow all; } proxy_pass http://UP; }
            location /f/ { limit_except GET { allow all; } return 200 "steps"; }
        }"#,
        &[("UP", &peer)],
    );
    proxy.dir.write("users", "a:{PLAIN}1\n");
    run_response_rows(
        &proxy,
        &[
            ("listed", "/a/x", 200, "=/to/x"),
            ("HEAD is a GET", "HEAD /a/x", 200, "="),
            ("not listed", "POST /a/x", 403, ""),
            ("an unknown method", "BREW /a/x", 403, ""),
            ("a password", "DELETE /b/x", 401, "WWW-Authenticate: Basic realm=\"x\""),
            ("a password, given", &format!("DELETE /b/x\n{}", basic("a:1")), 200, "=/b/x"),
            ("two are listed", "POST /b/x", 200, "=/b/x"),
            ("proxied", "POST /c/x", 200, "=/c/x"),
            ("not proxied", "/c/x", 200, "=read"),
            ("rules", "DELETE /d", 200, "=/d"),
            ("rules of the location", "/e/x", 403, ""),
            ("rules are replaced", "PUT /e/x", 200, "=/e/x"),
            ("rewrites are the location's", "/f/x", 200, "=steps"),
            ("and not inherited", "PUT /f/x", 405, ""),
        ],
    );
}

const ASKS: &str = r#"server { listen LISTEN; root w;
    location / { auth_request /auth; auth_request_set $user $upstream_http_x_user; auth_request_set $twice $user$user;
        proxy_pass http://UP; proxy_set_header X-User $twice; add_header X-User $user always; }
    location = /auth { internal; proxy_pass http://AUTH; proxy_set_header X-Method $request_method;
        proxy_set_header X-Uri $request_uri; proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $http_connection; }
    location /with_uri/ { auth_request /auth/x; proxy_pass http://UP; }
    location /auth/ { proxy_pass http://AUTH/deeper/; }
    location /off/ { auth_request off; proxy_pass http://UP; }
    location /returns/ { auth_request /no_content; proxy_pass http://UP; }
    location = /no_content { deny all; return 204; }
    location /file/ { auth_request /the_file; proxy_pass http://UP; }
    location = /the_file { } location = /no_such_file { }
    location /no_file/ { auth_request /no_such_file; proxy_pass http://UP; }
    location /named/ { auth_request @named; proxy_pass http://UP; }
    location @named { return 204; }
    location /teapot/ { auth_request /says418; proxy_pass http://UP; }
    location = /says418 { return 418; }
    location /moved/ { auth_request /says302; proxy_pass http://UP; }
    location = /says302 { return 302 /login; }
    location /page/ { auth_request /says401; error_page 401 = @login; proxy_pass http://UP; }
    location = /says401 { return 401 "a body"; }
    location @login { return 302 /login; }
    location /dead/ { auth_request /dead_auth; proxy_pass http://UP; }
    location = /dead_auth { proxy_pass http://DEAD; }
    location /close/ { auth_request /says444; proxy_pass http://UP; }
    location = /says444 { return 444; }
    location /again/ { auth_request /asks; proxy_pass http://UP; }
    location = /asks { auth_request /says418; proxy_pass http://AUTH; }
}"#;

/// The server behind `auth_request`: its status is the end of `X-Uri`.
fn auth_server() -> Peer {
    Peer::start(|connection| {
        while let Some(asked) = connection.read_request() {
            let uri = asked.head.lines().find_map(|line| line.strip_prefix("X-Uri: ")).unwrap_or_default();
            let status = match uri.rsplit('/').next() {
                Some("401") => "401 No\r\nWWW-Authenticate: Bearer realm=\"a\"\r\nWWW-Authenticate: Basic realm=\"b\"",
                Some("403") => "403 No",
                Some("500") => "500 No",
                Some("early") => "103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 Yes",
                Some("chunked") => {
                    connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n");
                    continue;
                }
                Some("long") => "200 OK\r\nContent-Length: 100000000\r\n\r\nx",
                _ => "200 Yes",
            };
            connection.send(format!("HTTP/1.1 {status}\r\nX-User: me\r\nContent-Length: 2\r\n\r\nno").as_bytes());
            if uri.ends_with("/long") {
                return connection.read_to_end();
            }
        }
    })
}

#[test]
fn auth_request() {
    let (peer, auth) = (Peer::start_echo(), auth_server());
    let dead = { std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string() };
    let config = ASKS.replace("DEAD", &dead);
    let proxy = Proxy::start_with_peers(&config, &[("UP", &peer), ("AUTH", &auth)]);
    put(&proxy.dir, "w/the_file", "yes");
    run_response_rows(
        &proxy,
        &[
            ("passes", "/x", 200, "=/x | X-User: me"),
            ("the body is dropped", "/x/chunked", 200, "=/x/chunked"),
            ("the proxy does not wait for a long body", "/x/long", 200, "=/x/long"),
            ("early hints are not forwarded", "/x/early", 200, "=/x/early"),
            ("401", "/x/401", 401, "WWW-Authenticate: Bearer realm=\"a\" | WWW-Authenticate: Basic realm=\"b\""),
            ("403", "/x/403", 403, "X-User: me | !WWW-Authenticate"),
            ("500", "/x/500", 500, "Content-Type: text/html"),
            ("internal", "/auth", 404, ""),
            ("off", "/off/x", 200, "=/off/x"),
            ("return", "/returns/x", 200, "=/returns/x"),
            ("a file", "/file/x\nIf-None-Match: *\nRange: bytes=0-0", 200, "=/file/x"),
            ("no file", "/no_file/x", 500, ""),
            ("a named location", "/named/x", 200, "=/named/x"),
            ("another status", "/teapot/x", 500, ""),
            ("a redirect", "/moved/x", 500, "!Location"),
            ("a page", "/page/x", 302, "!WWW-Authenticate"),
            ("no upstream", "/dead/x", 500, ""),
            ("a subrequest is not authorized itself", "/again/x", 200, "=/again/x"),
        ],
    );
    for parts in [
        ["auth request unexpected status: 418", "\"GET /teapot/x HTTP/1.1\""],
        ["connect() failed", "subrequest: \"/dead_auth\""],
    ] {
        run_cases([("log", || proxy.wait_for_error_line(&parts))]);
    }
    run_cases([("444", || Client::connect_and_send(proxy.addr, format_request("/close/x").as_bytes()).expect_eof())]);
}

#[test]
fn an_auth_request_is_a_get_with_the_same_headers() {
    let (peer, auth) = (Peer::start_echo(), auth_server());
    let proxy = Proxy::start_with_peers(ASKS, &[("UP", &peer), ("AUTH", &auth), ("DEAD", &peer)]);
    run_cases([("a POST", || {
        let mut client = Client::connect(proxy.addr);
        client
            .send(b"POST /x?q HTTP/1.1\r\nHost: a\r\nCookie: c=1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
        client.expect_status(100)?;
        let seen = format!(
            "GET /auth HTTP/1.1\r\nHost: {}\r\nX-Method: POST\r\nX-Uri: /x?q\r\nCookie: c=1\r\n\r\n",
            auth.addr
        );
        check_equal("the authority", &auth.received(), seen.as_bytes())?;
        let response = client.request(b"body", 200)?;
        check_equal("the client", &response.body, b"/x?q")?;
        let seen = format!(
            "POST /x?q HTTP/1.1\r\nHost: {}\r\nX-User: meme\r\nContent-Length: 4\r\nCookie: c=1\r\n\r\nbody",
            peer.addr
        );
        check_equal("the upstream", &peer.received(), seen.as_bytes())?;
        // Both connections are reused.
        client.request(b"GET /y HTTP/1.1\r\nHost: a\r\n\r\n", 200)?;
        check(auth.connections() == 1 && peer.connections() == 1, || "another connection was made".to_owned())
    })]);
    run_cases([("with a URI", || {
        let before = auth.received().len();
        run_response_row(&proxy, &("", "/with_uri/a?q=1", 200, "=/with_uri/a?q=1"))?;
        let seen = format!("GET /deeper/x HTTP/1.1\r\nHost: {}\r\n\r\n", auth.addr);
        check_equal("the authority", &auth.received()[before..], seen.as_bytes())
    })]);
}

/// An upgrade needs access like any other request.
#[test]
fn upgrades() {
    let (peer, auth) = (Peer::start_echo(), auth_server());
    let proxy = Proxy::start_with_peers(
        r#"server { listen LISTEN;
            location /ws/ { auth_request /auth; proxy_pass http://UP; }
            location = /auth { proxy_pass http://AUTH; proxy_set_header X-Uri $request_uri; }
            location /ws_deny/ { deny all; proxy_pass http://UP; }
            location /ws_basic/ { auth_basic x; auth_basic_user_file users; proxy_pass http://UP; }
            location /ws_except/ { limit_except POST { deny all; } proxy_pass http://UP; }
        }"#,
        &[("UP", &peer), ("AUTH", &auth)],
    );
    proxy.dir.write("users", "a:$apr1$salt$Xxd1irWT9ycqoYxGFn4cb.\n");
    let upgrade = |path: &str, header: &str| {
        let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
        format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{key}\r\n{header}\r\n")
    };
    run_cases([("refused", || {
        for (path, status) in
            [("/ws/401", 401), ("/ws/403", 403), ("/ws_deny/", 403), ("/ws_basic/", 401), ("/ws_except/", 403)]
        {
            Client::connect_and_send(proxy.addr, upgrade(path, "").as_bytes()).expect_status(status)?;
        }
        let wrong = upgrade("/ws_basic/", &format!("{}\r\n", basic("a:passwort")));
        Client::connect_and_send(proxy.addr, wrong.as_bytes()).expect_status(401)?;
        check_equal("the upstream", &peer.received(), b"")
    })]);
    let password = format!("{}\r\n", basic("a:password"));
    for (path, header) in [("/ws/x", ""), ("/ws_basic/x", password.as_str())] {
        run_cases([(path, || {
            let mut client = Client::connect_and_send(proxy.addr, upgrade(path, header).as_bytes());
            client.expect_status(101)?;
            client.send(b"ping");
            check_equal("the client", &client.read_bytes(4)?, b"ping")
        })]);
    }
    check(!String::from_utf8_lossy(&auth.received()).contains("Upgrade"), || "the authority was to upgrade".to_owned())
        .unwrap();
}

const ORIGINS: &str = include_str!("../../configs/websocket-origin.conf");

/// The file in `configs/` rejects cross-site WebSockets.
#[test]
fn cross_site_upgrades() {
    let peer = Peer::start_echo();
    let config = ORIGINS.replace("listen 8000;", "listen LISTEN;").replace("127.0.0.1:3000", "UP");
    let proxy = Proxy::start_with_peers(&config, &[("UP", &peer)]);
    let upgrade = |fields: &str| {
        let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
        let fields = fields.replace('\n', "\r\n");
        format!("GET /ws HTTP/1.1\r\nHost: app.example.com\r\nConnection: Upgrade\r\n{key}\r\n{fields}\r\n\r\n")
    };
    let others = [
        "Upgrade: websocket",
        "Upgrade: websocket\nOrigin: https://evil.test",
        "Upgrade: websocket\nOrigin: null",
        "Upgrade: websocket\nOrigin:",
        "Upgrade: websocket\nOrigin: http://app.example.com",
        "Upgrade: websocket\nOrigin: https://app.example.com.evil.test",
        "Upgrade: websocket\nOrigin: https://evil.test/https://app.example.com",
        "Upgrade: websocket\nOrigin: https://a.b.preview.example.com",
        "Upgrade: websocket\nOrigin: https://a.preview.example.com.evil.test",
        "Upgrade: websocket\nOrigin: https://app.example.com\nOrigin: https://evil.test",
        "Upgrade: websocket\nOrigin: https://evil.test\nOrigin: https://app.example.com",
        "upgrade: WebSocket\norigin: https://evil.test",
        "Upgrade: h2c, websocket\nOrigin: https://evil.test",
        "Upgrade: websocket:1\nOrigin: https://evil.test",
    ];
    run_cases(others.map(|fields| {
        let proxy = &proxy;
        (fields, move || Client::connect_and_send(proxy.addr, upgrade(fields).as_bytes()).expect_status(403).map(drop))
    }));
    assert_eq!(peer.connections(), 0);
    for origin in ["https://app.example.com", "https://EXAMPLE.com", "https://pr-7.preview.example.com"] {
        run_cases([(origin, || {
            let asked = upgrade(&format!("Upgrade: websocket\nOrigin: {origin}"));
            let mut client = Client::connect_and_send(proxy.addr, asked.as_bytes());
            client.expect_status(101)?;
            client.send(b"ping");
            check_equal("the client", &client.read_bytes(4)?, b"ping")
        })]);
    }
    run_cases([("no upgrade", || run_response_row(&proxy, &("", "/x\nOrigin: https://evil.test", 200, "=/x")))]);
}

/// Checks of slow hashes wait in a queue; other requests do not.
#[test]
fn guessing_delays_no_other_client() {
    let proxy = Proxy::start(
        "server { listen LISTEN; location / { return 200 open; }
            location /closed/ { auth_basic x; auth_basic_user_file users; root w; } }",
    );
    proxy.dir.write("users", "a:$apr1$salt$Xxd1irWT9ycqoYxGFn4cb.\n");
    let guess = |n: u32| format_request(&format!("/closed/\n{}", basic(&format!("a:{n}"))));
    let mut guessing: Vec<Client> =
        (0..200).map(|n| Client::connect_and_send(proxy.addr, guess(n).as_bytes())).collect();
    run_cases([("others", || run_response_row(&proxy, &("", "/", 200, "=open")))]);
    let statuses: Vec<u16> = guessing.iter_mut().map(|client| client.read_response().unwrap().status).collect();
    assert!(statuses.iter().all(|status| matches!(status, 401 | 503)), "{statuses:?}");
    assert!(statuses.contains(&401));
    run_cases([("afterwards", || {
        run_response_row(&proxy, &("", &format!("/closed/\n{}", basic("a:password")), 404, ""))
    })]);
    wait_for("all are logged", || proxy.access_lines().len() == 202);
}

/// The time of a rejection does not reveal whether a user exists.
#[cfg(feature = "crypt")]
#[test]
fn unknown_users_take_as_long_as_known_ones() {
    let proxy =
        Proxy::start("server { listen LISTEN; auth_basic a; auth_basic_user_file users; location / { root www; } }");
    proxy.dir.write("users", format!("# a comment\na:$6$rounds=20000$saltstring${}\n", ".".repeat(86)));
    // Processor time, which does not depend on other programs.
    let took = |user: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n", basic(user));
        let before = proxy.cpu_ticks();
        (0..5).for_each(|_| drop(Client::connect(proxy.addr).request(request.as_bytes(), 401).unwrap()));
        proxy.cpu_ticks() - before
    };
    let (known, unknown) = (took("a:wrong"), took("b:wrong"));
    assert!(unknown * 2 > known && known * 2 > unknown, "{unknown} and {known} ticks");
    proxy.wait_for_error_line(&["user \"b\" was not found in \""]).unwrap();
    proxy.wait_for_error_line(&["user \"a\": password mismatch"]).unwrap();
}
