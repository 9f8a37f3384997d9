//! Variables that depend on the client: `geo`, `split_clients`, `valid_referers`, and the order of expressions in `map`.

use std::collections::BTreeMap;

use crate::cases::{case, check, run_cases, run_concurrently};
use crate::harness::{Proxy, TempDir, run};
use crate::response_rows::{run_response_row, run_response_rows};

const GEO: &str = r#"
geo $net { default none; 127.0.0.0/8 loop; 127.0.0.1 me; 127.0.0.1/32 myself; }
geo $arg_ip $by_arg { 10.0.0.0/8 ten; 10.1.0.0/16 "ten one"; 0.0.0.0/0 world; ::/0 six; 2001:db8::/32 doc;
    10.2.0.0/16 gone; delete 10.2.0.0/16; 255.255.255.255 nowhere; include more.geo; }
geo $arg_ip $ranges { ranges; default none; 10.0.0.0-10.0.0.255 wide; 10.0.0.10-10.0.0.19 narrow;
    10.0.0.12-10.0.0.12 one; 10.0.1.0-10.0.1.9 next; delete 10.0.1.0-10.0.1.9; }
geo $behind { proxy 127.0.0.0/8; 127.0.0.0/8 loop; 192.0.2.0/24 doc; default none; }
geo $far_behind { proxy_recursive; proxy 127.0.0.0/8; proxy 10.0.0.0/8; 127.0.0.0/8 loop; 192.0.2.0/24 doc; default none; }
geo $nothing { 10.0.0.0/8 x; }
map $by_arg $mapped { doc "a document"; default $by_arg; }
server { listen LISTEN; return 200 "$net|$by_arg|$ranges|$behind|$far_behind|$nothing|$mapped"; }"#;

#[test]
fn geo() {
    let dir = TempDir::new();
    dir.write("more.geo", "172.16.0.0/12 included;\n");
    let included = dir.path("more.geo").display().to_string();
    let proxy = Proxy::start(&GEO.replace("more.geo", &included));
    let from = |list: &str| format!("/\nX-Forwarded-For: {list}");
    run_response_rows(
        &proxy,
        &[
            ("none", "/", 200, "=myself|nowhere|none|loop|loop||nowhere"),
            ("the smallest network", "/?ip=10.1.2.3", 200, "=myself|ten one|none|loop|loop||ten one"),
            ("a network", "/?ip=10.3.2.3", 200, "=myself|ten|none|loop|loop||ten"),
            ("a deleted network", "/?ip=10.2.0.1", 200, "=myself|ten|none|loop|loop||ten"),
            ("a network of an included file", "/?ip=172.31.0.1", 200, "=myself|included|none|loop|loop||included"),
            ("all others", "/?ip=11.2.0.1", 200, "=myself|world|none|loop|loop||world"),
            ("IPv6", "/?ip=2001:db8::1", 200, "=myself|doc|none|loop|loop||a document"),
            ("other IPv6", "/?ip=2001:db9::1", 200, "=myself|six|none|loop|loop||six"),
            ("IPv4 as IPv6", "/?ip=::ffff:10.1.0.1", 200, "=myself|ten one|none|loop|loop||ten one"),
            ("a wide range", "/?ip=10.0.0.9", 200, "=myself|ten|wide|loop|loop||ten"),
            ("a narrow range", "/?ip=10.0.0.19", 200, "=myself|ten|narrow|loop|loop||ten"),
            ("one address", "/?ip=10.0.0.12", 200, "=myself|ten|one|loop|loop||ten"),
            ("a deleted range", "/?ip=10.0.1.5", 200, "=myself|ten|none|loop|loop||ten"),
            ("no address", "/?ip=10.0.0.256", 200, "=myself|nowhere|none|loop|loop||nowhere"),
            ("a proxy", &from("192.0.2.1"), 200, "=myself|nowhere|none|doc|doc||nowhere"),
            ("two proxies", &from("192.0.2.1, 10.0.0.1"), 200, "=myself|nowhere|none|none|doc||nowhere"),
            ("a proxy without an address", &from("x"), 200, "=myself|nowhere|none|loop|loop||nowhere"),
        ],
    );
}

const EXPRESSIONS: &str = r#"
map $arg_x $entry { default none; "~*\bsecond(?<rest>.*)$" "2 $rest"; ~*first 1; "~^(.)(.)$" "two $2$1"; exact text; ~exac wrong;
    "~(third|3rd)-(\d+)" "3 $1 $2"; ~*(second|first) never; ~third fourth; "" empty; }
server { listen LISTEN; location / { return 200 "$entry"; }
    location ~ \.php$ { return 200 php; } location ~ ^/(a|b)/ { return 200 "a $1"; } location ~* \.(gif|jpe?g)$ { return 200 "image $1"; }
    location ~ ^/x/(?<name>.+)$ { return 200 "x $name"; } location ~ /download/ { return 200 late; } location = /is.php { return 200 is; } }"#;

