//! Checkpoints: what the log meant up to a position, as tables, so that a start reads little and old segments may go.
//! Layout: docs/formats.md, "Checkpoint".
//!
//! A manifest names the tables. They are fuzzy: each says up to where it covers its part of the log, the log is read again
//! from the start of the oldest segment that is not sealed, and every view skips what it holds already.
//!
//! K1. A manifest becomes visible, by a rename, when everything it names is durable and was read back.
//! K2. The two newest checkpoints are kept, and what either of them needs.
//! K3. Whatever a checkpoint covers was durable in the log before.
//! K4. Tables are data: each is written twice.

mod beginning;
mod files;
mod gather;
mod restore;
mod runs;

use std::ops::Range;

use base::{BatchIndex, LogPosition, Term, Timestamp};

pub(crate) use beginning::{Beginning, KnownCatalog};
pub use files::{ManifestFile, Pair, copy_name, data_name, manifest_name, parse_data_name, parse_manifest_name};
pub use gather::{CheckpointError, Gathering};
pub use restore::{RestoreError, Restored, newest, numbers, read_manifest, restore};
pub use runs::Merge;
pub(crate) use runs::open_file;

use crate::codec::{Decoder, Encode, Malformed};
use crate::hash::HashKey;
use crate::log::recovery::Start;
use crate::log::segment::Header;
use crate::table::Kind;

pub const MAGIC: [u8; 8] = *b"CARCHKPT";
pub const FORMAT_VERSION: u32 = 1;

/// The tables of one kind, oldest first: a base, and what changed since.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// Everything about it that lies below is in the tables.
    pub covers: LogPosition,
    pub tables: Vec<TableRef>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableRef {
    pub number: u64,
    pub bytes: u64,
}

/// What a checkpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub number: u64,
    /// The store's own id.
    pub store: [u8; 16],
    pub hash_key: HashKey,
    /// The log is read again from this segment on.
    pub replay_from: LogPosition,
    /// Everything below was durable when it was taken.
    pub durable: LogPosition,
    /// What the log had reached there, at the least.
    pub next_index: BatchIndex,
    pub term: Term,
    pub stored_at: Timestamp,
    pub taken_at: Timestamp,
    /// The number that the next table gets.
    pub next_table: u64,
    pub chains: Vec<(Kind, Chain)>,
    /// Segments that the store has, oldest first.
    pub segments: Vec<Header>,
    /// What was lost to damage.
    pub holes: Vec<Range<LogPosition>>,
}

impl Manifest {
    pub fn chain(&self, kind: Kind) -> Chain {
        self.chains.iter().find(|(of, _)| *of == kind).map(|(_, chain)| chain.clone()).unwrap_or_default()
    }

