//! Retention: segments in which nobody wants anything any more go.
//!
//! Wanted is what is visible within its topic's retention, counted from when it became visible; what waits for its time or
//! for the end of its transaction; and dead letters within theirs. What a group had not read is counted when it goes.
//!
//! R1. Before a segment goes, everything in it has expired by a record in the log, and only then it is asked once more
//!     whether anything in it is wanted: from then on nothing can become so.
//! R2. Its files go when no kept checkpoint names it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use base::{LogPosition, QueueIndex, QueueOffset, Timestamp, TopicId};
use smallvec::SmallVec;

use super::{Owners, Upkeep};
use crate::checkpoint::{CheckpointError, Pair};
use crate::index::{self, SegmentIndex};
use crate::log::segment::{self, Segment};
use crate::record::Fact;
use crate::request::{Change, Request};
use crate::table::TableError;
use crate::view::catalog::{Catalog, TopicKind, TopicSpec};

/// How long messages are kept, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// For topics that say nothing themselves.
    pub time: Duration,
    pub dead_letters: Duration,
    /// The most that the log may take.
    pub bytes: Option<u64>,
    /// Whether limits of size also take what is younger than the time.
    pub is_size_first: bool,
}

impl Default for Policy {
    fn default() -> Self {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        Self { time: hours(72), dead_letters: hours(14 * 24), bytes: None, is_size_first: false }
    }
}

/// Why a segment goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Time,
    Size,
}

/// Retention cannot go on; another try may succeed.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    #[error(transparent)]
    Table(#[from] TableError),
    #[error(transparent)]
    Owners(#[from] CheckpointError),
}

/// What a pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retained {
    pub dropped: u64,
    pub bytes_by_time: u64,
    pub bytes_by_size: u64,
    /// Bytes of segments that are past retention and held by what waits in them.
    pub held_bytes: u64,
}

/// What of a segment somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    Nothing,
    /// Something waits in it.
    Held,
    Messages,
}

impl Upkeep {
    /// Lets segments go that nobody wants, oldest first.
    pub fn retain(
        &mut self,
        owners: &mut dyn Owners,
        policy: &Policy,
        now: Timestamp,
    ) -> Result<Retained, RetentionError> {
        let mut done = Retained::default();
        // U2: with two checkpoints behind it, a segment is needed by neither for what it says.
        let [older, newer] = self.kept.as_slice() else { return Ok(done) };
        let below = older.replay_from.min(newer.replay_from);
        let all = self.segments.load_full();
        let last = all.len().saturating_sub(1);
        let mut bytes: u64 = all.iter().map(|segment| segment.header.size).sum();
        let limits = self.topic_limits(policy);
        for segment in all[..last].iter().filter(|segment| segment.header.end() <= below) {
            let Some(index) = self.views.index.find(segment.header.base) else { continue };
            let is_over = policy.is_size_first && policy.bytes.is_some_and(|max| bytes > max);
            let asked = Asked { policy, now, is_over, limits: &limits };
            match self.want(owners, segment, &index, &asked)? {
                Want::Messages => continue,
                Want::Held => {
                    done.held_bytes += segment.header.size;
                    continue;
                }
                Want::Nothing => {}
            }
            self.expire(owners, segment, &index, &asked)?;
            // R1.
            if self.want(owners, segment, &index, &asked)? != Want::Nothing {
                continue;
            }
            self.let_go(segment);
            bytes -= segment.header.size;
            done.dropped += 1;
            let of_reason = if is_over { &mut done.bytes_by_size } else { &mut done.bytes_by_time };
            *of_reason += segment.header.size;
        }
        Ok(done)
    }

    /// For topics with a limit of size: the oldest segment whose messages are within it.
    fn topic_limits(&self, policy: &Policy) -> BTreeMap<TopicId, LogPosition> {
        let mut limits = BTreeMap::new();
        if !policy.is_size_first {
            return limits;
        }
        let catalog = self.views.catalog.load();
        for topic in catalog.topics() {
            let Some(max) = topic.spec.retention_bytes else { continue };
            let mut bytes = 0;
            let indexes = self.views.index.indexes();
            for index in indexes.iter().rev() {
                bytes += index.share(topic.spec.id).map_or(0, |share| share.bytes);
                if bytes > max {
                    limits.insert(topic.spec.id, index.summary().base.plus(1));
                    break;
                }
            }
        }
        limits
    }

    fn want(
        &self,
        owners: &mut dyn Owners,
        segment: &Segment,
        index: &SegmentIndex,
        asked: &Asked<'_>,
    ) -> Result<Want, RetentionError> {
        let catalog = self.views.catalog.load();
        let range = segment.header.base..segment.header.end();
        for (topic, share) in index.topics() {
            let is_there = share.messages > 0 && !self.is_purged(&catalog, *topic, index)?;
            if is_there && asked.is_wanted(&catalog, *topic, share.newest, range.start) {
                return Ok(Want::Messages);
            }
        }
        for (topic, newest) in self.pointing_into(&range)? {
            if asked.is_wanted(&catalog, topic, newest, range.start) {
                return Ok(Want::Messages);
            }
        }
        if self.views.transactions.lock().is_any_in(&range) || owners.is_any_waiting_in(&range)? {
            return Ok(Want::Held);
        }
        Ok(Want::Nothing)
    }

