//! The messages of one queue, in order: 32 bytes each. Those of sealed segments lie in index files, the newer ones in memory.
//!
//! Q1. Offsets are dense: the entry after `next - 1` has offset `next`. What damage took leaves lost entries behind.
//! Q2. `visible_since` never falls within a queue, so a time is found by bisection.
//! Q3. What is below `sealed` is in a durable index file that [`Sealed`] knows.
//!
//! Read by subscriptions while the writer appends: a mutex, held for at most `READ_ENTRIES_MAX` entries, because a
//! snapshot per append would cost more than the lock. No file is read under it.

use std::collections::VecDeque;
use std::sync::Arc;

use base::limits::READ_ENTRIES_MAX;
use base::{LogPosition, QueueIndex, QueueOffset, Timestamp, TopicId};
use parking_lot::Mutex;

use crate::index::Sealed;
use crate::record::Pointer;

/// Where a message of a queue lies, and what filters, lanes and ages need to know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub visible_since: Timestamp,
    pub group_hash: u64,
    /// 48 bits of position, 8 of priority, 8 of flags.
    packed: u64,
    length: u32,
    pub tag_hash: u32,
}

/// Bytes of an entry, in memory and in an index file.
pub const ENTRY_BYTES: usize = 32;

const _: () = assert!(size_of::<Entry>() == ENTRY_BYTES);

const FLAG_LOST: u64 = 1;

impl Entry {
    pub fn new(pointer: Pointer, visible_since: Timestamp, group_hash: u64, tag_hash: u32, priority: u8) -> Self {
        assert!(pointer.position.0 < 1 << 48, "a log ends at 256 TiB");
        let packed = pointer.position.0 | u64::from(priority) << 48;
        Self { visible_since, group_hash, packed, length: pointer.length, tag_hash }
    }

    pub fn lost(visible_since: Timestamp) -> Self {
        Self { visible_since, group_hash: 0, packed: FLAG_LOST << 56, length: 0, tag_hash: 0 }
    }

    /// As it lies in an index file.
    pub fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut out = [0; ENTRY_BYTES];
        out[..8].copy_from_slice(&self.visible_since.0.to_le_bytes());
        out[8..16].copy_from_slice(&self.group_hash.to_le_bytes());
        out[16..24].copy_from_slice(&self.packed.to_le_bytes());
        out[24..28].copy_from_slice(&self.length.to_le_bytes());
        out[28..].copy_from_slice(&self.tag_hash.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8; ENTRY_BYTES]) -> Self {
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Self {
            visible_since: Timestamp(u64_at(0)),
            group_hash: u64_at(8),
            packed: u64_at(16),
            length: u32_at(24),
            tag_hash: u32_at(28),
        }
    }

    pub fn pointer(&self) -> Pointer {
        Pointer { position: LogPosition(self.packed & ((1 << 48) - 1)), length: self.length }
    }

    pub fn priority(&self) -> u8 {
        ((self.packed >> 48) & 0xFF) as u8
    }

    /// Its record was damaged on the disk; nothing can be delivered.
    pub fn is_lost(&self) -> bool {
        self.packed >> 56 & FLAG_LOST != 0
    }
}

/// Entries of a queue are kept in chunks, so that growth copies little and a purge frees at once.
const CHUNK: usize = 1024;

/// Entries that are in memory. Most queues of a store with very many have none.
#[derive(Debug)]
struct Unsealed {
    /// Offset of the first entry of the first chunk; at or below `sealed`.
    base: u64,
    full: VecDeque<Vec<Entry>>,
    /// The last chunk.
    tail: Vec<Entry>,
}

#[derive(Debug, Default)]
struct Content {
    /// Offset of the first entry kept.
    first: u64,
    /// Offset of the first entry that is in no index file; below `first` after a purge.
    sealed: u64,
    next: u64,
    /// When the newest entry became visible.
    newest: Timestamp,
    unsealed: Option<Box<Unsealed>>,
}

/// Which queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId {
    pub topic: TopicId,
    pub queue: QueueIndex,
}

/// One queue.
#[derive(Debug)]
pub struct Queue {
    id: QueueId,
    content: Mutex<Content>,
    index: Arc<Sealed>,
}

/// Bounds of a queue at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub first: QueueOffset,
    pub next: QueueOffset,
}

