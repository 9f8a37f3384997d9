//! Chains that an attacker would send, verified here and by OpenSSL, if that is installed.
//!
//! What OpenSSL rejects must be rejected here. Where only one of the two rejects a chain, its case says so.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_rustls::rustls;
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose as Eku, IsCa};
use rcgen::{GeneralSubtree, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SanType, SerialNumber};
use rustls::pki_types::CertificateDer;

use crate::tls::server_config::crypto_provider;
use crate::tls::verify::chain::{Purpose, Verifier, VerifyError};
use crate::tls::verify::host::is_valid_for;
use crate::tls::verify::x509::Certificate;

struct TestCert {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
    der: CertificateDer<'static>,
}

type Edit<'e> = &'e dyn Fn(&mut CertificateParams);

fn params(name: &str, edit: Edit<'_>) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true; // by which OpenSSL selects among issuers of one name
    params.not_before = rcgen::date_time_ymd(2024, 1, 1);
    params.not_after = rcgen::date_time_ymd(4000, 1, 1);
    edit(&mut params);
    params
}

fn root_with(name: &str, edit: Edit<'_>) -> TestCert {
    let params = params(name, &|params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        edit(params);
    });
    let key = KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap();
    TestCert { pem: cert.pem(), der: cert.der().clone(), params, key }
}

fn root(name: &str) -> TestCert {
    root_with(name, &|_| {})
}

impl TestCert {
    fn issue(&self, name: &str, edit: Edit<'_>) -> Self {
        self.issue_with_key(KeyPair::generate().unwrap(), params(name, edit))
    }

    fn issue_with_key(&self, key: KeyPair, params: CertificateParams) -> Self {
        let cert = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).unwrap();
        Self { pem: cert.pem(), der: cert.der().clone(), params, key }
    }

    fn issue_ca(&self, name: &str, edit: Edit<'_>) -> Self {
        self.issue(name, &|params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            edit(params);
        })
    }
}

fn custom_extension(id: &[u64], critical: bool, value: &[u8]) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(id, value.to_vec());
    extension.set_criticality(critical);
    extension
}

const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const EXT_KEY_USAGE: &[u64] = &[2, 5, 29, 37];
const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];

/// Whether OpenSSL accepts a chain; `None` where it is not installed.
fn verify_with_openssl(anchors: &[&TestCert], chain: &[&TestCert], purpose: Purpose) -> Option<bool> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let directory = std::env::temp_dir().join(format!("smolgate-hostile-{}-{number}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let bundle = |certs: &[&TestCert]| certs.iter().map(|cert| cert.pem.as_str()).collect::<String>();
    fs::write(directory.join("anchors"), bundle(anchors)).unwrap();
    fs::write(directory.join("sent"), bundle(chain)).unwrap();
    fs::write(directory.join("own"), &chain[0].pem).unwrap();
    let purpose = if purpose == Purpose::Server { "sslserver" } else { "sslclient" };
    let output = Command::new("openssl")
        .args(["verify", "-no-CApath", "-no-CAstore", "-verify_depth", "3", "-purpose", purpose])
        .args(["-CAfile", "anchors", "-untrusted", "sent", "own"])
        .current_dir(&directory)
        .output();
    fs::remove_dir_all(&directory).unwrap();
    Some(output.ok()?.status.success())
}

fn verify_here(anchors: &[&TestCert], chain: &[&TestCert], purpose: Purpose) -> Result<(), VerifyError> {
    let verifier = Verifier {
        anchors: anchors.iter().map(|cert| cert.der.clone()).collect(),
        crls: Vec::new(),
        depth: 3,
        algorithms: crypto_provider().signature_verification_algorithms,
    };
    let chain: Vec<_> = chain.iter().map(|cert| cert.der.clone()).collect();
    verifier.verify(&chain, purpose, 1_790_000_000)
}

/// A name, the anchors, the chain that is sent, and the result.
type Case<'c> = (&'c str, &'c [&'c TestCert], &'c [&'c TestCert], Result<(), VerifyError>);

/// What OpenSSL says of a case.
#[derive(Clone, Copy)]
enum OpensslResult {
    Same,
    Accepts,
    Rejects,
}
use OpensslResult::{Accepts, Rejects, Same};

