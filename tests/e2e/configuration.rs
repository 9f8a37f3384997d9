//! Configurations that must not load, and their error messages.

use std::fs::{self, File};
use std::process::Command;

use crate::cases::{case, check, run_concurrently};
use crate::client::Client;
use crate::harness::{Proxy, TempDir, run, run_in_shell};
use crate::peer::Peer;

/// Checks that `-t` rejects the file within seconds of processor time, with a message that has all of `parts`.
fn refuses(dir: &TempDir, file: &str, parts: &[&str]) -> Result<(), String> {
    let output = run_in_shell(dir, "ulimit -t 10; exec \"$0\" \"$@\" -t", file);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    check(output.status.code() == Some(2), || format!("{:?}: {stderr}", output.status))?;
    check(parts.iter().all(|part| stderr.contains(part)), || format!("{parts:?} expected in: {stderr}"))?;
    check(stderr.len() < 4000, || format!("a message of {} bytes", stderr.len()))
}

pub(crate) fn refuses_text(text: impl AsRef<[u8]>, parts: &[&str]) -> Result<(), String> {
    let dir = TempDir::new();
    dir.write("smolgate.conf", text);
    refuses(&dir, "smolgate.conf", parts)
}

pub(crate) fn accepts_text(text: impl AsRef<[u8]>) -> Result<(), String> {
    let dir = TempDir::new();
    dir.write("smolgate.conf", text);
    accepts(&dir)
}

