//! The configuration of tutorials: WebSockets to two peers, and static files.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::pair::{Pair, TempDir};
use crate::peer;
use crate::rows::{KnownDifference, compare};

const TUTORIAL: &str = r#"
    upstream websocket {
        server PEER_A;
        server PEER_B;
    }

    server {
        listen LISTEN;
        server_name example.com www.example.com;

        location / {
            proxy_pass http://websocket;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
        }

        location /static/ {
            root DIRECTORY/srv;
            expires 30d;
            add_header Cache-Control "public";
        }
    }
"#;

fn fill(dir: &TempDir) {
    for (name, text) in [
        ("app.js", "console.log(1);\n"),
        ("style.css", "body { color: #222 }\n"),
        ("index.html", "<!doctype html>\n<p>hello\n"),
        ("ten.bin", "0123456789"),
        ("empty.txt", ""),
        ("noext", "no extension"),
        ("a b.txt", "a space"),
        ("café.txt", "two bytes"),
        ("pic.PNG", "no picture"),
        ("data.json", "{}"),
        ("x.unknown", "?"),
        (".hidden", "hidden"),
        ("semi;colon.txt", "semi"),
        ("plus+plus.txt", "plus"),
        ("per%cent.txt", "per cent"),
        ("quote\"s.txt", "quote"),
        ("tar.tar.gz", "tar"),
        ("app.js.gz", "not asked for"),
        ("sub/index.html", "a directory's index"),
        ("sub/deep/er/file.txt", "deeper"),
        ("bare/only.txt", "no index here"),
        ("wrong/index.html/nothing", "an index that is a directory"),
        ("font.woff2", "font"),
        ("v.svg", "<svg/>"),
        ("m.mp4", "film"),
    ] {
        dir.put(&format!("srv/static/{name}"), text);
    }
    dir.put("srv/secret.txt", "secret");
    dir.put("srv/static/big.bin", big());
    dir.put("srv/static/locked.txt", "locked");
    std::fs::set_permissions(dir.path("srv/static/locked.txt"), PermissionsExt::from_mode(0o000)).unwrap();
    dir.put("srv/static/shut/index.html", "shut");
    std::fs::set_permissions(dir.path("srv/static/shut"), PermissionsExt::from_mode(0o000)).unwrap();
    symlink("app.js", dir.path("srv/static/link.js")).unwrap();
    symlink("nowhere", dir.path("srv/static/dangling")).unwrap();
    symlink("round", dir.path("srv/static/round")).unwrap();
}

/// More than one call sends.
fn big() -> Vec<u8> {
    (0..300_000_u32).map(|n| (n % 251) as u8).collect()
}

fn start() -> Option<Pair> {
    let text = TUTORIAL.replace("PEER_A", &peer::start("a").to_string());
    Pair::start(&text.replace("PEER_B", &peer::start("b").to_string()), fill)
}

/// Files, directories and missing paths.
const PATHS: &[&str] = &[
    "/static/app.js",
    "/static/style.css",
    "/static/index.html",
    "/static/ten.bin",
    "/static/empty.txt",
    "/static/noext",
    "/static/pic.PNG",
    "/static/data.json",
    "/static/x.unknown",
    "/static/.hidden",
    "/static/font.woff2",
    "/static/v.svg",
    "/static/m.mp4",
    "/static/tar.tar.gz",
    "/static/big.bin",
    "/static/sub/deep/er/file.txt",
    "/static/link.js",
    "/static/app.js?v=1",
    "/static/app.js?",
    "/static/app.js??",
    "/static/app.js?a=/../b&c=%zz",
    "/static/a%20b.txt",
    "/static/caf%C3%A9.txt",
    "/static/caf%c3%a9.txt",
    "/static/%61pp.js",
    "/static/app%2Ejs",
    "/static/semi;colon.txt",
    "/static/semi%3Bcolon.txt",
    "/static/plus+plus.txt",
    "/static/plus%2Bplus.txt",
    "/static/per%25cent.txt",
    "/static/quote%22s.txt",
    "/static/quote\"s.txt",
    "//static/app.js",
    "/static//app.js",
    "///static////app.js",
    "/static/./app.js",
    "/static/sub/../app.js",
    "/static/sub/.././app.js",
    "/./static/app.js",
    "/static/sub/%2e%2e/app.js",
    "/static/sub/..%2fapp.js",
    "/static/sub%2f..%2fapp.js",
    "/static%2fapp.js",
    "/x/../static/app.js",
    "/static/..app.js",
    "/static/...",
    "/static/.../app.js",
    "/static/app.js.",
    "/static/app.js/.",
    "/static/app.js/..",
    "/static/sub/.",
    "/static/sub/..",
    "/static/",
    "/static//",
    "/static/sub",
    "/static/sub/",
    "/static/sub/index.html",
    "/static/sub?x=1",
    "/static/wrong/",
    "/static/sub/?x=1",
    "/static//sub",
    "/static/sub/deep",
    "/static/sub/deep/",
    "/static/sub/deep?a=b&c=%20d",
    "/static/bare",
    "/static/bare/",
    "/static/shut",
    "/static/shut/",
    "/static/shut/index.html",
    "/static/locked.txt",
    "/static/dangling",
    "/static/dangling/",
    "/static/round",
    "/static/none.txt",
    "/static/none/",
    "/static/none/none/none.txt",
    "/static/app.js/",
    "/static/app.js/x",
    "/static/APP.JS",
    "/static/app.js%20",
    "/static/%20app.js",
    "/static/app%252ejs",
    "/static/%c0%ae%c0%ae/secret.txt",
    "/static/sub/%252e%252e/app.js",
    "/static/a\\b",
    "/static/..;/secret.txt",
    "/static/%2e%2e%2e/app.js",
    "/static/{curly}.txt",
    "/static/[x].txt",
    "/static/~user",
    "/static/%7Euser",
    "/static/*",
    "/static/a|b",
    "/static/a^b`c",
    "/static/<x>",
    "/STATIC/app.js\nHost: example.com",
    "/static/../../../etc/passwd",
    "/static/%2e%2e/%2e%2e/etc/passwd",
    "/static/..%2f..%2f..%2fetc%2fpasswd",
    "/static/app.js%00",
    "/static/%00",
    "/static/%zz",
    "/static/%",
    "/static/%4",
];

