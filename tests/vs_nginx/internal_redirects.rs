//! Internal redirects: try_files, error_page, internal, named locations, the choice of a location.

use crate::pair::{Pair, TempDir};
use crate::peer;
use crate::rows::compare;

fn fill(dir: &TempDir) {
    for (name, text) in [
        ("www/index.html", "the app"),
        ("www/f.txt", "a file"),
        ("www/page.html", "a page"),
        ("www/dir/index.html", "a directory"),
        ("www/bare/only.txt", "no index"),
        ("www/errors/404.html", "not here"),
        ("www/errors/50x.html", "out of order"),
        ("www/errors/403.html", "not for you"),
        ("www/errors/405.html", "not so"),
        ("www/internal/secret.txt", "secret"),
        ("www/fallback.txt", "fallback"),
        ("other/f.txt", "another file"),
    ] {
        dir.put(name, text);
    }
    dir.put("www/locked.txt", "locked");
    std::fs::set_permissions(dir.path("www/locked.txt"), std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
}

const TRY_FILES: &str = r#"
server {
    listen LISTEN;
    root DIRECTORY/www;
    location / { try_files $uri $uri/ /index.html; }
    location /page { try_files $uri $uri.html =404; }
    location /status { try_files $uri =410; }
    location /status-444 { try_files $uri =444; }
    location /named { try_files $uri @app; }
    location /query { try_files $uri /shown/?q=$uri&$args; }
    location /dir { try_files $uri/ =404; }
    location /bare { try_files $uri/ =404; }
    location /both { try_files /none /f.txt =404; }
    location /variables { try_files /$arg_f /fallback.txt =404; }
    location /fallback { try_files /nothing /fallback.txt; }
    location /cycle { try_files /nothing /cycle; }
    location /absolute { try_files /f.txt =404; }
    location /proxied { try_files $uri @upstream; }
    location /to-proxy { try_files /nothing /upstream/x?$args; }
    location /upstream/ { proxy_pass http://PEER; }
    location /alias/ { alias DIRECTORY/other/; try_files $uri $uri/ =404; }
    location /typed { try_files /page.html =404; }
    location = /exact { try_files /f.txt =404; }
    location ~ ^/regex/(.+)$ { try_files /$1 =404; }
    location /shown/ { return 200 "uri=$uri args=$args\n"; }
    location @app { return 200 "app uri=$uri args=$args request=$request_uri\n"; }
    location @upstream { proxy_pass http://PEER; }
}
server {
    listen LISTEN;
    server_name whole;
    root DIRECTORY/www;
    try_files /maintenance.html $uri @app;
    location /own { try_files /f.txt =404; }
    location /empty { }
    location @app { return 200 "app $uri\n"; }
}
"#;

#[test]
fn try_files() {
    let Some(pair) = Pair::start(&TRY_FILES.replace("PEER", &peer::start("up").to_string()), fill) else { return };
    let rows = [
        "/",
        "/f.txt",
        "/none",
        "/none?x=1",
        "/dir/",
        "/dir",
        "/bare/",
        "/bare",
        "/locked.txt",
        "/page",
        "/page.html",
        "/page?x=1",
        "/page/x",
        "/status",
        "/named/a%20b?x=1",
        "HEAD /named",
        "POST /named\nContent-Length: 2\n\nhi",
        "/query/a?x=1",
        "/query/a%20b",
        "/both",
        "/variables?f=f.txt",
        "/variables?f=none",
        "/variables",
        "/variables?f=dir",
        "/fallback",
        "/cycle",
        "/absolute",
        "HEAD /absolute",
        "POST /absolute\nContent-Length: 0",
        "/absolute\nRange: bytes=0-1",
        "/proxied/x?y=1",
        "/to-proxy?y=1",
        "/alias/f.txt",
        "/alias/none",
        "/typed",
        "/exact",
        "/regex/f.txt",
        "/regex/none",
        "/f.txt\nHost: whole",
        "/none\nHost: whole",
        "/own\nHost: whole",
        "/own/x\nHost: whole",
        "/empty\nHost: whole",
    ];
    let climbs =
        ("/variables?f=../other/f.txt", "200 | Content-Length: 8", "what a client names may not leave the directory");
    compare(&pair, &rows, &[climbs]);
}

const ERROR_PAGE: &str = r#"
server {
    listen LISTEN;
    root DIRECTORY/www;
    error_page 404 /errors/404.html;
    error_page 500 502 503 504 /errors/50x.html;
    location / { }
    location = /500 { return 500; }
    location = /503 { return 503; }
    location = /403 { return 403; }
    location = /404 { return 404; }
    location = /404-text { return 404 "my own"; }
    location /changed { error_page 404 =200 /errors/404.html; }
    location /changed-410 { error_page 404 =410 /errors/404.html; }
    location /its-own { error_page 404 = /made; }
    location /named { error_page 404 @named; }
    location /named-200 { error_page 404 =200 @named; }
    location /named-own { error_page 404 = @named; }
    location /elsewhere { error_page 404 http://example.org/lost; }
    location /elsewhere-301 { error_page 404 =301 http://example.org/lost?$args; }
    location /relative-301 { error_page 404 =301 /moved; }
    location /variable { error_page 404 /shown?from=$uri; }
    location /missing { error_page 404 /errors/none.html; }
    location /method { error_page 405 =200 /shown; }
    location /method-named { error_page 405 =200 @named; }
    location /method-page { error_page 405 /errors/405.html; }
    location /locked.txt { error_page 403 /errors/403.html; }
    location /bare/ { error_page 403 =404 /errors/404.html; }
    location /made { return 202 "made\n"; }
    location /shown { return 200 "uri=$uri args=$args status=$status\n"; }
    location /down { proxy_pass http://127.0.0.1:1; }
    location /down-named { proxy_pass http://127.0.0.1:1; error_page 502 =200 @named; }
    location /intercepted { proxy_pass http://PEER/missing; proxy_intercept_errors on; error_page 404 /errors/404.html; }
    location /not-intercepted { proxy_pass http://PEER/missing; error_page 404 /errors/404.html; }
    location /with-headers { add_header X-A a; add_header X-B b always; error_page 404 /headers/404.html; }
    location /headers/ { alias DIRECTORY/www/errors/; add_header X-C c; add_header X-D d always; }
    location /recursive { recursive_error_pages on; error_page 404 /recursive-two; }
    location /recursive-two { error_page 404 =200 /made; return 404; }
    location /not-recursive { error_page 404 /recursive-two; }
    location /large { client_max_body_size 1; error_page 413 /errors/50x.html; proxy_pass http://PEER; }
    location /internal/ { internal; }
    location = /internal-none { internal; return 200 "seen"; }
    location /to-internal { rewrite ^ /internal/secret.txt last; }
    location /to-internal-try { try_files /nothing /internal/secret.txt; }
    location /to-internal-error { error_page 404 =200 /internal/secret.txt; }
    location /text-304 { error_page 404 =204 /made; }
    location /444 { error_page 404 =444 /made; }
    location @named { return 200 "named $uri $request_uri $args\n"; }
}
"#;

#[test]
fn error_page() {
    let Some(pair) = Pair::start(&ERROR_PAGE.replace("PEER", &peer::start("up").to_string()), fill) else { return };
    let locations = ERROR_PAGE
        .lines()
        .filter_map(|line| line.trim().strip_prefix("location ")?.split([' ', '=']).find(|word| word.starts_with('/')));
    let mut rows: Vec<String> = locations.map(str::to_owned).collect();
    rows.retain(|path| path != "/444");
    rows.extend(
        [
            "/none",
            "HEAD /none",
            "POST /none\nContent-Length: 2\n\nhi",
            "DELETE /none",
            "/none\nRange: bytes=0-1",
            "/none\nIf-None-Match: *",
            "/none\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT",
            "GET /none HTTP/1.0",
            "HEAD /500",
            "POST /404\nContent-Length: 2\n\nhi",
            "/changed/x\nRange: bytes=0-1",
            "/changed/x\nIf-None-Match: \"6553f100-8\"",
            "HEAD /changed/x",
            "HEAD /named/x",
            "POST /named/x\nContent-Length: 2\n\nhi",
            "/named/x?y=z",
            "/elsewhere-301?a=1",
            "/variable/a%20b?c=d",
            "POST /method\nContent-Length: 0",
            "PUT /method\nContent-Length: 2\n\nhi",
            "POST /method-named\nContent-Length: 0",
            "POST /method-page\nContent-Length: 0",
            "PUT /method-page\nContent-Length: 0",
            "DELETE /method-page",
            "/bare/only.txt",
            "/internal/secret.txt",
            "/internal/none.txt",
            "/errors/404.html",
            "POST /large\nContent-Length: 3\n\nabc",
            "HEAD /down",
        ]
        .map(str::to_owned),
    );
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    compare(&pair, &rows, &[]);
}

const LOCATIONS: &str = r#"
server {
    listen LISTEN;
    location / { return 200 "/ $uri\n"; }
    location = / { return 200 "= /\n"; }
    location /documents/ { return 200 "/documents/\n"; }
    location ^~ /images/ { return 200 "^~ /images/\n"; }
    location ~* \.(gif|jpg|jpeg)$ { return 200 "~* $1\n"; }
    location ~ \.(gif|GIF)$ { return 200 "~ $1\n"; }
    location /Images/ { return 200 "/Images/\n"; }
    location = /documents/exact.gif { return 200 "= exact\n"; }
    location /nested/ {
        return 200 "outer\n";
        location /nested/inner/ { return 200 "inner\n"; }
        location ~ \.txt$ { return 200 "inner expression\n"; }
    }
    location /pass/ { proxy_pass http://127.0.0.1:1; add_header X-Own 1; absolute_redirect off; }
    location /kept/ { proxy_pass http://127.0.0.1:1; internal; }
    location /both { return 301 https://$host/elsewhere; }
    location ^~ /both/ { proxy_pass http://127.0.0.1:1; }
    location /expressed/ { proxy_pass http://127.0.0.1:1; }
    location ~ /expressed$ { return 200 "expressed\n"; }
    location /deep {
        return 200 "deep\n";
        location /deep/in { return 200 "deep in\n"; }
        location /deep/in/ { proxy_pass http://127.0.0.1:1; }
        location /deep/alone/ { proxy_pass http://127.0.0.1:1; }
    }
    location = /pass-exact { return 200 "= pass\n"; }
    location "/a blank/" { return 200 "a blank\n"; }
    location /percent%41/ { return 200 "percent\n"; }
    location ~ ^/(?<lang>en|de)/(?<rest>.*)$ { return 200 "$lang $rest\n"; }
    location /longest { return 200 "longest\n"; }
    location /longest/of/all { return 200 "longest of all\n"; }
    location ~ /\.(?!well-known|ok\b) { return 200 "hidden\n"; }
    location ~* ^/unread/(?!No/)(?=[a-z])(?<word>\w+)/(.*)$ { return 200 "$1 $2 $word\n"; }
    location ~ ^/utf/é$ { return 200 "utf\n"; }
}
server {
    listen LISTEN;
    server_name named.example *.wild.example .both.example trailing.* ~^re(?<n>\d+)\.example$;
    location / { return 200 "second $host $server_name $n\n"; }
}
"#;

#[test]
fn locations_and_servers() {
    let Some(pair) = Pair::start(LOCATIONS, |_| ()) else { return };
    let rows = [
        "/",
        "/?x",
        "//",
        "/index.html",
        "/documents/document.html",
        "/images/1.gif",
        "/Images/1.gif",
        "/Images/1.png",
        "/documents/1.jpg",
        "/documents/1.JPG",
        "/documents/exact.gif",
        "/documents/exact.gif/",
        "/documents",
        "/x.GIF",
        "/nested/",
        "/nested/x",
        "/nested/inner/x",
        "/nested/inner/x.txt",
        "/nested/x.txt",
        "/nested/x.gif",
        "/pass",
        "/pass?a=b",
        "/kept",
        "/both",
        "/both?a=b",
        "/bothx",
        "/expressed",
        "/deep",
        "/deep/in",
        "/deep/alone",
        "/pass-exact",
        "/pass-exact/",
        "/a%20blank/x",
        "/percentA/",
        "/percent%2541/",
        "/en/a/b",
        "/fr/a/b",
        "/longest",
        "/longestest",
        "/longest/of/al",
        "/longest/of/all",
        "/longest/of/all/x",
        "/.git/config",
        "/a/.b/c",
        "/.well-known/acme-challenge/x",
        "/.well-known/.git",
        "/.ok",
        "/.okay",
        "/unread/yes/x",
        "/unread/no/x",
        "/unread/Node/x",
        "/unread/1/x",
        "/AHEAD/y/",
        "/unread/%C3%A9/x",
        "/.%C3%A9",
        "/utf/%C3%A9",
        "/x\nHost: named.example",
        "/x\nHost: NAMED.EXAMPLE",
        "/x\nHost: named.example:81",
        "/x\nHost: named.example.",
        "/x\nHost: a.wild.example",
        "/x\nHost: a.b.wild.example",
        "/x\nHost: wild.example",
        "/x\nHost: both.example",
        "/x\nHost: x.both.example",
        "/x\nHost: trailing.org",
        "/x\nHost: trailing.co.uk",
        "/x\nHost: re12.example",
        "/x\nHost: re.example",
        "/x\nHost: other",
        "/x\nHost: 127.0.0.1",
        "/x\nHost: [::1]",
        "GET /x HTTP/1.0",
        "GET http://named.example/x\nHost: named.example",
        "GET http://named.example\nHost: named.example",
        "GET http://named.example?x\nHost: named.example",
    ];
    compare(&pair, &rows, &[]);
}
