//! Which part of the authority of a URL with variables the client controls.
//!
//! A template is run byte by byte through a state machine of the URL's grammar ([`UrlState`]). A variable whose values the
//! configuration contains (`set`, `map`, `geo`, `split_clients`) leads to each state that one of its values leads to; any
//! other variable is controlled by the client, unless [`server_value`] lists it. What follows the authority is not analyzed.
//!
//! The analysis runs when the configuration is loaded, over all assignments of a variable, instead of tracing the bytes of
//! each request: the result does not depend on the order of assignments, `-t` reports it, and requests cost nothing. Two
//! checks are left to each request: whether the value of a variable starts with a slash (`http://127.0.0.1:8080$1`), and
//! whether a port consists of digits.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::Config;
use crate::config::template::{Builtin, Segment, Template, Variable};

/// Depth of variables within variables.
const DEPTH_MAX: u8 = 64;

/// The part of an authority that the client controls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientChoice {
    Nothing,
    /// The port, of a host that the configuration names.
    Port,
    Host,
}

/// The analysis of a template.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) client_choice: ClientChoice,
    /// The first segment of the template that the client controls and that may be part of the authority.
    pub(crate) client_segment: usize,
    /// Whether that segment may be the path after a host that the configuration names (`http://127.0.0.1$1`).
    pub(crate) may_be_path: bool,
    /// The segment, and the byte in it, after the authority. None: the authority ends within a variable.
    pub(crate) authority_end: Option<(usize, usize)>,
}

/// The values that the configuration assigns to variables.
#[derive(Debug, Default)]
pub(crate) struct Assignments {
    /// By the number of the variable.
    values: BTreeMap<u32, Vec<Template>>,
    /// Variables that a named group assigns.
    captured: BTreeSet<u32>,
}

impl Assignments {
    pub(crate) fn add(&mut self, user: u32, value: Template) {
        self.values.entry(user).or_default().push(value);
    }

    pub(crate) fn add_captured(&mut self, user: u32) {
        self.captured.insert(user);
    }
}

/// The position in a URL of the next byte (`scheme://authority`, by the rules of [`crate::config::Url::parse`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum UrlState {
    Start,
    H,
    Ht,
    Htt,
    Http,
    Https,
    Colon,
    Slash,
    /// After `://`.
    Authority,
    U,
    Un,
    Uni,
    Unix,
    /// In the path of a Unix socket.
    Socket,
    /// In the brackets of an IPv6 address.
    Bracket,
    Host,
    Port,
    /// In a port that the client controls in part.
    ClientPort,
    /// In or after a host that the client controls in part.
    ClientHost,
    Done,
    /// After a port that the client controls in part.
    DonePort,
}

impl UrlState {
    const ALL: [Self; 21] = [
        Self::Start,
        Self::H,
        Self::Ht,
        Self::Htt,
        Self::Http,
        Self::Https,
        Self::Colon,
        Self::Slash,
        Self::Authority,
        Self::U,
        Self::Un,
        Self::Uni,
        Self::Unix,
        Self::Socket,
        Self::Bracket,
        Self::Host,
        Self::Port,
        Self::ClientPort,
        Self::ClientHost,
        Self::Done,
        Self::DonePort,
    ];

    /// Returns the state after a byte. None: the text is not a URL.
    fn next(self, byte: u8) -> Option<Self> {
        let scheme = |expected: u8, next: Self| byte.eq_ignore_ascii_case(&expected).then_some(next);
        Some(match (self, byte) {
            (Self::Start, _) => return scheme(b'h', Self::H),
            (Self::H, _) => return scheme(b't', Self::Ht),
            (Self::Ht, _) => return scheme(b't', Self::Htt),
            (Self::Htt, _) => return scheme(b'p', Self::Http),
            (Self::Http | Self::Https, b':') => Self::Colon,
            (Self::Http, _) => return scheme(b's', Self::Https),
            (Self::Colon, b'/') => Self::Slash,
            (Self::Slash, b'/') => Self::Authority,
            (Self::Https | Self::Colon | Self::Slash, _) => return None,
            (Self::Done | Self::DonePort | Self::ClientHost, _) => self,
            (Self::ClientPort, b'/' | b'?') => Self::DonePort,
            (Self::ClientPort, _) => self,
            (Self::Unix, b':') => Self::Socket,
            (Self::Socket, b':') => Self::Done,
            (Self::Socket, _) => self,
            (Self::Authority, b'/' | b'?' | b':') => return None,
            (Self::Authority, b'[') => Self::Bracket,
            (_, b'/' | b'?') => Self::Done,
            (Self::Bracket, b']') => Self::Host,
            (Self::Bracket, _) => self,
            (Self::Authority, b'u') => Self::U,
            (Self::U, b'n') => Self::Un,
            (Self::Un, b'i') => Self::Uni,
            (Self::Uni, b'x') => Self::Unix,
            (_, b':') => Self::Port,
            (Self::Port, _) => self,
            _ => Self::Host,
        })
    }

