//! Variables of the configuration: map, geo, split_clients.

use crate::pair::Pair;
use crate::rows::compare;

const MAP: &str = r#"
map $arg_a $exact { default other; one 1; two "2 2"; "a b" blank; \default escaped; '' empty; }
map $arg_a $no_default { one 1; }
map $arg_a $any_case { OnE 1; default 0; }
map $arg_a $expression { default no; ~^x(.)(.*)$ "$2-$1"; ~*^y(?<rest>.*)$ "rest=$rest"; ~z last; "~^\{b\}$" braces; xyz exact; }
map $arg_a $with_value { default $arg_b; one $arg_c; two "$arg_b and $arg_c"; }
map $host $names { hostnames; default none; example.org exact; *.example.org wild; .example.net both; example.* trailing; www.example.com "www"; *.com com; }
map "$arg_a:$arg_b" $two { default 0; "1:2" 12; "~^(\d+):(\d+)$" "$1+$2"; }
map $exact $again { default $no_default; 1 one; other other; }
map $arg_a $fast { volatile; default 0; one 1; }
map $uri $once { default no; ~^/again(.*)$ "first$1"; /second second; }
map $uri $each { volatile; default no; ~^/again(.*)$ "first$1"; /second second; }
server {
    listen LISTEN;
    location / { return 200 "exact=$exact no_default=$no_default any=$any_case again=$again fast=$fast\n"; }
    location /expression { return 200 "$expression [$1]\n"; }
    location /value { return 200 "$with_value\n"; }
    location /two { return 200 "$two\n"; }
    location /host { return 200 "$names\n"; }
    location /if { if ($no_default) { return 200 "yes\n"; } return 200 "no\n"; }
    location /again { set $x $once; set $x $each; rewrite ^ /second last; }
    location /second { add_header X-Map $once; return 200 "$once $each [$1] $arg_:$arg_b\n"; }
    location /header { add_header X-Map $no_default; return 200 "x"; }
}
"#;

#[test]
fn map() {
    let Some(pair) = Pair::start(MAP, |_| ()) else { return };
    let mut rows = Vec::new();
    for path in ["/", "/expression", "/value", "/if", "/header"] {
        for value in [
            "", "one", "ONE", "two", "a b", "a%20b", "default", "xab", "x", "Yes", "zz", "XYZ", "xyz", "{b}", "none",
            "1",
        ] {
            rows.push(format!("{path}?a={}&b=B&c=C", value.replace(' ', "%20")));
        }
    }
    for host in [
        "example.org",
        "EXAMPLE.org",
        "a.example.org",
        "a.b.example.org",
        "example.net",
        "x.example.net",
        "example.info",
        "www.example.com",
        "other.com",
        "com",
        "example",
        "127.0.0.1",
        "example.org.",
    ] {
        rows.push(format!("/host\nHost: {host}"));
    }
    for (a, b) in [("1", "2"), ("3", "4"), ("x", "y"), ("", "")] {
        rows.push(format!("/two?a={a}&b={b}"));
    }
    rows.extend(["/", "/again", "/again/x?b=1", "/second?b=2&=3"].map(str::to_owned));
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    compare(&pair, &rows, &[]);
}

const GEO: &str = r#"
geo $arg_ip $net { default none; 127.0.0.1 self; 10.0.0.0/8 ten; 10.1.0.0/16 ten-one; 10.1.2.0/24 ten-one-two; 192.0.2.1 one; 2001:db8::/32 six; 2001:db8:1::/48 six-one; }
geo $remote_net { default none; 127.0.0.0/8 loop; }
geo $arg_ip $range { ranges; default none; 10.0.0.0-10.0.0.255 first; 10.0.1.5-10.0.1.5 single; 192.168.0.0-192.168.255.255 private; }
geo $arg_ip $deleted { default none; 10.0.0.0/8 ten; 10.1.0.0/16 out; delete 10.1.0.0/16; }
geo $arg_ip $proxied { default none; proxy 127.0.0.1; 10.0.0.0/8 ten; 192.0.2.0/24 test; }
geo $no_default { 10.0.0.0/8 ten; }
geo $arg_ip $all { 0.0.0.0/0 four; ::/0 six; 255.255.255.255 broadcast; }
geo $arg_ip $host_bits { default none; 10.1.2.3/8 ten; }
server {
    listen LISTEN;
    location / { return 200 "net=$net remote=$remote_net range=$range deleted=$deleted none=[$no_default] all=$all bits=$host_bits\n"; }
}
"#;

