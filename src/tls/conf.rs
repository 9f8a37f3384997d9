//! The directives `ssl_*`, for connections from clients, and `proxy_ssl_*`, for connections to upstreams.

use std::sync::Arc;

use crate::config::arguments::{self, arg, invalid_value};
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Error, Position, Result, Word, placeholder_hint};
use crate::config::template::{Builtin, Segment, Template, Variable};
use crate::config::{ProxyPass, Settings, values};
use crate::tls::settings::{LoadError, NamedPath};
use crate::tls::{self, ClientSettings, Protocols, ServerSettings, ServerTls, SslVariable, VerifyClient};

/// The least size of a session cache, and that of `builtin`.
const SESSION_CACHE_BYTES_MIN: usize = 256 * 1024;
const SESSION_CACHE_BYTES_MAX: u64 = 64 << 20;

/// `$ssl_server_name`
const SERVER_NAME: Variable = Variable::Builtin(Builtin::Ssl(SslVariable::ServerName));

/// The `ssl_*` directives of a block.
#[derive(Clone, Debug, Default)]
pub(crate) struct SslDirectives {
    /// `ssl on`, which nginx has replaced by `listen ... ssl`.
    pub(crate) is_on: bool,
    certificates: Vec<Word>,
    certificate_keys: Vec<Word>,
    /// The names of all files, for errors.
    files: Vec<Word>,
    pub(crate) settings: ServerSettings,
}

/// Builds the TLS configuration of a server, and reads its files. `None` without a certificate.
pub(crate) fn server_tls(
    builder: &mut Builder,
    ssl: &SslDirectives,
    directive: &Directive,
) -> Result<Option<Arc<ServerTls>>> {
    if !tls::AVAILABLE || (ssl.certificates.is_empty() && !ssl.settings.reject_handshake) {
        return Ok(None);
    }
    let at = ssl.certificates.first().map_or(&directive.name.at, |word| &word.at);
    let mut settings = ssl.settings.clone();
    for (index, certificate) in ssl.certificates.iter().enumerate() {
        let Some(key) = ssl.certificate_keys.get(index) else {
            return Err(certificate.error("no \"ssl_certificate_key\" is defined for certificate \"{}\""));
        };
        let (certificate, key) = (named_path(builder, certificate)?, named_path(builder, key)?);
        match (certificate.0.as_slice(), key.0.as_slice()) {
            ([certificate], [key]) => settings.cert_key_paths.push((certificate.clone(), key.clone())),
            _ => settings.named_cert_key_paths.push((certificate, key)),
        }
    }
    let client_auth = &settings.client_auth;
    if matches!(client_auth.verify, VerifyClient::On | VerifyClient::Optional)
        && client_auth.client_certificate.is_none()
        && client_auth.trusted_certificate.is_none()
    {
        return Err(Error::new(at, "no \"ssl_client_certificate\" for \"ssl_verify_client\"")
            .hint("it names the file with the CA certificates that issue client certificates"));
    }
    builder.config.tls.server_tls(&settings).map(Some).map_err(|error| load_error(builder, error, &ssl.files, at))
}

/// Returns the error about a file that can't be loaded, at the last of `files` that names it.
fn load_error(builder: &Builder, error: LoadError, files: &[Word], at: &Position) -> Error {
    let is_cause = |word: &&Word| error.path.as_ref() == Some(&builder.in_config_directory(&word.text));
    Error::new(files.iter().rfind(is_cause).map_or(at, |word| &word.at), error.message)
}

/// Parses a path, in which the one variable is `$ssl_server_name`.
fn named_path(builder: &Builder, word: &Word) -> Result<NamedPath> {
    let mut parts = vec![String::new()];
    for segment in builder.template(word)?.segments() {
        match (segment, parts.last_mut()) {
            (Segment::Text(text), Some(last)) => last.push_str(&String::from_utf8_lossy(text)),
            (Segment::Variable(SERVER_NAME), _) => parts.push(String::new()),
            _ => {
                return Err(word
                    .error("unsupported variable in \"{}\"")
                    .hint("the name of a file, without variables other than $ssl_server_name, is expected"));
            }
        }
    }
    if let Some(first) = parts.first_mut() {
        *first = builder.in_config_directory(first);
    }
    Ok(NamedPath(parts))
}

/// Returns the name of a file that may have variables, which are checked when the server is complete.
fn cert_key_name<'w>(directive: &Directive, word: &'w Word) -> Result<&'w Word> {
    if word.text.contains('$') && !word.text.contains(':') { Ok(word) } else { file_name(directive, word) }
}

