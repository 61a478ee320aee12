//! Merges: ten neighbouring runs become one, without what has ended.
//!
//! G1. The runs that are merged are in use until the new one takes their place; what ends meanwhile is told by key.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io;

use base::TopicId;
use hashbrown::HashSet;

use super::Timers;
use super::counts::Counts;
use super::file::RunFile;
use super::ledger::Ledger;
use super::row::{Key, Row};
use super::run::{Run, all_pending};
use crate::log::ReadError;
use crate::table::{TableError, TableWriter};

/// Runs of one level that are merged at once.
pub const MERGED_RUNS: usize = 10;
/// More than this is not brought together: what is said of a run's rows is written whole.
const MERGED_ROWS_MAX: u64 = 16 << 20;
/// A run of so many rows is written anew for itself when few of them are left; a smaller one only to find out where the
/// bodies of dropped topics lay.
const REWRITTEN_ROWS_MIN: u32 = 1 << 16;
/// Rows of one input that are read at a time.
const ROWS_AT_ONCE: u32 = 8 * 127;

/// What is to be merged.
#[derive(Debug)]
pub struct Plan {
    pub(super) inputs: Vec<Input>,
    level: u32,
    written: Written,
    /// The next key of each input, while its rows or its keys are written.
    heap: BinaryHeap<Reverse<(Key, usize)>>,
    counts: Counts,
    rows: u32,
}

/// How far a plan has been written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Nothing,
    SomeRows,
    /// And some keys.
    Rows,
}

#[derive(Debug)]
pub(super) struct Input {
    pub number: u64,
    pub file: RunFile,
    pub ledger: Ledger,
    next: u32,
    ahead: VecDeque<Row>,
    /// Rows of blocks that cannot be read, with their numbers, from elsewhere.
    pub recovered: BTreeMap<u32, Vec<(Row, u32)>>,
}