    /// Returns the state after bytes that the client controls.
    fn next_for_client(self) -> Self {
        match self {
            Self::Port | Self::ClientPort => Self::ClientPort,
            Self::Done | Self::DonePort => self,
            _ => Self::ClientHost,
        }
    }

    /// Returns the state after bytes that the server determines at run time.
    fn next_for_server(self) -> Option<Self> {
        match self {
            Self::Authority | Self::U | Self::Un | Self::Uni | Self::Unix => Some(Self::Host),
            _ if self < Self::Authority => None,
            _ => Some(self),
        }
    }

    fn is_past_authority(self) -> bool {
        matches!(self, Self::Done | Self::DonePort)
    }
}

/// A set of states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct States(u32);

impl States {
    fn from_state(at: UrlState) -> Self {
        Self(1 << at as u8)
    }

    fn contains(self, at: UrlState) -> bool {
        self.0 & Self::from_state(at).0 != 0
    }

    fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn iter(self) -> impl Iterator<Item = UrlState> {
        UrlState::ALL.into_iter().filter(move |at| self.contains(*at))
    }

    /// Returns the union of what `lead` returns for each state.
    fn flat_map(self, mut lead: impl FnMut(UrlState) -> Self) -> Self {
        self.iter().fold(Self::default(), |to, at| to.union(lead(at)))
    }

    fn next(self, byte: u8) -> Self {
        self.flat_map(|at| at.next(byte).map(Self::from_state).unwrap_or_default())
    }

    fn next_for_text(self, text: &[u8]) -> Self {
        self.flat_map(|at| {
            text.iter().try_fold(at, |at, byte| at.next(*byte)).map(Self::from_state).unwrap_or_default()
        })
    }

    fn next_for_client(self) -> Self {
        self.flat_map(|at| Self::from_state(at.next_for_client()))
    }

    /// Whether no state is past the authority.
    fn is_before_authority_end(self) -> bool {
        !self.iter().any(UrlState::is_past_authority)
    }

    /// Whether the authority has ended in all states, or its host is the client's.
    fn is_at_authority_end(self) -> bool {
        self.iter().all(|at| at.is_past_authority() || at == UrlState::ClientHost)
    }

    /// Whether a host may have started.
    fn has_host(self) -> bool {
        self.iter().any(|at| at > UrlState::Authority)
    }

    fn client_choice(self) -> ClientChoice {
        if self.contains(UrlState::ClientHost) {
            ClientChoice::Host
        } else if self.contains(UrlState::ClientPort) || self.contains(UrlState::DonePort) {
            ClientChoice::Port
        } else {
            ClientChoice::Nothing
        }
    }
}

/// The values of a variable that the server determines.
enum ServerValue {
    /// One of these.
    Either(&'static [&'static str]),
    /// Text that no client controls.
    Text,
    /// A slash, and text that the client controls.
    Path,
}

