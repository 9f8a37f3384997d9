//! Where the authority of a URL with variables comes from: from the configuration, or from the client.
//!
//! The text of a template is walked byte by byte through the grammar of a URL ([`At`]). A variable whose possible values
//! the configuration holds (`set`, `map`, `geo`, `split_clients`) leads to every state that one of its values leads to;
//! any other variable is the client's, unless [`by_server`] lists it. What follows the authority is not looked at.
//!
//! The verdict is made when the configuration is read, over all assignments of a variable wherever they stand, and not
//! by marks on the bytes of each request: it does not depend on the order in which a request meets the assignments, `-t`
//! reports it, and a request pays nothing for it. A request is only checked for what the verdict takes for granted: that
//! a port is digits, and that what stands behind the authority begins with a slash or a question mark.

use std::collections::{BTreeMap, BTreeSet};

use super::Config;
use super::syntax::Directive;
use crate::template::{Builtin, Piece, Template, Variable};

/// Variables within variables.
const DEPTH_MAX: u8 = 64;

/// The most that the client chooses of an authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen {
    Nothing,
    /// The port of a host that the configuration names.
    Port,
    Host,
}

/// What is known of the URLs that a template makes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) chosen: Chosen,
    /// The piece of the template, and the byte of it, behind the authority; none: it ends within a variable.
    pub(super) end: Option<(usize, usize)>,
}

/// What variables of the configuration are filled with.
#[derive(Debug, Default)]
pub(super) struct Assignments {
    /// By the number of the variable.
    values: BTreeMap<u32, Vec<Template>>,
    /// Variables that a named group of an expression fills.
    captured: BTreeSet<u32>,
}

impl Assignments {
    pub(super) fn add(&mut self, user: u32, value: Template) {
        self.values.entry(user).or_default().push(value);
    }

    pub(super) fn add_captured(&mut self, user: u32) {
        self.captured.insert(user);
    }
}

/// Names of variables that a block has set, without their `$`, whenever a request comes to its end without being sent
/// elsewhere: a step that may skip those behind it ends the list.
pub(super) fn set_always(directives: &[Directive]) -> Vec<&str> {
    let mut names = Vec::new();
    for directive in directives {
        match directive.name.text.as_str() {
            "set" => names.extend(directive.args.first().and_then(|arg| arg.text.strip_prefix('$'))),
            _ if may_stop(directive) => break,
            _ => {}
        }
    }
    names
}

fn may_stop(directive: &Directive) -> bool {
    match directive.name.text.as_str() {
        "break" | "return" | "rewrite" => true,
        "if" => directive.block.iter().flatten().any(may_stop),
        _ => false,
    }
}

/// Where in a URL the next byte stands (`scheme://authority`, as [`super::Url::parse`] takes it apart).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum At {
    Start,
    H,
    Ht,
    Htt,
    Http,
    Https,
    Colon,
    Slash,
    /// Behind `://`.
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
    /// In a port that has a part from the client.
    ClientPort,
    /// The client has had a say in the host.
    ClientHost,
    Done,
    /// Behind a port that has a part from the client.
    DonePort,
}

impl At {
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

    /// Where a byte leads; none: it makes no URL.
    fn behind(self, byte: u8) -> Option<Self> {
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

    /// Where bytes lead that the client chooses.
    fn behind_clients(self) -> Self {
        match self {
            Self::Port | Self::ClientPort => Self::ClientPort,
            Self::Done | Self::DonePort => self,
            _ => Self::ClientHost,
        }
    }

    /// Where bytes lead that the client does not choose, and that are known when a request comes.
    fn behind_servers(self) -> Option<Self> {
        match self {
            Self::Authority | Self::U | Self::Un | Self::Uni | Self::Unix => Some(Self::Host),
            _ if self < Self::Authority => None,
            _ => Some(self),
        }
    }

    fn is_behind(self) -> bool {
        matches!(self, Self::Done | Self::DonePort)
    }
}

/// A set of states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct States(u32);

impl States {
    fn of(at: At) -> Self {
        Self(1 << at as u8)
    }

    fn has(self, at: At) -> bool {
        self.0 & Self::of(at).0 != 0
    }

    fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn all(self) -> impl Iterator<Item = At> {
        At::ALL.into_iter().filter(move |at| self.has(*at))
    }

    /// All that `lead` makes of one of them.
    fn map(self, mut lead: impl FnMut(At) -> Self) -> Self {
        self.all().fold(Self::default(), |to, at| to.and(lead(at)))
    }

    fn behind(self, byte: u8) -> Self {
        self.map(|at| at.behind(byte).map(Self::of).unwrap_or_default())
    }

    fn behind_text(self, text: &[u8]) -> Self {
        self.map(|at| text.iter().try_fold(at, |at, byte| at.behind(*byte)).map(Self::of).unwrap_or_default())
    }

    fn behind_clients(self) -> Self {
        self.map(|at| Self::of(at.behind_clients()))
    }

    /// No byte behind the authority was met.
    fn is_before_end(self) -> bool {
        !self.all().any(At::is_behind)
    }

    /// The authority ends here, or no URL begins so.
    fn is_at_end(self) -> bool {
        self.all().all(|at| at.is_behind() || at == At::ClientHost)
    }

    fn chosen(self) -> Chosen {
        if self.has(At::ClientHost) {
            Chosen::Host
        } else if self.has(At::ClientPort) || self.has(At::DonePort) {
            Chosen::Port
        } else {
            Chosen::Nothing
        }
    }
}

/// What a variable of the server leads to.
enum ByServer {
    /// It is one of these.
    Either(&'static [&'static str]),
    /// Text that no client chooses.
    Text,
    /// It begins with a slash; behind the slash stands what the client says.
    Path,
}

/// Built-in variables that the client does not choose. What is not listed is the client's: also `$remote_addr` (a client
/// would be connected to itself, and whom `set_real_ip_from` trusts may tell any address), `$connection_requests`,
/// `$content_length`, `$request_length` and `$remote_port` (a client picks them), `$ssl_...`, `$proxy_protocol_...`,
/// `$upstream_...` (an upstream may repeat what the client has said) and `$proxy_host` (that of an upstream tried before).
fn by_server(builtin: Builtin) -> Option<ByServer> {
    Some(match builtin {
        Builtin::Scheme => ByServer::Either(&["http", "https"]),
        Builtin::Https => ByServer::Either(&["", "on"]),
        // The address and port of a `listen`, or of the machine.
        Builtin::ServerAddr | Builtin::ServerPort => ByServer::Text,
        // Names that the configuration or the machine has, whatever the Host field says.
        Builtin::ServerName | Builtin::Hostname | Builtin::Version => ByServer::Text,
        // Numbers of the process and its clock; `$request_id` is random.
        Builtin::Connection | Builtin::Pid | Builtin::Msec | Builtin::RequestId => ByServer::Text,
        Builtin::TimeIso8601 | Builtin::TimeLocal => ByServer::Text,
        // A request whose target does not begin with a slash goes to no upstream.
        Builtin::RequestUri => ByServer::Path,
        _ => return None,
    })
}

/// A walk through the values of variables.
struct Search<'c> {
    config: &'c Config,
    assignments: &'c Assignments,
    /// Where a variable leads to from a state, as far as that is known.
    known: BTreeMap<(u8, u32, At), States>,
    /// What this round has looked at.
    seen: BTreeSet<(u8, u32, At)>,
    /// Whether this round has found more than the one before.
    grew: bool,
}

/// The origin of the URLs that `url` makes. Variables that are `always_set` are not empty unless they are set so.
pub(super) fn of(url: &Template, config: &Config, assignments: &Assignments, always_set: &[u32]) -> Origin {
    let (known, seen) = (BTreeMap::new(), BTreeSet::new());
    let mut search = Search { config, assignments, known, seen, grew: false };
    // A variable may be set to what it was before and more: rounds are made until no more is found.
    loop {
        let origin = search.url(url, always_set);
        if !std::mem::take(&mut search.grew) {
            return origin;
        }
        search.seen.clear();
    }
}

