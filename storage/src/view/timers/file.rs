//! The file of a run: its rows, and their keys once more.

use std::ops::Range;
use std::sync::Arc;

use super::row::{Key, Row};
use crate::table::{Section, Table, TableError, TableWriter};

const ROWS: u32 = 1;
const KEYS: u32 = 2;

/// The rows of a run, in a table and, if there is one, in its copy.
#[derive(Debug, Clone)]
pub struct RunFile {
    table: Arc<Table>,
    copy: Option<Arc<Table>>,
    section: Section,
    /// None: it was written by an older program.
    keys: Option<Section>,
}

impl RunFile {
    /// Begins the section that holds the rows.
    pub fn begin(table: &mut TableWriter) -> std::io::Result<()> {
        table.rows(ROWS, Row::BYTES, Key::BYTES)
    }

    /// Begins the section that holds their keys once more, by number. A row that is damaged is known by its key, and by
    /// that the log has the rest of it.
    pub fn begin_keys(table: &mut TableWriter) -> std::io::Result<()> {
        table.rows(KEYS, Key::BYTES, 0)
    }

    /// Reads fall back to the copy where the table cannot be read.
    pub fn open(table: Arc<Table>, copy: Option<Arc<Table>>) -> Result<Self, TableError> {
        let section = table.section(ROWS)?;
        if section.width != Row::BYTES || section.key != Key::BYTES || u32::try_from(section.count).is_err() {
            return Err(table.malformed("it holds no timers"));
        }
        let copy = copy.filter(|copy| copy.header() == table.header());
        let is_whole = |keys: &Section| keys.width == Key::BYTES && keys.count == section.count;
        let keys = table.section(KEYS).ok().filter(is_whole);
        Ok(Self { table, copy, section, keys })
    }

    /// Its first block, which has the secret of all others.
    pub fn header(&self) -> &[u8] {
        self.table.header()
    }

    pub fn count(&self) -> u32 {
        u32::try_from(self.section.count).expect("checked when it was opened")
    }

    pub fn bytes(&self) -> u64 {
        self.table.bytes()
    }

    pub fn rows_per_block(&self) -> u32 {
        u32::try_from(self.section.rows_per_block()).expect("small")
    }

    pub fn malformed(&self, what: &'static str) -> TableError {
        self.table.malformed(what)
    }

    pub fn read(&self, from: u32, to: u32) -> Result<Vec<Row>, TableError> {
        self.try_both(|table| {
            let mut rows = Vec::new();
            table.rows(&self.section, from.into(), to.into(), &mut |row| {
                rows.push(Row::from_bytes(row));
                true
            })?;
            Ok(rows)
        })
    }

    pub fn blocks(&self) -> u32 {
        self.count().div_ceil(self.rows_per_block())
    }

    /// The rows of a block.
    pub fn rows_of(&self, block: u32) -> Range<u32> {
        let per_block = self.rows_per_block();
        block * per_block..(block + 1).saturating_mul(per_block).min(self.count())
    }

    /// The keys of rows, where they stand by themselves.
    pub fn read_keys(&self, rows: &Range<u32>) -> Result<Vec<Key>, TableError> {
        let keys = self.keys.ok_or_else(|| self.malformed("its keys stand nowhere else"))?;
        self.try_both(|table| {
            let mut found = Vec::new();
            table.rows(&keys, rows.start.into(), rows.end.into(), &mut |key| {
                found.push(Key::from_bytes(key));
                true
            })?;
            Ok(found)
        })
    }

    /// The first key of each block.
    pub fn fences(&self) -> Result<Vec<Key>, TableError> {
        match self.try_both(|table| table.fences(&self.section)) {
            Ok(bytes) => Ok(bytes.chunks_exact(Key::BYTES).map(Key::from_bytes).collect()),
            Err(error) if error.is_damage() => (0..self.blocks()).map(|block| self.first_key(block)).collect(),
            Err(error) => Err(error),
        }
    }

    fn first_key(&self, block: u32) -> Result<Key, TableError> {
        let first = self.rows_of(block).start;
        let row = || Ok(self.read(first, first + 1)?[0].key);
        self.read_keys(&(first..first + 1)).map(|keys| keys[0]).or_else(|_| row())
    }

    fn try_both<T>(&self, read: impl Fn(&Table) -> Result<T, TableError>) -> Result<T, TableError> {
        match (read(&self.table), &self.copy) {
            (Err(error), Some(copy)) => {
                tracing::warn!(%error, "a run of timers is read from its copy");
                read(copy).map_err(|_| error)
            }
            (result, _) => result,
        }
    }
}