    /// Whether none of a topic's queues has anything left in a segment.
    fn is_purged(&self, catalog: &Catalog, topic: TopicId, index: &SegmentIndex) -> Result<bool, TableError> {
        let Some(topic) = catalog.topic_by_id(topic) else { return Ok(true) };
        for queue in &topic.queues {
            let stretch = index.stretch(queue.id())?;
            if stretch.is_some_and(|stretch| queue.bounds().first < stretch.end()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Topics in which bodies of `range` became visible later on, and when the newest did.
    fn pointing_into(&self, range: &Range<LogPosition>) -> Result<BTreeMap<TopicId, Timestamp>, TableError> {
        let mut found = self.views.index.references(range)?;
        self.views.references.lock().into_range(range, &mut |topic, newest| {
            let known = found.entry(topic).or_default();
            *known = newest.max(*known);
        });
        Ok(found)
    }

    /// Ends what is visible of a segment, by records of the log.
    fn expire(
        &self,
        owners: &mut dyn Owners,
        segment: &Segment,
        index: &SegmentIndex,
        asked: &Asked<'_>,
    ) -> Result<(), RetentionError> {
        let catalog = self.views.catalog.load_full();
        let mut below: BTreeMap<(TopicId, QueueIndex), QueueOffset> = BTreeMap::new();
        index.queues(&mut |id, stretch| {
            below.insert((id.topic, id.queue), stretch.end());
        })?;
        // Elsewhere only what is too old itself.
        let range = segment.header.base..segment.header.end();
        for topic in self.pointing_into(&range)?.into_keys() {
            let Some(topic) = catalog.topic_by_id(topic) else { continue };
            let oldest = Timestamp(asked.now.0.saturating_sub(millis(asked.retention(&topic.spec))));
            for queue in &topic.queues {
                let end = below.entry((topic.spec.id, queue.id().queue)).or_default();
                *end = queue.offset_at(oldest).max(*end);
            }
        }
        let mut changes: SmallVec<[Change; 1]> = SmallVec::new();
        for ((topic, number), below) in below {
            let queue = catalog.topic_by_id(topic).and_then(|found| found.queue(number));
            let Some(queue) = queue.filter(|queue| queue.bounds().first < below) else { continue };
            changes.push(Change::Fact(Fact::Expire { topic, queue: queue.id().queue, below }));
            if changes.len() == base::limits::BACKGROUND_RECORDS_MAX {
                owners.append(Request::Changes(std::mem::take(&mut changes)))?;
            }
        }
        if !changes.is_empty() {
            owners.append(Request::Changes(changes))?;
        }
        Ok(())
    }

    /// Nobody reads it any more. Its files stay until no kept checkpoint names it.
    fn let_go(&mut self, segment: &Arc<Segment>) {
        let base = segment.header.base;
        self.segments.rcu(|all| {
            let left = all.iter().filter(|segment| segment.header.base != base);
            left.cloned().collect::<Vec<_>>()
        });
        self.views.index.remove(base);
        self.leaving.insert(base);
        // What was damaged in it, nobody misses any more.
        self.holes.retain(|hole| hole.end <= base || hole.start >= segment.header.end());
        tracing::info!(segment = segment::name(base), bytes = segment.header.size, "a segment has expired");
    }

    /// Removes the files of segments that no kept checkpoint names (R2).
    pub(super) fn remove_left(&mut self) {
        let is_named =
            |base: &LogPosition| self.kept.iter().any(|kept| kept.segments.iter().any(|header| header.base == *base));
        let gone: Vec<LogPosition> = self.leaving.iter().filter(|base| !is_named(base)).copied().collect();
        for base in gone {
            // The index first: without its segment it would be taken for a stray one for ever.
            Pair::remove(&*self.disk, &index::name(base));
            Pair::remove(&*self.disk, &segment::name(base));
            self.leaving.remove(&base);
        }
    }
}

/// What is asked about segments.
struct Asked<'a> {
    policy: &'a Policy,
    now: Timestamp,
    /// The log takes more than it may.
    is_over: bool,
    limits: &'a BTreeMap<TopicId, LogPosition>,
}

impl Asked<'_> {
    fn retention(&self, topic: &TopicSpec) -> Duration {
        topic.retention.unwrap_or(match topic.kind {
            TopicKind::DeadLetter | TopicKind::Retry => self.policy.dead_letters,
            _ => self.policy.time,
        })
    }

    /// Whether messages of a topic are, of which the newest became visible at `newest` and lies in the segment at `base`.
    fn is_wanted(&self, catalog: &Catalog, topic: TopicId, newest: Timestamp, base: LogPosition) -> bool {
        let Some(topic) = catalog.topic_by_id(topic) else { return false };
        let is_outlier = matches!(topic.spec.kind, TopicKind::DeadLetter | TopicKind::Retry);
        let is_too_much = self.is_over || self.limits.get(&topic.spec.id).is_some_and(|within| base < *within);
        let is_young = newest.0.saturating_add(millis(self.retention(&topic.spec))) > self.now.0;
        is_young && (is_outlier || !is_too_much)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