fn check_cases(cases: &[Case<'_>], purpose: Purpose, openssl: OpensslResult) {
    for (id, anchors, chain, expected) in cases {
        assert_eq!(verify_here(anchors, chain, purpose), *expected, "{id}");
        if let Some(is_accepted) = verify_with_openssl(anchors, chain, purpose) {
            let expected = match openssl {
                Same => expected.is_ok(),
                Accepts => true,
                Rejects => false,
            };
            assert_eq!(is_accepted, expected, "OpenSSL: {id}");
        }
    }
}

#[test]
fn only_a_ca_with_cert_sign_issues() {
    let ca = root("ca");
    let leaf = ca.issue("leaf", &|_| {});
    let explicit_no_ca = ca.issue("no ca", &|params| {
        params.is_ca = IsCa::ExplicitNoCa;
    });
    let no_cert_sign = ca.issue_ca("no sign", &|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    let path_len_0 = ca.issue_ca("none", &|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let below_path_len_0 = path_len_0.issue_ca("below", &|_| {});
    // A rollover certificate, which is self-issued, does not count towards the length (RFC 5280 6.1.4 l).
    let rollover = path_len_0.issue_ca("none", &|_| {});
    let path_len_1 = root_with("one", &|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1)));
    let first = path_len_1.issue_ca("first", &|_| {});
    let second = first.issue_ca("second", &|_| {});
    let server_ca = ca.issue_ca("for servers", &|params| params.extended_key_usages = vec![Eku::ServerAuth]);
    let expired = ca.issue_ca("old", &|params| params.not_after = rcgen::date_time_ymd(2025, 1, 1));
    let early = ca.issue_ca("early", &|params| params.not_before = rcgen::date_time_ymd(3999, 1, 1));
    let expired_root = root_with("old root", &|params| params.not_after = rcgen::date_time_ymd(2025, 1, 1));
    let issued = |by: &TestCert| by.issue("victim", &|_| {});
    let all: Vec<TestCert> = [
        &leaf,
        &explicit_no_ca,
        &no_cert_sign,
        &path_len_0,
        &below_path_len_0,
        &rollover,
        &first,
        &second,
        &server_ca,
        &expired,
        &early,
        &expired_root,
    ]
    .map(issued)
    .into();
    let [
        by_leaf,
        by_no_ca,
        by_no_cert_sign,
        by_none,
        by_below,
        by_again,
        by_first,
        by_second,
        by_servers,
        by_expired,
        by_early,
        by_root,
    ] = all.iter().collect::<Vec<_>>()[..]
    else {
        unreachable!()
    };
    let anchors: &[&TestCert] = &[&ca];
    let cases: &[Case<'_>] = &[
        ("issuer without basicConstraints", anchors, &[by_leaf, &leaf], Err(VerifyError::InvalidCa)),
        ("issuer with CA:FALSE", anchors, &[by_no_ca, &explicit_no_ca], Err(VerifyError::InvalidCa)),
        ("issuer without keyCertSign", anchors, &[by_no_cert_sign, &no_cert_sign], Err(VerifyError::InvalidCa)),
        ("pathlen 0, no CA below", anchors, &[by_none, &path_len_0], Ok(())),
        ("pathlen 0, a CA below", anchors, &[by_below, &below_path_len_0, &path_len_0], Err(VerifyError::InvalidCa)),
        ("pathlen 0, a rollover below", anchors, &[by_again, &rollover, &path_len_0], Ok(())),
        ("pathlen 1, one CA below", &[&path_len_1], &[by_first, &first], Ok(())),
        ("pathlen 1, two CAs below", &[&path_len_1], &[by_second, &second, &first], Err(VerifyError::InvalidCa)),
        ("issuer for serverAuth only", anchors, &[by_servers, &server_ca], Err(VerifyError::WrongPurpose)),
        ("expired issuer", anchors, &[by_expired, &expired], Err(VerifyError::Expired)),
        ("issuer not valid yet", anchors, &[by_early, &early], Err(VerifyError::NotYetValid)),
        ("expired root", &[&expired_root], &[by_root], Err(VerifyError::Expired)),
    ];
    check_cases(cases, Purpose::Client, Same);
    check_cases(&[("issuer for serverAuth only", anchors, &[by_servers, &server_ca], Ok(()))], Purpose::Server, Same);
}

#[test]
fn paths_to_the_root() {
    let (ca, other) = (root("ca"), root("other"));
    let middle = ca.issue_ca("middle", &|_| {});
    let leaf = middle.issue("leaf", &|_| {});
    let stray = ca.issue("stray", &|_| {});
    // The same name and key, certified by another CA and with other dates.
    let cross_signed = |by: &TestCert, until: i32| {
        let key = KeyPair::from_pem(&middle.key.serialize_pem()).unwrap();
        let mut params = middle.params.clone();
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        by.issue_with_key(key, params)
    };
    let (by_other, old) = (cross_signed(&other, 4000), cross_signed(&ca, 2025));
    // Two CAs that certify each other.
    let (one, two) = (root("one"), root("two"));
    let reissue = |own: &TestCert, by: &TestCert| {
        by.issue_with_key(KeyPair::from_pem(&own.key.serialize_pem()).unwrap(), own.params.clone())
    };
    let (one_by_two, two_by_one) = (reissue(&one, &two), reissue(&two, &one));
    let orphan = one.issue("orphan", &|_| {});
    let mut chain = vec![root("r0")];
    for at in 0..12 {
        let next = chain[at].issue_ca(&format!("r{}", at + 1), &|_| {});
        chain.push(next);
    }
    let mut long: Vec<&TestCert> = chain.iter().collect();
    long.reverse();
    let (false_ca, namesake) = (root("ca"), root("ca").issue("leaf", &|_| {}));
    let cases: &[Case<'_>] = &[
        ("in order", &[&ca], &[&leaf, &middle], Ok(())),
        (
            "unordered, with unrelated and duplicate ones",
            &[&ca],
            &[&leaf, &stray, &ca, &middle, &other, &middle],
            Ok(()),
        ),
        ("a cycle", &[&ca], &[&orphan, &one_by_two, &two_by_one], Err(VerifyError::UnknownIssuer)),
        ("a cycle with a trusted member", &[&two], &[&orphan, &one_by_two, &two_by_one], Ok(())),
        ("too deep", &[&chain[0]], &long[..12], Err(VerifyError::ChainTooLong)),
        ("as deep as allowed", &[&chain[0]], &long[8..12], Ok(())),
        ("one deeper than allowed", &[&chain[0]], &long[7..12], Err(VerifyError::ChainTooLong)),
        ("issued by another root of the same name", &[&ca], &[&namesake], Err(VerifyError::BadSignature)),
        ("the same, with that root sent", &[&ca], &[&namesake, &false_ca], Err(VerifyError::BadSignature)),
        ("only the intermediate is trusted", &[&middle], &[&leaf], Err(VerifyError::IncompleteChain)),
    ];
    check_cases(cases, Purpose::Client, Same);
    // OpenSSL tries only one of two issuers with the same name.
    let cases: &[Case<'_>] = &[
        ("cross-signed, the trusted one last", &[&ca], &[&leaf, &by_other, &middle], Ok(())),
        ("cross-signed, the trusted one first", &[&other], &[&leaf, &middle, &by_other], Ok(())),
    ];
    check_cases(cases, Purpose::Client, Rejects);
    let cases: &[Case<'_>] = &[("an expired one beside a valid one", &[&ca], &[&leaf, &old, &middle], Ok(()))];
    check_cases(cases, Purpose::Client, Same);
}

#[test]
fn usages_and_critical_extensions() {
    let ca = root("ca");
    let issued = |edit: Edit<'_>| ca.issue("leaf", edit);
    let custom = |all: &[CustomExtension]| ca.issue("leaf", &|params| params.custom_extensions = all.to_vec());
    let client = issued(&|params| params.extended_key_usages = vec![Eku::ClientAuth]);
    let server = issued(&|params| params.extended_key_usages = vec![Eku::ServerAuth]);
    let any = issued(&|params| params.extended_key_usages = vec![Eku::Any]);
    let code = issued(&|params| params.extended_key_usages = vec![Eku::CodeSigning]);
    let key_encipherment = issued(&|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment]);
    let key_agreement = issued(&|params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement]);
    let unknown = custom(&[custom_extension(&[1, 2, 3, 4], true, &[5, 0])]);
    let harmless = custom(&[custom_extension(&[1, 2, 3, 4], false, &[5, 0])]);
    let twice =
        custom(&[custom_extension(&[1, 2, 3, 4], false, &[5, 0]), custom_extension(&[1, 2, 3, 4], true, &[5, 0])]);
    let wrong_purpose = Err(VerifyError::WrongPurpose);
    let critical = Err(VerifyError::UnhandledCriticalExtension);
    let anchors: &[&TestCert] = &[&ca];
    let cases: &[Case<'_>] = &[
        ("clientAuth", anchors, &[&client], Ok(())),
        ("serverAuth", anchors, &[&server], wrong_purpose),
        ("anyExtendedKeyUsage", anchors, &[&any], wrong_purpose),
        ("codeSigning", anchors, &[&code], wrong_purpose),
        ("keyEncipherment", anchors, &[&key_encipherment], wrong_purpose),
        ("keyAgreement", anchors, &[&key_agreement], Ok(())),
        ("unknown critical extension", anchors, &[&unknown], critical),
        ("unknown extension", anchors, &[&harmless], Ok(())),
        ("an unknown extension twice, critical the second time", anchors, &[&twice], critical),
    ];
    check_cases(cases, Purpose::Client, Same);
    let cases: &[Case<'_>] = &[
        ("clientAuth", anchors, &[&client], wrong_purpose),
        ("serverAuth", anchors, &[&server], Ok(())),
        ("anyExtendedKeyUsage", anchors, &[&any], wrong_purpose),
        ("keyEncipherment", anchors, &[&key_encipherment], Ok(())),
    ];
    check_cases(cases, Purpose::Server, Same);
}

