//! The rewrite module: `return`, `if`, `rewrite`, `set`, `break`.

use crate::cases::{check, check_equal, run_cases};
use crate::client::{Client, show};
use crate::harness::{Proxy, TempDir, run};
use crate::peer::Peer;
use crate::response_rows::{format_request, run_response_rows};
use crate::static_files::{fill, put};

const RETURNS: &str = "server {
    listen LISTEN;
    location = /page { return 404; }
    location = /nothing { return 204; }
    location = /empty { return 200; }
    location = /no-text { return 400 \"\"; }
    location = /text { return 200 \"hi $arg_name\\n\"; }
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
                "/text?name=you",
                200,
                "Content-Type: text/plain | Content-Length: 7 | =hi you\n",
            ),
            ("a text of HEAD", "HEAD /text?name=you", 200, "Content-Length: 7"),
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
            ("line ends are encoded", "/encoded%0d%0aX:1", 302, "Location: http://a:PORT/encoded%0D%0AX:1 | !X"),
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

/// A condition, the value of the header `X`, and whether the condition holds.
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
        let header = if x.is_empty() { String::new() } else { format!("X: {x}\r\n") };
        let asked = format!("GET /if HTTP/1.1\r\nHost: s{number}.test\r\n{header}\r\n");
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

const REWRITES: &str = "server {
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
    location /named { rewrite ^/named/(?<name>[a-z]+)/(?'what'.*)$ /to/$what/$name last; }
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
    let proxy = Proxy::start(REWRITES);
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
            ("a captured value is one argument", "/value/a%26b?q=1", 200, "=/to|u=a%26b&q=1"),
            ("spaces in a captured value are encoded", "/value/a%20b", 200, "=/to|u=a%20b"),
            ("named groups", "/named/bob/x/y", 200, "=/to/x/y/bob|"),
            ("without a flag", "/none/x?q", 200, "=/to/x|q"),
            ("no match", "/other/x", 200, "=other /other/x"),
            ("break", "/break/index.html?q", 200, "=index"),
            ("redirect", "/found/a%20b?q=1", 302, "Location: http://a:PORT/n/a%20b?q=1"),
            ("permanent", "/moved/a", 301, "Location: http://a:PORT/n/a"),
            ("permanent, arguments are dropped", "/moved-drop/a?q=1", 301, "Location: http://a:PORT/n/a"),
            ("permanent, they are replaced", "/moved-replace/a?q=1", 301, "Location: https://x.test/a?k=1"),
            ("redirect with an argument", "/moved-value/a%26b%20c", 302, "Location: http://a:PORT/n?u=a%26b%20c"),
            ("line ends are encoded", "/moved/a%E2%80%A8", 301, "Location: http://a:PORT/n/a%E2%80%A8"),
            ("a URL", "/away/a?q=1", 302, "Location: https://x.test/a?q=1"),
            ("a scheme", "/scheme/a", 302, "Location: http://x.test/n/a"),
            ("a cycle", "/loop/a", 500, ""),
            ("to nothing", "/empty", 500, ""),
        ],
    );
    proxy.wait_for_error_line(&["rewrite or internal redirection cycle"]).unwrap();
}

#[test]
fn rewrite_directives() {
    let proxy = Proxy::start(REWRITES);
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

/// Redirects as written by Certbot.
#[test]
fn redirects_by_server_name() {
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

/// The request line for an upstream after rewrites.
#[test]
fn rewrites_before_an_upstream() {
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
    // nginx forwards the line end; here the outcome does not matter, but no line end is forwarded.
    let _ = Client::connect_and_send(proxy.addr, format_request("/raw/a%0D%0AX:1").as_bytes()).read_response();
    assert!(!String::from_utf8_lossy(&peer.received()).contains("\r\nX:1"), "{}", show(&peer.received()));
    run_cases(rows.map(|(target, peer, line)| (target, move || gets(target, peer, line))));
}