/// A merge came to nothing; the runs are as they were.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    #[error("writing the merged run failed: {0}")]
    Write(#[from] io::Error),
    #[error("the merged run cannot be read: {0}")]
    Reread(#[from] TableError),
    #[error("run {number} cannot be read: {source}")]
    Read { number: u64, source: TableError },
    #[error("a body that is waited for cannot be read: {0}")]
    Log(#[from] ReadError),
    #[error("something else goes first")]
    GivenUp,
}

impl Plan {
    pub(super) fn new(level: u32, inputs: Vec<Input>) -> Self {
        let (heap, counts) = (BinaryHeap::new(), Counts::default());
        Self { inputs, level, written: Written::Nothing, heap, counts, rows: 0 }
    }

    /// Numbers of the runs that are merged.
    pub fn numbers(&self) -> Vec<u64> {
        self.inputs.iter().map(|input| input.number).collect()
    }

    /// Goes on writing the rows that were pending when the plan was made: `max` of them, and of their keys. Gives what is
    /// known of them once all are written; until then it has to be called again.
    pub fn write(&mut self, table: &mut TableWriter, max: usize) -> Result<Option<Ledger>, MergeError> {
        if self.written == Written::Nothing {
            RunFile::begin(table)?;
            self.rewind()?;
            self.written = Written::SomeRows;
        }
        if self.written == Written::SomeRows {
            for _ in 0..max {
                let Some(row) = self.next_row()? else { break };
                self.counts.add(&row);
                self.rows += 1;
                table.row(&row.to_bytes())?;
            }
            if !self.heap.is_empty() {
                return Ok(None);
            }
            // Once more from the beginning: so many keys are not kept in memory.
            RunFile::begin_keys(table)?;
            self.rewind()?;
            self.written = Written::Rows;
        }
        for _ in 0..max {
            let Some(row) = self.next_row()? else { break };
            table.row(&row.key.to_bytes())?;
        }
        Ok(self.heap.is_empty().then(|| all_pending(self.rows, std::mem::take(&mut self.counts), self.level)))
    }

    fn rewind(&mut self) -> Result<(), MergeError> {
        self.heap.clear();
        for (index, input) in self.inputs.iter_mut().enumerate() {
            input.next = 0;
            self.heap.extend(input.peek()?.map(|key| Reverse((key, index))));
        }
        Ok(())
    }

    /// What was pending when the plan was made, in order.
    fn next_row(&mut self) -> Result<Option<Row>, MergeError> {
        let Some(Reverse((_, index))) = self.heap.pop() else { return Ok(None) };
        let input = &mut self.inputs[index];
        let row = input.ahead.pop_front().expect("was peeked at");
        self.heap.extend(input.peek()?.map(|key| Reverse((key, index))));
        Ok(Some(row))
    }
}

impl Input {
    pub fn new(number: u64, file: RunFile, ledger: Ledger) -> Self {
        Self { number, file, ledger, next: 0, ahead: VecDeque::new(), recovered: BTreeMap::new() }
    }

    fn peek(&mut self) -> Result<Option<Key>, MergeError> {
        while self.ahead.is_empty() {
            let Some(first) = self.ledger.ended.first_clear(self.next, self.ledger.rows) else { return Ok(None) };
            self.next = (first + ROWS_AT_ONCE).min(self.ledger.rows);
            let rows = self.read(first, self.next)?;
            let (ended, ledger) = (&self.ledger.ended, &self.ledger);
            let is_pending = |row: &Row, number| {
                !ended.contains(number) && !ledger.dropped.contains(&row.topic) && !ledger.unnoted.contains(&row.key)
            };
            self.ahead.extend(rows.into_iter().filter(|(row, number)| is_pending(row, *number)).map(|(row, _)| row));
        }
        Ok(self.ahead.front().map(|row| row.key))
    }

    fn read(&self, from: u32, to: u32) -> Result<Vec<(Row, u32)>, MergeError> {
        let numbered = |from, to| self.file.read(from, to).map(|rows| rows.into_iter().zip(from..).collect::<Vec<_>>());
        let fail = |source| MergeError::Read { number: self.number, source };
        if self.recovered.is_empty() {
            return numbered(from, to).map_err(fail);
        }
        let mut all = Vec::new();
        let per_block = self.file.rows_per_block();
        for block in from / per_block..to.div_ceil(per_block) {
            let rows = self.file.rows_of(block);
            match self.recovered.get(&block) {
                Some(found) => all.extend(found.iter().filter(|(_, number)| (from..to).contains(number))),
                None => all.extend(numbered(rows.start.max(from), rows.end.min(to)).map_err(fail)?),
            }
        }
        Ok(all)
    }
}

impl Timers {
    /// Ten neighbouring runs of one level, when there are, or one of which little is left. They are in use until [`Timers::merged`].
    pub fn plan_merge(&mut self) -> Option<Plan> {
        if self.runs.iter().any(|run| run.ended_in_merge.is_some()) {
            return None;
        }
        let is_due = |runs: &[Run]| {
            let level = runs[0].ledger.level;
            let total: u64 = runs.iter().map(|run| run.counts().total).sum();
            total <= MERGED_ROWS_MAX
                && runs.iter().all(|run| run.ledger.level == level && !run.is_damaged && run.unreadable.is_empty())
        };
        let is_worn = |run: &Run| {
            let Ledger { rows, dropped, counts, .. } = &run.ledger;
            let is_rewritten = *rows >= REWRITTEN_ROWS_MIN || !dropped.is_empty();
            is_rewritten && counts.total * 4 < u64::from(*rows) && !run.is_damaged && run.unreadable.is_empty()
        };
        let neighbours = self.runs.windows(self.bounds.merged).position(is_due);
        let count = if neighbours.is_some() { self.bounds.merged } else { 1 };
        let first = neighbours.or_else(|| self.runs.iter().position(is_worn))?;
        self.resolve_strays();
        let runs = &mut self.runs[first..first + count];
        let inputs = runs.iter_mut().map(|run| {
            run.ended_in_merge = Some(Vec::new());
            Input::new(run.number, run.file.clone(), run.ledger.clone())
        });
        let inputs: Vec<_> = inputs.collect();
        Some(Plan::new(inputs[0].ledger.level + u32::from(count > 1), inputs))
    }

    /// What ended since the last call in the runs that are being merged. Whoever writes the new run notes it there, so
    /// that little is left for [`Timers::merged`].
    pub fn take_ended_in_merge(&mut self) -> Vec<Key> {
        self.runs.iter_mut().filter_map(|run| run.ended_in_merge.as_mut()).flat_map(std::mem::take).collect()
    }

    /// The merge came to nothing.
    pub fn merge_failed(&mut self, error: &MergeError) {
        for run in &mut self.runs {
            run.ended_in_merge = None;
            if let MergeError::Read { number, .. } = error {
                // Merged it would be without the rows that cannot be read.
                run.is_damaged |= run.number == *number;
            }
        }
    }

    /// The merged run is durable and takes the place of those that it was made of. The next checkpoint names it.
    pub fn merged(&mut self, mut run: Run) {
        let keys = self.take_ended_in_merge();
        let first = self.runs.iter().position(|run| run.ended_in_merge.is_some()).expect("a merge is under way");
        let mut dropped: HashSet<TopicId> = HashSet::new();
        self.runs.retain(|run| {
            let is_merged = run.ended_in_merge.is_some();
            if is_merged {
                dropped.extend(&run.ledger.dropped);
            }
            !is_merged
        });
        run.source = self.new_source();
        for key in keys {
            run.end_or_note(key);
        }
        for topic in dropped {
            run.drop_topic(topic);
        }
        self.runs.insert(first, run);
    }
}
