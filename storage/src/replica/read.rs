//! Reading a replica's log: pieces for other replicas, and the place of a batch.

use std::ops::Range;
use std::sync::Arc;

use base::limits::LOG_BLOCK_BYTES;
use base::{BatchIndex, LogPosition};
use bytes::Bytes;

use super::piece::{Batch, Batches, LANDMARK_BYTES, Piece, Steps};
use super::{BatchId, ReplicaPort};
use crate::log::batch::Header;
use crate::log::segment::Segment;
use crate::record::Pointer;

/// Where a read begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Index(BatchIndex),
    /// The first batch at or behind it.
    Position(LogPosition),
}

impl Start {
    fn is_reached(self, batch: &Batch<'_>) -> bool {
        match self {
            Self::Index(index) => batch.header.index >= index,
            Self::Position(position) => batch.header.position >= position,
        }
    }
}

/// Why batches that should be there could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// P6. This node vouched for them.
    #[error("the log is damaged at {position}")]
    Damaged { position: LogPosition },
    #[error("reading {length} bytes at {position} failed: {source}")]
    Io { position: LogPosition, length: usize, source: std::io::Error },
}

/// A batch's place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub header: Header,
    /// The start of the last batch at or before it that begins a block.
    pub run: LogPosition,
}

impl Place {
    pub fn id(&self) -> BatchId {
        BatchId { term: self.header.term, index: self.header.index }
    }

    pub fn end(&self) -> LogPosition {
        self.header.position.plus(self.header.total())
    }
}

impl ReplicaPort {
    /// Raw batches: about `bytes_max`, at least the one asked for, never beyond its segment. They begin with the one asked
    /// for, or with an earlier one that shares its block; with the first of the log when that is later. None at the end.
    pub fn read(&self, from: Start, bytes_max: usize) -> Result<Option<Piece>, ReadError> {
        // What is purged may be there, or in part, or not at all.
        let first_kept = self.purged().map(|purged| BatchIndex(purged.index.0 + 1));
        let from = match (from, first_kept) {
            (Start::Index(index), Some(first)) => Start::Index(index.max(first)),
            (from, _) => from,
        };
        let Some(place) = self.find(from)? else { return Ok(None) };
        self.load(place.run, bytes_max).map(Some)
    }

    /// The first batch that is at `from` or behind; none at the end.
    pub(super) fn find(&self, from: Start) -> Result<Option<Place>, ReadError> {
        let Some(last) = self.last else { return Ok(None) };
        let (near, is_there) = match from {
            Start::Index(index) => (self.landmarks.before_index(index), index <= last.id.index),
            Start::Position(position) => (self.landmarks.before_position(position), position < last.end),
        };
        let Some(mut start) = near.filter(|_| is_there) else { return Ok(None) };
        loop {
            let piece = self.load(start, LANDMARK_BYTES as usize)?;
            let (mut run, mut next) = (start, BatchIndex(0));
            for batch in piece.batches() {
                let batch = batch.map_err(|bad| ReadError::Damaged { position: bad.position })?;
                if batch.is_at_block() {
                    run = batch.header.position;
                }
                if from.is_reached(&batch) {
                    return Ok(Some(Place { header: batch.header, run }));
                }
                next = BatchIndex(batch.header.index.0 + 1);
            }
            if next > last.id.index {
                // Only a position can lie inside the last batch.
                return Ok(None);
            }
            start = self.after(piece.end(), next);
        }
    }

    /// Where the batch with this index is, when the one before ends at `end`: there, or first in the next segment.
    fn after(&self, end: LogPosition, next: BatchIndex) -> LogPosition {
        let all = self.log.segments().load_full();
        let following = all.iter().find(|segment| segment.header.base >= end && segment.header.base_index == next);
        following.map_or(end, |segment| segment.first())
    }

    /// Whole blocks from `start` on, where a batch begins one: about `bytes_max`, at least one batch.
    fn load(&self, start: LogPosition, bytes_max: usize) -> Result<Piece, ReadError> {
        let damaged = ReadError::Damaged { position: start };
        let Some(segment) = self.segment(start) else { return Err(damaged) };
        let block = LOG_BLOCK_BYTES as usize;
        let rest = segment.header.end().min(self.log.positions().appended).since(start);
        let rest = usize::try_from(rest).unwrap_or(usize::MAX);
        let mut length = bytes_max.next_multiple_of(block).clamp(block, rest.max(block));
        loop {
            let bytes = self.bytes(&segment, start, length.min(rest))?;
            let whole = whole_blocks(&bytes, start, segment.seed);
            if whole > 0 {
                return Ok(Piece { segment: segment.header, start, bytes: bytes.slice(..whole) });
            }
            if length >= rest {
                return Err(damaged);
            }
            length = length.saturating_mul(2);
        }
    }

    fn bytes(&self, segment: &Segment, position: LogPosition, length: usize) -> Result<Bytes, ReadError> {
        let pointer = Pointer { position, length: u32::try_from(length).unwrap_or(u32::MAX) };
        if let Some(bytes) = self.cache.get(pointer).filter(|bytes| bytes.len() == length) {
            return Ok(bytes);
        }
        let mut bytes = vec![0; length];
        let read = segment.file.read_at(&mut bytes, segment.offset(position));
        read.map_err(|source| ReadError::Io { position, length, source })?;
        Ok(bytes.into())
    }

    fn segment(&self, position: LogPosition) -> Option<Arc<Segment>> {
        self.log.segments().load().iter().find(|segment| segment.contains(position)).cloned()
    }

    pub(super) fn is_in_one_segment(&self, one: LogPosition, other: LogPosition) -> bool {
        self.segment(one).is_some_and(|segment| segment.contains(other))
    }

    /// Where syncs lie between the batches from `start` to the end of its segment.
    pub(super) fn steps(&self, start: LogPosition) -> Result<Vec<Range<LogPosition>>, ReadError> {
        let segment = self.segment(start).ok_or(ReadError::Damaged { position: start })?;
        let end = segment.header.end().min(self.log.positions().appended);
        let bytes = self.bytes(&segment, start, usize::try_from(end.since(start)).unwrap_or(usize::MAX))?;
        let mut steps = Steps::default();
        // Behind the last batch of an older segment there are zeros.
        for batch in Batches::new(&bytes, start, segment.seed).map_while(Result::ok) {
            steps.add(&batch);
        }
        Ok(steps.until(end))
    }
}

/// How many of the bytes are whole blocks of whole batches.
fn whole_blocks(bytes: &[u8], start: LogPosition, seed: u32) -> usize {
    let mut whole = start;
    for batch in Batches::new(bytes, start, seed) {
        match batch {
            Ok(batch) if batch.is_at_block() => whole = batch.header.position,
            Ok(_) => {}
            Err(bad) if bad.position.0.is_multiple_of(LOG_BLOCK_BYTES) => return to_length(bad.position, start),
            Err(_) => return to_length(whole, start),
        }
    }
    bytes.len()
}

fn to_length(end: LogPosition, start: LogPosition) -> usize {
    usize::try_from(end.since(start)).expect("inside some bytes")
}
