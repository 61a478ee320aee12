//! Real servers, killed at any moment under a mixed load, and held to what they had acknowledged (`crash/ledger.rs`).
//!
//! `CARILLON_CRASH_KILLS=2000 cargo test -p carillon-tests --test crash` kills more often than every run does;
//! `CARILLON_CRASH_SEED` repeats the choices of a failed run, though not its timing.

#[path = "crash/ledger.rs"]
mod ledger;
#[path = "crash/load.rs"]
mod load;
#[path = "crash/witness.rs"]
mod witness;

use std::path::Path;
use std::time::Duration;

use base::Chance;
use load::{Load, World};
use tests::server::{Server, carillon};
use tests::wait::pass;
use tokio::time::{interval, timeout};
use witness::{Tally, WORKS, Witness};

const STORES_AT_ONCE: usize = 4;
/// How often it is looked whether something has come that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What is left is consumed within this time: two leases, and a slow machine.
const DRAINED_WITHIN: Duration = Duration::from_secs(60);
/// Of so many kills, one at least falls into a work.
const KILLS_PER_CUT: usize = 16;
/// A store whose upkeep was not met at its work is killed so many times as often: on a slow machine little comes to be in one
/// life.
const KILLS_MORE: usize = 4;
/// The load rests during so many lives, and works during twice as many.
const LIVES_OF_REST: usize = 4;
/// After a start nothing half done is left within this time.
const TIDY_WITHIN: Duration = Duration::from_secs(30);
const VIOLATIONS_SHOWN: usize = 10;

/// What is done to stores.
#[derive(Clone, Copy)]
struct Plan {
    kills: usize,
    /// Of one data directory: each start reads what is behind its last checkpoint, or the whole log.
    kills_per_store: usize,
    /// How long a server lives, at most.
    life_ms_max: u64,
    settings: &'static [&'static str],
    /// Most of the log is of a topic that is kept for a second, so that segments are thinned and expire.
    is_brief: bool,
}

const STEADY: Plan = Plan { kills: 200, kills_per_store: 25, life_ms_max: 1_500, settings: &[], is_brief: false };
const UPKEPT: Plan = Plan { kills: 50, kills_per_store: 25, life_ms_max: 1_500, settings: &UPKEEP, is_brief: false };
const THINNED: Plan = Plan { kills: 48, kills_per_store: 16, life_ms_max: 1_000, settings: &THINNING, is_brief: true };

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

/// All of the above, thinning and retention included, as often as can be.
const THINNING: [&str; 10] = [
    "--set",
    "storage.log.segment_size=1MiB",
    "--set",
    "storage.checkpoint_every=20ms",
    "--set",
    "storage.checkpoint_bytes=1MiB",
    "--set",
    "storage.retain_every=10ms",
    witness::SAID[0],
    witness::SAID[1],
];

/// The number in an environment variable.
fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} = {text:?} is no number")))
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_or_repeated_however_often_the_server_is_killed() {
    kill(STEADY).await;
}

#[tokio::test]
async fn nor_when_it_is_killed_while_it_seals_and_takes_checkpoints() {
    kill(UPKEPT).await;
}

#[tokio::test]
async fn nor_when_it_is_killed_while_it_thins_and_removes_segments_and_merges_tables() {
    let tally = kill(THINNED).await;
    println!("{tally}");
    assert!(is_met(tally, THINNED.kills), "upkeep was not met at its work: {tally}");
}

/// Whether upkeep has done each of its works, and some kills fell into them.
fn is_met(tally: Tally, kills: usize) -> bool {
    tally.done.iter().all(|done| *done > 0) && tally.cuts() >= kills / KILLS_PER_CUT
}

async fn kill(plan: Plan) -> Tally {
    let seed = variable("CARILLON_CRASH_SEED").unwrap_or_else(|| Chance::from_system().next_u64());
    let kills = variable("CARILLON_CRASH_KILLS").map_or(plan.kills, |kills| kills as usize);
    println!("CARILLON_CRASH_SEED={seed} CARILLON_CRASH_KILLS={kills}");
    let mut chance = Chance::new(seed);
    let stores = kills.div_ceil(plan.kills_per_store);
    let mut left = kills;
    let mut tally = Tally::default();
    for first in (0..stores).step_by(STORES_AT_ONCE) {
        let mut lives = Vec::new();
        for number in first..stores.min(first + STORES_AT_ONCE) {
            let kills = left.min(plan.kills_per_store);
            left -= kills;
            lives.push(live(number, Plan { kills, ..plan }, Chance::new(chance.next_u64())));
        }
        futures_util::future::join_all(lives).await.into_iter().for_each(|of_store| tally += of_store);
    }
    tally
}

