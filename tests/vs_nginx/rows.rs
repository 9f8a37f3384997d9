//! Rows of requests that both programs are asked.

use crate::pair::{Pair, Program};
use crate::response::{Own, Reply, ask};

/// A request that smolgate answers in another way, on purpose: what is asked, what smolgate answers (the status, and
/// lines of the head that it has, ` | ` between them), and why.
pub(crate) type Otherwise = (&'static str, &'static str, &'static str);

/// Asks both all of `rows`, which must be answered alike, and all of `otherwise`; fails with all that went wrong.
pub(crate) fn compare(pair: &Pair, rows: &[&str], otherwise: &[Otherwise]) {
    let rows = rows.iter().map(|asked| (*asked, alike(pair, asked)));
    let otherwise = otherwise.iter().map(|row| (row.0, differs(pair, *row)));
    let wrong: Vec<String> =
        rows.chain(otherwise).filter_map(|(asked, result)| Some(format!("{asked:?}: {}", result.err()?))).collect();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// What one of them answers.
fn answer(program: &Program, name: &'static str, asked: &str) -> Result<Reply, String> {
    let reply = ask(program.addr, asked, name == "smolgate");
    let reply = reply.and_then(|reply| reply.comparable(&Own { name, port: program.addr.port() }));
    let mut reply = reply.map_err(|why| format!("{name}: {why}"))?;
    if reply.status() == 405 {
        // RFC 9110 15.5.6 demands it, nginx leaves it out.
        reply.lines.retain(|line| !line.starts_with("Allow: "));
    }
    Ok(reply)
}

fn alike(pair: &Pair, asked: &str) -> Result<(), String> {
    let smolgate = answer(&pair.smolgate, "smolgate", asked)?;
    let mut nginx = answer(&pair.nginx, "nginx", asked)?;
    if asked.starts_with("HEAD ") {
        same_length_of_page(&smolgate, &mut nginx);
    }
    if smolgate == nginx {
        return Ok(());
    }
    Err(difference(&smolgate, &nginx))
}

/// The lines that only one of them has; all lines, if it is their order.
fn difference(smolgate: &Reply, nginx: &Reply) -> String {
    let (ours, theirs) = (smolgate.show(), nginx.show());
    let only = |of: &[String], and: &[String], sign| -> Vec<String> {
        of.iter().filter(|line| !and.contains(line)).map(|line| format!("\n    {sign} {line}")).collect()
    };
    let mut lines = [only(&ours, &theirs, "smolgate"), only(&theirs, &ours, "   nginx")].concat();
    if lines.is_empty() {
        lines = [only(&ours, &[], "smolgate"), only(&theirs, &[], "   nginx")].concat();
    }
    lines.concat()
}

/// The length of a page tells the length of the program's name, which is all that a HEAD shows of it.
fn same_length_of_page(smolgate: &Reply, nginx: &mut Reply) {
    let length = |reply: &Reply| reply.field("Content-Length").and_then(|length| length.parse::<usize>().ok());
    if let (300.., Some(ours), Some(theirs)) = (smolgate.status(), length(smolgate), length(nginx))
        && (2..=3).contains(&(ours.wrapping_sub(theirs)))
    {
        let line = nginx.lines.iter_mut().find(|line| line.starts_with("Content-Length: "));
        line.unwrap().replace_range(.., &format!("Content-Length: {ours}"));
    }
}

fn differs(pair: &Pair, (asked, parts, why): Otherwise) -> Result<(), String> {
    let smolgate = answer(&pair.smolgate, "smolgate", asked)?;
    let mut parts = parts.split(" | ");
    let status = parts.next().and_then(|status| status.parse().ok());
    let shown = smolgate.show().join("\n      ");
    if status != Some(smolgate.status()) || !parts.all(|part| smolgate.lines.iter().any(|line| line == part)) {
        return Err(format!("it does not answer what it should ({why}):\n      {shown}"));
    }
    if answer(&pair.nginx, "nginx", asked).is_ok_and(|nginx| nginx == smolgate) {
        return Err(format!("it answers as nginx does, although {why}"));
    }
    Ok(())
}
