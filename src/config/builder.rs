//! Builds a [`Config`] from the tree of directives: contexts, numbers of arguments, inheritance, order of evaluation.
//!
//! The lines of a block are read in [`Round`]s: inner blocks come last and so inherit every setting of the block, wherever
//! in it the line is. Names of variables are collected before everything else, so that they may be used above their
//! definition.

use std::cell::Cell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::arguments::{self, arg};
use crate::config::directives::{self, Action, DirectiveSpec, Round};
use crate::config::parser::{self, Directive, Error, Position, Result, Word, comment_hint, placeholder_hint};
use crate::config::template::{Builtin, Template, TemplateError, Variable};
use crate::config::{
    Config, Content, ErrorLog, LogFormat, Main, Note, NoteEffect, OptionalSettings, Prefix, RewriteStep, Settings,
    TryFiles, suggestion, unsupported,
};
use crate::modules::limit::conf::ZoneTable;
use crate::modules::map::conf::Expression;
use crate::proxy::health_match_conf::HealthMatches;
use crate::proxy::origin_conf::Assignments;
use crate::proxy::upstream_conf::UpstreamBuilder;
use crate::regex::Pattern;
use crate::request::listen_conf::{Listen, ServerListens, ServerName};
use crate::request::location_conf::LocationBuilder;
use crate::tls::TlsStore;
use crate::tls::conf::SslDirectives;

/// The configuration under construction.
pub(crate) struct Builder {
    pub(crate) config: Config,
    pub(crate) prefix: Prefix,
    /// The directory of the main file.
    pub(crate) config_directory: PathBuf,
    pub(crate) health_matches: HealthMatches,
    pub(crate) zones: ZoneTable,
    /// Where names are given, by the kind of what they name.
    names: HashMap<(&'static str, String), Position>,
    pub(crate) log_formats: Vec<(String, Arc<LogFormat>)>,
    pub(crate) servers: Vec<ServerListens>,
    /// Each `proxy_pass` whose host the client may choose.
    pub(crate) client_chosen_hosts: Vec<Word>,
    /// Variables defined by `map`, `geo` and `split_clients`.
    defined_variables: HashMap<String, Variable>,
    user_variables: HashMap<String, u32>,
    /// All values that variables are assigned, wherever in the configuration.
    pub(crate) assignments: Assignments,
    keeps_response_head: Cell<bool>,
    keeps_request_body: Cell<bool>,
    /// Set by a variable that changes until the end of the response, unless it is part of a `log_format`.
    pub(crate) needs_request_at_end: Cell<bool>,
}

/// A block under construction.
pub(crate) struct BlockBuilder {
    pub(crate) context: u16,
    pub(crate) settings: Settings,
    /// Whether the current directive is the first of its name in this block: it replaces inherited values.
    pub(crate) is_first: bool,
    /// Whether the block has an `allow` or `deny` of its own.
    pub(crate) has_access_rules: bool,
    pub(crate) listens: Vec<Listen>,
    pub(crate) names: Vec<ServerName>,
    pub(crate) steps: Vec<RewriteStep>,
    pub(crate) try_files: Option<TryFiles>,
    pub(crate) content: Option<Content>,
    pub(crate) location: Option<LocationBuilder>,
    pub(crate) locations: Vec<Arc<crate::config::Location>>,
    /// Where they are, by modifier and path.
    pub(crate) location_positions: HashMap<String, Position>,
    pub(crate) upstream: UpstreamBuilder,
    pub(crate) tls: SslDirectives,
}

impl BlockBuilder {
    fn new(context: u16, settings: Settings) -> Self {
        Self {
            context,
            settings,
            is_first: true,
            has_access_rules: false,
            listens: Vec::new(),
            names: Vec::new(),
            steps: Vec::new(),
            try_files: None,
            content: None,
            location: None,
            locations: Vec::new(),
            location_positions: HashMap::new(),
            upstream: UpstreamBuilder::default(),
            tls: SslDirectives::default(),
        }
    }

