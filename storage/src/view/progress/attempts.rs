//! Attempts used, by message: blocks of neighbouring offsets, because what failed once mostly has neighbours that did.
//!
//! A checkpoint takes blocks that changed without a copy; who changes one later copies it then.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::{LogPosition, QueueIndex, QueueOffset, Timestamp};

use super::{Retry, Slot};
use crate::codec::{Decoder, Encode, Malformed};

/// Offsets of a block.
const BLOCK_OFFSETS: u64 = 1024;

/// Where a block belongs: its first offset divided by the number of offsets in a block.
pub type BlockKey = (QueueIndex, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Attempt {
    next_visible: Timestamp,
    /// Offset within the block.
    within: u16,
    attempts: u16,
}

#[derive(Debug, Clone, Default)]
pub struct Block {
    /// Where the record lies that changed it last.
    changed: LogPosition,
    /// By offset.
    slots: Vec<Attempt>,
}

#[derive(Debug, Clone, Default)]
pub struct Attempts {
    /// A block that has become empty stays until a checkpoint has noted that.
    blocks: BTreeMap<BlockKey, Arc<Block>>,
    count: usize,
}

impl PartialEq for Attempts {
    fn eq(&self, other: &Self) -> bool {
        self.count == other.count && self.iter().eq(other.iter())
    }
}

impl Eq for Attempts {}

fn place((queue, offset): Slot) -> (BlockKey, u16) {
    let within = u16::try_from(offset.0 % BLOCK_OFFSETS).expect("below the size of a block");
    ((queue, offset.0 / BLOCK_OFFSETS), within)
}

impl Attempts {
    pub fn get(&self, slot: Slot) -> Option<Retry> {
        let (key, within) = place(slot);
        let block = self.blocks.get(&key)?;
        let index = block.slots.binary_search_by_key(&within, |attempt| attempt.within).ok()?;
        let found = block.slots[index];
        Some(Retry { attempts: found.attempts.into(), next_visible: found.next_visible })
    }

    pub fn iter(&self) -> impl Iterator<Item = (Slot, Retry)> + '_ {
        self.blocks.iter().flat_map(|(&(queue, number), block)| {
            block.slots.iter().map(move |attempt| {
                let offset = QueueOffset(number * BLOCK_OFFSETS + u64::from(attempt.within));
                ((queue, offset), Retry { attempts: attempt.attempts.into(), next_visible: attempt.next_visible })
            })
        })
    }

    /// The highest offset of a queue that has attempts.
    pub fn last(&self, queue: QueueIndex) -> Option<QueueOffset> {
        let mut blocks = self.blocks.range((queue, 0)..=(queue, u64::MAX)).rev();
        blocks.find_map(|((_, number), block)| {
            block.slots.last().map(|attempt| QueueOffset(number * BLOCK_OFFSETS + u64::from(attempt.within)))
        })
    }

    pub fn insert(&mut self, slot: Slot, retry: Retry, at: LogPosition) {
        let (key, within) = place(slot);
        // Limited by the number of attempts that a group may allow.
        let attempts = u16::try_from(retry.attempts).unwrap_or(u16::MAX);
        let attempt = Attempt { next_visible: retry.next_visible, within, attempts };
        let block = Arc::make_mut(self.blocks.entry(key).or_default());
        block.changed = at;
        match block.slots.binary_search_by_key(&within, |attempt| attempt.within) {
            Ok(index) => block.slots[index] = attempt,
            Err(index) => {
                block.slots.insert(index, attempt);
                self.count += 1;
            }
        }
    }

    pub fn remove(&mut self, slot: Slot, at: LogPosition) {
        let (queue, offset) = slot;
        self.remove_range(queue, offset.0, offset.0.saturating_add(1), at);
    }

    /// Forgets offsets `first..end` of a queue.
    pub fn remove_range(&mut self, queue: QueueIndex, first: u64, end: u64, at: LogPosition) {
        if self.count == 0 || first >= end {
            return;
        }
        let blocks = (queue, first / BLOCK_OFFSETS)..=(queue, (end - 1) / BLOCK_OFFSETS);
        for ((_, number), block) in self.blocks.range_mut(blocks) {
            let base = number * BLOCK_OFFSETS;
            let from = block.slots.partition_point(|attempt| base + u64::from(attempt.within) < first);
            let to = block.slots.partition_point(|attempt| base + u64::from(attempt.within) < end);
            if from < to {
                let block = Arc::make_mut(block);
                block.slots.drain(from..to);
                block.changed = at;
                self.count -= to - from;
            }
        }
    }

    pub fn clear_queue(&mut self, queue: QueueIndex, at: LogPosition) {
        self.remove_range(queue, 0, u64::MAX, at);
    }

    /// Blocks that changed at or after `since`; those that became empty are no longer kept.
    pub fn take_changed(&mut self, since: LogPosition) -> Vec<(BlockKey, Arc<Block>)> {
        let changed: Vec<_> = self.blocks.iter().filter(|(_, block)| block.changed >= since).collect();
        let changed: Vec<_> = changed.into_iter().map(|(key, block)| (*key, block.clone())).collect();
        for (key, block) in &changed {
            if block.slots.is_empty() {
                self.blocks.remove(key);
            }
        }
        changed
    }

    pub fn restore(&mut self, key: BlockKey, block: Block) {
        self.count += block.slots.len();
        self.blocks.insert(key, Arc::new(block));
    }
}

