//! A run: pending timers in a table, sorted by due time, with a bit in memory for each that has ended.
//!
//! R1. The rows never change; ended are those with their bit set, those of dropped topics, and those whose end could not
//!     be noted because their block could not be read (`unnoted`).
//! R2. A block that cannot be read is told of, and passed; its rows stay pending, and are tried again.

use std::collections::{BTreeSet, VecDeque};

use base::TopicId;

use super::bits::Bits;
use super::counts::{Counts, mib_of};
use super::file::RunFile;
use super::ledger::Ledger;
use super::row::{Entry, Key, Place, Row};
use crate::table::TableError;

/// Blocks that a cursor reads at a time: 1,016 rows.
const BLOCKS_AHEAD: u32 = 8;

#[derive(Debug, Clone)]
pub struct Run {
    /// What names it in memory.
    pub source: u32,
    /// What names it on the disk.
    pub number: u64,
    pub file: RunFile,
    pub ledger: Ledger,
    /// Counts what happened to it; what the last durable checkpoint holds.
    pub version: u64,
    pub durable: u64,
    /// What ended since a merge began to read it. None when none does.
    pub ended_in_merge: Option<Vec<Key>>,
    /// Some of it could not be read. [`super::Timers::damaged_runs`] tells whoever mends it.
    pub is_damaged: bool,
    /// The first key of each block.
    fences: Vec<Key>,
    /// The row that the cursor reads next; what it has read and not handed out.
    next: u32,
    ahead: VecDeque<(Row, u32)>,
    /// The block that was looked at last: ends come in the order of due times.
    recent: Option<(u32, Vec<Row>)>,
    /// Blocks that could not be read.
    pub unreadable: BTreeSet<u32>,
}

impl Run {
    /// Reads the fences, and no row.
    pub fn open(number: u64, file: RunFile, mut ledger: Ledger) -> Result<Self, TableError> {
        if ledger.rows != file.count() {
            return Err(file.malformed("it has another number of rows than what is known of them"));
        }
        let fences = file.fences()?;
        if fences.len() != file.count().div_ceil(file.rows_per_block()) as usize {
            return Err(file.malformed("it lacks fences"));
        }
        ledger.header = file.header().to_vec();
        Ok(Self {
            source: u32::MAX,
            number,
            file,
            ledger,
            version: 1,
            durable: 0,
            ended_in_merge: None,
            is_damaged: false,
            fences,
            next: 0,
            ahead: VecDeque::new(),
            recent: None,
            unreadable: BTreeSet::new(),
        })
    }

    pub fn counts(&self) -> &Counts {
        &self.ledger.counts
    }

    fn count(&self) -> u32 {
        self.file.count()
    }

    fn has_ended(&self, number: u32, row: &Row) -> bool {
        self.ledger.ended.contains(number)
            || self.ledger.dropped.contains(&row.topic)
            || (!self.ledger.unnoted.is_empty() && self.ledger.unnoted.contains(&row.key))
    }

    /// The timer with this key, if it is here and pending. Reads at most one block.
    pub fn find(&mut self, key: Key) -> Result<Option<Entry>, TableError> {
        if !self.ledger.counts.mibs.contains_key(&mib_of(key.origin())) {
            return Ok(None);
        }
        let Some(block) = self.block_of(key) else { return Ok(None) };
        let per_block = self.file.rows_per_block();
        let source = self.source;
        let rows = self.block(block)?;
        let Ok(index) = rows.binary_search_by(|row| row.key.cmp(&key)) else { return Ok(None) };
        let row = rows[index];
        let number = block * per_block + u32::try_from(index).expect("small");
        Ok((!self.has_ended(number, &row)).then_some(Entry { row, place: Place { source, number } }))
    }