/// A duplicate extension is rejected: two readers would disagree about which one counts.
#[test]
fn duplicate_extensions() {
    let ca = root("ca");
    let twice = |first: CustomExtension, second: CustomExtension| {
        ca.issue("leaf", &|params| params.custom_extensions = vec![first.clone(), second.clone()])
    };
    let yes = [0x30, 3, 1, 1, 0xff];
    let client = [0x30, 10, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 2];
    let cases = [
        twice(custom_extension(BASIC_CONSTRAINTS, true, &[0x30, 0]), custom_extension(BASIC_CONSTRAINTS, true, &yes)),
        twice(custom_extension(KEY_USAGE, true, &[3, 2, 7, 0x80]), custom_extension(KEY_USAGE, true, &[3, 2, 2, 4])),
        twice(custom_extension(EXT_KEY_USAGE, false, &client), custom_extension(EXT_KEY_USAGE, false, &client)),
        twice(
            custom_extension(SUBJECT_ALT_NAME, false, &[0x30, 3, 0x82, 1, b'a']),
            custom_extension(SUBJECT_ALT_NAME, false, &[0x30, 3, 0x82, 1, b'b']),
        ),
    ];
    for (at, cert) in cases.iter().enumerate() {
        assert!(Certificate::parse(&cert.der).is_none(), "{at}");
        assert_eq!(verify_here(&[&ca], &[cert], Purpose::Client), Err(VerifyError::Malformed), "{at}");
    }
}