    /// Every table that it names.
    pub fn tables(&self) -> impl Iterator<Item = (Kind, TableRef)> + '_ {
        self.chains.iter().flat_map(|(kind, chain)| chain.tables.iter().map(|table| (*kind, *table)))
    }

    /// Where the log is read from.
    pub fn start(&self) -> Start {
        Start {
            from: self.replay_from,
            durable: self.durable,
            next_index: self.next_index,
            term: self.term,
            stored_at: self.stored_at,
            segments: self.segments.clone(),
        }
    }

    pub fn bytes(&self) -> u64 {
        self.tables().map(|(_, table)| table.bytes).sum()
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.u32(FORMAT_VERSION);
        // Incompatible features; none is defined yet.
        out.u32(0);
        out.extend_from_slice(&self.store);
        out.extend_from_slice(&self.hash_key.0);
        let numbers = [self.number, self.replay_from.0, self.durable.0, self.next_index.0, self.term.0];
        numbers.into_iter().for_each(|number| out.varint(number));
        [self.stored_at.0, self.taken_at.0, self.next_table].into_iter().for_each(|number| out.varint(number));
        out.varint(self.chains.len() as u64);
        for (kind, chain) in &self.chains {
            out.varint(u64::from(*kind as u32));
            out.varint(chain.covers.0);
            out.varint(chain.tables.len() as u64);
            for table in &chain.tables {
                out.varint(table.number);
                out.varint(table.bytes);
            }
        }
        out.varint(self.segments.len() as u64);
        for header in &self.segments {
            out.varint(header.compatible);
            out.varint(header.incompatible);
            out.varint(header.group);
            out.u64(header.random);
            let numbers = [header.base.0, header.base_index.0, header.base_term.0, header.size];
            numbers.into_iter().for_each(|number| out.varint(number));
        }
        out.varint(self.holes.len() as u64);
        for hole in &self.holes {
            out.varint(hole.start.0);
            out.varint(hole.end.0);
        }
        let crc = crc32c::crc32c(&out);
        out.u32(crc);
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let (content, crc) = bytes.split_last_chunk::<4>().ok_or(ManifestError::Damaged)?;
        if u32::from_le_bytes(*crc) != crc32c::crc32c(content) || !content.starts_with(&MAGIC) {
            return Err(ManifestError::Damaged);
        }
        let mut from = Decoder::new("checkpoint manifest", &content[MAGIC.len()..]);
        let found = from.u32()?;
        if found != FORMAT_VERSION {
            return Err(ManifestError::Version { found });
        }
        let unknown = from.u32()?;
        if unknown != 0 {
            return Err(ManifestError::Features { unknown });
        }
        let store = from.bytes16()?;
        let hash_key = HashKey(from.bytes16()?);
        let manifest = Self {
            store,
            hash_key,
            number: from.varint()?,
            replay_from: LogPosition(from.varint()?),
            durable: LogPosition(from.varint()?),
            next_index: BatchIndex(from.varint()?),
            term: Term(from.varint()?),
            stored_at: Timestamp(from.varint()?),
            taken_at: Timestamp(from.varint()?),
            next_table: from.varint()?,
            chains: decode_chains(&mut from)?,
            segments: decode_segments(&mut from, store)?,
            holes: decode_holes(&mut from)?,
        };
        from.end()?;
        Ok(manifest)
    }
}

fn decode_chains(from: &mut Decoder<'_>) -> Result<Vec<(Kind, Chain)>, Malformed> {
    let mut chains = Vec::new();
    for _ in 0..from.count()? {
        let kind = Kind::parse(from.number()?).ok_or(from.malformed())?;
        let covers = LogPosition(from.varint()?);
        let mut tables = Vec::new();
        for _ in 0..from.count()? {
            tables.push(TableRef { number: from.varint()?, bytes: from.varint()? });
        }
        chains.push((kind, Chain { covers, tables }));
    }
    Ok(chains)
}

fn decode_segments(from: &mut Decoder<'_>, cluster: [u8; 16]) -> Result<Vec<Header>, Malformed> {
    let mut segments = Vec::new();
    for _ in 0..from.count()? {
        segments.push(Header {
            compatible: from.varint()?,
            incompatible: from.varint()?,
            cluster,
            group: from.varint()?,
            random: from.u64()?,
            base: LogPosition(from.varint()?),
            base_index: BatchIndex(from.varint()?),
            base_term: Term(from.varint()?),
            size: from.varint()?,
        });
    }
    Ok(segments)
}

fn decode_holes(from: &mut Decoder<'_>) -> Result<Vec<Range<LogPosition>>, Malformed> {
    let mut holes = Vec::new();
    for _ in 0..from.count()? {
        let start = LogPosition(from.varint()?);
        holes.push(start..LogPosition(from.varint()?));
    }
    Ok(holes)
}

/// A manifest cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("its checksum is wrong")]
    Damaged,
    #[error("format version {found}; this program reads version {FORMAT_VERSION}")]
    Version { found: u32 },
    #[error("features {unknown:#x} that this program does not know")]
    Features { unknown: u32 },
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("it names runs of timers without their ledgers")]
    Runs,
}

#[cfg(test)]
mod checkpoint_tests;
#[cfg(test)]
pub(crate) mod old_store;
