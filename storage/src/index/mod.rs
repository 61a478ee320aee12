//! Index files: what a sealed segment holds, found without reading it. Layout: docs/formats.md, "Index file".
//!
//! A cache: each is a function of its segment alone, so that a lost or damaged one is made anew.
//!
//! I1. An index file is made only of a segment that is never written again.

mod build;
mod sealed;

use std::ops::Range;

use base::{BatchIndex, LogPosition, QueueIndex, QueueOffset, Timestamp, TopicId};

pub(crate) use build::names;
pub use build::{BuildError, Site, build};
pub use sealed::{Members, Sealed};

use crate::codec::{Decoder, Encode, Malformed};
use crate::disk::Disk;
use crate::log::segment::Segment;
use crate::table::{Section, Table, TableError};
use crate::view::queue::{ENTRY_BYTES, Entry, QueueId};

/// Rows by queue: where its entries start.
const DIRECTORY: u32 = 1;
/// Entries, by queue and offset.
const ENTRIES: u32 = 2;
/// Hashes of what records are found by, and where in the segment they lie.
const KEYS: u32 = 3;
/// Hashes of message groups, and which entry it is.
const GROUPS: u32 = 4;
/// What each topic has in the segment.
const TOPICS: u32 = 5;
/// Which bodies of older segments became visible in this one.
const REFERENCES: u32 = 6;
const SUMMARY: u32 = 7;

const DIRECTORY_BYTES: usize = 24;
const DIRECTORY_KEY: usize = 6;
const LOOKUP_BYTES: usize = 12;
const LOOKUP_KEY: usize = 8;
const TOPIC_BYTES: usize = 28;
const TOPIC_KEY: usize = 4;
const REFERENCE_BYTES: usize = 24;
const REFERENCE_KEY: usize = 12;

/// Bodies of older segments are told apart by stretches of this many bytes.
pub const STRETCH_BYTES: u64 = 32 << 10;

/// The file name of the index of the segment that starts at `base`.
pub fn name(base: LogPosition) -> String {
    format!("{:020}.index", base.0)
}

/// The base in an index file's name.
pub fn parse_name(name: &str) -> Option<LogPosition> {
    let digits = name.strip_suffix(".index")?;
    (digits.len() == 20).then(|| digits.parse().ok().map(LogPosition))?
}

/// A stretch of one queue's entries, in one index file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    pub first: QueueOffset,
    pub count: u64,
    pub first_row: u64,
}

impl Stretch {
    pub fn end(&self) -> QueueOffset {
        QueueOffset(self.first.0 + self.count)
    }
}

/// What one topic has in a segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TopicShare {
    pub messages: u64,
    /// Bytes of its bodies' records.
    pub bytes: u64,
    /// When the newest of its messages here became visible; zero when none did.
    pub newest: Timestamp,
}

/// What a segment is as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub base: LogPosition,
    pub size: u64,
    /// Behind the last sound batch.
    pub end: LogPosition,
    pub next_index: BatchIndex,
    pub oldest: Timestamp,
    pub newest: Timestamp,
    pub batches: u64,
    pub records: u64,
    /// What is damaged.
    pub holes: Vec<Range<LogPosition>>,
}

impl Summary {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for number in [self.base.0, self.size, self.end.0, self.next_index.0, self.oldest.0, self.newest.0] {
            out.varint(number);
        }
        out.varint(self.batches);
        out.varint(self.records);
        out.varint(self.holes.len() as u64);
        for hole in &self.holes {
            out.varint(hole.start.0);
            out.varint(hole.end.0);
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Decoder::new("summary of a segment", bytes);
        let mut summary = Self {
            base: LogPosition(from.varint()?),
            size: from.varint()?,
            end: LogPosition(from.varint()?),
            next_index: BatchIndex(from.varint()?),
            oldest: Timestamp(from.varint()?),
            newest: Timestamp(from.varint()?),
            batches: from.varint()?,
            records: from.varint()?,
            holes: Vec::new(),
        };
        for _ in 0..from.count()? {
            let start = LogPosition(from.varint()?);
            summary.holes.push(start..LogPosition(from.varint()?));
        }
        from.end()?;
        Ok(summary)
    }
}

/// An open index file.
#[derive(Debug)]
pub struct SegmentIndex {
    table: Table,
    directory: Section,
    entries: Section,
    keys: Section,
    groups: Section,
    topics: Vec<(TopicId, TopicShare)>,
    summary: Summary,
}

