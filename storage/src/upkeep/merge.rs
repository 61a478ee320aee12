//! Merging runs of timers, so that there are few of them however old a store grows.

use super::{Owners, Upkeep, at_timers};
use crate::checkpoint::{CheckpointError, Gathering};
use crate::view::timers::{MergeError, Plan, Run};

/// So few ends are noted by the timers themselves, who wait for a block to be read for each.
const FEW: usize = 128;
/// How often the rest is noted here first. What ends faster than it can be noted has to be noted there.
const ROUNDS: usize = 8;

impl Upkeep {
    /// Merges runs of timers. Gives whether there were some to be merged.
    pub fn merge_timers(&mut self, owners: &mut dyn Owners) -> Result<bool, CheckpointError> {
        let Some(plan) = at_timers(owners, |timers| timers.timers_mut().plan_merge()) else { return Ok(false) };
        tracing::debug!("runs of timers are being merged");
        let run = self.write_run(owners, plan)?;
        let number = run.number;
        at_timers(owners, |timers| timers.timers_mut().merged(run));
        tracing::debug!(table = number, "runs of timers were merged");
        Ok(true)
    }

    /// Writes the run of a plan, with what ended meanwhile, to be taken over by the timers.
    pub(super) fn write_run(&mut self, owners: &mut dyn Owners, plan: Plan) -> Result<Run, CheckpointError> {
        let mut run = match self.write_merged(plan) {
            Ok(run) => run,
            Err(error) => return Err(given_up(owners, error)),
        };
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
        Ok(run)
    }

    fn write_merged(&mut self, mut plan: Plan) -> Result<Run, MergeError> {
        let chance = &mut self.chance;
        let mut gathering = Gathering {
            disk: &*self.disk,
            store: self.store,
            random: &mut || chance.next_u64(),
            next_table: self.next_table,
            before: None,
            newest: None,
            since: self.since,
            replay_from: self.sealed_to,
        };
        let merged = gathering.merge_runs(&mut plan);
        // Numbers are not used twice, not even those of tables that came to nothing.
        self.next_table = gathering.next_table + 1;
        merged
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
