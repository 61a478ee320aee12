//! Pending timers: which delayed messages are due, and when.
//!
//! Each is kept in one place: a *part* in memory while it is young, a *run* on the disk once a checkpoint has written it
//! there. A wheel with one slot a millisecond holds what is due next, of both; its window is bounded by time and by count.
//! Reads no clock and writes nothing: the timer thread passes `now` in and carries results out. Runs are read here.
//!
//! T1. Each live origin is in exactly one part or run. It also waits in the wheel if its key lies below `horizon`, in `past`
//!     if the window has passed it, and in neither while somebody decides about it.
//! T2. `take_due(now)` gives nothing later than `now`, in order of (due, position).
//! T3. An origin ends once: what a record ends, it ends wherever it waits. The due time in the record says where that is,
//!     unless damage took the record that moved it there.

mod bits;
mod counts;
mod file;
mod ledger;
mod list;
mod merge;
mod part;
mod rebuild;
mod row;
mod run;
mod snapshot;
mod wheel;
mod window;

use std::collections::BTreeMap;
use std::ops::Range;

use base::limits::{WHEEL_TIMERS_MAX, YOUNG_TIMERS_MAX};
use base::{LogPosition, Timestamp, TopicId};
use hashbrown::{HashMap, HashSet};

use crate::record::{Head, Pointer};
use crate::table::TableError;
use part::Part;
use row::{Entry, Key, Row};
use snapshot::Moved;
use wheel::Wheel;

pub use file::RunFile;
pub use ledger::Ledger;
pub use list::Page;
pub use merge::{MERGED_RUNS, MergeError, Plan};
pub use rebuild::{Found, Recovery};
pub use run::Run;
pub use snapshot::{Installed, Retired, RunState, Snapshot, Written, Young};

/// A delayed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timer {
    pub due: Timestamp,
    pub pointer: Pointer,
    pub head: Head,
}

/// What a decision about one timer meets.
#[derive(Debug, Clone)]
pub enum Claim {
    /// It is the caller's now, in `deciding`.
    Taken(Timer),
    /// Somebody decides about it already.
    Deciding,
    /// It has ended, or never was.
    Unknown,
    /// Nobody knows: where it may be cannot be read.
    Unreadable(TableError),
}

/// How much is kept in memory.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Timers in the wheel.
    pub wheel: usize,
    /// Timers that are in no run; from a quarter of it on a run is asked for, and at all of it no more should come.
    pub young: usize,
    /// Runs that are merged at once.
    pub merged: usize,
}

#[derive(Debug, Clone)]
pub struct Timers {
    bounds: Bounds,
    wheel: Wheel,
    /// What waits and lies below it is in the wheel, or in `past`.
    horizon: Key,
    is_filling: bool,
    /// What is due before the window: overdue when it came, or the wall clock was set back.
    past: BTreeMap<Key, Entry>,
    deciding: HashMap<LogPosition, Entry>,
    /// Oldest first; the last one takes what comes.
    parts: Vec<Part>,
    runs: Vec<run::Run>,
    /// The last number given to a part or run.
    sources: u32,
    moved: Vec<Moved>,
    is_snapshot_under_way: bool,
    /// Have ended in a run, nobody knows where: only damage explains it. Looked for, all at once, before anything is due.
    strays: HashSet<LogPosition>,
}

pub const DEFAULT_BOUNDS: Bounds = Bounds { wheel: WHEEL_TIMERS_MAX, young: YOUNG_TIMERS_MAX, merged: MERGED_RUNS };

impl Default for Bounds {
    fn default() -> Self {
        DEFAULT_BOUNDS
    }
}

impl Default for Timers {
    fn default() -> Self {
        Self::with_bounds(DEFAULT_BOUNDS)
    }
}

impl Timers {
    pub fn with_bounds(bounds: Bounds) -> Self {
        Self {
            bounds,
            wheel: Wheel::default(),
            horizon: Key::MIN,
            is_filling: false,
            past: BTreeMap::new(),
            deciding: HashMap::new(),
            parts: vec![Part::new(0)],
            runs: Vec::new(),
            sources: 0,
            moved: Vec::new(),
            is_snapshot_under_way: false,
            strays: HashSet::new(),
        }
    }

