//! Chains as an attacker would make them, judged here and by OpenSSL, where that is installed: nginx judges by it.
//!
//! The README has the differences. What OpenSSL refuses and we accept is of no use to an attacker: a second issuer of one
//! name, and a root that says more of itself than webpki reads.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_rustls::rustls;
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose as Eku, IsCa};
use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SigningKey};
use rcgen::{GeneralSubtree, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SanType, SerialNumber};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName};

use crate::http1::base64;
use crate::tls::pem;
use crate::tls::server_config::provider;
use crate::tls::verify::{self, Purpose, Verifier};
use crate::tls::x509::Certificate;

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

/// One that has signed its own certificate, and is no CA.
fn device(name: &str) -> Made {
    root_with(name, &|params| {
        params.is_ca = IsCa::NoCa;
        params.key_usages.clear();
    })
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

    /// The same as version 1, with no extensions; `by` signs it.
    fn as_v1(&self, by: &Self) -> Self {
        let read = Certificate::parse(&self.der).unwrap();
        let from = read.serial.as_ptr() as usize - 2 - read.signed.as_ptr() as usize;
        let until = read.key_info.as_ptr() as usize - read.signed.as_ptr() as usize + read.key_info.len();
        let signed = element(0x30, &read.signed[from..until]);
        let algorithm = element(0x30, read.signature_algorithm);
        let signature = element(3, &[&[0], &by.key.sign(&signed).unwrap()[..]].concat());
        let der = element(0x30, &[signed, algorithm, signature].concat());
        let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", base64::encode(&der));
        Self { der: der.into(), pem, params: self.params.clone(), key: key_of(self) }
    }

    /// A revocation list that was made in January of a year: its text, and its DER.
    fn revokes(&self, serials: &[u64], year: i32) -> (String, CertificateRevocationListDer<'static>) {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(year, 1, 1),
            next_update: rcgen::date_time_ymd(4000, 1, 1),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        // rcgen makes none in the name of an issuer that may not.
        let mut issuer = self.params.clone();
        issuer.key_usages.clear();
        let list = list.signed_by(&Issuer::from_params(&issuer, &self.key)).unwrap();
        (list.pem().unwrap(), list.der().clone())
    }
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    match length {
        0..0x80 => [&[tag, length as u8], content].concat(),
        0x80..0x100 => [&[tag, 0x81, length as u8], content].concat(),
        _ => [&[tag, 0x82, (length >> 8) as u8, length as u8], content].concat(),
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
fn openssl(anchors: &[&Made], chain: &[&Made], lists: &str, purpose: Purpose) -> Option<bool> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("smolgate-hostile-{}-{number}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let all = |made: &[&Made]| made.iter().map(|made| made.pem.as_str()).collect::<String>();
    fs::write(folder.join("anchors"), all(anchors)).unwrap();
    fs::write(folder.join("sent"), all(chain)).unwrap();
    fs::write(folder.join("own"), &chain[0].pem).unwrap();
    fs::write(folder.join("lists"), lists).unwrap();
    let purpose = if purpose == Purpose::Server { "sslserver" } else { "sslclient" };
    let done = Command::new("openssl")
        .args(["verify", "-no-CApath", "-no-CAstore", "-verify_depth", "3", "-purpose", purpose])
        .args(["-CAfile", "anchors", "-untrusted", "sent"])
        .args(if lists.is_empty() { &[][..] } else { &["-crl_check_all", "-CRLfile", "lists"] })
        .arg("own")
        .current_dir(&folder)
        .output();
    fs::remove_dir_all(&folder).unwrap();
    Some(done.ok()?.status.success())
}

fn trusting(anchors: &[&Made], lists: &[CertificateRevocationListDer<'static>]) -> Verifier {
    let listed = anchors.iter().map(|made| made.der.clone()).collect();
    Verifier::new(listed, lists.to_vec(), 3, provider().signature_verification_algorithms)
}

/// What we say: nothing, or why not.
type Judged = Result<(), &'static str>;

const MALFORMED: Judged = Err("certificate rejected");
const NOT_YET_VALID: Judged = Err("certificate is not yet valid");
const EXPIRED: Judged = Err("certificate has expired");
const SELF_SIGNED: Judged = Err("self-signed certificate");
const UNKNOWN_ISSUER: Judged = Err("unable to verify the first certificate");
const UNKNOWN_ISSUER_OF_ISSUER: Judged = Err("unable to get local issuer certificate");
const SIGNATURE: Judged = Err("certificate signature failure");
const REVOKED: Judged = Err("certificate revoked");
const NO_REVOCATION_LIST: Judged = Err("unable to get certificate CRL");
const OLD_REVOCATION_LIST: Judged = Err("CRL has expired");
const PURPOSE: Judged = Err("unsuitable certificate purpose");
const NOT_AN_ISSUER: Judged = Err("invalid CA certificate");
const PATH_LENGTH: Judged = Err("path length constraint exceeded");
const TOO_LONG: Judged = Err("certificate chain too long");
const CRITICAL: Judged = Err("unhandled critical extension");
const CONSTRAINT: Judged = Err("permitted subtree violation");

const NOW: u64 = 1_790_000_000;

fn judge(trust: &Verifier, chain: &[&Made], purpose: Purpose) -> Judged {
    let chain: Vec<_> = chain.iter().map(|made| made.der.clone()).collect();
    trust.judge(&chain, purpose, NOW).map_err(|why| why.0)
}

/// A row: its name, the listed certificates, what is sent, what we say, and what nginx with OpenSSL says.
type Case<'c> = (&'c str, &'c [&'c Made], &'c [&'c Made], Judged, Openssl);

