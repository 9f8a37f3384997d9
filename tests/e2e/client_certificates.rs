//! Certificates by name, and what clients and upstreams learn of certificates: names of issuers, certificates as header values.

use std::sync::{Arc, Mutex};

use futures_rustls::rustls;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;

use crate::cases::{case, check, check_equal, run_concurrently};
use crate::peer::Peer;
use crate::tls::{PAIR, certificates, start};
use crate::tls_fixtures::{TlsConnector, certificate_authority};

#[test]
fn a_certificate_is_a_header_value() {
    let (dir, ca) = certificates();
    let issuer = certificate_authority("issuer");
    dir.write("issuer.crt", issuer.pem());
    let peer = Peer::start(|connection| {
        while let Some(request) = connection.read_request() {
            let head = request.head.clone();
            connection.respond(&request, &head);
        }
    });
    let config = format!(
        "{PAIR} server {{ listen LISTEN ssl; ssl_client_certificate DIRECTORYissuer.crt; ssl_verify_client optional_no_ca;
            proxy_pass_request_headers off;
            set $kept $ssl_client_cert;
            location /cert {{ proxy_set_header X-Cert $ssl_client_cert; proxy_pass http://PEER; }}
            location /set {{ proxy_set_header X-Cert \"a $kept b $kept\"; proxy_pass http://PEER; }}
            location /escaped {{ proxy_set_header X-Cert $ssl_client_escaped_cert; proxy_pass http://PEER; }}
            location /raw {{ proxy_set_header X-Cert $ssl_client_raw_cert; proxy_pass http://PEER; }}
            location /host {{ proxy_set_header Host $ssl_client_cert; proxy_pass http://PEER; }}
            location ~ ^/more/([^y]*)$ {{ proxy_set_header X-Cert $ssl_client_cert$1; proxy_pass http://PEER; }} }}"
    );
    let proxy = start(&dir, &config, &[("PEER", &peer)]);
    let own = issuer.issue("device");
    let folded = own.pem().replace("\r\n", "\n").trim_end().replace('\n', "\n\t");
    let clients = TlsConnector::trusting(&ca, Some(&own));
    let ask = |target: &str, status: u16| {
        let mut client = clients.connect(proxy.addr, "a.example")?;
        let response =
            client.request(format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n").as_bytes(), status)?;
        Ok::<_, String>(String::from_utf8_lossy(&response.body).into_owned())
    };
    let sends = |target: &str, value: &str| {
        let head = ask(target, 200)?;
        check(head.contains(&format!("\r\nX-Cert: {value}\r\n")), || head)
    };
    run_concurrently(vec![
        case("folded", || sends("/cert", &folded)),
        case("twice, by set", || sends("/set", &format!("a {folded} b {folded}"))),
        case("with more", || sends("/more/x", &format!("{folded}x"))),
        case("with a line break of the client", || ask("/more/%0a%09x", 400).map(drop)),
        case("escaped", || {
            let head = ask("/escaped", 200)?;
            check(head.contains("X-Cert: -----BEGIN%20CERTIFICATE-----%0A"), || head)
        }),
        case("not folded", || ask("/raw", 400).map(drop)),
        case("as a host", || ask("/host", 400).map(drop)),
        case("none", || {
            let mut client = TlsConnector::trusting(&ca, None).connect(proxy.addr, "a.example")?;
            let response = client.request(b"GET /cert HTTP/1.1\r\nHost: a.example\r\n\r\n", 200)?;
            let head = String::from_utf8_lossy(&response.body).into_owned();
            check(!head.contains("X-Cert"), || head)
        }),
    ]);
}

/// Keeps the names of issuers in a CertificateRequest, and sends no certificate.
#[derive(Debug, Default)]
struct RecordIssuers(Mutex<Vec<Vec<u8>>>);

impl ResolvesClientCert for RecordIssuers {
    fn resolve(&self, issuers: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        *self.0.lock().unwrap() = issuers.iter().map(|issuer| issuer.to_vec()).collect();
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[test]
fn an_issuer_is_named_once() {
    let (dir, ca) = certificates();
    let (first, renewed, other) =
        (certificate_authority("issuer"), certificate_authority("issuer"), certificate_authority("other"));
    dir.write("issuers.crt", [first.pem(), other.pem(), renewed.pem(), first.pem()].concat());
    let config = format!(
        "{PAIR} server {{ listen LISTEN ssl; ssl_client_certificate DIRECTORYissuers.crt; ssl_verify_client optional;
            ssl_trusted_certificate DIRECTORYissuers.crt; return 200; }}"
    );
    let proxy = start(&dir, &config, &[]);
    let record = Arc::new(RecordIssuers::default());
    let mut clients = TlsConnector::trusting(&ca, None);
    clients.config.client_auth_cert_resolver = record.clone();
    clients.connect(proxy.addr, "a.example").unwrap().request(crate::tls::GET, 200).unwrap();
    let issuers = record.0.lock().unwrap();
    check_equal("issuers", &[issuers.len() as u8], &[2]).unwrap();
    assert!(issuers[0].windows(6).any(|part| part == b"issuer") && issuers[1].windows(5).any(|part| part == b"other"));
}

#[test]
fn signature_algorithms_of_a_client_have_names() {
    let (dir, ca) = certificates();
    let proxy = start(&dir, &format!("{PAIR} server {{ listen LISTEN ssl; return 200 $ssl_sigalgs; }}"), &[]);
    let mut client = TlsConnector::trusting(&ca, None).connect(proxy.addr, "a.example").unwrap();
    let response = client.request(crate::tls::GET, 200).unwrap();
    let expected = "ecdsa_secp384r1_sha384:ecdsa_secp256r1_sha256:ed25519:rsa_pss_rsae_sha512:rsa_pss_rsae_sha384:\
        rsa_pss_rsae_sha256:rsa_pkcs1_sha512:rsa_pkcs1_sha384:rsa_pkcs1_sha256";
    check_equal("the client", &response.body, expected.as_bytes()).unwrap();
}

#[test]
fn a_server_name_names_the_files_of_a_certificate() {
    let (dir, ca) = certificates();
    ca.issue("a.example").write(&dir, "a.example");
    let config = "server { listen LISTEN ssl; ssl_certificate DIRECTORY$ssl_server_name.crt;
        ssl_certificate_key DIRECTORY${ssl_server_name}.key; return 200 $ssl_server_name; }
        server { listen OTHER ssl; ssl_certificate DIRECTORYb.crt; ssl_certificate_key DIRECTORYb.key;
        ssl_certificate DIRECTORY$ssl_server_name.crt; ssl_certificate_key DIRECTORY$ssl_server_name.key; return 200; }";
    let proxy = start(&dir, config, &[]);
    let clients = TlsConnector::trusting(&ca, None);
    for name in ["a.example", "A.Example", "a.example"] {
        let response = clients.connect(proxy.addr, name).unwrap().request(crate::tls::GET, 200).unwrap();
        check_equal("the client", &response.body, b"a.example").unwrap();
    }
    assert!(clients.connect(proxy.addr, "c.example").is_err());
    proxy.wait_for_error_line(&["cannot load", "c.example.crt"]).unwrap();
    assert!(clients.connect(proxy.addr, "127.0.0.1").is_err(), "no name");
    ca.issue("c.example").write(&dir, "c.example");
    clients.connect(proxy.addr, "c.example").unwrap().request(crate::tls::GET, 200).unwrap();
    clients.connect(proxy.other, "b.example").unwrap().request(crate::tls::GET, 200).unwrap();
}
