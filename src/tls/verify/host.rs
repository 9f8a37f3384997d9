//! The hosts that a certificate is valid for (RFC 6125).

use std::net::IpAddr;

use crate::tls::verify::x509::Certificate;

/// Tags of SubjectAltName (RFC 5280 4.2.1.6).
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;

/// Whether a certificate is valid for `host`, a name or an address. The common name counts only if there is no DNS name.
pub(crate) fn is_valid_for(certificate: &[u8], host: &str) -> bool {
    let Some(certificate) = Certificate::parse(certificate) else { return false };
    let alt_names = certificate.extensions.subject_alt_names.as_deref().unwrap_or_default();
    if let Ok(addr) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        let octets = match addr {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        return alt_names.iter().any(|(tag, name)| *tag == IP_ADDRESS && *name == octets);
    }
    let mut dns_names = alt_names.iter().filter(|(tag, _)| *tag == DNS_NAME).peekable();
    if dns_names.peek().is_some() {
        return dns_names.any(|(_, name)| matches(name, host));
    }
    certificate.common_name().is_some_and(|name| matches(name.as_bytes(), host))
}

/// Whether `pattern`, a name or `*.` before a parent with at least two labels, matches `host`. `*` is exactly one label.
fn matches(pattern: &[u8], host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).as_bytes();
    match pattern.strip_prefix(b"*.") {
        Some(parent) => {
            let Some(dot) = host.iter().position(|byte| *byte == b'.') else { return false };
            let (label, rest) = host.split_at(dot);
            let is_parent = rest.strip_prefix(b".").is_some_and(|rest| rest.eq_ignore_ascii_case(parent));
            !label.is_empty() && parent.contains(&b'.') && is_parent
        }
        None => !pattern.is_empty() && pattern.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    #[test]
    fn a_certificate_is_valid_for_its_names() {
        let certificate = |alt_names: &[&str], common_name: &str| {
            let alt_names: Vec<String> = alt_names.iter().map(|name| (*name).to_owned()).collect();
            let mut params = CertificateParams::new(alt_names).unwrap();
            params.distinguished_name.push(DnType::CommonName, common_name);
            params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
        };
        let der = certificate(&["a.example", "*.b.example", "192.0.2.1", "2001:db8::1"], "common.example");
        for host in ["a.example", "A.Example.", "x.b.example", "192.0.2.1", "2001:db8::1", "[2001:db8::1]"] {
            assert!(is_valid_for(&der, host), "{host}");
        }
        for host in ["b.example", "x.y.b.example", "common.example", "192.0.2.2", "", ".b.example", "xa.example"] {
            assert!(!is_valid_for(&der, host), "{host}");
        }
        assert!(is_valid_for(&certificate(&[], "common.example"), "common.example"));
        assert!(is_valid_for(&certificate(&["192.0.2.1"], "common.example"), "common.example"));
        assert!(!is_valid_for(&certificate(&[], "*"), "example"));
        assert!(!is_valid_for(&certificate(&["*.example"], "x"), "a.example"));
    }
}
