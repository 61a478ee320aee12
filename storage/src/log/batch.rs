//! The 64 bytes in front of every batch. Layout: docs/formats.md, "Batch header".
//!
//! A batch is what one request appends: all of it is there, or none. The header's checksum is seeded with its segment's
//! identity, so that neither a message body nor a stale file can imitate a batch.

use base::limits::LOG_BLOCK_BYTES;
use base::{BatchIndex, LogPosition, Term, Timestamp};

pub const HEADER_BYTES: usize = 64;
/// Batches start at multiples of this.
pub const ALIGNMENT: usize = 8;

/// "CBAT", little-endian.
pub const MAGIC: u32 = u32::from_le_bytes(*b"CBAT");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the records.
    pub length: u32,
    /// Bytes between the records and the next batch.
    pub padding: u32,
    pub records: u32,
    /// How far below this batch's block everything is known to be durable, in blocks.
    pub durable_before: u32,
    pub position: LogPosition,
    pub index: BatchIndex,
    pub term: Term,
    pub stored_at: Timestamp,
    pub records_crc: u32,
}

impl Header {
    pub fn encode(&self, seed: u32) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        // Bytes 4 to 8 are flags; none is defined yet.
        out[8..12].copy_from_slice(&self.length.to_le_bytes());
        out[12..16].copy_from_slice(&self.padding.to_le_bytes());
        out[16..20].copy_from_slice(&self.records.to_le_bytes());
        out[20..24].copy_from_slice(&self.durable_before.to_le_bytes());
        out[24..32].copy_from_slice(&self.position.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.index.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.term.0.to_le_bytes());
        out[48..56].copy_from_slice(&self.stored_at.0.to_le_bytes());
        out[56..60].copy_from_slice(&self.records_crc.to_le_bytes());
        let crc = crc32c::crc32c_append(seed, &out[..60]);
        out[60..64].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// None when these bytes are no header of this segment.
    pub fn decode(bytes: &[u8; HEADER_BYTES], seed: u32) -> Option<Self> {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if u32_at(0) != MAGIC || u32_at(60) != crc32c::crc32c_append(seed, &bytes[..60]) {
            return None;
        }
        Some(Self {
            length: u32_at(8),
            padding: u32_at(12),
            records: u32_at(16),
            durable_before: u32_at(20),
            position: LogPosition(u64_at(24)),
            index: BatchIndex(u64_at(32)),
            term: Term(u64_at(40)),
            stored_at: Timestamp(u64_at(48)),
            records_crc: u32_at(56),
        })
    }

    /// Header, records and padding.
    pub fn total(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.length) + u64::from(self.padding)
    }

    /// Everything below was durable when this batch was written.
    pub fn durable(&self) -> LogPosition {
        let block = self.position.0 / LOG_BLOCK_BYTES;
        LogPosition(block.saturating_sub(self.durable_before.into()) * LOG_BLOCK_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_found_only_where_and_as_it_was_written() {
        let header = Header {
            length: 100,
            padding: 4,
            records: 1,
            durable_before: 2,
            position: LogPosition(5 * 4096 + 64),
            index: BatchIndex(9),
            term: Term(3),
            stored_at: Timestamp(77),
            records_crc: 0xABCD,
        };
        let bytes = header.encode(1);
        assert_eq!(Header::decode(&bytes, 1), Some(header));
        assert_eq!(Header::decode(&bytes, 2), None, "another segment's");
        assert_eq!(header.durable(), LogPosition(3 * 4096));
        for bit in 0..HEADER_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&flipped, 1), None, "bit {bit}");
        }
    }
}
