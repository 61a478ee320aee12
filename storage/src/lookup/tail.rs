//! What is in no index file yet: hashes of the newest segments, kept in memory for look-ups.
//!
//! Nothing is done for it while messages are stored: a look-up reads what was applied since the last one, and forgets what
//! was sealed since. The writer never waits for it. A mutex, because look-ups come from several read threads; who holds it
//! reads the log.
//!
//! H1. Each row is of a record below `applied`, in a segment that has no index.
//! H2. There are at most `rows_max` rows, of 12 B each. What does not fit is read anew by every look-up: slow, not wrong.

use std::sync::Arc;

use base::LogPosition;
use hashbrown::HashSet;
use parking_lot::Mutex;

use super::{Gaps, LookUps};
use crate::index::{self, SegmentIndex};
use crate::log::recovery::{Found, OpenError};
use crate::log::sealed::{self, Reading};
use crate::log::segment::Segment;
use crate::record;

#[derive(Debug)]
pub(super) struct Tail {
    /// By base.
    segments: Mutex<Vec<Newer>>,
    rows_max: usize,
}

/// One segment without an index.
#[derive(Debug)]
struct Newer {
    base: LogPosition,
    /// How far its rows go.
    reading: Reading,
    /// In chunks, so that growth copies little.
    rows: Vec<Vec<Row>>,
    /// There is nothing more to come.
    is_over: bool,
}

const CHUNK: usize = 1 << 16;

impl Newer {
    fn len(&self) -> usize {
        self.rows.iter().map(Vec::len).sum()
    }

    fn add(&mut self, mut more: Vec<Row>) {
        match self.rows.last_mut() {
            Some(last) if last.len() + more.len() <= CHUNK => last.append(&mut more),
            _ => self.rows.push(more),
        }
    }
}

/// A hash, and where in the segment the record lies.
type Row = [u32; 3];

fn row(hash: u64, offset: u32) -> Row {
    [(hash >> 32) as u32, (hash & 0xFFFF_FFFF) as u32, offset]
}

fn hash_of(row: &Row) -> u64 {
    u64::from(row[0]) << 32 | u64::from(row[1])
}

/// The index files that there are, oldest first.
type Indexes = Arc<Vec<Arc<SegmentIndex>>>;

impl Tail {
    pub fn new(rows_max: usize) -> Self {
        Self { segments: Mutex::default(), rows_max }
    }

    /// Where records lie that are found by one of these hashes and are in no index file, in order, and the index files that
    /// have all others: taken at one moment, so that nothing is in both or in neither.
    pub fn rows(
        &self,
        of: &LookUps,
        hashes: &[u64],
        applied: LogPosition,
        gaps: &mut Gaps,
    ) -> (Indexes, Vec<LogPosition>) {
        let mut known = self.segments.lock();
        // In this order: a segment that is sealed in between has an index, or is looked through all the same.
        let all = of.segments.load_full();
        let indexes = of.sealed.indexes().clone();
        let has_index = |base: LogPosition| indexes.binary_search_by_key(&base, |index| index.base()).is_ok();
        let newer = |base: LogPosition| base < applied && !has_index(base);
        known.retain(|held| newer(held.base) && all.iter().any(|segment| segment.header.base == held.base));
        let mut found = Vec::new();
        for (at, segment) in all.iter().enumerate().filter(|(_, segment)| newer(segment.header.base)) {
            let base = segment.header.base;
            let place = known.binary_search_by_key(&base, |held| held.base).unwrap_or_else(|place| {
                let reading = Reading::new(segment);
                known.insert(place, Newer { base, reading, rows: Vec::new(), is_over: false });
                place
            });
            let room = self.rows_max - known.iter().map(Newer::len).sum::<usize>();
            let walk = Walk { of, segment, next_index: sealed::next_index(&all, at), applied };
            let mut beyond = Vec::new();
            if walk.catch_up(&mut known[place], room, hashes, &mut beyond).is_err() {
                gaps.segments.push(base);
            }
            let rows = known[place].rows.iter().flatten().filter(|row| hashes.contains(&hash_of(row)));
            found.extend(rows.map(|row| base.plus(row[2].into())));
            found.append(&mut beyond);
        }
        let mut seen = HashSet::new();
        found.retain(|position| seen.insert(*position));
        (indexes, found)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.segments.lock().iter().map(Newer::len).sum()
    }
}

/// The reading of one segment.
struct Walk<'a> {
    of: &'a LookUps,
    segment: &'a Segment,
    next_index: Option<base::BatchIndex>,
    applied: LogPosition,
}

impl Walk<'_> {
    /// Adds rows of what was applied since. What finds no room is only looked through, for `beyond`.
    fn catch_up(
        &self,
        held: &mut Newer,
        room: usize,
        hashes: &[u64],
        beyond: &mut Vec<LogPosition>,
    ) -> Result<(), OpenError> {
        let mut room = room;
        while held.reading.at() < self.applied && !held.is_over && room > 0 {
            // A step is taken whole or not at all: the reading and its rows stay together.
            let (mut reading, mut rows) = (held.reading.clone(), Vec::new());
            let is_end = self.step(&mut reading, &mut |hash, offset| rows.push(row(hash, offset)))?;
            let Some(left) = room.checked_sub(rows.len()) else { break };
            room = left;
            held.add(rows);
            held.reading = reading;
            if is_end {
                // The newest segment goes on, whatever it looks like now.
                held.is_over = self.next_index.is_some();
                return Ok(());
            }
        }
        let mut reading = held.reading.clone();
        while reading.at() < self.applied && !held.is_over {
            let is_end = self.step(&mut reading, &mut |hash, offset| {
                if hashes.contains(&hash) {
                    beyond.push(held.base.plus(offset.into()));
                }
            })?;
            if is_end {
                break;
            }
        }
        Ok(())
    }

    /// Reads on for a while. Gives whether it found the end of what is there.
    fn step(&self, reading: &mut Reading, name: &mut dyn FnMut(u64, u32)) -> Result<bool, OpenError> {
        let bytes = self.applied.since(reading.at()).min(STEP_BYTES);
        let base = self.segment.header.base;
        let is_end = reading.go_on(self.segment, self.next_index, bytes, &mut |found: Found<'_>| {
            // A recovery, or the writer, has read this batch before, and would have refused it.
            let _is_read = record::each(&found, &mut |position, framed| {
                let offset = u32::try_from(position.since(base)).expect("segments are below 4 GiB");
                index::names(&self.of.hash_key, framed, &mut |hash| name(hash, offset));
            });
        })?;
        // Behind a hole it may have come to what is being written.
        reading.go_back_to(self.applied);
        Ok(is_end)
    }
}

/// Read at a time: what is beyond the bound is given up in steps of this.
const STEP_BYTES: u64 = 4 << 20;