/// Returns the name of a file. Variables, and nginx's prefixes for data and engines, are not supported.
fn file_name<'w>(directive: &Directive, word: &'w Word) -> Result<&'w Word> {
    if let Some(hint) = placeholder_hint(&word.text) {
        return Err(invalid_value(directive, word, "the name of a file").hint(hint));
    }
    let is_unsupported = word.text.is_empty()
        || word.text.contains('$')
        || ["data:", "engine:", "store:"].iter().any(|prefix| word.text.starts_with(prefix));
    if is_unsupported { Err(invalid_value(directive, word, "the name of a file, without variables")) } else { Ok(word) }
}

/// As [`file_name`], and adds the name to `files`.
fn keep_file_name<'w>(files: &mut Vec<Word>, directive: &'w Directive) -> Result<&'w Word> {
    let word = file_name(directive, arg(directive, 0))?;
    files.push(word.clone());
    Ok(word)
}

pub(crate) fn on(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    block.tls.is_on = arguments::switch(directive)?;
    if block.tls.is_on && !tls::AVAILABLE {
        return Err(Error::new(&directive.name.at, "\"ssl on\" is not supported").hint("this build has no TLS"));
    }
    Ok(())
}

pub(crate) fn certificate(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = cert_key_name(directive, arg(directive, 0))?;
    if block.is_first {
        block.tls.certificates.clear();
    }
    block.tls.certificates.push(word.clone());
    block.tls.files.push(word.clone());
    Ok(())
}

pub(crate) fn certificate_key(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = cert_key_name(directive, arg(directive, 0))?;
    if block.is_first {
        block.tls.certificate_keys.clear();
    }
    block.tls.certificate_keys.push(word.clone());
    block.tls.files.push(word.clone());
    Ok(())
}

/// Adds the versions of `ssl_protocols`, of which those before TLSv1.2 are ignored, to the ones that the block enables above.
fn parse_protocols(builder: &mut Builder, directive: &Directive, above: Option<Protocols>) -> Result<Protocols> {
    let mut protocols = above.unwrap_or(Protocols { tls12: false, tls13: false });
    let mut has_old = false;
    for word in &directive.args {
        match word.text.as_str() {
            "TLSv1.2" => protocols.tls12 = true,
            "TLSv1.3" => protocols.tls13 = true,
            "SSLv2" | "SSLv3" | "TLSv1" | "TLSv1.1" => has_old = true,
            _ => return Err(invalid_value(directive, word, "TLSv1.2 or TLSv1.3")),
        }
    }
    if !protocols.tls12 && !protocols.tls13 {
        return Err(directive
            .name
            .error("\"{}\" enables neither TLSv1.2 nor TLSv1.3")
            .hint("older versions are insecure and not supported"));
    }
    if has_old {
        builder.note(&directive.name, "versions before TLSv1.2 are not supported");
    }
    Ok(protocols)
}

pub(crate) fn protocols(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let above = (!block.is_first).then_some(block.tls.settings.protocols);
    block.tls.settings.protocols = parse_protocols(builder, directive, above)?;
    Ok(())
}

/// `off`, `none`, `builtin`, `builtin:SESSIONS`, `shared:NAME:SIZE`
pub(crate) fn session_cache(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let mut bytes = 0;
    for word in &directive.args {
        let fields: Vec<&str> = word.text.split(':').collect();
        let size = match fields.as_slice() {
            ["off" | "none"] => Some(0),
            ["builtin"] => Some(SESSION_CACHE_BYTES_MIN as u64),
            ["builtin", count] => values::number(count).map(|count| u64::from(count) * 1024),
            ["shared", name, size] if !name.is_empty() => values::size(size),
            _ => None,
        };
        let size = size.ok_or_else(|| invalid_value(directive, word, "off, none, builtin or shared:NAME:SIZE"))?;
        bytes = bytes.max(if size > 0 {
            size.clamp(SESSION_CACHE_BYTES_MIN as u64, SESSION_CACHE_BYTES_MAX) as usize
        } else {
            0
        });
    }
    block.tls.settings.session_cache_bytes = bytes;
    Ok(())
}

pub(crate) fn verify_client(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    block.tls.settings.client_auth.verify =
        match arguments::choice(directive, word, "on, off, optional or optional_no_ca")? {
            0 => VerifyClient::On,
            1 => VerifyClient::Off,
            2 => VerifyClient::Optional,
            _ => VerifyClient::OptionalNoCa,
        };
    Ok(())
}

