//! Setters of the program, of `http {}` and of `server {}` itself: timeouts, limits, fields, redirects.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::thread::sched_getaffinity;

use crate::config::builder::{BlockBuilder, Builder, arg, invalid};
use crate::config::parser::{Directive, Error, Word};
use crate::config::{AddField, Affinity, Server, directives, values};
use crate::http1::head::{HeaderName, Limits, Version};
use crate::request::listen_conf::ListenLine;
use crate::request::location_conf::Locations;

type Set = Result<(), Error>;

pub(crate) fn time(directive: &Directive) -> Result<Duration, Error> {
    let word = arg(directive, 0);
    values::time(&word.text).ok_or_else(|| invalid(directive, word, "a time such as 60s, 5m or 1d"))
}

/// A time after which a wait is over, which can't be 0.
pub(crate) fn timeout(directive: &Directive) -> Result<Duration, Error> {
    let timeout = time(directive)?;
    if timeout.is_zero() {
        let expected =
            "a time above 0 (every wait would be over at once; for \"no limit\" write a long time such as 1y)";
        return Err(invalid(directive, arg(directive, 0), expected));
    }
    Ok(timeout)
}

pub(crate) fn switch(directive: &Directive) -> Result<bool, Error> {
    let word = arg(directive, 0);
    values::switch(&word.text).ok_or_else(|| invalid(directive, word, "\"on\" or \"off\""))
}

pub(crate) fn size(directive: &Directive, word: &Word) -> Result<u64, Error> {
    values::size(&word.text).ok_or_else(|| invalid(directive, word, "a size such as 8k or 10m"))
}

pub(crate) fn number(directive: &Directive, word: &Word) -> Result<u32, Error> {
    values::number(&word.text).ok_or_else(|| invalid(directive, word, "a number"))
}

pub(crate) fn version(directive: &Directive, word: &Word) -> Result<Version, Error> {
    let is_new = choice(directive, word, "1.0 or 1.1")? == 1;
    Ok(if is_new { Version::Http11 } else { Version::Http10 })
}

/// Which of some words it is, which are written as the operator is told of them: `a, b or c`.
pub(crate) fn choice(directive: &Directive, word: &Word, words: &str) -> Result<usize, Error> {
    let mut known = words.split(' ').filter(|known| *known != "or").map(|known| known.trim_end_matches(','));
    known.position(|known| known == word.text).ok_or_else(|| invalid(directive, word, words))
}

