//! The rewrite module: rewrite, if with all its operators, set, break, return.

use crate::pair::{Pair, TempDir};
use crate::rows::compare;

fn fill(dir: &TempDir) {
    for (name, text) in [
        ("www/f.txt", "a file"),
        ("www/new/f.txt", "a newer file"),
        ("www/dir/index.html", "a directory"),
        ("www/tool.sh", "#!/bin/sh"),
    ] {
        dir.put(name, text);
    }
    std::fs::set_permissions(dir.path("www/tool.sh"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

const REWRITE: &str = r#"
server {
    listen LISTEN;
    server_name main.example;
    root DIRECTORY/www;
    set $mark server;
    rewrite ^/server/(.*)$ /show/$1;
    rewrite ^/server-last/(.*)$ /show/$1 last;
    rewrite ^/server-break/(.*)$ /new/$1 break;
    rewrite ^/server-moved/(.*)$ /show/$1 permanent;

    location / { }
    location /show/ { return 200 "uri=$uri args=$args request=$request_uri 1=$1 mark=$mark\n"; }
    location /last/ { rewrite ^/last/(.*)$ /show/$1 last; return 200 "not last"; }
    location /break/ { rewrite ^/break/(.*)$ /new/$1 break; return 200 "not broken"; }
    location /plain/ { rewrite ^/plain/(.*)$ /show/$1; set $mark after; }
    location /twice/ { rewrite ^/twice/(.*)$ /once/$1; rewrite ^/once/(.*)$ /show/$1; }
    location /temporary/ { rewrite ^/temporary/(.*)$ /show/$1 redirect; }
    location /permanent/ { rewrite ^/permanent/(.*)$ /show/$1 permanent; }
    location /elsewhere/ { rewrite ^/elsewhere/(.*)$ http://example.org/$1; return 200 "still here"; }
    location /secure/ { rewrite ^ https://$host$request_uri? permanent; }
    location /scheme/ { rewrite ^ $scheme://example.org$uri permanent; }
    location /args/ { rewrite ^/args/(.*)$ /show/$1?own=1 last; }
    location /noargs/ { rewrite ^/noargs/(.*)$ /show/$1? last; }
    location /onlyown/ { rewrite ^/onlyown/(.*)$ /show/$1?own=1? last; }
    location /moved-args/ { rewrite ^/moved-args/(.*)$ /show/$1?own=$arg_a permanent; }
    location /moved-noargs/ { rewrite ^/moved-noargs/(.*)$ /show/$1? permanent; }
    location /three/ { rewrite ^/three/(\w+)/(\w+)/(\w+)$ /show/$3-$2-$1 last; }
    location /named/ { rewrite ^/named/(?<first>\w+)/(?<second>\w+)$ /show/$second/$first last; }
    location /case/ { rewrite ^/CASE/(.*)$ /show/$1 last; }
    location /nocase/ { rewrite (?i)^/NOCASE/(.*)$ /show/$1 last; }
    location /empty/ { rewrite ^/empty/(x*).*$ /show/[$1] last; }
    location /slashes/ { rewrite ^/slashes/(.*)$ //show///$1 last; }
    location /dots/ { rewrite ^/dots/(.*)$ /show/../show/$1 last; }
    location /encoded/ { rewrite ^/encoded/(.*)$ /show/$1 redirect; }
    location /url/ { rewrite ^ $arg_to? redirect; }
    location /url-behind/ { rewrite ^ http://example.org/$arg_to/$uri permanent; }
    location /asked/ { rewrite ^ /show$request_uri? redirect; }
    location /cycle/ { rewrite ^/cycle/(.*)$ /cycle/x$1 last; }
    location /relative/ { rewrite ^/relative/(.*)$ show/$1 last; }
    location /as-arg/ { rewrite ^/as-arg/(.*)$ /show/?p=$1; }
    location /as-arg-moved/ { rewrite ^/as-arg-moved/(.*)$ /show/?p=$1 permanent; }
    location /set-args/ { set $args "mine=$arg_a"; rewrite ^/set-args/(.*)$ /show/$1 last; }
    location /nested/ {
        rewrite ^/nested/inner/(.*)$ /show/outer-$1 last;
        location /nested/inner/ { return 200 "inner $uri\n"; }
    }
    location ~ ^/captured/(\w+)/(\w+)$ { return 200 "1=$1 2=$2 3=$3\n"; }
    location ~ ^/captured-named/(?<one>\w+)$ { return 200 "one=$one 1=$1\n"; }
    location ~ ^/recaptured/(\w+)$ {
        rewrite ^/recaptured/(.)(.*)$ /show/$2$1 break;
        return 200 "not reached";
    }
    location /unread/ {
        if ($arg_a ~ ^(?!x)(.)) { return 200 "[$1]\n"; }
        rewrite ^/unread/(.)(?!b)(.*)$ /show/$2-$1 last;
    }
    location ~ ^/forgot-if/(\w+)$ { if ($uri ~ forgot) { return 200 "[$1]\n"; } }
    location ~ ^/forgot-not/(\w+)$ { if ($uri !~ nothing) { return 200 "[$1]\n"; } }
    location ~ ^/forgot-rewrite/(\w+)$ { rewrite ^ /show/ last; }
    location /aliased/ { alias DIRECTORY/www/; rewrite ^/aliased/(.*)$ /new/$1 break; }
    location = /exact { rewrite ^ /show/exact last; }
    location @named { return 200 "named"; }
}
"#;

#[test]
fn rewrite() {
    let Some(pair) = Pair::start(REWRITE, fill) else { return };
    let rows = [
        "/f.txt",
        "/show/x?a=1",
        "/server/x?a=1",
        "/server-last/x",
        "/server-break/f.txt",
        "/server-break/none.txt",
        "/server-moved/x?a=1",
        "/last/x?a=1",
        "/last/a%20b",
        "/last/a%2Fb?c=%2F",
        "/last/",
        "/break/f.txt",
        "/break/none",
        "/break/f.txt?a=1",
        "/plain/x?a=1",
        "/twice/x",
        "/temporary/x?a=1",
        "/temporary/a%20b?c=%20d",
        "/temporary/caf%C3%A9",
        "/temporary/a%25b",
        "/temporary/a+b",
        "HEAD /temporary/x",
        "POST /temporary/x\nContent-Length: 0",
        "/permanent/x",
        "/permanent/x?",
        "GET /permanent/x HTTP/1.0",
        "GET /permanent/x\nHost: main.example:99",
        "/elsewhere/x?a=1",
        "/secure/x?a=1",
        "/scheme/x?a=1",
        "/args/x?a=1",
        "/args/x",
        "/noargs/x?a=1",
        "/noargs/x",
        "/onlyown/x?a=1",
        "/moved-args/x?a=1&b=2",
        "/moved-noargs/x?a=1",
        "/three/a/b/c",
        "/three/a/b",
        "/named/a/b",
        "/case/x",
        "/nocase/x",
        "/empty/abc",
        "/empty/xxabc",
        "/slashes/x",
        "/dots/x",
        "/encoded/a%0Ab",
        "/encoded/a%7Fb",
        "/encoded/%5Bx%5D",
        "/url/?to=http%3A%2F%2Fexample.com%2F%3Ffrom",
        "/url/?to=http%3A%2F%2Fexample.com%2F%3Ffrom%3Dblah",
        "/url/?to=http%3A%2F%2Fexample.com%0D%0Asplit",
        "/url/?to=/a%20b%25%26%41",
        "/url-behind/x?to=a%2Fb",
        "/asked/a%20b?c=%20d",
        "/cycle/x",
        "/relative/x",
        "/set-args/x?a=1&b=2",
        "/as-arg/a+b",
        "/as-arg/a+b&c%20d",
        "/as-arg/a&b",
        "/as-arg/a&b?c=%20",
        "/as-arg-moved/a+b",
        "/as-arg-moved/a%26b?c",
        "/nested/inner/x",
        "/nested/x",
        "/captured/a/b",
        "/captured/a",
        "/captured-named/abc",
        "/recaptured/abc",
        "/unread/abc",
        "/unread/acb?a=x",
        "/unread/acb?a=y",
        "/forgot-if/x",
        "/forgot-not/x",
        "/forgot-rewrite/x",
        "/aliased/f.txt",
        "/exact",
        "/exact?a=1",
        "/server",
        "/LAST/x",
    ];
    let otherwise = [
        ("/temporary/a%3Fb", "302 | Location: http://a:PORT/show/a%3Fb", "an encoded question mark starts no query"),
        ("/temporary/%22%3C%3E", "302 | Location: http://a:PORT/show/%22%3C%3E", "what a URL may not hold is encoded"),
        ("/encoded/a%5Cb", "302 | Location: http://a:PORT/show/a%5Cb", "what a URL may not hold is encoded"),
    ];
    compare(&pair, &rows, &otherwise);
}

const IF: &str = r#"
map $arg_m $mapped { default 0; yes 1; empty ''; zero 0; }
server {
    listen LISTEN;
    server_name main.example;
    root DIRECTORY/www;

    location / { }
    location /true { if ($arg_a) { return 200 "true\n"; } return 200 "false\n"; }
    location /mapped { if ($mapped) { return 200 "true\n"; } return 200 "false\n"; }
    location /same { if ($arg_a = yes) { return 200 "same\n"; } return 200 "other\n"; }
    location /quoted { if ($arg_a = "y s") { return 200 "same\n"; } if ($http_x = "a b") { return 200 "field\n"; } return 200 "other\n"; }
    location /variables { if ($arg_a = $arg_b) { return 200 "same\n"; } return 200 "other\n"; }
    location /not { if ($arg_a != yes) { return 200 "other\n"; } return 200 "same\n"; }
    location /none { if ($arg_a = '') { return 200 "none\n"; } return 200 "some\n"; }
    location /match { if ($arg_a ~ ^(y)(.*)$) { return 200 "1=$1 2=$2\n"; } return 200 "no match\n"; }
    location /match-any { if ($arg_a ~* ^(y)(.*)$) { return 200 "1=$1 2=$2\n"; } return 200 "no match\n"; }
    location /no-match { if ($arg_a !~ ^y) { return 200 "no match\n"; } return 200 "match\n"; }
    location /no-match-any { if ($arg_a !~* ^y) { return 200 "no match\n"; } return 200 "match\n"; }
    location /named { if ($arg_a ~ ^(?<start>.)(?<end>.*)$) { return 200 "$end$start\n"; } return 200 "no match\n"; }
    location /file/ { if (-f DIRECTORY/www/$arg_f) { return 200 "file\n"; } return 200 "none\n"; }
    location /nofile/ { if (!-f DIRECTORY/www/$arg_f) { return 200 "none\n"; } return 200 "file\n"; }
    location /dir/ { if (-d DIRECTORY/www/$arg_f) { return 200 "dir\n"; } return 200 "none\n"; }
    location /nodir/ { if (!-d DIRECTORY/www/$arg_f) { return 200 "none\n"; } return 200 "dir\n"; }
    location /any/ { if (-e DIRECTORY/www/$arg_f) { return 200 "any\n"; } return 200 "none\n"; }
    location /noany/ { if (!-e DIRECTORY/www/$arg_f) { return 200 "none\n"; } return 200 "any\n"; }
    location /exec/ { if (-x DIRECTORY/www/$arg_f) { return 200 "exec\n"; } return 200 "none\n"; }
    location /noexec/ { if (!-x DIRECTORY/www/$arg_f) { return 200 "none\n"; } return 200 "exec\n"; }
    location /new { if (!-f $request_filename) { rewrite ^ /f.txt break; } }
    location /method { if ($request_method = POST) { return 405; } if ($request_method !~ ^(GET|HEAD)$) { return 403; } return 200 "fine\n"; }
    location /set {
        set $a "";
        if ($arg_x) { set $a "${a}x"; }
        if ($arg_y) { set $a "${a}y"; }
        if ($a = xy) { return 200 "both\n"; }
        return 200 "[$a]\n";
    }
    location /header { if ($http_x_test) { add_header X-If yes; } add_header X-Not yes; return 200 "x\n"; }
    location /if-header { if ($arg_a) { add_header X-If yes; return 200 "if\n"; } add_header X-Outer yes; return 200 "outer\n"; }
    location /if-root { if ($arg_a) { root DIRECTORY/www/new; } root DIRECTORY/www; rewrite ^ /f.txt break; }
    location /if-break { if ($arg_a) { set $b 1; break; } set $b 2; }
    location /if-rewrite { if ($arg_a ~ (.+)) { set $id $1; rewrite ^ /shown/$id? last; } return 200 "none\n"; }
    location /shown/ { return 200 "shown $uri $args\n"; }
    location /host { if ($host = main.example) { return 200 "main\n"; } if ($host ~* ^www\.(.+)$) { return 301 http://$1$request_uri; } return 200 "host=$host\n"; }
    location /cookie { if ($http_cookie ~* "id=([^;]+)(?:;|$)") { return 200 "id=$1\n"; } return 200 "no id\n"; }
    location /slow { if ($slow) { return 200 "slow\n"; } set $slow 1; if ($slow) { return 200 "now\n"; } }
    location /agent { if ($http_user_agent ~ MSIE) { rewrite ^(.*)$ /shown$1 last; } return 200 "modern\n"; }
    location /invalid { if ($args ~ post=140) { rewrite ^ http://example.com/ permanent; } return 200 "args=$args\n"; }
}
"#;

#[test]
fn conditions() {
    let Some(pair) = Pair::start(IF, fill) else { return };
    let mut rows = Vec::new();
    for path in ["/file/", "/nofile/", "/dir/", "/nodir/", "/any/", "/noany/", "/exec/", "/noexec/"] {
        rows.extend(["f.txt", "dir", "dir/", "tool.sh", "none", ""].map(|name| format!("{path}?f={name}")));
    }
    for path in
        ["/true", "/same", "/quoted", "/not", "/none", "/match", "/match-any", "/no-match", "/no-match-any", "/named"]
    {
        rows.extend(["", "?a=", "?a=0", "?a=00", "?a=yes", "?a=Yes", "?a=y%20s"].map(|args| format!("{path}{args}")));
    }
    rows.extend(
        [
            "/mapped",
            "/mapped?m=yes",
            "/mapped?m=empty",
            "/mapped?m=zero",
            "/quoted\nX: a b",
            "/variables",
            "/variables?a=1&b=1",
            "/variables?a=1&b=2",
            "/new",
            "/new/none",
            "/new/f.txt",
            "/method",
            "POST /method\nContent-Length: 0",
            "HEAD /method",
            "DELETE /method",
            "/set",
            "/set?x=1",
            "/set?x=1&y=1",
            "/set?y=1",
            "/header",
            "/header\nX-Test: 1",
            "/header\nX-Test: 0",
            "/if-header",
            "/if-header?a=1",
            "/if-root",
            "/if-root?a=1",
            "/if-break",
            "/if-break?a=1",
            "/if-rewrite",
            "/if-rewrite?a=17",
            "/if-rewrite?a=a%2Fb",
            "/host",
            "/host\nHost: main.example",
            "/host\nHost: MAIN.example:80",
            "/host\nHost: www.main.example",
            "/host?x=1\nHost: www.main.example",
            "/cookie",
            "/cookie\nCookie: a=b; id=7; c=d",
            "/cookie\nCookie: ID=8",
            "/cookie\nCookie: a=b\nCookie: id=9",
            "/slow",
            "/agent",
            "/agent?x=1\nUser-Agent: MSIE 6",
            "/invalid?post=140",
            "/invalid?post=14",
        ]
        .map(str::to_owned),
    );
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    compare(&pair, &rows, &[]);
}

const RETURN: &str = r#"
server {
    listen LISTEN;
    server_name main.example;
    root DIRECTORY/www;
    location /200 { return 200; }
    location /200-text { return 200 "text of $uri\n"; }
    location /200-empty { return 200 ""; }
    location /201 { return 201 "made"; }
    location /204 { return 204; }
    location /204-text { return 204 "text"; }
    location /206 { return 206 "part"; }
    location /301 { return 301 /new$uri; }
    location /301-args { return 301 /new$is_args$args; }
    location /302 { return 302 http://example.org/; }
    location /303 { return 303 /x; }
    location /304 { return 304; }
    location /307 { return 307 /x; }
    location /308 { return 308 /x; }
    location /300 { return 300 "choose"; }
    location /url { return http://example.org$request_uri; }
    location /https { return https://$host/; }
    location /scheme { return $scheme://example.org/; }
    location /relative { return 301 relative; }
    location /blank { return 301 "/a b"; }
    location /302-alone { return 302; }
    location /400 { return 400; }
    location /401 { return 401; }
    location /402 { return 402; }
    location /403 { return 403; }
    location /403-text { return 403 "go away\n"; }
    location /404 { return 404; }
    location /404-empty { return 404 ""; }
    location /405 { return 405; }
    location /406 { return 406; }
    location /408 { return 408; }
    location /409 { return 409; }
    location /410 { return 410; }
    location /411 { return 411; }
    location /412 { return 412; }
    location /413 { return 413; }
    location /414 { return 414; }
    location /415 { return 415; }
    location /416 { return 416; }
    location /418 { return 418; }
    location /418-text { return 418 "teapot"; }
    location /421 { return 421; }
    location /429 { return 429; }
    location /499 { return 499; }
    location /500 { return 500; }
    location /501 { return 501; }
    location /502 { return 502; }
    location /503 { return 503; }
    location /504 { return 504; }
    location /505 { return 505; }
    location /507 { return 507; }
    location /599 { return 599; }
    location /600 { return 600; }
    location /999 { return 999; }
    location /typed { default_type text/html; return 200 "<p>"; }
    location /json { default_type application/json; return 200 '{"a":"$arg_a"}'; }
    location /variable-type { default_type $arg_t; return 200 "x"; }
    location /added { add_header X-A a; add_header X-B b always; return 200 "x"; }
    location /added-404 { add_header X-A a; add_header X-B b always; return 404; }
    location /added-empty { add_header X-A $arg_none; add_header X-B $arg_b; return 200 "x"; }
    location /added-301 { add_header X-A a; return 301 /x; }
    location /added-204 { add_header X-A a; return 204; }
    location /content-type { add_header Content-Type text/css; return 200 "x"; }
    location /relative-redirect { absolute_redirect off; return 301 /x; }
    location /no-port { port_in_redirect off; return 301 /x; }
    location /server-name { server_name_in_redirect on; return 301 /x; }
    location /variables { return 200 "$request_method $request_uri $uri $document_uri $args $query_string $is_args $scheme $server_protocol $host $server_name $http_x_y $cookie_c $arg_a $content_length $content_type $remote_addr $request_filename $document_root $status|"; }
    location /tokens { server_tokens off; return 404; }
    location /tokens-text { server_tokens off; return 200 x; }
    location /keepalive { keepalive_timeout 0; return 200 x; }
    location /keepalive-header { keepalive_timeout 10 20; return 200 x; }
}
"#;

#[test]
fn returns() {
    let Some(pair) = Pair::start(RETURN, fill) else { return };
    let locations = RETURN.lines().filter_map(|line| line.trim().strip_prefix("location ")?.split(' ').next());
    let mut rows: Vec<String> = locations.map(str::to_owned).collect();
    rows.retain(|path| !["/304", "/302-alone", "/408", "/499"].contains(&path.as_str()));
    for path in ["/200-text", "/301", "/404", "/204", "/403-text"] {
        rows.extend([
            format!("HEAD {path}"),
            format!("POST {path}\nContent-Length: 2\n\nhi"),
            format!("GET {path} HTTP/1.0"),
        ]);
    }
    rows.extend(
        [
            "/301-args?a=1&b=%20",
            "/301/a%20b%3F",
            "/url?a=b",
            "/https\nHost: example.net:8443",
            "/json?a=%22",
            "/variable-type?t=text/css",
            "/added-empty?b=1",
            "/variables?a=1\nX-Y: z\nCookie: c=d\nContent-Type: x/y",
            "HEAD /variables",
            "/200-text\nRange: bytes=0-3",
            "/200-text\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT",
            "/server-name\nHost: b",
            "/no-port\nHost: b",
            "/301\nHost: b:99",
            "/nothing",
        ]
        .map(str::to_owned),
    );
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let otherwise = [
        ("/304", "304", "it must not tell the length of something else (RFC 9110 15.4.5)"),
        ("/302-alone", "302", "an empty Location leads nowhere"),
        ("/408", "408 | Connection: keep-alive", "nginx closes without the answer that the file asks for"),
        ("/499", "499 | Connection: keep-alive", "nginx closes without the answer that the file asks for"),
        ("/200-text\nIf-None-Match: *", "200", "only files have something to be matched"),
    ];
    compare(&pair, &rows, &otherwise);
}

/// Every order of three steps, of which the last ones decide whether a location is searched for the new URI.
#[test]
fn rewrite_and_break_in_every_order() {
    const STEPS: [&str; 7] = [
        "set $mark set;",
        "rewrite ^(/[^/]+)?(/.*)$ /show$2;",
        "rewrite ^/[^/]+(/.*)$ $1 break;",
        "rewrite ^ /show/last last;",
        "break;",
        "if ($arg_a) { break; }",
        "if ($arg_a) { rewrite ^ /show/if; }",
    ];
    let mut locations = String::new();
    let mut rows = Vec::new();
    for (i, first) in STEPS.iter().enumerate() {
        for (j, second) in STEPS.iter().enumerate() {
            for (k, third) in STEPS.iter().enumerate() {
                let steps = format!("{first} {second} {third}");
                locations.push_str(&format!("location /{i}{j}{k}/ {{ {steps} proxy_pass http://LISTEN/with/; }}\n"));
                rows.extend([format!("/{i}{j}{k}/x"), format!("/{i}{j}{k}/x?a=1")]);
            }
        }
    }
    let text = format!(
        "server {{ listen LISTEN; set $mark none; proxy_set_header X-Proxied yes; rewrite ^/before/(.*)$ /442/$1;
         {locations} location / {{ return 200 \"$request_uri $uri $mark $http_x_proxied\\n\"; }} }}"
    );
    rows.extend(["/before/x".to_owned(), "/before/x?a=1".to_owned()]);
    let Some(pair) = Pair::start(&text, fill) else { return };
    compare(&pair, &rows.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
}

/// Gitea below a path: the URI as the client sent it, without the prefix.
#[test]
fn rewrite_to_the_request_uri() {
    const TEXT: &str = r#"
server {
    listen LISTEN;
    location /gitea/ {
        rewrite ^ $request_uri;
        rewrite ^(/gitea)?(/.*) $2 break;
        proxy_pass http://LISTEN$uri;
    }
    location / { return 200 "$request_uri\n"; }
}
"#;
    let Some(pair) = Pair::start(TEXT, fill) else { return };
    compare(&pair, &["/gitea/", "/gitea/a%20b/c%2Fd", "/gitea/x?a=1&b=%20"], &[]);
}
