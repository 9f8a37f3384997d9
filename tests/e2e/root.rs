//! Files that root opens by name before it becomes another user: a link that this user can make leads it nowhere. And the
//! pid file, by which `-s` finds the process.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::client::Client;
use crate::harness::{Folder, Gate, is_root, run, run_by, wait_for};
use crate::rows::{case, check, verify_at_once};

const GET: &[u8] = b"GET /here HTTP/1.1\r\nHost: a\r\n\r\n";
const NOBODY: u32 = 65534;
/// What root keeps from others.
const SECRET: &str = "root:secret\n";

/// Writes what only root may read, in a directory to which only root can write.
fn hide(folder: &Folder) {
    fs::create_dir(folder.path("roots")).unwrap();
    folder.write("roots/secret", SECRET);
    fs::set_permissions(folder.path("roots/secret"), fs::Permissions::from_mode(0o600)).unwrap();
}

/// Makes a directory of the user that root becomes.
fn give(folder: &Folder, name: &str) {
    fs::create_dir(folder.path(name)).unwrap();
    std::os::unix::fs::chown(folder.path(name), Some(NOBODY), Some(NOBODY)).unwrap();
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, expected: &T) -> Result<(), String> {
    check(got == expected, || format!("{what}: {got:?} instead of {expected:?}"))
}

fn is_kept(folder: &Folder) -> Result<(), String> {
    let meta = fs::metadata(folder.path("roots/secret")).map_err(|error| error.to_string())?;
    same("owner and mode", &(meta.uid(), meta.mode() & 0o7777), &(0, 0o600))?;
    same("content", &fs::read_to_string(folder.path("roots/secret")).unwrap(), &SECRET.to_owned())
}

/// A start with these directives, which is refused, and leaves the secret alone.
fn refused(folder: &Folder, directives: &str) -> Result<(), String> {
    folder.write(
        "gate.conf",
        format!("{directives} server {{ listen unix:{}; return 204; }}", folder.path("socket").display()),
    );
    let output = run_by(folder, "exec timeout 5 \"$0\" \"$@\"", "gate.conf");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    is_kept(folder).map_err(|why| format!("{why}; {told}"))?;
    check(output.status.code() == Some(1) && told.contains("[emerg]"), || format!("{:?}: {told}", output.status))
}

/// A start with these directives in the place of `LOGS` leaves the secret alone.
fn taken(prepare: impl Fn(&Folder) + 'static, directives: &'static str) -> impl FnOnce() -> Result<(), String> {
    move || {
        let folder = Folder::new();
        hide(&folder);
        prepare(&folder);
        refused(&folder, directives)
    }
}

#[test]
fn links_of_the_account_lead_root_nowhere() {
    if !is_root() {
        return eprintln!("skipped: only root can become another user");
    }
    let link = |name: &'static str| {
        move |folder: &Folder| {
            give(folder, "own");
            symlink(folder.path("roots/secret"), folder.path(name)).unwrap();
        }
    };
    let middle = |folder: &Folder| {
        give(folder, "own");
        symlink(folder.path("roots"), folder.path("own/middle")).unwrap();
    };
    // As a directory that root has made in one of the account: it can be another one by now.
    let below = |folder: &Folder| {
        give(folder, "own");
        fs::create_dir(folder.path("own/below")).unwrap();
        symlink(folder.path("roots/secret"), folder.path("own/below/log")).unwrap();
    };
    let hard = |folder: &Folder| {
        give(folder, "own");
        fs::hard_link(folder.path("roots/secret"), folder.path("own/log")).unwrap();
    };
    let pid = || {
        let gate = Gate::start_by(
            "user nobody; error_log error.log info; pid own/x.pid; access_log off;
             server { listen LISTEN; return 204; }",
            "mkdir \"$2/roots\" \"$2/own\"; echo root:secret > \"$2/roots/secret\"; chmod 600 \"$2/roots/secret\"
             chown nobody \"$2/own\"; ln -s \"$2/roots/secret\" \"$2/own/x.pid.new\"
             ln -s own/x.pid \"$2/gate.pid\"; exec \"$0\" \"$@\"",
        );
        is_kept(&gate.folder)?;
        let meta = fs::symlink_metadata(gate.folder.path("own/x.pid")).unwrap();
        same("the pid file", &(meta.is_file(), meta.uid()), &(true, NOBODY))?;
        same("its number", &gate.folder.lines("own/x.pid"), &vec![gate.pid().to_string()])
    };
    verify_at_once(vec![
        case("the pid file", pid),
        case("an error log", taken(link("own/log"), "user nobody; error_log own/log;")),
        case("an access log", taken(link("own/log"), "user nobody; error_log stderr; access_log own/log;")),
        case("a link in the middle", taken(middle, "user nobody; error_log own/middle/secret;")),
        case("a link below", taken(below, "user nobody; error_log own/below/log;")),
        case("a hard link", taken(hard, "user nobody; error_log own/log;")),
        case("a link where all can write", taken(link("log"), "user nobody; error_log log;")),
        case("root that stays root", taken(link("own/log"), "user root; error_log own/log;")),
    ]);
}

