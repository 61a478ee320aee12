//! What a store has on its disk, by number.

use base::{LogPosition, Timestamp, TopicId};
use hashbrown::HashMap;

use super::Upkeep;

/// Files of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Files {
    pub count: u64,
    pub bytes: u64,
}

/// What a store holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings {
    /// The oldest position that is there.
    pub first: Option<LogPosition>,
    /// The segment that is written to.
    pub active: Files,
    pub sealed: Files,
    pub indexes: Files,
    /// When the newest checkpoint was taken.
    pub checkpoint_at: Option<Timestamp>,
    /// When the oldest message of the sealed segments was stored.
    pub oldest: Option<Timestamp>,
    /// Bytes of each topic's messages in sealed segments.
    pub topics: HashMap<TopicId, u64>,
}

impl Upkeep {
    /// Walks what is known of segments, in memory: for once in a while, not for each scrape.
    pub fn holdings(&self) -> Holdings {
        let mut held = Holdings { checkpoint_at: self.newest().map(|newest| newest.taken_at), ..Holdings::default() };
        let segments = self.segments.load();
        held.first = segments.first().map(|segment| segment.first());
        let last = segments.len().saturating_sub(1);
        for (number, segment) in segments.iter().enumerate() {
            let files = if number == last { &mut held.active } else { &mut held.sealed };
            files.count += 1;
            files.bytes += segment.bytes();
        }
        for index in self.views.index.indexes().iter() {
            held.indexes.count += 1;
            held.indexes.bytes += index.bytes();
            let summary = index.summary();
            if summary.records > 0 {
                held.oldest = held.oldest.into_iter().chain([summary.oldest]).min();
            }
            for (topic, share) in index.topics() {
                *held.topics.entry(*topic).or_default() += share.bytes;
            }
        }
        held
    }

    /// Changes whenever [`Upkeep::holdings`] may.
    pub fn holdings_version(&self) -> (u64, usize, usize) {
        let newest = self.newest().map_or(0, |newest| newest.number);
        (newest, self.segments.load().len(), self.views.index.indexes().len())
    }
}
