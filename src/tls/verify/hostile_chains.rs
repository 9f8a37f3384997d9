//! Chains as somebody would make them who wants to be let in, judged here and by OpenSSL, where that is installed.
//!
//! What OpenSSL refuses must be refused here. What it takes may be refused: that is said beside the case.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_rustls::rustls;
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose as Eku, IsCa};
use rcgen::{GeneralSubtree, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SanType, SerialNumber};
use rustls::pki_types::CertificateDer;

use crate::tls::server_config::provider;
use crate::tls::verify::chain::{Purpose, Verifier, VerifyError, is_for};
use crate::tls::verify::x509::Certificate;

struct Made {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
    der: CertificateDer<'static>,
}

type Edit<'e> = &'e dyn Fn(&mut CertificateParams);

fn params(name: &str, edit: Edit<'_>) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true; // of issuers of one name OpenSSL tries that one
    params.not_before = rcgen::date_time_ymd(2024, 1, 1);
    params.not_after = rcgen::date_time_ymd(4000, 1, 1);
    edit(&mut params);
    params
}

fn root_with(name: &str, edit: Edit<'_>) -> Made {
    let params = params(name, &|params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        edit(params);
    });
    let key = KeyPair::generate().unwrap();
    let made = params.self_signed(&key).unwrap();
    Made { pem: made.pem(), der: made.der().clone(), params, key }
}

fn root(name: &str) -> Made {
    root_with(name, &|_| {})
}

impl Made {
    fn issues(&self, name: &str, edit: Edit<'_>) -> Self {
        self.issues_for(KeyPair::generate().unwrap(), params(name, edit))
    }

    fn issues_for(&self, key: KeyPair, params: CertificateParams) -> Self {
        let made = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).unwrap();
        Self { pem: made.pem(), der: made.der().clone(), params, key }
    }

    fn middle(&self, name: &str, edit: Edit<'_>) -> Self {
        self.issues(name, &|params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            edit(params);
        })
    }
}

fn extension(id: &[u64], critical: bool, value: &[u8]) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(id, value.to_vec());
    extension.set_criticality(critical);
    extension
}

const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const PURPOSES: &[u64] = &[2, 5, 29, 37];
const NAMES: &[u64] = &[2, 5, 29, 17];

/// What OpenSSL says of a chain; `None` where there is none.
fn openssl(anchors: &[&Made], chain: &[&Made], purpose: Purpose) -> Option<bool> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("smolgate-hostile-{}-{number}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let all = |made: &[&Made]| made.iter().map(|made| made.pem.as_str()).collect::<String>();
    fs::write(folder.join("anchors"), all(anchors)).unwrap();
    fs::write(folder.join("sent"), all(chain)).unwrap();
    fs::write(folder.join("own"), &chain[0].pem).unwrap();
    let purpose = if purpose == Purpose::Server { "sslserver" } else { "sslclient" };
    let done = Command::new("openssl")
        .args(["verify", "-no-CApath", "-no-CAstore", "-verify_depth", "3", "-purpose", purpose])
        .args(["-CAfile", "anchors", "-untrusted", "sent", "own"])
        .current_dir(&folder)
        .output();
    fs::remove_dir_all(&folder).unwrap();
    Some(done.ok()?.status.success())
}

fn judge(anchors: &[&Made], chain: &[&Made], purpose: Purpose) -> Result<(), VerifyError> {
    let trust = Verifier {
        anchors: anchors.iter().map(|made| made.der.clone()).collect(),
        revoked: Vec::new(),
        depth: 3,
        algorithms: provider().signature_verification_algorithms,
    };
    let chain: Vec<_> = chain.iter().map(|made| made.der.clone()).collect();
    trust.judge(&chain, purpose, 1_790_000_000)
}

/// A case: its name, who is trusted, what is sent, and what comes of it.
type Case<'c> = (&'c str, &'c [&'c Made], &'c [&'c Made], Result<(), VerifyError>);

/// What OpenSSL makes of a case, beside us.
#[derive(Clone, Copy)]
enum Openssl {
    Same,
    Takes,
    Refuses,
}
use Openssl::{Refuses, Same, Takes};