#[derive(Clone, Copy)]
enum Openssl {
    Same,
    Takes,
    Refuses,
}
use Openssl::{Refuses, Same, Takes};

fn verify(cases: &[Case<'_>], purpose: Purpose) {
    let rows = cases.iter().map(|(id, anchors, chain, expected, beside)| {
        let judged = judge(&trusting(anchors, &[]), chain, purpose);
        (*id, judged, *expected, openssl(anchors, chain, "", purpose), *beside)
    });
    compare(rows);
}

/// Compares what we and OpenSSL say of rows with what is expected.
fn compare<'i>(rows: impl Iterator<Item = (&'i str, Judged, Judged, Option<bool>, Openssl)>) {
    let others = rows.filter(|(_, judged, expected, taken, beside)| {
        let beside = match beside {
            Same => expected.is_ok(),
            Takes => true,
            Refuses => false,
        };
        judged != expected || taken.is_some_and(|taken| taken != beside)
    });
    let others: Vec<String> = others
        .map(|(id, judged, expected, taken, _)| format!("{id}: {judged:?}, not {expected:?}; OpenSSL {taken:?}"))
        .collect();
    assert!(others.is_empty(), "{others:#?}");
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
    // One that is issued by its own name (a rollover) does not count towards the length (RFC 5280 6.1.4 l).
    let again = none_below.middle("none", &|_| {});
    let one_below = root_with("one", &|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1)));
    let first = one_below.middle("first", &|_| {});
    let second = first.middle("second", &|_| {});
    let for_servers = ca.middle("for servers", &|params| params.extended_key_usages = vec![Eku::ServerAuth]);
    let old = ca.middle("old", &|params| params.not_after = rcgen::date_time_ymd(2025, 1, 1));
    let early = ca.middle("early", &|params| params.not_before = rcgen::date_time_ymd(3999, 1, 1));
    let old_root = root_with("old root", &|params| params.not_after = rcgen::date_time_ymd(2025, 1, 1));
    let made = |by: &Made| by.issues("victim", &|_| {});
    let (by_leaf, by_no_ca, by_mute, by_none) = (made(&leaf), made(&no_ca), made(&cannot_sign), made(&none_below));
    let (by_below, by_again, by_first, by_second) = (made(&below_none), made(&again), made(&first), made(&second));
    let (by_servers, by_old, by_early, by_root) = (made(&for_servers), made(&old), made(&early), made(&old_root));
    let anchors: &[&Made] = &[&ca];
    let cases: &[Case<'_>] = &[
        ("one that is no issuer", anchors, &[&by_leaf, &leaf], NOT_AN_ISSUER, Same),
        ("one that says so", anchors, &[&by_no_ca, &no_ca], NOT_AN_ISSUER, Same),
        ("a key that may not sign", anchors, &[&by_mute, &cannot_sign], NOT_AN_ISSUER, Same),
        ("none below, and none is", anchors, &[&by_none, &none_below], Ok(()), Same),
        ("none below, and one is", anchors, &[&by_below, &below_none, &none_below], PATH_LENGTH, Same),
        // webpki counts it.
        ("none below but itself", anchors, &[&by_again, &again, &none_below], SIGNATURE, Takes),
        ("one below the root", &[&one_below], &[&by_first, &first], Ok(()), Same),
        ("two below the root", &[&one_below], &[&by_second, &second, &first], PATH_LENGTH, Same),
        ("an issuer for servers", anchors, &[&by_servers, &for_servers], PURPOSE, Same),
        ("an issuer that has expired", anchors, &[&by_old, &old], EXPIRED, Same),
        ("one that is not valid yet", anchors, &[&by_early, &early], NOT_YET_VALID, Same),
        ("a root that has expired", &[&old_root], &[&by_root], EXPIRED, Same),
    ];
    verify(cases, Purpose::Client);
    verify(&[("an issuer for servers", anchors, &[&by_servers, &for_servers], Ok(()), Same)], Purpose::Server);
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
    let (by_other, old, older) = (crossed(&other, 4000), crossed(&ca, 2025), crossed(&ca, 2026));
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
    let sent = |issuers: usize| {
        let leaf = chain[issuers].issues("leaf", &|_| {});
        (leaf, chain[1..=issuers].iter().rev().collect::<Vec<_>>())
    };
    let ((shallow, three), (deeper, four), (deep, twelve)) = (sent(3), sent(4), sent(12));
    let (shallow, deeper, deep) =
        ([&[&shallow], &three[..]].concat(), [&[&deeper], &four[..]].concat(), [&[&deep], &twelve[..]].concat());
    let (false_ca, namesake) = (root("ca"), root("ca").issues("leaf", &|_| {}));
    let cases: &[Case<'_>] = &[
        ("in order", &[&ca], &[&leaf, &middle], Ok(()), Same),
        ("in no order, with strays and twice", &[&ca], &[&leaf, &stray, &ca, &middle, &other, &middle], Ok(()), Same),
        ("round and round", &[&ca], &[&lost, &one_by_two, &two_by_one], UNKNOWN_ISSUER_OF_ISSUER, Same),
        ("round, with a way out", &[&two], &[&lost, &one_by_two, &two_by_one], Ok(()), Same),
        ("too deep", &[&chain[0]], &deep, TOO_LONG, Same),
        ("as deep as allowed", &[&chain[0]], &shallow, Ok(()), Same),
        ("deeper by one", &[&chain[0]], &deeper, TOO_LONG, Same),
        ("the name of the root, and not its key", &[&ca], &[&namesake], SIGNATURE, Same),
        ("the same with its root", &[&ca], &[&namesake, &false_ca], SIGNATURE, Same),
        ("only the issuer between is trusted", &[&middle], &[&leaf], UNKNOWN_ISSUER_OF_ISSUER, Same),
        ("the issuer between is listed too", &[&ca, &middle], &[&leaf], Ok(()), Same),
        // Of issuers that may both be meant OpenSSL tries one, and we try two.
        ("crossed, the trusted one last", &[&ca], &[&leaf, &by_other, &middle], Ok(()), Refuses),
        ("crossed, the trusted one first", &[&other], &[&leaf, &middle, &by_other], Ok(()), Refuses),
        ("an expired one beside a valid one", &[&ca], &[&leaf, &old, &middle], Ok(()), Same),
        ("a valid one behind two expired ones", &[&ca], &[&leaf, &old, &older, &middle], EXPIRED, Takes),
    ];
    verify(cases, Purpose::Client);
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
    let policies = custom(&[extension(&[2, 5, 29, 32], true, &[0x30, 6, 0x30, 4, 6, 2, 0x2a, 3])]);
    let anchors: &[&Made] = &[&ca];
    let cases: &[Case<'_>] = &[
        ("for clients", anchors, &[&client], Ok(()), Same),
        ("for servers", anchors, &[&server], PURPOSE, Same),
        ("for anything", anchors, &[&any], PURPOSE, Same),
        ("for code", anchors, &[&code], PURPOSE, Same),
        ("a key that seals keys", anchors, &[&sealing], PURPOSE, Same),
        ("a key that agrees", anchors, &[&agreeing], Ok(()), Same),
        ("critical and unknown", anchors, &[&unknown], CRITICAL, Same),
        ("unknown", anchors, &[&harmless], Ok(()), Same),
        // webpki doesn't know policies.
        ("critical policies", anchors, &[&policies], CRITICAL, Takes),
        ("the second one of an unknown kind is critical", anchors, &[&twice], CRITICAL, Same),
    ];
    verify(cases, Purpose::Client);
    let cases: &[Case<'_>] = &[
        ("for clients", anchors, &[&client], PURPOSE, Same),
        ("for servers", anchors, &[&server], Ok(()), Same),
        ("for anything", anchors, &[&any], PURPOSE, Same),
        ("a key that seals keys", anchors, &[&sealing], Ok(()), Same),
    ];
    verify(cases, Purpose::Server);
}