/// In a directory of root's links are root's: an access log that is a link to standard output, as in containers. New files
/// are given to the account, so that it can open them again; what was there stays as it is.
#[test]
fn links_of_root_are_followed() {
    if !is_root() {
        return eprintln!("skipped: only root can become another user");
    }
    let gate = Gate::start_by(
        "user nobody; error_log error.log info; pid gate.pid; access_log out.log; access_log old.log; access_log fifo;
         access_log link.log; server { listen LISTEN; return 204; }",
        "chmod 755 \"$2\"; ln -s /dev/stdout \"$2/out.log\"; echo old > \"$2/old.log\"; mkfifo \"$2/fifo\"
         mkdir \"$2/sub\"; ln -s sub/../far.log \"$2/link.log\"
         exec 4<> \"$2/fifo\"; umask 022; exec \"$0\" \"$@\" > \"$2/out\"",
    );
    let ask = || Client::connect(gate.addr).ask(GET, 204).unwrap();
    let lines = |name: &str| gate.folder.lines(name).len();
    let owner = |name: &str| fs::metadata(gate.folder.path(name)).unwrap().uid();
    ask();
    wait_for("standard output", || lines("out") == 1);
    assert_eq!(lines("old.log"), 2);
    assert_eq!(["error.log", "gate.pid", "far.log"].map(owner), [NOBODY; 3]);
    assert_eq!(["old.log", "out", "fifo"].map(owner), [0; 3]);
    assert_eq!(fs::metadata(gate.folder.path("error.log")).unwrap().mode() & 0o7777, 0o644);
    // The account can't make files in a directory of root's, and goes on with what is open.
    fs::rename(gate.folder.path("old.log"), gate.folder.path("older.log")).unwrap();
    gate.signal("USR1");
    gate.wait_for_error(&["old.log", "the old file is still written to"]).unwrap();
    assert!(!gate.errors().iter().any(|line| line.contains("out.log") || line.contains("fifo")), "{:?}", gate.errors());
    ask();
    wait_for("it goes on", || lines("out") == 2 && lines("older.log") == 3);
    gate.signal("USR2");
    wait_for("the next program", || gate.errors().iter().filter(|line| line.contains("listens on")).count() == 2);
    ask();
    wait_for("it goes on in the next program", || lines("out") == 3);
}

/// What root may not do as the account, as in /var/log of Ubuntu, it does itself where no link can lead it elsewhere.
#[test]
fn directories_of_others_are_enough_for_a_log() {
    if !is_root() {
        return eprintln!("skipped: only root can become another user");
    }
    let gate = Gate::start_by(
        "user nobody; error_log other/error.log info; pid gate.pid; access_log other/access.log;
         server { listen LISTEN; return 204; }",
        "mkdir -m 755 \"$2/other\"; chown 12345 \"$2/other\"; exec \"$0\" \"$@\"",
    );
    Client::connect(gate.addr).ask(GET, 204).unwrap();
    wait_for("the line", || gate.folder.lines("other/access.log").len() == 1);
    for name in ["other/error.log", "other/access.log"] {
        assert_eq!(fs::metadata(gate.folder.path(name)).unwrap().uid(), NOBODY, "{name}");
    }
}

