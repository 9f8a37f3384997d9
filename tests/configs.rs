//! Checks the configurations in `configs/`, and what README.md and docs/ say about the language.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that meets what it does not expect fails")]

mod directives;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use smolgate::config::parser::{Directive, Reader};
use smolgate::config::{self, Config, ConfigSource, Destination, ErrorLog, Prefix, Support};

use directives::known;

const README: &str = include_str!("../README.md");
const DIRECTIVES: &str = include_str!("../docs/directives.md");
const VARIABLES: &str = include_str!("../docs/variables.md");
const BENCHMARKS: &str = include_str!("../docs/benchmarks.md");

fn load(source: ConfigSource<'_>) -> Result<Config, String> {
    let folders = Prefix { path: ".".to_owned() };
    config::load(source, "", folders, ErrorLog::for_path(None)).map_err(|error| error.to_string())
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(name)
}

/// Loads a file of `configs/`, which must give no note. Its certificates are made for the test.
fn loaded(name: &str) -> Config {
    let text = std::fs::read_to_string(path(name)).unwrap();
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("configs");
    if text.contains("/etc/smolgate/tls/hub") && !directory.join("hub.pem").exists() {
        let own = rcgen::generate_simple_self_signed(["hub.home.arpa".to_owned()]).unwrap();
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("hub.key"), own.signing_key.serialize_pem()).unwrap();
        std::fs::write(directory.join("hub.pem"), own.cert.pem()).unwrap();
    }
    let text = text.replace("/etc/smolgate/tls", directory.to_str().unwrap());
    let config = load(ConfigSource::Text(name, text)).unwrap_or_else(|why| panic!("{why}"));
    let notes: Vec<_> = config.notes.iter().map(|note| format!("{}: {}", note.directive, note.text)).collect();
    assert!(notes.is_empty(), "{name}: {notes:?}");
    config
}

/// Counts the blocks with a name, at any depth.
fn count(directives: &[Directive], name: &str) -> usize {
    let blocks = directives.iter().filter_map(|directive| Some((directive, directive.block.as_deref()?)));
    blocks.map(|(directive, inner)| usize::from(directive.name.text == name) + count(inner, name)).sum()
}

/// Returns the upstream of a request with this Host and path, or an empty name if there is none.
fn upstream(config: &Config, host: &str, path: &str) -> String {
    config
        .bindings
        .iter()
        .find_map(|binding| {
            let locations = &binding.virtual_hosts.names.find(host).server.locations;
            let found = locations.exact(path.as_bytes()).or_else(|| locations.longest_prefix(path.as_bytes()))?;
            match &found.proxy_pass.as_ref()?.destination {
                Destination::Upstream(number) => Some(config.upstreams[*number as usize].name.clone()),
                Destination::Dynamic(_) => None,
            }
        })
        .unwrap_or_default()
}

/// Whether a build can serve a file of `configs/`.
fn is_supported(name: &str) -> bool {
    cfg!(feature = "tls") || !["hub-tls.conf", "vps.conf"].contains(&name)
}

