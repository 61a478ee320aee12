//! A group under construction: the batches that one write and one sync will carry.
//!
//! Records are encoded relative to the group's start; where the group lies is decided when it is complete, and only then
//! are the batch headers filled in. So nothing in a group may refer to the position of anything in the same group.

use base::limits::LOG_BLOCK_BYTES;
use base::{BatchIndex, LogPosition, Term, Timestamp};

use super::batch::{ALIGNMENT, HEADER_BYTES, Header};

#[derive(Debug, Default)]
pub struct Group {
    bytes: Vec<u8>,
    batches: Vec<Open>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    start: usize,
    records: u32,
    /// End of its records; 0 while it is open.
    end: usize,
}

/// What every batch of a group has in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub start: LogPosition,
    pub durable: LogPosition,
    pub first_index: BatchIndex,
    pub term: Term,
    pub stored_at: Timestamp,
    pub seed: u32,
}

impl Group {
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), batches: Vec::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn batches(&self) -> usize {
        self.batches.len()
    }

    /// Starts a batch. Records follow by [`Group::record`].
    pub fn open(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        self.batches.push(Open { start: self.bytes.len(), records: 0, end: 0 });
        self.bytes.resize(self.bytes.len() + HEADER_BYTES, 0);
    }

    /// Lets `encode` append one record to the open batch; gives the record's offset in the group.
    pub fn record(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> u64 {
        let batch = self.batches.last_mut().expect("a batch is open");
        assert_eq!(batch.end, 0, "records belong to the open batch");
        let at = self.bytes.len();
        encode(&mut self.bytes);
        batch.records += 1;
        at as u64
    }

    pub fn close(&mut self) {
        let end = self.bytes.len();
        let batch = self.batches.last_mut().expect("a batch is open");
        assert!(batch.records > 0, "a batch holds at least one record");
        batch.end = end;
    }

    /// Takes the open batch back, as if it had never been.
    pub fn cancel(&mut self) {
        let batch = self.batches.pop().expect("a batch is open");
        self.bytes.truncate(batch.start);
    }

    /// Bytes once padded to whole blocks.
    pub fn padded(&self) -> u64 {
        (self.bytes.len() as u64).next_multiple_of(LOG_BLOCK_BYTES)
    }

    /// Pads, fills in every header, and gives the bytes to write.
    pub(super) fn seal(mut self, place: Place) -> Vec<u8> {
        let total = usize::try_from(self.padded()).expect("groups are small");
        self.bytes.resize(total, 0);
        for number in 0..self.batches.len() {
            let Open { start, records, end } = self.batches[number];
            assert!(end > start, "every batch is closed before its group is sealed");
            let next = self.batches.get(number + 1).map_or(total, |next| next.start);
            let body = start + HEADER_BYTES..end;
            let position = place.start.plus(start as u64);
            let below = position.0 / LOG_BLOCK_BYTES - place.durable.0 / LOG_BLOCK_BYTES;
            let header = Header {
                length: u32::try_from(body.len()).expect("batches are bounded"),
                padding: u32::try_from(next - end).expect("padding is below a block"),
                records,
                durable_before: u32::try_from(below).unwrap_or(u32::MAX),
                position,
                index: BatchIndex(place.first_index.0 + number as u64),
                term: place.term,
                stored_at: place.stored_at,
                records_crc: crc32c::crc32c(&self.bytes[body]),
            };
            self.bytes[start..start + HEADER_BYTES].copy_from_slice(&header.encode(place.seed));
        }
        self.bytes
    }
}
