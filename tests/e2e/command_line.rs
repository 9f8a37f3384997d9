//! The command line and the life of the process: `-t`, `-T`, `-s`, `-g`, flags without a configuration, reloads, shutdown.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;

use crate::cases::{case, check, check_equal, run_concurrently};
use crate::client::{Client, expand};
use crate::harness::{Proxy, TIMEOUT, TempDir, is_root, run, wait_for};
use crate::peer::Peer;
use crate::response_rows::format_request;

fn describe(output: &Output) -> String {
    format!("{:?}\n{}", output.status.code(), String::from_utf8_lossy(&output.stderr))
}

/// Returns the exit code and the output of a check of a text, with `DIR` for the directory.
fn check_text(flags: &[&str], text: &str) -> String {
    let dir = TempDir::new();
    dir.write("smolgate.conf", text);
    describe(&run(&dir, flags, "smolgate.conf")).replace(&dir.path("smolgate.conf").display().to_string(), "PATH")
}

#[test]
fn messages_of_checks() {
    const GOOD: &str = "server { listen 8080; return 204; }\n";
    let good = "Some(0)\nsmolgate: the configuration file PATH syntax is ok\n\
        smolgate: configuration file PATH test is successful\n";
    assert_eq!(check_text(&["-t"], GOOD), good);
    assert_eq!(check_text(&["-tq"], GOOD), "Some(0)\n");
    assert_eq!(check_text(&["-t", "-g", "worker_shutdown_timeout 1s;"], GOOD), good);
    let unknown = "\n\nevents {}\nhttp {\n    server {\n        listen 8080;\n\n        location / {\n        \
        proxy_pass http://127.0.0.1:1;\n        proxy_set_headers Host $host;\n        }\n    }\n}\n";
    assert_eq!(
        check_text(&["-t"], unknown),
        "Some(2)\nsmolgate: PATH:10:9: unknown directive \"proxy_set_headers\"\n   \
         10 |         proxy_set_headers Host $host;\n      \
            |         ^ did you mean \"proxy_set_header\"?\n\
         smolgate: configuration file PATH test failed\n"
    );
    assert_eq!(
        check_text(&["-t"], "server {\n    listen 8080\n    return 204;\n}\n"),
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
        let output = check_text(&["-t"], text);
        assert!(output.starts_with("Some(2)\n") && output.contains(part), "{part} expected in {output}");
    }
    let output = check_text(&["-t", "-g", "frobnicate 1;"], GOOD);
    assert!(output.starts_with("Some(2)\nsmolgate: -g:1:1: unknown directive \"frobnicate\""), "{output}");
    assert!(check_text(&["-x"], GOOD).starts_with("Some(2)\n"));
    assert!(check_text(&["-s", "dance"], GOOD).starts_with("Some(2)\n"));
}