impl SegmentIndex {
    pub fn open(disk: &dyn Disk, base: LogPosition, store: [u8; 16]) -> Result<Self, TableError> {
        let table = Table::open(disk, &name(base), store)?;
        if table.identity().number != base.0 {
            return Err(table.malformed("it is the index of another segment"));
        }
        let section = table.section(SUMMARY)?;
        let summary = table.slice(&section, 0, section.count)?;
        let summary = Summary::decode(&summary).map_err(|_| table.malformed("its summary is malformed"))?;
        let mut topics = Vec::new();
        table.rows(&table.section(TOPICS)?, 0, u64::MAX, &mut |row| {
            let number = |at: usize| u64::from_le_bytes(row[at..at + 8].try_into().expect("eight bytes"));
            let topic = TopicId(u32::from_be_bytes(row[..4].try_into().expect("four bytes")));
            let newest = Timestamp(number(20));
            topics.push((topic, TopicShare { messages: number(4), bytes: number(12), newest }));
            true
        })?;
        let [directory, entries, keys, groups] = [DIRECTORY, ENTRIES, KEYS, GROUPS].map(|id| table.section(id));
        let (directory, entries, keys, groups) = (directory?, entries?, keys?, groups?);
        let is_formed = directory.width == DIRECTORY_BYTES
            && directory.key == DIRECTORY_KEY
            && entries.width == ENTRY_BYTES
            && [keys, groups].iter().all(|section| section.width == LOOKUP_BYTES && section.key == LOOKUP_KEY);
        if !is_formed {
            return Err(table.malformed("its sections have other widths"));
        }
        Ok(Self { directory, entries, keys, groups, topics, summary, table })
    }

    pub fn base(&self) -> LogPosition {
        self.summary.base
    }

    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    pub fn bytes(&self) -> u64 {
        self.table.bytes()
    }

    /// Topics that have something here, by id.
    pub fn topics(&self) -> &[(TopicId, TopicShare)] {
        &self.topics
    }

    pub fn share(&self, topic: TopicId) -> Option<TopicShare> {
        let at = self.topics.binary_search_by_key(&topic, |(topic, _)| *topic).ok()?;
        Some(self.topics[at].1)
    }

    pub fn has(&self, topic: TopicId) -> bool {
        self.topics.binary_search_by_key(&topic, |(topic, _)| *topic).is_ok()
    }

    pub fn verify(&self) -> Result<(), TableError> {
        self.table.verify()
    }

    /// As [`Table::verify_from`].
    pub fn verify_from(&self, block: u64, count: u64) -> Result<(Option<u64>, u64), TableError> {
        self.table.verify_from(block, count)
    }

    /// Gives every entry to `visit` that may have its body in `range`, with its queue and offset.
    pub fn each_pointing_into(
        &self,
        range: &Range<LogPosition>,
        visit: &mut dyn FnMut(QueueId, u64, &Entry),
    ) -> Result<(), TableError> {
        let segment = self.summary.base..self.summary.base.plus(self.summary.size);
        let mut is_any = range.start < segment.end && range.end > segment.start;
        self.references(range, &mut |_, _, _| is_any = true)?;
        if !is_any {
            return Ok(());
        }
        let mut queues = Vec::new();
        self.queues(&mut |id, stretch| queues.push((id, stretch)))?;
        for (id, stretch) in queues {
            let mut offset = stretch.first.0;
            self.table.rows(&self.entries, stretch.first_row, stretch.first_row + stretch.count, &mut |row| {
                visit(id, offset, &Entry::decode(row.try_into().expect("the section's width")));
                offset += 1;
                true
            })?;
        }
        Ok(())
    }

    /// Where a queue's entries are.
    pub fn stretch(&self, id: QueueId) -> Result<Option<Stretch>, TableError> {
        if !self.has(id.topic) {
            return Ok(None);
        }
        Ok(self.table.find(&self.directory, &directory_key(id))?.map(|(_, row)| parse_directory(&row).1))
    }

    /// Every queue that has entries here.
    pub fn queues(&self, visit: &mut dyn FnMut(QueueId, Stretch)) -> Result<(), TableError> {
        self.table.rows(&self.directory, 0, u64::MAX, &mut |row| {
            let (id, stretch) = parse_directory(row);
            visit(id, stretch);
            true
        })
    }

    /// Entries of a stretch, from its `skip`th on.
    fn entries(&self, stretch: Stretch, skip: u64, max: u64, out: &mut Vec<Entry>) -> Result<(), TableError> {
        let from = stretch.first_row + skip;
        let to = (from + max).min(stretch.first_row + stretch.count);
        self.table.rows(&self.entries, from, to, &mut |row| {
            out.push(Entry::decode(row.try_into().expect("the section's width")));
            true
        })
    }

    /// Where records lie that are found by this hash, in order.
    pub(crate) fn named(&self, hash: u64) -> Result<Vec<LogPosition>, TableError> {
        let key = hash.to_be_bytes();
        let mut found = Vec::new();
        let mut from = self.table.lower_bound(&self.keys, &key)?;
        let mut is_more = true;
        // Equal hashes are few; one block holds them mostly.
        while is_more && from < self.keys.count {
            let to = from + 64;
            is_more = false;
            self.table.rows(&self.keys, from, to, &mut |row| {
                is_more = row[..LOOKUP_KEY] == key;
                if is_more {
                    found.push(self.summary.base.plus(target(row).into()));
                }
                is_more
            })?;
            from = to;
        }
        Ok(found)
    }

