//! Rows of requests that are sent to both programs.

use crate::pair::{Pair, Program};
use crate::response::{Identity, Response, fetch};

/// A request with another response than from nginx, on purpose: the request, the response of smolgate (the status and some lines
/// of the head, separated by ` | `), and the reason.
pub(crate) type KnownDifference = (&'static str, &'static str, &'static str);

/// Sends all requests to both programs. The responses to `rows` must be equal, those to `differences` as listed.
pub(crate) fn compare(pair: &Pair, rows: &[&str], differences: &[KnownDifference]) {
    let rows = rows.iter().map(|request| (*request, check_alike(pair, request)));
    let differences = differences.iter().map(|row| (row.0, check_difference(pair, *row)));
    let wrong: Vec<String> = rows
        .chain(differences)
        .filter_map(|(request, result)| Some(format!("{request:?}: {}", result.err()?)))
        .collect();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Returns the response of one program in comparable form.
fn get(program: &Program, name: &'static str, request: &str) -> Result<Response, String> {
    let response = fetch(program.addr, request, name == "smolgate");
    let response = response.and_then(|response| response.comparable(&Identity { name, port: program.addr.port() }));
    let mut response = response.map_err(|why| format!("{name}: {why}"))?;
    if response.status() == 405 {
        // RFC 9110 15.5.6 requires the header, nginx omits it.
        response.lines.retain(|line| !line.starts_with("Allow: "));
    }
    Ok(response)
}

fn check_alike(pair: &Pair, request: &str) -> Result<(), String> {
    let smolgate = get(&pair.smolgate, "smolgate", request)?;
    let mut nginx = get(&pair.nginx, "nginx", request)?;
    if request.starts_with("HEAD ") {
        adjust_length_of_page(&smolgate, &mut nginx);
    }
    if smolgate == nginx {
        return Ok(());
    }
    Err(difference(&smolgate, &nginx))
}

/// Returns the lines that only one response has; all lines if only their order differs.
fn difference(smolgate: &Response, nginx: &Response) -> String {
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

/// Adjusts the length of an error page in a response to HEAD: it depends on the length of the program's name.
fn adjust_length_of_page(smolgate: &Response, nginx: &mut Response) {
    let length =
        |response: &Response| response.header("Content-Length").and_then(|length| length.parse::<usize>().ok());
    if let (300.., Some(ours), Some(theirs)) = (smolgate.status(), length(smolgate), length(nginx))
        && (2..=3).contains(&(ours.wrapping_sub(theirs)))
    {
        let line = nginx.lines.iter_mut().find(|line| line.starts_with("Content-Length: "));
        line.unwrap().replace_range(.., &format!("Content-Length: {ours}"));
    }
}

fn check_difference(pair: &Pair, (request, parts, why): KnownDifference) -> Result<(), String> {
    let smolgate = get(&pair.smolgate, "smolgate", request)?;
    let mut parts = parts.split(" | ");
    let status = parts.next().and_then(|status| status.parse().ok());
    let shown = smolgate.show().join("\n      ");
    if status != Some(smolgate.status()) || !parts.all(|part| smolgate.lines.iter().any(|line| line == part)) {
        return Err(format!("not the expected response ({why}):\n      {shown}"));
    }
    if get(&pair.nginx, "nginx", request).is_ok_and(|nginx| nginx == smolgate) {
        return Err(format!("the same response as of nginx, although {why}"));
    }
    Ok(())
}