/// What a checkpoint keeps of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    pub first: QueueOffset,
    /// Behind the last entry that is in an index file.
    pub sealed: QueueOffset,
}

impl Queue {
    pub fn new(id: QueueId, index: Arc<Sealed>) -> Self {
        Self { id, content: Mutex::default(), index }
    }

    pub fn id(&self) -> QueueId {
        self.id
    }

    /// Where its older entries are.
    pub(crate) fn index(&self) -> &Sealed {
        &self.index
    }

    pub fn bounds(&self) -> Bounds {
        let content = self.content.lock();
        Bounds { first: QueueOffset(content.first), next: QueueOffset(content.next) }
    }

    /// Appends up to `max` entries from `from` on to `out`; gives the offset of the first one, which is later than `from`
    /// when the queue starts later. Reads index files on the calling thread. What cannot be read now is left out: the
    /// upkeep thread makes a damaged index anew, and rings.
    pub fn read(&self, from: QueueOffset, max: usize, out: &mut Vec<Entry>) -> QueueOffset {
        let max = max.min(READ_ENTRIES_MAX);
        let (start, sealed) = {
            let content = self.content.lock();
            let start = from.0.max(content.first);
            if start >= content.sealed {
                content.read(start, max, out);
                return QueueOffset(start);
            }
            (start, content.sealed)
        };
        let count = usize::try_from(sealed - start).unwrap_or(usize::MAX).min(max);
        if let Err(error) = self.index.read(self.id, QueueOffset(start), count, out) {
            tracing::error!(queue = ?self.id, offset = start, %error, "entries of a queue cannot be read");
        }
        QueueOffset(start)
    }

    pub fn entry(&self, offset: QueueOffset) -> Option<Entry> {
        let bounds = self.bounds();
        if offset < bounds.first || offset >= bounds.next {
            return None;
        }
        let mut found = Vec::with_capacity(1);
        let first = self.read(offset, 1, &mut found);
        found.pop().filter(|_| first == offset)
    }

    /// The first offset that became visible at or after `time`; the next offset when there is none.
    pub fn offset_at(&self, time: Timestamp) -> QueueOffset {
        let Bounds { first, next } = self.bounds();
        let (mut low, mut high) = (first.0, next.0);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.entry(QueueOffset(middle)) {
                Some(entry) if entry.visible_since >= time => high = middle,
                _ => low = middle + 1,
            }
        }
        QueueOffset(low)
    }

    pub fn kept(&self) -> Kept {
        let content = self.content.lock();
        Kept { first: QueueOffset(content.first), sealed: QueueOffset(content.sealed) }
    }

    /// Takes over what a checkpoint kept, before the log is read on.
    pub(crate) fn restore(&self, kept: Kept) {
        let mut content = self.content.lock();
        assert!(content.next == 0, "a queue is restored before it is used");
        content.first = kept.first.0;
        content.sealed = kept.sealed.0;
        content.next = kept.sealed.0;
    }

    /// Entries below `sealed` are in an index file now, and leave memory (Q3).
    pub(crate) fn seal(&self, sealed: QueueOffset) {
        let mut content = self.content.lock();
        assert!(sealed.0 <= content.next, "Q3: {:?} is sealed to {sealed} and ends at {}", self.id, content.next);
        content.sealed = content.sealed.max(sealed.0);
        content.free();
    }

    /// Adds the entry of `offset`. Gives the number of offsets that damage left out before it.
    pub(crate) fn push(&self, offset: QueueOffset, mut entry: Entry) -> u64 {
        let mut content = self.content.lock();
        assert!(offset.0 >= content.next, "Q1: offset {offset} is given twice; the next one is {}", content.next);
        entry.visible_since = entry.visible_since.max(content.newest);
        let missing = content.extend_lost(offset.0, entry.visible_since);
        content.newest = entry.visible_since;
        content.append(entry);
        missing
    }

    /// Marks everything below `next` that is not there as lost. Gives how many offsets that are.
    pub(crate) fn extend_lost(&self, next: QueueOffset) -> u64 {
        let mut content = self.content.lock();
        // A purge that a checkpoint knew may lie behind what is left of the log.
        let (next, newest) = (next.0.max(content.first), content.newest);
        content.extend_lost(next, newest)
    }

    pub(crate) fn purge(&self, below: QueueOffset) {
        let mut content = self.content.lock();
        content.first = content.first.max(below.0);
        content.free();
    }
}

