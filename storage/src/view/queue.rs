//! The messages of one queue, in order: 32 bytes each.
//!
//! Q1. Offsets are dense: the entry after `next - 1` has offset `next`. What damage took leaves lost entries behind.
//! Q2. `visible_since` never falls within a queue, so a time is found by bisection.
//!
//! Read by subscriptions while the writer appends: a mutex, held for at most `READ_ENTRIES_MAX` entries, because a
//! snapshot per append would cost more than the lock.

use std::collections::VecDeque;

use base::limits::READ_ENTRIES_MAX;
use base::{LogPosition, QueueOffset, Timestamp};
use parking_lot::Mutex;

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

const _: () = assert!(size_of::<Entry>() == 32);

const FLAG_LOST: u64 = 1;

impl Entry {
    pub fn new(pointer: Pointer, visible_since: Timestamp, group_hash: u64, tag_hash: u32, priority: u8) -> Self {
        assert!(pointer.position.0 < 1 << 48, "a log ends at 256 TiB");
        let packed = pointer.position.0 | u64::from(priority) << 48;
        Self { visible_since, group_hash, packed, length: pointer.length, tag_hash }
    }

    fn lost(visible_since: Timestamp) -> Self {
        Self { visible_since, group_hash: 0, packed: FLAG_LOST << 56, length: 0, tag_hash: 0 }
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

#[derive(Debug, Default)]
struct Content {
    /// Offset of the first entry kept.
    first: u64,
    /// Offset of the first entry of the first chunk; at or below `first`.
    base: u64,
    chunks: VecDeque<Vec<Entry>>,
    next: u64,
}

/// One queue.
#[derive(Debug, Default)]
pub struct Queue {
    content: Mutex<Content>,
}

/// Bounds of a queue at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub first: QueueOffset,
    pub next: QueueOffset,
}

impl Queue {
    pub fn bounds(&self) -> Bounds {
        let content = self.content.lock();
        Bounds { first: QueueOffset(content.first), next: QueueOffset(content.next) }
    }

    /// Appends up to `max` entries from `from` on to `out`; gives the offset of the first one, which is later than `from`
    /// when the queue starts later.
    pub fn read(&self, from: QueueOffset, max: usize, out: &mut Vec<Entry>) -> QueueOffset {
        let content = self.content.lock();
        let start = from.0.max(content.first);
        let mut left = max.min(READ_ENTRIES_MAX);
        let mut offset = start;
        while left > 0 && offset < content.next {
            let (chunk, within) = content.locate(offset);
            let rest = &content.chunks[chunk][within..];
            let taken = &rest[..rest.len().min(left)];
            out.extend_from_slice(taken);
            left -= taken.len();
            offset += taken.len() as u64;
        }
        QueueOffset(start)
    }

    pub fn entry(&self, offset: QueueOffset) -> Option<Entry> {
        let content = self.content.lock();
        if offset.0 < content.first || offset.0 >= content.next {
            return None;
        }
        let (chunk, within) = content.locate(offset.0);
        Some(content.chunks[chunk][within])
    }

    /// The first offset that became visible at or after `time`; the next offset when there is none.
    pub fn offset_at(&self, time: Timestamp) -> QueueOffset {
        let content = self.content.lock();
        let (mut low, mut high) = (content.first, content.next);
        while low < high {
            let middle = low + (high - low) / 2;
            let (chunk, within) = content.locate(middle);
            if content.chunks[chunk][within].visible_since < time {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        QueueOffset(low)
    }

    /// Adds the entry of `offset`. Gives the number of offsets that damage left out before it.
    pub(crate) fn push(&self, offset: QueueOffset, mut entry: Entry) -> u64 {
        let mut content = self.content.lock();
        assert!(offset.0 >= content.next, "Q1: offset {offset} is given twice; the next one is {}", content.next);
        let missing = offset.0 - content.next;
        let newest = content.chunks.back().and_then(|chunk| chunk.last()).map(|entry| entry.visible_since);
        entry.visible_since = entry.visible_since.max(newest.unwrap_or_default());
        for _ in 0..missing {
            content.append(Entry::lost(entry.visible_since));
        }
        content.append(entry);
        missing
    }

    /// Marks everything below `next` that is not there as lost. Gives how many offsets that are.
    pub(crate) fn extend_lost(&self, next: QueueOffset) -> u64 {
        let mut content = self.content.lock();
        let missing = next.0.saturating_sub(content.next);
        let newest = content.chunks.back().and_then(|chunk| chunk.last()).map(|entry| entry.visible_since);
        for _ in 0..missing {
            content.append(Entry::lost(newest.unwrap_or_default()));
        }
        missing
    }

    pub(crate) fn purge(&self, below: QueueOffset) {
        let mut content = self.content.lock();
        content.first = below.0.clamp(content.first, content.next);
        while content.base + CHUNK as u64 <= content.first && !content.chunks.is_empty() {
            content.chunks.pop_front();
            content.base += CHUNK as u64;
        }
    }
}

impl Content {
    fn locate(&self, offset: u64) -> (usize, usize) {
        let index = usize::try_from(offset - self.base).expect("entries fit in memory");
        (index / CHUNK, index % CHUNK)
    }

    fn append(&mut self, entry: Entry) {
        match self.chunks.back_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push(entry),
            _ => self.chunks.push_back(vec![entry]),
        }
        self.next += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(position: u64, visible_since: u64) -> Entry {
        let pointer = Pointer { position: LogPosition(position), length: 10 };
        Entry::new(pointer, Timestamp(visible_since), 5, 6, 7)
    }

    #[test]
    fn entries_come_back_in_order_over_chunks_and_after_a_purge() {
        let queue = Queue::default();
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
        let queue = Queue::default();
        queue.push(QueueOffset(0), entry(1, 1));
        assert_eq!(queue.push(QueueOffset(3), entry(2, 2)), 2);
        let lost: Vec<_> = (0..4).map(|o| queue.entry(QueueOffset(o)).is_some_and(|e| e.is_lost())).collect();
        assert_eq!(lost, [false, true, true, false]);
    }
}
