//! Keys that only root may read, when root has become somebody else.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::gate::{Folder, Gate, wait_for};
use crate::secrets::{Clients, Made, authority};

/// Writes a certificate and its key as certbot does: nobody but their owner reads them, or even finds them.
fn hide(folder: &Folder, made: &Made) {
    made.write(folder, "a");
    fs::set_permissions(folder.path("a.key"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(folder.path(""), fs::Permissions::from_mode(0o700)).unwrap();
}

/// The threads of a gate that may read everything (bit 2), and all that they may do.
fn powers(gate: &Gate) -> Vec<(String, u64)> {
    let threads = fs::read_dir(format!("/proc/{}/task", gate.pid())).unwrap().flatten();
    let mut all: Vec<(String, u64)> = threads
        .filter_map(|thread| {
            let text = fs::read_to_string(thread.path().join("status")).ok()?;
            let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
            Some((line("Name:").to_owned(), u64::from_str_radix(line("CapPrm:"), 16).unwrap()))
        })
        .collect();
    all.sort();
    all
}

#[test]
fn keys_of_root_are_read_again_by_who_was_root() {
    let folder = Folder::new();
    let ca = authority("authority");
    hide(&folder, &ca.issues("a.example"));
    if fs::metadata(folder.path("")).unwrap().permissions().mode() & 0o7777 != 0o700 || !is_root() {
        return; // who is not root can't become somebody else
    }
    let path = folder.path("").display().to_string();
    let config = format!(
        "worker_processes 2; server {{ listen LISTEN ssl; ssl_certificate {path}a.crt; ssl_certificate_key {path}a.key;
         location / {{ return 200 $pid; }} location /key {{ alias {path}a.key; }} }}"
    );
    let gate = Gate::start(&config);
    let clients = Clients::trusting(&ca, None);
    let shown = || clients.connect(gate.addr, "a.example").map(|client| client.certificate()).unwrap_or_default();
    let only_one_thread = || {
        let all = powers(&gate);
        let (mighty, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, powers)| powers & 4 != 0);
        assert_eq!(mighty.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["keeper"], "{others:?}");
        assert!(others.iter().all(|(_, powers)| powers & !(1 << 10) == 0), "{others:?}"); // binding, at most
        let mut client = clients.connect(gate.addr, "a.example").unwrap();
        client.ask(b"GET /key HTTP/1.1\r\nHost: a\r\n\r\n", 403).unwrap();
    };
    assert!(!shown().is_empty());
    only_one_thread();
    for signal in ["HUP", "USR2", "HUP"] {
        let renewed = ca.issues("a.example");
        hide(&folder, &renewed);
        gate.signal(signal);
        wait_for("the new certificate", || shown() == renewed.der());
        only_one_thread();
    }
    assert!(!gate.errors().iter().any(|line| line.contains("denied") && !line.contains("/key")), "{:?}", gate.errors());
}

fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").unwrap_or_default().lines().any(|line| line.starts_with("Uid:\t0\t0"))
}