impl Unsealed {
    /// From the entry of `offset` to the end of its chunk.
    fn rest_of_chunk(&self, offset: u64) -> &[Entry] {
        let index = usize::try_from(offset - self.base).expect("entries fit in memory");
        &self.full.get(index / CHUNK).unwrap_or(&self.tail)[index % CHUNK..]
    }

    fn push(&mut self, entry: Entry) {
        if self.tail.len() == CHUNK {
            self.full.push_back(std::mem::take(&mut self.tail));
        }
        if self.tail.len() == self.tail.capacity() {
            // From one on: a million queues may have one entry each.
            self.tail.reserve_exact(self.tail.len().max(1));
        }
        self.tail.push(entry);
    }
}

impl Content {
    fn read(&self, start: u64, max: usize, out: &mut Vec<Entry>) {
        let Some(unsealed) = &self.unsealed else { return };
        let mut left = max;
        let mut offset = start;
        while left > 0 && offset < self.next {
            let rest = unsealed.rest_of_chunk(offset);
            let taken = &rest[..rest.len().min(left)];
            out.extend_from_slice(taken);
            left -= taken.len();
            offset += taken.len() as u64;
        }
    }

    fn append(&mut self, entry: Entry) {
        let begin = || Box::new(Unsealed { base: self.next, full: VecDeque::new(), tail: Vec::new() });
        self.unsealed.get_or_insert_with(begin).push(entry);
        self.next += 1;
    }

    fn extend_lost(&mut self, next: u64, visible_since: Timestamp) -> u64 {
        let missing = next.saturating_sub(self.next);
        for _ in 0..missing {
            self.append(Entry::lost(visible_since));
        }
        missing
    }

    /// Frees chunks that hold only what was purged or sealed.
    fn free(&mut self) {
        let needed = self.first.max(self.sealed);
        if needed >= self.next {
            self.unsealed = None;
        }
        let Some(unsealed) = &mut self.unsealed else { return };
        while unsealed.base + CHUNK as u64 <= needed && unsealed.full.pop_front().is_some() {
            unsealed.base += CHUNK as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(position: u64, visible_since: u64) -> Entry {
        let pointer = Pointer { position: LogPosition(position), length: 10 };
        Entry::new(pointer, Timestamp(visible_since), 5, 6, 7)
    }

    fn queue() -> Queue {
        Queue::new(QueueId { topic: TopicId(0), queue: QueueIndex(0) }, Arc::new(Sealed::nowhere()))
    }

    #[test]
    fn entries_come_back_in_order_over_chunks_and_after_a_purge() {
        let queue = queue();
        for offset in 0..3000 {
            assert_eq!(queue.push(QueueOffset(offset), entry(offset, offset)), 0);
        }
        let mut out = Vec::new();
        assert_eq!(queue.read(QueueOffset(1000), 100, &mut out), QueueOffset(1000));
        assert_eq!(out.iter().map(|e| e.pointer().position.0).collect::<Vec<_>>(), (1000..1100).collect::<Vec<_>>());
        queue.purge(QueueOffset(2500));
        out.clear();
        assert_eq!(queue.read(QueueOffset(0), 10_000, &mut out), QueueOffset(2500));
        assert_eq!(out.len(), 500);
        assert_eq!(queue.entry(QueueOffset(2499)), None);
        assert_eq!(queue.entry(QueueOffset(2999)).map(|e| (e.priority(), e.is_lost())), Some((7, false)));
        assert_eq!(queue.offset_at(Timestamp(2700)), QueueOffset(2700));
        assert_eq!(queue.offset_at(Timestamp(9999)), QueueOffset(3000));
    }

    #[test]
    fn offsets_that_damage_took_are_lost_entries() {
        let queue = queue();
        queue.push(QueueOffset(0), entry(1, 1));
        assert_eq!(queue.push(QueueOffset(3), entry(2, 2)), 2);
        let lost: Vec<_> = (0..4).map(|o| queue.entry(QueueOffset(o)).is_some_and(|e| e.is_lost())).collect();
        assert_eq!(lost, [false, true, true, false]);
    }
}
