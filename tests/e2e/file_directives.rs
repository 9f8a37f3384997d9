//! Responses with files: expires, ETag, ranges, symlinks, autoindex, gzip_static, charset, trailers, unusual names.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, lchown, symlink};
use std::process::Command;

use crate::cases::check_equal;
use crate::client::{Client, Response};
use crate::configuration::{accepts_text, refuses_text};
use crate::harness::{Proxy, wait_for};
use crate::peer::Peer;
use crate::response_rows::{format_request, run_response_rows};
use crate::static_files::put;

/// Sends a request and checks the status of the response.
fn get(proxy: &Proxy, request: &str, status: u16) -> Response {
    Client::connect(proxy.addr).request(format_request(request).as_bytes(), status).unwrap()
}

/// Returns the names of the headers behind `Date`, in order.
fn names(response: &Response) -> String {
    let lines = response.head.lines().skip(3).filter_map(|line| line.split_once(": "));
    lines.map(|(name, _)| name).collect::<Vec<_>>().join(" ")
}

#[test]
fn expires() {
    let response = "HTTP/1.1 200 OK\r\nX-One: 1\r\nCache-Control: a\r\nExpires: b\r\nCache-Control: c\r\n\
         Last-Modified: Mon, 28 Sep 1970 06:00:00 GMT\r\nContent-Length: 0\r\n\r\n";
    let peer = Peer::start_responding(response.as_bytes().to_vec());
    let proxy = Proxy::start_with_peers(
        "server {
            listen LISTEN;
            root www;
            expires 30d;
            location /epoch/ { alias www/; expires epoch; }
            location /max/ { alias www/; expires max; }
            location /off/ { alias www/; expires off; }
            location /now/ { alias www/; expires 0; }
            location /old/ { alias www/; expires -1; }
            location /changed/ { alias www/; expires modified +1h; }
            location /day/ { alias www/; expires @15h30m; }
            location /made/ { alias www/; expires $arg_e; }
            location /made-changed/ { alias www/; expires modified $arg_e; }
            location /return/ { return 200 x; }
            location /redirect/ { return 301 /; }
            location /error/ { return 503; }
            location /if/ { alias www/; if ($arg_x) { expires max; } }
            location /proxied/ { expires epoch; proxy_pass http://PEER/; }
            location /proxied-changed/ { expires modified 1h; proxy_pass http://PEER/; }
            location /order/ { alias www/; add_header Cache-Control public; add_header X-A a; add_header X-B b always; }
        }",
        &[("PEER", &peer)],
    );
    put(&proxy.dir, "www/f", "0123456789");
    run_response_rows(
        &proxy,
        &[
            ("inherited", "/f", 200, "Cache-Control: max-age=2592000"),
            ("epoch", "/epoch/f", 200, "Expires: Thu, 01 Jan 1970 00:00:01 GMT | Cache-Control: no-cache"),
            ("max", "/max/f", 200, "Expires: Thu, 31 Dec 2037 23:55:55 GMT | Cache-Control: max-age=315360000"),
            ("off", "/off/f", 200, "!Expires | !Cache-Control"),
            ("now", "/now/f", 200, "Cache-Control: max-age=0"),
            ("old", "/old/f", 200, "Cache-Control: no-cache"),
            ("from the change", "/changed/f", 200, "Expires: Tue, 14 Nov 2023 23:13:20 GMT | Cache-Control: no-cache"),
            ("a variable", "/made/f?e=epoch", 200, "Expires: Thu, 01 Jan 1970 00:00:01 GMT"),
            ("a variable, +", "/made/f?e=+5d", 200, "Cache-Control: max-age=432000"),
            ("a variable, off", "/made/f?e=off", 200, "!Expires | !Cache-Control"),
            ("a variable, empty", "/made/f", 200, "!Expires"),
            ("a variable, nonsense", "/made/f?e=soon", 200, "!Expires"),
            ("a variable, from the change", "/made-changed/f?e=60", 200, "Expires: Tue, 14 Nov 2023 22:14:20 GMT"),
            ("a variable, from the change, not so", "/made-changed/f?e=max", 200, "!Expires"),
            ("not modified", "/f\nIf-None-Match: *", 304, "Cache-Control: max-age=2592000"),
            ("a part", "/f\nRange: bytes=1-2", 206, "Cache-Control: max-age=2592000"),
            ("a text", "/return/", 200, "Cache-Control: max-age=2592000"),
            ("a redirect", "/redirect/", 301, "Cache-Control: max-age=2592000"),
            ("no error", "/error/", 503, "!Expires | !Cache-Control"),
            ("no file", "/none", 404, "!Expires | !Cache-Control"),
            ("in an if", "/if/f?x=1", 200, "Cache-Control: max-age=315360000"),
            ("not in an if", "/if/f", 200, "Cache-Control: max-age=2592000"),
            ("of an upstream", "/proxied/", 200, "Expires: Thu, 01 Jan 1970 00:00:01 GMT"),
            ("of an upstream, from its change", "/proxied-changed/", 200, "Expires: Mon, 28 Sep 1970 07:00:00 GMT"),
        ],
    );
    let daily = get(&proxy, "/day/f", 200);
    assert!(daily.header("Expires").unwrap().ends_with(" 15:30:00 GMT"), "{}", daily.head);
    const COMMON: &str = "Content-Type Content-Length Last-Modified Connection ETag Expires Cache-Control";
    let order = |asked: &str, status| names(&get(&proxy, asked, status));
    assert_eq!(order("/f", 200), format!("{COMMON} Accept-Ranges"));
    assert_eq!(order("/order/f", 200), format!("{COMMON} Cache-Control X-A X-B Accept-Ranges"));
    assert_eq!(order("/order/f\nRange: bytes=0-1", 206), format!("{COMMON} Cache-Control X-A X-B Content-Range"));
    let out_of_range = order("/order/f\nRange: bytes=10-", 416);
    assert_eq!(
        out_of_range,
        "Content-Type Content-Length Connection Expires Cache-Control Cache-Control X-A Content-Range X-B"
    );
    // The order of the upstream's headers is kept.
    let proxied = get(&proxy, "/proxied/", 200);
    assert_eq!(names(&proxied), "X-One Cache-Control Expires Last-Modified Content-Length Connection");
    assert_eq!(proxied.header("Cache-Control"), Some("no-cache"));
}

#[test]
fn validators_of_add_header() {
    let proxy = Proxy::start(
        "server {
            listen LISTEN;
            root www;
            location /own/ { alias www/; add_header ETag '\"x\"'; add_header Last-Modified 'Mon, 28 Sep 1970 06:00:00 GMT'; }
            location /none/ { alias www/; add_header ETag ''; add_header Last-Modified ''; }
        }",
    );
    put(&proxy.dir, "www/ten", "0123456789");
    run_response_rows(
        &proxy,
        &[
            ("own", "/own/ten", 200, "ETag: \"x\" | Last-Modified: Mon, 28 Sep 1970 06:00:00 GMT"),
            ("none", "/none/ten", 200, "!ETag | !Last-Modified"),
            ("not of errors", "/own/x", 404, "!ETag | !Last-Modified"),
            (
                "conditions use the validators of the file",
                "/own/ten\nIf-None-Match: \"6553f100-a\"",
                304,
                "ETag: \"x\"",
            ),
            ("If-Range uses the sent ETag", "/own/ten\nIf-Range: \"x\"\nRange: bytes=0-1", 206, "=01"),
            ("not the ETag of the file", "/own/ten\nIf-Range: \"6553f100-a\"\nRange: bytes=0-1", 200, ""),
            ("a time", "/own/ten\nIf-Range: Mon, 28 Sep 1970 06:00:00 GMT\nRange: bytes=0-1", 206, "=01"),
            ("no tag", "/none/ten\nIf-Range: \"6553f100-a\"\nRange: bytes=0-1", 200, ""),
            ("no time", "/none/ten\nIf-Range: Tue, 14 Nov 2023 22:13:20 GMT\nRange: bytes=0-1", 200, ""),
        ],
    );
    assert_eq!(
        names(&get(&proxy, "/own/ten", 200)),
        "Content-Type Content-Length Connection ETag Last-Modified Accept-Ranges"
    );
}