#[test]
fn dumps() {
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

/// A process that is killed on drop.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const BINARY: &str = env!("CARGO_BIN_EXE_smolgate");

#[test]
fn flags_without_a_configuration() {
    let (first, second) = (Peer::start_echo(), Peer::start_echo());
    let (ws, root) = (format!("/ws/={}", first.addr), format!("/={}", second.addr));
    // A free port may be taken before the program binds it: then another one is tried.
    let (listen, _running) = (0..20)
        .find_map(|_| {
            let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let listen = addr.to_string();
            let mut command = Command::new(BINARY);
            command.args(["--listen", &listen, "--proxy", &ws, "--proxy", &root]);
            let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let mut running = Running(child);
            let mut up = false;
            wait_for("it listens or exits", || {
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
    // The dump is a valid configuration.
    assert!(check_text(&["-t"], &text).starts_with("Some(0)\n"));
    for flags in [
        &["--listen", "1"][..],
        &["--proxy", "/=a"],
        &["--static", "/=a"],
        &["--listen", "1", "--proxy", "a"],
        &["--listen", "1", "--proxy", "/="],
        &["--listen", "1", "--static", "www"],
        &["--listen", "1", "--static", "/=a", "-c", "b"],
    ] {
        let output = Command::new(BINARY).args(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {output:?}");
    }
}

/// Every way to write an address or upstream that people try.
#[test]
fn forms_of_the_flags() {
    let dump = |flags: &[&str]| {
        let output = Command::new(BINARY).arg("-T").args(flags).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{flags:?}: {}", String::from_utf8_lossy(&output.stderr));
        text.lines()
            .map(str::trim)
            .filter(|line| !line.starts_with("proxy_set_header X-"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let common = "# configuration file the command line: server {";
    for (flags, expected) in [
        (
            &["--listen=8080", "--proxy=/=3000"][..],
            "listen \"8080\";  location \"/\" { proxy_pass \"http://127.0.0.1:3000\"; proxy_set_header Host $http_host; } } ",
        ),
        (
            &["--listen", ":8080", "--proxy", "/=http://127.0.0.1:3000"],
            "listen \"8080\";  location \"/\" { proxy_pass \"http://127.0.0.1:3000\"; proxy_set_header Host $http_host; } } ",
        ),
        (
            &["--listen", "[::1]:8080", "--proxy", "/api/=https://127.0.0.1/v1/"],
            "listen \"[::1]:8080\";  location \"/api/\" { proxy_pass \"https://127.0.0.1/v1/\"; proxy_ssl_server_name on; \
             proxy_set_header Host $proxy_host; } } ",
        ),
        (&["--listen", "8080", "--static", "/=./www"], "listen \"8080\";  location \"/\" { root \"./www\"; } } "),
        (
            &["--listen", "8080", "--static", "/docs/=/srv/docs", "--static", "/one=/srv/one"],
            "listen \"8080\";  location \"/docs/\" { alias \"/srv/docs/\"; }  location \"/one\" { alias \"/srv/one\"; } } ",
        ),
    ] {
        if flags.iter().any(|flag| flag.contains("https:")) && cfg!(not(feature = "tls")) {
            continue;
        }
        assert_eq!(dump(flags), format!("{common} {expected}"), "{flags:?}");
    }
    let dir = TempDir::new();
    let output = Command::new(BINARY).current_dir(dir.path("")).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    // A machine with the package has a file.
    assert!(
        stderr.contains("try \"smolgate --listen 8080 --proxy /=3000\"") || Path::new("/etc/smolgate").exists(),
        "{stderr}"
    );
}

#[test]
fn a_check_of_a_url() {
    let silent = Peer::start(|connection| {
        connection.read();
        connection.send(b"SSH-2.0-OpenSSH_9.2\r\n");
    });
    let proxy = Proxy::start(
        "server { listen LISTEN; location / { return 204; } location /moved { return 301 /; } location /bad { return 503; } }",
    );
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (url, expected) in [
        (format!("http://{}", proxy.addr), ""),
        (format!("http://{}/moved", proxy.addr), ""),
        (format!("http://localhost:{}/", proxy.addr.port()), ""),
        (format!("http://{}/bad", proxy.addr), "the response has status 503"),
        (format!("http://{unused}/"), "Connection refused"),
        (format!("http://{}/", silent.addr), "the response is not HTTP"),
        (format!("https://{}/", proxy.addr), "a URL with http:// is expected"),
        (format!("http://{}/a b", proxy.addr), "a URL with http:// is expected"),
        ("http://no.invalid/".to_owned(), "\"no.invalid\" is no address or known host"),
        ("http://".to_owned(), "\"\" is no address or known host"),
    ] {
        let output = Command::new(BINARY).args(["--check", &url]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(i32::from(!expected.is_empty())), "{url}: {stderr}");
        assert!(stderr.contains(expected) && stderr.is_empty() == expected.is_empty(), "{url}: {stderr}");
    }
}

/// The completions have every flag of `--help`, and no other.
#[test]
fn completions_have_all_flags() {
    let help = String::from_utf8(Command::new(BINARY).arg("--help").output().unwrap().stdout).unwrap();
    let flags = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        words.filter(|word| word.len() > 2 && word.starts_with("--")).map(str::to_owned).collect()
    };
    let mut expected: BTreeSet<String> = help
        .lines()
        .filter(|line| line.starts_with("  -"))
        .flat_map(|line| flags(line.split("  ").nth(1).unwrap_or(line)))
        .collect();
    expected.insert("--help".to_owned());
    assert!(expected.len() > 12, "{help}");
    let read = |name: &str| {
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("cross/completions").join(name)).unwrap()
    };
    assert_eq!(flags(&read("smolgate.bash")), expected);
    assert_eq!(flags(&read("_smolgate")), expected);
    let fish = read("smolgate.fish");
    let names = fish.split(" -l ").skip(1).map(|rest| format!("--{}", rest.split(' ').next().unwrap()));
    assert_eq!(names.collect::<BTreeSet<_>>(), expected);
}

/// Returns the status of a request for `target`.
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
    let mut idle = Client::connect(proxy.addr);
    idle.request(format_request("/").as_bytes(), 201).unwrap();
    let reload = |text: &str| {
        let before = proxy.error_lines().iter().filter(|line| line.contains("configuration reloaded")).count();
        proxy.write_config(text);
        proxy.signal("HUP");
        wait_for("a reload", || {
            proxy.error_lines().iter().filter(|line| line.contains("configuration reloaded")).count() > before
        });
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
    assert_eq!(tunnel.read_bytes(4).unwrap(), b"ping", "the tunnel stays open");
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
    proxy.wait_for_error_line(&["log files reopened"]).unwrap();
    assert_eq!(status(&proxy, "/after"), 204);
    proxy.wait_for_access_line(&["GET /after"]).unwrap();
    assert_eq!(proxy.access_lines().len(), 1);
    assert_eq!(proxy.dir.lines("access.log.1").len(), 2);
}

/// Starts a proxy with a request in flight; the sender makes the upstream respond.
fn in_flight() -> (Proxy, Client, mpsc::Sender<()>) {
    let (allow, allowed) = mpsc::channel::<()>();
    let allowed = std::sync::Mutex::new(allowed);
    let peer = Peer::start(move |connection| {
        if let Some(request) = connection.read_request() {
            let _ = allowed.lock().unwrap().recv();
            connection.respond(&request, "late");
        }
    });
    let proxy =
        Proxy::start_with_peers("server { listen LISTEN; location / { proxy_pass http://PEER; } }", &[("PEER", &peer)]);
    let client = Client::connect_and_send(proxy.addr, format_request("/").as_bytes());
    wait_for("the upstream has the request", || peer.received().ends_with(b"\r\n\r\n"));
    (proxy, client, allow)
}

#[test]
fn shutdown_and_signals() {
    let quit = || {
        let (mut proxy, mut client, allow) = in_flight();
        proxy.signal("QUIT");
        wait_for("the listener is closed", || TcpStream::connect(proxy.addr).is_err());
        check(proxy.is_running(), || "it did not wait".to_owned())?;
        allow.send(()).unwrap();
        check_equal("the client", &client.expect_status(200)?.body, b"late")?;
        client.expect_eof()?;
        let code = proxy.exit_code_within(TIMEOUT);
        check(code == Some(0), || format!("exit code {code:?}"))?;
        check(!proxy.dir.path("smolgate.pid").exists(), || "the pid file stays".to_owned())
    };
    let term = || {
        let (mut proxy, mut client, allow) = in_flight();
        let pid = fs::read_to_string(proxy.dir.path("smolgate.pid")).unwrap();
        check(pid == format!("{}\n", proxy.pid()), || format!("pid file: {pid:?}"))?;
        proxy.signal("TERM");
        let code = proxy.exit_code_within(TIMEOUT);
        check(code == Some(0), || format!("exit code {code:?}"))?;
        check(!proxy.dir.path("smolgate.pid").exists(), || "the pid file stays".to_owned())?;
        let mut byte = [0];
        check(!matches!(client.stream.read(&mut byte), Ok(1)), || "a byte came".to_owned())?;
        drop(allow);
        Ok(())
    };
    let by_pid_file = |signal: &'static str| {
        move || {
            let mut proxy = Proxy::start("server { listen LISTEN; return 201; }");
            // A proxy that responds has written its pid file.
            check(status(&proxy, "/") == 201, || "it does not serve".to_owned())?;
            proxy.write_config("server { listen LISTEN; return 202; }");
            let output = run(&proxy.dir, &["-s", "reload"], "smolgate.conf");
            check(output.status.code() == Some(0) && output.stderr.is_empty(), || describe(&output))?;
            wait_for("-s reload", || status(&proxy, "/") == 202);
            proxy.write_config("server { listen LISTEN; return; }");
            let output = run(&proxy.dir, &["-s", "reload"], "smolgate.conf");
            check(output.status.code() == Some(2) && status(&proxy, "/") == 202, || describe(&output))?;
            proxy.write_config("server { listen LISTEN; return 202; }");
            let output = run(&proxy.dir, &["-s", signal], "smolgate.conf");
            check(output.status.code() == Some(0) && output.stderr.is_empty(), || describe(&output))?;
            let code = proxy.exit_code_within(TIMEOUT);
            check(code == Some(0), || format!("exit code {code:?}"))?;
            let output = run(&proxy.dir, &["-s", signal], "smolgate.conf");
            check(output.status.code() == Some(1) && describe(&output).contains("smolgate.pid"), || describe(&output))
        }
    };
    run_concurrently(vec![
        case("SIGQUIT", quit),
        case("SIGTERM", term),
        case("-s stop", by_pid_file("stop")),
        case("-s quit", by_pid_file("quit")),
    ]);
}

/// What would end the start ends the check, and what would fail requests is a warning.
#[test]
fn checks_beyond_the_syntax() {
    let dir = TempDir::new();
    dir.write("users", "a:{PLAIN}b\n");
    let server = "server { listen 127.0.0.1:1; return 204; }";
    for (config, expected) in [
        ("pid none/x.pid;", ":1:5: \"DIR/none/x.pid\" can't be created: there is no directory \"DIR/none\""),
        ("error_log none/x.log;", ":1:11: \"DIR/none/x.log\" can't be created: there is no directory \"DIR/none\""),
        ("access_log users/x.log;", ":1:12: \"DIR/users/x.log\" can't be created: "),
        ("user no-such-user;", ":1:6: user \"no-such-user\" does not exist"),
        ("events {}", "there is no \"server { }\" in it"),
    ] {
        // Only root can change the user.
        if config.starts_with("user ") && !is_root() {
            continue;
        }
        dir.write(
            "smolgate.conf",
            if config == "events {}" { config.to_owned() } else { format!("{config} {server}") },
        );
        let output = run(&dir, &["-t"], "smolgate.conf");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let expected = expected.replace("DIR", dir.path("").display().to_string().trim_end_matches('/'));
        assert!(output.status.code() == Some(2) && stderr.contains(&expected), "{config}: {stderr}");
    }
    for (server, expected) in [
        ("root none;", Some(":2: warning: \"DIR/none\" does not exist")),
        ("access_log /run/no-such-directory/x.log;", None),
        ("access_log /var/run/no-such-directory/x.log;", None),
        ("root .;", None),
        ("root /srv/$host;", None),
        ("auth_basic x; auth_basic_user_file none;", Some(":2: warning: \"DIR/none\" does not exist")),
        ("auth_basic x; auth_basic_user_file users;", None),
        (
            "location api { return 204; }",
            Some(":2: note: \"location\": it matches no request: a path starts with \"/\""),
        ),
        ("location /api { return 204; }", None),
        (
            "location / { proxy_pass http://bakend.invalid; }",
            Some(":2: warning: \"bakend.invalid\" can't be resolved now: requests to it would get 502\n"),
        ),
        (
            "location / { proxy_pass http://backed.invalid; }",
            Some("requests to it would get 502 (did you mean upstream \"backend.invalid\"?)\n"),
        ),
        ("location / { proxy_pass http://backend.invalid; }", None),
    ] {
        let upstream = if server.contains("backe") { "upstream backend.invalid { server 127.0.0.1:1; }" } else { "" };
        dir.write("smolgate.conf", format!("{upstream}\nserver {{ listen 127.0.0.1:1; {server} }}"));
        let output = run(&dir, &["-t"], "smolgate.conf");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{server}: {stderr}");
        let expected =
            expected.map(|text| text.replace("DIR", dir.path("").display().to_string().trim_end_matches('/')));
        match expected {
            Some(expected) => assert!(stderr.contains(&expected), "{expected:?} is not in {stderr}"),
            None => assert!(!stderr.contains("warning") && !stderr.contains("note"), "{server}: {stderr}"),
        }
    }
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