/// One store from its beginning to its end.
async fn live(number: usize, plan: Plan, mut chance: Chance) -> Tally {
    let Plan { kills, life_ms_max, settings, is_brief, .. } = plan;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    let mut server = Server::new(&data, &[&SERVER[..], settings].concat());
    server.start().await;
    server.administer(&["group", "create", "readers", "--attempts", "1000"]).await;
    let mut load = Load::start(server.grpc(), &mut chance).await;
    if is_brief {
        server.administer(&load::BRIEF_MADE).await;
        load.add_brief().await;
    }
    let mut witness = Witness::default();
    let mut kill = 0;
    while kill < kills || (is_brief && !is_met(witness.tally(), kills) && kill < kills * KILLS_MORE) {
        load.rest(is_brief && kill / LIVES_OF_REST % 3 == 2);
        // The moment is chance, and often it is while the server starts.
        let is_starting = kill > 0 && chance.one_in(if is_brief { 3 } else { 8 });
        match is_starting {
            true => server.spawn(),
            false if kill > 0 => server.start().await,
            false => {}
        }
        if is_brief && chance.one_in(2) {
            let one = usize::try_from(chance.below(WORKS.len() as u64)).expect("few");
            let works = if chance.one_in(2) { &WORKS[..] } else { &WORKS[one..=one] };
            let met = witness.meet(&server, works, life_ms_max).await;
            let_live(chance.below(met.map_or(1, |work| work.takes_ms))).await;
        } else {
            let_live(chance.below(if is_starting { 150 } else { life_ms_max })).await;
        }
        server.kill().await;
        kill += 1;
        witness.life_ended(&server);
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
    if is_brief {
        world.look_at_all(&server).await;
        hold_to_account(number, &server, &world.verdict());
        tidy(&data, &server, &world).await;
    }
    let names = names(&data);
    let count = |part: &str| names.iter().filter(|name| name.contains(part)).count();
    println!("store {number}: {} index files, {} checkpoints", count(".index"), count("checkpoint-"));
    let is_old = count(".index") > 0 && count("checkpoint-") == 2;
    assert!(is_old || settings.is_empty(), "upkeep came to nothing: {names:?}");
    println!("store {number}: {kill} kills, {stored} messages acknowledged as sent, {acked} as consumed");
    assert!(stored > kill && acked > kill, "the load came to nothing: {stored} sent, {acked} consumed");
    server.kill().await;
    let verified = carillon(&["log", "verify", data.to_str().expect("a plain name")]).await;
    assert!(verified.status.success(), "store {number}: {verified:?}");
    witness.tally()
}

fn names(data: &Path) -> Vec<String> {
    let names = std::fs::read_dir(data).expect("it is there");
    names.map(|entry| entry.expect("listed").file_name().into_string().expect("ours")).collect()
}

/// Waits until nothing of what a kill left half done is there: files that were being written, segments in both forms, messages
/// that went before they expired.
async fn tidy(data: &Path, server: &Server, world: &World) {
    let is_half_done = |name: &String, all: &[String]| {
        let whole = name.strip_suffix(".thin").map(|base| format!("{base}.log"));
        name.starts_with("writing-") || whole.is_some_and(|whole| all.contains(&whole))
    };
    let half_done = async {
        let mut look = interval(LOOK_EVERY);
        loop {
            look.tick().await;
            let all = names(data);
            if !all.iter().any(|name| is_half_done(name, &all)) && world.is_rest_whole(server).await {
                break;
            }
        }
    };
    let done = timeout(TIDY_WITHIN, half_done).await;
    assert!(done.is_ok(), "something is left half done: {:?}; its log:\n{}", names(data), server.log());
}

/// Waits until everything owed was consumed. Who waits too long finds out what is missing in the verdict.
async fn drain(load: &Load) {
    let drained = async {
        let mut look = interval(LOOK_EVERY);
        while load.ledger().owed() > 0 {
            look.tick().await;
        }
    };
    let _is_drained = timeout(DRAINED_WITHIN, drained).await.is_ok();
}

fn hold_to_account(store: usize, server: &Server, verdict: &[String]) {
    let shown = &verdict[..verdict.len().min(VIOLATIONS_SHOWN)];
    let count = verdict.len();
    assert!(count == 0, "store {store}: {count} promises broken:\n{}\nits log:\n{}", shown.join("\n"), server.log());
}

/// The life of a server before its kill. Nothing is awaited: the moment is the matter.
async fn let_live(ms: u64) {
    pass(Duration::from_millis(ms)).await;
}