#[test]
fn several_ranges() {
    let proxy = Proxy::start(
        "server {
            listen LISTEN;
            root www;
            location /two/ { alias www/; max_ranges 2; }
            location /none/ { alias www/; max_ranges 0; }
        }",
    );
    put(&proxy.dir, "www/ten", "0123456789");
    let large: Vec<u8> = (0..400_000_u32).map(|n| (n % 251) as u8).collect();
    put(&proxy.dir, "www/large", &large);
    run_response_rows(
        &proxy,
        &[
            ("two", "/two/ten\nRange: bytes=0-1,3-4", 206, "Content-Length: 198 | !Content-Range | !Accept-Ranges"),
            ("more than max_ranges", "/two/ten\nRange: bytes=0-1,3-4,6-7", 200, "Accept-Ranges: bytes | =0123456789"),
            ("unsatisfiable ones do not count", "/two/ten\nRange: bytes=0-1,3-4,10-11", 206, ""),
            ("max_ranges 0", "/none/ten\nRange: bytes=0-1", 200, "!Accept-Ranges | =0123456789"),
            ("HEAD", "HEAD /ten\nRange: bytes=0-1,3-4", 200, "Content-Length: 10"),
        ],
    );
    let response = get(&proxy, "/large\nRange: bytes=-2, 0-299999, 1-1", 206);
    let boundary = response.header("Content-Type").unwrap().strip_prefix("multipart/byteranges; boundary=").unwrap();
    let mut expected = Vec::new();
    for (range, bytes) in [("399998-399999", &large[399_998..]), ("0-299999", &large[..300_000]), ("1-1", &large[1..2])]
    {
        let head =
            format!("\r\n--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes {range}/400000\r\n\r\n");
        expected.extend_from_slice(head.as_bytes());
        expected.extend_from_slice(bytes);
    }
    expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    check_equal("the client", &response.body, &expected).unwrap();
    proxy.wait_for_access_line(&["GET /large", &format!(" 206 {} ", expected.len())]).unwrap();
    let many = format!("/large\nRange: bytes={}0-0", "0-0,".repeat(1500));
    assert_eq!(get(&proxy, &many, 200).body.len(), 400_000, "an abusive range gets the whole file once");
}