    /// Takes over the runs that a checkpoint names, in its order.
    pub fn open_runs(&mut self, runs: Vec<run::Run>) {
        for mut run in runs {
            run.source = self.new_source();
            run.durable = run.version;
            self.runs.push(run);
        }
    }

    pub fn len(&self) -> usize {
        let young: usize = self.parts.iter().map(Part::len).sum();
        let in_runs: u64 = self.runs.iter().map(|run| run.counts().total).sum();
        young + usize::try_from(in_runs).expect("64 bits")
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn pending_of(&self, topic: TopicId) -> u64 {
        self.counts().filter_map(|counts| counts.topics.get(&topic)).sum()
    }

    pub fn pending_by_topic(&self) -> HashMap<TopicId, u64> {
        let mut all = HashMap::new();
        for (topic, count) in self.counts().flat_map(|counts| &counts.topics) {
            *all.entry(*topic).or_default() += count;
        }
        all
    }

    /// Whether a body in these positions is waited for. May say so of one near them, or of a dropped topic.
    pub fn has_pending_in(&self, positions: &Range<LogPosition>) -> bool {
        self.counts().any(|counts| counts.has_any_in(positions))
    }

    /// Where the first body lies that is waited for, to the MiB.
    pub fn first_pending(&self) -> Option<LogPosition> {
        self.counts().filter_map(counts::Counts::first).min()
    }

    /// So much is young that it should become a run before the next checkpoint is due.
    pub fn wants_run(&self) -> bool {
        !self.is_snapshot_under_way && self.young() >= self.bounds.young / 4
    }

    /// How many more may be young. Whoever lets some in looks here; what the log says is applied all the same.
    pub fn room(&self) -> usize {
        self.bounds.young.saturating_sub(self.young())
    }

    fn young(&self) -> usize {
        self.parts.iter().map(Part::kept).sum()
    }

    /// Blocks of runs that could not be read when their timers came near.
    pub fn unreadable_blocks(&self) -> usize {
        self.runs.iter().map(|run| run.unreadable.len()).sum()
    }

    /// Runs, and the numbers that name them on the disk.
    pub fn run_numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.runs.iter().map(|run| run.number)
    }

    pub fn add(&mut self, timer: Timer) {
        let row = Row::new(&timer);
        if self.parts.iter().any(|part| part.find(row.key).is_some()) {
            // The same due time again: whatever moved it away in between was lost.
            self.end(timer.due, timer.pointer.position);
        }
        let place = self.parts.last_mut().expect("one part is open").add(row);
        self.place(Entry { row, place });
    }

    /// Takes one timer out for a decision about it alone.
    pub fn claim(&mut self, due: Timestamp, origin: LogPosition) -> Claim {
        if self.deciding.contains_key(&origin) {
            return Claim::Deciding;
        }
        self.resolve_strays();
        let key = Key::new(due, origin);
        let known = self.unplace(key).or_else(|| self.parts.iter().find_map(|part| part.find(key)));
        let entry = match known.map_or_else(|| self.find_in_runs(key), |entry| Ok(Some(entry))) {
            Ok(Some(entry)) => entry,
            Ok(None) => return Claim::Unknown,
            Err(error) => return Claim::Unreadable(error),
        };
        self.deciding.insert(origin, entry);
        Claim::Taken(entry.row.timer())
    }

    /// Whether it waits for that time; no decision about it is made.
    pub fn is_pending(&mut self, due: Timestamp, origin: LogPosition) -> Result<bool, TableError> {
        self.resolve_strays();
        let key = Key::new(due, origin);
        let is_young = self.deciding.contains_key(&origin) || self.parts.iter().any(|part| part.find(key).is_some());
        Ok(is_young || self.find_in_runs(key)?.is_some())
    }

    /// The decision did not come to be: it waits again.
    pub fn release(&mut self, origin: LogPosition) {
        if let Some(entry) = self.deciding.remove(&origin) {
            self.place(entry);
        }
    }

    /// Published or retired; committed. False when it was not there, which only damage explains.
    pub fn end(&mut self, due: Timestamp, origin: LogPosition) -> bool {
        let key = Key::new(due, origin);
        match self.deciding.remove(&origin).or_else(|| self.unplace(key)) {
            Some(entry) => {
                self.end_entry(&entry);
                true
            }
            None => self.end_far(key),
        }
    }

