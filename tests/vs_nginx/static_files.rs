//! Static files: autoindex, gzip_static, expires, charset, index, alias, types, etag.

use crate::pair::{Pair, TempDir};
use crate::rows::compare;

fn fill(dir: &TempDir) {
    for (name, text) in [
        ("www/list/a.txt", "12345"),
        ("www/list/b file.txt", "1"),
        ("www/list/c&d<e>.txt", ""),
        ("www/list/é.txt", "x"),
        ("www/list/%25.txt", "x"),
        ("www/list/q?x#y.txt", "x"),
        ("www/list/col:on", "x"),
        ("www/list/.hidden", "x"),
        ("www/list/sub/f.txt", "x"),
        ("www/list/Upper.txt", "x"),
        ("www/list/1", "x"),
        ("www/list/10", "x"),
        ("www/list/2", "x"),
        ("www/list/quote\"'.txt", "x"),
        ("www/empty/.keep", ""),
        ("www/indexed/index.html", "index"),
        ("www/static/a.js", "plain"),
        ("www/static/a.js.gz", "compressed"),
        ("www/static/b.css", "only plain"),
        ("www/static/c.txt.gz", "only compressed"),
        ("www/static/d.html", "<p>"),
        ("www/static/d.html.gz", "compressed page"),
        ("www/static/none", "no extension"),
        ("www/static/x.xml", "<x/>"),
        ("www/static/j.json", "{}"),
        ("www/static/ten.bin", "0123456789"),
        ("www/one/index.html", "one"),
        ("www/two/b.html", "two"),
        ("www/dirs/sub/index.html", "sub"),
    ] {
        dir.put(name, text);
    }
    dir.put("www/list/big.bin", vec![b'x'; 3 << 20]);
    dir.put(&format!("www/list/{}.txt", "long".repeat(20)), "long");
    dir.put(&format!("www/list/{}.txt", "é".repeat(45)), "long");
    dir.put("www/list/almost-fifty-bytes-of-name-are-in-this-name-01.tx", "50");
    dir.put("www/list/almost-fifty-bytes-of-name-are-in-this-name-01.txt", "51");
}

const AUTOINDEX: &str = r#"
server {
    listen LISTEN;
    root DIRECTORY/www;
    location / { autoindex on; }
    location /rounded/ { alias DIRECTORY/www/list/; autoindex on; autoindex_exact_size off; }
    location /local/ { alias DIRECTORY/www/list/; autoindex on; autoindex_localtime on; }
    location /json/ { alias DIRECTORY/www/list/; autoindex on; autoindex_format json; }
    location /xml/ { alias DIRECTORY/www/list/; autoindex on; autoindex_format xml; }
    location /jsonp/ { alias DIRECTORY/www/list/; autoindex on; autoindex_format jsonp; }
    location /off/ { alias DIRECTORY/www/list/; autoindex off; }
    location /headers/ { alias DIRECTORY/www/list/; autoindex on; add_header X-A a; expires 1h; }
}
"#;

#[test]
fn autoindex() {
    let Some(pair) = Pair::start(AUTOINDEX, fill) else { return };
    let rows = [
        "/list/",
        "/list/?C=M;O=D",
        "HEAD /list/",
        "POST /list/\nContent-Length: 0",
        "PUT /list/\nContent-Length: 0",
        "GET /list/ HTTP/1.0",
        "/list",
        "/list/\nRange: bytes=0-9",
        "/list/\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT",
        "/list/\nIf-None-Match: \"x\"",
        "/empty/",
        "/indexed/",
        "/none/",
        "/list/none/",
        "/list/sub/",
        "/list/a.txt/",
        "/rounded/",
        "/local/",
        "/json/",
        "HEAD /json/",
        "/off/",
        "/headers/",
    ];
    compare(&pair, &rows, &[]);
}

const STATIC: &str = r#"
server {
    listen LISTEN;
    root DIRECTORY/www;
    location /static/ { gzip_static on; }
    location /vary/ { alias DIRECTORY/www/static/; gzip_static on; gzip_vary on; }
    location /always/ { alias DIRECTORY/www/static/; gzip_static always; }
    location /never/ { alias DIRECTORY/www/static/; gzip_static off; }
    location /proxied/ { alias DIRECTORY/www/static/; gzip_static on; gzip_proxied any; }
    location /old/ { alias DIRECTORY/www/static/; gzip_static on; gzip_http_version 1.0; }
    location /disabled/ { alias DIRECTORY/www/static/; gzip_static on; gzip_disable "MSIE [1-6]\."; }
}
"#;

