//! Distributions. The expected choices of hashing were recorded with nginx 1.22.

use std::time::Duration;

use crate::config::template::Template;
use crate::proxy::balance::attempt::{HashProbe, ip_hash_key};
use crate::proxy::balance::*;
use crate::runtime::socket::Endpoint;

/// An upstream of peers at ports 27311, 27312, ..., each adapted by `change`.
fn group(count: usize, balance: Balance, change: impl Fn(usize, &mut PeerSpec)) -> Arc<UpstreamState> {
    let mut upstream = Upstream::single("u".to_owned(), Endpoint::Addr(addr(0)));
    let spec = |number| {
        let addr = addr(number);
        let mut spec = PeerSpec::new(addr.to_string(), Endpoint::Addr(addr));
        change(number, &mut spec);
        Arc::new(spec)
    };
    upstream.peers = (1..=count).map(spec).collect();
    upstream.balance = balance;
    Arc::new(UpstreamState::new(Arc::new(upstream), None))
}

fn addr(number: usize) -> Addr {
    Addr::Ip(([127, 0, 0, 1], 27310 + number as u16).into())
}

fn hash(consistent: bool) -> Balance {
    Balance::Hash { key: Template::default(), consistent }
}

fn number(chosen: &PeerLease) -> u32 {
    u32::from(chosen.peer.addr.port().unwrap() - 27310)
}

fn search(key: &[u8]) -> PeerSelection {
    PeerSelection { probe: HashProbe::for_key(key.to_vec()), ..PeerSelection::default() }
}

/// The number of the peer for a key.
fn choose(group: &Arc<UpstreamState>, key: &[u8]) -> u32 {
    number(&group.choose_at(&mut search(key), 0).unwrap())
}

/// The peers for the keys `key0`, `key1`, ...
fn choose_keys(group: &Arc<UpstreamState>, count: usize) -> String {
    (0..count).map(|at| choose(group, format!("key{at}").as_bytes()).to_string()).collect()
}

/// The peers of requests that end at once.
fn choose_many(group: &Arc<UpstreamState>, count: usize) -> Vec<u32> {
    (0..count).map(|_| choose(group, b"")).collect()
}

/// The peers of requests that stay connected.
fn lease(group: &Arc<UpstreamState>, count: usize) -> Vec<PeerLease> {
    (0..count).map_while(|_| group.choose_at(&mut search(b""), 0)).collect()
}

fn numbers(chosen: &[PeerLease]) -> Vec<u32> {
    chosen.iter().map(number).collect()
}

#[test]
fn weights_are_smooth() {
    let smooth = group(3, Balance::RoundRobin, |number, spec| spec.weight = if number == 1 { 5 } else { 1 });
    assert_eq!(choose_many(&smooth, 7), [1, 1, 2, 1, 3, 1, 1]);
    assert_eq!(choose_many(&smooth, 7), [1, 1, 2, 1, 3, 1, 1]);
}

#[test]
fn backups_wait_until_no_other_peer_is_left() {
    for balance in [Balance::RoundRobin, Balance::LeastConn, Balance::IpHash, hash(true), Balance::Random { two: true }]
    {
        let backed = group(4, balance, |number, spec| {
            spec.backup = number == 2;
            spec.down = number == 1;
            spec.max_conns = if number == 3 { 2 } else { 1 };
        });
        let mut chosen = numbers(&lease(&backed, 9));
        chosen[..3].sort_unstable();
        assert_eq!(chosen, [3, 3, 4, 2]);
        assert_eq!(backed.attempts_max(), 3);
    }
}

#[test]
fn texts_are_hashed_as_by_nginx() {
    let weighted = |number: usize, spec: &mut PeerSpec| spec.weight = if number == 2 { 3 } else { 1 };
    let all = group(4, hash(false), weighted);
    assert_eq!(choose_keys(&all, 60), "432324321232342121232143341222241421422322233212121224412123");
    let some = group(5, hash(false), |number, spec| {
        weighted(number, spec);
        spec.down = matches!(number, 3 | 5);
    });
    assert_eq!(choose_keys(&some, 60), "122222421412242221421241222224124122212424212442422221222412");
    assert_eq!(choose_many(&all, 6), [2, 1, 2, 3, 4, 2], "without a key by round robin");
}