    /// Returns the optional settings to change; they are no longer shared with the block around this one.
    pub(crate) fn optional_mut(&mut self) -> &mut OptionalSettings {
        Arc::make_mut(&mut self.settings.optional)
    }
}

/// The source of a configuration.
pub enum ConfigSource<'s> {
    File(&'s Path),
    /// Text, with a name for messages.
    Text(&'s str, String),
}

/// Loads a configuration; `global_directives` is the text of `-g`.
pub fn load(
    source: ConfigSource<'_>,
    global_directives: &str,
    prefix: Prefix,
    default_error_log: ErrorLog,
) -> Result<Config> {
    let directory = match source {
        ConfigSource::File(path) => path.parent().unwrap_or(Path::new(".")).to_owned(),
        ConfigSource::Text(..) => prefix.path.clone().into(),
    };
    let mut reader = parser::Reader::new(&directory);
    let tree = parse(&mut reader, source, global_directives)?;
    let mut builder = Builder::new(prefix, directory, default_error_log);
    builder.build(&wrap_in_http(tree)).map_err(|error| error.with_files(&reader.files))?;
    builder.config.files = reader.files;
    Ok(builder.config)
}

/// Parses `-g`, and after it the file or text.
fn parse(reader: &mut parser::Reader, source: ConfigSource<'_>, global_directives: &str) -> Result<Vec<Directive>> {
    let mut tree = if global_directives.is_empty() {
        Vec::new()
    } else {
        reader.parse_text("-g".to_owned(), global_directives.to_owned())?
    };
    tree.append(&mut match source {
        ConfigSource::File(path) => reader.parse_file(path)?,
        ConfigSource::Text(name, text) => reader.parse_text(name.to_owned(), text)?,
    });
    Ok(tree)
}

/// Wraps a file without `http {}` in one: most published examples are such fragments.
fn wrap_in_http(tree: Vec<Directive>) -> Vec<Directive> {
    let is_main =
        |d: &Directive| directives::find(&d.name.text).is_none_or(|spec| spec.contexts & directives::MAIN != 0);
    if tree.iter().any(|d| d.name.text == "http") || tree.iter().all(is_main) {
        return tree;
    }
    let (mut main, inner): (Vec<_>, Vec<_>) = tree.into_iter().partition(is_main);
    if let Some(first) = inner.first() {
        let name = Word { text: "http".to_owned(), at: first.name.at, quoted: false };
        main.push(Directive { name, args: Vec::new(), block: Some(inner) });
    }
    main
}

/// What guides forget to copy.
const CONNECTION_UPGRADE_HINT: &str = "the guide has \"map $http_upgrade $connection_upgrade { default upgrade; '' close; }\": \
    put it beside the servers, or delete the lines that set Upgrade and Connection, since WebSockets need neither";

/// Directives that accept no further line of their name in a block once one of them is `off`.
const OFF_ALONE: [&str; 4] = ["proxy_cookie_domain", "proxy_cookie_flags", "proxy_cookie_path", "proxy_redirect"];

impl Builder {
    fn new(prefix: Prefix, directory: PathBuf, default_error_log: ErrorLog) -> Self {
        let main = Main {
            pid: None,
            user: None,
            group: None,
            user_position: None,
            error_log: Arc::from([default_error_log]),
            worker_connections: None,
            workers: 1,
            cpu_affinity: crate::config::CpuAffinity::Any,
            open_files_max: None,
            worker_shutdown_timeout: None,
        };
        Self {
            config: Config {
                main,
                bindings: Vec::new(),
                upstreams: Vec::new(),
                upstream_names: HashMap::new(),
                maps: Vec::new(),
                geos: Vec::new(),
                splits: Vec::new(),
                zones: Vec::new(),
                user_variables: 0,
                keeps_response_head: false,
                keeps_request_body: false,
                needs_request_at_end: false,
                log_targets: Vec::new(),
                notes: Vec::new(),
                references: Vec::new(),
                tls: TlsStore::default(),
                files: Vec::new(),
            },
            prefix,
            config_directory: directory,
            health_matches: Vec::new(),
            zones: ZoneTable::default(),
            names: HashMap::new(),
            log_formats: Vec::new(),
            servers: Vec::new(),
            client_chosen_hosts: Vec::new(),
            defined_variables: HashMap::new(),
            user_variables: HashMap::new(),
            assignments: Assignments::default(),
            keeps_response_head: Cell::new(false),
            keeps_request_body: Cell::new(false),
            needs_request_at_end: Cell::new(false),
        }
    }

    /// Builds the configuration.
    fn build(&mut self, tree: &[Directive]) -> Result {
        self.number_default_error_log(&self.config.main.error_log.clone());
        self.declare_variables(tree, &mut Definitions::default());
        self.collect_assignments(tree);
        let mut block = BlockBuilder::new(directives::MAIN, Settings::default());
        self.read_block(tree, &mut block)?;
        self.config.bindings = crate::request::listen_conf::build_bindings(&self.servers, &mut self.config.notes)?;
        crate::modules::map::conf::check_cycles(&self.config.maps)?;
        crate::proxy::conf::check_open_proxies(self)?;
        self.config.zones = std::mem::take(&mut self.zones).finish()?;
        self.config.keeps_response_head = self.keeps_response_head.get();
        self.config.keeps_request_body = self.keeps_request_body.get();
        self.config.needs_request_at_end = self.needs_request_at_end.get();
        self.config.user_variables = self.user_variables.len();
        self.config.notes.sort();
        // A directive of a file that is included several times has one note.
        self.config.notes.dedup();
        Ok(())
    }

    /// Builds the block of a directive, which inherits the settings of `outer`.
    pub(crate) fn build_block(
        &mut self,
        outer: &BlockBuilder,
        directive: &Directive,
        context: u16,
        location: Option<LocationBuilder>,
    ) -> Result<Box<BlockBuilder>> {
        let mut inner = Box::new(BlockBuilder::new(context, outer.settings.clone()));
        inner.location = location;
        if context == directives::SERVER {
            inner.tls = outer.tls.clone();
        }
        self.read_block(directive.block.as_deref().unwrap_or_default(), &mut inner)?;
        Ok(inner)
    }

    /// Adds the directives to `block`, round by round.
    fn read_block(&mut self, directives: &[Directive], block: &mut BlockBuilder) -> Result {
        let mut errors = Errors::default();
        let checked = check_directives(directives, block.context, &mut errors);
        for round in Round::ORDER {
            for (directive, action, is_first) in checked.iter().filter(|(_, action, _)| action.round() == round) {
                block.is_first = *is_first;
                errors.keep(self.apply(*action, block, directive));
            }
        }
        errors.into_result()
    }

    /// Performs the action of one directive.
    fn apply(&mut self, action: Action, block: &mut BlockBuilder, directive: &Directive) -> Result {
        match action {
            Action::Early(set) | Action::Once(set) | Action::Each(set) => set(self, block, directive)?,
            Action::Step(set) | Action::StepBlock(set) | Action::Block(set) => set(self, block, directive)?,
            Action::SettingBlock(set) | Action::Definition(set) | Action::Upstream(set) => set(self, block, directive)?,
            Action::Switch(slot) => *slot(self, block) = arguments::switch(directive)?,
            Action::Time(slot) => *slot(self, block) = arguments::time(directive)?,
            Action::Timeout(slot) => *slot(self, block) = arguments::timeout(directive)?,
            Action::Number(slot) => *slot(self, block) = arguments::number(directive, arg(directive, 0))?,
            Action::Template(slot) => *slot(self, block) = self.template(arg(directive, 0))?,
            Action::OnlyOff(_) | Action::Missing(_) if directive.args.first().is_some_and(|arg| arg.text == "off") => {}
            Action::Note(reason) => self.note_ignored(directive, reason, NoteEffect::Nothing),
            Action::Missing(reason) => self.note_ignored(directive, reason, NoteEffect::MissingFunction),
            Action::OnlyOff(reason) | Action::Refuse(reason) => return Err(not_supported(directive, reason)),
        }
        Ok(())
    }

    /// Returns `name` as a path, relative to the directory of the main file unless absolute.
    pub(crate) fn in_config_directory(&self, name: &str) -> String {
        self.config_directory.join(name).display().to_string()
    }

    /// Gives a name to a thing of a kind, such as an upstream; it must be new.
    pub(crate) fn claim_name(&mut self, kind: &'static str, name: &Word) -> Result {
        match self.names.entry((kind, name.text.clone())) {
            Entry::Occupied(first) => Err(name.error(&format!("duplicate {kind} \"{{}}\"")).first_at(*first.get())),
            Entry::Vacant(place) => {
                place.insert(name.at);
                Ok(())
            }
        }
    }

    pub(crate) fn note(&mut self, name: &Word, text: &'static str) {
        self.config.notes.push(Note::new(&name.at, name.text.clone(), text));
    }

    fn note_ignored(&mut self, directive: &Directive, reason: &'static str, effect: NoteEffect) {
        let note = Note::new(&directive.name.at, directive.name.text.clone(), reason);
        self.config.notes.push(Note { effect, ..note });
    }

    /// Declares the variables of maps, of `set` and of named groups, so that they may be used above their definition.
    fn declare_variables<'t>(&mut self, directives: &'t [Directive], definitions: &mut Definitions<'t>) {
        for directive in directives {
            let variable = definitions.number(directive);
            let target = directive.args.last().and_then(|arg| arg.text.strip_prefix('$'));
            if let Some((variable, name)) = variable.zip(target) {
                let earlier = definitions.by_name.insert(name, directive);
                if earlier.is_some_and(|earlier| !is_same_directive(earlier, directive)) {
                    self.config.notes.push(Note::new(
                        &directive.name.at,
                        format!("{} ${name}", directive.name.text),
                        "replaces an earlier definition of the variable, which is different",
                    ));
                }
                self.defined_variables.insert(name.to_owned(), variable);
            }
            if matches!(directive.name.text.as_str(), "set" | "auth_request_set")
                && let Some(name) = directive.args.first().and_then(|arg| arg.text.strip_prefix('$'))
                && Variable::builtin(name).is_none_or(|known| !matches!(known, Variable::Builtin(_)))
            {
                self.declare_user_variable(name);
            }
            for word in std::iter::once(&directive.name).chain(&directive.args) {
                for name in named_groups(&word.text) {
                    let user = self.declare_user_variable(name);
                    self.assignments.add_captured(user);
                }
            }
            self.declare_variables(directive.block.as_deref().unwrap_or_default(), definitions);
        }
    }

    fn declare_user_variable(&mut self, name: &str) -> u32 {
        let next = self.user_variables.len() as u32;
        *self.user_variables.entry(name.to_owned()).or_insert(next)
    }

    /// Collects the values of `set` and `auth_request_set`: a block may use a variable that another one sets. An invalid
    /// value is reported later, when its directive is read.
    fn collect_assignments(&mut self, directives: &[Directive]) {
        for directive in directives {
            if matches!(directive.name.text.as_str(), "set" | "auth_request_set")
                && let [target, value, ..] = directive.args.as_slice()
                && let Some(user) = target.text.strip_prefix('$').and_then(|name| self.user_variable(name))
                && let Ok(value) = self.template(value)
            {
                self.assignments.add(user, value);
            }
            self.collect_assignments(directive.block.as_deref().unwrap_or_default());
        }
    }

    /// Returns the name, without `$`, of the variable that a block defines. A built-in one can't be defined, but for
    /// `$invalid_referer`, as in nginx.
    pub(crate) fn defined_variable_name(&self, target: &Word) -> Result<String> {
        let name = variable_name(target)?;
        match Variable::builtin(name) {
            Some(Variable::Builtin(Builtin::InvalidReferer)) => Ok(name.to_owned()),
            Some(Variable::Builtin(_) | Variable::Capture(_)) => {
                Err(Error::formatted(&target.at, "the duplicate \"{}\" variable", name).hint("it is built in"))
            }
            _ => Ok(name.to_owned()),
        }
    }

    /// Returns the number of a variable that `set` or a named group assigns.
    pub(crate) fn user_variable(&self, name: &str) -> Option<u32> {
        self.user_variables.get(name).copied()
    }

    /// Parses a word with variables.
    pub(crate) fn template(&self, word: &Word) -> Result<Template> {
        self.template_from(&word.text, word)
    }

    /// Parses `text`, a part of `word`, with variables.
    pub(crate) fn template_from(&self, text: &str, word: &Word) -> Result<Template> {
        Template::parse(text, &mut |name| self.variable(name)).map_err(|invalid| {
            let error = Error::new(&word.at, invalid.to_string());
            let TemplateError::Unknown(name) = invalid else { return error };
            let mut defined_names = self.defined_variables.keys().map(String::as_str);
            let nearest = suggestion::closest(&name, &mut Variable::known_names());
            match nearest.or_else(|| suggestion::closest(&name, &mut defined_names)) {
                Some(near) => error.hint_formatted("did you mean \"${}\"?", near),
                None if name == "connection_upgrade" => error.hint(CONNECTION_UPGRADE_HINT),
                None => error.hint("neither built in nor defined by \"map\" or a named group"),
            }
        })
    }

    fn variable(&self, name: &str) -> Option<Variable> {
        if let Some(variable) = self.defined_variables.get(name) {
            return Some(variable.clone());
        }
        if let Some(number) = self.user_variable(name) {
            return Some(Variable::User(number));
        }
        let builtin = Variable::builtin(name);
        match builtin {
            Some(Variable::SentHeader(_)) => self.keeps_response_head.set(true),
            Some(Variable::Builtin(Builtin::RequestBody)) => self.keeps_request_body.set(true),
            Some(Variable::Builtin(builtin)) if builtin.changes_until_end() => self.needs_request_at_end.set(true),
            _ => {}
        }
        builtin
    }

    pub(crate) fn templates(&self, words: &[Word]) -> Result<Vec<Template>> {
        words.iter().map(|word| self.template(word)).collect()
    }

    /// Compiles a regular expression.
    pub(crate) fn expression(&self, source: &str, any_case: bool, at: &Position) -> Result<Expression> {
        let pattern = Pattern::new(source, any_case)
            .map_err(|why| Error::new(at, format!("invalid regular expression \"{source}\": {why}")))?;
        let users = pattern.names().filter_map(|(group, name)| Some((group, self.user_variable(name)?))).collect();
        Ok(Expression { pattern, group_variables: users })
    }

    /// Returns the number of a log file or syslog server, which is opened once, however often it is named.
    pub(crate) fn log_target_number(&mut self, name: String) -> u32 {
        let number = crate::config::log_target_number(&name);
        if !self.config.log_targets.iter().any(|(known, _)| *known == number) {
            self.config.log_targets.push((number, name));
        }
        number
    }

    /// Gives the log file of `-e` its number.
    fn number_default_error_log(&mut self, logs: &[ErrorLog]) {
        for log in logs {
            if let Some(path) = &log.default_path {
                let number = self.log_target_number(self.prefix.resolve(path));
                self.config.main.error_log =
                    Arc::from([ErrorLog { target: crate::config::LogTarget::Numbered(number), ..log.clone() }]);
            }
        }
    }
}

/// Returns the name, without `$`, of a variable that a directive defines or assigns.
pub(crate) fn variable_name(target: &Word) -> Result<&str> {
    let name = target.text.strip_prefix('$').filter(|name| !name.is_empty());
    name.ok_or_else(|| target.error("invalid variable name \"{}\"").hint("it must start with \"$\""))
}

/// Looks a name up in a short list.
pub(crate) fn find_by_name<'v, T>(named: &'v [(String, T)], name: &str) -> Option<&'v T> {
    named.iter().find(|(known, _)| known == name).map(|(_, value)| value)
}

