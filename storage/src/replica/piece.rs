//! What travels between replicas: whole blocks of one segment, byte for byte as they lie in the log.
//!
//! C1. A piece begins with a batch and consists of whole blocks; where its last batch ends inside a block, zeros follow.
//! C2. Nothing in a piece is believed before its checksums were seen.

use base::limits::LOG_BLOCK_BYTES;
use base::{BatchIndex, LogPosition};
use bytes::Bytes;

use super::AppendError;
use super::vote::BatchId;
use crate::log::batch::{HEADER_BYTES, Header};
use crate::log::segment;

const BLOCK: usize = LOG_BLOCK_BYTES as usize;

#[derive(Debug, Clone)]
pub struct Piece {
    /// Of the segment that it lies in: whoever stores the piece stores it under the same header, or no checksum would hold.
    pub segment: segment::Header,
    pub start: LogPosition,
    pub bytes: Bytes,
}

/// The bytes at this position are no batch of that segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes at {position} are no batch of their segment, or not a whole one")]
pub struct NoBatch {
    pub position: LogPosition,
}

/// One batch of a piece.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    pub header: Header,
    pub records: &'a [u8],
}

impl Batch<'_> {
    pub fn id(&self) -> BatchId {
        BatchId { term: self.header.term, index: self.header.index }
    }

    pub fn end(&self) -> LogPosition {
        self.header.position.plus(self.header.total())
    }

    pub(super) fn last(&self) -> (BatchId, LogPosition) {
        (self.id(), self.end())
    }

    /// Whether the one after this may be that.
    pub(super) fn check_next(&self, next: BatchId) -> Result<(), AppendError> {
        let BatchId { term: last, index } = self.id();
        let expected = BatchIndex(index.0 + 1);
        if next.index != expected {
            return Err(AppendError::OutOfTurn { expected, found: next.index });
        }
        if next.term < last {
            return Err(AppendError::TermRetreats { index: next.index, last, found: next.term });
        }
        Ok(())
    }

    /// Other batches may be taken back, or sent, from here on without touching a block of the one before.
    pub fn is_at_block(&self) -> bool {
        self.header.position.0.is_multiple_of(LOG_BLOCK_BYTES)
    }
}

impl Piece {
    pub fn end(&self) -> LogPosition {
        self.start.plus(self.bytes.len() as u64)
    }

    pub fn batches(&self) -> Batches<'_> {
        Batches { bytes: &self.bytes, start: self.start, seed: self.segment.seed(), at: 0 }
    }
}

/// The batches in some bytes of a log, until they end or something else comes.
pub struct Batches<'a> {
    bytes: &'a [u8],
    start: LogPosition,
    seed: u32,
    at: usize,
}

impl<'a> Batches<'a> {
    pub(super) fn new(bytes: &'a [u8], start: LogPosition, seed: u32) -> Self {
        Self { bytes, start, seed, at: 0 }
    }

    /// The bytes from where the next batch is looked for are whole blocks of nothing but what was given.
    fn skip_gap(&mut self) {
        let block = self.at.next_multiple_of(BLOCK).min(self.bytes.len());
        if self.bytes[self.at..block].iter().all(|byte| *byte == 0) {
            self.at = block;
        }
    }

    fn batch(&self) -> Option<Batch<'a>> {
        let rest = &self.bytes[self.at..];
        let header = Header::decode(rest.first_chunk::<HEADER_BYTES>()?, self.seed)?;
        if header.position != self.start.plus(self.at as u64) || header.total() > rest.len() as u64 {
            return None;
        }
        let records = &rest[HEADER_BYTES..HEADER_BYTES + header.length as usize];
        (crc32c::crc32c(records) == header.records_crc).then_some(Batch { header, records })
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<Batch<'a>, NoBatch>;

    /// After an error it gives the same error again.
    fn next(&mut self) -> Option<Self::Item> {
        // A torn tail that was cut off left zeros up to the next block.
        self.skip_gap();
        if self.at == self.bytes.len() {
            return None;
        }
        let Some(batch) = self.batch() else {
            return Some(Err(NoBatch { position: self.start.plus(self.at as u64) }));
        };
        self.at += usize::try_from(batch.header.total()).expect("it lies inside the bytes");
        Some(Ok(batch))
    }
}

/// Where syncs have to lie between batches: each says in its header up to where everything was durable when it was written,
/// and a recovery takes it at its word. So it may only be written, and only be left, when that is true here as well.
#[derive(Debug, Default)]
pub(super) struct Steps(Vec<LogPosition>);

impl Steps {
    pub fn add(&mut self, batch: &Batch<'_>) {
        let is_first = self.0.is_empty();
        let claims = self.0.last().is_some_and(|start| batch.header.durable() > *start);
        if is_first || (claims && batch.is_at_block()) {
            self.0.push(batch.header.position);
        }
    }

    /// The steps, the last of which reaches to `end`.
    pub fn until(self, end: LogPosition) -> Vec<std::ops::Range<LogPosition>> {
        let ends = self.0.iter().skip(1).copied().chain([end]);
        self.0.iter().copied().zip(ends).map(|(start, end)| start..end).collect()
    }
}

/// Some places of batches that begin a block, so that any other is found near one of them.
#[derive(Debug, Default)]
pub(super) struct Landmarks(Vec<(BatchIndex, LogPosition)>);

/// About how far apart landmarks are.
pub(super) const LANDMARK_BYTES: u64 = 64 << 10;

impl Landmarks {
    /// A batch that begins a block. The first of a segment is always kept: a search does not look beyond a segment's end.
    pub fn add(&mut self, index: BatchIndex, position: LogPosition, is_first_of_segment: bool) {
        let is_far = self.0.last().is_none_or(|(_, last)| position.since(*last) >= LANDMARK_BYTES);
        if is_far || is_first_of_segment {
            self.0.push((index, position));
        }
    }

    pub fn truncate(&mut self, from: LogPosition) {
        let kept = self.0.partition_point(|(_, position)| *position < from);
        self.0.truncate(kept);
    }

    /// The last one at or before `index`; the first one, when none is.
    pub fn before_index(&self, index: BatchIndex) -> Option<LogPosition> {
        self.before(|(at, _)| *at <= index)
    }

    pub fn before_position(&self, position: LogPosition) -> Option<LogPosition> {
        self.before(|(_, at)| *at <= position)
    }

    fn before(&self, is_before: impl Fn(&(BatchIndex, LogPosition)) -> bool) -> Option<LogPosition> {
        let after = self.0.partition_point(is_before);
        self.0.get(after.saturating_sub(1)).map(|(_, position)| *position)
    }
}
