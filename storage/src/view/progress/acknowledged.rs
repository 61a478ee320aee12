//! Which offsets of one queue are acknowledged: everything below a floor, and a bit for each above it.
//!
//! B1. The floor is not acknowledged: the first clear offset is always the floor itself.
//! B2. The floor never goes back, except by `seek`.

use std::collections::VecDeque;

use base::QueueOffset;

use crate::codec::{Decoder, Encode, Malformed};

/// Acknowledged offsets. One bit each above the floor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acknowledged {
    floor: u64,
    /// Bit 0 of the first word is offset `base`, a multiple of 64 at or below the floor.
    words: VecDeque<u64>,
    base: u64,
    /// Set bits at or above the floor.
    above: u64,
}

impl Acknowledged {
    pub fn starting_at(floor: QueueOffset) -> Self {
        Self { floor: floor.0, base: floor.0 / 64 * 64, ..Self::default() }
    }

    /// Everything below is acknowledged.
    pub fn floor(&self) -> QueueOffset {
        QueueOffset(self.floor)
    }

    /// Behind the last acknowledged offset.
    pub fn end(&self) -> QueueOffset {
        let last = self.words.iter().rposition(|word| *word != 0);
        let end =
            last.map_or(0, |index| self.base + index as u64 * 64 + 64 - u64::from(self.words[index].leading_zeros()));
        QueueOffset(end.max(self.floor))
    }

    /// How many offsets above the floor are acknowledged.
    pub fn count_above_floor(&self) -> u64 {
        self.above
    }

    pub fn contains(&self, offset: QueueOffset) -> bool {
        if offset.0 < self.floor {
            return true;
        }
        let index = offset.0 - self.base;
        let word = usize::try_from(index / 64).ok().and_then(|index| self.words.get(index));
        word.is_some_and(|word| word & (1 << (index % 64)) != 0)
    }

    /// How many offsets below `end` are not acknowledged.
    pub fn missing_below(&self, end: QueueOffset) -> u64 {
        let mut missing = end.0.saturating_sub(self.floor);
        for (index, word) in self.words.iter().enumerate() {
            let base = self.base + index as u64 * 64;
            let (from, to) = (base.max(self.floor), (base + 64).min(end.0));
            if from < to {
                let mask = (u64::MAX >> (64 - (to - from))) << (from - base);
                missing -= u64::from((word & mask).count_ones());
            }
        }
        missing
    }

    /// Acknowledges `count` offsets from `first` on; those that were so before stay so.
    pub fn insert(&mut self, first: QueueOffset, count: u64) {
        let end = first.0.saturating_add(count);
        let mut offset = first.0.max(self.floor);
        while offset < end {
            let index = offset - self.base;
            let word = usize::try_from(index / 64).expect("windows of unacknowledged offsets fit in memory");
            if self.words.len() <= word {
                self.words.resize(word + 1, 0);
            }
            let in_word = (64 - index % 64).min(end - offset);
            let mask = (u64::MAX >> (64 - in_word)) << (index % 64);
            let added = mask & !self.words[word];
            self.words[word] |= mask;
            self.above += u64::from(added.count_ones());
            offset += in_word;
        }
        self.raise();
    }

    /// Starts anew at `to`.
    pub fn seek(&mut self, to: QueueOffset) {
        *self = Self::starting_at(to);
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.varint(self.floor);
        out.varint(self.words.len() as u64);
        self.words.iter().for_each(|word| out.u64(*word));
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Decoder::new("acknowledged offsets", bytes);
        let mut restored = Self::starting_at(QueueOffset(from.varint()?));
        let count = from.varint()?;
        for _ in 0..count {
            restored.words.push_back(from.u64()?);
        }
        from.end()?;
        let below = restored.floor - restored.base;
        let set: u64 = restored.words.iter().map(|word| u64::from(word.count_ones())).sum();
        let words = restored.words.front().copied().unwrap_or(u64::MAX);
        let in_front = u64::from((words & ((1 << below) - 1)).count_ones());
        // The floor is not acknowledged, and everything below it is.
        if words >> below & 1 != 0 && !restored.words.is_empty() {
            return Err(from.malformed());
        }
        restored.above = set.saturating_sub(if restored.words.is_empty() { 0 } else { in_front });
        Ok(restored)
    }

    fn raise(&mut self) {
        while let Some(&word) = self.words.front() {
            let skipped = self.floor - self.base;
            let run = u64::from((!(word >> skipped)).trailing_zeros()).min(64 - skipped);
            self.floor += run;
            self.above -= run;
            if self.floor - self.base < 64 {
                break;
            }
            self.words.pop_front();
            self.base += 64;
        }
        if self.words.is_empty() {
            self.base = self.floor / 64 * 64;
        }
        assert!(!self.contains(QueueOffset(self.floor)), "B1: the floor {} is acknowledged", self.floor);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set_of_offsets_with_everything_below_its_first_gap(
            start in 0u64..200,
            ranges in proptest::collection::vec((0u64..400, 1u64..90), 0..30),
        ) {
            let mut tested = Acknowledged::starting_at(QueueOffset(start));
            let mut reference: BTreeSet<u64> = (0..start).collect();
            for (first, count) in ranges {
                tested.insert(QueueOffset(first), count);
                reference.extend(first..first + count);
                let floor = (0..).find(|offset| !reference.contains(offset)).expect("the set is finite");
                prop_assert_eq!(tested.floor(), QueueOffset(floor));
                prop_assert_eq!(tested.end().0, reference.last().map_or(0, |last| last + 1));
                let above = reference.iter().filter(|offset| **offset > floor).count() as u64;
                prop_assert_eq!(tested.count_above_floor(), above);
                let end = first + count / 2;
                let missing = (0..end).filter(|offset| !reference.contains(offset)).count() as u64;
                prop_assert_eq!(tested.missing_below(QueueOffset(end)), missing);
                let mut bytes = Vec::new();
                tested.encode(&mut bytes);
                prop_assert_eq!(Acknowledged::decode(&bytes), Ok(tested.clone()));
                for offset in 0..520 {
                    prop_assert_eq!(tested.contains(QueueOffset(offset)), reference.contains(&offset));
                }
            }
        }
    }
}