#[test]
fn a_truncated_file_closes_the_connection() {
    const WHOLE: u64 = 64 << 20;
    let proxy = Proxy::start("server { listen LISTEN; root www; }");
    put(&proxy.dir, "www/shrinks", "");
    let file = fs::File::options().write(true).open(proxy.dir.path("www/shrinks")).unwrap();
    file.set_len(WHOLE).unwrap();
    let mut client = Client::connect_and_send(proxy.addr, format_request("/shrinks").as_bytes());
    client.stream.peek(&mut [0; 12]).unwrap();
    // The file is larger than the socket buffers; its end is gone when it is read.
    file.set_len(1).unwrap();
    let received = client.read_to_end().unwrap();
    assert!(received.starts_with(b"HTTP/1.1 200 OK\r\n"));
    assert!((received.len() as u64) < WHOLE, "{} bytes", received.len());
    wait_for("a line in the error log", || {
        proxy.error_lines().iter().any(|line| line.contains("the file was truncated"))
    });
    assert_eq!(Client::connect(proxy.addr).request(format_request("/shrinks").as_bytes(), 200).unwrap().body.len(), 1);
}

#[test]
fn disable_symlinks() {
    let proxy = Proxy::start(
        "server {
            listen LISTEN;
            root www;
            location /on/ { alias www/; disable_symlinks on from=$document_root; }
            location /all/ { alias www/; disable_symlinks on; }
            location /owner/ { alias www/; disable_symlinks if_not_owner from=$document_root; }
            location /try/ { alias www/; disable_symlinks on from=$document_root; try_files /try/link /try/f =404; }
            location /if/ { alias www/; disable_symlinks on from=$document_root;
                if (-f $request_filename) { return 200 file; } return 200 none; }
            location /deep/ { alias www/dirlink/../; disable_symlinks on from=www; }
        }",
    );
    let www = |name: &str| proxy.dir.path(&format!("www/{name}"));
    put(&proxy.dir, "www/f", "file");
    put(&proxy.dir, "www/dir/index.html", "index");
    put(&proxy.dir, "www/linked/other", "other");
    for (to, name) in [("f", "link"), ("dir", "dirlink"), ("/proc/version", "foreign"), ("../f", "linked/index.html")] {
        symlink(to, www(name)).unwrap();
    }
    // Started by root, the proxy runs as another user: all files get one owner, which is not that of /proc.
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        for name in ["f", "link", "dir", "dirlink", "dir/index.html", "foreign"] {
            lchown(www(name), Some(65_534), None).unwrap();
        }
    }
    run_response_rows(
        &proxy,
        &[
            ("off", "/link", 200, "=file"),
            ("off, a directory", "/dirlink/", 200, "=index"),
            ("on", "/on/f", 200, "=file"),
            ("on, in a directory", "/on/dir/", 200, "=index"),
            ("on, a link", "/on/link", 403, ""),
            ("on, a link to a directory", "/on/dirlink", 403, ""),
            ("on, in a linked directory", "/on/dirlink/index.html", 404, ""),
            ("on, the index of a linked directory", "/on/dirlink/", 404, ""),
            ("on, a linked index", "/on/linked/", 403, ""),
            ("on, not there", "/on/none", 404, ""),
            ("if not owner", "/owner/link", 200, "=file"),
            ("if not owner, a directory", "/owner/dirlink/", 200, "=index"),
            ("if not owner, of another", "/owner/foreign", 403, ""),
            ("try_files", "/try/x", 200, "=file"),
            ("if, a file", "/if/f", 200, "=file"),
            ("if, a link", "/if/link", 200, "=none"),
        ],
    );
    proxy.dir.path("www").canonicalize().map(|path| assert_eq!(path, proxy.dir.path("www"))).unwrap();
    assert_eq!(get(&proxy, "/all/f", 200).body, b"file");
}

