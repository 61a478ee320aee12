//! A table that maps keys to values, and chains of them: a base and what changed since, newest last.
//!
//! Values lie in a section of bytes, in the order of their keys, so that a chain is read and merged front to back.
//!
//! M1. Of equal keys the newest table's value holds; a removed key hides the older ones.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::{Identity, Section, Table, TableError, TableWriter};
use crate::disk::Disk;

const VALUES: u32 = 1;
const ROWS: u32 = 2;
/// Behind the key: where the value starts, and its length.
const PLACE_BYTES: usize = 12;
/// The length that says that the key was removed.
const REMOVED: u32 = u32::MAX;
const ROWS_AT_ONCE: u64 = 4096;
/// Bytes of values that are read at once.
const WINDOW: u64 = 256 << 10;

/// Writes such a table. Keys come in ascending order.
pub struct MapWriter {
    table: TableWriter,
    key: usize,
    rows: Vec<u8>,
    newest: Vec<u8>,
}

impl MapWriter {
    pub fn create(disk: &dyn Disk, name: &str, identity: Identity, key: usize) -> io::Result<Self> {
        let mut table = TableWriter::create(disk, name, identity)?;
        table.bytes(VALUES)?;
        Ok(Self { table, key, rows: Vec::new(), newest: Vec::new() })
    }

    /// None: the key is removed.
    pub fn put(&mut self, key: &[u8], value: Option<&[u8]>) -> io::Result<()> {
        assert_eq!(key.len(), self.key, "keys of a table have one length");
        assert!(self.newest.is_empty() || *self.newest < *key, "keys ascend");
        self.newest.clear();
        self.newest.extend_from_slice(key);
        let at = self.table.append(value.unwrap_or_default())?;
        let length = value.map_or(REMOVED, |value| u32::try_from(value.len()).expect("values are bounded"));
        self.rows.extend_from_slice(key);
        self.rows.extend_from_slice(&at.to_le_bytes());
        self.rows.extend_from_slice(&length.to_le_bytes());
        Ok(())
    }

    pub fn finish(mut self) -> io::Result<u64> {
        let width = self.key + PLACE_BYTES;
        self.table.rows(ROWS, width, self.key)?;
        for row in self.rows.chunks_exact(width) {
            self.table.row(row)?;
        }
        self.table.finish()
    }
}

/// A key, and its value unless it was removed.
pub type Pair = (Vec<u8>, Option<Vec<u8>>);

/// Goes through one table in the order of its keys.
struct Cursor {
    table: Arc<Table>,
    values: Section,
    rows: Section,
    next_row: u64,
    ahead: VecDeque<Pair>,
}

impl Cursor {
    fn new(table: Arc<Table>) -> Result<Self, TableError> {
        let (values, rows) = (table.section(VALUES)?, table.section(ROWS)?);
        if values.width != 0 || rows.width != rows.key + PLACE_BYTES || rows.key == 0 {
            return Err(table.malformed("it maps no keys to values"));
        }
        Ok(Self { table, values, rows, next_row: 0, ahead: VecDeque::new() })
    }

    fn peek(&mut self) -> Result<Option<&[u8]>, TableError> {
        if self.ahead.is_empty() && self.next_row < self.rows.count {
            self.fill()?;
        }
        Ok(self.ahead.front().map(|(key, _)| key.as_slice()))
    }

    fn take(&mut self) -> Pair {
        self.ahead.pop_front().expect("was peeked at")
    }

    fn fill(&mut self) -> Result<(), TableError> {
        let mut places: Vec<(Vec<u8>, u64, u32)> = Vec::new();
        let mut bytes = 0;
        let key_bytes = self.rows.key;
        self.table.rows(&self.rows, self.next_row, self.next_row + ROWS_AT_ONCE, &mut |row| {
            let (key, place) = row.split_at(key_bytes);
            let at = u64::from_le_bytes(place[..8].try_into().expect("eight bytes"));
            let length = u32::from_le_bytes(place[8..].try_into().expect("four bytes"));
            bytes += if length == REMOVED { 0 } else { u64::from(length) };
            places.push((key.to_vec(), at, length));
            bytes < WINDOW
        })?;
        self.next_row += places.len() as u64;
        let start = places.first().map_or(0, |(_, at, _)| *at);
        let values = self.table.slice(&self.values, start, bytes)?;
        for (key, at, length) in places {
            let value = match length {
                REMOVED => None,
                length => {
                    let from = at.checked_sub(start).and_then(|from| usize::try_from(from).ok());
                    let range = from.map(|from| from..from + length as usize);
                    let value = range.and_then(|range| values.get(range));
                    Some(value.ok_or_else(|| self.table.malformed("a value lies outside"))?.to_vec())
                }
            };
            self.ahead.push_back((key, value));
        }
        Ok(())
    }
}

/// Goes through a chain, oldest table first in `tables`; every key once, removed ones included.
pub struct Chain {
    cursors: Vec<Cursor>,
}

impl Chain {
    pub fn new(tables: &[Arc<Table>]) -> Result<Self, TableError> {
        Ok(Self { cursors: tables.iter().cloned().map(Cursor::new).collect::<Result<_, _>>()? })
    }

    pub fn next_pair(&mut self) -> Result<Option<Pair>, TableError> {
        let mut smallest: Option<Vec<u8>> = None;
        for cursor in &mut self.cursors {
            if let Some(key) = cursor.peek()?
                && smallest.as_ref().is_none_or(|smallest| key < smallest.as_slice())
            {
                smallest = Some(key.to_vec());
            }
        }
        let Some(smallest) = smallest else { return Ok(None) };
        let mut found = None;
        for cursor in &mut self.cursors {
            if cursor.peek()? == Some(smallest.as_slice()) {
                // M1: a later cursor is a newer table.
                found = Some(cursor.take());
            }
        }
        Ok(found)
    }
}
