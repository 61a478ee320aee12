//! One record of the log, found by where it lies alone, and proved by the checksum of its batch.

use std::io;
use std::sync::Arc;

use base::LogPosition;
use base::limits::LOG_BATCH_BYTES_MAX;

use super::batch::{ALIGNMENT, HEADER_BYTES, Header, MAGIC};
use super::segment::Segment;
use super::{ReadError, segment_of};

/// Bytes that are searched at once for the header of a batch.
const PIECE: u64 = 4 << 10;

/// The bytes of a record, and perhaps of those behind it. None: it is gone, or nothing proves it.
pub fn record_at(segments: &[Arc<Segment>], position: LogPosition) -> Result<Option<Vec<u8>>, ReadError> {
    let Some(segment) = segment_of(segments, position) else { return Ok(None) };
    let read = match &segment.thin {
        Some(thin) => thin.record_at(position),
        None => in_batch(segment, position),
    };
    read.map_err(|cause| ReadError::Io { position, length: 0, cause: Arc::new(cause) })
}

/// Looks backwards for the batch that a position lies in.
fn in_batch(segment: &Segment, position: LogPosition) -> io::Result<Option<Vec<u8>>> {
    let lowest = segment.first().max(LogPosition(position.0.saturating_sub(LOG_BATCH_BYTES_MAX as u64)));
    let mut end = LogPosition(position.0 / ALIGNMENT as u64 * ALIGNMENT as u64);
    while end > lowest {
        let start = lowest.max(LogPosition(end.0.saturating_sub(PIECE)));
        let mut bytes = vec![0; usize::try_from(end.since(start)).expect("a piece is small")];
        segment.file.read_at(&mut bytes, segment.offset(start))?;
        for (number, found) in bytes.chunks_exact(ALIGNMENT).enumerate().rev() {
            let at = start.plus((number * ALIGNMENT) as u64);
            if found[..MAGIC.to_le_bytes().len()] == MAGIC.to_le_bytes()
                && let Some(header) = header_at(segment, at)?
            {
                return records(segment, &header, position);
            }
        }
        end = start;
    }
    Ok(None)
}

fn header_at(segment: &Segment, at: LogPosition) -> io::Result<Option<Header>> {
    if at.plus(HEADER_BYTES as u64) > segment.header.end() {
        return Ok(None);
    }
    let mut bytes = [0; HEADER_BYTES];
    segment.file.read_at(&mut bytes, segment.offset(at))?;
    Ok(Header::decode(&bytes, segment.seed).filter(|header| header.position == at))
}

/// What of a batch begins at `position`.
fn records(segment: &Segment, header: &Header, position: LogPosition) -> io::Result<Option<Vec<u8>>> {
    let first = header.position.plus(HEADER_BYTES as u64);
    let end = first.plus(header.length.into());
    if !(first..end).contains(&position) || end > segment.header.end() {
        return Ok(None);
    }
    let mut bytes = vec![0; header.length as usize];
    segment.file.read_at(&mut bytes, segment.offset(first))?;
    let is_sound = crc32c::crc32c(&bytes) == header.records_crc;
    let skipped = usize::try_from(position.since(first)).expect("inside the batch");
    Ok(is_sound.then(|| bytes.split_off(skipped)))
}