#[test]
fn autoindex() {
    let proxy = Proxy::start(
        "server {
            listen LISTEN;
            root www;
            autoindex on;
            expires 1d;
            location /off/ { alias www/; autoindex off; }
            location /size/ { alias www/list/; autoindex_exact_size off; autoindex_localtime on; }
            location /json/ { alias www/list/; autoindex_format json; }
            location /jsonp/ { alias www/list/; autoindex_format jsonp; }
            location /xml/ { alias www/list/; autoindex_format xml; }
            location /utf8/ { alias www/list/; charset utf-8; }
        }",
    );
    put(&proxy.dir, "www/has/index.html", "index");
    fs::create_dir_all(proxy.dir.path("www/list/sub dir")).unwrap();
    let long = "l".repeat(51);
    for (name, text) in [("b<&>\"'", "12345"), (".hidden", ""), (&long, ""), ("a%?#:\n\\", ""), ("é", ""), ("k", "")] {
        put(&proxy.dir, &format!("www/list/{name}"), text);
    }
    symlink("nowhere", proxy.dir.path("www/list/dangling")).unwrap();
    let lchange = ["-h", "-d", "@1700000000"];
    let touch = |name: &str| Command::new("touch").args(lchange).arg(proxy.dir.path(name)).status().unwrap().success();
    assert!(touch("www/list/dangling") && touch("www/list/sub dir"));
    fs::File::options().write(true).open(proxy.dir.path("www/list/k")).unwrap().set_len(12_345_678).unwrap();
    assert!(touch("www/list/k"));
    let row = |href: &str, shown: &str, chars: usize, size: &str| {
        format!("<a href=\"{href}\">{shown}</a>{:1$} 14-Nov-2023 22:13 {size:>19}\r\n", "", 50 - chars)
    };
    let page = |path: &str, rows: &[String]| {
        format!(
            "<html>\r\n<head><title>Index of {path}</title></head>\r\n<body>\r\n<h1>Index of {path}</h1><hr><pre>\
             <a href=\"../\">../</a>\r\n{}</pre><hr></body>\r\n</html>\r\n",
            rows.concat()
        )
    };
    let shortened = format!("{}..&gt;", "l".repeat(47));
    let rows = [
        row("sub%20dir/", "sub dir/", 8, "-"),
        row("a%25%3F%23%3A%0A%5C", "a%?#:\n\\", 7, "0"),
        row("b%3C%26%3E%22%27", "b&lt;&amp;&gt;&quot;'", 6, "5"),
        row("dangling", "dangling", 8, "7"),
        row("k", "k", 1, "12345678"),
        row(&long, &shortened, 50, "0"),
        row("%C3%A9", "é", 2, "0"),
    ];
    let response = get(&proxy, "/list/", 200);
    check_equal("the client", &response.body, page("/list/", &rows).as_bytes()).unwrap();
    assert_eq!(names(&response), "Content-Type Transfer-Encoding Connection Expires Cache-Control");
    assert_eq!(response.header("Content-Type"), Some("text/html"));
    let sized = String::from_utf8(get(&proxy, "/size/", 200).body).unwrap();
    assert!(sized.contains("14-Nov-2023 22:13     12M\r\n"), "{sized}");
    let time = "Tue, 14 Nov 2023 22:13:20 GMT";
    let json = [
        format!("{{ \"name\":\"sub dir\", \"type\":\"directory\", \"mtime\":\"{time}\" }}"),
        format!("{{ \"name\":\"a%?#:\\n\\\\\", \"type\":\"file\", \"mtime\":\"{time}\", \"size\":0 }}"),
        format!("{{ \"name\":\"b<&>\\\"'\", \"type\":\"file\", \"mtime\":\"{time}\", \"size\":5 }}"),
        format!("{{ \"name\":\"dangling\", \"type\":\"other\", \"mtime\":\"{time}\" }}"),
        format!("{{ \"name\":\"k\", \"type\":\"file\", \"mtime\":\"{time}\", \"size\":12345678 }}"),
        format!("{{ \"name\":\"{long}\", \"type\":\"file\", \"mtime\":\"{time}\", \"size\":0 }}"),
        format!("{{ \"name\":\"é\", \"type\":\"file\", \"mtime\":\"{time}\", \"size\":0 }}"),
    ];
    let json = format!("[\r\n{}\r\n]", json.join(",\r\n"));
    let called = format!("/* callback */\r\nf({json});");
    let xml = String::from_utf8(get(&proxy, "/xml/", 200).body).unwrap();
    assert!(xml.starts_with(
        "<?xml version=\"1.0\"?>\r\n<list>\r\n<directory mtime=\"2023-11-14T22:13:20Z\">sub dir</directory>\r\n"
    ));
    assert!(xml.contains("<file mtime=\"2023-11-14T22:13:20Z\" size=\"5\">b&lt;&amp;&gt;&quot;'</file>\r\n"), "{xml}");
    assert!(xml.ends_with("</file>\r\n</list>\r\n"), "{xml}");
    run_response_rows(
        &proxy,
        &[
            ("an empty directory", "/list/sub%20dir/", 200, &format!("={}", page("/list/sub dir/", &[]))),
            ("an index comes first", "/has/", 200, "=index"),
            ("off", "/off/", 403, ""),
            ("no directory", "/none/", 404, ""),
            ("POST", "POST /list/\nContent-Length: 0", 403, ""),
            ("HEAD", "HEAD /list/", 200, "!Transfer-Encoding | !Content-Length | Connection: keep-alive"),
            ("json", "/json/", 200, &format!("Content-Type: application/json | ={json}")),
            ("jsonp", "/jsonp/?callback=f", 200, &format!("Content-Type: application/javascript | ={called}")),
            ("jsonp without a name", "/jsonp/?callback=", 200, &format!("Content-Type: application/json | ={json}")),
            ("jsonp with an invalid name", "/jsonp/?callback=alert(1)", 400, ""),
            ("xml", "/xml/", 200, "Content-Type: text/xml; charset=utf-8"),
            ("a condition", "/list/\nIf-None-Match: *", 304, ""),
        ],
    );
    let mut old = Client::connect_and_send(proxy.addr, b"GET /list/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let response = old.expect_status(200).unwrap();
    assert!(response.closes() && response.header("Transfer-Encoding").is_none(), "{}", response.head);
    check_equal("an old client", &response.body, page("/list/", &rows).as_bytes()).unwrap();
    large_directories(&proxy);
}