#[test]
fn the_ring_is_that_of_nginx() {
    let weighted = |number: usize, spec: &mut PeerSpec| spec.weight = if number == 2 { 3 } else { 1 };
    let all = group(4, hash(true), weighted);
    assert_eq!(choose_keys(&all, 60), "224322233112222121234241432214221322212112344234221332122141");
    let some = group(5, hash(true), |number, spec| {
        weighted(number, spec);
        spec.down = number == 3;
    });
    assert_eq!(choose_keys(&some, 60), "224552254112222121224251452214221522212112245514221422152141");
    let fewer = group(3, hash(true), weighted);
    let moved = choose_keys(&all, 900)
        .chars()
        .zip(choose_keys(&fewer, 900).chars())
        .filter(|(a, b)| a != b)
        .collect::<Vec<_>>();
    assert!(moved.iter().all(|(from, _)| *from == '4') && !moved.is_empty(), "only keys of the peer that left move");
}

#[test]
fn addresses_are_hashed_as_by_nginx() {
    let clients = || {
        let client = |at: usize| [127, (at * 37 % 250) as u8, (at * 11 % 250) as u8, (at % 200 + 1) as u8];
        (0..60).map(move |at| ip_hash_key(&Addr::Ip((client(at), 9).into())))
    };
    let numbers = |group: &Arc<UpstreamState>| clients().map(|key| choose(group, &key).to_string()).collect::<String>();
    let weighted = |number: usize, spec: &mut PeerSpec| spec.weight = if number == 2 { 2 } else { 1 };
    let all = group(4, Balance::IpHash, weighted);
    assert_eq!(numbers(&all), "123412341234123412341234123412342234123422342231123422342231");
    let some = group(4, Balance::IpHash, |number, spec| {
        weighted(number, spec);
        spec.down = number == 3;
    });
    assert_eq!(numbers(&some), "122412241224121412241214124412242224122422142221122422242221");
}

#[test]
fn a_retry_continues_from_its_hash() {
    for balance in [Balance::IpHash, hash(false), hash(true)] {
        let hashed = group(3, balance, |_, _| ());
        let mut search = search(b"abc");
        let mut tried: Vec<u32> =
            (0..3).map_while(|_| hashed.choose_at(&mut search, 0).map(|chosen| number(&chosen))).collect();
        assert_eq!(tried.first(), Some(&choose(&hashed, b"abc")));
        assert!(hashed.choose_at(&mut search, 0).is_none());
        tried.sort_unstable();
        assert_eq!(tried, [1, 2, 3]);
    }
}

#[test]
fn tunnels_count_as_connections() {
    let mut tunnels = Vec::new();
    let group = group(3, Balance::LeastConn, |number, spec| spec.weight = if number == 2 { 2 } else { 1 });
    for count in 1..=40 {
        tunnels.extend(group.choose_at(&mut search(b""), 0));
        let count_of = |wanted| numbers(&tunnels).iter().filter(|number| **number == wanted).count();
        let [a, b, c] = [count_of(1), count_of(2), count_of(3)];
        assert!(a.abs_diff(c) <= 1 && (b / 2).abs_diff(a) <= 1, "{count}: {a} {b} {c}");
    }
    tunnels.retain(|tunnel| number(tunnel) != 3);
    tunnels.extend((0..10).map(|_| group.choose_at(&mut search(b""), 0).unwrap()));
    assert_eq!(numbers(&tunnels)[30..], [3; 10], "the peer whose tunnels ended catches up first");
}

#[test]
fn random_follows_the_weights_and_the_less_loaded_one_of_two_wins() {
    let weighted = group(2, Balance::Random { two: false }, |number, spec| spec.weight = number as u32);
    let second = choose_many(&weighted, 6000).into_iter().filter(|number| *number == 2).count();
    assert!((3700..4300).contains(&second), "{second}");
    let two = group(4, Balance::Random { two: true }, |_, _| ());
    let all = lease(&two, 400);
    for wanted in 1..=4 {
        let count = numbers(&all).into_iter().filter(|number| *number == wanted).count();
        assert!((90..=110).contains(&count), "{wanted}: {count}");
    }
}

#[test]
fn a_failed_peer_is_skipped_and_then_tested_by_one_request() {
    let group = group(2, Balance::RoundRobin, |_, spec| spec.max_fails = 2);
    let fail = |now| {
        let mut search = search(b"");
        let chosen =
            std::iter::from_fn(|| group.choose_at(&mut search, now)).find(|chosen| number(chosen) == 1).unwrap();
        group.report(&chosen.peer, Outcome::Failed, now)
    };
    let at = |now| (0..8).map(|_| number(&group.choose_at(&mut search(b""), now).unwrap())).collect::<Vec<_>>();
    assert!(!fail(1000));
    assert!(at(1000).contains(&1));
    assert!(fail(1000), "the second failure is the last");
    assert_eq!(at(11_000), [2; 8]);
    assert_eq!(at(11_001).iter().filter(|number| **number == 1).count(), 1, "one request tests it");
    let peer = group.lock().members[0].peer.clone();
    group.report(&peer, Outcome::Succeeded, 11_002);
    assert!(at(11_002).iter().filter(|number| **number == 1).count() >= 3);
}

