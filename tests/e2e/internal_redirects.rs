//! Internal redirects: `error_page`, `try_files`, `internal`, named locations.

use std::fs;

use crate::cases::{check, check_equal};
use crate::client::{Client, show};
use crate::harness::Proxy;
use crate::peer::{Connection, Peer};
use crate::response_rows::{ResponseRow, format_request, run_response_rows};

fn fill(proxy: &Proxy) {
    for dir in ["www/has", "www/bare"] {
        fs::create_dir_all(proxy.dir.path(dir)).unwrap();
    }
    for (name, text) in
        [("f.txt", "hello"), ("404.html", "not here"), ("has/index.html", "index"), ("50x.html", "sorry")]
    {
        proxy.dir.write(&format!("www/{name}"), text);
    }
}

const PAGES: &str = r#"server { listen LISTEN; root www; recursive_error_pages off;
    error_page 404 /404.html;
    error_page 500 502 503 504 /50x.html;
    location / { }
    location /own/ { error_page 404 /own.html; }
    location /ok/ { error_page 404 =200 /404.html; }
    location /any/ { error_page 404 = /said; }
    location = /said { return 201 "said $request_method $uri $args"; }
    location /teapot/ { error_page 404 =418 /said; }
    location /url/ { error_page 404 http://b/$uri; }
    location /url_moved/ { error_page 404 =301 http://b/; }
    location /url_ok/ { error_page 404 =200 http://b/; }
    location /args/ { error_page 404 /said?x=$uri; }
    location /named/ { error_page 404 @named; }
    location @named { return 200 "named $request_method $uri?$args"; }
    location /nowhere/ { error_page 404 @nowhere; }
    location /variable/ { error_page 404 /by$uri; }
    location /by/ { return 200 "by $uri"; }
    location /deep/ { error_page 404 /deeper/; error_page 403 /said; return 404; }
    location /deeper/ { error_page 403 /said; return 403; }
    location /recursive/ { recursive_error_pages on; error_page 404 /recursive2/; return 404; }
    location /recursive2/ { recursive_error_pages on; error_page 403 /said; return 403; }
    location /round/ { recursive_error_pages on; error_page 404 /round/; return 404; }
    location /broken { return 500; }
    location /text { return 404 "my text"; }
    location /moved { error_page 301 /said; return 301 /elsewhere; }
    location /moved_away { error_page 302 /moves; return 302 /first; }
    location /moves { return 302 /second; }
    location /hidden { internal; return 200 "hidden $uri"; }
    location /to_hidden { rewrite ^ /hidden/x last; }
    location /page_hidden { error_page 403 /hidden; return 403; }
    location /empty { error_page 404 =204 /f.txt; }
    location /limited { client_max_body_size 4; error_page 413 /said; return 200 "fits"; }
    location /escapes { error_page 404 /$arg_x; return 404; }
}"#;

#[test]
fn pages() {
    let proxy = Proxy::start(PAGES);
    fill(&proxy);
    let rows: &[ResponseRow<'_>] = &[
        ("a page for all", "/none", 404, "Content-Type: text/html | Content-Length: 8 | =not here"),
        ("for HEAD", "HEAD /none", 404, "Content-Length: 8 | ="),
        ("a POST becomes a GET", "POST /any/none", 201, "=said GET /said "),
        ("an own page that is missing", "/own/none", 404, "!ETag | Content-Type: text/html"),
        ("=200", "/ok/none", 200, "=not here"),
        ("=200 is like any file", "/ok/none\nRange: bytes=0-2", 206, "=not"),
        ("a range of an error page", "/none\nRange: bytes=0-2", 404, "=not here"),
        ("a condition of an error page", "/none\nIf-None-Match: *", 404, "=not here"),
        ("=", "/any/none", 201, "=said GET /said "),
        ("=418", "/teapot/none", 418, "=said GET /said "),
        ("a URL", "/url/none", 302, "Location: http://b//url/none"),
        ("a URL, moved", "/url_moved/none", 301, "Location: http://b/"),
        ("a URL has no other status", "/url_ok/none", 302, "Location: http://b/"),
        ("arguments", "/args/none?lost", 404, "=said GET /said x=/args/none"),
        ("a named location", "/named/none?kept", 404, "=named GET /named/none?kept"),
        ("keeps the method", "DELETE /named/none", 405, "Content-Type: text/html"),
        ("an unknown named location", "/nowhere/none", 500, "Content-Type: text/html"),
        ("a path with variables", "/variable/none", 404, "=by /by/variable/none"),
        ("no page for a page", "/deep/", 403, "Content-Type: text/html"),
        ("a page for a page", "/recursive/", 403, "=said GET /said "),
        ("a cycle", "/round/", 500, "Content-Type: text/html"),
        ("return 500", "/broken", 500, "=sorry"),
        ("a text is no page", "/text", 404, "=my text"),
        ("a redirect with a page", "/moved", 301, "Location: http://a:PORT/elsewhere | =said GET /said "),
        ("a redirect to a redirect", "/moved_away", 302, "Location: http://a:PORT/second"),
        ("internal", "/hidden", 404, "=not here"),
        ("internal, by a rewrite", "/to_hidden", 200, "=hidden /hidden/x"),
        ("internal, by a page", "/page_hidden", 403, "=hidden /hidden"),
        ("a status without a body", "/empty/none", 204, "="),
        ("a body that is too long", "POST /limited\nContent-Length: 9", 413, "Connection: close | =said GET /said "),
        ("a path out of the root", "/escapes?x=../smolgate.conf", 404, "Content-Type: text/html"),
    ];
    run_response_rows(&proxy, rows);
    assert_eq!(proxy.error_lines().iter().filter(|line| line.contains("internal redirection cycle")).count(), 1);
    assert!(proxy.error_lines().iter().any(|line| line.contains("could not find named location \"@nowhere\"")));
}

const TRIES: &str = r#"server { listen LISTEN; root www;
    location / { try_files $uri $uri/ /fallback?at=$uri; }
    location /fallback { return 200 "fallback $uri $args"; }
    location /strict/ { try_files $uri =404; }
    location /teapot/ { try_files $uri =418; }
    location /named/ { try_files $uri @app; }
    location @app { return 200 "app $uri?$args"; }
    location /one/ { try_files /f.txt =404; }
    location /dir/ { try_files /has/ =404; }
    location /file/ { try_files /has =404; }
    location /alias/ { alias www/has/; try_files $uri $uri/ =404; }
    location ~ ^/re/(.*)$ { alias www; try_files /$1 =404; }
    location /escapes/ { try_files /$arg_x =404; }
    location /again/ { try_files $uri /again/; }
    location /unset { try_files /none @nowhere; }
    location /outer/ { try_files /f.txt =404; location /outer/inner { } }
}
server { listen LISTEN; server_name bare; root www; try_files /f.txt =404; }"#;

#[test]
fn try_files() {
    let proxy = Proxy::start(TRIES);
    fill(&proxy);
    let rows: &[ResponseRow<'_>] = &[
        ("a file", "/f.txt?x", 200, "=hello"),
        ("a directory", "/has/", 200, "=index"),
        ("a directory without its slash", "/has", 301, "Location: http://a:PORT/has/"),
        ("nothing", "/none?lost=1", 200, "=fallback /fallback at=/none"),
        ("a status", "/strict/none", 404, "Content-Type: text/html"),
        ("another status", "/teapot/none", 418, ""),
        ("a named location", "/named/none?kept", 200, "=app /named/none?kept"),
        ("a file for everything", "/one/two", 200, "Content-Type: text/plain | =hello"),
        ("a directory for everything", "/dir/x", 301, "Location: http://a:PORT/has/"),
        ("a directory is no file", "/file/x", 404, ""),
        ("alias", "/alias/index.html", 200, "=index"),
        ("alias of nothing", "/alias/none", 404, ""),
        ("alias of an expression", "/re/has/index.html", 200, "=index"),
        ("a path out of the root", "/escapes/?x=../smolgate.conf", 404, ""),
        ("a cycle", "/again/none", 500, ""),
        ("an unknown named location", "/unset", 500, ""),
        ("it is not inherited", "/outer/inner", 404, ""),
        ("without a location", "/none\nHost: bare", 200, "=hello"),
    ];
    run_response_rows(&proxy, rows);
}

/// Responds with the status that the path names.
fn respond_with_status(connection: &mut Connection) {
    while let Some(request) = connection.read_request() {
        let path = request.head.split(' ').nth(1).unwrap_or_default().to_owned();
        let status = path.trim_start_matches('/').get(..3).unwrap_or("200").to_owned();
        connection.send(
            format!("HTTP/1.1 {status} No\r\nWWW-Authenticate: Basic\r\nX-Own: 1\r\nContent-Length: 5\r\n\r\nupstr")
                .as_bytes(),
        );
    }
}

#[test]
fn proxy_intercept_errors() {
    let peer = Peer::start(respond_with_status);
    let live = Peer::start_echo();
    let config = "upstream up { server PEER; } server { listen LISTEN; root www;
        error_page 401 404 502 /404.html; proxy_intercept_errors on;
        location / { proxy_pass http://up; } location = /404.html { }
        location /through/ { proxy_intercept_errors off; proxy_pass http://up/; }
        location /dead { error_page 502 =200 @other; proxy_pass http://127.0.0.1:1; }
        location @other { proxy_pass http://OTHER_PEER; }
        location /page { error_page 502 /error-page; proxy_pass http://127.0.0.1:1; }
        location /error-page { proxy_pass http://OTHER_PEER; } }";
    let proxy = Proxy::start_with_peers(config, &[("OTHER_PEER", &live), ("PEER", &peer)]);
    fill(&proxy);
    let rows: &[ResponseRow<'_>] = &[
        ("a 404 of the upstream", "/404", 404, "!X-Own | =not here"),
        ("a 401 says how to log in", "/401", 401, "WWW-Authenticate: Basic | =not here"),
        ("a status without a page", "/403", 403, "X-Own: 1 | =upstr"),
        ("no error", "/200", 200, "X-Own: 1 | =upstr"),
        ("not intercepted", "/through/404", 404, "X-Own: 1 | =upstr"),
        ("another upstream", "/dead?x", 200, "=/dead?x"),
    ];
    run_response_rows(&proxy, rows);
    // A buffered body is forwarded to the other upstream as well, but not to an error page.
    let seen = live.received().len();
    let mut client = Client::connect(proxy.addr);
    client.request(format!("{}hello", format_request("POST /dead\nContent-Length: 5")).as_bytes(), 200).unwrap();
    client.request(format!("{}hello", format_request("POST /page\nContent-Length: 5")).as_bytes(), 502).unwrap();
    client.request(format_request("/200").as_bytes(), 200).unwrap();
    let host = live.addr;
    let expected = format!(
        "POST /dead HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\n\r\nhelloGET /error-page HTTP/1.1\r\nHost: {host}\r\n\r\n"
    );
    check_equal("the other upstream", &live.received()[seen..], expected.as_bytes()).unwrap();
    check(!show(&live.received()).contains("smuggled"), || "bytes were smuggled".to_owned()).unwrap();
}