/// The blocks that define variables, in the order of the files.
#[derive(Default)]
struct Definitions<'t> {
    /// The last definition of each name: it is the one that counts, as in nginx.
    by_name: HashMap<&'t str, &'t Directive>,
    maps: u32,
    geos: u32,
    splits: u32,
}

impl Definitions<'_> {
    /// Returns the variable of a block that defines one. Blocks of a kind are numbered as they will be read.
    fn number(&mut self, directive: &Directive) -> Option<Variable> {
        let (kind, count): (fn(u32) -> Variable, _) = match directive.name.text.as_str() {
            "map" => (Variable::Map, &mut self.maps),
            "geo" => (Variable::Geo, &mut self.geos),
            "split_clients" => (Variable::Split, &mut self.splits),
            _ => return None,
        };
        *count += 1;
        Some(kind(*count - 1))
    }
}

/// Whether two directives say the same, wherever they stand.
fn is_same_directive(a: &Directive, b: &Directive) -> bool {
    let same_words = |a: &[Word], b: &[Word]| a.iter().map(|word| &word.text).eq(b.iter().map(|word| &word.text));
    let (inner_a, inner_b) = (a.block.as_deref().unwrap_or_default(), b.block.as_deref().unwrap_or_default());
    a.name.text == b.name.text
        && same_words(&a.args, &b.args)
        && inner_a.len() == inner_b.len()
        && inner_a.iter().zip(inner_b).all(|(a, b)| is_same_directive(a, b))
}

