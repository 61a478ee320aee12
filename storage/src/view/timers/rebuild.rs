//! Runs of which some can be read in neither half: what is in no block any more is looked for in the log.
//!
//! A damaged row is known by its number, which says whether it has ended, and by its key, which stands in the run
//! twice. The record at its origin has the rest. Only where that is gone as well, a timer is lost, by its key.
//!
//! B1. A rebuilt run holds exactly what was pending in the damaged one, but for what is said to be lost.
//! B2. Nothing is lost to a read that may succeed another time: then the run stays as it is.

use std::ops::Range;

use super::file::RunFile;
use super::merge::{Input, MergeError, Plan};
use super::row::{Key, Row};
use super::run::Run;
use super::{Timer, Timers};
use crate::log::ReadError;
use crate::record::{Head, Pointer};
use base::{LogPosition, Timestamp};

/// What the log has of a body that is waited for.
pub type Found = Option<(Pointer, Head)>;

/// What came of the search for damaged rows.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Were found again, in order.
    recovered: Vec<Key>,
    /// Waited, and are gone: when they were due, and where their bodies lay.
    pub lost: Vec<(Timestamp, LogPosition)>,
    /// Rows of which not even the keys are left, as far as they had not ended.
    pub nameless: u64,
}

impl Recovery {
    pub fn recovered(&self) -> usize {
        self.recovered.len()
    }

    /// How many timers are gone.
    pub fn lost(&self) -> u64 {
        self.lost.len() as u64 + self.nameless
    }
}

impl Plan {
    /// Files that were opened anew.
    pub(crate) fn read_from(&mut self, file: RunFile) {
        self.inputs[0].file = file;
    }

    /// Looks for the rows of every block that cannot be read. `find` gives what the log has at a position.
    pub(crate) fn recover(
        &mut self,
        find: &mut dyn FnMut(LogPosition) -> Result<Found, ReadError>,
    ) -> Result<Recovery, MergeError> {
        let mut recovery = Recovery::default();
        for input in &mut self.inputs {
            for block in 0..input.file.blocks() {
                let rows = input.file.rows_of(block);
                if input.file.read(rows.start, rows.end).is_err() {
                    let found = input.recover(&rows, find, &mut recovery)?;
                    input.recovered.insert(block, found);
                }
            }
        }
        Ok(recovery)
    }
}

impl Input {
    fn recover(
        &self,
        rows: &Range<u32>,
        find: &mut dyn FnMut(LogPosition) -> Result<Found, ReadError>,
        recovery: &mut Recovery,
    ) -> Result<Vec<(Row, u32)>, MergeError> {
        let pending: Vec<u32> = rows.clone().filter(|number| !self.ledger.ended.contains(*number)).collect();
        if pending.is_empty() {
            return Ok(Vec::new());
        }
        let keys = match self.file.read_keys(rows) {
            Ok(keys) => keys,
            Err(error) if error.is_damage() => {
                tracing::error!(%error, run = self.number, timers = pending.len(), "timers are lost with their names");
                recovery.nameless += pending.len() as u64;
                return Ok(Vec::new());
            }
            Err(source) => return Err(MergeError::Read { number: self.number, source }),
        };
        let mut found = Vec::new();
        for number in pending {
            let key = keys[(number - rows.start) as usize];
            if self.ledger.unnoted.contains(&key) {
                continue;
            }
            match find(key.origin())? {
                Some((pointer, head)) => {
                    found.push((Row::new(&Timer { due: key.due(), pointer, head }), number));
                    if !self.ledger.dropped.contains(&head.topic) {
                        recovery.recovered.push(key);
                    }
                }
                None => recovery.lost.push((key.due(), key.origin())),
            }
        }
        Ok(found)
    }
}

impl Timers {
    /// Numbers of the runs of which something could not be read.
    pub fn damaged_runs(&self) -> Vec<u64> {
        let is_damaged = |run: &&Run| run.is_damaged || !run.unreadable.is_empty();
        self.runs.iter().filter(is_damaged).map(|run| run.number).collect()
    }

    /// What is known of a run's first block. None: there is no such run any more.
    pub(crate) fn header_of(&self, number: u64) -> Option<Vec<u8>> {
        self.runs.iter().find(|run| run.number == number).map(|run| run.ledger.header.clone())
    }

    /// The files of a run are whole again.
    pub(crate) fn reopen(&mut self, number: u64, file: RunFile) {
        if let Some(run) = self.runs.iter_mut().find(|run| run.number == number) {
            run.reopen(file);
        }
        self.retry_unreadable();
    }

    /// To write a damaged run anew. It is in use until [`Timers::rebuilt`], as one that is merged.
    pub fn plan_rebuild(&mut self, number: u64) -> Option<Plan> {
        if self.runs.iter().any(|run| run.ended_in_merge.is_some()) {
            return None;
        }
        self.resolve_strays();
        let run = self.runs.iter_mut().find(|run| run.number == number)?;
        run.ended_in_merge = Some(Vec::new());
        let input = Input::new(run.number, run.file.clone(), run.ledger.clone());
        Some(Plan::new(run.ledger.level, vec![input]))
    }

    /// A rebuilt run is durable and takes the place of the damaged one. What the window has passed is due now.
    pub fn rebuilt(&mut self, run: Run, recovery: &Recovery) {
        let number = run.number;
        self.merged(run);
        for key in &recovery.recovered {
            let Some(run) = self.runs.iter_mut().find(|run| run.number == number) else { return };
            if *key >= self.horizon {
                break;
            }
            match run.find(*key) {
                Ok(Some(entry)) => self.place_again(entry),
                Ok(None) => {}
                // As any other block that cannot be read when its timers come near.
                Err(_) => run.pass(*key),
            }
        }
    }

    /// What is known of the runs is written down whole: who has it on the disk is damaged.
    pub(crate) fn distrust_ledgers(&mut self) {
        self.runs.iter_mut().for_each(|run| run.version += 1);
    }
}
