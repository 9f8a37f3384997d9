//! Directives of nginx's core modules: workers, `http`, `server`, keep-alive, limits of heads and bodies, `add_header`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::thread::sched_getaffinity;

use crate::config::arguments::{self, arg, invalid_value};
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Result};
use crate::config::{AddHeader, CpuAffinity, Server, directives, values};
use crate::http1::head::{HeadLimits, HeaderName};
use crate::request::listen_conf::{Listen, ServerListens};
use crate::request::location_conf::Locations;

pub(crate) fn http(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    block.settings.error_log = builder.config.main.error_log.clone();
    builder.build_block(block, directive, directives::HTTP, None).map(drop)
}

pub(crate) fn events(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    builder.build_block(block, directive, directives::EVENTS, None).map(drop)
}

pub(crate) fn server(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    if block.context == directives::UPSTREAM {
        return crate::proxy::upstream_conf::server(builder, block, directive);
    }
    let mut inner = builder.build_block(block, directive, directives::SERVER, None)?;
    if inner.locations.is_empty() {
        crate::modules::access::conf::check_auth_basic(&inner.settings, directive)?;
    }
    if inner.tls.is_on {
        inner.listens.iter_mut().for_each(Listen::enable_tls);
    }
    let tls = crate::tls::conf::server_tls(builder, &inner.tls, directive)?;
    let name = inner.names.first().map_or(String::new(), |name| name.word.text.trim_start_matches('.').to_owned());
    let locations = Locations::new(inner.locations);
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
    builder.servers.push(ServerListens { server: Arc::new(server), listens: inner.listens, names: inner.names });
    Ok(())
}

pub(crate) fn pid(builder: &mut Builder, _: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    let path = builder.prefix.resolve(&word.text);
    builder.refer_to_created_file(word, path.clone());
    builder.config.main.pid = Some(path);
    Ok(())
}

pub(crate) fn user(builder: &mut Builder, _: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    builder.config.main.user = Some(word.text.clone());
    builder.config.main.user_position = Some(word.at);
    builder.config.main.group = directive.args.get(1).map(|word| word.text.clone());
    Ok(())
}

/// `auto`: one worker for each available processor.
pub(crate) fn worker_processes(builder: &mut Builder, _: &mut BlockBuilder, directive: &Directive) -> Result {
    const WORKERS_MAX: u32 = 256;
    let word = arg(directive, 0);
    builder.config.main.workers = match word.text.as_str() {
        "auto" => available_processors().clamp(1, WORKERS_MAX),
        _ => values::number(&word.text)
            .filter(|count| (1..=WORKERS_MAX).contains(count))
            .ok_or_else(|| invalid_value(directive, word, "auto, or a number from 1 to 256"))?,
    };
    Ok(())
}

/// Counts the processors that the program may run on, but no more than its control group has CPU time for (cgroups(7)).
fn available_processors() -> u32 {
    let all = sched_getaffinity(None).map_or(1, |set| set.count());
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(own_group) = groups.lines().find_map(|line| line.strip_prefix("0::/")) else { return all };
    let share = |group: &Path| {
        let text = std::fs::read_to_string(group.join("cpu.max")).ok()?;
        let (time, period) = text.trim_end().split_once(' ')?;
        time.parse::<u32>().ok()?.checked_div(period.parse().ok()?)
    };
    Path::new("/sys/fs/cgroup").join(own_group).ancestors().filter_map(share).fold(all, u32::min)
}

/// `auto`, with or without a mask (which is ignored), or a mask for each worker, whose last digit is the first processor.
pub(crate) fn worker_cpu_affinity(builder: &mut Builder, _: &mut BlockBuilder, directive: &Directive) -> Result {
    const PROCESSORS_MAX: usize = 1024;
    if arg(directive, 0).text == "auto" {
        builder.config.main.cpu_affinity = CpuAffinity::Auto;
        return Ok(());
    }
    let mut lists = Vec::new();
    for word in &directive.args {
        if word.text.is_empty() || word.text.len() > PROCESSORS_MAX || !word.text.bytes().all(|b| b"01".contains(&b)) {
            return Err(invalid_value(directive, word, "auto, or masks such as 0001 0010"));
        }
        let bits = word.text.bytes().rev().enumerate();
        lists.push(bits.filter(|(_, bit)| *bit == b'1').map(|(at, _)| at).collect());
    }
    builder.config.main.cpu_affinity = CpuAffinity::Lists(lists);
    Ok(())
}

pub(crate) fn worker_rlimit_nofile(builder: &mut Builder, _: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    let count = arguments::number(directive, word)?;
    if count == 0 {
        return Err(invalid_value(directive, word, "a number of open files"));
    }
    builder.config.main.open_files_max = Some(count.into());
    Ok(())
}