/// Methods, versions, and the connection after it.
const METHODS: &[&str] = &[
    "HEAD /static/app.js",
    "HEAD /static/big.bin",
    "HEAD /static/sub",
    "HEAD /static/sub/",
    "HEAD /static/bare/",
    "HEAD /static/none.txt",
    "HEAD /static/locked.txt",
    "POST /static/app.js\nContent-Length: 0",
    "POST /static/app.js\nContent-Length: 5\n\nhello",
    "POST /static/none.txt\nContent-Length: 0",
    "POST /static/sub/\nContent-Length: 0",
    "PUT /static/app.js\nContent-Length: 2\n\nhi",
    "DELETE /static/app.js",
    "PATCH /static/app.js\nContent-Length: 0",
    "OPTIONS /static/app.js",
    "PROPFIND /static/app.js",
    "MKCOL /static/new/",
    "FOOBAR /static/app.js",
    "GET /static/app.js HTTP/1.0",
    "GET /static/app.js HTTP/1.0\nHost: a",
    "GET /static/app.js HTTP/1.0\nConnection: keep-alive",
    "GET /static/sub HTTP/1.0",
    "GET /static/sub HTTP/1.0\nHost: b",
    "GET /static/none.txt HTTP/1.0",
    "HEAD /static/app.js HTTP/1.0",
    "GET /static/big.bin HTTP/1.0\nRange: bytes=0-9",
    "GET /static/app.js\nConnection: close",
    "GET /static/app.js\nConnection: Close",
    "GET /static/app.js\nConnection: keep-alive",
    "GET /static/app.js\nConnection: foo, close",
    "GET /static/none.txt\nConnection: close",
    "GET /static/app.js\nContent-Length: 3\n\nabc",
    "GET /static/app.js\nTransfer-Encoding: chunked\n\n3\r\nabc\r\n0\r\n\r\n",
    "GET /static/sub\nHost: www.example.com",
    "GET /static/sub\nHost: EXAMPLE.com:8080",
    "GET /static/sub\nHost: [::1]:80",
    "GET http://example.com/static/sub\nHost: example.com",
    "GET http://example.com/static/app.js\nHost: example.com",
    "GET /static/app.js\nUser-Agent: Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1)",
    "GET /static/none.txt\nUser-Agent: Mozilla/5.0",
    "GET /static/app.js\nUpgrade: websocket\nConnection: Upgrade",
];