#[test]
fn geo() {
    let Some(pair) = Pair::start(GEO, |_| ()) else { return };
    let mut rows = vec!["/".to_owned()];
    for address in [
        "127.0.0.1",
        "10.0.0.1",
        "10.1.0.1",
        "10.1.2.3",
        "10.1.3.0",
        "11.0.0.0",
        "9.255.255.255",
        "10.0.0.255",
        "10.0.1.0",
        "10.0.1.5",
        "10.0.1.6",
        "192.0.2.1",
        "192.0.2.2",
        "192.168.3.4",
        "255.255.255.255",
        "0.0.0.0",
        "2001:db8::1",
        "2001:db8:1::1",
        "2001:db9::1",
        "::1",
        "::ffff:10.0.0.1",
        "nonsense",
        "10.0.0",
        "",
    ] {
        rows.push(format!("/?ip={address}"));
    }
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    compare(&pair, &rows, &[]);
}

const SPLIT: &str = r#"
split_clients $arg_a $half { 50% one; * two; }
split_clients "${arg_a}salt" $three { 0.5% rare; 33.33% third; 20% fifth; * ""; }
split_clients $arg_a $whole { 100% all; }
split_clients $arg_a $part { 10% ten; }
split_clients $arg_a $variable { 50% "$arg_b"; * none; }
server {
    listen LISTEN;
    location / { return 200 "half=$half three=$three whole=$whole part=$part variable=$variable\n"; }
}
"#;

#[test]
fn split_clients() {
    let Some(pair) = Pair::start(SPLIT, |_| ()) else { return };
    let rows: Vec<String> =
        (0..60).map(|number| format!("/?a={number}&b=B")).chain(["/".to_owned(), "/?a=%C3%A9".to_owned()]).collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    compare(&pair, &rows, &[]);
}

const EVALUATED_ONCE: &str = r#"
geo $address $net { default none; 10.0.0.0/8 ten; 192.0.2.0/24 doc; }
split_clients $address $part { 50% one; * two; }
map $address $entry { default none; 10.0.0.1 ten; 192.0.2.1 doc; }
map $address $each { volatile; default none; 10.0.0.1 ten; 192.0.2.1 doc; }
server {
    listen LISTEN;
    set $address 10.0.0.1;
    location / {
        set $first "$net $part $entry $each";
        set $address 192.0.2.1;
        return 200 "$first, $net $part $entry $each\n";
    }
    location /late { set $address 192.0.2.1; return 200 "$net $part $entry $each\n"; }
    location /inner { set $first $net; set $address 192.0.2.1; rewrite ^ /again last; }
    location /again { return 200 "$first $net\n"; }
}
"#;

#[test]
fn a_geo_and_a_split_are_evaluated_once_per_request() {
    let Some(pair) = Pair::start(EVALUATED_ONCE, |_| ()) else { return };
    compare(&pair, &["/", "/late", "/inner"], &[]);
}

const DEFINED_TWICE: &str = r#"
map $arg_a $value { default first; x "first x"; y $other; }
geo $arg_ip $other { default none; 10.0.0.0/8 ten; }
split_clients $arg_a $other { * split; }
map $arg_a $third { default third; }
map $arg_b $value { default second; x "second x"; z $other; }
geo $arg_ip $place { default nowhere; default somewhere; 10.0.0.0/8 ten; 10.0.0.0/8 "still ten"; }
server {
    listen LISTEN;
    valid_referers server_names;
    proxy_next_upstream off;
    proxy_next_upstream error http_404;
    keepalive_disable none;
    keepalive_disable msie6;
    location / { return 200 "$value $other $third $place\n"; }
}
"#;

#[test]
fn the_last_definition_of_a_variable_counts() {
    let Some(pair) = Pair::start(DEFINED_TWICE, |_| ()) else { return };
    let rows = ["/", "/?a=x", "/?b=x", "/?a=y&b=z&ip=10.0.0.1", "/?a=x&b=y"];
    compare(&pair, &rows, &[]);
}
