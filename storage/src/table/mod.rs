//! Tables: the one file form for everything that is derived from the log. Layout: docs/formats.md, "Table".
//!
//! A table has sections: rows of one width, sorted by the bytes in front when they have a key, or bytes that rows refer to.
//! Everything lies in blocks of 4 KiB with a checksum each.
//!
//! T1. A table is written once, synced, and never changed.
//! T2. Nothing is taken from a block whose checksum was not compared after the block was read.

pub mod map;
mod read;
mod write;

use std::io;
use std::sync::Arc;

pub use read::{Section, Table};
pub use write::TableWriter;

use crate::disk::Disk;

pub const MAGIC: [u8; 8] = *b"CARTABLE";
pub const FORMAT_VERSION: u32 = 1;
pub const BLOCK: usize = 4096;
/// What of a block is content.
pub const PAYLOAD: usize = BLOCK - 4;
/// Sections of one table.
pub const SECTIONS_MAX: usize = 32;
/// Where the list of sections starts in the header.
const SECTIONS_AT: usize = 80;
const SECTION_BYTES: usize = 40;

/// What a table holds. The numbers stand on the disk and are never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Kind {
    /// What a sealed segment holds.
    Index = 1,
    Catalog = 2,
    Queues = 3,
    Progress = 4,
    Transactions = 5,
    Timers = 6,
    /// What is left of a sealed segment.
    Thin = 8,
    /// Which timers of a run have ended.
    Ledgers = 7,
}

impl Kind {
    pub fn parse(number: u32) -> Option<Self> {
        let all = [
            Self::Index,
            Self::Catalog,
            Self::Queues,
            Self::Progress,
            Self::Transactions,
            Self::Timers,
            Self::Ledgers,
            Self::Thin,
        ];
        all.into_iter().find(|kind| *kind as u32 == number)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Catalog => "catalog",
            Self::Queues => "queues",
            Self::Progress => "progress",
            Self::Transactions => "transactions",
            Self::Timers => "timers",
            Self::Thin => "thin",
            Self::Ledgers => "ledgers",
        }
    }
}

/// What tells a table apart from every other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub kind: Kind,
    /// The store's own id.
    pub store: [u8; 16],
    /// Made anew for each table.
    pub random: u64,
    /// What the table is about: the base of a segment, or a number.
    pub number: u64,
}

impl Identity {
    /// Seeds the checksum of a block, so that no other block can stand in its place.
    fn seed(&self, block: u64) -> u32 {
        let mut seed = crc32c::crc32c(&self.store);
        for number in [u64::from(self.kind as u32), self.random, self.number, block] {
            seed = crc32c::crc32c_append(seed, &number.to_le_bytes());
        }
        seed
    }
}

/// A table, or a part of it, cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TableError {
    #[error("table {name}: {operation} failed: {source}")]
    Io { name: Arc<str>, operation: &'static str, source: Arc<io::Error> },
    #[error("table {name}: block {block} has a wrong checksum")]
    Damaged { name: Arc<str>, block: u64 },
    #[error("table {name}: {what}")]
    Malformed { name: Arc<str>, what: &'static str },
    #[error("table {name} has format version {found}; this program reads version {FORMAT_VERSION}")]
    Version { name: Arc<str>, found: u32 },
    #[error("table {name} belongs to another store")]
    Foreign { name: Arc<str> },
}

impl TableError {
    /// Of the file.
    pub fn name(&self) -> &str {
        match self {
            Self::Io { name, .. }
            | Self::Damaged { name, .. }
            | Self::Malformed { name, .. }
            | Self::Version { name, .. }
            | Self::Foreign { name } => name,
        }
    }

    /// Whether the bytes are not what was written; the disk said that all is well.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } | Self::Malformed { .. } | Self::Foreign { .. } => true,
            Self::Io { source, .. } => matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof),
            Self::Version { .. } => false,
        }
    }
}

/// Makes a complete table durable under its final name: until then it has none that anybody looks for.
pub fn publish(disk: &dyn Disk, temporary: &str, name: &str) -> io::Result<()> {
    disk.rename(temporary, name)?;
    disk.sync_directory()
}

/// Tables that are being written start with this; a recovery removes them.
pub const TEMPORARY_PREFIX: &str = "writing-";

/// The name of a table while it is written.
pub fn temporary(name: &str) -> String {
    format!("{TEMPORARY_PREFIX}{name}")
}

#[cfg(test)]
mod table_tests;
