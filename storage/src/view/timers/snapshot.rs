//! What a checkpoint takes of the timers, and what it gives back once it is durable.
//!
//! N1. Until a checkpoint is durable what it took stays where it was: one that failed has changed nothing.

use std::io;

use base::LogPosition;

use super::Timers;
use super::counts::Counts;
use super::file::RunFile;
use super::ledger::Ledger;
use super::part::{Frozen, Part};
use super::row::{Key, Row};
use super::run::{Run, all_pending};
use crate::table::TableWriter;

/// The timers as they were at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// What lies below this position was applied.
    pub covers: LogPosition,
    /// What is in no run yet. None: nothing.
    pub young: Option<Young>,
    /// All runs that have something pending, in order.
    pub runs: Vec<RunState>,
}

#[derive(Debug)]
pub struct RunState {
    pub number: u64,
    pub bytes: u64,
    pub version: u64,
    /// None: what the last durable checkpoint says of it holds still.
    pub ledger: Option<Ledger>,
}

/// Young timers, to be written as a run.
#[derive(Debug)]
pub struct Young {
    parts: Vec<Frozen>,
    counts: Counts,
}

/// What is needed to put a run in the place of the parts that it was made of.
#[derive(Debug)]
pub struct Written {
    pub ledger: Ledger,
    parts: Vec<Frozen>,
    /// The row of each number of a part.
    rows: Vec<Vec<u32>>,
}

const NO_ROW: u32 = u32::MAX;

impl Young {
    /// Writes them down, and says what a checkpoint has to say of them.
    pub fn write(self, table: &mut TableWriter) -> io::Result<Written> {
        let count = usize::try_from(self.counts.total).expect("they are in memory");
        let mut order: Vec<(Key, u32, u32)> = Vec::with_capacity(count);
        let mut rows: Vec<Vec<u32>> = Vec::new();
        for (index, part) in (0..).zip(&self.parts) {
            order.extend(part.pending().map(|(number, row)| (row.key, index, number)));
            rows.push(vec![NO_ROW; part.count as usize]);
        }
        order.sort_unstable();
        RunFile::begin(table)?;
        for (row, (_, part, number)) in (0..).zip(&order) {
            let (part, number) = (*part as usize, *number);
            rows[part][number as usize] = row;
            table.row(&self.parts[part].row(number).to_bytes())?;
        }
        RunFile::begin_keys(table)?;
        order.iter().try_for_each(|(key, ..)| table.row(&key.to_bytes()))?;
        let count = u32::try_from(order.len()).expect("young timers are few");
        Ok(Written { ledger: all_pending(count, self.counts, 0), parts: self.parts, rows })
    }
}

/// A part that has become a run: where its rows are now. Kept until the next one has: what the wheel took out of the
/// part is due by then, and what is not is looked up.
#[derive(Debug, Clone)]
pub(super) struct Moved {
    part: u32,
    run: u32,
    rows: Vec<u32>,
}

/// A checkpoint is durable.
#[derive(Debug)]
pub struct Installed {
    /// The run that holds what was young.
    pub run: Option<(Run, Written)>,
    /// Runs, and the versions that the checkpoint says of them.
    pub durable: Vec<(u64, u64)>,
}

/// What is of no use any more. To free a million timers takes a while, so that is for whoever has time.
#[must_use = "it is to be dropped where nobody waits"]
#[derive(Debug)]
pub struct Retired {
    moved: Vec<Moved>,
    parts: Vec<Part>,
}

impl Retired {
    pub fn free(self) {
        let Self { moved, parts } = self;
        drop((moved, parts));
    }
}

impl Timers {
    /// Takes what a checkpoint needs. None while another one is being written.
    pub fn snapshot(&mut self, covers: LogPosition) -> Option<Snapshot> {
        if self.is_snapshot_under_way {
            return None;
        }
        self.resolve_strays();
        self.retry_unreadable();
        self.is_snapshot_under_way = true;
        self.parts.retain(|part| !part.is_empty());
        let mut counts = Counts::default();
        self.parts.iter().for_each(|part| counts.merge(&part.counts));
        let parts: Vec<Frozen> = self.parts.iter_mut().map(Part::freeze).collect();
        let id = self.new_source();
        self.parts.push(Part::new(id));
        self.runs.retain(|run| run.counts().total > 0 || run.ended_in_merge.is_some());
        let runs = self.runs.iter().filter(|run| run.counts().total > 0).map(|run| RunState {
            number: run.number,
            bytes: run.file.bytes(),
            version: run.version,
            ledger: (run.version != run.durable).then(|| run.ledger.clone()),
        });
        let young = (!parts.is_empty()).then_some(Young { parts, counts });
        Some(Snapshot { covers, young, runs: runs.collect() })
    }

    /// The checkpoint could not be written.
    pub fn snapshot_failed(&mut self) {
        self.is_snapshot_under_way = false;
    }

    /// The checkpoint is durable: what was young is in a run.
    pub fn installed(&mut self, installed: Installed) -> Retired {
        self.is_snapshot_under_way = false;
        for (number, version) in installed.durable {
            if let Some(run) = self.runs.iter_mut().find(|run| run.number == number) {
                run.durable = version;
            }
        }
        let mut retired = Retired { moved: std::mem::take(&mut self.moved), parts: Vec::new() };
        let Some((mut run, written)) = installed.run else { return retired };
        run.source = self.new_source();
        // What ended in between; whoever decides at this moment ends it later, by the new place.
        let mut counts = Counts::default();
        for (frozen, rows) in written.parts.iter().zip(written.rows) {
            let index = self.parts.iter().position(|part| part.id == frozen.id);
            let part = self.parts.remove(index.expect("a frozen part stays until it is a run"));
            counts.merge(&part.counts);
            for number in part.ended.added_since(&frozen.ended) {
                run.ledger.ended.set(rows[number as usize]);
                run.version += 1;
            }
            self.moved.push(Moved { part: frozen.id, run: run.source, rows });
            retired.parts.push(part);
        }
        run.ledger.counts = counts;
        self.runs.push(run);
        retired
    }

    /// Where a timer is now that was taken out of a part.
    pub(super) fn moved_to(&self, part: u32, number: u32) -> Option<(u32, u32)> {
        let moved = self.moved.iter().find(|moved| moved.part == part)?;
        Some((moved.run, moved.rows[number as usize]))
    }
}

impl Frozen {
    fn row(&self, number: u32) -> &Row {
        super::part::row_of(&self.rows, number)
    }
}