fn verify(cases: &[Case<'_>], purpose: Purpose, beside: Openssl) {
    for (id, anchors, chain, expected) in cases {
        assert_eq!(judge(anchors, chain, purpose), *expected, "{id}");
        if let Some(taken) = openssl(anchors, chain, purpose) {
            let expected = match beside {
                Same => expected.is_ok(),
                Takes => true,
                Refuses => false,
            };
            assert_eq!(taken, expected, "OpenSSL: {id}");
        }
    }
}

#[test]
fn who_may_issue() {
    let ca = root("ca");
    let leaf = ca.issues("leaf", &|_| {});
    let no_ca = ca.issues("no ca", &|params| {
        params.is_ca = IsCa::ExplicitNoCa;
    });
    let cannot_sign = ca.middle("no sign", &|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    let none_below = ca.middle("none", &|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let below_none = none_below.middle("below", &|_| {});
    // One that signs itself anew (a rollover) does not count towards the length (RFC 5280 6.1.4 l).
    let again = none_below.middle("none", &|_| {});
    let one_below = root_with("one", &|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1)));
    let first = one_below.middle("first", &|_| {});
    let second = first.middle("second", &|_| {});
    let for_servers = ca.middle("for servers", &|params| params.extended_key_usages = vec![Eku::ServerAuth]);
    let old = ca.middle("old", &|params| params.not_after = rcgen::date_time_ymd(2025, 1, 1));
    let early = ca.middle("early", &|params| params.not_before = rcgen::date_time_ymd(3999, 1, 1));
    let old_root = root_with("old root", &|params| params.not_after = rcgen::date_time_ymd(2025, 1, 1));
    let issued = |by: &Made| by.issues("victim", &|_| {});
    let all: Vec<Made> = [
        &leaf,
        &no_ca,
        &cannot_sign,
        &none_below,
        &below_none,
        &again,
        &first,
        &second,
        &for_servers,
        &old,
        &early,
        &old_root,
    ]
    .map(issued)
    .into();
    let [
        by_leaf,
        by_no_ca,
        by_mute,
        by_none,
        by_below,
        by_again,
        by_first,
        by_second,
        by_servers,
        by_old,
        by_early,
        by_root,
    ] = all.iter().collect::<Vec<_>>()[..]
    else {
        unreachable!()
    };
    let anchors: &[&Made] = &[&ca];
    let cases: &[Case<'_>] = &[
        ("one that is no issuer", anchors, &[by_leaf, &leaf], Err(VerifyError::NotAnIssuer)),
        ("one that says so", anchors, &[by_no_ca, &no_ca], Err(VerifyError::NotAnIssuer)),
        ("a key that may not sign", anchors, &[by_mute, &cannot_sign], Err(VerifyError::NotAnIssuer)),
        ("none below, and none is", anchors, &[by_none, &none_below], Ok(())),
        ("none below, and one is", anchors, &[by_below, &below_none, &none_below], Err(VerifyError::NotAnIssuer)),
        ("none below but itself", anchors, &[by_again, &again, &none_below], Ok(())),
        ("one below the root", &[&one_below], &[by_first, &first], Ok(())),
        ("two below the root", &[&one_below], &[by_second, &second, &first], Err(VerifyError::NotAnIssuer)),
        ("an issuer for servers", anchors, &[by_servers, &for_servers], Err(VerifyError::Purpose)),
        ("an issuer that has expired", anchors, &[by_old, &old], Err(VerifyError::Expired)),
        ("one that is not valid yet", anchors, &[by_early, &early], Err(VerifyError::NotYetValid)),
        ("a root that has expired", &[&old_root], &[by_root], Err(VerifyError::Expired)),
    ];
    verify(cases, Purpose::Client, Same);
    verify(&[("an issuer for servers", anchors, &[by_servers, &for_servers], Ok(()))], Purpose::Server, Same);
}

#[test]
fn the_way_to_the_root() {
    let (ca, other) = (root("ca"), root("other"));
    let middle = ca.middle("middle", &|_| {});
    let leaf = middle.issues("leaf", &|_| {});
    let stray = ca.issues("stray", &|_| {});
    // The same name and key, certified by another one and too long ago.
    let crossed = |by: &Made, until: i32| {
        let key = KeyPair::from_pem(&middle.key.serialize_pem()).unwrap();
        let mut params = middle.params.clone();
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        by.issues_for(key, params)
    };
    let (by_other, old) = (crossed(&other, 4000), crossed(&ca, 2025));
    // Two that certify each other.
    let (one, two) = (root("one"), root("two"));
    let round =
        |own: &Made, by: &Made| by.issues_for(KeyPair::from_pem(&own.key.serialize_pem()).unwrap(), own.params.clone());
    let (one_by_two, two_by_one) = (round(&one, &two), round(&two, &one));
    let lost = one.issues("lost", &|_| {});
    let mut chain = vec![root("r0")];
    for at in 0..12 {
        let next = chain[at].middle(&format!("r{}", at + 1), &|_| {});
        chain.push(next);
    }
    let mut long: Vec<&Made> = chain.iter().collect();
    long.reverse();
    let (false_ca, namesake) = (root("ca"), root("ca").issues("leaf", &|_| {}));
    let cases: &[Case<'_>] = &[
        ("in order", &[&ca], &[&leaf, &middle], Ok(())),
        ("in no order, with strays and twice", &[&ca], &[&leaf, &stray, &ca, &middle, &other, &middle], Ok(())),
        ("round and round", &[&ca], &[&lost, &one_by_two, &two_by_one], Err(VerifyError::UnknownIssuerOfIssuer)),
        ("round, with a way out", &[&two], &[&lost, &one_by_two, &two_by_one], Ok(())),
        ("too deep", &[&chain[0]], &long[..12], Err(VerifyError::TooLong)),
        ("as deep as allowed", &[&chain[0]], &long[8..12], Ok(())),
        ("deeper by one", &[&chain[0]], &long[7..12], Err(VerifyError::TooLong)),
        ("the name of the root, and not its key", &[&ca], &[&namesake], Err(VerifyError::Signature)),
        ("the same with its root", &[&ca], &[&namesake, &false_ca], Err(VerifyError::Signature)),
        ("only the issuer between is trusted", &[&middle], &[&leaf], Err(VerifyError::Unended)),
    ];
    verify(cases, Purpose::Client, Same);
    // Of issuers that may both be meant OpenSSL tries one.
    let cases: &[Case<'_>] = &[
        ("crossed, the trusted one last", &[&ca], &[&leaf, &by_other, &middle], Ok(())),
        ("crossed, the trusted one first", &[&other], &[&leaf, &middle, &by_other], Ok(())),
    ];
    verify(cases, Purpose::Client, Refuses);
    let cases: &[Case<'_>] = &[("an expired one beside a valid one", &[&ca], &[&leaf, &old, &middle], Ok(()))];
    verify(cases, Purpose::Client, Same);
}

#[test]
fn what_certificates_say() {
    let ca = root("ca");
    let issued = |edit: Edit<'_>| ca.issues("leaf", edit);
    let custom = |all: &[CustomExtension]| ca.issues("leaf", &|params| params.custom_extensions = all.to_vec());
    let client = issued(&|params| params.extended_key_usages = vec![Eku::ClientAuth]);
    let server = issued(&|params| params.extended_key_usages = vec![Eku::ServerAuth]);
    let any = issued(&|params| params.extended_key_usages = vec![Eku::Any]);
    let code = issued(&|params| params.extended_key_usages = vec![Eku::CodeSigning]);
    let sealing = issued(&|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment]);
    let agreeing = issued(&|params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement]);
    let unknown = custom(&[extension(&[1, 2, 3, 4], true, &[5, 0])]);
    let harmless = custom(&[extension(&[1, 2, 3, 4], false, &[5, 0])]);
    let twice = custom(&[extension(&[1, 2, 3, 4], false, &[5, 0]), extension(&[1, 2, 3, 4], true, &[5, 0])]);
    let refused = Err(VerifyError::Purpose);
    let critical = Err(VerifyError::Critical);
    let anchors: &[&Made] = &[&ca];
    let cases: &[Case<'_>] = &[
        ("for clients", anchors, &[&client], Ok(())),
        ("for servers", anchors, &[&server], refused),
        ("for anything", anchors, &[&any], refused),
        ("for code", anchors, &[&code], refused),
        ("a key that seals keys", anchors, &[&sealing], refused),
        ("a key that agrees", anchors, &[&agreeing], Ok(())),
        ("critical and unknown", anchors, &[&unknown], critical),
        ("unknown", anchors, &[&harmless], Ok(())),
        ("the second one of an unknown kind is critical", anchors, &[&twice], critical),
    ];
    verify(cases, Purpose::Client, Same);
    let cases: &[Case<'_>] = &[
        ("for clients", anchors, &[&client], refused),
        ("for servers", anchors, &[&server], Ok(())),
        ("for anything", anchors, &[&any], refused),
        ("a key that seals keys", anchors, &[&sealing], Ok(())),
    ];
    verify(cases, Purpose::Server, Same);
}

