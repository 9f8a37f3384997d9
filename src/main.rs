//! The command line: nginx's letters, a configuration without a file, messages, exit codes.
//!
//! 0: stopped on request, or a check that went well. 1: failed while running. 2: wrong flags or configuration.

use std::future::poll_fn;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use argh::FromArgs;
use smolgate::config::{self, Config, ErrorLog, Folders, Gzip, HealthCheck, Place, Resolver, Source, StatusForm};
use smolgate::program::Program;
use smolgate::{background, names, parcel, password, reactor, server, supervisor, tls, upgrade};

/// HTTP/1.1 and WebSocket proxy for small machines that reads nginx's configuration language.
#[derive(FromArgs)]
#[argh(help_triggers("-h", "-?", "--help"))]
struct Flags {
    /// configuration file (smolgate.conf here, or else /etc/smolgate/smolgate.conf)
    #[argh(option, short = 'c', long = "config", arg_name = "file")]
    config: Option<String>,
    /// folder that relative names start from (the current one)
    #[argh(option, short = 'p', long = "prefix", arg_name = "folder")]
    prefix: Option<String>,
    /// error log until the configuration names one (stderr)
    #[argh(option, short = 'e', long = "error-log", arg_name = "file")]
    error_log: Option<String>,
    /// directives that are read before the file
    #[argh(option, short = 'g', long = "directives", arg_name = "text")]
    directives: Option<String>,
    /// check the configuration and say what in it is ignored
    #[argh(switch, short = 't', long = "test")]
    test: bool,
    /// check the configuration and print it
    #[argh(switch, short = 'T', long = "dump")]
    dump: bool,
    /// say nothing but errors while checking
    #[argh(switch, short = 'q', long = "quiet")]
    quiet: bool,
    /// tell the running program to stop, quit, reload, reopen or upgrade
    #[argh(option, short = 's', long = "signal", arg_name = "signal")]
    signal: Option<String>,
    /// check whether this version could go on with the connections of another
    #[argh(option, long = "takes-over", arg_name = "version", hidden_help)]
    takes_over: Option<u32>,
    /// print the version
    #[argh(switch, short = 'v', long = "version")]
    version: bool,
    /// print the version and what is built in
    #[argh(switch, short = 'V', long = "build")]
    build: bool,
    /// without a file: port or address to listen on
    #[argh(option, long = "listen", arg_name = "addr")]
    listen: Vec<String>,
    /// without a file: what to pass on and where, as in /ws/=127.0.0.1:8010 or /=unix:/run/app.sock
    #[argh(option, long = "proxy", arg_name = "path=upstream")]
    proxy: Vec<String>,
}

const USAGE: u8 = 2;

fn main() -> ExitCode {
    let args = match std::env::args_os().map(std::ffi::OsString::into_string).collect::<Result<Vec<_>, _>>() {
        Ok(args) => spread(args.into_iter().skip(1)),
        Err(_) => return complain("an argument is not UTF-8", USAGE),
    };
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let flags = match Flags::from_args(&["smolgate"], &args) {
        Ok(flags) => flags,
        Err(exit) if exit.status.is_ok() => {
            let _ = writeln!(std::io::stdout(), "{}", exit.output.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(exit) => return complain(exit.output.trim_end(), USAGE),
    };
    if flags.takes_over.is_some_and(|version| version != parcel::VERSION) {
        return complain("it does not understand what the running program would leave to it", USAGE);
    }
    if flags.version || flags.build {
        print_version(flags.build);
        return ExitCode::SUCCESS;
    }
    let asked = match Asked::from(&flags) {
        Ok(asked) => asked,
        Err(why) => return complain(&why, USAGE),
    };
    match &flags.signal {
        Some(signal) => asked.send(signal),
        None if flags.test || flags.dump => asked.check(flags.dump, flags.quiet, flags.takes_over.is_some()),
        None => asked.run(),
    }
}

/// nginx takes `-tq` for `-t -q`, `-cfile` for `-c file`, and `-tc file` for `-t -c file`.
fn spread(args: impl Iterator<Item = String>) -> Vec<String> {
    let mut out = Vec::new();
    for arg in args {
        let letters = arg.strip_prefix('-').filter(|rest| !rest.starts_with('-') && rest.len() > 1).unwrap_or_default();
        let switches = letters.bytes().take_while(|letter| b"tTqvVh".contains(letter)).count();
        let (switches, rest) = letters.split_at(switches);
        let option = rest.starts_with(['c', 'p', 'e', 'g', 's']);
        if letters.is_empty() || !(rest.is_empty() || option) {
            out.push(arg);
            continue;
        }
        out.extend(switches.chars().map(|c| format!("-{c}")));
        if let Some(name) = rest.get(..1) {
            out.push(format!("-{name}"));
            out.extend(rest.get(1..).filter(|value| !value.is_empty()).map(str::to_owned));
        }
    }
    out
}

fn complain(message: &str, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "smolgate: {message}");
    ExitCode::from(code)
}

fn print_version(build: bool) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "smolgate {}", env!("CARGO_PKG_VERSION"));
    if build {
        let features = [
            ("tls", tls::AVAILABLE),
            ("gzip", Gzip::AVAILABLE),
            ("health", HealthCheck::AVAILABLE),
            ("crypt", password::HAS_CRYPT),
            ("page", StatusForm::HAS_PAGE),
        ];
        let said = features.map(|(name, is_there)| if is_there { name.to_owned() } else { format!("no {name}") });
        let (arch, system) = (std::env::consts::ARCH, std::env::consts::OS);
        let _ = writeln!(out, "features: {}\ntarget: {arch} {system}", said.join(", "));
    }
}