    pub fn end(&mut self, number: u32, row: &Row) {
        assert!(!self.ledger.ended.contains(number), "T3: {:?} has ended before", row.key);
        self.ledger.ended.set(number);
        self.ledger.counts.remove(row);
        self.version += 1;
        if let Some(keys) = &mut self.ended_in_merge {
            keys.push(row.key);
        }
    }

    /// Ends what [`Run::find`] finds. False when it is not here.
    pub fn end_key(&mut self, key: Key) -> Result<bool, TableError> {
        let found = self.find(key)?;
        if let Some(entry) = found {
            self.end(entry.place.number, &entry.row);
        }
        Ok(found.is_some())
    }

    /// As [`Run::end_key`]; where its block cannot be read, it ends when it can be.
    pub fn end_or_note(&mut self, key: Key) {
        if let Err(error) = self.end_key(key) {
            tracing::error!(%error, run = self.number, "the end of a timer cannot be noted yet");
            self.end_unread(key);
        }
    }

    fn end_unread(&mut self, key: Key) {
        self.ledger.unnoted.insert(key);
        self.version += 1;
        if let Some(keys) = &mut self.ended_in_merge {
            keys.push(key);
        }
    }

    pub fn drop_topic(&mut self, topic: TopicId) {
        if self.ledger.counts.drop_topic(topic) > 0 {
            self.ledger.dropped.insert(topic);
            self.version += 1;
        }
    }

    /// The cursor starts over.
    pub fn rewind(&mut self) {
        self.next = 0;
        self.ahead.clear();
    }

    /// Reads ahead until something pending from `from` on is known, or that there is nothing.
    pub fn prepare(&mut self, from: Key) {
        loop {
            while let Some((row, number)) = self.ahead.front().copied() {
                if row.key >= from && self.is_pending_now(number, &row) {
                    return;
                }
                self.ahead.pop_front();
            }
            let first = self.block_of(from).map_or(0, |block| block * self.file.rows_per_block());
            let Some(next) = self.ledger.ended.first_clear(self.next.max(first), self.count()) else {
                self.next = self.count();
                return;
            };
            self.read_ahead(next);
        }
    }

    /// The first pending timer that the cursor has not handed out; nothing is read. Err: it has to be read.
    pub fn peek(&self) -> Result<Option<Key>, NotRead> {
        let first = self.ahead.iter().find(|(row, number)| !self.has_ended(*number, row));
        match first {
            Some((row, _)) => Ok(Some(row.key)),
            None if self.next < self.count() => Err(NotRead),
            None => Ok(None),
        }
    }

    /// Nothing is known from here on. None: all is known.
    pub fn known_until(&self) -> Option<Key> {
        if self.next == self.count() { None } else { self.ahead.back().map(|(row, _)| row.key.next()) }
    }

    /// Hands out what was read and lies below `bound`.
    pub fn take_below(&mut self, bound: Key, out: &mut Vec<Entry>) {
        while let Some((row, number)) = self.ahead.front().copied().filter(|(row, _)| row.key < bound) {
            self.ahead.pop_front();
            if self.is_pending_now(number, &row) {
                out.push(Entry { row, place: Place { source: self.source, number } });
            }
        }
    }

    /// Rows `from..` that are pending, up to `max` looked at. Gives the row behind the last one that was.
    pub fn list(&self, from: u32, max: u32, out: &mut Vec<Entry>) -> Result<u32, TableError> {
        let to = from.saturating_add(max).min(self.count());
        let Some(first) = self.ledger.ended.first_clear(from, to) else { return Ok(to) };
        for (row, number) in self.file.read(first, to)?.into_iter().zip(first..) {
            if !self.has_ended(number, &row) {
                out.push(Entry { row, place: Place { source: self.source, number } });
            }
        }
        Ok(to)
    }

    /// Where to list from: a row at or before the first one that is not below `key`.
    pub fn row_before(&self, key: Key) -> u32 {
        self.block_of(key).map_or(0, |block| block * self.file.rows_per_block())
    }