fn accepts(dir: &TempDir) -> Result<(), String> {
    let output = run(dir, &["-t"], "smolgate.conf");
    check(output.status.success(), || String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Puts directives into a server.
fn server(text: &str) -> String {
    format!("server {{\nlisten 8080;\n{text}\n}}\n")
}

#[test]
fn bombs() {
    let cases = vec![
        case("cycle", || {
            let dir = TempDir::new();
            dir.write("self.conf", "\ninclude self.conf;\n");
            refuses(&dir, "self.conf", &["self.conf:2:9: include depth > 16"])
        }),
        case("depth", || {
            let dir = TempDir::new();
            (0..1000).for_each(|n| dir.write(&format!("{n}.conf"), format!("include {}.conf;\n", n + 1)));
            dir.write("1000.conf", server("return 204;"));
            refuses(&dir, "0.conf", &["conf:1:9: include depth > 16"])
        }),
        case("blocks", || refuses_text("server {".repeat(100_000), &["smolgate.conf:1:", "blocks nested more than"])),
        case("files", || {
            let dir = TempDir::new();
            fs::create_dir(dir.path("many")).unwrap();
            (0..1100).for_each(|n| dir.write(&format!("many/{n}.conf"), ""));
            dir.write("smolgate.conf", format!("{}include many/*.conf;\n", server("return 204;")));
            refuses(&dir, "smolgate.conf", &["smolgate.conf:5:9: ", "1024"])
        }),
        case("few files, included often", || {
            let dir = TempDir::new();
            dir.write("headers", "add_header X-A a;\n");
            let locations: String = (0..3000).map(|n| format!("location /{n} {{ include headers; }}\n")).collect();
            dir.write("smolgate.conf", server(&locations));
            accepts(&dir)?;
            // Each includes the next twice.
            (0..15)
                .for_each(|n| dir.write(&format!("{n}.conf"), format!("include {0}.conf; include {0}.conf;", n + 1)));
            dir.write("15.conf", "");
            refuses(&dir, "0.conf", &["conf:1:", "exceeds the limit of 16384 includes"])
        }),
        case("a big file", || {
            let dir = TempDir::new();
            File::create(dir.path("big.conf")).unwrap().set_len(1 << 30).unwrap();
            dir.write("smolgate.conf", "include big.conf;");
            refuses(&dir, "smolgate.conf", &["smolgate.conf:1:9: ", "big.conf", "too big"])?;
            refuses(&dir, "big.conf", &["big.conf", "too big"])
        }),
        case("all files", || {
            let dir = TempDir::new();
            (0..9).for_each(|n| dir.write(&format!("{n}.inc"), "#".repeat(1_000_000)));
            dir.write("smolgate.conf", "include *.inc;");
            refuses(&dir, "smolgate.conf", &["smolgate.conf:1:9: ", "too big"])
        }),
        case("many entries", || {
            let dir = TempDir::new();
            let entries = |file: usize| (0..30_000).map(|n| format!("k{} v;\n", file * 30_000 + n)).collect::<String>();
            (0..4).for_each(|file| dir.write(&format!("{file}.map"), entries(file)));
            dir.write("smolgate.conf", "map $uri $x { include *.map; }");
            refuses(&dir, "smolgate.conf", &["smolgate.conf:1:1: ", "entries"])
        }),
        case("duplicates", || {
            refuses_text("map $uri $x { a 1;\n a 2; }", &["smolgate.conf:2:2: conflicting parameter \"a\""])
        }),
        case("itself", || refuses_text("map $x $x { default 1; }", &["cycle", "\"x\""])),
        case("cycle", || refuses_text("map $y $x { default 1; }\nmap $x $y { default 1; }", &["cycle", "\"x\""])),
        case("in the values", || {
            refuses_text("map $uri $x { default $y; }\nmap $uri $y { default $x; }", &["cycle", "\"x\""])
        }),
    ];
    run_concurrently(cases);
}

/// What may be said only once names the second place and the first, also if both come from includes.
#[test]
fn duplicates() {
    let rows: [(&str, &str, &str); 11] = [
        ("http { server { include one; include two; } }", "location / { }", "two:1:10: duplicate location \"/\""),
        ("http { server { include one; include two; } }", "location ^~ / { }", "two:1:13: duplicate location \"/\""),
        ("http { server { include one; include two; } }", "location = /a { }", "two:1:12: duplicate location \"/a\""),
        ("http { server { include one; include two; } }", "location @a { }", "two:1:10: duplicate location \"@a\""),
        ("http { server { include one; include two; } }", "gzip on;", "two:1:1: \"gzip\" directive is duplicate"),
        ("http { server { include one; include two; } }", "listen 8080;", "two:1:8: a duplicate listen 8080"),
        ("http { include one; include two; }", "upstream u { server a; }", "two:1:10: duplicate upstream \"u\""),
        ("http { include one; include two; }", "log_format f x;", "two:1:12: duplicate log_format \"f\""),
        ("http { include one; include two; }", "limit_conn_zone $uri zone=z:1m;", "two:1:22: duplicate zone \"z\""),
        (
            "http { include one; include two; }",
            "server { listen 8080 default_server; }",
            "two:1:17: a duplicate default server for 0.0.0.0:8080",
        ),
        (
            "http { include one; include two; }",
            "server { listen 8080 backlog=9; }",
            "two:1:17: duplicate listen options for 0.0.0.0:8080",
        ),
    ];
    let cases = rows.into_iter().map(|(outer, line, message)| {
        case(line, move || {
            let dir = TempDir::new();
            dir.write("smolgate.conf", format!("events {{ }}\n{outer}"));
            dir.write("one", line);
            dir.write("two", line);
            refuses(&dir, "smolgate.conf", &[message, "first at ", "one:1\n"])
        })
    });
    run_concurrently(cases.collect());
}

/// `-t` lists what does something else than it says before what is ignored.
#[test]
fn notes() {
    let dir = TempDir::new();
    dir.write(
        "smolgate.conf",
        "sendfile on; proxy_cache off; proxy_cache_lock on; http2 off;
        map $http_upgrade $upgrade { default upgrade; '' close; }
        map $http_upgrade $upgrade { default upgrade; '' close; }
        map $uri $hsts { default a; }
        map $uri $hsts { default b; }
        log_format unused x;
        server { listen 8080; server_name a b; }
        server { listen 8080; server_name B; }
        server { listen 8080; listen 8081; }
        server { listen 8081; }",
    );
    let output = run(&dir, &["-t"], "smolgate.conf");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let notes: Vec<&str> = stderr
        .lines()
        .filter_map(|line| line.split_once("smolgate.conf:")?.1.split_once(" note: "))
        .map(|(_, n)| n)
        .collect();
    let expected = [
        "\"map $hsts\": replaces an earlier definition of the variable, which is different",
        "\"server_name \"B\"\": an earlier server of 0.0.0.0:8080 has this name, and gets its requests",
        "\"server_name \"\"\": an earlier server of 0.0.0.0:8081 has this name, and gets its requests",
        "\"proxy_cache_lock\": there is no cache: every request goes to the upstream",
        "\"sendfile\": always on",
    ];
    assert_eq!(notes, expected, "{stderr}");
    for (number, line) in [(5, 0), (8, 1), (10, 2), (1, 3), (1, 4)] {
        let place = format!("smolgate.conf:{number}: note: {}", expected[line]);
        assert!(stderr.contains(&place), "{place} is not in {stderr}");
    }
}

/// One run shows all mistakes of a file, each with its place, up to 20.
#[test]
fn several_mistakes() {
    let dir = TempDir::new();
    dir.write("more.conf", "proxy_redirect on on on;");
    let text = "http {
    server {
        lisen 80;
        listen 99999;
        location / {
            include more.conf;
            proxy_pass htp://x;
            expires never;
        }
        location /b { include more.conf; }
        root;
    }
    server { listen 8080; root /a; root /b; location /a { return 204; } location /a { } }
    upstream u { server 127.0.0.1:1 wieght=2; }
}
";
    dir.write("smolgate.conf", text);
    let output = run(&dir, &["-t"], "smolgate.conf");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    let directory = format!("{}/", dir.path("").display().to_string().trim_end_matches('/'));
    let places = |stderr: &str| -> Vec<String> {
        let lines = stderr.lines().map(|line| line.strip_prefix("smolgate: ").unwrap_or(line));
        let places = lines.filter_map(|line| line.strip_prefix(&directory));
        places.map(|place| place.split(": ").next().unwrap().to_owned()).collect()
    };
    let expected = [
        "smolgate.conf:3:9",
        "smolgate.conf:4:16",
        "smolgate.conf:7:24",
        "smolgate.conf:8:21",
        "smolgate.conf:11:9",
        "smolgate.conf:13:36",
        "smolgate.conf:13:82",
        "smolgate.conf:14:37",
        "more.conf:1:1",
    ];
    assert_eq!(places(&stderr), expected, "{stderr}");
    dir.write("smolgate.conf", "lisen 80;\n".repeat(30));
    let output = run(&dir, &["-t"], "smolgate.conf");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(places(&stderr).len(), 20, "{stderr}");
}

/// A file that is included twice has one note; of many equal notes the first are printed.
#[test]
fn repeated_notes() {
    let dir = TempDir::new();
    dir.write("more.conf", "sendfile on;");
    let servers: String =
        (1..=5).map(|port| format!("server {{ listen {port}; include more.conf;\n aio on; }}")).collect();
    dir.write("smolgate.conf", servers);
    let output = run(&dir, &["-t"], "smolgate.conf");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let notes: Vec<&str> =
        stderr.lines().filter_map(|line| line.strip_prefix("smolgate: ")?.rsplit_once('/')).map(|(_, n)| n).collect();
    assert_eq!(
        notes[..4],
        [
            "smolgate.conf:2: note: \"aio\": files are read by the workers themselves",
            "smolgate.conf:3: note: \"aio\": files are read by the workers themselves",
            "smolgate.conf:4: note: \"aio\": files are read by the workers themselves (and 2 more)",
            "more.conf:1: note: \"sendfile\": always on",
        ],
        "{stderr}"
    );
    assert_eq!(stderr.matches(" note: ").count(), 4, "{stderr}");
}

#[test]
fn encodings_and_syntax() {
    let cases = vec![
        case("NUL", || refuses_text(b"server {\n listen 8080;\0 }", &["smolgate.conf"])),
        case("UTF-16", || refuses_text(b"\xff\xfes\0e\0r\0v\0e\0r\0", &["smolgate.conf"])),
        case("BOM", || accepts_text([b"\xef\xbb\xbf", server("return 204;").as_bytes()].concat())),
        case("CR alone", || refuses_text(server("return 204;").replace('\n', "\r"), &["smolgate.conf"])),
        case("CRLF", || accepts_text(server("return 204;").replace('\n', "\r\n"))),
        case("no semicolon", || {
            refuses_text("server {\n  listen 8080\n}\n", &["smolgate.conf:2:3: ", "\"listen\"", "\";\""])
        }),
        case("no semicolon at the end", || refuses_text("pid x", &["smolgate.conf:1:1: ", "\"pid\"", "\";\""])),
        case("no quote", || refuses_text("server {\n  return 200 \"abc;\n}\n", &["smolgate.conf:2:14: ", "quote"])),
        case("a variable of guides", || {
            let text = "server {\n  listen 8080;\n  proxy_set_header Connection $connection_upgrade;\n}\n";
            refuses_text(
                text,
                &["smolgate.conf:3:31: ", "map $http_upgrade $connection_upgrade", "or delete the lines"],
            )
        }),
        case("a whole file in conf.d", || {
            refuses_text(
                "http {\n  events { }\n  http {\n    server { }\n  }\n}\n",
                &["smolgate.conf:2:3: ", "smolgate.conf:3:3: ", "this is read inside \"http\" already"],
            )
        }),
        case("no brace", || refuses_text("server {\n  listen 8080;\n", &["smolgate.conf:1:1: ", "\"}\""])),
        case("a brace too many", || refuses_text("server {\n listen 8080;\n}\n}\n", &["smolgate.conf:4:1: ", "\"}\""])),
    ];
    run_concurrently(cases);
}

/// Slips and copies from pages, each with its hint.
#[test]
fn hints() {
    let rows = [
        ("//comment", "smolgate.conf:3:1: unexpected \"}\": \"//comment\"", "^ comments begin with \"#\""),
        ("//listen 80;", "unknown directive \"//listen\"", "^ comments begin with \"#\""),
        ("if($http_x) { return 403; }", "unknown directive \"if($http_x)\"", "^ put a space between \"if\" and \"(\""),
        (
            "location ~ ^/a{4}$ { }",
            "smolgate.conf:3:15: unexpected \"{\"",
            "^ an expression with \"{\" or \"}\" must be quoted",
        ),
        (
            "rewrite ^/a{2,}$ /b;",
            "smolgate.conf:3:12: unexpected \"{\"",
            "^ an expression with \"{\" or \"}\" must be quoted",
        ),
        ("location ~ ^/(x { }", "invalid regular expression", "^\nsmolgate: "),
        ("add_header X-A “a b”;", "invalid value \"b”\"", "^ the line has typographic quotes: write \" or '"),
        ("return\u{a0}204;", "unknown directive", "^ the line has a no-break space: write an ordinary space"),
        ("set_escape_uri $a $b;", "unknown directive \"set_escape_uri\"", "^ of a module that is not here"),
        ("mp4_buffer_size 1m;", "unknown directive \"mp4_buffer_size\"", "^ of a module that is not here"),
        ("auth_jwt x;", "unknown directive \"auth_jwt\"", "^ of a module that is not here"),
    ];
    let cases =
        rows.into_iter().map(|(line, message, hint)| case(line, move || refuses_text(server(line), &[message, hint])));
    run_concurrently(cases.collect());
    accepts_text(server(
        "fastcgi_buffers 8 16k; location / { fastcgi_param A b; uwsgi_param a b; grpc_set_header A b; }",
    ))
    .unwrap();
    refuses_text(server("location / { fastcgi_pass a:1; }"), &["\"fastcgi_pass\" is not supported", "HTTP/1.1"])
        .unwrap();
}

/// An unknown directive is an error: ignoring it could make a server less secure.
#[test]
fn unknown_directives() {
    let lines = ["frobnicate on;", "secure_link x;", "mirror /x;"];
    let cases = lines.iter().map(|line| {
        let name = line.split([' ', ';']).next().unwrap();
        case(line, move || {
            refuses_text(
                server(&format!("location / {{\n{line}\n}}")),
                &["smolgate.conf:4:1: ", &format!("\"{name}\"")],
            )
        })
    });
    run_concurrently(cases.collect());
}

/// A build without a feature rejects the directives that need it, and accepts those that only mention it.
#[test]
fn features_that_a_build_lacks() {
    let (gzip, tls, health) = (cfg!(feature = "gzip"), cfg!(feature = "tls"), cfg!(feature = "health"));
    let (no_gzip, no_tls, no_health) =
        ("this build has no gzip", "this build has no TLS", "this build has no health checks");
    for (is_there, line, message, lacks) in [
        (gzip, "gzip on;", "smolgate.conf:3:1: \"gzip on\" is not supported", no_gzip),
        (tls, "listen 127.0.0.1:9 ssl;", "smolgate.conf:3:20: \"listen ... ssl\" is not supported", no_tls),
        (tls, "ssl on;", "smolgate.conf:3:1: \"ssl on\" is not supported", no_tls),
        (
            tls,
            "location / { proxy_pass https://127.0.0.1; }",
            "smolgate.conf:3:25: \"https://\" upstreams are not supported",
            no_tls,
        ),
        (
            health,
            "location / { proxy_pass http://127.0.0.1; health_check; }",
            "smolgate.conf:3:43: \"health_check\" is not supported",
            no_health,
        ),
        (
            health,
            "} upstream u { server 127.0.0.1:1; health_check interval=1s;",
            "smolgate.conf:3:36: \"health_check\" is not supported",
            "\"max_fails=\"",
        ),
        (health, "} match m { status 200;", "smolgate.conf:3:3: \"match\" is not supported", no_health),
    ] {
        if !is_there {
            refuses_text(server(line), &[message, lacks]).unwrap();
        }
    }
    Proxy::start("server { listen LISTEN; gzip off; gzip_static on; ssl_protocols TLSv1.2; proxy_ssl_verify on; }");
}

#[test]
fn features_are_printed() {
    let has = |is_there, name: &str| if is_there { name.to_owned() } else { format!("no {name}") };
    let features = [
        has(cfg!(feature = "tls"), "tls"),
        has(cfg!(feature = "gzip"), "gzip"),
        has(cfg!(feature = "health"), "health"),
        has(cfg!(feature = "crypt"), "crypt"),
        has(cfg!(feature = "page"), "page"),
    ];
    let stdout = String::from_utf8(run(&TempDir::new(), &["-V"], "smolgate.conf").stdout).unwrap();
    assert!(stdout.contains(&format!("\nfeatures: {}\n", features.join(", "))), "{stdout}");
}

/// Checks whether a client reaches the upstream that it names, where `proxy_pass` has a variable and one upstream is known.
fn reaches(to: &str, name: &str, expected: bool) -> Result<(), String> {
    let (known, other) = (Peer::start_echo(), Peer::start_echo());
    let proxy = Proxy::start(&format!(
        "map $arg_u $to {{ default $arg_u; }} upstream known {{ server {}; }}
         server {{ listen LISTEN; location / {{ proxy_pass http://{to}; }} }}",
        known.addr
    ));
    let name = name.replace("ADDR", &other.addr.to_string());
    let mut client =
        Client::connect_and_send(proxy.addr, format!("GET /?u={name} HTTP/1.1\r\nHost: {name}\r\n\r\n").as_bytes());
    let response = client.read_response()?;
    check((response.status == 200) == expected, || response.head)?;
    check(other.connections() == 0, || "the client chose the upstream".to_owned())
}

/// A client must not choose the upstream.
#[test]
fn clients_cannot_choose_the_upstream() {
    let pass = |to: &str, more: &str| server(&format!("{more}location / {{ proxy_pass http://{to}; }}"));
    let cases = vec![
        case("$host", || refuses_text(pass("$host", ""), &["smolgate.conf:3:", "$host"])),
        case("$http_host", || refuses_text(pass("$http_host", ""), &["smolgate.conf:3:"])),
        case("$arg_u", || refuses_text(pass("$arg_u", ""), &["smolgate.conf:3:", "$arg_u"])),
        case("$arg_u with a port", || refuses_text(pass("$arg_u:8080/", ""), &["smolgate.conf:3:"])),
        case("$http_x", || refuses_text(pass("x.$http_x", ""), &["smolgate.conf:3:"])),
        case("$cookie_x", || refuses_text(pass("$cookie_x", ""), &["smolgate.conf:3:"])),
        case("by a name that is known", || reaches("$arg_u", "known", true)),
        case("by an address", || reaches("$arg_u", "ADDR", false)),
        case("by Host", || reaches("$http_host", "ADDR", false)),
        case("through a map", || reaches("$to", "ADDR", false)),
        case("with a resolver", || accepts_text(pass("$host", "resolver 127.0.0.1; "))),
        case("chosen by a map", || {
            accepts_text(format!("map $arg_u $to {{ a 127.0.0.1:1; default 127.0.0.1:2; }}\n{}", pass("$to", "")))
        }),
    ];
    run_concurrently(cases);
}

#[test]
fn addresses_sizes_and_times() {
    let cases = vec![
        case("twice", || refuses_text("server { listen 8080;\nlisten 8080; }", &["smolgate.conf:2:8: ", "8080"])),
        case("port 0", || refuses_text("server { listen 0; }", &["smolgate.conf:1:17: ", "\"0\""])),
        case("port 0 of an address", || refuses_text("server { listen 127.0.0.1:0; }", &["smolgate.conf:1:17: "])),
        case("port 70000", || refuses_text("server { listen 70000; }", &["smolgate.conf:1:17: ", "\"70000\""])),
        case("an IPv6 zone", || refuses_text("server { listen [fe80::1%eth0]:80; }", &["smolgate.conf:1:17: "])),
        case("no address", || refuses_text("server { listen 1.2.3.4.5:80; }", &["smolgate.conf:1:17: "])),
        case("sizes", || {
            ["1kk", "-1", "99999999999999999999", "9999999999999999k", "1.5m", "10s", "", "k", "+1", "1 k", "0x10"]
                .iter()
                .try_for_each(|size| {
                    refuses_text(
                        server(&format!("client_max_body_size \"{size}\";")),
                        &["smolgate.conf:3:22: ", "client_max_body_size"],
                    )
                    .map_err(|why| format!("{size:?}: {why}"))
                })
        }),
        case("times", || {
            ["1ss", "-1", "99999999999999999999", "1.5m", "10k", "", "s", "+1", "1s1h", "1s1s"].iter().try_for_each(
                |time| {
                    refuses_text(
                        server(&format!("client_body_timeout \"{time}\";")),
                        &["smolgate.conf:3:21: ", "client_body_timeout"],
                    )
                    .map_err(|why| format!("{time:?}: {why}"))
                },
            )
        }),
        case("times too short to serve a client", || {
            [
                "client_header_timeout 0;",
                "client_body_timeout 0s;",
                "send_timeout 0ms;",
                "proxy_connect_timeout 0;",
                "proxy_read_timeout 0;",
                "proxy_send_timeout 0m;",
            ]
            .iter()
            .try_for_each(|line| refuses_text(server(line), &["smolgate.conf:3:", "a time above 0"]))
        }),
        case("times that may be 0", || {
            accepts_text(server(
                "keepalive_timeout 0; keepalive_time 0; lingering_time 0; lingering_timeout 0; auth_delay 0; resolver_timeout 0;
                 proxy_next_upstream_timeout 0; return 204;",
            ))
        }),
        case("numbers", || {
            ["1k", "-1", "99999999999999999999", "4294967296", "1.5", "", "+1"].iter().try_for_each(|number| {
                refuses_text(
                    server(&format!("keepalive_requests \"{number}\";")),
                    &["smolgate.conf:3:20: ", "keepalive_requests"],
                )
                .map_err(|why| format!("{number:?}: {why}"))
            })
        }),
        case("valid values", || {
            accepts_text(
                server("client_max_body_size 10m;\nclient_body_timeout 1h 30m;\nkeepalive_requests 1000;\nreturn 204;")
                    .replace("1h 30m", "1h30m"),
            )
        }),
    ];
    run_concurrently(cases);
}

#[test]
fn files() {
    let dir = TempDir::new();
    fs::create_dir(dir.path("dir")).unwrap();
    assert!(Command::new("mkfifo").arg(dir.path("fifo")).status().unwrap().success());
    dir.write("to-fifo.conf", "include fifo;");
    dir.write("to-dir.conf", "include dir;");
    dir.write("to-nothing.conf", "include missing.conf;");
    let cases = vec![
        case("missing", || refuses(&dir, "missing.conf", &["missing.conf"])),
        case("a directory", || refuses(&dir, "dir", &["dir"])),
        case("a pipe", || refuses(&dir, "fifo", &["fifo"])),
        case("an included pipe", || refuses(&dir, "to-fifo.conf", &["to-fifo.conf:1:9: ", "fifo"])),
        case("an included dir", || refuses(&dir, "to-dir.conf", &["to-dir.conf:1:9: ", "dir"])),
        case("an included file that is missing", || {
            refuses(&dir, "to-nothing.conf", &["to-nothing.conf:1:9: ", "missing.conf"])
        }),
        case("invalid patterns", || {
            for (name, why) in [("a[^b]", "[!...]"), ("a[b", "range"), ("a**", "wildcards")] {
                dir.write("pattern.conf", format!("include {name};"));
                refuses(&dir, "pattern.conf", &["pattern.conf:1:9: ", "invalid pattern", why])?;
            }
            Ok(())
        }),
        case("a device without end", || refuses(&dir, "/dev/zero", &["/dev/zero"])),
    ];
    run_concurrently(cases);
}
