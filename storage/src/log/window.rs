//! A part of a segment in memory, moved along by whoever reads batches one after the other.

use std::io;
use std::ops::Range;

use base::limits::LOG_BLOCK_BYTES;
use base::{BatchIndex, LogPosition};

use super::batch::{ALIGNMENT, HEADER_BYTES, Header, MAGIC};
use super::recovery::{Found, OpenError};
use super::segment::{self, Segment};

/// Reads what the device holds, where that can be had. Gives whether it could.
pub(super) fn read_surely(segment: &Segment, at: LogPosition, bytes: &mut [u8]) -> io::Result<bool> {
    match segment.file.read_device(bytes, segment.offset(at)) {
        Some(result) => result.map(|()| true),
        None => segment.file.read_at(bytes, segment.offset(at)).map(|()| false),
    }
}

pub(super) const WINDOW_BYTES: usize = 1 << 20;

/// A part of a segment in memory, moved along by the scan.
pub(super) struct Window<'a> {
    segment: &'a Segment,
    start: LogPosition,
    bytes: Vec<u8>,
    pub(super) is_device_read: bool,
    /// As far as searches have come, there are only zeros from here on.
    pub(super) zeros_from: LogPosition,
}

impl<'a> Window<'a> {
    pub(super) fn new(segment: &'a Segment) -> Self {
        let start = segment.first();
        Self { segment, start, bytes: Vec::new(), is_device_read: true, zeros_from: start }
    }

    /// `length` bytes from `at` on; none when they would reach beyond the segment.
    fn slice(&mut self, at: LogPosition, length: usize) -> Result<Option<&[u8]>, OpenError> {
        if at.plus(length as u64) > self.segment.header.end() {
            return Ok(None);
        }
        let is_inside = at >= self.start && at.plus(length as u64) <= self.start.plus(self.bytes.len() as u64);
        if !is_inside {
            let rest = usize::try_from(self.segment.header.end().since(at)).unwrap_or(usize::MAX);
            self.bytes.resize(length.max(WINDOW_BYTES).min(rest), 0);
            self.start = at;
            let result = read_surely(self.segment, at, &mut self.bytes);
            self.is_device_read &= result.map_err(|source| OpenError::Io {
                operation: "reading",
                name: segment::name(self.segment.header.base),
                source,
            })?;
        }
        let from = usize::try_from(at.since(self.start)).expect("inside the window");
        Ok(Some(&self.bytes[from..from + length]))
    }

    /// The header of the batch at `at`, when the whole batch is there and sound.
    pub(super) fn batch(&mut self, at: LogPosition) -> Result<Option<Header>, OpenError> {
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

    pub(super) fn records(&mut self, at: LogPosition, header: &Header) -> Result<&[u8], OpenError> {
        let length = header.length as usize;
        let bytes = self.slice(at.plus(HEADER_BYTES as u64), length)?;
        Ok(bytes.expect("the batch was checked to lie inside its segment"))
    }

    /// What is in memory from `at` on, at least a batch header; the next part of the segment when that is too little.
    fn rest(&mut self, at: LogPosition) -> Result<Option<&[u8]>, OpenError> {
        let ends = self.start.plus(self.bytes.len() as u64);
        let length = match at >= self.start && at.plus(HEADER_BYTES as u64) <= ends {
            true => ends.since(at),
            false => self.segment.header.end().since(at).min(WINDOW_BYTES as u64),
        };
        self.slice(at, usize::try_from(length).expect("windows are small"))
    }

    /// The first sound batch at or after `from`.
    pub(super) fn search(&mut self, from: LogPosition) -> Result<Option<(LogPosition, Header)>, OpenError> {
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

/// What a walk through a segment that is no longer written found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walked {
    /// Behind the last sound batch.
    pub end: LogPosition,
    pub next_index: BatchIndex,
    /// What is damaged.
    pub holes: Vec<Range<LogPosition>>,
}

/// Gives every sound batch of a segment to `visit`, in order. `next_index`: the first one of the segment behind it.
pub fn walk(
    segment: &Segment,
    next_index: Option<BatchIndex>,
    visit: &mut dyn FnMut(Found<'_>),
) -> Result<Walked, OpenError> {
    let mut window = Window::new(segment);
    let mut walked = Walked { end: segment.first(), next_index: segment.header.base_index, holes: Vec::new() };
    let mut at = segment.first();
    loop {
        match window.batch(at)? {
            Some(header) if header.index >= walked.next_index => {
                // Zeros that a torn tail left are no hole: the numbers go on.
                if header.index > walked.next_index {
                    walked.holes.push(walked.end..at);
                }
                let records = window.records(at, &header)?;
                visit(Found { header, records });
                at = at.plus(header.total());
                walked.end = at;
                walked.next_index = BatchIndex(header.index.0 + 1);
            }
            _ if next_index == Some(walked.next_index) => return Ok(walked),
            _ => match window.search(at.plus(ALIGNMENT as u64))? {
                Some((later, _)) => at = later,
                None => {
                    if let Some(next) = next_index {
                        walked.holes.push(walked.end..segment.header.end());
                        walked.next_index = next;
                    }
                    return Ok(walked);
                }
            },
        }
    }
}