    /// As [`Timers::end`], for an origin that waits for another due time than its record says. False when it waits nowhere;
    /// where it may wait in a run it is looked for later.
    pub fn end_stray(&mut self, origin: LogPosition) -> bool {
        if let Some(key) = self.parts.iter().find_map(|part| part.find_stray(origin)) {
            return self.end(key.due(), origin);
        }
        let may_be = self.runs.iter().any(|run| run.counts().mibs.contains_key(&counts::mib_of(origin)));
        may_be && self.strays.insert(origin)
    }

    /// Everything of a dropped topic is gone.
    pub fn drop_topic(&mut self, topic: TopicId) {
        let mut gone: Vec<Entry> = Vec::new();
        let mut is_kept = |entry: &Entry| {
            if entry.row.topic == topic {
                gone.push(*entry);
            }
            entry.row.topic != topic
        };
        self.wheel.retain(&mut is_kept);
        self.past.retain(|_, entry| is_kept(entry));
        self.deciding.retain(|_, entry| is_kept(entry));
        self.parts.iter_mut().for_each(|part| part.drop_topic(topic));
        // The cursors are past these, and would never count them out.
        for entry in gone {
            self.end_in_run(&entry);
        }
        self.runs.iter_mut().for_each(|run| run.drop_topic(topic));
    }

    fn counts(&self) -> impl Iterator<Item = &counts::Counts> {
        self.parts.iter().map(|part| &part.counts).chain(self.runs.iter().map(run::Run::counts))
    }

    fn new_source(&mut self) -> u32 {
        self.sources += 1;
        self.sources
    }

    fn end_entry(&mut self, entry: &Entry) {
        match self.parts.iter_mut().find(|part| part.id == entry.place.source) {
            Some(part) => part.end(entry.place.number),
            None => self.end_in_run(entry),
        }
    }

    fn end_in_run(&mut self, entry: &Entry) {
        let Entry { row, place } = entry;
        let (source, number) = self.moved_to(place.source, place.number).unwrap_or((place.source, place.number));
        match self.runs.iter_mut().find(|run| run.source == source) {
            Some(run) => run.end(number, row),
            // Its run was merged with others since.
            None => drop(self.end_far(row.key)),
        }
    }

    fn end_far(&mut self, key: Key) -> bool {
        for part in &mut self.parts {
            if let Some(entry) = part.find(key) {
                part.end(entry.place.number);
                return true;
            }
        }
        let mut is_unread = false;
        let mut unread = Vec::new();
        for (index, run) in self.runs.iter_mut().enumerate().rev() {
            match run.end_key(key) {
                Ok(true) => return true,
                Ok(false) => {}
                Err(_) => unread.push(index),
            }
        }
        for index in unread {
            self.runs[index].end_or_note(key);
            is_unread = true;
        }
        is_unread
    }

    fn find_in_runs(&mut self, key: Key) -> Result<Option<Entry>, TableError> {
        let mut unread = None;
        for run in self.runs.iter_mut().rev() {
            match run.find(key) {
                Ok(Some(entry)) => return Ok(Some(entry)),
                Ok(None) => {}
                Err(error) => unread = Some(error),
            }
        }
        unread.map_or(Ok(None), Err)
    }

    /// Ends what ended under another due time than it waits for.
    fn resolve_strays(&mut self) {
        if self.strays.is_empty() {
            return;
        }
        let strays = std::mem::take(&mut self.strays);
        for index in 0..self.runs.len() {
            let counts = self.runs[index].counts();
            if strays.iter().any(|origin| counts.mibs.contains_key(&counts::mib_of(*origin))) {
                self.end_strays_of(index, &strays);
            }
        }
    }

    fn end_strays_of(&mut self, index: usize, strays: &HashSet<LogPosition>) {
        let (mut row, mut found) = (0, Vec::new());
        let count = self.runs[index].file.count();
        while row < count {
            let listed = self.runs[index].list(row, 8 * self.runs[index].file.rows_per_block(), &mut found);
            row = listed.unwrap_or_else(|error| {
                tracing::error!(%error, "timers that have ended may be in a block that cannot be read");
                row + 8 * self.runs[index].file.rows_per_block()
            });
            for entry in found.drain(..).filter(|entry| strays.contains(&entry.row.key.origin())) {
                self.unplace(entry.row.key);
                self.runs[index].end(entry.place.number, &entry.row);
            }
        }
    }
}

#[cfg(test)]
#[path = "timers_tests.rs"]
mod tests;
