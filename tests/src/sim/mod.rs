//! The deterministic simulation: the real log, writer, timer and subscriptions on a disk that fails, against an oracle.
//!
//! [`world`] drives the parts one step at a time, as chance has it; [`oracle`] knows what was promised; [`snapshot`] compares
//! what two stores mean; [`damage`] flips bits of the log, [`rot`] those of every other file. One seed is one run, and always the same one.

pub mod damage;
pub mod oracle;
pub mod rot;
pub mod snapshot;
pub mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use world::World;

/// What went wrong, and what led to it.
#[derive(Debug)]
pub struct Failure {
    pub seed: u64,
    pub message: String,
}

/// What a run has seen, to show that it saw something.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub delivered: u64,
    pub messages: u64,
    pub restarts: u64,
    pub segments: u64,
    pub dead_letters: u64,
    pub sealed: u64,
    pub checkpoints: u64,
    pub dropped: u64,
    pub thinned: u64,
    /// Merges of runs of timers.
    pub merged: u64,
    /// Runs of timers that were damaged in both halves and rebuilt from the log; how many timers only that has saved.
    pub rebuilt: u64,
    pub recovered: u64,
    /// Starts after which a cursor met such damage before upkeep did.
    pub met: u64,
    pub cuts: Cuts,
    pub blows: rot::Blows,
    /// Bytes that were read to find damage.
    pub scrubbed: u64,
    /// Look-ups of message groups for lanes that left messages out; those that were made to fail.
    pub looked_up: u64,
    pub halted: u64,
}

/// What faults have cut short, or made impossible.
#[derive(Debug, Default, Clone, Copy)]
pub struct Cuts {
    pub recovery: u64,
    pub recovery_twice: u64,
    /// The newest manifest was lost.
    pub fallback: u64,
    pub sealing: Failures,
    pub checkpoint: Failures,
    pub retention: Failures,
    pub merge: Failures,
}

/// By what.
#[derive(Debug, Default, Clone, Copy)]
pub struct Failures {
    pub crash: u64,
    pub sync: u64,
    pub full: u64,
}

impl Failures {
    pub fn count(&mut self, is_crashed: bool, error: &str) {
        if is_crashed {
            self.crash += 1;
        } else if error.contains("failed to sync") {
            self.sync += 1;
        } else if error.contains("no storage space") {
            self.full += 1;
        }
    }

    fn all(&self) -> u64 {
        self.crash + self.sync + self.full
    }

    fn add(&mut self, other: &Self) {
        self.crash += other.crash;
        self.sync += other.sync;
        self.full += other.full;
    }
}

impl Cuts {
    pub fn add(&mut self, other: &Self) {
        self.recovery += other.recovery;
        self.recovery_twice += other.recovery_twice;
        self.fallback += other.fallback;
        self.sealing.add(&other.sealing);
        self.checkpoint.add(&other.checkpoint);
        self.retention.add(&other.retention);
        self.merge.add(&other.merge);
    }
}

/// Runs one seed; instead of crashing, every eighth damages the log, every eighth the files of an old store, and every
/// sixteenth its runs of timers. With `is_loud` each event is printed.
pub fn run(seed: u64, is_loud: bool) -> Result<Tally, Failure> {
    let result = catch_unwind(AssertUnwindSafe(|| match seed % 16 {
        3 | 11 => rot::run(seed, is_loud),
        12 => rot::run_on_timers(seed, is_loud),
        7 | 15 => damage::run(seed, is_loud),
        _ => World::new(seed, is_loud).live(),
    }));
    result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let message = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Failure { seed, message: message.unwrap_or_else(|| "a panic without a text".into()) }
    })
}
