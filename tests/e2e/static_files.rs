//! Static files: paths, root, alias, index, validators, ranges.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::cases::check_equal;
use crate::client::Client;
use crate::harness::{Proxy, TempDir, run};
use crate::response_rows::{format_request, run_response_rows};

/// Tue, 14 Nov 2023 22:13:20 GMT, 6553f100 in hexadecimal.
const MODIFIED: Duration = Duration::from_secs(1_700_000_000);

pub(crate) fn put(dir: &TempDir, name: &str, text: impl AsRef<[u8]>) {
    let path = dir.path(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + MODIFIED).unwrap();
}

/// Creates the directory `www` that most tests serve.
pub(crate) fn fill(proxy: &Proxy) {
    let dir = &proxy.dir;
    for (name, text) in [
        ("f.txt", "hello"),
        ("a b.txt", "space"),
        ("empty.txt", ""),
        ("page.HTML", "<p>"),
        ("noext", "none"),
        ("x.own", "own"),
        ("ten", "0123456789"),
        ("has/index.html", "index"),
        ("second/b.html", "second"),
        ("php/index.php", "source"),
        ("bare/other.txt", "other"),
        ("tool.sh", "#!"),
    ] {
        put(dir, &format!("www/{name}"), text);
    }
    put(dir, "secret.txt", "secret");
    std::os::unix::fs::symlink("f.txt", dir.path("www/link.txt")).unwrap();
    std::os::unix::fs::symlink("nowhere", dir.path("www/dangling")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", dir.path("www/device")).unwrap();
    assert!(Command::new("mkfifo").arg(dir.path("www/fifo")).status().unwrap().success());
    drop(std::os::unix::net::UnixListener::bind(dir.path("www/socket")).unwrap());
    fs::set_permissions(dir.path("www/tool.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    for (name, mode) in [("www/locked.txt", 0o000), ("www/shut/index.html", 0o644)] {
        put(dir, name, "locked");
        fs::set_permissions(dir.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(dir.path("www/shut"), fs::Permissions::from_mode(0o000)).unwrap();
}

const FILES: &str = "server {
    listen LISTEN;
    root www;
    location / { }
    location /second/ { index a.html b.html c.html; }
    location /php/ { index index.php; }
    location ~ \\.php$ { return 200 \"ran $uri\"; }
    location /absolute/ { alias www/bare/; index /f.txt; }
    location /alias/ { alias www/has/; }
    location /exact { alias www/f.txt; }
    location /open { alias www/has/; }
    location /opentry { alias www/has/; try_files $uri =410; }
    location ~ ^/re/(.+)$ { alias www/$1; }
    location ~ ^/~([^/]+)/(.*)$ { alias www/$1/$2; }
    location = /secret.txt { root www/$arg_d; }
    location /own/ { alias www/; types { application/x-own own; } default_type text/x-any; }
    location /off/ { alias www/; etag off; if_modified_since off; }
    location /before/ { alias www/; if_modified_since before; }
    location /rootless/ { root nothing; }
}";

#[test]
fn paths_of_files() {
    let proxy = Proxy::start(FILES);
    fill(&proxy);
    run_response_rows(
        &proxy,
        &[
            ("a file", "/f.txt", 200, "Content-Type: text/plain | Content-Length: 5 | =hello"),
            ("its query does not matter", "/f.txt?x=/../y", 200, "=hello"),
            ("a decoded name", "/a%20b.txt", 200, "=space"),
            ("an empty file", "/empty.txt", 200, "Content-Length: 0 | ETag: \"6553f100-0\" | ="),
            ("a symlink", "/link.txt", 200, "=hello"),
            ("a symlink to nowhere", "/dangling", 404, ""),
            ("no file", "/none.txt", 404, "Content-Type: text/html"),
            ("no directory", "/none/", 404, ""),
            ("a file is no directory", "/f.txt/", 404, ""),
            ("below a file", "/f.txt/x", 404, ""),
            ("a file that may not be read", "/locked.txt", 403, ""),
            ("a directory that may not be searched", "/shut/", 403, ""),
            ("a directory without an index", "/bare/", 403, ""),
            ("an index", "/has/", 200, "Content-Type: text/html | =index"),
            ("the second index", "/second/?q", 200, "=second"),
            ("an index is matched again", "/php/", 200, "=ran /php/index.php"),
            ("an absolute index", "/absolute/", 200, "=hello"),
            ("a directory gets its slash", "/has", 301, "Location: http://a:PORT/has/ | Content-Type: text/html"),
            ("with its arguments", "/has?x=1&y", 301, "Location: http://a:PORT/has/?x=1&y"),
            ("alias", "/alias/index.html", 200, "=index"),
            ("alias and index", "/alias/", 200, "=index"),
            ("alias to a file", "/exact", 200, "=hello"),
            ("alias of an expression", "/re/has/index.html", 200, "=index"),
            ("no root", "/rootless/f.txt", 404, ""),
            ("merged slashes", "//has///index.html", 200, "=index"),
            ("dots within the root", "/has/../f.txt", 200, "=hello"),
            ("dots above the root", "/../secret.txt", 400, "Connection: close"),
            ("dots above the root, later", "/has/../../secret.txt", 400, "Connection: close"),
            ("encoded dots above the root", "/%2e%2e/secret.txt", 400, "Connection: close"),
            ("an encoded slash above the root", "/..%2fsecret.txt", 400, "Connection: close"),
            ("dots above an alias", "/alias/../secret.txt", 404, ""),
            ("dots behind an alias", "/alias../secret.txt", 404, ""),
            ("an alias with a variable", "/~has/index.html", 200, "=index"),
            ("dots in a variable of an alias", "/~../secret.txt", 404, ""),
            ("dots in a variable of a root", "/secret.txt?d=..", 404, ""),
            ("an alias without a slash", "/open../f.txt", 404, ""),
            ("with more dots", "/open../has/index.html", 404, ""),
            ("tried", "/opentry../f.txt", 410, ""),
            ("inside", "/open/index.html", 200, "=index"),
            ("inside tried", "/opentry/index.html", 200, "=index"),
            ("a null byte", "/f.txt%00.html", 400, "Connection: close"),
            ("a FIFO", "/fifo", 404, ""),
            ("a socket", "/socket", 404, ""),
            ("a device", "/device", 404, ""),
        ],
    );
}

#[test]
fn file_headers() {
    let proxy = Proxy::start(FILES);
    fill(&proxy);
    const VALIDATORS: &str =
        "Last-Modified: Tue, 14 Nov 2023 22:13:20 GMT | ETag: \"6553f100-5\" | Accept-Ranges: bytes";
    run_response_rows(
        &proxy,
        &[
            ("validators", "/f.txt", 200, VALIDATORS),
            ("validators of HEAD", "HEAD /f.txt", 200, VALIDATORS),
            ("HEAD", "HEAD /f.txt", 200, "Content-Length: 5 | Content-Type: text/plain | Connection: keep-alive"),
            ("etag off", "/off/f.txt", 200, "!ETag | Last-Modified: Tue, 14 Nov 2023 22:13:20 GMT"),
            ("the type of any letter case", "/page.HTML", 200, "Content-Type: text/html"),
            ("no extension", "/noext", 200, "Content-Type: text/plain"),
            ("an unknown extension", "/x.own", 200, "Content-Type: text/plain"),
            ("an own type", "/own/x.own", 200, "Content-Type: application/x-own"),
            ("own types replace all", "/own/f.txt", 200, "Content-Type: text/x-any"),
            ("the default of no extension", "/own/noext", 200, "Content-Type: text/x-any"),
            ("POST", "POST /f.txt\nContent-Length: 0", 405, "Allow: GET, HEAD"),
            ("PUT", "PUT /f.txt\nContent-Length: 2\n\nhi", 405, "Allow: GET, HEAD"),
            ("DELETE of nothing", "DELETE /none", 405, "Allow: GET, HEAD"),
        ],
    );
    let mut client = Client::connect(proxy.addr);
    for (name, text) in [("f.txt", "hello"), ("ten", "0123456789"), ("f.txt", "hello")] {
        let response = client.request(format_request(&format!("/{name}")).as_bytes(), 200).unwrap();
        assert_eq!(response.header("Connection"), Some("keep-alive"));
        assert_eq!(response.body, text.as_bytes());
    }
    client.send(b"GET /ten HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let response = client.expect_status(200).unwrap();
    assert!(response.closes(), "{:?}", response.head);
    client.expect_eof().unwrap();
}

#[test]
fn conditional_requests() {
    let proxy = Proxy::start(FILES);
    fill(&proxy);
    const FRESH: &str = "ETag: \"6553f100-5\" | !Content-Length | !Content-Type";
    run_response_rows(
        &proxy,
        &[
            ("none match", "/f.txt\nIf-None-Match: \"6553f100-5\"", 304, FRESH),
            ("none match, weak", "/f.txt\nIf-None-Match: W/\"6553f100-5\"", 304, FRESH),
            ("none match, a list", "/f.txt\nIf-None-Match: \"a\", W/\"b,c\" , \"6553f100-5\"", 304, FRESH),
            ("none match, anything", "/f.txt\nIf-None-Match: *", 304, FRESH),
            ("none match, HEAD", "HEAD /f.txt\nIf-None-Match: *", 304, FRESH),
            ("none match, another", "/f.txt\nIf-None-Match: \"6553f100-6\"", 200, "=hello"),
            (
                "none match, but modified",
                "/f.txt\nIf-None-Match: \"6553f100-5\"\nIf-Modified-Since: yesterday",
                200,
                "",
            ),
            ("none match, no quotes", "/f.txt\nIf-None-Match: 6553f100-5", 200, "=hello"),
            ("none match, no file", "/none\nIf-None-Match: *", 404, ""),
            ("since then", "/f.txt\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT", 304, FRESH),
            ("since later", "/f.txt\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:21 GMT", 200, "=hello"),
            ("since earlier", "/f.txt\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:19 GMT", 200, "=hello"),
            ("since nonsense", "/f.txt\nIf-Modified-Since: yesterday", 200, "=hello"),
            ("since then, before", "/before/f.txt\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT", 304, FRESH),
            ("since later, before", "/before/f.txt\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:21 GMT", 304, FRESH),
            ("since earlier, before", "/before/f.txt\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:19 GMT", 200, ""),
            ("since then, off", "/off/f.txt\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT", 200, "=hello"),
            ("match", "/f.txt\nIf-Match: \"6553f100-5\"", 200, "=hello"),
            ("match, a list", "/f.txt\nIf-Match: \"a\", \"6553f100-5\"", 200, "=hello"),
            ("match, anything", "/f.txt\nIf-Match: *", 200, "=hello"),
            ("match, another", "/f.txt\nIf-Match: \"a\"", 412, ""),
            ("match, weak", "/f.txt\nIf-Match: W/\"6553f100-5\"", 412, ""),
            ("unmodified since then", "/f.txt\nIf-Unmodified-Since: Tue, 14 Nov 2023 22:13:20 GMT", 200, "=hello"),
            ("unmodified since later", "/f.txt\nIf-Unmodified-Since: Wed, 15 Nov 2023 00:00:00 GMT", 200, "=hello"),
            ("unmodified since nonsense", "/f.txt\nIf-Unmodified-Since: yesterday", 412, ""),
            ("unmodified since earlier", "/f.txt\nIf-Unmodified-Since: Tue, 14 Nov 2023 22:13:19 GMT", 412, ""),
        ],
    );
}

#[test]
fn ranges() {
    let proxy = Proxy::start(FILES);
    fill(&proxy);
    const WHOLE: &str = "Content-Length: 10 | !Content-Range | =0123456789";
    const BEYOND: &str = "Content-Range: bytes */10";
    run_response_rows(
        &proxy,
        &[
            ("first", "/ten\nRange: bytes=0-0", 206, "Content-Range: bytes 0-0/10 | Content-Length: 1 | =0"),
            ("middle", "/ten\nRange: bytes=3-5", 206, "Content-Range: bytes 3-5/10 | Content-Length: 3 | =345"),
            ("to the end", "/ten\nRange: bytes=7-", 206, "Content-Range: bytes 7-9/10 | =789"),
            ("all", "/ten\nRange: bytes=0-", 206, "Content-Range: bytes 0-9/10 | =0123456789"),
            ("over the end", "/ten\nRange: bytes=8-99", 206, "Content-Range: bytes 8-9/10 | =89"),
            ("suffix", "/ten\nRange: bytes=-2", 206, "Content-Range: bytes 8-9/10 | =89"),
            ("long suffix", "/ten\nRange: bytes=-99", 206, "Content-Range: bytes 0-9/10 | =0123456789"),
            (
                "type and validators",
                "/f.txt\nRange: bytes=1-1",
                206,
                "Content-Type: text/plain | ETag: \"6553f100-5\" | =e",
            ),
            ("any letter case", "/ten\nRange: Bytes=1-2", 206, "=12"),
            ("beyond", "/ten\nRange: bytes=10-", 416, BEYOND),
            ("far beyond", "/ten\nRange: bytes=99999999999999999999-", 416, BEYOND),
            ("backwards", "/ten\nRange: bytes=5-3", 416, BEYOND),
            ("empty suffix", "/ten\nRange: bytes=-0", 416, BEYOND),
            ("no numbers", "/ten\nRange: bytes=abc", 416, BEYOND),
            ("no range", "/ten\nRange: bytes=-", 416, BEYOND),
            ("another unit", "/ten\nRange: lines=0-1", 200, WHOLE),
            ("several, larger than the file", "/ten\nRange: bytes=0-5,0-5", 200, WHOLE),
            (
                "several, one of them satisfiable",
                "/ten\nRange: bytes=3-4, 10-",
                206,
                "Content-Range: bytes 3-4/10 | =34",
            ),
            (
                "of HEAD",
                "HEAD /ten\nRange: bytes=0-1",
                200,
                "Content-Length: 10 | Accept-Ranges: bytes | !Content-Range",
            ),
            ("of HEAD, beyond", "HEAD /ten\nRange: bytes=10-", 200, "Content-Length: 10"),
            ("nothing of an empty file", "/empty.txt\nRange: bytes=-5", 200, "Content-Length: 0"),
            ("all of an empty file", "/empty.txt\nRange: bytes=0-", 200, "Content-Length: 0"),
            ("if tag", "/f.txt\nIf-Range: \"6553f100-5\"\nRange: bytes=1-2", 206, "=el"),
            ("if another tag", "/f.txt\nIf-Range: \"x\"\nRange: bytes=1-2", 200, "=hello"),
            ("if weak tag", "/f.txt\nIf-Range: W/\"6553f100-5\"\nRange: bytes=1-2", 200, "=hello"),
            ("if then", "/f.txt\nIf-Range: Tue, 14 Nov 2023 22:13:20 GMT\nRange: bytes=1-2", 206, "=el"),
            ("if earlier", "/f.txt\nIf-Range: Tue, 14 Nov 2023 22:13:19 GMT\nRange: bytes=1-2", 200, "=hello"),
            ("a precondition comes first", "/ten\nIf-None-Match: *\nRange: bytes=1-2", 304, "!Content-Range"),
            ("not of an error", "/none\nRange: bytes=0-1", 404, "!Content-Range"),
        ],
    );
}

#[test]
fn a_large_file_does_not_block_other_requests() {
    let proxy = Proxy::start("server { listen LISTEN; root www; }");
    let large: Vec<u8> = (0..3 * 1024 * 1024_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    put(&proxy.dir, "www/large", &large);
    put(&proxy.dir, "www/small", "small");
    let mut slow = Client::connect_and_send(proxy.addr, format_request("/large").as_bytes());
    let mut head = [0; 12];
    slow.stream.peek(&mut head).unwrap();
    assert_eq!(Client::connect(proxy.addr).request(format_request("/small").as_bytes(), 200).unwrap().body, b"small");
    let response = slow.expect_status(200).unwrap();
    check_equal("the client", &response.body, &large).unwrap();
    let response = slow.request(format_request("/small").as_bytes(), 200).unwrap();
    assert_eq!(response.body, b"small", "the connection serves the next request");
    let response = slow.request(format_request("/large\nRange: bytes=1000000-2999999").as_bytes(), 206).unwrap();
    assert_eq!(response.header("Content-Range"), Some("bytes 1000000-2999999/3145728"));
    check_equal("the client", &response.body, &large[1_000_000..3_000_000]).unwrap();
    proxy.wait_for_access_line(&["GET /large", " 206 2000000 "]).unwrap();
}

#[test]
fn warnings_about_an_unsafe_alias() {
    let dir = TempDir::new();
    let warns = |text: &str| {
        dir.write("smolgate.conf", format!("server {{ listen 8080; {text} }}"));
        let output = run(&dir, &["-t"], "smolgate.conf");
        assert_eq!(output.status.code(), Some(0), "{text}");
        String::from_utf8_lossy(&output.stderr).contains("note: \"alias\"")
    };
    assert!(warns("location /a { alias /b/; }"));
    for good in ["location /a/ { alias /b/; }", "location /a { alias /b; }", "location ~ ^/a { alias /b/; }"] {
        assert!(!warns(good), "{good}");
    }
}