/// Name constraints are not applied here, so a CA that has some can issue nothing, even if they are not critical.
#[test]
fn name_constraints_are_not_ignored() {
    let ca = root("ca");
    let constrained = ca.issue_ca("constrained", &|params| {
        let permitted_subtrees = vec![GeneralSubtree::DnsName("good.example".to_owned())];
        params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
    });
    let constraint = [0x30, 10, 0xa0, 8, 0x30, 6, 0x82, 4, b'g', b'o', b'o', b'd'];
    let unmarked = ca.issue_ca("unmarked", &|params| {
        params.custom_extensions = vec![custom_extension(&[2, 5, 29, 30], false, &constraint)];
    });
    let named = |by: &TestCert, name: &str| {
        by.issue("leaf", &|params| params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())])
    };
    let (bad, also_bad) = (named(&constrained, "bad.example"), named(&unmarked, "bad.example"));
    let good = named(&constrained, "good.example");
    let (anchors, critical): (&[&TestCert], _) = (&[&ca], Err(VerifyError::UnhandledCriticalExtension));
    let cases: &[Case<'_>] = &[
        ("a name outside", anchors, &[&bad, &constrained], critical),
        ("a name outside, not critical", anchors, &[&also_bad, &unmarked], critical),
    ];
    check_cases(cases, Purpose::Client, Same);
    check_cases(&[("a name inside", anchors, &[&good, &constrained], critical)], Purpose::Client, Accepts);
}

