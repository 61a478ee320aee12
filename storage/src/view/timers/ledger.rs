//! What is known of a run's rows: which have ended, and how many of the others there are. Part of a checkpoint.
//!
//! Written whole whenever it changed: a run has at most 16 M rows, so that is at most 2 MB.

use std::io;

use base::TopicId;
use hashbrown::HashSet;

use super::bits::Bits;
use super::counts::Counts;
use super::row::Key;
use crate::table::{Table, TableError, TableWriter};

const SUMMARY: u32 = 1;
const ENDED: u32 = 2;
const TOPICS: u32 = 3;
const MIBS: u32 = 4;
const DROPPED: u32 = 5;
const UNNOTED: u32 = 6;
const HEADER: u32 = 7;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    pub rows: u32,
    /// How often its rows were merged.
    pub level: u32,
    pub ended: Bits,
    pub counts: Counts,
    /// Their rows have ended, whatever their bits say.
    pub dropped: HashSet<TopicId>,
    /// Have ended while their block could not be read: nobody knows their bits.
    pub unnoted: HashSet<Key>,
    /// What the first block of the run holds: without it nothing in the run can be told from damage.
    pub header: Vec<u8>,
}

impl Ledger {
    /// Adds its sections to a table.
    pub fn write(&self, table: &mut TableWriter) -> io::Result<()> {
        table.bytes(SUMMARY)?;
        table.append(&self.rows.to_le_bytes())?;
        table.append(&self.level.to_le_bytes())?;
        table.append(&self.counts.total.to_le_bytes())?;
        table.bytes(ENDED)?;
        table.append(&self.ended.to_bytes())?;
        table.rows(TOPICS, 12, 4)?;
        let mut topics: Vec<_> = self.counts.topics.iter().collect();
        topics.sort_unstable();
        for (topic, count) in topics {
            let mut row = topic.0.to_be_bytes().to_vec();
            row.extend_from_slice(&count.to_le_bytes());
            table.row(&row)?;
        }
        table.rows(MIBS, 8, 4)?;
        for (mib, count) in &self.counts.mibs {
            let mut row = mib.to_be_bytes().to_vec();
            row.extend_from_slice(&count.to_le_bytes());
            table.row(&row)?;
        }
        table.rows(DROPPED, 4, 4)?;
        let mut dropped: Vec<_> = self.dropped.iter().collect();
        dropped.sort_unstable();
        dropped.into_iter().try_for_each(|topic| table.row(&topic.0.to_be_bytes()))?;
        table.rows(UNNOTED, Key::BYTES, Key::BYTES)?;
        let mut unnoted: Vec<_> = self.unnoted.iter().collect();
        unnoted.sort_unstable();
        unnoted.into_iter().try_for_each(|key| table.row(&key.to_bytes()))?;
        table.bytes(HEADER)?;
        table.append(&self.header).map(drop)
    }

    pub fn read(table: &Table) -> Result<Self, TableError> {
        let bytes_of = |id| {
            let section = table.section(id)?;
            table.slice(&section, 0, section.count)
        };
        let summary = bytes_of(SUMMARY)?;
        if summary.len() != 16 {
            return Err(table.malformed("its summary has another length"));
        }
        let mut ledger = Self {
            rows: le_u32(&summary[..4]),
            level: le_u32(&summary[4..8]),
            ended: Bits::from_bytes(&bytes_of(ENDED)?),
            ..Self::default()
        };
        ledger.counts.total = le_u64(&summary[8..]);
        let Counts { topics, mibs, .. } = &mut ledger.counts;
        topics.extend(rows(table, TOPICS, 12)?.iter().map(|row| (TopicId(be_u32(&row[..4])), le_u64(&row[4..]))));
        mibs.extend(rows(table, MIBS, 8)?.iter().map(|row| (be_u32(&row[..4]), le_u32(&row[4..]))));
        ledger.dropped.extend(rows(table, DROPPED, 4)?.iter().map(|row| TopicId(be_u32(row))));
        ledger.unnoted.extend(rows(table, UNNOTED, Key::BYTES)?.iter().map(|row| Key::from_bytes(row)));
        // Those of older programs do not say it.
        if table.section(HEADER).is_ok() {
            ledger.header = bytes_of(HEADER)?;
        }
        if ledger.counts.topics.values().sum::<u64>() != ledger.counts.total {
            return Err(table.malformed("its counts contradict each other"));
        }
        Ok(ledger)
    }
}

fn rows(table: &Table, id: u32, width: usize) -> Result<Vec<Vec<u8>>, TableError> {
    let section = table.section(id)?;
    if section.width != width {
        return Err(table.malformed("its rows have another width"));
    }
    let mut rows = Vec::new();
    table.rows(&section, 0, section.count, &mut |row| {
        rows.push(row.to_vec());
        true
    })?;
    Ok(rows)
}

fn be_u32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("four bytes"))
}

fn le_u32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("four bytes"))
}

fn le_u64(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}
