//! Which older bodies became visible lately, and where: what sealed segments say in their index files, for those that are
//! not sealed yet. Retention asks, so that no body goes that somebody may still read.

use std::collections::BTreeMap;
use std::ops::Range;

use base::{LogPosition, Timestamp, TopicId};

use crate::index::STRETCH_BYTES;

#[derive(Debug, Clone, Copy)]
struct Newest {
    visible_since: Timestamp,
    /// Where the record lies that made it visible.
    at: LogPosition,
}

#[derive(Debug, Default)]
pub struct References {
    by_stretch: BTreeMap<(u64, TopicId), Newest>,
}

impl References {
    /// The body at `origin` became visible by the record at `at`.
    pub(crate) fn note(&mut self, origin: LogPosition, topic: TopicId, visible_since: Timestamp, at: LogPosition) {
        self.by_stretch.insert((origin.0 / STRETCH_BYTES, topic), Newest { visible_since, at });
    }

    /// What index files below `sealed` say needs no other place.
    pub(crate) fn forget_below(&mut self, sealed: LogPosition) {
        self.by_stretch.retain(|_, newest| newest.at >= sealed);
    }

    /// Stretches of `range` of which bodies became visible, in which topic, and when the newest did.
    pub fn into_range(&self, range: &Range<LogPosition>, visit: &mut dyn FnMut(u64, TopicId, Timestamp)) {
        let from = (range.start.0 / STRETCH_BYTES, TopicId(0));
        let to = (range.end.0.div_ceil(STRETCH_BYTES), TopicId(0));
        for ((stretch, topic), newest) in self.by_stretch.range(from..to) {
            visit(*stretch, *topic, newest.visible_since);
        }
    }
}
