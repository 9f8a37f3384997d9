//! Thousands of generated configurations: valid and invalid combinations of directives in their contexts. Loading never panics or
//! hangs, and nginx accepts what smolgate accepts.
//!
//! Each run has the same files; `SEED=7 COUNT=100` selects others. A failing file is printed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use smolgate::config::{self, ConfigSource, ErrorLog, KnownDirective, Prefix, Support};

use crate::directives::known;
use crate::grammar::{BROKEN, SAMPLES};
use crate::pair::{self, TempDir};
use crate::random::Random;

/// The number of configurations; each is also broken in one place.
const CONFIGS: usize = 1_000;

/// How long one may take to load.
const LOAD_TIME_MAX: Duration = Duration::from_secs(10);

impl Random {
    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// Arguments of directives: those that are valid if the directive stands alone, and the others.
type Arguments = BTreeMap<&'static str, (Vec<&'static str>, Vec<&'static str>)>;

/// Generates one configuration.
struct Generator<'a> {
    random: Random,
    known: &'a BTreeMap<&'static str, KnownDirective>,
    arguments: &'a Arguments,
    text: String,
    depth: usize,
    port: usize,
    /// The number of lines until the invalid one.
    lines_until_wrong: usize,
}

/// The start of `http {}` in every file, which values may refer to.
const DEFINITIONS: &[&str] = &[
    "log_format main '$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \"$http_referer\"';",
    "log_format json escape=json '{\"a\":\"$request_uri\"}';",
    "map $http_upgrade $connection_upgrade { default upgrade; '' close; }",
    "map $uri $mapped { hostnames; default 0; /a 1; ~^/b/(.*)$ $1; *.example.org 2; }",
    "map $sent_http_content_type $lifetime { default off; text/html epoch; text/css max; ~image/ 30d; }",
    "geo $geo { default 0; 10.0.0.0/8 1; 2001:db8::/32 2; }",
    "split_clients $remote_addr $split { 50% a; * b; }",
    "limit_req_zone $binary_remote_addr zone=requests:1m rate=10r/s;",
    "limit_conn_zone $binary_remote_addr zone=connections:1m;",
    "upstream backend { server 127.0.0.1:8010; server 127.0.0.1:8011 backup; }",
    "upstream websocket { server 127.0.0.1:8012 weight=2; server unix:/tmp/none.sock; }",
];

/// Locations that a server may have.
const PATHS: &[&str] =
    &["/", "/static/", "= /exact", "^~ /images/", "~ \\.php$", "~* ^/(.+)\\.(gif|png)$", "/api/v1/", "@named"];

/// The start of a location.
const LOCATION_STARTS: &[&str] = &[
    "proxy_pass http://backend;",
    "proxy_pass http://websocket; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;",
    "proxy_pass http://127.0.0.1:8010/; proxy_set_header Host $host; proxy_redirect off;",
    "proxy_pass http://unix:/tmp/none.sock:/x;",
    "root /srv; expires 30d; add_header Cache-Control public;",
    "alias /srv/www/;",
    "return 404;",
    "return 301 https://$host$request_uri;",
    "try_files $uri $uri/ /index.html =404;",
    "",
];

