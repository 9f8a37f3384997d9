//! TLS with OpenSSL and curl as clients, where they are installed.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::cases::{case, check, check_equal, run_concurrently};
use crate::harness::{Proxy, TempDir};
use crate::peer::Peer;
use crate::tls::{certificates, start};
use crate::tls_fixtures::certificate_authority;

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

/// Runs a line of shell in `dir`, in which `$A` is the address of the proxy and `$P` its port. Returns its output.
fn shell(dir: &TempDir, proxy: &Proxy, line: &str) -> String {
    let mut command = Command::new("sh");
    command.current_dir(dir.path("")).args(["-c", line]);
    let out = command.env("A", proxy.addr.to_string()).env("P", proxy.addr.port().to_string()).output().unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

/// The shell command for a request by `openssl s_client`, with more flags.
fn s_client(flags: &str) -> String {
    format!(
        "printf 'GET / HTTP/1.1\\r\\nHost: a.example\\r\\nConnection: close\\r\\n\\r\\n' |
         openssl s_client -connect $A -CAfile ca.crt -ign_eof {flags} 2>&1"
    )
}

#[test]
fn sessions_server_names_and_key_types() {
    if !is_installed("openssl") {
        return;
    }
    let (dir, _) = certificates();
    let openssl = Command::new("sh").current_dir(dir.path("")).args(["-c", RSA]).output().unwrap();
    assert!(openssl.status.success(), "{}", String::from_utf8_lossy(&openssl.stderr));
    let proxy = start(
        &dir,
        "server { listen LISTEN ssl; server_name a.example; ssl_certificate DIRECTORYrsa.crt; ssl_certificate_key DIRECTORYrsa.key;
            ssl_certificate DIRECTORYa.crt; ssl_certificate_key DIRECTORYa.key; return 200 reused=$ssl_session_reused,$ssl_cipher; }
         server { listen LISTEN ssl; server_name b.example; ssl_certificate DIRECTORYb.crt; ssl_certificate_key DIRECTORYb.key;
            return 200; }",
        &[],
    );
    let prints = |flags: &str, texts: &[&str]| {
        let output = shell(&dir, &proxy, &s_client(flags));
        check(texts.iter().all(|text| output.contains(text)), || format!("{texts:?} in {output}"))
    };
    let resumed = |name: &str, flags: &str| {
        prints(&format!("{flags} -sess_out {name}"), &["New, ", "reused=."])?;
        prints(&format!("{flags} -sess_in {name} -sess_out {name}"), &["Reused, ", "reused=r"])?;
        prints(&format!("{flags} -sess_in {name}"), &["Reused, ", "reused=r"])
    };
    run_concurrently(vec![
        case("resumed, TLS 1.2", || resumed("12", "-tls1_2 -servername a.example")),
        case("resumed, TLS 1.3", || resumed("13", "-tls1_3 -servername a.example")),
        case("not with another name", || {
            prints("-tls1_3 -servername a.example -sess_out other", &["New, "])?;
            prints("-tls1_3 -servername b.example -sess_in other", &["New, ", "CN = b.example"])
        }),
        case("a server name", || prints("-servername b.example", &["CN = b.example", "Verify return code: 0 (ok)"])),
        case("ECDSA first", || prints("-servername a.example", &["Peer signature type: ECDSA"])),
        case("ECDSA first, TLS 1.2", || prints("-tls1_2", &["ECDHE-ECDSA-AES", "Peer signature type: ECDSA"])),
        case("RSA for a client without ECDSA", || {
            prints("-sigalgs rsa_pss_rsae_sha256", &["Peer signature type: RSA-PSS"])
        }),
        case("RSA for a client without ECDSA, TLS 1.2", || {
            prints("-tls1_2 -cipher ECDHE-RSA-AES256-GCM-SHA384", &["reused=.,ECDHE-RSA-AES256-GCM-SHA384"])
        }),
        case("ChaCha20 for a client that prefers it", || {
            prints(
                "-ciphersuites TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256",
                &["TLS_CHACHA20_POLY1305_SHA256"],
            )
        }),
        case("P-384", || prints("-curves P-384", &["ECDH, secp384r1, 384 bits"])),
        case("TLS 1.1", || prints("-tls1_1 -cipher DEFAULT@SECLEVEL=0", &["alert protocol version"])),
        case("no common curve", || prints("-tls1_3 -curves X448", &["alert handshake failure"])),
        case("ALPN", || prints("-alpn h2,http/1.1", &["ALPN protocol: http/1.1"])),
    ]);
}

const RSA: &str = "openssl req -x509 -newkey rsa:2048 -nodes -keyout rsa.key -out rsa.crt -subj /CN=a.example -days 30";