/// Returns the values of a built-in variable that the server determines. All others are the client's: also `$remote_addr`
/// (the connection would lead back to the client, and a proxy trusted by `set_real_ip_from` may name any address),
/// `$connection_requests`, `$content_length`, `$request_length` and `$remote_port` (the client picks them), `$ssl_...`,
/// `$proxy_protocol_...`, `$upstream_...` (an upstream may repeat the client's text) and `$proxy_host` (of an earlier
/// attempt).
fn server_value(builtin: Builtin) -> Option<ServerValue> {
    Some(match builtin {
        Builtin::Scheme => ServerValue::Either(&["http", "https"]),
        Builtin::Https => ServerValue::Either(&["", "on"]),
        // The address and port of a `listen`, or of the machine.
        Builtin::ServerAddr | Builtin::ServerPort => ServerValue::Text,
        // Names of the configuration or the machine, independent of `Host`.
        Builtin::ServerName | Builtin::Hostname | Builtin::Version => ServerValue::Text,
        // Numbers of the process and its clock; `$request_id` is random.
        Builtin::Connection | Builtin::Pid | Builtin::Msec | Builtin::RequestId => ServerValue::Text,
        Builtin::TimeIso8601 | Builtin::TimeLocal => ServerValue::Text,
        // A request whose target does not start with a slash is not forwarded.
        Builtin::RequestUri => ServerValue::Path,
        _ => return None,
    })
}

/// Whether a variable that the client controls may be a path.
fn may_be_path(variable: &Variable) -> bool {
    matches!(variable, Variable::Capture(_) | Variable::User(_) | Variable::Map(_) | Variable::Builtin(Builtin::Uri))
}

/// A search through the values of variables.
struct OriginSearch<'c> {
    config: &'c Config,
    assignments: &'c Assignments,
    /// The states that a variable leads to from a state, as far as found.
    found: BTreeMap<(u8, u32, UrlState), States>,
    /// What the current round has visited.
    seen: BTreeSet<(u8, u32, UrlState)>,
    /// Whether the current round has found more than the one before.
    grew: bool,
}

/// Analyzes the URLs that `url` evaluates to.
pub(crate) fn analyze(url: &Template, config: &Config, assignments: &Assignments) -> Origin {
    let (known, seen) = (BTreeMap::new(), BTreeSet::new());
    let mut search = OriginSearch { config, assignments, found: known, seen, grew: false };
    // A variable may be assigned a text that contains itself, so rounds are repeated until one finds nothing new.
    loop {
        let origin = search.url(url);
        if !std::mem::take(&mut search.grew) {
            return origin;
        }
        search.seen.clear();
    }
}

