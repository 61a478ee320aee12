//! Real servers, killed at any moment under a mixed load, and held to what they had acknowledged (`crash/ledger.rs`).
//!
//! `CARILLON_CRASH_KILLS=2000 cargo test -p carillon-tests --test crash` kills more often than the 200 times of every
//! run; `CARILLON_CRASH_SEED` repeats the choices of a failed run, though not its timing.

#[path = "crash/ledger.rs"]
mod ledger;
#[path = "crash/load.rs"]
mod load;

use std::time::Duration;

use base::{Chance, Clock, SystemClock};
use load::Load;
use tests::server::Server;

const KILLS_DEFAULT: usize = 200;
/// Kills of one data directory: each start reads its whole log.
const KILLS_PER_STORE: usize = 25;
/// Of stores that do their upkeep all the time.
const KILLS_IN_UPKEEP: usize = 50;
const STORES_AT_ONCE: usize = 4;
/// How long a server lives, at most.
const LIFE_MS_MAX: u64 = 1_500;
/// What is left is consumed within this time: two leases, and a slow machine.
const DRAINED_WITHIN: Duration = Duration::from_secs(60);
const VIOLATIONS_SHOWN: usize = 10;

const SERVER: [&str; 14] = [
    "--topics",
    load::TOPICS,
    // Small, so that kills meet changes of segments too.
    "--set",
    "storage.log.segment_size=4MiB",
    "--set",
    "topics.auto_create=false",
    "--set",
    "transactions.check_after=1s",
    "--set",
    "transactions.check_every=1s",
    "--set",
    "transactions.checks_max=1000",
    "--set",
    "runtime.workers=1",
];

/// Segments are sealed, and checkpoints taken and merged, at most moments.
const UPKEEP: [&str; 6] = [
    "--set",
    "storage.checkpoint_every=50ms",
    "--set",
    "storage.checkpoint_bytes=1MiB",
    "--set",
    "storage.retain_every=50ms",
];

/// The number in an environment variable.
fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} = {text:?} is no number")))
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_or_repeated_however_often_the_server_is_killed() {
    kill(variable("CARILLON_CRASH_KILLS").map_or(KILLS_DEFAULT, |kills| kills as usize), &[]).await;
}

#[tokio::test]
async fn nor_when_it_is_killed_while_it_seals_and_takes_checkpoints() {
    kill(variable("CARILLON_CRASH_KILLS").map_or(KILLS_IN_UPKEEP, |kills| kills as usize), &UPKEEP).await;
}

async fn kill(kills: usize, settings: &[&str]) {
    let seed = variable("CARILLON_CRASH_SEED").unwrap_or_else(|| Chance::from_system().next_u64());
    println!("CARILLON_CRASH_SEED={seed} CARILLON_CRASH_KILLS={kills}");
    let mut chance = Chance::new(seed);
    let stores = kills.div_ceil(KILLS_PER_STORE);
    let mut left = kills;
    for first in (0..stores).step_by(STORES_AT_ONCE) {
        let mut lives = Vec::new();
        for number in first..stores.min(first + STORES_AT_ONCE) {
            let kills = left.min(KILLS_PER_STORE);
            left -= kills;
            lives.push(live(number, kills, Chance::new(chance.next_u64()), settings));
        }
        futures_util::future::join_all(lives).await;
    }
}

/// One store from its beginning to its end.
async fn live(number: usize, kills: usize, mut chance: Chance, settings: &[&str]) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut server = Server::new(&directory.path().join("data"), &[&SERVER[..], settings].concat());
    server.start().await;
    server.administer(&["group", "create", "readers", "--attempts", "1000"]).await;
    let mut load = Load::start(server.grpc(), &mut chance).await;
    for kill in 0..kills {
        // The moment is chance, and often it is while the server starts.
        if kill > 0 && chance.one_in(8) {
            server.spawn();
            pass(chance.below(150)).await;
        } else {
            if kill > 0 {
                server.start().await;
            }
            pass(chance.below(LIFE_MS_MAX)).await;
        }
        server.kill().await;
        hold_to_account(number, &server, &load.ledger().verdict(false));
    }
    server.start().await;
    load.stop_sending().await;
    drain(&load).await;
    let (stored, acked) = load.ledger().counts();
    hold_to_account(number, &server, &load.ledger().verdict(true));

    server.kill().await;
    server.start().await;
    let world = load.stop_consuming().await;
    world.look_again().await;
    hold_to_account(number, &server, &world.verdict());
    let names = std::fs::read_dir(directory.path().join("data")).expect("it is there");
    let names: Vec<_> = names.map(|entry| entry.expect("listed").file_name().into_string().expect("ours")).collect();
    let count = |part: &str| names.iter().filter(|name| name.contains(part)).count();
    println!("store {number}: {} index files, {} checkpoints", count(".index"), count("checkpoint-"));
    let is_old = count(".index") > 0 && count("checkpoint-") == 2;
    assert!(is_old || settings.is_empty(), "upkeep came to nothing: {names:?}");
    println!("store {number}: {kills} kills, {stored} messages acknowledged as sent, {acked} as consumed");
    assert!(stored > kills && acked > kills, "the load came to nothing: {stored} sent, {acked} consumed");
}

/// Waits until everything owed was consumed. Who waits too long finds out what is missing in the verdict.
async fn drain(load: &Load) {
    let began = SystemClock.monotonic_ms();
    let within = u64::try_from(DRAINED_WITHIN.as_millis()).expect("a minute");
    while load.ledger().owed() > 0 && SystemClock.monotonic_ms() - began < within {
        pass(20).await;
    }
}

fn hold_to_account(store: usize, server: &Server, verdict: &[String]) {
    let shown = &verdict[..verdict.len().min(VIOLATIONS_SHOWN)];
    let count = verdict.len();
    assert!(count == 0, "store {store}: {count} promises broken:\n{}\nits log:\n{}", shown.join("\n"), server.log());
}

async fn pass(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}