/// What a listed certificate may do beside being listed.
#[test]
fn what_is_listed() {
    let (device, signer) = (device("device"), root_with("signer", &|params| params.is_ca = IsCa::NoCa));
    let says_no = root_with("says no", &|params| params.is_ca = IsCa::ExplicitNoCa);
    let cannot_sign = root_with("no sign", &|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
    let early = root_with("early", &|params| params.not_before = rcgen::date_time_ymd(3999, 1, 1));
    let none_below = root_with("none", &|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let middle = none_below.middle("middle", &|_| {});
    let for_servers = root_with("for servers", &|params| params.extended_key_usages = vec![Eku::ServerAuth]);
    let unknown = root_with("unknown", &|params| {
        params.custom_extensions = vec![extension(&[1, 2, 3, 4], true, &[5, 0])];
    });
    let made = |by: &Made| by.issues("victim", &|_| {});
    let by_signer = made(&signer);
    let (by_device, by_says_no, by_mute, by_early) = (made(&device), made(&says_no), made(&cannot_sign), made(&early));
    let (by_none, by_middle, by_servers, by_unknown) =
        (made(&none_below), made(&middle), made(&for_servers), made(&unknown));
    let own = |edit: Edit<'_>| {
        root_with("own", &|params| {
            params.key_usages = Vec::new();
            edit(params);
        })
    };
    let (own_ca, own_old) = (own(&|_| {}), own(&|params| params.not_after = rcgen::date_time_ymd(2025, 1, 1)));
    let own_leaf = own(&|params| params.is_ca = IsCa::NoCa);
    let own_server = own(&|params| {
        params.is_ca = IsCa::NoCa;
        params.extended_key_usages = vec![Eku::ServerAuth];
    });
    let (namesake, other) = (own(&|_| {}), root("other"));
    let issued_leaf = other.issues("leaf", &|_| {});
    let issued_ca = other.middle("ca", &|_| {});
    let cases: &[Case<'_>] = &[
        ("a device that issues", &[&device], &[&by_device], NOT_AN_ISSUER, Same),
        // OpenSSL takes it for a CA by its KeyUsage.
        ("a device that may sign", &[&signer], &[&by_signer], NOT_AN_ISSUER, Takes),
        ("one that is no CA and issues", &[&says_no], &[&by_says_no], NOT_AN_ISSUER, Same),
        ("a root that may not sign", &[&cannot_sign], &[&by_mute], NOT_AN_ISSUER, Same),
        ("a root that is not valid yet", &[&early], &[&by_early], NOT_YET_VALID, Same),
        ("a root with none below", &[&none_below], &[&by_none], Ok(()), Same),
        ("one below a root with none below", &[&none_below], &[&by_middle, &middle], PATH_LENGTH, Same),
        // Of a root webpki leaves these out; they are rare, and the root was listed for this purpose.
        ("a root for servers", &[&for_servers], &[&by_servers], Ok(()), Refuses),
        ("a root with what is critical and unknown", &[&unknown], &[&by_unknown], Ok(()), Refuses),
        ("itself", &[&own_leaf], &[&own_leaf], Ok(()), Same),
        ("itself, for servers", &[&own_server], &[&own_server], PURPOSE, Same),
        ("itself, a CA", &[&own_ca], &[&own_ca], Ok(()), Same),
        ("itself, a CA that has expired", &[&own_old], &[&own_old], EXPIRED, Same),
        ("a CA with the name of a listed one", &[&own_ca], &[&namesake], SELF_SIGNED, Same),
        ("itself, of an issuer that is not listed", &[&issued_leaf], &[&issued_leaf], UNKNOWN_ISSUER, Same),
        // webpki has no CA as a peer.
        ("a CA of a listed CA", &[&other], &[&issued_ca], PURPOSE, Takes),
    ];
    verify(cases, Purpose::Client);
}

/// Version 1 has no extensions: only a root may have issued it.
#[test]
fn version_1() {
    let (ca, device) = (root("ca"), device("device"));
    let middle = ca.middle("middle", &|_| {});
    let v1 = |by: &Made, edit: Edit<'_>| by.issues("leaf", edit).as_v1(by);
    let (leaf, by_device, by_middle) = (v1(&ca, &|_| {}), v1(&device, &|_| {}), v1(&middle, &|_| {}));
    let old = v1(&ca, &|params| params.not_after = rcgen::date_time_ymd(2025, 1, 1));
    let early = v1(&ca, &|params| params.not_before = rcgen::date_time_ymd(3999, 1, 1));
    let forged = ca.issues("leaf", &|_| {}).as_v1(&root("ca"));
    let old_root = root_with("old root", &|params| params.not_after = rcgen::date_time_ymd(2025, 1, 1));
    let by_old_root = v1(&old_root, &|_| {});
    let signs_itself = root("ca").as_v1(&ca);
    let first_root = {
        let made = root("first");
        made.as_v1(&made)
    };
    let by_first_root = first_root.issues("leaf", &|_| {});
    let v1_by_first_root = v1(&first_root, &|_| {});
    let permitted_subtrees = vec![GeneralSubtree::DnsName("good.example".to_owned())];
    let within = NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() };
    let constrained = root_with("constrained", &|params| params.name_constraints = Some(within.clone()));
    let beyond = constrained.issues("bad.example", &|_| {}).as_v1(&constrained);
    let v1_middle = ca.middle("v1", &|_| {}).as_v1(&ca);
    let by_v1_middle = v1_middle.issues("leaf", &|_| {});
    let anchors: &[&Made] = &[&ca];
    let cases: &[Case<'_>] = &[
        ("of a listed CA", anchors, &[&leaf], Ok(()), Same),
        ("of a listed device", &[&device], &[&by_device], NOT_AN_ISSUER, Same),
        ("expired", anchors, &[&old], EXPIRED, Same),
        ("not valid yet", anchors, &[&early], NOT_YET_VALID, Same),
        ("of the name of a listed CA, and not its key", anchors, &[&forged], SIGNATURE, Same),
        ("of a listed CA that has expired", &[&old_root], &[&by_old_root], EXPIRED, Same),
        ("of a CA that is not listed", &[&device], &[&leaf], UNKNOWN_ISSUER, Same),
        ("a common name beyond what the root may", &[&constrained], &[&beyond], CONSTRAINT, Same),
        ("itself", &[&first_root], &[&first_root], Ok(()), Same),
        ("of its own name, by another key", &[&device], &[&signs_itself], SELF_SIGNED, Same),
        ("a root of version 1", &[&first_root], &[&by_first_root], Ok(()), Same),
        ("a root of version 1, and all below", &[&first_root], &[&v1_by_first_root], Ok(()), Same),
        ("an issuer of version 1 that is no root", anchors, &[&by_v1_middle, &v1_middle], UNKNOWN_ISSUER, Same),
        ("of an issuer between", anchors, &[&by_middle, &middle], UNKNOWN_ISSUER, Takes),
    ];
    verify(cases, Purpose::Client);
    verify(cases, Purpose::Server);
}