impl OriginSearch<'_> {
    fn url(&mut self, url: &Template) -> Origin {
        let mut states = States::from_state(UrlState::Start);
        let mut client_segment = None;
        let origin = |states: States, client_segment: Option<(usize, bool)>, authority_end: Option<(usize, usize)>| {
            let segments = authority_end.map_or(url.segments().len(), |(segment, at)| segment + usize::from(at > 0));
            let (client_segment, may_be_path) = client_segment.unwrap_or((segments, true));
            Origin { client_choice: states.client_choice(), client_segment, may_be_path, authority_end }
        };
        for (number, segment) in url.segments().iter().enumerate() {
            let ends =
                |states: States, byte| states.is_before_authority_end() && states.next(byte).is_at_authority_end();
            match segment {
                Segment::Text(text) => {
                    for (at, byte) in text.iter().enumerate() {
                        if matches!(byte, b'/' | b'?') && ends(states, *byte) {
                            return origin(states.next(*byte), client_segment, Some((number, at)));
                        }
                        states = states.next(*byte);
                    }
                }
                // The value starts with a slash, or each request is checked for one.
                Segment::Variable(Variable::Builtin(Builtin::Uri | Builtin::RequestUri | Builtin::IsArgs))
                    if ends(states, b'/') =>
                {
                    return origin(states, client_segment, Some((number, 0)));
                }
                Segment::Variable(variable) => {
                    let before = states;
                    states = self.variable(variable, states, 0);
                    if client_segment.is_none() && states.client_choice() != ClientChoice::Nothing {
                        client_segment = Some((number, before.has_host() && may_be_path(variable)));
                    }
                }
            }
        }
        origin(states, client_segment, states.is_before_authority_end().then_some((url.segments().len(), 0)))
    }

    fn template(&mut self, template: &Template, states: States, depth: u8) -> States {
        template.segments().iter().fold(states, |states, segment| match segment {
            Segment::Text(text) => states.next_for_text(text),
            Segment::Variable(variable) => self.variable(variable, states, depth),
        })
    }

    fn variable(&mut self, variable: &Variable, states: States, depth: u8) -> States {
        match variable {
            Variable::Empty => states,
            Variable::Builtin(builtin) => match server_value(*builtin) {
                Some(ServerValue::Either(values)) => values
                    .iter()
                    .fold(States::default(), |all, value| all.union(states.next_for_text(value.as_bytes()))),
                Some(ServerValue::Text) => {
                    states.flat_map(|at| at.next_for_server().map(States::from_state).unwrap_or_default()).union(states)
                }
                Some(ServerValue::Path) => states.next(b'/'),
                None => states.next_for_client(),
            },
            // A variable is empty until it is set.
            Variable::User(number) => self.values((0, *number), states, depth).union(states),
            Variable::Map(number) => self.values((1, *number), states, depth),
            Variable::Geo(number) => self.values((2, *number), states, depth),
            Variable::Split(number) => self.values((3, *number), states, depth),
            _ => states.next_for_client(),
        }
    }

    fn values(&mut self, (kind, number): (u8, u32), states: States, depth: u8) -> States {
        if depth > DEPTH_MAX {
            return states.next_for_client();
        }
        states.flat_map(|at| {
            let key = (kind, number, at);
            let known = self.found.get(&key).copied().unwrap_or_default();
            // A variable being visited contributes what has been found so far.
            if !self.seen.insert(key) {
                return known;
            }
            let found = known.union(self.values_from(kind, number, at, depth + 1));
            if found != known {
                self.found.insert(key, found);
                self.grew = true;
            }
            found
        })
    }

    fn values_from(&mut self, kind: u8, number: u32, at: UrlState, depth: u8) -> States {
        let from = States::from_state(at);
        let (config, assignments, index) = (self.config, self.assignments, number as usize);
        let of_texts = |values: &mut dyn Iterator<Item = &[u8]>| {
            values.fold(States::default(), |all, value| all.union(from.next_for_text(value)))
        };
        match kind {
            0 => {
                let captured =
                    if assignments.captured.contains(&number) { from.next_for_client() } else { States::default() };
                let values = assignments.values.get(&number).into_iter().flatten();
                values.fold(captured, |all, value| all.union(self.template(value, from, depth)))
            }
            1 => match config.maps.get(index) {
                Some(map) => map
                    .possible_values()
                    .fold(States::default(), |all, value| all.union(self.template(value, from, depth))),
                None => from.next_for_client(),
            },
            2 => config.geos.get(index).map_or(from.next_for_client(), |geo| of_texts(&mut geo.possible_values())),
            _ => {
                config.splits.get(index).map_or(from.next_for_client(), |split| of_texts(&mut split.possible_values()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigSource, Destination, DynamicUrl, ErrorLog, Prefix, load};

    const DEFINITIONS: &str = r#"
        map $host $backend { default 127.0.0.1:8080; a.test 127.0.0.1:8081; }
        map $host $backend_url { default http://127.0.0.1:8080; a.test https://a.test:8443; }
        map $host $based { default http://127.0.0.1:8080/base; a.test http://127.0.0.1:8081; }
        map $host $mixed { default known; b.test $arg_b; }
        map $arg_h $captured { ~^(?<m>.*)$ $m; }
        map $arg_h $numbered { ~^(.*)$ $1; }
        map $arg_h $nested { default $captured; }
        map $arg_p $ports { default 8080; b 8081; }
        map $host $tunnel { default http://known$request_uri; }
        geo $net { default 127.0.0.1:1; 10.0.0.0/8 127.0.0.1:2; }
        split_clients $remote_addr $part { 50% 127.0.0.1:1; * 127.0.0.1:2; }
        upstream known { server 127.0.0.1:1; }"#;

    /// The URL of a server whose location has these directives.
    fn made(inner: &str) -> (DynamicUrl, usize) {
        let text = format!(
            "http {{ {DEFINITIONS} server {{ listen 80; server_name ~^(?<sub>.+)$; set $base http://127.0.0.1:5000; \
             location /else {{ set $elsewhere http://127.0.0.1:5000; set $grows x; set $grows $grows$arg_x; }} \
             location = /here {{ {inner} }} }} }}"
        );
        let folders = Prefix { path: ".".to_owned() };
        let config = load(ConfigSource::Text("test", text), "", folders, ErrorLog::for_path(None));
        let config = config.unwrap_or_else(|why| panic!("{inner}: {why}"));
        let locations = &config.bindings[0].virtual_hosts.names.default_server().locations;
        match &locations.exact(b"/here").unwrap().proxy_pass.as_ref().unwrap().destination {
            Destination::Dynamic(made) => ((**made).clone(), config.notes.len()),
            Destination::Upstream(_) => panic!("{inner}: no variable"),
        }
    }

    #[test]
    fn what_the_client_chooses_of_an_authority() {
        for (url, expected) in [
            // The path does not count.
            ("http://127.0.0.1:80/$1$is_args$args", ClientChoice::Nothing),
            ("http://127.0.0.1:80$request_uri", ClientChoice::Nothing),
            ("http://127.0.0.1:80$uri$is_args$args", ClientChoice::Nothing),
            ("http://127.0.0.1$is_args$args", ClientChoice::Nothing),
            ("http://127.0.0.1?$args", ClientChoice::Nothing),
            ("http://unix:/run/app.sock:/$1", ClientChoice::Nothing),
            ("http://[::1]:80/$1", ClientChoice::Nothing),
            // The port.
            ("http://127.0.0.1:$1", ClientChoice::Port),
            ("http://127.0.0.1:$1/$2$is_args$args", ClientChoice::Port),
            ("http://127.0.0.1:60$1$2/", ClientChoice::Port),
            ("http://[::1]:$arg_p/", ClientChoice::Port),
            ("http://127.0.0.1:80$1", ClientChoice::Port),
            ("http://127.0.0.1:$1@internal/", ClientChoice::Port),
            ("https://known:$http_x", ClientChoice::Port),
            ("$scheme://known:$sub/", ClientChoice::Port),
            // The host.
            ("http://$1", ClientChoice::Host),
            ("http://127.0.0.1$1", ClientChoice::Host),
            ("http://127.0.0.1$1:80/", ClientChoice::Host),
            ("http://internal$1/", ClientChoice::Host),
            ("http://$1.internal/", ClientChoice::Host),
            ("http://[$1]:80/", ClientChoice::Host),
            ("http://unix:/run/$1.sock:/", ClientChoice::Host),
            ("http://$content_type", ClientChoice::Host),
            ("http://$remote_user", ClientChoice::Host),
            ("http://$remote_addr:80", ClientChoice::Host),
            ("http://$upstream_http_x", ClientChoice::Host),
            ("http://$sub", ClientChoice::Host),
            ("http://$m", ClientChoice::Host),
            ("http://$host$request_uri", ClientChoice::Host),
            ("$http_x_forwarded_proto://known", ClientChoice::Host),
            ("ht$arg_x", ClientChoice::Host),
            ("$arg_url", ClientChoice::Host),
            // What the server knows.
            ("http://$server_addr:$server_port$uri", ClientChoice::Nothing),
            ("$scheme://$server_name.$hostname/$1", ClientChoice::Nothing),
            ("http$https://known", ClientChoice::Nothing),
            // Maps and the like.
            ("http://$backend/$1", ClientChoice::Nothing),
            ("http://$backend$1", ClientChoice::Port),
            ("$backend_url$request_uri", ClientChoice::Nothing),
            ("$backend_url$uri", ClientChoice::Nothing),
            ("$backend_url/$1$is_args$args", ClientChoice::Nothing),
            ("$based/$1", ClientChoice::Nothing),
            ("$based$request_uri", ClientChoice::Nothing),
            ("$based$1", ClientChoice::Port),
            ("$tunnel", ClientChoice::Nothing),
            ("$tunnel$1", ClientChoice::Nothing),
            ("http://127.0.0.1:$ports/$1", ClientChoice::Nothing),
            ("http://127.0.0.1:$ports$1", ClientChoice::Port),
            ("http://$mixed", ClientChoice::Host),
            ("http://$captured", ClientChoice::Host),
            ("http://$numbered", ClientChoice::Host),
            ("http://$nested", ClientChoice::Host),
            ("http://known:$nested", ClientChoice::Port),
            ("http://$net/$1", ClientChoice::Nothing),
            ("http://$part$1", ClientChoice::Port),
            // Variables of `set`.
            ("$base", ClientChoice::Nothing),
            ("$base/$1$is_args$args", ClientChoice::Nothing),
            ("$base$request_uri", ClientChoice::Nothing),
            ("$base$1", ClientChoice::Host),
            ("$elsewhere/$1", ClientChoice::Nothing),
            ("$elsewhere$1", ClientChoice::Host),
            ("http://$grows/", ClientChoice::Host),
            ("http://known:$grows/", ClientChoice::Port),
        ] {
            if !crate::tls::AVAILABLE && url.starts_with("https:") {
                continue;
            }
            let (made, notes) = made(&format!("proxy_pass {url};"));
            assert_eq!(made.client_choice, expected, "{url}");
            assert_eq!(made.requires_known_host, expected == ClientChoice::Host, "{url}");
            assert_eq!(notes, usize::from(expected == ClientChoice::Port), "{url}");
        }
    }

    #[test]
    fn what_a_block_sets_is_joined() {
        for (inner, expected) in [
            ("set $u http://127.0.0.1:5000; proxy_pass $u/$1;", ClientChoice::Nothing),
            ("set $u http://127.0.0.1; proxy_pass $u$1;", ClientChoice::Host),
            ("set $u http://$http_x; proxy_pass $u/;", ClientChoice::Host),
            ("set $h $arg_h; proxy_pass http://$h;", ClientChoice::Host),
            ("set $h known; if ($arg_h) { set $h $arg_h; } proxy_pass http://$h;", ClientChoice::Host),
            ("set $h known; if ($arg_h) { set $h 127.0.0.1; } proxy_pass http://$h;", ClientChoice::Nothing),
            ("if ($arg_h ~ (?<h>.*)) { break; } set $h known; proxy_pass http://$h;", ClientChoice::Host),
            ("auth_request /auth; auth_request_set $h $upstream_http_x; proxy_pass http://$h;", ClientChoice::Host),
            ("set $a known; set $b $a:80; set $c http://$b; proxy_pass $c/$1;", ClientChoice::Nothing),
            ("set $a $b; set $b $a; set $a $arg_a; proxy_pass http://$b;", ClientChoice::Host),
            ("set $a x$b; set $b y$a; proxy_pass http://$b;", ClientChoice::Nothing),
            ("set $p 80; set $p $p$arg_p; proxy_pass http://known:$p/;", ClientChoice::Port),
            // A variable that is not set is empty, and what follows is all of the URL.
            ("set $u http://127.0.0.1/; proxy_pass $u$1;", ClientChoice::Host),
            ("if ($arg_x) { set $u http://127.0.0.1/; } proxy_pass $u$request_uri;", ClientChoice::Nothing),
            ("proxy_pass http://known$uri; proxy_set_header X $arg_x;", ClientChoice::Nothing),
        ] {
            assert_eq!(made(inner).0.client_choice, expected, "{inner}");
        }
    }

    #[test]
    fn a_url_is_cut_where_the_client_begins_and_where_the_authority_ends() {
        let segments = |template: &Template| template.segments().len();
        for (url, start, middle, rest) in [
            ("http://127.0.0.1:80/$1", 1, 0, Some(2)),
            ("http://127.0.0.1:80$1", 1, 1, Some(0)),
            ("http://127.0.0.1:$1/x/$2", 1, 1, Some(2)),
            ("http://127.0.0.1:$1$2?x", 1, 2, Some(1)),
            ("http://$backend:$1$uri$is_args", 3, 1, Some(2)),
            ("http://127.0.0.1:80$uri", 1, 0, Some(1)),
            ("http://127.0.0.1$is_args$args", 1, 0, Some(2)),
            ("http://$1", 1, 1, Some(0)),
            ("$base/x$1", 1, 0, Some(2)),
            ("$based/x$1", 3, 0, None),
            ("$based$1/", 1, 2, None),
            ("$tunnel", 1, 0, None),
        ] {
            let (made, _) = made(&format!("proxy_pass {url};"));
            let found = (segments(&made.start), segments(&made.middle), made.rest.as_ref().map(segments));
            assert_eq!(found, (start, middle, rest), "{url}");
        }
    }
}