/// Returns the names of groups in an expression: `(?<name>`, `(?P<name>` and `(?'name'`.
fn named_groups(mut source: &str) -> impl Iterator<Item = &str> {
    let groups = std::iter::from_fn(move || {
        (_, source) = source.split_once("(?")?;
        Some(source)
    });
    groups.filter_map(|rest| {
        let (name, _) = match rest.strip_prefix('\'') {
            Some(rest) => rest.split_once('\'')?,
            None => rest.strip_prefix('P').unwrap_or(rest).strip_prefix('<')?.split_once('>')?,
        };
        (!name.is_empty() && !name.starts_with(['=', '!'])).then_some(name)
    })
}

/// Checks the directives of a block; returns each with its action, and whether it is the first of its name.
fn check_directives<'d>(
    directives: &'d [Directive],
    context: u16,
    errors: &mut Errors,
) -> Vec<(&'d Directive, Action, bool)> {
    let mut seen: Vec<(&Directive, &str, bool)> = Vec::new();
    let mut checked = Vec::with_capacity(directives.len());
    for directive in directives {
        let Some(spec) = errors.keep(check_directive(directive, context)) else { continue };
        let name = spec.name;
        let is_off = OFF_ALONE.contains(&name) && directive.args.iter().any(|arg| arg.text == "off");
        let before = seen.iter().find(|(_, known, _)| *known == name);
        if let Some((first, _, was_off)) = before
            && (is_off || *was_off || !spec.action.repeats())
        {
            let error = directive.name.error("\"{}\" directive is duplicate").hint("it is allowed once per block");
            errors.add(error.first_at(first.name.at));
            continue;
        }
        let is_first = before.is_none();
        if is_first {
            seen.push((directive, name, is_off));
        }
        let is_seen = |name| seen.iter().any(|(_, known, _)| *known == name);
        if matches!(name, "root" | "alias") && is_seen("root") && is_seen("alias") {
            let error = Error::new(&directive.name.at, "\"root\" and \"alias\" exclude each other");
            errors.add(error.hint("keep one of them in this block"));
            continue;
        }
        checked.push((directive, spec.action, is_first));
    }
    checked
}

