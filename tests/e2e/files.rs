//! Files, steps and the life of the program, as its users meet them.

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use crate::cases::{case, check, check_equal, run_cases, run_concurrently};
use crate::client::{Client, expand, show};
use crate::harness::{Proxy, TIMEOUT, TempDir, run, wait_for};
use crate::peer::Peer;
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

/// The directory `www` that most tests serve.
fn fill(proxy: &Proxy) {
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
fn files_are_found() {
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
            ("M02", "/open../f.txt", 404, ""),
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
fn heads_of_files() {
    let proxy = Proxy::start(FILES);
    fill(&proxy);
    const MARKS: &str = "Last-Modified: Tue, 14 Nov 2023 22:13:20 GMT | ETag: \"6553f100-5\" | Accept-Ranges: bytes";
    run_response_rows(
        &proxy,
        &[
            ("marks", "/f.txt", 200, MARKS),
            ("marks of HEAD", "HEAD /f.txt", 200, MARKS),
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
fn preconditions_of_files() {
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
fn ranges_of_files() {
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
            ("type and marks", "/f.txt\nRange: bytes=1-1", 206, "Content-Type: text/plain | ETag: \"6553f100-5\" | =e"),
            ("any letter case", "/ten\nRange: Bytes=1-2", 206, "=12"),
            ("beyond", "/ten\nRange: bytes=10-", 416, BEYOND),
            ("far beyond", "/ten\nRange: bytes=99999999999999999999-", 416, BEYOND),
            ("backwards", "/ten\nRange: bytes=5-3", 416, BEYOND),
            ("empty suffix", "/ten\nRange: bytes=-0", 416, BEYOND),
            ("no numbers", "/ten\nRange: bytes=abc", 416, BEYOND),
            ("no range", "/ten\nRange: bytes=-", 416, BEYOND),
            ("another unit", "/ten\nRange: lines=0-1", 200, WHOLE),
            ("several that are more than the file", "/ten\nRange: bytes=0-5,0-5", 200, WHOLE),
            ("several, of which one is there", "/ten\nRange: bytes=3-4, 10-", 206, "Content-Range: bytes 3-4/10 | =34"),
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
fn a_large_file_leaves_room_for_others() {
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
fn an_alias_that_could_let_out_is_told() {
    let dir = TempDir::new();
    let tell = |text: &str| {
        dir.write("smolgate.conf", format!("server {{ listen 8080; {text} }}"));
        let output = run(&dir, &["-t"], "smolgate.conf");
        assert_eq!(output.status.code(), Some(0), "{text}");
        String::from_utf8_lossy(&output.stderr).contains("note: \"alias\"")
    };
    assert!(tell("location /a { alias /b/; }"));
    for good in ["location /a/ { alias /b/; }", "location /a { alias /b; }", "location ~ ^/a { alias /b/; }"] {
        assert!(!tell(good), "{good}");
    }
}

const RETURNS: &str = "server {
    listen LISTEN;
    location = /page { return 404; }
    location = /nothing { return 204; }
    location = /empty { return 200; }
    location = /no-text { return 400 \"\"; }
    location = /text { return 200 \"hi $arg_who\\n\"; }
    location = /error { return 503 later; }
    location = /own { return 999 own; }
    location = /json { default_type application/json; return 200 '{\"a\":1}'; }
    location /301 { return 301 /new; }
    location /302 { return 302 /new?$args; }
    location /303 { return 303 new; }
    location /307 { return 307 https://x.test$request_uri; }
    location /308 { return 308 $scheme://$host$uri; }
    location /encoded { return 302 $uri; }
    location /url { return https://x.test/; }
    location /scheme { return $scheme://$http_host/n; }
    location /short { absolute_redirect off; return 301 /new; }
    location /portless { port_in_redirect off; return 301 /new; }
    location /first { return 201 first; return 202 second; }
    location /closed { return 444; }
    location /closed-tried { root /nonexistent; try_files /none =444; }
    error_page 444 /page;
}";

#[test]
fn returns() {
    let proxy = Proxy::start(RETURNS);
    const PAGE: &str = "<html>\r\n<head><title>404 Not Found</title></head>\r\n<body>\r\n\
        <center><h1>404 Not Found</h1></center>\r\n<hr><center>smolgate/";
    run_response_rows(
        &proxy,
        &[
            ("a page", "/page", 404, "Content-Type: text/html | !Location"),
            ("no content", "/nothing", 204, "!Content-Length | !Content-Type"),
            ("nothing", "/empty", 200, "Content-Length: 0 | Content-Type: text/plain | ="),
            ("the page of no text", "/no-text", 400, "Content-Type: text/html"),
            (
                "a text with a variable",
                "/text?who=you",
                200,
                "Content-Type: text/plain | Content-Length: 7 | =hi you\n",
            ),
            ("a text of HEAD", "HEAD /text?who=you", 200, "Content-Length: 7"),
            ("a text of POST", "POST /text\nContent-Length: 2\n\nhi", 200, "=hi \n"),
            ("a text of an error", "/error", 503, "Content-Type: text/plain | =later"),
            ("an own code", "/own", 999, "=own"),
            ("an own type", "/json", 200, "Content-Type: application/json | ={\"a\":1}"),
            ("301", "/301?x", 301, "Location: http://a:PORT/new | Content-Type: text/html"),
            ("302", "/302?x=1", 302, "Location: http://a:PORT/new?x=1"),
            ("303", "/303", 303, "Location: new"),
            ("307", "/307/a?x=1", 307, "Location: https://x.test/307/a?x=1"),
            ("308", "/308/a?x=1", 308, "Location: http://a/308/a"),
            ("308 of a host with port", "/308\nHost: X.test:81", 308, "Location: http://x.test/308"),
            ("no line ends in it", "/encoded%0d%0aX:1", 302, "Location: http://a:PORT/encoded%0D%0AX:1 | !X"),
            ("a URL alone", "/url", 302, "Location: https://x.test/"),
            ("a scheme alone", "/scheme\nHost: b:81", 302, "Location: http://b:81/n"),
            ("absolute_redirect off", "/short", 301, "Location: /new"),
            ("port_in_redirect off", "/portless", 301, "Location: http://a/new"),
            ("the first of two", "/first", 201, "=first"),
        ],
    );
    let response = Client::connect(proxy.addr).request(format_request("/page").as_bytes(), 404).unwrap();
    assert!(response.body.starts_with(PAGE.as_bytes()), "{}", show(&response.body));
    for (target, status) in [("/closed", " 444 "), ("/closed-tried", " 444 ")] {
        Client::connect_and_send(proxy.addr, format_request(target).as_bytes()).expect_eof().unwrap();
        proxy.wait_for_access_line(&[&format!("GET {target} "), status]).unwrap();
    }
}

/// A condition, the value of the field `X`, and whether it holds.
const CONDITIONS: &[(&str, &str, bool)] = &[
    ("($http_x)", "x", true),
    ("($http_x)", "00", true),
    ("($http_x)", "0", false),
    ("($http_x)", "", false),
    ("( $http_x )", "x", true),
    ("($http_x = x)", "x", true),
    ("($http_x = x)", "X", false),
    ("($http_x = x)", "xx", false),
    ("( $http_x = x )", "x", true),
    ("($http_x = \"x y\")", "x y", true),
    ("($http_x = 'x)')", "x)", true),
    ("($http_x = \"\")", "", true),
    ("($http_x = $uri)", "/if", true),
    ("($http_x = \"$request_method $uri\")", "GET /if", true),
    ("($http_x != x)", "y", true),
    ("($http_x != x)", "x", false),
    ("($http_x ~ ^x)", "xy", true),
    ("($http_x ~ ^x)", "Xy", false),
    ("($http_x ~ x|y)", "zy", true),
    ("($http_x ~ ^(x|y)$)", "y", true),
    ("($http_x ~ \"^x{2}$\")", "xx", true),
    ("($http_x ~* ^x)", "Xy", true),
    ("($http_x ~* \"(bot|spider)\")", "A Spider", true),
    ("($http_x ~* ^x)", "y", false),
    ("($http_x !~ ^x)", "y", true),
    ("($http_x !~ ^x)", "x", false),
    ("($http_x !~ ^x)", "X", true),
    ("($http_x !~* ^x)", "y", true),
    ("($http_x !~* ^x)", "X", false),
    ("($request_method = GET)", "", true),
    ("(-f $document_root/f.txt)", "", true),
    ("(-f $document_root/$http_x)", "link.txt", true),
    ("(-f $document_root/$http_x)", "has", false),
    ("(-f $document_root/$http_x)", "none", false),
    ("(!-f $document_root/$http_x)", "none", true),
    ("(!-f $document_root/$http_x)", "f.txt", false),
    ("( -f $document_root/f.txt )", "", true),
    ("(-f \"$document_root/a b.txt\")", "", true),
    ("(-d $document_root/$http_x)", "has", true),
    ("(-d $document_root/$http_x)", "f.txt", false),
    ("(!-d $document_root/$http_x)", "f.txt", true),
    ("(!-d $document_root/$http_x)", "has", false),
    ("(-e $document_root/$http_x)", "has", true),
    ("(-e $document_root/$http_x)", "fifo", true),
    ("(-e $document_root/$http_x)", "dangling", false),
    ("(!-e $document_root/$http_x)", "dangling", true),
    ("(!-e $document_root/$http_x)", "f.txt", false),
    ("(-x $document_root/$http_x)", "tool.sh", true),
    ("(-x $document_root/$http_x)", "f.txt", false),
    ("(!-x $document_root/$http_x)", "f.txt", true),
    ("(!-x $document_root/$http_x)", "tool.sh", false),
];

#[test]
fn conditions() {
    let server = |(number, (condition, _, _)): (usize, &(&str, &str, bool))| {
        format!(
            "server {{ listen LISTEN; server_name s{number}.test; root www;
            location = /if {{ if {condition} {{ return 200 yes; }} return 200 no; }} }}\n"
        )
    };
    let proxy = Proxy::start(&CONDITIONS.iter().enumerate().map(server).collect::<String>());
    fill(&proxy);
    run_cases(CONDITIONS.iter().enumerate().map(|(number, (condition, x, holds))| {
        let field = if x.is_empty() { String::new() } else { format!("X: {x}\r\n") };
        let asked = format!("GET /if HTTP/1.1\r\nHost: s{number}.test\r\n{field}\r\n");
        let proxy = &proxy;
        (*condition, move || {
            let response = Client::connect(proxy.addr).request(asked.as_bytes(), 200)?;
            check_equal(&format!("{x:?}"), &response.body, if *holds { b"yes" } else { b"no" })
        })
    }));
    let dir = TempDir::new();
    let refuses = |condition: &'static str| {
        let dir = &dir;
        (condition, move || {
            let name = "smolgate.conf";
            dir.write(name, format!("server {{\nlisten 8080;\nif {condition} {{ return 204; }}\n}}"));
            let output = run(dir, &["-t"], name);
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            let refused = output.status.code() == Some(2) && told.contains("smolgate.conf:3:");
            check(refused, || format!("{:?}: {told}", output.status))
        })
    };
    run_cases(
        ["$host", "(host)", "()", "($host", "($host ! x)", "($host == x)", "($host ~ ()", "(-q /x)", "($host = a b)"]
            .map(refuses),
    );
}

const STEPS: &str = "server {
    listen LISTEN;
    root www;
    set $everywhere \"s\";
    rewrite ^/server/(.*)$ /to/$1 last;
    if ($http_stop) { return 418 \"stopped\"; }
    location /to { return 200 \"$uri|$args\"; }
    location /last { rewrite ^/last/(.*)$ /to/$1 last; return 200 no; }
    location /add { rewrite ^/add/(.*)$ /to/$1?n=2 last; }
    location /drop { rewrite ^/drop/(.*)$ /to/$1? last; }
    location /replace { rewrite ^/replace/(.*)$ /to/$1?n=2? last; }
    location /value { rewrite ^/value/(.*)$ /to?u=$1 last; }
    location /named { rewrite ^/named/(?<who>[a-z]+)/(?'what'.*)$ /to/$what/$who last; }
    location /none { rewrite ^/none/(.*)$ /none2/$1; rewrite ^/none2/(.*)$ /to/$1; }
    location /other { rewrite ^/nothing /to last; return 200 \"other $uri\"; }
    location /break { rewrite ^/break/(.*)$ /has/$1 break; return 200 no; }
    location /found { rewrite ^/found/(.*)$ /n/$1 redirect; }
    location /moved { rewrite ^/moved/(.*)$ /n/$1 permanent; }
    location /moved-drop { rewrite ^/moved-drop/(.*)$ /n/$1? permanent; }
    location /moved-replace { rewrite ^/moved-replace/(.*)$ https://x.test/$1?k=1? permanent; }
    location /moved-value { rewrite ^/moved-value/(.*)$ /n?u=$1 redirect; }
    location /away { rewrite ^/away/(.*)$ https://x.test/$1; }
    location /scheme { rewrite ^/scheme/(.*)$ $scheme://x.test/n/$1; }
    location /loop { rewrite ^/loop(.*)$ /loop$1 last; }
    location /empty { rewrite ^/empty(.*)$ $1 last; }
    location /has/f.txt { set $a 1; break; return 200 no; }
    location /maybe { if ($http_x) { break; } return 200 after; }
    location /set { set $a \"x-$arg_q\"; set $a \"$a${a}y\"; return 200 \"$a$everywhere\"; }
    location /args { set $args \"z=1\"; return 200 \"$uri|$args|$is_args|$request_uri|$arg_z\"; }
    location /unset { return 200 \"[$later]\"; set $later x; }
    location /both { if ($http_x = a) { set $q a; } if ($http_y = b) { set $q \"${q}b\"; } return 200 \"[$q]\"; }
    location /captured { if ($uri ~ ^/captured/(\\d+)-(?<tail>.*)$) { return 200 \"$2 $1 $tail\"; } return 200 \"no\"; }
    location /if-rewrite { if ($arg_x) { rewrite ^ /to/if? last; } return 200 no; }
    location /if-scope { add_header X-A out; if ($arg_x) { add_header X-A in; } }
}";

#[test]
fn rewrites() {
    let proxy = Proxy::start(STEPS);
    fill(&proxy);
    run_response_rows(
        &proxy,
        &[
            ("in a server", "/server/x?q", 200, "=/to/x|q"),
            ("last", "/last/a?q=1", 200, "=/to/a|q=1"),
            ("last, decoded", "/last/a%20b%25", 200, "=/to/a b%|"),
            ("a captured question mark is part of the path", "/last/a%3Fb", 200, "=/to/a?b|"),
            ("arguments are appended", "/add/a?q=1", 200, "=/to/a|n=2&q=1"),
            ("no arguments are appended", "/add/a", 200, "=/to/a|n=2"),
            ("arguments are dropped", "/drop/a?q=1", 200, "=/to/a|"),
            ("arguments are replaced", "/replace/a?q=1", 200, "=/to/a|n=2"),
            ("a captured argument is one argument", "/value/a%26b?q=1", 200, "=/to|u=a%26b&q=1"),
            ("a captured argument has no spaces", "/value/a%20b", 200, "=/to|u=a%20b"),
            ("named groups", "/named/bob/x/y", 200, "=/to/x/y/bob|"),
            ("without a flag", "/none/x?q", 200, "=/to/x|q"),
            ("no match", "/other/x", 200, "=other /other/x"),
            ("break", "/break/index.html?q", 200, "=index"),
            ("redirect", "/found/a%20b?q=1", 302, "Location: http://a:PORT/n/a%20b?q=1"),
            ("permanent", "/moved/a", 301, "Location: http://a:PORT/n/a"),
            ("permanent, arguments are dropped", "/moved-drop/a?q=1", 301, "Location: http://a:PORT/n/a"),
            ("permanent, they are replaced", "/moved-replace/a?q=1", 301, "Location: https://x.test/a?k=1"),
            ("redirect with an argument", "/moved-value/a%26b%20c", 302, "Location: http://a:PORT/n?u=a%26b%20c"),
            ("no line ends in it", "/moved/a%E2%80%A8", 301, "Location: http://a:PORT/n/a%E2%80%A8"),
            ("a URL", "/away/a?q=1", 302, "Location: https://x.test/a?q=1"),
            ("a scheme", "/scheme/a", 302, "Location: http://x.test/n/a"),
            ("a cycle", "/loop/a", 500, ""),
            ("to nothing", "/empty", 500, ""),
        ],
    );
    proxy.wait_for_error_line(&["rewrite or internal redirection cycle"]).unwrap();
}

#[test]
fn steps() {
    let proxy = Proxy::start(STEPS);
    fill(&proxy);
    put(&proxy.dir, "www/has/f.txt", "broke off");
    run_response_rows(
        &proxy,
        &[
            ("if in a server", "/to\nStop: 1", 418, "=stopped"),
            ("break", "/has/f.txt", 200, "=broke off"),
            ("break in an if", "/maybe\nX: 1", 404, ""),
            ("no break in an if", "/maybe", 200, "=after"),
            ("set", "/set?q=1", 200, "=x-1x-1ys"),
            ("set $args", "/args?q=1", 200, "=/args|z=1|?|/args?q=1|1"),
            ("set later", "/unset", 200, "=[]"),
            ("one if", "/both\nX: a", 200, "=[a]"),
            ("two ifs", "/both\nX: a\nY: b", 200, "=[ab]"),
            ("the other if", "/both\nY: b", 200, "=[b]"),
            ("captures of a condition", "/captured/12-ab", 200, "=ab 12 ab"),
            ("no captures of a condition", "/captured/x", 200, "=no"),
            ("rewrite in an if", "/if-rewrite?x=1", 200, "=/to/if|"),
            ("no rewrite in an if", "/if-rewrite?y=1", 200, "=no"),
        ],
    );
    put(&proxy.dir, "www/if-scope", "");
    run_response_rows(
        &proxy,
        &[
            ("settings of an if", "/if-scope?x=1", 200, "X-A: in"),
            ("settings without it", "/if-scope", 200, "X-A: out"),
        ],
    );
}

/// What Certbot writes.
#[test]
fn servers_that_redirect() {
    let proxy = Proxy::start(
        "server { if ($host = www.x.test) { return 301 https://$host$request_uri; } # managed by Certbot
            if ($host = x.test) { return 301 https://$host$request_uri; } # managed by Certbot
            listen LISTEN; server_name x.test www.x.test; return 404; # managed by Certbot
            location / { return 200 never; } }
         server { listen LISTEN; server_name y.test; return 302 /y; location / { return 200 never; } }",
    );
    run_response_rows(
        &proxy,
        &[
            ("a name", "/a?b=c%20d\nHost: x.test", 301, "Location: https://x.test/a?b=c%20d"),
            ("another", "//a\nHost: WWW.x.test:80", 301, "Location: https://www.x.test//a"),
            ("no name", "/a\nHost: z.test", 404, ""),
            ("always", "/a\nHost: y.test", 302, "Location: http://y.test:PORT/y"),
        ],
    );
}

/// The request line that an upstream gets after steps.
#[test]
fn steps_before_an_upstream() {
    let (peer, other) = (Peer::start_echo(), Peer::start_echo());
    let proxy = Proxy::start_with_peers(
        "upstream known { server PEER; }
         server {
            listen LISTEN;
            proxy_set_header Host up;
            location /break/ { rewrite ^/break/(.*)$ /new/$1 break; proxy_pass http://PEER; }
            location /uri/ { rewrite ^/uri/(.*)$ /new/$1 break; proxy_pass http://PEER/ignored/; }
            location /last/ { rewrite ^/last/(.*)$ /break/$1?n last; }
            location /drop/ { rewrite ^/drop/(.*)$ /new/$1? break; proxy_pass http://PEER; }
            location /value/ { rewrite ^/value/([^/]*)$ /new?u=$1 break; proxy_pass http://PEER; }
            location /capture/ { if ($uri ~ \"^/capture/([^/]*)$\") { set $args u=$1; } proxy_pass http://PEER; }
            location /raw/ { rewrite ^ /new?u=$uri? break; proxy_pass http://PEER; }
            location /unused/ { rewrite ^/nothing /new break; proxy_pass http://PEER; }
            location /set/ { set $to known; proxy_pass http://$to; }
            location /args/ { set $args a=1; proxy_pass http://PEER; }
            location /if/ { if ($arg_x) { proxy_pass http://OTHERPEER; } proxy_pass http://PEER; }
         }",
        &[("OTHERPEER", &other), ("PEER", &peer)],
    );
    let gets = |target: &'static str, peer: &Peer, line: &str| {
        let seen = peer.received().len();
        Client::connect(proxy.addr).request(format_request(target).as_bytes(), 200)?;
        check_equal(
            "the upstream",
            &peer.received()[seen..],
            format!("GET {line} HTTP/1.1\r\nHost: up\r\n\r\n").as_bytes(),
        )
    };
    let rows = [
        ("/break/x?q=1", &peer, "/new/x?q=1"),
        ("/break/a%20b%25?q", &peer, "/new/a%20b%25?q"),
        ("/uri/x?q=1", &peer, "/new/x?q=1"),
        ("/last/x?q=1", &peer, "/new/x?n&q=1"),
        ("/drop/x?q=1", &peer, "/new/x"),
        ("/break/a%3Fb?q", &peer, "/new/a%3Fb?q"),
        ("/value/a%20b", &peer, "/new?u=a%20b"),
        ("/value/a%26b", &peer, "/new?u=a%26b"),
        ("/value/a%0d%0aX:1", &peer, "/new?u=a%0D%0AX:1"),
        ("/capture/a%0D%0AX:1", &peer, "/capture/a%0D%0AX:1?u=a%0D%0AX:1"),
        ("/unused/a%2fb//c?q", &peer, "/unused/a%2fb//c?q"),
        ("/set/x?q", &peer, "/set/x?q"),
        ("/args/x?q", &peer, "/args/x?a=1"),
        ("/if/x?x=1", &other, "/if/x?x=1"),
        ("/if/x?y=1", &peer, "/if/x?y=1"),
    ];
    // nginx sends this one as it is; whatever is made of it here, no line ends in it.
    let _ = Client::connect_and_send(proxy.addr, format_request("/raw/a%0D%0AX:1").as_bytes()).read_response();
    assert!(!String::from_utf8_lossy(&peer.received()).contains("\r\nX:1"), "{}", show(&peer.received()));
    run_cases(rows.map(|(target, peer, line)| (target, move || gets(target, peer, line))));
}

fn told(output: &Output) -> String {
    format!("{:?}\n{}", output.status.code(), String::from_utf8_lossy(&output.stderr))
}

/// What `-t` says of a text, with the directory as `DIR`.
fn told_of(flags: &[&str], text: &str) -> String {
    let dir = TempDir::new();
    dir.write("smolgate.conf", text);
    told(&run(&dir, flags, "smolgate.conf")).replace(&dir.path("smolgate.conf").display().to_string(), "PATH")
}

#[test]
fn what_a_check_says() {
    const GOOD: &str = "server { listen 8080; return 204; }\n";
    let good = "Some(0)\nsmolgate: the configuration file PATH syntax is ok\n\
        smolgate: configuration file PATH test is successful\n";
    assert_eq!(told_of(&["-t"], GOOD), good);
    assert_eq!(told_of(&["-tq"], GOOD), "Some(0)\n");
    assert_eq!(told_of(&["-t", "-g", "worker_shutdown_timeout 1s;"], GOOD), good);
    let unknown = "\n\nevents {}\nhttp {\n    server {\n        listen 8080;\n\n        location / {\n        \
        proxy_pass http://127.0.0.1:1;\n        proxy_set_headers Host $host;\n        }\n    }\n}\n";
    assert_eq!(
        told_of(&["-t"], unknown),
        "Some(2)\nsmolgate: PATH:10:9: unknown directive \"proxy_set_headers\"\n   \
         10 |         proxy_set_headers Host $host;\n      \
            |         ^ did you mean \"proxy_set_header\"?\n\
         smolgate: configuration file PATH test failed\n"
    );
    assert_eq!(
        told_of(&["-t"], "server {\n    listen 8080\n    return 204;\n}\n"),
        "Some(2)\nsmolgate: PATH:2:5: \"listen\" is not ended by \";\"\n    \
         2 |     listen 8080\n      \
           |     ^ put a \";\" at the end of line 2, before \"return\"\n\
         smolgate: configuration file PATH test failed\n"
    );
    for (text, part) in [
        ("server {\nlisten 8080;\n", "PATH:1:1: unexpected end of file, expecting \"}\""),
        ("server {\nlisten 8080;\n}}\n", "PATH:3:2: unexpected \"}\""),
        ("server {\nlisten 8080;\nreturn 204\n}\n", "PATH:3:1: "),
        ("server {\nlisten 8080;\nlisten;\n}\n", "PATH:3:1: invalid number of arguments in \"listen\" directive"),
        ("server a {\nlisten 8080;\n}\n", "PATH:1:1: invalid number of arguments in \"server\" directive"),
        ("upstream u {\nserver;\n}\n", "PATH:2:1: invalid number of arguments in \"server\" directive"),
        ("server {\nlisten 8080;\nroot /a;\nroot /b;\n}\n", "PATH:4:1: "),
        ("listen 8080;\n", "PATH:1:1: "),
        ("include missing.conf;\n", "PATH:1:9: "),
    ] {
        let told = told_of(&["-t"], text);
        assert!(told.starts_with("Some(2)\n") && told.contains(part), "{part} expected in {told}");
    }
    let told = told_of(&["-t", "-g", "frobnicate 1;"], GOOD);
    assert!(told.starts_with("Some(2)\nsmolgate: -g:1:1: unknown directive \"frobnicate\""), "{told}");
    assert!(told_of(&["-x"], GOOD).starts_with("Some(2)\n"));
    assert!(told_of(&["-s", "dance"], GOOD).starts_with("Some(2)\n"));
}

#[test]
fn a_dump_prints_what_was_read() {
    let dir = TempDir::new();
    let (main, one, two) = ("include parts/*.conf;\n", "server { listen 8080; }", "# nothing\n");
    fs::create_dir(dir.path("parts")).unwrap();
    for (name, text) in [("smolgate.conf", main), ("parts/1.conf", one), ("parts/2.conf", two), ("parts/3.not", "!")] {
        dir.write(name, text);
    }
    let output = run(&dir, &["-T"], "smolgate.conf");
    let header = |name: &str| format!("# configuration file {}:\n", dir.path(name).display());
    let expected = format!(
        "{}{main}\n{}{one}\n{}{two}\n",
        header("smolgate.conf"),
        header("parts/1.conf"),
        header("parts/2.conf")
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    dir.write("smolgate.conf", "include nothing/*.conf;\nserver { listen 8080; }\n");
    assert_eq!(run(&dir, &["-t"], "smolgate.conf").status.code(), Some(0), "a pattern may match nothing");
}

/// A program that this test has to end.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const BINARY: &str = env!("CARGO_BIN_EXE_smolgate");

#[test]
fn one_line_serves() {
    let (first, second) = (Peer::start_echo(), Peer::start_echo());
    let (ws, root) = (format!("/ws/={}", first.addr), format!("/={}", second.addr));
    // A port that was free may be taken before the program binds it: then another one is tried.
    let (listen, _running) = (0..20)
        .find_map(|_| {
            let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let listen = addr.to_string();
            let mut command = Command::new(BINARY);
            command.args(["--listen", &listen, "--proxy", &ws, "--proxy", &root]);
            let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let mut running = Running(child);
            let mut up = false;
            wait_for("it listens or ends", || {
                up = TcpStream::connect(addr).is_ok();
                up || running.0.try_wait().unwrap().is_some()
            });
            (up && running.0.try_wait().unwrap().is_none()).then_some((listen, running))
        })
        .unwrap();
    let mut client = Client::connect(listen.parse().unwrap());
    client.request(b"GET /a?b HTTP/1.1\r\nHost: x:1\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n", 200).unwrap();
    let sent = "GET /a?b HTTP/1.1\r\nHost: x:1\r\nX-Real-IP: 127.0.0.1\r\n\
        X-Forwarded-For: 1.2.3.4, 127.0.0.1\r\nX-Forwarded-Proto: http\r\n\r\n";
    check_equal("the upstream", &second.received(), sent.as_bytes()).unwrap();
    client.request(&expand(b"GET /ws/ HTTP/1.1\r\nHost: x\r\n{W}\r\n"), 101).unwrap();
    client.send(b"ping");
    assert_eq!(client.read_bytes(4).unwrap(), b"ping");
    let dump = Command::new(BINARY).args(["-T", "--listen", &listen, "--proxy", &ws, "--proxy", &root]).output();
    let location = |path: &str, peer: &Peer| {
        format!(
            "\n    location \"{path}\" {{\n        proxy_pass \"http://{}\";\n        \
             proxy_set_header Host $http_host;\n        proxy_set_header X-Real-IP $remote_addr;\n        \
             proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n        \
             proxy_set_header X-Forwarded-Proto $scheme;\n    }}\n",
            peer.addr
        )
    };
    let text =
        format!("server {{\n    listen \"{listen}\";\n{}{}}}\n", location("/ws/", &first), location("/", &second));
    let expected = format!("# configuration file the command line:\n{text}\n");
    assert_eq!(String::from_utf8_lossy(&dump.unwrap().stdout), expected);
    // What is printed is a configuration.
    assert!(told_of(&["-t"], &text).starts_with("Some(0)\n"));
    for flags in [&["--listen", "1"][..], &["--proxy", "/=a"], &["--listen", "1", "--proxy", "a"]] {
        let output = Command::new(BINARY).args(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {output:?}");
    }
}

/// What a request for `target` gets now.
fn status(proxy: &Proxy, target: &str) -> u16 {
    let mut client = Client::connect_and_send(proxy.addr, format_request(target).as_bytes());
    client.read_response().map_or(0, |response| response.status)
}

#[test]
fn a_reload_changes_locations_and_ports() {
    let peer = Peer::start_echo();
    let old = "server { listen LISTEN; location / { return 201; } location /ws { proxy_pass http://PEER; } }";
    let proxy = Proxy::start_with_peers(old, &[("PEER", &peer)]);
    let mut tunnel = Client::connect(proxy.addr);
    tunnel.request(&expand(b"GET /ws HTTP/1.1\r\nHost: a\r\n{W}\r\n"), 101).unwrap();
    let mut kept = Client::connect(proxy.addr);
    kept.request(format_request("/").as_bytes(), 201).unwrap();
    let reload = |text: &str| {
        let before = proxy.error_lines().iter().filter(|line| line.contains("in force")).count();
        proxy.write_config(text);
        proxy.signal("HUP");
        wait_for("a reload", || proxy.error_lines().iter().filter(|line| line.contains("in force")).count() > before);
    };
    let both = "server { listen LISTEN; listen OTHER; location / { return 202; } location /new { return 203; } }";
    reload(both);
    assert_eq!((status(&proxy, "/"), status(&proxy, "/new")), (202, 203));
    Client::connect(proxy.other).request(format_request("/new").as_bytes(), 203).unwrap();
    proxy.write_config("server {\nlisten LISTEN;\nreturn 204; frobnicate;\n}");
    proxy.signal("HUP");
    proxy.wait_for_error_line(&["[emerg]", "smolgate.conf:6:13: unknown directive \"frobnicate\""]).unwrap();
    assert_eq!(status(&proxy, "/new"), 203, "a broken file changes nothing");
    Client::connect(proxy.other).request(format_request("/new").as_bytes(), 203).unwrap();
    reload("server { listen OTHER; return 205; }");
    wait_for("the listener is gone", || TcpStream::connect(proxy.addr).is_err());
    Client::connect(proxy.other).request(format_request("/").as_bytes(), 205).unwrap();
    tunnel.send(b"ping");
    assert_eq!(tunnel.read_bytes(4).unwrap(), b"ping", "the tunnel lives");
}

#[test]
fn reopened_logs_are_new_files() {
    let proxy = Proxy::start("server { listen LISTEN; return 204; }");
    assert_eq!(status(&proxy, "/before"), 204);
    proxy.wait_for_access_line(&["GET /before"]).unwrap();
    for name in ["access.log", "error.log"] {
        fs::rename(proxy.dir.path(name), proxy.dir.path(&format!("{name}.1"))).unwrap();
    }
    assert_eq!(status(&proxy, "/between"), 204);
    wait_for("the old file is written to", || proxy.dir.lines("access.log.1").len() == 2);
    proxy.signal("USR1");
    proxy.wait_for_error_line(&["logs were reopened"]).unwrap();
    assert_eq!(status(&proxy, "/after"), 204);
    proxy.wait_for_access_line(&["GET /after"]).unwrap();
    assert_eq!(proxy.access_lines().len(), 1);
    assert_eq!(proxy.dir.lines("access.log.1").len(), 2);
}

/// The proxy with a request in flight, and what lets its upstream answer.
fn in_flight() -> (Proxy, Client, mpsc::Sender<()>) {
    let (go, gone) = mpsc::channel::<()>();
    let gone = std::sync::Mutex::new(gone);
    let peer = Peer::start(move |connection| {
        if let Some(request) = connection.read_request() {
            let _ = gone.lock().unwrap().recv();
            connection.respond(&request, "late");
        }
    });
    let proxy =
        Proxy::start_with_peers("server { listen LISTEN; location / { proxy_pass http://PEER; } }", &[("PEER", &peer)]);
    let client = Client::connect_and_send(proxy.addr, format_request("/").as_bytes());
    wait_for("the upstream is asked", || peer.received().ends_with(b"\r\n\r\n"));
    (proxy, client, go)
}

#[test]
fn stops() {
    let quit = || {
        let (mut proxy, mut client, go) = in_flight();
        proxy.signal("QUIT");
        wait_for("it listens no more", || TcpStream::connect(proxy.addr).is_err());
        check(proxy.is_running(), || "it did not wait".to_owned())?;
        go.send(()).unwrap();
        check_equal("the client", &client.expect_status(200)?.body, b"late")?;
        client.expect_eof()?;
        let code = proxy.exit_code_within(TIMEOUT);
        check(code == Some(0), || format!("exit code {code:?}"))?;
        check(!proxy.dir.path("smolgate.pid").exists(), || "the pid file stays".to_owned())
    };
    let term = || {
        let (mut proxy, mut client, go) = in_flight();
        let pid = fs::read_to_string(proxy.dir.path("smolgate.pid")).unwrap();
        check(pid == format!("{}\n", proxy.pid()), || format!("pid file: {pid:?}"))?;
        proxy.signal("TERM");
        let code = proxy.exit_code_within(TIMEOUT);
        check(code == Some(0), || format!("exit code {code:?}"))?;
        check(!proxy.dir.path("smolgate.pid").exists(), || "the pid file stays".to_owned())?;
        let mut byte = [0];
        check(!matches!(client.stream.read(&mut byte), Ok(1)), || "a byte came".to_owned())?;
        drop(go);
        Ok(())
    };
    let by_pid_file = |signal: &'static str| {
        move || {
            let mut proxy = Proxy::start("server { listen LISTEN; return 201; }");
            // Who answers has written its pid file.
            check(status(&proxy, "/") == 201, || "it does not serve".to_owned())?;
            proxy.write_config("server { listen LISTEN; return 202; }");
            let output = run(&proxy.dir, &["-s", "reload"], "smolgate.conf");
            check(output.status.code() == Some(0) && output.stderr.is_empty(), || told(&output))?;
            wait_for("-s reload", || status(&proxy, "/") == 202);
            let output = run(&proxy.dir, &["-s", signal], "smolgate.conf");
            check(output.status.code() == Some(0) && output.stderr.is_empty(), || told(&output))?;
            let code = proxy.exit_code_within(TIMEOUT);
            check(code == Some(0), || format!("exit code {code:?}"))?;
            let output = run(&proxy.dir, &["-s", signal], "smolgate.conf");
            check(output.status.code() == Some(1) && told(&output).contains("smolgate.pid"), || told(&output))
        }
    };
    run_concurrently(vec![
        case("SIGQUIT", quit),
        case("SIGTERM", term),
        case("-s stop", by_pid_file("stop")),
        case("-s quit", by_pid_file("quit")),
    ]);
}

#[test]
fn directives_of_the_command_line() {
    let proxy = Proxy::start_in_shell(
        "access_log access.log; error_log error.log info; server { listen LISTEN; return 204; }",
        "exec \"$0\" \"$@\" -g 'pid smolgate.pid; worker_shutdown_timeout 1s;'",
    );
    assert_eq!(status(&proxy, "/"), 204);
    assert_eq!(proxy.dir.lines("smolgate.pid"), [proxy.pid().to_string()]);
}