#[test]
fn client_certificates_by_curl() {
    if !is_installed("curl") {
        return;
    }
    let (dir, _) = certificates();
    let (issuer, stranger) = (certificate_authority("issuer"), certificate_authority("stranger"));
    dir.write("issuer.crt", issuer.pem());
    dir.write("revoked.crl", issuer.revocation_list(&[66]));
    let serial = |number: u64| {
        issuer.issue_with("device", |params| params.serial_number = Some(rcgen::SerialNumber::from(number)))
    };
    serial(65).write(&dir, "valid");
    serial(66).write(&dir, "revoked");
    issuer.issue_with("old", |params| params.not_after = rcgen::date_time_ymd(2024, 1, 1)).write(&dir, "expired");
    stranger.issue("device").write(&dir, "unknown");
    let proxy = start(
        &dir,
        "server { listen LISTEN ssl; server_name a.example; ssl_certificate DIRECTORYa.crt; ssl_certificate_key DIRECTORYa.key;
            ssl_client_certificate DIRECTORYissuer.crt; ssl_crl DIRECTORYrevoked.crl; ssl_verify_client on;
            return 200 $ssl_client_verify:$ssl_client_s_dn; }",
        &[],
    );
    let curl = "curl -sS --noproxy '*' -m 20 --cacert ca.crt --resolve a.example:$P:127.0.0.1 -w ' %{http_code}'";
    let curl_prints = |flags: &str, expected: &str| {
        let output = shell(&dir, &proxy, &format!("{curl} {flags} https://a.example:$P/ | tail -n 1"));
        check_equal("curl", output.trim().as_bytes(), expected.as_bytes())
    };
    let with_certificate = |name: &str, expected: &str| {
        curl_prints(&format!("--tlsv1.3 --cert {name}.crt --key {name}.key"), expected)?;
        curl_prints(&format!("--tls-max 1.2 --cert {name}.crt --key {name}.key"), expected)
    };
    run_concurrently(vec![
        case("valid", || with_certificate("valid", "SUCCESS:CN=device 200")),
        case("expired", || with_certificate("expired", "400")),
        case("of another issuer", || with_certificate("unknown", "400")),
        case("revoked", || with_certificate("revoked", "400")),
        case("none", || curl_prints("", "400")),
        case("plain HTTP", || {
            let output = shell(&dir, &proxy, &format!("{curl} http://a.example:$P/"));
            check(output.contains("sent to HTTPS port") && output.ends_with(" 400"), || output)
        }),
    ]);
}

/// The commands of docs/https-at-home.md make a CA and a certificate that clients accept for every name and address of it.
#[test]
fn an_own_ca() {
    const PAGE: &str = include_str!("../../docs/https-at-home.md");
    const HUB: &str = include_str!("../../configs/hub-tls.conf");
    if !is_installed("openssl") || !is_installed("curl") {
        return;
    }
    let dir = TempDir::new();
    for commands in PAGE.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()) {
        let done = Command::new("sh").current_dir(dir.path("")).args(["-ec", commands]).output().unwrap();
        assert!(done.status.success(), "{commands}: {}", String::from_utf8_lossy(&done.stderr));
    }
    std::fs::set_permissions(dir.path("hub.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let peer = Peer::start(|connection| {
        while let Some(request) = connection.read_request() {
            connection.respond(&request, "home");
        }
    });
    let directory = dir.path("").display().to_string();
    let config = HUB
        .replace("/etc/smolgate/tls", directory.trim_end_matches('/'))
        .replace("listen [::]:443 ssl default_server;", "")
        .replace("listen [::]:443 ssl;", "")
        .replace("listen [::]:80 default_server;", "")
        .replace("listen 443", "listen LISTEN")
        .replace("listen 80", "listen OTHER")
        .replace("127.0.0.1:8123", &peer.addr.to_string())
        .replace("error_log stderr;", "pid smolgate.pid; error_log error.log info;");
    let proxy = Proxy::start(&config);
    let port = proxy.addr.port();
    for name in ["hub.home.arpa", "nodered.home.arpa", "esphome.home.arpa", "192.168.1.2"] {
        let resolve = format!("--connect-to {name}:443:127.0.0.1:{port}");
        let output = shell(
            &dir,
            &proxy,
            &format!("curl -sS --cacert ca.crt {resolve} https://{name}/ -o body -w '%{{http_code}}'"),
        );
        let expected = if name.contains("nodered") || name.contains("esphome") { "502" } else { "200" };
        assert_eq!(output, expected, "{name}");
    }
    assert_eq!(dir.lines("body"), ["home"]);
    let output = shell(
        &dir,
        &proxy,
        &format!(
            "curl -sS http://{}/ca.crt; curl -sS -o body -w '%{{redirect_url}}' http://{}/a",
            proxy.other, proxy.other
        ),
    );
    assert!(output.contains("BEGIN CERTIFICATE") && output.ends_with("https://127.0.0.1/a"), "{output}");
    let output = shell(&dir, &proxy, &format!("curl -sS --cacert ca.crt https://127.0.0.1:{port}/"));
    assert!(output.contains("certificate subject name"), "{output}");
}
