//! Access control: real_ip, allow and deny, auth_basic, satisfy, limit_except, auth_request, valid_referers.

use crate::pair::{Pair, TempDir};
use crate::peer;
use crate::rows::compare;

/// One line of each hash; the password is always `secret`.
const USERS: &str = "\
# a comment
plain:{PLAIN}secret
apr:$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/
sha:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=
ssha:{SSHA}SWdNwI9zrKBmRo5SG0mvNQtpZnhhYmNkZWZnaA==
md5:$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1
sha256:$5$abcdefgh$gruCpC7VkOTspMQTTSAR8mtlO9Upms.fwqE5y16JVM.
sha512:$6$abcdefgh$ltjgWl6579NluT/Vi1nwEvcil.G5Nbc4NiXZaNGStk8PSwGfQv72N2CKPPrVACtLtip/cZ/1GM/O6IND4WQhG.
commented:{PLAIN}secret:a comment
colon:{PLAIN}
open:
";

fn fill(dir: &TempDir) {
    dir.put("users", USERS);
    dir.put("empty", "");
    dir.put("www/f.txt", "a file");
    dir.put("www/index.html", "index");
    dir.put("www/401.html", "log in");
    dir.put("www/403.html", "keep out");
}

const ADDRESSES: &str = r#"
server {
    listen LISTEN;
    root DIRECTORY/www;
    set_real_ip_from 127.0.0.1;
    real_ip_header X-Forwarded-For;
    location / { return 200 "$remote_addr $realip_remote_addr $proxy_add_x_forwarded_for\n"; }
    location /deny { deny all; }
    location /allow { allow all; }
    location /allow/net { allow 10.0.0.0/8; deny all; alias DIRECTORY/www/f.txt; }
    location /deny/net { deny 10.0.0.0/8; deny 192.0.2.1; alias DIRECTORY/www/f.txt; }
    location /order { allow 10.1.0.0/16; deny 10.0.0.0/8; allow all; alias DIRECTORY/www/f.txt; }
    location /six { allow 2001:db8::/32; deny all; alias DIRECTORY/www/f.txt; }
    location /unix { deny unix:; alias DIRECTORY/www/f.txt; }
    location /return { deny all; return 200 "before\n"; }
    location /page { deny all; error_page 403 /403.html; }
    location /page-status { deny all; error_page 403 =404 /403.html; }
    location /inherited { allow 10.0.0.0/8; deny all; location /inherited/f { alias DIRECTORY/www/f.txt; } location /inherited/own { allow all; alias DIRECTORY/www/f.txt; } }
    location = /403.html { allow all; }
    location /except { limit_except GET { deny all; } alias DIRECTORY/www/f.txt; }
    location /except-post { limit_except POST { allow 10.0.0.0/8; deny all; } proxy_pass http://PEER; }
    location /except-two { limit_except GET POST { deny all; } proxy_pass http://PEER; }
}
server {
    listen LISTEN;
    server_name recursive;
    set_real_ip_from 127.0.0.1;
    set_real_ip_from 10.0.0.0/8;
    set_real_ip_from 2001:db8::/32;
    real_ip_header X-Forwarded-For;
    real_ip_recursive on;
    location / { return 200 "$remote_addr $realip_remote_addr\n"; }
}
server {
    listen LISTEN;
    server_name simple;
    set_real_ip_from 127.0.0.1/32;
    location / { return 200 "$remote_addr\n"; }
}
server {
    listen LISTEN;
    server_name own;
    set_real_ip_from 0.0.0.0/0;
    real_ip_header CF-Connecting-IP;
    location / { return 200 "$remote_addr\n"; }
}
server {
    listen LISTEN;
    server_name untrusted;
    set_real_ip_from 10.0.0.0/8;
    real_ip_header X-Forwarded-For;
    location / { return 200 "$remote_addr\n"; }
}
"#;

#[test]
fn addresses() {
    let Some(pair) = Pair::start(&ADDRESSES.replace("PEER", &peer::start("up").to_string()), fill) else { return };
    let mut rows = Vec::new();
    for value in [
        "10.0.0.1",
        "192.0.2.1",
        "2001:db8::1",
        "[2001:db8::1]:80",
        "10.0.0.1:80",
        "192.0.2.1, 10.0.0.1",
        "192.0.2.1,10.0.0.1",
        "10.0.0.2, 192.0.2.7, 10.0.0.1, 127.0.0.1",
        "10.0.0.1 , 10.0.0.2",
        "10.0.0.1,",
        ", 10.0.0.1",
        "unknown",
        "10.0.0.1, unknown",
        "unknown, 10.0.0.1",
        "256.0.0.1",
        "10.0.0",
        "unix:",
        "",
        " 10.0.0.1 ",
        "10.1.2.3",
    ] {
        for host in ["a", "recursive", "untrusted"] {
            rows.push(format!("/\nHost: {host}\nX-Forwarded-For: {value}"));
        }
        rows.push(format!("/\nHost: simple\nX-Real-IP: {value}"));
        rows.push(format!("/\nHost: own\nCF-Connecting-IP: {value}"));
    }
    for address in ["127.0.0.1", "10.0.0.1", "10.1.2.3", "192.0.2.1", "2001:db8::1", "2001:db9::1"] {
        for path in [
            "/deny",
            "/allow",
            "/allow/net",
            "/deny/net",
            "/order",
            "/six",
            "/unix",
            "/return",
            "/page",
            "/page-status",
            "/inherited",
            "/inherited/f",
            "/inherited/own",
            "/except",
            "/except-post",
            "/except-two",
        ] {
            rows.push(format!("{path}\nX-Forwarded-For: {address}"));
        }
        rows.push(format!("POST /except\nX-Forwarded-For: {address}\nContent-Length: 0"));
        rows.push(format!("POST /except-post\nX-Forwarded-For: {address}\nContent-Length: 2\n\nhi"));
        rows.push(format!("PUT /except-two\nX-Forwarded-For: {address}\nContent-Length: 2\n\nhi"));
        rows.push(format!("HEAD /except\nX-Forwarded-For: {address}"));
    }
    rows.push("/\nX-Forwarded-For: 192.0.2.1\nX-Forwarded-For: 10.0.0.1".to_owned());
    rows.push("/\nHost: recursive\nX-Forwarded-For: 192.0.2.1\nX-Forwarded-For: 10.0.0.1".to_owned());
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let otherwise = [
        (
            "/\nHost: simple\nX-Real-IP: [2001:db8::1]",
            "200 | Content-Length: 12",
            "brackets are of the address as with a port",
        ),
        (
            "/\nHost: simple\nX-Real-IP: ::ffff:10.0.0.1",
            "200 | Content-Length: 9",
            "deny means it however it is written",
        ),
    ];
    compare(&pair, &rows, &otherwise);
}

const USERS_ONLY: &str = r#"
server {
    listen LISTEN;
    root DIRECTORY/www;
    set_real_ip_from 127.0.0.1;
    location / { auth_basic "closed site"; auth_basic_user_file DIRECTORY/users; try_files /f.txt =404; }
    location /off { auth_basic off; try_files /f.txt =404; }
    location /quoted { auth_basic 'the "quoted" one'; auth_basic_user_file DIRECTORY/users; }
    location /variable { auth_basic $arg_realm; auth_basic_user_file DIRECTORY/users; try_files /f.txt =404; }
    location /none { auth_basic "none"; auth_basic_user_file DIRECTORY/nothing; }
    location /empty { auth_basic "empty"; auth_basic_user_file DIRECTORY/empty; }
    location /page { auth_basic "page"; auth_basic_user_file DIRECTORY/users; error_page 401 /401.html; }
    location /named { auth_basic "named"; auth_basic_user_file DIRECTORY/users; error_page 401 @named; }
    location /added { auth_basic "added"; auth_basic_user_file DIRECTORY/users; add_header X-A a; add_header X-B b always; }
    location /user { auth_basic "user"; auth_basic_user_file DIRECTORY/users; proxy_pass http://PEER; proxy_set_header Authorization ""; }
    location /except { limit_except GET { auth_basic "except"; auth_basic_user_file DIRECTORY/users; } proxy_pass http://PEER; }
    location /all { satisfy all; allow 10.0.0.0/8; deny all; auth_basic "all"; auth_basic_user_file DIRECTORY/users; try_files /f.txt =404; }
    location /any { satisfy any; allow 10.0.0.0/8; deny all; auth_basic "any"; auth_basic_user_file DIRECTORY/users; try_files /f.txt =404; }
    location /nested { auth_basic "nested"; auth_basic_user_file DIRECTORY/users; location /nested/off { auth_basic off; try_files /f.txt =404; } location /nested/on { try_files /f.txt =404; } }
    location = /401.html { auth_basic off; }
    location @named { return 200 "log in at $uri\n"; }
    location /shows { auth_basic "shows"; auth_basic_user_file DIRECTORY/users; try_files /nothing /show; }
    location /show { auth_basic off; return 200 "user=$remote_user\n"; }
}
"#;

#[test]
fn users() {
    let Some(pair) = Pair::start(&USERS_ONLY.replace("PEER", &peer::start("up").to_string()), fill) else { return };
    let credentials = |user: &str, password: &str| {
        let text = data_encoding::BASE64.encode(format!("{user}:{password}").as_bytes());
        format!("Authorization: Basic {text}")
    };
    let mut rows = Vec::new();
    for user in [
        "plain",
        "apr",
        "sha",
        "ssha",
        "md5",
        "sha256",
        "sha512",
        "commented",
        "colon",
        "open",
        "unknown",
        "# a comment",
        "",
        "Plain",
    ]
    .into_iter()
    .filter(|user| cfg!(feature = "crypt") || !user.starts_with("sha2") && !user.starts_with("sha5"))
    {
        for password in ["secret", "Secret", ""] {
            rows.push(format!("/\n{}", credentials(user, password)));
        }
    }
    let right = credentials("plain", "secret");
    let paths = USERS_ONLY
        .lines()
        .filter_map(|line| line.trim().strip_prefix("location ")?.split([' ', '=']).find(|word| word.starts_with('/')));
    for path in paths.filter(|path| *path != "/quoted") {
        rows.push(path.to_owned());
        rows.push(format!("{path}\n{right}"));
        rows.push(format!("HEAD {path}"));
    }
    for path in ["/all", "/any"] {
        rows.push(format!("{path}\nX-Real-IP: 10.0.0.1"));
        rows.push(format!("{path}\nX-Real-IP: 10.0.0.1\n{right}"));
    }
    rows.push(format!("POST /except\n{right}\nContent-Length: 0"));
    rows.push(format!("/nested/on\n{right}"));
    rows.extend(
        [
            "/nested/on",
            "/nested/off",
            "POST /except\nContent-Length: 0",
            "POST /\nContent-Length: 2\n\nhi",
            "/variable?realm=here",
            "/variable?realm=off",
            "/\nAuthorization: Basic",
            "/\nAuthorization: Basic ",
            "/\nAuthorization: Basic !!!",
            "/\nAuthorization: Basic cGxhaW4=",
            "/\nAuthorization: basic cGxhaW46c2VjcmV0",
            "/\nAuthorization: BASIC cGxhaW46c2VjcmV0",
            "/\nAuthorization: Basic  cGxhaW46c2VjcmV0",
            "/\nAuthorization: Bearer cGxhaW46c2VjcmV0",
            "/\nAuthorization: Basic cGxhaW46c2VjcmV0OnNlY3JldA==",
        ]
        .map(str::to_owned),
    );
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let otherwise = [(
        "/quoted",
        "401 | WWW-Authenticate: Basic realm=\"the \\\"quoted\\\" one\"",
        "a quote within a quoted string is escaped (RFC 9110 5.6.4)",
    )];
    compare(&pair, &rows, &otherwise);
}

const OTHERS: &str = r#"
server {
    listen LISTEN;
    server_name main.example *.main.example;
    root DIRECTORY/www;
    location /auth/200 { return 200; }
    location /auth/204 { return 204; }
    location /auth/401 { add_header WWW-Authenticate 'Basic realm="asked"' always; return 401; }
    location /auth/403 { return 403; }
    location /auth/500 { return 500; }
    location /auth/404 { return 404; }
    location /ask/200 { auth_request /auth/200; try_files /f.txt =404; }
    location /ask/204 { auth_request /auth/204; try_files /f.txt =404; }
    location /ask/401 { auth_request /auth/401; try_files /f.txt =404; }
    location /ask/403 { auth_request /auth/403; try_files /f.txt =404; }
    location /ask/500 { auth_request /auth/500; try_files /f.txt =404; }
    location /ask/404 { auth_request /auth/404; try_files /f.txt =404; }
    location /ask/proxied { auth_request /proxied/ok; try_files /f.txt =404; }
    location /ask/refused { auth_request /proxied/missing; try_files /f.txt =404; }
    location /ask/page { auth_request /auth/401; error_page 401 =302 /login?to=$request_uri; }
    location /proxied/ { internal; proxy_pass http://PEER; proxy_pass_request_body off; proxy_set_header Content-Length ""; }
}
"#;

#[test]
fn auth_request() {
    let Some(pair) = Pair::start(&OTHERS.replace("PEER", &peer::start("up").to_string()), fill) else { return };
    let mut rows = Vec::new();
    for path in ["200", "204", "401", "403", "500", "404", "proxied", "refused", "page"] {
        rows.push(format!("/ask/{path}"));
        rows.push(format!("HEAD /ask/{path}"));
        rows.push(format!("POST /ask/{path}\nContent-Length: 2\n\nhi"));
    }
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    compare(&pair, &rows, &[]);
}

const REFERERS: &str = r#"
server {
    listen LISTEN;
    server_name main.example *.main.example;
    location /none { valid_referers none example.org;  return 200 "[$invalid_referer]\n"; }
    location /blocked { valid_referers none blocked server_names; return 200 "[$invalid_referer]\n"; }
    location /names { valid_referers server_names; return 200 "[$invalid_referer]\n"; }
    location /list { valid_referers none example.org *.example.org www.example.* example.net/path ~\.google\.; return 200 "[$invalid_referer]\n"; }
    location /if { valid_referers none blocked server_names; if ($invalid_referer) { return 403; } return 200 "fine\n"; }
}
"#;

#[test]
fn referers() {
    let Some(pair) = Pair::start(REFERERS, fill) else { return };
    let mut rows = Vec::new();
    for path in ["/none", "/blocked", "/names", "/list", "/if"] {
        rows.push(path.to_owned());
        for referer in [
            "",
            "http://main.example",
            "http://main.example/x?y",
            "https://www.main.example/",
            "http://MAIN.example/",
            "http://main.example:8080/",
            "http://example.org/",
            "https://a.example.org/",
            "http://www.example.com/",
            "http://example.net/path/x",
            "http://example.net/other",
            "http://www.google.com/",
            "main.example",
            "ftp://main.example/",
            "XXXX",
            "http://",
            "http://evil.example/main.example",
        ] {
            rows.push(format!("{path}\nReferer: {referer}"));
        }
    }
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    compare(&pair, &rows, &[]);
}