    /// What has become readable again since it was passed, below `horizon`.
    pub fn retry(&mut self, horizon: Key, out: &mut Vec<Entry>) {
        let before = self.unreadable.len();
        for block in std::mem::take(&mut self.unreadable) {
            match self.read_block(block) {
                Ok(rows) => {
                    for (row, number) in rows.into_iter().zip(block * self.file.rows_per_block()..) {
                        if row.key < horizon && self.is_pending_now(number, &row) {
                            out.push(Entry { row, place: Place { source: self.source, number } });
                        }
                    }
                }
                Err(_) => {
                    self.unreadable.insert(block);
                }
            }
        }
        if self.unreadable.len() < before {
            // What of it lies beyond the horizon the cursor has passed as well.
            self.rewind();
        }
    }

    /// The block that holds the key, if any does.
    fn block_of(&self, key: Key) -> Option<u32> {
        let block = self.fences.partition_point(|fence| *fence <= key).checked_sub(1)?;
        Some(u32::try_from(block).expect("rows are numbered in 32 bits"))
    }

    fn block(&mut self, block: u32) -> Result<&[Row], TableError> {
        if self.recent.as_ref().is_none_or(|(recent, _)| *recent != block) {
            let read = self.read_block(block);
            self.is_damaged |= read.is_err();
            self.recent = Some((block, read?));
        }
        Ok(self.recent.as_ref().map(|(_, rows)| rows.as_slice()).expect("just read"))
    }

    fn read_block(&self, block: u32) -> Result<Vec<Row>, TableError> {
        let rows = self.file.rows_of(block);
        self.file.read(rows.start, rows.end)
    }

    /// The cursor is past the block of this key, and could not read it.
    pub fn pass(&mut self, key: Key) {
        self.unreadable.extend(self.block_of(key));
    }

    /// Its files were made anew.
    pub fn reopen(&mut self, file: RunFile) {
        self.file = file;
        self.recent = None;
        self.is_damaged = false;
    }

    fn read_ahead(&mut self, from: u32) {
        let per_block = self.file.rows_per_block();
        let block = from / per_block;
        let to = (block + BLOCKS_AHEAD).saturating_mul(per_block).min(self.count());
        self.next = to;
        match self.file.read(from, to) {
            Ok(rows) => self.keep(from, rows),
            Err(_) => (block..to.div_ceil(per_block)).for_each(|block| self.read_ahead_of(block, from)),
        }
    }

    fn read_ahead_of(&mut self, block: u32, from: u32) {
        let first = (block * self.file.rows_per_block()).max(from);
        match self.read_block(block) {
            Ok(rows) => {
                let skipped = (first - block * self.file.rows_per_block()) as usize;
                self.keep(first, rows.into_iter().skip(skipped).collect());
            }
            Err(error) => {
                self.is_damaged = true;
                if self.unreadable.insert(block) {
                    tracing::error!(%error, run = self.number, "timers cannot be read; they wait until they can");
                }
            }
        }
    }

    fn keep(&mut self, first: u32, rows: Vec<Row>) {
        for (row, number) in rows.into_iter().zip(first..) {
            if self.is_pending_now(number, &row) {
                self.ahead.push_back((row, number));
            }
        }
    }

    /// Whether it is pending; notes the end that could not be noted before.
    fn is_pending_now(&mut self, number: u32, row: &Row) -> bool {
        if self.ledger.ended.contains(number) {
            return false;
        }
        let was_unnoted = self.ledger.unnoted.remove(&row.key);
        let has_ended = was_unnoted || self.ledger.dropped.contains(&row.topic);
        if has_ended {
            self.end(number, row);
        }
        !has_ended
    }
}

/// The cursor has to read before it can say more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotRead;

/// What is known of a new run's rows: all of them are pending.
pub fn all_pending(rows: u32, counts: Counts, level: u32) -> Ledger {
    Ledger { rows, level, ended: Bits::clear(rows), counts, ..Ledger::default() }
}