    /// Entries of a message group in a stretch of its queue, from the `skip`th on, in order. `hash`: of the group in its
    /// topic. What is behind `max` of them is not read.
    fn members(&self, stretch: Stretch, skip: u64, hash: u64, max: usize) -> Result<Vec<(u64, Entry)>, TableError> {
        let (wanted, end) = (stretch.first_row + skip, stretch.first_row + stretch.count);
        // Rows of one hash are in the order of what they point at.
        let first = self.table.lower_bound(&self.groups, &hash.to_be_bytes())?;
        let behind = match hash.checked_add(1) {
            Some(next) => self.table.lower_bound(&self.groups, &next.to_be_bytes())?,
            None => self.groups.count,
        };
        let (mut low, mut high) = (first, behind);
        while low < high {
            let middle = low + (high - low) / 2;
            let is_before = u64::from(target(&self.table.row(&self.groups, middle)?)) < wanted;
            if is_before { low = middle + 1 } else { high = middle }
        }
        let mut rows = Vec::new();
        self.table.rows(&self.groups, low, behind.min(low.saturating_add(max as u64)), &mut |row| {
            rows.push(u64::from(target(row)));
            true
        })?;
        rows.retain(|row| *row < end);
        let mut found = Vec::with_capacity(rows.len());
        // Neighbours are read together.
        for near in rows.chunk_by(|a, b| b - a < self.entries.rows_per_block()) {
            let (from, last) = (near[0], near[near.len() - 1]);
            let (mut row, mut wanted) = (from, near.iter().peekable());
            self.table.rows(&self.entries, from, last + 1, &mut |bytes| {
                if wanted.next_if_eq(&&row).is_some() {
                    let entry = Entry::decode(bytes.try_into().expect("the section's width"));
                    found.push((stretch.first.0 + (row - stretch.first_row), entry));
                }
                row += 1;
                true
            })?;
        }
        Ok(found)
    }

    /// Calls `visit` with each stretch of the older positions `range` of which bodies became visible here, in which topic, and
    /// when the newest did.
    fn references(
        &self,
        range: &Range<LogPosition>,
        visit: &mut dyn FnMut(u64, TopicId, Timestamp),
    ) -> Result<(), TableError> {
        let section = self.table.section(REFERENCES)?;
        let mut key = [0; REFERENCE_KEY];
        key[..8].copy_from_slice(&(range.start.0 / STRETCH_BYTES).to_be_bytes());
        let first = self.table.lower_bound(&section, &key)?;
        self.table.rows(&section, first, u64::MAX, &mut |row| {
            let stretch = u64::from_be_bytes(row[..8].try_into().expect("eight bytes"));
            let topic = TopicId(u32::from_be_bytes(row[8..12].try_into().expect("four bytes")));
            let newest = Timestamp(u64::from_le_bytes(row[12..20].try_into().expect("eight bytes")));
            let is_inside = stretch * STRETCH_BYTES < range.end.0;
            if is_inside {
                visit(stretch, topic, newest);
            }
            is_inside
        })
    }
}

/// Whether this is the index of that segment, as far as the segment says itself.
pub fn fits(index: &SegmentIndex, segment: &Segment) -> bool {
    index.base() == segment.header.base && index.summary.size == segment.header.size
}

/// What a row of a look-up section points at.
fn target(row: &[u8]) -> u32 {
    u32::from_le_bytes(row[LOOKUP_KEY..].try_into().expect("four bytes"))
}

fn directory_key(id: QueueId) -> [u8; DIRECTORY_KEY] {
    let mut key = [0; DIRECTORY_KEY];
    key[..4].copy_from_slice(&id.topic.0.to_be_bytes());
    key[4..].copy_from_slice(&id.queue.0.to_be_bytes());
    key
}

fn parse_directory(row: &[u8]) -> (QueueId, Stretch) {
    let topic = TopicId(u32::from_be_bytes(row[..4].try_into().expect("four bytes")));
    let queue = QueueIndex(u16::from_be_bytes(row[4..6].try_into().expect("two bytes")));
    let u32_at = |at: usize| u32::from_le_bytes(row[at..at + 4].try_into().expect("four bytes"));
    let first = QueueOffset(u64::from_le_bytes(row[8..16].try_into().expect("eight bytes")));
    (QueueId { topic, queue }, Stretch { first, count: u32_at(16).into(), first_row: u32_at(20).into() })
}

#[cfg(test)]
mod index_tests;