pub(crate) fn http(walk: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Set {
    draft.settings.error_log = walk.config.main.error_log.clone();
    walk.inside(draft, directive, directives::HTTP, None).map(drop)
}

pub(crate) fn events(walk: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Set {
    walk.inside(draft, directive, directives::EVENTS, None).map(drop)
}

pub(crate) fn server(walk: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Set {
    if draft.context == directives::UPSTREAM {
        return crate::proxy::upstream_conf::server(walk, draft, directive);
    }
    let mut inner = walk.inside(draft, directive, directives::SERVER, None)?;
    if inner.locations.is_empty() {
        crate::modules::access::conf::check(&inner.settings, directive)?;
    }
    if inner.tls.on {
        inner.listens.iter_mut().for_each(ListenLine::secure);
    }
    let tls = crate::tls::conf::server_tls(walk, &inner.tls, directive)?;
    let name = inner.names.first().map_or(String::new(), |name| name.word.text.trim_start_matches('.').to_owned());
    let locations = Locations::new(inner.locations, &directive.name)?;
    let names = inner.names.iter().map(crate::request::listen_conf::ServerName::host_name).collect();
    let server = Server {
        name,
        names,
        settings: inner.settings,
        steps: inner.steps,
        try_files: inner.try_files,
        content: inner.content,
        locations,
        tls,
    };
    walk.servers.push((Arc::new(server), inner.listens, inner.names));
    Ok(())
}

pub(crate) fn pid(walk: &mut Builder, _: &mut BlockBuilder, directive: &Directive) -> Set {
    walk.config.main.pid = Some(walk.folders.in_prefix(&arg(directive, 0).text));
    Ok(())
}

pub(crate) fn user(walk: &mut Builder, _: &mut BlockBuilder, directive: &Directive) -> Set {
    walk.config.main.user = Some(arg(directive, 0).text.clone());
    walk.config.main.group = directive.args.get(1).map(|word| word.text.clone());
    Ok(())
}

/// `auto` is one for each processor that the program may use.
pub(crate) fn worker_processes(walk: &mut Builder, _: &mut BlockBuilder, directive: &Directive) -> Set {
    const WORKERS_MAX: u32 = 256;
    let word = arg(directive, 0);
    walk.config.main.workers = match word.text.as_str() {
        "auto" => processors().clamp(1, WORKERS_MAX),
        _ => values::number(&word.text)
            .filter(|count| (1..=WORKERS_MAX).contains(count))
            .ok_or_else(|| invalid(directive, word, "auto, or a number from 1 to 256"))?,
    };
    Ok(())
}

/// Those that the program may run on, but not more than its control group has time for (cgroups(7)).
fn processors() -> u32 {
    let all = sched_getaffinity(None).map_or(1, |set| set.count());
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(own) = groups.lines().find_map(|line| line.strip_prefix("0::/")) else { return all };
    let share = |group: &Path| {
        let text = std::fs::read_to_string(group.join("cpu.max")).ok()?;
        let (time, period) = text.trim_end().split_once(' ')?;
        time.parse::<u32>().ok()?.checked_div(period.parse().ok()?)
    };
    Path::new("/sys/fs/cgroup").join(own).ancestors().filter_map(share).fold(all, u32::min)
}

/// `auto`, with or without a mask that is not looked at, or a mask of processors for each worker, the first one last.
pub(crate) fn worker_cpu_affinity(walk: &mut Builder, _: &mut BlockBuilder, directive: &Directive) -> Set {
    const PROCESSORS_MAX: usize = 1024;
    if arg(directive, 0).text == "auto" {
        walk.config.main.affinity = Affinity::Auto;
        return Ok(());
    }
    let mut lists = Vec::new();
    for word in &directive.args {
        if word.text.is_empty() || word.text.len() > PROCESSORS_MAX || !word.text.bytes().all(|b| b"01".contains(&b)) {
            return Err(invalid(directive, word, "auto, or masks such as 0001 0010"));
        }
        let bits = word.text.bytes().rev().enumerate();
        lists.push(bits.filter(|(_, bit)| *bit == b'1').map(|(at, _)| at).collect());
    }
    walk.config.main.affinity = Affinity::Lists(lists);
    Ok(())
}

pub(crate) fn worker_rlimit_nofile(walk: &mut Builder, _: &mut BlockBuilder, directive: &Directive) -> Set {
    let word = arg(directive, 0);
    let count = number(directive, word)?;
    if count == 0 {
        return Err(invalid(directive, word, "a number of open files"));
    }
    walk.config.main.descriptors = Some(count.into());
    Ok(())
}

pub(crate) fn client_max_body_size(_: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Set {
    let word = arg(directive, 0);
    draft.settings.body_bytes_max =
        values::length(&word.text).ok_or_else(|| invalid(directive, word, "a size such as 10m or 1g"))?;
    Ok(())
}

pub(crate) fn keepalive_timeout(_: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Set {
    let timeout = time(directive)?;
    if draft.context == directives::UPSTREAM {
        if let Some(word) = directive.args.get(1) {
            return Err(invalid(directive, word, "nothing behind the time"));
        }
        draft.upstream.group.keepalive_timeout = timeout;
        return Ok(());
    }
    draft.settings.keepalive_timeout = timeout;
    draft.settings.keepalive_header_secs = match directive.args.get(1) {
        Some(word) => {
            Some(values::time(&word.text).ok_or_else(|| invalid(directive, word, "a time such as 60s"))?.as_secs())
        }
        None => None,
    };
    Ok(())
}

/// Idle connections to clients and to upstreams have the same limits.
pub(crate) fn keepalive_requests<'a>(_: &'a mut Builder, draft: &'a mut BlockBuilder) -> &'a mut u32 {
    match draft.context {
        directives::UPSTREAM => &mut draft.upstream.group.keepalive_requests,
        _ => &mut draft.settings.keepalive_requests,
    }
}

pub(crate) fn keepalive_time<'a>(_: &'a mut Builder, draft: &'a mut BlockBuilder) -> &'a mut Duration {
    match draft.context {
        directives::UPSTREAM => &mut draft.upstream.group.keepalive_time,
        _ => &mut draft.settings.keepalive_time,
    }
}

pub(crate) fn large_client_header_buffers(_: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Set {
    /// Heads are kept in memory while a request lasts.
    const HEAD_BYTES_MAX: u64 = 1 << 20;
    let (count, each) = (arg(directive, 0), arg(directive, 1));
    let line = size(directive, each)?;
    let head = line.saturating_mul(number(directive, count)?.into());
    if head == 0 || head > HEAD_BYTES_MAX {
        return Err(invalid(directive, each, "a size that, times the number, is at most 1m"));
    }
    draft.settings.head_limits = Limits { line_bytes_max: line as usize, head_bytes_max: head as usize };
    Ok(())
}

pub(crate) fn server_tokens(_: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Set {
    let word = arg(directive, 0);
    draft.settings.server_tokens = match word.text.as_str() {
        "build" => true,
        text => values::switch(text).ok_or_else(|| invalid(directive, word, "\"on\" or \"off\""))?,
    };
    Ok(())
}

pub(crate) fn default_type(_: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Set {
    draft.settings.default_type = crate::config::template::Template::text(arg(directive, 0).text.as_bytes());
    Ok(())
}

/// Inherited only where the block has none of its own.
pub(crate) fn add_header(walk: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Set {
    let field = added(walk, directive)?;
    let mut fields = if draft.first { Vec::new() } else { draft.settings.add_field.to_vec() };
    fields.push(field);
    draft.settings.add_field = fields.into();
    Ok(())
}

/// As [`add_header`].
pub(crate) fn add_trailer(walk: &mut Builder, draft: &mut BlockBuilder, directive: &Directive) -> Set {
    let field = added(walk, directive)?;
    let first = draft.first;
    let trailers = &mut draft.rare().trailers;
    if first {
        trailers.clear();
    }
    trailers.push(field);
    Ok(())
}

fn added(walk: &Builder, directive: &Directive) -> Result<AddField, Error> {
    let name = arg(directive, 0);
    let value = walk.template(&arg(directive, 1).in_one_line())?;
    let always = match directive.args.get(2) {
        None => false,
        Some(word) if word.text == "always" => true,
        Some(word) => return Err(invalid(directive, word, "\"always\" or nothing")),
    };
    check_field(directive, name)?;
    Ok(AddField {
        kind: HeaderName::from_bytes(name.text.as_bytes()),
        name: name.text.as_bytes().into(),
        value,
        always,
    })
}

/// A field name is a token (RFC 9110 5.1).
pub(crate) fn check_field(directive: &Directive, name: &Word) -> Set {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.text.is_empty() || !name.text.bytes().all(token) {
        return Err(invalid(directive, name, "the name of a header field"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parser::Reader;

    #[test]
    fn a_choice_is_one_of_the_words_and_nothing_between_them() {
        let text = "choice a, b c or d e \"\";".to_owned();
        let directives = Reader::new(".".as_ref()).text("t".to_owned(), text).unwrap();
        let chosen = |word: &Word| choice(&directives[0], word, "a, b, c or d").ok();
        let chosen: Vec<_> = directives[0].args.iter().map(chosen).collect();
        assert_eq!(chosen, [None, Some(1), Some(2), None, Some(3), None, None]);
    }
}