#[test]
fn gzip_static() {
    let Some(pair) = Pair::start(STATIC, fill) else { return };
    let mut rows = Vec::new();
    for dir in ["static", "vary", "always", "never", "proxied", "old", "disabled"] {
        for name in ["a.js", "b.css", "c.txt", "d.html", "none.js", "a.js.gz"] {
            rows.extend([format!("/{dir}/{name}"), format!("/{dir}/{name}\nAccept-Encoding: gzip")]);
        }
        rows.push(format!("/{dir}/a.js\nAccept-Encoding: gzip\nVia: 1.1 proxy"));
        rows.push(format!("GET /{dir}/a.js HTTP/1.0\nAccept-Encoding: gzip"));
    }
    rows.extend(
        [
            "/static/a.js\nAccept-Encoding: deflate",
            "/static/a.js\nAccept-Encoding: gzip;q=0",
            "/static/a.js\nAccept-Encoding: gzip;q=0.5",
            "/static/a.js\nAccept-Encoding: gzip;q=1",
            "/static/a.js\nAccept-Encoding: gzip; q=1",
            "/static/a.js\nAccept-Encoding: deflate, gzip",
            "/static/a.js\nAccept-Encoding: deflate,gzip,br",
            "/static/a.js\nAccept-Encoding: GZIP",
            "/static/a.js\nAccept-Encoding: *",
            "/static/a.js\nAccept-Encoding: identity, *",
            "/static/a.js\nAccept-Encoding: ",
            "HEAD /static/a.js\nAccept-Encoding: gzip",
            "POST /static/a.js\nAccept-Encoding: gzip\nContent-Length: 0",
            "/static/a.js\nAccept-Encoding: gzip\nRange: bytes=0-3",
            "/static/a.js\nAccept-Encoding: gzip\nIf-None-Match: \"6553f100-a\"",
            "/static/a.js\nAccept-Encoding: gzip\nIf-None-Match: \"6553f100-5\"",
            "/static/a.js\nAccept-Encoding: gzip\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT",
            "/disabled/a.js\nAccept-Encoding: gzip\nUser-Agent: MSIE 6.0",
            "/disabled/a.js\nAccept-Encoding: gzip\nUser-Agent: MSIE 9.0",
            "/static/",
        ]
        .map(str::to_owned),
    );
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    compare(&pair, &rows, &[]);
}

const EXPIRES: &str = r#"
map $sent_http_content_type $by_type { default off; text/html epoch; ~javascript max; text/css 30d; }
server {
    listen LISTEN;
    root DIRECTORY/www;
    location /1h/ { alias DIRECTORY/www/static/; expires 1h; }
    location /30d/ { alias DIRECTORY/www/static/; expires 30d; }
    location /1y/ { alias DIRECTORY/www/static/; expires 1y; }
    location /mixed/ { alias DIRECTORY/www/static/; expires 1h30m; }
    location /zero/ { alias DIRECTORY/www/static/; expires 0; }
    location /minus/ { alias DIRECTORY/www/static/; expires -1; }
    location /minus-1h/ { alias DIRECTORY/www/static/; expires -1h; }
    location /max/ { alias DIRECTORY/www/static/; expires max; }
    location /epoch/ { alias DIRECTORY/www/static/; expires epoch; }
    location /off/ { alias DIRECTORY/www/static/; expires off; }
    location /modified/ { alias DIRECTORY/www/static/; expires modified +24h; }
    location /modified-20y/ { alias DIRECTORY/www/static/; expires modified 20y; }
    location /map/ { alias DIRECTORY/www/static/; expires $by_type; }
    location /with/ { alias DIRECTORY/www/static/; expires 1h; add_header Cache-Control "public"; add_header X-A a; }
    location /always/ { alias DIRECTORY/www/static/; add_header X-A $uri always; add_header X-B b; }
    location /inner/ { alias DIRECTORY/www/static/; expires 1h; location /inner/a { alias DIRECTORY/www/static/a; expires off; } }
    location /if/ { alias DIRECTORY/www/static/; if ($arg_a) { expires 1d; } }
    location /text { expires 1h; return 200 "x"; }
    location /404 { expires 1h; return 404; }
    location /301 { expires 1h; return 301 /x; }
    location /304/ { alias DIRECTORY/www/static/; expires max; etag off; }
}
"#;

#[test]
fn expires() {
    let Some(pair) = Pair::start(EXPIRES, fill) else { return };
    let mut rows: Vec<String> = EXPIRES
        .lines()
        .filter_map(|line| line.trim().strip_prefix("location ")?.split(' ').next())
        .flat_map(|path| match path.ends_with('/') {
            true => vec![format!("{path}a.js"), format!("{path}d.html"), format!("{path}none.txt")],
            false => vec![path.to_owned()],
        })
        .collect();
    rows.extend(
        [
            "/map/b.css",
            "/map/ten.bin",
            "/if/a.js?a=1",
            "HEAD /30d/a.js",
            "/30d/a.js\nIf-None-Match: \"6553f100-5\"",
            "/30d/ten.bin\nRange: bytes=0-3",
            "/30d/ten.bin\nRange: bytes=30-",
            "/modified/a.js\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT",
            "POST /30d/a.js\nContent-Length: 0",
        ]
        .map(str::to_owned),
    );
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    compare(&pair, &rows, &[]);
}