impl<'a> Generator<'a> {
    fn new(seed: u64, known: &'a BTreeMap<&'static str, KnownDirective>, arguments: &'a Arguments) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            random.below(2); // small seeds start alike
        }
        let lines_until_wrong = if random.one_in(2) { usize::MAX } else { random.below(40) };
        Self { random, known, arguments, text: String::new(), depth: 0, port: 21_000, lines_until_wrong }
    }

    /// Returns whether the next line is the invalid one.
    fn is_next_invalid(&mut self) -> bool {
        self.lines_until_wrong = self.lines_until_wrong.saturating_sub(1);
        self.lines_until_wrong == 0 && !self.random.one_in(3)
    }

    /// Generates a whole file.
    fn file(mut self) -> String {
        self.some("main", 2);
        self.open("events", Self::events);
        self.open("http", Self::http);
        self.text
    }

    fn events(&mut self) {
        self.some("events", 1);
    }

    fn http(&mut self) {
        for line in DEFINITIONS {
            self.line(line);
        }
        self.some("http", 6);
        for number in 0..self.random.below(2) {
            self.open(&format!("upstream other{number}"), |maker| {
                maker.some("upstream", 2);
                maker.line("server 127.0.0.1:8013;");
            });
        }
        for _ in 0..=self.random.below(2) {
            self.open("server", Self::server);
        }
    }

    fn server(&mut self) {
        self.port += 1;
        let more = self.random.pick(&["", "", "", " default_server", " backlog=16", " reuseport", " so_keepalive=on"]);
        let line = format!("listen 127.0.0.1:{}{more};", self.port);
        self.line(&line);
        self.some("server", 6);
        self.blocks("server");
        let mut used = Vec::new();
        for _ in 0..=self.random.below(4) {
            let path = self.random.pick(PATHS);
            if !used.contains(&path) || self.is_next_invalid() {
                used.push(path);
                self.open(&format!("location {path}"), |maker| maker.location(path));
            }
        }
    }

    fn location(&mut self, path: &str) {
        let errs = self.is_next_invalid();
        let is_prefix = path.starts_with(['/', '=', '^']);
        let fits = |line: &&str| {
            errs || match *line {
                line if line.contains("alias") => path.ends_with('/'),
                line if line.contains(":8010/") || line.contains(".sock") => is_prefix,
                _ => true,
            }
        };
        let ready: Vec<&str> = LOCATION_STARTS.iter().copied().filter(fits).collect();
        let line = self.random.pick(&ready);
        self.line(line);
        let mut used: Vec<&str> = line.split(';').filter_map(|part| part.split_whitespace().next()).collect();
        if !errs {
            used.extend(["alias", "root", "return", "proxy_pass"]);
        }
        self.more("location", 4, used);
        self.blocks("location");
        if self.depth < 5 && self.random.one_in(6) {
            let inner = match path {
                _ if errs => self.random.pick(PATHS).to_owned(),
                _ if path.starts_with(['/', '^']) => format!("{}more/", path.trim_start_matches("^~ ")),
                _ if path.starts_with('~') => "~ \\.txt$".to_owned(),
                _ => return,
            };
            self.open(&format!("location {inner}"), |maker| maker.location(&inner));
        }
    }

    /// Generates blocks of a server or a location.
    fn blocks(&mut self, context: &str) {
        if self.random.one_in(3) {
            let conditions = [
                "($request_method = POST)",
                "($http_user_agent ~* \"(bot|crawl)\")",
                "(!-e $request_filename)",
                "($mapped)",
                "($scheme != https)",
                "($host ~ ^www\\.(?<name>.+)$)",
                "(-f $document_root/x)",
                "($arg_a !~ ^\\d+$)",
                "($arg_a)",
                "( $arg_a = \"\" )",
            ];
            let wrong =
                ["($arg_a = )", "($arg_a", "$arg_a", "($arg_a ~ ()", "(-z $uri)", "(a = b)", "()", "( )", "($a b)"];
            let errs = self.is_next_invalid();
            let condition = self.random.pick(if errs { &wrong[..] } else { &conditions });
            self.open(&format!("if {condition}"), |maker| maker.some(&format!("if in {context}"), 2));
        }
        if context == "location" && self.random.one_in(8) {
            let errs = self.is_next_invalid();
            let methods = if errs { &["NONE", "", "get,post"] } else { &["GET", "GET POST", "get"] };
            let methods = self.random.pick(methods);
            self.open(&format!("limit_except {methods}"), |maker| maker.some("limit_except", 2));
        }
        if self.random.one_in(10) {
            self.line("types { text/html html htm; image/png png; }");
        }
    }

    /// Generates at most `most` directives of a context.
    fn some(&mut self, context: &str, most: usize) {
        self.more(context, most, Vec::new());
    }

    /// As [`Self::some`], without those in `used`.
    fn more(&mut self, context: &str, most: usize, mut used: Vec<&str>) {
        let all: Vec<&'static str> = self.arguments.keys().copied().collect();
        let here: Vec<&'static str> =
            all.iter().copied().filter(|name| self.known[name].contexts.contains(&context)).collect();
        for _ in 0..self.random.below(most + 1) {
            let errs = self.is_next_invalid();
            let mut name = self.random.pick(&here);
            if used.contains(&name) && !errs {
                continue;
            }
            used.push(name);
            let (right, wrong) = &self.arguments[name];
            let mut value = if right.is_empty() { String::new() } else { self.random.pick(right).to_owned() };
            match self.random.below(6) {
                _ if !errs => {}
                0 => name = self.random.pick(&all),
                1 => value = self.random.pick(BROKEN).to_owned(),
                2 => value = format!("{value} {}", self.random.pick(BROKEN)),
                3 => value = value.rsplit_once(' ').map_or("", |(before, _)| before).to_owned(),
                _ if !wrong.is_empty() => value = self.random.pick(wrong).to_owned(),
                _ => {}
            }
            self.line(&format!("{name} {value};"));
        }
    }

    fn line(&mut self, line: &str) {
        let _ = writeln!(self.text, "{:indent$}{line}", "", indent = self.depth * 4);
    }

    fn open(&mut self, start: &str, inside: impl FnOnce(&mut Self)) {
        self.line(&format!("{start} {{"));
        self.depth += 1;
        inside(self);
        self.depth -= 1;
        self.line("}");
    }
}

