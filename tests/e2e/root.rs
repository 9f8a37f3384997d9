//! Started by root: links that the unprivileged user can create are not followed, and the pid file is not trusted.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::cases::{case, check, run_concurrently};
use crate::client::Client;
use crate::harness::{Proxy, TempDir, is_root, run, run_in_shell, wait_for};

const GET: &[u8] = b"GET /here HTTP/1.1\r\nHost: a\r\n\r\n";
const UNPRIVILEGED_UID: u32 = 65534;
/// The content of a file that only root may read.
const SECRET: &str = "root:secret\n";

/// Writes a file that only root may read, in a directory that only root may write to.
fn write_secret(dir: &TempDir) {
    fs::create_dir(dir.path("roots")).unwrap();
    dir.write("roots/secret", SECRET);
    fs::set_permissions(dir.path("roots/secret"), fs::Permissions::from_mode(0o600)).unwrap();
}

/// Creates a directory owned by the unprivileged user.
fn create_owned(dir: &TempDir, name: &str) {
    fs::create_dir(dir.path(name)).unwrap();
    std::os::unix::fs::chown(dir.path(name), Some(UNPRIVILEGED_UID), Some(UNPRIVILEGED_UID)).unwrap();
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, expected: &T) -> Result<(), String> {
    check(got == expected, || format!("{what}: {got:?} instead of {expected:?}"))
}

fn check_secret(dir: &TempDir) -> Result<(), String> {
    let meta = fs::metadata(dir.path("roots/secret")).map_err(|error| error.to_string())?;
    same("owner and mode", &(meta.uid(), meta.mode() & 0o7777), &(0, 0o600))?;
    same("content", &fs::read_to_string(dir.path("roots/secret")).unwrap(), &SECRET.to_owned())
}

/// Checks that a start with these directives is rejected and leaves the secret alone.
fn check_rejected(dir: &TempDir, directives: &str) -> Result<(), String> {
    dir.write(
        "smolgate.conf",
        format!("{directives} server {{ listen unix:{}; return 204; }}", dir.path("socket").display()),
    );
    let output = run_in_shell(dir, "exec timeout 5 \"$0\" \"$@\"", "smolgate.conf");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    check_secret(dir).map_err(|why| format!("{why}; {stderr}"))?;
    check(output.status.code() == Some(1) && stderr.contains("[emerg]"), || format!("{:?}: {stderr}", output.status))
}

/// As [`check_rejected`], in a new directory.
fn rejected(prepare: impl Fn(&TempDir) + 'static, directives: &'static str) -> impl FnOnce() -> Result<(), String> {
    move || {
        let dir = TempDir::new();
        write_secret(&dir);
        prepare(&dir);
        check_rejected(&dir, directives)
    }
}

#[test]
fn links_of_the_unprivileged_user_are_not_followed() {
    if !is_root() {
        return eprintln!("skipped: only root can become another user");
    }
    let link = |name: &'static str| {
        move |dir: &TempDir| {
            create_owned(dir, "own");
            symlink(dir.path("roots/secret"), dir.path(name)).unwrap();
        }
    };
    let middle = |dir: &TempDir| {
        create_owned(dir, "own");
        symlink(dir.path("roots"), dir.path("own/middle")).unwrap();
    };
    // A directory that root created in one of the user's may have been replaced.
    let below = |dir: &TempDir| {
        create_owned(dir, "own");
        fs::create_dir(dir.path("own/below")).unwrap();
        symlink(dir.path("roots/secret"), dir.path("own/below/log")).unwrap();
    };
    let hard = |dir: &TempDir| {
        create_owned(dir, "own");
        fs::hard_link(dir.path("roots/secret"), dir.path("own/log")).unwrap();
    };
    let pid = || {
        let proxy = Proxy::start_in_shell(
            "user nobody; error_log error.log info; pid own/x.pid; access_log off;
             server { listen LISTEN; return 204; }",
            "mkdir \"$2/roots\" \"$2/own\"; echo root:secret > \"$2/roots/secret\"; chmod 600 \"$2/roots/secret\"
             chown nobody \"$2/own\"; ln -s \"$2/roots/secret\" \"$2/own/x.pid.new\"
             ln -s own/x.pid \"$2/smolgate.pid\"; exec \"$0\" \"$@\"",
        );
        check_secret(&proxy.dir)?;
        let meta = fs::symlink_metadata(proxy.dir.path("own/x.pid")).unwrap();
        same("the pid file", &(meta.is_file(), meta.uid()), &(true, UNPRIVILEGED_UID))?;
        same("its content", &proxy.dir.lines("own/x.pid"), &vec![proxy.pid().to_string()])
    };
    run_concurrently(vec![
        case("the pid file", pid),
        case("an error log", rejected(link("own/log"), "user nobody; error_log own/log;")),
        case("an access log", rejected(link("own/log"), "user nobody; error_log stderr; access_log own/log;")),
        case("a link in the middle", rejected(middle, "user nobody; error_log own/middle/secret;")),
        case("a link below", rejected(below, "user nobody; error_log own/below/log;")),
        case("a hard link", rejected(hard, "user nobody; error_log own/log;")),
        case("a link in a directory that all can write to", rejected(link("log"), "user nobody; error_log log;")),
        case("user root", rejected(link("own/log"), "user root; error_log own/log;")),
    ]);
}

