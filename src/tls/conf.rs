//! `ssl_*`: what servers say in handshakes, and what they ask of clients. `proxy_ssl_*`: the same towards upstreams.

use std::sync::Arc;

use crate::config::arguments::{self, arg, invalid};
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Error, Result, Word, placeholder};
use crate::config::template::Template;
use crate::config::{ProxyPass, Settings, values};
use crate::tls::{self, ClientSettings, Protocols, ServerSettings, ServerTls, VerifyClient};

/// Bytes of a session cache whose size is not said, and at least.
const CACHE_BYTES: usize = 256 * 1024;
/// Bytes of a session cache, at most.
const CACHE_BYTES_MAX: u64 = 64 << 20;

/// What a block has said so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct SslDirectives {
    /// The old `ssl on`.
    pub(crate) on: bool,
    certificates: Vec<Word>,
    keys: Vec<Word>,
    pub(crate) settings: ServerSettings,
}

/// Reads what the draft of a server names.
pub(crate) fn server_tls(
    walk: &mut Builder,
    draft: &SslDirectives,
    directive: &Directive,
) -> Result<Option<Arc<ServerTls>>> {
    if !tls::AVAILABLE || (draft.certificates.is_empty() && !draft.settings.reject_handshake) {
        return Ok(None);
    }
    let at = draft.certificates.first().map_or(&directive.name.at, |word| &word.at);
    let mut spec = draft.settings.clone();
    for (number, certificate) in draft.certificates.iter().enumerate() {
        let Some(key) = draft.keys.get(number) else {
            return Err(certificate.wrong("no \"ssl_certificate_key\" is defined for certificate \"{}\""));
        };
        spec.cert_key_paths.push((walk.in_folder(&certificate.text), walk.in_folder(&key.text)));
    }
    let clients = &spec.client_auth;
    if matches!(clients.verify, VerifyClient::On | VerifyClient::Optional)
        && clients.client_certificate.is_none()
        && clients.trusted_certificate.is_none()
    {
        return Err(Error::new(at, "no \"ssl_client_certificate\" for \"ssl_verify_client\"")
            .hint("it names the file with the certificates of those who issue certificates to clients"));
    }
    walk.config.tls.server_tls(&spec).map(Some).map_err(|why| Error::new(at, why))
}

/// A file of TLS. What nginx would make of variables, or would ask a device for, can't be read here.
fn file<'w>(directive: &Directive, word: &'w Word) -> Result<&'w Word> {
    if let Some(hint) = placeholder(&word.text) {
        return Err(invalid(directive, word, "the name of a file").hint(hint));
    }
    let odd = word.text.is_empty()
        || word.text.contains('$')
        || ["data:", "engine:", "store:"].iter().any(|prefix| word.text.starts_with(prefix));
    if odd { Err(invalid(directive, word, "the name of a file, without variables")) } else { Ok(word) }
}

