//! Private keys that only root may read, after privileges were dropped.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::harness::{Proxy, TempDir, is_root, wait_for};
use crate::tls_fixtures::{CertKey, TlsConnector, certificate_authority};

/// Writes a certificate and its key as certbot does: readable only by root.
fn write_private(dir: &TempDir, cert_key: &CertKey) {
    cert_key.write(dir, "a");
    fs::set_permissions(dir.path("a.key"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(dir.path(""), fs::Permissions::from_mode(0o700)).unwrap();
}

/// Returns the capability bounding set of each thread.
fn bounding_sets(proxy: &Proxy) -> Vec<u64> {
    let threads = fs::read_dir(format!("/proc/{}/task", proxy.pid())).unwrap().flatten();
    let texts = threads.filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
    let bound = |text: String| {
        let line = text.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap_or_default();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    texts.map(bound).collect()
}

/// Returns the name and the permitted capabilities of each thread.
fn capabilities(proxy: &Proxy) -> Vec<(String, u64)> {
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
fn keys_of_root_are_read_again() {
    let dir = TempDir::new();
    let ca = certificate_authority("authority");
    write_private(&dir, &ca.issue("a.example"));
    if fs::metadata(dir.path("")).unwrap().permissions().mode() & 0o7777 != 0o700 || !is_root() {
        return; // only root can change its user
    }
    let path = dir.path("").display().to_string();
    let config = format!(
        "worker_processes 2; server {{ listen LISTEN ssl; ssl_certificate {path}a.crt; ssl_certificate_key {path}a.key;
         location / {{ return 200 $pid; }} location /key {{ alias {path}a.key; }} }}"
    );
    let proxy = Proxy::start(&config);
    let clients = TlsConnector::trusting(&ca, None);
    let certificate =
        || clients.connect(proxy.addr, "a.example").map(|client| client.certificate()).unwrap_or_default();
    let check_capabilities = || {
        let all = capabilities(&proxy);
        let (readers, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, permitted)| permitted & 4 != 0);
        assert_eq!(readers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["key-reader"], "{others:?}");
        assert!(others.iter().all(|(_, permitted)| permitted & !(1 << 10) == 0), "{others:?}"); // at most CAP_NET_BIND_SERVICE
        assert!(
            bounding_sets(&proxy).iter().all(|bound| bound & !(1 << 10 | 1 << 2) == 0),
            "{:x?}",
            bounding_sets(&proxy)
        );
        let mut client = clients.connect(proxy.addr, "a.example").unwrap();
        client.request(b"GET /key HTTP/1.1\r\nHost: a\r\n\r\n", 403).unwrap();
    };
    assert!(!certificate().is_empty());
    check_capabilities();
    for signal in ["HUP", "USR2", "HUP"] {
        let renewed = ca.issue("a.example");
        write_private(&dir, &renewed);
        proxy.signal(signal);
        wait_for("the new certificate", || certificate() == renewed.der());
        check_capabilities();
    }
    assert!(
        !proxy.error_lines().iter().any(|line| line.contains("denied") && !line.contains("/key")),
        "{:?}",
        proxy.error_lines()
    );
}

/// If the unprivileged user can read all keys, no thread keeps the capability, and a key of root's in a reload is rejected.
#[test]
fn no_thread_keeps_the_capability_without_need() {
    if !is_root() {
        return eprintln!("skipped: only root can become another user");
    }
    let (open, hidden) = (TempDir::new(), TempDir::new());
    let ca = certificate_authority("authority");
    ca.issue("a.example").write(&open, "a");
    fs::set_permissions(open.path("a.key"), fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(open.path("a.key"), None, Some(65534)).unwrap();
    write_private(&hidden, &ca.issue("a.example"));
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
    let check_capabilities = || {
        let all = capabilities(&proxy);
        assert!(all.iter().all(|(name, permitted)| name != "key-reader" && permitted & !(1 << 10) == 0), "{all:?}");
        assert!(bounding_sets(&proxy).iter().all(|bound| bound & !(1 << 10) == 0), "{:x?}", bounding_sets(&proxy));
    };
    assert_eq!(serves(), Ok(true));
    check_capabilities();
    proxy.write_config(&config(&hidden, ""));
    proxy.signal("HUP");
    let refused =
        ["reload failed, keeping the old configuration: ", "a.crt\": Permission denied", "restart smolgate as root"];
    proxy.wait_for_error_line(&refused).unwrap();
    proxy.signal("USR2");
    proxy
        .wait_for_error_line(&["binary upgrade failed, continuing with the old binary: ", "restart smolgate as root"])
        .unwrap();
    proxy.write_config(&config(&open, "# changed"));
    proxy.signal("USR2");
    wait_for("the new binary", || proxy.error_lines().iter().filter(|line| line.contains("listens on")).count() == 2);
    assert_eq!(serves(), Ok(true));
    check_capabilities();
}
