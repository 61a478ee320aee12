//! Runs of timers that are damaged: made whole from their two halves, or, where neither has a place, from the log.

use std::collections::BTreeSet;

use super::merge::given_up;
use super::{Damage, Owners, Upkeep, at_timers, note_hole};
use crate::checkpoint::{self, CheckpointError, Pair};
use crate::log::single;
use crate::record::{self, Pointer, Record};
use crate::table::Kind;
use crate::view::timers::Found;
use base::LogPosition;

/// What somebody has come by who could not mend it.
#[derive(Debug, Default)]
pub(super) struct Doubtful {
    /// Runs that may be damaged.
    pub runs: BTreeSet<u64>,
    /// A ledger is damaged for good.
    pub has_ledgers: bool,
    /// The newest checkpoint names a run that was rebuilt.
    pub is_named: bool,
}

impl Upkeep {
    /// Whether [`Upkeep::mend_runs`] has something to do that the timers do not know of.
    pub fn has_doubtful_runs(&self) -> bool {
        self.doubtful.has_ledgers || !self.doubtful.runs.is_empty()
    }

    /// Makes damaged runs whole, or rebuilds them, and adds to `done` what was rebuilt. What fails is tried again; until
    /// then its timers wait.
    pub fn mend_runs(&mut self, owners: &mut dyn Owners, done: &mut Vec<Damage>) -> Result<(), CheckpointError> {
        if std::mem::take(&mut self.doubtful.has_ledgers) {
            at_timers(owners, |timers| timers.timers_mut().distrust_ledgers());
        }
        self.doubtful.runs.extend(at_timers(owners, |timers| timers.timers().damaged_runs()));
        let mut result = Ok(());
        for number in std::mem::take(&mut self.doubtful.runs) {
            match self.mend_run(owners, number) {
                Ok(rebuilt) => done.extend(rebuilt),
                Err(error) => {
                    self.doubtful.runs.insert(number);
                    result = Err(error);
                }
            }
        }
        result
    }

    fn mend_run(&mut self, owners: &mut dyn Owners, number: u64) -> Result<Option<Damage>, CheckpointError> {
        // Its timers have ended, or are in another run since.
        let header = at_timers(owners, move |timers| timers.timers().header_of(number));
        let Some(header) = header else { return Ok(None) };
        match Pair::open(&*self.disk, Kind::Timers, number, self.store) {
            Ok(_) => {
                let file = checkpoint::open_file(&*self.disk, number, self.store, &header)?;
                at_timers(owners, move |timers| timers.timers_mut().reopen(number, file));
                Ok(None)
            }
            // A disk that gives nothing for now does not give the rest either: then nothing comes of it (B2).
            Err(error) => {
                tracing::error!(%error, run = number, "a run of timers is in neither half; it is rebuilt from the log");
                self.rebuild(owners, number, &header)
            }
        }
    }

    fn rebuild(
        &mut self,
        owners: &mut dyn Owners,
        number: u64,
        header: &[u8],
    ) -> Result<Option<Damage>, CheckpointError> {
        self.give_up_merge(owners);
        let plan = at_timers(owners, move |timers| timers.timers_mut().plan_rebuild(number));
        let Some(mut plan) = plan else { return Ok(None) };
        // By their names: one may have been made anew since the timers opened it.
        if let Ok(file) = checkpoint::open_file(&*self.disk, number, self.store, header) {
            plan.read_from(file);
        }
        let segments = self.segments.load_full();
        let recovered = plan
            .recover(&mut |origin| Ok(single::record_at(&segments, origin)?.and_then(|bytes| body(origin, &bytes))));
        let recovery = match recovered {
            Ok(recovery) => recovery,
            Err(error) => return Err(given_up(owners, error)),
        };
        let run = self.write_run(owners, plan)?;
        let (recovered, lost) = (recovery.recovered() as u64, recovery.lost());
        for (due, origin) in &recovery.lost {
            tracing::error!(
                run = number,
                due = due.0,
                position = origin.0,
                "a message that waited for its time is lost"
            );
            // What lies there is no news to who has read the segment.
            if !self.holes.iter().any(|hole| hole.contains(origin)) {
                note_hole(&mut self.holes, *origin..origin.plus(record::FRAME_BYTES as u64));
            }
        }
        let rebuilt = run.number;
        at_timers(owners, move |timers| timers.timers_mut().rebuilt(run, &recovery));
        tracing::warn!(run = number, rebuilt, recovered, lost, "a run of timers was rebuilt");
        self.doubtful.is_named = true;
        Ok(Some(Damage::Run { number, recovered, lost }))
    }
}

/// What a timer has of a record.
fn body(at: LogPosition, bytes: &[u8]) -> Found {
    let framed = record::decode(bytes).ok()?;
    match framed.record {
        Record::Delayed { head, .. } | Record::Prepared { head, .. } => {
            Some((Pointer { position: at, length: framed.length }, head))
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "runs_tests.rs"]
mod tests;