/// With more expressions than are tried one by one, the first match counts, with its captures.
#[test]
fn expressions_keep_their_order() {
    let proxy = Proxy::start(EXPRESSIONS);
    run_response_rows(
        &proxy,
        &[
            ("no literal", "/?x=nothing", 200, "=none"),
            ("the second literal", "/?x=the-FIRST", 200, "=1"),
            ("both", "/?x=first-Second-and", 200, "=2 -and"),
            ("a literal, but no match", "/?x=xsecond", 200, "=never"),
            ("an expression without literals", "/?x=ab", 200, "=two ba"),
            ("text", "/?x=exact", 200, "=text"),
            ("not quite the text", "/?x=exac", 200, "=wrong"),
            ("an alternative", "/?x=some-3rd-42", 200, "=3 3rd 42"),
            ("a literal of two", "/?x=third-x", 200, "=fourth"),
            ("nothing", "/", 200, "=empty"),
            ("a location", "/a.php", 200, "=php"),
            ("the first of two", "/a/x.php", 200, "=php"),
            ("the second of two", "/b/x.jpeg", 200, "=a b"),
            ("in any case", "/x/y.JPG", 200, "=image JPG"),
            ("a name", "/x/download/php", 200, "=x download/php"),
            ("the last", "/y/download/", 200, "=late"),
            ("an exact one", "/is.php", 200, "=is"),
        ],
    );
}

/// The shares, and the texts 1 to 1000 in them, are those of nginx 1.22.
#[test]
fn split_clients() {
    let proxy = Proxy::start(
        r#"split_clients "$arg_x" $part { 51.2% one; 10% two; 0.5% three; }
           split_clients $arg_x $all { 30% a; * b; }
           server { listen LISTEN; return 200 "$part $all"; }"#,
    );
    let mut client = crate::client::Client::connect(proxy.addr);
    let mut shares: BTreeMap<String, u32> = BTreeMap::new();
    for x in 1..=1000 {
        let request = format!("GET /?x={x} HTTP/1.1\r\nHost: a\r\n\r\n");
        let response = client.request(request.as_bytes(), 200).unwrap();
        *shares.entry(String::from_utf8(response.body).unwrap()).or_default() += 1;
    }
    let shares: Vec<(&str, u32)> = shares.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    assert_eq!(shares, SHARES);
}

const SHARES: [(&str, u32); 5] = [(" b", 349), ("one a", 332), ("one b", 214), ("three b", 7), ("two b", 98)];

#[test]
fn referers() {
    let proxy = Proxy::start(
        r#"server { listen LISTEN; server_name www.own.test *.own.example ~^re\d$ ""; return 200 "$invalid_referer";
            valid_referers none example.com; }
           server { listen OTHER; server_name b; return 404; }"#
            .replace("return 200 \"$invalid_referer\";", LOCATIONS)
            .as_str(),
    );
    let rows: &[(&str, &str, bool)] = &[
        ("/", "http://example.com", true),
        ("/", "https://EXAMPLE.com/x?y", true),
        ("/", "http://example.com:8080/x", true),
        ("/", "http://example.com.evil.test/", false),
        ("/", "http://evil.test/example.com", false),
        ("/", "ftp://example.com/", false),
        ("/", "example.com/", false),
        ("/", "", false),
        ("/blocked", "example.com", true),
        ("/blocked", "", true),
        ("/blocked", "http://a.b", true), // too short to be compared
        ("/blocked", "http://evil.test/", false),
        ("/path", "http://example.com/in", true),
        ("/path", "http://example.com/inner", true),
        ("/path", "http://example.com/out", false),
        ("/path", "http://example.com", false),
        ("/wild", "http://a.example.com/", true),
        ("/wild", "http://example.com/", false),
        ("/wild", "http://example.net/", true),
        ("/wild", "http://dot.test/", true),
        ("/wild", "http://a.dot.test/", true),
        ("/wild", "http://nodot.test/", false),
        ("/regex", "http://xEXAMPLEx/y", true),
        ("/regex", "http://x/Y", false),
        ("/regex", "http://host/path7", true),
        ("/names", "http://www.own.test/", true),
        ("/names", "http://a.own.example/", true),
        ("/names", "http://RE7/xxxxx", true),
        ("/names", "http:///xxxxxx", false),
        ("/names", "http://re77/xxxxx", false),
        ("/two", "http://one.test/", true),
        ("/two", "http://two.test/", true),
        ("/two", "http://example.com/", false),
        ("/all", "anything", true),
    ];
    let expected = |valid: bool| if valid { "=" } else { "=1" };
    run_cases(rows.iter().map(|(path, referer, valid)| {
        let proxy = &proxy;
        (*referer, move || {
            run_response_row(proxy, &(referer, &format!("{path}\nReferer: {referer}"), 200, expected(*valid)))
        })
    }));
    run_response_rows(
        &proxy,
        &[
            ("no referer", "/", 200, "="),
            ("no referer, not allowed", "/path", 200, "=1"),
            ("no referer, all allowed", "/all", 200, "="),
            ("refused", "/if\nReferer: http://evil.test/", 403, ""),
            ("allowed", "/if\nReferer: http://example.com/", 200, "=in"),
            ("a long host", &format!("/any\nReferer: http://{}", "a".repeat(257)), 200, "=1"),
            ("a host that is long enough", &format!("/any\nReferer: http://{}", "a".repeat(256)), 200, "="),
        ],
    );
}