/// Whoever may reach the path of a Unix socket may connect. A socket that is left is taken over, any other file is not.
#[test]
fn unix_sockets() {
    let config = "error_log error.log info; pid gate.pid; access_log off; server { listen LISTEN; listen unix:PATH; return 204; }";
    let gate = Gate::start_by(config, "sed -i \"s,PATH,$2/socket,\" \"$2/gate.conf\"; umask 077; exec \"$0\" \"$@\"");
    let path = gate.folder.path("socket");
    let meta = fs::symlink_metadata(&path).unwrap();
    assert!(meta.file_type().is_socket() && meta.mode() & 0o777 == 0o666, "{:o}", meta.mode());
    if is_root() {
        assert_eq!(meta.uid(), NOBODY, "others can write to the directory: the account has made it");
    }
    Client::on(UnixStream::connect(&path).unwrap()).ask(GET, 204).unwrap();
    let folder = Folder::new();
    let path = folder.path("socket");
    let refuses = |what: &str| {
        folder.write("gate.conf", format!("server {{ listen unix:{}; return 204; }}", path.display()));
        let output = run_by(&folder, "exec timeout 5 \"$0\" \"$@\"", "gate.conf");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && told.contains("Address already in use"), "{what}: {told}");
    };
    folder.write("socket", "a file");
    refuses("a file");
    assert_eq!(folder.lines("socket"), ["a file"]);
    fs::remove_file(&path).unwrap();
    drop(UnixListener::bind(folder.path("left")).unwrap());
    symlink("left", &path).unwrap();
    refuses("a link");
    assert!(fs::symlink_metadata(&path).unwrap().is_symlink() && folder.path("left").exists());
}

/// A number in the pid file is no proof: only the process that holds the file gets a signal.
#[test]
fn numbers_that_are_not_ours_get_no_signal() {
    let folder = Folder::new();
    folder.write("gate.conf", "pid gate.pid; server { listen 127.0.0.1:1; return 204; }");
    let mut other = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
    let ended = {
        let mut gone = Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        gone.id()
    };
    for number in [other.id(), ended] {
        folder.write("gate.pid", format!("{number}\n"));
        let output = run(&folder, &["-s", "stop"], "gate.conf");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let expected = format!("process {number} may be any other");
        assert!(output.status.code() == Some(1) && told.contains(&expected) && told.lines().count() == 1, "{told}");
    }
    for text in ["-1\n", "0\n", "none\n"] {
        folder.write("gate.pid", text);
        let told = run(&folder, &["-s", "stop"], "gate.conf").stderr;
        assert!(String::from_utf8_lossy(&told).contains("invalid PID"), "{text}");
    }
    assert!(other.try_wait().unwrap().is_none());
    other.kill().unwrap();
    other.wait().unwrap();
}

/// While one program takes the place of another, and after, `-s` finds it; whatever number the file has.
#[test]
fn who_holds_the_pid_file_is_found_through_upgrades() {
    let gate = Gate::start("server { listen LISTEN; return 201; }");
    let mut last = 201;
    for status in [202, 203] {
        gate.signal("USR2");
        gate.rewrite(&format!("server {{ listen LISTEN; return {status}; }}"));
        let sent = run(&gate.folder, &["-s", "reload"], "gate.conf");
        assert_eq!(sent.status.code(), Some(0), "{}", String::from_utf8_lossy(&sent.stderr));
        wait_for("the new configuration", || {
            let got = Client::asking(gate.addr, GET).reply().map_or(last, |reply| reply.status);
            std::mem::replace(&mut last, got) == status
        });
    }
    assert_eq!(gate.folder.lines("gate.pid"), [gate.pid().to_string()]);
    let mut other = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
    // In place, as the account could do it: another file would not be held.
    let file = fs::OpenOptions::new().write(true).truncate(true).open(gate.folder.path("gate.pid")).unwrap();
    std::io::Write::write_all(&mut &file, format!("{}\n", other.id()).as_bytes()).unwrap();
    let mut gate = gate;
    assert_eq!(run(&gate.folder, &["-s", "stop"], "gate.conf").status.code(), Some(0));
    assert_eq!(gate.ends_within(crate::harness::PATIENCE), Some(0));
    assert!(other.try_wait().unwrap().is_none());
    other.kill().unwrap();
    other.wait().unwrap();
}

/// A program that ends leaves the pid file of another one alone.
#[test]
fn the_pid_file_of_another_stays() {
    let mut gate = Gate::start("server { listen LISTEN; return 204; }");
    let path = gate.folder.path("gate.pid");
    fs::rename(&path, gate.folder.path("gate.pid.old")).unwrap();
    gate.folder.write("gate.pid", "1\n");
    gate.signal("TERM");
    assert_eq!(gate.ends_within(crate::harness::PATIENCE), Some(0));
    assert!(Path::new(&path).exists());
}