/// What the flags ask for.
struct Asked {
    file: Option<PathBuf>,
    generated: String,
    directives: String,
    folders: Folders,
    error_log: Option<String>,
}

impl Asked {
    fn from(flags: &Flags) -> Result<Self, String> {
        let prefix = flags.prefix.clone().unwrap_or_else(|| ".".to_owned());
        let folders = Folders { prefix: prefix.clone() };
        let mut asked = Self {
            file: None,
            generated: String::new(),
            directives: flags.directives.clone().unwrap_or_default(),
            error_log: flags.error_log.clone(),
            folders,
        };
        if flags.listen.is_empty() && flags.proxy.is_empty() {
            asked.file = Some(match &flags.config {
                Some(file) => Path::new(&prefix).join(file),
                None => [Path::new(&prefix).join("smolgate.conf"), PathBuf::from("/etc/smolgate/smolgate.conf")]
                    .into_iter()
                    .find(|path| path.exists())
                    .ok_or("no configuration: give -c FILE, or --listen ADDR and --proxy PATH=UPSTREAM")?,
            });
            return Ok(asked);
        }
        if flags.config.is_some() {
            return Err("--listen and --proxy stand for a configuration file: they don't go with -c".to_owned());
        }
        let mut proxies = Vec::new();
        for text in &flags.proxy {
            match text.split_once('=') {
                Some((path, to)) if path.starts_with('/') && !to.is_empty() => {
                    proxies.push((path.to_owned(), to.to_owned()));
                }
                _ => return Err("--proxy takes PATH=UPSTREAM, as in /ws/=127.0.0.1:8010".to_owned()),
            }
        }
        if flags.listen.is_empty() || proxies.is_empty() {
            return Err("--listen and --proxy go together".to_owned());
        }
        asked.generated = config::generate(&flags.listen, &proxies);
        Ok(asked)
    }

    /// The name of the configuration in messages.
    fn name(&self) -> String {
        self.file.as_ref().map_or_else(|| "of the command line".to_owned(), |file| file.display().to_string())
    }

    fn load(&self) -> Result<Config, String> {
        let source = match &self.file {
            Some(file) => Source::File(file),
            None => Source::Text("the command line", self.generated.clone()),
        };
        let error_log = ErrorLog::default_to(self.error_log.clone());
        config::load(source, &self.directives, self.folders.clone(), error_log).map_err(|error| error.to_string())
    }