impl Search<'_> {
    fn url(&mut self, url: &Template, always_set: &[u32]) -> Origin {
        let mut states = States::of(At::Start);
        for (number, piece) in url.pieces().iter().enumerate() {
            let ends = |states: States, byte| states.is_before_end() && states.behind(byte).is_at_end();
            match piece {
                Piece::Text(text) => {
                    for (at, byte) in text.iter().enumerate() {
                        if matches!(byte, b'/' | b'?') && ends(states, *byte) {
                            return Origin { chosen: states.behind(*byte).chosen(), end: Some((number, at)) };
                        }
                        states = states.behind(*byte);
                    }
                }
                // Each request is checked for a slash here, or for nothing.
                Piece::Variable(Variable::Builtin(Builtin::Uri | Builtin::RequestUri | Builtin::IsArgs))
                    if ends(states, b'/') =>
                {
                    return Origin { chosen: states.chosen(), end: Some((number, 0)) };
                }
                Piece::Variable(Variable::User(user)) => {
                    states = self.user(*user, states, !always_set.contains(user), 0);
                }
                Piece::Variable(variable) => states = self.variable(variable, states, 0),
            }
        }
        let end = states.is_before_end().then_some((url.pieces().len(), 0));
        Origin { chosen: states.chosen(), end }
    }

    fn template(&mut self, template: &Template, states: States, depth: u8) -> States {
        template.pieces().iter().fold(states, |states, piece| match piece {
            Piece::Text(text) => states.behind_text(text),
            Piece::Variable(Variable::User(user)) => self.user(*user, states, true, depth),
            Piece::Variable(variable) => self.variable(variable, states, depth),
        })
    }

    /// A variable that `set` fills, or that is empty until then.
    fn user(&mut self, user: u32, states: States, may_be_unset: bool, depth: u8) -> States {
        let filled = self.variable(&Variable::User(user), states, depth);
        if may_be_unset { filled.and(states) } else { filled }
    }

    fn variable(&mut self, variable: &Variable, states: States, depth: u8) -> States {
        match variable {
            Variable::Empty => states,
            Variable::Builtin(builtin) => match by_server(*builtin) {
                Some(ByServer::Either(values)) => {
                    values.iter().fold(States::default(), |all, value| all.and(states.behind_text(value.as_bytes())))
                }
                Some(ByServer::Text) => {
                    states.map(|at| at.behind_servers().map(States::of).unwrap_or_default()).and(states)
                }
                Some(ByServer::Path) => states.behind(b'/'),
                None => states.behind_clients(),
            },
            Variable::User(number) => self.values((0, *number), states, depth),
            Variable::Map(number) => self.values((1, *number), states, depth),
            Variable::Geo(number) => self.values((2, *number), states, depth),
            Variable::Split(number) => self.values((3, *number), states, depth),
            _ => states.behind_clients(),
        }
    }

    fn values(&mut self, (kind, number): (u8, u32), states: States, depth: u8) -> States {
        if depth > DEPTH_MAX {
            return states.behind_clients();
        }
        states.map(|at| {
            let key = (kind, number, at);
            let known = self.known.get(&key).copied().unwrap_or_default();
            // What is on its way is as much as is known of it.
            if !self.seen.insert(key) {
                return known;
            }
            let found = known.and(self.values_from(kind, number, at, depth + 1));
            if found != known {
                self.known.insert(key, found);
                self.grew = true;
            }
            found
        })
    }

    fn values_from(&mut self, kind: u8, number: u32, at: At, depth: u8) -> States {
        let from = States::of(at);
        let (config, assignments, place) = (self.config, self.assignments, number as usize);
        let of_texts = |values: &mut dyn Iterator<Item = &[u8]>| {
            values.fold(States::default(), |all, value| all.and(from.behind_text(value)))
        };
        match kind {
            0 => {
                let captured =
                    if assignments.captured.contains(&number) { from.behind_clients() } else { States::default() };
                let values = assignments.values.get(&number).into_iter().flatten();
                values.fold(captured, |all, value| all.and(self.template(value, from, depth)))
            }
            1 => match config.maps.get(place) {
                Some(map) => {
                    map.values().fold(States::default(), |all, value| all.and(self.template(value, from, depth)))
                }
                None => from.behind_clients(),
            },
            2 => config.geos.get(place).map_or(from.behind_clients(), |geo| of_texts(&mut geo.values())),
            _ => config.splits.get(place).map_or(from.behind_clients(), |split| of_texts(&mut split.values())),
        }
    }
}
