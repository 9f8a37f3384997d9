//! The command line: nginx's flags, a configuration without a file, messages, exit codes.
//!
//! Exit codes: 0 for a requested stop or a successful check, 1 for a failure while running, 2 for invalid flags or
//! configuration.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::future::poll_fn;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use argh::FromArgs;
use rustix::process::{Pid, Signal, kill_process};
use smolgate::config::{
    self, Config, ConfigSource, ErrorLog, Gzip, HealthCheck, Position, Prefix, ReferenceTarget, Route, StatusForm,
};
use smolgate::dns::cache;
use smolgate::dns::client::Resolver;
use smolgate::modules::access::password;
use smolgate::os::pid_file;
use smolgate::process::exec::Invocation;
use smolgate::process::{binary_upgrade, check_url, start, systemd};
use smolgate::runtime::{executor, handover};
use smolgate::tls;

/// HTTP/1.1 and WebSocket proxy for small machines that reads nginx's configuration language.
#[derive(FromArgs)]
#[argh(
    help_triggers("-h", "-?", "--help"),
    example = "An application at port 3000, and files of a directory:\n  {command_name} --listen 8080 --proxy /=3000\n  \
               {command_name} --listen 8080 --static /=./www",
    example = "With a configuration file, in nginx's language:\n  {command_name} -t -c smolgate.conf\n  \
               {command_name} -c smolgate.conf",
    note = "docs/operations.md and smolgate(8) describe the flags; smolgate.conf(5) the configuration."
)]
struct Flags {
    /// configuration file (./smolgate.conf, or else /etc/smolgate/smolgate.conf)
    #[argh(option, short = 'c', long = "config", arg_name = "file")]
    config: Option<String>,
    /// directory that relative paths start from (the current one)
    #[argh(option, short = 'p', long = "prefix", arg_name = "directory")]
    prefix: Option<String>,
    /// error log until the configuration sets one (stderr)
    #[argh(option, short = 'e', long = "error-log", arg_name = "file")]
    error_log: Option<String>,
    /// directives to apply before the file
    #[argh(option, short = 'g', long = "directives", arg_name = "text")]
    directives: Option<String>,
    /// check the configuration and list what it ignores
    #[argh(switch, short = 't', long = "test")]
    test: bool,
    /// check the configuration and print it
    #[argh(switch, short = 'T', long = "dump")]
    dump: bool,
    /// print only errors and warnings while checking
    #[argh(switch, short = 'q', long = "quiet")]
    quiet: bool,
    /// signal the running process: stop, quit, reload, reopen or upgrade
    #[argh(option, short = 's', long = "signal", arg_name = "signal")]
    signal: Option<String>,
    /// with -s: the process to signal, in place of the one that holds the pid file
    #[argh(option, long = "pid", arg_name = "pid")]
    pid: Option<String>,
    /// how long a graceful stop takes at most, as in 5s (the worker_shutdown_timeout of the configuration)
    #[argh(option, long = "stop-timeout", arg_name = "time")]
    stop_timeout: Option<String>,
    /// request a URL once; the exit code is 0 if the status is below 400
    #[argh(option, long = "check", arg_name = "url")]
    check: Option<String>,
    /// check whether this version can take over the connections of another
    #[argh(option, long = "takes-over", arg_name = "version", hidden_help)]
    takes_over: Option<String>,
    /// print the version
    #[argh(switch, short = 'v', long = "version")]
    version: bool,
    /// print the version and the built-in features
    #[argh(switch, short = 'V', long = "build")]
    build: bool,
    /// without a file: port or address to listen on
    #[argh(option, long = "listen", arg_name = "addr")]
    listen: Vec<String>,
    /// without a file: path to forward and where to, as in /=3000, /ws/=127.0.0.1:8010 or /=unix:/run/app.sock
    #[argh(option, long = "proxy", arg_name = "path=upstream")]
    proxy: Vec<String>,
    /// without a file: path to serve from a directory, as in /=./www
    #[argh(option, long = "static", arg_name = "path=directory")]
    static_files: Vec<String>,
}

const EXIT_USAGE: u8 = 2;
const NO_CONFIGURATION: &str = "there is no ./smolgate.conf or /etc/smolgate/smolgate.conf: name a file with -c, or try \
    \"smolgate --listen 8080 --proxy /=3000\" for an application at port 3000";
