//! Recipes of published configurations: forward authentication, CORS, single-page applications, subdirectories.

use crate::pair::{Pair, TempDir};
use crate::rows::compare;

/// An application and an authentication server behind the tested servers.
const BEHIND: &str = r#"
server {
    listen LISTEN;
    server_name verify;
    location / {
        if ($http_cookie ~ s=1) { add_header Remote-User bob; return 200; }
        if ($http_cookie ~ s=3) { return 403; }
        if ($http_cookie ~ s=4) { return 302 /elsewhere; }
        add_header X-Login http://login.test/ always;
        return 401;
    }
}
server {
    listen LISTEN;
    server_name app;
    location / { return 200 "$request_method $request_uri [$http_remote_user] $http_x_forwarded_proto $http_x_forwarded_for\n"; }
    location /none { return 404; }
    location /moved { return 302 http://app/base/new; }
}
"#;

const FORWARD_AUTH: &str = r#"
server {
    listen LISTEN;
    server_name a;
    proxy_http_version 1.1;
    location = /authelia {
        internal;
        proxy_pass http://LISTEN/api/verify;
        proxy_pass_request_body off;
        proxy_set_header Host verify;
        proxy_set_header Content-Length "";
        proxy_set_header X-Original-URL $scheme://$http_host$request_uri;
    }
    location /login/ {
        auth_request /authelia;
        auth_request_set $user $upstream_http_remote_user;
        error_page 401 =302 http://login.test/?rd=$scheme://$http_host$request_uri;
        proxy_set_header Host app;
        proxy_set_header Remote-User $user;
        proxy_pass http://LISTEN;
    }
    location /told/ {
        auth_request /authelia;
        auth_request_set $login $upstream_http_x_login;
        error_page 401 =302 $login;
        proxy_set_header Host app;
        proxy_pass http://LISTEN;
    }
    location /named/ {
        auth_request /authelia;
        error_page 401 = @signin;
        error_page 403 /denied;
        proxy_set_header Host app;
        proxy_pass http://LISTEN;
    }
    location /files/ { auth_request /authelia; error_page 401 = @signin; error_page 403 /denied; alias DIRECTORY/www/; }
    location /plain/ { auth_request /authelia; proxy_set_header Host app; proxy_pass http://LISTEN; }
    location /denied { return 200 "denied $uri $request_uri\n"; }
    location @signin { return 302 /signin?rd=$request_uri; }
}
"#;

#[test]
fn forward_authentication() {
    let fill = |dir: &TempDir| dir.put("www/f.txt", "a file");
    let Some(pair) = Pair::start(&[FORWARD_AUTH, BEHIND].concat(), fill) else { return };
    let mut rows: Vec<String> = vec!["/authelia".to_owned()];
    for path in ["/login/x?y=1", "/told/x", "/named/x", "/files/f.txt", "/files/none", "/plain/x"] {
        rows.push(path.to_owned());
        rows.extend([1, 3, 4].map(|session| format!("{path}\nCookie: s={session}")));
        rows.push(format!("POST {path}\nCookie: s=1\nContent-Length: 3\n\nabc"));
    }
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    compare(&pair, &rows, &[]);
}

const SITE: &str = r#"
map $sent_http_content_type $lifetime { default off; text/html epoch; text/css max; ~image/ 7d; }
map $http_accept $webp { default ""; "~*webp" ".webp"; }
map $http_origin $cors { default ""; ~^https://(.+\.)?ok\.test$ $http_origin; }
map $http_x_forwarded_proto $proto { default $scheme; https https; }
map $http_user_agent $bad { default 0; ~*(bot|crawl) 1; "" 2; }
server {
    listen LISTEN;
    server_name _;
    types { text/html html; text/css css; application/javascript js; image/avif avif; image/webp webp; application/json json; }
    root DIRECTORY/www;
    expires $lifetime;
    proxy_http_version 1.1;
    proxy_set_header Host app;
    proxy_set_header X-Forwarded-Proto $proto;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    add_header X-Frame-Options SAMEORIGIN;
    add_header X-Content-Type-Options nosniff always;
    rewrite ^/old/(.*)/$ /$1 permanent;
    rewrite ^/index\.php$ / permanent;
    if ($request_uri ~* "^/(.*)/index\.html?$") { return 301 /$1/; }
    if ($http_host ~* "^www\.(.+)$") { return 301 $scheme://$1$request_uri; }
    if ($request_method !~ ^(GET|HEAD|POST|OPTIONS)$) { return 405; }
    location / { try_files $uri $uri/ /index.html; }
    location /assets { add_header Cache-Control "public, immutable"; access_log off; try_files $uri =404; }
    location ~ /\.(?!well-known) { deny all; return 404; }
    location ~* \.(?:json|xml)$ { add_header Cache-Control "max-age=0"; }
    location ~* \.(?:css(\.map)?|js(\.map)?)$ { expires 7d; access_log off; }
    location ~* \.(webp|avif)$ { add_header Vary Accept; try_files $uri$webp $uri =404; }
    location = /health { access_log off; default_type text/plain; return 200 "healthy\n"; }
    location /bad { if ($bad) { return 403; } return 200 ok; }
    location /cors/ {
        if ($request_method = OPTIONS) {
            add_header Access-Control-Allow-Origin '*';
            add_header Access-Control-Max-Age 1728000;
            add_header Content-Type 'text/plain; charset=utf-8';
            add_header Content-Length 0;
            return 204;
        }
        add_header Access-Control-Allow-Origin $cors always;
        proxy_pass http://LISTEN;
    }
    location /sub { return 301 $scheme://$host/sub/; }
    location ^~ /sub/ {
        set $upstream_app 127.0.0.1;
        set $upstream_proto http;
        proxy_pass $upstream_proto://LISTEN;
    }
    location /strip/ { rewrite ^/strip/(.*)$ /$1 break; proxy_pass http://LISTEN; }
    location /base/ { proxy_redirect http://app/base/ /base/; proxy_pass http://LISTEN/; }
    location /fallback/ { proxy_intercept_errors on; error_page 404 = @fallback; proxy_pass http://LISTEN/; }
    location @fallback { return 200 "fallback $uri $request_uri $upstream_status\n"; }
    error_page 403 404 /error;
    location = /error { internal; return 200 "error $status\n"; }
}
"#;

#[test]
fn sites() {
    let fill = |dir: &TempDir| {
        for (name, text) in [
            ("www/index.html", "app"),
            ("www/assets/a.js", "js"),
            ("www/a.css", "css"),
            ("www/x.json", "{}"),
            ("www/x.avif", "avif"),
            ("www/x.avif.webp", "webp"),
            ("www/.env", "secret"),
            ("www/.well-known/x", "known"),
            ("www/dir/index.html", "dir"),
        ] {
            dir.put(name, text);
        }
    };
    let Some(pair) = Pair::start(&[SITE, BEHIND].concat(), fill) else { return };
    let rows = [
        "/",
        "/index.html",
        "/deep/link",
        "/assets/a.js",
        "/assets/none.js",
        "/assets/",
        "/a.css",
        "/x.json",
        "/none.json",
        "/x.avif",
        "/x.avif\nAccept: image/webp",
        "/.env",
        "/.git/config",
        "/.well-known/x",
        "/dir",
        "/dir/",
        "/dir/index.html",
        "/health",
        "/bad",
        "/bad\nUser-Agent: Googlebot",
        "/bad\nUser-Agent: x",
        "OPTIONS /cors/x",
        "/cors/x",
        "/cors/x\nOrigin: https://a.ok.test",
        "/cors/x\nOrigin: https://other.test",
        "/sub",
        "/sub?x",
        "/sub/x?y",
        "/subway",
        "/strip/a%20b?c",
        "/strip/",
        "/base/x",
        "/base/moved",
        "/base",
        "/fallback/none",
        "/fallback/x",
        "POST /fallback/none\nContent-Length: 3\n\nabc",
        "/old/a/b/",
        "/index.php?x",
        "/a/\nHost: www.q.test",
        "/strip/x\nX-Forwarded-Proto: https\nX-Forwarded-For: 192.0.2.1",
        "PATCH /",
        "HEAD /",
        "/error",
        "/a.css\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT",
    ];
    compare(&pair, &rows, &[]);
}