pub(crate) fn client_certificate(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = keep_file_name(&mut block.tls.files, directive)?;
    block.tls.settings.client_auth.client_certificate = Some(builder.in_config_directory(&word.text));
    Ok(())
}

pub(crate) fn trusted_certificate(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = keep_file_name(&mut block.tls.files, directive)?;
    block.tls.settings.client_auth.trusted_certificate = Some(builder.in_config_directory(&word.text));
    Ok(())
}

pub(crate) fn crl(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = keep_file_name(&mut block.tls.files, directive)?;
    block.tls.settings.client_auth.crl = Some(builder.in_config_directory(&word.text));
    Ok(())
}

/// The `proxy_ssl_*` directives of a block.
#[derive(Clone, Debug, Default)]
pub struct ProxyTls {
    /// `proxy_ssl_name`; the host of `proxy_pass` by default.
    pub name: Option<Template>,
    pub(crate) settings: ClientSettings,
    certificate: Option<Word>,
    key: Option<Word>,
    /// The names of all files, for errors.
    files: Vec<Word>,
}

/// Attaches the TLS configuration to a `proxy_pass` with `https://`, once all directives of the block are read.
pub(crate) fn attach_client_tls(
    builder: &mut Builder,
    pass: Option<&mut ProxyPass>,
    settings: &Settings,
    directive: &Directive,
) -> Result {
    let Some(pass) = pass.filter(|pass| pass.may_use_tls() && pass.tls.is_none()) else { return Ok(()) };
    let defaults = ProxyTls::default();
    let proxy_tls = settings.optional.proxy_tls.as_ref().unwrap_or(&defaults);
    let mut client_settings = proxy_tls.settings.clone();
    let at = proxy_tls.certificate.as_ref().map_or(&directive.name.at, |word| &word.at);
    match (&proxy_tls.certificate, &proxy_tls.key) {
        (Some(certificate), Some(key)) => {
            client_settings.cert_key_paths =
                Some((builder.in_config_directory(&certificate.text), builder.in_config_directory(&key.text)));
        }
        (Some(certificate), None) => {
            return Err(Error::formatted(
                at,
                "no \"proxy_ssl_certificate_key\" is defined for certificate \"{}\"",
                &certificate.text,
            ));
        }
        _ => {}
    }
    if client_settings.verify && client_settings.trusted_certificate.is_none() {
        return Err(Error::new(at, "no \"proxy_ssl_trusted_certificate\" for \"proxy_ssl_verify\"")
            .hint("it names the file with the trusted CA certificates"));
    }
    let loaded = builder.config.tls.client_tls(&client_settings);
    pass.tls = Some(loaded.map_err(|error| load_error(builder, error, &proxy_tls.files, at))?);
    Ok(())
}

pub(crate) fn proxy_tls_mut(block: &mut BlockBuilder) -> &mut ProxyTls {
    block.optional_mut().proxy_tls.get_or_insert_default()
}

pub(crate) fn proxy_certificate(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    proxy_tls_mut(block).certificate = proxy_file_or_none(block, directive)?;
    Ok(())
}

/// Returns the name of a file. An empty name resets an inherited one.
fn proxy_file_or_none(block: &mut BlockBuilder, directive: &Directive) -> Result<Option<Word>> {
    if arg(directive, 0).text.is_empty() { Ok(None) } else { proxy_file(block, directive).cloned().map(Some) }
}

fn proxy_file<'w>(block: &mut BlockBuilder, directive: &'w Directive) -> Result<&'w Word> {
    keep_file_name(&mut proxy_tls_mut(block).files, directive)
}

pub(crate) fn proxy_certificate_key(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    proxy_tls_mut(block).key = proxy_file_or_none(block, directive)?;
    Ok(())
}

pub(crate) fn proxy_protocols(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let above = (!block.is_first).then_some(proxy_tls_mut(block).settings.protocols);
    proxy_tls_mut(block).settings.protocols = parse_protocols(builder, directive, above)?;
    Ok(())
}

pub(crate) fn proxy_trusted_certificate(
    builder: &mut Builder,
    block: &mut BlockBuilder,
    directive: &Directive,
) -> Result {
    let path = builder.in_config_directory(&proxy_file(block, directive)?.text);
    proxy_tls_mut(block).settings.trusted_certificate = Some(path);
    Ok(())
}

pub(crate) fn proxy_crl(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let path = builder.in_config_directory(&proxy_file(block, directive)?.text);
    proxy_tls_mut(block).settings.crl = Some(path);
    Ok(())
}