/// Malformed DER: each byte of a good certificate changed, wrong lengths, padding.
#[test]
fn malformed_certificates() {
    let ca = root("ca");
    let leaf = ca.issue("leaf", &|params| params.serial_number = Some(SerialNumber::from(2u64)));
    for at in 0..leaf.der.len() {
        for byte in [0, 0x7f, 0x80, 0x84, 0xff] {
            let mut der = leaf.der.to_vec();
            if std::mem::replace(&mut der[at], byte) == byte {
                continue;
            }
            // Only the signature and its algorithm are outside of what is signed.
            let cert =
                TestCert { der: der.into(), pem: String::new(), params: leaf.params.clone(), key: key_of(&leaf) };
            assert!(verify_here(&[&ca], &[&cert], Purpose::Client).is_err(), "byte {at} as {byte:#x}");
            assert!(!is_valid_for(&cert.der, "victim.example"));
        }
    }
    for malformed in
        [&[][..], &[0x30], &[0x30, 0x80], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &[0x30, 0x83, 0xff, 0xff, 0xff]]
    {
        assert!(Certificate::parse(malformed).is_none(), "{malformed:?}");
    }
    let padded = [&leaf.der[..], &[0]].concat();
    assert!(Certificate::parse(&padded).is_none());
}

fn key_of(cert: &TestCert) -> KeyPair {
    KeyPair::from_pem(&cert.key.serialize_pem()).unwrap()
}

/// The common name counts for nothing beside a DNS name; an asterisk is one whole label at the start.
#[test]
fn hosts_of_a_certificate() {
    let named =
        |common: &str, names: &[SanType]| root_with(common, &|params| params.subject_alt_names = names.to_vec()).der;
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let ip = |text: &str| SanType::IpAddress(text.parse().unwrap());
    let cases = [
        (named("victim.example", &[dns("own.example")]), "victim.example", false),
        (named("victim.example", &[dns("own.example")]), "own.example", true),
        (named("192.0.2.1", &[dns("192.0.2.1")]), "192.0.2.1", false),
        (named("x", &[ip("192.0.2.1")]), "192.0.2.1", true),
        (named("x", &[ip("192.0.2.1")]), "::ffff:192.0.2.1", false),
        (named("x", &[ip("::ffff:192.0.2.1")]), "192.0.2.1", false),
        (named("x", &[ip("2001:db8::1")]), "2001:db8:0::1", true),
        (named("x", &[dns("*.example.com")]), "example.com", false),
        (named("x", &[dns("*.example.com")]), "a.b.example.com", false),
        (named("x", &[dns("*.example.com")]), "*.example.com", true),
        (named("x", &[dns("*.com")]), "example.com", false),
        (named("x", &[dns("*")]), "com", false),
        (named("x", &[dns("a*.example.com")]), "ab.example.com", false),
        (named("x", &[dns("a.*.com")]), "a.example.com", false),
        (named("x", &[dns("*.*.com")]), "a.b.com", false),
        (named("x", &[dns("*.0.2.1")]), "192.0.2.1", false),
        (named("victim.example\0.own.example", &[]), "victim.example", false),
        (named("", &[]), "", false),
        (named("x", &[dns("")]), "", false),
    ];
    for (at, (der, host, expected)) in cases.iter().enumerate() {
        assert_eq!(is_valid_for(der, host), *expected, "{at}: {host}");
    }
}