/// Two of a kind: which of them would count?
#[test]
fn extensions_that_come_twice() {
    let ca = root("ca");
    let twice = |first: CustomExtension, second: CustomExtension| {
        ca.issues("leaf", &|params| params.custom_extensions = vec![first.clone(), second.clone()])
    };
    let yes = [0x30, 3, 1, 1, 0xff];
    let client = [0x30, 10, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 2];
    let cases = [
        twice(extension(BASIC_CONSTRAINTS, true, &[0x30, 0]), extension(BASIC_CONSTRAINTS, true, &yes)),
        twice(extension(KEY_USAGE, true, &[3, 2, 7, 0x80]), extension(KEY_USAGE, true, &[3, 2, 2, 4])),
        twice(extension(PURPOSES, false, &client), extension(PURPOSES, false, &client)),
        twice(extension(NAMES, false, &[0x30, 3, 0x82, 1, b'a']), extension(NAMES, false, &[0x30, 3, 0x82, 1, b'b'])),
    ];
    for (at, made) in cases.iter().enumerate() {
        assert!(Certificate::parse(&made.der).is_none(), "{at}");
        assert_eq!(judge(&[&ca], &[made], Purpose::Client), Err(VerifyError::Malformed), "{at}");
    }
}

/// Constraints on names are not applied here: who has them vouches for nobody, however they are marked.
#[test]
fn constraints_on_names_are_not_passed_over() {
    let ca = root("ca");
    let constrained = ca.middle("constrained", &|params| {
        let permitted_subtrees = vec![GeneralSubtree::DnsName("good.example".to_owned())];
        params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
    });
    let constraint = [0x30, 10, 0xa0, 8, 0x30, 6, 0x82, 4, b'g', b'o', b'o', b'd'];
    let unmarked = ca.middle("unmarked", &|params| {
        params.custom_extensions = vec![extension(&[2, 5, 29, 30], false, &constraint)];
    });
    let named = |by: &Made, name: &str| {
        by.issues("leaf", &|params| params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())])
    };
    let (bad, also_bad) = (named(&constrained, "bad.example"), named(&unmarked, "bad.example"));
    let good = named(&constrained, "good.example");
    let (anchors, critical): (&[&Made], _) = (&[&ca], Err(VerifyError::Critical));
    let cases: &[Case<'_>] = &[
        ("a name beyond", anchors, &[&bad, &constrained], critical),
        ("a name beyond, not marked as critical", anchors, &[&also_bad, &unmarked], critical),
    ];
    verify(cases, Purpose::Client, Same);
    verify(&[("a name within", anchors, &[&good, &constrained], critical)], Purpose::Client, Takes);
}