/// More entries than one buffer holds, and more than are listed.
fn large_directories(proxy: &Proxy) {
    const MOST: usize = 16 * 1024;
    fs::create_dir_all(proxy.dir.path("www/many")).unwrap();
    let add = |number: usize| fs::File::create(proxy.dir.path(&format!("www/many/{number:05}"))).unwrap();
    let listed = || {
        let page = String::from_utf8(get(proxy, "/many/", 200).body).unwrap();
        assert!(page.ends_with("</pre><hr></body>\r\n</html>\r\n"));
        let names: Vec<String> = page.split("<a href=\"").skip(2).map(|row| row[..5].to_owned()).collect();
        assert!(names.is_sorted());
        names.len()
    };
    (0..MOST).for_each(|number| drop(add(number)));
    assert_eq!(listed(), MOST);
    add(MOST);
    assert_eq!(listed(), MOST);
    wait_for("a line in the error log", || {
        proxy.error_lines().iter().any(|line| line.contains("has more than 16384 entries"))
    });
}

#[test]
fn gzip_static() {
    let proxy = Proxy::start(
        "server {
            listen LISTEN;
            root www;
            location / { gzip_static on; }
            location /vary/ { alias www/; gzip_static on; gzip_vary on; expires epoch; add_header X-A a; }
            location /always/ { alias www/; gzip_static always; gzip_vary on; }
            location /both/ { alias www/; gzip_static on; brotli_static on; gzip_vary on; }
            location /off/ { alias www/; }
        }",
    );
    for (name, text) in [
        ("f.txt", "plain"),
        ("f.txt.gz", "not really gzip"),
        ("f.txt.br", "brotli"),
        ("only.txt.gz", "only"),
        ("plain.txt", "alone"),
        ("dir.txt", "plain"),
        ("dir.txt.gz/x", "in a directory"),
        ("index.html", "index"),
        ("index.html.gz", "compressed index"),
    ] {
        put(&proxy.dir, &format!("www/{name}"), text);
    }
    const GZIP: &str = "Content-Encoding: gzip | Content-Type: text/plain | ETag: \"6553f100-f\" | =not really gzip";
    const NOT: &str = "!Content-Encoding | =plain";
    run_response_rows(
        &proxy,
        &[
            ("accepted", "/f.txt\nAccept-Encoding: gzip", 200, GZIP),
            ("no ranges", "/f.txt\nAccept-Encoding: gzip\nRange: bytes=0-1", 200, "!Accept-Ranges | =not really gzip"),
            ("not accepted", "/f.txt", 200, "!Content-Encoding | !Vary | Accept-Ranges: bytes | =plain"),
            ("refused", "/f.txt\nAccept-Encoding: gzip;q=0", 200, NOT),
            ("by a proxy", "/f.txt\nAccept-Encoding: gzip\nVia: 1.1 x", 200, NOT),
            ("HEAD", "HEAD /f.txt\nAccept-Encoding: gzip", 200, "Content-Encoding: gzip | Content-Length: 15"),
            ("not modified", "/f.txt\nAccept-Encoding: gzip\nIf-None-Match: \"6553f100-f\"", 304, "!Content-Encoding"),
            ("modified", "/f.txt\nAccept-Encoding: gzip\nIf-None-Match: \"6553f100-5\"", 200, GZIP),
            ("POST", "POST /f.txt\nAccept-Encoding: gzip\nContent-Length: 0", 405, ""),
            ("no compressed file", "/plain.txt\nAccept-Encoding: gzip", 200, "!Content-Encoding | =alone"),
            ("only a compressed file", "/only.txt\nAccept-Encoding: gzip", 200, "Content-Encoding: gzip | =only"),
            ("only a compressed file, not accepted", "/only.txt", 404, "!Vary"),
            ("a directory with the name", "/dir.txt\nAccept-Encoding: gzip", 200, NOT),
            ("of an index", "/\nAccept-Encoding: gzip", 200, "Content-Type: text/html | =compressed index"),
            ("vary", "/vary/f.txt\nAccept-Encoding: gzip", 200, &format!("Vary: Accept-Encoding | {GZIP}")),
            ("vary, not accepted", "/vary/f.txt", 200, "Vary: Accept-Encoding | =plain"),
            ("vary, not modified", "/vary/f.txt\nIf-None-Match: *", 304, "Vary: Accept-Encoding"),
            ("vary, no compressed file", "/vary/plain.txt", 200, "!Vary"),
            ("vary, only a compressed file", "/vary/only.txt", 404, "Vary: Accept-Encoding"),
            ("always", "/always/f.txt", 200, &format!("!Vary | {GZIP}")),
            ("always, no compressed file", "/always/plain.txt", 200, "!Content-Encoding | =alone"),
            ("brotli before gzip", "/both/f.txt\nAccept-Encoding: gzip, br", 200, "Content-Encoding: br | =brotli"),
            ("brotli is not accepted", "/both/f.txt\nAccept-Encoding: gzip", 200, GZIP),
            ("neither is accepted", "/both/f.txt", 200, "Vary: Accept-Encoding | =plain"),
            ("off", "/off/f.txt\nAccept-Encoding: gzip", 200, NOT),
        ],
    );
    assert_eq!(
        names(&get(&proxy, "/vary/f.txt\nAccept-Encoding: gzip", 200)),
        "Content-Type Content-Length Last-Modified Connection Vary ETag Content-Encoding Expires Cache-Control X-A"
    );
}

