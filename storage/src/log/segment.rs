//! One file of the log, named by the position of its first byte. Layout: docs/formats.md, "Segment".

use std::io;
use std::sync::Arc;

use base::limits::LOG_BLOCK_BYTES;
use base::{BatchIndex, LogPosition, Term};

use super::thin::Thin;
use crate::disk::{Disk, File};

pub const MAGIC: [u8; 8] = *b"CARILLON";
pub const FORMAT_VERSION: u32 = 1;
/// The header is stored twice in the first block, so that one damaged sector does not take the segment with it.
const COPY_AT: usize = 2048;
const HEADER_BYTES: usize = 128;
pub(super) const HEADER_BLOCK_BYTES: usize = LOG_BLOCK_BYTES as usize;

/// What is known of a segment from its first block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Features an older version may ignore.
    pub compatible: u64,
    /// Features a version has to know to read the segment at all.
    pub incompatible: u64,
    pub cluster: [u8; 16],
    pub group: u64,
    /// Made anew for each segment.
    pub random: u64,
    pub base: LogPosition,
    pub base_index: BatchIndex,
    pub base_term: Term,
    /// Bytes of the file; the next segment's base is this one's plus these.
    pub size: u64,
}

/// Features that this version reads.
pub const INCOMPATIBLE_KNOWN: u64 = 0;

/// Why a first block is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("neither copy of the segment header has a valid checksum")]
    Damaged,
    #[error("format version {found}; this program reads version {FORMAT_VERSION}")]
    Version { found: u32 },
    #[error("features {unknown:#x} that this program does not know")]
    Features { unknown: u64 },
}

impl Header {
    pub fn encode(&self) -> Vec<u8> {
        let mut copy = Vec::with_capacity(HEADER_BYTES);
        copy.extend_from_slice(&MAGIC);
        copy.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        copy.extend_from_slice(&[0; 4]);
        copy.extend_from_slice(&self.compatible.to_le_bytes());
        copy.extend_from_slice(&self.incompatible.to_le_bytes());
        copy.extend_from_slice(&self.cluster);
        for number in [self.group, self.random, self.base.0, self.base_index.0, self.base_term.0, self.size] {
            copy.extend_from_slice(&number.to_le_bytes());
        }
        copy.resize(HEADER_BYTES - 4, 0);
        copy.extend_from_slice(&crc32c::crc32c(&copy).to_le_bytes());
        let mut block = vec![0; usize::try_from(LOG_BLOCK_BYTES).expect("a block is small")];
        block[..HEADER_BYTES].copy_from_slice(&copy);
        block[COPY_AT..COPY_AT + HEADER_BYTES].copy_from_slice(&copy);
        block
    }

    pub fn decode(block: &[u8]) -> Result<Self, HeaderError> {
        Self::decode_copy(&block[..HEADER_BYTES])
            .or_else(|first| Self::decode_copy(&block[COPY_AT..COPY_AT + HEADER_BYTES]).map_err(|_| first))
    }