#[test]
fn the_only_peer_is_never_skipped() {
    let group = group(1, Balance::RoundRobin, |_, _| ());
    let chosen = group.choose_at(&mut search(b""), 5).unwrap();
    assert!(!group.report(&chosen.peer, Outcome::Failed, 5));
    assert!(group.choose_at(&mut search(b""), 6).is_some());
}

#[test]
fn a_slow_start_gives_a_growing_share() {
    let group = group(2, Balance::RoundRobin, |_, spec| spec.slow_start = Duration::from_secs(100));
    let peer = group.lock().members[0].peer.clone();
    group.report(&peer, Outcome::Failed, 1000);
    drop((0..2).map(|_| group.choose_at(&mut search(b""), 20_000)).collect::<Vec<_>>());
    group.report(&peer, Outcome::Succeeded, 20_000);
    let share = |now| (0..100).filter(|_| number(&group.choose_at(&mut search(b""), now).unwrap()) == 1).count();
    let shares = [share(20_100), share(45_000), share(70_000), share(120_000)];
    assert!(shares[0] <= 2 && (18..=22).contains(&shares[1]), "{shares:?}");
    assert!((31..=35).contains(&shares[2]) && (49..=51).contains(&shares[3]), "{shares:?}");
}

#[test]
fn a_sticky_session_keeps_its_peer_also_while_it_drains() {
    let mut upstream = Upstream::single("u".to_owned(), Endpoint::Addr(addr(0)));
    upstream.sticky = Some(Sticky::Route(Vec::new()));
    let spec = |number: usize| PeerSpec {
        route: Some(format!("r{number}")),
        drain: number == 1,
        max_conns: 2,
        ..PeerSpec::new(addr(number).to_string(), Endpoint::Addr(addr(number)))
    };
    upstream.peers = (1..=3).map(|number| Arc::new(spec(number))).collect();
    let group = Arc::new(UpstreamState::new(Arc::new(upstream), None));
    let bound = |route: &[u8]| PeerSelection { sticky_id: route.to_vec(), ..PeerSelection::default() };
    assert!((0..4).all(|_| number(&group.choose_at(&mut bound(b"r1"), 0).unwrap()) == 1));
    assert_eq!(choose_many(&group, 4), [2, 3, 2, 3]);
    let two = [0; 2].map(|_| group.choose_at(&mut bound(b"r2"), 0).unwrap());
    assert_eq!(
        number(&group.choose_at(&mut bound(b"r2"), 0).unwrap()),
        3,
        "another peer serves while it is at max_conns"
    );
    drop(two);
    assert_eq!(number(&group.choose_at(&mut bound(b"r2"), 0).unwrap()), 2);
    assert_eq!(number(&group.choose_at(&mut bound(b"r9"), 0).unwrap()), 2);
}

#[test]
fn a_reload_keeps_the_counts_of_connections() {
    let limit = |_: usize, spec: &mut PeerSpec| spec.max_conns = 3;
    let old = group(2, Balance::RoundRobin, limit);
    let tunnels = lease(&old, 4);
    let upstream = group(3, Balance::LeastConn, limit).upstream.clone();
    let new = Arc::new(UpstreamState::new(upstream, Some(&old)));
    assert_eq!(numbers(&lease(&new, 9)), [3, 3, 1, 2, 3]);
    drop(tunnels);
    assert_eq!(lease(&new, 20).len(), 9);
    assert_eq!(new.lock().members.iter().map(GroupPeer::conns).sum::<u32>(), 0);
}

#[test]
fn snapshots_show_connections_and_failures() {
    let watched = group(3, Balance::RoundRobin, |number, spec| {
        spec.weight = if number == 1 { 2 } else { 1 };
        spec.down = number == 2;
        spec.backup = number == 3;
    });
    let chosen = watched.choose_at(&mut search(b""), 0).unwrap();
    let snapshots =
        || watched.peer_states().into_iter().map(|s| (s.status, s.backup, s.weight, s.conns, s.attempts, s.failures));
    assert_eq!(
        snapshots().collect::<Vec<_>>(),
        [
            (PeerStatus::Up, false, 2, 1, 1, 0),
            (PeerStatus::Down, false, 1, 0, 0, 0),
            (PeerStatus::Up, true, 1, 0, 0, 0)
        ]
    );
    chosen.report(Outcome::Failed);
    drop(chosen);
    assert_eq!(snapshots().next(), Some((PeerStatus::Failed, false, 2, 0, 1, 1)));
    assert_eq!(watched.peer_states()[0].endpoint, "127.0.0.1:27311");
}