/// A list for each issuer of a chain is needed as soon as there is one for any.
#[test]
fn what_is_revoked() {
    let ca = root("ca");
    let numbered =
        |number: u64| move |params: &mut CertificateParams| params.serial_number = Some(SerialNumber::from(number));
    let middle = ca.middle("middle", &|params| {
        params.serial_number = Some(SerialNumber::from(7u64));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    });
    let leaf = middle.issues("leaf", &numbered(2));
    let direct = ca.issues("direct", &numbered(3));
    let v1 = direct.as_v1(&ca);
    let mute = ca.middle("mute", &|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]);
    let by_mute = mute.issues("leaf", &numbered(2));
    let mute_root = root_with("mute", &|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]);
    let (by_mute_root, of_mute_root) = (mute_root.issues("leaf", &numbered(2)), mute_root.revokes(&[], 2025));
    let other = root("ca");
    let own = root_with("own", &|params| params.key_usages = Vec::new());
    let (none, of_middle) = (ca.revokes(&[99], 2025), middle.revokes(&[98], 2025));
    let (newer, of_mute, of_other) = (ca.revokes(&[3], 2026), mute.revokes(&[], 2025), other.revokes(&[], 2025));
    let (revoking_middle, revoking_leaf) = (ca.revokes(&[7], 2025), middle.revokes(&[2], 2025));
    let of_own = own.revokes(&[], 2025);
    let both: &[&Made] = &[&leaf, &middle];
    let anchors: &[&Made] = &[&ca];
    type List = (String, CertificateRevocationListDer<'static>);
    type Row<'r> = (&'r str, &'r [&'r Made], &'r [&'r Made], &'r [&'r List], Judged, Openssl);
    let rows: &[Row<'_>] = &[
        ("none of them", anchors, both, &[&none, &of_middle], Ok(()), Same),
        ("no list of the issuer between", anchors, both, &[&none], NO_REVOCATION_LIST, Same),
        ("no list of the root", anchors, both, &[&of_middle], NO_REVOCATION_LIST, Same),
        ("the peer", anchors, both, &[&none, &revoking_leaf], REVOKED, Same),
        ("the issuer between", anchors, both, &[&revoking_middle, &of_middle], REVOKED, Same),
        ("a listed issuer", &[&ca, &middle], both, &[&revoking_middle, &of_middle], REVOKED, Same),
        ("by the newer list", anchors, &[&direct], &[&none, &newer], REVOKED, Same),
        ("by the newer list, which is the first", anchors, &[&direct], &[&newer, &none], REVOKED, Same),
        ("the list of a namesake", anchors, &[&direct], &[&of_other], NO_REVOCATION_LIST, Same),
        ("a list of who may not make one", anchors, &[&by_mute, &mute], &[&none, &of_mute], NO_REVOCATION_LIST, Same),
        ("a list of a root that may not make one", &[&mute_root], &[&by_mute_root], &[&of_mute_root], Ok(()), Refuses),
        // webpki applies lists to chains that it has verified itself.
        ("of version 1", anchors, &[&v1], &[&none], NO_REVOCATION_LIST, Takes),
        ("of version 1, and revoked", anchors, &[&v1], &[&newer], NO_REVOCATION_LIST, Same),
        ("itself, a CA", &[&own], &[&own], &[&of_own], NO_REVOCATION_LIST, Takes),
    ];
    let rows = rows.iter().map(|(id, anchors, chain, lists, expected, beside)| {
        let text: String = lists.iter().map(|list| list.0.as_str()).collect();
        let mut ders: Vec<_> = lists.iter().map(|list| list.1.clone()).collect();
        pem::newest_first(&mut ders);
        let judged = judge(&trusting(anchors, &ders), chain, Purpose::Client);
        (*id, judged, *expected, openssl(anchors, chain, &text, Purpose::Client), *beside)
    });
    compare(rows);
    let later = trusting(anchors, std::slice::from_ref(&none.1));
    let until = u64::try_from(Certificate::parse(&direct.der).unwrap().not_after).unwrap();
    let judged = later.judge(std::slice::from_ref(&direct.der), Purpose::Client, until);
    assert_eq!(judged.map_err(|why| why.0), OLD_REVOCATION_LIST);
}

