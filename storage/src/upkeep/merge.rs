//! Merging runs of timers, so that there are few of them however old a store grows.
//!
//! A merge takes seconds and more, so it is done in slices: checkpoints go first, or young timers would pile up in memory.
//!
//! M1. What a merge reads and writes stays until it has ended, whatever checkpoints are taken meanwhile.

use super::{Owners, Upkeep, at_timers};
use crate::checkpoint::{CheckpointError, Merge};
use crate::table::{Identity, Kind};
use crate::view::timers::{MergeError, Plan, Run};

/// So few ends are noted by the timers themselves, who wait for a block to be read for each.
const FEW: usize = 128;
/// How often the rest is noted here first. What ends faster than it can be noted has to be noted there.
const ROUNDS: usize = 8;

/// What came of a slice of merging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merged {
    /// There is nothing to be merged.
    Nothing,
    /// There is more to do.
    Slice,
    /// Runs were merged; there may be others.
    Runs,
}

impl Upkeep {
    /// Does a slice of the merge that is under way, or of a new one.
    pub fn merge_timers(&mut self, owners: &mut dyn Owners) -> Result<Merged, CheckpointError> {
        let mut merge = match self.merge.take() {
            Some(merge) => merge,
            None => {
                let Some(plan) = at_timers(owners, |timers| timers.timers_mut().plan_merge()) else {
                    return Ok(Merged::Nothing);
                };
                tracing::debug!("runs of timers are being merged");
                self.begin_run(owners, plan)?
            }
        };
        let Some(run) = merge.go_on(&*self.disk).map_err(|error| given_up(owners, error))? else {
            self.merge = Some(merge);
            return Ok(Merged::Slice);
        };
        let run = self.note_ends(owners, run);
        let number = run.number;
        at_timers(owners, |timers| timers.timers_mut().merged(run));
        tracing::debug!(table = number, "runs of timers were merged");
        Ok(Merged::Runs)
    }

    /// Whether a merge has begun and not ended.
    pub fn is_merging(&self) -> bool {
        self.merge.is_some()
    }

    /// The merge that is under way comes to nothing: something else is to be done with its runs, or this is the end.
    pub fn give_up_merge(&mut self, owners: &mut dyn Owners) {
        if self.merge.take().is_some() {
            at_timers(owners, |timers| timers.timers_mut().merge_failed(&MergeError::GivenUp));
        }
    }

    /// Writes the run of a plan, with what ended meanwhile, to be taken over by the timers.
    pub(super) fn write_run(&mut self, owners: &mut dyn Owners, plan: Plan) -> Result<Run, CheckpointError> {
        let mut merge = self.begin_run(owners, plan)?;
        loop {
            if let Some(run) = merge.go_on(&*self.disk).map_err(|error| given_up(owners, error))? {
                return Ok(self.note_ends(owners, run));
            }
        }
    }

    fn begin_run(&mut self, owners: &mut dyn Owners, plan: Plan) -> Result<Merge, CheckpointError> {
        let (store, random, number) = (self.store, self.chance.next_u64(), self.next_table);
        // Numbers are not used twice, not even those of tables that came to nothing.
        self.next_table += 1;
        let identity = Identity { kind: Kind::Timers, store, random, number };
        Merge::begin(&*self.disk, plan, identity).map_err(|error| given_up(owners, error))
    }

    fn note_ends(&mut self, owners: &mut dyn Owners, mut run: Run) -> Run {
        owners.meanwhile();
        for _ in 0..ROUNDS {
            let ended = at_timers(owners, |timers| timers.timers_mut().take_ended_in_merge());
            let is_rest = ended.len() <= FEW;
            ended.into_iter().for_each(|key| run.end_or_note(key));
            owners.meanwhile();
            if is_rest {
                break;
            }
        }
        // Before the timers use it: whatever happens next, nobody takes the file away.
        self.unnamed.insert(run.number);
        run
    }
}

/// The plan came to nothing; the timers go on with what they have.
pub(super) fn given_up(owners: &mut dyn Owners, error: MergeError) -> CheckpointError {
    let error = at_timers(owners, |timers| {
        timers.timers_mut().merge_failed(&error);
        error
    });
    CheckpointError::Merge(error)
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