/// Places of a note that `-t` prints.
const NOTE_PLACES_MAX: usize = 3;

fn main() -> ExitCode {
    let mut args = Vec::new();
    for arg in std::env::args_os().skip(1) {
        match arg.into_string() {
            Ok(arg) => expand_flags(arg, &mut args),
            Err(_) => return fail(EXIT_USAGE, format_args!("an argument is not UTF-8")),
        }
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let flags = match Flags::from_args(&["smolgate"], &args) {
        Ok(flags) => flags,
        Err(exit) if exit.status.is_ok() => {
            print_line(format_args!("{}", exit.output.trim_end()));
            return ExitCode::SUCCESS;
        }
        Err(exit) => return fail(EXIT_USAGE, format_args!("{}", exit.output.trim_end())),
    };
    if flags.takes_over.as_ref().is_some_and(|version| *version != handover::VERSION.to_string()) {
        return fail(EXIT_USAGE, format_args!("this version can't take over the connections of the running one"));
    }
    if flags.version || flags.build {
        print_version(flags.build);
        return ExitCode::SUCCESS;
    }
    if let Some(url) = &flags.check {
        return match check_url::check(url) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => fail(1, format_args!("{url}: {why}")),
        };
    }
    let options = match Options::from_flags(&flags) {
        Ok(options) => options,
        Err(why) => return fail(EXIT_USAGE, format_args!("{why}")),
    };
    match &flags.signal {
        Some(signal) => options.send_signal(signal, flags.pid.as_deref()),
        None if flags.test || flags.dump => options.check(flags.dump, flags.quiet, flags.takes_over.is_some()),
        None => options.run(),
    }
}

/// Expands clustered flags as nginx does: `-tq` to `-t -q`, `-cfile` to `-c file`, and `-tc file` to `-t -c file`; and
/// `--listen=8080` to `--listen 8080`.
fn expand_flags(arg: String, out: &mut Vec<String>) {
    if let Some((name, value)) = arg.split_once('=').filter(|(name, _)| name.starts_with("--")) {
        out.extend([name.to_owned(), value.to_owned()]);
        return;
    }
    let letters = arg.strip_prefix('-').filter(|rest| !rest.starts_with('-') && rest.len() > 1).unwrap_or_default();
    let switches = letters.bytes().take_while(|letter| b"tTqvVh".contains(letter)).count();
    let (switches, rest) = letters.split_at(switches);
    let option = rest.starts_with(['c', 'p', 'e', 'g', 's']);
    if letters.is_empty() || !(rest.is_empty() || option) {
        out.push(arg);
        return;
    }
    out.extend(letters.chars().take(switches.len() + usize::from(option)).map(|letter| format!("-{letter}")));
    out.extend(rest.get(1..).filter(|value| !value.is_empty()).map(str::to_owned));
}

fn fail(code: u8, message: fmt::Arguments<'_>) -> ExitCode {
    print_error(message);
    ExitCode::from(code)
}

/// Writes a line to standard output, if that is open.
fn print_line(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Writes a line to standard error, if that is open.
fn print_error(message: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "smolgate: {message}");
}

fn print_version(build: bool) {
    print_line(format_args!("smolgate {}", env!("CARGO_PKG_VERSION")));
    if build {
        let features = [
            ("tls", tls::AVAILABLE),
            ("gzip", Gzip::AVAILABLE),
            ("health", HealthCheck::AVAILABLE),
            ("crypt", password::HAS_CRYPT),
            ("page", StatusForm::HAS_PAGE),
        ];
        let listed = features.map(|(name, available)| if available { name.to_owned() } else { format!("no {name}") });
        let (arch, system) = (std::env::consts::ARCH, std::env::consts::OS);
        print_line(format_args!("features: {}\ntarget: {arch} {system}", listed.join(", ")));
    }
}

/// The parsed command line.
struct Options {
    file: Option<PathBuf>,
    generated: String,
    directives: String,
    prefix: Prefix,
    error_log: Option<String>,
    stop_timeout: Option<Duration>,
}