pub(crate) fn on(_: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Result {
    draft.tls.on = arguments::switch(directive)?;
    if draft.tls.on && !tls::AVAILABLE {
        return Err(Error::new(&directive.name.at, "\"ssl on\" is not supported").hint("this build has no TLS"));
    }
    Ok(())
}

pub(crate) fn certificate(_: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = file(directive, arg(directive, 0))?;
    if draft.first {
        draft.tls.certificates.clear();
    }
    draft.tls.certificates.push(word.clone());
    Ok(())
}

pub(crate) fn certificate_key(_: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = file(directive, arg(directive, 0))?;
    if draft.first {
        draft.tls.keys.clear();
    }
    draft.tls.keys.push(word.clone());
    Ok(())
}

/// Which of the versions that are named can be spoken.
pub(crate) fn versions(walk: &mut Builder, directive: &Directive) -> Result<Protocols> {
    let mut protocols = Protocols { tls12: false, tls13: false };
    let mut old = false;
    for word in &directive.args {
        match word.text.as_str() {
            "TLSv1.2" => protocols.tls12 = true,
            "TLSv1.3" => protocols.tls13 = true,
            "SSLv2" | "SSLv3" | "TLSv1" | "TLSv1.1" => old = true,
            _ => return Err(invalid(directive, word, "TLSv1.2 or TLSv1.3")),
        }
    }
    if !protocols.tls12 && !protocols.tls13 {
        return Err(directive
            .name
            .wrong("\"{}\" names no version that is spoken here")
            .hint("TLSv1.2 and TLSv1.3 are; older ones are broken"));
    }
    if old {
        walk.note(&directive.name, "versions before TLSv1.2 are not spoken");
    }
    Ok(protocols)
}

pub(crate) fn protocols(walk: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Result {
    draft.tls.settings.protocols = versions(walk, directive)?;
    Ok(())
}

/// `off`, `none`, `builtin`, `builtin:SESSIONS`, `shared:NAME:SIZE`
pub(crate) fn session_cache(_: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Result {
    let mut bytes = 0;
    for word in &directive.args {
        let parts: Vec<&str> = word.text.split(':').collect();
        let found = match parts.as_slice() {
            ["off" | "none"] => Some(0),
            ["builtin"] => Some(CACHE_BYTES as u64),
            ["builtin", count] => values::number(count).map(|count| u64::from(count) * 1024),
            ["shared", name, size] if !name.is_empty() => values::size(size),
            _ => None,
        };
        let found = found.ok_or_else(|| invalid(directive, word, "off, none, builtin or shared:NAME:SIZE"))?;
        bytes = bytes.max(if found > 0 { found.clamp(CACHE_BYTES as u64, CACHE_BYTES_MAX) as usize } else { 0 });
    }
    draft.tls.settings.session_cache_bytes = bytes;
    Ok(())
}

pub(crate) fn verify_client(_: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    draft.tls.settings.client_auth.verify =
        match arguments::choice(directive, word, "on, off, optional or optional_no_ca")? {
            0 => VerifyClient::On,
            1 => VerifyClient::Off,
            2 => VerifyClient::Optional,
            _ => VerifyClient::OptionalNoCa,
        };
    Ok(())
}

pub(crate) fn client_certificate(walk: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = file(directive, arg(directive, 0))?;
    draft.tls.settings.client_auth.client_certificate = Some(walk.in_folder(&word.text));
    Ok(())
}

pub(crate) fn trusted_certificate(walk: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = file(directive, arg(directive, 0))?;
    draft.tls.settings.client_auth.trusted_certificate = Some(walk.in_folder(&word.text));
    Ok(())
}

pub(crate) fn crl(walk: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = file(directive, arg(directive, 0))?;
    draft.tls.settings.client_auth.crl = Some(walk.in_folder(&word.text));
    Ok(())
}

/// How upstreams are connected to by TLS.
#[derive(Clone, Debug, Default)]
pub struct ProxyTls {
    /// Who they are said to be; otherwise the host of `proxy_pass`.
    pub name: Option<Template>,
    pub(crate) settings: ClientSettings,
    certificate: Option<Word>,
    key: Option<Word>,
}

/// Makes ready what a `proxy_pass` over TLS needs, when all that is said of it is known.
pub(crate) fn attach_client_tls(
    walk: &mut Builder,
    pass: Option<&mut ProxyPass>,
    settings: &Settings,
    directive: &Directive,
) -> Result {
    let Some(pass) = pass.filter(|pass| pass.may_secure() && pass.tls.is_none()) else { return Ok(()) };
    let unsaid = ProxyTls::default();
    let said = settings.rare.proxy_tls.as_ref().unwrap_or(&unsaid);
    let mut spec = said.settings.clone();
    let at = said.certificate.as_ref().map_or(&directive.name.at, |word| &word.at);
    match (&said.certificate, &said.key) {
        (Some(certificate), Some(key)) => {
            spec.cert_key_paths = Some((walk.in_folder(&certificate.text), walk.in_folder(&key.text)));
        }
        (Some(certificate), None) => {
            return Err(Error::about(
                at,
                "no \"proxy_ssl_certificate_key\" is defined for certificate \"{}\"",
                &certificate.text,
            ));
        }
        _ => {}
    }
    if spec.verify && spec.trusted_certificate.is_none() {
        return Err(Error::new(at, "no \"proxy_ssl_trusted_certificate\" for \"proxy_ssl_verify\"")
            .hint("it names the file with the certificates of those who are trusted"));
    }
    pass.tls = Some(walk.config.tls.client_tls(&spec).map_err(|why| Error::new(at, why))?);
    Ok(())
}

pub(crate) fn proxy_tls_mut(draft: &mut BlockBuilder) -> &mut ProxyTls {
    draft.rare().proxy_tls.get_or_insert_default()
}

pub(crate) fn proxy_certificate(_: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    // An empty one takes back what was inherited.
    proxy_tls_mut(draft).certificate = if word.text.is_empty() { None } else { Some(file(directive, word)?.clone()) };
    Ok(())
}

pub(crate) fn proxy_certificate_key(_: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Result {
    proxy_tls_mut(draft).key = Some(file(directive, arg(directive, 0))?.clone());
    Ok(())
}

pub(crate) fn proxy_protocols(walk: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Result {
    proxy_tls_mut(draft).settings.protocols = versions(walk, directive)?;
    Ok(())
}

pub(crate) fn proxy_trusted_certificate(walk: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Result {
    let path = walk.in_folder(&file(directive, arg(directive, 0))?.text);
    proxy_tls_mut(draft).settings.trusted_certificate = Some(path);
    Ok(())
}

pub(crate) fn proxy_crl(walk: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Result {
    let path = walk.in_folder(&file(directive, arg(directive, 0))?.text);
    proxy_tls_mut(draft).settings.crl = Some(path);
    Ok(())
}