/// The errors of a block: its directives are read on after an error, so that one run shows all mistakes.
#[derive(Default)]
struct Errors(Option<Error>);

impl Errors {
    fn add(&mut self, error: Error) {
        self.0 = Some(match self.0.take() {
            Some(all) => all.and(error),
            None => error,
        });
    }

    /// Returns the value, or keeps the error.
    fn keep<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.add(error)).ok()
    }

    fn into_result(self) -> Result {
        self.0.map_or(Ok(()), Err)
    }
}

/// Says what an unknown directive may have been meant to be.
fn unknown_hint(name: &str) -> Option<String> {
    if let Some(hint) = comment_hint(name) {
        return Some(hint.to_owned());
    }
    if let Some((before, _)) = name.split_once('(')
        && directives::find(before).is_some()
    {
        return Some(format!("put a space between \"{before}\" and \"(\""));
    }
    if unsupported::is_of_missing_module(name) {
        return Some("of a module that is not here".to_owned());
    }
    match directives::suggest(name) {
        Some(near) => Some(format!("did you mean \"{near}\"?")),
        None => placeholder_hint(name),
    }
}

/// Checks that the directive is known, allowed here, and has the right number of arguments.
fn check_directive(directive: &Directive, context: u16) -> Result<&'static DirectiveSpec> {
    let name = &directive.name;
    let Some(spec) = directives::find(&name.text) else {
        let error = name.error("unknown directive \"{}\"");
        return Err(match unknown_hint(&name.text) {
            Some(hint) => error.hint(hint),
            None => error,
        });
    };
    check_semicolon(directive)?;
    if let Action::Refuse(why) = spec.action {
        return Err(not_supported(directive, why));
    }
    if spec.contexts & context == 0 {
        let error = name.error("\"{}\" directive is not allowed here");
        return Err(match name.text.as_str() {
            // A whole nginx.conf in a directory of files for `http`.
            "events" | "http" if context == directives::HTTP => error.hint(
                "this is read inside \"http\" already: keep what is in its \"http\" block, without the block, and no \"events\"",
            ),
            _ => error.hint_formatted("it is allowed in: {}", &context_names(spec.contexts)),
        });
    }
    // `server` is two directives: a block in `http`, and a peer in `upstream`.
    let is_peer = name.text == "server" && context == directives::UPSTREAM;
    check_block(directive, spec.action.has_block() && !is_peer)?;
    check_arg_count(
        directive,
        match name.text.as_str() {
            "server" if is_peer => (1, directives::MANY),
            "server" => (0, 0),
            _ => spec.args,
        },
    )?;
    Ok(spec)
}