/// A peer may send certificates that fit each other in many orders, of which webpki tries each.
#[test]
fn of_many_certificates_of_one_name_few_are_looked_at() {
    let (ca, listed) = (root("ca"), root("root").middle("ca", &|_| {}));
    let sent: Vec<Made> = (0..9).map(|_| root("ca").middle("ca", &|_| {})).collect();
    let leaf = root("ca").issues("leaf", &|_| {});
    let chain: Vec<&Made> = std::iter::once(&leaf).chain(&sent).collect();
    let ders: Vec<_> = sent.iter().map(|made| made.der.clone()).collect();
    for (anchors, expected) in [(&[&ca][..], 2), (&[&ca, &listed], 3), (&[], 2)] {
        let trust = trusting(anchors, &[]);
        assert_eq!(trust.issuers(&ders).len(), expected);
        assert!(judge(&trust, &chain, Purpose::Client).is_err());
    }
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
        assert_eq!(judge(&trusting(&[&ca], &[]), &[made], Purpose::Client), MALFORMED, "{at}");
    }
}

/// Constraints on names hold however they are marked, and common names are no way around them.
#[test]
fn constraints_on_names_are_not_passed_over() {
    let ca = root("ca");
    let permitted_subtrees = vec![GeneralSubtree::DnsName("good.example".to_owned())];
    let within = NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() };
    let constrained = ca.middle("constrained", &|params| params.name_constraints = Some(within.clone()));
    let constraint = [0x30, 10, 0xa0, 8, 0x30, 6, 0x82, 4, b'g', b'o', b'o', b'd'];
    let unmarked = ca.middle("unmarked", &|params| {
        params.custom_extensions = vec![extension(&[2, 5, 29, 30], false, &constraint)];
    });
    let named = |by: &Made, name: &str| {
        by.issues("leaf", &|params| params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())])
    };
    let (bad, also_bad) = (named(&constrained, "bad.example"), named(&unmarked, "bad.example"));
    let good = named(&constrained, "good.example");
    let unnamed = |by: &Made, name: &str| by.issues(name, &|_| {});
    let (unnamed_bad, unnamed_good) = (unnamed(&constrained, "bad.example"), unnamed(&constrained, "good.example"));
    let constrained_root = root_with("constrained root", &|params| params.name_constraints = Some(within.clone()));
    let (bad_by_root, good_by_root) =
        (named(&constrained_root, "bad.example"), named(&constrained_root, "good.example"));
    let unnamed_by_root = unnamed(&constrained_root, "bad.example");
    let anchors: &[&Made] = &[&ca];
    let by_root: &[&Made] = &[&constrained_root];
    let cases: &[Case<'_>] = &[
        ("a name beyond", anchors, &[&bad, &constrained], CONSTRAINT, Same),
        ("a name beyond, not marked as critical", anchors, &[&also_bad, &unmarked], CONSTRAINT, Same),
        ("a name within", anchors, &[&good, &constrained], Ok(()), Same),
        ("a common name beyond", anchors, &[&unnamed_bad, &constrained], CONSTRAINT, Same),
        // The common name of a client may be anything, so that it would have to be guessed whether it is that of a host.
        ("a common name within", anchors, &[&unnamed_good, &constrained], CONSTRAINT, Takes),
        ("a name beyond what the root may", by_root, &[&bad_by_root], CONSTRAINT, Same),
        ("a name within what the root may", by_root, &[&good_by_root], Ok(()), Same),
        ("a common name beyond what the root may", by_root, &[&unnamed_by_root], CONSTRAINT, Same),
    ];
    verify(cases, Purpose::Client);
    verify(cases, Purpose::Server);
}