impl Options {
    fn from_flags(flags: &Flags) -> Result<Self, String> {
        let dir = flags.prefix.clone().unwrap_or_else(|| ".".to_owned());
        let mut options = Self {
            file: None,
            generated: String::new(),
            directives: flags.directives.clone().unwrap_or_default(),
            error_log: flags.error_log.clone(),
            prefix: Prefix { path: dir.clone() },
            stop_timeout: None,
        };
        if let Some(text) = &flags.stop_timeout {
            options.stop_timeout = Some(config::parse_time(text).ok_or("--stop-timeout takes a time, as in 5s or 1h")?);
        }
        if flags.listen.is_empty() && flags.proxy.is_empty() && flags.static_files.is_empty() {
            options.file = Some(match &flags.config {
                Some(file) => Path::new(&dir).join(file),
                None => if_exists(Path::new(&dir).join("smolgate.conf"))
                    .or_else(|| if_exists(PathBuf::from("/etc/smolgate/smolgate.conf")))
                    .ok_or(NO_CONFIGURATION)?,
            });
            return Ok(options);
        }
        if flags.config.is_some() {
            return Err(
                "--listen, --proxy and --static replace a configuration file: they can't be used with -c".to_owned()
            );
        }
        let mut routes = Vec::new();
        for text in &flags.proxy {
            routes.push(
                Route::parse_proxy(text).ok_or("--proxy takes PATH=UPSTREAM, as in /=3000 or /ws/=127.0.0.1:8010")?,
            );
        }
        for text in &flags.static_files {
            routes.push(Route::parse_static(text).ok_or("--static takes PATH=DIRECTORY, as in /=./www")?);
        }
        if flags.listen.is_empty() || routes.is_empty() {
            return Err("--listen needs --proxy or --static, and these need --listen".to_owned());
        }
        options.generated = config::generate(&flags.listen, &routes);
        Ok(options)
    }

    /// Returns the name of the configuration in messages.
    fn name(&self) -> String {
        self.file.as_ref().map_or_else(|| "of the command line".to_owned(), |file| file.display().to_string())
    }

    fn load(&self) -> Result<Config, String> {
        let source = match &self.file {
            Some(file) => ConfigSource::File(file),
            None => ConfigSource::Text("the command line", self.generated.clone()),
        };
        let error_log = ErrorLog::for_path(self.error_log.clone());
        let mut config = config::load(source, &self.directives, self.prefix.clone(), error_log)
            .map_err(|error| error.to_string())?;
        if let Some(limit) = self.stop_timeout {
            config.main.limit_stop(limit);
        }
        Ok(config)
    }

