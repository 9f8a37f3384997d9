//! Peers that are killed, stopped and unreachable during hundreds of requests and tunnels, with smolgate and nginx in front of
//! the same peers at the same time. smolgate must serve what nginx serves; tunnels of healthy peers stay open; and at the end no
//! descriptor is left.

mod client;
mod peers;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use smol::LocalExecutor;

use self::client::{Counts, Kind};
use self::peers::{Failure, PEERS, Peers};
use crate::pair::{Pair, Program, TIMEOUT};

const TUNNELS: usize = 500;
const REQUESTS: usize = 200;
/// The maximum of failed peers at a time.
const FAILED_MAX: usize = 3;

/// Reads a number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Generates the failures from a seed: start, duration, peer, kind.
fn schedule(seed: u64, length: Duration) -> Vec<(Duration, Duration, usize, Failure)> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut well_at = [Duration::ZERO; PEERS];
    let mut events = Vec::new();
    let mut now = Duration::from_secs(2);
    while now + Duration::from_secs(10) < length {
        let peer = random.usize(..PEERS);
        let trouble = [Failure::Killed, Failure::Frozen, Failure::CutOff][random.usize(..3)];
        let end = now + Duration::from_millis(random.u64(1500..8000));
        let troubled = well_at.iter().filter(|well| **well > now).count();
        if troubled < FAILED_MAX && well_at[peer] <= now {
            events.push((now, end, peer, trouble));
            well_at[peer] = end + Duration::from_millis(500);
        }
        now += Duration::from_millis(random.u64(500..2500));
    }
    events
}

/// How long a half-closed tunnel without traffic stays open.
const HALF_CLOSED: Duration = Duration::from_secs(30);

/// Takes two minutes by default; see `CHAOS_SEED` and `CHAOS_SECS`.
#[test]
#[ignore = "takes two minutes: cargo test --release --test vs_nginx chaos::run -- --ignored --nocapture"]
fn run() {
    let (seed, length) = (setting("CHAOS_SEED", 4), Duration::from_secs(setting("CHAOS_SECS", 120)));
    allow_descriptors();
    let peers = Peers::start();
    let servers: String = peers.addrs.iter().map(|addr| format!("server {addr} fail_timeout=2s;\n")).collect();
    let config = format!(
        "map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
         upstream u {{ {servers} keepalive 64; }}
         server {{ listen LISTEN; location / {{ proxy_pass http://u; proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
            proxy_connect_timeout 1s; proxy_read_timeout 3s; }} }}"
    );
    let Some(pair) = Pair::start(&config, |_| ()) else { return };
    let programs = [&pair.smolgate, &pair.nginx];
    let before = programs.map(Program::descriptors);
    let end = AtomicBool::new(false);
    let counts = [Counts::default(), Counts::default()];
    smol::block_on(async {
        let executor = LocalExecutor::new();
        let mut tasks = Vec::new();
        for (program, counts) in programs.iter().zip(&counts) {
            let (addr, peers, end) = (program.addr, &peers, &end);
            tasks.extend((0..TUNNELS).map(|_| executor.spawn(client::tunnels(addr, peers, counts, end))));
            let kinds = [Kind::Short, Kind::Short, Kind::Long, Kind::Post];
            tasks.extend((0..REQUESTS).map(|n| executor.spawn(client::requests(addr, kinds[n % 4], counts, end))));
        }
        executor.run(apply(&peers, schedule(seed, length), length)).await;
        end.store(true, Ordering::Relaxed);
        for task in tasks {
            executor.run(task).await;
        }
    });
    println!("seed {seed}, {} s, {} failures of {PEERS} peers", length.as_secs(), schedule(seed, length).len());
    for (name, counts) in ["smolgate", "nginx"].iter().zip(&counts) {
        println!("{name:>8}: {counts}");
    }
    drop(peers);
    let left = |at: usize| programs[at].descriptors().saturating_sub(before[at]);
    let closed = std::time::Instant::now();
    while left(0) > 0 && closed.elapsed() < TIMEOUT + HALF_CLOSED {
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("the last descriptor was closed after {} s", closed.elapsed().as_secs());
    println!("descriptors left: smolgate {}, nginx {}", left(0), left(1));
    let [ours, theirs] = counts;
    assert_eq!(left(0), 0, "descriptors are left");
    assert!(ours.short.failed() <= theirs.short.failed(), "requests failed that nginx would have served");
    assert!(ours.upgrades.failed() <= theirs.upgrades.failed(), "upgrades failed that nginx would have served");
    // Which requests a failing peer has is chance.
    let by_chance = |ours: usize, theirs: usize| ours <= theirs * 3 / 2 + 20;
    // A machine that stalls for longer than the timeout breaks tunnels of healthy peers, and then nginx's too.
    let (lost, theirs_lost) = (ours.tunnels_lost.get(), theirs.tunnels_lost.get());
    assert!(lost == 0 || (theirs_lost > 0 && by_chance(lost, theirs_lost)), "tunnels of healthy peers broke");
    assert!(by_chance(ours.long.failed(), theirs.long.failed()), "more responses were aborted than with nginx");
    assert!(by_chance(ours.post.failed(), theirs.post.failed()), "more POSTs failed than with nginx");
}

/// Applies the failures of the schedule to the peers.
async fn apply(peers: &Peers, events: Vec<(Duration, Duration, usize, Failure)>, length: Duration) {
    let began = std::time::Instant::now();
    let begins = events.iter().map(|(at, _, peer, trouble)| (*at, *peer, Some(*trouble)));
    let mut all: Vec<_> = begins.chain(events.iter().map(|(_, end, peer, _)| (*end, *peer, None))).collect();
    all.sort_by_key(|(at, ..)| *at);
    for (at, peer, trouble) in all {
        smol::Timer::at(began + at).await;
        match trouble {
            Some(trouble) => peers.disturb(peer, trouble),
            None => peers.restore(peer),
        }
    }
    smol::Timer::at(began + length).await;
}

/// Hundreds of connections need more than usual limits have; the programs inherit ours.
fn allow_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = Some(maximum.map_or(16_384, |most| most.min(16_384)));
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
}
