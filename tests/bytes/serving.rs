//! What heads and bodies of files are like.

use crate::asked::{ask_rows, request};
use crate::client::{Client, Reply};
use crate::files::put;
use crate::gate::Gate;
use crate::peer::Peer;
use crate::table::same;

/// What a request gets that must have this status.
fn ask(gate: &Gate, asked: &str, status: u16) -> Reply {
    Client::connect(gate.addr).ask(request(asked).as_bytes(), status).unwrap()
}

/// The names of the fields behind `Date`, in their order.
fn names(reply: &Reply) -> String {
    let lines = reply.head.lines().skip(3).filter_map(|line| line.split_once(": "));
    lines.map(|(name, _)| name).collect::<Vec<_>>().join(" ")
}

#[test]
fn expires() {
    let answer = "HTTP/1.1 200 OK\r\nX-One: 1\r\nCache-Control: a\r\nExpires: b\r\nCache-Control: c\r\n\
         Last-Modified: Mon, 28 Sep 1970 06:00:00 GMT\r\nContent-Length: 0\r\n\r\n";
    let peer = Peer::answering(answer.as_bytes().to_vec());
    let gate = Gate::before(
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
    put(&gate.folder, "www/f", "0123456789");
    ask_rows(
        &gate,
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
    let daily = ask(&gate, "/day/f", 200);
    assert!(daily.field("Expires").unwrap().ends_with(" 15:30:00 GMT"), "{}", daily.head);
    const COMMON: &str = "Content-Type Content-Length Last-Modified Connection ETag Expires Cache-Control";
    let order = |asked: &str, status| names(&ask(&gate, asked, status));
    assert_eq!(order("/f", 200), format!("{COMMON} Accept-Ranges"));
    assert_eq!(order("/order/f", 200), format!("{COMMON} Cache-Control X-A X-B Accept-Ranges"));
    assert_eq!(order("/order/f\nRange: bytes=0-1", 206), format!("{COMMON} Cache-Control X-A X-B Content-Range"));
    let out_of_range = order("/order/f\nRange: bytes=10-", 416);
    assert_eq!(
        out_of_range,
        "Content-Type Content-Length Connection Expires Cache-Control Cache-Control X-A Content-Range X-B"
    );
    // The upstream's fields keep their places.
    let proxied = ask(&gate, "/proxied/", 200);
    assert_eq!(names(&proxied), "X-One Cache-Control Expires Last-Modified Content-Length Connection");
    assert_eq!(proxied.field("Cache-Control"), Some("no-cache"));
}

#[test]
fn marks_that_the_configuration_gives() {
    let gate = Gate::start(
        "server {
            listen LISTEN;
            root www;
            location /own/ { alias www/; add_header ETag '\"x\"'; add_header Last-Modified 'Mon, 28 Sep 1970 06:00:00 GMT'; }
            location /none/ { alias www/; add_header ETag ''; add_header Last-Modified ''; }
        }",
    );
    put(&gate.folder, "www/ten", "0123456789");
    ask_rows(
        &gate,
        &[
            ("own", "/own/ten", 200, "ETag: \"x\" | Last-Modified: Mon, 28 Sep 1970 06:00:00 GMT"),
            ("none", "/none/ten", 200, "!ETag | !Last-Modified"),
            ("not of errors", "/own/x", 404, "!ETag | !Last-Modified"),
            ("conditions look at the file", "/own/ten\nIf-None-Match: \"6553f100-a\"", 304, "ETag: \"x\""),
            ("ranges look at what is sent", "/own/ten\nIf-Range: \"x\"\nRange: bytes=0-1", 206, "=01"),
            ("not at the file's tag", "/own/ten\nIf-Range: \"6553f100-a\"\nRange: bytes=0-1", 200, ""),
            ("a time", "/own/ten\nIf-Range: Mon, 28 Sep 1970 06:00:00 GMT\nRange: bytes=0-1", 206, "=01"),
            ("no tag", "/none/ten\nIf-Range: \"6553f100-a\"\nRange: bytes=0-1", 200, ""),
            ("no time", "/none/ten\nIf-Range: Tue, 14 Nov 2023 22:13:20 GMT\nRange: bytes=0-1", 200, ""),
        ],
    );
    assert_eq!(
        names(&ask(&gate, "/own/ten", 200)),
        "Content-Type Content-Length Connection ETag Last-Modified Accept-Ranges"
    );
}

#[test]
fn several_ranges() {
    let gate = Gate::start(
        "server {
            listen LISTEN;
            root www;
            location /two/ { alias www/; max_ranges 2; }
            location /none/ { alias www/; max_ranges 0; }
        }",
    );
    put(&gate.folder, "www/ten", "0123456789");
    let large: Vec<u8> = (0..400_000_u32).map(|n| (n % 251) as u8).collect();
    put(&gate.folder, "www/large", &large);
    ask_rows(
        &gate,
        &[
            ("two", "/two/ten\nRange: bytes=0-1,3-4", 206, "Content-Length: 198 | !Content-Range | !Accept-Ranges"),
            ("more than may be", "/two/ten\nRange: bytes=0-1,3-4,6-7", 200, "Accept-Ranges: bytes | =0123456789"),
            ("those that are not there do not count", "/two/ten\nRange: bytes=0-1,3-4,10-11", 206, ""),
            ("none may be", "/none/ten\nRange: bytes=0-1", 200, "!Accept-Ranges | =0123456789"),
            ("HEAD", "HEAD /ten\nRange: bytes=0-1,3-4", 206, "Content-Length: 198"),
        ],
    );
    let reply = ask(&gate, "/large\nRange: bytes=-2, 0-299999, 1-1", 206);
    let boundary = reply.field("Content-Type").unwrap().strip_prefix("multipart/byteranges; boundary=").unwrap();
    let mut expected = Vec::new();
    for (range, bytes) in [("399998-399999", &large[399_998..]), ("0-299999", &large[..300_000]), ("1-1", &large[1..2])]
    {
        let head =
            format!("\r\n--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes {range}/400000\r\n\r\n");
        expected.extend_from_slice(head.as_bytes());
        expected.extend_from_slice(bytes);
    }
    expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    same("the client", &reply.body, &expected).unwrap();
    gate.wait_for_access(&["GET /large", &format!(" 206 {} ", expected.len())]).unwrap();
    let many = format!("/large\nRange: bytes={}0-0", "0-0,".repeat(1500));
    assert_eq!(ask(&gate, &many, 200).body.len(), 400_000, "an abuse gets all of the file, once");
}