/// RFC 9110 13.
const CONDITIONS: &[&str] = &[
    "/static/app.js\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT",
    "/static/app.js\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:19 GMT",
    "/static/app.js\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:21 GMT",
    "/static/app.js\nIf-Modified-Since: Tuesday, 14-Nov-23 22:13:20 GMT",
    "/static/app.js\nIf-Modified-Since: Tue Nov 14 22:13:20 2023",
    "/static/app.js\nIf-Modified-Since: Mon, 14 Nov 2033 22:13:20 GMT",
    "/static/app.js\nIf-Modified-Since: yesterday",
    "/static/app.js\nIf-Modified-Since: ",
    "/static/app.js\nIf-Modified-Since: 0",
    "HEAD /static/app.js\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT",
    "/static/app.js\nIf-None-Match: \"6553f100-10\"",
    "/static/app.js\nIf-None-Match: W/\"6553f100-10\"",
    "/static/app.js\nIf-None-Match: \"6553f100-11\"",
    "/static/app.js\nIf-None-Match: \"a\", \"6553f100-10\"",
    "/static/app.js\nIf-None-Match: \"a\",\"6553f100-10\",\"b\"",
    "/static/app.js\nIf-None-Match: \"a\" , W/\"6553f100-10\"",
    "/static/app.js\nIf-None-Match: *",
    "/static/app.js\nIf-None-Match: 6553f100-10",
    "/static/app.js\nIf-None-Match: ",
    "/static/app.js\nIf-None-Match: \"6553f100-10",
    "HEAD /static/app.js\nIf-None-Match: \"6553f100-10\"",
    "/static/app.js\nIf-None-Match: \"no\"\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT",
    "/static/app.js\nIf-None-Match: \"6553f100-10\"\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT",
    "/static/app.js\nIf-Match: \"6553f100-10\"",
    "/static/app.js\nIf-Match: *",
    "/static/app.js\nIf-Match: \"no\"",
    "/static/app.js\nIf-Match: W/\"6553f100-10\"",
    "/static/app.js\nIf-Match: \"no\", \"6553f100-10\"",
    "HEAD /static/app.js\nIf-Match: \"no\"",
    "/static/app.js\nIf-Unmodified-Since: Tue, 14 Nov 2023 22:13:20 GMT",
    "/static/app.js\nIf-Unmodified-Since: Tue, 14 Nov 2023 22:13:19 GMT",
    "/static/app.js\nIf-Unmodified-Since: Tue, 14 Nov 2023 22:13:21 GMT",
    "/static/app.js\nIf-Unmodified-Since: never",
    "/static/app.js\nIf-Match: \"6553f100-10\"\nIf-Unmodified-Since: Tue, 14 Nov 2023 22:13:19 GMT",
    "/static/app.js\nIf-Match: \"6553f100-10\"\nIf-None-Match: \"6553f100-10\"",
    "/static/none.txt\nIf-None-Match: *",
    "/static/none.txt\nIf-Match: *",
    "/static/sub/\nIf-None-Match: \"6553f100-10\"",
    "/static/big.bin\nIf-None-Match: \"6553f100-493e0\"",
    "/static/empty.txt\nIf-None-Match: \"6553f100-0\"",
];