#[test]
fn charsets() {
    let respond = |content_type: &str| {
        let fields = format!("Content-Type: {content_type}\r\nTransfer-Encoding: chunked");
        format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n2\r\nXa\r\n3\r\nbXX\r\n0\r\n\r\n").into_bytes()
    };
    let (plain, told) =
        (Peer::start_responding(respond("text/html")), Peer::start_responding(respond("text/html;charset=\"b\"")));
    let proxy = Proxy::start_with_peers(
        "charset_map B A { 58 59; C0 FF; }
        server {
            listen LISTEN;
            root www;
            charset utf-8;
            location /types/ { alias www/; charset_types application/json; }
            location /all/ { alias www/; charset_types *; }
            location /off/ { alias www/; charset off; }
            location /made/ { alias www/; charset $arg_c; }
            location /parameter/ { alias www/; types { } default_type 'text/html; charset=x'; }
            location /missing { return 404; }
            location /redirect { return 302 /; }
            location /source/ { alias www/; charset A; source_charset B; autoindex on; gzip_static on; }
            location /plain/ { proxy_pass http://PLAIN; }
            location /declared/ { proxy_pass http://DECLARED; }
            location /declared-off/ { proxy_pass http://DECLARED; charset off; }
            location /overridden/ { proxy_pass http://DECLARED; charset A; override_charset on; }
            location /proxied-source/ { proxy_pass http://PLAIN; charset A; source_charset B; }
        }",
        &[("PLAIN", &plain), ("DECLARED", &told)],
    );
    for (name, text) in [("f.txt", "aX"), ("f.css", "X"), ("f.json", "{}"), ("f.txt.gz", "X"), ("page.html", "<p>")] {
        put(&proxy.dir, &format!("www/{name}"), text);
    }
    run_response_rows(
        &proxy,
        &[
            ("a text", "/f.txt", 200, "Content-Type: text/plain; charset=utf-8 | =aX"),
            ("a page", "/page.html", 200, "Content-Type: text/html; charset=utf-8"),
            ("another type", "/f.css", 200, "Content-Type: text/css"),
            ("given types", "/types/f.json", 200, "Content-Type: application/json; charset=utf-8"),
            ("given types and html", "/types/page.html", 200, "Content-Type: text/html; charset=utf-8"),
            ("given types replace the defaults", "/types/f.txt", 200, "Content-Type: text/plain"),
            ("all types", "/all/f.css", 200, "Content-Type: text/css; charset=utf-8"),
            ("off", "/off/f.txt", 200, "Content-Type: text/plain"),
            ("a variable", "/made/f.txt?c=koi8-r", 200, "Content-Type: text/plain; charset=koi8-r"),
            ("an empty variable", "/made/f.txt", 200, "Content-Type: text/plain"),
            ("a charset of the type", "/parameter/f.txt", 200, "Content-Type: text/html; charset=x"),
            ("an error page", "/missing", 404, "Content-Type: text/html; charset=utf-8"),
            ("a redirect", "/redirect", 302, "Content-Type: text/html"),
            ("parts", "/f.txt\nRange: bytes=0-0", 206, "Content-Type: text/plain; charset=utf-8 | =a"),
            ("a source", "/source/f.txt", 200, "Content-Type: text/plain; charset=B | Content-Length: 2 | =aX"),
            (
                "a compressed one",
                "/source/f.txt\nAccept-Encoding: gzip",
                200,
                "Content-Type: text/plain; charset=B | =X",
            ),
            ("a list", "/source/", 200, "Content-Type: text/html; charset=B"),
            ("upstream", "/plain/", 200, "Content-Type: text/html; charset=utf-8 | =XabXX"),
            ("upstream, with a charset", "/declared/", 200, "Content-Type: text/html;charset=\"b\" | =XabXX"),
            ("upstream, off", "/declared-off/", 200, "Content-Type: text/html;charset=\"b\" | =XabXX"),
            ("upstream, overridden", "/overridden/", 200, "Content-Type: text/html;charset=\"b\" | =XabXX"),
            ("upstream, a source", "/proxied-source/", 200, "Content-Type: text/html; charset=B | =XabXX"),
        ],
    );
}

#[test]
fn invalid_values() {
    let http = |text: &str| format!("server {{ listen 8080; {text} }}");
    let refused = [
        ("expires soon;", "\"soon\""),
        ("expires modified @1h;", "after \"modified\""),
        ("expires @25h;", "less than 24 hours"),
        ("expires x 1d;", "\"modified\" and a time"),
        ("max_ranges -1;", "max_ranges"),
        ("disable_symlinks maybe;", "on, if_not_owner or off"),
        ("disable_symlinks off from=/x;", "from="),
        ("disable_symlinks on /x;", "from="),
        ("autoindex_format table;", "html, xml, json or jsonp"),
        ("gzip_static maybe;", "on, always or off"),
        ("charset_types text;", "a media type"),
    ];
    for (text, part) in refused {
        refuses_text(http(text), &["smolgate.conf:", part]).unwrap_or_else(|why| panic!("{text}: {why}"));
    }
    for good in ["charset a; source_charset b;", "charset a; override_charset on;", "charset off;"] {
        accepts_text(http(good)).unwrap_or_else(|why| panic!("{good}: {why}"));
    }
}

#[test]
fn trailers_and_chunks() {
    let peer = Peer::start_responding(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec());
    let proxy = Proxy::start_with_peers(
        "server {
            listen LISTEN;
            root www;
            add_trailer X-Host $host;
            add_trailer X-Host again;
            add_trailer X-Always $sent_trailer_x_host always;
            add_trailer X-Empty '';
            add_trailer X-Sent $sent_http_content_type;
            location /text { return 200 text; }
            location /off/ { alias www/; chunked_transfer_encoding off; autoindex on; }
            location /proxied/ { proxy_pass http://PEER; add_trailer X-Length $upstream_response_length; }
            location /headers { add_header X-A a; add_header X-A b; add_header X-B \"$sent_http_x_a\"; return 204; }
        }",
        &[("PEER", &peer)],
    );
    for (name, text) in [("f.txt", "hello"), ("empty.txt", "")] {
        put(&proxy.dir, &format!("www/{name}"), text);
    }
    let large = "0123456789".repeat(10_000);
    put(&proxy.dir, "www/large.txt", &large);
    const TRAILERS: &str = "X-Host: a\r\nX-Host: again\r\nX-Always: a, again\r\nX-Sent: text/plain\r\n\r\n";
    let get_raw = |request: &str| {
        let mut client =
            Client::connect_and_send(proxy.addr, format_request(&format!("{request}\nConnection: close")).as_bytes());
        let all = String::from_utf8_lossy(&client.read_to_end().unwrap()).into_owned();
        let (head, body) = all.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    };
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n0\r\n{TRAILERS}", text.len());
    for (asked, expected) in [
        ("/f.txt", chunk("hello")),
        ("/text", chunk("text")),
        ("/large.txt", chunk(&large)),
        ("/empty.txt", format!("0\r\n{TRAILERS}")),
        ("/proxied/", "5\r\nhello\r\n0\r\nX-Length: 5\r\n\r\n".to_owned()),
        ("/f.txt\nRange: bytes=1-2", chunk("el")),
    ] {
        let (head, body) = get_raw(asked);
        assert_eq!(body, expected, "{asked}");
        assert!(head.contains("\r\nTransfer-Encoding: chunked\r\n") && !head.contains("Content-Length"), "{head}");
    }
    let (_, body) = get_raw("/f.txt\nRange: bytes=0-0,2-2");
    let (size, rest) = body.split_once("\r\n").unwrap();
    assert!(rest[usize::from_str_radix(size, 16).unwrap()..].starts_with("\r\n0\r\nX-Host: a\r\n"), "{body}");
    let (_, body) = get_raw("/none");
    assert!(body.ends_with("</html>\r\n\r\n0\r\n\r\n"), "{body}: the only trailer of all answers is empty here");
    run_response_rows(
        &proxy,
        &[
            ("HEAD", "HEAD /f.txt", 200, "Content-Length: 5 | !Transfer-Encoding"),
            ("no body", "/f.txt\nIf-None-Match: *", 304, "!Transfer-Encoding"),
            ("no chunks", "/off/f.txt", 200, "Content-Length: 5 | !Transfer-Encoding | =hello"),
            ("no chunks, no length", "/off/", 200, "Connection: close | !Transfer-Encoding | !Content-Length"),
            ("add_header", "/headers", 204, "X-B: a, b"),
        ],
    );
    let mut old = Client::connect_and_send(proxy.addr, b"GET /f.txt HTTP/1.0\r\n\r\n");
    assert_eq!(old.expect_status(200).unwrap().body, b"hello");
    let mut client = Client::connect(proxy.addr);
    for _ in 0..2 {
        client.send(format_request("/text").as_bytes());
        let response = client.read_until(TRAILERS.as_bytes()).unwrap();
        assert!(response.starts_with(b"HTTP/1.1 200 OK\r\n"), "the connection serves the next request");
    }
}

#[test]
fn unusual_names() {
    let proxy =
        Proxy::start("server { listen LISTEN; root www; location /relative/ { alias www/; absolute_redirect off; } }");
    let longest = "n".repeat(255);
    for name in
        [&longest, "new\nline", "back\\slash", "per%cent", "what?", "#", " ", "-", "...", "~", "é", "a;b", "dir\n/x"]
    {
        put(&proxy.dir, &format!("www/{name}"), format!("<{name}>"));
    }
    let bytes = proxy.dir.path("www").join(std::ffi::OsStr::from_bytes(b"\xff\xfe"));
    fs::write(bytes, "bytes").unwrap();
    let deep = "/d".repeat(3900);
    run_response_rows(
        &proxy,
        &[
            ("the longest", &format!("/{longest}"), 200, &format!("=<{longest}>")),
            ("longer", &format!("/{longest}n"), 404, ""),
            ("deep", &deep, 404, ""),
            ("many dots", &format!("{}/f", "/.".repeat(3000)), 404, ""),
            ("a line end", "/new%0Aline", 200, "=<new\nline>"),
            ("a backslash", "/back\\slash", 200, "=<back\\slash>"),
            ("per cent", "/per%25cent", 200, "=<per%cent>"),
            ("decoded once", "/per%2525cent", 404, ""),
            ("a question mark", "/what%3f", 200, "=<what?>"),
            ("a hash", "/%23", 200, "=<#>"),
            ("a space", "/%20", 200, "=< >"),
            ("three dots", "/...", 200, "=<...>"),
            ("two letters", "/%c3%a9", 200, "=<é>"),
            ("not UTF-8", "/%ff%fe", 200, "=bytes"),
            ("parameters are part of a name", "/a;b", 200, "=<a;b>"),
            ("overlong dots", "/%c0%ae%c0%ae/f", 404, ""),
            ("a null byte", "/f%00", 400, ""),
            ("a null byte in a directory", "/%00/", 400, ""),
            ("a directory with a line end", "/dir%0a", 301, "Location: http://a:PORT/dir%0A/"),
            ("a directory with a line end, relative", "/relative/dir%0a", 301, "Location: /relative/dir%0A/"),
            ("a colon", "/a:b", 404, ""),
            ("an asterisk", "/*", 404, ""),
        ],
    );
}
