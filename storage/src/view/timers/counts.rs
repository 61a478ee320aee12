//! How many timers are pending: by topic, and by where their bodies lie.

use std::collections::BTreeMap;
use std::ops::Range;

use base::{LogPosition, TopicId};
use hashbrown::HashMap;

use super::row::Row;

/// Positions are counted by the MiB.
const MIB_BITS: u32 = 20;

/// Pending timers of one part or run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub total: u64,
    pub topics: HashMap<TopicId, u64>,
    /// By MiB of the log. Rows of a dropped topic stay in here until they are read: nobody knows where they lie.
    pub mibs: BTreeMap<u32, u32>,
}

fn mib(row: &Row) -> u32 {
    mib_of(row.key.origin())
}

pub fn mib_of(position: LogPosition) -> u32 {
    u32::try_from(position.0 >> MIB_BITS).expect("a log ends at 256 TiB")
}

impl Counts {
    pub fn add(&mut self, row: &Row) {
        self.total += 1;
        *self.topics.entry(row.topic).or_default() += 1;
        *self.mibs.entry(mib(row)).or_default() += 1;
    }

    /// It has ended.
    pub fn remove(&mut self, row: &Row) {
        self.forget(row);
        // Its topic may have been dropped, with all that was counted.
        let Some(count) = self.topics.get_mut(&row.topic) else { return };
        *count -= 1;
        self.total -= 1;
        if *count == 0 {
            self.topics.remove(&row.topic);
        }
    }

    fn forget(&mut self, row: &Row) {
        let count = self.mibs.get_mut(&mib(row)).expect("a timer is counted while it is pending");
        *count -= 1;
        if *count == 0 {
            self.mibs.remove(&mib(row));
        }
    }

    /// Gives how many there were.
    pub fn drop_topic(&mut self, topic: TopicId) -> u64 {
        let count = self.topics.remove(&topic).unwrap_or(0);
        self.total -= count;
        count
    }

    /// Where the first body lies, to the MiB.
    pub fn first(&self) -> Option<LogPosition> {
        self.mibs.first_key_value().map(|(mib, _)| LogPosition(u64::from(*mib) << MIB_BITS))
    }

    /// Adds those of another part.
    pub fn merge(&mut self, other: &Self) {
        self.total += other.total;
        for (topic, count) in &other.topics {
            *self.topics.entry(*topic).or_default() += count;
        }
        for (mib, count) in &other.mibs {
            *self.mibs.entry(*mib).or_default() += count;
        }
    }

    /// Whether a body in these positions, or near them, is waited for.
    pub fn has_any_in(&self, positions: &Range<LogPosition>) -> bool {
        if positions.is_empty() {
            return false;
        }
        let last = mib_of(LogPosition(positions.end.0 - 1));
        self.mibs.range(mib_of(positions.start)..=last).next().is_some()
    }
}