impl Block {
    /// None when nothing is in it.
    pub fn encode(&self) -> Option<Vec<u8>> {
        if self.slots.is_empty() {
            return None;
        }
        let mut out = Vec::with_capacity(self.slots.len() * 10);
        for attempt in &self.slots {
            out.u16(attempt.within);
            out.varint(attempt.attempts.into());
            out.varint(attempt.next_visible.0);
        }
        Some(out)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Decoder::new("block of attempts", bytes);
        let mut slots: Vec<Attempt> = Vec::new();
        while !from.rest().is_empty() {
            let attempt =
                Attempt { within: from.u16()?, attempts: from.number()?, next_visible: Timestamp(from.varint()?) };
            let is_sorted = slots.last().is_none_or(|last| last.within < attempt.within);
            if !is_sorted || u64::from(attempt.within) >= BLOCK_OFFSETS {
                return Err(from.malformed());
            }
            slots.push(attempt);
        }
        Ok(Self { changed: LogPosition(0), slots })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map_whose_changed_blocks_rebuild_it(
            steps in proptest::collection::vec((0u16..3, 0u64..5000, 0u64..1500, 0u8..4), 0..200),
        ) {
            let mut tested = Attempts::default();
            let mut reference: BTreeMap<Slot, Retry> = BTreeMap::new();
            let mut stored: BTreeMap<BlockKey, Vec<u8>> = BTreeMap::new();
            let mut since = LogPosition(0);
            for (number, (queue, offset, length, what)) in steps.into_iter().enumerate() {
                let at = LogPosition(number as u64);
                let slot = (QueueIndex(queue), QueueOffset(offset));
                match what {
                    0..=1 => {
                        let retry = Retry { attempts: length as u32 % 900, next_visible: Timestamp(offset) };
                        tested.insert(slot, retry, at);
                        reference.insert(slot, retry);
                    }
                    2 => {
                        tested.remove_range(slot.0, offset, offset + length, at);
                        reference.retain(|(of, at), _| *of != slot.0 || !(offset..offset + length).contains(&at.0));
                    }
                    _ => {
                        for (key, block) in tested.take_changed(since) {
                            match block.encode() {
                                Some(bytes) => drop(stored.insert(key, bytes)),
                                None => drop(stored.remove(&key)),
                            }
                        }
                        since = at.plus(1);
                        let mut restored = Attempts::default();
                        for (key, bytes) in &stored {
                            restored.restore(*key, Block::decode(bytes).expect("just encoded"));
                        }
                        prop_assert_eq!(&restored, &tested);
                    }
                }
                prop_assert_eq!(tested.count, reference.len());
                prop_assert_eq!(tested.get(slot), reference.get(&slot).copied());
                let last = reference.range(..=(slot.0, QueueOffset(u64::MAX))).next_back();
                prop_assert_eq!(tested.last(slot.0), last.map(|(slot, _)| *slot).filter(|last| last.0 == slot.0).map(|last| last.1));
            }
            prop_assert!(tested.iter().eq(reference.iter().map(|(slot, retry)| (*slot, *retry))));
        }
    }
}