/// DER that is cut, padded, or says other lengths than it has; each as one byte of a good certificate that is changed.
#[test]
fn what_is_no_certificate() {
    let ca = root("ca");
    let leaf = ca.issues("leaf", &|params| params.serial_number = Some(SerialNumber::from(2u64)));
    let trust = trusting(&[&ca], &[]);
    for at in 0..leaf.der.len() {
        for byte in [0, 0x7f, 0x80, 0x84, 0xff] {
            let mut odd = leaf.der.to_vec();
            if std::mem::replace(&mut odd[at], byte) == byte {
                continue;
            }
            // Nothing of it is outside of what was signed but the signature and the name of its algorithm.
            let made = Made { der: odd.into(), pem: String::new(), params: leaf.params.clone(), key: key_of(&leaf) };
            assert!(judge(&trust, &[&made], Purpose::Client).is_err(), "byte {at} as {byte:#x}");
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

fn is_for(der: &CertificateDer<'_>, host: &str) -> bool {
    ServerName::try_from(host).is_ok_and(|host| verify::is_for(der, &host))
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
        (named("x", &[dns("*.example.com")]), "*.example.com", false),
        (named("*.example.com", &[]), "a.example.com", false),
        (named("A.example.com", &[]), "a.EXAMPLE.com.", true),
        (named("192.0.2.1", &[]), "192.0.2.1", false),
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