/// Returns the file with one error: truncated, a `;` or a brace missing or added, words swapped or doubled.
fn broken(random: &mut Random, text: &str) -> String {
    let all = |what: &[char]| -> Vec<usize> { text.match_indices(what).map(|(at, _)| at).collect() };
    let mut made = text.to_owned();
    match random.below(7) {
        0 => made.truncate(random.below(text.len())),
        1 => drop(made.remove(random.pick(&all(&[';'])))),
        2 => drop(made.remove(random.pick(&all(&['{', '}'])))),
        3 => made.insert(random.pick(&all(&[';', '\n'])), random.pick(&['{', '}', ';', '"', '\'', '\\', '#', '$'])),
        4 => {
            let at = random.pick(&all(&[' ']));
            made.insert_str(
                at,
                random.pick(&[" \"", " '", " ;", " {", " }", " $", " ${", " \\", " \"\"", " $uri", " ~"]),
            );
        }
        5 => {
            let lines: Vec<&str> = text.lines().collect();
            let line = random.pick(&lines);
            made = made.replacen(line, &format!("{line}\n{line}"), 1);
        }
        _ => {
            let mut lines: Vec<&str> = text.lines().collect();
            let (one, other) = (random.below(lines.len()), random.below(lines.len()));
            lines.swap(one, other);
            made = lines.join("\n");
        }
    }
    made
}

/// A name for messages, and a text.
type Sample = (String, String);

/// Loads a text. Returns the error.
fn load(text: &str, dir: &str) -> Result<(), String> {
    let directories = Prefix { path: dir.to_owned() };
    let loaded =
        config::load(ConfigSource::Text("generated", text.to_owned()), "", directories, ErrorLog::for_path(None));
    loaded.map(drop).map_err(|error| error.to_string())
}

/// Returns nginx's error for a text; `None` if it fails for a reason outside of the text.
fn nginx(dir: &TempDir, number: usize, text: &str) -> Option<Result<(), String>> {
    let installed = pair::nginx()?;
    let file = dir.path(&format!("{number}.conf"));
    fs::write(&file, text).unwrap();
    let mut command = Command::new(&installed.program);
    command.arg("-t").arg("-q").args(["-e", "stderr"]).arg("-p").arg(dir.path("")).arg("-c").arg(&file);
    let output = command.stdin(Stdio::null()).output().unwrap();
    fs::remove_file(&file).unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    // Newer than this nginx, or of a module that it was built without.
    let unknown = ["unknown directive", "Permission denied"].iter().any(|part| told.contains(part));
    match output.status.success() {
        true => Some(Ok(())),
        false if unknown => None,
        false => Some(Err(told)),
    }
}

