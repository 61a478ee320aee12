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

use base::duration::ms;
use base::{LogPosition, QueueIndex, QueueOffset, Timestamp, TopicId};
use smallvec::SmallVec;

use super::{Owners, Upkeep, at_timers};
use crate::checkpoint::{CheckpointError, Pair};
use crate::index::{self, SegmentIndex};
use crate::log::segment::{self, Segment};
use crate::log::thin;
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

impl Policy {
    /// How long messages of a topic are kept.
    pub fn time_of(&self, topic: &TopicSpec) -> Duration {
        topic.retention.unwrap_or(match topic.kind {
            TopicKind::DeadLetter | TopicKind::Retry => self.dead_letters,
            _ => self.time,
        })
    }
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
        let Some(below) = self.behind_checkpoints() else { return Ok(done) };
        let all = self.segments.load_full();
        let last = all.len().saturating_sub(1);
        let mut bytes: u64 = all.iter().map(|segment| segment.bytes()).sum();
        let limits = self.topic_limits(policy);
        for segment in all[..last].iter().filter(|segment| segment.header.end() <= below) {
            let Some(index) = self.views.index.find(segment.header.base) else { continue };
            let is_over = policy.is_size_first && policy.bytes.is_some_and(|max| bytes > max);
            let asked = Asked { policy, now, is_over, limits: &limits };
            match self.want(owners, segment, &index, &asked)? {
                Want::Messages => continue,
                Want::Held => {
                    done.held_bytes += segment.bytes();
                    continue;
                }
                Want::Nothing => {}
            }
            tracing::debug!(segment = segment.header.base.0, "a segment is about to expire");
            self.expire(owners, segment, &index, &|_| true, &asked)?;
            // R1.
            if self.want(owners, segment, &index, &asked)? != Want::Nothing {
                continue;
            }
            self.let_go(segment);
            bytes -= segment.bytes();
            done.dropped += 1;
            let of_reason = if is_over { &mut done.bytes_by_size } else { &mut done.bytes_by_time };
            *of_reason += segment.bytes();
        }
        Ok(done)
    }

    /// For topics with a limit of size: the oldest segment whose messages are within it.
    pub(super) fn topic_limits(&self, policy: &Policy) -> BTreeMap<TopicId, LogPosition> {
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
        let range = segment.header.base..segment.header.end();
        // What is prepared may come to wait for its time, and what waits becomes visible: looked for in this order, nothing
        // gets past.
        let is_prepared = self.views.transactions.lock().is_any_in(&range);
        let is_held = is_prepared || is_any_waiting_in(owners, range.clone())?;
        let catalog = self.views.catalog.load();
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
        Ok(if is_held { Want::Held } else { Want::Nothing })
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
        let mut found: BTreeMap<TopicId, Timestamp> = BTreeMap::new();
        self.each_pointing_into(range, &mut |_, topic, newest| {
            let known = found.entry(topic).or_default();
            *known = newest.max(*known);
        })?;
        Ok(found)
    }

    /// Calls `visit` with each stretch of the segment `range` of which bodies became visible later on, in which topic, and when
    /// the newest did.
    pub(super) fn each_pointing_into(
        &self,
        range: &Range<LogPosition>,
        visit: &mut dyn FnMut(u64, TopicId, Timestamp),
    ) -> Result<(), TableError> {
        self.views.index.references(range, visit)?;
        self.views.references.lock().into_range(range, visit);
        Ok(())
    }

    /// Ends what is visible of a segment, by records of the log: messages of `topics`, and what later segments made visible
    /// of it and is too old.
    pub(super) fn expire(
        &self,
        owners: &mut dyn Owners,
        segment: &Segment,
        index: &SegmentIndex,
        topics: &dyn Fn(TopicId) -> bool,
        asked: &Asked<'_>,
    ) -> Result<(), RetentionError> {
        let catalog = self.views.catalog.load_full();
        let mut below: BTreeMap<(TopicId, QueueIndex), QueueOffset> = BTreeMap::new();
        index.queues(&mut |id, stretch| {
            if topics(id.topic) {
                below.insert((id.topic, id.queue), stretch.end());
            }
        })?;
        let range = segment.header.base..segment.header.end();
        for topic in self.pointing_into(&range)?.into_keys() {
            let Some(topic) = catalog.topic_by_id(topic) else { continue };
            // The first instant that is within the retention, as `is_wanted` has it.
            let oldest = Timestamp(asked.now.0.saturating_sub(ms(asked.policy.time_of(&topic.spec))) + 1);
            for queue in &topic.queues {
                let end = below.entry((topic.spec.id, queue.id().queue)).or_default();
                *end = queue.offset_at(oldest).max(*end);
            }
        }
        self.append_expiry(owners, below)
    }

    fn append_expiry(
        &self,
        owners: &mut dyn Owners,
        below: BTreeMap<(TopicId, QueueIndex), QueueOffset>,
    ) -> Result<(), RetentionError> {
        let catalog = self.views.catalog.load_full();
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
            tracing::debug!(segment = base.0, "the files of an expired segment are being removed");
            // The index first: without its segment it would be taken for a stray one for ever.
            Pair::remove(&*self.disk, &index::name(base));
            Pair::remove(&*self.disk, &thin::name(base));
            Pair::remove(&*self.disk, &segment::name(base));
            self.leaving.remove(&base);
            tracing::debug!(segment = base.0, "the files of an expired segment were removed");
        }
    }
}

/// Whether any body in `range` waits for its time.
fn is_any_waiting_in(owners: &mut dyn Owners, range: Range<LogPosition>) -> Result<bool, CheckpointError> {
    // What the writer has applied, the timers know afterwards.
    owners.standing()?;
    Ok(at_timers(owners, move |core| core.timers().has_pending_in(&range)))
}

/// What is asked about segments.
pub(super) struct Asked<'a> {
    pub policy: &'a Policy,
    pub now: Timestamp,
    /// The log takes more than it may.
    pub is_over: bool,
    pub limits: &'a BTreeMap<TopicId, LogPosition>,
}

impl Asked<'_> {
    /// Whether messages of a topic are, of which the newest became visible at `newest` and lies in the segment at `base`.
    pub fn is_wanted(&self, catalog: &Catalog, topic: TopicId, newest: Timestamp, base: LogPosition) -> bool {
        let Some(topic) = catalog.topic_by_id(topic) else { return false };
        let is_outlier = topic.spec.kind.is_derived();
        let is_too_much = self.is_over || self.limits.get(&topic.spec.id).is_some_and(|within| base < *within);
        let is_young = newest.0.saturating_add(ms(self.policy.time_of(&topic.spec))) > self.now.0;
        is_young && (is_outlier || !is_too_much)
    }
}