pub(crate) fn client_max_body_size(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    block.settings.body_bytes_max =
        values::file_size(&word.text).ok_or_else(|| invalid_value(directive, word, "a size such as 10m or 1g"))?;
    Ok(())
}

pub(crate) fn client_body_buffer_size(
    builder: &mut Builder,
    block: &mut BlockBuilder,
    directive: &Directive,
) -> Result {
    const MAX: u64 = 1 << 20;
    let word = arg(directive, 0);
    let size = values::size(&word.text).ok_or_else(|| invalid_value(directive, word, "a size such as 16k"))?;
    if size > MAX {
        builder.note(&directive.name, "at most 1m of a request body is kept in memory");
    }
    block.settings.body_buffer_size = size.min(MAX) as usize;
    Ok(())
}

pub(crate) fn keepalive_timeout(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let timeout = arguments::time(directive)?;
    if block.context == directives::UPSTREAM {
        if let Some(word) = directive.args.get(1) {
            return Err(invalid_value(directive, word, "one time, without a second argument,"));
        }
        block.upstream.upstream.keepalive_timeout = timeout;
        return Ok(());
    }
    block.settings.keepalive_timeout = timeout;
    block.settings.keepalive_header_secs = match directive.args.get(1) {
        Some(word) => Some(
            values::time(&word.text).ok_or_else(|| invalid_value(directive, word, "a time such as 60s"))?.as_secs(),
        ),
        None => None,
    };
    Ok(())
}

/// One directive for two settings: of connections to clients, and to an upstream.
pub(crate) fn keepalive_requests<'a>(_: &'a mut Builder, block: &'a mut BlockBuilder) -> &'a mut u32 {
    match block.context {
        directives::UPSTREAM => &mut block.upstream.upstream.keepalive_requests,
        _ => &mut block.settings.keepalive_requests,
    }
}

pub(crate) fn keepalive_time<'a>(_: &'a mut Builder, block: &'a mut BlockBuilder) -> &'a mut Duration {
    match block.context {
        directives::UPSTREAM => &mut block.upstream.upstream.keepalive_time,
        _ => &mut block.settings.keepalive_time,
    }
}

pub(crate) fn large_client_header_buffers(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    /// A head stays in memory while its request lasts.
    const HEAD_BYTES_MAX: u64 = 1 << 20;
    let (count, each) = (arg(directive, 0), arg(directive, 1));
    let line = arguments::size(directive, each)?;
    let head = line.saturating_mul(arguments::number(directive, count)?.into());
    if head == 0 || head > HEAD_BYTES_MAX {
        return Err(invalid_value(directive, each, "a size that, times the number, is at most 1m"));
    }
    block.settings.head_limits = HeadLimits { line_bytes_max: line as usize, head_bytes_max: head as usize };
    Ok(())
}

pub(crate) fn server_tokens(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let word = arg(directive, 0);
    block.settings.server_tokens = match word.text.as_str() {
        "build" => true,
        text => values::switch(text).ok_or_else(|| invalid_value(directive, word, "\"on\" or \"off\""))?,
    };
    Ok(())
}

pub(crate) fn default_type(_: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    block.settings.default_type = crate::config::template::Template::from_text(arg(directive, 0).text.as_bytes());
    Ok(())
}

/// Inherited only by blocks without an `add_header` of their own.
pub(crate) fn add_header(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let header = parse_add_header(builder, directive)?;
    let mut headers = if block.is_first { Vec::new() } else { block.settings.add_headers.to_vec() };
    headers.push(header);
    block.settings.add_headers = headers.into();
    Ok(())
}

/// Inherited like [`add_header`].
pub(crate) fn add_trailer(builder: &mut Builder, block: &mut BlockBuilder, directive: &Directive) -> Result {
    let header = parse_add_header(builder, directive)?;
    let first = block.is_first;
    let trailers = &mut block.optional_mut().trailers;
    if first {
        trailers.clear();
    }
    trailers.push(header);
    Ok(())
}

fn parse_add_header(builder: &Builder, directive: &Directive) -> Result<AddHeader> {
    let name = arg(directive, 0);
    let value = builder.template(&arg(directive, 1).joined_lines())?;
    let always = match directive.args.get(2) {
        None => false,
        Some(word) if word.text == "always" => true,
        Some(word) => return Err(invalid_value(directive, word, "\"always\" or nothing")),
    };
    arguments::check_header_name(directive, name)?;
    Ok(AddHeader {
        kind: HeaderName::from_bytes(name.text.as_bytes()),
        name: name.text.as_bytes().into(),
        value,
        always,
    })
}