/// Returns a file with one directive in a context, and the lines of every file.
fn alone(line: &str, context: &str) -> String {
    let inner = |at: &str, rest: &str| if at == context { format!("{line}\n{rest}") } else { rest.to_owned() };
    let except = inner("limit_except", "deny all;");
    let condition = inner("if in location", "");
    let location = inner("location", &format!("limit_except GET {{ {except} }} if ($arg_a) {{ {condition} }}"));
    let listen = if line.starts_with("listen") && context == "server" { "" } else { "listen 127.0.0.1:22000;" };
    let outer = inner("if in server", "");
    let server = inner("server", &format!("{listen} if ($arg_a) {{ {outer} }} location / {{ {location} }}"));
    let upstream = inner("upstream", "server 127.0.0.1:8013;");
    let http =
        inner("http", &format!("{}\nupstream other {{ {upstream} }} server {{ {server} }}", DEFINITIONS.join("\n")));
    inner("main", &format!("events {{ {} }}\nhttp {{\n{http}\n}}\n", inner("events", "")))
}

/// The samples of grammar.rs; without TLS its directives are ignored, and their arguments not checked.
fn samples() -> impl Iterator<Item = &'static (&'static str, &'static [&'static str])> {
    SAMPLES.iter().filter(|(name, _)| cfg!(feature = "tls") || !name.contains("ssl_"))
}

/// Sorts the arguments by whether smolgate accepts them.
fn arguments(known: &BTreeMap<&'static str, KnownDirective>, prefix: &str) -> Arguments {
    let works = |name: &str| known.get(name).is_some_and(|known| known.support == Support::Works);
    let sort = |name: &'static str, values: &[&'static str]| {
        let context = known[name].contexts.iter().min().unwrap();
        let is_right = |value: &&str| load(&alone(&format!("{name} {value};"), context), prefix).is_ok();
        (name, values.iter().copied().partition(is_right))
    };
    samples().filter(|(name, _)| works(name)).map(|(name, values)| sort(name, values)).collect()
}

#[test]
fn nginx_accepts_single_directives() {
    let dir = TempDir::new();
    let (known, prefix) = (known(), dir.path("").display().to_string());
    let samples = samples().flat_map(|(name, values)| values.iter().map(move |value| (*name, *value)));
    let texts = samples.flat_map(|(name, value)| {
        let contexts = known.get(name).map(|known| known.contexts.clone()).unwrap_or_default();
        contexts
            .into_iter()
            .map(move |context| (format!("{name} {value} in {context}"), alone(&format!("{name} {value};"), context)))
    });
    let texts: Vec<Sample> = texts.collect();
    let accepted = load_all(&texts, &prefix);
    if pair::nginx().is_some() {
        ask_nginx(&dir, &accepted);
    }
}