    fn run(&self) -> ExitCode {
        let handover = match binary_upgrade::receive_handover() {
            Some(Ok(handover)) => Some(handover),
            Some(Err(error)) => {
                print_error(format_args!("{error}"));
                None
            }
            // Before anything is opened: systemd's descriptors start at 3.
            None => match systemd::take_sockets() {
                Ok(handover) => handover,
                Err(error) => return fail(1, format_args!("the sockets of LISTEN_FDS can't be used: {error}")),
            },
        };
        let config = match self.load() {
            Ok(config) => config,
            Err(why) => return fail(EXIT_USAGE, format_args!("{why}")),
        };
        let program = match Invocation::current() {
            Ok(program) => program,
            Err(error) => return fail(1, format_args!("/proc/self/exe: {error}")),
        };
        match start::run_upgradable(Some(program), config, &|| self.load(), handover) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => fail(1, format_args!("[emerg] {failure}")),
        }
    }

    /// Checks the configuration: `-t` and `-T`.
    fn check(&self, dump: bool, quiet: bool, takes_over: bool) -> ExitCode {
        // A binary upgrade goes on without a log that can't be opened.
        let check = if takes_over { start::check_startable } else { start::check_complete };
        let loaded = self.load().and_then(check);
        let config = match loaded {
            Ok(config) => config,
            Err(why) => {
                print_error(format_args!("{why}"));
                return fail(EXIT_USAGE, format_args!("configuration file {} test failed", self.name()));
            }
        };
        if !quiet {
            print_notes(&config);
        }
        for warning in config.tls.warnings() {
            print_error(format_args!("warning: {warning}"));
        }
        for reference in &config.references {
            if let Some(warning) = reference.warning() {
                print_error(format_args!("{}: warning: {warning}", place(&config, &reference.at)));
            }
        }
        for (at, host) in executor::run(unresolved_hosts(&config)).unwrap_or_default() {
            let near = config.closest_upstream(host);
            let hint = near.map_or(String::new(), |name| format!(" (did you mean upstream \"{name}\"?)"));
            print_error(format_args!(
                "{}: warning: \"{host}\" can't be resolved now: requests to it would get 502{hint}",
                place(&config, at)
            ));
        }
        if !quiet {
            let name = self.name();
            print_error(format_args!("the configuration file {name} syntax is ok"));
            print_error(format_args!("configuration file {name} test is successful"));
        }
        if dump {
            let mut seen: Vec<&str> = Vec::new();
            for file in &config.files {
                if !seen.contains(&file.name.as_str()) {
                    seen.push(&file.name);
                    print_line(format_args!("# configuration file {}:\n{}", file.name, file.text));
                }
            }
        }
        ExitCode::SUCCESS
    }

    /// Returns the process to signal, or an exit code and a message. A reload that the process would refuse is refused here.
    fn find_process(&self, pid: Option<&str>, is_reload: bool) -> Result<Pid, (u8, String)> {
        let load = || {
            let loaded = self.load();
            let checked = if is_reload { loaded.and_then(start::check_complete) } else { loaded };
            checked.map_err(|why| (EXIT_USAGE, why))
        };
        if let Some(pid) = pid {
            let pid = pid_file::parse_pid(pid)
                .ok_or_else(|| (EXIT_USAGE, format!("--pid takes a process id, not \"{pid}\"")))?;
            return if is_reload { load().map(|_| pid) } else { Ok(pid) };
        }
        match load()?.main.pid {
            Some(path) => pid_file::find_holder(&path).map_err(|why| (1, why)),
            None => Err((1, "no pid file: \"-s\" needs \"pid FILE;\" in the configuration, or --pid".to_owned())),
        }
    }

    /// Signals the process `pid`, or the one that holds the pid file of the configuration: `-s`.
    fn send_signal(&self, signal: &str, pid: Option<&str>) -> ExitCode {
        let signal = match signal {
            "stop" => Signal::TERM,
            "quit" => Signal::QUIT,
            "reload" => Signal::HUP,
            "reopen" => Signal::USR1,
            "upgrade" => Signal::USR2,
            other => {
                let expected = "stop, quit, reload, reopen or upgrade is expected";
                return fail(EXIT_USAGE, format_args!("invalid option: \"-s {other}\": {expected}"));
            }
        };
        let pid = match self.find_process(pid, signal == Signal::HUP) {
            Ok(pid) => pid,
            Err((code, why)) => return fail(code, format_args!("{why}")),
        };
        match kill_process(pid, signal) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(1, format_args!("kill({}) failed ({error})", pid.as_raw_pid())),
        }
    }
}

/// Prints the first places of each note, and how many more there are.
fn print_notes(config: &Config) {
    let mut places: HashMap<(&str, &str), (usize, usize)> = HashMap::new();
    for note in &config.notes {
        places.entry((&note.directive, &note.text)).or_default().0 += 1;
    }
    for note in &config.notes {
        let (all, printed) = places.entry((&note.directive, &note.text)).or_default();
        *printed += 1;
        if *printed > NOTE_PLACES_MAX {
            continue;
        }
        let more = match *all - *printed {
            1.. if *printed == NOTE_PLACES_MAX => format!(" (and {} more)", *all - *printed),
            _ => String::new(),
        };
        print_error(format_args!("{}: note: \"{}\": {}{more}", place(config, &note.at), note.directive, note.text));
    }
}

/// Returns the path if it exists.
fn if_exists(path: PathBuf) -> Option<PathBuf> {
    path.exists().then_some(path)
}

/// Returns the file and line of a position.
fn place(config: &Config, at: &Position) -> String {
    let file = config.files.get(at.file as usize).map_or("", |file| &file.name);
    format!("{file}:{}", at.line)
}

/// Returns the hosts that can't be resolved now, each at its first place.
async fn unresolved_hosts(config: &Config) -> Vec<(&Position, &str)> {
    let mut seen = HashSet::new();
    let mut unresolved = Vec::new();
    for reference in &config.references {
        let ReferenceTarget::Host(host) = &reference.target else { continue };
        if !seen.insert(host) {
            continue;
        }
        let name = cache::entry(host, &Arc::new(Resolver::system(None)));
        poll_fn(|cx| name.poll_resolved(cx)).await;
        if name.addrs_and_expiry().0.is_empty() {
            unresolved.push((&reference.at, host.as_str()));
        }
    }
    unresolved
}