#[test]
fn every_file_has_the_blocks_that_are_expected() {
    let mut files: Vec<String> =
        std::fs::read_dir(path("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files, ["chat.conf", "hub-tls.conf", "hub.conf", "openwrt.conf", "vps.conf", "websocket-origin.conf"]);
    for (name, servers, locations, upstreams) in [
        ("chat.conf", 1, 3, 2),
        ("hub.conf", 3, 7, 4),
        ("hub-tls.conf", 4, 10, 4),
        ("openwrt.conf", 1, 4, 2),
        ("vps.conf", 7, 7, 0),
        ("websocket-origin.conf", 1, 1, 1),
    ] {
        if is_supported(name) {
            loaded(name);
        }
        let tree = Reader::new(&path("")).parse_file(&path(name)).unwrap();
        let counts = ["server", "location", "upstream"].map(|block| count(&tree, block));
        assert_eq!(counts, [servers, locations, upstreams], "{name}");
    }
}

#[test]
fn requests_reach_the_application_that_the_comments_name() {
    for (name, host, path, expected) in [
        ("hub.conf", "192.168.1.2", "/lovelace/0", "homeassistant"),
        ("hub.conf", "hub.home.arpa", "/api/websocket", "homeassistant"),
        ("hub.conf", "hub.home.arpa", "/mqtt", "mosquitto"),
        ("hub.conf", "nodered.home.arpa", "/comms", "nodered"),
        ("hub.conf", "nodered.home.arpa", "/mqtt", "nodered"),
        ("hub.conf", "esphome.home.arpa", "/ws", "esphome"),
        ("openwrt.conf", "", "/camera/live", "camera"),
        ("openwrt.conf", "", "/heating/ws", "heating"),
        ("openwrt.conf", "", "/", ""),
        ("vps.conf", "app.example.com", "/", "127.0.0.1:3000"),
        ("vps.conf", "app.example.com", "/.well-known/acme-challenge/token", "127.0.0.1:8009"),
        ("vps.conf", "chat.example.com", "/ws", "unix:/run/chat/chat.sock"),
        ("vps.conf", "grafana.example.com", "/api/live/ws", "127.0.0.1:3001"),
        ("vps.conf", "grafana.example.com", "/metrics", ""),
        ("vps.conf", "198.51.100.1", "/", ""),
        ("chat.conf", "chat.example.com", "/socket.io/", "chat"),
        ("chat.conf", "chat.example.com", "/api/rooms", "api"),
        ("websocket-origin.conf", "app.example.com", "/ws", "app"),
        ("hub-tls.conf", "hub.home.arpa", "/api/websocket", "homeassistant"),
        ("hub-tls.conf", "hub.home.arpa", "/.well-known/acme-challenge/token", "127.0.0.1:8009"),
        ("hub-tls.conf", "nodered.home.arpa", "/comms", "nodered"),
    ]
    .into_iter()
    .filter(|(name, ..)| is_supported(name))
    {
        assert_eq!(upstream(&loaded(name), host, path), expected, "{name}: {host} {path}");
    }
}

#[cfg(feature = "tls")]
#[test]
fn requests_for_unknown_names_get_no_response() {
    let config = loaded("vps.conf");
    assert_eq!(config.bindings.len(), 4);
    for binding in &config.bindings {
        let server = binding.virtual_hosts.names.find("198.51.100.1").server;
        let is_closed = matches!(server.steps[..], [config::RewriteStep::Return { status: 444, .. }]);
        assert!(is_closed != binding.virtual_hosts.tls && server.name == "_");
    }
}

/// Returns paths and texts of the pages at the top of the repository and in docs/.
fn pages() -> Vec<(PathBuf, String)> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = ["", "docs"].into_iter().flat_map(|directory| std::fs::read_dir(top.join(directory)).unwrap());
    let paths = files.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|end| end == "md"));
    paths.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn nginx_blocks_of_the_pages_load() {
    let mut blocks = 0;
    for (path, text) in pages() {
        for block in text.split("```nginx\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            let name = path.to_str().unwrap();
            let config = load(ConfigSource::Text(name, block.to_owned())).unwrap_or_else(|why| panic!("{why}"));
            assert!(config.notes.is_empty(), "{name}: {:?}", config.notes);
            blocks += 1;
        }
    }
    assert!(blocks >= 3, "the pages have lost their examples");
}

#[test]
fn the_sizes_of_building_md_are_the_budgets() {
    let page = include_str!("../docs/building.md");
    let budgets = include_str!("../cross/budgets");
    let kilobytes = |target: &str, variant: &str| {
        let line = budgets.lines().find(|line| line.split_whitespace().take(2).eq([target, variant])).unwrap();
        line.split_whitespace().nth(2).unwrap().parse::<u32>().unwrap() / 1000
    };
    let mut rows = 0;
    for row in page.lines().filter(|line| line.starts_with("| ") && line.matches('|').count() == 4) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let target = cells[0].split(':').next().unwrap();
        if let (Ok(full), Ok(mini)) = (cells[1].parse::<u32>(), cells[2].parse::<u32>()) {
            assert_eq!((full, mini), (kilobytes(target, "full"), kilobytes(target, "mini")), "{row}");
            rows += 1;
        }
    }
    assert_eq!(rows, 9);
}

#[test]
fn the_readme_has_at_most_150_lines() {
    assert!(README.lines().count() <= 150);
}

/// Returns the anchor of a heading, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(|c: char| !c.is_alphanumeric() && !" -_".contains(c), "");
    kept.replace(' ', "-")
}

/// Returns the anchors of a page; blocks of code have no headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let prose = text.split("\n```").step_by(2).flat_map(str::lines);
    let headings = prose.filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    headings.map(anchor).collect()
}

#[test]
fn relative_links_of_the_pages_lead_to_files_and_headings() {
    for (path, text) in pages() {
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let linked = if file.is_empty() { path.clone() } else { path.with_file_name(file) };
            assert!(linked.exists(), "{}: {target} leads to no file", path.display());
            if !heading.is_empty() {
                let known = anchors(&std::fs::read_to_string(linked).unwrap());
                assert!(known.contains(heading), "{}: {target} leads to no heading", path.display());
            }
        }
    }
}