/// A directive that is said twice in a block is accepted, or refused, by both.
#[test]
fn nginx_accepts_the_same_directives_twice() {
    let dir = TempDir::new();
    let (known, prefix) = (known(), dir.path("").display().to_string());
    if pair::nginx().is_none() {
        return;
    }
    let mut wrong = Vec::new();
    for (name, (right, _)) in arguments(&known, &prefix) {
        let (Some(first), Some(last)) = (right.first(), right.last()) else { continue };
        for context in &known[name].contexts {
            let lines = [first, last].map(|value| format!("{name} {value};"));
            let is_accepted_alone = lines.iter().enumerate().all(|(number, line)| {
                let text = alone(line, context);
                load(&text, &prefix).is_ok() && nginx(&dir, number, &text) == Some(Ok(()))
            });
            if !is_accepted_alone {
                continue;
            }
            let text = alone(&lines.join("\n"), context);
            match (load(&text, &prefix), nginx(&dir, 0, &text)) {
                (Err(why), Some(Ok(()))) => wrong.push(format!("{context}: {} smolgate says {why}", lines.join(" "))),
                (Ok(()), Some(Err(why))) => wrong.push(format!("{context}: {} nginx says {why}", lines.join(" "))),
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// What only smolgate accepts on purpose: parts of nginx's messages, and the reason.
const ONLY_SMOLGATE_ACCEPTS: &[(&str, &str)] = &[
    ("should be placed after the \"proxy_pass\"", "the order of lines does not matter"),
    ("invalid value \"0\" in \"keepalive\"", "newer ones accept it: no connections are kept"),
    ("\"resolver\" directive is not allowed here", "newer ones accept it in an upstream"),
    ("\"resolver_timeout\" directive is not allowed here", "newer ones accept it in an upstream"),
    ("no \"events\" section", "there is nothing to be said in it"),
    ("conflicting parameter", "a name may come twice, as elsewhere"),
    ("without any valid referer", "it says that none is valid"),
    ("zero size shared memory zone", "nothing depends on the size"),
];

#[test]
fn nginx_accepts_generated_files() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<usize>().ok());
    let (first, count) = (number("SEED").unwrap_or(1), number("COUNT").unwrap_or(CONFIGS));
    let dir = TempDir::new();
    let prefix = dir.path("").display().to_string();
    let known = known();
    let arguments = arguments(&known, &prefix);
    let texts: Vec<Sample> = (first..first + count)
        .flat_map(|seed| {
            let whole = Generator::new(seed as u64, &known, &arguments).file();
            let mutant = broken(&mut Random(seed as u64 * 2 + 1), &whole);
            [(format!("SEED={seed}"), whole), (format!("SEED={seed}, broken"), mutant)]
        })
        .collect();
    let accepted = load_all(&texts, &prefix);
    let whole = texts.iter().step_by(2).filter(|text| accepted.contains(text)).count();
    eprintln!("{whole} of {count} are accepted, {} of those that were broken", accepted.len() - whole);
    assert!(whole * 3 > count, "too few of the files are accepted to show anything: {whole}");
    if pair::nginx().is_some() {
        ask_nginx(&dir, &accepted);
    }
}

/// Loads all texts within the time limit. Returns the accepted ones.
fn load_all<'t>(texts: &'t [Sample], prefix: &str) -> Vec<&'t Sample> {
    let (sender, receiver) = mpsc::channel();
    let (all, dir) = (texts.to_vec(), prefix.to_owned());
    std::thread::spawn(move || {
        for (_, text) in all {
            let _ = sender.send(std::panic::catch_unwind(|| load(&text, &dir)));
        }
    });
    let mut accepted = Vec::new();
    for sample @ (name, text) in texts {
        match receiver.recv_timeout(LOAD_TIME_MAX) {
            Ok(Ok(Ok(()))) => accepted.push(sample),
            Ok(Ok(Err(why))) => {
                if std::env::var_os("WHY").is_some() {
                    eprintln!("{name}: {}", why.lines().next().unwrap_or_default());
                }
            }
            Ok(Err(_)) => panic!("{name}: loading this panics:\n{text}"),
            Err(_) => panic!("{name}: loading this takes too long:\n{text}"),
        }
    }
    accepted
}

fn ask_nginx(dir: &TempDir, texts: &[&Sample]) {
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let asked = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some((name, text)) = { texts.get(next.fetch_add(1, Ordering::Relaxed)) } {
                    let verdict = nginx(dir, next.load(Ordering::Relaxed) + texts.len() * thread_number(), text);
                    let Some(verdict) = verdict else { continue };
                    asked.fetch_add(1, Ordering::Relaxed);
                    let Err(why) = verdict else { continue };
                    if !ONLY_SMOLGATE_ACCEPTS.iter().any(|(part, _)| why.contains(part)) {
                        wrong.lock().unwrap().push((format!("{name}: nginx says {why}"), text.as_str()));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    eprintln!("nginx was asked about {} of them", asked.into_inner());
    let Some((_, text)) = wrong.first() else { return };
    let all: Vec<&str> = wrong.iter().map(|(why, _)| why.as_str()).collect();
    panic!("{} are accepted that nginx does not accept:\n{}the first is\n{text}", wrong.len(), all.concat());
}

/// Returns a number that is unique to the thread.
fn thread_number() -> usize {
    static LAST: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static OWN: usize = LAST.fetch_add(1, Ordering::Relaxed));
    OWN.with(|own| *own)
}