const CHARSET: &str = r#"
server {
    listen LISTEN;
    root DIRECTORY/www;
    location /utf-8/ { alias DIRECTORY/www/static/; charset utf-8; }
    location /latin/ { alias DIRECTORY/www/static/; charset iso-8859-1; }
    location /off/ { alias DIRECTORY/www/static/; charset off; }
    location /types/ { alias DIRECTORY/www/static/; charset utf-8; charset_types application/json; }
    location /all/ { alias DIRECTORY/www/static/; charset utf-8; charset_types *; }
    location /variable/ { alias DIRECTORY/www/static/; charset $arg_c; }
    location /return { charset utf-8; default_type text/plain; return 200 "x"; }
    location /return-type { charset utf-8; default_type "text/plain; charset=koi8-r"; return 200 "x"; }
    location /404 { charset utf-8; return 404; }
    location /301 { charset utf-8; return 301 /x; }
    location /204 { charset utf-8; return 204; }
    location /own/ { alias DIRECTORY/www/static/; charset utf-8; types { text/x-own js; application/x-none css; } default_type text/x-any; }
    location /no-types/ { alias DIRECTORY/www/static/; types { } default_type text/css; }
    location /no-default/ { alias DIRECTORY/www/static/; types { } default_type ""; }
    location /no-etag/ { alias DIRECTORY/www/static/; etag off; }
    location /before/ { alias DIRECTORY/www/static/; if_modified_since before; }
    location /never/ { alias DIRECTORY/www/static/; if_modified_since off; }
    location /ranges-0/ { alias DIRECTORY/www/static/; max_ranges 0; }
    location /ranges-1/ { alias DIRECTORY/www/static/; max_ranges 1; }
    location /one/ { index none.html index.html; }
    location /two/ { index index.html a.html b.html; }
    location /no-index/ { alias DIRECTORY/www/one/; index none.html; }
    location /dirs/ { index sub/index.html; }
    location /absolute/ { alias DIRECTORY/www/empty/; index none.html /one/index.html; }
    location /variable-index/ { alias DIRECTORY/www/two/; index $arg_i.html index.html; }
    location /alias-file { alias DIRECTORY/www/one/index.html; }
    location ~ ^/re/(.*)$ { alias DIRECTORY/www/static/$1; }
    location ~ ^/re-root/(.*)$ { root DIRECTORY/www/$1; }
    location = /exact.js { alias DIRECTORY/www/static/a.js; }
    location /root-variable/ { root DIRECTORY/$arg_r; }
    location /inherited/ { alias DIRECTORY/www/; location /inherited/static/ { } }
}
"#;

#[test]
fn types_and_directories() {
    let Some(pair) = Pair::start(CHARSET, fill) else { return };
    let mut rows = Vec::new();
    for dir in ["utf-8", "latin", "off", "types", "all", "own", "no-types", "no-default", "no-etag", "never", "before"]
    {
        for name in ["a.js", "b.css", "d.html", "x.xml", "j.json", "none", "ten.bin"] {
            rows.push(format!("/{dir}/{name}"));
        }
    }
    rows.extend(
        [
            "/variable/d.html?c=utf-8",
            "/return",
            "/return-type",
            "/404",
            "/301",
            "/204",
            "/utf-8/none.html",
            "/utf-8/d.html\nRange: bytes=0-1",
            "/utf-8/d.html\nRange: bytes=0-0,2-2",
            "/utf-8/d.html\nIf-None-Match: \"6553f100-3\"",
            "HEAD /utf-8/d.html",
            "/no-etag/a.js\nIf-None-Match: \"6553f100-5\"",
            "/no-etag/a.js\nIf-None-Match: *",
            "/no-etag/ten.bin\nRange: bytes=0-1\nIf-Range: \"6553f100-a\"",
            "/no-etag/ten.bin\nRange: bytes=0-1\nIf-Range: Tue, 14 Nov 2023 22:13:20 GMT",
            "/before/a.js\nIf-Modified-Since: Mon, 14 Nov 2033 22:13:20 GMT",
            "/before/a.js\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT",
            "/before/a.js\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:19 GMT",
            "/never/a.js\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT",
            "/never/a.js\nIf-None-Match: \"6553f100-5\"",
            "/ranges-0/ten.bin\nRange: bytes=0-1",
            "/ranges-0/ten.bin",
            "/ranges-1/ten.bin\nRange: bytes=0-1",
            "/ranges-1/ten.bin\nRange: bytes=0-1,3-4",
            "/one/",
            "/two/",
            "/two/?x=1",
            "HEAD /two/",
            "/no-index/",
            "/no-index/index.html",
            "/dirs/",
            "/absolute/",
            "/variable-index/?i=b",
            "/variable-index/",
            "/alias-file",
            "/alias-file/",
            "/re/a.js",
            "/re/none",
            "/re/",
            "/exact.js",
            "/exact.js/",
            "/root-variable/x?r=www",
            "/inherited/static/a.js",
            "/inherited/one/",
        ]
        .map(str::to_owned),
    );
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    compare(&pair, &rows, &[]);
}