    fn decode_copy(copy: &[u8]) -> Result<Self, HeaderError> {
        let u32_at = |at: usize| u32::from_le_bytes(copy[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(copy[at..at + 8].try_into().expect("eight bytes"));
        if copy[..8] != MAGIC || u32_at(HEADER_BYTES - 4) != crc32c::crc32c(&copy[..HEADER_BYTES - 4]) {
            return Err(HeaderError::Damaged);
        }
        if u32_at(8) != FORMAT_VERSION {
            return Err(HeaderError::Version { found: u32_at(8) });
        }
        let incompatible = u64_at(24);
        if incompatible & !INCOMPATIBLE_KNOWN != 0 {
            return Err(HeaderError::Features { unknown: incompatible & !INCOMPATIBLE_KNOWN });
        }
        Ok(Self {
            compatible: u64_at(16),
            incompatible,
            cluster: copy[32..48].try_into().expect("sixteen bytes"),
            group: u64_at(48),
            random: u64_at(56),
            base: LogPosition(u64_at(64)),
            base_index: BatchIndex(u64_at(72)),
            base_term: Term(u64_at(80)),
            size: u64_at(88),
        })
    }

    /// Seeds the checksums of this segment's batch headers.
    pub fn seed(&self) -> u32 {
        let mut seed = crc32c::crc32c(&self.cluster);
        for number in [self.group, self.random, self.base.0] {
            seed = crc32c::crc32c_append(seed, &number.to_le_bytes());
        }
        seed
    }

    pub fn end(&self) -> LogPosition {
        self.base.plus(self.size)
    }
}

/// Whether both copies of a header block are what they were.
pub(super) fn are_copies_sound(block: &[u8]) -> bool {
    [0, COPY_AT].into_iter().all(|at| Header::decode_copy(&block[at..at + HEADER_BYTES]).is_ok())
}

/// An open segment.
pub struct Segment {
    pub header: Header,
    pub seed: u32,
    pub file: Arc<dyn File>,
    /// Of what is left, when not all of it is: then `file` has records only, and no batches.
    pub thin: Option<Arc<Thin>>,
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segment").field("header", &self.header).finish_non_exhaustive()
    }
}

impl Segment {
    /// Bytes that it takes on the disk.
    pub fn bytes(&self) -> u64 {
        self.thin.as_ref().map_or(self.header.size, |thin| thin.bytes())
    }

    /// The first position that a batch may have.
    pub fn first(&self) -> LogPosition {
        self.header.base.plus(LOG_BLOCK_BYTES)
    }

    pub fn contains(&self, position: LogPosition) -> bool {
        position >= self.first() && position < self.header.end()
    }

    pub fn offset(&self, position: LogPosition) -> u64 {
        position.since(self.header.base)
    }
}

/// The file name of the segment that starts at `base`.
pub fn name(base: LogPosition) -> String {
    format!("{:020}.log", base.0)
}

/// The base in a segment's file name.
pub fn parse_name(name: &str) -> Option<LogPosition> {
    let digits = name.strip_suffix(".log")?;
    (digits.len() == 20).then(|| digits.parse().ok().map(LogPosition))?
}

/// Prefix of files that are prepared to become segments.
pub const PREPARED_PREFIX: &str = "prepared-";

/// A zero-filled file that only lacks its header.
pub struct Prepared {
    pub name: String,
    pub file: Arc<dyn File>,
    pub size: u64,
}

/// Makes a prepared file a segment. Durable, header, name and all, when it returns.
pub fn install(disk: &dyn Disk, prepared: Prepared, header: Header) -> io::Result<Segment> {
    assert_eq!(prepared.size, header.size, "a prepared file has the size it was prepared for");
    prepared.file.write_at(&header.encode(), 0)?;
    prepared.file.sync_all()?;
    disk.rename(&prepared.name, &name(header.base))?;
    disk.sync_directory()?;
    Ok(Segment { header, seed: header.seed(), file: prepared.file, thin: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            compatible: 0,
            incompatible: 0,
            cluster: [3; 16],
            group: 1,
            random: 99,
            base: LogPosition(1 << 28),
            base_index: BatchIndex(5),
            base_term: Term(2),
            size: 1 << 28,
        }
    }

    #[test]
    fn either_copy_of_a_header_is_enough_and_damage_to_both_is_found() {
        let mut block = header().encode();
        assert_eq!(Header::decode(&block), Ok(header()));
        block[20] ^= 1;
        assert_eq!(Header::decode(&block), Ok(header()));
        block[COPY_AT + 20] ^= 1;
        assert_eq!(Header::decode(&block), Err(HeaderError::Damaged));
    }

    #[test]
    fn unknown_features_are_refused() {
        let block = Header { incompatible: 4, ..header() }.encode();
        assert_eq!(Header::decode(&block), Err(HeaderError::Features { unknown: 4 }));
    }

    #[test]
    fn names_sort_as_positions_do() {
        assert_eq!(parse_name(&name(LogPosition(7))), Some(LogPosition(7)));
        assert_eq!(parse_name("7.log"), None);
        assert!(name(LogPosition(9)) < name(LogPosition(10)));
    }
}