/// RFC 9110 14.
const RANGES: &[&str] = &[
    "/static/ten.bin\nRange: bytes=0-0",
    "/static/ten.bin\nRange: bytes=0-9",
    "/static/ten.bin\nRange: bytes=0-10",
    "/static/ten.bin\nRange: bytes=2-4",
    "/static/ten.bin\nRange: bytes=9-9",
    "/static/ten.bin\nRange: bytes=9-",
    "/static/ten.bin\nRange: bytes=0-",
    "/static/ten.bin\nRange: bytes=-1",
    "/static/ten.bin\nRange: bytes=-10",
    "/static/ten.bin\nRange: bytes=-11",
    "/static/ten.bin\nRange: bytes=-0",
    "/static/ten.bin\nRange: bytes=10-",
    "/static/ten.bin\nRange: bytes=10-20",
    "/static/ten.bin\nRange: bytes=4-2",
    "/static/ten.bin\nRange: bytes=-",
    "/static/ten.bin\nRange: bytes=",
    "/static/ten.bin\nRange: bytes",
    "/static/ten.bin\nRange: bytes=a-b",
    "/static/ten.bin\nRange: bytes=1-b",
    "/static/ten.bin\nRange: bytes=1",
    "/static/ten.bin\nRange: lines=0-1",
    "/static/ten.bin\nRange: Bytes=0-1",
    "/static/ten.bin\nRange: bytes= 0-1",
    "/static/ten.bin\nRange: bytes=0 - 1",
    "/static/ten.bin\nRange: bytes=0-1 ",
    "/static/ten.bin\nRange: bytes=99999999999999999999-",
    "/static/ten.bin\nRange: bytes=0-1,3-4",
    "/static/ten.bin\nRange: bytes=0-1, 3-4",
    "/static/ten.bin\nRange: bytes=0-1,-1",
    "/static/ten.bin\nRange: bytes=5-6,0-1",
    "/static/ten.bin\nRange: bytes=0-1,20-30",
    "/static/ten.bin\nRange: bytes=20-30,40-50",
    "/static/ten.bin\nRange: bytes=0-4,2-6",
    "/static/ten.bin\nRange: bytes=0-9,0-9",
    "/static/ten.bin\nRange: bytes=0-1,",
    "/static/ten.bin\nRange: bytes=,0-1",
    "/static/ten.bin\nRange: bytes=0-1,x",
    "/static/empty.txt\nRange: bytes=0-0",
    "/static/empty.txt\nRange: bytes=0-",
    "/static/empty.txt\nRange: bytes=-1",
    "/static/big.bin\nRange: bytes=100000-299998",
    "/static/big.bin\nRange: bytes=-100",
    "/static/big.bin\nRange: bytes=0-99,200000-200099",
    "/static/none.txt\nRange: bytes=0-1",
    "/static/sub/\nRange: bytes=0-1",
    "POST /static/ten.bin\nRange: bytes=0-1\nContent-Length: 0",
    "/static/ten.bin\nRange: bytes=0-1\nIf-Range: \"6553f100-a\"",
    "/static/ten.bin\nRange: bytes=0-1\nIf-Range: \"6553f100-b\"",
    "/static/ten.bin\nRange: bytes=0-1\nIf-Range: W/\"6553f100-a\"",
    "/static/ten.bin\nRange: bytes=0-1\nIf-Range: Tue, 14 Nov 2023 22:13:20 GMT",
    "/static/ten.bin\nRange: bytes=0-1\nIf-Range: Tue, 14 Nov 2023 22:13:21 GMT",
    "/static/ten.bin\nRange: bytes=0-1\nIf-Range: x",
    "/static/ten.bin\nRange: bytes=0-1\nIf-None-Match: \"6553f100-a\"",
    "/static/ten.bin\nRange: bytes=0-1\nIf-Match: \"no\"",
    "/static/ten.bin\nRange: bytes=0-1\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT",
    "/static/ten.bin\nIf-Range: \"6553f100-a\"",
];

/// Requests that accept codings, with gzip off.
const ENCODINGS: &[&str] = &[
    "/static/app.js\nAccept-Encoding: gzip",
    "/static/app.js\nAccept-Encoding: gzip, deflate, br",
    "/static/app.js\nAccept-Encoding: identity;q=0",
    "/static/app.js.gz\nAccept-Encoding: gzip",
    "/static/app.js\nTE: trailers",
    "/static/app.js\nAccept: image/png",
    "/static/app.js\nCache-Control: no-cache",
    "/static/app.js\nPragma: no-cache",
    "/static/app.js\nOrigin: http://example.org",
    "/static/app.js\nCookie: a=b; c=d",
];

const KNOWN_DIFFERENCES: &[KnownDifference] = &[
    (
        "GET /static/app.js\nExpect: 100-continue\nContent-Length: 0",
        "200",
        "there is no body to go on with (RFC 9110 10.1.1)",
    ),
    (
        "HEAD /static/ten.bin\nRange: bytes=0-1",
        "200 | Content-Length: 10 | Accept-Ranges: bytes",
        "parts are of a GET (RFC 9110 14.2)",
    ),
    (
        "/static/ten.bin\nRange: bytes=0-99999999999999999999",
        "206 | Content-Range: bytes 0-9/10",
        "a last byte behind the end means the end, however many digits it has (RFC 9110 14.1.2)",
    ),
    (
        "/static/ten.bin\nRange: bytes=0-18446744073709551615",
        "206 | Content-Range: bytes 0-9/10",
        "a last byte behind the end means the end, however many digits it has (RFC 9110 14.1.2)",
    ),
];

#[test]
fn the_static_part() {
    let Some(pair) = start() else { return };
    let rows = [PATHS, METHODS, CONDITIONS, RANGES, ENCODINGS].concat();
    assert!(rows.len() >= 150);
    compare(&pair, &rows, KNOWN_DIFFERENCES);
}

#[test]
fn the_proxied_part() {
    let Some(pair) = start() else { return };
    compare(&pair, &["/", "/chat?room=1", "/%61/../b", "/static", "/index.html"], &[]);
    for program in [&pair.smolgate, &pair.nginx] {
        let mut stream = TcpStream::connect(program.addr).unwrap();
        let request = b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
        stream.write_all(request).unwrap();
        let mut came = Vec::new();
        while !came.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            came.push(byte[0]);
        }
        assert!(came.starts_with(b"HTTP/1.1 101 "), "{}", came.escape_ascii());
        stream.write_all(b"hello").unwrap();
        let mut echo = [0; 5];
        stream.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, b"hello");
    }
}
