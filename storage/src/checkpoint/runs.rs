//! Runs of timers in checkpoints: what was young becomes one, and each has a ledger that says which of its rows have ended.
//!
//! A manifest names runs and ledgers in the same order: the ledger of a run is the one in its place.

use super::files::{Pair, Publication, data_name};
use super::gather::{CheckpointError, Gathering};
use super::{Chain, Manifest, TableRef};
use crate::disk::Disk;
use crate::table::{self, Identity, Kind, TableError, TableWriter};
use crate::view::timers::{Installed, Ledger, MergeError, Plan, Run, RunFile, RunState, Snapshot};

/// Rows that a merge writes at a time: 2 MiB of them.
const ROWS_AT_ONCE: usize = 1 << 16;

impl Gathering<'_> {
    /// The chains of runs and of ledgers, and what the timers are to be told once the checkpoint is durable.
    pub(super) fn timers(&mut self, timers: Snapshot) -> Result<(Chain, Chain, Installed), CheckpointError> {
        let Snapshot { covers, young, runs: states } = timers;
        let mut runs = Chain { covers, tables: Vec::new() };
        let mut ledgers = runs.clone();
        for state in &states {
            ledgers.tables.push(self.ledger_of(state)?);
            runs.tables.push(TableRef { number: state.number, bytes: state.bytes });
        }
        let durable = states.iter().map(|state| (state.number, state.version)).collect();
        let mut installed = Installed { run: None, durable };
        if let Some(young) = young {
            let (name, identity) = self.begin(Kind::Timers);
            let mut table = TableWriter::create(self.disk, &name, identity)?;
            let written = young.write(&mut table)?;
            let bytes = table.finish()?;
            let table = self.publish(Kind::Timers, bytes)?;
            runs.tables.push(table);
            let run = open_run(self.disk, table.number, self.store, written.ledger.clone())?;
            ledgers.tables.push(self.ledger(&run.ledger)?);
            installed.run = Some((run, written));
        }
        Ok((runs, ledgers, installed))
    }

    fn ledger_of(&mut self, state: &RunState) -> Result<TableRef, CheckpointError> {
        let known = || self.newest.and_then(|newest| ledger_in(newest, state.number));
        match &state.ledger {
            Some(ledger) => self.ledger(ledger),
            None => Ok(known().expect("a ledger that did not change is in the newest checkpoint")),
        }
    }

    fn ledger(&mut self, ledger: &Ledger) -> Result<TableRef, CheckpointError> {
        let (name, identity) = self.begin(Kind::Ledgers);
        let mut table = TableWriter::create(self.disk, &name, identity)?;
        ledger.write(&mut table)?;
        let bytes = table.finish()?;
        self.publish(Kind::Ledgers, bytes)
    }
}

/// A run that is being written, of those of a plan, slice by slice.
pub struct Merge {
    plan: Plan,
    store: [u8; 16],
    number: u64,
    part: Part,
}

/// What of it is being done.
enum Part {
    Writing(TableWriter),
    Publishing(Box<Publication>, Ledger),
    Done,
}

impl Merge {
    /// `identity`: of the table that is to be written.
    pub fn begin(disk: &dyn Disk, plan: Plan, identity: Identity) -> Result<Self, MergeError> {
        let Identity { store, number, .. } = identity;
        let name = table::temporary(&data_name(Kind::Timers, number));
        let table = TableWriter::create(disk, &name, identity)?;
        Ok(Self { plan, store, number, part: Part::Writing(table) })
    }

    /// Tables that have to stay: what is being written, and what is read.
    pub fn tables(&self) -> impl Iterator<Item = u64> + '_ {
        std::iter::once(self.number).chain(self.plan.numbers())
    }

    /// Does a slice of it, some ten milliseconds of work and a sync at most. Gives the run once it is durable.
    pub fn go_on(&mut self, disk: &dyn Disk) -> Result<Option<Run>, MergeError> {
        match std::mem::replace(&mut self.part, Part::Done) {
            Part::Writing(mut table) => match self.plan.write(&mut table, ROWS_AT_ONCE)? {
                Some(ledger) => {
                    table.finish()?;
                    let publication = Publication::begin(disk, Kind::Timers, self.number, self.store)?;
                    self.part = Part::Publishing(Box::new(publication), ledger);
                }
                None => self.part = Part::Writing(table),
            },
            Part::Publishing(mut publication, ledger) => {
                if publication.go_on(disk)? {
                    disk.sync_directory()?;
                    return Ok(Some(open_run(disk, self.number, self.store, ledger)?));
                }
                self.part = Part::Publishing(publication, ledger);
            }
            Part::Done => unreachable!("a merge ends with its run, or with an error"),
        }
        Ok(None)
    }
}

fn ledger_in(manifest: &Manifest, run: u64) -> Option<TableRef> {
    let runs = manifest.chain(Kind::Timers);
    let place = runs.tables.iter().position(|table| table.number == run)?;
    manifest.chain(Kind::Ledgers).tables.get(place).copied()
}

fn open_run(disk: &dyn Disk, number: u64, store: [u8; 16], ledger: Ledger) -> Result<Run, TableError> {
    let file = open_file(disk, number, store, &ledger.header)?;
    Run::open(number, file, ledger)
}

/// The rows of a run, unread. `header`: as its ledger has it.
pub(crate) fn open_file(disk: &dyn Disk, number: u64, store: [u8; 16], header: &[u8]) -> Result<RunFile, TableError> {
    let (table, copy) = Pair::open_unread(disk, Kind::Timers, number, store, header)?;
    RunFile::open(table, copy)
}

/// The runs that a manifest names. Their ledgers are read whole, of the runs themselves no row.
pub(super) fn open_runs(disk: &dyn Disk, manifest: &Manifest) -> Result<Vec<Run>, TableError> {
    let (runs, ledgers) = (manifest.chain(Kind::Timers), manifest.chain(Kind::Ledgers));
    let open = |(run, ledger): (&TableRef, &TableRef)| {
        let table = Pair::open(disk, Kind::Ledgers, ledger.number, manifest.store)?;
        open_run(disk, run.number, manifest.store, Ledger::read(&table)?)
    };
    runs.tables.iter().zip(&ledgers.tables).map(open).collect()
}
