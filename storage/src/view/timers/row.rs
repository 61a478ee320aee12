//! A pending timer in 32 bytes, as it lies in a run and waits in memory.
//!
//! Byte layout: docs/formats.md, "Timer runs". The key stands in front, big-endian, so that bytes sort as keys do.

use base::{LogPosition, Timestamp, TopicId};

use super::Timer;
use crate::record::{Head, Pointer};

/// Due times and positions have 48 bits each.
const PART_MAX: u64 = (1 << 48) - 1;

/// When a timer is due, and of those due together, which comes first. In three words, because sixteen bytes would make a
/// third more of every key in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Key([u32; 3]);

impl Key {
    pub const BYTES: usize = 12;
    pub const MIN: Self = Self([0; 3]);
    pub const MAX: Self = Self([u32::MAX; 3]);

    /// Due times beyond the year 10,889 are due then.
    pub fn new(due: Timestamp, origin: LogPosition) -> Self {
        assert!(origin.0 <= PART_MAX, "a log ends at 256 TiB");
        let due = due.0.min(PART_MAX);
        Self([low(due >> 16), low(due << 16) | low(origin.0 >> 32), low(origin.0)])
    }

    /// Before everything that is due at this time.
    pub fn at(due: u64) -> Self {
        Self::new(Timestamp(due), LogPosition(0))
    }

    pub fn due(self) -> Timestamp {
        Timestamp(u64::from(self.0[0]) << 16 | u64::from(self.0[1] >> 16))
    }

    pub fn origin(self) -> LogPosition {
        LogPosition(u64::from(self.0[1] & 0xFFFF) << 32 | u64::from(self.0[2]))
    }

    /// The first key behind this one.
    pub fn next(self) -> Self {
        let [first, second, third] = self.0;
        match (second, third) {
            (u32::MAX, u32::MAX) => Self([first.saturating_add(1), 0, 0]),
            (_, u32::MAX) => Self([first, second + 1, 0]),
            _ => Self([first, second, third + 1]),
        }
    }

    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        for (target, word) in out.chunks_exact_mut(4).zip(self.0) {
            target.copy_from_slice(&word.to_be_bytes());
        }
        out
    }

    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self([word(bytes, 0), word(bytes, 4), word(bytes, 8)])
    }
}

fn low(number: u64) -> u32 {
    u32::try_from(number & 0xFFFF_FFFF).expect("masked")
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// A timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub key: Key,
    /// Length in the upper 24 bits, priority below.
    size: u32,
    pub topic: TopicId,
    tag_hash: u32,
    group_hash: [u32; 2],
}

const _: () = assert!(size_of::<Row>() == Row::BYTES);

impl Row {
    pub const BYTES: usize = 32;

    pub fn new(timer: &Timer) -> Self {
        let Timer { due, pointer, head } = timer;
        assert!(pointer.length < 1 << 24, "lengths of records have 24 bits");
        Self {
            key: Key::new(*due, pointer.position),
            size: pointer.length << 8 | u32::from(head.priority),
            topic: head.topic,
            tag_hash: head.tag_hash,
            group_hash: [low(head.group_hash >> 32), low(head.group_hash)],
        }
    }

    pub fn timer(&self) -> Timer {
        let [high, low] = self.group_hash;
        let head = Head {
            topic: self.topic,
            tag_hash: self.tag_hash,
            group_hash: u64::from(high) << 32 | u64::from(low),
            priority: self.size.to_be_bytes()[3],
        };
        let pointer = Pointer { position: self.key.origin(), length: self.size >> 8 };
        Timer { due: self.key.due(), pointer, head }
    }

    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..Key::BYTES].copy_from_slice(&self.key.to_bytes());
        let words = [self.size, self.topic.0, self.tag_hash, self.group_hash[0], self.group_hash[1]];
        for (target, word) in out[Key::BYTES..].chunks_exact_mut(4).zip(words) {
            target.copy_from_slice(&word.to_be_bytes());
        }
        out
    }

    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self {
            key: Key::from_bytes(bytes),
            size: word(bytes, 12),
            topic: TopicId(word(bytes, 16)),
            tag_hash: word(bytes, 20),
            group_hash: [word(bytes, 24), word(bytes, 28)],
        }
    }
}

/// Where a timer is kept: a part in memory or a run, and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub source: u32,
    pub number: u32,
}

/// A timer that was taken out of where it is kept, to wait in the wheel or for a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub row: Row,
    pub place: Place,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_sort_as_times_and_positions_do_and_give_back_the_timer(
            one in (0u64..1 << 48, 0u64..1 << 48), two in (0u64..1 << 48, 0u64..1 << 48),
            length in 0u32..1 << 24, priority: u8, tag_hash: u32, group_hash: u64, topic: u32,
        ) {
            let timer = |(due, origin): (u64, u64)| Timer {
                due: Timestamp(due),
                pointer: Pointer { position: LogPosition(origin), length },
                head: Head { topic: TopicId(topic), tag_hash, group_hash, priority },
            };
            let rows = [one, two].map(|pair| Row::new(&timer(pair)));
            prop_assert_eq!(Row::from_bytes(&rows[0].to_bytes()).timer(), timer(one));
            prop_assert_eq!(rows[0].key.cmp(&rows[1].key), one.cmp(&two));
            prop_assert_eq!(rows[0].to_bytes()[..Key::BYTES].cmp(&rows[1].to_bytes()[..Key::BYTES]), one.cmp(&two));
            let next = rows[0].key.next();
            prop_assert!(next > rows[0].key && (rows[1].key <= rows[0].key || rows[1].key >= next));
        }
    }
}