const LOCATIONS: &str = r#"
    location / { return 200 "$invalid_referer"; }
    location /blocked { valid_referers blocked; return 200 "$invalid_referer"; }
    location /path { valid_referers example.com/in; return 200 "$invalid_referer"; }
    location /wild { valid_referers *.example.com example.* .dot.test example.com/none; return 200 "$invalid_referer"; }
    location /regex { valid_referers ~example ~path\d$; return 200 "$invalid_referer"; }
    location /names { valid_referers server_names; return 200 "$invalid_referer"; }
    location /two { valid_referers one.test; valid_referers two.test; return 200 "$invalid_referer"; }
    location /if { if ($invalid_referer) { return 403; } return 200 in; }
    location /any { valid_referers ~.; return 200 "$invalid_referer"; }
    location /all { valid_referers none blocked ~.; return 200 "$invalid_referer"; }"#;

/// Each is rejected with its line and column, and a message.
#[test]
fn invalid_values() {
    let cases = [
        ("geo $x { 10.0.0.0/33 a; }", "smolgate.conf:1:10: invalid network"),
        ("geo $x { 10.0.0.1; }", "smolgate.conf:1:10: invalid number of the geo parameters"),
        ("geo $x { ranges; 10.0.0.0/8 a; }", "smolgate.conf:1:18: invalid network"),
        ("geo $x { ranges; 10.0.0.1-10.0.0.5 a; 10.0.0.5-10.0.0.6 b; }", "overlaps"),
        ("geo $x { 10.0.0.0/8 a; ranges; }", "smolgate.conf:1:24: \"ranges\" must be the first"),
        ("geo $x { proxy a; }", "smolgate.conf:1:16: invalid value \"a\""),
        ("geo x { default a; }", "smolgate.conf:1:5: invalid variable name"),
        ("geo $uri { default a; }", "smolgate.conf:1:5: the duplicate \"uri\" variable"),
        ("split_clients $uri $x { 50% a; 50.01% b; }", "smolgate.conf:1:32: percent total"),
        ("split_clients $uri $x { 0% a; }", "smolgate.conf:1:25: invalid percent value \"0%\""),
        ("split_clients $uri $x { 5 a; }", "smolgate.conf:1:25: invalid percent value \"5\""),
        ("split_clients $uri $x { 5% a b; }", "smolgate.conf:1:25: invalid number"),
        ("server { valid_referers a.*.b; }", "smolgate.conf:1:25: invalid host"),
        ("server { valid_referers ~(; }", "smolgate.conf:1:25: "),
        ("server { allow 10.0.0.0/33; }", "smolgate.conf:1:16: invalid value"),
        ("server { deny someone; }", "smolgate.conf:1:15: invalid value"),
        ("server { satisfy some; }", "smolgate.conf:1:18: invalid value"),
        ("server { auth_basic x; }", "smolgate.conf:1:1: \"auth_basic\" is set without"),
        ("server { auth_request on; }", "smolgate.conf:1:23: invalid value"),
        ("server { auth_request_set $uri x; }", "smolgate.conf:1:27: the duplicate \"uri\" variable"),
        ("server { location / { limit_except FETCH { deny all; } } }", "smolgate.conf:1:36: invalid value"),
        ("server { location / { limit_except GET { root x; } } }", "\"root\" directive is not allowed here"),
        (
            "server { location / { limit_except GET { proxy_pass http://a/b; } } }",
            "smolgate.conf:1:53: \"proxy_pass\" cannot have URI part",
        ),
    ];
    run_concurrently(
        cases
            .into_iter()
            .map(|(text, part)| {
                case(text, move || {
                    let dir = TempDir::new();
                    dir.write("smolgate.conf", text);
                    let output = run(&dir, &["-t"], "smolgate.conf");
                    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
                    check(output.status.code() == Some(2) && stderr.contains(part), || format!("{part}: {stderr}"))
                })
            })
            .collect(),
    );
}