    fn run(&self) -> ExitCode {
        let parcel = match upgrade::inherited() {
            Some(Ok(parcel)) => Some(parcel),
            Some(Err(error)) => {
                complain(&error.to_string(), 1);
                None
            }
            // Before anything is opened: these have the numbers that are free otherwise.
            None => match supervisor::passed() {
                Ok(parcel) => parcel,
                Err(error) => return complain(&format!("the sockets of LISTEN_FDS can't be used: {error}"), 1),
            },
        };
        let config = match self.load() {
            Ok(config) => config,
            Err(why) => return complain(&why, USAGE),
        };
        let program = match Program::current() {
            Ok(program) => program,
            Err(error) => return complain(&format!("/proc/self/exe: {error}"), 1),
        };
        // Who is waited for by systemd, or has taken the place of another program, has its process already.
        if config.main.background && parcel.is_none() && !upgrade::is_here() && !supervisor::listens() {
            match background::go(&program) {
                Ok(None) => {}
                Ok(Some(code)) => return ExitCode::from(code),
                Err(error) => return complain(&format!("going into the background failed ({error})"), 1),
            }
        }
        match server::run_as(Some(program), config, &|| self.load(), parcel) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => complain(&format!("[emerg] {failure}"), 1),
        }
    }

    /// `-t` and `-T`.
    fn check(&self, dump: bool, quiet: bool, takes_over: bool) -> ExitCode {
        let loaded = self.load().and_then(|config| if takes_over { server::may_start(config) } else { Ok(config) });
        let config = match loaded {
            Ok(config) => config,
            Err(why) => {
                let code = complain(&why, USAGE);
                complain(&format!("configuration file {} test failed", self.name()), USAGE);
                return code;
            }
        };
        let mut err = std::io::stderr();
        if !quiet {
            for note in &config.notes {
                let at = &note.at;
                let _ = writeln!(
                    err,
                    "smolgate: {}:{}: note: \"{}\": {}",
                    at.file.name, at.line, note.directive, note.text
                );
            }
        }
        for warning in config.tls.warnings() {
            let _ = writeln!(err, "smolgate: warning: {warning}");
        }
        for name in reactor::run(unresolved(&config)).unwrap_or_default() {
            let _ = writeln!(
                err,
                "smolgate: warning: upstream \"{name}\" can't be resolved now: its requests would get 502"
            );
        }
        if !quiet {
            let _ = writeln!(err, "smolgate: the configuration file {} syntax is ok", self.name());
            let _ = writeln!(err, "smolgate: configuration file {} test is successful", self.name());
        }
        if dump {
            let mut out = std::io::stdout();
            let mut seen: Vec<&str> = Vec::new();
            for file in &config.files {
                if !seen.contains(&file.name.as_str()) {
                    seen.push(&file.name);
                    let _ = writeln!(out, "# configuration file {}:\n{}", file.name, file.text);
                }
            }
        }
        ExitCode::SUCCESS
    }

    /// `-s`: the pid file of the configuration says to whom.
    fn send(&self, signal: &str) -> ExitCode {
        use rustix::process::{Pid, Signal, kill_process};
        let signal = match signal {
            "stop" => Signal::TERM,
            "quit" => Signal::QUIT,
            "reload" => Signal::HUP,
            "reopen" => Signal::USR1,
            "upgrade" => Signal::USR2,
            other => {
                return complain(
                    &format!("invalid option: \"-s {other}\": stop, quit, reload, reopen or upgrade is expected"),
                    USAGE,
                );
            }
        };
        let loaded = self.load();
        // What the program would not take either.
        let config = match if signal == Signal::HUP { loaded.and_then(server::may_start) } else { loaded } {
            Ok(config) => config,
            Err(why) => return complain(&why, 1),
        };
        let Some(path) = &config.main.pid else {
            return complain("the configuration names no pid file: \"-s\" needs \"pid FILE;\" in it", 1);
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return complain(&format!("reading \"{path}\" failed ({error}): does the program run?"), 1),
        };
        let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else {
            return complain(&format!("invalid PID \"{}\" in \"{path}\"", text.trim()), 1);
        };
        match kill_process(pid, signal) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(&format!("kill({pid:?}) failed ({error})"), 1),
        }
    }
}

/// Names of upstreams that have no address now.
async fn unresolved(config: &Config) -> Vec<String> {
    let mut all = Vec::new();
    for peer in config.upstreams.iter().flat_map(|upstream| &upstream.peers) {
        // Name servers of the configuration are asked when somebody needs the answer.
        let Place::Name { host, .. } = &peer.place else { continue };
        if peer.resolver.is_system() {
            let name = names::of(host, &Arc::new(Resolver::system(None)));
            poll_fn(|cx| name.poll_known(cx)).await;
            if name.known().0.is_empty() {
                all.push(host.clone());
            }
        }
    }
    all
}