/// Links in a directory of root are followed, as an access log that links to standard output in containers. New files belong
/// to the unprivileged user, so that it can reopen them; existing ones stay as they are.
#[test]
fn links_of_root_are_followed() {
    if !is_root() {
        return eprintln!("skipped: only root can become another user");
    }
    let proxy = Proxy::start_in_shell(
        "user nobody; error_log error.log info; pid smolgate.pid; access_log out.log; access_log old.log; access_log fifo;
         access_log link.log; server { listen LISTEN; return 204; }",
        "chmod 755 \"$2\"; ln -s /dev/stdout \"$2/out.log\"; echo old > \"$2/old.log\"; mkfifo \"$2/fifo\"
         mkdir \"$2/sub\"; ln -s sub/../far.log \"$2/link.log\"
         exec 4<> \"$2/fifo\"; umask 022; exec \"$0\" \"$@\" > \"$2/out\"",
    );
    let ask = || Client::connect(proxy.addr).request(GET, 204).unwrap();
    let lines = |name: &str| proxy.dir.lines(name).len();
    let owner = |name: &str| fs::metadata(proxy.dir.path(name)).unwrap().uid();
    ask();
    wait_for("standard output", || lines("out") == 1);
    assert_eq!(lines("old.log"), 2);
    assert_eq!(["error.log", "smolgate.pid", "far.log"].map(owner), [UNPRIVILEGED_UID; 3]);
    assert_eq!(["old.log", "out", "fifo"].map(owner), [0; 3]);
    assert_eq!(fs::metadata(proxy.dir.path("error.log")).unwrap().mode() & 0o7777, 0o644);
    // The user cannot create files in a directory of root, and keeps using the open ones.
    fs::rename(proxy.dir.path("old.log"), proxy.dir.path("older.log")).unwrap();
    proxy.signal("USR1");
    proxy.wait_for_error_line(&["old.log", "still writing to the old file"]).unwrap();
    assert!(
        !proxy.error_lines().iter().any(|line| line.contains("out.log") || line.contains("fifo")),
        "{:?}",
        proxy.error_lines()
    );
    ask();
    wait_for("the open file is used", || lines("out") == 2 && lines("older.log") == 3);
    proxy.signal("USR2");
    wait_for("the new binary", || proxy.error_lines().iter().filter(|line| line.contains("listens on")).count() == 2);
    ask();
    wait_for("the new binary uses it", || lines("out") == 3);
}

/// Where the unprivileged user may not create a log, as in /var/log of Ubuntu, root does, if no link can redirect it.
#[test]
fn logs_in_directories_of_another_user() {
    if !is_root() {
        return eprintln!("skipped: only root can become another user");
    }
    let proxy = Proxy::start_in_shell(
        "user nobody; error_log other/error.log info; pid smolgate.pid; access_log other/access.log;
         server { listen LISTEN; return 204; }",
        "mkdir -m 755 \"$2/other\"; chown 12345 \"$2/other\"; exec \"$0\" \"$@\"",
    );
    Client::connect(proxy.addr).request(GET, 204).unwrap();
    wait_for("the line", || proxy.dir.lines("other/access.log").len() == 1);
    for name in ["other/error.log", "other/access.log"] {
        assert_eq!(fs::metadata(proxy.dir.path(name)).unwrap().uid(), UNPRIVILEGED_UID, "{name}");
    }
}