/// Checks that the directive has a block or none, as it should.
fn check_block(directive: &Directive, takes_block: bool) -> Result {
    let name = &directive.name;
    match &directive.block {
        Some(block) if !takes_block => {
            let error = name.error("directive \"{}\" is not terminated by \";\"");
            Err(match block.as_slice() {
                [inner] if inner.args.is_empty() => {
                    error.hint(parser::format_placeholder_hint(&["{", &inner.name.text, "}"].concat()))
                }
                _ => error.hint("the directive takes no block"),
            })
        }
        None if takes_block => Err(name.error("directive \"{}\" has no opening \"{\"")),
        _ => Ok(()),
    }
}

fn check_arg_count(directive: &Directive, (min, max): (u8, u8)) -> Result {
    let given = directive.args.len();
    if given >= min.into() && (given <= max.into() || max == directives::MANY) {
        return Ok(());
    }
    let expected = match (min, max) {
        (0, 0) => "none is".to_owned(),
        (1, 1) => "one is".to_owned(),
        _ if min == max => format!("{min} are"),
        (_, directives::MANY) => format!("{min} or more are"),
        _ => format!("{min} to {max} are"),
    };
    Err(directive
        .name
        .error("invalid number of arguments in \"{}\" directive")
        .hint(format!("{expected} expected, {given} given")))
}

/// Checks that no argument is the directive of the next line, which means that a `;` is missing.
fn check_semicolon(directive: &Directive) -> Result {
    let name = &directive.name;
    let words = || std::iter::once(name).chain(&directive.args);
    for (before, word) in words().zip(&directive.args) {
        let starts_line = word.at.line > before.at.line && !word.quoted;
        let is_meant = matches!((name.text.as_str(), word.text.as_str()), ("gzip_types", _) | ("access_log", "gzip"));
        if starts_line && !is_meant && directives::find(&word.text).is_some() {
            return Err(name
                .error("\"{}\" is not ended by \";\"")
                .hint(format!("put a \";\" at the end of line {}, before \"{}\"", before.at.line, word.text)));
        }
    }
    Ok(())
}

fn context_names(contexts: u16) -> String {
    let names = directives::CONTEXTS.iter().filter(|(bit, _)| contexts & bit != 0).map(|(_, name)| *name);
    names.collect::<Vec<_>>().join(", ")
}

fn not_supported(directive: &Directive, why: &str) -> Error {
    directive.name.error("\"{}\" is not supported").hint(why)
}