/// DER that is cut, padded, or says other lengths than it has; each as one byte of a good certificate that is changed.
#[test]
fn what_is_no_certificate() {
    let ca = root("ca");
    let leaf = ca.issues("leaf", &|params| params.serial_number = Some(SerialNumber::from(2u64)));
    for at in 0..leaf.der.len() {
        for byte in [0, 0x7f, 0x80, 0x84, 0xff] {
            let mut odd = leaf.der.to_vec();
            if std::mem::replace(&mut odd[at], byte) == byte {
                continue;
            }
            // Nothing of it is outside of what was signed but the signature and the name of its algorithm.
            let made = Made { der: odd.into(), pem: String::new(), params: leaf.params.clone(), key: key_of(&leaf) };
            assert!(judge(&[&ca], &[&made], Purpose::Client).is_err(), "byte {at} as {byte:#x}");
            assert!(!is_for(&made.der, "victim.example"));
        }
    }
    for odd in [&[][..], &[0x30], &[0x30, 0x80], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &[0x30, 0x83, 0xff, 0xff, 0xff]]
    {
        assert!(Certificate::parse(odd).is_none(), "{odd:?}");
    }
    let padded = [&leaf.der[..], &[0]].concat();
    assert!(Certificate::parse(&padded).is_none());
}

fn key_of(made: &Made) -> KeyPair {
    KeyPair::from_pem(&made.key.serialize_pem()).unwrap()
}

/// Whose a certificate is: its common name counts for nothing beside a name, an asterisk for one whole label at the start.
#[test]
fn whose_a_certificate_is() {
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
        assert_eq!(is_for(der, host), *expected, "{at}: {host}");
    }
}