/// Unix sockets are open to all users. A stale socket is replaced, any other file is not.
#[test]
fn unix_sockets() {
    let config = "error_log error.log info; pid smolgate.pid; access_log off; server { listen LISTEN; listen unix:PATH; return 204; }";
    let proxy = Proxy::start_in_shell(
        config,
        "sed -i \"s,PATH,$2/socket,\" \"$2/smolgate.conf\"; umask 077; exec \"$0\" \"$@\"",
    );
    let path = proxy.dir.path("socket");
    let meta = fs::symlink_metadata(&path).unwrap();
    assert!(meta.file_type().is_socket() && meta.mode() & 0o777 == 0o666, "{:o}", meta.mode());
    if is_root() {
        assert_eq!(meta.uid(), UNPRIVILEGED_UID, "the directory is writable by all: the unprivileged user created it");
    }
    Client::from_stream(UnixStream::connect(&path).unwrap()).request(GET, 204).unwrap();
    let dir = TempDir::new();
    let path = dir.path("socket");
    let is_rejected = |what: &str| {
        dir.write("smolgate.conf", format!("server {{ listen unix:{}; return 204; }}", path.display()));
        let output = run_in_shell(&dir, "exec timeout 5 \"$0\" \"$@\"", "smolgate.conf");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && stderr.contains("Address already in use"), "{what}: {stderr}");
    };
    dir.write("socket", "a file");
    is_rejected("a file");
    assert_eq!(dir.lines("socket"), ["a file"]);
    fs::remove_file(&path).unwrap();
    drop(UnixListener::bind(dir.path("left")).unwrap());
    symlink("left", &path).unwrap();
    is_rejected("a link");
    assert!(fs::symlink_metadata(&path).unwrap().is_symlink() && dir.path("left").exists());
}

/// Only the process that has locked the pid file gets a signal.
#[test]
fn other_processes_get_no_signal() {
    let dir = TempDir::new();
    dir.write("smolgate.conf", "pid smolgate.pid; server { listen 127.0.0.1:1; return 204; }");
    let mut other = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
    let exited = {
        let mut gone = Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        gone.id()
    };
    for (number, expected) in [
        (other.id(), format!("process {} may be another program", other.id())),
        (
            exited,
            format!(
                "smolgate is not running: \"{}\" names process {exited}, which has ended",
                dir.path("smolgate.pid").display()
            ),
        ),
    ] {
        dir.write("smolgate.pid", format!("{number}\n"));
        let output = run(&dir, &["-s", "stop"], "smolgate.conf");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code() == Some(1) && stderr.contains(&expected) && stderr.lines().count() == 1,
            "{stderr}"
        );
    }
    for (text, expected) in [
        ("-1\n", "has no process id: \"-1\""),
        ("0\n", "has no process id: \"0\""),
        ("none\n", "has no process id: \"none\""),
        ("\n", "smolgate is not running: "),
    ] {
        dir.write("smolgate.pid", text);
        let stderr = run(&dir, &["-s", "stop"], "smolgate.conf").stderr;
        assert!(String::from_utf8_lossy(&stderr).contains(expected), "{text}: {}", String::from_utf8_lossy(&stderr));
    }
    assert!(other.try_wait().unwrap().is_none());
    other.kill().unwrap();
    other.wait().unwrap();
}

/// `-s` finds the process during and after a binary upgrade, whatever number the file has.
#[test]
fn signals_during_binary_upgrades() {
    let proxy = Proxy::start("server { listen LISTEN; return 201; }");
    let mut last = 201;
    for status in [202, 203] {
        proxy.signal("USR2");
        proxy.write_config(&format!("server {{ listen LISTEN; return {status}; }}"));
        let sent = run(&proxy.dir, &["-s", "reload"], "smolgate.conf");
        assert_eq!(sent.status.code(), Some(0), "{}", String::from_utf8_lossy(&sent.stderr));
        wait_for("the new configuration", || {
            let got =
                Client::connect_and_send(proxy.addr, GET).read_response().map_or(last, |response| response.status);
            std::mem::replace(&mut last, got) == status
        });
    }
    assert_eq!(proxy.dir.lines("smolgate.pid"), [proxy.pid().to_string()]);
    let mut other = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
    // In place: a new file would not be locked.
    let file = fs::OpenOptions::new().write(true).truncate(true).open(proxy.dir.path("smolgate.pid")).unwrap();
    std::io::Write::write_all(&mut &file, format!("{}\n", other.id()).as_bytes()).unwrap();
    let mut proxy = proxy;
    assert_eq!(run(&proxy.dir, &["-s", "stop"], "smolgate.conf").status.code(), Some(0));
    assert_eq!(proxy.exit_code_within(crate::harness::TIMEOUT), Some(0));
    assert!(other.try_wait().unwrap().is_none());
    other.kill().unwrap();
    other.wait().unwrap();
}

/// A process that exits leaves the pid file of another one alone.
#[test]
fn the_pid_file_of_another_process_stays() {
    let mut proxy = Proxy::start("server { listen LISTEN; return 204; }");
    let path = proxy.dir.path("smolgate.pid");
    fs::rename(&path, proxy.dir.path("smolgate.pid.old")).unwrap();
    proxy.dir.write("smolgate.pid", "1\n");
    proxy.signal("TERM");
    assert_eq!(proxy.exit_code_within(crate::harness::TIMEOUT), Some(0));
    assert!(Path::new(&path).exists());
}
