//! Keys that only root may read, when root has become somebody else.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::harness::{Proxy, TempDir, is_root, wait_for};
use crate::tls_fixtures::{CertKey, TlsConnector, certificate_authority};

/// Writes a certificate and its key as certbot does: nobody but their owner reads them, or even finds them.
fn hide(dir: &TempDir, made: &CertKey) {
    made.write(dir, "a");
    fs::set_permissions(dir.path("a.key"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(dir.path(""), fs::Permissions::from_mode(0o700)).unwrap();
}

/// The powers that each thread of a proxy can ever get again.
fn bounds(proxy: &Proxy) -> Vec<u64> {
    let threads = fs::read_dir(format!("/proc/{}/task", proxy.pid())).unwrap().flatten();
    let texts = threads.filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
    let bound = |text: String| {
        let line = text.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap_or_default();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    texts.map(bound).collect()
}

/// The threads of a proxy that may read everything (bit 2), and all that they may do.
fn powers(proxy: &Proxy) -> Vec<(String, u64)> {
    let threads = fs::read_dir(format!("/proc/{}/task", proxy.pid())).unwrap().flatten();
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
    let dir = TempDir::new();
    let ca = certificate_authority("authority");
    hide(&dir, &ca.issue("a.example"));
    if fs::metadata(dir.path("")).unwrap().permissions().mode() & 0o7777 != 0o700 || !is_root() {
        return; // who is not root can't become somebody else
    }
    let path = dir.path("").display().to_string();
    let config = format!(
        "worker_processes 2; server {{ listen LISTEN ssl; ssl_certificate {path}a.crt; ssl_certificate_key {path}a.key;
         location / {{ return 200 $pid; }} location /key {{ alias {path}a.key; }} }}"
    );
    let proxy = Proxy::start(&config);
    let clients = TlsConnector::trusting(&ca, None);
    let shown = || clients.connect(proxy.addr, "a.example").map(|client| client.certificate()).unwrap_or_default();
    let only_one_thread = || {
        let all = powers(&proxy);
        let (mighty, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, powers)| powers & 4 != 0);
        assert_eq!(mighty.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["keeper"], "{others:?}");
        assert!(others.iter().all(|(_, powers)| powers & !(1 << 10) == 0), "{others:?}"); // binding, at most
        assert!(bounds(&proxy).iter().all(|bound| bound & !(1 << 10 | 1 << 2) == 0), "{:x?}", bounds(&proxy));
        let mut client = clients.connect(proxy.addr, "a.example").unwrap();
        client.request(b"GET /key HTTP/1.1\r\nHost: a\r\n\r\n", 403).unwrap();
    };
    assert!(!shown().is_empty());
    only_one_thread();
    for signal in ["HUP", "USR2", "HUP"] {
        let renewed = ca.issue("a.example");
        hide(&dir, &renewed);
        proxy.signal(signal);
        wait_for("the new certificate", || shown() == renewed.der());
        only_one_thread();
    }
    assert!(
        !proxy.error_lines().iter().any(|line| line.contains("denied") && !line.contains("/key")),
        "{:?}",
        proxy.error_lines()
    );
}

/// Where the account can read all keys there is nothing that may read more, and a key of root's that comes later is refused.
#[test]
fn no_thread_may_read_everything_without_need() {
    if !is_root() {
        return eprintln!("skipped: only root can become another user");
    }
    let (open, hidden) = (TempDir::new(), TempDir::new());
    let ca = certificate_authority("authority");
    ca.issue("a.example").write(&open, "a");
    fs::set_permissions(open.path("a.key"), fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(open.path("a.key"), None, Some(65534)).unwrap();
    hide(&hidden, &ca.issue("a.example"));
    let config = |dir: &TempDir, more: &str| {
        let path = dir.path("").display().to_string();
        format!(
            "server {{ listen LISTEN ssl; ssl_certificate {path}a.crt; ssl_certificate_key {path}a.key; return 204; }} {more}"
        )
    };
    let proxy = Proxy::start(&config(&open, ""));
    let clients = TlsConnector::trusting(&ca, None);
    let serves = || {
        clients
            .connect(proxy.addr, "a.example")
            .map(|mut client| client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 204).is_ok())
    };
    let nothing_more = || {
        let all = powers(&proxy);
        assert!(all.iter().all(|(name, powers)| name != "keeper" && powers & !(1 << 10) == 0), "{all:?}");
        assert!(bounds(&proxy).iter().all(|bound| bound & !(1 << 10) == 0), "{:x?}", bounds(&proxy));
    };
    assert_eq!(serves(), Ok(true));
    nothing_more();
    proxy.write_config(&config(&hidden, ""));
    proxy.signal("HUP");
    let refused = ["not taken: ", "a.crt\": Permission denied", "have root restart the program"];
    proxy.wait_for_error_line(&refused).unwrap();
    proxy.signal("USR2");
    proxy.wait_for_error_line(&["no upgrade: ", "have root restart the program"]).unwrap();
    proxy.write_config(&config(&open, "# the next"));
    proxy.signal("USR2");
    wait_for("the next program", || proxy.error_lines().iter().filter(|line| line.contains("listens on")).count() == 2);
    assert_eq!(serves(), Ok(true));
    nothing_more();
}