#[test]
fn docs_readme_lists_every_page() {
    let contents = include_str!("../docs/README.md");
    for (path, _) in pages() {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(
            contents.contains(&format!("{name})")) || path.ends_with("README.md"),
            "docs/README.md: no link to {name}"
        );
    }
}

/// The table of the README repeats some numbers of docs/benchmarks.md.
#[test]
fn numbers_of_the_readme_are_those_of_the_benchmarks() {
    let rows = section(README, "Numbers").lines().filter(|line| line.starts_with('|')).skip(2);
    let cells: Vec<_> = rows.flat_map(|row| row.trim_matches('|').split('|').skip(1).map(str::trim)).collect();
    assert!(cells.len() >= 12, "the table was not understood");
    for number in cells {
        assert!(BENCHMARKS.contains(&format!("| {number} ")), "docs/benchmarks.md does not have {number}");
    }
}

/// Returns the text below a heading of the second level.
fn section(page: &'static str, heading: &str) -> &'static str {
    let rest = page.split(&format!("\n## {heading}\n")).nth(1).unwrap_or_else(|| panic!("no heading {heading}"));
    rest.split("\n## ").next().unwrap()
}

/// Returns the rows of tables whose first cell is code: the names in that cell, and the second cell.
fn rows(text: &'static str) -> Vec<(Vec<&'static str>, &'static str)> {
    let rows = text.lines().filter(|line| line.starts_with("| `")).map(|line| {
        let mut cells = line.trim_matches('|').split(" | ");
        let names = cells.next().unwrap().split('`').skip(1).step_by(2).collect();
        (names, cells.next().unwrap().trim())
    });
    rows.collect()
}

#[test]
fn docs_list_every_directive_where_it_belongs() {
    let known = known();
    for (heading, support) in [
        ("Directives that work", Support::Works),
        ("Accepted with a note", Support::Note),
        ("Accepted only with `off`", Support::OnlyOff),
        ("Refused", Support::Refuse),
    ] {
        let all: Vec<_> = rows(section(DIRECTIVES, heading)).into_iter().flat_map(|(names, _)| names).collect();
        let listed: BTreeSet<_> = all.iter().copied().collect();
        assert_eq!(listed.len(), all.len(), "{heading}: a name stands there twice");
        let mut expected: BTreeSet<_> =
            known.iter().filter(|(_, known)| known.support == support).map(|(name, _)| *name).collect();
        if support == Support::Works {
            expected.insert("include"); // known to the syntax
        }
        assert_eq!(listed, expected, "{heading}");
    }
}

/// Names that begin like those of a family of directives are directives.
#[test]
fn the_pages_name_no_directive_that_does_not_exist() {
    const FAMILIES: [&str; 10] =
        ["auth_", "client_", "gzip_", "keepalive_", "limit_", "lingering_", "proxy_", "resolver_", "ssl_", "worker_"];
    /// Parameters.
    const OTHERS: [&str; 2] = ["proxy_protocol", "proxy_recursive"];
    let known = known();
    let pages = pages();
    let lines = pages.iter().flat_map(|(_, text)| text.lines());
    let quoted = lines.flat_map(|line| line.split('`').skip(1).step_by(2));
    let names = quoted.filter_map(|text| text.split([' ', ';', '=', '{']).next());
    let unknown: Vec<_> = names
        .filter(|name| FAMILIES.iter().any(|family| name.starts_with(family)))
        .filter(|name| !known.contains_key(name) && !OTHERS.contains(name))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn docs_name_the_contexts_of_directives_that_work() {
    let known = known();
    for (names, contexts) in rows(section(DIRECTIVES, "Directives that work")) {
        for name in names.into_iter().filter(|name| *name != "include") {
            let written: BTreeSet<_> = contexts.split(", ").collect();
            let contexts = known[name].contexts.iter().map(|context| context.split(' ').next().unwrap());
            assert_eq!(written, contexts.collect(), "{name}");
        }
    }
}

#[test]
fn docs_list_every_variable() {
    let listed: BTreeSet<_> = rows(VARIABLES).into_iter().flat_map(|(names, _)| names).collect();
    let missing: Vec<_> = smolgate::config::template::Variable::known_names()
        .filter(|name| !listed.contains(format!("${name}").as_str()))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    for name in listed {
        let example = name.replace("NAME", "x").replace("$1", "$2").replace("…", "");
        let text = format!("map \"{example}\" $mine {{ default 1; }} server {{ return 200 $mine; }}");
        load(ConfigSource::Text("a variable", text)).unwrap_or_else(|why| panic!("{why}"));
    }
}
