//! A segment read batch by batch: what is sound, and where the next sound batch is. Writes nothing.

use std::io;

use base::limits::LOG_BLOCK_BYTES;
use base::{BatchIndex, LogPosition};

use super::batch::{ALIGNMENT, HEADER_BYTES, Header, MAGIC};
use super::recovery::Found;
use super::segment::Segment;

/// Reads what the device holds, where that can be had. Gives whether it could.
pub(super) fn read_surely(segment: &Segment, at: LogPosition, bytes: &mut [u8]) -> io::Result<bool> {
    match segment.file.read_device(bytes, segment.offset(at)) {
        Some(result) => result.map(|()| true),
        None => segment.file.read_at(bytes, segment.offset(at)).map(|()| false),
    }
}

pub(super) const WINDOW_BYTES: usize = 1 << 20;

/// Why a batch is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("there is no batch header")]
    NoHeader,
    #[error("there are zeros")]
    Zeros,
    #[error("the checksum of the batch header is wrong")]
    HeaderChecksum,
    #[error("the batch belongs to position {position}")]
    Misplaced { position: LogPosition },
    #[error("the batch has {length} bytes of records, more than fit in the segment")]
    TooLong { length: u32 },
    #[error("the checksum of the records of batch {index} is wrong")]
    Records { index: BatchIndex },
    #[error("the segment is missing, or both copies of its header are damaged")]
    NoSegment,
}

/// A part of a segment in memory, moved along by who reads it.
pub(super) struct Window<'a> {
    segment: &'a Segment,
    start: LogPosition,
    bytes: Vec<u8>,
    /// All that was read so far came from the device.
    pub is_device_read: bool,
    /// As far as searches have come, there are only zeros from here on.
    pub zeros_from: LogPosition,
}

impl<'a> Window<'a> {
    pub fn new(segment: &'a Segment) -> Self {
        let start = segment.first();
        Self { segment, start, bytes: Vec::new(), is_device_read: true, zeros_from: start }
    }

    /// `length` bytes from `at` on; none when they would reach beyond the segment.
    fn slice(&mut self, at: LogPosition, length: usize) -> io::Result<Option<&[u8]>> {
        if at.plus(length as u64) > self.segment.header.end() {
            return Ok(None);
        }
        let is_inside = at >= self.start && at.plus(length as u64) <= self.start.plus(self.bytes.len() as u64);
        if !is_inside {
            let rest = usize::try_from(self.segment.header.end().since(at)).unwrap_or(usize::MAX);
            self.bytes.resize(length.max(WINDOW_BYTES).min(rest), 0);
            self.start = at;
            self.is_device_read &= read_surely(self.segment, at, &mut self.bytes)?;
        }
        let from = usize::try_from(at.since(self.start)).expect("inside the window");
        Ok(Some(&self.bytes[from..from + length]))
    }

    /// The header of the batch at `at`, when the whole batch is there and sound.
    pub fn batch(&mut self, at: LogPosition) -> io::Result<Option<Header>> {
        let seed = self.segment.seed;
        let Some(bytes) = self.slice(at, HEADER_BYTES)? else { return Ok(None) };
        let bytes: &[u8; HEADER_BYTES] = bytes.try_into().expect("as long as asked for");
        let Some(header) = Header::decode(bytes, seed).filter(|header| header.position == at) else { return Ok(None) };
        let Ok(total) = usize::try_from(header.total()) else { return Ok(None) };
        let length = header.length as usize;
        let Some(bytes) = self.slice(at, total)? else { return Ok(None) };
        let records = &bytes[HEADER_BYTES..HEADER_BYTES + length];
        Ok((crc32c::crc32c(records) == header.records_crc).then_some(header))
    }

    pub fn records(&mut self, at: LogPosition, header: &Header) -> io::Result<&[u8]> {
        let length = header.length as usize;
        let bytes = self.slice(at.plus(HEADER_BYTES as u64), length)?;
        Ok(bytes.expect("the batch was checked to lie inside its segment"))
    }

    /// Why there is no sound batch at `at`, with the records when only those are wrong.
    pub fn flaw(&mut self, at: LogPosition) -> io::Result<(Flaw, Option<Found<'_>>)> {
        let (seed, end) = (self.segment.seed, self.segment.header.end());
        let Some(bytes) = self.slice(at, HEADER_BYTES)? else { return Ok((Flaw::NoHeader, None)) };
        let bytes: &[u8; HEADER_BYTES] = bytes.try_into().expect("as long as asked for");
        let header = match Header::decode(bytes, seed) {
            Some(header) if header.position == at => header,
            Some(header) => return Ok((Flaw::Misplaced { position: header.position }, None)),
            None if bytes.iter().all(|byte| *byte == 0) => return Ok((Flaw::Zeros, None)),
            None if bytes[..4] == MAGIC.to_le_bytes() => return Ok((Flaw::HeaderChecksum, None)),
            None => return Ok((Flaw::NoHeader, None)),
        };
        if at.plus(header.total()) > end {
            return Ok((Flaw::TooLong { length: header.length }, None));
        }
        let records = self.records(at, &header)?;
        Ok((Flaw::Records { index: header.index }, Some(Found { header, records })))
    }

    /// What is in memory from `at` on, at least a batch header; the next part of the segment when that is too little.
    fn rest(&mut self, at: LogPosition) -> io::Result<Option<&[u8]>> {
        let ends = self.start.plus(self.bytes.len() as u64);
        let length = match at >= self.start && at.plus(HEADER_BYTES as u64) <= ends {
            true => ends.since(at),
            false => self.segment.header.end().since(at).min(WINDOW_BYTES as u64),
        };
        self.slice(at, usize::try_from(length).expect("windows are small"))
    }

    /// The first sound batch at or after `from`.
    pub fn search(&mut self, from: LogPosition) -> io::Result<Option<(LogPosition, Header)>> {
        let magic = MAGIC.to_le_bytes();
        let mut at = LogPosition(from.0.next_multiple_of(ALIGNMENT as u64));
        let end = self.segment.header.end();
        while at.plus(HEADER_BYTES as u64) <= end {
            let Some(bytes) = self.rest(at)? else { break };
            let length = bytes.len() / ALIGNMENT * ALIGNMENT;
            // Most of what is searched was never written.
            let zeros = bytes.rchunks(ZEROS.len()).take_while(|block| **block == ZEROS[..block.len()]);
            let used = bytes.len() - zeros.map(<[u8]>::len).sum::<usize>();
            let hit = bytes[..used].chunks_exact(ALIGNMENT).position(|chunk| chunk[..4] == magic);
            if used > 0 {
                self.zeros_from = at.plus(used as u64);
            }
            let Some(hit) = hit else {
                at = at.plus(length as u64);
                continue;
            };
            at = at.plus((hit * ALIGNMENT) as u64);
            if let Some(header) = self.batch(at)? {
                return Ok(Some((at, header)));
            }
            at = at.plus(ALIGNMENT as u64);
        }
        Ok(None)
    }
}

const ZEROS: [u8; LOG_BLOCK_BYTES as usize] = [0; LOG_BLOCK_BYTES as usize];
