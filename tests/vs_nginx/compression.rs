//! gzip. Bodies are compared after decompression, as two encoders write different bytes.

use crate::pair::{Pair, TempDir};
use crate::peer;
use crate::rows::compare;

fn fill(dir: &TempDir) {
    let line = "All work and no play makes Jack a dull boy. ";
    for (name, text) in [
        ("www/page.html", line.repeat(20)),
        ("www/large.html", line.repeat(4000)),
        ("www/short.html", "short".to_owned()),
        ("www/empty.html", String::new()),
        ("www/style.css", line.repeat(20)),
        ("www/app.js", line.repeat(20)),
        ("www/photo.png", line.repeat(20)),
        ("www/404.html", line.repeat(20)),
    ] {
        dir.put(name, text);
    }
}

const CONFIG: &str = r#"
gzip on;
server {
    listen LISTEN;
    root DIRECTORY/www;
    error_page 404 /404.html;
    location /vary/ { alias DIRECTORY/www/; gzip_vary on; gzip_types text/css; }
    location /all/ { alias DIRECTORY/www/; gzip_types *; }
    location /off/ { alias DIRECTORY/www/; gzip off; gzip_vary on; }
    location /old/ { alias DIRECTORY/www/; gzip_http_version 1.0; gzip_vary on; }
    location /long/ { alias DIRECTORY/www/; gzip_min_length 1k; }
    location /zero/ { alias DIRECTORY/www/; gzip_min_length 0; gzip_types *; }
    location /level/ { alias DIRECTORY/www/; gzip_comp_level 9; }
    location /disabled/ { alias DIRECTORY/www/; gzip_disable msie6 "bad(bot|spider)"; }
    location /added/ { alias DIRECTORY/www/; add_header X-A b; add_header Cache-Control no-store; expires 1h; }
    location /tagged/ { alias DIRECTORY/www/; add_header ETag '"own"'; }
    location /any/ { alias DIRECTORY/www/; gzip_proxied any; }
    location /auth/ { alias DIRECTORY/www/; gzip_proxied auth; }
    location /expired/ { alias DIRECTORY/www/; gzip_proxied expired; expires -1; }
    location /fresh/ { alias DIRECTORY/www/; gzip_proxied expired; expires 1h; }
    location /no-cache/ { alias DIRECTORY/www/; gzip_proxied no-cache; add_header Cache-Control "no-cache"; }
    location /no-store/ { alias DIRECTORY/www/; gzip_proxied no-store private; add_header Cache-Control "max-age=1"; }
    location /no-etag/ { alias DIRECTORY/www/; gzip_proxied no_etag; }
    location /return/ { default_type text/html; return 200 "All work and no play makes Jack a dull boy."; }
    location /403 { return 403; }
    location /500 { return 500; }
    location /302 { return 302 http://b/; }
    location /204 { return 204; }
    location /up/ { gzip_types text/plain; gzip_vary on; gzip_min_length 10; proxy_http_version 1.1; proxy_pass http://PEER; }
    location /dir/ { alias DIRECTORY/www/; autoindex on; }
}
"#;

#[test]
fn gzip() {
    let config = CONFIG.replace("PEER", &peer::start("up").to_string());
    let Some(pair) = Pair::start(&config, fill) else { return };
    let mut rows = Vec::new();
    for dir in ["", "vary/", "all/", "off/", "old/", "long/", "zero/", "level/", "added/", "tagged/"] {
        for name in ["page.html", "large.html", "short.html", "style.css", "photo.png", "none.html"] {
            for asked in [format!("/{dir}{name}"), format!("HEAD /{dir}{name}")] {
                rows.extend([format!("{asked}\nAccept-Encoding: gzip"), asked]);
            }
            rows.push(format!("GET /{dir}{name} HTTP/1.0\nAccept-Encoding: gzip"));
            rows.push(format!("GET /{dir}{name} HTTP/1.0\nConnection: keep-alive\nAccept-Encoding: gzip"));
        }
    }
    for asked in ["/return/", "/403", "/302", "/204", "/up/x", "/up/missing", "/dir/"] {
        for method in ["GET", "HEAD"] {
            rows.extend([format!("{method} {asked}"), format!("{method} {asked}\nAccept-Encoding: gzip")]);
        }
        rows.push(format!("GET {asked} HTTP/1.0\nAccept-Encoding: gzip"));
    }
    for dir in ["", "any", "auth", "expired", "fresh", "no-cache", "no-store", "no-etag"] {
        let asked = format!("/{dir}/page.html\nAccept-Encoding: gzip\nVia: 1.1 other");
        rows.extend([format!("{asked}\nAuthorization: x"), asked]);
    }
    for accepted in [
        "GZIP",
        "gzip,deflate",
        "deflate, gzip",
        "br;q=1.0, gzip;q=0.8, *;q=0.1",
        "gzip;q=0",
        "gzip; q=0.001",
        "gzip;q=1.1",
        "gzip;q=x",
        "gzip ;q=1",
        "*",
        "x-gzip",
        "gzip;",
        "identity",
        "",
    ] {
        rows.push(format!("/page.html\nAccept-Encoding: {accepted}"));
    }
    for agent in ["X (MSIE 6.0; Y)", "X (MSIE 6.0; SV1)", "X MSIE 5.5 Opera", "X MSIE 7.0", "BadBot", "bad", "Spider"] {
        rows.push(format!("/disabled/page.html\nAccept-Encoding: gzip\nUser-Agent: {agent}"));
    }
    for condition in ["If-None-Match: W/\"6553f100-370\"", "If-None-Match: \"6553f100-370\"", "If-None-Match: \"x\""] {
        rows.push(format!("/vary/page.html\nAccept-Encoding: gzip\n{condition}"));
    }
    rows.extend(["/page.html\nRange: bytes=0-9", "/vary/page.html\nRange: bytes=0-9"].map(str::to_owned));
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    compare(
        &pair,
        &rows,
        &[
            (
                "/page.html\nAccept-Encoding: gzip\nRange: bytes=0-9",
                "206 | Content-Range: bytes 0-9/880 | Content-Length: 10",
                "nginx forgets the range and sends all of the file",
            ),
            ("/zero/empty.html\nAccept-Encoding: gzip", "200 | Content-Length: 0", "nothing is not to be compressed"),
        ],
    );
}
