//! The simulation over many seeds. A failing one is replayed, with every event, by
//! `CARILLON_SIM_SEED=<seed> cargo test -p carillon-tests --test simulation -- replay --nocapture`.
//! `CARILLON_SIM_SEEDS` says how many seeds are run, `CARILLON_SIM_START` with which one they begin.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tests::sim::{self, Failure, Tally};

const SEEDS: u64 = 2_500;
/// Failures that are shown in full; more of them rarely say more.
const SHOWN_MAX: usize = 5;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}={value:?} is no number")))
}

#[test]
fn nothing_that_was_promised_is_broken_in_any_seed() {
    let (start, count) = (number("CARILLON_SIM_START", 0), number("CARILLON_SIM_SEEDS", SEEDS));
    let next = AtomicU64::new(start);
    let failures: Mutex<Vec<Failure>> = Mutex::default();
    let sum: Mutex<Tally> = Mutex::default();
    std::panic::set_hook(Box::new(|_| {}));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= start + count {
                        return;
                    }
                    match sim::run(seed, false) {
                        Ok(tally) => add(&mut sum.lock().unwrap(), &tally),
                        Err(failure) => failures.lock().unwrap().push(failure),
                    }
                }
            });
        }
    });
    drop(std::panic::take_hook());
    let mut failures = failures.into_inner().unwrap();
    failures.sort_by_key(|failure| failure.seed);
    println!("{count} seeds, {} failed: {:?}", failures.len(), sum.into_inner().unwrap());
    for Failure { seed, message } in failures.iter().take(SHOWN_MAX) {
        println!("seed {seed}: {message}");
        println!("  CARILLON_SIM_SEED={seed} cargo test -p carillon-tests --test simulation -- replay --nocapture");
    }
    assert!(failures.is_empty(), "{} of {count} seeds failed", failures.len());
}

#[test]
fn replay_of_one_seed() {
    let Ok(seed) = std::env::var("CARILLON_SIM_SEED") else { return };
    let seed = seed.parse().expect("a seed is a number");
    if let Err(Failure { message, .. }) = sim::run(seed, true) {
        panic!("seed {seed}: {message}");
    }
}

fn add(sum: &mut Tally, tally: &Tally) {
    sum.delivered += tally.delivered;
    sum.messages += tally.messages;
    sum.restarts += tally.restarts;
    sum.dead_letters += tally.dead_letters;
    sum.sealed += tally.sealed;
    sum.checkpoints += tally.checkpoints;
    sum.dropped += tally.dropped;
    sum.thinned += tally.thinned;
    sum.merged += tally.merged;
    sum.rebuilt += tally.rebuilt;
    sum.recovered += tally.recovered;
    sum.met += tally.met;
    sum.cuts.add(&tally.cuts);
    sum.blows.add(&tally.blows);
    sum.scrubbed += tally.scrubbed;
    sum.looked_up += tally.looked_up;
    sum.halted += tally.halted;
    sum.segments = sum.segments.max(tally.segments);
}
